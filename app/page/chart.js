// How sure the answer is at each resolution that was tried: a line, a dot for each, hollow where the class is another.

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, MARGIN] = [400, 92, 10];

export function chart(svg, exhibits, current, [least, most]) {
  const x = (size) => MARGIN + ((size - least) / Math.max(1, most - least)) * (WIDTH - 2 * MARGIN);
  const y = (score) => HEIGHT - MARGIN - score * (HEIGHT - 2 * MARGIN);
  svg.replaceChildren(
    ...[0, 0.5, 1].map((score) => make("line", { class: "rule", x1: MARGIN, x2: WIDTH - MARGIN, y1: y(score), y2: y(score) })),
    ...[0.5, 1].map((score) => make("text", { x: WIDTH - MARGIN, y: y(score) - 3, "text-anchor": "end" }, `${100 * score}%`)),
    make("line", { class: "now", x1: x(current), x2: x(current), y1: 2, y2: HEIGHT - 2 }),
  );
  exhibits.forEach(({ shown }, i) => {
    const tried = [...shown.scores].sort(([a], [b]) => a - b);
    const points = tried.map(([size, { score }]) => `${x(size)},${y(score)}`).join(" ");
    svg.append(make("polyline", { class: `line of-${i}`, points }));
    for (const [size, { label, score }] of tried) {
      const same = label === shown.reference ? "same" : "other";
      const dot = make("circle", { class: `dot of-${i} ${same}`, cx: x(size), cy: y(score), r: size === current ? 5 : 3.5 });
      dot.append(make("title", {}, `${size} px: ${label}, ${(100 * score).toFixed(1)}%`));
      svg.append(dot);
    }
  });
}

function make(name, attributes, text = "") {
  const element = document.createElementNS(NS, name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.textContent = text;
  return element;
}

// Plot the best class's probability over the resolution. A dot is hollow if the best class differs from the first answer.

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, MARGIN] = [400, 92, 10];

export function chart(svg, images, current, [min, max]) {
  const x = (size) => MARGIN + ((size - min) / Math.max(1, max - min)) * (WIDTH - 2 * MARGIN);
  const y = (score) => HEIGHT - MARGIN - score * (HEIGHT - 2 * MARGIN);
  svg.replaceChildren(
    ...[0, 0.5, 1].map((score) => make("line", { class: "rule", x1: MARGIN, x2: WIDTH - MARGIN, y1: y(score), y2: y(score) })),
    ...[0.5, 1].map((score) => make("text", { x: WIDTH - MARGIN, y: y(score) - 3, "text-anchor": "end" }, `${100 * score}%`)),
    make("line", { class: "now", x1: x(current), x2: x(current), y1: 2, y2: HEIGHT - 2 }),
  );
  images.forEach(({ scores, reference }, i) => {
    const points = [...scores].sort(([a], [b]) => a - b);
    const line = points.map(([size, { score }]) => `${x(size)},${y(score)}`).join(" ");
    svg.append(make("polyline", { class: `line of-${i}`, points: line }));
    for (const [size, { label, score }] of points) {
      const same = label === reference ? "same" : "other";
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

// Plot the best class's probability over the resolution. A dot is hollow if the best class differs from the first answer.

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [400, 128];
const [LEFT, RIGHT, TOP, BOTTOM] = [40, 12, 10, 34];

export function chart(svg, images, current, [min, max]) {
  const x = (size) => LEFT + ((size - min) / Math.max(1, max - min)) * (WIDTH - LEFT - RIGHT);
  const y = (score) => HEIGHT - BOTTOM - score * (HEIGHT - TOP - BOTTOM);
  const ticks = [min, Math.round((min + max) / 2), max];
  svg.replaceChildren(
    ...[0, 0.5, 1].map((score) => make("line", { class: "rule", x1: LEFT, x2: WIDTH - RIGHT, y1: y(score), y2: y(score) })),
    ...[0, 0.5, 1].map((score) => make("text", { x: LEFT - 6, y: y(score) + 3, "text-anchor": "end" }, `${100 * score}%`)),
    ...ticks.map((size) => make("text", { x: x(size), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, String(size))),
    make("text", { class: "axis", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "side in pixels"),
    make("line", { class: "now", x1: x(current), x2: x(current), y1: TOP, y2: HEIGHT - BOTTOM }),
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

// The same numbers as a table, for who does not see the chart.
export function chartTable(table, images) {
  const sizes = [...new Set(images.flatMap(({ scores }) => [...scores.keys()]))].sort((a, b) => a - b);
  const head = row("th", ["Pixels", ...images.map(({ title }) => title)]);
  const rows = sizes.map((size) => row("td", [size, ...images.map(({ scores }) => (scores.has(size) ? `${scores.get(size).label}, ${(100 * scores.get(size).score).toFixed(1)}%` : "–"))]));
  table.replaceChildren(head, ...rows);
}

function row(kind, values) {
  const element = document.createElement("tr");
  for (const value of values) element.appendChild(document.createElement(kind)).textContent = value;
  return element;
}

function make(name, attributes, text = "") {
  const element = document.createElementNS(NS, name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.textContent = text;
  return element;
}

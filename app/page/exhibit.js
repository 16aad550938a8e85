// One picture on show: what the network is given, what it looks at, what it answers.

import { ask, Problem } from "./api.js";
import { draw, heatMap } from "./draw.js";

const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 2 : 1)}%`;

export class Exhibit {
  constructor(shown, letter = "") {
    this.shown = shown; // {file, name, scores}
    this.letter = letter;
    this.element = document.getElementById("exhibit").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector("canvas");
    this.caption = this.element.querySelector("figcaption");
    this.bars = this.element.querySelector(".bars");
    this.facts = this.element.querySelector(".facts");
    this.caption.textContent = letter ? `${letter}. ${shown.title}` : shown.title;
    this.layers = { picture: null, heat: null, grid: [1, 1] };
    this.weights = null;
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#tell());
  }

  // Ask for the parts that are stale: "picture", "classes", "attention" -> the timings of each.
  async refresh(stale, asked) {
    this.element.setAttribute("aria-busy", "true");
    const parts = { picture: this.#picture, classes: this.#classes, attention: this.#attention };
    try {
      const wanted = Object.keys(parts).filter((part) => stale.has(part) && asked[part]);
      const ended = await Promise.all(wanted.map((part) => parts[part].call(this, asked[part])));
      return Object.fromEntries(wanted.map((part, i) => [part, ended[i]]));
    } finally {
      this.element.removeAttribute("aria-busy");
    }
  }

  async #picture({ path, parameters }) {
    const { body, timings } = await ask(path, parameters, [this.shown]);
    const result = only(body);
    const picture = new Image();
    picture.src = result.picture;
    await picture.decode();
    this.result = result;
    this.layers = { ...this.layers, picture, grid: result.grid };
    this.#tell();
    return timings;
  }

  async #classes({ path, parameters }) {
    const { body, timings } = await ask(path, parameters, [this.shown]);
    const result = only(body);
    this.best = result.predictions[0];
    this.#list(result.predictions);
    return timings;
  }

  async #attention({ path, parameters }) {
    const { body, timings } = await ask(path, parameters, [this.shown]);
    this.weights = only(body).attention;
    this.layers = { ...this.layers, heat: { smooth: heatMap(this.weights, true), plain: heatMap(this.weights, false) } };
    return timings;
  }

  paint(view) {
    if (this.layers.picture) draw(this.canvas, this.layers, view);
  }

  #list(predictions) {
    while (this.bars.children.length > predictions.length) this.bars.lastChild.remove();
    predictions.forEach(({ label, score }, i) => {
      const bar = this.bars.children[i] ?? this.bars.appendChild(emptyBar());
      bar.querySelector(".name").textContent = label;
      bar.querySelector(".score").textContent = percent(score);
      bar.querySelector("i").style.width = `${100 * score}%`;
    });
  }

  #tell(more = "") {
    if (!this.result) return;
    const { image, network, grid } = this.result;
    const patches = `${grid[0]} × ${grid[1]} patches, ${network.tokens} tokens`;
    const seen = `${image.width} × ${image.height} ${image.format} → ${network.width} × ${network.height} (${network.resize})`;
    this.facts.textContent = more || `${seen} · ${patches}`;
    this.canvas.setAttribute("aria-label", `${this.shown.title} as the network sees it: ${patches}`);
  }

  #point({ offsetX, offsetY }) {
    if (!this.weights) return;
    const row = Math.min(this.weights.length - 1, Math.floor((offsetY / this.canvas.clientHeight) * this.weights.length));
    const columns = this.weights[0].length;
    const column = Math.min(columns - 1, Math.floor((offsetX / this.canvas.clientWidth) * columns));
    if (row < 0 || column < 0) return;
    this.#tell(`Row ${row + 1}, column ${column + 1}: ${percent(this.weights[row][column])} of [CLS]'s attention`);
  }
}

// The result of a request with one picture.
function only({ results: [result] }) {
  if (result.error) throw new Problem(result.error);
  return result;
}

function emptyBar() {
  const bar = document.createElement("li");
  bar.innerHTML = '<span class="name"></span><span class="score"></span><span class="track"><i></i></span>';
  return bar;
}

// One image: the pixels that the network receives, its attention and its best classes.

import { Problem, request } from "./api.js";
import { draw, heatMap } from "./draw.js";

const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 2 : 1)}%`;

export class ImageView {
  constructor(image, letter = "") {
    this.image = image; // {file, name, path, title, scores}
    this.letter = letter;
    this.element = document.getElementById("image-view").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector("canvas");
    this.caption = this.element.querySelector("figcaption");
    this.bars = this.element.querySelector(".bars");
    this.facts = this.element.querySelector(".facts");
    this.caption.textContent = letter ? `${letter}. ${image.title}` : image.title;
    this.layers = { pixels: null, heat: null, grid: [1, 1] };
    this.weights = null;
    this.canvas.addEventListener("pointermove", (event) => this.#showWeight(event));
    this.canvas.addEventListener("pointerleave", () => this.#showFacts());
  }

  // Request the stale parts ("image", "classes", "attention"); return the timings of each.
  async refresh(stale, requests) {
    this.element.setAttribute("aria-busy", "true");
    const loaders = { image: this.#loadImage, classes: this.#loadClasses, attention: this.#loadAttention };
    try {
      const parts = Object.keys(loaders).filter((part) => stale.has(part) && requests[part]);
      const timings = await Promise.all(parts.map((part) => loaders[part].call(this, requests[part])));
      return Object.fromEntries(parts.map((part, i) => [part, timings[i]]));
    } finally {
      this.element.removeAttribute("aria-busy");
    }
  }

  async #loadImage({ path, parameters }) {
    const { body, timings } = await request(path, parameters, [this.image]);
    const result = onlyResult(body);
    const pixels = new Image();
    pixels.src = result.picture;
    await pixels.decode();
    this.result = result;
    this.layers = { ...this.layers, pixels, grid: result.grid };
    this.#showFacts();
    return timings;
  }

  async #loadClasses({ path, parameters }) {
    const { body, timings } = await request(path, parameters, [this.image]);
    const result = onlyResult(body);
    this.best = result.predictions[0];
    this.#showClasses(result.predictions);
    return timings;
  }

  async #loadAttention({ path, parameters }) {
    const { body, timings } = await request(path, parameters, [this.image]);
    this.weights = onlyResult(body).attention;
    this.layers = { ...this.layers, heat: { smooth: heatMap(this.weights, true), plain: heatMap(this.weights, false) } };
    return timings;
  }

  paint(display) {
    if (this.layers.pixels) draw(this.canvas, this.layers, display);
  }

  #showClasses(predictions) {
    while (this.bars.children.length > predictions.length) this.bars.lastChild.remove();
    predictions.forEach(({ label, score }, i) => {
      const bar = this.bars.children[i] ?? this.bars.appendChild(emptyBar());
      bar.querySelector(".name").textContent = label;
      bar.querySelector(".score").textContent = percent(score);
      bar.querySelector("i").style.width = `${100 * score}%`;
    });
  }

  #showFacts(text = "") {
    if (!this.result) return;
    const { image, network, grid } = this.result;
    const patches = `${grid[0]} × ${grid[1]} patches, ${network.tokens} tokens`;
    const sizes = `${image.width} × ${image.height} ${image.format} → ${network.width} × ${network.height} (${network.resize})`;
    this.facts.textContent = text || `${sizes} · ${patches}`;
    this.canvas.setAttribute("aria-label", `${this.image.title} as the network sees it: ${patches}`);
  }

  // Show the attention weight of the patch under the pointer.
  #showWeight({ offsetX, offsetY }) {
    if (!this.weights) return;
    const row = Math.min(this.weights.length - 1, Math.floor((offsetY / this.canvas.clientHeight) * this.weights.length));
    const columns = this.weights[0].length;
    const column = Math.min(columns - 1, Math.floor((offsetX / this.canvas.clientWidth) * columns));
    if (row < 0 || column < 0) return;
    this.#showFacts(`Row ${row + 1}, column ${column + 1}: ${percent(this.weights[row][column])} of the [CLS] attention`);
  }
}

// The result of a request with one image.
function onlyResult({ results: [result] }) {
  if (result.error) throw new Problem(result.error);
  return result;
}

function emptyBar() {
  const bar = document.createElement("li");
  bar.innerHTML = '<span class="name"></span><span class="score"></span><span class="track"><i></i></span>';
  return bar;
}

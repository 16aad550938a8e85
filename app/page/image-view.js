// One picture: the pixels that the network receives, what is drawn over its patches, and a cursor on them.

import { Problem, request } from "./api.js";
import { draw, heatMap } from "./draw.js";
import { products } from "./vectors.js";

const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 2 : 1)}%`;
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class ImageView {
  // on: {patch(view, place): a patch is under the cursor; choose(view, place): it was chosen; clear(); remove(view)}
  constructor(image, letter, on) {
    Object.assign(this, { image, letter, on }); // image: {file, name, path, title, scores}
    this.element = document.getElementById("image-view").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector("canvas");
    this.frame = this.element.querySelector(".canvas");
    this.bars = document.createElement("ol");
    this.bars.className = "bars";
    this.bars.setAttribute("aria-label", letter ? `Best classes of ${letter}` : "Best classes");
    this.element.querySelector(".title").textContent = letter ? `${letter}. ${image.title}` : image.title;
    this.element.querySelector(".remove").setAttribute("aria-label", `Remove ${image.title}`);
    this.element.querySelector(".remove").addEventListener("click", () => on.remove(this));
    this.keys = {}; // of each part that is shown: the request that it answers
    this.parts = {};
    this.cursor = null;
    this.#listen();
    this.showClasses(null);
  }

  get grid() {
    return this.parts.image?.grid ?? [1, 1];
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.#point(event));
    canvas.addEventListener("pointerleave", () => this.on.patch(this, null));
    canvas.addEventListener("click", (event) => {
      this.#moveTo(this.#placeOf(event));
      this.on.choose(this, this.cursor);
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.on.clear();
      const step = STEPS[event.key];
      if (!step) return;
      event.preventDefault();
      const [row, column] = this.cursor ?? this.grid.map((count) => Math.floor(count / 2));
      this.#moveTo(this.cursor ? [row + step[0], column + step[1]] : [row, column]);
      this.on.choose(this, this.cursor);
    });
  }

  #placeOf({ offsetX, offsetY }) {
    const [rows, columns] = this.grid;
    return [Math.floor((offsetY / this.canvas.clientHeight) * rows), Math.floor((offsetX / this.canvas.clientWidth) * columns)];
  }

  #point(event) {
    this.on.patch(this, this.#inside(this.#placeOf(event)));
  }

  #moveTo(place) {
    this.cursor = this.#inside(place);
    this.on.patch(this, this.cursor);
  }

  #inside(place) {
    return place.map((value, i) => Math.min(Math.max(value, 0), this.grid[i] - 1));
  }

  // Before an answer comes, the frame has the shape that it will have.
  reserve(aspect) {
    this.frame.style.aspectRatio = String(aspect);
  }

  // Take over what another view of the same image shows.
  adopt(other) {
    Object.assign(this.keys, other.keys);
    Object.assign(this.parts, other.parts);
    if (this.parts.classes) this.showClasses(this.parts.classes.predictions);
    if (!this.parts.image) return;
    this.reserve(this.parts.image.pixels.naturalWidth / this.parts.image.pixels.naturalHeight);
    this.#showFacts();
  }

  // Whether a part answers another request than this one.
  isStale(part, key) {
    return Boolean(key) && this.keys[part] !== key;
  }

  async load(part, { path, parameters }, key) {
    if (part === "image" && !this.parts.image) this.frame.classList.add("waiting");
    const { body, timings } = await request(path, parameters, [this.image]);
    const [result] = body.results;
    if (result.error) throw new Problem(result.error);
    await this.receive(part, result, key, body);
    return timings;
  }

  async receive(part, result, key) {
    if (part === "image") {
      const pixels = new Image();
      pixels.src = result.picture;
      await pixels.decode();
      result.pixels = pixels;
      this.reserve(pixels.naturalWidth / pixels.naturalHeight);
      this.frame.classList.remove("waiting", "without");
      this.cursor = this.cursor && result.grid[0] === this.grid[0] ? this.cursor : null;
    }
    this.parts[part] = result;
    this.keys[part] = key;
    this.over = null;
    if (part === "classes") this.showClasses(result.predictions);
    if (part === "image") this.#showFacts();
  }

  // Nothing is shown that does not belong to the present settings.
  forget(part) {
    delete this.parts[part];
    delete this.keys[part];
    this.over = null;
    if (part === "classes") this.showClasses(null);
    if (part === "image") {
      this.frame.classList.remove("waiting");
      this.frame.classList.add("without");
      this.element.querySelector(".facts").textContent = "\u00a0";
    }
  }

  get best() {
    return this.parts.classes?.predictions[0];
  }

  showClasses(predictions) {
    const rows = predictions ?? Array.from({ length: 5 }, () => null);
    this.bars.classList.toggle("skeleton", !predictions);
    while (this.bars.children.length > rows.length) this.bars.lastChild.remove();
    rows.forEach((row, i) => {
      const bar = this.bars.children[i] ?? this.bars.appendChild(emptyBar());
      bar.querySelector(".name").textContent = row?.label ?? "\u00a0";
      bar.querySelector(".score").textContent = row ? percent(row.score) : "\u00a0";
      bar.querySelector("i").style.width = `${100 * (row?.score ?? 0)}%`;
    });
  }

  state(text, done = 0, total = 0) {
    this.element.querySelector(".state").textContent = text;
    const bar = this.element.querySelector("progress");
    bar.hidden = !total;
    if (total) Object.assign(bar, { max: total, value: done });
  }

  #showFacts() {
    const { image, network, grid } = this.parts.image;
    const patches = `${grid[0]} × ${grid[1]} patches, ${network.tokens} tokens`;
    const sizes = `${image.width} × ${image.height} ${image.format} → ${network.width} × ${network.height} (${network.resize})`;
    this.element.querySelector(".facts").textContent = `${sizes} · ${patches}`;
    this.canvas.setAttribute("aria-label", `${this.image.title} as the network sees it: ${patches}. The arrow keys move over the patches.`);
  }

  // The numbers of the patches: attention in the chosen head, or similarity to the chosen patch; null for colours.
  numbers(settings, token) {
    const { attention, features } = this.parts;
    if (settings.view === "attention") return attention ? headOf(attention.attention, settings.head) : null;
    return features && token ? rowsOf(products(features.halves, token), features.grid) : null;
  }

  // span: the numbers that are darkest and brightest, where several pictures share them.
  paint(display, settings, token, span) {
    const chosen = settings.view === "features" && settings.patch && settings.patch.image === (this.letter === "B" ? 1 : 0) ? [settings.patch.row, settings.patch.column] : null;
    if (!this.parts.image) return;
    const numbers = this.numbers(settings, token);
    if (!this.over) {
      const colours = this.parts.features?.pixels;
      this.over = numbers ? { smooth: heatMap(numbers, true, span), plain: heatMap(numbers, false, span) } : settings.view === "features" && colours ? { smooth: colours, plain: colours } : null;
    }
    this.layers = { pixels: this.parts.image.pixels, over: this.over, grid: this.grid, cursor: chosen ? null : this.cursor, chosen };
    draw(this.canvas, this.layers, display);
  }

  describe([row, column], settings, token) {
    const where = `${this.letter ? `${this.letter}, row` : "Row"} ${row + 1}, column ${column + 1}`;
    const value = this.numbers(settings, token)?.[row]?.[column];
    if (value === undefined) return where;
    return settings.view === "attention" ? `${where}: ${percent(value)} of the [CLS] attention` : `${where}: cosine ${value.toFixed(3)} to the chosen patch`;
  }
}

// (H, h, w) -> (h, w): one head, or their mean; a rollout is (h, w) already.
export function headOf(maps, head) {
  if (!Array.isArray(maps[0][0])) return maps;
  if (head !== "mean") return maps[Number(head)];
  return maps[0].map((row, y) => row.map((_, x) => maps.reduce((sum, map) => sum + map[y][x], 0) / maps.length));
}

const rowsOf = (values, [rows, columns]) => Array.from({ length: rows }, (_, row) => [...values.subarray(row * columns, (row + 1) * columns)]);

function emptyBar() {
  const bar = document.createElement("li");
  bar.innerHTML = '<span class="name"></span><span class="score"></span><span class="track"><i></i></span>';
  return bar;
}

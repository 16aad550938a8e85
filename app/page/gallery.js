// The images that were added: a tile each with its answer or what is wrong with it, in order of addition or of likeness.

import { sentenceOf, titleOf } from "./problems.js";
import { Thumbnails } from "./thumbnails.js";
import { products } from "./vectors.js";

const byId = (id) => document.getElementById(id);
export const MANY = 8; // more tiles than this are a grid below the picture instead of a strip above it

export class Gallery {
  // on: {show(images), remove(image)}
  constructor(on) {
    this.on = on;
    this.element = byId("images");
    this.images = []; // in the order of addition
    this.shown = [];
    this.reference = null; // the image that the others are ordered by
    this.thumbnails = new Thumbnails();
    byId("as-added").addEventListener("click", () => this.orderBy(null));
  }

  add(images) {
    for (const image of images) {
      Object.assign(image, { scores: new Map(), tile: null });
      image.tile = this.#tile(image);
    }
    this.images.push(...images);
    this.element.append(...images.map(({ tile }) => tile));
    this.#update();
  }

  remove(image) {
    this.images = this.images.filter((other) => other !== image);
    image.tile.remove();
    if (image.thumbnail) URL.revokeObjectURL(image.thumbnail);
    if (image === this.reference) this.orderBy(null);
    this.#update();
  }

  clear() {
    for (const { thumbnail } of this.images) if (thumbnail) URL.revokeObjectURL(thumbnail);
    this.images = [];
    this.element.replaceChildren();
    this.reference = null;
    this.#update();
  }

  mark(shown) {
    for (const image of this.shown) this.#press(image, false);
    this.shown = shown;
    for (const image of shown) this.#press(image, true);
    document.body.classList.toggle("comparable", shown.length > 0);
    this.#place();
  }

  // Show the answer of an image, or its problem.
  label(image) {
    const { tile, problem, prediction } = image;
    tile.classList.toggle("bad", Boolean(problem));
    tile.querySelector(".answer").textContent = problem ? `${titleOf(problem)}. ${sentenceOf(problem)}` : prediction ? `${prediction.label} ${Math.round(100 * prediction.score)}%` : "";
    tile.querySelector(".show").disabled = Boolean(problem);
    tile.querySelector(".compare").disabled = Boolean(problem);
  }

  // Order the tiles by the cosine of their vectors to this image's; null restores the order of addition.
  orderBy(reference) {
    this.reference = reference;
    const [reach, order] = [new Map(), [...this.images]];
    if (reference) {
      for (const image of this.images) reach.set(image, image.vector ? products(image.vector, reference.vector)[0] : -2);
      order.sort((a, b) => (a === reference ? -1 : b === reference ? 1 : reach.get(b) - reach.get(a)));
    }
    for (const image of this.images) {
      const cosine = reach.get(image);
      image.likeness = cosine > -2 ? cosine : undefined;
      image.tile.querySelector(".likeness").textContent = image.likeness === undefined ? "" : `likeness ${image.likeness.toFixed(3)}`;
    }
    this.element.replaceChildren(...order.map(({ tile }) => tile));
    this.element.scrollLeft = 0;
    byId("as-added").hidden = !reference;
    byId("gallery-note").textContent = reference ? `Ordered by likeness to ${reference.title}: the cosine of the vectors.` : "";
  }

  // In the order that is on screen.
  get ordered() {
    const places = new Map([...this.element.children].map((tile, i) => [tile, i]));
    return [...this.images].sort((a, b) => places.get(a.tile) - places.get(b.tile));
  }

  #press(image, pressed) {
    image.tile.querySelector(".show").setAttribute("aria-pressed", pressed);
    image.tile.classList.toggle("shown", pressed);
  }

  #update() {
    const count = this.images.length;
    document.body.dataset.images = count === 0 ? "none" : count > MANY ? "many" : "few";
    byId("gallery-title").textContent = count === 1 ? "1 image" : `${count} images`;
    this.#place();
  }

  refresh() {
    this.#update();
  }

  // A few are a strip above the picture; many a grid below it. The order of the keyboard is that of the eye.
  #place() {
    const [gallery, views] = [byId("gallery"), byId("views")];
    // What is shown need not be listed too.
    gallery.hidden = this.images.every((image) => this.shown.includes(image));
    const below = this.images.length > MANY && this.shown.length > 0;
    if (below && views.previousElementSibling === gallery) byId("left").append(gallery);
    if (!below && gallery.nextElementSibling !== views) byId("left").prepend(gallery);
  }

  #tile(image) {
    const tile = document.createElement("li");
    tile.innerHTML =
      '<button type="button" class="show" aria-pressed="false"><span class="thumb"><img alt=""></span><span class="name"></span><span class="answer"></span><span class="likeness"></span></button>' +
      '<button type="button" class="compare">Compare</button><button type="button" class="remove">×</button>';
    const [show, compare, remove] = tile.children;
    show.querySelector(".name").textContent = image.name;
    show.title = image.title;
    compare.setAttribute("aria-label", `Compare with ${image.title}`);
    remove.setAttribute("aria-label", `Remove ${image.title}`);
    show.addEventListener("click", () => this.on.show([image]));
    compare.addEventListener("click", () => this.on.show([this.shown[0], image]));
    remove.addEventListener("click", () => this.on.remove(image));
    this.thumbnails.watch(tile.querySelector("img"), image);
    return tile;
  }
}

// A class of the tab "Teach": its name, its pictures, and what is wrong with some of them.

import { Problem } from "./api.js";
import { imageOf } from "./files.js";
import { sentenceOf, titleOf } from "./problems.js";

const MOST_LETTERS = 200;

export class ClassColumn {
  // on: {add(column, files), rename(column), remove(column), drop(column, picture)}
  constructor(name, thumbnails, on) {
    this.element = document.getElementById("class-column").content.cloneNode(true).firstElementChild;
    this.element.column = this;
    Object.assign(this, { name, thumbnails, on, pictures: [], locked: false });
    this.input = this.#part(".class-name");
    this.input.value = name;
    this.input.addEventListener("change", () => this.on.rename(this));
    for (const pick of this.element.querySelectorAll("input[type=file]")) {
      pick.addEventListener("change", () => {
        const files = [...pick.files];
        pick.value = "";
        this.on.add(this, files.map((file) => imageOf(file, file.name)));
      });
    }
    this.#part(".remove-class").addEventListener("click", () => this.on.remove(this));
    this.#label();
  }

  // The pictures that can be used.
  get good() {
    return this.pictures.filter(({ problem }) => !problem);
  }

  // Take the name that was written, or say what is wrong with it and return false.
  rename(others) {
    const name = this.input.value.trim();
    const fault = !name ? "A class needs a name." : name.length > MOST_LETTERS ? `A name has at most ${MOST_LETTERS} letters.` : /["=]/.test(name) ? "A name cannot have \" or = in it." : others.some((other) => other.name === name) ? "Another class has this name already." : "";
    this.#part(".fault").textContent = fault && `${fault} It stays “${this.name}”.`;
    this.input.setAttribute("aria-invalid", Boolean(fault));
    if (fault) return false;
    this.input.value = this.name = name;
    this.#label();
    return true;
  }

  add(images, limit) {
    for (const image of images) {
      if (image.file.size > limit) image.problem = new Problem({ code: "body_too_large", detail: `It is larger than ${Math.round(limit / 2 ** 20)} MiB` });
      image.tile = this.#tile(image);
      this.pictures.push(image);
      this.mark(image, image.problem);
    }
    this.#part(".pictures").append(...images.map(({ tile }) => tile));
  }

  // Return what has the focus next, for who has no pointer.
  take(picture) {
    const place = this.pictures.indexOf(picture);
    this.pictures.splice(place, 1);
    picture.removed = true;
    picture.tile.remove();
    if (picture.thumbnail) URL.revokeObjectURL(picture.thumbnail);
    const next = this.pictures[Math.min(place, this.pictures.length - 1)];
    return next?.tile.querySelector("button:not([disabled])") ?? this.#part("input[type=file]");
  }

  // Say what is wrong with a picture beside it.
  mark(picture, problem) {
    picture.problem = problem;
    picture.tile.classList.toggle("bad", Boolean(problem));
    picture.tile.querySelector(".why").textContent = problem ? `${picture.name}: ${titleOf(problem)}. ${sentenceOf(problem)}` : "";
  }

  // of: what the head has of this class, and whether it can only grow.
  describe(of, { locked, has }) {
    this.input.disabled = this.#part(".remove-class").disabled = locked && Boolean(of);
    for (const picture of this.pictures) picture.tile.querySelector("button").disabled = locked && has(picture);
    const right = of && of.recall !== null ? `, ${Math.round(100 * of.recall)}% right` : "";
    const bad = this.pictures.length - this.good.length;
    const fitted = of ? `${of.examples} in the head${right}` : "none in the head yet";
    this.#part(".counts").textContent = `${pictures(this.good.length)} here · ${fitted}${bad ? ` · ${bad} left out` : ""}`;
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  #label() {
    this.element.setAttribute("aria-label", `Class ${this.name}`);
    this.#part(".pick").setAttribute("aria-label", `Add pictures of ${this.name}`);
    this.#part(".photograph").setAttribute("aria-label", `Take a photo of ${this.name}`);
    this.#part(".remove-class").setAttribute("aria-label", `Remove the class ${this.name}`);
    for (const { tile, name } of this.pictures) tile.querySelector("button").setAttribute("aria-label", `Remove ${name} from ${this.name}`);
  }

  #tile(picture) {
    const tile = document.createElement("li");
    tile.innerHTML = '<img alt=""><button type="button" class="remove">×</button><p class="why"></p>';
    tile.title = picture.title;
    const remove = tile.querySelector("button");
    remove.setAttribute("aria-label", `Remove ${picture.name} from ${this.name}`);
    remove.addEventListener("click", () => this.on.drop(this, picture));
    this.thumbnails.watch(tile.querySelector("img"), picture);
    return tile;
  }
}

export const pictures = (count) => (count === 1 ? "1 picture" : `${count} pictures`);

// Pictures that are tried with a head: each with its classes, how far it lies from all examples, and the nearest ones.

import { Problem, request } from "./api.js";
import { sentenceOf, titleOf } from "./problems.js";

const MOST = 12; // kept; the oldest go first
const CLASSES = 5;
const EXPLAIN = 3;
const FAR = 0.05; // of the examples lie farther: as in docs/heads.md
const ENOUGH = 20; // examples, from which on a share of 5% can be told from none

const percent = (share) => `${Math.round(100 * share)}%`;

export class Trials {
  constructor(element, thumbnails) {
    Object.assign(this, { element, thumbnails, images: [] });
  }

  add(images) {
    for (const image of images) image.tile = this.#tile(image);
    this.images = [...images.toReversed(), ...this.images];
    for (const { tile, thumbnail } of this.images.splice(MOST)) {
      tile.remove();
      if (thumbnail) URL.revokeObjectURL(thumbnail);
    }
    this.element.replaceChildren(...this.images.map(({ tile }) => tile));
  }

  // Return a picture whose answer is not this version's, or null.
  stale(version) {
    return this.images.find((image) => image.triedWith !== version) ?? null;
  }

  // No answer of another head stays beside this one.
  clear() {
    for (const image of this.images) {
      image.triedWith = null;
      this.#say(image, "", []);
    }
  }

  // Ask the head about a picture, and return what to announce. Raises Problem that is not of the picture.
  async ask(image, head) {
    image.triedWith = head.version;
    try {
      const { body } = await request("classify", { head: head.name, explain: EXPLAIN, top_k: CLASSES }, [image]);
      return this.#show(image, body.results[0], head.info.examples);
    } catch (problem) {
      if (!(problem instanceof Problem) || !problem.isOfImage) {
        image.triedWith = null;
        throw problem;
      }
      this.#say(image, `${titleOf(problem)}. ${sentenceOf(problem)}`, []);
      return `${image.name}: ${titleOf(problem)}. ${sentenceOf(problem)}`;
    }
  }

  #show(image, { predictions, confidence, distance, nearest }, examples) {
    const [best] = predictions;
    const isFar = distance !== null && distance < FAR;
    const verdict = !isFar ? best.label : examples < ENOUGH ? "Perhaps none of these" : "None of these";
    const sure = `${isFar ? `If one, ${best.label}: ` : ""}confidence ${percent(confidence)}`;
    const far = distance === null ? "distance: known once a class has two pictures" : `distance ${distance.toFixed(2)}: ${percent(distance)} of the head's own pictures lie farther from their class`;
    this.#say(image, verdict, [sure, far, `Nearest: ${nearest.map(({ name, cosine }) => `${name || "a picture"} (${cosine.toFixed(2)})`).join(", ")}`]);
    image.tile.querySelector(".bars").replaceChildren(...predictions.map(bar));
    return `${image.name}: ${verdict}, ${sure}`;
  }

  #say(image, verdict, facts) {
    const { tile } = image;
    tile.querySelector(".verdict").textContent = verdict;
    tile.querySelector(".facts").replaceChildren(...facts.map((fact) => Object.assign(document.createElement("li"), { textContent: fact })));
    tile.querySelector(".bars").replaceChildren();
  }

  #tile(image) {
    const tile = document.createElement("li");
    tile.innerHTML = '<span class="thumb"><img alt=""></span><div><p class="name"></p><p class="verdict"></p><ul class="bars"></ul><ul class="facts note"></ul></div>';
    tile.querySelector(".name").textContent = image.title;
    this.thumbnails.watch(tile.querySelector("img"), image);
    return tile;
  }
}

function bar({ label, score }) {
  const item = document.createElement("li");
  item.innerHTML = '<span class="name"></span><span class="score"></span><span class="track"><i></i></span>';
  item.querySelector(".name").textContent = label;
  item.querySelector(".score").textContent = `${(100 * score).toFixed(1)}%`;
  item.querySelector("i").style.width = percent(score);
  return item;
}

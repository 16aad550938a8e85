// The images that the user has added: thumbnails, of which one or two are shown large.

export class ImageList {
  constructor(element, show) {
    this.element = element;
    this.show = show;
    this.images = [];
    this.shown = [];
    this.previous = [];
  }

  // Several new images are compared. A single one replaces the second image of a comparison, or is shown alone.
  add(images) {
    for (const image of images) {
      Object.assign(image, { scores: new Map(), thumbnail: URL.createObjectURL(image.file) });
      this.images.push(image);
    }
    this.#render();
    const comparing = this.shown.length === 2 && images.length === 1;
    this.show(comparing ? [this.shown[0], images[0]] : images.slice(0, 2));
  }

  remove(image) {
    this.images = this.images.filter((other) => other !== image);
    URL.revokeObjectURL(image.thumbnail);
    this.#render();
  }

  mark(shown) {
    this.previous = this.shown;
    this.shown = shown;
    this.#render();
  }

  // What to show after images were removed: those shown that are left or, if none is, those shown before.
  remaining() {
    const left = (images) => images.filter((image) => this.images.includes(image));
    return left(this.shown).length ? left(this.shown) : left(this.previous);
  }

  #render() {
    this.element.replaceChildren(...this.images.map((image) => this.#item(image)));
  }

  #item(image) {
    const item = document.createElement("li");
    const isShown = this.shown.includes(image);
    const button = item.appendChild(document.createElement("button"));
    const thumbnail = button.appendChild(new Image());
    thumbnail.src = image.thumbnail;
    thumbnail.alt = "";
    button.type = "button";
    button.title = image.title;
    button.setAttribute("aria-label", `Show ${image.title}`);
    button.setAttribute("aria-pressed", isShown);
    button.addEventListener("click", () => this.show([image]));
    if (this.shown.length && !isShown) item.append(this.#compareButton(image));
    return item;
  }

  #compareButton(image) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "compare";
    button.textContent = "Compare";
    button.setAttribute("aria-label", `Compare with ${image.title}`);
    button.addEventListener("click", () => this.show([this.shown[0], image]));
    return button;
  }
}

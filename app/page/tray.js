// The pictures at hand: one of them on show, or two side by side.

export class Tray {
  constructor(element, show) {
    this.element = element;
    this.show = show;
    this.pictures = [];
    this.shown = [];
    this.earlier = [];
  }

  // Several at once are compared; one alone is looked at, or takes the second place of a comparison.
  add(pictures) {
    for (const picture of pictures) {
      Object.assign(picture, { scores: new Map(), thumbnail: URL.createObjectURL(picture.file) });
      this.pictures.push(picture);
    }
    this.#list();
    const comparing = this.shown.length === 2 && pictures.length === 1;
    this.show(comparing ? [this.shown[0], pictures[0]] : pictures.slice(0, 2));
  }

  remove(picture) {
    this.pictures = this.pictures.filter((other) => other !== picture);
    URL.revokeObjectURL(picture.thumbnail);
    this.#list();
  }

  mark(shown) {
    this.earlier = this.shown;
    this.shown = shown;
    this.#list();
  }

  // What is left to show when some pictures have been removed: of those on show, or else of those before.
  settled() {
    const left = (pictures) => pictures.filter((picture) => this.pictures.includes(picture));
    return left(this.shown).length ? left(this.shown) : left(this.earlier);
  }

  #list() {
    this.element.replaceChildren(...this.pictures.map((picture) => this.#item(picture)));
  }

  #item(picture) {
    const item = document.createElement("li");
    const place = this.shown.indexOf(picture);
    const look = item.appendChild(document.createElement("button"));
    const image = look.appendChild(new Image());
    image.src = picture.thumbnail;
    image.alt = "";
    look.type = "button";
    look.title = picture.title;
    look.setAttribute("aria-label", `Show ${picture.title}`);
    look.setAttribute("aria-pressed", place >= 0);
    look.addEventListener("click", () => this.show([picture]));
    if (this.shown.length && place < 0) item.append(this.#compare(picture));
    return item;
  }

  #compare(picture) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "compare";
    button.textContent = "Compare";
    button.setAttribute("aria-label", `Compare with ${picture.title}`);
    button.addEventListener("click", () => this.show([this.shown[0], picture]));
    return button;
  }
}

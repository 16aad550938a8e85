// Small pictures of files, made when their place comes into view, a few at a time.

const SIDE = 264; // pixels: 132 on a display with two for each
const AT_A_TIME = 2;
const REST_MS = 150; // without scrolling, until thumbnails are made: frames come first

export class Thumbnails {
  constructor() {
    this.waiting = [];
    this.running = 0;
    this.watcher = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "300px" });
    this.images = new WeakMap(); // by the element that shows them
    this.resting = 0;
    document.addEventListener("scroll", () => this.#rest(), { passive: true, capture: true });
  }

  watch(element, image) {
    if (image.thumbnail) element.src = image.thumbnail;
    else {
      this.images.set(element, image);
      this.watcher.observe(element);
    }
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      this.watcher.unobserve(target);
      this.waiting.push(target);
    }
    for (let i = 0; i < AT_A_TIME; i++) this.#work();
  }

  #rest() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => {
      this.resting = 0;
      for (let i = 0; i < AT_A_TIME; i++) this.#work();
    }, REST_MS);
  }

  async #work() {
    if (this.resting || this.running >= AT_A_TIME || !this.waiting.length) return;
    this.running += 1;
    const element = this.waiting.shift();
    const image = this.images.get(element);
    image.thumbnail ??= await thumbnailOf(image.file).catch(() => null);
    if (image.thumbnail) element.src = image.thumbnail;
    this.running -= 1;
    this.#work();
  }
}

async function thumbnailOf(file) {
  const whole = await createImageBitmap(file, { resizeHeight: SIDE, resizeQuality: "medium" });
  const canvas = new OffscreenCanvas(Math.min(whole.width, SIDE), SIDE);
  canvas.getContext("2d").drawImage(whole, (canvas.width - whole.width) / 2, 0);
  whole.close();
  return URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 }));
}

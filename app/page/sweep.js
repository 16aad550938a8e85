// Classify the shown images at many sizes, small ones first, two requests at a time.

import { Problem, request } from "./api.js";

const [SIZES, AT_A_TIME] = [13, 2];

export class Sweep {
  // on: {score(image, best, size), problem(problem), changed()}
  constructor(button, text, on) {
    Object.assign(this, { button, text, on, controller: null });
  }

  async run(model, [min, max], resize, images) {
    if (this.controller) {
      this.controller.abort();
      return;
    }
    this.controller = new AbortController();
    const { signal } = this.controller;
    const even = Array.from({ length: SIZES }, (_, i) => Math.round(min + (i * (max - min)) / (SIZES - 1)));
    const sizes = [...new Set(even)].map((patches) => patches * model.patch[0]);
    const work = sizes.flatMap((size) => images.map((image) => ({ size, image })));
    let done = 0;
    const show = () => (this.text.textContent = `${done} of ${work.length}`);
    const next = async () => {
      for (let one; !signal.aborted && (one = work[started++]); ) {
        const { body } = await request("classify", { size: one.size, resize, top_k: 1 }, [one.image], signal);
        done += 1;
        this.on.score(one.image, body.results[0].predictions?.[0], one.size);
        show();
      }
    };
    let started = 0;
    this.button.textContent = "Stop";
    show();
    try {
      await Promise.all(Array.from({ length: AT_A_TIME }, next));
    } catch (error) {
      this.controller.abort();
      if (error instanceof Problem) this.on.problem(error);
      else if (error.name !== "AbortError") throw error;
    } finally {
      this.text.textContent = done === work.length ? "" : `stopped after ${done} of ${work.length}`;
      this.button.textContent = "Try all sizes";
      this.controller = null;
    }
  }

  stop() {
    this.controller?.abort();
  }
}

// The classes and vectors of many images: several images a request, few requests at a time, with progress and a stop.

import { Problem, request } from "./api.js";
import { float32 } from "./vectors.js";

const IMAGES = 8; // of one request
const BYTES = 8 * 2 ** 20;
const REQUESTS = 2; // at a time
const ATTEMPTS = 4;

const byId = (id) => document.getElementById(id);

export class Collection {
  // on: {answered(image), finished()}
  constructor(model, on) {
    Object.assign(this, { model, on, waiting: [], total: 0, done: 0, stopped: false, running: 0 });
    byId("stop").addEventListener("click", () => (this.stopped ? this.#start() : this.#stop()));
    this.#show();
  }

  // Images that have an answer or a problem, or that wait already, are left out.
  add(images) {
    const fresh = images.filter((image) => !image.vector && !image.problem && !image.queued);
    for (const image of fresh) image.queued = true;
    this.waiting.push(...fresh);
    this.total += fresh.length;
    if (!this.stopped) this.#start();
  }

  remove(gone) {
    const left = this.waiting.filter((image) => !gone.includes(image));
    this.total -= this.waiting.length - left.length;
    this.waiting = left;
    for (const image of gone) image.gone = true;
    if (!this.waiting.length) this.stopped = false;
    this.#show();
  }

  #start() {
    this.stopped = false;
    if (!this.running) [this.started, this.doneBefore] = [performance.now(), this.done];
    this.controller = new AbortController();
    while (this.running < REQUESTS && this.waiting.length) this.#work();
    this.#show();
  }

  #stop() {
    this.stopped = true;
    this.controller.abort();
    this.#show();
  }

  async #work() {
    this.running += 1;
    const { signal } = this.controller;
    while (this.waiting.length && !signal.aborted) {
      const batch = this.#take();
      try {
        await this.#answer(batch, signal);
      } catch (error) {
        if (!signal.aborted) throw error;
        this.waiting.unshift(...batch.filter((image) => !image.vector && !image.problem && !image.gone));
      }
    }
    this.running -= 1;
    this.#show();
    if (!this.running && !this.waiting.length) {
      this.total = this.done = 0;
      this.#show();
      this.on.finished();
    }
  }

  #take() {
    const most = Math.min(IMAGES, this.model.limits.max_images_per_request);
    let bytes = 0;
    let count = 0;
    while (count < Math.min(most, this.waiting.length) && (count === 0 || bytes + this.waiting[count].file.size <= BYTES)) bytes += this.waiting[count++].file.size;
    return this.waiting.splice(0, count);
  }

  async #answer(batch, signal) {
    const limit = this.model.limits.max_upload_bytes;
    const detail = `The file is larger than ${Math.round(limit / 2 ** 20)} MiB`;
    for (const image of batch) if (image.file.size > limit) this.#fail(image, new Problem({ code: "body_too_large", detail }));
    const vectors = await this.#ask("embed", { normalize: true, encoding: "base64" }, batch, signal);
    const classes = this.model.classes ? await this.#ask("classify", { top_k: 1 }, batch, signal) : new Map();
    for (const image of batch.filter((one) => !one.problem && !one.gone)) {
      image.vector = float32(vectors.get(image).embedding);
      image.prediction = classes.get(image)?.predictions[0];
      this.#finish(image);
    }
  }

  // Return the result of each image that is not bad; try again while the service is busy.
  async #ask(path, parameters, batch, signal) {
    for (let attempt = 1; ; attempt++) {
      const good = batch.filter(({ problem }) => !problem);
      if (!good.length) return new Map();
      try {
        const { body } = await request(path, parameters, good, signal);
        body.results.forEach((result, i) => result.error && this.#fail(good[i], new Problem(result.error)));
        return new Map(good.map((image, i) => [image, body.results[i]]));
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        if (problem.isOfImage) good.forEach((image, i) => this.#fail(image, new Problem(problem.errors?.[i] ?? problem)));
        else if (problem.code !== "unreachable" && (problem.retryAfter === 0 || attempt === ATTEMPTS)) good.forEach((image) => this.#fail(image, problem));
        else await this.#wait(problem.retryAfter, signal);
      }
    }
  }

  #wait(seconds, signal) {
    byId("work-text").textContent = "The service does not answer; trying again";
    return new Promise((resolve, reject) => {
      setTimeout(resolve, 1000 * seconds);
      signal.addEventListener("abort", reject);
    });
  }

  #fail(image, problem) {
    image.problem = problem;
    this.#finish(image);
  }

  #finish(image) {
    image.queued = false;
    this.done += 1;
    if (!image.gone) this.on.answered(image);
    this.#show();
  }

  #show() {
    const isWorking = this.running > 0 || this.waiting.length > 0;
    byId("work").classList.toggle("idle", !isWorking);
    byId("stop").disabled = !isWorking;
    byId("stop").textContent = this.stopped ? "Go on" : "Stop";
    Object.assign(byId("work-bar"), { max: Math.max(1, this.total), value: this.done });
    byId("work-text").textContent = isWorking ? `${this.done} of ${this.total}${this.stopped ? ", stopped" : this.#timeLeft()}` : "";
  }

  #timeLeft() {
    const done = this.done - this.doneBefore;
    if (done < 2 * IMAGES) return "";
    const seconds = ((performance.now() - this.started) / 1000 / done) * (this.total - this.done);
    return seconds < 90 ? `, ${Math.ceil(seconds)} s left` : `, ${Math.round(seconds / 60)} min left`;
  }
}

// What a head of the service has of the pictures here: which request comes next, and what its answer means.

import { ask, Problem, request } from "./api.js";

const IMAGES = 32; // of one request at most: the head is seen to grow
const OVERHEAD = 1024; // bytes of a form for each file, names included, near enough

export const listHeads = async () => (await request("heads")).body;

export class HeadWriter {
  constructor(name, limits) {
    Object.assign(this, { name, limits });
    this.version = null; // of the head as it was read or written last; null while there is none
    this.info = null; // the service's description of it
    this.adopted = false; // it has examples whose pictures are not here, so that it can only grow
    this.outdated = false; // a picture or a class that it knows was renamed or removed here
  }

  get path() {
    return `heads/${this.name}`;
  }

  has(picture) {
    return picture.sentTo === this;
  }

  // Go on from what there is: by adding to it, or by replacing it with what is here.
  take(info, { adopt }) {
    Object.assign(this, { version: info.version ?? null, adopted: adopt, outdated: !adopt, info: adopt ? info : null, overwrite: !adopt });
  }

  // Return the pictures of the next request with their classes, or null if the head is as what is here.
  next(classes) {
    const whole = !this.adopted && (this.version === null || this.outdated);
    const filled = classes.filter(({ good }) => good.length);
    if (!this.adopted && filled.length < 2) return null;
    const wanted = inTurn(filled, (picture) => whole || !this.has(picture));
    const taken = this.#fitting(wanted);
    return taken.length ? { whole, taken, left: wanted.length - taken.length } : null;
  }

  // Send what `next` returned. Raises Problem; one that names pictures has `bad`.
  async send({ whole, taken }) {
    const [method, path] = whole ? ["PUT", this.path] : ["POST", `${this.path}/examples`];
    const fields = taken.map(({ name, picture }) => [name, picture]);
    try {
      const { body } = await ask(method, path, {}, fields, this.#condition());
      Object.assign(this, { version: body.version, info: body, outdated: whole ? false : this.outdated, overwrite: false });
      for (const { picture } of taken) picture.sentTo = this;
      // What was renamed or removed meanwhile is in the head as it was.
      if (taken.some(({ name, picture, column }) => picture.removed || column.name !== name)) this.outdated = true;
      return body;
    } catch (error) {
      if (error instanceof Problem && error.code === "bad_examples") error.bad = (error.errors ?? []).map((one) => [pictureAt(taken, one), new Problem(one)]).filter(([picture]) => picture);
      throw error;
    }
  }

  // Nobody's head is overwritten that was not read before.
  #condition() {
    if (this.version !== null) return { "If-Match": `"${this.version}"` };
    return this.overwrite ? {} : { "If-None-Match": "*" };
  }

  #fitting(wanted) {
    const most = Math.min(IMAGES, this.limits.max_images_per_request);
    const sizes = wanted.map(({ picture }) => picture.file.size + OVERHEAD);
    let [count, bytes] = [0, OVERHEAD];
    while (count < Math.min(most, wanted.length) && (count === 0 || bytes + sizes[count] <= this.limits.max_upload_bytes)) bytes += sizes[count++];
    return wanted.slice(0, count);
  }
}

// One picture of each class after the other, so that the first request has as many classes as it can.
function inTurn(classes, wanted) {
  const lists = classes.map((column) => column.good.filter(wanted).map((picture) => ({ name: column.name, column, picture })));
  const longest = Math.max(0, ...lists.map(({ length }) => length));
  return Array.from({ length: longest }, (_, i) => lists.map((list) => list[i]).filter(Boolean)).flat();
}

function pictureAt(taken, { class: name, place }) {
  return taken.filter((one) => one.name === name)[place]?.picture;
}

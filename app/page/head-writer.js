// What a head of the service has of the pictures here: which request comes next, and what its answer means.

import { ask, Problem, request } from "./api.js";

const IMAGES = 32; // of one request at most: the head is seen to grow
const OVERHEAD = 1024; // bytes of a form for each file, names included, near enough

export const listHeads = async () => (await request("heads")).body;

export class HeadWriter {
  constructor(name, limits, method = "ridge") {
    Object.assign(this, { name, limits, method });
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
    if (adopt) this.method = info.method;
  }

  // Fit by another method: a head that is there is fitted again from what is here.
  fitBy(method) {
    this.method = method;
    if (this.version !== null) this.outdated = true;
  }

  // Delete what is there, if it is still the version that was seen; one that is damaged has none.
  async delete(version) {
    await ask("DELETE", this.path, {}, [], version ? { "If-Match": `"${version}"` } : {});
  }

  // Return the pictures of the next request with their classes, or null if the head is as what is here.
  next(classes) {
    const whole = !this.adopted && (this.version === null || this.outdated);
    const filled = classes.filter(({ good }) => good.length);
    if (!this.adopted && filled.length < 2) return null;
    const wanted = inTurn(filled, (picture) => whole || !this.has(picture), this.method === "logistic" ? 2 : 1);
    const taken = this.#fitting(wanted);
    return taken.length ? { whole, taken, method: this.method, left: wanted.flat().length - taken.length } : null;
  }

  // Send what `next` returned. Raises Problem; one that names pictures has `bad`.
  async send({ whole, taken, method: fittedBy }) {
    const [method, path] = whole ? ["PUT", this.path] : ["POST", `${this.path}/examples`];
    const fields = taken.map(({ name, picture }) => [name, picture]);
    try {
      const { body } = await ask(method, path, whole ? { method: fittedBy } : {}, fields, this.#condition());
      const outdated = this.method !== fittedBy || (!whole && this.outdated);
      Object.assign(this, { version: body.version, info: body, outdated, overwrite: false });
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
    const taken = [];
    let bytes = OVERHEAD;
    for (const group of wanted) {
      for (const { picture } of group) bytes += picture.file.size + OVERHEAD;
      if (taken.length && (taken.length + group.length > most || bytes > this.limits.max_upload_bytes)) break;
      taken.push(...group);
    }
    return taken;
  }
}

// Groups of pictures, one of each class after the other, so that the first request has as many classes as it can.
// A group has as many pictures as the method needs of a class, and stays together.
function inTurn(classes, wanted, size) {
  const lists = classes.map((column) => column.good.filter(wanted).map((picture) => ({ name: column.name, column, picture })));
  const longest = Math.max(0, ...lists.map(({ length }) => length));
  const turns = Array.from({ length: Math.ceil(longest / size) }, (_, i) => lists.map((list) => list.slice(i * size, (i + 1) * size)));
  return turns.flat().filter(({ length }) => length);
}

function pictureAt(taken, { class: name, place }) {
  return taken.filter((one) => one.name === name)[place]?.picture;
}

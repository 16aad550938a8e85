// The tab "Teach": pictures of named classes become a head of the service, which is fitted again when they change.

import { Problem } from "./api.js";
import { ClassColumn, pictures } from "./class-column.js";
import { formCommand, listCommands } from "./curl.js";
import { fromExample, imageOf } from "./files.js";
import { HeadWriter, listHeads } from "./head-writer.js";
import { hideProblem, sentenceOf, showProblem, titleOf } from "./problems.js";
import { Thumbnails } from "./thumbnails.js";
import { Trials } from "./trials.js";

const STEPS = 8; // of the growth that are shown
const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/; // as in app/schemas.py
const METHODS = {
  ridge: "A good choice for most: a regression, from one picture of a class.",
  mean: "The nearest mean of a class: the simplest, and often the best for very few pictures.",
  logistic: "Logistic regression, from two pictures of a class; slower with many classes.",
};
const WITH_A_KEY = ["unauthorized", "forbidden"];

const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)}%`;

export class Teach {
  constructor() {
    this.thumbnails = new Thumbnails();
    this.trials = new Trials(byId("trials"), this.thumbnails);
    Object.assign(this, { model: null, columns: [], growth: [], refusal: null, found: null, failure: null, running: false, again: false, named: 0 });
    this.#listen();
  }

  // Called when the tab is shown, and when a key was entered.
  async open(model) {
    if (!this.model) {
      this.model = model;
      this.writer = new HeadWriter(byId("head-name").value, model.limits);
      for (let i = 0; i < 2; i++) this.#addColumn();
    }
    await this.#look();
    this.#work();
  }

  // What was dropped or pasted, and where.
  receive(images, passedOver, place) {
    const zone = place?.closest?.("[data-zone]");
    const left = passedOver ? ` ${passedOver} files of the folder are no images and were passed over.` : "";
    if (!zone) return this.#say("Drop pictures on a class, or on “Try a picture”. What is pasted goes to the class that has the focus.");
    this.note = left;
    if (zone.column) this.#add(zone.column, images);
    else this.#try(images);
  }

  #listen() {
    byId("add-class").addEventListener("click", () => this.#addColumn().input.select());
    byId("head-name").addEventListener("change", () => this.#rename(byId("head-name").value.trim()));
    byId("fit-method").addEventListener("change", () => {
      this.writer.fitBy(byId("fit-method").value);
      this.#change();
    });
    this.#listenForDelete();
    byId("teach-again").addEventListener("click", () => this.#change());
    byId("adopt").addEventListener("click", () => this.#take(true));
    byId("replace").addEventListener("click", () => this.#take(false));
    byId("enter-key").addEventListener("click", () => showProblem(new Problem(this.refusal)));
    for (const id of ["try-pick", "try-photograph"]) {
      const pick = byId(id);
      pick.addEventListener("change", () => {
        const files = [...pick.files];
        pick.value = "";
        this.#try(files.map((file) => imageOf(file, file.name)));
      });
    }
    byId("try-examples").addEventListener("click", async (event) => {
      const button = event.target.closest("button");
      if (button) this.#try([await fromExample(button)]);
    });
    const panel = byId("panel-teach");
    const mark = (zone) => panel.querySelectorAll("[data-zone]").forEach((each) => each.classList.toggle("target", each === zone));
    panel.addEventListener("dragover", (event) => mark(event.target.closest("[data-zone]")));
    for (const type of ["dragleave", "drop"]) panel.addEventListener(type, () => mark(null));
  }

  #listenForDelete() {
    const ask = (open) => {
      byId("delete-sure").hidden = !open;
      byId(open ? "delete-no" : "delete-head").focus();
    };
    byId("delete-head").addEventListener("click", () => ask(true));
    byId("delete-no").addEventListener("click", () => ask(false));
    byId("delete-yes").addEventListener("click", () => this.#delete());
    byId("delete-sure").addEventListener("keydown", (event) => event.key === "Escape" && ask(false));
  }

  // The classes and their pictures.

  #addColumn(name = null) {
    const on = {
      add: (column, images) => this.#add(column, images),
      rename: (column) => {
        const before = column.name;
        if (!column.rename(this.columns.filter((other) => other !== column)) || column.name === before) return;
        this.#changed(column.pictures);
      },
      remove: (column) => this.#removeColumn(column),
      drop: (column, picture) => {
        column.take(picture).focus();
        this.#changed([picture]);
      },
    };
    const column = new ClassColumn(name ?? `class ${++this.named}`, this.thumbnails, on);
    this.columns.push(column);
    byId("classes").append(column.element);
    this.#paint();
    return column;
  }

  #removeColumn(column) {
    this.columns = this.columns.filter((other) => other !== column);
    const gone = [...column.pictures];
    for (const picture of gone) column.take(picture);
    column.element.remove();
    byId("add-class").focus();
    this.#changed(gone);
  }

  #add(column, images) {
    column.add(images, this.model.limits.max_upload_bytes);
    this.#change();
  }

  #changed(images) {
    if (images.some((picture) => this.writer.has(picture))) this.writer.outdated = true;
    this.#change();
  }

  #change() {
    this.failure = null;
    this.#work();
  }

  // The head of the service.

  async #rename(name) {
    const fault = NAME.test(name) ? "" : `A name has up to 64 lower-case letters, digits, dots, dashes and underscores. It stays “${this.writer.name}”.`;
    byId("name-fault").textContent = fault;
    byId("head-name").setAttribute("aria-invalid", Boolean(fault));
    if (fault || name === this.writer.name) return;
    this.#begin(name);
    await this.#look();
    this.#change();
  }

  #begin(name) {
    this.writer = new HeadWriter(name, this.model.limits, byId("fit-method").value);
    byId("delete-sure").hidden = true;
    Object.assign(this, { growth: [], found: null, failure: null });
    this.trials.clear();
  }

  // Who may write, and whether there is a head of this name that the page does not know.
  async #look() {
    try {
      const { heads, kept, refusal } = await listHeads();
      this.refusal = refusal;
      byId("known-heads").replaceChildren(...heads.map(({ name }) => Object.assign(document.createElement("option"), { value: name })));
      byId("teach-kept").textContent = kept === "memory" ? "The head is gone when the service stops." : "The head stays when the service stops.";
      this.#meet(heads.find(({ name }) => name === this.writer.name));
    } catch (problem) {
      this.#fail(problem);
    }
    this.#paint();
  }

  #meet(there) {
    if (!there && this.writer.version !== null) this.#begin(this.writer.name); // it was deleted; the pictures are here
    this.found = there && (there.version ?? "") !== this.writer.version ? there : null;
    if (this.found?.state === "ready" && this.refusal) this.#take(true);
  }

  #take(adopt) {
    const { found } = this;
    this.#begin(this.writer.name);
    this.writer.take(found, { adopt });
    if (adopt) this.#showClasses(found.classes);
    this.#change();
  }

  // The pictures here go too: otherwise the next change would make the head again.
  // Who takes another name meanwhile has not said yes to deleting what has that one, and keeps the pictures for it.
  async #delete() {
    const { name } = this.writer;
    byId("delete-sure").hidden = true;
    byId("head-name").focus();
    while (this.running) await new Promise((resolve) => setTimeout(resolve, 50));
    const { writer, found } = this;
    if (writer.name !== name) return;
    try {
      await writer.delete(found ? found.version : writer.version);
      if (this.writer.name === name) {
        for (const column of this.columns) for (const picture of [...column.pictures]) column.take(picture);
        this.#begin(name);
        await this.#look();
      }
      byId("announcement").textContent = `The head “${name}” is deleted.`;
    } catch (problem) {
      problem.retryAfter = 0; // whoever wants it deleted asks again
      await this.#fail(problem);
      this.#paint();
    }
  }

  // A column for each class of a head; empty columns are used first.
  #showClasses(classes) {
    for (const { label } of classes) {
      if (this.columns.some(({ name }) => name === label)) continue;
      const free = this.columns.find((column) => !column.pictures.length && !classes.some((one) => one.label === column.name));
      if (!free) this.#addColumn(label);
      else {
        free.input.value = label;
        free.rename([]);
      }
    }
  }

  async #work() {
    this.again = true;
    this.#paint();
    if (this.running) return;
    this.running = true;
    byId("panel-teach").setAttribute("aria-busy", "true");
    try {
      while (this.again) {
        this.again = false;
        await this.#round();
      }
    } finally {
      this.running = false;
      byId("panel-teach").removeAttribute("aria-busy");
      this.#paint();
    }
  }

  async #round() {
    try {
      if (!this.refusal && !this.found) await this.#fit();
      await this.#answer();
    } catch (problem) {
      await this.#fail(problem);
    }
  }

  async #fit() {
    for (let next; !this.found && (next = this.writer.next(this.columns)); ) {
      const { writer } = this;
      this.#say(`Sending ${pictures(next.taken.length)}${next.left ? `; ${next.left} more follow` : ""} …`);
      const body = await writer.send(next);
      if (writer !== this.writer) continue;
      this.failure = null;
      this.growth.push(body);
      this.repeated = body.repeated;
      this.#paint();
    }
  }

  async #answer() {
    const { writer } = this;
    if (writer.info?.state !== "ready") return;
    for (let image; writer === this.writer && (image = this.trials.stale(writer.version)); ) {
      const said = await this.trials.ask(image, writer);
      byId("announcement").textContent = said;
    }
  }

  // Pictures that cannot be used are left out; a busy service is asked again; the rest waits for the person.
  async #fail(problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.bad?.length) return this.#leaveOut(problem.bad);
    if (["head_changed", "head_not_found"].includes(problem.code)) {
      const { adopted } = this.writer;
      await this.#look();
      // A head that was deleted is fitted again, if all that it had is here.
      if (adopted && !this.found) this.failure = problem;
      else this.again = !this.found && this.columns.some(({ good }) => good.length);
      return;
    }
    if (problem.retryAfter) {
      this.#say(`${titleOf(problem)}. Trying again in ${problem.retryAfter} s.`);
      await new Promise((resolve) => setTimeout(resolve, 1000 * problem.retryAfter));
      this.again = true;
      return;
    }
    this.failure = problem;
    if (!WITH_A_KEY.includes(problem.code)) return;
    this.refusal = problem;
    showProblem(problem);
  }

  #leaveOut(bad) {
    for (const [picture, problem] of bad) this.columns.find((column) => column.pictures.includes(picture))?.mark(picture, problem);
    const first = bad.map(([picture]) => picture.name).join(", ");
    byId("announcement").textContent = `Left out: ${first}`;
    this.again = true;
  }

  #try(images) {
    this.trials.add(images);
    this.#change();
  }

  // Drawing.

  #say(text) {
    byId("teach-status").textContent = text;
  }

  #paint() {
    if (!this.model) return;
    const { info } = this.writer;
    for (const column of this.columns) column.describe(info?.classes?.find(({ label }) => label === column.name), { locked: this.writer.adopted, has: (picture) => this.writer.has(picture) });
    if (!this.running || info) this.#say(this.#status() + (this.note ?? ""));
    this.#paintChoices();
    this.#paintProblems();
    this.#paintGrowth();
    this.#paintCommands();
  }

  #status() {
    const { info, name, outdated, adopted } = this.writer;
    const filled = this.columns.filter(({ good }) => good.length).length;
    if (!info) return filled < 2 ? "Put pictures into at least two classes: one is enough to begin with, five are better." : "";
    const fitted = `The head “${name}” answers: ${pictures(info.examples)} of ${info.classes.length} classes.`;
    const right = info.accuracy === null ? "How good it is shows once a class has two pictures." : `${percent(info.accuracy)} of them are answered rightly by a head without them (${info.measured}).`;
    const old = outdated && filled < 2 ? " It is still as it was: put pictures into a second class." : "";
    const twice = this.repeated ? ` ${pictures(this.repeated)} came twice and count once.` : "";
    const locked = adopted ? " It has examples whose pictures are not here: add to it, or take another name to rename and remove." : "";
    return fitted + " " + right + twice + old + locked;
  }

  #paintChoices() {
    const { adopted, method, name, info } = this.writer;
    byId("fit-method").value = method;
    byId("fit-method").disabled = adopted;
    byId("fit-method-note").textContent = METHODS[method] + (adopted ? " It stays as the head has it." : "");
    byId("delete-head").hidden = Boolean(this.refusal) || !(info || this.found);
    byId("delete-sure-text").textContent = `Delete the head “${name}”? Its examples cannot be had back, and the pictures here are removed too.`;
  }

  #paintProblems() {
    const { refusal, found, failure } = this;
    byId("teach-refusal").hidden = !refusal;
    byId("teach-refusal-text").textContent = refusal ? `${titleOf(refusal)}. ${sentenceOf(refusal)} What is there can be tried.` : "";
    byId("enter-key").hidden = !WITH_A_KEY.includes(refusal?.code);
    byId("teach-found").hidden = !found || Boolean(refusal);
    byId("adopt").hidden = found?.state !== "ready";
    if (found) byId("teach-found-text").textContent = this.#describeFound(found);
    byId("teach-problem").hidden = !failure;
    byId("teach-problem-text").textContent = failure ? `${titleOf(failure)}. ${sentenceOf(failure)}` : "";
  }

  #describeFound({ name, state, detail, classes }) {
    if (state !== "ready") return `There is a head “${name}” that cannot be used: it ${state === "stale" ? detail : `is damaged (${detail})`}.`;
    const most = classes.slice(0, 5).map(({ label, examples }) => `${label} ${examples}`).join(", ");
    return `There is a head “${name}” already, with ${classes.length} classes: ${most}${classes.length > 5 ? ", …" : ""}. What is here is not sent until you choose, or take another name.`;
  }

  #paintGrowth() {
    const shown = this.growth.filter(({ accuracy }) => accuracy !== null).slice(-STEPS);
    byId("growth").replaceChildren(
      ...shown.map(({ examples, accuracy }) => {
        const item = document.createElement("li");
        item.innerHTML = '<span class="name"></span><span class="score"></span><span class="track"><i></i></span>';
        item.querySelector(".name").textContent = pictures(examples);
        item.querySelector(".score").textContent = percent(accuracy);
        item.querySelector("i").style.width = percent(accuracy);
        return item;
      }),
    );
    byId("growth-title").hidden = !shown.length;
  }

  #paintCommands() {
    const { path, adopted, name, method } = this.writer;
    const parameters = method === "ridge" ? {} : { method };
    const fields = this.columns.flatMap((column) => column.good.map((picture) => [column.name, picture]));
    const [tried] = this.trials.images;
    const commands = [
      fields.length && ["fit", adopted ? formCommand({ path: `${path}/examples` }, fields) : formCommand({ path, parameters, method: "PUT" }, fields)],
      ["look", formCommand({ path }, [])],
      ["classify", formCommand({ path: "classify", parameters: { head: name, explain: 3 } }, [["image", tried ?? { path: "picture.png" }]])],
      ["delete", formCommand({ path, method: "DELETE" }, [])],
    ];
    listCommands(byId("teach-curls"), commands.filter(Boolean));
  }
}

// The page: pictures and choices in, the service asked for what they make stale, and everything drawn again.

import { ask, key, Problem } from "./api.js";
import { chart } from "./chart.js";
import { command, list as listCurls } from "./curl.js";
import { Exhibit } from "./exhibit.js";
import { intake } from "./intake.js";
import { complain, settle } from "./problems.js";
import { list as listTimings } from "./timings.js";
import { Tray } from "./tray.js";
import { choices, slider, toggle } from "./widgets.js";

const part = (id) => document.getElementById(id);
const EVERYTHING = ["picture", "classes", "attention", "similarity"];

let model = null; // what GET /model tells
let exhibits = [];
let spent = {}; // the timings of the last request of each kind
const stale = new Set();
const asked = { patches: null, resize: "", layer: null, head: "mean", method: "raw" };
const view = { heat: true, grid: true, smooth: true, opacity: 0.8 };
const tray = new Tray(part("tray"), show);

// Requests, as paths and parameters; defaults are left out, so that commands stay short.

const side = () => asked.patches * model.patch[0];
const isOwn = () => asked.patches === null;
const sizes = () => ({ size: isOwn() ? null : side(), resize: asked.resize });

function requests() {
  const last = asked.layer === null || asked.layer === model.depth - 1;
  const look = {
    layer: last ? null : asked.layer,
    head: asked.head === "mean" || asked.method === "rollout" ? null : asked.head,
    method: asked.method === "raw" ? null : asked.method,
  };
  return {
    picture: { path: "preprocess", parameters: sizes() },
    classes: model.classes && { path: "classify", parameters: sizes() },
    attention: model.class_token && { path: "attention", parameters: { ...sizes(), ...look } },
    similarity: { path: "embed", parameters: { ...sizes(), normalize: true } },
  };
}

// One round of requests at a time; what has changed meanwhile makes the next one. So a slider is answered live.

let running = false;
let fallenBack = false; // from pictures that could not be used, to those before: what was wrong stays to be read

async function refresh(...parts) {
  for (const name of parts) stale.add(name);
  if (running || !model) return;
  running = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    while (stale.size && exhibits.length) await round().catch(failed);
  } finally {
    running = false;
    document.body.removeAttribute("aria-busy");
  }
}

async function round() {
  const now = new Set(stale);
  const shown = [...exhibits];
  const size = isOwn() ? model.input_size[0] : side();
  stale.clear();
  const timings = await Promise.all(shown.map((exhibit) => exhibit.refresh(now, requests())));
  if (now.has("similarity") && shown.length === 2) timings.push({ similarity: await compare(shown) });
  spent = Object.assign({}, shown.length === 2 ? spent : { ...spent, similarity: undefined }, ...timings);
  if (now.has("classes")) shown.forEach((exhibit) => remember(exhibit, size));
  if (!fallenBack) settle();
  fallenBack = false;
  paint();
}

function remember({ shown, best }, size) {
  if (!best) return;
  shown.reference ??= best.label;
  shown.scores.set(size, best);
}

async function compare(shown) {
  const { path, parameters } = requests().similarity;
  const { body, timings } = await ask(path, parameters, shown.map((exhibit) => exhibit.shown));
  const bad = body.results.find((result) => result.error);
  if (bad) throw new Problem(bad.error);
  const [a, b] = body.results.map((result) => result.embedding);
  const cosine = a.reduce((sum, value, i) => sum + value * b[i], 0);
  part("cosine").textContent = cosine.toFixed(3);
  part("similarity").querySelector("i").style.width = `${50 * (1 + cosine)}%`;
  return timings;
}

function failed(error) {
  if (!(error instanceof Problem)) throw error;
  complain(error);
  const refused = exhibits.filter((exhibit) => !exhibit.result).map(({ shown }) => shown);
  if ([400, 413, 415, 422].includes(error.status) && refused.length) {
    // A picture that cannot be used does not stay.
    for (const picture of refused) tray.remove(picture);
    fallenBack = true;
    show(tray.settled());
  } else if (error.status === 503 && error.retryAfter) {
    setTimeout(() => refresh(...EVERYTHING), 1000 * error.retryAfter);
  }
}

// What is on screen.

function show(pictures) {
  exhibits = pictures.map((shown, i) => new Exhibit(shown, pictures.length > 1 ? "AB"[i] : ""));
  document.body.dataset.shown = exhibits.length;
  part("exhibits").replaceChildren(...exhibits.map((exhibit) => exhibit.element));
  part("similarity").hidden = exhibits.length < 2;
  tray.mark(pictures);
  refresh(...EVERYTHING);
}

function paint() {
  for (const exhibit of exhibits) exhibit.paint(view);
  if (!model || !exhibits.length) return;
  const size = isOwn() ? model.input_size[0] : side();
  const network = exhibits[0].result?.network;
  const table = model.table_grid.join(" × ");
  part("size-value").textContent = `${size} px`;
  part("interpolation").textContent = network?.interpolated
    ? `Position embeddings interpolated from ${table} to ${exhibits[0].result.grid.join(" × ")}.`
    : `The position table's own grid of ${table}: nothing is interpolated.`;
  chart(part("chart").firstElementChild, exhibits, size, [slider.range("size")[0] * model.patch[0], slider.range("size")[1] * model.patch[0]]);
  tell();
}

function tell() {
  const wanted = requests();
  const names = { classes: "classes", attention: "attention", picture: "picture", similarity: "similarity" };
  const shown = exhibits.map((exhibit) => exhibit.shown);
  const commands = [
    wanted.classes && [names.classes, command(wanted.classes, shown)],
    wanted.attention && [names.attention, command(wanted.attention, shown.slice(0, 1), "attention.png")],
    [names.picture, command(wanted.picture, shown.slice(0, 1), "network.png")],
    shown.length === 2 && [names.similarity, command(wanted.similarity, shown)],
  ];
  listCurls(part("curls"), commands.filter(Boolean));
  listTimings(part("timings"), Object.keys(names).filter((name) => spent[name]).map((name) => [names[name], spent[name]]));
  part("spoken").textContent = exhibits.map(({ best }) => best && `${best.label}, ${Math.round(100 * best.score)} percent`).filter(Boolean).join("; ");
}

// Every size of the slider, small ones first, for the chart.
async function sweep() {
  const [least, most] = slider.range("size");
  const shown = [...exhibits];
  const before = asked.patches;
  part("sweep").disabled = true;
  try {
    const step = Math.max(1, Math.round((most - least) / 12));
    for (let patches = least; patches <= most; patches += step) {
      const parameters = { size: patches * model.patch[0], resize: asked.resize, top_k: 1 };
      for (const { shown: picture } of shown) {
        const { body } = await ask("classify", parameters, [picture]);
        remember({ shown: picture, best: body.results[0].predictions?.[0] }, parameters.size);
      }
      if (asked.patches === before) paint();
    }
  } catch (error) {
    failed(error);
  } finally {
    part("sweep").disabled = false;
  }
}

// The model decides which choices there are.

function furnish() {
  const [patch, own] = [model.patch[0], Math.round(model.input_size[0] / model.patch[0])];
  const allowed = Math.floor(Math.sqrt(model.limits.max_tokens_per_image - model.prefix_tokens));
  const most = Math.min(allowed, Math.max(2 * own, model.table_grid[0]));
  slider("size", { least: Math.min(2, own), most, value: own, text: (patches) => `${patches * patch} px` }, (patches) => {
    asked.patches = patches === own ? null : patches;
    refresh(...EVERYTHING);
  });
  slider("layer", { least: 0, most: model.depth - 1, value: model.depth - 1, text: (layer) => `${layer} of ${model.depth - 1}` }, (layer) => {
    asked.layer = layer;
    refresh("attention");
  });
  const heads = Array.from({ length: model.heads }, (_, head) => [String(head), String(head)]);
  choices("head", [["mean", "mean"], ...heads], (head) => {
    asked.head = head;
    refresh("attention");
  });
  const parameters = `${(model.parameters / 1e6).toFixed(model.parameters < 1e8 ? 1 : 0)} M parameters`;
  part("model").textContent = `${model.name} · ${parameters} · ${patch}-pixel patches · ${model.device}, ${model.dtype}`;
  document.body.classList.toggle("no-classes", !model.classes);
  document.body.classList.toggle("no-attention", !model.class_token);
}

function controls() {
  slider("opacity", { least: 0, most: 100, value: 80, text: (value) => `${value}%` }, (value) => {
    view.opacity = value / 100;
    paint();
  });
  for (const name of ["heat", "grid", "smooth"]) {
    toggle(name, (on) => {
      view[name] = on;
      paint();
    });
  }
  choices("resize", [["", "own"], ["crop", "crop"], ["squash", "squash"], ["fit", "fit"]], (resize) => {
    asked.resize = resize;
    for (const { scores } of tray.pictures) scores.clear();
    refresh(...EVERYTHING);
  });
  choices("method", [["raw", "raw"], ["rollout", "rollout"]], (method) => {
    asked.method = method;
    part("head").toggleAttribute("inert", method === "rollout"); // it takes the mean over the heads
    refresh("attention");
  });
  part("sweep").addEventListener("click", sweep);
  new ResizeObserver(paint).observe(part("exhibits"));
}

async function meet() {
  try {
    model = (await ask("model")).body;
    settle();
    furnish();
    refresh(...EVERYTHING);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    complain(error);
    if (error.status === 503) setTimeout(meet, 1000 * (error.retryAfter || 1));
  }
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(part("key").value.trim());
  settle();
  if (model) refresh(...EVERYTHING);
  else meet();
});

controls();
intake((pictures) => tray.add(pictures));
meet();

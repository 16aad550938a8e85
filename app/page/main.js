// The page: when an image or a control changes, request what is stale, then draw everything again.

import { key, Problem, request } from "./api.js";
import { chart } from "./chart.js";
import { command, list as listCommands } from "./curl.js";
import { ImageList } from "./image-list.js";
import { ImageView } from "./image-view.js";
import { hideProblem, showProblem } from "./problems.js";
import { list as listTimings } from "./timings.js";
import { onImages } from "./upload.js";
import { checkbox, radioGroup, slider } from "./widgets.js";

const byId = (id) => document.getElementById(id);
const ALL_PARTS = ["image", "classes", "attention", "similarity"];

let model = null; // the answer of GET /model
let views = []; // the images that are shown
let lastTimings = {}; // of the last request of each part
const stale = new Set(); // parts that have to be requested again
const settings = { patches: null, resize: "", layer: null, head: "mean", method: "raw" };
const display = { heat: true, grid: true, smooth: true, opacity: 0.8 };
const imageList = new ImageList(byId("images"), show);

// Requests, as paths and parameters. Defaults are left out, so that the curl commands stay short.

const side = () => settings.patches * model.patch[0];
const isDefaultSize = () => settings.patches === null;
const currentSize = () => (isDefaultSize() ? model.input_size[0] : side());
const resolution = () => ({ size: isDefaultSize() ? null : side(), resize: settings.resize });

function requests() {
  const isLast = settings.layer === null || settings.layer === model.depth - 1;
  const attention = {
    layer: isLast ? null : settings.layer,
    head: settings.head === "mean" || settings.method === "rollout" ? null : settings.head,
    method: settings.method === "raw" ? null : settings.method,
  };
  return {
    image: { path: "preprocess", parameters: resolution() },
    classes: model.classes && { path: "classify", parameters: resolution() },
    attention: model.class_token && { path: "attention", parameters: { ...resolution(), ...attention } },
    similarity: { path: "embed", parameters: { ...resolution(), normalize: true } },
  };
}

// One round of requests at a time. Changes in the meantime start the next round, so that the page follows a slider live.

let running = false;
let keepProblem = false; // after a rejected image was replaced by the previous one, so that its error stays visible

async function refresh(...parts) {
  for (const part of parts) stale.add(part);
  if (running || !model) return;
  running = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    while (stale.size && views.length) await requestStale().catch(handleProblem);
  } finally {
    running = false;
    document.body.removeAttribute("aria-busy");
  }
}

async function requestStale() {
  const parts = new Set(stale);
  const shown = [...views];
  const size = currentSize();
  stale.clear();
  const timings = await Promise.all(shown.map((view) => view.refresh(parts, requests())));
  if (parts.has("similarity") && shown.length === 2) timings.push({ similarity: await compare(shown) });
  lastTimings = Object.assign({}, shown.length === 2 ? lastTimings : { ...lastTimings, similarity: undefined }, ...timings);
  if (parts.has("classes")) shown.forEach(({ image, best }) => rememberScore(image, best, size));
  if (!keepProblem) hideProblem();
  keepProblem = false;
  paint();
}

function rememberScore(image, best, size) {
  if (!best) return;
  image.reference ??= best.label;
  image.scores.set(size, best);
}

async function compare(shown) {
  const { path, parameters } = requests().similarity;
  const { body, timings } = await request(path, parameters, shown.map((view) => view.image));
  const failed = body.results.find((result) => result.error);
  if (failed) throw new Problem(failed.error);
  const [a, b] = body.results.map((result) => result.embedding);
  const cosine = a.reduce((sum, value, i) => sum + value * b[i], 0);
  byId("cosine").textContent = cosine.toFixed(3);
  byId("similarity").querySelector("i").style.width = `${50 * (1 + cosine)}%`;
  return timings;
}

function handleProblem(error) {
  if (!(error instanceof Problem)) throw error;
  showProblem(error);
  const rejected = views.filter((view) => !view.result).map(({ image }) => image);
  if ([400, 413, 415, 422].includes(error.status) && rejected.length) {
    // The page shows the previous images instead of those that were rejected.
    for (const image of rejected) imageList.remove(image);
    keepProblem = true;
    show(imageList.remaining());
  } else if (error.status === 503 && error.retryAfter) {
    setTimeout(() => refresh(...ALL_PARTS), 1000 * error.retryAfter);
  }
}

// Drawing.

function show(images) {
  views = images.map((image, i) => new ImageView(image, images.length > 1 ? "AB"[i] : ""));
  document.body.dataset.shown = views.length;
  byId("views").replaceChildren(...views.map((view) => view.element));
  byId("similarity").hidden = views.length < 2;
  imageList.mark(images);
  refresh(...ALL_PARTS);
}

function paint() {
  for (const view of views) view.paint(display);
  if (!model || !views.length) return;
  const size = currentSize();
  const network = views[0].result?.network;
  const table = model.table_grid.join(" × ");
  byId("size-value").textContent = `${size} px`;
  byId("interpolation").textContent = network?.interpolated
    ? `Position embeddings interpolated from ${table} to ${views[0].result.grid.join(" × ")}.`
    : `Position embeddings used at their own grid of ${table}, not interpolated.`;
  const range = slider.range("size").map((patches) => patches * model.patch[0]);
  chart(byId("chart").firstElementChild, views.map((view) => view.image), size, range);
  showDetails();
}

// Show the curl commands and the timings, and announce the best classes to screen readers.
function showDetails() {
  const { image, classes, attention, similarity } = requests();
  const shown = views.map((view) => view.image);
  const commands = [
    classes && ["classes", command(classes, shown)],
    attention && ["attention", command(attention, shown.slice(0, 1), "attention.png")],
    ["image", command(image, shown.slice(0, 1), "network.png")],
    shown.length === 2 && ["similarity", command(similarity, shown)],
  ];
  listCommands(byId("curls"), commands.filter(Boolean));
  const order = ["classes", "attention", "image", "similarity"];
  listTimings(byId("timings"), order.filter((part) => lastTimings[part]).map((part) => [part, lastTimings[part]]));
  byId("announcement").textContent = views.map(({ best }) => best && `${best.label}, ${Math.round(100 * best.score)} percent`).filter(Boolean).join("; ");
}

// Classify at every size of the slider, small ones first, for the chart.
async function trySizes() {
  const [min, max] = slider.range("size");
  const shown = views.map((view) => view.image);
  const patchesBefore = settings.patches;
  byId("sweep").disabled = true;
  try {
    const step = Math.max(1, Math.round((max - min) / 12));
    for (let patches = min; patches <= max; patches += step) {
      const parameters = { size: patches * model.patch[0], resize: settings.resize, top_k: 1 };
      for (const image of shown) {
        const { body } = await request("classify", parameters, [image]);
        rememberScore(image, body.results[0].predictions?.[0], parameters.size);
      }
      if (settings.patches === patchesBefore) paint();
    }
  } catch (error) {
    handleProblem(error);
  } finally {
    byId("sweep").disabled = false;
  }
}

// Controls whose range depends on the model.
function setUpModelControls() {
  const [patch, defaultPatches] = [model.patch[0], Math.round(model.input_size[0] / model.patch[0])];
  const allowed = Math.floor(Math.sqrt(model.limits.max_tokens_per_image - model.prefix_tokens));
  const max = Math.min(allowed, Math.max(2 * defaultPatches, model.table_grid[0]));
  const size = { min: Math.min(2, defaultPatches), max, value: defaultPatches, text: (patches) => `${patches * patch} px` };
  slider("size", size, (patches) => {
    settings.patches = patches === defaultPatches ? null : patches;
    refresh(...ALL_PARTS);
  });
  const last = model.depth - 1;
  slider("layer", { min: 0, max: last, value: last, text: (layer) => `${layer} of ${last}` }, (layer) => {
    settings.layer = layer;
    refresh("attention");
  });
  const heads = Array.from({ length: model.heads }, (_, head) => [String(head), String(head)]);
  radioGroup("head", [["mean", "mean"], ...heads], (head) => {
    settings.head = head;
    refresh("attention");
  });
  const parameters = `${(model.parameters / 1e6).toFixed(model.parameters < 1e8 ? 1 : 0)} M parameters`;
  byId("model").textContent = `${model.name} · ${parameters} · ${patch}-pixel patches · ${model.device}, ${model.dtype}`;
  document.body.classList.toggle("no-classes", !model.classes);
  document.body.classList.toggle("no-attention", !model.class_token);
}

function setUpControls() {
  slider("opacity", { min: 0, max: 100, value: 80, text: (value) => `${value}%` }, (value) => {
    display.opacity = value / 100;
    paint();
  });
  for (const name of ["heat", "grid", "smooth"]) {
    checkbox(name, (checked) => {
      display[name] = checked;
      paint();
    });
  }
  radioGroup("resize", [["", "default"], ["crop", "crop"], ["squash", "squash"], ["fit", "fit"]], (resize) => {
    settings.resize = resize;
    for (const { scores } of imageList.images) scores.clear();
    refresh(...ALL_PARTS);
  });
  radioGroup("method", [["raw", "raw"], ["rollout", "rollout"]], (method) => {
    settings.method = method;
    byId("head").toggleAttribute("inert", method === "rollout"); // rollout takes the mean over the heads
    refresh("attention");
  });
  byId("sweep").addEventListener("click", trySizes);
  new ResizeObserver(paint).observe(byId("views"));
}

async function loadModel() {
  try {
    model = (await request("model")).body;
    hideProblem();
    setUpModelControls();
    refresh(...ALL_PARTS);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
    if (error.status === 503) setTimeout(loadModel, 1000 * (error.retryAfter || 1));
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  hideProblem();
  if (model) refresh(...ALL_PARTS);
  else loadModel();
});

setUpControls();
onImages((images) => imageList.add(images));
loadModel();

// The page: when an image or a setting changes, request what is stale, then draw everything again.

import { key, Problem, request } from "./api.js";
import { chart, chartTable } from "./chart.js";
import { Collection } from "./collection.js";
import { command, copy, listCommands } from "./curl.js";
import { spanOf } from "./draw.js";
import { chosenToken, loadFeatures } from "./features.js";
import { examplesNamed, onImages } from "./files.js";
import { Gallery } from "./gallery.js";
import { Heads } from "./heads.js";
import { ImageView } from "./image-view.js";
import { hideAnswered, hideProblem, sentenceOf, showProblem, titleOf } from "./problems.js";
import { layerOf, rangesOf, requestsOf, sideOf, sizeOf } from "./requests.js";
import { download, picture, table, vectors } from "./save.js";
import { DEFAULTS, fromFragment, settings, toFragment } from "./settings.js";
import { Sweep } from "./sweep.js";
import { Teach } from "./teach.js";
import { listTimings } from "./timings.js";
import { checkbox, radioGroup, slider, tabs } from "./widgets.js";

const byId = (id) => document.getElementById(id);
const SHIPPED = "vit-small-tiny-imagenet";
const TOGETHER = 3; // from so many images on, each gets an answer of its own in the gallery

const METHODS = [
  ["raw", "raw", "Raw: what [CLS] attends to in this layer."],
  ["rollout", "rollout", "Rollout: what reaches [CLS] through all layers up to this one, with the mean of the heads."],
];
const RESIZES = [
  ["", "own", "Own: as the model was trained to see images."],
  ["crop", "crop", "Crop: scaled to cover the square, and the centre is cut out."],
  ["squash", "squash", "Squash: scaled to the square; the shape of things is lost."],
  ["fit", "fit", "Fit: the shape is kept and nothing is cut."],
];
const MASKS = [
  ["", "all", "All patches. The first three principal components are red, green and blue."],
  ["positive", "one side", "Only the patches on one side of the first component: often the object, or all but it."],
  ["negative", "other side", "Only the patches on the other side of the first component."],
];

let model = null; // the answer of GET /model
let ranges = null; // what of the settings depends on it
let views = []; // the images that are shown: none, one or two
let previous = []; // the images that were shown before them
let collection = null;
let heads = null;
let lastTimings = {}; // of the last request of each part
const gallery = new Gallery({ show: (images) => choose(images), remove: (image) => remove([image]) });
const teach = new Teach();
const sweep = new Sweep(byId("sweep"), byId("sweep-text"), {
  score: (image, best, size) => {
    remember(image, best, size);
    paintChart();
  },
  problem: handle,
});

// One round of requests at a time. Changes in the meantime start the next round, so that the page follows a slider live.

let running = false;
let again = false;
let retry = 0;

async function refresh() {
  clearTimeout(retry);
  paint();
  again = true;
  if (running || !model) return;
  running = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    while (again && views.length) {
      again = false;
      await round();
    }
  } finally {
    running = false;
    document.body.removeAttribute("aria-busy");
  }
}

const keyOf = ({ path, parameters }) => JSON.stringify([path, parameters]);

// What is stale: {part, views, run, forget} for each request.
function staleParts() {
  const shown = [...views];
  const asked = requestsOf(model, settings);
  const jobs = ["classes", "attention", "image"].flatMap((part) => {
    const key = asked[part] && keyOf(asked[part]);
    const stale = shown.filter((view) => view.isStale(part, key));
    return stale.map((view) => ({ part, views: [view], run: () => view.load(part, asked[part], key), forget: () => view.forget(part) }));
  });
  const together = shown.map(({ image }) => image.id).join();
  const features = asked.features && keyOf(asked.features) + together;
  if (shown.some((view) => view.isStale("features", features))) {
    const forget = () => shown.forEach((view) => view.forget("features"));
    jobs.push({ part: "features", views: shown, run: () => loadFeatures(shown, asked.features, features), forget });
  }
  const pair = keyOf(asked.similarity) + together;
  if (shown.length === 2 && compared !== pair) jobs.push({ part: "similarity", views: shown, run: () => compare(shown, asked.similarity, pair), forget: () => showCosine(null) });
  return jobs;
}

async function round() {
  const jobs = staleParts();
  const size = sizeOf(model, settings);
  let done = 0;
  const report = () => views.forEach((view) => view.state("", done, done < jobs.length ? jobs.length : 0));
  for (const job of jobs) for (const view of job.views) view.element.setAttribute("aria-busy", "true");
  report();
  const failures = [];
  await Promise.all(
    jobs.map(async (job) => {
      try {
        lastTimings[job.part] = await job.run();
        if (job.part === "classes") remember(job.views[0].image, job.views[0].best, size);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        job.forget();
        failures.push({ error, job });
      }
      done += 1;
      report();
      paint();
    }),
  );
  for (const view of views) view.element.removeAttribute("aria-busy");
  if (!failures.length) hideAnswered();
  failures.filter(({ error }) => !error.isOfImage).slice(0, 1).forEach(({ error }) => handle(error));
  reject(failures.filter(({ error }) => error.isOfImage).map(({ error, job }) => [error.image ?? job.views[0].image, error]));
  paint();
}

// A bad file is said beside its name; what was shown before it comes back.
function reject(bad) {
  for (const [image, problem] of bad) {
    image.problem = problem;
    gallery.label(image);
    byId("announcement").textContent = `${image.title}: ${titleOf(problem)}. ${sentenceOf(problem)}`;
  }
  if (!bad.length) return;
  gallery.refresh();
  const good = (images) => images.filter((image) => !image.problem && gallery.images.includes(image));
  const [left, before] = [good(views.map(({ image }) => image)), good(previous)];
  show(before.length > left.length ? before : left);
}

function handle(problem) {
  if (problem.isOfImage) return;
  for (const view of views) view.state(view.parts.image ? "" : "No answer", 0, 0);
  showProblem(problem);
  if (problem.retryAfter) retry = setTimeout(refresh, 1000 * problem.retryAfter);
}

function remember(image, best, size) {
  if (!best) return;
  image.reference ??= best.label;
  image.scores.set(size, best);
}

let compared = "";

async function compare(shown, { path, parameters }, pair) {
  const { body, timings } = await request(path, parameters, shown.map((view) => view.image));
  const failed = body.results.findIndex((result) => result.error);
  if (failed >= 0) throw Object.assign(new Problem(body.results[failed].error), { image: shown[failed].image });
  const [a, b] = body.results.map((result) => result.embedding);
  showCosine(a.reduce((sum, value, i) => sum + value * b[i], 0));
  compared = pair;
  return timings;
}

function showCosine(cosine) {
  compared = "";
  byId("cosine").textContent = cosine === null ? "–" : cosine.toFixed(3);
  byId("similarity").querySelector("i").style.width = `${50 * (1 + (cosine ?? -1))}%`;
}

// Adding, choosing and removing images.

let count = 0;

function receive(images, passedOver = 0) {
  for (const image of images) image.id = count++;
  if (images.length) gallery.add(images);
  if (passedOver) byId("gallery-note").textContent = passedOver === 1 ? "1 file of the folder is no image and was passed over." : `${passedOver} files of the folder are no images and were passed over.`;
  if (gallery.images.length >= TOGETHER) collection?.add(gallery.images);
  const shown = views.map(({ image }) => image);
  if (images.length === 1) show(shown.length === 2 ? [shown[0], images[0]] : images);
  else if (images.length === 2) show(images);
  else if (gallery.images.length && !images.length) refresh();
  else show(shown);
}

function choose(images) {
  show(images);
  const [image] = images;
  if (images.length === 1 && image.vector && gallery.images.length >= TOGETHER) gallery.orderBy(image);
  scrollTo({ top: 0 });
}

function show(images, keepPatch = false) {
  const old = new Map(views.map((view) => [view.image, view]));
  if (views.length) previous = views.map(({ image }) => image);
  if (!keepPatch) settings.patch = null;
  views = images.map((image, i) => {
    const view = new ImageView(image, images.length > 1 ? "AB"[i] : "", { patch: describe, choose: choosePatch, clear: clearPatch, remove: (one) => remove([one.image]) });
    view.reserve(model ? aspectOf(image) : 1);
    if (old.has(image)) view.adopt(old.get(image));
    else view.state(model ? "" : "Waiting for the model");
    return view;
  });
  document.body.dataset.shown = views.length;
  byId("views").replaceChildren(...views.map((view) => view.element));
  byId("answer-lists").replaceChildren(...views.map((view) => view.bars));
  byId("similarity").hidden = views.length < 2;
  showCosine(null);
  sweep.stop();
  gallery.mark(images);
  describe(null, null);
  refresh();
}

// Width over height of what the network will see, as far as it is known before the answer.
function aspectOf(image) {
  const [height, width] = model.input_size;
  if (settings.resize !== "fit") return settings.size === null && settings.view === "attention" ? width / height : 1;
  if (image.aspect) return image.aspect;
  const shape = new Image();
  shape.src = URL.createObjectURL(image.file);
  shape.decode().then(() => {
    image.aspect = shape.naturalWidth / shape.naturalHeight;
    const view = views.find((one) => one.image === image);
    if (view && !view.parts.image) view.reserve(image.aspect);
  }, () => {}).finally(() => URL.revokeObjectURL(shape.src));
  return 1;
}

function remove(images) {
  collection?.remove(images);
  for (const image of images) gallery.remove(image);
  const shown = views.map(({ image }) => image);
  const left = shown.filter((image) => gallery.images.includes(image));
  const next = left.length ? left : gallery.images.length === 1 && !gallery.images[0].problem ? gallery.images : [];
  if (left.length < shown.length) show(next);
}

// Patches.

const token = () => (settings.view === "features" ? chosenToken(views, settings.patch) : null);

function describe(view, place) {
  const at = place && [view, place];
  const chosen = settings.view === "features" && settings.patch ? [views[settings.patch.image], [settings.patch.row, settings.patch.column]] : null;
  const [one, where] = at ?? chosen ?? [null, null];
  byId("patch").textContent = one?.parts.image ? one.describe(where, settings, token()) : "\u00a0";
}

function choosePatch(view, [row, column]) {
  if (settings.view === "features") change({ patch: { image: views.indexOf(view), row, column } });
  else paint();
  describe(view, [row, column]);
  byId("announcement").textContent = view.describe([row, column], settings, token());
}

function clearPatch() {
  for (const view of views) view.cursor = null;
  change({ patch: null });
  describe(null, null);
}

// The link to what is seen. Browsers refuse to change the address more than a few times a second.

const LINK_MS = 200;
let linking = 0;

function link() {
  const examples = views.map(({ image }) => image.example);
  return `${location.pathname}${location.search}${toFragment(examples.every(Boolean) ? examples : [])}`;
}

// Drawing.

function change(values) {
  Object.assign(settings, values);
  for (const view of views) view.over = null;
  refresh();
}

function paint() {
  Object.assign(document.body.dataset, { view: settings.view, tab: settings.tab });
  byId("heat-name").textContent = settings.view === "attention" ? "Heat map" : "Colours";
  if (!model) return;
  clearTimeout(linking);
  linking = setTimeout(() => history.replaceState(null, "", link()), LINK_MS);
  const chosen = token();
  if (settings.patch && !chosen && settings.view === "features" && views.every((view) => view.parts.features)) missingPatch();
  paintViews();
  byId("clear-patch").disabled = !settings.patch;
  if (!views.length) return;
  heads?.paint(views[0].parts.attention?.attention, settings.method === "rollout");
  const { network, grid } = views[0].parts.image ?? {};
  const own = model.table_grid.join(" × ");
  // No claim before the answer.
  byId("interpolation").textContent = !network || settings.view === "features" ? "\u00a0" : network.interpolated ? `Position embeddings interpolated from ${own} to ${grid.join(" × ")}.` : `Position embeddings used at their own grid of ${own}, not interpolated.`;
  paintChart();
  showDetails();
}

// Likeness has one scale in both pictures: what is bright in the other one is as like as what is bright here.
function paintViews() {
  const chosen = token();
  const maps = chosen ? views.map((view) => view.numbers(settings, chosen)).filter(Boolean) : [];
  const span = maps.length ? [Math.max(0, spanOf(...maps)[0]), 1] : undefined;
  for (const view of views) view.paint(settings, settings, chosen, span);
}

function missingPatch() {
  const { row, column } = settings.patch;
  settings.patch = null;
  showProblem(new Problem({ code: "invalid_link", title: "This patch is not there", detail: `The picture has no patch in row ${row + 1}, column ${column + 1} at this detail` }));
}

function paintChart() {
  const images = views.map((view) => view.image);
  chart(byId("chart").firstElementChild, images, sizeOf(model, settings), ranges.size.map((patches) => patches * model.patch[0]));
  chartTable(byId("chart-table").querySelector("table"), images);
}

// Show the curl commands and the timings, and announce the best classes to screen readers.
function showDetails() {
  const { image, classes, map, colours, similarity } = requestsOf(model, settings);
  const shown = views.map((view) => view.image);
  const commands = [
    classes && ["classes", command(classes, shown)],
    settings.view === "attention" && map && ["attention", command(map, shown.slice(0, 1), "attention.png")],
    settings.view === "features" && ["features", command(colours, shown.slice(0, 1), "features.png")],
    ["image", command(image, shown.slice(0, 1), "network.png")],
    shown.length === 2 && ["similarity", command(similarity, shown)],
  ];
  listCommands(byId("curls"), commands.filter(Boolean));
  const order = ["classes", settings.view, "image", ...(shown.length === 2 ? ["similarity"] : [])];
  listTimings(byId("timings"), order.filter((part) => lastTimings[part]).map((part) => [part, lastTimings[part]]));
  const best = views.map((view) => view.best && `${view.best.label}, ${Math.round(100 * view.best.score)} percent`).filter(Boolean).join("; ");
  if (best && best !== announced) byId("announcement").textContent = announced = best;
}

let announced = "";

// Controls.

function setUpControls() {
  const { patch, depth } = model;
  slider("opacity", { range: ranges.opacity, value: settings.opacity, text: (value) => `${value} percent` }, (opacity) => change({ opacity }));
  for (const name of ["heat", "grid", "smooth"]) checkbox(name, settings[name], (checked) => change({ [name]: checked }));
  radioGroup("method", METHODS, settings.method, (method) => change({ method }));
  radioGroup("mask", MASKS, settings.mask, (mask) => change({ mask }));
  radioGroup("resize", RESIZES, settings.resize, (resize) => {
    for (const image of gallery.images) image.scores.clear();
    change({ resize, patch: null });
  });
  slider("size", { range: ranges.size, value: settings.size ?? ranges.own, text: (patches) => `${patches * patch[0]} pixels` }, (patches) => change({ size: patches === ranges.own ? null : patches }));
  slider("layer", { range: ranges.layer, value: layerOf(model, settings), text: (layer) => `layer ${layer + 1} of ${depth}` }, (layer) => change({ layer: layer === ranges.usualLayer ? null : layer }));
  slider("side", { range: ranges.side, value: sideOf(model, settings), text: (side) => `${side} × ${side} patches` }, (side) => change({ side: side === ranges.usualSide ? null : side, patch: null }));
  heads = new Heads(byId("head"), model.heads, (head) => change({ head }));
  heads.select(settings.head);
  tabs(["attention", "features"], settings.view, (view) => change({ view }));
  tabs(["look", "teach"], settings.tab, turnTo);
  for (const id of ["tab-look", "tab-teach"]) byId(id).disabled = false;
}

function turnTo(tab) {
  change({ tab });
  if (tab === "teach") teach.open(model);
}

function describeModel() {
  const parameters = `${(model.parameters / 1e6).toFixed(model.parameters < 1e8 ? 1 : 0)} M parameters`;
  byId("model").textContent = `${model.name} · ${parameters} · ${model.patch[0]}-pixel patches · ${model.device}, ${model.dtype}`;
  byId("demonstration").hidden = model.name !== SHIPPED;
  byId("demonstration").classList.remove("pending");
  byId("demonstration-classes").textContent = model.classes;
  document.body.classList.toggle("no-classes", !model.classes);
  byId("tab-attention").disabled = !model.class_token;
}

// A link brings the settings back, and the examples that it names; other pictures stay where they are.
async function followLink() {
  const { found, examples, faults } = fromFragment(location.hash, ranges);
  Object.assign(settings, DEFAULTS, model.class_token ? {} : { view: "features" }, found);
  setUpControls();
  const here = (name) => gallery.images.find(({ example }) => example === name);
  const added = await examplesNamed(examples.filter((name) => !here(name)));
  for (const image of added) image.id = count++;
  if (added.length) gallery.add(added);
  const named = examples.map(here).filter(Boolean);
  if (named.length) show(named.slice(0, 2), true);
  else change({});
  if (settings.tab === "teach") teach.open(model);
  faults.push(...examples.filter((name) => !here(name)).map((name) => `example ${name}`));
  if (faults.length) showProblem(new Problem({ code: "invalid_link", title: "This link names what is not here", detail: faults.join("; ") }));
}

const begun = performance.now();

async function loadModel() {
  try {
    model = (await request("model")).body;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.code === "loading") byId("model").textContent = `Loading the model: ${Math.round((performance.now() - begun) / 1000)} s so far`;
    else showProblem(error);
    if (error.retryAfter) setTimeout(loadModel, 1000 * error.retryAfter);
    return;
  }
  hideProblem();
  ranges = rangesOf(model);
  describeModel();
  collection = new Collection(model, { answered: (image) => gallery.label(image), finished: () => gallery.refresh() });
  for (const view of views) view.state("");
  await followLink();
  if (gallery.images.length >= TOGETHER) collection.add(gallery.images);
}

function caption() {
  const titles = views.map(({ image }) => image.title).join(" and ");
  const what =
    settings.view === "attention"
      ? `attention of [CLS], layer ${layerOf(model, settings) + 1} of ${model.depth}, ${settings.method === "rollout" ? "rollout" : settings.head === "mean" ? "mean of the heads" : `head ${settings.head}`}`
      : settings.patch
        ? `similarity to the patch in row ${settings.patch.row + 1}, column ${settings.patch.column + 1}`
        : "principal components of the patches, the same colours in each picture";
  const { network, grid } = views[0].parts.image;
  return [`${titles}: ${views.length === 1 ? what.replace(", the same colours in each picture", "") : what}`, `${model.name}, ${network.width} × ${network.height} pixels, ${grid.join(" × ")} patches. Made with Vitrine.`];
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  hideProblem();
  if (model) refresh();
  else loadModel();
  if (settings.tab === "teach" && model) teach.open(model);
});
byId("sweep").addEventListener("click", () => sweep.run(model, ranges.size, settings.resize, views.map(({ image }) => image)));
byId("clear-patch").addEventListener("click", clearPatch);
byId("remove-all").addEventListener("click", () => {
  collection?.remove(gallery.images);
  gallery.clear();
  show([]);
});
byId("save-csv").addEventListener("click", () => download(table(gallery.ordered), "images.csv"));
byId("save-npy").addEventListener("click", () => download(vectors(gallery.ordered), "vectors.npy"));
byId("save-png").addEventListener("click", async () => {
  if (views.length && views.every(({ layers, parts }) => layers && parts.image)) download(await picture(views, settings, caption()), "vitrine.png");
});
byId("copy-link").addEventListener("click", async ({ target }) => {
  const text = target.textContent;
  target.textContent = (await copy(new URL(link(), location.href).href)) ? "Copied" : "Copy failed";
  setTimeout(() => (target.textContent = text), 1500);
});
addEventListener("hashchange", () => model && followLink());
new ResizeObserver(() => model && paintViews()).observe(byId("views"));

onImages((images, passedOver, place) => (settings.tab === "teach" ? teach.receive(images, passedOver, place) : receive(images, passedOver)));
loadModel();

// The requests behind what is on screen, as paths and parameters. Defaults are left out, so that the curl commands stay short.

const SIDES = [32, 40]; // patches a side that are worth looking at
const USUAL_SIDE = 37;

// What of the settings depends on the model: defaults and ranges.
export function rangesOf(model) {
  const own = Math.max(1, Math.round(model.input_size[0] / model.patch[0]));
  const most = Math.floor(Math.sqrt(model.limits.max_tokens_per_image - model.prefix_tokens));
  const table = model.table_grid[0];
  const wanted = table >= SIDES[0] && table <= SIDES[1] ? table : USUAL_SIDE;
  return {
    own,
    size: [Math.min(2, own), Math.min(most, Math.max(2 * own, table))],
    layer: [0, model.depth - 1],
    head: [0, model.heads - 1],
    side: [Math.min(8, most), Math.min(most, Math.max(SIDES[1], wanted))],
    opacity: [0, 100],
    usualSide: Math.min(most, wanted),
    // Three quarters through, attention is on the object; the last layers gather what they need from few patches.
    usualLayer: Math.round(0.75 * (model.depth - 1)),
  };
}

export const sizeOf = (model, settings) => (settings.size ?? rangesOf(model).own) * model.patch[0];
export const sideOf = (model, settings) => settings.side ?? rangesOf(model).usualSide;
export const layerOf = (model, settings) => settings.layer ?? rangesOf(model).usualLayer;

export function requestsOf(model, settings) {
  const resolution = { size: settings.size === null ? null : sizeOf(model, settings), resize: settings.resize };
  const detailed = { size: sideOf(model, settings) * model.patch[0], resize: settings.resize };
  const features = settings.view === "features";
  const layer = layerOf(model, settings);
  const attention = { ...resolution, layer: layer === model.depth - 1 ? null : layer };
  const rollout = settings.method === "rollout";
  const patch = settings.patch && `${settings.patch.row},${settings.patch.column}`;
  return {
    image: { path: "preprocess", parameters: features ? detailed : resolution },
    classes: model.classes && { path: "classify", parameters: resolution },
    attention: !features && model.class_token && { path: "attention", parameters: rollout ? { ...attention, method: "rollout" } : { ...attention, head: "all" } },
    map: model.class_token && { path: "attention", parameters: { ...attention, head: rollout || settings.head === "mean" ? null : settings.head, method: rollout ? "rollout" : null } },
    features: features && { path: "features", parameters: { ...detailed, mask: settings.mask, with_tokens: true } },
    colours: { path: "features", parameters: patch ? { ...detailed, output: "similarity", patch } : { ...detailed, mask: settings.mask } },
    similarity: { path: "embed", parameters: { ...resolution, normalize: true } },
  };
}

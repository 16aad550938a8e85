// Dense features of the pictures that are shown: one request, so that the same colour means the same thing in each.

import { Problem, request } from "./api.js";
import { float16 } from "./vectors.js";

export async function loadFeatures(views, { path, parameters }, key) {
  const { body, timings } = await request(path, parameters, views.map(({ image }) => image));
  await Promise.all(
    views.map(async (view, i) => {
      const result = body.results[i];
      if (result.error) throw Object.assign(new Problem(result.error), { image: view.image });
      const pixels = new Image();
      pixels.src = result.picture;
      await pixels.decode();
      result.pixels = pixels;
      result.halves = float16(result.tokens);
      delete result.tokens;
      await view.receive("features", result, key);
    }),
  );
  return timings;
}

// Return the token of the chosen patch; null if none is chosen, or if this grid does not have it.
export function chosenToken(views, patch) {
  const features = patch && views[patch.image]?.parts.features;
  if (!features) return null;
  const [rows, columns] = features.grid;
  if (patch.row >= rows || patch.column >= columns) return null;
  const dim = features.halves.length / (rows * columns);
  const start = (patch.row * columns + patch.column) * dim;
  return features.halves.subarray(start, start + dim);
}

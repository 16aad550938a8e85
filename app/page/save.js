// Files to keep: the table, the vectors, and the picture that is seen with a caption.

import { paint } from "./draw.js";

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// RFC 4180, in UTF-8. A name that a spreadsheet would take for a formula gets an apostrophe.
export function table(images) {
  const rows = [["file", "label", "score", "likeness", "problem"]];
  for (const { path, prediction, likeness, problem } of images) {
    const name = /^[=+\-@\t\r]/.test(path) ? `'${path}` : path;
    rows.push([name, prediction?.label ?? "", prediction?.score ?? "", likeness ?? "", problem ? `${problem.code}: ${problem.message}` : ""]);
  }
  const field = (value) => (/[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return new Blob([rows.map((row) => row.map(field).join(",")).join("\r\n"), "\r\n"], { type: "text/csv" });
}

// numpy's format 1.0: float32 (n, dim), in the order of the table; an image without a vector is a row of NaN.
export function vectors(images) {
  const dim = images.find(({ vector }) => vector)?.vector.length ?? 0;
  const numbers = new Float32Array(images.length * dim).fill(NaN);
  images.forEach(({ vector }, i) => vector && numbers.set(vector, i * dim));
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${images.length}, ${dim}), }`;
  const padded = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + "\n";
  const start = Uint8Array.from([0x93, ...[..."NUMPY"].map((letter) => letter.charCodeAt(0)), 1, 0, padded.length % 256, padded.length >> 8]);
  return new Blob([start, padded, numbers], { type: "application/octet-stream" });
}

const [SIDE, GAP, LINE] = [900, 24, 30];

export async function picture(views, display, caption) {
  const drawn = views.map(({ layers }) => {
    const canvas = document.createElement("canvas");
    paint(canvas, SIDE, { ...layers, cursor: null }, display, 2);
    return canvas;
  });
  const canvas = document.createElement("canvas");
  canvas.width = drawn.length * (SIDE + GAP) + GAP;
  canvas.height = Math.max(...drawn.map(({ height }) => height)) + 2 * GAP + (caption.length + 1) * LINE;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fffefb";
  context.fillRect(0, 0, canvas.width, canvas.height);
  drawn.forEach((one, i) => context.drawImage(one, GAP + i * (SIDE + GAP), GAP));
  context.fillStyle = "#211f1c";
  context.font = "20px sans-serif";
  caption.forEach((line, i) => context.fillText(line, GAP, canvas.height - (caption.length - i) * LINE + 4, canvas.width - 2 * GAP));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// Draw the pixels that the network receives, and over them the patches: attention, similarity or colours.

// Nine evenly spaced colours of matplotlib's inferno (Smith & van der Walt, CC0), the same as in app/pictures/drawing.py.
const INFERNO = [
  [0, 0, 4], [33, 12, 74], [86, 16, 110], [137, 34, 106], [187, 55, 84],
  [227, 89, 50], [249, 140, 10], [249, 201, 50], [252, 255, 164],
];

const STEPS_PER_PATCH = 6; // along a side: enough for steps to be invisible

// The least and the greatest number of some maps.
export function spanOf(...maps) {
  const numbers = maps.flat(2);
  return [numbers.reduce((a, b) => Math.min(a, b), Infinity), numbers.reduce((a, b) => Math.max(a, b), -Infinity)];
}

// Return a canvas with one colour per patch; the picture shows through where the weight is low.
export function heatMap(rows, smooth, [min, max] = spanOf(rows)) {
  const range = Math.max(max - min, 1e-12);
  const steps = smooth ? STEPS_PER_PATCH : 1;
  const canvas = new OffscreenCanvas(rows[0].length * steps, rows.length * steps);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, i = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++, i += 4) {
      const value = Math.min(1, Math.max(0, (interpolate(rows, (y + 0.5) / steps - 0.5, (x + 0.5) / steps - 0.5) - min) / range));
      const [red, green, blue] = colour(value);
      image.data[i] = red;
      image.data[i + 1] = green;
      image.data[i + 2] = blue;
      image.data[i + 3] = 255 * Math.min(1, 1.25 * value ** 0.8);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Interpolate the weight between the centres of patches, bilinearly.
function interpolate(rows, y, x) {
  const [top, bottom, down] = neighbours(y, rows.length);
  const [left, right, across] = neighbours(x, rows[0].length);
  const upper = rows[top][left] * (1 - across) + rows[top][right] * across;
  const lower = rows[bottom][left] * (1 - across) + rows[bottom][right] * across;
  return upper * (1 - down) + lower * down;
}

function neighbours(position, count) {
  const inside = Math.min(Math.max(position, 0), count - 1);
  const below = Math.floor(inside);
  return [below, Math.min(below + 1, count - 1), inside - below];
}

function colour(value) {
  const position = value * (INFERNO.length - 1);
  const below = Math.min(Math.floor(position), INFERNO.length - 2);
  return INFERNO[below].map((from, i) => from + (position - below) * (INFERNO[below + 1][i] - from));
}

// layers: pixels (an image), over ({smooth, plain}, each something to draw), grid, cursor and chosen ([row, column]).
export function draw(canvas, layers, display) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  paint(canvas, width, layers, display, ratio);
}

export function paint(canvas, width, { pixels, over, grid, cursor, chosen }, display, ratio = 1) {
  canvas.width = width;
  canvas.height = Math.round((width * pixels.naturalHeight) / pixels.naturalWidth);
  const context = canvas.getContext("2d");
  // Without smoothing, because these pixels are all that the network receives.
  context.imageSmoothingEnabled = false;
  context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
  if (over && display.heat) {
    context.globalAlpha = display.opacity / 100;
    context.imageSmoothingEnabled = display.smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(display.smooth ? over.smooth : over.plain, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }
  if (display.grid) drawGrid(context, grid, ratio);
  if (chosen) drawPatch(context, grid, chosen, 3 * ratio);
  if (cursor) drawPatch(context, grid, cursor, 2 * ratio);
}

function drawGrid(context, [rows, columns], ratio) {
  const { width, height } = context.canvas;
  context.lineWidth = ratio;
  // The lines of fine grids are fainter, so that the image stays visible.
  context.strokeStyle = `rgb(255 255 255 / ${Math.min(0.4, 4 / Math.max(rows, columns))})`;
  context.beginPath();
  for (let column = 1; column < columns; column++) {
    const x = Math.round((column * width) / columns) + 0.5;
    context.moveTo(x, 0);
    context.lineTo(x, height);
  }
  for (let row = 1; row < rows; row++) {
    const y = Math.round((row * height) / rows) + 0.5;
    context.moveTo(0, y);
    context.lineTo(width, y);
  }
  context.stroke();
}

// A white square with a dark rim, so that it is seen on every picture.
function drawPatch(context, [rows, columns], [row, column], line) {
  const [width, height] = [context.canvas.width / columns, context.canvas.height / rows];
  for (const [colour, thickness] of [["#000", 2 * line], ["#fff", line]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.strokeRect(column * width, row * height, width, height);
  }
}

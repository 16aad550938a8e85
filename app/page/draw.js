// Draw the pixels that the network receives, the patch grid and the attention on a canvas.

// Nine evenly spaced colours of matplotlib's inferno (Smith & van der Walt, CC0), the same as in app/pictures/drawing.py.
const INFERNO = [
  [0, 0, 4], [33, 12, 74], [86, 16, 110], [137, 34, 106], [187, 55, 84],
  [227, 89, 50], [249, 140, 10], [249, 201, 50], [252, 255, 164],
];

const MIN_OPACITY = 0.3; // at the lowest weight, relative to the highest, so that the image stays visible there
const STEPS_PER_PATCH = 8; // along a side: enough for steps to be invisible

// Return a canvas with one colour per patch, from the lowest weight (dark, faint) to the highest (bright).
export function heatMap(rows, smooth) {
  const weights = rows.flat();
  const min = Math.min(...weights);
  const range = Math.max(Math.max(...weights) - min, 1e-12);
  const steps = smooth ? STEPS_PER_PATCH : 1;
  const canvas = new OffscreenCanvas(rows[0].length * steps, rows.length * steps);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, i = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++, i += 4) {
      const value = (interpolate(rows, (y + 0.5) / steps - 0.5, (x + 0.5) / steps - 0.5) - min) / range;
      image.data.set([...colour(value), 255 * (MIN_OPACITY + (1 - MIN_OPACITY) * value)], i);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Interpolate the weight between the centres of patches, bilinearly.
function interpolate(rows, y, x) {
  const neighbours = (position, count) => {
    const inside = Math.min(Math.max(position, 0), count - 1);
    const below = Math.floor(inside);
    return [below, Math.min(below + 1, count - 1), inside - below];
  };
  const [top, bottom, down] = neighbours(y, rows.length);
  const [left, right, across] = neighbours(x, rows[0].length);
  const mix = (row) => row[left] * (1 - across) + row[right] * across;
  return mix(rows[top]) * (1 - down) + mix(rows[bottom]) * down;
}

function colour(value) {
  const position = value * (INFERNO.length - 1);
  const below = Math.min(Math.floor(position), INFERNO.length - 2);
  return INFERNO[below].map((from, i) => from + (position - below) * (INFERNO[below + 1][i] - from));
}

export function draw(canvas, { pixels, heat, grid }, display) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  canvas.width = width;
  canvas.height = Math.round((width * pixels.height) / pixels.width);
  const context = canvas.getContext("2d");
  // Without smoothing, because these pixels are all that the network receives.
  context.imageSmoothingEnabled = false;
  context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
  if (heat && display.heat) {
    context.globalAlpha = display.opacity;
    context.imageSmoothingEnabled = display.smooth;
    context.drawImage(heat[display.smooth ? "smooth" : "plain"], 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }
  if (display.grid) drawGrid(context, grid, ratio);
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

// A picture as the network sees it, its patch grid, and the attention over it, on a canvas.

// Nine colours of matplotlib's inferno (Smith & van der Walt, CC0), evenly spaced, as app/pictures/drawing.py has them.
const INFERNO = [
  [0, 0, 4], [33, 12, 74], [86, 16, 110], [137, 34, 106], [187, 55, 84],
  [227, 89, 50], [249, 140, 10], [249, 201, 50], [252, 255, 164],
];

const FAINTEST = 0.3; // of the opacity, so that what is not looked at stays to be seen
const FINER = 8; // points along a patch's side, between which nobody sees a step

// Weights of patches -> a canvas of colours, from the least (dark, faint) to the greatest (bright).
export function heatMap(rows, smooth) {
  const weights = rows.flat();
  const least = Math.min(...weights);
  const range = Math.max(Math.max(...weights) - least, 1e-12);
  const times = smooth ? FINER : 1;
  const canvas = new OffscreenCanvas(rows[0].length * times, rows.length * times);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, i = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++, i += 4) {
      const value = (between(rows, (y + 0.5) / times - 0.5, (x + 0.5) / times - 0.5) - least) / range;
      image.data.set([...colour(value), 255 * (FAINTEST + (1 - FAINTEST) * value)], i);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// The weight at a place between the centres of patches, bilinear.
function between(rows, y, x) {
  const along = (place, count) => {
    const inside = Math.min(Math.max(place, 0), count - 1);
    const below = Math.floor(inside);
    return [below, Math.min(below + 1, count - 1), inside - below];
  };
  const [top, bottom, down] = along(y, rows.length);
  const [left, right, across] = along(x, rows[0].length);
  const mix = (row) => row[left] * (1 - across) + row[right] * across;
  return mix(rows[top]) * (1 - down) + mix(rows[bottom]) * down;
}

function colour(value) {
  const place = value * (INFERNO.length - 1);
  const below = Math.min(Math.floor(place), INFERNO.length - 2);
  return INFERNO[below].map((from, i) => from + (place - below) * (INFERNO[below + 1][i] - from));
}

export function draw(canvas, { picture, heat, grid }, view) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  canvas.width = width;
  canvas.height = Math.round((width * picture.height) / picture.width);
  const context = canvas.getContext("2d");
  // Its own pixels, and no finer ones: this is all that the network is given.
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (heat && view.heat) {
    context.globalAlpha = view.opacity;
    context.imageSmoothingEnabled = view.smooth;
    context.drawImage(heat[view.smooth ? "smooth" : "plain"], 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }
  if (view.grid) lines(context, grid, ratio);
}

function lines(context, [rows, columns], ratio) {
  const { width, height } = context.canvas;
  context.lineWidth = ratio;
  // Fine grids get fainter lines, so that the picture stays in front.
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

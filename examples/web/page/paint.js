// Maps as pictures, in the colours of the theme.

const STEPS = 256;
let colours = [];

/** The colours of the style sheet's --map, from nothing to the most. */
export function takeColours() {
  const strip = document.createElement("canvas");
  strip.width = STEPS;
  strip.height = 1;
  const context = strip.getContext("2d", { willReadFrequently: true });
  const gradient = context.createLinearGradient(0, 0, STEPS, 0);
  const stops = style("--map").split(",");
  stops.forEach((stop, i) => gradient.addColorStop(i / (stops.length - 1), stop.trim()));
  context.fillStyle = gradient;
  context.fillRect(0, 0, STEPS, 1);
  colours = context.getImageData(0, 0, STEPS, 1).data;
}

export function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A square map, a pixel a cell; `most` has the last colour. */
export function paint(canvas, map, most) {
  const size = Math.sqrt(map.length);
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  map.forEach((value, i) => {
    const step = Math.round(Math.min(Math.max(value / (most || 1), 0), 1) * (STEPS - 1));
    image.data.set(colours.subarray(4 * step, 4 * step + 4), 4 * i);
  });
  context.putImageData(image, 0, 0);
}

const small = document.createElement("canvas");

/** A square map, enlarged, with lines between its windows and a frame around one of them. */
export function paintWindows(canvas, map, most, { windows, row, column }) {
  const side = 392;
  paint(small, map, most);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, side, side);
  const step = side / windows;
  context.fillStyle = style("--line");
  context.globalAlpha = 0.5;
  for (let i = 1; i < windows; i++) {
    context.fillRect(Math.round(i * step), 0, 1, side);
    context.fillRect(0, Math.round(i * step), side, 1);
  }
  context.globalAlpha = 1;
  for (const [width, colour] of [[7, "--card"], [4, "--max"]]) {
    context.lineWidth = width;
    context.strokeStyle = style(colour);
    context.strokeRect(column * step, row * step, step, step);
  }
}

// What the page does: reads what is drawn, and shows it.

import { Lens } from "./lens.js";
import { Pad } from "./pad.js";
import { paint, takeColours } from "./paint.js";
import { CHANNELS, load } from "./pooling.js";
import { say } from "./say.js";

const $ = (id) => document.getElementById(id);
const ROWS = [
  { method: "max", name: "Maximum", about: "the strongest cell" },
  { method: "soft", name: "SoftPool", about: "β = 1" },
  { method: "average", name: "Average", about: "all cells alike" },
];
/** β where the slider's end stands for infinity. */
const MOST = 1e6;

let pooling;
let reading;
let channel = 0;
let scheduled = false;
let lens;
/** That the page cannot be loaded has been told. */
let failed = false;
/** The file that is being decoded: null where none is, or where what is drawn since has taken its place. */
let opening = null;

const pad = new Pad($("pad"), schedule, begin);

/** Reads at most once a frame. */
function schedule() {
  $("hint").hidden = !pad.empty;
  if (!pooling || scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    guard(update);
  });
}

function guard(work) {
  try {
    work();
  } catch (error) {
    trouble(error);
  }
}

/** That the page cannot be loaded stays told: whatever else is wrong comes of it, or matters less. */
function trouble(error) {
  if (failed) return;
  $("trouble").textContent = error.message;
  $("trouble").hidden = false;
}

function fail(error) {
  trouble(error);
  failed = true;
}

/** What was wrong with an earlier drawing or file is no longer. */
function forgive() {
  if (!failed) $("trouble").hidden = true;
}

function begin() {
  opening = null;
  forgive();
}

function update() {
  const start = performance.now();
  reading = pooling.read(pad.paper);
  const time = performance.now() - start;
  showAnswer(time);
  showMaps();
}

function showAnswer(time) {
  const { probabilities, ink } = reading;
  const best = probabilities.indexOf(Math.max(...probabilities));
  [...$("bars").children].forEach((item, digit) => {
    const percent = pad.empty ? 0 : 100 * probabilities[digit];
    item.classList.toggle("best", !pad.empty && digit === best);
    item.querySelector("i").style.width = `${percent}%`;
    item.lastChild.textContent = pad.empty ? "" : `${percent.toFixed(1)} %`;
  });
  paint($("ink"), ink, 1);
  $("answer").textContent = pad.empty ? "Nothing yet." : `It reads a ${best}.`;
  say($("answer-said"), $("answer").textContent);
  $("time").textContent = pad.empty ? "" : `Preparing the image and all layers took ${time.toFixed(1)} ms.`;
}

function kernel() {
  return Number(document.querySelector("[name=kernel]:checked").value);
}

function beta() {
  const part = Number($("beta").value) / 100;
  return part === 1 ? MOST : part / (1 - part);
}

/** A channel's maps share a scale: pale is what a pooling has lost. */
function showMaps() {
  const most = reading.maps.map((map) => Math.max(...map));
  const show = (row, maps) => maps.forEach((map, i) => paint($(`${row}-${i}`), map, most[i]));
  show("map", reading.maps);
  for (const { method } of ROWS) show(method, pooling.pool(method, kernel()));
  showLens();
}

function showLens() {
  const b = beta();
  $("beta-value").textContent = b === MOST ? "∞" : b.toPrecision(3).replace(/\.?0+$/, "");
  $("beta").setAttribute("aria-valuetext", $("beta-value").textContent);
  const { weights, pooled } = pooling.weigh(kernel(), b);
  lens.show({ map: reading.maps[channel], weights: weights[channel], pooled: pooled[channel], kernel: kernel() });
}

function choose(chosen) {
  channel = chosen;
  for (let i = 0; i < CHANNELS; i++) $(`map-${i}`).parentElement.setAttribute("aria-pressed", String(i === channel));
}

function buildBars() {
  $("bars").innerHTML = Array.from({ length: 10 }, (_, i) => `<li><span>${i}</span><span class="bar"><i></i></span><span></span></li>`).join("");
}

function buildGrid() {
  const cells = (cell) => Array.from({ length: CHANNELS }, (_, i) => `<td>${cell(i)}</td>`).join("");
  const first = cells((i) => `<button type="button" aria-label="Map ${i + 1}"><canvas id="map-${i}"></canvas></button>`);
  const rows = ROWS.map(({ method, name, about }) => {
    const pooled = cells((i) => `<canvas id="${method}-${i}" role="img" aria-label="Map ${i + 1}, ${name}"></canvas>`);
    return `<tr><th scope="row" class="${method}">${name}<small>${about}</small></th>${pooled}</tr>`;
  });
  $("grid").innerHTML = `<tr><th scope="row">Not pooled<small>28×28</small></th>${first}</tr>${rows.join("")}`;
  for (let i = 0; i < CHANNELS; i++) {
    $(`map-${i}`).parentElement.addEventListener("click", () => {
      choose(i);
      lens.forget();
      if (reading) guard(showLens);
    });
  }
}

function buildTools() {
  $("clear").addEventListener("click", () => pad.clear());
  for (let digit = 0; digit < 10; digit++) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: digit });
    button.addEventListener("click", () => pad.draw(digit));
    $("examples").append(button);
  }
  $("file").addEventListener("change", ({ target }) => {
    open(target.files[0]);
    target.value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("pad").parentElement.classList.add("drop");
  });
  addEventListener("dragleave", () => $("pad").parentElement.classList.remove("drop"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("pad").parentElement.classList.remove("drop");
    drop(event.dataTransfer.files);
  });
  $("beta").addEventListener("input", () => reading && guard(showLens));
  $("kernels").addEventListener("change", () => {
    lens.forget();
    if (reading) guard(showMaps);
  });
}

function drop([file]) {
  if (file) open(file);
  else trouble(new Error("What was dropped is no file. An image of another page has to be saved first, then opened."));
}

/** Shows an image, unless something else was begun while it was decoded. */
async function open(file) {
  if (!file) return;
  begin();
  opening = file;
  const image = await decode(file).catch(() => null);
  if (opening !== file) {
    image?.close();
  } else if (image) {
    pad.show(image);
  } else {
    opening = null;
    trouble(new Error(`${file.name} is no image that this browser can open.`));
  }
}

/** An image as large as the drawing area at most: a photo's would take many times its memory. */
async function decode(file) {
  const whole = await createImageBitmap(file);
  const scale = $("pad").width / Math.max(whole.width, whole.height);
  if (scale >= 1) return whole;
  const [resizeWidth, resizeHeight] = [whole.width, whole.height].map((size) => Math.max(Math.round(size * scale), 1));
  try {
    return await createImageBitmap(whole, { resizeWidth, resizeHeight, resizeQuality: "high" });
  } finally {
    whole.close();
  }
}

function takeTheme() {
  takeColours();
  pad.redraw();
  if (reading) guard(update);
}

lens = new Lens();
buildBars();
buildGrid();
buildTools();
choose(0);
takeTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", takeTheme);
load().then((loaded) => {
  pooling = loaded;
  document.documentElement.dataset.ready = "yes";
  if (pad.empty && !opening) pad.draw(3);
  else schedule();
}, fail);

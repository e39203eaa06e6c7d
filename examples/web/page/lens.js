// One map under the lens: its weights and what is pooled, for any β, and the cells of one window on a line.

import { paintWindows, style } from "./paint.js";
import { SIZE } from "./pooling.js";
import { say } from "./say.js";

const $ = (id) => document.getElementById(id);
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class Lens {
  #state = null;
  /** The window that the reader has chosen. */
  #chosen = null;

  constructor() {
    for (const id of ["lens-map", "lens-weights", "lens-pooled"]) {
      for (const name of ["pointermove", "pointerdown"]) $(id).addEventListener(name, (event) => this.#point(event));
    }
    $("lens-map").addEventListener("keydown", (event) => this.#key(event));
  }

  /** Forgets the chosen window: that of the widest range is shown. */
  forget() {
    this.#chosen = null;
  }

  /** `map`, `weights`, `pooled`: of one channel. */
  show(state) {
    this.#state = state;
    this.#draw();
  }

  #point(event) {
    if (!this.#state) return;
    const { left, top, width } = event.currentTarget.getBoundingClientRect();
    const windows = SIZE / this.#state.kernel;
    const index = (at) => Math.min(Math.max(Math.floor((at / width) * windows), 0), windows - 1);
    this.#choose(index(event.clientY - top), index(event.clientX - left));
  }

  #key(event) {
    if (!(event.key in ARROWS) || !this.#state) return;
    event.preventDefault();
    const last = SIZE / this.#state.kernel - 1;
    const { row, column } = this.#window();
    const [down, right] = ARROWS[event.key];
    this.#choose(Math.min(Math.max(row + down, 0), last), Math.min(Math.max(column + right, 0), last));
    this.#say();
  }

  /** To those who choose by keys; the text below changes with every frame of a drawing, too often to be said. */
  #say() {
    const { row, column } = this.#chosen;
    const numbers = $("window-numbers").textContent.replace(/\s+/g, " ");
    say($("window-said"), `Row ${row + 1}, column ${column + 1}: ${numbers}`);
  }

  #choose(row, column) {
    this.#chosen = { row, column };
    this.#draw();
  }

  /** The cells of `values` in a window. */
  #cells(values, { row, column }) {
    const { kernel } = this.#state;
    return Array.from({ length: kernel * kernel }, (_, i) => {
      const y = row * kernel + Math.floor(i / kernel);
      return values[y * SIZE + column * kernel + (i % kernel)];
    });
  }

  #window() {
    if (this.#chosen) return this.#chosen;
    const windows = SIZE / this.#state.kernel;
    let widest = { row: 0, column: 0, range: -1 };
    for (let i = 0; i < windows * windows; i++) {
      const window = { row: Math.floor(i / windows), column: i % windows };
      const cells = this.#cells(this.#state.map, window);
      const range = Math.max(...cells) - Math.min(...cells);
      if (range > widest.range) widest = { ...window, range };
    }
    return widest;
  }

  #draw() {
    const { map, weights, pooled, kernel } = this.#state;
    const window = this.#window();
    const frame = { windows: SIZE / kernel, ...window };
    const most = Math.max(...map);
    paintWindows($("lens-map"), map, most, frame);
    // Roots, so that the weights of an average can be seen.
    paintWindows($("lens-weights"), weights.map(Math.sqrt), 1, frame);
    paintWindows($("lens-pooled"), pooled, most, frame);
    const y = pooled[(window.row * SIZE) / kernel + window.column];
    this.#line(this.#cells(map, window), this.#cells(weights, window), y);
  }

  /** The activations of a window as discs, as large as their weights, with the three poolings marked. */
  #line(cells, weights, soft) {
    const [low, max] = [Math.min(...cells), Math.max(...cells)];
    const average = cells.reduce((a, b) => a + b) / cells.length;
    const at = (x) => (max > low ? 40 + (560 * (x - low)) / (max - low) : 320);
    const mark = (x, name, label, y) => `
      <line x1="${at(x)}" x2="${at(x)}" y1="24" y2="82" stroke="${style(`--${name}`)}" stroke-width="3"/>
      <text x="${at(x)}" y="${y}" text-anchor="middle" style="fill:${style(`--${name}`)}">${label}</text>`;
    const discs = cells.map((x, i) => {
      const radius = 3 + 24 * Math.sqrt(weights[i]);
      return `<circle cx="${at(x)}" cy="53" r="${radius}" fill="${style("--soft")}" fill-opacity=".28" stroke="${style("--soft")}"/>`;
    });
    $("line").innerHTML = `<line x1="20" x2="620" y1="53" y2="53" stroke="${style("--line")}" stroke-width="2"/>
      ${discs.join("")}
      ${mark(average, "average", "average", 98)}${mark(max, "max", "maximum", 98)}${mark(soft, "soft", "SoftPool", 14)}`;
    const number = (x) => x.toFixed(3);
    const share = (100 * Math.max(...weights)).toFixed(0);
    $("line-text").innerHTML = `The framed window: each disc is one of its ${cells.length} cells, placed by activation, as large as its weight.
      <span id="window-numbers"><span class="average">Average <b>${number(average)}</b></span>,
      <span class="soft">SoftPool <b id="soft-value">${number(soft)}</b></span>,
      <span class="max">maximum <b id="max-value">${number(max)}</b></span>; the heaviest cell has ${share} % of the weight.</span>`;
  }
}

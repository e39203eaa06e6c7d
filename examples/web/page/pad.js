// The drawing area: strokes by mouse, finger, pen and keys, or an image.

import { style } from "./paint.js";
import { strokes as strokesOf } from "./strokes.js";

const WIDTH = 0.075; // Of a stroke, as a part of the area.
const DOT = 1e-4; // The length of a dot.
const STEP = 0.04; // Of an arrow key.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  /** What the network reads: dark on white, whatever the theme. */
  paper = Object.assign(document.createElement("canvas"), { width: 280, height: 280 });
  #canvas;
  #changed;
  #begun;
  #strokes = [];
  #image = null;
  /** Where the keyboard's pen is, and whether it is down. */
  #pen = { x: 0.5, y: 0.5, down: false };
  /** The pointer that the last stroke goes on with, and the digit in the making: null where there is none. */
  #pointer = null;
  #drawing = null;

  /** `changed` is called at every change, `begun` before the first of a drawing, an image or a stroke. */
  constructor(canvas, changed, begun) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.#begun = begun;
    this.paper.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("lostpointercapture", (event) => this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.redraw());
  }

  get empty() {
    return !this.#image && this.#strokes.length === 0;
  }

  clear() {
    this.#begins();
    this.#strokes = [];
    this.#pen.down = false;
    this.#change();
  }

  /** An image in place of strokes. */
  show(image) {
    this.clear();
    this.#image = image;
    this.#change();
  }

  /** Draws a digit as a person would, or at once where motion is unwanted. */
  async draw(digit) {
    this.clear();
    const drawing = (this.#drawing = Symbol());
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    for (const points of strokesOf(digit)) {
      const stroke = [];
      this.#strokes.push(stroke);
      while (stroke.length < points.length) {
        stroke.push(...points.slice(stroke.length, still ? undefined : stroke.length + 2));
        this.#change();
        if (!still) await new Promise(requestAnimationFrame);
        if (drawing !== this.#drawing) return;
      }
    }
    this.#drawing = null;
  }

  redraw() {
    this.#paint(this.paper, "#fff", "#000");
    this.#paint(this.#canvas, style("--paper"), style("--text"));
    // The keyboard's pen, for those who use it.
    if (this.#canvas.matches(":focus-visible")) {
      const context = this.#canvas.getContext("2d");
      const { width } = this.#canvas;
      context.strokeStyle = style("--soft");
      context.lineWidth = 4;
      context.beginPath();
      context.arc(this.#pen.x * width, this.#pen.y * width, this.#pen.down ? 12 : 22, 0, 7);
      context.stroke();
    }
  }

  #change() {
    this.redraw();
    this.#changed();
  }

  #paint(canvas, paper, ink) {
    const context = canvas.getContext("2d");
    const { width } = canvas;
    context.fillStyle = paper;
    context.fillRect(0, 0, width, width);
    if (this.#image) {
      const scale = width / Math.max(this.#image.width, this.#image.height);
      const [w, h] = [this.#image.width * scale, this.#image.height * scale];
      context.drawImage(this.#image, (width - w) / 2, (width - h) / 2, w, h);
    }
    context.strokeStyle = ink;
    context.lineWidth = WIDTH * width;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of this.#strokes) {
      context.beginPath();
      stroke.forEach(({ x, y }) => context.lineTo(x * width, y * width));
      // A stroke of one point is a dot; of a line without any length, a canvas draws nothing.
      const { x, y } = stroke.at(-1);
      context.lineTo((x + DOT) * width, y * width);
      context.stroke();
    }
  }

  #down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.#canvas.focus({ focusVisible: false });
    this.#canvas.setPointerCapture(event.pointerId);
    // Left down, the pen would go on with this stroke.
    this.#pen.down = false;
    this.#begin(this.#point(event));
    this.#pointer = event.pointerId;
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    // All points since the last frame, where the browser tells.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const e of events.length ? events : [event]) this.#strokes.at(-1).push(this.#point(e));
    this.#change();
  }

  #up(event) {
    if (event.pointerId === this.#pointer) this.#pointer = null;
  }

  #point(event) {
    const { left, top, width } = this.#canvas.getBoundingClientRect();
    return { x: (event.clientX - left) / width, y: (event.clientY - top) / width };
  }

  /** A new stroke; over an image or a digit in the making, on an empty area. */
  #begin(point) {
    // Half a digit is of no use.
    if (this.#drawing) this.#strokes = [];
    this.#begins();
    this.#strokes.push([point]);
    this.#change();
  }

  /**
   * Ends a digit in the making and the pointer's stroke, and frees the image: a bitmap holds its memory until it is
   * collected.
   */
  #begins() {
    this.#drawing = this.#pointer = null;
    this.#image?.close();
    this.#image = null;
    this.#begun();
  }

  /** Lowers or lifts the keyboard's pen. */
  #toggle() {
    this.#pen.down = !this.#pen.down;
    if (this.#pen.down) this.#begin({ x: this.#pen.x, y: this.#pen.y });
    else this.redraw();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      const [x, y] = ARROWS[event.key];
      this.#pen.x = Math.min(Math.max(this.#pen.x + x * STEP, 0), 1);
      this.#pen.y = Math.min(Math.max(this.#pen.y + y * STEP, 0), 1);
      if (this.#pen.down) this.#strokes.at(-1).push({ x: this.#pen.x, y: this.#pen.y });
      this.#change();
    } else if (event.key === " ") {
      if (!event.repeat) this.#toggle();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else if (/^[0-9]$/.test(event.key)) {
      this.draw(Number(event.key));
    } else {
      return;
    }
    event.preventDefault();
  }
}

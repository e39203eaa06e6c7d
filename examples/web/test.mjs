// Drives the built page in headless Chromium: draws, reads the answers, moves β. Pictures of it go to dist/; --update
// puts the first into docs/web.png, for docs/platforms.md.
//     node examples/web/test.mjs [--update]
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { Browser } from "./browser.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".wasm": "application/wasm" };

/** Serves dist/ on a free port. */
async function serve() {
  const server = createServer(({ url }, response) => {
    const path = url === "/" ? "/index.html" : url;
    try {
      const content = readFileSync(here(`dist${path}`));
      response.writeHead(200, { "Content-Type": TYPES[extname(path)] }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

/** Runs `steps` on the page in a browser of its own. */
async function onPage(steps, { path = "/", before = "" } = {}) {
  const browser = await Browser.open(process.env.CHROMIUM ?? "chromium");
  const server = await serve();
  try {
    await look(browser, { width: 1080, height: 1000 });
    if (before) await browser.send("Page.addScriptToEvaluateOnNewDocument", { source: before });
    await browser.send("Page.navigate", { url: `http://127.0.0.1:${server.address().port}${path}` });
    await steps(browser);
  } finally {
    await browser.close();
    server.close();
  }
}

const look = (browser, { width, height, dark = false, mobile = false }) =>
  Promise.all([
    browser.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile }),
    browser.send("Emulation.setEmulatedMedia", {
      features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }],
    }),
  ]);

/** The whole page, at a part of its size. */
async function picture(browser, file, scale = 1) {
  const { cssContentSize } = await browser.send("Page.getLayoutMetrics");
  const clip = { ...cssContentSize, scale };
  const { data } = await browser.send("Page.captureScreenshot", { captureBeyondViewport: true, clip });
  writeFileSync(file, Buffer.from(data, "base64"));
}

const ready = (browser) => browser.until("document.documentElement?.dataset.ready === 'yes'");
const press = (browser, id) => browser.value(`document.getElementById("${id}").click()`);
const text = (browser, id) => browser.value(`document.getElementById("${id}").textContent`);

/** The mouse at a point, from 0 to 1, of the drawing area. */
async function mouse(browser, type, [px, py]) {
  const { x, y, width } = await browser.value("document.getElementById('pad').getBoundingClientRect().toJSON()");
  await browser.send("Input.dispatchMouseEvent", { type, x: x + px * width, y: y + py * width, button: "left", buttons: 1, clickCount: 1 });
}

/** Drags the mouse over the drawing area. */
async function drag(browser, points) {
  await mouse(browser, "mousePressed", points[0]);
  for (const point of points) await mouse(browser, "mouseMoved", point);
  await mouse(browser, "mouseReleased", points.at(-1));
}

/** Keys, pressed on an element one after the other. */
async function keys(browser, id, names) {
  await browser.value(`document.getElementById("${id}").focus()`);
  for (const key of names) {
    for (const type of ["keyDown", "keyUp"]) await browser.send("Input.dispatchKeyEvent", { type, key });
  }
}

/** Whether the drawing area has ink at a point. */
const inked = (browser, [x, y]) =>
  browser.value(`(() => {
    const pad = document.getElementById("pad");
    return pad.getContext("2d").getImageData(${x} * pad.width, ${y} * pad.height, 1, 1).data[0] < 128;
  })()`);

/** What shows what has changed by now. */
const frames = (browser) => browser.value("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve())))");

/** A file, by the button for images. */
async function open(browser, file) {
  const { root } = await browser.send("DOM.getDocument");
  const { nodeId } = await browser.send("DOM.querySelector", { nodeId: root.nodeId, selector: "#file" });
  await browser.send("DOM.setFileInputFiles", { nodeId, files: [here(`../classify/samples/${file}`)] });
}

/** Drops on the page what is not a file. */
async function dropText(browser) {
  const data = { items: [{ mimeType: "text/plain", data: "7" }], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) await browser.send("Input.dispatchDragEvent", { type, x: 200, y: 400, data });
}

/** Moves the slider, of 0 to 100, and gives what the page then shows. */
async function beta(browser, position) {
  return browser.value(`(() => {
    const slider = document.getElementById("beta");
    slider.value = ${position};
    slider.dispatchEvent(new Event("input"));
    const shown = (id) => document.getElementById(id).toDataURL();
    const number = (id) => Number(document.getElementById(id).textContent);
    return { weights: shown("lens-weights"), pooled: shown("lens-pooled"), soft: number("soft-value"), max: number("max-value") };
  })()`);
}

/** Evenly spaced points of a line. */
const line = ([ax, ay], [bx, by]) => Array.from({ length: 21 }, (_, i) => [ax + ((bx - ax) * i) / 20, ay + ((by - ay) * i) / 20]);

test("the module is under 2.5 MB compressed", () => {
  const size = gzipSync(readFileSync(here("dist/softpool.wasm"))).length;
  assert.ok(size < 2.5e6, `${size} bytes`);
});

test("strokes of the mouse are read as they are drawn", () =>
  onPage(async (browser) => {
    await ready(browser);
    await press(browser, "clear");
    await browser.until("document.getElementById('answer').textContent === 'Nothing yet.'");
    await drag(browser, [...line([0.28, 0.2], [0.72, 0.2]), ...line([0.72, 0.2], [0.45, 0.85])]);
    await browser.until("document.getElementById('answer').textContent === 'It reads a 7.'");
    await press(browser, "clear");
    await drag(browser, line([0.5, 0.15], [0.5, 0.85]));
    await browser.until("document.getElementById('answer').textContent === 'It reads a 1.'");
    assert.deepEqual(browser.complaints, []);
  }));

test("a click is a dot", () =>
  onPage(async (browser) => {
    await ready(browser);
    await press(browser, "clear");
    await mouse(browser, "mousePressed", [0.3, 0.3]);
    await mouse(browser, "mouseReleased", [0.3, 0.3]);
    assert.ok(await inked(browser, [0.3, 0.3]));
  }));

test("every digit that the page draws itself is read as that digit, by keyboard", () =>
  onPage(async (browser) => {
    await ready(browser);
    for (let digit = 0; digit < 10; digit++) {
      await keys(browser, "pad", [String(digit)]);
      await browser.until(`document.getElementById("answer").textContent === "It reads a ${digit}."`);
    }
    assert.deepEqual(browser.complaints, []);
  }));

test("a stroke over a digit in the making is on an empty area", () =>
  onPage(async (browser) => {
    await ready(browser);
    const stroke = line([0.8, 0.5], [0.8, 0.8]);
    for (const { begin, at } of [
      { begin: () => drag(browser, stroke), at: [0.8, 0.6] },
      { begin: () => keys(browser, "pad", [" "]), at: [0.5, 0.5] },
    ]) {
      await press(browser, "clear");
      // The first frame of a 7, and no second one.
      await browser.value(`(() => {
        const request = requestAnimationFrame;
        const held = [];
        globalThis.requestAnimationFrame = (work) => held.push(work);
        document.querySelector("#examples button:nth-child(8)").click();
        globalThis.release = () => {
          globalThis.requestAnimationFrame = request;
          held.forEach((work) => work());
        };
      })()`);
      assert.ok(await inked(browser, [0.28, 0.2]));
      await begin();
      await browser.value("release()");
      await frames(browser);
      assert.ok(await inked(browser, at));
      assert.ok(!(await inked(browser, [0.28, 0.2])), "half a digit is left");
    }
    assert.deepEqual(browser.complaints, []);
  }));

test("the pen is moved by keys", () =>
  onPage(async (browser) => {
    await ready(browser);
    await keys(browser, "pad", ["Delete", ...Array(8).fill("ArrowUp"), " ", ...Array(16).fill("ArrowDown"), " "]);
    await browser.until("document.getElementById('answer').textContent === 'It reads a 1.'");
  }));

test("the pen is lifted by a stroke of the mouse", () =>
  onPage(async (browser) => {
    await ready(browser);
    await keys(browser, "pad", ["Delete", " "]);
    await drag(browser, line([0.2, 0.2], [0.2, 0.8]));
    await keys(browser, "pad", ["ArrowRight"]);
    assert.ok(await inked(browser, [0.2, 0.5]));
    assert.ok(!(await inked(browser, [0.37, 0.65])), "the pen goes on with the stroke of the mouse");
  }));

test("a stroke of the mouse ends where the pen begins one", () =>
  onPage(async (browser) => {
    await ready(browser);
    await keys(browser, "pad", ["Delete"]);
    await mouse(browser, "mousePressed", [0.2, 0.2]);
    await keys(browser, "pad", [" "]);
    await mouse(browser, "mouseMoved", [0.2, 0.8]);
    await mouse(browser, "mouseReleased", [0.2, 0.8]);
    await frames(browser);
    assert.ok(await inked(browser, [0.2, 0.2]));
    assert.ok(!(await inked(browser, [0.35, 0.65])), "the mouse goes on with the stroke of the pen");
  }));

test("the space bar, held, lowers the pen once", () =>
  onPage(async (browser) => {
    await ready(browser);
    await keys(browser, "pad", ["Delete"]);
    for (const autoRepeat of [false, true]) await browser.send("Input.dispatchKeyEvent", { type: "keyDown", key: " ", autoRepeat });
    await keys(browser, "pad", Array(5).fill("ArrowDown"));
    assert.ok(await inked(browser, [0.5, 0.6]));
  }));

test("an image is read, and freed", () =>
  onPage(async (browser) => {
    await ready(browser);
    await browser.value(`(() => {
      const close = ImageBitmap.prototype.close;
      globalThis.freed = 0;
      ImageBitmap.prototype.close = function () {
        freed++;
        close.call(this);
      };
    })()`);
    await open(browser, "paper.jpg");
    await browser.until("document.getElementById('answer').textContent === 'It reads a 5.'");
    await open(browser, "expected.txt");
    await browser.until("!document.getElementById('trouble').hidden");
    assert.equal(await text(browser, "trouble"), "expected.txt is no image that this browser can open.");
    assert.equal(await browser.value("freed"), 0);
    // The next drawing is not in trouble.
    await drag(browser, line([0.5, 0.15], [0.5, 0.85]));
    await browser.until("document.getElementById('answer').textContent === 'It reads a 1.'");
    assert.equal(await browser.value("document.getElementById('trouble').hidden"), true);
    assert.equal(await browser.value("freed"), 1);
    assert.deepEqual(browser.complaints, []);
  }));

/** Holds paper.jpg, once decoded, until `release()`; counts the images that are freed. */
const LATE = `(() => {
  const create = createImageBitmap;
  globalThis.createImageBitmap = async (source, ...options) => {
    const image = await create(source, ...options);
    if (source.name === "paper.jpg") await new Promise((resolve) => (globalThis.release = resolve));
    return image;
  };
  const close = ImageBitmap.prototype.close;
  globalThis.freed = 0;
  ImageBitmap.prototype.close = function () {
    freed++;
    close.call(this);
  };
})()`;

test("an image that is decoded late does not replace what came after it", () =>
  onPage(
    async (browser) => {
      await ready(browser);
      for (const { next, read } of [
        { next: () => open(browser, "digit-7.png"), read: "It reads a 7." },
        { next: () => drag(browser, line([0.5, 0.15], [0.5, 0.85])), read: "It reads a 1." },
        { next: () => press(browser, "clear"), read: "Nothing yet." },
      ]) {
        await press(browser, "clear");
        await browser.until("document.getElementById('answer').textContent === 'Nothing yet.'");
        await browser.value("freed = 0, delete globalThis.release");
        await open(browser, "paper.jpg");
        await browser.until("globalThis.release");
        await next();
        await browser.until(`document.getElementById("answer").textContent === "${read}"`);
        await browser.value("release()");
        await frames(browser);
        assert.equal(await text(browser, "answer"), read);
        assert.equal(await browser.value("freed"), 1);
      }
      assert.deepEqual(browser.complaints, []);
    },
    { before: LATE },
  ));

test("an image that cannot be opened is not told of after the next drawing", () =>
  onPage(async (browser) => {
    await ready(browser);
    await browser.value(`globalThis.createImageBitmap = () => new Promise((_, reject) => (globalThis.refuse = reject))`);
    await open(browser, "expected.txt");
    await browser.until("globalThis.refuse");
    await press(browser, "clear");
    await browser.value("refuse(new Error())");
    assert.equal(await browser.value("document.getElementById('trouble').hidden"), true);
  }));

test("of a large image, no more is kept than is shown", () =>
  onPage(
    async (browser) => {
      await ready(browser);
      await browser.value(`(async () => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 3000, height: 2000 });
        const context = canvas.getContext("2d");
        context.fillStyle = "white";
        context.fillRect(0, 0, 3000, 2000);
        context.fillStyle = "black";
        context.fillRect(1400, 200, 200, 1600);
        const file = new File([await new Promise((resolve) => canvas.toBlob(resolve))], "large.png");
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(file);
        dispatchEvent(new DragEvent("drop", { dataTransfer }));
      })()`);
      await browser.until("document.getElementById('answer').textContent === 'It reads a 1.'");
      assert.equal(await browser.value("freed"), 1);
      // White from side to side; above and below it, nothing.
      const paper = (y) => browser.value(`[...document.getElementById("pad").getContext("2d").getImageData(10, ${y}, 1, 1).data].slice(0, 3)`);
      assert.deepEqual(await paper(280), [255, 255, 255]);
      assert.notDeepEqual(await paper(85), [255, 255, 255]);
      assert.deepEqual(await paper(100), [255, 255, 255]);
      assert.deepEqual(browser.complaints, []);
    },
    { before: LATE },
  ));

test("what is dropped and is no file is told of", () =>
  onPage(async (browser) => {
    await ready(browser);
    await dropText(browser);
    await browser.until("!document.getElementById('trouble').hidden");
    assert.match(await text(browser, "trouble"), /no file/);
    await press(browser, "clear");
    assert.equal(await browser.value("document.getElementById('trouble').hidden"), true);
    assert.deepEqual(browser.complaints, []);
  }));

/** Timers run when `tick()` says so; texts that a screen reader would say are in `said`. */
const LISTEN = `
  globalThis.timers = new Map();
  globalThis.setTimeout = (work) => {
    globalThis.timed = (globalThis.timed ?? 0) + 1;
    timers.set(timed, work);
    return timed;
  };
  globalThis.clearTimeout = (timer) => timers.delete(timer);
  globalThis.tick = () => {
    const due = [...timers.values()];
    timers.clear();
    due.forEach((work) => work());
  };
  globalThis.said = [];
  addEventListener("DOMContentLoaded", () => {
    const live = "output, [role=status], [role=alert], [aria-live=polite], [aria-live=assertive]";
    new MutationObserver((changes) => {
      for (const { target } of changes) {
        const region = (target.closest ? target : target.parentElement).closest(live);
        if (region) said.push(region.textContent);
      }
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
`;

/** What is said when timers run, of what happened since the last time. */
async function said(browser) {
  await browser.value("tick()");
  return browser.value("said.splice(0)");
}

test("the answer is said once, when the drawing rests", () =>
  onPage(
    async (browser) => {
      await ready(browser);
      await press(browser, "clear");
      await browser.until("document.getElementById('answer').textContent === 'Nothing yet.'");
      await said(browser);
      await drag(browser, line([0.5, 0.15], [0.5, 0.85]));
      await browser.until("document.getElementById('answer').textContent === 'It reads a 1.'");
      assert.deepEqual(await browser.value("said"), []);
      assert.deepEqual(await said(browser), ["It reads a 1."]);
      // The same answer again is no news.
      await drag(browser, line([0.5, 0.15], [0.5, 0.85]));
      await frames(browser);
      assert.deepEqual(await said(browser), []);
    },
    { before: LISTEN },
  ));

test("a window that arrow keys choose is said", () =>
  onPage(
    async (browser) => {
      await ready(browser);
      await browser.until("document.getElementById('answer').textContent === 'It reads a 3.'");
      await said(browser);
      await keys(browser, "lens-map", [...Array(7).fill("ArrowUp"), ...Array(7).fill("ArrowLeft"), "ArrowDown", "ArrowRight", "ArrowRight"]);
      const [window, ...more] = (await said(browser)).filter((text) => !text.startsWith("It reads"));
      assert.match(window, /^Row 2, column 3: Average [\d.]+, SoftPool [\d.]+, maximum [\d.]+; the heaviest cell has \d+ % of the weight\.$/);
      assert.deepEqual(more, []);
    },
    { before: LISTEN },
  ));

test("weights and pooled map change with β, from the average to the maximum", () =>
  onPage(async (browser) => {
    await ready(browser);
    await browser.until("document.getElementById('soft-value')");
    const [average, soft, most] = [await beta(browser, 0), await beta(browser, 50), await beta(browser, 100)];
    for (const shown of ["weights", "pooled"]) {
      assert.equal(new Set([average, soft, most].map((state) => state[shown])).size, 3, shown);
    }
    assert.ok(average.soft < soft.soft && soft.soft < most.soft);
    assert.equal(most.soft, most.max);
  }));

test("a browser without SIMD is told so", () =>
  onPage(
    async (browser) => {
      await browser.until("document.getElementById('trouble')?.hidden === false");
      assert.match(await text(browser, "trouble"), /no SIMD/);
    },
    { before: "WebAssembly.validate = () => false;" },
  ));

test("that the page cannot be loaded stays told", () =>
  onPage(
    async (browser) => {
      const told = async () => {
        assert.equal(await browser.value("document.getElementById('trouble').hidden"), false);
        assert.match(await text(browser, "trouble"), /^softpool.wasm cannot be loaded/);
      };
      await browser.until("document.getElementById('trouble')?.hidden === false");
      await told();
      await press(browser, "clear");
      await told();
      await browser.value("document.getElementById('map-2').click()");
      await told();
      await dropText(browser);
      await told();
      await open(browser, "expected.txt");
      await browser.until("globalThis.refused");
      await frames(browser);
      await told();
      assert.deepEqual(browser.complaints, []);
    },
    {
      before: `
        globalThis.fetch = () => Promise.reject(new Error());
        globalThis.createImageBitmap = () => {
          globalThis.refused = true;
          return Promise.reject(new Error());
        };`,
    },
  ));

test("a page that is still loading can be used", () =>
  onPage(
    async (browser) => {
      await browser.until("globalThis.load");
      await browser.until("document.getElementById('map-2')");
      await browser.value("document.getElementById('map-2').click()");
      assert.equal(await browser.value("document.getElementById('trouble').hidden"), true);
      // An image that is still being decoded is not replaced by the digit that the page draws first.
      await open(browser, "paper.jpg");
      await browser.until("globalThis.release");
      await browser.value("load()");
      await ready(browser);
      await frames(browser);
      await browser.value("release()");
      await browser.until("document.getElementById('answer').textContent === 'It reads a 5.'");
      await frames(browser);
      assert.equal(await text(browser, "answer"), "It reads a 5.");
      assert.deepEqual(browser.complaints, []);
    },
    {
      before: `${LATE};
        const get = fetch;
        globalThis.fetch = (...given) => new Promise((resolve) => (globalThis.load = resolve)).then(() => get(...given));`,
    },
  ));

test("it fits a wide window, a dark one and a phone", () =>
  onPage(async (browser) => {
    await ready(browser);
    await browser.until("document.getElementById('answer').textContent === 'It reads a 3.'");
    // The drawing ends some frames after the answer is clear.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await picture(browser, here("dist/light.png"));
    if (process.argv.includes("--update")) await picture(browser, here("../../docs/web.png"), 0.65);
    await look(browser, { width: 1080, height: 1000, dark: true });
    await new Promise((resolve) => setTimeout(resolve, 300));
    await picture(browser, here("dist/dark.png"));
    await look(browser, { width: 390, height: 844, mobile: true });
    await new Promise((resolve) => setTimeout(resolve, 300));
    await picture(browser, here("dist/phone.png"));
    assert.equal(await browser.value("document.documentElement.scrollWidth"), 390);
    assert.deepEqual(browser.complaints, []);
  }));

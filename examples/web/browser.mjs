// Headless Chromium by its DevTools protocol, over pipes: no packages, no ports.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class Browser {
  #process;
  #ended;
  #profile = mkdtempSync(join(tmpdir(), "softpool-web-"));
  #waiting = new Map();
  #last = 0;
  #rest = "";
  #session;
  /** What the page complained about. */
  complaints = [];

  static async open(program) {
    const browser = new Browser();
    browser.#start(program);
    const { targetId } = await browser.#send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await browser.#send("Target.attachToTarget", { targetId, flatten: true });
    browser.#session = sessionId;
    for (const domain of ["Page", "Runtime", "Log"]) await browser.send(`${domain}.enable`);
    return browser;
  }

  #start(program) {
    // Chromium has no sandbox for root.
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"];
    this.#process = spawn(program, [...flags, "--remote-debugging-pipe", `--user-data-dir=${this.#profile}`], {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
      // A process group of its own, by which all that it starts is found at the end.
      detached: true,
    });
    this.#ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.on("error", (error) => this.#fail(error));
    this.#process.on("exit", (code) => this.#fail(new Error(`${program} ended with ${code}`)));
    // A command to a Chromium that has ended: told above.
    this.#process.stdio[3].on("error", () => {});
    this.#process.stdio[4].setEncoding("utf8").on("data", (text) => this.#receive(text));
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  /** Messages end with a zero. */
  #receive(text) {
    const messages = (this.#rest + text).split("\0");
    this.#rest = messages.pop();
    for (const message of messages.map((m) => JSON.parse(m))) {
      const { id, error, result, method, params } = message;
      if (method === "Runtime.exceptionThrown") this.complaints.push(params.exceptionDetails);
      if (method === "Log.entryAdded" && params.entry.level === "error") this.complaints.push(params.entry);
      const waiting = this.#waiting.get(id);
      if (!waiting) continue;
      this.#waiting.delete(id);
      if (error) waiting.reject(new Error(error.message));
      else waiting.resolve(result);
    }
  }

  #send(method, params, sessionId) {
    const id = ++this.#last;
    this.#process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  /** A command to the page. */
  send(method, params = {}) {
    return this.#send(method, params, this.#session);
  }

  /** What an expression is in the page. */
  async value(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  /** Waits until an expression holds in the page. */
  async until(expression, seconds = 30) {
    const end = Date.now() + 1000 * seconds;
    while (!(await this.value(expression))) {
      if (Date.now() > end) throw new Error(`not within ${seconds} s: ${expression}`);
      await pause(0.05);
    }
  }

  /** Ends Chromium, waits for all of its processes, then removes what they wrote. */
  async close() {
    this.#send("Browser.close").catch(() => {});
    const late = setTimeout(() => this.#process.kill("SIGKILL"), 10_000);
    await this.#ended;
    clearTimeout(late);
    await this.#processesEnd();
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }

  /** Those that outlive the first would go on writing to the profile. */
  async #processesEnd() {
    const group = -this.#process.pid;
    for (;;) {
      try {
        process.kill(group, "SIGKILL");
      } catch (error) {
        if (error.code === "ESRCH") return;
        throw error;
      }
      await pause(0.02);
    }
  }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

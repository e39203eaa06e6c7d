// The crate, as WebAssembly: what it answers, as arrays.

import { system } from "./wasi.js";

// The smallest module with a vector in it.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11);

export const SIZE = 28;
export const CHANNELS = 8;
export const METHODS = { soft: 0, max: 1, average: 2 };

export async function load() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    throw new Error("This browser's WebAssembly has no SIMD, which this page needs. Chrome 91, Firefox 89, Safari 16.4 and later have it.");
  }
  const response = await fetch("softpool.wasm").catch(() => null);
  if (!response?.ok) {
    throw new Error("softpool.wasm cannot be loaded. This page has to be built and served: examples/web/serve does both.");
  }
  let module = null;
  const wasi = system(() => module.memory);
  const { instance } = await WebAssembly.instantiate(await response.arrayBuffer(), { wasi_snapshot_preview1: wasi });
  module = instance.exports;
  return new Pooling(module);
}

class Pooling {
  #module;

  constructor(module) {
    this.#module = module;
  }

  /** Reads the digit on a canvas. */
  read(canvas) {
    const { width, height } = canvas;
    const image = canvas.getContext("2d").getImageData(0, 0, width, height);
    const pixels = this.#module.pixels(width, height);
    new Uint8Array(this.#module.memory.buffer, pixels, image.data.length).set(image.data);
    const answer = this.#answer(this.#module.read());
    return {
      probabilities: answer.subarray(0, 10),
      ink: answer.subarray(10, 10 + SIZE * SIZE),
      maps: split(answer.subarray(10 + SIZE * SIZE)),
    };
  }

  /** The maps of the digit that was read last, pooled by one of the METHODS. */
  pool(method, kernel, beta = 1) {
    return split(this.#answer(this.#module.pool(METHODS[method], kernel, beta)));
  }

  /** The same by SoftPool, with every cell's weight. */
  weigh(kernel, beta) {
    const answer = this.#answer(this.#module.weigh(kernel, beta));
    const cells = CHANNELS * SIZE * SIZE;
    return { weights: split(answer.subarray(0, cells)), pooled: split(answer.subarray(cells)) };
  }

  /** A copy: the next call reuses the memory. */
  #answer(length) {
    const { memory, numbers, message, message_length } = this.#module;
    if (length < 0) {
      throw new Error(new TextDecoder().decode(new Uint8Array(memory.buffer, message(), message_length())));
    }
    return new Float32Array(memory.buffer, numbers(), length).slice();
  }
}

function split(maps) {
  const cells = maps.length / CHANNELS;
  return Array.from({ length: CHANNELS }, (_, i) => maps.subarray(i * cells, (i + 1) * cells));
}

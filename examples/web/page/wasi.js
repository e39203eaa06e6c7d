// The system that the module's standard library asks for: it has a clock and randomness, and nothing else.

const NOT_THERE = 52; // ENOSYS

/** What to instantiate the module with; `memory` gives its memory, once there is one. */
export function system(memory) {
  const view = () => new DataView(memory().buffer);
  return {
    clock_time_get(_clock, _precision, time) {
      view().setBigUint64(time, BigInt(Math.round(performance.now() * 1e6)), true);
      return 0;
    },
    environ_get: () => 0,
    environ_sizes_get(count, size) {
      view().setUint32(count, 0, true);
      view().setUint32(size, 0, true);
      return 0;
    },
    fd_write: () => NOT_THERE,
    random_get(bytes, count) {
      crypto.getRandomValues(new Uint8Array(memory().buffer, bytes, count));
      return 0;
    },
    sched_yield: () => 0,
    proc_exit(code) {
      throw new Error(`The module ended itself with ${code}.`);
    },
  };
}

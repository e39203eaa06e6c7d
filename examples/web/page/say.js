// What a screen reader says: it reads out each text of a live region in full, so texts that change fast wait for a rest.

// Longer than a key that is held takes to repeat, on most machines.
const REST = 700; // Milliseconds.
const waiting = new Map();

/** The last text of a while, unless it is what was said last. */
export function say(region, text) {
  clearTimeout(waiting.get(region));
  waiting.set(region, setTimeout(() => {
    if (region.textContent !== text) region.textContent = text;
  }, REST));
}

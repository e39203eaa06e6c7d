// How a person may draw each digit, stroke by stroke, in a square of 100.

const DIGITS = [
  ["M50 15C20 15 20 85 50 85C80 85 80 15 50 15"],
  ["M38 29L54 15L53 86"],
  ["M30 33C32 8 74 10 70 36C67 54 42 66 28 84L75 83"],
  ["M30 22C48 8 76 18 66 38C62 46 52 48 46 48C76 46 80 78 54 85C42 88 32 82 27 75"],
  ["M40 15C38 32 34 42 28 56L74 55", "M62 32L59 87"],
  ["M70 17L38 18L34 46C56 36 78 50 68 72C60 88 38 88 28 78"],
  ["M62 14C40 26 26 56 32 72C38 90 70 88 70 66C70 48 44 46 34 64"],
  ["M27 20L73 19C60 40 50 60 44 86"],
  ["M66 24C52 8 28 18 36 34C42 46 66 52 70 68C72 90 32 92 32 70C34 54 64 46 68 32C69 28 68 26 66 24"],
  ["M68 34C64 12 34 14 32 34C32 54 62 54 68 34C68 52 66 70 60 86"],
];

/** The strokes of a digit as points from 0 to 1, evenly spaced. */
export function strokes(digit) {
  return DIGITS[digit].map((d) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    const length = path.getTotalLength();
    const count = Math.ceil(length / 4);
    return Array.from({ length: count + 1 }, (_, i) => {
      const { x, y } = path.getPointAtLength((length * i) / count);
      return { x: x / 100, y: y / 100 };
    });
  });
}

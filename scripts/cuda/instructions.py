#!/usr/bin/env python3
"""Counts the PTX instructions that CUDA's kernels execute and holds them against the committed figures.

    scripts/cuda/device.sh counts [--update]

The driver of tests/cuda counts them, for one call of each window, pass and dtype, on planes of 56x56 or smaller ones; the pass
`logits` is the gradient of windows with logits of their own. A count above its figure by more than the tolerance fails; one
below it asks for --update. PTX is what nvcc makes; the machine code that the GPU's assembler makes of it has other counts, but
more PTX is hardly ever less work.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FIGURES = ROOT / "bench" / "cuda-instructions.json"
TOLERANCE = 0.02
# Kernel, stride, padding, planes, their edge, and their depth if they have one. Of whole maps, as many threads have one as suits its size and their number.
WINDOWS = [(2, 2, 0, 8), (3, 2, 0, 8), (3, 2, 1, 8), (7, 3, 0, 8), (3, 1, 1, 8), (13, 1, 6, 8), (56, 56, 0, 8)]
PASSES = ["forward", "paper", "exact"]
CASES = [(which, (*window, 56)) for window in WINDOWS for which in PASSES]
MAPS = [(56, 56, 0, 2048, 56), (7, 7, 0, 512, 7), (14, 14, 0, 512, 14)]
CASES += [(which, window) for window in MAPS for which in ["forward", "paper"]]
# Kernels of any windows, which no others take: a thread has one of them, and some cells of a row.
CASES += [(which, (3, 2, 1, 2, 28, 14)) for which in ["forward", "paper"]] + [("logits", (3, 2, 1, 8, 56))]
DTYPES = ["f16", "bf16", "f32", "f64"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help=f"rewrite {FIGURES.name}")
    parser.add_argument("program", nargs="+", help="what runs the test `counted`")
    args = parser.parse_args()
    counts = {}
    for which, window in CASES:
        for kernel, instructions in count(args.program, which, *window).items():
            counts[f"{which} {named(*window)} {kernel}"] = instructions
    if args.update:
        FIGURES.write_text(json.dumps(counts, indent=2) + "\n")
    figures = json.loads(FIGURES.read_text())
    show(counts)
    failed = sorted(figures.keys() ^ counts.keys())
    failed += [name for name in counts if name in figures and counts[name] > figures[name] * (1 + TOLERANCE)]
    for name in figures:
        if name in counts and counts[name] < figures[name] * (1 - TOLERANCE):
            print(f"fewer, run with --update: {name}")
    if failed:
        sys.exit(f"more instructions than bench/{FIGURES.name} allows, or no figure: {', '.join(failed)}")


def named(kernel, stride, padding, planes, edge, *depth):
    of = "" if edge == 56 else f"of{edge}"
    return f"{kernel}/{stride} p{padding} x{planes}{of}" + "".join(f"x{n}" for n in depth)


def count(program, which, *window):
    """Instructions by the kernel's name."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report"
        environment = dict(os.environ, SOFTPOOL_CUDA_REPORT=str(report), SOFTPOOL_COUNTED=" ".join([which, *map(str, window)]))
        ran = subprocess.run(program, env=environment, capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"{which} {named(*window)}: {ran.stdout}{ran.stderr}")
        lines = [line.split() for line in report.read_text().splitlines()]
    ours = [line for line in lines if line[0] == "kernel" and line[1].endswith(("_u32", "_u64")) and line[1].split("_")[-2] in DTYPES]
    return {line[1]: int(line[line.index("instructions") + 1]) for line in ours}


def show(counts):
    rows = {}
    for name, n in counts.items():
        which, window, padding, planes, kernel = name.split()
        for dtype in DTYPES:
            if f"_{dtype}_" in kernel:
                number, edge = planes[1:].split("of") if "of" in planes else (planes[1:], "56")
                edge, *depth = map(int, edge.split("x"))
                cells = int(number) * edge**2 * math.prod(depth)
                rows.setdefault((which, window, padding, planes, kernel.split(f"_{dtype}_")[0]), {})[dtype] = n / cells
    print("executed PTX instructions an input cell")
    print(f"{'':<48}" + "".join(f"{dtype:>10}" for dtype in DTYPES))
    for row, cells in rows.items():
        print(f"{' '.join(row):<48}" + "".join(f"{cells[dtype]:>10.1f}" if dtype in cells else f"{'–':>10}" for dtype in DTYPES))


main()

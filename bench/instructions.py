#!/usr/bin/env python3
"""Counts the kernels' instructions with callgrind and holds them against the committed figures.

Times mean nothing on shared machines; instructions hardly vary. The counts are of one call of SoftPool2d, or of
candle's backward through it, on one thread, on an input of 1x8x56x56. Valgrind lacks AVX-512, so they are those of
the AVX2 path. A count above its figure by more than the tolerance fails; one below it asks for --update.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = ROOT / "bench" / "instructions.json"
TOLERANCE = 0.05
CELLS = 8 * 56 * 56


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="rewrite bench/instructions.json")
    args = parser.parse_args()
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return print("instruction counts: skipped, they are kept for x86-64 Linux alone")
    if not have_valgrind():
        return print("instruction counts: skipped, there is no valgrind and apt-get cannot install it")

    kernels = build()
    names = subprocess.run([kernels], check=True, capture_output=True, text=True).stdout.splitlines()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(names, pool.map(lambda name: count(kernels, name), names)))
    if args.update:
        FIGURES.write_text(json.dumps(counts, indent=2) + "\n")
    figures = json.loads(FIGURES.read_text())
    failed = figures.keys() ^ counts.keys()
    print(f"{'kernel':<24}{'instructions':>14}{'an input':>10}{'figure':>12}{'change':>9}")
    for name in names:
        figure = figures.get(name)
        change = counts[name] / figure - 1 if figure else float("nan")
        verdict = ""
        if change > TOLERANCE:
            failed.add(name)
            verdict = "  TOO MANY"
        elif change < -TOLERANCE:
            verdict = "  fewer: run with --update"
        print(f"{name:<24}{counts[name]:>14,}{counts[name] / CELLS:>10.1f}{figure or 0:>12,}{change:>+9.1%}{verdict}")
    if failed:
        sys.exit(f"more instructions than bench/instructions.json allows, or no figure: {', '.join(sorted(failed))}")


def have_valgrind():
    if not shutil.which("valgrind") and shutil.which("apt-get"):
        sudo = ["sudo", "-n"] if os.geteuid() and shutil.which("sudo") else []
        for command in (["update", "-q"], ["install", "-qy", "valgrind"]):
            subprocess.run(sudo + ["apt-get"] + command, stdout=subprocess.DEVNULL)
    return shutil.which("valgrind")


def build():
    """The path of the program that runs a kernel."""
    command = ["cargo", "bench", "--locked", "--bench", "instructions", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = map(json.loads, built.splitlines())
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "instructions")


def count(kernels, name):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", "--toggle-collect=softpool_counted", f"--callgrind-out-file={out}"]
        ran = subprocess.run(command + [kernels, name], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"{name}: {ran.stderr}")
        if ran.stdout.strip() != "Avx2":
            sys.exit(f"{name}: the figures are of AVX2, this machine ran {ran.stdout.strip()}")
        total = int(re.search(r"^totals: (\d+)", out.read_text(), re.MULTILINE)[1])
    if total == 0:
        sys.exit(f"{name}: callgrind counted nothing")
    return total


if __name__ == "__main__":
    main()

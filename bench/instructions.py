#!/usr/bin/env python3
"""Counts the kernels' instructions and holds them against the committed figures.

Times mean nothing on shared machines; instructions hardly vary. The counts are of one call of SoftPool2d's forward or
backward, on one thread, on an input of 1x8x56x56. Callgrind counts them, which lacks AVX-512, so
they are those of the AVX2 path; with --neon qemu does, those of 64-bit Arm. A count above its figure by more than the tolerance fails; one below it asks for --update.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCE = 0.05
CELLS = 8 * 56 * 56


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="rewrite the committed figures")
    parser.add_argument("--neon", action="store_true", help="count those of Arm's NEON, under qemu, in place of AVX2's")
    args = parser.parse_args()
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return print("instruction counts: skipped, they are kept for x86-64 Linux alone")
    with tempfile.TemporaryDirectory() as folder:
        counter = (Neon if args.neon else Avx2)(pathlib.Path(folder))
        if not counter.available():
            return print(f"instruction counts: skipped, apt-get cannot install {', '.join(counter.NEEDS)}")
        counter.build()
        names = counter.run([]).splitlines()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = dict(zip(names, pool.map(counter.count, names)))
    if args.update:
        counter.FIGURES.write_text(json.dumps(counts, indent=2) + "\n")
    figures = json.loads(counter.FIGURES.read_text())
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
        sys.exit(f"more instructions than {counter.FIGURES.name} allows, or no figure: {', '.join(sorted(failed))}")


class Counter:
    """Builds and runs the program that runs a kernel; `folder` is for what it writes."""

    BUILD = ["cargo", "bench", "--locked", "--bench", "instructions", "--no-run", "--message-format=json"]

    def __init__(self, folder):
        self.folder = folder

    def available(self):
        """Whether its programs are there, or could be installed."""
        missing = [package for program, package in self.NEEDS.items() if not shutil.which(program)]
        if missing and shutil.which("apt-get"):
            sudo = ["sudo", "-n"] if os.geteuid() and shutil.which("sudo") else []
            for command in (["update", "-q"], ["install", "-qy", *missing]):
                subprocess.run(sudo + ["apt-get"] + command, stdout=subprocess.DEVNULL)
        return all(map(shutil.which, self.NEEDS))

    def compile(self, command, env):
        built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}).stdout
        messages = [json.loads(line) for line in built.splitlines()]
        self.kernels = next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "instructions")

    def run(self, args, emulator=()):
        ran = subprocess.run([*emulator, self.kernels, *args], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"{' '.join(args)}: {ran.stderr}")
        return ran.stdout

    def check(self, name, arch):
        if arch.strip() != self.ARCH:
            sys.exit(f"{name}: the figures are of {self.ARCH}, this machine ran {arch.strip()}")


class Avx2(Counter):
    ARCH = "AVX2"
    FIGURES = ROOT / "bench" / "instructions.json"
    NEEDS = {"valgrind": "valgrind"}

    def build(self):
        self.compile(self.BUILD, {})

    def count(self, name):
        out = self.folder / name.replace("/", "-")
        self.check(name, self.run([name], ["valgrind", "--tool=callgrind", "--toggle-collect=softpool_counted", f"--callgrind-out-file={out}"]))
        total = int(re.search(r"^totals: (\d+)", out.read_text(), re.MULTILINE)[1])
        if total == 0:
            sys.exit(f"{name}: callgrind counted nothing")
        return total


class Neon(Counter):
    ARCH = "NEON"
    FIGURES = ROOT / "bench" / "instructions-neon.json"
    NEEDS = {"qemu-aarch64": "qemu-user", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "cc": "gcc"}
    QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
    MORE = 4

    def build(self):
        self.plugin = self.folder / "count.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", ROOT / "bench" / "count.c", "-o", self.plugin], check=True)
        command = shlex.join([*self.BUILD, "--target=aarch64-unknown-linux-gnu"])
        self.compile(["sh", "-ec", f'exports=$(scripts/other-targets/toolchain.sh); eval "$exports"; {command}'], {
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": "aarch64-linux-gnu-gcc",
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS": "--cfg=library_alone",
        })

    def run(self, args, emulator=()):
        return super().run(args, emulator or self.QEMU)

    def count(self, name):
        """What one more call costs: the plugin counts whole programs."""
        once, more = (self.total(name, calls) for calls in (1, 1 + self.MORE))
        return round((more - once) / self.MORE)

    def total(self, name, calls):
        out = self.folder / f"{name.replace('/', '-')} {calls}"
        self.check(name, self.run([name, str(calls)], [*self.QEMU, "-plugin", f"{self.plugin},to={out}"]))
        return int(out.read_text())


if __name__ == "__main__":
    main()

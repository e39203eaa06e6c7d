#!/usr/bin/env python3
"""Counts the kernels' instructions and holds them against the committed figures.

Times mean nothing on shared machines; instructions hardly vary. The counts are of one call of SoftPool2d's forward or
backward, on one thread, on an input of 1x8x56x56. Callgrind counts them, which lacks AVX-512, so they are those of the
AVX2 path; with --neon qemu does, those of 64-bit Arm; with --wasm Wasmtime's fuel, those of WebAssembly with SIMD. A count
above its figure by more than the tolerance fails; one below it asks for --update.
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
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "candle-softpool"
TOLERANCE = 0.05
CELLS = 8 * 56 * 56


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="rewrite the committed figures")
    targets = parser.add_mutually_exclusive_group()
    targets.set_defaults(counter=Avx2)
    for counter, option, whose in [(Neon, "--neon", "Arm's NEON, under qemu"), (Wasm, "--wasm", "WebAssembly, by Wasmtime's fuel")]:
        targets.add_argument(option, action="store_const", dest="counter", const=counter, help=f"count those of {whose}, in place of AVX2's")
    args = parser.parse_args()
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return print("instruction counts: skipped, they are kept for x86-64 Linux alone")
    with tempfile.TemporaryDirectory() as folder:
        counter = args.counter(pathlib.Path(folder))
        missing = counter.missing()
        if missing:
            return print(f"instruction counts: skipped, {missing}")
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

    # As in a release, but with the dependencies that the tests have built.
    OPTIONS = ["opt-level=3", "codegen-units=16", "debug-assertions=false", "overflow-checks=false"]
    BUILD = ["cargo", "build", "--locked", "--bench", "instructions", "--message-format=json"]
    BUILD += [word for option in OPTIONS for word in ("--config", f"profile.dev.package.candle-softpool.{option}")]
    NEEDS = {}
    ENV = {}

    def __init__(self, folder):
        self.folder = folder

    def missing(self):
        """Installs its programs; what cannot be had, or None."""
        if self.lacking() and shutil.which("apt-get"):
            sudo = ["sudo", "-n"] if os.geteuid() and shutil.which("sudo") else []
            for command in (["update", "-q"], ["install", "-qy", *self.lacking()]):
                subprocess.run(sudo + ["apt-get"] + command, stdout=subprocess.DEVNULL)
        return f"apt-get cannot install {', '.join(self.lacking())}" if self.lacking() else None

    def lacking(self):
        return [package for program, package in self.NEEDS.items() if not shutil.which(program)]

    def compile(self, command, env):
        built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "CARGO_INCREMENTAL": "0", **env}).stdout
        messages = [json.loads(line) for line in built.splitlines()]
        self.kernels = next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "instructions")

    def run(self, args, emulator=()):
        ran = subprocess.run([*emulator, self.kernels, *args], capture_output=True, text=True, env={**os.environ, **self.ENV})
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
    # Where a processor has them, glibc fills and copies long runs by single instructions that callgrind counts once a byte.
    ENV = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-ERMS,-FSRM"}

    def build(self):
        self.compile(self.BUILD, {})

    def count(self, name):
        out = self.folder / name.replace("/", "-")
        self.check(name, self.run([name], ["valgrind", "--tool=callgrind", "--toggle-collect=softpool_counted", f"--callgrind-out-file={out}"]))
        total = int(re.search(r"^totals: (\d+)", out.read_text(), re.MULTILINE)[1])
        if total == 0:
            sys.exit(f"{name}: callgrind counted nothing")
        return total


class Cross(Counter):
    """Of another target: built with Debian sid's Rust, and counted by what knows the `total` of a whole program alone."""

    TOOLCHAIN = ROOT / "scripts" / "other-targets" / "toolchain.sh"
    MORE = 4

    def missing(self):
        missing = super().missing()
        if not missing:
            brought = subprocess.run(self.TOOLCHAIN, capture_output=True, text=True)
            missing = brought.stderr.strip().splitlines()[-1] if brought.returncode else None
        return missing

    def compile_for(self, target, env):
        command = shlex.join([*self.BUILD, f"--target={target}"])
        self.compile(["sh", "-ec", f'exports=$({shlex.quote(str(self.TOOLCHAIN))}); eval "$exports"; {command}'], env)

    def count(self, name):
        """What one more call costs."""
        once, more = (self.total(name, calls) for calls in (1, 1 + self.MORE))
        return round((more - once) / self.MORE)


class Neon(Cross):
    ARCH = "NEON"
    FIGURES = ROOT / "bench" / "instructions-neon.json"
    NEEDS = {"qemu-aarch64": "qemu-user", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "cc": "gcc"}
    QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]

    def build(self):
        self.plugin = self.folder / "count.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", ROOT / "bench" / "count.c", "-o", self.plugin], check=True)
        self.compile_for("aarch64-unknown-linux-gnu", {
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": "aarch64-linux-gnu-gcc",
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS": "--cfg=library_alone",
        })

    def run(self, args, emulator=()):
        return super().run(args, emulator or self.QEMU)

    def total(self, name, calls):
        out = self.folder / f"{name.replace('/', '-')} {calls}"
        self.check(name, self.run([name, str(calls)], [*self.QEMU, "-plugin", f"{self.plugin},to={out}"]))
        return int(out.read_text())


class Wasm(Cross):
    """Every instruction takes one unit of fuel: copies of memory too, however long, but nothing that only marks a block."""

    ARCH = "WebAssembly SIMD"
    FIGURES = ROOT / "bench" / "instructions-wasm.json"
    # What an instruction costs is the version's.
    PACKAGE = (ROOT / "scripts" / "other-targets" / "requirements.txt").read_text().strip()
    FUEL = 2**63

    def missing(self):
        """Wasmtime is unpacked beside the toolchain, into a folder of its own."""
        folder = CACHE / self.PACKAGE
        if not folder.exists():
            new = self.folder / "wasmtime"
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", new, self.PACKAGE]
            if subprocess.run(pip, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
                return f"pip cannot install {self.PACKAGE}"
            CACHE.mkdir(parents=True, exist_ok=True)
            shutil.move(new, folder)
        sys.path.insert(0, str(folder))
        return super().missing()

    def build(self):
        import wasmtime

        self.compile_for("wasm32-wasip1", {"CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS": "-Ctarget-feature=+simd128 --cfg=library_alone"})
        config = wasmtime.Config()
        config.consume_fuel = True
        self.engine = wasmtime.Engine(config)
        self.module = wasmtime.Module.from_file(self.engine, self.kernels)
        self.linker = wasmtime.Linker(self.engine)
        self.linker.define_wasi()

    def run(self, args):
        return self.execute(args)[0]

    def total(self, name, calls):
        arch, fuel = self.execute([name, str(calls)])
        self.check(name, arch)
        return fuel

    def execute(self, args):
        """What the program writes, and the fuel that it takes."""
        import wasmtime

        store = wasmtime.Store(self.engine)
        store.set_fuel(self.FUEL)
        wasi = wasmtime.WasiConfig()
        wasi.argv = ["instructions", *args]
        out, err = (self.folder / f"{' '.join(args).replace('/', '-')}.{name}" for name in ("out", "err"))
        wasi.stdout_file, wasi.stderr_file = out, err
        store.set_wasi(wasi)
        start = self.linker.instantiate(store, self.module).exports(store)["_start"]
        try:
            start(store)
        except wasmtime.WasmtimeError as error:
            sys.exit(f"{' '.join(args)}: {error} {err.read_text()}")
        return out.read_text(), self.FUEL - store.get_fuel()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Times SoftPool beside candle's pooling and Python's over the same shapes, in alternation.

Builds and drives `benches/softpool`, which times SoftPool, candle and a copy of the input, and times PyTorch (eager, with
channels last, compiled) and ONNX Runtime here, where Python has them (peers.py). In every round each contender takes one
turn, in another order every round: its threads are woken, it makes a first call, and then as many as 20 ms hold, of
which the median counts; results are freed outside the time of a call. Extra memory is that of one call on new threads,
their scratch memory included. Ratios are medians of the rounds' ratios. On Linux, freed memory stays with each process. In
f16 and bf16 SoftPool is timed beside itself in f32 alone. Writes the times as JSON, draws a chart, and prints a table of
bars: what is wanted, what was measured, and whether that is met; a run of some shapes or dtypes leaves the committed times
and chart alone, and writes only what --json and --svg name. Run it on a machine that does nothing else; it takes about
eight minutes, half of them for PyTorch to compile (less a second time).
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import time

import bars
import chart
import peers

ROOT = pathlib.Path(__file__).resolve().parent.parent
# As in benches/softpool: contenders whose turn takes longer (seconds) take part in the first rounds only.
SLOW, SLOW_ROUNDS = 0.5, 3
# Lets the threads of the one before stop spinning.
PAUSE = 0.01


# As in benches/softpool: has glibc keep freed memory, for PyTorch's turns too.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def keep_memory():
    """Starts over with KEEP_MEMORY, which is read once, at the start."""
    if sys.platform == "linux" and not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})


def main():
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default=f"{os.cpu_count()}", help="counts, the first for the chart, such as 2,1")
    parser.add_argument("--dtypes", default="f32,f16,bf16", help="out of f32, f16, bf16, f64")
    parser.add_argument("--shape", default="", help="only the shapes whose name contains this")
    parser.add_argument("--composed", action="store_true", help="SoftPool's composed form too, which takes minutes")
    parser.add_argument("--json", type=pathlib.Path, help="by default, of a whole run alone: bench/results.json")
    parser.add_argument("--svg", type=pathlib.Path, help="likewise: docs/speed.svg")
    args = parser.parse_args()
    if not args.shape and args.dtypes == parser.get_default("dtypes"):
        args.json = args.json or ROOT / "bench" / "results.json"
        args.svg = args.svg or ROOT / "docs" / "speed.svg"
    start = time.monotonic()
    executable, python = build(), peers.Peers()
    results = []
    for threads in map(int, args.threads.split(",")):
        worker = Worker(executable, threads)
        for case in worker.ask("cases"):
            if args.shape not in case["name"]:
                continue
            for dtype in args.dtypes.split(","):
                if case["views"] and dtype != "f32":
                    continue
                contenders = worker.contenders(dtype, case["name"], args.composed)
                if dtype == "f32" and not case["views"]:
                    contenders += python.contenders(case, threads)
                result = {"case": case, "dtype": dtype, "threads": threads, "turns": measure(contenders, args.rounds)}
                results.append(result)
                print_result(result)
        worker.close()

    written = {"machine": machine(python), "settings": settings(args), "results": results}
    if args.json:
        args.json.write_text(json.dumps(written, indent=1) + "\n")
    if args.svg:
        args.svg.write_text(chart.draw(results))
    files = " and ".join(str(file) for file in [args.json, args.svg] if file) or "no file"
    print(f"\nwrote {files} after {(time.monotonic() - start) / 60:.1f} minutes\n")
    bars.show(results)


def build():
    """The path of the benchmark's program."""
    command = ["cargo", "bench", "--locked", "--bench", "softpool", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = map(json.loads, built.splitlines())
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "softpool")


class Worker:
    """The benchmark's program, one turn at a time."""

    def __init__(self, executable, threads):
        command = [executable, "--serve", "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"the benchmark's program ended at the request {request!r}")
        return json.loads(answer)

    def contenders(self, dtype, case, composed):
        names = self.ask(f"open {dtype} {case}")
        return [
            (" ".join(name), lambda i=i: self.ask(f"turn {i}"))
            for i, name in enumerate(names)
            if wanted(name[0], dtype, composed)
        ]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def wanted(who, dtype, composed):
    """In half precision, only what is held against a bar."""
    return who.startswith(("copy", "softpool")) or (composed if who == "composed" else dtype in ("f32", "f64"))


def measure(contenders, rounds):
    """The turns of every contender that can run: {name: {"seconds": [a round's, …], "first": […], "extra_bytes": …}}."""
    turns, able, warm = {}, [], {}
    for name, turn in contenders:
        sample = turn()
        if "error" in sample:
            print(f"{name} cannot run: {sample['error']}")
            continue
        able.append((name, turn))
        warm[name] = sample["seconds"]
        turns[name] = {"seconds": [], "first": [], "extra_bytes": sample.get("extra_bytes")}
    for number in range(rounds):
        # Each in another place, so that none always finds its input in the caches.
        for name, turn in random.Random(number).sample(able, len(able)):
            if warm[name] < SLOW or number < SLOW_ROUNDS:
                time.sleep(PAUSE)
                sample = turn()
                for calls in ["seconds", "first"]:
                    turns[name][calls].append(sample[calls])
    return turns


def print_result(result):
    print(f"\n{result['case']['name']}, {result['dtype']}, threads: {result['threads']}\n")
    print("| | ms | × copy | × softpool | first call, ms |\n|---|---|---|---|---|")
    turns = result["turns"]
    for name, turn in turns.items():
        copies = bars.ratio(turns, name, "copy forward")
        first = statistics.median(turn["first"]) * 1e3
        base = "softpool " + name.rsplit(" ", 1)[1]
        softpools = f"{bars.ratio(turns, name, base):.2f}" if base in turns and base != name else ""
        print(f"| {name} | {statistics.median(turn['seconds']) * 1e3:.3f} | {copies:.2f} | {softpools} | {first:.3f} |")


def machine(python):
    """Where and with what the times were taken."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    lock = (ROOT / "Cargo.lock").read_text().split("[[package]]")
    candle = next(p.split('version = "')[1].split('"')[0] for p in lock if 'name = "candle-core"' in p)
    return {
        "cpu": cpu,
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "date": datetime.date.today().isoformat(),
        "candle": candle,
        "rustc": first_line(["rustc", "--version"]),
        "python": platform.python_version(),
        "compiler": first_line(["c++", "--version"]),
        **{name: python.versions.get(name) for name in ["torch", "onnxruntime"]},
    }


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]
    except OSError:
        return None


def settings(args):
    return {
        "rounds": args.rounds, "slow": SLOW, "slow_rounds": SLOW_ROUNDS, "turn": peers.TURN, "waking": peers.WAKING,
        "pause": PAUSE, "environment": {name: os.environ.get(name) for name in [*KEEP_MEMORY, "OMP_NUM_THREADS"]},
        "torch.compile": {"dynamic": False, "backend": "inductor"}, "onnxruntime": "outputs allocated before",
    }


if __name__ == "__main__":
    main()

"""A markdown table of SoftPool on this machine's GPU, beside a copy of the input, candle's and PyTorch's pooling.

    python3 benches/cuda/table.py BINARY [--output FILE] [--no-compile] [--smoke]

BINARY is the benchmark that `cargo bench --features cuda --bench cuda --no-run` builds. Every time is printed when it is
known, and the table is written anew, so that what fails or is stopped loses only what comes after it. Without PyTorch
its columns are left out.
"""

import argparse
import datetime
import math
import pathlib
import subprocess
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

# As in main.rs.
CASES = [
    ([64, 64, 112, 112], 2, 2, 0, 1),
    ([64, 64, 112, 112], 3, 2, 0, 1),
    ([64, 64, 112, 112], 3, 2, 1, 1),
    ([32, 64, 224, 224], 7, 3, 0, 1),
    ([32, 128, 56, 56], 13, 1, 6, 1),
    ([64, 512, 56, 56], 56, 56, 0, 1),
    ([64, 2048, 7, 7], 7, 7, 0, 1),
    ([64, 64, 113, 113], 3, 2, 1, 1),
    ([64, 64, 112, 112], 3, 2, 1, 5),
    ([8, 64, 16, 56, 56], 2, 2, 0, 1),
]
DTYPES = {"f32": (4, "float32"), "f16": (2, "float16"), "bf16": (2, "bfloat16")}
ROTATED, BATCH, BATCHES = 512 << 20, 20, 21


def name(dims, k, s, p, deviation):
    return f"{dims} {k}/{s} p{p} σ{deviation}"


def softpool(x, k, s):
    """The formula, as users of PyTorch write it: shifted, without padding."""
    dims = tuple(range(2, x.dim()))
    pool = F.avg_pool2d if x.dim() == 4 else F.avg_pool3d
    e = torch.exp(x - x.amax(dim=dims, keepdim=True))
    return pool(x * e, k, s) / pool(e, k, s)


def milliseconds(inputs, run):
    """The median over batches, as in main.rs."""

    def batch(first):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for i in range(BATCH):
            run(inputs[(first + i) % len(inputs)])
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / BATCH

    batch(0)
    return sorted(batch(i * BATCH) for i in range(BATCHES))[BATCHES // 2]


def pytorch(case, dtype, compiles):
    """Names and times, one after another."""
    dims, k, s, p, deviation = case
    size, torch_dtype = DTYPES[dtype]
    flat = len(dims) == 4
    make = lambda: (torch.randn(dims, device="cuda") * deviation).to(getattr(torch, torch_dtype))
    inputs = [make() for _ in range(-(-ROTATED // (math.prod(dims) * size)) + 1)]
    maximum, average = (F.max_pool2d, F.avg_pool2d) if flat else (F.max_pool3d, F.avg_pool3d)
    runs = {
        "PyTorch max_pool": lambda x: maximum(x, k, s, p),
        "PyTorch avg_pool": lambda x: average(x, k, s, p, count_include_pad=False),
    }
    if p == 0:
        runs["PyTorch formula"] = lambda x: softpool(x, k, s)
    if p == 0 and compiles:
        # Its caches would see the shapes as one that varies, and give up after eight.
        torch._dynamo.reset()
        compiled = torch.compile(softpool, dynamic=False)
        runs["PyTorch formula, torch.compile"] = lambda x: compiled(x, k, s)
    for method, run in runs.items():
        yield method, lambda run=run: without_gradients(inputs, run)
    if flat:
        last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
        yield "PyTorch max_pool, channels last", lambda: without_gradients(last, runs["PyTorch max_pool"])
        yield "PyTorch max_pool backward", lambda: milliseconds(inputs, max_pool_backward(inputs, k, s, p))


def without_gradients(inputs, run):
    with torch.no_grad():
        return milliseconds(inputs, run)


def max_pool_backward(inputs, k, s, p):
    """The backward pass alone, through the operator that autograd calls."""
    y, at = F.max_pool2d(inputs[0], k, s, p, return_indices=True)
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    g = torch.randn_like(y)
    return lambda x: backward(g, x, [k, k], [s, s], [p, p], [1, 1], False, at)


def table(times, title):
    methods = list(dict.fromkeys(method for row in times.values() for method in row))
    header = ["input, k/s", "dtype", *methods, "forward: of the copy's bandwidth", "backward: of the copy's bandwidth"]
    lines = [title, "", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for case in CASES:
        for dtype in DTYPES:
            row = times.get((name(*case), dtype), {})
            if row:
                columns = [f"{row[method]:.4f}" if method in row else "" for method in methods]
                lines.append("| " + " | ".join([name(*case), dtype, *columns, *bandwidths(case, row)]) + " |")
    return "\n".join(lines) + "\n"


def bandwidths(case, row):
    """Bytes a second of the forward and the backward pass, in parts of the copy's."""
    dims, k, s, p, _ = case
    cells = math.prod(dims)
    windows = math.prod(dims[:2]) * math.prod((d + 2 * p - k) // s + 1 for d in dims[2:])
    moved = {"SoftPool forward": cells + windows, "SoftPool backward, paper": 2 * cells + windows}
    return [f"{n / row[m] / (2 * cells / row['copy']):.0%}" if m in row and "copy" in row else "" for m, n in moved.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--output", type=pathlib.Path, help="where the table goes, besides the end of what is printed")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--smoke", action="store_true", help="only show that every case of ours runs, on two planes")
    args = parser.parse_args()
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    versions = f", PyTorch {torch.__version__}" if torch else ", without PyTorch"
    title = f"{gpu}{versions}, {datetime.date.today()}. Milliseconds, medians."
    times = {}

    def note(shape, dtype, method, ms):
        print(f"{shape}\t{dtype}\t{method}\t{ms:.4f}", flush=True)
        times.setdefault((shape, dtype), {})[method] = ms
        if args.output:
            args.output.write_text(table(times, title))

    ours = subprocess.Popen([args.binary, "--bench", *["--smoke"] * args.smoke], stdout=subprocess.PIPE, text=True)
    for line in ours.stdout:
        shape, dtype, method, ms = line.rstrip("\n").split("\t")
        note(shape, dtype, method, float(ms))
    failed = ["our own"] if ours.wait() else []
    for case in CASES if torch and not args.smoke else []:
        for dtype in DTYPES:
            failed += beside(case, dtype, not args.no_compile, note)
    print(table(times, title))
    if failed:
        sys.exit(f"failed, see above: {'; '.join(failed)}")


def beside(case, dtype, compiles, note):
    """PyTorch's times of a case; the names of those that failed."""
    failed = []
    try:
        for method, time in pytorch(case, dtype, compiles):
            try:
                note(name(*case), dtype, method, time())
            except Exception as error:
                print(f"{method}, {name(*case)} {dtype}: {error}", file=sys.stderr)
                failed.append(f"{method} {name(*case)} {dtype}")
    except Exception as error:
        print(f"PyTorch, {name(*case)} {dtype}: {error}", file=sys.stderr)
        failed.append(f"PyTorch {name(*case)} {dtype}")
    return failed


if __name__ == "__main__":
    main()

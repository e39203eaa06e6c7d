"""A markdown table of SoftPool on this machine's GPU, beside a copy of the input, candle's and PyTorch's pooling.

    python3 benches/cuda/table.py BINARY

BINARY is the benchmark that `cargo bench --features cuda --bench cuda --no-run` builds. Without PyTorch its columns are left out.
"""

import datetime
import subprocess
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

# As in main.rs.
SHAPES = [
    ([64, 64, 112, 112], 2, 2, 0),
    ([64, 64, 112, 112], 3, 2, 0),
    ([64, 64, 112, 112], 3, 2, 1),
    ([32, 64, 224, 224], 7, 3, 0),
    ([32, 128, 56, 56], 13, 1, 6),
    ([64, 512, 56, 56], 56, 56, 0),
]
DTYPES = {"f32": (4, "float32"), "f16": (2, "float16"), "bf16": (2, "bfloat16")}
ROTATED, BATCH, BATCHES = 512 << 20, 20, 21


def name(dims, k, s, p):
    return f"{dims} {k}/{s} p{p}"


def softpool(x, k, s):
    """The formula, as users of PyTorch write it: shifted, without padding."""
    e = torch.exp(x - x.amax(dim=(2, 3), keepdim=True))
    return F.avg_pool2d(x * e, k, s) / F.avg_pool2d(e, k, s)


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


def pytorch(dims, k, s, p, dtype):
    size, torch_dtype = DTYPES[dtype]
    count = 1
    for d in dims:
        count *= d
    make = lambda: torch.randn(dims, device="cuda").to(getattr(torch, torch_dtype))
    inputs = [make() for _ in range(-(-ROTATED // (count * size)) + 1)]
    runs = {
        "PyTorch max_pool2d": lambda x: F.max_pool2d(x, k, s, p),
        "PyTorch avg_pool2d": lambda x: F.avg_pool2d(x, k, s, p, count_include_pad=False),
    }
    if p == 0:
        # Its caches would see the shapes as one that varies, and give up after eight.
        torch._dynamo.reset()
        compiled = torch.compile(softpool, dynamic=False)
        runs["PyTorch formula"] = lambda x: softpool(x, k, s)
        runs["PyTorch formula, torch.compile"] = lambda x: compiled(x, k, s)
    with torch.no_grad():
        times = {method: milliseconds(inputs, run) for method, run in runs.items()}
    # The backward pass alone, through the operator that autograd calls.
    y, at = F.max_pool2d(inputs[0], k, s, p, return_indices=True)
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    g = torch.randn_like(y)
    times["PyTorch max_pool2d backward"] = milliseconds(
        inputs, lambda x: backward(g, x, [k, k], [s, s], [p, p], [1, 1], False, at)
    )
    return times


def outputs(dims, k, s, p):
    count = dims[0] * dims[1]
    for d in dims[2:]:
        count *= (d + 2 * p - k) // s + 1
    return count


def main():
    gpu = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    ours = subprocess.run([sys.argv[1], "--bench"], stdout=subprocess.PIPE, text=True, check=True).stdout
    # The table comes at the end: what is known by then should not be lost.
    print(ours, file=sys.stderr)
    times = {}
    for line in ours.splitlines():
        shape, dtype, method, ms = line.split("\t")
        times.setdefault((shape, dtype), {})[method] = float(ms)
    for dims, k, s, p in SHAPES if torch else []:
        for dtype in DTYPES:
            try:
                times[name(dims, k, s, p), dtype].update(pytorch(dims, k, s, p, dtype))
            except Exception as error:
                print(f"PyTorch, {name(dims, k, s, p)} {dtype}: {error}", file=sys.stderr)
    versions = f", PyTorch {torch.__version__}" if torch else ", without PyTorch"
    print(f"{gpu}{versions}, {datetime.date.today()}. Milliseconds, medians.\n")
    methods = list(dict.fromkeys(method for row in times.values() for method in row))
    header = ["input, k/s", "dtype", *methods, "forward: of the copy's bandwidth", "backward: of the copy's bandwidth"]
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for dims, k, s, p in SHAPES:
        for dtype in DTYPES:
            row = times[name(dims, k, s, p), dtype]
            cells = dims[0] * dims[1] * dims[2] * dims[3]
            windows = outputs(dims, k, s, p)
            copied = 2 * cells / row["copy"]
            forward = (cells + windows) / row["SoftPool forward"] / copied
            backward = (2 * cells + windows) / row["SoftPool backward, paper"] / copied
            columns = [f"{row[method]:.4f}" if method in row else "" for method in methods]
            columns = [name(dims, k, s, p), dtype, *columns, f"{forward:.0%}", f"{backward:.0%}"]
            print("| " + " | ".join(columns) + " |")


main()

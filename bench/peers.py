"""Who takes part from Python: PyTorch eager, with channels last and compiled, and ONNX Runtime, each at its best.

The formula is that of SoftPool without the shift by the maximum, which would only make it slower: `exp`, a product, two
average poolings and a division. Frames of a video are pooled as planes, and a series by PyTorch's 1-D functions.
"""

import contextlib
import functools
import shutil
import statistics
import time

# As in benches/softpool: seconds that calls are repeated for, and that threads are kept busy for before.
TURN, WAKING = 20e-3, 5e-3


class Peers:
    """What Python has of them; says what it lacks."""

    def __init__(self):
        self.torch, self.onnx = imported("torch"), imported("onnxruntime", "onnx")
        self.versions = {name: module.__version__ for name, module in {**self.torch, **self.onnx}.items()}
        if self.torch and not (shutil.which("g++") or shutil.which("clang++")):
            print("without: compiled PyTorch (it needs g++)")

    def contenders(self, case, threads):
        """(name, turn) of each: in f32, the only dtype that peers are held against in."""
        contenders = []
        if self.torch:
            self.torch["torch"].set_num_threads(threads)
            contenders += torch_contenders(self.torch["torch"], case)
        if self.onnx:
            contenders += onnx_contenders(self.onnx["onnxruntime"], self.onnx["onnx"], case, threads)
        return contenders


def imported(*names):
    """The modules by name, or none of them."""
    try:
        return {name: __import__(name) for name in names}
    except ImportError as error:
        print(f"without: {names[0]} ({error}; pip install {' '.join(names)})")
        return {}


class Turns:
    """A first call as soon as all threads are awake, and those that a TURN holds, at their median.

    `opened()` gives a context in which the function to call is to be had.
    """

    def __init__(self, opened, wake):
        self.opened, self.wake, self.warm = opened, wake, False

    def __call__(self):
        try:
            with self.opened() as function:
                return self.turn(function)
        # A compiler, a kernel, a dtype may be missing, each with an exception of its own.
        except Exception as error:
            return {"error": f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"}

    def turn(self, function):
        if not self.warm:
            self.warm = True
            once(function)
            first = seconds = once(function)
        else:
            self.wake()
            first = once(function)
            seconds = repeated(function)
        return {"first": first, "seconds": seconds}


def once(function):
    start = time.perf_counter()
    results = function()
    seconds = time.perf_counter() - start
    del results
    return seconds


def repeated(function):
    """The median of as many calls as a TURN holds, at least one."""
    end = time.perf_counter() + TURN
    seconds = [once(function)]
    while time.perf_counter() < end:
        seconds.append(once(function))
    return statistics.median(seconds)


def planes(case):
    """The shape and the window's keywords with a video's frames among the channels."""
    shape, sizes = case["shape"], [case[key] for key in ["kernel", "stride", "padding"]]
    if len(shape) == 5 and [s[0] for s in sizes] == [1, 1, 0]:
        n, c, frames, *shape = shape
        shape, sizes = [n, c * frames, *shape], [s[1:] for s in sizes]
    return shape, dict(zip(["kernel_size", "stride", "padding"], sizes))


def torch_contenders(torch, case):
    shape, window = planes(case)
    rank = len(shape) - 2
    average = functools.partial(getattr(torch.nn.functional, f"avg_pool{rank}d"), **window)
    maximum = functools.partial(getattr(torch.nn.functional, f"max_pool{rank}d"), **window)

    def formula(xs):
        e = xs.exp()
        return average(e * xs) / average(e)

    wake = functools.partial(keep_busy, torch.zeros(1 << 16))
    xs = torch.randn(shape)
    last = xs.to(memory_format=torch.channels_last) if rank == 2 else None
    # Nothing compiled is shared between shapes: each gets code of its own, not one for sizes of any value.
    torch._dynamo.reset()
    compiled = functools.partial(torch.compile, dynamic=False)
    turns = []
    for name, function in [("formula", formula), ("max_pool2d", maximum), ("avg_pool2d", average)]:
        who = [("torch", function, xs), ("torch channels-last", function, last), ("torch compiled", compiled(function), xs)]
        for who, function, input in who:
            if input is None:
                continue
            turns.append((f"{who} {name} forward", Turns(torch_forward(torch, function, input), wake)))
            if name == "formula":
                turns.append((f"{who} {name} exact", Turns(torch_backward(torch, function, input), wake)))
    return turns


def keep_busy(few):
    """Keeps all threads busy for long enough that each has a processor of its own, and touches little memory."""
    start = time.perf_counter()
    while time.perf_counter() < start + WAKING:
        few.add_(1)


def torch_forward(torch, function, xs):
    def forward():
        with torch.no_grad():
            return function(xs)

    return lambda: contextlib.nullcontext(forward)


def torch_backward(torch, function, xs):
    """Forward, and backward through autograd."""
    variable = xs.clone().requires_grad_()

    @functools.cache
    def ones():
        return torch.ones_like(function(variable))

    def backward():
        ys = function(variable)
        return ys, torch.autograd.grad(ys, variable, ones())

    return lambda: contextlib.nullcontext(backward)


def onnx_contenders(runtime, onnx, case, threads):
    import numpy

    shape, window = planes(case)
    rank = len(shape) - 2
    sizes = dict(kernel_shape=window["kernel_size"], strides=window["stride"], pads=window["padding"] * 2)
    node = onnx.helper.make_node
    average = functools.partial(node, "AveragePool", count_include_pad=1, **sizes)
    graphs = {
        "formula": [
            node("Exp", ["x"], ["e"]), node("Mul", ["e", "x"], ["ex"]), average(["ex"], ["a"]), average(["e"], ["b"]),
            node("Div", ["a", "b"], ["y"]),
        ],
        "max_pool2d": [node("MaxPool", ["x"], ["y"], **sizes)],
        "avg_pool2d": [average(["x"], ["y"])],
    }
    xs = numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32)
    sides = zip(shape[2:], window["kernel_size"], window["stride"], window["padding"])
    pooled = shape[:2] + [(n + 2 * p - k) // s + 1 for n, k, s, p in sides]
    turns = []
    for name, nodes in graphs.items():
        value = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
        graph = onnx.helper.make_graph(nodes, name, [value("x", shape=shape)], [value("y", shape=pooled)])
        opset = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
        opened = functools.partial(onnx_session, runtime, model, threads, xs, numpy.empty(pooled, numpy.float32))
        turns.append((f"onnx {name} forward", Turns(opened, lambda: None)))
    return turns


@contextlib.contextmanager
def onnx_session(runtime, model, threads, xs, ys):
    """Its threads go on spinning after a call, so that they end with the turn. Its result is allocated before."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    x, y = (runtime.OrtValue.ortvalue_from_numpy(values) for values in (xs, ys))
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    # The first two calls of a session allocate, and wake its threads.
    for _ in range(2):
        session.run_with_iobinding(binding)
    yield lambda: session.run_with_iobinding(binding)

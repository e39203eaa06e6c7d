"""The speed and the memory that SoftPool is to reach on the CPU, held against what was measured."""

import itertools
import statistics

SMALL, PYRAMID, PYRAMID_5 = "1x64x8x8 2/2", "8x64x28x28 13/1 p6", "8x64x28x28 5/1 p2"
COPIES = {"2/2": 1.6, "3/2": 2.2, "7/3": 2.6}


def ratio(turns, name, base):
    """The median over rounds of the time of one contender in that of another."""
    return statistics.median(a / b for a, b in zip(turns[name]["seconds"], turns[base]["seconds"]))


def show(results):
    first = [{**r, "turns": {k: {**t, "seconds": t["first"]} for k, t in r["turns"].items()}} for r in results]
    kinds = [("repeated", results), ("first", first)]
    for threads, (calls, results) in itertools.product(dict.fromkeys(r["threads"] for r in results), kinds):
        print(f"threads: {threads}, {calls} calls\n\n| bar | measured, at worst | at | met |\n|---|---|---|---|")
        for title, measured, met in bars([r for r in results if r["threads"] == threads], threads):
            if not measured:
                print(f"| {title} | not measured | | – |")
                continue
            worst = min(measured, key=lambda m: (met(m[0]), -m[0] if met(0) else m[0]))
            print(f"| {title} | {worst[0]:.2f} | {worst[1]} | {'yes' if met(worst[0]) else 'NO'} |")
        print()


def bars(results, threads):
    """(title, [(figure, where)…], whether a figure meets it)"""
    f32 = [r for r in results if r["dtype"] == "f32"]
    views = [r for r in f32 if r["case"]["views"]]
    plain = [r for r in f32 if not r["case"]["views"]]
    large = [r for r in plain if r["case"]["name"].split(" ", 1)[1] in COPIES and r["case"]["name"] != SMALL]
    small = [r for r in plain if r["case"]["name"] == SMALL]

    for window, most in COPIES.items():
        cases = [r for r in large if r["case"]["name"].endswith(" " + window)]
        yield f"forward, copies, {window}: at most {most}", ratios(cases, OURS, "copy forward"), at_most(most)
    yield "forward, times faster than the best formula: 2.5", best(plain, "formula forward", [OURS]), at_least(2.5)
    wide = [r for r in plain if max(r["case"]["kernel"]) > 2]
    yield "forward at windows of 3 and more, than the best max pooling: 1", best(wide, "max_pool2d forward", [OURS]), at_least(1)
    for gradient in ["paper", "exact"]:
        for kind, passes in [
            ("through autograd", [f"softpool {gradient}"]), ("by hand", [OURS, f"softpool {gradient} alone"]),
        ]:
            faster = best(plain, "formula exact", passes)
            yield f"forward and backward ({gradient}) {kind}, than the best formula: 1", faster, at_least(1)
    for peer, least in [("candle formula", 18), ("candle max_pool2d", 4)]:
        yield f"forward, times faster than {peer}: {least}", ratios(large, f"{peer} forward", OURS), at_least(least)
    for dtype in ["f16", "bf16"]:
        half = [r for r in results if r["dtype"] == dtype and not r["case"]["views"]]
        yield f"forward, {dtype} in f32's time: at most 1", ratios(half, OURS, "softpool f32 forward"), at_most(1)
    yield "small map, times faster than candle max_pool2d: 1", ratios(small, "candle max_pool2d forward", OURS), at_least(1)
    medians = {r["case"]["name"]: statistics.median(r["turns"][OURS]["seconds"]) for r in plain}
    growth = [(medians[PYRAMID] / medians[PYRAMID_5], PYRAMID)] if {PYRAMID, PYRAMID_5} <= medians.keys() else []
    yield "13/1 p6 in the time of 5/1 p2: at most 13/5 (k² gives 6.8)", growth, at_most(13 / 5)
    for pass_ in ["forward", "paper alone", "exact alone"]:
        name = f"softpool {pass_}"
        memory = [(r["turns"][name]["extra_bytes"] / 1e6 / threads, r["case"]["name"]) for r in plain if name in r["turns"]]
        yield f"extra memory of a call on new threads, {pass_}, MB a thread: under 1", memory, at_most(1)
    for pass_, what in [("forward", "forward"), ("paper alone", "backward (paper)"), ("exact alone", "backward (exact)")]:
        ours = f"softpool {pass_}"
        others = [
            (ratio(r["turns"], name, ours), f"{r['case']['name']}, {name.removesuffix(pass_)}")
            for r in views for name in r["turns"] if name.endswith(f" {pass_}") and name not in ("copy forward", ours)
        ]
        yield f"other ranks and layouts, times the contiguous 2-D {what}: at most 2", others, at_most(2)


OURS = "softpool forward"


def best(results, peers, ours):
    """At every shape, the fastest of the contenders whose names end so, in the time of our passes together."""
    found = []
    for r in results:
        turns = {**r["turns"], "ours": together(r["turns"], ours)} if {*ours} <= r["turns"].keys() else {}
        times = [(ratio(turns, name, "ours"), name) for name in turns if name.endswith(peers)]
        if times:
            times, name = min(times)
            found.append((times, f"{r['case']['name']}, {name.removesuffix(' ' + peers)}"))
    return found


def together(turns, names):
    return {"seconds": [sum(seconds) for seconds in zip(*(turns[name]["seconds"] for name in names))]}


def ratios(results, name, base):
    return [
        (ratio(r["turns"], name, base), r["case"]["name"]) for r in results if {name, base} <= r["turns"].keys()
    ]


def at_most(bar):
    return lambda figure: figure <= bar


def at_least(bar):
    return lambda figure: figure >= bar

"""Times as horizontal bars in SVG, readable on light and dark pages."""

import statistics

LABELS, BARS, ROW = 190, 440, 20
ROWS = {
    "softpool": "SoftPool, this crate", "torch compiled formula": "formula, PyTorch compiled",
    "torch channels-last formula": "formula, channels last", "torch formula": "formula, PyTorch",
    "onnx formula": "formula, ONNX Runtime", "candle formula": "formula, candle",
    "torch compiled max_pool2d": "max, PyTorch compiled", "torch channels-last max_pool2d": "max, channels last",
    "torch max_pool2d": "max, PyTorch", "onnx max_pool2d": "max, ONNX Runtime", "candle max_pool2d": "max, candle",
}


def draw(results):
    """Forward in f32 on the first number of threads, in times of a copy of the input; a panel a shape."""
    import bars

    threads = results[0]["threads"] if results else 0
    panels = [
        (r["case"]["name"], [
            (who, label, bars.ratio(r["turns"], f"{who} forward", "copy forward"))
            for who, label in ROWS.items() if f"{who} forward" in r["turns"]
        ])
        for r in results
        if r["dtype"] == "f32" and r["threads"] == threads and r["case"]["name"].split(" ", 1)[1] in bars.COPIES
        and r["case"]["name"] != bars.SMALL
    ]
    most = max((copies for _, rows in panels for _, _, copies in rows), default=1)
    body, y = [text(LABELS, 18, f"forward, f32, threads: {threads}; 1 is a copy of the input", "title")], 34
    for name, rows in panels:
        y += ROW
        body.append(text(LABELS, y, name.replace("x", "×"), "title"))
        for who, label, copies in rows:
            y += ROW
            width = BARS * copies / most
            kind = "ours" if who == "softpool" else "peer"
            body.append(text(LABELS - 8, y, label, "name"))
            body.append(f'<rect x="{LABELS}" y="{y - 11}" width="{width:.1f}" height="14" class="{kind}"/>')
            body.append(text(LABELS + width + 5, y, f"{copies:.1f}", "value"))
        one = LABELS + BARS / most
        body.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{y - ROW * len(rows) + 5}" y2="{y + 5}" class="copy"/>')
        y += ROW // 2
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + BARS + 50} {y + 10}" font-family="sans-serif" font-size="12">
<style>
text {{ fill: #24292f }} .title {{ font-weight: bold }} .name {{ text-anchor: end }} .value {{ font-size: 11px }}
.ours {{ fill: #4c8bf5 }} .peer {{ fill: #8888 }} .copy {{ stroke: #e8833a; stroke-dasharray: 3 2 }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}
</style>
{chr(10).join(body)}
</svg>
"""


def text(x, y, words, kind):
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{words}</text>'

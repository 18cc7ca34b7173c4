"""The report page's pictures: error by layer as inline SVG, a tensor's difference as PNG in a data URI, two histograms."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

import numpy as np
from PIL import Image

from scalablevit_ref.testing.arrays import Comparison
from scalablevit_ref.testing.diagnosis import eps_said
from scalablevit_ref.testing.report import Report, Row

SERIES = {"propagated": "both networks from end to end", "isolated": "each layer on the same input"}

COLOURS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
"""Viridis, which stays in order without colour and for the colour-blind."""

NOT_FINITE = "#ff4fa3"
"""Of elements that are NaN or infinite on either side; no colour of the scale is near it."""

CELLS = 240
"""A picture has at most so many cells a side; of more, each stands for the largest of a few."""

BINS = 64

PLOT_HEIGHT, LANE = 250, 28
CHARACTER = 6.6
"""Width of a label's characters in pixels, about."""


def error_chart(report: Report, *, width: int, name: str) -> str:
    """SVG of every layer's errors on a log scale, at most `width` pixels wide; `name` keeps its ids apart from other charts'."""
    rows = report.rows
    errors = [c.error for row in rows for c in (row.propagated, row.isolated) if c]
    allowed = report.tolerance if 0 < report.tolerance < math.inf else None
    shown = [e for e in [*errors, allowed or 1.0] if 0 < e < math.inf]
    low, high = math.floor(math.log10(min(shown))), math.floor(math.log10(max(shown))) + 1
    left, right, top = 56, 62, 24
    plot = min(width - left - right, max(48 * len(rows), 220))
    above = LANE * any(not math.isfinite(e) for e in errors)
    below = LANE * any(e == 0 for e in errors)
    bottom = top + above + PLOT_HEIGHT
    end, floor = left + plot, bottom + below
    step = plot / len(rows)
    parts = []

    def x(i: int) -> float:
        return left + step * (i + 0.5)

    def y(error: float) -> float:
        if not math.isfinite(error):
            return top + above / 2
        return bottom - PLOT_HEIGHT * (math.log10(error) - low) / (high - low) if error > 0 else bottom + below / 2

    def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(words: str, at: float, height: float, anchor: str = "middle", kind: str = "") -> None:
        parts.append(f'<text class="{kind}" x="{at:.1f}" y="{height:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    for power in range(low, high + 1, -(-(high - low) // 7)):
        line("grid", left, y(10.0**power), end, y(10.0**power))
        text(_power(power), left - 8, y(10.0**power) + 4, "end")
    if above:
        text("NaN, ∞", left - 8, y(math.inf) + 4, "end")
    if below:
        text("0", left - 8, y(0) + 4, "end")
        line("grid", left, floor, end, floor)
    text("eps", left - 8, top - 10, "end", "unit")
    taken = 0.0
    for first, last, label in _groups(rows):
        middle, half = left + step * (first + last + 1) / 2, CHARACTER * len(label) / 2
        middle = max(min(middle, end + right - half), half)
        if first:
            line("grid", left + step * first, top, left + step * first, floor + 6)
        if middle - half >= taken:
            text(label, middle, floor + 18)
            taken = middle + half + 4
    if allowed:
        line("allowed", left, y(allowed), end, y(allowed))
        text("allowed", end + 6, y(allowed) - 2, "start")
        text(f"{allowed:g} eps", end + 6, y(allowed) + 11, "start")
    if report.first:
        at = next(i for i, row in enumerate(rows) if row.layer == report.first.layer)
        line("first", x(at), top - 4, x(at), floor)
        label = report.first.layer if width < 600 else f"first to differ: {report.first.layer}"
        text(label, x(at), top - 10, "start" if x(at) < left + plot / 2 else "end", "first")
    size = max(1.4, min(3.0, step / 2.4))
    for kind in SERIES:
        found = [(i, c.error) for i, row in enumerate(rows) if (c := getattr(row, kind))]
        for finite, run in groupby(found, key=lambda point: math.isfinite(point[1])):
            points = [(x(i), y(error)) for i, error in run]
            if finite and kind == "propagated":
                parts.append(f'<polyline class="{kind}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
            parts += [_mark(kind, a, b, size, finite) for a, b in points]
    for i, row in enumerate(rows):
        hit = f'x="{left + step * i:.1f}" y="{top}" width="{step:.1f}" height="{floor - top}"'
        parts.append(f'<rect class="hit" {hit}><title>{escape(_tip(row))}</title></rect>')
    text("layers, in the order of the network" if plot > 300 else "layers, in order", left + plot / 2, floor + 38, kind="unit")
    head = f'<title id="{name}-title">Error by layer</title><desc id="{name}-desc">{escape(_description(report))}</desc>'
    size_said = f'width="{end + right}" height="{floor + 46}" viewBox="0 0 {end + right} {floor + 46}"'
    return f'<svg role="img" aria-labelledby="{name}-title {name}-desc" {size_said}>{head}{"".join(parts)}</svg>'


def _mark(kind: str, x: float, y: float, size: float, finite: bool) -> str:
    if not finite:
        x, y, side = x - size, y - size, 2 * size
        return f'<path class="{kind} cross" d="M{x:.1f} {y:.1f}l{side:.1f} {side:.1f}m0 {-side:.1f}l{-side:.1f} {side:.1f}"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size * (1.4 if kind == "propagated" else 1):.1f}"/>'


def _power(power: int) -> str:
    """A power of ten as it is written: 0.01, 1, 10, 10⁵."""
    if -2 <= power <= 2:
        return f"{10.0**power:g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _groups(rows: Sequence[Row]) -> Iterator[tuple[int, int, str]]:
    """The first and the last layer of each stage, and what it is called."""

    def stage(row: Row) -> str:
        found = re.match(r"(?:patch_embeds|stages|pos_block|norm_list)\.(\d+)", row.layer)
        return f"stage {found[1]}" if found else "head"

    at = 0
    for label, members in groupby(rows, key=stage):
        some = list(members)
        yield at, at + len(some) - 1, label if some[1:] else some[0].layer
        at += len(some)


def _tip(row: Row) -> str:
    lines = [f"{kind}: {eps_said(c.error)}" for kind, c in (("propagated", row.propagated), ("isolated", row.isolated)) if c]
    return "\n".join([row.layer, *lines])


def _description(report: Report) -> str:
    def span(comparisons: list[Comparison]) -> str:
        finite = [c.error for c in comparisons if math.isfinite(c.error)]
        rest = len(comparisons) - len(finite)
        said = [f"from {eps_said(min(finite))} to {eps_said(max(finite))}"] * bool(finite)
        return " and ".join(said + [f"NaN or infinite in {rest}"] * bool(rest))

    rows = report.rows
    lines = [f"Errors of {len(rows)} layers, {rows[0].layer} to {rows[-1].layer}, on a logarithmic scale in eps."]
    for kind in SERIES:
        comparisons = [c for row in rows if (c := getattr(row, kind))]
        lines += [f"The {kind} errors are {span(comparisons)}."] * bool(comparisons)
    lines.append(f"Allowed are {report.tolerance:g} eps.")
    return " ".join([*lines, f"The first to differ is {report.first.layer}." if report.first else "No layer differs."])


def heat_map(actual: np.ndarray, expected: np.ndarray) -> str:
    """|actual − expected|, b h w c or b c, of the image that holds the worst element: the largest over channels, and over space."""
    with np.errstate(all="ignore"):
        difference = abs(actual - expected)
    difference = np.where(np.isfinite(difference), difference, np.inf)
    worst = tuple(map(int, np.unravel_index(np.argmax(difference), difference.shape)))
    image, channels = difference[worst[0]], difference.shape[-1]
    finite = image[np.isfinite(image)]
    largest, broken = float(finite.max(initial=0.0)), image.size - finite.size
    parts = [f"<p>Image {worst[0]} of the {len(actual)}, counted from 0: it holds the worst element, at {worst}. "]
    if broken:
        parts.append(f"In it {broken:,} of {image.size:,} elements are NaN or infinite. ")
    parts.append("</p>")
    if image.ndim == 3:
        h, w = image.shape[:2]
        at = f"left:{100 * (worst[2] + 0.5) / w:.2f}%;top:{100 * (worst[1] + 0.5) / h:.2f}%"
        picture = _picture(_coarse(image.max(axis=-1)), largest, f"Map of {h} by {w} tokens, the largest difference over channels")
        parts.append(
            f'<figure class="map"><figcaption>Over space <span>largest of {channels} channels</span></figcaption>'
            f'<div class="down"><span>h&nbsp;0</span><span>{h - 1}</span></div>'
            f'<div class="frame">{picture}<span class="ring" style="{at}"></span></div>'
            f'<div class="along"><span>w&nbsp;0</span><span>{w - 1}</span></div></figure>'
        )
    strip = _coarse(image.reshape(-1, channels).max(axis=0, keepdims=True))
    each = -(-channels // strip.shape[1])
    said = "largest over space" if image.ndim == 3 else "one image"
    said += f"; each column is the largest of {each} channels" * (each > 1)
    parts.append(
        f'<figure class="strip"><figcaption>Over channels <span>{said}</span></figcaption>'
        f"{_picture(strip, largest, f'Strip of {channels} channels, the largest difference of each')}"
        f'<div class="along"><span>c&nbsp;0</span><span>{channels - 1}</span></div></figure>'
    )
    bad = f'<span><i style="background:{NOT_FINITE}"></i>NaN or ∞</span>' * bool(broken)
    ring = "<span><b></b>the worst element</span>" * (image.ndim == 3)
    parts.append(
        f'<div class="scale"><span>0</span><i class="bar" style="background:linear-gradient(to right,{",".join(COLOURS)})"></i>'
        f"<span>{largest:.3g}</span>{ring}{bad}</div>"
    )
    return "".join(parts)


def _coarse(x: np.ndarray) -> np.ndarray:
    for axis, size in enumerate(x.shape):
        x = np.maximum.reduceat(x, range(0, size, -(-size // CELLS)), axis=axis)
    return x


def _picture(values: np.ndarray, largest: float, words: str) -> str:
    """An `img` of one pixel a value, 0 to `largest` in `COLOURS`."""
    table = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (*COLOURS, NOT_FINITE)], np.float64)
    with np.errstate(all="ignore"):
        place = np.clip(np.where(np.isfinite(values) & (largest > 0), values / (largest or 1), 0), 0, 1) * (len(COLOURS) - 1)
    under = np.minimum(place.astype(int), len(COLOURS) - 2)
    share = (place - under)[..., None]
    pixels = np.where(np.isfinite(values)[..., None], table[under] * (1 - share) + table[under + 1] * share, table[-1])
    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, "PNG")
    h, w = values.shape
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img width="{w}" height="{h}" alt="{escape(words)}" src="data:image/png;base64,{data}">'


def histograms(actual: np.ndarray, expected: np.ndarray) -> str:
    """SVG of how often each finite value occurs in the candidate's tensor, over the same of the reference's."""
    finite = {name: x[np.isfinite(x)] for name, x in (("candidate", actual), ("reference", expected))}
    both = np.clip(np.concatenate([*finite.values()]), -1e300, 1e300)
    if not both.size:
        return "<p>No element is finite.</p>"
    low, high = float(both.min()), float(both.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value only, or too near to be told apart
        margin = 1e-6 * max(abs(low), abs(high)) or 1.0
        low, high = low - margin, high + margin
    left, right, top, bottom, width, height = 46, 10, 8, 200, 420, 236
    counts = {}
    for name, x in finite.items():
        place = (np.clip(x, low, high) - low) / (high - low) * BINS
        counts[name] = np.bincount(np.minimum(place.astype(int), BINS - 1), minlength=BINS)
    most = max(int(c.max()) for c in counts.values())
    parts = [f'<line class="grid" x1="{left}" y1="{y}" x2="{width - right}" y2="{y}"/>' for y in (top, (top + bottom) / 2, bottom)]
    for name in ("reference", "candidate"):
        corners = [f"{left},{bottom}"]
        for i, count in enumerate(counts[name]):
            y = bottom - (bottom - top) * count / most
            corners += [f"{left + (width - left - right) * j / BINS:.1f},{y:.1f}" for j in (i, i + 1)]
        parts.append(f'<polygon class="{name}" points="{" ".join(corners)} {width - right},{bottom}"/>')
    labels = [
        (left - 6, top + 4, "end", f"{most:,}"),
        (left - 6, bottom + 4, "end", "0"),
        (left, bottom + 16, "start", f"{low:.4g}"),
    ]
    labels += [(width - right, bottom + 16, "end", f"{high:.4g}"), ((left + width - right) // 2, bottom + 32, "middle", "value")]
    parts += [f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>' for x, y, anchor, words in labels]
    words = f"Counts of the candidate's values and of the reference's in {BINS} bins from {low:.4g} to {high:.4g}, at most {most} a bin."
    head = f'<title id="histogram-title">Histograms of the values</title><desc id="histogram-desc">{words}</desc>'
    ids = "histogram-title histogram-desc"
    return f'<svg class="histogram" role="img" aria-labelledby="{ids}" viewBox="0 0 {width} {height}">{head}{"".join(parts)}</svg>'

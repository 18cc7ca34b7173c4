"""The report page's pictures: the chart of errors and histograms as inline SVG, a tensor's difference as PNG in a data URI."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from scalablevit_ref.drawing.diagram import Diagram, Marks
from scalablevit_ref.drawing.style import MARK, VIRIDIS, viridis
from scalablevit_ref.errors import printable

CELLS = 240
"""Cells that a picture has at most a side; of more, each cell stands for the largest of a few elements."""

BINS = 64
"""Bins of a histogram."""

ANCHORS = {"left": "start", "center": "middle", "right": "end"}


def inline_svg(diagram: Diagram, *, name: str) -> str:
    """Lines, marks, letters and tips of a diagram as SVG in the page's colours; `name` keeps its ids apart from other diagrams'."""
    parts = []
    for line in diagram.lines:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
        dashes = ' stroke-dasharray="5 4"' * line.dashed
        parts.append(f'<polyline class="line {line.color}" stroke-width="{line.width}"{dashes} points="{points}"/>')
    parts += [_marks(marks) for marks in diagram.marks]
    for text in diagram.texts:
        look = (
            f'class="{text.color}" text-anchor="{ANCHORS[text.anchor]}" font-size="{text.size:g}"'
            + ' font-weight="600"' * text.bold
        )
        parts.append(f'<text {look} x="{text.x:.1f}" y="{text.y:.1f}">{escape(text.words)}</text>')
    for tip in diagram.tips:
        place = f'x="{tip.x:.1f}" y="{tip.y:.1f}" width="{tip.width:.1f}" height="{tip.height:.1f}"'
        parts.append(f'<rect class="hit" {place}><title>{escape(chr(10).join(tip.lines))}</title></rect>')
    width, height = f"{diagram.width:g}", f"{diagram.height:g}"
    head = f'<title id="{name}-title">{escape(diagram.title)}</title><desc id="{name}-desc">{escape(diagram.alt)}</desc>'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg role="img" aria-labelledby="{name}-title {name}-desc" {size}>{head}{"".join(parts)}</svg>'


def _marks(marks: Marks) -> str:
    r = f"{marks.radius:.1f}"
    if marks.shape == "cross":
        side = f"{2 * marks.radius:.1f}"
        start = [f"M{x - marks.radius:.1f} {y - marks.radius:.1f}" for x, y in marks.points]
        path = "".join(f"{corner}l{side} {side}m0 -{side}l-{side} {side}" for corner in start)
        return f'<path class="line {marks.color}" stroke-width="1.5" d="{path}"/>'
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>' for x, y in marks.points)
    return f'<g class="{marks.shape} {marks.color}">{circles}</g>'


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
            f'<div class="frame">{picture}<span class="worst" style="{at}"></span></div>'
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
    bad = f'<span><i style="background:{MARK}"></i>NaN or ∞</span>' * bool(broken)
    ring = "<span><b></b>the worst element</span>" * (image.ndim == 3)
    parts.append(
        f'<div class="scale"><span>0</span><i class="bar" style="background:linear-gradient(to right,{",".join(VIRIDIS)})"></i>'
        f"<span>{largest:.3g}</span>{ring}{bad}</div>"
    )
    return "".join(parts)


def _coarse(x: np.ndarray) -> np.ndarray:
    for axis, size in enumerate(x.shape):
        x = np.maximum.reduceat(x, range(0, size, -(-size // CELLS)), axis=axis)
    return x


def heat(values: np.ndarray, words: str) -> str:
    """An `img` of a map of differences, h w, which may hold some that are not finite."""
    finite = values[np.isfinite(values)]
    return _picture(values, float(finite.max(initial=0.0)), words)


def svg_picture(kind: str, name: str, title: str, words: str, width: int, height: int, body: str) -> str:
    """An `svg` of class `kind` with its alternative text; `name` keeps its ids apart from others'."""
    head = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(printable(words))}</desc>'
    ids = f"{name}-title {name}-desc"
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg class="{kind}" role="img" aria-labelledby="{ids}" {size}>{head}{body}</svg>'


def _picture(values: np.ndarray, largest: float, words: str) -> str:
    """An `img` of one pixel a value, 0 to `largest` in viridis."""
    finite = np.isfinite(values)
    shares = np.where(finite, values, 0) / (largest or 1)
    pixels = np.where(finite[..., None], 255 * viridis(shares), list(bytes.fromhex(MARK[1:])))
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
    parts = [
        f'<line class="line rule" x1="{left}" y1="{y}" x2="{width - right}" y2="{y}"/>' for y in (top, (top + bottom) / 2, bottom)
    ]
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
    words = f"Counts of the candidate and of the reference in {BINS} bins from {low:.4g} to {high:.4g}, at most {most} a bin."
    return svg_picture("histogram", "histogram", "Histograms of the values", words, width, height, "".join(parts))

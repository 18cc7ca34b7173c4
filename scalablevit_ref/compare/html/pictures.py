"""The report page's pictures of one tensor: its difference as PNG in a data URI, and histograms of its values."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

COLOURS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
"""Viridis, which stays in order without colour and for the colour-blind."""

NOT_FINITE = "#ff4fa3"
"""Of elements that are NaN or infinite on either side; no colour of the scale is near it."""

CELLS = 240
"""A picture has at most so many cells a side; of more, each stands for the largest of a few."""

BINS = 64


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
    words = f"Counts of the candidate and of the reference in {BINS} bins from {low:.4g} to {high:.4g}, at most {most} a bin."
    head = f'<title id="histogram-title">Histograms of the values</title><desc id="histogram-desc">{words}</desc>'
    ids = "histogram-title histogram-desc"
    return f'<svg class="histogram" role="img" aria-labelledby="{ids}" viewBox="0 0 {width} {height}">{head}{"".join(parts)}</svg>'

"""A kind of difference as a picture: where numbers went, a fitted line, factors by channel, a function, a map of what is off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from scalablevit_ref.compare.html.pictures import heat, svg_picture
from scalablevit_ref.compare.html.text import number, said
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.sample import Sample

WIDTH, HEIGHT, SIDE = 420, 236, 260
"""Size in pixels of a picture, and the side of a square one, as they are drawn; the page scales them."""

LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 36
"""Margins in pixels, in which the numbers and the names of the axes stand."""

SMALL = 0.05
"""Differences below this share of the range of all numbers are drawn by themselves."""

MOST_PLACES = 512
"""Places of which a picture of moved numbers shows where they come from; of more, every n-th."""

MOST_MAPS = 3
"""Axes along which numbers moved that are drawn, one picture each."""

MOST_EXAMPLES = 2
"""Changed tokens of which is drawn what moves."""

SUBSETS = ("border", "some tokens", "some windows", "some rows", "some columns", "not finite")
"""Kinds of difference that a map of the tokens shows."""

BY_CHANNEL = ("some channels", "some heads")
"""Kinds of difference that the channels show."""

Plain = Mapping[str, Any]


def pictures(difference: Difference, sample: Sample | None, name: str) -> str:
    """Figures that show this difference; empty if its words say all. name: keeps their ids apart from those of others."""
    drawn = _drawn(difference, sample, name)
    return "".join(drawn)


def overview(sample: Sample, name: str) -> str:
    """Of a difference that has no picture of its own: how far off the numbers are, and where."""
    x, y = _finite(sample)
    small = bool(x.size) and float(abs(y - x).max()) < SMALL * float(np.ptp(x))
    parts = [residual(sample, name) if small else scatter(sample, {}, name)]
    if sample.off is not None and sample.off.size > 1:
        parts.append(tokens(sample))
    return "".join(parts)


def _drawn(difference: Difference, sample: Sample | None, name: str) -> Iterator[str]:
    kind, data = difference.kind, difference.data
    if kind == "places":
        for i, (along, table) in enumerate(list(tables(data, sample))[:MOST_MAPS]):
            yield moved(along, table, f"{name}-{i}")
    elif kind == "affine" and sample is not None:
        yield scatter(sample, data, name)
    elif "x" in data and "y" in data:
        yield function(data, name)
    elif data.get("examples"):
        yield from reach(data)
    elif not isinstance(data.get("factors"), Mapping) and ("factors" in data or "shifts" in data):
        axis = str(data.get("axis", "channel"))
        for key, neutral in (("factors", 1.0), ("shifts", 0.0)):
            values = np.asarray(data.get(key, ()), float)
            if values.size and np.any(abs(values - neutral) > 1e-9):
                yield bars(f"{key[:-1].capitalize()} of each {axis}", values, neutral, axis, f"{name}-{key}")
    elif data.get("matrix"):
        yield weights(np.atleast_2d(np.asarray(data["matrix"], float)), str(data.get("of", "the input")))
    elif kind == "mixture" and data.get("sum"):
        yield mixture(data)
    elif kind in BY_CHANNEL and sample is not None:
        yield bars("Largest difference of each channel", sample.channels, 0.0, "channel", name)
    elif kind in SUBSETS and sample is not None and sample.off is not None and sample.off.size > 1:
        yield tokens(sample)


def _figure(caption: str, beside: str, body: str) -> str:
    return f'<figure class="plot"><figcaption>{said(caption)} <span>{said(beside)}</span></figcaption>{body}</figure>'


# Axes


class Axes:
    """A rectangle with numbers at its ends, in which values have their places."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: int, height: int) -> None:
        self.x, self.y, self.width, self.height = _wider(x), _wider(y), width, height

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def drawn(self, marks: Sequence[str], along: str, up: str, name: str, words: str, *, ends: bool = True) -> str:
        """The whole picture, with these marks in it. `ends`: with the numbers at the ends of both axes."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        frame = f'<path class="line rule" d="M{LEFT} {TOP}H{right}V{bottom}H{LEFT}Z"/>'
        labels = [((LEFT + right) / 2, bottom + 30, "middle", along), (LEFT, bottom + 16, "start", f"{self.x[0]:.3g}")]
        labels += [(right, bottom + 16, "end", f"{self.x[1]:.3g}")]
        labels += [(LEFT - 6, bottom, "end", f"{self.y[0]:.3g}"), (LEFT - 6, TOP + 10, "end", f"{self.y[1]:.3g}")]
        shown = labels if ends else labels[:1]
        texts = "".join(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{said(word)}</text>' for x, y, anchor, word in shown)
        middle = (TOP + bottom) / 2
        texts += f'<text text-anchor="middle" transform="translate(14 {middle:.1f}) rotate(-90)">{said(up)}</text>'
        return svg_picture("plot", name, "The kind of difference", words, self.width, self.height, frame + "".join(marks) + texts)


def _wider(ends: tuple[float, float]) -> tuple[float, float]:
    """A little, so that nothing lies on the edge; more where both are the same."""
    low, high = ends
    margin = 0.04 * (high - low) or 0.5 * abs(low) or 1.0
    return low - margin, high + margin


def _ends(values: np.ndarray) -> tuple[float, float]:
    values = np.clip(values, -1e300, 1e300)
    return float(values.min()), float(values.max())


def _dots(axes: Axes, x: np.ndarray, y: np.ndarray, color: str) -> str:
    path = "".join("M{:.1f} {:.1f}h0".format(*axes.at(float(a), float(b))) for a, b in zip(x, y, strict=True))
    return f'<path class="points {color}" d="{path}"/>'


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, *, dashed: bool = False) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*axes.at(float(a), float(b))) for a, b in zip(x, y, strict=True))
    dashes = ' stroke-dasharray="5 4"' * dashed
    return f'<polyline class="line {color}" stroke-width="1.5"{dashes} points="{points}"/>'


def _legend(*words: tuple[str, str]) -> str:
    return '<p class="legend">' + "".join(f'<span><i class="{kind}"></i>{said(word)}</span>' for kind, word in words) + "</p>"


# Pictures


def _finite(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the reference and of the candidate where both are finite."""
    finite = np.isfinite(sample.actual) & np.isfinite(sample.expected)
    return np.clip(sample.expected[finite], -1e300, 1e300), np.clip(sample.actual[finite], -1e300, 1e300)


def scatter(sample: Sample, data: Plain, name: str) -> str:
    """The candidate's numbers over the reference's; with the fitted line, where `data` has a factor and a shift."""
    x, y = _finite(sample)
    if not x.size:
        return ""
    axes = Axes(_ends(x), _ends(y), WIDTH, HEIGHT)
    low, high = max(axes.x[0], axes.y[0]), min(axes.x[1], axes.y[1])
    marks, legend = [], [("dots", "numbers at the same place")]
    if low < high:
        marks.append(_line(axes, (low, high), (low, high), "ink", dashed=True))
        legend.append(("dashes", "equal"))
    words = f"{x.size} numbers of the candidate over those of the reference at the same places."
    if {"factor", "shift"} <= data.keys():
        factor, shift = float(data["factor"]), float(data["shift"])
        ends = [min(max(end, axes.y[0]), axes.y[1]) for end in (factor * axes.x[0] + shift, factor * axes.x[1] + shift)]
        across = [(end - shift) / factor for end in ends] if factor else list(axes.x)
        marks.append(_line(axes, across, ends, "bad"))
        sign = "−" if shift < 0 else "+"
        fitted = f"{number(factor, 4)} × reference" + (f" {sign} {number(abs(shift), 3)}" if shift else "")
        legend.append(("fitted", fitted))
        words += f" They lie on the line {fitted}."
    body = axes.drawn([*marks, _dots(axes, x, y, "iwsa")], "reference", "candidate", name, words) + _legend(*legend)
    return _figure("Candidate over reference", f"{x.size:,} of the value’s numbers", body)


def residual(sample: Sample, name: str) -> str:
    """How far the candidate's numbers are off, over the reference's."""
    x, y = _finite(sample)
    if not x.size:
        return ""
    off = np.clip(y - x, -1e300, 1e300)
    axes = Axes(_ends(x), _ends(np.append(off, 0.0)), WIDTH, HEIGHT)
    words = f"{x.size} differences of the candidate from the reference, over the reference's numbers."
    marks = [_line(axes, axes.x, (0, 0), "ink", dashed=True), _dots(axes, x, off, "iwsa")]
    body = axes.drawn(marks, "reference", "candidate − reference", name, words) + _legend(("dashes", "equal"))
    return _figure("How far off", f"{x.size:,} of the value’s numbers", body)


def function(data: Plain, name: str) -> str:
    """The function that makes the candidate's numbers of those of another value."""
    x, y = (np.asarray(data[key], float) for key in ("x", "y"))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if not x.size:
        return ""
    axes = Axes(_ends(x), _ends(y), WIDTH, HEIGHT)
    named, of = str(data.get("function", "")), str(data.get("of", "the input"))
    marks = [_line(axes, x.tolist(), y.tolist(), "bad")] * bool(named) + [_dots(axes, x, y, "iwsa")]
    legend = [("dots", "the candidate’s numbers")] + [("fitted", named)] * bool(named)
    words = f"The candidate's numbers over those of {of}: {named or 'a function without a name here'}."
    body = axes.drawn(marks, _short(of), "candidate", name, words) + _legend(*legend)
    return _figure(named or "A function", f"of {of}", body)


def bars(caption: str, values: np.ndarray, neutral: float, axis: str, name: str) -> str:
    """A number for each channel, head or image, as bars from the number that changes nothing."""
    values = np.nan_to_num(np.asarray(values, float), nan=0.0, posinf=1e300, neginf=-1e300)
    low, high = _ends(np.append(values, neutral))
    axes = Axes((0, len(values)), (low, high), WIDTH, HEIGHT)
    axes.x = (0, len(values))
    wide = 0.8 if len(values) <= 128 else 1.0
    pieces = []
    for i, value in enumerate(values.tolist()):
        x, y = axes.at(i + (1 - wide) / 2, value)
        end, base = axes.at(i + (1 + wide) / 2, neutral)
        pieces.append(f"M{x:.1f} {base:.1f}V{y:.1f}H{end:.1f}V{base:.1f}Z")
    marks = [f'<path class="fill iwsa" d="{"".join(pieces)}"/>', _line(axes, axes.x, (neutral, neutral), "ink", dashed=True)]
    ends = f"{number(float(values.min()), 4)} to {number(float(values.max()), 4)}"
    words = f"{caption}, {len(values)} bars, {ends}; {neutral:g} would change nothing."
    body = axes.drawn(marks, axis, caption.partition(" ")[0].lower(), name, words)
    legend = _legend(("dashes", f"{neutral:g}, which changes nothing"))
    return _figure(caption, ends, body + legend)


def tokens(sample: Sample) -> str:
    """Where on the map the candidate is off."""
    assert sample.off is not None
    h, w = sample.shape[1:3]
    largest = "the largest difference over images and channels"
    words = f"Map of {h} by {w} tokens, {largest}"
    return (
        f'<figure class="map"><figcaption>Tokens that differ <span>{largest}</span></figcaption>'
        f'<div class="down"><span>h&nbsp;0</span><span>{h - 1}</span></div>{heat(sample.off, words)}'
        f'<div class="along"><span>w&nbsp;0</span><span>{w - 1}</span></div></figure>'
    )


def reach(data: Plain) -> Iterator[str]:
    """What moves where one token is changed, in the candidate and in the reference: maps side by side, of a few tokens."""
    for one in list(data["examples"])[:MOST_EXAMPLES]:
        row, column, of = int(one["row"]), int(one["column"]), str(data.get("of", "token"))
        for who in ("candidate", "reference"):
            moved = np.array([[float(x == "1") for x in line] for line in one[who]])
            h, w = moved.shape
            shown = moved / 2
            marked = list(one["size"]) == [h, w] and bool(moved[row, column])
            if marked:
                shown[row, column] = 1.0
            words = f"Map of {h} by {w} tokens of the {who}: {int(moved.sum())} move where row {row}, column {column} is changed"
            beside = f"one {of} is changed, at row {row}, column {column}{': the brightest' * marked}"
            yield (
                f'<figure class="map"><figcaption>What moves in the {who} <span>{said(beside)}</span></figcaption>'
                f'<div class="down"><span>h&nbsp;0</span><span>{h - 1}</span></div>{heat(shown, words)}'
                f'<div class="along"><span>w&nbsp;0</span><span>{w - 1}</span></div></figure>'
            )


def weights(matrix: np.ndarray, of: str) -> str:
    """The sizes of a linear map's first weights, out in."""
    out, inside = matrix.shape
    words = f"Sizes of the first {out} by {inside} weights of a linear map of {of}"
    beside = f"of {of}, the sizes of its first weights: a row for each output, a column for each input"
    return (
        f'<figure class="map"><figcaption>A linear map <span>{said(beside)}</span></figcaption>'
        f'<div class="down"><span>0</span><span>{out - 1}</span></div>{heat(abs(matrix), words)}'
        f'<div class="along"><span>0</span><span>{inside - 1}</span></div></figure>'
    )


def mixture(data: Plain) -> str:
    """What the candidate adds up, and what the reference does."""
    own, right = (dict(data.get(key) or {}) for key in ("sum", "reference"))
    largest = max(abs(float(factor)) for factor in [*own.values(), *right.values()]) or 1.0
    rows = []
    for term in dict.fromkeys([*own, *right]):
        cells = []
        for kind, some in (("candidate", own), ("reference", right)):
            if not some:
                cells.append("<td>–</td>")
                continue
            factor = float(some.get(term, 0.0))
            cells.append(f'<td><i class="{kind}" style="width:{4 * abs(factor) / largest:.2f}rem"></i>{number(factor, 4)}</td>')
        rows.append(f'<tr><th scope="row">{said(term)}</th>{"".join(cells)}</tr>')
    head = '<tr><th scope="col">added up</th><th scope="col">candidate</th><th scope="col">reference</th></tr>'
    table = f'<div class="box"><table class="mixture"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    return _figure("A sum", "of which values, and how often each", table)


def moved(along: str, table: np.ndarray, name: str) -> str:
    """From which place of the reference's value each number of the candidate's comes: right ones lie on the diagonal."""
    size = len(table)
    axes = Axes((0, size), (0, size), SIDE + LEFT + RIGHT, SIDE + TOP + BOTTOM)
    axes.x, axes.y = (0, size), (0, max(size, int(table.max()) + 1))
    step = -(-size // MOST_PLACES)
    side = max(axes.at(step, 0)[0] - axes.at(0, 0)[0], 1.6)
    pieces = []
    for to in range(0, size, step):
        if table[to] >= 0:
            x, y = axes.at(to, float(table[to]))
            pieces.append(f"M{x:.1f} {y:.1f}h{side:.1f}v-{side:.1f}h-{side:.1f}z")
    marks = [_line(axes, (0, size), (0, size), "ink", dashed=True), f'<path class="fill iwsa" d="{"".join(pieces)}"/>']
    wrong = int(np.count_nonzero(table != np.arange(size)))
    words = f"{wrong} of {size} places along {along} hold numbers of another place of the reference's value."
    body = axes.drawn(marks, f"{along} in the candidate", "in the reference", name, words)
    return _figure("Where the numbers come from", f"{size} places along {along}", body + _legend(("dashes", "its own place")))


def _short(words: str, most: int = 44) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


# Where numbers went


def tables(data: Plain, sample: Sample | None) -> Iterator[tuple[str, np.ndarray]]:
    """For an axis, or several as one, the place from which the number at each place comes; −1 where it comes from none."""
    shape = None if sample is None else sample.shape
    if "written" in data and "read" in data:
        yield from _of_a_relayout(data)
    elif "by" in data and shape is not None and len(shape) == 4:
        axis = 1 if str(data.get("axis", "")).startswith(("row", "h", "H")) else 2
        table = np.arange(shape[axis]) - int(data["by"])
        yield ("rows", "columns")[axis - 1], np.where((table >= 0) & (table < len(table)), table, -1)
    elif "from" in data:
        yield "channels", np.asarray(data["channels"], int)
    else:
        for along in ("images", "rows", "columns", "tokens", "channels"):
            table = np.asarray(data.get(along, ()), int)
            if table.size > 1 and np.any(table != np.arange(len(table))):
                yield along, table


def _of_a_relayout(data: Plain) -> Iterator[tuple[str, np.ndarray]]:
    """Of numbers written in one order and read in another; axes that stay first or last in both are left out."""
    sizes: dict[str, int] = {str(name): int(size) for name, size in data["sizes"].items()}
    orders = [list(sizes), str(data["written"]).split(), str(data["read"]).split()]
    if any(sorted(order) != sorted(sizes) for order in orders):
        return
    for end in (0, -1):
        while len({order[end] for order in orders if order}) == 1 and len(orders[0]) > 1:
            for order in orders:
                order.pop(end)
    axes, written, read = orders
    x = np.arange(math.prod(sizes[name] for name in axes)).reshape([sizes[name] for name in axes])
    memory = x.transpose([axes.index(name) for name in written]).reshape([sizes[name] for name in read])
    yield f"({' '.join(axes)})", memory.transpose([read.index(name) for name in axes]).ravel()

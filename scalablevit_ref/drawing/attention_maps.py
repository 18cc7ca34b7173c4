"""Attention maps laid over the image: what one query attends to, what each key receives, what LIM adds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.drawing.attention_weights import LayerAttention
from scalablevit_ref.drawing.diagram import MARGIN, Diagram, Line, Picture, Text
from scalablevit_ref.drawing.facts import figures, several
from scalablevit_ref.drawing.render import save
from scalablevit_ref.drawing.style import MARK, SMALL, WIDTH, viridis

HEADS_TOLD = 8
"""Heads of which the alternative text says where they look; of more, the first ones."""

HEAT, HALF = 0.72, 0.5
"""Share of a map's colour where it lies over the image, which in grey has the rest; and a grey for what is no image."""

FLAT = 0.6
"""Share of the image's contrast that is left under a map, so that black and white hardly change the map's colours."""

SMALLEST_FRAME = 9
"""Pixels a side that a frame has at least."""

SMALL_PANEL = 100
"""Pixels a side up to which a panel has frames of thinner lines."""

GAP, LINE = 14, 19
"""Pixels between panels, and from line to line."""

LABEL, SCALE = 42, 40
"""Pixels of two lines above a panel, and of a scale below it."""


@dataclass(frozen=True)
class Panel:
    """A map, pixel for pixel as the image."""

    above: tuple[str, str]  # a line, and one that stands back
    pixels: np.ndarray  # "h w rgb"
    largest: float | None = None  # the share at which the scale ends; None has no scale
    mark: float = 0.0  # a share that is marked on the scale
    seen: tuple[int, int, int, int] | None = None  # left, right, top and bottom of the part that is seen; None is all of it
    frames: tuple[tuple[int, int, int], ...] = ()  # left, top and side of what is framed
    windows: int | None = None  # pixels a side of the windows whose borders are drawn


@dataclass(frozen=True)
class AttentionPicture:
    """The first image of a `LayerAttention`, and what is to be seen of it; ValueError for a query or a head that is not there."""

    found: LayerAttention
    image: np.ndarray  # grey, "h w", from 0 to 1
    query: tuple[int, int] | None  # the token's row and column; None is the mean over all queries, of SSA only
    heads: tuple[int, ...]  # those that are shown
    each: bool = True  # each of them has a panel besides their mean
    said: tuple[str, ...] = ()  # lines under the title

    def __post_init__(self) -> None:
        (h, w), found = self.found.tokens, self.found
        if self.query is None and found.kind == "iwsa":
            raise ValueError(f"the queries of {found.layer} (IWSA) have no mean: each window has keys of its own")
        if self.query and not (0 <= self.query[0] < h and 0 <= self.query[1] < w):
            said = ",".join(map(str, self.query))
            raise ValueError(f"query must be a token of {found.layer}'s map, from 0,0 to {h - 1},{w - 1}, got {said}")
        for head in self.heads:
            if not 0 <= head < found.heads:
                raise ValueError(f"head must be one of {found.layer}'s, from 0 to {found.heads - 1}, got {head}")

    def save(self, path: Path | str, *, theme: str = "light", force: bool = False) -> None:
        """Write the picture; see `render.save`."""
        save(self.diagram(), path, theme=theme, force=force)

    @property
    def title(self) -> str:
        found = self.found
        span = f"s = {found.span}" if found.kind == "ssa" else f"p = {found.span}"
        return f"{found.layer}: {found.kind.upper()}, {span}, {several(found.heads, 'head')}"

    @cached_property
    def weights(self) -> np.ndarray:
        """Of each head shown, "heads kh kw": what the query gives, or the mean over all queries."""
        heads = list(self.heads)
        if self.query is None:
            return np.asarray(self.found.received[0, heads])
        return np.asarray(self.found.weights[0, heads, self.query[0], self.query[1]])

    @property
    def even(self) -> float:
        """What each key would get if all got the same."""
        return 1 / float(np.prod(self.found.keys))

    @property
    def lim_share(self) -> np.ndarray | None:
        """Of IWSA: |F(V)| / (|F(V)| + |Z|) at each token, "h w"."""
        found = self.found
        return None if found.lim is None or found.values is None else np.asarray(found.lim[0] / (found.lim[0] + found.values[0]))

    @property
    def alt(self) -> str:
        """What the picture shows, and where each head looks most."""
        (h, w), (kh, kw), found, share = self.found.tokens, self.found.keys, self.found, self.lim_share
        asks = f"the query at row {self.query[0]}, column {self.query[1]} gives" if self.query else "all queries together give"
        most = []
        for head, weights in list(zip(self.heads, self.weights, strict=True))[:HEADS_TOLD]:
            row, column = np.unravel_index(np.argmax(weights), weights.shape)
            most.append(f"head {head} {weights.max():.0%} to row {row}, column {column}")
        keys = f"{kh} by {kw} keys" + (" in its window" if found.kind == "iwsa" else "")
        words = f"{self.title}; {h} by {w} tokens, laid over the image. Of {keys} {asks} most to: {'; '.join(most)}. "
        words += f"An even share is {self.even:.1%}."
        if share is not None:
            words += f" LIM's share of the lengths that are added is {np.median(share):.0%}, the median over tokens."
        return words

    @property
    def legend(self) -> tuple[str, ...]:
        """What the marks on the scales are."""
        lines = [f"│ {100 * self.even:.3g} %: an even share for each of {figures(*self.found.keys)} keys"]
        share = self.lim_share
        if share is not None:
            lines.append(f"│ 50 %: LIM adds as much as the window (median {100 * np.median(share):.0f} %)")
        return tuple(lines)

    def diagram(self) -> Diagram:
        """A title, a row of three places, the heads in a grid with one scale, and a legend."""
        top, heads = self.panels(), self.panels_by_head()
        columns = next(n for n, most in ((3, 3), (4, 8), (6, 24), (8, len(heads))) if len(heads) <= most)
        wide, narrow = ((WIDTH - 2 * MARGIN - GAP * (n - 1)) / n for n in (3, columns))
        diagram = Diagram(self.title, alt=self.alt)
        first = diagram.heading(*self.said, literal=True)
        for i, panel in enumerate(top):
            x = MARGIN + i * (wide + GAP)
            diagram.note(x, first + 17, panel.above[0], color="ink", bold=True)
            diagram.note(x, first + 17 + LINE, panel.above[1])
            _put_panel(diagram, panel, x, first + LABEL, wide)
            if panel.largest is not None:
                _put_scale(diagram, panel, x, first + LABEL + wide + 8, wide)
        second, step = first + LABEL + wide + SCALE + 8, narrow + 28
        for i, panel in enumerate(heads):
            x, y = MARGIN + i % columns * (narrow + GAP), second + i // columns * step
            diagram.note(x, y + 15, panel.above[0], color="ink")
            _put_panel(diagram, panel, x, y + 20, narrow)
        end = second - 6
        if heads:
            end = second + -(-len(heads) // columns) * step + SCALE - 4
            _put_scale(diagram, heads[0], MARGIN, end - SCALE + 4, min(len(heads), columns) * (narrow + GAP) - GAP)
        for i, line in enumerate(self.legend):
            diagram.note(MARGIN, end + 12 + LINE * i, line)
        diagram.height = end + LINE * len(self.legend) + 6
        return diagram

    def panels(self) -> list[Panel]:
        """The image, the mean over the heads, and what SSA's keys receive or IWSA's LIM adds."""
        found, share, canvas = self.found, self.lim_share, self._canvas
        heads = f"head {self.heads[0]}" if len(self.heads) == 1 else f"mean of {len(self.heads)} heads"
        cut = f"{figures(*found.tokens)} tokens"
        if self._window:
            windows = [size // self._window for size in canvas.shape]
            cut = f"{figures(*windows)} windows" if max(windows) > 1 else "one window"
        at = f"□ query {self.query[0]},{self.query[1]}" if self.query else "all are queries"
        panels = [Panel((cut, at), np.repeat(canvas[..., None], 3, axis=-1), **self._marks)]
        if self.query:
            panels.append(self._shares(("the query" if share is None else "in its window", heads), self.weights.mean(0)))
        if share is None:
            received = found.received[0, list(self.heads)].mean(0)
            panels.append(replace(self._shares(("all queries", heads), received), frames=()))
        else:
            pixels = over(canvas, spread(share, found.stride, (0, 0), canvas.shape), 1.0)
            panels.append(Panel(("LIM's share", "|F(V)| / (|F(V)| + |Z|)"), pixels, largest=1.0, mark=0.5, **self._marks))
        return panels

    def panels_by_head(self) -> list[Panel]:
        """A panel a head, all on one scale; none where there is but one."""
        if not self.each or len(self.heads) == 1:
            return []
        largest = float(self.weights.max())
        shown = zip(self.heads, self.weights, strict=True)
        return [self._shares((f"head {head}", ""), weights, largest) for head, weights in shown]

    @property
    def _window(self) -> int | None:
        """Pixels a side of IWSA's windows."""
        return self.found.stride * self.found.span if self.found.kind == "iwsa" else None

    @cached_property
    def _canvas(self) -> np.ndarray:
        """The image, with HALF grey to the right and below where tokens reach beyond it."""
        unit = self._window or self.found.stride
        (h, w), tokens = self.image.shape, self.found.tokens
        below, right = (max(0, -(-n * self.found.stride // unit) * unit - size) for n, size in zip(tokens, (h, w), strict=True))
        return np.pad(self.image, ((0, below), (0, right)), constant_values=HALF)

    @property
    def _marks(self) -> dict[str, Any]:
        """Frames around the query and its window, and the windows' borders."""
        if self.query is None:
            return {}
        stride, (row, column) = self.found.stride, self.query
        frames = [(column * stride, row * stride, stride)]
        if self._window:
            first = self.found.first_key(row, column)
            frames.append((first[1] * stride, first[0] * stride, self._window))
        return {"frames": tuple(frames), "windows": self._window}

    def _shares(self, above: tuple[str, str], shares: np.ndarray, largest: float | None = None) -> Panel:
        """Shares "kh kw" of the attention over the keys; of IWSA only the query's window is seen."""
        side, canvas = self.found.stride * self.found.key_tokens, self._canvas
        row, column = self.found.first_key(*self.query) if self.query else (0, 0)
        top, left = row * self.found.stride, column * self.found.stride
        largest = float(shares.max()) if largest is None else largest
        pixels = over(canvas, spread(shares, side, (top, left), canvas.shape), largest)
        marks = self._marks
        if self._window:
            marks = {"frames": marks["frames"][:1], "seen": (left, left + self._window, top, top + self._window)}
        return Panel(above, pixels, largest=largest, mark=self.even, **marks)


def spread(values: np.ndarray, side: int, corner: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Values "kh kw" as squares of `side` pixels, the first at this corner of a map of this shape; NaN around them."""
    pixels = np.full(shape, np.nan)
    squares = np.kron(values, np.ones((side, side)))
    part = pixels[corner[0] : corner[0] + squares.shape[0], corner[1] : corner[1] + squares.shape[1]]
    part[...] = squares[: part.shape[0], : part.shape[1]]
    return pixels


def over(grey: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """Values from 0 to `largest` in viridis over the grey image, "h w rgb"; where they are NaN the image alone."""
    colors = viridis(np.nan_to_num(values) / (largest or 1))
    under = HALF + FLAT * (grey - HALF)
    mixed = HEAT * colors + (1 - HEAT) * under[..., None]
    return np.where(np.isnan(values)[..., None], grey[..., None], mixed)


def _rim(diagram: Diagram, x: float, y: float, width: float, height: float, *looks: tuple[str, float]) -> None:
    """Lines around a rectangle, one over the other: their colours and widths."""
    corners = (x, y), (x + width, y), (x + width, y + height), (x, y + height)
    diagram.lines += [Line((*corners, *corners[:2]), color, thick) for color, thick in looks]


def _put_panel(diagram: Diagram, panel: Panel, x: float, y: float, side: float) -> None:
    """Add a square of this side with the part of the panel that is seen, the windows' borders and the frames."""
    h, w = panel.pixels.shape[:2]
    left, right, top, bottom = panel.seen or (0, w, 0, h)
    across, down = side / (right - left), side / (bottom - top)  # pixels of the picture in one of the image
    diagram.pictures.append(Picture(x, y, side, side, panel.pixels[top:bottom, left:right]))
    _rim(diagram, x, y, side, side, ("rule", 1))
    if panel.windows and panel.seen is None:
        borders = [((x, y + down * at), (x + side, y + down * at)) for at in range(panel.windows, h, panel.windows)]
        borders += [((x + across * at, y), (x + across * at, y + side)) for at in range(panel.windows, w, panel.windows)]
        diagram.lines += [Line(ends, color, width) for ends in borders for color, width in (("#000000", 2.3), ("#ffffff", 0.9))]
    thick = ("#000000", 4.3), (MARK, 2.3)
    for frame_left, frame_top, size in panel.frames:
        wide, high = (max(SMALLEST_FRAME, scale * size) for scale in (across, down))
        middle = x + across * (frame_left - left + size / 2), y + down * (frame_top - top + size / 2)
        looks = thick if side > SMALL_PANEL else [(color, width / 1.6) for color, width in thick]
        _rim(diagram, middle[0] - wide / 2, middle[1] - high / 2, wide, high, *looks)


def _put_scale(diagram: Diagram, panel: Panel, x: float, y: float, width: float) -> None:
    """Add a scale from 0 to the panel's largest value, in the colours that it has over a middle grey."""
    largest = panel.largest or 1.0
    steps = np.linspace(0, largest, 256)[None]
    diagram.pictures.append(Picture(x, y, width, 10, over(np.full(steps.shape, HALF), steps, largest)))
    _rim(diagram, x, y, width, 10, ("rule", 1))
    if 0 < panel.mark < largest:
        at = x + width * panel.mark / largest
        diagram.lines += [Line(((at, y), (at, y + 10)), color, wide) for color, wide in (("#000000", 4.3), ("#ffffff", 1.9))]
    diagram.note(x, y + 25, "0")
    diagram.texts.append(Text(x + width, y + 25, f"{100 * largest:.3g} %", "right", SMALL, color="soft"))

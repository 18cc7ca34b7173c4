"""Attention maps laid over the image: what one query attends to, what each key receives, what LIM adds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.attention_weights import LayerAttention
from scalablevit_ref.drawing.counts import figures
from scalablevit_ref.drawing.panels import HALF, Panel, figure, over, spread

TOLD = 8
"""Of so many heads the alternative text says where they look."""


@dataclass(frozen=True)
class AttentionPicture:
    """The first image of a `LayerAttention`, and what is to be seen of it.

    image: grey, "h w", from 0 to 1. query: the token's row and column; None is the mean over all queries, of SSA only.
    heads: which. each: a panel for each of them besides their mean. said: lines under the title.

    Raises ValueError for a query or a head that the layer does not have.
    """

    found: LayerAttention
    image: np.ndarray
    query: tuple[int, int] | None
    heads: tuple[int, ...]
    each: bool = True
    said: tuple[str, ...] = ()

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

    def save(self, path: Path | str, *, theme: str = "light") -> None:
        """Write the picture; see `style.save`."""
        with style.themed(theme) as colors:
            picture = figure(self.title, self.said, self.panels(), self.panels_by_head(), self.legend, colors)
            style.save(picture, path, title=self.title, alt=self.alt)

    @property
    def title(self) -> str:
        found = self.found
        span = f"s = {found.span}" if found.kind == "ssa" else f"p = {found.span}"
        return f"{found.layer}: {found.kind.upper()}, {span}, {found.heads} head{'s' * (found.heads > 1)}"

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
        for head, weights in list(zip(self.heads, self.weights, strict=True))[:TOLD]:
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

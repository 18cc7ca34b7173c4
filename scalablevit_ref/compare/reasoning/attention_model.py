"""Attention with every setting free: a hypothesis of what a candidate computes, and what it gives on some windows or on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.compare.reasoning.fitting import Array, spread
from scalablevit_ref.compare.reasoning.windows import Cut, Windows, cut

NUMBERS = 1 << 22
"""Logits that are held at a time."""


@dataclass(frozen=True)
class Hypothesis:
    """What a candidate may compute between its q, k, v and what enters proj.

    Attributes
    ----------
    windows
        Which tokens attend to which.
    heads
        Number of heads.
    packing
        How q, k and v lie in the channels of the Linear that gives them; "three heads d" is the reference's.
    roles
        What is taken for q, k and v.
    splits
        How the channels of q, k and v are split into heads (a name in `SPLITS`).
    merge
        How the heads are merged.
    logits
        A name in `LOGITS`.
    scale
        Factor of the logits; None is the reference's rule for this number of heads.
    mask
        A name in `MASKS`.
    normaliser
        A name in `NORMALISERS`, or "top" and a number.
    """

    windows: Windows
    heads: int
    packing: str = "three heads d"
    roles: tuple[str, str, str] = ("q", "k", "v")
    splits: tuple[str, str, str] = ("heads d", "heads d", "heads d")
    merge: str = "heads d"
    logits: str = "product"
    scale: float | None = None
    mask: str = "none"
    normaliser: str = "keys"
    shared: tuple[str, ...] = ()
    """Those of q, k and v of which every head takes the first head's."""


def _viewed(order: str) -> Callable[[Array, int], Array]:
    """Channels of a window's tokens, laid out as `order`, taken for (heads n d) as they lie in memory."""

    def split(x: Array, heads: int) -> Array:
        s, n, c = x.shape
        return rearrange(x, f"s n c -> s ({order})").reshape(s, heads, n, c // heads)

    return split


def _viewed_turned(x: Array, heads: int) -> Array:
    s, n, c = x.shape
    return x.reshape(s, heads, c // heads, n).swapaxes(2, 3)


SPLITS: Mapping[str, Callable[[Array, int], Array]] = {
    "heads d": lambda x, heads: rearrange(x, "s n (heads d) -> s heads n d", heads=heads),
    "d heads": lambda x, heads: rearrange(x, "s n (d heads) -> s heads n d", heads=heads),
    "view": _viewed("n c"),
    "view of b c n": _viewed("c n"),
    "view as d n": _viewed_turned,
}
"""From s n c to s heads n d. Each moves numbers and loses none, so that it also undoes a merge."""

PACKINGS = ("heads three d", "heads d three", "d three heads", "d heads three")
"""How q, k and v may lie in one Linear's channels beside "three heads d"; with "two", how k and v do."""

V_FIRST = "v, then k"
"""k and v of other widths in one Linear, split as if v came first."""

TWO = ("heads two d", "heads d two", "d two heads", "d heads two")


def _unit(x: Array) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))


def _standard(x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5))


def _product(q: Array, k: Array) -> Array:
    return np.asarray(q @ k.swapaxes(-1, -2))


def _nearness(q: Array, k: Array) -> Array:
    return np.asarray(2 * _product(q, k) - (q * q).sum(-1)[..., None] - (k * k).sum(-1)[..., None, :])


LOGITS: Mapping[str, Callable[[Array, Array], Array]] = {
    "product": _product,
    "cosine": lambda q, k: _product(_unit(q), _unit(k)),
    "unit keys": lambda q, k: _product(q, _unit(k)),
    "unit queries": lambda q, k: _product(_unit(q), k),
    "norm": lambda q, k: _product(_standard(q), _standard(k)),
    "nearness": _nearness,
    "distance": lambda q, k: -np.sqrt(np.maximum(-_nearness(q, k), 0)),
    "rectified": lambda q, k: np.maximum(_product(q, k), 0),
    "no maximum of 0": lambda q, k: np.minimum(_product(q, k), 0),
    "absolute": lambda q, k: abs(_product(q, k)),
}

MASKS: Mapping[str, Callable[[Array, Array], Array]] = {
    "none": lambda i, j: np.ones(np.broadcast_shapes(i.shape, j.shape), bool),
    "causal": lambda i, j: j <= i,
    "anticausal": lambda i, j: j >= i,
    "strictly causal": lambda i, j: (j < i) | ((i == 0) & (j == 0)),
    "not itself": lambda i, j: j != i,
    "first key hidden": lambda i, j: (j > 0) | (i < 0),
}
"""Whether the query at place i of a window sees the key at place j."""


def _softmax(x: Array, axis: Any) -> Array:
    x = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(x / x.sum(axis, keepdims=True))


def _plus_one(x: Array) -> Array:
    top = np.maximum(x.max(-1, keepdims=True), 0)
    e = np.exp(x - top)
    return np.asarray(e / (e.sum(-1, keepdims=True) + np.exp(-top)))


def _shifted_plus_one(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / (e.sum(-1, keepdims=True) + 1))


def _rectified(x: Array) -> Array:
    return np.where(np.isneginf(x), 0, np.maximum(x, 0))


def _sum_to_one(x: Array) -> Array:
    total = x.sum(-1, keepdims=True)
    return np.asarray(x / np.where(total == 0, 1, total))


def _linear(x: Array) -> Array:
    return np.where(np.isneginf(x), 0, x)


NORMALISERS: Mapping[str, Callable[[Array], Array]] = {
    "keys": lambda x: _softmax(x, -1),
    "queries": lambda x: _softmax(x, -2),
    "heads": lambda x: _softmax(x, -3),
    "queries and keys": lambda x: _softmax(x, (-2, -1)),
    "plus one": _plus_one,
    "plus one, shifted": _shifted_plus_one,
    "none": _linear,
    "sum": lambda x: _sum_to_one(_linear(x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sigmoid, sum": lambda x: _sum_to_one(1 / (1 + np.exp(-x))),
    "rectified": _rectified,
    "rectified, sum": lambda x: _sum_to_one(_rectified(x)),
    "rectified, squared": lambda x: _rectified(x) ** 2,
    "exponential": np.exp,
    "twice": lambda x: _softmax(_softmax(x, -1), -1),
    "logarithm": lambda x: _linear(np.log(_softmax(x, -1))),
    "sparse": lambda x: _sparse(x),
    "uniform": lambda x: np.isfinite(x) / np.isfinite(x).sum(-1, keepdims=True),
}
"""From logits (minus infinity where a key is not seen), s heads n m, to the weights of the values."""

HOMOGENEOUS = ("none", "sum", "rectified", "rectified, sum", "rectified, squared", "uniform")
"""Normalisers in which another scale of the logits is another factor of the output, or none."""

ACROSS = ("queries", "heads", "queries and keys")
"""Normalisers that mix more than one query's row of a head."""


def _sparse(x: Array) -> Array:
    """Sparsemax: the point of the simplex nearest to the logits."""
    ordered = -np.sort(-x, -1)
    count = np.arange(1, x.shape[-1] + 1)
    total = np.cumsum(np.where(np.isneginf(ordered), 0, ordered), -1)
    used = (1 + count * ordered > total).sum(-1, keepdims=True)
    return np.asarray(np.maximum(x - (np.take_along_axis(total, used - 1, -1) - 1) / used, 0))


def weights(logits: Array, normaliser: str) -> Array:
    """The weights of the values: s heads n m."""
    if normaliser.startswith("top "):
        most = min(int(normaliser[4:]), logits.shape[-1])
        least = np.partition(logits, -most, -1)[..., -most, None]
        return _softmax(np.where(logits >= least, logits, -np.inf), -1)
    return NORMALISERS[normaliser](logits)


@dataclass(frozen=True)
class Part:
    """A hypothesis on some windows, up to the scale of the logits: what enters the softmax and what should come out.

    The logits are s heads n m, the values s heads m d; the target, `valid` and each of `added` are s heads n d.
    Where `valid` is False the target is not known.
    What is seen is s heads n m, or None.
    """

    logits: Array
    seen: Array | None
    values: Array
    target: Array
    valid: Array
    added: Mapping[str, Array]
    normaliser: str

    def output(self, scale: float | Array) -> Array:
        """What the attention gives, s heads n d; a scale for each head is heads 1 1."""
        logits = self.logits * scale
        if self.seen is not None:
            logits = np.where(self.seen, logits, -np.inf)
        return np.asarray(weights(logits, self.normaliser) @ self.values)


class Problem:
    """A candidate's q, k, v and what came out, as tables of tokens with one of zeros at the end.

    Parameters
    ----------
    actual : b h w c
        What enters proj.
    sources : mapping
        q, k, v, and what may be added to the output: `lim`, `x`. Maps b h w c.
    scale : function
        The reference's scale for a number of heads.
    """

    def __init__(self, actual: Array, sources: Mapping[str, Array], scale: Callable[[int], float]) -> None:
        self.actual, self.sources, self.scale = actual, sources, scale
        self.real = actual.shape[1:3]
        self.map = sources["q"].shape[1:3]
        self.images, self.width = actual.shape[0], actual.shape[-1]
        self.keys = sources["k"].shape[1] * sources["k"].shape[2]
        self.tables = {name: _table(x) for name, x in sources.items()}
        self.target = self._placed(actual)
        self.valid = self._placed(np.ones(actual.shape, bool))
        here = {"lim", "x", "q", "k", "v"} & set(sources)
        fitting = sorted(name for name in here if self._fits(sources[name]))
        self.added = {name: self._placed(sources[name][:, : self.real[0], : self.real[1]]) for name in fitting}
        self._packed: dict[str, dict[str, Array]] = {}

    def _fits(self, x: Array) -> bool:
        return bool(x.shape[-1] == self.width and x.shape[1] >= self.real[0] and x.shape[2] >= self.real[1])

    def _placed(self, x: Array) -> Array:
        """A map in the corner of the queries' map, as a table."""
        (h, w), (rows, columns) = self.map, x.shape[1:3]
        return _table(np.pad(x, ((0, 0), (0, h - rows), (0, w - columns), (0, 0))))

    def packed(self, packing: str, heads: int) -> Mapping[str, Array]:
        """q, k and v as they are if the Linear's channels lie otherwise."""
        if packing == "three heads d":
            return self.tables
        key = f"{packing}, {heads}"
        if packing == V_FIRST and key not in self._packed:
            whole, wide = np.concatenate([self.tables["k"], self.tables["v"]], -1), self.tables["v"].shape[-1]
            self._packed[key] = {**self.tables, "v": whole[..., :wide], "k": whole[..., wide:]}
        if key not in self._packed:
            names: tuple[str, ...] = ("k", "v") if "two" in packing else ("q", "k", "v")
            if len(names) == 3 and len({self.tables[name].shape for name in names}) > 1:
                names = ("k", "v")
                packing = packing.replace("three", "two")
                if self.tables["k"].shape != self.tables["v"].shape:
                    raise ValueError("k and v of other widths do not come from one Linear")
            whole = np.concatenate([self.tables[name] for name in names], -1)
            if whole.shape[-1] % (len(names) * heads):
                raise ValueError("this number of heads does not fit")
            sizes = {"two" if len(names) == 2 else "three": len(names)}
            axis = next(iter(sizes))
            apart = rearrange(whole, f"b n ({packing}) -> {axis} b n (heads d)", heads=heads, **sizes)
            self._packed[key] = {**self.tables, **dict(zip(names, apart, strict=True))}
        return self._packed[key]

    def cut(self, hypothesis: Hypothesis) -> Cut:
        return cut(hypothesis.windows, *self.map, self.keys, self.real)

    def part(self, hypothesis: Hypothesis, pairs: Array, rows: Array | None = None) -> Part:
        """The hypothesis on some windows: pairs s 2 of an image and a window; of these the queries `rows`, or all.

        Raises ValueError where the hypothesis does not fit the shapes.
        """
        made, heads = self.cut(hypothesis), hypothesis.heads
        images, groups = pairs[:, 0, None], pairs[:, 1]
        tables = self.packed(hypothesis.packing, heads)
        q_name, k_name, v_name = hypothesis.roles
        gathered = (
            (tables[q_name], made.queries, hypothesis.splits[0]),
            (tables[k_name], made.keys, hypothesis.splits[1]),
            (tables[v_name], made.keys, hypothesis.splits[2]),
        )
        for table, index, _ in gathered:
            if table.shape[-1] % heads or index.max() >= table.shape[1]:
                raise ValueError("this number of heads or tokens does not fit")
        q, k, v = (SPLITS[how](table[images, index[groups]], heads) for table, index, how in gathered)
        q, k, v = (np.repeat(t[:, :1], heads, 1) if n in hypothesis.shared else t for n, t in zip("qkv", (q, k, v), strict=True))
        if q.shape[-1] != k.shape[-1] or k.shape[2] != v.shape[2] or v.shape[-1] * heads != self.width:
            raise ValueError("q, k and v do not fit each other")
        undo, places = SPLITS[hypothesis.merge], made.places[groups]
        target, valid = (undo(table[images, places], heads) for table in (self.target, self.valid))
        added = {name: undo(table[images, places], heads) for name, table in self.added.items()}
        seen = self._seen(hypothesis, made, groups, q.shape[2], k.shape[2])
        if rows is not None:
            q, target, valid = q[:, :, rows], target[:, :, rows], valid[:, :, rows]
            added = {name: x[:, :, rows] for name, x in added.items()}
            seen = seen if seen is None or seen.shape[2] == 1 else seen[:, :, rows]
        return Part(LOGITS[hypothesis.logits](q, k), seen, v, target, valid, added, hypothesis.normaliser)

    def _seen(self, hypothesis: Hypothesis, made: Cut, groups: Array, n: int, m: int) -> Array | None:
        seen = None if made.allowed is None else made.allowed[groups][:, None]
        if hypothesis.mask != "none":
            mask = MASKS[hypothesis.mask](np.arange(n)[:, None], np.arange(m)[None])
            seen = mask[None, None] if seen is None else seen & mask
        return seen

    def sample(self, hypothesis: Hypothesis, rows: int) -> Part:
        """Some windows, and of those some queries unless the normaliser needs all: about so many rows."""
        made = self.cut(hypothesis)
        count, n = made.queries.shape
        whole = hypothesis.normaliser in ACROSS
        each = max(6, rows // 4)
        some = spread(count, max(2, rows // min(n, each))) if count > 1 else np.zeros(1, int)
        pairs = np.stack([np.arange(some.size) % self.images, some], 1)
        return self.part(hypothesis, pairs, None if whole or n <= each else spread(n, each if count > 1 else rows // 2))

    def parts(self, hypothesis: Hypothesis) -> Iterator[Part]:
        """Everything, some windows or queries at a time."""
        made = self.cut(hypothesis)
        count, n = made.queries.shape
        each = n * made.keys.shape[1] * hypothesis.heads
        pairs = np.stack(np.meshgrid(np.arange(self.images), np.arange(count), indexing="ij"), -1).reshape(-1, 2)
        if each <= NUMBERS or hypothesis.normaliser in ACROSS:
            step = max(1, NUMBERS // each)
            for i in range(0, len(pairs), step):
                yield self.part(hypothesis, pairs[i : i + step])
        else:
            step = max(1, n * NUMBERS // each)
            for pair in pairs:
                for i in range(0, n, step):
                    yield self.part(hypothesis, pair[None], np.arange(i, min(i + step, n)))


def _table(x: Array) -> Array:
    """b h w c -> b (h w + 1) c, the last token zeros."""
    flat = rearrange(x, "b h w c -> b (h w) c")
    return np.concatenate([flat, np.zeros_like(flat[:, :1])], 1)

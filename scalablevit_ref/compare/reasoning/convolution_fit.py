"""A convolution's settings, fitted: its border, stride, dilation and kernel, its bias, and what it is applied to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, islice, permutations, product
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fitting import (
    ENOUGH,
    SIMPLE,
    Array,
    distance,
    joined,
    settled,
    solved_factors,
    spread,
)
from scalablevit_ref.compare.reasoning.judge import Judge
from scalablevit_ref.compare.reasoning.kinds import is_general, kinds_of_difference
from scalablevit_ref.compare.reasoning.numbers import ranged, three_digits

CHANNELS = 4
"""Output channels that a hypothesis is tried on before all of them are computed."""

LOOSE = 100.0
"""Times the tolerance that a hypothesis may leave on some channels and still be verified on all."""

BORDERS = {
    "zeros": "constant",
    "replicated": "edge",
    "reflected": "reflect",
    "mirrored": "symmetric",
    "circular": "wrap",
}
"""What stands beyond the border, and numpy.pad's word for it."""

BORDER_WORDS = {
    "replicated": "the border is replicated, not filled with zeros",
    "reflected": "the border is reflected, not filled with zeros",
    "mirrored": "the border is mirrored, its own row and column too, not filled with zeros",
    "circular": "the border is circular, not filled with zeros",
}


AXES = ("o", "i", "kh", "kw")

FLAX = "kh kw i o"
"""The axes of kernels in Flax and TensorFlow."""


def _viewed(weight: Array, layout: str) -> Array:
    """The kernel's numbers taken in this order of axes, without a transposition."""
    sizes = dict(zip(AXES, weight.shape, strict=True))
    return rearrange(weight.reshape([sizes[axis] for axis in layout.split()]), f"{layout} -> o i kh kw")


def _viewed_words(layout: str) -> str:
    return f"kernels are reshaped from another layout, ({layout}), without the transposition"


def relaid_kernels(weight: Array) -> Iterator[tuple[str, Array]]:
    """Kernels o i kh kw whose numbers are taken in another order of axes, by what is said of it."""
    for layout in map(" ".join, permutations(AXES)):
        yield _viewed_words(layout), _viewed(weight, layout)
        turned = rearrange(weight, f"o i kh kw -> {layout}").reshape(weight.shape)
        yield f"kernels are laid out as ({layout}) and read as (o i kh kw)", turned


def _centre(weight: Array) -> Array:
    kept = np.zeros_like(weight)
    row, column = weight.shape[2] // 2, weight.shape[3] // 2
    kept[:, :, row, column] = weight[:, :, row, column]
    return kept


def _swapped_ends(weight: Array) -> Array:
    """Output and input channels interchanged, where there are as many."""
    return weight.swapaxes(0, 1) if weight.shape[0] == weight.shape[1] else weight


KERNELS: Mapping[str, tuple[Callable[[Array], Array], str]] = {
    "as it is": (lambda w: w, ""),
    "flipped": (lambda w: w[:, :, ::-1, ::-1], "kernels are flipped (convolution instead of cross-correlation)"),
    "flipped rows": (lambda w: w[:, :, ::-1], "kernels are flipped in H only"),
    "flipped columns": (lambda w: w[..., ::-1], "kernels are flipped in W only"),
    "transposed": (lambda w: w.swapaxes(2, 3), "kernels have H and W swapped"),
    "turned left": (lambda w: np.rot90(w, 1, (2, 3)), "kernels are turned by 90°"),
    "turned right": (lambda w: np.rot90(w, -1, (2, 3)), "kernels are turned by −90°"),
    "transposed and flipped": (lambda w: w.swapaxes(2, 3)[:, :, ::-1, ::-1], "kernels have H and W swapped and are flipped"),
    "relaid": (partial(_viewed, layout=FLAX), _viewed_words(FLAX)),
    "swapped channels": (_swapped_ends, "input and output channels of the kernels are interchanged"),
    "reversed inputs": (lambda w: w[:, ::-1], "the input's channels are in reversed order (BGR for RGB)"),
    "reversed outputs": (lambda w: w[::-1], "the output's channels are in reversed order"),
    "centre": (_centre, "only the kernel's centre acts"),
    "mean": (lambda w: np.full_like(w, 1.0 / w[0].size), "a mean stands in for the convolution: the kernel has no influence"),
    "mean of each": (lambda w: w.mean((2, 3), keepdims=True) + 0 * w, "each kernel is its own mean everywhere"),
    "standardised": (
        lambda w: (w - w.mean((1, 2, 3), keepdims=True)) / w.std((1, 2, 3), keepdims=True),
        "kernels are standardised (weight standardisation)",
    ),
    "absolute": (abs, "kernels are taken without their signs"),
}


@dataclass(frozen=True)
class Convolution:
    """What a candidate may compute: the corner is how many rows and columns stand above and left of the map."""

    corner: tuple[int, int]
    stride: tuple[int, int]
    source: str = "x"
    kernel: str = "as it is"
    border: str = "zeros"
    dilation: tuple[int, int] = (1, 1)


def fit_convolution(
    actual: Array, sources: Mapping[str, Array], settings: Mapping[str, Any], *, eps: float, budget: int
) -> list[Difference]:
    """Which settings explain a convolution's output b h' w' o.

    The sources are x b h w c, weight o c/groups kh kw, bias o or none; other maps of x's shape may be its input, of the output's
    may be added.
    """
    search = _Search(actual, sources, settings, eps)
    if search.judge.right():
        return []
    changes = list(search.alternatives())
    tried = [search.reference, *(replace(search.reference, **dict(change)) for change in changes)][:budget]
    exact = [found for h in tried if (found := search.explains(h))]
    solved = [] if exact else [*search.relaid(), *search.scaled_input(), *search.pooled(), *search.solved_kernel()]
    solved = solved or ([] if exact else search.solved_dense())
    exact += [found for found in solved if found.exact]
    likely = [change for change in changes if _likely(dict(change))]
    pairs = ((one, other) for one, other in combinations(likely, 2) if not dict(one).keys() & dict(other).keys())
    if not exact:
        for one, other in islice(pairs, max(0, budget - len(tried))):
            if found := search.explains(replace(search.reference, **dict(one + other))):
                exact = [found]
                break
    fewest = min((len(found.data["changes"]) for found in exact), default=0)
    return [f for f in exact if len(f.data["changes"]) == fewest] or solved


def _likely(change: Mapping[str, Any]) -> bool:
    """Whether a change is tried together with another: of corners those that are as many rows as columns, no moved input."""
    top, left = change.get("corner", (0, 0))
    return bool(top == left) and not str(change.get("source", "")).startswith(MOVED)


class _Search:
    """Convolutions held against what a candidate gave."""

    def __init__(self, actual: Array, sources: Mapping[str, Array], settings: Mapping[str, Any], eps: float) -> None:
        self.actual, self.weight = actual, sources["weight"]
        self.bias = sources.get("bias")
        self.maps = {name: x for name, x in sources.items() if x.ndim == 4 and name != "weight"}
        self.inputs = self.maps | moved_inputs(self.maps["x"])
        self.groups, self.padding = int(settings.get("groups", 1)), int(settings.get("padding", 0))
        stride = int(settings.get("stride", 1))
        self.reference = Convolution((self.padding, self.padding), (stride, stride))
        self.channels = spread(self.weight.shape[0], CHANNELS)
        factors = {"convolution": 1.0, **({"bias": 1.0} if self.bias is not None else {})}
        self.expected = factors
        shape = self._shape()
        before = distance(actual, self.explained(self.reference, factors)) if actual.shape[1:3] == shape else float("inf")
        self.judge = Judge(before, eps)

    def _shape(self) -> tuple[int, int]:
        (h, w), (kh, kw), (stride, _) = self.maps["x"].shape[1:3], self.weight.shape[2:], self.reference.stride
        return (h + 2 * self.padding - kh) // stride + 1, (w + 2 * self.padding - kw) // stride + 1

    def bare(self, h: Convolution, channels: Array, images: int | None) -> Array:
        """The convolution without its bias, of some images, in some output channels."""
        x, weight = self.inputs[h.source][:images], KERNELS[h.kernel][0](self.weight)
        return convolved(x, weight, h, self.actual.shape[1:3], self.groups, channels)

    def terms(self, h: Convolution, channels: Array | None = None, images: int | None = None) -> dict[str, Array]:
        """What the output may be a sum of."""
        channels = np.arange(self.weight.shape[0]) if channels is None else channels
        terms = {"convolution": self.bare(h, channels, images)}
        if self.bias is not None:
            terms["bias"] = np.broadcast_to(self.bias[channels], terms["convolution"].shape)
        for name, x in self.maps.items():
            if x.shape == self.actual.shape:
                terms[name] = x[:images, ..., channels]
        return terms

    def explained(self, h: Convolution, factors: Mapping[str, float]) -> Array:
        terms = self.terms(h)
        return np.asarray(sum(factor * terms[name] for name, factor in factors.items()))

    def explains(self, h: Convolution) -> Difference | None:
        """The convolution with its factors solved, if it explains some channels and then all."""
        bar = self.judge.bar(rough=True)
        try:
            if solved_factors(self.actual[:1, ..., self.channels], self.terms(h, self.channels, images=1))[1] > LOOSE * bar:
                return None
            terms = self.terms(h)
            if self.actual.size < ENOUGH * len(terms):
                return None
            factors, _ = solved_factors(self.actual, terms)
        except ValueError:
            return None
        simple = {name: settled(factor, SIMPLE, within=1e-4) for name, factor in factors.items()}
        for some in (simple, factors):
            left = distance(self.actual, self.explained(h, some))
            if left <= bar:
                found = self.words(h, some)
                if not found:  # the reference's own, of another size
                    return None
                return Difference("setting", joined(found), left, {"changes": found, "factors": some}, exact=True)
        return None

    def words(self, h: Convolution, factors: Mapping[str, float]) -> list[str]:
        reference, found = self.reference, []
        if h.source != reference.source:
            found.append(f"the convolution is applied to {h.source}")
        if h.stride != reference.stride:
            found.append(f"the stride is {h.stride[0]}, not {reference.stride[0]}")
        if h.dilation != reference.dilation:
            rows, columns = h.dilation
            alone = f"by {rows} along H" * (rows > 1) + " and " * (1 not in h.dilation) + f"by {columns} along W" * (columns > 1)
            found.append(f"kernels are dilated {f'by {rows}' if rows == columns else alone}")
        if h.kernel != reference.kernel:
            found.append(KERNELS[h.kernel][1])
        if h.border != reference.border:
            found.append(BORDER_WORDS[h.border])
        own = (self.padding * h.dilation[0], self.padding * h.dilation[1])
        if h.corner not in (reference.corner, own):
            (top, left), (p, _) = h.corner, reference.corner
            found.append(f"{_corner(top, left)}, not {p} and {p}: the grid is shifted")
        return [*found, *self._added(factors)]

    def _added(self, factors: Mapping[str, float]) -> Iterator[str]:
        scale = factors.get("convolution", 1.0)
        if scale != 1.0:
            yield f"the kernel is multiplied by {three_digits(scale)}" if scale else "the convolution is left out"
        bias = factors.get("bias", 1.0)
        if bias != 1.0:
            yield {0.0: "the bias is left out", 2.0: "the bias is added twice", -1.0: "the bias is subtracted"}.get(
                bias, f"the bias is multiplied by {three_digits(bias)}"
            )
        for name in self.maps:
            factor = factors.get(name, 0.0)
            if factor:
                what = "the input" if name == "x" else name
                yield f"{what} is added too" if factor == 1 else f"{what} is added too, times {three_digits(factor)}"

    def alternatives(self) -> Iterator[tuple[tuple[str, Any], ...]]:
        """Every single change, as fields and values."""
        kh, kw = self.weight.shape[2:]
        for kernel in KERNELS:
            if kernel != "as it is":
                yield (("kernel", kernel),)
        for border in BORDERS:
            if border != "zeros" and (self.padding or self.actual.shape[1:3] != self._shape()):
                yield (("border", border),)
        for top, left in sorted(product(range(-2, kh + 1), range(-2, kw + 1)), key=lambda corner: corner[0] != corner[1]):
            if (top, left) != self.reference.corner:
                yield (("corner", (top, left)),)
        for rows, columns in ((2, 2), (3, 3), (4, 4), (2, 1), (1, 2), (3, 1), (1, 3)):
            yield ("dilation", (rows, columns)), ("corner", (self.padding * rows, self.padding * columns))
        for stride in range(1, 9):
            if stride != self.reference.stride[0]:
                yield (("stride", (stride, stride)),)
        for name, x in self.inputs.items():
            if name != "x" and x.shape == self.maps["x"].shape:
                yield (("source", name),)

    def relaid(self) -> list[Difference]:
        """Kernels whose numbers are taken in another order of their axes."""
        x, size, known = self.maps["x"], self.actual.shape[1:3], np.zeros(len(self.weight)) if self.bias is None else self.bias
        bare = (self.actual - known)[..., self.channels]
        if size != self._shape():
            return []
        bar = self.judge.bar()
        for words, kernels in relaid_kernels(self.weight):
            few = convolved(x, kernels, self.reference, size, self.groups, self.channels)
            if distance(bare, few) <= LOOSE * bar:
                left = distance(self.actual, convolved(x, kernels, self.reference, size, self.groups) + known)
                if left <= bar:
                    return [Difference("setting", words, left, {"changes": [words]}, exact=True)]
        return []

    def scaled_input(self) -> list[Difference]:
        """Another factor and shift of the input, for each of its channels if they are few: images normalised otherwise."""
        c = self.maps["x"].shape[-1]
        if self.groups != 1:
            return []
        apart = c if c <= MOST_SCALED else 1
        channels, terms = np.arange(self.weight.shape[0]), dict[str, Array]()
        for i in range(apart):
            only = self.maps["x"] * (np.arange(c) == i) if apart > 1 else self.maps["x"]
            for name, x in (("factor", only), ("shift", np.ones_like(only) * ((np.arange(c) == i) if apart > 1 else 1.0))):
                terms[f"{name} {i}"] = convolved(x, self.weight, self.reference, self.actual.shape[1:3], 1, channels)
        known = np.zeros_like(self.actual) if self.bias is None else np.broadcast_to(self.bias, self.actual.shape)
        try:
            factors, _ = solved_factors(self.actual - known, terms)
        except ValueError:
            return []
        left = distance(self.actual, np.asarray(known + sum(factor * terms[name] for name, factor in factors.items())))
        if left > self.judge.bar(rough=True) or self.actual.size < ENOUGH * len(terms):
            return []
        scales, shifts = (np.array([factors[f"{name} {i}"] for i in range(apart)]) for name in ("factor", "shift"))
        words = scaled_words(scales, shifts)
        data = {"changes": [words], "factors": scales.tolist(), "shifts": shifts.tolist()}
        return [Difference("setting", words, left, data, exact=True)]

    def pooled(self) -> list[Difference]:
        """The largest number of each window of the kernel's size."""
        h, x = self.reference, self.maps["x"]
        if x.shape[-1] != self.actual.shape[-1]:
            return []
        patches = _patches(x, self.weight.shape[2:], h, self.actual.shape[1:3], np.nan)
        if np.isnan(patches).all(0).any():
            return []
        for name, pool in (("largest", np.nanmax), ("smallest", np.nanmin), ("mean", np.nanmean)):
            left = distance(self.actual, pool(patches, axis=0))
            if left <= self.judge.bar():
                words = f"a pooling stands in for the convolution: the {name} number of each window of the kernel's size"
                return [Difference("setting", words, left, {"changes": [words]}, exact=True)]
        return []

    def solved_kernel(self) -> list[Difference]:
        """The kernels that explain the inside of the map, solved where each output channel has one input channel."""
        x = self.maps["x"]
        if self.weight.shape[1] != 1 or self.groups != x.shape[-1] or self.groups != self.actual.shape[-1]:
            return []
        (kh, kw), h = self.weight.shape[2:], self.reference
        for margin in (2, 1, 0):
            wide = replace(h, corner=(h.corner[0] + margin, h.corner[1] + margin))
            patches = _patches(x, (kh + 2 * margin, kw + 2 * margin), wide, self.actual.shape[1:3], np.nan)
            inside = np.isfinite(patches).all((0, -1))
            if inside.sum() >= 4 * (len(patches) + 1):
                break
        else:
            return []
        rows = rearrange(patches[:, inside], "k n c -> c n k")
        rows = np.concatenate([rows, np.ones_like(rows[..., :1])], -1)
        y = self.actual[inside].T
        half = np.random.default_rng(0).permutation(y.shape[1]) % 2 == 0
        kernels = np.stack([np.linalg.lstsq(r[half], t[half], rcond=None)[0] for r, t in zip(rows, y, strict=True)])
        judged = distance(y[:, ~half], np.einsum("cnk,ck->cn", rows[:, ~half], kernels))
        if judged > self.judge.bar(rough=True):
            return []
        return [self._kernel_said(kernels[:, :-1].reshape(-1, kh + 2 * margin, kw + 2 * margin), kernels[:, -1], judged, margin)]

    def solved_dense(self) -> list[Difference]:
        """The kernels of a convolution whose output channels see all input channels, solved and held against the weight."""
        h, (o, i, kh, kw) = self.reference, self.weight.shape
        unknown = i * kh * kw + 1
        few = self.actual[..., 0].size < 4 * unknown
        if self.groups != 1 or unknown > MOST_SOLVED or few or self.actual.shape[1:3] != self._shape():
            return []
        patches = _patches(self.maps["x"], (kh, kw), h, self.actual.shape[1:3], 0.0)
        rows = rearrange(patches, "k b h w i -> (b h w) (k i)")
        rows, y = np.concatenate([rows, np.ones_like(rows[:, :1])], 1), self.actual.reshape(-1, o)
        half = np.random.default_rng(0).permutation(len(y)) % 2 == 0
        solved = np.linalg.lstsq(rows[half], y[half], rcond=None)[0]
        left = distance(y[~half], rows[~half] @ solved)
        if left > self.judge.bar(rough=True):
            return []
        found = rearrange(solved[:-1], "(kh kw i) o -> o kh kw i", kh=kh, kw=kw)
        own = rearrange(self.weight, "o i kh kw -> o kh kw i")
        related = [one for one in kinds_of_difference(found, own, eps=KERNEL_EPS) if one.exact and not is_general(one)]
        if related:
            words = re.sub(r"\b[bhwc]\b", lambda axis: KERNEL_AXES[axis[0]], related[0].words)
            how = "the kernels are reshaped or transposed otherwise" if related[0].kind == "places" else "the kernels"
            return [Difference("setting", f"{how}: {words}", left, {"changes": [words]}, exact=True)]
        away = float(np.linalg.norm(found - own) / np.linalg.norm(own))
        words = f"a convolution of the same input with other kernels, {three_digits(away)} of their size away"
        return [Difference("linear map", words, left, {"changes": [words]}, exact=True)]

    def _kernel_said(self, kernels: Array, bias: Array, left: float, margin: int) -> Difference:
        """The solved kernels in words: those of other channels, or just others; the border is then what is not explained."""
        (kh, kw), h = self.weight.shape[2:], self.reference
        own = self.weight[:, 0]
        data: dict[str, Any] = {"kernel of the first channel": np.round(kernels[0], 12).tolist(), "changes": []}
        inner = kernels[:, margin : margin + kh, margin : margin + kw]
        size = float(np.linalg.norm(own))
        if np.linalg.norm(inner - own) <= 1e-6 * size:
            words = "inside the map the convolution is right; at the border it is not that of any known padding"
            if self.bias is None or np.linalg.norm(bias - self.bias) <= 1e-6 * (np.linalg.norm(self.bias) or 1.0):
                return Difference("border", words, left, data)
            return Difference("setting", "the kernels are right and the bias is another one", left, data)
        if affine := _each_scaled(inner, own):
            explained = convolved(self.maps["x"], inner[:, None], h, self.actual.shape[1:3], self.groups) + bias
            return Difference("setting", affine, left, data, exact=distance(self.actual, explained) <= KERNEL_EPS)
        near = np.argmin([[np.linalg.norm(k - o) for o in own] for k in inner], 1)
        if np.linalg.norm(inner - own[near]) <= 1e-6 * size:
            words = f"kernels are those of other channels: channel 0 takes that of {near[0]}, 1 that of {near[1]}"
            explained = convolved(self.maps["x"], self.weight[near], h, self.actual.shape[1:3], self.groups) + bias
            exact = distance(self.actual, explained)
            return Difference("setting", words, exact, data | {"channels": near.tolist()}, exact <= self.judge.bar(rough=True))
        reach = np.argwhere((abs(kernels) > 1e-6 * abs(kernels).max()).any(0))
        rows, columns = np.ptp(reach, 0) + 1
        words = f"inside the map it is a convolution with other kernels, which reach over {rows} × {columns} tokens"
        return Difference("setting", words, left, data)


def _each_scaled(kernels: Array, own: Array) -> str:
    """That each kernel is its own one scaled and shifted, in words; empty where it is not so."""
    x, y = (t.reshape(len(t), -1) - t.reshape(len(t), -1).mean(1, keepdims=True) for t in (own, kernels))
    factor = (x * y).sum(1) / (x * x).sum(1)
    if kernels.shape != own.shape or np.linalg.norm(y - factor[:, None] * x) > 1e-6 * np.linalg.norm(y):
        return ""
    centred = abs(kernels.mean((1, 2))).max() <= 1e-6 * abs(kernels).max()
    if centred and abs(factor - 1).max() > 1e-6:
        return "each kernel has its mean subtracted and is scaled: kernels are standardised (weight standardisation)"
    return "the mean of each kernel is subtracted" if centred else f"each kernel is scaled ({ranged(factor)}) and shifted"


MOST_SCALED = 4
"""Input channels that may each have a factor and a shift of their own: those of images."""


def scaled_words(scales: Array, shifts: Array) -> str:
    """What is done to the input's numbers."""
    if np.ptp(scales) <= 1e-6 * abs(scales).max() and np.ptp(shifts) <= 1e-6 * max(1.0, abs(shifts).max()):
        scale, shift = float(scales.mean()), float(shifts.mean())
        times = "" if abs(scale - 1) < 1e-6 else f"multiplied by {three_digits(scale)}"
        plus = "" if abs(shift) < 1e-6 else f"shifted by {three_digits(shift)}"
        return f"its input is {' and '.join(part for part in (times, plus) if part)} first, as by another normalisation"
    return f"each channel of its input is scaled ({ranged(scales)}) and shifted ({ranged(shifts)}), as by another normalisation"


MOST_SOLVED = 600
"""Numbers of a kernel of one output channel that are solved for."""

KERNEL_EPS = 2.0**-36
"""What stands for the dtype's eps where kernels are solved: rounding grows on the way."""

KERNEL_AXES = {"b": "o", "h": "kh", "w": "kw", "c": "i"}
"""Axes of a map, as they are called in a kernel."""

MOVED = "its input"
"""How the words for a moved input begin."""


def moved_inputs(x: Array) -> dict[str, Array]:
    """The input in other places, by words."""
    found = {"its input, flipped along H": x[:, ::-1], "its input, flipped along W": x[:, :, ::-1]}
    if x.shape[1] == x.shape[2]:
        found["its input with H and W swapped"] = x.swapaxes(1, 2)
    for by in (1, -1, 2, -2):
        found[f"its input, rolled by {by} along H"] = np.roll(x, by, 1)
        found[f"its input, rolled by {by} along W"] = np.roll(x, by, 2)
        found[f"its input, rolled by {by} along H and W"] = np.roll(x, (by, by), (1, 2))
    return found


def _corner(top: int, left: int) -> str:
    if top < 0 or left < 0:
        return f"{max(-top, 0)} rows at the top and {max(-left, 0)} columns at the left are skipped"
    return f"padding is {top} at the top and {left} at the left"


def _patches(x: Array, kernel: tuple[int, ...], h: Convolution, size: tuple[int, ...], value: float) -> Array:
    """What each place of a kernel sees: k b h' w' c; beyond the border `value`, or what the border is filled with."""
    before = np.array(h.corner)
    reach = (np.array(size) - 1) * h.stride + (np.array(kernel) - 1) * np.array(h.dilation) + 1
    after = reach - before - x.shape[1:3]
    if (reach > 1 << 14).any() or ((np.maximum(before, after) >= np.array(x.shape[1:3])).any() and h.border != "zeros"):
        raise ValueError("the border does not fit")
    x = x[:, max(-before[0], 0) :, max(-before[1], 0) :]
    widths = [(0, 0), *((max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)), (0, 0)]
    kwargs: Any = {"constant_values": value} if h.border == "zeros" else {}
    x = np.pad(x, widths, mode=BORDERS[h.border], **kwargs)  # type: ignore[call-overload]
    (rows, columns), (down, right) = size, h.stride
    steps = product(*(range(0, n * step, step) for n, step in zip(kernel, h.dilation, strict=True)))
    return np.stack([x[:, i : i + down * rows : down, j : j + right * columns : right][:, :rows, :columns] for i, j in steps])


def convolved(x: Array, weight: Array, h: Convolution, size: tuple[int, ...], groups: int, channels: Array | None = None) -> Array:
    """b h' w' o without a bias, of some output channels or all. Raises ValueError where it does not fit."""
    o, per_group = weight.shape[:2]
    channels = np.arange(o) if channels is None else channels
    if x.shape[-1] != groups * per_group or o % groups:
        raise ValueError("kernel and map have other channels")
    kernel = rearrange(weight[channels], "o i kh kw -> (kh kw) i o")
    inputs = (channels // (o // groups))[:, None] * per_group + np.arange(per_group)
    if groups == 1:
        patches = _patches(x, weight.shape[2:], h, size, 0.0)
        return np.asarray(sum(patch @ k for patch, k in zip(patches, kernel, strict=True)))
    patches = _patches(x[..., inputs.T.reshape(-1)], weight.shape[2:], h, size, 0.0)
    patches = rearrange(patches, "k b h w (i o) -> k b h w i o", o=len(channels))
    return np.asarray(np.einsum("kbhwio,kio->bhwo", patches, kernel))

"""A normalisation over other axes, with another variance, epsilon, gain or shift, or one that the reference does not have.

Of the candidate's value the mean and the scale are solved: how far (actual − shift) / gain is a multiple of the centred input, and
how that factor depends on the variance. 1/factor² = k·variance + ε is a line, whose slope tells a biased variance from an unbiased
one and whose intercept is the epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, THE_INPUT, Case, sampled
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import three_digits

LOOKED_AT = 24
"""Tokens of each image on which a hypothesis is tried first."""

USUAL_GROUPS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of groups that are tried beside the number of heads."""

LAYER_NORM = "LayerNorm over the channels of each token"


@dataclass(frozen=True)
class Over:
    """What one mean and one variance are taken of."""

    words: str
    shape: tuple[int, ...]  # the map is reshaped to this
    axes: tuple[int, ...]
    turned: bool = False  # H and W are swapped before that

    def of(self, x: np.ndarray) -> np.ndarray:
        """A map b h w c in this shape."""
        return (x.swapaxes(1, 2) if self.turned else x).reshape(self.shape)


def axes_of(case: Case, *, maps: bool) -> Iterator[Over]:
    """The sets of numbers that norms are computed over, the reference's own first; with maps, also sets across tokens."""
    b, h, w, c = case.actual.shape
    n = h * w
    maps = maps and n > 1
    yield Over(LAYER_NORM, (b, n, 1, c), (3,))
    if maps:
        yield Over(
            "over H, W and channels of each image (GroupNorm with 1 group, or LayerNorm of the whole map)", (b, n, 1, c), (1, 3)
        )
        yield Over("over H and W of each channel (InstanceNorm)", (b, n, 1, c), (1,))
        yield Over("over the rows of each column and channel", (b * w, h, 1, c), (1,), turned=True)
        yield Over("over the columns of each row and channel", (b * h, w, 1, c), (1,))
    if maps and b > 1:
        yield Over("over images, H and W of each channel (BatchNorm with its batch's statistics)", (b, n, 1, c), (0, 1))
        yield Over("over all numbers", (b, n, 1, c), (0, 1, 3))
    groups = [g for g in range(2, c) if c % g == 0 and (g == case.num_heads or g in USUAL_GROUPS)]
    for g in sorted(groups, key=lambda g: (g != case.num_heads, g)):
        heads = "heads" if g == case.num_heads else "groups of channels"
        yield Over(f"over each of {g} {heads} of each token", (b, n, g, c // g), (3,))
        if maps:
            yield Over(f"over H, W and each of {g} {heads} (GroupNorm with {g} groups)", (b, n, g, c // g), (1, 3))


def _mean(few: np.ndarray, over: Over, whole: np.ndarray, of_channels: np.ndarray) -> np.ndarray:
    """Of some tokens; across tokens it is made of those of each channel of each image, b 1 1 c."""
    if 1 not in over.axes:
        return np.asarray(few.mean(over.axes, keepdims=True))
    if over.shape[0] != len(of_channels):
        return np.asarray(over.of(whole).mean(over.axes, keepdims=True))
    return np.asarray(of_channels.reshape(over.shape[0], 1, *over.shape[2:]).mean(over.axes, keepdims=True))


def norm_differences(case: Case) -> list[Difference]:
    """Another norm of the input; a norm of the reference's value or of a given value."""
    if case.tolerance > 1e-2 or case.channels < 2:
        return []
    sources = [(name, x) for name, x in case.sources() if name != THE_INPUT]
    if THE_INPUT in case.same_grid and case.gain is not None:
        sources.insert(0, (THE_INPUT, case.given[THE_INPUT]))
    for name, x in sources:
        found = _norm_of(case, name, x)
        if found is not None:
            return [found]
    return []


@dataclass(frozen=True)
class Affine:
    """What is done to a normalised value."""

    words: str
    multiply: np.ndarray
    add: np.ndarray


def _affines(case: Case, source: str) -> list[Affine]:
    """The gain and the shift as they should be, then as they may be by mistake."""
    c = case.channels
    one, zero = np.ones(c), np.zeros(c)
    plain = Affine("" if case.gain is None else "without gain and shift", one, zero)
    if case.gain is None or case.gain.size != c:
        return [plain]
    gain = case.gain.ravel()
    shift = zero if case.shift is None else case.shift.ravel()
    tried = [
        Affine("", gain, shift),
        Affine("without the shift", gain, zero),
        Affine("without the gain", one, shift),
        plain,
        Affine("the gain is 1 + weight", 1 + gain, shift),
        Affine("the gain is 1 + weight, without the shift", 1 + gain, zero),
        Affine("gain and shift are exchanged", shift, gain),
        Affine("the gain is applied twice", gain**2, shift),
        Affine("the shift is added twice", gain, 2 * shift),
        Affine("gain and shift are applied twice", gain**2, gain * shift + shift),
        Affine("the shift is added before the gain", gain, gain * shift),
        Affine("the gain divides", 1 / np.where(gain == 0, np.inf, gain), shift),
        Affine("the shift is subtracted", gain, -shift),
    ]
    kept: list[Affine] = []
    for one_way in tried:  # with zero shifts, several are the same
        if not any(np.array_equal(one_way.multiply, k.multiply) and np.array_equal(one_way.add, k.add) for k in kept):
            kept.append(one_way)
    return kept if source == THE_INPUT else kept[:4]


def _norm_of(case: Case, source: str, x: np.ndarray) -> Difference | None:
    affines = _affines(case, source)
    b, h, w, c = x.shape
    maps = source == THE_INPUT
    channels = x.reshape(b, h * w, c).mean(1, keepdims=True)
    for over in axes_of(case, maps=maps):
        if int(np.prod([over.shape[axis] for axis in over.axes])) < 2:
            continue
        at = sampled(over.shape[1], LOOKED_AT)
        few, y = over.of(x)[:, at], over.of(case.actual)[:, at]
        mean = _mean(few, over, x, channels)
        for centred in (True, False):
            part = few - mean if centred else few
            for affine in affines:
                multiply, add = (t.reshape(1, 1, *over.shape[2:]) for t in (affine.multiply, affine.add))
                rest = y - add
                factor = _projection(rest, multiply * part, over.axes)
                if np.linalg.norm(rest - factor * multiply * part) <= 30 * max(case.bar, 1e-12) * np.linalg.norm(y):
                    found = _verified(case, source, over, over.of(x), affine, centred)
                    if found is not None:
                        return found
    return None


def _verified(case: Case, source: str, over: Over, x: np.ndarray, affine: Affine, centred: bool) -> Difference | None:
    """Whether the candidate's value is affine(factor · (x − mean)), where the variance of each set of numbers gives its factor."""
    multiply, add = (t.reshape(1, 1, *over.shape[2:]) for t in (affine.multiply, affine.add))
    mean = x.mean(over.axes, keepdims=True)
    centre = x - mean if centred else x
    variance = np.mean(centre * centre, axis=over.axes, keepdims=True)
    whole, rest = multiply * centre, over.of(case.actual) - add
    factor = _projection(rest, whole, over.axes)
    left = float(np.linalg.norm(rest - factor * whole)) / case.size
    if left > case.bar or not np.any(factor):
        return None
    if factor.size > 1 and np.ptp(factor) <= 1e-6 * abs(factor).max():
        return None  # one factor for all is no norm
    rule = _rule(case, over, variance, factor, rest, whole)
    if rule is None and centred:
        rule = _rule(case, over, np.mean(x * x, axis=over.axes, keepdims=True), factor, rest, whole)
        rule = None if rule is None else (", ".join(filter(None, (NOT_CENTRED, rule[0]))), *rule[1:])
    if rule is None:
        return None
    words, left, numbers = rule
    if source == THE_INPUT and over.words == LAYER_NORM and not affine.words and not words and centred:
        return None
    sentence = _sentence(case, source, over, affine, words, centred)
    return Difference("norm", sentence, left, {"over": over.words, "centred": centred, **numbers}, True)


def _projection(y: np.ndarray, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    square = np.sum(x * x, axis=axes, keepdims=True)
    return np.asarray(np.sum(x * y, axis=axes, keepdims=True) / np.where(square == 0, 1, square))


def _rule(
    case: Case, over: Over, variance: np.ndarray, factor: np.ndarray, rest: np.ndarray, whole: np.ndarray
) -> tuple[str, float, dict[str, float]] | None:
    """How the factors come from the variances: in words (nothing for the usual way), what it leaves, and its numbers."""
    count = int(np.prod([over.shape[axis] for axis in over.axes]))
    used = (factor != 0) & (variance > 0)
    f, v = abs(factor[used]), variance[used]
    if not len(f) or (len(f) < 2 and case.tolerance > 1e-4):
        return None

    def left(trial: np.ndarray) -> float:
        return float(np.linalg.norm(rest - np.sign(factor) * np.nan_to_num(trial) * whole)) / case.size

    with np.errstate(all="ignore"):
        for k, said in ((1.0, ""), (count / (count - 1), "the variance is divided by n − 1 (unbiased)"), (float(count), NORM_ONLY)):
            weights = f**2  # near zero variances epsilon shows best
            eps = max(float(np.sum((1 / f**2 - k * v) * weights) / np.sum(weights)), 0.0)
            for epsilon in (_near(eps), eps, 0.0):
                remaining = left((k * variance + epsilon) ** -0.5)
                if remaining <= case.bar:
                    words = _epsilon_words(case, epsilon, said)
                    return words, remaining, {"epsilon": epsilon, "variance_factor": k}
            outside = max(float(np.median(1 / f - np.sqrt(k * v))), 0.0)
            for epsilon in (_near(outside), outside):
                remaining = left(1 / (np.sqrt(k * variance) + epsilon))
                if remaining <= case.bar and epsilon > 0:
                    words = (
                        f"{said + ', ' if said else ''}epsilon {three_digits(epsilon)} is added to the deviation, outside the root"
                    )
                    return words, remaining, {"epsilon_outside": epsilon, "variance_factor": k}
            direct = max(float(np.median(1 / f - k * v)), 0.0)
            for epsilon in (_near(direct), direct, 0.0):
                remaining = left(1 / (k * variance + epsilon))
                if remaining <= case.bar:
                    words = f"divided by the variance: the square root is missing{', ' + said if said else ''}"
                    return words, remaining, {"epsilon": epsilon, "variance_factor": k}
    return None


NOT_CENTRED = "the variance is the mean square, from which the mean is not subtracted"

NORM_ONLY = "divided by the length of the vector (F.normalize)"


def _near(x: float) -> float:
    """The power of ten, or 1, 2, 5 times it, which is within 2 %."""
    if x <= 0:
        return 0.0
    power = 10.0 ** np.floor(np.log10(x))
    for digit in (1, 2, 5, 10):
        if abs(x - digit * power) <= 0.02 * x:
            return float(f"{digit * power:.0e}")
    return x


def _reference_epsilon(case: Case) -> float | None:
    """The epsilon of the reference's own LayerNorm, solved from its value."""
    x = case.same_grid.get(THE_INPUT)
    if x is None or case.gain is None or not np.any(case.gain):
        return None
    shift = 0 if case.shift is None else case.shift.ravel()
    centred = x - x.mean(-1, keepdims=True)
    factor = _projection(case.expected - shift, case.gain.ravel() * centred, (3,))
    with np.errstate(all="ignore"):
        weights = factor**2
        eps = float(np.sum((1 / factor**2 - (centred**2).mean(-1, keepdims=True)) * weights) / np.sum(weights))
    return _near(eps) if eps > 0 else None


def _epsilon_words(case: Case, epsilon: float, said: str) -> str:
    own = _reference_epsilon(case)
    if own is None or said == NORM_ONLY:
        return said
    if abs(epsilon - own) <= 0.05 * own:
        return said
    change = f"epsilon is {three_digits(epsilon)} instead of {three_digits(own)}"
    return f"{said}, {change}" if said else change


def _sentence(case: Case, source: str, over: Over, affine: Affine, rule: str, centred: bool) -> str:
    kind = over.words if centred or over.words != LAYER_NORM else "RMS norm over the channels of each token"
    mean = "" if centred else "the mean is not subtracted"
    details = ", ".join(part for part in (mean, rule, affine.words) if part)
    if source == THE_INPUT:
        if over.words == LAYER_NORM and centred:
            return details
        start = "RMS norm" if kind.startswith("RMS") else f"the norm is taken {over.words}"
        return f"{start}, not {LAYER_NORM}" + (f": {details}" if details else "")
    kind = kind if kind.endswith("token") and over.words == LAYER_NORM else f"a norm {over.words}"
    if NORM_ONLY in rule:
        kind = "L2 normalisation" + ("" if over.words == LAYER_NORM else f" {over.words}")
        details = ", ".join(part for part in (affine.words,) if part)
    what = "the reference's value: it is normalised once more" if source == REFERENCE else f"{source}"
    return f"{kind} of {what}" + (f" ({details})" if details else "")

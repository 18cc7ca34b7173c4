"""A factor and a shift: one for all numbers, or one for each image, channel, head or token.

Whatever is fitted is fitted on one half of the places and judged on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scalablevit_ref.compare.reasoning.case import Case, flat, sampled
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import listed, named, ranged, three_digits

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_STD = np.array([0.229, 0.224, 0.225])

FEWEST = 8
"""Numbers that a factor and a shift must explain, each of them."""


def affine(case: Case) -> list[Difference]:
    """One factor, or one factor and one shift, of all numbers."""
    if case.actual.size < FEWEST:
        return []
    a, e = case.actual, case.expected
    within = max(16 * case.eps, 1e-9)

    def word(x: float) -> str:
        return named(x, within=within, channels=case.channels, num_heads=case.num_heads)

    half = (slice(None),) * (a.ndim - 1) + (slice(None, None, 2),) if case.channels > 1 else (slice(None, None, 2),)
    x, y = e[half].ravel(), a[half].ravel()
    if not np.any(a):
        return [Difference("affine", "every number is 0", 0.0, {"factor": 0.0, "shift": 0.0}, True)]
    if np.ptp(a) <= case.tolerance * case.spread:
        value = float(a.flat[0])
        return [Difference("affine", f"every number is {three_digits(value)}", 0.0, {"factor": 0.0, "shift": value}, True)]
    square = float(x @ x)
    factor = float(x @ y) / square if square else 0.0
    left = case.explains(factor * e)
    if left is not None and factor:
        words = "the sign is reversed" if word(factor) == "-1" else f"the reference's value times {word(factor)}"
        words = f"half of it: {words}" if word(factor) == "1/2" else words
        return [Difference("affine", words, left, {"factor": factor, "shift": 0.0}, True)]
    factor, shift = _line(x, y)
    left = case.explains(factor * e + shift)
    if left is None:
        return []
    if abs(factor - 1) <= within:
        words = f"the reference's value {plus(shift, word)}"
    else:
        words = f"the reference's value times {word(factor)} {plus(shift, word)}"
    return [Difference("affine", words, left, {"factor": factor, "shift": shift}, True)]


def plus(x: float, word: Callable[[float], str] = three_digits) -> str:
    return f"minus {word(-x)}" if x < 0 else f"plus {word(x)}"


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept, by least squares."""
    x_mean, y_mean = x.mean(), y.mean()
    square = float((x - x_mean) @ (x - x_mean))
    slope = float((x - x_mean) @ (y - y_mean)) / square if square else 0.0
    return slope, float(y_mean - slope * x_mean)


def preprocessing(case: Case) -> list[Difference]:
    """Images that are normalised twice, not at all, from 0 to 255, with other constants, or in BGR order."""
    if case.channels != 3:
        return []
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    for order, pixels in (("", case.expected * std + mean), ("BGR for RGB, ", (case.expected * std + mean)[..., ::-1])):
        tried = {
            "not normalised (0 to 1)": pixels,
            "not normalised (0 to 255)": pixels * 255,
            "from 0 to 255, normalised by constants for 0 to 1": (pixels * 255 - mean) / std,
            "normalised twice by ImageNet's mean and deviation": ((pixels - mean) / std - mean) / std,
            "normalised by 0.5 and 0.5 instead of ImageNet's mean and deviation": (pixels - 0.5) / 0.5,
            "divided by ImageNet's deviation, the mean is not subtracted": pixels / std,
            "ImageNet's mean is subtracted, not divided by the deviation": pixels - mean,
            "ImageNet's variance in place of its deviation": (pixels - mean) / std**2,
            "divided by 255 twice": (pixels / 255 - mean) / std,
        }
        if order:  # with the constants reversed too, the channels alone are reversed
            tried["normalised by constants in the order of RGB"] = (pixels - mean) / std
        else:
            tried["normalised by ImageNet's constants in reversed order"] = (pixels - mean[::-1]) / std[::-1]
        for words, explained in tried.items():
            left = case.explains(explained)
            if left is not None:
                return [
                    Difference("channels", f"the image is {order}{words}", left, {"preprocessing": words, "order": order}, True)
                ]
    return []


def axiswise(case: Case) -> list[Difference]:
    """A factor and a shift for each image, channel, head, or head of an image; factors alone where they suffice."""
    b, h, w, c = case.actual.shape
    n = h * w
    if b * n == 1:
        return _known_shift(case)
    found = []
    views: list[tuple[str, tuple[int, ...]]] = [("image", (b, n * c, 1))] if b > 1 else []
    if case.num_heads and case.num_heads > 1 and c % case.num_heads == 0 and c > case.num_heads:
        views.append(("head", (b * n, case.num_heads, c // case.num_heads)))
    views.append(("channel", (1, b * n, c)))
    for name, shape in views:
        a, e = case.actual.reshape(shape), case.expected.reshape(shape)
        if name == "head":
            a, e = (t.transpose(1, 0, 2).reshape(1, case.num_heads or 1, -1).transpose(0, 2, 1) for t in (a, e))
        if a.shape[1] < (2 if case.tolerance < 1e-4 else 2 * FEWEST):
            continue
        few = sampled(a.shape[1], 256)
        if _fit(case, a[:, few], e[:, few], loose=30.0) is None:
            continue
        fitted = _fit(case, a, e)
        if fitted is not None:
            found.append(_each(case, name, *fitted))
            break
    return found


def _fit(case: Case, a: np.ndarray, e: np.ndarray, *, loose: float = 1.0) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Factor and shift along axis 1, fitted on every second place: shift alone, factor alone, then both."""
    x, y = e[:, ::2], a[:, ::2]
    mean_x, mean_y = x.mean(1, keepdims=True), y.mean(1, keepdims=True)
    ones, zeros = np.ones_like(mean_x), np.zeros_like(mean_x)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.nan_to_num((x * y).sum(1, keepdims=True) / (x * x).sum(1, keepdims=True))
        covariance = ((x - mean_x) * (y - mean_y)).sum(1, keepdims=True)
        slope = np.nan_to_num(covariance / ((x - mean_x) ** 2).sum(1, keepdims=True))
    lines = [(ones, mean_y - mean_x), (factor, zeros), (slope, mean_y - slope * mean_x)]
    for multiply, add in lines if a.shape[1] >= FEWEST else lines[:2]:
        left = float(np.linalg.norm(a - (multiply * e + add))) / case.size
        if left <= loose * case.bar:
            return multiply.ravel(), add.ravel(), left
    return None


def _each(case: Case, name: str, factor: np.ndarray, shift: np.ndarray, left: float) -> Difference:
    data: dict[str, Any] = {"axis": name, "factors": factor[:512].tolist(), "shifts": shift[:512].tolist()}
    within = max(16 * case.eps, 1e-9)
    scaled = abs(factor - 1) > within
    shifted = abs(shift) > case.tolerance * case.spread
    changed = np.flatnonzero(scaled | shifted)
    if not np.any(scaled):
        if name == "channel":
            return Difference("same at every token", _same_words(case, shift, changed), left, data, True)
        words = f"each {name} is shifted by a number of its own{_range(shift)}"
    elif not np.any(shifted):
        words = f"each {name} is multiplied by a factor of its own{_range(factor)}"
        values = np.unique(factor[changed].round(9))
        if len(values) == 1 and len(changed) < len(factor):
            data["one factor"] = float(values[0])
            what = named(values[0], within=within, channels=case.channels, num_heads=case.num_heads)
            words = f"{name}s {listed(changed)} of {len(factor)} are multiplied by {what}"
            words = f"{name}s {listed(changed)} of {len(factor)} are 0" if values[0] == 0 else words
    else:
        words = f"each {name} has a factor{_range(factor)} and a shift{_range(shift)} of its own"
    return Difference("channels" if name == "channel" else f"{name}s", words, left, data, True)


def _range(numbers: np.ndarray) -> str:
    return f" ({ranged(numbers)})"


def _same_words(case: Case, shift: np.ndarray, changed: np.ndarray) -> str:
    """What vector is added at every token, by what is known of the step."""
    known = _known_vector(case)
    if known is not None:
        return known[0]
    part = "" if len(changed) == len(shift) else f", in channels {listed(changed)} of {len(shift)} only"
    return f"{UNNAMED_VECTOR} at every token{part} (size {three_digits(float(np.linalg.norm(shift)))})"


UNNAMED_VECTOR = "the same vector is added"
"""What is said of a vector that is none of those that the layers add."""


def _known_shift(case: Case) -> list[Difference]:
    """Of a single vector: the bias or another known vector added or missing."""
    known = _known_vector(case)
    if known is None:
        return []
    words, left, vector = known
    return [Difference("same at every token", words, left, {"axis": "channel", "shifts": vector[:512].tolist()}, True)]


TIMES = {-2.0: "{} is subtracted{}, not added", -1.0: "{} is missing{}", -0.5: "{} is halved{}", 1.0: "{} is added twice{}"}
TIMES |= {0.5: "{} is added 1.5 times{}", 2.0: "{} is added three times{}"}
"""What is said where a vector that the step adds is added so many times too often."""

OTHER_TIMES = {-1.0: "{} is missing{}, or is subtracted", 1.0: "{} is added{} once more than in the reference"}
OTHER_TIMES |= {2.0: "{} is added{} twice more than in the reference"}
"""What is said of vectors that other steps add."""


def _known_vector(case: Case) -> tuple[str, float, np.ndarray] | None:
    """The step's own bias, a norm's shift or gain, or another known vector of which a multiple explains the difference."""
    shift = (case.actual - case.expected).mean((0, 1, 2))
    used = np.flatnonzero(abs(shift) > 8 * case.tolerance * case.spread)
    own = {"the bias": case.bias, "the norm's shift": case.shift, "the norm's gain": case.gain}
    tried = [(what, vector, TIMES) for what, vector in own.items() if vector is not None]
    for what, vector, words in (*tried, *((what, vector, OTHER_TIMES) for what, vector in case.vectors.items())):
        if vector.size != shift.size or not len(used):
            continue
        v = vector.ravel()
        for channels in (np.arange(len(v)), np.arange(used[0], used[-1] + 1), used):
            square = float(v[channels] @ v[channels])
            times = round(2 * float(v[channels] @ shift[channels]) / square) / 2 if square else 0.0
            if times not in words or len(channels) < 4 or (len(channels) < len(v) and case.tolerance > 1e-4):
                continue
            added = np.zeros(len(v))
            added[channels] = times * v[channels]
            left = case.explains(case.expected + added)
            if left is not None:
                where = "" if len(channels) == len(v) else f" in channels {listed(channels)} of {len(v)}"
                return words[times].format(what, where), left, added
    return None


def dropped(case: Case) -> list[Difference]:
    """Numbers here and there are 0, whatever they should be; the others are the reference's, times one factor."""
    kept = case.actual != 0
    share = float(1 - kept.mean())
    whole = any(np.all(lines.all(axis) | ~lines.any(axis)) for lines in (flat(kept),) for axis in (0, 1))
    if not 0 < share < 1 or kept.sum() < FEWEST or (whole and case.tokens > 1):
        return []
    if any(f(case.expected[~kept]).max() <= f(case.expected[kept]).min() for f in (np.abs, np.positive, np.negative)):
        return []  # told by the number, as ReLU does
    x, y = case.expected[kept], case.actual[kept]
    square = float(x[::2] @ x[::2])
    factor = float(x[::2] @ y[::2]) / square if square else 0.0
    left = case.explains(factor * np.where(kept, case.expected, 0))
    if left is None:
        return []
    word = named(factor, within=max(16 * case.eps, 1e-9))
    others = "the others are right" if word == "1" else f"the others are multiplied by {word}"
    words = f"{three_digits(100 * share)} % of the numbers are 0, {others}, as dropout does"
    return [Difference("dropout", words, left, {"share": share, "factor": factor}, True)]


def tokenwise(case: Case) -> list[Difference]:
    """A factor for each token, or for each token and head, that all its channels share: fitted on half of the channels."""
    b, h, w, c = case.actual.shape
    widths = [("token", c)]
    if case.num_heads and case.num_heads > 1 and c % case.num_heads == 0:
        widths.append(("token and head", c // case.num_heads))
    for name, width in widths:
        if width < FEWEST or b * h * w < 2:
            continue
        a, e = (flat(t).reshape(-1, width) for t in (case.actual, case.expected))
        few = sampled(len(a), 64)
        if not any(np.linalg.norm(rest) <= 30 * case.bar * case.size for rest in _without_lines(a[few], e[few])):
            continue
        x, y = e[:, ::2], a[:, ::2]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.nan_to_num((x * y).sum(1) / (x * x).sum(1))
        left = float(np.linalg.norm(a - factor[:, None] * e)) / case.size
        if left <= case.bar:
            words = f"each {name} is multiplied by a factor of its own{_range(factor)}, the same in all its channels"
            values = np.unique(factor.round(9))
            if 1 < len(values) <= 2 and 0 in values:
                words = f"{int((abs(factor) < 1e-9).sum())} of {len(factor)} {name}s are 0"
            return [Difference("tokens", words, left, {"axis": name, "factors": factor[:512].tolist()}, True)]
        mean_x, mean_y = x.mean(1), y.mean(1)
        covariance = ((x - mean_x[:, None]) * (y - mean_y[:, None])).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.nan_to_num(covariance / ((x - mean_x[:, None]) ** 2).sum(1))
        shift = mean_y - slope * mean_x
        left = float(np.linalg.norm(a - (slope[:, None] * e + shift[:, None]))) / case.size
        if left <= case.bar and width >= 2 * FEWEST:
            words = f"each {name} has a factor{_range(slope)} and a shift{_range(shift)} of its own, as of a norm over its channels"
            if np.all(abs(slope - 1) <= max(1e3 * case.tolerance, 1e-9)):
                words = f"a number of its own is added to each {name}{_range(shift)}, the same in all its channels"
                words += _in_every_image(case, shift)
            data = {"axis": name, "factors": slope[:512].tolist(), "shifts": shift[:512].tolist()}
            return [Difference("tokens", words, left, data, True)]
    return []


def _in_every_image(case: Case, shift: np.ndarray) -> str:
    images = shift.reshape(case.actual.shape[0], -1)
    if len(images) < 2 or np.any(abs(images - images[:1]) > 1e3 * case.tolerance * case.spread):
        return ""
    return " and for every image, as a position embedding is"


def _without_lines(a: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a factor for each row leaves of it, and what a factor and a shift leave."""

    def rest(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        square = np.sum(x * x, axis=1, keepdims=True)
        return np.asarray(y - np.sum(x * y, axis=1, keepdims=True) / np.where(square == 0, 1, square) * x)

    return rest(a, e), rest(a - a.mean(1, keepdims=True), e - e.mean(1, keepdims=True))

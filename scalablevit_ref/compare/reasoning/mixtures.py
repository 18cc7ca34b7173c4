"""Sums, products and other mixtures of values that are known: which residual is missing, doubled, scaled or another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, permutations

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, SAMPLE, Case, flat, sampled
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import listed, named, ranged

MOST_SOURCES = 14
"""Values that sums are searched among."""

Sum = dict[str, float]
"""Coefficients by the names of the values."""


def sums(case: Case) -> list[Difference]:
    """A sum of at most three values, each with one coefficient."""
    sources = dict(list(case.sources())[:MOST_SOURCES])
    given = {name: value for name, value in sources.items() if name != REFERENCE}
    if not given or case.actual.size < 16:
        return []
    own = _decomposed(case, case.expected, given, 3)[:1]
    found: list[Difference] = []
    of_given = _decomposed(case, case.actual, given, 3)
    for total in of_given + ([] if own and of_given else _decomposed(case, case.actual, sources, 2)):
        if total.keys() == {REFERENCE}:
            continue
        explained = sum((factor * sources[name] for name, factor in total.items()), np.zeros(()))
        left = case.explains(explained)
        if left is not None:
            words = _sum_words(case, total, own[0] if own else None)
            data = {"sum": total, "reference": own[0] if own else {}}
            found.append(Difference("mixture", words, left, data, True))
    simple = [one for one in found if all(_simple(factor) for factor in one.data["sum"].values())] or found
    fewest = min((len(one.data["sum"]) for one in simple), default=0)
    simplest = [one for one in simple if len(one.data["sum"]) == fewest]
    return list({one.words: one for one in simplest}.values())[:2]


def _simple(factor: float) -> bool:
    return abs(2 * factor - round(2 * factor)) < 1e-9


def _decomposed(case: Case, value: np.ndarray, sources: Mapping[str, np.ndarray], most: int) -> list[Sum]:
    """The sums of fewest values that give this value on a sample; coefficients near halves of integers are those."""
    at = sampled(value.size, SAMPLE)
    columns = {name: x.ravel()[at] for name, x in sources.items()}
    y = value.ravel()[at]
    size = float(np.linalg.norm(y))
    bar = max(case.tolerance, 1e-13) if value is not case.actual else max(case.bar, 1e-13)
    if not size:
        return []
    names = [name for name, x in columns.items() if np.any(x)]
    matrix = np.stack([columns[name] / np.linalg.norm(columns[name]) for name in names], axis=1) if names else np.zeros((len(y), 0))
    gram, right = matrix.T @ matrix, matrix.T @ (y / size)
    for count in range(1, min(most, len(names)) + 1):
        found: list[Sum] = []
        for chosen in combinations(range(len(names)), count):
            at_hand = list(chosen)
            block = gram[np.ix_(at_hand, at_hand)]
            if np.linalg.det(block) < 1e-10:
                continue
            projected = float(right[at_hand] @ np.linalg.solve(block, right[at_hand]))
            if 1 - projected > max(1e-10, (30 * bar) ** 2):
                continue
            picked = np.stack([columns[names[i]] for i in at_hand], axis=1)
            half = len(y) // 2
            factors = np.linalg.lstsq(picked[:half], y[:half], rcond=None)[0]
            rounded = np.round(factors * 2) / 2
            factors = np.where(abs(factors - rounded) <= max(1e-9, 100 * bar), rounded, factors)
            if np.all(factors != 0) and np.linalg.norm(picked @ factors - y) <= 4 * bar * size:
                found.append({names[i]: float(factor) for i, factor in zip(at_hand, factors, strict=True)})
        if found:
            return sorted(found, key=lambda total: sum(not _simple(factor) for factor in total.values()))[:6]
    return []


def _sum_words(case: Case, total: Sum, own: Sum | None) -> str:
    """What differs from the reference's own sum, if that is known; else the sum itself."""
    within = max(16 * case.eps, 1e-9)

    def word(x: float) -> str:
        return named(x, within=within, channels=case.channels, num_heads=case.num_heads)

    if own and len(own) > 1 and REFERENCE not in total:
        parts = _changes(own, total, word)
        if len(parts) <= len(total):
            return " and ".join(parts)
    if len(total) == 1:
        ((name, factor),) = total.items()
        return f"it is {name}" if factor == 1 else f"it is {name} times {word(factor)}"
    if total.get(REFERENCE) == 1 and len(total) == 2:
        name, factor = next((name, factor) for name, factor in total.items() if name != REFERENCE)
        if factor == -1:
            return f"{name} is missing or is subtracted: it is the reference's value minus {name}"
        if factor == 1:
            return f"{name} is added: it is the reference's value plus {name}"
    return "it is " + _written_out(total, word)


def _changes(own: Sum, total: Sum, word: Callable[[float], str]) -> list[str]:
    """What a sum has otherwise than the reference's own, as clauses."""
    lost, new = [name for name in own if name not in total], [name for name in total if name not in own]
    changed = [name for name in total if name in own and total[name] != own[name]]
    parts = []
    for name in list(new):  # one in the other's place
        other = next((one for one in lost if own[one] == total[name]), None)
        if other is not None:
            parts.append(f"{name} is added instead of {other}")
            lost.remove(other)
            new.remove(name)
    parts += [f"{name} is missing" for name in lost]
    for name in changed:
        ratio = total[name] / own[name]
        said = {2.0: f"{name} is added twice", -1.0: f"{name} is subtracted"}
        parts.append(said.get(ratio, f"{name} is multiplied by {word(ratio)}"))
    parts += [f"{name} is added{'' if total[name] == 1 else f' times {word(total[name])}'}" for name in new]
    return parts


def _written_out(total: Sum, word: Callable[[float], str]) -> str:
    parts = []
    for name, factor in sorted(total.items(), key=lambda item: item[1] < 0):
        size = abs(factor)
        times = name if size == 1 else f"{word(size)} × {name}"
        parts.append((" minus " if factor < 0 else " plus ") + times)
    return "".join(parts).removeprefix(" plus ").strip()


def scaled_branches(case: Case) -> list[Difference]:
    """A value that is added with a factor for each image (drop path) or for each channel (layer scale)."""
    sources = dict(list(case.sources())[:MOST_SOURCES])
    if len(sources) < 2 or case.tokens < 4:
        return []
    own = _decomposed(case, case.expected, {name: x for name, x in sources.items() if name != REFERENCE}, 3)[:1]
    b, h, w, c = case.actual.shape
    at = sampled(h * w, 64)
    few = {name: x.reshape(b, h * w, c)[:, at] for name, x in sources.items()}
    y = case.actual.reshape(b, h * w, c)[:, at]
    for axis, kind in (("image", "b"), ("channel", "c")):
        if axis == "image" and b == 1:
            continue
        over = (1, 2) if kind == "b" else (0, 1)
        for base, name in _bases(sources):
            rest = y if base is None else y - few[base]
            if _ratio(rest, few[name], over, case.bar * case.size / np.sqrt(case.actual.size)) is None:
                continue
            whole = case.actual.reshape(b, h * w, c) - (0 if base is None else sources[base].reshape(b, h * w, c))
            factors = _ratio(whole, sources[name].reshape(b, h * w, c), over, np.inf)
            if factors is None:
                continue
            explained = (factors * sources[name].reshape(b, h * w, c)).reshape(case.actual.shape)
            left = case.explains(explained if base is None else explained + sources[base])
            if left is None:
                continue
            found = factors.ravel()
            if base == REFERENCE and own and name in own[0]:
                found, start = found + own[0][name], ""
            else:
                start = "" if base is None else f"to {base} is added: "
            known = "as drop path does" if axis == "image" else "as layer scale does"
            words = f"{start}{name} is multiplied by a factor for each {axis} ({ranged(found)}), {known}"
            data = {"axis": axis, "base": base, "branch": name, "factors": found[:512].tolist()}
            return [Difference("mixture", words, left, data, True)]
    return []


def _bases(sources: Mapping[str, np.ndarray]) -> Iterator[tuple[str | None, str]]:
    names = list(sources)
    yield from ((None, name) for name in names if name != REFERENCE)
    yield from ((base, name) for base, name in permutations(names, 2) if name != REFERENCE)


def _ratio(y: np.ndarray, x: np.ndarray, over: tuple[int, int], noise: float) -> np.ndarray | None:
    """The factor of x that gives y, fitted on every second token; None if it leaves more than this root mean square."""
    square = (x[:, ::2] ** 2).sum(over, keepdims=True)
    if not np.all(square > 0):
        return None
    factor = np.asarray((x[:, ::2] * y[:, ::2]).sum(over, keepdims=True) / square)
    if noise < np.inf and np.sqrt(np.mean((y - factor * x) ** 2)) > 8 * max(noise, 1e-14 * float(np.sqrt(np.mean(y**2)))):
        return None
    return factor


def products(case: Case) -> list[Difference]:
    """Two values multiplied, gated, or the larger or smaller of them."""
    sources = dict(list(case.sources())[:MOST_SOURCES])
    at = sampled(case.actual.size, 256)
    few = {name: x.ravel()[at] for name, x in sources.items()}
    y = case.actual.ravel()[at]
    size = float(np.linalg.norm(y))
    for one, other in permutations(sources, 2):
        for words, function, symmetric in _PAIRWISE:
            if symmetric and one > other:
                continue
            for base in (None, REFERENCE):
                trial = function(few[one], few[other]) + (0 if base is None else few[base])
                if np.linalg.norm(trial - y) > 8 * max(case.bar, 1e-13) * size:
                    continue
                explained = function(sources[one], sources[other]) + (0 if base is None else sources[base])
                left = case.explains(explained)
                if left is not None:
                    said = words.format(one, other)
                    said = f"it is {said}" if base is None else f"{said} is added"
                    return [Difference("mixture", said, left, {"operation": words, "values": [one, other], "base": base}, True)]
    return []


def _gate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-np.clip(y, -700, 700))))


_PAIRWISE = (
    ("{} times {}, number by number", np.multiply, True),
    ("{} times the sigmoid of {} (a gate)", _gate, False),
    ("the larger of {} and {}", np.maximum, True),
    ("the smaller of {} and {}", np.minimum, True),
)


def taken_channels(case: Case) -> list[Difference]:
    """Each channel is a channel of a known value: halves from two values, or a third of another width."""
    grid = case.actual.shape[:3]
    sources = {REFERENCE: case.expected} | {name: x for name, x in case.given.items() if x.shape[:3] == grid}
    sources = dict(list(sources.items())[:MOST_SOURCES])
    at = sampled(case.tokens, 48)
    if len(at) < 4 or case.tolerance > 1e-4:
        return []
    columns = np.concatenate([flat(x)[at] for x in sources.values()], axis=1).T
    owner = np.repeat(np.arange(len(sources)), [x.shape[-1] for x in sources.values()])
    place = np.concatenate([np.arange(x.shape[-1]) for x in sources.values()])
    mine = flat(case.actual)[at].T
    distance = (mine**2).sum(1)[:, None] - 2 * mine @ columns.T + (columns**2).sum(1)
    best = np.argmin(distance, axis=1)
    if np.linalg.norm(mine - columns[best]) > 8 * case.tolerance * float(np.linalg.norm(mine)):
        return []
    names = list(sources)
    explained = np.stack([flat(sources[names[owner[j]]])[:, place[j]] for j in best], axis=1).reshape(case.actual.shape)
    left = case.explains(explained)
    used = np.unique(owner[best])
    if left is None or (len(used) == 1 and used[0] == 0):
        return []
    parts = []
    for i in used:
        channels = np.flatnonzero(owner[best] == i)
        come = place[best][channels]
        origin = f"channels {listed(come)}" if np.all(np.diff(come) > 0) else "permuted channels"
        parts.append(f"channels {listed(channels)} are {origin} of {names[i]}")
    data = {"from": [names[owner[j]] for j in best[:256]], "channels": place[best][:256].tolist()}
    return [Difference("places", " and ".join(parts), left, data, True)]

"""A user's mapping from layers to the candidate's own names. Nothing in it is dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby, islice

from scalablevit_ref.config import near_matches
from scalablevit_ref.errors import CaptureError

MOST_NAMES = 2_000
"""Most names of a candidate among which one like a missing name is looked for."""

LONGEST_NAME = 200
"""Longest name for which one like it is looked for, in characters."""

_PLACEHOLDERS = ("{k}", "{i}")


def by_mapping(
    mapping: Mapping[str, str],
    targets: Collection[str],
    layers: Collection[str],
    *,
    whose: str = "the candidate",
    each: bool = True,
) -> dict[str, str]:
    """A user's mapping without "{k}" and "{i}", which stand for every number: layers to the candidate's names.

    A layer's own entry comes before a pattern that fits it.

    Parameters
    ----------
    mapping
        From names of layers, or patterns of them, to the candidate's.
    targets, layers
        The names that the candidate and the network have.
    whose
        Whose the targets are, in errors.
    each
        Whether all layers that a pattern fits must be there; else one of them must.

    Raises
    ------
    CaptureError
        For a layer or a target that does not exist, a pattern that fits no layer, a layer that is mapped to two targets and two
        layers that are mapped to one.
    """
    exact: dict[str, str] = {}
    fitted: dict[str, tuple[str, str]] = {}
    for pattern, target in mapping.items():
        if not any(placeholder in pattern for placeholder in _PLACEHOLDERS):
            _check_exact(pattern, target, targets, layers, whose)
            exact[pattern] = target
            continue
        there = {layer: own for layer, own in _expanded(pattern, target, layers).items() if layer not in mapping}
        lacking = [layer for layer in there if there[layer] not in targets]
        if lacking and (each or len(lacking) == len(there)):
            raise CaptureError(
                f"names: {pattern!r} is mapped to {target!r}, for {lacking[0]} to {there[lacking[0]]!r}, which {whose} lacks"
                f"{near(there[lacking[0]], targets)}"
            )
        for layer in there.keys() - set(lacking):
            other = fitted.setdefault(layer, (pattern, there[layer]))
            if other[1] != there[layer]:
                raise CaptureError(f"names: {layer!r} is mapped twice, by {other[0]!r} and by {pattern!r}")
    return {layer: own for layer, (_, own) in fitted.items()} | exact


def merged(own: Mapping[str, str], mapped: Mapping[str, str]) -> dict[str, str]:
    """Layers to the candidate's names: as they are called, and as the user maps them, which comes first.

    Raises CaptureError for a name that then stands for two layers; `logits` may be what the last layer of the head is.
    """
    found = {**own, **mapped}
    named = sorted((target, layer) for layer, target in found.items() if layer != "logits")
    for target, pairs in groupby(named, key=lambda pair: pair[0]):
        twice = [layer for _, layer in pairs]
        if twice[1:] and any(layer in mapped for layer in twice):
            raise CaptureError(f"names: {twice[0]!r} and {twice[1]!r} would both be {target!r}, which is one of them at most")
    return found


def near(word: str, names: Iterable[str]) -> str:
    """` (did you mean 'norm'?)`, or nothing. Of many names, the first ones of about this length are looked at."""
    if len(word) > LONGEST_NAME:
        return ""
    return near_matches(word, islice((name for name in names if 2 * len(name) >= len(word) >= len(name) / 2), MOST_NAMES))


def lookalikes(names: Iterable[str], lacking: Iterable[str], layers: Collection[str]) -> list[str]:
    """Names that are no layer's but look like one, in words.

    Parameters
    ----------
    names
        That name no layer; the first ones are looked at.
    lacking
        The layers that nothing is named after.
    layers
        All layers.
    """
    by_number: dict[tuple[str, ...], list[str]] = {}
    for layer in lacking:
        by_number.setdefault(_numbers(layer), []).append(layer)
    forms = {re.sub(r"\d+", "0", layer) for layer in layers}
    found = []
    for name in islice((name for name in names if isinstance(name, str) and len(name) <= LONGEST_NAME), MOST_NAMES):
        close = [layer for layer in by_number.get(_numbers(name), ()) if _looks_like(name, layer)]
        if close:
            found.append(f"{name!r} names no layer (did you mean {close[0]!r}?)")
        elif re.sub(r"\d+", "0", name) in forms:
            found.append(f"{name!r} names no layer of this network")
    return found


def _looks_like(name: str, layer: str) -> bool:
    """Another writing of it (`Norm`, `stages/0/0/attn`), or one or two letters beside it (`stages.0.0.atn`)."""
    if name.startswith(f"{layer}."):  # a part of it
        return False
    a, b = (re.sub(r"[\W_]+", ".", text.casefold()) for text in (name, layer))
    return a == b or (abs(len(a) - len(b)) <= 2 < len(b) and _edits(a, b) <= (2 if len(b) > 8 else 1))


def _edits(a: str, b: str) -> int:
    """Levenshtein's distance: letters to insert, to leave out or to change."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def _numbers(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", name))


def _check_exact(layer: str, target: str, targets: Collection[str], layers: Collection[str], whose: str) -> None:
    if layer not in layers:
        raise CaptureError(f"names: there is no layer {layer!r}{near(layer, layers)}")
    if any(placeholder in target for placeholder in _PLACEHOLDERS) and target not in targets:
        raise CaptureError(f"names: {layer!r} is one layer, and {target!r} has a number to fill in")
    if target not in targets:
        raise CaptureError(f"names: {layer!r} is mapped to {target!r}, which {whose} lacks{near(target, targets)}")


def _expanded(pattern: str, target: str, layers: Collection[str]) -> dict[str, str]:
    """The layers that a pattern fits, and what the target is for each."""
    unknown = [placeholder for placeholder in _PLACEHOLDERS if placeholder in target and placeholder not in pattern]
    if unknown:
        raise CaptureError(f"names: {pattern!r} is mapped to {target!r}, whose {unknown[0]} it does not have")
    form, seen = "", set[str]()
    for part in re.split(r"(\{[ki]\})", pattern):
        if part not in _PLACEHOLDERS:
            form += re.escape(part)
        else:
            form += f"(?P={part[1]})" if part in seen else rf"(?P<{part[1]}>\d+)"
            seen.add(part)
    fits = {layer: found.groupdict() for layer in layers if (found := re.fullmatch(form, layer))}
    if not fits:
        forms = {_form(layer): None for layer in layers}
        raise CaptureError(f"names: no layer is of the form {pattern!r}{near(pattern, forms)}")
    filled = {}
    for layer, numbers in fits.items():
        own = target
        for letter, number in numbers.items():
            own = own.replace(f"{{{letter}}}", number)
        filled[layer] = own
    return filled


def _form(layer: str) -> str:
    """`stages.{k}.{i}.attn` of `stages.0.1.attn`."""
    letters = iter("ki")
    return re.sub(r"\d+", lambda number: f"{{{letter}}}" if (letter := next(letters, None)) else number[0], layer)

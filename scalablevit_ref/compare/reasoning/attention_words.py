"""What a hypothesis about an attention does otherwise than the reference, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import log2, sqrt

from scalablevit_ref.compare.reasoning.attention_model import HOMOGENEOUS, V_FIRST, Hypothesis
from scalablevit_ref.compare.reasoning.fitting import times
from scalablevit_ref.compare.reasoning.numbers import three_digits
from scalablevit_ref.compare.reasoning.windows import Windows

LOGITS = {
    "cosine": "logits are cosines: q and k are divided by their lengths",
    "unit keys": "keys are divided by their lengths",
    "unit queries": "queries are divided by their lengths",
    "norm": "q and k of each head are normalised (mean 0, variance 1) before their product",
    "nearness": "logits are negative squared distances of q and k, not their products",
    "distance": "logits are negative distances of q and k, not their products",
    "rectified": "logits are clamped to at least 0 before the softmax",
    "no maximum of 0": "logits are clamped to at most 0 before the softmax",
    "absolute": "logits are absolute values",
}

MASKS = {
    "causal": "keys after the query are masked (a causal mask)",
    "anticausal": "keys before the query are masked",
    "strictly causal": "keys after the query, and the query's own, are masked",
    "not itself": "the query's own key is masked (the diagonal)",
    "first key hidden": "the first key of each window is masked",
}

NORMALISERS = {
    "queries": "softmax runs over the queries, not over the keys",
    "heads": "softmax runs over the heads, not over the keys",
    "queries and keys": "softmax runs over queries and keys together, not over the keys",
    "plus one": "softmax has 1 added to its denominator",
    "plus one, shifted": "softmax has 1 added to its denominator, after the largest logit is subtracted",
    "none": "there is no softmax",
    "sum": "logits are divided by their sum instead of a softmax",
    "sigmoid": "sigmoid stands in for softmax",
    "sigmoid, sum": "sigmoid, divided by its sum, stands in for softmax",
    "rectified": "ReLU stands in for softmax",
    "rectified, sum": "ReLU, divided by its sum, stands in for softmax",
    "rectified, squared": "squared ReLU stands in for softmax",
    "exponential": "the exponentials are not divided by their sum",
    "twice": "softmax is applied twice",
    "logarithm": "log-softmax stands in for softmax",
    "sparse": "sparsemax stands in for softmax",
    "uniform": "all keys have the same weight: q and k have no influence",
}

PLACED = {
    "unrolled": "are not rolled back",
    "rolled on": "are rolled back in the wrong direction",
    "column by column": "are cut out row by row and merged column by column",
    "turned": "have H and W swapped inside each window when they are merged",
    "turned map": "are merged to a map of W × H, not H × W",
    "as tiles": "are merged as if they were tiles",
    "as a grid": "are merged as if they were a dilated grid",
    "as runs": "are merged by a reshape without the transposition of (gh ph gw pw)",
}

VIEWS = {
    "d heads": "interleaved: channels are (d heads), not (heads d)",
    "view": "reshaped without the transposition",
    "view of b c n": "reshaped from b c n to heads n d without the transposition",
    "view as d n": "reshaped with tokens and channels of a head interchanged",
}


def powers(hypothesis: Hypothesis, c: int, q_width: int, keys: int, reference: float) -> Iterator[tuple[float, str]]:
    """Scales that people write, the likeliest first."""
    yield 1.0, "1"
    d = q_width // hypothesis.heads
    sizes = {"d": c // hypothesis.heads, "c": c, "d'": d, "c'": q_width, "n": keys}
    seen: set[int] = set()
    for letter, size in sizes.items():
        if size not in seen:
            seen.add(size)
            meaning = {"d": "d", "c": "c", "d'": "q's head width", "c'": "q's width", "n": "number of keys"}[letter]
            for value, power in (
                (size**-0.5, "^-½"),
                (1 / size, "^-1"),
                (size**0.5, "^½"),
                (float(size), ""),
                (size**-0.25, "^-¼"),
            ):
                yield value, f"({meaning}){power}" if " " in meaning else f"{meaning}{power}"
    yield reference / sqrt(2), "the reference's/√2"
    yield reference * sqrt(2), "the reference's·√2"
    yield reference * 2, "twice the reference's"
    yield reference / 2, "half the reference's"
    yield reference * log2(2.718281828459045), "the reference's/ln 2"
    yield reference / log2(2.718281828459045), "the reference's·ln 2"
    yield reference**2, "the reference's squared"
    yield 1 / reference, "1/the reference's: it divides where it should multiply"
    for whole in (2, 3, 4, 5, 8, 10, 16, 20, 50, 100):
        yield float(whole), f"{whole}"
        yield 1 / whole, f"1/{whole}"


def windows_said(w: Windows, reference: Windows) -> Iterator[str]:
    """What is different about the windows."""
    if w.sight is not None:
        yield w.sight.words + ", with zeros where it is cut" * (not w.hidden)
        return
    size = f"{w.size[0]} × {w.size[1]}"
    if w.kind == "all" and reference.kind != "all":
        yield f"windows are the whole map ({size}), not {reference.size[0]} × {reference.size[1]}: every query sees every key"
    elif w.kind == "sliding":
        yield f"each token sees the {size} tokens around it{', with zeros beyond the border' if not w.hidden else ''}, not a window"
    elif w.size != reference.size:
        yield f"windows are {size}, not {reference.size[0]} × {reference.size[1]}"
    if w.kind == "grid":
        yield "windows are a dilated grid instead of tiles: (ph gh) in place of (gh ph)"
    if w.kind == "runs":
        yield f"windows are runs of {w.size[0] * w.size[1]} tokens one after the other: cut by a reshape without the transposition"
    if any(w.shift):
        rows, columns = w.shift
        by = f"{rows}" if rows == columns else f"{rows} rows and {columns} columns"
        yield f"windows are shifted by {by}, {'with' if w.apart else 'without'} a mask"
    if any(w.masked):
        yield f"keys are masked as in windows shifted by {w.masked[0]} (Swin's mask), though the windows are not shifted"
    if w.halo:
        wide = "a row and a column" if w.halo == 1 else f"{w.halo} rows and columns"
        yield f"keys and values of {wide} around each window are seen too"
    if w.hidden and w.kind not in ("sliding", "all") and not w.halo:
        yield "what fills up the windows is masked in the softmax"
    if w.placed != reference.placed:
        yield f"windows {PLACED[w.placed]}"


def heads_said(h: Hypothesis, reference: Hypothesis) -> Iterator[str]:
    """What is different about packing, roles and heads."""
    if h.shared:
        whose = " and ".join({"q": "queries", "k": "keys", "v": "values"}[name] for name in h.shared)
        yield f"all heads take the first head's {whose}"
    if h.packing == V_FIRST:
        yield "k and v are split in the wrong order: v comes from the first rows of both, and k from the rest"
    elif h.packing != reference.packing:
        name, usual = ("kv", "two heads d") if "two" in h.packing else ("qkv", "three heads d")
        yield f"{name}'s channels are split as ({h.packing}), not ({usual})"
    if h.roles != reference.roles:
        changed = [f"{new} is taken for {old}" for old, new in zip(reference.roles, h.roles, strict=True) if old != new]
        order = sorted(h.roles) == sorted(reference.roles)
        places = [old for old, new in zip(reference.roles, h.roles, strict=True) if old != new]
        if order and len(places) == 2:
            yield f"{' and '.join(places)} are exchanged"
        else:
            yield f"q, k and v are taken in the order {', '.join(h.roles)}" if order else " and ".join(changed)
    if h.heads != reference.heads:
        yield f"{h.heads} {'head' if h.heads == 1 else 'heads'} instead of {reference.heads}"
    if h.splits == ("d heads",) * 3 and h.merge == "d heads":
        yield "heads are interleaved: channels are split as (d heads), not (heads d)"
        return
    by_way: dict[str, list[str]] = {}
    for name, way in zip(("q", "k", "v"), h.splits, strict=True):
        if way != "heads d":
            by_way.setdefault(way, []).append(name)
    for way, names in by_way.items():
        what = "heads" if len(names) == 3 else f"heads of {' and '.join(names)}"
        yield f"{what} are {VIEWS[way]} when they are split"
    if h.merge != reference.merge:
        yield f"heads are {VIEWS[h.merge]} when they are merged"


def scale_said(h: Hypothesis, scale: float, reference: float, names: Iterator[tuple[float, str]]) -> str:
    """The scale as a number and, where one is known, as a rule."""
    rule = next((words for value, words in names if abs(scale - value) <= 1e-6 * value), "")
    rule = "" if rule in ("", three_digits(scale)) else f" = {rule}"
    if scale == 1.0 and h.logits == "product":
        return f"logits are not scaled: the reference multiplies them by {three_digits(reference)}"
    if three_digits(scale) == three_digits(reference):
        narrow = next((name for name, bits in (("float16", 11), ("bfloat16", 8)) if _rounded(reference, bits) == scale), "")
        if narrow:
            return f"logits are scaled by {scale:.8g}, the reference's {reference:.8g} rounded to {narrow}"
        return f"logits are scaled by {scale:.8g}{rule}; in the reference by {reference:.8g}"
    own, usual = (_width_of(value) for value in (scale, reference))
    told = own and usual and (not rule or rule.endswith("½"))
    one, other = (f", as for heads of {own} channels", f", for heads of {usual}") if told else ("", "")
    return f"logits are scaled by {three_digits(scale)}{rule}{one}; in the reference by {three_digits(reference)}{other}"


def _rounded(x: float, bits: int) -> float:
    """To so many binary digits."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(round(mantissa * 2**bits), exponent - bits)


def _width_of(scale: float) -> int:
    """The number of channels a head whose d^-½ this is; 0 for none."""
    width = round(scale**-2) if scale > 0 else 0
    return width if 0 < width <= WIDEST and abs(scale * width**0.5 - 1) <= 1e-6 else 0


WIDEST = 4096
"""Most channels a head of which a scale is told."""


THINGS = {"v": "the values", "q": "the queries", "k": "the keys", "x": "the input", "lim": "LIM's output"}


def added_said(factors: Mapping[str, float], expected: Mapping[str, float]) -> Iterator[str]:
    """What is added to the attention's output that the reference does not add, or with another factor."""
    z = factors.get("z", 1.0)
    if z == 0 and factors.get("v", 0.0) == 1 and not expected.get("v", 0.0):
        yield "the values stand in for the attention's output: each query sees only its own token"
        factors = {**factors, "v": expected.get("v", 0.0)}
    elif z == 0:
        yield "the attention's output is not added"
    elif z != 1:
        yield f"the attention's output is multiplied by {three_digits(z)}"
    for name in ("lim", "v", "q", "k", "x"):
        factor, normal = factors.get(name, 0.0), expected.get(name, 0.0)
        if factor == normal:
            continue
        what = THINGS[name]
        verb = "is" if name in ("x", "lim") else "are"
        if factor == 0:
            yield f"{what} {verb} not added"
        elif factor == -1:
            yield f"{what} {verb} subtracted"
        elif factor == 1:
            yield f"{what} {verb} added too"
        else:
            yield f"{what} {verb} added {times(factor)}"


def clauses(
    h: Hypothesis,
    reference: Hypothesis,
    *,
    scale: float | None,
    own_scale: float,
    factors: Mapping[str, float],
    expected: Mapping[str, float],
    names: Iterator[tuple[float, str]],
) -> list[str]:
    """All that differs, one clause each. scale None: it is not told apart from the reference's rule."""
    found = [*windows_said(h.windows, reference.windows), *heads_said(h, reference)]
    if h.logits != reference.logits:
        found.append(LOGITS[h.logits])
    if h.mask != reference.mask:
        found.append(MASKS[h.mask])
    if h.normaliser != reference.normaliser:
        top = h.normaliser.startswith("top ")
        found.append(f"only the {h.normaliser[4:]} largest logits enter the softmax" if top else NORMALISERS[h.normaliser])
    if scale is not None and h.normaliser not in HOMOGENEOUS and abs(scale / own_scale - 1) > 1e-6:
        found.append(scale_said(h, scale, own_scale, names))
    return [*found, *added_said(factors, expected)]


def simplified(h: Hypothesis) -> Hypothesis:
    """The hypothesis without what makes no difference, so that two ways to write it are one."""
    if h.heads == 1:
        q, k, v, merge = ({"d heads": "heads d", "view": "heads d"}.get(way, way) for way in (*h.splits, h.merge))
        return replace(h, splits=(q, k, v), merge=merge)
    return h

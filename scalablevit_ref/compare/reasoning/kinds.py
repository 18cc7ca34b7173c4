"""The one door: every kind of difference between a candidate's first wrong value and the reference's, told from the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from scalablevit_ref.compare.reasoning.affine import affine, axiswise, dropped, preprocessing, tokenwise
from scalablevit_ref.compare.reasoning.case import Case
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.elementwise import fitted_function, named_function, some_function
from scalablevit_ref.compare.reasoning.images import of_other_images, same_for_every_image
from scalablevit_ref.compare.reasoning.linear_map import any_map, other_weight, own_map
from scalablevit_ref.compare.reasoning.mixtures import products, scaled_branches, sums, taken_channels
from scalablevit_ref.compare.reasoning.norms import norm_differences
from scalablevit_ref.compare.reasoning.places import UNNAMED, places, places_otherwise, some_places
from scalablevit_ref.compare.reasoning.precision import quantised, representable, rounded, unsystematic
from scalablevit_ref.compare.reasoning.resampled import resampled
from scalablevit_ref.compare.reasoning.subsets import borders, not_finite, parts, some_tokens
from scalablevit_ref.compare.reasoning.vectors import vector_function

NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


def kinds_of_difference(
    actual: np.ndarray,
    expected: np.ndarray,
    *,
    given: Mapping[str, np.ndarray] = NOTHING,
    num_heads: int | None = None,
    window_size: int | None = None,
    gain: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    vectors: Mapping[str, np.ndarray] = NOTHING,
    eps: float = 2.0**-52,
) -> list[Difference]:
    """What kind of difference two arrays have: first what explains all of it, the simplest first, then facts.

    Parameters
    ----------
    actual, expected : b h w c, b n c or b c
        The candidate's first wrong value and the reference's, in float64.
    given : mapping
        Other values of the block, by words that a user understands: "the input", "the normed input", "q", "k", "v" …
    num_heads, window_size : int, optional
        The reference's settings, where the step has them.
    gain, shift : c, optional
        The parameters of a norm; `given["the input"]` is what it normalises.
    weight, bias : out in …, out, optional
        The parameters of a linear layer or a convolution; `given["the input"]` is what it is applied to.
    vectors : mapping
        Other parameters of one axis, by words: "fc2's bias", that may be added or missing.
    eps : float
        Of the candidate's dtype: 2⁻⁵² for float64, 2⁻²³ for float32, 2⁻¹⁰ for float16, 2⁻⁷ for bfloat16.

    Returns
    -------
    list of Difference
        At most six. An exact one reproduces `actual` to rounding; what is fitted, is fitted on one half and judged on all.
    """
    case = _case(actual, expected, given, num_heads, window_size, gain, shift, weight, bias, vectors, eps)
    broken = not_finite(case)
    if broken or not np.all(np.isfinite(case.expected)) or case.before <= 4 * eps:
        return broken
    exact = _explanations(case) or _of_a_part(case) or _first(case, LAST)
    proved = [one for one in exact if one.exact]
    facts = [one for one in exact if not one.exact] + _facts(case, explained=bool(proved))
    return [*proved, *facts][:MOST]


def is_general(difference: Difference) -> bool:
    """Whether it has a number for each token, head, channel, place or weight, or is an order without a name: it tells no cause.

    One factor for some of them does.
    """
    if difference.kind == "places":
        return difference.data.get("pattern") == "none" or UNNAMED in difference.words
    return difference.kind in GENERAL and "one factor" not in difference.data


GENERAL = ("tokens", "heads", "channels", "images", "linear map", "same for every image")
"""Kinds of difference with so many free numbers that settings of the operation say more."""

MOST = 6
"""Differences that are told."""

Detector = Callable[[Case], list[Difference]]

STEPS: tuple[tuple[Detector, ...], ...] = (
    # nothing is fitted but a number or two
    (preprocessing, affine, places, own_map, norm_differences, named_function, sums, rounded),
    # a few numbers, or two values at once
    (
        *(products, of_other_images, vector_function, taken_channels, places_otherwise, fitted_function),
        *(scaled_branches, quantised, axiswise, dropped),
    ),
    # a number for each token or for each weight
    (tokenwise, other_weight),
    # a number for each place of a map
    (same_for_every_image,),
)
"""Detectors by how many free numbers they have: where one step explains all, the next would only say it with more of them."""

LAST: tuple[Detector, ...] = (some_places, any_map, some_function)
"""So general that a part of the value is looked at for itself before."""


def _case(
    actual: np.ndarray,
    expected: np.ndarray,
    given: Mapping[str, np.ndarray],
    num_heads: int | None,
    window_size: int | None,
    gain: np.ndarray | None,
    shift: np.ndarray | None,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    vectors: Mapping[str, np.ndarray],
    eps: float,
) -> Case:
    """Everything as maps in float64; given values that are the reference's own or that come twice say nothing and are left out."""
    if actual.shape != expected.shape or actual.ndim not in (2, 3, 4):
        raise ValueError(f"actual and expected must have one shape, b h w c, b n c or b c, got {actual.shape} and {expected.shape}")
    reference = _as_map(expected)
    kept: dict[str, np.ndarray] = {}
    for name, value in (*given.items(), *resampled(given, actual.shape if actual.ndim == 4 else (0, 0, 0, 0)).items()):
        if value.ndim != actual.ndim or not np.all(np.isfinite(value)):
            continue
        one = _as_map(value)
        if not any(_equal(one, other, eps) for other in (reference, *kept.values())):
            kept[name] = one
    parameters = {"gain": gain, "shift": shift, "weight": weight, "bias": bias}
    numbers = {name: np.asarray(t, float) for name, t in parameters.items() if t is not None}
    return replace(Case(_as_map(actual), reference, kept, num_heads, window_size, vectors=vectors, eps=eps), **numbers)  # type: ignore[arg-type]


def _as_map(x: np.ndarray) -> np.ndarray:
    """b h w c, b n c or b c -> b h w c."""
    x = np.ascontiguousarray(x, float)
    return x if x.ndim == 4 else x.reshape(x.shape[0], -1, 1, x.shape[-1])


def _equal(one: np.ndarray, other: np.ndarray, eps: float) -> bool:
    if one.shape != other.shape:
        return False
    few = slice(0, 256)
    if not np.allclose(one.ravel()[few], other.ravel()[few], rtol=64 * eps, atol=64 * eps):
        return False
    return bool(np.linalg.norm(one - other) <= 4 * eps * np.linalg.norm(other))


def _explanations(case: Case) -> list[Difference]:
    """What the first step that explains anything has to say."""
    for detectors in STEPS:
        found = _first(case, detectors)
        if any(one.exact for one in found):
            return found
    return []


def _first(case: Case, detectors: Sequence[Detector]) -> list[Difference]:
    """The findings of these detectors, exact ones first, each relation once."""
    with np.errstate(all="ignore"):
        found = [one for detector in detectors for one in detector(case)]
    exact = [one for one in found if one.exact]
    mapped = any(one.kind == "linear map" for one in exact)
    exact = [one for one in exact if not (mapped and one.kind == "mixture")]  # "it is the input itself" says less
    return exact + [one for one in found if not one.exact]


def _of_a_part(case: Case) -> list[Difference]:
    """Where all that differs lies in some images, heads, channels, rows or columns: what kind of difference that part has."""
    found = []
    for part in parts(case):
        inside = case.part(*part.places)
        for one in _explanations(inside):
            left = one.left * inside.size / case.size
            if one.exact and left <= case.bar:
                data = {**one.data, "part": part.data}
                found.append(replace(one, words=f"{part.words}: {one.words}", left=left, data=data))
        if found:
            return found[:2]
    return []


def _facts(case: Case, *, explained: bool) -> list[Difference]:
    """What is seen of the difference, whatever its cause."""
    facts = [Difference(f"some {part.data['axis']}s", part.words, case.before, part.data) for part in parts(case)]
    at_borders = borders(case)
    facts = [one for one in facts if not (at_borders and one.kind in ("some rows", "some columns"))] + at_borders
    if not facts:
        facts = some_tokens(case)
    if not explained:
        facts += representable(case) or unsystematic(case)
        facts.append(_size(case))
    return facts


def _size(case: Case) -> Difference:
    """How large the difference is, and how alike the two values are."""
    other = float(np.linalg.norm(case.expected)) or 1.0
    ratio, cosine = case.size / other, float(np.vdot(case.actual, case.expected)) / case.size / other
    words = (
        f"the difference is {case.before:.3g} of the value; cosine with the reference's {cosine:.3g}, ratio of sizes {ratio:.3g}"
    )
    return Difference("size", words, case.before, {"relative": case.before, "cosine": cosine, "ratio": ratio})

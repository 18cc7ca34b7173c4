"""What does not depend on the image: values of one image for others, and what is added at each place alike for all."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, Case, sampled
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import named, ranged, three_digits

FEWEST = 16
"""Numbers of an image by which it is told from others."""

ALIKE = 1e-3
"""Relative distance of two images of the reference's value below which they count as the same."""


def of_other_images(case: Case) -> list[Difference]:
    """Images that have what belongs to another image, of the reference's value or of a given one."""
    b = case.actual.shape[0]
    if b < 2 or case.actual[0].size < FEWEST:
        return []
    at = sampled(case.actual[0].size, 512)
    a = case.actual.reshape(b, -1)[:, at]
    for name, x in case.sources():
        few = x.reshape(b, -1)[:, at]
        apart = np.linalg.norm(a[:, None] - few[None], axis=-1)
        own = np.diagonal(apart) <= 8 * max(case.bar, 1e-13) * np.linalg.norm(a, axis=-1)
        origin = np.where(own, np.arange(b), apart.argmin(1))
        if np.array_equal(origin, np.arange(b)) or len(np.unique(origin)) == b:
            continue
        left = case.explains(x[origin])
        if left is not None:
            words, data = _taken(name, origin), {"of": name, "images": origin.tolist()}
            return [Difference("other images", words, left, data, True)]
    return []


def _taken(name: str, origin: np.ndarray) -> str:
    of = "" if name == REFERENCE else f" of {name}"
    if np.all(origin == origin[0]):
        return f"all images have the value{of} of image {origin[0]}, as if the batch were that one image"
    taken = [f"image {i} has that of image {j}" for i, j in enumerate(origin) if i != j]
    return f"images have the value{of} of other images: {', '.join(taken[:6])}{' …' * (len(taken) > 6)}"


def same_for_every_image(case: Case) -> list[Difference]:
    """A number added at each place, or a factor of each place, the same for every image: read off one, judged on the others."""
    b, h, w, _ = case.actual.shape
    a, e = case.actual, case.expected
    if b < 2 or h * w < 2 or case.tolerance > 1e-3:
        return []
    across_a, across_e = a[1:] - a[:1], e[1:] - e[:1]
    square = float(np.vdot(across_e, across_e))
    if np.sqrt(square) <= ALIKE * np.linalg.norm(e[1:]):
        return []
    half = (slice(None), slice(None), slice(None), slice(None, None, 2))
    factor = float(np.vdot(across_e[half], across_a[half]) / (np.vdot(across_e[half], across_e[half]) or 1.0))
    within = max(64 * case.tolerance, 1e-9)
    factor = 1.0 if abs(factor - 1) <= within else 0.0 if abs(factor) <= within else factor
    added = a[0] - factor * e[0]
    left = case.explains(factor * e + added)
    if left is not None:
        return [_added(case, factor, added, left)]
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(e[0] == 0, 0, a[0] / e[0])
    left = case.explains(factors * e)
    if left is None:
        return []
    words = f"each place and channel has a factor of its own ({ranged(factors)}{_alike(case, factors)}), the same for every image"
    return [Difference("same for every image", words, left, _numbers(factors), True)]


def _added(case: Case, factor: float, added: np.ndarray, left: float) -> Difference:
    data = {"factor": factor, **_numbers(added)}
    if factor == 0:
        return Difference(
            "same for every image", "it is the same for every image: it does not depend on the images", left, data, True
        )
    places = np.flatnonzero(np.linalg.norm(added, axis=-1) > 8 * case.tolerance * case.spread * np.sqrt(case.channels))
    where = f" at {len(places)} of {added[..., 0].size} places" if len(places) < added[..., 0].size else " at each place"
    size = three_digits(float(np.sqrt(np.mean(added**2))))
    times = "" if factor == 1 else f"the reference's value times {named(factor, within=1e-9, channels=case.channels)}, and "
    words = f"{times}a number is added{where} that is the same for every image, as a position embedding is"
    return Difference("same for every image", f"{words} (size {size}{_alike(case, added)})", left, data, True)


def _alike(case: Case, x: np.ndarray) -> str:
    """Along which axes of h w c it does not change, as a clause."""
    bar = max(1e3 * case.tolerance, 1e-9) * (float(np.linalg.norm(x)) + case.spread)
    names = ("rows", "columns", "channels")
    alike = [name for i, name in enumerate(names) if x.shape[i] > 1 and np.linalg.norm(x - x.mean(i, keepdims=True)) <= bar]
    return f", the same in all {' and '.join(alike)}" if alike else ""


def _numbers(x: np.ndarray) -> dict[str, Any]:
    """Of the first channel, some rows and columns, for a picture."""
    return {"first channel": [[float(f"{number:.6g}") for number in row] for row in x[:28, :28, 0]]}

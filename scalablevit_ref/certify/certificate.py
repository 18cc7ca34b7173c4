"""Proved errors: of every subject at every tap, from below and from above."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from scalablevit_ref.arguments import check_flag, check_function
from scalablevit_ref.backends.balls import BITS
from scalablevit_ref.backends.start import FAULTS, said
from scalablevit_ref.certify.before import check_balls
from scalablevit_ref.certify.bounds import Bounds, Error, Tally
from scalablevit_ref.certify.subjects import Subject
from scalablevit_ref.certify.truth import Progress, Try, check_finite, tap_names, truth
from scalablevit_ref.networks import Network, network_of
from scalablevit_ref.testing.arrays import EPS

RESOLUTION = 2.0**-11
"""Most that the truth may be uncertain by at a tap, ‖radius‖ / ‖midpoint‖ in eps of the finest dtype: errors are then known to
three decimals of an eps."""


@dataclass
class Row:
    """The proved errors of one subject, over all images.

    Attributes
    ----------
    absent, failed
        Why it could not run, and what it raised while it ran; None where it did.
    errors
        By tap, relative; those of layers that it shows.

    Examples
    --------
    >>> error = Error(l2=Bounds(2.0**-52, 2.0**-51), maximum=Bounds(0.0, 2.0**-50))
    >>> row = Row("numpy float64", "float64", errors={"logits": error})
    >>> row.worst, row.eps("logits")
    ('logits', Bounds(low=1.0, high=2.0))
    """

    name: str
    dtype: str
    absent: str | None = None
    failed: str | None = None
    errors: dict[str, Error] = field(default_factory=dict)

    def eps(self, tap: str) -> Bounds:
        """‖Δ‖ / ‖truth‖ in eps of its dtype."""
        return self.errors[tap].l2 * (1 / EPS[self.dtype])

    @property
    def worst(self) -> str:
        """The tap where the error is largest; a NaN is larger than any number."""
        return max(self.errors, key=lambda tap: np.nan_to_num(self.errors[tap].l2.high, nan=np.inf))


@dataclass(frozen=True)
class Nearer:
    """Of two subjects, which is proved to be nearer to the truth at a tap; `proved` False where their bounds overlap.

    Examples
    --------
    >>> Nearer("numpy float64", "numpy float32", proved=True).nearer
    'numpy float64'
    """

    nearer: str
    farther: str
    proved: bool


@dataclass(frozen=True)
class Certificate:
    """What is proved.

    Attributes
    ----------
    taps
        Names of all taps, in the order of the network.
    bits, tries
        Precision of the balls, and lower ones that were not enough.
    width
        Largest ‖radius‖ / ‖midpoint‖ of the truth at any tap.
    images
        How many.
    seconds
        That the balls took.
    rows
        Of each subject.

    Examples
    --------
    >>> near, far = (Error(Bounds(x, x), Bounds(x, x)) for x in (2.0**-52, 2.0**-24))
    >>> rows = (
    ...     Row("a", "float64", errors={"head": near}),
    ...     Row("b", "float32", errors={"head": far}),
    ... )
    >>> found = Certificate(("head",), 106, (), width=0.0, images=1, seconds=0.1, rows=rows)
    >>> [(pair.nearer, pair.farther, pair.proved) for pair in found.order("head")]
    [('a', 'b', True)]
    >>> found.to_json()["results"][0]["taps"]["head"]["eps"]
    [1.0, 1.0]
    """

    taps: tuple[str, ...]
    bits: int
    tries: tuple[Try, ...]
    width: float
    images: int
    seconds: float
    rows: tuple[Row, ...]

    def order(self, tap: str) -> Iterator[Nearer]:
        """The subjects that show this tap, each with the next one that is farther off."""
        ran = [row for row in self.rows if tap in row.errors and np.isfinite(row.errors[tap].l2.high)]
        ran.sort(key=lambda row: row.errors[tap].l2.high)
        for near, far in pairwise(ran):
            yield Nearer(near.name, far.name, near.errors[tap].l2.high < far.errors[tap].l2.low)

    def to_json(self) -> dict[str, Any]:
        """Plain data; errors as [low, high]."""
        return {
            "bits": self.bits,
            "tries": [{"bits": t.bits, "tap": t.tap, "width": t.width} for t in self.tries],
            "width": self.width,
            "images": self.images,
            "seconds": self.seconds,
            "results": [_row(row) for row in self.rows],
            "nearer": [{"nearer": n.nearer, "farther": n.farther, "proved": n.proved} for n in self.order(self.taps[-1])],
        }


def _row(row: Row) -> dict[str, Any]:
    document: dict[str, Any] = {"name": row.name, "dtype": row.dtype}
    if row.absent is not None:
        return document | {"absent": row.absent}
    if row.failed is not None:
        return document | {"failed": row.failed}
    taps = {}
    for tap, error in row.errors.items():
        eps, l2, largest = row.eps(tap), error.l2, error.maximum
        taps[tap] = {"eps": [eps.low, eps.high], "l2": [l2.low, l2.high], "max": [largest.low, largest.high]}
    return document | {"worst": row.worst, "taps": taps}


def steps(network: Network, subjects: Sequence[Subject], images: Sequence[int]) -> int:
    """What `progress` of `certify` counts up to, for images of this shape.

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> from scalablevit_ref.certify.subjects import library
    >>> from scalablevit_ref.testing.agreement import Candidate
    >>> subjects = [library(Candidate("numpy", "float64"))]
    >>> steps(network_of(variant("digits")), subjects, (2, 1, 112, 112))
    104
    """
    return images[0] * (len(tap_names(network, (1, *images[1:]))) + sum(subject.absent is None for subject in subjects))


def certify(
    images: np.ndarray,
    params: Mapping[str, np.ndarray],
    config: Any,
    subjects: Sequence[Subject],
    *,
    bits: int = BITS,
    progress: Progress = lambda step, done: None,
    costly: bool = False,
) -> Certificate:
    """Enclose the network's exact result, image by image, and prove how far each subject is from it.

    Parameters
    ----------
    images
        b c h w; exact, as are the parameters. What a subject loses by rounding them to its dtype counts as its error.
    params
        Under the network's names.
    config
        A `ScalableViTConfig` or a dialect's `Config`.
    subjects
        Whose errors are proved; those that cannot run, and those that fail while they run, say so in their row.
    bits
        Precision of the first try; where balls grow too wide it is doubled.
    progress
        Called with each layer that is enclosed and each subject that has run, and with how many are done, of `steps`.
    costly
        Whether it runs also where it takes more than weights and images account for.

    Raises
    ------
    PrecisionError
        Where no precision is enough, with the layer.
    CostError
        Unless `costly`; also before a try with more bits, which needs more memory.
    ValueError
        For images and parameters that are not finite.

    Examples
    --------
    >>> from scalablevit_ref import ScalableViTConfig, init_params
    >>> from scalablevit_ref.certify.subjects import library
    >>> from scalablevit_ref.testing import random_images
    >>> from scalablevit_ref.testing.agreement import Candidate
    >>> config = ScalableViTConfig((8,), (2,), (2,), (2,), (2,), (1,), (2,), head="none")
    >>> params = init_params(config, dtype="float64")
    >>> images = random_images((1, 3, 8, 16))
    >>> subjects = [library(Candidate("numpy", "float64"))]
    >>> found = certify(images, params, config, subjects, bits=212)
    >>> found.rows[0].eps("logits").high < 32
    True
    """
    check_flag("costly", costly)
    check_function("progress", progress)
    check_finite(images, params)
    network = network_of(config)

    def afford(bits: int) -> None:
        check_balls(network, (1, *images.shape[1:]), bits=bits, costly=costly)

    afford(bits)
    rows = {subject.name: Row(subject.name, subject.dtype, subject.absent) for subject in subjects}
    tallies: dict[str, dict[str, Tally]] = {name: {} for name in rows}
    finest = min((EPS[s.dtype or "float64"] for s in subjects if s.absent is None), default=EPS["float64"])
    tries: list[Try] = []
    taps: tuple[str, ...] = ()
    seconds = width = 0.0
    for image in range(len(images)):
        x = images[image : image + 1]
        start = time.perf_counter()
        done = steps(network, subjects, (image, *images.shape[1:]))

        def enclosed_so_far(tap: str, count: int, done: int = done) -> None:
            progress(tap, done + count)

        found = truth(network, x, params, bits=bits, width=finest * RESOLUTION, progress=enclosed_so_far, afford=afford)
        seconds += time.perf_counter() - start
        bits, taps = found.bits, tuple(found.taps)
        tries += found.tries
        width = max(width, *found.widths.values())
        near = {tap: enclosed.high for tap, enclosed in found.taps.items()}
        for place, subject in enumerate((subject for subject in subjects if subject.absent is None), done + len(taps)):
            progress(subject.name, place)
            row = rows[subject.name]
            if row.failed is not None:
                continue
            try:
                shown = subject.run(network, x, params, near)
                row.dtype = row.dtype or next(iter(shown.values())).dtype.name
                for tap in shown:
                    tallies[subject.name].setdefault(tap, Tally()).add(shown[tap], found.taps[tap])
            except FAULTS as error:
                row.failed = said(error)
    for name, row in rows.items():
        row.errors = {tap: tallies[name][tap].error() for tap in taps if tap in tallies[name] and row.failed is None}
    return Certificate(taps, bits, tuple(tries), width, len(images), seconds, tuple(rows.values()))

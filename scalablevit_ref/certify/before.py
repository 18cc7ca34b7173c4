"""What is asked before a run of balls: whether they are installed, and whether there is memory for them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from scalablevit_ref.networks import Network
from scalablevit_ref.run_cost import check_run, run_cost

KEPT = 5 * 8
"""Bytes for each number of each tap: the three float64 that enclose it, and what a subject gives, also in float64."""

SHORT = 128
"""Most bits that a ball holds without memory of its own."""


def check_certified(what: str) -> None:
    """Raise ModuleNotFoundError where the extra is missing."""
    if find_spec("flint") is None:
        raise ModuleNotFoundError(f"{what} needs python-flint: pip install 'scalablevit-ref[certified]'", name="flint")


def ball_bytes(bits: int) -> int:
    """Memory of one number: a Python object with midpoint and radius, the reference to it, and the midpoint's bits if many.

    Examples
    --------
    >>> ball_bytes(106), ball_bytes(640)
    (80, 160)
    """
    return 80 + (bits // 8 if bits > SHORT else 0)


def check_balls(network: Network, image: Sequence[int], *, bits: int, given: bool = True, costly: bool = False) -> None:
    """Raise CostError, as `check_run` does, for a run of balls on one image with these bits.

    Attention holds its whole matrix.
    """
    beside = 0 if costly else run_cost(network, image).kept // 8 * KEPT
    check_run(network, image, whole=True, number=ball_bytes(bits), beside=beside, given=given, costly=costly)

"""The exact real result of the network, enclosed at every tap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np

from scalablevit_ref.arguments import is_whole
from scalablevit_ref.backends import to_backend
from scalablevit_ref.backends.balls import BITS, LEAST_BITS, MOST_BITS, Balls, WideBallError
from scalablevit_ref.backends.sizes import Ledger, Sizes
from scalablevit_ref.certify.enclosures import Enclosure, enclosure
from scalablevit_ref.errors import brief
from scalablevit_ref.networks import Network

Progress = Callable[[str, int], None]
"""Called when a layer is enclosed: with its name, and with how many are by now. Where more bits are tried it begins again."""

MOST_TRIED = 4096
"""Most bits that are tried where no more are asked for at first."""

HOPE = 0.8
"""Share of the bits that a failed try lets expect from which on another try is made."""


class PrecisionError(ValueError):
    """Balls that are too wide at the largest precision that may be tried."""


@dataclass(frozen=True)
class Try:
    """A precision at which balls grew too wide: the tap, and ‖radius‖ / ‖midpoint‖ there, infinite where one contained zero."""

    bits: int
    tap: str
    width: float


@dataclass(frozen=True)
class Truth:
    """What encloses each tap for one image.

    Attributes
    ----------
    taps
        By the taps' names, in the order of the network.
    widths
        ‖radius‖ / ‖midpoint‖ of each.
    bits
        Precision at which it was computed.
    tries
        Lower precisions that were not enough.
    """

    taps: Mapping[str, Enclosure]
    widths: Mapping[str, float]
    bits: int
    tries: tuple[Try, ...] = ()


class _TooWideError(Exception):
    def __init__(self, tap: str, width: float) -> None:
        self.tap, self.width = tap, width


def truth(
    network: Network,
    images: np.ndarray,
    params: Mapping[str, np.ndarray],
    *,
    bits: int = BITS,
    width: float,
    most_bits: int = MOST_TRIED,
    progress: Progress = lambda tap, done: None,
    afford: Callable[[int], None] = lambda bits: None,
) -> Truth:
    """Run the network on balls, with twice the bits as long as a tap's ‖radius‖ / ‖midpoint‖ is more than `width`.

    A try ends at the first tap that is too wide. Precisions from which it lets expect the same are left out.

    Parameters
    ----------
    network
        What is run.
    images, params
        Of floating point, b c h w and under the network's names; they are taken for exact.
    bits
        Precision of the first try.
    width
        Most that is allowed.
    most_bits
        Most bits that are tried after the first.
    progress
        Called when a tap is enclosed.
    afford
        Called with the bits of each try after the first, before it; raises where they are too many for the machine.

    Raises
    ------
    PrecisionError
        Where the most bits are not enough, naming the layer.
    """
    check_bits("bits", bits)
    order = tap_names(network, images.shape)
    tries: list[Try] = []
    while True:
        taps: dict[str, Enclosure] = {}
        widths: dict[str, float] = {}

        def tap(name: str, x: Balls, taps: dict[str, Enclosure] = taps, widths: dict[str, float] = widths) -> Balls:
            taps[name] = enclosure(x)
            widths[name] = width_of(taps[name])
            if not widths[name] <= width:
                raise _TooWideError(name, widths[name])
            progress(name, len(taps))
            return x

        try:
            network.forward(to_backend(images, "flint", device=bits), to_backend(params, "flint", device=bits), tap)
        except _TooWideError as found:
            last = Try(bits, found.tap, found.width)
        except WideBallError:
            last = Try(bits, next((name for name in order if name not in taps), order[-1]), float("inf"))
        else:
            return Truth(taps, widths, bits, tuple(tries))
        tries.append(last)
        if 2 * bits > most_bits:
            raise PrecisionError(f"{said(last)}: no bound is proved")
        lost = bits + min(0.0, log2(last.width))
        expected = lost * len(order) / max(1, len(taps)) - log2(width)
        bits *= 2
        while bits < HOPE * expected and 2 * bits <= most_bits:
            bits *= 2
        afford(bits)


def tap_names(network: Network, images: Sequence[int]) -> list[str]:
    """Every tap in the order in which the network computes it, for images of this shape."""
    ledger, found = Ledger(), []

    def note(name: str, x: Any) -> Any:
        found.append(name)
        return x

    params = {name: Sizes(shape, ledger) for name, shape in network.parameter_shapes().items()}
    network.forward(Sizes(images, ledger), params, note)
    return found


def check_finite(images: np.ndarray, params: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for numbers of which nothing is proved."""
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinity, of which nothing is proved")
    if wrong := [name for name, x in params.items() if not np.isfinite(x).all()]:
        raise ValueError(f"parameter {wrong[0]!r} holds NaN or infinity, of which nothing is proved")


def check_bits(name: str, bits: Any) -> None:
    """Raise ValueError for what is no precision of balls."""
    if not is_whole(bits) or not LEAST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{name} must be {LEAST_BITS} to {MOST_BITS}, got {brief(bits)}")


def said(tried: Try) -> str:
    """A try in words."""
    if tried.width == float("inf"):
        return f"with {tried.bits} bits, balls contain zero where they are divided by in {tried.tap}"
    return f"with {tried.bits} bits, balls at {tried.tap} are too wide: {tried.width:.1e} of the numbers"


def width_of(x: Enclosure) -> float:
    """‖radius‖ / ‖midpoint‖, to a few digits: what is measured by it is no bound."""
    with np.errstate(over="ignore", invalid="ignore"):
        size, radius = (float(np.linalg.norm(part)) for part in (x.high, x.radius))
        return radius / size if size else (0.0 if radius < 1e-300 else float("inf"))

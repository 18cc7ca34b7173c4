"""What `certify`, `verify --certify` and `compare --certify` have in common: the bar, and the certificate in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from scalablevit_ref.cli.progress import steps_bar
from scalablevit_ref.cli.terminal import styled
from scalablevit_ref.networks import network_of

if TYPE_CHECKING:
    from scalablevit_ref.certify.bounds import Bounds
    from scalablevit_ref.certify.certificate import Certificate
    from scalablevit_ref.certify.subjects import Subject


def proved(
    images: np.ndarray, params: Mapping[str, np.ndarray], config: Any, subjects: Sequence[Subject], *, bits: int
) -> Certificate:
    """`certify` with a bar. Raises ValueError where no precision is enough, and for numbers that are not finite."""
    from scalablevit_ref.certify.certificate import certify, steps

    with steps_bar(steps(network_of(config), subjects, images.shape)) as step:
        return certify(images, params, config, subjects, bits=bits, progress=step, costly=True)


def decimals(bounds: Bounds) -> str:
    """Both bounds, rounded outward to three decimals, those above 100 to five digits.

    Examples
    --------
    >>> from scalablevit_ref.certify.bounds import Bounds
    >>> (
    ...     decimals(Bounds(3.41234, 3.41235)),
    ...     decimals(Bounds(0.0, 0.0)),
    ...     decimals(Bounds(4300.01, 4300.02)),
    ... )
    ('3.412 – 3.413', '0', '4300.0 – 4300.1')
    """
    if not np.isfinite(bounds.high):
        return "NaN" if np.isnan(bounds.high) else f"over {bounds.low:.1f}"
    if bounds.high == 0:
        return "0"
    power = -3 if bounds.high < 100 else Decimal(bounds.high).adjusted() - 4
    ends = zip((bounds.low, bounds.high), (ROUND_FLOOR, ROUND_CEILING), strict=True)
    low, high = (Decimal(end).quantize(Decimal(1).scaleb(power), rounding) for end, rounding in ends)
    return f"{low:f} – {high:f}" if power <= 0 else " – ".join(f"{end:.4e}" if end else "0" for end in (low, high))


def print_certificate(console: Console, found: Certificate, what: str, *, every: bool = False) -> None:
    """The table, precisions that were not enough, and the order in which the subjects are nearest to the truth."""
    from scalablevit_ref.certify.truth import said

    last = found.taps[-1]
    title = f"{what}, {found.images} image{'s' * (found.images > 1)}: proved errors in eps"
    table = Table(title=styled(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("backend", no_wrap=True)
    table.add_column(last, justify="right", no_wrap=True)
    table.add_column("worst", justify="right", no_wrap=True)
    table.add_column("at", no_wrap=True)
    for row in found.rows:
        if row.absent is not None or row.failed is not None:
            table.add_row(row.name, "absent" if row.absent else "FAILED", "", "", style="dim" if row.absent else "red")
        elif row.errors:
            cells = [decimals(row.eps(last)) if last in row.errors else "", decimals(row.eps(row.worst)), row.worst]
            table.add_row(row.name, *cells)
        else:
            table.add_row(row.name, "no layers", "", "")
    console.print(table)
    for row in found.rows if every else ():
        layers = Table(title=styled(row.name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        layers.add_column("layer", no_wrap=True)
        for heading in ("eps", "relative", "largest"):
            layers.add_column(heading, justify="right", no_wrap=True)
        for tap, error in row.errors.items():
            layers.add_row(tap, decimals(row.eps(tap)), f"{error.l2.high:.3g}", f"{error.maximum.high:.3g}")
        console.print(layers)
    for row in found.rows:
        if why := row.absent or row.failed:
            console.print(styled(f"{row.name}: {why}"), soft_wrap=True)
    bits = [*(tried.bits for tried in found.tries), found.bits]
    for tried, more in zip(found.tries, bits[1:], strict=True):
        console.print(styled(f"{said(tried)}: run again with {more}."), soft_wrap=True)
    for pair in found.order(last):
        verdict = "is nearer to the truth than" if pair.proved else "cannot be told from"
        console.print(styled(f"At {last}, {pair.nearer} {verdict} {pair.farther}."), soft_wrap=True)
    _print_effort(console, found)


def print_proved(console: Console, found: Certificate, first: str | None) -> None:
    """Of the only subject, the largest error, and that of the `first` layer that differs."""
    (row,) = found.rows
    unit = f"{decimals(row.eps(row.worst))} eps of {row.dtype}"
    console.print(styled(f"Farthest from the exact result at {row.worst}: {unit}."), soft_wrap=True)
    if first in row.errors:
        unit = f"{decimals(row.eps(first))} eps of {row.dtype}"
        console.print(styled(f"At {first}, the first that differs: {unit} from the exact result."), soft_wrap=True)
    _print_effort(console, found)


def _print_effort(console: Console, found: Certificate) -> None:
    console.print(
        styled(
            ("Proved", "green bold"), f" with {found.bits} bits: the exact result is known to {found.width:.1e} at every one of "
        )
        + styled(f"{len(found.taps)} layers, in {found.seconds:.0f} s.")
    )

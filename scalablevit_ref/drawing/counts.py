"""How the pictures say sizes and counts: by stage, and rounded."""

from __future__ import annotations

from collections.abc import Iterable

from scalablevit_ref.cost import Cost, LayerCost, stage_of


def by_stage(layers: Iterable[LayerCost]) -> dict[str, Cost]:
    """The layers of each stage under its number, and those after the last stage under "head"."""
    groups: dict[str, list[LayerCost]] = {}
    for layer in layers:
        groups.setdefault(stage_of(layer.name), []).append(layer)
    return {stage: Cost(tuple(some)) for stage, some in groups.items()}


def figures(*sizes: int) -> str:
    """`56 × 56 × 64`."""
    return " × ".join(map(str, sizes))


def amount(count: int) -> str:
    """Three digits and a unit: `17.7 M`; as it is below a thousand.

    >>> amount(17_663_360), amount(650)
    ('17.7 M', '650')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.{2 - (count >= 10 * size) - (count >= 100 * size)}f} {unit}"
    return str(count)


def multiply_adds_said(total: Cost) -> str:
    """As `scalablevit-ref summary` rounds a network's: `4.265 G`, and below that `17.94 M`."""
    count = total.multiply_adds
    return f"{count / 1e9:.3f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"

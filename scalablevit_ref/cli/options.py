"""Options that several commands have in common, how a port's settings are written, and how long lists of names are said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from scalablevit_ref.cli.terminal import say
from scalablevit_ref.config import VARIANTS

FEW = 4
"""Names that are told one by one; of more with a common first or last part, that part is told with their number."""

MOST_TOLD = 12
"""Most names, or groups of names, that a line tells."""

VariantOption: TypeAlias = Annotated[
    str | None, typer.Option(help=f"What the weights are of: {', '.join(VARIANTS)}.", show_default=False)
]
HeadsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N…]",
        help="Heads of a port's weights, one number or one a stage (2,4,8,16), which no shape shows.",
        show_default=False,
    ),
]
WindowsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="P[,P…]",
        help="Windows of a port's IWSA, likewise (64,32,16,none); none, the default, is the whole map.",
        show_default=False,
    ),
]
EmaOption: TypeAlias = Annotated[bool, typer.Option(help="Prefer an EMA's weights where the file holds both.")]
KeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Where in the file the weights lie, if it holds several networks: inspect lists them.",
        show_default=False,
    ),
]
ForceOption: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Overwrite files that exist, but not what a symbolic link points to.")
]
CostlyOption: TypeAlias = Annotated[
    bool, typer.Option("--costly", help="Run it also where it takes more work or memory than such weights and images account for.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]


def separate(words: Sequence[str] | None) -> list[str]:
    """The words of an option that is given once, with commas between them, or several times.

    Examples
    --------
    >>> separate(["numpy, torch", "jax"]), separate(None)
    (['numpy', 'torch', 'jax'], [])
    """
    return [word.strip() for text in words or () for word in text.split(",") if word.strip()]


def per_stage(option: str, text: str | None) -> Any:
    """One number, or one a stage between commas, as a port takes them; a window may be `none`. Raises ValueError."""
    if text is None:
        return None
    try:
        found = [None if option == "--window-size" and word.strip() == "none" else int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be a number, or one a stage between commas, got {text!r}") from None
    return found if len(found) > 1 else found[0]


def parse_size(text: str) -> tuple[int, int]:
    """`224` or `224x448`, height before width. Raises ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if not match:
        raise ValueError(f"--image-size must be a number of pixels or HEIGHTxWIDTH, such as 224 or 224x448, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def parse_side(text: str | None, what: str) -> int | None:
    """Pixels a side of a square. `what` takes no others: ValueError says so."""
    if text is None:
        return None
    height, width = parse_size(text)
    if height != width:
        raise ValueError(f"--image-size: {what} takes squares, got {text!r}")
    if not height:
        raise ValueError(f"--image-size must be at least 1, got {text!r}")
    return height


def say_written(files: Mapping[Path | None, str]) -> None:
    """One line for each file that is written, with what it is. None is left out."""
    for path, what in files.items():
        if path is not None:
            say(f"{path}: {what}")


def ema_said(metadata: dict[str, Any]) -> str:
    """Behind the words that weights are an EMA's: how it was told, and what becomes of the others."""
    position = " without names, taken by position" if metadata.get("by_position") else ""
    if metadata["others"]:
        return f"{position}; --no-use-ema takes the others"
    if metadata["ema_from"] in (metadata["wrapper"], "".join(metadata["prefixes"])[:-1]):
        return f" ({metadata['ema_from']}); the file holds no others"
    return f", {metadata['ema_from']} of the file that they were converted from"


def summarised(names: Sequence[str], own: Collection[str] = ()) -> str:
    """Names in one line: those of many that begin alike, or end alike, as one with their number.

    Parameters
    ----------
    names
        With dots between their parts.
    own
        First parts that say nothing, since the network's own weights have them too.

    Examples
    --------
    >>> summarised([f"optimizer.{i}.exp_avg" for i in range(9)] + ["criterion.weight"])
    'optimizer.* (9), criterion.weight'
    >>> summarised(
    ...     [
    ...         f"stages.0.{i}.{what}"
    ...         for i in range(9)
    ...         for what in ("total_ops", "total_params")
    ...     ],
    ...     own=["stages"],
    ... )
    '*.total_ops (9), *.total_params (9)'
    """
    parts = {name: name.split(".") for name in names}
    firsts = Counter(first for first, *rest in parts.values() if rest and first not in own)
    lasts = Counter(rest[-1] for _, *rest in parts.values() if rest)
    told: Counter[str] = Counter()
    for name, (first, *rest) in parts.items():
        if rest and firsts[first] >= FEW:
            told[f"{first}.*"] += 1
        elif rest and lasts[rest[-1]] >= FEW:
            told[f"*.{rest[-1]}"] += 1
        else:
            told[name] += 1
    words = [name if count == 1 else f"{name} ({count})" for name, count in told.items()]
    more = len(words) - MOST_TOLD
    return ", ".join([*words[:MOST_TOLD], f"… and {more} more"] if more > 1 else words)

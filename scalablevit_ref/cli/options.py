"""Options that several commands have in common, and how a port's settings are written."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from scalablevit_ref.config import VARIANTS

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
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]


def per_stage(option: str, text: str | None) -> Any:
    """One number, or one a stage between commas, as a port takes them; a window may be `none`. Raises ValueError."""
    if text is None:
        return None
    try:
        found = [None if option == "--window-size" and word.strip() == "none" else int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be a number, or one a stage between commas, got {text!r}") from None
    return found if len(found) > 1 else found[0]


def ema_said(metadata: dict[str, Any]) -> str:
    """Behind the words that weights are an EMA's: what becomes of the others."""
    if metadata["others"]:
        return "; --no-use-ema takes the others"
    return f", {metadata['ema_from']} of the file that they were converted from"

"""What `--help` shows: groups of commands, an example of each, and values in words of ours in place of Python's types."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from scalablevit_ref import __version__
from scalablevit_ref.cli.terminal import say

CHECK, WEIGHTS, PICTURES = "Check", "Weights", "Pictures"
"""The groups of commands."""

HELP = {"help_option_names": ["-h", "--help"]}


def value_of(option: Any) -> str:
    """What stands behind an option in its help: nothing behind a switch, else FILE, N or NAME where it has no word of its own.

    Older versions of typer have words of their own, TEXT and PATH, and no annotation to look at.
    """
    if option.metavar is not None or not hasattr(option, "type_descriptor"):
        return str(option.metavar or "")
    if option.is_flag:
        return ""
    annotation = option.type_descriptor.annotation
    kinds = {annotation, *get_args(annotation)}
    return "N" if kinds & {int, float} else "FILE" if Path in kinds else "NAME"


class _Plain:
    """Of a command or a group: all options with `value_of`."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for option in found:
            if option.param_type_name == "argument":
                option.display_type_rich = lambda ctx: None  # its name says enough
            elif option.metavar is None and hasattr(option, "type_descriptor"):
                option.metavar = value_of(option)
        return found


class Command(_Plain, TyperCommand):
    """One command."""


class Group(_Plain, TyperGroup):
    """The program, and its commands in their groups."""


def version(asked: bool) -> None:
    """Print the version and end, where it is asked for."""
    if asked:
        say(f"scalablevit-ref {__version__}")
        raise typer.Exit

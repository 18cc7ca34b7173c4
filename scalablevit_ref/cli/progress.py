"""A progress bar for large files, on a terminal only and gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

LARGE = 20_000_000
"""Bytes from which on a bar is drawn: less is done before it could be read."""


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is called with the bytes that are done and those that there are."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=total >= LARGE)


@contextmanager
def spinner(description: str = "", *, total: int | None = None, logged: bool = False) -> Iterator[Callable[[str], None]]:
    """Gives a function that is called with each step, in words, when it begins.

    Parameters
    ----------
    description
        What is shown before the first step.
    total
        How many steps there are, where that is known: a bar shows how many have begun.
    logged
        Where there is no terminal, print each step on a line of its own.
    """
    console = Console(stderr=True)
    turning = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    filling = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns: tuple[ProgressColumn, ...] = turning if total is None else filling
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)

        def step(description: str) -> None:
            bar.update(task, description=description, advance=1)
            if logged and not console.is_terminal:
                console.print(description, highlight=False)

        yield step

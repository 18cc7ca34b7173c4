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
"""Bytes from which a bar is worth its flicker."""


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Gives a function that is told the bytes to come and gives one that is told those that are done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def start(total: int) -> Callable[[int], None]:
            task = bar.add_task(description, total=total, visible=total >= LARGE)
            return lambda size: bar.update(task, advance=size)

        yield start


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

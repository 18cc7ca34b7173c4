"""A progress bar for large files, on a terminal only and gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

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
def spinner(description: str = "", *, logged: bool = False) -> Iterator[Callable[[str], None]]:
    """Gives a function that is told what is being done. logged: where there is no terminal, print that in lines."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)

        def step(description: str) -> None:
            bar.update(task, description=description)
            if logged and not console.is_terminal:
                console.print(description, highlight=False)

        yield step

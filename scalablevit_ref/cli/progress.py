"""A progress bar for large files, on a terminal only and gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

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

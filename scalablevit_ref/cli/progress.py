"""A progress bar for large files, on a terminal only and gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

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

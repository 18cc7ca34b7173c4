"""A progress bar for large files, on a terminal only and gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from scalablevit_ref.cli.terminal import Terminal, styled

LARGE = 20_000_000
"""Bytes from which on a bar is drawn: less is done before it could be read."""


class _Description(ProgressColumn):
    """What is being done, in which a layer of somebody's file may be named.

    `width` is how many columns it fills at least.
    """

    def __init__(self, width: int = 0) -> None:
        super().__init__()
        self._width = width

    def render(self, task: Task) -> Text:
        return styled(task.description.ljust(self._width))


def _times() -> tuple[ProgressColumn, ...]:
    """How long it has taken, and how long it will take still."""
    return TimeElapsedColumn(), _Left(compact=True)


class _Left(TimeRemainingColumn):
    """How long it will take still, with the word."""

    def render(self, task: Task) -> Text:
        return styled(f"left {super().render(task)}")


@contextmanager
def _bar(console: Terminal, *columns: ProgressColumn) -> Iterator[Progress]:
    """Where no line can be drawn over it is never started: rich below 14.3 writes an empty line where a disabled one stops."""
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_interactive)
    with bar if console.is_interactive else nullcontext():
        yield bar


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is called with the bytes that are done and those that there are."""
    console = Terminal(stderr=True)
    with _bar(console, _Description(), BarColumn(), DownloadColumn(), TransferSpeedColumn(), *_times()) as bar:
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
    console = Terminal(stderr=True)
    look = "dots" if console.encoding.startswith("utf") else "line"
    turning = (SpinnerColumn(look), _Description(), TimeElapsedColumn())
    filling = (_Description(24), BarColumn(), MofNCompleteColumn(), *_times())
    columns: tuple[ProgressColumn, ...] = turning if total is None else filling
    with _bar(console, *columns) as bar:
        task = bar.add_task(description, total=total)

        def step(description: str) -> None:
            bar.update(task, description=description, advance=1)
            if logged and not console.is_interactive:
                console.print(styled(description), soft_wrap=True)

        yield step


@contextmanager
def steps_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """Gives a function that is called with a step, in words, and with how many of so many are done; shows the time left."""
    console = Terminal(stderr=True)
    columns = (_Description(24), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with _bar(console, *columns) as bar:
        task = bar.add_task("", total=total)
        yield lambda description, done: bar.update(task, description=description, completed=done)


@contextmanager
def rate_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is called with how many are done and how many there are; shows the rate and the time left."""
    console = Terminal(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(unit), *_times())
    with _bar(console, *columns) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Rate(ProgressColumn):
    """How many a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return styled(f"{task.speed:.1f} {self._unit}/s" if task.speed else "")

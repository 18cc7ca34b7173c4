"""How `bench` sees that a machine does other work: from what the system counts, which these tests write down themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scalablevit_ref.benchmark import load
from scalablevit_ref.benchmark.load import LIMIT, QUIET, Ticks, disturbances, load_now, others, ticks, unserved, wait_until_quiet
from tests.support.clock import Clock


class System:
    """What `/proc` says: of two cores, of which this process may use the second, and of processes by their numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cores([100, 50, 25, 1000, 5, 1, 2, 3], [200, 0, 0, 500, 5, 0, 0, 7])
        self.process(os.getpid(), 1, 10, 5, 2, 1)

    def cores(self, first: list[int], second: list[int]) -> None:
        lines = (f"cpu{core} {' '.join(map(str, counted))} 0 0" for core, counted in enumerate((first, second)))
        (self.folder / "stat").write_text("cpu 9 9 9 9 9 9 9 9 0 0\n" + "\n".join(lines) + "\nintr 1 2\n", encoding="ascii")

    def process(self, number: int, parent: int, *spent: int) -> None:
        own = self.folder / str(number)
        own.mkdir(exist_ok=True)
        fields = ["S", str(parent), *["0"] * 9, *map(str, spent), *["0"] * 30]
        (own / "stat").write_text(f"{number} (a name) with) brackets) {' '.join(fields)}", encoding="utf-8")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setattr(load, "PROC", tmp_path)
    monkeypatch.setattr(load, "cores", lambda: [1])
    monkeypatch.setattr(load, "TICK", 10)
    return System(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(100.0)
    monkeypatch.setattr(load, "time", made)
    return made


@pytest.mark.usefixtures("clock")
def test_ticks_are_of_the_cores_at_hand_and_of_all_that_this_process_started(system: System) -> None:
    """Waiting is no work; what the host's other machines took is. A child's child counts, another process does not."""
    assert ticks() == Ticks(100.0, 20.7, 1.8)
    system.process(7, os.getpid(), 10, 0, 0, 0)
    system.process(8, 7, 0, 20, 0, 0)
    system.process(9, 1, 500, 500, 0, 0)
    assert ticks() == Ticks(100.0, 20.7, 4.8)


def test_the_share_of_others(system: System, clock: Clock) -> None:
    """Of ten seconds of a core that was busy for nine this process had six."""
    before = ticks()
    system.cores([900] * 8, [290, 0, 0, 510, 5, 0, 0, 7])
    system.process(os.getpid(), 1, 60, 15, 2, 1)
    clock.now += 10
    assert others(before, ticks()) == pytest.approx(0.3)
    system.process(os.getpid(), 1, 600, 15, 2, 1)  # more than the cores had: a process that runs elsewhere too
    assert others(before, ticks()) == 0
    assert load_now(5.0) == 0
    assert others(None, ticks()) is None
    assert others(before, None) is None


def test_a_system_that_does_not_count_is_not_known(system: System) -> None:
    (system.folder / "stat").write_text("nothing", encoding="ascii")
    assert ticks() is None
    (system.folder / "stat").unlink()
    assert ticks() is None
    assert disturbances(None, None, None) == []


def test_the_real_one_counts_this_process() -> None:
    before = ticks()
    if before is None:
        pytest.skip("no /proc/stat")
    while (now := ticks()) is not None and now.own - before.own < 0.05:
        sum(range(100_000))
    assert now is not None
    assert now.busy > before.busy
    assert now.moment > before.moment


def waited(loads: list[float | None], longest: float, clock: Clock) -> tuple[tuple[float, bool], list[str]]:
    """What `wait_until_quiet` gives and tells where each look takes a second."""
    left: Iterator[float | None] = iter(loads)
    told: list[str] = []

    def look() -> float | None:
        clock.sleep(1)
        return next(left)

    return wait_until_quiet(longest, told.append, look), told


def test_it_waits_until_it_was_quiet_for_a_while(clock: Clock) -> None:
    found, told = waited([0.9, 0.5, 0.0, 0.0, LIMIT + 0.01, *[0.0] * int(QUIET)], 100, clock)
    assert found == (5 + QUIET, True)
    assert told[0] == "waiting: other processes take 90% of the cores' time; 99 s left to wait"
    assert len(told) == 2  # one line every five seconds


def test_it_gives_up(clock: Clock) -> None:
    assert waited([0.9] * 8, 8, clock)[0] == (8, False)
    assert waited([None], 8, clock)[0] == (1, False)
    assert waited([0.0] * 2, 2, clock)[0] == (2, True)  # quiet as long as anybody would wait


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((0.0, LIMIT, LIMIT), []),
        ((0.25, 0.0, None), ["other processes took 25% of the cores' time before the run"]),
        ((0.0, 0.11, None), ["other processes took 11% of the cores' time during the run"]),
        ((0.0, 0.0, 0.4), ["the one thread did not run for 40% of the time"]),
    ],
)
def test_what_disturbs(figures: tuple[Any, Any, Any], said: list[str]) -> None:
    assert disturbances(*figures) == said


def test_a_thread_that_did_not_run() -> None:
    assert unserved([1.0, 3.0], [0.9, 2.1]) == pytest.approx(0.25)
    assert unserved([1.0], [1.9]) == 0  # of several threads
    assert unserved([], []) == 0

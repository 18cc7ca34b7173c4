"""`python -m tests.support.write_trials TRIAL FOLDER`: faults in the middle of writing, in a process that may fork and be limited.

Prints what each trial found as one line of JSON. `tests/files/test_faults.py` runs it.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from scalablevit_ref.errors import AlreadyExistsError
from scalablevit_ref.files.writing import write_atomically, write_contents, written
from tests.support.write_faults import SYSTEMS, forked, full_disk, killed, leftovers, listing

LINES = 20_000
"""Lines of a file of the trials, all alike, so that one that is torn or mixed shows."""

LONGEST = 0.03
"""Latest moment at which a process is killed, in seconds."""


def content(number: int) -> bytes:
    return b"%d\n" % number * LINES


def is_whole(path: Path, system: str) -> bool:
    """Whether a file holds one content; a new one may be empty where a name is claimed by an empty file."""
    lines = path.read_bytes().splitlines()
    claimed = system == "no hard links" and path.name.startswith("new ") and not lines
    return claimed or (len(lines) == LINES and len(set(lines)) == 1)


def write_for_ever(folder: Path, start: int) -> None:
    """Over files that are there, to new names, several together, and with work while they are there."""
    for number in itertools.count(start * 1_000_000):
        write_contents({folder / "one": content(number)}, force=True)
        write_contents({folder / "two": content(number), folder / "three": content(number)}, force=True)
        write_contents({folder / f"new {number}": content(number)}, force=False)
        with suppress(ValueError), written({folder / "one": lambda file, n=number: file.write(content(n))}, force=True):  # type: ignore[misc]
            raise ValueError


def kills(folder: Path, number: int, times: int) -> dict[str, Any]:
    """A signal at drawn moments: files that are torn, how the processes ended, temporary files before and after the next run."""
    found: dict[str, Any] = {}
    draw = random.Random(0)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # as the command line does
    for name, system in SYSTEMS.items():
        torn: list[str] = []
        left, after, ends = 0, 0, Counter[int]()
        with system():
            place = folder / name
            place.mkdir()
            for i in range(times):
                ends[killed(partial(write_for_ever, place, i), draw.uniform(0, LONGEST), number)] += 1
                left += len(leftovers(place))
                write_contents({place / "last": b""}, force=True)
                after += len(leftovers(place))
                torn += [path.name for path in place.iterdir() if path.name != "last" and not is_whole(path, name)]
                for path in place.glob("new *"):
                    path.unlink()
        found[name] = {"torn": torn, "left": left, "after": after, "ends": sorted(ends.items())}
    return found


def races(folder: Path, times: int) -> dict[str, Any]:
    """Two processes that write to one name and are both in the middle of it: how often each pair of exit codes came."""
    found: dict[str, Any] = {}
    for name, system in SYSTEMS.items():
        pairs = Counter[str]()
        with system():
            for i in range(times):
                pairs[race(folder / f"{name} {i}")] += 1
        found[name] = dict(pairs) | {"left": len(leftovers(folder))}
    return found


def race(path: Path) -> str:
    ready, tell_ready = os.pipe()
    go, tell_go = os.pipe()

    def writer(number: int) -> Callable[[], None]:
        def write(file: BinaryIO) -> None:
            file.write(content(number))
            os.write(tell_ready, b"!")
            os.read(go, 1)

        def work() -> None:
            try:
                write_atomically({path: write}, force=False)
            except AlreadyExistsError:
                raise SystemExit(2) from None

        return work

    processes = [forked(writer(number)) for number in range(2)]
    for _ in processes:
        os.read(ready, 1)
    os.write(tell_go, b"!!")
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    for descriptor in (ready, tell_ready, go, tell_go):
        os.close(descriptor)
    whole = 0 in codes and path.read_bytes() == content(codes.index(0))
    return f"{sorted(codes)}, {'whole' if whole else 'torn'}"


EVERY_BYTE = 2500
"""Largest file that is written with the disk full at each of its bytes, in bytes; of larger ones some are drawn."""

DRAWN = 12
"""Bytes that are drawn of a larger file, beside the first and the last ones."""


def full(folder: Path, kind: str) -> dict[str, Any]:
    """A disk that is full at a byte: what was left, or changed, or said wrongly; and how many bytes were tried."""
    from tests.support.writers import WRITERS

    (place := folder / kind).mkdir()
    write = WRITERS[kind](place)
    before = listing(place)
    write(False)
    whole = listing(place)
    outputs = {name: held for name, held in whole.items() if name not in before}
    size = max(map(len, outputs.values()))
    draw = random.Random(0)
    tried = range(size + 1) if size <= EVERY_BYTE else [0, 1, size - 1, size, *draw.sample(range(size), DRAWN)]
    wrong = []
    for limit in tried:
        systems = ["unnamed files", "named files"]
        force = bool(limit // 2 % 2)
        for name in outputs:
            (place / name).unlink(missing_ok=True)
            if force:
                (place / name).write_bytes(b"{}")  # to which a config.json adds
        start = listing(place)
        said = ""
        with SYSTEMS[systems[limit % 2]]():
            try:
                with full_disk(limit):
                    write(force)
            except OSError as error:
                said = str(error)
        expected = whole if limit >= size else start
        if listing(place) != expected:
            wrong.append(f"at byte {limit} of {size}: {[n for n, held in listing(place).items() if held != expected.get(n)]}")
        if limit < size and not any(name in said for name in outputs):
            wrong.append(f"at byte {limit} of {size}: the error says {said!r}")
    return {"outputs": sorted(outputs), "tried": len(tried), "wrong": wrong[:5]}


TRIALS: dict[str, Callable[[Path], Any]] = {
    "kills": lambda folder: kills(folder, signal.SIGKILL, 40),
    "terminations": lambda folder: kills(folder, signal.SIGTERM, 25),
    "races": lambda folder: races(folder, 8),
}


def main(trial: str, folder: Path) -> None:
    sys.stdout.write(json.dumps(TRIALS[trial](folder) if trial in TRIALS else full(folder, trial)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

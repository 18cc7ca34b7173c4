"""Files that change while they are read: one line, or a right result."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.save import WRITERS as SUFFIXES
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.testing import random_params
from tests.endurance.commands import TINY, forked
from tests.endurance.outcome import Outcome, share
from tests.endurance.writing import IN_MEMORY

CHANGES = 400
"""Files that change, of all formats and all kinds of change together."""


class Counter:
    """Counts the calls of functions in this thread, and does something at one of them."""

    def __init__(self, at: int = -1, then: Callable[[], object] = lambda: None) -> None:
        self.at, self.then, self.calls = at, then, 0

    def __enter__(self) -> Counter:
        sys.setprofile(self._sees)
        return self

    def __exit__(self, *args: object) -> None:
        sys.setprofile(None)

    def _sees(self, frame: Any, event: str, arg: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.then()


def grows(path: Path, other: Path) -> None:
    with path.open("ab") as file:
        file.write(other.read_bytes())


def shrinks(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def is_emptied(path: Path, other: Path) -> None:
    os.truncate(path, 0)


def is_replaced(path: Path, other: Path) -> None:
    """By a whole file, as the writers of this package do it."""
    shutil.copy(other, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def is_deleted(path: Path, other: Path) -> None:
    path.unlink()


KINDS: tuple[Callable[[Path, Path], None], ...] = (grows, shrinks, is_emptied, is_replaced, is_deleted)


def saved(path: Path, seed: int) -> dict[str, np.ndarray]:
    """A checkpoint of drawn weights, in a layout that its format takes."""
    layout = {".msgpack": "channels_last", ".h5": "keras", ".pdparams": "paddle"}.get(path.suffix, "official")
    params = random_params(sv.parameter_shapes(TINY), seed, "float32")
    sv.save_checkpoint(path, params, TINY, layout=layout, force=True)
    return params


def right(found: dict[str, np.ndarray], params: dict[str, np.ndarray]) -> bool:
    return found.keys() == params.keys() and all(np.array_equal(found[name], x) for name, x in params.items())


Params = dict[str, np.ndarray]


def reads(path: Path, old: Params, new: Params, counter: Counter) -> int:
    """0: the weights of one of the two files. 1: refused with one line. Anything else ends in a traceback."""
    try:
        with counter:
            found = sv.load_checkpoint(path, config=TINY).params
    except (CheckpointError, OSError) as error:
        if len(str(error).splitlines()) != 1:
            raise RuntimeError("not one line") from error
        return 1
    if not (right(found, old) or right(found, new)):
        raise RuntimeError("wrong weights")
    return 0


def converts(path: Path, old: Params, new: Params, counter: Counter) -> int:
    """As `reads`, of `convert_file`, which reads tensor by tensor while it writes."""
    target = path.with_name("target.npz")
    target.unlink(missing_ok=True)
    try:
        with counter:
            convert_file(path, target)
    except (CheckpointError, OSError) as error:
        if len(str(error).splitlines()) != 1 or target.exists():
            raise RuntimeError("not one line, or something is written") from error
        return 1
    found = sv.load_checkpoint(target, config=TINY).params
    if not (right(found, old) or right(found, new)):
        raise RuntimeError("wrong weights")
    return 0


def changing(much: float) -> Outcome:
    """Every format, every kind of change, at moments that a seed draws."""
    outcome, rng, ends = Outcome(), random.Random(2), {0: 0, 1: 0}
    suffixes = [suffix for suffix in SUFFIXES if suffix != ".pt" and (suffix != ".h5" or find_spec("h5py"))]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as temporary:
        for suffix in suffixes:
            path, other = Path(temporary) / f"x{suffix}", Path(temporary) / f"other{suffix}"
            new = saved(other, 1)
            for work in (reads, converts):
                old = saved(path, 0)
                whole = Counter()
                work(path, old, new, whole)
                for change in KINDS:
                    for _ in range(share(CHANGES / len(suffixes) / len(KINDS) / 2, much)):
                        saved(path, 0)
                        at = rng.randint(1, whole.calls)
                        ended = forked(partial(work, path, old, new, Counter(at, partial(change, path, other))))
                        if ended.code in ends:
                            ends[ended.code] += 1
                        else:
                            where = (
                                f"{suffix} {change.__name__.replace('_', ' ')} at call {at:,} of {whole.calls:,}, {work.__name__}"
                            )
                            outcome.wrong.append(f"{where}: {ended.code}: {' '.join(ended.said.split())[-300:]}")
    outcome.done = (
        f"{sum(ends.values())} files that grow, shrink, are emptied, replaced or deleted: {ends[0]} read with the right weights, "
        f"{ends[1]} refused with one line"
    )
    return outcome

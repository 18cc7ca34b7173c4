"""Writers that are killed, that meet a full disk, that meet each other: the target is the old one, or whole, or absent."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref.checkpoints.save import WRITERS as SUFFIXES
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.traces import reference_trace, save_trace
from tests.endurance.commands import AB, OLD, WRITERS, Ended, Writer, command, forked, preload, read, sources, start
from tests.endurance.outcome import Outcome, share

KILLS = 300
"""Runs that are to be killed, of all commands together; some end before their moment comes."""

FULL = 200
"""Runs of all commands on a full disk."""


IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A folder in which to bring a file to the disk costs nothing."""


EVERY = 3000
"""Size in bytes up to which a file is written at every limit."""

LIMITS = 400
"""Limits at which larger files are written, evenly spread."""


@dataclass(frozen=True)
class Length:
    """Of a whole run: its processor time in seconds, and how many files it opened to write, named or removed."""

    seconds: float
    files: int


@dataclass(frozen=True)
class Moment:
    """After so many seconds of processor time; or so many calls of functions after an event of a file, by its number."""

    seconds: float = 0.0
    event: int = 0
    calls: int = 0

    def __str__(self) -> str:
        return f"{self.calls} calls after event {self.event}" if self.event else f"after {self.seconds:.3f} s"


def drawn(length: Length, rng: random.Random) -> Moment:
    """A third anywhere, the others soon after an event of a file."""
    if not rng.randrange(3):
        return Moment(seconds=max(1e-3, rng.random() * length.seconds))
    return Moment(event=rng.randint(1, length.files), calls=int(rng.expovariate(1 / 30)) if rng.randrange(3) else 0)


def at(moment: Moment, then: Callable[[], object]) -> None:
    """Have something done at a moment of this process."""
    events, calls = 0, 0

    def sees(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == moment.calls:
            sys.setprofile(None)
            then()

    def hears(event: str, args: tuple[Any, ...]) -> None:
        nonlocal events
        if of_a_file(event, args):
            events += 1
            if events == moment.event:
                sys.setprofile(sees) if moment.calls else then()

    sys.addaudithook(hears)
    if moment.seconds:
        signal.signal(signal.SIGPROF, lambda number, frame: then())
        signal.setitimer(signal.ITIMER_PROF, moment.seconds)


def of_a_file(event: str, args: tuple[Any, ...]) -> bool:
    """Whether a file is opened to write, gets a name, or loses it."""
    if event == "open":
        return isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in ("os.link", "os.rename", "os.remove", "os.chmod", "os.truncate")


def measured_length(writer: Writer, folder: Path) -> Length:
    """Of one whole run in a fork."""
    heard, told = os.pipe()

    def work() -> None:
        events, begun = 0, time.process_time()

        def hears(event: str, args: tuple[Any, ...]) -> None:
            nonlocal events
            events += of_a_file(event, args)

        sys.addaudithook(hears)
        try:
            command(writer.typed("a", force=True), folder)
        finally:
            os.write(told, f"{time.process_time() - begun} {events}".encode())

    ended = forked(work)
    os.close(told)
    said = os.read(heard, 1 << 16).split()
    os.close(heard)
    if ended.code not in (0, 1) or len(said) != 2:
        raise RuntimeError(f"{writer.name} ends with {ended.code}: {ended.said}")
    return Length(float(said[0]), int(said[1]))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def prepared(folder: Path, targets: Collection[str], *, old: bool) -> set[str]:
    """The sources, and old targets or none. Gives the names that are there."""
    for path in folder.iterdir():
        if path.name in targets or path.name.startswith("."):
            path.unlink()
    for name in targets if old else ():
        (folder / name).write_bytes(OLD)
    return names(folder)


def torn(folder: Path, targets: Collection[str], *, old: bool) -> Iterator[str]:
    """Targets that are neither the old ones, nor whole, nor absent where there was none."""
    for name in targets:
        path = folder / name
        if not path.exists():
            if old:
                yield f"{name} is gone"
        elif not (old and path.read_bytes() == OLD):
            try:
                read(path)
            except Exception as error:
                yield f"{name} is torn: {type(error).__name__}: {str(error)[:80]}"


def without_unnamed_files() -> None:
    """As on a system, or a file system, that has none."""
    if hasattr(os, "O_TMPFILE"):
        del os.O_TMPFILE


def chosen(much: float) -> list[Writer]:
    """All; of less than a tenth those that are quick: no picture, no other library."""
    return [writer for writer in WRITERS if much >= 0.1 or not writer.needs]


def kills(much: float) -> Outcome:
    """SIGKILL and SIGTERM at moments that a seed draws, on a system with unnamed files and on one without."""
    outcome, rng = Outcome(), random.Random(0)
    writers = chosen(much)
    preload({name for writer in writers for name in writer.needs})
    each = KILLS * much / len(writers)
    done = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    leftovers = 0
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as temporary:
        folder = Path(temporary)
        sources(folder)
        for writer in writers:
            length = measured_length(writer, folder)
            for i in range(share(1, max(2.0, each))):
                how = (signal.SIGKILL, signal.SIGTERM)[i % 2]
                old, unnamed = rng.random() < 0.5, rng.random() < 0.5
                moment = drawn(length, rng)
                before = prepared(folder, writer.targets, old=old)

                def work(
                    writer: Writer = writer, how: int = how, old: bool = old, unnamed: bool = unnamed, moment: Moment = moment
                ) -> None:
                    if not unnamed:
                        without_unnamed_files()
                    at(moment, partial(os.kill, os.getpid(), how))
                    command(writer.typed("a", force=old), folder)

                ended = forked(work)
                killed = ended.code in (-how, 128 + how)
                done[how] += killed
                where = f"{writer.name}, {how.name} {moment}{'' if unnamed else ', no unnamed files'}"
                if not killed and ended.code not in (0, 1):
                    outcome.wrong.append(f"{where}: exit code {ended.code}: {ended.said[-200:]}")
                outcome.wrong += [f"{where}: {what}" for what in torn(folder, writer.targets, old=old)]
                left = names(folder) - before - set(writer.targets)
                if left and ((unnamed and not old) or how == signal.SIGTERM):  # `--force` names a file before it renames it
                    outcome.wrong.append(f"{where}: left {', '.join(sorted(left))}")
                if left:
                    leftovers += 1
                    again = forked(partial(command, writer.typed("a", force=True), folder))
                    still = names(folder) - before - set(writer.targets)
                    if again.code not in (0, 1) or still:
                        outcome.wrong.append(f"{where}: the next run ends with {again.code} and leaves {', '.join(sorted(still))}")
    outcome.done = (
        f"{done[signal.SIGKILL]} by SIGKILL, {done[signal.SIGTERM]} by SIGTERM, of {len(writers)} commands; "
        f"{leftovers} left a temporary file, which the next run removed"
    )
    return outcome


# A full disk


def full_at_every_byte(much: float) -> Outcome:
    """Of every kind of file that a checkpoint or a trace is written to: a limit of 0 bytes, of 1, and so on up to its size.

    Of files of more than `EVERY` bytes, and where there are no unnamed files, `LIMITS` of these.
    """
    outcome = Outcome()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as temporary:
        folder = Path(temporary)
        ended = forked(partial(_every_byte, folder, much))
        outcome.wrong = [line for line in ended.said.splitlines() if line and not line.startswith("done")]
        if ended.code:
            outcome.wrong.append(f"exit code {ended.code}")
        outcome.done = "".join(line.removeprefix("done ") for line in ended.said.splitlines() if line.startswith("done"))
    return outcome


SMALL = sv.ScalableViTConfig(
    embed_dims=(1,),
    depths=(1,),
    num_heads=(1,),
    mlp_ratios=(1,),
    sr_ratios=(1,),
    c_ratios=(1.0,),
    window_sizes=(1,),
    patch_size=1,
    num_classes=1,
    in_chans=1,
    head="linear",
)
"""One block of one channel: as small as a checkpoint can be."""


def _every_byte(folder: Path, much: float) -> int:
    params = random_params(sv.parameter_shapes(SMALL), dtype="float32")
    kinds = [suffix for suffix in SUFFIXES if suffix != ".pt" and (suffix != ".h5" or find_spec("h5py"))]
    found = reference_trace(random_images((1, 1, 2, 2), dtype="float32"), params, SMALL)
    writes: dict[str, Callable[[Path], object]] = {f"x{suffix}": partial(_saves, params) for suffix in kinds}
    writes |= {f"trace{suffix}": lambda path: save_trace(path, found, SMALL, force=True) for suffix in (".npz", ".safetensors")}
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    wrong, runs = 0, 0
    for unnamed in (True, False):
        if not unnamed:
            without_unnamed_files()
        for name, write in writes.items():
            path = folder / name
            path.unlink(missing_ok=True)
            write(path)
            size = path.stat().st_size
            path.write_bytes(OLD)
            limits = size if unnamed and size < EVERY else min(size, LIMITS)
            for most in np.unique(np.linspace(0, size - 1, share(limits, much)).astype(int)).tolist():
                runs += 1
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
                problem = ""
                try:
                    write(path)
                    problem = "said to be written"
                except OSError as error:
                    problem = "" if "\n" not in str(error) else "not one line"
                except BaseException as error:
                    problem = f"{type(error).__name__}: {error}"
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                problem = problem or ("" if path.read_bytes() == OLD else "torn")
                problem = problem or ("" if names(folder) == {name} else f"leaves {sorted(names(folder))}")
                if problem:
                    wrong += 1
                    os.write(2, f"{name}, {most} of {size} bytes: {problem}\n".encode() if wrong <= 20 else b"")
                    for other in folder.iterdir():
                        other.unlink()
                    path.write_bytes(OLD)
            path.unlink()
    os.write(2, f"done {runs:,} limits of {len(writes)} kinds of file, with unnamed files and without\n".encode())
    return 0


def _saves(params: dict[str, Any], path: Path) -> None:
    layout = {".msgpack": "channels_last", ".h5": "keras", ".pdparams": "paddle"}.get(path.suffix, "official")
    sv.save_checkpoint(path, params, SMALL, layout=layout, force=True)


def full_for_commands(much: float) -> Outcome:
    """Every command that writes, with limits that a seed draws: 0, 1, one less than its largest file, and others between."""
    outcome, rng, runs = Outcome(), random.Random(1), 0
    writers = chosen(much)
    preload({name for writer in writers for name in writer.needs})
    each = FULL * much / len(writers)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as temporary:
        folder = Path(temporary)
        sources(folder)
        for writer in writers:
            prepared(folder, writer.targets, old=False)
            ended = forked(partial(command, writer.typed("a", force=False), folder))
            if ended.code not in (0, 1):
                outcome.wrong.append(f"{writer.name}: exit code {ended.code}: {ended.said[-200:]}")
                continue
            size = max((folder / name).stat().st_size for name in writer.targets)
            count = share(1, max(3.0, each))
            for most in [0, 1, size - 1, *(rng.randrange(size) for _ in range(count - 3))]:
                old, runs = rng.random() < 0.5, runs + 1
                before = prepared(folder, writer.targets, old=old)

                def work(writer: Writer = writer, most: int = most, old: bool = old) -> None:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
                    command(writer.typed("a", force=old), folder)

                ended = forked(work)
                where = f"{writer.name}, {most:,} of {size:,} bytes"
                if ended.code != 2 or not _one_line(ended):
                    outcome.wrong.append(f"{where}: exit code {ended.code}: {ended.said[-300:]}")
                changed = [name for name in writer.targets if _content(folder / name) != (OLD if old else None)]
                if changed:
                    outcome.wrong.append(f"{where}: changed {', '.join(changed)}")
                if left := names(folder) - before - set(writer.targets):
                    outcome.wrong.append(f"{where}: left {', '.join(sorted(left))}")
    outcome.done = f"{runs} runs of {len(writers)} commands: one line, exit code 2, every target as it was"
    return outcome


def _one_line(ended: Ended) -> bool:
    said = [line for line in ended.said.splitlines() if line.startswith("scalablevit-ref: ")]
    return len(said) == 1 and "Traceback" not in ended.said


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


# Two writers


def two_writers(much: float) -> Outcome:
    """Two processes write to one name. Each waits, when its file is written and has no name yet, until the other is as far."""
    outcome = Outcome()
    writers = chosen(much)
    preload({name for writer in writers for name in writer.needs})
    races = 0
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as temporary:
        folder = Path(temporary)
        sources(folder)
        for writer in writers:
            alone: list[dict[str, bytes | None]] = []
            for x in AB:
                prepared(folder, writer.targets, old=False)
                ended = forked(partial(command, writer.typed(x, force=False), folder))
                if ended.code not in (0, 1):
                    outcome.wrong.append(f"{writer.name} {x}: exit code {ended.code}: {ended.said[-200:]}")
                alone.append({name: _content(folder / name) for name in writer.targets})
            good = {ended.code}
            for force in (False, True):
                races += 1
                before = prepared(folder, writer.targets, old=False)
                codes = _race(folder, writer, force=force)
                where = f"{writer.name}{' --force' if force else ''}"
                won = [ended.code in good for ended in codes]
                if sum(won) != (2 if force else 1):
                    outcome.wrong.append(f"{where}: exit codes {[ended.code for ended in codes]}: {[e.said[-200:] for e in codes]}")
                lost = [ended for ended in codes if ended.code not in good]
                if any(ended.code != 2 or not _one_line(ended) for ended in lost):
                    outcome.wrong.append(f"{where}: the loser is told {[ended.said[-200:] for ended in lost]}")
                outcome.wrong += [f"{where}: {what}" for what in torn(folder, writer.targets, old=False)]
                for name in writer.targets:
                    content = _content(folder / name)
                    mine = [one[name] for one, good_ in zip(alone, won, strict=True) if good_]
                    if content not in mine and writer.targets[0] in ("t.pth", "t.npz", "t.safetensors", "t.msgpack"):
                        outcome.wrong.append(f"{where}: {name} is of none that succeeded")
                if left := names(folder) - before - set(writer.targets):
                    outcome.wrong.append(f"{where}: left {', '.join(sorted(left))}")
    outcome.done = f"{races} races of {len(writers)} commands: without `--force` one succeeds, with it both"
    return outcome


def _race(folder: Path, writer: Writer, *, force: bool) -> list[Ended]:
    """Both have written their last file, and not named any, when both go on."""
    import multiprocessing

    gate = multiprocessing.get_context("fork").Barrier(2)

    def work(x: str) -> None:
        brought, seen = os.fsync, 0

        def fsync(descriptor: int) -> None:
            nonlocal seen
            brought(descriptor)
            seen += 1
            if seen == len(writer.targets):
                with suppress(threading.BrokenBarrierError):
                    gate.wait(20)

        os.fsync = fsync  # type: ignore[assignment]
        command(writer.typed(x, force=force), folder)

    running = [start(partial(work, x)) for x in AB]
    return [one.end() for one in running]

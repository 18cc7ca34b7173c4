"""A process that meets hostile inputs: with little memory, under a watch that sees what a reader has no business to do.

`python -m tests.support.guarded` reads a list of [kind, input] as JSON from standard input and writes what happened to each.
"""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.waiting import HANGS
from tests.support.watch import Watch

MEGABYTES = 200
"""Address space beyond the libraries, which is less than so many megabytes of memory."""


def run_guarded(inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """What happens to each input: what is `said` (None where it is read), `type` and `file` of the error, what is seen and used.

    Of the kind "weights" also the numbers that are read, one after the other: its `weights`.

    Parameters
    ----------
    inputs
        Pairs of a kind, a name in `readers`, and what its reader is given: a path, or a name in `bombs_in_memory`.
    """
    command = [sys.executable, "-m", "tests.support.guarded"]
    root = Path(__file__).resolve().parents[2]
    given = json.dumps(list(inputs))
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=root, timeout=HANGS)
    assert done.stderr == "", done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def readers(kinds: set[str]) -> dict[str, Callable[[str], Any]]:
    """What reads an input of each of these kinds. All that they import is imported here, before anything is watched."""
    for module in ("ml_dtypes", *(f"scalablevit_ref.{name}" for name in _LATE)):
        import_module(module)
    from scalablevit_ref.checkpoints import from_state_dict, load_checkpoint
    from scalablevit_ref.checkpoints.inspect import inspect_file

    found: dict[str, Callable[[str], Any]] = {
        "checkpoint": load_checkpoint,
        "weights": lambda path: [number for x in load_checkpoint(path).params.values() for number in x.reshape(-1).tolist()],
        "inspected": lambda path: inspect_file(Path(path)),
        "run by pickle": lambda path: pickle.loads(Path(path).read_bytes()),
    }
    if "image" in kinds:
        import PIL.Image

        from scalablevit_ref.images import load_image

        PIL.Image.init()
        found["image"] = load_image
    if kinds & {"trace", "trace that tells its network", "names", "images"}:
        from scalablevit_ref.compare.names_file import read_names
        from scalablevit_ref.compare.run import compare
        from scalablevit_ref.testing.traces import trace_images
        from tests.support import bombs_traces

        settings: dict[str, Any] = {"weights": bombs_traces.params(), "diagnosis": False}
        known = settings | {"variant": bombs_traces.NETWORK}
        found["trace"] = lambda path: compare(Path(path), **known)
        found["trace that tells its network"] = lambda path: compare(Path(path), **settings)
        found["names"] = lambda path: compare(bombs_traces.sound(), names=read_names(path), **known)
        found["images"] = trace_images
        compare(bombs_traces.sound(), **known)
    if "memory" in kinds:
        from tests.support import bombs_in_memory

        made = {name: make for name, (make, _) in bombs_in_memory.MEMORY_BOMBS.items()}
        found["memory"] = lambda name: from_state_dict(made[name](), config=bombs_in_memory.NETWORK)
    return found


_LATE = ("formats.detect", "checkpoints.hub", "checkpoints.recognise", "dialects.weights")
"""Modules that a reader imports when it needs them; dataclasses among them are made of text, which the watch would see."""


def main() -> None:
    """Read each input, and say what happened."""
    inputs = json.loads(sys.stdin.read())
    read_by = readers({kind for kind, _ in inputs})
    guard, results = Watch(), []
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEGABYTES << 20),) * 2)
    for kind, given in inputs:
        outcome: dict[str, Any] = {"said": None, "type": None, "file": None}
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123  (the most memory that is held is measured from here)
            file.write("5")
        before, start = _megabytes("VmRSS:"), time.process_time()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            guard.events, guard.on = [], True
            try:
                found = read_by[kind](given)
                if kind == "weights":
                    outcome["weights"] = found
            except BaseException as error:
                outcome = {"said": str(error), "type": type(error).__name__, "file": getattr(error, "file", None)}
            guard.on = False
        seconds, megabytes = time.process_time() - start, _megabytes("VmHWM:") - before
        told = [str(warning.message) for warning in warned]
        results.append(outcome | {"events": guard.events, "warnings": told, "seconds": seconds, "megabytes": megabytes})
    sys.stdout.write(json.dumps(results))


def _megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


if __name__ == "__main__":
    main()

"""Every hostile input of the suite by its kind; what a run under guard must find of each; and the program that measures them all.

`python -m tests.support.hostile_inputs` prints how many there are, the longest time and the largest memory.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scalablevit_ref.errors import _LONGEST_PROBLEM
from tests.support.bombs_beside import HARMLESS_FILES
from tests.support.bombs_configurations import CONFIGURATION_BOMBS
from tests.support.bombs_external import EXTERNAL_BOMBS
from tests.support.bombs_images import IMAGE_BOMBS
from tests.support.bombs_in_memory import MEMORY_BOMBS
from tests.support.bombs_traces import NAMES_BOMBS, NPY_BOMBS, TELLING_BOMBS, TRACE_BOMBS, Made
from tests.support.guarded import run_guarded
from tests.support.hostile_files import HOSTILE_FILES
from tests.support.hostile_folders import HOSTILE_FOLDERS
from tests.support.waiting import slowness

Found = list[tuple[str, str | None, str, dict[str, Any]]]
"""Of each input its name, what is to be said of it (None where it is to be read), its path, and what happened (`run_guarded`)."""

MOST_SECONDS = 5
"""Of processor time for one input, scaled by the load."""

LONGEST = 5 * _LONGEST_PROBLEM
"""Longest line that a refusal may be, in characters: one that is not printable is written as four."""


def files(makes: Mapping[str, tuple[Callable[[], bytes], str]]) -> Made:
    """What makes each in an empty folder."""

    def made(make: Callable[[], bytes]) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            (folder / "x").write_bytes(make())
            return folder / "x"

        return write

    return {name: (made(make), message) for name, (make, message) in makes.items()}


HOSTILE: dict[str, tuple[str, Made]] = {
    "checkpoint files": ("checkpoint", files(HOSTILE_FILES)),
    "folders and indexes of shards": ("checkpoint", HOSTILE_FOLDERS),
    "stored configurations and notes": ("checkpoint", files(CONFIGURATION_BOMBS)),
    "external data of ONNX": ("checkpoint", EXTERNAL_BOMBS),
    "traces": ("trace", TRACE_BOMBS),
    "traces that tell their network": ("trace that tells its network", TELLING_BOMBS),
    "names files": ("names", NAMES_BOMBS),
    "arrays of images": ("images", NPY_BOMBS),
    "images": ("image", IMAGE_BOMBS),
}
"""What is refused, by kind: the reader in `guarded.readers`, and what makes each."""


def refused(kind: str, folder: Path) -> Found:
    """What happened to each input of a kind, in one process."""
    reader, makes = HOSTILE[kind]
    paths = []
    for i, (make, _) in enumerate(makes.values()):
        (folder / f"{i}").mkdir()
        paths.append(str(make(folder / f"{i}")))
    happened = run_guarded([(reader, path) for path in paths])
    return [(name, makes[name][1], path, one) for name, path, one in zip(makes, paths, happened, strict=True)]


def refused_in_memory() -> Found:
    happened = run_guarded([("memory", name) for name in MEMORY_BOMBS])
    return [(name, MEMORY_BOMBS[name][1], name, one) for name, one in zip(MEMORY_BOMBS, happened, strict=True)]


def harmless(folder: Path) -> Found:
    """What happened to files that are to be read."""
    for i, make in enumerate(HARMLESS_FILES.values()):
        (folder / f"{i}").write_bytes(make())
    paths = [str(folder / f"{i}") for i in range(len(HARMLESS_FILES))]
    happened = run_guarded([("weights", path) for path in paths])
    return [(name, None, path, one) for name, path, one in zip(HARMLESS_FILES, paths, happened, strict=True)]


REFUSALS = (
    "CheckpointError",
    "CaptureError",
    "CostError",
    "ValueError",
    "OSError",
    "FileNotFoundError",
    "IrregularFileError",
    "TooLargeError",
)
"""Types of errors that are refusals of what was given."""


def faults(found: Found) -> list[str]:
    """What is wrong with how these were met: not refused in one line for their own fault, in time, without a trace."""
    wrong, limit = [], MOST_SECONDS * slowness()
    for name, message, path, one in found:
        said = one["said"]
        checks = {
            "read": message is not None and said is None,
            "refused": message is None and said is not None,
            "for another fault": said is not None and not re.search(message or "", said.replace(path, "")),
            "an error of its own": said is not None and one["type"] not in REFUSALS,
            "not one line": said is not None and not (said.isprintable() and len(said) < LONGEST),
            "by the end of memory": said is not None and ("MemoryError" in said or "more memory than there is" in said),
            "unforeseen": said is not None and "did not foresee" in said,
            "seen to act": bool(one["events"]),
            "with a warning": bool(one["warnings"]),
            "for long": one["seconds"] >= limit,
        }
        wrong += [f"{name}: {what}: {one}" for what, is_so in checks.items() if is_so]
    return wrong


def count() -> int:
    """How many hostile inputs there are."""
    return sum(len(makes) for _, makes in HOSTILE.values()) + len(MEMORY_BOMBS) + len(HARMLESS_FILES)


def main() -> None:
    """Meet them all."""
    everything: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for i, kind in enumerate(HOSTILE):
            (folder := Path(temporary) / f"{i}").mkdir()
            everything[kind] = refused(kind, folder)
        everything["mappings in memory"] = refused_in_memory()
        (folder := Path(temporary) / "harmless").mkdir()
        everything["files with sound weights"] = harmless(folder)
    for kind, found in everything.items():
        slowest = max(found, key=lambda one: one[3]["seconds"])
        largest = max(found, key=lambda one: one[3]["megabytes"])
        sys.stdout.write(
            f"{len(found):4} {kind}: at most {slowest[3]['seconds']:.2f} s ({slowest[0]}), "
            f"{largest[3]['megabytes']:.0f} MB ({largest[0]}), {sum(one[3]['seconds'] for one in found):.1f} s together\n"
        )
    every = [one[3] for found in everything.values() for one in found]
    longest, most = max(one["seconds"] for one in every), max(one["megabytes"] for one in every)
    sys.stdout.write(f"{len(every)} hostile inputs, at most {longest:.1f} s and {most:.0f} MB for one\n")
    sys.exit("\n".join(fault for found in everything.values() for fault in faults(found)) or 0)


if __name__ == "__main__":
    main()

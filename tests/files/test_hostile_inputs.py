"""Inputs that are no checkpoints, or sound but for what is noted in them, made to take time or memory or to be something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guarded import run_guarded
from tests.support.hostile_inputs import HOSTILE, count, faults, refused, refused_in_memory

ELSEWHERE = ("checkpoint files", "folders and indexes of shards")
"""Kinds that `tests/checkpoints` meets."""


def test_how_many_there_are() -> None:
    assert count() >= 400


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ELSEWHERE])
def test_hostile_inputs_in_a_process_of_their_own(tmp_path: Path, kind: str) -> None:
    """Each is refused for its own fault in 200 MB and 5 s; nothing is run, connected to or written, and no warning is given."""
    found = refused(kind, tmp_path)
    assert not faults(found)
    for name, message, path, one in found:
        if message is not None and kind in ("images", "names files", "arrays of images"):
            assert path in one["said"] or one["type"] == "CaptureError", (name, one)  # of what a file says of a candidate


def test_hostile_mappings_in_a_process_of_their_own() -> None:
    found = refused_in_memory()
    assert not faults(found)
    assert {one["type"] for _, _, _, one in found} == {"CheckpointError"}


def test_stored_configurations_that_are_looked_into(tmp_path: Path) -> None:
    """`inspect` says what is wrong with them in the same time and memory."""
    paths = []
    for i, (make, _) in enumerate(HOSTILE["stored configurations and notes"][1].values()):
        (tmp_path / f"{i}").mkdir()
        paths.append(str(make(tmp_path / f"{i}")))
    happened = run_guarded([("inspected", path) for path in paths])
    names = HOSTILE["stored configurations and notes"][1]
    assert not faults(
        [(name, "" if one["said"] else None, path, one) for name, path, one in zip(names, paths, happened, strict=True)]
    )

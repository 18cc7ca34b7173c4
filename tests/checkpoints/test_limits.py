"""Files made to take time or memory, or to be something else: refused within five seconds and 200 MB."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalablevit_ref import init_params, to_backend
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint
from scalablevit_ref.checkpoints.notes import is_plain
from scalablevit_ref.checkpoints.save import write_state
from scalablevit_ref.errors import brief
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from tests.support.bombs_beside import values
from tests.support.checkpoints import SUFFIXES, TINY, TINY_MMDET
from tests.support.guarded import run_guarded
from tests.support.hostile import Calls, entry, header
from tests.support.hostile_inputs import faults, harmless, refused


def test_errors_of_hostile_names_are_one_printable_line(tmp_path: Path) -> None:
    content = header({"stages.\x1b[2J\r\n" + "x" * 100_000: entry(dtype="\x07")}, bytes(8))
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_values_that_are_looked_at_for_no_longer_than_needed() -> None:
    value: Any = 1
    for _ in range(80):
        value = [value, value]
    assert not is_plain(value)
    assert len(brief((value, 10**5000))) < 1000
    assert is_plain([[1, (2.0, None)], {"a": {"b": "c"}}])
    assert not is_plain({"a": {1: 2}})
    assert not is_plain(["x" * 400_000] * 3)
    assert not is_plain([[[[[[[1]]]]]]])
    assert "lr" not in from_state_dict({"model": init_params(TINY), "lr": value}, config=TINY).metadata


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path / "pipe", "a FIFO"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder that holds no checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=f"{what}; expected a checkpoint file"):
            load_checkpoint(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".legacy"])
def test_truncated_at_every_byte(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    state = {"a.kernel": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}
    if suffix == ".legacy":
        torch.save(to_backend(state, "torch"), path, _use_new_zipfile_serialization=False)
    else:
        write_state(path, state, TINY, layout="official", metadata={"epoch": 3}, force=False, allow_nonfinite=False)

    def read(file: Path) -> Any:
        with open_file(file) as (tree, _, _):
            weights = tree.get("model", tree.get("params", tree))
            return {".".join(path): in_memory(x) for path, x in leaves(weights)}

    assert {name: x.tolist() for name, x in read(path).items()} == {name: x.tolist() for name, x in state.items()}
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(CheckpointError):
            read(path)


@pytest.mark.parametrize("names", [["module.norm.bias", "norm.bias"], ["backbone.norm.bias", "backbone.backbone.norm.bias"]])
def test_prefixes_that_collide(names: list[str]) -> None:
    """A prefix is cut off all names or none: two of them never become one."""
    with pytest.raises(CheckpointError, match=r"norm\.bias|more blocks than"):
        from_state_dict({"stages.0.0.x": np.zeros(1)} | {name: np.zeros(1, "float32") for name in names}, config=TINY_MMDET)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, x in tree.items():
        yield from leaves(x, (*path, name)) if isinstance(x, dict) else [((*path, name), x)]


def test_hostile_files_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Each is refused for its own fault in 200 MB and 5 s; no code of it is run, no connection made, no file written."""
    found = refused("checkpoint files", tmp_path)
    assert not faults(found)
    assert all((one["type"], one["file"]) == ("CheckpointError", path) for _, _, path, one in found)


def test_weights_beside_something_hostile_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Each is read in 200 MB and 5 s, with the right weights; nothing beside them is run or looked into."""
    found = harmless(tmp_path)
    assert not faults(found)
    assert all(one["weights"] == values().tolist() for _, _, _, one in found)


def test_the_guard_sees_code_that_runs(tmp_path: Path) -> None:
    """What the tests above rely on: the same watch over a reader that executes pickles."""
    (tmp_path / "x").write_bytes(pickle.dumps(Calls(eval, "__import__('os').system('true')")))
    (found,) = run_guarded([("run by pickle", str(tmp_path / "x"))])
    assert {"exec", "os.system"} <= set(found["events"])


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"said": None}, "read"),
        ({"said": "another fault"}, "for another fault"),
        ({"said": "two\nlines", "type": "CheckpointError"}, "not one line"),
        ({"type": "KeyError"}, "an error of its own"),
        ({"events": ["open"]}, "seen to act"),
        ({"warnings": ["large"]}, "with a warning"),
        ({"seconds": 1e6}, "for long"),
        ({"said": "a fault: MemoryError"}, "by the end of memory"),
    ],
)
def test_what_counts_as_a_fault(changed: dict[str, Any], what: str) -> None:
    sound = {"said": "a fault", "type": "CheckpointError", "events": [], "warnings": [], "seconds": 0.0}
    assert not faults([("x", "^a fault|two", "path", sound)])
    assert any(fault.startswith(f"x: {what}:") for fault in faults([("x", "^a fault|two", "path", sound | changed)]))


def test_what_is_to_be_read_and_is_refused() -> None:
    refusal = {"said": "a fault", "type": "CheckpointError", "events": [], "warnings": [], "seconds": 0.0}
    assert faults([("x", None, "path", refusal)])
    assert not faults([("x", None, "path", refusal | {"said": None})])

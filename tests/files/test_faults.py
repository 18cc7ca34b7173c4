"""A full disk, a kill and a second writer, in the middle of writing whatever the package writes: the whole file or none."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.profiles import share
from tests.support.waiting import HANGS
from tests.support.write_faults import SYSTEMS, listing
from tests.support.writers import WRITERS


def trial(name: str, folder: Path) -> Any:
    """What a trial found, in a process of its own that has no threads."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.write_trials", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("writer", share(list(WRITERS), of=2))
def test_a_full_disk_leaves_the_whole_file_or_what_was_there(writer: str, tmp_path: Path) -> None:
    """At every byte of a small file, at drawn ones of a larger; and the error names a file that was asked for."""
    found = trial(writer, tmp_path)
    assert found["wrong"] == []
    assert found["outputs"]
    assert found["tried"] >= 16


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_overwritten_unasked_nor_through_a_link(writer: str, tmp_path: Path) -> None:
    """By no command and no function."""
    write = WRITERS[writer](tmp_path)
    sources = set(listing(tmp_path))
    write(False)
    whole = listing(tmp_path)
    for name in whole.keys() - sources:
        for other in whole.keys() - sources - {name}:
            (tmp_path / other).unlink()
        (tmp_path / name).write_bytes(b"{}")
        before = listing(tmp_path)
        with pytest.raises(OSError, match=f"{re.escape(name)} exists; "):
            write(False)
        assert listing(tmp_path) == before
        (tmp_path / name).chmod(0o640)
        write(True)
        assert listing(tmp_path) == whole
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    precious = {f"precious {name}": b"precious" for name in whole.keys() - sources}
    for name in whole.keys() - sources:
        (tmp_path / name).unlink()
        (tmp_path / f"precious {name}").write_bytes(b"precious")
        (tmp_path / name).symlink_to(f"precious {name}")
    write(True)
    assert listing(tmp_path) == whole | precious
    assert not any((tmp_path / name).is_symlink() for name in whole)


def test_a_kill_leaves_whole_files_and_what_the_next_run_removes(tmp_path: Path) -> None:
    found = trial("kills", tmp_path)
    assert list(found) == list(SYSTEMS)
    for name, of in found.items():
        assert of["ends"] == [[-9, 40]]
        assert (of["torn"], of["after"]) == ([], 0), name
    assert found["named files"]["left"] > 5  # the moments are such that something is left to be removed


def test_sigterm_leaves_whole_files_and_nothing_else(tmp_path: Path) -> None:
    for name, of in trial("terminations", tmp_path).items():
        assert of == {"torn": [], "left": 0, "after": 0, "ends": [[143, 25]]}, name


def test_of_two_writers_to_one_name_exactly_one_succeeds(tmp_path: Path) -> None:
    """The other ends with AlreadyExistsError, also where the names are given without hard links."""
    assert trial("races", tmp_path) == {name: {"[0, 2], whole": 8, "left": 0} for name in SYSTEMS}

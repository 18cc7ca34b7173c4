"""Folders and indexes of shards that are broken, or made to take time or memory or to lead elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.hostile_files import GUARDED
from tests.support.hostile_folders import HOSTILE_FOLDERS
from tests.support.waiting import slowness


def test_hostile_folders_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Each is refused for its own fault in 200 MB and 5 s; no code is run, no connection made, no file written."""
    paths = []
    for i, (make, _) in enumerate(HOSTILE_FOLDERS.values()):
        (tmp_path / f"{i}").mkdir()
        paths.append(make(tmp_path / f"{i}"))
    command = [sys.executable, "-c", textwrap.dedent(GUARDED)]
    done = subprocess.run(command, input=json.dumps(list(map(str, paths))), capture_output=True, text=True, check=False)
    limit = 5 * slowness()
    assert done.stderr == ""
    for (name, (_, message)), path, found in zip(HOSTILE_FOLDERS.items(), paths, json.loads(done.stdout), strict=True):
        assert found["said"] is not None, f"{name}: was read"
        assert re.search(message, found["said"]), (name, found)
        assert found["said"].isprintable(), name
        assert len(found["said"]) < 2000, name
        assert (found["events"], "MemoryError" in found["said"]) == ([], False), (name, found)
        assert found["file"].startswith(str(path if path.is_dir() else path.parent)), (name, found)
        assert found["seconds"] < limit, (name, found)

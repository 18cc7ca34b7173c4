"""Folders and indexes of shards that are broken, or made to take time or memory or to lead elsewhere."""

from __future__ import annotations

from pathlib import Path

from tests.support.hostile_inputs import faults, refused


def test_hostile_folders_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Each is refused for its own fault in 200 MB and 5 s; no code is run, no connection made, no file written."""
    found = refused("folders and indexes of shards", tmp_path)
    assert not faults(found)
    for name, _, given, one in found:
        path = Path(given)
        assert len(one["said"]) < 2000, name
        assert one["file"].startswith(str(path if path.is_dir() else path.parent)), (name, one)

"""Files of names, as `compare --names` takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalablevit_ref.compare.names_file import MOST_BYTES, read_names
from scalablevit_ref.errors import CaptureError


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_names_are_read(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_bytes(start + '{"norm": "schicht.ä", "stages.{k}.{i}": "b{k}.{i}"}'.encode())
    assert read_names(tmp_path / "names.json") == {"norm": "schicht.ä", "stages.{k}.{i}": "b{k}.{i}"}


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"[" * 100_000, "too many brackets in each other"),
        (b'{"a":' * 100_000, "too many brackets in each other"),
        (b'{"norm": "x", "head": "y", "norm": "z"}', "'norm' is there twice"),
        (b'{"norm": {"a": 1, "a": 2}}', "'a' is there twice"),
        (b'{"norm": 3}', "'norm' must stand for a name, got 3; expected a JSON object from layers' names to the candidate's"),
        (b'{"norm": NaN}', "'norm' must stand for a name, got nan"),
        (b'{"norm": [[[[[[1]]]]]]}', r"'norm' must stand for a name, got \[\[\[...\]\]\]"),
        (b'{"norm": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"[]", r"expected a JSON object from layers' names to the candidate's, found \[\]"),
        (b'"norm"', "expected a JSON object"),
        (b"", "no JSON"),
        (b'{"norm": "\xff"}', "no JSON"),
        (b"\x00" * 100, "no JSON"),
        (b'{"' + b"x" * 900_000 + b'": 1}', "'xxx.*' must stand for a name"),
    ],
)
def test_what_is_no_object_of_names_is_one_short_line(held: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_bytes(held)
    with pytest.raises(CaptureError, match=words) as caught:
        read_names(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert said.isprintable()
    assert len(said) < 500


def test_no_more_is_read_than_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_bytes(b"{}" + b" " * (MOST_BYTES - 2))
    assert read_names(path) == {}
    path.write_bytes(b"{}" + b" " * (MOST_BYTES - 1))
    with pytest.raises(OSError, match="more than 1,048,576 bytes; expected a JSON object"):
        read_names(path)

"""Nothing leaves the machine: each command under the recorder of system calls, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.adapters import onnx
from tests.support.documents import ROOT
from tests.support.footprints import CACHES, COMMANDS, PROGRAMS, Command, files, footprint, of_caches, unlisted
from tests.support.marked import marked
from tests.support.profiles import share
from tests.support.recorder import recorded, with_strace, without_network

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TABLE = marked(PAGE, "footprint: python -m tests.programs.footprint --write")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of the digits model."""
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    onnx.export(checkpoint.params, checkpoint.config, path, image_size=digits.IMAGE_SIZE)
    return path


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("command", share(COMMANDS, of=2), ids=lambda command: command.words)
def test_a_command_does_what_it_was_asked_and_what_is_listed(
    command: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It tries no connection, starts no program and writes no file but those; and the page's row says which."""
    if missing := command.missing():
        pytest.skip(f"{', '.join(missing)} is not installed")
    place = tmp_path / "place"
    files(place, request.getfixturevalue("model") if "model.onnx" in command.words else None)
    seen = footprint(command, place)
    assert seen.code == command.code, seen.error
    assert list(unlisted(command, seen)) == []
    row = next(line for line in TABLE if line.startswith(f"| `{command.words}` |"))
    _, _, writes, beside, programs, _ = (cell.strip() for cell in row.split("|"))
    assert writes == ", ".join(f"`{name}`" for name in command.writes)
    said = {listed.who for listed in of_caches(path for path in seen.left | seen.passing if not path.startswith("Python's"))}
    assert said <= set(filter(None, beside.split(", ")))
    assert {f"`{name}`" for name in seen.programs} <= set(filter(None, programs.split(", ")))


def test_the_page_has_each_command_and_what_is_listed() -> None:
    rows = [line.split("|")[1].strip() for line in TABLE if line.startswith("| `") and "…" not in line.split("|")[1]]
    assert rows == [f"`{command.words}`" for command in COMMANDS]
    named = {word.removesuffix(":") for line in TABLE if line.startswith("- ") for word in [line[2:].split(": ")[0]]}
    assert named == {listed.who for listed in CACHES} | {f"`{name}`" for name in PROGRAMS}


MISDEEDS = {
    "connection": "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), timeout=0.2)\nexcept OSError: pass",
    "lookup": "import socket\ntry:\n    socket.getaddrinfo('telemetry.example', 443)\nexcept OSError: pass",
    "program": "import subprocess; subprocess.run(['true'])",
    "shell": "import os; os.system('true')",
    "file": "open('left', 'w').close()",
    "moved": "import os; open('a', 'w').close(); os.rename('a', 'left')",
    "gone": "import os; open('a', 'w').close(); os.remove('a')",
    "home": "from pathlib import Path; (Path.home() / '.cache').mkdir()",
}


@pytest.mark.parametrize("strace", [False, True])
@pytest.mark.parametrize("what", MISDEEDS)
def test_the_recorder_sees_it(what: str, strace: bool, tmp_path: Path) -> None:
    """Each recorder alone would do, for what Python does."""
    if strace and not with_strace():
        pytest.skip("there is no strace here, or it may not trace")
    seen = recorded(["-c", MISDEEDS[what]], tmp_path, strace=strace)
    assert seen.code == 0, seen.error
    assert list(unlisted(Command(what), seen)) != []


@pytest.mark.skipif(not with_strace(), reason="there is no strace here, or it may not trace")
@pytest.mark.parametrize(
    "call",
    [
        "libc.mkdir(b'made', 0o777)",
        "libc.system(b'true')",
        "libc.rename(b'given', b'moved')",
        "libc.socket(2, 1, 0)",
        "libc.creat('ü'.encode(), 0o600)",
    ],
)
def test_what_a_library_does_by_itself_is_seen(call: str, tmp_path: Path) -> None:
    """Python's hook does not see these."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "given").touch()
    seen = recorded(["-c", f"import ctypes; libc = ctypes.CDLL(None); assert {call} >= 0"], tmp_path)
    assert seen.code == 0, seen.error
    assert list(unlisted(Command(call), seen)) != []


def test_there_is_no_network(tmp_path: Path) -> None:
    if not without_network():
        pytest.skip("unshare -n is not permitted here: connections are seen, not prevented")
    code = "import socket\nfor i, name in socket.if_nameindex(): assert name == 'lo', name"
    assert recorded(["-c", code], tmp_path).code == 0

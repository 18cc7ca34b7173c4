"""The door to ONNX Runtime: what a stand-in for it sees of the environment while it is loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scalablevit_ref.adapters.onnx_runtime import TELEMETRY_OFF, onnx_runtime

STAND_IN = f"""
import os
seen, calls = os.environ.get({TELEMETRY_OFF!r}), []
def disable_telemetry_events(): calls.append("disable_telemetry_events")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of that name that nobody has loaded, in an environment that says nothing."""
    path = tmp_path / "onnxruntime.py"
    path.write_text(STAND_IN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # puts back what was there
    del sys.modules["onnxruntime"]
    monkeypatch.delenv(TELEMETRY_OFF, raising=False)
    return path


@pytest.mark.usefixtures("stand_in")
def test_it_is_off_while_it_is_loaded_and_only_then() -> None:
    found = onnx_runtime()
    assert (found.seen, found.calls) == ("1", ["disable_telemetry_events"])
    assert TELEMETRY_OFF not in os.environ
    assert onnx_runtime() is found
    assert found.calls == ["disable_telemetry_events"]


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("value", ["0", "1", ""])
def test_the_users_own_word_stands(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(TELEMETRY_OFF, value)
    found = onnx_runtime()
    assert (found.seen, found.calls) == (value, [])
    assert os.environ[TELEMETRY_OFF] == value


@pytest.mark.usefixtures("stand_in")
def test_what_is_loaded_already_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("onnxruntime")  # has no function to call
    monkeypatch.setitem(sys.modules, "onnxruntime", theirs)
    assert onnx_runtime() is theirs


def test_one_that_is_missing_or_broken_leaves_no_trace(stand_in: Path) -> None:
    stand_in.write_text("import there_is_no_such_module", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        onnx_runtime()
    assert TELEMETRY_OFF not in os.environ
    stand_in.write_text("raise OSError('no shared library')", encoding="utf-8")
    with pytest.raises(OSError, match="no shared library"):
        onnx_runtime()
    assert TELEMETRY_OFF not in os.environ

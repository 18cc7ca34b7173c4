"""The command line as a user runs it, in this process. A folder whose tests run it has these fixtures in its `conftest.py`."""

from __future__ import annotations

from typing import Any

import pytest

from scalablevit_ref import cli, digits


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    monkeypatch.setattr("sys.argv", ["scalablevit-ref", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: call(capsys, monkeypatch, *arguments)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first twenty test images, to be quick."""
    images, labels = digits.test_images()
    monkeypatch.setattr(digits, "test_images", lambda: (images[:20], labels[:20]))

"""Whatever a command opens by name must be a regular file: nothing else is waited for, or read without end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.testing.traces import reference_trace, save_trace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="these kinds of files are POSIX's")

COMMANDS = {
    "verify --image": ("i.png", ["verify", "--variant", "small", "--backend", "numpy", "--image"]),
    "verify --weights": ("w.safetensors", ["verify", "--weights"]),
    "attend": ("i.jpg", ["attend", "--variant", "small", "--layer", "stages.0.1", "-o", "a.svg"]),
    "compare --names": ("n.json", ["compare", "t.npz", "--weights", "w.npz", "--names"]),
    "compare --images .npy": ("x.npy", ["compare", "t.npz", "--weights", "w.npz", "--images"]),
    "compare --images trace": ("x.npz", ["compare", "t.npz", "--weights", "w.npz", "--images"]),
    "compare --weights": ("w.pth", ["compare", "t.npz", "--weights"]),
    "compare model": ("m.onnx", ["compare", "--variant", "digits", "--weights", "w.npz"]),
    "compare trace": ("u.safetensors", ["compare", "--weights", "w.npz"]),
    "compare reference": ("r.npz", ["compare", "t.npz"]),
    "trace --images": ("x.npy", ["trace", "o.npz", "--variant", "digits", "--images"]),
    "trace --weights": ("w.npz2", ["trace", "o.npz", "--weights"]),
    "convert": ("c.pth", ["convert"]),
    "diff": ("d.pth", ["diff", "w.npz"]),
    "evaluate": ("e.npz", ["evaluate", "--weights", "w.npz"]),
    "evaluate --weights": ("e.pth", ["evaluate", "v.npz", "--weights"]),
    "evaluate --against": ("e.pth", ["evaluate", "v.npz", "--weights", "w.npz", "--against"]),
    "evaluate --labels": ("l.txt", ["evaluate", "v.npz", "--weights", "w.npz", "--labels"]),
    "evaluate --classes": ("n.txt", ["evaluate", "v.npz", "--weights", "w.npz", "--classes"]),
    "inspect": ("f.pth", ["inspect"]),
    "summary": ("s.pth", ["summary"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    images = np.zeros((1, 1, 112, 112), "float32")
    sv.save_checkpoint(folder / "w.npz", checkpoint.params, checkpoint.config)
    save_trace(folder / "t.npz", reference_trace(images, checkpoint.params, checkpoint.config), checkpoint.config)
    np.savez(folder / "v.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    return folder


KINDS: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_refused_in_one_line(command: str, kind: str, folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    name, arguments = COMMANDS[command]
    path = folder / f"{kind}.{name}"
    if not path.is_symlink() and not path.exists():
        KINDS[kind](path)
    rest = ["o.npz"] if command == "convert" else []
    code, out, err = run(*arguments, path.name, *rest)
    assert (code, out) == (2, "")
    assert err.startswith("scalablevit-ref: ")
    assert err.count("\n") == 1
    assert path.name in err
    assert not (folder / "o.npz").exists()


@pytest.mark.parametrize("name", ["x" * 300 + ".npz", "not \udcff utf-8.npz", ".npz/", "a\nb.npz"])
def test_odd_names_are_one_line_too(name: str, folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for arguments in (
        ["compare", name, "--weights", "w.npz"],
        ["compare", "t.npz", "--weights", "w.npz", "--images", name],
        ["compare", "t.npz", "--weights", "w.npz", "--names", name],
        ["verify", "--variant", "small", "--backend", "numpy", "--image", name],
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert err.rstrip("\n").isprintable()


def test_words_keep_their_capitals(folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "large.json").write_bytes(b"{}" + b" " * (1 << 20))
    code, _, err = run("compare", "t.npz", "--weights", "w.npz", "--names", "large.json")
    assert code == 2
    assert err.startswith("scalablevit-ref: large.json: more than 1,048,576 bytes; expected a JSON object")


def test_a_python_file_that_is_a_fifo_is_not_waited_for(folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    os.mkfifo(folder / "port.py")
    code, _, err = run("compare", "port.py:Model", "--variant", "digits")
    assert (code, err) == (2, "scalablevit-ref: port.py: a FIFO; expected a Python file\n")

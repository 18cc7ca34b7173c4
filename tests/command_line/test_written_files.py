"""Commands that write: nothing over what exists or is read, all refusals before work, and a line for each file that is written."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.errors import printable
from scalablevit_ref.testing.traces import save_trace
from tests.support.checkpoints import DIGITS, listing
from tests.support.waiting import HANGS
from tests.support.write_faults import leftovers

TRACE = {"images": np.zeros((1, 1, 112, 112)), "logits": np.ones((1, 10))}
COMPARE = ("compare", "mine.npz", "theirs.npz", "--variant", "digits", "--no-diagnosis")
ATTEND = ("attend", "digit:1", "--layer", "stages.3.0")

OUTPUTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("draw", "digits", "--layer", "pos_block.0", "-o", "x.svg"), ("x.svg",)),
    ((*ATTEND, "-o", "x.png"), ("x.png",)),
    ((*COMPARE, "--html", "x.html", "--plot", "x.pdf"), ("x.html", "x.pdf")),
    (("trace", "x.npz", "--variant", "digits", "--dtype", "float32", "--save-weights", "w.pth"), ("x.npz", "w.pth")),
    (("convert", "source.npz", "x.safetensors", "--sha256", "x.txt", "--config-json"), ("x.safetensors", "x.txt", "config.json")),
)
"""Command lines, and the files that each writes."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With traces and weights to read."""
    monkeypatch.chdir(tmp_path)
    save_trace("mine.npz", TRACE)
    save_trace("theirs.npz", TRACE)
    shutil.copy(digits.CHECKPOINT, "digits.pth")
    sv.save_checkpoint("source.npz", sv.init_params(DIGITS), DIGITS)
    return tmp_path


def nothing_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands compute would fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("something is computed")

    for module, name in (
        ("attend", "layer_attention"),
        ("trace", "reference_trace"),
        ("compare", "held_against"),
        ("bench", "document"),
    ):
        monkeypatch.setattr(sys.modules[f"scalablevit_ref.cli.{module}"], name, fail, raising=False)
    monkeypatch.setattr("scalablevit_ref.drawing.layer_diagram", fail)
    monkeypatch.setattr("scalablevit_ref.drawing.attention_weights.layer_attention", fail)
    monkeypatch.setattr("scalablevit_ref.checkpoints.convert.open_checkpoint", fail)


CASES = [pytest.param(command, files, name, id=f"{command[0]} {name}") for command, files in OUTPUTS for name in files]


@pytest.mark.parametrize(("command", "files", "name"), CASES)
def test_what_exists_is_kept_unless_forced(
    command: tuple[str, ...], files: tuple[str, ...], name: str, run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, and a link, which is replaced and not followed."""
    (folder / "precious").write_bytes(b"precious")
    before = listing(folder)
    for there in ("file", "link"):
        (folder / name).write_bytes(b"precious") if there == "file" else (folder / name).symlink_to("precious")
        with monkeypatch.context() as patched:
            nothing_computed(patched)
            code, out, err = run(*command)
        assert (code, out, err) == (2, "", f"scalablevit-ref: {name} exists; --force overwrites it\n")
        assert listing(folder) == sorted([*before, name])
        if name == "config.json":
            (folder / name).unlink()
            break  # what has no JSON in it is refused with --force too (`hub.merged`)
        code, out, err = run(*command, "--force")
        assert (code, err) == (0, "")
        assert not (folder / name).is_symlink()
        assert b"precious" not in (folder / name).read_bytes()
        assert (folder / "precious").read_bytes() == b"precious"
        assert listing(folder) == sorted([*before, *files])
        for file in files:
            assert command[0] in ("draw", "attend") or file in out
            (folder / file).unlink()


def test_a_benchmark_is_refused_before_it_runs(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    arguments = ("bench", "--variants", "digits", "--plot", "x.svg", "--page", "x.md")
    nothing_computed(monkeypatch)
    for name in ("x.svg", "x-dark.svg", "x.md"):
        (folder / name).touch()
        assert run(*arguments) == (2, "", f"scalablevit-ref: {name} exists; --force overwrites it\n")
        (folder / name).unlink()
    assert "the same file as x.svg" in run("bench", "--plot", "x.svg", "--page", "x.svg", "--force")[2]


def test_what_is_read_is_not_written_over(run: Any, folder: Path) -> None:
    """Under its name, by a link and by a hard link, with --force too."""
    Image.new("L", (8, 8)).save("image.png")
    (folder / "port.py").write_text("def port(): ...\n", encoding="utf-8")
    (folder / "names.json").write_text("{}", encoding="utf-8")
    for command, source, output in (
        ((*COMPARE, "--html"), "mine.npz", ".html"),
        ((*COMPARE, "--html"), "theirs.npz", ".html"),
        ((*COMPARE, "--plot"), "mine.npz", ".svg"),
        ((*COMPARE, "--names", "names.json", "--html"), "names.json", ".html"),
        ((*COMPARE, "--images", "theirs.npz", "--html"), "theirs.npz", ".html"),
        (("compare", "port.py:port", "--weights", "digits.pth", "--html"), "port.py", ".html"),
        (("compare", "port.py:port", "--weights", "digits.pth", "--html"), "digits.pth", ".html"),
        ((*ATTEND, "--weights", "digits.pth", "-o"), "digits.pth", ".svg"),
        (("attend", "image.png", "--layer", "stages.3.0", "--variant", "small", "-o"), "image.png", ".png"),
        (("trace", "--weights", "source.npz"), "source.npz", ".npz"),
        (("trace", "--variant", "digits", "--images", "mine.npz"), "mine.npz", ".npz"),
        (("trace", "t.npz", "--weights", "digits.pth", "--save-weights"), "digits.pth", ".pth"),
        (("convert", "source.npz"), "source.npz", ".npz"),
        (("convert", "source.npz", "x.npz", "--sha256"), "source.npz", ".txt"),
    ):
        content = (folder / source).read_bytes()
        names = [f"hard{output}", f"soft{output}", *([source] if source.endswith(output) else [])]
        (folder / names[0]).hardlink_to(source)
        (folder / names[1]).symlink_to(source)
        before = listing(folder)
        for name in names:
            code, out, err = run(*command, name, "--force")
            assert (code, out) == (2, "")
            assert err == f"scalablevit-ref: {name}: this file is read, and is not written over; expected another name\n"
        assert listing(folder) == before
        assert (folder / source).read_bytes() == content
        for name in names[:2]:
            (folder / name).unlink()


def test_weights_of_a_folder_or_an_index_are_not_written_over(run: Any, folder: Path) -> None:
    (folder / "hub").mkdir()
    assert run("convert", "source.npz", "hub/model.safetensors")[0] == 0
    held = (folder / "hub" / "model.safetensors").read_bytes()
    refused = "scalablevit-ref: hub/model.safetensors: this file is read, and is not written over; expected another name\n"
    assert run("convert", "hub", "hub/model.safetensors", "--dtype", "float16", "--force") == (2, "", refused)
    (folder / "hub" / "x.safetensors.index.json").write_text('{"weight_map": {"norm.bias": "model.safetensors"}}')
    index = "hub/x.safetensors.index.json"
    assert run("convert", index, "hub/model.safetensors", "--dtype", "float16", "--force") == (2, "", refused)
    assert (folder / "hub" / "model.safetensors").read_bytes() == held
    assert run("convert", "hub/model.safetensors", "hub/half.safetensors", "--dtype", "float16")[0] == 0


def test_a_trace_and_its_weights_are_both_written_or_neither(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listing(folder)
    nothing_computed(monkeypatch)
    for arguments, said in (
        (("t.npz", "--save-weights", "w.xyz"), "w.xyz: unknown suffix"),
        (("t.npz", "--save-weights", "w.h5"), "w.h5: a .h5 file is read by layout 'keras' alone"),
        (("t.npz", "--save-weights", "none/w.npz"), "none/w.npz: there is no folder none"),
        (("t.npz", "--save-weights", "source.npz"), "source.npz exists; --force overwrites it"),
        (("t.npz", "--save-weights", "t.npz", "--force"), "t.npz: the same file as t.npz, which is to be written too"),
        (("t.npz", "--save-weights", "./t.npz"), "t.npz: the same file as t.npz, which is to be written too"),
        (("t.xyz",), "t.xyz: unknown suffix"),
        (("none/t.npz",), "none/t.npz: there is no folder none"),
        (("/dev/null",), "/dev/null: unknown suffix"),
    ):
        code, out, err = run("trace", *arguments, "--variant", "digits")
        assert (code, out, said in err, err.count("\n")) == (2, "", True, 1), err
    assert listing(folder) == before


def test_a_second_file_that_cannot_be_named_takes_the_first_back(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest's name is taken while the checkpoint is written."""
    from scalablevit_ref.checkpoints import convert

    manifest_text = convert.manifest_text

    def meanwhile(params: Any) -> bytes:
        (folder / "x.txt").write_bytes(b"theirs")
        return manifest_text(params)

    monkeypatch.setattr(convert, "manifest_text", meanwhile)
    before = listing(folder)
    code, _, err = run("convert", "source.npz", "x.npz", "--sha256", "x.txt")
    assert (code, err) == (2, "scalablevit-ref: x.txt exists; --force overwrites it\n")
    assert (folder / "x.txt").read_bytes() == b"theirs"
    assert listing(folder) == sorted([*before, "x.txt"])


@pytest.mark.parametrize("stem", ["\udcff\udcfe", "a\nb", "[bold]x", "x" * 240], ids=["no UTF-8", "a line break", "markup", "long"])
def test_files_of_any_name(stem: str, run: Any, folder: Path) -> None:
    """They are written under it, and said so that a terminal can show it."""
    for command, files in OUTPUTS:
        renamed = {name: stem + name.removeprefix("x").removeprefix("w") for name in files if name != "config.json"}
        code, out, err = run(*(renamed.get(word, word) for word in command))
        assert (code, err) == (0, "")
        for name in renamed.values():
            assert command[0] in ("draw", "attend") or printable(name) in out
            (folder / name).unlink()


def test_sigterm_ends_a_conversion_and_nothing_is_left(folder: Path) -> None:
    """On a system without unnamed files."""
    config = sv.variant("small")
    sv.save_checkpoint("small.safetensors", sv.init_params(config), config)
    (folder / "place").mkdir()
    program = (
        "import os, sys; del os.O_TMPFILE\n"
        "sys.argv[0] = 'scalablevit-ref'  # as the installed program\n"
        "from scalablevit_ref.cli import main\n"
        "main()"
    )
    arguments = ["convert", "small.safetensors", "place/x.npz", "--dtype", "float64"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + HANGS
    while not leftovers(folder / "place") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.terminate()
    process.communicate(timeout=HANGS)
    assert process.returncode == 143
    assert listing(folder / "place") == []


@pytest.mark.parametrize("name", ["x.svg", "x.png", "x.pdf", "x.html"])
def test_what_this_program_drew_is_drawn_again(name: str, run: Any, folder: Path) -> None:
    """A picture or a report of this program can be made again, and is replaced; anybody else's, or a link to ours, is not."""
    run("trace", "t.npz", "--variant", "digits", "--save-weights", "w.npz")
    command = ("compare", "t.npz", "--weights", "w.npz", "--html") if name == "x.html" else ("draw", "digits", "-o")
    path = folder / name
    assert run(*command, name)[0] == 0
    drawn = path.read_bytes()
    assert run(*command, name)[0] == 0
    for other in (drawn.replace(b"scalablevit-ref", b"somebody else's"), b"precious"):
        path.write_bytes(other)
        code, _, err = run(*command, name)
        assert (code, "--force overwrites it" in err, path.read_bytes()) == (2, True, other)
    path.unlink()
    (folder / "kept").write_bytes(drawn)
    path.symlink_to("kept")
    assert run(*command, name)[0] == 2
    assert path.is_symlink()

"""What a port's own code raises is told from what is refused, with its file and line; and a port changes nothing around it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.compare.capture.own_code import own_code, raised
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing import compare
from scalablevit_ref.testing.arrays import random_images, random_params

DIGITS = sv.variant("digits")
IMAGES = random_images((1, 1, 112, 112))


class OddError(Exception):
    def __str__(self) -> str:
        raise ValueError


class StubbornError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class EndError(BaseException):
    """No Exception."""


class Elusive:
    """Of no class that can be asked for."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, value: Any) -> None:
        pass


RAISED: dict[str, tuple[Callable[[], object], str]] = {
    "ValueError": (lambda: (_ for _ in ()).throw(ValueError("boom")), "ValueError: boom"),
    "TypeError": (lambda: len(5), "TypeError: object of type 'int' has no len()"),  # type: ignore[arg-type]
    "KeyError": (lambda: {}["x"], "KeyError: 'x'"),
    "AttributeError": (lambda: None.x, "AttributeError: 'NoneType' object has no attribute 'x'"),  # type: ignore[attr-defined]
    "RuntimeError of torch": (lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), "RuntimeError: mat1 and mat2 shapes cannot be"),
    "SystemExit": (lambda: sys.exit(0), "SystemExit: 0"),
    "MemoryError": (lambda: (_ for _ in ()).throw(MemoryError), "MemoryError ("),
    "FileNotFoundError": (lambda: Path("nowhere").stat(), "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'"),
    "lines and escapes": (lambda: (_ for _ in ()).throw(ValueError("a\nb\x1b[2J")), r"ValueError: a b\x1b[2J"),
    "long": (lambda: (_ for _ in ()).throw(ValueError("x" * 10_000)), f"ValueError: {'x' * 300}… ("),
    "no words": (lambda: (_ for _ in ()).throw(OddError), "OddError: it cannot be printed"),
    "words that end": (lambda: (_ for _ in ()).throw(StubbornError), "StubbornError: it cannot be printed"),
    "no Exception": (lambda: (_ for _ in ()).throw(EndError("end")), "EndError: end"),
    "GeneratorExit": (lambda: next(_ for _ in [0] if (_ for _ in [0]).throw(GeneratorExit)), "GeneratorExit ("),
}


def line_of(action: Callable[[], object]) -> int:
    return action.__code__.co_firstlineno


class Raising(ScalableViT):
    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__(DIGITS)
        self.action = action

    def forward(self, images: torch.Tensor) -> Any:
        self.action()
        return super().forward(images)


@pytest.mark.parametrize("case", RAISED)
@pytest.mark.parametrize("kind", ["function", "torch"])
def test_an_exception_is_one_line_with_its_place(case: str, kind: str) -> None:
    action, words = RAISED[case]
    candidate = Raising(action) if kind == "torch" else lambda images: action()
    weights = {"weights": random_params(sv.parameter_shapes(DIGITS))} if kind == "function" else {}
    with pytest.raises(CaptureError) as error:
        compare(candidate, variant="digits", images=IMAGES, **weights)
    said = str(error.value)
    assert said.startswith(f"running the candidate raised {words}")
    assert f"({__file__}, line {line_of(action)}, in " in said
    assert said.isprintable()
    assert type(error.value.__cause__).__name__ == words.partition(":")[0].partition(" ")[0]


def test_what_passes() -> None:
    def interrupted(images: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(interrupted, variant="digits", images=IMAGES, weights=digits.CHECKPOINT)
    ours = CaptureError("said already")
    with pytest.raises(CaptureError) as error, own_code("running"):
        raise ours
    assert error.value is ours


def test_what_is_no_exception_and_none_of_a_users_passes() -> None:
    """As what a signal raises, and what pytest ends a test with."""
    with pytest.raises(pytest.fail.Exception, match="the test's"), own_code("running"):
        pytest.fail("the test's")


def test_a_candidate_that_cannot_be_looked_at() -> None:
    with pytest.raises(CaptureError, match=r"^looking at the candidate raised RuntimeError: no class \(.*test_own_code\.py"):
        compare(Elusive(), variant="digits", images=IMAGES, weights=digits.CHECKPOINT)


def test_a_copy_that_fails_is_the_candidate_s_doing() -> None:
    class Stiff(ScalableViT):
        def __deepcopy__(self, memo: Any) -> Any:
            raise NotImplementedError("no copies")

    with pytest.raises(CaptureError, match=r"^copying the candidate raised NotImplementedError: no copies \(.*test_own_code\.py"):
        compare(Stiff(DIGITS), variant="digits")


@pytest.mark.parametrize("method", ["named_modules", "named_parameters", "named_buffers"])
def test_a_module_that_cannot_be_looked_into(method: str) -> None:
    with pytest.raises(CaptureError, match=r"^[a-z ]+ raised RuntimeError: not to be looked at \(.*test_own_code\.py"):
        compare(opaque_module(method), variant="digits", images=IMAGES, diagnosis=False)


def test_a_state_dict_is_not_asked_for() -> None:
    assert compare(opaque_module("state_dict"), variant="digits", images=IMAGES, diagnosis=False).agrees


def opaque_module(method: str) -> ScalableViT:
    """A faithful module whose copy in evaluation mode cannot be asked for this."""

    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("not to be looked at")

    def opaque(self: Any) -> Any:
        found = original(self)
        setattr(found, method, fails)
        return found

    original = ScalableViT.eval
    module: ScalableViT = type("Opaque", (ScalableViT,), {"eval": opaque})(DIGITS)
    return module


def test_a_flax_module_names_the_place_for_each_layout() -> None:
    from flax import nnx

    class Port(nnx.Module):
        def __init__(self) -> None:
            self.weight = nnx.Param(np.ones((3, 3), np.float32))

        def __call__(self, images: Any) -> Any:
            raise KeyError(f"{images.shape[1]} channels")

    with pytest.raises(CaptureError) as error:
        compare(Port(), variant="digits", images=IMAGES)
    said = str(error.value)
    assert said.startswith("the candidate runs with no layout of the images: b c h w: KeyError: '1 channels' (")
    assert "; b h w c: KeyError: '112 channels' (" in said
    assert said.count("test_own_code.py, line") == 2
    assert isinstance(error.value.__cause__, KeyError)

    class Same(Port):
        def __call__(self, images: Any) -> Any:
            raise KeyError(f"rank {images.ndim}")

    with pytest.raises(CaptureError, match=r"^running the candidate raised KeyError: 'rank 4' \(.*own_code\.py, line") as error:
        compare(Same(), variant="digits", images=IMAGES)
    assert str(error.value).count("rank 4") == 1

    class Ending(Port):
        def __call__(self, images: Any) -> Any:
            raise SystemExit(0)

    with pytest.raises(CaptureError, match="SystemExit: 0"):
        compare(Ending(), variant="digits")


def test_the_place_is_the_innermost_of_the_users_own() -> None:
    with pytest.raises(CaptureError) as error, own_code("running"):
        json.loads("{")
    assert f"JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) ({__file__}, line" in str(
        error.value
    )
    with pytest.raises(CaptureError, match=r"ZeroDivisionError: division by zero \(.*test_own_code.py"), own_code("running"):
        exec(compile("1 / 0", "<stdin>", "exec"))
    assert raised(ValueError("boom")) == "ValueError: boom"
    with pytest.raises(CaptureError, match=r"SyntaxError: .*\(<string>, line 2\)"), own_code("importing"):
        compile("x\nclass", "<string>", "exec")


def test_numpy_s_handling_of_errors_is_kept() -> None:
    def strict(images: np.ndarray) -> np.ndarray:
        np.seterr(all="raise")
        return np.zeros((1, 10))

    before = np.geterr()
    compare(strict, variant="digits", images=IMAGES, weights=digits.CHECKPOINT, diagnosis=False)
    assert np.geterr() == before


# The command line

PORT = """
import ctypes
import os
import re
import subprocess
import sys
import warnings

import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT

print("imported")


class Loud(ScalableViT):
    def forward(self, images):
        print("python")
        os.write(1, b"descriptor\\n")
        ctypes.CDLL(None).puts(b"libc")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
        warnings.warn("careful")
        return super().forward(images)


def loud():
    os.chdir("elsewhere")
    sys.path.insert(0, "/nowhere")
    warnings.simplefilter("error", DeprecationWarning)
    return Loud(sv.variant("digits"))


def ends():
    raise SystemExit(0)


class Fails:
    def __init__(self):
        self.helper()

    def helper(self):
        raise OSError("no such luck")


def interrupted(images):
    raise KeyboardInterrupt


def closes(images):
    sys.stdout.close()
    sys.stderr.close()
    sys.stderr = None


def ends_what_runs_it(images):
    raise GeneratorExit
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "scalablevit_ref", "compare", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "port.py").write_text(PORT, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def test_json_is_one_document_whatever_a_port_prints(folder: Path) -> None:
    (folder / "w.pth").write_bytes(digits.CHECKPOINT.read_bytes())
    np.save(folder / "x.npy", IMAGES)
    (folder / "names.json").write_text("{}", encoding="utf-8")
    options = ["--weights", "w.pth", "--images", "x.npy", "--html", "report.html", "--plot", "errors.svg", "--no-diagnosis"]
    done = command(folder, "port.py:loud", *options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agrees"] is True
    for words in ("imported", "python", "descriptor", "libc", "child", "UserWarning: careful"):
        assert words in done.stderr
    assert {"report.html", "errors.svg"} <= {path.name for path in folder.iterdir()}
    assert list((folder / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed as on POSIX")
def test_a_closed_standard_output_is_no_traceback(folder: Path) -> None:
    line = f"{sys.executable} -m scalablevit_ref compare port.py:ends --variant digits >&-"
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


REFUSED = {
    "ends": ("port.py:ends", r"scalablevit-ref: making port\.py:ends raised SystemExit: 0 \(.*port\.py, line 33, in ends\)"),
    "a constructor": (
        "port.py:Fails",
        r"scalablevit-ref: making port\.py:Fails raised OSError: no such luck \(.*port\.py, line 41, in helper\)",
    ),
    "a syntax error": ("syntax.py:x", r"scalablevit-ref: importing syntax\.py raised SyntaxError: .*syntax\.py, line 2\)"),
    "a missing module": (
        "needs.py:x",
        r"scalablevit-ref: importing needs\.py raised ModuleNotFoundError: .*'absent_module' \(.*needs\.py, line 1",
    ),
    "a missing module of a package": (
        "needs:x",
        r"scalablevit-ref: importing needs raised ModuleNotFoundError: .*'absent_module' \(.*needs\.py, line 1",
    ),
    "no module": ("absent_module.inner:x", r"scalablevit-ref: No module named 'absent_module'"),
    "a name nearly there": ("port.py:Loudd", r"scalablevit-ref: candidate: port\.py has no 'Loudd' \(did you mean 'Loud'"),
    "a folder": ("folder.py:x", r"scalablevit-ref: folder\.py: a folder; expected a Python file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_port_raises_before_it_runs_is_one_line(case: str, folder: Path) -> None:
    (folder / "syntax.py").write_text("x = 1\ndef f(:\n", encoding="utf-8")
    (folder / "needs.py").write_text("import absent_module\n", encoding="utf-8")
    (folder / "folder.py").mkdir()
    candidate, words = REFUSED[case]
    done = command(folder, candidate, "--variant", "digits")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line != "imported"]
    assert re.match(words, line), line


def test_an_interrupted_port_is_no_difference(folder: Path) -> None:
    (folder / "w.pth").write_bytes(digits.CHECKPOINT.read_bytes())
    done = command(folder, "port.py:interrupted", "--weights", "w.pth")
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["imported", "scalablevit-ref: interrupted"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("closes", "what the function gives: 'logits' is a NoneType, and not an array"),
        ("ends_what_runs_it", "running the candidate raised GeneratorExit (./port.py, line 55, in ends_what_runs_it)"),
    ],
)
def test_a_port_closes_no_stream_of_ours_and_ends_nothing(name: str, words: str, folder: Path) -> None:
    (folder / "w.pth").write_bytes(digits.CHECKPOINT.read_bytes())
    done = command(folder, f"port.py:{name}", "--weights", "w.pth")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.replace(str(folder), ".").splitlines() == ["imported", f"scalablevit-ref: {words}"]

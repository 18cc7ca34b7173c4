"""What comes of a file: read bit for bit, refused with a remedy that was run, refused without one, or read wrongly."""

from __future__ import annotations

import ast
import contextlib
import os
import pickle
import re
import shlex
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scalablevit_ref as sv
from tests.programs.producers.made import Made, Producer, Reading, Weights

READ, ASKED, REMEDY, NAMED, LISTED = "read", "read with an option", "refused, remedy run", "refused, named", "refused, listed"
WRONG, HELPLESS, CRASHED, NOT_MADE, NOT_OPENED = "WRONG", "REFUSED WITHOUT REMEDY", "CRASHED", "NOT MADE", "NOT OPENED"
BAD = {WRONG, HELPLESS, CRASHED, NOT_MADE, NOT_OPENED}


@dataclass(frozen=True)
class Row:
    """One line of the table: `said` is the refusal, or what was wrong."""

    name: str
    family: str
    library: str
    version: str
    writes: str
    form: str
    result: str
    option: str = ""
    remedy: str = ""
    said: str = ""


def installed(row: Producer) -> bool:
    return all(there(name) for name in row.needs)


def there(name: str) -> bool:
    """Whether a module could be imported."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def run(row: Producer, family: str) -> Row:
    """Make the file in a folder of its own, and read it."""
    try:
        found = version(row.distribution)
    except PackageNotFoundError:
        found = sv.__version__ if hasattr(sv, "__version__") else "–"
    plain = {"name": row.name, "family": family, "library": row.library, "version": found, "writes": row.writes, "form": row.form}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet():
        try:
            made = row.make(Path(folder))
        except Exception as error:
            return Row(**plain, result=NOT_MADE, said=f"{type(error).__name__}: {error}")
        return Row(**plain, **outcome(made, Path(folder)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the libraries print and warn of is not this program's."""
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


def outcome(made: Made, folder: Path) -> dict[str, str]:
    """The worst of the readings, with the option that was needed and the remedy that was run."""
    found: dict[str, str] = {"result": READ}
    for reading in made.readings:
        one = _read(made, reading, folder)
        if one["result"] in BAD:
            return one
        options = ", ".join(f"{name}={value!r}" if name != "config" else "config=…" for name, value in reading.options.items())
        if one["result"] == READ and options and "option" not in found:
            found["option"] = options
        if one["result"] != READ:
            found |= one
    if found["result"] == READ and all(reading.options for reading in made.readings):
        found["result"] = ASKED
    return found


def _read(made: Made, reading: Reading, folder: Path) -> dict[str, str]:
    try:
        checkpoint = sv.load_checkpoint(made.path, **reading.options)
    except sv.CheckpointError as error:
        return _refused(str(error), made, reading, folder)
    except Exception as error:
        return {"result": CRASHED, "said": f"{type(error).__name__}: {error}"}
    if made.tell:
        return {"result": WRONG, "said": "read, but the weights are not in the file"}
    told = repr(checkpoint.metadata)
    for truth, said in ((reading.truth, reading.said), *reading.instead):
        difference = differs(checkpoint.params, truth)
        if not difference:
            return (
                {"result": READ} if said.lower() in told.lower() else {"result": WRONG, "said": f"nothing said of {said!r}: {told}"}
            )
    return {"result": WRONG, "said": f"{differs(checkpoint.params, reading.truth)}; {told}"}


def differs(params: Weights, truth: Weights) -> str:
    """What is not equal, bit for bit, dtype included; empty if all is."""
    if missing := set(truth) ^ set(params):
        return f"names: {sorted(missing)[:3]}"
    for name, x in truth.items():
        dtype, shape, raw = _bits(x)
        other = _bits(params[name])
        if (dtype, shape, raw) != other:
            return f"{name}: {other[:2]} for {(dtype, shape)}" if (dtype, shape) != other[:2] else f"{name}: other numbers"
    return ""


def _bits(x: Any) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(x, torch.Tensor):
        x = x.detach().contiguous().cpu()
        raw = x.reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(x.dtype).removeprefix("torch."), tuple(x.shape), raw
    x = np.asarray(x)
    return x.dtype.name, x.shape, x.astype(x.dtype.newbyteorder("="), copy=False).tobytes()


PYTHON = re.compile(r"\b(?:torch|np|numpy|sv|jax|joblib|pickle|safetensors|onnx)\.[a-z_.]+\(")
"""Where a line of Python may begin."""
QUOTED = re.compile(r"`([^`]+)`")
"""A command or a line of Python, as messages give them: whole, between backquotes."""
COMMAND = re.compile(r"(?:scalablevit-ref|python|gunzip|bunzip2|unxz|tar|unzip|git|zstd|lz4) ")
OPTION = re.compile(r"\b(key|variant|layout|dtype|use_ema)= ?(?:one of )?(\"[^\"]+\"|'[^']+'|[^\s,;]+)")


def _refused(said: str, made: Made, reading: Reading, folder: Path) -> dict[str, str]:
    short = said.replace(str(made.path), made.path.name).replace(str(folder), ".")
    faults = [x for x in ("\n", "_Mapping", "StoredTensor", "Extent", "LazyTensor", "Opaque") if x in said]
    if faults or str(made.path) not in said:
        return {"result": HELPLESS, "said": f"(names {faults}, or not the file) {short}"}
    if made.tell:
        named = not re.search(r"found b['\"]", said) and all(word.lower() in said.lower() for word in made.tell)
        return {"result": NAMED if named else HELPLESS, "said": short}
    if reading.may_refuse:
        keys = [other.options["key"] for other in made.readings if "key" in other.options]
        listed = all(str(key).rpartition(".")[2] in said for key in keys)
        return {"result": LISTED if listed else HELPLESS, "said": short}
    tried = []
    for remedy, files, options in remedies(said.replace(str(made.path), made.path.name), made, folder):
        for path in files:
            try:
                params = sv.load_checkpoint(path, **{**reading.options, **options}).params
            except Exception as error:
                tried.append(f"[{remedy}] then {type(error).__name__}: {error}")
                continue
            differences = [differs(params, truth) for truth in (reading.truth, *(truth for truth, _ in reading.instead))]
            if not all(differences):
                return {"result": REMEDY, "remedy": remedy.replace(str(folder) + "/", ""), "said": short}
            return {"result": WRONG, "said": f"after {remedy}: {differences[0]}; {short}"}
        if not files:
            tried.append(f"[{remedy}] wrote nothing")
    return {"result": HELPLESS, "said": " || ".join([short, *tried]).replace(str(folder), ".")}


def remedies(said: str, made: Made, folder: Path) -> Iterator[tuple[str, list[Path], dict[str, Any]]]:
    """What the message offers, run: each with the files that it left and the options that it says to give."""
    for name, value in OPTION.findall(said):
        text = value.strip("\"'`")
        yield f"{name}={text!r}", [made.path], {name: {"True": True, "False": False}.get(text, text)}
    for quoted in QUOTED.findall(said):
        if not COMMAND.match(quoted):
            yield _run_python(quoted, made)
            continue
        words = shlex.split(quoted)
        shown = shlex.join(words)
        words = [sys.executable, "-m", "scalablevit_ref", *words[1:]] if words[0] == "scalablevit-ref" else words
        words = [sys.executable, *words[1:]] if words[0] == "python" else words
        before = _files(made.path.parent)
        with contextlib.suppress(OSError):
            subprocess.run(words, cwd=made.path.parent, capture_output=True, check=False)
        yield shown, _new(made.path.parent, before), {}
    for found in () if QUOTED.search(said) else PYTHON.finditer(said):
        if line := _longest_python(said[found.start() :]):
            yield _run_python(line, made)


def _run_python(line: str, made: Made) -> tuple[str, list[Path], dict[str, Any]]:
    """Run where the file is; what was run, and the files that it left."""
    names = {"torch": torch, "np": np, "numpy": np, "sv": sv, "pickle": pickle, "FILE": str(made.path)}
    before = _files(made.path.parent)
    try:
        with contextlib.chdir(made.path.parent):
            exec(line, {**names, "OUT": str(made.path.parent / "out.pth"), **made.at_hand})
    except Exception as error:
        return f"{line} ({type(error).__name__}: {error})", [], {}
    return line, _new(made.path.parent, before), {}


def _longest_python(text: str) -> str:
    """The longest beginning that is a call in Python, without words after it in parentheses."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 and letter == ")" and text[i + 1 : i + 2] not in {".", "["}:
            try:
                ast.parse(text[: i + 1])
            except SyntaxError:
                return ""
            return text[: i + 1]
    return ""


def _new(folder: Path, before: dict[Path, tuple[int, int]]) -> list[Path]:
    return [path for path, stamp in _files(folder).items() if before.get(path) != stamp]


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()}


def record(row: Row) -> dict[str, str]:
    return {name: value for name, value in asdict(row).items() if value}

"""Traces and names files that are drawn and damaged: all that they hold is compared, or they are refused in one line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from typer.testing import CliRunner

from scalablevit_ref.checkpoints import save_checkpoint
from scalablevit_ref.checkpoints.infer import config_to_json
from scalablevit_ref.cli import app
from scalablevit_ref.cli.compare import print_report
from scalablevit_ref.compare.names_file import read_names
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.layers import POOL
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing.arrays import random_images, random_params
from scalablevit_ref.testing.traces import reference_trace, trace_config, trace_images
from tests.support.fuzzed import Choices, damaged
from tests.support.fuzzed_configurations import any_configuration, dumped
from tests.support.hostile import header
from tests.support.hostile_inputs import LONGEST
from tests.support.noted_files import NETWORK

IMAGES = "images"

HOSTILE_NAMES = (
    "", "\x1b[2J\x1b]0;x\x07", "[bold red]x[/]", "<script>x</script>", "a\nb\r", "é" * 400, "../x", "\u202e", "stages.9.9",
    "logits ", "Logits", "scalablevit_ref", "__metadata__", "x" * 100_000, "%s{k}{i}",
)  # fmt: skip

DTYPES = {
    "float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64", "bool": "BOOL", "uint8": "U8", "complex64": "C64",
    ">f4": "", "longdouble": "", "M8[s]": "", "U4": "", "V4": "",
}  # fmt: skip
"""What a layer's numbers may be made of, and what safetensors calls it; nothing where it has no word for it."""


@cache
def params() -> dict[str, np.ndarray]:
    return random_params(parameter_shapes(NETWORK), dtype="float32")


@cache
def sound() -> dict[str, np.ndarray]:
    """Every layer of the network, in float32, and the images."""
    images = random_images((2, 1, 16, 16), dtype="float32")
    return {name: np.ascontiguousarray(x) for name, x in reference_trace(images, params(), NETWORK).items()}


@cache
def layers() -> tuple[str, ...]:
    return tuple(name for name in sound() if name != IMAGES)


def of_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "V4":
        return x.astype("f4").view("V4")
    with np.errstate(all="ignore"):
        return x.astype("i8").astype(dtype) if dtype == "M8[s]" else x.astype(dtype)


SHAPINGS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: np.atleast_1d(x)[:1], lambda x: np.atleast_1d(x)[..., :0], lambda x: x.T, lambda x: x.reshape(-1), lambda x: x[None],
    lambda x: x[()][..., None], lambda x: np.zeros((), x.dtype), lambda x: np.zeros((1,) * 30, x.dtype), lambda x: np.stack([x, x]),
)  # fmt: skip
"""Ways to give a layer a shape that is not its own."""

VALUES = (np.nan, np.inf, 0.0, 1e30, -1.0)
"""What one number of a layer becomes."""


def drawn(choices: Choices) -> tuple[dict[str, np.ndarray], bool]:
    """Some of the layers, some of them changed; and whether all that are left are as the reference computes them."""
    trace, right = dict(sound()), True
    if choices.number(2):
        kept = {choices.one_of(layers()) for _ in range(1 + choices.number(4))} | {IMAGES}
        trace = {name: x for name, x in trace.items() if name in kept}
    for _ in range(choices.number(4)):
        name = choices.one_of((*trace, IMAGES))
        what = choices.number(6)
        x = trace.get(name)
        if x is None or what == 5:
            trace.pop(name, None)
        elif what == 0:
            dtype = choices.one_of(tuple(DTYPES))
            for each in list(trace) if choices.number(2) else [name]:
                trace[each] = of_dtype(sound().get(each, trace[each]), dtype)
            right &= dtype in ("float32", ">f4")
        elif what == 1 and x.dtype.kind == "f":
            trace[name], right = choices.one_of(SHAPINGS)(x), False
        elif what == 2 and x.dtype.kind == "f" and x.size:
            with np.errstate(all="ignore"):
                trace[name] = x.copy()
                trace[name].reshape(-1)[choices.number(256) % x.size] = choices.one_of(VALUES)
            right = False
        elif what == 3:
            trace[choices.one_of(HOSTILE_NAMES)] = trace.pop(name)
        else:
            trace[choices.one_of(HOSTILE_NAMES)] = x
    return trace, right


def npz_of(trace: Mapping[str, np.ndarray], notes: str | None) -> bytes:
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, x in trace.items():
            array = io.BytesIO()
            np.save(array, x, allow_pickle=False)
            archive.writestr(f"{name[:60_000].replace(chr(0), '')}.npy", array.getvalue())
        if notes is not None:
            archive.comment = f"scalablevit_ref {notes}".encode(errors="replace")[:65_535]
    return out.getvalue()


def safetensors_of(trace: Mapping[str, np.ndarray], notes: str | None) -> bytes:
    entries: dict[str, Any] = {} if notes is None else {"__metadata__": {"scalablevit_ref": notes}}
    at, parts = 0, []
    for name, x in trace.items():
        content = np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes()
        entries[name] = {"dtype": DTYPES.get(x.dtype.name, "F32"), "shape": x.shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
        parts.append(content)
    return header(entries, b"".join(parts))


def cut(content: bytes, choices: Choices) -> bytes:
    """The same bytes, or with a few of them changed."""
    changed = bytearray(content)
    for _ in range(choices.one_of((0, 0, 0, 1, 3))):
        at = (choices.number(256) * 256 + choices.number(256)) * len(changed) // 65536
        put = bytes(choices.number(256) for _ in range(1 + choices.number(4)))
        changed[at : at + (choices.number(4) if choices.number(8) == 7 else len(put))] = put
    return bytes(changed)


def said_or(call: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What a call gives, or the one printable line of an error of these types."""
    try:
        return call()
    except errors as error:
        said = str(error)
    assert said.isprintable(), f"an error of more than one line: {said!r}"
    assert len(said) < LONGEST, "an error of many characters"
    return said


def read_trace(folder: Path, data: bytes) -> None:
    """A drawn trace as a candidate, or as the reference that another one is held against; and the images in it."""
    choices = Choices(data)
    npz = choices.number(2)
    trace, right = drawn(choices)
    notes = (
        dumped({"version": 1, "layout": "trace", "config": any_configuration(choices, False)}) if choices.number(4) == 3 else None
    )
    if notes is None and choices.number(2):
        notes = json.dumps({"version": 1, "layout": "trace", "config": config_to_json(NETWORK)})
    content = npz_of(trace, notes) if npz else safetensors_of(trace, notes)
    whole = cut(content, choices)
    right = right and whole == content
    path = folder / ("trace.npz" if npz else "trace.safetensors")
    path.write_bytes(whole)
    said_or(lambda: trace_config(path), CheckpointError)
    said_or(lambda: trace_images(path), CheckpointError)
    options: dict[str, Any] = {"variant": NETWORK} if notes is None or choices.number(4) else {}
    options["mode"] = choices.one_of(("both", "both", "propagated", "isolated"))
    if choices.number(4) != 3:
        options["weights"] = params()
    if choices.number(4) == 3:
        options["images"] = sound()[IMAGES]
    candidate: Any = path
    if choices.number(4) == 3:
        candidate, options["reference"] = sound(), path
    report = said_or(lambda: compare(candidate, diagnosis=False, **options), ValueError, TypeError)
    if isinstance(report, Report):
        compared(report)
        alone = candidate is not path and "weights" in options and options["mode"] != "propagated"
        mine = set(layers()) if alone else set(trace) & set(layers())
        held = {row.layer for row in report.rows}
        assert whole != content or held == mine, f"not compared: {sorted(held ^ mine)}"
        if "variant" in options:
            assert not right or report.agrees, "right, and said to differ"


def read_npy(path: Path, data: bytes) -> None:
    """Images in a `.npy`: an array that is no larger than its file, or a refusal."""
    path.write_bytes(data)
    found = said_or(lambda: trace_images(path), CheckpointError)
    assert isinstance(found, str) or found.nbytes <= len(data), "an array larger than its file"


def compared(report: Report) -> None:
    """A report can be told in each of the ways, whatever names are in it."""
    assert all(line.isprintable() for line in str(report).splitlines()), "control characters in a report"
    json.dumps(report.to_json())
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    print_report(console, report, every=True)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(c.isprintable() for c in told if c != "\n"), "control characters on the terminal"


# Names files


TARGETS = ("attention", "blocks.{k}.{i}.attn", "x.{i}", "stages.0.0", "", "\x1b[2J", "é" * 300, "logits", "mine", "{k}")

PATTERNS = (
    "stages.{k}.{i}.attn",
    "stages.{k}.{i}",
    "stages.{i}.{k}.norm1",
    "stages.{k}.9.attn",
    "{k}",
    "{i}.{k}",
    "norm.{k}",
    "{",
    "{x}",
)


def any_mapping(choices: Choices) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(choices.number(5)):
        name = choices.one_of((*layers(), *PATTERNS, "stages.0.0.atn", "pool", IMAGES, *HOSTILE_NAMES[:6]))
        found[name] = choices.one_of((*TARGETS, *layers(), 1, None, ["x"]) if choices.number(4) == 3 else (*TARGETS, *layers()))
    return found


def of_mapping(mapping: Mapping[str, str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each entry of a mapping, and the layers and names that it stands for: layers of the reference's trace, and `pool`."""
    found, known = [], (*layers(), POOL)
    for name, target in mapping.items():
        if "{k}" not in name and "{i}" not in name:
            found.append((name, [(name, target)] if name in known else []))
            continue
        like = re.escape(name).replace(re.escape("{k}"), r"(?P<k>\d+)", 1).replace(re.escape("{i}"), r"(?P<i>\d+)", 1)
        matches = [(layer, match.groupdict()) for layer in known if (match := re.fullmatch(like, layer))]
        filled = [
            (layer, target.replace("{k}", numbers.get("k", "{k}")).replace("{i}", numbers.get("i", "{i}")))
            for layer, numbers in matches
        ]
        found.append((name, filled))
    return found


def read_names_file(folder: Path, data: bytes) -> None:
    """A trace of other names with a names file: each entry is honoured, or the run is refused."""
    choices = Choices(data)
    trace = dict(sound())
    mapping: Any = {}
    for _ in range(choices.number(4)):  # entries that are right, unless another one replaces them
        layer = choices.one_of(layers())
        if layer in trace:
            mapping[layer] = choices.one_of(("attention", "mine", "\x1b[2J", "[bold]x[/]", f"port.{layer}"))
            trace[mapping[layer]] = trace.pop(layer)
    if choices.number(3) == 2:  # a pattern that is right
        mapping["stages.{k}.{i}.attn"] = "blocks.{k}.{i}.attn"
        for layer in list(trace):
            if re.fullmatch(r"stages\.\d+\.\d+\.attn", layer):
                trace[layer.replace("stages", "blocks")] = trace.pop(layer)
    if choices.number(2):
        mapping |= any_mapping(choices)
    text = damaged(json.dumps(mapping).encode(), choices) if choices.number(4) == 3 else json.dumps(mapping).encode()
    if choices.number(16) == 15:
        text = choices.rest()
    path, file = folder / "names.json", folder / "trace.npz"
    path.write_bytes(text)
    names = said_or(lambda: read_names(path), ValueError, OSError)
    if isinstance(names, str):
        assert str(path) in names, "a refusal that does not name the file"
    else:
        found = said_or(
            lambda: compare(trace, variant=NETWORK, weights=params(), names=names, diagnosis=False), ValueError, TypeError
        )
        if isinstance(found, Report):
            compared(found)
            honoured(found, names, trace)
    if len(data) % 8 == 7:
        file.write_bytes(npz_of(trace, json.dumps({"version": 1, "layout": "trace", "config": config_to_json(NETWORK)})))
        weights = folder / "weights.npz"
        save_checkpoint(weights, params(), NETWORK, force=True)
        arguments = ["compare", str(file), "--weights", str(weights), "--names", str(path), "--no-diagnosis"]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, SystemExit | None), f"a traceback: {result.exception!r}"
        assert result.exit_code in (0, 1, 2), f"exit code {result.exit_code}"
        assert result.exit_code != 2 or len(result.stderr.splitlines()) == 1, "a refusal of several lines"
        assert (result.exit_code == 2) == isinstance(names if isinstance(names, str) else found, str), "other than in Python"


def honoured(report: Report, names: Mapping[str, str], trace: Mapping[str, Any]) -> None:
    """A layer's own entry is what it is compared as; a pattern's are so for all layers without one whose name is there."""
    rows = {row.layer: row.module for row in report.rows}
    said: dict[str, set[str]] = {}
    for name, pairs in of_mapping(names):
        is_pattern = "{k}" in name or "{i}" in name
        own = [(layer, target) for layer, target in pairs if not (is_pattern and layer in names)]
        there = [(layer, target) for layer, target in own if target in trace]
        assert pairs, f"{name[:40]!r} is no layer, and was dropped"
        assert there or (is_pattern and not own), f"{name[:40]!r} is mapped to no array of the trace, and was dropped"
        for layer, target in there:
            said.setdefault(layer, set()).add(target)
    for layer, targets in said.items():
        assert rows.get(layer) in targets, f"{layer} was compared as {rows.get(layer)!r}"


def npy_seeds() -> dict[str, bytes]:
    """Small arrays of NumPy."""
    found = {}
    for name, x in {
        "images": sound()[IMAGES],
        "wide": np.zeros((1, 1, 2, 2), ">f8"),
        "text": np.array("x"),
        "f": np.ones((2, 3), order="F"),
    }.items():
        out = io.BytesIO()
        np.save(out, x, allow_pickle=False)
        found[f"{name}.npy"] = out.getvalue()
    return found

"""What is planted in a port, and how it is judged what was said of it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from scalablevit_ref.compare.report import Report

PORTS = Path(__file__).with_name("ports")

NAMES = tuple(sorted(path.stem for path in PORTS.glob("*.py") if not path.stem.endswith("_mistakes") and path.stem != "__init__"))
"""The ports: each is a file in `ports/`, with its mistakes beside it in NAME_mistakes.py (`MISTAKES`, `RIGHT`)."""


@dataclass(frozen=True)
class Planted:
    """A mistake, or a change that leaves a port right.

    Attributes
    ----------
    name
        Unique in its port.
    edits
        Texts of the port's source, each there at least once, and what stands in their places.
    layer
        The layers that may be named as the first that goes wrong, by the reference's names; empty where the port stays right.
    cause
        A regular expression, case ignored, that fits a right description of the mistake and no wrong one.
    options
        Of `compare`, where the usual ones do not show the mistake.
    """

    name: str
    edits: tuple[tuple[str, str], ...]
    layer: tuple[str, ...] = ()
    cause: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What the comparator said of one port.

    Attributes
    ----------
    verdict
        "agrees", "differs" or "refused".
    first
        The layer that was named first.
    layer, cause
        Whether the right layer was named, and whether what was said fits the words of the cause.
    step
        Whether the step inside the first layer was told, and a kind of difference with it.
    read
        Whether a cause fits only what was added after it was read.
    false
        Causes that were asserted and are none.
    said
        The whole report, or the refusal.
    """

    verdict: str
    first: str
    layer: bool
    cause: bool
    step: bool
    read: bool
    false: tuple[str, ...]
    said: str


def judged(planted: Planted, found: Report | Exception, read: str = "") -> Judged:
    """Hold what was said against what was planted. A port that stays right must agree.

    `read` is an expression for descriptions that were found right when they were read, beside the author's own.
    """
    if isinstance(found, Exception):
        named = bool(planted.cause and re.search(planted.cause, str(found), re.IGNORECASE))
        return Judged("refused", "", False, named, False, False, (), f"{type(found).__name__}: {found}")
    verdict, said = "agrees" if found.agrees else "differs", str(found)
    if not planted.layer:
        return Judged(verdict, "", found.agrees, found.agrees, False, False, tuple(map(str, found.causes)), said)
    first = found.first.layer if found.first else ""
    own = re.compile(planted.cause, re.IGNORECASE)
    fits = re.compile(f"{planted.cause}|{read}" if read else planted.cause, re.IGNORECASE)
    texts = [str(cause) for cause in found.causes]
    exact = [f"{seen.place}: {d.words}" for seen in found.insides for d in seen.differences if d.exact]
    noted = [note for seen in found.insides for note in seen.notes] + [row.absent for row in found.rows if row.absent]
    told = [*texts, *exact, *noted, *found.notes, *found.unsteady, *found.own_weights]
    false = tuple(text for text in texts if not fits.search(text))
    kinds = [d.kind for seen in found.insides if seen.layer == first and seen.step for d in seen.differences]
    step = any(kind != "size" for kind in kinds) or any(cause.place for cause in found.causes if first in cause.layers)
    right = [text for text in told if fits.search(text)]
    added = any(fits.search(text) and not own.search(text) for text in texts) or not any(own.search(text) for text in right)
    return Judged(verdict, first, first in planted.layer, bool(right), step, bool(right) and added, false, said)


def source_of(port: str) -> str:
    return (PORTS / f"{port}.py").read_text(encoding="utf-8")


def planted_in(port: str) -> tuple[tuple[Planted, ...], tuple[Planted, ...]]:
    """The mistakes of a port, and the changes that leave it right."""
    module = import_module(f"tests.programs.corpus.ports.{port}_mistakes")
    return tuple(module.MISTAKES), tuple(module.RIGHT)


def built(port: str, planted: Planted, folder: Path, config: Any) -> Any:
    """The port with these edits, from a file of its own in `folder`, as a user's is. AssertionError for an edit that is stale."""
    source = source_of(port)
    for old, new in planted.edits:
        assert old in source, f"{port}, {planted.name}: {old!r} is not in the source"
        source = source.replace(old, new)
    path = folder / f"{port}.py"
    path.write_text(source, encoding="utf-8")
    return _module(path).build(config)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"corpus_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module

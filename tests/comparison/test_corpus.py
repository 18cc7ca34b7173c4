"""The corpus of foreign ports: every edit applies, the page is its document's, and some of it is compared anew."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import scalablevit_ref as sv
from scalablevit_ref.testing import compare
from tests.programs.corpus.page import page
from tests.programs.corpus.planted import NAMES, Planted, built, judged, planted_in, source_of
from tests.support.profiles import share

DOCS = Path(__file__).parents[2] / "docs"

ANEW = {
    "torch_swin": 12,
    "torch_timm": 24,
    "torch_functional": 28,
}
"""Ports, and which of their mistakes are compared by `nightly`: one in so many; else every second of these. JAX compiles for too
long."""


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "corpus.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("port", NAMES)
def test_every_edit_applies(port: str) -> None:
    source, (mistakes, right) = source_of(port), planted_in(port)
    names = [planted.name for planted in (*mistakes, *right)]
    assert len(set(names)) == len(names)
    for planted in (*mistakes, *right):
        edited = source
        for old, new in planted.edits:
            assert old in edited
            edited = edited.replace(old, new)
        assert edited != source
    assert all(planted.layer and planted.cause for planted in mistakes)
    assert not any(planted.layer for planted in right)


def test_the_page_is_that_of_the_document() -> None:
    assert page(document()) == (DOCS / "corpus.md").read_text(encoding="utf-8")


def test_the_document_is_of_this_corpus() -> None:
    rows = document()["rows"]
    known = {(port, planted.name) for port in NAMES for group in planted_in(port) for planted in group}
    told = {(row["port"], row["name"]) for row in rows}
    assert told <= known
    assert {port for port, _ in known - told} <= {"flax_nnx"}  # which takes long, and is gone on with by `--missing`
    assert document()["summary"]["wrong ports called right"] == 0
    assert document()["summary"]["right ports not called right"] == 0


def some(port: str) -> list[Planted]:
    mistakes, right = planted_in(port)
    return [*share(mistakes[:: ANEW[port]], of=2), *share(right[:2], of=2)]


@pytest.mark.parametrize(
    ("port", "planted"), [pytest.param(port, planted, id=f"{port}: {planted.name}") for port in ANEW for planted in some(port)]
)
def test_some_of_it_is_compared_anew(port: str, planted: Planted, tmp_path: Path) -> None:
    config = sv.variant("digits")
    before = next(row for row in document()["rows"] if (row["port"], row["name"]) == (port, planted.name))
    report = compare(built(port, planted, tmp_path, config), **{"variant": config, **planted.options})
    found = judged(planted, report)
    assert found.verdict == before["verdict"]
    assert (found.first, found.layer, found.cause) == (before["first"], before["layer"], before["cause"]), found.said

"""The table of libraries in `docs/backends.md`: a row for each backend, from a run, and within the tolerances."""

from __future__ import annotations

import re
from typing import Any

import pytest
from scalablevit_ref.backends.dispatch import BACKENDS, SPELLED

from scalablevit_ref.testing.arrays import NETWORK_TOLERANCE
from tests.programs import libraries
from tests.support.documents import ROOT
from tests.support.marked import marked

PAGE = libraries.PAGE.read_text(encoding="utf-8")
ROWS = {name: [cell.strip() for cell in line.strip("|").split(" | ")] for name, line in libraries.rows(PAGE).items()}


def test_a_row_for_each_backend() -> None:
    """After a backend is added: `python -m tests.programs.libraries --write`."""
    assert list(ROWS) == [SPELLED[name] for name in libraries.libraries()]
    assert {len(cells) for cells in ROWS.values()} == {len(libraries.HEAD)}


def test_what_is_known_of_each_library() -> None:
    assert tuple(libraries.WAYS) == BACKENDS


def test_on_what_it_was_measured() -> None:
    first = marked(PAGE, libraries.MARK)[0]
    assert re.fullmatch(r"Measured on .*, one core, \w+, Python [\d.]+, numpy [\d.]+, .*; \d{4}-\d\d-\d\d\.", first)


@pytest.mark.parametrize("name", [name for name, cells in ROWS.items() if cells[1] != "not measured"])
def test_the_figures(name: str) -> None:
    """Errors within the network's tolerance, one trace (TinyJit makes two), and about as many lines as the module has now."""
    row = dict(zip(libraries.HEAD, ROWS[name], strict=True))
    for dtype in ("float64", "float32"):
        assert row[dtype] == "the same" or 0 < float(row[dtype].split()[0]) <= NETWORK_TOLERANCE[dtype]
    assert row["gradient"] == "none" or 0 < float(row["gradient"]) <= 64
    compiled = re.fullmatch(r"([\d.]+), (\d) traces?", row["compiled"])
    assert row["compiled"] == "none" or (compiled and int(compiled[2]) == 1 + (name == "tinygrad"))
    assert re.fullmatch(r"\d+ (eager|compiled), \d+\.\d\d ×", row["images a second"])
    module = next(key for key, value in SPELLED.items() if value == name)
    assert abs(int(row["lines"]) - len((ROOT / "backends" / f"{module}.py").read_text(encoding="utf-8").splitlines())) <= 10


FOUND: dict[str, Any] = {
    "float64": {"tap": "patch_embeds.0", "eps": 0.0},
    "float32": {"tap": "stages.2.1", "eps": 3.14159},
    "rate": {"own": 228.4, "plain": 456.8},
    "timed": "eager",
    "lines": 250,
}


def test_a_row() -> None:
    assert libraries.row("numpy", FOUND) == "| NumPy | the same | 3.1 (`stages.2.1`) | none | none | 228 eager, 0.50 × | 250 |"
    more = FOUND | {"gradient": 6.46, "compiled": {"eps": 1.6, "traces": 2}, "timed": "compiled"}
    expected = "| tinygrad | the same | 3.1 (`stages.2.1`) | 6.5 | 1.6, 2 traces | 228 compiled, 0.50 × | 250 |"
    assert libraries.row("tinygrad", more) == expected
    assert libraries.row("cupy", {"absent": "no CUDA device"}).count("not measured") == len(libraries.HEAD) - 1


@pytest.mark.usefixtures("as_in_production")
def test_a_library_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy, whose float64 is the reference itself; and PyTorch, whose gradient is that of the plain network."""
    monkeypatch.setattr(libraries, "SECONDS", 0.0)
    monkeypatch.setattr(libraries, "BATCH", 2)
    found = libraries.measured("numpy")
    assert (found["float64"]["eps"], found["timed"]) == (0.0, "eager")
    assert 0 < found["float32"]["eps"] <= NETWORK_TOLERANCE["float32"]
    assert found["rate"].keys() == {"own", "plain"}
    way = libraries.Way(gradient=libraries.torch().gradient)
    monkeypatch.setitem(libraries.WAYS, "torch", lambda: way)  # type: ignore[arg-type]
    found = libraries.measured("torch")
    assert 0 < found["gradient"] <= 64
    assert "compiled" not in found

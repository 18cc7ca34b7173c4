"""`docs/certified.md`: its figures are those of the last run, they are bounds, and what is cheap is proved again."""

from __future__ import annotations

import json

import pytest

from scalablevit_ref.testing import NETWORK_TOLERANCE
from tests.programs import certified
from tests.programs.proof import page as proof

FIGURES = json.loads(certified.FIGURES.read_text(encoding="utf-8"))
NETWORKS = FIGURES["networks"]


def test_the_page_is_written_from_the_figures() -> None:
    """After a run: `python -m tests.programs.certified --write`."""
    page = certified.PAGE.read_text(encoding="utf-8")
    assert certified.written(page, FIGURES) == page
    assert set(NETWORKS) == {"digits", "small", "base"}


def test_the_proof_has_the_proved_errors_of_float64() -> None:
    """After a run, also: `python -m tests.programs.proof --certified`."""
    lines = [line.split(":")[0] for line in proof.proved()]
    assert lines == [f"- {name}" for name in NETWORKS]
    assert "\n".join(["", *proof.proved(), ""]) in proof.TARGET.read_text(encoding="utf-8")


def test_the_definitions_are_proved_again() -> None:
    assert certified.proved_functions() == FIGURES["functions"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_figures_are_bounds(name: str) -> None:
    found = NETWORKS[name]
    assert found["width"] < 2.0**-63
    assert found["gigabytes"] < 6
    shown = {row["who"]: row for row in found["rows"] if "eps" in row}
    assert set(shown) >= {"numpy", "torch"}
    for row in shown.values():
        for low, high in row["eps"].values():
            assert 0 <= low <= high < low + 1e-3
            assert high <= NETWORK_TOLERANCE[row["dtype"]]
    (oracle,) = (row for row in found["rows"] if (row["who"], row["dtype"]) == ("numpy", "float64"))
    assert oracle["eps"]["logits"][0] > 0
    assert len(oracle["eps"]) == found["taps"]

"""The page of the proof, of which some columns can be measured anew."""

from __future__ import annotations

from tests.programs import proof

PAGE = proof.TARGET.read_text(encoding="utf-8")
FAULTS = "## The planted faults"
TEST = "test_ops:test_01_gelu_is_the_exact_one"


def test_no_column_measured_anew_is_the_same_page() -> None:
    assert proof.with_columns(PAGE, {}, []) == PAGE


def test_a_column_is_measured_anew() -> None:
    """What it had is gone; the other columns, and the planted faults, are as they were."""
    found = proof.with_columns(PAGE, {TEST: {"tinygrad": 7.0}}, ["tinygrad"])
    assert found.partition(FAULTS)[2] == PAGE.partition(FAULTS)[2]
    before, after = ([line for line in text.splitlines() if line.startswith("| ")] for text in (PAGE, found))
    changed = [line.split(" | ") for line in after if "GELU is the exact one" in line]
    assert [line[-1] for line in changed] == ["7 |"]
    column = after[0].strip("| ").split(" | ").index("tinygrad")
    for old, new in zip(before, after, strict=True):
        cells = [line.split("|")[1:-1] for line in (old, new)]
        if len(cells[1]) > column:
            assert [x for i, x in enumerate(cells[0]) if i != column] == [x for i, x in enumerate(cells[1]) if i != column]
            assert cells[1][column].strip() in ("tinygrad", "7", "")


def test_a_library_that_the_page_does_not_have_is_a_new_column() -> None:
    page = proof.with_columns(PAGE, {}, ["mlx", "tinygrad"])
    assert "tinygrad |" not in page
    assert "tinygrad |" in proof.with_columns(page, {TEST: {"tinygrad": 1.0}}, ["tinygrad"])

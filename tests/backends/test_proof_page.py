"""The page of the proof: written from what was measured, with a grid that says the same as the table and leads to it."""

from __future__ import annotations

import json
import re
from html import unescape

from tests.programs.proof.grid import MUTATION, STATEMENTS, by_number, head, shade
from tests.programs.proof.measure import LIBRARIES, worst_of
from tests.programs.proof.page import TARGET, page, read
from tests.programs.proof.rows import SURVIVES, figure, found_by, rows_of, with_columns
from tests.support.mistakes import PLANTED

PAGE = TARGET.read_text(encoding="utf-8")
ROWS, FAULTS = read(PAGE)
TEST = "test_ops:test_01_gelu_is_the_exact_one"


def test_the_page_is_written_from_its_rows() -> None:
    """After a change of `docs/mutation.json` or `docs/certified.json`: `python -m tests.programs.proof --mutants`."""
    assert page(ROWS, FAULTS) == PAGE
    assert page(with_columns(ROWS, {}, []), FAULTS) == PAGE
    assert list(FAULTS) == list(PLANTED)


def test_a_column_is_measured_anew() -> None:
    """What it had is gone; the other columns are as they were."""
    rows = with_columns(ROWS, {TEST: {"tinygrad": 7.0}}, ["tinygrad"])
    assert [row.errors["tinygrad"] for row in rows if "tinygrad" in row.errors] == [7.0]
    assert [row for row in rows if row.errors.get("tinygrad")] == [row for row in rows if row.statement == "GELU is the exact one"]
    for old, new in zip(ROWS, rows, strict=True):
        assert old.id == new.id
        assert {**old.errors, "tinygrad": None} == {**new.errors, "tinygrad": None}


def test_a_library_that_the_page_does_not_have_is_a_new_column() -> None:
    without = page(with_columns(ROWS, {}, ["mlx", "tinygrad"]), FAULTS)
    assert "| tinygrad |" not in without
    assert '<th scope="col">tinygrad</th>' not in without
    rows = with_columns(read(without)[0], {TEST: {"tinygrad": 1.0}}, ["tinygrad"])
    assert "| tinygrad |" in page(rows, FAULTS)
    assert '<th scope="col">tinygrad</th>' in page(rows, FAULTS)


def test_a_run_becomes_rows_and_faults() -> None:
    found = worst_of(
        [
            ("tests/properties/test_iwsa.py::test_14_a_key_bias_changes_nothing[numpy]", 94.04),
            ("tests/properties/test_iwsa.py::test_14_a_key_bias_changes_nothing[jax]", None),
            ("tests/properties/test_ops.py::test_01_gelu_is_the_exact_one[numpy-x]", 1.0),
            ("tests/properties/test_ops.py::test_01_gelu_is_the_exact_one[numpy-y]", 3.0),
            ("tests/backends/test_numpy.py::test_shapes", 5.0),
        ]
    )
    gelu, bias = rows_of(found)
    assert (gelu.number, gelu.subject, gelu.statement, gelu.errors) == (1, "ops", "GELU is the exact one", {"numpy": 3.0})
    assert (bias.number, bias.errors, bias.id) == (14, {"numpy": 94.04, "jax": 0.0}, "p14-iwsa-a-key-bias-changes-nothing")
    assert [figure(error) for error in (0.0, 0.9712, 94.04, 214.9, 1.46e15)] == ["holds", "0.97", "94", "210", "1.5e+15"]
    assert found_by({"torch": {"no LIM": [TEST], "post-norm": []}}) == {
        "no LIM": {"torch": "1 tests: properties 1"},
        "post-norm": {"torch": SURVIVES},
    }


def test_the_grid_has_the_worst_error_of_each_property_on_each_library() -> None:
    numbers = sorted({row.number for row in ROWS})
    assert numbers == list(STATEMENTS) == list(range(1, len(STATEMENTS) + 1))
    lines = re.findall(r'<tr><th scope="row"><b>(\d+)</b> (.+?)</th>(.+)</tr>', PAGE)
    assert [(int(number), unescape(words)) for number, words, _ in lines] == list(STATEMENTS.items())
    places = dict(re.findall(r'^\| <span id="(.+?)">\d+</span> (.+) \|$', PAGE, re.MULTILINE))
    seen = set()
    for number, _, cells in lines:
        found = re.findall(r'<td class="(\w+)"><a href="#(.+?)" title="(\w+): (.+?)">(.+?)</a></td>', cells)
        assert [library for _, _, library, _, _ in found] == list(LIBRARIES)
        for kind, place, library, said, sign in found:
            errors = [row.errors[library] for row in ROWS if row.number == int(number) and library in row.errors]
            worst = max(errors, default=None)
            assert kind == shade(worst)
            assert sign == ("–" if worst is None else figure(worst).replace("holds", "✓"))
            in_table = places[place].split("|")[3:][LIBRARIES.index(library)].strip()
            assert in_table == ("" if worst is None else figure(worst))
            assert not worst or f"{figure(worst)} eps" in said
            seen.add(kind)
    assert seen == {"exact", "small", "medium", "large", "unused"}


def test_the_shades_end_where_the_legend_says() -> None:
    shades = [shade(error) for error in (None, 0.0, 8.0, 8.1, 64.0, 64.1)]
    assert shades == ["unused", "exact", "small", "medium", "medium", "large"]
    legend = PAGE.partition('<p class="shades">')[2].partition("</p>")[0]
    for kind, shown, bound in re.findall(r'<b class="(small|medium)">([\d.]+)</b>[^<]*?up to (\d+) eps', legend):
        assert shade(float(shown)) == shade(float(bound)) == kind


def test_the_three_figures_are_counted() -> None:
    told = re.findall(r"^- \*\*(.+?)\*\* (.+)$", "\n".join(head(ROWS, FAULTS)), re.MULTILINE)
    assert told == re.findall(r"^- \*\*(.+?)\*\* (.+)$", PAGE.partition("<table")[0], re.MULTILINE)
    mutation = json.loads(MUTATION.read_text(encoding="utf-8"))
    everywhere = [some for some in by_number(ROWS).values() if {name for row in some for name in row.errors} == set(LIBRARIES)]
    properties, faults, mutants = (name for name, _ in told)
    assert (properties, faults) == (f"{len(STATEMENTS)} properties", f"{len(PLANTED)} of {len(PLANTED)} planted faults")
    assert told[0][1].startswith(f"hold, {len(everywhere)} of them on all {len(LIBRARIES)} libraries.")
    assert mutants == f"{mutation['killed']:,} of {mutation['mutants']:,} mutants"
    fault = next(iter(FAULTS))
    survived = head(ROWS, FAULTS | {fault: {"numpy": SURVIVES, "torch": "1 tests: properties 1"}})
    assert any(line.startswith(f"- **{len(PLANTED) - 1} of {len(PLANTED)} planted faults**") for line in survived)

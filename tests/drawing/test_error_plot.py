"""`compare --plot`: the picture holds the report's errors, the tolerance and the first layer to differ."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref.cli import app
from scalablevit_ref.compare.report import Report, Row
from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.errors import _figure, error_plot
from scalablevit_ref.testing.arrays import Comparison
from scalablevit_ref.testing.traces import save_trace

LAYERS = ["patch_embeds.0", *(f"stages.{k}.{i}.attn" for k in range(3) for i in range(4)), "norm", "logits"]


def report(
    propagated: list[float], isolated: list[float] | None = None, tolerance: float = 32.0, layers: list[str] = LAYERS
) -> Report:
    def comparison(error: float) -> Comparison:
        return Comparison(error, "float32", (0,), 1.0, 1.0)

    alone = [None] * len(propagated) if isolated is None else [comparison(error) for error in isolated]
    rows = [
        Row(layer, layer, "b c", (1, 2), comparison(error), own)
        for layer, error, own in zip(layers, propagated, alone, strict=True)
    ]
    return Report("module", sv.variant("digits"), "both", "float32", tolerance, tuple(rows))


WRONG = report([1.0] * 6 + [1e6] * 9, [0.5, 0.0] * 3 + [2e5] + [0.5] * 8)
BROKEN = report([1.0] * 13 + [math.nan] * 2, [0.5] * 13 + [math.nan, math.inf])
FINE = report([0.25] * 15)


def figure(of: Report, title: str = "a port against the reference") -> Figure:
    with style.themed("light") as colors:
        return _figure(of, title, colors)


def axes(of: Report) -> Axes:
    return figure(of).axes[0]


def heights(of: Report, marker: str = "o") -> list[list[float]]:
    """Of each series: the powers of ten at which its marks lie."""
    return [[float(y) for y in line.get_ydata()] for line in axes(of).lines if line.get_marker() == marker]  # type: ignore[union-attr]


def test_errors_lie_at_their_powers_of_ten() -> None:
    propagated, isolated = heights(WRONG)
    assert propagated == [0.0] * 6 + [6.0] * 9
    lowest = axes(WRONG).get_ylim()[0]
    assert isolated[::2] == pytest.approx([math.log10(0.5)] * 3 + [math.log10(2e5)] + [math.log10(0.5)] * 4)
    assert all(lowest < y < -1 for y in isolated[1:6:2])  # zeros, below all powers
    assert [label.get_text() for label in axes(WRONG).get_yticklabels()][-1] == "0"
    assert heights(FINE) == [[math.log10(0.25)] * 15]


def test_tolerance_and_first_layer_are_marked() -> None:
    plot = axes(WRONG)
    dashed = [line for line in plot.lines if line.get_linestyle() == "--"]
    assert [float(y) for y in dashed[0].get_ydata()] == [math.log10(32)] * 2  # type: ignore[union-attr]
    assert {text.get_text() for text in plot.texts} == {"allowed 32 eps", "first: stages.1.1.attn"}
    assert [float(x) for x in plot.lines[-3].get_xdata()] == [6.0, 6.0]  # type: ignore[union-attr]
    assert {text.get_text() for text in axes(FINE).texts} == {"allowed 32 eps"}


def test_nan_has_a_lane_of_its_own() -> None:
    crosses = heights(BROKEN, "x")
    plot = axes(BROKEN)
    top, highest = plot.get_ylim()[1], math.log10(100)
    assert [len(series) for series in crosses] == [2, 2]
    assert all(highest < y < top for series in crosses for y in series)
    assert "NaN, ∞" in [label.get_text() for label in plot.get_yticklabels()]
    assert [len(series) for series in heights(BROKEN)] == [13, 13]


def test_stages_are_named_or_numbered_where_they_are_narrow() -> None:
    assert [label.get_text() for label in axes(WRONG).get_xticklabels()] == ["stage 0", "stage 1", "stage 2", "head"]
    many = [f"stages.{k}.{i}.attn" for k, depth in enumerate((2, 2, 60)) for i in range(depth)]
    plot = axes(report([1.0] * 64, layers=many))
    assert [label.get_text() for label in plot.get_xticklabels()] == ["0", "1", "2"]
    assert plot.get_xlabel() == "stage"


@pytest.mark.parametrize("of", [WRONG, BROKEN, FINE])
def test_letters_neither_overlap_nor_leave_the_picture(of: Report) -> None:
    drawn = figure(of, "a_package.with_a_long_name.models:make_the_network_of_the_paper against the reference")
    renderer = FigureCanvasAgg(drawn).get_renderer()  # type: ignore[no-untyped-call]
    drawn.draw(renderer)
    plot = drawn.axes[0]
    texts = [*drawn.texts, *plot.texts, *plot.get_xticklabels(), *plot.get_yticklabels(), plot.yaxis.label]
    boxes = [text.get_window_extent(renderer) for text in texts]
    width, height = drawn.get_size_inches() * 96
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    for a, b in combinations(boxes, 2):
        assert not (a.x0 < b.x1 - 1 and b.x0 < a.x1 - 1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1)


def test_equal_reports_are_equal_bytes_and_hold_their_words(tmp_path: Path) -> None:
    for theme in style.THEMES:
        alt = error_plot(WRONG, tmp_path / "one.svg", theme=theme)
        error_plot(WRONG, tmp_path / "two.svg", theme=theme)
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert alt.endswith("Allowed are 32 eps. The first to differ is stages.1.1.attn.")
    assert alt in (tmp_path / "one.svg").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"unknown theme 'sepia'"):
        error_plot(WRONG, tmp_path / "three.svg", theme="sepia")


def test_compare_draws_what_it_found(tmp_path: Path) -> None:
    trace = {name: np.ones((1, 10)) for name in ("head", "logits")}
    save_trace(tmp_path / "theirs.npz", {"images": np.zeros((1, 1, 112, 112)), **trace})
    save_trace(tmp_path / "mine.npz", {"images": np.zeros((1, 1, 112, 112)), **trace, "head": 1.001 * trace["head"]})
    files = [str(tmp_path / name) for name in ("mine.npz", "theirs.npz")]
    variant = ["--variant", "digits"]
    picture = tmp_path / "errors.png"
    done = CliRunner().invoke(app, ["compare", *files, *variant, "--plot", str(picture), "--theme", "dark"])
    assert done.exit_code == 1, done.output
    with Image.open(picture) as image:
        assert "The first to differ is head." in str(image.info["Description"])
        assert image.convert("RGB").getpixel((1, 1)) == tuple(bytes.fromhex(style.THEMES["dark"].page[1:]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "errors.gif"], "must end in .svg, .png or .pdf, got 'errors.gif'"),
        (["--plot", "errors.svg", "--theme", "sepia"], "unknown theme 'sepia'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_run(options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["compare", "absent.npz", *options])
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

"""`compare --plot`: the picture holds the report's errors, the tolerance and the first layer to differ."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref.cli import app
from scalablevit_ref.compare.error_chart import error_chart, error_picture, error_plot, power_of_ten
from scalablevit_ref.compare.report import Report, Row
from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.diagram import Diagram
from scalablevit_ref.drawing.render import drawn, house_style
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


SIZE = 12


def chart(of: Report, width: float = 560) -> Diagram:
    return error_chart(of, width=width, letters=SIZE)


def ticks(of: Report) -> dict[str, float]:
    """The y of each tick of the vertical axis, by its words; its line is there too."""
    diagram = chart(of)
    found = {text.words: text.y - SIZE / 3 for text in diagram.texts if text.anchor == "right" and not text.bold}
    levels = {round(line.points[0][1], 6) for line in diagram.lines if line.color == "rule"}
    named = {words: y for words, y in found.items() if words != "eps" and not words.startswith("allowed")}
    assert {round(y, 6) for y in named.values()} <= levels
    return named


def power(of: Report, y: float) -> float:
    """The power of ten at this y, as the axis' ticks have it."""
    known = {power_of_ten(n): n for n in range(-30, 30)}
    (low, y_low), *_, (high, y_high) = sorted((known[words], at) for words, at in ticks(of).items() if words in known)
    return low + (high - low) * (y_low - y) / (y_low - y_high)


def heights(of: Report, *shapes: str) -> list[list[float]]:
    """Of each series: the powers of ten at which its marks lie."""
    return [[power(of, y) for _, y in marks.points] for marks in chart(of).marks if marks.shape in (shapes or ("ring", "dot"))]


def labels(of: Report, width: float = 560) -> list[str]:
    """What stands under the horizontal axis."""
    return [text.words for text in chart(of, width).texts if text.anchor == "center"]


def notes(of: Report) -> set[str]:
    """What stands in the plot and above it."""
    return {text.words for text in chart(of).texts if text.words.startswith(("allowed", "first"))}


def test_errors_lie_at_their_powers_of_ten() -> None:
    propagated, isolated = heights(WRONG)
    assert propagated == pytest.approx([0.0] * 6 + [6.0] * 9)
    lowest = power(WRONG, chart(WRONG).tips[0].bottom)
    assert isolated[::2] == pytest.approx([math.log10(0.5)] * 3 + [math.log10(2e5)] + [math.log10(0.5)] * 4)
    assert all(lowest < y < -1 for y in isolated[1:6:2])  # zeros, below all powers
    assert list(ticks(WRONG))[-1] == "0"
    assert heights(FINE) == [pytest.approx([math.log10(0.25)] * 15)]


def test_tolerance_and_first_layer_are_marked() -> None:
    diagram = chart(WRONG)
    (dashed,) = [line for line in diagram.lines if line.dashed]
    assert [power(WRONG, y) for _, y in dashed.points] == pytest.approx([math.log10(32)] * 2)
    assert notes(WRONG) == {"allowed 32 eps", "first to differ: stages.1.1.attn"}
    (first,) = [line for line in diagram.lines if line.color == "bad"]
    assert {x for x, _ in first.points} == {diagram.marks[0].points[6][0]}
    assert notes(FINE) == {"allowed 32 eps"}
    assert [line.color for line in chart(FINE).lines if line.color == "bad"] == []


def test_nan_has_a_lane_of_its_own() -> None:
    crosses = heights(BROKEN, "cross")
    top, highest = power(BROKEN, chart(BROKEN).tips[0].y), math.log10(100)
    assert [len(series) for series in crosses] == [2, 2]
    assert all(highest < y < top for series in crosses for y in series)
    assert "NaN, ∞" in ticks(BROKEN)
    assert [len(series) for series in heights(BROKEN)] == [13, 13]


def test_stages_are_named_or_numbered_where_they_are_narrow() -> None:
    assert labels(WRONG) == ["stage 0", "stage 1", "stage 2", "head", "layers, in the order of the network"]
    many = [f"stages.{k}.{i}.attn" for k, depth in enumerate((2, 2, 60)) for i in range(depth)]
    assert labels(report([1.0] * 64, layers=many)) == ["0", "1", "2", "stage"]
    assert labels(WRONG, 210) == ["0", "1", "2", "head", "stage"]


def test_the_picture_s_chart_is_the_report_page_s() -> None:
    """The same marks, ticks and words, further down and with larger letters."""
    for of in (WRONG, BROKEN, FINE):
        picture, alone = error_picture(of, "a port"), chart(of)
        assert [text.words for text in picture.texts[-len(alone.texts) :]] == [text.words for text in alone.texts]
        assert len(picture.lines) == len(alone.lines)
        for one, other in zip(picture.marks[-len(alone.marks) :], alone.marks, strict=True):
            assert (one.shape, one.color, one.radius) == (other.shape, other.color, other.radius)
            down = {round(y - y_alone, 6) for (_, y), (_, y_alone) in zip(one.points, other.points, strict=True)}
            assert len(down) == 1
            assert [x for x, _ in one.points] == [x for x, _ in other.points]


@pytest.mark.parametrize("of", [WRONG, BROKEN, FINE])
def test_letters_neither_overlap_nor_leave_the_picture(of: Report) -> None:
    diagram = error_picture(of, "a_package.with_a_long_name.models:make_the_network_of_the_paper against the reference")
    with house_style():
        figure = drawn(diagram, style.THEMES["light"])
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        figure.draw(renderer)
        texts = figure.axes[0].texts
        boxes = [text.get_window_extent(renderer) for text in texts]
    assert len(texts) == len(diagram.texts)
    width, height = figure.get_size_inches() * 96
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    for a, b in combinations(boxes, 2):
        assert not (a.x0 < b.x1 - 1 and b.x0 < a.x1 - 1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1)


def test_equal_reports_are_equal_bytes_and_hold_their_words(tmp_path: Path) -> None:
    for theme in style.THEMES:
        alt = error_plot(WRONG, tmp_path / "one.svg", theme=theme, force=True)
        error_plot(WRONG, tmp_path / "two.svg", theme=theme, force=True)
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert alt.endswith("Allowed are 32 eps. The first to differ is stages.1.1.attn.")
    assert alt in (tmp_path / "one.svg").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"unknown theme 'sepia'"):
        error_plot(WRONG, tmp_path / "three.svg", theme="sepia")


def test_compare_draws_what_it_found(tmp_path: Path) -> None:
    trace = {name: np.ones((1, 10)) for name in ("head", "logits")}
    save_trace(tmp_path / "theirs.npz", {"images": np.zeros((1, 1, 112, 112)), **trace})
    save_trace(tmp_path / "mine.npz", {"images": np.zeros((1, 1, 112, 112)), **trace, "logits": 1.001 * trace["logits"]})
    files = [str(tmp_path / name) for name in ("mine.npz", "theirs.npz")]
    variant = ["--variant", "digits"]
    picture = tmp_path / "errors.png"
    done = CliRunner().invoke(app, ["compare", *files, *variant, "--plot", str(picture), "--theme", "dark"])
    assert done.exit_code == 1, done.output
    with Image.open(picture) as image:
        assert "The first to differ is logits." in str(image.info["Description"])
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

"""The report as a web page: well-formed, self-contained, complete; and looked at in a browser, headless Chromium."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref.compare.html.differences import tables
from scalablevit_ref.compare.html.page import html as page
from scalablevit_ref.compare.mistakes.search import Finding
from scalablevit_ref.compare.reasoning.relayouts import Relayout
from scalablevit_ref.compare.report import Cause, Report, Row
from scalablevit_ref.compare.sample import sampled
from scalablevit_ref.drawing.style import THEMES
from scalablevit_ref.edits import Mistake
from scalablevit_ref.testing.arrays import compare_arrays
from tests.support.browser import browser, chromium, contrast
from tests.support.reports import DRAWN, Page, comparison, differing, looked_into, made

DIGITS, SMALL = sv.variant("digits"), sv.variant("small")
NAN, INF = float("nan"), float("inf")
HOSTILE = '</title></svg><script>alert("1")</script><img src=x onerror=alert(1)>&amp;\u0000\ud800\u202e'


def logits_only(error: float = 1e12) -> Report:
    row = replace(made().rows[-1], propagated=comparison(error), isolated=None)
    x = np.arange(20.0).reshape(2, 10)
    return replace(made(), rows=(row,), mode="propagated", actual=x + 1e-3, expected=x)


def broken() -> Report:
    """NaN from a layer on, and one infinite error before."""
    report = made(errors=lambda i: (2.0, INF if i == 7 else 0.0) if i < 9 else (NAN, NAN))
    expected = np.zeros((2, 14, 14, 32))
    actual = expected.copy()
    actual[1, 2, 3, 4], actual[1, 5, 6, 7] = NAN, -INF
    return replace(report, actual=actual, expected=expected)


REPORTS: dict[str, Callable[[], Report]] = {
    "agrees": made,
    "differs": differing,
    "145 layers": lambda: differing(SMALL, 20),
    "logits only": logits_only,
    "NaN": broken,
    "no diagnosis": lambda: differing(causes=(), actual=None, expected=None),
    "isolated only": lambda: made(errors=lambda i: (None, 1e3 if i == 3 else 0.0)),
    "inherits too much": lambda: made(errors=lambda i: (2.0 * i, 0.0)),
    "exact": lambda: replace(made(errors=lambda i: (0.0, 0.0)), tolerance=0),
    "hostile": lambda: hostile(),
    "unsteady": lambda: differing(causes=(), unsteady=("dropout is active",)),
    "own weights": lambda: made(own_weights=("the module's own weights differ",), own_weights_wrong=True),
    "another value": lambda: another_value(),
    "facts": lambda: looked_into("norm", exact=False),
    "NaN inside": lambda: looked_into(broken=True),
} | {f"drawn: {name}": partial(looked_into, name) for name in DRAWN}


def another_value() -> Report:
    report = made(errors=lambda i: (1e12 if i == 9 else 2.0, None if i == 9 else 0.5))
    return replace(report, rows=tuple(replace(row, another_value=i == 9) for i, row in enumerate(report.rows)))


def hostile() -> Report:
    """Names and words that would break out of the page."""
    report = differing()
    rows = tuple(replace(row, module=HOSTILE, layout=HOSTILE) for row in report.rows)
    finding = Finding(HOSTILE, Mistake(HOSTILE, HOSTILE), 1e12, 1e5, False)
    seen = looked_into().insides[0]
    difference = replace(seen.differences[0], words=HOSTILE, data={"sum": {HOSTILE: 1.0}, "reference": {}}, kind="mixture")
    inside = replace(seen, place=HOSTILE, line=HOSTILE, lines=(HOSTILE, HOSTILE), notes=(HOSTILE,), differences=(difference,))
    return replace(
        report,
        kind=HOSTILE,
        rows=rows,
        notes=(HOSTILE,),
        causes=(Cause(HOSTILE, (HOSTILE, HOSTILE), 1.0, (HOSTILE,)),),
        nearest=(finding,),
        insides=(inside,),
        own_weights=(HOSTILE,),
    )


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_well_formed_and_self_contained(name: str) -> None:
    text = page(REPORTS[name]())
    parsed = Page(text)
    assert len(text) < 1_000_000
    plain = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//|@import|url\(", plain)
    for tag, attrs in parsed.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attrs)
        for where in ("src", "href", "xlink:href", "action"):
            assert (attrs.get(where) or "data:").startswith("data:")
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    labels = {word for _, attrs in parsed.elements for word in (attrs.get("aria-labelledby") or "").split()}
    assert labels <= set(ids)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', re.sub(r'content="[^"]*"', "", text))  # no coordinate is NaN or infinite
    text.encode("utf-8")


@pytest.mark.parametrize("name", REPORTS)
def test_every_layer_is_in_the_table_and_has_its_tooltip(name: str) -> None:
    report = REPORTS[name]()
    parsed = Page(page(report))
    head, *body = parsed.tables[-1]
    assert head[:4] == ["layer", "verdict", "propagated", "isolated"]
    assert [cells[0] for cells in body] == [row.layer for row in report.rows]
    wrong = {row.layer for row in report.diverging}
    assert {cells[0] for cells in body if cells[1] == "✗ differs"} == wrong
    for cells, row in zip(body, report.rows, strict=True):
        for cell, found in ((cells[2], row.propagated), (cells[3], row.isolated)):
            said = "–" if found is None else f"{found.error:.3g}".replace("nan", "NaN").replace("inf", "∞")
            assert cell == said
        assert cells[6] == str(row.shape)
    assert sum(attrs.get("class") == "hit" for _, attrs in parsed.elements) == 2 * len(
        report.rows
    )  # in the wide chart and the narrow one


def test_the_verdict_and_the_diagnosis_are_said_in_words() -> None:
    assert "✓ Agrees with the reference" in Page(page(made())).text
    report = differing()
    text, name, count = Page(page(report)).text, report.rows[9].layer, len(report.rows)
    assert "✗ Differs from the reference" in text
    assert f"The isolated error is too large in 1 of {count} layers: {name} (the candidate's net.{name})." in text
    assert "matches to 0.5 eps if GELU is the tanh approximation; or if GELU is a sigmoid." in text
    report = REPORTS["inherits too much"]()
    inherited = f"too large in {count - 17} of {count} layers, the isolated one in none; the first is {report.rows[17].layer}"
    said = f"The propagated error is {inherited}"
    assert said in Page(page(report)).text
    assert "No diagnosis was made." in Page(page(REPORTS["no diagnosis"]())).text
    text = Page(page(broken())).text
    assert "None of the known mistakes explains it." in text
    assert "first to hold a NaN or an infinity" in text
    assert "with no tolerance" in text
    assert "A note of its own." in Page(page(replace(made(), notes=("A note of its own.",)))).text


def test_the_inside_of_a_layer_is_a_table_of_its_steps() -> None:
    report = looked_into()
    parsed = Page(page(report))
    steps = parsed.tables[0]
    assert steps[0] == ["step", "verdict", "what enters", "what comes out"]
    assert [row[:2] for row in steps[1:]] == [
        ["qkv", "✓ right"],
        ["attention", "✗ it is wrong"],
        ["lim_func", "not followed"],
        ["proj", "✗ its input is wrong"],
    ]
    assert steps[1][2] == "0.5 eps relative 1.1e-16"
    assert steps[4][2] == "1e+12 eps relative 0.00022"
    assert steps[2][2:] == ["–", "–"]
    for words in (
        "The likely mistake",
        "qkv is right; what enters proj is not: the reference's value times 1.3; or, as well: the sign is reversed. ",
        "This explains it to 0.5 eps, relative 1.1e-16. It is computed in port.py, line 62, in forward.",
        "1 more layer of this kind differs and was not looked into",
        "Next: look at port.py, line 62, in forward.",
        "The right value is computed.",
        "1.3 × reference − 0.11",
    ):
        assert words in parsed.text
    assert "Right in every layer: patch_embeds.k" in parsed.text


def test_what_nothing_explains_is_told_with_what_is_known() -> None:
    text = Page(page(REPORTS["facts"]())).text
    assert "What may be wrong" in text
    assert "The first wrong value is computed in port.py, line 62, in forward." in text
    assert "What is known of the difference:" in text
    assert "Candidate over reference" in text  # as its kind has no picture


def test_verdicts_beside_the_layers_have_their_places() -> None:
    unsteady = Page(page(REPORTS["unsteady"]())).text
    assert "✗ Gives something else each time" in unsteady
    assert "Dropout is active." in unsteady
    assert "No diagnosis was made" not in unsteady
    own = Page(page(REPORTS["own weights"]())).text
    assert "✗ Differs by its own weights" in own
    assert "the module's own weights differ" in own
    other = Page(page(another_value()))
    assert "✓ Agrees with the reference" in other.text
    assert [cells[0] for cells in other.tables[-1] if cells[1] == "another value"] == [another_value().rows[9].layer]


WORDS = {
    "places": "14 places along rows",
    "relayout": "32 places along (heads d)",
    "shift": "14 places along rows",
    "affine": "1.3 × reference − 0.11",
    "constant": "0 × reference + 2",
    "channels": "Factor of each channel",
    "function": "Mish of what fc1 gives",
    "mixture": "A sum",
    "border": "Tokens that differ",
    "some heads": "Largest difference of each channel",
    "linear map": "A linear map",
    "norm": "Candidate over reference",
}


@pytest.mark.parametrize("drawn", DRAWN)
def test_each_kind_of_difference_has_its_picture(drawn: str) -> None:
    text = page(looked_into(drawn))
    inside = text.partition('<h2 id="inside-0">')[2].partition("</section>")[0]
    figure = inside.partition("<figure")[2].partition("</figure>")[0]
    assert figure
    assert WORDS[drawn] in Page(text).text
    assert ("<svg" in figure) == (drawn not in ("border", "mixture", "linear map"))


def test_a_small_difference_is_drawn_by_itself() -> None:
    report = looked_into("norm")
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 8))
    seen = replace(report.insides[0], sample=sampled(x + 1e-9, x))
    assert "How far off" in Page(page(replace(report, insides=(seen,)))).text


def test_a_sample_keeps_the_worst_token_and_few_numbers() -> None:
    x = np.zeros((2, 200, 130, 16))
    wrong = x.copy()
    wrong[1, 199, 129, 3] = -5.0
    sample = sampled(wrong, x)
    assert sample.off is not None
    assert max(sample.off.shape) <= 64
    assert sample.off[-1, -1] == sample.off.max() == 5.0
    assert sample.channels.tolist() == [0.0, 0.0, 0.0, 5.0, *[0.0] * 12]
    assert sample.actual.size == sample.expected.size <= 1500
    few = np.arange(20.0).reshape(2, 10)
    assert sampled(few, -few).actual.tolist() == few.ravel().tolist()
    assert sampled(few, few).off is None


def test_moved_numbers_are_drawn_where_they_come_from() -> None:
    (along, table), *others = tables(DRAWN["relayout"][1], None)
    assert along == "(heads d)"
    assert others == []
    move = Relayout((("heads", 2), ("d", 16)), ("heads", "d"), ("d", "heads"))
    assert np.array_equal(table, move(np.arange(32)))
    shape = looked_into("shift").insides[0].sample
    (along, table), *others = tables(DRAWN["shift"][1], shape)
    assert (along, table.tolist()) == ("rows", [-1, -1, *range(12)])
    (along, table), *others = tables(DRAWN["places"][1], shape)
    assert (along, table.tolist(), others) == ("rows", [13, *range(13)], [])


def test_the_page_has_the_colours_of_the_pictures() -> None:
    """Every colour of both themes, and no variable or class of the chart that the style sheet does not know."""
    text = page(broken())
    sheet = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert sheet
    light, dark = sheet[1].split("@media (prefers-color-scheme: dark)", 1)
    for theme, part in (("light", light), ("dark", dark)):
        colors = set(re.findall(r"#[0-9a-f]{6}", str(THEMES[theme])))
        assert colors <= set(re.findall(r"#[0-9a-f]{6}", part.partition("/*")[0]))
    defined = set(re.findall(r"(--[a-z-]+): ", sheet[1]))
    assert set(re.findall(r"var\((--[a-z-]+)\)", sheet[1])) <= defined
    charts = "".join(re.findall(r'<svg role="img" aria-labelledby="(?:wide|narrow).*?</svg>', text, re.DOTALL))
    used = {name for names in re.findall(r'class="([^"]+)"', charts) for name in names.split()}
    assert used >= {"line", "rule", "ring", "dot", "iwsa", "ssa", "bad", "ink", "soft", "hit"}
    assert used - {"soft"} <= set(re.findall(r"\.([a-z]+)[ ,:{]", sheet[1]))  # soft is every letter's


def test_names_cannot_break_out() -> None:
    text = page(hostile(), title=HOSTILE)
    parsed = Page(text)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert not {"\u0000", "\ud800", "\u202e"} & set(text)
    assert (
        '</title></svg><script>alert("1")</script><img src=x onerror=alert(1)>&amp;' in parsed.text
    )  # read back as it was written


def test_the_heat_map_is_brightest_where_the_difference_is_largest() -> None:
    expected = np.zeros((3, 7, 5, 6))
    actual = expected.copy()
    actual[2, 4, 3, 1] = -2.0
    actual[2, 0, 0, 5] = 1.0
    actual[1, 6, 4, 0] = 1.9
    parsed = Page(page(differing(actual=actual, expected=expected)))
    assert "Image 2 of the 3, counted from 0: it holds the worst element, at (2, 4, 3, 1)." in parsed.text
    space, channels = parsed.pictures()
    assert space.shape == (7, 5, 3)
    assert channels.shape == (1, 6, 3)
    dark, bright = (0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25)
    assert tuple(space[4, 3]) == tuple(channels[0, 1]) == bright
    assert tuple(space[0, 0]) == tuple(channels[0, 5]) not in (dark, bright)
    assert tuple(space[6, 4]) == tuple(channels[0, 0]) == dark  # of another image


def test_what_is_not_finite_has_a_colour_of_its_own_and_is_counted() -> None:
    parsed = Page(page(broken()))
    assert "In it 2 of 6,272 elements are NaN or infinite." in parsed.text
    space, channels = parsed.pictures()
    pink = np.array([0xFF, 0x4F, 0xA3])
    assert np.argwhere((space == pink).all(-1)).tolist() == [[2, 3], [5, 6]]
    assert np.argwhere((channels == pink).all(-1)).tolist() == [[0, 4], [0, 7]]
    moments = parsed.tables[0]
    assert moments[-1] == ["NaN or ∞", "2", "0"]


def test_a_large_tensor_keeps_its_one_bad_element() -> None:
    expected = np.zeros((1, 301, 250, 3))
    actual = expected.copy()
    actual[0, 300, 249, 2] = 1.0
    for x, y in ((actual, expected), (actual.reshape(1, -1)[:, -999:], expected.reshape(1, -1)[:, -999:])):
        pictures = Page(page(differing(actual=x, expected=y))).pictures()
        assert all(max(picture.shape[:2]) <= 240 for picture in pictures)
        assert all(tuple(picture[-1, -1]) == (0xFD, 0xE7, 0x25) for picture in pictures)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e308, 1e308, 5e-324, NAN, INF])
def test_any_values_make_a_page(value: float) -> None:
    expected = np.full((1, 2, 2, 3), value)
    actual = -expected
    actual[0, 0, 0, 0] = 1.0
    for x, y in ((actual, expected), (expected, expected), (expected, actual)):
        Page(page(differing(actual=x, expected=y)))


def test_a_report_of_a_comparison_makes_a_page() -> None:
    x = np.random.default_rng(0).standard_normal((2, 10))
    row = Row("logits", "output", "b c", x.shape, compare_arrays(x + 1e-6, x, measure="l2"), None)
    report = Report(
        "function", DIGITS, "propagated", "float64", 32, (row,), actual=x + 1e-6, expected=x, seconds={"candidate": 0.25}
    )
    text = Page(page(report)).text
    assert "logits, the one layer compared, is beyond what rounding explains." in text
    assert "0.25 s" in text
    assert "embed_dims" in text


PROBE = """<style>:root { color-scheme: light dark } iframe { border: 0; width: 390px; height: 800px }</style>%s
<pre id="found"></pre><script>
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, all = [...page.querySelectorAll("body *")]
    const shown = all.filter((e) => e.checkVisibility() && e.innerText && !e.closest("svg, .frame"))
    const clear = (e) => getComputedStyle(e).backgroundColor == "rgba(0, 0, 0, 0)"
    const behind = (e) => { while (clear(e)) e = e.parentElement; return getComputedStyle(e).backgroundColor }
    const colours = (e) => getComputedStyle(e).color + ";" + behind(e)
    return {
      view: frame.contentWindow.innerWidth, width: page.documentElement.scrollWidth, body: colours(page.body),
      rows: page.querySelectorAll(".layers tbody tr").length, texts: [...new Set(shown.map(colours))],
      charts: [".wide", ".narrow"].map((name) => page.querySelector(name).getBoundingClientRect().width) }
  })
  document.querySelector("#found").textContent = JSON.stringify(found)
}
</script>"""
"""Pages as on a phone, 390 pixels wide: a window of Chromium's cannot be so narrow, a frame can."""


@browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways_and_text_is_legible(dark: bool, tmp_path: Path) -> None:
    some = (
        "agrees",
        "145 layers",
        "hostile",
        "logits only",
        "unsteady",
        "facts",
        "drawn: channels",
        "drawn: mixture",
        "drawn: relayout",
    )
    reports = [REPORTS[name]() for name in some]
    file = tmp_path / "probe.html"
    frames = [f'<iframe srcdoc="{html.escape(page(report))}"></iframe>' for report in reports]
    file.write_text(PROBE % "".join(frames), encoding="utf-8")
    ran = chromium(file, "--dump-dom", "--window-size=600,900", dark=dark)
    assert "CONSOLE" not in ran.stderr
    written = re.search(r'<pre id="found">(.+?)</pre>', ran.stdout, re.DOTALL)
    assert written, ran.stdout[-500:]
    for report, found in zip(reports, json.loads(html.unescape(written[1])), strict=True):
        assert found["view"] == found["width"] == 390
        assert found["rows"] == len(report.rows)
        assert found["charts"][0] == 0 < found["charts"][1]  # the narrow chart is the one shown
        assert contrast(found["body"]) >= 7
        assert len(found["texts"]) >= 4
        assert {pair: contrast(pair) for pair in found["texts"] if contrast(pair) < 4.5} == {}


@browser
def test_the_page_renders_in_light_and_in_dark(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(differing()), encoding="utf-8")
    corners = []
    for dark in (False, True):
        ran = chromium(file, f"--screenshot={tmp_path / 'seen.png'}", "--window-size=1100,2000", dark=dark)
        assert "CONSOLE" not in ran.stderr
        with Image.open(tmp_path / "seen.png") as seen:
            pixels = np.asarray(seen.convert("RGB")).astype(int)
        corners.append(int(pixels[0, 0].sum()))
        assert pixels.shape[:2] == (2000, 1100)
        wide = pixels[:, :, 0].max(axis=1) - pixels[:, :, 0].min(axis=1) > 60
        assert wide.mean() > 0.5  # something is drawn in most rows of pixels
    assert corners[0] > 3 * 230
    assert corners[1] < 3 * 50


@browser
def test_the_page_shows_its_table_and_charts_in_the_document(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(broken()), encoding="utf-8")
    ran = chromium(file, "--dump-dom", "--window-size=1100,900")
    assert "CONSOLE" not in ran.stderr
    assert ran.stdout.count('<tr class="wrong">') == len(broken().diverging)
    assert ran.stdout.count("<svg") == 3

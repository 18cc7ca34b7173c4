"""Text from files is data: whatever names and words a report holds, each writer shows them and takes them for nothing else."""

from __future__ import annotations

import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from rich.console import Console

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.cli.compare import print_report
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.compare.error_chart import error_chart, error_plot
from scalablevit_ref.compare.html.page import html as page
from scalablevit_ref.compare.html.pictures import inline_svg
from scalablevit_ref.compare.report import Report
from scalablevit_ref.drawing import draw
from scalablevit_ref.drawing.diagram import Diagram, Text, Tip
from scalablevit_ref.drawing.render import drawn, house_style
from scalablevit_ref.drawing.style import THEMES
from scalablevit_ref.errors import CaptureError, printable
from tests.support.browser import browser, chromium
from tests.support.hostile_text import EVERYTHING, hostile_text
from tests.support.reports import Page, full_of


def printed(report: Report, *, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, width=4000, force_terminal=terminal, color_system="standard" if terminal else None)
    print_report(console, report, every=True)
    return file.getvalue()


def harmless(text: str) -> bool:
    """Nothing in it but printable characters and line breaks."""
    return all(c.isprintable() for c in text.replace("\n", ""))


def test_the_alphabet_reaches_every_field() -> None:
    """A field of a report that is added later is hostile in these tests too."""
    report = full_of("~hostile~")
    assert {report.kind, report.mode, *(row.module for row in report.rows), *report.notes} == {"~hostile~"}


@given(hostile_text)
def test_the_terminal_shows_it_escaped(text: str) -> None:
    for agrees in (False, True):
        report = full_of(text, agrees=agrees)
        plain = printed(report, terminal=False)
        assert harmless(plain)
        assert printable(text) in plain
        colored = printed(report, terminal=True)
        assert harmless(re.sub(r"\x1b\[[\d;]*m", "", colored))
        assert set(re.findall(r"\x1b\[[\d;]*m", colored)) <= {f"\x1b[{code}m" for code in ("0", "1", "31", "1;31", "1;32")}


@given(hostile_text)
def test_the_words_of_a_report_and_of_an_error_are_printable_lines(text: str) -> None:
    for agrees in (False, True):
        lines = str(full_of(text, agrees=agrees)).split("\n")
        assert all(map(str.isprintable, lines))
        assert printable(text) in lines
    assert str(CaptureError(text, " is no layer")) == f"{printable(text)} is no layer"


@given(hostile_text)
def test_json_is_ascii_and_gives_it_back(text: str) -> None:
    written = json.dumps(full_of(text).to_json(), allow_nan=True)
    assert written.isascii()
    assert written.isprintable()
    document = json.loads(written)
    assert document["layers"][0]["module"] == json.loads(json.dumps(text))
    assert document["notes"] == [json.loads(json.dumps(text))] * 2
    assert document["left_out"][0]["why"] == json.loads(json.dumps(text))


def test_the_command_line_s_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(full_of(EVERYTHING).to_json())
    assert capsys.readouterr().out.isascii()


@settings(max_examples=40)
@given(hostile_text)
def test_the_page_holds_it_as_text_alone(text: str) -> None:
    plain = [tag for tag, _ in Page(page(full_of("plain"), title="plain")).elements]
    written = page(full_of(text), title=text)
    assert harmless(written)
    parsed = Page(written)
    assert [tag for tag, _ in parsed.elements] == plain
    assert printable(text) in parsed.text


@given(hostile_text)
def test_a_drawing_within_the_page_is_well_formed(text: str) -> None:
    report = full_of(text)
    diagram = error_chart(report, width=900, letters=12)
    diagram.title = diagram.alt = text
    diagram.texts.append(Text(0, 0, text))
    diagram.tips.append(Tip(0, 0, 1, 1, (text, text)))
    shown = [diagram.texts[-1].words, *diagram.tips[-1].lines]
    assert shown == [printable(text)] * 3
    root = ET.fromstring(inline_svg(diagram, name="wide"))
    assert root[0].text == root[1].text == printable(text)


@settings(max_examples=8, deadline=None)
@given(hostile_text)
def test_pictures_are_well_formed_and_say_it(text: str) -> None:
    check_pictures(text)


def test_pictures_of_everything() -> None:
    check_pictures(EVERYTHING)


def check_pictures(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = full_of(text)
        for suffix in (".svg", ".png", ".pdf"):
            error_plot(report, Path(folder, f"x{suffix}"), title=text)
        root = ET.parse(Path(folder, "x.svg")).getroot()
        assert root[0].text == printable(text)
        assert [child.tag.rpartition("}")[2] for child in root[:2]] == ["title", "desc"]
        assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
        with Image.open(Path(folder, "x.png")) as image:
            assert str(image.info["Title"]) == printable(text)
        assert Path(folder, "x.pdf").read_bytes().rstrip().endswith(b"%%EOF")


def test_words_with_dollars_are_no_mathematics() -> None:
    diagram = Diagram("$x$", height=60)
    diagram.heading("$y$ \\$", literal=True)
    with house_style():
        texts = drawn(diagram, THEMES["light"]).axes[0].texts
    assert [text.get_text() for text in texts] == ["$x$", "$y$ \\$"]
    assert not any(text.get_parse_math() for text in texts)


@pytest.mark.parametrize("of", [{}, {"cost": True}, {"layer": "stages.0.1.attn"}, {"layer": "stages.0.0"}])
def test_a_network_of_any_name_is_drawn(of: dict[str, Any], tmp_path: Path) -> None:
    alt = draw(sv.variant("digits"), tmp_path / "x.svg", name=EVERYTHING, image_size=(112, 112), **of)
    assert alt.isprintable()
    assert printable(EVERYTHING) in alt
    assert ET.parse(tmp_path / "x.svg").getroot()[1].text == alt


def test_files_of_any_name_are_drawn(tmp_path: Path) -> None:
    """Whatever bytes the system lets a name have."""
    name = os.fsdecode(b"\xff\xfe$x$\x1b\x01<&>[red]")
    shutil.copy(digits.CHECKPOINT, tmp_path / f"{name}.pth")
    trace = {"images": np.zeros((1, 1, 112, 112)), "logits": np.ones((1, 10))}
    for file in (f"{name}.npz", "theirs.npz"):
        np.savez(tmp_path / file, **trace)
    calls = {
        "attend": [*("attend", "digit:1", "--layer", "stages.0.1", "-o", "attend.svg"), "--weights", f"{name}.pth"],
        "compare": [*("compare", f"{name}.npz", "theirs.npz", "--variant", "digits"), "--plot", "compare.svg"],
    }
    for made, arguments in calls.items():
        command = [sys.executable, "-m", "scalablevit_ref", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert harmless(done.stdout.decode())
        root = ET.parse(tmp_path / f"{made}.svg").getroot()
        assert root[0].tag.endswith("title")


PLUGIN = """
import numpy as np
from tests.support.reports import full_of
from tests.support.hostile_text import EVERYTHING

def test_it(scalablevit_reference, monkeypatch):
    import scalablevit_ref.testing
    monkeypatch.setattr("scalablevit_ref.compare.run.compare", lambda *args, **options: full_of(EVERYTHING))
    scalablevit_reference.assert_equivalent(None)
"""


def test_a_failure_message_of_pytest_is_printable(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN, encoding="utf-8")
    root = Path(__file__).resolve().parents[2]
    options = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--color=no"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_it.py")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", check=False)
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    assert printable(EVERYTHING) in done.stdout
    assert harmless(done.stdout)


SHOWN = """<iframe srcdoc="%s"></iframe><pre id="found"></pre><script>
onload = () => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument
  document.querySelector("#found").textContent = JSON.stringify({
    pwned: [window.pwned, frame.contentWindow.pwned].filter((x) => x !== undefined).length,
    scripts: page.querySelectorAll("script, img:not([src^='data:'])").length,
    title: page.title, heading: page.querySelector("h1").innerText, text: page.body.textContent })
}
</script>"""


@browser
def test_a_browser_runs_none_of_it_and_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "probe.html"
    file.write_text(SHOWN % html.escape(page(full_of(EVERYTHING), title=EVERYTHING)), encoding="utf-8")
    ran = chromium(file, "--dump-dom")
    assert "CONSOLE" not in ran.stderr
    written = re.search(r'<pre id="found">(.+?)</pre>', ran.stdout, re.DOTALL)
    assert written, ran.stdout[-500:]
    found = json.loads(html.unescape(written[1]))
    assert (found["pwned"], found["scripts"]) == (0, 0)
    spaced = " ".join(printable(EVERYTHING).split())
    assert found["title"] == spaced
    assert " ".join(found["heading"].split()) == spaced
    assert found["text"].count(printable(EVERYTHING)) > 50

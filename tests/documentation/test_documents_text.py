"""What the pages say between their blocks: links lead somewhere, and commands, options, modules and files that are named exist."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

import pytest
import typer
from typer.main import get_command

from scalablevit_ref import cli
from tests.support.documents import ELSEWHERE, PAGES, ROOT, Page, steps

BY_FILE = {ROOT / page.path: page for page in PAGES}
COLUMNS = 92
"""Of code, beside the site's two tables of contents on a screen 1280 pixels wide."""
PROGRAM: Any = get_command(cli.app)
OPTIONS = {name: {word for p in command.params for word in p.opts + p.secondary_opts} for name, command in PROGRAM.commands.items()}
OWN = {"-h", "--help"} | {word for p in PROGRAM.params for word in p.opts}
"""Options of the program itself."""
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
HERE = re.compile(r"(?:tests|docs|backends|scalablevit_ref|\.ci)/[\w./-]*")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_links_lead_somewhere(page: Page) -> None:
    """Those of the site's pages on the site."""
    own, docs = ROOT / page.path, ROOT / "docs"
    for link in page.links:
        target, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        file = (own.parent / target).resolve() if target else own
        assert file.exists(), link
        assert docs in file.parents or docs not in own.parents, f"{link} is not on the site"
        if anchor and file in BY_FILE and not anchor.startswith("scalablevit_ref."):  # which the strict build knows
            assert anchor in BY_FILE[file].anchors, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_no_python_is_cut_on_the_site(page: Page) -> None:
    """What a command prints is wrapped there, and so are commands."""
    lines = [line for block in page.blocks if block.language == "python" for line in block.code.splitlines()]
    assert [line for line in lines if len(line) > COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_what_is_named_exists(page: Page) -> None:
    for code in [*page.code, *(step for line in page.commands if line in ELSEWHERE for step in steps(line))]:
        check_named(code)


def check_named(code: str) -> None:
    """AssertionError, or the command line's own error, for what is not there."""
    words = code.partition(" > ")[0].split()
    if words[0] in OPTIONS and " -" in code:
        words.insert(0, "scalablevit-ref")
    if words[0] == "scalablevit-ref":
        assert not words[1:] or words[1] in {*OPTIONS, "COMMAND", "--help"}, code
        assert {word for word in words[2:] if word.startswith("-")} <= OPTIONS.get("".join(words[1:2]), set()), code
        if words[2:] and not words[-1].startswith("-"):  # an option without the value that it takes
            with suppress(typer.BadParameter):  # a value that stands for another, or none
                PROGRAM.commands[words[1]].make_context(words[1], words[2:])
    elif words[0].startswith("--") and words[0].strip("-"):
        assert words[0] in OWN or any(words[0] in options for options in OPTIONS.values()), code
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2]), code
    elif name := re.match(r"(?:sv|scalablevit_ref)((?:\.[a-zA-Z_]\w*)+)", code):
        resolve_name("scalablevit_ref" + name[1])
    for word in words:
        path = word.partition("::")[0].rstrip(".,")
        if HERE.fullmatch(path) and not re.search(r"/[A-Z]+\.", path):  # backends/NAME.py
            assert (ROOT / path).exists(), code
        elif extras := re.fullmatch(r"'?(?:scalablevit-ref|\.)\[([\w,]+)\]'?", word):
            assert set(extras[1].split(",")) <= EXTRAS, code


def test_the_first_page_says_what_each_extra_brings() -> None:
    table = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").partition("| extra |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(EXTRAS)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("scalablevit-ref verfy", "verfy"),
        ("scalablevit-ref bench --ful", "bench --ful"),
        ("scalablevit-ref diff a b c", "unexpected extra argument"),
        ("verify --varint base", "--varint"),
        ("draw small -p FILE", "-p FILE"),
        ("--verfy", "--verfy"),
        ("python -m tests.proofs", "proofs"),
        ("python -m pytest tests/test_networks.py", "test_networks"),
        ("sv.scalable_vits(images)", "scalable_vits"),
        ("scalablevit_ref.testing.comparing", "comparing"),
        ("backends/mxnet.py", "mxnet"),
        ("pip install 'scalablevit-ref[flux]'", "flux"),
    ],
)
def test_what_does_not_exist_is_found(code: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_named(code)


def test_anchors() -> None:
    """As Markdown's own extension makes them."""
    ids = Page("docs/specification/embedding.md").anchors
    assert {"patch-embedding", "position-encoding-generator"} <= ids

"""The documentation site: built strictly, then every page, link and picture of it seen by a browser that has no network."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml

import scalablevit_ref as sv
from tests.support.browser import browser, contrast, launched, opened
from tests.support.site import DESKTOP, PHONE, ROOT, complaints
from tests.support.waiting import HANGS

SHOWN = Path("examples", "report.html")
"""A report of `compare`, which `report.html` shows in a frame."""

MOST_SITE, MOST_PAGE = 25_000_000, 1_500_000
"""Bytes of the site, and bytes that a page other than the playground loads from a server that does not compress."""


class Page(HTMLParser):
    """What a page links to, what it can be linked at, and its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures: list[dict[str, str | None]] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {str(found[key]) for key in ("id", "name") if found.get(key)}
        self.links += [str(found[key]) for key in ("href", "src") if found.get(key)]
        self.pictures += [found] if tag == "img" else []


def pages(site: Path) -> list[Path]:
    """Those of the site itself: a report that one of them shows is none."""
    return sorted(set(site.rglob("*.html")) - {site / SHOWN})


parsed = cache(Page)


def test_every_page_of_the_plan_is_there(site: Path) -> None:
    nav = yaml.compose((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    planned = {node.value.removesuffix(".md") for node in _scalars(nav) if node.value.endswith(".md")}
    assert len(planned) > 25
    assert {page.relative_to(site).with_suffix("").as_posix() for page in pages(site)} == planned | {"404"}


def _scalars(node: Any) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    else:
        for child in node.value:
            for one in child if isinstance(child, tuple) else (child,):
                yield from _scalars(one)


def test_every_link_leads_somewhere_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    checked = 0
    for path in pages(site):
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in parsed(path).links:
            address, fragment = urldefrag(link)
            if urlsplit(address).scheme:
                assert f'href="{link}"' in parsed(path).text.replace("&amp;", "&"), f"{path.name} loads {link}"
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if fragment and target.suffix == ".html":
                assert unquote(fragment) in parsed(target).ids, f"{path.relative_to(site)}: {link}"
            checked += 1
    assert checked > 2000
    for style in site.rglob("*.css"):
        for link in re.findall(r"url\(([^)]+)\)", style.read_text(encoding="utf-8")):
            address = link.strip("\"'")
            assert address.startswith(("data:", "#")) or (style.parent / address).is_file(), f"{style.name}: {address}"


def test_the_site_is_small(site: Path) -> None:
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) <= MOST_SITE


def test_every_picture_says_what_it_shows(site: Path) -> None:
    found = [(path.name, picture) for path in pages(site) for picture in parsed(path).pictures]
    assert len(found) > 20
    for name, picture in found:
        assert len(picture.get("alt") or "") > 15, f"{name}: {picture}"


def test_no_page_has_raw_maths_or_directives(site: Path) -> None:
    """LaTeX became MathML, and every line that stands for something else was replaced."""
    texts = {path.relative_to(site).as_posix(): parsed(path).text for path in pages(site)}
    assert sum(text.count("<math") for text in texts.values()) > 40
    for name, text in texts.items():
        assert "arithmatex" not in text, name
        assert not re.search(r"(?m)^(<p>)?--8&lt;--|^(<p>)?--8<--", text), name


def test_the_whole_public_api_is_there(site: Path) -> None:
    documented = {name for path in (site / "api").glob("*.html") for name in parsed(path).ids}
    modules = {"cost": "cost.cost", "dialects": "dialects.vit_pytorch.scalable_vit"}
    assert [name for name in sv.__all__ if f"scalablevit_ref.{modules.get(name, name)}" not in documented] == []


def test_examples_are_code(site: Path) -> None:
    """A prompt outside the section `Examples` would be shown as prose."""
    shown = [path.name for path in (site / "api").glob("*.html") if re.search(r"<p>[^<]*&gt;&gt;&gt;", path.read_text("utf-8"))]
    assert shown == []
    assert "&gt;&gt;&gt;" in (site / "api" / "configuration.html").read_text("utf-8")


DOCUMENTED = (ast.FunctionDef, ast.ClassDef)


def fields_in_prose(node: ast.AST) -> list[str]:
    """The lines of a docstring that describe an argument or an attribute, `name: what it is`, outside NumPy's sections."""
    if not isinstance(node, DOCUMENTED):
        return []
    inside = [part for part in ast.walk(node) if isinstance(part, ast.arg | ast.AnnAssign)]
    names = {part.arg if isinstance(part, ast.arg) else ast.unparse(part.target) for part in inside}
    lines = (ast.get_docstring(node) or "").splitlines()
    return [line for line in lines if (start := re.match(r"(\w+)(?:, \w+)*: ", line)) and start[1] in names]


@pytest.mark.parametrize("folder", ["scalablevit_ref", "backends"])
def test_docstrings_are_in_numpy_style(folder: str) -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / folder).rglob("*.py"))]
    assert [line for tree in trees for node in ast.walk(tree) for line in fields_in_prose(node)] == []


def test_a_field_in_prose_is_seen() -> None:
    code = 'def f(x, y):\n    """Sum.\n\n    x, y: numbers.\n    note: none.\n    """'
    assert fields_in_prose(ast.parse(code).body[0]) == ["x, y: numbers."]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as started:
        yield started


SEEN = """async () => {
  await document.fonts.ready
  const shown = [...document.querySelectorAll("article img")].filter((image) => image.checkVisibility())
  return {
    heading: document.querySelector("article h1")?.innerText || "",
    words: document.querySelector("article").innerText.length,
    broken: shown.filter((image) => !image.complete || !image.naturalWidth).map((image) => image.src),
    twins: shown.map((image) => image.src.split("/").pop()),
    wide: document.documentElement.scrollWidth - window.innerWidth,
    background: getComputedStyle(document.body).backgroundColor,
    loaded: [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")],
    fonts: [...document.fonts].filter((font) => font.status == "loaded").map((font) => font.family),
  }
}"""


@browser
@pytest.mark.parametrize(("scheme", "view"), [("light", DESKTOP), ("dark", PHONE)], ids=["light", "dark-phone"])
def test_every_page_renders(scheme: Any, view: Any, site: Path, server: str, chromium: Any) -> None:
    context = opened(chromium, viewport=view, color_scheme=scheme)
    tab = context.new_page()
    heard = complaints(tab, server)
    for path in pages(site):
        name = path.relative_to(site).as_posix()
        tab.goto(server + name, wait_until="load")
        seen = tab.evaluate(SEEN)
        assert heard == [], name
        assert seen["heading"], name
        assert seen["words"] > (10 if name == "404.html" else 200), name
        assert seen["broken"] == [], name
        assert seen["wide"] <= 0, f"{name} scrolls sideways by {seen['wide']} pixels"
        assert any("-dark." in twin for twin in seen["twins"]) <= (scheme == "dark"), name
        light = sum(map(int, re.findall(r"\d+", seen["background"])[:3])) / 3
        assert light > 240 if scheme == "light" else light < 60, name
        if name != "playground.html":
            assert sum(part["decodedBodySize"] for part in seen["loaded"]) <= MOST_PAGE, name
            assert [part["name"] for part in seen["loaded"] if "/playground/" in part["name"]] == [], name
        if name == "specification/ssa.html":
            assert any("Inter" in family for family in seen["fonts"])
            assert any("STIX" in family for family in seen["fonts"])
            assert any("JetBrains" in family for family in seen["fonts"])
    context.close()


def _search(tab: Any, words: str, found: Any) -> None:
    """Type until there is an answer: what is typed before the page's script listens is lost."""
    from playwright.sync_api import TimeoutError as NoAnswer

    patience = 3
    while patience < HANGS:
        tab.locator(".md-search__input").click()
        tab.locator(".md-search__input").fill("")
        tab.locator(".md-search__input").press_sequentially(words)
        with suppress(NoAnswer):
            found.wait_for(timeout=1000 * patience)
            return
        patience *= 2
    raise AssertionError(f"search finds nothing for {words!r}")


@browser
@pytest.mark.parametrize("source", ["a server", "the disk"])
def test_search_finds_iwsa(source: str, site: Path, server: str, chromium: Any) -> None:
    """The page that explains it comes first."""
    address = server if source == "a server" else site.as_uri() + "/"
    context = opened(chromium, viewport=DESKTOP)
    tab = context.new_page()
    heard = complaints(tab, address)
    tab.goto(address + "index.html")
    results = tab.locator(".md-search-result__item a.md-search-result__link")
    _search(tab, "IWSA", results.first)
    found = str(results.first.get_attribute("href"))
    assert "specification/iwsa.html" in found
    assert heard == []
    tab.goto(found)
    assert tab.locator("article h1").inner_text().startswith("IWSA: interactive window self-attention")
    context.close()


@browser
def test_a_reader_can_choose_dark(server: str, chromium: Any) -> None:
    context = opened(chromium, viewport=DESKTOP, color_scheme="light")
    tab = context.new_page()
    tab.goto(server + "specification/ssa.html")
    assert tab.locator("body").get_attribute("data-md-color-scheme") == "default"
    tab.locator("label[title=Dark]").click()
    assert tab.locator("body").get_attribute("data-md-color-scheme") == "slate"
    tab.goto(server + "index.html")
    assert tab.locator("body").get_attribute("data-md-color-scheme") == "slate"
    context.close()


@pytest.mark.parametrize(
    ("latex", "holds", "lacks"),
    [
        ("Q' = c'", "<mrow><mi>Q</mi><mo>&#x02032;</mo></mrow>", "msup"),
        (r"{K'}^{\top}", "<msup><mrow><mrow><mi>K</mi><mo>&#x02032;</mo></mrow></mrow>", "<mi>&#x02032;"),
        (r"\operatorname{softmax}(Q)", '<mi>softmax</mi><mo stretchy="false">&#x00028;</mo>', "<mo>softmax"),
        (r"\operatorname{softmax}\left( Q \right)", '<mi>softmax</mi><mrow><mo stretchy="true"', "<mo>softmax"),
        (r"\mathrm{LN}(X)", "<mi>LN</mi>", "mathvariant"),
        (r"\operatorname{erf} x", "<mo>erf</mo><mi>x</mi>", "<mi>erf"),
    ],
)
def test_maths_is_set_as_tex_sets_it(hooks: Any, latex: str, holds: str, lacks: str) -> None:
    found = hooks.mathml(latex)
    assert holds in found
    assert lacks not in found


@browser
@pytest.mark.parametrize(("scheme", "view"), [("light", PHONE), ("dark", DESKTOP)], ids=["light-phone", "dark"])
def test_a_cell_of_the_proof_leads_to_a_row_that_was_folded(scheme: Any, view: Any, server: str, chromium: Any) -> None:
    """The grid is legible, scrolls in its own box, and a cell opens the fold and shows the row below the head of the page."""
    context = opened(chromium, viewport=view, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(server + "proof.html")
    box = tab.locator(".scrolled").evaluate("(box) => box.scrollWidth - box.clientWidth")
    assert box > 0 if view is PHONE else box == 0
    colours = "(cell) => [getComputedStyle(cell).color, getComputedStyle(cell.parentElement).backgroundColor].join(';')"
    shades = {name: tab.locator(f".properties .{name} a").first.evaluate(colours) for name in ("exact", "small", "medium", "large")}
    assert len({pair.split(";")[1] for pair in shades.values()}) == len(shades)
    assert {name: contrast(pair) for name, pair in shades.items() if contrast(pair) < 4.5} == {}
    cell = tab.locator(".properties td a").nth(200)
    place = str(cell.get_attribute("href")).removeprefix("#")
    row = tab.locator(f"[id='{place}']")
    assert not row.is_visible()
    cell.click()
    row.wait_for()
    tab.wait_for_function("(id) => document.getElementById(id).getBoundingClientRect().top < innerHeight / 2", arg=place)
    assert row.bounding_box()["y"] > tab.locator(".md-header").bounding_box()["height"]
    context.close()

"""What the site's pages may hold beside Markdown: LaTeX, which becomes MathML, and lines that stand for something else.

    --8<-- source: scalablevit_ref.attention.ssa body from "q = linear"
    --8<-- file: CHANGELOG.md
    --8<-- commands
    --8<-- playground

A function's source (`body` leaves out its signature and docstring, `from` all lines before the one that starts so), a file, the
command line's help, and the playground's scripts.
"""

from __future__ import annotations

import ast
import inspect
import re
import tempfile
from html import unescape
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

import playground
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
SOURCE = re.compile(
    r'^--8<-- source: (?P<name>[\w.]+)(?P<body> body)?(?: from "(?P<start>.+)")?$',
    re.MULTILINE,
)
COMMANDS = "--8<-- commands"
PLAYGROUND = "--8<-- playground"
FILE = re.compile(r"^--8<-- file: (\S+)$", re.MULTILINE)
PICTURE = re.compile(r'(<img [^>]*src="([^"#]+\.svg)[^"]*"[^>]*>)')
MATHS = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.*?)\\\)</span>|<div class="arithmatex">\s*\\\[(?P<block>.*?)\\\]\s*</div>',
    re.DOTALL,
)

BOOSTS = {"specification/": 8, "glossary": 4, "api/": 0.2, "corpus": 0.2, "changelog": 0.2}
"""How much the search prefers some pages: what explains a word comes before what is named so, and before lists."""


@event_priority(100)
def on_config(config: Any) -> None:
    """Show mkdocstrings the package as it is installed, with `backends` inside: it knows no package-dir mapping."""
    global _tree
    _tree = tempfile.TemporaryDirectory()
    package = Path(_tree.name) / "scalablevit_ref"
    package.mkdir()
    for item in [*(ROOT / "scalablevit_ref").iterdir(), ROOT / "backends"]:
        (package / item.name).symlink_to(item)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_tree.name]


_tree: tempfile.TemporaryDirectory[str]
"""Removed when the build's process ends."""


def on_files(files: Any, config: Any) -> None:
    """Add what the playground page loads, where the machine can make it."""
    global _missing
    _missing = ""
    try:
        made = playground.files()
    except playground.MissingError as missing:
        _missing = str(missing)
        return
    for name, content in made.items():
        files.append(File.generated(config, f"playground/{name}", content=content))


_missing = ""
"""What the playground lacks."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in what the lines stand for. Raises what importing raises, or ValueError for a line that is not there."""
    for folder, boost in BOOSTS.items():
        if page.url.startswith(folder):
            page.meta["search"] = {"boost": boost}
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, _commands())
    if PLAYGROUND in markdown:
        markdown = markdown.replace(PLAYGROUND, _playground())
    return FILE.sub(
        lambda found: (ROOT / found[1]).read_text(encoding="utf-8"),
        SOURCE.sub(_source, markdown),
    )


def on_page_content(html: str, **_: Any) -> str:
    """Maths that browsers set themselves, without a script; a picture leads to its file, to be seen larger on a phone."""
    return PICTURE.sub(r'<a href="\2">\1</a>', MATHS.sub(_mathml, html))


def _source(found: re.Match[str]) -> str:
    module, _, name = found["name"].rpartition(".")
    thing = inspect.unwrap(getattr(import_module(module), name))
    lines, line = inspect.getsourcelines(thing)
    if found["body"]:
        docstring = ast.parse(dedent("".join(lines))).body[0].body[0]  # type: ignore[attr-defined]
        lines, line = lines[docstring.end_lineno :], line + docstring.end_lineno
    if found["start"]:
        starts = [
            i for i, text in enumerate(lines) if text.strip().startswith(found["start"])
        ]
        if not starts:
            raise ValueError(
                f"{found['name']} has no line that starts with {found['start']!r}"
            )
        lines, line = lines[starts[0] :], line + starts[0]
    file = Path(str(inspect.getsourcefile(thing))).relative_to(ROOT).as_posix()
    return f'```python title="{file}, from line {line}"\n{dedent("".join(lines)).rstrip()}\n```'


def _playground() -> str:
    """The page's style sheet and scripts, or one line that says what is missing."""
    if _missing:
        return f"**This copy of the site has no playground: when it was built, the machine had no {_missing}.**"
    scripts = "".join(
        f'<script src="playground/{name}" defer></script>\n' for name in playground.SCRIPTS
    )
    said = '<p id="state">The network is loading: 6 MB.</p>\n<noscript><p>The playground needs JavaScript.</p></noscript>\n'
    return f'<div>\n<link rel="stylesheet" href="playground/playground.css">\n{scripts}{said}</div>'


def _commands() -> str:
    """Every command with its help, arguments and options."""
    from typer.main import get_command

    from scalablevit_ref.cli import app

    parts: list[str] = []
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        arguments = [x for x in command.params if x.param_type_name == "argument"]
        options = [x for x in command.params if x.param_type_name == "option"]
        words = [x.metavar or x.name.upper() for x in arguments]
        parts += [
            f"## {name}",
            "",
            dedent(command.help or ""),
            "",
            f"`scalablevit-ref {' '.join([name, *words])}`",
            "",
        ]
        parts += ["| | |", "|---|---|"]
        cells = [f"<code>{word}</code>".replace("|", "&#124;") for word in words]
        parts += [
            f"| {cell} | {getattr(x, 'help', '')} |"
            for cell, x in zip(cells, arguments, strict=True)
        ]
        parts += [_option(x) for x in options if x.name != "help"] + [""]
    return "\n".join(parts)


def _option(option: Any) -> str:
    from scalablevit_ref.cli.help import value_of

    flags = " ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
    word = value_of(option).replace("|", "&#124;")
    value = f" <code>{word}</code>" if word else ""
    default = (
        ""
        if option.default in (None, False, True, [])
        else f" Not given: {option.default}."
    )
    again = " May be repeated." if option.multiple and "repeated" not in option.help else ""
    return f"| {flags}{value} | {option.help}{again}{default} |"


def _mathml(found: re.Match[str]) -> str:
    if found["inline"] is not None:
        return mathml(found["inline"])
    return f'<div class="equation">{mathml(found["block"], display="block")}</div>'


def mathml(latex: str, display: Literal["block", "inline"] = "inline") -> str:
    """What a browser sets as TeX does: a prime is a letter of its own size, a function's name is one word close to its bracket."""
    text = convert(unescape(latex).strip(), display=display)
    text = PRIME.sub(r"<mrow>\1<mo>\2</mo></mrow>", text)
    text = LETTERS.sub(
        lambda found: f"<mi>{''.join(re.findall('>([a-zA-Z])<', found[0]))}</mi>", text
    )
    return FUNCTION.sub(r"<mi>\1</mi>\2", text)


PRIME = re.compile(r"<msup>(<mi>[^<]*</mi>)<mi>(&#x0203[2-4];)</mi></msup>")
LETTERS = re.compile(r'(?:<mi mathvariant="normal">[a-zA-Z]</mi>){2,}')
FUNCTION = re.compile(
    r'<mo>([a-zA-Z]{2,})</mo>((?:<mrow>)?<mo stretchy="[a-z]+"[^>]*>&#x00028;)'
)
"""A function that is applied; between a name and anything but a bracket there is a space."""

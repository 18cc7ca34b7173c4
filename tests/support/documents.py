"""The documentation's pages, read as Markdown: blocks and what they are shown to print, links, anchors, inline code."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import dedent

from markdown.extensions.toc import slugify, unique

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ *(?P<fence>`{3,}|~{3,}) *\{? *\.?(?P<language>[\w-]*)(?P<options>[^`]*)$")
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?)(?: *\{[^}]*#([\w.-]+)[^}]*\})?$", re.MULTILINE)


@dataclass
class Block:
    """A fenced block. line: of its opening fence. shown: the `text` block directly after it."""

    line: int
    language: str
    title: str
    code: str
    shown: str | None = None

    @property
    def commands(self) -> list[str]:
        """A shell's lines: continued ones joined, comments and empty ones left out."""
        lines = self.code.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


@dataclass(frozen=True)
class Page:
    """A page by its path from the repository's root."""

    path: str

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @cached_property
    def parsed(self) -> tuple[list[Block], str]:
        """The blocks in order, and the page without them."""
        blocks: list[Block] = []
        prose: list[str] = []
        between = 0  # where in the prose the last block ended
        lines = iter(enumerate(self.text.splitlines(), 1))
        for number, line in lines:
            fence = FENCE.match(line)
            if not fence:
                prose.append(line)
                continue
            code: list[str] = []
            for _, inner in lines:
                if inner.strip() == fence["fence"]:
                    break
                code.append(inner)
            else:
                raise AssertionError(f"{self.path}:{number}: the block does not end")
            title = re.search(r'title="([^"]*)"', fence["options"])
            block = Block(number, fence["language"], title[1] if title else "", dedent("\n".join([*code, ""])))
            before = blocks[-1] if blocks and not "".join(prose[between:]).strip() else None
            if block.language == "text" and before and before.language in {"sh", "python"} and before.shown is None:
                before.shown = block.code
            else:
                blocks.append(block)
            between = len(prose)
        return blocks, "\n".join(prose)

    @property
    def blocks(self) -> list[Block]:
        return self.parsed[0]

    @property
    def prose(self) -> str:
        return self.parsed[1]

    @property
    def commands(self) -> list[str]:
        """Of all its shell blocks."""
        return [command for block in self.blocks for command in block.commands]

    @property
    def code(self) -> list[str]:
        """Inline code."""
        return [" ".join(found[2].split()) for found in CODE.finditer(self.prose)]

    @property
    def links(self) -> list[str]:
        """The targets of links and pictures."""
        prose = CODE.sub("code", self.prose)
        return re.findall(r"\]\(<?([^)\s>]+)", prose) + re.findall(r"^\[[^\]^]+\]: <?([^\s>]+)", prose, re.MULTILINE)

    @cached_property
    def anchors(self) -> set[str]:
        """The ids of its headings, as the site makes them, and those given by hand."""
        ids = set(re.findall(r'\bid="([^"]+)"', self.prose))
        for heading, given in HEADING.findall(self.prose):
            unique(given or slugify(re.sub(r"\]\([^)]*\)|[`*\[\]]", "", heading), "-"), ids)  # adds what it returns
        return ids


FILES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "scalablevit_ref" / "digits" / "README.md"]
PAGES = [Page(file.relative_to(ROOT).as_posix()) for file in sorted(FILES)]

SHOW = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt '.[torch]' && .venv/bin/scalablevit-ref verify"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[test]' && .venv/bin/python -m tests"
EVALUATE = "scalablevit-ref evaluate imagenet/val --weights scalablevit_small.pth --resume small.journal"
EVALUATE_TOGETHER = "torchrun --nproc-per-node 8 -m scalablevit_ref evaluate imagenet/val --weights small.pth --device cuda"
NODE = ("npm ci --ignore-scripts", "node reference.mjs digits.onnx expected.safetensors")
"""How the reference is run from JavaScript."""

ELSEWHERE = {
    SHOW: "it installs from a package registry; what it shows runs in test_the_first_command, the wheel is built in test_package",
    EVALUATE: "the images are no part of this package",
    EVALUATE_TOGETHER: "neither are they, nor eight GPUs; test_evaluate runs several processes on digits",
    TEST: "it runs this test; it is what .ci/run does, which test_the_second_command says",
    **dict.fromkeys(NODE, "it takes Node.js and what npm fetches; tests/portable/test_javascript.py runs the program"),
}
"""The only commands of the pages' blocks that are not run where they stand, and why."""


def steps(script: str) -> list[str]:
    """The commands of a script, without the path of its environment and without the options that only make pip quiet."""
    lines = [line for line in re.split(r"\n| && ", script) if re.match(r'python3|"\$environment/|\.venv/', line)]
    words = [
        shlex.split(re.sub(r'"\$environment/bin/(\w+)"|\.venv/bin/', r"\1", line).replace("python -m pip", "pip")) for line in lines
    ]
    dull = {"-q", "--quiet", "--disable-pip-version-check", ".venv", "$environment"}
    return [" ".join(word for word in line if word not in dull) for line in words]

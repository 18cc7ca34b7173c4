"""A reader who follows a page of the documentation and believes what it shows.

How a page is written:

- It has a temporary folder of its own, in which its blocks run in order. In it lie copies of those files of `docs/examples` that
  the page links to or names.
- The `python` blocks of a page are one program, in lines of at most 92 columns.
- Each line of an `sh` block is a command; the next starts in the same folder and with the same environment. It must exit with 0;
  with 1 where `# exit code 1` ends the line; with 2 where `! ` starts it, which then is refused: one line on standard error,
  nothing on standard output. `> FILE` at its end redirects what it prints.
- A `text` block directly after one of these is exactly what that one prints (a command on both outputs), in 80 columns without
  colours, but for blanks at the ends of lines. `…` in a line stands for anything, a line that is only `…` for one or more lines.
- `json`, `toml` and `yaml` must parse.
- `title="FILE"` on any but `sh`: where the repository has that file, the block quotes it, lines in a row but for lines `…`. Else
  the block is written into the folder under that name, and a command below may use it.
- A block may be one line `--8<-- file: FILE`, for which the site shows that file.
- No other fences. What cannot run there is in `ELSEWHERE` of `tests/support/documents.py`, with the reason.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Collection
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from tests.support.documents import ROOT, Block, Page
from tests.support.waiting import HANGS

PARSERS: dict[str, Callable[[str], Any]] = {"json": json.loads, "python": ast.parse, "toml": tomllib.loads, "yaml": yaml.safe_load}
SHELL = set("|&;$`*?<(){}~\\")
"""A command of the package that has one of these is left to a shell."""


def matches(printed: str, shown: str) -> bool:
    """Whether that is what is shown."""
    any_lines = "[^\n]*(?:\n[^\n]*)*?"
    lines = (any_lines if line == "…" else ".*".join(map(re.escape, line.split("…"))) for line in tidy(shown).split("\n"))
    return re.fullmatch("\n".join(lines), tidy(printed)) is not None


def tidy(text: str) -> str:
    """Without blanks at the ends of lines, nor empty lines at both ends."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


class Reader:
    """In the current folder. AssertionError, or what a block raises, says what is not as shown.

    call: runs a command line of the package in this process and gives its exit code and what it wrote on both outputs.
    """

    def __init__(self, page: Page, call: Callable[..., tuple[int, str, str]]) -> None:
        self.page, self.call = page, call
        self.module = ModuleType("__page__")
        self.printed = ""

    def follow(self, elsewhere: Collection[str] = ()) -> None:
        """All blocks in order, but for the commands that run elsewhere."""
        for block in self.page.blocks:
            where = f"{self.page.path}:{block.line}"
            if included := re.fullmatch(r"--8<-- file: (\S+)\n", block.code):
                assert (ROOT / included[1]).is_file(), f"{where}: {included[1]} is not there"
            elif block.title and (ROOT / block.title).is_file():
                file = tidy((ROOT / block.title).read_text(encoding="utf-8"))
                assert matches(f"…\n{file}\n…", f"…\n{block.code}\n…"), f"{where}: {block.title} is not so"
            elif block.language == "sh":
                printed = [self.shell(where, line) for line in block.commands if line not in elsewhere]
                self.check(where, block, "".join(printed))
            elif block.language == "python" and not block.title:
                self.check(where, block, self.python(block))
            else:
                assert block.language in PARSERS, f"{where}: nothing prints or checks this block of {block.language!r}"
                assert block.shown is None, f"{where}: a file prints nothing"
                PARSERS[block.language](block.code)
                if block.title:
                    Path(block.title).write_text(block.code, encoding="utf-8")

    def check(self, where: str, block: Block, printed: str) -> None:
        self.printed += printed
        if block.shown is not None and not matches(printed, block.shown):
            raise AssertionError(f"{where} printed\n{tidy(printed)}\n--- instead of\n{tidy(block.shown)}")

    def python(self, block: Block) -> str:
        """What it prints. Warnings that the page or the package causes are errors; libraries may warn of themselves."""
        source = "\n" * block.line + block.code  # line numbers are the page's
        code = compile(source, ROOT / self.page.path, "exec", dont_inherit=True)
        with redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", module=r"__page__|scalablevit_ref")
            exec(code, vars(self.module))
        return out.getvalue()

    def shell(self, where: str, line: str) -> str:
        """What a command prints."""
        where = f"{where}: {line}"
        refused, command = line.startswith("! "), line.removeprefix("! ")
        told = re.search(r"# exit code (\d+)$", line)
        words = shlex.split(command, comments=True)
        assert words[0] not in {"cd", "export"}, f"{where}: the next command would not know of it"
        if words[0] == "scalablevit-ref" and not set(command) & SHELL:
            code, out, err = self.package(words[1:])
            assert out or err or ">" in words, f"{where}: prints nothing"
        else:
            code, out, err = subshell(command)
        expected = 2 if refused else int(told[1]) if told else 0
        assert code == expected, f"{where}: exit code {code}\n{out}{err}"
        assert not refused or (out, err.count("\n")) == ("", 1), f"{where}: not refused with one line\n{out}{err}"
        return out + err

    def package(self, arguments: list[str]) -> tuple[int, str, str]:
        """In this process, which is quicker."""
        if ">" not in arguments:
            return self.call(*arguments)
        *arguments, arrow, target = arguments
        assert arrow == ">"
        code, out, err = self.call(*arguments)
        Path(target).write_text(out, encoding="utf-8")
        return code, "", err


def subshell(command: str) -> tuple[int, str, str]:
    """In a shell that finds this interpreter first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", command],
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )
    return done.returncode, done.stdout, done.stderr

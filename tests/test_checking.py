"""`docs/checking.md` as it is written: every block is run, in order, in a copy of `docs/examples`."""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from scalablevit_ref.testing.plugin import Reference
from tests.test_cli_verify import run

__all__ = ["run"]  # a fixture

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "checking.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)


def test_every_block(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (DOCS / "examples").glob("*.py"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    commands = said = 0
    for kind, code in BLOCKS:
        if kind == "python":
            names: dict[str, Any] = {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's
                exec(compile(code, "checking.md", "exec"), names)
            if "test_port" in names:
                with pytest.raises(pytest.fail.Exception, match="heads are interleaved"):
                    names["test_port"](Reference())
            continue
        lines = code.splitlines()
        command = [word.strip("'") for word in lines[0].split()]
        assert command[0] == "scalablevit-ref"
        status, out, err = run(*command[1:])
        text, expected = " ".join(out.split()), [line.removeprefix("$ ") for line in lines[1:]]
        assert all(words in text for words in expected), out + err
        differs = any("agrees" not in words for words in expected) or "--html" in command
        assert status == differs, out + err
        commands, said = commands + 1, said + len(expected)
    assert (commands, said) == (sum(kind == "sh" for kind, _ in BLOCKS), PAGE.count("\n$ "))
    assert commands >= 7
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "heads are interleaved" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("torch_port", "flax_port"):
        sys.modules.pop(name, None)


def test_links_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"

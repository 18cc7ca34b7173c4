"""Everything that the pages of the API document has an example that is run, and everything that is public has a page.

An example stands in the docstring, where pytest runs it, or in a block of the page, which `test_documents.py` runs: those of the
frameworks, which are not all to be imported where only docstrings are tested.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.documents import PAGES, ROOT, Page

API = [page for page in PAGES if page.path.startswith("docs/api/") and "\n::: " in page.text]
DIRECTIVE = re.compile(r"^::: (\S+)$(?:\n    options: (\{.*\})$)?", re.MULTILINE)
Defined = ast.FunctionDef | ast.ClassDef | ast.Module

CALLED = {"forward": "what runs where the network is called", "call": "what runs where the layer is called"}
"""Methods that their framework calls."""

WITHOUT = {
    "_typing.Float": "signatures are written with it",
    "adapters.torch.ScalableViT.push_to_hub": "it uploads",
    "adapters.torch.ScalableViT.compiled": "the first call compiles for minutes",
    "adapters.torch_compiled.Compiled": "`compiled` makes it",
    "adapters.keras.ScalableViT.from_config": "Keras calls it where it reads a file",
    "adapters.onnx_runtime.Session": "`session` makes it",
    **{f"backends.dispatch.Backend.{name}": "who adds a backend writes it" for name in ("exp", "zeros", "device", "from_numpy")},
    "backends.dispatch.Backend.to_numpy": "who adds a backend writes it",
}
"""What has no example that is run, and why."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def file_of(module: str) -> Path | None:
    """Of `scalablevit_ref.backends` too, which lies beside the package."""
    parts = module.split(".")
    folder = ROOT.joinpath(*parts[1:] if parts[1:2] == ["backends"] else parts)
    return next((path for path in (folder.with_suffix(".py"), folder / "__init__.py") if path.is_file()), None)


def located(name: str) -> tuple[str, Defined]:
    """Where a name is defined, its own module's name included, and the definition. A constant's is its module's."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        if file := file_of(".".join(parts[:i])):
            module, node = ".".join(parts[:i]), parsed(file)
            return _within(module, node, parts[i:])
    raise LookupError(name)


def _within(module: str, node: Defined, path: list[str]) -> tuple[str, Defined]:
    if not path:
        return module, node
    first, *rest = path
    for part in (inner for outer in node.body for inner in (outer.orelse if isinstance(outer, ast.If) else [outer])):
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and part.name == first:
            return _within(f"{module}.{first}", part, rest)
        if isinstance(part, ast.ImportFrom) and first in [alias.asname or alias.name for alias in part.names]:
            return located(".".join([str(part.module), *path]))
        targets = part.targets if isinstance(part, ast.Assign) else [part.target] if isinstance(part, ast.AnnAssign) else []
        if first in [target.id for target in targets if isinstance(target, ast.Name)]:
            return f"{module}.{first}", ast.Module([], [])
    raise LookupError(f"{module} has no {first}")


def documented(page: Page) -> Iterator[tuple[str, Defined]]:
    """The functions, classes and methods that a page shows; mkdocstrings shows those that have a docstring."""
    for name, options in DIRECTIVE.findall(page.text):
        where, node = located(name)
        yield from _shown(where, node, yaml.safe_load(options) if options else {})


def _shown(name: str, node: Defined, options: dict[str, Any]) -> Iterator[tuple[str, Defined]]:
    if not isinstance(node, ast.Module):
        yield name, node
    if isinstance(node, ast.FunctionDef) or options.get("members") is False:
        return
    hidden = [pattern.removeprefix("!") for pattern in options.get("filters", ["!^_"])]
    for part in node.body:
        if not isinstance(part, ast.FunctionDef | ast.ClassDef) or not ast.get_docstring(part):
            continue
        chosen = part.name in options["members"] if options.get("members") else not any(re.search(x, part.name) for x in hidden)
        if chosen and "property" not in [ast.unparse(decorator).rpartition("_")[2] for decorator in part.decorator_list]:
            yield from _shown(f"{name}.{part.name}", part, {})


def examples(node: Defined) -> str:
    """The lines of a docstring's examples that are run."""
    text = (ast.get_docstring(node) or "").partition("\nExamples\n--------\n")[2]
    return "\n".join(line for line in text.splitlines() if line.startswith((">>> ", "... ")) and "+SKIP" not in line)


def lacking(page: Page) -> list[str]:
    """What has no example: neither one of its own, nor a line of the page or of its class that calls it."""
    nodes = dict(documented(page))
    shown = "\n".join(block.code for block in page.blocks if block.language == "python")
    by_name = {name: examples(node) for name, node in nodes.items()}
    missing = []
    for name, own in by_name.items():
        above, _, word = name.rpartition(".")
        if own or word in CALLED or name.removeprefix("scalablevit_ref.") in WITHOUT:
            continue
        used = rf"\b{word}\b" if isinstance(nodes[name], ast.ClassDef) else rf"\b{word}\("
        if not re.search(used, f"{shown}\n{by_name.get(above, '')}"):
            missing.append(name)
    return missing


@pytest.mark.parametrize("page", API, ids=lambda page: page.path)
def test_everything_has_an_example(page: Page) -> None:
    assert list(documented(page)) or page.path == "docs/api/types.md"
    assert lacking(page) == []


def test_what_is_left_out_is_there_and_has_none() -> None:
    nodes = {name.removeprefix("scalablevit_ref."): node for page in API for name, node in documented(page)}
    assert set(WITHOUT) <= set(nodes)
    assert [name for name in WITHOUT if examples(nodes[name])] == []


@pytest.mark.parametrize("package", ["", ".checkpoints", ".evaluation", ".testing"])
def test_everything_public_has_a_page(package: str) -> None:
    shown = {name for page in API for name, _ in documented(page)}
    module = import_module(f"scalablevit_ref{package}")
    public = {name: inspect.unwrap(getattr(module, name)) for name in module.__all__ if not name.isupper() and name != "dialects"}
    assert [name for name, thing in public.items() if f"{thing.__module__}.{thing.__qualname__}" not in shown] == []


@pytest.mark.parametrize("module", ["dispatch", "transfer"])
def test_the_examples_of_the_backends(module: str) -> None:
    """They lie where pytest does not look for examples."""
    found = doctest.testmod(import_module(f"scalablevit_ref.backends.{module}"))
    assert found.attempted
    assert not found.failed

"""Fixtures of the documentation's tests."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scalablevit_ref.backends import dispatch

from tests.support.command_line import few_digits, run
from tests.support.documents import ROOT, Page
from tests.support.reader import Reader
from tests.support.site import BUILT, build, served

__all__ = ["few_digits", "run"]


@pytest.fixture
def as_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, as_in_production: None
) -> Iterator[Callable[[Page], Reader]]:
    """Gives the reader of a page, in the page's folder. What the page imports from there and registers is forgotten afterwards."""

    def reader(page: Page) -> Reader:
        for example in (ROOT / "docs" / "examples").iterdir():
            if f"examples/{example.name}" in page.text:
                shutil.copy(example, tmp_path)
        made = Reader(page, run)
        monkeypatch.setitem(sys.modules, "__page__", made.module)
        modules.append(made.module)
        return made

    modules: list[ModuleType] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    registered = dict(dispatch.registered)
    yield reader
    for module in modules:
        for name in [name for name in vars(module) if not name.startswith("_")]:  # not what Dynamo wrote there and takes back
            delattr(module, name)  # a file that the page left open is closed here, and not when Python next looks for garbage
    dispatch.registered.clear()
    dispatch.registered.update(registered)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    if BUILT not in os.environ:
        folder = tmp_path_factory.mktemp("site")
        build(folder)
        return folder
    return Path(os.environ[BUILT])


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """Its address."""
    with served(site) as address:
        yield address


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`docs/hooks.py`, imported as the build does, which finds the modules beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield importlib.import_module("hooks")
    for name in ("hooks", "playground"):
        del sys.modules[name]

"""Modules that have moved, importable under their old names for one release; each import says where to look now."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]

MOVED = {
    "adapters.onnx_reader": "formats.onnx",
    "benchmark.module": "adapters.plain",
    "checkpoints.checkpoint": "checkpoints.load",
    "checkpoints.casting": "checkpoints.convert",
    "checkpoints.contents": "checkpoints.inspect",
    "checkpoints.errors": "errors",
    "checkpoints.files": "formats.detect",
    "checkpoints.inference": "checkpoints.infer",
    "checkpoints.port_files": "checkpoints.load",
    "checkpoints.port_operations": "dialects.single_operations",
    "checkpoints.ports": "dialects.weights",
    "checkpoints.saving": "checkpoints.save",
    "checkpoints.stored": "formats.lazy",
    "checkpoints.writing": "checkpoints.save",
    "testing.capture": "compare.capture",
    "testing.comparison": "compare.run",
    "testing.inputs": "compare.run",
    "testing.random": "testing.arrays",
    "testing.report": "compare.report",
    "testing.tolerances": "testing.arrays",
}
"""Old name to new name, both within the package."""


class _MovedModules(MetaPathFinder, Loader):
    """Asked last, for names that no file has: the old name's module is the new name's."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{PACKAGE}.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} has moved to {new}; the old name goes with the next release", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        self._specs[module.__name__] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has been executed under its new name, and keeps that."""
        module.__spec__ = self._specs[module.__name__]


def install() -> None:
    """Let the old names be imported."""
    sys.meta_path.append(_MovedModules())

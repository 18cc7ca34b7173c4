"""What the user calls a candidate: a file, or an object in a Python module."""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

FILES = (".npz", ".safetensors", ".onnx")


def candidate(text: str) -> Any:
    """The path of a trace or a model; or what `package.module:name` or `file.py:name` holds, called if it is a class or a factory.

    The module is the user's own and is run. Raises ValueError, ImportError or OSError in words for what is not there.
    """
    if Path(text).suffix in FILES:
        path = Path(text)
        if not path.exists():
            raise FileNotFoundError(f"{text}: there is no such file")
        return path
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(f"candidate {text!r}: expected a file ({', '.join(FILES)}), package.module:name or file.py:name")
    module = _module(where)
    try:
        found = module
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ValueError(f"candidate: {where} has no {name!r}") from None
    return _made(found)


def _module(where: str) -> ModuleType:
    path = Path(where)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        try:
            return importlib.import_module(where)
        finally:
            sys.path.pop(0)
    if not path.exists():
        raise FileNotFoundError(f"{where}: there is no such file")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # as `python FILE` does
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _made(found: Any) -> Any:
    """A class or a function without required arguments makes the candidate; another function is it."""
    if inspect.isclass(found) or inspect.isfunction(found):
        needed = [p for p in inspect.signature(found).parameters.values() if p.default is p.empty and p.kind not in _OPEN]
        if not needed:
            return found()
        if inspect.isclass(found):
            raise ValueError(f"candidate: {found.__name__} needs {needed[0].name}: name a function that makes the model")
    return found


_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

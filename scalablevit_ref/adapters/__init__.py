"""The reference as a module or a file of another framework. Each needs its extra.

`torch`, `timm`, `transformers`, `flax`, `keras`, `mlx` and `paddle` are modules, `onnx` and `openvino` files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, part: str | None = None) -> Iterator[None]:
    """What is imported within, for this part of the package, comes with the extra of this name, and an ImportError says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None:  # transformers' own, of a library that is there
            raise _not_importable(part or f"adapters.{name}", error) from error
        message = f"{part or f'adapters.{name}'} needs {error.name}: pip install 'scalablevit-ref[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from error


def _not_importable(part: str, error: BaseException) -> ImportError:
    """An installed library that does not import, told by what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return ImportError(f"{part}: an installed library does not import: {type(error).__name__}: {error}")

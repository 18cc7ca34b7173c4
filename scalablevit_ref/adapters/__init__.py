"""The reference as a module or a file of another framework. Each needs its extra.

`torch`, `timm`, `flax`, `keras`, `mlx` and `paddle` are modules, `onnx` and `openvino` files.
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
        message = f"{part or f'adapters.{name}'} needs {error.name}: pip install 'scalablevit-ref[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from error

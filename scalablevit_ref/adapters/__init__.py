"""The reference as a module or a file of another framework: `torch`, `flax`, `keras`, `onnx`, `openvino`. Each needs its extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, extra: str = "") -> Iterator[None]:
    """What is imported within comes with an extra, that of this adapter's name unless another is given; an ImportError says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"adapters.{name} needs {error.name}: pip install 'scalablevit-ref[{extra or name}]'"
        raise ModuleNotFoundError(message, name=error.name) from error

"""Paddle's compiled mode, as the tests and the tables use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle


def static(function: Callable[..., Any]) -> Any:
    """A function of images, or of images and parameters, as one program that is traced once for equal shapes.

    Paddle does not read the source of what is in `opaque`, which the checks of shapes have wrapped.
    """
    opaque = paddle.jit.not_to_static(lambda arguments: function(*arguments))

    def program(images: Any, params: Any = ()) -> Any:
        return opaque((images, params) if params else (images,))

    return paddle.jit.to_static(program, full_graph=True)

"""TensorFlow's compiled mode: a function in one graph for each shape, counted as it is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Traced:
    """`tf.function`, and how often Python ran through it. AutoGraph is off, which would read the source of everything called."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.times = 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.times += 1
            return function(*args, **kwargs)

        self.graph = tf.function(counted, autograph=False, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.graph(*args, **kwargs)

"""Arrays of any bits, the special ones among them, which a checkpoint must carry unchanged; and whether it did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

MANTISSA = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}


def special_patterns(dtype: Any) -> np.ndarray:
    """What random bits hold too rarely: ±0, ±infinity, quiet and signalling NaNs of either sign with payloads, subnormals."""
    size, mantissa = np.dtype(dtype).itemsize, MANTISSA[np.dtype(dtype).name]
    sign, quiet = 1 << (8 * size - 1), 1 << (mantissa - 1)
    infinity = sign - (1 << mantissa)
    positive = (0, infinity, infinity | quiet | 5, infinity | 3, 1, (1 << mantissa) - 1, 1 << mantissa)
    return np.array([pattern | s for pattern in positive for s in (0, sign)], f"u{size}").view(dtype)


def bit_patterns(shapes: Mapping[str, tuple[int, ...]], dtype: Any, seed: int = 3) -> dict[str, np.ndarray]:
    """Random bits, and in each array all special patterns, or as many as it has elements, spread over it."""
    rng, special = np.random.default_rng(seed), special_patterns(dtype)
    arrays = {}
    for name, shape in shapes.items():
        x = np.frombuffer(rng.bytes(math.prod(shape) * special.itemsize), dtype).copy()
        places = np.unique(np.linspace(0, x.size - 1, len(special)).astype(int))
        x[places] = special[: len(places)]
        arrays[name] = x.reshape(shape)
    return arrays


def distinct_bits(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, np.ndarray]:
    """Bit patterns that count on through all arrays, so that no two are exchanged unseen; the last array ends with special ones."""
    arrays, start, kind = {}, 1, np.dtype(getattr(ml_dtypes, dtype, dtype))
    for name, shape in shapes.items():
        count = math.prod(shape)
        bits = np.arange(start, start + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits >>= np.uint64(64 - 8 * kind.itemsize)
        start += count
        arrays[name] = bits.astype(f"u{kind.itemsize}").view(kind).reshape(shape)
    last = arrays[list(arrays)[-1]].reshape(-1)
    special = special_patterns(kind)[: last.size]
    last[: len(special)] = special
    return arrays


def assert_same_bits(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Arrays of the same names in the same order, and of each the same dtype, shape and bits."""
    assert list(actual) == list(expected)
    for name, x in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (x.dtype, x.shape), name
        assert actual[name].tobytes() == x.tobytes(), name

"""Flax's msgpack files, by the msgpack library with Flax's own hooks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

msgpack: Any = pytest.importorskip("msgpack", reason="msgpack is not installed: pip install 'scalablevit-ref[test]'")


def unpack(code: int, data: bytes) -> Any:
    """As `flax.serialization._msgpack_ext_unpack` does."""
    assert code in (1, 3)
    shape, name, buffer = msgpack.unpackb(data, raw=True)
    return np.frombuffer(buffer, ml_dtypes.bfloat16 if name == b"bfloat16" else name.decode()).reshape(shape)


def array(x: np.ndarray, code: int = 1) -> msgpack.ExtType:
    """As `flax.serialization._msgpack_ext_pack` does."""
    return msgpack.ExtType(code, msgpack.packb((x.shape, x.dtype.name, x.tobytes()), use_bin_type=True))


def nested(state: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, x in state.items():
        *path, leaf = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = x
    return tree


def packed(tree: Any) -> bytes:
    data: bytes = msgpack.packb(tree, default=array, strict_types=True)
    return data


SOUND = array(np.zeros(2, "float32"))


def ext(*parts: Any) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb(parts))

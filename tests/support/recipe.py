"""The conformance recipe: each tensor follows from its name, shape and the case's seed; and figures are held against it."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.testing import relative_l2

TOLERANCE = 1e-12
"""Relative error that is allowed against a published implementation's figures, in float64."""

DATA = Path(__file__).parents[1] / "data" / "conformance"


def load(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


def uniform(name: str, shape: Any, seed: int) -> np.ndarray:
    """Values in [-1, 1): 53-bit mantissas of PCG64(crc32(name) XOR seed), in C order."""
    raw = np.random.PCG64(zlib.crc32(name.encode()) ^ seed).random_raw(int(np.prod(shape, dtype=np.int64)))
    return ((np.asarray(raw, np.uint64) >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)


def parameter(name: str, shape: Any, seed: int) -> np.ndarray:
    """Kernels of variance 1 / fan_in, gains 1 ± 0.25, biases ± 0.25."""
    u = uniform(name, shape, seed)
    if len(shape) >= 2:
        return u * np.sqrt(3.0 / np.prod(shape[1:]))
    return 1.0 + 0.25 * u if name.endswith("weight") else 0.25 * u


def parameters(shapes: Any, seed: int) -> dict[str, np.ndarray]:
    """Parameters for (name, shape) pairs, as the conformance files list them."""
    return {name: parameter(name, shape, seed) for name, shape in shapes}


def image(shape: Any, seed: int) -> np.ndarray:
    return uniform("images", shape, seed) * np.sqrt(3.0)


def fingerprint(x: np.ndarray, probe: np.ndarray) -> dict[str, Any]:
    """A tap, in the shape of the probe, as the files store it: norm, sum weighted by the probe, 16 samples."""
    flat = np.asarray(x, np.float64).reshape(probe.shape)
    at = np.linspace(0, flat.size - 1, 16).astype(int)
    return {
        "norm": float(np.linalg.norm(flat)),
        "dot": float((flat * probe).sum()),
        "samples": flat.reshape(-1)[at].tolist(),
    }


def errors(name: str, x: np.ndarray, expected: dict[str, Any], seed: int) -> dict[str, float]:
    """Of norm, samples and position-weighted sum; each relative to the tensor's own size."""
    probe = uniform("probe:" + name, expected.get("shape", x.shape), seed)
    found, norm = fingerprint(x, probe), expected["norm"]
    assert norm > 0, name
    unit = norm * float(np.linalg.norm(probe)) / probe.size**0.5
    relative = {"norm": abs(found["norm"] - norm) / norm, "dot": abs(found["dot"] - expected["dot"]) / unit}
    if "samples" in expected:
        relative["samples"] = relative_l2(np.array(found["samples"]), np.array(expected["samples"]))
    return relative


def assert_fingerprint(name: str, x: np.ndarray, expected: dict[str, Any], seed: int) -> None:
    """None of the `errors` is beyond the tolerance; a NaN is."""
    for what, error in errors(name, x, expected, seed).items():
        assert error <= TOLERANCE, (name, what)

"""Whose errors are proved: a library in a dtype, a runtime of ONNX files, or anything else that `compare` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.benchmark.deployed import why_not_in_onnx_runtime
from scalablevit_ref.compare.capture import Conditions, candidate_of
from scalablevit_ref.compare.capture.alignment import CanonicalTaps
from scalablevit_ref.networks import Network
from scalablevit_ref.testing.agreement import Candidate, settings, to_candidate, why_absent

Taps = Mapping[str, np.ndarray]

Run = Callable[[Network, np.ndarray, Mapping[str, np.ndarray], Taps], Taps]
"""Of a network, images, parameters, and numbers near the truth, by which layouts are settled: every tap that it shows."""


@dataclass(frozen=True)
class Subject:
    """Something that computes the network.

    Attributes
    ----------
    name
        As the table has it.
    dtype
        In whose eps its errors are.
    run
        Its taps.
    absent
        Why it cannot run here, or None.

    Examples
    --------
    >>> subject = library(Candidate("numpy", "float64"))
    >>> subject.name, subject.dtype, subject.absent
    ('numpy float64', 'float64', None)
    """

    name: str
    dtype: str
    run: Run
    absent: str | None = None


def library(candidate: Candidate) -> Subject:
    """The specification on a library's arrays; on JAX it is compiled.

    Examples
    --------
    >>> library(Candidate("numpy", "bfloat16")).name
    'numpy bfloat16'
    """

    def run(network: Network, images: np.ndarray, params: Mapping[str, np.ndarray], near: Taps) -> Taps:
        with settings(candidate):
            x, p = (to_candidate(candidate, value) for value in (images, params))
            traced: Callable[[Any, Any], dict[str, Any]] = _traced(network)
            if candidate.library == "jax":
                import jax

                traced = jax.jit(traced)
            found: Taps = to_numpy(dict(traced(x, p)))
            return found

    return Subject(str(candidate), candidate.dtype, run, why_absent(candidate))


def _traced(network: Network) -> Callable[[Any, Any], dict[str, Any]]:
    def trace(images: Any, params: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def keep(name: str, x: Any) -> Any:
            found[name] = x
            return x

        network.forward(images, params, keep)
        return found

    return trace


RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""Programs that run ONNX files, by their extras."""

RUNTIMES_IN = (("onnx", "float32"), ("onnx", "float16"), ("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "float16"))
"""In which dtypes."""


def runtime(name: str, dtype: str) -> Subject:
    """The ONNX file that this package writes, every tap an output, in "onnx" Runtime or "openvino".

    Examples
    --------
    >>> runtime("onnx", "float32").name
    'ONNX Runtime float32'
    """

    def run(network: Network, images: np.ndarray, params: Mapping[str, np.ndarray], near: Taps) -> Taps:
        from scalablevit_ref.adapters import onnx, openvino

        with TemporaryDirectory(prefix="scalablevit_ref-") as folder:
            path = Path(folder) / "network.onnx"
            held = dtype if name == "onnx" else "float32"
            onnx.export(params, network.config, path, image_size=images.shape[2:], batch=len(images), taps=True, dtype=held)
            session = onnx.session(path) if name == "onnx" else openvino.session(path, dtype=dtype)
            found = session.outputs(images)
            return {tap: found[tap] for tap in near if tap in found}

    return Subject(f"{RUNTIMES[name]} {dtype}", dtype, run, _why_no_runtime(name, dtype))


def _why_no_runtime(name: str, dtype: str) -> str | None:
    needed = ("onnx", "onnxruntime") if name == "onnx" else ("onnx", "openvino")
    if any(find_spec(module) is None for module in needed):
        return f"not installed: pip install 'scalablevit-ref[{name}]'"
    if name == "onnx":
        return why_not_in_onnx_runtime(dtype)
    from scalablevit_ref.adapters.openvino import PRECISIONS, openvino_runtime

    computes = [word.lower() for word in openvino_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")]
    named = {"f32": "fp32", "f16": "fp16"}.get(PRECISIONS[dtype], PRECISIONS[dtype])
    return None if named in computes else f"on this processor OpenVINO does not compute in {dtype}"


def given(candidate: Any, name: str) -> Subject:
    """What `compare` takes: a trace, a model, a module with its own weights. Its dtype is known when it has run.

    Examples
    --------
    >>> given(lambda images: images, "mine").name
    'mine'
    """

    def run(network: Network, images: np.ndarray, params: Mapping[str, np.ndarray], near: Taps) -> Taps:
        with ExitStack() as files:
            conditions = Conditions(network, images, params, dtype=None, load=False, once=True)
            captured = candidate_of(candidate).capture(conditions, files)
            shapes = network.layer_shapes(images.shape)
            taps = CanonicalTaps(captured.taps, captured.modules, captured.dtype, shapes)
            return {tap: np.array(taps(tap, near[tap])) for tap in shapes if tap in taps}

    return Subject(name, "", run)

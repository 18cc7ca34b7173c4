"""The libraries that a test may run on, how arrays get there and back, and how numbers are held against each other."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import jaxtyping
import pytest

import tests.support.shape_checks

# isort: split
import scalablevit_ref as sv
from scalablevit_ref.testing.arrays import Comparison, assert_agrees
from tests.support.profiles import is_nightly

if find_spec("array_api_strict"):
    import tests.support.array_api  # noqa: F401  (registers it)


class Library:
    """A library that the properties run on: how arrays get there and back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __call__(self, arrays: Any, dtype: str = "float64") -> Any:
        """Arrays of this library; NumPy's are read-only, so that whoever writes into an input is found out."""
        moved = sv.to_backend(arrays, self.name, dtype, place(self.name))
        if self.name == "numpy":
            for x in moved.values() if isinstance(moved, dict) else [moved]:
                x.flags.writeable = False
        return moved


def cuda_is_there() -> bool:
    """CuPy is installed and sees a GPU; it is not imported where there is no driver, so that its stand-in can take its name."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    if not find_spec("cupy"):
        return False
    import cupy

    return bool(cupy.cuda.is_available())


CUDA = cuda_is_there()

DEVICE = os.environ.get("SCALABLEVIT_REF_TEST_DEVICE")
"""Where the properties put PyTorch's and JAX's arrays: "cuda", or "cpu". Not given: where the libraries put them themselves."""


def place(library: str) -> str | None:
    """A library's own name for `DEVICE`, or None for a library that `DEVICE` does not concern."""
    if library not in ("torch", "jax"):
        return None
    return "gpu" if (library, DEVICE) == ("jax", "cuda") else DEVICE


def marked(library: str) -> Any:
    """A parameter of the name, marked `gpu` where it runs on what is asked for: CuPy on a GPU, PyTorch and JAX on `DEVICE`."""
    chosen = CUDA if library == "cupy" else bool(place(library))
    return pytest.param(library, marks=pytest.mark.gpu) if chosen else library


def draws(library: str) -> bool:
    """Whether the properties run on it."""
    return bool(find_spec(library)) and (library != "tinygrad" or compiles_kernels())


def compiles_kernels() -> bool:
    """Whether tinygrad's device CPU has its compiler."""
    return shutil.which(os.environ.get("CC", "clang")) is not None


@cache
def has_bfloat16() -> bool:
    """Whether tinygrad's compiler has the type on this processor: since clang 15, not everywhere."""
    code = "__bf16 f(__bf16 x) { return x; }"
    command = [os.environ.get("CC", "clang"), "-x", "c", "-march=native", "-fsyntax-only", "-"]
    return subprocess.run(command, input=code, text=True, capture_output=True, check=False).returncode == 0


ON_TINYGRAD = frozenset(
    [
        "test_01_every_library_computes_patch_embed_peg_and_mlp",
        "test_01_gelu_is_the_exact_one",
        "test_01_softmax_is_the_exponentials_over_their_sum",
        "test_01_ssa_is_the_oracles",
        "test_02_linear_and_conv2d_are_exact_on_integers",
        "test_02_peg_and_patch_embed_convolution_are_exact_on_integers",
        "test_08_without_lim_it_is_multi_head_attention_in_each_window",
        "test_11_lim_adds_the_projected_depthwise_convolution_of_the_values",
        "test_19_without_reduction_it_is_multi_head_attention",
        "test_20_with_reduction_it_is_conv_norm_gelu_and_attention_of_torch",
        "test_23_a_layer_norm_leaves_the_variance_v_over_v_plus_eps",
        "test_padding_puts_zeros_at_the_right_and_bottom",
    ]
)
"""The properties that every run tries on tinygrad, which compiles each kernel of each shape: 75 ms of processor, 4 ms once it is
known. All of them are some 2,500 kernels: nightly, and where `WHOLE_ON_TINYGRAD` asks for it. Networks and gradients are in
`tests/backends/test_tinygrad.py` too."""


def left_to_nightly(library: str | None, property_name: str) -> bool:
    """Whether a property is too long to be tried on this library in every run."""
    asked = is_nightly() or WHOLE_ON_TINYGRAD in os.environ
    return library == "tinygrad" and property_name not in ON_TINYGRAD and not asked


WHOLE_ON_TINYGRAD = "SCALABLEVIT_REF_TEST_TINYGRAD"
"""The variable of the environment that asks for every property on tinygrad."""

INSTALLED = ("numpy", "torch", "array_api_strict", "jax", "mlx", "tensorflow", "paddle", "tinygrad")
LIBRARIES = [marked(name) for name in INSTALLED if draws(name)] + [marked("cupy")]


@contextmanager
def unchecked() -> Iterator[None]:
    """For libraries whose dtypes jaxtyping cannot read: shapes are not checked against signatures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


@contextmanager
def prepared(library: str) -> Iterator[None]:
    """What a library needs to run the properties."""
    if library == "array_api_strict":
        import array_api_strict

        with array_api_strict.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False):
            yield
    elif library == "jax":
        from tests.support.jitted import jitted_specification

        with jitted_specification():
            yield
    elif library == "paddle":
        with unchecked():
            yield
    elif library == "tinygrad":
        from tinygrad import Tensor
        from tinygrad.helpers import Context

        # in this process, and without looking for the fastest form of a kernel that runs once
        with unchecked(), Context(PARALLEL=0, NOOPT=1), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "__abs__", Tensor.abs, raising=False)  # for definitions: to tinygrad it is no operator
            yield
    elif library == "cupy" and not CUDA:
        from tests.support.cupy_stand_in import cupy_stand_in

        with cupy_stand_in():
            yield
    elif library == "torch" and DEVICE:
        from scalablevit_ref.testing.agreement import unrounded_float32

        with unrounded_float32():
            yield
    else:
        yield


class Agree:
    """`assert_agrees` that keeps the worst error it allowed, for the table of the proof."""

    def __init__(self) -> None:
        self.worst = 0.0

    def __call__(self, actual: Any, reference: Any, **options: Any) -> Comparison:
        comparison = assert_agrees(actual, reference, **options)
        self.worst = max(self.worst, comparison.error)
        return comparison

    def exactly(self, actual: Any, reference: Any) -> None:
        """Bit for bit the same numbers."""
        self(actual, reference, tolerance=0)

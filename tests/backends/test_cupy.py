"""The CuPy backend where there is no GPU: on a stand-in, with the kernels' own source. On a GPU, marked `gpu`, on CuPy itself."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scalablevit_ref.backends.cupy_kernels import SOURCE

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing import EPS, MAX_TOLERANCE, NETWORK_TOLERANCE, max_error, random_images, random_params
from tests.support import cupy_stand_in as stand_in
from tests.support.cuda_on_host import signatures
from tests.support.library import CUDA, prepared
from tests.support.op_calls import CALLS, TORCH, check_gelu_tanh_in_half_precision

CONFIG = sv.variant("digits", embed_dims=(8, 8, 8, 8), num_heads=(2, 2, 2, 2))
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((2, 1, 112, 112), dtype="float32")
IWSA = {"num_heads": 2, "window_size": 2}
X, P = random_images((1, 4, 4, 8), dtype="float32"), random_params(iwsa_shapes(8), dtype="float32")

pytestmark = pytest.mark.usefixtures("as_in_production")


@pytest.fixture(params=[pytest.param("gpu", marks=pytest.mark.gpu) if CUDA else "stand-in"])
def cupy() -> Iterator[Any]:
    """CuPy: itself where there is a GPU, else the stand-in."""
    with prepared("cupy"):
        import cupy

        yield cupy


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("cupy")
def test_op(name: str, dtype: str) -> None:
    args, kwargs = CALLS[name]
    rounded = [sv.to_backend(x, "numpy", dtype) for x in args]
    given = [sv.to_backend(x, "cupy") for x in rounded]
    y = sv.to_numpy(getattr(ops, name.split()[0])(*given, **kwargs))
    assert all(np.array_equal(sv.to_numpy(x), before) for x, before in zip(given, rounded, strict=True)), (
        "an input was written into"
    )
    expected = TORCH[name.split()[0]](*(sv.to_backend(x, "torch", "float64") for x in rounded), **kwargs)
    assert y.dtype == dtype
    tolerance = NETWORK_TOLERANCE[dtype] if dtype == "float16" else MAX_TOLERANCE
    assert max_error(y, expected.numpy()) <= tolerance * EPS[dtype]


@pytest.mark.usefixtures("cupy")
def test_gelu_tanh_in_half_precision() -> None:
    check_gelu_tanh_in_half_precision("cupy")


def test_the_network_waits_for_nothing_and_copies_nothing(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the stand-in anything that would wait for the GPU fails, and what goes to the host is counted."""
    images, params = (sv.to_backend(x, "cupy") for x in (IMAGES, PARAMS))
    copies: list[Any] = []
    monkeypatch.setattr(cupy, "asnumpy", lambda x: copies.append(x))
    logits = sv.scalable_vit(images, params, CONFIG)
    assert isinstance(logits, cupy.ndarray)
    assert not copies
    monkeypatch.undo()
    assert max_error(sv.to_numpy(logits), sv.scalable_vit(IMAGES, PARAMS, CONFIG)) <= MAX_TOLERANCE * EPS["float32"]


if CUDA:
    SPIN = 'extern "C" __global__ void spin(long long cycles) { for (long long start = clock64(); clock64() - start < cycles;); }'

    @pytest.mark.gpu
    def test_the_network_returns_before_the_gpu_has_begun_it() -> None:
        """Behind a kernel of more than a second, which nothing waits for."""
        import cupy

        images, params = (sv.to_backend(x, "cupy") for x in (IMAGES, PARAMS))
        expected = sv.to_numpy(sv.scalable_vit(images, params, CONFIG))  # compiles, and takes memory, which would wait
        spun = cupy.cuda.Event()
        cupy.RawKernel(SPIN, "spin")((1,), (1,), (np.int64(3_000_000_000),))
        spun.record()
        logits = sv.scalable_vit(images, params, CONFIG)
        assert not spun.done
        assert np.array_equal(sv.to_numpy(logits), expected)


def test_other_libraries_parameters_are_refused(cupy: Any) -> None:
    del cupy
    x, p = sv.to_backend(X, "cupy"), sv.to_backend(P, "cupy")
    with pytest.raises(TypeError, match=r"x is a cupy array but parameter '[\w.]+' is a numpy array"):
        sv.iwsa(x, P, **IWSA)
    with pytest.raises(TypeError, match=r"x is a numpy array but parameter '[\w.]+' is a cupy array"):
        sv.iwsa(X, p, **IWSA)


@pytest.mark.parametrize("device", [None, 0, "cuda", "cuda:0"])
def test_devices_by_number_and_name(device: Any, cupy: Any) -> None:
    assert sv.to_backend(X, "cupy", device=device).device == cupy.cuda.Device(0)


@pytest.mark.parametrize("device", ["cpu", "cuda:99", "cuda:x"])
@pytest.mark.usefixtures("cupy")
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=f"CuPy has no device '{device}'; there are cuda:0 to cuda:"):
        sv.to_backend(X, "cupy", device=device)


def test_arrays_of_another_gpu_than_the_current_one_are_refused(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy would put every result on the current one."""
    x, p = sv.to_backend(X, "cupy"), sv.to_backend(P, "cupy")
    monkeypatch.setattr(cupy.cuda, "Device", lambda: "<CUDA Device 1>")
    with pytest.raises(
        ValueError, match=r"an array is on <CUDA Device 0> but <CUDA Device 1> is current: call inside `with x.device:`"
    ):
        sv.iwsa(x, p, **IWSA)


@pytest.mark.parametrize(("x", "dtype"), [(X, "bfloat16"), (sv.to_backend(X, "numpy", "bfloat16"), None)])
@pytest.mark.usefixtures("cupy")
def test_bfloat16_is_refused(x: np.ndarray, dtype: str | None) -> None:
    with pytest.raises(ValueError, match="CuPy has no bfloat16; give dtype='float16' or 'float32'"):
        sv.to_backend(x, "cupy", dtype)
    assert sv.to_backend(x, "cupy", "float16").dtype == "float16"


def test_without_a_gpu_the_remedy_is_named() -> None:
    """`import cupy` succeeds there."""
    with (
        stand_in.cupy_stand_in(stand_in.module(available=False)),
        pytest.raises(ValueError, match=r"CuPy finds no GPU .*driver.*'numpy'"),
    ):
        sv.to_backend(P, "cupy")


if not find_spec("cupy"):

    def test_without_cupy_the_extra_is_named() -> None:
        with pytest.raises(ModuleNotFoundError, match=r"backend 'cupy' needs cupy: pip install 'scalablevit-ref\[cupy\]'"):
            sv.to_backend(P, "cupy")

else:

    def test_the_stand_in_has_nothing_that_cupy_lacks() -> None:
        methods = [
            *stand_in.ATTRIBUTES,
            *stand_in.METHODS,
            *(f"__{name}__" for name in (*stand_in.OPERATORS, "array", "array_ufunc")),
        ]
        names = [f"ndarray.{name}" for name in (*methods, *(f"__r{name}__" for name in stand_in.REFLECTED))]
        names += [*stand_in.FUNCTIONS, "cuda.Device", "cuda.is_available", "cuda.runtime.getDeviceCount", "RawModule", "asnumpy"]
        code = f"import cupy, cupy.lib.stride_tricks as t, operator; t.as_strided; operator.attrgetter(*{names})(cupy)"
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_stand_in_refuses_what_cupy_refuses() -> None:
    with stand_in.cupy_stand_in():
        import cupy

        x = cupy.array(np.ones((2, 3)))
        for misuse in (
            lambda: x + np.ones((2, 3)),
            lambda: np.ones((2, 3)) * x,
            lambda: np.asarray(x),
            lambda: cupy.exp(np.ones(3)),
            lambda: cupy.concatenate([x, np.ones((2, 3))]),
        ):
            with pytest.raises(TypeError):
                misuse()
        for wait in (lambda: bool(x), lambda: float(x), lambda: x.get(), lambda: list(x), lambda: x.item()):
            with pytest.raises(AssertionError, match="waits"):
                wait()
        for name in ("as_strided", "einops", "vecdot", "asfortran"):
            assert not hasattr(cupy, name)
        kernel = cupy.RawModule(code=SOURCE, options=("-DREAL=double",)).get_function("gelu")
        size, y = np.int64(6), cupy.empty((2, 3), np.float64)
        for wrong in (
            (x, y),
            (x, y, 6),
            (x, y, np.int32(6)),
            (x, y.astype("float32"), size),
            (x.T, y, size),
            (np.ones(6), y, size),
        ):
            with pytest.raises(AssertionError, match="gelu"):
                kernel((1,), (256,), wrong)
        kernel((1,), (256,), (x, y, size))
        assert cupy.asnumpy(y) == pytest.approx(0.8413447460685429)


def nvcc(real: str, folder: Path) -> str:
    source, target = folder / "kernels.cu", folder / "kernels.ptx"
    source.write_text(SOURCE, encoding="utf-8")
    subprocess.run(["nvcc", "-ptx", "-std=c++17", f"-DREAL={real}", str(source), "-o", str(target)], check=True)
    return target.read_text(encoding="utf-8")


def nvrtc_library() -> str | None:
    """Of the wheels nvidia-cuda-nvrtc-cu12 and nvidia-cuda-nvrtc."""
    nvidia = find_spec("nvidia")
    folders = list(nvidia.submodule_search_locations or []) if nvidia else []
    found = [path for folder in folders for path in Path(folder).rglob("libnvrtc.so.*") if "alt" not in path.name]
    return str(found[0]) if found else None


def nvrtc(real: str, folder: Path) -> str:
    """What CuPy itself compiles with."""
    del folder
    library, program = ctypes.CDLL(str(nvrtc_library())), ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), SOURCE.encode(), b"kernels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 3)(f"-DREAL={real}".encode(), b"-std=c++17", b"-arch=compute_80")
    failed = library.nvrtcCompileProgram(program, len(options), options)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, text)
    assert not failed, text.value.decode()
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, text)
    return text.value.decode()


COMPILERS: list[Callable[[str, Path], str]] = [nvcc] * bool(shutil.which("nvcc")) + [nvrtc] * bool(nvrtc_library())
if COMPILERS:

    @pytest.mark.parametrize("compiler", COMPILERS)
    @pytest.mark.parametrize("real", ["float", "double"])
    def test_the_kernels_compile_to_ptx(real: str, compiler: Callable[[str, Path], str], tmp_path: Path) -> None:
        """Every one of them; and in float32 no number is widened to float64, which a GPU does at a small share of its speed."""
        ptx = compiler(real, tmp_path)
        assert re.findall(r"\.entry (\w+)", ptx) == list(signatures(SOURCE))
        assert (re.search(r"\.f64\b", ptx) is not None) == (real == "double")
        assert ptx.count("shfl.sync.bfly") == (20 if real == "float" else 40)


def test_the_kernels_signatures_are_read() -> None:
    found = signatures(SOURCE)
    assert list(found) == ["add_bias", "gelu", "layer_norm", "softmax", "depthwise"]
    assert SOURCE.count("__global__") == len(found)
    assert found["softmax"] == [("const T*", "x"), ("T*", "y"), ("long long", "rows"), ("int", "m"), ("T", "scale")]
    assert [name for _, name in found["depthwise"]][-3:] == ["kw", "stride", "padding"]

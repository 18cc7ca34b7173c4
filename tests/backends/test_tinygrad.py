"""What tinygrad's users do with the reference: lazy tensors, TinyJit, gradients, devices. Most properties run nightly only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinygrad
import torch
from scalablevit_ref.backends import tinygrad as backend
from tinygrad import Tensor, TinyJit

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing import EPS, MAX_TOLERANCE, NETWORK_TOLERANCE, max_error, random_images, random_params, relative_l2
from tests.support import library
from tests.support.library import ON_TINYGRAD, WHOLE_ON_TINYGRAD, has_bfloat16, left_to_nightly, prepared
from tests.support.op_calls import CALLS, TORCH

CONFIG = sv.ScalableViTConfig(
    embed_dims=(4, 8),
    depths=(2, 1),
    num_heads=(1, 2),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(2, 2),
    num_classes=5,
    head="linear",
    patch_size=2,
)
ONE_STAGE = sv.ScalableViTConfig(**{name: value[:1] if isinstance(value, tuple) else value for name, value in vars(CONFIG).items()})
IMAGES = random_images((2, 3, 8, 8))
IWSA = {"num_heads": 2, "window_size": 2}
X, P = random_images((1, 4, 4, 8)), random_params(iwsa_shapes(8))


BFLOAT16 = pytest.param("bfloat16", marks=pytest.mark.skipif(not has_bfloat16(), reason="this clang has no bfloat16"))


@pytest.fixture(autouse=True)
def _prepared() -> Iterator[None]:
    with prepared("tinygrad"):
        yield


@pytest.mark.parametrize("dtype", ["float64", "float32", BFLOAT16, "float16"])
def test_ops(dtype: str) -> None:
    """Every call of every op, the native version; in float64 the definition too."""
    lazy = {}
    for name, (args, kwargs) in CALLS.items():
        op = getattr(ops, name.split()[0])
        rounded = [sv.to_backend(x, "tinygrad", dtype) for x in args]
        functions = [op] if dtype != "float64" else [op, op.definition]
        wide = [torch.from_numpy(sv.to_numpy(x).astype("float64")) for x in rounded]
        lazy[name] = [f(*rounded, **kwargs) for f in functions], TORCH[name.split()[0]](*wide, **kwargs).numpy()
    Tensor.realize(*(y for found, _ in lazy.values() for y in found))
    tolerance = 8 if dtype in ("bfloat16", "float16") else MAX_TOLERANCE
    for name, (found, expected) in lazy.items():
        for y in map(sv.to_numpy, found):
            assert y.dtype.name == dtype, name
            assert max_error(y, expected) <= tolerance * EPS[dtype], name


@pytest.mark.parametrize(("dtype", "config"), [("float64", CONFIG), ("float32", ONE_STAGE), ("float16", ONE_STAGE)])
def test_every_tap(dtype: str, config: sv.ScalableViTConfig) -> None:
    """Against NumPy's on the same rounded numbers."""
    params = random_params(sv.parameter_shapes(config))
    rounded = [sv.to_backend(x, "numpy", dtype) for x in (IMAGES, params)]
    found = sv.to_numpy(sv.trace(*(sv.to_backend(x, "tinygrad") for x in rounded), config))
    expected = sv.trace(*(sv.to_backend(x, "numpy", "float64") for x in rounded), config)
    assert {x.dtype.name for x in found.values()} == {dtype}
    for name, x in expected.items():
        assert relative_l2(found[name].astype("float64"), x) <= NETWORK_TOLERANCE[dtype] * EPS[dtype], name


def test_equal_shapes_are_captured_once() -> None:
    """TinyJit runs a function once as it is, records its kernels the second time, and then only runs these."""
    calls: list[Any] = []
    p = sv.to_backend(P, "tinygrad", "float32")

    def iwsa(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return sv.iwsa(x, p, **IWSA).realize()

    jitted = TinyJit(iwsa)
    for scale in (1.0, 2.0, 3.0, 4.0):
        x = (scale * X).astype("float32")
        found = sv.to_numpy(jitted(sv.to_backend(x, "tinygrad")))
        assert relative_l2(found, sv.iwsa(x, sv.to_backend(P, "numpy", "float32"), **IWSA)) <= 64 * EPS["float32"]
    assert len(calls) == 2


def test_gradients() -> None:
    """Of everything that goes in, by `backward` and by `gradient`, against PyTorch's in float64."""
    tensors = {name: torch.from_numpy(x).requires_grad_() for name, x in {"x": X, **P}.items()}

    def loss(t: Any) -> Any:
        y = sv.iwsa(t["x"], {name: x for name, x in t.items() if name != "x"}, **IWSA)
        return (y * y).sum()

    loss(tensors).backward()
    arrays = sv.to_backend({"x": X, **P}, "tinygrad")
    functional = dict(zip(arrays, loss(arrays).gradient(*arrays.values()), strict=True))
    for x in arrays.values():
        x.is_param_()
    loss(arrays).backward()
    Tensor.realize(*functional.values(), *(x.grad for x in arrays.values()))
    size = max(float(x.grad.abs().max()) for x in tensors.values())  # type: ignore[union-attr]
    for name, expected in tensors.items():
        for found in (functional[name], arrays[name].grad):
            assert np.abs(sv.to_numpy(found) - expected.grad.numpy()).max() <= 64 * EPS["float64"] * size, name  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float32", "float64"])
def test_transfer_keeps_the_bits_and_shares_no_memory(dtype: str) -> None:
    x = sv.to_backend(np.random.default_rng(0).standard_normal(64), "numpy", dtype)
    bits = x.tobytes()
    for device in (None, "cpu", "CPU"):
        moved = sv.to_backend(x, "tinygrad", device=device)
        x[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
        x[:] = np.frombuffer(bits, x.dtype)
        sv.to_numpy(moved)[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
    assert backend.device(moved) == "CPU"


def test_a_state_dict_of_its_tensors() -> None:
    """Whose dtypes have C's names: `dtypes.double`."""
    params = random_params(sv.parameter_shapes(CONFIG))
    found = sv.from_state_dict(sv.to_backend(params, "tinygrad"), config=CONFIG).params
    assert all(found[name].tobytes() == x.tobytes() for name, x in params.items())


def test_refusals(as_in_production: None) -> None:
    """In one line each."""
    for value, device, error, said in (
        (X, "gpu", ValueError, r"tinygrad has no device 'gpu' here \(ModuleNotFoundError: .*\); CPU needs clang"),
        (X, 3, TypeError, "device must be the name of one of tinygrad's, got 3"),
        (np.ones(2, "complex64"), None, TypeError, "params_or_array holds complex64, which tinygrad does not have"),
    ):
        with pytest.raises(error, match=said) as caught:
            sv.to_backend(value, "tinygrad", device=device)
        assert "\n" not in str(caught.value)
    x, p = sv.to_backend(X, "tinygrad"), sv.to_backend(P, "tinygrad")
    with pytest.raises(TypeError, match=r"x is a tinygrad array but parameter '[\w.]+' is a numpy array"):
        sv.iwsa(x, P, **IWSA)
    with pytest.raises(TypeError, match=r"x is float32 but parameter '[\w.]+' is float64"):
        sv.iwsa(sv.to_backend(X, "tinygrad", "float32"), p, **IWSA)
    with pytest.raises(ValueError, match=r"x is on device CPU but parameter '[\w.]+' is on CPU:1"):
        sv.iwsa(x, sv.to_backend(P, "tinygrad", device="CPU:1"), **IWSA)


def test_without_its_compiler_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `verify` says it: a device that does not start ends nothing."""
    from scalablevit_ref.testing.agreement import Candidate, why_absent

    class Devices:
        def canonicalize(self, name: Any) -> str:
            return "CPU"

        def __getitem__(self, name: str) -> Any:
            raise FileNotFoundError(2, "No such file or directory", "clang")

    monkeypatch.setattr(backend, "Device", Devices())
    why = why_absent(Candidate("tinygrad", "float32"))
    assert why is not None
    assert "No such file or directory: 'clang'); CPU needs clang" in why


def test_the_properties_that_every_run_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these is one; the others are left out, on tinygrad alone, unless they are asked for."""
    files = (Path(__file__).parents[1] / "properties").glob("test_*.py")
    names = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)}
    assert names > ON_TINYGRAD
    monkeypatch.setattr(library, "is_nightly", lambda: False)
    monkeypatch.delenv(WHOLE_ON_TINYGRAD, raising=False)
    assert {name for name in names if not left_to_nightly("tinygrad", name)} == ON_TINYGRAD
    assert not any(left_to_nightly(other, name) for name in names for other in ("torch", None))
    with monkeypatch.context() as patch:
        patch.setattr(library, "is_nightly", lambda: True)
        assert not any(left_to_nightly("tinygrad", name) for name in names)
    with monkeypatch.context() as patch:
        patch.setenv(WHOLE_ON_TINYGRAD, "1")
        assert not any(left_to_nightly("tinygrad", name) for name in names)


def test_its_kernels_are_not_kept_in_the_users_folder() -> None:
    from tinygrad.helpers import CACHEDB

    assert not Path(CACHEDB).is_relative_to(Path.home() / ".cache")


def test_what_we_rely_on_of_einops() -> None:
    """It knows tinygrad's tensors itself, and they are lazy after it."""
    from einops._backends import get_backend

    assert type(get_backend(Tensor([1.0]))).__name__ == "TinygradBackend"
    assert tinygrad.dtypes.float.itemsize == 4

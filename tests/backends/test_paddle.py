"""What PaddlePaddle's users do with the reference: eager and compiled calls, gradients, places, TensorFlow beside it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import paddle
import pytest
import torch
from scalablevit_ref.backends import dispatch
from scalablevit_ref.backends import paddle as backend

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2
from tests.support.op_calls import CALLS, WAYS, check_op
from tests.support.small_network import small_network
from tests.support.static import static

CONFIG = small_network(depths=(2, 1), head="linear", patch_size=2)
PARAMS = random_params(sv.parameter_shapes(CONFIG))
IMAGES = random_images((2, 3, 8, 16))
IWSA = {"num_heads": 2, "window_size": 2}
X, P = random_images((1, 4, 4, 8)), random_params(iwsa_shapes(8))

pytestmark = pytest.mark.usefixtures("as_in_production")  # whose shapes jaxtyping cannot read


@pytest.mark.parametrize(("how", "dtype"), WAYS)
@pytest.mark.parametrize("name", CALLS)
def test_op(name: str, how: str, dtype: str) -> None:
    check_op(name, how, dtype, "paddle")


def test_a_small_epsilon_in_float64() -> None:
    """Paddle itself would take the float32 next to it, for which the exact value stands in the definition."""
    x, one, zero = (sv.to_backend(v, "paddle") for v in (1e-4 * np.arange(8.0)[None], np.ones(8), np.zeros(8)))
    expected = ops.layer_norm(sv.to_numpy(x), np.ones(8), np.zeros(8), eps=1e-5)
    assert relative_l2(sv.to_numpy(ops.layer_norm(x, one, zero, eps=1e-5)), expected) < 4 * EPS["float64"]
    own = paddle.nn.functional.layer_norm(x, [8], one, zero, 1e-5)
    assert relative_l2(sv.to_numpy(own), expected) > 1e-9  # else it serves


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_whole_graph_of_equal_shapes_is_traced_once(dtype: str) -> None:
    """`paddle.jit.to_static(full_graph=True)` puts values of a program, without a place, where tensors were."""
    traced: list[Any] = []

    def network(images: Any, params: Any) -> Any:
        traced.append(type(images))
        return sv.scalable_vit(images, params, CONFIG)

    compiled = static(network)
    images, params = (sv.to_backend(x, "paddle", dtype) for x in (IMAGES, PARAMS))
    for scale in (1.0, 2.0, 3.0):
        found, expected = compiled(images * scale, params), sv.scalable_vit(images * scale, params, CONFIG)
        assert relative_l2(sv.to_numpy(found), sv.to_numpy(expected)) <= NETWORK_TOLERANCE[dtype] * EPS[dtype]
    assert traced == [paddle.pir.Value]
    assert dispatch.TRACED["paddle"] == (paddle.pir.Value.__module__.replace("base.libpaddle.", ""), "Value")
    compiled(images[:1], params)
    assert len(traced) == 2


def test_a_traced_mixture_is_refused() -> None:
    params = sv.to_backend(PARAMS, "paddle", "float32")
    with pytest.raises(Exception, match=r"images is float64 but parameter '[\w.]+' is float32"):
        static(lambda x: sv.scalable_vit(x, params, CONFIG))(sv.to_backend(IMAGES, "paddle"))


@pytest.mark.filterwarnings("ignore:(?s).*do not have 'place' interface:UserWarning")  # Paddle's own backward pass asks for it
def test_gradients_eager_and_compiled() -> None:
    """Of everything that goes in, against PyTorch's in float64."""
    tensors = {name: torch.from_numpy(x).requires_grad_() for name, x in {"x": X, **P}.items()}

    def loss(t: Any) -> Any:
        y = sv.iwsa(t["x"], {name: x for name, x in t.items() if name != "x"}, **IWSA)
        return (y * y).sum()

    loss(tensors).backward()
    size = max(float(x.grad.abs().max()) for x in tensors.values())  # type: ignore[union-attr]
    for function in (loss, static(loss)):
        arrays = sv.to_backend({"x": X, **P}, "paddle")
        for x in arrays.values():
            x.stop_gradient = False
        function(arrays).backward()
        for name, expected in tensors.items():
            found = sv.to_numpy(arrays[name].grad)
            assert np.abs(found - expected.grad.numpy()).max() <= 64 * EPS["float64"] * size, name  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_transfer_keeps_the_bits_and_shares_no_memory(dtype: str) -> None:
    x = sv.to_backend(np.random.default_rng(0).standard_normal(64), "numpy", dtype)
    bits = x.tobytes()
    for device in (None, "cpu", paddle.CPUPlace()):
        moved = sv.to_backend(x, "paddle", device=device)
        assert str(moved.dtype) == f"paddle.{dtype}"
        x[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
        x[:] = np.frombuffer(bits, x.dtype)
        sv.to_numpy(moved)[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
    assert backend.device(moved) == "cpu"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_refused_on_a_cpu(dtype: str) -> None:
    """Where Paddle cannot even add them."""
    x, p = (sv.to_backend(value, "paddle", dtype) for value in (X, P))
    with pytest.raises(TypeError, match=r"x is a tensor of 16 bits on a CPU, .*; \.astype\('float32'\) can be computed with"):
        sv.iwsa(x, p, **IWSA)
    with pytest.raises(RuntimeError, match="kernel"):
        x + x  # else they can be computed with


def test_refusals() -> None:
    """In one line each."""
    for value, device, error, said in (
        (X, "gpu:7", ValueError, "PaddlePaddle has no device 'gpu:7', only cpu"),
        (X, 3, TypeError, "device must be a place of PaddlePaddle's or its name, got 3"),
        (np.ones(2, "uint16"), None, TypeError, "params_or_array holds uint16, which PaddlePaddle does not have"),
        (np.ones(2, "longdouble"), None, TypeError, "params_or_array holds float128, which PaddlePaddle does not have"),
    ):
        with pytest.raises(error, match=said) as caught:
            sv.to_backend(value, "paddle", device=device)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"x is a paddle array but parameter '[\w.]+' is a numpy array"):
        sv.iwsa(sv.to_backend(X, "paddle"), P, **IWSA)


def test_a_sparse_tensor_is_named() -> None:
    """Paddle ends the process when NumPy asks one for its numbers."""
    sparse = paddle.ones([3, 3]).to_sparse_coo(2)
    with pytest.raises(TypeError, match=r"x is a sparse tensor; \.to_dense\(\) gives its numbers"):
        sv.mlp(sparse, {})
    with pytest.raises(TypeError, match="a paddle array, is a sparse tensor"):
        sv.to_numpy(sparse)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs tensorflow")
def test_after_tensorflow() -> None:
    """The segmentation fault of `import tensorflow, paddle` is none here, in processes of their own, and both still compute."""
    code = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow as tf
import sys
import numpy as np
import scalablevit_ref as sv
from scalablevit_ref.testing.agreement import Candidate, why_absent
flags = sys.getdlopenflags()
assert why_absent(Candidate("paddle", "float32")) is None
assert sys.getdlopenflags() == flags
x = sv.to_backend(np.ones((2, 2)), "paddle")
x.stop_gradient = False
(x @ x).sum().backward()
print(float(x.grad.sum()), float(tf.reduce_sum(tf.ones((2, 2)) @ tf.ones((2, 2)))))
"""
    assert run(code) == "16.0 8.0"


@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs tensorflow")
def test_where_the_loader_has_no_such_word() -> None:
    """One line in place of the fault, of `to_backend` and of `verify`."""
    code = """
import os, sys, types
del os.RTLD_DEEPBIND
sys.modules["tensorflow"] = types.ModuleType("tensorflow")
import numpy as np
import scalablevit_ref as sv
from scalablevit_ref.testing.agreement import Candidate, why_absent
print(why_absent(Candidate("paddle", "float32")))
try:
    sv.to_backend(np.ones(3), "paddle")
except ImportError as error:
    print(error)
"""
    said = "does not start: ImportError: TensorFlow is loaded, beside which PaddlePaddle can only be loaded first"
    absent, refused = run(code).splitlines()
    assert absent == f"{said}: import paddle before tensorflow"
    assert refused == f"backend 'paddle' {absent}"


def test_what_we_rely_on_of_einops() -> None:
    """It knows Paddle's tensors itself, traced ones too."""
    from einops import rearrange
    from einops._backends import get_backend

    assert type(get_backend(paddle.ones([1]))).__name__ == "PaddleBackend"
    assert static(lambda x: rearrange(x, "a b -> b a"))(paddle.ones([2, 3])).shape == [3, 2]

"""The dialects: float64 figures of vit_pytorch and its Flax port at relative l2 ≤ 1e-12, their oddities, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.port import ssa, strided_conv
from scalablevit_ref.testing import relative_l2
from tests.support import recipe
from tests.support.dialects import CONFIG, OPTIONS, case_parameters, flax_params, images, parameters, vit_params
from tests.support.library import Agree, Library
from tests.support.recipe import TOLERANCE, assert_fingerprint


@pytest.mark.parametrize("name", ["network.vit_pytorch.custom", "network.vit_pytorch.readme"])
def test_vit_pytorch_conforms(name: str, backend: str) -> None:
    case = recipe.load(name)
    config = vit_pytorch.Config(**case["options"])
    assert [[name, list(shape)] for name, shape in vit_pytorch.parameter_shapes(config).items()] == case["parameters"]
    params = sv.to_backend(case_parameters(name), backend)
    x = sv.to_backend(images(case["images"], case["seed"]), backend)
    taps = vit_pytorch.trace(x, params, config)
    assert relative_l2(sv.to_numpy(taps["logits"]), np.array(case["logits"])) <= TOLERANCE
    for tap, expected in case["taps"].items():
        assert list(taps[tap].shape) == expected["shape"]
        assert_fingerprint(tap, sv.to_numpy(taps[tap]), expected, case["seed"])


@pytest.mark.parametrize("form", ["flat", "nested", "slashes", "without its root"])
def test_the_flax_port_conforms(form: str, backend: str) -> None:
    case = recipe.load("network.flax_port.custom")
    config = flax_port.Config(**case["options"])
    assert [[name, list(shape)] for name, shape in flax_port.parameter_shapes(config).items()] == case["parameters"]
    params: Any = sv.to_backend(parameters(case["parameters"], case["seed"]), backend)
    b, h, w, c = case["images"]
    x = sv.to_backend(rearrange(images((b, c, h, w), case["seed"]), "b c h w -> b h w c"), backend)
    if form in ("nested", "without its root"):
        params = flax_port.nested(params)
        params = params["params"] if form == "without its root" else params
    elif form == "slashes":
        params = {name.replace(".", "/"): value for name, value in params.items()}
    taps = flax_port.trace(x, params, config)
    assert list(taps)[-1] == "logits"
    assert relative_l2(sv.to_numpy(taps["logits"]), np.array(case["logits"])) <= TOLERANCE
    assert tuple(taps["Downsample_0"].shape) == (b, 14, 14, 32)


def test_libraries_agree_on_vit_pytorch(xp: Library, agree: Agree) -> None:
    x = images((2, 3, 23, 47))
    expected = vit_pytorch.trace(x, vit_params(), CONFIG)
    actual = vit_pytorch.trace(xp(x), xp(vit_params()), CONFIG)
    agree.exactly(vit_pytorch.scalable_vit(xp(x), xp(vit_params()), CONFIG), sv.to_numpy(actual["logits"]))
    assert list(actual) == list(expected)
    for name, value in actual.items():
        agree(value, expected[name], what=name)


@pytest.mark.parametrize("patched", [False, True])
def test_libraries_agree_on_the_flax_port(patched: bool, xp: Library, agree: Agree) -> None:
    params = parameters(flax_port.parameter_shapes(CONFIG, patched=patched), seed=3)
    x = images((2, 23, 47, 3))
    expected = flax_port.trace(x, params, CONFIG, patched=patched)
    for name, value in flax_port.trace(xp(x), xp(params), CONFIG, patched=patched).items():
        agree(value, expected[name], what=name)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_in_is_dtype_out(dtype: str, backend: str) -> None:
    x = sv.to_backend(images((1, 23, 47, 3)), backend, dtype)
    logits = sv.to_numpy(flax_port.scalable_vit(x, sv.to_backend(flax_params(), backend, dtype), CONFIG))
    expected = flax_port.scalable_vit(images((1, 23, 47, 3)), flax_params(), CONFIG)
    assert logits.dtype == dtype
    assert relative_l2(logits, expected) <= (0.02 if dtype == "float16" else 1e-5)


def test_gelu_tanh(xp: Library, agree: Agree) -> None:
    x = np.concatenate([np.linspace(-40, 40, 4001), [-1e-9, 0.0, 1e-9, 1e4, -1e4]])
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    for form in (ops.gelu_tanh, ops.gelu_tanh.definition):
        agree(form(xp(x)), expected)
    assert np.abs(expected - sv.to_numpy(ops.gelu(x))).max() > 1e-4  # and is another function than the exact one


def test_gelu_tanh_in_half_precision(backend: str) -> None:
    """Squares beyond float16's range do not overflow."""
    x = sv.to_backend(np.float16([-60000, -300, -1, 0, 1, 300, 60000]), backend)
    assert sv.to_numpy(ops.gelu_tanh(x)).tolist() == pytest.approx([0, 0, -0.1588, 0, 0.8412, 300, 60000], rel=1e-3)


@pytest.mark.parametrize("size", range(5, 13))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 4), (3, 2), (3, 1), (2, 2), (3, 3)])
def test_same_padding(size: int, kernel: int, stride: int, xp: Library, agree: Agree) -> None:
    """⌈size / stride⌉ outputs; of an odd number of zeros the last goes to the end."""
    x, weight = images((1, size, size + 1, 2)), recipe.uniform("weight", (3, 2, kernel, kernel), 1)
    y = strided_conv(xp(x), {"weight": xp(weight)}, stride=stride, padding=3, same=True)
    assert tuple(y.shape[1:3]) == (-(-size // stride), -(-(size + 1) // stride))
    left = max((y.shape[1] - 1) * stride + kernel - size, 0) // 2
    top = max((y.shape[2] - 1) * stride + kernel - size - 1, 0) // 2
    wide = np.zeros((1, size + 2 * kernel, size + 2 * kernel, 2))
    wide[:, left : left + size, top : top + size + 1] = x
    expected = ops.conv2d(wide, weight, stride=stride)[:, : y.shape[1], : y.shape[2]]
    agree(y, expected)


def test_the_flax_port_s_grid_is_shifted() -> None:
    """SAME puts 1 + 2 zeros around a stem's even input, where vit_pytorch puts 3 + 3: the patches lie elsewhere."""
    x = np.zeros((1, 48, 48, 3))
    x[0, 20, 20] = 1.0
    shared = parameters(flax_port.parameter_shapes(CONFIG, patched=True), seed=3)
    shared |= {name: value * 0 for name, value in shared.items() if name.endswith(".bias")}
    stems = [
        np.abs(flax_port.trace(x, params, CONFIG, patched=patched)["Conv_0"]).sum(-1)
        for patched, params in ((False, flax_params() | shared), (True, shared))
    ]
    seen = [sorted(set(np.nonzero(stem)[1].tolist())) for stem in stems]
    assert seen == [[4, 5], [5]]  # 4i - 1 ≤ 20 < 4i + 6, against 4i - 3 ≤ 20 < 4i + 4


def test_ssa_pads_its_last_tiles_only_in_flax() -> None:
    """vit_pytorch drops what fills no tile: there the last column of a 6 × 7 map matters to queries, but not to keys and values."""
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 8))
    rng = np.random.default_rng(1)
    params = {f"{name}.weight": rng.standard_normal((4, 8, 2, 2)) for name in ("to_k", "to_v")}
    params |= {"to_q.weight": rng.standard_normal((4, 8, 1, 1)), "to_out.0.weight": rng.standard_normal((8, 4, 1, 1))}
    changed = x.copy()
    changed[:, :, 4] += 1.0
    differ = [
        np.abs(ssa(x, params, heads=2, s=2, same=same) - ssa(changed, params, heads=2, s=2, same=same))[:, :, :4].max()
        for same in (False, True)
    ]
    assert differ[0] == 0
    assert differ[1] > 1e-3


def test_the_order_slip() -> None:
    """Entry 3, a feed-forward, runs before entry 4, IWSA: where IWSA sees other input, where it does not."""
    taps = vit_pytorch.trace(images((1, 3, 48, 48)), vit_params(), CONFIG)
    names = [name for name in taps if name.startswith("layers.1.0.layers.0.")]
    assert names == [f"layers.1.0.layers.0.{i}" for i in range(5)]
    changed = dict(vit_params())
    changed["layers.1.0.layers.1.3.net.4.bias"] = changed["layers.1.0.layers.1.3.net.4.bias"] + np.arange(16)
    again = vit_pytorch.trace(images((1, 3, 48, 48)), changed, CONFIG)
    assert np.abs(again["layers.1.0.layers.1.4"] - taps["layers.1.0.layers.1.4"]).max() > 1e-3
    changed = dict(vit_params())
    changed["layers.1.0.layers.1.4.to_out.0.bias"] = changed["layers.1.0.layers.1.4.to_out.0.bias"] + np.arange(16)
    again = vit_pytorch.trace(images((1, 3, 48, 48)), changed, CONFIG)
    assert np.array_equal(again["layers.1.0.layers.1.3"], taps["layers.1.0.layers.1.3"])
    assert not np.array_equal(again["logits"], taps["logits"])


def test_a_window_of_none_is_the_whole_map() -> None:
    whole = vit_pytorch.Config(**OPTIONS | {"window_size": (12, 6)})
    x = images((1, 3, 48, 48))
    expected = vit_pytorch.scalable_vit(x, vit_params(), vit_pytorch.Config(**OPTIONS | {"window_size": None}))
    assert np.array_equal(vit_pytorch.scalable_vit(x, vit_params(), whole), expected)
    assert not np.array_equal(vit_pytorch.scalable_vit(x, vit_params(), CONFIG), expected)


@pytest.mark.parametrize("dialect", [vit_pytorch, flax_port])
def test_gradients_reach_every_parameter(dialect: Any) -> None:
    raw = parameters(dialect.parameter_shapes(CONFIG), seed=3)
    params = {name: tensor.requires_grad_() for name, tensor in sv.to_backend(raw, "torch").items()}
    x = sv.to_backend(images((1, 3, 48, 48) if dialect is vit_pytorch else (1, 48, 48, 3)), "torch").requires_grad_()
    (dialect.scalable_vit(x, params, CONFIG) ** 2).sum().backward()
    for name, tensor in {"images": x, **params}.items():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.norm() > 0, name


def test_a_gradient_is_the_slope() -> None:
    params = sv.to_backend(flax_params(), "torch")
    name = "params.Transformer_0.InteractiveWindowedSelfAttention_0.Conv_0.kernel"
    kernel = params[name].requires_grad_()
    x = sv.to_backend(images((1, 48, 48, 3)), "torch")
    flax_port.scalable_vit(x, params, CONFIG).sum().backward()
    step = torch.from_numpy(recipe.uniform("step", tuple(kernel.shape), 1)) * 1e-5
    with torch.no_grad():
        up, down = (flax_port.scalable_vit(x, params | {name: kernel + s * step}, CONFIG).sum() for s in (1, -1))
    assert float(up - down) / 2 == pytest.approx(float((kernel.grad * step).sum()), rel=1e-6)


def test_inputs_are_left_alone(xp: Library) -> None:
    params, x = xp(vit_params()), xp(images((1, 3, 48, 48)))
    vit_pytorch.scalable_vit(x, params, CONFIG)
    assert all(np.array_equal(sv.to_numpy(params[name]), value) for name, value in vit_params().items())
    assert np.array_equal(sv.to_numpy(x), images((1, 3, 48, 48)))

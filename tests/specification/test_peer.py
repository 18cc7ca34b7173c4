"""A peer of flesh and blood: PyPI's vit_pytorch. What it calls ScalableViT is another network, and the comparison must say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.benchmark.contenders import vit_pytorch_module
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.arrays import assert_agrees, assert_traces_agree, compare_arrays, first_difference

DIM, HEADS, CLASSES = 16, (2, 4), 5
CONFIG = sv.ScalableViTConfig(  # the nearest that the official network comes to it
    embed_dims=(DIM, 2 * DIM),
    depths=(2, 2),
    num_heads=HEADS,
    mlp_ratios=(4, 4),
    sr_ratios=(2, 1),
    c_ratios=(1, 1),
    window_sizes=(2, 2),
    num_classes=CLASSES,
    qkv_bias=False,
    norm_eps=1e-5,
    head="linear",
)
IMAGES = random_images((2, 3, 16, 32))


@pytest.fixture(scope="module")
def peer() -> torch.nn.Module:
    """The peer at `CONFIG`'s size in float64, with random parameters."""
    widths = {f"{kind}_dim_{what}": DIM // HEADS[0] for kind in ("ssa", "iwsa") for what in ("key", "value")}
    options = {
        "num_classes": CLASSES,
        "dim": DIM,
        "depth": (1, 1),
        "heads": HEADS,
        "reduction_factor": (2, 1),
        "window_size": (2, 2),
    }
    network = vit_pytorch_module().ScalableViT(**options, **widths).double().eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    state = random_params({name: shape for name, shape in shapes.items() if not name.endswith((".g", ".b"))})
    for name in shapes:
        if name.endswith((".g", ".b")):  # channel norms hold 1 c 1 1
            local = name.replace(".g", ".weight").replace(".b", ".bias")
            state[name] = random_params({local: shapes[name][1:2]})[local].reshape(shapes[name])
    network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=True)
    return network


def state_of(peer: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in peer.state_dict().items()}


def names_in_the_peer() -> dict[str, str]:
    """Official parameter: the peer's, for all that mean the same and hold as many numbers."""
    table = {
        "head": "mlp_head.2",
        "norm": "mlp_head.1",
        "patch_embeds.0.proj": "to_patches",
        "patch_embeds.1.proj": "layers.0.1.conv",
    }
    table["patch_embeds.1.norm"] = "layers.0.0.norm"
    for k in (0, 1):
        layer = f"layers.{k}.0.layers.0"
        table[f"pos_block.{k}.proj.0"] = f"{layer}.2.proj"
        for i, (attention, mlp) in enumerate(((4, 3), (0, 1))):  # the official order is IWSA, MLP, SSA, MLP
            block = f"stages.{k}.{i}"
            table |= {f"{block}.norm1": f"{layer}.{attention}.norm", f"{block}.norm2": f"{layer}.{mlp}.net.0"}
            table |= {f"{block}.attn.proj": f"{layer}.{attention}.to_out.0", f"{block}.attn.q": f"{layer}.{attention}.to_q"}
            table |= {f"{block}.mlp.fc1": f"{layer}.{mlp}.net.1", f"{block}.mlp.fc2": f"{layer}.{mlp}.net.4"}
    return table


def parameters_from(peer: torch.nn.Module) -> tuple[dict[str, np.ndarray], int]:
    """The official network's parameters, as many as fit copied from the peer (the number comes second), the others random."""
    params, copied, state = random_params(sv.parameter_shapes(CONFIG)), 0, state_of(peer)
    for target, source in names_in_the_peer().items():
        for leaf, leaves in {"weight": ("weight", "g"), "bias": ("bias", "b")}.items():
            name = f"{target}.{leaf}"
            for value in (state[f"{source}.{other}"] for other in leaves if f"{source}.{other}" in state):
                if name in params and value.size == params[name].size:
                    params[name], copied = value.reshape(params[name].shape), copied + 1
    for k, layer in enumerate(("layers.0.0.layers.0", "layers.1.0.layers.0")):
        qkv = np.concatenate([state[f"{layer}.4.to_{letter}.weight"][:, :, 0, 0] for letter in "qkv"])
        params[f"stages.{k}.0.attn.qkv.weight"], copied = qkv, copied + 1
    return params, copied


def trace_of(peer: Any) -> dict[str, np.ndarray]:
    """Stem, stages and logits, as the official trace names them; maps b h w c."""
    trace: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: trace.update({name: output.numpy()})

    hooks = {"patch_embeds.0": peer.to_patches, "stages.0.1": peer.layers[0][0], "patch_embeds.1": peer.layers[0][1]}
    hooks |= {"stages.1.1": peer.layers[1][0], "logits": peer}
    handles = [module.register_forward_hook(keep(name)) for name, module in hooks.items()]
    with torch.no_grad():
        peer(torch.from_numpy(IMAGES))
    for handle in handles:
        handle.remove()
    return {name: rearrange(x, "b c h w -> b h w c") if x.ndim == 4 else x for name, x in trace.items()}


def test_the_stem_s_convolution_is_the_same(peer: torch.nn.Module, backend: str) -> None:
    """The part that both share: 7 × 7, stride 4, padding 3. Ours on each library, equal to 64 eps."""
    state = state_of(peer)
    x = sv.to_backend(rearrange(IMAGES, "b c h w -> b h w c"), backend)
    weight, bias = (sv.to_backend(state[f"to_patches.{leaf}"], backend) for leaf in ("weight", "bias"))
    stem = ops.conv2d(x, weight, bias, stride=4, padding=3)
    assert_agrees(trace_of(peer)["patch_embeds.0"], stem)
    assert_traces_agree({"stem": trace_of(peer)["patch_embeds.0"]}, {"stem": stem}, tolerance=32)


def test_the_same_attention_is_the_same(peer: Any, backend: str) -> None:
    """SSA without reduction, the one operation whose weights map exactly: q, k, v and proj as they are, its norm done by us."""
    module = peer.layers[1][0].layers[0][0]
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    x = random_images((2, 4, 6, 2 * DIM))
    with torch.no_grad():
        expected = rearrange(module(torch.from_numpy(rearrange(x, "b h w c -> b c h w"))), "b c h w -> b h w c")
    q, k, v, proj = (state[f"{name}.weight"][:, :, 0, 0] for name in ("to_q", "to_k", "to_v", "to_out.0"))
    params = {"q.weight": q, "kv.weight": np.concatenate([k, v]), "proj.weight": proj, "proj.bias": state["to_out.0.bias"]}
    gain, shift = (sv.to_backend(state[f"norm.{leaf}"].reshape(-1), backend) for leaf in "gb")
    normed = ops.layer_norm(sv.to_backend(x, backend), gain, shift, eps=1e-5)
    y = sv.ssa(normed, sv.to_backend(params, backend), num_heads=HEADS[1], sr_ratio=1, c_ratio=1)
    assert_agrees(y, expected)
    scaled = sv.ssa(normed, sv.to_backend(params, backend), num_heads=HEADS[1], sr_ratio=1, c_ratio=1.25)
    with pytest.raises(AssertionError, match="worst at"):  # small_0's scale, and only that, tells them apart
        assert_agrees(scaled, expected)


def test_the_networks_differ_from_the_stem_on(peer: torch.nn.Module, backend: str) -> None:
    params, copied = parameters_from(peer)
    assert copied > 40  # as near as it gets: most parameters are the peer's own
    official = sv.trace(sv.to_backend(IMAGES, backend), sv.to_backend(params, backend), CONFIG)
    theirs = trace_of(peer)
    ours = {name: official[name] for name in theirs}
    found = first_difference(theirs, ours, tolerance=1e6)
    assert found is not None
    assert found[0] == "patch_embeds.0"  # the peer has no LayerNorm after its stem
    with pytest.raises(AssertionError, match=r"^first difference at patch_embeds\.0: .*worst at"):
        assert_traces_agree(theirs, ours, tolerance=1e6)
    for name, x in ours.items():  # nor do any later map and the logits agree to two digits
        assert compare_arrays(theirs[name], x, measure="l2").error > 1e14, name
    with pytest.raises(AssertionError, match=r"names differ: missing .*'stages\.0\.0\.norm1'"):
        assert_traces_agree(theirs, official, tolerance=1e6)


def test_the_first_difference_moves_on_when_it_is_mended(peer: torch.nn.Module) -> None:
    """With the stem's LayerNorm put after the peer's stem the next difference is the order of the blocks."""
    params, _ = parameters_from(peer)
    official = sv.trace(IMAGES, params, CONFIG)
    theirs = trace_of(peer)
    theirs["patch_embeds.0"] = sv.to_numpy(
        ops.layer_norm(theirs["patch_embeds.0"], params["patch_embeds.0.norm.weight"], params["patch_embeds.0.norm.bias"], eps=1e-5)
    )
    found = first_difference(theirs, {name: official[name] for name in theirs}, tolerance=32)
    assert found is not None
    assert found[0] == "stages.0.1"

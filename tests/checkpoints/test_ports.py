"""vit_pytorch ⇄ Flax port: bits, functions and refusals."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.numpy import save_file

import scalablevit_ref as sv
from scalablevit_ref import CheckpointError
from scalablevit_ref.checkpoints import load_port
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.config import is_norm_bias
from scalablevit_ref.dialects.weights import flax_to_vit_pytorch, port_table, vit_pytorch_to_flax
from tests.support.bit_patterns import assert_same_bits, distinct_bits
from tests.support.dialects import CONFIG, OPTIONS, images, parameters, unbiased
from tests.support.hostile import header
from tests.support.library import Agree, Library
from tests.support.waiting import slowness

LAST_NORM = "params.Transformer_1.LayerNorm_0.scale"
DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_flax_to_vit_pytorch_and_back_is_exact(dtype: str) -> None:
    tree = distinct_bits(flax_port.parameter_shapes(CONFIG, patched=True), dtype)
    state = flax_to_vit_pytorch(flax_port.nested(tree), CONFIG)
    assert {name: x.shape for name, x in state.items()} == vit_pytorch.parameter_shapes(CONFIG)
    assert list(state) == list(vit_pytorch.parameter_shapes(CONFIG))
    assert_same_bits(vit_pytorch_to_flax(state, CONFIG), tree)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vit_pytorch_to_flax_and_back_is_exact(dtype: str) -> None:
    state = distinct_bits(vit_pytorch.parameter_shapes(CONFIG), dtype)
    state |= {name: np.zeros_like(x) for name, x in state.items() if is_norm_bias(name)}
    tree = vit_pytorch_to_flax({name: np.asfortranarray(x) for name, x in state.items()}, CONFIG)
    assert all(x.flags.c_contiguous for x in tree.values())
    assert_same_bits(flax_to_vit_pytorch(tree, CONFIG), state)


def test_the_table_names_every_parameter_once() -> None:
    for patched in (False, True):
        table = port_table(CONFIG, patched=patched)
        assert sorted(name for move in table for name in move.sources) == sorted(
            flax_port.parameter_shapes(CONFIG, patched=patched)
        )
        theirs = {name for name in vit_pytorch.parameter_shapes(CONFIG) if not is_norm_bias(name)}
        assert {name for move in table for name in move.targets} == theirs | (set() if patched else {"layers.1.0.norm.g"})
    moves = {move.sources[0]: move.targets[0] for move in table}
    port_1 = "params.Transformer_1"
    assert moves[f"{port_1}.ScalableSelfAttention_1.Conv_3.kernel"] == "layers.1.0.layers.1.0.to_out.0.weight"
    assert moves[f"{port_1}.MLP_3.Conv_0.kernel"] == "layers.1.0.layers.1.3.net.1.weight"
    assert moves[f"{port_1}.PreNorm_6.LayerNorm_0.scale"] == "layers.1.0.layers.1.3.net.0.g"
    assert moves[f"{port_1}.InteractiveWindowedSelfAttention_1.Conv_1.kernel"] == "layers.1.0.layers.1.4.to_q.weight"


@pytest.mark.parametrize("size", [(48, 48), (35, 71)])  # the second with odd maps, whose grid SAME would not shift alike
def test_both_compute_the_same_where_the_port_is_patched(size: tuple[int, int], xp: Library, agree: Agree) -> None:
    config = vit_pytorch.Config(**OPTIONS | {"reduction_factor": 2})
    state = parameters(vit_pytorch.parameter_shapes(config), seed=3)
    state |= {name: np.zeros_like(value) for name, value in state.items() if is_norm_bias(name)}
    x = images((2, 3, *size))
    expected = vit_pytorch.scalable_vit(xp(x), xp(state), config)
    tree = vit_pytorch_to_flax(state, config)
    nhwc = rearrange(x, "b c h w -> b h w c")
    agree(flax_port.scalable_vit(xp(nhwc), xp(tree), config, patched=True), sv.to_numpy(expected))
    published = vit_pytorch_to_flax(state, config, patched=False, one_way=True)
    difference = np.abs(flax_port.scalable_vit(nhwc, published, config) - sv.to_numpy(expected)).max()
    assert difference > 1e-3  # as published the port computes something else


def test_norm_biases_are_refused_with_the_reason() -> None:
    state = unbiased()
    state["layers.0.0.norm.b"][0, 3] = 0.5
    with pytest.raises(CheckpointError, match=r"layers\.0\.0\.norm\.b: the Flax port's norms have no bias.*found up to 0.5"):
        vit_pytorch_to_flax(state, CONFIG)
    lossy = vit_pytorch_to_flax(state, CONFIG, one_way=True)
    assert_same_bits(lossy, vit_pytorch_to_flax(unbiased(), CONFIG))
    state = unbiased() | {"mlp_head.1.bias": np.full(16, -0.0)}  # its sign would be lost
    with pytest.raises(CheckpointError, match=r"mlp_head\.1\.bias"):
        vit_pytorch_to_flax(state, CONFIG)


def test_the_published_port_is_refused_with_the_reason() -> None:
    tree = parameters(flax_port.parameter_shapes(CONFIG), seed=3)
    with pytest.raises(CheckpointError, match=rf"{LAST_NORM}: the published Flax port has a norm after its last stage"):
        flax_to_vit_pytorch(tree, CONFIG)
    with pytest.raises(CheckpointError, match="the published Flax port has a norm after its last stage"):
        vit_pytorch_to_flax(unbiased(), CONFIG, patched=False)
    state = flax_to_vit_pytorch(tree, CONFIG, one_way=True)
    back = vit_pytorch_to_flax(state, CONFIG, patched=False, one_way=True)
    assert np.array_equal(back.pop(LAST_NORM), np.ones(16))
    assert_same_bits(back, {name: value for name, value in tree.items() if name != LAST_NORM})


def test_parameters_that_do_not_fit() -> None:
    with pytest.raises(CheckpointError, match=r"missing \(1\): to_patches.weight"):
        vit_pytorch_to_flax({name: value for name, value in unbiased().items() if name != "to_patches.weight"}, CONFIG)
    with pytest.raises(CheckpointError, match=r"parameters do not fit: missing"):
        flax_to_vit_pytorch(unbiased(), CONFIG)
    with pytest.raises(CheckpointError, match="params must be a mapping"):
        vit_pytorch_to_flax([], CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["torch", "wrapped", "npz", "flax npz", "flax safetensors"])
def test_port_files_are_read(form: str, tmp_path: Path) -> None:
    tree = parameters(flax_port.parameter_shapes(CONFIG), seed=3)
    state, path = unbiased(), tmp_path / "weights"
    if form in ("torch", "wrapped"):
        tensors = sv.to_backend(state, "torch")
        torch.save(
            tensors if form == "torch" else {"model": {f"module.{name}": x for name, x in tensors.items()}, "epoch": 3}, path
        )
    elif form == "npz":
        np.savez(path.with_suffix(".npz"), **state)
        path = path.with_suffix(".npz")
    elif form == "flax npz":
        np.savez(path.with_suffix(".npz"), **{name.replace(".", "/"): x for name, x in tree.items()})
        path = path.with_suffix(".npz")
    else:
        save_file(tree, path)
    found = load_port(path, heads=CONFIG.heads, window_size=CONFIG.window_size)
    assert found.config == CONFIG
    assert found.port == ("flax_port" if form.startswith("flax") else "vit_pytorch")
    assert_same_bits(dict(sorted(found.params.items())), dict(sorted((tree if form.startswith("flax") else state).items())))
    with pytest.raises(CheckpointError, match=r"weights.*: these are .*'s weights, of another network"):
        sv.load_checkpoint(path)


def test_port_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    sv.save_checkpoint(path, sv.init_params(sv.variant("digits")), sv.variant("digits"))
    with pytest.raises(CheckpointError, match=r"weights.safetensors: these names are of neither port"):
        load_port(path)
    with pytest.raises(CheckpointError, match="heads= and window_size= are told of a port's weights"):
        load_port(path, heads=1, window_size=None)
    save_file({name: x for name, x in unbiased().items() if name != "mlp_head.2.weight"}, path)
    with pytest.raises(CheckpointError, match=r"weights.safetensors: mlp_head.2.weight must have 2 axes"):
        load_port(path, heads=CONFIG.heads, window_size=None)


def test_the_official_network_refuses_the_ports() -> None:
    flat = parameters(flax_port.parameter_shapes(CONFIG), seed=3)
    whole = {"vit_pytorch": unbiased(), "the Flax port": flat}
    for name, state in [*whole.items(), ("the Flax port", flax_port.nested(flat)), ("vit_pytorch", {"model": unbiased()})]:
        with pytest.raises(
            CheckpointError, match=f"{name}'s weights, of another network.*SSA, MLP, MLP, IWSA.*LayerNorm and GELU.*head"
        ):
            sv.from_state_dict(state)


def test_a_table_that_repeats_a_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = flax_port.table(CONFIG.depth, patched=True)
    monkeypatch.setattr(flax_port, "table", lambda depth, patched: (*rows[:-1], rows[0]))
    with pytest.raises(ValueError, match="not a bijection"):
        port_table(CONFIG)


def test_hostile_names_are_refused_in_no_time(tmp_path: Path) -> None:
    """Stages and layers without end, each of one empty array; and two arrays of one path."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for names in (
        [f"Transformer_{k}.ScalableSelfAttention_0.Conv_0.kernel" for k in range(8_000)],
        [f"Transformer_0.ScalableSelfAttention_{j}.Conv_0.kernel" for j in range(8_000)],
        [f"layers.{k}.0.layers.0.0.to_q.weight" for k in range(8_000)],
        [f"layers.0.0.layers.{j}.0.to_q.weight" for j in range(8_000)],
        [
            "params.Transformer_0.ScalableSelfAttention_0/Conv_0.kernel",
            "params/Transformer_0.ScalableSelfAttention_0.Conv_0.kernel",
        ],
    ):
        path, start = tmp_path / "x.safetensors", time.process_time()
        path.write_bytes(header(dict.fromkeys(names, empty)))
        with pytest.raises(CheckpointError, match=r"x\.safetensors: .*(too few for|two arrays of one path)"):
            load_port(path, heads=1)
        assert time.process_time() - start < 5 * slowness()
    for config in (
        "3",
        "[]",
        '{"heads": 3}',
        '{"heads": ["a"], "window_size": [1]}',
        '{"heads": [1e400, 2], "window_size": [1, 2]}',
    ):
        raw = {"a": dict(empty)} | {"__metadata__": {"config": config}}
        raw["layers.0.0.layers.0.0.to_q.weight"] = dict(empty)
        path.write_bytes(header(raw))
        with pytest.raises(CheckpointError, match=r"x\.safetensors: "):
            load_port(path)

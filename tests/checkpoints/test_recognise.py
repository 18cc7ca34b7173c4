"""Wrappers, prefixes and layouts told from names alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalablevit_ref import ScalableViTConfig, init_params, parameter_shapes, to_backend, variant
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, to_state_dict
from tests.support.checkpoints import DIGITS, TINY_MMDET, assert_same, numbered, zeros
from tests.support.recipe import load


def test_mmdet_names_are_the_recorded_ones() -> None:
    manifest = {name: tuple(shape) for name, shape in load("manifest.mmdet.small")}
    config = variant("mmdet_small")
    state = to_state_dict(zeros(config), config, layout="mmdet")
    assert [(name, x.shape) for name, x in state.items()] == list(manifest.items())
    checkpoint = from_state_dict(state)
    assert checkpoint.config == config
    assert list(checkpoint.params) == list(parameter_shapes(config))


@pytest.mark.parametrize(("config", "layout"), [(DIGITS, "official"), (TINY_MMDET, "official"), (TINY_MMDET, "mmdet")])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_layout_and_back(config: ScalableViTConfig, layout: str, library: str) -> None:
    params = numbered(config)
    state = to_state_dict(to_backend(params, library), config, layout=layout)
    shuffled = dict(sorted(state.items(), key=lambda item: item[0][::-1]))
    checkpoint = from_state_dict(to_backend(shuffled, library), config=config)
    assert_same(checkpoint, params)
    assert checkpoint.metadata["layout"] == layout
    if layout == "mmdet":
        assert set(state) == {name.replace("stages.", "blocks.").replace("lim_func", "lepe_func") for name in params}
        assert all(
            np.array_equal(state[name.replace("stages.", "blocks.").replace("lim_func", "lepe_func")], x)
            for name, x in params.items()
        )


def test_from_state_dict_copies() -> None:
    params = to_backend(init_params(DIGITS), "torch")
    checkpoint = from_state_dict(params)
    params["norm.weight"].zero_()
    assert (checkpoint.params["norm.weight"] == 1).all()


@pytest.mark.parametrize(
    "prefixes",
    [["module."], ["_orig_mod."], ["model."], ["backbone."], ["module.", "_orig_mod."], ["_orig_mod.", "module.", "model."]],
)
def test_prefixes(prefixes: list[str]) -> None:
    params = numbered(DIGITS)
    checkpoint = from_state_dict({"".join(prefixes) + name: x for name, x in params.items()})
    assert_same(checkpoint, params)
    assert checkpoint.metadata["prefixes"] == prefixes


def test_a_prefix_on_some_names_only() -> None:
    """What wraps one module is cut off; of other words none is."""
    params = numbered(DIGITS)
    checkpoint = from_state_dict({name.replace("norm.weight", "module.norm.weight", 1): x for name, x in params.items()})
    assert_same(checkpoint, params)
    assert checkpoint.metadata["prefixes"] == ["module."]
    params["net.norm.weight"] = params.pop("norm.weight")
    with pytest.raises(CheckpointError, match=r"missing \(1\): norm\.weight; unexpected \(1\): net\.norm\.weight"):
        from_state_dict(params, variant="digits")


def test_a_detector_s_backbone() -> None:
    params = numbered(TINY_MMDET)
    state = {f"backbone.{name}": x for name, x in to_state_dict(params, TINY_MMDET, layout="mmdet").items()}
    state |= {"neck.fpn_convs.0.conv.weight": np.zeros((2, 2), "float32"), "bbox_head.bias": np.zeros(2, "float32")}
    checkpoint = from_state_dict({"meta": {"epoch": 12, "CLASSES": ("person",)}, "state_dict": state}, config=TINY_MMDET)
    assert_same(checkpoint, params)
    told = checkpoint.metadata
    assert (told["wrapper"], told["prefixes"], told["ignored"]) == ("state_dict", ["backbone."], ["bbox_head", "neck"])
    assert told["epoch"] == 12


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema", "state_dict_ema"])
def test_wrappers(wrapper: str) -> None:
    params = numbered(DIGITS)
    checkpoint = from_state_dict({"epoch": 3, "best": [81.5, "top1"], wrapper: params, "optimizer": {"state": {}}})
    assert_same(checkpoint, params)
    told = checkpoint.metadata
    assert (told["wrapper"], told["ema"], told["epoch"], told["best"]) == (wrapper, wrapper.endswith("_ema"), 3, [81.5, "top1"])
    assert "optimizer" not in told
    json.dumps(told)


@pytest.mark.parametrize(("plain", "ema"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_ema_is_preferred_and_said(tmp_path: Path, plain: str, ema: str) -> None:
    from scalablevit_ref.checkpoints import load_checkpoint

    params, averaged = init_params(DIGITS, seed=1), init_params(DIGITS, seed=2)
    path = tmp_path / "x.pth"
    averaged_module = {f"module.{name}": x for name, x in averaged.items()} | {"n_averaged": np.array(7)}
    torch.save({plain: to_backend(params, "torch"), ema: to_backend(averaged_module, "torch")}, path)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint, averaged)
    told = checkpoint.metadata
    assert (told["wrapper"], told["ema"], told["prefixes"], told["ignored"]) == (ema, True, ["module."], ["n_averaged"])
    checkpoint = load_checkpoint(path, use_ema=False)
    assert_same(checkpoint, params)
    assert (checkpoint.metadata["wrapper"], checkpoint.metadata["ema"]) == (plain, False)
    torch.save({ema: to_backend(averaged, "torch"), plain: None}, path)
    with pytest.raises(CheckpointError, match=r"x\.pth: use_ema=False .*found " + ema):
        load_checkpoint(path, use_ema=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no state dict.*empty dict"),
        ({"optimizer": {}, "epoch": 1}, "no state dict.*found keys 'optimizer', 'epoch'"),
        ([1], "no state dict; expected a dict of names to arrays, found a list"),
        (np.zeros(3), "no state dict; expected a dict of names to arrays, found a tensor"),
        ({"model": {"stages.0.0.attn.qkv.weight": 3}}, r"stages\.0\.0\.attn\.qkv\.weight: not an array; found int$"),
        ({"norm.weight": np.zeros(1), "x": None}, r"names of no known layout.*found norm\.weight"),
        ({1: np.zeros(1)}, "names of no known layout: arrays without names.*found 1$"),
        ({"conv1.weight": np.zeros(1)}, r"names of no known layout.*found conv1\.weight"),
        ({"layers.0.0.layers.0.0.to_q.weight": np.zeros(1)}, "vit_pytorch's weights, of another network"),
        ({"Transformer_0.ScalableSelfAttention_0.Conv_0.kernel": np.zeros(1)}, "the Flax port's weights, of another network"),
    ],
)
def test_what_is_no_state_dict(state: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_state_dict(state)


def test_dtypes() -> None:
    params: dict[str, Any] = init_params(DIGITS)
    params["norm.bias"] = params["norm.bias"].astype("float16")
    assert from_state_dict(params, dtype="float32").params["norm.bias"].dtype == "float32"
    with pytest.raises(CheckpointError, match=r"unknown dtype 'float31'.*did you mean 'float32'"):
        from_state_dict(params, dtype="float31")
    mixed = r"norm\.bias: mixed dtypes; dtype='float32' makes them one and rounds nothing; "
    mixed += r"expected float32, as patch_embeds\.0\.proj\.weight is, found float16"
    for refuse in (lambda: from_state_dict(params), lambda: to_state_dict(params, DIGITS)):
        with pytest.raises(CheckpointError, match=mixed):
            refuse()
    params["norm.bias"] = params["norm.bias"].astype("int32")
    with pytest.raises(CheckpointError, match=r"norm\.bias: not floating point; expected float16, .*found int32"):
        from_state_dict(params)


def test_layouts_that_do_not_exist() -> None:
    params = init_params(DIGITS)
    with pytest.raises(CheckpointError, match=r"unknown layout 'mmdt'.*did you mean 'mmdet'"):
        to_state_dict(params, DIGITS, layout="mmdt")
    with pytest.raises(CheckpointError, match=r"layout 'mmdet' is the detection backbone's.*stage_norms=False, head='linear'"):
        to_state_dict(params, DIGITS, layout="mmdet")
    headless = variant("digits", head="none", num_classes=0)
    with pytest.raises(CheckpointError, match=r"found stage_norms=False, head='none'"):
        to_state_dict(init_params(headless), headless, layout="mmdet")
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): stages\.0\.0"):
        from_state_dict(to_state_dict(numbered(TINY_MMDET), TINY_MMDET, layout="mmdet"), layout="official", config=TINY_MMDET)


def test_a_table_that_is_no_bijection_is_refused() -> None:
    from scalablevit_ref.checkpoints.layouts import layout_table
    from scalablevit_ref.formats.moves import Move, check_bijection

    names = tuple(parameter_shapes(DIGITS))
    table = layout_table(DIGITS, "official")
    check_bijection(table, names)
    for wrong in (
        table[1:],
        (*table, table[0]),
        (Move(("a",), (names[1],)), *table[1:]),
        (Move((names[1],), (names[0],)), *table[1:]),
    ):
        with pytest.raises(ValueError, match="bijection"):
            check_bijection(wrong, names)

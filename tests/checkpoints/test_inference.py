"""Configurations told from shapes, from a variant, from `args.model`; and the report where they do not fit."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest

from scalablevit_ref import ScalableViTConfig, init_params, variant
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, to_state_dict
from tests.support.checkpoints import DIGITS, zeros


@pytest.mark.parametrize("name", ["small", "base", "large", "mmdet_small", "digits"])
def test_variant_is_told_from_its_shapes(name: str) -> None:
    checkpoint = from_state_dict(zeros(variant(name)))
    assert checkpoint.config == variant(name)
    assert checkpoint.metadata["variant"] == name
    assert checkpoint.metadata["config_from"] == "shapes"
    assert checkpoint.metadata["dtype"] == "float16"


@pytest.mark.parametrize(
    ("base", "overrides"),
    [
        ("digits", {"num_classes": 3}),
        ("digits", {"in_chans": 4, "num_classes": 1}),
        ("digits", {"ssa_values": "scaled"}),
        ("digits", {"qkv_bias": False}),
        ("small", {"num_classes": 10, "ssa_values": "scaled"}),
        ("small", {"num_classes": 0}),
        ("base", {"head": "linear"}),
        ("large", {"head": "linear", "num_classes": 10}),
        ("large", {"head": "none", "num_classes": 0}),
        ("digits", {"head": "mlp"}),
        ("mmdet_small", {"ssa_values": "unscaled"}),
    ],
)
def test_fine_tuned_weights_adapt_their_variant(base: str, overrides: dict[str, Any]) -> None:
    config = variant(base, **overrides)
    for checkpoint in (from_state_dict(zeros(config)), from_state_dict(zeros(config), variant=base)):
        assert checkpoint.config == config
        assert checkpoint.metadata["variant"] is None


def test_a_named_variant_takes_another_head() -> None:
    plain = zeros(variant("small", head="linear", num_classes=10))
    assert from_state_dict(plain, variant="small").config == variant("small", head="linear", num_classes=10)
    assert from_state_dict(plain, variant="small_0").config == variant("small_0", num_classes=10)
    headless = {name: x for name, x in zeros(variant("small")).items() if not name.startswith("head")}
    assert from_state_dict(headless, variant="small").config == variant("small", head="none", num_classes=0)
    assert from_state_dict(zeros(variant("small_0", head="mlp")), variant="small_0").config == variant("small_0", head="mlp")


@pytest.mark.parametrize("layout", ["official", "split", "channels_last"])
@pytest.mark.parametrize(
    "config",
    [
        variant("small_0", num_classes=10),
        variant("small", head="linear", num_classes=10),
        variant("small", head="none", num_classes=0),
    ],
)
def test_what_shapes_leave_open_is_not_guessed(config: ScalableViTConfig, layout: str) -> None:
    """`small` scales its last attention by 32^-½ and `small_0` by 40^-½; only an mlp head tells that it is no `small_0`."""
    state = to_state_dict(zeros(config), config, layout=layout)
    alike = r"fit small and small_0 alike, which differ in c_ratios; num_heads, window_sizes, .*c_ratios show in no shape: "
    with pytest.raises(CheckpointError, match=alike + r"give variant= \(small, small_0\) or config=$"):
        from_state_dict(state)
    assert from_state_dict(state, config=config).config == config


def test_a_detection_backbone_with_a_head() -> None:
    config = variant("mmdet_small")
    state = to_state_dict(zeros(config), config, layout="mmdet") | {"head.weight": np.zeros((3, 512), "float16")}
    with pytest.raises(CheckpointError, match=r"the detection backbone has no head; .*found a linear head"):
        from_state_dict(state)


@pytest.mark.parametrize("model", ["scalable_vit_small", "small"])
def test_args_model_names_the_variant(model: str) -> None:
    plain = zeros(variant("small_0"))
    checkpoint = from_state_dict({"model": plain, "args": argparse.Namespace(model=model)})
    assert checkpoint.config == variant("small", head="linear")
    assert checkpoint.metadata["config_from"] == "args.model"
    with pytest.raises(CheckpointError, match=r"do not fit args\.model = 'base'"):
        from_state_dict({"model": plain, "args": argparse.Namespace(model="scalable_vit_base")})


def test_an_explicit_config_is_taken_as_it_is() -> None:
    config = variant("digits", ssa_scale="head_dim", norm_eps=1e-5)
    checkpoint = from_state_dict(init_params(DIGITS), config=config)
    assert checkpoint.config == config
    assert (checkpoint.metadata["variant"], checkpoint.metadata["config_from"]) == (None, "config")
    with pytest.raises(CheckpointError, match="weights do not fit config: wrong shape"):
        from_state_dict(init_params(DIGITS), config=variant("digits", num_classes=9))
    with pytest.raises(CheckpointError, match="give variant= or config=, not both"):
        from_state_dict(init_params(DIGITS), config=config, variant="digits")


def test_all_problems_in_one_report() -> None:
    params = init_params(DIGITS)
    del params["stages.0.1.attn.q.weight"], params["head.bias"]
    params["surplus"] = np.zeros(DIGITS.num_features, "float32")
    params["norm.bias"] = np.zeros(63, "float32")
    report = (
        r"missing \(2\): stages\.0\.1\.attn\.q\.weight, head\.bias; unexpected \(1\): surplus; "
        r"wrong shape \(1\): norm\.bias expected \(64,\) got \(63,\)"
    )
    with pytest.raises(CheckpointError, match="weights do not fit variant 'digits': " + report):
        from_state_dict(params, variant="digits")
    remedy = r"; key='\.' leaves out surplus"
    with pytest.raises(CheckpointError, match=f"the shapes fit no variant, nor any other network: {report}{remedy}$"):
        from_state_dict(params)
    with pytest.raises(CheckpointError, match="parameters do not fit: " + report):
        to_state_dict(params, DIGITS)


def test_variant_against_shapes() -> None:
    with pytest.raises(CheckpointError, match="do not fit variant 'base': missing"):
        from_state_dict(zeros(variant("small")), variant="base")
    with pytest.raises(CheckpointError, match=r"unknown variant 'smal'.*did you mean 'small'"):
        from_state_dict(zeros(variant("small")), variant="smal")

"""Properties of checkpoints over drawn networks. The numbers are those of the table in `docs/proof.md`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref.checkpoints.layouts import layout_table
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.strategies import SEEDS, configs
from tests.support.bit_patterns import bit_patterns, special_patterns
from tests.support.library import Agree, Library
from tests.support.oracle import Reference, oracle

CONFIGS = configs(heads=("linear", "none"), stages=(1, 2, 4))
DETECTION = {"head": "none", "num_classes": 0, "stage_norms": True}


def as_layout(config: sv.ScalableViTConfig, layout: str) -> sv.ScalableViTConfig:
    """The config as that layout has it: the detection backbone's ends in stage norms."""
    return sv.ScalableViTConfig(**{**vars(config), **DETECTION}) if layout == "mmdet" else config


def detection_name(name: str) -> str:
    """Written out here again: what FACTS calls the names of the detection backbone."""
    return name.replace("stages.", "blocks.").replace("lim_func", "lepe_func")


@given(
    config=CONFIGS,
    layout=st.sampled_from(["official", "mmdet"]),
    suffix=st.sampled_from([".pth", ".safetensors", ".npz"]),
    dtype=st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    seed=SEEDS,
)
def test_30_round_trips_keep_every_bit(config: sv.ScalableViTConfig, layout: str, suffix: str, dtype: str, seed: int) -> None:
    """Random bits, with −0.0, infinities, subnormals and NaN payloads in each array; npz has no bfloat16."""
    config = as_layout(config, layout)
    kind = sv.to_backend(np.zeros(1), "numpy", "float32" if (suffix, dtype) == (".npz", "bfloat16") else dtype).dtype
    params = bit_patterns(sv.parameter_shapes(config), kind, seed)
    held = np.concatenate([x.reshape(-1) for x in params.values()]).view(f"u{kind.itemsize}")
    assert np.isin(special_patterns(kind).view(held.dtype), held).all()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        sv.save_checkpoint(path, params, config, layout=layout, allow_nonfinite=True)
        loaded = sv.load_checkpoint(path, allow_nonfinite=True)
    assert loaded.config == config
    assert list(loaded.params) == list(params)
    assert all(loaded.params[name].dtype == kind and loaded.params[name].shape == x.shape for name, x in params.items())
    assert all(loaded.params[name].tobytes() == x.tobytes() for name, x in params.items())


@given(config=CONFIGS, layout=st.sampled_from(["official", "mmdet"]), seed=SEEDS)
def test_30_names_are_a_bijection(config: sv.ScalableViTConfig, layout: str, seed: int) -> None:
    config = as_layout(config, layout)
    names = list(sv.parameter_shapes(config))
    moves = layout_table(config, layout)
    sources, targets = ([name for move in moves for name in getattr(move, side)] for side in ("sources", "targets"))
    assert sorted(targets) == sorted(names)
    assert len(set(sources)) == len(names)
    assert sources == [detection_name(name) for name in names] if layout == "mmdet" else sources == names
    params = random_params(sv.parameter_shapes(config), seed)
    state = sv.to_state_dict(params, config, layout=layout)
    for source, target in zip(sources, targets, strict=True):
        assert np.array_equal(state[source], params[target])


@given(layout=st.sampled_from(["official", "mmdet"]), values=st.sampled_from(["unscaled", "scaled"]), seed=SEEDS)
def test_30_square_matrices_come_through_untransposed(layout: str, values: str, seed: int, xp: Library, agree: Agree) -> None:
    """q, k, v, proj, fc1, fc2 and the 1 x 1 convolution are all 8 x 8 here, so that no shape can show a transposition or a swap.

    The state dict goes out to the oracle (under names written out in this file) and comes back from its own.
    """
    config = as_layout(
        sv.ScalableViTConfig(
            embed_dims=(8, 8),
            depths=(2, 2),
            num_heads=(2, 2),
            mlp_ratios=(1, 1),
            sr_ratios=(2, 1),
            c_ratios=(1, 1),
            window_sizes=(2, 2),
            num_classes=8,
            patch_size=2,
            head="linear",
            ssa_values="scaled" if values == "scaled" else "unscaled",
        ),
        layout,
    )
    shapes = sv.parameter_shapes(config)
    assert sum(len(shape) == 2 and shape[0] == shape[1] for shape in shapes.values()) >= 12
    params, images = random_params(shapes, seed), random_images((2, 3, 8, 16), seed)
    expected = sv.to_numpy(sv.scalable_vit(xp(images), xp(params), config))
    state = sv.to_state_dict(xp(params), config, layout=layout)
    back = sv.from_state_dict(xp(state), config=config)
    assert back.metadata["layout"] == layout
    agree.exactly(sv.scalable_vit(xp(images), xp(back.params), config), expected)
    official = {name: state[detection_name(name) if layout == "mmdet" else name] for name in shapes}
    reference = Reference(oracle(official, config), images)
    reference.check(agree, {"logits": expected})
    theirs = {detection_name(name) if layout == "mmdet" else name: x for name, x in reference.model.state_dict().items()}
    assert all(isinstance(x, torch.Tensor) for x in theirs.values())
    again = sv.from_state_dict(theirs, config=config)
    reference.check(agree, {"logits": sv.to_numpy(sv.scalable_vit(xp(images), xp(again.params), config))})

"""Layouts as tables: what each move does, and that A → official → A and official → A → official change no bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from scalablevit_ref import parameter_shapes, variant
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint, save_checkpoint, to_state_dict
from scalablevit_ref.checkpoints.layouts import LAYOUTS, layout_shapes, layout_table
from scalablevit_ref.checkpoints.load import open_checkpoint
from scalablevit_ref.formats.moves import check_bijection
from tests.support.bit_patterns import assert_same_bits
from tests.support.checkpoints import (
    BACKBONE,
    CUSTOM,
    DIGITS,
    SUFFIXES,
    TINY_MMDET,
    assert_same,
    numbered,
    random_bits,
    zeros,
)
from tests.support.profiles import share

MLP_HEAD = variant("digits", head="mlp")
NO_BIAS_V1 = variant("digits", qkv_bias=False, ssa_values="scaled")
BACKBONE_V3 = variant("digits", **(BACKBONE | {"ssa_values": "unscaled"}))
CONFIGS = {"digits": DIGITS, "custom": CUSTOM, "mlp": MLP_HEAD, "v1": NO_BIAS_V1, "mmdet": TINY_MMDET, "mmdet v3": BACKBONE_V3}
CASES = [(name, layout) for name in CONFIGS for layout in LAYOUTS if layout != "mmdet" or CONFIGS[name].stage_norms]
DTYPES = ["float16", ml_dtypes.bfloat16, "float32", "float64"]
LIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda x: x,
    "Fortran's order": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_round_trips_change_no_bit(name: str, layout: str, dtype: Any) -> None:
    """All bit patterns: NaN payloads, infinities, -0.0 and subnormals are among them."""
    config = CONFIGS[name]
    params, lies = random_bits(config, dtype), cycle(LIES.values())
    state = to_state_dict({key: next(lies)(x) for key, x in params.items()}, config, layout=layout)
    checkpoint = from_state_dict(state, config=config)
    assert checkpoint.metadata["layout"] == layout
    assert_same_bits(checkpoint.params, params)
    assert_same_bits(to_state_dict(checkpoint.params, config, layout=layout), state)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_that_lie_otherwise_in_memory(layout: str, lie: str) -> None:
    params = random_bits(TINY_MMDET, "float32")
    state = to_state_dict({key: LIES[lie](x) for key, x in params.items()}, TINY_MMDET, layout=layout)
    assert_same_bits(from_state_dict(state, config=TINY_MMDET).params, params)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_values_are_all_different(name: str, layout: str) -> None:
    """So a permutation could not hide; and each value is in the place that the layout's definition says."""
    params = numbered(CONFIGS[name], "float64")
    state = to_state_dict(params, CONFIGS[name], layout=layout)
    held = np.sort(np.concatenate([x.ravel() for x in state.values()]))
    assert np.array_equal(held, np.arange(1, held.size + 1))
    assert {key: x.shape for key, x in state.items()} == layout_shapes(CONFIGS[name], layout)
    assert_same(from_state_dict(state, config=CONFIGS[name]), params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("name", "layout"), [("custom", "split"), ("mmdet", "channels_last")])
def test_files_change_no_bit(tmp_path: Path, name: str, layout: str, suffix: str, dtype: Any) -> None:
    if suffix == ".npz" and dtype is ml_dtypes.bfloat16:
        return
    config, path, again = CONFIGS[name], tmp_path / f"x{suffix}", tmp_path / "again.safetensors"
    params = random_bits(config, dtype)
    save_checkpoint(path, params, config, layout=layout, allow_nonfinite=True)
    with open_checkpoint(path) as opened:  # file to file, tensor by tensor
        assert opened.metadata["layout"] == layout
        save_checkpoint(again, opened.params, opened.config, layout="split", allow_nonfinite=True)
    for file in (path, again):
        checkpoint = load_checkpoint(file, allow_nonfinite=True)
        assert checkpoint.config == config
        assert_same_bits(checkpoint.params, params)
        assert all(x.flags.writeable and x.flags.c_contiguous for x in checkpoint.params.values())


PUBLISHED = ("small", "small_0", "base", "large", "mmdet_small", "digits")


@pytest.mark.parametrize(("name", "dtype"), share([(name, dtype) for name in PUBLISHED for dtype in DTYPES], of=3))
def test_published_variants_narrowed_change_no_bit(name: str, dtype: Any) -> None:
    """Every variant's table, names and ratios, with fewer channels, in every layout."""
    full, parts = variant(name), 1 if name == "digits" else 8
    config = variant(name, embed_dims=[c // parts for c in full.embed_dims], num_classes=min(full.num_classes, 10))
    params = random_bits(config, dtype)
    for layout in LAYOUTS if config.stage_norms else [layout for layout in LAYOUTS if layout != "mmdet"]:
        state = to_state_dict(params, config, layout=layout)
        assert_same_bits(from_state_dict(state, config=config).params, params)


def test_a_full_variant() -> None:
    for name, layout in (("small", "channels_last"), ("mmdet_small", "split")):
        config = variant(name)
        params = numbered(config, "float64")  # 32 bits would not tell 32 million values apart
        assert_same(from_state_dict(to_state_dict(params, config, layout=layout)), params)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_table_is_a_bijection_whose_variant_is_told(name: str, layout: str) -> None:
    config = variant(name)
    if layout == "mmdet" and not config.stage_norms:
        with pytest.raises(CheckpointError, match="detection backbone"):
            layout_table(config, layout)
        return
    check_bijection(layout_table(config, layout), tuple(parameter_shapes(config)))
    checkpoint = from_state_dict(to_state_dict(zeros(config), config, layout=layout))
    assert (checkpoint.config, checkpoint.metadata["layout"]) == (config, layout)


def test_split_takes_thirds_and_halves() -> None:
    params = numbered(NO_BIAS_V1)
    state = to_state_dict(params, NO_BIAS_V1, layout="split")
    for attention, fused in (("stages.0.0.attn", "qkv"), ("stages.0.1.attn", "kv"), ("stages.3.1.attn", "kv")):
        whole = params[f"{attention}.{fused}.weight"]
        parts = [state[f"{attention}.{part}.weight"] for part in fused]
        assert [len(part) for part in parts] == [len(whole) // len(fused)] * len(fused)
        assert np.array_equal(np.concatenate(parts), whole)
    assert not [name for name in state if ".qkv." in name or ".kv." in name]
    assert state["stages.0.1.attn.q.weight"] is params["stages.0.1.attn.q.weight"]


@pytest.mark.parametrize("ssa_values", ["scaled", "unscaled"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_split_tells_the_version_of_ssa(ssa_values: Any, qkv_bias: bool) -> None:
    config = variant("small", ssa_values=ssa_values, qkv_bias=qkv_bias)
    assert from_state_dict(to_state_dict(zeros(config), config, layout="split")).config == config


def test_channels_last_is_what_flax_and_keras_multiply_with() -> None:
    config = variant("digits", in_chans=3)
    params = numbered(config)
    state = to_state_dict(params, config, layout="channels_last")
    linear, stem, depthwise = "stages.0.0.mlp.fc1", "patch_embeds.0.proj", "stages.0.0.attn.lim_func"
    assert np.array_equal(state[f"{linear}.kernel"], params[f"{linear}.weight"].T)
    assert state[f"{stem}.kernel"].shape == (7, 7, 3, 16)  # h, w, in / groups, out
    assert state[f"{stem}.kernel"][1, 2, 0, 5] == params[f"{stem}.weight"][5, 0, 1, 2]
    assert state[f"{depthwise}.kernel"].shape == (3, 3, 1, 16)
    assert np.array_equal(state["stages.0.0.norm1.scale"], params["stages.0.0.norm1.weight"])
    assert np.array_equal(state[f"{linear}.bias"], params[f"{linear}.bias"])
    assert not [name for name in state if name.endswith(".weight")]


@pytest.mark.parametrize("suffix", [".npz", None])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_both_depthwise_kernels_of_keras(tmp_path: Path, suffix: str | None, in_chans: int) -> None:
    """`DepthwiseConv2D` keeps (h, w, channels, 1), `Conv2D(groups=channels)` (h, w, 1, channels): a file may have both."""
    config = variant("digits", in_chans=in_chans)
    params = numbered(config)
    state = to_state_dict(params, config, layout="keras")
    depthwise = [name for name, x in state.items() if x.ndim == 4 and x.shape[3] == 1]
    assert len(depthwise) > 4
    for grouped in (depthwise, depthwise[::2]):
        given = state | {name: np.swapaxes(state[name], 2, 3) for name in grouped}
        assert given[grouped[0]].shape[2] == 1
        if suffix:
            np.savez(tmp_path / f"x{suffix}", **given)
            found = load_checkpoint(tmp_path / f"x{suffix}", config=config)
        else:
            found = from_state_dict(given, config=config)
        assert found.metadata["layout"] == "keras"
        assert found.params.keys() == params.keys()
        assert all(np.array_equal(found.params[name], x) for name, x in params.items())
    given[grouped[0]] = given[grouped[0]][..., :-1]
    with pytest.raises(CheckpointError, match="wrong shape"):
        from_state_dict(given, config=config)


def test_a_misshapen_kernel_is_reported() -> None:
    state = to_state_dict(numbered(DIGITS), DIGITS, layout="channels_last")
    state["stages.0.0.mlp.fc1.kernel"] = state["stages.0.0.mlp.fc1.kernel"].T
    del state["norm.scale"]
    report = r"missing \(1\): norm\.scale; wrong shape \(1\): stages\.0\.0\.mlp\.fc1\.kernel expected \(16, 32\) got \(32, 16\)"
    with pytest.raises(CheckpointError, match=report):
        from_state_dict(state)

"""The weights in a file are found wherever they lie: behind any wrapper, prefix and separator, beside anything."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalablevit_ref import init_params, parameter_shapes, to_backend, variant
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint, to_state_dict
from scalablevit_ref.checkpoints.infer import implied_config
from scalablevit_ref.config import VARIANTS
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.dialects.config import shapes as port_shapes
from tests.support.checkpoints import DIGITS, TINY_MMDET, assert_same, numbered
from tests.support.flax_files import nested
from tests.support.waiting import slowness

PARAMS = numbered(DIGITS)
OTHER = init_params(DIGITS, seed=3)
WIDTH = DIGITS.num_features

State = dict[str, Any]


def named(change: Callable[[str], str], params: State = PARAMS) -> State:
    return {change(name): x for name, x in params.items()}


def put(*path: str, params: State = PARAMS) -> State:
    tree: Any = params
    for key in reversed(path):
        tree = {key: tree}
    return dict(tree)


@pytest.mark.parametrize(
    "path", [("net",), ("weights",), ("model_state_dict",), ("a", "b", "c"), ("checkpoint", "model"), ("model", "state_dict")]
)
def test_any_wrapper(path: tuple[str, ...]) -> None:
    checkpoint = from_state_dict({"epoch": 3, "rng": np.zeros(4, "uint8")} | put(*path))
    assert_same(checkpoint, PARAMS)
    assert (checkpoint.metadata["wrapper"], checkpoint.metadata["epoch"]) == (".".join(path), 3)


@pytest.mark.parametrize(
    "prefix", ["net.", "encoder.", "_forward_module.model.", "student.backbone.", "vit.", "a.b.c.d.e.", "0.", "module.0."]
)
def test_any_prefix(prefix: str) -> None:
    checkpoint = from_state_dict({"state_dict": named(lambda name: prefix + name)})
    assert_same(checkpoint, PARAMS)
    assert "".join(checkpoint.metadata["prefixes"]) == prefix


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod", "module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"]
)
@pytest.mark.parametrize("around", ["stages.0.0.", "stages.1.", "stages.0.1.attn.", "patch_embeds.0.", "head."])
def test_wrappers_inside_of_names(wrapper: str, around: str) -> None:
    inner = named(lambda name: name.replace(around, f"{around}{wrapper}.", 1))
    for outer in ("", "model.", f"{wrapper}."):
        checkpoint = from_state_dict({outer + name: x for name, x in inner.items()})
        assert_same(checkpoint, PARAMS)
        assert f"{wrapper}." in checkpoint.metadata["prefixes"]


def numbered_keys(tree: Any) -> Any:
    return {int(k) if k.isdecimal() else k: numbered_keys(x) for k, x in tree.items()} if isinstance(tree, dict) else tree


def as_lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    inside = {name: as_lists(x) for name, x in tree.items()}
    return list(inside.values()) if list(inside) == [str(i) for i in range(len(inside))] else inside


@pytest.mark.parametrize("layout", ["official", "channels_last", "keras"])
@pytest.mark.parametrize(
    "shape",
    [
        nested,
        lambda state: numbered_keys(nested(state)),
        lambda state: as_lists(nested(state)),
        lambda state: {tuple(name.split(".")): x for name, x in state.items()},
        lambda state: {tuple(int(part) if part.isdecimal() else part for part in name.split(".")): x for name, x in state.items()},
        lambda state: {name.replace(".", "/"): x for name, x in state.items()},
        lambda state: {name.rpartition(".")[0].replace(".", "/") + "/" + name.rpartition(".")[2]: x for name, x in state.items()},
        lambda state: nested({f"{name}.value": x for name, x in state.items()}),
        lambda state: OrderedDict(state),
    ],
)
def test_any_separator(layout: str, shape: Callable[[State], Any]) -> None:
    tree = shape(to_state_dict(PARAMS, DIGITS, layout=layout))
    for given in (tree, {"params": tree}, {"step": 7, "params": tree, "opt_state": ({"count": 3}, {"mu": tree, "nu": tree})}):
        checkpoint = from_state_dict(given)
        assert_same(checkpoint, PARAMS)
        assert checkpoint.metadata["layout"] == layout


def average(path: str, params: State = OTHER) -> State:
    return put(*path.split("/"), params=params)


@pytest.mark.parametrize(
    "key",
    [
        "ema",
        "EMA",
        "model_ema",
        "ema_model",
        "state_dict_ema",
        "ema_state_dict",
        "model_ema_state_dict",
        "params_ema",
        "ema_params",
        "swa_model",
        "averaged_model",
        "shadow_params",
        "ema/module",
        "ema/shadow",
        "ema/state_dict",
        "callbacks/EMACallback/weights",
        "ema_0.9999",
        "emaModel",
    ],
)
def test_an_average_under_any_name(key: str) -> None:
    for raw in (put("model"), PARAMS, put("state_dict", params=named(lambda name: f"model.{name}"))):
        given = raw | average(key) | {"optimizer": {"state": {0: {"exp_avg": np.zeros(3)}}}}
        checkpoint = from_state_dict(given)
        assert_same(checkpoint, OTHER)
        told = checkpoint.metadata
        assert (told["ema"], told["ema_from"], len(told["others"])) == (True, key.replace("/", "."), 1)
        raw_ones = from_state_dict(given, use_ema=False)
        assert_same(raw_ones, PARAMS)
        assert not raw_ones.metadata["ema"]
        assert raw_ones.metadata["others"] == [key.replace("/", ".")]
        assert_same(from_state_dict(given, key=key.partition("/")[0]), OTHER)


def test_an_average_in_one_state_dict_with_the_weights() -> None:
    flat = PARAMS | named(lambda name: f"model_ema.{name}", OTHER) | {"model_ema.decay": np.float32(0.9)}
    assert_same(from_state_dict(flat), OTHER)
    assert_same(from_state_dict(flat, use_ema=False), PARAMS)
    online = named(lambda name: f"online_model.{name}") | named(lambda name: f"ema_model.{name}", OTHER) | {"step": np.array(4)}
    assert_same(from_state_dict(online), OTHER)


def test_what_counts_an_average_tells_one() -> None:
    averaged = named(lambda name: f"module.{name}", OTHER) | {"n_averaged": np.array(7)}
    told = from_state_dict(averaged).metadata
    assert (told["ema"], told["unread"], told["ignored"]) == (True, [], ["n_averaged"])
    assert from_state_dict({"decay": 0.999, "module": OTHER}).metadata["ema"]
    assert not from_state_dict({"lr": 0.1, "module": OTHER}).metadata["ema"]
    assert not from_state_dict({"decay": 0.05, "module": OTHER}).metadata["ema"]


def test_an_average_without_names_has_those_of_the_weights_beside_it() -> None:
    in_order = {"decay": 0.99, "num_updates": 3, "shadow_params": list(OTHER.values()), "collected_params": None}
    for ema in (in_order, {"shadow": tuple(OTHER.values())}, {"model": named(lambda name: name.replace(".", ""), OTHER)}):
        checkpoint = from_state_dict({"model": PARAMS, "ema": ema})
        assert_same(checkpoint, OTHER)
        assert checkpoint.metadata["ema"]
    for broken in (list(OTHER.values())[1:], list(OTHER.values())[::-1]):
        checkpoint = from_state_dict({"model": PARAMS, "ema": {"shadow_params": broken}})
        assert_same(checkpoint, PARAMS)
        assert checkpoint.metadata["unread"] == ["ema"]


def test_an_average_by_position_is_said_and_needs_the_weights_own_order() -> None:
    ema = {"shadow_params": list(OTHER.values())}
    assert from_state_dict({"model": PARAMS, "ema": ema}).metadata["by_position"]
    checkpoint = from_state_dict({"model": dict(sorted(PARAMS.items())), "ema": ema})
    assert_same(checkpoint, PARAMS)
    assert checkpoint.metadata["unread"] == ["ema"]


def test_an_average_that_keeps_a_copy_of_the_weights() -> None:
    """As ema_pytorch does: the copy is neither the average nor the weights, unless the key says so."""
    copy = {name: x.copy() for name, x in PARAMS.items()}
    ema = named(lambda name: f"online_model.{name}", copy) | named(lambda name: f"ema_model.{name}", OTHER) | {"step": np.array(3)}
    whole = {"model": PARAMS, "ema": ema}
    assert_same(from_state_dict(whole), OTHER)
    assert_same(from_state_dict(whole, use_ema=False), PARAMS)
    assert_same(from_state_dict(whole, key="online_model"), PARAMS)


@pytest.mark.parametrize("names", [("exp_avg", "exp_avg_sq"), ("mu", "nu"), ("optimizer.momentum",), ("grads",)])
def test_moments_by_name_are_no_average(names: tuple[str, ...]) -> None:
    moments = {name: {key: x * 0 for key, x in PARAMS.items()} for name in names}
    assert_same(from_state_dict({"model": PARAMS} | moments), PARAMS)


def test_names_without_arrays_are_no_network() -> None:
    """Paddle's table of names, and DeepSpeed's of shapes."""
    assert_same(from_state_dict(PARAMS | {"StructuredToParameterName@@": {name: f"param_{name}" for name in PARAMS}}), PARAMS)
    shapes = [{f"module.{name}": x.shape for name, x in PARAMS.items()}]
    assert_same(from_state_dict({"module": named(lambda name: f"module.{name}"), "param_shapes": shapes}), PARAMS)


@pytest.mark.parametrize(
    "spelled",
    [
        lambda name: f"{name}:0",
        lambda name: name.replace(".", "_"),
        lambda name: f"{name.rpartition('.')[0].replace('.', '_')}/{name.rpartition('.')[2]}",
        lambda name: f"net-{name.replace('.', '-')}",
        lambda name: f"model.{name.replace('.', '__')}",
        lambda name: name.replace(".", ":") if ":" in name else name.replace(".", "|"),
    ],
)
def test_other_separators(spelled: Callable[[str], str]) -> None:
    for beside in ({}, {"step": 4, "loss_scale": np.ones(3, "float32")}):
        checkpoint = from_state_dict(named(spelled) | beside)
        assert_same(checkpoint, PARAMS)
        assert len(checkpoint.metadata["ignored"]) == ("step" in beside)


def test_what_an_optimizer_keeps_is_not_taken_for_weights() -> None:
    tree = nested(to_state_dict(PARAMS, DIGITS, layout="channels_last"))
    state = {"params": tree, "opt_state": {"0": {"mu": nested(OTHER), "nu": nested(OTHER)}}}
    assert_same(from_state_dict(state), PARAMS)
    with pytest.raises(CheckpointError, match=r"only what an optimizer keeps.*found opt_state\.0\.mu"):
        from_state_dict({"opt_state": state["opt_state"]})


def test_several_networks_are_listed_and_the_key_picks() -> None:
    both = {
        "student": named(lambda name: f"module.backbone.{name}"),
        "teacher": named(lambda name: f"backbone.{name}", OTHER),
        "epoch": 3,
    }
    with pytest.raises(
        CheckpointError, match=r"2 networks in one file, student\.module\.backbone, teacher\.backbone: give key='student\.module\.b"
    ):
        from_state_dict(both)
    assert_same(from_state_dict(both, key="teacher"), OTHER)
    assert_same(from_state_dict(both, key="teacher.backbone"), OTHER)
    assert_same(from_state_dict(both, key="student.module"), PARAMS)
    assert_same(from_state_dict(both, key="student.backbone"), PARAMS)
    assert from_state_dict(both, key="teacher").metadata["others"] == ["student.module.backbone"]
    with pytest.raises(
        CheckpointError, match=r"key='teach': no network lies there; expected student\.module\.backbone, teacher\.backbone"
    ):
        from_state_dict(both, key="teach")
    flat = (
        named(lambda name: f"encoder_q.{name}")
        | named(lambda name: f"encoder_k.{name}", OTHER)
        | {"queue": np.zeros((8, 4), "float32")}
    )
    with pytest.raises(CheckpointError, match=r"2 networks.*encoder_k, encoder_q"):
        from_state_dict(flat)
    assert_same(from_state_dict(flat, key="encoder_k"), OTHER)
    assert_same(from_state_dict({"state_dict": named(lambda name: f"module.{name}", flat)}, key="encoder_k"), OTHER)


def test_one_network_under_two_keys_is_one(tmp_path: Path) -> None:
    shared = to_backend(PARAMS, "torch")
    for state in (
        {"model": shared, "state_dict": shared},
        {f"model.{name}": x for name, x in shared.items()} | {f"backbone.{name}": x for name, x in shared.items()},
    ):
        assert_same(from_state_dict(state), PARAMS)
        torch.save(state, tmp_path / "x.pth")
        assert_same(load_checkpoint(tmp_path / "x.pth"), PARAMS)


def backbone(prefix: str = "backbone.") -> State:
    return {f"{prefix}{name}": x for name, x in PARAMS.items() if not name.startswith("head.")}


HEAD = {name: x for name, x in PARAMS.items() if name.startswith("head.")}


@pytest.mark.parametrize(
    "state",
    [
        backbone() | HEAD,
        {"state_dict": backbone() | HEAD},
        {"model": backbone(""), "head": {"weight": HEAD["head.weight"], "bias": HEAD["head.bias"]}},
        named(lambda name: f"model.{name}", backbone() | HEAD),
        backbone("a.b.") | {f"a.{name}": x for name, x in HEAD.items()},
    ],
)
def test_a_head_beside_the_backbone_is_kept(state: State) -> None:
    checkpoint = from_state_dict(state)
    assert_same(checkpoint, PARAMS)
    assert checkpoint.config == DIGITS


def test_the_networks_of_a_file_are_no_classifiers_of_each_other() -> None:
    """Headless weights and their average."""
    average = named(lambda name: f"module.{name}", {name: x + 1 for name, x in backbone().items()})
    checkpoint = from_state_dict({"state_dict": backbone(), "ema_state_dict": average})
    assert (checkpoint.metadata["ema"], checkpoint.config.head) == (True, "none")


@pytest.mark.parametrize("name", ["classifier", "fc", "cls_head.fc", "head.fc", "head.0.linear", "head.7", "linear_probe"])
@pytest.mark.parametrize("at", ["", "backbone."])
def test_a_head_under_other_names_is_refused_and_the_key_leaves_it_out(name: str, at: str) -> None:
    state = backbone(at) | {f"{name}.weight": HEAD["head.weight"], f"{name}.bias": HEAD["head.bias"]}
    with pytest.raises(CheckpointError, match=r"a classifier beside the network, under other names: rename.* or give key='"):
        from_state_dict(state)
    checkpoint = from_state_dict(state, key=at.rstrip(".") or ".")
    assert_same(checkpoint, {name: x for name, x in PARAMS.items() if not name.startswith("head.")})
    assert (checkpoint.config.head, len(checkpoint.metadata["ignored"])) == ("none", 1)


def test_a_detector_keeps_its_other_parts() -> None:
    state = {f"backbone.{name}": x for name, x in to_state_dict(numbered(TINY_MMDET), TINY_MMDET, layout="mmdet").items()}
    width = TINY_MMDET.num_features
    state |= {"bbox_head.fc_cls.weight": np.zeros((81, width), "f"), "bbox_head.fc_cls.bias": np.zeros(81, "f")}
    checkpoint = from_state_dict(state, config=TINY_MMDET)
    assert_same(checkpoint, numbered(TINY_MMDET))
    assert checkpoint.metadata["ignored"] == ["bbox_head (2 arrays)"]


@pytest.mark.parametrize(
    ("extra", "left_out"),
    [
        ({"criterion.weight": np.ones(10, "float32")}, ["criterion"]),
        (
            {"total_ops": np.zeros(1), "stages.0.0.attn.total_ops": np.zeros(1), "norm.total_ops": np.zeros(1)},
            ["total_ops (3 arrays)"],
        ),
        ({"step": np.array(3.0, "float32"), "epoch": 3}, ["step"]),
        ({"stages.0.0.attn.index": np.zeros((4, 4), "int64")}, ["index"]),
        ({"queue": np.zeros((3, 5), "float32"), "queue_ptr": np.zeros(1, "int64")}, ["queue", "queue_ptr"]),
    ],
)
def test_what_is_no_weight_of_the_network_is_left_out_and_said(extra: State, left_out: list[str]) -> None:
    for prefix in ("", "model."):
        checkpoint = from_state_dict({prefix + name: x for name, x in (PARAMS | extra).items()})
        assert_same(checkpoint, PARAMS)
        assert checkpoint.metadata["ignored"] == left_out
    outside = named(lambda name: f"model.{name}") | extra | {"criterion.embedding": np.zeros((10, WIDTH), "float32")}
    assert_same(from_state_dict(outside), PARAMS)


@pytest.mark.parametrize(
    "extra",
    [
        {"cls_token": np.zeros((1, 1, WIDTH), "float32")},
        {"fc_norm.weight": np.zeros(WIDTH, "float32")},
        {"pos_embed": np.zeros((1, 49, DIGITS.embed_dims[0]), "float32")},
        {"norm3.weight": np.zeros(WIDTH, "float32")},
        {"classifier.weight": PARAMS["head.weight"], "classifier.bias": PARAMS["head.bias"]},
    ],
)
def test_weights_of_another_network_are_refused_and_the_key_leaves_them_out(extra: State) -> None:
    with pytest.raises(
        CheckpointError, match=rf"unexpected \(\d\): {next(iter(extra))}.*; key='\.' leaves out {next(iter(extra))}"
    ):
        from_state_dict(PARAMS | extra)
    assert_same(from_state_dict(PARAMS | extra, key="."), PARAMS)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (PARAMS | {"stages.0.0.attn.bias_table": np.zeros((9, 2), "float32")}, r"unexpected \(1\): stages\.0\.0\.attn\.bias_table"),
        (PARAMS | {"stages.0.0.gamma_1": np.zeros(16, "float32")}, r"unexpected \(1\): stages\.0\.0\.gamma_1"),
        ({name: x for name, x in PARAMS.items() if name != "head.bias"}, r"missing \(1\): head\.bias"),
        (PARAMS | {"norm.weight": np.zeros(3, "float32")}, r"wrong shape \(1\): norm\.weight expected \(64,\) got \(3,\)"),
    ],
)
def test_no_variant_is_asked_for_where_none_would_help(state: State, problem: str) -> None:
    with pytest.raises(CheckpointError, match=f"the shapes fit no variant, nor any other network: {problem}$"):
        from_state_dict(state)


def test_a_network_that_is_no_variant_is_told_by_its_shapes() -> None:
    config = variant("digits", depths=(2, 2, 1, 1), mlp_ratios=(3, 3, 4, 2), in_chans=3)
    with pytest.raises(CheckpointError, match=r"but a network of embed_dims=\(16, .*depths=\(2, 2, 1, 1\).*: give config=$"):
        from_state_dict(init_params(config))
    assert from_state_dict(init_params(config), config=config).config == config


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_variant_shows_in_its_shapes(kind: str) -> None:
    for changed in ({}, {"head": "linear", "num_classes": 3}, {"ssa_values": "scaled"}, {"qkv_bias": False}, {"in_chans": 5}):
        config = variant(kind) if kind == "mmdet_small" and "head" in changed else variant(kind, **changed)
        shapes = parameter_shapes(config)
        found = implied_config(shapes)
        assert found is not None
        assert list(parameter_shapes(found).items()) == list(shapes.items())


def test_two_arrays_of_one_name() -> None:
    with pytest.raises(CheckpointError, match=r"norm\.weight: two arrays of one path"):
        from_state_dict(PARAMS | {"module.norm.weight": PARAMS["norm.weight"]})


def test_a_port_is_found_likewise() -> None:
    config = vit_pytorch.Config(num_classes=3, dim=4, depth=(1, 1), heads=1, reduction_factor=(2, 1))
    state = {f"net.module.{name}": np.ones(shape, "float32") for name, shape in port_shapes(config).items()}
    with pytest.raises(CheckpointError, match="vit_pytorch's weights, of another network"):
        from_state_dict({"a": {"b": state}})


def test_sharing_and_depth_are_bounded() -> None:
    tree: Any = {"x": np.zeros(3)}
    for _ in range(60):
        tree = {"a": tree, "b": tree}
    with pytest.raises(CheckpointError, match=r"names of no known layout|no state dict"):
        from_state_dict(tree)
    loop: dict[str, Any] = {"model": PARAMS}
    loop["self"] = loop
    assert_same(from_state_dict(loop), PARAMS)
    assert variant("digits") == from_state_dict(loop).config


def test_an_average_of_some_weights_only_is_not_taken_and_said() -> None:
    for some in ("head.", "stages.0.0."):
        ema = {name: x + 1 for name, x in PARAMS.items() if name.startswith(some)}
        checkpoint = from_state_dict({"model": PARAMS, "ema": {"decay": 0.99, "module": ema}})
        assert_same(checkpoint, PARAMS)
        assert checkpoint.metadata["unread"] == ["ema"]


def test_many_networks_and_long_names_take_no_time() -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError, match="more networks than a checkpoint has; expected at most 1000, found 30000"):
        from_state_dict({f"{i}.stages.0.0.attn.qkv.weight": np.zeros(1, "float32") for i in range(30_000)})
    deep: Any = {f"{i}": np.zeros(1) for i in range(50_000)}
    for _ in range(8):
        deep = {"x" * 400_000: deep}
    assert_same(from_state_dict(PARAMS | deep), PARAMS)
    assert time.process_time() - start < 10 * slowness()


def test_many_arrays_beside_a_backbone_take_no_time() -> None:
    start = time.process_time()
    state = {f"backbone.{name}": x for name, x in PARAMS.items() if not name.startswith("head.")}
    state |= {f"backbone.extra.{i}": np.zeros(3, "float32") for i in range(120_000)}
    assert from_state_dict(state).metadata["ignored"] == ["extra (120000 arrays)"]
    assert time.process_time() - start < 10 * slowness()


class Endless(Mapping[str, Any]):
    """Whose names never end."""

    def __iter__(self) -> Iterator[str]:
        return map(str, itertools.count())

    def __getitem__(self, name: str) -> Any:
        return None

    def __len__(self) -> int:
        return 1


def test_a_mapping_without_end_is_refused() -> None:
    with pytest.raises(CheckpointError, match="more entries than a network's checkpoint has"):
        from_state_dict({"a": Endless()})
    with pytest.raises(CheckpointError, match="more entries than a network's checkpoint has"):
        from_state_dict(Endless())

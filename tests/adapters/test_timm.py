"""timm's interface: what timm's own tests ask of its models, asked of ours, and that the numbers stay the specification's."""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.checkpoints import save_checkpoint
from scalablevit_ref.testing import random_images, random_params
from tests.support import torchvision_operators
from tests.support.profiles import share

torchvision_operators.define()

import timm  # noqa: E402
from timm.layers import calculate_drop_path_rates  # noqa: E402
from timm.models import group_parameters  # noqa: E402

from scalablevit_ref.adapters.timm import CONFIGS, ScalableViT  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = [name for name in CONFIGS if name not in ("scalablevit_digits", "scalablevit_custom")]
TINY: dict[str, Any] = {
    "embed_dims": (8, 16, 24),
    "depths": (2, 3, 1),
    "num_heads": (2, 2, 3),
    "mlp_ratios": (2, 2, 2),
    "sr_ratios": (2, 1, 1),
    "c_ratios": (1.25, 1, 1),
    "window_sizes": (3, 2, 2),
    "patch_size": 2,
    "num_classes": 5,
    "in_chans": 1,
    "pad_windows": True,
}
CONFIG = sv.ScalableViTConfig(**TINY)

pytestmark = pytest.mark.usefixtures("as_in_production")


def images(batch: int = 2, dtype: str = "float32") -> Tensor:
    return torch.from_numpy(random_images((batch, 1, 12, 20), dtype=dtype))


def tiny(dtype: str = "float32", **options: Any) -> Any:
    """A network of three stages with random weights, gains and biases among them."""
    model = timm.create_model("scalablevit_custom", **{**TINY, "head": "mlp", **options}).eval()
    if isinstance(model, ScalableViT):
        state = random_params(sv.parameter_shapes(model.config), dtype="float32")
        model.load_state_dict(sv.to_backend(state, "torch"))
    return model.to(getattr(torch, dtype))


def on_meta(name: str, **options: Any) -> tuple[Any, Tensor]:
    """A registered network without values, and one image of its size: shapes and gradients' names cost nothing there."""
    with torch.device("meta"):
        model = timm.create_model(name, **options)
        return model, torch.zeros(1, *model.default_cfg["input_size"])


def test_registered() -> None:
    assert timm.list_models("scalablevit_*") == sorted(CONFIGS)
    assert timm.list_models("scalablevit_*", pretrained=True) == []
    assert CONFIGS["scalablevit_small_v1"] == sv.variant("small", ssa_values="scaled")
    assert {name: CONFIGS[f"scalablevit_{name}"] for name in ("small", "small_0", "base", "large", "digits")} == {
        name: sv.variant(name) for name in ("small", "small_0", "base", "large", "digits")
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_preset_is_the_official_evaluation(name: str) -> None:
    """And its names of modules are in the network."""
    cfg = timm.get_pretrained_cfg(name)
    assert (cfg.url, cfg.file, cfg.hf_hub_id) == (None, None, None)
    assert (cfg.interpolation, cfg.crop_pct, cfg.crop_mode) == ("bicubic", 224 / 256, "center")
    assert (cfg.mean, cfg.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (cfg.input_size, cfg.num_classes, cfg.pool_size) == ((3, 224, 224), 1000, (7, 7))
    model, _ = on_meta(name)
    state = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    assert state == sv.parameter_shapes(CONFIGS[name])
    assert state[f"{cfg.classifier}.weight"][0] == 1000
    assert state[f"{cfg.first_conv}.weight"][1] == 3
    assert timm.data.resolve_data_config(model=model)["input_size"] == (3, 224, 224)


@pytest.mark.parametrize("name", ["scalablevit_small", "scalablevit_small_0"])  # of each kind of head one
def test_shapes_of_each_part(name: str) -> None:
    """Maps unpooled, what the last Linear sees, without a classifier, without pooling, likewise from the start."""
    model, x = on_meta(name)
    features = model.forward_features(x)
    assert features.shape == (1, 7, 7, model.num_features)  # NHWC, as `output_fmt` says
    assert model.output_fmt == "NHWC"
    assert model(x).shape == model.forward_head(features).shape == (1, model.num_classes) == (1, 1000)
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert (model.num_classes, model(x).shape) == (0, before.shape)
    model.reset_classifier(0, "")
    assert model(x).shape == (1, 7, 7, model.head_hidden_size)
    model.reset_classifier(42, "avg")
    assert (model.num_classes, model.get_classifier().out_features, model(x).shape) == (42, 42, (1, 42))
    bare, _ = on_meta(name, num_classes=0, global_pool="")
    assert bare(x).shape == (1, 7, 7, bare.head_hidden_size)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, x = on_meta(name, num_classes=42, drop_path_rate=0.2)
    model.train()(x).mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_features_only(name: str) -> None:
    model, x = on_meta(name, features_only=True)
    dims = CONFIGS[name].embed_dims
    assert (tuple(model.feature_info.channels()), model.feature_info.reduction()) == (dims, [4, 8, 16, 32])
    assert [y.shape for y in model(x)] == [(1, dim, 56 >> k, 56 >> k) for k, dim in enumerate(dims)]


@pytest.mark.parametrize("settings", [{}, {"head": "linear"}, {"ssa_values": "scaled"}, {"num_classes": 0}, {"stage_norms": True}])
def test_logits_are_the_specification_s_bit_for_bit(settings: dict[str, Any]) -> None:
    """With gradients and without, whatever acts in training mode only."""
    model = tiny(drop_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5, **settings)
    assert torch.equal(model(images()), sv.scalable_vit(images(), dict(model.named_parameters()), model.config))
    with torch.inference_mode():
        assert torch.equal(model(images()), sv.scalable_vit(images(), dict(model.named_parameters()), model.config))
        assert torch.equal(model.forward_head(model.forward_features(images())), model(images()))


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A training checkpoint of the digits, as the authors' script writes it."""
    state = sv.to_backend(sv.load_checkpoint(digits.CHECKPOINT).params, "torch")
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(model="digits", lr=0.1)}, tmp_path / "checkpoint_best.pth")
    return tmp_path / "checkpoint_best.pth"


def holds(model: torch.nn.Module, left_out: str = "nothing") -> None:
    """The digits' weights, bit for bit, but for those whose names begin so."""
    expected = sv.load_checkpoint(digits.CHECKPOINT).params
    assert set(expected) == set(model.state_dict())
    kept = {name: x for name, x in model.state_dict().items() if not name.startswith(left_out)}
    assert all(np.array_equal(x.numpy(), expected[name]) for name, x in kept.items())


def test_official_weights(official: Path, tmp_path: Path) -> None:
    """By each of timm's ways, from the authors' file and from every kind of file that is read here."""
    holds(timm.create_model("scalablevit_digits", checkpoint_path=official))
    save_checkpoint(tmp_path / "x.safetensors", sv.load_checkpoint(official).params, sv.variant("digits"))
    save_checkpoint(tmp_path / "x.npz", sv.load_checkpoint(official).params, sv.variant("digits"))
    for file in ("x.safetensors", "x.npz"):
        holds(timm.create_model("scalablevit_digits", checkpoint_path=str(tmp_path / file)))
    overlay = {"pretrained_cfg_overlay": {"file": str(official)}}
    holds(timm.create_model("scalablevit_digits", pretrained=True, **overlay))
    holds(timm.create_model("scalablevit_digits", pretrained=True, num_classes=3, **overlay), "head")
    narrow = timm.create_model("scalablevit_digits", pretrained=True, **overlay)
    wide = timm.create_model("scalablevit_digits", pretrained=True, in_chans=3, **overlay)
    holds(wide, "patch_embeds.0.proj.weight")
    grey = torch.from_numpy(random_images((1, 1, 112, 112), dtype="float32"))
    torch.testing.assert_close(wide.eval()(grey.expand(-1, 3, -1, -1)), narrow.eval()(grey))
    maps = timm.create_model("scalablevit_digits", pretrained=True, features_only=True, **overlay).eval()(grey)
    params = sv.to_backend(sv.load_checkpoint(official).params, "torch")
    expected = sv.stage_features(grey, params, sv.variant("digits"))
    assert all(torch.equal(x.permute(0, 2, 3, 1), y) for x, y in zip(maps, expected, strict=True))


def test_weights_that_are_not_to_be_had() -> None:
    with pytest.raises(RuntimeError, match=r"^timm has no weights of scalablevit_small to fetch: give [^\n]*$"):
        timm.create_model("scalablevit_small", pretrained=True)


@pytest.mark.parametrize(("values", "version"), [("scaled", "v1"), ("unscaled", "v3")])
def test_weights_of_the_other_ssa_are_refused_in_one_line(values: str, version: str) -> None:
    other = {"scaled": "unscaled", "unscaled": "scaled"}[values]
    state = tiny(ssa_values=values).state_dict()
    model = tiny(ssa_values=other)
    with pytest.raises(RuntimeError, match=rf"^the weights are of SSA {version}: [^\n]*ssa_values='{values}'[^\n]*$"):
        model.load_state_dict(state)
    tiny(ssa_values=values).load_state_dict(state)


def test_values_that_are_drawn_follow_torch_s_generator() -> None:
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(timm.create_model("scalablevit_custom", **TINY).state_dict()["head.3.weight"])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def trees(model: Any) -> list[Any]:
    """The stages' maps b c h w as the specification has them."""
    return [x.permute(0, 3, 1, 2) for x in sv.stage_features(images(), dict(model.named_parameters()), model.config)]


@pytest.mark.parametrize("indices", share([None, 1, 2, [0, 2], [-1], [1, 1], (2, 0), range(2)], of=2))
def test_forward_intermediates(indices: Any) -> None:
    """Every option: which, in which layout, normed, stopped early, alone."""
    model = tiny()
    expected = trees(model)
    taken = [0, 1, 2][-indices:] if isinstance(indices, int) else [0, 1, 2] if indices is None else sorted({i % 3 for i in indices})
    final, found = model.forward_intermediates(images(), indices=indices)
    assert torch.equal(final, model.forward_features(images()))
    assert [torch.equal(x, expected[k]) for k, x in zip(taken, found, strict=True)] == [True] * len(taken)
    turned = model.forward_intermediates(images(), indices=indices, output_fmt="NHWC", intermediates_only=True)
    assert all(torch.equal(x, y.permute(0, 2, 3, 1)) for x, y in zip(turned, found, strict=True))
    normed = model.forward_intermediates(images(), indices=indices, norm=True, intermediates_only=True)
    expected[-1] = final.permute(0, 3, 1, 2)
    assert all(torch.equal(x, expected[k]) for k, x in zip(taken, normed, strict=True))
    ran: list[int] = []
    for k in range(3):
        model.patch_embeds[k].register_forward_hook(lambda *_, k=k: ran.append(k))
    last, early = model.forward_intermediates(images(), indices=indices, stop_early=True)
    assert ran == list(range(max(taken) + 1))
    assert all(torch.equal(x, y) for x, y in zip(early, found, strict=True))
    assert torch.equal(last, final if max(taken) == 2 else early[-1].permute(0, 2, 3, 1))


@pytest.mark.parametrize("indices", [0, 4, [3], [-4], []])
def test_stages_that_are_not_there(indices: Any) -> None:
    for refuse in (lambda: tiny().forward_intermediates(images(), indices), lambda: tiny().prune_intermediate_layers(indices)):
        with pytest.raises(ValueError, match="indices must be"):
            refuse()
    with pytest.raises(ValueError, match="output_fmt must be one of"):
        tiny().forward_intermediates(images(), output_fmt="NLC")


@pytest.mark.parametrize("indices", [1, [0], [-2], [0, 1]])
def test_prune_intermediate_layers(indices: Any) -> None:
    """The maps stay the same to the bit, and nothing that they do not need has parameters."""
    model = tiny()
    expected = model.forward_intermediates(images(), indices, intermediates_only=True)
    taken = model.prune_intermediate_layers(indices, prune_norm=True)
    found = model.forward_intermediates(images(), taken, intermediates_only=True)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    last = max(taken)
    assert {int(name.split(".")[1]) for name in model.state_dict()} == set(range(last + 1))
    assert model.num_features == model.head_hidden_size == model.feature_info[last]["num_chs"] == model(images()).shape[-1]
    model.train()(images()).mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_pruned_as_it_is_asked() -> None:
    """The norm and the head stay where they fit."""
    model = tiny()
    logits = model(images())
    assert model.prune_intermediate_layers([2], prune_norm=False, prune_head=False) == [2]
    assert torch.equal(model(images()), logits)
    model.prune_intermediate_layers([2])
    assert torch.equal(model(images()), model.norm(model._maps(images())[-1]))
    model.reset_classifier(4, "avg")
    assert model(images()).shape == (2, 4)


@pytest.mark.parametrize("way", ["getter", "hook", "fx"])
def test_features_by_each_of_timm_s_ways(way: str) -> None:
    model = tiny(features_only=True, feature_cls=way, out_indices=(0, 2))
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([8, 24], [2, 8])
    inner = {"getter": "model.", "hook": "body.", "fx": "graph_module."}[way]
    state = {name.removeprefix(inner): x for name, x in model.state_dict().items()}
    config = sv.ScalableViTConfig(**{**TINY, "head": "none", "num_classes": 0})
    params = {
        **sv.to_backend(sv.init_params(config), "torch"),
        **{name: x for name, x in state.items() if not name.startswith("head")},
    }
    expected = sv.stage_features(images(), params, config)
    with torch.no_grad():
        found = model(images())
    maps = [x.permute(0, 2, 3, 1) if way == "getter" else x for x in found]
    assert model.output_fmt == ("NCHW" if way == "getter" else "NHWC")
    assert [torch.equal(x, expected[k]) for k, x in zip((0, 2), maps, strict=True)] == [True, True]


@pytest.mark.parametrize("way", ["list", "dict"])
def test_ways_that_cannot_be(way: str) -> None:
    with pytest.raises(ValueError, match=r"^feature_cls must be 'getter', 'hook' or 'fx', got '\w+': [^\n]*$"):
        tiny(features_only=True, feature_cls=way)


def test_traced_by_fx() -> None:
    """The same bits, with every parameter in the graph."""
    from timm.models import create_feature_extractor, get_graph_node_names

    for settings in ({}, {"head": "linear"}):
        model = tiny(**settings)
        last = get_graph_node_names(model)[1][-1]
        graph = create_feature_extractor(model, [last])
        assert set(graph.state_dict()) == set(model.state_dict())
        for mode in (torch.enable_grad, torch.inference_mode):
            with mode():
                assert torch.equal(graph(images())[last], model(images()))
        graph.train()(images())[last].mean().backward()
        assert all(p.grad is not None for p in graph.parameters())


@pytest.mark.filterwarnings("ignore")
def test_exported_and_traced() -> None:
    model = tiny()
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images()), model(images()))
    torch.testing.assert_close(torch.jit.trace(model, (images(),))(images()), model(images()))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_is_refused_in_one_line() -> None:
    with pytest.raises(TypeError, match=r"^torch\.jit\.script cannot read this module: [^\n]*$"):
        torch.jit.script(timm.create_model("scalablevit_custom", scriptable=True, **TINY))


def test_gradient_checkpointing() -> None:
    """The same gradients in float64, what is dropped included; each block is run twice, and keeps nothing in between."""
    found = {}
    for enabled in (False, True):
        model = tiny("float64", proj_drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3).train()
        model.set_grad_checkpointing(enabled)
        runs: list[str] = []
        model.stages[0][1].attn.register_forward_hook(lambda *_, runs=runs: runs.append("ran"))
        kept: list[Tensor] = []
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            y = model(images(dtype="float64"))
        y.square().sum().backward()
        found[enabled] = y.detach(), {name: p.grad for name, p in model.named_parameters()}, len(kept)
        assert len(runs) == 1 + enabled
    assert torch.equal(found[True][0], found[False][0])
    assert all(torch.equal(g, found[False][1][name]) for name, g in found[True][1].items())
    assert found[True][2] < found[False][2] / 2
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images(dtype="float64")), tiny("float64")(images(dtype="float64")))


def test_groups_of_parameters() -> None:
    """In the order of the computation: each group acts before the next one, and every parameter is in one."""
    model = tiny()
    order = {name.rpartition(".")[0]: i for i, name in enumerate(computed(model))}
    for coarse, expected in ((True, 5), (False, 1 + 6 + 1)):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert len(groups) == expected  # the stem, stages or blocks, the head
        assert sorted(name for names in groups.values() for name in names) == sorted(model.state_dict())
        spans = [{order[name.rpartition(".")[0]] for name in groups[i]} for i in range(expected)]
        assert all(max(a) < min(b) for a, b in pairwise(spans))
    assert group_parameters(model, model.group_matcher(), reverse=True)["norm.weight"] == 6
    assert group_parameters(model, model.group_matcher(), reverse=True)["pos_block.1.proj.0.weight"] == 3


def computed(model: Any) -> list[str]:
    """The names of all parameters in the order in which their modules run."""
    ran: list[str] = []
    parts = {path: part for path, part in model.named_modules() if list(part.parameters(recurse=False))}
    hooks = [part.register_forward_hook(lambda *_, path=path: ran.append(path)) for path, part in parts.items()]
    model(images())
    for hook in hooks:
        hook.remove()
    return [f"{path}.{name}" for path in ran for name, _ in parts[path].named_parameters()]


def test_timm_s_optimiser() -> None:
    """Layer by layer smaller steps, and no decay of PEG, gains and biases."""
    from timm.optim import create_optimizer_v2

    model = tiny()
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    scales = {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert scales["head.3.weight"] == (1.0, 0.05)
    assert scales["stages.2.0.mlp.fc1.weight"] == (0.5, 0.05)
    assert scales["stages.1.2.mlp.fc1.weight"] == (0.25, 0.05)
    assert scales["patch_embeds.0.proj.weight"] == (0.5**7, 0.05)
    assert {name for name, (_, decay) in scales.items() if not decay} == {
        name for name, p in model.named_parameters() if p.ndim == 1 or name.startswith("pos_block.")
    }


def test_what_is_dropped() -> None:
    """`drop_rate` before the last Linear alone; depth as timm's own rates; `proj_drop_rate` is the official `drop_rate`."""
    for head, seen in (("mlp", "head.3"), ("linear", "head")):
        model = tiny(drop_rate=0.4, head=head).train()
        inputs: list[Tensor] = []
        model.get_submodule(seen).register_forward_hook(lambda module, given, output, inputs=inputs: inputs.append(given[0]))
        features = model.forward_features(images())
        assert torch.equal(features, tiny(head=head).forward_features(images()))
        torch.manual_seed(0)
        model.forward_head(features.repeat(500, 1, 1, 1))
        assert abs(float((inputs[0] == 0).float().mean()) - 0.4) < 0.03
    model = tiny(drop_path_rate=0.3)
    rates = [block.drop_path.rate for stage in model.stages for block in stage]
    assert rates == calculate_drop_path_rates(0.3, 6)
    assert tiny(proj_drop_rate=0.2).pos_drops[0].p == tiny(proj_drop_rate=0.2).stages[0][0].mlp.drop.p == 0.2
    assert tiny(drop_rate=0.2).pos_drops[0].p == 0


def test_a_hook_on_the_head_is_called() -> None:
    for head in ("mlp", "linear"):
        model, seen = tiny(head=head), []
        model.head.register_forward_hook(lambda *_, seen=seen: seen.append("ran"))
        model(images())
        assert seen == ["ran"]


@pytest.mark.parametrize("settings", [{}, {"head": "linear"}, {"num_classes": 0}])
def test_saved_for_the_hub_and_opened(tmp_path: Path, settings: dict[str, Any]) -> None:
    """By timm's own writer; and what `save_checkpoint` writes, of a network that is no variant."""
    model = tiny(**settings)
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    params = {name: x.numpy() for name, x in model.state_dict().items()}
    (tmp_path / "ours").mkdir()
    save_checkpoint(tmp_path / "ours" / "model.safetensors", params, model.config, config_json=True)
    for folder in ("timm", "ours"):
        again = timm.create_model(f"local-dir:{tmp_path / folder}", pretrained=True).eval()
        assert again.config == model.config
        assert torch.equal(again(images()), model(images()))


def test_device_and_dtype() -> None:
    model = timm.create_model("scalablevit_custom", dtype=torch.bfloat16, device="cpu", **TINY)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model, _ = on_meta("scalablevit_small")
    assert all(p.is_meta for p in model.parameters())


def test_refusals() -> None:
    for options, problem in (
        ({"img_size": 64}, "unknown setting 'img_size'"),
        ({"global_pool": "max"}, "global_pool must be one of"),
        ({"drop_rate": 1.0}, "drop_rate must be at least 0 and below 1"),
        ({"proj_drop_rate": -1}, "proj_drop_rate must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=problem):
            timm.create_model("scalablevit_custom", **TINY, **options)
    with pytest.raises(ValueError, match=r"the nearest sizes that work are 224"):
        timm.create_model("scalablevit_small")(torch.zeros(1, 3, 256, 256))


def test_without_timm_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['timm'] = None; import scalablevit_ref.adapters.timm"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("adapters.timm needs timm: pip install 'scalablevit-ref[timm]'")

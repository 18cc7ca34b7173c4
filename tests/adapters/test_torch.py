"""The drop-in torch module: the official state dict, the specification's numbers, and what torch's users do with a module."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_model, save_model
from torch.nn.utils import prune

import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT as Plain
from scalablevit_ref.adapters.torch import ScalableViT
from scalablevit_ref.testing import random_images, random_params, relative_l2, strategies

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8, 16),
    depths=(2, 2),
    num_heads=(2, 2),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(3, 2),
    patch_size=2,
    num_classes=5,
    in_chans=1,
    pad_windows=True,
)
BACKBONE = {"head": "none", "num_classes": 0, "ssa_values": "scaled", "stage_norms": True, "embed_norm_eps": 1e-5}
CONFIGS = {
    "mlp": {},
    "linear": {"head": "linear", "ssa_scale": "head_dim", "qkv_bias": False},
    "features of 4096": {"num_classes": 0},
    "no classes": {"head": "linear", "num_classes": 0},
    "backbone": BACKBONE,
}
VARIANTS = ("small", "mmdet_small", "digits")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks are not for a compiler to trace


def module(dtype: str = "float32", **options: Any) -> ScalableViT:
    settings = {name: options.pop(name) for name in list(options) if name in CONFIG.__dataclass_fields__}
    config = sv.ScalableViTConfig(**{**vars(CONFIG), **settings})
    return ScalableViT(config, params=random_params(sv.parameter_shapes(config), dtype=dtype), **options)


def images(batch: int = 2, dtype: str = "float32", seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(random_images((batch, 1, 12, 20), seed, dtype))


def params_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters themselves: torch folds a product otherwise where a weight needs no gradient."""
    return dict(network.named_parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_is_the_official_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, shapes and order, of the module and of the plain one; weights load strictly in both directions."""
    expected = sv.init_params(sv.variant(name), seed=1)
    ours = ScalableViT(name, params=expected)
    plain = Plain(ours.config)
    shapes = {name: tuple(x.shape) for name, x in ours.state_dict().items()}
    assert list(shapes.items()) == list(sv.parameter_shapes(sv.variant(name)).items())
    if name != "mmdet_small":  # whose attention comes last in a block, which the plain module does not imitate
        assert list(shapes) == list(plain.state_dict())
    assert list(shapes) == list(params_of(ours))
    plain.load_state_dict(ours.state_dict(), strict=True)
    for p in ours.parameters():
        p.detach().zero_()
    ours.load_state_dict(plain.state_dict(), strict=True)
    assert all(np.array_equal(x.numpy(), expected[name]) for name, x in ours.state_dict().items())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", CONFIGS)
def test_eval_is_the_specification_bit_for_bit(name: str) -> None:
    network = module(**CONFIGS[name]).eval()
    assert torch.equal(network(images()), sv.scalable_vit(images(), params_of(network), network.config))
    assert torch.equal(network(images()), module(**CONFIGS[name]).train()(images()))  # all rates are zero


@pytest.mark.parametrize("name", CONFIGS)
def test_where_no_gradient_is_kept(name: str) -> None:
    """With the same products as the function's; a hook, and a forward of the module's own, have effect there too."""
    network = module(**CONFIGS[name]).eval()
    with torch.inference_mode():
        assert torch.equal(network(images()), sv.scalable_vit(images(), params_of(network), network.config))
        before, leaf = network(images()), network.stages[0][0].mlp.fc1
        hook = leaf.register_forward_hook(lambda module, inputs, output: 0 * output)
        assert not torch.allclose(network(images()), before)
        hook.remove()
        leaf.forward = lambda x: 0 * torch.nn.Linear.forward(leaf, x)
        assert not torch.allclose(network(images()), before)


@pytest.mark.parametrize("name", CONFIGS)
def test_hooks_see_the_trace(name: str) -> None:
    network, seen = module(**CONFIGS[name]).eval(), {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.update({name: output})

    for path, part in network.named_modules():
        part.register_forward_hook(keep(path or "logits"))
    network(images())
    trace = sv.trace(images(), params_of(network), network.config)
    assert set(trace) <= set(seen)
    for path, expected in trace.items():
        assert torch.equal(seen[path], expected), path
    assert [path for path in seen if path in trace] == list(trace)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes(dtype: str) -> None:
    network = module("float64").eval()
    cast = network.double() if dtype == "float64" else network.bfloat16()
    x = images(dtype="float64").to(getattr(torch, dtype))
    assert torch.equal(cast(x), sv.scalable_vit(x, params_of(cast), CONFIG))
    assert cast(x).dtype == x.dtype
    with pytest.raises(TypeError, match=f"x is float32 but parameter 'proj.weight' is {dtype}"):
        cast(images())
    assert module().half()(images().half()).dtype == torch.float16


def test_autocast() -> None:
    network = module().eval()
    with torch.autocast("cpu", torch.bfloat16):
        y = network(images())
        y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert 0 < relative_l2(y.detach().float().numpy(), network(images()).detach().numpy()) < 8 * 2**-7
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_features() -> None:
    """The detection backbone's maps, b c h w; and the classifier in two halves."""
    for settings in ({}, BACKBONE):
        network = module(features_only=True, **settings).eval()
        maps = network(images())
        expected = sv.stage_features(images(), params_of(network), network.config)
        assert isinstance(maps, tuple)
        assert [tuple(x.shape) for x in maps] == [(2, 8, 6, 10), (2, 16, 3, 5)]
        assert all(torch.equal(x.permute(0, 2, 3, 1), y) for x, y in zip(maps, expected, strict=True))
    network = module().eval()
    features = network.forward_features(images())
    assert features.shape == (2, network.num_features) == (2, 16)
    assert torch.equal(network.forward_head(features), network(images()))


@pytest.mark.parametrize("settings", [{}, BACKBONE, {"dtype": "float64"}])
def test_reset_classifier(settings: dict[str, Any]) -> None:
    """One Linear, as the official code makes of any head; none for no classes. The module says so of itself."""
    network = module(**settings).eval()
    for classes in (7, 0):
        torch.manual_seed(0)
        network.reset_classifier(classes)
        x = images(dtype=str(next(network.parameters()).dtype)[6:])
        assert (network.num_classes, network.config.num_classes, network.config.head) == (classes, classes, "linear")
        assert list(params_of(network)) == list(sv.parameter_shapes(network.config))
        assert torch.equal(network(x), sv.scalable_vit(x, params_of(network), network.config))
        assert network(x).shape == (2, classes or network.num_features)
    assert network.get_classifier() is network.head


def test_no_weight_decay() -> None:
    expected = {f"pos_block.{k}.proj.0.{leaf}" for k in (0, 1) for leaf in ("weight", "bias")}
    assert module().no_weight_decay() == expected


def test_stochastic_depth() -> None:
    """A sample's branch is gone, or scaled by 1 / keep; the rate rises linearly from 0 in the first block to the last."""
    network = module(drop_path_rate=0.5).train()
    blocks = [block for stage in network.stages for block in stage]
    np.testing.assert_allclose([block.drop_path.rate for block in blocks], [0, 1 / 6, 1 / 3, 1 / 2], atol=1e-7)
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3, 1)
    y = blocks[2].drop_path(x)
    assert torch.equal(y, y[:, :1, :1, :].expand_as(x))
    torch.testing.assert_close(y.unique(), torch.tensor([0, 1.5]))
    assert abs(float((y[:, 0, 0, 0] == 0).float().mean()) - 1 / 3) < 0.03
    assert torch.equal(network.eval()(images()), module().eval()(images()))
    network.reset_drop_path(0.3)
    assert blocks[-1].drop_path.rate == pytest.approx(0.3)


def test_stochastic_depth_drops_both_branches() -> None:
    """Of one image 64 times over: if only attentions or only MLPs were dropped, three blocks could give but 2³ results."""
    torch.manual_seed(0)
    same = images(1, "float64").expand(64, -1, -1, -1)

    def results(**options: Any) -> int:
        y = module("float64", **options).train()(same).detach()
        return len(y.round(decimals=9).unique(dim=0))  # a matrix product may round its rows in different ways

    assert results(drop_path_rate=0.6) > 8
    assert results() == 1


def test_dropout_of_embeddings_and_outputs() -> None:
    """`drop_rate`: zeros in a tenth or so of what the patch embedding, an attention and an MLP give, the rest scaled."""
    network = module(drop_rate=0.25).train()
    part = network.stages[0][0]
    for name, drop in {"embedding": network.pos_drops[0], "attn": part.attn.drop, "mlp": part.mlp.drop}.items():
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        handle = drop.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append((inputs[0], output)))
        network(images(16))
        handle.remove()
        (before, after) = seen[0]
        assert abs(float((after == 0).float().mean()) - 0.25) < 0.03, name
        torch.testing.assert_close(after[after != 0], before[after != 0] / 0.75)


@pytest.mark.parametrize(("k", "i", "rate"), [(0, 0, "attn"), (0, 1, "attn"), (1, 1, "attn"), (0, 0, "drop")])
def test_dropout_within(k: int, i: int, rate: str) -> None:
    """Of attention weights (fused and not), and of hidden units: another result each time, whose mean is that without dropout.

    The mean of n draws is n^-½ deviations off; it is what undropped weights give because the rest is linear in them.
    """
    torch.manual_seed(0)
    network = module(**{"attn": {"attn_drop_rate": 0.5}, "drop": {"drop_rate": 0.5}}[rate])
    layer: Any = network.stages[k][i].attn if rate == "attn" else network.stages[k][i].mlp
    layer.drop.p = 0.0  # what is dropped within is in question
    x = torch.from_numpy(random_images((1, 6, 4, CONFIG.embed_dims[k]), dtype="float32"))
    expected = layer.eval()(x).detach()
    draws = layer.train()(x.expand(4000, -1, -1, -1)).detach()
    deviation = draws.std(0)
    assert float(deviation.min()) > 0.01 * float(expected.std())
    z = (draws.mean(0) - expected[0]) / deviation * 4000**0.5
    assert float(z.abs().max()) < 5.5
    assert 0.8 < float(z.std()) < 1.2


def test_gradients_and_training_steps_are_the_plain_module_s() -> None:
    """In float64: the first gradients, then five steps of SGD and five of AdamW."""
    x, labels = images(4, "float64"), torch.tensor([0, 1, 2, 3])
    for optimizer in (torch.optim.SGD, torch.optim.AdamW):
        ours, plain = module("float64").train(), Plain(CONFIG).double()
        plain.load_state_dict(ours.state_dict())
        steps = [optimizer(network.parameters(), lr=1e-3) for network in (ours, plain)]
        for step in range(5):
            for network, stepper in zip((ours, plain), steps, strict=True):
                stepper.zero_grad()
                torch.nn.functional.cross_entropy(network(x), labels).backward()
            for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
                assert p.grad is not None
                assert q.grad is not None
                if step == 0 and not name.endswith("attn.k.bias"):  # whose gradient is zero but for rounding
                    assert relative_l2(p.grad.numpy(), q.grad.numpy()) <= 1e-12, name
            for stepper in steps:
                stepper.step()
        for (name, p), start in zip(ours.named_parameters(), module("float64").parameters(), strict=True):
            if not name.endswith("attn.k.bias"):  # AdamW makes steps of that rounding
                assert not torch.equal(p, start), name
                assert relative_l2(p.detach().numpy(), params_of(plain)[name].detach().numpy()) <= 1e-9, name


SHALLOW: dict[str, Any] = {name: getattr(CONFIG, name)[:1] for name, value in vars(CONFIG).items() if isinstance(value, tuple)}


@pytest.mark.usefixtures("everything_loaded")
def test_compiles_to_one_graph() -> None:
    """`fullgraph=True` fails at the first break, in training mode with everything dropped too; eval mode's numbers are the same."""
    torch.compiler.reset()
    network = module(**SHALLOW, drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert not torch.equal(compiled(images()), compiled(images()))
    network.eval()
    assert torch.equal(compiled(images()), network(images()))


@pytest.mark.usefixtures("everything_loaded")
def test_exports_with_a_dynamic_batch() -> None:
    network = module(**SHALLOW).eval()
    program = torch.export.export(network, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert list(program.state_dict) == list(sv.parameter_shapes(network.config))
    torch.testing.assert_close(program.module()(images(3)), network(images(3)))


def test_functional_call() -> None:
    network = module("float64").eval()
    x, doubled = images(dtype="float64"), {name: 2 * p for name, p in params_of(network).items()}
    assert torch.equal(torch.func.functional_call(network, doubled, (x,)), sv.scalable_vit(x, doubled, CONFIG))


@given(case=strategies.network_cases())
def test_drawn_networks_are_the_specification_bit_for_bit(case: strategies.Case) -> None:
    """Every stride, padding, group and epsilon of the modules below is the specification's."""
    assert case.config is not None
    network, x = ScalableViT(case.config, params=case.params).eval(), torch.from_numpy(case.x)
    assert torch.equal(network(x), sv.scalable_vit(x, params_of(network), case.config))


def leaves(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The modules that hold parameters themselves."""
    return {path: part for path, part in network.named_modules() if any(True for _ in part.parameters(recurse=False))}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_holds_parameters_is_a_module_of_torch_and_runs(name: str) -> None:
    network, ran = module(**CONFIGS[name]).eval(), []
    held = leaves(network)
    for path, part in held.items():
        part.register_forward_hook(lambda module, inputs, output, path=path: ran.append(path))
    network(images())
    assert sorted(ran) == sorted(held)
    assert {type(part) for part in held.values()} <= {torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm}


NORMED = [path for path, part in leaves(module()).items() if not isinstance(part, torch.nn.LayerNorm)]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older form of weight_norm
@pytest.mark.parametrize("path", NORMED)
def test_weight_norm_in_both_forms_and_pruning_have_effect(path: str) -> None:
    """On every Linear and every Conv2d: of the same weight the same numbers, of another one others."""
    x, before = images(dtype="float64"), module("float64").eval()(images(dtype="float64"))
    for parametrised in (torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm):
        network = module("float64").eval()
        part = parametrised(network.get_submodule(path))
        torch.testing.assert_close(network(x), before)
        with torch.no_grad():
            gain = part.parametrizations.weight.original0 if hasattr(part, "parametrizations") else part.weight_g
            gain.mul_(2)
        expected = params_of(module("float64"))
        expected[f"{path}.weight"] = expected[f"{path}.weight"].detach() * 2
        torch.testing.assert_close(network(x), sv.scalable_vit(x, expected, CONFIG))
    network = module("float64").eval()
    prune.l1_unstructured(network.get_submodule(path), "weight", amount=0.5)
    expected = params_of(module("float64"))
    expected[f"{path}.weight"] = network.get_submodule(path).weight
    assert int((expected[f"{path}.weight"] == 0).sum()) >= expected[f"{path}.weight"].numel() // 2
    torch.testing.assert_close(network(x), sv.scalable_vit(x, expected, CONFIG))
    assert not torch.allclose(network(x), before)


class DoubledWeight(torch.Tensor):
    """A weight of a type of its own, as torchao's quantised ones: it has its own `F.linear`."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = super().__torch_function__(function, types, args, kwargs or {})
        return 2 * y.as_subclass(torch.Tensor) if function is torch.nn.functional.linear else y


def test_a_weight_of_a_type_of_its_own_has_effect() -> None:
    network, expected = module().eval(), params_of(module())
    part = network.stages[0][0].mlp.fc1
    part.weight = torch.nn.Parameter(part.weight.detach().as_subclass(DoubledWeight), requires_grad=False)
    expected |= {f"stages.0.0.mlp.fc1.{leaf}": 2 * expected[f"stages.0.0.mlp.fc1.{leaf}"] for leaf in ("weight", "bias")}
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(network(images()), sv.scalable_vit(images(), expected, CONFIG))


def test_a_forward_that_a_library_gives_to_every_linear_has_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    network, plain, ran = module().eval(), torch.nn.Linear.forward, []
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: ran.append(self) or plain(self, x))
    with torch.inference_mode():
        network(images())
    assert {id(part) for part in ran} == {id(part) for part in leaves(network).values() if isinstance(part, torch.nn.Linear)}


@pytest.mark.filterwarnings("ignore")
def test_sharded_below_the_blocks() -> None:
    """FSDP2 on every module that holds parameters: they are in shards until it runs, and its hooks put them together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        network, plain = module("float64").eval(), module("float64").eval()
        for part in [*leaves(network).values(), network]:
            fully_shard(part, mesh=mesh)
        x = images(dtype="float64")
        for each in (network, plain):
            each(x).square().sum().backward()
        for (name, p), q in zip(network.named_parameters(), plain.parameters(), strict=True):
            assert isinstance(p, DTensor), name
            assert torch.equal(p.grad.full_tensor(), q.grad), name
        with torch.no_grad():
            torch.testing.assert_close(network(x), plain(x))
    finally:
        torch.distributed.destroy_process_group()


def test_spectral_norm_has_effect() -> None:
    network = module("float64").eval()
    part = torch.nn.utils.parametrizations.spectral_norm(network.stages[0][1].attn.reduction[1])
    expected = params_of(module("float64"))
    expected["stages.0.1.attn.reduction.1.weight"] = part.weight
    assert float(torch.linalg.matrix_norm(part.weight.detach().flatten(1), 2)) == pytest.approx(1, rel=0.2)
    torch.testing.assert_close(network(images(dtype="float64")), sv.scalable_vit(images(dtype="float64"), expected, CONFIG))


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation() -> None:
    """Every Linear becomes one of 8 bits, which is seen in the numbers and is of their size."""
    network = module().eval()
    linears = [path for path, part in leaves(network).items() if isinstance(part, torch.nn.Linear)]
    quantised = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)
    assert len(linears) == 4 * 2 + 2 * 2 + 4 + 3 + 2  # of the MLPs, IWSAs, the two SSAs and the head
    assert all(type(quantised.get_submodule(path)) is torch.ao.nn.quantized.dynamic.Linear for path in linears)
    error = relative_l2(quantised(images()).detach().numpy(), network(images()).detach().numpy())
    assert 1e-4 < error < 0.1


class LowRank(torch.nn.Module):
    """A Linear with an update of rank two, as LoRA has it."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.down = torch.nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = torch.nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x) + self.up(self.down(x))
        return y


@pytest.mark.usefixtures("everything_loaded")
def test_another_module_in_the_place_of_one() -> None:
    """LoRA on every Linear of the attentions: the numbers of the sum of both weights, gradients, and one compiled graph."""
    torch.manual_seed(0)
    network, x = module("float64").eval(), images(dtype="float64")
    expected = params_of(module("float64"))
    for path, part in leaves(network).items():
        if isinstance(part, torch.nn.Linear) and ".attn." in path:
            low_rank = LowRank(part)
            network.set_submodule(path, low_rank)
            expected[f"{path}.weight"] = (part.weight + low_rank.up.weight @ low_rank.down.weight).detach()
    y = network(x)
    torch.testing.assert_close(y, sv.scalable_vit(x, expected, CONFIG))
    y.sum().backward()
    trained = {name: p.grad is not None for name, p in network.named_parameters() if ".attn." in name and "weight" in name}
    assert all(has == (".base." not in name) for name, has in trained.items() if ".base." in name or ".up." in name)
    torch.compiler.reset()
    assert torch.equal(torch.compile(network, fullgraph=True, backend="eager")(x), network(x))


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = ScalableViT(CONFIG, drop_path_rate=0.1)
    assert all(p.is_meta for p in network.parameters())
    assert list(network.state_dict()) == list(sv.parameter_shapes(CONFIG))
    network.load_state_dict(module().state_dict(), assign=True)
    assert torch.equal(network.eval()(images()), module().eval()(images()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_exports_by_torchscript(name: str, tmp_path: Path) -> None:
    """The older exporter of ONNX, which traces; and what it traces with."""
    network = module(**CONFIGS[name]).eval()
    torch.onnx.export(network, (images(),), str(tmp_path / "n.onnx"), dynamo=False, opset_version=17, input_names=["images"])
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    for x in (images(), images(seed=1)):
        assert relative_l2(session.run(None, {"images": x.numpy()})[0], network(x).detach().numpy()) < 64 * 2**-23
    traced = torch.jit.trace(network, (images(),))
    torch.testing.assert_close(traced(images(seed=1)), network(images(seed=1)))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_s_compiler_is_refused_in_one_line() -> None:
    with pytest.raises(TypeError, match=r"^torch\.jit\.script cannot read this module: torch\.jit\.trace, [^\n]*$"):
        torch.jit.script(module())


def test_copies_pickles_and_files(tmp_path: Path) -> None:
    network = module().eval()
    expected = network(images())
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(copied(images()), expected)
        assert copied.patch_embeds[0].proj.weight is not network.patch_embeds[0].proj.weight
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(images()), expected)
    save_model(network, str(tmp_path / "model.safetensors"))
    other = ScalableViT(CONFIG)
    assert load_model(other, tmp_path / "model.safetensors") == (set(), [])
    assert torch.equal(other.eval()(images()), expected)


def test_from_checkpoint(tmp_path: Path) -> None:
    network = module().eval()
    sv.save_checkpoint(tmp_path / "w.safetensors", network.state_dict(), CONFIG)
    read = ScalableViT.from_checkpoint(tmp_path / "w.safetensors", drop_path_rate=0.2)
    assert read.config == CONFIG
    assert read.training
    assert torch.equal(read.eval()(images()), network(images()))
    torch.save({"model": network.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(sv.CheckpointError, match="fit no variant"):
        ScalableViT.from_checkpoint(tmp_path / "w.pth")


def test_seed() -> None:
    for seed in (0, 1):
        expected = sv.init_params(CONFIG, seed)
        assert all(np.array_equal(x.numpy(), expected[name]) for name, x in ScalableViT(CONFIG, seed=seed).state_dict().items())


def test_given_parameters_are_copied() -> None:
    params = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
    network = ScalableViT(CONFIG, params=dict(reversed(params.items())))
    assert list(network.state_dict()) == list(params)
    with torch.no_grad():
        network.norm.weight.zero_()
    assert params["norm.weight"].all()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"config": "smal"}, "did you mean 'small'"),
        ({"config": "small", "depth": 3}, "unknown setting 'depth'"),
        ({"config": CONFIG, "drop_rate": 1.0}, "drop_rate must be at least 0 and below 1, got 1.0"),
        ({"config": CONFIG, "drop_path_rate": -0.1}, "drop_path_rate must be"),
        ({"config": CONFIG, "params": {"norm.weight": np.ones(3)}}, "missing"),
    ],
)
def test_refusals(options: dict[str, Any], problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        ScalableViT(**options)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="images must have 1 channels"):
        module()(torch.zeros(1, 3, 12, 20))
    with pytest.raises(ValueError, match="nearest sizes that work"):
        module(pad_windows=False)(images())


def test_without_torch_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['torch'] = None; import scalablevit_ref.adapters.torch"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("adapters.torch needs torch: pip install 'scalablevit-ref[torch]'")
    code = "import sys, scalablevit_ref; assert not any(name.startswith('scalablevit_ref.adapters') for name in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

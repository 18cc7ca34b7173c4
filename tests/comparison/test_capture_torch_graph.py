"""What the recorder writes down of a run of torch is what happened: its operations, computed again from it, give the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from scalablevit_ref.compare.capture.graph import fed_by_images, live, makers, narrowest, random_operations, sources
from scalablevit_ref.compare.capture.torch_graph import OTHERS
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from tests.support.torch_graphs import IMAGES, Module, all_values, check_replay, drawn, holding

Build = Callable[[], nn.Module]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


class AlwaysTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        return self.norm(x)  # type: ignore[no-any-return]


def attended(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = x.flatten(1, 2)
    return m.attn(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def written(m: Any, x: torch.Tensor) -> torch.Tensor:
    """In place through views, of what other views show."""
    y = torch.zeros_like(x)
    rows = y.view(2, 24, 8)
    y[..., :4] = m.lin(x)[..., :4]
    y[..., 4:].copy_(x[..., 4:])
    rows.mul_(2)
    y += m.lin.bias
    return rows.transpose(1, 2).sum(-1)


ZOO: dict[str, tuple[Build, set[str]]] = {
    "linear": (lambda: nn.Linear(8, 5), {"product"}),
    "linear without bias": (lambda: nn.Linear(8, 5, bias=False), {"product"}),
    "a matrix of images": (lambda: Module(lambda m, x: m.lin(x[:, 0, 0])), {"product"}),
    "batched": (
        lambda: Module(lambda m, x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0, alpha=0.5) @ m.lin.weight),
        {"product"},
    ),
    "bias times alpha": (lambda: Module(lambda m, x: torch.addmm(m.lin.bias, x[0, 0], m.lin.weight, alpha=3)), {"product"}),
    "vectors": (
        lambda: Module(lambda m, x: torch.addmv(m.lin.bias, x[0, 0], m.lin.bias) + torch.outer(x[0, 0, 0], m.lin.bias)),
        {"product"},
    ),
    "einsum": (lambda: Module(lambda m, x: torch.einsum("bchw,ow->bcho", x, m.lin.weight)), {"product"}),
    "under inference_mode": (lambda: Module(torch.inference_mode()(lambda m, x: m.lin(x) @ x.mT)), {"product"}),
    "with gradients": (lambda: Module(torch.enable_grad()(lambda m, x: m.lin(x))), {"product"}),
    "convolution": (lambda: nn.Conv2d(3, 6, 3, 2, 1, groups=3), {"convolution"}),
    "dilated": (lambda: nn.Conv2d(3, 4, (3, 1), (2, 1), (2, 0), dilation=2, bias=False), {"convolution"}),
    "same": (lambda: nn.Conv2d(3, 4, 3, padding="same"), {"convolution"}),
    "in one dimension": (lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 5)), {"convolution"}),
    "in three dimensions": (lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3)), {"convolution"}),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), {"convolution"}),
    "one image": (lambda: nn.Sequential(Module(lambda m, x: x[0]), nn.Conv2d(3, 4, 3)), {"convolution"}),
    "unfolded": (
        lambda: Module(lambda m, x: F.unfold(x, 3).mT @ m.kernel.flatten(1).T, holding(kernel=lambda: torch.randn(5, 3, 3, 3))),
        {"product", "move"},
    ),
    "layer norm": (lambda: nn.LayerNorm((8, 8), eps=0.1), {"norm"}),
    "layer norm without weights": (lambda: nn.Sequential(nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2)), {"norm"}),
    "group norm": (lambda: nn.GroupNorm(3, 3, eps=0.1), {"norm"}),
    "batch norm": (lambda: nn.BatchNorm2d(3), {"norm"}),
    "batch norm in training": (AlwaysTraining, {"norm"}),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), {"norm"}),
    "RMS norm": (lambda: nn.RMSNorm(8), {"multiply"}),
    "sums": (
        lambda: Module(
            lambda m, x: (
                torch.add(x, m.lin.bias, alpha=3)
                - (1 - x)
                + torch.sub(2, x)
                - 4
                + torch.rsub(x, m.lin.bias)
                + torch.rsub(x, m.lin.bias, alpha=2)
            )
        ),
        {"add"},
    ),
    "products": (lambda: Module(lambda m, x: (x * m.lin.bias / 3) / (x * 0.5 + 7) * 2), {"multiply"}),
    "a quotient that is rounded": (lambda: Module(lambda m, x: torch.div(x, m.lin.bias, rounding_mode="floor") + x), {"add"}),
    "addcmul": (lambda: Module(lambda m, x: torch.addcmul(m.lin.bias, x, m.lin.weight) + torch.lerp(x, x * 2, 0.1)), {"add"}),
    "moves": (
        lambda: Module(
            lambda m, x: (
                torch.cat([x.roll((1, 2), (2, 3)), x.flip(3), F.pad(x[..., :4], (1, 3), value=2.0), x[:, [2, 0, 1]]], 1)
                .unfold(3, 2, 3)
                .repeat(1, 1, 1, 1, 2)
                .float()
                .double()
            )
        ),
        {"move"},
    ),
    "padded in other ways": (
        lambda: Module(
            lambda m, x: (
                F.pad(x, (2, 2, 1, 0), "reflect") + F.pad(x, (2, 2, 1, 0), "replicate") + F.pad(x, (2, 2, 1, 0), "circular")
            )
        ),
        {"move", "add"},
    ),
    "shuffled": (lambda: Module(lambda m, x: F.pixel_unshuffle(x, 2) + F.channel_shuffle(F.pixel_unshuffle(x, 2), 2)), {"move"}),
    "looked up": (lambda: Module(lambda m, x: F.embedding((x[:, 0] > 0).long(), m.lin.weight) + x[:, 1, :, None]), {"move"}),
    "written in place": (lambda: Module(written), {"move", "add", "multiply"}),
    "written out": (lambda: Module(lambda m, x: torch.add(x, x, out=torch.empty_like(x)) @ m.lin.weight), {"add"}),
    "put together": (
        lambda: Module(lambda m, x: x.slice_scatter(x[..., :2] * 2, 3, 6).index_put((torch.tensor([0]),), m.lin.bias)),
        {"move"},
    ),
    "where": (lambda: Module(lambda m, x: torch.where(x > 0, x, m.lin.bias).masked_fill(x < -1, 5) + x), {"add"}),
    "of several": (lambda: Module(lambda m, x: torch.stack([*x.chunk(3, 1), *torch.unbind(x[:, None], 2)]).amax(0) * x), {"move"}),
    "fused attention": (lambda: Module(lambda m, x: F.scaled_dot_product_attention(m.lin(x), x, x)), {"product"}),
    "masked attention": (
        lambda: Module(lambda m, x: F.scaled_dot_product_attention(m.lin(x), x, x, torch.ones(8, 8, dtype=torch.bool).tril())),
        {"product"},
    ),
    "multi-head attention": (
        lambda: Module(attended, holding(attn=lambda: nn.MultiheadAttention(8, 2, batch_first=True))),
        {"product"},
    ),
    "a transformer's layer": (
        lambda: nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
        {"product", "norm"},
    ),
    "recurrent": (lambda: nn.Sequential(nn.Flatten(1, 2), nn.GRU(8, 4, batch_first=True)), {"product", "add"}),
    "complex": (
        lambda: Module(
            lambda m, x: torch.fft.irfft2(torch.fft.rfft2(m.lin(x)) * torch.view_as_complex(m.filter)),
            holding(filter=lambda: torch.randn(8, 5, 2)),
        ),
        {"product"},
    ),
    "checkpointed": (lambda: Module(lambda m, x: checkpoint(m.lin, x, use_reentrant=False)), {"product"}),
    "a function of autograd": (lambda: Module(lambda m, x: Doubled.apply(m.lin(x))), {"product", "multiply"}),
    "called by function": (
        lambda: Module(lambda m, x: torch.func.functional_call(m.lin, {"weight": m.lin.weight * 2}, (x,))),
        {"product"},
    ),
    "mapped": (lambda: Module(lambda m, x: torch.func.vmap(m.lin)(x)), {"product"}),
    "through data": (lambda: Module(lambda m, x: F.linear(x.data, m.lin.weight.data.clone().T, m.lin.bias.detach())), {"product"}),
    "by NumPy's view": (lambda: Module(lambda m, x: m.lin(torch.from_numpy(x.numpy()))), {"product"}),
    "a condition": (lambda: Module(lambda m, x: torch.cond(x.sum() > 99, torch.sin, torch.cos, (m.lin(x),))), {"product"}),
    "upsampled": (lambda: Module(lambda m, x: F.interpolate(F.avg_pool2d(m.lin(x), 2), scale_factor=2)), {"product"}),
}


@pytest.mark.parametrize("name", ZOO)
def test_operations_say_what_they_did(name: str) -> None:
    build, kinds = ZOO[name]
    runner = TorchRunner(build(), "float64")
    weights = drawn(runner)
    graph = runner.record(IMAGES, weights)
    values = all_values(runner, graph, IMAGES, weights)
    assert kinds <= set(check_replay(graph, values))
    assert set(graph.outputs.values()) <= fed_by_images(graph)
    assert runner.unrepeated(IMAGES, weights) == ""


@pytest.mark.parametrize("name", ZOO)
def test_the_last_value_is_what_the_module_gives(name: str) -> None:
    """Run as the module itself is."""
    module = ZOO[name][0]().double().eval()
    for loose in ("kernel", "filter"):
        if hasattr(module, loose):
            setattr(module, loose, getattr(module, loose).double())
    runner = TorchRunner(module, None)
    graph = runner.record(IMAGES, {})
    value = next(iter(graph.outputs.values()))
    values, seconds = runner.values(IMAGES, {}, [value])
    with torch.no_grad():
        expected = module(torch.from_numpy(IMAGES.copy()))
    expected = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(values[value], expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert seconds > 0


# Memory that several tensors show

STEPS = st.lists(st.tuples(st.sampled_from(["rows", "columns", "turned", "copy", "add", "mul", "fill", "new", "out", "bias"]),
                           st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12)  # fmt: skip


def run_steps(m: Any, x: torch.Tensor, steps: list[tuple[str, int, int]]) -> torch.Tensor:
    """Views of three arrays of 8 by 8, written into each other by their corners, of 2 by 2."""
    pool = [torch.zeros(8, 8, dtype=x.dtype), x[0, 0], x[1, 0]]
    for what, i, j in steps:
        a, b = pool[i % len(pool)], pool[j % len(pool)]
        here, there = a[:2, :2], b[-2:, -2:].clone()
        match what:
            case "rows":
                pool.append(a[j % (len(a) - 1) :] if len(a) > 2 else a)
            case "columns":
                pool.append(a[:, : 2 + j % 3])
            case "turned":
                pool.append(a.T)
            case "copy":
                here.copy_(there)
            case "add":
                here += there
            case "mul":
                a *= 2
            case "fill":
                here.fill_(3)
            case "new":
                pool.append(a * 2)
            case "out":
                torch.add(there, 1, out=here)
            case "bias":
                here += m.lin.bias[:2]
    return torch.stack([one.sum() for one in pool])[None] + x[0, 0, 0, 0]


@given(STEPS)
def test_a_value_is_made_of_what_its_operation_is_given(steps: list[tuple[str, int, int]]) -> None:
    """Of two runs on batches with one image in common: where all that an operation takes is the same, so is what it gives."""
    runner = TorchRunner(Module(lambda m, x: run_steps(m, x, steps)), "float64")
    weights = drawn(runner)
    graph = runner.record(IMAGES, weights)
    other = IMAGES.copy()
    other[0] = np.random.default_rng(5).standard_normal(other[0].shape)
    first, second = (all_values(runner, graph, images, weights) for images in (IMAGES, other))
    same = {value for value in first if np.array_equal(first[value], second[value])} | {
        value for value in graph.shapes if value >= OTHERS
    }
    for one in graph.operations:
        if same.issuperset(one.inputs):
            assert same.issuperset(one.outputs), one
    check_replay(graph, first)
    assert set(first) - fed_by_images(graph) <= same
    assert set(graph.outputs.values()) <= live(graph)
    assert makers(graph)[graph.outputs["logits"]] == len(graph.operations) - 1


def test_writes_beside_a_view_do_not_touch_it() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(4, 8, dtype=x.dtype)
        first, second = y[:2], y[2:]
        second.copy_(m.lin.weight[:2])
        first.copy_(x[0, 0, :2])
        return torch.stack([first * 1, second * 1]).sum() + x.sum()

    runner = TorchRunner(Module(forward), "float64")
    graph = runner.record(IMAGES, {})
    halves = [one for one in graph.operations if one.kind == "multiply"]
    assert [graph.images in fed_by_images(graph) and one.inputs[0] in fed_by_images(graph) for one in halves] == [True, False]
    assert sources(graph)[halves[1].inputs[0]] == {"lin.weight"}


@pytest.mark.parametrize(
    "overwrite",
    [
        lambda m, y: y.copy_(m.lin.weight),
        lambda m, y: torch.mul(m.lin.weight, 2, out=y),
        lambda m, y: torch.max(m.lin.weight, 0, out=(y[0], torch.zeros(8, dtype=torch.long)))[0] + m.lin.weight,
        lambda m, y: y.fill_(2).add_(m.lin.weight),
        lambda m, y: y.zero_().add_(m.lin.weight),
    ],
)
def test_of_what_is_written_over_nothing_is_left(overwrite: Any) -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = x[0, 0].clone()
        return torch.sin(overwrite(m, y)) + m.lin(x)  # type: ignore[no-any-return]

    graph = TorchRunner(Module(forward), "float64").record(IMAGES, {})
    (sine,) = [one for one in graph.operations if one.name == "aten.sin.default"]
    assert sources(graph)[sine.inputs[0]] == {"lin.weight"}
    assert sine.inputs[0] >= OTHERS


def test_what_takes_a_tensor_for_its_shape_does_not_depend_on_it() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.lin(x) + torch.zeros_like(x).cos() + x.new_ones(8).cos() + torch.full_like(x, 2).cos()  # type: ignore[no-any-return]

    graph = TorchRunner(Module(forward), "float64").record(IMAGES, {})
    cosines = [one for one in graph.operations if one.name == "aten.cos.default"]
    assert len(cosines) == 3
    assert not fed_by_images(graph).intersection(value for one in cosines for value in one.inputs)
    assert all(value >= OTHERS for one in cosines for value in one.outputs)


def test_written_into_what_is_read() -> None:
    graph = TorchRunner(Module(lambda m, x: m.lin(torch.add(x, m.lin.bias, out=x))), "float64").record(IMAGES, {})
    (add,) = [one for one in graph.operations if one.kind == "add"]
    assert add.inputs[0] == graph.images
    assert graph.outputs["logits"] in fed_by_images(graph)


def test_what_was_written_is_seen_through_numpy() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(2, 3, 8, 8, dtype=x.dtype)
        y.copy_(x)
        return m.lin(torch.from_numpy(y.numpy()))  # type: ignore[no-any-return]

    graph = TorchRunner(Module(forward), "float64").record(IMAGES, {})
    assert graph.outputs["logits"] in fed_by_images(graph)
    assert graph.notes == ()


def test_memory_that_was_freed_is_not_taken_for_another() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        for _ in range(50):
            torch.zeros(64).add_(1)
            torch.zeros(64, dtype=x.dtype).copy_(x.flatten()[:64])
        return m.lin(x) + torch.zeros(8, dtype=x.dtype)

    graph = TorchRunner(Module(forward), "float64").record(IMAGES, {})
    assert not any(one.name == "alias" for one in graph.operations)


def test_what_is_put_in_the_place_of_a_tensors_memory() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y.data = x
        return m.lin(y)

    graph = TorchRunner(Module(forward), "float64").record(IMAGES, {})
    assert graph.outputs["logits"] in fed_by_images(graph)


def test_a_view_of_a_parameter_that_is_an_attribute() -> None:
    """What is put into the parameter is seen in it, and its use is one of the parameter's."""
    module = Module(lambda m, x: F.linear(x, m.half), lambda m: setattr(m, "half", m.lin.weight[:4]))
    runner = TorchRunner(module, "float64")
    assert list(runner.parameters) == ["lin.weight", "lin.bias"]
    weights = drawn(runner)
    graph = runner.record(IMAGES, weights)
    logits = graph.outputs["logits"]
    np.testing.assert_allclose(runner.values(IMAGES, weights, [logits])[0][logits], IMAGES @ weights["lin.weight"][:4].T)
    (product,) = [one for one in graph.operations if one.kind == "product"]
    assert sources(graph)[product.inputs[1]] == {"lin.weight"}
    np.testing.assert_array_equal(graph.constants[product.inputs[1]], weights["lin.weight"][:4].T)


def test_constants_are_what_the_run_took() -> None:
    """Also where the module writes into its weight afterwards, and after a run with others."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.lin(x)
        m.lin.weight.data.zero_()
        return y

    runner = TorchRunner(Module(forward), "float64")
    weights = drawn(runner)
    graph = runner.record(IMAGES, weights)
    runner.record(IMAGES, drawn(runner, seed=7))
    (product,) = [one for one in graph.operations if one.kind == "product"]
    np.testing.assert_array_equal(graph.constants[product.inputs[1]], weights["lin.weight"].T)
    np.testing.assert_array_equal(graph.constants[product.inputs[2]], weights["lin.bias"])


# Modules, lines, dtypes, chance


def test_modules_in_the_order_in_which_they_end() -> None:
    shared = nn.Linear(8, 8)
    inner = nn.Sequential(shared, nn.GELU())
    module = nn.Sequential(
        inner, shared, Module(lambda m, x: x.mul_(2) + m.listed[0](x), lambda m: setattr(m, "listed", [nn.GELU()]))
    )
    runner = TorchRunner(module, "float64")
    graph = runner.record(IMAGES, {})
    assert [run.path for run in graph.modules] == ["0.0", "0.1", "0", "0.0", "2.listed.0", "2"]
    for before, after in [(2, 3), (3, 5)]:
        assert graph.modules[before].returned == graph.modules[after].given
    by_path = {run.path: run for run in graph.modules}
    assert by_path["2.listed.0"].given != by_path["2"].given  # written in place before
    seen: dict[str, list[np.ndarray]] = {}
    model = module.double()
    for path, inner_module in model.named_modules():
        inner_module.register_forward_hook(
            lambda _, args, out, path=path: seen.setdefault(path, []).append(out.detach().numpy().copy())
        )
    model(torch.from_numpy(IMAGES.copy()))
    values, _ = runner.values(IMAGES, {}, [run.returned[0] for run in graph.modules])
    for path in ("0", "0.1", "2"):
        np.testing.assert_allclose(values[by_path[path].returned[0]], seen[path][0], rtol=1e-12)


def test_a_module_that_raises_and_is_caught() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        try:
            m.bad(x * 2)
        except RuntimeError:
            return m.lin(x)  # type: ignore[no-any-return]
        raise AssertionError

    graph = TorchRunner(nn.Sequential(Module(forward, holding(bad=lambda: nn.Linear(3, 3)))), "float64").record(IMAGES, {})
    assert [(run.path, run.given) for run in graph.modules] == [("0.lin", (graph.images,)), ("0", (graph.images,))]


def test_lines_are_the_candidates_own() -> None:
    module = Module(lambda m, x: m.lin(x).relu())
    graph = TorchRunner(module, "float64").record(IMAGES, {})
    assert {one.line for one in graph.operations} == {
        f"test_capture_torch_graph.py, line {test_lines_are_the_candidates_own.__code__.co_firstlineno + 1}, in <lambda>"
    }
    graph = TorchRunner(nn.Sequential(nn.Linear(8, 2)), "float64").record(IMAGES, {})
    assert {one.line for one in graph.operations} == {""}  # and not this line, which asks for the run


def test_the_narrowest_dtype_that_data_pass() -> None:
    def through(dtype: torch.dtype) -> nn.Module:
        return Module(lambda m, x: (m.lin(x).to(dtype) * 2).double() + 0 * m.lin.bias.half())

    assert narrowest(TorchRunner(nn.Linear(8, 2), "float64").record(IMAGES, {})) == ("float64", None)
    for dtype in ("float32", "bfloat16"):
        graph = TorchRunner(through(getattr(torch, dtype)), "float64").record(IMAGES, {})
        found, where = narrowest(graph)
        assert (found, where and where.name) == (dtype, "aten._to_copy.default")
        assert [note.partition(",")[0] for note in graph.notes] == [f"part of it is computed in {dtype}"]


@pytest.mark.parametrize(
    ("forward", "names"),
    [
        (lambda m, x: F.dropout(m.lin(x)), ["aten.bernoulli_.float"]),
        (lambda m, x: m.lin(x) * (torch.rand(2, 1, 1, 1) < 0.5), ["aten.rand.default"]),
        (lambda m, x: m.lin(x) + torch.randn_like(x), ["aten.randn_like.default"]),
        (lambda m, x: m.lin(x)[torch.randperm(2)], ["aten.randperm.default"]),
        (lambda m, x: F.rrelu(m.lin(x), training=True), ["aten.rrelu_with_noise_functional.default"]),
        (lambda m, x: F.rrelu(m.lin(x)), []),
        (lambda m, x: F.dropout(m.lin(x), 0.5, training=False), []),
        (lambda m, x: F.scaled_dot_product_attention(m.lin(x), x, x), []),
        (lambda m, x: F.scaled_dot_product_attention(m.lin(x), x, x, dropout_p=0.5), ["aten.bernoulli_.float"]),
        (lambda m, x: (torch.rand(2), m.lin(x))[1], []),
    ],
)
def test_random_operations(forward: Any, names: list[str]) -> None:
    graph = TorchRunner(Module(forward), "float64").record(IMAGES, {})
    found = [one.name for one in random_operations(graph)]
    assert [name.partition("_with")[0] for name in found] == [name.partition("_with")[0] for name in names]


def test_a_table_that_is_cached_outside_of_the_module_shifts_no_value() -> None:
    cache: list[torch.Tensor] = []

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        if not cache:
            cache.append(torch.arange(8, dtype=x.dtype).add(1))
        return m.lin(x) * cache[0]  # type: ignore[no-any-return]

    runner = TorchRunner(Module(forward), "float64")
    graph = runner.record(IMAGES, {})
    logits = graph.outputs["logits"]
    values, _ = runner.values(IMAGES, {}, [logits])
    assert values[logits].shape == IMAGES.shape
    assert runner.record(IMAGES, {}).outputs == graph.outputs


def test_autocast_is_noted() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    (note,) = TorchRunner(Cast(), "float64").record(IMAGES, {}).notes
    assert note.startswith("it computes under autocast in bfloat16 (test_capture_torch_graph.py, line ")
    assert note.endswith("which does nothing in float64: dtype=own compares it as it runs")
    notes = TorchRunner(Cast(), None).record(IMAGES, {}).notes
    assert [note.partition(" (")[0] for note in notes] == [
        "it computes under autocast in bfloat16",
        "part of it is computed in bfloat16, from aten._to_copy.default",
    ]
    assert TorchRunner(nn.Linear(8, 8), "float64").record(IMAGES, {}).notes == ()


def test_numbers_that_another_library_made() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.lin(x) + torch.from_numpy(np.tanh(x.numpy()))  # type: ignore[no-any-return]

    (note,) = TorchRunner(Module(forward), "float64").record(IMAGES, {}).notes
    assert note.startswith("an array 2 3 8 8 comes from outside of torch (test_capture_torch_graph.py, line ")


def test_traced_and_scripted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [
            torch.jit.trace(Module(lambda m, x: m.lin(x).relu()), torch.zeros(2, 3, 8, 8)),
            torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU())),
            nn.Sequential(torch.jit.script(nn.Linear(8, 8)), nn.ReLU()),
        ]
    for module in made:
        runner = TorchRunner(module, "float64")
        weights = drawn(runner)
        graph = runner.record(IMAGES, weights)
        logits = graph.outputs["logits"]
        weight, bias = weights.values()
        for _ in range(3):  # torch optimises what runs often
            values, _ = runner.values(IMAGES, weights, [logits])
            np.testing.assert_allclose(values[logits], np.maximum(IMAGES @ weight.T + bias, 0))
        assert sources(graph)[graph.operations[1].outputs[0]] == {next(iter(weights))}

"""A torch module is run again and again and shares nothing; what wraps it is taken off; what cannot be followed says so."""

from __future__ import annotations

import random
import threading
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from scalablevit_ref.compare.capture.graph import StaleGraphError, fed_by_images, sources
from scalablevit_ref.compare.capture.torch_refusals import TRACE
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.compare.capture.torch_wrappers import is_torch
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing.arrays import random_images
from tests.support.torch_graphs import IMAGES, Module, drawn, holding

Prepare = Callable[[Any], object]


def logits(runner: TorchRunner, weights: dict[str, np.ndarray], images: np.ndarray = IMAGES) -> np.ndarray:
    value = runner.record(images, weights).outputs["logits"]
    return runner.values(images, weights, [value])[0][value]


def state_of(module: nn.Module) -> dict[str, Any]:
    return {name: x.clone() for name, x in module.state_dict().items()}


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Nothing is shared, nothing stays


def test_the_candidate_is_not_touched() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        m.seen.append(x.sum())
        m.count += 1
        m.lin.weight.data.mul_(2)
        m.running.add_(1)
        m.loose[0].add_(1)
        x.sub_(1)
        return m.lin(x) * m.count + m.running + m.loose[0]  # type: ignore[no-any-return]

    def prepare(m: Any) -> None:
        m.seen, m.count, m.loose = [], 0, [torch.ones(8)]
        m.register_buffer("running", torch.zeros(8))

    module = Module(forward, prepare)
    before, images = state_of(module), IMAGES.copy()
    runner = TorchRunner(module, "float64")
    weights = drawn(runner)
    given = {name: x.copy() for name, x in weights.items()}
    first = logits(runner, weights, images)
    expected = (images - 1) @ (2 * weights["lin.weight"].T) + weights["lin.bias"] + weights["running"] + 1 + weights["loose.0"] + 1
    np.testing.assert_allclose(first, expected)
    np.testing.assert_array_equal(logits(runner, weights, images), first)
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert module.training
    assert (module.seen, module.count, module.loose[0].tolist()) == ([], 0, [1.0] * 8)
    assert np.array_equal(images, IMAGES)
    assert all(np.array_equal(x, given[name]) for name, x in weights.items())
    assert not any(hook for inner in module.modules() for hook in (inner._forward_hooks, inner._forward_pre_hooks))


def test_weights_that_are_not_given_stay_as_they_are() -> None:
    runner = TorchRunner(nn.Linear(8, 8), "float64")
    own = dict(runner.parameters)
    weights = drawn(runner)
    np.testing.assert_allclose(logits(runner, weights), IMAGES @ weights["weight"].T + weights["bias"])
    np.testing.assert_allclose(logits(runner, {"bias": weights["bias"]}), IMAGES @ own["weight"].T + weights["bias"])
    np.testing.assert_allclose(logits(runner, {}), IMAGES @ own["weight"].T + own["bias"])
    assert all(np.array_equal(x, own[name]) for name, x in runner.parameters.items())
    with pytest.raises(ValueError, match=r"weight must be \(8, 8\), got \(8, 7\)"):
        runner.record(IMAGES, {"weight": np.zeros((8, 7))})


def test_a_tensor_outside_of_the_module_is_put_back() -> None:
    outside = torch.zeros(8, dtype=torch.float64)
    runner = TorchRunner(Module(lambda m, x: m.lin(x) + outside.add_(1)), "float64")
    np.testing.assert_array_equal(logits(runner, {}), logits(runner, {}))
    assert outside.tolist() == [0.0] * 8


def test_settings_and_generators_are_what_they_were() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(True)
        torch.set_num_threads(1 + before[1] % 2)
        torch.set_autocast_enabled("cpu", True)
        torch.backends.mha.set_fastpath_enabled(True)
        return m.lin(x) * torch.rand(1) * random.random() * np.random.random()  # type: ignore[no-any-return]  # noqa: NPY002

    def settings() -> tuple[Any, ...]:
        on = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.backends.mha.get_fastpath_enabled())
        return torch.get_default_dtype(), torch.get_num_threads(), on

    before = settings()
    runner = TorchRunner(Module(forward), "float64")
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    drawn_here = (torch.rand(1).item(), random.random(), np.random.random())  # noqa: NPY002
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    graph = runner.record(IMAGES, {})
    assert runner.unrepeated(IMAGES, {})
    assert settings() == before
    assert (torch.rand(1).item(), random.random(), np.random.random()) == drawn_here  # noqa: NPY002
    assert graph.outputs["logits"] in fed_by_images(graph)


def test_what_is_given_back_is_nobody_s_to_change() -> None:
    runner = TorchRunner(nn.Linear(8, 8), "float64")
    graph = runner.record(IMAGES, {})
    value = graph.outputs["logits"]
    first, _ = runner.values(IMAGES, {}, [value])
    kept = first[value].copy()
    runner.values(2 * IMAGES, {}, [value])
    np.testing.assert_array_equal(first[value], kept)
    with pytest.raises(ValueError, match="read-only"):
        runner.parameters["bias"][:] = 7
    assert not np.array_equal(runner.parameters["bias"], np.full(8, 7.0))


# Chance and change


def counted(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.count += 1
    return m.lin(x) * m.count  # type: ignore[no-any-return]


def test_a_copy_with_a_generator_of_its_own() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.lin(x) + torch.rand(8, generator=m.draws, dtype=x.dtype)  # type: ignore[no-any-return]

    runner = TorchRunner(Module(forward, holding(draws=lambda: torch.Generator().manual_seed(1))), "float64")
    assert runner.unrepeated(IMAGES, {}).startswith(
        "it draws random numbers: aten.rand.generator (test_capture_torch_runner.py, line "
    )


@pytest.mark.parametrize(
    ("forward", "prepare", "words"),
    [
        (lambda m, x: m.lin(x), lambda m: None, ""),
        (lambda m, x: F.dropout(m.lin(x), 0.5), lambda m: None, "it draws random numbers: aten.bernoulli_.float"),
        (lambda m, x: m.drop(m.lin(x)), lambda m: setattr(m, "drop", nn.Dropout(0.5)), ""),
        (lambda m, x: m.lin(x) * np.random.rand(), lambda m: None, "it changes what it holds while it runs"),  # noqa: NPY002
        (lambda m, x: m.lin(x) * random.random(), lambda m: None, "it changes what it holds while it runs"),
        (counted, lambda m: setattr(m, "count", 0), "it changes what it holds while it runs"),
        (lambda m, x: m.lin(x) * m.n.add_(1), lambda m: m.register_buffer("n", torch.zeros(())), "it changes what it holds"),
    ],
)
def test_a_second_run(forward: Any, prepare: Prepare, words: str) -> None:
    runner = TorchRunner(nn.Sequential(Module(forward, prepare)), "float64")
    for _ in range(2):
        said = runner.unrepeated(IMAGES, {})
        assert said.startswith(words)
        assert bool(said) == bool(words)
    if "random numbers:" in words:
        assert " in 0 (test_capture_torch_runner.py, line " in said


def test_one_run_is_enough_after_another_on_the_same() -> None:
    runs = []
    runner = TorchRunner(Module(lambda m, x: (runs.append(1), m.lin(x))[1]), "float64")
    graph = runner.record(IMAGES, {})
    runner.values(IMAGES.copy(), {}, [graph.outputs["logits"]])
    assert runner.unrepeated(IMAGES, {}) == ""
    assert len(runs) == 3
    assert runner.unrepeated(2 * IMAGES, {}) == ""
    assert len(runs) == 5
    assert runner.unrepeated(2 * IMAGES, drawn(runner)) == ""
    assert len(runs) == 7


def test_a_run_that_does_something_else() -> None:
    turns = iter([1, 2])
    runner = TorchRunner(Module(lambda m, x: m.lin(x).relu() if next(turns) == 1 else m.lin(x)), "float64")
    graph = runner.record(IMAGES, {})
    with pytest.raises(
        CaptureError, match=r"something else each time it runs: after \d operations aten.relu.default, then nothing"
    ):
        runner.values(IMAGES, {}, list(graph.outputs.values()))


def test_a_recording_run_computes_no_products() -> None:
    """What is recorded is the same; a candidate that looks at its numbers is recorded with all of them."""
    seen: list[float] = []

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(m.lin(x), m.lin.weight.reshape(8, 8, 1, 1)[:, :3]).permute(0, 2, 3, 1).reshape(-1, 8)
        seen.append(float(y.abs().max()))
        return y @ (m.lin.weight @ m.lin.weight)  # type: ignore[no-any-return]

    runner, whole = (TorchRunner(Module(forward), "float64") for _ in range(2))
    whole._dry = False
    weights = drawn(runner)
    dry, real = runner.record(IMAGES, weights), whole.record(IMAGES, weights)
    assert seen[0] == 0 < seen[1]
    assert dry.operations == real.operations
    assert (dry.shapes, dry.dtypes, dry.outputs, dry.modules) == (real.shapes, real.dtypes, real.outputs, real.modules)
    assert all(np.array_equal(x, real.constants[value]) for value, x in dry.constants.items())
    np.testing.assert_array_equal(logits(runner, weights), logits(whole, weights))


def test_a_graph_that_depends_on_the_numbers() -> None:
    runner = TorchRunner(Module(lambda m, x: m.lin(x).relu() if m.lin(x).any() else m.lin(x).exp()), "float64")
    first = runner.record(IMAGES, {})
    assert first.operations[-1].name == "aten.exp.default"
    with pytest.raises(StaleGraphError):
        runner.values(IMAGES, {}, first.outputs.values())
    second = runner.record(IMAGES, {})
    assert second.operations[-1].name == "aten.relu.default"
    (value,) = second.outputs.values()
    assert runner.values(IMAGES, {}, [value])[0][value].any()


# Dtypes


def test_weights_are_rounded_once() -> None:
    """Float64 to float16: by way of float32, as torch rounds, some numbers come out otherwise."""
    twice = np.float64(1 + 2.0**-11 + 2.0**-30)
    assert np.float16(twice) != np.float16(np.float32(twice))
    module = nn.Linear(8, 8, dtype=torch.float64)
    with torch.no_grad():
        module.bias.fill_(float(twice))
    for dtype in ("float16", "bfloat16", "float32"):
        runner = TorchRunner(module, dtype)
        assert runner.dtype == dtype
        assert all(x.dtype.name == dtype for x in runner.parameters.values())
        weights = {"weight": np.eye(8), "bias": np.full(8, twice)}
        had = runner.rounded(weights)["bias"]
        np.testing.assert_array_equal(had, weights["bias"].astype(had.dtype))
        np.testing.assert_array_equal(runner.parameters["bias"], had)
        np.testing.assert_array_equal(logits(runner, weights, np.zeros((1, 1, 1, 8)))[0, 0, 0], had)


def test_what_is_converted() -> None:
    def prepare(m: Any) -> None:
        m.register_buffer("steps", torch.arange(8))
        m.register_buffer("wave", torch.ones(8, dtype=torch.complex64))
        m.table = {"a": [torch.ones(8)]}
        m.listed = [nn.Linear(8, 8)]

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.listed[0](m.lin(x) @ torch.diag(m.table["a"][0])) * m.wave.real + m.steps  # type: ignore[no-any-return]

    runner = TorchRunner(Module(forward, prepare), "float64")
    assert list(runner.parameters) == ["lin.weight", "lin.bias", "listed.0.weight", "listed.0.bias", "table.a.0"]
    graph = runner.record(IMAGES, drawn(runner))
    assert {graph.dtypes[value] for value in graph.outputs.values()} == {"float64"}
    assert set(sources(graph).values()) >= {frozenset((name,)) for name in runner.parameters}
    own = TorchRunner(Module(forward, prepare), None)
    assert own.dtype == "float32"
    assert {x.dtype.name for x in own.parameters.values()} == {"float32"}


def test_tied_weights_have_one_name() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[1].weight = module[0].weight
    runner = TorchRunner(module, "float64")
    assert list(runner.parameters) == ["0.weight", "0.bias", "1.bias"]
    w = drawn(runner)
    np.testing.assert_allclose(logits(runner, w), (IMAGES @ w["0.weight"].T + w["0.bias"]) @ w["0.weight"].T + w["1.bias"])


# Wrappings


def linear(prepare: Prepare) -> Module:
    return Module(lambda m, x: m.lin(x), prepare)


def deprecated(wrap: Callable[[nn.Module], object]) -> Prepare:
    def prepare(m: Any) -> None:
        with quiet():
            wrap(m.lin)

    return prepare


def exported() -> Any:
    with quiet():
        return torch.export.export(linear(lambda m: None), (torch.zeros(2, 3, 8, 8),))


def compiled() -> Any:
    with quiet():  # loading the compiler warns
        return torch.compile(linear(lambda m: None))


def compiled_in_place() -> nn.Module:
    module = linear(lambda m: None)
    with quiet():
        module.compile()
    return module


WRAPPED: dict[str, Callable[[], Any]] = {
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "data parallel": lambda: nn.DataParallel(linear(lambda m: None)),
    "exported": exported,
    "a graph of fx": lambda: torch.fx.symbolic_trace(nn.Sequential(OrderedDict(lin=nn.Linear(8, 8)))),
    "weight norm": lambda: linear(lambda m: parametrizations.weight_norm(m.lin)),
    "spectral norm": lambda: linear(lambda m: parametrizations.spectral_norm(m.lin)),
    "orthogonal": lambda: linear(lambda m: parametrizations.orthogonal(m.lin)),
    "weight norm of old": lambda: linear(deprecated(weight_norm)),
    "spectral norm of old": lambda: linear(deprecated(spectral_norm)),
    "pruned": lambda: linear(lambda m: prune.l1_unstructured(m.lin, "weight", 0.3)),
    "pruned twice": lambda: linear(
        lambda m: (prune.l1_unstructured(m.lin, "weight", 0.3), prune.random_structured(m.lin, "weight", 1, 0))
    ),
    "sparse": lambda: linear(lambda m: setattr(m.lin, "weight", nn.Parameter(torch.eye(8).to_sparse()))),
    "an inference tensor": lambda: linear(torch.inference_mode()(lambda m: setattr(m, "lin", nn.Linear(8, 8)))),
    "a lock": lambda: linear(lambda m: setattr(m, "lock", {"inside": [threading.Lock()]})),
    "in a plain object": lambda: Module(lambda m, x: F.linear(x, m.held.weight, m.held.bias), hold),
}


class Plain:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.weight, self.bias = weight, bias


def hold(m: Any) -> None:
    m.held = Plain(torch.ones(8, 8), torch.ones(8))
    del m.lin


@pytest.mark.parametrize("name", WRAPPED)
def test_what_wraps_a_module_is_taken_off(name: str) -> None:
    candidate = WRAPPED[name]()
    assert is_torch(candidate)
    runner = TorchRunner(candidate, "float64")
    names = sorted(runner.parameters)
    assert names in (["lin.bias", "lin.weight"], ["held.bias", "held.weight"])
    weights = drawn(runner)
    bias, weight = (weights[one] for one in names)
    before = {} if name == "exported" else state_of(candidate)
    np.testing.assert_allclose(logits(runner, weights), IMAGES @ weight.T + bias)
    assert runner.unrepeated(IMAGES, weights) == ""
    if before:  # the candidate itself is as it was, and runs
        after = state_of(candidate)
        assert before.keys() == after.keys()
        assert all(torch.equal(x.to_dense(), after[one].to_dense()) for one, x in before.items())
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            candidate.eval()(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("name", [name for name in WRAPPED if name not in ("exported", "data parallel", "a graph of fx")])
def test_what_is_unwrapped_computes_the_same(name: str) -> None:
    candidate = WRAPPED[name]()
    candidate.eval()
    x = IMAGES.astype("float32")
    actual = logits(TorchRunner(candidate, None), {}, x)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        np.testing.assert_allclose(actual, candidate(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_an_attribute_that_was_computed_is_copied() -> None:
    """`copy.deepcopy` refuses it: it hangs on the parameter that it was computed from."""
    module = Module(lambda m, x: m.lin(x) + m.table.mul_(2), lambda m: setattr(m, "table", m.lin.bias * 3))
    module.lin.requires_grad_(False)
    table = module.table.detach().clone()
    runner = TorchRunner(module, "float32")
    assert list(runner.parameters) == ["lin.weight", "lin.bias", "table"]
    np.testing.assert_array_equal(logits(runner, {}), logits(runner, {}))
    assert torch.equal(module.table, table)
    assert runner._copied.shared == ()


def test_wrapped_inside() -> None:
    with quiet():
        module = nn.Sequential(torch.compile(nn.Linear(8, 8)), nn.DataParallel(nn.Linear(8, 8)))
        twice = torch.compile(lambda x: x * 2)
    runner = TorchRunner(nn.Sequential(module, Module(lambda m, x: twice(m.lin(x)))), "float64")
    assert [name for name in runner.parameters if name.endswith("weight")] == ["0.0.weight", "0.1.weight", "1.lin.weight"]
    graph = runner.record(IMAGES, drawn(runner))
    assert [run.path for run in graph.modules] == ["0.0", "0.1", "0", "1.lin", "1"]
    assert [one.kind for one in graph.operations].count("product") == 3


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[Any]:
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        from torch.distributed.device_mesh import init_device_mesh

        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_sharded(one_process: Any) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    def fresh() -> nn.Sequential:
        return nn.Sequential(linear(lambda m: None), nn.Linear(8, 8))

    second = fresh()
    for one in (second[0], second):
        fully_shard(one, mesh=one_process)
    second(torch.zeros(2, 3, 8, 8))
    tensors = fresh()
    tensors[1].weight = nn.Parameter(distribute_tensor(tensors[1].weight.detach(), one_process, [Shard(0)]))
    tensors[1].bias = nn.Parameter(distribute_tensor(tensors[1].bias.detach(), one_process, [Shard(0)]))
    inside = nn.Sequential(linear(lambda m: None), nn.parallel.DistributedDataParallel(nn.Linear(8, 8)))
    for module in (second, tensors, inside, nn.parallel.DistributedDataParallel(fresh())):
        runner = TorchRunner(module, "float64")
        assert list(runner.parameters) == ["0.lin.weight", "0.lin.bias", "1.weight", "1.bias"]
        w = drawn(runner)
        expected = (IMAGES @ w["0.lin.weight"].T + w["0.lin.bias"]) @ w["1.weight"].T + w["1.bias"]
        np.testing.assert_allclose(logits(runner, w), expected)
    assert type(second).__name__ == "FSDPSequential"
    assert second[0].lin.weight.full_tensor().dtype == torch.float32
    with pytest.raises(CaptureError, match=r"sharded by FullyShardedDataParallel .* give the module that it wraps"):
        TorchRunner(FullyShardedDataParallel(fresh(), device_id=torch.device("cpu")), "float64")


# What cannot be followed


def quantised() -> nn.Module:
    with quiet():
        return torch.ao.quantization.quantize_dynamic(linear(lambda m: None), {nn.Linear})


def packed(m: Any) -> None:
    with quiet():
        m.register_buffer("packed", torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lazy": (lambda: nn.LazyLinear(4), r"weight has no shape yet: run it once, model\(images\)"),
    "meta": (lambda: nn.Linear(8, 8, device="meta"), "weight is on the meta device: give it values"),
    "no parameters": (nn.GELU, "holds no parameters: give a function of the images"),
    "quantised": (quantised, r"is quantised \(Linear in lin\).*\.save_trace\(.*weights='FILE'"),
    "quantised tensor": (lambda: linear(packed), r"is quantised: its packed is a Tensor of qint8.*save_trace"),
    "integers": (
        lambda: linear(lambda m: setattr(m, "w", nn.Parameter(torch.ones(8, dtype=torch.int8), requires_grad=False))),
        "its parameter w is of int8.*save_trace",
    ),
    "8 bits": (lambda: linear(lambda m: m.register_buffer("w", torch.ones(8).to(torch.float8_e4m3fn))), "w is of float8_e4m3fn"),
    "no tensor": (lambda: Module(lambda m, x: None), "the candidate returns no tensor: its logits"),
    "numpy": (
        lambda: Module(lambda m, x: m.lin(torch.from_numpy(np.tanh(x.numpy())))),
        "does not come from the images.*save_trace",
    ),
    "not of the images": (lambda: Module(lambda m, x: m.lin.weight), "does not come from the images.*save_trace"),
    "exception": (
        lambda: Module(lambda m, x: {}["q"]),
        r"^running the candidate raised KeyError: 'q' \(.*, line \d+, in <lambda>\)$",
    ),
    "more arguments": (
        lambda: type("Port", (nn.Linear,), {"forward": lambda self, x, mask: x})(8, 8),
        r"'mask'; it is called with the images alone: give a function, as lambda x: model\(x, …\)",
    ),
    "channels": (lambda: nn.Conv2d(1, 8, 3), "; it takes images of 1 channel, and the reference takes 3 channels$"),
    "channels inside": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(6, 4, 3)),
        r"; in 1 \(Conv2d\): it takes 6 channels and got 4; 6 is the size of the last axis, where b h w c has its channels$",
    ),
    "features": (
        lambda: nn.Sequential(OrderedDict(to_k=nn.Sequential(nn.Linear(8, 16), nn.Linear(20, 4)))),
        r"; in to_k.1 \(Linear\): it takes 20 features and got 16$",
    ),
    "channels of a norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.LayerNorm(6)),
        r"; in 1 \(LayerNorm\): it normalises 6 channels and got 8; axis 1 has that size: .* the map is b c h w$",
    ),
    "positions": (
        lambda: Module(lambda m, x: m.lin(x) + m.table, lambda m: setattr(m, "table", nn.Parameter(torch.ones(1, 3, 7, 8)))),
        "; table is 1 3 7 8 and meets 2 3 8 8: it may be for images of another size than 8 × 8; images= gives others$",
    ),
    "two maps": (lambda: Module(lambda m, x: m.lin(x) + x[..., :7]), "; 2 3 8 8 meets 2 3 8 7$"),
    "a reshape": (
        lambda: Module(lambda m, x: m.lin(x).view(2, 7, 7, -1)),
        r"; an array 2 3 8 8 is seen as \[2, 7, 7, -1\]: it may be for images of another size than 8 × 8",
    ),
    "a cast": (
        lambda: nn.Sequential(Module(lambda m, x: m.lin(x.float()))),
        r"; in 0.lin \(Linear\): float64 and float32 meet, so it casts on its way, .* dtype='own' compares it as it is$",
    ),
    "a convolution of a cast": (
        lambda: nn.Sequential(Module(lambda m, x: x.float()), nn.Conv2d(3, 4, 1)),
        r"; in 1 \(Conv2d\): two dtypes meet, so it casts on its way",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    build, words = REFUSED[name]
    candidate = build()
    with pytest.raises(CaptureError, match=words) as raised:
        TorchRunner(candidate, "float64").record(IMAGES, {})
    assert "\n" not in str(raised.value)
    assert "--weights FILE" in raised.value.in_flags() or "weights=" not in str(raised.value)


def test_an_operation_that_is_not_there_in_16_bits() -> None:
    runner = TorchRunner(Module(lambda m, x: torch.linalg.svdvals(m.lin(x))), "float16")
    with pytest.raises(CaptureError, match=r"not there in the dtype: dtype='float32' is there for every one$") as raised:
        runner.record(IMAGES, {})
    assert raised.value.in_flags().endswith("--dtype float32 is there for every one")


def test_a_failed_run_leaves_nothing_behind() -> None:
    turns = iter([True, False, False])
    outside = torch.zeros(8, dtype=torch.float64)

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        outside.add_(1)
        if next(turns):
            raise ValueError
        return m.lin(x) + outside  # type: ignore[no-any-return]

    runner = TorchRunner(Module(forward), "float64")
    runner._channels_last, runner._dry = True, False
    with pytest.raises(CaptureError):
        runner.record(IMAGES, {})
    runner._channels_last = False
    logits(runner, {})
    assert outside.tolist() == [0.0] * 8
    assert torch.is_grad_enabled()


def test_the_line_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scalablevit_ref.testing.traces

    monkeypatch.chdir(tmp_path)
    exec(TRACE, {"model": nn.Linear(8, 8), "images": torch.ones(2, 3, 8, 8), "scalablevit_ref": scalablevit_ref})
    with np.load("mine.npz") as file:
        assert sorted(file) == ["images", "logits"]


# Images and what is returned


def test_images_with_their_channels_last() -> None:
    images = random_images((2, 3, 5, 7))
    module = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
    runner = TorchRunner(module, "float64")
    graph = runner.record(images, {})
    assert graph.notes == ("it takes its images as b h w c, and was fed them so",)
    assert graph.shapes[graph.images] == (2, 5, 7, 3)
    out = module.double()(torch.from_numpy(images.transpose(0, 2, 3, 1))).detach().numpy()
    np.testing.assert_allclose(logits(runner, {}, images), out)


Named = namedtuple("Named", ["features", "pred"])


@dataclass
class Output:
    loss: Any
    logits: Any
    hidden_states: Any


class Own:
    def __init__(self, x: Any) -> None:
        self.scores, self.maps = x, [x]


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (lambda x, y: x, {"logits": 2}),
        (lambda x, y: {"logits": x, "hidden_states": None}, {"logits": 2}),
        (lambda x, y: {"hidden_states": (y, y), "prediction": x}, {"hidden_states.0": 4, "hidden_states.1": 4, "logits": 2}),
        (lambda x, y: Output(None, x, [y]), {"logits": 2, "hidden_states.0": 4}),
        (lambda x, y: Named(y, x), {"features": 4, "logits": 2}),
        (lambda x, y: Own(x), {"logits": 2, "maps.0": 2}),
        (lambda x, y: (x, {"aux": x}), {"logits": 2, "outputs.1.aux": 2}),
        (lambda x, y: (y, y, y), {"maps.0": 4, "maps.1": 4, "maps.2": 4}),
        (lambda x, y: [x, y], {"logits": 2, "maps.0": 4}),
        (lambda x, y: [y], {"maps.0": 4}),
        (lambda x, y: {"0": y, "1": y}, {"maps.0": 4, "maps.1": 4}),
        (lambda x, y: {"out": y, "name": "port", "n": 3}, {"out": 4}),
        (lambda x, y: {"a": [{"b": x}], "c": x}, {"logits": 2, "c": 2}),
    ],
)
def test_what_is_returned_is_named(returned: Callable[[Any, Any], Any], names: dict[str, int]) -> None:
    module = Module(lambda m, x: returned(m.lin(x)[:, 0, 0], m.lin(x)))
    graph = TorchRunner(module, "float64").record(IMAGES, {})
    assert {name: len(graph.shapes[value]) for name, value in graph.outputs.items()} == names

"""Foreign ports in MLX, modules and functions, held against the reference: right ones agree, a slip is named where it is made."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.compare.capture import Captured, CaptureError, Conditions, candidate_of
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import EPS, random_images, random_params
from tests.support.small_network import small_network

pytest.importorskip("mlx.core")

import mlx.core as mx
from mlx import nn, utils

from scalablevit_ref.adapters.mlx import ScalableViT
from scalablevit_ref.compare.capture.mlx import MlxFunction, MlxModule, is_mlx_function
from scalablevit_ref.compare.capture.mlx_on_host import ELEMENTWISE, MOVED, OF_ARGUMENTS, RESHAPED, SAME
from scalablevit_ref.compare.capture.mlx_program import program
from scalablevit_ref.compare.capture.mlx_runner import MlxRunner, held_by
from scalablevit_ref.compare.capture.mlx_trace import traced

ROOT = Path(__file__).resolve().parents[2]
CONFIG = small_network(head="linear")
IMAGES = random_images((3, 3, 16, 16))  # no map as large as the batch: every layout shows in the shape
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
MODULES, FUNCTIONS = ROOT / "docs" / "examples" / "mlx_port.py", ROOT / "tests" / "support" / "mlx_ports.py"


def loaded(path: Path, folder: Path | None = None, slip: tuple[str, str] | None = None) -> ModuleType:
    """A port's file, in which this is written instead of that."""
    if slip is not None:
        assert folder is not None
        text = path.read_text(encoding="utf-8")
        assert text.count(slip[0]) == 1
        path = folder / path.name
        path.write_text(text.replace(*slip), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def module_port(*slip: Any) -> nn.Module:
    port: nn.Module = loaded(MODULES, *slip).Port(CONFIG, eps=1e-6)
    return port


def function_port(*slip: Any) -> Callable[[Any], Any]:
    port: Callable[[Any], Any] = loaded(FUNCTIONS, *slip).function_port(PARAMS, CONFIG)
    return port


def compared(port: Any, **options: Any) -> Report:
    return compare(port, variant=CONFIG, images=IMAGES, **options)


def adapter() -> nn.Module:
    return ScalableViT.from_params(PARAMS, CONFIG)


@pytest.mark.parametrize("build", [adapter, module_port, function_port], ids=["adapter", "modules", "function"])
def test_a_right_port(build: Callable[[], Any]) -> None:
    """In float64 to its own digits, which MLX's functions do not have there."""
    report = compared(build())
    assert report.agrees, str(report)
    assert report.dtype == "float64"
    assert not report.left_out
    assert len(report.rows) == 27


@pytest.mark.parametrize("dtype", ["own", "bfloat16"])
def test_in_another_dtype(dtype: str) -> None:
    """There MLX computes; in 16 bits the specification's tolerance holds."""
    for build in (module_port, function_port)[: 2 if dtype == "own" else 1]:
        report = compared(build(), dtype=dtype, weights=PARAMS)
        assert report.agrees, str(report)
        assert report.dtype == ("float32" if dtype == "own" else dtype)


SLIPS: dict[str, tuple[Any, tuple[str, str], str, str]] = {
    "head order": (
        module_port,
        ("x.reshape(b, n, heads, c // heads).transpose(0, 2, 1, 3)", "x.reshape(b, n, c // heads, heads).transpose(0, 3, 1, 2)"),
        "stages.0.0.attn",
        "heads are interleaved when they are split",
    ),
    "LIM on x": (
        module_port,
        ("self.local(qkv[..., 2 * c :])", "self.local(x)"),
        "stages.0.0.attn",
        "LIM convolves the input instead of the values",
    ),
    "GELU": (module_port, ("nn.GELU()", 'nn.GELU(approx="precise")'), "stages.0.0.mlp", "GELU is the tanh approximation"),
    "PEG": (module_port, ("x = x + self.peg(x)", "x = self.peg(x)"), "pos_block.0", "PEG has no identity"),
    "variance": (
        function_port,
        ("x.var(axis=-1, keepdims=True)", "x.var(axis=-1, keepdims=True, ddof=1)"),
        "patch_embeds.0",
        "the variance is the unbiased one",
    ),
    "softmax": (
        function_port,
        ("mx.softmax(q @ k.swapaxes(-1, -2) * scale, axis=-1)", "mx.softmax(q @ k.swapaxes(-1, -2) * scale, axis=-2)"),
        "stages.0.0.attn",
        "over the queries",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_where_it_is(slip: str, tmp_path: Path) -> None:
    build, change, layer, words = SLIPS[slip]
    report = compared(build(tmp_path, change))
    assert report.first is not None
    assert report.first.layer == layer, str(report)
    assert words in str(report)


def capture(candidate: Any, **settings: Any) -> Captured:
    given = {"network": network_of(CONFIG), "images": IMAGES, "dtype": "float64"} | settings
    with ExitStack() as files:
        found: Captured = candidate_of(candidate).capture(Conditions(**given), files)
    return found


def test_a_kernel_whose_shape_is_official_by_chance() -> None:
    """Of 3 x 3 pixels and 3 channels, o h w i is as large as o i h w: it lies as the candidate's other kernels do."""
    config = small_network(head="linear", patch_size=2)
    report = compare(ScalableViT(config, seed=7), variant=config, images=random_images((2, 3, 16, 16)))
    assert report.agrees, str(report)


def test_layers_are_called_after_modules_and_lines() -> None:
    captured = capture(module_port(), weights=PARAMS)
    assert captured.modules["stages.0.1.attn"] == "stages.0.layers.1.mixer"
    assert captured.modules["pos_block.1"].startswith("stages.1")
    graph = captured.followed.graph
    lines = {operation.line for operation in graph.operations if operation.kind == "product"}
    assert all(line.startswith("mlx_port.py, line ") for line in lines)
    assert {line.rpartition(" ")[2] for line in lines} >= {"attend", "__call__"}
    inside = {operation.module for operation in graph.operations if operation.kind == "convolution"}
    assert {"stages.0.down", "stages.1.layers.0.mixer.local", "stages.1.peg"} <= inside


def compiled() -> Any:
    return mx.compile(function_port())


def of_numpys_arrays() -> Any:
    """The weights lie outside of MLX, and are copied in at each call."""
    tree = loaded(FUNCTIONS).tree_of(PARAMS, CONFIG)
    held, forward = utils.tree_map(np.array, tree), loaded(FUNCTIONS).forward
    return lambda images: forward(utils.tree_map(mx.array, held), images, CONFIG)


class Holding:
    """A method of an object that holds its weights in a list."""

    def __init__(self) -> None:
        port = loaded(FUNCTIONS)
        self.weights, self.forward = [port.tree_of(PARAMS, CONFIG)], port.forward

    def run(self, images: Any) -> Any:
        return self.forward(self.weights[0], images, CONFIG)


WAYS = [compiled, of_numpys_arrays, lambda: Holding().run, lambda: partial(run_module, module_port())]


@pytest.mark.parametrize("build", WAYS)
def test_where_a_function_may_have_its_weights(build: Callable[[], Any]) -> None:
    report = compared(build())
    assert report.kind == "MLX function"
    assert report.agrees, str(report)
    assert len(report.rows) == 27


def run_module(module: Any, images: Any) -> Any:
    return module(images)


def test_kinds() -> None:
    assert isinstance(candidate_of(module_port()), MlxModule)  # which is a mapping, too
    assert isinstance(candidate_of(function_port()), MlxFunction)
    assert not is_mlx_function(lambda x: x)
    assert not is_mlx_function(3)


def test_a_candidate_is_left_as_it_was() -> None:
    """Its arrays, its modes and MLX's random numbers; and MLX's functions are its own again."""
    port, function = module_port(), function_port()
    port.train()
    port.stages[0].layers[0].eval()
    before: Any = [(name, np.array(x)) for name, x in utils.tree_flatten(port.parameters())]
    held = {name: np.array(x) for name, x in held_by(function).items()}
    own = mx.matmul, mx.array.__add__, mx.fast.layer_norm, mx.fast.scaled_dot_product_attention, nn.Linear.__call__
    random = np.array(mx.random.state[0])
    compared(port)
    compared(function)
    after: Any = utils.tree_flatten(port.parameters())
    assert all(
        name == other and np.array_equal(x, y) and y.dtype == mx.float32
        for (name, x), (other, y) in zip(before, after, strict=True)
    )
    assert [module.training for module in (port, port.stages[0].layers[0], port.stages[0].layers[1])] == [True, False, True]
    assert all(np.array_equal(held[name], x) for name, x in held_by(function).items())
    assert own == (mx.matmul, mx.array.__add__, mx.fast.layer_norm, mx.fast.scaled_dot_product_attention, nn.Linear.__call__)
    assert np.array_equal(random, np.array(mx.random.state[0]))


def test_what_cannot_be_followed_is_said(tmp_path: Path) -> None:
    quantised = ScalableViT("digits")
    nn.quantize(
        quantised, 32, class_predicate=lambda name, module: isinstance(module, nn.Linear) and module.weight.shape[1] % 32 == 0
    )
    with pytest.raises(CaptureError, match=r"is quantised \(nn\.QuantizedLinear\).*adapters\.mlx\.quantise tells"):
        capture(quantised)
    with pytest.raises(CaptureError, match="holds no parameters"):
        capture(nn.GELU())
    looks = ("        x = self.ln(self.down(x))", "        x = self.ln(self.down(x)) * (1 if x.sum().item() else 0)")
    with pytest.raises(CaptureError, match=r"looks at values while it runs.*mlx_port\.py, line \d+, in __call__.*leave out \.item"):
        capture(module_port(tmp_path, looks))
    transformed = ("        x = self.ln(self.down(x))", "        x = mx.fft.irfft(mx.fft.rfft(self.ln(self.down(x))))")
    with pytest.raises(CaptureError, match=r"MLX's primitive \w+ is not followed \(mlx_port\.py, line \d+, in __call__\)"):
        capture(module_port(tmp_path, transformed))
    broken = ("        x = self.ln(self.down(x))", "        x = self.ln(self.down(x)) + mx.zeros((7, 7))")
    with pytest.raises(CaptureError, match=r"runs with no layout of the images|mlx_port\.py, line \d+, in __call__"):
        capture(module_port(tmp_path, broken))


def test_a_function_that_is_not_followed_is_held_by_what_it_gives() -> None:
    inner = function_port()

    def port(images: Any) -> Any:
        return np.array(inner(mx.array(np.array(images).transpose(0, 2, 3, 1).astype("float32"))))

    report = compared(port, weights=PARAMS)
    assert [row.layer for row in report.rows] == ["logits"]
    assert "not followed inside" in str(report)
    with pytest.raises(CaptureError, match="weights must be given for a function that is not followed inside"):
        compared(port)
    tree, forward = loaded(FUNCTIONS).tree_of(PARAMS, CONFIG), loaded(FUNCTIONS).forward
    run = mx.vmap(lambda image: forward(tree, image[None], CONFIG)[0])  # of images b h w c
    report = compared(lambda images: run(images) + 0 * tree["classes"]["b"], weights=PARAMS)
    assert report.agrees, str(report)
    assert [row.layer for row in report.rows] == ["logits"]


def test_dropout_that_is_always_on_is_told(tmp_path: Path) -> None:
    drop = (
        'return dense(nn.gelu(dense(x, p["up"])), p["down"])',
        'return dense(nn.Dropout(0.5)(nn.gelu(dense(x, p["up"]))), p["down"])',
    )
    before = np.array(mx.random.state[0])
    report = compared(function_port(tmp_path, drop))
    assert np.array_equal(before, np.array(mx.random.state[0]))
    assert "random numbers enter what it returns (mlx_ports.py, line" in str(report)
    assert not report.agrees


X, Y = (np.random.default_rng(seed).standard_normal((2, 4, 6, 8)) for seed in (0, 1))
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "Abs": lambda x, y: abs(x),
    "Add": lambda x, y: x + y,
    "Ceil": lambda x, y: mx.ceil(x),
    "Cos": lambda x, y: mx.cos(x),
    "Divide": lambda x, y: x / y,
    "Equal": lambda x, y: mx.where(x == mx.maximum(x, y), x, y),
    "Erf": lambda x, y: mx.erf(x),
    "Exp": lambda x, y: mx.exp(x),
    "Expm1": lambda x, y: mx.expm1(x),
    "Floor": lambda x, y: mx.floor(3 * x),
    "Greater": lambda x, y: mx.where(x > y, x, y),
    "GreaterEqual": lambda x, y: mx.where(x >= y, x, y),
    "Less": lambda x, y: mx.where(x < y, x, y),
    "LessEqual": lambda x, y: mx.where(x <= y, x, y),
    "Log": lambda x, y: mx.log(abs(x)) + mx.log2(abs(x)) + mx.log10(abs(y)),
    "Log1p": lambda x, y: mx.log1p(abs(x)),
    "LogAddExp": lambda x, y: mx.logaddexp(x, y),
    "LogSumExp": lambda x, y: mx.logsumexp(x, axis=-1),
    "LogicalAnd": lambda x, y: mx.where(mx.logical_and(x > 0, y > 0), x, y),
    "LogicalNot": lambda x, y: mx.where(mx.logical_not(x > 0), x, y),
    "LogicalOr": lambda x, y: mx.where(mx.logical_or(x > 0, y > 0), x, y),
    "Matmul": lambda x, y: x @ y.swapaxes(-1, -2),
    "Maximum": lambda x, y: mx.maximum(x, y),
    "Minimum": lambda x, y: mx.minimum(x, y),
    "Multiply": lambda x, y: x * y,
    "Negative": lambda x, y: -x,
    "NotEqual": lambda x, y: mx.where(x != mx.minimum(x, y), x, y),
    "Power": lambda x, y: abs(x) ** y,
    "Remainder": lambda x, y: x % 0.75,
    "Select": lambda x, y: mx.where(x > 0, x, y),
    "Sigmoid": lambda x, y: mx.sigmoid(x),
    "Sign": lambda x, y: mx.sign(x),
    "Sin": lambda x, y: mx.sin(x),
    "Softmax": lambda x, y: mx.softmax(x, axis=-1),
    "Square": lambda x, y: mx.square(x),
    "Subtract": lambda x, y: x - y,
    "Tanh": lambda x, y: mx.tanh(x),
    "AddMM": lambda x, y: mx.addmm(y[0, 0, 0], x, y[0, 0, :2].swapaxes(0, 1) @ y[0, 1, :2], alpha=0.5, beta=3.0),
    "Convolution": lambda x, y: mx.conv2d(x, y.transpose(2, 0, 1, 3)[:, :, :3], padding=(1, 0), stride=(1, 2)),
    "Convolution, depthwise": lambda x, y: mx.conv2d(x, y.transpose(3, 0, 1, 2)[:, :, :3, :1], groups=8),
    "Convolution, dilated": lambda x, y: mx.conv_general(x, y[:, :2, :2], padding=([1, 2], [0, 1]), kernel_dilation=2, stride=2),
    "Convolution, transposed": lambda x, y: mx.conv_transpose2d(x, y[:, :2, :3], stride=2, padding=1),
    "Reduce": lambda x, y: (
        x.max((1, 2)) + y.min((1, 2)) + x.sum((1, 2)) + y.prod((1, 2)) + mx.all(x > 0, (1, 2)) + mx.any(y > 1, (1, 2))
    ),
    "Sqrt": lambda x, y: mx.sqrt(abs(x)) + mx.rsqrt(abs(y)),
    "Concatenate": lambda x, y: mx.concatenate([x, y], axis=2),
    "ExpandDims": lambda x, y: mx.stack([x, y], axis=1),
    "Gather": lambda x, y: x[:, mx.array([1, 0, -1])] + mx.take(y, mx.array([2, 1, 0]), axis=1),
    "GatherAxis": lambda x, y: mx.take_along_axis(x, mx.argmax(y, axis=1, keepdims=True), axis=1),
    "Pad": lambda x, y: (
        mx.pad(x, [(0, 0), (1, 2), (0, 0), (3, 0)]) + mx.pad(y, [(0, 0), (1, 2), (0, 0), (3, 0)], constant_values=2.0)
    ),
    "Slice": lambda x, y: x[:, ::-1, 1:5:2] + y[:, :, 1:3],
    "SliceUpdate": lambda x, y: x.at[:, 1].add(y[:, 2]).at[0, :, ::2].multiply(2.0).at[1].maximum(y[0]).at[0].minimum(y[1]),
    "Split": lambda x, y: mx.roll(x, 1, axis=2) + mx.split(y, 1, axis=3)[0],
    "Squeeze": lambda x, y: x[:, :1].squeeze(1),
    "Transpose": lambda x, y: x.transpose(0, 3, 1, 2),
    "Full": lambda x, y: x + mx.zeros((8,)),
    "StopGradient": lambda x, y: mx.stop_gradient(x) + mx.contiguous(y),
    "Reshape": lambda x, y: x.reshape(8, -1),
    "Flatten": lambda x, y: x.flatten(1, 2),
    "Unflatten": lambda x, y: mx.unflatten(x, -1, (2, 4)),
    "Broadcast": lambda x, y: mx.repeat(x, 2, axis=1) + mx.tile(y, (1, 2, 1, 1)),
    "AsType": lambda x, y: x.astype(mx.bfloat16).astype(mx.float32),
    "Arange": lambda x, y: x + mx.arange(8) * 0.25,
    "ArgReduce": lambda x, y: mx.take_along_axis(x, mx.argmin(y, axis=2, keepdims=True), axis=2),
    "Scan": lambda x, y: mx.cumsum(x, axis=1) + mx.cumsum(y, axis=2, reverse=True),
    "layer_norm": lambda x, y: mx.fast.layer_norm(x, y[0, 0, 0], y[0, 0, 1], 1e-3),
    "rms_norm": lambda x, y: mx.fast.rms_norm(x, y[0, 0, 0], 1e-3),
    "attention": lambda x, y: mx.fast.scaled_dot_product_attention(x, y, y, scale=0.3),
    "causal attention": lambda x, y: mx.fast.scaled_dot_product_attention(x, y[:, :2], y[:, :2], scale=0.3, mask="causal"),
}


def test_every_primitive_has_a_call() -> None:
    """`Copy`, `Contiguous` and `Depends` come of nothing that a pass says."""
    missing = {*ELEMENTWISE, *OF_ARGUMENTS, *MOVED, *SAME, *RESHAPED} - CALLS.keys()
    assert missing == {"Copy", "Contiguous", "Depends"}


@pytest.mark.parametrize("name", CALLS)
def test_a_primitive_is_mlx_s(name: str) -> None:
    """By MLX the numbers that MLX gives itself, and by NumPy the same in float64."""
    call = CALLS[name]
    expected = np.array(call(mx.array(X.astype("float32")), mx.array(Y.astype("float32"))))
    for dtype in ("float32", "float64"):
        kind = getattr(mx, dtype)
        told = traced(lambda x: [call(held[0], x)], placed, [mx.zeros(X.shape, kind), mx.zeros(Y.shape, kind)], {})
        found = program(told, ["x"], ["y"], wide=dtype == "float64")
        assert (
            name.partition(",")[0] in {one["name"] for one in told.primitives}
            or name[0].islower()
            or name in ("Full", "StopGradient")
        )
        (y,) = found.evaluated(
            {"x": X.astype(dtype)}, Y.astype(dtype), found.outputs.values(), {}, exact=dtype == "float64"
        ).values()
        assert y.shape == expected.shape
        assert y.dtype == dtype
        error = np.abs(y - expected).max() / np.abs(expected).max()
        assert error <= (4 if dtype == "float32" else 64) * EPS["float32"], error
        assert name not in ELEMENTWISE or dtype == "float64" or np.array_equal(y, expected)


held: list[mx.array] = []


class placed:  # noqa: N801
    """Puts the first input where the call finds it."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def __enter__(self) -> None:
        held[:] = self.given

    def __exit__(self, *raised: object) -> None:
        held.clear()


def test_exact_in_float64() -> None:
    """What MLX computes in float32's digits there, NumPy does not: erf, exp, softmax, norms, convolutions, numbers in the code."""
    import torch

    x = torch.tensor(X)
    norm = torch.nn.functional.layer_norm(x[..., :6], (6,), eps=1e-3)  # a sixth is no number of float32
    attend = torch.nn.functional.scaled_dot_product_attention(x, x, x, scale=0.3)
    for call, expected in (
        (lambda x: mx.erf(x) * 0.3, torch.erf(x) * 0.3),
        (lambda x: mx.softmax(x, axis=-1), torch.softmax(x, -1)),
        (lambda x: mx.fast.layer_norm(x[..., :6], None, None, 1e-3), norm),
        (lambda x: mx.fast.rms_norm(x, None, 1e-3), x / ((x * x).mean(-1, keepdim=True) + 1e-3) ** 0.5),
        (lambda x: x + mx.arange(8) * 0.3, x + torch.arange(8, dtype=torch.float64) * 0.3),
        (lambda x: mx.fast.scaled_dot_product_attention(x, x, x, scale=0.3), attend),
        (lambda x: nn.gelu(x), torch.nn.functional.gelu(x)),
        (lambda x: nn.gelu_approx(x), torch.nn.functional.gelu(x, approximate="tanh")),
        (lambda x: x.var(axis=-1) ** 0.5, x.var(-1, unbiased=False) ** 0.5),
    ):
        told = traced(lambda x, call=call: [call(x)], placed, [mx.zeros(X.shape, mx.float64)], {})  # type: ignore[misc]
        found = program(told, [], ["y"], wide=True)
        (y,) = found.evaluated({}, X, found.outputs.values(), {}, exact=True).values()
        assert np.abs(y - expected.numpy()).max() <= 16 * EPS["float64"]


def test_values_can_be_replaced() -> None:
    port = module_port()
    runner = MlxRunner(port, "float64")
    graph = runner.record(IMAGES, {})
    (logits,) = graph.outputs.values()
    ends = {run.path: run.returned[0] for run in graph.modules}
    values, _ = runner.values(IMAGES, {}, [logits, ends["ln"]])
    changed, _ = runner.values(IMAGES, {}, [logits], {ends["ln"]: 2 * values[ends["ln"]]})
    bias = runner.parameters["classes.bias"]
    np.testing.assert_allclose(changed[logits] - bias, 2 * (values[logits] - bias), rtol=1e-12, atol=1e-12)
    assert runner.kind == "MLX module"

"""JAX code as a graph: what is recorded of small networks and of two ports, and that its values are those that were computed."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import scalablevit_ref as sv
from scalablevit_ref.compare.capture.flax_runner import flax_runner
from scalablevit_ref.compare.capture.graph import Graph, Operation, live
from scalablevit_ref.compare.capture.jax_functions import function_runner, is_jax_function
from scalablevit_ref.compare.capture.jax_graph import MOST_ANSWERS, JaxRunner
from scalablevit_ref.compare.capture.jax_program import MOST_UNROLLED
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.support.jax_ports import forward, headwise, headwise_port, tree_of

CONFIG = replace(sv.variant("digits"), window_sizes=(2, 2, 2, 1))
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 3, 4, 6))


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled() -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def runner_of(function: Callable[..., Any], *params: Any, images: np.ndarray = IMAGES) -> JaxRunner:
    """In float64: a function of parameters and images."""
    return function_runner(functools.partial(function, *params), images, "float64")


def recorded(function: Callable[..., Any], *params: Any) -> Graph:
    return runner_of(function, *params).record(IMAGES, {})


def all_values(runner: JaxRunner, graph: Graph, images: np.ndarray = IMAGES, **weights: np.ndarray) -> dict[int, np.ndarray]:
    return dict(runner.values(images, weights, [value for value, dtype in graph.dtypes.items() if dtype == "float64"])[0])


def names(operations: tuple[Operation, ...]) -> list[str]:
    return [operation.name for operation in operations]


# Operations


def products(p: Any, x: Any) -> Any:
    """Contractions over one axis and over two, with batch axes and without."""
    y = jnp.einsum("bchw,oc->bhwo", x, p["turned"])
    z = jnp.einsum("bhwo,hwk->bok", y, p["both"])
    return jnp.einsum("bok,bkm->bom", z, p["batched"])


def test_products_tell_their_axes() -> None:
    p = {"turned": weight(5, 3), "both": weight(4, 6, 7), "batched": weight(2, 7, 4)}
    runner = runner_of(products, p)
    graph = runner.record(IMAGES, {})
    values = all_values(runner, graph)
    operations = [operation for operation in graph.operations if operation.kind == "product"]
    assert len(operations) == 3
    for operation in operations:
        left, right = (values[value] for value in operation.inputs)
        (contracted, batch), letters = (operation.settings[key] for key in ("contracted", "batch")), "abcdefgh"
        of_left = letters[: left.ndim]
        of_right = list(letters[::-1][: right.ndim].upper())
        for axes in (contracted, batch):
            for a, b in zip(*axes, strict=True):
                of_right[b] = of_left[a]
        gone = {of_left[a] for a in contracted[0]}
        shared = [of_left[a] for a in batch[0]]
        rest = [letter for letter in (*of_left, *of_right) if letter not in gone and letter not in shared]
        expected = np.einsum(f"{of_left},{''.join(of_right)}->{''.join([*shared, *dict.fromkeys(rest)])}", left, right)
        np.testing.assert_allclose(values[operation.outputs[0]], expected, rtol=1e-12)
    assert sorted(len(operation.settings["contracted"][0]) for operation in operations) == [1, 1, 2]
    assert [len(operation.settings["batch"][0]) for operation in operations] == [0, 0, 1]


AXES = {
    ("NCHW", "OIHW", "NCHW"): ("bchw", "oihw", []),
    ("NHWC", "HWIO", "NHWC"): ("bhwc", "hwio", []),
    ("NCHW", "OHWI", "NHWC"): ("bchw", "ohwi", ["transpose"]),
}


@pytest.mark.parametrize("axes", AXES)
def test_convolutions_tell_their_axes_and_settings(axes: tuple[str, str, str]) -> None:
    x, w, after = AXES[axes]
    official = weight(6, 1, 3, 2)
    turned = official.transpose(["OIHW".index(letter) for letter in axes[1]])

    def convolved(p: Any, images: Any) -> Any:
        fed = images.transpose([("NCHW").index(letter) for letter in axes[0]])
        return lax.conv_general_dilated(fed, p, (2, 1), [(1, 2), (0, 1)], dimension_numbers=axes, feature_group_count=3)

    runner = runner_of(convolved, turned)
    graph = runner.record(IMAGES, {})
    (operation,) = (operation for operation in graph.operations if operation.kind == "convolution")
    settings = {"stride": (2, 1), "padding": ((1, 2), (0, 1)), "dilation": (1, 1), "groups": 3, "transposed": False}
    assert operation.settings == settings | {"x": x, "weight": w}
    assert names(graph.operations[graph.operations.index(operation) + 1 :]) == after
    plain = lax.conv_general_dilated(jnp.asarray(IMAGES), jnp.asarray(official), (2, 1), [(1, 2), (0, 1)], feature_group_count=3)
    values = all_values(runner, graph)
    made = values[operation.outputs[0]].transpose([x.index(letter) for letter in "bchw"])
    assert relative_l2(made, np.asarray(plain)) < 1e-5
    returned = np.asarray(plain).transpose([("NCHW").index(letter) for letter in axes[2]])
    assert relative_l2(values[graph.outputs["logits"]], returned) < 1e-5


def test_other_convolutions_are_other_operations() -> None:
    def upsampled(p: Any, x: Any) -> Any:
        return lax.conv_general_dilated(x, p, (1, 1), [(1, 1), (1, 1)], lhs_dilation=(2, 2))

    assert [operation.kind for operation in recorded(upsampled, weight(6, 3, 3, 3)).operations] == ["other"]


def arithmetic(p: Any, x: Any) -> Any:
    y = (1 - x) / p["gain"] * 3.0 - p["shift"]
    y = jnp.concatenate([jnp.pad(-y, ((0, 0), (0, 0), (1, 0), (0, 0))), jnp.roll(y, 1, -1)], axis=2)
    return jnp.flip(y[:, :, ::2].swapaxes(1, 2), 0).reshape(2, -1)


def test_arithmetic_and_moves() -> None:
    graph = recorded(arithmetic, {"gain": weight(6), "shift": weight(3, 1, 1)})
    by_name = dict(graph.parameters)
    told = [(op.kind, op.name, op.settings.get("inverse"), op.settings["scalars"]) for op in graph.operations if op.kind != "move"]
    assert told == [
        ("add", "sub", True, [1.0]),
        ("multiply", "div", True, []),
        ("multiply", "mul", False, [3.0]),
        ("add", "sub", True, []),
        ("multiply", "neg", False, [-1.0]),
    ]
    assert graph.operations[0].settings["turned"]
    assert {"pad", "concatenate", "rev", "transpose", "reshape"} <= {op.name for op in graph.operations if op.kind == "move"}
    # what a broadcast makes for a sum or a product alone is not shown: the parameter meets the data as it was before
    met = {value for op in graph.operations if op.kind in ("add", "multiply") for value in op.inputs}
    assert {by_name[value] for value in met if value in by_name} <= {"gain", "shift"}
    assert sorted(np.size(x) for x in graph.constants.values()) == [3, 6]


def test_a_broadcast_that_makes_the_shape_is_shown() -> None:
    def outer(p: Any, x: Any) -> Any:
        row, column = (jnp.broadcast_to(each, (4, 6)) for each in (p["row"], p["column"]))
        return x + row * column

    runner = runner_of(outer, {"row": weight(6), "column": weight(4, 1)})
    graph = runner.record(IMAGES, {})
    (product,) = (operation for operation in graph.operations if operation.name == "mul")
    shapes = [graph.shapes[value] for value in product.inputs]
    assert np.broadcast_shapes(*shapes) == graph.shapes[product.outputs[0]] == (4, 6)
    kept = recorded(lambda p, x: x + jnp.broadcast_to(p, (4, 6)) * jnp.broadcast_to(p, (4, 6)), weight(6))
    (product,) = (operation for operation in kept.operations if operation.name == "mul")
    assert {kept.shapes[value] for value in product.inputs} == {(4, 6)}
    assert "broadcast_in_dim" in names(kept.operations)


def test_constants_are_the_parameters_as_they_meet_data() -> None:
    def mixed(p: Any, x: Any) -> Any:
        fused = p["w"].reshape(3, 2, 5).transpose(1, 2, 0)
        y = jnp.einsum("bchw,oc->bhwo", x, fused[1]) * (1 + p["gain"])
        return y + jnp.flip(jnp.concatenate([p["a"], p["a"][::2].astype(jnp.bfloat16).astype(p["a"].dtype)]))[None]

    runner = runner_of(mixed, {"w": weight(3, 10), "gain": weight(5), "a": weight(3), "unused": weight(2)})
    graph = runner.record(IMAGES, {})
    assert [value.shape for value in graph.constants.values()] == [(5, 3), (5,), (1, 5)] or len(graph.constants) == 3
    values = all_values(runner, graph)
    for value, constant in graph.constants.items():
        np.testing.assert_array_equal(constant, values[value])
    assert list(runner.parameters) == ["w", "gain", "a", "unused"]


def test_other_images_are_another_run() -> None:
    runner = runner_of(lambda p, x: x * p, weight(1))
    logits = runner.record(IMAGES, {}).outputs["logits"]
    gain = runner.parameters["0"]
    for images in (IMAGES, IMAGES[:1], IMAGES[..., :3]):
        np.testing.assert_allclose(runner.values(images, {}, [logits])[0][logits], images * gain)


def test_what_runs_within_is_written_out() -> None:
    @jax.custom_vjp
    def doubled(x: Any) -> Any:
        return x + x

    doubled.defvjp(lambda x: (x + x, None), lambda _, g: (2 * g,))

    def nested(p: Any, x: Any) -> Any:
        y = jax.checkpoint(jax.jit(lambda y: doubled(jax.nn.relu(y)) @ p["w"]))(x)

        def body(c: Any, w: Any) -> Any:
            return c @ w, c.sum((0, 1))

        y, sums = lax.scan(body, y, p["layers"], reverse=True)
        return {"logits": y, "sums": sums}

    p = {"w": weight(6, 6), "layers": weight(3, 6, 6)}
    runner = runner_of(nested, p)
    graph = runner.record(IMAGES, {})
    assert not {"jit", "pjit", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "scan"} & set(names(graph.operations))
    assert sum(operation.kind == "product" for operation in graph.operations) == 4
    assert [value.shape for value in graph.constants.values()] == [(6, 6)] * 4
    values = all_values(runner, graph)
    y = np.maximum(IMAGES, 0) * 2 @ p["w"].astype("f8")
    sums = []
    for w in p["layers"][::-1].astype("f8"):
        sums.append(y.sum((0, 1)))
        y = y @ w
    assert relative_l2(values[graph.outputs["logits"]], y) < 1e-14
    assert relative_l2(values[graph.outputs["sums"]], np.stack(sums[::-1])) < 1e-14
    assert graph.notes == ("images were given as b c h w",)


def test_what_cannot_be_written_out_is_said() -> None:
    def opaque(p: Any, x: Any) -> Any:
        y, _ = lax.scan(lambda c, _: (c * p["gain"], None), x, None, length=MOST_UNROLLED + 1)
        return lax.cond(y.sum() > 0, lambda y: y @ p["w"], lambda y: y, y)

    runner = runner_of(opaque, {"gain": weight(6), "w": weight(6, 6)})
    graph = runner.record(IMAGES, {})
    first, second = graph.notes[1:]
    assert first.startswith("gain cannot be followed into scan (test_capture_jax_graph.py, line ")
    assert second.startswith("w cannot be followed into cond (")
    assert np.isfinite(all_values(runner, graph)[graph.outputs["logits"]]).all()


# Places


def hidden(x: Any) -> Any:
    return jax.nn.silu(x) * 2  # silu is compiled once, and its jaxpr used again


@jax.jit
def compiled(x: Any) -> Any:
    return jnp.sin(x)


def placed(p: Any, x: Any) -> Any:
    y = hidden(x @ p)
    y = jax.nn.silu(y) + compiled(y)
    return compiled(y)


def line(function: Any, offset: int) -> str:
    function = getattr(function, "__wrapped__", function)
    return f"test_capture_jax_graph.py, line {function.__code__.co_firstlineno + offset}, in {function.__name__}"


def test_lines_are_the_users_own() -> None:
    operations = [op for op in recorded(placed, weight(6, 6)).operations if op.name in ("dot_general", "logistic", "sin")]
    assert [(op.name, op.line) for op in operations] == [
        ("dot_general", line(placed, 1)),
        ("logistic", line(hidden, 1)),
        ("logistic", line(placed, 2)),
        ("sin", line(compiled, 2)),
        ("sin", line(compiled, 2)),
    ]


# Modules


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(4)(nn.LayerNorm()(x))


class Outer(nn.Module):
    """Its inner module runs twice, and once within remat."""

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        assert not train
        x = nn.Conv(4, (2, 2), name="stem_0")(x)
        inner = Inner(name="shared")
        x = inner(inner(x))
        x = nn.remat(Inner)(name="again")(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dense(5, name="out")(x.mean((1, 2)))


def bound(module: nn.Module, *shape: int, **settings: Any) -> nn.Module:
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(shape), **settings))
    fill = np.random.default_rng(0)
    return module.bind(jax.tree.map(lambda x: jnp.asarray(fill.uniform(0.5, 1, x.shape), x.dtype), variables))


def test_values_of_a_linen_module_are_those_that_it_keeps_itself() -> None:
    module = bound(Outer(), 2, 4, 6, 3, train=False)
    runner = flax_runner(module)
    graph = runner.record(IMAGES, {})
    assert (runner.kind, runner.dtype, graph.notes) == ("linen module", "float32", ("images were given as b h w c",))
    assert [run.path for run in graph.modules] == [
        "stem.0",
        "shared.LayerNorm.0",
        "shared.Dense.0",
        "shared",
        "shared.LayerNorm.0",
        "shared.Dense.0",
        "shared",
        "again.LayerNorm.0",
        "again.Dense.0",
        "again",
        "BatchNorm.0",
        "out",
    ]
    runs = {run.path: run for run in graph.modules}
    assert runs["again"].returned == runs["again.Dense.0"].returned == runs["BatchNorm.0"].given
    inner, variables = module.unbind()
    x = jnp.asarray(IMAGES.transpose(0, 2, 3, 1), jnp.float32)
    logits, kept = inner.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    values, seconds = runner.values(IMAGES, {}, [value for value, dtype in graph.dtypes.items() if dtype == "float32"])
    assert seconds > 0
    assert relative_l2(values[graph.outputs["logits"]], np.asarray(logits)) < 1e-6
    ours: dict[str, list[np.ndarray]] = {}
    for run in graph.modules:
        ours.setdefault(run.path, []).append(values[run.returned[0]])
        assert run.given
    theirs = kept["intermediates"]
    for path, keys in {"stem.0": ["stem_0"], "shared": ["shared"], "shared.Dense.0": ["shared", "Dense_0"], "out": ["out"]}.items():
        outputs = functools.reduce(lambda at, key: at[key], keys, theirs)["__call__"]
        assert len(outputs) == len(ours[path])
        for mine, other in zip(ours[path], outputs, strict=True):
            assert relative_l2(mine, np.asarray(other)) < 1e-5
    assert {op.module for op in graph.operations if op.kind == "product"} == {"shared.Dense.0", "again.Dense.0", "out"}
    assert list(runner.parameters)[-2:] == ["BatchNorm.0.mean", "BatchNorm.0.var"]


class Within(nnx.Module):
    """Its modules run within transformations, which take them apart and put others together."""

    def __init__(self) -> None:
        self.rows, self.again = (nnx.Linear(6, 6, rngs=nnx.Rngs(0)) for _ in range(2))

        @nnx.vmap
        def several(keys: Any) -> nnx.Linear:
            return nnx.Linear(6, 6, rngs=nnx.Rngs(keys))

        self.several = several(jax.random.split(jax.random.key(0), 3))

    def __call__(self, x: Any) -> Any:
        x = nnx.jit(lambda module, x: module(x))(self.rows, x)
        x = nnx.remat(lambda module, x: module(x))(self.again, x)
        return nnx.scan(lambda x, module: module(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.several)


def test_parameters_that_are_stacked_are_parameters_one_by_one() -> None:
    runner, whole = (flax_runner(Within(), "float64") for _ in range(2))
    stacked = whole.parameters["several.weight"]
    runner.look(IMAGES)
    declared = [name.removeprefix("several.") for name in whole.parameters if name.startswith("several.")]
    assert sorted(declared) == ["bias", "weight"]
    parts = [f"several.{i}.{name}" for i in range(3) for name in declared]
    assert list(runner.parameters) == ["rows.weight", "rows.bias", "again.weight", "again.bias", *parts]
    assert runner.paths["several.2.weight"] == "several.2.kernel"
    graph = runner.record(IMAGES, {})
    assert not {"scan_slice", "scan_stack"} & {op.name for op in graph.operations}
    assert {"several.0.weight", "several.2.bias"} <= set(graph.parameters.values())
    other = {"several.1.weight": stacked[1] * 2}
    found = runner.values(IMAGES, other, graph.outputs.values())[0]
    stacked = stacked * np.array([1, 2, 1])[:, None, None]
    plain = whole.record(IMAGES, {})
    expected = whole.values(IMAGES, {"several.weight": stacked}, plain.outputs.values())[0]
    assert relative_l2(found[graph.outputs["logits"]], expected[plain.outputs["logits"]]) < 1e-14


def test_modules_of_nnx_within_transformations_keep_their_names() -> None:
    module = Within()
    before = {name: dict(vars(part)) for name, part in (("", module), ("rows", module.rows))}
    graph = flax_runner(module, "float64").record(IMAGES, {})
    assert [run.path for run in graph.modules] == ["rows", "again", *["several"] * 3]
    assert all(first.returned == then.given for first, then in itertools.pairwise(graph.modules))
    assert [op.module for op in graph.operations if op.kind == "product"] == ["rows", "again", *["several"] * 3]
    assert before == {name: dict(vars(part)) for name, part in (("", module), ("rows", module.rows))}


X = random_images((2, 1, 32, 64))
OFFICIAL = random_params(parameter_shapes(CONFIG), seed=1)


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    """The specification's own intermediates, by name."""
    found: dict[str, np.ndarray] = {}

    def tap(name: str, x: Any) -> Any:
        found[name] = np.asarray(x)
        return x

    found["logits"] = np.asarray(sv.scalable_vit(X, OFFICIAL, CONFIG, tap=tap))
    return found


def nearest(values: dict[int, np.ndarray], x: np.ndarray) -> float:
    return min(relative_l2(value.reshape(x.shape), x) for value in values.values() if value.size == x.size)


def test_a_port_in_plain_functions(layers: dict[str, np.ndarray]) -> None:
    runner = runner_of(functools.partial(forward, config=CONFIG), tree_of(OFFICIAL, CONFIG), images=X)
    assert list(runner.parameters)[:4] == [
        "stages.0.embed.w",
        "stages.0.embed.b",
        "stages.0.embed_norm.gamma",
        "stages.0.embed_norm.beta",
    ]
    assert len(runner.parameters) == len(OFFICIAL) + 2 * 2 * 4 + 2 * 2  # q, k and v apart, and k and v
    graph = runner.record(X, {})
    values = all_values(runner, graph, X)
    assert graph.modules == ()
    assert {op.line.rpartition(" ")[2] for op in graph.operations} >= {"dense", "conv", "norm", "attend", "windows", "forward"}
    for name, x in layers.items():
        assert nearest(values, x) < 1e-12, name
    assert relative_l2(values[graph.outputs["logits"]], layers["logits"]) < 1e-12


def test_a_port_in_nnx(layers: dict[str, np.ndarray]) -> None:
    port = headwise_port(CONFIG)
    before = {kind: vars(kind).get("__call__") for kind in (nnx.Linear, nnx.Conv, nnx.LayerNorm, type(port))}
    runner, weights = flax_runner(port, "float64"), headwise(OFFICIAL, CONFIG)
    assert runner.parameters.keys() == weights.keys()
    graph = runner.record(X, weights)
    assert graph.notes == ("images were given as b h w c",)
    values = all_values(runner, graph, X, **weights)
    for name, x in layers.items():
        assert nearest(values, x) < 1e-12, name
    returned = {run.path: values[run.returned[0]] for run in graph.modules}
    for k in range(4):
        assert relative_l2(returned[f"embed_norm.{k}"], layers[f"patch_embeds.{k}"]) < 1e-12
        assert relative_l2(returned[f"blocks.{k}.1.mixer"], layers[f"stages.{k}.1.attn"]) < 1e-12
    contracted = {op.settings["contracted"] for op in graph.operations if op.module.endswith("mixer.out") and op.kind == "product"}
    assert contracted == {((3, 4), (0, 1))}  # the heads and their channels at once
    assert before == {kind: vars(kind).get("__call__") for kind in before}
    assert not any(np.any(x) for x in jax.tree.leaves(nnx.state(port, nnx.Param)))
    assert not any(np.any(x) for x in runner.parameters.values())


def test_dtypes_and_weights() -> None:
    module = bound(Outer(), 2, 4, 6, 3, train=False)
    half = flax_runner(module, "bfloat16")
    graph = half.record(IMAGES, {})
    assert half.dtype == graph.dtypes[graph.images] == "bfloat16"
    assert {graph.dtypes[op.outputs[0]] for op in graph.operations if op.kind == "product"} == {"bfloat16"}
    wide = flax_runner(module, "float64")
    ones = {"out.bias": np.arange(5.0)}
    graph = wide.record(IMAGES, ones)
    (bias,) = (value for value in graph.constants if graph.shapes[value] == (1, 5))
    np.testing.assert_array_equal(graph.constants[bias], [ones["out.bias"]])
    logits = graph.outputs["logits"]
    plain, other = (wide.values(IMAGES, weights, [logits])[0][logits] for weights in ({}, ones))
    own = wide.parameters["out.bias"]
    np.testing.assert_allclose(other - plain, np.broadcast_to(ones["out.bias"] - own, other.shape), rtol=1e-9)


class Narrow(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2, dtype="float32")(x)


class NarrowNnx(nnx.Module):
    def __init__(self) -> None:
        self.inner = nnx.Linear(3, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.inner(x.transpose(0, 2, 3, 1))


def test_modules_that_are_told_their_dtype_are_told_another() -> None:
    for module in (bound(Narrow(), 2, 4, 6, 3), NarrowNnx()):
        graph = flax_runner(module, "float64").record(IMAGES, {})
        assert {dtype for value, dtype in graph.dtypes.items() if value in live(graph)} == {"float64"}
        assert graph.dtypes[graph.outputs["logits"]] == "float64"
    assert module.inner.dtype == jnp.float32


def test_operations_of_the_library_alone_have_no_line() -> None:
    graph = flax_runner(nnx.Linear(3, 2, rngs=nnx.Rngs(0))).record(IMAGES, {})
    assert {operation.line for operation in graph.operations} == {""}
    assert graph.notes == ("images were given as b h w c",)


class Twice(nnx.Module):
    """Names that would be the same in PyTorch's style; a buffer; an array that is no variable."""

    def __init__(self) -> None:
        self.table = nnx.data(jnp.arange(6.0))
        self.mean = nnx.BatchStat(jnp.ones(6))
        self.scale, self.kernel = nnx.Param(jnp.ones(6)), nnx.Param(jnp.eye(6))

    def __call__(self, x: Any) -> Any:
        return ((x - self.mean) * self.scale) @ self.kernel + self.table


def test_parameters_stand_before_buffers_and_keep_apart() -> None:
    runner = flax_runner(Twice())
    assert list(runner.parameters) == ["scale", "kernel", "table", "mean"]


# What the candidate does that a graph cannot hold


class Always(nn.Module):
    """Dropout that knows no evaluation."""

    used: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Dense(4)(x)
        dropped = nn.Dropout(0.5)(x, deterministic=False)
        return (dropped if self.used else x).mean((1, 2))


class AlwaysNnx(nnx.Module):
    def __init__(self) -> None:
        self.rngs, self.gain = nnx.Rngs(0), nnx.Param(jnp.ones(6))

    def __call__(self, x: Any) -> Any:
        return x * self.gain * jax.random.bernoulli(self.rngs(), 0.5, x.shape)


def test_dropout_that_is_always_on_is_said() -> None:
    words = (
        r"random numbers enter what it returns \(test_capture_jax_graph.py, line \d+, in __call__\): dropout or drop path is active"
    )
    for module, layout in ((bound(Always(), 2, 4, 6, 3), "b h w c"), (AlwaysNnx(), "b c h w")):
        runner = flax_runner(module)
        graph = runner.record(IMAGES, {})
        assert graph.notes == (f"images were given as {layout}",)
        assert re.fullmatch(words, runner.unrepeated(IMAGES, {}))
        assert any("random_bits" in op.name for op in graph.operations)
        runner.values(IMAGES, {}, graph.outputs.values())
    unused = flax_runner(bound(Always(used=False), 2, 4, 6, 3)).record(IMAGES, {})
    assert unused.notes == ("images were given as b h w c",)
    assert not any("random_bits" in op.name for op in unused.operations if live(unused).intersection(op.outputs))


def test_numbers_of_numpys_own_generator_are_noticed() -> None:
    rng = np.random.default_rng(0)

    def dropped(p: Any, x: Any) -> Any:
        return x @ p * float(rng.random())

    runner = runner_of(dropped, weight(6, 6))
    graph = runner.record(IMAGES, {})
    with pytest.raises(CaptureError, match=r"^the candidate does something else each time: dropout"):
        runner.values(IMAGES, {}, graph.outputs.values())


def looking(p: Any, x: Any) -> Any:
    y = x @ p["w"]
    if y.sum() > 0:
        y = -y
    return y * float(jnp.abs(p["w"]).max()) if y.mean() < 0 else y


def test_what_looks_at_values_is_told_them() -> None:
    methods = {name: getattr(jax.core.Tracer, name) for name in ("__bool__", "__float__", "__int__", "__index__")}
    w = weight(6, 6)
    runner = runner_of(looking, {"w": w})
    wide = w.astype(np.float64)
    for images in (IMAGES, -IMAGES):
        y = images @ wide
        graph = runner.record(images, {})
        values = all_values(runner, graph, images)
        assert relative_l2(values[graph.outputs["logits"]], -np.sign(y.sum()) * y * np.abs(wide).max()) < 1e-12
        assert graph.notes[1] == "it looks at 3 values, and may do something else on other images"
        assert ("neg" in names(graph.operations)) == (y.sum() > 0)
    assert methods == {name: getattr(jax.core.Tracer, name) for name in methods}


def endless(p: Any, x: Any) -> Any:
    while x.sum() != 0:
        x = x * p
    return x


def in_numpy(p: Any, x: Any) -> Any:
    return np.asarray(x) @ p


class InNumpy(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.eye(6))

    def __call__(self, x: Any) -> Any:
        return in_numpy(self.w[...], x)


class Broken(nnx.Module):
    """It fails after two of its modules, if it gets b h w c images, and before the first with others."""

    def __init__(self, early: bool = False) -> None:
        self.early, self.a, self.b = early, nnx.LayerNorm(3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        if self.early:
            raise KeyError("stage")
        return self.b(self.a(x)).reshape(7)


class LooksInside(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.ones(6))

    def __call__(self, x: Any) -> Any:
        assert float(x.sum()) < 1e9
        return jax.jit(lambda x: x if x.sum() > 0 else -x)(x) * self.w


class Endless(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.ones(6))

    def __call__(self, x: Any) -> Any:
        return endless(self.w[...], x)


class Silent(nnx.Module):
    def __call__(self, x: Any) -> Any:
        return x


class Wordy(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.ones(6))

    def __call__(self, x: Any) -> Any:
        return {"classes": jnp.argmax(x, 1), "note": "none"}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no values": (
        lambda: nnx.eval_shape(InNumpy),
        "^the candidate's w has a shape and no values: initialise it",
    ),
    "unbound": (Outer, r"^the linen module is not bound to its variables: give module.bind\(variables\)$"),
    "no parameters": (Silent, "^the candidate holds no parameters: give a function of the images instead$"),
    "no output": (Wordy, "^the candidate returns no array of floating point$"),
    "NumPy inside": (
        InNumpy,
        r"^JAX cannot trace the candidate, which takes values out of JAX, .* \(.*, line \d+, in in_numpy\): save .* np.savez\(",
    ),
    "looks inside jit": (
        LooksInside,
        r"^JAX cannot trace the candidate, which takes values out of JAX, .* in <lambda>\): save .*$",
    ),
    "endless": (Endless, f"^the candidate looks at more than {MOST_ANSWERS} values, which JAX cannot compile$"),
    "fails late": (
        Broken,
        r"^running the candidate raised TypeError: cannot reshape .* line \d+, in __call__\)$",
    ),
    "fails early": (lambda: Broken(early=True), r"^running the candidate raised KeyError: 'stage' \(.* line \d+, in __call__\)$"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_one_line(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(CaptureError, match=message) as error:
        flax_runner(make()).record(IMAGES, {})
    assert "\n" not in str(error.value)


# What is returned


@dataclass
class Result:
    logits: Any
    maps: tuple[Any, ...]
    name: str = "port"


OUTPUTS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "an array": (lambda y: y, ["logits"]),
    "one in a mapping": (lambda y: {"pred": y, "aux": None}, ["logits"]),
    "a tuple": (lambda y: (y, y * 2), ["0", "1"]),
    "a mapping": (lambda y: {"logits": y, "maps": [y * 2, y * 3]}, ["logits", "maps.0", "maps.1"]),
    "a dataclass": (lambda y: Result(y, (y * 2, y * 3)), ["logits", "maps.0", "maps.1"]),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_are_named_by_their_places(case: str) -> None:
    packed, expected = OUTPUTS[case]
    runner = runner_of(lambda p, x: packed(x @ p), weight(6, 6))
    graph = runner.record(IMAGES, {})
    assert list(graph.outputs) == expected
    values = all_values(runner, graph)
    first = values[graph.outputs[expected[0]]]
    for i, name in enumerate(expected):
        np.testing.assert_allclose(values[graph.outputs[name]], first * (i + 1))


# Functions


HEAD = jnp.asarray(weight(6, 2))


@jax.tree_util.register_pytree_with_keys_class
class Affine:
    """A pytree that can be called, as equinox's modules are."""

    def __init__(self, w: Any, b: Any) -> None:
        self.w, self.b = w, b

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey("w"), self.w), (jax.tree_util.GetAttrKey("b"), self.b)], None

    @classmethod
    def tree_unflatten(cls, _: Any, leaves: Any) -> Affine:
        return cls(*leaves)

    def __call__(self, x: Any) -> Any:
        return x @ self.w + self.b


class Holder:
    def __init__(self) -> None:
        self.w = weight(6, 2)

    def method(self, x: Any) -> Any:
        return jnp.asarray(x) @ self.w


P = {"z": {"w": weight(6, 2)}, "a": weight(2)}


def of_two(p: Any, x: Any) -> Any:
    return x @ p["z"]["w"] + p["a"]


def keyword(x: Any, w: Any) -> Any:
    return x @ w


def of_head(x: Any) -> Any:
    return jnp.asarray(x) @ HEAD


@jax.jit
def jitted(x: Any) -> Any:
    return x @ HEAD


PARTIAL = functools.partial(of_two, P)


def of_both(p: Any, x: Any) -> Any:
    return x @ p["kernel"] + p["scale"]


def computed(x: Any) -> Any:
    return x @ jnp.asarray(np.eye(6, dtype=np.float32)[:, :2] * 3)


FUNCTIONS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "partial": (functools.partial(of_two, P), ["z.w", "a"]),
    "partial with a keyword": (functools.partial(keyword, w=P["a"][None].repeat(6, 0)), ["w"]),
    "a pytree": (Affine(weight(6, 2), weight(2)), ["w", "b"]),
    "a closure": (lambda x: of_two(P, x), ["z.w", "a"]),
    "compiled": (jax.jit(lambda x: of_two(P, x)), ["z.w", "a"]),
    "of its module": (lambda x: x @ HEAD, ["HEAD"]),
    "compiled, and in a closure": (jax.jit(lambda x: jitted(x)), ["HEAD"]),
    "mapped": (jax.vmap(Affine(weight(6, 2), weight(2))), ["w", "b"]),
    "a partial in a closure": (lambda x: PARTIAL(x), ["z.w", "a"]),
    "a method": (Holder().method, ["w"]),
    "of another function": (lambda x: of_head(x), ["HEAD"]),
    "kernels and scales": (
        functools.partial(of_both, {"kernel": weight(6, 2), "scale": weight(1)}),
        ["kernel", "scale"],
    ),
    "neither": (computed, ["constant 0 (6, 2)"]),
}


@pytest.mark.parametrize("case", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_functions_arrays_are_its_parameters(case: str, dtype: str) -> None:
    function, expected = FUNCTIONS[case]
    runner = function_runner(function, IMAGES, dtype if dtype == "float64" else None)
    dtype = "float32" if case == "neither" else dtype
    assert is_jax_function(function) == (case != "neither")
    assert list(runner.parameters) == expected
    assert (runner.kind, runner.dtype) == ("JAX function", dtype)
    graph = runner.record(IMAGES, {})
    logits = graph.outputs["logits"]
    plain = runner.values(IMAGES, {}, [logits])[0][logits]
    assert plain.dtype == dtype
    assert relative_l2(plain, np.asarray(function(jnp.asarray(IMAGES)))) < 1e-6
    doubled = {name: x * 2 for name, x in runner.parameters.items()}
    assert relative_l2(runner.values(IMAGES, doubled, [logits])[0][logits], 2 * plain) < 1e-6
    assert sorted(graph.parameters.values()) == sorted(expected)
    assert {tuple(x.shape) for x in graph.constants.values()} <= {(6, 2), (2,), (1,), (1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 1)}


@pytest.mark.parametrize("function", [lambda x: np.asarray(x) @ np.ones((6, 2)), lambda x: x * 2, lambda x: x.nothing, len, 3])
def test_other_functions_are_left_as_they_are(function: Any) -> None:
    assert not is_jax_function(function)
    with pytest.raises(CaptureError):
        function_runner(function, IMAGES)


def test_a_function_that_uses_an_nnx_module_leaves_it_whole() -> None:
    class Split(nnx.Module):
        def __init__(self) -> None:
            self.inner = nnx.Linear(6, 2, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return nnx.jit(lambda module, x: module(x))(self.inner, x)

    module = Split()
    x = jnp.asarray(IMAGES)
    before = module(x)
    for function in (
        lambda x: module(x),
        module.__call__,
        nnx.jit(lambda x: module(x)),
        functools.partial(nnx.jit(Split.__call__), module),
    ):
        assert not is_jax_function(function)
        with pytest.raises(CaptureError, match=r"^it uses an nnx module: give the module itself$"):
            function_runner(function, IMAGES)
    np.testing.assert_array_equal(module(x), before)
    own = flax_runner(OnRows(module), "float64")
    graph = own.record(IMAGES, {})
    assert [operation.kind for operation in graph.operations if operation.kind != "move"] == ["product", "add"]
    assert (own.paths["inner.inner.weight"], own.paths["inner"]) == ("inner.inner.kernel", "inner")


class OnRows(nnx.Module):
    def __init__(self, inner: nnx.Module) -> None:
        self.inner: Any = inner

    def __call__(self, x: Any) -> Any:
        return self.inner(x)


def test_linens_apply_with_its_variables() -> None:
    module, variables = bound(Outer(), 2, 4, 6, 3, train=False).unbind()
    apply = functools.partial(module.apply, variables, train=False)
    runner = function_runner(lambda x: apply(x.transpose(0, 2, 3, 1)), IMAGES)
    assert {"params.stem.0.weight", "batch_stats.BatchNorm.0.mean"} <= runner.parameters.keys()
    whole = function_runner(apply, IMAGES, "float64")
    assert whole.dtype == "float64"
    assert whole.record(IMAGES, {}).notes == ("images were given as b h w c",)


def test_names_of_their_own() -> None:
    runner = flax_runner(bound(Outer(), 2, 4, 6, 3, train=False))
    graph = runner.record(IMAGES, {})
    assert runner.paths["stem.0"] == "stem_0"
    assert runner.paths["shared.Dense.0.weight"] == "shared.Dense_0.kernel"
    assert {run.path for run in graph.modules} | set(runner.parameters) <= runner.paths.keys()

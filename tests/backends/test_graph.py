"""The graph that the specification writes down: ONNX Runtime runs it as the specification, at its example's sizes and at others."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scalablevit_ref.backends.einops import rearrange, reduce
from scalablevit_ref.backends.graph import conv2d, linear
from scalablevit_ref.backends.nodes import Graph
from scalablevit_ref.backends.symbolic import Size, parts_of
from scalablevit_ref.backends.views import Array, array

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.adapters.onnx_model import onnx_model
from scalablevit_ref.adapters.onnx_runtime import onnx_runtime
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.testing import EPS, relative_l2, strategies
from scalablevit_ref.testing.arrays import assert_agrees
from tests.support.dialects import CONFIG, vit_params
from tests.support.drawn_ops import OPS

pytestmark = pytest.mark.usefixtures("as_in_production")

Params = dict[str, np.ndarray]


def written(
    function: Callable[..., Any], shape: tuple[Any, ...], params: Params, *, free: tuple[int, ...] = (), opset: int = 20
) -> tuple[Graph, Any]:
    """What a function of an array and parameters writes down, and its result; some axes of the array are free."""
    graph = Graph("float32", opset=opset)
    sizes = [graph.unknown(f"axis{i}", "images", i, n) if i in free else n for i, n in enumerate(shape)]
    found = function(array(graph, "images", sizes), {name: array(graph, name, x.shape) for name, x in params.items()})
    graph.name(found.plain().name, "found")
    return graph, found


def session(graph: Graph, params: Params) -> Any:
    weights = {name: np.asarray(x, np.float32) for name, x in params.items()}
    model = onnx_model(graph, weights, ["found"])
    return onnx_runtime().InferenceSession(model.SerializeToString())


def ran(function: Callable[..., Any], x: np.ndarray, params: Params, **options: Any) -> np.ndarray:
    graph, found = written(function, x.shape, params, **options)
    (y,) = session(graph, params).run(None, {"images": np.asarray(x, np.float32)})
    assert y.shape == tuple(map(int, found.shape))
    return np.asarray(y)


def rounded(case: strategies.Case) -> tuple[np.ndarray, Params]:
    """In float32's values, as float64."""
    x, params = case.x.astype("float32").astype("float64"), case.params
    return x, {name: value.astype("float32").astype("float64") for name, value in params.items()}


@pytest.mark.parametrize("opset", [18, 20])
@settings(max_examples=15)
@given(cases=OPS)
def test_each_op_is_its_definition(opset: int, cases: dict[str, strategies.Case]) -> None:
    for name, drawn in cases.items():
        case = drawn.but(content="normal")
        x, params = rounded(case)
        op = getattr(ops, name)

        def call(x: Any, p: Any, op: Any = op, case: Any = case) -> Any:
            return op(x, **p, **case.settings)

        assert_agrees(ran(call, x, params, opset=opset), op.definition(x, **params, **case.settings), dtype="float32")


@settings(max_examples=15)
@given(case=strategies.block_cases())
def test_blocks_that_are_drawn(case: strategies.Case) -> None:
    x, params = rounded(case.but(content="normal"))
    y = ran(lambda x, p: sv.block(x, p, **case.settings), x, params)
    assert relative_l2(y, sv.block(x, params, **case.settings)) <= 32 * EPS["float32"]


@settings(max_examples=8)
@given(case=strategies.network_cases())
def test_networks_that_are_drawn(case: strategies.Case) -> None:
    """With a free batch, a free height and a free width; and each of three batches."""
    x, params = rounded(case.but(content="normal"))
    graph, _ = written(lambda x, p: sv.scalable_vit(x, p, case.config), (1009, *x.shape[1:]), params, free=(0, 2, 3))
    runner = session(graph, params)
    for batch in (1, 2, 3):
        images = np.concatenate([x] * 3)[:batch]
        (y,) = runner.run(None, {"images": images.astype("float32")})
        assert relative_l2(y, sv.scalable_vit(images, params, case.config)) <= 32 * EPS["float32"]


@pytest.mark.parametrize("opset", [18, 20])
def test_a_port_is_written_by_the_same_code(opset: int) -> None:
    """Its 1 × 1 convolutions are products; its windows of no size are the whole map; the last norm has another name."""
    params = {name: x.astype("float32") for name, x in vit_params().items()}
    x = np.random.default_rng(0).standard_normal((2, 3, 23, 47)).astype("float32")
    y = ran(lambda x, p: vit_pytorch.scalable_vit(x, p, CONFIG), x, params, opset=opset)
    wide = {name: value.astype("float64") for name, value in params.items()}
    assert relative_l2(y, vit_pytorch.scalable_vit(x.astype("float64"), wide, CONFIG)) <= 32 * EPS["float32"]


def activations(graph: Graph) -> Counter[str]:
    """Operators on arrays that depend on the images."""
    live, found = {"images"}, Counter[str]()
    for node in graph.nodes:
        if live & set(node.inputs):
            live |= set(node.outputs)
            found[node.operator] += 1
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # q, k, v into windows, k turned, the windows back; the value map to the convolution and back
        ({"kind": "iwsa", "window_size": 7}, {"Transpose": 7, "Reshape": 11, "MatMul": 8, "Add": 9}),
        # q, k, v into heads, k turned, the heads back; the map to the convolutions and back
        ({"kind": "ssa", "sr_ratio": 2, "c_ratio": 1.25}, {"Transpose": 7, "Reshape": 7, "MatMul": 8, "Add": 8}),
    ],
)
def test_as_few_moves_as_there_can_be(settings: dict[str, Any], expected: dict[str, int]) -> None:
    shape = (2, 14, 14, 16)
    options = {"num_heads": 2, **settings}
    shapes = sv.parameters.block_shapes(16, hidden=32, **{k: v for k, v in options.items() if k != "window_size"})
    params = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    graph, _ = written(lambda x, p: sv.block(x, p, **options), shape, params)
    found = activations(graph)
    assert {name: found[name] for name in expected} == expected
    assert found["Split"] == found["Slice"] == found["Pad"] == 0


# Sizes


SIZES = st.recursive(
    st.sampled_from(["n", "m", 3, 7]),
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*", "//", "%"]), inner, inner | st.integers(1, 9)),
    max_leaves=6,
)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod}


def value(expression: Any, **known: Any) -> Any:
    if not isinstance(expression, tuple):
        return known.get(expression, expression)
    name, left, right = expression
    left, right = value(left, **known), value(right, **known)
    if name in ("//", "%"):
        right = max(1, int(right)) if not isinstance(right, Size) else 5
    return OPERATORS[name](left, right)


@settings(max_examples=60)
@given(expression=SIZES, n=st.integers(1, 60), m=st.integers(1, 60))
@example(expression=("//", ("-", 3, "n"), 4), n=9, m=1)
@example(expression=("%", ("-", 3, "n"), 4), n=9, m=1)
def test_a_size_is_computed_at_the_run(expression: Any, n: int, m: int) -> None:
    """As Python computes it, whatever the example was: floors and remainders of negative numbers too."""
    graph = Graph("float32", opset=20)
    sizes = {name: graph.unknown(name, "images", i, example) for i, (name, example) in enumerate((("n", 35), ("m", 14)))}
    found = value(expression, **sizes)
    assert int(found) == plain(expression, 35, 14)
    runner = onnx_runtime().InferenceSession(integer_model(graph, found))
    (y,) = runner.run(None, {"images": np.zeros((n, m), "float32")})
    assert y.tolist() == [plain(expression, n, m)]


def plain(expression: Any, n: int, m: int) -> int:
    """With the divisors that `value` takes where sizes are unknown."""
    if not isinstance(expression, tuple):
        return {"n": n, "m": m}.get(expression, expression)
    name, left, right = expression
    divisor = plain(right, n, m)
    if name in ("//", "%"):
        divisor = 5 if unknown(right) else max(1, divisor)
    return int(OPERATORS[name](plain(left, n, m), divisor))


def unknown(expression: Any) -> bool:
    graph = Graph("float32", opset=20)
    return isinstance(value(expression, n=graph.unknown("n", "images", 0, 35), m=graph.unknown("m", "images", 1, 14)), Size)


def integer_model(graph: Graph, size: Any) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    name = graph.integers([size])
    nodes = [
        helper.make_node(
            node.operator,
            node.inputs,
            node.outputs,
            **{k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in node.attributes.items()},
        )
        for node in graph.nodes
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", "m"])
    found = helper.make_tensor_value_info(name, TensorProto.INT64, [1])
    model = helper.make_model(
        helper.make_graph(nodes, "sizes", [images], [found]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    return bytes(model.SerializeToString())


def test_what_divides_is_found_out_by_asking() -> None:
    """Before the specification has asked, the remainder is one that is computed; afterwards there is none."""
    graph = Graph("float32", opset=20)
    n = graph.unknown("n", "images", 0, 21)
    rest = -n % 7
    assert isinstance(rest, Size)
    assert parts_of(n // 7 * 7) != parts_of(n)
    assert not n % 7
    assert isinstance(-n % 7, int) and not isinstance(-n % 7, Size)  # noqa: PT018
    assert parts_of(n // 7 * 7) == parts_of(n)
    assert n % 4  # 21 is not divisible by 4, which says nothing of other sizes
    assert isinstance(n % 4, Size)


def test_a_size_cannot_be_a_divisor() -> None:
    graph = Graph("float32", opset=20)
    n, m = graph.unknown("n", "images", 0, 21), graph.unknown("m", "images", 1, 7)
    assert parts_of(n * m // m) == parts_of(n)
    assert n * m % n == 0
    for divided in (operator.floordiv, operator.mod):
        with pytest.raises(TypeError, match="known at a run only can be divided by a whole number, not by m"):
            divided(n, m)


def test_sizes_as_text() -> None:
    graph = Graph("float32", opset=20)
    n = graph.unknown("height", "images", 2, 21)
    assert [str(size) for size in (n, n - 1 + 1, (n - 1) // 4 + 1, n * 3)] == [
        "height",
        "height",
        "(((height+-1)//4)+1)",
        "3*height",
    ]


# Views


def test_a_view_writes_nothing() -> None:
    graph = Graph("float32", opset=20)
    x = array(graph, "images", (2, 14, 14, 6))
    y = rearrange(x, "b (gh ph) (gw pw) (heads d) -> b gh gw heads (ph pw) d", ph=7, pw=7, heads=2)
    assert y.shape == (2, 2, 2, 2, 49, 3)
    back = rearrange(y, "b gh gw heads (ph pw) d -> b (gh ph) (gw pw) (heads d)", ph=7)
    assert (back.shape, back.plain().name, graph.nodes) == ((2, 14, 14, 6), "images", [])


@settings(max_examples=40)
@given(
    pattern=st.sampled_from(
        [
            "a b c d -> d c b a",
            "a (b e) c d -> e a (b c) d",
            "a b c (e d) -> (a e) d (c b)",
            "(e a) b c d -> b e (a d) c",
            "a b c d -> a b (c d)",
            "a b c (d e) -> a e c b d",
        ]
    ),
    split=st.integers(1, 3),
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
)
def test_views_are_einops(pattern: str, split: int, sizes: tuple[int, ...]) -> None:
    """Also of axes of one, which have no place in memory, and after one another."""
    known = {"e": split} if "e" in pattern else {}
    a, b, c, d = sizes
    shape = {"(e a)": (a * split, b, c, d), "(b e)": (a, b * split, c, d), "(e d)": (a, b, c, d * split)}
    shape["(d e)"] = shape["(e d)"]
    left = pattern.partition(" ->")[0]
    x = np.random.default_rng(0).standard_normal(next((shape[key] for key in shape if key in left), sizes)).astype("float32")

    def moved(x: Any, _: Any = None) -> Any:
        y = rearrange(x, pattern, **known)
        merged = rearrange(y, "... z -> z ...")
        return rearrange(merged, "z ... -> ... z") * 2.0

    assert np.array_equal(ran(moved, x, {}), moved(x))


def test_parts_of_an_array() -> None:
    x = np.arange(2 * 6 * 4, dtype="float32").reshape(2, 6, 4)
    for function in (
        lambda x, _=None: rearrange(x, "b n (two c) -> two b n c", two=2)[1, ...] * 1.0,
        lambda x, _=None: rearrange(x, "b (n three) c -> three b n c", three=3)[2] * 1.0,  # not the outer part
        lambda x, _=None: rearrange(x, "b n (one c) -> one b n c", one=1)[0] * 1.0,
        lambda x, _=None: rearrange(x, "b n c -> n b c")[1:5, :, :] * 1.0,
        lambda x, _=None: x[:, :, :2] * 1.0,
        lambda x, _=None: x[:, 0:6] * 1.0,
    ):
        assert np.array_equal(ran(function, x, {}), function(x))  # type: ignore[no-untyped-call]


def test_only_the_channels_that_are_used_are_computed() -> None:
    """A linear layer is not written before its output is used: of a third that is all that is multiplied."""
    weight, bias = np.arange(24, dtype="float32").reshape(6, 4), np.arange(6, dtype="float32")
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")

    def second(x: Any, p: Any) -> Any:
        return rearrange(ops.linear(x, **p), "b n (three c) -> three b n c", three=3)[1, ...]

    graph, _ = written(second, x.shape, {"weight": weight, "bias": bias})
    (product,) = [node for node in graph.nodes if node.operator == "MatMul"]
    assert graph.shapes[product.outputs[0]] == (2, 5, 2)
    assert_agrees(ran(second, x, {"weight": weight, "bias": bias}), (x @ weight.T + bias)[..., 2:4], dtype="float32")


def test_means() -> None:
    """Of axes that lie as one, as a part of one, as none."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32")
    for pattern in ("b h w c -> b c", "b h w c -> b h w", "b h w c -> h c"):
        assert_agrees(ran(lambda x, _, p=pattern: reduce(x, p, "mean"), x, {}), reduce(x, pattern, "mean"), dtype="float32")
    one = x[:, :1, :1, :]
    assert np.array_equal(ran(lambda x, _: reduce(x, "b h w c -> b c", "mean") * 1.0, one, {}), one[:, 0, 0, :])


def test_what_a_graph_cannot_say() -> None:
    graph = Graph("float32", opset=20)
    x = array(graph, "images", (2, 4, 6))
    with pytest.raises(NotImplementedError, match="no broadcasting"):
        x + array(graph, "c", (6,))
    for cut in (slice(None, None, 2), slice(-2, None)):
        with pytest.raises(NotImplementedError, match="from front to back in steps of 1"):
            x[cut]


def test_what_is_written_is_not_written_again() -> None:
    graph = Graph("float32", opset=20)
    x, weight = array(graph, "images", (2, 8, 8, 4)), array(graph, "weight", (4, 1, 3, 3))
    first, again = (conv2d(x, weight, padding=1, groups=4).plain().name for _ in range(2))
    assert first == again
    assert Counter(node.operator for node in graph.nodes) == {"Transpose": 2, "Conv": 1}
    assert isinstance(linear(x, array(graph, "w", (3, 4))), Array)

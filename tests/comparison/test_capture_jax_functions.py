"""Ports in plain JAX functions, however their parameters get into them: diagnosed as a Flax module is."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax.core import FrozenDict
from jax import lax

import scalablevit_ref as sv
from scalablevit_ref.compare.capture import CaptureError, candidate_of
from scalablevit_ref.compare.capture.jax_functions import JaxFunction
from scalablevit_ref.compare.capture.traces import Function
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support import jax_ports

CONFIG = replace(
    sv.variant("digits"),
    embed_dims=(16, 24),
    depths=(2, 2),
    num_heads=(2, 2),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(2, 2),
)
OFFICIAL = random_params(parameter_shapes(CONFIG), seed=1, dtype="float32")
TREE = jax.tree.map(jnp.asarray, jax_ports.tree_of(OFFICIAL, CONFIG))
IMAGES = random_images((3, 1, 16, 32))
SOURCE = Path(jax_ports.__file__).read_text(encoding="utf-8")


def edited(*edits: tuple[str, str]) -> ModuleType:
    """The port with these edits, as from a user's file of its own."""
    source = SOURCE
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    module = ModuleType("plain_port")
    exec(compile(source, "plain_port.py", "exec"), module.__dict__)
    return module


def compared(candidate: Any, **settings: Any) -> Report:
    return compare(candidate, variant=CONFIG, images=IMAGES, **settings)


forward = functools.partial(jax_ports.forward, config=CONFIG)
compiled = jax.jit(forward)


class Model:
    def __init__(self, params: Any) -> None:
        self.params = params

    def __call__(self, images: Any) -> Any:
        return forward(self.params, images)

    def predict(self, images: Any) -> Any:
        return compiled(self.params, images)


@jax.tree_util.register_dataclass
@dataclass
class Tree:
    """A pytree that can be called, as an Equinox module is."""

    params: Any

    def __call__(self, images: Any) -> Any:
        return forward(self.params, images)


def of_its_module(images: Any) -> Any:
    return forward(TREE, images)


@jax.jit
def inner(images: Any) -> Any:
    return forward(TREE, images) * 1


def in_closure(params: Any) -> Callable[[Any], Any]:
    return lambda images: forward(params, images)


def of_pixels(params: Any, images: Any) -> Any:
    return forward(params, jnp.moveaxis(images, -1, 1))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, images: Any) -> Any:
        return forward(self.param("tree", lambda _: TREE), images)


LINEN = Linen()
VARIABLES = {"params": {"tree": TREE}}

WAYS: dict[str, Callable[[], Any]] = {
    "partial": lambda: functools.partial(forward, TREE),
    "partial of a compiled one": lambda: functools.partial(compiled, TREE),
    "a compiled partial": lambda: jax.jit(functools.partial(forward, TREE)),
    "a compiled partial in a closure": lambda: (lambda port: lambda images: port(images))(
        jax.jit(functools.partial(forward, TREE))
    ),
    "closure": lambda: in_closure(TREE),
    "compiled closure": lambda: jax.jit(in_closure(TREE)),
    "NumPy's arrays": lambda: in_closure(jax.tree.map(np.asarray, TREE)),
    "a variable of its module": lambda: of_its_module,
    "a compiled function in another": lambda: lambda images: inner(images),
    "a pytree": lambda: Tree(TREE),
    "an object": lambda: Model(TREE),
    "a method": lambda: Model(TREE).predict,
    "b h w c images": lambda: functools.partial(of_pixels, TREE),
    "a frozen tree": lambda: functools.partial(forward, FrozenDict(TREE)),
    "linen's apply": lambda: functools.partial(LINEN.apply, VARIABLES),
    "linen's apply in a closure": lambda: jax.jit(lambda images: LINEN.apply(VARIABLES, images)),
    "rematerialised": lambda: functools.partial(jax.checkpoint(forward), TREE),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_right_port_agrees_in_every_layer(way: str) -> None:
    before = jax.tree.map(np.array, TREE)
    report = compared(WAYS[way]())
    assert report.agrees, report
    assert (report.kind, report.dtype, len(report.rows)) == ("JAX function", "float64", 27)
    assert jax.tree.all(jax.tree.map(np.array_equal, TREE, before))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(TREE))
    assert np.isfinite(forward(TREE, jnp.asarray(IMAGES, "float32"))).all()


TANH = ('block["up"]), approximate=False)', 'block["up"]))')
CROSSED = ("(t.reshape(*t.shape[:2], heads, -1) for", "(t.reshape(*t.shape[:2], -1, heads).swapaxes(2, 3) for")
ALONE = ('z + conv(v, p["local"], pad=1, groups=x.shape[-1])', "z")

SLIPS: dict[str, tuple[tuple[str, str], str, str, str]] = {
    "tanh GELU": (TANH, "stages.0.0.mlp", "stages.0.blocks.0.{up, down}", "GELU is the tanh approximation"),
    "epsilon": (
        ("eps: float = 1e-6", "eps: float = 1e-5"),
        "patch_embeds.0",
        "stages.0.{embed, embed_norm}",
        "LayerNorm's epsilon is 1e-5",
    ),
    "interleaved heads": (CROSSED, "stages.0.0.attn", "stages.0.blocks.0.mixer", "heads are interleaved when they are split and"),
    "no local module": (ALONE, "stages.0.0.attn", "stages.0.blocks.0.mixer", "LIM is missing"),
    "softmax over the queries": (
        ("* scale)", "* scale, axis=-2)"),
        "stages.0.0.attn",
        "stages.0.blocks.0.mixer",
        "softmax runs over the queries, not over the keys (this explains it to",
    ),
    "the shortcut twice": (
        ("x = x + conv(x, stage", "x = 2 * x + conv(x, stage"),
        "pos_block.0",
        "stages.0.position",
        "what stages.0.0 gives is added twice (this explains it to",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_where_it_is_made(slip: str) -> None:
    edit, layer, own, words = SLIPS[slip]
    port = edited(edit)
    for function in (
        functools.partial(port.forward, TREE, config=CONFIG),
        jax.jit(lambda images: port.forward(TREE, images, CONFIG)),
    ):
        report = compared(function)
        assert report.first is not None
        assert (report.first.layer, report.first.module) == (layer, own)
        assert words in str(report)
        assert not report.insides or re.search(r"^  in plain_port.py, line \d+, in \w+$", str(report), re.MULTILINE)


AXES = ("NHWC", "HWIO", "NHWC")


def as_products(x: Any, p: Any, stride: int = 1, pad: int = 0, groups: int = 1) -> Any:
    """A convolution as a product of patches with a kernel that is made a matrix."""
    if groups > 1:
        ends = [(pad, pad)] * 2
        y = lax.conv_general_dilated(x, p["w"], (stride,) * 2, ends, dimension_numbers=AXES, feature_group_count=groups)
        return y + p["b"]
    size = p["w"].shape[:2]
    patches = lax.conv_general_dilated_patches(x, size, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=AXES)
    return patches @ p["w"].transpose(2, 0, 1, 3).reshape(-1, p["w"].shape[3]) + p["b"]


def head_by_head(q: Any, k: Any, v: Any, heads: int, scale: float) -> Any:
    q, k, v = (t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v))
    one = jax.vmap(lambda q, k, v: jax.nn.softmax(q @ k.T * scale) @ v)
    return jax.vmap(one, (2, 2, 2), 2)(q, k, v).reshape(*q.shape[:2], -1)


def one_window_after_the_other(q: Any, k: Any, v: Any, heads: int, scale: float) -> Any:
    q, k, v = (t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v))

    def one(qkv: Any) -> Any:
        a = jax.nn.softmax(jnp.einsum("xhe,yhe->hyx", qkv[0], qkv[1]) * scale, axis=1)
        return jnp.einsum("hyx,yhf->xhf", a, qkv[2])

    return lax.map(one, (q, k, v)).reshape(*q.shape[:2], -1)


def by_windows_sums(x: Any, p: Any, eps: float = 1e-6) -> Any:
    n = x.shape[-1]

    def mean(x: Any) -> Any:
        zero = np.zeros((), x.dtype)
        return lax.reduce_window(x, zero, lax.add, (*[1] * (x.ndim - 1), n), (1,) * x.ndim, "VALID") / n

    centred = x - mean(x)
    return centred * lax.rsqrt(mean(centred**2) + eps) * p["gamma"] + p["beta"]


def token_by_token(x: Any, p: Any) -> Any:
    one = functools.reduce(lambda one, _: jax.vmap(one), range(x.ndim - 1), lambda token: p["w"].T @ token + p["b"])
    return one(x)


STYLES: dict[str, tuple[str, Callable[..., Any]]] = {
    "convolutions as products": ("conv", as_products),
    "vmap over the heads": ("attend", head_by_head),
    "map over the windows": ("attend", one_window_after_the_other),
    "means by reduce_window": ("norm", by_windows_sums),
    "vmap over the tokens": ("dense", token_by_token),
}


@pytest.mark.parametrize("style", STYLES)
def test_right_ports_in_other_styles_agree(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_ports, *STYLES[style])
    report = compared(functools.partial(forward, TREE))
    assert report.agrees, report
    assert (report.kind, report.dtype, len(report.rows)) == ("JAX function", "float64", 27)


# Blocks whose parameters are stacked

DEEP = replace(CONFIG, depths=(6, 2))
STACKED = jax_ports.tree_of(random_params(parameter_shapes(DEEP), seed=1, dtype="float32"), DEEP)
for _stage in STACKED["stages"]:
    _stage["first"], _stage["second"], *_rest = _stage.pop("blocks")
    _pairs = list(zip(_rest[::2], _rest[1::2], strict=True))
    _stage["rest"] = jax.tree.map(lambda *x: np.stack(x), *_pairs) if _pairs else ()


def block(x: Any, p: Any, k: int, i: int) -> Any:
    y, heads = jax_ports.norm(x, p["pre"]), DEEP.num_heads[k]
    if i:
        x = x + jax_ports.reduced(y, p["mixer"], heads, DEEP.sr_ratios[k], DEEP.c_ratios[k])
    else:
        x = x + jax_ports.windows(y, p["mixer"], heads, DEEP.window_sizes[k])
    up = jax.nn.gelu(jax_ports.dense(jax_ports.norm(x, p["mid"]), p["up"]), approximate=False)
    return x + jax_ports.dense(up, p["down"])


def scanning(x: Any, rest: Any, k: int) -> Any:
    return lax.scan(lambda x, pair: (block(block(x, pair[0], k, 0), pair[1], k, 1), None), x, rest)[0]


def scanning_again(x: Any, rest: Any, k: int) -> Any:
    @jax.checkpoint
    def both(x: Any, pair: Any) -> Any:
        return block(block(x, pair[0], k, 0), pair[1], k, 1), None

    return lax.scan(both, x, rest)[0]


def one_after_the_other(x: Any, rest: Any, k: int) -> Any:
    for t in range(2):
        pair = jax.tree.map(lambda p, t=t: p[t], rest)
        x = block(block(x, pair[0], k, 0), pair[1], k, 1)
    return x


def doubled_at_last(x: Any, rest: Any, k: int) -> Any:
    """The parameters of its last pair's second norm are doubled."""
    factors = jnp.asarray([1.0, 2.0], x.dtype)

    def both(x: Any, of: Any) -> Any:
        (first, second), factor = of
        second = {**second, "mid": jax.tree.map(lambda p: p * factor, second["mid"])}
        return block(block(x, first, k, 0), second, k, 1), None

    return lax.scan(both, x, (rest, factors))[0]


def deep(params: Any, images: Any, through: Callable[..., Any]) -> Any:
    x = jnp.moveaxis(images, 1, -1)
    for k, stage in enumerate(params["stages"]):
        stride = 2 if k else DEEP.patch_size
        x = jax_ports.norm(jax_ports.conv(x, stage["embed"], stride, stride - 1), stage["embed_norm"])
        x = block(x, stage["first"], k, 0)
        x = block(x + jax_ports.conv(x, stage["position"], pad=1, groups=x.shape[-1]), stage["second"], k, 1)
        x = through(x, stage["rest"], k) if stage["rest"] else x
    return jax_ports.dense(jax_ports.norm(x, params["norm"]).mean((1, 2)), params["head"])


@pytest.mark.parametrize("through", [scanning, scanning_again, one_after_the_other])
@pytest.mark.parametrize("closed", [False, True])
def test_stacked_parameters_are_those_of_blocks(through: Callable[..., Any], closed: bool) -> None:
    port: Any = functools.partial(deep, STACKED, through=through)
    if closed:
        port = jax.jit(lambda images: deep(STACKED, images, through))
    report = compare(port, variant=DEEP, images=IMAGES)
    assert report.agrees, report
    modules = {row.layer: row.module for row in report.rows}
    assert len(modules) == 47
    assert (modules["stages.0.3.attn"], modules["stages.0.4.mlp"]) == (
        "stages.0.rest.0.1.mixer",
        "stages.0.rest.1.0.{up, down}",
    )
    assert report.kind == "JAX function"


def test_a_slip_in_one_of_stacked_blocks_is_found() -> None:
    report = compare(functools.partial(deep, STACKED, through=doubled_at_last), variant=DEEP, images=IMAGES)
    assert [(row.layer, row.module) for row in report.diverging] == [("stages.0.5.norm2", "stages.0.rest.1.1.mid")]


def test_its_own_weights_are_told_and_can_be_kept() -> None:
    assert compared(in_closure(TREE), weights="own").agrees
    wrong = {**OFFICIAL, "norm.weight": OFFICIAL["norm.weight"] * 2}
    report = compared(functools.partial(forward, TREE), weights=wrong)
    assert not report.agrees
    assert any("norm.weight" in words for words in report.own_weights)
    kept = compared(functools.partial(forward, TREE), weights=OFFICIAL, as_it_is=True)
    assert kept.agrees
    assert kept.dtype == "float32"


def in_numpy(images: Any) -> Any:
    return np.asarray(forward(TREE, jnp.asarray(np.array(images), "float32")))


def test_what_is_not_followed_is_held_by_its_outputs() -> None:
    """As any function is, which takes the weights that it has."""
    assert isinstance(candidate_of(in_numpy), JaxFunction)
    report = compared(in_numpy, weights=OFFICIAL)
    assert report.agrees
    assert (report.kind, [row.layer for row in report.rows]) == ("function", ["logits"])
    assert any(note.startswith("it is not followed inside: JAX cannot trace the candidate, which") for note in report.notes)
    for settings in ({}, {"weights": "own"}, {"weights": "random"}):
        with pytest.raises(CaptureError, match=r"^weights must be given for a function that is not followed inside: JAX cannot"):
            compared(in_numpy, **settings)


def test_what_it_raises_is_told_with_its_line() -> None:
    port = edited(("return dense(norm(x, params", "x[0].nothing; return dense(norm(x, params"))
    with pytest.raises(CaptureError, match=r"raised AttributeError: .*'nothing' \(plain_port.py, line \d+, in forward\)$"):
        compared(functools.partial(port.forward, TREE, config=CONFIG))


def test_other_functions_and_traces_of_layers_are_as_before() -> None:
    layers = sv.trace(IMAGES.astype("float32"), OFFICIAL, CONFIG)
    assert isinstance(candidate_of(lambda images: 1), Function)
    report = compared(lambda images: layers, weights=OFFICIAL, diagnosis=False)
    assert (report.kind, len(report.rows)) == ("function", 27)


def test_its_arrays_are_back_in_their_places_after_an_error() -> None:
    variables = {"tree": TREE, "calls": 0}

    def failing(images: Any) -> Any:
        variables["calls"] += 1
        y = forward(variables["tree"], images)
        if variables["calls"] > 1:
            raise KeyError("stage")
        return y

    with pytest.raises(CaptureError, match=r"raised KeyError: 'stage'"):
        compared(failing)
    assert variables["tree"] is TREE
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(variables["tree"]))

"""Foreign ports in Flax, linen and nnx, held against the reference: faithful ones agree, a slip is named where it is made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from scalablevit_ref.compare.capture import Captured, CaptureError, Conditions
from scalablevit_ref.compare.capture.flax import FlaxModule
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.networks import network_of
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.support.small_network import small_network

CONFIG = small_network(head="linear")
IMAGES = random_images((3, 3, 16, 16))  # no map as large as the batch: every layout shows in the shape


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled() -> Iterator[None]:
    """Most of the time goes into compiling some hundred operations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def attend(q: Any, k: Any, v: Any, heads: int, scale: float, split: str = "(heads d)") -> Any:
    """Of b n c tokens."""
    q, k, v = (rearrange(t, f"b n {split} -> b heads n d", heads=heads) for t in (q, k, v))
    z = jax.nn.softmax(q @ k.swapaxes(-1, -2) * scale, axis=-1) @ v
    return rearrange(z, f"b heads n d -> b n {split}")


def attend_in_windows(qkv: Any, heads: int, p: int, split: str) -> Any:
    b, h, _, c = qkv.shape
    tokens = rearrange(qkv, "b (i p) (j q) c -> (b i j) (p q) c", p=p, q=p)
    z = attend(*jnp.split(tokens, 3, axis=-1), heads, (c / 3 / heads) ** -0.5, split)
    return rearrange(z, "(b i j) (p q) c -> b (i p) (j q) c", b=b, i=h // p, p=p)


class Embed(nn.Module):
    dim: int
    stride: int
    slip: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        kernel, pad = 2 * self.stride - 1, self.stride - 1
        padding: Any = "SAME" if self.slip == "same padding" else ((pad, pad), (pad, pad))
        x = nn.Conv(self.dim, (kernel, kernel), (self.stride, self.stride), padding)(x)
        return nn.LayerNorm(epsilon=1e-6)(x)


class Windows(nn.Module):
    heads: int
    p: int
    slip: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        c = x.shape[-1]
        qkv = nn.Dense(3 * c, name="to_qkv")(x)
        z = attend_in_windows(qkv, self.heads, self.p, "(d heads)" if self.slip == "interleaved heads" else "(heads d)")
        local = nn.Conv(c, (3, 3), padding=1, feature_group_count=c, name="local")
        return nn.Dense(c, name="out")(z + local(qkv[..., 2 * c :]))


class Reduced(nn.Module):
    heads: int
    s: int
    ratio: float

    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        width, y = int(c * self.ratio), x
        q = nn.Dense(width, name="to_q")(x)
        if self.s > 1:
            y = nn.Conv(c, (self.s, self.s), (self.s, self.s), "VALID", feature_group_count=c, name="tile")(x)
            y = nn.Conv(width, (1, 1), name="point")(y)
            y = nn.gelu(nn.LayerNorm(epsilon=1e-5, name="ln")(y), approximate=False)
            k, v = nn.Dense(width, name="to_k")(y), nn.Dense(c, name="to_v")(y)
        else:
            k, v = jnp.split(nn.Dense(2 * c, name="to_kv")(y), 2, axis=-1)
        q, k, v = (t.reshape(b, -1, t.shape[-1]) for t in (q, k, v))
        z = attend(q, k, v, self.heads, (c / self.heads * self.ratio) ** -0.5)
        return nn.Dense(c, name="out")(z.reshape(b, h, w, c))


class FeedForward(nn.Module):
    hidden: int
    slip: str

    @nn.compact
    def __call__(self, x: Any, deterministic: bool = False) -> Any:
        y = nn.gelu(nn.Dense(self.hidden)(x), approximate=self.slip == "tanh gelu")
        return nn.Dense(x.shape[-1])(y)


class Position(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x + nn.Conv(x.shape[-1], (3, 3), padding=1, feature_group_count=x.shape[-1])(x)


class WrongPosition(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x + 2 * nn.Conv(x.shape[-1], (3, 3), padding=1, feature_group_count=x.shape[-1])(x)


class Layer(nn.Module):
    k: int
    i: int
    slip: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        k, heads = self.k, CONFIG.num_heads[self.k]
        if self.i % 2:
            attention: Any = Reduced(heads, CONFIG.sr_ratios[k], CONFIG.c_ratios[k], name="mixer")
        else:
            attention = Windows(heads, CONFIG.window_sizes[k], self.slip, name="mixer")
        eps = 1e-5 if self.slip == "epsilon" else 1e-6
        x = x + attention(nn.LayerNorm(epsilon=1e-6, name="pre")(x))
        hidden = int(x.shape[-1] * CONFIG.mlp_ratios[k])
        return x + FeedForward(hidden, self.slip, name="ff")(nn.LayerNorm(epsilon=eps, name="mid")(x))


class Port(nn.Module):
    """Another's names, b h w c images. `slip` is made at `where`: "" in the embeddings, or in a layer "k.i"."""

    slip: str = ""
    where: str = ""
    dtype: Any = None
    position: Any = Position
    layer: Any = Layer
    casts: bool = False

    @nn.compact
    def __call__(self, images: Any, train: bool = True) -> Any:
        assert not train
        x = images
        for k in range(CONFIG.num_stages):
            x = Embed(CONFIG.embed_dims[k], 2 if k else 4, self.slip, name=f"stem{k}")(x)
            for i in range(CONFIG.depths[k]):
                x = self.layer(k, i, self.slip if self.where == f"{k}.{i}" else "", name=f"layer{k}_{i}")(x)
                if i == 0:
                    x = self.position(name=f"position{k}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="last")(x).mean(axis=(1, 2))
        x = nn.Dense(5, name="classify", dtype=self.dtype)(x)
        return x.astype("float32") if self.casts else x


def bound(slip: str = "", where: str = "", **settings: Any) -> nn.Module:
    port = Port(slip, where, **settings)
    shapes = jax.eval_shape(partial(port.init, train=False), jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return port.bind(jax.tree.map(lambda x: jnp.zeros(x.shape), shapes))


class Norm(nnx.LayerNorm):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, epsilon=eps, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:  # one call within another
        return super().__call__(x)


exact_gelu = partial(nnx.gelu, approximate=False)
linear = partial(nnx.Linear, rngs=nnx.Rngs(0))


class Depthwise(nnx.Conv):
    def __init__(self, dim: int, kernel: int = 3, stride: int = 1, padding: Any = 1) -> None:
        super().__init__(dim, dim, (kernel, kernel), stride, padding=padding, feature_group_count=dim, rngs=nnx.Rngs(0))


class OfficialEmbed(nnx.Module):
    def __init__(self, wide_in: int, dim: int, stride: int) -> None:
        kernel, pad = 2 * stride - 1, stride - 1
        self.proj = nnx.Conv(wide_in, dim, (kernel, kernel), stride, padding=pad, rngs=nnx.Rngs(0))
        self.norm = Norm(dim)

    def __call__(self, x: Any) -> Any:
        return self.norm(self.proj(x))


class OfficialPeg(nnx.Module):
    def __init__(self, dim: int) -> None:
        self.proj = nnx.Sequential(Depthwise(dim))

    def __call__(self, x: Any) -> Any:
        return x + self.proj(x)


class OfficialIWSA(nnx.Module):
    def __init__(self, k: int) -> None:
        dim, self.heads, self.p = CONFIG.embed_dims[k], CONFIG.num_heads[k], CONFIG.window_sizes[k]
        self.qkv, self.proj, self.lim_func = linear(dim, 3 * dim), linear(dim, dim), Depthwise(dim)

    def __call__(self, x: Any) -> Any:
        qkv = self.qkv(x)
        z = attend_in_windows(qkv, self.heads, self.p, "(heads d)")
        return self.proj(z + self.lim_func(qkv[..., 2 * x.shape[-1] :]))


class OfficialSSA(nnx.Module):
    def __init__(self, k: int) -> None:
        c, self.heads, self.s, self.ratio = CONFIG.embed_dims[k], CONFIG.num_heads[k], CONFIG.sr_ratios[k], CONFIG.c_ratios[k]
        width = int(c * self.ratio)
        self.q, self.proj = linear(c, width), linear(c, c)
        if self.s > 1:
            point = nnx.Conv(c, width, (1, 1), rngs=nnx.Rngs(0))
            self.reduction = nnx.Sequential(Depthwise(c, self.s, self.s, "VALID"), point)
            self.norm_act = nnx.Sequential(Norm(width, 1e-5), exact_gelu)
            self.k, self.v = linear(width, width), linear(width, c)
        else:
            self.kv = linear(c, 2 * c)

    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        if self.s > 1:
            y = self.norm_act(self.reduction(x))
            k, v = self.k(y), self.v(y)
        else:
            k, v = jnp.split(self.kv(x), 2, axis=-1)
        q, k, v = (t.reshape(b, -1, t.shape[-1]) for t in (self.q(x), k, v))
        z = attend(q, k, v, self.heads, (c / self.heads * self.ratio) ** -0.5)
        return self.proj(z.reshape(b, h, w, c))


class OfficialMlp(nnx.Module):
    def __init__(self, dim: int, hidden: int, gelu: Any) -> None:
        self.fc1, self.fc2, self.gelu = linear(dim, hidden), linear(hidden, dim), gelu
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.drop(self.fc2(self.gelu(self.fc1(x))))


class OfficialBlock(nnx.Module):
    def __init__(self, k: int, i: int, gelu: Any) -> None:
        dim = CONFIG.embed_dims[k]
        self.norm1, self.norm2 = Norm(dim), Norm(dim)
        self.attn = (OfficialSSA if i % 2 else OfficialIWSA)(k)
        self.mlp = OfficialMlp(dim, int(dim * CONFIG.mlp_ratios[k]), gelu)

    def __call__(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Official(nnx.Module):
    """The official names, b c h w images."""

    def __init__(self, gelu: Any = exact_gelu) -> None:
        dims = CONFIG.embed_dims
        self.patch_embeds = nnx.List([OfficialEmbed((3, *dims)[k], dims[k], 2 if k else 4) for k in range(2)])
        self.pos_block = nnx.List([OfficialPeg(dim) for dim in dims])
        self.stages = nnx.List(
            [nnx.List([OfficialBlock(k, i, gelu if (k, i) == (1, 0) else exact_gelu) for i in range(2)]) for k in range(2)]
        )
        self.norm, self.head = Norm(dims[-1]), linear(dims[-1], 5)

    def __call__(self, images: Any) -> Any:
        x = images.transpose(0, 2, 3, 1)
        for k in range(2):
            x = self.patch_embeds[k](x)
            for i in range(2):
                x = self.stages[k][i](x)
                x = self.pos_block[k](x) if i == 0 else x
        return self.head(self.norm(x).mean(axis=(1, 2)))


class OnPixels(Official):
    """b h w c images."""

    def __call__(self, images: Any) -> Any:
        return super().__call__(images.transpose(0, 3, 1, 2))


class OnRows(Official):
    """Images that it takes in no layout."""

    def __call__(self, images: Any) -> Any:
        return super().__call__(images[0])


class Looking(Official):
    """It looks at values, which JAX refuses while it traces."""

    def __call__(self, images: Any) -> Any:
        assert float(images.sum()) != 0
        return super().__call__(images)


def compared(model: Any, **settings: Any) -> Report:
    return compare(model, variant=CONFIG, images=IMAGES, **settings)


def captured(model: Any, **settings: Any) -> Captured:
    return FlaxModule(model).capture(Conditions(network_of(CONFIG), IMAGES, **settings), ExitStack())


def leaves(model: Any) -> list[Any]:
    return jax.tree.leaves(nnx.state(model, nnx.Param) if isinstance(model, nnx.Module) else model.variables)


PORTS = {
    "linen, its own names": (bound, "linen module", "b h w c", "layer1_1.mixer"),
    "nnx, official names": (Official, "nnx module", "b c h w", "stages.1.1.attn"),
    "nnx on pixels": (OnPixels, "nnx module", "b h w c", "stages.1.1.attn"),
}


@pytest.mark.parametrize("port", PORTS)
def test_a_faithful_port_agrees_in_every_layer(port: str) -> None:
    make, kind, layout, module = PORTS[port]
    report = compared(make())
    assert report.agrees, report
    assert (report.kind, report.dtype, len(report.rows)) == (kind, "float64", 27)
    assert report.notes == (f"images were given as {layout}",)
    assert {row.layer: row.module for row in report.rows}["stages.1.1.attn"] == module


SLIPS = {
    "tanh GELU in linen": (lambda: bound("tanh gelu", "1.0"), ["stages.1.0.mlp"], "GELU is the tanh approximation"),
    "tanh GELU in nnx": (lambda: Official(nnx.gelu), ["stages.1.0.mlp"], "GELU is the tanh approximation"),
    "SAME padding": (lambda: bound("same padding"), ["patch_embeds.0", "patch_embeds.1"], "padding is SAME"),
    "epsilon": (lambda: bound("epsilon", "0.1"), ["stages.0.1.norm2"], "LayerNorm's epsilon is 1e-5"),
    "interleaved heads": (lambda: bound("interleaved heads", "1.0"), ["stages.1.0.attn"], "heads are interleaved: channels"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_where_it_is_made(slip: str) -> None:
    make, layers, words = SLIPS[slip]
    report = compared(make())
    assert [row.layer for row in report.diverging] == layers
    (cause,) = report.causes
    assert list(cause.layers) == layers
    assert cause.words.startswith(words)


@pytest.mark.parametrize("make", [bound, Official])
def test_the_official_weights_get_into_a_copy_and_are_told_as_they_are(make: Any) -> None:
    model = make()
    before = [np.array(x) for x in leaves(model)]
    calls = {kind: vars(kind).get("__call__") for kind in (*nnx.Linear.__mro__, *Norm.__mro__, *Official.__mro__)}
    weights = random_params(parameter_shapes(CONFIG), seed=1)
    found = captured(model, dtype="float64", weights=weights)
    assert found.params is not None
    assert sorted(found.params) == sorted(weights)
    assert all(np.array_equal(found.params[name], value) for name, value in weights.items())
    assert all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(before, leaves(model), strict=True))
    assert calls == {kind: vars(kind).get("__call__") for kind in calls}


def test_classes_are_restored_after_an_error() -> None:
    call = nnx.Conv.__call__
    with pytest.raises(
        CaptureError, match=r"^running the candidate raised ValueError: axis 3 is out of .*, in __call__\)$"
    ) as error:
        compared(OnRows())  # the same error in both layouts, which is said once
    assert "\n" not in str(error.value)
    assert nnx.Conv.__call__ is call


def test_a_models_own_weights_are_told_in_the_official_orientation() -> None:
    found = captured(Official(), dtype="float64")
    assert found.params is not None
    assert {name: value.shape for name, value in found.params.items()} == parameter_shapes(CONFIG)
    assert compared(Official(), weights="own").agrees


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared(bound(dtype="float32")).dtype == "float64"  # a module that is told its dtype is told another
    casting = compared(bound(casts=True))
    assert casting.agrees, casting
    assert casting.dtype == "float32"
    whatever = "part of it computes in float32 whatever it is given: it is compared in float32"
    assert casting.notes == (whatever, "images were given as b h w c")
    forced = compared(bound(casts=True), dtype="float64", diagnosis=False)
    assert [row.layer for row in forced.diverging] == ["head"]
    (note,) = [note for note in forced.notes if note.startswith("part of it is computed in float32, from convert_element_type (")]
    assert "test_capture_flax.py" in note
    one = {name: getattr(CONFIG, name)[:1] for name in ("embed_dims", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios")}
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", replace(CONFIG, **one, window_sizes=(2,), depths=(1,)))
    report = compared(bound(), dtype="float32")
    assert report.agrees, report
    assert (report.dtype, len(report.rows)) == ("float32", 10)


NAMES = {
    "patch_embeds.{k}": "stem{k}",
    "pos_block.{k}": "position{k}",
    "stages.{k}.{i}": "layer{k}_{i}",
    "stages.{k}.{i}.attn": "layer{k}_{i}.mixer",
    "norm": "last",
    "head": "classify",
}


def test_names_map_layers_to_modules() -> None:
    report = compared(bound("tanh gelu", "1.0"), names=NAMES)
    modules = {row.layer: row.module for row in report.rows}
    assert len(modules) == 27  # the layers that are not mapped are found by their parameters
    assert {layer: modules[layer] for layer in ("patch_embeds.1", "stages.1.0", "stages.0.1.attn", "norm", "head")} == {
        "patch_embeds.1": "stem1",
        "stages.1.0": "layer1_0",
        "stages.0.1.attn": "layer0_1.mixer",
        "norm": "last",
        "head": "classify",
    }
    assert str(report.causes[0]).startswith("stages.1.0.mlp: matches to ")
    assert report.causes[0].words == "GELU is the tanh approximation"
    with pytest.raises(CaptureError, match=r"'norm' is mapped to 'lost', which the candidate lacks \(did you mean 'last'\?\)"):
        compared(bound(), names={**NAMES, "norm": "lost"})
    with pytest.raises(CaptureError, match=r"^last, taken for head, gives shape \(3, 2, 2, 16\), which is no layout of b c"):
        compared(bound(), names={"head": "last"})


def test_layers_inside_a_transformation_are_seen() -> None:
    report = compared(bound(position=nn.remat(Position)))
    assert report.agrees
    assert len(report.rows) == 27
    assert report.notes == ("images were given as b h w c",)
    wrong = compared(bound(position=nn.remat(WrongPosition)))
    assert [(row.layer, row.module) for row in wrong.diverging] == [("pos_block.0", "position0"), ("pos_block.1", "position1")]


def test_modules_inside_a_transformation_have_their_names() -> None:
    plain, again = (compared(bound(layer=layer)) for layer in (Layer, nn.remat(Layer)))
    assert again.agrees
    assert [(row.layer, row.module) for row in again.rows] == [(row.layer, row.module) for row in plain.rows]
    assert all(row.module for row in again.rows)


def test_what_looks_at_values_gives_what_it_gives_without_looking() -> None:
    weights = random_params(parameter_shapes(CONFIG))
    expected = captured(Official(), dtype="float64", weights=weights)
    found = captured(Looking(), dtype="float64", weights=weights)
    assert found.taps.keys() == expected.taps.keys()
    assert all(relative_l2(found.taps[name], x) < 1e-14 for name, x in expected.taps.items())
    assert [note for note in found.notes if note not in expected.notes] == [
        "it looks at 1 value, and may do something else on other images"
    ]


class Silent(nnx.Module):
    def __call__(self, images: Any) -> Any:
        return images


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Port(), r"^the linen module is not bound to its variables: give module.bind\(variables\)$"),
        (Silent(), "^the candidate holds no parameters: give a function of the images instead$"),
        (
            linear(3, 3),
            r"^no parameter of 1,176 values for patch_embeds\.0\.proj\.weight \(8, 3, 7, 7\); the candidate's weight has \(3, 3\)",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(model: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        compared(model)

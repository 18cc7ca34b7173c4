"""Hypothesis strategies for ScalableViT: what is drawn is the structure and a seed, which expands to well-spread numbers.

Hypothesis' own array strategies fill nearly all of a map with one value, so that most tokens have no variance and a LayerNorm is
never tested. Here a case is a shape, settings and an integer seed; one-hot and small-integer contents are there so that failures
shrink to something that can be read. Needs `hypothesis`, which `scalablevit_ref` does not install.

    from hypothesis import given
    from scalablevit_ref.testing import strategies

    @given(case=strategies.iwsa_cases())
    def test_my_iwsa(case):
        expected = sv.iwsa(case.x, case.params, **case.settings)
        assert_agrees(my_iwsa(case.x, case.params, **case.settings), expected)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import import_module
from math import lcm
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from numpy.random import default_rng

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.parameters import Shapes, block_shapes, iwsa_shapes, parameter_shapes, ssa_shapes
from scalablevit_ref.testing.arrays import random_images, random_params
from scalablevit_ref.testing.equivalence import SETTINGS

with suppress(ImportError, AttributeError):
    # Hypothesis reads the source of every module outside site-packages, which those of an editable installation are, for constants
    # to draw: in the middle of a first draw, which then counts as too slow. What is loaded by now it reads here.
    import_module("hypothesis.internal.conjecture.providers")._get_local_constants()

Content = Literal["normal", "one_hot", "integers"]

WINDOW_SIZES = (2, 3, 7)
HEADS = (1, 2, 3, 4)
"""3 among them: where d divides by H, whole interleaved heads (d h) are permuted like contiguous ones."""
HEAD_DIMS = (4, 8)
SR_RATIOS = (1, 2, 4)
C_RATIOS = (0.25, 0.5, 1, 1.25, 2)


@dataclass(frozen=True)
class Case:
    """One drawn call: `x` and `params` in float64 follow from the fields, so that a failure prints as something short.

    Attributes
    ----------
    shape
        Of the map, b h w c, or of the images, b c h w.
    settings
        The operation's keyword arguments.

    Examples
    --------
    >>> settings = {"num_heads": 2, "window_size": 2}
    >>> case = Case((1, 4, 4, 8), settings, iwsa_shapes(8), seed=1)
    >>> case.x.shape, case.params["qkv.weight"].shape, case.but(seed=2).seed
    ((1, 4, 4, 8), (24, 8), 2)
    """

    shape: tuple[int, ...]
    settings: Mapping[str, Any]
    shapes: Shapes = field(repr=False)
    seed: int = 0
    content: Content = "normal"
    config: ScalableViTConfig | None = None

    @cached_property
    def x(self) -> np.ndarray:
        return contents(self.shape, self.seed, self.content)

    @cached_property
    def params(self) -> dict[str, np.ndarray]:
        return random_params(self.shapes, self.seed)

    def but(self, **changes: Any) -> Case:
        """The same case with other fields."""
        return replace(self, **changes)


def contents(shape: tuple[int, ...], seed: int, content: Content = "normal") -> np.ndarray:
    """Normal numbers, a single one among zeros, or whole numbers in -8 … 8, in float64.

    Examples
    --------
    >>> int(contents((1, 2, 2, 1), 0, "one_hot").sum())
    1
    """
    if content == "normal":
        return random_images(shape, seed)
    rng = default_rng([seed, zlib.crc32(content.encode())])
    if content == "integers":
        return rng.integers(-8, 9, shape).astype(np.float64)
    x = np.zeros(shape)
    x.reshape(-1)[rng.integers(x.size)] = 1
    return x


SEEDS = st.integers(0, 2**32 - 1)
_CONTENTS: list[Content] = ["one_hot", "integers", "normal", "normal", "normal"]  # failures shrink towards the first
CONTENTS = st.sampled_from(_CONTENTS)


def grids() -> st.SearchStrategy[tuple[int, int]]:
    """Windows or tiles down and across: 1 to 3 each way, never square, so that no transposition hides.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(grids(), lambda grid: grid[0] == 2)
    (2, 1)
    """
    return st.sampled_from([(down, across) for down in (1, 2, 3) for across in (1, 2, 3) if down != across])


@st.composite
def iwsa_cases(
    draw: st.DrawFn, *, window_sizes: tuple[int, ...] = WINDOW_SIZES, heads: tuple[int, ...] = HEADS, pad: bool | None = False
) -> Case:
    """Calls of `iwsa`. pad: False for maps of whole windows, True for maps that need padding, None for either.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from scalablevit_ref import iwsa
    >>> @settings(max_examples=3, deadline=None)
    ... @given(iwsa_cases())
    ... def holds(case):
    ...     assert iwsa(case.x, case.params, **case.settings).shape == case.shape
    >>> holds()
    """
    p, num_heads, width = draw(st.sampled_from(window_sizes)), draw(st.sampled_from(heads)), draw(st.sampled_from(HEAD_DIMS))
    down, across = draw(grids())
    padded = draw(st.booleans()) if pad is None else pad
    short = (draw(st.integers(0, p - 1)), draw(st.integers(1, p - 1))) if padded else (0, 0)
    shape = (draw(st.integers(1, 3)), p * down - short[0], p * across - short[1], num_heads * width)
    settings = {"num_heads": num_heads, "window_size": p} | ({"pad": True} if padded else {})
    shapes = iwsa_shapes(num_heads * width, qkv_bias=draw(st.booleans()))
    return Case(shape, settings, shapes, draw(SEEDS), draw(CONTENTS))


@st.composite
def ssa_cases(
    draw: st.DrawFn,
    *,
    sr_ratios: tuple[int, ...] = SR_RATIOS,
    c_ratios: tuple[float, ...] = C_RATIOS,
    values: tuple[str, ...] = ("unscaled", "scaled"),
    whole_tiles: bool = False,
) -> Case:
    """Calls of `ssa`, with rows and columns left over that fill no tile unless `whole_tiles`.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=3, deadline=None)
    ... @given(ssa_cases(sr_ratios=(2,)))
    ... def holds(case):
    ...     assert case.settings["sr_ratio"] == 2
    >>> holds()
    """
    s, r_c = draw(st.sampled_from(sr_ratios)), draw(st.sampled_from(c_ratios))
    num_heads, width = draw(st.sampled_from(HEADS)), draw(st.sampled_from(HEAD_DIMS))
    down, across = draw(grids())
    over = (0, 0) if whole_tiles else (draw(st.integers(0, s - 1)), draw(st.integers(0, s - 1)))
    shape = (draw(st.integers(1, 3)), s * down + over[0], s * across + over[1], num_heads * width)
    version = draw(st.sampled_from(values))
    scale = draw(st.sampled_from(["scaled", "head_dim"]))
    settings = {"num_heads": num_heads, "sr_ratio": s, "c_ratio": r_c, "values": version, "scale": scale}
    shapes = ssa_shapes(
        shape[-1],
        num_heads=num_heads,
        sr_ratio=s,
        c_ratio=r_c,
        qkv_bias=draw(st.booleans()),
        values="scaled" if version == "scaled" else "unscaled",
    )
    return Case(shape, settings, shapes, draw(SEEDS), draw(CONTENTS))


@st.composite
def block_cases(draw: st.DrawFn) -> Case:
    """Calls of `block`, of either kind.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=3, deadline=None)
    ... @given(block_cases())
    ... def holds(case):
    ...     assert case.settings["kind"] in ("iwsa", "ssa")
    >>> holds()
    """
    kind: Literal["iwsa", "ssa"] = draw(st.sampled_from(["iwsa", "ssa"]))
    case = draw(iwsa_cases(pad=None) if kind == "iwsa" else ssa_cases())
    given = {name: value for name, value in case.settings.items() if name in {"num_heads", "sr_ratio", "c_ratio", "values"}}
    shapes = block_shapes(case.shape[-1], kind=kind, hidden=draw(st.sampled_from([6, 16])), qkv_bias=draw(st.booleans()), **given)
    return case.but(settings={"kind": kind, "norm_eps": draw(st.sampled_from([1e-6, 1e-2])), **case.settings}, shapes=shapes)


@st.composite
def configs(
    draw: st.DrawFn,
    *,
    stages: tuple[int, ...] = (1, 2, 4),
    heads: tuple[str, ...] = ("mlp", "linear", "none"),
    vary: Collection[str] = SETTINGS,
    base: ScalableViTConfig | None = None,
) -> ScalableViTConfig:
    """Small whole networks: every kind of head, both SSA versions and scales, padded windows, stage norms.

    Windows are p in the last stage and p or 2p in the others, so that maps of whole p in the last are of whole windows in all.

    `vary` names which of `SETTINGS` are drawn; the others are those of `base`, by default the paper's ScalableViT-S, of its first
    stages where there are fewer than it has.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=3, deadline=None)
    ... @given(configs(stages=(2,)))
    ... def holds(config):
    ...     assert len(config.depths) == 2
    >>> holds()
    """
    base = ScalableViTConfig() if base is None else base

    def drawn(name: str, strategy: st.SearchStrategy[Any]) -> Any:
        return draw(strategy) if name in vary else getattr(base, name)

    def per_stage(name: str, strategy: Callable[[int], st.SearchStrategy[Any]]) -> tuple[Any, ...]:
        return tuple(draw(strategy(k)) for k in range(n)) if name in vary else getattr(base, name)[:n]

    def fitting(k: int) -> list[int]:
        """Numbers of heads that divide the channels; those that are drawn are made to."""
        return [h for h in HEADS if "embed_dims" in vary or base.embed_dims[k] % h == 0]

    given = [name for name in _PER_STAGE if name not in vary]
    allowed = [n for n in stages if n <= base.num_stages or not given]
    n = draw(st.sampled_from(allowed)) if "num_stages" in vary and allowed else base.num_stages
    p = draw(st.sampled_from((2, 3)))
    num_heads = per_stage("num_heads", lambda k: st.sampled_from(fitting(k)))
    dims = per_stage("embed_dims", lambda k: st.integers(1, 2).map(lambda times: 4 * num_heads[k] * times))
    ratios = {k: [r for r in _PLAIN_FIRST if not int(dims[k] * r) % num_heads[k]] for k in range(n)}
    return ScalableViTConfig(
        embed_dims=dims,
        depths=per_stage("depths", lambda k: st.integers(1, 3)),
        num_heads=num_heads,
        mlp_ratios=per_stage("mlp_ratios", lambda k: st.sampled_from([1, 2, 2.5])),
        sr_ratios=per_stage("sr_ratios", lambda k: st.sampled_from((1, 2))),
        c_ratios=per_stage("c_ratios", lambda k: st.sampled_from(ratios[k])),
        window_sizes=per_stage("window_sizes", lambda k: st.sampled_from((p, 2 * p) if k < n - 1 else (p,))),
        num_classes=drawn("num_classes", st.sampled_from([0, 3])),
        in_chans=drawn("in_chans", st.integers(1, 3)),
        patch_size=drawn("patch_size", st.sampled_from([1, 2, 4])),
        qkv_bias=drawn("qkv_bias", st.booleans()),
        norm_eps=drawn("norm_eps", st.sampled_from([1e-6, 1e-2])),
        head=drawn("head", st.sampled_from(heads)),
        ssa_values=drawn("ssa_values", st.sampled_from(["unscaled", "scaled"])),
        ssa_scale=drawn("ssa_scale", st.sampled_from(["scaled", "head_dim"])),
        pad_windows=drawn("pad_windows", st.booleans()),
        stage_norms=drawn("stage_norms", st.booleans()),
        embed_norm_eps=drawn("embed_norm_eps", st.sampled_from([None, 1e-5])),
    )


_PER_STAGE = tuple(setting.name for setting in fields(ScalableViTConfig) if isinstance(setting.default, tuple))
_PLAIN_FIRST = sorted(C_RATIOS, key=lambda ratio: abs(ratio - 1))
"""Failures shrink towards keys of the map's own width."""


@st.composite
def image_sizes(draw: st.DrawFn, config: ScalableViTConfig, *, square: bool = False) -> tuple[int, int]:
    """Heights and widths, in pixels, that the network takes, of few windows; not square unless `square`.

    With `pad_windows` up to three rows and columns are missing where the stages' tiles allow it.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(image_sizes(ScalableViTConfig()), lambda size: True)
    (224, 448)
    """
    padded = config.pad_windows
    unit = lcm(*(stride * (1 if padded else p) for stride, p in zip(config.strides, config.window_sizes, strict=True)))
    if padded:  # two windows of the last stage, of which some rows may be missing
        unit *= config.window_sizes[-1]
    tiles = [s * stride for s, stride, n in zip(config.sr_ratios, config.strides, config.depths, strict=True) if n > 1]
    least = -(-max(tiles, default=1) // unit)
    small = unit <= 16
    down, across = draw(st.sampled_from([(1, 2), (2, 1), *[(2, 3), (3, 2)] * small]))
    missing = min(3, least * unit - max(tiles, default=1)) if padded else 0
    h, w = (unit * (least - 1 + n) - draw(st.integers(0, missing)) for n in (down, across))
    return (h, h) if square else (h, w)


@st.composite
def network_cases(draw: st.DrawFn, networks: st.SearchStrategy[ScalableViTConfig] | None = None) -> Case:
    """Calls of `scalable_vit`, on images that are not square, nor is any map: `case.config` is the network.

    With `pad_windows` up to three rows and columns are missing, but never so many that the last stage has no 2 × 2 tile.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=3, deadline=None)
    ... @given(network_cases())
    ... def holds(case):
    ...     assert case.x.shape[1] == case.config.in_chans
    >>> holds()
    """
    config = draw(configs() if networks is None else networks)
    stride, window = config.strides[-1], config.window_sizes[-1]
    down, across = draw(st.sampled_from([(1, 2), (2, 1)]))
    most = min(3, stride * (window - 1) - 1) if config.pad_windows else 0
    h, w = (stride * window * windows - draw(st.integers(0, most)) for windows in (down, across))
    shape = (draw(st.integers(1, 2)), config.in_chans, h, w)
    return Case(shape, {}, parameter_shapes(config), draw(SEEDS), draw(CONTENTS), config)

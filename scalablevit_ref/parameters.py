"""Name and shape of every parameter, as a config has them, and initial values.

The names, shapes and order are the official state dict's. An operation takes its own part of the mapping under local names
(`reduction.0.weight`), which `children` and `modules` cut out of the whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalablevit_ref.arguments import check_choice, check_seed, float_dtype
from scalablevit_ref.config import CHOICES, MLP_HEAD_WIDTH, BlockKind, ScalableViTConfig, SSAValues, check_config, scaled_dim

Shapes = dict[str, tuple[int, ...]]
"""Name to shape."""


def parameter_shapes(config: ScalableViTConfig) -> Shapes:
    """Name and shape of every parameter, in state-dict order.

    Examples
    --------
    >>> parameter_shapes(ScalableViTConfig())["stages.0.1.attn.q.weight"]
    (80, 64)
    """
    check_config(config)
    shapes: Shapes = {}
    channels = config.in_chans
    for k, dim in enumerate(config.embed_dims):
        shapes |= scoped(f"patch_embeds.{k}", patch_embed_shapes(channels, dim, 2 if k else config.patch_size))
        channels = dim
    for k, dim in enumerate(config.embed_dims):
        shapes |= scoped(f"pos_block.{k}", peg_shapes(dim))
    if config.stage_norms:
        for k, dim in enumerate(config.embed_dims):
            shapes |= scoped(f"norm_list.{k}", _norm(dim))
    for k, depth in enumerate(config.depths):
        for i in range(depth):
            shapes |= scoped(f"stages.{k}.{i}", _stage_block_shapes(config, k, i))
    if not config.stage_norms:
        shapes |= scoped("norm", _norm(config.num_features))
    return shapes | head_shapes(config)


def _stage_block_shapes(config: ScalableViTConfig, k: int, i: int) -> Shapes:
    dim, hidden = config.embed_dims[k], int(config.embed_dims[k] * config.mlp_ratios[k])
    settings: Any = {"num_heads": config.num_heads[k], "sr_ratio": config.sr_ratios[k], "c_ratio": config.c_ratios[k]}
    settings |= {"qkv_bias": config.qkv_bias, "values": config.ssa_values}
    shapes = block_shapes(dim, kind=block_kind(i), hidden=hidden, **settings)
    if config.stage_norms:  # the detection backbone creates its attention last, which shows in the order of its state dict
        return dict(sorted(shapes.items(), key=lambda item: item[0].startswith("attn.")))
    return shapes


def block_kind(i: int) -> BlockKind:
    """Block i of a stage is IWSA if i is even, SSA if it is odd."""
    return "ssa" if i % 2 else "iwsa"


def block_shapes(
    dim: int,
    *,
    kind: BlockKind,
    hidden: int,
    num_heads: int,
    sr_ratio: int | None = None,
    c_ratio: float | None = None,
    qkv_bias: bool = True,
    values: SSAValues = "unscaled",
) -> Shapes:
    """Parameters of one block, under local names: `norm1`, `attn`, `norm2`, `mlp`.

    Examples
    --------
    >>> shapes = block_shapes(64, kind="iwsa", hidden=256, num_heads=2)
    >>> shapes["attn.qkv.weight"], shapes["mlp.fc1.weight"]
    ((192, 64), (256, 64))
    """
    if kind == "iwsa":
        attention = iwsa_shapes(dim, qkv_bias=qkv_bias)
    else:
        if sr_ratio is None or c_ratio is None:
            raise TypeError("a block of kind 'ssa' needs sr_ratio and c_ratio")
        attention = ssa_shapes(dim, num_heads=num_heads, sr_ratio=sr_ratio, c_ratio=c_ratio, qkv_bias=qkv_bias, values=values)
    norm1, norm2 = scoped("norm1", _norm(dim)), scoped("norm2", _norm(dim))
    return norm1 | scoped("attn", attention) | norm2 | scoped("mlp", mlp_shapes(dim, hidden))


def ssa_shapes(
    dim: int, *, num_heads: int, sr_ratio: int, c_ratio: float, qkv_bias: bool = True, values: SSAValues = "unscaled"
) -> Shapes:
    """Parameters of scalable self-attention. With s = 1 nothing is reduced and q, k and v have c channels.

    Examples
    --------
    >>> shapes = ssa_shapes(64, num_heads=2, sr_ratio=8, c_ratio=1.25)
    >>> shapes["reduction.0.weight"], shapes["q.weight"]
    ((64, 1, 8, 8), (80, 64))
    """
    check_choice("ssa_values", values, CHOICES["ssa_values"])
    if sr_ratio == 1:
        return _linear("q", dim, dim, qkv_bias) | _linear("kv", dim, 2 * dim, qkv_bias) | _linear("proj", dim, dim)
    width = scaled_dim(dim, num_heads, c_ratio)
    shapes = _linear("q", dim, width, qkv_bias)
    shapes |= _conv("reduction.0", dim, dim, sr_ratio, groups=dim) | _conv("reduction.1", dim, width, 1)
    shapes |= scoped("norm_act.0", _norm(width))
    if values == "scaled":
        return shapes | _linear("kv", width, 2 * width, qkv_bias) | _linear("proj", width, dim)
    return shapes | _linear("k", width, width, qkv_bias) | _linear("v", width, dim, qkv_bias) | _linear("proj", dim, dim)


def iwsa_shapes(dim: int, *, qkv_bias: bool = True) -> Shapes:
    """Parameters of interactive window self-attention; `lim_func` is the local interactive module's depthwise 3x3 kernel.

    Examples
    --------
    >>> iwsa_shapes(64)["lim_func.weight"]
    (64, 1, 3, 3)
    """
    return _linear("qkv", dim, 3 * dim, qkv_bias) | _linear("proj", dim, dim) | _conv("lim_func", dim, dim, 3, groups=dim)


def mlp_shapes(dim: int, hidden: int) -> Shapes:
    """Parameters of the MLP of a block, of `hidden` units.

    Examples
    --------
    >>> mlp_shapes(64, 256)["fc2.weight"]
    (64, 256)
    """
    return _linear("fc1", dim, hidden) | _linear("fc2", hidden, dim)


def peg_shapes(dim: int) -> Shapes:
    """Parameters of the position encoding generator, a depthwise 3x3 kernel.

    Examples
    --------
    >>> peg_shapes(64)["proj.0.weight"]
    (64, 1, 3, 3)
    """
    return _conv("proj.0", dim, dim, 3, groups=dim)


def patch_embed_shapes(in_chans: int, dim: int, patch_size: int) -> Shapes:
    """Overlapping patches: kernel 2·patch_size − 1, stride patch_size.

    Examples
    --------
    >>> patch_embed_shapes(3, 64, patch_size=4)["proj.weight"]
    (64, 3, 7, 7)
    """
    return _conv("proj", in_chans, dim, 2 * patch_size - 1) | scoped("norm", _norm(dim))


def has_qkv_bias(params: Mapping[str, Any], prefix: str = "") -> bool:
    """Whether any of an attention's q, k and v has a bias; then all must."""
    return any(f"{prefix}{name}.bias" in params for name in ("q", "k", "v", "kv", "qkv"))


def head_shapes(config: ScalableViTConfig) -> Shapes:
    """Parameters of the classifier, under their full names."""
    dim, classes = config.num_features, config.num_classes
    if config.head == "linear":
        return _linear("head", dim, classes) if classes else {}
    if config.head == "none":
        return {}
    shapes = _linear("head.0", dim, MLP_HEAD_WIDTH) | scoped("head.1", _norm(MLP_HEAD_WIDTH))
    return shapes | (_linear("head.3", MLP_HEAD_WIDTH, classes) if classes else {})


def _linear(name: str, wide_in: int, wide_out: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (wide_out, wide_in)} | ({f"{name}.bias": (wide_out,)} if bias else {})


def _conv(name: str, wide_in: int, wide_out: int, kernel: int, groups: int = 1) -> Shapes:
    return {f"{name}.weight": (wide_out, wide_in // groups, kernel, kernel), f"{name}.bias": (wide_out,)}


def _norm(dim: int) -> Shapes:
    return {"weight": (dim,), "bias": (dim,)}


def scoped(prefix: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The same entries with `prefix.` before their names."""
    return {f"{prefix}.{name}": value for name, value in params.items()}


def children(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group by the first component: `{"a.b.c": 1}` becomes `{"a": {"b.c": 1}}`."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = value
    return groups


def modules(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group by all but the last component: `{"a.b.c": 1}` becomes `{"a.b": {"c": 1}}`, so that `**p["a.b"]` are its arguments."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        module, _, leaf = name.rpartition(".")
        groups.setdefault(module, {})[leaf] = value
    return groups


def init_params(config: ScalableViTConfig, seed: int = 0, dtype: Any = "float32") -> dict[str, np.ndarray]:
    """Random parameters as the official code draws them, as NumPy arrays; equal for equal seeds, whatever the dtype.

    Linear weights are normal with deviation 0.02 (the official `trunc_normal_` cuts off at ±2, a hundred deviations out);
    convolution kernels are normal with deviation √(2 / fan_out), fan_out = k² · c_out / groups; gains are one, biases zero.
    Each parameter has a random stream of its own, which depends on its name.

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> init_params(variant("digits"))["stages.0.1.attn.q.weight"].shape
    (20, 16)
    """
    return {name: drawn(name, shape, seed).astype(float_dtype("dtype", dtype)) for name, shape in parameter_shapes(config).items()}


def drawn(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The values of one parameter as `init_params` draws them, in float64."""
    check_seed("seed", seed)
    if len(shape) == 1:
        return np.full(shape, 1.0 if is_gain(name) else 0.0)
    fan_out = np.prod(shape[2:]) * (1 if is_depthwise(name, shape) else shape[0])
    stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return stream.standard_normal(shape) * (0.02 if len(shape) == 2 else (2.0 / fan_out) ** 0.5)


def is_gain(name: str) -> bool:
    """Whether a one-dimensional parameter of this name is a LayerNorm's gain (every other weight has more axes)."""
    return name.endswith("weight")


def is_depthwise(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter of this name and shape is a depthwise kernel; a stem's, of one channel, is none."""
    return len(shape) == 4 and shape[1] == 1 and not name.startswith("patch_embeds")

"""The hyperparameters of one ScalableViT, its published variants, and their validation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from scalablevit_ref.arguments import LARGEST, check_choice, check_count, check_flag, check_positive, per_stage, plain_number
from scalablevit_ref.errors import brief, did_you_mean

Head = Literal["mlp", "linear", "none"]
"""What comes after the last stage; `ScalableViTConfig` says what each is."""
SSAValues = Literal["unscaled", "scaled"]
"""Channels of SSA's values: c or c'."""
SSAScale = Literal["scaled", "head_dim"]
"""Scale of SSA's products: (d · r_c)^-½ or d^-½."""
BlockKind = Literal["iwsa", "ssa"]
"""Which attention a block has."""

CHOICES = {
    "head": ("mlp", "linear", "none"),
    "ssa_values": ("unscaled", "scaled"),
    "ssa_scale": ("scaled", "head_dim"),
    "kind": ("iwsa", "ssa"),
}
"""The words that each setting takes, by its name; `kind` is a setting of `block`."""

MLP_HEAD_WIDTH = 4096
"""Hidden width of the official classifier's two-layer head, in channels."""

MOST_BLOCKS = 10_000
"""Most blocks of all stages together; `save_checkpoint` writes some 600 of them."""


@dataclass(frozen=True)
class ScalableViTConfig:
    """Everything that decides the shape and the function of one network. Per-stage settings are tuples, one entry a stage.

    The defaults are the paper's ScalableViT-S. Lists are accepted and stored as tuples.

    Parameters
    ----------
    embed_dims : tuple of int
        Channels c of each stage.
    depths : tuple of int
        Single blocks per stage; block 0, 2, … is IWSA, block 1, 3, … is SSA.
    num_heads : tuple of int
        Attention heads H; c and c' = int(c · r_c) must be divisible by it.
    mlp_ratios : tuple of float
        Hidden width of the MLP over c.
    sr_ratios : tuple of int
        SSA's spatial reduction s, with r_n = s⁻².
    c_ratios : tuple of float
        SSA's channel scaling r_c.
    window_sizes : tuple of int
        IWSA's window p, in tokens.
    num_classes : int
        0 leaves the last Linear out, as the official code does.
    in_chans : int
        Channels of the images.
    patch_size : int
        Stride of the stem, in pixels; its kernel is 2·patch_size − 1.
    qkv_bias : bool
        Biases on q, k, v (SSA's reduction convolutions have theirs regardless).
    norm_eps : float
        Epsilon of every LayerNorm but SSA's own (1e-5) and, if `embed_norm_eps` is set, the patch embeddings'.
    head : "mlp", "linear" or "none"
        "mlp" is Linear to 4096, LayerNorm, GELU, Linear; "none" gives the mean of the normed tokens.
    ssa_values : "unscaled" or "scaled"
        "unscaled" is the paper's and the classifier's v ∈ c (v3); "scaled" the detection backbone's v ∈ c' (v1).
    ssa_scale : "scaled" or "head_dim"
        "scaled" is (d · r_c)^-½; "head_dim" is d^-½, for the authors' earlier weights.
    pad_windows : bool
        Pad maps with zeros to whole windows, as the detection backbone does; else they must be divisible by the window.
    stage_norms : bool
        A LayerNorm on each stage's output (`norm_list.k`) in place of the final `norm`, as in that backbone.
    embed_norm_eps : float, optional
        Epsilon of the patch embeddings' LayerNorms; None is `norm_eps`.

    Raises
    ------
    ValueError or TypeError
        Names the setting, what was expected and what came.

    Examples
    --------
    >>> config = ScalableViTConfig(num_classes=10)
    >>> config.num_stages, config.strides, config.out_features
    (4, (4, 8, 16, 32), 10)
    """

    embed_dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 20, 2)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    c_ratios: tuple[float, ...] = (1.25, 1.25, 1.25, 1)
    window_sizes: tuple[int, ...] = (7, 7, 7, 7)
    num_classes: int = 1000
    in_chans: int = 3
    patch_size: int = 4
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    head: Head = "mlp"
    ssa_values: SSAValues = "unscaled"
    ssa_scale: SSAScale = "scaled"
    pad_windows: bool = False
    stage_norms: bool = False
    embed_norm_eps: float | None = None

    def __post_init__(self) -> None:
        stored: dict[str, Any] = {name: per_stage(name, getattr(self, name), whole=name not in _RATIOS) for name in _PER_STAGE}
        lengths = {name: len(entries) for name, entries in stored.items()}
        if len(set(lengths.values())) != 1 or not stored["depths"]:
            raise ValueError(f"per-stage settings must all have the same length, one entry a stage; got {lengths}")
        for name, least in (("num_classes", 0), ("in_chans", 1), ("patch_size", 1)):
            check_count(name, getattr(self, name), least)
            stored[name] = int(getattr(self, name))
        for name in ("norm_eps",) if self.embed_norm_eps is None else ("norm_eps", "embed_norm_eps"):
            check_positive(name, getattr(self, name))
            stored[name] = plain_number(getattr(self, name))
        for name in ("qkv_bias", "pad_windows", "stage_norms"):
            check_flag(name, getattr(self, name))
            stored[name] = bool(getattr(self, name))
        for name in ("head", "ssa_values", "ssa_scale"):
            check_choice(name, getattr(self, name), CHOICES[name])
        vars(self).update(stored)
        if sum(self.depths) > MOST_BLOCKS:
            raise ValueError(f"depths must be at most {MOST_BLOCKS} blocks together, got {brief(sum(self.depths))}")
        for stage in range(self.num_stages):
            self._check_widths(stage)

    def _check_widths(self, stage: int) -> None:
        dim, heads = self.embed_dims[stage], self.num_heads[stage]
        if dim * self.mlp_ratios[stage] > LARGEST:
            raise ValueError(f"mlp_ratios[{stage}] = {self.mlp_ratios[stage]} of {dim} channels are more than an axis can have")
        if dim % heads:
            raise ValueError(f"embed_dims[{stage}] = {dim} must be divisible by num_heads[{stage}] = {heads}")
        if self.depths[stage] > 1 and self.sr_ratios[stage] > 1:  # the stage has an SSA block with scaled keys
            scaled_dim(dim, heads, self.c_ratios[stage], where=f"[{stage}]")

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @property
    def num_features(self) -> int:
        """Channels of the last stage's map."""
        return self.embed_dims[-1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Each stage's stride with respect to the image."""
        return tuple(self.patch_size * 2**stage for stage in range(self.num_stages))

    @property
    def out_features(self) -> int:
        """Width of `scalable_vit`'s result: the classes, or the features where there is no last Linear."""
        if self.head == "none" or (self.head == "linear" and not self.num_classes):
            return self.num_features
        return self.num_classes or MLP_HEAD_WIDTH


_PER_STAGE = ("embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios", "window_sizes")
_RATIOS = ("mlp_ratios", "c_ratios")

_VARIANTS: dict[str, dict[str, Any]] = {
    "small": {},
    "small_0": {"c_ratios": (1.25, 1.25, 1.25, 1.25), "head": "linear"},
    "base": {
        "embed_dims": (96, 192, 384, 768),
        "depths": (2, 2, 14, 6),
        "num_heads": (3, 6, 12, 24),
        "c_ratios": (2, 1.25, 1.25, 1),
    },
    "large": {
        "embed_dims": (128, 256, 512, 1024),
        "depths": (2, 6, 12, 4),
        "num_heads": (4, 8, 16, 32),
        "c_ratios": (0.25, 0.5, 1, 1),
    },
    "mmdet_small": {  # the authors' detection backbone (SSGDataset)
        "head": "none",
        "num_classes": 0,
        "ssa_values": "scaled",
        "pad_windows": True,
        "stage_norms": True,
        "embed_norm_eps": 1e-5,
    },
    "digits": {  # the embedded example: 112 x 112 grey images, maps of 28, 14, 7 and 4 tokens a side
        "embed_dims": (16, 32, 48, 64),
        "depths": (2, 2, 2, 2),
        "num_heads": (1, 2, 3, 4),
        "mlp_ratios": (2, 3, 4, 2),
        "sr_ratios": (4, 2, 1, 1),
        "window_sizes": (7, 7, 7, 2),
        "num_classes": 10,
        "in_chans": 1,
        "head": "linear",
    },
}

VARIANTS = tuple(_VARIANTS)
"""Names of the variants that `variant` knows."""


def variant(name: str, **overrides: Any) -> ScalableViTConfig:
    """The configuration of a published variant (or of the embedded `digits`), with some settings changed if wanted.

    Raises
    ------
    ValueError
        For an unknown name, with near matches.
    TypeError
        For what is no name, and for an unknown setting.

    Examples
    --------
    >>> variant("base").embed_dims
    (96, 192, 384, 768)
    >>> variant("small", num_classes=10).num_classes
    10
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a variant's, one of {', '.join(VARIANTS)}, got {brief(name)}")
    known = name if name in _VARIANTS else plain_name(name)
    if known not in _VARIANTS:
        raise ValueError(f"unknown variant {name!r}{near_matches(name, VARIANTS)}; there are {', '.join(VARIANTS)}")
    return settled(ScalableViTConfig(**_VARIANTS[known]), overrides)


def scaled_dim(dim: int, num_heads: int, c_ratio: float, where: str = "") -> int:
    """C' = int(c · r_c), the width of SSA's queries and keys; must be positive and divisible by the heads.

    Examples
    --------
    >>> scaled_dim(64, 2, 1.25)
    80
    """
    width = int(min(dim * c_ratio, LARGEST + 1))
    if not 1 <= width <= LARGEST or width % num_heads:
        raise ValueError(
            f"c' = int({dim} * {c_ratio}) = {width} (c_ratio{'s' + where if where else ''}) must be a positive multiple of "
            f"num_heads{where} = {num_heads}"
        )
    return width


_ALIASES = {"s": "small", "b": "base", "l": "large", "half": "float16", "float": "float32", "double": "float64"}
"""Other names of variants (the paper's ScalableViT-S) and of dtypes; fp16, f16 and bf16 are told by a pattern."""


def plain_name(word: str) -> str:
    """Our own name of a variant or a dtype: "small" of "S" and "ScalableViT-S", "float16" of "fp16"; any other word as it is."""
    plain = re.sub(r"^scalable[_-]?vit[_-]?", "", word.lower()).replace("-", "_")
    plain = re.sub(r"^(b?)fp?(16|32|64)$", r"\1float\2", plain)
    return _ALIASES.get(plain, plain)


def near_matches(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'small'?)`, or nothing; other names of variants and of dtypes are known too."""
    known, alias = list(known), plain_name(word)
    return did_you_mean(alias if alias in known else word, known)


def settled(config: ScalableViTConfig | str, overrides: Mapping[str, Any]) -> ScalableViTConfig:
    """A configuration, or the variant of that name, with some settings changed. Raises as `variant` does."""
    if isinstance(config, str):
        return variant(config, **overrides)
    check_config(config)
    settings = [f.name for f in fields(ScalableViTConfig)]
    for key in overrides:
        if key not in settings:
            raise TypeError(f"unknown setting {key!r}{near_matches(key, settings)}; there are {', '.join(settings)}")
    return replace(config, **overrides)


def check_config(config: object, name: str = "config") -> None:
    """Raise TypeError for what is no `ScalableViTConfig`."""
    if not isinstance(config, ScalableViTConfig):
        hint = f"; variant({config!r}) gives one" if isinstance(config, str) and config in VARIANTS else ""
        raise TypeError(f"{name} must be a ScalableViTConfig, got {brief(config)}{hint}")

"""ScalableViT as a `paddle.nn.Layer` in Paddle's own layout: the layers of `paddle.nn` inside are what runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from einops import rearrange

from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_seed
from scalablevit_ref.attention import SSA_NORM_EPS
from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checks import check_map, check_shapes
from scalablevit_ref.config import MLP_HEAD_WIDTH, ScalableViTConfig, settled
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.network import attention_settings
from scalablevit_ref.ops import attention
from scalablevit_ref.ops import pad as pad_map
from scalablevit_ref.parameters import block_kind, init_params, parameter_shapes

with extra("paddle"):
    from scalablevit_ref.backends.start import beside_tensorflow

    with beside_tensorflow():
        from paddle import nn

    from scalablevit_ref.backends import paddle as backend

Tensor: TypeAlias = Any


class ScalableViT(nn.Layer):  # type: ignore[misc]
    """Images b c h w to logits b classes, for Paddle's optimisers, `paddle.jit.to_static` and `paddle.save`.

    The names of `state_dict()` are the official ones. A Linear's weight is (in, out), as Paddle has it. `sv.load_checkpoint` reads
    the `.pdparams` that `paddle.save(model.state_dict(), path)` writes. `model.set_state_dict(paddle.load(path))` takes those of
    `sv.save_checkpoint`. Maps between the layers are b h w c.

    Parameters
    ----------
    config : ScalableViTConfig or str
        A configuration, or a variant's name; `overrides` change its settings.
    params : mapping, optional
        Initial values under the official names and in the official layout, arrays of any library, copied, in their dtype;
        None draws `sv.init_params(config, seed)`.
    seed : int
        Of the initial values that are drawn.

    Raises
    ------
    ValueError or TypeError
        For a setting or parameters that do not fit.

    Examples
    --------
    >>> model = ScalableViT.from_params(
    ...     checkpoint.params, checkpoint.config
    ... )  # doctest: +SKIP
    >>> paddle.save(model.state_dict(), "small.pdparams")  # doctest: +SKIP
    """

    def __init__(
        self,
        config: ScalableViTConfig | str = "small",
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        **overrides: Any,
    ) -> None:
        super().__init__()
        self.config = config = settled(config, overrides)
        check_seed("seed", seed)
        given = tensors_in(init_params(config, seed) if params is None else params)
        check_shapes(given, parameter_shapes(config))
        dims, eps, stages = config.embed_dims, config.norm_eps, range(config.num_stages)
        embed_eps = config.embed_norm_eps or eps
        self.patch_embeds = nn.LayerList(
            [PatchEmbed((config.in_chans, *dims)[k], dims[k], 2 if k else config.patch_size, embed_eps) for k in stages]
        )
        self.pos_block = nn.LayerList([PEG(dims[k]) for k in stages])
        self.norm_list = nn.LayerList([nn.LayerNorm(dims[k], eps) for k in stages] if config.stage_norms else [])
        self.stages = nn.LayerList([nn.LayerList([Block(config, k, i) for i in range(config.depths[k])]) for k in stages])
        if not config.stage_norms:
            self.norm = nn.LayerNorm(dims[-1], eps)
        self.head = _head(config)
        self._fill(to_numpy(given))

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: ScalableViTConfig) -> ScalableViT:
        """With these weights, say a `Checkpoint`'s: arrays of any library under the official names, in the official layout."""
        return cls(config, params=params)

    def to_params(self) -> dict[str, np.ndarray]:
        """The weights as they are now, as NumPy arrays under the official names, in the official layout and order."""
        state = self.state_dict()
        return {name: _turned(backend.to_numpy(state[name])) for name in parameter_shapes(self.config)}

    def forward(self, images: Tensor) -> Tensor:
        """Logits b classes of images b c h w."""
        check_map("images", images, "b c h w", channels=self.config.in_chans)
        check_image_size(self.config, *images.shape[2:])
        x = self._maps(images)[-1]
        return self.head((x if self.config.stage_norms else self.norm(x)).mean([1, 2]))

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """The map that each stage ends with, b h w c."""
        check_map("images", images, "b c h w", channels=self.config.in_chans)
        check_image_size(self.config, *images.shape[2:])
        return tuple(self._maps(images))

    def _maps(self, images: Tensor) -> list[Tensor]:
        x, maps = rearrange(images, "b c h w -> b h w c"), []
        for k, blocks in enumerate(self.stages):
            x = self.patch_embeds[k](x)
            for i, block in enumerate(blocks):
                x = block(x)
                if i == 0:
                    x = self.pos_block[k](x)
            if self.config.stage_norms:
                x = self.norm_list[k](x)
            maps.append(x)
        return maps

    def _fill(self, params: Mapping[str, np.ndarray]) -> None:
        self.to(dtype=str(next(iter(params.values())).dtype))
        for name, parameter in self.state_dict().items():
            parameter.set_value(backend.from_numpy(_turned(params[name]), None, None))


class PatchEmbed(nn.Layer):  # type: ignore[misc]
    """`patch_embeds.k`."""

    def __init__(self, c_in: int, c: int, patch_size: int, eps: float) -> None:
        super().__init__()
        self.proj = _conv(c_in, c, 2 * patch_size - 1, stride=patch_size, padding=patch_size - 1)
        self.norm = nn.LayerNorm(c, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class PEG(nn.Layer):  # type: ignore[misc]
    """`pos_block.k`."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(_conv(c, c, 3, padding=1, groups=c))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(x)


class Block(nn.Layer):  # type: ignore[misc]
    """`stages.k.i`."""

    def __init__(self, config: ScalableViTConfig, k: int, i: int) -> None:
        super().__init__()
        c = config.embed_dims[k]
        attend: Any = IWSA if block_kind(i) == "iwsa" else SSA
        self.norm1 = nn.LayerNorm(c, config.norm_eps)
        self.attn = attend(c, qkv_bias=config.qkv_bias, **attention_settings(config, k, i))
        self.norm2 = nn.LayerNorm(c, config.norm_eps)
        self.mlp = MLP(c, int(c * config.mlp_ratios[k]))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MLP(nn.Layer):  # type: ignore[misc]
    """`stages.k.i.mlp`."""

    def __init__(self, c: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(c, hidden), nn.GELU(), nn.Linear(hidden, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class IWSA(nn.Layer):  # type: ignore[misc]
    """`stages.k.i.attn`, i even: `sv.iwsa`."""

    def __init__(self, c: int, *, num_heads: int, window_size: int, pad: bool, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.window = num_heads, window_size
        self.scale = float((c / num_heads) ** -0.5)
        self.pads = pad
        self.qkv = nn.Linear(c, 3 * c, bias_attr=None if qkv_bias else False)
        self.lim_func = _conv(c, c, 3, padding=1, groups=c)
        self.proj = nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        p = self.window
        if self.pads:
            x = pad_map(x, bottom=-h % p, right=-w % p)
        q, k, v = self.qkv(x).chunk(3, axis=-1)
        cut = {"ph": p, "pw": p, "heads": self.heads}
        windows = (rearrange(t, "b (gh ph) (gw pw) (heads d) -> b gh gw heads (ph pw) d", **cut) for t in (q, k, v))
        z = attention(*windows, scale=self.scale)
        z = rearrange(z, "b gh gw heads (ph pw) d -> b (gh ph) (gw pw) (heads d)", ph=p)
        return self.proj((z + self.lim_func(v))[:, :h, :w, :])


class SSA(nn.Layer):  # type: ignore[misc]
    """`stages.k.i.attn`, i odd: `sv.ssa`."""

    def __init__(
        self, c: int, *, num_heads: int, sr_ratio: int, c_ratio: float, values: str, ssa_scale: str, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.heads, self.fused = num_heads, sr_ratio == 1 or values == "scaled"
        self.scale = float((c / num_heads * (c_ratio if ssa_scale == "scaled" else 1)) ** -0.5)
        bias = None if qkv_bias else False
        inner = c if sr_ratio == 1 else int(c * c_ratio)
        self.q = nn.Linear(c, inner, bias_attr=bias)
        self.reduction = None
        if sr_ratio > 1:
            tiles = _conv(c, c, sr_ratio, stride=sr_ratio, groups=c)
            self.reduction = nn.Sequential(tiles, _conv(c, inner, 1))
            self.norm_act = nn.Sequential(nn.LayerNorm(inner, SSA_NORM_EPS), nn.GELU())
        if self.fused:
            self.kv = nn.Linear(inner, 2 * inner, bias_attr=bias)
        else:
            self.k, self.v = nn.Linear(inner, inner, bias_attr=bias), nn.Linear(inner, c, bias_attr=bias)
        self.proj = nn.Linear(inner if self.fused else c, c)

    def forward(self, x: Tensor) -> Tensor:
        h = x.shape[1]
        y = x if self.reduction is None else self.norm_act(self.reduction(x))
        k, v = self.kv(y).chunk(2, axis=-1) if self.fused else (self.k(y), self.v(y))
        q, k, v = (rearrange(t, "b h w (heads d) -> b heads (h w) d", heads=self.heads) for t in (self.q(x), k, v))
        z = attention(q, k, v, scale=self.scale)
        return self.proj(rearrange(z, "b heads (h w) d -> b h w (heads d)", h=h))


def _conv(c_in: int, c_out: int, kernel: int, **settings: Any) -> Any:
    return nn.Conv2D(c_in, c_out, kernel, data_format="NHWC", **settings)


def _head(config: ScalableViTConfig) -> Any:
    """The classifier; it has no last Linear where there are no classes."""
    c, classes, wide = config.embed_dims[-1], config.num_classes, MLP_HEAD_WIDTH
    if config.head == "mlp":
        last = nn.Linear(wide, classes) if classes else nn.Identity()
        return nn.Sequential(nn.Linear(c, wide), nn.LayerNorm(wide, config.norm_eps), nn.GELU(), last)
    return nn.Linear(c, classes) if config.head == "linear" and classes else nn.Identity()


def _turned(x: np.ndarray) -> np.ndarray:
    """A Linear's weight from out × in to in × out and back; anything else as it is."""
    return np.ascontiguousarray(x.T) if x.ndim == 2 else x

"""The network as a table of layers: which tap is computed from which, by what function of the specification.

`network.scalable_vit` runs from top to bottom; a comparison must ask for one layer at a time, on inputs of its choice, and try
what a layer would be if it were wired otherwise. The sum of a layer's sources is what it is fed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalablevit_ref._typing import Array, Params
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.backends.einops import reduce
from scalablevit_ref.blocks import mlp, patch_embed, peg
from scalablevit_ref.config import MLP_HEAD_WIDTH, ScalableViTConfig
from scalablevit_ref.network import attention_settings
from scalablevit_ref.ops import gelu, layer_norm, linear
from scalablevit_ref.parameters import Shapes, block_kind

IMAGES = "images"
"""The network's input, in a table of layers and in a trace."""

POOL = "pool"
"""The mean over tokens, which no module of the official network has a name for."""


@dataclass(frozen=True)
class Layer:
    """One tap: the sum of the sources goes through `function`, with the parameters under `name` and these settings."""

    name: str
    function: Callable[..., Any]
    sources: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wiring:
    """How the layers are connected; the defaults are the official network's, the others are mistakes."""

    norms: Literal["pre", "post", "on the branch"] = "pre"
    attention: Literal["residual", "bare"] = "residual"
    mlp: Literal["residual", "bare", "beside attention", "before attention"] = "residual"
    peg: Literal["after the first block", "after the second block", "after the last block", "before the blocks", "missing"] = (
        "after the first block"
    )
    pairs: Literal["IWSA, MLP, SSA, MLP", "SSA, MLP, IWSA, MLP", "SSA, MLP, MLP, IWSA"] = "IWSA, MLP, SSA, MLP"
    stage_norms: Literal["passed on", "on the outputs only"] = "passed on"
    pool: Literal["after norm", "before norm"] = "after norm"


OFFICIAL = Wiring()


def layers(config: ScalableViTConfig, wiring: Wiring = OFFICIAL) -> dict[str, Layer]:
    """Every layer by the name of its tap, in the order of `trace`; with `pool`, which is no tap."""
    table: dict[str, Layer] = {}

    def add(name: str, function: Callable[..., Any], *sources: str, **settings: Any) -> str:
        table[name] = Layer(name, function, sources, settings)
        return name

    x = IMAGES
    for k in range(config.num_stages):
        eps = config.norm_eps if config.embed_norm_eps is None else config.embed_norm_eps
        x = add(f"patch_embeds.{k}", patch_embed, x, patch_size=2 if k else config.patch_size, eps=eps)
        place = _peg_place(wiring, config.depths[k])
        for turn, i in enumerate((None, *_order(wiring, config.depths[k])), start=-1):
            if i is not None:
                _add_block(add, x, config, k, i, wiring)
                x = f"stages.{k}.{i}"
            if turn == place:
                x = add(f"pos_block.{k}", peg, x)
        if config.stage_norms:
            normed = add(f"norm_list.{k}", norm, x, eps=config.norm_eps)
            x = normed if wiring.stage_norms == "passed on" or k == config.num_stages - 1 else x
    _add_head(add, x, config, wiring)
    return table


def layer_shapes(config: ScalableViTConfig, images: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shape of every layer's output, b h w c or b c, for images of shape b c h w."""
    batch, _, h, w = images
    features = config.embed_dims[-1]
    hidden = {"head.0": MLP_HEAD_WIDTH, "head.1": MLP_HEAD_WIDTH, "head.2": MLP_HEAD_WIDTH} if config.head == "mlp" else {}
    last = config.num_classes or hidden.get("head.2", features)
    found: Shapes = {}
    k = 0
    for name in layers(config):
        if name.startswith("patch_embeds."):
            k = int(name.rpartition(".")[2])
            h, w = (-(-size // (2 if k else config.patch_size)) for size in (h, w))
        if name in (POOL, "logits") or name.startswith("head"):
            width = features if name == POOL or config.head == "none" else hidden.get(name, last)
            found[name] = (batch, width)
        else:
            found[name] = (batch, h, w, config.embed_dims[k])
    return found


def _order(wiring: Wiring, depth: int) -> list[int]:
    """The blocks of a stage as they run: by their numbers, or each SSA before the IWSA that it follows."""
    if wiring.pairs == "IWSA, MLP, SSA, MLP":
        return list(range(depth))
    return [i for pair in range(0, depth, 2) for i in (pair + 1, pair) if i < depth]


def _peg_place(wiring: Wiring, depth: int) -> int | None:
    """The turn that PEG follows; −1 for none before it, None for no PEG."""
    places = {"after the first block": 0, "after the second block": 1, "after the last block": depth - 1, "before the blocks": -1}
    return places.get(wiring.peg)


def _add_block(add: Any, x: str, config: ScalableViTConfig, k: int, i: int, wiring: Wiring) -> None:
    name, eps, settings = f"stages.{k}.{i}", config.norm_eps, attention_settings(config, k, i)
    norm1, attn, norm2, mlp_tap = (f"{name}.{part}" for part in ("norm1", "attn", "norm2", "mlp"))
    attention: Callable[..., Any] = iwsa if block_kind(i) == "iwsa" else ssa
    before = (x,) if wiring.attention == "residual" else ()
    if wiring.norms == "post":
        add(norm1, norm, *before, attn, eps=eps)
        add(attn, attention, x, **settings)
        add(norm2, norm, norm1, mlp_tap, eps=eps)
        add(mlp_tap, mlp, norm1)
        add(name, total, norm2)
    elif wiring.norms == "on the branch":
        add(norm1, norm, attn, eps=eps)
        add(attn, attention, x, **settings)
        add(norm2, norm, mlp_tap, eps=eps)
        add(mlp_tap, mlp, *before, norm1)
        add(name, total, *before, norm1, norm2)
    elif wiring.mlp == "before attention" or (wiring.pairs == "SSA, MLP, MLP, IWSA" and attention is iwsa):
        add(norm2, norm, x, eps=eps)
        add(mlp_tap, mlp, norm2)
        add(norm1, norm, x, mlp_tap, eps=eps)
        add(attn, attention, norm1, **settings)
        add(name, total, x, mlp_tap, attn)
    else:
        add(norm1, norm, x, eps=eps)
        add(attn, attention, norm1, **settings)
        add(norm2, norm, *([x] if wiring.mlp == "beside attention" else [*before, attn]), eps=eps)
        add(mlp_tap, mlp, norm2)
        add(name, total, *(() if wiring.mlp == "bare" else (*before, attn)), mlp_tap)


def _add_head(add: Any, x: str, config: ScalableViTConfig, wiring: Wiring) -> None:
    if config.stage_norms:
        x = add(POOL, mean, x)
    elif wiring.pool == "after norm":
        x = add(POOL, mean, add("norm", norm, x, eps=config.norm_eps))
    else:
        x = add("norm", norm, add(POOL, mean, x), eps=config.norm_eps)
    last = head_linear if config.num_classes else total
    if config.head == "mlp":
        x = add("head.0", head_linear, x)
        x = add("head.1", norm, x, eps=config.norm_eps)
        x = add("head.2", head_gelu, x)
        x = add("head", total, add("head.3", last, x))
    elif config.head == "linear":
        x = add("head", last, x)
    add("logits", total, x)


def norm(x: Array, params: Params, *, eps: float) -> Array:
    return layer_norm(x, **params, eps=eps)


def mean(x: Array, params: Params) -> Array:
    """Over the tokens; a port may have taken the mean before the layer that the reference takes it of."""
    return x if len(x.shape) == 2 else reduce(x, "b h w c -> b c", "mean")


def head_linear(x: Array, params: Params) -> Array:
    return linear(x, **params)


def head_gelu(x: Array, params: Params) -> Array:
    return gelu(x)


def total(x: Array, params: Params) -> Array:
    """The sum of the sources itself."""
    return x

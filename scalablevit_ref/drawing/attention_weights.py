"""The attention weights of one layer, from the specification itself: `ssa` and `iwsa` are run with an `attend` that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalablevit_ref.attention import Attend, iwsa, ssa
from scalablevit_ref.backends.einops import rearrange
from scalablevit_ref.config import BlockKind, ScalableViTConfig, near_matches
from scalablevit_ref.network import attention_settings, scalable_vit
from scalablevit_ref.networks import network_of
from scalablevit_ref.ops import softmax
from scalablevit_ref.parameters import block_kind
from scalablevit_ref.run_cost import check_run


@dataclass(frozen=True)
class LayerAttention:
    """What the attention of block `layer` does with a batch of images.

    Parameters
    ----------
    layer : str
        `stages.k.i`.
    kind : "iwsa" or "ssa"
        Of the block.
    span : int
        s of SSA, p of IWSA, in tokens.
    stride : int
        Pixels from token to token.
    weights : b heads h w kh kw
        What the query at token (h, w) gives to each of its keys; they sum to one. SSA's keys are the s × s tiles of the map, for
        all queries the same; IWSA's are the p × p tokens of the query's window.
    logits : b classes
        What the network says.
    lim, values : b h w, optional
        Of IWSA, the lengths |F(V)| and |Z| of what LIM and the windows' attention add up at each token.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, images = load_checkpoint(digits.CHECKPOINT), digits.test_images()[0]
    >>> x = digits.preprocess(images[:1])
    >>> windows = layer_attention(x, found.params, found.config, "stages.0.0")
    >>> windows.kind, windows.tokens, windows.keys, windows.first_key(8, 15)
    ('iwsa', (28, 28), (7, 7), (7, 14))
    """

    layer: str
    kind: BlockKind
    span: int
    stride: int
    weights: np.ndarray
    logits: np.ndarray
    lim: np.ndarray | None = None
    values: np.ndarray | None = None

    @property
    def heads(self) -> int:
        """How many there are."""
        return int(self.weights.shape[1])

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        return self.weights.shape[2], self.weights.shape[3]

    @property
    def keys(self) -> tuple[int, int]:
        """Rows and columns of the keys of one query."""
        return self.weights.shape[4], self.weights.shape[5]

    @property
    def key_tokens(self) -> int:
        """Tokens a side that one key stands for."""
        return self.span if self.kind == "ssa" else 1

    def first_key(self, row: int, column: int) -> tuple[int, int]:
        """The token at the upper left of what the query at this token sees."""
        return (0, 0) if self.kind == "ssa" else (row - row % self.span, column - column % self.span)

    @property
    def received(self) -> np.ndarray:
        """Of SSA: what each key gets, the mean over all queries, "b heads kh kw"."""
        return np.asarray(self.weights.mean(axis=(2, 3)))


def attention_layers(config: ScalableViTConfig) -> list[str]:
    """The blocks of a network: `stages.0.0`, `stages.0.1`, …"""
    return [f"stages.{k}.{i}" for k, depth in enumerate(config.depths) for i in range(depth)]


def layer_attention(
    images: np.ndarray, params: Mapping[str, np.ndarray], config: ScalableViTConfig, layer: str, *, costly: bool = False
) -> LayerAttention:
    """Run the network on images "b c h w" and keep the attention weights of one block.

    Parameters
    ----------
    images : b c h w
        Of the network's channels.
    params : mapping
        The network's parameters under their official names.
    config : ScalableViTConfig
        The network.
    layer : str
        `stages.k.i`, or `stages.k.i.attn`.
    costly
        Whether it is run also where it takes more than the weights and images account for (`run_cost.check_run`).

    Raises
    ------
    CostError
        Unless `costly`.
    ValueError
        For a layer that the network does not have, and what `scalable_vit` raises.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, images = load_checkpoint(digits.CHECKPOINT), digits.test_images()[0]
    >>> x = digits.preprocess(images[:1])
    >>> layer_attention(x, found.params, found.config, "stages.0.1").weights.shape
    (1, 1, 28, 28, 7, 7)
    """
    layer = layer.removesuffix(".attn")
    known = attention_layers(config)
    if layer not in known:
        raise ValueError(f"unknown layer {layer!r}{near_matches(layer, known)}; there are {', '.join(known)}")
    check_run(network_of(config), np.shape(images), dtype=images.dtype, whole=True, costly=costly)
    k, i = map(int, layer.split(".")[1:])
    inputs: dict[str, np.ndarray] = {}

    def keep_input(name: str, x: Any) -> Any:
        if name == f"{layer}.norm1":
            inputs["x"] = x
        return x

    logits = scalable_vit(images, params, config, tap=keep_input)
    prefix = f"{layer}.attn."
    own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
    run = _ssa if block_kind(i) == "ssa" else _iwsa
    found = run(inputs["x"], own, attention_settings(config, k, i))
    return LayerAttention(layer, block_kind(i), stride=config.strides[k], logits=logits, **found)


def _keeping(kept: list[np.ndarray]) -> Attend:
    """`ops.attention` that keeps its weights."""

    def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float) -> Any:
        weights = softmax(q @ rearrange(k, "... m d -> ... d m") * scale)
        kept.append(weights)
        return weights @ v

    return attend


def _ssa(x: np.ndarray, params: Mapping[str, np.ndarray], settings: dict[str, Any]) -> dict[str, Any]:
    kept: list[np.ndarray] = []
    ssa(x, params, **settings, attend=_keeping(kept))
    s, h = settings["sr_ratio"], x.shape[1]
    return {"span": s, "weights": rearrange(kept[0], "b heads (h w) (kh kw) -> b heads h w kh kw", h=h, kh=h // s)}


def _iwsa(x: np.ndarray, params: Mapping[str, np.ndarray], settings: dict[str, Any]) -> dict[str, Any]:
    """With `proj` the identity, `iwsa` gives Z + F(V); without LIM's kernel that is Z, with an attention that gives zeros F(V)."""
    kept: list[np.ndarray] = []
    p, (h, w, c) = settings["window_size"], x.shape[1:]
    unprojected = dict(params) | {"proj.weight": np.eye(c, dtype=x.dtype), "proj.bias": np.zeros(c, x.dtype)}
    no_lim = {name: np.zeros_like(value) for name, value in params.items() if name.startswith("lim_func.")}
    values = iwsa(x, unprojected | no_lim, **settings, attend=_keeping(kept))
    lim = iwsa(x, unprojected, **settings, attend=lambda q, k, v, *, scale: np.zeros_like(v))
    weights = rearrange(kept[0], "b gh gw heads (ph pw) (kh kw) -> b heads (gh ph) (gw pw) kh kw", ph=p, kh=p)
    lengths = {"lim": np.linalg.norm(lim, axis=-1), "values": np.linalg.norm(values, axis=-1)}
    return {"span": p, "weights": weights[:, :, :h, :w], **lengths}

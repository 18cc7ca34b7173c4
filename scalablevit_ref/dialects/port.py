"""The network that vit_pytorch and its Flax port share, from top to bottom; what they do differently is a `Dialect`.

Against the official network: a layer is SSA, feed-forward, [PEG once a stage], feed-forward, IWSA; norms are inside the layer's
parts and have epsilon 1e-5; SSA's k and v come from dense strided convolutions, with no LayerNorm or GELU; q, k and v have no bias;
LIM is dense; the norm between two stages comes before the downsampling, and there is none after the stem; the head is mean, norm,
Linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from scalablevit_ref._typing import Array, Float, Params
from scalablevit_ref.backends.einops import rearrange, reduce
from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.dialects.config import Config
from scalablevit_ref.ops import attention, conv2d, gelu, layer_norm, linear, pad
from scalablevit_ref.parameters import children, modules

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Dialect:
    """What one of the two packages does in its own way.

    Attributes
    ----------
    gelu
        Of the feed-forwards.
    same_padding
        Strided convolutions are padded as TensorFlow's SAME, to ⌈size / stride⌉ outputs with the odd zero at the end; else as
        PyTorch's: 3 around the stem's input, 1 around a downsampling's, none around SSA's, which drops what fills no tile.
    norm_biases
        Norms have a shift beside their gain.
    last_norm
        The last stage ends in a norm like the others.
    """

    gelu: Callable[[Any], Any] = gelu
    same_padding: bool = False
    norm_biases: bool = True
    last_norm: bool = False


def channel_norm(x: Float[Array, "b h w c"], params: Params) -> Float[Array, "b h w c"]:
    """LayerNorm over each token's channels; `g` and `b` hold 1 c 1 1, and a norm without `b` does not shift."""
    gain = rearrange(params["g"], "1 c 1 1 -> c")
    shift = rearrange(params["b"], "1 c 1 1 -> c") if "b" in params else gain * 0.0
    return layer_norm(x, gain, shift, eps=NORM_EPS)


def strided_conv(
    x: Float[Array, "b h w c_in"], params: Params, *, stride: int, padding: int, same: bool
) -> Float[Array, "b h2 w2 c_out"]:
    """A convolution padded by `padding` on every side or, if `same`, to ⌈size / stride⌉ outputs with the odd zero at the end."""
    if not same:
        return conv2d(x, **params, stride=stride, padding=padding)
    kernel = params["weight"].shape[2]
    (top, bottom), (left, right) = (same_padding(size, kernel, stride) for size in x.shape[1:3])
    return conv2d(pad(x, top=top, bottom=bottom, left=left, right=right), **params, stride=stride)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, for ⌈size / stride⌉ steps."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def ssa(x: Float[Array, "b h w c"], params: Params, *, heads: int, s: int, same: bool = False) -> Float[Array, "b h w c"]:
    """The ports' SSA of a normed map: dense kernels take each s × s tile to one key and one value; the scale is dim_key^-½."""
    p = modules(params)
    q = conv2d(x, **p["to_q"])
    k, v = (strided_conv(x, p[name], stride=s, padding=0, same=same) for name in ("to_k", "to_v"))
    q, k, v = (rearrange(t, "b h w (heads d) -> b heads (h w) d", heads=heads) for t in (q, k, v))
    z = attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return conv2d(rearrange(z, "b heads (h w) d -> b h w (heads d)", h=x.shape[1]), **p["to_out.0"])


def iwsa(x: Float[Array, "b h w c"], params: Params, *, heads: int, window_size: int | None) -> Float[Array, "b h w c"]:
    """The ports' IWSA of a normed map: its LIM is a dense convolution; the scale is dim_key^-½; no window is the whole map."""
    p = modules(params)
    q, k, value_map = (conv2d(x, **p[name]) for name in ("to_q", "to_k", "to_v"))
    cut = {"ph": window_size or x.shape[1], "pw": window_size or x.shape[2], "heads": heads}
    q, k, v = (rearrange(t, "b (gh ph) (gw pw) (heads d) -> b gh gw heads (ph pw) d", **cut) for t in (q, k, value_map))
    z = attention(q, k, v, scale=q.shape[-1] ** -0.5)
    z = rearrange(z, "b gh gw heads (ph pw) d -> b (gh ph) (gw pw) (heads d)", ph=cut["ph"])
    return conv2d(z + conv2d(value_map, **p["local_interactive_module"], padding=1), **p["to_out.0"])


def feed_forward(x: Float[Array, "b h w c"], params: Params, *, gelu: Callable[[Any], Any]) -> Float[Array, "b h w c"]:
    """Norm, c → m·c, GELU, m·c → c: entries 0, 1 and 4 of `net`."""
    p = modules(params)
    return conv2d(gelu(conv2d(channel_norm(x, p["net.0"]), **p["net.1"])), **p["net.4"])


def peg(x: Float[Array, "b h w c"], params: Params) -> Float[Array, "b h w c"]:
    """x plus a depthwise 3 × 3 convolution of x."""
    return conv2d(x, **modules(params)["proj"], padding=1, groups=x.shape[-1]) + x


def layer(
    x: Float[Array, "b h w c"], params: Params, *, stage: dict[str, Any], dialect: Dialect, tap: Tap = untapped
) -> Float[Array, "b h w c"]:
    """One layer, its parts under their numbers; the taps see what each part gives.

    The packages build the list SSA, feed-forward, PEG, feed-forward, IWSA, and name the last two the other way round when they take
    it apart again. What runs is the list's order: the second feed-forward comes before IWSA.
    """
    p = children(params)
    heads, norms = stage["heads"], modules(params)
    y = ssa(channel_norm(x, norms["0.norm"]), p["0"], heads=heads, s=stage["reduction_factor"], same=dialect.same_padding)
    x = tap("0", y) + x
    x = tap("1", feed_forward(x, p["1"], gelu=dialect.gelu)) + x
    if "2" in p:
        x = tap("2", peg(x, p["2"]))
    x = tap("3", feed_forward(x, p["3"], gelu=dialect.gelu)) + x
    return tap("4", iwsa(channel_norm(x, norms["4.norm"]), p["4"], heads=heads, window_size=stage["window_size"])) + x


def forward(
    images: Float[Array, "b h w c"], params: Params, config: Config, dialect: Dialect, tap: Tap = untapped
) -> Float[Array, "b classes"]:
    """The whole network on checked input; parameters and taps under vit_pytorch's names, maps b h w c."""
    p = modules(params)
    same = dialect.same_padding
    x = tap("to_patches", strided_conv(images, p["to_patches"], stride=4, padding=3, same=same))
    for k, depth in enumerate(config.depth):
        for j in range(depth):
            name = f"layers.{k}.0.layers.{j}"
            x = layer(x, _under(name, params), stage=config.stage(k), dialect=dialect, tap=partial(_tap_part, tap, name))
        if f"layers.{k}.0.norm" in p:
            x = tap(f"layers.{k}.0.norm", channel_norm(x, p[f"layers.{k}.0.norm"]))
        x = tap(f"layers.{k}.0", x)
        if f"layers.{k}.1.conv" in p:
            x = tap(f"layers.{k}.1", strided_conv(x, p[f"layers.{k}.1.conv"], stride=2, padding=1, same=same))
    x = tap("mlp_head.0", reduce(x, "b h w c -> b c", "mean"))
    gain = p["mlp_head.1"]["weight"]
    x = tap("mlp_head.1", layer_norm(x, gain, p["mlp_head.1"].get("bias", gain * 0.0), eps=NORM_EPS))
    return tap("logits", tap("mlp_head.2", linear(x, **p["mlp_head.2"])))


def _under(module: str, params: Params) -> dict[str, Any]:
    return {name.removeprefix(f"{module}."): value for name, value in params.items() if name.startswith(f"{module}.")}


def _tap_part(tap: Tap, module: str, part: str, x: Any) -> Any:
    return tap(f"{module}.{part}", x)


def traced(run: Callable[[Tap], Any]) -> dict[str, Any]:
    """What the tap that `run` is given sees, by name."""
    seen: dict[str, Any] = {}

    def keep(name: str, x: Any) -> Any:
        seen[name] = x
        return x

    run(keep)
    return seen

"""Differences that are planted into a value, each with the words that must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.compare.reasoning import elementwise, precision

B, H, W, HEADS, D, WINDOW = 2, 14, 21, 3, 8, 7
C = HEADS * D
SHAPE = (B, H, W, C)
FLOAT64, FLOAT32 = 2.0**-52, 2.0**-23
KNOWN = ("x", "the attention", "the normed input", "q", "v")
"""Values beside the step's own, by their words."""

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Plant:
    """What the candidate makes of e, the reference's value, and of the known values; the reference's own value if it is special."""

    candidate: Callable[[np.ndarray, Values], np.ndarray]
    words: str
    kind: str
    reference: Callable[[Values], np.ndarray] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()


def random_values(seed: int, shape: tuple[int, ...] = SHAPE) -> Values:
    rng = np.random.default_rng(seed)
    c = shape[-1]
    values = {name: rng.standard_normal(shape) for name in KNOWN}
    scales = rng.uniform(0.05, 1.0, (*shape[:-1], 1))  # so that tokens differ in their variance, and epsilon shows
    values["the input"] = rng.standard_normal(shape) * scales + 0.3 * rng.standard_normal(c)
    values |= {"gain": rng.uniform(0.5, 1.5, c), "shift": 0.3 * rng.standard_normal(c)}
    return values | {
        "weight": rng.standard_normal((c, c)) / c**0.5,
        "bias": rng.standard_normal(c),
        "e": rng.standard_normal(shape),
    }


def normed(x: np.ndarray, v: Values, *, eps: float = 1e-6, over: Any = -1, ddof: int = 0, root: bool = True) -> np.ndarray:
    variance = x.var(over, keepdims=True, ddof=ddof) + eps
    return (x - x.mean(over, keepdims=True)) / (np.sqrt(variance) if root else variance) * v["gain"] + v["shift"]


def rms(x: np.ndarray, v: Values) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * v["gain"] + v["shift"]


def group_norm(x: np.ndarray, v: Values, groups: int) -> np.ndarray:
    cut = rearrange(x, "b h w (g d) -> b h w g d", g=groups)
    cut = (cut - cut.mean((1, 2, 4), keepdims=True)) / np.sqrt(cut.var((1, 2, 4), keepdims=True) + 1e-6)
    return rearrange(cut, "b h w g d -> b h w (g d)") * v["gain"] + v["shift"]


def linear(x: np.ndarray, v: Values) -> np.ndarray:
    return x @ v["weight"].T + v["bias"]


def in_windows(e: np.ndarray, out: str, back: str) -> np.ndarray:
    cut = {"ph": WINDOW, "pw": WINDOW, "heads": HEADS}
    sizes = {"b": B, "gh": H // WINDOW, "gw": W // WINDOW, "ph": WINDOW, "pw": WINDOW, "heads": HEADS, "d": D}
    memory = rearrange(e, f"b (gh ph) (gw pw) (heads d) -> {out}", **cut)
    return rearrange(memory.reshape([sizes[name] for name in back.split()]), f"{back} -> b (gh ph) (gw pw) (heads d)")


def conditionally(e: np.ndarray, where: tuple[Any, ...], f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    e = e.copy()
    e[where] = f(e[where])
    return e


FACTORS = np.linspace(0.1, 2.0, C)
ALL = slice(None)
SUM = lambda v: v["x"] + v["the attention"]  # noqa: E731
NORM = lambda v: normed(v["the input"], v)  # noqa: E731
LINEAR = lambda v: linear(v["the input"], v)  # noqa: E731
GELU_OF_X = lambda v: elementwise.FUNCTIONS["GELU"](v["x"])  # noqa: E731
OF_NORM, OF_LINEAR = ("gain", "shift"), ("weight", "bias")
ORDER = np.random.default_rng(3).permutation(C)

PLACES = {
    "rolled along H": Plant(lambda e, v: np.roll(e, 3, 1), "rolled by 3 along H", "places"),
    "rolled along both": Plant(lambda e, v: np.roll(e, (3, -2), (1, 2)), "rolled by 3 along H and rolled by -2 along W", "places"),
    "flipped along H": Plant(lambda e, v: e[:, ::-1], "flipped along H", "places"),
    "flipped along W": Plant(lambda e, v: e[:, :, ::-1], "flipped along W", "places"),
    "H and W swapped": Plant(
        lambda e, v: rearrange(e, "b h w c -> b w h c").reshape(SHAPE), "(b w h c) is viewed as (b h w c)", "places"
    ),
    "heads merged": Plant(
        lambda e, v: rearrange(e, "b h w (heads d) -> b heads h w d", heads=HEADS).reshape(SHAPE),
        "heads are merged without the transposition: (b heads n d)",
        "places",
    ),
    "heads merged in windows": Plant(
        lambda e, v: in_windows(e, "b gh gw heads ph pw d", "b gh gw ph pw heads d"),
        "heads are merged without the transposition in each window",
        "places",
    ),
    "heads split": Plant(
        lambda e, v: rearrange(e.reshape(B, HEADS, H, W, D), "b heads h w d -> b h w (heads d)"),
        "heads are split without the transposition: (b n c) is reshaped to (b heads n d)",
        "places",
    ),
    "interleaved": Plant(
        lambda e, v: rearrange(e, "b h w (heads d) -> b h w (d heads)", heads=HEADS),
        "heads are interleaved when they are merged: (d heads) instead of (heads d)",
        "places",
    ),
    "interleaved, split": Plant(
        lambda e, v: rearrange(e, "b h w (d heads) -> b h w (heads d)", heads=HEADS),
        "heads are interleaved when they are split: (d heads) instead of (heads d)",
        "places",
    ),
    "shuffled": Plant(
        lambda e, v: rearrange(e, "b h w (g d) -> b h w (d g)", g=4), "channels are shuffled in 4 groups of 6", "places"
    ),
    "b c h w viewed": Plant(
        lambda e, v: rearrange(e, "b h w c -> b c h w").reshape(SHAPE), "(b c h w) is viewed as (b h w c)", "places"
    ),
    "viewed as b c h w": Plant(
        lambda e, v: rearrange(e.reshape(B, C, H, W), "b c h w -> b h w c"), "(b h w c) is viewed as (b c h w)", "places"
    ),
    "cut column by column": Plant(
        lambda e, v: in_windows(e, "b gw gh ph pw heads d", "b gh gw ph pw heads d"),
        "windows are cut out column by column and merged row by row",
        "places",
    ),
    "merged column by column": Plant(
        lambda e, v: in_windows(e, "b gh gw ph pw heads d", "b gw gh ph pw heads d"),
        "windows are cut out row by row and merged column by column",
        "places",
    ),
    "transposed in windows": Plant(
        lambda e, v: rearrange(e, "b (gh ph) (gw pw) c -> b (gh pw) (gw ph) c", ph=WINDOW, pw=WINDOW),
        "H and W are swapped inside each window",
        "places",
    ),
    "dilated": Plant(
        lambda e, v: rearrange(e, "b (gh ph) (gw pw) c -> b (ph gh) (pw gw) c", ph=WINDOW, pw=WINDOW),
        "windows are a dilated grid instead of tiles",
        "places",
    ),
    "channels reversed": Plant(lambda e, v: e[..., ::-1], "the channels are in reversed order", "places"),
    "halves": Plant(lambda e, v: np.roll(e, C // 2, -1), "the two halves of the channels are swapped", "places"),
    "thirds": Plant(lambda e, v: np.roll(e, C // 3, -1), "the thirds of the channels are rotated", "places"),
    "channels permuted": Plant(
        lambda e, v: e[..., ORDER], "the channels are permuted, alike everywhere", "places", data={"channels": ORDER.tolist()}
    ),
    "images reversed": Plant(
        lambda e, v: e[::-1], "the two halves of the images are swapped|the images are in reversed order", "places"
    ),
    "rolled and merged": Plant(
        lambda e, v: rearrange(np.roll(e, 2, 1), "b h w (heads d) -> b heads h w d", heads=HEADS).reshape(SHAPE),
        "rolled by 2 along H, then heads are merged without the transposition",
        "places",
    ),
    "permuted anyhow": Plant(
        lambda e, v: np.random.default_rng(1).permutation(e.ravel()).reshape(SHAPE), "in an order without a name", "places"
    ),
    "permuted in tokens": Plant(lambda e, v: np.random.default_rng(1).permuted(e, axis=-1), "permuted inside each token", "places"),
    "moved": Plant(lambda e, v: np.concatenate([0 * e[:, :1], e[:, :-1]], 1), "moved by 1 along H: zeros come in", "places"),
    "negative and reversed": Plant(
        lambda e, v: -2 * e[..., ::-1], "times -2, in other places: the channels are in reversed order", "places"
    ),
    "another value reversed": Plant(
        lambda e, v: v["q"][..., ::-1],
        "q, in other places: the channels are in reversed order|are permuted channels of q",
        "places",
    ),
    "halves of two": Plant(
        lambda e, v: np.concatenate([v["q"][..., : C // 2], v["v"][..., C // 2 :]], -1),
        "channels 0–11 are channels 0–11 of q and channels 12–23 are channels 12–23 of v",
        "places",
    ),
}
AFFINE = {
    "1/√d": Plant(lambda e, v: e * D**-0.5, "times 1/√d (d = 8 channels of a head)", "affine", data={"shift": 0.0}),
    "keep probability": Plant(lambda e, v: e / 0.85, "times 1/0.85 (as a keep probability of 0.85 scales)", "affine"),
    "twice": Plant(lambda e, v: 2 * e, "the reference's value times 2", "affine", data={"factor": 2.0}),
    "negative": Plant(lambda e, v: -e, "the sign is reversed", "affine"),
    "a x + b": Plant(lambda e, v: 1.37 * e - 0.25, "times 1.37 minus 1/4", "affine"),
    "zero": Plant(lambda e, v: 0 * e, "every number is 0", "affine"),
    "constant": Plant(lambda e, v: 0 * e + 0.5, "every number is 0.5", "affine"),
    "dropout": Plant(
        lambda e, v: np.where(v["q"] > -0.5, e / 0.7, 0),
        "the others are multiplied by 1/0.7 (as a keep probability of 0.7 scales)",
        "dropout",
    ),
    "for each image": Plant(
        lambda e, v: e * np.array([0.3, 1.7]).reshape(B, 1, 1, 1),
        "each image is multiplied by a factor of its own (0.3 to 1.7)",
        "images",
    ),
    "an image is 0": Plant(lambda e, v: e * np.array([0.0, 1.0]).reshape(B, 1, 1, 1), "0 of 2", "images"),
    "for each head": Plant(
        lambda e, v: e * np.repeat([0.5, 1.5, 2.5], D), "each head is multiplied by a factor of its own (0.5 to 2.5)", "heads"
    ),
    "for each channel": Plant(lambda e, v: e * FACTORS, "each channel is multiplied by a factor of its own (0.1 to 2)", "channels"),
    "channel factor and shift": Plant(
        lambda e, v: e * FACTORS + FACTORS[::-1], "each channel has a factor (0.1 to 2) and a shift (0.1 to 2)", "channels"
    ),
    "for each token": Plant(
        lambda e, v: e * (1 + v["q"][..., :1] ** 2), "each token is multiplied by a factor of its own", "tokens"
    ),
    "for each token and head": Plant(
        lambda e, v: e * (1 + np.repeat(v["q"][..., :HEADS] ** 2, D, -1)), "each token and head is multiplied", "tokens"
    ),
    "normed without gain": Plant(
        lambda e, v: e * (1 + v["q"][..., :1] ** 2) + v["v"][..., :1], "each token has a factor", "tokens"
    ),
    "a vector": Plant(lambda e, v: e + FACTORS, "the same vector is added at every token", "same at every token"),
    "the bias": Plant(lambda e, v: e - v["bias"], "the bias is missing", "same at every token", parameters=("bias",)),
    "the bias twice": Plant(lambda e, v: e + v["bias"], "the bias is added twice", "same at every token", parameters=("bias",)),
    "a third of the bias": Plant(
        lambda e, v: e - v["bias"] * (np.arange(C) < D),
        "the bias is missing in channels 0–7 of 24",
        "same at every token",
        parameters=("bias",),
    ),
}
MIXTURES = {
    "residual missing": Plant(lambda e, v: v["the attention"], "x is missing", "mixture", SUM),
    "residual twice": Plant(lambda e, v: e + v["x"], "x is added twice", "mixture", SUM),
    "residual of the normed": Plant(
        lambda e, v: v["the normed input"] + v["the attention"], "the normed input is added instead of x", "mixture", SUM
    ),
    "branch halved": Plant(lambda e, v: v["x"] + 0.5 * v["the attention"], "the attention is multiplied by 1/2", "mixture", SUM),
    "branch with keep probability": Plant(
        lambda e, v: v["x"] + v["the attention"] / 0.9, "the attention is multiplied by 1/0.9", "mixture", SUM
    ),
    "branch subtracted": Plant(lambda e, v: v["x"] - v["the attention"], "the attention is subtracted", "mixture", SUM),
    "more added": Plant(lambda e, v: e + v["q"], "q is added", "mixture", SUM),
    "added to the unknown": Plant(lambda e, v: e + v["q"], "q is added: it is the reference's value plus q", "mixture"),
    "left out of the unknown": Plant(lambda e, v: e - v["q"], "q is missing or is subtracted", "mixture"),
    "another value": Plant(lambda e, v: v["q"], "it is q", "mixture"),
    "layer scale": Plant(
        lambda e, v: v["x"] + FACTORS * v["the attention"],
        "the attention is multiplied by a factor for each channel (0.1 to 2)",
        "mixture",
        SUM,
    ),
    "drop path": Plant(
        lambda e, v: v["x"] + np.array([0, 1.25]).reshape(B, 1, 1, 1) * v["the attention"],
        "the attention is multiplied by a factor for each image (0 to 1.25)",
        "mixture",
        SUM,
    ),
    "product": Plant(lambda e, v: v["q"] * v["v"], "it is q times v, number by number", "mixture"),
    "gate": Plant(lambda e, v: v["q"] / (1 + np.exp(-v["v"])), "it is q times the sigmoid of v", "mixture"),
    "gated by itself": Plant(lambda e, v: e * v["v"], "times v, number by number", "mixture"),
    "maximum": Plant(lambda e, v: np.maximum(v["q"], v["v"]), "the larger of q and v", "mixture"),
}
ELEMENTWISE = {
    **{
        name: Plant(
            lambda e, v, f=f: f(e),
            f"{name} of the reference's value|it is {name}|the reference's value, with {name}",
            "elementwise",
            data={"function": name},
        )
        for name, f in elementwise.FUNCTIONS.items()
        if name != "ReLU6"
    },
    "ReLU6 of large": Plant(lambda e, v: np.clip(e, 0, 6), "ReLU6 of the reference's value", "elementwise", lambda v: 4 * v["e"]),
    "SiLU for GELU": Plant(
        lambda e, v: elementwise.FUNCTIONS["SiLU"](v["x"]),
        "it is SiLU of x, where the reference has GELU",
        "elementwise",
        GELU_OF_X,
    ),
    "tanh form for GELU": Plant(
        lambda e, v: elementwise.FUNCTIONS["the tanh form of GELU"](v["x"]),
        "it is the tanh form of GELU of x, where the reference has GELU",
        "elementwise",
        GELU_OF_X,
    ),
    "GELU twice": Plant(lambda e, v: elementwise.FUNCTIONS["GELU"](e), "GELU is applied once more", "elementwise", GELU_OF_X),
    "no GELU": Plant(lambda e, v: v["x"], "it is x", "mixture", GELU_OF_X),
    "sigmoid form fitted": Plant(
        lambda e, v: v["x"] * elementwise.sigmoid(1.4 * v["x"]),
        "it is x·σ(1.4 x) of x, where the reference has GELU",
        "elementwise",
        GELU_OF_X,
    ),
    "clamped": Plant(
        lambda e, v: np.clip(e, -0.5, 1.25), "a clamp to [-0.5, 1.25]", "elementwise", data={"low": -0.5, "high": 1.25}
    ),
    "2 GELU": Plant(
        lambda e, v: 2 * elementwise.FUNCTIONS["GELU"](e), "it is 2 times GELU of the reference's value", "elementwise"
    ),
    "hard shrinkage": Plant(lambda e, v: np.where(abs(e) > 0.37, e, 0), "hard shrinkage by 0.37", "elementwise"),
    **{
        f"{name} = 0.37": Plant(lambda e, v, f=f: f(e, 0.37), name.format(0.37), "elementwise")
        for name, (f, _) in elementwise.FAMILIES.items()
    },
}
NORMS = {
    "RMS": Plant(
        lambda e, v: rms(v["the input"], v),
        "RMS norm, not LayerNorm over the channels of each token: the mean is not subtracted",
        "norm",
        NORM,
    ),
    "epsilon": Plant(
        lambda e, v: normed(v["the input"], v, eps=1e-5), "epsilon is 1e-05 instead of 1e-06", "norm", NORM, {"epsilon": 1e-5}
    ),
    "odd epsilon": Plant(lambda e, v: normed(v["the input"], v, eps=3.7e-4), "epsilon is 0.00037 instead of 1e-06", "norm", NORM),
    "unbiased": Plant(lambda e, v: normed(v["the input"], v, ddof=1), "the variance is divided by n − 1 (unbiased)", "norm", NORM),
    "variance": Plant(
        lambda e, v: normed(v["the input"], v, root=False), "divided by the variance: the square root is missing", "norm", NORM
    ),
    "group norm of 1": Plant(
        lambda e, v: normed(v["the input"], v, over=(1, 2, 3)),
        "over H, W and channels of each image (GroupNorm with 1 group",
        "norm",
        NORM,
    ),
    "instance norm": Plant(
        lambda e, v: normed(v["the input"], v, over=(1, 2)), "over H and W of each channel (InstanceNorm)", "norm", NORM
    ),
    "batch norm": Plant(
        lambda e, v: normed(v["the input"], v, over=(0, 1, 2)), "over images, H and W of each channel (BatchNorm", "norm", NORM
    ),
    "group norm of 4": Plant(lambda e, v: group_norm(v["the input"], v, 4), "(GroupNorm with 4 groups)", "norm", NORM),
    "epsilon outside": Plant(
        lambda e, v: (
            (v["the input"] - v["the input"].mean(-1, keepdims=True)) / (v["the input"].std(-1, keepdims=True) + 1e-3) * v["gain"]
            + v["shift"]
        ),
        "epsilon 0.001 is added to the deviation, outside the root",
        "norm",
        NORM,
    ),
    "gain missing": Plant(lambda e, v: (e - v["shift"]) / v["gain"] + v["shift"], "without the gain", "norm", NORM),
    "gain as 1 + weight": Plant(lambda e, v: e + (e - v["shift"]) / v["gain"], "the gain is 1 + weight", "norm", NORM),
    "exchanged": Plant(
        lambda e, v: (e - v["shift"]) / v["gain"] * v["shift"] + v["gain"], "gain and shift are exchanged", "norm", NORM
    ),
    "normed twice": Plant(lambda e, v: normed(e, v), "of the reference's value: it is normalised once more", "norm", NORM),
    "another value normed": Plant(lambda e, v: normed(v["x"], v), "LayerNorm over the channels of each token of x", "norm", NORM),
    "unit length": Plant(
        lambda e, v: e / np.linalg.norm(e, axis=-1, keepdims=True), "L2 normalisation of the reference's value", "norm"
    ),
}
LINEAR_MAPS = {
    "transposed": Plant(lambda e, v: v["the input"] @ v["weight"] + v["bias"], "the weight is transposed", "linear map", LINEAR),
    "missing": Plant(lambda e, v: v["the input"], "the linear layer is missing", "linear map", LINEAR),
    "applied twice": Plant(lambda e, v: linear(e, v), "the linear layer is applied twice", "linear map", LINEAR),
    "of another value": Plant(lambda e, v: linear(v["q"], v), "the linear layer is applied to q", "linear map", LINEAR),
    "halved weight": Plant(
        lambda e, v: v["the input"] @ v["weight"].T / 2 + v["bias"], "the weight is multiplied by 1/2", "linear map", LINEAR
    ),
    "rows": Plant(
        lambda e, v: v["the input"] @ conditionally(v["weight"], (slice(5, 9),), lambda w: w[:, ::-1]).T + v["bias"],
        "the weight is another one in output channels 5–8 of 24|only channels 5–8 of 24 differ",
        "linear map",
        LINEAR,
    ),
    "columns": Plant(
        lambda e, v: v["the input"] @ v["weight"][:, ORDER].T + v["bias"],
        "the weight's input channels are permuted",
        "linear map",
        LINEAR,
    ),
    "any map": Plant(
        lambda e, v: e @ np.random.default_rng(2).standard_normal((C, C)),
        "a linear map of each token of the reference's value, of rank 24",
        "linear map",
    ),
    "rank 2": Plant(
        lambda e, v: e + e @ np.random.default_rng(2).standard_normal((C, 2)) @ np.random.default_rng(4).standard_normal((2, C)),
        "the identity plus a map of rank 2",
        "linear map",
    ),
    "inside heads": Plant(
        lambda e, v: e @ np.kron(np.eye(HEADS), np.random.default_rng(2).standard_normal((D, D))),
        "inside each head, of rank 24",
        "linear map",
    ),
}
PARTS = {
    "one head doubled": Plant(lambda e, v: e * np.repeat([1, 1, 2], D), "heads 2 of 3 are multiplied by 2", "heads"),
    "GELU of a half": Plant(
        lambda e, v: conditionally(e, (..., slice(C // 2, None)), elementwise.FUNCTIONS["GELU"]),
        "only channels 12–23 of 24 differ, the second half: GELU of the reference's value",
        "elementwise",
    ),
    "one image flipped": Plant(
        lambda e, v: conditionally(e, (1,), lambda t: t[:, ::-1]),
        "only the last image (1 of 2) differs: the same numbers in other places",
        "places",
    ),
    "a head reversed": Plant(
        lambda e, v: conditionally(e, (..., slice(D, 2 * D)), lambda t: t[..., ::-1]),
        "only heads 1 of 3 differ: the same numbers in other places: the channels are in reversed order",
        "places",
    ),
}
ROUNDED = {
    name: Plant(lambda e, v, f=f: f(e), f"the value itself is rounded to {name}", "precision", data={"format": name})
    for name, (f, _) in precision.FORMATS.items()
    if name != "TF32"
}
PRECISION = {
    **ROUNDED,
    "int8": Plant(lambda e, v: np.round(e / 0.04) * 0.04, "evenly spaced levels, 0.04 apart (int8)", "precision"),
}
ADDED = np.random.default_rng(8).standard_normal((H, W, C))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def over_tokens(x: np.ndarray) -> np.ndarray:
    return softmax(x.reshape(B, H * W, C), 1).reshape(SHAPE)


VECTORS = {
    "softmax over the channels": Plant(
        lambda e, v: softmax(e, -1), "it is softmax over the channels of the reference's value", "vectors"
    ),
    "softmax over the tokens": Plant(lambda e, v: over_tokens(v["q"]), "it is softmax over the tokens of q", "vectors"),
    "log-softmax": Plant(lambda e, v: np.log(softmax(e, -1)), "it is log-softmax over the channels of the", "vectors"),
    "cumulative": Plant(lambda e, v: e.cumsum(-1), "it is the cumulative sum over the channels of the reference's", "vectors"),
    "cumulative tokens": Plant(
        lambda e, v: e.reshape(B, -1, C).cumsum(1).reshape(SHAPE), "it is the cumulative sum over the tokens of the", "vectors"
    ),
    "sorted": Plant(lambda e, v: np.sort(v["x"], -1), "it is the numbers in ascending order along the channels of x", "vectors"),
    "sum of 1": Plant(
        lambda e, v: abs(e) / abs(e).sum(-1, keepdims=True),
        "it is division by the sum over the channels of the reference's value",
        "vectors",
        lambda v: abs(v["e"]),
    ),
}
BATCHES = {
    "the first image": Plant(lambda e, v: e[[0, 0]], "all images have the value of image 0", "other images"),
    "the first image of another value": Plant(
        lambda e, v: v["q"][[1, 1]], "all images have the value of q of image 1", "other images"
    ),
    "position embedding": Plant(
        lambda e, v: e + ADDED, "a number is added at each place that is the same for every image", "same for every image"
    ),
    "position embedding of rows": Plant(lambda e, v: e + ADDED[:, :1], "the same in all columns", "same for every image"),
    "position embedding of one number": Plant(
        lambda e, v: e + ADDED[..., :1], "the same in all its channels and for every image, as a position embedding is", "tokens"
    ),
    "position embedding of half of it": Plant(
        lambda e, v: 0.5 * e + ADDED, "the reference's value times 1/2, and a number is added", "same for every image"
    ),
    "a factor of each place": Plant(
        lambda e, v: e * ADDED, "each place and channel has a factor of its own", "same for every image"
    ),
}
KINDS = {
    "vectors": VECTORS,
    "batches": BATCHES,
    "places": PLACES,
    "affine": AFFINE,
    "mixtures": MIXTURES,
    "elementwise": ELEMENTWISE,
    "norms": NORMS,
    "linear maps": LINEAR_MAPS,
    "parts": PARTS,
    "precision": PRECISION,
}


def planted(plant: Plant, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Values, dict[str, np.ndarray]]:
    values = random_values(seed)
    expected = plant.reference(values) if plant.reference else values["e"]
    parameters = plant.parameters
    given = {name: values[name] for name in KNOWN}
    if plant.reference in (NORM, LINEAR):
        given["the input"] = values["the input"]
        parameters = OF_NORM if plant.reference is NORM else OF_LINEAR
    return plant.candidate(expected, values), expected, given, {name: values[name] for name in parameters}

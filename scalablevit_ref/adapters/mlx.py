"""ScalableViT as an `mlx.nn.Module` with the official names, whose inner modules run, and what `nn.quantize` does to each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from scalablevit_ref.adapters import extra
from scalablevit_ref.adapters.of_modules import module_at, network_logits, network_maps
from scalablevit_ref.arguments import check_seed
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checkpoints import load_checkpoint, to_state_dict
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checkpoints.layouts import to_canonical
from scalablevit_ref.checks import check_array, check_map, check_shapes
from scalablevit_ref.config import ScalableViTConfig, settled
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.parameters import children, init_params, parameter_shapes

with extra("mlx"):
    import mlx.core as mx
    from mlx import nn, utils

    from scalablevit_ref.adapters.mlx_layers import Arrays, Block, embedding, leaf, position


class ScalableViT(nn.Module):
    """Images b c h w to logits b classes: `sv.scalable_vit` in MLX's layers, for `nn.value_and_grad`, `mx.compile`, `nn.quantize`.

    The paths of `model.parameters()`, joined by dots, are the official names, so `model.stages[0][1].attn.q` is an `nn.Linear`
    whose weight is `stages.0.1.attn.q.weight`. A convolution's weight is (out, h, w, in / groups), as MLX has it; what
    `model.save_weights` writes is `sv.load_checkpoint`'s layout "mlx", and `model.load_weights` takes what
    `sv.save_checkpoint(…, layout="mlx")` and `convert --to mlx` write. There is no dropout.

    Parameters
    ----------
    config : ScalableViTConfig or str
        A configuration, or a variant's name; `overrides` change its settings.
    params : mapping, optional
        Initial values under the official names, arrays of any library, copied; None draws `sv.init_params(config, seed)`.
    seed : int
        Of the initial values that are drawn.

    Raises
    ------
    ValueError or TypeError
        For a setting or parameters that do not fit, and for parameters in float64, in which MLX's layers compute as in float32.
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
        params = tensors_in(init_params(config, seed) if params is None else params)
        check_shapes(params, parameter_shapes(config))
        if any(dtype_name(x) == "float64" for x in params.values()):
            raise TypeError(
                "params are float64, in which MLX's layers keep float32's digits or refuse: give them in float32; "
                "sv.scalable_vit of MLX's arrays computes in float64"
            )
        part: Any = children(to_backend(to_state_dict(params, config, layout="mlx"), "mlx"))
        embeds, pegs, stages, norms = (children(part.get(n, {})) for n in ("patch_embeds", "pos_block", "stages", "norm_list"))
        eps, ks = config.norm_eps, range(config.num_stages)
        strides = [config.patch_size, *[2] * (config.num_stages - 1)]
        embed_eps = config.embed_norm_eps or eps
        self.patch_embeds = [embedding(embeds[str(k)], patch_size=strides[k], eps=embed_eps) for k in ks]
        self.pos_block = [position(pegs[str(k)]) for k in ks]
        self.stages = [[Block(_parts(p), config, k, i) for i, p in enumerate(children(stages[str(k)]).values())] for k in ks]
        if config.stage_norms:
            self.norm_list = [leaf(norms[str(k)], eps=eps) for k in ks]
        else:
            self.norm = leaf(part["norm"], eps=eps)
        if config.head == "mlp":
            p = children(part["head"])
            last = [leaf(p["3"])] if config.num_classes else []
            self.head: Any = [leaf(p["0"]), leaf(p["1"], eps=eps), nn.GELU(), *last]
        elif config.head == "linear" and config.num_classes:
            self.head = leaf(part["head"])

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: ScalableViTConfig) -> ScalableViT:
        """With these weights, say a `Checkpoint`'s: arrays of any library under the official names."""
        return cls(config, params=params)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], *, variant: str | None = None, use_ema: bool = True) -> ScalableViT:
        """The network that a checkpoint file holds, of any layout; `sv.load_checkpoint` reads all settings from the file."""
        checkpoint = load_checkpoint(path, variant=variant, use_ema=use_ema)
        return cls(checkpoint.config, params=checkpoint.params)

    def to_params(self) -> dict[str, np.ndarray]:
        """The weights as they are now, as NumPy arrays under the official names and in their order: for `sv.save_checkpoint`.

        Raises ValueError for a network that was quantised, whose weights are no numbers of floating point any more.
        """
        flat = _flat(self)
        if any(name.endswith(".scales") for name in flat):
            raise ValueError("the network is quantised: model.save_weights(path) keeps its weights")
        found = to_canonical(to_numpy(flat), self.config, "mlx")
        return {name: np.ascontiguousarray(x) for name, x in found.items()}

    def __call__(self, images: mx.array | np.ndarray, *, tap: Tap = untapped) -> mx.array:
        """Logits b classes of images b c h w; `tap` sees each intermediate under its official name, as in `sv.scalable_vit`."""
        logits: mx.array = network_logits(self, self._checked(images), tap)
        return logits

    def features(self, images: mx.array | np.ndarray) -> tuple[mx.array, ...]:
        """The map that each stage ends with, b h w c."""
        return tuple(network_maps(self, self._checked(images), untapped))

    def _checked(self, images: Any) -> Any:
        """Images that fit, NumPy's too."""
        check_array("images", images)
        images = to_backend(images, "mlx") if isinstance(images, np.ndarray) else images
        check_map("images", images, "b c h w", channels=self.config.in_chans)
        weight = module_at(self, "patch_embeds.0.proj").weight
        if images.dtype != weight.dtype:
            raise TypeError(f"images are {dtype_name(images)} but the module is {dtype_name(weight)}")
        check_image_size(self.config, *images.shape[2:])
        return images


def _parts(params: Arrays) -> dict[str, Arrays]:
    return dict(children(params))


@dataclass(frozen=True)
class QuantisedLayer:
    """What quantisation does to one `nn.Linear`.

    Attributes
    ----------
    name
        The official name of the module.
    shape
        Of its weight: out, in.
    weight_error
        ‖Ŵ − W‖ / ‖W‖ of the weight as it is kept, a number between 0 and 1. None where the layer was left as it is.
    isolated
        ‖Δy‖ / ‖y‖ of its output where it alone is quantised.
    propagated
        The same in the network of which every layer is quantised.
    left
        Why it was left as it is, "width 48", which is not divisible by the group's size; empty where it was quantised.
    """

    name: str
    shape: tuple[int, ...]
    weight_error: float | None
    isolated: float
    propagated: float
    left: str = ""


@dataclass(frozen=True)
class Quantisation:
    """A quantised network, and what that did to each of its linear layers; printed, it is a table.

    Attributes
    ----------
    network
        A copy, in which `nn.QuantizedLinear` stands for `nn.Linear`.
    layers
        In the order in which they run.
    logits
        ‖Δ‖ / ‖logits‖.
    same_class
        The share of images whose largest logit is of the same class.
    bytes_before, bytes_after
        Of all weights.
    """

    network: ScalableViT
    bits: int
    group_size: int
    layers: tuple[QuantisedLayer, ...]
    logits: float
    same_class: float
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        head = f"{self.bits} bits in groups of {self.group_size}: {self.bytes_before} to {self.bytes_after} bytes"
        rows = [("layer", "weight", "isolated", "propagated")]
        rows += [
            (
                x.name,
                f"left: {x.left}" if x.weight_error is None else f"{x.weight_error:.1e}",
                f"{x.isolated:.1e}",
                f"{x.propagated:.1e}",
            )
            for x in self.layers
        ]
        rows += [("logits", "", "", f"{self.logits:.1e}")]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([head, *table, f"same class: {self.same_class:.1%}"])


def quantise(network: ScalableViT, images: mx.array | np.ndarray, *, bits: int = 8, group_size: int = 64) -> Quantisation:
    """A copy of the network through `nn.quantize`, with the error of each linear layer on these images.

    Convolutions and norms stay as they are, which MLX does not quantise, and so do layers whose input width is not divisible by
    `group_size`.

    Parameters
    ----------
    network : ScalableViT
        In floating point; it stays as it is.
    images : b c h w
        On which the errors are measured.
    bits : int
        Of a weight: 2, 3, 4, 5, 6 or 8.
    group_size : int
        Weights that share a scale and a bias, each of the weights' dtype: 32, 64 or 128.

    Returns
    -------
    Quantisation
        Its `network` is the copy; `print` shows a table.

    Raises
    ------
    ValueError
        For what MLX does not quantise to, in its words, and for a network that is quantised.
    """
    weights = network.to_params()
    copy = ScalableViT.from_params(weights, network.config)
    odd = {name for name, module in copy.named_modules() if isinstance(module, nn.Linear) and module.weight.shape[1] % group_size}
    nn.quantize(copy, group_size, bits, class_predicate=lambda name, module: isinstance(module, nn.Linear) and name not in odd)
    exact, logits = _seen(network, images)
    narrow, narrow_logits = _seen(copy, images)
    quantised = dict(copy.named_modules())
    layers = []
    for name, (x, y) in exact.items():
        module: Any = quantised[name]
        weight = mx.array(weights[f"{name}.weight"])
        left = f"width {weight.shape[1]}" if name in odd else ""
        held = None if left else mx.dequantize(module.weight, module.scales, module.biases, group_size, bits)
        error = None if held is None else _error(held, weight)
        layers.append(QuantisedLayer(name, tuple(weight.shape), error, _error(module(x), y), _error(narrow[name][1], y), left))
    same = float(np.mean(np.argmax(to_numpy(narrow_logits), 1) == np.argmax(to_numpy(logits), 1)))
    return Quantisation(copy, bits, group_size, tuple(layers), _error(narrow_logits, logits), same, _bytes(network), _bytes(copy))


def _bytes(network: ScalableViT) -> int:
    return sum(x.nbytes for x in _flat(network).values())


def _flat(network: ScalableViT) -> dict[str, mx.array]:
    found: Any = utils.tree_flatten(network.parameters())
    return dict(found)


@contextmanager
def _noting(network: ScalableViT) -> Iterator[dict[str, tuple[mx.array, mx.array]]]:
    """While open, linear layers note what they were given and gave, by their names and in the order in which they run."""
    own = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.QuantizedLinear)}
    seen: dict[str, tuple[mx.array, mx.array]] = {}
    try:
        network.update_modules(utils.tree_unflatten([(name, _Noted(name, module, seen)) for name, module in own.items()]))
        yield seen
    finally:
        network.update_modules(utils.tree_unflatten([*own.items()]))


class _Noted(nn.Module):
    """A linear layer that notes what it is given and gives."""

    def __init__(self, name: str, module: Any, seen: dict[str, tuple[mx.array, mx.array]]) -> None:
        super().__init__()
        self._run: Callable[[mx.array], mx.array] = module.__call__
        self._note = partial(seen.__setitem__, name)

    def __call__(self, x: mx.array) -> mx.array:
        y = self._run(x)
        self._note((x, y))
        return y


def _seen(network: ScalableViT, images: Any) -> tuple[dict[str, tuple[mx.array, mx.array]], mx.array]:
    with _noting(network) as seen:
        return seen, network(images)


def _error(found: mx.array, expected: mx.array) -> float:
    a, b = (to_numpy(x).astype(np.float64) for x in (found, expected))
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1))

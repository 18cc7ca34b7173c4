"""The figures: each change on the trained digits, on random parameters of the size of `small`, and between the two ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.dialects.config import is_norm_bias
from scalablevit_ref.dialects.layers import PortWiring
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.programs.divergences.changes import CHANGES, OTHER_PORT_CHANGES, PORT_CHANGES, TOGETHER, Change, Params
from tests.programs.divergences.network import all_logits

EXACT = 1e-12
"""A relative error below this is rounding, and counts as none."""


@dataclass(frozen=True)
class Bench:
    """What to measure on: which digits; each network's configuration and the images' sizes, those of `Change.odd` second."""

    digits: slice
    networks: Mapping[str, tuple[Any, int, int]]
    port: tuple[vit_pytorch.Config, int, int]


PORT: dict[str, Any] = {
    "num_classes": 1000,
    "dim": 64,
    "depth": (1, 1, 10, 1),
    "heads": (2, 4, 8, 16),
    "reduction_factor": (8, 4, 2, 1),
}
FULL = Bench(
    slice(None),
    {name: (sv.variant(name), 224, 248) for name in ("small", "small_0", "mmdet_small")},
    (vit_pytorch.Config(**PORT, window_size=7), 224, 144),
)
_TINY = sv.ScalableViTConfig(
    embed_dims=(8, 16),
    depths=(2, 4),
    num_heads=(2, 2),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1.25),
    window_sizes=(7, 7),
    num_classes=10,
)
TINY = {
    "small": _TINY,
    "small_0": replace(_TINY, head="linear"),
    "mmdet_small": replace(
        _TINY, head="none", num_classes=0, ssa_values="scaled", pad_windows=True, stage_norms=True, embed_norm_eps=1e-5
    ),
}
TINY_PORT = vit_pytorch.Config(num_classes=10, dim=8, depth=(1, 2), heads=2, reduction_factor=(2, 1), window_size=7)
SAMPLE = Bench(slice(3), {name: (config, 56, 52) for name, config in TINY.items()}, (TINY_PORT, 56, 44))
"""Small enough for a test to measure all of it once more."""

DIGITS_ODD = 100
"""Pixels a side, cut out of the middle, of digits whose maps, 25, 13, 7 and 4 tokens, fill no whole windows and tiles."""


def measured(bench: Bench) -> dict[str, Any]:
    """Of each change: ‖Δ‖ / ‖logits‖ on the digits and on random parameters, predictions changed, and right; `ports` likewise."""
    found = _digits(bench)
    for name, error in _random(bench).items():
        found.setdefault(name, {})["small"] = error
    return {"changes": found, "ports": _ports(bench)}


def _chosen(odd: bool, network: str | None = None) -> dict[str, list[Change]]:
    """The changes for such images, those of one network if one is named, and where they are measured all at once."""
    chosen = {
        name: [change]
        for name, change in CHANGES.items()
        if change.odd == odd and (change.network == network if network else change.on_digits)
    }
    if not odd and network in ("small", None):
        chosen |= {port: [CHANGES[name] for name in names] for port, names in TOGETHER.items()}
    return chosen


def _digits(bench: Bench) -> dict[str, Any]:
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    params = {name: x.astype(np.float64) for name, x in checkpoint.params.items()}
    pixels, labels = (x[bench.digits] for x in digits.test_images())
    images = digits.preprocess(pixels, "float64")
    edge = (digits.IMAGE_SIZE - DIGITS_ODD) // 2
    found: dict[str, Any] = {}
    for odd in (False, True):
        x = images[:, :, edge:-edge, edge:-edge] if odd else images
        logits = all_logits(replace(checkpoint.config, pad_windows=odd), params, x, _chosen(odd))
        reference = logits.pop("")
        right = {name: int((other.argmax(1) == labels).sum()) for name, other in logits.items()}
        changed = {name: int((other.argmax(1) != reference.argmax(1)).sum()) for name, other in logits.items()}
        found |= {"nothing, odd" if odd else "nothing": {"right": int((reference.argmax(1) == labels).sum())}}
        for name, other in logits.items():
            found[name] = {"digits": _error(other, reference), "changed": changed[name], "right": right[name]}
    return found


def _random(bench: Bench) -> dict[str, float]:
    """Parameters and two images, both of seed 0."""
    found: dict[str, float] = {}
    for network, odd in sorted({(change.network, change.odd) for change in CHANGES.values()}):
        config, even_size, odd_size = bench.networks[network]
        config, size = (replace(config, pad_windows=True), odd_size) if odd else (config, even_size)
        params, images = random_params(network_of(config).parameter_shapes()), random_images((2, config.in_chans, size, size))
        logits = all_logits(config, params, images, _chosen(odd, network))
        found |= {name: _error(other, logits[""]) for name, other in logits.items() if name}
    return found


def _ports(bench: Bench) -> dict[str, float]:
    """Each place alone in vit_pytorch; and the Flax port with that place patched, held against vit_pytorch."""
    config, size, odd_size = bench.port
    params, images = port_params(config), random_images((2, 3, size, size))
    unshifted = {name: np.zeros_like(x) if is_norm_bias(name) else x for name, x in params.items()}
    four = list(PORT_CHANGES.values())
    changes = {"as published": four}
    for name, change in PORT_CHANGES.items():
        changes |= {f"{name}, alone": [change], f"{name}, patched": [other for other in four if other is not change]}
    logits = all_logits(config, unshifted, images, changes, AS_IT_RUNS)
    found = {name: _error(logits[name], logits[""]) for name in changes}
    for name, change in OTHER_PORT_CHANGES.items():
        some_config = replace(config, window_size=None) if change.odd else config
        some_images = random_images((2, 3, odd_size, odd_size)) if change.odd else images
        logits = all_logits(some_config, params, some_images, {name: [change]}, AS_IT_RUNS)
        found[name] = _error(logits[name], logits[""])
    return found


AS_IT_RUNS = PortWiring(second_feed_forward="before IWSA")
"""vit_pytorch's table of layers is in the order that its names intend, unless told so."""


def port_params(config: vit_pytorch.Config) -> Params:
    """`random_params` under vit_pytorch's names, where norms hold 1 c 1 1; with the Flax port's last norm, of gain 1."""
    shapes = vit_pytorch.parameter_shapes(config)
    flat = random_params({name: shape[1:2] if name.endswith((".g", ".b")) else shape for name, shape in shapes.items()})
    params = {name: x.reshape(shapes[name]) + name.endswith(".g") for name, x in flat.items()}
    last = len(config.depth) - 1
    return params | {f"layers.{last}.0.norm.g": np.ones((1, config.stage(last)["dim"], 1, 1))}


def _error(other: np.ndarray, reference: np.ndarray) -> float:
    """To three digits, so that every machine finds the same."""
    error = relative_l2(other, reference)
    return float(f"{error:.2e}") if error > EXACT else 0.0

"""Runs of the port of `channels_first`, right or mistaken, with all that `inside` is told: for tests of the inside of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from scalablevit_ref.compare.canonical import settled
from scalablevit_ref.compare.capture.pairing import paired
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.compare.inside import Inside, inside, inside_tap
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing.arrays import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2
from tests.support import channels_first as port

CONFIG = ScalableViTConfig(
    embed_dims=(16, 24), depths=(2, 2), num_heads=(2, 3), mlp_ratios=(2, 3), sr_ratios=(2, 1), c_ratios=(1.25, 1.25),
    window_sizes=(7, 7), num_classes=10, head="linear",
)  # fmt: skip
NAMES = {"patch_embeds": "stems", "pos_block": "positions", "stages": "levels"}
PARTS = {"norm1": "before", "attn": "mixer", "norm2": "between", "mlp": "mlp"}


def own_name(layer: str) -> str:
    """The port's name of a layer."""
    first, *rest = layer.split(".")
    return ".".join([NAMES.get(first, first), *(PARTS.get(part, part) for part in rest)])


@dataclass(frozen=True)
class Run:
    """A candidate that ran, with all that `inside` is told."""

    local: Local
    taps: dict[str, np.ndarray]
    told: dict[str, Any]
    dtype: str

    @property
    def wrong(self) -> str:
        """The first wrong layer; empty if all are right."""
        bound = NETWORK_TOLERANCE[self.dtype] * EPS[self.dtype]
        names = (name for name in self.local.table() if name in self.taps)
        return next((name for name in names if not relative_l2(self.taps[name], self.local.output(name)) <= bound), "")

    def inside(self, name: str = "") -> Inside:
        name = name or self.wrong
        return inside(name, self.local, self.taps[name], dtype=self.dtype, **self.told)

    def inside_tap(self) -> Inside:
        return inside_tap(self.wrong, self.local, self.taps[self.wrong], dtype=self.dtype)


def run(model: nn.Module, config: Any = CONFIG, size: tuple[int, int] = (56, 112), dtype: str = "float64") -> Run:
    torch.set_num_threads(1)
    network, runner = network_of(config), TorchRunner(model, dtype)
    images = random_images((2, network.in_chans, *size), dtype=dtype)
    drawn = runner.record(images, random_params({name: x.shape for name, x in runner.parameters.items()}, dtype=dtype))
    pairing = paired(drawn, runner.parameters, network, images.shape)
    params = {name: x.astype(dtype) for name, x in random_params(network.parameter_shapes()).items()}
    weights = pairing.own_weights(params, runner.parameters)
    graph = runner.record(images, weights)
    returned = {one.path: one.returned[0] for one in graph.modules if one.returned}
    tapped = {name: graph.outputs["logits"] for name in network.layers() if name == "logits"}
    tapped |= {name: returned[path] for name in network.layers() for path in (own_name(name), name) if path in returned}

    used = {value for uses in pairing.steps.values() for use in uses for value in (use.given, use.made)}
    known = dict(runner.values(images, weights, used | set(tapped.values()))[0])

    def fetch(values: Any) -> Any:
        if missing := set(values) - known.keys():
            known.update(runner.values(images, weights, missing)[0])
        return {value: known[value] for value in values if value in known}

    right: dict[str, np.ndarray] = {}
    Local(network, params, images, set(), lambda name: np.zeros(())).end_to_end(right.__setitem__)
    arrays, taps = fetch(set(tapped.values())), {}
    for name, value in tapped.items():
        found = settled(arrays[value].astype(np.float64), right[name])
        if found is not None:  # a backbone gives no logits
            taps[name] = found.layout(arrays[value].astype(np.float64))
    local = Local(network, params, images, set(taps), taps.__getitem__)
    return Run(local, taps, {"graph": graph, "steps": pairing.steps, "fetch": fetch, "tapped": tapped}, dtype)


@cache
def wrong(kind: type[nn.Module], old: str, new: str, method: str = "forward") -> Run:
    model = port.Port(CONFIG)
    port.mistaken(model, kind, old, new, method)
    return run(model)

"""Quantised weights: said to be quantised, at the first parameter that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalablevit_ref import init_params
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint
from tests.support.checkpoints import DIGITS, assert_same

PARAMS = init_params(DIGITS)
REST = {name: x for name, x in PARAMS.items() if name != "head.weight"}
CODES = np.zeros((2, 3), "u4")
SCALES = np.ones((2, 1), "f4")


@pytest.mark.parametrize("wrapper", [(), ("model",)])
@pytest.mark.parametrize(
    ("library", "beside"),
    [
        ("MLX", {"head.weight": CODES, "head.scales": SCALES, "head.biases": SCALES}),
        ("GPTQ or AWQ", {"head.qweight": CODES, "head.qzeros": CODES, "head.scales": SCALES}),
        ("bitsandbytes", {"head.weight": CODES.astype("i1"), "head.SCB": SCALES}),
        ("bitsandbytes", {"head.weight": CODES.astype("u1"), "head.weight.absmax": SCALES}),
        ("quanto", {"head.weight._data": CODES.astype("i1"), "head.weight._scale": SCALES}),
        ("ONNX Runtime", {"head.weight_quantized": CODES.astype("i1")}),
        ("ONNX Runtime or compressed-tensors", {"head.weight_scale": SCALES[0, 0]}),
    ],
)
def test_quantised_weights(tmp_path: Path, library: str, beside: dict[str, Any], wrapper: tuple[str, ...]) -> None:
    state: Any = REST | beside
    for key in wrapper:
        state = {key: state}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"head\.weight: not an array; found a quantised tensor \({library}\)"):
        load_checkpoint(tmp_path / "x.pth")


def test_scales_beside_floating_point_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **PARAMS, **{"head.scales": np.ones(3, "f4")[:1], "other_quantized": CODES})
    assert_same(load_checkpoint(tmp_path / "x.npz"), PARAMS)


@pytest.mark.filterwarnings("ignore")
def test_a_module_quantised_by_torch(tmp_path: Path) -> None:
    module: Any = torch.nn.Module()
    for name, x in PARAMS.items():
        place = module
        *parents, leaf = name.split(".")
        for part in parents[:-1]:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        if not hasattr(place, parents[-1]):
            linear = x.ndim == 2
            place.add_module(parents[-1], torch.nn.Linear(*x.shape[::-1]) if linear else torch.nn.Module())
        if x.ndim != 2 and not isinstance(place := getattr(place, parents[-1]), torch.nn.Linear):
            place.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(x.copy())))
    quantised = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, torch.qint8)
    torch.save(quantised.state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"\.weight: not an array; found a quantised tensor \(torch's packed parameters\)"):
        load_checkpoint(tmp_path / "x.pth")

"""Arrays that are no weights of this network, told for what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint

X = np.zeros((2, 3), "f4")
LORA = "base_model.model.stages.0.0.attn.qkv"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({f"{LORA}.lora_A.weight": X, f"{LORA}.lora_B.weight": X}, r"an adapter \(LoRA\) alone, without the weights"),
        ({f"{LORA}.lora_A.default.weight": X, f"{LORA}.base_layer.weight": X}, "a LoRA adapter beside the weights that it changes"),
        ([X, X, X, X, X], "arrays without names: .*; found 0, 1, 2, 3, …"),
        ({"ema": [X]}, "arrays without names: .*; found ema.0"),
        (
            {"layers.dense.kernel": X, "layers.layer_normalization.gamma": X},
            "other layers'; in lists Keras keeps no",
        ),
        ({"conv1.weight": X}, "names of no known layout; expected stages"),
    ],
)
def test_names_of_no_layout(state: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=f"names of no known layout.*{said}|^{said}"):
        from_state_dict(state)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_alone(tmp_path: Path, kind: Any, wrapped: bool) -> None:
    module = torch.nn.Linear(3, 4)
    optimizer = kind(module.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    torch.save({"epoch": 3, "optimizer": state} if wrapped else state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"an optimizer's state .keys state and param_groups"):
        load_checkpoint(tmp_path / "x.pth")

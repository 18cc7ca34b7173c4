"""The properties' power: each of 26 planted faults turns the properties that are named for it red, on NumPy and on PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import attention, blocks, network, ops
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.programs.faults import killers, plant
from tests.support.library import Agree, Library
from tests.support.mistakes import PLANTED

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8, 16),
    depths=(2, 3),
    num_heads=(2, 4),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1.25),
    window_sizes=(2, 2),
    num_classes=5,
    head="linear",
)
PARAMS = random_params(sv.parameter_shapes(CONFIG))
IMAGES = random_images((1, 3, 32, 48))


def logits(library: str) -> np.ndarray:
    return sv.to_numpy(sv.scalable_vit(sv.to_backend(IMAGES, library), sv.to_backend(PARAMS, library), CONFIG))


def test_there_are_26_faults() -> None:
    assert len(PLANTED) == 26
    assert all(fault.properties for fault in PLANTED.values())


@pytest.mark.parametrize(("fault", "killer"), [(fault, killer) for fault in PLANTED for killer in PLANTED[fault].properties])
def test_a_planted_fault_is_killed(fault: str, killer: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, fault)
    with pytest.raises(AssertionError):  # another error is no kill
        killers(fault)[killer](xp=Library(backend), agree=Agree())


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_shows_in_the_logits_alike_on_both_libraries(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = logits("numpy")
    plant(monkeypatch, fault)
    faulty = logits("numpy")
    assert relative_l2(faulty, sound) > 1e-7
    assert relative_l2(logits("torch"), faulty) < 1e-12
    monkeypatch.undo()
    np.testing.assert_array_equal(logits("numpy"), sound)


def test_planting_reaches_every_module_that_has_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.gelu
    plant(monkeypatch, "tanh GELU")
    assert ops.gelu is attention.gelu is network.gelu is not right
    plant(monkeypatch, "no LIM")
    assert sv.iwsa is attention.iwsa is blocks.iwsa is network.iwsa
    monkeypatch.undo()
    assert ops.gelu is attention.gelu is network.gelu is right

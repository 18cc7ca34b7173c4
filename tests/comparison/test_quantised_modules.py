"""Quantised torch modules: judged without their quantisation, and by what their own grids cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.compare.capture import CaptureError
from scalablevit_ref.compare.capture.torch_quantised import taken_apart
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support.small_network import small_network

CONFIG = small_network(depths=(2, 1))
WEIGHTS = random_params(parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((2, 3, 16, 16), dtype="float32")


@contextmanager
def quiet() -> Iterator[None]:
    """Whatever torch says of an interface that is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network() -> Any:
    made = ScalableViT(CONFIG).eval()
    made.load_state_dict({name: torch.from_numpy(x) for name, x in WEIGHTS.items()})
    return made


def another_epsilon(module: Any) -> None:
    module.stages[0][1].norm2.eps = 1e-3


def transposed(module: Any) -> None:
    weight = module.stages[1][0].attn.proj.weight
    weight.data = weight.data.T.contiguous()


def dynamic(module: Any) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, torch.qint8)  # type: ignore[no-any-return]


def static(module: Any) -> nn.Module:
    """The Linears of the MLPs, each between a rounding and its end."""
    for block in (module.stages[0][0], module.stages[0][1], module.stages[1][0]):
        for name in ("fc1", "fc2"):
            wrapped = torch.ao.quantization.QuantWrapper(getattr(block.mlp, name))
            wrapped.qconfig = torch.ao.quantization.get_default_qconfig("x86")
            setattr(block.mlp, name, wrapped)
    torch.ao.quantization.prepare(module, inplace=True)
    module(torch.from_numpy(IMAGES))
    return torch.ao.quantization.convert(module, inplace=True)  # type: ignore[no-any-return]


def traced(module: Any) -> nn.Module:
    from torch.ao.quantization import quantize_fx

    mapping, images = torch.ao.quantization.get_default_qconfig_mapping("x86"), torch.from_numpy(IMAGES)
    prepared = quantize_fx.prepare_fx(module, mapping, (images,))
    prepared(images)
    return quantize_fx.convert_fx(prepared)  # type: ignore[no-any-return]


def exported(module: Any) -> nn.Module:
    steps: Any = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    kinds: Any = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    images = torch.from_numpy(IMAGES)
    quantizer = kinds.X86InductorQuantizer()
    quantizer.set_global(kinds.get_default_x86_inductor_quantization_config())
    prepared = steps.prepare_pt2e(torch.export.export(module, (images,)).module(), quantizer)
    prepared(images)
    return steps.convert_pt2e(prepared)  # type: ignore[no-any-return]


def weights_alone(module: Any) -> nn.Module:
    torchao: Any = pytest.importorskip("torchao.quantization")
    torchao.quantize_(module, torchao.Int8WeightOnlyConfig())
    return module  # type: ignore[no-any-return]


def each_token(module: Any) -> nn.Module:
    torchao: Any = pytest.importorskip("torchao.quantization")
    torchao.quantize_(module, torchao.Int8DynamicActivationInt8WeightConfig())
    return module  # type: ignore[no-any-return]


WAYS: list[Callable[[Any], nn.Module]] = [dynamic, static, traced, exported, weights_alone, each_token]


def held(way: Callable[[Any], nn.Module], *mistakes: Callable[[Any], None], **settings: Any) -> Report:
    module = network()
    for make in mistakes:
        make(module)
    with quiet():
        module = way(module)
        return compare(module, variant=CONFIG, **{"images": IMAGES, "weights": WEIGHTS, **settings})


@pytest.mark.parametrize("way", WAYS)
def test_a_right_module_has_the_noise_of_its_grids(way: Callable[[Any], nn.Module]) -> None:
    report = held(way)
    assert report.noise is not None
    assert not report.noise.wrong, report
    assert not report.own_weights
    assert not report.causes
    assert str(report).startswith("DIFFERS from the reference by its quantisation alone")
    assert any(note.startswith("it is quantised (") for note in report.notes)
    assert report.kind == "quantised torch module"
    noisy = [row for row in report.noise.rows if row.noise > -60]
    assert len(noisy) >= 3
    assert all(-60 < row.noise < -20 for row in noisy)
    assert all(row.noise == pytest.approx(row.own, abs=3) for row in noisy)


@pytest.mark.parametrize("way", WAYS)
def test_a_mistake_below_the_noise_is_found_without_it(way: Callable[[Any], nn.Module]) -> None:
    report = held(way, another_epsilon)
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.0.1.norm2"], report
    ((words, layers),) = [(cause.words, cause.layers) for cause in report.causes]
    assert (words, layers) == ("LayerNorm's epsilon is 1e-3", ("stages.0.1.norm2",))


@pytest.mark.parametrize("way", [way for way in WAYS if way is not static])
def test_weights_that_are_no_roundings_are_found(way: Callable[[Any], nn.Module]) -> None:
    report = held(way, transposed)
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.1.0.attn"], report
    (line,) = report.own_weights
    assert line == "its weights beside those given, rounded: stages.1.0.attn.proj.weight: they are transposed"
    assert report.own_weights_wrong


@pytest.mark.parametrize("way", [dynamic, static, exported, weights_alone])
def test_the_numbers_are_the_module_s_own(way: Callable[[Any], nn.Module]) -> None:
    """With rounding switched on, what was taken apart gives what the module gives."""
    images = torch.from_numpy(IMAGES)
    with quiet(), torch.no_grad():
        module = way(network())
        rounded, plain = (taken_apart(module, on=on).module(images).numpy() for on in (True, False))
        own = module(images).numpy()
    np.testing.assert_allclose(rounded, own, rtol=0, atol=1e-4 * np.abs(own).max())
    assert way is weights_alone or np.abs(plain - own).max() > 1e-3 * np.abs(own).max()


def test_weights_must_be_given() -> None:
    with pytest.raises(CaptureError, match=r"^weights must be given for this module, which is quantised"):
        held(dynamic, weights=None)


def test_what_cannot_be_taken_apart_is_one_line() -> None:
    module = network()
    with quiet():
        module.stages[0][0].mlp.act = torch.ao.nn.quantized.ELU(0.1, 0)
        with pytest.raises(CaptureError, match=r"is quantised, and its ELU in stages\.0\.0\.mlp\.act cannot be followed$"):
            compare(module, variant=CONFIG, images=IMAGES, weights=WEIGHTS)

"""What a run would take, told before it runs: against `cost`, against measured memory, and what is refused because of it."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scalablevit_ref.backends import torch as torch_backend
from scalablevit_ref.backends.sizes import Ledger, Sizes
from torch.utils.flop_counter import FlopCounterMode

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref import run_cost as bounds
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import EXPONENTIAL, FREE_MEMORY, FREE_WORK, CostError, check_run, machine_memory, run_cost
from scalablevit_ref.testing import random_images, random_params

DIGITS = sv.variant("digits")
LARGE = sv.variant("large", depths=(2, 1, 2, 1), num_classes=10)
PORT = vit_pytorch.Config(num_classes=10, dim=16, depth=(2, 1), heads=2, reduction_factor=(4, 2), window_size=(7, 7))
CASES: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "digits": (DIGITS, (4, 112, 112)),
    "large": (LARGE, (1, 224, 224)),
    "detection backbone": (sv.variant("mmdet_small", depths=(2, 2, 2, 2)), (2, 120, 200)),
    "windows of the whole map": (replace(DIGITS, window_sizes=(28, 14, 7, 4)), (2, 112, 112)),
    "padded windows": (replace(DIGITS, window_sizes=(40,) * 4, pad_windows=True), (2, 112, 112)),
    "many heads": (replace(DIGITS, num_heads=(16, 32, 48, 64), c_ratios=(1,) * 4), (1, 112, 112)),
    "large patches": (replace(DIGITS, in_chans=64), (1, 112, 112)),
    "a port": (PORT, (2, 112, 112)),
    "a port without windows": (replace(PORT, window_size=None), (1, 112, 112)),
}
cases = pytest.mark.parametrize(("config", "shape"), CASES.values(), ids=CASES)


def measured(run: Callable[[Callable[[str, Any], Any]], Any], *, keeping: bool) -> int:
    """Most bytes that were alive at once during a second run, above those before it."""
    kept: dict[str, Any] = {}

    def tap(name: str, x: Any) -> Any:
        if keeping:
            kept[name] = x
        return x

    run(tap)
    kept.clear()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run(tap)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - before


@pytest.mark.parametrize("keeping", [False, True], ids=["forward", "trace"])
@cases
def test_memory_is_what_is_measured(config: Any, shape: tuple[int, int, int], *, keeping: bool) -> None:
    network = network_of(config)
    images, params = random_images((shape[0], network.in_chans, *shape[1:])), random_params(network.parameter_shapes())
    found = measured(lambda tap: network.forward(images, params, tap), keeping=keeping)
    estimate = run_cost(network, images.shape, keeping=keeping).memory
    assert found <= estimate <= 1.5 * found + 2e6


@pytest.mark.parametrize("patched", [False, True])
def test_the_flax_port_takes_no_more_than_the_other(*, patched: bool) -> None:
    """`convert --verify` asks the one network for both ports."""
    images = random_images((1, 112, 112, 3))
    params = random_params(flax_port.parameter_shapes(PORT, patched=patched))
    found = measured(lambda tap: flax_port.scalable_vit(images, params, PORT, patched=patched, tap=tap), keeping=False)
    assert found <= run_cost(network_of(PORT), (1, 3, 112, 112)).memory <= 1.5 * found + 2e6


@pytest.mark.parametrize("name", [name for name in CASES if "port" not in name])
def test_multiply_adds_are_those_of_the_formulas(name: str) -> None:
    config, (batch, *size) = CASES[name]
    found, total = run_cost(network_of(config), (batch, config.in_chans, *size)), sv.cost(config, tuple(size))
    assert found.multiply_adds == batch * (total.multiply_adds + EXPONENTIAL * total.attention_activations)
    work = {layer.name: layer.multiply_adds + EXPONENTIAL * layer.attention_activations for layer in total.layers}
    assert found.dearest == max(work, key=lambda layer: work[layer])


def test_multiply_adds_of_a_port_are_half_of_the_flops_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention runs as its definition, whose two products torch counts."""
    monkeypatch.setattr(torch_backend, "attention", ops.attention.definition)
    network, shape = network_of(PORT), (1, 3, 112, 112)
    params = sv.to_backend(random_params(network.parameter_shapes()), "torch")
    with FlopCounterMode(display=False) as flops:
        network.forward(torch.zeros(shape, dtype=torch.float64), params)
    ledger = Ledger()
    network.forward(Sizes(shape, ledger), {name: Sizes(x, ledger) for name, x in network.parameter_shapes().items()})
    assert flops.get_total_flops() == 2 * ledger.multiply_adds


@pytest.mark.parametrize("name", ["digits", "small", "small_0", "base", "large", "mmdet_small"])
@pytest.mark.parametrize(("batch", "size"), [(40, 112), (40, 224), (2, 448), (1, 672), (1, 896)])
def test_what_honest_users_run_passes(name: str, batch: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant at usual sizes, with the layers of all images kept beside those of another library. On 32 GB."""
    monkeypatch.setattr(bounds, "machine_memory", lambda: 32 * 10**9)
    network = network_of(sv.variant(name, pad_windows=True))
    shape = (batch, network.in_chans, size, size)
    check_run(network, shape, keeping=True, whole=True, beside=run_cost(network, shape).kept)


@pytest.mark.parametrize("name", ["digits", "small", "small_0", "base", "large", "mmdet_small"])
def test_sizes_that_the_tools_choose_pass(name: str) -> None:
    """Also where another window makes the image that fits it larger."""
    for windows in (7, 8, 12, 14, 16):
        network = network_of(sv.variant(name, window_sizes=(windows,) * 4))
        size = network.usual_image_size()
        check_run(network, (2, network.in_chans, size, size), keeping=True, whole=True, given=False)


@pytest.mark.parametrize(
    ("change", "size", "layer"),
    [
        (
            {"window_sizes": (10**5,) * 4, "pad_windows": True},
            112,
            r"stages\.3\.0\.attn \(num_heads 4, window_size 100000, pad True\)",
        ),
        ({"window_sizes": (500,) * 4, "pad_windows": True}, 112, r"stages\.3\.0\.attn \(num_heads 4, window_size 500"),
        ({"window_sizes": (7, 7, 200, 2), "pad_windows": True}, 112, r"stages\.2\.0\.attn \(num_heads 3, window_size 200"),
        ({"window_sizes": (2**63 - 1,) * 4, "pad_windows": True}, 112, r"e\+7\d multiply-adds each and \d\.\de\+\d\d bytes"),
        ({"window_sizes": (2000, 1000, 500, 250)}, 8000, r"stages\.0\.0\.attn \(num_heads 1, window_size 2000"),
        ({"num_heads": (16, 32, 48, 64), "c_ratios": (1,) * 4, "sr_ratios": (1,) * 4}, 896, r"stages\.0\.1\.attn \(num_heads 16"),
    ],
)
def test_settings_that_show_in_no_shape_are_refused(change: dict[str, Any], size: int, layer: str) -> None:
    network = network_of(replace(DIGITS, **change))
    with pytest.raises(CostError, match=layer) as caught:
        check_run(network, (1, 1, size, size), given=False)
    assert str(caught.value).endswith("costly=True runs it all the same")
    assert caught.value.in_flags().endswith("--costly runs it all the same")
    check_run(network, (1, 1, size, size), given=False, costly=True)


def test_a_port_is_refused_likewise() -> None:
    network = network_of(replace(PORT, window_size=None))
    with pytest.raises(CostError, match=r"layers\.0\.0\.layers\.\d\.4 \(heads 2, window_size None\)"):
        check_run(network, (1, 3, 2240, 2240))


def test_images_that_are_given_account_for_more() -> None:
    network, shape = network_of(replace(DIGITS, pad_windows=True)), (1, 1, 1008, 1008)
    with pytest.raises(CostError, match=r"1 image of 1008 x 1008 would take 4\.\de\+10 multiply-adds each"):
        check_run(network, shape, given=False)
    check_run(network, shape)


def test_the_memory_of_the_machine_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(LARGE)
    shape = (40, 3, 224, 224)
    needed = run_cost(network, shape, keeping=True).memory
    monkeypatch.setattr(bounds, "machine_memory", lambda: needed)
    with pytest.raises(CostError, match=r"and \d\.\d GB, for such weights and images on this machine; costly=True"):
        check_run(network, shape, keeping=True)
    monkeypatch.setattr(bounds, "machine_memory", lambda: None)
    check_run(network, shape, keeping=True)
    assert needed > FREE_MEMORY / 2


def test_a_limit_of_the_process_is_its_memory() -> None:
    resource = pytest.importorskip("resource")
    code = (
        "import resource; from scalablevit_ref.run_cost import machine_memory\n"
        "before = machine_memory(); resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)); print(before, machine_memory())"
    )
    assert resource
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    before, after = map(int, done.stdout.split())
    assert 0 < after < 2 << 30 < before
    assert machine_memory()


def test_nothing_is_computed() -> None:
    """Of an image that no machine could hold."""
    cost = run_cost(network_of(DIGITS), (1, 1, 112 * 10**6, 112 * 10**6))
    assert cost.memory > 10**15
    assert cost.multiply_adds > 10**30 > FREE_WORK


def test_a_view_keeps_its_base_alive_and_a_copy_does_not() -> None:
    ledger = Ledger()
    x = Sizes((4, 6), ledger)
    view = x[1:3, ...]
    assert (view.shape, view.in_order, ledger.alive) == ((2, 6), False, 4 * 6 * 8)
    del x
    assert ledger.alive == 4 * 6 * 8
    copy = view.transposed((1, 0)).reshaped((12,))
    assert ledger.alive == (4 * 6 + 12) * 8
    del view
    assert ledger.alive == 12 * 8
    assert (copy + np.float64(1).item()).shape == (12,)
    assert ledger.peak == (4 * 6 + 12) * 8

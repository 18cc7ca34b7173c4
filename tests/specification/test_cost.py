"""The analytic costs against the published totals, against `trace` and against PyTorch's own count of what ran."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from scalablevit_ref.backends import torch as torch_backend
from torch.utils.flop_counter import FlopCounterMode

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.cost import PUBLISHED, Cost, cost

ODD = {  # strides 2, 4, 8; every width, head count and ratio differs
    "embed_dims": (12, 18, 40),
    "depths": (3, 1, 2),
    "num_heads": (2, 3, 4),
    "mlp_ratios": (2, 1.5, 3),
    "sr_ratios": (3, 2, 2),
    "c_ratios": (0.5, 1, 1.5),
    "window_sizes": (4, 5, 3),
    "num_classes": 7,
    "in_chans": 2,
    "patch_size": 2,
}
CASES = {
    "digits": (sv.variant("digits"), (112, 112)),
    "whole windows": (sv.ScalableViTConfig(**ODD | {"window_sizes": (4, 5, 5)}), (80, 160)),
    "padded windows, v3": (sv.ScalableViTConfig(**ODD, pad_windows=True), (37, 58)),
    "padded windows, v1": (sv.ScalableViTConfig(**ODD, pad_windows=True, ssa_values="scaled"), (37, 58)),
    "s = 1": (sv.ScalableViTConfig(**ODD | {"sr_ratios": (1, 1, 1)}, pad_windows=True, head="linear"), (26, 21)),
    "no biases, no classes": (sv.ScalableViTConfig(**ODD | {"num_classes": 0}, pad_windows=True, qkv_bias=False), (26, 21)),
    "linear head without classes": (sv.ScalableViTConfig(**ODD | {"num_classes": 0}, pad_windows=True, head="linear"), (26, 21)),
    "detection backbone": (sv.variant("mmdet_small", depths=(2, 2, 2, 2)), (65, 70)),
}
cases = pytest.mark.parametrize(("config", "image_size"), CASES.values(), ids=CASES)


def images(config: sv.ScalableViTConfig, image_size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, config.in_chans, *image_size)).astype("float32")


@pytest.mark.parametrize(
    ("variant", "giga", "by_modules"),
    [("small", 4.265, None), ("small_0", 4.260, None), ("base", 8.801, 8.59), ("large", 14.988, 14.72)],
)
def test_totals_of_the_published_variants(variant: str, giga: float, by_modules: float | None) -> None:
    total = cost(sv.variant(variant), 224)
    assert round(total.multiply_adds / 1e9, 3) == giga
    if by_modules:
        assert round(total.module_multiply_adds / 1e9, 2) == by_modules


@pytest.mark.parametrize(("variant", "overrides"), [("small", {"ssa_values": "scaled"}), ("base", {}), ("large", {})])
def test_the_authors_multiply_adds_leave_the_attention_products_out(variant: str, overrides: dict[str, str]) -> None:
    total = cost(sv.variant(variant, **overrides), 224)
    assert round(total.module_multiply_adds / 1e9, 1) == PUBLISHED[variant].multiply_adds
    assert round(total.multiply_adds / 1e9, 1) != PUBLISHED[variant].multiply_adds


def test_the_authors_parameters() -> None:
    assert round(cost(sv.variant("small", ssa_values="scaled"), 224).parameters / 1e6, 1) == PUBLISHED["small"].parameters
    assert round(cost(sv.variant("base"), 224).parameters / 1e6, 1) == PUBLISHED["base"].parameters


@cases
def test_names_and_shapes_are_those_of_the_trace(config: sv.ScalableViTConfig, image_size: tuple[int, int]) -> None:
    layers = cost(config, image_size).layers
    seen = sv.trace(images(config, image_size), sv.init_params(config), config)
    names = [layer.name for layer in layers]
    assert names == [name for name in seen if name in set(names)]
    assert [layer.output_shape for layer in layers] == [seen[name].shape[1:] for name in names]
    without_parameters = {"head", "head.2", "logits"} | ({"head.3"} if not config.num_classes else set())
    blocks = {f"stages.{k}.{i}" for k, depth in enumerate(config.depths) for i in range(depth)}
    assert set(seen) - set(names) <= without_parameters | blocks


def test_kinds() -> None:
    kinds = {layer.name: layer.kind for layer in cost(sv.variant("small"), 224).layers}
    assert [kinds[f"stages.2.{part}"] for part in ("0.norm1", "0.attn", "0.norm2", "0.mlp", "1.attn")] == [
        "norm",
        "iwsa",
        "norm",
        "mlp",
        "ssa",
    ]
    assert [kinds[name] for name in ("patch_embeds.0", "pos_block.3", "norm")] == ["patch_embed", "peg", "norm"]
    assert [kinds[f"head.{i}"] for i in (0, 1, 3)] == ["linear", "norm", "linear"]


@cases
def test_each_parameter_counts_once(config: sv.ScalableViTConfig, image_size: tuple[int, int]) -> None:
    layers = cost(config, image_size).layers
    found = {layer.name: 0 for layer in layers}
    for name, shape in sv.parameter_shapes(config).items():
        (owner,) = [layer for layer in found if name.startswith(layer + ".")]
        found[owner] += int(np.prod(shape))
    assert found == {layer.name: layer.parameters for layer in layers}


def run_on_torch(config: sv.ScalableViTConfig, image_size: tuple[int, int]) -> None:
    params, x = (sv.to_backend(arrays, "torch") for arrays in (sv.init_params(config), images(config, image_size)))
    sv.scalable_vit(x, params, config)


@cases
def test_multiply_adds_are_half_of_the_flops_that_torch_counts(
    config: sv.ScalableViTConfig, image_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention runs as its definition, whose two products torch counts."""
    products = []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
        before = flops.get_total_flops()
        z = ops.attention.definition(q, k, v, scale=scale)
        products.append(flops.get_total_flops() - before)
        return z

    monkeypatch.setattr(torch_backend, "attention", attention)
    with FlopCounterMode(display=False) as flops:
        run_on_torch(config, image_size)
    total = cost(config, image_size)
    assert flops.get_total_flops() == 2 * total.multiply_adds
    assert products == [2 * layer.attention_multiply_adds for layer in total.layers if layer.kind in ("iwsa", "ssa")]


@cases
def test_activations_are_the_elements_that_torch_puts_out(
    config: sv.ScalableViTConfig, image_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    elements, matrices = [], []

    def counted(native: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def op(*args: Any, **kwargs: Any) -> torch.Tensor:
            y = native(*args, **kwargs)
            elements.append(y.numel())
            return y

        return op

    def softmax(x: torch.Tensor) -> torch.Tensor:
        matrices.append(x.numel())
        return torch.softmax(x, -1)

    for name in ("linear", "conv2d", "layer_norm"):
        monkeypatch.setattr(torch_backend, name, counted(getattr(torch_backend, name)))
    monkeypatch.setattr(torch_backend, "softmax", softmax, raising=False)
    monkeypatch.delattr(torch_backend, "attention")
    run_on_torch(config, image_size)
    total = cost(config, image_size)
    assert matrices == [layer.attention_activations for layer in total.layers if layer.kind in ("iwsa", "ssa")]
    assert sum(elements) + sum(matrices) == total.activations


def test_totals_are_the_sums_of_the_layers() -> None:
    total = cost(sv.variant("digits"), 112)
    for name in ("parameters", "multiply_adds", "attention_multiply_adds", "activations", "attention_activations"):
        assert getattr(total, name) == sum(getattr(layer, name) for layer in total.layers)
    assert isinstance(total, Cost)
    assert total == cost(sv.variant("digits"), (112, 112))


def test_height_and_width_are_in_this_order() -> None:
    assert cost(sv.variant("small"), (224, 448)).layers[0].output_shape == (56, 112, 64)


@pytest.mark.parametrize(
    ("image_size", "error", "message"),
    [
        (225, ValueError, "images of 225 x 225: 225 pixels give maps of 57, 29, 15, 8 tokens a side"),
        ((224, 240), ValueError, "images of 224 x 240: 240 pixels.*nearest sizes that work are 224 and 445"),
        (0, ValueError, "image_size must be at least 1, got 0"),
        (224.0, TypeError, "image_size must be a whole number, got 224.0"),
        ("224", TypeError, "image_size must be a whole number, got '224'"),
        ((224, 224, 3), ValueError, r"one number or \(height, width\), got \(224, 224, 3\)"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(image_size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cost(sv.variant("small"), image_size)


def test_a_map_of_less_than_one_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least sr_ratios"):
        cost(sv.variant("mmdet_small"), 16)


def test_settings_of_large_that_count_to_the_published_parameters() -> None:
    """What `docs/cost.md` says of the riddle of L: eight combinations fit the parameters, none of them the multiply-adds too."""
    published, fitting, tried = PUBLISHED["large"], [], 0
    for *ratios, values, head in product(*[(0.25, 0.5, 0.75, 1, 1.25, 1.5, 2)] * 3, ("unscaled", "scaled"), ("mlp", "linear")):
        config = sv.variant("large", c_ratios=(*ratios, 1), ssa_values=values, head=head)
        tried += 1
        if round(sum(map(prod, sv.parameter_shapes(config).values())) / 1e6, 1) == published.parameters:
            fitting.append(config)
    assert (tried, len(fitting)) == (1372, 8)
    assert not [c for c in fitting if round(cost(c, 224).module_multiply_adds / 1e9, 1) == published.multiply_adds]
    small_0 = sv.variant("large", c_ratios=(1.25,) * 4, head="linear")
    assert round(cost(small_0, 224).parameters / 1e6, 1) == published.parameters

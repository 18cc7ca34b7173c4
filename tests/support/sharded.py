"""`python -m tests.support.sharded jax` or `… torch RANK STORE`: a batch shared out over devices gives the same.

A program of its own, which `test_sharding.py` runs: how many devices JAX has is decided before it starts, and PyTorch wants a
process for each. It prints a word for each check that holds.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.arrays import assert_agrees
from tests.support.waiting import HANGS

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8, 16),
    depths=(2, 2),
    num_heads=(2, 2),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(2, 2),
    num_classes=5,
    head="linear",
    patch_size=2,
    pad_windows=True,
)
IMAGES, PARAMS = random_images((8, 3, 12, 20)), random_params(sv.parameter_shapes(CONFIG))
EXPECTED = sv.scalable_vit(IMAGES, PARAMS, CONFIG)


def on_jax() -> None:
    """Images over eight devices, parameters on every one of them: JAX's partitioner does the rest, and gathers nothing."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    jax.config.update("jax_enable_x64", True)
    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))  # "Explicit" types refuse to split axes, as windows do
    images = sv.to_backend(IMAGES, "jax", device=NamedSharding(mesh, PartitionSpec("batch")))
    params = sv.to_backend(PARAMS, "jax", device=NamedSharding(mesh, PartitionSpec()))
    program = jax.jit(sv.scalable_vit, static_argnums=2).lower(images, params, CONFIG).compile()
    text = program.as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    logits = program(images, params)
    assert len(logits.sharding.device_set) == 8
    assert {shard.data.shape for shard in logits.addressable_shards} == {(1, 5)}
    assert_agrees(logits, EXPECTED)
    elsewhere = sv.to_backend(PARAMS, "jax", device="cpu:1")
    with pytest.raises(ValueError, match=r"images is on device .* but parameter '[^']*' is on"):
        sv.scalable_vit(images, elsewhere, CONFIG)


def on_torch(rank: int, store: str) -> None:
    """Each of two processes has half of the images."""
    import torch.distributed as dist

    limit = timedelta(seconds=HANGS)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=limit)
    check_logits()
    say("logits")
    check_training(rank)
    say("training")
    dist.destroy_process_group()


def check_logits() -> None:
    """Of images as a DTensor. `MATH`: the CPU's fused attention has no rule for sharding."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
    from torch.nn.attention import SDPBackend, sdpa_kernel

    mesh = init_device_mesh("cpu", (2,))
    images = distribute_tensor(sv.to_backend(IMAGES, "torch"), mesh, [Shard(0)])
    params = {name: distribute_tensor(x, mesh, [Replicate()]) for name, x in sv.to_backend(PARAMS, "torch").items()}
    with sdpa_kernel(SDPBackend.MATH):
        logits = sv.scalable_vit(images, params, CONFIG)
    assert logits.placements == (Shard(0),)
    assert logits.to_local().shape == (4, 5)
    assert_agrees(logits.full_tensor(), EXPECTED)


def check_training(rank: int) -> None:
    """DistributedDataParallel: two steps on half a batch each are two on the whole, and no parameter goes unused."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from scalablevit_ref.adapters.torch import ScalableViT

    config = replace(CONFIG, head="mlp")
    params, images = random_params(sv.parameter_shapes(config)), torch.from_numpy(IMAGES[:4])
    found = trained(DistributedDataParallel(ScalableViT(config, params=params)), images[2 * rank : 2 * rank + 2])
    expected = trained(ScalableViT(config, params=params), images)
    assert set(found) == set(params)
    for name, p in found.items():
        torch.testing.assert_close(p, expected[name], rtol=1e-9, atol=1e-12)
        assert name.endswith("attn.k.bias") or not np.array_equal(p.numpy(), params[name]), name


def trained(network: Any, x: Any) -> dict[str, Any]:
    """The parameters after two steps."""
    import torch

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    return {name.removeprefix("module."): p.detach() for name, p in network.named_parameters()}


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "jax":
        on_jax()
        say("logits")
    else:
        on_torch(int(sys.argv[2]), sys.argv[3])

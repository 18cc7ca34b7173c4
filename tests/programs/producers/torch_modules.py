"""What torch wraps around a module, and what it makes of one that is not a state dict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tests.programs.producers.made import Made, Reading, file, network, of, producer, train, weights

TORCH = {"library": "PyTorch", "distribution": "torch"}
DISTRIBUTED = {"library": "torch.distributed", "distribution": "torch"}


@contextmanager
def one_process(folder: Path) -> Iterator[None]:
    """A process group of one, on CPUs."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@producer(**TORCH, writes="`DataParallel(model).state_dict()`", form=".pth")
def data_parallel(folder: Path) -> Made:
    torch.save({"state_dict": nn.DataParallel(network()).state_dict()}, folder / "x.pth")
    return file(folder / "x.pth")


@producer(**DISTRIBUTED, writes="`DistributedDataParallel` of a compiled model (`module._orig_mod.`)", form=".pth")
def distributed_data_parallel(folder: Path) -> Made:
    with one_process(folder):
        wrapped = nn.parallel.DistributedDataParallel(torch.compile(network()))
        torch.save({"model": wrapped.state_dict()}, folder / "x.pth")
    return file(folder / "x.pth")


@producer(**TORCH, writes="`torch.compile(model).state_dict()`", form=".pt")
def compiled(folder: Path) -> Made:
    torch.save(torch.compile(network()).state_dict(), folder / "x.pt")
    return file(folder / "x.pt")


@producer(**TORCH, writes="`torch.compile` of each block and of the head", form=".pt")
def compiled_blocks(folder: Path) -> Made:
    model = network()
    for blocks in model.stages:
        for i in range(len(blocks)):
            blocks[i] = torch.compile(blocks[i])
    model.head = torch.compile(model.head)
    torch.save({"model": model.state_dict()}, folder / "x.pt")
    return file(folder / "x.pt")


@producer(**TORCH, writes="`checkpoint_wrapper` on each block", form=".pt")
def checkpoint_wrapped(folder: Path) -> Made:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper, checkpoint_wrapper

    model = network()
    for blocks in model.stages:
        for i in range(len(blocks)):
            blocks[i] = checkpoint_wrapper(blocks[i])
    assert isinstance(model.stages[0][0], CheckpointWrapper)
    names = dict(model.named_parameters())  # with the wrapper's names, which state_dict leaves out
    assert any("_checkpoint_wrapped_module" in name for name in names)
    torch.save(names, folder / "x.pt")
    return file(folder / "x.pt")


@producer(**DISTRIBUTED, writes="FSDP, `FULL_STATE_DICT`", form=".pt")
def fsdp_full(folder: Path) -> Made:
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    with one_process(folder):
        model = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
            torch.save(model.state_dict(), folder / "x.pt")
    return file(folder / "x.pt")


@producer(**DISTRIBUTED, writes="FSDP, `SHARDED_STATE_DICT` of one rank with torch.save", form=".pt")
def fsdp_sharded(folder: Path) -> Made:
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    with one_process(folder):
        model = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):
            torch.save(model.state_dict(), folder / "x.pt")
    return file(folder / "x.pt")


@producer(**DISTRIBUTED, writes="FSDP2 `fully_shard`: DTensors with torch.save, one rank", form=".pt")
def dtensors(folder: Path) -> Made:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    with one_process(folder):
        model = network()
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
        state = model.state_dict()
        assert all(isinstance(x, DTensor) for x in state.values())
        torch.save({"model": state}, folder / "x.pt")
    return file(folder / "x.pt")


@producer(**DISTRIBUTED, writes="the same, rank 0 of two: half of each weight", form=".pt")
def half_of_the_dtensors(folder: Path) -> Made:
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())  # the other rank is not needed to save this one's
    try:
        model = network()
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
        torch.save({"model": model.state_dict()}, folder / "rank0.pt")
    finally:
        dist.destroy_process_group()
    return file(folder / "rank0.pt", tell=("shard",))


@producer(**DISTRIBUTED, writes="`torch.distributed.checkpoint.save`: a folder", form="DCP folder")
def dcp(folder: Path) -> Made:
    import torch.distributed.checkpoint as dcp

    with one_process(folder):
        dcp.save({"model": network().state_dict(), "epoch": 3}, checkpoint_id=str(folder / "dcp"))
    return file(folder / "dcp")


@producer(**DISTRIBUTED, writes="`dcp_to_torch_save`", form=".pt")
def dcp_to_torch_save(folder: Path) -> Made:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(dcp(folder).path, folder / "x.pt")
    return file(folder / "x.pt")


@producer(**TORCH, writes="`torch.save(model)`: the whole module", form=".pth")
def whole_module(folder: Path) -> Made:
    model = network()
    torch.save(model, folder / "x.pth")
    return file(folder / "x.pth", model=model)


@producer(**TORCH, writes="the whole module beside other things (`{'model': model, 'epoch': 3}`)", form=".pt")
def whole_module_in_a_dict(folder: Path) -> Made:
    model = network()
    torch.save({"epoch": 3, "model": model, "ema": None, "opt": torch.optim.SGD(model.parameters(), 0.1)}, folder / "best.pt")
    return file(folder / "best.pt", model=model)


@producer(**TORCH, writes="the whole module of a compiled and wrapped model", form=".pt")
def whole_data_parallel(folder: Path) -> Made:
    model = nn.DataParallel(network())
    torch.save(model, folder / "x.pt", _use_new_zipfile_serialization=False)
    return file(folder / "x.pt", model=model)


@producer(**TORCH, writes="`torch.jit.save(torch.jit.trace(model))`", form="TorchScript")
def traced(folder: Path) -> Made:
    model = network().eval()
    torch.jit.trace(model, torch.zeros(1, 1, 112, 112)).save(folder / "x.pt")
    return file(folder / "x.pt", model=model)


@producer(**TORCH, writes="`torch.export.save(torch.export.export(model))`", form=".pt2")
def exported(folder: Path) -> Made:
    model = network().eval()
    torch.export.save(torch.export.export(model, (torch.zeros(1, 1, 112, 112),)), folder / "x.pt2")
    return file(folder / "x.pt2", model=model)


@producer(**TORCH, writes="`torch.package.PackageExporter`", form="package")
def packaged(folder: Path) -> Made:
    with torch.package.PackageExporter(folder / "x.pt") as out:
        out.extern("**")
        out.save_pickle("model", "model.pkl", network())
    return file(folder / "x.pt", PACKAGE="model", RESOURCE="model.pkl")


@producer(**TORCH, writes="`quantize_dynamic` to int8", form=".pth")
def quantised_dynamic(folder: Path) -> Made:
    model = torch.ao.quantization.quantize_dynamic(network().eval(), {nn.Linear}, dtype=torch.qint8)
    torch.save(model.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", tell=("quanti",))


@producer(**TORCH, writes="pruned with `torch.nn.utils.prune` (`weight_orig`, `weight_mask`)", form=".pth")
def pruned(folder: Path) -> Made:
    from torch.nn.utils import prune

    model = network()
    for part in model.modules():
        if isinstance(part, nn.Linear):
            prune.l1_unstructured(part, "weight", 0.3)
    torch.save(model.state_dict(), folder / "x.pth")
    for part in model.modules():
        if isinstance(part, nn.Linear):
            prune.remove(part, "weight")
    return file(folder / "x.pth", of(model), tell=("weight_orig",))


@producer(**TORCH, writes="`parametrizations.weight_norm` on the head", form=".pth")
def weight_normed(folder: Path) -> Made:
    model = network()
    nn.utils.parametrizations.weight_norm(model.head)
    torch.save(model.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", tell=("parametrizations",))


@producer(**TORCH, writes="sparse tensors (`x.to_sparse()`)", form=".pth")
def sparse(folder: Path) -> Made:
    torch.save({k: x.to_sparse() for k, x in weights().items()}, folder / "x.pth")
    return file(folder / "x.pth", tell=("sparse tensor", "patch_embeds.0.proj.weight"))


@producer(**TORCH, writes="float8 linears (`x.to(torch.float8_e4m3fn)`)", form=".pth")
def float8(folder: Path) -> Made:
    torch.save({k: x.to(torch.float8_e4m3fn) if x.ndim == 2 else x for k, x in weights().items()}, folder / "x.pth")
    return file(folder / "x.pth", tell=("float8", "attn.qkv.weight"))


@producer(**TORCH, writes="a model on the meta device (nothing was loaded)", form=".pth")
def meta(folder: Path) -> Made:
    torch.save(network().to("meta").state_dict(), folder / "x.pth")
    return file(folder / "x.pth", tell=("meta", "patch_embeds.0.proj.weight"))


@producer(**TORCH, writes="`optimizer.state_dict()` alone", form=".pt")
def optimizer_alone(folder: Path) -> Made:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    torch.save(optimizer.state_dict(), folder / "x.pt")
    return file(folder / "x.pt", tell=("optimi",))


@producer(**TORCH, writes="`list(model.parameters())`: no names", form=".pt")
def no_names(folder: Path) -> Made:
    torch.save(list(network().parameters()), folder / "x.pt")
    return file(folder / "x.pt", tell=("without names",))


class Wrapper(nn.Module):
    """A task around the network, with a loss that has weights and a metric that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(10))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))


@producer(**TORCH, writes="a task's module: `net.`, `loss.weight`, a counter", form=".ckpt")
def task_module(folder: Path) -> Made:
    torch.save({"state_dict": Wrapper().state_dict(), "global_step": 3}, folder / "x.ckpt")
    return file(folder / "x.ckpt")


@producer(**TORCH, writes="a task's module, compiled inside (`model._orig_mod.net.`)", form=".ckpt")
def compiled_task(folder: Path) -> Made:
    outer: Any = nn.Module()
    outer.model = torch.compile(Wrapper())
    outer.metric = nn.BatchNorm1d(3)
    torch.save(outer.state_dict(), folder / "x.ckpt")
    return Made(folder / "x.ckpt", (Reading(weights()),))

"""`torch.save` as people call it, with what they put beside the weights."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import enum
import io
import pathlib
import pickle
import random
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.programs.producers.made import Made, Reading, arrays, file, network, of, producer, train, weights, widened

TORCH = {"library": "PyTorch", "distribution": "torch"}


@producer(**TORCH, writes="`torch.save(model.state_dict())`", form=".pth")
def state_dict(folder: Path) -> Made:
    torch.save(network().state_dict(), folder / "x.pth")
    return file(folder / "x.pth")


@producer(**TORCH, writes="the same, `_use_new_zipfile_serialization=False`", form=".pth, legacy")
def legacy(folder: Path) -> Made:
    torch.save(network().state_dict(), folder / "x.pth", _use_new_zipfile_serialization=False)
    return file(folder / "x.pth")


@producer(**TORCH, writes="the same, `pickle_protocol=5`", form=".pt")
def protocol_5(folder: Path) -> Made:
    torch.save(network().state_dict(), folder / "x.pt", pickle_protocol=5)
    return file(folder / "x.pt")


@producer(**TORCH, writes="legacy with `pickle_protocol=4`", form=".pt, legacy")
def legacy_protocol_4(folder: Path) -> Made:
    torch.save(network().state_dict(), folder / "x.pt", _use_new_zipfile_serialization=False, pickle_protocol=4)
    return file(folder / "x.pt")


@producer(**TORCH, writes="`dict(model.named_parameters())`: parameters with gradients", form=".pth")
def named_parameters(folder: Path) -> Made:
    model = network()
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    torch.save(dict(model.named_parameters()), folder / "x.pth")
    return file(folder / "x.pth", of(model))


@producer(**TORCH, writes="parameters with attributes of their own (`p.lr_scale = 0.5`)", form=".pth")
def parameter_attributes(folder: Path) -> Made:
    model = network()
    for p in model.parameters():
        p.lr_scale, p.no_weight_decay = 0.5, True
    torch.save(dict(model.named_parameters()), folder / "x.pth")
    return file(folder / "x.pth")


class Named(torch.Tensor):
    """A subclass of tensors as people write it."""


@producer(**TORCH, writes="a subclass of `torch.Tensor` (`x.as_subclass(Named)`)", form=".pth")
def tensor_subclass(folder: Path) -> Made:
    torch.save({k: x.as_subclass(Named) for k, x in weights().items()}, folder / "x.pth")
    return file(folder / "x.pth")


@producer(**TORCH, writes="`model.to(memory_format=torch.channels_last)`", form=".pth")
def channels_last(folder: Path) -> Made:
    model = network().to(memory_format=torch.channels_last)
    torch.save(model.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", of(model))


@producer(**TORCH, writes="`vector_to_parameters`: all weights are views of one buffer", form=".pth")
def one_buffer(folder: Path) -> Made:
    model = network()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()), model.parameters())
    torch.save(model.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", of(model))


@producer(**TORCH, writes="`{k: v.numpy()}`: NumPy arrays in a `.pth`", form=".pth")
def numpy_in_pth(folder: Path) -> Made:
    torch.save({"state_dict": arrays(weights()), "epoch": np.int64(3)}, folder / "x.pth")
    return file(folder / "x.pth")


@producer(**TORCH, writes="a tuple `(model.state_dict(), optimizer.state_dict())`", form=".pt")
def a_tuple(folder: Path) -> Made:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    torch.save((model.state_dict(), optimizer.state_dict(), 12), folder / "x.pt")
    return file(folder / "x.pt", of(model))


@producer(**TORCH, writes="the authors' script: model, optimizer, lr_scheduler, scaler, args", form=".pth")
def authors(folder: Path) -> Made:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    train(model, optimizer, scheduler)
    args = argparse.Namespace(model="my_scalable_vit", lr=5e-4, output_dir=pathlib.Path("out"), dist_url="env://", aa=None)
    scaler = torch.amp.GradScaler("cpu")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": 7,
            "scaler": scaler.state_dict(),
            "args": args,
        },
        folder / "checkpoint.pth",
    )
    return file(folder / "checkpoint.pth", of(model))


@producer(**TORCH, writes="a training checkpoint with MultiStepLR (its Counter) and `best_acc` of NumPy", form=".pth.tar")
def multi_step(folder: Path) -> Made:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
    train(model, optimizer, scheduler)
    torch.save(
        {
            "epoch": 8,
            "arch": "scalablevit",
            "state_dict": model.state_dict(),
            "best_acc1": np.float64(81.5),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        },
        folder / "model_best.pth.tar",
    )
    return file(folder / "model_best.pth.tar", of(model))


@producer(**TORCH, writes="SequentialLR of LinearLR and LambdaLR, saved whole (`scheduler`, not its state)", form=".pt")
def whole_scheduler(folder: Path) -> Made:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    after = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, after], [1])
    train(model, optimizer)
    torch.save({"net": model.state_dict(), "optim": optimizer, "sched": scheduler}, folder / "last.pt")
    return file(folder / "last.pt", of(model))


@producer(**TORCH, writes="random states of Python, NumPy and torch, and a `numpy.random.Generator`", form=".ckpt")
def random_states(folder: Path) -> Made:
    torch.save(
        {
            "model_state_dict": weights(),
            "rng": {
                "python": random.getstate(),
                "numpy": np.random.RandomState(1).get_state(),
                "generator": np.random.default_rng(3),
                "torch": torch.get_rng_state(),
            },
        },
        folder / "x.ckpt",
    )
    return file(folder / "x.ckpt")


class Split(enum.Enum):
    TRAIN = "train"
    VAL = "val"


@dataclasses.dataclass
class TrainingArguments:
    lr: float = 1e-3
    splits: tuple[Split, ...] = (Split.TRAIN, Split.VAL)
    path: pathlib.Path = pathlib.Path("runs/1")


Metrics = collections.namedtuple("Metrics", "top1 top5")  # as people write it
Metrics.__module__ = __name__


@producer(**TORCH, writes="paths, sets, dates, enums, a dataclass, a namedtuple, a defaultdict, a function", form=".pth")
def python_objects(folder: Path) -> Made:
    history: Any = defaultdict(list, {"loss": [0.5, np.float32(0.25)]})
    torch.save(
        {
            "model": OrderedDict(weights()),
            "config": TrainingArguments(),
            "split": Split.VAL,
            "path": pathlib.Path("runs/1"),
            "seen": {1, 2, 3},
            "frozen": frozenset({"head"}),
            "date": dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC),
            "metrics": Metrics(0.8, 0.9),
            "counts": Counter("aabc"),
            "history": history,
            "complex": 1 + 2j,
            "slice": slice(1, 3),
            "range": range(4),
            "dtype": torch.float32,
            "device": torch.device("cuda:0"),
            "size": torch.Size([1, 2]),
            "np_dtype": np.dtype("float16"),
            "array": np.arange(3),
            "strings": np.array(["a", "b"]),
            "objects": np.array([{}, None], dtype=object),
            "criterion": nn.CrossEntropyLoss(),
            "loss_fn": nn.functional.cross_entropy,
        },
        folder / "x.pth",
    )
    return file(folder / "x.pth")


@producer(**TORCH, writes='`model.half()`, LayerNorms kept in float32, `dtype="float32"` asked for', form=".pth")
def half_with_float_norms(folder: Path) -> Made:
    model = network().half()
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.float()
    torch.save(model.state_dict(), folder / "x.pth")
    return Made(folder / "x.pth", (Reading(widened(of(model)), {"dtype": "float32"}),))


@producer(**TORCH, writes="the same, nothing asked for", form=".pth")
def half_with_float_norms_unasked(folder: Path) -> Made:
    made = half_with_float_norms(folder)
    return Made(made.path, (Reading(made.readings[0].truth),))


@producer(**TORCH, writes="`model.half()` with a GradScaler's state", form=".pth")
def half(folder: Path) -> Made:
    model = network().half()
    torch.save({"model": model.state_dict(), "scaler": torch.amp.GradScaler("cpu").state_dict()}, folder / "x.pth")
    return file(folder / "x.pth", of(model))


@producer(**TORCH, writes="`model.bfloat16()`", form=".pth")
def bfloat16(folder: Path) -> Made:
    model = network().bfloat16()
    torch.save(model.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", of(model))


@producer(**TORCH, writes="`model.double()`", form=".pth")
def float64(folder: Path) -> Made:
    model = network().double()
    torch.save(model.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", of(model))


@producer(**TORCH, writes="`optim.swa_utils.AveragedModel`, its state dict (`module.`, `n_averaged`), `update_bn`", form=".pt")
def averaged_model(folder: Path) -> Made:
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    average.update_parameters(model)
    average.update_parameters(network(1))
    torch.optim.swa_utils.update_bn([torch.randn(1, 1, 112, 112)], average)
    torch.save(average.state_dict(), folder / "x.pt")
    return file(folder / "x.pt", of(average.module))


@producer(**TORCH, writes="`AveragedModel` with `get_ema_multi_avg_fn` beside the model", form=".pt")
def averaged_beside(folder: Path) -> Made:
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    average.update_parameters(model)
    average.update_parameters(network(1))
    torch.save({"model": model.state_dict(), "ema": average.state_dict(), "step": 2}, folder / "x.pt")
    return Made(folder / "x.pt", (Reading(of(average.module)), Reading(of(model), {"use_ema": False})))


@producer(**TORCH, writes="`pickle.dump(model.state_dict())`, without torch.save", form=".pkl")
def plain_pickle(folder: Path) -> Made:
    with (folder / "x.pkl").open("wb") as out:
        pickle.dump(network().state_dict(), out)
    return file(folder / "x.pkl", model=network())


@producer(**TORCH, writes="`torch.save(…, pickle_module=cloudpickle)`", form=".pth", needs=("torch", "cloudpickle"))
def cloudpickled(folder: Path) -> Made:
    import cloudpickle

    class Setting:
        lr = 1.0

    torch.save({"state_dict": network().state_dict(), "hparams": Setting()}, folder / "x.pth", pickle_module=cloudpickle)
    return file(folder / "x.pth")


@producer(**TORCH, writes="bytes of a nested `torch.save` in a dict", form=".pth")
def nested_bytes(folder: Path) -> Made:
    inner = io.BytesIO()
    torch.save(network().state_dict(), inner)
    torch.save({"epoch": 3, "weights": inner.getvalue()}, folder / "x.pth")
    return file(folder / "x.pth", tell=("bytes",))


@producer(**TORCH, writes="`copy.deepcopy(model.state_dict())` of several epochs in a list", form=".pt")
def epochs_in_a_list(folder: Path) -> Made:
    a, b = weights(0), weights(1)
    torch.save([a, b], folder / "x.pt")
    return Made(folder / "x.pt", (Reading(a, {"key": "0"}), Reading(b, {"key": "1"}), Reading(b, may_refuse=True)))

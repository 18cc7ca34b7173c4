"""An average of the weights under the names by which projects keep one beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.programs.producers.made import Made, Reading, producer, weights

RAW, EMA = weights(0), weights(1)
MODULE = {f"module.{name}": x for name, x in EMA.items()}
BOTH: tuple[Reading, ...] = (Reading(EMA, said="ema"), Reading(RAW, {"use_ema": False}))


def beside(path: Path, content: dict[str, Any]) -> Made:
    torch.save(content, path)
    return Made(path, BOTH)


def script(library: str, writes: str) -> Any:
    """A project whose own script calls `torch.save`."""
    return producer(library, writes, ".pth", distribution="torch", needs=("torch",))


@script("BasicSR", "`{'params': …, 'params_ema': …}`")
def basicsr(folder: Path) -> Made:
    return beside(folder / "x.pth", {"params": RAW, "params_ema": EMA})


@script("DiT", "`{'model', 'ema', 'opt', 'args'}`")
def dit(folder: Path) -> Made:
    return beside(folder / "x.pth", {"model": RAW, "ema": EMA, "opt": {"state": {}, "param_groups": []}, "args": {"lr": 1}})


@script("DETR", "`{'model', 'ema_model', …}` of its descendants")
def detr(folder: Path) -> Made:
    return beside(folder / "x.pth", {"model": RAW, "ema_model": EMA, "epoch": 3})


@script("RT-DETR", "`{'model', 'ema': {'module', 'updates'}}`")
def rt_detr(folder: Path) -> Made:
    return beside(folder / "x.pth", {"last_epoch": 3, "model": RAW, "ema": {"module": EMA, "updates": 7, "warmups": 2}})


@script("torchvision", "its references' train.py: `{'model', 'model_ema': {'n_averaged', 'module.…'}}`")
def torchvision_references(folder: Path) -> Made:
    return beside(folder / "x.pth", {"model": RAW, "model_ema": {"n_averaged": torch.tensor(3), **MODULE}, "epoch": 1})


@script("a project", "`ema_state_dict` beside `state_dict`")
def ema_state_dict(folder: Path) -> Made:
    return beside(folder / "x.pth", {"state_dict": RAW, "ema_state_dict": EMA})


@script("a project", "`model_state_dict` and `model_ema_state_dict`")
def model_ema_state_dict(folder: Path) -> Made:
    return beside(folder / "x.pth", {"model_state_dict": RAW, "model_ema_state_dict": EMA})


@script("a project", "the class `EMA` of many tutorials: `{'shadow': {…}, 'backup': {}, 'decay'}`")
def shadow(folder: Path) -> Made:
    return beside(folder / "x.pth", {"net": RAW, "ema": {"decay": 0.99, "shadow": MODULE, "backup": {}}})


@script("a project", "`swa_state_dict` beside `state_dict`")
def swa_state_dict(folder: Path) -> Made:
    torch.save({"state_dict": RAW, "swa_state_dict": MODULE | {"n_averaged": torch.tensor(4)}}, folder / "x.pth")
    return Made(folder / "x.pth", (Reading(EMA, said="swa", instead=((RAW, "swa"),), may_refuse=True),))


@script("Latent Diffusion", "`LitEma`: `model_ema.` buffers whose names have lost their dots")
def lit_ema(folder: Path) -> Made:
    ema = {f"model_ema.{name.replace('.', '')}": x for name, x in EMA.items()}
    ema |= {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(3)}
    torch.save({"state_dict": {f"model.{name}": x for name, x in RAW.items()} | ema, "global_step": 3}, folder / "x.ckpt")
    return Made(folder / "x.ckpt", (Reading(RAW, said="model_ema", instead=((EMA, "model_ema"),)),))


@script("Mean Teacher", "`{'state_dict', 'ema_state_dict'}` of DataParallel")
def mean_teacher(folder: Path) -> Made:
    raw = {f"module.{name}": x for name, x in RAW.items()}
    return beside(folder / "x.pth", {"epoch": 1, "arch": "x", "state_dict": raw, "ema_state_dict": MODULE, "best_prec1": 0.5})


@script("a project", "one state dict with `model.` and `model_ema.module.`")
def one_state_dict(folder: Path) -> Made:
    return beside(
        folder / "x.pth",
        {"state_dict": {f"model.{k}": x for k, x in RAW.items()} | {f"model_ema.module.{k}": x for k, x in EMA.items()}},
    )


@script("a project", "an average alone: `{'ema': …}`")
def average_alone(folder: Path) -> Made:
    torch.save({"ema": EMA, "iter": 3}, folder / "x.pth")
    return Made(folder / "x.pth", (Reading(EMA, said="ema"),))

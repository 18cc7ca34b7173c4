"""Training libraries: what their own checkpoints look like."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.programs.producers.made import Made, Reading, file, network, of, producer, train, weights

LIGHTNING: dict[str, Any] = {"library": "Lightning", "distribution": "lightning", "needs": ("lightning",)}
TIMM: dict[str, Any] = {"library": "timm"}
MMENGINE: dict[str, Any] = {"library": "mmengine"}
FVCORE: dict[str, Any] = {"library": "fvcore", "needs": ("fvcore", "iopath")}
IGNITE: dict[str, Any] = {"library": "Ignite", "distribution": "pytorch-ignite", "needs": ("ignite",)}


def without_torchvision() -> None:
    """Operators that torchvision's wheel registers, for where its compiled part does not fit torch."""
    import torch.library

    if not hasattr(torch.ops.torchvision, "nms"):
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")


def batches() -> Any:
    torch.manual_seed(5)
    return DataLoader(TensorDataset(torch.randn(2, 1, 112, 112), torch.randint(10, (2,))), batch_size=1)


# Lightning


def lightning_file(
    folder: Path, *, schedule: Any = None, callbacks: Any = (), compile_inside: bool = False
) -> tuple[Path, Any, Any]:
    """A Trainer's checkpoint after an epoch of two steps: the file, the module, the trainer."""
    without_torchvision()
    import lightning as L
    from lightning.pytorch.loggers import CSVLogger

    class Task(L.LightningModule):
        def __init__(self, lr: float, args: argparse.Namespace, names: tuple[str, ...] = ("a",)) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = torch.compile(network(), backend="eager") if compile_inside else network()
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(10))

        def training_step(self, batch: Any, i: int) -> Any:
            images, labels = batch
            loss = self.loss(self.model(images), labels)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), self.hparams["lr"])
            return [optimizer], [schedule(optimizer)] if schedule else []

    task = Task(1e-3, argparse.Namespace(data=Path("data"), epochs=3))
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=CSVLogger(str(folder)),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(task, batches())
    trainer.save_checkpoint(folder / "x.ckpt")
    return folder / "x.ckpt", task, trainer


def inner(task: Any) -> dict[str, Any]:
    return dict(of(getattr(task.model, "_orig_mod", task.model)))


@producer(**LIGHTNING, writes="`Trainer.save_checkpoint`: MultiStepLR, `save_hyperparameters`, CSVLogger", form=".ckpt")
def lightning_multi_step(folder: Path) -> Made:
    path, task, _ = lightning_file(folder, schedule=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 2]))
    return file(path, inner(task))


@producer(**LIGHTNING, writes="the same with OneCycleLR, ModelCheckpoint, EarlyStopping, Timer", form=".ckpt")
def lightning_one_cycle(folder: Path) -> Made:
    without_torchvision()
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

    path, task, _ = lightning_file(
        folder,
        schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=9),
        callbacks=[ModelCheckpoint(folder, monitor="train_loss"), EarlyStopping("train_loss"), Timer()],
    )
    return file(path, inner(task))


@producer(**LIGHTNING, writes="a task that compiles its model (`model._orig_mod.`)", form=".ckpt")
def lightning_compiled(folder: Path) -> Made:
    path, task, _ = lightning_file(folder, compile_inside=True)
    return file(path, inner(task))


@producer(**LIGHTNING, writes="the callback `StochasticWeightAveraging`", form=".ckpt")
def lightning_swa(folder: Path) -> Made:
    without_torchvision()
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    path, task, _ = lightning_file(folder, callbacks=[StochasticWeightAveraging(1e-2, swa_epoch_start=1)])
    return file(path, inner(task))


@producer(**LIGHTNING, writes="the callback `EMAWeightAveraging`", form=".ckpt")
def lightning_ema(folder: Path) -> Made:
    without_torchvision()
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    save = ModelCheckpoint(folder, "while_training", every_n_train_steps=2, save_top_k=-1, enable_version_counter=False)
    lightning_file(folder, callbacks=[EMAWeightAveraging(decay=0.5), save])
    path = folder / "while_training.ckpt"
    held = torch.load(path, weights_only=False)
    raw = {k.removeprefix("model."): x for k, x in held["current_model_state"].items() if k.startswith("model.")}
    ema = {k.removeprefix("model."): x for k, x in held["state_dict"].items() if k.startswith("model.")}
    assert any(not torch.equal(raw[k], x) for k, x in ema.items()), "the average is the model"
    return Made(
        path, (Reading(ema, may_refuse=True), Reading(ema, {"key": "state_dict"}), Reading(raw, {"key": "current_model_state"}))
    )


@producer(**LIGHTNING, writes="`Fabric.save({'model': model, 'optimizer': …})`", form=".ckpt")
def fabric(folder: Path) -> Made:
    without_torchvision()
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model = network()
    wrapped, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters()))
    fabric.save(folder / "x.ckpt", {"model": wrapped, "optimizer": optimizer, "hparams": {"lr": 0.1}, "step": 4})
    return file(folder / "x.ckpt", of(model))


# timm


def timm_file(folder: Path, ema: str) -> Made:
    without_torchvision()
    import timm.utils
    from timm.scheduler import CosineLRScheduler  # noqa: F401

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    average = getattr(timm.utils, ema)(model, decay=0.5) if ema else None
    train(model, optimizer)
    if average is not None:
        average.update(model)
    args = argparse.Namespace(model="scalablevit", lr=1e-3, opt_betas=None, mean=None)
    saver = timm.utils.CheckpointSaver(
        model, optimizer, args=args, model_ema=average, amp_scaler=None, checkpoint_dir=str(folder), recovery_dir=str(folder)
    )
    saver.save_checkpoint(3, metric=71.5)
    path = folder / "model_best.pth.tar"
    if average is None:
        return file(path, of(model))
    return Made(path, (Reading(of(average.module), said="ema"), Reading(of(model), {"use_ema": False})))


@producer(**TIMM, writes="`CheckpointSaver.save_checkpoint` of its train.py", form=".pth.tar")
def timm_saver(folder: Path) -> Made:
    return timm_file(folder, "")


@producer(**TIMM, writes="the same with `ModelEmaV2`", form=".pth.tar")
def timm_ema_v2(folder: Path) -> Made:
    return timm_file(folder, "ModelEmaV2")


@producer(**TIMM, writes="the same with `ModelEmaV3`", form=".pth.tar")
def timm_ema_v3(folder: Path) -> Made:
    return timm_file(folder, "ModelEmaV3")


@producer(**TIMM, writes="`models.save_for_hf(model, folder, model_config=…)`", form="folder with config.json")
def timm_for_hf(folder: Path) -> Made:
    without_torchvision()
    from timm.models import save_for_hf

    model = network()
    model.pretrained_cfg = {
        "architecture": "scalablevit",
        "num_classes": 10,
        "input_size": (1, 112, 112),
        "mean": (0.5,),
        "std": (0.5,),
    }
    model.num_features, model.num_classes = 64, 10
    save_for_hf(model, str(folder / "hf"), safe_serialization=True)
    return file(folder / "hf" / "model.safetensors")


# Averages


@producer("ema-pytorch", writes="`EMA(model).state_dict()` beside the model", form=".pt", needs=("ema_pytorch",))
def lucidrains(folder: Path) -> Made:
    from ema_pytorch import EMA

    model = network()
    ema = EMA(model, beta=0.9, update_after_step=0, update_every=1)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    ema.update()
    ema.ema_model.load_state_dict(weights(1))
    torch.save({"model": model.state_dict(), "ema": ema.state_dict(), "version": "0.1"}, folder / "x.pt")
    return Made(folder / "x.pt", (Reading(weights(1), said="ema"), Reading(of(model), {"use_ema": False})))


@producer(
    "ema-pytorch", writes="`EMA(model).state_dict()` alone: `online_model.`, `ema_model.`", form=".pt", needs=("ema_pytorch",)
)
def lucidrains_alone(folder: Path) -> Made:
    from ema_pytorch import EMA

    ema = EMA(network())
    ema.ema_model.load_state_dict(weights(1))
    torch.save(ema.state_dict(), folder / "x.pt")
    return Made(folder / "x.pt", (Reading(weights(1), said="ema"), Reading(weights(0), {"use_ema": False})))


@producer(
    "torch-ema",
    writes="`ExponentialMovingAverage.state_dict()` (a list without names) beside the model",
    form=".pt",
    needs=("torch_ema",),
)
def torch_ema(folder: Path) -> Made:
    from torch_ema import ExponentialMovingAverage

    model = network()
    ema = ExponentialMovingAverage(network(1).parameters(), 0.9)
    torch.save({"model": model.state_dict(), "ema": ema.state_dict()}, folder / "x.pt")
    return Made(folder / "x.pt", (Reading(weights(1), said="ema", instead=((weights(0), "ema"),)),))


@producer("diffusers", writes="`EMAModel.state_dict()` (`shadow_params`) beside the model", form=".pt")
def diffusers_ema(folder: Path) -> Made:
    without_torchvision()
    from diffusers.training_utils import EMAModel

    model = network()
    ema = EMAModel(network(1).parameters())
    torch.save({"state_dict": model.state_dict(), "ema": ema.state_dict()}, folder / "x.pt")
    return Made(folder / "x.pt", (Reading(weights(1), said="ema", instead=((weights(0), "ema"),)),))


# OpenMMLab


@producer(**MMENGINE, writes="`Runner` with CheckpointHook, EMAHook, HistoryBuffer: `epoch_1.pth`", form=".pth")
def mmengine_runner(folder: Path) -> Made:
    without_torchvision()
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Task(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = network()

        def forward(self, inputs: Any, labels: Any, mode: str = "tensor") -> Any:
            return {"loss": nn.functional.cross_entropy(self.backbone(inputs), labels)}

        def train_step(self, data: Any, optim_wrapper: Any) -> Any:
            loss = self(*data)["loss"]
            optim_wrapper.update_params(loss)
            return {"loss": loss.detach()}

    runner = Runner(
        Task(),
        str(folder),
        train_dataloader=batches(),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        param_scheduler={"type": "MultiStepLR", "milestones": [1], "by_epoch": True},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        custom_hooks=[{"type": "EMAHook", "momentum": 0.5}],
        experiment_name=folder.name,
        log_level="ERROR",
    )
    runner.train()
    held = torch.load(folder / "epoch_1.pth", weights_only=False)
    ema = {k.removeprefix("backbone."): x for k, x in held["state_dict"].items()}
    raw = {k.removeprefix("module.backbone."): x for k, x in held["ema_state_dict"].items() if k.startswith("module.")}
    assert any(not torch.equal(raw[k], x) for k, x in ema.items())  # the hook swaps the two, see its docstring
    return Made(folder / "epoch_1.pth", (Reading(ema, instead=((raw, "ema"),)), Reading(ema, {"key": "state_dict"})))


@producer(**MMENGINE, writes="`mmengine.runner.save_checkpoint` with a ConfigDict and a HistoryBuffer", form=".pth")
def mmengine_save(folder: Path) -> Made:
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import save_checkpoint, weights_to_cpu

    save_checkpoint(
        {
            "meta": {"cfg": ConfigDict(model={"type": "ScalableViT"}), "dataset_meta": {"classes": ("a", "b")}},
            "state_dict": weights_to_cpu(network().state_dict()),
            "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0, 0.5], [1, 1])}},
        },
        str(folder / "x.pth"),
    )
    return file(folder / "x.pth")


# others


@producer("thop", writes="`thop.profile(model)`, then `model.state_dict()`: `total_ops`, `total_params`", form=".pth")
def profiled(folder: Path) -> Made:
    import thop

    model = network()
    thop.profile(model, inputs=(torch.zeros(1, 1, 112, 112),), verbose=False)
    state = model.state_dict()
    assert "stages.total_ops" in state
    torch.save(state, folder / "x.pth")
    return file(folder / "x.pth")


@producer(**FVCORE, writes="`Checkpointer(model, folder, optimizer=…).save('x')`", form=".pth")
def fvcore_checkpointer(folder: Path) -> Made:
    from fvcore.common.checkpoint import Checkpointer

    model = network()
    Checkpointer(model, str(folder), optimizer=torch.optim.SGD(model.parameters(), 0.1)).save("x", iteration=7)
    return file(folder / "x.pth")


@producer(
    "detectron2",
    writes="a model zoo's `.pkl`: `model` of NumPy arrays, `__author__`",
    form=".pkl",
    distribution="torch",
    needs=("torch",),
)
def detectron2(folder: Path) -> Made:
    import pickle

    state = {f"backbone.bottom_up.{k}": x.numpy() for k, x in weights().items()}
    with (folder / "model_final.pkl").open("wb") as out:
        pickle.dump({"model": state, "__author__": "someone", "matching_heuristics": True}, out)
    return file(folder / "model_final.pkl")


@producer("yacs", writes="a `CfgNode` beside the weights, as Swin's script", form=".pth")
def yacs_node(folder: Path) -> Made:
    from yacs.config import CfgNode

    torch.save({"model": weights(), "config": CfgNode({"MODEL": CfgNode({"NAME": "x"})}), "max_accuracy": 0.5}, folder / "x.pth")
    return file(folder / "x.pth")


@producer("OmegaConf", writes="a `DictConfig` and a `ListConfig` beside the weights", form=".ckpt", distribution="omegaconf")
def omega_conf(folder: Path) -> Made:
    from omegaconf import OmegaConf

    torch.save(
        {"state_dict": weights(), "cfg": OmegaConf.create({"a": [1, "${b}"], "b": 2}), "l": OmegaConf.create([1])},
        folder / "x.ckpt",
    )
    return file(folder / "x.ckpt")


@producer("addict", writes="the state dict in an `addict.Dict`", form=".pth")
def addict_dict(folder: Path) -> Made:
    from addict import Dict

    torch.save(Dict(model=Dict(weights())), folder / "x.pth")
    return file(folder / "x.pth")


@producer("fastai", writes="`Learner.save('x')` with the optimiser", form=".pth", needs=("fastai",))
def fastai_learner(folder: Path) -> Made:
    learner, model = fastai_of(folder)
    learner.save("x")
    return file(folder / "models" / "x.pth", of(model))


@producer("fastai", writes="`Learner.save('x', with_opt=False)`", form=".pth", needs=("fastai",))
def fastai_bare(folder: Path) -> Made:
    learner, model = fastai_of(folder)
    learner.save("x", with_opt=False)
    return file(folder / "models" / "x.pth", of(model))


def fastai_of(folder: Path) -> Any:
    without_torchvision()
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    model = network()
    learner = Learner(DataLoaders(batches(), batches(), device="cpu"), model, loss_func=nn.CrossEntropyLoss(), path=folder)
    learner.create_opt()
    return learner, model


@producer(
    "DeepSpeed",
    writes="`engine.save_checkpoint(folder)`: its `mp_rank_00_model_states.pt`",
    form=".pt",
    distribution="deepspeed",
    needs=("deepspeed",),
)
def deepspeed_engine(folder: Path) -> Made:
    import os

    import deepspeed

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
    model = network()
    settings = {"train_batch_size": 1, "zero_optimization": {"stage": 0}}
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), config=settings)
    engine.save_checkpoint(str(folder), tag="global_step1", client_state={"args": argparse.Namespace(lr=0.1)})
    torch.distributed.destroy_process_group()
    return file(folder / "global_step1" / "mp_rank_00_model_states.pt", of(model))


@producer(
    "DeepSpeed", writes="the same file as it documents it, written by hand", form=".pt", distribution="torch", needs=("torch",)
)
def deepspeed_by_hand(folder: Path) -> Made:
    torch.save(
        {
            "module": {f"module.{k}": x for k, x in weights().items()},
            "buffer_names": [],
            "optimizer": None,
            "param_shapes": [{k: x.shape for k, x in weights().items()}],
            "frozen_param_fragments": None,
            "shared_params": {},
            "sparse_tensor_module_names": set(),
            "global_steps": 1,
            "dp_world_size": 1,
            "ds_config": {"train_batch_size": 1},
            "ds_version": "0.14.0",
        },
        folder / "mp_rank_00_model_states.pt",
    )
    return file(folder / "mp_rank_00_model_states.pt")


@producer(**IGNITE, writes="`ModelCheckpoint` / `Checkpoint` handler of `{'model': …, 'trainer': …}`", form=".pt")
def ignite_checkpoint(folder: Path) -> Made:
    from ignite.engine import Engine
    from ignite.handlers import Checkpoint, DiskSaver, EMAHandler

    model = network()
    trainer = Engine(lambda engine, batch: None)
    ema = EMAHandler(model, momentum=0.5)
    ema.ema_model.load_state_dict(weights(1))
    handler = Checkpoint({"model": model, "ema_model": ema.ema_model, "trainer": trainer}, DiskSaver(str(folder), create_dir=True))
    handler(trainer)
    (path,) = folder.glob("*.pt")
    return Made(path, (Reading(weights(1), said="ema"), Reading(weights(0), {"use_ema": False})))


@producer("skorch", writes="`NeuralNetClassifier.save_params(f_params=…)`, and its whole pickle", form=".pt")
def skorch_params(folder: Path) -> Made:
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(network(), criterion=nn.CrossEntropyLoss).initialize()
    net.save_params(f_params=str(folder / "x.pt"))
    return file(folder / "x.pt")


@producer("pytorch-accelerated", writes="`Trainer.save_checkpoint`", form=".pt", needs=("pytorch_accelerated",))
def accelerated_trainer(folder: Path) -> Made:
    from pytorch_accelerated import Trainer

    model = network()
    trainer = Trainer(model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.1))
    trainer.save_checkpoint(str(folder / "x.pt"))
    return file(folder / "x.pt", of(model))


@producer("catalyst", writes="`utils.pack_checkpoint`, `save_checkpoint`", form=".pth")
def catalyst_file(folder: Path) -> Made:
    from catalyst.utils.torch import pack_checkpoint, save_checkpoint

    model = network()
    save_checkpoint(
        pack_checkpoint(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), epoch=1), str(folder / "x.pth")
    )
    return file(folder / "x.pth")


@producer(
    "YOLO",
    writes="Ultralytics' layout: `ema` and `model` are whole half modules",
    form=".pt",
    distribution="torch",
    needs=("torch",),
)
def yolo(folder: Path) -> Made:
    ema = network(1)
    torch.save(
        {
            "epoch": -1,
            "best_fitness": None,
            "model": network(0),
            "ema": ema,
            "updates": 9,
            "train_args": vars(SimpleNamespace(a=1)),
        },
        folder / "best.pt",
    )
    return file(folder / "best.pt", of(ema), model=ema)

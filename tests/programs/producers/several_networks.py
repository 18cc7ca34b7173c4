"""Checkpoints that hold more than the network: student and teacher, detectors, heads of others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.programs.producers.made import BACKBONE, CONFIG, HEADLESS, Made, Reading, file, network, of, producer, weights

PYTORCH = {"library": "PyTorch", "distribution": "torch"}
CHANNELS = CONFIG.embed_dims[-1]


def behind(prefix: str, state: object) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": x for name, x in dict(state).items()}


def pair(path: Path, a: str, b: str) -> Made:
    """Two networks of one kind under these keys: 0 and 1."""
    return Made(
        path,
        (
            Reading(weights(0, HEADLESS), {"key": a}),
            Reading(weights(1, HEADLESS), {"key": b}),
            Reading(weights(0, HEADLESS), said=b, instead=((weights(1, HEADLESS), a),), may_refuse=True),
        ),
    )


@producer(**PYTORCH, writes="DINO's script: student and teacher with projection heads", form=".pth")
def dino(folder: Path) -> Made:
    def side(seed: int) -> dict[str, torch.Tensor]:
        head = nn.Sequential(nn.Linear(CHANNELS, 32), nn.GELU(), nn.Linear(32, 16))
        return behind("backbone.", weights(seed, HEADLESS)) | behind("head.mlp.", head.state_dict())

    student = behind("module.", side(0))
    torch.save({"student": student, "teacher": side(1), "epoch": 9, "dino_loss": {"center": torch.zeros(1, 16)}}, folder / "x.pth")
    return pair(folder / "x.pth", "student", "teacher")


@producer(**PYTORCH, writes="MoCo's script: `module.encoder_q.`, `module.encoder_k.`, queue", form=".pth.tar")
def moco(folder: Path) -> Made:
    state = behind("module.encoder_q.", weights(0)) | behind("module.encoder_k.", weights(1))
    state |= {"module.queue": torch.randn(10, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    torch.save({"epoch": 3, "arch": "x", "state_dict": state}, folder / "checkpoint_0003.pth.tar")
    return Made(
        folder / "checkpoint_0003.pth.tar",
        (
            Reading(weights(0), {"key": "state_dict.module.encoder_q"}),
            Reading(weights(1), {"key": "state_dict.module.encoder_k"}),
            Reading(weights(0), said="encoder_k", instead=((weights(1), "encoder_q"),), may_refuse=True),
        ),
    )


@producer(**PYTORCH, writes="BYOL: `online_encoder.net.`, `target_encoder.net.`, predictor", form=".pt")
def byol(folder: Path) -> Made:
    state = behind("online_encoder.net.", weights(0, HEADLESS)) | behind("target_encoder.net.", weights(1, HEADLESS))
    state |= behind("online_predictor.net.", nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).state_dict())
    torch.save(state, folder / "x.pt")
    return pair(folder / "x.pt", "online_encoder.net", "target_encoder.net")


@producer(**PYTORCH, writes="a detector: `backbone.`, `neck.`, `bbox_head.`", form=".pth")
def detector(folder: Path) -> Made:
    state = behind("backbone.", {_mmdet(k): x for k, x in weights(0, BACKBONE).items()})
    state |= behind("neck.", nn.ModuleList([nn.Conv2d(c, 8, 1) for c in CONFIG.embed_dims]).state_dict())
    state |= behind("bbox_head.", nn.Conv2d(8, 4, 3).state_dict())
    torch.save({"meta": {"epoch": 12, "CLASSES": ("a", "b")}, "state_dict": state}, folder / "epoch_12.pth")
    return Made(folder / "epoch_12.pth", (Reading(weights(0, BACKBONE), {"config": BACKBONE}, said="bbox_head"),))


def _mmdet(name: str) -> str:
    return name.replace("stages.", "blocks.").replace("lim_func", "lepe_func")


@producer(**PYTORCH, writes="`backbone.` with the official `head.` beside it", form=".pth")
def backbone_and_official_head(folder: Path) -> Made:
    model = network()
    inside = {k: x for k, x in of(model).items() if not k.startswith("head.")}
    torch.save(behind("backbone.", inside) | behind("head.", model.head.state_dict()), folder / "x.pth")
    return file(folder / "x.pth")


def foreign_head(path: Path, name: str) -> Made:
    head = nn.Linear(CHANNELS, CONFIG.num_classes)
    torch.save({"state_dict": behind("backbone.", weights(0, HEADLESS)) | behind(name, head.state_dict())}, path)
    whole = {**weights(0, HEADLESS), "head.weight": head.weight.detach(), "head.bias": head.bias.detach()}
    return Made(path, (Reading(whole, instead=((weights(0, HEADLESS), name.split(".")[0]),)),))


@producer(**PYTORCH, writes="`backbone.` and a classifier of another name (`classifier.`)", form=".pth")
def classifier_head(folder: Path) -> Made:
    return foreign_head(folder / "x.pth", "classifier.")


@producer(**PYTORCH, writes="`backbone.` and mmpretrain's `cls_head.fc.`", form=".pth")
def cls_head(folder: Path) -> Made:
    return foreign_head(folder / "x.pth", "cls_head.fc.")


@producer(**PYTORCH, writes="the network with its head replaced by `model.fc = nn.Linear(…)`", form=".pth")
def fc_head(folder: Path) -> Made:
    model = network(0, HEADLESS)
    model.fc = nn.Linear(CHANNELS, 10)
    torch.save(model.state_dict(), folder / "x.pth")
    state = of(model)
    whole = {**weights(0, HEADLESS), "head.weight": state["fc.weight"], "head.bias": state["fc.bias"]}
    return Made(folder / "x.pth", (Reading(whole, instead=((weights(0, HEADLESS), "fc"),)),))


@producer(**PYTORCH, writes="generator and discriminator, `generator.encoder.`", form=".pt")
def generator(folder: Path) -> Made:
    torch.save(
        {
            "generator": behind("encoder.", weights(0, HEADLESS)) | behind("decoder.", nn.Linear(4, 4).state_dict()),
            "discriminator": nn.Linear(4, 1).state_dict(),
            "iter": 5,
        },
        folder / "x.pt",
    )
    return file(folder / "x.pt", weights(0, HEADLESS))

"""The `.pth` reader against `torch.load`: every dtype, view and container that official checkpoints hold, in both formats."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from scalablevit_ref import init_params, to_backend, to_numpy, variant
from scalablevit_ref.checkpoints import load_checkpoint, save_checkpoint
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import StoredTensor
from tests.checkpoints.test_recognise import zeros
from tests.support.bit_patterns import bit_patterns

CONFIG = variant("digits")
FORMATS = {"zip": True, "legacy": False}
DTYPES = ("float16", "bfloat16", "float32", "float64")


def save(value: Any, path: Path, kind: str) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[kind])
    return path


def read(path: Path) -> Any:
    """The file's object, its tensors read."""
    with open_file(path) as (tree, _, _):
        return {name: x.read() if isinstance(x, StoredTensor) else x for name, x in tree.items()}


def assert_same_bits(ours: Any, theirs: torch.Tensor) -> None:
    expected = to_numpy(theirs.detach())
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    assert ours.tobytes() == expected.tobytes()


def bits(dtype: str, count: int) -> torch.Tensor:
    """Random bit patterns, NaN payloads, infinities, −0.0 and subnormals among them."""
    kind = getattr(ml_dtypes, dtype, dtype)
    return torch.from_numpy(bit_patterns({"x": (count,)}, kind)["x"].view(np.uint8)).view(getattr(torch, dtype))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_those_that_torch_loads(tmp_path: Path, dtype: str, kind: str) -> None:
    base = bits(dtype, 120)
    tensors = {
        "whole": base.reshape(4, 5, 6).clone(),
        "slice": base[17:40],
        "strided": base.reshape(4, 5, 6)[1:3, ::2, 3],
        "transposed": base.reshape(10, 12).t(),
        "permuted": base.reshape(2, 3, 4, 5).permute(3, 1, 0, 2),
        "expanded": base[:3, None].expand(3, 4),
        "scalar": base[5],
        "empty": base[:0].reshape(0, 3),
        "shared": base[40:],
        "parameter": torch.nn.Parameter(base[3:9]),
    }
    path = save(tensors, tmp_path / "x.pth", kind)
    ours, theirs = read(path), torch.load(path)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert_same_bits(ours[name], tensor)
        assert ours[name].flags.c_contiguous
        assert ours[name].flags.writeable


@pytest.mark.parametrize("kind", FORMATS)
def test_integers_and_containers(tmp_path: Path, kind: str) -> None:
    value = {
        "long": torch.arange(5),
        "byte": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "device": torch.device("cuda", 1),
        "plain": (1, -2, 2**40, -(2**70), 1.5, "ü", None, True, False, [1, {"a": ()}]),
        "ordered": OrderedDict(b=1, a=2),
    }
    ours = read(save(value, tmp_path / "x.pth", kind))
    for name in ("long", "byte", "bool"):
        assert_same_bits(ours[name], value[name])
    assert ours["size"] == (2, 3)
    assert (ours["dtype"], ours["device"]) == ("float16", "cuda:1")
    assert ours["plain"] == value["plain"]
    assert list(ours["ordered"].items()) == [("b", 1), ("a", 2)]


def training_checkpoint(params: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the authors' training script saves, with an optimizer that has taken a step and a scaler."""
    weights = OrderedDict((name, torch.nn.Parameter(x)) for name, x in to_backend(params, "torch").items())
    optimizer = torch.optim.AdamW([{"params": list(weights.values()), "weight_decay": 0.05}])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    sum((x**2).sum() for x in weights.values()).backward()
    optimizer.step()
    scheduler.step()
    weights._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]  # as Module.state_dict's
    return {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 37,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "args": argparse.Namespace(model="scalable_vit_unheard_of", lr=5e-4, data_path="/data", aa=None, betas=(0.9, 0.999)),
    }


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_training_checkpoint(tmp_path: Path, dtype: str, kind: str) -> None:
    path = tmp_path / "checkpoint.pth"
    save(training_checkpoint(to_numpy(to_backend(init_params(CONFIG), "torch", dtype=dtype))), path, kind)
    theirs = torch.load(path, weights_only=False)["model"]
    checkpoint = load_checkpoint(path, allow_nonfinite=True)  # AdamW's eps is 0 in float16
    assert checkpoint.config == CONFIG
    assert list(checkpoint.params) == list(theirs)
    for name, tensor in theirs.items():
        assert_same_bits(checkpoint.params[name], tensor)
    expected = {"layout": "official", "variant": "digits", "config_from": "shapes", "wrapper": "model", "ema": False}
    expected |= {"prefixes": [], "ignored": [], "dtype": dtype, "epoch": 37, "format": f"torch {kind}"}
    assert checkpoint.metadata == expected
    json.dumps(checkpoint.metadata)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", FORMATS)
def test_module_state_dict(tmp_path: Path, kind: str, protocol: int) -> None:
    """A real `Module.state_dict()`: an OrderedDict with a `_metadata` attribute."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    path = tmp_path / "x.pth"
    torch.save(module.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=FORMATS[kind])
    ours = read(path)
    assert list(ours) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert_same_bits(ours[name], tensor)


def test_optimizer_is_not_read(tmp_path: Path) -> None:
    """Damage in the optimizer's tensors goes unseen, damage in the weights does not."""
    from scalablevit_ref.checkpoints import CheckpointError

    path = tmp_path / "checkpoint.pth"
    value = training_checkpoint(init_params(CONFIG))
    torch.save(value, path)
    whole = path.read_bytes()
    moment = value["optimizer"]["state"][0]["exp_avg"].numpy().tobytes()
    weight = value["model"]["patch_embeds.0.proj.weight"].detach().numpy().tobytes()
    for part, readable in ((moment, True), (weight, False)):
        at = whole.index(part) + 10
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if readable:
            load_checkpoint(path)
        else:
            with pytest.raises(CheckpointError, match=r"checkpoint\.pth: .*data/0: .*checksum"):
                load_checkpoint(path)


def test_file_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(to_backend(init_params(CONFIG), "torch"), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(path).metadata["variant"] == "digits"


def test_written_file_is_what_the_official_code_reads(tmp_path: Path) -> None:
    params = init_params(CONFIG)
    path = tmp_path / "digits.pth"
    save_checkpoint(path, params, CONFIG, metadata={"epoch": 12})
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs = torch.load(path, weights_only=True)
    assert list(theirs) == ["model", "args", "epoch", "scalablevit_ref"]
    assert list(theirs["model"]) == list(params)
    assert all(np.array_equal(theirs["model"][name].numpy(), x) for name, x in params.items())
    assert theirs["args"] == argparse.Namespace()
    assert theirs["epoch"] == 12
    assert json.loads(theirs["scalablevit_ref"]["config"])["embed_dims"] == list(CONFIG.embed_dims)


def test_written_file_names_the_official_model(tmp_path: Path) -> None:
    """Of a variant exactly, and no other."""
    shallow = variant("small", depths=(1, 1, 1, 1))
    for name, saved, model in (("exact", variant("small"), "scalable_vit_small"), ("other", shallow, None)):
        save_checkpoint(tmp_path / f"{name}.pth", zeros(saved), saved)
        theirs = torch.load(tmp_path / f"{name}.pth", weights_only=False, mmap=True)
        assert getattr(theirs["args"], "model", None) == model
        assert load_checkpoint(tmp_path / f"{name}.pth").config == saved

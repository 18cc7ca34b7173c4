"""The `.pth` reader against `torch.load`: every dtype, view and container that official checkpoints hold, in both formats."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
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
from tests.support.bit_patterns import assert_same_bits, bit_patterns
from tests.support.checkpoints import DIGITS, training_checkpoint, zeros

FORMATS = {"zip": True, "legacy": False}
DTYPES = ("float16", "bfloat16", "float32", "float64")


def save(value: Any, path: Path, kind: str) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[kind])
    return path


def read(path: Path) -> Any:
    """The file's object, its tensors read."""
    with open_file(path) as (tree, _, _):
        return {name: x.read() if isinstance(x, StoredTensor) else x for name, x in tree.items()}


def assert_loaded(ours: Any, theirs: Mapping[str, torch.Tensor]) -> None:
    """Bit for bit what torch loaded, under its names."""
    assert_same_bits(ours, {name: to_numpy(tensor.detach()) for name, tensor in theirs.items()})


def random_tensor(dtype: str, count: int) -> torch.Tensor:
    """Random bit patterns, NaN payloads, infinities, −0.0 and subnormals among them."""
    kind = getattr(ml_dtypes, dtype, dtype)
    return torch.from_numpy(bit_patterns({"x": (count,)}, kind)["x"].view(np.uint8)).view(getattr(torch, dtype))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_those_that_torch_loads(tmp_path: Path, dtype: str, kind: str) -> None:
    base = random_tensor(dtype, 120)
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
    assert_loaded(ours, theirs)
    assert all(x.flags.c_contiguous and x.flags.writeable for x in ours.values())


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
    numbers = ("long", "byte", "bool")
    assert_loaded({name: ours[name] for name in numbers}, {name: value[name] for name in numbers})
    assert ours["size"] == (2, 3)
    assert (ours["dtype"], ours["device"]) == ("float16", "cuda:1")
    assert ours["plain"] == value["plain"]
    assert list(ours["ordered"].items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_training_checkpoint(tmp_path: Path, dtype: str, kind: str) -> None:
    path = tmp_path / "checkpoint.pth"
    save(training_checkpoint(to_numpy(to_backend(init_params(DIGITS), "torch", dtype=dtype))), path, kind)
    theirs = torch.load(path, weights_only=False)["model"]
    checkpoint = load_checkpoint(path, allow_nonfinite=True)  # AdamW's eps is 0 in float16
    assert checkpoint.config == DIGITS
    assert_loaded(checkpoint.params, theirs)
    expected = {"layout": "official", "variant": "digits", "config_from": "shapes", "wrapper": "model", "ema": False}
    expected |= {"prefixes": [], "ignored": [], "others": [], "unread": [], "dtype": dtype, "epoch": 37, "format": f"torch {kind}"}
    assert checkpoint.metadata == expected
    json.dumps(checkpoint.metadata)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", FORMATS)
def test_module_state_dict(tmp_path: Path, kind: str, protocol: int) -> None:
    """A real `Module.state_dict()`: an OrderedDict with a `_metadata` attribute."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    path = tmp_path / "x.pth"
    torch.save(module.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=FORMATS[kind])
    assert_loaded(read(path), module.state_dict())


def test_optimizer_is_not_read(tmp_path: Path) -> None:
    """Damage in the optimizer's tensors goes unseen, damage in the weights does not."""
    from scalablevit_ref.checkpoints import CheckpointError

    path = tmp_path / "checkpoint.pth"
    value = training_checkpoint(init_params(DIGITS))
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
        torch.save(to_backend(init_params(DIGITS), "torch"), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(path).metadata["variant"] == "digits"


def test_written_file_is_what_the_official_code_reads(tmp_path: Path) -> None:
    params = init_params(DIGITS)
    path = tmp_path / "digits.pth"
    save_checkpoint(path, params, DIGITS, metadata={"epoch": 12})
    theirs = torch.load(path, weights_only=True)
    assert list(theirs) == ["model", "epoch", "scalablevit_ref"]
    assert list(theirs["model"]) == list(params)
    assert all(np.array_equal(theirs["model"][name].numpy(), x) for name, x in params.items())
    assert theirs["epoch"] == 12
    assert json.loads(theirs["scalablevit_ref"]["config"])["embed_dims"] == list(DIGITS.embed_dims)


def test_written_file_names_the_official_model(tmp_path: Path) -> None:
    """Of a variant exactly, and no other."""
    shallow = variant("small", depths=(1, 1, 1, 1))
    for name, saved, model in (("exact", variant("small"), "scalable_vit_small"), ("other", shallow, None)):
        save_checkpoint(tmp_path / f"{name}.pth", zeros(saved), saved)
        theirs = torch.load(tmp_path / f"{name}.pth", weights_only=True, mmap=True)
        assert theirs.get("args") == (model and {"model": model})
        assert load_checkpoint(tmp_path / f"{name}.pth").config == saved

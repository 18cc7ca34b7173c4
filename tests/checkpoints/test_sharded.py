"""Checkpoints in several files with an index, as Hugging Face's libraries write them; and one shard alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from scalablevit_ref import init_params, to_backend, variant
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.inspect import inspect_file
from scalablevit_ref.checkpoints.load import open_checkpoint
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.folders import weights_file
from scalablevit_ref.formats.sharded import byte_size
from tests.support.checkpoints import DIGITS, assert_same

PARAMS = init_params(DIGITS)
TENSORS = to_backend(PARAMS, "torch")


def sharded(folder: Path, ending: str = "safetensors", stem: str = "model", count: int = 3) -> Path:
    """The weights of digits in `count` shards, in an order of their own, with their index."""
    folder.mkdir(exist_ok=True)
    names = sorted(PARAMS, key=lambda name: name[::-1])
    where: dict[str, str] = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05}-of-{count:05}.{ending}"
        part = {name: TENSORS[name] for name in names[i::count]}
        if ending == "safetensors":
            safetensors.torch.save_file(part, folder / file, metadata={"format": "pt", "shard": f"{i}"})
        else:
            torch.save(part, folder / file, _use_new_zipfile_serialization=ending != "legacy")
        where |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}, indent=2))
    return index


@pytest.mark.parametrize(
    ("ending", "stem", "format_"),
    [
        ("safetensors", "model", "sharded safetensors"),
        ("safetensors", "diffusion_pytorch_model", "sharded safetensors"),
        ("bin", "pytorch_model", "sharded torch zip"),
        ("legacy", "pytorch_model", "sharded torch legacy"),
    ],
)
def test_the_index_and_its_folder_are_read(tmp_path: Path, ending: str, stem: str, format_: str) -> None:
    index = sharded(tmp_path / "model", ending, stem)
    (tmp_path / "model" / "README.md").write_text("# weights")
    for path in (index, index.parent):
        checkpoint = load_checkpoint(path)
        assert_same(checkpoint, PARAMS)
        assert checkpoint.metadata["format"] == format_
        assert weights_file(path) == index


def test_what_shards_say_of_themselves(tmp_path: Path) -> None:
    """Only what they agree on is said of the whole."""
    with open_file(sharded(tmp_path)) as (tree, notes, _):
        assert notes == {"format": "pt"}
        assert sorted(tree) == sorted(PARAMS)


def test_shards_that_are_larger_than_the_first(tmp_path: Path) -> None:
    """All tensors together are held against all shards: a first shard of a few bytes bounds nothing."""
    first, *others = PARAMS
    safetensors.torch.save_file({first: TENSORS[first]}, tmp_path / "1.safetensors")
    safetensors.torch.save_file({name: TENSORS[name] for name in others}, tmp_path / "2.safetensors")
    where = {first: "1.safetensors"} | dict.fromkeys(others, "2.safetensors")
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": where}))
    with open_file(tmp_path / "x.index.json") as (tree, _, _):
        together = sum((tmp_path / f"{i}.safetensors").stat().st_size for i in (1, 2))
        assert {x.limit for x in tree.values()} == {together}
    assert byte_size(tmp_path / "x.index.json") == together
    assert byte_size(tmp_path / "2.safetensors") == (tmp_path / "2.safetensors").stat().st_size


def test_a_tensor_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    """Through the index as from one file: each shard stays open, and nothing of it is in memory."""
    index = sharded(tmp_path)
    with open_checkpoint(index) as weights:
        for shard in tmp_path.glob("*.safetensors"):
            shard.unlink()
        assert all(np.array_equal(x.read(), PARAMS[name]) for name, x in weights.params.items())


def test_inspecting_shards(tmp_path: Path) -> None:
    found = inspect_file(sharded(tmp_path))
    assert (found.format, found.layout, found.parameters) == (
        "sharded safetensors",
        "official",
        sum(x.size for x in PARAMS.values()),
    )


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "model-00001-of-00003.safetensors"])
def test_one_shard_is_refused_for_what_it_is(tmp_path: Path, name: str) -> None:
    index = sharded(tmp_path)
    said = rf"{name}: the file is one shard \({name[10]} of 3\) of a sharded checkpoint; expected its index, {index.name}, or the f"
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(tmp_path / name)
    index.rename(tmp_path / "model.safetensors.index.fp16.json")
    with pytest.raises(CheckpointError, match=r"expected its index, model\.safetensors\.index\.fp16\.json, or the folder"):
        load_checkpoint(tmp_path / name)
    (tmp_path / "model.safetensors.index.fp16.json").unlink()
    with pytest.raises(CheckpointError, match=rf"expected its index, {index.name}, which is not in this folder"):
        load_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"a folder of shards without their index; expected {index.name}"):
        load_checkpoint(tmp_path)


def test_one_shard_of_one_is_the_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model-00001-of-00001.safetensors", PARAMS, DIGITS)
    for path in (tmp_path / "model-00001-of-00001.safetensors", tmp_path):
        assert_same(load_checkpoint(path), PARAMS)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"index\.json: model-00002-of-00003\.safetensors: a shard .* is not there"):
        load_checkpoint(index)


def test_a_shard_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    shutil.copy(tmp_path / "model-00001-of-00003.safetensors", tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: .*: the index says that it lies in this shard"):
        load_checkpoint(index)


def test_the_cache_of_hugging_face(tmp_path: Path) -> None:
    """A snapshot's files are links to blobs, which lie out of its folder."""
    cache = tmp_path / "models--someone--digits"
    snapshot = cache / "snapshots" / "0123abc"
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    snapshot.mkdir(parents=True)
    for path in sharded(tmp_path / "made").parent.iterdir():
        path.rename(cache / "blobs" / f"of-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/of-{path.name}")
    for path in (snapshot, snapshot / "model.safetensors.index.json"):
        assert_same(load_checkpoint(path), PARAMS)
    with pytest.raises(CheckpointError, match="the Hugging Face cache of a repository: name a file in snapshots"):
        load_checkpoint(cache)
    elsewhere = tmp_path / "elsewhere"
    (cache / "blobs" / "of-model-00003-of-00003.safetensors").rename(elsewhere)
    (snapshot / "model-00003-of-00003.safetensors").unlink()
    (snapshot / "model-00003-of-00003.safetensors").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="a shard that is a link out of its folder"):
        load_checkpoint(snapshot)


def test_small_in_shards_of_hugging_face(tmp_path: Path) -> None:
    """Shards as `huggingface_hub` cuts them."""
    hub: Any = pytest.importorskip("huggingface_hub")
    params = init_params(variant("small"), dtype="float16")
    hub.save_torch_state_dict(to_backend(params, "torch"), tmp_path, max_shard_size="20MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(load_checkpoint(tmp_path, variant="small"), params)

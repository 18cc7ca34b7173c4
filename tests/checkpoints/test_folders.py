"""Folders: the one checkpoint in it is read; any other is told for what it is, with the command that makes a file of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalablevit_ref import init_params, to_backend, to_state_dict
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from scalablevit_ref.formats.remedies import BROKEN_OFF
from tests.support.checkpoints import DIGITS, assert_same
from tests.support.flax_files import nested
from tests.support.remedies import commands, remedied

PARAMS = init_params(DIGITS)
TREE = {"params": nested(to_state_dict(PARAMS, DIGITS, layout="channels_last"))}

BESIDE = (
    "config.json", "README.md", "optimizer.bin", "optimizer.pt", "optimizer_1.bin", "scheduler.pt", "scaler.pt", "rng_state.pth",
    "rng_state_0.pth", "random_states_0.pkl", "training_args.bin", "trainer_state.json", "sampler.bin", ".hidden.safetensors",
)  # fmt: skip
"""What transformers' Trainer and accelerate write beside the weights."""


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def said(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "epoch=3.ckpt", "weights.npz", "m.msgpack", "m.pth.tar"]
)
def test_the_one_checkpoint_of_a_folder_is_read(tmp_path: Path, name: str) -> None:
    suffix = Path(name).suffix if name.endswith(("safetensors", "npz", "msgpack")) else ".pth"
    save_checkpoint(tmp_path / f"x{suffix}", PARAMS, DIGITS)
    (tmp_path / f"x{suffix}").rename(tmp_path / name)
    touch(tmp_path, *BESIDE, "logs/events.out")
    assert_same(load_checkpoint(tmp_path), PARAMS)


def test_an_error_names_the_file_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"{}")
    file = tmp_path / "model.safetensors"
    assert said(tmp_path) == f"{file}: the file ends inside its header: {BROKEN_OFF}; expected 24 bytes, found 10"


def test_a_folder_of_several_checkpoints(tmp_path: Path) -> None:
    touch(tmp_path, "model.safetensors", "pytorch_model.bin", *BESIDE)
    assert said(tmp_path).endswith("a folder of several checkpoints: name one of them; found model.safetensors, pytorch_model.bin")
    touch(tmp_path, *(f"epoch={i}.ckpt" for i in range(30)))
    assert said(tmp_path).endswith("epoch=14.ckpt, epoch=15.ckpt, … (32 in all)")


def test_folders_without_a_checkpoint(tmp_path: Path) -> None:
    assert said(tmp_path).endswith("an empty folder; expected a checkpoint file")
    touch(tmp_path, "config.json", "README.md")
    assert said(tmp_path).endswith("a folder that holds no checkpoint; expected a checkpoint file, found README.md, config.json")


def test_a_training_run(tmp_path: Path) -> None:
    """A run of PyTorch Lightning: its checkpoints lie deeper, and are named."""
    touch(
        tmp_path, "hparams.yaml", "lightning_logs/version_0/checkpoints/epoch=1-step=2.ckpt", "lightning_logs/version_0/metrics.csv"
    )
    assert said(tmp_path).endswith(
        "a folder whose checkpoints lie in folders below it: name one; "
        "found lightning_logs/version_0/checkpoints/epoch=1-step=2.ckpt"
    )


def made_by(text: str, folder: Path) -> Path:
    """What the command of an error makes, in a folder of its own."""
    folder.mkdir()
    return remedied(text, folder)


def test_distributed_checkpoints_of_torch(tmp_path: Path) -> None:
    dcp: Any = pytest.importorskip("torch.distributed.checkpoint")
    folder = tmp_path / "it's one"
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        dcp.save({"model": to_backend(PARAMS, "torch")}, checkpoint_id=folder, no_dist=True)
    text = said(folder)
    assert "the folder is a checkpoint of torch.distributed (DCP); this makes a file of it: " in text
    assert_same(load_checkpoint(made_by(text, tmp_path / "made")), PARAMS)
    part = next(folder.glob("*.distcp"))
    assert "a part of a checkpoint of torch.distributed: give its folder" in said(part)


def saved_by_checkpointer(orbax: Any, folder: Path) -> str:
    orbax.PyTreeCheckpointer().save(folder, TREE)
    return "the folder is an orbax checkpoint; "


def saved_by_manager(orbax: Any, folder: Path) -> str:
    with orbax.CheckpointManager(folder) as manager:
        manager.save(3, args=orbax.args.StandardSave(TREE))
    return "the folder holds, as 3/default, an orbax checkpoint; "


@pytest.mark.parametrize("save", [saved_by_checkpointer, saved_by_manager])
def test_orbax(tmp_path: Path, save: Any) -> None:
    orbax: Any = pytest.importorskip("orbax.checkpoint")
    expected = save(orbax, tmp_path / "a folder")
    text = said(tmp_path / "a folder")
    assert expected in text
    assert_same(load_checkpoint(made_by(text, tmp_path / "made")), PARAMS)
    part = next((tmp_path / "a folder").rglob("_METADATA"))
    assert "a part of an orbax checkpoint: give its folder" in said(part)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (
            ["saved_model.pb", "variables/variables.index", "fingerprint.pb"],
            "is a TensorFlow SavedModel; this makes .*load_checkpoint",
        ),
        (["checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"], "is a TensorFlow checkpoint; this makes .*load_checkpoint"),
        (
            ["latest", "zero_to_fp32.py", "global_step9/x"],
            r"is a checkpoint of DeepSpeed ZeRO, .*`python (\S+)/zero_to_fp32\.py \1 weights`",
        ),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"], "is a part .* ZeRO: give the folder above"),
        (["Manifest.json", "Data/com.apple.CoreML/model.mlmodel"], "is a Core ML package"),
        (["saved/run/saved_model.pb"], "holds, as saved/run, a TensorFlow SavedModel"),
    ],
)
def test_folders_of_other_libraries(tmp_path: Path, names: list[str], what: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(CheckpointError, match=f"the folder {what}"):
        load_checkpoint(tmp_path)


def test_a_rank_of_deepspeed(tmp_path: Path) -> None:
    part = tmp_path / "global_step9" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    part.parent.mkdir()
    torch.save({"optimizer_state_dict": {}}, part)
    assert said(part).endswith("a part of a checkpoint of DeepSpeed ZeRO: give its folder")
    touch(tmp_path, "zero_to_fp32.py")
    assert "the folder is a checkpoint of DeepSpeed ZeRO" in said(tmp_path)
    save_checkpoint(tmp_path / "pytorch_model.pth", PARAMS, DIGITS)  # what zero_to_fp32.py makes
    assert_same(load_checkpoint(tmp_path), PARAMS)


def test_parts_of_a_tensorflow_checkpoint(tmp_path: Path) -> None:
    """Each of its files, its prefix, which is no file, and its folder: all lead to one command. Of one part alone there is none."""
    part = tmp_path / "x.data-00000-of-00001"
    touch(tmp_path, part.name)
    assert said(part).endswith("a part of a TensorFlow checkpoint, whose index is not there")
    touch(tmp_path, "x.index")
    expected = shlex.quote(str(tmp_path / "x")) + " weights.npz`"
    assert said(part).endswith(expected)
    assert said(tmp_path / "x.index").endswith(expected)
    with pytest.raises(
        FileNotFoundError, match=r"the prefix of a TensorFlow checkpoint, and no file; this makes .*load_checkpoint"
    ):
        load_checkpoint(tmp_path / "x")


def test_tensorflow_checkpoints_and_saved_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tf: Any = pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    held = tf.Module()
    for name, x in to_state_dict(PARAMS, DIGITS, layout="channels_last").items():
        *parents, leaf = name.split(".")
        place = held
        for part in parents:
            place.__dict__.get(part) is None and setattr(place, part, tf.Module())
            place = getattr(place, part)
        setattr(place, leaf, tf.Variable(x))
    tf.train.Checkpoint(model=held).write("ckpt/x")
    tf.saved_model.save(held, "saved")
    of_parts = [commands(said(Path(f"ckpt/x.{part}"))) for part in ("index", "data-00000-of-00001")]
    assert of_parts[0] == of_parts[1]  # one command, which is run once
    for path in ("ckpt", "ckpt/x.index", "saved"):
        made = remedied(said(Path(path)), tmp_path)
        assert_same(load_checkpoint(made), PARAMS)
        made.unlink()


def test_folders_are_listed_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "x.npz", **PARAMS)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    assert said(tmp_path / "a").endswith("a folder that holds no checkpoint; expected a checkpoint file, found link/")

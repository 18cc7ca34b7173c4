"""`config.json` beside weights: read back where their file lost its notes, and written without destroying another tool's."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from scalablevit_ref import init_params, to_backend, variant
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, load_port, save_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.hub import hub_config
from scalablevit_ref.checkpoints.inspect import inspect_file
from scalablevit_ref.dialects.vit_pytorch import Config, parameter_shapes
from tests.support.checkpoints import CUSTOM, DIGITS, assert_same, listing, numbered

EARLIER = Path(__file__).resolve().parents[1] / "data" / "earlier"

FOLDED = replace(DIGITS, ssa_scale="head_dim")

THEIRS = {"model_type": "mine", "id2label": {"0": "zero"}, "num_classes": 1000, "architecture": "resnet50"}


def save_again(path: Path, target: Path | None = None, **changes: Any) -> None:
    """As another library does: the tensors, and no notes."""
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file(state | changes, target or path, metadata={"format": "pt"})


def note(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bare state dict, and a folder into which it was converted with its scale folded, since stated."""
    torch.save(to_backend(init_params(DIGITS), "torch"), tmp_path / "bare.pth")
    (tmp_path / "hub").mkdir()
    convert_file(tmp_path / "bare.pth", tmp_path / "hub" / "model.safetensors", variant="digits", fold_scale=True, config_json=None)
    return tmp_path / "hub"


def test_weights_that_lost_their_notes(folder: Path) -> None:
    """Are what config.json says, with a folded scale; and after a conversion that is stored in the file."""
    path = folder / "model.safetensors"
    before = load_checkpoint(path)
    assert (before.config, before.metadata["config_from"]) == (FOLDED, "metadata")
    save_again(path)
    found, seen = load_checkpoint(path), inspect_file(path).weights
    assert_same(found, before.params)
    assert (found.config, found.metadata["config_from"]) == (FOLDED, "config.json")
    assert seen is not None
    assert (seen.config, seen.assumed) == (FOLDED, None)
    assert seen.facts()["variant"] == "none of the published (stated in config.json beside the file)"
    convert_file(path, folder / "x.npz")
    assert load_checkpoint(folder / "x.npz").metadata["config_from"] == "metadata"
    moved = shutil.copytree(folder, folder.with_name("moved"))
    assert load_checkpoint(moved / "model.safetensors").config == FOLDED


def test_a_guess_in_config_json_is_one(folder: Path) -> None:
    path = folder / "model.safetensors"
    convert_file(folder.parent / "bare.pth", path, fold_scale=True, config_json=True, force=True)
    save_again(path)
    found = load_checkpoint(path)
    assert (found.config, found.metadata["config_from"]) == (FOLDED, "shapes")
    assert load_checkpoint(path, variant="digits").metadata["config_from"] == "variant"


def test_another_head_after_fine_tuning(folder: Path) -> None:
    """What shows in shapes is told by them; what does not, by config.json."""
    save_again(folder / "model.safetensors", **{"head.weight": torch.ones(3, 64), "head.bias": torch.ones(3)})
    found = load_checkpoint(folder / "model.safetensors")
    assert (found.config, found.metadata["config_from"]) == (replace(FOLDED, num_classes=3), "config.json")


def test_it_describes_the_file_that_it_names_alone(folder: Path) -> None:
    """The one that this was converted from lies in the same folder as often as not."""
    shutil.copy(folder.parent / "bare.pth", folder)
    safetensors.torch.save_file(to_backend(init_params(DIGITS), "torch"), folder / "bare.safetensors")
    for name in ("bare.pth", "bare.safetensors"):
        found = load_checkpoint(folder / name)
        assert (found.config, found.metadata["config_from"]) == (DIGITS, "shapes")
    convert_file(folder / "bare.pth", folder / "model.safetensors", fold_scale=True, config_json=True, force=True)
    convert_file(folder / "bare.pth", folder / "plain.safetensors", variant="digits")
    assert load_checkpoint(folder / "plain.safetensors").config == DIGITS
    convert_file(folder / "bare.pth", folder / "plain.safetensors", variant="digits", config_json=True, force=True)
    assert json.loads((folder / "config.json").read_text())["scalablevit_ref_notes"] == {"file": "plain.safetensors"}
    for name in ("model.safetensors", "plain.safetensors"):
        assert load_checkpoint(folder / name).config == (FOLDED if name == "model.safetensors" else DIGITS)


def test_of_other_weights_it_says_nothing(folder: Path) -> None:
    """Those of another depth, and a port's, under the name that it describes."""
    path = folder / "model.safetensors"
    config = variant("digits", depths=(2, 2, 2, 4))
    safetensors.torch.save_file(to_backend(init_params(config), "torch"), path)
    with pytest.raises(CheckpointError, match="the shapes fit no variant, but a network of embed_dims"):
        load_checkpoint(path)
    assert load_checkpoint(path, config=config).config == config
    settings = Config(num_classes=2, dim=8, depth=(1,), heads=1, reduction_factor=1, channels=1)
    port = {name: np.zeros(shape, "float32") for name, shape in parameter_shapes(settings).items()}
    safetensors.torch.save_file(to_backend(port, "torch"), path)
    assert load_port(path, heads=1).config == settings
    with pytest.raises(CheckpointError, match="heads and window_size show in no shape"):
        load_port(path)


def test_disagreement_is_refused_and_names_the_settings(folder: Path) -> None:
    path = folder / "model.safetensors"
    note(folder, scalablevit_ref=asdict(DIGITS))
    said = "the stored configuration is not that of config.json beside it: correct or remove that file, or give config="
    settings = "; expected ssa_scale='scaled', found ssa_scale='head_dim'$"
    with pytest.raises(CheckpointError, match=said + settings) as caught:
        load_checkpoint(path)
    assert "config=" not in caught.value.in_flags()
    assert inspect_file(path).problem is not None
    assert load_checkpoint(path, config=FOLDED).config == FOLDED
    save_again(path)
    assert load_checkpoint(path, variant="digits").metadata["config_from"] == "config.json"
    note(folder, scalablevit_ref=asdict(FOLDED))
    with pytest.raises(CheckpointError, match=r"that of config\.json beside it is not variant 'digits': correct .*head_dim"):
        load_checkpoint(path, variant="digits")


def test_no_file_is_written_that_would_be_refused(folder: Path) -> None:
    """One whose config.json, left as it is, states other settings."""
    source, path = folder.parent / "bare.pth", folder / "model.safetensors"
    before = path.read_bytes(), (folder / "config.json").read_bytes()
    said = (
        r"model\.safetensors: the config\.json beside it states other settings of this file: config_json=True updates it; expected"
    )
    with pytest.raises(CheckpointError, match=said + " ssa_scale='scaled', found ssa_scale='head_dim'"):
        convert_file(source, path, variant="digits", force=True)
    with pytest.raises(CheckpointError, match=said):  # a guess, over which that of config.json would be believed
        convert_file(source, path, force=True)
    with pytest.raises(CheckpointError, match=said):
        save_checkpoint(path, init_params(DIGITS), DIGITS, force=True)
    assert (path.read_bytes(), (folder / "config.json").read_bytes()) == before
    convert_file(source, path, variant="digits", force=True, config_json=None)
    assert load_checkpoint(path).config == DIGITS
    convert_file(source, path, variant="digits", force=True, layout="split", strip_head=True)  # which show in names and shapes
    assert load_checkpoint(path).config.num_classes == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"scalablevit_ref": 3}',
        b'{"scalablevit_ref": {"depth": 3}}',
        b'{"scalablevit_ref": {"depths": [1, 1, 1, 100000000]}}',
        b'{"scalablevit_ref": {}, "scalablevit_ref_notes": 5}',
        b'{"architecture": "resnet50", "num_classes": 1000}',
        b'{"model_type": "scalablevit", "depths": 3}',
        b'{"model_type": "scalablevit", "depths": [1, 1, 1, 100000000], "id2label": 5}',
        b'{"model_type": "x", "backbone_config": {"model_type": "y", "backbone_config": {"model_type": "scalablevit"}}}',
        b'{"model_type": "detr", "backbone_config": 5}',
        json.dumps({"scalablevit_ref": asdict(FOLDED), "x": "x" * (4 << 20)}).encode(),
    ],
    ids=lambda content: content[:40],
)
def test_a_foreign_or_broken_one_is_ignored(folder: Path, content: bytes) -> None:
    save_again(folder / "model.safetensors")
    (folder / "config.json").write_bytes(content)
    found = load_checkpoint(folder / "model.safetensors")
    assert (found.config, found.metadata["config_from"]) == (DIGITS, "shapes")


def test_what_is_no_file_of_the_folder(folder: Path) -> None:
    """A FIFO would be waited for, and a link may lead anywhere; but the hub's cache is made of links into its `blobs`."""
    path, beside = folder / "model.safetensors", folder / "config.json"
    save_again(path)
    outside = beside.rename(folder.parent / "config.json")
    beside.symlink_to(outside)
    assert load_checkpoint(path).metadata["config_from"] == "shapes"
    beside.unlink()
    os.mkfifo(beside)
    assert load_checkpoint(path).metadata["config_from"] == "shapes"
    beside.unlink()
    shutil.copy(outside, folder / "other.json")
    beside.symlink_to("other.json")
    assert load_checkpoint(path).config == FOLDED
    model, snapshot = folder.parent / "models--me--digits", folder.parent / "models--me--digits" / "snapshots" / "1a2b"
    (model / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name, blob in (("model.safetensors", "cafe"), ("config.json", "beef")):
        shutil.copy(folder / name, model / "blobs" / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    assert load_checkpoint(snapshot / "model.safetensors").metadata["config_from"] == "config.json"


def test_an_earlier_version_s(tmp_path: Path) -> None:
    """It named no file, and meant the hub's."""
    shutil.copy(EARLIER / "config.json", tmp_path)
    for name in ("model.safetensors", "other.safetensors"):
        save_again(EARLIER / "weights.safetensors", tmp_path / name)
    found = load_checkpoint(tmp_path / "model.safetensors")
    assert (found.config.ssa_scale, found.config.norm_eps, found.metadata["config_from"]) == ("head_dim", 3e-6, "config.json")
    with pytest.raises(CheckpointError, match="the shapes fit no variant"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_another_tool_s_is_kept(folder: Path) -> None:
    """Whether or not there are weights yet, with `force` and without."""
    beside, path = folder / "config.json", folder / "model.safetensors"
    for content in (json.dumps(THEIRS).encode(), b"no JSON"):
        beside.write_bytes(content)
        done = convert_file(folder.parent / "bare.pth", path, config_json=None, force=True)
        assert (done.config_json, done.config_json_replaced, beside.read_bytes()) == ("stale", [], content)
        path.unlink()
        assert convert_file(folder.parent / "bare.pth", path, config_json=None).config_json == "stale"
        assert (load_checkpoint(path).config, beside.read_bytes()) == (DIGITS, content)
    assert listing(folder) == ["config.json", "model.safetensors"]


def test_ours_is_put_into_another_tool_s_where_that_is_asked_for(folder: Path) -> None:
    beside, path = folder / "config.json", folder / "model.safetensors"
    beside.write_text(json.dumps(THEIRS))
    with pytest.raises(FileExistsError, match=r"model\.safetensors exists|config\.json exists"):
        convert_file(folder.parent / "bare.pth", path, config_json=True)
    done = convert_file(folder.parent / "bare.pth", path, config_json=True, force=True)
    assert (done.config_json, done.config_json_replaced) == ("written", ["architecture", "num_classes"])
    ours = json.loads(json.dumps(hub_config(DIGITS, guessed=True)))
    assert json.loads(beside.read_text()) == THEIRS | ours
    save_checkpoint(path, numbered(CUSTOM), CUSTOM, config_json=True, force=True)
    assert json.loads(beside.read_text()) == THEIRS | json.loads(json.dumps(hub_config(CUSTOM)))
    done = convert_file(folder.parent / "bare.pth", path, config_json=None, force=True)  # ours now, and kept up to date
    assert json.loads(beside.read_text()) == THEIRS | ours
    assert "scalablevit_ref" in done.config_json_replaced
    beside.write_text("no JSON")
    with pytest.raises(CheckpointError, match=r"config\.json: no JSON object, to which entries could be added: remove it"):
        convert_file(folder.parent / "bare.pth", path, config_json=True, force=True)
    assert beside.read_text() == "no JSON"


def test_one_that_describes_another_file_is_kept_up_to_date_with_that(tmp_path: Path) -> None:
    torch.save(to_backend(init_params(DIGITS), "torch"), tmp_path / "bare.pth")
    for options in ({"config_json": True}, {"config_json": None, "fold_scale": True, "force": True}):
        convert_file(tmp_path / "bare.pth", tmp_path / "x.safetensors", variant="digits", **options)
    save_again(tmp_path / "x.safetensors")
    assert load_checkpoint(tmp_path / "x.safetensors").config == FOLDED
    assert convert_file(tmp_path / "bare.pth", tmp_path / "y.safetensors", config_json=None).config_json == "stale"
    assert load_checkpoint(tmp_path / "x.safetensors").config == FOLDED

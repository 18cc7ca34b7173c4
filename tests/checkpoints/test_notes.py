"""What this package notes beside weights: guesses that stay so, notes of others, which are not believed; earlier versions."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from scalablevit_ref import init_params, to_backend, variant
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.inspect import inspect_file
from scalablevit_ref.checkpoints.notes import NOTES, noted, read_notes
from scalablevit_ref.checkpoints.save import MOST_ARRAYS, keepable
from scalablevit_ref.dialects.vit_pytorch import Config
from scalablevit_ref.weights import GUESSED, Stored
from tests.support.checkpoints import CUSTOM, DIGITS, SUFFIXES, TINY, assert_same, numbered

EARLIER = Path(__file__).resolve().parents[1] / "data" / "earlier"
"""Files that this package wrote at its commit 133b91e, of `EARLIER_CONFIG`, all with the same metadata."""

EARLIER_CONFIG = replace(TINY, ssa_scale="head_dim", norm_eps=3e-6)

CHAINS = (
    (".safetensors", ".npz", ".pth", ".msgpack", ".safetensors"),
    (".pth", ".safetensors", ".msgpack", ".npz", ".pth"),
)


def bare(path: Path, **around: Any) -> Path:
    """A state dict of the digits network, as anybody saves it."""
    torch.save({"model": to_backend(init_params(DIGITS), "torch")} | around, path)
    return path


@pytest.mark.parametrize("chain", CHAINS, ids=" ".join)
def test_a_guess_stays_a_guess(tmp_path: Path, chain: tuple[str, ...]) -> None:
    """Through any formats, layouts and a changed head or scale, and through memory; said each time."""
    path = bare(tmp_path / "bare.pth")
    changes: list[dict[str, Any]] = [{}, {"layout": "split"}, {"fold_scale": True}, {"dtype": "float16"}, {"strip_head": True}]
    for i, (suffix, change) in enumerate(zip(chain, changes, strict=True)):
        target = tmp_path / f"{i}{suffix}"
        convert_file(path, target, **change)
        found, seen = load_checkpoint(target), inspect_file(target).weights
        assert found.metadata["config_from"] == "shapes"
        assert seen is not None
        assert "show in no shape" in str(seen.assumed)
        assert found.config.ssa_scale == ("head_dim" if i >= 2 else "scaled")
        save_checkpoint(tmp_path / f"saved{target.name}", found.params, found.config, metadata=found.metadata)
        assert load_checkpoint(tmp_path / f"saved{target.name}").metadata == found.metadata | {"layout": "official"}
        path = target


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_stated_is_stored(tmp_path: Path, suffix: str) -> None:
    """By a variant, by `config`, by `args.model`; and of a file that notes a guess, which then is none any more."""
    guess = tmp_path / f"guess{suffix}"
    convert_file(bare(tmp_path / "bare.pth"), guess)
    told = bare(tmp_path / "told.pth", args=argparse.Namespace(model="scalable_vit_digits"))
    for source, stated, config_from in ((guess, {"variant": "digits"}, "variant"), (told, {}, "args.model")):
        target = tmp_path / f"x{suffix}"
        done = convert_file(source, target, force=True, **stated)
        assert done.metadata["config_from"] == config_from
        assert load_checkpoint(target).metadata["config_from"] == "metadata"
    found = load_checkpoint(guess, config=replace(DIGITS, ssa_scale="head_dim"))
    assert found.metadata["config_from"] == "config"
    save_checkpoint(tmp_path / f"y{suffix}", found.params, found.config, metadata=found.metadata)
    again = load_checkpoint(tmp_path / f"y{suffix}")
    assert (again.config, again.metadata["config_from"]) == (found.config, "metadata")


def test_settings_that_were_changed_after_a_guess_are_stated(tmp_path: Path) -> None:
    found = load_checkpoint(bare(tmp_path / "bare.pth"))
    for config, config_from in ((found.config, "shapes"), (replace(found.config, ssa_scale="head_dim"), "metadata")):
        save_checkpoint(tmp_path / "x.npz", found.params, config, metadata=found.metadata, force=True)
        again = load_checkpoint(tmp_path / "x.npz")
        assert (again.config, again.metadata["config_from"]) == (config, config_from)


def test_a_variant_overrules_a_guess_and_not_a_statement(tmp_path: Path) -> None:
    """`small` with a plain head has the shapes of `small_0`, and was taken for it."""
    shallow = {name: np.zeros(x, "float16") for name, x in _shapes(variant("small", head="linear")).items()}
    np.savez(tmp_path / "bare.npz", **shallow)
    convert_file(tmp_path / "bare.npz", tmp_path / "guess.npz")
    assert load_checkpoint(tmp_path / "guess.npz").metadata["variant"] == "small_0"
    found = load_checkpoint(tmp_path / "guess.npz", variant="small")
    assert (found.config, found.metadata["config_from"]) == (variant("small", head="linear"), "variant")
    convert_file(tmp_path / "guess.npz", tmp_path / "stated.npz", variant="small")
    with pytest.raises(CheckpointError, match=r"the stored configuration is not variant 'small_0'; expected c_ratios"):
        load_checkpoint(tmp_path / "stated.npz", variant="small_0")


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    from scalablevit_ref import parameter_shapes

    return parameter_shapes(config)


def test_a_guess_is_not_named_in_the_authors_words(tmp_path: Path) -> None:
    """Else it would be stated by `args.model` for whoever reads that."""
    small = {name: np.zeros(x, "float16") for name, x in _shapes(variant("small")).items()}
    np.savez(tmp_path / "bare.npz", **small)
    for stated, args in (({}, None), ({"variant": "small"}, {"model": "scalable_vit_small"})):
        convert_file(tmp_path / "bare.npz", tmp_path / "x.pth", force=True, **stated)
        assert torch.load(tmp_path / "x.pth").get("args") == args


PORT = asdict(Config(num_classes=2, dim=8, depth=(1,), heads=1, reduction_factor=1))
SOME = {name: value for name, value in asdict(CUSTOM).items() if name not in ("window_sizes", "norm_eps")}
FOREIGN: dict[str, dict[str, str]] = {
    "free text": {"metadata": "trained on digits"},
    "a file's name": {"config": "configs/digits.yaml", "layout": "NCHW"},
    "a list": {"config": "[1, 2]", "metadata": "[1]"},
    "some of the settings": {"config": json.dumps(SOME)},
    "settings and more": {"config": json.dumps(asdict(CUSTOM) | {"model_type": "mine"}), "metadata": "{}"},
    "all but one": {"config": json.dumps({k: v for k, v in asdict(CUSTOM).items() if k != "embed_norm_eps"})},
    "a port's, but one": {"config": json.dumps({name: value for name, value in PORT.items() if name != "dim"})},
    "another tool's settings": {"config": json.dumps({"architecture": "resnet50", "num_classes": 10, "in_chans": 1})},
    "diffusers": {"config": '{"_class_name": "UNet2DModel", "in_channels": 1}', "metadata": '{"ema_from": "model_ema"}'},
    "timm": {"pretrained_cfg": '{"input_size": [1, 112, 112]}', "variant": "large", "config_from": "metadata"},
    "deep": {"config": "[" * 5000, "metadata": "{" * 5000},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_notes_of_others_are_neither_believed_nor_damaged(tmp_path: Path, name: str) -> None:
    """In a header, an archive, a Flax tree and a pickle; with and without a variant. They are no metadata of the weights either."""
    from tests.support.flax_files import nested, packed

    notes, params = FOREIGN[name], init_params(DIGITS)
    tensors = to_backend(params, "torch")
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", **notes})
    np.savez(
        tmp_path / "x.npz",
        **params,
        **{f"__{key}__": np.array(text) for key, text in notes.items() if key in ("config", "metadata")},
    )
    torch.save({"model": tensors, **notes}, tmp_path / "x.pth")
    (tmp_path / "x.msgpack").write_bytes(packed({"params": nested(params), **notes}))
    for suffix in SUFFIXES:
        found = load_checkpoint(tmp_path / f"x{suffix}")
        assert_same(found, params)
        assert (found.config, found.metadata["config_from"], found.metadata["ema"]) == (DIGITS, "shapes", False)
        assert "ema_from" not in found.metadata
        assert load_checkpoint(tmp_path / f"x{suffix}", variant="digits").metadata["config_from"] == "variant"
        convert_file(tmp_path / f"x{suffix}", tmp_path / f"again{suffix}.npz")
        assert load_checkpoint(tmp_path / f"again{suffix}.npz").metadata["config_from"] == "shapes"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_earlier_versions(tmp_path: Path, suffix: str) -> None:
    found = load_checkpoint(EARLIER / f"weights{suffix}")
    assert_same(found, numbered(EARLIER_CONFIG))
    assert (found.config, found.metadata["config_from"]) == (EARLIER_CONFIG, "metadata")
    told = {name: found.metadata[name] for name in ("epoch", "history", "ema", "ema_from")}
    assert told == {"epoch": 12, "history": [1.5, {"lr": None}], "ema": True, "ema_from": "model_ema"}
    convert_file(EARLIER / f"weights{suffix}", tmp_path / f"x{suffix}")
    again = load_checkpoint(tmp_path / f"x{suffix}").metadata
    assert again == found.metadata | {"layout": again["layout"]}


def test_a_port_s_file_of_an_earlier_version() -> None:
    from scalablevit_ref.checkpoints import load_port

    found = load_port(EARLIER / "port.safetensors")
    assert (found.config.heads, found.config.window_size) == ((1, 2), (None, 7))


TAKEN = ("model", "state_dict", "model_ema", "optimizer", "args", "meta", "params", "config", "metadata", NOTES)
VALUES: dict[str, Any] = {
    "numbers": [0.1, -0.0, 1e-320, 2**63, -(10**4000), 1e308, True, None],
    "text": "ä€\n\x00\U0001f600 \ud800",
    "nested": {"a": [{"b": []}], "": {}},
    "long": "x" * 300_000,
    "": "no name",
    "\ud800": "a name that no encoding has",
    **{name: {"a": 1} for name in TAKEN},
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_survive_exactly(tmp_path: Path, suffix: str) -> None:
    """Under any name, also one that a checkpoint's reader looks for."""
    params = init_params(TINY)
    save_checkpoint(tmp_path / f"x{suffix}", params, TINY, metadata=VALUES)
    for path in (tmp_path / f"x{suffix}", tmp_path / "y.npz", tmp_path / "z.pth"):
        if not path.exists():
            convert_file(tmp_path / f"x{suffix}", path)
        found = load_checkpoint(path)
        assert_same(found, params)
        told = {name: found.metadata[name] for name in VALUES}
        assert json.dumps(told) == json.dumps(VALUES)


WORDS = (
    *("layout", "variant", "config_from", "wrapper", "ema", "ema_from", "prefixes", "ignored", "others", "dtype", "format"),
    *("config", "metadata", "version", "config_json", "epoch"),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", ["small", 3, {"a": 1}, ["x"]], ids=repr)
def test_entries_of_others_under_our_words(tmp_path: Path, suffix: str, value: Any) -> None:
    source = bare(tmp_path / "x.pth", **dict.fromkeys(WORDS, value))
    convert_file(source, tmp_path / f"y{suffix}")
    found = load_checkpoint(tmp_path / f"y{suffix}")
    assert_same(found, init_params(DIGITS))
    assert (found.metadata["config_from"], found.metadata["ema"], found.metadata["variant"]) == ("shapes", False, "digits")


def test_what_cannot_be_kept_is_left_out_of_a_conversion_and_said(tmp_path: Path) -> None:
    source = bare(tmp_path / "x.pth", epoch=3, long="\N{EURO SIGN}" * 200_000, best=0.5)
    done = convert_file(source, tmp_path / "y.npz")
    assert done.metadata["ignored"] == ["long"]
    found = load_checkpoint(tmp_path / "y.npz").metadata
    assert (found["epoch"], found["best"], "long" in found) == (3, 0.5, False)


def test_the_longest_metadata(tmp_path: Path) -> None:
    """As long as is written can be read in every format; and as many arrays, of which a zip archive takes the fewest."""
    longest = {"a": "x" * 999_991}
    assert keepable(longest) == (longest, [])
    assert keepable({"a": "x" * 999_992}) == ({}, ["a"])
    deep = replace(TINY, depths=(495, 1, 1, 1))
    assert MOST_ARRAYS - 30 < len(init_params(deep)) < MOST_ARRAYS
    for suffix, config in ((".pth", deep), (".npz", deep), (".safetensors", TINY), (".msgpack", TINY)):
        save_checkpoint(tmp_path / f"x{suffix}", init_params(config), config, metadata=longest)
        found = load_checkpoint(tmp_path / f"x{suffix}")
        assert (found.config, found.metadata["a"]) == (config, longest["a"])
    deeper = replace(TINY, depths=(500, 1, 1, 1))
    with pytest.raises(CheckpointError, match="more arrays than can be read again; expected at most 9000, found 9"):
        save_checkpoint(tmp_path / "y.npz", init_params(deeper), deeper)


def test_notes_as_they_are_read() -> None:
    fields = noted(asdict(CUSTOM), layout="split", variant=None, guessed=True, metadata={"epoch": 3})
    text = json.dumps(asdict(CUSTOM))
    expected = Stored(text, GUESSED, {"epoch": 3}, "split", None)
    assert read_notes({NOTES: json.dumps(fields), "config": "theirs"}) == expected
    assert read_notes({NOTES: fields}) == expected
    assert read_notes({"scalablevit_ref.config": text}) == Stored(text)
    assert read_notes({}) == read_notes({"format": "pt"}) == Stored()
    assert from_state_dict({"model": init_params(CUSTOM), NOTES: fields}).config == CUSTOM


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ("{", "damaged scalablevit_ref"),
        ("[]", "damaged scalablevit_ref"),
        (3, "damaged scalablevit_ref"),
        ({"version": 2}, "notes of a later version of this package"),
        ({"version": True}, "damaged version"),
        ({"version": "x"}, "damaged version"),
        ({"metadata": "[1]"}, "damaged metadata"),
        ({"config": "{"}, "not a configuration"),
        ({"config": 3}, "not a configuration"),
        ({"config": {"depths": {"a": 1}}}, "not a configuration"),
        ({"config": {"depth": 3}}, "not a configuration"),
        ({"config": "x" * (3 << 20)}, "a longer configuration than any"),
        ("x" * (3 << 20), "longer notes than any"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_damage_under_our_own_key(notes: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        from_state_dict({"model": init_params(DIGITS), NOTES: notes})


def test_a_configuration_of_shared_lists_is_not_copied() -> None:
    """A pickle may hold one list a thousand times."""
    shared = list(range(100_000))
    with pytest.raises(CheckpointError, match="not a configuration"):
        from_state_dict({"model": init_params(DIGITS), NOTES: {"config": {str(i): shared for i in range(1000)}}})


def test_an_archive_s_comment_of_somebody_else(tmp_path: Path) -> None:
    import zipfile

    for comment in (b'{"config": 1}', b"scalablevit_reference {}", b"\xff"):
        np.savez(tmp_path / "x.npz", **init_params(DIGITS))
        with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
            archive.comment = comment
        assert load_checkpoint(tmp_path / "x.npz").metadata["config_from"] == "shapes"
    assert len({a for pair in pairwise(CHAINS[0]) for a in pair}) == 4

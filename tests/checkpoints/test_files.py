"""Files in and out: round trips, what is not a checkpoint, refusals, and what a failure leaves behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from scalablevit_ref import ScalableViTConfig, init_params, to_backend, variant
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from tests.support.bit_patterns import assert_same_bits, special_patterns
from tests.support.checkpoints import CUSTOM, DIGITS, SUFFIXES, TINY_MMDET, assert_same, listing, numbered, random_bits
from tests.support.hostile_files import NO_CHECKPOINTS


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
def test_the_bit_patterns_are_special(dtype: Any) -> None:
    x = special_patterns(dtype)
    with np.errstate(invalid="ignore"):
        wide, smallest = x.astype("float64"), float(x[12])
    assert (int(np.isnan(wide).sum()), int(np.isinf(wide).sum())) == (4, 2)
    assert np.signbit(wide[wide == 0]).tolist() == [False, True]
    assert int(((wide != 0) & (np.abs(wide) < smallest)).sum()) == 4  # subnormals
    raw = {y.tobytes() for y in x}
    for y in random_bits(DIGITS, dtype).values():
        held = {y.reshape(-1)[i : i + 1].tobytes() for i in range(y.size)} if y.size < 40_000 else raw
        assert len(raw & held) >= min(len(raw), y.size)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
@pytest.mark.parametrize(("config", "layout"), [(DIGITS, "official"), (CUSTOM, "official"), (TINY_MMDET, "mmdet")])
def test_round_trip_is_exact(tmp_path: Path, config: ScalableViTConfig, layout: str, dtype: Any, suffix: str) -> None:
    if suffix == ".npz" and dtype is ml_dtypes.bfloat16:
        dtype = "float16"  # its refusal has a test of its own
    params = random_bits(config, dtype)
    path = tmp_path / f"x{suffix}"
    save_checkpoint(
        path, params, config, layout=layout, metadata={"epoch": 12, "history": [1.5, {"lr": None}]}, allow_nonfinite=True
    )
    checkpoint = load_checkpoint(path, allow_nonfinite=True)
    assert checkpoint.config == config
    assert_same_bits(checkpoint.params, params)
    told = checkpoint.metadata
    assert (told["layout"], told["config_from"], told["epoch"], told["history"]) == (layout, "metadata", 12, [1.5, {"lr": None}])
    assert told["variant"] == ("digits" if config is DIGITS else None)
    assert json.loads(json.dumps(told)) == told
    again = tmp_path / f"again{suffix}"
    save_checkpoint(again, checkpoint.params, checkpoint.config, layout=layout, metadata=told, allow_nonfinite=True)
    assert load_checkpoint(again, allow_nonfinite=True).metadata == told


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_of_any_order_and_library(tmp_path: Path, suffix: str) -> None:
    params = numbered(DIGITS)
    fortran = {name: np.asfortranarray(x) for name, x in params.items()}
    strided = {name: np.repeat(x, 2, axis=0)[::2] for name, x in params.items()}
    for i, given in enumerate((fortran, strided, to_backend(params, "torch"))):
        path = tmp_path / f"{i}{suffix}"
        save_checkpoint(path, given, DIGITS)
        assert_same(load_checkpoint(path), params)


def test_safetensors_library_agrees(tmp_path: Path) -> None:
    params = init_params(DIGITS)
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, params, DIGITS)
    theirs = safetensors.numpy.load_file(path)
    assert theirs.keys() == params.keys()
    assert all(np.array_equal(theirs[name], x) for name, x in params.items())
    with safetensors.safe_open(path, "np") as file:
        notes = file.metadata()
    ours = json.loads(notes["scalablevit_ref"])
    assert (set(notes), ours["variant"]) == ({"format", "scalablevit_ref"}, "digits")
    assert ours["config"]["c_ratios"] == list(DIGITS.c_ratios)


def test_files_of_other_programs(tmp_path: Path) -> None:
    """No configuration in them: the shapes tell."""
    params = init_params(DIGITS)
    safetensors.numpy.save_file(params, tmp_path / "x.safetensors", metadata={"format": "pt"})
    np.savez(tmp_path / "x.npz", **params)
    np.savez_compressed(tmp_path / "y.npz", **params)
    for name in ("x.safetensors", "x.npz", "y.npz"):
        checkpoint = load_checkpoint(tmp_path / name)
        assert_same(checkpoint, params)
        assert (checkpoint.metadata["config_from"], checkpoint.metadata["wrapper"]) == ("shapes", None)


def test_format_is_told_by_content(tmp_path: Path) -> None:
    params = init_params(DIGITS)
    for suffix in SUFFIXES:
        save_checkpoint(tmp_path / f"x{suffix}", params, DIGITS)
        assert_same(load_checkpoint((tmp_path / f"x{suffix}").rename(tmp_path / "x.bin")), params)


def test_variant_against_the_stored_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, init_params(CUSTOM), CUSTOM)
    with pytest.raises(CheckpointError, match=r"not variant 'digits'; expected .*ssa_scale='scaled'.*found .*ssa_scale='head_dim'"):
        load_checkpoint(path, variant="digits")
    save_checkpoint(path, init_params(DIGITS), DIGITS, force=True)
    assert load_checkpoint(path, variant="digits").config == DIGITS
    override = variant("digits", ssa_scale="head_dim")
    assert load_checkpoint(path, config=override).config == override


@pytest.mark.parametrize(("content", "message"), NO_CHECKPOINTS)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + ": .*" + message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert caught.value.file == str(path)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="an empty folder; expected a checkpoint file"):
        load_checkpoint(tmp_path)
    (tmp_path / "x.pth").mkdir()
    with pytest.raises(CheckpointError, match="a directory"):
        save_checkpoint(tmp_path / "x.pth", init_params(DIGITS), DIGITS, force=True)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"neither torch.save's nor NumPy's; found readme\.txt"):
        load_checkpoint(tmp_path / "x.zip")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    save_checkpoint(path, init_params(DIGITS), DIGITS)
    whole = path.read_bytes()
    for size in (1, 9, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load_checkpoint(path)


def test_reading_without_torch(tmp_path: Path) -> None:
    """And importing loads none of the heavy libraries."""
    params = {name: x.astype(ml_dtypes.bfloat16) for name, x in init_params(DIGITS).items()}
    for suffix in (".pth", ".safetensors"):
        save_checkpoint(tmp_path / f"x{suffix}", params, DIGITS)
    program = """
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "safetensors"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Blocker())
        from scalablevit_ref import checkpoints
        assert not {"ml_dtypes", "rich", "typer", "PIL", "scipy"} & set(sys.modules)
        for path in sys.argv[1:]:
            checkpoint = checkpoints.load_checkpoint(path)
            print(checkpoint.metadata["variant"], checkpoint.params["head.weight"].astype("float64").sum())
        try:
            checkpoints.save_checkpoint(path + ".pth", checkpoint.params, checkpoint.config)
        except ModuleNotFoundError as error:
            print(error)
    """
    paths = [str(tmp_path / f"x{suffix}") for suffix in (".pth", ".safetensors")]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), *paths], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    line = f"digits {params['head.weight'].astype('float64').sum()}"
    assert done.stdout.splitlines() == [line, line, "backend 'torch' needs torch: pip install 'scalablevit-ref[torch]'"]
    assert listing(tmp_path) == ["x.pth", "x.safetensors"]

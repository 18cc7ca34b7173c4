"""What is written is read again, with equal bits, configuration and metadata; what cannot be is refused before there is a file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.save import ONLY_LAYOUTS, WRITERS, keepable
from scalablevit_ref.formats import hdf5, msgpack, npz, rebuild, safetensors, unpickle, zip_archive
from scalablevit_ref.formats.damage import UNFORESEEN
from scalablevit_ref.formats.lazy import numpy_dtype
from scalablevit_ref.parameters import parameter_shapes
from tests.support.bit_patterns import assert_same_bits
from tests.support.checkpoints import TINY, random_bits

DTYPES = ("float16", "bfloat16", "float32", "float64")

SUFFIXES = tuple(WRITERS)

NARROW = {"embed_dims": (4,), "num_heads": (1,), "mlp_ratios": (1,), "sr_ratios": (1,), "c_ratios": (1,), "window_sizes": (1,)}

TEXTS = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["", "\0", "\ud800", "\udfff\ud800", "\r\n", '"\\', "PK\x05\x06", "NaN", "\u202e", "\N{COMBINING ACUTE ACCENT}", "x" * 70_000]
)

NUMBERS = (
    st.integers() | st.floats() | st.sampled_from([10**300, 10**4299, -0.0, 5e-324, float("nan"), float("-inf"), 1 << 63, True])
)

FOREIGN = st.sampled_from([b"x", {1}, np.int64(3), np.float64(2.5), np.zeros(2), 1j, object(), {3: 4}, {None: 1}, {("a",): 1}])

VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS | FOREIGN,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)

OUR_WORDS = ("config", "metadata", "epoch", "version", "scalablevit_ref", "model", "params", "args", "ema", "ema_from", "wrapper")

METADATA = st.dictionaries(TEXTS | st.sampled_from(OUR_WORDS), VALUES, max_size=4)


@st.composite
def configs(draw: Any) -> sv.ScalableViTConfig:
    """Small networks whose settings are of any kinds of numbers."""
    depth = draw(st.integers(1, 3))
    ratio = draw(st.sampled_from([1, 0.5, np.float64(2.0), 1.0000000000000002, 1.75]))
    epsilon = draw(st.floats(1e-300, 1e300) | st.sampled_from([np.float64(1e-6), 5e-324]))
    classes, head = draw(st.sampled_from([(0, "none"), (3, "linear"), (0, "linear"), (2, "linear")]))
    changed = {"depths": (depth,), "mlp_ratios": (ratio,), "norm_eps": epsilon, "num_classes": classes, "head": head}
    return sv.ScalableViTConfig(**NARROW | {"in_chans": draw(st.integers(1, 2)), "patch_size": 2} | changed)


def layout_for(suffix: str) -> str:
    return ONLY_LAYOUTS.get(suffix, "official")


def without_what_reading_tells(metadata: dict[str, Any]) -> dict[str, Any]:
    """As JSON has them: a NaN is a NaN, and -0.0 is not 0.0."""
    return {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=40, deadline=None)
@given(config=configs(), dtype=st.sampled_from(DTYPES), metadata=METADATA)
@example(config=TINY, dtype="float32", metadata={"a": "\ud800", "\udcff": [-0.0, float("nan")], "": {"": [[[[[]]]]]}})
@example(config=TINY, dtype="float32", metadata={"a": "\\" * 480_000})
@example(config=TINY, dtype="float32", metadata={"ema": True, "wrapper": "ema.model", "epoch": 1 << 70})
def test_what_is_written_is_read(suffix: str, config: sv.ScalableViTConfig, dtype: str, metadata: Any) -> None:
    params = random_bits(config, numpy_dtype(dtype))
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        try:
            save_checkpoint(path, params, config, layout=layout_for(suffix), metadata=metadata, allow_nonfinite=True)
            refused = None
        except CheckpointError as error:
            refused = str(error)
        if refused is not None:
            assert not list(Path(folder).iterdir()), "something was written"
            assert refused.isprintable()
            assert UNFORESEEN not in refused
            assert not_for_all(suffix, dtype, metadata), refused
            return
        found = load_checkpoint(path, allow_nonfinite=True)
    assert_same_bits(found.params, params)
    assert found.config == config
    assert found.metadata["config_from"] == "metadata"
    kept, left_out = keepable(metadata)
    assert not left_out
    read = without_what_reading_tells(found.metadata)
    assert {name: read.get(name) for name in kept} == without_what_reading_tells(kept)


def not_for_all(suffix: str, dtype: str, metadata: Any) -> bool:
    """Whether there is something that a format, or every format, cannot hold."""
    return bool(keepable(metadata)[1]) or (dtype == "bfloat16" and suffix in (".npz", ".h5")) or suffix == ".h5"


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".h5"])
@settings(max_examples=25, deadline=None)
@given(beside=METADATA)
@example(beside={"history": [0.12345678901234567] * 240_000, "epoch": 299})
@example(beside={f"{i}": "\\" * 20_000 for i in range(40)})
def test_what_is_converted_is_read(suffix: str, beside: Any) -> None:
    """Whatever lies beside the weights: as much of it is kept as can be read again."""
    params = random_bits(TINY, "float32")
    plain = {name: value for name, value in beside.items() if name not in OUR_WORDS and is_saved(name, value)}
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "x.pth", Path(folder) / f"y{suffix}"
        state = {name: torch.from_numpy(x.copy()) for name, x in params.items()}
        notes = {"config": json.dumps(asdict(TINY))}
        torch.save({"model": state, "scalablevit_ref": notes} | plain, source)
        convert_file(source, target, layout=layout_for(suffix), allow_nonfinite=True)
        found = load_checkpoint(target, allow_nonfinite=True)
    assert_same_bits(found.params, params)
    assert found.config == TINY


def is_saved(name: str, value: Any) -> bool:
    """Whether Python pickles it as a file may hold it."""
    try:
        (name + json.dumps(value)).encode()
    except (TypeError, ValueError):
        return False
    return True


CAN_BE_LOWERED: dict[str, tuple[Any, str, int]] = {
    "records of an archive": (zip_archive, "_MOST_RECORDS", 9),
    "bytes of an archive's directory": (zip_archive, "_MOST_DIRECTORY", 200),
    "bytes of a text": (npz, "_LONGEST_NOTE", 100_000),
    "opcodes": (rebuild, "MOST_OPCODES", 40),
    "bytes of a pickle": (unpickle, "MOST_BYTES", 500),
    "values of a msgpack": (msgpack, "_MOST_VALUES", 40),
    "bytes of a msgpack's text": (msgpack, "_LONGEST_TEXT", 100),
    "bytes of a header": (safetensors, "MOST_HEADER", 300),
    "parts of HDF5": (hdf5, "_MOST_PARTS", 40),
}

OF_SUFFIX = {
    ".pth": ("records of an archive", "bytes of an archive's directory", "opcodes", "bytes of a pickle"),
    ".npz": ("records of an archive", "bytes of an archive's directory", "bytes of a text"),
    ".pdparams": ("opcodes", "bytes of a pickle"),
    ".msgpack": ("values of a msgpack", "bytes of a msgpack's text"),
    ".safetensors": ("bytes of a header",),
    ".h5": ("parts of HDF5",),
}


@pytest.mark.parametrize(("suffix", "limit"), [(suffix, limit) for suffix, limits in OF_SUFFIX.items() for limit in limits])
def test_a_reader_s_limit_is_the_writer_s(suffix: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a reader takes less, less is written: there is one number for both."""
    arguments: dict[str, Any] = {"layout": layout_for(suffix), "metadata": {"a": "x" * (100 if suffix == ".h5" else 100_000)}}
    path = tmp_path / f"x{suffix}"
    params = {name: np.ones(shape, "float32") for name, shape in parameter_shapes(TINY).items()}
    save_checkpoint(path, params, TINY, **arguments)
    module, name, value = CAN_BE_LOWERED[limit]
    monkeypatch.setattr(module, name, value)
    with pytest.raises(CheckpointError, match=r"x\.\w+: "):
        load_checkpoint(path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"x\.\w+: "):
        save_checkpoint(path, params, TINY, **arguments)
    assert not list(tmp_path.iterdir())


CHANGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "written anew": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors", ".msgpack"])
def test_a_source_that_changes_while_it_is_read(suffix: str, change: str, tmp_path: Path) -> None:
    """One line that names it, and no target made of two files."""
    source, target = tmp_path / f"x{suffix}", tmp_path / "y.safetensors"
    save_checkpoint(source, random_bits(TINY, "float32"), TINY, allow_nonfinite=True)
    changed = False

    def progress(done: int, total: int) -> None:
        nonlocal changed
        if not changed and done > total // 4:
            changed = True
            time.sleep(0.02)  # the clock of file systems is a coarse one
            CHANGES[change](source)

    with pytest.raises(CheckpointError, match=rf"x{suffix}: .*(the file was changed while it was read|the file ends inside)"):
        convert_file(source, target, allow_nonfinite=True, progress=progress)
    assert changed
    assert [path.name for path in tmp_path.iterdir()] == [source.name]

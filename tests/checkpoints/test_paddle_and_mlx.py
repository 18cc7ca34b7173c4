"""PaddlePaddle's and MLX's files, there and back; with these libraries themselves where they are installed."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.formats.paddle import as_paddle_has_it
from scalablevit_ref.testing import random_params

CONFIG = sv.variant("digits")
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")


def of_dtype(dtype: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = sv.to_numpy(sv.to_backend(PARAMS, "torch", dtype))
    return found


def same(params: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    return set(params) == set(expected) and all(
        params[name].dtype == x.dtype and params[name].tobytes() == x.tobytes() for name, x in expected.items()
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_pickle_that_python_reads(dtype: str, tmp_path: Path) -> None:
    """What the file holds is told by Python's pickle: arrays by name, bfloat16 as uint16; equal weights make equal files."""
    params, path = of_dtype(dtype), tmp_path / "x.pdparams"
    sv.save_checkpoint(path, params, CONFIG, layout="paddle", metadata={"epoch": 3})
    held = pickle.loads(path.read_bytes())
    assert isinstance(held.pop("scalablevit_ref"), str)
    expected = sv.to_state_dict(params, CONFIG, layout="paddle")
    assert list(held) == list(expected)
    assert all(x.flags.c_contiguous and x.dtype.name == {"bfloat16": "uint16"}.get(dtype, dtype) for x in held.values())
    assert same(as_paddle_has_it(held), expected)
    found = sv.load_checkpoint(path)
    assert same(found.params, params)
    assert (found.metadata["layout"], found.metadata["config_from"], found.metadata["epoch"]) == ("paddle", "metadata", 3)
    content = path.read_bytes()
    sv.save_checkpoint(path, params, CONFIG, layout="paddle", metadata={"epoch": 3}, force=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrapper", [None, "model"])
def test_what_paddle_save_makes(dtype: str, wrapper: str | None, tmp_path: Path) -> None:
    """A pickle by Python, with a table of the parameters' other names, whose keys are these too."""
    params = of_dtype(dtype)
    state: dict[str, Any] = {
        name: x.view("uint16") if dtype == "bfloat16" else x
        for name, x in sv.to_state_dict(params, CONFIG, layout="paddle").items()
    }
    state["StructuredToParameterName@@"] = {name: f"linear_{i}.w_0" for i, name in enumerate(state)}
    tree = {wrapper: state, "epoch": 3} if wrapper else state
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(tree, protocol=4))
    found = sv.load_checkpoint(tmp_path / "x.pdparams")
    assert same(found.params, params)
    assert found.metadata["layout"] == "paddle"


def test_only_a_pickles_mappings_are_looked_at() -> None:
    bits = np.arange(3, dtype="uint16")
    found = as_paddle_has_it({"a": bits, "b": {"c": {"d": {"e": bits}}}, "list": [bits], "f": np.ones(2)})
    assert found["a"].dtype.name == "bfloat16"
    assert found["a"].tobytes() == bits.tobytes()
    assert found["b"]["c"]["d"]["e"].dtype == np.uint16
    assert found["list"][0].dtype == np.uint16
    assert as_paddle_has_it(3) == 3


def test_a_pdparams_holds_one_layout(tmp_path: Path) -> None:
    """Any other would be taken for it: a square Linear's weight fits either way."""
    with pytest.raises(sv.CheckpointError, match=r"a \.pdparams file is read by layout 'paddle' alone: give layout='paddle'"):
        sv.save_checkpoint(tmp_path / "x.pdparams", PARAMS, CONFIG)
    assert not list(tmp_path.iterdir())


WITH_PADDLE = """
import pickle, sys
import paddle

path, again, expected = sys.argv[1:]
network = paddle.nn.Layer()
with open(expected, "rb") as file:
    expected = pickle.load(file)
for name, (shape, dtype, content) in expected.items():
    *parts, leaf = name.split(".")
    place = network
    for part in parts:
        if part not in place._sub_layers:
            place.add_sublayer(part, paddle.nn.Layer())
        place = place._sub_layers[part]
    zero = paddle.nn.initializer.Constant(0)
    place.add_parameter(leaf, place.create_parameter(list(shape), dtype=dtype, default_initializer=zero))
assert network.set_state_dict(paddle.load(path)) == ([], ["scalablevit_ref"])
assert all(network.state_dict()[name].numpy().tobytes() == content for name, (_, _, content) in expected.items())
paddle.save(network.state_dict(), again)
"""
"""In a process of its own: with torch or JAX in the same one it crashes."""


@pytest.mark.skipif(find_spec("paddle") is None, reason="needs paddlepaddle")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_with_paddle(dtype: str, tmp_path: Path) -> None:
    params = of_dtype(dtype)
    expected = sv.to_state_dict(params, CONFIG, layout="paddle")
    sv.save_checkpoint(tmp_path / "x.pdparams", params, CONFIG, layout="paddle")
    held = {name: (x.shape, dtype, x.tobytes()) for name, x in expected.items()}
    (tmp_path / "expected").write_bytes(pickle.dumps(held))
    names = [str(tmp_path / name) for name in ("x.pdparams", "again.pdparams", "expected")]
    done = subprocess.run([sys.executable, "-c", WITH_PADDLE, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(sv.load_checkpoint(names[1]).params, params)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_with_mlx(suffix: str, tmp_path: Path) -> None:
    """What `mx.load` refuses, or strict loading, are texts among the arrays, and entries that are no parameter's."""
    mx = pytest.importorskip("mlx.core")
    from mlx import nn, utils

    for dtype in ("float32", "float16") + (("bfloat16",) if suffix == ".safetensors" else ()):
        params = of_dtype(dtype)
        expected = sv.to_state_dict(params, CONFIG, layout="mlx")
        path = str(tmp_path / f"{dtype}{suffix}")
        sv.save_checkpoint(path, params, CONFIG, layout="mlx", metadata={"epoch": 3})
        zeros = [(name, mx.zeros(x.shape, dtype=getattr(mx, dtype))) for name, x in expected.items()]
        network = nn.Module()
        for name, part in utils.tree_unflatten(zeros).items():
            network[name] = part
        network.load_weights(path, strict=True)
        bits = {"float32": mx.uint32}.get(dtype, mx.uint16)
        loaded = dict(utils.tree_flatten(network.parameters()))
        assert all(np.array(loaded[name].view(bits)).tobytes() == x.tobytes() for name, x in expected.items())
        network.save_weights(str(tmp_path / f"again{suffix}"))
        found = sv.load_checkpoint(tmp_path / f"again{suffix}")
        assert same(found.params, params)
        assert found.metadata["layout"] == "mlx"


def test_an_npz_of_mlx_in_bfloat16(tmp_path: Path) -> None:
    """MLX writes it as two bytes of no type (`<V2`), in Fortran's order where that is the same."""
    params, buffer = of_dtype("bfloat16"), io.BytesIO()
    np.savez(buffer, **{name: x.view("V2") for name, x in sv.to_state_dict(params, CONFIG, layout="mlx").items()})
    (tmp_path / "x.npz").write_bytes(buffer.getvalue())
    assert same(sv.load_checkpoint(tmp_path / "x.npz").params, params)

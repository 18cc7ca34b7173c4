"""Keras' files: names of layers and variables as Keras writes them, `.h5` there and back; with Keras itself where it is there."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.testing import random_params

h5py = pytest.importorskip("h5py")

CONFIG = sv.variant("digits")
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
LAYERS = sv.to_state_dict(PARAMS, CONFIG, layout="keras")


def by_layer(state: Mapping[str, np.ndarray] = LAYERS) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, x in state.items():
        layer, _, leaf = name.rpartition(".")
        found.setdefault(layer, {})[leaf] = x
    return found


def layer(group: Any, name: str, *arrays: np.ndarray) -> None:
    """A layer of Keras 3, as `saving_lib` writes it."""
    variables = group.create_group("vars")
    variables.attrs["name"] = name
    for i, x in enumerate(arrays):
        variables[str(i)] = x


def functional(root: Any) -> None:
    """Layers by their classes and a number, with the names that they were given; and an optimizer."""
    for i, (name, leaves) in enumerate(by_layer().items()):
        kind = {1: "layer_normalization", 2: "dense", 4: "conv2d"}[next(iter(leaves.values())).ndim]
        layer(root.create_group(f"layers/{kind}_{i}" if i else f"layers/{kind}"), name, *leaves.values())
    layer(root.create_group("layers/input_layer"), "input_layer")
    layer(root.create_group("optimizer"), "adam", np.int64(3), np.ones(4, "float32"))


def content(write: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        write(root)
    return buffer.getvalue()


def tree(path: Path, write: Callable[[Any], object]) -> dict[str, Any]:
    path.write_bytes(content(write))
    with open_file(path) as (found, _, _):
        return {name: x.read() for name, x in found.items()}


def same(params: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray] = PARAMS) -> bool:
    return list(params) == list(expected) and all(
        params[name].dtype == x.dtype and params[name].tobytes() == x.tobytes() for name, x in expected.items()
    )


def test_weights_h5(tmp_path: Path) -> None:
    (tmp_path / "x.weights.h5").write_bytes(content(functional))
    found = sv.load_checkpoint(tmp_path / "x.weights.h5")
    assert same(found.params)
    assert (found.metadata["layout"], found.metadata["format"], found.metadata["variant"]) == ("keras", "hdf5", "digits")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_keras(compression: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.keras", "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content(functional))
    found = sv.load_checkpoint(tmp_path / "x.keras")
    assert same(found.params)
    assert found.metadata["format"] == "keras"
    damaged = bytearray((tmp_path / "x.keras").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "x.keras").write_bytes(damaged)
    with pytest.raises(sv.CheckpointError, match=r"x\.keras: model\.weights\.h5: (damaged zip record|.*checksum)"):
        sv.load_checkpoint(tmp_path / "x.keras")


def test_an_archive_that_inflates(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 24))
    with pytest.raises(sv.CheckpointError, match="inflates more than weights can"):
        sv.load_checkpoint(tmp_path / "x.keras")


def older(root: Any, *, suffix: str = "", scope: str = "") -> None:
    """As `model.save("x.h5")` has it, Keras 2 with `:0` after the names."""
    model = root.create_group("model_weights")
    layers = by_layer()
    model.attrs["layer_names"] = [*layers, "flatten"]
    model.create_group("flatten").attrs["weight_names"] = np.array([])
    for name, leaves in layers.items():
        group = model.create_group(name)
        group.attrs["weight_names"] = np.array([f"{scope}{name}/{leaf}{suffix}".encode() for leaf in leaves])
        for leaf, x in leaves.items():
            group[f"{scope}{name}/{leaf}{suffix}"] = x
    root["optimizer_weights/adam/iteration"] = np.int64(3)


@pytest.mark.parametrize("options", [{}, {"suffix": ":0"}, {"scope": "model/"}])
def test_the_older_h5(options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(content(lambda root: older(root, **options)))
    assert same(sv.load_checkpoint(tmp_path / "x.h5").params)


def test_a_list_that_is_cut_into_pieces(tmp_path: Path) -> None:
    def write(root: Any) -> None:
        older(root)
        names = list(root["model_weights"].attrs["layer_names"])
        del root["model_weights"].attrs["layer_names"]
        for i in range(0, len(names), 40):
            root["model_weights"].attrs[f"layer_names{i // 40}"] = names[i : i + 40]

    (tmp_path / "x.h5").write_bytes(content(write))
    assert same(sv.load_checkpoint(tmp_path / "x.h5").params)


KERNEL, BIAS = np.ones((3, 4), "float32"), np.ones(4, "float32")


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ({"layers/dense": "stages.0.0.mlp.fc1"}, ["stages.0.0.mlp.fc1.kernel", "stages.0.0.mlp.fc1.bias"]),
        ({"layers/dense_4": "head"}, ["head.kernel", "head.bias"]),
        ({"layers/dense_4": "dense_9"}, ["dense_4.kernel", "dense_4.bias"]),
        ({"attn/qkv": "dense_9", "attn": "attention"}, ["attn.qkv.kernel", "attn.qkv.bias"]),
        ({"blocks/block_1/qkv": "dense_9", "blocks/block_1": "block_1"}, ["blocks.block_1.qkv.kernel", "blocks.block_1.qkv.bias"]),
        ({"layers/own_norm_2": "norm"}, ["norm.kernel", "norm.bias"]),
        ({"parts/dense_1": "norm"}, ["norm.kernel", "norm.bias"]),
        ({"layers/block_3": "stages.0.1", "layers/block_3/attn": "attn"}, ["stages.0.1.kernel", "stages.0.1.attn.kernel"]),
        ({"layers/block_3": "stages.0.1", "layers/block_3/q": "attn.q"}, ["stages.0.1.kernel", "stages.0.1.attn.q.kernel"]),
        ({"layers/block": "stages.0.1", "layers/block/q": "stages.0.1.attn.q"}, ["stages.0.1.kernel", "stages.0.1.attn.q.kernel"]),
        ({"layers/model/layers/dense": "stages.0.q", "layers/model": "backbone"}, ["stages.0.q.kernel"]),
        ({"student/layers/dense": "a.q", "teacher/layers/dense": "a.q"}, ["student.a.q.kernel", "teacher.a.q.kernel"]),
    ],
)
def test_names_of_layers(layers: dict[str, str], names: list[str], tmp_path: Path) -> None:
    def write(root: Any) -> None:
        for part in {path.partition("/")[0] for path in layers} & {"student", "teacher"}:
            layer(root.create_group(part), part)
        for path, name in layers.items():
            layer(root.require_group(path), name, KERNEL, BIAS)

    found = tree(tmp_path / "x.weights.h5", write)
    assert set(names) <= set(found), list(found)


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        ([(3, 4), (4,)], ["kernel", "bias"]),
        ([(3, 4)], ["kernel"]),
        ([(3, 3, 4, 1), (4,)], ["kernel", "bias"]),
        ([(4,), (4,)], ["gamma", "beta"]),
        ([(4,)] * 4, ["gamma", "beta", "moving_mean", "moving_variance"]),
        ([(4,)], ["gamma"]),
        ([(3, 4), (3, 4)], ["0", "1"]),
        ([(4,)] * 11 + [(3, 4)], [str(i) for i in range(12)]),
    ],
)
def test_names_of_variables(shapes: list[tuple[int, ...]], names: list[str], tmp_path: Path) -> None:
    arrays = [np.full(shape, i, "float32") for i, shape in enumerate(shapes)]
    found = tree(tmp_path / "x.weights.h5", lambda root: layer(root.create_group("layers/layer_normalization"), "a.b", *arrays))
    assert set(found) == {f"a.b.{name}" for name in names}
    assert [int(found[f"a.b.{name}"].flat[0]) for name in names] == list(range(len(names)))


def test_no_model_of_keras(tmp_path: Path) -> None:
    """Whatever h5py was given: the official names, also with `/`, which makes groups of them."""
    for separator in "./":
        path = tmp_path / "x.h5"
        path.write_bytes(content(lambda root: root.update({k.replace(".", separator): x for k, x in PARAMS.items()})))  # noqa: B023
        assert same(sv.load_checkpoint(path).params)


def test_what_is_listed_must_be_there(tmp_path: Path) -> None:
    for key in ("layer_names", "weight_names"):

        def write(root: Any) -> None:
            older(root)
            group = root["model_weights"] if key == "layer_names" else root["model_weights/norm"]  # noqa: B023
            group.attrs[key] = ["other"]  # noqa: B023

        (tmp_path / "x.h5").write_bytes(content(write))
        with pytest.raises(sv.CheckpointError, match="that is listed but not there"):
            sv.load_checkpoint(tmp_path / "x.h5")


def test_written_and_read(tmp_path: Path) -> None:
    """Equal weights make equal files, which keep their configuration."""
    for name in ("a.h5", "b.h5"):
        sv.save_checkpoint(tmp_path / name, PARAMS, CONFIG, layout="keras", metadata={"epoch": 3})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    found = sv.load_checkpoint(tmp_path / "a.h5")
    assert same(found.params)
    assert (found.metadata["config_from"], found.metadata["epoch"]) == ("metadata", 3)


@pytest.mark.parametrize(
    ("name", "dtype", "options", "problem"),
    [
        ("x.weights.h5", "float32", {"layout": "keras"}, r"finds what is in a \.weights\.h5 by the classes"),
        ("x.h5", "float32", {}, r"layout 'keras' alone: give layout='keras'; expected keras, found official"),
        ("x.h5", "float32", {"layout": "channels_last"}, r"layout 'keras' alone"),
        ("x.h5", "bfloat16", {"layout": "keras"}, r"Keras reads no bfloat16 from a \.h5"),
        ("x.h5", "float32", {"layout": "keras", "metadata": {"long": "n" * 70_000}}, "a longer text than an attribute of HDF5"),
    ],
)
def test_writing_is_refused(name: str, dtype: str, options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    params = sv.to_numpy(sv.to_backend(PARAMS, "torch", dtype))
    with pytest.raises(sv.CheckpointError, match=problem):
        sv.save_checkpoint(tmp_path / name, params, CONFIG, **options)
    assert not list(tmp_path.iterdir())


# With Keras itself


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Any:
    """On JAX: the torch backend takes no dots in names."""
    if "KERAS_BACKEND" not in os.environ:
        monkeypatch.setenv("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("keras")


def model(keras: Any) -> Any:
    """A functional model with a layer for each of the network's, side by side."""
    inputs, outputs = [], []
    for name, leaves in by_layer().items():
        kind, x = keras.layers, next(iter(leaves.values()))
        if x.ndim == 1:
            made, shape = kind.LayerNormalization(name=name), x.shape
        elif x.ndim == 2:
            made, shape = kind.Dense(x.shape[1], use_bias="bias" in leaves, name=name), x.shape[:1]
        elif x.shape[3] == 1:
            made, shape = kind.DepthwiseConv2D(x.shape[:2], name=name), (9, 9, x.shape[2])
        else:
            made, shape = kind.Conv2D(x.shape[3], x.shape[:2], name=name), (9, 9, x.shape[2])
        inputs.append(keras.Input(shape))
        outputs.append(made(inputs[-1]))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_with_keras(keras: Any, dtype: str, tmp_path: Path) -> None:
    """Loaded by name into its layers, saved in its three formats, read again: bit-equal."""
    params = {name: x.astype(dtype) for name, x in PARAMS.items()}
    expected = sv.to_state_dict(params, CONFIG, layout="keras")
    sv.save_checkpoint(tmp_path / "x.h5", params, CONFIG, layout="keras")
    keras.config.set_dtype_policy(dtype)
    try:
        network = model(keras)
        network.load_weights(tmp_path / "x.h5", by_name=True)
        loaded = {f"{part.name}.{x.name}": np.asarray(x.value) for part in network.layers for x in part.variables}
        assert set(loaded) == set(expected)
        assert all(loaded[name].tobytes() == x.tobytes() for name, x in expected.items())
        network.save_weights(tmp_path / "y.weights.h5")
        network.save(tmp_path / "y.keras")
        network.save(tmp_path / "y.h5")
    finally:
        keras.config.set_dtype_policy("float32")
    for name in ("y.weights.h5", "y.keras", "y.h5"):
        assert same(sv.load_checkpoint(tmp_path / name).params, params)

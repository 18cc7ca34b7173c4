"""The Keras model and layers: official weights in and out, Keras' own files, training, export; on each library that Keras runs on.

All tests here run on JAX, or on what `KERAS_BACKEND` says: the last one runs them in processes of their own on the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.parameters import block_shapes, iwsa_shapes, mlp_shapes, patch_embed_shapes, peg_shapes, ssa_shapes
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Keras' own, while it is imported
    import keras

    from scalablevit_ref.adapters.keras import IWSA, MLP, PEG, SSA, Block, PatchEmbed, ScalableViT

LIBRARY = keras.backend.backend()
JIT = LIBRARY == "jax"
"""Elsewhere Keras' compiler only costs time here."""

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8,),
    depths=(2,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(2,),
    c_ratios=(1.25,),
    window_sizes=(2,),
    patch_size=2,
    num_classes=10,
    in_chans=1,
    head="linear",
)
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((2, 1, 8, 8), dtype="float32")

SHORT = "logits or (files and float32) or steps or layers or export or keras_port or adapter_agrees"
"""What depends on the library."""

CHILD = "KERAS_BACKEND_HERE" in os.environ
"""Whether this is one of the processes of the last test, which have no fixtures of `conftest.py`."""

pytestmark = [
    *([] if CHILD else [pytest.mark.usefixtures("as_in_production")]),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),  # Keras' variables
]


def wide(*arrays: Any) -> list[Any]:
    return [sv.to_backend(x, "numpy", "float64") for x in arrays]


def same(found: Any, expected: Any) -> bool:
    return list(found) == list(expected) and all(
        x.dtype == found[name].dtype and x.tobytes() == found[name].tobytes() for name, x in expected.items()
    )


@pytest.fixture(scope="module")
def model() -> Any:
    network = ScalableViT.from_params(PARAMS, CONFIG)
    network.compile(jit_compile=JIT)
    return network


def test_logits_features_and_taps_are_numpy_s(model: Any) -> None:
    """Of a prediction of several batches, of a call, and from images that lie as Keras' own layers have them."""
    expected = sv.trace(*wide(IMAGES, PARAMS), CONFIG)
    last = ScalableViT(CONFIG, params=PARAMS, data_format="channels_last")
    images = np.tile(IMAGES, (3, 1, 1, 1))
    for y in (model.predict(images, batch_size=2, verbose=0)[2:4], sv.to_numpy(last(IMAGES.transpose(0, 2, 3, 1)))):
        assert relative_l2(y, expected["logits"]) <= 32 * EPS["float32"]
    taps = model.trace(IMAGES)
    assert list(taps) == list(expected)
    assert all(relative_l2(sv.to_numpy(x), expected[name]) <= 32 * EPS["float32"] for name, x in taps.items())
    (features,) = last.features(IMAGES.transpose(0, 2, 3, 1))
    assert relative_l2(sv.to_numpy(features), expected["stages.0.1"]) <= 32 * EPS["float32"]


@pytest.mark.parametrize("name", ["small", "mmdet_small"])
def test_every_parameter_comes_back_as_it_went_in(name: str) -> None:
    """And lies at an attribute of its official name, as Keras' own layers have it: in Keras' names and layout `keras`."""
    config = sv.variant(name, depths=(2, 1, 1, 2), embed_dims=(8, 16, 16, 32), num_heads=(1, 2, 2, 4))
    params = sv.init_params(config, seed=3)
    network = ScalableViT.from_params(params, config)
    assert same(network.to_params(), params)
    kept = sv.to_state_dict(params, config, layout="keras")
    for path, x in kept.items():
        held: Any = network
        for part in path.split("."):
            held = getattr(held, part)
        assert np.array_equal(sv.to_numpy(held.value), x), path
    assert len(network.variables) == len(kept)
    network.load_params(sv.init_params(config, seed=4))
    assert same(network.to_params(), sv.init_params(config, seed=4))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keras_files_come_back_with_the_same_bits(dtype: str, tmp_path: Path) -> None:
    """By Keras, and by `sv.load_checkpoint` without it; `.keras` holds the configuration too."""
    params = random_params(sv.parameter_shapes(CONFIG), dtype=dtype)
    network = ScalableViT.from_params(params, CONFIG)
    assert network.to_params()["norm.weight"].dtype.name == dtype
    network.save(tmp_path / "x.keras")
    network.save_weights(tmp_path / "x.weights.h5")
    again = keras.saving.load_model(tmp_path / "x.keras")
    assert type(again) is ScalableViT
    assert (again.config, again.data_format) == (CONFIG, "channels_first")
    other = ScalableViT(CONFIG, seed=1, dtype=dtype)
    assert not same(other.to_params(), params)
    other.load_weights(tmp_path / "x.weights.h5")
    assert same(again.to_params(), params)
    assert same(other.to_params(), params)
    for name in ("x.keras", "x.weights.h5"):
        read = sv.load_checkpoint(tmp_path / name, config=CONFIG)
        assert same(read.params, params)
        assert read.metadata["layout"] == "keras"


def test_checkpoints_of_any_layout(tmp_path: Path) -> None:
    sv.save_checkpoint(tmp_path / "x.pth", PARAMS, CONFIG)
    network = ScalableViT.from_checkpoint(tmp_path / "x.pth")
    assert same(network.to_params(), PARAMS)
    assert sv.parameter_shapes(network.config) == sv.parameter_shapes(CONFIG)


def test_a_few_steps_on_the_digits_lower_the_loss(tmp_path: Path) -> None:
    """By Keras' `fit`, with an optimiser of Keras; every parameter moves, and the trained network is NumPy's too."""
    pixels, labels = digits.test_images()
    images = pixels[:64, None].astype("float32") / 16
    network = ScalableViT(CONFIG, seed=1)
    before = network.to_params()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=JIT)
    losses = network.fit(images, labels[:64], batch_size=16, epochs=3, verbose=0, shuffle=False).history["loss"]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.02
    after = network.to_params()
    assert [name for name in after if np.array_equal(after[name], before[name])] == []
    y = network.predict(images[:2], verbose=0)
    assert relative_l2(y, sv.scalable_vit(*wide(images[:2], after), CONFIG)) <= 64 * EPS["float32"]


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
def test_sixteen_bits(policy: str) -> None:
    """As a dtype, and as a policy under which the variables stay in float32."""
    x, params = random_images((2, 4, 4, 8), dtype="float32"), random_params(mlp_shapes(8, 12), dtype="float32")
    layer, dtype = MLP(8, 12, params=params, dtype=policy), policy.removeprefix("mixed_")
    y = sv.to_numpy(layer(x))
    assert y.dtype.name == dtype
    assert layer.to_params()["fc1.weight"].dtype.name == ("float32" if "mixed" in policy else dtype)
    expected = sv.mlp(*wide(*(sv.to_backend(z, "numpy", dtype) for z in (x, params))))
    assert relative_l2(y.astype("float64"), expected) <= NETWORK_TOLERANCE[dtype] * EPS[dtype]


LAYERS: dict[str, tuple[Any, Any, Any]] = {
    "SSA": (
        lambda **k: SSA(8, num_heads=2, sr_ratio=2, c_ratio=1.25, **k),
        lambda x, p: sv.ssa(x, p, num_heads=2, sr_ratio=2, c_ratio=1.25),
        ssa_shapes(8, num_heads=2, sr_ratio=2, c_ratio=1.25),
    ),
    "IWSA": (
        lambda **k: IWSA(8, num_heads=2, window_size=3, pad=True, qkv_bias=False, **k),
        lambda x, p: sv.iwsa(x, p, num_heads=2, window_size=3, pad=True),
        iwsa_shapes(8, qkv_bias=False),
    ),
    "MLP": (lambda **k: MLP(8, 12, **k), sv.mlp, mlp_shapes(8, 12)),
    "PEG": (lambda **k: PEG(8, **k), sv.peg, peg_shapes(8)),
    "PatchEmbed": (
        lambda **k: PatchEmbed(8, 6, patch_size=2, eps=1e-5, **k),
        lambda x, p: sv.patch_embed(x, p, patch_size=2, eps=1e-5),
        patch_embed_shapes(8, 6, 2),
    ),
    "Block": (
        lambda **k: Block(8, kind="ssa", hidden=12, num_heads=2, sr_ratio=2, c_ratio=1, ssa_scale="head_dim", norm_eps=1e-3, **k),
        lambda x, p: sv.block(x, p, kind="ssa", num_heads=2, sr_ratio=2, c_ratio=1, ssa_scale="head_dim", norm_eps=1e-3),
        block_shapes(8, kind="ssa", hidden=12, num_heads=2, sr_ratio=2, c_ratio=1),
    ),
}


def test_layers_in_a_functional_model_of_keras(tmp_path: Path) -> None:
    """Each computes its function, says its shape before, and comes back from a file with its settings and its bits."""
    x = random_images((2, 4, 6, 8), dtype="float32")
    inputs, outputs, expected, held = keras.Input((4, 6, 8)), [], [], []
    for name, (make, function, shapes) in LAYERS.items():
        params = random_params(shapes, dtype="float32")
        held.append(make(params=params, name=name.lower()))
        outputs.append(held[-1](inputs))
        expected.append(function(*wide(x, params)))
        assert tuple(outputs[-1].shape) == (None, *expected[-1].shape[1:]), name
        assert same(held[-1].to_params(), params), name
    network = keras.Model(inputs, outputs)
    network.save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    again.compile(jit_compile=JIT)
    for found, y, name in zip(again.predict(x, verbose=0), expected, LAYERS, strict=True):
        assert relative_l2(found, y) <= 32 * EPS["float32"], name
    for layer, other in zip(held, again.layers[1:], strict=True):
        assert layer.get_config() == other.get_config()
        assert same(layer.to_params(), other.to_params())


def test_what_is_drawn_is_init_params() -> None:
    network = ScalableViT("digits", seed=2, num_classes=3)
    assert network.config.num_classes == 3
    assert same(network.to_params(), sv.init_params(sv.variant("digits", num_classes=3), 2))
    stem = PatchEmbed(1, 8, patch_size=2, seed=5)  # of one channel, and not depthwise
    assert stem.proj.kernel.shape == (3, 3, 1, 8)


def test_refusals(model: Any) -> None:
    with pytest.raises(ValueError, match="parameters do not fit: missing"):
        ScalableViT(CONFIG, params={"norm.weight": np.ones(8)})
    with pytest.raises(ValueError, match="parameters do not fit: missing"):
        model.load_params({})
    with pytest.raises(ValueError, match="unknown variant"):
        ScalableViT("smal")
    with pytest.raises(ValueError, match="data_format must be"):
        ScalableViT(CONFIG, data_format="nhwc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images must have 1 channels"):
        model(np.zeros((1, 3, 8, 8), "float32"))
    if LIBRARY == "jax":
        with pytest.raises(ValueError, match="JAX has no float64"):
            ScalableViT(CONFIG, dtype="float64")


def test_export(model: Any, tmp_path: Path) -> None:
    """What Keras offers on each library: TensorFlow's SavedModel, for any batch; ONNX on PyTorch."""
    signature = [keras.InputSpec(shape=(None if LIBRARY == "tensorflow" else 2, *IMAGES.shape[1:]), dtype="float32")]
    expected = sv.scalable_vit(*wide(IMAGES, PARAMS), CONFIG)
    if LIBRARY == "tensorflow":
        import tensorflow as tf

        model.export(tmp_path / "saved", input_signature=signature, verbose=False)
        served = tf.saved_model.load(tmp_path / "saved")
        y = np.concatenate([served.serve(IMAGES[:1]), served.serve(IMAGES)[1:]])
    elif LIBRARY == "torch":
        from scalablevit_ref.adapters.onnx import session

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, of its older exporter, which Keras takes
            model.export(tmp_path / "x.onnx", format="onnx", input_signature=signature, verbose=False)
        y = session(tmp_path / "x.onnx")(IMAGES)
    else:
        pytest.skip("Keras exports from JAX by way of TensorFlow or jax2onnx")
    assert relative_l2(np.asarray(y), expected) <= 32 * EPS["float32"]


@pytest.mark.skipif(CHILD, reason="runs the others")
@pytest.mark.parametrize("library", ["tensorflow", "torch"])
def test_what_depends_on_the_library_on(library: str) -> None:
    root = Path(__file__).resolve().parents[2]
    own = {"KERAS_BACKEND": library, "KERAS_BACKEND_HERE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-k",
        SHORT,
        str(Path(__file__)),
    ]
    done = subprocess.run(command, cwd=root, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_without_keras_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['keras'] = None; import scalablevit_ref.adapters.keras"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("adapters.keras needs keras: pip install 'scalablevit-ref[keras-models]'")

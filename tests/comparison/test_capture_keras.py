"""Keras models and TensorFlow's programs, followed by use: from a broken port of somebody's to the named mistake.

Keras runs on JAX here, or on what `KERAS_BACKEND` says: `tests/adapters/test_keras.py` runs these tests on the others too.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import scalablevit_ref as sv
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing import compare, random_images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    import tensorflow as tf

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "examples"))

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8,),
    depths=(2,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(2,),
    c_ratios=(1.25,),
    window_sizes=(2,),
    patch_size=2,
    num_classes=5,
    head="linear",
)
IMAGES = random_images((2, 3, 8, 12), dtype="float32")
CHILD = "KERAS_BACKEND_HERE" in os.environ
INTERLEAVED = "heads are interleaved"
SCALED = "logits are scaled by d^-½"

pytestmark = [
    *([] if CHILD else [pytest.mark.usefixtures("as_in_production")]),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),  # Keras' variables
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),  # PyTorch's exporter
]


def report(candidate: Any, **options: Any) -> Any:
    return compare(candidate, variant=CONFIG, images=IMAGES, **options)


def broken() -> Any:
    from keras_port import port

    keras.utils.set_random_seed(0)
    return port()


def test_a_broken_keras_port_is_told_what_is_wrong_with_it() -> None:
    """With names, layouts and a wiring of its own: the layer by its own name, and the mistake."""
    found = report(broken())
    assert "DIFFERS from the reference in 1 of 15 layers (isolated error), the first is stages.0.0.attn (windows)" in str(found)
    assert INTERLEAVED in str(found)


def test_the_adapter_agrees() -> None:
    from scalablevit_ref.adapters.keras import ScalableViT

    found = report(ScalableViT(CONFIG, seed=1), diagnosis=False)
    assert found.agrees, str(found)


def test_a_model_is_compared_in_float64_with_other_weights_and_stays_what_it_is() -> None:
    """Nested models, whose inputs have a dtype of their own."""
    inner = broken()
    inputs = keras.Input(inner.input_shape[1:])
    model = keras.Model(inputs, inner(inputs))
    kept, floats = [x.numpy().tobytes() for x in model.weights], keras.config.floatx()
    found = report(model, diagnosis=False)
    assert found.dtype == "float64"
    assert "(isolated error), the first is stages.0.0.attn" in str(found)
    assert report(model, diagnosis=False, as_it_is=True).dtype == "float32"
    assert [x.numpy().tobytes() for x in model.weights] == kept
    assert {x.dtype for x in (*model.weights, *model.inputs, *inner.inputs)} == {"float32"}
    assert {layer.dtype_policy.name for layer in (*model.layers, *inner.layers)} == {"float32"}
    assert keras.config.floatx() == floats
    assert keras.backend.standardize_dtype(model(IMAGES.transpose(0, 2, 3, 1)).dtype) == "float32"


def test_what_computes_in_float32_whatever_it_is_given_is_compared_in_that() -> None:
    class Narrow(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return keras.ops.cast(keras.ops.cast(x, "float32"), self.compute_dtype)

    inner = broken()
    inputs = keras.Input(inner.input_shape[1:])
    found = report(keras.Model(inputs, inner(Narrow()(inputs))), diagnosis=False)
    assert found.dtype == "float32"
    assert "part of it computes in float32 whatever it is given" in str(found)


def test_a_model_that_does_not_run_is_refused_in_one_line() -> None:
    inputs = keras.Input((4, 4, 8))
    with pytest.raises(CaptureError) as caught:
        report(keras.Model(inputs, keras.layers.Dense(3)(inputs)))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def port() -> Any:
    from tensorflow_port import Port

    tf.random.set_seed(0)
    return Port()


HERE = pytest.mark.skipif(CHILD, reason="does not depend on Keras")


@HERE
@pytest.mark.parametrize("what", ["module", "concrete", "folder"])
def test_a_broken_port_in_tensorflow_is_told_what_is_wrong_with_it(what: str, port: Any, tmp_path: Path) -> None:
    """As a `tf.Module`, a concrete function for any batch, and a SavedModel."""
    concrete = port.__call__.get_concrete_function(tf.TensorSpec((None, 8, 12, 3)))
    if what == "folder":
        tf.saved_model.save(port, tmp_path / "saved", signatures=concrete)
    candidate = {
        "module": lambda: port,
        "concrete": lambda: concrete,
        "folder": lambda: str(tmp_path / "saved"),
    }[what]()
    found = report(candidate)
    assert "DIFFERS from the reference in 1 of 15 layers (isolated error), the first is stages.0.1.attn" in str(found)
    assert SCALED in str(found)
    assert "(second)" in str(found) or what in ("folder", "concrete")  # which tell no attributes of the module


@HERE
def test_a_module_of_tensorflow_is_compared_in_float64_with_other_weights_and_stays_what_it_is() -> None:
    """Its own weights hide a bias that is not added: it is of zeros."""
    from tensorflow_port import Port

    class Forgetful(Port):  # type: ignore[misc]
        """As the port, but of the last norm's bias."""

        def __init__(self) -> None:
            super().__init__()
            self.last_ln["b"].assign(tf.zeros(8))
            self.kept = {**self.last_ln, "b": None}

        def __call__(self, images: Any) -> Any:
            last, self.last_ln = self.last_ln, self.kept
            try:
                return Port.__call__.python_function(self, images)
            finally:
                self.last_ln = last

    module = Forgetful()
    before = {x.name: x.numpy().tobytes() for x in module.variables}
    found = report(module)
    assert found.dtype == "float64"
    assert "norm" in [row.layer for row in found.diverging], str(found)
    assert {x.name: x.numpy().tobytes() for x in module.variables} == before
    own = report(Port(), diagnosis=False, weights="own", dtype="own")
    assert (own.dtype, [row.layer for row in own.diverging]) == ("float32", ["stages.0.1.attn"])  # the port's own mistake


@HERE
def test_what_tensorflow_does_with_images_that_lie_as_official() -> None:
    """The specification itself, whose variables are told by where they are read."""
    params = sv.to_backend(sv.init_params(CONFIG, seed=1), "tensorflow")
    variables = {name: tf.Variable(x) for name, x in params.items()}
    call = tf.function(lambda x: sv.scalable_vit(x, variables, CONFIG), autograph=False)
    assert report(call, diagnosis=False).agrees


@HERE
@pytest.mark.parametrize("what", ["loop", "raises", "nothing"])
def test_what_cannot_be_followed_is_refused_in_one_line(what: str) -> None:
    def loop(x: Any) -> Any:
        return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (tf.constant(0), tf.reduce_mean(x, (1, 2))))[1]

    def raises(x: Any) -> Any:
        raise KeyError("stage")

    candidate = {"loop": tf.function(loop), "raises": tf.function(raises), "nothing": tf.Module()}[what]
    with pytest.raises(CaptureError) as caught:
        report(candidate)
    assert "\n" not in str(caught.value)

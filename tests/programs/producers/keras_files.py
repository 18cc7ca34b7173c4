"""Keras and TensorFlow: models with the official names, saved by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.programs.producers.jax_files import tree
from tests.programs.producers.made import CONFIG, Made, arrays, file, producer, weights

KERAS: dict[str, Any] = {"library": "Keras", "distribution": "keras", "needs": ("keras", "h5py")}
TENSORFLOW: dict[str, Any] = {"library": "TensorFlow", "distribution": "tensorflow-cpu", "needs": ("tensorflow", "keras")}


def modules(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Each module's own parameters, by its official name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, x in state.items():
        module, _, leaf = name.rpartition(".")
        found.setdefault(module, {})[leaf] = x
    return found


def stride_of(name: str) -> tuple[int, str]:
    """The stride of a convolution of this name, and its padding in Keras' words."""
    if name.startswith("patch_embeds."):
        return (CONFIG.patch_size if name.startswith("patch_embeds.0.") else 2), "same"
    if ".reduction.0" in name:
        return CONFIG.sr_ratios[int(name.split(".")[1])], "valid"
    return 1, "same"


def keras_layer(name: str, held: Mapping[str, np.ndarray], layer_name: str | None = None) -> tuple[Any, Any]:
    """The Keras layer for a module's parameters, and the shape of what goes in."""
    import keras

    weight = held["weight"]
    label = {} if layer_name is None else {"name": layer_name}
    if weight.ndim == 1:
        return keras.layers.LayerNormalization(epsilon=1e-6, **label), (4, weight.shape[0])
    if weight.ndim == 2:
        return keras.layers.Dense(weight.shape[0], **label), (4, weight.shape[1])
    stride, padding = stride_of(name)
    size = weight.shape[2]
    if weight.shape[1] == 1 and not name.startswith("patch_embeds."):
        return keras.layers.DepthwiseConv2D(size, stride, padding, **label), (16, 16, weight.shape[0])
    return keras.layers.Conv2D(weight.shape[0], size, stride, padding, **label), (16, 16, weight.shape[1])


def keras_values(name: str, held: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    weight, bias = held["weight"], held["bias"]
    if weight.ndim == 2:
        return [weight.T, bias]
    if weight.ndim == 4:
        depthwise = weight.shape[1] == 1 and not name.startswith("patch_embeds.")
        return [weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(2, 3, 1, 0), bias]
    return [weight, bias]


def keras_functional() -> Any:
    """A functional model of layers with the official names, whose weights are the network's."""
    import keras

    inputs, outputs, filled = [], [], []
    for name, held in modules(arrays(weights())).items():
        layer, shape = keras_layer(name, held, name)
        inputs.append(keras.Input(shape))
        outputs.append(layer(inputs[-1]))
        filled.append((layer, keras_values(name, held)))
    model = keras.Model(inputs, outputs)
    for layer, values in filled:
        layer.set_weights(values)
    return model


def keras_nested() -> Any:
    """A subclassed model whose attributes are the official modules."""
    import keras

    class Part(keras.layers.Layer):
        def build(self, _: Any = None) -> None:
            self.built = True

    def held(node: Mapping[str, Any], name: str) -> Any:
        if "weight" in node:
            layer, shape = keras_layer(name, node)
            layer.build((None, *shape))
            layer.set_weights(keras_values(name, node))
            return layer
        inner = {key: held(value, f"{name}.{key}".lstrip(".")) for key, value in node.items()}
        if all(key.isdecimal() for key in inner):
            return [inner.get(str(i), Part()) for i in range(1 + max(map(int, inner)))]
        part = Part()
        for key, value in inner.items():
            setattr(part, key, value)
        part.build()
        return part

    class Network(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            for key, value in tree(arrays(weights())).items():
                setattr(self, key, held(value, key))
            self.built = True

        def call(self, x: Any) -> Any:
            return x

    return Network()


@producer(**KERAS, writes="`model.save_weights('x.weights.h5')`, functional, layers with official names", form=".weights.h5")
def keras_h5(folder: Path) -> Made:
    keras_functional().save_weights(str(folder / "x.weights.h5"))
    return file(folder / "x.weights.h5")


@producer(**KERAS, writes="`model.save('x.keras')` of the same", form=".keras")
def keras_archive(folder: Path) -> Made:
    keras_functional().save(str(folder / "x.keras"))
    return file(folder / "x.keras")


@producer(**KERAS, writes="`save_weights` of a subclassed model with official attributes", form=".weights.h5")
def keras_subclass(folder: Path) -> Made:
    keras_nested().save_weights(str(folder / "x.weights.h5"))  # a list's layers lose their names
    return file(folder / "x.weights.h5", tell=("layer_normalization",))


@producer(**KERAS, writes="`model.save('x.h5')`: the legacy HDF5 of Keras 2", form=".h5")
def keras_legacy(folder: Path) -> Made:
    keras_functional().save(str(folder / "x.h5"))
    return file(folder / "x.h5")


@producer(**KERAS, writes="`save_weights(…, max_shard_size=…)`: `.weights.json` and shards", form="sharded .weights.h5")
def keras_sharded(folder: Path) -> Made:
    keras_functional().save_weights(str(folder / "x.weights.json"), max_shard_size=0.0003)
    return file(folder / "x.weights.json")


@producer(**TENSORFLOW, writes="`tf.train.Checkpoint(model).write`: `.index` and `.data`", form="TF checkpoint")
def tf_checkpoint(folder: Path) -> Made:
    import tensorflow as tf

    tf.train.Checkpoint(tf_module()).write(str(folder / "tf" / "ckpt"))
    return file(folder / "tf")


def tf_module() -> Any:
    """Modules with the official attributes that hold variables."""
    import tensorflow as tf

    def held(node: Mapping[str, Any]) -> Any:
        inner = {key: held(x) if isinstance(x, Mapping) else tf.Variable(x) for key, x in node.items()}
        if all(key.isdecimal() for key in inner):
            return [inner.get(str(i), tf.Module()) for i in range(1 + max(map(int, inner)))]
        part = tf.Module()
        for key, value in inner.items():
            setattr(part, key, value)
        return part

    return held(tree(arrays(weights())))


@producer(**TENSORFLOW, writes="`tf.saved_model.save`: a folder", form="SavedModel")
def saved_model(folder: Path) -> Made:
    import tensorflow as tf

    tf.saved_model.save(tf_module(), str(folder / "saved"))
    return file(folder / "saved")

"""Somebody's ScalableViT in Keras 3, channels last, with names of their own, and with one mistake in it."""

import keras
from keras import layers, ops


class WindowAttention(layers.Layer):
    """IWSA. The channels of q, k and v are cut as (d heads), which is the mistake."""

    def __init__(self, dim, heads, window, **options):
        super().__init__(**options)
        self.heads, self.window = heads, window
        self.to_qkv, self.out = layers.Dense(3 * dim), layers.Dense(dim)
        self.lepe = layers.DepthwiseConv2D(3, padding="same")

    def call(self, x):
        _, h, w, c = x.shape
        n, p = self.heads, self.window

        def windows(t):
            t = ops.reshape(t, (-1, h // p, p, w // p, p, c // n, n))
            return ops.reshape(ops.transpose(t, (0, 1, 3, 6, 2, 4, 5)), (-1, n, p * p, c // n))

        q, k, v = ops.split(self.to_qkv(x), 3, axis=-1)
        a = ops.softmax(ops.matmul(windows(q), ops.transpose(windows(k), (0, 1, 3, 2))) * (c // n) ** -0.5)
        z = ops.reshape(ops.matmul(a, windows(v)), (-1, h // p, w // p, n, p, p, c // n))
        z = ops.reshape(ops.transpose(z, (0, 1, 4, 2, 5, 3, 6)), (-1, h, w, c))
        return self.out(z + self.lepe(v))


class ReducedAttention(layers.Layer):
    """SSA."""

    def __init__(self, dim, heads, ratio, scaling, **options):
        super().__init__(**options)
        width = int(dim * scaling)
        self.heads, self.scale = heads, (dim / heads * scaling) ** -0.5
        self.query, self.key, self.value = layers.Dense(width), layers.Dense(width), layers.Dense(dim)
        self.tile, self.mix = layers.DepthwiseConv2D(ratio, strides=ratio), layers.Conv2D(width, 1)
        self.norm, self.out = layers.LayerNormalization(epsilon=1e-5), layers.Dense(dim)

    def call(self, x):
        _, h, w, c = x.shape
        y = keras.activations.gelu(self.norm(self.mix(self.tile(x))), approximate=False)

        def heads(t):
            return ops.reshape(t, (-1, t.shape[1] * t.shape[2], self.heads, t.shape[3] // self.heads))

        q, k, v = heads(self.query(x)), heads(self.key(y)), heads(self.value(y))
        a = ops.softmax(ops.einsum("bnhd,bmhd->bhnm", q, k) * self.scale)
        return self.out(ops.reshape(ops.einsum("bhnm,bmhe->bnhe", a, v), (-1, h, w, c)))


def block(x, name, attention, dim):
    x = layers.add([x, attention(layers.LayerNormalization(epsilon=1e-6, name=f"{name}_ln1")(x))])
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_ln2")(x)
    y = layers.Dense(2 * dim, name=f"{name}_up")(y)
    y = layers.Dense(dim, name=f"{name}_down")(keras.activations.gelu(y, approximate=False))
    return layers.add([x, y])


def port(height=8, width=12, dim=8, heads=2, classes=5):
    """One stage of two blocks, and a linear head."""
    images = keras.Input((height, width, 3))
    x = layers.Conv2D(dim, 3, strides=2, name="stem")(layers.ZeroPadding2D(1)(images))
    x = layers.LayerNormalization(epsilon=1e-6, name="stem_ln")(x)
    x = block(x, "first", WindowAttention(dim, heads, 2, name="windows"), dim)
    x = layers.add([x, layers.DepthwiseConv2D(3, padding="same", name="position")(x)])
    x = block(x, "second", ReducedAttention(dim, heads, 2, 1.25, name="reduced"), dim)
    x = layers.GlobalAveragePooling2D()(layers.LayerNormalization(epsilon=1e-6, name="last_ln")(x))
    return keras.Model(images, layers.Dense(classes, name="classifier")(x))

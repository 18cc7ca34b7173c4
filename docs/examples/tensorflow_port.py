"""Somebody's ScalableViT in plain TensorFlow, channels last, with names of their own, and with one mistake in it."""

import tensorflow as tf


def dense(c_in, c_out):
    return {"w": tf.Variable(tf.random.normal((c_in, c_out), stddev=0.2)), "b": tf.Variable(tf.random.normal((c_out,), stddev=0.1))}


def kernel(size, c_in, c_out):
    """Of a convolution; with one output for each channel it is a depthwise one."""
    w = tf.Variable(tf.random.normal((size, size, c_in, c_out), stddev=0.2))
    return {"w": w, "b": tf.Variable(tf.random.normal((c_in if c_out == 1 else c_out,), stddev=0.1))}


def gain(c):
    return {"g": tf.Variable(tf.random.normal((c,), 1, 0.1)), "b": tf.Variable(tf.random.normal((c,), stddev=0.1))}


def linear(x, p):
    return tf.tensordot(x, p["w"], 1) + p["b"]


def norm(x, p, eps):
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, p["b"], p["g"], eps)


def depthwise(x, p, stride=1, padding="SAME"):
    return tf.nn.bias_add(tf.nn.depthwise_conv2d(x, p["w"], (1, stride, stride, 1), padding), p["b"])


class Port(tf.Module):
    """One stage of two blocks, and a linear head. SSA is scaled by d^-½, which is the mistake."""

    def __init__(self, dim=8, heads=2, classes=5):
        super().__init__()
        self.dim, self.heads, self.window, self.wide = dim, heads, 2, dim * 5 // 4
        self.stem, self.stem_ln, self.last_ln, self.classifier = kernel(3, 3, dim), gain(dim), gain(dim), dense(dim, classes)
        self.first = {"qkv": dense(dim, 3 * dim), "out": dense(dim, dim), "lepe": kernel(3, dim, 1)}
        projections = {
            "q": dense(dim, self.wide),
            "k": dense(self.wide, self.wide),
            "v": dense(self.wide, dim),
            "out": dense(dim, dim),
        }
        self.second = projections | {"tile": kernel(2, dim, 1), "mix": kernel(1, dim, self.wide), "ln": gain(self.wide)}
        self.position = kernel(3, dim, 1)
        self.around = [
            {"ln1": gain(dim), "ln2": gain(dim), "up": dense(dim, 2 * dim), "down": dense(2 * dim, dim)} for _ in range(2)
        ]

    def windows_attention(self, x):
        _, h, w, c = x.shape
        n, p, d = self.heads, self.window, c // self.heads
        qkv = linear(x, self.first["qkv"])
        cut = tf.reshape(qkv, (-1, h // p, p, w // p, p, 3, n, d))
        q, k, v = tf.unstack(tf.reshape(tf.transpose(cut, (5, 0, 1, 3, 6, 2, 4, 7)), (3, -1, n, p * p, d)))
        z = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * d**-0.5), v)
        z = tf.transpose(tf.reshape(z, (-1, h // p, w // p, n, p, p, d)), (0, 1, 4, 2, 5, 3, 6))
        return linear(tf.reshape(z, (-1, h, w, c)) + depthwise(qkv[..., 2 * c :], self.first["lepe"]), self.first["out"])

    def reduced_attention(self, x):
        _, h, w, c = x.shape
        y = depthwise(x, self.second["tile"], 2, "VALID")
        y = tf.nn.bias_add(tf.nn.conv2d(y, self.second["mix"]["w"], 1, "VALID"), self.second["mix"]["b"])
        y = tf.nn.gelu(norm(y, self.second["ln"], 1e-5))

        def heads(t):
            return tf.transpose(tf.reshape(t, (-1, t.shape[1] * t.shape[2], self.heads, t.shape[3] // self.heads)), (0, 2, 1, 3))

        q, k, v = heads(linear(x, self.second["q"])), heads(linear(y, self.second["k"])), heads(linear(y, self.second["v"]))
        a = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * (c // self.heads) ** -0.5)
        return linear(tf.reshape(tf.transpose(tf.matmul(a, v), (0, 2, 1, 3)), (-1, h, w, c)), self.second["out"])

    @tf.function(autograph=False)
    def __call__(self, images):
        x = tf.nn.conv2d(tf.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), self.stem["w"], 2, "VALID") + self.stem["b"]
        x = norm(x, self.stem_ln, 1e-6)
        for p, attention in zip(self.around, (self.windows_attention, self.reduced_attention), strict=True):
            x = x + attention(norm(x, p["ln1"], 1e-6))
            x = x + linear(tf.nn.gelu(linear(norm(x, p["ln2"], 1e-6), p["up"])), p["down"])
            if p is self.around[0]:
                x = x + depthwise(x, self.position)
        return linear(tf.reduce_mean(norm(x, self.last_ln, 1e-6), (1, 2)), self.classifier)

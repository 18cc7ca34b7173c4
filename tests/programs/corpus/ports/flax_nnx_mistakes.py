"""Mistakes in the Flax nnx port, and changes that leave it right."""

from __future__ import annotations

from tests.programs.corpus.planted import Planted

ATTEND_SCORES = 'scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * scale'
SOFTMAX = "weights = jax.nn.softmax(scores, axis=-1)"
IN_WINDOWS = "x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)"
FROM_WINDOWS = "x = x.reshape(-1, h // size, w // size, size, size, c)"
HEADS_APART = "x.reshape(b, t, heads, c // heads).transpose(0, 2, 1, 3)"
HEADS_TOGETHER = "x.transpose(0, 2, 1, 3).reshape(b, t, heads * d)"
WINDOW_SCALE = "self.scale = (dim // heads) ** -0.5"
SPLIT_QKV = "q, k, v = jnp.split(self.to_qkv(x), 3, axis=-1)"
LOCAL = "self.local = depthwise(dim, 3, rngs, padding=1)"
ADD_LOCAL = "        y = y + self.local(v)\n"
SSA_SCALE = "self.scale = (dim / heads * ratio) ** -0.5"
SHRINK = 'self.shrink = depthwise(dim, reduction, rngs, strides=reduction, padding="VALID")'
WIDEN_THEN_ACT = "y = jax.nn.gelu(self.ln(y), approximate=False)"
SSA_NORM = "nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)"
UP = "        x = self.up(x)\n        x = jax.nn.gelu(x, approximate=False)\n        return self.down(x)"
NORM_T = "self.norm_t = nnx.LayerNorm(dim, epsilon=eps, rngs=rngs)"
NORM_C = "self.norm_c = nnx.LayerNorm(dim, epsilon=eps, rngs=rngs)"
ADD_T = "        x = x + t\n        m = self.norm_c(x)\n"
EMBED_CONV = "strides=stride, padding=stride - 1, rngs=rngs"
EMBED_NORM = "self.norm = nnx.LayerNorm(dim, epsilon=eps, rngs=rngs)"
RUN_EMBED = "        x = self.conv(x)\n        return self.norm(x)"
IMAGES = "x = images.transpose(0, 2, 3, 1)"
PEG = "self.conv = depthwise(dim, 3, rngs, padding=1)"
RUN_PEG = "            x = block(x)\n            if i == 0:\n                x = self.cpe(x)\n"
END = "        x = self.norm(x)\n        x = x.mean(axis=(1, 2))\n"

LIM = r"\blim\b|lim_func|local"
PEG_WORDS = r"\bpeg\b|pos_block|position"
HEADS = (
    r"head.*(order|interleav|layout|split|cut|across|merge|stride|reshap|transpos)|(order|interleav|layout|split|cut|merge).*head"
)


def lacks(what: str) -> str:
    """A pattern of the ways to say that this is missing."""
    return (
        rf"(\bno\b|\bnot\b|without|missing|lacks?|leaves? out|left out|skip|absent|unused|never|drop|misses).*({what})|"
        rf"({what}).*(missing|left out|skip|absent|unused|never|\bnot\b|drop|\boff\b)"
    )


MISTAKES: tuple[Planted, ...] = (
    # the images and the patches
    Planted(
        "the images' height and width exchanged",
        ((IMAGES, "x = images.transpose(0, 3, 2, 1)"),),
        ("patch_embeds.0",),
        r"transpos|swap|exchang|height and width|mirror|rotat|permut",
    ),
    Planted(
        "the images normalised once more",
        ((IMAGES, "x = (images.transpose(0, 2, 3, 1) - 0.45) / 0.225"),),
        ("patch_embeds.0",),
        r"normali[sz]|mean and (standard )?dev|image|input.*(scale|shift|times|other)",
    ),
    Planted(
        "the images rounded to 255 steps",
        ((IMAGES, "x = jnp.round(images.transpose(0, 2, 3, 1) * 255) / 255"),),
        ("patch_embeds.0",),
        r"round|quanti[sz]|255|integer|precision|image",
    ),
    Planted(
        "the patches padded SAME",
        (("padding=stride - 1,", 'padding="SAME",'),),
        ("patch_embeds.0",),
        r"\bpad|SAME|shifted|offset",
    ),
    Planted(
        "the patches of later stages padded SAME",
        (("padding=stride - 1,", 'padding=3 if stride == 4 else "SAME",'),),
        ("patch_embeds.1",),
        r"\bpad|SAME|shifted|offset",
    ),
    Planted(
        "the stem's kernel is 8 x 8",
        (("kernel = 2 * stride - 1", "kernel = 2 * stride if stride == 4 else 3"),),
        ("patch_embeds.0",),
        r"kernel|8 ?[x×,] ?8|7 ?[x×,] ?7|shape",
    ),
    Planted(
        "no bias in the patches' convolutions",
        ((EMBED_CONV, EMBED_CONV + ", use_bias=False"),),
        ("patch_embeds.0",),
        lacks("bias"),
    ),
    Planted(
        "no norm behind the patches",
        ((RUN_EMBED, "        return self.conv(x)"),),
        ("patch_embeds.0",),
        lacks("norm|normed") + r"|un-?normed",
    ),
    Planted(
        "GELU behind the patches",
        ((RUN_EMBED, "        x = self.conv(x)\n        return jax.nn.gelu(self.norm(x), approximate=False)"),),
        ("patch_embeds.0",),
        r"gelu|activation",
    ),
    Planted(
        "epsilon of the patches' norm",
        ((EMBED_NORM, "self.norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)"),),
        ("patch_embeds.0",),
        r"eps",
    ),
    Planted(
        "sine position embeddings behind the patches",
        (
            (
                "        x = self.embed(x)\n",
                "        x = self.embed(x)\n        x = x + jnp.sin(jnp.arange(x.shape[1]))[:, None, None]\n",
            ),
        ),
        ("patch_embeds.0", "stages.0.0.norm1"),
        r"position|\bsine?\b|constant|\badd(s|ed)\b|extra|offset",
    ),
    Planted(
        "a learned embedding of the stage behind the patches",
        (
            (
                "        self.cpe = PositionConv(dim, rngs=rngs)\n",
                (
                    "        self.cpe = PositionConv(dim, rngs=rngs)\n"
                    "        self.embedding = nnx.Param(0.5 * jax.random.normal(rngs.params(), (dim,)))\n"
                ),
            ),
            ("        x = self.embed(x)\n", "        x = self.embed(x) + self.embedding\n"),
        ),
        ("patch_embeds.0", "stages.0.0.norm1"),
        r"position|extra|(its|port's) own|no counterpart|surplus|constant|\badd(s|ed)\b",
    ),
    # attention itself
    Planted(
        "softmax over the queries",
        ((SOFTMAX, "weights = jax.nn.softmax(scores, axis=-2)"),),
        ("stages.0.0.attn",),
        r"softmax.*(quer|axis|column|over)|(over|axis).*(quer|softmax)",
    ),
    Planted(
        "softmax over the heads",
        ((SOFTMAX, "weights = jax.nn.softmax(scores, axis=1)"),),
        ("stages.0.0.attn",),
        r"softmax.*(head|axis|over|missing)|over (the )?heads|no softmax|weights.*(\bones?\b|\b1\b|constant)",
    ),
    Planted(
        "a sigmoid for the softmax",
        ((SOFTMAX, "weights = jax.nn.sigmoid(scores)"),),
        ("stages.0.0.attn",),
        r"sigmoid|no softmax|softmax.*(missing|replaced|other|not)|not (sum|normali)|sum to (one|1)",
    ),
    Planted(
        "the scale applied twice",
        ((ATTEND_SCORES, 'scores = jnp.einsum("bhqd,bhkd->bhqk", q * scale, k) * scale'),),
        ("stages.0.0.attn",),
        r"scal(e|ing)|temperature|twice",
    ),
    Planted(
        "a causal mask",
        ((SOFTMAX, "weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones_like(scores)) > 0, scores, -1e9), axis=-1)"),),
        ("stages.0.0.attn",),
        r"mask|causal|triang|later tokens",
    ),
    Planted(
        "scores capped softly",
        ((SOFTMAX, "weights = jax.nn.softmax(2 * jnp.tanh(scores / 2), axis=-1)"),),
        ("stages.0.0.attn",),
        r"\bcap|tanh|clamp|clip|bound|limit|scores|before (the )?softmax",
    ),
    Planted(
        "attention weights in half precision",
        ((SOFTMAX, "weights = jax.nn.softmax(scores, axis=-1).astype(jnp.float16)"),),
        ("stages.0.0.attn",),
        r"float16|half|precision|round|dtype|cast",
    ),
    Planted(
        "queries and keys of unit length",
        (
            (
                ATTEND_SCORES,
                "q, k = (t / jnp.linalg.norm(t, axis=-1, keepdims=True) for t in (q, k))\n    " + ATTEND_SCORES,
            ),
        ),
        ("stages.0.0.attn",),
        r"\bunit\b|cosine|\bl2|(quer|keys?|\bq\b).*normali[sz]|normali[sz].*(quer|keys|\bq\b)|length",
    ),
    Planted(
        "all heads take the first head's keys",
        ((ATTEND_SCORES, 'scores = jnp.einsum("bhqd,bkd->bhqk", q, k[:, 0]) * scale'),),
        ("stages.1.0.attn",),
        r"multi-query|(first|one|same|all|shared?).{0,30}head|head.{0,40}(key|first|same|shared?)|keys?.{0,30}head",
    ),
    Planted(
        "heads cut across the channels",
        ((HEADS_APART, "x.reshape(b, t, c // heads, heads).transpose(0, 3, 1, 2)"),),
        ("stages.1.0.attn",),
        HEADS,
    ),
    Planted(
        "heads cut without a transpose",
        ((HEADS_APART, "x.reshape(b, heads, t, c // heads)"),),
        ("stages.1.0.attn",),
        HEADS + r"|transpos|reshap|view",
    ),
    Planted(
        "heads merged without a transpose",
        ((HEADS_TOGETHER, "x.reshape(b, t, heads * d)"),),
        ("stages.1.0.attn",),
        HEADS + r"|transpos|reshap|view|merge",
    ),
    # windows
    Planted(
        "windows cut without a transpose",
        ((IN_WINDOWS, "x.reshape(-1, size * size, c)"),),
        ("stages.0.0.attn",),
        r"window|transpos|reshap|partition",
    ),
    Planted(
        "windows merged without a transpose",
        (("return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)", "return x.reshape(-1, h, w, c)"),),
        ("stages.0.0.attn",),
        r"window|transpos|reshap|merge",
    ),
    Planted(
        "windows are grids of distant tokens",
        (
            ("x = x.reshape(b, h // size, size, w // size, size, c)", "x = x.reshape(b, size, h // size, size, w // size, c)"),
            (IN_WINDOWS, "x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, size * size, c)"),
            (
                "return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)",
                "return x.transpose(0, 3, 1, 4, 2, 5).reshape(-1, h, w, c)",
            ),
        ),
        ("stages.0.0.attn",),
        r"window|grid|dilat|strided|distant|apart",
    ),
    Planted(
        "the rows and columns of windows exchanged when merged",
        ((FROM_WINDOWS, "x = x.reshape(-1, w // size, h // size, size, size, c).transpose(0, 2, 1, 3, 4, 5)"),),
        ("stages.0.0.attn",),
        r"window|transpos|row|column|merge",
    ),
    Planted(
        "the window's rows and columns exchanged for oblong maps",
        ((FROM_WINDOWS, "x = x.reshape(-1, w // size, h // size, size, size, c)"),),
        ("stages.0.0.attn",),
        r"window|height|width|square|oblong|row|merge",
    ),
    Planted(
        "windows of several images mixed",
        (
            (FROM_WINDOWS, "x = x.reshape(h // size, w // size, -1, size, size, c)"),
            (
                "return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)",
                "return x.transpose(2, 0, 3, 1, 4, 5).reshape(-1, h, w, c)",
            ),
        ),
        ("stages.0.0.attn",),
        r"batch|(other|another|between|across|several) images?|images.*mix|mix.*images",
    ),
    Planted(
        "windows shifted by half",
        (
            (SPLIT_QKV, "x = jnp.roll(x, (-(self.window // 2), -(self.window // 2)), axis=(1, 2))\n        " + SPLIT_QKV),
            (
                "        y = from_windows(y, self.window, h, w)\n" + ADD_LOCAL,
                (
                    "        y = from_windows(y, self.window, h, w) + self.local(v)\n"
                    "        y = jnp.roll(y, (self.window // 2, self.window // 2), axis=(1, 2))\n"
                ),
            ),
        ),
        ("stages.0.0.attn",),
        r"shift|roll|swin|cyclic|window.*(offset|place|border)",
    ),
    Planted(
        "windows of 14 in the first stage",
        (("config.window_sizes[k]", "config.window_sizes[k] * (1 if k else 2)"),),
        ("stages.0.0.attn",),
        r"window.*(14|size|larger|bigger|doubl|other)|14",
    ),
    Planted(
        "the last stage's windows are half as large",
        (("config.window_sizes[k]", "config.window_sizes[k] // (2 if k == 3 else 1)"),),
        ("stages.3.0.attn",),
        r"window.*(\b1\b|size|small|half|other)|(single|one) token|each token",
    ),
    Planted(
        "IWSA's values and keys exchanged",
        ((SPLIT_QKV, "q, v, k = jnp.split(self.to_qkv(x), 3, axis=-1)"),),
        ("stages.0.0.attn",),
        r"order|exchang|swap|\bk and v\b|\bv and k\b|key.*value|value.*key|qkv",
    ),
    Planted(
        "q, k and v are cut head by head",
        (
            (
                SPLIT_QKV,
                (
                    "b, _, _, c = x.shape\n"
                    "        qkv = self.to_qkv(x).reshape(b, h, w, self.heads, 3, c // self.heads)\n"
                    "        q, k, v = (qkv[..., i, :].reshape(b, h, w, c) for i in range(3))"
                ),
            ),
        ),
        ("stages.1.0.attn",),
        r"interleav|head by head|(per|each) head|head.*(order|layout|major|qkv|q, k)|"
        r"(order|layout|split|cut|chunk).*(head|qkv|q, k)",
    ),
    Planted(
        "q, k and v are cut channel by channel",
        ((SPLIT_QKV, "q, k, v = jnp.moveaxis(self.to_qkv(x).reshape(*x.shape, 3), -1, 0)"),),
        ("stages.0.0.attn",),
        r"interleav|channel by channel|every third|(order|layout|split|cut|chunk|thirds).*(qkv|q, k|channel)|"
        r"(qkv|q, k).*(order|layout|split|cut|chunk)",
    ),
    Planted(
        "IWSA's scale from all channels",
        ((WINDOW_SCALE, "self.scale = dim**-0.5"),),
        ("stages.1.0.attn",),
        r"scal(e|ing)|temperature",
    ),
    Planted(
        "IWSA's scale lost in an integer division",
        ((WINDOW_SCALE, "self.scale = (dim // heads) ** -(1 // 2)"),),
        ("stages.0.0.attn",),
        r"scal(e|ing)|temperature",
    ),
    Planted(
        "IWSA has one head in all stages",
        (("mixer = WindowMixer(dim, heads,", "mixer = WindowMixer(dim, config.num_heads[0],"),),
        ("stages.1.0.attn",),
        r"(\bone|\b1|number of|num_|count|fewer|single).{0,20}head|head.{0,20}(count|number)",
    ),
    Planted(
        "no local module",
        ((ADD_LOCAL, ""),),
        ("stages.0.0.attn",),
        lacks(LIM),
    ),
    Planted(
        "the local module takes the input",
        ((ADD_LOCAL, "        y = y + self.local(x)\n"),),
        ("stages.0.0.attn",),
        rf"({LIM}).*(input|\bx\b|\bv\b|values?|source|fed|takes)|(input|values?).*({LIM})",
    ),
    Planted(
        "the local module behind the projection",
        ((ADD_LOCAL + "        return self.out(y)", "        return self.out(y) + self.local(v)"),),
        ("stages.0.0.attn",),
        rf"({LIM}).*(after|behind|proj|before|place|order)|(after|behind|proj).*({LIM})",
    ),
    Planted(
        "the local module sees single windows",
        (
            (
                ADD_LOCAL,
                (
                    "        n = self.window\n"
                    "        cut = to_windows(v, n).reshape(-1, n, n, v.shape[-1])\n"
                    "        y = y + from_windows(self.local(cut), n, h, w)\n"
                ),
            ),
        ),
        ("stages.0.0.attn",),
        rf"({LIM}).*(window|border|edge)|window.*({LIM})|(within|inside|each|single) windows?",
    ),
    Planted(
        "the local module with a shortcut",
        ((ADD_LOCAL, "        y = y + v + self.local(v)\n"),),
        ("stages.0.0.attn",),
        rf"({LIM}).*(shortcut|residual|skip|itself|twice|plus|\+|added|input)|(values?|\bv\b).*(added|twice|itself)",
    ),
    Planted(
        "the local module is not depthwise",
        ((LOCAL, "self.local = nnx.Conv(dim, dim, (3, 3), padding=1, rngs=rngs)"),),
        ("stages.0.0.attn",),
        r"depthwise|dense|group|shape|kernel",
    ),
    Planted(
        "the local module wraps around the borders",
        ((LOCAL, 'self.local = depthwise(dim, 3, rngs, padding="CIRCULAR")'),),
        ("stages.0.0.attn",),
        r"\bpad|border|edge|circular|wrap|zeros",
    ),
    Planted(
        "a relative position bias in the windows",
        (
            (
                WINDOW_SCALE,
                WINDOW_SCALE
                + "\n        self.relative = nnx.Param(0.5 * jax.random.normal(rngs.params(), (heads, window**2, window**2)))",
            ),
            (
                "merge_heads(attend(qw, kw, vw, self.scale))",
                (
                    "merge_heads(\n"
                    "            jax.nn.softmax(qw @ kw.swapaxes(-1, -2) * self.scale + self.relative[...], axis=-1) @ vw\n"
                    "        )"
                ),
            ),
        ),
        ("stages.0.0.attn",),
        r"position|relative|(attention|score|extra|added|additional).*bias|bias.*(added|scores)|extra|"
        r"(its|port's) own|surplus|no counterpart",
    ),
    # SSA
    Planted(
        "SSA's scale without the ratio",
        ((SSA_SCALE, "self.scale = (dim / heads) ** -0.5"),),
        ("stages.0.1.attn",),
        r"scal(e|ing)|temperature|c_ratio|r_c",
    ),
    Planted(
        "SSA's scale without the ratio where nothing is reduced",
        ((SSA_SCALE, "self.scale = (dim / heads * (ratio if reduction > 1 else 1)) ** -0.5"),),
        ("stages.2.1.attn",),
        r"scal(e|ing)|temperature|c_ratio|r_c",
    ),
    Planted(
        "no GELU in SSA's reduction",
        ((WIDEN_THEN_ACT, "y = self.ln(y)"),),
        ("stages.0.1.attn",),
        lacks("gelu|activation"),
    ),
    Planted(
        "the tanh GELU in SSA's reduction",
        ((WIDEN_THEN_ACT, "y = jax.nn.gelu(self.ln(y))"),),
        ("stages.0.1.attn",),
        r"tanh|approximat",
    ),
    Planted(
        "SSA's GELU before its norm",
        ((WIDEN_THEN_ACT, "y = self.ln(jax.nn.gelu(y, approximate=False))"),),
        ("stages.0.1.attn",),
        r"(gelu|activation).{0,40}(before|first|ahead)|norm.{0,40}(after|behind|last|follow)|order|exchang|swap",
    ),
    Planted(
        "ReLU between SSA's convolutions",
        (("y = self.shrink(x)", "y = jax.nn.relu(self.shrink(x))"),),
        ("stages.0.1.attn",),
        r"relu|activation|negative|clamp",
    ),
    Planted(
        "epsilon of SSA's norm",
        ((SSA_NORM, "nnx.LayerNorm(width, rngs=rngs)"),),
        ("stages.0.1.attn",),
        r"eps",
    ),
    Planted(
        "keys and values exchanged where nothing is reduced",
        (("k, v = jnp.split(self.to_kv(tokens), 2, axis=-1)", "v, k = jnp.split(self.to_kv(tokens), 2, axis=-1)"),),
        ("stages.2.1.attn",),
        r"order|exchang|swap|\bk and v\b|\bv and k\b|key.*value|value.*key|halves",
    ),
    Planted(
        "a mean for the depthwise reduction",
        (
            (
                "y = self.shrink(x)",
                "y = nnx.avg_pool(x, (self.reduction, self.reduction), strides=(self.reduction, self.reduction))",
            ),
        ),
        ("stages.0.1.attn",),
        r"\bpool|average|\bmean\b|(reduction\.0|depthwise|convolution).*(replaced|unused|missing|\bnot\b|never)",
    ),
    Planted(
        "SSA's reduction overlaps",
        (("strides=reduction", "strides=2"),),
        ("stages.0.1.attn",),
        r"stride|overlap|sr_ratio|more (keys|tokens)",
    ),
    Planted(
        "SSA's reduction is padded",
        ((SHRINK, "self.shrink = depthwise(dim, reduction, rngs, strides=reduction, padding=1)"),),
        ("stages.0.1.attn",),
        r"\bpad|shifted|offset",
    ),
    Planted(
        "SSA drops the last row and column of its keys",
        (("y = y.reshape(b, -1, y.shape[-1])", "y = y[:, :-1, :-1].reshape(b, -1, y.shape[-1])"),),
        ("stages.0.1.attn",),
        r"(drop|crop|\bcut|discard|fewer|missing|leaves? out|without).*(row|column|token|key|last|border)|"
        r"(row|column|token|key).*(drop|crop|\bcut|fewer|missing|left out|discard)",
    ),
    Planted(
        "SSA's values from its keys",
        (("v = self.to_v(y)", "v = self.to_v(k)"),),
        ("stages.0.1.attn",),
        r"(values?|\bv\b).{0,40}(from|of|take|fed|input|read|given).{0,40}(keys?\b|\bk\b)|from (the )?(keys?|k)\b|"
        r"(keys?|\bk\b).{0,40}(feed|into|input of|goes to)",
    ),
    Planted(
        "SSA's values without norm and GELU",
        (
            ("y = self.widen(y)", "y = self.widen(y)\n            raw = y.reshape(b, -1, y.shape[-1])"),
            ("v = self.to_v(y)", "v = self.to_v(raw)"),
        ),
        ("stages.0.1.attn",),
        r"(value|\bv\b).*(norm|gelu|activation|before|raw|input|reduc)|(norm|gelu|activation).*(value|\bv\b)",
    ),
    Planted(
        "no projection at the end of SSA",
        (("        z = self.out(z)\n", ""),),
        ("stages.0.1.attn",),
        lacks(r"proj|\bout\b|last linear"),
    ),
    Planted(
        "SSA's output map transposed",
        (("return z.reshape(b, h, w, c)", "return z.reshape(b, w, h, c).transpose(0, 2, 1, 3)"),),
        ("stages.0.1.attn",),
        r"transpos|swap|exchang|height|order of (the )?tokens|permut",
    ),
    Planted(
        "SSA's ratio of the stage before",
        (("config.c_ratios[k]", "config.c_ratios[k - 1]"),),
        ("stages.0.1.attn",),
        r"\bc_ratio|\bratio|width|channels|shape|c'|\br_c\b",
    ),
    # blocks and MLP
    Planted(
        "the tanh GELU in the MLP",
        ((UP, "        x = self.up(x)\n        x = jax.nn.gelu(x)\n        return self.down(x)"),),
        ("stages.0.0.mlp",),
        r"tanh|approximat",
    ),
    Planted(
        "the quick GELU in the MLP",
        ((UP, "        x = self.up(x)\n        x = x * jax.nn.sigmoid(1.702 * x)\n        return self.down(x)"),),
        ("stages.0.0.mlp",),
        r"quick|sigmoid|1\.702|silu|swish|(another|other|different|kind of|\bnot) .{0,20}(gelu|activation)|"
        r"(gelu|activation).{0,30}(another|other|different|replaced|instead|\bnot)",
    ),
    Planted(
        "the MLP's GELU at its end",
        ((UP, "        return jax.nn.gelu(self.down(self.up(x)), approximate=False)"),),
        ("stages.0.0.mlp",),
        r"(gelu|activation).{0,60}(after|behind|end|last|fc2|place|moved|output)|"
        r"(after|behind|fc2).{0,40}(gelu|activation)|order",
    ),
    Planted(
        "the MLP's ratio of the first stage",
        (("config.mlp_ratios[k]", "config.mlp_ratios[0]"),),
        ("stages.1.0.mlp",),
        r"ratio|hidden|width|shape|units",
    ),
    Planted(
        "the MLP's input in bfloat16",
        (("m = self.channel_mixer(m)", "m = self.channel_mixer(m.astype(jnp.bfloat16))"),),
        ("stages.0.0.mlp", "stages.0.0.norm2"),
        r"bfloat16|precision|round|dtype|cast|half",
    ),
    Planted(
        "the first norm for the second",
        (("m = self.norm_c(x)", "m = self.norm_t(x)"),),
        ("stages.0.0.norm2",),
        r"norm1|norm2.*(not|unused|never|another)|other norm|same norm|(weights|parameters?) of|shared|twice",
    ),
    Planted(
        "the shortcut takes the normed map",
        (("t = self.norm_t(x)\n", "x = self.norm_t(x)\n        t = x\n"),),
        ("stages.0.0.norm2", "stages.0.0"),
        r"(shortcut|residual|skip|\badd(s|ed)\b|sum).*norm|norm.*(shortcut|residual|skip|\badd(s|ed)\b|sum)|normed",
    ),
    Planted(
        "no shortcut around the MLP",
        (("return x + m", "return m"),),
        ("stages.0.0",),
        r"shortcut|residual|skip connection|\bbare\b|not added|without (its|the) (input|sum)",
    ),
    Planted(
        "the shortcut around attention counted twice",
        ((ADD_T, "        x = x + x + t\n        m = self.norm_c(x)\n"),),
        ("stages.0.0.norm2", "stages.0.0"),
        r"twice|doubl|\b2 ?[·*×]|two times|factor|times 2|added again",
    ),
    Planted(
        "the MLP beside attention",
        ((ADD_T, "        m = self.norm_c(x)\n        x = x + t\n"),),
        ("stages.0.0.norm2",),
        r"beside|parallel|before (the )?(attention|sum)|without (the )?attention|block's input|residual|shortcut",
    ),
    Planted(
        "norms behind the mixers",
        (
            (
                "        t = self.norm_t(x)\n        t = self.token_mixer(t)\n        x = x + t\n",
                "        x = self.norm_t(x + self.token_mixer(x))\n",
            ),
            (
                "        m = self.norm_c(x)\n        m = self.channel_mixer(m)\n        return x + m",
                "        return self.norm_c(x + self.channel_mixer(x))",
            ),
        ),
        ("stages.0.0.norm1", "stages.0.0.attn"),
        r"post-?norm|\bafter\b|behind|order|norm.*sum",
    ),
    Planted(
        "a layer scale of a tenth",
        (
            (NORM_C, NORM_C + "\n        self.gamma = nnx.Param(jnp.full((dim,), 0.1))"),
            ("        x = x + t\n", "        x = x + self.gamma[...] * t\n"),
        ),
        ("stages.0.0.norm2", "stages.0.0", "stages.0.0.attn"),
        r"layer.?scale|scaled|factor|times|gamma|0\.1|tenth|multipl|extra|additional|(its|port's) own|surplus|no counterpart",
    ),
    Planted(
        "epsilon of the norms in odd blocks",
        (("Block(dim, mixer, hidden, eps, rngs=rngs)", "Block(dim, mixer, hidden, 1e-5 if i % 2 else eps, rngs=rngs)"),),
        ("stages.0.1.norm1",),
        r"eps",
    ),
    Planted(
        "no bias in the first norms",
        ((NORM_T, "self.norm_t = nnx.LayerNorm(dim, epsilon=eps, use_bias=False, rngs=rngs)"),),
        ("stages.0.0.norm1",),
        lacks("bias"),
    ),
    Planted(
        "the second norms over whole maps",
        ((NORM_C, "self.norm_c = nnx.LayerNorm(dim, epsilon=eps, reduction_axes=(1, 2, 3), rngs=rngs)"),),
        ("stages.0.0.norm2",),
        r"axes|over (the )?(whole|tokens|map|all)|group ?norm|instance|whole map|statistics",
    ),
    # stages
    Planted(
        "a position encoding behind every block",
        ((RUN_PEG, "            x = block(x)\n            x = self.cpe(x)\n"),),
        ("patch_embeds.1", "stages.0.1", "pos_block.0"),
        rf"({PEG_WORDS}).*(every|each|twice|again|two|\b2\b|more|also|both|repeat)|"
        rf"(twice|again|more than once|every block|repeat).*({PEG_WORDS})",
    ),
    Planted(
        "the position encoding before the first block",
        ((RUN_PEG, "            if i == 0:\n                x = self.cpe(x)\n            x = block(x)\n"),),
        ("stages.0.0.norm1", "pos_block.0"),
        rf"({PEG_WORDS}).*(before|first|ahead|start|place|moved|order)|before.*({PEG_WORDS})",
    ),
    Planted(
        "no position encoding in the last stage",
        (
            ("        eps = config.norm_eps\n", "        eps = config.norm_eps\n        self.last = k == len(config.depths) - 1\n"),
            ("if i == 0:", "if i == 0 and not self.last:"),
        ),
        ("pos_block.3", "stages.3.1.norm1"),
        lacks(PEG_WORDS),
    ),
    Planted(
        "the position encoding without its input",
        (("return x + p", "return p"),),
        ("pos_block.0",),
        r"shortcut|residual|skip connection|identity|without (its|the) input|x \+|not added|is added|\bbare\b",
    ),
    Planted(
        "the position encoding dilated",
        ((PEG, "self.conv = depthwise(dim, 3, rngs, padding=2, kernel_dilation=2)"),),
        ("pos_block.0",),
        r"dilat|spread|taps|5 ?[x×] ?5|receptive",
    ),
    Planted(
        "the position encoding mirrors its borders",
        ((PEG, 'self.conv = depthwise(dim, 3, rngs, padding="REFLECT")'),),
        ("pos_block.0",),
        r"\bpad|border|edge|reflect|mirror",
    ),
    Planted(
        "each stage's SSA first",
        (("if i % 2 == 0:", "if i % 2 == 1:"),),
        ("stages.0.0.norm1", "stages.0.0.attn", "stages.0.1.norm1", "stages.0.1.attn"),
        r"order|(iwsa|\bssa\b).*(first|before|place|where)|exchang|swap",
    ),
    Planted(
        "the last block of a stage runs twice",
        ((RUN_PEG, RUN_PEG + "        x = block(x)\n"),),
        ("patch_embeds.1", "stages.0.1", "stages.0.1.norm1"),
        r"twice|again|repeat|doubl|two (calls|times)|2 (calls|times)|more than once|called",
    ),
    # the end
    Planted(
        "the mean before the norm",
        ((END, "        x = x.mean(axis=(1, 2))\n        x = self.norm(x)\n"),),
        ("norm", "pool"),
        r"(\bpool|\bmean\b|average).*(before|first|ahead)|before.*norm|norm.*(after|behind)|order",
    ),
    Planted(
        "the largest token for the mean",
        (("x = x.mean(axis=(1, 2))", "x = x.max(axis=(1, 2))"),),
        ("pool", "head"),
        r"\bmax|largest|not the mean|(\bpool|\bmean\b).*(other|instead|another|replaced|kind)",
    ),
    Planted(
        "the first token for the mean",
        (("x = x.mean(axis=(1, 2))", "x = x[:, 0, 0]"),),
        ("pool", "head"),
        r"first token|\bcls|class token|(one|single) token|corner|not the mean|"
        r"(\bpool|\bmean\b).*(other|instead|another|replaced|kind)",
    ),
    Planted(
        "a norm of the mean square at the end",
        (
            (
                "self.norm = nnx.LayerNorm(config.embed_dims[-1], epsilon=config.norm_eps, rngs=rngs)",
                "self.norm = nnx.RMSNorm(config.embed_dims[-1], epsilon=config.norm_eps, rngs=rngs)",
            ),
        ),
        ("norm",),
        r"\brms|root mean|not (cent|subtract)|mean.*(subtract|remov|cent)|(\bno\b|without|missing|lacks).*bias|"
        r"bias.*(missing|left out|absent)|cent(er|re)",
    ),
    Planted(
        "logarithms of probabilities for logits",
        (("return self.head(x)", "return jax.nn.log_softmax(self.head(x))"),),
        ("head", "logits"),
        r"softmax|logarithm|probabilit",
    ),
    Planted(
        "no bias in the last linear layer",
        (("else dim, classes, rngs=rngs)", "else dim, classes, use_bias=False, rngs=rngs)"),),
        ("head",),
        lacks("bias"),
    ),
    # two at once
    Planted(
        "no local module, and SSA's scale without the ratio",
        ((ADD_LOCAL, ""), (SSA_SCALE, "self.scale = (dim / heads) ** -0.5")),
        ("stages.0.0.attn",),
        lacks(LIM) + r"|scal(e|ing)|temperature|c_ratio|r_c",
    ),
    Planted(
        "the patches padded SAME, and their norm's epsilon",
        (("padding=stride - 1,", 'padding="SAME",'), (EMBED_NORM, "self.norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)")),
        ("patch_embeds.0",),
        r"\bpad|SAME|shifted|offset|eps",
    ),
    Planted(
        "IWSA's queries and values exchanged, and no scale",
        (
            (SPLIT_QKV, "v, k, q = jnp.split(self.to_qkv(x), 3, axis=-1)"),
            (WINDOW_SCALE, "self.scale = 1.0"),
        ),
        ("stages.0.0.attn",),
        r"order|exchang|swap|qkv|value|scal(e|ing)|temperature",
    ),
    Planted(
        "the first norm for the second, and the mean before the norm",
        (
            ("m = self.norm_c(x)", "m = self.norm_t(x)"),
            (END, "        x = x.mean(axis=(1, 2))\n        x = self.norm(x)\n"),
        ),
        ("stages.0.0.norm2",),
        r"norm1|norm2.*(not|unused|never|another)|other norm|same norm|(weights|parameters?) of|shared|twice|"
        r"(\bpool|\bmean\b|average).*(before|first)|order",
    ),
    Planted(
        "the position encoding without its input, and ReLU in the MLP",
        (
            ("return x + p", "return p"),
            (UP, "        x = self.up(x)\n        x = jax.nn.relu(x)\n        return self.down(x)"),
        ),
        ("stages.0.0.mlp",),
        r"relu|(another|other|different|kind of|\bnot) .{0,20}(gelu|activation)|shortcut|residual|skip connection|"
        r"identity|not added|is added|x \+",
    ),
    Planted(
        "every GELU is the tanh one, and the keys' norm has the wrong epsilon",
        (("approximate=False", "approximate=True"), (SSA_NORM, "nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)")),
        ("stages.0.0.mlp",),
        r"tanh|approximat|\beps",
    ),
)

RIGHT: tuple[Planted, ...] = (
    Planted(
        "right: dropout that evaluation switches off",
        (
            (
                "self.down = nnx.Linear(hidden, dim, rngs=rngs)",
                "self.down = nnx.Linear(hidden, dim, rngs=rngs)\n        self.drop = nnx.Dropout(0.1, rngs=rngs)",
            ),
            ("return self.down(x)\n\n\nclass Block", "return self.drop(self.down(x))\n\n\nclass Block"),
        ),
    ),
    Planted(
        "softmax by hand",
        (
            (
                SOFTMAX,
                (
                    "weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))\n"
                    "    weights = weights / weights.sum(axis=-1, keepdims=True)"
                ),
            ),
        ),
    ),
    Planted(
        "heads stay behind the tokens in the windows",
        (
            (
                "(split_heads(to_windows(t, self.window), self.heads) for t in (q, k, v))",
                "(to_windows(t, self.window).reshape(-1, self.window**2, self.heads, w_dim) for t in (q, k, v))",
            ),
            ("        _, h, w, _ = x.shape\n", "        _, h, w, c = x.shape\n        w_dim = c // self.heads\n"),
            (
                "        y = merge_heads(attend(qw, kw, vw, self.scale))\n",
                (
                    '        weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nqhk", qw, kw) * self.scale, axis=-1)\n'
                    '        y = jnp.einsum("nqhk,nkhd->nqhd", weights, vw).reshape(-1, self.window**2, c)\n'
                ),
            ),
        ),
    ),
    Planted(
        "products of matrices, the scale on the queries",
        (
            (ATTEND_SCORES, "scores = (q * scale) @ jnp.swapaxes(k, -1, -2)"),
            ('return jnp.einsum("bhqk,bhkd->bhqd", weights, v)', "return weights @ v"),
        ),
    ),
    Planted(
        "IWSA's q, k and v by three layers",
        (
            (
                "self.to_qkv = nnx.Linear(dim, dim * 3, use_bias=bias, rngs=rngs)",
                "self.to_q, self.to_k, self.to_v = (nnx.Linear(dim, dim, use_bias=bias, rngs=rngs) for _ in range(3))",
            ),
            (SPLIT_QKV, "q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)"),
        ),
    ),
    Planted(
        "SSA's keys and values by one layer",
        (
            ("            self.to_k = nnx.Linear(width, width, use_bias=bias, rngs=rngs)\n", ""),
            (
                "self.to_v = nnx.Linear(width, dim, use_bias=bias, rngs=rngs)",
                "self.to_kv = nnx.Linear(width, width + dim, use_bias=bias, rngs=rngs)",
            ),
            (
                "            k = self.to_k(y)\n            v = self.to_v(y)\n",
                "            k, v = jnp.split(self.to_kv(y), [q.shape[-1]], axis=-1)\n",
            ),
        ),
    ),
    Planted(
        "a linear layer for the convolution of one pixel",
        (("self.widen = nnx.Conv(dim, width, (1, 1), rngs=rngs)", "self.widen = nnx.Linear(dim, width, rngs=rngs)"),),
    ),
    Planted(
        "blocks computed again for the gradients",
        (("            x = block(x)\n", "            x = nnx.remat(Block.__call__)(block, x)\n"),),
    ),
    Planted(
        "the MLP is a Sequential",
        (
            (
                "        self.up = nnx.Linear(dim, hidden, rngs=rngs)\n        self.down = nnx.Linear(hidden, dim, rngs=rngs)\n",
                (
                    "        self.layers = nnx.Sequential(\n"
                    "            nnx.Linear(dim, hidden, rngs=rngs),\n"
                    "            lambda x: jax.nn.gelu(x, approximate=False),\n"
                    "            nnx.Linear(hidden, dim, rngs=rngs),\n"
                    "        )\n"
                ),
            ),
            (UP, "        return self.layers(x)"),
        ),
    ),
    Planted(
        "logits in a dict",
        (("return self.head(x)", 'return {"logits": self.head(x)}'),),
    ),
    Planted(
        "logits beside the features",
        (("return self.head(x)", "return self.head(x), x"),),
    ),
    Planted(
        "blocks in a dict",
        (
            ("self.body = nnx.List(body)", 'self.body = nnx.Dict({f"block_{i}": block for i, block in enumerate(body)})'),
            ("for i, block in enumerate(self.body):", "for i, block in enumerate(self.body[name] for name in sorted(self.body)):"),
        ),
    ),
    Planted(
        "variances by two passes",
        (("epsilon=eps, rngs", "epsilon=eps, use_fast_variance=False, rngs"),),
    ),
    Planted(
        "the position encoding by a kernel of its own",
        (
            (
                PEG,
                (
                    "self.kernel = nnx.Param(jax.random.normal(rngs.params(), (dim, 1, 3, 3)))\n"
                    "        self.bias = nnx.Param(jax.random.normal(rngs.params(), (dim,)))"
                ),
            ),
            (
                "p = self.conv(x)",
                (
                    "k = self.kernel[...].astype(x.dtype)\n"
                    '        layout = ("NHWC", "OIHW", "NHWC")\n'
                    "        p = jax.lax.conv_general_dilated(x, k, (1, 1), ((1, 1), (1, 1)), None, None, layout, x.shape[-1])\n"
                    "        p = p + self.bias[...]"
                ),
            ),
        ),
    ),
    Planted(
        "zeros put around the images by hand",
        (
            (EMBED_CONV, 'strides=stride, padding="VALID", rngs=rngs'),
            (
                "        x = self.conv(x)\n",
                "        x = self.conv(jnp.pad(x, ((0, 0), (self.edge, self.edge), (self.edge, self.edge), (0, 0))))\n",
            ),
            ("        kernel = 2 * stride - 1\n", "        kernel = 2 * stride - 1\n        self.edge = stride - 1\n"),
        ),
    ),
    Planted(
        "maps are b c h w between the blocks",
        (
            ("        t = self.norm_t(x)\n", "        x = x.transpose(0, 2, 3, 1)\n        t = self.norm_t(x)\n"),
            ("return x + m", "return (x + m).transpose(0, 3, 1, 2)"),
            ("            x = block(x)\n", "            x = block(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)\n"),
        ),
    ),
    Planted(
        "the whole is compiled",
        (("    def __call__(self, images: Any) -> Any:\n", "    @nnx.jit\n    def __call__(self, images: Any) -> Any:\n"),),
    ),
    Planted(
        "the last layers are declared first",
        (
            ("        self.stages = nnx.List([Stage(config, k, rngs=rngs) for k in range(len(config.depths))])\n", ""),
            (
                "config.num_classes, config.head, config.norm_eps, rngs=rngs)\n",
                (
                    "config.num_classes, config.head, config.norm_eps, rngs=rngs)\n"
                    "        self.stages = nnx.List([Stage(config, k, rngs=rngs) for k in range(len(config.depths))])\n"
                ),
            ),
        ),
    ),
)

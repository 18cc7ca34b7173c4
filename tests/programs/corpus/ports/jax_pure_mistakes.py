"""Mistakes planted in `jax_pure`, and changes that leave it right."""

from __future__ import annotations

from tests.programs.corpus.planted import Planted

TO_MAPS = "    x = jnp.transpose(images, (0, 2, 3, 1))\n"
PATCHES = '    x = conv(p["patch"], x, stride=stride, pad=stride - 1)\n'
PATCH_NORM = '    x = layer_norm(p["patch_ln"], x, cfg.norm_eps)\n'
MEAN = "    mean = jnp.mean(x, axis=-1, keepdims=True)\n"
VARIANCE = "    var = jnp.var(x, axis=-1, keepdims=True)\n"
NORMED = "    x = (x - mean) * lax.rsqrt(var + eps)\n"
KERNEL = '        p["kernel"],\n'
PADDING = "        padding=((pad, pad), (pad, pad)),\n"
DIMENSIONS = '        dimension_numbers=("NHWC", "HWIO", "NHWC"),\n'
OUT = '    return dense(p["out"], z)\n'
NORM_ATTN = '    y = layer_norm(p["ln_a"], x, cfg.norm_eps)\n'
NORM_FFN = '    y = layer_norm(p["ln_f"], x, cfg.norm_eps)\n'
FFN = '    y = feed_forward(p["ffn"], y)\n    return x + y\n'
HIDDEN = '    x = gelu(x)\n    return dense(p["down"], x)\n'
SHIFTED = "    return x + conv(p, x, pad=1, groups=x.shape[-1])\n"
BLOCKS = (
    '    for i, q in enumerate(p["blocks"]):\n        x = block(q, x, cfg, k, i)\n'
    '        if i == 0:\n            x = position(p["pos"], x)\n'
)
RUN = "        x = block(q, x, cfg, k, i)\n"
POSITION = '        if i == 0:\n            x = position(p["pos"], x)\n'
LAST_NORM = '    x = layer_norm(params["ln"], x, cfg.norm_eps)\n'
POOL = "    x = jnp.mean(x, axis=(1, 2))\n"
HEAD = '    return classify(params["head"], x, cfg)\n'
JIT = '@functools.partial(jax.jit, static_argnames=("cfg",))\n'
BUILT = "    return functools.partial(apply, params, cfg=config)\n"

SPLIT = '    q, k, v = jnp.split(dense(p["qkv"], x), 3, axis=-1)\n'
CUTS = "    qw, kw, vw = (cut(a, size) for a in (q, k, v))\n"
WINDOW_HEADS = "    qw, kw, vw = (jnp.reshape(a, (*a.shape[:3], heads, -1)) for a in (qw, kw, vw))\n"
PER_HEAD = "    per_head = jax.vmap(attend, in_axes=(1, 1, 1, None), out_axes=1)\n"
PER_IMAGE = "    per_image = jax.vmap(per_window, in_axes=(0, 0, 0, None))\n"
WINDOWS_MERGED = "    z = jnp.reshape(z, (*z.shape[:3], c))\n"
PASTED = "    z = paste(z, size, h, w)\n"
LIM = '    z = z + conv(p["lim"], v, pad=1, groups=c)\n'
LIM_OUT = LIM + OUT
CUT = "    x = jnp.reshape(x, (b, h // size, size, w // size, size, c))\n    x = jnp.swapaxes(x, 2, 3)\n"
PASTE = "    x = jnp.reshape(x, (b, h // size, w // size, size, size, c))\n    x = jnp.swapaxes(x, 2, 3)\n"
WINDOW_PROBS = "    probs = jax.nn.softmax(scores * scale, axis=-1)\n"

TILE = '        y = conv(p["tile"], y, stride=s, groups=c)\n'
POINT = '        y = conv(p["point"], y)\n'
REDUCED_NORM = '        y = layer_norm(p["ln"], y, 1e-5)\n'
REDUCED_GELU = "        y = gelu(y)\n"
QUERY = '    q = dense(p["q"], x)\n'
KEY_VALUE = '    k = dense(p["k"], y)\n    v = dense(p["v"], y)\n'
VALUE_HEADS = "    v = jnp.reshape(v, (b, -1, heads, v.shape[-1] // heads))\n"
SCALE = "    scale = (c / heads * ratio) ** -0.5\n"
SCORES = '    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale\n'
PROBS = "    probs = jax.nn.softmax(scores, axis=-1)\n"
MIXED = '    z = jnp.einsum("bhqk,bkhd->bqhd", probs, v)\n'
ATTENTION = SCORES + PROBS + MIXED
SCALED_MERGED = "    z = jnp.reshape(z, (b, h, w, c))\n"
SCALED_OUT = SCALED_MERGED + OUT

ONE_KEY_A_STEP = """    def step(carry, token):
        top, total, z = carry
        key, value = token
        score = jnp.einsum("bqhd,bhd->bqh", q, key) * scale
        high = jnp.maximum(top, score)
        shrink, weight = jnp.exp(top - high), jnp.exp(score - high)
        z = z * shrink[..., None] + weight[..., None] * value[:, None]
        return (high, total * shrink + weight, z), None

    none = jnp.zeros(q.shape[:3], q.dtype)
    start = (none - jnp.inf, none, jnp.zeros((*q.shape[:3], v.shape[-1]), q.dtype))
    (_, total, z), _ = lax.scan(step, start, (jnp.moveaxis(k, 1, 0), jnp.moveaxis(v, 1, 0)))
    z = z / total[..., None]
"""
"""SSA's attention as a scan over keys, with a softmax that is kept up to date."""

ROLLED = """    taps = [(i, j) for i in range(3) for j in range(3)]
    y = sum(jnp.roll(x, (1 - i, 1 - j), axis=(1, 2)) * p["kernel"][i, j, 0] for i, j in taps)
    return x + y + p["bias"]
"""
"""PEG as a sum of rolled maps, which come round at the border."""

PADDING_WORDS = r"padd|\bSAME\b|shift|offset|align"
BORDER_WORDS = r"padd|border|edge|boundar"
NO_NORM_WORDS = (
    r"(no|without|missing|lacks?|left out|absent|skip\w*|dropped|not normal\w*).*norm"
    r"|norm\w*.*(missing|left out|absent|skipped|dropped)"
)
EPS_WORDS = r"\beps|epsilon|1e-0?[56]"
HEAD_WORDS = r"\bheads?\b"
SWAP_WORDS = r"transpos|swap|height and width|rows and columns"
PRECISION_WORDS = r"precision|float ?16|float ?32|\bhalf\b|round|\bcast|dtype"
SCALE_WORDS = r"\bscal(e|es|ed|ing)\b|temperature"
RESIDUAL_WORDS = r"residual|shortcut|skip|\badded to\b|\bsum\b"
WINDOW_WORDS = r"window"
KEY_WORDS = r"\bkeys?\b|\bk and v\b|token"
TANH_WORDS = r"tanh|approximat"
LIM_WORDS = r"\blim|local interact|depthwise"
PEG_WORDS = r"\bpeg\b|pos_block|position"
POOL_WORDS = r"pool|\bmean\b|averag"

STEM = (
    Planted("same_padding", ((PADDING, '        padding="SAME",\n'),), ("patch_embeds.0",), PADDING_WORDS),
    Planted(
        "same_padding_behind_the_stem",
        (
            (
                PATCHES,
                (
                    '    dims, pads = ("NHWC", "HWIO", "NHWC"), "SAME" if k else [(3, 3), (3, 3)]\n'
                    '    x = lax.conv_general_dilated(x, p["patch"]["kernel"], (stride, stride), pads, dimension_numbers=dims)\n'
                    '    x = x + p["patch"]["bias"]\n'
                ),
            ),
        ),
        ("patch_embeds.1",),
        PADDING_WORDS,
    ),
    Planted(
        "padding_of_columns_on_the_right_only",
        ((PADDING, "        padding=((pad, pad), (0, 2 * pad)),\n"),),
        ("patch_embeds.0",),
        PADDING_WORDS,
    ),
    Planted(
        "stem_reflects_at_the_border",
        (
            (
                PATCHES,
                (
                    '    edge = (stride - 1, stride - 1)\n    x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), mode="reflect")\n'
                    '    x = conv(p["patch"], x, stride=stride)\n'
                ),
            ),
        ),
        ("patch_embeds.0",),
        BORDER_WORDS + "|reflect|mirror",
    ),
    Planted(
        "kernel_axes_read_as_width_height",
        ((DIMENSIONS, '        dimension_numbers=("NHWC", "WHIO", "NHWC"),\n'),),
        ("patch_embeds.0",),
        SWAP_WORDS,
    ),
    Planted(
        "kernels_flipped_as_in_signal_processing",
        ((KERNEL, '        jnp.flip(p["kernel"], (0, 1)),\n'),),
        ("patch_embeds.0",),
        r"flip|mirror|rotat|revers|upside|turned",
    ),
    Planted(
        "lim_kernel_reshaped_for_transposed",
        (
            (
                LIM,
                (
                    '    kernel = jnp.reshape(jnp.transpose(p["lim"]["kernel"], (3, 2, 0, 1)), (3, 3, 1, c))\n'
                    '    z = z + conv({**p["lim"], "kernel": kernel}, v, pad=1, groups=c)\n'
                ),
            ),
        ),
        ("stages.0.0.attn",),
        r"reshape|layout|transpos|permut|scrambl|mixed up|order|\bother values\b",
    ),
    Planted(
        "images_come_as_b_c_w_h",
        ((TO_MAPS, "    x = jnp.transpose(images, (0, 3, 2, 1))\n"),),
        ("patch_embeds.0",),
        SWAP_WORDS,
    ),
    Planted(
        "images_divided_by_255",
        ((TO_MAPS, TO_MAPS + "    x = x / 255\n"),),
        ("patch_embeds.0",),
        r"255|\bscal|divided|factor|input|images? (is|are)|normalis|normaliz|range",
    ),
    Planted(
        "images_normalised_again",
        ((TO_MAPS, TO_MAPS + "    x = (x - 0.5) / 0.5\n"),),
        ("patch_embeds.0",),
        r"twice|again|\bscal|factor|offset|input|images? (is|are)|normalis|normaliz|range|mean",
    ),
    Planted(
        "images_resized_to_the_training_size",
        ((TO_MAPS, '    images = jax.image.resize(images, (*images.shape[:2], 112, 112), "bilinear")\n' + TO_MAPS),),
        ("patch_embeds.0",),
        r"resiz|interpol|square|shape|size",
    ),
    Planted(
        "images_through_bfloat16",
        ((TO_MAPS, "    x = jnp.transpose(images.astype(jnp.bfloat16), (0, 2, 3, 1)).astype(images.dtype)\n"),),
        ("patch_embeds.0",),
        PRECISION_WORDS,
    ),
    Planted(
        "stem_padded_by_two",
        ((PATCHES, '    x = conv(p["patch"], x, stride=stride, pad=1 if k else 2)\n'),),
        ("patch_embeds.0",),
        PADDING_WORDS,
    ),
    Planted(
        "patch_norm_has_torch_eps",
        ((PATCH_NORM, '    x = layer_norm(p["patch_ln"], x, 1e-5)\n'),),
        ("patch_embeds.0",),
        EPS_WORDS,
    ),
    Planted(
        "no_patch_norm_in_the_last_stage",
        ((PATCH_NORM, '    x = x if k == 3 else layer_norm(p["patch_ln"], x, cfg.norm_eps)\n'),),
        ("patch_embeds.3",),
        NO_NORM_WORDS,
    ),
    Planted(
        "images_lose_their_first_row_and_column",
        ((TO_MAPS, "    x = jnp.transpose(images[:, :, 1:, 1:], (0, 2, 3, 1))\n"),),
        ("patch_embeds.0",),
        r"shift|offset|crop|row|off by one|padd|align",
    ),
)

NORMS = (
    Planted(
        "variance_with_ddof_one",
        ((VARIANCE, "    var = jnp.var(x, axis=-1, keepdims=True, ddof=1)\n"),),
        ("patch_embeds.0",),
        r"ddof|unbiased|bessel|n ?[-−] ?1|variance|deviation",
    ),
    Planted(
        "variance_not_centred",
        ((VARIANCE, "    var = jnp.mean(jnp.square(x), axis=-1, keepdims=True)\n"),),
        ("patch_embeds.0",),
        r"variance|mean square|second moment|\brms|deviation|centr|center",
    ),
    Planted(
        "eps_beside_the_root",
        ((NORMED, "    x = (x - mean) / (jnp.sqrt(var) + eps)\n"),),
        ("patch_embeds.0",),
        EPS_WORDS,
    ),
    Planted(
        "statistics_in_float32",
        (
            (MEAN, "    mean = jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32)\n"),
            (VARIANCE, "    var = jnp.var(x, axis=-1, keepdims=True, dtype=jnp.float32)\n"),
        ),
        ("patch_embeds.0",),
        PRECISION_WORDS,
        {"dtype": "float64"},  # in float32, in which it is compared otherwise, it is right
    ),
    Planted(
        "standardize_with_its_own_eps",
        ((MEAN + VARIANCE + NORMED, "    x = jax.nn.standardize(x, axis=-1)\n"),),
        ("patch_embeds.0",),
        EPS_WORDS,
    ),
    Planted(
        "statistics_over_axis_one",
        (
            (MEAN, "    mean = jnp.mean(x, axis=1, keepdims=True)\n"),
            (VARIANCE, "    var = jnp.var(x, axis=1, keepdims=True)\n"),
        ),
        ("patch_embeds.0",),
        r"axis|axes|\bover\b|channels|statistics|instance|along",
    ),
    Planted(
        "gain_counts_from_one",
        (('    return x * p["gamma"] + p["beta"]\n', '    return x * (1 + p["gamma"]) + p["beta"]\n'),),
        ("patch_embeds.0",),
        r"\bgain|gamma|1 \+|one plus|\bweight\b|plus one",
    ),
    Planted(
        "second_norm_over_the_whole_map",
        (
            (
                NORM_FFN,
                (
                    "    y = x - jnp.mean(x, axis=(1, 2, 3), keepdims=True)\n"
                    "    y = y * lax.rsqrt(jnp.mean(y * y, axis=(1, 2, 3), keepdims=True) + cfg.norm_eps)\n"
                    '    y = y * p["ln_f"]["gamma"] + p["ln_f"]["beta"]\n'
                ),
            ),
        ),
        ("stages.0.0.norm2",),
        r"axis|axes|group|whole|\bover\b|statistics|along|all tokens",
    ),
    Planted(
        "first_norm_again_for_the_second",
        ((NORM_FFN, NORM_FFN.replace("ln_f", "ln_a")),),
        ("stages.0.0.norm2",),
        r"norm1|first norm|same norm|shared|other parameters|another",
    ),
    Planted(
        "no_first_norm_in_the_third_stage",
        ((NORM_ATTN, '    y = x if k == 2 else layer_norm(p["ln_a"], x, cfg.norm_eps)\n'),),
        ("stages.2.0.norm1", "stages.2.0.attn"),
        NO_NORM_WORDS,
    ),
    Planted(
        "second_norm_behind_the_feed_forward",
        ((NORM_FFN + FFN, '    y = feed_forward(p["ffn"], x)\n    return x + layer_norm(p["ln_f"], y, cfg.norm_eps)\n'),),
        ("stages.0.0.norm2", "stages.0.0.mlp", "stages.0.0"),
        r"branch|after|behind|post|order|before|place",
    ),
    Planted(
        "last_norm_without_its_bias",
        ((LAST_NORM, LAST_NORM + '    x = x - params["ln"]["beta"]\n'),),
        ("norm",),
        r"bias|beta|shift",
    ),
    Planted(
        "last_norm_has_torch_eps",
        ((LAST_NORM, '    x = layer_norm(params["ln"], x, 1e-5)\n'),),
        ("norm",),
        EPS_WORDS,
    ),
)

WINDOWS = (
    Planted(
        "window_scale_of_all_channels",
        (("    scale = (c // heads) ** -0.5\n", "    scale = c**-0.5\n"),),
        ("stages.1.0.attn",),
        SCALE_WORDS,
    ),
    Planted(
        "window_scale_twice",
        ((SPLIT, SPLIT + "    q = q * scale\n"),),
        ("stages.0.0.attn",),
        SCALE_WORDS,
    ),
    Planted(
        "window_softmax_over_queries",
        ((WINDOW_PROBS, "    probs = jax.nn.softmax(scores * scale, axis=0)\n"),),
        ("stages.0.0.attn",),
        r"softmax|axis|over (the )?quer|normalis|normaliz",
    ),
    Planted(
        "window_scale_behind_the_softmax",
        ((WINDOW_PROBS, "    probs = jax.nn.softmax(scores, axis=-1) * scale\n"),),
        ("stages.0.0.attn",),
        SCALE_WORDS + "|softmax",
    ),
    Planted(
        "causal_windows",
        ((WINDOW_PROBS, "    scores = jnp.where(jnp.tril(jnp.ones_like(scores)) > 0, scores, -jnp.inf)\n" + WINDOW_PROBS),),
        ("stages.0.0.attn",),
        r"mask|causal|triang|later|future|earlier",
    ),
    Planted(
        "keys_come_first_in_qkv",
        ((SPLIT, SPLIT.replace("q, k, v =", "k, q, v =")),),
        ("stages.0.0.attn",),
        r"order|swap|exchang|permut|q and k|k and q|k, q|quer(y|ies) and key|key(s)? and quer|transpos",
    ),
    Planted(
        "slices_of_qkv_counted_from_one_and_clamped",
        (
            (
                SPLIT,
                (
                    '    qkv = dense(p["qkv"], x)\n'
                    "    q, k, v = (lax.dynamic_slice_in_dim(qkv, j * c, c, axis=-1) for j in (1, 2, 3))\n"
                ),
            ),
        ),
        ("stages.0.0.attn",),
        r"order|swap|third|slice|index|permut|\b[qkv] (from|is|as|for|of) |off by one|parts",
    ),
    Planted(
        "qkv_interleaved",
        ((SPLIT, '    qkv = dense(p["qkv"], x)\n    q, k, v = qkv[..., 0::3], qkv[..., 1::3], qkv[..., 2::3]\n'),),
        ("stages.0.0.attn",),
        r"interleav|order|every third|split|layout|thirds|chunk|permut",
    ),
    Planted(
        "qkv_inside_each_head",
        (
            (
                SPLIT,
                (
                    '    qkv = jnp.reshape(dense(p["qkv"], x), (*x.shape[:3], heads, 3, c // heads))\n'
                    "    q, k, v = (jnp.reshape(qkv[..., j, :], x.shape) for j in range(3))\n"
                ),
            ),
        ),
        ("stages.1.0.attn",),
        HEAD_WORDS + r"|interleav|order|split|layout|thirds|chunk|permut",
    ),
    Planted(
        "vmap_over_tokens_for_heads",
        ((PER_HEAD, "    per_head = jax.vmap(attend, in_axes=(0, 0, 0, None), out_axes=0)\n"),),
        ("stages.0.0.attn",),
        HEAD_WORDS + r"|axis|axes|across|no attention|itself",
    ),
    Planted(
        "heads_come_out_in_front_of_tokens",
        (
            (PER_HEAD, "    per_head = jax.vmap(attend, in_axes=(1, 1, 1, None))\n"),
            (WINDOWS_MERGED, "    z = jnp.reshape(z, (*z.shape[:2], size * size, c))\n"),
        ),
        ("stages.1.0.attn",),
        HEAD_WORDS + r"|merge|scrambl",
    ),
    Planted(
        "window_heads_interleaved",
        (
            (WINDOW_HEADS, WINDOW_HEADS.replace("heads, -1)", "-1, heads)")),
            (PER_HEAD, "    per_head = jax.vmap(attend, in_axes=(2, 2, 2, None), out_axes=2)\n"),
        ),
        ("stages.1.0.attn",),
        HEAD_WORDS + r"|interleav",
    ),
    Planted(
        "windows_come_out_in_front_of_images",
        (
            ("    _, h, w, c = x.shape\n    scale = (c", "    b, h, w, c = x.shape\n    scale = (c"),
            (PER_IMAGE, "    per_image = jax.vmap(per_window, in_axes=(0, 0, 0, None), out_axes=1)\n"),
            (WINDOWS_MERGED, "    z = jnp.reshape(z, (b, -1, size * size, c))\n"),
        ),
        ("stages.0.0.attn",),
        r"batch|images|window|scrambl",
    ),
    Planted(
        "windows_of_the_first_image_for_all",
        (
            (PER_IMAGE, "    per_image = jax.vmap(per_window, in_axes=(0, None, None, None))\n"),
            ("    z = per_image(qw, kw, vw, scale)\n", "    z = per_image(qw, kw[0], vw[0], scale)\n"),
        ),
        ("stages.0.0.attn",),
        r"batch|images?\b|first|each other",
    ),
    Planted("no_lim", ((LIM, ""),), ("stages.0.0.attn",), LIM_WORDS),
    Planted("lim_of_queries", ((LIM, LIM.replace("v, pad", "q, pad")),), ("stages.0.0.attn",), LIM_WORDS + r"|quer|\bq\b"),
    Planted(
        "lim_of_the_input",
        ((LIM, LIM.replace("v, pad", "x, pad")),),
        ("stages.0.0.attn",),
        LIM_WORDS + r"|\binput\b",
    ),
    Planted(
        "lim_behind_the_projection",
        ((LIM_OUT, '    return dense(p["out"], z) + conv(p["lim"], v, pad=1, groups=c)\n'),),
        ("stages.0.0.attn",),
        LIM_WORDS + r"|after proj|behind",
    ),
    Planted(
        "lim_inside_windows",
        (
            (
                LIM,
                (
                    "    local = jnp.reshape(cut(v, size), (-1, size, size, c))\n"
                    '    local = jnp.reshape(conv(p["lim"], local, pad=1, groups=c), (x.shape[0], -1, size * size, c))\n'
                    "    z = z + paste(local, size, h, w)\n"
                ),
            ),
        ),
        ("stages.0.0.attn",),
        LIM_WORDS + r"|inside (the )?window|border|within",
    ),
    Planted(
        "lim_dilated",
        (
            (
                LIM,
                (
                    '    dims, far = ("NHWC", "HWIO", "NHWC"), [(2, 2), (2, 2)]\n'
                    '    y = lax.conv_general_dilated(v, p["lim"]["kernel"], (1, 1), far, None, (2, 2), dims, c)\n'
                    '    z = z + y + p["lim"]["bias"]\n'
                ),
            ),
        ),
        ("stages.0.0.attn",),
        r"dilat|spac|wider|reach|" + LIM_WORDS,
    ),
    Planted(
        "windows_are_strips",
        ((CUT, CUT.splitlines(keepends=True)[0]), (PASTE, PASTE.splitlines(keepends=True)[0])),
        ("stages.0.0.attn",),
        WINDOW_WORDS + "|partition|transpos",
    ),
    Planted(
        "tokens_of_a_window_pasted_transposed",
        ((PASTE, PASTE.replace("jnp.swapaxes(x, 2, 3)", "jnp.transpose(x, (0, 1, 4, 2, 3, 5))")),),
        ("stages.0.0.attn",),
        WINDOW_WORDS + "|" + SWAP_WORDS,
    ),
    Planted(
        "windows_pasted_with_rows_for_columns",
        ((PASTE, PASTE.replace("(b, h // size, w // size,", "(b, w // size, h // size,")),),
        ("stages.0.0.attn",),
        WINDOW_WORDS + "|" + SWAP_WORDS,
    ),
    Planted(
        "windows_cut_column_by_column",
        ((CUT, CUT.replace("jnp.swapaxes(x, 2, 3)", "jnp.transpose(x, (0, 3, 1, 2, 4, 5))")),),
        ("stages.0.0.attn",),
        WINDOW_WORDS + "|" + SWAP_WORDS,
    ),
    Planted(
        "windows_are_grids",
        (
            (
                CUT,
                "    x = jnp.reshape(x, (b, size, h // size, size, w // size, c))\n    x = jnp.transpose(x, (0, 2, 4, 1, 3, 5))\n",
            ),
            (PASTE, PASTE.replace("jnp.swapaxes(x, 2, 3)", "jnp.transpose(x, (0, 3, 1, 4, 2, 5))")),
        ),
        ("stages.0.0.attn",),
        WINDOW_WORDS + "|grid|dilat",
    ),
    Planted(
        "windows_of_fourteen_in_the_first_stage",
        (("cfg.num_heads[k], cfg.window_sizes[k])", "cfg.num_heads[k], cfg.window_sizes[k] * (1 if k else 2))"),),
        ("stages.0.0.attn",),
        WINDOW_WORDS,
    ),
    Planted(
        "windows_shifted_as_in_swin",
        (
            (CUTS, "    qw, kw, vw = (cut(jnp.roll(a, (-(size // 2),) * 2, axis=(1, 2)), size) for a in (q, k, v))\n"),
            (PASTED, "    z = jnp.roll(paste(z, size, h, w), (size // 2, size // 2), axis=(1, 2))\n"),
        ),
        ("stages.0.0.attn",),
        r"shift|roll|offset|" + WINDOW_WORDS,
    ),
    Planted(
        "shifted_windows_rolled_back_along_one_axis",
        (
            (CUTS, "    qw, kw, vw = (cut(jnp.roll(a, (-(size // 2),) * 2, axis=(1, 2)), size) for a in (q, k, v))\n"),
            (PASTED, "    z = jnp.roll(paste(z, size, h, w), size // 2, axis=1)\n"),
        ),
        ("stages.0.0.attn",),
        r"shift|roll|offset|" + WINDOW_WORDS,
    ),
    Planted(
        "matrix_out_transposed_in_einsum",
        ((OUT, '    return jnp.einsum("bhwc,dc->bhwd", z, p["out"]["w"]) + p["out"]["b"]\n'),),
        ("stages.0.0.attn",),
        r"transpos",
    ),
    Planted(
        "bias_of_out_added_in_front_of_the_matrix",
        ((OUT, '    return (z + p["out"]["b"]) @ p["out"]["w"]\n'),),
        ("stages.0.0.attn",),
        r"bias",
    ),
)

SCALED = (
    Planted(
        "scale_from_the_width_of_queries",
        ((SCORES, SCORES.replace("* scale", "* q.shape[-1] ** -0.5")),),
        ("stages.2.1.attn",),
        SCALE_WORDS,
    ),
    Planted("scale_without_the_ratio", ((SCALE, "    scale = (c / heads) ** -0.5\n"),), ("stages.0.1.attn",), SCALE_WORDS),
    Planted(
        "scale_in_float16",
        ((SCALE, "    scale = jnp.float16((c / heads * ratio) ** -0.5)\n"),),
        ("stages.0.1.attn",),
        SCALE_WORDS + "|" + PRECISION_WORDS,
    ),
    Planted(
        "probabilities_in_bfloat16",
        ((PROBS, "    probs = jax.nn.softmax(scores, axis=-1).astype(jnp.bfloat16)\n"),),
        ("stages.0.1.attn",),
        PRECISION_WORDS,
    ),
    Planted(
        "einsum_sums_keys_of_all_heads",
        ((SCORES, SCORES.replace("bkhd->", "bkgd->")),),
        ("stages.1.1.attn",),
        HEAD_WORDS,
    ),
    Planted(
        "einsum_puts_heads_in_front_of_queries",
        ((MIXED, MIXED.replace("->bqhd", "->bhqd")),),
        ("stages.1.1.attn",),
        HEAD_WORDS + r"|merge|scrambl",
    ),
    Planted(
        "scaled_softmax_over_heads",
        ((PROBS, "    probs = jax.nn.softmax(scores, axis=1)\n"),),
        ("stages.0.1.attn",),
        r"softmax|axis|over (the )?heads|normalis|normaliz",
    ),
    Planted(
        "values_merged_in_fortran_order",
        ((SCALED_MERGED, '    z = jnp.reshape(z, (b, h, w, c), order="F")\n'),),
        ("stages.0.1.attn",),
        r"order|reshape|fortran|column|scrambl|permut|transpos|mixed|merge",
    ),
    Planted(
        "map_put_together_by_columns",
        ((SCALED_MERGED, "    z = jnp.swapaxes(jnp.reshape(z, (b, w, h, c)), 1, 2)\n"),),
        ("stages.0.1.attn",),
        SWAP_WORDS + r"|order|permut|column",
    ),
    Planted(
        "keys_of_the_first_image_for_all",
        ((SCORES, SCORES.replace("bkhd->", "khd->").replace("q, k)", "q, k[0])")),),
        ("stages.0.1.attn",),
        r"batch|images?\b|first|each other",
    ),
    Planted(
        "scan_over_keys_forgets_to_rescale",
        ((ATTENTION, ONE_KEY_A_STEP.replace("z * shrink[..., None]", "z")),),
        ("stages.0.1.attn",),
        r"softmax|normalis|normaliz|weights|maxim|probabilit",
    ),
    Planted(
        "scan_over_keys_begins_with_a_total_of_one",
        ((ATTENTION, ONE_KEY_A_STEP.replace("start = (none - jnp.inf, none,", "start = (none, none + 1,")),),
        ("stages.0.1.attn",),
        r"softmax|normalis|normaliz|weights|denominator|sink|off.by.one|extra|zero|additional",
    ),
    Planted(
        "scan_over_keys_begins_with_the_second",
        ((ATTENTION, ONE_KEY_A_STEP.replace("(k, 1, 0)", "(k[:, 1:], 1, 0)").replace("(v, 1, 0)", "(v[:, 1:], 1, 0)")),),
        ("stages.0.1.attn",),
        KEY_WORDS,
    ),
    Planted(
        "keys_taken_one_ahead_and_clipped",
        ((KEY_VALUE, KEY_VALUE + '    k = jnp.take(k, jnp.arange(1, k.shape[1] + 1), axis=1, mode="clip")\n'),),
        ("stages.0.1.attn",),
        KEY_WORDS + r"|shift|off by one|roll|align",
    ),
    Planted(
        "heads_scattered_out_of_bounds",
        (
            (
                MIXED,
                (
                    "    z = jnp.zeros((b, h * w, heads, v.shape[-1]), v.dtype)\n"
                    "    for j in range(1, heads + 1):\n"
                    '        z = z.at[:, :, j].set(jnp.einsum("bqk,bkd->bqd", probs[:, j - 1], v[:, :, j - 1]))\n'
                ),
            ),
        ),
        ("stages.0.1.attn",),
        HEAD_WORDS + r"|zero|missing|constant",
    ),
    Planted(
        "tiles_averaged",
        ((TILE, '        y = lax.reduce_window(y, 0.0, lax.add, (1, s, s, 1), (1, s, s, 1), "VALID") / s**2\n'),),
        ("stages.0.1.attn",),
        r"reduction|pool|averag|convolution|depthwise",
    ),
    Planted(
        "tiles_padded",
        ((TILE, '        y = conv(p["tile"], y, stride=s, pad=s // 2, groups=c)\n'),),
        ("stages.0.1.attn",),
        r"padd|more (keys|tokens)|reduction|shift|tiles",
    ),
    Planted("no_gelu_in_the_reduction", ((REDUCED_GELU, ""),), ("stages.0.1.attn",), r"gelu|activation|linear"),
    Planted(
        "gelu_in_front_of_the_norm_in_the_reduction",
        ((REDUCED_NORM + REDUCED_GELU, REDUCED_GELU + REDUCED_NORM),),
        ("stages.0.1.attn",),
        r"gelu|activation|order|before|norm_act",
    ),
    Planted(
        "tanh_gelu_in_the_reduction",
        ((REDUCED_GELU, "        y = jax.nn.gelu(y)\n"),),
        ("stages.0.1.attn",),
        TANH_WORDS,
    ),
    Planted(
        "reduction_norm_has_the_eps_of_all_others",
        ((REDUCED_NORM, '        y = layer_norm(p["ln"], y, 1e-6)\n'),),
        ("stages.0.1.attn",),
        EPS_WORDS,
    ),
    Planted(
        "values_from_the_map_before_gelu",
        (
            ("    y = x\n    if s > 1:\n", "    y = u = x\n    if s > 1:\n"),
            (REDUCED_GELU, "        u, y = y, gelu(y)\n"),
            ('    v = dense(p["v"], y)\n', '    v = dense(p["v"], u)\n'),
        ),
        ("stages.0.1.attn",),
        r"gelu|activation|values?\b|\bv\b",
    ),
    Planted(
        "keys_and_values_swapped_without_reduction",
        ((KEY_VALUE, KEY_VALUE + "    if s == 1:\n        k, v = v, k\n"),),
        ("stages.2.1.attn",),
        r"swap|exchang|order|k and v|v and k|keys and values|values and keys|permut",
    ),
    Planted(
        "queries_transposed_without_reduction",
        (
            (
                QUERY,
                QUERY + '    if s == 1:\n        q = lax.dot_general(x, p["q"]["w"], (((3,), (1,)), ((), ()))) + p["q"]["b"]\n',
            ),
        ),
        ("stages.2.1.attn",),
        r"transpos",
    ),
    Planted(
        "no_projection_behind_scaled_attention",
        ((SCALED_OUT, SCALED_MERGED + "    return z\n"),),
        ("stages.0.1.attn",),
        r"proj|last linear|output (layer|linear)",
    ),
    Planted(
        "no_bias_of_tiles",
        (
            (
                '        p["tile"] = init_conv(next(keys), s, c, c, groups=c)\n',
                '        p["tile"] = {"kernel": init_conv(next(keys), s, c, c, groups=c)["kernel"]}\n',
            ),
            ('    return y + p["bias"]\n', '    return y + p["bias"] if "bias" in p else y\n'),
        ),
        ("stages.0.1.attn",),
        r"bias",
    ),
)

BLOCK = (
    Planted(
        "tanh_gelu_by_default",
        ((HIDDEN, HIDDEN.replace("gelu(x)", "jax.nn.gelu(x)")),),
        ("stages.0.0.mlp",),
        TANH_WORDS,
    ),
    Planted(
        "swish_in_the_feed_forward",
        ((HIDDEN, HIDDEN.replace("gelu(x)", "jax.nn.silu(x)")),),
        ("stages.0.0.mlp",),
        r"silu|swish|activation|gelu",
    ),
    Planted(
        "quick_gelu_in_the_last_stage",
        (
            ("def feed_forward(p: Tree, x: Any) -> Any:\n", "def feed_forward(p: Tree, x: Any, k: int) -> Any:\n"),
            (HIDDEN, HIDDEN.replace("gelu(x)", "x * jax.nn.sigmoid(1.702 * x) if k == 3 else gelu(x)")),
            ('feed_forward(p["ffn"], y)', 'feed_forward(p["ffn"], y, k)'),
        ),
        ("stages.3.0.mlp",),
        r"quick|sigmoid|1\.702|activation|gelu|silu|swish",
    ),
    Planted(
        "gelu_behind_the_feed_forward",
        ((HIDDEN, '    x = gelu(x)\n    return gelu(dense(p["down"], x))\n'),),
        ("stages.0.0.mlp",),
        r"gelu|activation",
    ),
    Planted(
        "no_bias_behind_the_feed_forward",
        (('"down": init_dense(next(keys), hidden, c)', '"down": init_dense(next(keys), hidden, c, False)'),),
        ("stages.0.0.mlp",),
        r"bias",
    ),
    Planted(
        "dropout_left_on",
        (
            (
                HIDDEN,
                (
                    "    keep = jax.random.bernoulli(jax.random.key(0), 0.9, x.shape)\n"
                    '    x = jnp.where(keep, gelu(x) / 0.9, 0)\n    return dense(p["down"], x)\n'
                ),
            ),
        ),
        ("stages.0.0.mlp",),
        r"dropout|random|zeroed|set to zero|drop",
    ),
    Planted(
        "hidden_units_clipped",
        ((HIDDEN, '    x = jnp.clip(gelu(x), -6.0, 0.5)\n    return dense(p["down"], x)\n'),),
        ("stages.0.0.mlp",),
        r"clip|clamp|cut off|satura|activation|gelu|bounded|limit",
    ),
    Planted(
        "no_shortcut_in_odd_blocks",
        ((FFN, FFN.replace("return x + y", "return y if i % 2 else x + y")),),
        ("stages.0.1", "patch_embeds.1"),
        RESIDUAL_WORDS,
    ),
    Planted(
        "shortcut_from_the_normed_map",
        ((NORM_ATTN, NORM_ATTN + "    x = y\n"),),
        ("stages.0.0", "stages.0.0.norm2", "stages.0.0.norm1"),
        RESIDUAL_WORDS + "|normed|norm1|post",
    ),
    Planted(
        "feed_forward_beside_attention",
        (
            ("    x = x + y\n" + NORM_FFN, '    z = layer_norm(p["ln_f"], x, cfg.norm_eps)\n'),
            (FFN, '    return x + y + feed_forward(p["ffn"], z)\n'),
        ),
        ("stages.0.0.norm2",),
        r"parallel|beside|same input|before (the )?attention|without (the )?attention|" + RESIDUAL_WORDS,
    ),
    Planted(
        "attention_weighed_by_a_tenth",
        (("    x = x + y\n" + NORM_FFN, "    x = x + 0.1 * y\n" + NORM_FFN),),
        ("stages.0.0", "stages.0.0.norm2", "stages.0.0.attn"),
        r"0\.1\b|tenth|factor|\bscal|times|multipl|" + RESIDUAL_WORDS,
    ),
    Planted(
        "blocks_run_backwards",
        (
            ('enumerate(p["blocks"])', 'enumerate(reversed(p["blocks"]))'),
            ("    if i % 2:\n", '    if "q" in p["attn"]:\n'),
        ),
        ("stages.0.0.norm1", "stages.0.1.norm1"),
        r"order|before|first|backward|revers|swap|SSA, MLP",
    ),
    Planted("no_position", ((POSITION, ""),), ("pos_block.0", "stages.0.1.norm1"), PEG_WORDS),
    Planted(
        "position_behind_the_last_block",
        ((POSITION, POSITION.replace("i == 0", "i == cfg.depths[k] - 1")),),
        ("pos_block.0", "stages.0.1.norm1"),
        PEG_WORDS,
    ),
    Planted(
        "position_without_its_shortcut",
        ((SHIFTED, SHIFTED.replace("x + conv", "conv")),),
        ("pos_block.0",),
        RESIDUAL_WORDS + r"|without x|input is not",
    ),
    Planted("position_comes_round_at_the_border", ((SHIFTED, ROLLED),), ("pos_block.0",), BORDER_WORDS + "|circular|wrap|roll"),
    Planted(
        "position_repeats_its_border",
        (
            (
                SHIFTED,
                (
                    "    near = [jnp.arange(n)[:, None] + jnp.arange(3) - 1 for n in x.shape[1:3]]\n"
                    '    y = jnp.take(jnp.take(x, near[0], axis=1, mode="clip"), near[1], axis=3, mode="clip")\n'
                    '    return x + jnp.einsum("bhiwjc,ijc->bhwc", y, p["kernel"][:, :, 0]) + p["bias"]\n'
                ),
            ),
        ),
        ("pos_block.0",),
        BORDER_WORDS + "|replicat|repeat|clamp|clip",
    ),
)

END = (
    Planted(
        "tokens_summed",
        ((POOL, "    x = jnp.sum(x, axis=(1, 2))\n"),),
        ("pool", "head", "logits"),
        POOL_WORDS + r"|\bsum|factor|number of tokens",
    ),
    Planted(
        "pooled_in_front_of_the_norm",
        ((LAST_NORM + POOL, POOL + LAST_NORM),),
        ("norm", "pool", "head"),
        POOL_WORDS + "|order|before",
    ),
    Planted(
        "first_token_for_the_mean",
        ((POOL, "    x = x[:, 0, 0]\n"),),
        ("pool", "head", "logits"),
        POOL_WORDS + r"|first token|one token|single token|\bcls\b",
    ),
    Planted(
        "greatest_token_for_the_mean",
        ((POOL, "    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, *x.shape[1:3], 1), (1, 1, 1, 1), 'VALID')[:, 0, 0]\n"),),
        ("pool", "head", "logits"),
        POOL_WORDS + r"|\bmax",
    ),
    Planted(
        "last_map_resized_in_front_of_the_mean",
        ((POOL, '    x = jax.image.resize(x, (x.shape[0], 4, 4, x.shape[3]), "linear")\n' + POOL),),
        ("pool", "head", "logits"),
        POOL_WORDS + r"|resiz|interpol",
    ),
    Planted(
        "mean_of_the_batch_taken_off",
        ((POOL, POOL + "    x = x - jnp.mean(x, axis=0)\n"),),
        ("pool", "head", "logits"),
        r"batch|images|each other|centr|center",
    ),
    Planted(
        "probabilities_for_logits",
        ((HEAD, '    return jax.nn.softmax(classify(params["head"], x, cfg))\n'),),
        ("head", "logits"),
        r"softmax|probabilit|normalis|normaliz",
    ),
    Planted(
        "head_in_float16",
        (
            (
                HEAD,
                (
                    '    half = jax.tree.map(lambda a: a.astype(jnp.float16), params["head"])\n'
                    "    return classify(half, x.astype(jnp.float16), cfg).astype(images.dtype)\n"
                ),
            ),
        ),
        ("head", "logits"),
        PRECISION_WORDS,
    ),
    Planted(
        "classes_backwards",
        ((HEAD, HEAD.replace("cfg)", "cfg)[:, ::-1]")),),
        ("head", "logits"),
        r"order|revers|backward|permut|flip|classes",
    ),
    Planted(
        "no_bias_of_the_head",
        (
            (
                '    return {"classes": init_dense(next(keys), c, cfg.num_classes)}\n',
                '    return {"classes": init_dense(next(keys), c, cfg.num_classes, bias=False)}\n',
            ),
        ),
        ("head", "logits"),
        r"bias",
    ),
)

TWO = (
    Planted(
        "two_keys_first_and_transposed_kernels",
        (
            (SPLIT, SPLIT.replace("q, k, v =", "k, q, v =")),
            (DIMENSIONS, '        dimension_numbers=("NHWC", "WHIO", "NHWC"),\n'),
        ),
        ("patch_embeds.0",),
        SWAP_WORDS + r"|order|q and k|k and q|k, q",
    ),
    Planted(
        "two_scan_with_a_sink_and_no_gelu",
        (
            (ATTENTION, ONE_KEY_A_STEP.replace("start = (none - jnp.inf, none,", "start = (none, none + 1,")),
            (REDUCED_GELU, ""),
        ),
        ("stages.0.1.attn",),
        r"softmax|normalis|normaliz|weights|denominator|sink|extra|zero|gelu|activation|linear",
    ),
    Planted(
        "two_shortcut_twice_and_backwards_classes",
        (
            ("    x = x + y\n" + NORM_FFN, "    x = x + (x + y)\n" + NORM_FFN),
            (HEAD, HEAD.replace("cfg)", "cfg)[:, ::-1]")),
        ),
        ("stages.0.0", "stages.0.0.norm2", "stages.0.0.attn"),
        RESIDUAL_WORDS + r"|twice|doubled|order|revers|backward|permut|flip|classes",
    ),
    Planted(
        "two_biases_on_the_wrong_side_and_first_token",
        (
            (OUT, '    return (z + p["out"]["b"]) @ p["out"]["w"]\n'),
            (POOL, "    x = x[:, 0, 0]\n"),
        ),
        ("stages.0.0.attn",),
        r"bias|first token|one token|single token|\bcls\b|" + POOL_WORDS,
    ),
    Planted(
        "two_same_padding_and_tanh_gelu",
        ((PADDING, '        padding="SAME",\n'), ("approximate=False", "approximate=True")),
        ("patch_embeds.0",),
        PADDING_WORDS + "|" + TANH_WORDS,
    ),
    Planted(
        "two_position_rolls_over_swapped_axes",
        ((SHIFTED, ROLLED.replace("axis=(1, 2)", "axis=(2, 1)")),),
        ("pos_block.0",),
        BORDER_WORDS + "|circular|wrap|roll|" + SWAP_WORDS,
    ),
    Planted(
        "two_scale_without_the_ratio_and_no_position",
        ((SCALE, "    scale = (c / heads) ** -0.5\n"), (POSITION, "")),
        ("pos_block.0", "stages.0.1.norm1"),
        SCALE_WORDS + "|" + PEG_WORDS,
    ),
    Planted(
        "two_variance_with_ddof_one_and_tokens_summed",
        (
            (VARIANCE, "    var = jnp.var(x, axis=-1, keepdims=True, ddof=1)\n"),
            (POOL, "    x = jnp.sum(x, axis=(1, 2))\n"),
        ),
        ("patch_embeds.0",),
        r"ddof|unbiased|bessel|n ?[-−] ?1|variance|deviation|" + POOL_WORDS + r"|\bsum|factor|number of tokens",
    ),
    Planted(
        "two_lim_of_queries_and_norms_confused",
        ((LIM, LIM.replace("v, pad", "q, pad")), (NORM_FFN, NORM_FFN.replace("ln_f", "ln_a"))),
        ("stages.0.0.attn",),
        LIM_WORDS + r"|quer|\bq\b|norm1|first norm|same norm|shared|other parameters|another",
    ),
    Planted(
        "two_no_lim_and_relu",
        ((LIM, ""), (HIDDEN, HIDDEN.replace("gelu(x)", "jax.nn.relu(x)"))),
        ("stages.0.0.attn",),
        LIM_WORDS + "|relu|activation|gelu",
    ),
    Planted(
        "two_heads_of_the_last_stage_and_eps",
        (
            ('scaled(p["attn"], y, cfg.num_heads[k],', 'scaled(p["attn"], y, cfg.num_heads[-1],'),
            (LAST_NORM, '    x = layer_norm(params["ln"], x, 1e-5)\n'),
        ),
        ("stages.0.1.attn",),
        HEAD_WORDS + "|" + SCALE_WORDS + "|" + EPS_WORDS,
    ),
    Planted(
        "two_causal_and_strips",
        (
            (WINDOW_PROBS, "    scores = jnp.where(jnp.tril(jnp.ones_like(scores)) > 0, scores, -jnp.inf)\n" + WINDOW_PROBS),
            (CUT, CUT.splitlines(keepends=True)[0]),
            (PASTE, PASTE.splitlines(keepends=True)[0]),
        ),
        ("stages.0.0.attn",),
        r"mask|causal|triang|later|future|earlier|partition|transpos|" + WINDOW_WORDS,
    ),
)

HEADS = (
    Planted(
        "heads_of_the_first_stage_in_windows",
        (('windowed(p["attn"], y, cfg.num_heads[k],', 'windowed(p["attn"], y, cfg.num_heads[0],'),),
        ("stages.1.0.attn",),
        HEAD_WORDS + "|" + SCALE_WORDS,
    ),
    Planted(
        "heads_of_the_last_stage_in_scaled_attention",
        (('scaled(p["attn"], y, cfg.num_heads[k],', 'scaled(p["attn"], y, cfg.num_heads[-1],'),),
        ("stages.0.1.attn",),
        HEAD_WORDS + "|" + SCALE_WORDS,
    ),
)

MISTAKES = (*STEM, *NORMS, *WINDOWS, *SCALED, *HEADS, *BLOCK, *END, *TWO)

NEIGHBOURS = """    _, h, w, _ = x.shape
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    y = sum(around[:, i : i + h, j : j + w] * p["kernel"][i, j, 0] for i, j in taps)
    return x + y + p["bias"]
"""
"""PEG as a sum of shifted maps."""

PAIRS = """    def pair(x: Any, p: Any) -> Any:
        even, odd, first = p
        x = block(even, x, cfg, k, 0)
        x = jnp.where(first, position(pos, x), x)
        return block(odd, x, cfg, k, 1), None

    pos = p["pos"]
    even, odd = (jax.tree.map(lambda *a: jnp.stack(a), *p["blocks"][j::2]) for j in (0, 1))
    x, _ = lax.scan(pair, x, (even, odd, jnp.arange(len(p["blocks"]) // 2) == 0))
"""
"""A stage as a scan over pairs of blocks, for depths that are even."""

ONE_IMAGE = "    one = functools.partial(apply, cfg=config)\n"

RIGHT = (
    Planted(
        "position_as_a_sum_of_shifted_maps",
        (
            (
                SHIFTED,
                (
                    "    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))\n"
                    "    taps = [(i, j, wide[:, i : i + x.shape[1], j : j + x.shape[2]]) for i in range(3) for j in range(3)]\n"
                    '    return x + sum(near * p["kernel"][i, j, 0] for i, j, near in taps) + p["bias"]\n'
                ),
            ),
        ),
    ),
    Planted("not_compiled", ((JIT, ""),)),
    Planted(
        "compiled_block_by_block",
        ((JIT, ""), ("def block(", '@functools.partial(jax.jit, static_argnames=("cfg", "k", "i"))\ndef block(')),
    ),
    Planted(
        "compiled_as_a_closure",
        ((JIT, ""), (BUILT, "    return jax.jit(lambda images: apply(params, images, cfg=config))\n")),
    ),
    Planted("a_tree_that_is_called", ((BUILT, ONE_IMAGE + "    return jax.tree_util.Partial(one, params)\n"),)),
    Planted(
        "one_image_mapped_over_the_batch",
        (
            (
                BUILT,
                ONE_IMAGE + "    batch = jax.vmap(lambda p, image: one(p, image[None])[0], in_axes=(None, 0))\n"
                "    return functools.partial(batch, params)\n",
            ),
        ),
    ),
    Planted(
        "images_one_after_the_other",
        (
            (
                BUILT,
                ONE_IMAGE + "    batch = lambda p, images: lax.map(lambda image: one(p, image[None])[0], images)\n"
                "    return functools.partial(batch, params)\n",
            ),
        ),
    ),
    Planted("logits_in_a_dictionary", ((HEAD, '    return {"logits": classify(params["head"], x, cfg)}\n'),)),
    Planted(
        "blocks_computed_again_for_gradients",
        ((RUN, "        x = jax.checkpoint(functools.partial(block, cfg=cfg, k=k, i=i))(q, x)\n"),),
    ),
    Planted("stages_scanned_over_pairs", ((BLOCKS, PAIRS),)),
    Planted(
        "convolutions_of_channels_first",
        (
            (
                "    y = lax.conv_general_dilated(\n        x,\n",
                "    y = lax.conv_general_dilated(\n        jnp.moveaxis(x, 3, 1),\n",
            ),
            (DIMENSIONS, '        dimension_numbers=("NCHW", "HWIO", "NCHW"),\n'),
            ('    return y + p["bias"]\n', '    return jnp.moveaxis(y, 1, 3) + p["bias"]\n'),
        ),
    ),
    Planted(
        "kernels_oihw",
        (
            (DIMENSIONS, '        dimension_numbers=("NHWC", "OIHW", "NHWC"),\n'),
            ("(size, size, fan_in // groups, fan_out)", "(fan_out, fan_in // groups, size, size)"),
        ),
    ),
    Planted(
        "matrices_out_in",
        (
            ('jnp.einsum("...i,io->...o", x, p["w"])', 'jnp.einsum("...i,oi->...o", x, p["w"])'),
            ("-2.0, 2.0, (fan_in, fan_out))", "-2.0, 2.0, (fan_out, fan_in))"),
        ),
    ),
    Planted(
        "windows_have_q_k_v_apart",
        (
            (
                "    qkv = init_dense(next(keys), c, 3 * c, cfg.qkv_bias)\n",
                "    qkv = [init_dense(next(keys), c, c) for _ in range(3)]\n",
            ),
            (SPLIT, '    q, k, v = (dense(a, x) for a in p["qkv"])\n'),
        ),
    ),
    Planted(
        "scaled_keys_and_values_together",
        (
            (
                '    p["k"] = init_dense(next(keys), width, width, bias)\n    p["v"] = init_dense(next(keys), width, c, bias)\n',
                '    p["kv"] = init_dense(next(keys), width, width + c, bias)\n',
            ),
            (KEY_VALUE, '    k, v = jnp.split(dense(p["kv"], y), [q.shape[-1]], axis=-1)\n'),
        ),
    ),
    Planted(
        "queries_have_an_axis_of_heads",
        (
            (
                '    p = {"q": init_dense(next(keys), c, width, bias)}\n',
                (
                    "    heads = cfg.num_heads[k]\n    query = init_dense(next(keys), c, width, bias)\n"
                    '    p = {"q": {n: jnp.reshape(a, (*a.shape[:-1], heads, -1)) for n, a in query.items()}}\n'
                ),
            ),
            (QUERY, '    q = jnp.einsum("bhwc,cnd->bhwnd", x, p["q"]["w"]) + p["q"]["b"]\n'),
        ),
    ),
    Planted(
        "matrices_in_named_tuples",
        (
            (
                "def init_dense(",
                "class Dense(NamedTuple):\n    w: Any\n    b: Any = 0.0\n\n\ndef init_dense(",
            ),
            ("from typing import Any\n", "from typing import Any, NamedTuple\n"),
            ('    return {"w": w, "b": jnp.zeros(fan_out)} if bias else {"w": w}\n', "    return Dense(w, jnp.zeros(fan_out))\n"),
            (
                '    y = jnp.einsum("...i,io->...o", x, p["w"])\n    return y + p["b"] if "b" in p else y\n',
                "    return x @ p.w + p.b\n",
            ),
        ),
    ),
    Planted(
        "one_flat_dictionary",
        (
            ("def init(key: Any, cfg: Any) -> Tree:\n", "def nested(key: Any, cfg: Any) -> Tree:\n"),
            (
                "def dense(p: Tree",
                (
                    "def names(tree: Tree) -> list[str]:\n"
                    "    paths = (path for path, _ in jax.tree.leaves_with_path(tree))\n"
                    '    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]\n\n\n'
                    "def init(key: Any, cfg: Any) -> Tree:\n"
                    "    tree = nested(key, cfg)\n"
                    "    return dict(zip(names(tree), jax.tree.leaves(tree), strict=True))\n\n\n"
                    "def dense(p: Tree"
                ),
            ),
            (
                TO_MAPS,
                TO_MAPS + "    tree = jax.eval_shape(lambda: nested(jax.random.key(0), cfg))\n"
                "    params = jax.tree.unflatten(jax.tree.structure(tree), [params[name] for name in names(tree)])\n",
            ),
        ),
    ),
    Planted("scaled_attention_scans_keys", ((ATTENTION, ONE_KEY_A_STEP),)),
    Planted(
        "scaled_attention_row_by_row",
        (
            (
                ATTENTION,
                (
                    "    def row(q: Any) -> Any:\n"
                    '        probs = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale, axis=-1)\n'
                    '        return jnp.einsum("bhqk,bkhd->bqhd", probs, v)\n\n'
                    "    rows = jnp.moveaxis(jnp.reshape(q, (b, h, w, heads, -1)), 1, 0)\n"
                    "    z = jnp.moveaxis(lax.map(row, rows), 0, 1)\n"
                ),
            ),
        ),
    ),
    Planted(
        "windows_one_after_the_other",
        (
            (
                "    per_window = jax.vmap(per_head, in_axes=(0, 0, 0, None))\n" + PER_IMAGE,
                "    per_window = lambda q, k, v, scale: lax.map(lambda t: per_head(*t, scale), (q, k, v))\n" + PER_IMAGE,
            ),
        ),
    ),
    Planted(
        "gelu_by_erf",
        (("    return jax.nn.gelu(x, approximate=False)\n", "    return 0.5 * x * (1.0 + lax.erf(x * 0.5**0.5))\n"),),
    ),
    Planted("standardize_with_eps", ((MEAN + VARIANCE + NORMED, "    x = jax.nn.standardize(x, axis=-1, epsilon=eps)\n"),)),
    Planted(
        "variance_from_moments",
        ((VARIANCE, "    var = jnp.mean(jnp.square(x), axis=-1, keepdims=True) - jnp.square(mean)\n"),),
    ),
    Planted(
        "softmax_by_logsumexp",
        ((PROBS, "    probs = jnp.exp(scores - jax.nn.logsumexp(scores, axis=-1, keepdims=True))\n"),),
    ),
    Planted(
        "softmax_in_float32_at_least",
        (
            (
                PROBS,
                (
                    "    wide = jnp.promote_types(scores.dtype, jnp.float32)\n"
                    "    probs = jax.nn.softmax(scores.astype(wide), axis=-1).astype(v.dtype)\n"
                ),
            ),
        ),
    ),
    Planted("pointwise_convolution_is_a_matrix", ((POINT, '        y = y @ p["point"]["kernel"][0, 0] + p["point"]["bias"]\n'),)),
    Planted(
        "tiles_by_einsum",
        (
            (
                TILE,
                (
                    "        tiles = jnp.reshape(y, (b, h // s, s, w // s, s, c))\n"
                    '        y = jnp.einsum("bhiwjc,ijc->bhwc", tiles, p["tile"]["kernel"][:, :, 0]) + p["tile"]["bias"]\n'
                ),
            ),
        ),
    ),
    Planted("position_from_shifted_maps", ((SHIFTED, NEIGHBOURS),)),
    Planted(
        "scale_goes_to_the_queries",
        ((WINDOW_PROBS, WINDOW_PROBS.replace("scores * scale", "scores")), (SPLIT, SPLIT + "    q = q * scale\n")),
    ),
    Planted("lim_of_values_pasted_again", ((LIM, LIM.replace("v, pad", "paste(cut(v, size), size, h, w), pad")),)),
    Planted(
        "windows_by_einops",
        (
            ("import jax\n", "import einops\nimport jax\n"),
            (
                CUTS,
                (
                    '    pattern = "b (i p) (j q) c -> b (i j) (p q) c"\n'
                    "    qw, kw, vw = (einops.rearrange(a, pattern, p=size, q=size) for a in (q, k, v))\n"
                ),
            ),
            (PASTED, '    z = einops.rearrange(z, "b (i j) (p q) c -> b (i p) (j q) c", i=h // size, p=size)\n'),
        ),
    ),
    Planted(
        "feed_forward_of_a_token",
        (
            (
                '    y = feed_forward(p["ffn"], y)\n',
                '    y = jnp.vectorize(functools.partial(feed_forward, p["ffn"]), signature="(c)->(c)")(y)\n',
            ),
        ),
    ),
    Planted("mean_by_einsum", ((POOL, '    x = jnp.einsum("bhwc->bc", x) / (x.shape[1] * x.shape[2])\n'),)),
)

"""Mistakes planted in `torch_functional`, and changes that leave it right."""

from __future__ import annotations

from tests.programs.corpus.planted import Planted


def _one(name: str, old: str, new: str, layer: str = "", cause: str = "") -> Planted:
    """One edit; `layer` is one name or several, apart by spaces."""
    return Planted(name, ((old, new),), tuple(layer.split()), cause)


_ABSENT = (
    r"missing|left out|omit|skip|drop|absent|lack|without|forgot|\bno\b|zero|unused|never|not (applied|used|read|added|there|run)"
)
_UNUSED = r"(un|never |not )(used|read)"


def _missing(thing: str) -> str:
    """The words that say that something is missing; `thing` is a regular expression for its names."""
    return rf"({_ABSENT}).*({thing})|({thing}).*({_ABSENT})"


def _both(name: str, first: Planted, second: Planted, layer: str) -> Planted:
    """Two mistakes at once: either may be described, and the layers are the earlier one's."""
    return Planted(name, first.edits + second.edits, tuple(layer.split()), f"{first.cause}|{second.cause}")


_BLOCK_0_SUM = "stages.0.0.norm2 stages.0.0"
_POOLED = "pool head logits"

_PATCHES = (
    _one(
        "the stem is padded by half its stride",
        "2 * st.stride - 1, st.stride - 1",
        "2 * st.stride - 1, st.stride // 2",
        "patch_embeds.0",
        r"\bpad|shifted|moved by|offset",
    ),
    _one(
        "downsampling pads at the bottom and the right only",
        "cols = F.unfold(x.permute(0, 3, 1, 2), size, padding=pad, stride=st.stride)",
        "if st.k:\n"
        "        x, pad = F.pad(x, (0, 0, wide % 2, 1, h % 2, 1)), 0\n"
        "    cols = F.unfold(x.permute(0, 3, 1, 2), size, padding=pad, stride=st.stride)",
        "patch_embeds.1",
        r"\bpad|shifted|moved by|offset",
    ),
    _one(
        "downsampling repeats the border",
        "cols = F.unfold(x.permute(0, 3, 1, 2), size, padding=pad, stride=st.stride)",
        'mode = "replicate" if st.k else "constant"\n'
        "    cols = F.unfold(F.pad(x.permute(0, 3, 1, 2), (pad,) * 4, mode=mode), size, stride=st.stride)",
        "patch_embeds.1",
        r"\bpad|border|edge|replicat|repeat",
    ),
    _one(
        "the patches' kernels have rows and columns swapped",
        "w.reshape(st.c, -1).t()",
        "w.permute(0, 1, 3, 2).reshape(st.c, -1).t()",
        "patch_embeds.0",
        r"transpos|swap|exchang|rows? (and|for) columns?|height and width|h and w|axes",
    ),
    _one(
        "the patches' kernels are viewed and not transposed",
        "w.reshape(st.c, -1).t()",
        "w.reshape(-1, st.c)",
        "patch_embeds.0",
        r"transpos|reshap|\bview|order of (its|the) (entries|values|weights|axes)|permut|rearrang|scrambl|layout",
    ),
    _one(
        "the map is rolled by one before the second downsampling",
        "cols = F.unfold(x.permute(0, 3, 1, 2), size, padding=pad, stride=st.stride)",
        "if st.k == 2:\n"
        "        x = torch.roll(x, (-1, -1), dims=(1, 2))\n"
        "    cols = F.unfold(x.permute(0, 3, 1, 2), size, padding=pad, stride=st.stride)",
        "patch_embeds.2",
        r"\broll|shifted|moved|offset|\bpad|wrap|by one|one (token|row|pixel)",
    ),
    _one(
        "the stem has no norm",
        'return norm(x, p[f"s{st.k}_patch_g"]',
        'if st.k == 0:\n        return x\n    return norm(x, p[f"s{st.k}_patch_g"]',
        "patch_embeds.0",
        _missing("norm|patch_[gh]"),
    ),
    _one(
        "the last patches' norm forgets its shift",
        "    x = x.reshape(-1, oh, ow, st.c)\n",
        "    x = x.reshape(-1, oh, ow, st.c)\n"
        "    if st.k == 3:\n"
        '        return norm(x, p[f"s{st.k}_patch_g"], torch.zeros_like(bias), st.eps)\n',
        "patch_embeds.3",
        r"bias|\bshift\b|beta|offset|s3_patch_h|constant",
    ),
    _one(
        "patches go through GELU",
        'return norm(x, p[f"s{st.k}_patch_g"], p[f"s{st.k}_patch_h"], st.eps)',
        'return gelu(norm(x, p[f"s{st.k}_patch_g"], p[f"s{st.k}_patch_h"], st.eps))',
        "patch_embeds.0",
        r"gelu|activation|non-?linear",
    ),
    _one(
        "the patches' norms have another epsilon",
        'p[f"s{st.k}_patch_h"], st.eps)',
        'p[f"s{st.k}_patch_h"], 1e-5)',
        "patch_embeds.0",
        r"\beps",
    ),
    _one(
        "images are normalised a second time",
        "x = images.permute(0, 2, 3, 1)",
        "x = (images.permute(0, 2, 3, 1) - 0.5) / 0.5",
        "patch_embeds.0",
        r"normali[sz]|standardi[sz]|(image|input|pixel)s?\b.*(scaled|shifted|mean|minus|multipl|subtract|0\.5|twice)|rescal|pre-?process",
    ),
    _one(
        "images are taken as bytes",
        "x = images.permute(0, 2, 3, 1)",
        "x = images.permute(0, 2, 3, 1) / 255",
        "patch_embeds.0",
        r"255|0\.0039|(image|input|pixel)s?\b.*(scale|divid|multipl|factor|range)|rescal|(scaled|divided|multiplied|multiple|factor)",
    ),
    _one(
        "images come with their width first",
        "x = images.permute(0, 2, 3, 1)",
        "x = images.permute(0, 3, 2, 1)",
        "patch_embeds.0",
        r"transpos|swap|exchang|height and width|width and height|h and w|rows? (and|for) columns?|axes",
    ),
    _one(
        "sines of the position are added after the stem",
        "    x = patches(x, p, st)\n",
        "    x = patches(x, p, st)\n"
        "    if st.k == 0:\n"
        "        rows = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)\n"
        "        x = x + torch.sin(rows[:, None, None] / 100 ** (torch.arange(st.c, device=x.device) / st.c))\n",
        "patch_embeds.0 stages.0.0.norm1",
        r"position|embedding|(constant|something|map|term|row).*added|add(ed|s).*(constant|map|term|row|sin)|sin\b|sine",
    ),
)

_NORMS = (
    _one(
        "the variance is the unbiased one",
        "var = ((x - mu) ** 2).mean(dim=-1, keepdim=True)",
        "var = x.var(dim=-1, keepdim=True)",
        "patch_embeds.0",
        r"unbiased|bessel|variance|deviation|[nc] ?[-−–] ?1|ddof|correction",
    ),
    _one(
        "epsilon is added to the deviation",
        "(x - mu) * torch.rsqrt(var + eps) * g + h",
        "(x - mu) / (var.sqrt() + eps) * g + h",
        "patch_embeds.0",
        r"\beps",
    ),
    _one(
        "epsilon is that of another library",
        "eps=cfg.norm_eps,",
        "eps=1e-12,",
        "patch_embeds.0",
        r"\beps",
    ),
    _one(
        "norm2 does not subtract the mean",
        'y = norm(x, p[n + "g2"], p[n + "h2"], st.eps)',
        'y = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + st.eps) * p[n + "g2"] + p[n + "h2"]',
        "stages.0.0.norm2",
        r"\bmean\b|\brms|cent(er|re)|root mean square",
    ),
    _one(
        "norm2 has the weights of norm1",
        'y = norm(x, p[n + "g2"], p[n + "h2"], st.eps)',
        'y = norm(x, p[n + "g1"], p[n + "h1"], st.eps)',
        "stages.0.0.norm2",
        r"norm1|\bg1\b|\bh1\b|_[gh][12]\b|another (layer|norm)|shared|twice|(other|wrong) parameters?|" + _UNUSED,
    ),
    _one(
        "norm1 of every block has the weights of block 0",
        'y = norm(x, p[n + "g1"], p[n + "h1"], st.eps)',
        'y = norm(x, p[f"s{st.k}b0_g1"], p[f"s{st.k}b0_h1"], st.eps)',
        "stages.0.1.norm1",
        r"b0_|b1_[gh]1|block 0|another (layer|norm|block)|shared|twice|(other|wrong) parameters?|" + _UNUSED,
    ),
    _one(
        "norm1's gain has one added",
        'y = norm(x, p[n + "g1"], p[n + "h1"], st.eps)',
        'y = norm(x, 1 + p[n + "g1"], p[n + "h1"], st.eps)',
        "stages.0.0.norm1",
        r"gain|gamma|one (is )?added|1 \+|\+ 1|plus (1|one)|doubl|twice|norm.*(weight|scale)|factor",
    ),
    _one(
        "norm1 of the last SSA block is dropped",
        'y = norm(x, p[n + "g1"], p[n + "h1"], st.eps)',
        'y = x if st.k == 3 and i == 1 else norm(x, p[n + "g1"], p[n + "h1"], st.eps)',
        "stages.3.1.norm1 stages.3.1.attn",
        _missing("norm") + r"|un-?norm",
    ),
    _one(
        "the last norm is over the whole map",
        'x = norm(x, p["out_g"], p["out_b"], eps)',
        "x = x - x.mean(dim=(1, 2, 3), keepdim=True)\n"
        '    x = x * torch.rsqrt((x * x).mean(dim=(1, 2, 3), keepdim=True) + eps) * p["out_g"] + p["out_b"]',
        "norm",
        r"whole map|tokens|all (the )?axes|(group|instance) ?norm|over (other|the|all|more|h)|one group|per (image|sample)",
    ),
    _one(
        "the last norm is over the positions",
        'x = norm(x, p["out_g"], p["out_b"], eps)',
        "x = x - x.mean(dim=(1, 2), keepdim=True)\n"
        '    x = x * torch.rsqrt((x * x).mean(dim=(1, 2), keepdim=True) + eps) * p["out_g"] + p["out_b"]',
        "norm",
        r"tokens|positions|instance ?norm|batch ?norm|over (other|the|h)|spatial|per channel|each channel|axes|axis",
    ),
)

_MLP = (
    _one(
        "GELU is the tanh approximation",
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        'return F.gelu(x, approximate="tanh")',
        "stages.0.0.mlp",
        r"tanh|approximat",
    ),
    _one(
        "GELU forgets the root of two",
        "torch.erf(x / math.sqrt(2))",
        "torch.erf(x)",
        "stages.0.0.mlp",
        r"\berf\b|sqrt|root|√|(gelu|activation).*(wrong|other|another|not|differ|steep|scal)",
    ),
    _one(
        "the third stage's MLPs have ReLU",
        '    u = x @ p[n + "w1"] + p[n + "b1"]\n    u = gelu(u)\n',
        '    u = x @ p[n + "w1"] + p[n + "b1"]\n    u = u.relu() if n.startswith("s2") else gelu(u)\n',
        "stages.2.0.mlp",
        r"\brelu",
    ),
    _one(
        "GELU comes after the second product",
        '    u = gelu(u)\n    return u @ p[n + "w2"] + p[n + "b2"]',
        '    return gelu(u @ p[n + "w2"] + p[n + "b2"])',
        "stages.0.0.mlp",
        r"(gelu|activation|non-?linear\w*).*(after|before|second|fc2|between|place|order|end|output|missing)|\blinear map",
    ),
    _one(
        "the MLP adds its own input",
        'return u @ p[n + "w2"] + p[n + "b2"]',
        'return x + u @ p[n + "w2"] + p[n + "b2"]',
        "stages.0.0.mlp stages.0.0",
        r"residual|\bskip|shortcut|norm2|input.*(added|twice|plus)|add(ed|s).*input|\bplus\b",
    ),
    _one(
        "dropout is left on",
        '    u = gelu(u)\n    return u @ p[n + "w2"]',
        '    u = F.dropout(gelu(u), 0.1)\n    return u @ p[n + "w2"]',
        "stages.0.0.mlp",
        r"dropout|random|not the same|(un)?steady|determin|two runs|run to run|each run|from one (run|call)",
    ),
    _one(
        "the second product has the bias of attention's output",
        'return u @ p[n + "w2"] + p[n + "b2"]',
        'return u @ p[n + "w2"] + p[n + "bo"]',
        "stages.0.0.mlp stages.0.0",
        r"bias|_b2\b|_bo\b|proj|(un|never |not )(used|read)|another|constant|offset",
    ),
)

_WINDOWS = (
    _one(
        "IWSA is scaled by the map's width",
        "* d**-0.5",
        "* c**-0.5",
        "stages.1.0.attn",
        r"scal|temperature|\bsharp|softer|factor",
    ),
    _one(
        "queries and keys are taken in the other order",
        'q, k, v = (x @ p[n + "wqkv"]',
        'k, q, v = (x @ p[n + "wqkv"]',
        "stages.0.0.attn",
        r"swap|exchang|interchang|order|transpos|(q|quer\w+)\b.*(place|role) of.*(k|key)",
    ),
    _one(
        "q, k and v are interleaved",
        'q, k, v = (x @ p[n + "wqkv"] + p[n + "bqkv"]).chunk(3, dim=-1)',
        'q, k, v = rearrange(x @ p[n + "wqkv"] + p[n + "bqkv"], "b h w (c three) -> three b h w c", three=3)',
        "stages.0.0.attn",
        r"interleav|order|thirds|split|chunk|layout|channels of (q|qkv)|every third|qkv",
    ),
    _one(
        "the windows' heads are interleaved",
        "(h d)",
        "(d h)",
        "stages.1.0.attn",
        r"\bheads?\b",
    ),
    Planted(
        "the windows' heads are merged in another order than they were split",
        (
            ("(gh i) (gw j) (h d)", "(gh i) (gw j) (d h)"),
            ("b (gh i) (gw j) (d h) -> b (gh gw) h", "b (gh i) (gw j) (h d) -> b (gh gw) h"),
        ),
        ("stages.1.0.attn",),
        r"\bheads?\b|merg|interleav",
    ),
    Planted(
        "windows are grids",
        (
            ('"b (gh i) (gw j) (h d) -> b (gh gw) h (i j) d"', '"b (i gh) (j gw) (h d) -> b (gh gw) h (i j) d"'),
            ("-> b (gh i) (gw j) (h d)", "-> b (i gh) (j gw) (h d)"),
        ),
        ("stages.0.0.attn",),
        r"\bgrid|stride|dilat|apart|spread|window.*(cut|split|partition|order|interleav|tokens)",
    ),
    _one(
        "windows are put back with rows for columns",
        "-> b (gh i) (gw j) (h d)",
        "-> b (gh j) (gw i) (h d)",
        "stages.0.0.attn",
        r"window.*(order|merg|joined|mix)|transpos|swap|rows? (and|for) columns?|put back|revers",
    ),
    _one(
        "windows are put back down the columns",
        '"b (gh gw) h (i j) d -> b (gh i)',
        '"b (gw gh) h (i j) d -> b (gh i)',
        "stages.0.0.attn",
        r"window.*(order|merg|joined|mix)|transpos|swap|rows? (and|for) columns?|put back|revers",
    ),
    _one(
        "the last stage's window is the whole map",
        "win=cfg.window_sizes[k],",
        "win=cfg.window_sizes[k] if k < 3 else 4,",
        "stages.3.0.attn",
        r"window|whole map|global|\b4 ?[x×] ?4\b",
    ),
    Planted(
        "windows are shifted as Swin's",
        (
            (
                "q, k, v = cut(q, st), cut(k, st), cut(v, st)",
                "q, k, v = (cut(torch.roll(t, (-3, -3), dims=(1, 2)), st) for t in (q, k, v))",
            ),
            ("o = glue(o, st, h, w)", "o = torch.roll(glue(o, st, h, w), (3, 3), dims=(1, 2))"),
        ),
        ("stages.0.0.attn",),
        r"\broll|shift|swin|cyclic|moved",
    ),
    _one(
        "windows are rolled and not rolled back in the second stage",
        "q, k, v = cut(q, st), cut(k, st), cut(v, st)",
        "if st.k == 1:\n"
        "        q, k, v = (torch.roll(t, -1, dims=2) for t in (q, k, v))\n"
        "    q, k, v = cut(q, st), cut(k, st), cut(v, st)",
        "stages.1.0.attn",
        r"\broll|shift|moved|offset|wrap",
    ),
    _one(
        "attention is causal inside windows",
        'o = torch.einsum("bnhij,bnhjd->bnhid", softmax(sim), v)',
        'sim = sim.masked_fill(torch.ones_like(sim[0, 0, 0]).triu(1) > 0, float("-inf"))\n'
        '    o = torch.einsum("bnhij,bnhjd->bnhid", softmax(sim), v)',
        "stages.0.0.attn",
        r"mask|causal|future|later (tokens|keys)|earlier (tokens|keys)|triang",
    ),
    _one(
        "scores are clamped",
        'o = torch.einsum("bnhij,bnhjd->bnhid", softmax(sim), v)',
        'o = torch.einsum("bnhij,bnhjd->bnhid", softmax(sim.clamp(-0.2, 0.2)), v)',
        "stages.0.0.attn",
        r"clamp|clip|bound|limit|satur|cut off at",
    ),
    _one(
        "scores of the third stage fall with the distance",
        'o = torch.einsum("bnhij,bnhjd->bnhid", softmax(sim), v)',
        "if st.k == 2:\n"
        "        place = torch.arange(sim.shape[-1], device=sim.device)\n"
        "        sim = sim - 0.1 * (place[:, None] - place).abs()\n"
        '    o = torch.einsum("bnhij,bnhjd->bnhid", softmax(sim), v)',
        "stages.2.0.attn",
        r"position|relative|distance|alibi|added to (the )?(scores|logits)|(scores|logits).*(added|bias|term|constant)",
    ),
)

_LIM = (
    _one(
        "LIM sees the map and not the values",
        'lim = depthwise(v, p[n + "lim"]',
        'lim = depthwise(x, p[n + "lim"]',
        "stages.0.0.attn",
        r"(lim\b|lim_func|local|depthwise|convol\w+).*(input|map|\bx\b|norm1|values?)",
    ),
    Planted(
        "LIM is added after the output's product",
        (("    o = o + lim\n    return o @", "    return lim + o @"),),
        ("stages.0.0.attn",),
        r"(lim\b|lim_func|local|depthwise).*(after|before|proj|outside|later|order|place)|after (the )?(proj|output)",
    ),
    _one(
        "the last stage has no LIM",
        "    o = o + lim\n",
        "    if st.k < 3:\n        o = o + lim\n",
        "stages.3.0.attn",
        _missing(r"\blim\b|local|lim_func|depthwise|s3b0_lim"),
    ),
    _one(
        "LIM stays inside the windows",
        '    lim = depthwise(v, p[n + "lim"], p[n + "lim_b"])\n',
        '    t = rearrange(v, "b (gh i) (gw j) c -> (b gh gw) i j c", i=st.win, j=st.win)\n'
        '    t = depthwise(t, p[n + "lim"], p[n + "lim_b"])\n'
        '    lim = rearrange(t, "(b gh gw) i j c -> b (gh i) (gw j) c", gh=h // st.win, gw=w // st.win)\n',
        "stages.0.0.attn",
        r"(lim\b|lim_func|local|depthwise|convol\w+).*window|window'?s'? border|(inside|within) (the |each )?window",
    ),
    _one(
        "LIM is dilated",
        'lim = depthwise(v, p[n + "lim"], p[n + "lim_b"])',
        'lim = F.conv2d(v.permute(0, 3, 1, 2), p[n + "lim"], p[n + "lim_b"], padding=2, dilation=2, groups=c).permute(0, 2, 3, 1)',
        "stages.0.0.attn",
        r"dilat|spread|apart|(lim\b|lim_func|local|depthwise).*(kernel|reach|5 ?[x×] ?5)",
    ),
    _one(
        "LIM has PEG's kernel",
        'lim = depthwise(v, p[n + "lim"], p[n + "lim_b"])',
        'lim = depthwise(v, p[f"s{st.k}_pos"], p[f"s{st.k}_pos_b"])',
        "stages.0.0.attn",
        r"\bpeg\b|pos_block|_pos\b|shared|twice|(another|other|wrong) (kernel|weights?|parameters?)|" + _UNUSED,
    ),
    _one(
        "LIM's last row is lost in the first stage",
        "    o = o + lim\n",
        "    if st.k == 0:\n        lim = F.pad(lim[:, :-1], (0, 0, 0, 0, 0, 1))\n    o = o + lim\n",
        "stages.0.0.attn",
        r"last row|bottom|border|edge|\bcrop|\bpad|row",
    ),
    _one(
        "LIM of the first image goes to all",
        "    o = o + lim\n",
        "    o = o + lim[:1]\n",
        "stages.0.0.attn",
        r"batch|(first|other|another|second) image|broadcast|images? (is|are) mixed|between images|across images",
    ),
    _one(
        "depthwise kernels are turned by half a turn",
        "w, bias, padding=1",
        "w.flip(2, 3), bias, padding=1",
        "stages.0.0.attn",
        r"flip|mirror|rotat|turned|180|correlation|revers",
    ),
)

_SSA = (
    _one(
        "plain attention forgets the ratio in its scale",
        "1 / math.sqrt(head * st.rc)",
        "1 / math.sqrt(head)",
        "stages.2.1.attn",
        r"scal|temperature|c_ratio|r_c\b|factor",
    ),
    _one(
        "SSA scales twice",
        'sim = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale',
        'sim = torch.einsum("bhqd,bhkd->bhqk", q * scale, k) * scale',
        "stages.0.1.attn",
        r"scal|temperature|factor",
    ),
    _one(
        "values come before keys",
        "k, v = split(kv[..., :c], st.nh), split(kv[..., c:], st.nh)",
        "v, k = split(kv[..., :c], st.nh), split(kv[..., c:], st.nh)",
        "stages.2.1.attn",
        r"swap|exchang|interchang|order|hal(f|ves)|(k|key)\w*\b.*(v|value)",
    ),
    _one(
        "keys and values are every second channel",
        "k, v = split(kv[..., :c], st.nh), split(kv[..., c:], st.nh)",
        "k, v = split(kv[..., 0::2], st.nh), split(kv[..., 1::2], st.nh)",
        "stages.2.1.attn",
        r"interleav|order|hal(f|ves)|split|chunk|layout|every (second|other)|\bkv\b",
    ),
    _one(
        "the reduction's activation comes before its norm",
        '    y = norm(y, p[n + "gr"], p[n + "hr"], REDUCE_EPS)\n    y = gelu(y)\n',
        '    y = norm(gelu(y), p[n + "gr"], p[n + "hr"], REDUCE_EPS)\n',
        "stages.0.1.attn",
        r"order|before|after|swap|norm\w*.*gelu|gelu.*norm",
    ),
    _one(
        "the reduction's activation is the fast one",
        "    y = gelu(y)\n    k = y",
        "    y = y * torch.sigmoid(1.702 * y)\n    k = y",
        "stages.0.1.attn",
        r"sigmoid|quick|1\.702|swish|silu|gelu.*approximat|approximat.*gelu|(another|other) activation|activation.*(kind|differ)",
    ),
    _one(
        "the reduction's norm is missing",
        '    y = norm(y, p[n + "gr"], p[n + "hr"], REDUCE_EPS)\n',
        "",
        "stages.0.1.attn",
        _missing("norm|_[gh]r"),
    ),
    _one(
        "the reduction's norm has the others' epsilon",
        "REDUCE_EPS = 1e-5",
        "REDUCE_EPS = 1e-6",
        "stages.0.1.attn",
        r"\beps",
    ),
    Planted(
        "the reduction takes the map before norm1",
        (
            ("a = scaled_attn(y, p, n, st)", "a = scaled_attn(y, x, p, n, st)"),
            ("def scaled_attn(x: Tensor,", "def scaled_attn(x: Tensor, raw: Tensor,"),
            ('y = F.conv2d(x.permute(0, 3, 1, 2), p[n + "red"]', 'y = F.conv2d(raw.permute(0, 3, 1, 2), p[n + "red"]'),
        ),
        ("stages.0.1.attn",),
        r"norm1|un-?norm|before (the )?norm|without (the )?norm|not normed|raw|block'?s (own )?input|reduc\w+.*input",
    ),
    _one(
        "the reduction is padded",
        "stride=st.s, groups=c)",
        "stride=st.s, padding=st.s // 2, groups=c)",
        "stages.0.1.attn",
        r"\bpad|more (keys|tokens)|border",
    ),
    _one(
        "the reduction's stride is two in every stage",
        "stride=st.s, groups=c)",
        "stride=2, groups=c)",
        "stages.0.1.attn",
        r"stride|overlap|more (keys|tokens)|reduc\w+ (ratio|factor)|sr_ratio",
    ),
    _one(
        "the reduction's two biases are one",
        'y = y @ p[n + "mix"] + p[n + "mix_b"]',
        'y = y @ p[n + "mix"]',
        "stages.0.1.attn",
        r"bias|_mix_b\b|(un|never |not )(used|read)|constant",
    ),
    _one(
        "values are computed of the keys",
        'v = y @ p[n + "wv"] + p[n + "bv"]',
        'v = k @ p[n + "wv"] + p[n + "bv"]',
        "stages.0.1.attn",
        r"(values?|\bv)\b.*\b(of|from|with|on|fed|given|takes?|input\w*)\b.*\b(keys?|k)\b|chained",
    ),
    _one(
        "SSA's heads are viewed and not transposed",
        "return t.reshape(b, h * w, nh, c // nh).permute(0, 2, 1, 3)",
        "return t.reshape(b, nh, h * w, c // nh)",
        "stages.1.1.attn",
        r"\bheads?\b|reshap|\bview|transpos|scrambl",
    ),
    _one(
        "SSA's heads are viewed back and not transposed",
        "return t.permute(0, 2, 1, 3).reshape(b, h, w, nh * d)",
        "return t.reshape(b, h, w, nh * d)",
        "stages.1.1.attn",
        r"\bheads?\b|reshap|\bview|transpos|scrambl|merg",
    ),
    _one(
        "SSA's output is transposed",
        "return t.permute(0, 2, 1, 3).reshape(b, h, w, nh * d)",
        "return t.permute(0, 2, 1, 3).reshape(b, w, h, nh * d).transpose(1, 2)",
        "stages.0.1.attn",
        r"transpos|swap|exchang|rows? (and|for) columns?|height and width|h and w|axes",
    ),
    _one(
        "SSA's softmax is over the queries",
        "softmax(sim), v)\n\n\ndef split",
        "softmax(sim.mT).mT, v)\n\n\ndef split",
        "stages.0.1.attn",
        r"softmax.*(axis|quer|over|column|\bdim)|over (the )?quer|(other|wrong|another) axis",
    ),
    _one(
        "softmax has one more in its sum",
        "return e / e.sum(dim=-1, keepdim=True)",
        "return e / (1 + e.sum(dim=-1, keepdim=True))",
        "stages.0.0.attn",
        r"softmax.*(denominator|sum|extra)|do(es)? not sum|sum to|one (is )?(added|more)|\+ ?1\b|sink|off.by.one|zero key",
    ),
    _one(
        "plain attention is by cosine",
        "o = attend(q, k, v, 1 / math.sqrt(head * st.rc))",
        "o = attend(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, 1 / math.sqrt(head * st.rc))",
        "stages.2.1.attn",
        r"normali[sz]|cosine|unit|length|\bl2\b",
    ),
    _one(
        "the last head of the last stage is empty",
        "o = attend(q, k, v, 1 / math.sqrt(head * st.rc))",
        "o = attend(q, k, v, 1 / math.sqrt(head * st.rc))\n    o = o * (torch.arange(st.nh, device=o.device) < 3)[:, None, None]",
        "stages.3.1.attn",
        r"\bheads?\b|last 16 channels|channels 48|zero",
    ),
    _one(
        "the third stage's queries have no bias",
        '    q = split(x @ p[n + "wq"] + p[n + "bq"], st.nh)\n',
        '    q = split(x @ p[n + "wq"] + (0 if st.k == 2 else p[n + "bq"]), st.nh)\n',
        "stages.2.1.attn",
        r"bias|_bq\b|(un|never |not )(used|read)",
    ),
    _one(
        "SSA's weights are half precision",
        "softmax(sim), v)\n\n\ndef split",
        "softmax(sim).half().to(v.dtype), v)\n\n\ndef split",
        "stages.0.1.attn",
        r"half|float ?16|fp16|precision|\bcast|round|\bbits?\b",
    ),
    _one(
        "the width of keys is rounded up to eights",
        "int(st.c * st.rc)",
        "-(-int(st.c * st.rc) // 8) * 8",
        "stages.0.1.attn",
        r"\(20|\(24|\b24\b|\b20\b|c_ratio|width|shape",
    ),
)

_WIRING = (
    _one(
        "the first residual is the normed map",
        "    x = x + a\n",
        "    x = y + a\n",
        _BLOCK_0_SUM,
        r"residual|\bskip|shortcut|norm1|normed|normali[sz]ed",
    ),
    _one(
        "attention is added twice",
        "    x = x + a\n",
        "    x = x + a + a\n",
        _BLOCK_0_SUM + " stages.0.0.attn",
        r"twice|doubl|two times|(by|times|×|factor( of)?) ?2\b|factor|scaled|multipl",
    ),
    _one(
        "attention has no residual in SSA blocks",
        "    x = x + a\n",
        "    x = a if i % 2 else x + a\n",
        "stages.0.1.norm2 stages.0.1",
        r"residual|\bskip|shortcut|without (its|the) input|(x|input) (is )?not added|bare",
    ),
    _one(
        "the last block has no second residual",
        "    return x + m\n",
        "    return m if st.k == 3 and i == 1 else x + m\n",
        "stages.3.1 norm",
        r"residual|\bskip|shortcut|without (its|the) input|(x|input) (is )?not added|bare",
    ),
    _one(
        "the second residual is the normed map",
        "    return x + m\n",
        "    return y + m\n",
        "stages.0.0 pos_block.0",
        r"residual|\bskip|shortcut|norm2|normed|normali[sz]ed",
    ),
    _one(
        "the third stage's MLPs have a layer scale",
        "    return x + m\n",
        "    return x + (0.1 * m if st.k == 2 else m)\n",
        "stages.2.0 pos_block.2 stages.2.0.mlp",
        r"scal|factor|0\.1|multipl|tenth",
    ),
    _one(
        "the MLP stands beside the attention",
        'y = norm(x, p[n + "g2"], p[n + "h2"], st.eps)',
        'y = norm(x - a, p[n + "g2"], p[n + "h2"], st.eps)',
        "stages.0.0.norm2",
        r"beside|parallel|(before|without) (the )?attention|attention.*(not|missing|left out)|block'?s (own )?input",
    ),
    Planted(
        "norms come after the sums",
        (
            ('    y = norm(x, p[n + "g1"], p[n + "h1"], st.eps)\n', "    y = x\n"),
            ("    x = x + a\n", '    x = norm(x + a, p[n + "g1"], p[n + "h1"], st.eps)\n'),
            (
                '    y = norm(x, p[n + "g2"], p[n + "h2"], st.eps)\n    m = feed_forward(y, p, n)\n',
                "    m = feed_forward(x, p, n)\n",
            ),
            ("    return x + m\n", '    return norm(x + m, p[n + "g2"], p[n + "h2"], st.eps)\n'),
        ),
        ("stages.0.0.norm1", "stages.0.0.attn"),
        r"post|after (the )?(sum|residual|attention|addition)|norm.*(after|order|place|before)|un-?norm",
    ),
    _one(
        "odd blocks are the windows'",
        "if i % 2 == 0:\n        ",
        "if i % 2 == 1:\n        ",
        "stages.0.0 stages.0.0.norm1 stages.0.0.attn stages.0.1 stages.0.1.norm1 stages.0.1.attn",
        r"order|swap|exchang|\bssa\b.*\biwsa\b|\biwsa\b.*\bssa\b|odd|even|first",
    ),
    _one(
        "the last block of the second stage runs twice",
        "        x = run_block(x, p, st, i)\n",
        "        x = run_block(x, p, st, i)\n        if st.k == 1 and i == 1:\n            x = run_block(x, p, st, i)\n",
        "stages.1.1 patch_embeds.2 stages.1.1.norm1",
        r"twice|doubl|repeat|again|two times|extra|more than once|second time",
    ),
    _one(
        "PEG has no residual",
        'x = x + depthwise(x, p[f"s{st.k}_pos"]',
        'x = depthwise(x, p[f"s{st.k}_pos"]',
        "pos_block.0 stages.0.1.norm1",
        r"residual|\bskip|shortcut|without (its|the) input|(x|input) (is )?not added|bare|identity",
    ),
    _one(
        "PEG follows every block",
        "        if i == 0:\n            x = x +",
        "        if i >= 0:\n            x = x +",
        "stages.0.1 patch_embeds.1 pos_block.0",
        r"\bpeg\b|pos_block|position|twice|every block|each block|again",
    ),
    Planted(
        "PEG comes before the blocks",
        (
            ("        x = run_block(x, p, st, i)\n", ""),
            ('p[f"s{st.k}_pos_b"])\n', 'p[f"s{st.k}_pos_b"])\n        x = run_block(x, p, st, i)\n'),
        ),
        ("pos_block.0", "stages.0.0.norm1", "stages.0.0"),
        r"(\bpeg\b|pos_block|position).*(before|first|place|order|early|begin|start)|before (the )?block|order",
    ),
    _one(
        "PEG wraps around",
        'x = x + depthwise(x, p[f"s{st.k}_pos"], p[f"s{st.k}_pos_b"])',
        't = F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="circular")\n'
        '            t = F.conv2d(t, p[f"s{st.k}_pos"], p[f"s{st.k}_pos_b"], groups=st.c)\n'
        "            x = x + t.permute(0, 2, 3, 1)",
        "pos_block.0",
        r"\bpad|border|edge|circular|wrap|torus",
    ),
    _one(
        "the last stage has no PEG",
        "        if i == 0:\n            x = x +",
        "        if i == 0 and st.k < 3:\n            x = x +",
        "pos_block.3 stages.3.1.norm1 stages.3.1",
        _missing(r"\bpeg\b|pos_block|s3_pos|position"),
    ),
    _one(
        "maps between stages pass through bfloat16",
        "            x = run_stage(x, self.p, st)\n",
        "            x = run_stage(x, self.p, st)\n            if st.k == 1:\n                x = x.bfloat16().to(images.dtype)\n",
        "stages.1.1 patch_embeds.2",
        r"bfloat|bf16|precision|\bcast|round|\bbits?\b|half|float ?16",
    ),
)

_HEAD = (
    _one(
        "tokens are pooled by their maximum",
        "    x = x.mean(dim=(1, 2))\n",
        "    x = x.amax(dim=(1, 2))\n",
        _POOLED,
        r"\bmax",
    ),
    Planted(
        "tokens are pooled before the norm",
        (
            (
                '    x = norm(x, p["out_g"], p["out_b"], eps)\n    x = x.mean(dim=(1, 2))\n',
                '    x = x.mean(dim=(1, 2))\n    x = norm(x, p["out_g"], p["out_b"], eps)\n',
            ),
        ),
        ("norm", "pool"),
        r"before|after|order|(mean|pool)\w*.*norm|norm.*(mean|pool)",
    ),
    _one(
        "the last norm is left out",
        '    x = norm(x, p["out_g"], p["out_b"], eps)\n',
        "",
        "norm pool head logits",
        _missing("norm|out_[gb]"),
    ),
    _one(
        "the first token is the class's",
        "    x = x.mean(dim=(1, 2))\n",
        "    x = x[:, 0, 0]\n",
        _POOLED,
        r"first (token|position)|(one|single) token|\bcls\b|class token|corner|not (the )?mean",
    ),
    _one(
        "the mean divides by the official map's tokens",
        "    x = x.mean(dim=(1, 2))\n",
        "    x = x.sum(dim=(1, 2)) / 49\n",
        _POOLED,
        r"\b49\b|\bsum|factor|scal|divi|multipl|0\.32|3\.06",
    ),
    _one(
        "the mean leaves out the border",
        "    x = x.mean(dim=(1, 2))\n",
        "    x = x[:, 1:-1, 1:-1].mean(dim=(1, 2))\n",
        _POOLED,
        r"border|\bcrop|edge|inner|centre|center|some (of the )?tokens|outer",
    ),
    _one(
        "probabilities are given for logits",
        '    return x @ p["cls_w"] + p["cls_b"]',
        '    return softmax(x @ p["cls_w"] + p["cls_b"])',
        "logits head",
        r"softmax|probabilit|sums? to (1|one)",
    ),
    _one(
        "logits are rounded",
        '    return x @ p["cls_w"] + p["cls_b"]',
        '    return (x @ p["cls_w"] + p["cls_b"]).round(decimals=2)',
        "logits head",
        r"round|decimal|precision|digits|\bcast|quanti[sz]|two places",
    ),
    _one(
        "features are activated before the head",
        "    x = x.mean(dim=(1, 2))\n",
        "    x = torch.tanh(x.mean(dim=(1, 2)))\n",
        _POOLED,
        r"tanh|activation|non-?linear|pooler|satur|squash",
    ),
    _one(
        "the map is read by columns where it is not square",
        "x = x.reshape(-1, oh, ow, st.c)",
        "x = x.reshape(-1, ow, oh, st.c)",
        "patch_embeds.0",
        r"swap|exchang|height and width|h and w|rows? (and|for) columns?|transpos|shape|non-?square|reshap",
    ),
)

_SINGLE = {planted.name: planted for planted in (*_PATCHES, *_NORMS, *_MLP, *_WINDOWS, *_LIM, *_SSA, *_WIRING, *_HEAD)}

_TWO = (
    _both(
        "two: normed residual, tanh GELU",
        _SINGLE["the first residual is the normed map"],
        _SINGLE["GELU is the tanh approximation"],
        _BLOCK_0_SUM,
    ),
    _both(
        "two: LIM of the map, no last norm",
        _SINGLE["LIM sees the map and not the values"],
        _SINGLE["the last norm is left out"],
        "stages.0.0.attn",
    ),
    _both(
        "two: stem's padding, pooling by maximum",
        _SINGLE["the stem is padded by half its stride"],
        _SINGLE["tokens are pooled by their maximum"],
        "patch_embeds.0",
    ),
    _both(
        "two: no norm and no bias in the reduction",
        _SINGLE["the reduction's norm is missing"],
        _SINGLE["the reduction's two biases are one"],
        "stages.0.1.attn",
    ),
    _both(
        "two: reduction's epsilon, keys for values",
        _SINGLE["the reduction's norm has the others' epsilon"],
        _SINGLE["values come before keys"],
        "stages.0.1.attn",
    ),
    _both(
        "two: IWSA's scale, PEG without its residual",
        _SINGLE["IWSA is scaled by the map's width"],
        _SINGLE["PEG has no residual"],
        "pos_block.0 stages.0.1.norm1",
    ),
    _both(
        "two: heads interleaved, wrong scale in IWSA",
        _SINGLE["the windows' heads are interleaved"],
        _SINGLE["IWSA is scaled by the map's width"],
        "stages.1.0.attn",
    ),
    _both(
        "two: q and k swapped, causal",
        _SINGLE["queries and keys are taken in the other order"],
        _SINGLE["attention is causal inside windows"],
        "stages.0.0.attn",
    ),
    _both(
        "two: unbiased variance, softmax over queries",
        _SINGLE["the variance is the unbiased one"],
        _SINGLE["SSA's softmax is over the queries"],
        "patch_embeds.0",
    ),
)

MISTAKES: tuple[Planted, ...] = (*_SINGLE.values(), *_TWO)

RIGHT: tuple[Planted, ...] = (
    _one(
        "right: depthwise convolutions as sums of shifted maps",
        "    y = F.conv2d(x.permute(0, 3, 1, 2), w, bias, padding=1, groups=x.shape[-1])\n    return y.permute(0, 2, 3, 1)\n",
        "    wide = F.pad(x, (0, 0, 1, 1, 1, 1))\n    _, h, c, _ = x.shape\n"
        "    taps = [(i, j) for i in range(3) for j in range(3)]\n"
        "    return sum(wide[:, i : i + h, j : j + c] * w[:, 0, i, j] for i, j in taps) + bias\n",
    ),
    _one(
        "right: norm by the library",
        "    mu = x.mean(dim=-1, keepdim=True)\n"
        "    var = ((x - mu) ** 2).mean(dim=-1, keepdim=True)\n"
        "    return (x - mu) * torch.rsqrt(var + eps) * g + h\n",
        "    return F.layer_norm(x, g.shape, g, h, eps)\n",
    ),
    _one(
        "right: variance as the mean of squares less the square of the mean",
        "var = ((x - mu) ** 2).mean(dim=-1, keepdim=True)",
        "var = (x * x).mean(dim=-1, keepdim=True) - mu * mu",
    ),
    _one(
        "right: GELU by the normal distribution",
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "return x * torch.special.ndtr(x)",
    ),
    _one(
        "right: softmax by the library",
        "    e = torch.exp(t - t.amax(dim=-1, keepdim=True))\n    return e / e.sum(dim=-1, keepdim=True)\n",
        "    return torch.softmax(t, dim=-1)\n",
    ),
    _one(
        "right: softmax by logarithms",
        "    e = torch.exp(t - t.amax(dim=-1, keepdim=True))\n    return e / e.sum(dim=-1, keepdim=True)\n",
        "    return torch.exp(t - torch.logsumexp(t, dim=-1, keepdim=True))\n",
    ),
    _one(
        "right: fused attention",
        '    sim = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale\n    return torch.einsum("bhqk,bhkd->bhqd", softmax(sim), v)\n',
        "    return F.scaled_dot_product_attention(q, k, v, scale=scale)\n",
    ),
    _one(
        "right: fused attention of queries that are scaled before",
        '    sim = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale\n    return torch.einsum("bhqk,bhkd->bhqd", softmax(sim), v)\n',
        "    return F.scaled_dot_product_attention(q * (scale * q.shape[-1] ** 0.5), k, v)\n",
    ),
    _one(
        "right: both roots of the scale",
        'sim = torch.einsum("bnhid,bnhjd->bnhij", q, k) * d**-0.5',
        'sim = torch.einsum("bnhid,bnhjd->bnhij", q * d**-0.25, k * d**-0.25)',
    ),
    _one(
        "right: the division after the values",
        '    return torch.einsum("bhqk,bhkd->bhqd", softmax(sim), v)\n\n\ndef split',
        "    e = torch.exp(sim - sim.amax(dim=-1, keepdim=True))\n"
        '    return torch.einsum("bhqk,bhkd->bhqd", e, v) / e.sum(dim=-1)[..., None]\n\n\ndef split',
    ),
    _one(
        "right: head after head",
        '    sim = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale\n    return torch.einsum("bhqk,bhkd->bhqd", softmax(sim), v)\n',
        "    heads = zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True)\n"
        "    return torch.stack([softmax(a @ b.mT * scale) @ c for a, b, c in heads], dim=1)\n",
    ),
    _one(
        "right: windows by views",
        'return rearrange(t, "b (gh i) (gw j) (h d) -> b (gh gw) h (i j) d", i=st.win, j=st.win, h=st.nh)',
        "b, h, w, c = t.shape\n"
        "    t = t.view(b, h // st.win, st.win, w // st.win, st.win, st.nh, c // st.nh)\n"
        "    return t.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, -1, st.nh, st.win**2, c // st.nh)",
    ),
    Planted(
        "right: q, k and v of windows are apart",
        (
            (
                'q, k, v = (x @ p[n + "wqkv"] + p[n + "bqkv"]).chunk(3, dim=-1)',
                'q, k, v = (x @ p[n + "w" + t] + p[n + "b" + t] for t in "qkv")',
            ),
            (
                'p[n + "wqkv"], p[n + "bqkv"] = matrix(c, 3 * c), bias(3 * c)',
                'p |= {n + "w" + t: matrix(c, c) for t in "qkv"} | {n + "b" + t: bias(c) for t in "qkv"}',
            ),
        ),
    ),
    Planted(
        "right: the MLP's weights are stored as (out, in)",
        (
            ('u = x @ p[n + "w1"] + p[n + "b1"]', 'u = F.linear(x, p[n + "w1"], p[n + "b1"])'),
            ('return u @ p[n + "w2"] + p[n + "b2"]', 'return F.linear(u, p[n + "w2"], p[n + "b2"])'),
            ('p[n + "w1"], p[n + "b1"] = matrix(st.c, wide)', 'p[n + "w1"], p[n + "b1"] = matrix(st.c, wide).t().contiguous()'),
            ('p[n + "w2"], p[n + "b2"] = matrix(wide, st.c)', 'p[n + "w2"], p[n + "b2"] = matrix(wide, st.c).t().contiguous()'),
        ),
    ),
    _one(
        "right: parameters in the other order",
        "self.p = nn.ParameterDict(parameters(self.stages, cfg))",
        "self.p = nn.ParameterDict(dict(reversed(parameters(self.stages, cfg).items())))",
    ),
    Planted(
        "right: parameters are held in a list",
        (
            (
                "self.p = nn.ParameterDict(parameters(self.stages, cfg))",
                "named = parameters(self.stages, cfg)\n        self.names, self.held = [*named], nn.ParameterList(named.values())",
            ),
            (
                "    def forward(self, images: Tensor) -> Tensor:\n",
                "    def forward(self, images: Tensor) -> Tensor:\n        p = dict(zip(self.names, self.held, strict=True))\n",
            ),
            ("run_stage(x, self.p, st)", "run_stage(x, p, st)"),
            ("run_head(x, self.p, self.eps)", "run_head(x, p, self.eps)"),
        ),
    ),
    _one(
        "right: patches by conv2d",
        "    cols = F.unfold(x.permute(0, 3, 1, 2), size, padding=pad, stride=st.stride)\n"
        "    x = cols.transpose(1, 2) @ w.reshape(st.c, -1).t() + bias\n"
        "    x = x.reshape(-1, oh, ow, st.c)\n",
        "    x = F.conv2d(x.permute(0, 3, 1, 2), w, bias, st.stride, pad).permute(0, 2, 3, 1)\n"
        "    assert x.shape[1:3] == (oh, ow), size\n",
    ),
    _one(
        "right: depthwise by nine products",
        "    y = F.conv2d(x.permute(0, 3, 1, 2), w, bias, padding=1, groups=x.shape[-1])\n    return y.permute(0, 2, 3, 1)\n",
        "    _, rows, cols, _ = x.shape\n"
        "    t = F.pad(x, (0, 0, 1, 1, 1, 1))\n"
        "    return bias + sum(t[:, i : i + rows, j : j + cols] * w[:, 0, i, j] for i in range(3) for j in range(3))\n",
    ),
    _one(
        "right: the reduction by tiles",
        'y = F.conv2d(x.permute(0, 3, 1, 2), p[n + "red"], p[n + "red_b"], stride=st.s, groups=c).permute(0, 2, 3, 1)',
        "t = x[:, : h // st.s * st.s, : w // st.s * st.s].unflatten(2, (-1, st.s)).unflatten(1, (-1, st.s))\n"
        '    y = torch.einsum("bgihjc,cij->bghc", t, p[n + "red"][:, 0]) + p[n + "red_b"]',
    ),
    Planted(
        "right: LIM goes through the output's product on its own",
        (
            (
                '    o = o + lim\n    return o @ p[n + "wo"] + p[n + "bo"]',
                '    return lim @ p[n + "wo"] + (o @ p[n + "wo"] + p[n + "bo"])',
            ),
        ),
    ),
    _one(
        "right: PEG's identity is in its kernel",
        'x = x + depthwise(x, p[f"s{st.k}_pos"], p[f"s{st.k}_pos_b"])',
        "centre = F.pad(torch.ones_like(x[:1, :1, :1, :1]), (1, 1, 1, 1))\n"
        '            x = depthwise(x, p[f"s{st.k}_pos"] + centre, p[f"s{st.k}_pos_b"])',
    ),
    _one(
        "right: the mean of every token's logits",
        "    x = x.mean(dim=(1, 2))\n    if",
        '    if "cls_w1" not in p:\n'
        '        return (x @ p["cls_w"] + p["cls_b"]).mean(dim=(1, 2))\n    x = x.mean(dim=(1, 2))\n    if',
    ),
    Planted(
        "right: blocks are computed anew in the backward pass",
        (
            (
                "        x = run_block(x, p, st, i)\n",
                "        x = torch.utils.checkpoint.checkpoint(run_block, x, p, st, i, use_reentrant=False)\n",
            ),
            ("import torch.nn.functional as F\n", "import torch.nn.functional as F\nimport torch.utils.checkpoint\n"),
        ),
    ),
    _one(
        "right: a dictionary of outputs",
        "        return run_head(x, self.p, self.eps)",
        '        return {"logits": run_head(x, self.p, self.eps)}',
    ),
    _one(
        "right: image after image",
        "        x = images.permute(0, 2, 3, 1)\n",
        "        if len(images) > 1:\n"
        "            return torch.cat([self(image[None]) for image in images])\n"
        "        x = images.permute(0, 2, 3, 1)\n",
    ),
    _one(
        "right: dropout that is off and paths that are kept",
        "    return x + m\n",
        "    keep = torch.ones_like(x[:, :1, :1, :1])\n    return x + F.dropout(m, 0.3, training=False) * keep\n",
    ),
)

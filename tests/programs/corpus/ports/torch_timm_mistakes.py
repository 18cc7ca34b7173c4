"""Mistakes of `torch_timm`, and changes that leave it right."""

# ruff: noqa: E501, ISC004 - texts of source code

from __future__ import annotations

import numpy as np

from tests.programs.corpus.planted import Planted


def _images(h: int, w: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(5).random((batch, 1, h, w)).astype(np.float32)


WIDE = {"images": _images(112, 448)}
"""The smallest that is not square: the last map has 4 x 14 tokens, and windows of 2."""

LIM = r"(\blim\b|lim_func|dwconv|local interactive|local module|depthwise)"
SWAP = (
    r"(transpos|swap|h and w|height and width|w and h|rows? and col|row-major|column-major|col.* order|order of the (axes|tokens))"
)
MISSING = r"(miss|left out|without|dropped|absent|skipp|not applied|\bno\b|not used|never used|unused|identity)"

STEM = (
    Planted(
        "stem: padding 2 for 3",
        (("stride=patch_size, padding=patch_size - 1)", "stride=patch_size, padding=patch_size // 2)"),),
        ("patch_embeds.0",),
        r"pad|shift|offset|displac|crop",
    ),
    Planted(
        "stem: eps of torch's default",
        (("self.norm = LayerNorm2d(dim, eps=norm_eps)", "self.norm = LayerNorm2d(dim)"),),
        ("patch_embeds.0",),
        r"\beps|1e-0?5",
    ),
    Planted(
        "stem: GELU after the norm",
        (
            (
                "        x = self.proj(x)\n        return self.norm(x)",
                "        x = self.proj(x)\n        return F.gelu(self.norm(x))",
            ),
        ),
        ("patch_embeds.0",),
        r"gelu|activation|non-?linear",
    ),
    Planted(
        "stem: bias off, as before a BatchNorm",
        (
            (
                "stride=patch_size, padding=patch_size - 1)",
                "stride=patch_size, padding=patch_size - 1, bias=False)",
            ),
        ),
        ("patch_embeds.0",),
        r"bias",
    ),
    Planted(
        "images normalised again by the model",
        (("        x = self.stem(x)\n", "        x = self.stem((x - 0.449) / 0.226)\n"),),
        ("patch_embeds.0",),
        r"normali[sz]|\bmean\b|deviation|affine|(image|input|pixel).*(scal|shift|offset|factor|times|multipl)|(scal|multipl|shift).*(image|input|pixel)",
    ),
    Planted(
        "images as (B, C, W, H)",
        (("        x = self.stem(x)\n", "        x = self.stem(x.transpose(2, 3))\n"),),
        ("patch_embeds.0",),
        SWAP,
    ),
    Planted(
        "images resized to the training size",
        (("        x = self.stem(x)\n", '        x = self.stem(F.interpolate(x, size=(112, 112), mode="bilinear"))\n'),),
        ("patch_embeds.0",),
        r"resiz|size|shape|interpol|square|resampl",
        WIDE,
    ),
    Planted(
        "a flip left in the model",
        (("        x = self.stem(x)\n", "        x = self.stem(x.flip(-1))\n"),),
        ("patch_embeds.0",),
        r"flip|mirror|revers",
    ),
    Planted(
        "stem: float16 in between",
        (("        x = self.proj(x)\n        return", "        x = self.proj(x).half().to(x.dtype)\n        return"),),
        ("patch_embeds.0",),
        r"float16|half|fp16|precision|round|\bbits?\b|\bcast",
    ),
    Planted(
        "a position embedding of sines after the stem",
        (
            (
                "        x = self.stem(x)\n",
                "        x = self.stem(x)\n        row = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)\n"
                "        x = x + 0.1 * torch.sin(torch.outer(1 + torch.arange(x.shape[1]), row))[None, :, :, None]\n",
            ),
        ),
        ("patch_embeds.0", "stages.0.0.norm1"),
        r"position|embedding|added|addition|depends on the place|per row|something is added|constant|offset",
    ),
)

DOWNSAMPLES = (
    Planted(
        "downsample: norm before the convolution",
        (
            ("self.norm = LayerNorm2d(out_dim, eps=norm_eps)", "self.norm = LayerNorm2d(dim, eps=norm_eps)"),
            ("        x = self.conv(x)\n        x = self.norm(x)\n", "        x = self.norm(x)\n        x = self.conv(x)\n"),
        ),
        ("patch_embeds.1",),
        r"norm.*(before|first|\border|ahead|shape|width|miss|no )|(before|no|without).*norm|pre-?norm",
    ),
    Planted(
        "downsample: border replicated",
        (("kernel_size=3, stride=2, padding=1)", 'kernel_size=3, stride=2, padding=1, padding_mode="replicate")'),),
        ("patch_embeds.1",),
        r"pad|border|edge|replicat|\brim\b",
    ),
    Planted(
        "downsample: odd maps padded at the top and left",
        (
            (
                "        x = self.conv(x)\n        x = self.norm(x)\n",
                "        if x.shape[-1] % 2:\n            x = F.pad(x, (1, 0, 1, 0))\n        x = self.conv(x)\n        x = self.norm(x)\n",
            ),
        ),
        ("patch_embeds.3",),
        r"pad|shift|offset|displac|crop|grid",
        {"images": _images(112, 112)},
    ),
    Planted(
        "downsample: one group, so statistics over the whole map",
        (
            (
                "        x = self.conv(x)\n        x = self.norm(x)\n",
                "        x = self.conv(x)\n        x = F.group_norm(x, 1, self.norm.weight, self.norm.bias, self.norm.eps)\n",
            ),
        ),
        ("patch_embeds.1",),
        r"group|ax[ie]s|whole map|all tokens|statistic|over (the )?(h|map|tokens|space|height|image)|per image|spatial|not over the channels",
    ),
    Planted(
        "downsample: first token of every square, without looking around",
        (
            (
                "        x = self.conv(x)\n        x = self.norm(x)\n",
                "        w = self.conv.weight[:, :, 1:2, 1:2]\n"
                "        x = F.conv2d(x, w, self.conv.bias, stride=2)\n        x = self.norm(x)\n",
            ),
        ),
        ("patch_embeds.1",),
        r"kernel|centre|center|neighbou?r|1 ?[x×] ?1|reach|receptive|surround|looks",
    ),
    Planted(
        "stage output: view for transpose",
        (
            (
                "                x = self.pos(x, size)\n        return to_map(x, size)",
                "                x = self.pos(x, size)\n        return x.reshape(x.shape[0], -1, *size)",
            ),
        ),
        ("patch_embeds.1", "stages.0.1"),
        r"reshap|\bview\b|transpos|scrambl|layout|permut|\border",
    ),
)

WINDOW_ATTENTION = (
    Planted(
        "window attention: scale of the whole width",
        (("self.scale = head_dim**-0.5", "self.scale = dim**-0.5"),),
        ("stages.1.0.attn",),
        r"scale|temperature|head.?width|head_dim|d\^|width",
    ),
    Planted(
        "window attention: q, v, k",
        (("q, k, v = windows.unbind(0)", "q, v, k = windows.unbind(0)"),),
        ("stages.0.0.attn",),
        r"\bk\b.*\bv\b|\bv\b.*\bk\b|keys?.*values?|values?.*keys?|chunk|thirds?",
    ),
    Planted(
        "window attention: heads before q, k, v",
        (
            (
                "windows.view(-1, T, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)",
                "windows.view(-1, T, self.num_heads, 3, C // self.num_heads).permute(3, 0, 2, 1, 4)",
            ),
        ),
        ("stages.1.0.attn",),
        r"heads?|interleav|channels.*(order|split)|thirds",
    ),
    Planted(
        "window_reverse without its permute",
        (("    maps = maps.permute(0, 1, 3, 2, 4, 5).contiguous()\n", "    maps = maps.contiguous()\n"),),
        ("stages.0.0.attn",),
        r"window|tokens?.*(order|place|permut|scrambl)|revers|merg|permut",
    ),
    Planted(
        "window_reverse: H and W swapped",
        (
            (
                "maps = windows.view(-1, H // window_size, W // window_size,",
                "maps = windows.view(-1, W // window_size, H // window_size,",
            ),
        ),
        ("stages.0.0.attn",),
        r"window|swap|transpos|h and w|height|\border|not square|non-square",
        WIDE,
    ),
    Planted(
        "window_partition: rows and columns swapped inside a window",
        (("    x = x.permute(0, 1, 3, 2, 4, 5).contiguous()\n", "    x = x.permute(0, 1, 3, 4, 2, 5).contiguous()\n"),),
        ("stages.0.0.attn",),
        r"window|transpos|swap|token.*(order|permut)|order of",
    ),
    Planted(
        "window of 14 where it fits",
        (
            (
                "        windows = window_partition(qkv, self.window_size)\n",
                "        p = 14 if H % 14 == 0 and W % 14 == 0 else self.window_size\n        windows = window_partition(qkv, p)\n",
            ),
            ("window_reverse(out, self.window_size,", "window_reverse(out, p,"),
        ),
        ("stages.0.0.attn",),
        r"windows?.*(size|14|larger|bigger|whole|wider)|14|(size|larger|bigger|wider).*window",
    ),
    Planted(
        "shifted windows, as in Swin",
        (
            ("window_partition(qkv, self.window_size)", "window_partition(qkv.roll((-3, -3), (1, 2)), self.window_size)"),
            (
                "window_reverse(out, self.window_size, (H, W)).view(B, N, C)",
                "window_reverse(out, self.window_size, (H, W)).roll((3, 3), (1, 2)).reshape(B, N, C)",
            ),
        ),
        ("stages.0.0.attn",),
        r"shift|\broll|cyclic|window",
    ),
    Planted(
        "rolled back by one token too few",
        (
            ("window_partition(qkv, self.window_size)", "window_partition(qkv.roll((-7, -7), (1, 2)), self.window_size)"),
            (
                "window_reverse(out, self.window_size, (H, W)).view(B, N, C)",
                "window_reverse(out, self.window_size, (H, W)).roll((6, 6), (1, 2)).reshape(B, N, C)",
            ),
        ),
        ("stages.0.0.attn",),
        r"shift|\broll|displac|offset|moved",
    ),
    Planted(
        "window attention: softmax over the queries",
        (("attn = attn.softmax(dim=-1)", "attn = attn.softmax(dim=-2)"),),
        ("stages.0.0.attn",),
        r"softmax|queries|ax[ie]s",
    ),
    Planted(
        "window attention: softmax plus one",
        (
            (
                "attn = attn.softmax(dim=-1)",
                "attn = attn.exp()\n        attn = attn / (1 + attn.sum(dim=-1, keepdim=True))",
            ),
        ),
        ("stages.0.0.attn",),
        r"softmax|sum to|denominat|weights.*(sum|add)|extra key|zero key|normali[sz]",
    ),
    Planted(
        "window attention: bfloat16 probabilities",
        (("attn = self.attn_drop(attn)", "attn = self.attn_drop(attn).bfloat16().to(v.dtype)"),),
        ("stages.0.0.attn",),
        r"bfloat16|bf16|half|precision|round|\bbits?\b|\bcast",
    ),
    Planted(
        "window attention: negative scores clamped",
        (("attn = attn.softmax(dim=-1)", "attn = attn.clamp(min=0).softmax(dim=-1)"),),
        ("stages.0.0.attn",),
        r"clamp|clip|negative|relu|scores|below zero|cut off",
    ),
    Planted(
        "window attention: heads merged without transpose",
        (("out = (attn @ v).transpose(1, 2).reshape(-1, T, C)", "out = (attn @ v).reshape(-1, T, C)"),),
        ("stages.1.0.attn",),
        r"heads?|merg|transpos|reshape",
    ),
    Planted(
        "window attention: only the first head is scaled",
        (
            (
                "attn = (q * self.scale) @ k.transpose(-2, -1)",
                "attn = q @ k.transpose(-2, -1)\n        attn = torch.cat([attn[:, :1] * self.scale, attn[:, 1:]], dim=1)",
            ),
        ),
        ("stages.1.0.attn",),
        r"heads?|scale|temperature",
    ),
    Planted(
        "window attention: values added twice",
        (("out = (attn @ v).transpose(1, 2)", "out = (attn @ v + v).transpose(1, 2)"),),
        ("stages.0.0.attn",),
        r"(values?|\bv\b).*(added|twice|extra|residual|skip|again|plus)|(added|extra|residual|skip|plus).*(values?|\bv\b)|identity|diagonal",
    ),
    Planted(
        "window attention: a token does not see itself",
        (
            (
                "attn = attn.softmax(dim=-1)",
                'eye = torch.eye(T, dtype=torch.bool, device=attn.device)\n        attn = attn.masked_fill(eye, float("-inf")).softmax(dim=-1)',
            ),
        ),
        ("stages.0.0.attn",),
        r"\bmask|itself|diagonal|\bown (token|key|place)",
    ),
)

LOCAL = (
    Planted(
        "local: convolution of the input instead of the values",
        (("local = self.dwconv(qkv[..., 2 * C :].permute(0, 3, 1, 2))", "local = self.dwconv(to_map(x, size))"),),
        ("stages.0.0.attn",),
        rf"^(?!.*(missing|without|after)).*{LIM}|instead of (the )?(v|values)|not of (the )?(v|values)",
    ),
    Planted(
        "local: convolution of the keys",
        (("qkv[..., 2 * C :]", "qkv[..., C : 2 * C]"),),
        ("stages.0.0.attn",),
        rf"{LIM}.*(key|\bk\b|input|instead|other|another|sees|takes)|(key|\bk\b).*{LIM}",
    ),
    Planted(
        "local: added after proj",
        (
            (
                "        out = out + to_tokens(local)\n        return self.proj(out)",
                "        return self.proj(out) + to_tokens(local)",
            ),
        ),
        ("stages.0.0.attn",),
        rf"{LIM}.*(after|before|\border|place|proj)|(after|behind|past).*proj",
    ),
    Planted(
        "local: never added",
        (("        out = out + to_tokens(local)\n", ""),),
        ("stages.0.0.attn",),
        rf"{LIM}.*{MISSING}|{MISSING}.*{LIM}",
    ),
    Planted(
        "local: convolution inside the windows",
        (
            (
                "        local = self.dwconv(qkv[..., 2 * C :].permute(0, 3, 1, 2))\n",
                "        p = self.window_size\n"
                "        pieces = window_partition(qkv[..., 2 * C :].contiguous(), p)\n"
                "        pieces = to_tokens(self.dwconv(to_map(pieces, (p, p)))).contiguous()\n"
                "        local = window_reverse(pieces, p, (H, W)).permute(0, 3, 1, 2)\n",
            ),
        ),
        ("stages.0.0.attn",),
        r"window|border|across",
    ),
    Planted(
        "local: a dense convolution",
        (
            (
                "self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)",
                "self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1)",
            ),
        ),
        ("stages.0.0.attn",),
        r"dense|groups?|depthwise|shape|16, 16, 3, 3|16, 1, 3, 3",
    ),
    Planted(
        "local: border reflected",
        (("kernel_size=3, padding=1, groups=dim)", 'kernel_size=3, padding=1, groups=dim, padding_mode="reflect")'),),
        ("stages.0.0.attn",),
        r"pad|border|edge|reflect|\brim\b",
    ),
    Planted(
        "local: values of the first image for all images",
        (("self.dwconv(qkv[..., 2 * C :].permute(0, 3, 1, 2))", "self.dwconv(qkv[:1, ..., 2 * C :].permute(0, 3, 1, 2))"),),
        ("stages.0.0.attn",),
        r"batch|first image|other image|another image|images|each other|alone",
        {"images": _images(112, 112, 3)},
    ),
)

SCALABLE_ATTENTION = (
    Planted(
        "scalable attention: PyTorch's own scale",
        (("F.scaled_dot_product_attention(q, k, v, scale=self.scale)", "F.scaled_dot_product_attention(q, k, v)"),),
        ("stages.2.1.attn",),
        r"scale|temperature|c_ratio|r_c",
    ),
    Planted(
        "scalable attention: no r_c in the scale, as in the authors' first version",
        (("self.scale = (head_dim * c_ratio) ** -0.5", "self.scale = head_dim**-0.5"),),
        ("stages.0.1.attn",),
        r"scale|temperature|c_ratio|r_c|head_dim",
    ),
    Planted(
        "scalable attention: values and keys swapped where nothing is reduced",
        (("k, v = self.kv(x).chunk(2, dim=-1)", "v, k = self.kv(x).chunk(2, dim=-1)"),),
        ("stages.2.1.attn",),
        r"\bk\b.*\bv\b|\bv\b.*\bk\b|keys?.*values?|values?.*keys?|chunk|halves|half",
    ),
    Planted(
        "scalable attention: heads interleaved",
        (
            (
                "return x.view(B, N, self.num_heads, C // self.num_heads).transpose(1, 2)",
                "return x.view(B, N, C // self.num_heads, self.num_heads).permute(0, 3, 1, 2)",
            ),
        ),
        ("stages.1.1.attn",),
        r"heads?|interleav|channels.*(order|split)",
    ),
    Planted(
        "scalable attention: causal",
        (("(q, k, v, scale=self.scale)", "(q, k, v, scale=self.scale, is_causal=True)"),),
        ("stages.0.1.attn",),
        r"causal|mask|later|triang|future|earlier",
    ),
    Planted(
        "scalable attention: dropout of the weights in evaluation",
        (("(q, k, v, scale=self.scale)", "(q, k, v, scale=self.scale, dropout_p=0.1)"),),
        ("stages.0.1.attn",),
        r"dropout|random|steady|determinis|stochastic|run to run|two runs|repeat|same input|differ.* each",
    ),
    Planted(
        "scalable attention: queries and keys of unit length",
        (
            (
                "q, k, v = self.heads(q), self.heads(k), self.heads(v)",
                "q, k, v = F.normalize(self.heads(q), dim=-1), F.normalize(self.heads(k), dim=-1), self.heads(v)",
            ),
        ),
        ("stages.0.1.attn",),
        r"normali[sz]|cosine|unit|length|l2",
    ),
    Planted(
        "scalable attention: no GELU after the reduction",
        (("            y = self.act(y)\n", ""),),
        ("stages.0.1.attn",),
        r"gelu|activation|non-?linear",
    ),
    Planted(
        "scalable attention: GELU before the norm",
        (
            (
                "            y = self.norm(y)\n            y = self.act(y)\n",
                "            y = self.act(y)\n            y = self.norm(y)\n",
            ),
        ),
        ("stages.0.1.attn",),
        r"(gelu|activation|norm).*(before|after|\border|swap|first)|\border",
    ),
    Planted(
        "scalable attention: eps 1e-6 as everywhere",
        (("self.norm = nn.LayerNorm(inner, eps=1e-5)", "self.norm = nn.LayerNorm(inner, eps=1e-6)"),),
        ("stages.0.1.attn",),
        r"\beps|1e-0?6",
    ),
    Planted(
        "scalable attention: norm over tokens and channels",
        (
            (
                "            y = self.norm(y)\n",
                "            y = F.layer_norm(y, y.shape[1:], eps=1e-5) * self.norm.weight + self.norm.bias\n",
            ),
        ),
        ("stages.0.1.attn",),
        r"ax[ie]s|over (the )?(tokens|map|n\b|whole|all)|tokens and channels|statistic|whole map|group",
    ),
    Planted(
        "scalable attention: values from before norm and GELU",
        (
            ("            y = to_tokens(feat)\n", "            y = raw = to_tokens(feat)\n"),
            ("            v = self.v(y)\n", "            v = self.v(raw)\n"),
        ),
        ("stages.0.1.attn",),
        r"(\bv\b|values?).*(norm|gelu|activation|before|un-?normed|raw|reduc|other|instead|input|source)|before the norm",
    ),
    Planted(
        "scalable attention: reduction padded by half a tile",
        (
            (
                "kernel_size=sr_ratio, stride=sr_ratio, groups=dim)",
                "kernel_size=sr_ratio, stride=sr_ratio, padding=sr_ratio // 2, groups=dim)",
            ),
        ),
        ("stages.0.1.attn",),
        r"pad|shift|offset|grid|keys|tiles?",
    ),
    Planted(
        "scalable attention: last row of the map lost",
        (("self.expand(self.reduce(feat))", "self.expand(self.reduce(feat[:, :, :-1]))"),),
        ("stages.0.1.attn",),
        r"crop|\brows?\b|dropped|fewer|lost|border|bottom|cut off|not whole",
    ),
    Planted(
        "scalable attention: no proj",
        (
            (
                "        out = out.transpose(1, 2).reshape(B, N, C)\n        return self.proj(out)",
                "        return out.transpose(1, 2).reshape(B, N, C)",
            ),
        ),
        ("stages.0.1.attn",),
        rf"proj.*{MISSING}|{MISSING}.*proj|before proj",
    ),
    Planted(
        "scalable attention: q without bias",
        (("self.q = nn.Linear(dim, inner, bias=qkv_bias)", "self.q = nn.Linear(dim, inner, bias=False)"),),
        ("stages.0.1.attn",),
        r"bias",
    ),
    Planted(
        "scalable attention: average pooling beside the convolution",
        (
            (
                "            feat = self.expand(self.reduce(feat))\n",
                "            feat = self.expand(self.reduce(feat) + F.avg_pool2d(feat, self.sr_ratio))\n",
            ),
        ),
        ("stages.0.1.attn",),
        r"pool|average|reduc|residual|added|extra|kernel|skip",
    ),
)

BLOCKS = (
    Planted(
        "FFN: tanh GELU",
        (
            (
                "        self.w1 = nn.Linear(dim, hidden)\n        self.act = nn.GELU()",
                '        self.w1 = nn.Linear(dim, hidden)\n        self.act = nn.GELU(approximate="tanh")',
            ),
        ),
        ("stages.0.0.mlp",),
        r"tanh|approx",
    ),
    Planted(
        "FFN: SiLU in the narrow FFNs of the last stage",
        (
            (
                "        self.w1 = nn.Linear(dim, hidden)\n        self.act = nn.GELU()",
                "        self.w1 = nn.Linear(dim, hidden)\n        self.act = nn.GELU() if dim < 64 else nn.SiLU()",
            ),
        ),
        ("stages.3.0.mlp",),
        r"silu|swish",
    ),
    Planted(
        "FFN: a second activation",
        (("        x = self.w2(x)\n        return self.drop(x)", "        x = self.act(self.w2(x))\n        return self.drop(x)"),),
        ("stages.0.0.mlp",),
        r"(second|another|extra|twice|after|output|also|last).*(gelu|activation)|(gelu|activation).*(after|twice|second|output|end|also|fc2)",
    ),
    Planted(
        "FFN: bias of w2 twice",
        (
            (
                "        x = self.w2(x)\n        return self.drop(x)",
                "        x = self.w2(x) + self.w2.bias\n        return self.drop(x)",
            ),
        ),
        ("stages.0.0.mlp",),
        r"bias|constant|offset",
    ),
    Planted(
        "norm2 for norm1",
        (("self.attn(self.norm1(x), size)", "self.attn(self.norm2(x), size)"),),
        ("stages.0.0.norm1", "stages.0.0.attn"),
        r"norm2.*norm1|norm1.*norm2|other norm|same norm|shared|norm1.*(never|not|no)\b|unused",
    ),
    Planted(
        "norm2 without centring",
        (
            (
                "self.ffn(self.norm2(x))",
                "self.ffn(x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.norm2.weight + self.norm2.bias)",
            ),
        ),
        ("stages.0.0.norm2", "stages.0.0.mlp"),
        r"\bmean\b|rms|cent(re|er)|\broot",
    ),
    Planted(
        "no norm1 before scalable attention",
        (
            (
                "self.attn(self.norm1(x), size)",
                "self.attn(x if isinstance(self.attn, ScalableAttention) else self.norm1(x), size)",
            ),
        ),
        ("stages.0.1.norm1", "stages.0.1.attn"),
        rf"norm.*{MISSING}|{MISSING}.*norm|un-?normed",
    ),
    Planted(
        "residual of the normed map",
        (
            (
                "        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), size)))\n",
                "        x = self.norm1(x)\n        x = x + self.drop_path(self.ls1(self.attn(x, size)))\n",
            ),
        ),
        ("stages.0.0.norm2", "stages.0.0"),
        r"residual|skip|normed|shortcut|\bsum\b",
    ),
    Planted(
        "norms after the sums",
        (
            (
                "        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), size)))\n"
                "        x = x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n",
                "        x = self.norm1(x + self.drop_path(self.ls1(self.attn(x, size))))\n"
                "        x = self.norm2(x + self.drop_path(self.ls2(self.ffn(x))))\n",
            ),
        ),
        ("stages.0.0.norm1", "stages.0.0.attn"),
        r"post|after|\border",
    ),
    Planted(
        "FFN beside attention",
        (
            (
                "        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), size)))\n"
                "        x = x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n",
                "        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), size))) + self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n",
            ),
        ),
        ("stages.0.0.norm2",),
        r"parallel|beside|same input|block'?s input|without (the )?attention|before attention|side by side|(miss|lack|without|not).*attn",
    ),
    Planted(
        "no residual around the FFN of scalable blocks",
        (
            (
                "        x = x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n        return x",
                "        y = self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n"
                "        return y if isinstance(self.attn, ScalableAttention) else x + y",
            ),
        ),
        ("stages.0.1", "patch_embeds.1"),
        r"residual|skip|bare|shortcut|\bsum\b",
    ),
    Planted(
        "residual doubled around attention",
        (("        x = x + self.drop_path(self.ls1(", "        x = x + x + self.drop_path(self.ls1("),),
        ("stages.0.0.norm2", "stages.0.0"),
        r"residual|skip|shortcut|twice|doubl",
    ),
    Planted(
        "layer scale of 0.1, as CaiT's",
        (("        init_values: float | None = None,", "        init_values: float | None = 0.1,"),),
        ("stages.0.0.attn", "stages.0.0.norm2", "stages.0.0"),
        r"layer.?scale|gamma|\bls1\b|factor|0\.1\b|scaled|extra|not in the reference|no place",
    ),
    Planted(
        "stochastic depth in evaluation",
        (
            ("if self.drop_prob == 0.0 or not self.training:", "if self.drop_prob == 0.0:"),
            ("        drop_path: float = 0.0,", "        drop_path: float = 0.1,"),
        ),
        ("stages.0.0.attn", "stages.0.0.norm2", "stages.0.0"),
        r"drop|random|steady|determinis|stochastic|run to run|two runs|repeat|same input|differ.* each",
    ),
    Planted(
        "stages: heads of the first stage everywhere",
        (("num_heads=num_heads[k],", "num_heads=num_heads[0],"),),
        ("stages.1.0.attn",),
        r"heads?",
    ),
    Planted(
        "stages: scalable blocks first",
        (("            if i % 2 == 0:", "            if i % 2 == 1:"),),
        ("stages.0.0.norm1", "stages.0.0.attn", "stages.0.1.norm1", "stages.0.1.attn"),
        r"(ssa|scalable|iwsa|window|block|attention).*(first|before|\border|swap|kind|odd|even)|\border",
    ),
    Planted(
        "last stage run twice",
        (("        return self.norm(to_tokens(x))", "        x = stage(x)\n        return self.norm(to_tokens(x))"),),
        ("norm", "stages.3.1", "stages.3.0.norm1"),
        r"twice|again|repeat|double|two times|more than once|2 times|calls",
    ),
)

POSITION = (
    Planted(
        "position: no residual",
        (("feat = self.dw(feat) + feat", "feat = self.dw(feat)"),),
        ("pos_block.0",),
        r"residual|skip|x \+|shortcut|identity|its input",
    ),
    Planted(
        "position: before the blocks",
        (
            (
                "            x = block(x, size)\n            if i == 0:\n                x = self.pos(x, size)\n",
                "            if i == 0:\n                x = self.pos(x, size)\n            x = block(x, size)\n",
            ),
        ),
        ("pos_block.0", "stages.0.0.norm1", "patch_embeds.0"),
        r"(peg|position|pos_block).*(before|place|\border|first|early|where)|before the (first )?blocks?",
    ),
    Planted(
        "position: after every block",
        (("            if i == 0:\n                x = self.pos(x, size)\n", "            x = self.pos(x, size)\n"),),
        ("patch_embeds.1", "stages.0.1", "pos_block.0"),
        r"(peg|position|pos_block|\bpos\b).*(twice|every|each|again|more than once|two|times|2|second|last|also)|every block|each block",
    ),
    Planted(
        "position: left out in the last stage",
        (("            if i == 0:\n", "            if i == 0 and x.shape[-1] < 64:\n"),),
        ("pos_block.3", "stages.3.1.norm1"),
        rf"(peg|position|pos_block).*{MISSING}|{MISSING}.*(peg|position|pos_block)",
    ),
    Planted(
        "position: map with H and W swapped",
        (
            (
                "        feat = to_map(x, size)\n        feat = self.dw(feat) + feat\n",
                "        feat = to_map(x, (size[1], size[0]))\n        feat = self.dw(feat) + feat\n",
            ),
        ),
        ("pos_block.0",),
        r"swap|transpos|h and w|height|width|non-square|not square|reshape|scrambl",
        WIDE,
    ),
)

HEAD = (
    Planted("max pooling", (("x = x.mean(dim=1)", "x = x.amax(dim=1)"),), ("pool", "head"), r"\bmax"),
    Planted(
        "the first token alone",
        (("x = x.mean(dim=1)", "x = x[:, 0]"),),
        ("pool", "head"),
        r"first token|cls|class token|one token|single token|pool",
    ),
    Planted(
        "mean over 7 x 7 tokens",
        (("x = x.mean(dim=1)", "x = x.sum(dim=1) / 49"),),
        ("pool", "head"),
        r"49|factor|scaled|16/49|divis|divid|times|\bsum\b|0\.32",
    ),
    Planted(
        "norm after the mean",
        (
            ("        return self.norm(to_tokens(x))", "        return to_tokens(x)"),
            ("x = x.mean(dim=1)", "x = self.norm(x.mean(dim=1))"),
        ),
        ("norm", "pool"),
        r"norm.*(after|before|order)|(after|before|pool|mean).*norm|\border",
    ),
    Planted(
        "no final norm",
        (("        return self.norm(to_tokens(x))", "        return to_tokens(x)"),),
        ("norm", "pool"),
        rf"norm.*{MISSING}|{MISSING}.*norm",
    ),
    Planted(
        "final norm with the unbiased variance",
        (
            (
                "        return self.norm(to_tokens(x))",
                "        x = to_tokens(x)\n"
                "        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.norm.eps).sqrt()\n"
                "        return x * self.norm.weight + self.norm.bias",
            ),
        ),
        ("norm", "pool"),
        r"unbiased|bessel|varianc|deviation|n ?[-−] ?1|c ?[-−] ?1|factor|scaled|0\.992",
    ),
    Planted(
        "features of unit length before the head",
        (("        x = self.head_drop(x)\n", "        x = F.normalize(x, dim=-1)\n        x = self.head_drop(x)\n"),),
        ("head", "pool"),
        r"normali[sz]|unit|length|l2|cosine",
    ),
    Planted(
        "dropout before the head in evaluation",
        (("        x = self.head_drop(x)\n", "        x = F.dropout(x, 0.2)\n"),),
        ("head", "pool"),
        r"dropout|random|steady|determinis|stochastic|run to run|two runs|repeat|same input|differ.* each",
    ),
    Planted(
        "softmax at the end",
        (("        x = self.forward_head(x)\n", "        x = self.forward_head(x).softmax(dim=-1)\n"),),
        ("head", "logits"),
        r"softmax|probabilit",
    ),
    Planted(
        "the head's bias is left out",
        (("        return self.head(x)\n", "        return F.linear(x, self.head.weight)\n"),),
        ("head", "logits"),
        r"bias",
    ),
)

TWO_AT_ONCE = (
    Planted(
        "two: eps of all norms and tanh GELU",
        (
            ("norm_layer = partial(nn.LayerNorm, eps=norm_eps)", "norm_layer = nn.LayerNorm"),
            (
                "        self.w1 = nn.Linear(dim, hidden)\n        self.act = nn.GELU()",
                '        self.w1 = nn.Linear(dim, hidden)\n        self.act = nn.GELU(approximate="tanh")',
            ),
        ),
        ("stages.0.0.norm1",),
        r"\beps|1e-0?5|tanh|approx",
    ),
    Planted(
        "two: PyTorch's own scale and no position in the last stage",
        (
            ("F.scaled_dot_product_attention(q, k, v, scale=self.scale)", "F.scaled_dot_product_attention(q, k, v)"),
            ("            if i == 0:\n", "            if i == 0 and x.shape[-1] < 64:\n"),
        ),
        ("stages.2.1.attn",),
        rf"scale|temperature|c_ratio|r_c|(peg|position|pos_block).*{MISSING}|{MISSING}.*(peg|position|pos_block)",
    ),
    Planted(
        "two: shifted grid of the stem and softmax at the end",
        (
            ("stride=patch_size, padding=patch_size - 1)", "stride=patch_size, padding=patch_size // 2)"),
            ("        x = self.forward_head(x)\n", "        x = self.forward_head(x).softmax(dim=-1)\n"),
        ),
        ("patch_embeds.0",),
        r"pad|shift|offset|displac|crop|softmax|probabilit",
    ),
    Planted(
        "two: q, v, k and nothing local",
        (
            ("q, k, v = windows.unbind(0)", "q, v, k = windows.unbind(0)"),
            ("        out = out + to_tokens(local)\n", ""),
        ),
        ("stages.0.0.attn",),
        rf"\bk\b.*\bv\b|\bv\b.*\bk\b|keys?.*values?|values?.*keys?|chunk|thirds?|{LIM}.*{MISSING}|{MISSING}.*{LIM}",
    ),
    Planted(
        "two: GELU before the norm of the reduction, and max pooling",
        (
            (
                "            y = self.norm(y)\n            y = self.act(y)\n",
                "            y = self.act(y)\n            y = self.norm(y)\n",
            ),
            ("x = x.mean(dim=1)", "x = x.amax(dim=1)"),
        ),
        ("stages.0.1.attn",),
        r"(gelu|activation|norm).*(before|after|\border|swap|first)|\border|\bmax",
    ),
    Planted(
        "two: residual doubled and position without residual",
        (
            ("        x = x + self.drop_path(self.ls1(", "        x = x + x + self.drop_path(self.ls1("),
            ("feat = self.dw(feat) + feat", "feat = self.dw(feat)"),
        ),
        ("stages.0.0.norm2", "stages.0.0"),
        r"residual|skip|shortcut|twice|doubl|identity|its input",
    ),
    Planted(
        "two: scale of the whole width, border of the downsamples replicated",
        (
            ("self.scale = head_dim**-0.5", "self.scale = dim**-0.5"),
            ("kernel_size=3, stride=2, padding=1)", 'kernel_size=3, stride=2, padding=1, padding_mode="replicate")'),
        ),
        ("patch_embeds.1",),
        r"pad|border|edge|replicat|\brim\b|scale|temperature|head.?width|head_dim|width",
    ),
    Planted(
        "two: unbiased final norm and no residual around the FFN of scalable blocks",
        (
            (
                "        x = x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n        return x",
                "        y = self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n"
                "        return y if isinstance(self.attn, ScalableAttention) else x + y",
            ),
            (
                "        return self.norm(to_tokens(x))",
                "        x = to_tokens(x)\n"
                "        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.norm.eps).sqrt()\n"
                "        return x * self.norm.weight + self.norm.bias",
            ),
        ),
        ("stages.0.1", "patch_embeds.1"),
        r"residual|skip|bare|shortcut|\bsum\b|unbiased|bessel|varianc|deviation|n ?[-−] ?1|factor|scaled",
    ),
    Planted(
        "two: softmax over the queries and no bias in the head",
        (
            ("attn = attn.softmax(dim=-1)", "attn = attn.softmax(dim=-2)"),
            ("        return self.head(x)\n", "        return F.linear(x, self.head.weight)\n"),
        ),
        ("stages.0.0.attn",),
        r"softmax|queries|ax[ie]s|bias",
    ),
    Planted(
        "two: local convolution of the keys, and the first token alone",
        (
            ("qkv[..., 2 * C :]", "qkv[..., C : 2 * C]"),
            ("x = x.mean(dim=1)", "x = x[:, 0]"),
        ),
        ("stages.0.0.attn",),
        rf"{LIM}.*(key|\bk\b|input|instead|other|another|sees|takes)|(key|\bk\b).*{LIM}|first token|cls|class token|one token|pool",
    ),
)

MISTAKES: tuple[Planted, ...] = (
    *STEM,
    *DOWNSAMPLES,
    *WINDOW_ATTENTION,
    *LOCAL,
    *SCALABLE_ATTENTION,
    *BLOCKS,
    *POSITION,
    *HEAD,
    *TWO_AT_ONCE,
)

RIGHT: tuple[Planted, ...] = (
    Planted(
        "right: q, k and v of the windows apart",
        (
            (
                "        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)\n",
                "        self.to_q = nn.Linear(dim, dim, bias=qkv_bias)\n"
                "        self.to_k = nn.Linear(dim, dim, bias=qkv_bias)\n"
                "        self.to_v = nn.Linear(dim, dim, bias=qkv_bias)\n",
            ),
            (
                "self.qkv(x).view(B, H, W, 3 * C)",
                "torch.cat([self.to_q(x), self.to_k(x), self.to_v(x)], dim=-1).view(B, H, W, 3 * C)",
            ),
        ),
    ),
    Planted(
        "right: fused attention in the windows",
        (
            (
                "        attn = (q * self.scale) @ k.transpose(-2, -1)\n"
                "        attn = attn.softmax(dim=-1)\n"
                "        attn = self.attn_drop(attn)\n"
                "        out = (attn @ v).transpose(1, 2)",
                "        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)",
            ),
        ),
    ),
    Planted(
        "right: softmax by hand in scalable attention",
        (
            (
                "        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)\n",
                "        attn = self.scale * (q @ k.mT)\n"
                "        attn = (attn - attn.amax(-1, keepdim=True)).exp()\n"
                "        out = attn @ v / attn.sum(-1, keepdim=True)\n",
            ),
        ),
    ),
    Planted(
        "right: k and v apart where nothing is reduced",
        (
            (
                "            self.kv = nn.Linear(dim, dim * 2, bias=qkv_bias)\n",
                "            self.k = nn.Linear(dim, dim, bias=qkv_bias)\n            self.v = nn.Linear(dim, dim, bias=qkv_bias)\n",
            ),
            ("            k, v = self.kv(x).chunk(2, dim=-1)\n", "            k, v = self.k(x), self.v(x)\n"),
        ),
    ),
    Planted(
        "right: k and v of the reduced tokens from one Linear",
        (
            (
                "            self.k = nn.Linear(inner, inner, bias=qkv_bias)\n            self.v = nn.Linear(inner, dim, bias=qkv_bias)\n",
                "            self.kv = nn.Linear(inner, inner + dim, bias=qkv_bias)\n",
            ),
            (
                "            k = self.k(y)\n            v = self.v(y)\n",
                "            k, v = self.kv(y).split([q.shape[-1], C], dim=-1)\n",
            ),
        ),
    ),
    Planted(
        "right: einsum in the windows, the scale in two halves",
        (
            (
                "        attn = (q * self.scale) @ k.transpose(-2, -1)\n",
                '        attn = torch.einsum("bhqd,bhkd->bhqk", q * self.scale**0.5, k * self.scale**0.5)\n',
            ),
            ("(attn @ v).transpose(1, 2)", 'torch.einsum("bhqk,bhkd->bqhd", attn, v)'),
        ),
    ),
    Planted(
        "right: modules declared in another order",
        (
            (
                "        self.norm1 = norm_layer(dim)\n        self.attn = attn\n",
                "        self.ffn = Ffn(dim, int(dim * mlp_ratio), drop)\n        self.norm2 = norm_layer(dim)\n        self.norm1 = norm_layer(dim)\n        self.attn = attn\n",
            ),
            (
                "        self.norm2 = norm_layer(dim)\n        self.ffn = Ffn(dim, int(dim * mlp_ratio), drop)\n        self.ls2",
                "        self.ls2",
            ),
            ("        self.blocks = nn.ModuleList()\n", "        self.pos = PosConv(dim)\n        self.blocks = nn.ModuleList()\n"),
            ("norm_layer=norm_layer))\n        self.pos = PosConv(dim)\n", "norm_layer=norm_layer))\n"),
            (
                "        self.stem = Stem(",
                "        self.norm = norm_layer(embed_dims[-1])\n        self.stem = Stem(",
            ),
            ("        self.norm = norm_layer(embed_dims[-1])\n        self.head_drop", "        self.head_drop"),
        ),
    ),
    Planted(
        "right: a dictionary of outputs",
        (
            (
                "        x = self.forward_features(x)\n        x = self.forward_head(x)\n        return x\n",
                '        x = self.forward_features(x)\n        return {"logits": self.forward_head(x), "features": x}\n',
            ),
        ),
    ),
    Planted(
        "right: logits and tokens as a tuple",
        (
            (
                "        x = self.forward_features(x)\n        x = self.forward_head(x)\n        return x\n",
                "        x = self.forward_features(x)\n        return self.forward_head(x), x\n",
            ),
        ),
    ),
    Planted(
        "right: blocks under checkpoint",
        (
            (
                "import torch.nn.functional as F\n",
                "import torch.nn.functional as F\nfrom torch.utils.checkpoint import checkpoint\n",
            ),
            ("            x = block(x, size)\n", "            x = checkpoint(block, x, size, use_reentrant=False)\n"),
        ),
    ),
    Planted(
        "right: position by functional convolution of a padded map",
        (
            (
                "        feat = self.dw(feat) + feat\n",
                "        feat = feat + F.conv2d(F.pad(feat, (1, 1, 1, 1)), self.dw.weight, self.dw.bias, groups=feat.shape[1])\n",
            ),
        ),
    ),
    Planted(
        "right: expand as a Linear of tokens",
        (
            ("self.expand = nn.Conv2d(dim, inner, kernel_size=1)", "self.expand = nn.Linear(dim, inner)"),
            (
                "            feat = self.expand(self.reduce(feat))\n            y = to_tokens(feat)\n",
                "            y = self.expand(to_tokens(self.reduce(feat)))\n",
            ),
        ),
    ),
    Planted(
        "right: FFN of 1 x 1 convolutions",
        (
            ("self.w1 = nn.Linear(dim, hidden)", "self.w1 = nn.Conv1d(dim, hidden, 1)"),
            ("self.w2 = nn.Linear(hidden, dim)", "self.w2 = nn.Conv1d(hidden, dim, 1)"),
            ("        x = self.w1(x)\n", "        x = self.w1(x.mT)\n"),
            ("        x = self.w2(x)\n        return self.drop(x)", "        x = self.w2(x).mT\n        return self.drop(x)"),
        ),
    ),
    Planted(
        "right: adaptive pooling of the normed map",
        (
            ("        return self.norm(to_tokens(x))", "        return to_map(self.norm(to_tokens(x)), (x.shape[2], x.shape[3]))"),
            ("        x = x.mean(dim=1)\n", "        x = F.adaptive_avg_pool2d(x, 1).flatten(1)\n"),
        ),
    ),
    Planted(
        "right: image by image",
        (
            (
                "        x = self.forward_features(x)\n        x = self.forward_head(x)\n        return x\n",
                "        return torch.cat([self.forward_head(self.forward_features(image)) for image in x.split(1)])\n",
            ),
        ),
    ),
    Planted(
        "right: the position's convolution belongs to the first block",
        (
            (
                "        self.drop_path = DropPath(drop_path)\n",
                "        self.drop_path = DropPath(drop_path)\n        self.pos: Any = None\n",
            ),
            ("        self.pos = PosConv(dim)\n\n", "        self.blocks[0].pos = PosConv(dim)\n\n"),
            (
                "            x = block(x, size)\n            if i == 0:\n                x = self.pos(x, size)\n",
                "            x = block(x, size)\n",
            ),
            (
                "        x = x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n        return x",
                "        x = x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))\n        return x if self.pos is None else self.pos(x, size)",
            ),
        ),
    ),
    Planted(
        "right: drop rates set, which evaluation ignores",
        (
            ("        drop: float = 0.0,\n", "        drop: float = 0.1,\n"),
            ("        drop_path: float = 0.0,\n", "        drop_path: float = 0.2,\n"),
            ("attn_drop: float = 0.0", "attn_drop: float = 0.1"),
            ("        drop_rate: float = 0.0,\n", "        drop_rate: float = 0.3,\n"),
        ),
    ),
    Planted(
        "right: windows by reshaping with two transposes",
        (
            (
                "    x = x.view(B, H // window_size, window_size, W // window_size, window_size, C)\n"
                "    x = x.permute(0, 1, 3, 2, 4, 5).contiguous()\n",
                "    x = x.reshape(B * (H // window_size), window_size, W // window_size, window_size * C).transpose(1, 2).contiguous()\n",
            ),
        ),
    ),
)

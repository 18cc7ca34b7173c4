# ruff: noqa
"""Mistakes of somebody who turns a Swin Transformer code base into ScalableViT, and changes that leave the port right."""

from __future__ import annotations

from tests.programs.corpus.planted import Planted

IWSA = ("stages.0.0.attn",)
SSA = ("stages.0.1.attn",)

WMSA = """        q = q * self.scale
        attn = q @ k.transpose(-2, -1)
        attn = self.softmax(attn)

        x = (attn @ v).transpose(1, 2).reshape(B_, N, C)
"""
SSA_SCORES = """        attn = (q * self.scale) @ k.transpose(-2, -1)
        attn = self.softmax(attn)
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
"""
PARTITION = """        x_windows = window_partition(x, ws).view(-1, ws * ws, C)
"""
REVERSED = """        v = window_reverse(v_windows.view(-1, ws, ws, C), ws, H, W)
"""
LIM = """        lim = self.local(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
"""
ATTENDED = """        x = self.norm1(x)
        x = self.attn(x, H, W)
        x = shortcut + x
"""
FED = """        x = x + self.mlp(self.norm2(x))
"""
STAGE = """        for i, blk in enumerate(self.blocks):
            x = blk(x, H, W)
            if i == 0:
                x = self.pos(x, H, W)
"""
END = """        x = self.norm(x)
        x = self.avgpool(x.transpose(1, 2))
        return torch.flatten(x, 1)
"""
NO_GELU = ("y = self.sr_act(self.sr_norm(y))", "y = self.sr_norm(y)")

MISTAKES: tuple[Planted, ...] = (
    # windows
    Planted(
        "the grid of windows is merged with its rows and columns exchanged, which shows on non-square maps only",
        (
            (
                "x = windows.view(B, H // window_size, W // window_size, window_size",
                "x = windows.view(B, W // window_size, H // window_size, window_size",
            ),
        ),
        IWSA,
        r"window.*(order|merge|reverse|exchang|swap|transpos|grid|permut)|(order|swap|exchang|transpos|permut|merg).*window|(height|h\b).*(width|w\b).*(swap|exchang)|(swap|exchang).*(height|h\b|rows)",
    ),
    Planted(
        "windows of different images are mixed where they are merged",
        (
            (
                "x = windows.view(B, H // window_size, W // window_size, window_size, window_size, -1)\n    x = x.permute(0, 1, 3, 2, 4, 5)",
                "x = windows.view(H // window_size, W // window_size, B, window_size, window_size, -1)\n    x = x.permute(2, 0, 3, 1, 4, 5)",
            ),
        ),
        IWSA,
        r"(across|between|of other|of different|mix|another|batch).*(image|batch)|(image|batch).*(mix|order|major|swap|another|depend)|window.*(order|merge|reverse|permut|exchang)|batch axis",
    ),
    Planted(
        "Swin's cyclic shift is left in",
        (
            (PARTITION, "        shift = ws // 2\n        x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))\n" + PARTITION),
            (
                REVERSED,
                REVERSED
                + "        x = torch.roll(x, shifts=(shift, shift), dims=(1, 2))\n        v = torch.roll(v, shifts=(shift, shift), dims=(1, 2))\n",
            ),
        ),
        IWSA,
        r"shift|roll|cyclic|windows?.*(offset|moved|begin|start)",
    ),
    Planted(
        "Swin's mask of shifted windows is left in though nothing is shifted",
        (
            (
                PARTITION,
                PARTITION
                + """        img_mask = torch.zeros((1, H, W, 1), device=x.device)
        for n, a in enumerate((slice(0, -ws), slice(-ws, -(ws // 2)), slice(-(ws // 2), None))):
            for m, b in enumerate((slice(0, -ws), slice(-ws, -(ws // 2)), slice(-(ws // 2), None))):
                img_mask[:, a, b, :] = 3 * n + m
        ids = window_partition(img_mask, ws).view(-1, ws * ws)
        mask = (ids[:, None, :] != ids[:, :, None]).to(x.dtype) * -100.0
        mask = mask.repeat(B, 1, 1)[:, None]
""",
            ),
            ("self.wmsa(x_windows)", "self.wmsa(x_windows, mask)"),
            (
                """    def forward(self, x):
        B_, N, C = x.shape
""",
                """    def forward(self, x, mask):
        B_, N, C = x.shape
""",
            ),
            ("        attn = q @ k.transpose(-2, -1)\n", "        attn = q @ k.transpose(-2, -1) + mask\n"),
        ),
        IWSA,
        r"mask|blocked|hidden from|do(es)? not (see|attend)|(keys?|tokens?|pairs?).*(left out|excluded|ignored|no weight)|(added|bias).*(score|logit)|shift|(last|bottom|right|border).*window",
    ),
    Planted(
        "Swin's relative position bias is left in",
        (
            (
                "        self.softmax = nn.Softmax(dim=-1)\n\n    def forward(self, x):\n        B_, N, C = x.shape",
                """        self.softmax = nn.Softmax(dim=-1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        at = torch.stack(torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")).flatten(1)
        at = (at[:, :, None] - at[:, None, :]) + window_size - 1
        self.register_buffer("relative_position_index", at[0] * (2 * window_size - 1) + at[1], persistent=False)

    def forward(self, x):
        B_, N, C = x.shape""",
            ),
            (
                "        attn = q @ k.transpose(-2, -1)\n",
                """        attn = q @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(N, N, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous()
""",
            ),
        ),
        IWSA,
        r"relative|position(al)?.?bias|bias.*(score|logit|attention|softmax)|(added|something).*(score|logit|before softmax)|(extra|additional|no counterpart|\bown\b|not loaded|left over|initial).*(parameter|weight|table)|(parameter|weight|table).*(extra|additional|no counterpart|not loaded|left over|initial|\bown\b)",
    ),
    Planted(
        "cosine attention as in Swin V2",
        (
            (
                "        q = q * self.scale\n",
                "        q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)\n",
            ),
        ),
        IWSA,
        r"cosine|(quer|keys|\bq\b|\bk\b).*(normali[sz]|unit|length|l2)|(normali[sz]|unit|l2).*(quer|keys|\bq\b|\bk\b)",
    ),
    Planted(
        "qkv is cut into heads first and then into q, k and v",
        (
            (
                "self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)",
                "self.qkv(x).reshape(B_, N, self.num_heads, 3, C // self.num_heads).permute(3, 0, 2, 1, 4)",
            ),
        ),
        ("stages.1.0.attn",),
        r"interleav|heads? (first|major|before|by head|then)|(qkv|q, k|rows|thirds|channels).*(order|layout|permut|per head|head by head|cut|split|interleav|grouped)|(order|layout|permut|split).*(qkv|q, k|heads)|q.*k.*v.*(inside|within|of) each head",
    ),
    Planted(
        "the values for LIM are merged from their heads without a transpose",
        (("v = v.transpose(1, 2).reshape(B_, N, C)", "v = v.reshape(B_, N, C)"),),
        ("stages.1.0.attn",),
        r"(lim|local|f\(v\)|values?|\bv\b).*(transpos|permut|merge|order|layout|view|reshap|head|scrambl|shuffl|other)|(transpos|permut|reshap|heads?).*(lim|local|values?|\bv\b)",
    ),
    Planted(
        "one window for the whole map where it is no larger than seven, as in Swin",
        (("        ws = self.window_size\n", "        ws = min(H, W) if max(H, W) <= 7 else self.window_size\n"),),
        ("stages.3.0.attn",),
        r"window.*(size|4|larger|bigger|whole|\bside|other|width)|(size|4 ?[x×] ?4|whole).*window|whole map|global attention|no windows",
    ),
    Planted(
        "padding to whole windows adds a window where none is needed, and LIM sees its values",
        (
            (
                PARTITION,
                """        Hr, Wr = H, W
        x = nn.functional.pad(x, (0, 0, 0, ws - W % ws, 0, ws - H % ws))
        H, W = x.shape[1], x.shape[2]
"""
                + PARTITION,
            ),
            ("return self.out(x.reshape(B, L, C))", "return self.out(x[:, :Hr, :Wr].reshape(B, L, C))"),
        ),
        IWSA,
        r"\bpad|border|edge|right and bottom|bottom and right|last (row|column)|lim.*(bias|outside|beyond)|(bias|values).*(beyond|outside|border|edge)",
    ),
    # LIM
    Planted(
        "LIM sees one window at a time",
        (
            (
                REVERSED + "\n" + LIM,
                """        lim = self.local(v_windows.view(-1, ws, ws, C).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        lim = window_reverse(lim, ws, H, W)
""",
            ),
        ),
        IWSA,
        r"(lim|local|f\(v\)|conv).*(window|border)|(inside|within|each|per|single|one).*window.*(lim|local|conv|f\(v\))|window.*(lim|local|conv).*(inside|within|each|per|separate|alone)|border.*window",
    ),
    Planted(
        "LIM sees the normed map instead of the values",
        (
            (LIM, "        lim = self.local(shortcut.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)\n"),
            (PARTITION, "        shortcut = x\n" + PARTITION),
        ),
        IWSA,
        r"(lim|local|f\().*(\bx\b|input|norm|not (of|from) (v|the value)|instead|wrong|other|source|fed|of (q|k|z)\b)|(input|norm).*(instead of|not|for).*(v\b|value)",
    ),
    Planted(
        "LIM takes the attended map",
        (("self.local(v.permute(0, 3, 1, 2))", "self.local(x.permute(0, 3, 1, 2))"),),
        IWSA,
        r"(lim|local|f\().*(attend|attention|\bz\b|output|instead|wrong|other|source|fed|not (of|from) (v|the value))|f\(z\)|\bz\b.*(instead of|not|for).*(v\b|value)",
    ),
    # SSA
    Planted(
        "the fused rows are taken as v, then k",
        (("k, v = self.kv(y).split([self.qk_dim, self.dim], dim=-1)", "v, k = self.kv(y).split([self.dim, self.qk_dim], dim=-1)"),),
        SSA,
        r"(\bk\b|keys?).*(\bv\b|values?).*(swap|exchang|order|other way|interchang|revers|mixed)|(swap|exchang|order|interchang|mixed).*(\bk\b|keys?).*(\bv\b|values?)|\bv\b.*(first|before|then).*\bk\b|(rows|halves|kv).*(order|swap|exchang|revers)",
    ),
    Planted(
        "no r_c in the scale where nothing is reduced",
        (("self.scale = (dim // num_heads * expand) ** -0.5", "self.scale = (self.qk_dim // num_heads) ** -0.5"),),
        ("stages.2.1.attn",),
        r"scal(e|ed|ing)\b|temperature|r_c|c_ratio|score.*(factor|times|multipl)",
    ),
    Planted(
        "the ratio of the stage before is used in the last stage, which shows in the scale only",
        (("expand=expands[i_layer],", "expand=expands[min(i_layer, 2)],"),),
        ("stages.3.1.attn",),
        r"scal(e|ed|ing)\b|temperature|r_c|c_ratio|score.*(factor|times|multipl)",
    ),
    Planted(
        "height and width are exchanged before the reduction, which shows on non-square maps only",
        (("y = x.transpose(1, 2).reshape(B, C, H, W)", "y = x.transpose(1, 2).reshape(B, C, W, H)"),),
        SSA,
        r"(height|rows|\bh\b).*(width|columns|\bw\b).*|(swap|exchang|transpos).*(axes|sides|map|height)|reduc.*(map|reshap|view|layout|swap|exchang|transpos|other (tile|token))|non-square|w h\b|reshap",
    ),
    Planted(
        "the LayerNorm of the reduction has the epsilon of the others",
        (("self.sr_norm = nn.LayerNorm(self.qk_dim)", "self.sr_norm = nn.LayerNorm(self.qk_dim, eps=1e-6)"),),
        SSA,
        r"\beps\b|epsilon|1e-0?6|1e-0?5",
    ),
    Planted(
        "GELU before the LayerNorm in the reduction",
        (("y = self.sr_act(self.sr_norm(y))", "y = self.sr_norm(self.sr_act(y))"),),
        SSA,
        r"(gelu|activation).*(before|order|first|then|swap|exchang|precede)|(norm).*(after|order|swap|exchang|last|follows)|norm.*gelu.*(order|swap|exchang)",
    ),
    Planted(
        "a token that is the mean of the others joins the reduced ones",
        (
            (
                "            y = self.sr_act(self.sr_norm(y))\n",
                "            y = self.sr_act(self.sr_norm(y))\n            y = torch.cat([y, y.mean(dim=1, keepdim=True)], dim=1)\n",
            ),
        ),
        SSA,
        r"(extra|additional|one more|more|too many|\b50\b|mean|another|appended|number of).*(token|key)|(token|key)s?.*(extra|additional|more|mean|appended|too many|\b50\b)|mean.*(joined|concat|append)",
    ),
    Planted(
        "no bias in SSA's q",
        (("self.q = nn.Linear(dim, self.qk_dim, bias=qkv_bias)", "self.q = nn.Linear(dim, self.qk_dim, bias=False)"),),
        SSA,
        r"(\bq\b|quer\w*|attn\.q).*bias|bias.*(\bq\b|quer|attn\.q)|without (a )?bias|no bias|bias.*(missing|absent|dropped|not used|no counterpart)",
    ),
    Planted(
        "softmax in bfloat16",
        ((SSA_SCORES, SSA_SCORES.replace("self.softmax(attn)", "self.softmax(attn.to(torch.bfloat16)).to(v.dtype)")),),
        SSA,
        r"bfloat16|bf16|half.precision|float16|precision|round(ed|ing)|dtype|\bbits|coarse",
    ),
    # block
    Planted(
        "norms on the branches as in Swin V2",
        (
            (ATTENDED, "        x = self.attn(x, H, W)\n        x = shortcut + self.norm1(x)\n"),
            (FED, "        x = x + self.norm2(self.mlp(x))\n"),
        ),
        ("stages.0.0.norm1", "stages.0.0.attn"),
        r"post.?norm|norm\w* .*(after|behind|on the branch|at the end|last|of the (output|attention|branch))|(attn|attention|mlp).*(before|without).*norm|not normed|unnormed|on the branch|(before|precede).*norm",
    ),
    Planted(
        "the MLP is added to the block's input",
        ((FED, "        x = shortcut + self.mlp(self.norm2(x))\n"),),
        ("stages.0.0", "pos_block.0"),
        r"residual|shortcut|skip|attention.*(lost|missing|left out|not added|dropped|absent)|(lost|missing|without).*(attention|attn)|block'?s input|x \+ mlp|\bsum\b",
    ),
    Planted(
        "norm1 for norm2",
        ((FED, "        x = x + self.mlp(self.norm1(x))\n"),),
        ("stages.0.0.norm2",),
        r"norm1|norm2.*(not used|unused|never|weights of|parameters of|other)|(weights?|parameters?|gain).*(of|from) (another|norm1|other)",
    ),
    Planted(
        "layer scale on both branches",
        (
            (
                "        self.mlp = Mlp(in_features",
                "        self.gamma_1 = nn.Parameter(1e-1 * torch.ones(dim))\n        self.gamma_2 = nn.Parameter(1e-1 * torch.ones(dim))\n        self.mlp = Mlp(in_features",
            ),
            ("        x = shortcut + x\n", "        x = shortcut + self.gamma_1 * x\n"),
            (FED, "        x = x + self.gamma_2 * self.mlp(self.norm2(x))\n"),
        ),
        ("stages.0.0.attn", "stages.0.0.norm2", "stages.0.0"),
        r"layer.?scale|gamma|0\.1\b|(scaled|times|multipl|factor|too small|weighted)|(extra|additional|\bown\b|no counterpart|not loaded|initial).*(parameter|weight)|(parameter|weight)s?.*(extra|additional|no counterpart|not loaded|initial|\bown\b)",
    ),
    Planted(
        "drop path divides by the share kept although nothing is dropped; the first stage has none",
        (
            ("mlp_ratio, qkv_bias, norm_layer):", "mlp_ratio, qkv_bias, norm_layer, drop_path):"),
            ("        self.mlp = Mlp(in_features", "        self.keep_prob = 1 - drop_path\n        self.mlp = Mlp(in_features"),
            (FED, "        x = x + self.mlp(self.norm2(x)) / self.keep_prob\n"),
            (
                "                norm_layer=norm_layer,\n",
                "                norm_layer=norm_layer,\n                drop_path=0.2 * i_layer / (self.num_layers - 1),\n",
            ),
        ),
        ("stages.1.0", "stages.1.0.mlp", "pos_block.1"),
        r"drop.?path|stochastic|keep|1\.07|0\.93|scaled|times|multipl|factor|divid|too (large|big)",
    ),
    Planted(
        "dropout is left on in the MLP",
        (
            (
                "        x = self.act(x)\n        x = self.fc2(x)\n",
                "        x = self.act(x)\n        x = nn.functional.dropout(x, 0.1)\n        x = self.fc2(x)\n",
            ),
        ),
        ("stages.0.0.mlp",),
        r"drop.?out|random(?! (weight|image|input|param))|(not|un).?(repeat|reproduc|determin|steady|stable)|(two|second|each|every|another) (run|call|time)|(twice|again).*(differ|other)|differ.*(runs|calls|twice)|stochastic",
    ),
    # position
    Planted(
        "the position module after the last block",
        (("            if i == 0:\n", "            if i == len(self.blocks) - 1:\n"),),
        ("pos_block.0", "stages.0.1.norm1"),
        r"(peg|pos\w*).*(after|place|late|last|second|behind|end|order|moved|other)|(after|last|second).*(peg|pos)|stages\.0\.1.*before.*pos",
    ),
    Planted(
        "the position module after every block",
        (("            if i == 0:\n                x = self.pos(x, H, W)\n", "            x = self.pos(x, H, W)\n"),),
        ("patch_embeds.1", "stages.0.1", "pos_block.0"),
        r"(peg|pos\w*).*(twice|two times|2 times|again|every|each|repeat|more than once|both|second|also|called)|(twice|again|every|each|repeat|more than once|second).*(peg|pos)",
    ),
    Planted(
        "the border is repeated where the position module's zeros belong",
        (("nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)", 'nn.Conv2d(dim, dim, 3, 1, 1, groups=dim, padding_mode="replicate")'),),
        ("pos_block.0",),
        r"pad|border|edge|replicat|reflect|circular",
    ),
    # stages
    Planted(
        "half the stride as the stem's padding",
        (("padding=ratio - 1)", "padding=ratio // 2)"),),
        ("patch_embeds.0",),
        r"pad|shift|offset|(grid|image|patch).*(moved|displac|one pixel)|displac",
    ),
    Planted(
        "only the stem is normed",
        (
            (
                "        x = self.norm(x)\n        return x, H, W",
                "        if self.reduction.stride[0] > 2:\n            x = self.norm(x)\n        return x, H, W",
            ),
        ),
        ("patch_embeds.1",),
        r"norm\w*.*(missing|absent|left out|dropped|skipped|not (applied|used|called|run)|never|unused|without|is gone)|\b(missing|absent|no|without|lacks|skips|drops|un) ?(the )?(layer)?.?norm|before (its|the) (layer)?norm",
    ),
    Planted(
        "tokens become a map without a transpose between the stages",
        (
            (
                "                x = x.transpose(1, 2).reshape(B, C, H, W)\n        x = self.norm(x)",
                "                x = x.reshape(B, C, H, W)\n        x = self.norm(x)",
            ),
        ),
        ("patch_embeds.1",),
        r"transpos|reshap|permut|view|scrambl|shuffl|layout|axes|mixed|channels? .*(first|last|order)|order of",
    ),
    Planted(
        "the last block of the last stage is never run",
        (
            (
                "        for i, blk in enumerate(self.blocks):\n",
                "        for i, blk in enumerate(self.blocks[: 1 if self.dim == 64 else None]):\n",
            ),
        ),
        ("stages.3.1.norm1", "stages.3.1.attn", "stages.3.1", "norm"),
        r"stages\.3\.1.*(miss|absent|never|not (run|called|used|comput)|skip|left out|dropped|unused|without)|(miss|absent|never|not (run|called|used)|skip|left out|unused|without).*(stages\.3\.1|block)|block.*(miss|absent|never|not (run|called|used)|skip|left out|unused)|(no|too few) (module|layer|call|block)",
    ),
    Planted(
        "the mean divides by the sixteen tokens of the usual image, which shows on others only",
        ((END, "        x = self.norm(x)\n        x = x.sum(dim=1) / 16\n        return x\n"),),
        ("head", "pool", "logits"),
        r"pool|\bmean\b|\bsum\b|average|divid|3\.5|(number|count) of tokens|scaled|factor",
    ),
    # two at once
    Planted(
        "tanh GELU in the MLP, and the mean before the last norm",
        (
            ("        self.act = act_layer()\n", '        self.act = act_layer(approximate="tanh")\n'),
            (
                END,
                "        x = self.avgpool(x.transpose(1, 2)).transpose(1, 2)\n        x = self.norm(x)\n        return torch.flatten(x, 1)\n",
            ),
        ),
        ("stages.0.0.mlp",),
        r"tanh|approximat|gelu|(mean|pool|average).*(before|order)|norm.*(after|behind).*(pool|mean)",
    ),
    Planted(
        "images are normalised once more, and no GELU in the reduction",
        (
            ("        x = self.forward_features(x)\n", "        x = self.forward_features((x - 0.1307) / 0.3081)\n"),
            NO_GELU,
        ),
        ("patch_embeds.0",),
        r"normali[sz]|0\.13|0\.30?8|3\.2[45]|(input|image|pixel)s?.*(scal|shift|affine|chang|preprocess|subtract|twice)|affine|(gelu|activation).*(missing|absent|not|no\b|left out|without|ident|linear)|(no|without|missing|lacks) (the )?(gelu|activation)",
    ),
    Planted(
        "the position module without its sum, and heads merged without a transpose",
        (
            ("        feat = self.dwconv(feat) + feat\n", "        feat = self.dwconv(feat)\n"),
            ("        x = (attn @ v).transpose(1, 2).reshape(B_, N, C)\n", "        x = (attn @ v).reshape(B_, N, C)\n"),
        ),
        ("pos_block.0",),
        r"residual|shortcut|skip|\bsum\b|not added|identity|x \+|without (x|its input)|head.*(merge|transpos|order|permut|view|reshap|layout)|(merge|transpos|permut).*head",
    ),
    Planted(
        "the scale of SSA forgets the heads, and probabilities for logits",
        (
            ("self.scale = (dim // num_heads * expand) ** -0.5", "self.scale = (dim * expand) ** -0.5"),
            ("        x = self.head(x)\n        return x", "        x = self.head(x)\n        return x.softmax(dim=-1)"),
        ),
        ("stages.1.1.attn",),
        r"scal(e|ed|ing)\b|temperature|score.*(factor|times|multipl)|softmax|probabilit",
    ),
)

RIGHT: tuple[Planted, ...] = (
    Planted(
        "F.scaled_dot_product_attention in both attentions",
        (
            (
                WMSA,
                "        x = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).reshape(B_, N, C)\n",
            ),
            (
                SSA_SCORES,
                "        x = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).reshape(B, N, C)\n",
            ),
        ),
    ),
    Planted(
        "k and v of SSA apart",
        (
            (
                "        self.kv = nn.Linear(self.qk_dim, self.qk_dim + dim, bias=qkv_bias)\n",
                "        self.v = nn.Linear(self.qk_dim, dim, bias=qkv_bias)\n        self.k = nn.Linear(self.qk_dim, self.qk_dim, bias=qkv_bias)\n",
            ),
            ("k, v = self.kv(y).split([self.qk_dim, self.dim], dim=-1)", "k, v = self.k(y), self.v(y)"),
        ),
    ),
    Planted(
        "the MLP's Linears as convolutions of one token",
        (
            ("self.fc1 = nn.Linear(in_features, hidden_features)", "self.fc1 = nn.Conv1d(in_features, hidden_features, 1)"),
            ("self.fc2 = nn.Linear(hidden_features, out_features)", "self.fc2 = nn.Conv1d(hidden_features, out_features, 1)"),
            ("        x = self.fc1(x)\n", "        x = self.fc1(x.transpose(1, 2))\n"),
            ("        x = self.fc2(x)\n", "        x = self.fc2(x).transpose(1, 2)\n"),
        ),
    ),
    Planted(
        "blocks are checkpointed",
        (
            ("            x = blk(x, H, W)\n", "            x = checkpoint(blk, x, H, W, use_reentrant=False)\n"),
            ("import torch.nn as nn\n", "import torch.nn as nn\nfrom torch.utils.checkpoint import checkpoint\n"),
        ),
    ),
    Planted(
        "a dict with the logits",
        (("        x = self.head(x)\n        return x", '        return {"logits": self.head(x)}'),),
    ),
    Planted(
        "einsum, and softmax by hand",
        (
            (
                WMSA,
                """        attn = torch.einsum("bhnd,bhmd->bhnm", q, k) * self.scale
        attn = (attn - attn.amax(dim=-1, keepdim=True)).exp()
        x = torch.einsum("bhnm,bhmd->bnhd", attn, v) / attn.sum(dim=-1).transpose(1, 2)[..., None]
        x = x.reshape(B_, N, C)
""",
            ),
        ),
    ),
    Planted(
        "the position module belongs to the first block",
        (
            (
                "        self.mlp = Mlp(in_features",
                "        self.pos = PositionModule(dim) if index == 0 else None\n        self.mlp = Mlp(in_features",
            ),
            (FED + "        return x\n", FED + "        return x if self.pos is None else self.pos(x, H, W)\n"),
            ("        self.pos = PositionModule(dim)\n\n", "\n"),
            (STAGE, "        for blk in self.blocks:\n            x = blk(x, H, W)\n"),
        ),
    ),
    Planted(
        "the keys' bias is left out, as in BEiT: no softmax sees it",
        (
            (
                "        qkv = self.qkv(x).reshape(",
                """        bias = self.qkv.bias
        if bias is not None:
            bias = torch.cat((bias[:C], torch.zeros_like(bias[:C]), bias[2 * C :]))
        qkv = nn.functional.linear(x, self.qkv.weight, bias).reshape(""",
            ),
        ),
    ),
)

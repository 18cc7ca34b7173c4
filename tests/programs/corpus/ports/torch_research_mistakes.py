# ruff: noqa
"""Mistakes of `torch_research`, and changes that leave it right."""

from __future__ import annotations

import numpy as np

from tests.programs.corpus.planted import Planted


def _images(batch: int) -> np.ndarray:
    return np.random.default_rng(17).random((batch, 1, 112, 112)).astype(np.float32)


FOUR = {"images": _images(4)}

IWSA = ("stages.0.0.attn",)
SSA = ("stages.0.1.attn",)
END = ("pool", "head", "logits")

MEAN = "        mean = torch.mean(x, dim=1, keepdim=True)\n"
NORMED = "        return (x - mean) / (var + self.eps).sqrt() * self.g + self.b\n"
SUM = "        return self.fn(x, **kwargs) + x\n"
RESIDUAL = """    def __init__(self, fn):
        super().__init__()
        self.fn = fn
"""
CONV_MLP = "def ConvMLP("
MLP_LAYERS = """    return nn.Sequential(
        nn.Conv2d(dim, hidden, 1),
"""
MLP_DROPOUT = """        nn.Dropout(dropout),
        nn.Conv2d(hidden, dim, 1),
"""
POSITION = "    return Residual(nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim))\n"
LIM = "self.lim(qkv.chunk(3, dim=1)[-1])"
UNFOLDED = "        qkv = self.windows(qkv)\n"
CUT = '        q, k, v = rearrange(qkv, "b (three h d t) l -> three b l h t d", three=3, h=h, t=p * p)\n'
WINDOW_SCORES = '        sim = einsum("b l h i d, b l h j d -> b l h i j", q, k) * self.scale\n'
WINDOW_SOFTMAX = " * self.scale\n        attn = sim.softmax(dim=-1)\n"
WINDOW_OUT = '        out = einsum("b l h i j, b l h j d -> b l h i d", attn, v)\n'
FOLDED = "        out = F.fold(out, (height, width), p, stride=p)\n"
WINDOW_PROJ = "        out = out + local\n        return self.to_out(out)\n"
TOKENS = '        tokens = rearrange(x, "b c x y -> b c (x y)")\n'
WQ, WK, WV = (
    f'        {t} = einsum("b c n, o c -> b o n", {"tokens" if t == "q" else "context"}, self.w_{t}) + self.b_{t}\n' for t in "qkv"
)
SCORES = '        sim = einsum("b h i d, b h j d -> b h i j", q * self.scale, k)\n'
SOFTMAX = SCORES + "        attn = sim.softmax(dim=-1)\n"
SSA_PROJ = "x=height, y=width)\n        return self.to_out(out)\n"
ATTN_LAYER = "        layers.append(Residual(PreNorm(dim, attn, eps=eps)))\n"
MLP_LAYER = "        layers.append(Residual(PreNorm(dim, ConvMLP(dim, mult, dropout), eps=eps)))\n"
PEG_LAYER = "        if ind == 0:\n            layers.append(PEG(dim))\n"
STAGE = "    return nn.Sequential(*layers)\n"
IMG = "        x = img\n"
STAGES = "            x = stage(x)\n"
LOGITS = "        return self.to_logits(x)\n"
REDUCED = 'Reduce("b c x y -> b c", "mean")'

LOST_ROOT = (NORMED, NORMED.replace(".sqrt()", ""))
TWICE_SOFT = (WINDOW_SOFTMAX, WINDOW_SOFTMAX.replace(".softmax(dim=-1)", ".softmax(dim=-1).softmax(dim=-1)"))
TOP_KEYS = (
    WINDOW_SOFTMAX,
    " * self.scale\n"
    "        least = sim.topk(min(8, sim.shape[-1] - 1), dim=-1).values[..., -1:]\n"
    "        attn = sim.masked_fill(sim < least, -torch.finfo(sim.dtype).max).softmax(dim=-1)\n",
)
HALO = (
    (UNFOLDED, "        halo = F.unfold(qkv, p + 2, padding=1, stride=p)\n" + UNFOLDED),
    (
        CUT,
        CUT + '        _, k, v = rearrange(halo, "b (three h d t) l -> three b l h t d", three=3, h=h, t=(p + 2) ** 2)\n',
    ),
)
COARSE_LIM = (
    LIM,
    "F.conv2d(qkv.chunk(3, dim=1)[-1], self.lim.weight, self.lim.bias, stride=2, padding=1, groups=self.lim.groups)\n"
    "        local = F.interpolate(local, size=(height, width))",
)
LAST_WINDOW = (
    FOLDED,
    "        out = F.pad(out[..., :-1], (0, 1))\n" + FOLDED,
)
DILATED = (
    "nn.Conv2d(dim, dim, reduction, stride=reduction, groups=dim),",
    "nn.Conv2d(dim, dim, reduction, stride=reduction, dilation=2, groups=dim),",
)
TURNED_KEYS = (WK, WK.replace("o c -> b o n", "c o -> b o n"))
OTHER_BIAS = (WV, WV.replace("+ self.b_v", "+ (self.b_v if len(self.b_v) != len(self.b_k) else self.b_k)"))
HALF_STEP = (
    (
        RESIDUAL,
        "    def __init__(self, fn, scale=1.0):\n        super().__init__()\n        self.fn = fn\n        self.scale = scale\n",
    ),
    (SUM, "        return self.scale * self.fn(x, **kwargs) + x\n"),
    (MLP_LAYER, MLP_LAYER.replace("eps=eps)))", "eps=eps), scale=0.5))")),
)
NORMED_PEG = (
    (
        "def PEG(",
        "class NormedConv2d(nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        x = F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1)\n"
        "        return super().forward(x)\n\n\n"
        "def PEG(",
    ),
    (POSITION, POSITION.replace("nn.Conv2d", "NormedConv2d")),
)
PEG_TWICE = (
    (
        RESIDUAL,
        "    def __init__(self, fn, times=1):\n        super().__init__()\n        self.fn = fn\n        self.times = times\n",
    ),
    (SUM, "        for _ in range(self.times):\n            x = self.fn(x, **kwargs) + x\n        return x\n"),
    (POSITION, POSITION.replace("groups=dim))", "groups=dim), times=2)")),
)
SHIFTED_TOKENS = (
    (
        CONV_MLP,
        "class ShiftTokens(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        still, moved = x.chunk(2, dim=1)\n"
        "        moved = F.pad(moved, (0, 0, 1, -1))\n"
        "        return super().forward(torch.cat((still, moved), dim=1))\n\n\n" + CONV_MLP,
    ),
    (MLP_LAYERS, MLP_LAYERS.replace("nn.Sequential", "ShiftTokens")),
)
COSINE_HEAD = (
    LOGITS,
    "        weight, bias = self.to_logits.weight, self.to_logits.bias\n"
    "        return F.linear(F.normalize(x, dim=-1), F.normalize(weight, dim=-1), bias)\n",
)
SOFT_CAP = (LOGITS, "        logits = self.to_logits(x)\n        return 5.0 * torch.tanh(logits / 5.0)\n")
GEM = (
    (
        "class PreNorm(",
        "class GeM(nn.Module):\n    def forward(self, x, p=3, eps=1e-6):\n        return x.clamp(min=eps).pow(p).mean(dim=(2, 3)).pow(1 / p)\n\n\nclass PreNorm(",
    ),
    (REDUCED, "GeM()"),
)
UNNORMALISED = (WINDOW_SOFTMAX, " * self.scale\n        attn = sim.exp()\n")

PATCHES = (
    Planted(
        "images are blurred by a mean of three by three pixels",
        ((IMG, "        x = F.avg_pool2d(img, 3, stride=1, padding=1)\n"),),
        ("patch_embeds.0",),
        r"blur|smooth|averag|filter|low-?pass|pool|neighbo|mean of|(image|input|pixel)s?.*(chang|alter|other|not what)",
    ),
    Planted(
        "mixup is left in: a fifth of another image",
        ((IMG, "        x = 0.8 * img + 0.2 * img.flip(0)\n"),),
        ("patch_embeds.0",),
        r"mix|batch|(another|other|between|across).{0,12}images?|images?.*(another|other|each other|depend)",
        FOUR,
    ),
    Planted(
        "the downsamplings' kernels are dilated",
        (
            (
                "nn.Conv2d(dim_in, dim_out, kernel_size, stride=stride, padding=kernel_size // 2),",
                "nn.Conv2d(dim_in, dim_out, kernel_size, stride=stride, padding=3 if stride == 4 else 2, dilation=1 if stride == 4 else 2),",
            ),
        ),
        ("patch_embeds.1",),
        r"dilat|atrous|spac(ed|ing)|spread|apart|padd",
    ),
    Planted(
        "the norm divides by the variance, not by its root",
        (LOST_ROOT,),
        ("patch_embeds.0",),
        r"root|sqrt|varianc|deviation|squar|power",
    ),
    Planted(
        "the norm's mean is over the tokens, its variance over the channels",
        ((MEAN, MEAN.replace("dim=1", "dim=(2, 3)")),),
        ("patch_embeds.0",),
        r"mean.*(token|map|position|ax[ei]s|other|per channel|space|spatial)|(token|map|position|ax[ei]s|spatial).*mean|norm.*ax[ei]s|(not|never|without|other).*(centr|mean)|mean.*(miss|not|other)",
    ),
    Planted(
        "the norm's gain scales its shift too",
        ((NORMED, "        return ((x - mean) / (var + self.eps).sqrt() + self.b) * self.g\n"),),
        ("patch_embeds.0",),
        r"shift|bias|gain|affine|(weight|multipl|scal).*(after|order|too|twice)",
    ),
    Planted(
        "channels are shuffled in four groups before the third stage",
        (
            (
                STAGES,
                STAGES + '            if x.shape[1] == 32:\n                x = rearrange(x, "b (g c) x y -> b (c g) x y", g=4)\n',
            ),
        ),
        ("patch_embeds.2", "stages.1.1"),
        r"shuffl|permut|interleav|channels?.*(order|place|mix|swap|exchang)|(order|place).*channels?",
    ),
)

WINDOWS = (
    Planted(
        "unfolded channels are cut as if the window's tokens came before q, k and v",
        ((CUT, CUT.replace("(three h d t)", "(t three h d)")),),
        IWSA,
        r"order|permut|scrambl|interleav|places?\b|layout|reshap|(cut|split).*(other|wrong|differ|as)|token.*channel|channel.*token",
    ),
    Planted(
        "keys and values are taken from windows with a halo of one token",
        HALO,
        IWSA,
        r"halo|overlap|(larger|bigger|wider|beyond|outside|across|neighbo).*window|window.*(larger|bigger|wider|beyond|outside|across|neighbo|of 9|9 x 9)|more (keys|tokens)|\b81\b|padd",
    ),
    Planted(
        "attention's weights are exponentials that nobody normalised",
        (UNNORMALISED,),
        IWSA,
        r"normali|sum to|exp\b|exponential|softmax|divid",
    ),
    Planted(
        "softmax is over the keys of all heads together",
        (
            (
                WINDOW_SOFTMAX,
                " * self.scale\n"
                '        attn = rearrange(sim, "b l h i j -> b l i (h j)").softmax(dim=-1)\n'
                '        attn = rearrange(attn, "b l i (h j) -> b l h i j", h=h)\n',
            ),
        ),
        ("stages.1.0.attn",),
        r"softmax.*(heads|over|axis|ax[ei]s)|heads?.*(softmax|together|joint|share|mix)|sums? to",
    ),
    Planted(
        "softmax runs twice",
        (TWICE_SOFT,),
        IWSA,
        r"softmax.*(twice|two|again|second|of (a )?softmax)|(twice|two|double|second).*softmax|uniform|flat|mean of the values",
    ),
    Planted(
        "only the eight largest scores of a query count",
        (TOP_KEYS,),
        IWSA,
        r"top|largest|sparse|mask|(some|few|fewer|only|part|\b8\b).*(key|score|token)|(key|score|token)s?.*(left out|ignor|exclud|dropped|no weight|hidden)|threshold",
    ),
    Planted(
        "queries lose their mean over the window, as before a quantisation that makes up for it",
        ((WINDOW_SCORES, "        q = q - q.mean(dim=-2, keepdim=True)\n" + WINDOW_SCORES),),
        IWSA,
        r"quer.*(mean|centr|average|chang|bias|offset)|(mean|centr|average|bias).*(quer|\bq\b)|\bq\b.*(mean|centr|bias|chang)",
    ),
    Planted(
        "einsum keeps the keys' index: every token is its own value times a column's sum",
        ((WINDOW_OUT, WINDOW_OUT.replace("-> b l h i d", "-> b l h j d")),),
        IWSA,
        r"einsum|ind(ex|ices)|column|own value|itself|diagonal|elementwise|token by token|(sum|summed).*(quer|column|weights)|softmax.*quer|not mix",
    ),
    Planted(
        "einsum sums the keys of all heads",
        ((WINDOW_SCORES, WINDOW_SCORES.replace("b l h j d ->", "b l g j d ->")),),
        ("stages.1.0.attn",),
        r"(sum|all|every|mix|between|across|share|other|total|same).*heads?|heads?.*(sum|mix|share|same|other|total)",
    ),
    Planted(
        "linear attention: softmax of queries over channels and of keys over tokens",
        (
            (
                WINDOW_SCORES + WINDOW_SOFTMAX.split("\n", 1)[1] + "        attn = self.dropout(attn)\n" + WINDOW_OUT,
                "        q, k = q.softmax(dim=-1), k.softmax(dim=-2)\n"
                '        context = einsum("b l h j d, b l h j e -> b l h d e", k, v)\n'
                '        out = einsum("b l h i d, b l h d e -> b l h i e", q, context)\n',
            ),
        ),
        IWSA,
        r"linear attention|efficient attention|softmax.*(channel|token|ax[ei]s|over|miss|not|other|quer|key)|(no|without|other|another) softmax|kernel|rank",
    ),
    Planted(
        "the scale comes from the number of a window's tokens",
        (("        self.scale = (dim // heads) ** -0.5\n", "        self.scale = (window_size**2) ** -0.5\n"),),
        IWSA,
        r"scale|scaled|scaling|temperature|factor",
    ),
    Planted(
        "the last window of the map is lost",
        (LAST_WINDOW,),
        IWSA,
        r"(last|one|single|bottom|right|corner|some).*(window|tile)|window.*(last|miss|zero|left out|lost|skip|bottom|corner)|zero|corner",
    ),
    Planted(
        "the output's matrix is transposed in the window layers",
        (
            (
                WINDOW_PROJ,
                WINDOW_PROJ.replace("self.to_out(out)", "F.conv2d(out, self.to_out.weight.transpose(0, 1), self.to_out.bias)"),
            ),
        ),
        IWSA,
        r"transpos|(proj|to_out|output|linear|weight|matri).*(turned|other|differ|wrong|swap|exchang|not)|matri",
    ),
    Planted(
        "the local convolution gets its channels head by head where the kernel has them the other way",
        ((LIM, 'self.lim(rearrange(qkv.chunk(3, dim=1)[-1], "b (h d) x y -> b (d h) x y", h=h))'),),
        ("stages.1.0.attn",),
        r"interleav|permut|order|channels?.*(place|other|mix|swap|wrong)|heads?.*(order|place)|shuffl",
    ),
    Planted(
        "the local convolution runs at half the resolution and is upsampled",
        (COARSE_LIM,),
        IWSA,
        r"stride|resolution|upsampl|nearest|interpol|half|subsampl|every (second|other)|coarse|block",
    ),
    Planted(
        "the local convolution's kernels are standardised",
        (
            (
                LIM,
                "qkv.chunk(3, dim=1)[-1]\n"
                '        mean, var = (reduce(self.lim.weight, "o ... -> o 1 1 1", f) for f in ("mean", torch.var))\n'
                "        weight = (self.lim.weight - mean) * (var + 1e-5).rsqrt()\n"
                "        local = F.conv2d(local, weight, self.lim.bias, padding=1, groups=self.lim.groups)",
            ),
        ),
        IWSA,
        r"standardi|(weight|kernel)s?.*(normali|centr|chang|other|scal|differ|modif|not)|(normali|centr|chang|scal|modif|other|another).*(weight|kernel)",
    ),
    Planted(
        "the local convolution has kernels of five by five: other shapes",
        (("nn.Conv2d(dim, dim, 3, padding=1, groups=dim)", "nn.Conv2d(dim, dim, 5, padding=2, groups=dim)"),),
        IWSA,
        r"5 ?(x|×|by|,) ?5|kernel|(shape|partner|place).*(lim|local)|(lim|local).*(shape|partner|place)",
    ),
    Planted(
        "the outermost tokens get nothing from the local convolution",
        (
            (
                LIM,
                "F.conv2d(qkv.chunk(3, dim=1)[-1], self.lim.weight, self.lim.bias, groups=self.lim.groups)\n"
                "        local = F.pad(local, (1, 1, 1, 1))",
            ),
        ),
        IWSA,
        r"border|edge|\brim\b|outermost|padd|valid|first and last",
    ),
)

SCALABLE = (
    Planted(
        "the reduction's kernels are dilated",
        (DILATED,),
        SSA,
        r"dilat|atrous|spac(ed|ing)|spread|apart|overlap|(fewer|other|36|\b6\b).*(key|token)|(key|token)s?.*(fewer|36|\b6\b)",
    ),
    Planted(
        "queries come from a map of half the resolution",
        (
            (
                TOKENS,
                "        coarse = F.interpolate(F.avg_pool2d(x, 2, ceil_mode=True), size=(height, width))\n"
                + TOKENS.replace("rearrange(x,", "rearrange(coarse,"),
            ),
        ),
        SSA,
        r"quer.*(averag|pool|same|repeat|smooth|coarse|share|reduc|input|mean|neighbo|wrong|other)|averag|pool|upsampl|nearest|resolution|input of q|\bq\b.*(input|fed|takes|sees|wrong)",
    ),
    Planted(
        "the keys' bias stands where the values' belongs, where their lengths are equal",
        (OTHER_BIAS,),
        ("stages.2.1.attn",),
        r"bias|same at every token|constant|offset",
    ),
    Planted(
        "einsum takes the keys' matrix the other way",
        (TURNED_KEYS,),
        SSA,
        r"transpos|(key|\bk\b|weight|matri).*(turned|other|differ|wrong|swap|exchang|not|chang)|matri",
    ),
    Planted(
        "values go through GELU",
        ((WV, WV.replace("v = ", "v = F.gelu(").replace("self.b_v\n", "self.b_v)\n")),),
        SSA,
        r"gelu|activation|non-?linear",
    ),
    Planted(
        "the scale is applied to the weights of attention, behind the softmax",
        ((SOFTMAX, SOFTMAX.replace("q * self.scale", "q").replace(".softmax(dim=-1)", ".softmax(dim=-1) * self.scale")),),
        SSA,
        r"scale|scaled|scaling|temperature|factor|sums? to",
    ),
    Planted(
        "ReLU and the number of keys for the softmax",
        ((SOFTMAX, SCORES + "        attn = sim.relu() / sim.shape[-1]\n"),),
        SSA,
        r"relu|softmax|sums? to|normali|negativ",
    ),
    Planted(
        "the output's product in bfloat16",
        (
            (
                SSA_PROJ,
                SSA_PROJ.replace(
                    "self.to_out(out)",
                    "F.conv2d(out.bfloat16(), self.to_out.weight.bfloat16(), self.to_out.bias.bfloat16()).to(x.dtype)",
                ),
            ),
        ),
        SSA,
        r"bfloat16|bf16|float16|half|precision|round|\bcast|\bbits?\b",
    ),
    Planted(
        "attention is to the row of the query alone where nothing is reduced: axial attention",
        (
            (
                SOFTMAX,
                SCORES + "        if sim.shape[-1] == height * width:\n"
                "            row = torch.arange(height * width, device=x.device) // width\n"
                "            sim = sim.masked_fill(row[:, None] != row, -torch.finfo(sim.dtype).max)\n"
                "        attn = sim.softmax(dim=-1)\n",
            ),
        ),
        ("stages.2.1.attn",),
        r"\brows?\b|axial|mask|window|block-?diagonal|(some|few|fewer|only|part).*(key|token)|(key|token)s?.*(left out|ignor|exclud|hidden|no weight)",
    ),
    Planted(
        "every head takes the first head's probabilities",
        (
            (
                '        out = einsum("b h i j, b h j d -> b h i d", attn, v)\n',
                '        out = einsum("b i j, b h j d -> b h i d", attn[:, 0], v)\n',
            ),
        ),
        ("stages.1.1.attn",),
        r"(first|one|same|share|all|every|other).*heads?|heads?.*(first|same|share|one)",
    ),
    Planted(
        "the reduced map is normed over its tokens in the second stage, as by an instance norm",
        (
            (
                '        context = rearrange(self.reduce(x), "b c x y -> b c (x y)")\n',
                "        context = self.reduce(x)\n"
                "        if h == 2:\n"
                "            context = F.instance_norm(context)\n"
                '        context = rearrange(context, "b c x y -> b c (x y)")\n',
            ),
        ),
        ("stages.1.1.attn",),
        r"instance|normali|\bnorm(ed)?\b|standardi|statistic|per channel",
    ),
)

LAYERS = (
    Planted(
        "half-step residuals around the MLPs, as in Macaron nets",
        HALF_STEP,
        ("stages.0.0", "pos_block.0", "stages.0.0.mlp"),
        r"half|halv|\b0?\.5|scal|factor|weight",
    ),
    Planted(
        "all sums are divided by the root of two",
        ((SUM, "        return (self.fn(x, **kwargs) + x) * 0.5**0.5\n"),),
        ("stages.0.0.norm2", "stages.0.0"),
        r"root|sqrt|0?\.707|1\.41|scal|factor|times|divid|multipl",
    ),
    Planted(
        "the two branches are those of a reversible net, whose streams are averaged",
        (
            (
                "def Stage(",
                "class Reversible(nn.Sequential):\n"
                "    def forward(self, x):\n"
                "        embed, *layers = self\n"
                "        x = embed(x)\n"
                "        for start in (0, 3):\n"
                "            f, g = layers[start], layers[start + 1]\n"
                "            x1 = x + f.fn(x)\n"
                "            x2 = x + g.fn(x1)\n"
                "            x = (x1 + x2) / 2\n"
                "            if start == 0:\n"
                "                x = layers[2](x)\n"
                "        return x\n\n\n"
                "def Stage(",
            ),
            (STAGE, STAGE.replace("nn.Sequential", "Reversible")),
        ),
        ("stages.0.0", "pos_block.0"),
        r"half|halv|averag|\b0?\.5|mean|residual|revers|shortcut|factor",
    ),
    Planted(
        "one norm for both branches of a block: fewer parameters",
        (
            ("    def __init__(self, dim, fn, eps=1e-6):", "    def __init__(self, dim, fn, eps=1e-6, norm=None):"),
            ("        self.norm = LayerNorm2d(dim, eps=eps)\n", "        self.norm = default(norm, LayerNorm2d(dim, eps=eps))\n"),
            (ATTN_LAYER, "        norm = LayerNorm2d(dim, eps=eps)\n" + ATTN_LAYER.replace("eps=eps)))", "eps=eps, norm=norm)))")),
            (MLP_LAYER, MLP_LAYER.replace("eps=eps)))", "eps=eps, norm=norm)))")),
        ),
        ("stages.0.0.norm1", "stages.0.0.norm2"),
        r"share|same (norm|module|parameter|weight)|one (norm|module)|twice|norm1.*norm2|norm2.*norm1|tied|both",
    ),
    Planted(
        "the MLP comes before attention in every block",
        ((ATTN_LAYER + MLP_LAYER, MLP_LAYER + ATTN_LAYER),),
        ("stages.0.0.norm1", "stages.0.0.norm2", "stages.0.0.attn", "stages.0.0.mlp"),
        r"order|before|after|behind|first|swap|exchang|(mlp|feed).*(attention|attn)|(attention|attn).*(mlp|feed)",
    ),
    Planted(
        "the MLP's hidden units are those of a gated GELU, twice as many: other shapes",
        (
            (
                CONV_MLP,
                "class GEGLU(nn.Module):\n"
                "    def forward(self, x):\n"
                "        x, gate = x.chunk(2, dim=1)\n"
                "        return x * F.gelu(gate)\n\n\n" + CONV_MLP,
            ),
            (
                "        nn.Conv2d(dim, hidden, 1),\n        nn.GELU(),\n",
                "        nn.Conv2d(dim, hidden * 2, 1),\n        GEGLU(),\n",
            ),
        ),
        ("stages.0.0.mlp",),
        r"geglu|glu\b|gate|twice as|\(64, 16|width|hidden|fc1.*(shape|partner|place)|(shape|partner|place).*fc1",
    ),
    Planted(
        "a global response normalisation of the hidden units, as in ConvNeXt V2",
        (
            (
                CONV_MLP,
                "class GRN(nn.Module):\n"
                "    def forward(self, x):\n"
                "        gx = x.norm(p=2, dim=(2, 3), keepdim=True)\n"
                "        nx = gx / (gx.mean(dim=1, keepdim=True) + 1e-6)\n"
                "        return x + x * nx\n\n\n" + CONV_MLP,
            ),
            (MLP_DROPOUT, MLP_DROPOUT.replace("nn.Dropout(dropout)", "GRN()")),
        ),
        ("stages.0.0.mlp",),
        r"global|grn|normali|gate|gain|whole map|(all|other) tokens|(channel|element|token|unit)s?.*(scal|factor|multipl)|(scal|factor|multipl).*(channel|element|token|unit|image)",
    ),
    Planted(
        "half of the channels are shifted by a row before the MLP",
        SHIFTED_TOKENS,
        ("stages.0.0.mlp",),
        r"shift|roll|displac|moved|neighbo|offset|half of|some channels|row",
    ),
    Planted(
        "attention's output convolution runs behind the MLP once more in the last stage",
        (
            (
                MLP_LAYER,
                MLP_LAYER + "        if dim == 64:\n"
                "            mlp, out = layers[-1].fn.fn, attn.to_out\n"
                "            mlp.register_forward_hook(lambda module, given, made, out=out: out(made))\n",
            ),
        ),
        ("stages.3.0.mlp", "stages.3.0"),
        r"twice|proj|to_out|extra|again|additional|linear map|matri",
    ),
)

POSITIONS = (
    Planted(
        "the position encoding sees a normed map",
        NORMED_PEG,
        ("pos_block.0",),
        r"\bnorm(ed|s)?\b|normali|standardi|layer ?norm",
    ),
    Planted(
        "the position encoding runs twice in a row",
        PEG_TWICE,
        ("pos_block.0", "stages.0.1.norm1"),
        r"twice|two times|again|repeat|second time|2 times|doubl|several",
    ),
    Planted(
        "the position encoding stands between attention and MLP of the first block",
        ((MLP_LAYER + "\n" + PEG_LAYER, PEG_LAYER + MLP_LAYER),),
        ("stages.0.0.norm2", "stages.0.0", "pos_block.0"),
        r"position|\bpeg\b|pos_block|order|between|before",
    ),
    Planted(
        "the position encoding loses its mean over the map",
        (
            (
                POSITION,
                "    peg = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)\n"
                "    peg.register_forward_hook(lambda module, given, made: made - made.mean(dim=(2, 3), keepdim=True))\n"
                "    return Residual(peg)\n",
            ),
        ),
        ("pos_block.0",),
        r"centr|(mean|average)|same at every token|constant|bias|offset",
    ),
)

ENDS = (
    Planted(
        "generalised-mean pooling with a power of three",
        GEM,
        END,
        r"\bgem\b|generali[sz]ed|power|cube|pool.*(other|another|not|kind)|(not|another|other|instead of).*(mean|pool|averag)|clamp|negativ",
    ),
    Planted(
        "tokens are pooled by their likeness to the mean token",
        (
            (
                "class PreNorm(",
                "class AttentionPool(nn.Module):\n"
                "    def forward(self, x):\n"
                '        x = rearrange(x, "b c x y -> b c (x y)")\n'
                '        weights = einsum("b c n, b c -> b n", x, x.mean(dim=-1)).softmax(dim=-1)\n'
                '        return einsum("b c n, b n -> b c", x, weights)\n\n\n'
                "class PreNorm(",
            ),
            (REDUCED, "AttentionPool()"),
        ),
        END,
        r"weighted|softmax|attention|pool.*(other|another|not|kind)|(not|another|other|instead of).*(mean|pool|averag)|unequal|weights",
    ),
    Planted(
        "a cosine classifier",
        (COSINE_HEAD,),
        END,
        r"cosine|\bunit|length|normali[sz]|\bl2\b|weights?.*(chang|other|scal|differ)",
    ),
    Planted(
        "logits are capped softly at five",
        (SOFT_CAP,),
        ("head", "logits"),
        r"tanh|\bcap|bounded|saturat|activation|non-?linear|soft ?clip|limit",
    ),
    Planted(
        "the head's bias is subtracted",
        ((LOGITS, "        return F.linear(x, self.to_logits.weight) - self.to_logits.bias\n"),),
        ("head", "logits"),
        r"bias|sign|minus|subtract|same for every image|offset|shift",
    ),
    Planted(
        "features are normed over the batch before the head",
        (
            (
                LOGITS,
                "        var, mean = torch.var_mean(x, dim=0, unbiased=False)\n        return self.to_logits((x - mean) * (var + 1e-5).rsqrt())\n",
            ),
        ),
        END,
        r"batch|(other|another|across|between).{0,10}images?|statistic|standardi|normali",
        FOUR,
    ),
    Planted(
        "logits are the mean of the image's and its mirror image's",
        (
            (IMG, "        x = torch.cat((img, img.flip(-1)))\n"),
            (LOGITS, '        return reduce(self.to_logits(x), "(two b) k -> b k", "mean", two=2)\n'),
        ),
        ("head", "logits", "patch_embeds.0"),
        r"flip|mirror|test-?time|augment|twice|two|batch|averag|mean of",
    ),
)

TWO = (
    Planted(
        "two: softmax runs twice, and the local convolution at half the resolution",
        (TWICE_SOFT, COARSE_LIM),
        IWSA,
        r"softmax.*(twice|two|again)|(twice|two|double).*softmax|uniform|stride|resolution|upsampl|nearest|half|subsampl|coarse",
    ),
    Planted(
        "two: the norm divides by the variance, and generalised-mean pooling",
        (LOST_ROOT, *GEM),
        ("patch_embeds.0",),
        r"root|sqrt|varianc|deviation|squar|power|\bgem\b|generali[sz]ed|pool.*(other|another|not|kind)|(not|another|other).*(mean|pool)",
    ),
    Planted(
        "two: the reduction dilated, and the keys' matrix the other way",
        (DILATED, TURNED_KEYS),
        SSA,
        r"dilat|atrous|spac(ed|ing)|spread|apart|overlap|(fewer|other|36|\b6\b).*(key|token)|transpos|matri",
    ),
    Planted(
        "two: the eight largest scores, and a normed map for the position encoding",
        (TOP_KEYS, *NORMED_PEG),
        ("stages.0.0.attn",),
        r"top|largest|sparse|mask|(some|few|fewer|only|part|\b8\b).*(key|score|token)|(key|score|token)s?.*(left out|ignor|exclud|no weight)|pos_block.*norm|(position|peg).*norm",
    ),
    Planted(
        "two: half-step residuals, and a cosine classifier",
        (*HALF_STEP, COSINE_HEAD),
        ("stages.0.0", "pos_block.0", "stages.0.0.mlp"),
        r"half|halv|\b0?\.5|factor|cosine|\bunit|length|normali[sz]|\bl2\b",
    ),
    Planted(
        "two: a halo for keys and values, and the last window lost",
        (*HALO, LAST_WINDOW),
        IWSA,
        r"halo|overlap|(larger|bigger|wider|beyond|outside|across|neighbo).*window|window.*(larger|bigger|wider|beyond|outside|last|miss|zero|lost)|more (keys|tokens)|\b81\b|zero|corner",
    ),
    Planted(
        "two: shifted channels before the MLP, and capped logits",
        (*SHIFTED_TOKENS, SOFT_CAP),
        ("stages.0.0.mlp",),
        r"shift|roll|displac|moved|neighbo|half of|some channels|tanh|\bcap|bounded|saturat",
    ),
    Planted(
        "two: the position encoding runs twice, and the keys' bias for the values'",
        (*PEG_TWICE, OTHER_BIAS),
        ("pos_block.0", "stages.0.1.norm1"),
        r"twice|two times|again|repeat|second time|2 times|doubl|bias",
    ),
)

MISTAKES: tuple[Planted, ...] = (*PATCHES, *WINDOWS, *SCALABLE, *LAYERS, *POSITIONS, *ENDS, *TWO)

WINDOW_ATTENTION = WINDOW_SCORES + WINDOW_SOFTMAX.split("\n", 1)[1] + "        attn = self.dropout(attn)\n" + WINDOW_OUT
SCALABLE_ATTENTION = SOFTMAX + '        attn = self.dropout(attn)\n        out = einsum("b h i j, b h j d -> b h i d", attn, v)\n'

RIGHT: tuple[Planted, ...] = (
    Planted(
        "right: windows by pixel unshuffle and shuffle",
        (
            (UNFOLDED, "        qkv = F.pixel_unshuffle(qkv, p).flatten(2)\n"),
            (FOLDED, "        out = F.pixel_shuffle(out.unflatten(2, (height // p, width // p)), p)\n"),
        ),
    ),
    Planted(
        "right: fused attention over windows and over the map",
        (
            (WINDOW_ATTENTION, "        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)\n"),
            (SCALABLE_ATTENTION, "        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)\n"),
        ),
    ),
    Planted(
        "right: the last branch is added where the next one begins, as by fused add and norm",
        (
            (
                "def Stage(",
                "class Stream(nn.Sequential):\n"
                "    def forward(self, x):\n"
                "        embed, *layers = self\n"
                "        stream, branch = 0.0, embed(x)\n"
                "        for layer in layers:\n"
                "            stream = stream + branch\n"
                "            branch = layer.fn(stream)\n"
                "        return stream + branch\n\n\n"
                "def Stage(",
            ),
            (STAGE, STAGE.replace("nn.Sequential", "Stream")),
        ),
    ),
    Planted(
        "right: the local convolution by unfold and einsum",
        (
            (
                LIM,
                "qkv.chunk(3, dim=1)[-1]\n"
                '        local = rearrange(F.unfold(local, 3, padding=1), "b (c t) n -> b c t n", t=9)\n'
                '        local = einsum("b c t n, c t -> b c n", local, self.lim.weight.flatten(1)) + self.lim.bias[:, None]\n'
                '        local = rearrange(local, "b c (x y) -> b c x y", x=height)',
            ),
        ),
    ),
    Planted(
        "right: the norm by torch's, on a map that is turned around",
        (
            (
                "        var = torch.var(x, dim=1, unbiased=False, keepdim=True)\n" + MEAN + NORMED,
                "        g, b = self.g.flatten(), self.b.flatten()\n"
                '        x = rearrange(x, "b c x y -> b x y c")\n'
                "        x = F.layer_norm(x, g.shape, g, b, self.eps)\n"
                '        return rearrange(x, "b x y c -> b c x y")\n',
            ),
        ),
    ),
    Planted(
        "right: channels last in memory",
        (
            (IMG, "        x = img.contiguous(memory_format=torch.channels_last)\n"),
            ("    ).eval()\n", "    ).eval().to(memory_format=torch.channels_last)\n"),
        ),
    ),
    Planted(
        "right: vmap over the images",
        (
            (
                IMG,
                "        return torch.vmap(self.of_one)(img)\n\n    def of_one(self, img):\n        x = img[None]\n",
            ),
            (LOGITS, "        return self.to_logits(x)[0]\n"),
        ),
    ),
    Planted(
        "right: the MLP's convolutions are EinMix, with weights of (in, out)",
        (
            ("from einops.layers.torch import Rearrange, Reduce\n", "from einops.layers.torch import EinMix, Rearrange, Reduce\n"),
            (
                "        nn.Conv2d(dim, hidden, 1),\n",
                '        EinMix("b c x y -> b o x y", weight_shape="c o", bias_shape="o", c=dim, o=hidden),\n',
            ),
            (
                "        nn.Conv2d(hidden, dim, 1),\n",
                '        EinMix("b c x y -> b o x y", weight_shape="c o", bias_shape="o", c=hidden, o=dim),\n',
            ),
        ),
    ),
    Planted(
        "right: the weights of q, k and v as an array of four axes",
        (
            (
                "        self.w_qkv = nn.Parameter(torch.randn(dim * 3, dim) * dim**-0.5)\n        self.b_qkv = nn.Parameter(torch.zeros(dim * 3)) if bias else None\n",
                "        self.w_qkv = nn.Parameter(torch.randn(3, heads, dim // heads, dim) * dim**-0.5)\n"
                "        self.b_qkv = nn.Parameter(torch.zeros(3, heads, dim // heads, 1, 1)) if bias else 0.0\n",
            ),
            (
                '        qkv = F.linear(rearrange(x, "b c x y -> b x y c"), self.w_qkv, self.b_qkv)\n        qkv = rearrange(qkv, "b x y c -> b c x y")\n',
                '        qkv = einsum("b c x y, s h d c -> b s h d x y", x, self.w_qkv) + self.b_qkv\n'
                '        qkv = rearrange(qkv, "b s h d x y -> b (s h d) x y")\n',
            ),
        ),
    ),
    Planted(
        "right: a named tuple of logits and features",
        (
            ("from einops import", "from collections import namedtuple\n\nfrom einops import"),
            ("# helpers\n\n", 'Returned = namedtuple("Returned", ["logits", "features"])\n\n# helpers\n\n'),
            (LOGITS, "        return Returned(self.to_logits(x), x)\n"),
        ),
    ),
    Planted(
        "right: softmax over keys that come in chunks, as in flash attention",
        (
            (
                SCALABLE_ATTENTION,
                "        out, total, top = 0.0, 0.0, None\n"
                "        for ks, vs in zip(k.split(16, dim=-2), v.split(16, dim=-2)):\n"
                '            sim = einsum("b h i d, b h j d -> b h i j", q * self.scale, ks)\n'
                "            new = sim.amax(dim=-1, keepdim=True) if top is None else torch.maximum(top, sim.amax(dim=-1, keepdim=True))\n"
                "            old = 0.0 if top is None else (top - new).exp()\n"
                "            weights, top = (sim - new).exp(), new\n"
                "            total = total * old + weights.sum(dim=-1, keepdim=True)\n"
                '            out = out * old + einsum("b h i j, b h j d -> b h i d", weights, vs)\n'
                "        out = out / total\n",
            ),
        ),
    ),
    Planted(
        "right: sums in place",
        ((SUM, "        out = self.fn(x, **kwargs)\n        out += x\n        return out\n"),),
    ),
    Planted(
        "right: SSA's weights in a ParameterDict",
        (
            (
                "        self.w_q = nn.Parameter(torch.randn(dim_qk, dim) * dim**-0.5)\n"
                "        self.w_k = nn.Parameter(torch.randn(dim_qk, dim_qk) * dim_qk**-0.5)\n"
                "        self.w_v = nn.Parameter(torch.randn(dim, dim_qk) * dim_qk**-0.5)\n",
                "        sizes = {'w_q': (dim_qk, dim), 'w_k': (dim_qk, dim_qk), 'w_v': (dim, dim_qk)}\n"
                "        self.weights = nn.ParameterDict({t: torch.randn(o, i) * i**-0.5 for t, (o, i) in sizes.items()})\n",
            ),
            *((w, w.replace("self.w_", "self.weights.w_")) for w in (WQ, WK, WV)),
        ),
    ),
    Planted(
        "right: the position encoding is a hook of the first block",
        (
            (
                PEG_LAYER,
                "        if ind == 0:\n"
                "            block = layers[-1]\n"
                "            block.peg = PEG(dim)\n"
                "            block.register_forward_hook(lambda module, given, made: module.peg(made))\n"
                "            layers.append(nn.Identity())\n",
            ),
        ),
    ),
    Planted(
        "right: the mean of the tokens by two products of matrices",
        (
            (
                "class PreNorm(",
                "class Mean(nn.Module):\n"
                "    def forward(self, x):\n"
                "        rows, columns = (x.new_full((n,), 1.0 / n) for n in x.shape[-2:])\n"
                '        return einsum("b c x y, x, y -> b c", x, rows, columns)\n\n\n'
                "class PreNorm(",
            ),
            (REDUCED, "Mean()"),
        ),
    ),
    Planted(
        "right: shifts of the values' bias go around the softmax, whose weights sum to one",
        (
            (WV, WV.replace(" + self.b_v", "")),
            (SSA_PROJ, "x=height, y=width)\n        return self.to_out(out + self.b_v[..., None])\n"),
        ),
    ),
)

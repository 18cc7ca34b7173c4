# ruff: noqa
"""Mistakes of `torch_hf`, and changes that leave it right."""

from __future__ import annotations

import numpy as np

from tests.programs.corpus.planted import Planted


def _images(h: int, w: int, batch: int) -> np.ndarray:
    return np.random.default_rng(11).random((batch, 1, h, w)).astype(np.float32)


WIDE = {"images": _images(112, 448, 2)}
THREE = {"images": _images(112, 112, 3)}

IWSA = ("stages.0.0.attn",)
SSA = ("stages.0.1.attn",)
END = ("pool", "head", "logits")

PROJ = "        embeddings = self.proj(pixel_values)\n"
EMBEDDED = "            hidden_states, height, width = embedding_layer(hidden_states)\n"
POSITION = "                    hidden_states = position_layer(hidden_states, height, width)\n"
POSITION_SUM = "        return hidden_states + feature_map.flatten(2).transpose(1, 2)\n"
Q, K, V = (f"        {name} = self.{name}(hidden_states)\n" for name in ("query", "key", "value"))
LOCAL_MAP = "self.local(value.transpose(1, 2).reshape(batch_size, num_channels, height, width))"
LOCAL_SUM = "        context_layer = context_layer + local\n"
VALUE_WINDOWS = "        value_layer = self.transpose_for_scores(self.to_windows(value, height, width))\n"
KEY_WINDOWS = "        key_layer = self.transpose_for_scores(self.to_windows(key, height, width))\n"
WINDOW_SCALE = "        attention_scores = attention_scores / math.sqrt(self.attention_head_size)\n"
WINDOW_SOFTMAX = """        # Normalize the attention scores to probabilities.
        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
"""
WINDOW_MASK = "        # Mask heads if we want to\n"
WINDOW_CONTEXT = """            attention_probs = attention_probs * head_mask

        context_layer = torch.matmul(attention_probs, value_layer)
        context_layer = context_layer.permute(0, 2, 1, 3).contiguous()
        new_context_layer_shape = context_layer.size()[:-2] + (self.all_head_size,)
"""
SCALABLE_QUERY = "        query_layer = self.transpose_for_scores(self.query(hidden_states))\n"
SCALABLE_KEY = "        key_layer = self.transpose_for_scores(self.key(hidden_states))\n"
SCALABLE_VALUE = "        value_layer = self.transpose_for_scores(self.value(hidden_states))\n"
SCALABLE_SCALE = "        attention_scores = attention_scores / math.sqrt(self.scaled_head_size)\n"
NORM_ACT = """            hidden_states = self.layer_norm(hidden_states)
            hidden_states = self.act_fn(hidden_states)
"""
SELF_OUTPUT = """        hidden_states = self.dropout(hidden_states)
        return hidden_states


class ScalableVitAttention"""
BEFORE = "            self.layernorm_before(hidden_states),"
FIRST_SUM = "        hidden_states = attention_output + hidden_states\n"
AFTER = "        layer_output = self.layernorm_after(hidden_states)\n"
SECOND_SUM = "        layer_output = self.output(layer_output, hidden_states)\n"
INTERMEDIATE = """        hidden_states = self.dense(hidden_states)
        hidden_states = self.intermediate_act_fn(hidden_states)
"""
BETWEEN = "            # third, reshape back"
POOLED = "        pooled_output = sequence_output.mean(dim=1)\n"
DROPPED = "        pooled_output = self.dropout(pooled_output)\n"
LOGITS = "        logits = self.classifier(pooled_output)\n"

BATCH_NORM = (
    (
        "self.layer_norm = nn.LayerNorm(inner_size, eps=config.reduction_layer_norm_eps)",
        "self.layer_norm = nn.BatchNorm1d(inner_size)",
    ),
    (
        "self.layer_norm(hidden_states)\n            hidden_states = self.act_fn",
        "self.layer_norm(hidden_states.mT).mT\n            hidden_states = self.act_fn",
    ),
)
SOFTMAX_OF_TWO = (
    WINDOW_SOFTMAX,
    "        attention_probs = torch.exp2(attention_scores - attention_scores.amax(dim=-1, keepdim=True))\n"
    "        attention_probs = attention_probs / attention_probs.sum(dim=-1, keepdim=True)\n",
)
GATED = (POSITION_SUM, "        return hidden_states * feature_map.flatten(2).transpose(1, 2)\n")
KEY_OF_QUERY = (K, K.replace("self.key", "self.query"))
CENTRED = (VALUE_WINDOWS, VALUE_WINDOWS + "        value_layer = value_layer - value_layer.mean(dim=-2, keepdim=True)\n")
VIEWED = (LOCAL_MAP, "self.local(value.reshape(batch_size, num_channels, height, width))")
TRANSPOSED = (
    WINDOW_CONTEXT,
    WINDOW_CONTEXT.replace("matmul(attention_probs,", "matmul(attention_probs.transpose(-1, -2),"),
)
INVERTED = (
    "        outputs = self.scalablevit(\n            pixel_values,",
    "        outputs = self.scalablevit(\n            1.0 - pixel_values,",
)
SIGMOID = (LOGITS, "        logits = self.classifier(pooled_output).sigmoid()\n")
TANH = (DROPPED, "        pooled_output = self.dropout(torch.tanh(pooled_output))\n")
AFTER_ALONE = (AFTER, AFTER.replace("(hidden_states)", "(attention_output)"))
DOUBLED = ("        outputs = (layer_output,) + outputs\n", "        outputs = (layer_output + hidden_states,) + outputs\n")
BERTS = (SELF_OUTPUT, SELF_OUTPUT.replace("        return hidden_states\n", "        return hidden_states + input_tensor\n"))
SUB_NORM = (
    INTERMEDIATE,
    INTERMEDIATE + "        hidden_states = nn.functional.layer_norm(hidden_states, hidden_states.shape[-1:])\n",
)
MISH = ("self.act_fn = ACT2FN[config.hidden_act]", 'self.act_fn = ACT2FN["mish"]')
MEDIAN = (POOLED, "        pooled_output = sequence_output.median(dim=1).values\n")

IMAGES = r"(image|input|pixel)s?.*(scal|shift|offset|affine|factor|invert|normali|times|multipl)|(scal|shift|offset|affine|factor|invert|normali|multipl).*(image|input|pixel)"

EMBEDDINGS = (
    Planted(
        "the stem halves the image twice, the second time by a max-pool, as ResNet's",
        (
            ("kernel_size=patch_size, stride=stride,", "kernel_size=patch_size, stride=2,"),
            (
                PROJ,
                PROJ
                + "        if self.proj.kernel_size[0] == 7:\n"
                + "            embeddings = nn.functional.max_pool2d(embeddings, 3, 2, 1)\n",
            ),
        ),
        ("patch_embeds.0",),
        r"stride|pool|maxim|\bmax\b|largest",
    ),
    Planted(
        "the downsamplings do not stride: every two by two tokens are averaged after them",
        (
            ("kernel_size=patch_size, stride=stride,", "kernel_size=patch_size, stride=stride if patch_size == 7 else 1,"),
            (
                PROJ,
                PROJ
                + "        if self.proj.kernel_size[0] == 3:\n"
                + "            embeddings = nn.functional.avg_pool2d(embeddings, 2, ceil_mode=True)\n",
            ),
        ),
        ("patch_embeds.1",),
        r"stride|pool|averag|mean of|smooth|blur|alias|neighbo",
    ),
    Planted(
        "pixel values are inverted: dark digits on light ground",
        (INVERTED,),
        ("patch_embeds.0",),
        rf"invert|negat|1 ?[-−] ?x|minus|\bsign\b|affine|{IMAGES}",
    ),
    Planted(
        "every image is standardised by its own mean and deviation",
        (
            (
                "        outputs = self.scalablevit(\n",
                "        axes = (1, 2, 3)\n"
                "        pixel_values = (pixel_values - pixel_values.mean(axes, keepdim=True)) / pixel_values.std(axes, keepdim=True)\n"
                "        outputs = self.scalablevit(\n",
            ),
        ),
        ("patch_embeds.0",),
        rf"standardi|own (mean|deviation|statistic)|(each|per|every)[- ]image|image by image|affine|{IMAGES}",
    ),
    Planted(
        "embeddings are multiplied by the root of their size, as in the first Transformer",
        ((EMBEDDED, EMBEDDED + "            hidden_states = hidden_states * math.sqrt(hidden_states.shape[-1])\n"),),
        ("patch_embeds.0", "stages.0.0.norm1", "stages.0.0.norm2"),
        r"scal|factor|times|multipl|sqrt|root",
    ),
    Planted(
        "the embeddings of the third stage are normed per head, not per token",
        (
            (
                "        embeddings = self.layer_norm(embeddings)\n",
                "        if embeddings.shape[-1] == 48:\n"
                "            grouped = embeddings.unflatten(-1, (3, -1))\n"
                "            grouped = nn.functional.layer_norm(grouped, grouped.shape[-1:], eps=self.layer_norm.eps).flatten(-2)\n"
                "            return grouped * self.layer_norm.weight + self.layer_norm.bias, height, width\n"
                "        embeddings = self.layer_norm(embeddings)\n",
            ),
        ),
        ("patch_embeds.2",),
        r"group|\b16\b|\b3\b (runs|parts|groups)|per head|some of the channels|(norm|statistic|mean|deviation).*(other|part|few|axis|axes|channels)",
    ),
)

POSITIONS = (
    Planted(
        "the position encoding convolves the stage's input, not the first layer's output",
        (
            (EMBEDDED, EMBEDDED + "            stage_input = hidden_states\n"),
            (
                POSITION,
                "                    hidden_states = hidden_states + position_layer(stage_input, height, width) - stage_input\n",
            ),
        ),
        ("pos_block.0", "stages.0.1.norm1"),
        r"input|wrong tensor|another (map|tensor|value)|embedding|patch_embed|before the (first )?(block|layer)|\bfed\b|comes from",
    ),
    Planted(
        "the position encoding goes through GELU before it is added",
        (
            (
                "        feature_map = self.dwconv(feature_map)\n",
                "        feature_map = nn.functional.gelu(self.dwconv(feature_map))\n",
            ),
        ),
        ("pos_block.0",),
        r"gelu|activation|non-?linear|function of",
    ),
    Planted(
        "the position encoding gates the map instead of being added to it",
        (GATED,),
        ("pos_block.0",),
        r"product|multipl|gate|gating|times|not added|sum|residual|shortcut",
    ),
    Planted(
        "in the last stage only the first image of a batch gets its position encoding",
        (
            (
                POSITION,
                "                    encoded = position_layer(hidden_states, height, width)\n"
                "                    hidden_states = torch.cat([encoded[:1], (hidden_states if idx == 3 else encoded)[1:]])\n",
            ),
        ),
        ("pos_block.3", "stages.3.1.norm1"),
        r"(first|second|other|another|some|only|one|each|different|all but).{0,20}images?|images?.{0,30}(differ|first|other|only|alone)|batch",
        THREE,
    ),
)

WINDOWS = (
    Planted(
        "keys are computed by the layer of the queries",
        (KEY_OF_QUERY,),
        IWSA,
        r"never used|unused|not used|(key|\bk\b).*(quer|\bq\b|same|equal|twice)|(quer|\bq\b).*(key|\bk\b|twice)",
    ),
    Planted(
        "scores are multiplied by the root of the head's size",
        ((WINDOW_SCALE, WINDOW_SCALE.replace(" / ", " * ")),),
        IWSA,
        r"scale|scaled|scaling|temperature|factor|divid|multipl",
    ),
    Planted(
        "softmax over the windows",
        ((WINDOW_SOFTMAX, WINDOW_SOFTMAX.replace("dim=-1", "dim=0")),),
        IWSA,
        r"softmax.*(over|axis|dim|along)|(over|axis|dim|along).*softmax",
    ),
    Planted(
        "probabilities are transposed before they meet the values",
        (TRANSPOSED,),
        IWSA,
        r"transpos|softmax.*(quer|axis)|column|(quer|key)s? (and|for) (key|quer)|swap|exchang",
    ),
    Planted(
        "rotary embeddings turn queries and keys",
        (
            (
                "        # Take the dot product between",
                "        half = self.attention_head_size // 2\n"
                "        inv_freq = 1.0 / (100.0 ** (torch.arange(half, device=query.device, dtype=query.dtype) / half))\n"
                "        angles = torch.outer(torch.arange(query_layer.shape[-2], device=query.device, dtype=query.dtype), inv_freq)\n"
                "        cos, sin = torch.cat([angles.cos()] * 2, dim=-1), torch.cat([angles.sin()] * 2, dim=-1)\n"
                "        query_layer = query_layer * cos + torch.cat([-query_layer[..., half:], query_layer[..., :half]], dim=-1) * sin\n"
                "        key_layer = key_layer * cos + torch.cat([-key_layer[..., half:], key_layer[..., :half]], dim=-1) * sin\n\n"
                "        # Take the dot product between",
            ),
        ),
        IWSA,
        r"rotary|rotat|rope|position|depends? on the place|(quer|key)s?.*(chang|turn|other|not what)|between.*(quer|key)|scores?.*(chang|other|added|depend)",
    ),
    Planted(
        "softmax with base two",
        (SOFTMAX_OF_TWO,),
        IWSA,
        r"base|exp2|2 ?(\*\*|\^)|\b0?\.69|\bln\b|\blog|scale|scaling|temperature|softmax.*(factor|other|power)",
    ),
    Planted(
        "every head takes the mean of all heads' probabilities",
        ((WINDOW_MASK, "        attention_probs = attention_probs.mean(dim=1, keepdim=True)\n" + WINDOW_MASK),),
        ("stages.1.0.attn",),
        r"(averag|mean|share|same|all|every|between|across|mix).*heads?|heads?.*(averag|mean|share|same|mix)",
    ),
    Planted(
        "the identity of attention rollout is left in the probabilities",
        (
            (
                WINDOW_MASK,
                "        identity = torch.eye(attention_probs.shape[-1], dtype=attention_probs.dtype, device=attention_probs.device)\n"
                "        attention_probs = 0.5 * attention_probs + 0.5 * identity\n" + WINDOW_MASK,
            ),
        ),
        IWSA,
        r"identity|itself|diagonal|own value|rollout|half|(value|\bv\b).*(add|mix|combin|sum|plus)|(add|mix|combin|sum|plus).*(value|\bv\b)",
    ),
    Planted(
        "the probabilities of the first window serve all windows",
        ((WINDOW_MASK, "        attention_probs = attention_probs[:1].expand_as(attention_probs)\n" + WINDOW_MASK),),
        IWSA,
        r"first (window|image)|(same|share|one|another|other|mix|across).*(windows?|images?)|(windows?|images?).*(same|share|first|mix|another|depend)|batch",
    ),
    Planted(
        "values lose their mean over the window",
        (CENTRED,),
        IWSA,
        r"centr|(mean|average).*(subtract|remov|taken|miss|lost|window|value|token)|(subtract|remov|without|less).*(mean|average)|same at every token|constant",
    ),
    Planted(
        "the local convolution is added while the tokens still lie window by window",
        (
            (LOCAL_SUM, ""),
            (
                "        context_layer = context_layer.view(-1, self.window_size, self.window_size, num_channels)\n",
                "        context_layer = context_layer + local.reshape(context_layer.shape)\n"
                "        context_layer = context_layer.view(-1, self.window_size, self.window_size, num_channels)\n",
            ),
        ),
        IWSA,
        r"(lim|local|convolution).*(window|order|place|merg|permut|arrang|before)|(order|place|permut|arrang|partition|merg|revers).*(lim|local|convolution|window)",
    ),
    Planted(
        "the local convolution's map is a view of tokens and channels, not their transpose",
        (VIEWED,),
        IWSA,
        r"transpos|view|reshap|(lim|local|convolution|value).*(order|permut|place|layout|input|fed)|(order|permut|place|layout|input).*(lim|local|convolution|value)",
    ),
    Planted(
        "attention and the local convolution are averaged",
        ((LOCAL_SUM, "        context_layer = (context_layer + local) / 2\n"),),
        IWSA,
        r"half|halv|averag|mean of|\b0?\.5|factor|scaled by|1/2|divided|twice",
    ),
    Planted(
        "the last token of every window is masked, as padding",
        (
            (
                WINDOW_SCALE,
                WINDOW_SCALE
                + "        extended_attention_mask = torch.zeros_like(attention_scores[:1, :1, :1])\n"
                + "        extended_attention_mask[..., -1] = torch.finfo(attention_scores.dtype).min\n"
                + "        attention_scores = attention_scores + extended_attention_mask\n",
            ),
        ),
        IWSA,
        r"mask|last (token|key|column|one)|(key|token)s?.*(left out|exclud|ignor|hidden|miss|no weight|not seen)|(without|not see|not attend|fewer).*(key|token)",
    ),
    Planted(
        "windows take every second row, as of a grid, in the second stage",
        (
            (
                "        windows = window_partition(x.view(batch_size, height, width, num_channels), self.window_size)\n",
                "        feature_map = x.view(batch_size, height, width, num_channels)\n"
                "        if num_channels == 32:\n"
                "            feature_map = torch.cat([feature_map[:, ::2], feature_map[:, 1::2]], dim=1)\n"
                "        windows = window_partition(feature_map, self.window_size)\n",
            ),
            (
                "        context_layer = window_reverse(context_layer, self.window_size, height, width)\n",
                "        context_layer = window_reverse(context_layer, self.window_size, height, width)\n"
                "        if num_channels == 32:\n"
                "            context_layer = torch.stack(context_layer.chunk(2, dim=1), dim=2).flatten(1, 2)\n",
            ),
        ),
        ("stages.1.0.attn",),
        r"windows?.*(other|order|take|cut|partition|place|permut|row|grid|apart|made|consist)|partition|dilat|grid|every (second|other)",
    ),
    Planted(
        "probabilities are divided by the number of heads",
        ((WINDOW_MASK, "        attention_probs = attention_probs / self.num_attention_heads\n" + WINDOW_MASK),),
        ("stages.1.0.attn",),
        r"half|halv|factor|divid|number of heads|times|\b0?\.5|scaled by|sum to|sums? of",
    ),
)

SCALABLE = (
    Planted(
        "heads are those of the block's number, not of the stage's",
        (("config.num_attention_heads[stage]", "config.num_attention_heads[layer_idx]"),),
        SSA,
        r"\b[12]\b heads?|(number|count|num).{0,12}heads|heads.*(\d|number|count|split|cut)|(split|cut).*heads",
    ),
    Planted(
        "height and width are both taken as the root of the number of tokens",
        (
            (
                ".reshape(batch_size, num_channels, height, width)\n            # Apply sequence",
                ".reshape(batch_size, num_channels, int(math.sqrt(seq_len)), int(math.sqrt(seq_len)))\n            # Apply sequence",
            ),
        ),
        SSA,
        r"square|sqrt|root|height|width|\bh\b|\bw\b|rows?\b|oblong|aspect|another shape|size|order|reshap",
        WIDE,
    ),
    Planted(
        "values are computed by the keys' layer where nothing is reduced",
        ((SCALABLE_VALUE, SCALABLE_VALUE.replace("self.value(", "(self.value if self.sr_ratio > 1 else self.key)(")),),
        ("stages.2.1.attn",),
        r"never used|unused|not used|(value|\bv\b).*(key|\bk\b)|(key|\bk\b).*(value|\bv\b|twice)",
    ),
    Planted(
        "a batch norm in the reduction, with the statistics it starts with",
        BATCH_NORM,
        SSA,
        r"batch ?-?norm|running|statistic|norm.*(miss|left out|\bno\b|not |without|other|axis|axes|affine|alone|skipp)|(no|without|miss).*norm",
    ),
    Planted(
        "Mish in the reduction",
        (MISH,),
        SSA,
        r"mish|activation|gelu|non-?linear",
    ),
    Planted(
        "keys are taken before the activation, values after it",
        (
            (
                NORM_ACT,
                "            hidden_states = self.layer_norm(hidden_states)\n"
                "            normed_states = hidden_states\n"
                "            hidden_states = self.act_fn(hidden_states)\n"
                "        else:\n"
                "            normed_states = hidden_states\n",
            ),
            (SCALABLE_KEY, SCALABLE_KEY.replace("hidden_states", "normed_states")),
        ),
        SSA,
        r"(gelu|activation).*(key|\bk\b|miss|left out|without|not applied|skipp|before)|(key|\bk\b|without|\bno\b|before).*(gelu|activation)",
    ),
    Planted(
        "channels are scaled first and tokens reduced then: other shapes",
        (
            (
                "self.sr = nn.Conv2d(hidden_size, hidden_size, kernel_size=sr_ratio, stride=sr_ratio, groups=hidden_size)",
                "self.sr = nn.Conv2d(inner_size, inner_size, kernel_size=sr_ratio, stride=sr_ratio, groups=inner_size)",
            ),
            (
                "            hidden_states = self.sr(hidden_states)\n            hidden_states = self.cr(hidden_states)\n",
                "            hidden_states = self.cr(hidden_states)\n            hidden_states = self.sr(hidden_states)\n",
            ),
        ),
        SSA,
        r"(\bsr\b|\bcr\b|reduction).*(shape|order|\b16\b|\b20\b|partner|place|before|after)|(shape|order|partner|place).*(\bsr\b|\bcr\b|reduction)|depthwise.*(after|order|shape)|\(20, 1, 4, 4\)",
    ),
    Planted(
        "the reduction is normed before its channels are scaled: other shapes",
        (
            ("self.layer_norm = nn.LayerNorm(inner_size,", "self.layer_norm = nn.LayerNorm(hidden_size,"),
            (
                "            hidden_states = self.sr(hidden_states)\n            hidden_states = self.cr(hidden_states)\n",
                "            hidden_states = self.sr(hidden_states)\n"
                "            hidden_states = self.layer_norm(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)\n"
                "            hidden_states = self.cr(hidden_states)\n",
            ),
            (NORM_ACT, "            hidden_states = self.act_fn(hidden_states)\n"),
        ),
        SSA,
        r"norm.*(before|order|shape|\b16\b|\b20\b|partner|place)|(shape|partner|place).*norm|\(16,\).*\(20,\)|\(20,\).*\(16,\)",
    ),
    Planted(
        "values are of the scaled width too, as in the authors' first version: other shapes",
        (
            (
                "self.value = nn.Linear(inner_size, hidden_size, bias=config.qkv_bias)",
                "self.value = nn.Linear(inner_size, inner_size, bias=config.qkv_bias)",
            ),
            (
                "        self.output = ScalableVitSelfOutput(config, hidden_size)\n",
                "        self.output = ScalableVitSelfOutput(config, hidden_size, self.self.value.out_features)\n",
            ),
            (
                "    def __init__(self, config, hidden_size):\n        super().__init__()\n        self.dense = nn.Linear(hidden_size, hidden_size)",
                "    def __init__(self, config, hidden_size, value_size):\n        super().__init__()\n        self.dense = nn.Linear(value_size, hidden_size)",
            ),
        ),
        SSA,
        r"(value|\bv\b|proj|dense).*(shape|width|scaled|channels|\b16\b|\b20\b|partner|place)|(shape|width|scaled|partner|place).*(value|\bv\b|proj|dense)|ssa_values|first version|\bv1\b",
    ),
    Planted(
        "plain attention of the last stages stays inside windows",
        (
            (
                "                config, hidden_size, num_attention_heads, config.sr_ratios[stage], config.channel_ratios[stage]\n            )\n",
                "                config, hidden_size, num_attention_heads, config.sr_ratios[stage], config.channel_ratios[stage]\n            )\n"
                "            self.self.window_size = config.window_sizes[stage]\n",
            ),
            (
                SCALABLE_SCALE,
                SCALABLE_SCALE
                + "        if self.sr_ratio == 1:\n"
                + "            rows = torch.arange(height, device=hidden_states.device) // self.window_size\n"
                + "            columns = torch.arange(width, device=hidden_states.device) // self.window_size\n"
                + "            windows = (rows[:, None] * width + columns[None]).flatten()\n"
                + "            attention_scores = attention_scores.masked_fill(windows[:, None] != windows[None], float('-inf'))\n",
            ),
        ),
        ("stages.3.1.attn", "stages.2.1.attn"),
        r"window|mask|(not|few|only some|part).*(see|attend|key|token)|(key|token)s?.*(left out|exclud|ignor|hidden|no weight)|neighbo|block-?diagonal",
    ),
    Planted(
        "reduced tokens are standardised to unit length before the keys and values",
        ((NORM_ACT, NORM_ACT + "            hidden_states = nn.functional.normalize(hidden_states, dim=-1)\n"),),
        SSA,
        r"\bunit|length|normali[sz]|\bl2\b|divided by|scaled token by token",
    ),
    Planted(
        "scalable attention adds its values where nothing is reduced, as if it had a local branch",
        (
            (
                "(value_layer.shape[1] * value_layer.shape[3],)\n        context_layer = context_layer.view(new_context_layer_shape)\n",
                "(value_layer.shape[1] * value_layer.shape[3],)\n        context_layer = context_layer.view(new_context_layer_shape)\n"
                "        if self.sr_ratio == 1:\n"
                "            context_layer = context_layer + self.value(hidden_states)\n",
            ),
        ),
        ("stages.2.1.attn",),
        r"values?.*(add|sum|plus|twice|mix|too)|(add|sum|plus|twice|mix).*(values?|\bv\b)|\bv\b.*(add|twice)|identity|itself|diagonal|residual",
    ),
)

LAYERS = (
    Planted(
        "the attention's output adds its own input, as BERT's",
        (BERTS,),
        ("stages.0.0.attn", "stages.0.0.norm2"),
        r"residual|input.*(add|sum|plus|itself)|(add|sum|plus|contain).*(input|norm1|normed)|shortcut|skip|norm1",
    ),
    Planted(
        "the MLP's residual is added in the output and in the layer again",
        (DOUBLED,),
        ("stages.0.0", "pos_block.0"),
        r"residual|twice|doubl|shortcut|skip|two times|again|\b2 times|factor",
    ),
    Planted(
        "the second norm sees attention's output without the residual",
        (AFTER_ALONE,),
        ("stages.0.0.norm2",),
        r"residual|attention.*(alone|only|without|bare)|without|shortcut|skip|norm2.*(input|takes|fed|sees)",
    ),
    Planted(
        "the first norm runs twice",
        ((BEFORE, "            self.layernorm_before(self.layernorm_before(hidden_states)),"),),
        ("stages.0.0.norm1", "stages.0.0.attn"),
        r"twice|two times|again|doubl|second time|repeat|2 times|norm.*norm",
    ),
    Planted(
        "the last stage's layers are post-norm",
        (
            (
                "        self_attention_outputs = self.attention(\n",
                "        if self.stage == 3:\n"
                "            attended = self.attention(hidden_states, height, width, head_mask, output_attentions=output_attentions)\n"
                "            hidden_states = self.layernorm_before(hidden_states + attended[0])\n"
                "            layer_output = self.layernorm_after(self.output(self.intermediate(hidden_states), hidden_states))\n"
                "            return (layer_output,) + attended[1:]\n"
                "        self_attention_outputs = self.attention(\n",
            ),
        ),
        ("stages.3.0.norm1", "stages.3.0.attn"),
        r"post-?norm|norm.*(after|behind|before|order|sum|left out|miss|skipp|residual)|(after|before|behind|without|\bno\b).*norm|unnorm|not norm",
    ),
    Planted(
        "the second layer's MLP is the first layer's, as in ALBERT",
        (
            (
                "        self.block = nn.ModuleList(blocks)\n",
                "        self.block = nn.ModuleList(blocks)\n"
                "        for layers in blocks:\n"
                "            for layer in layers:\n"
                '                layer.__dict__["shared"] = layers[0]\n',
            ),
            ("layer_output = self.intermediate(layer_output)", "layer_output = self.shared.intermediate(layer_output)"),
            (
                "layer_output = self.output(layer_output, hidden_states)",
                "layer_output = self.shared.output(layer_output, hidden_states)",
            ),
        ),
        ("stages.0.1.mlp", "stages.0.1"),
        r"never used|unused|not used|share|same weights|twice|stages\.0\.0\.mlp|first (block|layer)|block 0|reus|another (block|layer)",
    ),
    Planted(
        "squared ReLU in the MLPs of the last stage",
        (
            (
                "self.intermediate_act_fn = ACT2FN[config.hidden_act]",
                'self.intermediate_act_fn = ACT2FN["relu2" if hidden_size == config.hidden_sizes[-1] else config.hidden_act]',
            ),
        ),
        ("stages.3.0.mlp",),
        r"relu|squar|activation|gelu",
    ),
    Planted(
        "hidden units are normed, without weights, as in NormFormer",
        (SUB_NORM,),
        ("stages.0.0.mlp",),
        r"\bnorm(s|ed)?\b|normali[sz]|layer ?norm|standardi|unit (variance|deviation)",
    ),
    Planted(
        "the first dense layer's weights are rounded to 8 bits when it runs",
        (
            (
                INTERMEDIATE,
                "        step = self.dense.weight.abs().amax(dim=1, keepdim=True) / 127\n"
                "        hidden_states = nn.functional.linear(hidden_states, (self.dense.weight / step).round() * step, self.dense.bias)\n"
                "        hidden_states = self.intermediate_act_fn(hidden_states)\n",
            ),
        ),
        ("stages.0.0.mlp",),
        r"quanti|8[- ]?bits?|int8|round|precision|weights?.*(chang|differ|modif|other|steps)|\b127\b|\b25[56]\b",
    ),
    Planted(
        "in scalable layers the MLP is added to the layer's input, not to attention's sum",
        (
            (FIRST_SUM, "        shortcut = hidden_states if self.layer_idx % 2 == 1 else None\n" + FIRST_SUM),
            (SECOND_SUM, "        layer_output = self.output(layer_output, hidden_states if shortcut is None else shortcut)\n"),
        ),
        ("stages.0.1", "patch_embeds.1"),
        r"residual|attention.*(left out|miss|without|lost|dropped|not added|only)|without (the )?attention|shortcut|skip",
    ),
    Planted(
        "the dense layer of attention is left out in the third stage's window layer",
        (
            (
                "        hidden_states = self.dense(hidden_states)\n        hidden_states = self.dropout(hidden_states)\n        return hidden_states\n\n\nclass ScalableVitAttention",
                "        if hidden_states.shape[-1] != 48:\n            hidden_states = self.dense(hidden_states)\n        hidden_states = self.dropout(hidden_states)\n        return hidden_states\n\n\nclass ScalableVitAttention",
            ),
        ),
        ("stages.2.0.attn",),
        r"proj|dense|never used|unused|not used|not applied|left out|miss",
    ),
)

ENCODER = (
    Planted(
        "a residual connection around every stage",
        (
            (EMBEDDED, EMBEDDED + "            stage_input = hidden_states\n"),
            (BETWEEN, "            hidden_states = hidden_states + stage_input\n" + BETWEEN),
        ),
        ("patch_embeds.1", "stages.0.1"),
        r"residual|shortcut|skip|stage.*input|input.*stage|(add|sum|plus).*(patch_embed|embedding|earlier|another)|patch_embeds\.0",
    ),
    Planted(
        "the last stage gets its tokens in the opposite order",
        (
            (
                BETWEEN,
                "            if idx == 2:\n                hidden_states = hidden_states.flip(1)\n" + BETWEEN,
            ),
        ),
        ("patch_embeds.3", "stages.2.1"),
        r"flip|mirror|revers|upside|rotat|turned|order|places|180",
    ),
    Planted(
        "the last two layers' states are averaged before the last norm",
        (
            (
                "            output_hidden_states=output_hidden_states,\n            return_dict=return_dict,\n        )\n        sequence_output = encoder_outputs[0]\n",
                "            output_hidden_states=True,\n            return_dict=return_dict,\n        )\n        sequence_output = (encoder_outputs.hidden_states[-1] + encoder_outputs.hidden_states[-2]) / 2\n",
            ),
        ),
        ("norm", "stages.3.1"),
        r"averag|mean of|earlier|pos_block|stages\.3\.0|(add|sum|plus|mix).*(layer|block|stage)|half|halv|\b0?\.5",
    ),
    Planted(
        "the second half of the channels is zero between the stages: features dropped",
        (
            (
                BETWEEN,
                "            if idx == 1:\n                hidden_states[..., hidden_states.shape[-1] // 2 :] = 0.0\n" + BETWEEN,
            ),
        ),
        ("patch_embeds.2", "stages.1.1"),
        r"zero|channels?|half",
    ),
)

HEADS = (
    Planted(
        "tanh of the pooled output, as BERT's pooler",
        (TANH,),
        END,
        r"tanh|activation|non-?linear|bounded|saturat",
    ),
    Planted(
        "tokens are summed, not averaged",
        ((POOLED, POOLED.replace(".mean(", ".sum(")),),
        END,
        r"\bsum|factor|times|multipl|scal|\b16\b|divid|number of tokens",
    ),
    Planted(
        "the median of the tokens",
        (MEDIAN,),
        END,
        r"median|pool.*(other|another|not|kind)|(not|another|other|instead of).*(mean|pool|averag)",
    ),
    Planted(
        "the mean leaves out the first token, as if it were [CLS]",
        ((POOLED, "        pooled_output = sequence_output[:, 1:].mean(dim=1)\n"),),
        END,
        r"first token|token 0|(\b1\b|\bone\b|\b15\b) (of |token)|(left out|leaves out|without|skip|exclud|miss|not all).*token|token.*(left out|without|skip|exclud|miss)|corner",
    ),
    Planted(
        "sigmoid of the logits, as for several labels",
        (SIGMOID,),
        ("head", "logits"),
        r"sigmoid|logistic|probabilit|activation|between 0 and 1",
    ),
    Planted(
        "classes are shifted by one, as with a background class",
        ((LOGITS, "        logits = self.classifier(pooled_output).roll(1, dims=-1)\n"),),
        ("head", "logits"),
        r"shift|roll|order|permut|cyclic|class(es)?.*(place|index|other)|label|row",
    ),
    Planted(
        "logits are multiplied by 100, as CLIP's",
        ((LOGITS, "        logits = 100.0 * self.classifier(pooled_output)\n"),),
        ("head", "logits"),
        r"\b100\b|scal|factor|times|multipl|temperature",
    ),
    Planted(
        "logits lose their mean over the batch",
        ((LOGITS, LOGITS + "        logits = logits - logits.mean(dim=0, keepdim=True)\n"),),
        ("head", "logits"),
        r"batch|other images?|another image|across images|between images|images? (depend|mix)|centr|subtract",
        THREE,
    ),
)

TWO = (
    Planted(
        "two: keys by the queries' layer, and tanh of the pooled output",
        (KEY_OF_QUERY, TANH),
        IWSA,
        r"tanh|activation|never used|unused|not used|(key|\bk\b).*(quer|\bq\b|same|equal|twice)|(quer|\bq\b).*(key|\bk\b|twice)",
    ),
    Planted(
        "two: softmax with base two, and the position encoding gates the map",
        (SOFTMAX_OF_TWO, GATED),
        IWSA,
        r"base|exp2|\b0?\.69|\bln\b|\blog|scale|scaling|temperature|product|multipl|gate|gating|residual|shortcut",
    ),
    Planted(
        "two: values lose their mean, and the local convolution's map is a view",
        (CENTRED, VIEWED),
        IWSA,
        r"centr|(mean|average).*(subtract|remov|miss|lost)|transpos|view|reshap|(lim|local|convolution).*(order|permut|place|layout|input|fed)|same at every token",
    ),
    Planted(
        "two: the second norm without the residual, and the MLP's residual doubled",
        (AFTER_ALONE, DOUBLED),
        ("stages.0.0.norm2",),
        r"residual|attention.*(alone|only|without)|shortcut|skip|twice|doubl|norm2.*(input|takes|fed|sees)",
    ),
    Planted(
        "two: batch norm and Mish in the reduction",
        (*BATCH_NORM, MISH),
        SSA,
        r"batch ?-?norm|running|statistic|norm.*(miss|left out|\bno\b|not |without|other|axis|axes|affine)|(no|without|miss).*norm|mish|activation|gelu",
    ),
    Planted(
        "two: pixels inverted, and sigmoid of the logits",
        (INVERTED, SIGMOID),
        ("patch_embeds.0",),
        rf"sigmoid|logistic|probabilit|invert|negat|1 ?[-−] ?x|minus|\bsign\b|affine|{IMAGES}",
    ),
    Planted(
        "two: probabilities transposed, and no scale",
        (TRANSPOSED, (WINDOW_SCALE, "")),
        IWSA,
        r"transpos|softmax.*(quer|axis)|scale|scaling|temperature|swap|exchang",
    ),
    Planted(
        "two: the attention's output adds its input, and hidden units are normed",
        (BERTS, SUB_NORM),
        ("stages.0.0.attn", "stages.0.0.norm2"),
        r"residual|input.*(add|sum|plus|itself)|(add|sum|plus|contain).*(input|norm1|normed)|shortcut|skip|norm1|norm|standardi",
    ),
)

MISTAKES: tuple[Planted, ...] = (*EMBEDDINGS, *POSITIONS, *WINDOWS, *SCALABLE, *LAYERS, *ENCODER, *HEADS, *TWO)

SCORES_TO_CONTEXT = """        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        attention_scores = attention_scores / math.sqrt(self.scaled_head_size)

        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
        attention_probs = self.dropout(attention_probs)
        if head_mask is not None:
            attention_probs = attention_probs * head_mask

        context_layer = torch.matmul(attention_probs, value_layer)
"""
WINDOW_SCORES_TO_CONTEXT = """        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        attention_scores = attention_scores / math.sqrt(self.attention_head_size)

        # Normalize the attention scores to probabilities.
        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
        attention_probs = self.dropout(attention_probs)

        # Mask heads if we want to
        if head_mask is not None:
            attention_probs = attention_probs * head_mask

        context_layer = torch.matmul(attention_probs, value_layer)
"""
CONV1D = """class ModelOutput(OrderedDict):
"""

RIGHT: tuple[Planted, ...] = (
    Planted(
        "right: sdpa, the weights of attention are not given out",
        (
            (
                SCORES_TO_CONTEXT,
                "        attention_probs = None\n"
                "        context_layer = nn.functional.scaled_dot_product_attention(\n"
                "            query_layer, key_layer, value_layer, scale=self.scaled_head_size**-0.5\n        )\n",
            ),
            (
                WINDOW_SCORES_TO_CONTEXT,
                "        attention_probs = None\n"
                "        context_layer = nn.functional.scaled_dot_product_attention(query_layer, key_layer, value_layer)\n",
            ),
        ),
    ),
    Planted(
        "right: the MLP runs on chunks of tokens",
        (
            (
                "        layer_output = self.intermediate(layer_output)\n",
                "        layer_output = torch.cat([self.intermediate(chunk) for chunk in layer_output.split(14, dim=1)], dim=1)\n",
            ),
        ),
    ),
    Planted(
        "right: keys without their mean, which no softmax sees",
        ((KEY_WINDOWS, KEY_WINDOWS + "        key_layer = key_layer - key_layer.mean(dim=-2, keepdim=True)\n"),),
    ),
    Planted(
        "right: a tuple, not a ModelOutput",
        (("        use_return_dict=True,\n", "        use_return_dict=False,\n"),),
    ),
    Planted(
        "right: query, key and value by one product of their weights together",
        (
            (
                Q + K + V,
                "        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])\n"
                "        bias = torch.cat([self.query.bias, self.key.bias, self.value.bias])\n"
                "        query, key, value = nn.functional.linear(hidden_states, weight, bias).chunk(3, dim=-1)\n",
            ),
        ),
    ),
    Planted(
        "right: GPT-2's Conv1D in place of Linear in the MLP",
        (
            (
                CONV1D,
                "class Conv1D(nn.Module):\n"
                "    def __init__(self, nf, nx):\n"
                "        super().__init__()\n"
                "        self.weight = nn.Parameter(0.02 * torch.randn(nx, nf))\n"
                "        self.bias = nn.Parameter(torch.zeros(nf))\n\n"
                "    def forward(self, x):\n"
                "        size_out = x.size()[:-1] + (self.weight.shape[1],)\n"
                "        x = torch.addmm(self.bias, x.reshape(-1, x.size(-1)), self.weight)\n"
                "        return x.view(size_out)\n\n\n" + CONV1D,
            ),
            ("self.dense = nn.Linear(hidden_size, intermediate_size)", "self.dense = Conv1D(intermediate_size, hidden_size)"),
            ("self.dense = nn.Linear(intermediate_size, hidden_size)", "self.dense = Conv1D(hidden_size, intermediate_size)"),
        ),
    ),
    Planted(
        "right: a layer norm of its own, with gamma and beta",
        (
            (
                CONV1D,
                "class TFLayerNorm(nn.Module):\n"
                "    def __init__(self, hidden_size, eps):\n"
                "        super().__init__()\n"
                "        self.gamma = nn.Parameter(torch.ones(hidden_size))\n"
                "        self.beta = nn.Parameter(torch.zeros(hidden_size))\n"
                "        self.variance_epsilon = eps\n\n"
                "    def forward(self, x):\n"
                "        u = x.mean(-1, keepdim=True)\n"
                "        s = (x - u).pow(2).mean(-1, keepdim=True)\n"
                "        x = (x - u) / torch.sqrt(s + self.variance_epsilon)\n"
                "        return self.gamma * x + self.beta\n\n\n" + CONV1D,
            ),
            ("self.layernorm_before = nn.LayerNorm(", "self.layernorm_before = TFLayerNorm("),
            ("self.layernorm_after = nn.LayerNorm(", "self.layernorm_after = TFLayerNorm("),
            ("self.layernorm = nn.LayerNorm(config.hidden_sizes[-1]", "self.layernorm = TFLayerNorm(config.hidden_sizes[-1]"),
        ),
    ),
    Planted(
        "right: a head mask of ones in every layer",
        (
            (
                "                layer_head_mask = head_mask[layer_number] if head_mask is not None else None\n",
                "                layer_head_mask = torch.ones(1, self.config.num_attention_heads[idx], 1, 1, dtype=hidden_states.dtype)\n",
            ),
        ),
    ),
    Planted(
        "right: baddbmm with the scale as its alpha, as Bloom's",
        (
            (
                SCORES_TO_CONTEXT.split("\n\n")[0],
                "        queries, keys = query_layer.flatten(0, 1), key_layer.flatten(0, 1)\n"
                "        attention_scores = torch.baddbmm(\n"
                "            queries.new_zeros(1, 1, 1), queries, keys.transpose(1, 2), beta=0.0, alpha=self.scaled_head_size**-0.5\n"
                "        )\n"
                "        attention_scores = attention_scores.unflatten(0, query_layer.shape[:2])",
            ),
        ),
    ),
    Planted(
        "right: queries are attended seven at a time",
        (
            (
                WINDOW_SCORES_TO_CONTEXT,
                "        attention_probs = [\n"
                "            (chunk @ key_layer.mT / math.sqrt(self.attention_head_size)).softmax(-1) for chunk in query_layer.split(7, dim=2)\n"
                "        ]\n"
                "        context_layer = torch.cat([probs @ value_layer for probs in attention_probs], dim=2)\n",
            ),
        ),
    ),
    Planted(
        "right: everything is given out",
        (
            (
                "        output_attentions=False,\n        output_hidden_states=False,\n        use_return_dict",
                "        output_attentions=True,\n        output_hidden_states=True,\n        use_return_dict",
            ),
        ),
    ),
    Planted(
        "right: adapters of low rank beside query and value, whose second factor is zero",
        (
            (
                CONV1D,
                "class LoraLinear(nn.Linear):\n"
                "    def __init__(self, *args, **kwargs):\n"
                "        super().__init__(*args, **kwargs)\n"
                "        self.lora_A = nn.Parameter(torch.randn(4, self.in_features))\n"
                "        self.lora_B = nn.Parameter(torch.zeros(self.out_features, 4))\n\n"
                "    def forward(self, x):\n"
                "        return super().forward(x) + x @ self.lora_A.T @ self.lora_B.T\n\n\n" + CONV1D,
            ),
            ("self.query = nn.Linear(hidden_size, self.all_head_size", "self.query = LoraLinear(hidden_size, self.all_head_size"),
            ("self.value = nn.Linear(hidden_size, self.all_head_size", "self.value = LoraLinear(hidden_size, self.all_head_size"),
        ),
    ),
    Planted(
        "right: gradient checkpointing is on",
        (("        self.gradient_checkpointing = False\n", "        self.gradient_checkpointing = True\n"),),
    ),
    Planted(
        "right: the stem's patches are unfolded and multiplied",
        (
            (
                PROJ,
                "        conv = self.proj\n"
                "        patches = nn.functional.unfold(pixel_values, conv.kernel_size, padding=conv.padding, stride=conv.stride)\n"
                "        height, width = ((n - 1) // conv.stride[0] + 1 for n in pixel_values.shape[-2:])\n"
                "        embeddings = conv.weight.flatten(1) @ patches + conv.bias[:, None]\n"
                "        embeddings = embeddings.unflatten(2, (height, width))\n",
            ),
        ),
    ),
    Planted(
        "right: reduced keys and values in the opposite order",
        (
            (
                "            hidden_states = hidden_states.flatten(2).permute(0, 2, 1)\n",
                "            hidden_states = hidden_states.flatten(2).permute(0, 2, 1).flip(1)\n",
            ),
        ),
    ),
    Planted(
        "right: queries are scaled as they leave their layer, as OPT's",
        (
            (Q, "        query = self.query(hidden_states) * self.attention_head_size**-0.5\n"),
            (WINDOW_SCALE, ""),
        ),
    ),
)

# ruff: noqa
# mypy: ignore-errors
"""ScalableViT in the manner of Hugging Face Transformers: a configuration, embeddings, self-attention with query, key and value, outputs."""

import math
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Optional, Tuple, Union

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import CrossEntropyLoss


class GELUActivation(nn.Module):
    def forward(self, input):
        return nn.functional.gelu(input)


class NewGELUActivation(nn.Module):
    """The one of Google BERT and OpenAI GPT."""

    def forward(self, input):
        return 0.5 * input * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (input + 0.044715 * torch.pow(input, 3.0))))


class ReLUSquaredActivation(nn.Module):
    def forward(self, input):
        return torch.square(nn.functional.relu(input))


ACT2FN = {
    "gelu": GELUActivation(),
    "gelu_new": NewGELUActivation(),
    "relu": nn.ReLU(),
    "relu2": ReLUSquaredActivation(),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "tanh": nn.Tanh(),
}


class ModelOutput(OrderedDict):
    """A dictionary whose entries are attributes too; those that are None are left out."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value

    def __getitem__(self, k):
        if isinstance(k, str):
            return dict(self.items())[k]
        return self.to_tuple()[k]

    def to_tuple(self):
        return tuple(self[k] for k in self.keys())


@dataclass
class BaseModelOutput(ModelOutput):
    last_hidden_state: torch.FloatTensor = None
    hidden_states: Optional[Tuple[torch.FloatTensor]] = None
    attentions: Optional[Tuple[torch.FloatTensor]] = None


@dataclass
class ImageClassifierOutput(ModelOutput):
    loss: Optional[torch.FloatTensor] = None
    logits: torch.FloatTensor = None
    hidden_states: Optional[Tuple[torch.FloatTensor]] = None
    attentions: Optional[Tuple[torch.FloatTensor]] = None


class ScalableVitConfig:
    model_type = "scalablevit"

    def __init__(
        self,
        num_channels=3,
        hidden_sizes=(64, 128, 256, 512),
        depths=(2, 2, 20, 2),
        num_attention_heads=(2, 4, 8, 16),
        mlp_ratios=(4, 4, 4, 4),
        sr_ratios=(8, 4, 2, 1),
        channel_ratios=(1.25, 1.25, 1.25, 1.0),
        window_sizes=(7, 7, 7, 7),
        patch_sizes=(7, 3, 3, 3),
        strides=(4, 2, 2, 2),
        qkv_bias=True,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        initializer_range=0.02,
        layer_norm_eps=1e-6,
        reduction_layer_norm_eps=1e-5,
        classifier_hidden_size=4096,
        num_labels=1000,
        output_attentions=False,
        output_hidden_states=False,
        use_return_dict=True,
    ):
        self.num_channels = num_channels
        self.num_encoder_blocks = len(depths)
        self.hidden_sizes = hidden_sizes
        self.depths = depths
        self.num_attention_heads = num_attention_heads
        self.mlp_ratios = mlp_ratios
        self.sr_ratios = sr_ratios
        self.channel_ratios = channel_ratios
        self.window_sizes = window_sizes
        self.patch_sizes = patch_sizes
        self.strides = strides
        self.qkv_bias = qkv_bias
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.classifier_dropout_prob = classifier_dropout_prob
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.reduction_layer_norm_eps = reduction_layer_norm_eps
        self.classifier_hidden_size = classifier_hidden_size
        self.num_labels = num_labels
        self.output_attentions = output_attentions
        self.output_hidden_states = output_hidden_states
        self.use_return_dict = use_return_dict


def window_partition(input_feature, window_size):
    """Partitions a (batch, height, width, channels) map into (batch * windows, window_size, window_size, channels)."""
    batch_size, height, width, num_channels = input_feature.shape
    input_feature = input_feature.view(
        batch_size, height // window_size, window_size, width // window_size, window_size, num_channels
    )
    return input_feature.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window_size, window_size, num_channels)


def window_reverse(windows, window_size, height, width):
    """Merges windows to a map again."""
    num_channels = windows.shape[-1]
    windows = windows.view(-1, height // window_size, width // window_size, window_size, window_size, num_channels)
    return windows.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, num_channels)


class ScalableVitOverlapPatchEmbeddings(nn.Module):
    """Image or map to tokens."""

    def __init__(self, config, patch_size, stride, num_channels, hidden_size):
        super().__init__()
        self.proj = nn.Conv2d(num_channels, hidden_size, kernel_size=patch_size, stride=stride, padding=patch_size // 2)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values):
        embeddings = self.proj(pixel_values)
        _, _, height, width = embeddings.shape
        # (batch_size, num_channels, height, width) -> (batch_size, num_channels, height*width) -> (batch_size, height*width, num_channels)
        embeddings = embeddings.flatten(2).transpose(1, 2)
        embeddings = self.layer_norm(embeddings)
        return embeddings, height, width


class ScalableVitPositionEncoding(nn.Module):
    """Position encoding generator: a depthwise convolution and a residual connection."""

    def __init__(self, hidden_size):
        super().__init__()
        self.dwconv = nn.Conv2d(hidden_size, hidden_size, 3, 1, 1, bias=True, groups=hidden_size)

    def forward(self, hidden_states, height, width):
        batch_size, seq_len, num_channels = hidden_states.shape
        feature_map = hidden_states.transpose(1, 2).view(batch_size, num_channels, height, width)
        feature_map = self.dwconv(feature_map)
        return hidden_states + feature_map.flatten(2).transpose(1, 2)


class ScalableVitWindowSelfAttention(nn.Module):
    """Interactive windowed self-attention, up to the output's dense layer."""

    def __init__(self, config, hidden_size, num_attention_heads, window_size):
        super().__init__()
        if hidden_size % num_attention_heads != 0:
            raise ValueError(f"The hidden size {hidden_size} is not a multiple of the attention heads {num_attention_heads}.")
        self.window_size = window_size
        self.num_attention_heads = num_attention_heads
        self.attention_head_size = int(hidden_size / num_attention_heads)
        self.all_head_size = self.num_attention_heads * self.attention_head_size

        self.query = nn.Linear(hidden_size, self.all_head_size, bias=config.qkv_bias)
        self.key = nn.Linear(hidden_size, self.all_head_size, bias=config.qkv_bias)
        self.value = nn.Linear(hidden_size, self.all_head_size, bias=config.qkv_bias)
        self.local = nn.Conv2d(hidden_size, hidden_size, kernel_size=3, padding=1, groups=hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def transpose_for_scores(self, x):
        new_x_shape = x.size()[:-1] + (self.num_attention_heads, self.attention_head_size)
        x = x.view(new_x_shape)
        return x.permute(0, 2, 1, 3)

    def to_windows(self, x, height, width):
        batch_size, _, num_channels = x.shape
        windows = window_partition(x.view(batch_size, height, width, num_channels), self.window_size)
        return windows.view(-1, self.window_size * self.window_size, num_channels)

    def forward(self, hidden_states, height, width, head_mask=None, output_attentions=False):
        batch_size, seq_len, num_channels = hidden_states.shape
        query = self.query(hidden_states)
        key = self.key(hidden_states)
        value = self.value(hidden_states)

        local = self.local(value.transpose(1, 2).reshape(batch_size, num_channels, height, width))
        local = local.flatten(2).transpose(1, 2)

        query_layer = self.transpose_for_scores(self.to_windows(query, height, width))
        key_layer = self.transpose_for_scores(self.to_windows(key, height, width))
        value_layer = self.transpose_for_scores(self.to_windows(value, height, width))

        # Take the dot product between "query" and "key" to get the raw attention scores.
        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        attention_scores = attention_scores / math.sqrt(self.attention_head_size)

        # Normalize the attention scores to probabilities.
        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
        attention_probs = self.dropout(attention_probs)

        # Mask heads if we want to
        if head_mask is not None:
            attention_probs = attention_probs * head_mask

        context_layer = torch.matmul(attention_probs, value_layer)
        context_layer = context_layer.permute(0, 2, 1, 3).contiguous()
        new_context_layer_shape = context_layer.size()[:-2] + (self.all_head_size,)
        context_layer = context_layer.view(new_context_layer_shape)

        context_layer = context_layer.view(-1, self.window_size, self.window_size, num_channels)
        context_layer = window_reverse(context_layer, self.window_size, height, width)
        context_layer = context_layer.view(batch_size, seq_len, num_channels)
        context_layer = context_layer + local

        outputs = (context_layer, attention_probs) if output_attentions else (context_layer,)
        return outputs


class ScalableVitScalableSelfAttention(nn.Module):
    """Scalable self-attention: fewer keys of another width, up to the output's dense layer."""

    def __init__(self, config, hidden_size, num_attention_heads, sr_ratio, channel_ratio):
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.sr_ratio = sr_ratio
        self.scaled_head_size = hidden_size / num_attention_heads * channel_ratio
        inner_size = int(hidden_size * channel_ratio) if sr_ratio > 1 else hidden_size

        self.query = nn.Linear(hidden_size, inner_size, bias=config.qkv_bias)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(hidden_size, hidden_size, kernel_size=sr_ratio, stride=sr_ratio, groups=hidden_size)
            self.cr = nn.Conv2d(hidden_size, inner_size, kernel_size=1)
            self.layer_norm = nn.LayerNorm(inner_size, eps=config.reduction_layer_norm_eps)
            self.act_fn = ACT2FN[config.hidden_act]
        self.key = nn.Linear(inner_size, inner_size, bias=config.qkv_bias)
        self.value = nn.Linear(inner_size, hidden_size, bias=config.qkv_bias)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def transpose_for_scores(self, hidden_states):
        attention_head_size = hidden_states.shape[-1] // self.num_attention_heads
        new_shape = hidden_states.size()[:-1] + (self.num_attention_heads, attention_head_size)
        hidden_states = hidden_states.view(new_shape)
        return hidden_states.permute(0, 2, 1, 3)

    def forward(self, hidden_states, height, width, head_mask=None, output_attentions=False):
        query_layer = self.transpose_for_scores(self.query(hidden_states))

        if self.sr_ratio > 1:
            batch_size, seq_len, num_channels = hidden_states.shape
            # Reshape to (batch_size, num_channels, height, width)
            hidden_states = hidden_states.permute(0, 2, 1).reshape(batch_size, num_channels, height, width)
            # Apply sequence reduction and channel scaling
            hidden_states = self.sr(hidden_states)
            hidden_states = self.cr(hidden_states)
            # Reshape back to (batch_size, seq_len, num_channels)
            hidden_states = hidden_states.flatten(2).permute(0, 2, 1)
            hidden_states = self.layer_norm(hidden_states)
            hidden_states = self.act_fn(hidden_states)

        key_layer = self.transpose_for_scores(self.key(hidden_states))
        value_layer = self.transpose_for_scores(self.value(hidden_states))

        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        attention_scores = attention_scores / math.sqrt(self.scaled_head_size)

        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
        attention_probs = self.dropout(attention_probs)
        if head_mask is not None:
            attention_probs = attention_probs * head_mask

        context_layer = torch.matmul(attention_probs, value_layer)
        context_layer = context_layer.permute(0, 2, 1, 3).contiguous()
        new_context_layer_shape = context_layer.size()[:-2] + (value_layer.shape[1] * value_layer.shape[3],)
        context_layer = context_layer.view(new_context_layer_shape)

        outputs = (context_layer, attention_probs) if output_attentions else (context_layer,)
        return outputs


class ScalableVitSelfOutput(nn.Module):
    """The residual connection is in the layer, because of the layer norm before."""

    def __init__(self, config, hidden_size):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, input_tensor):
        hidden_states = self.dense(hidden_states)
        hidden_states = self.dropout(hidden_states)
        return hidden_states


class ScalableVitAttention(nn.Module):
    def __init__(self, config, stage, layer_idx):
        super().__init__()
        hidden_size = config.hidden_sizes[stage]
        num_attention_heads = config.num_attention_heads[stage]
        if layer_idx % 2 == 0:
            self.self = ScalableVitWindowSelfAttention(config, hidden_size, num_attention_heads, config.window_sizes[stage])
        else:
            self.self = ScalableVitScalableSelfAttention(
                config, hidden_size, num_attention_heads, config.sr_ratios[stage], config.channel_ratios[stage]
            )
        self.output = ScalableVitSelfOutput(config, hidden_size)

    def forward(self, hidden_states, height, width, head_mask=None, output_attentions=False):
        self_outputs = self.self(hidden_states, height, width, head_mask, output_attentions)
        attention_output = self.output(self_outputs[0], hidden_states)
        outputs = (attention_output,) + self_outputs[1:]  # add attentions if we output them
        return outputs


class ScalableVitIntermediate(nn.Module):
    def __init__(self, config, hidden_size, intermediate_size):
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states):
        hidden_states = self.dense(hidden_states)
        hidden_states = self.intermediate_act_fn(hidden_states)
        return hidden_states


class ScalableVitOutput(nn.Module):
    def __init__(self, config, hidden_size, intermediate_size):
        super().__init__()
        self.dense = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, input_tensor):
        hidden_states = self.dense(hidden_states)
        hidden_states = self.dropout(hidden_states)
        hidden_states = hidden_states + input_tensor
        return hidden_states


class ScalableVitLayer(nn.Module):
    def __init__(self, config, stage, layer_idx):
        super().__init__()
        hidden_size = config.hidden_sizes[stage]
        intermediate_size = int(hidden_size * config.mlp_ratios[stage])
        self.stage = stage
        self.layer_idx = layer_idx
        self.attention = ScalableVitAttention(config, stage, layer_idx)
        self.intermediate = ScalableVitIntermediate(config, hidden_size, intermediate_size)
        self.output = ScalableVitOutput(config, hidden_size, intermediate_size)
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states, height, width, head_mask=None, output_attentions=False):
        self_attention_outputs = self.attention(
            self.layernorm_before(hidden_states),  # in ScalableViT, layernorm is applied before self-attention
            height,
            width,
            head_mask,
            output_attentions=output_attentions,
        )
        attention_output = self_attention_outputs[0]
        outputs = self_attention_outputs[1:]  # add self attentions if we output attention weights

        # first residual connection
        hidden_states = attention_output + hidden_states

        # layernorm is also applied after self-attention
        layer_output = self.layernorm_after(hidden_states)
        layer_output = self.intermediate(layer_output)

        # second residual connection is done here
        layer_output = self.output(layer_output, hidden_states)

        outputs = (layer_output,) + outputs
        return outputs


class ScalableVitEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False

        # patch embeddings
        embeddings = []
        for i in range(config.num_encoder_blocks):
            embeddings.append(
                ScalableVitOverlapPatchEmbeddings(
                    config,
                    patch_size=config.patch_sizes[i],
                    stride=config.strides[i],
                    num_channels=config.num_channels if i == 0 else config.hidden_sizes[i - 1],
                    hidden_size=config.hidden_sizes[i],
                )
            )
        self.patch_embeddings = nn.ModuleList(embeddings)

        # Transformer blocks
        blocks = []
        for i in range(config.num_encoder_blocks):
            blocks.append(nn.ModuleList([ScalableVitLayer(config, i, j) for j in range(config.depths[i])]))
        self.block = nn.ModuleList(blocks)

        # position encodings
        self.position_encodings = nn.ModuleList([ScalableVitPositionEncoding(size) for size in config.hidden_sizes])

    def forward(self, pixel_values, head_mask=None, output_attentions=False, output_hidden_states=False, return_dict=True):
        all_hidden_states = () if output_hidden_states else None
        all_self_attentions = () if output_attentions else None
        batch_size = pixel_values.shape[0]
        hidden_states = pixel_values
        layer_number = 0

        for idx, (embedding_layer, block_layer, position_layer) in enumerate(
            zip(self.patch_embeddings, self.block, self.position_encodings)
        ):
            # first, obtain patch embeddings
            hidden_states, height, width = embedding_layer(hidden_states)
            # second, send embeddings through blocks
            for i, blk in enumerate(block_layer):
                layer_head_mask = head_mask[layer_number] if head_mask is not None else None
                if self.gradient_checkpointing:
                    layer_outputs = torch.utils.checkpoint.checkpoint(
                        blk.__call__, hidden_states, height, width, layer_head_mask, output_attentions, use_reentrant=False
                    )
                else:
                    layer_outputs = blk(hidden_states, height, width, layer_head_mask, output_attentions)
                hidden_states = layer_outputs[0]
                layer_number += 1
                if output_attentions:
                    all_self_attentions = all_self_attentions + (layer_outputs[1],)
                if i == 0:
                    hidden_states = position_layer(hidden_states, height, width)
                if output_hidden_states:
                    all_hidden_states = all_hidden_states + (hidden_states,)
            # third, reshape back to (batch_size, num_channels, height, width) between the stages
            if idx != len(self.patch_embeddings) - 1:
                hidden_states = hidden_states.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2).contiguous()

        if not return_dict:
            return tuple(v for v in [hidden_states, all_hidden_states, all_self_attentions] if v is not None)
        return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=all_hidden_states, attentions=all_self_attentions)


class ScalableVitPreTrainedModel(nn.Module):
    base_model_prefix = "scalablevit"
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__()
        self.config = config

    def post_init(self):
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=self.config.initializer_range)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.bias.data.zero_()
            module.weight.data.fill_(1.0)

    def get_head_mask(self, head_mask, num_hidden_layers):
        if head_mask is None:
            return None
        if head_mask.dim() == 1:
            head_mask = head_mask.unsqueeze(0).expand(num_hidden_layers, -1)
        return head_mask.unsqueeze(1).unsqueeze(-1).unsqueeze(-1)  # layers x 1 x heads x 1 x 1


class ScalableVitModel(ScalableVitPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.encoder = ScalableVitEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_sizes[-1], eps=config.layer_norm_eps)
        self.post_init()

    def forward(self, pixel_values, head_mask=None, output_attentions=None, output_hidden_states=None, return_dict=None):
        output_attentions = output_attentions if output_attentions is not None else self.config.output_attentions
        output_hidden_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        head_mask = self.get_head_mask(head_mask, sum(self.config.depths))

        encoder_outputs = self.encoder(
            pixel_values,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        sequence_output = encoder_outputs[0]
        sequence_output = self.layernorm(sequence_output)

        if not return_dict:
            return (sequence_output,) + encoder_outputs[1:]
        return BaseModelOutput(
            last_hidden_state=sequence_output,
            hidden_states=encoder_outputs.hidden_states,
            attentions=encoder_outputs.attentions,
        )


class ScalableVitClassificationHead(nn.Module):
    """The two-layer head."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_sizes[-1], config.classifier_hidden_size)
        self.layer_norm = nn.LayerNorm(config.classifier_hidden_size, eps=config.layer_norm_eps)
        self.out_proj = nn.Linear(config.classifier_hidden_size, config.num_labels)

    def forward(self, features):
        x = self.dense(features)
        x = self.layer_norm(x)
        x = nn.functional.gelu(x)
        return self.out_proj(x)


class ScalableVitForImageClassification(ScalableVitPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scalablevit = ScalableVitModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)

        # Classifier head
        if config.classifier_hidden_size:
            self.classifier = ScalableVitClassificationHead(config)
        else:
            self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels) if config.num_labels > 0 else nn.Identity()

        # Initialize weights and apply final processing
        self.post_init()

    def forward(
        self,
        pixel_values: Optional[torch.FloatTensor] = None,
        head_mask: Optional[torch.Tensor] = None,
        labels: Optional[torch.LongTensor] = None,
        output_attentions: Optional[bool] = None,
        output_hidden_states: Optional[bool] = None,
        return_dict: Optional[bool] = None,
    ) -> Union[Tuple, ImageClassifierOutput]:
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict

        outputs = self.scalablevit(
            pixel_values,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        sequence_output = outputs[0]

        # global average pooling
        pooled_output = sequence_output.mean(dim=1)
        pooled_output = self.dropout(pooled_output)
        logits = self.classifier(pooled_output)

        loss = None
        if labels is not None:
            loss = CrossEntropyLoss()(logits.view(-1, self.num_labels), labels.view(-1))

        if not return_dict:
            output = (logits,) + outputs[1:]
            return ((loss,) + output) if loss is not None else output
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)


def build(config):
    hf_config = ScalableVitConfig(
        num_channels=config.in_chans,
        hidden_sizes=config.embed_dims,
        depths=config.depths,
        num_attention_heads=config.num_heads,
        mlp_ratios=config.mlp_ratios,
        sr_ratios=config.sr_ratios,
        channel_ratios=config.c_ratios,
        window_sizes=config.window_sizes,
        patch_sizes=[2 * config.patch_size - 1] + [3] * (len(config.depths) - 1),
        strides=[config.patch_size] + [2] * (len(config.depths) - 1),
        qkv_bias=config.qkv_bias,
        layer_norm_eps=config.norm_eps,
        classifier_hidden_size=4096 if config.head == "mlp" else 0,
        num_labels=config.num_classes,
    )
    return ScalableVitForImageClassification(hf_config).eval()

"""ScalableViT in transformers: configuration, models, backbone and image processor, registered with the Auto classes.

`import scalablevit_ref.adapters.transformers` registers them: `AutoModelForImageClassification.from_pretrained(folder)` and
`pipeline("image-classification", folder)` then open what `scalablevit-ref convert FILE FOLDER --to transformers` writes, and
UperNet, DETR, Mask2Former and others take a `ScalableViTConfig` as their `backbone_config`.

All parameters have the official names, in the files that transformers writes too: `sv.load_checkpoint(folder)` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from math import sqrt
from typing import Any, ClassVar

from einops import rearrange, reduce

from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_rate
from scalablevit_ref.checkpoints.transformers_folder import MODEL_TYPE, class_names
from scalablevit_ref.config import ScalableViTConfig as Specification
from scalablevit_ref.config import settled

with extra("transformers"):
    import torch
    from torch import Tensor, nn
    from transformers import (
        AutoBackbone,
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageClassification,
        PreTrainedConfig,
        PreTrainedModel,
        initialization,
    )
    from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.modeling_outputs import (
        BackboneOutput,
        BaseModelOutputWithPoolingAndNoAttention,
        ImageClassifierOutputWithNoAttention,
    )
    from transformers.utils import can_return_tuple

    from scalablevit_ref.adapters.torch import ScalableViT
    from scalablevit_ref.adapters.torch_layers import Block, run_head
    from scalablevit_ref.adapters.transformers_images import ScalableViTImageProcessor

__all__ = [
    "ScalableViTBackbone",
    "ScalableViTConfig",
    "ScalableViTForImageClassification",
    "ScalableViTImageProcessor",
    "ScalableViTModel",
]

SETTINGS = tuple(field.name for field in fields(Specification) if field.name != "num_classes")
"""Attributes of the configuration that are settings of the specification; the classes are `num_labels`."""


class ScalableViTConfig(BackboneConfigMixin, PreTrainedConfig):  # type: ignore[misc]
    """The settings of `sv.ScalableViTConfig` under their names (`embed_dims`, `depths`, …), and what transformers adds.

    The defaults are those of `small`. transformers' own names are understood too: `hidden_sizes` is `embed_dims`,
    `num_attention_heads` is `num_heads`, `num_channels` is `in_chans`, `layer_norm_eps` is `norm_eps`; `num_classes` is
    `num_labels`.

    Attributes
    ----------
    num_labels : int
        Number of classes; `id2label` names them.
    drop_rate : float
        As in `adapters.torch.ScalableViT`, in training mode.
    attn_drop_rate : float
        Likewise.
    drop_path_rate : float
        Likewise.
    out_features : list of str
        Of a backbone, which stages' maps it gives ("stage1" to "stage4"). If neither is given, the last one's.
    out_indices : list of int
        The same by indices, from 0.

    Raises
    ------
    ValueError or TypeError
        For settings of no network, or a stage that it does not have.
    """

    model_type: ClassVar[str] = MODEL_TYPE
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_sizes": "embed_dims",
        "num_attention_heads": "num_heads",
        "num_channels": "in_chans",
        "layer_norm_eps": "norm_eps",
        "num_classes": "num_labels",
    }

    embed_dims: tuple[int, ...] | list[int] = Specification.embed_dims
    depths: tuple[int, ...] | list[int] = Specification.depths
    num_heads: tuple[int, ...] | list[int] = Specification.num_heads
    mlp_ratios: tuple[float, ...] | list[float] = Specification.mlp_ratios
    sr_ratios: tuple[int, ...] | list[int] = Specification.sr_ratios
    c_ratios: tuple[float, ...] | list[float] = Specification.c_ratios
    window_sizes: tuple[int, ...] | list[int] = Specification.window_sizes
    in_chans: int = Specification.in_chans
    patch_size: int = Specification.patch_size
    qkv_bias: bool = Specification.qkv_bias
    norm_eps: float = Specification.norm_eps
    head: str = Specification.head
    ssa_values: str = Specification.ssa_values
    ssa_scale: str = Specification.ssa_scale
    pad_windows: bool = Specification.pad_windows
    stage_norms: bool = Specification.stage_norms
    embed_norm_eps: float | None = Specification.embed_norm_eps
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        classes = kwargs.pop("num_classes", Specification.num_classes)
        if self.id2label is None:
            kwargs.setdefault("num_labels", classes)
        stages = {name: kwargs.pop(name, None) for name in ("out_features", "out_indices")}
        super().__post_init__(**kwargs)
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            check_rate(name, getattr(self, name))
        specification = self.specification
        for name in SETTINGS:
            setattr(self, name, getattr(specification, name))
        self.stage_names = [f"stage{k + 1}" for k in range(specification.num_stages)]
        self.set_output_features_output_indices(**stages)

    @classmethod
    def from_specification(cls, config: Specification | str, **options: Any) -> ScalableViTConfig:
        """That of a specification's configuration, or of a variant by its name; `options` are further attributes.

        Examples
        --------
        >>> ScalableViTConfig.from_specification("mmdet_small").hidden_sizes  # doctest: +SKIP
        (64, 128, 256, 512)
        """
        specification = settled(config, {})
        names = class_names(specification)
        settings = {name: getattr(specification, name) for name in SETTINGS}
        labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        if "num_labels" in options or "id2label" in options:
            labels = {}
        return cls(**settings | labels | options)

    @property
    def specification(self) -> Specification:
        """These settings as `sv.ScalableViTConfig`."""
        return Specification(num_classes=self.num_labels, **{name: getattr(self, name) for name in SETTINGS})

    def to_dict(self) -> dict[str, Any]:
        """With `num_classes` beside `id2label`, which transformers leaves out where it has two entries."""
        found: dict[str, Any] = super().to_dict()
        return found | {"num_classes": self.num_labels}


class CheckpointedBlock(GradientCheckpointingLayer, Block):  # type: ignore[misc]
    """A block whose activations are computed again in the backward pass, where gradient checkpointing is enabled."""


class _Parts(ScalableViT):
    """Where the parts of a model come from."""

    block = CheckpointedBlock


class ScalableViTPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """The parts of `adapters.torch.ScalableViT` under their names, run by its methods."""

    config_class = ScalableViTConfig
    config: ScalableViTConfig
    base_model_prefix = MODEL_TYPE
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["CheckpointedBlock"]

    specification: Specification

    _maps: Any = ScalableViT._maps
    _normed: Any = ScalableViT._normed

    def _add_parts(self, specification: Specification, without: Sequence[str] = ()) -> None:
        """The modules of that network, with initial values as the official code draws them, by torch's generator."""
        self.specification = specification
        device = torch.get_default_device()
        rates = {name: getattr(self.config, name) for name in ("drop_rate", "attn_drop_rate", "drop_path_rate")}
        with torch.device("meta"):
            network = _Parts(specification, **rates)
        for name, part in network.named_children():
            if name not in without:
                self.add_module(name, part)
        if device.type != "meta":
            self.to_empty(device=device)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            initialization.normal_(module.weight, std=sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            initialization.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
        else:
            return
        if module.bias is not None:
            initialization.zeros_(module.bias)

    def _hidden_states(self, maps: Sequence[Tensor], asked: bool | None) -> tuple[Tensor, ...] | None:
        """The stages' maps b c h w, if they are asked for here or by the configuration."""
        wanted = self.config.output_hidden_states if asked is None else asked
        return tuple(rearrange(x, "b h w c -> b c h w") for x in maps) if wanted else None


class ScalableViTModel(ScalableViTPreTrainedModel):
    """The network without its classifier.

    Parameters
    ----------
    config : ScalableViTConfig
        Its settings.
    """

    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^head\."]

    def __init__(self, config: ScalableViTConfig) -> None:
        super().__init__(config)
        self._add_parts(replace(config.specification, head="none", num_classes=0))

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """The last map after `norm`, b c h w, and its mean over the tokens, b c, which the classifier takes.

        `hidden_states` are the stages' maps before it, b c h w, with strides 4, 8, 16, 32.
        """
        _refuse_attentions(self.config, output_attentions)
        maps = self._maps(pixel_values)
        normed = self._normed(maps[-1])
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=rearrange(normed, "b h w c -> b c h w"),
            pooler_output=reduce(normed, "b h w c -> b c", "mean"),
            hidden_states=self._hidden_states(maps, output_hidden_states),
        )


class ScalableViTForImageClassification(ScalableViTPreTrainedModel):
    """The whole network; its logits are those of `sv.scalable_vit`, bit for bit.

    Parameters
    ----------
    config : ScalableViTConfig
        Its settings; `num_labels` is the number of logits.
    """

    def __init__(self, config: ScalableViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self._add_parts(config.specification)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits b classes and, of labels, their loss as `config.problem_type` says, or their dtype and number."""
        _refuse_attentions(self.config, output_attentions)
        maps = self._maps(pixel_values)
        logits = run_head(reduce(self._normed(maps[-1]), "b h w c -> b c", "mean"), self.head)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **options)
        return ImageClassifierOutputWithNoAttention(
            loss=loss, logits=logits, hidden_states=self._hidden_states(maps, output_hidden_states)
        )


class ScalableViTBackbone(BackboneMixin, ScalableViTPreTrainedModel):  # type: ignore[misc]
    """The stages' maps for detectors and segmenters, `out_features` of them; `channels` are their widths.

    As `sv.stage_features`: a map is normed where the configuration has `stage_norms`, as that of the authors' detection backbone
    has (`ScalableViTConfig.from_specification("mmdet_small")`). A classifier's weights load too: its `norm` and `head`, which come
    after the last map, are left out.

    Parameters
    ----------
    config : ScalableViTConfig
        Its settings. Images of any size need `pad_windows`.
    """

    has_attentions = False
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^head\.", r"^norm\."]

    def __init__(self, config: ScalableViTConfig) -> None:
        super().__init__(config)
        self.num_features = list(config.embed_dims)
        self._add_parts(replace(config.specification, head="none", num_classes=0), without=["norm"])

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> BackboneOutput:
        """`feature_maps`, b c h w, of the stages in `out_features`, with strides 4, 8, 16, 32."""
        maps = self._hidden_states(self._maps(pixel_values), asked=True) or ()
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BackboneOutput(
            feature_maps=tuple(x for name, x in zip(self.stage_names, maps, strict=True) if name in self.out_features),
            hidden_states=maps if wanted else None,
        )


def _refuse_attentions(config: ScalableViTConfig, asked: bool | None) -> None:
    if config.output_attentions if asked is None else asked:
        raise ValueError(
            "output_attentions: the weights of the attention are never whole in memory; "
            "scalablevit_ref.drawing.attention_weights computes them"
        )


AutoConfig.register(MODEL_TYPE, ScalableViTConfig, exist_ok=True)
AutoModel.register(ScalableViTConfig, ScalableViTModel, exist_ok=True)
AutoModelForImageClassification.register(ScalableViTConfig, ScalableViTForImageClassification, exist_ok=True)
AutoBackbone.register(ScalableViTConfig, ScalableViTBackbone, exist_ok=True)
AutoImageProcessor.register(ScalableViTConfig, image_processor_classes={"pil": ScalableViTImageProcessor}, exist_ok=True)

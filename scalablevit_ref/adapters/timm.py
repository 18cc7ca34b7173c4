"""ScalableViT in timm: importing this module registers its variants, which `timm.create_model` then makes.

Names and shapes of the state dict are the official ones; in eval mode the logits are those of `sv.scalable_vit`, bit for bit. The
layers are those of `adapters.torch`; what lies above them is as timm's own hierarchical networks have it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from einops import rearrange

from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_choice, check_count, check_rate
from scalablevit_ref.backends import to_backend
from scalablevit_ref.checkpoints import load_checkpoint
from scalablevit_ref.checkpoints.hub import hub_config
from scalablevit_ref.config import ScalableViTConfig, settled, variant

with extra("timm"):
    import torch
    from timm import models
    from torch import Tensor, nn

    from scalablevit_ref.adapters.torch import ScalableViT as Network
    from scalablevit_ref.adapters.torch_layers import DropPath, Dropped, Layer, run, run_head
    from scalablevit_ref.backends.torch import linear

for kind in (Layer, Dropped, DropPath):  # each is one step to torch.fx, which does not understand einops
    models.register_notrace_module(kind)
models.register_notrace_function(linear)  # which chooses a product when it is called

LAST = (99999,)
"""What timm's grouping takes for "with the group before"."""


class ScalableViT(Network):
    """`adapters.torch.ScalableViT` with the interface of timm's models; its maps are NHWC.

    Parameters
    ----------
    config : ScalableViTConfig or str
        A configuration, or a variant's name; `overrides` change its settings, say `num_classes`, `in_chans` or `pad_windows`.
    params : mapping, optional
        Initial values under the official names; None draws them.
    seed : int, optional
        Of the initial values that are drawn; None takes a number from torch's generator, which `torch.manual_seed` sets.
    global_pool : "avg" or ""
        "" leaves the mean over the tokens out: the head then acts on each token.
    drop_rate : float
        In training mode: dropout before the last Linear.
    proj_drop_rate : float
        In training mode: what `drop_rate` is in the official code, dropout of the patch embeddings, of each attention's and MLP's
        output and of the MLP's hidden units.
    attn_drop_rate, drop_path_rate : float
        Those of `adapters.torch.ScalableViT`.
    device, dtype : optional
        Of the parameters.

    Raises
    ------
    ValueError or TypeError
        For a setting, a rate or parameters that do not fit.
    """

    output_fmt = "NHWC"

    head: Any

    def __init__(
        self,
        config: ScalableViTConfig | str = "small",
        *,
        params: Mapping[str, Any] | None = None,
        seed: int | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **overrides: Any,
    ) -> None:
        check_choice("global_pool", global_pool, ("avg", ""))
        check_rate("proj_drop_rate", proj_drop_rate)
        check_rate("drop_rate", drop_rate)
        rates: dict[str, Any] = {"drop_rate": proj_drop_rate, "attn_drop_rate": attn_drop_rate, "drop_path_rate": drop_path_rate}
        seed = int(torch.randint(2**31, (), device="cpu")) if seed is None else seed
        super().__init__(config, params=params, seed=seed, **rates, **overrides)
        self.global_pool, self.drop_rate = global_pool, drop_rate
        self.head_drop = nn.Dropout(drop_rate)
        if self.config.head == "mlp":
            self.head[2] = nn.Sequential(nn.GELU(), self.head_drop)
        self.feature_info = [
            {"num_chs": dim, "reduction": stride, "module": _last_of_stage(self.config, k)}
            for k, (dim, stride) in enumerate(zip(self.config.embed_dims, self.config.strides, strict=True))
        ]
        self.register_load_state_dict_pre_hook(_refuse_other_ssa)  # type: ignore[no-untyped-call]
        self.to(device=device, dtype=dtype)

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.config.in_chans

    @property
    def head_hidden_size(self) -> int:
        """Width of what the last Linear sees."""
        return replace(self.config, num_classes=0).out_features

    def forward(self, images: Tensor) -> Tensor:
        """Logits b classes."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The last stage's map, normed, b h w c."""
        return self._normed(self._maps(images)[-1])

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits b classes of a map b h w c; with `pre_logits` what the last Linear sees."""
        x: Any = features.mean((1, 2)) if self.global_pool else features
        if self.config.head == "mlp":
            x = run_head(x, self.head[:-1] if pre_logits else self.head)
        else:
            x = self.head_drop(x)
            x = x if pre_logits else run(x, self.head)
        logits: Tensor = x
        return logits

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps that stages end with, and what `forward_features` gives.

        Parameters
        ----------
        x : b c h w
            Images.
        indices : int or sequence of int, optional
            Of the stages, negative ones from the end. A number is that many of the last ones; None is all.
        norm : bool
            Give the last stage's map normed, as the head sees it.
        stop_early : bool
            Run no stage behind the last one that is wanted; the final map is then that one's, unnormed unless it is the last.
        output_fmt : "NCHW" or "NHWC"
            Of the maps; the final map is always b h w c.
        intermediates_only : bool
            Leave out the final map.

        Returns
        -------
        list of Tensor, or (Tensor, list of Tensor)
            The maps, alone or behind the final map.
        """
        check_choice("output_fmt", str(getattr(output_fmt, "value", output_fmt)), ("NCHW", "NHWC"))
        stages = self.config.num_stages
        taken = _taken(indices, stages)
        maps = self._maps(x, max(taken) + 1 if stop_early else stages)
        final = self._normed(maps[-1]) if len(maps) == stages and (norm or not intermediates_only) else maps[-1]
        if norm:
            maps[-1] = final
        found = [maps[k] if output_fmt == "NHWC" else rearrange(maps[k], "b h w c -> b c h w") for k in sorted(set(taken))]
        return found if intermediates_only else (final, found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what these stages' maps do not need, from `config` too. Gives the indices, counted from the first stage.

        Parameters
        ----------
        indices : int or sequence of int, optional
            As in `forward_intermediates`.
        prune_norm, prune_head : bool
            Remove the final norm and the head, which both go with the last stage.
        """
        taken = _taken(indices, self.config.num_stages)
        kept = max(taken) + 1
        shortened = kept < self.config.num_stages
        per_stage: dict[str, Any] = {name: value[:kept] for name, value in vars(self.config).items() if isinstance(value, tuple)}
        self.config = replace(self.config, **per_stage)
        for name in ("patch_embeds", "pos_block", "pos_drops", "norm_list", "stages"):
            setattr(self, name, getattr(self, name)[:kept])
        if (prune_norm or shortened) and not self.config.stage_norms:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.config = replace(self.config, head="none", num_classes=0)
            self.head, self.global_pool = nn.Identity(), ""
        return taken

    def get_classifier(self) -> nn.Module:
        """The last Linear."""
        found: nn.Module = self.head[-1] if self.config.head == "mlp" else self.head
        return found

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last Linear, none for 0 classes; the layers of the official head before it stay. `config` follows.

        Parameters
        ----------
        num_classes : int
            Of the new one.
        global_pool : "avg" or "", optional
            The new setting; None keeps it.
        """
        check_count("num_classes", num_classes, least=0)
        if global_pool is not None:
            check_choice("global_pool", global_pool, ("avg", ""))
            self.global_pool = global_pool
        if self.config.head == "mlp":
            self.head[-1] = self._new_classifier(self.head_hidden_size, num_classes)
            self.config = replace(self.config, num_classes=num_classes)
        else:
            super().reset_classifier(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """By what names `timm.models.group_parameters` makes groups, from the images to the logits: blocks, or `coarse` stages."""
        stage = r"^(?:patch_embeds|pos_block|norm_list|stages)\.(\d+)"
        blocks = [(r"^(?:patch_embeds|pos_block)\.(\d+)", (0,)), (r"^norm_list\.(\d+)", LAST), (r"^stages\.(\d+)\.(\d+)", None)]
        return {"stem": r"^patch_embeds\.0\.", "blocks": [*([(stage, None)] if coarse else blocks), (r"^norm\.", LAST)]}

    def load_pretrained(self, checkpoint_path: str | os.PathLike[str]) -> None:
        """Load weights from a file of any format that `sv.load_checkpoint` reads: what timm calls for an .npz."""
        self.load_state_dict(to_backend(load_checkpoint(checkpoint_path, config=self.config).params, "torch"))


def _last_of_stage(config: ScalableViTConfig, k: int) -> str:
    """The module that gives a stage's map."""
    if config.stage_norms:
        return f"norm_list.{k}"
    return f"stages.{k}.{config.depths[k] - 1}" if config.depths[k] > 1 else f"pos_block.{k}"


def _taken(indices: int | Sequence[int] | None, stages: int) -> list[int]:
    """Stages, counted from the first."""
    if isinstance(indices, int):
        check_count("indices", indices, most=stages)
        indices = range(-indices, 0)
    taken = range(stages) if indices is None else [i + stages if i < 0 else i for i in indices]
    if not taken or not all(0 <= i < stages for i in taken):
        raise ValueError(f"indices must be some of the {stages} stages, {-stages} to {stages - 1}, got {list(indices or [])}")
    return list(taken)


def _refuse_other_ssa(network: Any, state: Mapping[str, Any], prefix: str, *loading: Any) -> None:
    """Weights of the other version of SSA: one line in the place of two for each of its layers."""
    for name in state:
        at, found, _ = name.partition(".attn.reduction.0.weight")
        if found and name.startswith(prefix):
            values = "scaled" if f"{at}.attn.kv.weight" in state else "unscaled"
            if values != network.config.ssa_values:
                version = {"scaled": "v1", "unscaled": "v3"}[values]
                raise RuntimeError(f"the weights are of SSA {version}: create_model(…, ssa_values={values!r}) makes their network")
            return


def _preset(config: ScalableViTConfig) -> dict[str, Any]:
    """timm's description of a network and its images, without a place of weights: the authors' lie where no program reads them."""
    official = {name: tuple(x) if isinstance(x, list) else x for name, x in hub_config(config)["pretrained_cfg"].items()}
    side = -(-official["input_size"][-1] // config.strides[-1])
    return {
        **official,
        "min_input_size": official["input_size"],
        "pool_size": (side, side),
        "paper_name": "ScalableViT: Rethinking the Context-oriented Generalization of Vision Transformer",
        "paper_ids": "arXiv:2203.10790",
        "origin_url": "https://github.com/Yangr116/ScalableViT",
    }


CONFIGS = {
    "scalablevit_small": variant("small"),
    "scalablevit_small_v1": variant("small", ssa_values="scaled"),
    "scalablevit_small_0": variant("small_0"),
    "scalablevit_base": variant("base"),
    "scalablevit_large": variant("large"),
    "scalablevit_digits": variant("digits"),
    "scalablevit_custom": variant("small"),
}
"""The networks by timm's names. `scalablevit_custom` is what `config.json` calls one that is none of the others."""

default_cfgs = models.generate_default_cfgs({name: _preset(config) for name, config in CONFIGS.items()})


def _created(name: str, pretrained: bool, **options: Any) -> nn.Module:
    """What `timm.create_model` gives."""
    settings = {key: options[key] for key in options if key in ScalableViTConfig.__dataclass_fields__}
    config = settled(CONFIGS[name], settings)
    classifier = {"mlp": "head.3", "linear": "head", "none": None}[config.head]
    overlay = {"classifier": classifier, **(options.pop("pretrained_cfg_overlay", None) or {})}
    found = models.resolve_pretrained_cfg(name, options.get("pretrained_cfg"), overlay)
    if pretrained and not (found.has_weights or found.state_dict or found.source):
        raise RuntimeError(
            f"timm has no weights of {name} to fetch: give checkpoint_path=FILE without pretrained, "
            "or pretrained_cfg_overlay=dict(file=FILE) with it"
        )
    if options.get("features_only") and str(options.get("feature_cls", "getter")).lower() in ("list", "dict"):
        raise ValueError(
            f"feature_cls must be 'getter', 'hook' or 'fx', got {options['feature_cls']!r}: "
            "a stage's modules do not follow one another in the state dict"
        )
    features = {"out_indices": tuple(range(config.num_stages)), "feature_cls": "getter"}
    options |= {"config": CONFIGS[name], "feature_cfg": features, "pretrained_cfg_overlay": overlay}
    model: nn.Module = models.build_model_with_cfg(ScalableViT, name, pretrained, **options)
    return model


def scalablevit_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """ScalableViT-S with SSA v3, as the released code has it."""
    return _created("scalablevit_small", pretrained, **options)


def scalablevit_small_v1(pretrained: bool = False, **options: Any) -> nn.Module:
    """ScalableViT-S with SSA v1, which the authors' parameter count fits."""
    return _created("scalablevit_small_v1", pretrained, **options)


def scalablevit_small_0(pretrained: bool = False, **options: Any) -> nn.Module:
    """The released code's `small_0`, with a linear head."""
    return _created("scalablevit_small_0", pretrained, **options)


def scalablevit_base(pretrained: bool = False, **options: Any) -> nn.Module:
    """ScalableViT-B."""
    return _created("scalablevit_base", pretrained, **options)


def scalablevit_large(pretrained: bool = False, **options: Any) -> nn.Module:
    """ScalableViT-L."""
    return _created("scalablevit_large", pretrained, **options)


def scalablevit_digits(pretrained: bool = False, **options: Any) -> nn.Module:
    """The embedded example, of grey images of 112 x 112."""
    return _created("scalablevit_digits", pretrained, **options)


def scalablevit_custom(pretrained: bool = False, **options: Any) -> nn.Module:
    """Any other; `options` are settings of `ScalableViTConfig`."""
    return _created("scalablevit_custom", pretrained, **options)


for entry in (
    scalablevit_small,
    scalablevit_small_v1,
    scalablevit_small_0,
    scalablevit_base,
    scalablevit_large,
    scalablevit_digits,
    scalablevit_custom,
):
    models.register_model(entry)

"""ScalableViT as a Keras 3 model, and its parts as layers, on TensorFlow, JAX or PyTorch: whichever Keras runs on.

All compute by the specification's functions. `KERAS_BACKEND` chooses the library before Keras is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from einops import rearrange, reduce

from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_choice
from scalablevit_ref.checkpoints import load_checkpoint
from scalablevit_ref.checks import check_map
from scalablevit_ref.config import ScalableViTConfig, settled
from scalablevit_ref.network import attention_settings, stage_features
from scalablevit_ref.network import trace as trace_of
from scalablevit_ref.ops import gelu
from scalablevit_ref.parameters import block_kind, children, parameter_shapes

with extra("keras-models", "adapters.keras"):
    import keras

    from scalablevit_ref.adapters.keras_layers import (
        IWSA,
        MLP,
        PEG,
        SSA,
        Block,
        Holder,
        Linear,
        Norm,
        Part,
        PatchEmbed,
        initial,
        registered,
    )

__all__ = ["IWSA", "MLP", "PEG", "SSA", "Block", "PatchEmbed", "ScalableViT"]

FORMATS = ("channels_first", "channels_last")
"""How images may lie: b c h w, as officially, or b h w c."""


@registered
class ScalableViT(Part, keras.Model):  # type: ignore[misc]
    """Images to logits b classes: `sv.scalable_vit`, as a Keras model.

    The layers lie at attributes of the official names: `model.stages[0][1].attn.q` holds `stages.0.1.attn.q.weight` and `.bias`.
    So Keras' own `.weights.h5` and `.keras` files of this model are read by `sv.load_checkpoint`. The variables lie as in Keras'
    own layers, where the `kernel` of a Linear is (in, out) and a norm has `gamma` and `beta`.

    Parameters
    ----------
    config : ScalableViTConfig or str
        A configuration, or a variant's name; `overrides` change its settings.
    params : mapping, optional
        Initial values under the official names, arrays of any library, copied; None draws `sv.init_params(config, seed)`.
    seed : int
        Of the initial values that are drawn.
    data_format : "channels_first" or "channels_last"
        Images b c h w, as officially, or b h w c.
    dtype : str, optional
        Keras' dtype or policy, say "mixed_bfloat16"; None is the dtype of `params`, or else Keras' own.
    name : str, optional
        Of the model.

    Raises
    ------
    ValueError or TypeError
        For a setting or parameters that do not fit.
    """

    def __init__(
        self,
        config: ScalableViTConfig | str = "small",
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        data_format: Literal["channels_first", "channels_last"] = "channels_first",
        dtype: Any = None,
        name: str = "scalable_vit",
        **overrides: Any,
    ) -> None:
        config = settled(config, overrides)
        check_choice("data_format", data_format, FORMATS)
        options: dict[str, Any] = {"dtype": dtype}
        shapes = parameter_shapes(config)
        values = initial(shapes, params, seed, options)
        super().__init__(shapes, {"config": asdict(config), "data_format": data_format}, name=name, **options)
        self.config, self.data_format = config, data_format
        within, part = {"dtype": self.dtype_policy}, children(values)

        def held(name: str, make: Any) -> Holder:
            some = children(part.get(name, {}))
            return Holder({k: make(int(k), p) for k, p in some.items()}, name=name, **within)

        def embedding(k: int, p: Any) -> PatchEmbed:
            c_in, stride = (config.embed_dims[k - 1], 2) if k else (config.in_chans, config.patch_size)
            eps = config.embed_norm_eps or config.norm_eps
            return PatchEmbed(c_in, config.embed_dims[k], patch_size=stride, eps=eps, params=p, name=f"patch_embed_{k}", **within)

        def block(k: int, i: int, p: Any) -> Block:
            dim, own = config.embed_dims[k], attention_settings(config, k, i)
            hidden, rest = int(dim * config.mlp_ratios[k]), dict[str, Any](qkv_bias=config.qkv_bias, norm_eps=config.norm_eps)
            return Block(dim, kind=block_kind(i), hidden=hidden, **own, **rest, params=p, name=f"stage_{k}_block_{i}", **within)

        def stage(k: int, p: Any) -> Holder:
            return Holder({i: block(k, int(i), inner) for i, inner in children(p).items()}, name=f"stage_{k}", **within)

        self.patch_embeds = held("patch_embeds", embedding)
        self.pos_block = held("pos_block", lambda k, p: PEG(config.embed_dims[k], params=p, name=f"peg_{k}", **within))
        self.stages = held("stages", stage)
        self.norm_list = held("norm_list", lambda k, p: Norm(p, eps=config.norm_eps, name=f"norm_{k}", **within))
        if not config.stage_norms:
            self.norm = Norm(part["norm"], eps=config.norm_eps, name="norm", **within)
        self.head = self._head(part.get("head", {}), within)

    def _head(self, params: Mapping[str, Any], within: dict[str, Any]) -> Any:
        if "weight" in params:
            return Linear(params, name="head", **within)
        layers: dict[str, Any] = {}
        for name, p in children(params).items():
            options = {"name": f"head_{name}", **within}
            layers[name] = Norm(p, eps=self.config.norm_eps, **options) if p["weight"].ndim == 1 else Linear(p, **options)
        return Holder(layers, name="head", **within)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: ScalableViTConfig, **options: Any) -> ScalableViT:
        """With these weights, say a `Checkpoint`'s: arrays of any library under the official names."""
        return cls(config, params=params, **options)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], **options: Any) -> ScalableViT:
        """The network that a checkpoint file holds, in its dtype; `sv.load_checkpoint` reads all settings from the file."""
        checkpoint = load_checkpoint(path)
        return cls(checkpoint.config, params=checkpoint.params, **options)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ScalableViT:
        """As Keras makes it again from a file."""
        settings = {key: value for key, value in config.items() if key not in ("config", "trainable")}
        if isinstance(settings.get("dtype"), Mapping):
            settings["dtype"] = keras.dtype_policies.deserialize(settings["dtype"])
        model = cls(ScalableViTConfig(**config["config"]), **settings)
        model.trainable = config.get("trainable", True)
        return model

    def call(self, images: Any) -> Any:
        """Logits b classes."""
        x = self._maps(images)[-1]
        x = reduce(x if self.config.stage_norms else self.norm(x), "b h w c -> b c", "mean")
        if self.config.head == "mlp":
            x = gelu(self.head[1](self.head[0](x)))
            return self.head[3](x) if self.config.num_classes else x
        return self.head(x) if self.config.head == "linear" and self.config.num_classes else x

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], self.config.num_classes or self.config.num_features)

    def _maps(self, images: Any) -> list[Any]:
        """The map that each stage ends with, b h w c."""
        if None in tuple(images.shape)[1:]:
            raise ValueError(f"images must have a known height and width, got shape {tuple(images.shape)}")
        first = self.data_format == "channels_first"
        check_map("images", images, "b c h w" if first else "b h w c", channels=self.config.in_chans)
        x, maps = rearrange(images, "b c h w -> b h w c") if first else images, []
        for k in range(self.config.num_stages):
            x = self.patch_embeds[k](x)
            for i in range(self.config.depths[k]):
                x = self.stages[k][i](x)
                if i == 0:
                    x = self.pos_block[k](x)
            if self.config.stage_norms:
                x = self.norm_list[k](x)
            maps.append(x)
        return maps

    def features(self, images: Any) -> tuple[Any, ...]:
        """The map that each stage ends with, b h w c, of the arrays that `params` gives: `sv.stage_features`."""
        maps: tuple[Any, ...] = stage_features(self._images(images), self.params(), self.config)
        return maps

    def trace(self, images: Any) -> dict[str, Any]:
        """Every named intermediate, as `sv.trace` has them."""
        return trace_of(self._images(images), self.params(), self.config)

    def _images(self, images: Any) -> Any:
        """As tensors of the variables' dtype, b c h w."""
        images = keras.ops.convert_to_tensor(images, dtype=self.variable_dtype)
        return images if self.data_format == "channels_first" else rearrange(images, "b h w c -> b c h w")

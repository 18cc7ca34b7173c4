"""ScalableViT as a Flax `nnx.Module` whose state is the official parameters, and whose inner modules run the specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalablevit_ref.adapters import extra
from scalablevit_ref.adapters.of_modules import module_at, network_logits, network_maps
from scalablevit_ref.arguments import check_rate, check_seed
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checks import check_array, check_map, check_shapes
from scalablevit_ref.config import ScalableViTConfig, settled
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.parameters import children, init_params, parameter_shapes

with extra("flax"):
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from scalablevit_ref.adapters.flax_layers import GELU, Block, Rates, embedding, leaf, position


class ScalableViT(nnx.Module):
    """Images b c h w to logits b classes: in eval mode `sv.scalable_vit` on JAX arrays, bit for bit.

    For `nnx.jit`, `nnx.grad` and `nnx.Optimizer`. The parameters are `nnx.Param`s in the official layout; the paths of
    `nnx.state(model, nnx.Param)`, joined by dots, are the official names: `model.stages[0][1].attn.q.weight` is
    `stages.0.1.attn.q.weight`, out × in. The inner modules are what runs: another one in the place of
    `model.stages[0][1].attn.q`, an `nnx.Linear` or an `nnx.LoRA` around it, has effect.

    As every `nnx.Module` it begins in training mode, in which the rates below act; `model.eval()` and `model.train()` switch.

    Parameters
    ----------
    config : ScalableViTConfig or str
        A configuration, or a variant's name; `overrides` change its settings.
    params : mapping, optional
        Initial values under the official names, arrays of any library, copied; None draws `sv.init_params(config, seed)`.
    seed : int
        Of the initial values that are drawn, and of what is dropped if no `rngs` are given.
    drop_rate, attn_drop_rate, drop_path_rate : float
        Those of `adapters.torch.ScalableViT`.
    rngs : nnx.Rngs, optional
        Its stream "dropout" says what is dropped.

    Raises
    ------
    ValueError or TypeError
        For a setting, a rate or parameters that do not fit.
    """

    def __init__(
        self,
        config: ScalableViTConfig | str = "small",
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        rngs: nnx.Rngs | None = None,
        **overrides: Any,
    ) -> None:
        self.config = config = settled(config, overrides)
        for name, rate in (("drop_rate", drop_rate), ("attn_drop_rate", attn_drop_rate), ("drop_path_rate", drop_path_rate)):
            check_rate(name, rate)
        check_seed("seed", seed)
        params = tensors_in(init_params(config, seed) if params is None else params)
        check_shapes(params, parameter_shapes(config))
        rates = Rates(drop_rate, attn_drop_rate, nnx.Rngs(dropout=seed) if rngs is None else rngs)

        part: Any = children(to_backend(params, "jax"))
        embeds, pegs, stages, norms = (children(part.get(n, {})) for n in ("patch_embeds", "pos_block", "stages", "norm_list"))
        eps, ks = config.norm_eps, range(config.num_stages)
        strides = [config.patch_size, *[2] * (config.num_stages - 1)]
        embed_eps = config.embed_norm_eps or eps
        self.patch_embeds = nnx.List(embedding(embeds[str(k)], rates, patch_size=strides[k], eps=embed_eps) for k in ks)
        self.pos_block = nnx.List(position(pegs[str(k)]) for k in ks)
        rising = iter(np.linspace(0, drop_path_rate, sum(config.depths)).tolist())
        self.stages = nnx.List(
            nnx.List(
                Block(children(p), config, k, int(i), rates=rates, drop_path=next(rising))
                for i, p in children(stages[str(k)]).items()
            )
            for k in ks
        )
        if config.stage_norms:
            self.norm_list = nnx.List(leaf(norms[str(k)], eps=eps) for k in ks)
        else:
            self.norm = leaf(part["norm"], eps=eps)
        if config.head == "mlp":
            p = children(part["head"])
            last = [leaf(p["3"])] if config.num_classes else []
            self.head: Any = nnx.List([leaf(p["0"]), leaf(p["1"], eps=eps), GELU(), *last])
        elif config.head == "linear" and config.num_classes:
            self.head = leaf(part["head"])

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: ScalableViTConfig, **options: Any) -> ScalableViT:
        """With these weights, say a `Checkpoint`'s: arrays of any library under the official names.

        `options` are rates and `rngs`.
        """
        return cls(config, params=params, **options)

    def to_params(self) -> dict[str, np.ndarray]:
        """The weights as they are now, as NumPy arrays under the official names and in their order: for `sv.save_checkpoint`.

        Raises ValueError where modules have taken the place of some, so that there are other parameters.
        """
        found: dict[str, np.ndarray] = to_numpy(self.params())
        return found

    def params(self) -> dict[str, jax.Array]:
        """The weights as they are now, as `sv`'s functions take them. Raises as `to_params` does."""
        flat = {".".join(map(str, path)): x[...] for path, x in nnx.to_flat_state(nnx.state(self, nnx.Param))}
        shapes = parameter_shapes(self.config)
        check_shapes(flat, shapes)
        return {name: flat[name] for name in shapes}

    def __call__(self, images: jax.Array | np.ndarray, *, tap: Tap = untapped) -> jax.Array:
        """Logits b classes of images b c h w; `tap` sees each intermediate under its official name, as in `sv.scalable_vit`."""
        logits: jax.Array = network_logits(self, self._checked(images), tap)
        return logits

    def features(self, images: jax.Array | np.ndarray) -> tuple[jax.Array, ...]:
        """The map that each stage ends with, b h w c."""
        return tuple(network_maps(self, self._checked(images), untapped))

    def _checked(self, images: Any) -> jax.Array:
        """Images that fit, NumPy's too."""
        check_array("images", images)
        check_map("images", images, "b c h w", channels=self.config.in_chans)
        check_image_size(self.config, *images.shape[2:])
        x = jnp.asarray(images)
        first = getattr(module_at(self, "patch_embeds.0.proj"), "weight", x)  # which another module in its place may not have
        if x.dtype != first.dtype:
            raise TypeError(f"images is {x.dtype} but parameter 'patch_embeds.0.proj.weight' is {first.dtype}")
        return x

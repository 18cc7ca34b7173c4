"""ScalableViT as a Flax `nnx.Module` whose state is the official parameters, and which calls the specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_seed
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checks import check_array, check_shapes
from scalablevit_ref.config import ScalableViTConfig, settled
from scalablevit_ref.network import scalable_vit, stage_features
from scalablevit_ref.parameters import children, init_params, parameter_shapes

with extra("flax"):
    import jax
    import jax.numpy as jnp
    from flax import nnx


class ScalableViT(nnx.Module):
    """Images b c h w to logits b classes: `sv.scalable_vit` on JAX arrays, for `nnx.jit`, `nnx.grad` and `nnx.Optimizer`.

    The parameters are `nnx.Param`s; the paths of `nnx.state(model)`, joined by dots, are the official names, so
    `model.stages[0][1].attn.q.weight` is `stages.0.1.attn.q.weight`. The modules on the way only hold parameters.

    Parameters
    ----------
    config
        A configuration, or a variant's name.
    params
        Initial values under the official names, arrays of any library, copied; None draws `sv.init_params(config, seed)`.
    **overrides
        Settings of the configuration that are to be others.

    Raises
    ------
    ValueError, TypeError
        For a setting or parameters that do not fit.
    """

    def __init__(
        self,
        config: ScalableViTConfig | str = "small",
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        **overrides: Any,
    ) -> None:
        self.config = settled(config, overrides)
        check_seed("seed", seed)
        params = init_params(self.config, seed) if params is None else params
        params = tensors_in(params)
        check_shapes(params, parameter_shapes(self.config))
        _hold(self, to_backend(params, "jax"))

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: ScalableViTConfig) -> ScalableViT:
        """With these weights, say a `Checkpoint`'s: arrays of any library under the official names."""
        return cls(config, params=params)

    def to_params(self) -> dict[str, np.ndarray]:
        """The weights as they are now, as NumPy arrays under the official names and in their order: for `sv.save_checkpoint`."""
        found: dict[str, np.ndarray] = to_numpy(self.params())
        return found

    def params(self) -> dict[str, jax.Array]:
        """The weights as they are now, as `sv`'s functions take them."""
        flat = {".".join(map(str, path)): x[...] for path, x in nnx.to_flat_state(nnx.state(self, nnx.Param))}
        return {name: flat[name] for name in parameter_shapes(self.config)}

    def __call__(self, images: jax.Array | np.ndarray, *, tap: Tap = untapped) -> jax.Array:
        """Logits b classes of images b c h w; `tap` sees each intermediate under its official name, as in `sv.scalable_vit`."""
        logits: jax.Array = scalable_vit(_on_jax(images), self.params(), self.config, tap=tap)
        return logits

    def features(self, images: jax.Array | np.ndarray) -> tuple[jax.Array, ...]:
        """The map that each stage ends with, b h w c."""
        maps: tuple[jax.Array, ...] = stage_features(_on_jax(images), self.params(), self.config)
        return maps


def _on_jax(images: Any) -> jax.Array:
    """NumPy's arrays too."""
    check_array("images", images)
    return jnp.asarray(images)


class Holder(nnx.Module):
    """Parameters, and modules that hold more; without any where the official module has none (`head.2`, a GELU)."""


def _hold(module: nnx.Module, params: Mapping[str, Any]) -> None:
    """Set parameters with names like `a.0.weight` as attributes of modules and lists of modules; numbers are a list's."""
    for name, inner in children(params).items():
        setattr(module, name, nnx.Param(inner[""]) if "" in inner else _held(inner))


def _held(params: Mapping[str, Any]) -> nnx.Module:
    parts = children(params)
    if all(name.isdecimal() for name in parts):
        length = 1 + max(map(int, parts))
        return nnx.List([_held(parts.get(str(i), {})) if str(i) in parts else Holder() for i in range(length)])
    holder = Holder()
    _hold(holder, params)
    return holder

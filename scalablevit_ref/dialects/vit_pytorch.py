"""`vit_pytorch.scalable_vit.ScalableViT` (PyPI vit-pytorch 1.26.11): what it computes, from its own state dict.

Another network than the official one, not another layout of it: `scalablevit_ref.dialects.port` lists the differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalablevit_ref._typing import Array, Float, Params
from scalablevit_ref.arguments import check_function
from scalablevit_ref.backends.einops import rearrange
from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checks import check_arrays, check_map, check_parameters, check_shapes
from scalablevit_ref.dialects.config import Config, PerStage, check_config, check_size, shapes
from scalablevit_ref.dialects.config import config_from_shapes as _config_from_shapes
from scalablevit_ref.dialects.port import Dialect, forward, traced
from scalablevit_ref.parameters import Shapes

__all__ = ["Config", "config_from_shapes", "parameter_shapes", "scalable_vit", "trace"]

DIALECT = Dialect()


def parameter_shapes(config: Config) -> Shapes:
    """Name and shape of every parameter, in that package's state-dict order.

    Examples
    --------
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> parameter_shapes(config)["layers.0.0.layers.0.0.to_k.weight"]
    (64, 16, 2, 2)
    """
    return shapes(config)


def scalable_vit(
    images: Float[Array, "b c h w"], params: Params, config: Config, *, tap: Tap = untapped
) -> Float[Array, "b classes"]:
    """Class logits. Height and width need not be equal; each stage's map, ⌈size / stride⌉ tokens a side, must divide by its window.

    Parameters
    ----------
    images
        The batch, b c h w.
    params
        The state dict of that package's module. Dropout is left out, as after `eval()`.
    config
        The settings that the parameters fit.
    tap
        Sees each intermediate, maps b h w c, under the module's path; what it returns is used.

    Raises
    ------
    ValueError, TypeError
        Before any work is done, for images or parameters that do not fit.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_images, random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(parameter_shapes(config))
    >>> scalable_vit(random_images((1, 3, 64, 64)), params, config).shape
    (1, 10)
    """
    check_config(config)
    check_function("tap", tap)
    check_map("images", images, "b c h w", channels=config.channels)
    check_size(config, *images.shape[2:], drops_tiles=True)
    check_parameters(params, parameter_shapes(config), images, name="images")
    return forward(rearrange(images, "b c h w -> b h w c"), params, config, DIALECT, tap)


def trace(images: Float[Array, "b c h w"], params: Params, config: Config) -> dict[str, Any]:
    """What that package's modules return, under their paths and with their axes (maps are b c h w), then `logits`.

    `to_patches`; `layers.k.0.layers.j.{0 SSA, 1 FF, 2 PEG, 3 FF, 4 IWSA}`, before they are added to the map (but PEG, which adds by
    itself); `layers.k.0.norm`; `layers.k.0`; `layers.k.1`, the downsampling; `mlp_head.{0,1,2}`.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_images, random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(parameter_shapes(config))
    >>> list(trace(random_images((1, 3, 64, 64)), params, config))[:2]
    ['to_patches', 'layers.0.0.layers.0.0']
    """
    maps = traced(lambda tap: scalable_vit(images, params, config, tap=tap))
    return {name: rearrange(x, "b h w c -> b c h w") if len(x.shape) == 4 else x for name, x in maps.items()}


def config_from_shapes(state: Mapping[str, Any], *, heads: PerStage, window_size: Any) -> Config:
    """The settings of a state dict. Heads and windows show in no shape: give one number, or one a stage.

    Raises ValueError or TypeError where they do not fit, or the state dict is not that package's.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(parameter_shapes(config))
    >>> config_from_shapes(params, heads=2, window_size=None) == config
    True
    """
    check_arrays("state", state)
    config = _config_from_shapes({name: tuple(value.shape) for name, value in state.items()}, heads=heads, window_size=window_size)
    check_shapes(state, parameter_shapes(config))
    return config

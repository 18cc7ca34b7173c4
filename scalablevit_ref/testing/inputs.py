"""What a comparison is to be made with: the network's settings, the weights, the images; all are checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checkpoints import Checkpoint, load_checkpoint
from scalablevit_ref.checks import check_shapes
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.config import variant as named_variant
from scalablevit_ref.dialects import flax_port
from scalablevit_ref.dialects.config import Config, check_size, is_norm_bias
from scalablevit_ref.image_sizes import check_image_size, usual_image_size
from scalablevit_ref.testing.capture import Captured, CaptureError
from scalablevit_ref.testing.capture.dispatch import is_flax_module, is_torch_module, told_config
from scalablevit_ref.testing.capture.files import check_images, open_trace
from scalablevit_ref.testing.layers import IMAGES, layers, shapes_of
from scalablevit_ref.testing.random import random_images, random_params
from scalablevit_ref.testing.tolerances import relative_l2
from scalablevit_ref.testing.traces import SUFFIXES, trace_config


@dataclass(frozen=True)
class Given:
    """params: None where the candidate's own are taken, or none are known. images: None where the candidate's trace brings them.
    reference: a trace in the network's stead. module: whether the candidate is one, whose copy gets the weights.
    """

    config: ScalableViTConfig | Config
    params: dict[str, np.ndarray] | None
    images: np.ndarray | None
    reference: Mapping[str, Any] | None
    module: bool


def settle(candidate: Any, reference: Any, variant: Any, weights: Any, images: Any, files: ExitStack) -> Given:
    """Everything that `comparison.compare` was given or must guess. `files` closes the reference's trace.

    Raises CaptureError, CheckpointError, ValueError or TypeError.
    """
    module = is_torch_module(candidate) or is_flax_module(candidate)
    if isinstance(weights, Path) or (isinstance(weights, str) and weights not in ("random", "own")):
        weights = load_checkpoint(weights, variant=variant if isinstance(variant, str) else None)
    config = named_variant(variant) if isinstance(variant, str) else variant
    if isinstance(weights, Checkpoint):
        config, weights = config or weights.config, weights.params
    config = config or _noted(reference) or _noted(candidate) or told_config(candidate)
    if config is None:
        raise CaptureError("which network? variant= names it (small, base, …), or gives its ScalableViTConfig")
    params = _weights(weights, config, module)
    x = None if images is None else _checked_images(images, config)
    if reference is not None:
        reference, x = _opened(reference, config, x, files)
    if x is None and not _is_trace(candidate):
        x = _random_images(config)
    return Given(config, params, x, reference, module)


def _is_trace(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, str | Path) and Path(value).suffix in SUFFIXES)


def _noted(value: Any) -> ScalableViTConfig | None:
    return trace_config(value) if isinstance(value, str | Path) and Path(value).suffix in SUFFIXES else None


def _weights(weights: Any, config: ScalableViTConfig | Config, module: bool) -> dict[str, np.ndarray] | None:
    """None for the candidate's own."""
    if isinstance(weights, str) and not module:
        raise CaptureError(f"weights={weights} is for modules: give the file that the candidate has its weights from")
    if weights == "own" or (weights is None and not module):
        return None
    if weights is None or isinstance(weights, str):
        return random_params(shapes_of(config))
    return checked_params({name: np.asarray(to_numpy(value)) for name, value in weights.items()}, config)


def checked_params(params: Mapping[str, np.ndarray], config: ScalableViTConfig | Config) -> dict[str, np.ndarray]:
    """Official parameters, or a port's under vit_pytorch's names; the Flax port has no norm biases and one norm more.

    Raises ValueError for names and shapes that do not fit.
    """
    expected = shapes_of(config)
    if isinstance(config, Config) and any(name.startswith("params") for name in params):
        params = flax_port.as_vit_pytorch(params, config)
        expected = {name: shape for name, shape in expected.items() if name in params or not is_norm_bias(name)}
        check_shapes({name: value for name, value in params.items() if name in expected}, expected)
    else:
        check_shapes(params, expected)
    return dict(params)


def _checked_images(images: Any, config: ScalableViTConfig | Config) -> np.ndarray:
    x = np.asarray(to_numpy(images))
    channels = config.channels if isinstance(config, Config) else config.in_chans
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"images must be b c h w with {channels} channels, got shape {x.shape}")
    if isinstance(config, Config):
        check_size(config, *x.shape[2:], drops_tiles=True)
    else:
        check_image_size(config, *x.shape[2:])
    return x


def _random_images(config: ScalableViTConfig | Config) -> np.ndarray:
    """Two: a batch of one hides what mixes images."""
    if isinstance(config, Config):
        return random_images((2, config.channels, 256, 256))
    size = usual_image_size(config)
    return random_images((2, config.in_chans, size, size))


def _opened(
    reference: Any, config: ScalableViTConfig | Config, images: np.ndarray | None, files: ExitStack
) -> tuple[Mapping[str, Any], np.ndarray | None]:
    """A reference's trace and its images, which must be those that are given, if any are."""
    if isinstance(reference, Mapping):
        own = np.asarray(to_numpy(reference[IMAGES])) if IMAGES in reference else None
        return reference, check_images(own, images, "the reference") if own is not None else images
    if not _is_trace(reference):
        raise CaptureError(f"reference: expected a trace ({', '.join(SUFFIXES)}), got {str(reference)!r}")
    captured = files.enter_context(open_trace(Path(reference), layers(config), None, images))
    return captured.taps, captured.images


def same_weights(captured: Captured, given: Given) -> dict[str, np.ndarray] | None:
    """The weights that both have, checked before any layer is; None if only a reference's trace is known."""
    own = None if captured.params is None else checked_params(captured.params, given.config)
    if own is None and given.params is None:
        if given.reference is not None:
            return None
        raise CaptureError(f"weights must be given for a {captured.kind}, which does not tell its own")
    if own is None or given.params is None:
        return given.params if own is None else own
    wrong = [name for name in own if relative_l2(own[name], given.params[name].astype(own[name].dtype)) > 0]
    if wrong:
        mine, theirs = given.params[wrong[0]], own[wrong[0]]
        hint = "; the candidate's is transposed" if np.array_equal(theirs.T, mine.astype(theirs.dtype)) else ""
        some = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if wrong[3:] else "")
        raise CaptureError(f"weights differ: {some}{hint}; load the same weights into both, then compare")
    return own  # as the candidate has rounded them

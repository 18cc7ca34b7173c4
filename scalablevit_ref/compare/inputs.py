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
from scalablevit_ref.compare.capture import Captured, CaptureError
from scalablevit_ref.compare.capture.dispatch import is_flax_module, is_torch_module, told_config
from scalablevit_ref.compare.capture.files import check_images, open_trace
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.config import variant as named_variant
from scalablevit_ref.errors import option
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.networks import Network, network_of, random_image_shape
from scalablevit_ref.testing.random import random_images, random_params
from scalablevit_ref.testing.tolerances import relative_l2
from scalablevit_ref.testing.traces import SUFFIXES, trace_config


@dataclass(frozen=True)
class Given:
    """params: None where the candidate's own are taken, or none are known. images: None where the candidate's trace brings them.
    reference: a trace in the network's stead. module: whether the candidate is one, whose copy gets the weights.
    """

    network: Network
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
        raise CaptureError("which network? ", option("variant"), " names it (small, base, …), or gives its ScalableViTConfig")
    network = network_of(config)
    params = _weights(weights, network, module)
    x = None if images is None else _checked_images(images, network)
    if reference is not None:
        reference, x = _opened(reference, network, x, files)
    if x is None and not _is_trace(candidate):
        x = random_images(random_image_shape(network))
    return Given(network, params, x, reference, module)


def _is_trace(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, str | Path) and Path(value).suffix in SUFFIXES)


def _noted(value: Any) -> ScalableViTConfig | None:
    return trace_config(value) if isinstance(value, str | Path) and Path(value).suffix in SUFFIXES else None


def _weights(weights: Any, network: Network, module: bool) -> dict[str, np.ndarray] | None:
    """None for the candidate's own."""
    if isinstance(weights, str) and not module:
        raise CaptureError(f"weights={weights} is for modules: give the file that the candidate has its weights from")
    if weights == "own" or (weights is None and not module):
        return None
    if weights is None or isinstance(weights, str):
        return random_params(network.parameter_shapes())
    return network.checked_params({name: np.asarray(to_numpy(value)) for name, value in weights.items()})


def _checked_images(images: Any, network: Network) -> np.ndarray:
    x = np.asarray(to_numpy(images))
    if x.ndim != 4 or x.shape[1] != network.in_chans:
        raise ValueError(f"images must be b c h w with {network.in_chans} channels, got shape {x.shape}")
    network.check_image_size(*x.shape[2:])
    return x


def _opened(
    reference: Any, network: Network, images: np.ndarray | None, files: ExitStack
) -> tuple[Mapping[str, Any], np.ndarray | None]:
    """A reference's trace and its images, which must be those that are given, if any are."""
    if isinstance(reference, Mapping):
        own = np.asarray(to_numpy(reference[IMAGES])) if IMAGES in reference else None
        return reference, check_images(own, images, "the reference") if own is not None else images
    if not _is_trace(reference):
        raise CaptureError(f"reference: expected a trace ({', '.join(SUFFIXES)}), got {str(reference)!r}")
    captured = files.enter_context(open_trace(Path(reference), network.layers(), None, images))
    return captured.taps, captured.images


def same_weights(captured: Captured, given: Given) -> dict[str, np.ndarray] | None:
    """The weights that both have, checked before any layer is; None if only a reference's trace is known."""
    own = None if captured.params is None else given.network.checked_params(captured.params)
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

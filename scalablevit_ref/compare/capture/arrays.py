"""What a candidate's arrays must be: arrays, of one dtype of floating point, and images that the network takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.networks import Network
from scalablevit_ref.testing.arrays import EPS


def array_of(value: Any, called: str) -> np.ndarray:
    """A NumPy copy of an array of any library. Raises CaptureError, naming it, for what is none, or has no values to copy."""
    if isinstance(value, np.ma.MaskedArray):
        raise CaptureError(f"{called} is a masked array, whose mask would be lost: give a plain one")
    try:
        x = None if isinstance(value, Mapping) else to_numpy(value)
    except Exception as error:  # each library refuses in its own way what has no values on the host
        if type(value).__module__.partition(".")[0] in ("builtins", "collections"):
            raise CaptureError(f"{called} is a {type(value).__name__}, and not an array") from error
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CaptureError(f"{called} is a {type(value).__name__} that gives no plain array of its values ({why})") from error
    if not isinstance(x, np.ndarray):
        raise CaptureError(f"{called} is a {type(value).__name__}, and not an array")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def one_dtype(dtypes: Mapping[str, str], what: str) -> str:
    """The one dtype of these arrays, by their names. Raises CaptureError for several, or for none of floating point."""
    for name, dtype in dtypes.items():
        if dtype not in EPS:
            whole = "; write (x - zero_point) * scale of whole numbers that stand for others" if "int" in dtype else ""
            raise CaptureError(f"{what}: {name!r} is of dtype {dtype}; expected {', '.join(EPS)}, as it was computed{whole}")
    several = {dtype: name for name, dtype in dtypes.items()}
    if len(several) > 1:
        some = ", ".join(sorted(several)) + f" ({', '.join(several[dtype] for dtype in sorted(several))})"
        raise CaptureError(f"{what} holds layers in several dtypes: {some}; write them as they were computed")
    return next(iter(several))


def image_batch(value: Any, network: Network, called: str) -> np.ndarray:
    """Images b c h w that the network takes. Raises CaptureError, naming them, for others; ValueError for an unfit size."""
    x = array_of(value, called)
    if x.ndim != 4 or x.shape[1] != network.in_chans:
        raise CaptureError(f"{called} must be b c h w with {network.in_chans} channels, got shape {x.shape}")
    if not len(x):
        raise CaptureError(f"{called} must be at least one image, got shape {x.shape}")
    if x.dtype.name not in EPS:
        raise CaptureError(f"{called} must be normalised images of dtype {', '.join(EPS)}, got {x.dtype.name}")
    network.check_image_size(*x.shape[2:])
    if not np.isfinite(x).all():
        raise CaptureError(f"{called} hold a NaN or an infinity, behind which nothing can be compared")
    return x


def shape_said(shape: Sequence[int]) -> str:
    """`112 x 224`."""
    return " x ".join(map(str, shape))

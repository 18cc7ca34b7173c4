"""Images as a model file takes them: its layout, and batches of its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalablevit_ref.errors import CaptureError


def in_batches(x: np.ndarray, dims: Sequence[int | str] | None, called: str, taken: str) -> tuple[list[np.ndarray], list[str]]:
    """The images in batches that a model takes, and what to say of that.

    Parameters
    ----------
    x
        Images, b c h w, in the model's dtype.
    dims
        What the model says of its input's axes: sizes, or names for those that are free; None if it says nothing.
    called, taken
        The model, and its input, in words.

    Raises
    ------
    CaptureError
        For images of another shape.
    """
    notes: list[str] = []
    if dims is None:
        return [x], notes
    if len(dims) == 4 and dims[3] == x.shape[1] != dims[1]:
        x, notes = x.transpose(0, 2, 3, 1), ["images were given as b h w c"]
    fits = len(dims) == 4 and all(not isinstance(a, int) or a == b for a, b in zip(dims[1:], x.shape[1:], strict=True))
    if not fits or (isinstance(dims[0], int) and len(x) % max(dims[0], 1)):
        raise CaptureError(
            f"{called} takes {taken!r} of shape ({', '.join(map(str, dims))}), got images of shape {x.shape}; "
            "give it such ones, or export it with dynamic sizes"
        )
    if isinstance(dims[0], int) and dims[0] < len(x):
        notes.append(f"it takes {dims[0]} image{'s' * (dims[0] > 1)} at a time: it was run {len(x) // dims[0]} times")
        return np.split(x, len(x) // dims[0]), notes
    return [x], notes

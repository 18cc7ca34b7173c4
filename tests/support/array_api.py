"""array-api-strict, which runs the definitions alone: registered here, as anyone would register a library of the standard."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import array_api_strict
import numpy as np
from scalablevit_ref.backends import register, standard


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> Any:
    return array_api_strict.asarray(np.array(x, dtype=dtype, order="C"), device=device)


register(
    type(array_api_strict.ones(1)),
    SimpleNamespace(**vars(standard) | {"NAME": "array_api_strict", "__name__": __name__, "from_numpy": from_numpy}),
)

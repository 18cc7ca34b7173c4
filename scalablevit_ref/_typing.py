"""Array types whose shapes are part of the signature.

`Float[Array, "b h w c"]` is jaxtyping's notation. Production code never pays for it: jaxtyping is used only where it is
already loaded (the test suite loads it first and checks every call) and where a type checker reads the file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

Array: TypeAlias = Any
"""An array of any library that has a backend: NumPy, PyTorch, JAX and others."""

Params: TypeAlias = Any  # spelled so that any mapping type passes the run-time check
"""A mapping of names to arrays, all of one library, dtype and device."""

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float as Float
else:

    class Float:
        """An array of floating point with named axes, as in `Float[Array, "b h w c"]`: jaxtyping's where that is loaded."""

        def __class_getitem__(cls, item: Any) -> Any:
            return Any

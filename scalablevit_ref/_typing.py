"""Array types whose shapes are part of the signature.

`Float[Array, "b h w c"]` is jaxtyping's notation. Production code never pays for it: jaxtyping is used only where it is
already loaded (the test suite loads it first and checks every call) and where a type checker reads the file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

Array: TypeAlias = Any  # a NumPy, PyTorch, CuPy, JAX or array-API array
Params: TypeAlias = Any  # Mapping[str, Array]; spelled Any so that any mapping type passes the run-time check

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float as Float
else:

    class Float:
        """Stands in for `jaxtyping.Float` where jaxtyping is not loaded."""

        def __class_getitem__(cls, item: Any) -> Any:
            return Any

"""How agreement is measured, and a port held against the reference.

Units of the dtype's eps, the tolerances of the proof, parameters behind which no fault hides, `compare`, and
`assert_equivalent_everywhere`, which holds a port against the reference for drawn configurations.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scalablevit_ref.testing.arrays import (
    EPS,
    MAX_TOLERANCE,
    NETWORK_TOLERANCE,
    max_error,
    random_images,
    random_params,
    relative_l2,
)
from scalablevit_ref.testing.equivalence import assert_equivalent_everywhere

if TYPE_CHECKING:
    from scalablevit_ref.compare.run import compare

__all__ = [
    "EPS",
    "MAX_TOLERANCE",
    "NETWORK_TOLERANCE",
    "assert_equivalent_everywhere",
    "compare",
    "max_error",
    "random_images",
    "random_params",
    "relative_l2",
]


def __getattr__(name: str) -> Any:
    """`compare` is loaded when it is first asked for: the proof and the benchmark do without it, and so does an unused plugin."""
    if name == "compare":
        return import_module("scalablevit_ref.compare.run").compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

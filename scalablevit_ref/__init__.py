"""The executable specification of ScalableViT (Yang et al., ECCV 2022) on NumPy, PyTorch, JAX and CuPy arrays."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scalablevit_ref import _moved
from scalablevit_ref import _start as _start  # before all that takes time to import
from scalablevit_ref._version import __version__ as __version__
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.blocks import block, mlp, patch_embed, peg
from scalablevit_ref.checkpoints import (
    Checkpoint,
    CheckpointError,
    from_state_dict,
    load_checkpoint,
    save_checkpoint,
    to_state_dict,
)
from scalablevit_ref.config import ScalableViTConfig, variant
from scalablevit_ref.cost import cost
from scalablevit_ref.network import scalable_vit, stage_features, trace
from scalablevit_ref.parameters import init_params, parameter_shapes

if TYPE_CHECKING:
    from scalablevit_ref import dialects

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ScalableViTConfig",
    "block",
    "cost",
    "dialects",
    "from_state_dict",
    "init_params",
    "iwsa",
    "load_checkpoint",
    "mlp",
    "parameter_shapes",
    "patch_embed",
    "peg",
    "save_checkpoint",
    "scalable_vit",
    "ssa",
    "stage_features",
    "to_backend",
    "to_numpy",
    "to_state_dict",
    "trace",
    "variant",
]

_moved.install()


def __getattr__(name: str) -> Any:
    """`dialects` is loaded when it is first asked for: few need the other published networks, and all would wait for them."""
    if name == "dialects":
        return import_module("scalablevit_ref.dialects")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The executable specification of ScalableViT (Yang et al., ECCV 2022) on NumPy and PyTorch arrays."""

from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.config import ScalableViTConfig, variant
from scalablevit_ref.network import block, mlp, patch_embed, peg, scalable_vit, stage_features, trace
from scalablevit_ref.parameters import init_params, parameter_shapes

__all__ = [
    "ScalableViTConfig",
    "block",
    "init_params",
    "iwsa",
    "mlp",
    "parameter_shapes",
    "patch_embed",
    "peg",
    "scalable_vit",
    "ssa",
    "stage_features",
    "to_backend",
    "to_numpy",
    "trace",
    "variant",
]

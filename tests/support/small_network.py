"""The network of two narrow stages on which candidates of all kinds are compared."""

from __future__ import annotations

from typing import Any

import scalablevit_ref as sv


def small_network(**others: Any) -> sv.ScalableViTConfig:
    """Its configuration, with other settings if they are given."""
    settings = {
        "embed_dims": (8, 16),
        "depths": (2, 2),
        "num_heads": (2, 4),
        "mlp_ratios": (2, 2),
        "sr_ratios": (2, 1),
        "c_ratios": (1.25, 1),
        "window_sizes": (2, 2),
        "num_classes": 5,
    }
    return sv.variant("small", **settings | others)

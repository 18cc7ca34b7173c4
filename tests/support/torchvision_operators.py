"""torchvision as it installs here: built for another torch, without the operators that its import asks for."""

from __future__ import annotations

import importlib
import importlib.util
import sys


def define() -> None:
    """Make `import torchvision` work, whose two missing operators nothing here calls; timm and transformers import it."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")

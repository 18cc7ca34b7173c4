"""`python transforms.py FOLDER SIZE`: timm's and torchvision's evaluation of each image in a folder, written as an npz beside them.

A process of its own: the torchvision that installs here is made for another build of PyTorch, and needs two operators by name.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch


def main(folder: Path, size: int) -> None:
    from PIL import Image
    from timm.data import create_transform
    from torchvision import transforms

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    official = transforms.Compose(
        [
            transforms.Resize(int(size * 256 / 224), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(mean, deviation),
        ]
    )
    timms = create_transform((3, size, size), interpolation="bicubic", crop_pct=0.875, mean=mean, std=deviation)
    found = {}
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        found |= {f"torchvision {path.name}": official(rgb).numpy(), f"timm {path.name}": timms(rgb).numpy()}
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    main(Path(sys.argv[1]), int(sys.argv[2]))

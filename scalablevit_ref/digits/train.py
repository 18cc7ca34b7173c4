"""Train the embedded example from scratch: `python -m scalablevit_ref.digits.train --out digits.pth`.

Needs `scalablevit-ref[train]` (torch, and scikit-learn for the images). The network is `sv.scalable_vit` itself on torch tensors.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import scalablevit_ref as sv
from scalablevit_ref.checkpoints import save_checkpoint
from scalablevit_ref.digits import IMAGE_SIZE, LEVELS, MEAN, STD, preprocess
from scalablevit_ref.errors import OptionError
from scalablevit_ref.files.writing import check_outputs

TEST_PER_CLASS, VALIDATION_PER_CLASS, SPLIT_SEED = 37, 25, 0

EPOCHS = 30
BATCH_SIZE = 32
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.05  # of all steps
SMOOTHING = 0.1
EMA_DECAY = 0.99

Params = dict[str, torch.Tensor]


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 images that scikit-learn ships: uint8 "n 8 8" in 0 … 16, and their digits, int64 "n"."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    data = load_digits()
    return data.images.astype(np.uint8), data.target.astype(np.int64)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the training, validation and test images: of each digit 37 to test, 25 to validate, the rest to train."""
    rng = np.random.default_rng(SPLIT_SEED)
    parts: list[list[np.ndarray]] = [[], [], []]
    for digit in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.split(order, [TEST_PER_CLASS, TEST_PER_CLASS + VALIDATION_PER_CLASS])
        for part, indices in zip(parts, (cuts[2], cuts[1], cuts[0]), strict=True):
            part.append(indices)
    train, validation, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation, test


def augment(images: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """uint8 "b 8 8" to the network's input "b 1 112 112", each image turned, scaled, sheared, shifted and bent by chance.

    With strength 0 this is `preprocess`.
    """
    n = len(images)

    def uniform(*shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * strength

    angle, shear = uniform(n) * math.radians(15), uniform(n) * 0.2
    height, width = 1 + uniform(n) * 0.15, 1 + uniform(n) * 0.15
    shift = uniform(n, 2) * 0.2  # of half the image: 0.8 source pixels
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [torch.stack([cos * width, (shear * cos - sin) * height, shift[:, 0]], 1)]
    rows += [torch.stack([sin * width, (shear * sin + cos) * height, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [n, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    smooth = F.interpolate(torch.eye(4)[None, None], (IMAGE_SIZE, 4), mode="bicubic", align_corners=True)[0]
    grid = grid + (smooth @ (uniform(n, 2, 4, 4) * 0.15) @ smooth.mT).permute(0, 2, 3, 1)
    ink = images[:, None].float() / LEVELS * (1 + 0.2 * uniform(n, 1, 1, 1))
    return (F.grid_sample(ink, grid, padding_mode="zeros", align_corners=False) - MEAN) / STD


def loss_of(params: Params, images: torch.Tensor, labels: torch.Tensor, config: sv.ScalableViTConfig) -> torch.Tensor:
    """Smoothed cross-entropy of a batch, "b 1 112 112" and "b"."""
    return F.cross_entropy(sv.scalable_vit(images, params, config), labels, label_smoothing=SMOOTHING)


def predict(params: Params, images: torch.Tensor, config: sv.ScalableViTConfig) -> torch.Tensor:
    """Logits "n classes" of images "n 1 112 112", without gradients, a few at a time."""
    with torch.no_grad():
        return torch.cat([sv.scalable_vit(part, params, config) for part in torch.tensor_split(images, -(-len(images) // 50))])


def optimizer_of(params: Params) -> torch.optim.AdamW:
    """AdamW; weights and kernels decay, biases and gains do not."""
    decayed = [p for p in params.values() if p.ndim > 1]
    free = [p for p in params.values() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


def learning_rate(step: int, steps: int) -> float:
    """A linear warm-up, then half a cosine down to a hundredth."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return LEARNING_RATE * (step + 1) / warm_up
    return LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))))


def batches(n: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Indices of one epoch's batches, in a random order."""
    yield from torch.tensor_split(torch.randperm(n, generator=generator), list(range(BATCH_SIZE, n, BATCH_SIZE)))


def train(epochs: int, seed: int, console: Console) -> tuple[dict[str, np.ndarray], int]:
    """The averaged weights of the epoch that validates best, as NumPy arrays, and that epoch, counted from 1.

    Best is the most validation images right, then the lowest validation loss.
    """
    config = sv.variant("digits")
    all_images, all_labels = load_digits()
    chosen, held_out, _ = split(all_labels)
    images, labels = torch.from_numpy(all_images[chosen]), torch.from_numpy(all_labels[chosen])
    validation, truth = torch.from_numpy(preprocess(all_images[held_out])), torch.from_numpy(all_labels[held_out])

    generator = torch.Generator().manual_seed(seed)
    params: Params = {name: p.requires_grad_() for name, p in sv.to_backend(sv.init_params(config, seed), "torch").items()}
    average = {name: p.detach().clone() for name, p in params.items()}
    optimizer = optimizer_of(params)
    step, steps = 0, epochs * math.ceil(len(labels) / BATCH_SIZE)
    best: tuple[tuple[int, float], dict[str, np.ndarray], int] | None = None

    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=steps, epoch=1)
        for epoch in range(1, epochs + 1):
            for indices in batches(len(labels), generator):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, steps)
                loss = loss_of(params, augment(images[indices], generator), labels[indices], config)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
                optimizer.step()
                step += 1
                decay = min(EMA_DECAY, step / (step + 10))
                for name, p in params.items():
                    average[name].lerp_(p.detach(), 1 - decay)
                progress.update(bar, advance=1, epoch=epoch)
            logits = predict(average, validation, config)
            right, loss_held_out = int((logits.argmax(1) == truth).sum()), float(F.cross_entropy(logits, truth))
            console.print(
                f"epoch {epoch:2d}: loss {loss.item():.3f}, validation loss {loss_held_out:.3f}, "
                f"accuracy {right / len(truth):.2%} ({len(truth) - right} wrong)"
            )
            if best is None or (right, -loss_held_out) > best[0]:
                best = (right, -loss_held_out), sv.to_numpy(average), epoch
    assert best is not None
    return best[1], best[2]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scalablevit_ref.digits.train", description="Train the embedded digits example."
    )
    parser.add_argument("--out", type=Path, default=Path("digits.pth"), help="the checkpoint to write (digits.pth)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the training images ({EPOCHS})")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the order and the augmentation (0)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="that torch may use (1, as for the packaged weights; more is faster on idle cores but sums in another order)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file that --out names")
    options = parser.parse_args(arguments)
    for name, least in (("epochs", 1), ("threads", 1), ("seed", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(options, name)}")
    if options.out.suffix != ".pth":
        parser.error(f"--out must name a .pth file, got {options.out}")
    try:
        check_outputs([options.out], force=options.force)
    except (OptionError, OSError) as error:
        parser.error(f"--out {error.in_flags() if isinstance(error, OptionError) else error}")

    start = time.perf_counter()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    # the filling of memory that nothing here reads would cost a tenth of the time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    console = Console(markup=False, emoji=False)  # a path is no markup
    params, epoch = train(options.epochs, options.seed, console)
    config = sv.variant("digits")
    images, labels = load_digits()
    test = split(labels)[2]
    logits = predict(sv.to_backend(params, "torch"), torch.from_numpy(preprocess(images[test])), config)
    wrong = int((logits.argmax(1).numpy() != labels[test]).sum())
    save_checkpoint(options.out, params, config, metadata={"epoch": epoch, "seed": options.seed}, force=options.force)
    console.print(f"epoch {epoch} chosen; test accuracy {1 - wrong / len(test):.2%} ({wrong} of {len(test)} wrong)")
    console.print(f"{options.out}: {options.out.stat().st_size:,} bytes, {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()

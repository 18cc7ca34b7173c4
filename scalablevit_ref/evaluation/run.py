"""Top-1 and top-5 of networks on labelled images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.evaluation.datasets import Dataset
from scalablevit_ref.evaluation.decoding import Decoded, batches
from scalablevit_ref.evaluation.journal import Found, Journal, digest
from scalablevit_ref.evaluation.models import Model
from scalablevit_ref.evaluation.preprocessing import Preprocessing
from scalablevit_ref.evaluation.processes import Processes
from scalablevit_ref.evaluation.results import TOP, Counted


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes
    ----------
    counted
        Of each network.
    damaged
        Why an image could not be read, by its name.
    seconds, images
        How long the networks and the reading of images took in this run, and of how many images; the rest came from the journal.

    Examples
    --------
    >>> found = Outcome([], {"cat.jpg": "truncated"}, seconds=1.5, images=100)
    >>> found.damaged
    {'cat.jpg': 'truncated'}
    """

    counted: list[Counted]
    damaged: dict[str, str]
    seconds: float
    images: int


def evaluate(
    models: Sequence[Model],
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    batch: int,
    decoders: int,
    processes: Processes,
    journal: Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Outcome:
    """Run the networks on all images, each image once.

    Parameters
    ----------
    models
        Each sees the same images.
    dataset, preprocessing
        The images.
    batch
        How many at a time.
    decoders
        How many processes decode them; 0: this one.
    processes
        What share of the images is this process's.
    journal
        Where what is found is kept, and what an earlier run has left is taken from.
    settings
        What else the run depends on; a journal of others is refused.
    progress
        Called with the images of this process that are done, and all of them.

    Raises
    ------
    ValueError
        For a journal of another run, and images whose kind does not fit the network.

    Examples
    --------
    >>> from contextlib import ExitStack
    >>> from tempfile import TemporaryDirectory
    >>> from scalablevit_ref import digits
    >>> from scalablevit_ref.evaluation import Asked, Run, open_dataset, open_model
    >>> images, labels = digits.test_images()
    >>> options = {"batch": 4, "decoders": 0, "processes": Processes()}
    >>> with ExitStack() as files:
    ...     folder = Path(files.enter_context(TemporaryDirectory()))
    ...     np.savez(folder / "few.npz", images=images[:4], labels=labels[:4])
    ...     dataset = open_dataset(folder / "few.npz", Asked(classes=10))
    ...     model = open_model(digits.CHECKPOINT, Run("numpy"), 4, files)
    ...     found = evaluate([model], dataset, Preprocessing(1, 112), **options)
    >>> int(found.counted[0].right.sum()), found.images, found.damaged
    (3, 4, {})
    """
    kept = None
    if journal is not None:
        networks = [digest(model.file) for model in models]
        kept = Journal(journal, {"images": dataset.fingerprint(), "networks": networks, **(settings or {})}, processes.rank)
    found = Found() if kept is None else kept.earlier()
    processes.all(None)  # all have read before one writes
    missing = [i for i in range(len(dataset)) if i not in found.done]
    mine = processes.share(missing)
    if kept is not None:
        kept.open()
    own, began, done = Found(), time.perf_counter(), 0
    progress(0, len(mine))
    try:
        for numbers, decoded in batches(dataset, mine, preprocessing, batch=batch, decoders=decoders):
            read, top, damaged = _classes(models, numbers, decoded, preprocessing)
            own.add(read, top, damaged)
            if kept is not None:
                kept.add(read, top, damaged)
            done += len(numbers)
            progress(done, len(mine))
    finally:
        if kept is not None:
            kept.close()
    seconds = time.perf_counter() - began
    for part, part_seconds in processes.all((own, seconds)):
        found.add(part.top, part.top.values(), part.damaged)
        seconds = max(seconds, part_seconds)
    return _outcome(models, dataset, found, seconds, len(missing))


def _classes(
    models: Sequence[Model], numbers: Sequence[int], decoded: Sequence[Decoded], preprocessing: Preprocessing
) -> tuple[list[int], list[list[list[int]]], dict[int, str]]:
    """The images that could be read, their classes by each network, and why the others could not."""
    damaged = {i: image for i, image in zip(numbers, decoded, strict=True) if isinstance(image, str)}
    read = [i for i, image in zip(numbers, decoded, strict=True) if not isinstance(image, str)]
    if not read:
        return [], [], damaged
    inputs = preprocessing.inputs([image for image in decoded if not isinstance(image, str)])
    by_model = [_top(model.logits(inputs)) for model in models]
    return read, [[one[i] for one in by_model] for i in range(len(read))], damaged


def _top(logits: np.ndarray) -> list[list[int]]:
    """The classes of the largest logits; of equal ones the first, so that every machine counts alike. With a NaN: −1, no class."""
    found = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    found[np.isnan(logits).any(axis=1)] = -1
    classes: list[list[int]] = found.tolist()
    return classes


def _outcome(models: Sequence[Model], dataset: Dataset, found: Found, seconds: float, images: int) -> Outcome:
    numbers = sorted(found.top)
    labels = dataset.labels[numbers] if numbers else np.zeros(0, np.int64)
    counted = []
    for j, model in enumerate(models):
        width = min(TOP, model.classes)
        top = np.array([found.top[i][j] for i in numbers], np.int64).reshape(-1, width)
        counted.append(Counted(model.name, model.config, labels, top))
    damaged = {dataset.names[i]: why for i, why in sorted(found.damaged.items())}
    return Outcome(counted, damaged, seconds, images)

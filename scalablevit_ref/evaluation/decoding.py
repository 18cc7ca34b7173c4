"""Images decoded ahead of the network, by processes of their own."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process

import numpy as np

from scalablevit_ref.evaluation.datasets import Dataset, Source
from scalablevit_ref.evaluation.preprocessing import Preprocessing

AHEAD = 2
"""Batches that are decoded while the network works on another."""

Decoded = np.ndarray | str
"""An image's pixels, or why it cannot be read."""


def decode(sources: Sequence[Source], preprocessing: Preprocessing) -> list[Decoded]:
    """The pixels of some images. What is wrong with one is said in its place."""
    found: list[Decoded] = []
    for source in sources:
        try:
            found.append(preprocessing.pixels(source.read()))
        except (OSError, ValueError) as error:
            found.append(str(error))
    return found


def batches(
    dataset: Dataset, numbers: Sequence[int], preprocessing: Preprocessing, *, batch: int, decoders: int
) -> Iterator[tuple[list[int], list[Decoded]]]:
    """The images of these numbers, a batch at a time and in order, with what was decoded. With no decoders this process decodes.

    Each batch is cut into one part for each decoder.
    """
    cuts = [list(numbers[start : start + batch]) for start in range(0, len(numbers), batch)]
    if not decoders:
        for cut in cuts:
            yield cut, decode([dataset.source(i) for i in cut], preprocessing)
        return
    part = -(-batch // decoders)
    with ProcessPoolExecutor(decoders, get_context("spawn"), _begin) as pool:
        waiting: deque[tuple[list[int], list[Future[list[Decoded]]]]] = deque()
        try:
            for cut in cuts:
                sources = [dataset.source(i) for i in cut]
                parts = [sources[start : start + part] for start in range(0, len(sources), part)]
                waiting.append((cut, [pool.submit(decode, one, preprocessing) for one in parts]))
                if len(waiting) > AHEAD:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _done(numbers: list[int], futures: list[Future[list[Decoded]]]) -> tuple[list[int], list[Decoded]]:
    return numbers, [image for future in futures for image in future.result()]


def _begin() -> None:
    """In a decoder: Ctrl-C is the business of the process that started it, and without that one it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_starter, daemon=True).start()


def _end_with_starter() -> None:
    starter = parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)

"""`python -m tests.support.forked`: a process forked from one whose NumPy backend has started its threads computes the same.

A program of its own, which `test_numpy.py` runs: JAX, if it is loaded, warns of every fork.
"""

from __future__ import annotations

import multiprocessing

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref.testing import random_images, random_params
from tests.support.waiting import HANGS

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8, 16, 32, 64),
    depths=(2, 1, 1, 1),
    num_heads=(2, 2, 2, 2),
    mlp_ratios=(4, 4, 4, 4),
    sr_ratios=(8, 4, 2, 1),
    c_ratios=(1.25, 1, 1, 1),
    window_sizes=(7, 7, 7, 7),
    num_classes=3,
    head="linear",
)
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")


def images(count: int) -> np.ndarray:
    return random_images((count, 3, 224, 224), dtype="float32")


def main() -> None:
    """Compute the same before the fork and in it."""
    x = images(2)
    expected = sv.scalable_vit(x, PARAMS, CONFIG)
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=lambda: send.send(sv.scalable_vit(x, PARAMS, CONFIG)))
    process.start()
    assert receive.poll(HANGS), "the fork waits for threads that it does not have"
    np.testing.assert_array_equal(receive.recv(), expected)
    process.join()


if __name__ == "__main__":
    main()

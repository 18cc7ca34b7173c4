"""What the NumPy backend does for its speed: groups of images, threads, and a bound on the memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scalablevit_ref.backends import numpy as backend
from scalablevit_ref.backends import threads
from threadpoolctl import threadpool_info, threadpool_limits

import scalablevit_ref as sv
from scalablevit_ref.testing import EPS, MAX_TOLERANCE, max_error, random_params
from tests.support.forked import CONFIG, PARAMS, images
from tests.support.waiting import HANGS

MAPS = sv.ScalableViTConfig(**{**vars(CONFIG), "head": "none", "num_classes": 0, "stage_norms": True})

pytestmark = pytest.mark.usefixtures("as_in_production")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if "numpy" in library["filepath"]]


def test_no_image_and_no_batch_are_refused_as_ever() -> None:
    for x in (images(1)[:0], images(1)[0], np.float32(1) + np.zeros((), np.float32)):
        with pytest.raises((ValueError, TypeError), match="images"):
            sv.scalable_vit(x, PARAMS, CONFIG)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.usefixtures("two_threads")
def test_groups_and_threads_change_nothing(count: int) -> None:
    x = images(count)
    assert threads.threads_at_hand() == 2
    found = sv.scalable_vit(x, PARAMS, CONFIG)
    assert found.shape == (count, 3)
    one_by_one = np.concatenate([sv.scalable_vit(image[None], PARAMS, CONFIG) for image in x])
    assert max_error(found, one_by_one) <= MAX_TOLERANCE * EPS["float32"]
    whole = sv.trace(x, PARAMS, CONFIG)
    assert whole["stages.0.0"].shape == (count, 56, 56, 8)
    assert max_error(found, whole["logits"]) <= MAX_TOLERANCE * EPS["float32"]


@pytest.mark.usefixtures("two_threads")
def test_maps_are_put_together_again() -> None:
    params = random_params(sv.parameter_shapes(MAPS), dtype="float32")
    x = images(5)
    found = sv.stage_features(x, params, MAPS)
    assert [y.shape for y in found] == [(5, 56, 56, 8), (5, 28, 28, 16), (5, 14, 14, 32), (5, 7, 7, 64)]
    for i in range(5):
        for y, alone in zip(found, sv.stage_features(x[i : i + 1], params, MAPS), strict=True):
            assert max_error(y[i : i + 1], alone) <= MAX_TOLERANCE * EPS["float32"]


@pytest.mark.usefixtures("two_threads")
def test_groups_run_at_the_same_time_on_one_thread_of_blas_each() -> None:
    together = threading.Barrier(2, timeout=HANGS)
    seen: list[tuple[int, list[int], int]] = []

    def work(part: int) -> None:
        together.wait()
        seen.append((threading.get_ident(), blas_threads(), threads.threads_at_hand()))

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        threads.share(work, range(2))
        assert blas_threads() == before
    assert len({thread for thread, _, _ in seen}) == 2
    assert all(counts == [1] * len(before) and nested == 1 for _, counts, nested in seen)
    assert threads.threads_at_hand() == 2


class Library:
    """A BLAS with seven threads."""

    count = 7

    def get_num_threads(self) -> int:
        return self.count

    def set_num_threads(self, count: int) -> None:
        self.count = count


def test_blas_gets_its_threads_back_from_the_last_of_two_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(threads, "_blas", lambda: [library])
    inside, leave = threading.Barrier(2, timeout=HANGS), threading.Event()

    def first() -> None:
        with threads._one_thread_of_blas():
            inside.wait()
            leave.wait(HANGS)

    caller = threading.Thread(target=first)
    caller.start()
    inside.wait()
    with threads._one_thread_of_blas():
        assert library.count == 1
    assert library.count == 1  # the first one still computes
    leave.set()
    caller.join()
    assert library.count == 7


def test_the_blas_that_multiplies_for_numpy_is_found() -> None:
    assert len(threads._blas()) >= 1


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_is_raised_and_leaves_nothing_behind() -> None:
    def work(part: int) -> None:
        if part == 1:
            raise FloatingPointError("of the second thread")

    before = blas_threads()
    with pytest.raises(FloatingPointError, match="of the second thread"):
        threads.share(work, range(2))
    assert blas_threads() == before
    assert threads.threads_at_hand() == 2


def test_a_forked_process_has_threads_of_its_own() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-m", "tests.support.forked"], cwd=Path(__file__).parents[2], env=environment, check=True)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 3),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "2,4"}, 2),
        ({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "64"}, 3),
        ({"OMP_NUM_THREADS": "0"}, 3),
        ({"OMP_NUM_THREADS": "many"}, 3),
    ],
)
def test_as_many_threads_as_blas(variables: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads.threads_at_hand() == expected


def peak(count: int) -> int:
    x = images(count)
    tracemalloc.start()
    sv.scalable_vit(x, PARAMS, CONFIG)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held


def test_memory_is_bounded_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `in_groups` says; and twice the logits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    largest = 56 * 56 * 7 * 7 * 3 * 4  # bytes of the patches, 147 channels to the hidden layer's 32
    bound = 4 * largest * backend.GROUP
    logits: Any = 2 * 256 * CONFIG.num_classes * 4
    assert peak(backend.GROUP) <= bound
    assert bound / 4 < peak(256) <= bound + logits + 100_000  # Python's own objects

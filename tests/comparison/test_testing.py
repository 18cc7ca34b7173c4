"""The helpers that compare: each must see what it is there to see."""

from __future__ import annotations

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.testing import EPS, max_error, random_images, random_params, relative_l2
from scalablevit_ref.testing.agreement import CANDIDATES, ORACLE, Candidate, agreement, steps, why_absent

A = np.random.default_rng(0).standard_normal((4, 5))
CONFIG = sv.variant("digits", embed_dims=(8, 8, 8, 8), num_heads=(2, 2, 2, 2))
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((3, 1, 112, 112), dtype="float32")


@pytest.mark.parametrize("error", [relative_l2, max_error])
def test_measures(error: object) -> None:
    assert callable(error)
    assert error(A, A) == 0
    assert error(A * (1 + 1e-6), A) == pytest.approx(1e-6)
    assert error(np.zeros(3), np.zeros(3)) == 0
    assert error(np.ones(3), np.zeros(3)) == float("inf")


@pytest.mark.parametrize("error", [relative_l2, max_error])
def test_measures_fail_where_they_must(error: object) -> None:
    assert callable(error)
    flipped = A.copy()
    flipped[1, 2] *= -1
    assert error(flipped, A) > 1e-2
    cancelling = A + np.array([1e-3, -1e-3, 1e-3, -1e-3, 0.0])  # a signed sum would not see it
    assert error(cancelling, A) > 1e-4
    assert error(A[::-1], A) > 1e-1
    with_nan = np.where(A[0, 0] == A, np.nan, A)
    for pair in ((with_nan, A), (A, with_nan), (with_nan, with_nan)):
        assert np.isnan(error(*pair))
    with pytest.raises(ValueError, match="shapes differ"):
        error(A.T, A)


def test_eps() -> None:
    for dtype in ("float16", "float32", "float64"):
        assert EPS[dtype] == np.finfo(dtype).eps


def test_random_params_hide_nothing() -> None:
    params = random_params(sv.parameter_shapes(sv.variant("small_0")))
    for name, x in params.items():
        assert np.all(x != 0), name
        if x.ndim == 1:
            assert x.mean() == pytest.approx(1 if name.endswith("weight") else 0, abs=0.3), name
            assert x.std() == pytest.approx(0.3, rel=0.35), name
        else:
            assert x.std() == pytest.approx(np.prod(x.shape[1:]) ** -0.5, rel=0.1), name


def test_agreement() -> None:
    called = []
    results = agreement(IMAGES, PARAMS, CONFIG, batch=2, progress=called.append)
    assert len(called) == steps(CANDIDATES, len(IMAGES), 2)
    for result in results:
        if why_absent(result.candidate) is not None:
            assert result.absent == why_absent(result.candidate)
            assert not result.agrees
            continue
        assert result.agrees, (result.candidate, result.worst)
        assert result.images == 3
        assert len(result.classes) == 3
        assert (result.worst[1] == 0) == (result.candidate == ORACLE)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_agreement_sees_a_fault(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One gelu that is the tanh approximation on one backend: every later tap is off, and the first is not."""
    import torch.nn.functional as F
    from scalablevit_ref.backends import numpy, torch

    if library == "torch":
        monkeypatch.setattr(torch, "gelu", lambda x: F.gelu(x, approximate="tanh"))
    else:
        monkeypatch.setattr(numpy, "_TANH_SERIES", (0.0, 0.0, 0.0, 0.0, 0.0, 0.044715 * (2 / np.pi) ** 0.5, (2 / np.pi) ** 0.5))
    candidates = [ORACLE, Candidate("numpy", "float32"), Candidate("torch", "float32")]
    _, *others = agreement(IMAGES, PARAMS, CONFIG, candidates)
    for result in others:
        assert result.agrees == (result.candidate.library != library)
        if not result.agrees:
            first = next(tap for tap, error in result.errors.items() if error > result.tolerance)
            assert first == "stages.0.0.mlp"


def test_a_gpu_that_is_not_there_is_said() -> None:
    for library in ("torch", "jax"):
        assert why_absent(Candidate(library, "float32", "cuda:99")) == "no CUDA device"


def test_agreement_sees_a_nan() -> None:
    broken = PARAMS | {"norm.bias": np.where(np.arange(8) == 3, np.float32(np.nan), PARAMS["norm.bias"])}
    results = agreement(IMAGES, broken, CONFIG, [ORACLE, Candidate("torch", "float32")])
    assert not results[1].agrees
    assert results[1].worst[0] in {"norm", "head", "logits"}

"""The same network on every backend and dtype that is present, held tap by tap against NumPy in float64."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import trace
from scalablevit_ref.testing.tolerances import EPS, NETWORK_TOLERANCE, ratio


@dataclass(frozen=True)
class Candidate:
    """A library, a dtype and a device that the network can run on."""

    library: str
    dtype: str
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.library} {self.dtype}" + ("" if self.device == "cpu" else f" on {self.device}")


ORACLE = Candidate("numpy", "float64")
CANDIDATES = (
    ORACLE,
    Candidate("numpy", "float32"),
    Candidate("torch", "float64"),
    Candidate("torch", "float32"),
    Candidate("torch", "bfloat16"),
    Candidate("torch", "float32", "cuda"),
    Candidate("torch", "bfloat16", "cuda"),
)
"""What `agreement` runs unless told otherwise; the first is what all others are held against."""


@dataclass
class Result:
    """How one candidate did. `absent` says why it could not run; else the figures are over all images."""

    candidate: Candidate
    absent: str | None = None
    images: int = 0
    seconds: float = 0.0
    logits: list[np.ndarray] = field(default_factory=list)
    squares: dict[str, np.ndarray] = field(default_factory=dict)  # tap: Σ Δ², Σ reference²

    @property
    def errors(self) -> dict[str, float]:
        """‖Δ‖ / ‖reference‖ over all images at each tap, in eps of the candidate's dtype."""
        eps = EPS[self.candidate.dtype]
        return {tap: ratio(*np.sqrt(squares)) / eps for tap, squares in self.squares.items()}

    @property
    def worst(self) -> tuple[str, float]:
        """The tap where the error is largest, and that error in eps; a NaN is larger than any number."""
        errors = self.errors
        tap = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
        return tap, errors[tap]

    @property
    def tolerance(self) -> int:
        return NETWORK_TOLERANCE[self.candidate.dtype]

    @property
    def agrees(self) -> bool:
        return self.absent is None and self.worst[1] <= self.tolerance

    @property
    def classes(self) -> np.ndarray:
        """The class of each image: b."""
        classes: np.ndarray = np.concatenate(self.logits).argmax(axis=1)
        return classes

    def add(self, taps: Mapping[str, Any], oracle: Mapping[str, np.ndarray], seconds: float) -> None:
        if list(taps) != list(oracle):
            raise AssertionError(f"{self.candidate} traced other names than the oracle")
        for name, x in taps.items():
            reference = oracle[name]
            difference = to_numpy(x).astype(np.float64) - reference
            squares = np.array([np.vdot(difference, difference), np.vdot(reference, reference)])
            self.squares[name] = self.squares.get(name, 0) + squares
        self.logits.append(to_numpy(taps["logits"]).astype(np.float64))
        self.images += len(self.logits[-1])
        self.seconds += seconds


def why_absent(candidate: Candidate) -> str | None:
    """Why this candidate cannot run here, or None."""
    if find_spec(candidate.library) is None:
        return f"not installed: pip install 'scalablevit-ref[{candidate.library}]'"
    if candidate.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            return "no CUDA device"
    return None


def agreement(
    images: np.ndarray,
    params: Mapping[str, np.ndarray],
    config: ScalableViTConfig,
    candidates: Iterable[Candidate] = CANDIDATES,
    *,
    batch: int = 40,
    progress: Callable[[str], None] = lambda step: None,
) -> list[Result]:
    """Run every candidate on the images, b c h w, and compare each of its taps with the oracle's.

    The oracle computes in float64 from the images and parameters as they are given; what a candidate loses by rounding them to its
    own dtype counts as its error. `progress` is called before each batch of each candidate, with what it runs.
    """
    results = [Result(candidate, why_absent(candidate)) for candidate in candidates]
    oracle_params = _on(ORACLE, params)
    own = [(result, _on(result.candidate, params)) for result in results if result.absent is None and result.candidate != ORACLE]
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        progress(str(ORACLE))
        oracle, seconds = _timed(_on(ORACLE, x), oracle_params, config)
        for result in results:
            if result.candidate == ORACLE:
                result.add(oracle, oracle, seconds)
        for result, own_params in own:
            progress(str(result.candidate))
            taps, seconds = _timed(_on(result.candidate, x), own_params, config)
            result.add(taps, oracle, seconds)
    return results


def steps(candidates: Sequence[Candidate], images: int, batch: int = 40) -> int:
    """How many times `agreement` will call `progress`."""
    present = sum(candidate != ORACLE and why_absent(candidate) is None for candidate in candidates)
    return (1 + present) * -(-images // batch)


def _on(candidate: Candidate, arrays: Any) -> Any:
    return to_backend(arrays, candidate.library, candidate.dtype, candidate.device)


def _timed(x: Any, params: Mapping[str, Any], config: ScalableViTConfig) -> tuple[dict[str, Any], float]:
    start = time.perf_counter()
    taps = trace(x, params, config)
    to_numpy(taps["logits"])  # waits for a GPU
    return taps, time.perf_counter() - start

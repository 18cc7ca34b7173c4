"""The same network on every backend and dtype that is present, held tap by tap against NumPy in float64."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import numpy as np

from scalablevit_ref.arguments import check_count, check_flag, check_function
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.backends.start import FAULTS, gpus, said, why_not_started
from scalablevit_ref.blocks import untapped
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import brief
from scalablevit_ref.network import trace
from scalablevit_ref.networks import network_of
from scalablevit_ref.operation_checks import check_network
from scalablevit_ref.run_cost import check_run, run_cost
from scalablevit_ref.testing.arrays import EPS, NETWORK_TOLERANCE, ratio


@dataclass(frozen=True)
class Candidate:
    """A library, a dtype and a device that the network can run on.

    Examples
    --------
    >>> print(Candidate("torch", "float32", "cuda"))
    torch float32 on cuda
    """

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
    Candidate("jax", "float32"),
    Candidate("torch", "float32", "cuda"),
    Candidate("torch", "bfloat16", "cuda"),
    Candidate("jax", "float32", "cuda"),
    Candidate("jax", "bfloat16", "cuda"),
    Candidate("cupy", "float64", "cuda"),
    Candidate("cupy", "float32", "cuda"),
    Candidate("mlx", "float64"),
    Candidate("mlx", "float32"),
    Candidate("mlx", "float32", "gpu"),
)
"""What `agreement` runs by default; all others are held against the first."""

WHEN_NAMED = tuple(
    Candidate(library, dtype) for library in ("tensorflow", "paddle", "tinygrad") for dtype in ("float64", "float32")
)
"""What `verify` runs where its library is named. TensorFlow and Paddle start programs and write into the user's folders when they
are imported, and two of their versions in one process may end it; tinygrad compiles some hundred kernels first, for minutes."""


@dataclass
class Result:
    """How one candidate did, over all images.

    Attributes
    ----------
    absent
        Why it could not run, or None.
    failed
        What it raised while it ran, in one line, or None.
    squares
        Σ Δ² and Σ reference² by tap.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, images = load_checkpoint(digits.CHECKPOINT), digits.test_images()[0]
    >>> x = digits.preprocess(images[:1])
    >>> candidates = [Candidate("numpy", "float32")]
    >>> [result] = agreement(x, found.params, found.config, candidates)
    >>> result.images, result.classes, result.worst[1] < result.tolerance
    (1, array([9]), True)
    """

    candidate: Candidate
    absent: str | None = None
    failed: str | None = None
    images: int = 0
    seconds: float = 0.0
    logits: list[np.ndarray] = field(default_factory=list)
    squares: dict[str, np.ndarray] = field(default_factory=dict)

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
        """What a tap may differ by, in eps of the candidate's dtype."""
        return NETWORK_TOLERANCE[self.candidate.dtype]

    @property
    def agrees(self) -> bool:
        """Whether it ran, and no tap differs by more."""
        return self.absent is None and self.failed is None and self.worst[1] <= self.tolerance

    @property
    def classes(self) -> np.ndarray:
        """The class of each image: b."""
        classes: np.ndarray = np.concatenate(self.logits).argmax(axis=1)
        return classes

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What is raised within is this candidate's failure."""
        try:
            yield
        except FAULTS as error:
            self.failed = said(error)

    def add(self, taps: Mapping[str, Any], oracle: Mapping[str, np.ndarray], seconds: float) -> None:
        if set(taps) != set(oracle):  # in any order: JAX sorts the names
            raise AssertionError(f"{self.candidate} traced other names than the oracle")
        for name, reference in oracle.items():
            difference = to_numpy(taps[name]).astype(np.float64) - reference
            squares = np.array([np.vdot(difference, difference), np.vdot(reference, reference)])
            self.squares[name] = self.squares.get(name, 0) + squares
        self.logits.append(to_numpy(taps["logits"]).astype(np.float64))
        self.images += len(self.logits[-1])
        self.seconds += seconds


def why_absent(candidate: Candidate) -> str | None:
    """Why this candidate cannot run here, or None."""
    if find_spec(candidate.library) is None:
        return f"not installed: pip install 'scalablevit-ref[{candidate.library}]'"
    if (why := why_not_started(candidate.library)) is not None:
        return why
    try:
        if candidate.device != "cpu" and int(candidate.device.partition(":")[2] or 0) >= gpus(candidate.library):
            return "no GPU" if candidate.library == "mlx" else "no CUDA device"
        to_candidate(candidate, np.zeros(1, "float32"))
    except FAULTS as error:
        return f"does not start: {said(error)}"
    return None


def agreement(
    images: np.ndarray,
    params: Mapping[str, np.ndarray],
    config: ScalableViTConfig,
    candidates: Iterable[Candidate] = CANDIDATES,
    *,
    batch: int = 40,
    progress: Callable[[str], None] = lambda step: None,
    costly: bool = False,
) -> list[Result]:
    """Run every candidate on the images and compare each of its taps with the oracle's.

    The oracle computes in float64 from the images and parameters as they are given; what a candidate loses by rounding them to its
    own dtype counts as its error.

    Parameters
    ----------
    images
        b c h w.
    params
        Under the official names.
    config
        What they are of.
    candidates
        What is run; those that cannot run here, and those that fail while they run, say so in their result.
    batch
        How many images each takes at a time.
    progress
        Called before each batch of each candidate, with what is run; as often as `steps` says.
    costly
        Whether they are run also where it takes more than the parameters and images account for.

    Returns
    -------
    list of Result
        One for each candidate.

    Raises
    ------
    CostError
        As `check_agreement` does, unless `costly`.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, images = load_checkpoint(digits.CHECKPOINT), digits.test_images()[0]
    >>> x = digits.preprocess(images[:1])
    >>> candidates = [Candidate("numpy", "float32")]
    >>> [result] = agreement(x, found.params, found.config, candidates)
    >>> result.agrees, result.tolerance
    (True, 32)
    """
    check_function("progress", progress)
    check_flag("costly", costly)
    check_count("batch", batch)
    candidates = _checked(candidates)
    check_network(images, params, config, tap=untapped, alike=False)  # each candidate gets them in its own dtype
    check_agreement(np.shape(images), config, candidates, batch=batch, costly=costly)
    results = [Result(candidate, why_absent(candidate)) for candidate in candidates]
    oracle_params = to_candidate(ORACLE, params)
    own: dict[Candidate, Any] = {}
    running = [result for result in results if result.absent is None and result.candidate != ORACLE]
    for result in running:
        with result.attempt():
            own[result.candidate] = to_candidate(result.candidate, params)
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        progress(str(ORACLE))
        oracle, seconds = _timed(ORACLE, to_candidate(ORACLE, x), oracle_params, config)
        for result in results:
            if result.candidate == ORACLE:
                result.add(oracle, oracle, seconds)
        for result in running:
            progress(str(result.candidate))
            if result.failed is None:
                with result.attempt():
                    taps, seconds = _timed(result.candidate, to_candidate(result.candidate, x), own[result.candidate], config)
                    result.add(taps, oracle, seconds)
    return results


def check_agreement(
    images: Sequence[int],
    config: ScalableViTConfig,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    batch: int = 40,
    given: bool = True,
    costly: bool = False,
) -> None:
    """Raise CostError, unless `costly`, where `agreement` on images of this shape would take more than `run_cost.check_run` allows.

    `given` is its own: whether the images are the user's. A candidate's layers are held beside the oracle's.
    """
    if costly or not images[0]:
        return
    network, shape = network_of(config), (min(batch, images[0]), *images[1:])
    others = {candidate.library for candidate in candidates if candidate != ORACLE and why_absent(candidate) is None}
    beside = run_cost(network, shape).kept if others else 0
    check_run(network, shape, keeping=True, whole=bool(others - {"numpy"}), beside=beside, given=given)


def steps(candidates: Sequence[Candidate], images: int, batch: int = 40) -> int:
    """How many times `agreement` will call `progress`."""
    check_count("images", images, least=0)
    check_count("batch", batch)
    candidates = _checked(candidates)
    present = sum(candidate != ORACLE and why_absent(candidate) is None for candidate in candidates)
    return (1 + present) * -(-images // batch)


def _checked(candidates: Any) -> list[Candidate]:
    """Raises TypeError for what are no candidates."""
    found: list[Any]
    try:
        found = [candidates] if isinstance(candidates, str) else list(candidates)
    except TypeError:
        found = [candidates]
    for candidate in found:
        if not isinstance(candidate, Candidate):
            raise TypeError(f"candidates must be a sequence of Candidate, got {brief(candidate)}")
    return found


def to_candidate(candidate: Candidate, arrays: Any) -> Any:
    """Arrays of any library as those that the candidate computes with."""
    with settings(candidate):
        return to_backend(arrays, candidate.library, candidate.dtype, candidate.device)


def settings(candidate: Candidate) -> AbstractContextManager[Any]:
    """What a library needs to compute in the dtype and on the device that it is asked for.

    PyTorch's products are unrounded; JAX has float64 only where it is switched on; what computes on MLX's arrays is its default
    device; tinygrad's kernels are compiled in this process, since others take longer to be started.
    """
    if candidate.library == "torch":
        return unrounded_float32()
    if candidate.library == "mlx":
        import mlx.core

        return mlx.core.stream(getattr(mlx.core, candidate.device))
    if candidate.library == "tinygrad":
        from tinygrad.helpers import Context

        return cast("AbstractContextManager[Any]", Context(PARALLEL=0))
    if (candidate.library, candidate.dtype) == ("jax", "float64"):
        import jax

        return cast("AbstractContextManager[Any]", jax.enable_x64(True))
    return nullcontext()


@contextmanager
def unrounded_float32() -> Iterator[None]:
    """Float32 products and convolutions of PyTorch in float32 on a GPU too, where by default it rounds convolutions to TF32."""
    import torch

    switches: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def _timed(candidate: Candidate, x: Any, params: Mapping[str, Any], config: ScalableViTConfig) -> tuple[dict[str, Any], float]:
    with settings(candidate):
        run: Callable[..., dict[str, Any]] = partial(trace, config=config)
        if candidate.library == "jax":
            key = (candidate, config, tuple(x.shape))
            run = _compiled[key] = _compiled.get(key) or _compile(run, x, params)
        elif candidate.library == "tinygrad":
            key = (candidate, config, tuple(x.shape))
            run = _compiled[key] = _compiled.get(key) or _capture(run, params)
        start = time.perf_counter()
        taps = run(x, params)
        to_numpy(taps["logits"])  # waits for a GPU
    return taps, time.perf_counter() - start


_compiled: dict[tuple[Candidate, ScalableViTConfig, tuple[int, ...]], Callable[..., dict[str, Any]]] = {}


def _compile(function: Callable[..., dict[str, Any]], *arguments: Any) -> Callable[..., dict[str, Any]]:
    """JAX as it is meant to be used, compiled once for each shape, before the clock runs."""
    import jax

    return cast("Callable[..., dict[str, Any]]", jax.jit(function).lower(*arguments).compile())


def _capture(function: Callable[..., dict[str, Any]], params: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """tinygrad as it is meant to be used: its kernels are recorded in the second call with a shape, and only run after it."""
    from tinygrad import Tensor, TinyJit

    def realized(x: Any) -> dict[str, Any]:
        taps = function(x, params)
        Tensor.realize(*taps.values())
        return taps

    captured = TinyJit(realized)
    return lambda x, params: cast("dict[str, Any]", captured(x))

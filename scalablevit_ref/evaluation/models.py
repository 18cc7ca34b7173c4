"""What is evaluated: a checkpoint on one of the backends, or an ONNX file, as a function of images that gives logits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref.arguments import FLOATS
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.checkpoints.download import as_given, local
from scalablevit_ref.checkpoints.in_one_dtype import load_in_one_dtype
from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.testing.agreement import Candidate, unrounded_float32, why_absent

BACKENDS = ("torch", "jax", "numpy", "onnx", "openvino")
"""What runs a network here."""

ENGINES = ("onnx", "openvino")
"""Those that run ONNX files."""


@dataclass(frozen=True)
class Model:
    """A network that is ready to run.

    Attributes
    ----------
    name
        The file, and what runs it.
    backend
        What runs it.
    file
        Where the network is from.
    config
        None of a foreign ONNX file that does not say.
    channels, classes
        Of the images, and of the logits.
    batch, size
        Images at a time, and pixels a side, where an ONNX file has them fixed.
    predict
        Logits, NumPy's b classes in float32, of NumPy's images b c h w in float32.

    Examples
    --------
    >>> from scalablevit_ref import digits
    >>> images, _ = digits.test_images()
    >>> with ExitStack() as files:
    ...     model = open_model(digits.CHECKPOINT, Run("numpy"), 40, files)
    ...     logits = model.logits(digits.preprocess(images[:3]))
    >>> logits.shape
    (3, 10)
    """

    name: str
    backend: str
    file: Path
    config: ScalableViTConfig | None
    channels: int
    classes: int
    batch: int | None
    size: int | None
    predict: Callable[[np.ndarray], np.ndarray]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Of any number of images: they are filled up to the fixed batch, and what was added is cut off."""
        if not self.batch:
            return self.predict(images)
        missing = -len(images) % self.batch
        filled = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)]) if missing else images
        parts = [self.predict(filled[i : i + self.batch]) for i in range(0, len(filled), self.batch)]
        return np.concatenate(parts)[: len(images)]


@dataclass(frozen=True)
class Run:
    """How a network is to be run.

    Attributes
    ----------
    backend
        One of `BACKENDS`; None: ONNX Runtime for an ONNX file, else PyTorch where it is installed, or NumPy.
    dtype
        In which it computes; None is float32.
    device
        PyTorch's name of one.
    threads
        None leaves them to the library.
    variant, key
        What a checkpoint is of, and where in the file it lies, where it does not say.

    Examples
    --------
    >>> Run("torch", dtype="bfloat16").is_engine(), Run("onnx").is_engine()
    (False, True)
    """

    backend: str | None = None
    dtype: str = "float32"
    device: str | None = None
    threads: int | None = None
    variant: str | None = None
    key: str | None = None

    def is_engine(self) -> bool:
        """Whether an ONNX file runs on that backend."""
        return self.backend in ENGINES


def open_model(path: Path, run: Run, batch: int, files: ExitStack) -> Model:
    """A file's network. What is written on the way is left to `files` to remove.

    Raises ValueError for a backend, dtype or device that does not fit, CheckpointError for the file, ModuleNotFoundError.

    Examples
    --------
    >>> from scalablevit_ref import digits
    >>> with ExitStack() as files:
    ...     model = open_model(digits.CHECKPOINT, Run("numpy"), 40, files)
    >>> model.channels, model.classes
    (1, 10)
    """
    if run.backend is not None and run.backend not in BACKENDS:
        raise ValueError(f"unknown backend {run.backend!r}{near_matches(run.backend, BACKENDS)}; there are {', '.join(BACKENDS)}")
    if run.dtype not in FLOATS:
        raise ValueError(f"unknown dtype {run.dtype!r}{near_matches(run.dtype, FLOATS)}; there are {', '.join(FLOATS)}")
    if run.device is not None and run.backend not in (None, "torch"):
        raise ValueError(f"--device is PyTorch's; {run.backend} has none")
    said, path = as_given(path), local(path)
    if path.suffix == ".onnx":
        if run.backend not in (None, *ENGINES):
            raise ValueError(f"{said}: an ONNX file runs on {' or '.join(ENGINES)}, not on {run.backend}")
        found = _engine(path, run.backend or "onnx", run)
        return replace(found, name=f"{said} on {found.backend}")
    checkpoint = load_in_one_dtype(path, variant=run.variant, key=run.key)
    params, config = checkpoint.params, checkpoint.config
    if not config.num_classes:
        raise ValueError(f"{said}: a network without a classifier: nothing can be counted")
    backend = run.backend or ("torch" if _why_absent("torch", run) is None else "numpy")
    if backend not in ENGINES and (why := _why_absent(backend, run)) is not None:
        raise ModuleNotFoundError(f"backend {backend!r}: {why}")
    name = f"{said} on {backend} in {run.dtype}" + (f" on {run.device}" if run.device else "")
    if backend in ENGINES:
        from scalablevit_ref.adapters import onnx

        written = Path(files.enter_context(tempfile.TemporaryDirectory())) / "network.onnx"
        onnx.export(params, config, written, image_size="dynamic", dtype="float32" if backend == "openvino" else run.dtype)
        return replace(_engine(written, backend, run), name=name, file=path)
    predict = {"torch": _torch, "jax": _jax, "numpy": _numpy}[backend](params, config, run)
    fixed = batch if backend == "jax" else None  # one compilation
    return Model(name, backend, path, config, config.in_chans, config.num_classes, fixed, None, predict)


def _why_absent(backend: str, run: Run) -> str | None:
    """Why a library cannot run here, or None; what is wrong with a device is told when it is asked for."""
    return why_absent(Candidate(backend, run.dtype))


def _numpy(params: dict[str, np.ndarray], config: ScalableViTConfig, run: Run) -> Callable[[np.ndarray], np.ndarray]:
    weights = to_backend(params, "numpy", run.dtype)
    return lambda images: sv.scalable_vit(images.astype(run.dtype), weights, config).astype(np.float32)


def _torch(params: dict[str, np.ndarray], config: ScalableViTConfig, run: Run) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    if run.threads:
        torch.set_num_threads(run.threads)
    weights = to_backend(params, "torch", run.dtype, run.device)

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), unrounded_float32():
            y = sv.scalable_vit(to_backend(images, "torch", run.dtype, run.device), weights, config)
            found: np.ndarray = y.float().cpu().numpy()
            return found

    return predict


def _jax(params: dict[str, np.ndarray], config: ScalableViTConfig, run: Run) -> Callable[[np.ndarray], np.ndarray]:
    import jax

    weights = to_backend(params, "jax", run.dtype)
    network: Any = jax.jit(sv.scalable_vit, static_argnums=2)

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(to_numpy(network(to_backend(images, "jax", run.dtype), weights, config)), np.float32)

    return predict


def _engine(path: Path, backend: str, run: Run) -> Model:
    """An ONNX file on ONNX Runtime, which computes in the file's own dtype, or on OpenVINO, which is told one."""
    from scalablevit_ref.adapters import onnx, openvino

    session = onnx.session(path, threads=run.threads)
    batch, channels, *sides = (n if isinstance(n, int) else None for n in session.shape)
    classes = session.runtime.get_outputs()[0].shape[-1]
    if not isinstance(channels, int) or not isinstance(classes, int):
        raise ValueError(f"{path}: the file says neither how many channels nor how many classes there are")
    if sides[0] != sides[1]:
        raise ValueError(f"{path}: images of {session.shape[2:]} are no squares")
    if backend == "onnx":
        if run.dtype != "float32" and session.dtype != run.dtype:
            raise ValueError(
                f"{path}: its numbers are {session.dtype}; --dtype {run.dtype} takes convert, which writes such a file"
            )
        predict: Callable[[np.ndarray], np.ndarray] = session
    else:
        predict = openvino.session(path, threads=run.threads, dtype=run.dtype)
    return Model(f"{path} on {backend}", backend, path, session.config, channels, classes, batch, sides[0], predict)

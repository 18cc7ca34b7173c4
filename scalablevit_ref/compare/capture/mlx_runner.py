"""MLX code as a `Runner`: a pass is traced to MLX's primitives, which NumPy runs in float64, and MLX in other dtypes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
from einops import rearrange
from mlx import nn, utils

from scalablevit_ref.adapters.mlx import ScalableViT
from scalablevit_ref.arguments import FLOATS
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.graph import NOTHING, Graph, narrowed
from scalablevit_ref.compare.capture.holders import LIBRARIES, holders
from scalablevit_ref.compare.capture.mlx_program import Program, program
from scalablevit_ref.compare.capture.mlx_trace import traced
from scalablevit_ref.compare.capture.own_code import RUNNING, OwnCodeError, own_code, raised
from scalablevit_ref.errors import CaptureError

LAYOUTS = ("b h w c", "b c h w")
"""How a candidate may take its images, the likelier first."""

DEEPEST = 12
"""How deep arrays are looked for in what a function uses."""


class MlxRunner:
    """A module of `mlx.nn`, in evaluation mode, or a function of images that uses arrays of MLX.

    Parameters
    ----------
    dtype
        What its parameters are converted to; None leaves them.

    Raises CaptureError for a candidate without parameters, or with quantised ones.
    """

    paths: Mapping[str, str] = MappingProxyType({})

    def __init__(self, candidate: Any, dtype: str | None = None) -> None:
        self._candidate, self._dtype, self._exact = candidate, dtype, dtype == "float64"
        self._module = candidate if isinstance(candidate, nn.Module) else None
        self.kind = "MLX function" if self._module is None else "MLX module"
        self._layout = "b c h w" if isinstance(candidate, ScalableViT) else None
        self._seen: dict[tuple[int, ...], Program] = {}
        held = {name: x for name, x in held_by(candidate).items() if _is_floating(x)}
        self._held = {name: x for name, x in held.items() if isinstance(x, mx.array)}
        self._others = {name: x for name, x in held.items() if isinstance(x, np.ndarray)}
        self._used: dict[str, np.ndarray] = {}
        if self._module is not None and not self._held:
            raise CaptureError("the candidate holds no parameters: give a function of the images instead")
        modules = [] if self._module is None else [one for _, one in self._module.named_modules()]
        if any(isinstance(one, nn.QuantizedLinear | nn.QuantizedEmbedding) for one in modules):
            raise CaptureError(
                "the candidate is quantised (nn.QuantizedLinear), which is not followed: compare it as it was before nn.quantize; "
                "adapters.mlx.quantise tells what that does to each layer"
            )
        mx.eval(list(self._held.values()))

    @property
    def dtype(self) -> str:
        kinds = sorted({x.dtype for x in self._held.values()}, key=lambda dtype: dtype.size)
        return self._dtype or (str(kinds[-1]).rpartition(".")[2] if kinds else "float32")

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return {name: self._cast(to_numpy(x)) for name, x in {**self._held, **self._used}.items()}

    def look(self, images: np.ndarray) -> None:
        """Trace it on such images, to learn which arrays a function uses: those that it holds, and others, which are numbered."""
        graph = self._program(images).bare()
        taken = {value for operation in graph.operations for value in operation.inputs}
        used = {name for value, name in graph.parameters.items() if value in taken}
        self._held = {name: x for name, x in self._held.items() if name in used}
        self._seen.clear()
        if not used:
            raise CaptureError("it uses no arrays of floating point")

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        found = self._program(images)
        graph = found.graph(self._given(weights), f"images were given as {self._layout}", exact=self._exact)
        words = narrowed(graph, self.dtype)
        return replace(graph, notes=(*graph.notes, *filter(None, [words])))

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        found, start = self._program(images), time.perf_counter()
        cut = {value: np.asarray(x).astype(found.dtypes[value]) for value, x in replaced.items()}
        with own_code(RUNNING), mx.stream(mx.cpu):
            made = found.evaluated(self._given(weights), self._fed(images), wanted, cut, exact=self._exact)
        return {value: array_of(x, f"value {value}") for value, x in made.items()}, time.perf_counter() - start

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        return self._program(images).random()

    def _given(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        own = self.parameters
        return {
            name: np.asarray(weights[name]).astype(x.dtype).reshape(x.shape) if name in weights else x for name, x in own.items()
        }

    def _fed(self, images: np.ndarray) -> np.ndarray:
        fed: np.ndarray = to_backend(rearrange(images, f"b c h w -> {self._layout}"), "numpy", self.dtype)
        return fed

    def _cast(self, x: np.ndarray) -> np.ndarray:
        moved: np.ndarray = to_backend(x, "numpy", self._dtype or None)
        return moved

    def _program(self, images: np.ndarray) -> Program:
        """The program of a pass on such images. Traced twice, which shows whether it does the same each time.

        Raises CaptureError if it runs with no layout of the images.
        """
        if images.shape in self._seen:
            return self._seen[images.shape]
        failed: dict[str, CaptureError] = {}
        for layout in LAYOUTS if self._layout is None else (self._layout,):
            shape = rearrange(np.empty((*images.shape, 0)), f"b c h w none -> {layout} none").shape[:4]
            try:
                first, second = (self._traced(shape) for _ in range(2))
            except CaptureError as error:
                failed[layout] = error
                continue
            if not first.does_as(second) and not first.random():
                raise CaptureError("the candidate does something else each time it is run")
            self._layout = layout
            self._seen[images.shape] = first
            return first
        raise _refused(failed)

    def _traced(self, shape: tuple[int, ...]) -> Program:
        names: list[str] = []

        def run(images: mx.array) -> list[mx.array]:
            out = {".".join(path): x for path, x in _named(self._candidate(images)) if mx.issubdtype(x.dtype, mx.floating)}
            if not out:
                raise CaptureError("the candidate returns no array of floating point")
            names[:] = ["logits"] if len(out) == 1 else [*out]
            return [*out.values()]

        kind = getattr(mx, self.dtype)
        modules = {} if self._module is None else dict(self._module.named_modules())
        with own_code(RUNNING), _random_numbers_kept(), mx.stream(mx.cpu):
            inputs = [mx.zeros(x.shape, kind if self._module is not None else x.dtype) for x in self._held.values()]
            told = traced(run, self._with, [*inputs, mx.zeros(shape, kind)], modules)
        found = program(told, [*self._held], names, wide=self._exact)
        return found if self._module is not None else replace(found, **self._with_parameters(found))

    def _with_parameters(self, found: Program) -> dict[str, Any]:
        """Arrays that a function uses as constants, as its parameters: by the name of an equal one that it holds, or a number."""
        own = {value: x for value, x in found.constants.items() if x.ndim and _is_floating(x)}
        names: dict[int, str] = {}
        for value, x in own.items():
            known = {**self._used, **self._others}
            same = [name for name, y in known.items() if name not in names.values() and y.shape == x.shape and np.array_equal(x, y)]
            names[value] = same[0] if same else f"constant {len(self._used)} {x.shape}"
            self._used.setdefault(names[value], x)
        rest = {value: x for value, x in found.constants.items() if value not in own}
        return {"parameters": {**found.parameters, **names}, "constants": rest}

    @contextmanager
    def _with(self, given: Sequence[mx.array]) -> Iterator[None]:
        """While open, these arrays stand in the places of the candidate's own, and nothing is dropped."""
        if self._module is None:
            own = [mx.array(x) for x in self._held.values()]
            try:
                for x, new in zip(self._held.values(), given, strict=True):
                    x[...] = new
                yield
            finally:
                for x, old in zip(self._held.values(), own, strict=True):
                    x[...] = old
            return
        training = [(module, module.training) for module in self._module.modules()]
        try:
            self._module.eval()
            self._module.update(utils.tree_unflatten([*zip(self._held, given, strict=True)]))
            yield
        finally:
            self._module.update(utils.tree_unflatten([*self._held.items()]))
            for module, mode in training:
                module._training = mode


def _refused(failed: Mapping[str, CaptureError]) -> CaptureError:
    """One line for a candidate that runs with no layout of the images."""
    first = next(iter(failed.values()))
    evaluated = [error for error in failed.values() if "[eval]" in str(error)]
    if evaluated:
        refused = CaptureError(
            f"the candidate looks at values while it runs, which cannot be followed ({evaluated[0]}): leave out .item(), float(x), "
            "np.array(x) and conditions on values"
        )
    elif len({str(error) for error in failed.values()}) == 1 or any(error.__cause__ is None for error in failed.values()):
        return next((error for error in failed.values() if error.__cause__ is None), first)
    else:
        said = "; ".join(f"{layout}: {raised(error.__cause__ or error)}" for layout, error in failed.items())
        refused = OwnCodeError(f"the candidate runs with no layout of the images: {said}")
    refused.__cause__ = first.__cause__
    return refused


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """MLX's own state of random numbers is afterwards what it was."""
    own: Any = mx.random.state
    before = [mx.array(x) for x in own]
    try:
        yield
    finally:
        for x, old in zip(own, before, strict=True):
            x[...] = old


def _named(out: Any) -> Iterator[tuple[tuple[str, ...], mx.array]]:
    """The arrays in what a candidate returns, and their places there."""
    if isinstance(out, mx.array):
        yield (), out
        return
    parts = out if isinstance(out, Mapping) else dict(enumerate(out)) if isinstance(out, tuple | list) else {}
    for name, part in parts.items():
        for path, x in _named(part):
            yield (str(name), *path), x


# The arrays that a candidate holds


def held_by(candidate: Any) -> dict[str, Any]:
    """A module's parameters and buffers, by their names; of a function the arrays that it uses, by their names there."""
    if isinstance(candidate, nn.Module):
        flat: Any = utils.tree_flatten(candidate.parameters())
        return dict(flat)
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for holder in holders(candidate):
        for path, x in _arrays_in(holder.value, DEEPEST):
            if id(x) in seen:
                continue
            seen.add(id(x))
            inner = ".".join(path) or holder.name
            ways = (inner, f"{holder.name}.{inner}", f"{holder.name}.{inner}.{len(found)}")
            found[next(name for name in ways if name not in found)] = x
    return found


def _is_floating(x: Any) -> bool:
    return mx.issubdtype(x.dtype, mx.floating) if isinstance(x, mx.array) else dtype_name(x) in FLOATS


def _arrays_in(value: Any, depth: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    """MLX's and NumPy's arrays in mappings, lists and attributes of objects, and their places there."""
    if isinstance(value, mx.array | np.ndarray):
        yield (), value
        return
    parts: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        parts = value
    elif isinstance(value, tuple | list):
        parts = dict(enumerate(value))
    elif not isinstance(value, type | FunctionType | ModuleType) and type(value).__module__.partition(".")[0] not in LIBRARIES:
        parts = getattr(value, "__dict__", {})
    for name, part in parts.items() if depth else ():
        for path, x in _arrays_in(part, depth - 1):
            yield (str(name), *path), x

"""JAX code as a `Runner`: a forward pass is traced to a jaxpr, whose equations are the graph's operations."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import count
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.graph import ABSENT, NOTHING, Graph, narrowed
from scalablevit_ref.compare.capture.jax_forward import IMAGE_LAYOUTS, Calls, Forward
from scalablevit_ref.compare.capture.jax_program import Flattening, Program
from scalablevit_ref.compare.capture.jax_stacked import apart, stacked
from scalablevit_ref.compare.capture.own_code import RUNNING, OwnCodeError, own_code, place_of, raised
from scalablevit_ref.errors import CaptureError

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # JAX below 0.10
    from jax.core import get_opaque_trace_state

COMPILED_FAST: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
    "xla_allow_excess_precision": False,
}
"""For processors: what is run once need not run fast, and in 16 bits each result is rounded as if operations ran one by one."""

MOST_ONE_BY_ONE = 64
"""Most operations of 16 bits that are compiled one by one; where there are more, all are compiled together."""

MOST_ANSWERS = 32
"""How often a candidate may look at a value (`if x.sum() > 0`) in one pass."""


class JaxRunner:
    """A candidate that JAX can trace: a program, which NumPy runs in float64, and which is compiled for other dtypes.

    Parameters
    ----------
    dtype
        What its parameters are converted to; None leaves them.
    """

    def __init__(self, forward: Forward, dtype: str | None = None) -> None:
        self.kind, self._forward, self._dtype, self._wide = forward.kind, forward, dtype, dtype == "float64"
        with self._precision():
            self._own = {name: _cast(value, dtype) for name, value in forward.own.items()}
        self._used: dict[str, Any] = {}
        self._layout: str | None = None
        self._seen: dict[tuple[int, ...], tuple[Program, bool]] = {}
        self._compiled: tuple[Any, Callable[..., Any]] | None = None
        self._last: tuple[np.ndarray, Mapping[str, np.ndarray], Program, dict[int, np.ndarray]] | None = None

    @property
    def dtype(self) -> str:
        with self._precision():
            return str(jnp.result_type(*self._all.values())) if self._all else "float32"

    @property
    def used(self) -> Mapping[str, Any]:
        """Arrays that a function uses besides those that are given to it, as it uses them."""
        return self._used

    @property
    def _all(self) -> dict[str, Any]:
        return self._own | self._used

    def look(self, images: np.ndarray) -> Program:
        """Trace it on such images, to learn which arrays it uses; those of several blocks are then parameters one by one."""
        with self._precision():
            program, _, _ = self._traced(images, {})
            self._forward = apart(self._forward, [*stacked(program)])
            if self._forward.own.keys() != self._own.keys():
                self._own = {name: _cast(value, self._dtype) for name, value in self._forward.own.items()}
        self._seen.clear()  # the next run may be of another dtype
        return program

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return {name: array_of(value, f"the candidate's {name}") for name, value in self._all.items()}

    @property
    def paths(self) -> Mapping[str, str]:
        """The candidate's own names of its parameters and modules, by those that the graph has."""
        return self._forward.paths

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        with self._precision():
            program, state, _ = self._traced(images, weights)
            graph = program.graph(state, f"images were given as {self._layout}")
            return replace(graph, notes=(*graph.notes, *filter(None, [narrowed(graph, self.dtype)])))

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        wait: Any = jax.block_until_ready  # untyped
        with self._precision():
            program, state, x = self._traced(images, weights)
            known = {} if replaced else self._known(images, weights, program)
            new = sorted(set(wanted) - known.keys())
            cut = dict(replaced) or program.cut(new, known)
            fed = [*state.values()], [*program.constants.values()], x, cut
            hosted, key = _hosted(program, x.dtype), (new, [*cut], x.shape, program.signature)
            if not hosted and (self._compiled is None or self._compiled[0] != key):
                self._compiled = key, _compiled(program, new, fed)  # the last is kept: compiling takes most of a run's time
            with own_code(RUNNING):
                start = time.perf_counter()
                if hosted or self._compiled is None:
                    found = program.on_host(state.values(), x, new, cut)
                else:
                    found = wait(self._compiled[1](*fed))
            seconds = time.perf_counter() - start
            known |= {value: _fixed(array_of(x, f"value {value}")) for value, x in found.items()}
            return {value: known[value] for value in wanted}, seconds

    def _known(self, images: np.ndarray, weights: Mapping[str, np.ndarray], program: Program) -> dict[int, np.ndarray]:
        """The values of the same run that were asked for before, from which those behind them can be computed."""
        same = self._last is not None and self._last[0] is images and self._last[1] is weights and self._last[2] is program
        if self._last is None or not same:
            self._last = images, weights, program, {}
        return self._last[3]

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        """As `Runner.unrepeated`: where random numbers are drawn, other keys would give others."""
        with self._precision():
            program, _, _ = self._traced(images, weights)
        return program.random()

    def _traced(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> tuple[Program, dict[str, Any], Any]:
        """The program of a pass on such images, the parameters, and the images as the candidate takes them.

        It is traced twice, which shows whether it does the same each time; what looks at values is traced each time.
        Raises CaptureError if it runs with no layout of the images, and if it is another program than before.
        """
        before, twice = self._seen.get(images.shape, (None, False))
        if before is not None and twice and not before.answers and self._layout is not None:
            return before, self._given(weights, self._all), self._fed(images, self._layout)
        state = self._given(weights, self._own)
        failed: dict[str, Failed] = {}
        for layout in self._forward.layouts if self._layout is None else (self._layout,):
            x = self._fed(images, layout)
            program = _program(self._forward, state, x)
            if isinstance(program, Failed):
                failed[layout] = program
                continue
            self._layout = layout
            self._used = program.held()
            if before is not None and not program.answers and not program.does_as(before):
                raise CaptureError(
                    "the candidate does something else each time: dropout or drop path is active, with numbers that are drawn "
                    "outside of JAX"
                )
            self._seen[images.shape] = program, before is not None
            return program, self._given(weights, self._all), x
        raise _refused(failed)

    def _given(self, weights: Mapping[str, np.ndarray], own: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _like(weights[name], value) if name in weights else value for name, value in own.items()}

    def _fed(self, images: np.ndarray, layout: str) -> np.ndarray:
        """A copy of the images as the candidate takes them."""
        return np.array(images.transpose(IMAGE_LAYOUTS[layout]), jnp.dtype(self.dtype))

    def _precision(self) -> AbstractContextManager[Any]:
        return cast("AbstractContextManager[Any]", jax.enable_x64(True)) if self._wide else nullcontext()


@dataclass(frozen=True)
class Failed:
    """A pass that ended in an error, and how many modules had ended before."""

    error: CaptureError
    ended: int


class _Asked(BaseException):
    """The candidate looks at a value: no Exception, which it might catch."""

    def __init__(self, tracer: Any) -> None:
        super().__init__()
        self.tracer = tracer


@dataclass
class Pass:
    """A forward pass as a function of arrays alone, for JAX to trace, and what it shows besides the jaxpr.

    Attributes
    ----------
    answers
        What a candidate that looks at values is told, one after the other; None where that is left to JAX, which refuses.
    asked
        Whether it asked for one more, which is then all that the pass returns.
    """

    forward: Forward
    parameters: Sequence[str]
    answers: Sequence[Any] | None
    calls: Calls | None = None
    outputs: Sequence[str] = ()
    asked: bool = False

    @property
    def ended(self) -> int:
        return 0 if self.calls is None else self.calls.ended

    def traced_pass(self, values: Sequence[Any], x: Any) -> list[Any]:
        self.calls = Calls()
        with nullcontext() if self.answers is None else _answering(self.answers):
            try:
                out = self.forward.run(dict(zip(self.parameters, values, strict=True)), x, self.calls)
            except _Asked as question:
                self.asked, self.outputs = True, ["asked"]
                return [question.tracer]
        leaves = {".".join(path): value for path, value in _named(out) if jnp.issubdtype(value.dtype, jnp.floating)}
        self.outputs = ["logits"] if len(leaves) == 1 else [*leaves]
        return [*leaves.values()]


def _program(forward: Forward, state: Mapping[str, Any], x: Any) -> Program | Failed:
    """One pass. What looks at values is told them, one after the other: each is what the pass before it computes."""
    answers: list[Any] | None = None
    while answers is None or len(answers) <= MOST_ANSWERS:
        one = Pass(forward, [*state], answers)
        try:
            with own_code(RUNNING):
                closed = jax.make_jaxpr(one.traced_pass)([*state.values()], x)
        except CaptureError as error:
            if answers is not None or not isinstance(error.__cause__, jax.errors.JAXTypeError):
                return Failed(error, one.ended)
            answers = []
            continue
        if not one.outputs:
            return Failed(CaptureError("the candidate returns no array of floating point"), one.ended)
        program = _flat(one, state, x, closed)
        if not one.asked or answers is None:
            return program
        held, asked = [*state.values(), *program.held().values()], [*program.outputs.values()]
        if _hosted(program, x.dtype):
            (value,) = program.on_host(held, x, asked).values()
        else:
            fed: Any = held, [*program.constants.values()], x, {}
            (value,) = _compiled(program, asked, fed)(*fed).values()
        answers.append(to_numpy(value))
    return Failed(CaptureError(f"the candidate looks at more than {MOST_ANSWERS} values, which JAX cannot compile"), 0)


def _hosted(program: Program, dtype: Any) -> bool:
    """Whether it is run by NumPy: in float64. In a narrower dtype it is JAX's own rounding that is looked at."""
    return bool(dtype == "float64") and program.left_to_jax() <= MOST_ONE_BY_ONE


def _compiled(program: Program, wanted: Sequence[int], fed: tuple[Any, ...]) -> Callable[..., dict[int, Any]]:
    """The program with these values as what it returns."""

    def evaluated(state: list[Any], constants: list[Any], x: Any, cut: dict[int, Any]) -> dict[int, Any]:
        return program.evaluated(state, constants, x, wanted, cut)

    options: Any = COMPILED_FAST if jax.default_backend() == "cpu" else None
    with own_code(RUNNING):
        run: Any = jax.jit(evaluated).lower(*fed).compile(compiler_options=options)
    return cast("Callable[..., dict[int, Any]]", run)


def _flat(one: Pass, state: Mapping[str, Any], x: Any, closed: Any) -> Program:
    flat = Flattening()
    images = flat.value(x)
    own = [flat.value(value) for value in state.values()]
    parameters = dict(zip(own, state, strict=True))
    returned = [flat.made(value) if isinstance(value, int) else ABSENT for value in flat.run(closed, [*own, images])]
    outputs = dict(zip(one.outputs, returned, strict=True))
    used: dict[int, Any] = {}
    if one.forward.held is not None:
        used = {value: x for value, x in flat.constants.items() if np.ndim(x) and jnp.issubdtype(x.dtype, jnp.floating)}
        parameters |= _names_of(used, one.forward.held(), taken=state)
    constants = {value: x for value, x in flat.constants.items() if value not in used}
    answers = tuple(one.answers or ())
    shapes = {value: shape for value, shape in flat.shapes.items() if value not in flat.unmade()}
    dtypes = {value: flat.dtypes[value] for value in shapes}
    return Program(tuple(flat.steps), shapes, dtypes, parameters, images, constants, used, outputs, tuple(flat.modules), answers)


@contextmanager
def _answering(answers: Sequence[Any]) -> Iterator[None]:
    """While open, `if x > 0`, `float(x)` and the like of a traced value give the next answer, and ask where there is none."""
    tracer: Any = jax.core.Tracer
    outermost, place = get_opaque_trace_state(), count()  # type: ignore[no-untyped-call]

    def answering(convert: Callable[[Any], Any], usual: Any) -> Callable[[Any], Any]:
        def answer(self: Any) -> Any:
            if get_opaque_trace_state() != outermost:  # type: ignore[no-untyped-call]
                return usual(self)
            i = next(place)
            if i == len(answers):
                raise _Asked(self)
            return convert(answers[i])

        return answer

    ways: dict[str, Callable[[Any], Any]] = {"__bool__": bool, "__float__": float, "__int__": int, "__index__": int}
    before = {name: getattr(tracer, name) for name in ways}
    try:
        for name, convert in ways.items():
            setattr(tracer, name, answering(convert, before[name]))
        yield
    finally:
        for name, usual in before.items():
            setattr(tracer, name, usual)


def _refused(failed: Mapping[str, Failed]) -> CaptureError:
    """One line for a candidate that runs with no layout of the images. Where one of them gets further, it is the candidate's."""
    furthest = max(failure.ended for failure in failed.values())
    failed = {layout: failure for layout, failure in failed.items() if failure.ended == furthest}
    for failure in failed.values():
        cause = failure.error.__cause__
        if isinstance(cause, jax.errors.JAXTypeError):
            refused = CaptureError(
                f"JAX cannot trace the candidate, which takes values out of JAX, as NumPy's functions do ({place_of(cause)}): save "
                "what it computes, np.savez('port.npz', images=images, logits=logits, **{'stages.0.0': x, …}), and compare port.npz"
            )
            refused.__cause__ = cause
            return refused
    ours = [failure.error for failure in failed.values() if failure.error.__cause__ is None]
    if ours or len({str(failure.error) for failure in failed.values()}) == 1:
        return [*ours, *(failure.error for failure in failed.values())][0]
    causes = {layout: cast("BaseException", failure.error.__cause__) for layout, failure in failed.items()}
    said = "; ".join(f"{layout}: {raised(error)}" for layout, error in causes.items())
    refused = OwnCodeError(f"the candidate runs with no layout of the images: {said}")
    refused.__cause__ = next(iter(causes.values()))
    return refused


def canonical(path: Iterable[Any]) -> str:
    """A path as PyTorch would have it: `blocks_0.head.layers.1.kernel` is `blocks.0.head.1.weight`."""
    name = re.sub(r"(^|\.)layers[._](?=\d)", r"\1", ".".join(map(str, path)))
    name = re.sub(r"_(?=\d+(\.|$))", ".", name)
    return re.sub(r"(^|\.)(kernel|scale|embedding)$", r"\1weight", name)


def _named(out: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The arrays in what a candidate returns, and their places there."""
    if isinstance(out, jax.Array | np.ndarray):
        yield (), out
        return
    if isinstance(out, Mapping):
        parts = dict(out)
    elif is_dataclass(out) and not isinstance(out, type):
        parts = {each.name: getattr(out, each.name) for each in fields(out)}
    elif isinstance(out, tuple | list):
        parts = dict(zip(getattr(out, "_fields", range(len(out))), out, strict=True))
    else:
        parts = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in jax.tree.leaves_with_path(out)}
        parts = {} if any(x is out for x in parts.values()) else parts
    for name, part in parts.items():
        for path, x in _named(part):
            yield (str(name), *path), x


def _names_of(used: Mapping[int, Any], held: Iterable[tuple[str, Any]], taken: Collection[str]) -> dict[int, str]:
    """A name for each of the arrays that a function uses: that of an equal one that it holds, or its number and shape."""
    known, names = list(held), dict[int, str]()
    for i, (value, x) in enumerate(used.items()):
        same = [
            name
            for name, y in known
            if name not in taken and name not in names.values() and y.shape == x.shape and np.array_equal(y, x, equal_nan=True)
        ]
        names[value] = same[0] if same else f"constant {i} {tuple(x.shape)}"
    return names


def _cast(value: Any, dtype: str | None) -> np.ndarray:
    """On the host: JAX would compile a conversion, and even a copy, for each shape."""
    x: np.ndarray = to_numpy(value)
    return x if dtype is None else x.astype(jnp.dtype(dtype))


def _fixed(x: np.ndarray) -> np.ndarray:
    x = x.view()
    x.flags.writeable = False
    return x


def _like(value: np.ndarray, own: Any) -> np.ndarray:
    """A given weight in the shape and dtype of the candidate's."""
    return np.asarray(value).astype(own.dtype).reshape(own.shape)

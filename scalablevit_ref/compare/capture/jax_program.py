"""A jaxpr as a list of steps that can be run, and as a `Graph`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jax.extend.core import Literal, Primitive
from jax.interpreters import ad, batching, mlir

from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.graph import Graph, Kind, ModuleRun, Operation, fed_by_images, live
from scalablevit_ref.compare.capture.jax_on_host import EXACT, NARROW_DTYPES, on_host
from scalablevit_ref.compare.capture.own_code import shown_line

INLINED = frozenset(
    ["jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "custom_lin"]
)
"""Primitives that run a jaxpr once, as it stands."""

MOVES = frozenset(
    [
        "reshape",
        "transpose",
        "slice",
        "squeeze",
        "expand_dims",
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "rev",
        "copy",
        "copy_p",
        "gather",
        "dynamic_slice",
        "dynamic_update_slice",
        "scatter",
        "split",
        "tile",
        "stop_gradient",
        "optimization_barrier",
        "device_put",
        "sharding_constraint",
        "name",
    ]
)
"""Primitives that only move numbers. So does `pad`, where it pads with zeros."""

RANDOM = re.compile(r"random_bits|random_gamma|threefry2x32|rng_bit_generator|rng_uniform")
"""Primitives that draw random numbers."""

OPAQUE = frozenset(["scan", "while", "cond", "pallas_call", "shard_map", "pure_callback", "io_callback", "custom_call"])
"""Primitives that run code of which the jaxpr tells nothing, or what cannot be written out."""

MOST_UNROLLED = 256
"""Longest scan that is written out step by step, in steps."""

IN_MODULE = "in:"
"""Begins the name of a scope that stands for a module."""


ENDS_OF_MODULE: Any = Primitive("ends_of_module")
"""Gives what a module returns, of what it is given and returns: in the jaxpr of any transformation both are seen."""

ENDS_OF_MODULE.multiple_results = True
ENDS_OF_MODULE.def_impl(lambda *x, given, path: [*x[given:]])
ENDS_OF_MODULE.def_abstract_eval(lambda *x, given, path: [*x[given:]])
mlir.register_lowering(ENDS_OF_MODULE, lambda _, *x, given, path: [*x[given:]])
batching.primitive_batchers[ENDS_OF_MODULE] = lambda x, axes, **about: (ENDS_OF_MODULE.bind(*x, **about), axes[about["given"] :])
ad.primitive_jvps[ENDS_OF_MODULE] = lambda x, tangents, given, path: (
    ENDS_OF_MODULE.bind(*x, given=given, path=path),
    [*tangents[given:]],
)


def ends_of_module(path: str, given: Sequence[Any], returned: Sequence[Any]) -> Sequence[Any]:
    """What a module returns, marked as that."""
    return cast("Sequence[Any]", ENDS_OF_MODULE.bind(*given, *returned, given=len(given), path=path))


TOGETHER: Any = Primitive("together")
"""Puts parts into one array along a new first axis: what takes one of them from it is seen to take that part."""

TOGETHER.def_impl(lambda *x: jnp.stack(x))
TOGETHER.def_abstract_eval(lambda *x: x[0].update(shape=(len(x), *x[0].shape)))
mlir.register_lowering(TOGETHER, mlir.lower_fun(lambda *x: jnp.stack(x), multiple_results=False))


def together(parts: Sequence[Any]) -> Any:
    return TOGETHER.bind(*parts)


@dataclass(frozen=True)
class Number:
    """A number that stands in the code."""

    val: Any


@dataclass(frozen=True)
class Step:
    """An operation that can be run: `inputs` are values, by their `int`s, and `Number`s; `params` the equation's arguments."""

    call: Callable[..., Sequence[Any]]
    inputs: tuple[Any, ...]
    operation: Operation
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """A pass, as `Graph` has it, that can be run.

    Attributes
    ----------
    constants
        Arrays of the candidate's own that are not its parameters, by value.
    used
        Arrays that a function uses and that are its parameters: their names and contents, by value.
    answers
        What the candidate was told where it looked at values.
    """

    steps: tuple[Step, ...]
    shapes: Mapping[int, tuple[int, ...]]
    dtypes: Mapping[int, str]
    parameters: Mapping[int, str]
    images: int
    constants: Mapping[int, Any]
    used: Mapping[int, Any]
    outputs: Mapping[str, int]
    modules: tuple[ModuleRun, ...]
    answers: tuple[Any, ...]

    @property
    def signature(self) -> tuple[Any, ...]:
        """The same for two passes that do the same."""
        return tuple((step.operation.name, _said(step.inputs), step.operation.outputs, _said(step.params)) for step in self.steps)

    def does_as(self, other: Program) -> bool:
        """Whether another pass did the same, on the same arrays of its own."""
        return self.signature == other.signature and all(_equal(x, other.constants[value]) for value, x in self.constants.items())

    def held(self) -> dict[str, Any]:
        return {self.parameters[value]: x for value, x in self.used.items()}

    def evaluated(
        self, state: Iterable[Any], constants: Iterable[Any], x: Any, wanted: Iterable[int], cut: Mapping[int, Any]
    ) -> dict[int, Any]:
        """These values, of parameters, constants and images; those of `cut` are taken as they are, whatever makes them."""
        env = {
            self.images: x,
            **dict(zip(self.parameters, state, strict=True)),
            **dict(zip(self.constants, constants, strict=True)),
            **cut,
        }
        wanted = list(wanted)
        for step in self._needed(wanted, cut):
            inputs = [env[v] if isinstance(v, int) else v.val for v in step.inputs]
            env |= dict(zip(step.operation.outputs, step.call(*inputs), strict=True)) | dict(cut)
        return {value: env[value] for value in wanted}

    def on_host(
        self, state: Iterable[Any], x: Any, wanted: Iterable[int], cut: Mapping[int, Any] = MappingProxyType({})
    ) -> dict[int, np.ndarray]:
        """The same without compiling it: by NumPy, and for what NumPy lacks by JAX, operation by operation."""
        env = {self.images: x, **dict(zip(self.parameters, state, strict=True)), **self.constants, **cut}
        wanted = list(wanted)
        needed = self._needed(wanted, cut)
        last = {v: i for i, step in enumerate(needed) for v in step.inputs if isinstance(v, int)}
        for i, step in enumerate(needed):
            inputs, outputs = [env[v] if isinstance(v, int) else v.val for v in step.inputs], step.operation.outputs
            made: Sequence[Any] | None = on_host(step.operation.name, step.params, inputs, [self.dtypes[v] for v in outputs])
            env |= dict(zip(outputs, step.call(*map(jnp.asarray, inputs)) if made is None else made, strict=True)) | dict(cut)
            for v in {v for v in step.inputs if isinstance(v, int) and last[v] == i} - set(wanted):
                del env[v]  # what is not asked for again
        return {value: array_of(env[value], f"value {value}") for value in wanted}

    def cut(self, wanted: Collection[int], known: Mapping[int, Any]) -> dict[int, Any]:
        """Of known values those from which the wanted ones are computed."""
        taken = {v for step in self._needed(wanted, known) for v in step.inputs if isinstance(v, int)}
        return {value: x for value, x in sorted(known.items()) if value in taken}

    def left_to_jax(self) -> int:
        """How many operations are of 16 bits, which NumPy rounds in other places."""
        return sum(
            step.operation.name not in EXACT
            and not NARROW_DTYPES.isdisjoint(self.dtypes[v] for v in (*step.operation.inputs, *step.operation.outputs))
            for step in self.steps
        )

    def _needed(self, wanted: Collection[int], known: Collection[int]) -> list[Step]:
        needed, found = set(wanted), []
        for step in reversed(self.steps):
            if needed.intersection(step.operation.outputs).difference(known):
                needed.update(v for v in step.inputs if isinstance(v, int) and v not in known)
                found.append(step)
        return found[::-1]

    def follows(self) -> bool:
        """Whether what is returned comes from the images."""
        bare = Graph(_without_broadcasts(self), self.shapes, self.dtypes, self.images, self.parameters, {}, self.outputs)
        return not fed_by_images(bare).isdisjoint(self.outputs.values())

    def random(self) -> str:
        """In words, where random numbers enter what is returned; empty where they do not."""
        operations = _without_broadcasts(self)
        bare = Graph(operations, self.shapes, self.dtypes, self.images, self.parameters, {}, self.outputs, self.modules)
        used = live(bare)
        drawn = next((op for op in operations if RANDOM.search(op.name) and used.intersection(op.outputs)), None)
        if drawn is None:
            return ""
        where = f" ({drawn.line})" if drawn.line else ""
        return f"random numbers enter what it returns{where}: dropout or drop path is active"

    def graph(self, state: Mapping[str, Any], *notes: str) -> Graph:
        operations = _without_broadcasts(self)
        bare = Graph(operations, self.shapes, self.dtypes, self.images, self.parameters, {}, self.outputs, self.modules)
        fed, known = fed_by_images(bare), set(self.parameters)
        mixed: dict[int, None] = {}
        for operation in operations:
            if fed.intersection(operation.inputs):
                mixed |= dict.fromkeys(value for value in operation.inputs if value in known)
            elif known.intersection(operation.inputs):
                known.update(operation.outputs)
        constants = self.on_host(state.values(), None, mixed)
        return replace(bare, constants=constants, notes=(*notes, *_notes(bare, self.answers)))


def _notes(graph: Graph, answers: Sequence[Any]) -> Iterator[str]:
    for op in graph.operations:
        inside = [graph.parameters[value] for value in op.inputs if value in graph.parameters]
        if op.name in OPAQUE and inside:
            yield f"{', '.join(inside)} cannot be followed into {op.name} ({op.line or 'of JAX'})"
    if answers:
        yield f"it looks at {len(answers)} value{'s' * (len(answers) > 1)}, and may do something else on other images"


def _equal(x: Any, y: Any) -> bool:
    """Of two arrays; keys of random numbers, which are no array, are as their operations are."""
    return x is y or jnp.issubdtype(x.dtype, dtypes.extended) or np.array_equal(np.asarray(x), np.asarray(y))


def _said(value: Any) -> Any:
    """Arguments in a form that is the same for two equal ones; those that hold code are left out."""
    if isinstance(value, Number):
        return f"={value.val}"
    if isinstance(value, Mapping):
        return tuple((key, _said(x)) for key, x in value.items())
    if isinstance(value, tuple | list):
        return tuple(map(_said, value))
    return value if value is None or isinstance(value, str | int | float | bool) else ""


def _without_broadcasts(program: Program) -> tuple[Operation, ...]:
    """The operations, in which sums and products take what was broadcast for them alone as it was before, as other libraries do."""
    made = {value: step for step in program.steps for value in step.operation.outputs}
    kept, shapes = {value for run in program.modules for value in run.returned} | set(program.outputs.values()), program.shapes

    def before(value: int) -> int:
        step = made.get(value)
        if step is None or step.operation.name != "broadcast_in_dim" or not step.operation.inputs:
            return value
        (source,), rank = step.operation.inputs, len(shapes[value])
        trailing = tuple(range(rank - len(shapes[source]), rank))
        return source if tuple(step.params["broadcast_dimensions"]) == trailing else value

    operations = []
    for step in program.steps:
        operation = step.operation
        if operation.kind in ("add", "multiply") and operation.inputs:
            sources = tuple(map(before, operation.inputs))
            if np.broadcast_shapes(*(shapes[value] for value in sources)) == shapes[operation.outputs[0]]:
                operation = replace(operation, inputs=sources)
        operations.append(operation)
    taken = kept.union(*(operation.inputs for operation in operations))
    return tuple(op for op in operations if op.name != "broadcast_in_dim" or taken.intersection(op.outputs))


class Flattening:
    """The equations of a jaxpr and of those within it, one after the other."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.dtypes: dict[int, str] = {}
        self.constants: dict[int, Any] = {}
        self.modules: list[ModuleRun] = []
        self._parts: dict[int, list[int]] = {}  # of arrays that are put together
        self._together: set[int] = set()  # those that are used as a whole
        self._known: dict[int, int] = {}  # a constant's id, and its number

    def value(self, array: Any) -> int:
        """A new number for something with a shape and a dtype."""
        number = len(self.shapes)
        self.shapes[number] = tuple(getattr(array, "shape", ()))
        self.dtypes[number] = str(getattr(array, "dtype", ""))
        return number

    def constant(self, array: Any) -> int:
        if id(array) not in self._known:
            self._known[id(array)] = number = self.value(array)
            self.constants[number] = array
        return self._known[id(array)]

    def run(self, jaxpr: Any, given: Sequence[Any], line: str = "", module: str = "") -> list[Any]:
        """A jaxpr's equations on these values. What its equations do not tell of line and module is that of what runs it."""
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        env = dict(zip(inner.constvars, map(self.constant, getattr(jaxpr, "consts", ())), strict=True))
        env |= dict(zip(inner.invars, given, strict=True))

        def read(atom: Any) -> Any:
            if not isinstance(atom, Literal):
                return env[atom]
            aval: Any = atom.aval
            return Number(np.asarray(atom.val, aval.dtype)) if np.ndim(atom.val) == 0 else self.constant(atom.val)

        for equation in inner.eqns:
            scopes = re.findall(rf"{IN_MODULE}([^/()]*)", str(equation.source_info.name_stack))
            place = (_line(equation) or line, scopes[-1] if scopes else module)
            env |= dict(
                zip(equation.outvars, self.equation(equation, [read(atom) for atom in equation.invars], place), strict=True)
            )
        return [read(atom) for atom in inner.outvars]

    def equation(self, equation: Any, given: list[Any], place: tuple[str, str]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name in INLINED:
            body = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
            return self.run(body, given, *place)
        if equation.primitive is ENDS_OF_MODULE:
            ends = given[: params["given"]], given[params["given"] :]
            values = (tuple(value for value in end if isinstance(value, int)) for end in ends)
            self.modules.append(ModuleRun(params["path"], *values))
            return ends[1]
        if equation.primitive is TOGETHER:
            whole = self.value(equation.outvars[0].aval)
            self._parts[whole] = given
            return [whole]
        if name == "slice" and given[0] in self._parts and params["limit_indices"][0] - params["start_indices"][0] == 1:
            given, params = [self.reshaped(self._parts[given[0]][params["start_indices"][0]], place)], dict(params)
            params |= {"start_indices": (0, *params["start_indices"][1:]), "limit_indices": (1, *params["limit_indices"][1:])}
            equation = equation.replace(params=params)
        if name == "convert_element_type" and isinstance(given[0], Number):
            return [Number(np.asarray(given[0].val).astype(params["new_dtype"]))]
        if name == "scan" and 0 < params["length"] <= MOST_UNROLLED:
            return self.unrolled(equation, given, place)
        if name == "conv_general_dilated" and params["dimension_numbers"].lhs_spec != params["dimension_numbers"].out_spec:
            return self.turned_convolution(equation, given, place)
        outputs = [self.value(atom.aval) for atom in equation.outvars]
        if outputs:
            kind, settings = _described(name, params, given)
            self.step(_bound(equation), given, outputs, kind, name, settings, place, params)
        return outputs

    def step(
        self,
        call: Callable[..., Sequence[Any]],
        given: Sequence[Any],
        outputs: Sequence[int],
        kind: Kind,
        name: str,
        settings: Mapping[str, Any],
        place: tuple[str, str],
        params: Mapping[str, Any],
    ) -> None:
        line, module = place
        for value in given:
            if isinstance(value, int):
                self.made(value)
        inputs = tuple(value for value in given if isinstance(value, int))
        operation = Operation(kind, name, inputs, tuple(outputs), settings, module, line)
        self.steps.append(Step(call, tuple(given), operation, params))

    def made(self, value: int) -> int:
        """The value, which is put together where it is used as a whole."""
        if value in self._parts and value not in self._together:
            self._together.add(value)
            self.step(lambda *x: [jnp.stack(x)], self._parts[value], [value], "move", "scan_stack", {}, ("", ""), {})
        return value

    def unmade(self) -> set[int]:
        """Arrays that nothing uses as a whole."""
        return self._parts.keys() - self._together

    def reshaped(self, part: int, place: tuple[str, str]) -> int:
        """A part as one of one."""
        shape = (1, *self.shapes[part])
        value = self.value(np.empty(shape, bool))
        self.dtypes[value] = self.dtypes[part]
        about = {"new_sizes": shape, "dimensions": None}
        self.step(lambda x: [jnp.reshape(x, shape)], [part], [value], "move", "reshape", {}, place, about)
        return value

    def unrolled(self, equation: Any, given: list[Any], place: tuple[str, str]) -> list[Any]:
        """A scan, one step after the other. What it runs over, and what it collects, has one axis more outside than inside."""
        params, body = equation.params, equation.params["jaxpr"]
        inner = getattr(body, "jaxpr", body)
        over = sum(a.aval.shape != b.aval.shape for a, b in zip(equation.invars, inner.invars, strict=True))
        collected = sum(a.aval.shape != b.aval.shape for a, b in zip(equation.outvars, inner.outvars, strict=True))
        carried = len(equation.outvars) - collected
        constants, carry, xs = (
            given[: len(given) - over - carried],
            given[len(given) - over - carried : len(given) - over],
            given[len(given) - over :],
        )
        order, number = range(params["length"]), len(self.steps)
        ys: dict[int, list[Any]] = {}
        for t in reversed(order) if params["reverse"] else order:
            slices = []
            for x, atom in zip(xs, inner.invars[len(given) - over :], strict=True):
                if x in self._parts:
                    slices.append(self._parts[x][t])
                    continue
                slices.append(self.value(atom.aval))
                at = {"start_indices": (t,), "squeezed": True, "scan": number}
                self.step(lambda x, t=t: [x[t]], [x], slices[-1:], "move", "scan_slice", {}, place, at)
            out = self.run(body, [*constants, *carry, *slices], *place)
            carry, ys[t] = out[:carried], out[carried:]
        stacked = [self.value(atom.aval) for atom in equation.outvars[carried:]]
        for i, (value, atom) in enumerate(zip(stacked, equation.outvars[carried:], strict=True)):
            dtype = atom.aval.dtype
            parts = [ys[t][i] for t in order]
            self.step(lambda *x, dtype=dtype: [jnp.stack(x).astype(dtype)], parts, [value], "move", "scan_stack", {}, place, {})
        return [*carry, *stacked]

    def turned_convolution(self, equation: Any, given: list[Any], place: tuple[str, str]) -> list[Any]:
        """A convolution whose output has other axes than its input, as one that has the same, and a transposition."""
        (out,) = equation.outvars
        axes = equation.params["dimension_numbers"]
        turn = [0] * len(axes.out_spec)
        for mine, theirs in zip(axes.lhs_spec, axes.out_spec, strict=True):
            turn[theirs] = mine
        shape = [0] * len(turn)
        for axis, mine in enumerate(turn):
            shape[mine] = out.aval.shape[axis]
        straight = equation.replace(params={**equation.params, "dimension_numbers": axes._replace(out_spec=axes.lhs_spec)})
        made, turned = self.value(out.aval.update(shape=tuple(shape))), self.value(out.aval)
        kind, settings = _described("conv_general_dilated", straight.params, given)
        self.step(_bound(straight), given, [made], kind, "conv_general_dilated", settings, place, straight.params)
        move = {"permutation": tuple(turn)}
        self.step(lambda x: [jnp.transpose(x, turn)], [made], [turned], "move", "transpose", {}, place, move)
        return [turned]


def _bound(equation: Any) -> Callable[..., Sequence[Any]]:
    found = equation.primitive.get_bind_params(equation.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # a pair before JAX 0.10

    def call(*inputs: Any) -> Sequence[Any]:
        with equation.ctx.manager:
            out = equation.primitive.bind(*functions, *inputs, **params)
        return cast("Sequence[Any]", out) if equation.primitive.multiple_results else [out]

    return call


def _line(equation: Any) -> str:
    """The innermost line of the user's own. JAX keeps no frames from outside of what it traces."""
    traceback = equation.source_info.traceback
    frames = () if traceback is None else traceback.frames
    lines = (shown_line(frame.file_name, frame.line_num, frame.function_name.rpartition(".")[2]) for frame in frames)
    return next(filter(None, lines), "")


def _described(name: str, params: Mapping[str, Any], given: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """What an equation does, as `Operation` has it. `scalars` are the numbers that it is given; `turned`: a number comes first."""
    scalars = [float(value.val) for value in given if isinstance(value, Number) and np.isreal(value.val)]
    if name == "dot_general":
        contracted, batch = params["dimension_numbers"]
        return "product", {"contracted": _tuples(contracted), "batch": _tuples(batch)}
    if name == "conv_general_dilated":
        return _convolution(params)
    if name in ("mul", "div", "add", "sub", "add_any"):
        settings: dict[str, Any] = {"inverse": name in ("div", "sub"), "scalars": scalars}
        turned = {"turned": True} if isinstance(given[0], Number) else {}
        return "multiply" if name in ("mul", "div") else "add", settings | turned
    if name == "neg":
        return "multiply", {"inverse": False, "scalars": [-1.0]}
    zeros = name == "pad" and scalars == [0.0] and min(min(ends) for ends in params["padding_config"]) >= 0
    told = {key: params[key] for key in TOLD if _is_numbers(params.get(key))}
    return ("move" if name in MOVES or zeros else "other"), {"scalars": scalars, **told}


TOLD = ("axes", "permutation", "dimension", "dimensions", "start_indices", "limit_indices", "strides")
"""Parameters of an equation that say along which axes it runs, and what it takes."""


def _is_numbers(x: Any) -> bool:
    return isinstance(x, int) or (isinstance(x, tuple) and all(isinstance(i, int) for i in x))


def _convolution(params: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    axes = params["dimension_numbers"]
    plain = len(axes.lhs_spec) == 4 and set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1
    if not plain:
        return "other", {}
    return "convolution", {
        "stride": tuple(params["window_strides"]),
        "padding": _tuples(params["padding"]),
        "dilation": tuple(params["rhs_dilation"]),
        "groups": params["feature_group_count"],
        "transposed": False,
        "x": _word(axes.lhs_spec, "bchw"),
        "weight": _word(axes.rhs_spec, "oihw"),
    }


def _word(places: Sequence[int], letters: str) -> str:
    return "".join(letters[places.index(axis)] for axis in range(len(letters)))


def _tuples(pairs: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, pair)) for pair in pairs)

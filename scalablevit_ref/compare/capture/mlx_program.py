"""MLX's primitives as a list of steps that can be run, and as a `Graph`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.compare.capture.graph import Graph, Kind, ModuleRun, Operation, fed_by_images, live
from scalablevit_ref.compare.capture.mlx_on_host import MOVES, REDUCTIONS, known, on_host
from scalablevit_ref.compare.capture.mlx_trace import Traced
from scalablevit_ref.errors import CaptureError


@dataclass(frozen=True)
class Step:
    """A primitive: MLX's name and arguments, and values by their numbers."""

    name: str
    arguments: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    line: str = ""


@dataclass(frozen=True)
class Program:
    """A pass, as `Graph` has it, that can be run.

    Attributes
    ----------
    constants
        Arrays of the candidate's own that are not its parameters, and numbers that stand in its code, by value.
    """

    steps: tuple[Step, ...]
    shapes: Mapping[int, tuple[int, ...]]
    dtypes: Mapping[int, str]
    images: int
    parameters: Mapping[int, str]
    constants: Mapping[int, np.ndarray]
    outputs: Mapping[str, int]
    modules: tuple[ModuleRun, ...]

    def does_as(self, other: Program) -> bool:
        """Whether another pass did the same, on the same arrays of its own."""
        return (
            [(step.name, str(step.arguments), step.inputs) for step in self.steps]
            == [(step.name, str(step.arguments), step.inputs) for step in other.steps]
            and self.constants.keys() == other.constants.keys()
            and all(np.array_equal(x, other.constants[value], equal_nan=True) for value, x in self.constants.items())
        )

    def evaluated(
        self, state: Mapping[str, np.ndarray], x: np.ndarray | None, wanted: Iterable[int], cut: Mapping[int, Any], *, exact: bool
    ) -> dict[int, np.ndarray]:
        """These values, of parameters and images; those of `cut` are taken as they are, whatever makes them."""
        env: dict[int, Any] = {value: state[name] for value, name in self.parameters.items()} | dict(self.constants)
        env |= ({} if x is None else {self.images: x}) | dict(cut)
        wanted = list(wanted)
        needed = self._needed(wanted, cut)
        last = {value: i for i, step in enumerate(needed) for value in step.inputs}
        for i, step in enumerate(needed):
            shapes = [self.shapes[value] for value in step.outputs]
            dtype = self.dtypes[step.outputs[0]]
            made = on_host(step.name, step.arguments, [env[value] for value in step.inputs], shapes, dtype, exact=exact)
            env |= dict(zip(step.outputs, made, strict=True)) | dict(cut)
            for value in {value for value in step.inputs if last[value] == i} - set(wanted) - set(cut):
                del env[value]  # what is not asked for again
        return {value: np.array(env[value]) for value in wanted}

    def _needed(self, wanted: Collection[int], known: Collection[int]) -> list[Step]:
        needed, found = set(wanted), []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs).difference(known):
                needed.update(value for value in step.inputs if value not in known)
                found.append(step)
        return found[::-1]

    def random(self) -> str:
        """In words, where random numbers enter what is returned; empty where they do not."""
        graph = self.bare()
        used = live(graph)
        drawn = next((op for op in graph.operations if op.settings.get("random") and used.intersection(op.outputs)), None)
        if drawn is None:
            return ""
        where = f" ({drawn.line})" if drawn.line else ""
        return f"random numbers enter what it returns{where}: dropout or drop path is active"

    def bare(self) -> Graph:
        """Without constants."""
        operations = tuple(_operations(self))
        return Graph(operations, self.shapes, self.dtypes, self.images, self.parameters, {}, self.outputs, self.modules)

    def graph(self, state: Mapping[str, np.ndarray], *notes: str, exact: bool) -> Graph:
        bare = self.bare()
        fed, own = fed_by_images(bare), set(self.parameters)
        mixed: dict[int, None] = {}
        for operation in bare.operations:
            if fed.intersection(operation.inputs):
                mixed |= dict.fromkeys(value for value in operation.inputs if value in own)
            elif own.intersection(operation.inputs):
                own.update(operation.outputs)
        constants = self.evaluated(state, None, mixed, {}, exact=exact)
        return replace(bare, constants=constants, notes=notes)


def program(traced: Traced, parameters: Sequence[str], outputs: Sequence[str], *, wide: bool) -> Program:
    """What was traced, of parameters and then images.

    Parameters
    ----------
    traced
        What MLX told.
    parameters, outputs
        What the inputs and outputs are called.
    wide
        Whether float32 stands for float64: in a pass that is traced in float64, MLX keeps some numbers in float32.

    Raises CaptureError for a primitive that is not known here.
    """
    numbers: dict[str, int] = {}
    shapes: dict[int, tuple[int, ...]] = {}
    dtypes: dict[int, str] = {}

    def new(shape: tuple[int, ...], dtype: str) -> int:
        number = len(shapes)
        shapes[number], dtypes[number] = shape, "float64" if wide and dtype == "float32" else dtype
        return number

    def of(name: str) -> int:
        if name not in numbers:
            numbers[name] = new(*traced.about[name])
        return numbers[name]

    inputs = [of(name) for name in traced.inputs]
    try:
        constants = {of(name): _constant(to_numpy(x), wide=wide) for name, x in traced.constants.items()}
    except TypeError as error:
        raise CaptureError("it uses arrays of a transformation, as mx.vmap, that was made before it ran") from error
    steps: list[Step] = []
    for one in traced.primitives:
        given = tuple(of(name) for name, _, _ in one["inputs"])
        made = tuple(of(name) for name, _, _ in one["outputs"])
        line = next((traced.lines[name] for name, _, _ in one["outputs"] if name in traced.lines), "")
        name, arguments = one["name"], tuple(one["arguments"])
        if name == "AddMM":
            steps += _apart(arguments, given, made, line, shapes, dtypes, constants, new)
            continue
        steps.append(Step(name, arguments, given, made, line))
    images, own = inputs[-1], dict(zip(inputs[:-1], parameters, strict=True))
    results = dict(zip(outputs, (of(name) for name in traced.outputs), strict=True))
    modules = tuple(ModuleRun(path, tuple(map(of, given)), tuple(map(of, out))) for path, given, out in traced.modules)
    found = Program(tuple(_with_lines(steps)), shapes, dtypes, images, own, constants, results, modules)
    used = found._needed(list(results.values()), ())
    unknown = next((step for step in used if not known(step.name)), None)
    if unknown is not None:
        where = f" ({unknown.line})" if unknown.line else ""
        raise CaptureError(f"MLX's primitive {unknown.name} is not followed{where}")
    return found


def _constant(x: np.ndarray, *, wide: bool) -> np.ndarray:
    """A number of float32 as the decimal that it was written as."""
    if not wide or x.dtype != np.float32:
        return x
    return np.asarray(float(str(x[()]))) if x.ndim == 0 else x.astype(np.float64)


def _apart(
    arguments: tuple[Any, ...],
    given: tuple[int, ...],
    made: tuple[int, ...],
    line: str,
    shapes: Mapping[int, tuple[int, ...]],
    dtypes: Mapping[int, str],
    constants: dict[int, np.ndarray],
    new: Any,
) -> Iterator[Step]:
    """α · A B + β · C as a product, and a sum."""
    (a, b, c), (out,) = given, made
    terms = []
    product = new(shapes[out], dtypes[out])
    yield Step("Matmul", (), (a, b), (product,), line)
    for term, factor in ((product, arguments[0]), (c, arguments[1])):
        if factor != 1:
            number, scaled = new((), dtypes[out]), new(shapes[term], dtypes[out])
            constants[number] = np.asarray(factor, dtypes[out])
            yield Step("Multiply", (), (term, number), (scaled,), line)
            term = scaled
        terms.append(term)
    yield Step("Add", (), tuple(terms), made, line)


def _with_lines(steps: Sequence[Step]) -> list[Step]:
    """What one call wrote out as several primitives has the line of the last of them, from which the call is known."""
    found, lines = [], dict[int, str]()
    for step in reversed(steps):
        line = step.line or next((lines[value] for value in step.outputs if value in lines), "")
        for value in step.inputs:
            lines.setdefault(value, line)
        found.append(replace(step, line=line))
    return found[::-1]


NAMES = {"Unflatten": "unflatten", "ExpandDims": "expand_dims", "AsType": "convert", "LogSumExp": "logsumexp"}
"""What operations are called whose names are of several words."""


def _operations(program: Program) -> Iterator[Operation]:
    """The steps as operations, in which sums and products take what was broadcast for them as it was before, and numbers."""
    made = {value: step for step in program.steps for value in step.outputs}
    inside = _modules(program, made)

    def source(value: int) -> int:
        while value in made and made[value].name == "Broadcast":
            value = made[value].inputs[0]
        return value

    every: list[Operation] = []
    for i, step in enumerate(program.steps):
        kind, name, inputs, settings = _described(step, program, source)
        every.append(Operation(kind, name, inputs, step.outputs, settings, inside.get(i, ""), step.line))
    kept = {value for run in program.modules for value in run.returned} | set(program.outputs.values())
    taken = kept.union(*(operation.inputs for operation in every))
    yield from (op for op in every if op.name != "broadcast" or taken.intersection(op.outputs))


def _modules(program: Program, made: Mapping[int, Step]) -> dict[int, str]:
    """The innermost module of each step, by its place: what lies between that which the module was given and what it returned."""
    places = {value: i for i, step in enumerate(program.steps) for value in step.outputs}
    found: dict[int, str] = {}
    for run in program.modules:  # the inner ones end first
        seen, queue = set(run.given), list(run.returned)
        while queue:
            value = queue.pop()
            if value in seen or value not in made:
                continue
            seen.add(value)
            found.setdefault(places[value], run.path)
            queue += made[value].inputs
    return found


def _described(step: Step, program: Program, source: Any) -> tuple[Kind, str, tuple[int, ...], dict[str, Any]]:
    """An operation's kind, name, inputs and settings, as `Operation` has them."""
    shapes, name = program.shapes, NAMES.get(step.name, step.name.lower())
    if step.name == "Matmul":
        left, right = (len(shapes[value]) for value in step.inputs)
        axes = tuple(range(left - 2))
        return "product", name, step.inputs, {"contracted": ((left - 1,), (right - 2,)), "batch": (axes, axes)}
    if step.name == "Convolution":
        return _convolution(step, shapes)
    if step.name in ("Add", "Subtract", "Multiply", "Divide"):
        return _of_two(step, program, source)
    if step.name == "Negative":
        return "multiply", name, step.inputs, {"inverse": False, "scalars": [-1.0]}
    if step.name == "Reduce":
        return "other", REDUCTIONS[step.arguments[0]], step.inputs, {"axes": tuple(step.arguments[1]), "scalars": []}
    if step.name in ("Softmax", "LogSumExp"):
        return "other", name, step.inputs, {"axes": (len(shapes[step.inputs[0]]) - 1,)}
    if step.name == "Sqrt":
        return "other", "rsqrt" if step.arguments[0] else "sqrt", step.inputs, {}
    if step.name == "RandomBits":
        return "other", name, step.inputs, {"random": True}
    if step.name == "Transpose":
        return "move", name, step.inputs, {"permutation": tuple(step.arguments[0])}
    if step.name == "Pad":
        zeros = not np.any(program.constants.get(step.inputs[1], 1))
        return "move" if zeros else "other", name, step.inputs[:1], {}
    moves = step.name in MOVES or (step.name == "SliceUpdate" and step.arguments[0] == 4)
    inputs = step.inputs[:1] if step.name == "Gather" else step.inputs
    told = {"axis": step.arguments[0]} if step.name in ("Concatenate", "GatherAxis") else {}
    if step.name == "Split":
        told = {"axis": step.arguments[1]}
    if step.name == "Slice":
        told = dict(zip(("start_indices", "limit_indices", "strides"), map(tuple, step.arguments), strict=True))
    return "move" if moves else "other", name, inputs, told


def _of_two(step: Step, program: Program, source: Any) -> tuple[Kind, str, tuple[int, ...], dict[str, Any]]:
    """A sum or a product. Numbers that stand in the code are `scalars`."""
    sources = [source(value) for value in step.inputs]
    scalars = [float(program.constants[x]) for x in sources if x in program.constants and program.shapes[x] == ()]
    turned = {"turned": True} if scalars and sources[0] in program.constants and program.shapes[sources[0]] == () else {}
    rest = tuple(x for x in sources if not (x in program.constants and program.shapes[x] == ()))
    if np.broadcast_shapes(*(program.shapes[x] for x in rest)) != program.shapes[step.outputs[0]]:
        rest = tuple(
            x
            for x, plain in zip(step.inputs, sources, strict=True)
            if not (plain in program.constants and program.shapes[plain] == ())
        )
    kind: Kind = "add" if step.name in ("Add", "Subtract") else "multiply"
    return kind, step.name.lower(), rest, {"inverse": step.name in ("Subtract", "Divide"), "scalars": scalars, **turned}


def _convolution(step: Step, shapes: Mapping[int, tuple[int, ...]]) -> tuple[Kind, str, tuple[int, ...], dict[str, Any]]:
    stride, low, high, dilation, spread, groups, flipped = step.arguments
    if len(shapes[step.inputs[0]]) != 4 or flipped or set(spread) != {1}:
        return "other", "convolution", step.inputs, {}
    settings = {
        "stride": tuple(stride),
        "padding": tuple(zip(low, high, strict=True)),
        "dilation": tuple(dilation),
        "groups": groups,
        "transposed": False,
        "x": "bhwc",
        "weight": "ohwi",
    }
    return "convolution", "convolution", step.inputs, settings

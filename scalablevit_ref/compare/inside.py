"""Inside one wrong layer of a candidate: which of its steps are right, which is the first that is not, and how its value differs.

Each step is held against what the reference's step makes of the candidate's own values before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from scalablevit_ref.compare.canonical import Layouts
from scalablevit_ref.compare.capture.graph import Graph, fed_by_images, makers
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.reasoning.case import THE_INPUT
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fits import fits
from scalablevit_ref.compare.reasoning.kinds import kinds_of_difference
from scalablevit_ref.compare.steps import INPUT, OUTPUT, Run, Step, feeds, run_layer
from scalablevit_ref.layers import IMAGES, Layer
from scalablevit_ref.testing.arrays import EPS, NETWORK_TOLERANCE, Comparison, compare_arrays

Fetch = Callable[[Collection[int]], Mapping[int, np.ndarray]]
"""Gives values of the candidate's graph by their numbers."""

Words = Literal["right", "its input is wrong", "it is wrong", "not followed"]

NEAR = 80
"""Operations before the first and after the last use of a layer's parameters among which the right value is looked for."""

SEARCHED = 64
"""Most values that are looked at for the right one."""


class Use(Protocol):
    """What is needed of a place where parameters act on data (`capture.uses.Use`)."""

    @property
    def operation(self) -> int: ...
    @property
    def given(self) -> int: ...
    @property
    def made(self) -> int: ...
    @property
    def given_axis(self) -> int: ...
    @property
    def made_axis(self) -> int: ...
    @property
    def made_rows(self) -> tuple[int, int] | None: ...


@dataclass(frozen=True)
class StepRow:
    """One step of the reference, and the candidate's values at its place.

    Attributes
    ----------
    step
        Its name, as "stages.0.0.attn.qkv".
    given, made
        What the candidate feeds it, and what comes out; None where that is not known, as of a step without parameters.
    words
        What is said of it.
    """

    step: str
    given: Comparison | None
    made: Comparison | None
    words: Words


@dataclass(frozen=True)
class Inside:
    """What is known of the inside of a wrong layer.

    Attributes
    ----------
    layer
        Its name.
    rows
        Its steps, in the reference's order.
    place
        Where it goes wrong first, in words.
    line
        The line of the candidate's own code that makes the first wrong value; empty where that is not known.
    differences
        How that value differs from the right one: what explains it comes first.
    lines
        All lines between the last right values and the first wrong one, in the order in which they run.
    step
        The step that is wrong, or whose input is; empty where it is the layer's own output.
    notes
        What else was seen, each a sentence.
    """

    layer: str
    rows: tuple[StepRow, ...]
    place: str
    line: str = ""
    differences: tuple[Difference, ...] = ()
    lines: tuple[str, ...] = ()
    step: str = ""
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether a difference explains the whole wrong value."""
        return any(difference.exact for difference in self.differences)

    def data(self) -> dict[str, Any]:
        """As plain data, for the JSON."""
        return {
            "layer": self.layer,
            "steps": [
                {"step": row.step, "given": _error(row.given), "made": _error(row.made), "words": row.words} for row in self.rows
            ],
            "place": self.place,
            "step": self.step,
            "line": self.line,
            "lines": list(self.lines),
            "differences": [
                {"kind": d.kind, "words": d.words, "left": d.left, "exact": d.exact, "data": dict(d.data)} for d in self.differences
            ],
            "notes": list(self.notes),
        }


def _error(comparison: Comparison | None) -> float | None:
    return None if comparison is None else comparison.error


def inside(
    name: str,
    local: Local,
    actual: np.ndarray | None,
    *,
    graph: Graph,
    steps: Mapping[str, Sequence[Use]],
    fetch: Fetch,
    dtype: str,
    tolerance: float | None = None,
    output: int | None = None,
) -> Inside:
    """The steps of a layer of a candidate whose run is known as a graph.

    Parameters
    ----------
    name
        The layer's.
    local
        The reference's layers, and the candidate's taps.
    actual
        The candidate's output of the layer: b h w c, or b c; None where it is not known.
    graph
        The candidate's run.
    steps
        The uses of the candidate's parameters by the reference's steps; their outputs are concatenated.
    fetch
        Gives the candidate's values.
    dtype
        What the candidate computed in.
    tolerance
        In eps of `dtype`, ‖Δ‖ / ‖reference‖; by default `NETWORK_TOLERANCE`.
    output
        The value that is the layer's output in the graph, if it is one.
    """
    layer, bound = local.table()[name], NETWORK_TOLERANCE[dtype] if tolerance is None else tolerance
    x, params = fed(local, name), local.own_params(name)
    sources = feeds(layer, x[:1], params)
    uses = {step: tuple(steps.get(step, ())) for step in sources if step != OUTPUT}
    fetched = fetch({value for some in uses.values() for use in some for value in (use.given, use.made)})
    for strange in (True, False):
        own = Followed(uses, fetched, _windows(layer), dtype, strange=strange)
        with np.errstate(all="ignore"):
            run = run_layer(layer, x, params, own)
        rows = _rows(run, sources, own, bound)
        wrong = _first_wrong(run, own, bound)
        if wrong is not None:
            break
    scene = Scene(local, layer, x, run, sources, own, rows, dtype)
    if wrong is None:
        return _at_the_end(scene, actual, graph, fetch, bound, output)
    step, side = wrong
    return _at_a_step(scene, run[step], side, graph, fetch)


def fed(local: Local, name: str) -> np.ndarray:
    """What the candidate feeds a layer: the sum of its sources, b h w c or b c; of the first layer the images, b c h w."""
    layer, x = local.table()[name], np.zeros(())
    for source in layer.sources:
        x = x + _tap(local, source)
    return np.asarray(x)


def _tap(local: Local, name: str) -> np.ndarray:
    if name == IMAGES:
        return local.images
    return local.tap(name) if name in local.names else local.output(name)


def _windows(layer: Layer) -> set[int]:
    """Sizes of the tiles into which a candidate may cut the layer's maps."""
    return {p for key in ("window_size", "sr_ratio", "s") if (p := layer.settings.get(key)) is not None and p > 1}


@dataclass
class Held:
    """One of the candidate's values beside the reference's, both b h w c, or b c."""

    value: int
    actual: np.ndarray
    expected: np.ndarray
    comparison: Comparison


class Followed:
    """The candidate's own values, each held against what the reference makes of those before it as the layer runs."""

    def __init__(
        self,
        uses: Mapping[str, Sequence[Use]],
        fetched: Mapping[int, np.ndarray],
        windows: Collection[int],
        dtype: str,
        *,
        strange: bool,
    ) -> None:
        self.uses, self.fetched, self.dtype = uses, fetched, dtype
        self.layouts = Layouts(windows, strange=strange)
        self.inputs: dict[str, Held] = {}
        self.outputs: dict[str, Held] = {}
        self.misfits: dict[str, tuple[int, ...]] = {}

    def given(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        """The candidate's own input of a step; of several uses that of the one that is farthest off."""
        found = []
        for use in self.uses.get(name, ()):
            x = self._laid_out(use.given, use.given_axis, expected, name)
            if x is not None:
                found.append(Held(use.given, x, expected, self._compared(x, expected)))
        if not found or len(found) < len(self.uses[name]):
            return None
        self.inputs[name] = max(found, key=lambda held: np.nan_to_num(held.comparison.error, nan=np.inf))
        return self.inputs[name].actual

    def made(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        """The candidate's own output of a step, b h w c; of several uses side by side."""
        uses, parts, start = self.uses.get(name, ()), [], 0
        for use in uses:
            if use.made not in self.fetched:
                return None
            x, axis = self.fetched[use.made], use.made_axis
            if use.made_rows is not None:
                x = np.take(x, range(*use.made_rows), axis)
            width = x.shape[axis] if len(uses) > 1 else expected.shape[-1]
            part = self._laid_out(use.made, axis, expected[..., start : start + width], name, x)
            if part is None:
                return None
            parts.append(part)
            start += width
        if not parts or start != expected.shape[-1]:
            return None
        x = np.concatenate(parts, -1)
        self.outputs[name] = Held(uses[0].made, x, expected, self._compared(x, expected))
        return x

    def _laid_out(
        self, value: int, axis: int, expected: np.ndarray, name: str, x: np.ndarray | None = None
    ) -> np.ndarray | None:
        if value not in self.fetched:
            return None
        x = self.fetched[value] if x is None else x
        laid = self.layouts(x, expected, axis)
        if laid is None or laid.shape != expected.shape:
            self.misfits.setdefault(name, x.shape)
            return None
        return laid

    def _compared(self, actual: np.ndarray, expected: np.ndarray) -> Comparison:
        return compared(actual, expected, self.dtype)


def compared(actual: np.ndarray, expected: np.ndarray, dtype: str) -> Comparison:
    """Two wide arrays, in eps of the dtype that the candidate computed in."""
    held = compare_arrays(actual.astype(np.float64), expected.astype(np.float64), dtype="float64", measure="l2")
    return replace(held, error=held.error * EPS["float64"] / EPS[dtype], dtype=dtype)


@dataclass(frozen=True)
class Scene:
    """A layer, what it was fed, and what was seen of its steps."""

    local: Local
    layer: Layer
    x: np.ndarray
    run: Run
    sources: Mapping[str, tuple[str, ...]]
    own: Followed
    rows: tuple[StepRow, ...]
    dtype: str
    notes: tuple[str, ...] = field(default=())

    def effective(self, step: str) -> np.ndarray:
        """What the steps after this one were given: the candidate's own value where it is known."""
        held = self.own.outputs.get(step)
        return self.run[step].made if held is None else held.actual

    def spoken(self, step: str) -> str:
        """A step's name, in words: "qkv", "LIM", "the attention"."""
        return spoken(self.layer.name, step)


def spoken(layer: str, step: str) -> str:
    """A step's name as a user of the network calls it."""
    short = step.removeprefix(f"{layer}.") if step != layer else step.rpartition(".")[2]
    if step == layer and short.isdigit():
        short = layer
    known = {"lim_func": "LIM", "local_interactive_module": "LIM", "attention": "the attention", "gelu": "GELU"}
    return known.get(short, short)


def _is_right(comparison: Comparison | None, bound: float) -> bool:
    return comparison is not None and comparison.error <= bound


def _is_wrong(comparison: Comparison | None, bound: float) -> bool:
    return comparison is not None and not comparison.error <= bound


def _first_wrong(run: Run, own: Followed, bound: float) -> tuple[str, Literal["given", "made"]] | None:
    for step in run.steps:
        for side, held in (("given", own.inputs.get(step.name)), ("made", own.outputs.get(step.name))):
            if held is not None and _is_wrong(held.comparison, bound):
                return step.name, "given" if side == "given" else "made"
    return None


def _rows(run: Run, sources: Mapping[str, tuple[str, ...]], own: Followed, bound: float) -> tuple[StepRow, ...]:
    given = {name: held.comparison for name, held in own.inputs.items()}
    made = {name: held.comparison for name, held in own.outputs.items()}
    words: dict[str, Words] = {}
    for step in run.steps:
        words[step.name] = "not followed"
        if _is_wrong(given.get(step.name), bound):
            words[step.name] = "its input is wrong"
        elif _is_wrong(made.get(step.name), bound):
            words[step.name] = "it is wrong"
        elif step.name in made:
            words[step.name] = "right"
    for step in reversed(run.steps):  # one without parameters shows in what the next one is given
        if not step.has_parameters:
            after = [name for name, taken in sources.items() if step.name in taken]
            if any(_is_right(given.get(name), bound) for name in after):
                words[step.name] = "right"
            elif any(_is_wrong(given.get(name), bound) for name in after):
                words[step.name] = "it is wrong"
    found = [StepRow(step.name, given.get(step.name), made.get(step.name), words[step.name]) for step in run.steps]
    wrong = False
    for i, row in enumerate(found):  # of what comes after the first wrong value, a step between two others is not known to be wrong
        if wrong and not run.steps[i].has_parameters and row.words == "it is wrong":
            feeding = [words[name] for name in sources[row.step] if name in words]
            if any(said != "right" for said in feeding):
                found[i] = replace(row, words="its input is wrong")
        wrong |= row.words in ("it is wrong", "its input is wrong")
    return tuple(found)


# Where


def listed(names: Iterable[str]) -> str:
    """As a list in words: "q, k and v"."""
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last


def _right_before(scene: Scene, step: str) -> str:
    """The steps before this one that are right, as the beginning of a sentence; empty if none is."""
    names = []
    for row in scene.rows:
        if row.step == step:
            break
        if row.words == "right":
            names.append(scene.spoken(row.step))
    return f"{listed(names)} {'are' if len(names) > 1 else 'is'} right; " if names else ""


def _input_words(scene: Scene) -> str:
    """What the layer is fed."""
    sources = scene.layer.sources
    if sources == (IMAGES,):
        return "the images"
    return what_gives(scene.layer.name, sources[0]) if len(sources) == 1 else "the sum of " + listed(
        what_gives(scene.layer.name, source) for source in sources
    )


def _between(scene: Scene, step: str) -> list[str]:
    """The steps, directly before this one, of which the candidate's own value is not known."""
    return [name for name in scene.sources[step] if name != INPUT and name not in scene.own.outputs]


def _place(scene: Scene, step: str, side: str) -> str:
    named, before = scene.spoken(step), _right_before(scene, step)
    if side == "made":
        fine = f"what enters {named} is right, " if step in scene.own.inputs else ""
        return f"{before}{fine}what {named} makes of it is not"
    between = [scene.spoken(name) for name in _between(scene, step)]
    if between:
        return f"{before}what enters {named}, {listed(between)} {'between them' if before else 'before it'}, is not"
    sources = scene.sources[step]
    if sources == (INPUT,):
        return f"{before}what enters {named} is not {_input_words(scene)}"
    return f"{before}what enters {named} is not made of {listed(scene.spoken(name) for name in sources)} as in the reference"


# What


def what_gives(layer: str, source: str) -> str:
    """A value of the network in words, as seen from a layer: "what norm1 gives", "x before the block"."""
    if source == IMAGES:
        return "the images"
    block, inner = layer.rpartition(".")[0], source.rpartition(".")[2]
    if block and source.startswith(f"{block}.") and not inner.isdigit() and layer.startswith("stages."):
        return {"attn": "the attention's output", "mlp": "the MLP's output"}.get(inner, f"what {inner} gives")
    if source.startswith(f"{layer}."):
        inner = source.removeprefix(f"{layer}.")
        return {"attn": "the attention's output", "mlp": "the MLP's output"}.get(inner, f"what {inner} gives")
    return f"what {source} gives"


def known_values(local: Local, layer: str) -> dict[str, np.ndarray]:
    """The candidate's own values around a layer, by words: what its block is fed, what its parts give."""
    table = local.table()
    block = layer if f"{layer}.norm1" in table else layer.rpartition(".")[0]
    found: dict[str, np.ndarray] = {}
    if f"{block}.norm1" in table and f"{block}.attn" in table:
        x = fed(local, f"{block}.norm1")
        found["x before the block"] = x
        for inner in ("norm1", "attn", "norm2", "mlp"):
            found[what_gives(block, f"{block}.{inner}")] = _tap(local, f"{block}.{inner}")
        found["x after the attention"] = fed(local, f"{block}.norm2")
        found["the block's output"] = _tap(local, block)
    else:
        for source in table[layer].sources:
            if source != IMAGES:
                found[what_gives(layer, source)] = _tap(local, source)
    found.pop(what_gives(block, layer), None)
    if layer == block:
        found.pop("the block's output", None)
    return found


def _pool(scene: Scene, before: str | None) -> dict[str, np.ndarray]:
    """The candidate's own values, by words, that a wrong value may be made of: those of the block and of the steps that ran before."""
    found = known_values(scene.local, scene.layer.name)
    if scene.layer.sources != (IMAGES,) and not any(value is scene.x for value in found.values()):
        found.setdefault(_input_words(scene), scene.x)
    for step in scene.run.steps:
        if step.name == before:
            break
        if not step.has_parameters:
            continue
        named, made = scene.spoken(step.name), scene.effective(step.name)
        held = scene.own.inputs.get(step.name)
        if held is not None:
            found.setdefault(f"what enters {named}", held.actual)
        if named == "LIM":
            found["LIM's output"] = made
        else:
            found[f"what {named} gives"] = made
    return found | _q_k_v(scene)


def _q_k_v(scene: Scene) -> dict[str, np.ndarray]:
    """The candidate's own q, k and v as maps, where the layer attends."""
    attention = next((step for step in scene.run.steps if step.op == "attention"), None)
    found: dict[str, np.ndarray] = {}
    for step in scene.sources[attention.name] if attention else ():
        held = step.rpartition(".")[2].removeprefix("to_")
        if step != INPUT and set(held) <= set("qkv"):
            found |= zip(held, np.split(scene.effective(step), len(held), axis=-1), strict=True)
    return found


def _settings(scene: Scene) -> dict[str, Any]:
    settings = dict(scene.layer.settings)
    if "heads" in settings:
        settings["num_heads"] = settings.pop("heads")
    return settings


def _differences(
    scene: Scene, actual: np.ndarray, expected: np.ndarray, step: Step, side: str, given: Mapping[str, np.ndarray]
) -> tuple[Difference, ...]:
    """How a value differs: its kinds, and what settings of its operation give it."""
    settings, eps = _settings(scene), EPS[scene.dtype]
    shared: dict[str, Any] = {"num_heads": settings.get("num_heads"), "window_size": settings.get("window_size"), "eps": eps}
    fitted: list[Difference] = []
    if side == "made":
        held = scene.own.inputs.get(step.name)
        x = step.given if held is None else held.actual
        given = {**given, THE_INPUT: x}
        weight, bias = step.params.get("weight"), step.params.get("bias")
        if step.op == "layer_norm":
            shared |= {"gain": weight, "shift": bias}
        else:
            shared |= {"weight": weight, "bias": bias}
        kind = {"linear": "linear", "conv2d": "convolution", "layer_norm": "norm"}[step.op]
        sources = {"x": x} | {name: value for name, value in (("weight", weight), ("bias", bias)) if value is not None}
        fitted = fits(kind, actual, sources, dict(step.settings), eps=eps)
    else:
        attending = next((s for s in scene.run.steps if s.op == "attention" and s.name in scene.sources.get(step.name, ())), None)
        if attending is not None and actual.ndim == 4:
            sources = _q_k_v(scene)
            lim = [name for name in scene.sources[step.name] if scene.spoken(name) == "LIM"]
            sources |= {"lim": scene.effective(name) for name in lim}
            if scene.x.shape == actual.shape:
                sources["x"] = scene.x
            kind = "window attention" if "window_size" in settings else "attention"
            if {"q", "k", "v"} <= sources.keys():
                fitted = fits(kind, actual, sources, {**settings, **attending.settings}, eps=eps)
    kinds = kinds_of_difference(actual, expected, given=given, **shared)
    return _ordered([*fitted, *kinds])


def _ordered(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """What explains first, and nothing twice."""
    found = {difference.words: difference for difference in differences}
    return tuple(sorted(found.values(), key=lambda difference: not difference.exact))


# Findings


def _at_a_step(scene: Scene, step: Step, side: str, graph: Graph, fetch: Fetch) -> Inside:
    held = (scene.own.inputs if side == "given" else scene.own.outputs)[step.name]
    given = _pool(scene, step.name)
    differences = _differences(scene, held.actual, held.expected, step, side, given)
    line, lines = _lines(scene, graph, held.value)
    return Inside(
        scene.layer.name,
        scene.rows,
        _place(scene, step.name, side),
        line,
        differences,
        lines,
        step.name,
        (*_notes(scene), *_elsewhere(scene, held, graph, fetch)),
    )


def _at_the_end(
    scene: Scene, actual: np.ndarray | None, graph: Graph, fetch: Fetch, bound: float, output: int | None
) -> Inside:
    """Every step that can be followed is right."""
    followed = [row for row in scene.rows if row.words == "right"]
    lost = [scene.spoken(row.step) for row in scene.rows if row.words == "not followed"]
    if actual is None or actual.shape != scene.run.output.shape:
        place = f"{_all(scene, followed)} right" if followed else "its steps cannot be followed"
        return Inside(scene.layer.name, scene.rows, place, notes=_notes(scene))
    comparison = compared(actual, scene.run.output, scene.dtype)
    if _is_right(comparison, bound):
        return Inside(scene.layer.name, scene.rows, "every step is right, and so is the output", notes=_notes(scene))
    if not scene.rows:
        place = "what it is made of is right, their sum is not" if len(scene.layer.sources) > 1 else "it is not what it is made of"
    elif not followed:
        place = "its steps cannot be followed; its output is wrong"
    else:
        place = f"{_all(scene, followed)} right, what the layer gives is not"
        if lost:
            place += f" ({listed(lost)} cannot be followed)"
    given = _pool(scene, None)
    value = -1 if output is None else output
    held = Held(value, actual, scene.run.output, comparison)
    line, lines = _lines(scene, graph, value) if value in graph.shapes else ("", ())
    settings = _settings(scene)
    differences = kinds_of_difference(
        actual,
        scene.run.output,
        given=given,
        num_heads=settings.get("num_heads"),
        window_size=settings.get("window_size"),
        eps=EPS[scene.dtype],
    )
    notes = (*_notes(scene), *_elsewhere(scene, held, graph, fetch))
    return Inside(scene.layer.name, scene.rows, place, line, _ordered(differences), lines, "", notes)


def _all(scene: Scene, rows: Sequence[StepRow]) -> str:
    named = [scene.spoken(row.step) for row in rows]
    return f"{listed(named)} {'are' if len(named) > 1 else 'is'}"


def _notes(scene: Scene) -> tuple[str, ...]:
    found = [
        f"what enters or leaves {scene.spoken(step)} has shape {shape}, which no layout of the reference's value has"
        for step, shape in scene.own.misfits.items()
    ]
    if scene.own.layouts.turned:
        found.append(f"inside {scene.layer.name} H and W are swapped")
    return tuple(found)


# The candidate's own code


def _lines(scene: Scene, graph: Graph, value: int) -> tuple[str, tuple[str, ...]]:
    """The line that makes a wrong value, and all lines between it and the values that are right."""
    made, fed_values = makers(graph), fed_by_images(graph)
    wrong = {row.step for row in scene.rows if row.words != "right"}
    right = {use.made for step, uses in scene.own.uses.items() if step not in wrong for use in uses}
    right |= {
        use.given
        for step, uses in scene.own.uses.items()
        for use in uses
        if step in scene.own.inputs and next(row for row in scene.rows if row.step == step).words != "its input is wrong"
    }
    right.discard(value)

    def base(x: int) -> int:
        """The value that this one was moved from."""
        while x not in right and x in made and graph.operations[made[x]].kind == "move":
            x = next((i for i in graph.operations[made[x]].inputs if i in fed_values), -1)
        return x

    cone: list[int] = []
    queue, seen = [value], set[int]()
    while queue and len(cone) < NEAR:
        x = queue.pop()
        if x in seen or x in right or x not in made or x not in fed_values:
            continue
        seen.add(x)
        operation = graph.operations[made[x]]
        cone.append(made[x])
        queue += operation.inputs
    lines = [graph.operations[i].line for i in sorted(set(cone)) if graph.operations[i].kind != "move"]
    x = base(value)
    while x in made and graph.operations[made[x]].kind == "add":
        others = [i for i in map(base, graph.operations[made[x]].inputs) if i in fed_values and i not in right]
        if len(others) != 1 or len(graph.operations[made[x]].inputs) < 2 or not any(i in right for i in map(base, graph.operations[made[x]].inputs)):
            break
        x = others[0]
    line = graph.operations[made[x]].line if x in made else ""
    return line, tuple(dict.fromkeys(line for line in lines if line))


def _elsewhere(scene: Scene, held: Held, graph: Graph, fetch: Fetch) -> tuple[str, ...]:
    """Where the candidate computes the right value and does not use it, if it does."""
    uses = [use.operation for some in scene.own.uses.values() for use in some]
    made = makers(graph)
    if held.value in made:
        uses.append(made[held.value])
    if not uses:
        return ()
    near, fed_values = range(min(uses) - NEAR, max(uses) + NEAR), fed_by_images(graph)
    asked = [
        value
        for value, i in made.items()
        if i in near
        and value in fed_values
        and graph.operations[i].kind != "move"
        and int(np.prod(graph.shapes[value])) == held.expected.size
    ]
    asked = sorted(asked, key=lambda value: abs(made[value] - uses[-1]))[:SEARCHED]
    wanted, eps = held.expected.ravel(), EPS[scene.dtype]
    moments = _moments(wanted)
    for value, x in fetch(set(asked)).items():
        x = np.asarray(x, np.float64).ravel()
        if not np.isfinite(x).all() or np.max(np.abs(_moments(x) - moments)) > 1e-2:
            continue
        if np.linalg.norm(np.sort(x) - np.sort(wanted)) <= 64 * eps * np.linalg.norm(wanted):
            line = graph.operations[made[value]].line
            if value != held.value:
                return (f"the right value is computed{f' ({line})' if line else ''}, but is not what is used here",)
    return ()


def _moments(x: np.ndarray) -> np.ndarray:
    """Numbers that do not depend on the order of the values: mean, deviation, skewness, beside the size of the values."""
    size = float(np.sqrt(np.mean(x * x))) or 1.0
    return np.array([np.log(size), x.mean() / size, np.mean((x / size) ** 3) / 10])

def inside_tap(*a, **k):
    raise NotImplementedError


"""Inside one wrong layer of a candidate: which of its steps are right, which is the first that is not, and how its value differs.

Each step is held against what the reference's step makes of the candidate's own values before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from scalablevit_ref.compare.altered import altered
from scalablevit_ref.compare.around import (
    Fetch,
    Probe,
    Scene,
    fed,
    input_words,
    known_vectors,
    left_out,
    listed,
    own_values,
    q_k_v,
    reference_settings,
    run_again,
    terms_of,
)
from scalablevit_ref.compare.capture.graph import ABSENT, Graph
from scalablevit_ref.compare.capture.uses import Use
from scalablevit_ref.compare.displaced import displaced
from scalablevit_ref.compare.followed import Followed, Held, Misfit, compared, moved_from
from scalablevit_ref.compare.misfits import misfit
from scalablevit_ref.compare.mistakes.layerwise import RIGHT, Local
from scalablevit_ref.compare.own_lines import elsewhere, lines_between, unreached
from scalablevit_ref.compare.reaching import Place, reach_of, sights
from scalablevit_ref.compare.reasoning.affine import UNNAMED_VECTOR
from scalablevit_ref.compare.reasoning.case import REFERENCE, THE_INPUT
from scalablevit_ref.compare.reasoning.difference import OPERATIONS, Difference
from scalablevit_ref.compare.reasoning.fits import fits
from scalablevit_ref.compare.reasoning.judge import tolerance
from scalablevit_ref.compare.reasoning.kinds import is_general, kinds_of_difference
from scalablevit_ref.compare.sample import Sample, sampled
from scalablevit_ref.compare.steps import INPUT, OUTPUT, Run, Step, feeds, run_layer
from scalablevit_ref.compare.undone import undone
from scalablevit_ref.compare.written_out import written_out
from scalablevit_ref.edits import Changes, Mistake
from scalablevit_ref.layers import IMAGES, Layer, mean
from scalablevit_ref.testing.arrays import EPS, NETWORK_TOLERANCE, Comparison, relative_l2

Words = Literal["right", "its input is wrong", "it is wrong", "not followed"]
Side = Literal["given", "made"]

NOWHERE: Mapping[str, int] = MappingProxyType({})


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

    Examples
    --------
    >>> StepRow("stages.0.0.attn.qkv", None, None, "not followed").words
    'not followed'
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
        What else was seen.
    sample
        A few numbers of the first wrong value, for the pictures; None where it is not known.
    more
        Other values of the layer that are wrong, which the first one does not account for.
    taken
        What the layer takes for its input, where that is the first wrong value: b h w c, or b c.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint, trace
    >>> from scalablevit_ref.testing import compare, random_images
    >>> found = load_checkpoint(digits.CHECKPOINT)
    >>> images = random_images((1, 1, 112, 112), dtype="float32")
    >>> port = trace(images, found.params, found.config)
    >>> port["logits"] = 2 * port["logits"]
    >>> [seen] = compare(port, weights=found, images=images).insides
    >>> seen.layer, seen.place, seen.explained
    ('logits', 'what it is made of is right, their sum is not', True)
    >>> seen.differences[0].words
    "the reference's value times 2"
    >>> seen.data()["differences"][0]["kind"]
    'affine'
    """

    layer: str
    rows: tuple[StepRow, ...]
    place: str
    line: str = ""
    differences: tuple[Difference, ...] = ()
    lines: tuple[str, ...] = ()
    step: str = ""
    notes: tuple[str, ...] = ()
    sample: Sample | None = field(default=None, repr=False, compare=False)
    more: tuple[Inside, ...] = ()
    taken: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def wrong(self) -> bool:
        """Whether the value is wrong, and known."""
        return self.sample is not None

    def explains_more_than(self, other: Inside) -> bool:
        """Whether something is said of this value that is not said of another one before it."""
        own, others = ({words.rpartition(": ")[2] for words in one.explanations} for one in (self, other))
        displaced = {one.data["displaced"] for one in other.explanations.values() if "displaced" in one.data}
        left_out = {one.data["left out"] for one in self.explanations.values() if "left out" in one.data}
        return not own & others and not displaced & left_out

    @property
    def explanations(self) -> dict[str, Difference]:
        """The differences that tell a cause and explain the whole wrong value, by their words."""
        return {one.words: one for one in self.differences if one.exact and not is_general(one)}

    @property
    def explained(self) -> bool:
        """Whether there is one."""
        return bool(self.explanations)

    @property
    def fitted(self) -> bool:
        """Whether one of these is more than the operations that ran."""
        return any(one.kind != OPERATIONS for one in self.explanations.values())

    @property
    def exact(self) -> bool:
        """Whether a difference explains the whole wrong value."""
        return any(difference.exact for difference in self.differences)

    def data(self) -> dict[str, Any]:
        """As plain data, for the JSON."""
        return {
            "layer": self.layer,
            "steps": [{"step": r.step, "given": _error(r.given), "made": _error(r.made), "words": r.words} for r in self.rows],
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
    tapped: Mapping[str, int] = NOWHERE,
    probe: Probe | None = None,
    sizes: Mistake = RIGHT,
    late: Collection[str] = (),
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
        The uses of the candidate's parameters by the reference's steps; their outputs are put side by side.
    fetch
        Gives the candidate's values.
    dtype
        What the candidate computed in.
    tolerance
        In eps of `dtype`, ‖Δ‖ / ‖reference‖; by default `NETWORK_TOLERANCE`.
    tapped
        The values that are layers' outputs in the graph, by the layers' names, where they are known.
    probe
        Runs the candidate again with some of its values changed, where nothing else tells what is wrong; None where it cannot.
    sizes
        What is known of this layer: that parameters have other sizes than the reference's.
    late
        Steps whose bias is added behind them.
    """
    layer, bound = local.table()[name], NETWORK_TOLERANCE[dtype] if tolerance is None else tolerance
    x, params, changes, sources = _as_sized(local, name, sizes)
    uses = {step: tuple(steps.get(step, ())) for step in sources if step != OUTPUT}
    before = {use.given: moved_from(graph, use) for some in uses.values() for use in some}
    wanted = {value for some in uses.values() for use in some for value in (use.made, *before[use.given])}
    fetched = {graph.images: local.images} | dict(fetch(wanted - {graph.images}))
    behind = {step: local.params[f"{step}.bias"] for step in late if step in uses}
    own = Followed(uses, before, fetched, _windows(layer), dtype, behind)
    with np.errstate(all="ignore"):
        run = run_layer(layer, x, params, own, changes)
    sized = {key: change(local.params[key]) for key, change in sizes.params if key in local.params}
    acting: dict[str, tuple[str, ...]] = {}
    for step, some in steps.items():
        for weight in (weight for use in some for weight in (use.weight, use.bias) if weight):
            acting[weight] = (*acting.get(weight, ()), step)
    scene = Scene(local, layer, x, run, sources, own, dtype, graph, fetch, tapped, probe, sized=sized, acting=acting)
    rows = _rows(scene, bound)
    places = _wrong(run, own, bound)
    taken = _taken(scene, places)
    alone = taken is not None and _gives(layer, taken, params, changes, actual, bound * EPS[dtype])
    found = [_at_a_step(scene, rows, run[step], side) for step, side in places[: 1 if alone else None]]
    found = [found[0], *(one for one in found[1:] if not _has_more_before(scene, one.step))] if found else []
    last = _at_the_end(scene, rows, actual, bound)
    found += [last] if not found or (last.wrong and not alone) else []
    found[0] = replace(found[0], taken=taken)
    plain = run_layer(layer, x, params, None, changes)
    if actual is not None and (len(found) > 1 or _is_left_out(found[0]) or (found[0].wrong and not found[0].fitted)):
        moved = displaced(layer, x, params, plain, actual, EPS[dtype], changes)
        if moved:
            return replace(found[0], differences=tuple(moved))
    found[0] = _with_reach(scene, found[0], Place(*places[0]) if places else Place(OUTPUT, "made"))
    first, more = found[0], tuple(one for one in found[1:] if one.explains_more_than(found[0]))
    if first.step and not all(one.fitted for one in more):
        first = _not_here(first, scene.spoken(first.step))
    if first.exact or actual is None or not _is_hidden(scene, rows):
        return replace(first, more=more)
    given = own_values(scene, run.steps[0].name, tapped.get(name, ABSENT))
    whole = altered(layer, x, params, plain, actual, given, EPS[dtype], changes)
    whole = whole or _of_an_input_made_again(scene, params, actual, changes)
    if whole:
        return replace(first, differences=_ordered([*whole, *first.differences]))
    return replace(first, more=more)


def _taken(scene: Scene, places: Sequence[tuple[str, Side]]) -> np.ndarray | None:
    """What the layer takes, in the layout of its input, if that is the first wrong value and is known."""
    if not places or places[0][1] != "given" or scene.sources[places[0][0]] != (INPUT,) or scene.layer.sources == (IMAGES,):
        return None
    held = scene.own.inputs[places[0][0]]
    return None if held.turned or held.actual.shape != scene.x.shape else held.actual


def _gives(
    layer: Layer, x: np.ndarray, params: Mapping[str, np.ndarray], changes: Changes, actual: np.ndarray | None, allowed: float
) -> bool:
    """Whether the reference's layer makes this output of x."""
    return actual is not None and relative_l2(run_layer(layer, x, params, None, changes).output, actual) <= allowed


def _of_an_input_made_again(
    scene: Scene, params: Mapping[str, np.ndarray], actual: np.ndarray, changes: Changes
) -> list[Difference]:
    """The same where the input is not known: by what the layer makes of it."""
    if len(scene.layer.sources) != 1 or scene.layer.sources == (IMAGES,):
        return []
    for words, x in run_again(scene.local, scene.layer.sources[0], scene.x):
        if x.shape == scene.x.shape:
            left = relative_l2(run_layer(scene.layer, x, params, None, changes).output, actual)
            if left <= tolerance(EPS[scene.dtype]):
                return [Difference("again", words, left, exact=True)]
    return []


def _not_here(found: Inside, step: str) -> Inside:
    """The same where something behind it is wrong too: what is missing here may be done there."""
    clauses = (replace(one, words=one.words.replace(" is left out", f" does not come before {step}")) for one in found.differences)
    return replace(found, differences=tuple(clauses))


def _is_hidden(scene: Scene, rows: Sequence[StepRow]) -> bool:
    """Whether there is a step of which not all is known."""
    unfed = any(step.has_parameters and step.name not in scene.own.inputs for step in scene.run.steps)
    return unfed or any(row.words == "not followed" for row in rows)


def _is_left_out(found: Inside) -> bool:
    """Whether something seems to be left out, which may be done elsewhere in the layer."""
    return any(one.exact and (one.kind == "offset" or "left out" in one.words) for one in found.differences)


def _as_sized(
    local: Local, name: str, sizes: Mistake
) -> tuple[np.ndarray, Mapping[str, np.ndarray], Changes, Mapping[str, tuple[str, ...]]]:
    """What a layer is fed, its parameters in the candidate's sizes if it runs with these, how, and what its steps are made of."""
    layer, x, params = local.table()[name], fed(local, name), local.own_params(name)
    own = {key: change(params[key]) for key, change in sizes.params if key in params}
    if own:
        with suppress(KeyError, ValueError):
            return x, params | own, sizes.changes, feeds(layer, x[:1], params | own, sizes.changes)
    return x, params, (), feeds(layer, x[:1], params)


def _with_reach(scene: Scene, found: Inside, place: Place) -> Inside:
    """With what moves where a right value is changed, unless exactly one thing explains the layer that is more than what ran."""
    if sum(one.exact and not is_general(one) and one.kind != OPERATIONS for one in found.differences) == 1:
        return found
    other, usual = reach_of(scene, place)
    return replace(found, differences=_ordered([*other, *found.differences, *usual]))


def _windows(layer: Layer) -> set[int]:
    """Sizes of the tiles into which a candidate may cut the layer's maps."""
    return {p for key in ("window_size", "sr_ratio", "s") if (p := layer.settings.get(key)) is not None and p > 1}


# Which step


def _is_right(comparison: Comparison | None, bound: float) -> bool:
    return comparison is not None and comparison.error <= bound


def _is_wrong(comparison: Comparison | None, bound: float) -> bool:
    return comparison is not None and not comparison.error <= bound


def _wrong(run: Run, own: Followed, bound: float) -> list[tuple[str, Side]]:
    """All wrong values, each of which the candidate's own values before it do not account for."""
    found: list[tuple[str, Side]] = []
    for step in run.steps:
        if step.name in own.inputs and _is_wrong(own.inputs[step.name].comparison, bound):
            found.append((step.name, "given"))
        if step.name in own.outputs and _is_wrong(own.outputs[step.name].comparison, bound):
            found.append((step.name, "given" if _sees_turned(step, own) else "made"))
    return [place for i, place in enumerate(found) if place not in found[:i] and not _is_taken_before(place, found[:i], own)]


def _is_taken_before(place: tuple[str, Side], before: Sequence[tuple[str, Side]], own: Followed) -> bool:
    """Whether what a step is wrongly given is what another one before it is, where the reference feeds both the same."""
    step, side = place
    if side != "given" or step not in own.inputs:
        return False
    mine = own.inputs[step]
    others = (own.inputs[name] for name, other in before if other == "given" and name in own.inputs)
    return any(np.array_equal(mine.expected, other.expected) and np.array_equal(mine.actual, other.actual) for other in others)


def _sees_turned(step: Step, own: Followed) -> bool:
    """Whether the order of rows and columns counts for a step, and its input has H and W swapped, the numbers being right."""
    return step.op == "conv2d" and step.name in own.inputs and own.inputs[step.name].turned


def _rows(scene: Scene, bound: float) -> tuple[StepRow, ...]:
    given = {name: held.comparison for name, held in scene.own.inputs.items()}
    made = {name: held.comparison for name, held in scene.own.outputs.items()}
    words: dict[str, Words] = {}
    for step in scene.run.steps:
        if _is_wrong(given.get(step.name), bound) or (_is_wrong(made.get(step.name), bound) and _sees_turned(step, scene.own)):
            words[step.name] = "its input is wrong"
        elif _is_wrong(made.get(step.name), bound):
            words[step.name] = "it is wrong"
        else:
            words[step.name] = "right" if step.name in made else "not followed"
    for step in scene.run.steps:  # one without parameters shows in what the next one is given
        if not step.has_parameters:
            after = {name: taken for name, taken in scene.sources.items() if step.name in taken and not unreached(scene, name)}
            if any(_is_right(given.get(name), bound) for name in after):
                words[step.name] = "right"
            elif any(_is_wrong(given.get(name), bound) and _others_right(taken, step.name, words) for name, taken in after.items()):
                words[step.name] = "it is wrong"
    return tuple(StepRow(step.name, given.get(step.name), made.get(step.name), words[step.name]) for step in scene.run.steps)


def _others_right(sources: Sequence[str], step: str, words: Mapping[str, Words]) -> bool:
    return all(words.get(name) == "right" for name in sources if name not in (step, INPUT))


# Where, in words


def _right_before(scene: Scene, rows: Sequence[StepRow], step: str) -> list[str]:
    """The steps before this one that are right."""
    names = []
    for row in rows:
        if row.step == step:
            break
        if row.words == "right":
            names.append(scene.spoken(row.step))
    return names


def _are(names: Sequence[str]) -> str:
    return f"{listed(names)} {'are' if len(names) > 1 else 'is'} right" if names else ""


def _place(scene: Scene, rows: Sequence[StepRow], step: str, side: Side) -> str:
    named, right = scene.spoken(step), _right_before(scene, rows, step)
    before = f"{_are(right)}; " if right else ""
    if side == "made":
        fine = f"what enters {named} is right, " if step in scene.own.inputs else ""
        return f"{before}{fine}what {named} makes of it is not"
    if missing := unreached(scene, step):
        return f"{before}what enters {named} is made without what {listed(map(scene.spoken, missing))} gives"
    known = {row.step for row in rows if row.words == "right"} | {INPUT}
    unknown = [scene.spoken(name) for name in scene.sources[step] if name not in known]
    if unknown:
        return f"{before}what enters {named}, {listed(unknown)} {'between them' if right else 'before it'}, is not"
    if scene.sources[step] == (INPUT,):
        return f"{before}what enters {named} is not {input_words(scene)}"
    sources = [scene.spoken(name) for name in scene.sources[step] if name != INPUT]
    if len(sources) == 1 and scene.run[step].given.shape == scene.run[scene.sources[step][-1]].made.shape:
        return f"{before}what enters {named} is not what {sources[0]} gives"
    return f"{before}what enters {named} is not made of {listed(sources)} as in the reference"


def _all_right(scene: Scene, rows: Sequence[StepRow]) -> str:
    """Which steps are right, as the beginning of a sentence, and which cannot be followed."""
    right = [scene.spoken(row.step) for row in rows if row.words == "right"]
    absent = [scene.spoken(step) for step in _absent(scene)]
    lost = [scene.spoken(row.step) for row in rows if row.words == "not followed" and scene.spoken(row.step) not in absent]
    if not right:
        return "its steps cannot be followed"
    beside = [f"{listed(lost)} cannot be followed"] if lost else []
    beside += [f"nothing runs at the place of {listed(absent)}"] if absent else []
    return f"{_are(right)} ({', '.join(beside)})" if beside else _are(right)


def _absent(scene: Scene) -> list[str]:
    """Steps whose parameters act on nothing."""
    return [step.name for step in scene.run.steps if step.has_parameters and not scene.own.uses.get(step.name)]


# Findings


def _at_a_step(scene: Scene, rows: tuple[StepRow, ...], step: Step, side: Side) -> Inside:
    held = (scene.own.inputs if side == "given" else scene.own.outputs)[step.name]
    given = own_values(scene, step.name, held.value)
    told = any(one.exact for one in _misfits(scene, step.name))  # of what comes before, so that this is a consequence
    differences = () if told else _differences(scene, held.actual, held.expected, step, side, given, EPS[scene.dtype])
    differences = tuple(_without(scene, step.name, one) for one in differences)
    return _found(scene, rows, _place(scene, rows, step.name, side), step.name, held, differences)


def _without(scene: Scene, step: str, difference: Difference) -> Difference:
    """The same difference, said with the steps that act nowhere and that lie before this one."""
    names = [one.name for one in scene.run.steps]
    before = [scene.spoken(name) for name in _absent(scene) if names.index(name) < names.index(step)]
    if not before or not difference.exact or not difference.words.startswith("it is "):
        return difference
    return replace(difference, words=f"{listed(before)} {'are' if before[1:] else 'is'} left out: {difference.words}")


def _at_the_end(scene: Scene, rows: tuple[StepRow, ...], actual: np.ndarray | None, bound: float) -> Inside:
    """Every step that can be followed is right."""
    expected = scene.run.output
    if actual is None or actual.shape != expected.shape:
        return _found(scene, rows, f"{_all_right(scene, rows)}; its output is not known", "", None, ())
    held = Held(scene.tapped.get(scene.layer.name, ABSENT), actual, expected, compared(actual, expected, scene.dtype))
    if _is_right(held.comparison, bound):
        return _found(scene, rows, f"{_all_right(scene, rows)}, and so is what the layer gives", "", None, ())
    if rows:
        place = f"{_all_right(scene, rows)}; what the layer gives is not"
    else:
        place = "what it is made of is right, their sum is not" if len(scene.layer.sources) > 1 else "it is not what it is made of"
    given = own_values(scene, None, held.value) | _twice(scene)
    eps = EPS[scene.dtype]
    terms = terms_of(scene, OUTPUT, expected)
    given = {**given, **{name: x for name, x in terms.items() if name not in given}}
    kinds = (_of_a_residual(one, terms) for one in _kinds(scene, actual, expected, given, eps))
    differences = left_out(scene, OUTPUT, actual, given, eps) or list(kinds)
    if not any(one.exact and not is_general(one) for one in differences):
        differences = [*_of_itself_again(scene, actual, expected, eps), *differences]
    if not any(one.exact and not is_general(one) for one in differences):
        differences = [*_of_a_branch(scene, OUTPUT, actual, expected, given, eps), *differences]
    return _found(scene, rows, place, "", held, _ordered(differences))


def _twice(scene: Scene) -> dict[str, np.ndarray]:
    """What the only step of a layer makes of its own output."""
    steps = [step for step in scene.run.steps if step.has_parameters]
    if len(steps) != 1 or steps[0].made.shape != steps[0].given.shape:
        return {}
    made = scene.effective(steps[0].name)
    return {f"{scene.spoken(steps[0].name)}, applied twice,": steps[0].function(made)}


def _found(
    scene: Scene, rows: tuple[StepRow, ...], place: str, step: str, held: Held | None, differences: tuple[Difference, ...]
) -> Inside:
    notes: tuple[str, ...] = (f"inside {scene.layer.name} H and W are swapped",) if scene.own.layouts.turned else ()
    line, lines = "", tuple[str, ...]()
    sample = None if held is None else sampled(held.actual, held.expected)
    if held is not None and held.value in scene.graph.shapes:
        right = {row.step for row in rows if row.words == "right"}
        line, lines = lines_between(scene, held.value, right, addend=bool(step))
        if not any(difference.exact for difference in differences):
            notes += elsewhere(scene, held)
        consequence = any(one.exact for one in _misfits(scene, step))
        if not consequence and all(_says_less(difference) for difference in differences if difference.exact):
            written = written_out(scene, held, step)
            differences = _ordered([*(() if written is None else (written,)), *differences])
    return Inside(scene.layer.name, rows, place, line, (*_misfits(scene, step), *differences), lines, step, notes, sample)


def _has_more_before(scene: Scene, step: str) -> bool:
    """Whether a step before this one is wrong, and gives more numbers than the reference's: what follows goes on with all."""
    for one in scene.run.steps:
        if one.name == step:
            return False
        held = scene.own.outputs.get(one.name)
        if held is not None and held.comparison.error * EPS[scene.dtype] > HALF and len(held.pieces) == 1:
            piece = held.pieces[0]
            if piece.rows is None and prod(scene.graph.shapes[piece.value]) > held.actual.size:
                return True
    return False


HALF = 0.5
"""Relative error of a value that is another one."""


def _says_less(difference: Difference) -> bool:
    """Whether the operations that ran say more: of numbers without a name, and of fractions of several values."""
    fractions = [factor for factor in difference.data.get("sum", {}).values() if not float(factor).is_integer()]
    return is_general(difference) or UNNAMED_VECTOR in difference.words or len(fractions) > 1


def _misfits(scene: Scene, step: str) -> tuple[Difference, ...]:
    """What is said of steps before this one whose values have another shape than the reference's; of the first if that is clear."""
    found: list[Difference] = []
    for one in scene.run.steps:
        if one.name == step or (found and found[0].exact):
            break
        if one.name in scene.own.misfits and one.name not in scene.own.outputs:
            value = scene.own.misfits[one.name]
            said = misfit(scene.spoken(one.name), value, EPS[scene.dtype])
            found += [] if found or said.exact else _of_another_stride(scene, one, value)
            found.append(said)
    return tuple(found[:1] if found and found[0].exact else found)


def _of_another_stride(scene: Scene, step: Step, found: Misfit) -> list[Difference]:
    """Settings of a convolution that give an output of another size."""
    weight, bias = step.params.get("weight"), step.params.get("bias")
    if step.op != "conv2d" or weight is None or found.actual.ndim != 4 or found.expected.shape != step.made.shape:
        return []
    held = scene.own.inputs.get(step.name)
    sources = {"x": step.given if held is None else held.actual, "weight": weight} | ({} if bias is None else {"bias": bias})
    axes = [axis for axis, size in enumerate(found.actual.shape) if size == found.expected.shape[-1]]
    maps = (np.moveaxis(np.asarray(found.actual, np.float64), axis, -1) for axis in axes)
    maps = (x for x in maps if len(x) == len(step.given))
    fitted = [one for x in maps for one in fits("convolution", x, sources, dict(step.settings), eps=EPS[scene.dtype], budget=FEW)]
    return [replace(one, words=f"in {scene.spoken(step.name)}, {one.words}") for one in fitted if one.exact]


def _kinds(
    scene: Scene, actual: np.ndarray, expected: np.ndarray, given: Mapping[str, np.ndarray], eps: float, **parameters: Any
) -> list[Difference]:
    settings = reference_settings(scene)
    heads, window = settings.get("num_heads"), settings.get("window_size")
    known = known_vectors(scene.local, scene.layer.name)
    return kinds_of_difference(
        actual, expected, given=given, num_heads=heads, window_size=window, vectors=known, eps=eps, **parameters
    )


KINDS = {"linear": "linear", "conv2d": "convolution", "layer_norm": "norm"}
"""The words of `fits` for the steps that have parameters."""


def _differences(
    scene: Scene,
    actual: np.ndarray,
    expected: np.ndarray,
    step: Step,
    side: Side,
    given: Mapping[str, np.ndarray],
    eps: float,
) -> tuple[Difference, ...]:
    """How a step's input or output differs: settings of its operation that give it, and its kinds."""
    if side == "given":
        return _of_an_input(scene, actual, expected, step, given, eps)
    held = scene.own.inputs.get(step.name)
    x = step.given if held is None else held.actual
    weight, bias = step.params.get("weight"), step.params.get("bias")
    sources = {name: value for name, value in (("x", x), ("weight", weight), ("bias", bias)) if value is not None}
    fitted = fits(KINDS[step.op], actual, sources, dict(step.settings), eps=eps)
    names = ("gain", "shift") if step.op == "layer_norm" else ("weight", "bias")
    parameters = dict(zip(names, (weight, bias), strict=True))
    kinds = _kinds(scene, actual, expected, {THE_INPUT: x, **given}, eps, **parameters)
    if any(one.exact for one in fitted):
        kinds = [one for one in kinds if not (one.exact and is_general(one))]
    return _ordered([*fitted, *kinds])


def _of_an_input(
    scene: Scene, actual: np.ndarray, expected: np.ndarray, step: Step, given: Mapping[str, np.ndarray], eps: float
) -> tuple[Difference, ...]:
    """How a step's input differs: in kind, or one of the values that it is a sum of; by settings of an attention before it."""
    held = scene.own.inputs.get(step.name)
    if held is not None and _sees_turned(step, scene.own):
        words = f"H and W are swapped in what enters {scene.spoken(step.name)}"
        left = held.comparison.error * EPS[scene.dtype]
        return (Difference("places", words, left, {"pattern": "H and W are swapped"}, exact=True),)
    if found := left_out(scene, step.name, actual, given, eps):
        return _ordered(found)
    if found := _normed_before(scene, actual, expected, step, eps):
        return _ordered(found)
    terms = terms_of(scene, step.name, expected)
    found = _fitted_pool(scene, actual, eps) if scene.sources.get(step.name) == (INPUT,) else []
    given = {**given, **{name: x for name, x in terms.items() if name not in given}}
    kinds = [_of_a_residual(one, terms) for one in _kinds(scene, actual, expected, given, eps)]
    found += [_of_images(scene, step.name, _of_another_value(scene, step.name, one)) for one in kinds]
    if not any(one.exact and not is_general(one) for one in found):
        found = [*_of_a_second_run(scene, actual, eps), *found]
    if not any(one.exact for one in found):
        found += _of_a_branch(scene, step.name, actual, expected, given, eps)
    exact = [one for one in found if one.exact]
    if all(
        one.kind in ("places", "mixture") or is_general(one) for one in exact
    ):  # what an attention's own settings may say better
        named = any(not is_general(one) for one in exact) or (
            held is not None and (written := written_out(scene, held, step.name)) is not None and written.exact
        )
        fitted = _fitted_attention(scene, actual, step, eps, FEW if named else MANY)
        if any(one.exact for one in fitted):
            found = [one for one in found if not (one.exact and is_general(one))]
        found = [*fitted, *found]
    return _ordered(found)


def _of_a_second_run(scene: Scene, actual: np.ndarray, eps: float) -> list[Difference]:
    """Where what enters a layer is what the layers before it make of their own output."""
    if len(scene.layer.sources) != 1 or scene.layer.sources == (IMAGES,):
        return []
    for words, x in run_again(scene.local, scene.layer.sources[0], scene.x):
        left = relative_l2(x, actual) if x.shape == actual.shape else np.inf
        if left <= tolerance(eps):
            return [Difference("again", words, left, exact=True)]
    return []


def _of_itself_again(scene: Scene, actual: np.ndarray, expected: np.ndarray, eps: float) -> list[Difference]:
    """Where what a layer gives is what it, and layers before it, make of its output."""
    for words, x in run_again(scene.local, scene.layer.name, expected):
        left = relative_l2(x, actual) if x.shape == actual.shape else np.inf
        if left <= tolerance(eps):
            return [Difference("again", words, left, exact=True)]
    return []


def _normed_before(scene: Scene, actual: np.ndarray, expected: np.ndarray, step: Step, eps: float) -> list[Difference]:
    """A norm of another width that acts before a step, though the reference has it behind."""
    order = {name: min(use.operation for use in uses) for name, uses in scene.own.uses.items() if uses}
    found = []
    for norm in scene.run.steps:
        gain, shift = (scene.sized.get(f"{norm.name}.{leaf}") for leaf in ("weight", "bias"))
        if norm.op == "layer_norm" and gain is not None and order.get(norm.name, ABSENT) < order.get(step.name, ABSENT):
            for one in _kinds(scene, actual, expected, {}, eps, gain=gain, shift=shift):
                if one.exact and one.kind == "norm":
                    words = f"{scene.spoken(norm.name)} acts before {scene.spoken(step.name)}, not after it"
                    found.append(replace(one, words=words, data={**one.data, "displaced": scene.spoken(norm.name)}))
    return found


def _of_another_value(scene: Scene, step: str, difference: Difference) -> Difference:
    """The same difference, said of the step, where what enters it is another value as it is: "v takes what k gives"."""
    total = difference.data.get("sum", {})
    if not difference.exact or len(total) != 1 or difference.words != f"it is {next(iter(total))}":
        return difference
    usual = {"LIM": "v"}.get(scene.spoken(step))
    sources = scene.sources[step]
    if usual is None and len(sources) == 1:
        usual = input_words(scene) if sources[0] == INPUT else f"what {scene.spoken(sources[0])} gives"
    instead = f", not {usual}" if usual else ""
    return replace(difference, words=f"{scene.spoken(step)} takes {next(iter(total))}{instead}")


def _of_images(scene: Scene, step: str, difference: Difference) -> Difference:
    """The same difference, said of the images where it is they that are scaled and shifted."""
    if scene.layer.sources != (IMAGES,) or scene.sources[step] != (INPUT,) or difference.kind != "affine":
        return difference
    return replace(difference, words=f"the images are normalised otherwise, or once more: {difference.words}")


def _of_a_residual(difference: Difference, terms: Mapping[str, np.ndarray]) -> Difference:
    """The same difference, said with the word residual where what a sum of a branch and its input lacks is that input."""
    total = difference.data.get("sum", {})
    residual = next((name for name in RESIDUALS if name in terms), None)
    if not difference.exact or residual is None or (residual in total and total.get(REFERENCE) != 1):
        return difference
    if total == {REFERENCE: 1.0, residual: -1.0}:
        return replace(difference, words=f"the residual is missing: {residual} is not added")
    if difference.words in (f"it is {name}" for name in terms):
        return replace(difference, words=f"{difference.words} alone: the residual is missing")
    return replace(difference, words=difference.words.replace(f"{residual} is missing", f"the residual, {residual}, is missing"))


RESIDUALS = ("x before the block", "x after the attention")
"""Values that a branch is added to."""


def _of_a_branch(
    scene: Scene, step: str, actual: np.ndarray, expected: np.ndarray, given: Mapping[str, np.ndarray], eps: float
) -> list[Difference]:
    """Where a value is a sum of others: the kind of difference of one of them, the rest being right."""
    found = []
    terms = terms_of(scene, step, expected)
    for name, branch in terms.items():
        own = actual - (expected - branch)
        growth = max(1.0, float(np.linalg.norm(actual)) / (float(np.linalg.norm(own)) or 1.0))
        rest = {other: x for other, x in given.items() if other not in terms and not np.array_equal(x, expected)}
        for one in _kinds(scene, own, branch, rest, growth * eps):
            if one.exact:
                words = f"of the sum only {name} is wrong: {one.words.replace(REFERENCE, 'it')}"
                found.append(replace(one, words=words, left=one.left / growth, data={**one.data, "branch": name}))
    return sorted(found, key=is_general)[:2]


FEW, MANY = 400, 4000
"""Hypotheses of an attention that are tried: single changes where the kind of difference is known, and pairs where it is not."""


def _fitted_pool(scene: Scene, actual: np.ndarray, eps: float) -> list[Difference]:
    """Where a mean over tokens lies before the layer: another pooling that gives what enters it."""
    table = scene.local.table()
    pooled = [name for name in scene.layer.sources if name in table and table[name].function is mean]
    return [one for name in pooled for one in fits("pool", actual, {"x": fed(scene.local, name)}, {}, eps=eps)]


def _fitted_attention(scene: Scene, actual: np.ndarray, step: Step, eps: float, budget: int) -> list[Difference]:
    """Where an attention lies before a step: settings of it that give what enters the step."""
    sources = scene.sources.get(step.name, ())
    attention = next((one for one in scene.run.steps if one.op == "attention" and one.name in sources), None)
    if attention is None or actual.ndim != 4:
        return []
    settings, found = reference_settings(scene), q_k_v(scene)
    lim = next((name for name in sources if scene.spoken(name) == "LIM"), None)
    if lim is not None:
        found["lim"] = scene.effective(lim)
    if scene.x.shape == actual.shape:
        found["x"] = scene.x
    if not {"q", "k", "v"} <= found.keys():
        return []
    kind = "window attention" if "window_size" in settings else "attention"
    measure = partial(sights, scene, step.name)
    return fits(kind, actual, found, {**settings, **attention.settings}, eps=eps, budget=budget, measure=measure)


def _ordered(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """What explains first, and nothing twice."""
    found = {difference.words: difference for difference in differences}
    return tuple(sorted(found.values(), key=lambda difference: not difference.exact))


# Without a graph


def inside_tap(name: str, local: Local, actual: np.ndarray, *, dtype: str) -> Inside:
    """A layer of a candidate of which only what goes in and what comes out is known, as of a trace.

    The reference's steps are run on the candidate's input. Where the last one can be undone, as a Linear to no fewer channels can,
    what the candidate must have fed it is held against the reference's: so an attention shows that lies behind `proj`.

    Parameters
    ----------
    name, local, dtype
        As of `inside`.
    actual
        The candidate's output of the layer: b h w c, or b c.
    """
    layer, params, x = local.table()[name], local.own_params(name), fed(local, name)
    sources = feeds(layer, x[:1], params)
    with np.errstate(all="ignore"):
        run = run_layer(layer, x, params)
    rows = tuple(StepRow(step.name, None, None, "not followed") for step in run.steps)
    own = Followed({}, {}, {}, (), dtype)
    nothing = Graph((), {}, {}, ABSENT, {}, {}, {})
    scene = Scene(local, layer, x, run, sources, own, dtype, nothing, lambda values: {}, NOWHERE)
    last = [run[step] for step in sources[OUTPUT] if step != INPUT]
    given, eps = own_values(scene, last[0].name if last else None, ABSENT), EPS[dtype]
    whole = _kinds(scene, actual, run.output, given, eps)
    if len(last) != 1 or last[0].made.shape != actual.shape:
        place = "its steps cannot be followed" if rows else "what it is made of is right, their sum is not"
        return Inside(name, rows, place, differences=_ordered(whole), sample=sampled(actual, run.output))
    step = last[0]
    made = actual - (run.output - step.made)  # without what the layer adds to its last step, as a position encoding adds its input
    at_step = _differences(scene, made, step.made, step, "made", given, eps)
    whole = list(_ordered([*whole, *at_step] if INPUT in sources[OUTPUT] else at_step))
    named = scene.spoken(step.name)
    place = f"its steps cannot be followed; what {named} gives is wrong, or what enters it"
    if not any(difference.exact for difference in whole):
        changed = altered(layer, x, params, run, actual, own_values(scene, run.steps[0].name, ABSENT), eps)
        if changed:
            place, sample = "its steps cannot be followed; its output is wrong", sampled(actual, run.output)
            return Inside(name, rows, place, differences=_ordered([*changed, *whole]), sample=sample)
    back = None if any(difference.exact for difference in whole) else undone(step, made)
    if back is None:
        return Inside(name, rows, place, differences=tuple(whole), step=step.name, sample=sampled(made, step.made))
    z, growth = back
    behind = _differences(scene, z, step.given, step, "given", own_values(scene, step.name, ABSENT), growth * eps)
    if any(difference.exact for difference in behind):
        between = [scene.spoken(source) for source in sources[step.name] if source != INPUT]
        place = f"with {named} undone, what enters it{f', {listed(between)} before it,' if between else ''} is wrong"
        return Inside(name, rows, place, differences=_ordered(behind), step=step.name, sample=sampled(z, step.given))
    return Inside(name, rows, place, differences=_ordered([*whole, *behind]), step=step.name, sample=sampled(made, step.made))

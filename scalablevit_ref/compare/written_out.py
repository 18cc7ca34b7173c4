"""What a candidate computes where no difference explains a wrong value: its operations since the last right ones, written out.

Nothing is guessed here: the operations are those that ran. The values that are known have names, as what a layer gives, q, the
logits, the softmax; and the axes of what is made of them are called after theirs, however the candidate has laid them out:
"softmax over the windows of (q · k × 0.25), times v".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from scalablevit_ref.compare.around import Scene, listed, what_gives
from scalablevit_ref.compare.capture.graph import ABSENT, Graph, Operation, fed_by_images, makers, sources, unmoved
from scalablevit_ref.compare.followed import Held
from scalablevit_ref.compare.reasoning.difference import OPERATIONS, Difference
from scalablevit_ref.compare.steps import INPUT, OUTPUT
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.testing.arrays import EPS

MOST_OPERATIONS = 120
"""Most operations between the known values and the wrong one that are written out."""

LONGEST = 200
"""Longest formula, in characters. Parts of a longer one get names; if it is too long then too, its operations are listed."""

LONGEST_PART = 120
"""Longest part that gets a name, in characters."""

GATE = "one half gates the other (a gated linear unit)"

PARTS = ("y", "z", "s", "t", "u")
"""The names that parts of a long formula get, one after the other."""

MOST_LISTED = 8
"""Most operations of such a list."""

SEEN = 96
"""Most values that are looked at for those that are known."""

LARGEST = 4_000_000
"""Numbers of the largest value that is looked at."""

HIDDEN = -1e4
"""Largest number that, added to a logit, hides it."""

GENERIC = 0.02
"""Share of the places whose number may be taken for another one of nearly the same size, when axes are named."""

MAP = ("the batch", "the rows", "the columns", "the channels")
"""What the axes of a map b h w c are called."""


@dataclass(frozen=True)
class Known:
    """A value that has a name.

    Attributes
    ----------
    words
        The name.
    numbers
        What it holds, in any layout; times a factor, where `scaled`.
    axes
        What the axes of `numbers` are called.
    scaled
        Whether the value may be these numbers times any factor.
    """

    words: str
    numbers: np.ndarray
    axes: tuple[str, ...]
    scaled: bool = False


def written_out(scene: Scene, held: Held, step: str) -> Difference | None:
    """The candidate's operations from the values that are known to a wrong one; None where there are too many, or none.

    It is exact where all of them are told: nothing else ran. `step` is the one that the value enters, or that makes it; empty for
    the layer's own output.
    """
    key = OPERATIONS, held.value, step
    if key not in scene.found:
        scene.found[key] = _written_out(scene, held, step)
    found: Difference | None = scene.found[key]
    return found


def _written_out(scene: Scene, held: Held, step: str) -> Difference | None:
    graph = scene.graph
    own = [use.made for use in scene.own.uses.get(step, ())]
    values = own if held.value in own else [held.value]
    if any(value not in graph.shapes for value in values):
        return None
    roots = _roots(scene, values)
    between = sorted({i for value in values for i in _between(graph, value, roots)})
    operations = [i for i in between if graph.operations[i].kind != "move"]
    if not between or len(between) > MOST_OPERATIONS or (held.value in own and len(operations) < 2):
        return None
    writer = _Writer(scene, values, roots, _inner(scene, step), between)
    short = scene.spoken(step) if step else ""
    formula, parts = writer.sentence(short if set(short) <= set("qkv") else "")
    whole = len(formula) <= LONGEST and not writer.elsewhere and not _is_usual(scene, operations, step, held.value in own)
    if len(formula) <= LONGEST:
        where = f", where {listed(f'{name} = {words}' for name, words in parts.items())}" if parts else ""
        right = "" if held.value in own else _reference(scene, step)
        but = "".join(f"{words}; " for words in writer.elsewhere)
        moves = [] if operations else [writer.move(i) for i in between[-MOST_LISTED:]]
        moved = f", its numbers in other places: {listed(dict.fromkeys(moves))}" if moves else ""
        more = "".join(f"; {words}" for words in writer.remarks)
        words = f"{but}written out, it is {formula}{moved}{where}{f'; in the reference {right}' if right else ''}{more}"
    elif operations:
        words = f"it is made by {listed(dict.fromkeys(writer.listed(i) for i in operations[-MOST_LISTED:]))}"
    else:
        return None
    names = [graph.operations[i].name for i in operations]
    left = 0.0 if whole else held.comparison.error * EPS[scene.dtype]
    return Difference(OPERATIONS, words, left, {"operations": names}, exact=whole)


def _is_usual(scene: Scene, operations: Sequence[int], step: str, made: bool) -> bool:
    """Whether nothing ran but a step's own product and the sum with its bias, of no parameter that another step has too."""
    weights = [use.weight for uses in scene.own.uses.values() for use in uses]
    shared = any(weights.count(use.weight) > 1 for use in scene.own.uses.get(step, ()))
    kinds = sorted(scene.graph.operations[i].kind for i in operations)
    return made and not shared and kinds in (["product"], ["add", "product"], ["convolution"], ["add", "convolution"])


def _reference(scene: Scene, step: str) -> str:
    """What the reference has there, likewise written out; empty where it is one value alone."""
    found = []
    for source in scene.sources.get(step or OUTPUT, ()):
        if source == INPUT:
            found += [what_gives(scene.local, scene.layer.name, layer) for layer in scene.layer.sources if layer != IMAGES]
        elif scene.run[source].op == "attention":
            found.append(f"(softmax over the keys of q · k × {scene.run[source].settings['scale']:.3g}) · v")
        else:
            found.append(f"{scene.spoken(source)}'s output")
    return " + ".join(found) if len(found) > 1 or any("softmax" in words for words in found) else ""


def _between(graph: Graph, value: int, roots: Collection[int]) -> list[int]:
    """The operations, by their places, from the roots to a value."""
    made, fed, found, queue, seen = makers(graph), fed_by_images(graph), set[int](), [value], set[int]()
    while queue and len(found) <= MOST_OPERATIONS:
        x = queue.pop()
        if x not in seen and x in made and x in fed and (x == value or x not in roots):
            found.add(made[x])
            queue += graph.operations[made[x]].inputs
        seen.add(x)
    return sorted(found)


def _roots(scene: Scene, values: Collection[int]) -> dict[int, Known]:
    """What layers and steps give, by the values in which the candidate has it; not these ones."""
    found: dict[int, Known] = {scene.graph.images: Known("the images", scene.local.images, (MAP[0], MAP[3], *MAP[1:3]))}
    block = scene.layer.name.rpartition(".")[0]
    for layer, tap in scene.tapped.items():
        if layer in scene.local.names:
            inner = block and layer.startswith(f"{block}.")
            words = what_gives(scene.local, scene.layer.name, layer) if inner else f"what {layer} gives"
            found[tap] = _map(words, scene.local.tap(layer))
    for step, uses in scene.own.uses.items():
        words = f"{scene.spoken(step)}'s output"
        held = scene.own.outputs.get(step)
        if held is None and step in scene.own.misfits and f"{step}.weight" not in scene.sized:
            continue
        for use in uses:
            found.setdefault(use.made, _map(words, np.zeros(0) if held is None or len(uses) > 1 else held.actual))
    return {value: known for value, known in found.items() if value not in values}


def _map(words: str, x: np.ndarray) -> Known:
    return Known(words, x, MAP if x.ndim == 4 else (MAP[0], MAP[3]) if x.ndim == 2 else ())


def _inner(scene: Scene, step: str) -> list[Known]:
    """The values inside the reference's attention, of the candidate's own q, k and v; none where `step` comes before it."""
    names = [one.name for one in scene.run.steps]
    attention = next((one for one in scene.run.steps if one.op == "attention"), None)
    if attention is None or (step and names.index(step) < names.index(attention.name)):
        return []
    q, k, v = (attention.inputs[name] for name in "qkv")
    before = {2: (), 3: MAP[:1]}.get(q.ndim, (MAP[0], *("the windows",) * (q.ndim - 4), "the heads"))
    logits = np.einsum("...nd,...md->...nm", q, k)
    weights = np.exp((logits - logits.max(-1, keepdims=True)) * attention.settings["scale"])
    weights /= weights.sum(-1, keepdims=True)
    found = [Known(name, x, (*before, "the tokens", "the channels of a head")) for name, x in zip("qkv", (q, k, v), strict=True)]
    found.append(Known("q · k", logits, (*before, "the queries", "the keys"), scaled=True))
    found.append(Known("the softmax", weights, (*before, "the queries", "the keys")))
    found.append(Known("the heads' output", attention.made, (*before, "the tokens", "the channels of a head")))
    return found


TOGETHER = ({"q", "k"}, {"the softmax", "v"})
"""Values whose products the reference has too: where the candidate's is another one, it pairs other tokens."""


# Axes by their names


def axes_of(x: np.ndarray, known: Known, eps: float) -> tuple[tuple[str, ...], float, tuple[str, ...]] | None:
    """What each axis of an array runs over, its factor, and the axes along which the order is another one.

    None where it does not hold the known numbers in some layout.
    """
    if x.size != known.numbers.size or not x.size or not np.isfinite(x).all():
        return None
    own, there = np.asarray(x, np.float64).ravel(), known.numbers.ravel()
    with np.errstate(over="ignore"):
        factor = float(np.linalg.norm(own) / (np.linalg.norm(there) or 1.0)) if known.scaled else 1.0
    if not np.isfinite(factor):
        return None
    if not abs(own.mean() - factor * there.mean()) <= 0.01 * factor * (there.std() or 1.0):
        return None
    order, wanted = np.argsort(own, kind="stable"), np.argsort(there, kind="stable")
    if not np.linalg.norm(own[order] - factor * there[wanted]) <= 256 * eps * np.linalg.norm(own):
        return None
    place = np.empty(own.size, np.int64)
    place[order] = wanted
    where = np.stack(np.unravel_index(place, known.numbers.shape)).reshape(-1, *x.shape)
    found, reordered = [], []
    for axis in range(x.ndim):
        moved = np.diff(where, axis=axis + 1) != 0
        share = moved.reshape(len(moved), -1).mean(1) if moved.size else np.zeros(len(moved))
        runs = [i for i, part in enumerate(share) if part > GENERIC]
        found.append(_joined(known.axes[i] for i in runs))
        if len(runs) == 1 and x.shape[axis] == known.numbers.shape[runs[0]]:
            order = np.median(np.moveaxis(where[runs[0]], axis, -1).reshape(-1, x.shape[axis]), 0)
            reordered += [found[-1]] * bool((order != np.arange(len(order))).any())
    return tuple(found), factor, tuple(reordered)


def _regrouped(names: Sequence[str], before: Sequence[int], after: Sequence[int]) -> tuple[str, ...]:
    """What the axes of a view run over: of axes that are put together all, of one that is taken apart each part the same."""
    found, i, j = list[str](), 0, 0
    while j < len(after):
        start, here, there, first = i, 1, after[j], j
        while here != there and (here < there or j + 1 < len(after)):
            if here < there and i < len(before):
                here, i = here * before[i], i + 1
            elif here > there:
                j += 1
                there *= after[j]
            else:
                break
        if here != there:
            return ("",) * len(after)
        group = _joined(name for name in names[start:i] if name)
        found += [group if size > 1 else "" for size in after[first : j + 1]]
        j += 1
    return tuple(found)


def _joined(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    return listed(names) if names else ""


# Formulas

DIMS = ("dim", "dims", "axis", "axes", "dimension", "dimensions")
"""What libraries call the setting that says along which axes an operation runs."""

KEPT = ("keepdim", "keepdims", "keep_dims")

SAME_NUMBERS = ("roll", "flip", "rev", "rot90")
"""Moves that are told, though all numbers stay."""

TAKEN = ("index", "index select", "gather", "take")
"""Moves that take numbers by their places."""


class _Writer:
    """Writes values of one graph down, in terms of those that are known."""

    def __init__(
        self, scene: Scene, values: Collection[int], roots: Mapping[int, Known], inner: Sequence[Known], between: Collection[int]
    ) -> None:
        self.scene, self.values, self.graph = scene, tuple(values), scene.graph
        self.made, self.fed, self.of_parameters = makers(scene.graph), fed_by_images(scene.graph), sources(scene.graph)
        self.roots, self.inner, self.between = roots, inner, between
        self.elsewhere: list[str] = []
        self.remarks: list[str] = []

    @cached_property
    def known(self) -> dict[int, tuple[str, tuple[str, ...]]]:
        """The name of each value that has one, and of its axes."""
        shapes, eps = self.graph.shapes, EPS[self.scene.dtype]
        inner = self.inner
        made = [x for i in self.between for x in self.graph.operations[i].outputs if x in self.fed and x not in self.values]
        entered = {x for i in self.between for x in self.graph.operations[i].inputs if x in self.roots}
        sizes = {known.numbers.size for known in inner} | {self.roots[x].numbers.size for x in entered}
        asked = [x for x in (*entered, *made) if prod(shapes[x]) in sizes and prod(shapes[x]) <= LARGEST]
        found = {x: (self.roots[x].words, ("",) * len(shapes[x])) for x in entered}
        for value, x in self.scene.fetch(asked[:SEEN]).items():
            own = [self.roots[value]] if value in entered and self.roots[value].numbers.size else []
            candidates = own or [*inner, *(self.roots[x] for x in entered)]
            for known in candidates:
                named = axes_of(np.asarray(x), known, eps)
                if named is not None:
                    factor = "" if abs(named[1] - 1) <= 1e-6 else f" × {named[1]:.3g}"
                    order = f" in another order of {listed(named[2])}" if named[2] else ""
                    found[value] = f"{known.words}{order}{factor}", named[0]
                    break
        return found

    def axes(self, value: int) -> tuple[str, ...]:
        """What the axes of a value run over; empty words where that is not known."""
        shape = self.graph.shapes.get(value, ())
        if value in self.known and any(self.known[value][1]):
            return self.known[value][1]
        operation, nothing = self._operation(value), ("",) * len(shape)
        if operation is None or value in self.known:
            return nothing
        inputs = [x for x in operation.inputs if x in self.fed]
        if operation.kind == "product" and len(inputs) > 1:
            return self._axes_of_product(operation, shape)
        if operation.kind == "move":
            return self._axes_of_move(operation, inputs[0], shape) if len(inputs) == 1 else nothing
        same = next((x for x in inputs if self.graph.shapes[x] == shape), None)
        if same is not None:
            return self.axes(same)
        before = self.graph.shapes[inputs[0]] if inputs else ()
        reduced = _dims(operation, len(before))
        kept = len(before) == len(shape)
        if not reduced or len(before) - len(shape) not in (0, len(reduced)):
            return nothing
        return tuple("" if i in reduced else name for i, name in enumerate(self.axes(inputs[0])) if kept or i not in reduced)

    def _axes_of_product(self, operation: Operation, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Those of the batch, then those of the left that are left over, then those of the right: tokens are queries and keys."""
        left, right = (self.axes(x) for x in operation.inputs[:2])
        (on_left, on_right), (batch_left, batch_right) = operation.settings["contracted"], operation.settings["batch"]
        found = [left[i] for i in batch_left]
        tokens = ("the keys", "the queries") if self._is_of_k(operation.inputs[0]) else ("the queries", "the keys")
        found += [name.replace("the tokens", tokens[0]) for i, name in enumerate(left) if i not in (*on_left, *batch_left)]
        found += [name.replace("the tokens", tokens[1]) for i, name in enumerate(right) if i not in (*on_right, *batch_right)]
        return tuple(found) if len(found) == len(shape) else ("",) * len(shape)

    def _is_of_k(self, value: int) -> bool:
        """Whether a value is made of k alone, so that its product with another one has the keys first."""
        while value not in self.known:
            operation = self._operation(value)
            inputs = [x for x in operation.inputs if x in self.fed] if operation is not None else []
            if len(inputs) != 1:
                return False
            value = inputs[0]
        return self.known[value][0] == "k"

    def _axes_of_move(self, operation: Operation, x: int, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Those of what is transposed or copied; those of a view where its axes are put together or taken apart."""
        before, named, name, settings = self.graph.shapes[x], self.axes(x), plain_name(operation), operation.settings
        order = tuple(range(len(before)))
        if name in ("transpose", "permute") and len(before) == len(shape):
            if "dim0" in settings and "dim1" in settings:
                swapped = {settings["dim0"] % len(before): settings["dim1"] % len(before)}
                swapped |= {there: here for here, there in swapped.items()}
                order = tuple(swapped.get(i, i) for i in order)
            else:
                given = next((settings[key] for key in (*DIMS, "permutation", "perm") if key in settings), order)
                order = tuple(i % len(before) for i in given)
            return tuple(named[i] for i in order)
        if before == shape:
            return named
        return _regrouped(named, before, shape) if prod(before) == prod(shape) else ("",) * len(shape)

    def sentence(self, names: str) -> tuple[str, dict[str, str]]:
        """The formula of the wrong value, and those of the parts of it that got names, as it is too long without.

        `names` has a letter for each of several wrong values.
        """
        parts: dict[str, str] = {}
        while True:
            done: dict[int, str] = {}
            self.elsewhere, self.remarks = [], []
            each = [_bare(self._written(value, done)) for value in self.values]
            formula = each[0] if len(each) == 1 else f"{listed(each)}, put together"
            if len(names) == len(each) > 1:
                formula = listed(f"{name} = {words}" for name, words in zip(names, each, strict=True))
            if len(formula) <= LONGEST or len(parts) == len(PARTS):
                return formula, parts
            told = {value: words for value, words in done.items() if value not in self.values and value not in self.known}
            sizes = {value: len(words) * formula.count(words) for value, words in told.items() if len(words) <= LONGEST_PART}
            if not sizes or max(sizes.values()) < len("the softmax"):
                return formula, parts
            value, name = max(sizes, key=lambda value: (sizes[value], value)), PARTS[len(parts)]
            parts[name] = _bare(told[value])
            self.known[value] = name, self.axes(value)

    def _written(self, value: int, done: dict[int, str]) -> str:
        if value not in done:
            done[value] = ""  # a value is not made of itself
            done[value] = self._of(value, done)
        return done[value]

    def _of(self, value: int, done: dict[int, str]) -> str:
        if value not in self.values and value in self.known:
            return self.known[value][0]
        if value not in self.fed:
            names = self.of_parameters.get(value)
            return listed(sorted(map(self._parameter, names))) if names else self._constants(value)
        if value not in self.made:
            return "a value"
        operation = self.graph.operations[self.made[value]]
        inputs = [x for x in operation.inputs if x != ABSENT]
        if (softmax := self._softmax(value)) is not None:
            x, words = softmax
            return f"softmax{words} of {self._written(x, done)}"
        parts = [self._written(x, done) for x in inputs]
        if operation.kind == "move":
            return self._moved(operation, value, inputs, parts)
        if (mean := self._mean(operation)) is not None:
            return f"mean{self._over(mean)} of {self._written(mean.inputs[0], done)}"
        if operation.kind in ("add", "multiply"):
            return self._of_two(operation, parts)
        if operation.kind in ("product", "convolution"):
            factor = operation.settings.get("factor", 1)
            sign = " · " if operation.kind == "product" else " convolved with "
            if operation.kind == "convolution":
                parts[0] += self._other_map(operation)
            product = sign.join(_in_product(part) for part in parts[:2])
            if set(parts[:2]) in TOGETHER:
                self._pairs_others(inputs)
            elif operation.kind == "product" and (said := self._sums_over_queries(operation)):
                self.remarks.append(said)
            return f"({product}{'' if factor == 1 else f' × {factor:.3g}'}{f' + {parts[2]}' if len(parts) > 2 else ''})"
        word = self.word(operation)
        first = [part for x, part in zip(inputs, parts, strict=True) if x in self.fed]
        return f"{word} of {listed(first)}" if first else word

    def _other_map(self, operation: Operation) -> str:
        """That a convolution sees as many tokens as the layer's map has, in rows and columns of another number; else empty."""
        letters, shape, usual = operation.settings["x"], self.graph.shapes[operation.inputs[0]], self.scene.x.shape
        if "h" not in letters or "w" not in letters or len(usual) != 4:
            return ""
        size = (shape[letters.index("h")], shape[letters.index("w")])
        usual = usual[2:] if self.scene.layer.sources == (IMAGES,) else usual[1:3]
        if size == usual or prod(size) != prod(usual):
            return ""
        return f" as {size[0]} rows × {size[1]} columns, not {usual[0]} × {usual[1]},"

    def _sums_over_queries(self, operation: Operation) -> str:
        """That what was made of queries and keys is summed over the queries, and so is transposed; empty where it is not."""
        for x, axes in zip(operation.inputs, operation.settings["contracted"], strict=False):
            names = self.axes(x)
            if [names[i] for i in axes] == ["the queries"] and "the keys" in names:
                return "the probabilities are transposed: their product with v sums over the queries, not over the keys"
        return ""

    def _parameter(self, name: str) -> str:
        """The end of a parameter's name; and the step whose it is, where that is another one."""
        short = ".".join(name.split(".")[-2:])
        steps = self.scene.acting.get(name, ())
        here = f"{self.scene.layer.name}."
        return f"{short} of {steps[0]}" if steps and not steps[0].startswith(here) else short

    def _constants(self, value: int) -> str:
        """What numbers are that depend on neither images nor parameters, where that shows."""
        x = self.scene.fetch([value]).get(value) if prod(self.graph.shapes.get(value, ())) <= LARGEST else None
        x = None if x is None else np.asarray(x)
        if x is None or x.size < 2:
            return "constants"
        hidden = x if x.dtype == np.bool_ else np.asarray(x, np.float64) <= HIDDEN
        if hidden.any() and not hidden.all():
            return f"a mask of {int(hidden.sum())} of {hidden.size} places"
        sizes = [size for size in x.shape if size > 1]
        return f"constants ({' × '.join(map(str, sizes))})" if len(sizes) > 1 else "constants"

    def _pairs_others(self, inputs: Sequence[int]) -> None:
        """Keep in words that values that the reference multiplies too are right, and lie so that other tokens meet."""
        for x in inputs[:2]:
            mixed = [name for name in self.axes(x) if name.count("the ") > 1 and ("the tokens" in name or "the queries" in name)]
            words = f"other tokens meet than in the reference: an axis of {self.known[x][0]} runs over {mixed[0]}" if mixed else ""
            if mixed and words not in self.elsewhere:
                self.elsewhere.append(words)
                return
        if not self.elsewhere:
            self.elsewhere.append("other tokens meet than in the reference")

    def word(self, operation: Operation) -> str:
        """An operation and the axes along which it runs."""
        name = plain_name(operation)
        if operation.kind == "norm":
            name = "a norm"
        return f"{name}{self._over(operation)}"

    def _over(self, operation: Operation) -> str:
        if not operation.inputs or operation.inputs[0] == ABSENT:
            return ""
        x = operation.inputs[0]
        dims, named = _dims(operation, len(self.graph.shapes.get(x, ()))), self.axes(x)
        if not dims:
            return ""
        if all(named[i] for i in dims):
            return f" over {listed(dict.fromkeys(named[i] for i in dims))}"
        return f" over axis {listed(map(str, dims))} of {self.graph.shapes[x]}"

    def move(self, place: int) -> str:
        """A move as one of a list."""
        operation = self.graph.operations[place]
        own = [x for x in operation.inputs if x in self.fed]
        before, after = (self.graph.shapes.get(x, ()) for x in (own[0] if own else ABSENT, operation.outputs[0]))
        return f"{plain_name(operation)} of {before} to {after}"

    def listed(self, place: int) -> str:
        """An operation as one of a list."""
        operation = self.graph.operations[place]
        signs = {"add": ("a sum", "a difference"), "multiply": ("a factor", "a quotient"), "product": ("a product",) * 2}
        word = signs.get(operation.kind, ("", ""))[bool(operation.settings.get("inverse"))] or self.word(operation)
        scalars = list(operation.settings.get("scalars", ()))
        value = f" {scalars[0]:.4g}" if len(scalars) == 1 and isinstance(scalars[0], int | float) else ""
        return f"{word}{value}{f' ({operation.line})' if operation.line else ''}"

    def _moved(self, operation: Operation, value: int, inputs: list[int], parts: list[str]) -> str:
        own = [(x, part) for x, part in zip(inputs, parts, strict=True) if x in self.fed]
        if not own:
            return "constants"
        if len(own) > 1:
            return f"({', '.join(dict.fromkeys(part for _, part in own))} put together)"
        x, part = own[0]
        narrow = self.graph.dtypes[value]
        if EPS.get(narrow, 0) > EPS.get(self.graph.dtypes[x], 1):
            part = f"({part} rounded to {narrow})"
        before, after = prod(self.graph.shapes[x]), prod(self.graph.shapes[value])
        name = plain_name(operation)
        if before == after:
            if name in SAME_NUMBERS:
                return f"{_in_product(part)} {name}ed{self._over(operation)}"
            return f"{_in_product(part)} taken in another order{self._over(operation)}" if name in TAKEN else part
        if after > before:
            pads = "pad" in name
            return f"{part}, padded," if pads else f"{part}, repeated,"
        return part if part.startswith("a part of") else f"a part of {part}{self._cut(operation, x)}"

    def _cut(self, operation: Operation, x: int) -> str:
        """Which part of an axis is taken, where that is told."""
        settings, shape = operation.settings, self.graph.shapes[x]
        if isinstance(settings.get("limit_indices"), tuple):
            return self._cut_of_all_axes(settings["start_indices"], settings["limit_indices"], settings.get("strides"), x)
        dims = _dims(operation, len(shape))
        if len(dims) != 1:
            return ""
        named = self.axes(x)[dims[0]] or f"axis {dims[0]}"
        size = shape[dims[0]]
        start, end, step = (settings.get(key) for key in ("start", "end", "step"))
        if isinstance(index := settings.get("index"), int):
            start, end, step = index % size, index % size + 1, 1
        if not isinstance(start, int) or not isinstance(end, int):
            return ""
        return self._run(start, end, step, size, named)

    def _cut_of_all_axes(self, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int] | None, x: int) -> str:
        """The same where all axes have a start and an end: of the one that is not whole."""
        shape = self.graph.shapes[x]
        cut = [i for i, size in enumerate(shape) if (starts[i], ends[i]) != (0, size) or (steps is not None and steps[i] != 1)]
        if len(cut) != 1:
            return ""
        named = self.axes(x)[cut[0]] or f"axis {cut[0]}"
        return self._run(starts[cut[0]], ends[cut[0]], 1 if steps is None else steps[cut[0]], shape[cut[0]], named)

    def _run(self, start: int, end: int, step: object, size: int, named: str) -> str:
        """A run of an axis, in words."""
        start, end = (min(i + size if i < 0 else i, size) for i in (start, end))
        every = f", every {step}" if isinstance(step, int) and step != 1 else ""
        if start == 0:
            return f" (the first{f' {end}' if end > 1 else ''} of {named}{every})"
        if end == size:
            return f" (all but the first{f' {start}' if start > 1 else ''} of {named}{every})"
        if end == start + 1:
            return f" (number {start} of {named}, from 0 on)"
        return f" (from {start} to {end - 1} of {named}{every})"

    def _of_two(self, operation: Operation, parts: list[str]) -> str:
        settings = operation.settings
        scalars = [f"{x:.4g}" if isinstance(x, int | float) else str(x) for x in settings.get("scalars", ())]
        both = [*scalars, *parts] if settings.get("turned") else [*parts, *scalars]
        inverse = bool(settings.get("inverse"))
        if operation.kind == "multiply":
            halves = sum("a part of" in part for part in parts) > 1 and not inverse
            if halves and GATE not in self.remarks:
                self.remarks.append(GATE)
            return (" / " if inverse else " × ").join(_in_product(part) for part in both)
        if (alpha := settings.get("alpha", 1)) != 1 and len(both) == 2:
            both[1] = f"{alpha:.4g} × {_in_product(both[1])}"
        if len(both) < 2:
            return both[0]
        return f"({both[0]} − {_in_product(both[1])})" if inverse else f"({both[0]} + {both[1]})"

    def _mean(self, operation: Operation) -> Operation | None:
        """The sum that is divided by the number of what was summed, as a mean is written out; None if it is none."""
        scalars = operation.settings.get("scalars", ())
        summed = self._operation(operation.inputs[0]) if operation.kind == "multiply" and len(scalars) == 1 else None
        if summed is None or plain_name(summed) != "sum" or operation.settings.get("turned"):
            return None
        shape = self.graph.shapes.get(summed.inputs[0], ())
        count = prod(shape[i] for i in _dims(summed, len(shape)))
        divisor = scalars[0] if operation.settings.get("inverse") else 1 / scalars[0] if scalars[0] else 0
        return summed if count > 1 and abs(divisor - count) <= 1e-6 * count else None

    def _softmax(self, value: int) -> tuple[int, str] | None:
        """What a softmax is of that is written out as exponentials and their sum, and along which axes it runs."""
        quotient = self._operation(value)
        if quotient is None or quotient.kind != "multiply" or not quotient.settings.get("inverse") or len(quotient.inputs) != 2:
            return None
        top, bottom = (unmoved(self.graph, x) for x in quotient.inputs)
        total = self._operation(bottom)
        exponential = self._operation(top)
        if total is None or exponential is None or "sum" not in plain_name(total) or plain_name(exponential) != "exp":
            return None
        if unmoved(self.graph, total.inputs[0]) != top:
            return None
        x = unmoved(self.graph, exponential.inputs[0])
        shifted = self._operation(x)
        if shifted is not None and shifted.kind == "add" and shifted.settings.get("inverse") and len(shifted.inputs) == 2:
            largest = self._operation(unmoved(self.graph, shifted.inputs[1]))
            if largest is not None and "max" in plain_name(largest):
                x = shifted.inputs[0]
        return x, self._over(total)

    def _operation(self, value: int) -> Operation | None:
        return self.graph.operations[self.made[value]] if value in self.made else None


def plain_name(operation: Operation) -> str:
    """An operation's name without what is of the library: "softmax" of "aten._softmax.default"."""
    name = operation.name.removeprefix("aten.").removeprefix("prims.").partition(".")[0].strip("_").lower()
    if "scaled_dot_product" in name:
        return "scaled dot-product attention"
    for prefix in ("reduce_", "native_"):
        name = name.removeprefix(prefix)
    if name.startswith("reduce") and name != "reduce":  # ONNX
        name = name.removeprefix("reduce")
    return {"amax": "max", "amin": "min", "logistic": "sigmoid"}.get(name, name.replace("_", " "))


def _dims(operation: Operation, ndim: int) -> tuple[int, ...]:
    """The axes along which an operation runs; empty where its settings name none."""
    if operation.kind == "norm":
        return tuple(operation.settings.get("axes") or ())
    settings: Mapping[str, Any] = operation.settings
    given = next((settings[name] for name in DIMS if name in settings), ())
    dims = (given,) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(dims, tuple | list) or not all(isinstance(i, int) for i in dims):
        return ()
    return tuple(i % ndim for i in dims if -ndim <= i < ndim)


def _bare(words: str) -> str:
    """Without parentheses around all of it."""
    if not words.startswith("("):
        return words
    depth = 0
    for i, letter in enumerate(words):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return words[1:-1] if i == len(words) - 1 else words
    return words


def _in_product(words: str) -> str:
    """With parentheses where it would not be read as one thing."""
    return f"({words})" if any(f" {sign} " in _outside(words) for sign in ("+", "−", "/", "of")) else words


def _outside(words: str) -> str:
    """What stands outside of parentheses."""
    found, depth = "", 0
    for letter in words:
        depth += letter == "("
        found += letter if depth == 0 else ""
        depth -= letter == ")"
    return found

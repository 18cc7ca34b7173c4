"""What a comparison found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scalablevit_ref.compare.inside import Inside
from scalablevit_ref.compare.mistakes.search import Finding, eps_said
from scalablevit_ref.compare.quantised import Noise
from scalablevit_ref.compare.reasoning.difference import OPERATIONS
from scalablevit_ref.config import VARIANTS, variant
from scalablevit_ref.edits import Mistake
from scalablevit_ref.errors import printable
from scalablevit_ref.testing.arrays import EPS, Comparison

MOST_TIES = 3
"""Other mistakes that explain as much: how many of them are told."""

MOST_FACTS = 3
"""Facts about a difference that nothing explains: how many of them are told."""


@dataclass(frozen=True)
class Row:
    """One layer: its error when both networks run from the images on, and when both layers get the same input.

    Attributes
    ----------
    layer, module
        The layer's name, and the candidate's name for the module that it was taken from.
    layout, shape
        How the candidate lays its output out; the shape as the specification does, b h w c or b c.
    propagated, isolated
        The two errors; None where one was not measured.
    fed_finite
        False where the candidate's own input makes the reference's layer give NaN too.
    another_value
        True where the candidate shows another value than the one that it goes on with: the logits agree all the same.
    absent
        Why there is no output of this layer to compare: it does not run, or has another shape; empty where there is one.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint, trace
    >>> from scalablevit_ref.testing import compare, random_images
    >>> found = load_checkpoint(digits.CHECKPOINT)
    >>> images = random_images((1, 1, 112, 112), dtype="float32")
    >>> port = trace(images, found.params, found.config)
    >>> report = compare(port, weights=found, images=images)
    >>> row = report.rows[0]
    >>> row.layer, row.shape, row.isolated.error < report.tolerance
    ('patch_embeds.0', (1, 28, 28, 16), True)
    """

    layer: str
    module: str
    layout: str
    shape: tuple[int, ...]
    propagated: Comparison | None
    isolated: Comparison | None
    fed_finite: bool = True
    another_value: bool = False
    absent: str = ""

    @property
    def own(self) -> Comparison:
        """What tells whether this layer errs: the isolated error where there is one; infinite where the layer is absent."""
        if self.absent:
            return Comparison(float("inf"), "float64", (), float("nan"), float("nan"))
        comparison = self.isolated or self.propagated
        assert comparison is not None
        return comparison


@dataclass(frozen=True)
class Cause:
    """A mistake that explains these layers: with it, the reference gives what the candidate gave, to `error` eps.

    Attributes
    ----------
    words
        What is wrong.
    layers
        The layers that it explains.
    error
        What is left of the difference in them at most, in eps.
    ties
        Other mistakes that explain them as well.
    place
        Where inside the first of the layers it is, what comes before it being right; empty for a known mistake.
    line
        The line of the candidate's own code, where it is known.
    kind
        The kind of difference, "places", "affine" and so on; empty for a known mistake.
    also
        Other layers of the same kind that differ, and that were not looked into.
    operations
        What ran, by the library's own names, where the cause is what ran.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint, trace
    >>> from scalablevit_ref.testing import compare, random_images
    >>> found = load_checkpoint(digits.CHECKPOINT)
    >>> images = random_images((1, 1, 112, 112), dtype="float32")
    >>> wrong = found.params | {"head.bias": 0 * found.params["head.bias"]}
    >>> port = trace(images, wrong, found.config)
    >>> report = compare(port, weights=found, images=images)
    >>> cause = report.causes[0]
    >>> cause.words, cause.layers, len(cause.rows())
    ('head.bias is left out', ('head',), 1)
    """

    words: str
    layers: tuple[str, ...]
    error: float
    ties: tuple[str, ...] = ()
    place: str = ""
    line: str = ""
    kind: str = ""
    also: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()

    def __str__(self) -> str:
        first, more = self.layers[0], len(self.layers) - 1
        where = f"{first} and {more} more layer{'s' * (more > 1)}" if more else first
        ties = "".join(f"; or if {words}" for words in self.ties[:MOST_TIES])
        if self.kind:
            return "; ".join(row.strip() for row in self.rows())
        return f"{where}: {'match' if more else 'matches'} to {eps_said(self.error)} if {self.words}{ties}"

    def rows(self) -> list[str]:
        """One row for a known mistake; else the place, how the value differs there and the candidate's own line, a row each."""
        if not self.kind:
            return [str(self)]
        first, more = self.layers[0], len(self.layers) - 1
        where = f"{first} and {more} more layer{'s' * (more > 1)}" if more else first
        measured = "" if self.kind == OPERATIONS else f" (this explains it to {eps_said(self.error)})"
        rows = [f"{where}: {self.place}", f"  {self.words}{measured}"]
        rows += [f"  or, as well: {words}" for words in self.ties[:MOST_TIES]]
        rows += [f"  in {self.line}"] if self.line else []
        return rows + ([f"  {self.unseen}"] if self.also else [])

    @property
    def unseen(self) -> str:
        """How many more layers differ that were not looked into, in words."""
        if len(self.also) == 1:
            return "1 more layer of this kind differs and was not looked into"
        return f"{len(self.also)} more layers of this kind differ and were not looked into"


def fewest_causes(explained: Mapping[str, Iterable[Finding]]) -> tuple[Cause, ...]:
    """The mistake that explains most layers, then the one that explains most of the rest, and so on."""
    left = {layer: list(findings) for layer, findings in explained.items()}
    causes = []
    while left:
        counts: dict[Mistake, int] = {}
        for findings in left.values():
            for finding in findings:
                counts[finding.mistake] = counts.get(finding.mistake, 0) + 1
        best = max(counts, key=lambda mistake: counts[mistake])
        mine = {layer: f for layer, findings in left.items() for f in findings if f.mistake == best}
        ties = tuple(h.words for h in counts if h != best and all(h in [f.mistake for f in left[layer]] for layer in mine))
        causes.append(Cause(best.words, tuple(mine), max(f.after for f in mine.values()), ties))
        left = {layer: findings for layer, findings in left.items() if layer not in mine}
    return tuple(causes)


@dataclass(frozen=True)
class LeftOut:
    """Layers of the network that were not compared, and why, in words that follow "were": "not in the trace".

    Examples
    --------
    >>> print(LeftOut("not in the trace", ("norm", "head")))
    2 were not in the trace
    """

    why: str
    layers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.layers)} {'was' if len(self.layers) == 1 else 'were'} {self.why}"


@dataclass(frozen=True)
class Report:
    """The verdict, the layers in order, and what the mistakes are. Errors are ‖Δ‖ / ‖reference‖ in eps of `dtype`.

    Attributes
    ----------
    kind
        What the candidate is, in a word or two.
    config
        The network's settings.
    mode
        Which errors were measured, as in `compare`.
    dtype
        The candidate's, in whose eps all errors are.
    tolerance
        What a layer may differ by, in eps.
    rows
        The layers that were compared, in the network's order.
    causes
        The mistakes that explain layers, the one that explains most of them first.
    nearest
        Known mistakes that come nearest, where none explains a layer.
    notes
        What else there is to say of the comparison, in words.
    left_out
        Those that were not, and why.
    seconds
        How long each part took.
    actual, expected
        What the first wrong layer gives, and what the reference's gives on the same input; None where there is none.
    unsteady
        Why a second run on the same images gave something else, in words; empty if it did not.
    own_weights
        What a module's own weights are beside the given ones, in words; `own_weights_wrong` says whether it computes something else
        with them.
    insides
        The layers that no known mistake explains, looked into: the first of each kind.
    noise
        Of a quantised candidate, how far each layer is off, beside what 8 bits cost.
    certificate
        A `certify.certificate.Certificate` with one row, the proved errors of the layers from the images on. None if not asked for.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint, trace
    >>> from scalablevit_ref.testing import compare, random_images
    >>> found = load_checkpoint(digits.CHECKPOINT)
    >>> images = random_images((1, 1, 112, 112), dtype="float32")
    >>> wrong = found.params | {"head.bias": 0 * found.params["head.bias"]}
    >>> port = trace(images, wrong, found.config)
    >>> report = compare(port, weights=found, images=images)
    >>> report.verdict
    'differs from the reference in 1 of 51 layers'
    >>> report.next_step()
    'next: look at what computes head'
    >>> report.mistakes()[0][0].layer, report.forms_right()[0]
    ('head', 'patch_embeds.k')
    >>> report.elsewhere(), report.hidden()
    ([], [])
    >>> report.to_json()["first_divergent_layer"]
    'head'
    """

    kind: str
    config: Any
    mode: str
    dtype: str
    tolerance: float
    rows: tuple[Row, ...]
    causes: tuple[Cause, ...] = ()
    nearest: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    actual: np.ndarray | None = field(default=None, repr=False)
    expected: np.ndarray | None = field(default=None, repr=False)
    unsteady: tuple[str, ...] = ()
    own_weights: tuple[str, ...] = ()
    own_weights_wrong: bool = False
    insides: tuple[Inside, ...] = ()
    noise: Noise | None = None
    certificate: Any = None

    @property
    def agrees(self) -> bool:
        """Whether every layer does, each time, and with the candidate's own weights too."""
        return self.layers_agree and not self.unsteady and not self.own_weights_wrong

    @property
    def layers_agree(self) -> bool:
        """Whether every layer does, with the weights that both were given."""
        return all(error <= self.tolerance for error in self._errors()) and not any(row.absent for row in self.rows)

    def _errors(self) -> list[float]:
        """Of all layers but those where the candidate shows another value."""
        rows = [row for row in self.rows if not row.another_value]
        return [c.error for row in rows for c in (row.propagated, row.isolated) if c is not None]

    @property
    def diverging(self) -> tuple[Row, ...]:
        """Layers whose isolated error is too large; if there is none, those that inherited too much."""
        rows = tuple(row for row in self.rows if not row.another_value)
        own = tuple(row for row in rows if row.fed_finite and not row.own.error <= self.tolerance)
        if all(row.absent for row in own):
            return own + tuple(row for row in rows if row.propagated and not row.propagated.error <= self.tolerance)
        return own or tuple(row for row in rows if row.propagated and not row.propagated.error <= self.tolerance)

    @property
    def first(self) -> Row | None:
        """The first layer that goes wrong."""
        return next(iter(self.diverging), None)

    @property
    def needed(self) -> float:
        """The tolerance with which all layers would pass, in eps; NaN if one holds a NaN."""
        return float(np.max(self._errors()))

    @property
    def layers_in_all(self) -> int:
        """How many layers the network has: those compared and those left out."""
        return len(self.rows) + sum(len(some.layers) for some in self.left_out)

    @property
    def coverage(self) -> str:
        """How many of the network's layers were compared, and why not the others; empty if all were."""
        left_out = ", ".join(map(str, self.left_out))
        return f"compared: {len(self.rows)} of {self.layers_in_all} layers; {left_out}" if left_out else ""

    @property
    def unmeasured(self) -> str:
        """Which of the two errors the layers that were compared lack, in words; empty if none."""
        lacking = {kind: sum(getattr(row, kind) is None for row in self.rows) for kind in ("propagated", "isolated")}
        fed_nan = sum(row.isolated is not None and not row.fed_finite for row in self.rows)
        words = [f"the {kind} error was not measured{_in(n, self.rows)}" for kind, n in lacking.items() if n]
        words += [f"the isolated error tells nothing{_in(fed_nan, self.rows)}, fed with NaN or infinity"] * bool(fed_nan)
        return "; ".join(words)

    def __str__(self) -> str:
        """The verdict with what was left out of it, the diagnosis and the notes, a printable line each."""
        return "\n".join(map(printable, self._lines()))

    def _lines(self) -> list[str]:
        layers = f"{len(self.rows)} layer{'s' * (len(self.rows) != 1)}"
        said = [*self.elsewhere(), *self.own_weights, *self.notes]
        if self.unsteady:
            verdict = "gives something else each time, so that nothing can be compared: " + "; ".join(self.unsteady)
            return [verdict, *said, self.next_step()]
        if self.layers_agree:
            verdict = self.verdict
            if self.own_weights_wrong:
                verdict = f"DIFFERS by its own weights; with the file's it {verdict}"
            return ["; ".join(filter(None, (verdict, ", ".join(map(str, self.left_out)), self.unmeasured))), *self.hidden(), *said]
        first = self.diverging[0]
        at = first.layer if first.module in (first.layer, "output", "") else f"{first.layer} ({first.module})"
        isolated = any(row.isolated is not None and not row.isolated.error <= self.tolerance for row in self.diverging)
        kind = "isolated" if isolated else "propagated"
        lines = [f"DIFFERS from the reference in {len(self.diverging)} of {layers} ({kind} error), the first is {at}"]
        if self.noise is not None and not self.noise.wrong and not self.noise.left:
            by = (
                "its quantisation, and by weights that are no roundings of those given"
                if self.own_weights
                else "its quantisation alone"
            )
            lines = [f"DIFFERS from the reference by {by} ({kind} error in {len(self.diverging)} of {layers})"]
        lines += [self._first_said(first)]
        if np.isnan(first.own.error):
            lines.append(f"{first.layer} is the first to hold a NaN or an infinity")
        if self.noise is not None:
            lines += self.noise.lines()
            if not any(row.differs for row in self.noise.rows):
                return [*lines, *filter(None, (self.coverage, self.unmeasured)), *said]
        lines += [row for cause in self.told for row in cause.rows()]
        told = {layer for cause in self.causes for layer in cause.layers}
        lines += [line for seen in self.insides if seen.layer not in told or not seen.explained for line in inside_said(seen)]
        lines += [str(finding) for finding in self.nearest[:3]] if not self.causes and not self.reasoned else []
        if not self.causes and not self.nearest and not self.reasoned:
            lines.append("none of the known mistakes explains it")
        right = self.forms_right()
        lines += [f"right in every layer: {', '.join(right)}"] if right else []
        return [*lines, *filter(None, (self.coverage, self.unmeasured)), *self.hidden(), *said, *filter(None, [self.next_step()])]

    @property
    def verdict(self) -> str:
        """Of a candidate whose layers agree, or of one whose layers do not, in a few words."""
        layers = f"{len(self.rows)} of {self.layers_in_all} layers" if self.left_out else f"{len(self.rows)} layers"
        if not self.layers_agree:
            return f"differs from the reference in {len(self.diverging)} of {layers}"
        return f"agrees with the reference in {layers}, to {eps_said(self.needed)} of {self.dtype} (allowed {self.tolerance:g})"

    def _first_said(self, first: Row) -> str:
        if first.absent:
            return f"{first.layer}: {first.absent}"
        over = first.isolated if first.isolated is not None and not first.isolated.error <= self.tolerance else first.propagated
        error = over or first.own
        relative = f"relative error {error.error * EPS[self.dtype]:.2g}"
        return f"{first.layer}: {error} ({relative}; allowed {self.tolerance:g} eps)"

    @property
    def reasoned(self) -> bool:
        """Whether reasoning found something to say of the first layer that differs."""
        return any(inside.differences for inside in self.insides)

    @property
    def told(self) -> tuple[Cause, ...]:
        """The causes, of those that differ in nothing but their layer one: a bias that is left out of every block."""
        groups: dict[object, list[Cause]] = {}
        for i, cause in enumerate(self.causes):
            general = cause.words.replace(cause.layers[0], form(cause.layers[0]))
            alone = cause.kind or cause.ties or len(cause.layers) > 1 or general == cause.words
            groups.setdefault(i if alone else general, []).append(cause)
        return tuple(
            some[0] if len(some) == 1 else Cause(str(words), tuple(c.layers[0] for c in some), max(c.error for c in some))
            for words, some in groups.items()
        )

    def next_step(self) -> str:
        """What to do next, in words; empty where nothing differs, or nobody looked."""
        if self.unsteady:
            return "next: make it give the same twice, as eval() does in PyTorch, and compare again"
        if not self.layers_agree and not any(row.isolated for row in self.rows):
            return "next: compare each layer on the same input too, which needs the weights and the layers before it"
        if self.layers_agree or (not self.causes and not self.insides):
            return ""
        lines = [cause.line for cause in self.causes[:1]] or [seen.line for seen in self.insides[:1]]
        first = self.diverging[0]
        if lines[0]:
            return f"next: look at {lines[0]}"
        if self.causes and first.module not in ("", first.layer, "output"):
            return f"next: look at {first.module}"
        if self.causes or any(row.words != "not followed" for seen in self.insides for row in seen.rows):
            return f"next: look at what computes {(self.causes[0].layers[0] if self.causes else first.layer)}"
        return (
            f"next: nothing inside {first.layer} could be followed; hold your own values of its steps against the reference's, "
            f"which this writes: scalablevit-ref trace expected.npz --variant {self._variant()} --save-weights weights.npz"
        )

    def _variant(self) -> str:
        """As `--variant` names the network."""
        return next((name for name in VARIANTS if variant(name) == self.config), "NAME")

    def elsewhere(self) -> list[str]:
        """Where the candidate shows another value than the layer's own, in words."""
        names = [row.layer for row in self.rows if row.another_value]
        if not names:
            return []
        some = f"{names[0]} and {len(names) - 1} more layers" if names[1:] else names[0]
        words = (
            f"{some}: what is shown there is another value than the layer's own (x + f(x) for f(x), or before for after); "
            "the logits agree end to end, so the network is right"
        )
        return [words]

    def hidden(self) -> list[str]:
        """What a tolerance of 16 bits cannot see."""
        if EPS[self.dtype] <= EPS["float32"]:
            return []
        share = self.tolerance * EPS[self.dtype]
        words = (
            f"in {self.dtype} a mistake that changes a layer by less than {share:.1%} is hidden (another GELU, another epsilon): "
            "compare in float64 too"
        )
        return [words]

    def mistakes(self) -> list[tuple[Row, int]]:
        """The first of the layers that differ by one mistake, and how many more do; of those that nothing explains, by kind."""
        groups: dict[object, list[Row]] = {}
        for row in self.diverging:
            causes = (i for i, cause in enumerate(self.told) if row.layer in (*cause.layers, *cause.also))
            groups.setdefault(next(causes, form(row.layer)), []).append(row)
        return [(rows[0], len(rows) - 1) for rows in groups.values()]

    def forms_right(self) -> list[str]:
        """The kinds of layers that are right everywhere, as "stages.k.i.mlp"; only where some layers are not."""
        wrong = {form(row.layer) for row in self.diverging}
        forms = dict.fromkeys(form(row.layer) for row in self.rows if row.isolated is not None and not row.another_value)
        return [form for form in forms if form not in wrong]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        first = self.first
        return {
            "agrees": self.agrees,
            "candidate": self.kind,
            "config": asdict(self.config),
            "mode": self.mode,
            "dtype": self.dtype,
            "tolerance_eps": self.tolerance,
            "needed_tolerance_eps": self.needed,
            "first_divergent_layer": first.layer if first else None,
            "causes": [asdict(cause) for cause in self.causes],
            "nearest": [
                {"layer": f.layer, "words": f.mistake.words, "error_eps": f.before, "with_it_eps": f.after} for f in self.nearest
            ],
            "unsteady": list(self.unsteady),
            "own_weights": list(self.own_weights),
            "inside": [inside.data() for inside in self.insides],
            "quantisation": None if self.noise is None else self.noise.data(),
            "notes": list(self.notes),
            "layers_compared": len(self.rows),
            "layers_in_all": self.layers_in_all,
            "left_out": [{"why": some.why, "layers": list(some.layers)} for some in self.left_out],
            "seconds": self.seconds,
            "layers": [
                {
                    "layer": row.layer,
                    "module": row.module,
                    "layout": row.layout,
                    "shape": list(row.shape),
                    "propagated": _plain(row.propagated),
                    "isolated": _plain(row.isolated),
                    "another_value": row.another_value,
                    "absent": row.absent,
                }
                for row in self.rows
            ],
            **({} if self.certificate is None else {"certificate": self.certificate.to_json()}),
        }


def inside_said(seen: Inside) -> Iterator[str]:
    """Where a layer goes wrong that nothing explains, and what is known of the difference."""
    yield f"{seen.layer}: {seen.place}"
    yield from (f"  {difference.words}" for difference in seen.differences[:MOST_FACTS])
    yield from [f"  in {seen.line}"] if seen.line else []
    yield from (f"  {note}" for note in seen.notes)


def form(layer: str) -> str:
    """`stages.k.i.attn` of `stages.0.1.attn`."""
    letters = iter("ki")
    return ".".join(next(letters, part) if part.isdigit() else part for part in layer.split("."))


def _in(count: int, rows: Sequence[Row]) -> str:
    """Where: nothing if it is everywhere."""
    return "" if count == len(rows) else f" in {count} of them"


def _plain(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    return {
        "error_eps": comparison.error,
        "worst_index": list(comparison.index),
        "actual": comparison.actual,
        "expected": comparison.expected,
    }

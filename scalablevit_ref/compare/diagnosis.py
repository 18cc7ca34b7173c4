"""What is wrong where a candidate differs: the known mistakes first, then, inside the first layer of each kind, reasoning.

A mistake counts only if it explains the layer that it is said of. One in the wiring must hold for every layer that it touches: it
may leave none of them wrong, and break none that is right.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations

import numpy as np

from scalablevit_ref.compare.capture.alignment import CanonicalTaps
from scalablevit_ref.compare.capture.followed import Followed
from scalablevit_ref.compare.inside import Inside, inside, inside_tap
from scalablevit_ref.compare.mistakes.catalogue import mistakes_of
from scalablevit_ref.compare.mistakes.layerwise import RIGHT, Local
from scalablevit_ref.compare.mistakes.parameters import acting, left_out, misplaced, other_sizes
from scalablevit_ref.compare.mistakes.search import Finding, diagnose, error_with
from scalablevit_ref.compare.reasoning.difference import OPERATIONS, Difference
from scalablevit_ref.compare.report import Cause, Report, Row, fewest_causes, form
from scalablevit_ref.edits import Mistake
from scalablevit_ref.testing.arrays import EPS, compare_arrays

SEARCH_SECONDS = 60
"""Time in seconds, of a whole comparison, in which every mistake is tried; layers after it are only held against those found."""

MOST_SEARCHED = 2
"""Layers of one kind on which every mistake is tried, as long as none explains them."""

LOGITS = "logits"

MOST_WIRED = 4
"""Mistakes in the wiring that explain some layers and not all, of which each, and each two, are tried from the images on."""

MOST_LOOKED = 3
"""Layers of one kind that are looked into."""


def diagnosed(report: Report, local: Local, taps: CanonicalTaps, module: Followed | None, values: Mapping[str, int]) -> Report:
    """The report with the mistakes that explain the layers that differ, and for other layers what comes nearest.

    `values` are those of the candidate's graph, if it has one, that are taken for the layers' outputs.
    """
    absent = [row.layer for row in report.diverging if row.absent]
    sizes = [] if module is None else other_sizes(module.pairing, module.weights, local.table())
    seen = [] if module is None else [*misplaced(module.pairing, local.params), *sizes, *left_out(absent, local.table())]
    acts = () if module is None else acting(module.graph, module.pairing)
    search = Search(report, local, taps, seen, acts, rewired=module is not None and bool(module.pairing.facts.wired))
    look = Looking(report, local, taps, module, values, sizes)
    search.singly()
    causes, insides = by_reasoning(search.unexplained(), look, search.end)
    search.in_pairs([layer for layer in search.unexplained() if not any(layer in cause.layers for cause in causes)])
    first = next((row.layer for row in report.diverging if not row.absent), None)
    return replace(
        report,
        causes=in_order([*fewest_causes(search.explained), *causes], report),
        nearest=tuple(search.nearest),
        notes=(*report.notes, *search.partly),
        insides=tuple(insides),
        actual=None if first is None else taps.wide(first),
        expected=None if first is None else local.output(first),
    )


class Search:
    """The known mistakes, tried on the layers that differ.

    Attributes
    ----------
    explained
        For each layer the mistakes that explain it, the best first.
    nearest
        What comes nearest for others.
    partly
        In words, mistakes in the wiring that explain a layer and not all that they touch.
    """

    def __init__(
        self,
        report: Report,
        local: Local,
        taps: CanonicalTaps,
        seen: Iterable[Mistake],
        acting: Collection[str],
        *,
        rewired: bool = False,
    ) -> None:
        """`seen` are mistakes that the candidate's graph shows, which come before the known ones; `acting` as of `diagnose`.

        `rewired` tells that the graph shows layers in another order.
        """
        self.report, self.local, self.taps, self.acting, self.rewired = report, local, taps, acting, rewired
        self.explained: dict[str, list[Finding]] = {}
        self.nearest: list[Finding] = []
        self.partly: tuple[str, ...] = ()
        self.end = time.monotonic() + SEARCH_SECONDS
        self._ends: dict[Mistake, float] = {}
        self._known: dict[Mistake, None] = dict.fromkeys(seen)
        self._layers = [
            row.layer for row in report.diverging if _by_itself(row, report) and np.isfinite(taps.wide(row.layer)).all()
        ]

    def unexplained(self) -> list[str]:
        return [layer for layer in self._layers if layer not in self.explained]

    def singly(self) -> None:
        """Each mistake by itself, on the first layers of a kind; on the others those that explained something."""
        tried: dict[str, int] = {}
        for layer in self._layers:
            kind = form(layer)
            self._try(layer, search=tried.get(kind, 0) < MOST_SEARCHED)
            if layer not in self.explained:
                tried[kind] = tried.get(kind, 0) + 1
        self._hold()

    def in_pairs(self, layers: Sequence[str]) -> None:
        """Two mistakes at once, on the first layer of a kind that nothing else explains."""
        kinds = set[str]()
        for layer in layers:
            self._try(layer, search=form(layer) not in kinds, pairs=True)
            kinds.add(form(layer))
        self._hold()

    def _try(self, layer: str, *, search: bool, pairs: bool = False) -> None:
        findings = diagnose(
            self.local,
            layer,
            self.taps.wide(layer),
            dtype=self.report.dtype,
            tolerance=self.report.tolerance,
            known=self._known,
            search=search and time.monotonic() < self.end,
            pairs=pairs,
            acting=self.acting,
        )
        if findings and findings[0].explains:
            self.explained[layer] = findings
            self._known |= {finding.mistake: None for finding in findings}
        elif pairs:
            self.nearest += findings

    def _hold(self) -> None:
        """Leave out what does not hold for every layer that it touches."""
        holding = Holding(self.report, self.local, self.taps, self._known, self._ends)
        whole = holding.whole(mistakes_of(self.local.network) if self.rewired and time.monotonic() < self.end else ())
        if whole is not None:
            self.explained = {layer: [Finding(layer, whole, np.inf, holding.end_to_end(whole), True)] for layer in self._layers}
            self.partly = ()
            return
        self.explained, partly = holding.everywhere(self.explained)
        self.partly = tuple(dict.fromkeys((*self.partly, *partly)))


def _by_itself(row: Row, report: Report) -> bool:
    """Whether a layer errs by its own doing; else what it has inherited adds up, which no mistake of its own explains."""
    return not row.absent and (row.isolated is None or not row.isolated.error <= report.tolerance)


def in_order(causes: Iterable[Cause], report: Report) -> tuple[Cause, ...]:
    """By the first layer that each explains."""
    place = {row.layer: i for i, row in enumerate(report.rows)}
    return tuple(sorted(causes, key=lambda cause: place[cause.layers[0]]))


# Reasoning


class Looking:
    """Looks inside a layer, once."""

    def __init__(
        self,
        report: Report,
        local: Local,
        taps: CanonicalTaps,
        module: Followed | None,
        values: Mapping[str, int],
        sizes: Sequence[Mistake] = (),
    ) -> None:
        """`sizes` are parameters of other sizes than the reference's."""
        self.report, self.local, self.taps, self.module, self.values, self.sizes = report, local, taps, module, values, sizes

    def __call__(self, layer: str) -> Inside:
        actual = self.taps.wide(layer)
        if self.module is None:
            return inside_tap(layer, self.local, actual, dtype=self.report.dtype)
        return inside(
            layer,
            self.local,
            actual,
            graph=self.module.graph,
            steps=self.module.pairing.steps,
            fetch=self.module.fetch,
            dtype=self.report.dtype,
            tolerance=self.report.tolerance,
            tapped=self.values,
            probe=self.module.probe,
            late=self.module.pairing.facts.late,
            sizes=next((some for some in self.sizes if any(key.startswith(f"{layer}.") for key, _ in some.params)), RIGHT),
        )


class Takers:
    """Layers that take another value than what the one layer before them gives, and those that go wrong by the same value.

    Attributes
    ----------
    followers
        Of each layer that takes such a value, the others that are fed by the same.
    """

    def __init__(self, look: Looking) -> None:
        self.followers: dict[str, list[str]] = {}
        self._local, self._taps, self._report = look.local, look.taps, look.report
        self._taken: dict[str, np.ndarray] = {}

    def keep(self, layer: str, taken: np.ndarray | None) -> None:
        """What a layer takes, if it is known and stands in for what one layer gives."""
        if taken is not None and len(self._local.table()[layer].sources) == 1:
            self.followers[layer], self._taken[layer] = [], taken

    def keep_unseen(self, layers: Iterable[str]) -> None:
        """Layers that go wrong as those kept do, and that were not looked into."""
        self.followers |= {layer: [] for layer in layers}

    def __contains__(self, layer: str) -> bool:
        return layer in self._taken

    def before(self, layer: str) -> str | None:
        """The layer that takes the wrong value by which this one goes wrong: it is right with it, or it could not be tried."""
        unseen = (other for other in self.followers if other not in self._taken)
        tried = (other for other in self._taken if self._is_right_with(layer, self._source(other), self._taken[other]))
        fed = (other for other in unseen if other != layer and self._source(other) in self._local.table()[layer].sources)
        return next(chain(fed, tried), None)

    def _source(self, layer: str) -> str:
        return self._local.table()[layer].sources[0]

    def _is_right_with(self, layer: str, source: str, taken: np.ndarray) -> bool:
        if source not in self._local.table()[layer].sources:
            return False
        expected = self._local.with_tap(source, taken).output(layer)
        held = compare_arrays(self._taps.wide(layer), expected, dtype=self._report.dtype, measure="l2")
        return held.error <= self._report.tolerance


def by_reasoning(layers: Sequence[str], look: Looking, end: float) -> tuple[list[Cause], list[Inside]]:
    """What explains layers of no known mistake, and what was seen inside of the first of each kind.

    Layers of one kind are looked into until MOST_LOOKED are; others are told beside what explains those.
    """
    kinds: dict[str, list[str]] = {}
    for layer in layers:
        kinds.setdefault(form(layer), []).append(layer)
    causes: list[Cause] = []
    insides: list[Inside] = []
    takers = Takers(look)
    for kind in kinds.values():
        found: list[tuple[str, Inside]] = []
        rest: list[str] = []
        for layer in kind:
            taker = takers.before(layer)
            (rest if taker is None else takers.followers[taker]).append(layer)
        for layer in rest[:MOST_LOOKED]:
            if time.monotonic() > end and insides:
                break
            whole = look(layer)
            every = (whole, *whole.more)
            if not found and not any(form(other.layer) == form(layer) for other in insides):
                insides += every
            found += [(layer, seen) for seen in every if seen.explained]
            if not whole.explained:
                break
            takers.keep(layer, whole.taken)
        if found and all(layer in takers for layer, _ in found):
            takers.keep_unseen(rest[MOST_LOOKED:])
        causes += _fewest(found, tuple(rest[MOST_LOOKED:]), EPS[look.report.dtype])
    return _of_one_line([_followed_by(cause, takers.followers) for cause in causes]), insides


def _of_one_line(causes: Iterable[Cause]) -> list[Cause]:
    """Causes of one line of the candidate's own code that are told in the same words, or are the same operations, as one."""
    found: dict[object, Cause] = {}
    for i, cause in enumerate(causes):
        said = cause.operations if cause.kind == OPERATIONS else (cause.words, cause.ties)
        key = (cause.kind, cause.line, said) if cause.line and said else i
        first = found.get(key)
        if first is None:
            found[key] = cause
        else:
            layers, also = (tuple(dict.fromkeys((*a, *b))) for a, b in ((first.layers, cause.layers), (first.also, cause.also)))
            found[key] = replace(first, layers=layers, also=also, error=max(first.error, cause.error))
    return list(found.values())


def _followed_by(cause: Cause, followers: Mapping[str, Sequence[str]]) -> Cause:
    """The cause, of the layers too that go wrong by what its layers take, each behind the layer that takes it."""
    layers, also = (
        tuple(dict.fromkeys(name for layer in some for name in (layer, *followers.get(layer, ()))))
        for some in (cause.layers, cause.also)
    )
    return replace(cause, layers=layers, also=also)


def _fewest(found: Sequence[tuple[str, Inside]], unseen: tuple[str, ...], eps: float) -> list[Cause]:
    """The causes of wrong values in layers of one kind: of several that explain a value the one that explains most of them."""
    left = [
        (layer, seen, {_general(words, one): (words, one) for words, one in seen.explanations.items()}) for layer, seen in found
    ]
    causes: list[tuple[int, Cause]] = []
    while left:
        counts = Counter(general for _, _, exact in left for general in exact)
        best = max(counts, key=counts.__getitem__)
        mine = [(layer, seen, exact) for layer, seen, exact in left if best in exact]
        _, seen, exact = mine[0]
        ties = tuple(words for general, (words, _) in exact.items() if general != best)
        layers = tuple(dict.fromkeys(layer for layer, _, _ in mine))
        also = unseen if set(layers) == {layer for layer, _ in found} else ()
        error = max(one[best][1].left for _, _, one in mine) / eps
        words, difference = exact[best]
        operations = tuple(difference.data.get("operations", ()))
        cause = Cause(words, layers, error, ties, seen.place, seen.line, difference.kind, also, operations)
        causes.append((next(i for i, (_, one) in enumerate(found) if one is seen), cause))
        left = [one for one in left if best not in one[2]]
    return [cause for _, cause in sorted(causes, key=lambda pair: pair[0])]


LAYERS = re.compile(r"\b(?:patch_embeds|stages|pos_block|norm_list)(?:\.\d+)+")
"""Layers' names in words."""

NUMBERED = re.compile(r"\b[A-Za-z_][\w.]*\d[\w.]*|\(\d+(?:, \d+)+\)")
"""What differs from one stage to the next where operations are written out: names with numbers, and shapes."""


def _general(words: str, difference: Difference) -> str:
    """The words as they are said of each layer of a kind."""
    words = LAYERS.sub(lambda name: form(name.group()), words)
    return NUMBERED.sub(lambda some: re.sub(r"\d+", "#", some.group()), words) if difference.kind == OPERATIONS else words


class Holding:
    """Whether a mistake in the wiring holds for every layer that it touches."""

    def __init__(
        self, report: Report, local: Local, taps: CanonicalTaps, known: Iterable[Mistake], ends: dict[Mistake, float]
    ) -> None:
        """`known` are mistakes that may be there at once; `ends` keeps what `end_to_end` has found."""
        self.report, self.local, self.taps, self.known = report, local, taps, tuple(known)
        self._counts: dict[Mistake, tuple[int, int]] = {}
        self._sizes: dict[str, float] = {}
        self._ends = ends

    def whole(self, others: Iterable[Mistake] = ()) -> Mistake | None:
        """The mistake in the wiring, or two at once, with which the reference gives the candidate's logits from the images on.

        Its layers may be taken for others where blocks are connected otherwise; the logits are not. So `others` are tried too.
        """
        if LOGITS not in self.local.names:
            return None
        wired = [mistake for mistake in self.known if mistake.wiring is not None]
        partly = [mistake for mistake in wired if not self._holds(mistake)][:MOST_WIRED]
        both = (one & other for one, other in combinations(partly, 2) if not one.excludes(other))
        more = (mistake for mistake in others if mistake.wiring is not None and mistake not in wired)
        return next((some for some in chain(partly, both, more) if self.end_to_end(some) <= self.report.tolerance), None)

    def end_to_end(self, mistake: Mistake) -> float:
        """How far the candidate's logits are from those of the reference with this mistake, both from the images on, in eps."""
        if mistake not in self._ends:
            local, actual = self.local, self.taps.wide(LOGITS)
            alone = Local(local.network, local.params, local.images, set(), local.tap)
            self._ends[mistake] = error_with(alone, LOGITS, actual, mistake, self._size(LOGITS)) / EPS[self.report.dtype]
        return self._ends[mistake]

    def everywhere(self, explained: Mapping[str, list[Finding]]) -> tuple[dict[str, list[Finding]], tuple[str, ...]]:
        """The findings that hold, by layer; and in words those that explain some layers only, where nothing else explains these."""
        kept, partly = dict[str, list[Finding]](), dict[Mistake, str]()
        for layer, findings in explained.items():
            whole = [finding for finding in findings if self._holds(finding.mistake)]
            if whole:
                kept[layer] = whole
            else:
                partly.setdefault(findings[0].mistake, layer)
        return kept, tuple(self._said(mistake, layer) for mistake, layer in partly.items())

    def _said(self, mistake: Mistake, layer: str) -> str:
        matched, touched = self._counted(mistake)
        return (
            f"{layer} would match if {mistake.words}; but that explains {matched} of the {touched} layers that it touches, "
            f"and {touched - matched} are not explained"
        )

    def _holds(self, mistake: Mistake) -> bool:
        if mistake.wiring is None:
            return True
        matched, touched = self._counted(mistake)
        return matched == touched

    def _counted(self, mistake: Mistake) -> tuple[int, int]:
        """How many layers the wiring explains of those that it connects otherwise."""
        if mistake not in self._counts:
            right, other = self.local.table(), self.local.table(mistake.wiring)
            rows = [
                row
                for row in self.report.rows
                if not (row.another_value or row.absent) and right.get(row.layer) != other.get(row.layer)
            ]
            self._counts[mistake] = sum(self._matches(row, mistake) for row in rows), len(rows)
        return self._counts[mistake]

    def _matches(self, row: Row, mistake: Mistake) -> bool:
        """With the mistake alone, or with another one that is known beside it."""
        both = (mistake & other for other in self.known if other != mistake and not mistake.excludes(other))
        return any(self._error(row, some) <= self.report.tolerance for some in chain([mistake], both))

    def _error(self, row: Row, mistake: Mistake) -> float:
        actual = self.taps.wide(row.layer)
        return error_with(self.local, row.layer, actual, mistake, self._size(row.layer)) / EPS[self.report.dtype]

    def _size(self, layer: str) -> float:
        """That of the right output of a layer, which is asked for with every mistake."""
        if layer not in self._sizes:
            self._sizes[layer] = float(np.linalg.norm(self.local.output(layer)))
        return self._sizes[layer]

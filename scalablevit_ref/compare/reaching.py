"""How far a change goes inside a wrong layer: the candidate is run again with one token or channel of a right value changed.

What moves is evidence without a fit. It is held against what moves in the reference's layer after the same change.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import numpy as np
from einops import rearrange

from scalablevit_ref.compare.around import Scene, what_gives
from scalablevit_ref.compare.capture.graph import ABSENT
from scalablevit_ref.compare.followed import Piece
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import listed
from scalablevit_ref.compare.reasoning.reach import (
    Grid,
    Law,
    Moved,
    Nothing,
    Size,
    as_seen,
    disputed,
    groups,
    laws_of,
    matrix,
    moved_said,
    places,
    uncovered,
)
from scalablevit_ref.compare.reasoning.reach_lines import Tiles
from scalablevit_ref.compare.reasoning.windows import Measured, Sight, Windows
from scalablevit_ref.compare.steps import INPUT, OUTPUT, run_layer
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.testing.arrays import EPS

FEW, MANY = 4, 12
"""Tokens that are changed: of a value whose changes go as far as in the reference, and of one whose changes do not."""

CHANNELS = 4
"""Channels that are changed."""

LAWS = 4
"""Laws of what moves that are told apart by changing more tokens."""

MOST_RUNS = 40
"""Most runs of the candidate with changes of one value."""

REACH_SECONDS = 20.0
"""Time in seconds after which a layer's values are not changed any more."""

MOST_SEEN = 1 << 24
"""Most pairs of a query and a key for which is said whether one sees the other."""

MOST_GATHERED = 1 << 20
"""Most keys, of each window once, that are put side by side."""

LARGE = 3.0
"""A change, in standard deviations of what is changed."""

EXAMPLES = 3
"""Changed tokens of which the data hold what moved."""

MOST_CELLS = 1 << 13
"""Tokens of the largest map that the data hold."""

NAMES = {"k": "key", "q": "query", "v": "value"}


@dataclass(frozen=True)
class Source:
    """Right numbers of the candidate that are changed: what a step gives or is given, or the layer is fed; of these some channels.

    `what` is one of them, in words: "key", "token of what fc1 gives"; `width` of its channels are changed, from `first` on.
    """

    what: str
    step: str
    side: Literal["made", "given", "input"]
    first: int = 0
    width: int | None = None


@dataclass(frozen=True)
class Place:
    """A wrong value: what a step is given or gives, or the layer gives."""

    step: str
    side: Literal["made", "given"]


@dataclass
class Reached:
    """What moved, each time that a token was changed.

    Attributes
    ----------
    size
        Rows and columns of the map of which a token was changed.
    candidate, reference
        What moved in them, for each change.
    mixed
        Whether in the candidate other images moved than the one that was changed.
    """

    source: Source
    size: Size
    candidate: list[Moved] = field(default_factory=list)
    reference: list[Moved] = field(default_factory=list)
    mixed: bool = False
    _told: dict[int, list[Law]] = field(default_factory=dict, repr=False)  # by the number of changes

    @property
    def differs(self) -> bool:
        """Whether something else moves in the candidate."""
        return any(not np.array_equal(mine.moved, right.moved) for mine, right in _pairs(self))

    @property
    def own_alone(self) -> bool:
        """Whether in the candidate nothing moves but the changed token."""
        return self.size == self.target and all(one.moved.sum() == one.own[one.row, one.column] for one in self.candidate)

    @property
    def target(self) -> Size:
        h, w = self.candidate[0].own.shape
        return h, w

    def laws(self) -> list[Law]:
        """Those of the candidate, the likeliest first."""
        count = len(self.candidate)
        if count not in self._told:
            self._told[count] = laws_of(self.candidate, self.size, LAWS)
        return self._told[count]

    def usual(self) -> Law | None:
        """The reference's law."""
        return next(iter(laws_of(self.reference, self.size)), None)


class Probed:
    """A value that is changed, a place at which is looked, and runs of the candidate and of the reference."""

    def __init__(self, scene: Scene, source: Source, place: Place) -> None:
        """Raises CaptureError where one of the two is not known in the candidate's run, or is not finite."""
        self.scene, self.source, self.place = scene, source, place
        self.actual, self.pieces = self._changed()
        self.watched = self._watched()
        self.before = scene.fetch({piece.value for piece in (*self.watched, *self.pieces)})
        if not all(np.isfinite(x).all() for x in self.before.values()):
            raise CaptureError("it is not finite")
        self.at_rest = self._reference(self.actual)
        self.runs = 0
        x = _as_map(self.actual)
        self.images, self.size = len(x), (x.shape[1], x.shape[2])
        width = x.shape[-1] if source.width is None else source.width
        part = x[..., source.first : source.first + width]
        self.change: np.ndarray = np.random.default_rng(0).standard_normal(width) * LARGE * (float(part.std()) or 1.0)

    def _changed(self) -> tuple[np.ndarray, tuple[Piece, ...]]:
        """The right value, and where the candidate has it."""
        scene, source = self.scene, self.source
        held = (scene.own.outputs if source.side == "made" else scene.own.inputs).get(source.step)
        if source.side == "input":
            if scene.layer.sources == (IMAGES,):
                return rearrange(scene.x, "b c h w -> b h w c"), ()
            return scene.x, (self._piece(scene.layer.sources[-1], scene.x),)
        if held is None or not held.pieces:
            raise CaptureError("it is not followed")
        return held.actual, held.pieces

    def _piece(self, layer: str, expected: np.ndarray) -> Piece:
        value = self.scene.tapped.get(layer, ABSENT)
        x = self.scene.fetch({value}).get(value) if value in self.scene.graph.shapes else None
        layout = None if x is None else self.scene.own.layouts.of(np.asarray(x, np.float64), expected, None)
        if layout is None:
            raise CaptureError("it is not followed")
        return Piece(value, layout)

    def _watched(self) -> tuple[Piece, ...]:
        scene, (step, side) = self.scene, (self.place.step, self.place.side)
        if step == OUTPUT:
            return (self._piece(scene.layer.name, scene.run.output),)
        held = (scene.own.inputs if side == "given" else scene.own.outputs).get(step)
        if held is None or not held.pieces:
            raise CaptureError("it is not followed")
        return held.pieces[:1] if side == "given" else held.pieces

    def moved(self, places: Sequence[tuple[int, int, int]], channel: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What moves, b h w c of bool, in the candidate and in the reference, where tokens are changed: image, row and column.

        Of each token one channel is changed, or all that the source has.
        """
        x = _as_map(self.actual)
        change, first = np.zeros(x.shape), self.source.first
        for image, row, column in places:
            if channel is None:
                change[image, row, column, first : first + len(self.change)] = self.change
            else:
                change[image, row, column, first + channel] = self.change[channel]
        change = change.reshape(self.actual.shape)
        self.runs += 1
        found = self.scene.probe(self._replaced(change), {piece.value for piece in self.watched}) if self.scene.probe else {}
        eps = EPS[self.scene.dtype]
        parts = [piece(_moved(found[piece.value], self.before[piece.value], eps)) for piece in self.watched]
        expected = _moved(self._reference(self.actual + change), self.at_rest, EPS["float64"])
        return _as_map(np.concatenate(parts, -1) > 0), _as_map(expected > 0)

    def _replaced(self, change: np.ndarray) -> dict[int, np.ndarray]:
        """The candidate's own values with the change."""
        scene = self.scene
        if not self.pieces:
            return {scene.graph.images: scene.x + rearrange(change, "b h w c -> b c h w")}
        found = {piece.value: np.array(self.before[piece.value], order="C") for piece in self.pieces}
        start = 0
        for piece in self.pieces:
            x = found[piece.value]
            where = piece(np.arange(x.size, dtype=np.float64).reshape(x.shape)).astype(np.intp)
            width = where.shape[-1]
            start = 0 if start + width > change.shape[-1] else start
            part = change[..., start : start + width]
            x.reshape(-1)[where.ravel()] += part.ravel().astype(x.dtype)
            start += width
        return found

    def _reference(self, x: np.ndarray) -> np.ndarray:
        """The reference's value at the place, the source being `x`."""
        scene, source = self.scene, self.source
        if source.side == "input":
            fed = rearrange(x, "b h w c -> b c h w") if scene.layer.sources == (IMAGES,) else x
            run = run_layer(scene.layer, fed, self._params())
        else:
            run = run_layer(scene.layer, scene.x, self._params(), _Replaced(source.step, source.side, x))
        if self.place.step == OUTPUT:
            return run.output
        step = run[self.place.step]
        return step.given if self.place.side == "given" else step.made

    def _params(self) -> Mapping[str, np.ndarray]:
        return self.scene.local.own_params(self.scene.layer.name)


@dataclass(frozen=True)
class _Replaced:
    """One value of a layer's run that is another."""

    step: str
    side: str
    value: np.ndarray

    def given(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        return self.value if (name, "given") == (self.step, self.side) else None

    def made(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        return self.value if (name, "made") == (self.step, self.side) else None


def _as_map(x: np.ndarray) -> np.ndarray:
    return x if x.ndim == 4 else x[:, None, None]


def _moved(after: np.ndarray, before: np.ndarray, eps: float) -> np.ndarray:
    """1 where a number is another one, beyond a few roundings; else 0."""
    with np.errstate(all="ignore"):
        far = abs(np.asarray(after, np.float64) - before) > 4 * eps * float(np.sqrt(np.mean(np.square(before, dtype=np.float64))))
    return np.asarray(far | (np.isfinite(after) != np.isfinite(before)), np.float64)


# What is changed


def sources_of(scene: Scene, place: Place) -> list[Source]:
    """Right values of which a wrong one should be made; of q, k and v first the keys, which show who sees whom."""
    if place.side == "made" and place.step != OUTPUT:
        return [Source(f"token of what enters {scene.spoken(place.step)}", place.step, "given")]
    found, queue = list[Source](), list(scene.sources.get(place.step, ()) or (INPUT,))
    for name in queue:  # which grows
        if name == INPUT:
            one = "pixel" if scene.layer.sources == (IMAGES,) else "token"
            gives = what_gives(scene.local, scene.layer.name, scene.layer.sources[-1])
            found.append(Source(f"{one} of {gives}", "", "input"))
        elif name in scene.own.outputs:
            found += _parts(scene, name)
        else:
            queue += (other for other in scene.sources.get(name, ()) if other not in queue)
    order = {"key": 0, "query": 1}
    return sorted(dict.fromkeys(found), key=lambda source: order.get(source.what, 2))


def _parts(scene: Scene, step: str) -> list[Source]:
    held, named = step.rpartition(".")[2].removeprefix("to_"), scene.spoken(step)
    if not set(held) <= set("qkv"):
        what = "LIM's output" if named == "LIM" else f"what {named} gives"
        return [Source(f"token of {what}", step, "made")]
    width = scene.effective(step).shape[-1] // len(held)
    return [Source(NAMES[letter], step, "made", i * width, width) for i, letter in enumerate(held)]


# What moves


def reached(scene: Scene, source: Source, place: Place) -> Reached | None:
    """What moves where tokens of a source are changed, found once; None where the candidate cannot be run so."""
    key = (source.what, source.step, place)
    if EPS[scene.dtype] > EPS["float32"]:  # small movements are lost in rounding
        return None
    if key not in scene.found:
        try:
            scene.found[key] = _reached(scene, Probed(scene, source, place))
        except CaptureError:
            scene.found[key] = None
    known: Reached | None = scene.found[key]
    return known


def _over(scene: Scene, times: int = 1) -> bool:
    """Whether the time for changes is over, or so many times as much."""
    start: float = scene.found.setdefault("start", time.monotonic())
    return time.monotonic() > start + times * REACH_SECONDS


def _reached(scene: Scene, probed: Probed) -> Reached | None:
    needed = probed.source.what == NAMES["q"]  # without which what is known of the keys explains nothing
    if scene.probe is None or _over(scene, 3 if needed else 1):
        return None
    found = Reached(probed.source, probed.size)
    few, many = places(probed.size, FEW), places(probed.size, MANY)
    _change(found, probed, few[:1])
    found.mixed = bool(np.delete(found.candidate[0].moved, 0, 0).any())
    _change(found, probed, few[1:])
    if not found.differs:
        return found
    for i in range(FEW, len(many), probed.images):
        if not _over(scene):
            _change(found, probed, many[i : i + probed.images])
    while probed.runs < MOST_RUNS and not _over(scene):
        laws = found.laws()
        apart = (disputed(laws[0], other, found.size, found.target) for other in laws[1:])
        more = [at for at in apart if at is not None][:1] if laws else _uncovered(found)[: probed.images]
        if not more:
            break
        _change(found, probed, more)
    return found


def _uncovered(found: Reached) -> list[Size]:
    """Tokens whose groups are not known yet, where tokens may move in groups."""
    if found.mixed or found.target != found.size or any(not one.own[one.row, one.column] for one in found.candidate):
        return []
    return uncovered(found.candidate, found.size)


def _change(found: Reached, probed: Probed, tokens: Sequence[Size]) -> None:
    """Change these tokens: of each image another one at a time, unless images are mixed."""
    images = 1 if found.mixed or not found.candidate else probed.images
    for i in range(0, len(tokens), images):
        some = [(image, *at) for image, at in enumerate(tokens[i : i + images])]
        moved = [np.asarray(x.any(-1)) for x in probed.moved(some)]
        for image, row, column in some:
            for x, kept in zip(moved, (found.candidate, found.reference), strict=True):
                own = x if images == 1 else np.asarray(x * (np.arange(len(x)) == image)[:, None, None])
                kept.append(Moved(image, row, column, own))


# What each query sees


def sights(scene: Scene, step: str) -> Measured:
    """Which keys each query sees in an attention before a step."""
    place = Place(step, "given")
    sources = {source.what: source for source in sources_of(scene, place)}
    if scene.probe is None or not {"key", "query"} <= sources.keys():
        return Measured()
    keys, queries = (reached(scene, sources[name], place) for name in ("key", "query"))
    if keys is None or queries is None or keys.mixed or queries.mixed:
        return Measured(mixed=keys is not None and queries is not None)
    if not keys.differs and not queries.differs:
        return Measured(right=True)
    if not any(one.own.any() for one in keys.candidate):
        return Measured(dead=True)
    n, m = prod(queries.size), prod(keys.size)
    if queries.target != queries.size or n * m > MOST_SEEN:
        return Measured()
    target, words, data = np.arange(n), "", _data(keys)
    if not queries.own_alone:
        law = next(iter(queries.laws()), None)
        put = None if law is None else matrix(law, queries.size, queries.target)
        if law is None or put is None or not (put.sum(1) == 1).all():
            return Measured()
        target, words = put.argmax(1), f", and its output is put at {law.words}"
        keys = _put_back(keys, target)
    usual = keys.usual()
    other = "" if usual is None or not keys.differs else f", not {as_seen(usual)}"
    told: list[tuple[np.ndarray, str, Law | None]] = []
    for law in keys.laws():
        reach = matrix(law, keys.size, keys.target)
        if not any(np.array_equal(reach, known) for known, _, _ in told):
            told.append((reach, f"{as_seen(law)}{other}", law))
    if not told and keys.size == keys.target and (apart := groups(keys.candidate, keys.size)) is not None:
        told = [(apart, f"{_group_said(keys)}{other}", None)]
    found = (_windows(Sight(seen.T, target, f"each query sees {said}{words}", data), law) for seen, said, law in told)
    return Measured(tuple(windows for some in found for windows in some))


def _put_back(keys: Reached, target: np.ndarray) -> Reached:
    """What moved where the queries are, each of whose outputs is put at a token."""
    shape = keys.candidate[0].moved.shape
    moves = [replace(one, moved=one.moved.reshape(shape[0], -1)[:, target].reshape(shape)) for one in keys.candidate]
    return replace(keys, candidate=moves, _told={})


def _group_said(keys: Reached) -> str:
    one = keys.candidate[0]
    tokens = np.flatnonzero(one.own.ravel()).tolist()
    return f"its group of {len(tokens)} tokens, which is no window of the map (one is of tokens {listed(tokens)})"


def _windows(sight: Sight, law: Law | None) -> Iterable[Windows]:
    """What may stand for a sight: where queries see more or fewer keys, too with zeros in place of those that some do not see."""
    counts, distinct = sight.seen.sum(1), len(np.unique(sight.seen, axis=0))
    if distinct * int(counts.max()) > MOST_GATHERED:
        return
    size = (1, int(counts.max()))
    shift = (0, 0)
    if isinstance(law, Grid) and isinstance(law.rows, Tiles) and isinstance(law.columns, Tiles):
        size, shift = (law.rows.size, law.columns.size), (law.rows.start, law.columns.start)
    for hidden in (True, False)[: 1 if (counts == counts[0]).all() else 2]:
        yield Windows(size, "measured", shift, hidden=hidden, sight=sight)


# In words


def reach_of(scene: Scene, place: Place) -> tuple[list[Difference], list[Difference]]:
    """What moves otherwise than in the reference, as facts; and, where nothing does, that."""
    if scene.probe is None:
        return [], []
    sources = sources_of(scene, place)
    found = list[Reached]()
    for source in sources:
        if source.what == NAMES["v"] and any(one.differs for one in found):
            continue  # what is seen of keys is seen of values
        one = reached(scene, source, place)
        if one is not None and not (source.what == NAMES["q"] and one.own_alone and any(other.differs for other in found)):
            found.append(one)
    other = [_said(scene, one, place) for one in found if one.differs]
    if other or not found:
        return other, []
    other = _of_channels(scene, found[0].source, place)
    if other:
        return other, []
    usual = found[0].usual()
    if usual is None:
        return [], []
    words = f"what moves where one {found[0].source.what} is changed is right: {_law_said(found[0], usual)}"
    return [], [Difference("reach", words, 1.0, {"of": found[0].source.what, "law": usual.words, "reference": usual.words})]


def _law_said(found: Reached, law: Law) -> str:
    """What a law says of the source's tokens, as a clause."""
    if isinstance(law, Nothing):
        return "it has no influence"
    return f"each query sees {as_seen(law)}" if found.source.what == "key" else f"it reaches {law.words}"


def _said(scene: Scene, found: Reached, place: Place) -> Difference:
    """What moves, of one token as an example; and which law that follows."""
    mine, right = next(pair for pair in _pairs(found) if not np.array_equal(pair[0].moved, pair[1].moved))
    at = f" at row {mine.row}, column {mine.column}" if prod(found.size) > 1 else ""
    words = f"one {found.source.what} changed{at}: in the candidate {_moved_said(mine, found.size)}, "
    words += f"in the reference {_moved_said(right, found.size)}"
    law, usual = next(iter(found.laws()), None), found.usual()
    alike = np.array_equal(mine.own, right.own)
    words += ": images are mixed" * found.mixed
    if law is not None and usual is not None and law != usual:
        other = "" if isinstance(law, Nothing) else f", not {as_seen(usual) if found.source.what == 'key' else usual.words}"
        words += f": {_law_said(found, law)}{other}"
    elif law is None and usual is not None and not alike:
        words += f": that follows no law that is known here; in the reference {_law_said(found, usual)}"
    laws = {"law": "" if law is None else law.words, "reference law": "" if usual is None else usual.words}
    return Difference("reach", words, 1.0, {**laws, "images mixed": found.mixed, **_data(found)})


def _pairs(found: Reached) -> Iterator[tuple[Moved, Moved]]:
    return zip(found.candidate, found.reference, strict=True)


def _data(found: Reached) -> dict[str, Any]:
    """What was changed, and examples of what moved."""
    shown = sorted(_pairs(found), key=lambda pair: np.array_equal(pair[0].moved, pair[1].moved))[:EXAMPLES]
    examples = [_example(mine, right, found.size) for mine, right in shown] if prod(found.target) <= MOST_CELLS else []
    return {"of": found.source.what, "changed": len(found.candidate), "examples": examples}


def _moved_said(one: Moved, size: Size) -> str:
    """What moved, with the other images, if any of their tokens did."""
    others = [image for image in range(len(one.moved)) if image != one.image and one.moved[image].any()]
    alone = one.own.sum() == 1 and one.own.shape == size and one.own[one.row, one.column]
    said = "it alone moves" if alone else moved_said(one.own)
    return f"{said}, and tokens of other images too" if others else said


def _example(mine: Moved, right: Moved, size: Size) -> dict[str, Any]:
    """A changed token of a map of this size, and maps of what moved: a string of 0 and 1 for each row."""
    maps = {
        name: ["".join("01"[int(x)] for x in row) for row in one.own] for name, one in (("candidate", mine), ("reference", right))
    }
    return {"image": mine.image, "row": mine.row, "column": mine.column, "size": list(size), **maps}


def _of_channels(scene: Scene, source: Source, place: Place) -> list[Difference]:
    """Channels that move otherwise, where one channel of a token is changed."""
    try:
        probed = Probed(scene, source, place)
    except CaptureError:
        return []
    c, (row, column) = len(probed.change), places(probed.size, 1)[0]
    for channel in dict.fromkeys((c // 2, 0, c - 1, c // 3)[:CHANNELS]):
        if _over(scene):
            break
        try:
            mine, right = (np.flatnonzero(x.any((0, 1, 2))).tolist() for x in probed.moved([(0, row, column)], channel))
        except CaptureError:
            break
        if mine != right:
            words = (
                f"one channel of a {source.what} changed (channel {channel}): in the candidate {_channels_said(mine)}, "
                f"in the reference {_channels_said(right)}"
            )
            return [Difference("reach", words, 1.0, {"of": source.what, "channel": channel, "candidate": mine, "reference": right})]
    return []


def _channels_said(channels: Sequence[int]) -> str:
    if not channels:
        return "nothing moves"
    return f"channel{'s' * (len(channels) > 1)} {listed(channels)} move{'s' * (len(channels) == 1)}"

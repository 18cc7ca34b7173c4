"""A candidate against the reference, layer by layer: which goes wrong first, by how much, and why.

To be read from top to bottom: what is compared is settled, the candidate is run, its layers are held against the reference's, and
the mistake is searched.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalablevit_ref.arguments import (
    FLOATS,
    check_choice,
    check_flag,
    check_function,
    check_instance,
    check_mapping,
    check_not_negative,
    check_text,
)
from scalablevit_ref.backends.threads import share, threads_at_hand
from scalablevit_ref.checkpoints import Checkpoint
from scalablevit_ref.checkpoints.in_one_dtype import load_in_one_dtype
from scalablevit_ref.compare.capture import Capturable, Captured, CaptureError, Conditions, candidate_of
from scalablevit_ref.compare.capture.alignment import CanonicalTaps
from scalablevit_ref.compare.capture.arrays import array_of, image_batch, shape_said
from scalablevit_ref.compare.capture.followed import Place
from scalablevit_ref.compare.capture.graph import Graph, makers
from scalablevit_ref.compare.capture.own_code import OwnCodeError, own_code
from scalablevit_ref.compare.capture.traces import Trace, TraceFile
from scalablevit_ref.compare.diagnosis import diagnosed
from scalablevit_ref.compare.mistakes.catalogue import limits
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.own_weights import OwnWeights, own_weights
from scalablevit_ref.compare.quantised import noise_of_layers, told_together, unfit_ranges, weights_of
from scalablevit_ref.compare.report import LeftOut, Report, Row
from scalablevit_ref.config import variant as named_variant
from scalablevit_ref.errors import brief, option
from scalablevit_ref.layers import POOL, total
from scalablevit_ref.networks import Network, network_of
from scalablevit_ref.run_cost import CostError, check_run, run_cost
from scalablevit_ref.testing.arrays import EPS, NETWORK_TOLERANCE, Comparison, compare_arrays, random_images, random_params
from scalablevit_ref.testing.traces import SUFFIXES

Mode = Literal["both", "propagated", "isolated"]
MODES: tuple[Mode, ...] = ("both", "propagated", "isolated")

BATCH = 2
"""How many random images are drawn: a batch of one would hide what mixes images."""

WIDEST = 4
"""Largest ratio of the sides of random images."""

BEHIND = ("returned", "added")
"""How places are found that lie behind what a layer's parameters have made."""

FACTOR = re.compile(r"they are -?[\d.e-]+ times the file's")
"""Words for a weight that is the file's but for a factor."""

SQUARE = "only square images were tried, which hide that H and W are interchanged"


class Proves(ABC):
    """What proves the errors of layers that were compared: a `certify.compared.Prover`, which says what it is given."""

    @abstractmethod
    def check(
        self, network: Network, images: np.ndarray | None, weights: Mapping[str, np.ndarray] | None, *, given: bool, costly: bool
    ) -> None:
        """Raise where nothing would be proved, before anything runs."""

    @abstractmethod
    def __call__(
        self,
        report: Report,
        local: Local | None,
        taps: CanonicalTaps,
        *,
        as_it_is: bool,
        costly: bool,
        progress: Callable[[str], None],
    ) -> Any:
        """The certificate."""


@dataclass(frozen=True)
class Request:
    """The arguments of `compare`, which says what each means."""

    candidate: Any
    reference: Any
    variant: Any
    weights: Any
    images: Any
    mode: Mode
    dtype: str | None
    names: Mapping[str, str] | None
    tolerance: float | None
    diagnosis: bool
    progress: Callable[[str], None]
    costly: bool
    as_it_is: bool
    certify: Proves | None

    def tolerance_in(self, dtype: str) -> float:
        """In eps of this dtype, in which the candidate computed."""
        return NETWORK_TOLERANCE[dtype] if self.tolerance is None else self.tolerance


def compare(
    candidate: Any,
    *,
    reference: Any = None,
    variant: Any = None,
    weights: Any = None,
    images: Any = None,
    mode: Mode = "both",
    dtype: str | None = None,
    names: Mapping[str, str] | None = None,
    tolerance: float | None = None,
    diagnosis: bool = True,
    progress: Callable[[str], None] = lambda step: None,
    costly: bool = False,
    as_it_is: bool = False,
    certify: Proves | None = None,
) -> Report:
    """Hold a port of the network against the reference in float64: the error of each of its layers, and the likely mistake.

    Layers that the candidate does not show are not compared: the report counts them (`left_out`), its verdict is about the others.

    Parameters
    ----------
    candidate
        A `torch.nn.Module`, a Flax module (nnx, or linen bound to its variables), a Keras 3 model, a `tf.Module`, `tf.function`,
        concrete function or SavedModel (its folder), a JAX function of the images that has its parameters (a partial, a closure, a
        pytree that is called), another function of b c h w images that gives logits or a
        mapping of layers' names to arrays, such a mapping, or a file: a trace (.npz, .safetensors) or a model (.onnx).
    reference
        A trace (a mapping or a file) to hold the candidate's against, where the network is not to be run; without `weights` there
        is then no isolated error and no diagnosis.
    variant
        The network's name, or its settings: a `ScalableViTConfig`, or a dialect's `Config`. Not needed where `weights` or a
        module's state dict tell.
    weights
        Official parameters (a mapping, a Checkpoint, a file); "random", the default for modules, draws weights behind which no
        mistake hides and puts them into a copy of the module; "own" takes the module's. Of a module that came with most of the
        given weights, those that differ are told, and it does not agree.
    images
        b c h w; by default two random ones, not square where the network takes such, and different in each channel.
    mode
        "propagated" runs both networks from the images on, so that a layer inherits the errors before it; "isolated" gives the
        reference's layer what the candidate's own layers before it gave, so that what differs is this layer's doing; "both" does
        both.
    dtype
        What a module is converted to; by default float64, in which rounding hides nothing. "own" leaves it.
    names
        From layers to the candidate's names, "{k}" and "{i}" standing for all stages and blocks; of a trace, from "images" too.
        What matches nothing is refused. Without it the official names are looked for, then modules with parameters of the same
        sizes in the same order.
    tolerance
        In eps of the candidate's dtype, ‖Δ‖ / ‖reference‖; by default `NETWORK_TOLERANCE`.
    diagnosis
        Whether to look for the mistake where a layer differs.
    progress
        Called with each step, in words, when it begins.
    costly
        Whether the reference is run also where it takes more than the weights and images account for (`run_cost.check_run`).
    as_it_is
        Whether a module keeps its own weights and its own dtype, while the reference has those that are given.
    certify
        A `certify.compared.Prover` also proves the errors of the layers, from below and from above, against the exact result for
        these weights and images (`Report.certificate`). It needs the extra `certified`; `small` takes minutes.

    Raises
    ------
    ValueError, TypeError
        In one line, where the two cannot be compared: other weights, other images, outputs that fit no layer. Of the ValueErrors,
        a CaptureError is about the candidate, a CheckpointError about a file, and a CostError about the cost. What the candidate's
        own code raises is the cause of a CaptureError that says where it was raised. With `certify`, also where nothing can be
        proved.
    ModuleNotFoundError
        For `certify` without its extra.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint, trace
    >>> from scalablevit_ref.testing import random_images
    >>> found = load_checkpoint(digits.CHECKPOINT)
    >>> images = random_images((1, 1, 112, 112), dtype="float32")
    >>> wrong = found.params | {"head.bias": 0 * found.params["head.bias"]}
    >>> port = trace(images, wrong, found.config)
    >>> report = compare(port, weights=found, images=images)
    >>> report.agrees, report.first.layer, report.causes[0].words
    (False, 'head', 'head.bias is left out')
    """
    if not (isinstance(mode, str) and mode in MODES):
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {brief(mode)}")
    if dtype is not None:
        check_choice("dtype", dtype, (*FLOATS, "own"))
    if names is not None:
        check_mapping("names", names, of="layers to the candidate's names")
        for layer in (*names, *names.values()):
            check_text("a name in names", layer)
    if tolerance is not None:
        check_not_negative("tolerance", tolerance)
    check_flag("diagnosis", diagnosis)
    check_flag("costly", costly)
    check_flag("as_it_is", as_it_is)
    if certify is not None:
        check_instance("certify", certify, Proves, "a certify.compared.Prover")
    check_function("progress", progress)
    if not (variant is None or isinstance(variant, str)):
        try:
            network_of(variant)
        except TypeError as error:
            raise TypeError(f"variant: {error}") from None
    request = Request(
        candidate,
        reference,
        variant,
        weights,
        images,
        mode,
        dtype,
        names,
        tolerance,
        diagnosis,
        progress,
        costly,
        as_it_is,
        certify,
    )
    with ExitStack() as files:
        port, conditions, trace = _settled(request, files)
        report, both = _compared(request, port, conditions, trace, files)
        drawn = request.images is None and trace is None and not port.brings_images
        if drawn and report.layers_agree and not report.unsteady:
            report, both = _on_other_images(request, port, conditions, files, (report, both))
        if certify is None:
            return report
        certificate = certify(report, both.local, both.taps, as_it_is=as_it_is, costly=costly, progress=progress)
        return replace(report, certificate=certificate)


def _compared(request: Request, port: Capturable, conditions: Conditions, trace: Captured | None, files: ExitStack) -> Found:
    captured = _looked_at(request, port, conditions, files)
    if captured.quantised is not None:
        return _of_quantised(request, captured, conditions, trace)
    both = _side_by_side(port, conditions, captured, trace)
    weights = _own_weights(request, captured)
    if weights is not None and not port.takes_weights:  # those that are wrong have been refused
        weights = replace(weights, slips=tuple(replace(slip, harmless=True) for slip in weights.slips))
    return _reported(request, captured, both, weights), both


def _looked_at(request: Request, port: Capturable, conditions: Conditions, files: ExitStack) -> Captured:
    captured = _captured(request, port, conditions, files)
    if captured.dtype not in EPS:
        raise CaptureError(f"the candidate computes in {captured.dtype}: expected {', '.join(EPS)}")
    if conditions.images is None:
        _check_cost(request, conditions.network, captured.images.shape)
    return captured


def _side_by_side(port: Capturable, conditions: Conditions, captured: Captured, trace: Captured | None) -> SideBySide:
    params = _common_weights(captured, conditions, trace, takes_weights=port.takes_weights)
    return SideBySide(conditions.network, captured, params, trace)


def _on_other_images(request: Request, port: Capturable, conditions: Conditions, files: ExitStack, square: Found) -> Found:
    """The report of a candidate that agrees on square images, after a look at others, which show H and W interchanged."""
    images, (report, both) = _wide_images(request, conditions.network), square
    if images is None:
        return replace(report, notes=(*report.notes, SQUARE)), both
    size = shape_said(images.shape[2:])
    request.progress(f"images of {size} pixels")
    conditions = replace(conditions, images=images)
    try:
        if request.mode != "isolated" and _agrees_end_to_end(request, port, conditions, files):
            return square
        wide, both_wide = _compared(request, port, conditions, None, files)
    except CaptureError as error:
        return replace(report, notes=(*report.notes, f"{SQUARE}: on {size} pixels {error}")), both
    if wide.layers_agree:
        return square
    notes = (f"on square images it agrees: on {size} pixels it does not (H and W are interchanged?)", *wide.notes)
    return replace(wide, notes=notes), both_wide


def _agrees_end_to_end(request: Request, port: Capturable, conditions: Conditions, files: ExitStack) -> bool:
    """Whether a candidate that repeats itself gives in one run, layer by layer, what the reference computes from the images on.

    Then each layer is right too on what the candidate feeds it, which is what the reference feeds it.
    """
    captured = _looked_at(request, port, replace(conditions, once=True), files)
    if captured.quantised is not None:
        return False
    both, tolerance = _side_by_side(port, conditions, captured, None), request.tolerance_in(captured.dtype)
    return both.local is not None and not _over(both.propagated(), tolerance)


def _settled(request: Request, files: ExitStack) -> tuple[Capturable, Conditions, Captured | None]:
    """The candidate, what it is run with, and the reference's trace if there is one, whose file `files` closes.

    All that was given or must be guessed is checked here, before anything runs.
    """
    variant, weights = request.variant, request.weights
    with own_code("looking at the candidate"):
        candidate = candidate_of(request.candidate)
    if isinstance(weights, Path) or (isinstance(weights, str) and weights not in ("random", "own")):
        weights = load_in_one_dtype(weights, variant=variant if isinstance(variant, str) else None)
    config = named_variant(variant) if isinstance(variant, str) else variant
    if isinstance(weights, Checkpoint):
        config, weights = config or weights.config, weights.params
    if config is None and request.reference is not None:
        config = candidate_of(request.reference).config()
    config = config or candidate.config()
    if config is None:
        raise CaptureError("which network? ", option("variant"), " names it (small, base, …), or gives its ScalableViTConfig")
    network = network_of(config)
    params = _known_weights(weights, network, candidate)
    images = None if request.images is None else image_batch(request.images, network, "images")
    trace = None
    if request.reference is not None:
        trace = _reference(request.reference, Conditions(network, images), files)
        images = trace.images
    if images is not None:
        _check_cost(request, network, images.shape)
    elif not candidate.brings_images:
        images = _usual_images(request, network)
    if request.certify is not None:
        given = request.images is not None or trace is not None
        request.certify.check(network, images, params, given=given, costly=request.costly)
    dtype = None if request.dtype == "own" or request.as_it_is or not candidate.takes_weights else request.dtype or "float64"
    drawn = params is not None and (weights is None or isinstance(weights, str))
    return candidate, Conditions(network, images, params, dtype, request.names, not request.as_it_is, drawn), trace


def _usual_images(request: Request, network: Network) -> np.ndarray:
    """Random images, square."""
    shape = (BATCH, network.in_chans, *[network.usual_image_size()] * 2)
    _check_cost(request, network, shape, given=False)
    return random_images(shape)


def _wide_images(request: Request, network: Network) -> np.ndarray | None:
    """Random images that are not square, nor are their maps; None where the network takes none near, or they cost too much."""
    side = network.usual_image_size()
    for width in range(side + 4, WIDEST * side + 1, 4):
        shape = (BATCH, network.in_chans, side, width)
        try:
            network.check_image_size(side, width)
            if any(len(map_) == 4 and map_[1] == map_[2] for map_ in network.layer_shapes(shape).values()):
                continue
            _check_cost(request, network, shape, given=False)
        except CostError:
            return None
        except ValueError:
            continue
        return random_images(shape)
    return None


def _captured(request: Request, candidate: Capturable, conditions: Conditions, files: ExitStack) -> Captured:
    """The candidate's layers; where no dtype was asked for and it cannot run in float64, or computes in another, in its own."""
    if request.dtype is not None or conditions.dtype is None:
        return candidate.capture(conditions, files)
    own = replace(conditions, dtype=None)
    try:
        captured = candidate.capture(conditions, files)
    except OwnCodeError as error:
        try:
            captured = candidate.capture(own, files)
        except OwnCodeError:
            raise error from error.__cause__
        return replace(captured, notes=(f"in float64 {error}", *captured.notes))
    if captured.narrowest in ("", conditions.dtype):
        return captured
    narrow = candidate.capture(own, files)
    if narrow.dtype == conditions.dtype or EPS.get(captured.narrowest, 0) > EPS["float32"]:
        return narrow
    words = f"part of it computes in {captured.narrowest} whatever it is given: it is compared in {narrow.dtype}"
    return replace(narrow, notes=(words, *narrow.notes))


def _check_cost(request: Request, network: Network, images: Sequence[int], *, given: bool = True) -> None:
    """Raise CostError, unless asked for, where the reference takes too much beside a candidate; its layers also run in threads."""
    if request.costly or images[1:2] != (network.in_chans,) or len(images) != 4:  # the comparison says what is wrong with them
        return
    layers = threads_at_hand() * run_cost(network, images).memory
    check_run(network, images, keeping=True, whole=True, beside=layers, given=given)


def _known_weights(weights: Any, network: Network, candidate: Capturable) -> dict[str, np.ndarray] | None:
    """None for the candidate's own."""
    if isinstance(weights, str) and not candidate.takes_weights:
        raise CaptureError(f"weights={weights} is for modules: give the file that the candidate has its weights from")
    if weights == "own" or (weights is None and not candidate.takes_weights):
        return None
    if weights is None or isinstance(weights, str):
        return random_params(network.parameter_shapes())
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a mapping of names to arrays, a Checkpoint, a file, random or own, got {weights!r}")
    return network.checked_params({name: array_of(value, f"weights: {name!r}") for name, value in weights.items()})


def _reference(reference: Any, conditions: Conditions, files: ExitStack) -> Captured:
    """A reference's trace. Its images must be those that are given, if any are."""
    trace = Trace(reference, "the reference") if isinstance(reference, Mapping) else candidate_of(reference)
    if not isinstance(trace, Trace | TraceFile):
        raise CaptureError(f"reference: expected a trace ({', '.join(SUFFIXES)}), got {str(reference)!r}")
    return trace.capture(conditions, files)


def _common_weights(
    captured: Captured, conditions: Conditions, trace: Captured | None, *, takes_weights: bool
) -> Mapping[str, np.ndarray] | None:
    """The weights that both have, checked before any layer is; None if only a reference's trace is known."""
    given = conditions.weights
    own = None if captured.params is None else conditions.network.checked_params(captured.params)
    if own is None and given is None:
        if trace is not None:
            return None
        raise CaptureError(f"weights must be given for a {captured.kind}, which does not tell its own")
    if own is None or given is None:
        return given if own is None else own
    if captured.followed is not None and takes_weights:
        return own if conditions.load else given  # as the candidate has rounded them
    found = own_weights(own, given)
    factors = [slip for slip in found.slips if FACTOR.match(slip.words) and not slip.harmless]
    others = [slip for slip in found.slips if slip not in factors and not slip.harmless]
    if found.loaded and factors and not others and captured.followed is not None:
        # an optimiser may have multiplied a weight by what its result is multiplied by: the layers tell
        return {**own, **{name: given[name] for slip in factors for name in slip.names}}
    if found.wrong or not found.loaded:
        slips = "; ".join(map(str, found.slips))
        raise CaptureError(f"weights differ: {slips}; load the same weights into both, then compare")
    return own


def _own_weights(request: Request, captured: Captured) -> OwnWeights | None:
    """The weights that a module came with, beside those that were given for it; None where none were."""
    weights, module = request.weights, captured.followed
    if module is None or weights is None or (isinstance(weights, str) and weights in ("random", "own")):
        return None
    given = captured.params if module.given is None else module.given
    return None if given is None else own_weights(module.own, given)


class SideBySide:
    """A candidate's layers, and the reference's.

    Attributes
    ----------
    order
        The layers that the candidate gave, in the network's order.
    local
        The reference's layers one at a time; None where the weights are not known.
    values
        Of a candidate whose graph is known, the values in it that are taken for the layers' outputs.
    """

    def __init__(
        self,
        network: Network,
        captured: Captured,
        params: Mapping[str, np.ndarray] | None,
        trace: Captured | None,
    ) -> None:
        """`trace` stands in for the reference's own run, if there is one."""
        self.network, shapes = network, network.layer_shapes(captured.images.shape)
        self.captured = captured
        places = {} if captured.followed is None else captured.followed.places
        self.values = {name: some[0].value for name, some in places.items()}
        self.taps = CanonicalTaps(captured.taps, captured.modules, captured.dtype, shapes)
        self.trace = None if trace is None else CanonicalTaps(trace.taps, trace.modules, trace.dtype, shapes)
        self.order = tuple(name for name in network.layers() if name in self.taps)
        self.local = Local(network, params, captured.images, set(self.order), self.taps.wide) if params is not None else None

    def propagated(self) -> dict[str, Comparison]:
        """Each layer against what the reference computes from the images on, or what its trace holds."""
        found: dict[str, Comparison] = {}

        def hold(name: str, expected: np.ndarray) -> np.ndarray:
            if name in self.taps:
                found[name] = self._held(name, expected)
            return expected

        if self.trace is not None:
            for name in self.order:
                if name in self.trace:
                    hold(name, self.trace(name))
            return found
        local = self.local
        assert local is not None
        if self.network.runs_as_named:
            self.network.forward(local.images, local.params, hold)
        else:
            Local(self.network, local.params, local.images, set(), local.tap).end_to_end(hold)
        return found

    def settle(self, wrong: Collection[str], tolerance: float) -> bool:
        """Look for these layers' outputs in other places of the candidate: whether one was found.

        Where none has it, what the candidate's own module gives is taken.
        """
        module, local, moved = self.captured.followed, self.local, False
        if module is None or local is None:
            return False
        others = {name: module.places[name][1:] for name in wrong if module.places.get(name, ())[1:]}
        if not others:
            return False
        values = module.fetch({place.value for places in others.values() for place in places})
        for name in self.order:
            if name in others:
                moved |= self._settled_elsewhere(name, others[name], values, tolerance)
        return moved

    def _settled_elsewhere(self, name: str, places: Sequence[Place], values: Mapping[int, np.ndarray], tolerance: float) -> bool:
        assert self.local is not None
        with np.errstate(all="ignore"):
            expected = self.local.output(name)
        if self._held(name, expected).error <= tolerance:
            return False
        acting = {place.value for place in self.captured.followed.places[name] if place.how not in BEHIND}
        taken, better = self.values[name] in acting, list[Place]()

        def found(place: Place) -> bool:
            nonlocal taken
            error = self._held(name, expected).error
            if error > tolerance and place.how in BEHIND and taken:
                taken = place.value in acting
                better.append(place)
            return error <= tolerance

        return self._moved(name, places, values, found) or self._moved(name, better[-1:], values, lambda place: True)

    def _moved(self, name: str, places: Sequence[Place], values: Mapping[int, np.ndarray], found: Callable[[Place], bool]) -> bool:
        """Take the first of these places for a layer's output at which it is `found`; else leave it where it is."""
        kept = self.taps.taps[name], self.taps.modules[name], self.values[name]
        for place in places:
            self._put(name, self.captured.followed.output(place, values), place.called, place.value)
            with suppress(CaptureError):
                if found(place):
                    return True
        self._put(name, *kept)
        return False

    def blame(self, wrong: Collection[str], tolerance: float) -> bool:
        """Find what goes wrong behind a layer and before the next, as a second activation: whether that is this layer's doing.

        Where a layer is wrong and would be right with what one of its sources gives elsewhere (what its module returns, what is
        added to the residual stream), or with the source's rows and columns as they lie, then that is what the source gives, and it
        is the source that is wrong.
        """
        module, local, moved = self.captured.followed, self.local, False
        if module is None or local is None:
            return False
        table = local.table()
        sources = dict.fromkeys(
            source for name in wrong if name in self.taps for source in table[name].sources if source in self.order
        )
        others = {
            source: [place for place in module.places[source] if self._may_lie_behind(source, place)]
            for source in sources
            if source in module.places
        }
        values = module.fetch({place.value for places in others.values() for place in places}) if any(others.values()) else {}
        for source, places in others.items():
            after = [name for name in self.order if source in table[name].sources]
            moved |= self._blamed(source, places, values, after, wrong, tolerance)
        return moved

    def _blamed(
        self,
        source: str,
        places: Sequence[Place],
        values: Mapping[int, np.ndarray],
        after: Sequence[str],
        wrong: Collection[str],
        tolerance: float,
    ) -> bool:
        local = self.local
        assert local is not None

        def found(place: Place) -> bool:
            self._held(source, local.output(source))
            everywhere, layout = place.how == "taken", self.taps.layout_of(source)
            if self._right_behind(after, wrong, tolerance, everywhere=everywhere):
                return True
            if not self.taps.lay_as_usual(source):
                return False
            if self._right_behind(after, wrong, tolerance, everywhere=everywhere):
                return True
            self.taps.lay(source, layout)
            return False

        here = Place(self.values[source], self.taps.modules[source], "acting")
        return self._moved(source, places, values, found) or found(here)

    def _right_behind(self, after: Sequence[str], wrong: Collection[str], tolerance: float, *, everywhere: bool) -> bool:
        """Whether layers are right with what their source is now taken to give: all of them, or one that was wrong."""
        local = self.local
        assert local is not None
        agree = (self._held(name, local.output(name)).error <= tolerance for name in after)
        return all(agree) if everywhere else any(name in wrong and good for name, good in zip(after, agree, strict=True))

    def _may_lie_behind(self, source: str, place: Place) -> bool:
        """Whether a place of a layer's output lies behind what is taken for it."""
        if place.value == self.values[source]:
            return False
        if place.how != "taken":
            return place.how in BEHIND
        module, here = self.captured.followed, self.values[source]
        return bool(module.only_changed(source, place.value, here)) and not module.moved_by_others(source, place.value, here)

    def _put(self, name: str, x: np.ndarray, called: str, value: int) -> None:
        self.taps.put(name, x, called)
        self.values[name] = value

    def elsewhere(self, propagated: Mapping[str, Comparison], tolerance: float) -> frozenset[str]:
        """Layers whose output is shown wrongly: theirs is off, and the blocks and the logits agree end to end all the same.

        In 16 bits these would agree with many a mistake.
        """
        over, table = _over(propagated, tolerance), self.network.layers()
        order = list(table)
        sums = [name for name in order if table[name].function is total]
        behind = [next(block for block in sums if order.index(block) >= order.index(name)) for name in over]
        if not {"logits", *behind} <= propagated.keys() - set(over) or EPS[self.taps.dtype] > EPS["float32"]:
            return frozenset()
        return frozenset(over)

    def without(self, names: Collection[str]) -> None:
        """Compare these layers end to end alone: what the candidate shows there is another value than what it goes on with."""
        assert self.local is not None
        left = set(self.order) - set(names)
        self.local = Local(self.network, self.local.params, self.local.images, left, self.taps.wide)

    def isolated(self, *, in_threads: bool) -> tuple[dict[str, Comparison], set[str]]:
        """Each layer against what the reference's makes of the candidate's own input; and the layers that give NaN of that.

        Parameters
        ----------
        in_threads
            Where all layouts are settled, and nothing is read from a file.
        """
        found: dict[str, Comparison] = {}
        fed_nan: set[str] = set()
        local = self.local
        assert local is not None

        def isolate(name: str) -> None:
            with np.errstate(all="ignore"):  # a layer may be fed what another made infinite
                expected = local.output(name)
            found[name] = self._held(name, expected)
            if not np.isfinite(expected).all():
                fed_nan.add(name)

        if in_threads:
            share(isolate, self.order)
        else:
            for name in self.order:
                isolate(name)
        return found, fed_nan

    def _held(self, name: str, expected: np.ndarray) -> Comparison:
        return compare_arrays(self.taps(name, expected), expected, dtype=self.taps.dtype, measure="l2")

    def with_absent(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """With the layers that the candidate does not have, in their places."""
        known, table = {row.layer: row for row in rows}, self.network.layers()
        absent = {
            name: Row(name, name, "", self.taps.shapes[name], None, None, absent=why) for name, why in self.captured.absent.items()
        }
        return tuple(some[name] for name in table for some in (known, absent) if name in some)

    def left_out(self, compared: Collection[str]) -> tuple[LeftOut, ...]:
        """The layers that were not compared, by the reason. The mean over tokens, which no module gives, is not asked for."""
        reasons: dict[str, list[str]] = {}
        for name in self.network.layers():
            if name not in compared and name != POOL:
                other = "not followed" if name in self.captured.absent else self.captured.lacks
                why = "not in the reference" if name in self.taps else self.captured.left_out.get(name, other)
                reasons.setdefault(why, []).append(name)
        return tuple(LeftOut(why, tuple(layers)) for why, layers in reasons.items())


Found = tuple[Report, SideBySide]
"""What was found, and the layers that it was found of."""


def _reported(request: Request, captured: Captured, both: SideBySide, weights: OwnWeights | None) -> Report:
    """Every layer held against the reference's, and the mistake if there is one."""
    start, taps = time.perf_counter(), both.taps
    mode = "propagated" if both.local is None else request.mode
    tolerance = request.tolerance_in(captured.dtype)
    propagated: dict[str, Comparison] = {}
    isolated: dict[str, Comparison] = {}
    fed_nan: set[str] = set()
    elsewhere: frozenset[str] = frozenset()
    if mode != "isolated":
        request.progress("both networks from the images on")
        propagated = both.propagated()
        if both.settle(_over(propagated, tolerance), tolerance):
            propagated = both.propagated()
        elsewhere = both.elsewhere(propagated, tolerance)
        if elsewhere and both.local is not None:
            both.without(elsewhere)
    if mode != "propagated":
        request.progress("each layer on the same input")
        isolated, fed_nan = both.isolated(in_threads=mode == "both" and captured.kind != "trace")
        if both.settle(_over(isolated, tolerance) if mode == "isolated" else (), tolerance) or both.blame(
            _over(isolated, tolerance), tolerance
        ):
            isolated, fed_nan = both.isolated(in_threads=False)
    rows = tuple(
        Row(
            name,
            taps.modules[name],
            taps.layout(name),
            taps.shapes[name],
            propagated=propagated.get(name),
            isolated=isolated.get(name),
            fed_finite=name not in fed_nan,
            another_value=name in elsewhere,
        )
        for name in both.order
        if name in propagated or name in isolated
    )
    rows = both.with_absent(rows) if any(not row.another_value and not row.own.error <= tolerance for row in rows) else rows
    if not rows:
        raise CaptureError("the candidate's trace and the reference's have no layer in common")
    seconds = {"candidate": captured.seconds, "comparison": time.perf_counter() - start}
    report = Report(
        captured.kind,
        both.network.config,
        mode,
        captured.dtype,
        tolerance,
        rows,
        notes=(*captured.notes, *taps.notes),
        left_out=both.left_out({row.layer for row in rows}),
        seconds=seconds,
        unsteady=captured.unsteady,
        own_weights=() if weights is None else tuple(weights.lines("the file")),
        own_weights_wrong=weights is not None and weights.wrong,
    )
    if report.layers_agree or report.unsteady or not request.diagnosis or both.local is None:
        return report
    request.progress("the likely mistake")
    report = replace(report, notes=(*report.notes, *limits()))
    return diagnosed(report, both.local, taps, captured.followed, both.values)


def _of_quantised(request: Request, captured: Captured, conditions: Conditions, trace: Captured | None) -> Found:
    """A candidate as it is, held against the reference with the given weights; and without quantisation, with its own weights.

    Where it differs without quantisation too, that is the report.
    """
    few, module, network = captured.quantised, captured.followed, conditions.network
    given = conditions.weights
    assert given is not None
    assert captured.params is not None
    own = network.checked_params(captured.params)
    request.progress("without quantisation")
    without = SideBySide(network, captured, own, None)
    report = plain = _reported(replace(request, diagnosis=request.diagnosis and not few.left), captured, without, None)
    right = plain.layers_agree or bool(few.left)
    held = few.values(without.values.values())
    taps = {name: held[value] for name, value in without.values.items() if value in held}
    rounded = replace(captured, taps=taps, modules=without.taps.modules, followed=None)
    side = SideBySide(network, rounded, given, trace)
    if right:
        report = _reported(replace(request, diagnosis=False), rounded, side, None)
    both = side if right else without
    if side.local is None or request.mode == "propagated" or not request.diagnosis or plain.unsteady:
        return report, both
    request.progress("what its quantisation costs")
    weights = weights_of(few, module.pairing, module.weights, given)
    slips = weights.slips()
    for name in side.order:
        side.taps(name, side.local.output(name))  # which settles how it is laid out
    noise = noise_of_layers(
        side.order,
        side.local,
        weights,
        few,
        differing=() if few.left else {row.layer for row in plain.diverging},
        without=plain.verdict,
        floor=plain.tolerance * EPS[captured.dtype],
        ranges=unfit_ranges(few, module.fetch, _layer_of(module.graph, without.values)),
    )
    beside = tuple(f"its weights beside those given, rounded: {slip}" for slip in told_together(slips.slips))
    wrong = any(row.reweighed for row in noise.rows) and slips.wrong
    return replace(report, noise=noise, own_weights=beside, own_weights_wrong=wrong), both


def _layer_of(graph: Graph, values: Mapping[str, int]) -> Callable[[int], str]:
    """The first layer, in the candidate's own order, that ends where a value is made or later."""
    made = makers(graph)
    ends = sorted((made[value], name) for name, value in values.items() if value in made)

    def layer_of(value: int) -> str:
        return next((name for end, name in ends if made.get(value, -1) <= end), ends[-1][1])

    return layer_of


def _over(errors: Mapping[str, Comparison], tolerance: float) -> list[str]:
    return [name for name, comparison in errors.items() if not comparison.error <= tolerance]

"""A candidate against the reference, layer by layer: which goes wrong first, by how much, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.backends.threads import share
from scalablevit_ref.compare.axes import TURNED, canonical_map, fitting
from scalablevit_ref.compare.capture import Captured, CaptureError, capture
from scalablevit_ref.compare.inputs import Given, same_weights, settle
from scalablevit_ref.compare.mistakes.catalogue import limits
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.mistakes.search import Finding, diagnose
from scalablevit_ref.compare.report import Cause, Report, Row
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.dialects.config import Config
from scalablevit_ref.edits import Mistake
from scalablevit_ref.testing.arrays import Comparison, compare_arrays
from scalablevit_ref.testing.tolerances import NETWORK_TOLERANCE, relative_l2

Mode = Literal["both", "propagated", "isolated"]
MODES: tuple[Mode, ...] = ("both", "propagated", "isolated")

SEARCH_SECONDS = 60
"""Time in seconds, of a whole comparison, in which every mistake is tried; layers after it are only held against those found."""


def compare(
    candidate: Any,
    *,
    reference: Any = None,
    variant: str | ScalableViTConfig | Config | None = None,
    weights: Any = None,
    images: Any = None,
    mode: Mode = "both",
    dtype: str | None = None,
    names: Mapping[str, str] | None = None,
    tolerance: float | None = None,
    diagnosis: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Hold a port of the network against the reference in float64: the error of each of its layers, and the likely mistake.

    candidate: a `torch.nn.Module`, a Flax module (nnx, or linen bound to its variables), a function of b c h w images that gives
        logits or a mapping of layers' names to arrays, such a mapping, or a file: a trace (.npz, .safetensors) or a model (.onnx).
    reference: a trace (a mapping or a file) to hold the candidate's against, where the network is not to be run; without `weights`
        there is then no isolated error and no diagnosis.
    variant: the network's name or settings; not needed where `weights` or a module's state dict tell.
    weights: official parameters (a mapping, a Checkpoint, a file); "random", the default for modules, draws weights behind which no
        mistake hides and puts them into a copy of the module; "own" takes the module's.
    images: b c h w; by default two random ones.
    mode: "propagated" runs both from end to end, so that a layer inherits the errors before it; "isolated" gives the reference's
        layer what the candidate's own layers before it gave, so that what differs is this layer's doing; "both" does both.
    dtype: what a module is converted to; by default float64, in which rounding hides nothing. "own" leaves it.
    names: from canonical names to the candidate's, "{k}" and "{i}" standing for all stages and blocks. Without it the official
        names are looked for, then modules with parameters of the same sizes in the same order.
    tolerance: in eps of the candidate's dtype, ‖Δ‖ / ‖reference‖; by default `NETWORK_TOLERANCE`.
    diagnosis: whether to look for the mistake where a layer differs.

    Raises CaptureError (a ValueError), CheckpointError, ValueError or TypeError, in one line, where the two cannot be compared:
    other weights, other images, outputs that fit no layer.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    with ExitStack() as files:
        given = settle(candidate, reference, variant, weights, images, files)
        captured = files.enter_context(
            capture(
                candidate,
                given.network,
                given.images,
                dtype=None if dtype == "own" else (dtype or "float64") if given.module else None,
                weights=given.params if given.module else None,
                names=names,
            )
        )
        params = same_weights(captured, given)
        return _compared(captured, given, params, mode, tolerance, diagnosis, progress)


def _compared(
    captured: Captured,
    given: Given,
    params: Mapping[str, np.ndarray] | None,
    mode: Mode,
    tolerance: float | None,
    diagnosis: bool,
    progress: Callable[[str], None],
) -> Report:
    network, images = given.network, captured.images
    limit = NETWORK_TOLERANCE[captured.dtype] if tolerance is None else tolerance
    taps = _Taps(captured, network.layer_shapes(images.shape))
    order = [name for name in network.layers() if name in captured.taps]
    local = None if params is None else Local(network, params, images, set(captured.taps), taps.wide)
    mode = "propagated" if local is None else mode
    found: dict[str, dict[str, Comparison]] = {"propagated": {}, "isolated": {}}
    fed_nan: set[str] = set()
    start = time.perf_counter()

    def hold(kind: str, name: str, expected: np.ndarray) -> np.ndarray:
        if name in captured.taps:
            found[kind][name] = compare_arrays(taps(name, expected), expected, dtype=captured.dtype, measure="l2")
        return expected

    if mode != "isolated":
        progress("both from end to end")
        _propagate(given, local, order, lambda name, expected: hold("propagated", name, expected))
    if mode != "propagated" and local is not None:
        progress("each layer by itself")

        def isolate(name: str) -> None:
            with np.errstate(all="ignore"):  # a layer may be fed what another made infinite
                expected = local.output(name)
            hold("isolated", name, expected)
            if not np.isfinite(expected).all():
                fed_nan.add(name)

        if mode == "both" and captured.kind != "trace":  # all layouts are settled, and nothing is read from a file
            share(isolate, order)
        else:
            for name in order:
                isolate(name)
    compared = [name for name in order if any(name in comparisons for comparisons in found.values())]
    if not compared:
        raise CaptureError("the candidate's trace and the reference's have no layer in common")
    rows = tuple(
        Row(
            name,
            captured.modules[name],
            taps.layout(name),
            taps.shapes[name],
            propagated=found["propagated"].get(name),
            isolated=found["isolated"].get(name),
            fed_finite=name not in fed_nan,
        )
        for name in compared
    )
    seconds = {"candidate": captured.seconds, "comparison": time.perf_counter() - start}
    notes = (*captured.notes, *taps.notes)
    report = Report(captured.kind, network.config, mode, captured.dtype, limit, rows, seconds=seconds, notes=notes)
    if report.agrees or not diagnosis or local is None:
        return report
    progress("the likely mistake")
    report = replace(report, notes=(*report.notes, *limits()))
    return report.with_causes(*_causes(local, taps, report), *_first_arrays(local, taps, report))


def _propagate(given: Given, local: Local | None, order: Iterable[str], tap: Callable[[str, np.ndarray], np.ndarray]) -> None:
    """Show `tap` what the reference computes from the images on, layer by layer, or what its trace holds."""
    if given.reference is not None:
        for name in order:
            if name in given.reference:
                tap(name, to_numpy(given.reference[name]))
        return
    assert local is not None
    if not given.network.runs_as_named:
        Local(given.network, local.params, local.images, set(), local.tap).end_to_end(tap)
    else:
        given.network.forward(local.images, local.params, tap)


class _Taps:
    """The candidate's taps as b h w c or b c; the layout of each is settled when it is first held against something."""

    def __init__(self, captured: Captured, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.captured, self.shapes = captured, dict(shapes)
        self.notes: list[str] = []
        self._layouts: dict[str, str] = {}

    def __call__(self, name: str, expected: np.ndarray | None = None) -> np.ndarray:
        x = np.asarray(self.captured.taps[name])
        if x.dtype.name != self.captured.dtype:
            raise CaptureError(
                f"{self.captured.modules[name]} gives {x.dtype.name}, the candidate's weights are {self.captured.dtype}: "
                "give a candidate that computes in one dtype"
            )
        if name not in self._layouts:
            self._layouts[name] = self._settled(name, x, expected)
        return canonical_map(x, self._layouts[name], self.shapes[name])

    def wide(self, name: str) -> np.ndarray:
        return self(name).astype(np.float64)

    def layout(self, name: str) -> str:
        return self._layouts[name]

    def _settled(self, name: str, x: np.ndarray, expected: np.ndarray | None) -> str:
        fits = fitting(x.shape, self.shapes[name])
        if not fits:
            raise CaptureError(
                f"{self.captured.modules[name]}, taken for {name}, gives shape {x.shape}, "
                f"which is no layout of {'b h w c' if len(self.shapes[name]) == 4 else 'b c'} = {self.shapes[name]}; "
                "names= maps layers by hand"
            )
        if len(fits) == 1 or expected is None:
            return fits[0]
        errors = {layout: relative_l2(canonical_map(x, layout, self.shapes[name]), expected) for layout in fits}
        best = min(fits, key=lambda layout: np.nan_to_num(errors[layout], nan=np.inf))
        if not errors[best] < 0.1 * errors[fits[0]]:  # noise is no reason to take an unlikely one
            best = fits[0]
        if best in TURNED:
            self.notes.append(f"{name} is laid out as {best}: H and W are swapped")
        return best


def _causes(local: Local, taps: _Taps, report: Report) -> tuple[tuple[Cause, ...], tuple[Finding, ...]]:
    """Mistakes with the layers that each explains, as few as suffice; and for other layers what comes nearest."""
    explained: dict[str, list[Finding]] = {}
    nearest: list[Finding] = []
    end = time.monotonic() + SEARCH_SECONDS
    known: dict[Mistake, None] = {}
    for row in report.diverging:
        actual = taps.wide(row.layer)
        if not np.isfinite(actual).all():
            continue
        findings = diagnose(
            local, row.layer, actual, dtype=report.dtype, tolerance=report.tolerance, known=known, search=time.monotonic() < end
        )
        if findings and findings[0].explains:
            explained[row.layer] = findings
            known |= {finding.mistake: None for finding in findings}
        else:
            nearest += findings
    return tuple(_fewest(explained)), tuple(nearest)


def _fewest(explained: Mapping[str, Iterable[Finding]]) -> list[Cause]:
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
        ties = tuple(m.words for m in counts if m != best and all(m in [f.mistake for f in left[layer]] for layer in mine))
        causes.append(Cause(best.words, tuple(mine), max(f.after for f in mine.values()), ties))
        left = {layer: findings for layer, findings in left.items() if layer not in mine}
    return causes


def _first_arrays(local: Local, taps: _Taps, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """The first diverging layer's output, and what the reference makes of the same input."""
    name = report.diverging[0].layer
    return taps.wide(name), local.output(name)

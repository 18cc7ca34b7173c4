"""A candidate against the reference, layer by layer: which goes wrong first, by how much, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalablevit_ref.checkpoints import Checkpoint, load_checkpoint
from scalablevit_ref.checks import check_image_size, check_shapes, nearest_image_size
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.config import variant as named_variant
from scalablevit_ref.dialects import flax_port
from scalablevit_ref.dialects.config import Config, check_size, is_norm_bias
from scalablevit_ref.network import scalable_vit, stage_features
from scalablevit_ref.testing.arrays import Comparison, compare_arrays
from scalablevit_ref.testing.capture import Captured, CaptureError, capture
from scalablevit_ref.testing.capture.dispatch import is_flax_module, is_torch_module, told_config
from scalablevit_ref.testing.diagnosis import Finding, diagnose
from scalablevit_ref.testing.hypotheses import Hypothesis
from scalablevit_ref.testing.layers import layers, shapes_of, tap_shapes
from scalablevit_ref.testing.local import Local
from scalablevit_ref.testing.maps import TURNED, canonical_map, fitting
from scalablevit_ref.testing.random import random_images, random_params
from scalablevit_ref.testing.report import Cause, Report, Row
from scalablevit_ref.testing.tolerances import NETWORK_TOLERANCE, relative_l2

Mode = Literal["both", "propagated", "isolated"]
MODES: tuple[Mode, ...] = ("both", "propagated", "isolated")

SEARCH_SECONDS = 60
"""So long every hypothesis is tried for a layer; then only those that explained a layer before it."""


def compare(
    candidate: Any,
    *,
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
    module = is_torch_module(candidate) or is_flax_module(candidate)
    config, params = _network(candidate, variant, weights, module)
    x = _images(images, config, given=not module and images is None)
    wanted = None if dtype == "own" else (dtype or "float64") if module else None
    with capture(candidate, config, x, dtype=wanted, weights=params if module else None, names=names) as captured:
        params = _same_weights(captured, params, config)
        return _compared(captured, config, params, mode, tolerance, diagnosis, progress)


def _network(
    candidate: Any, variant: str | ScalableViTConfig | Config | None, weights: Any, module: bool
) -> tuple[ScalableViTConfig | Config, dict[str, np.ndarray] | None]:
    """The settings, and the weights unless they are the candidate's own."""
    if isinstance(weights, Path) or (isinstance(weights, str) and weights not in ("random", "own")):
        weights = load_checkpoint(weights)
    config = named_variant(variant) if isinstance(variant, str) else variant
    if isinstance(weights, Checkpoint):
        config = config or weights.config
        weights = weights.params
    config = config or told_config(candidate)
    if config is None:
        raise CaptureError("which network? variant= names it (small, base, …), or gives its ScalableViTConfig")
    if weights is None or isinstance(weights, str):
        own = weights == "own" or (weights is None and not module)
        return config, None if own else random_params(shapes_of(config))
    params = {name: np.asarray(value) for name, value in weights.items()}
    return config, _checked(params, config)


def _checked(params: Mapping[str, np.ndarray], config: ScalableViTConfig | Config) -> dict[str, np.ndarray]:
    """Official parameters, or a port's under vit_pytorch's names; the Flax port has no norm biases and one norm more."""
    expected = shapes_of(config)
    if isinstance(config, Config) and any(name.startswith("params") for name in params):
        params = flax_port.as_vit_pytorch(params, config)
        expected = {name: shape for name, shape in expected.items() if name in params or not is_norm_bias(name)}
        surplus = {name: params[name] for name in params if name not in expected}
        check_shapes({name: value for name, value in params.items() if name not in surplus}, expected)
        return dict(params)
    check_shapes(params, expected)
    return dict(params)


def _images(images: Any, config: ScalableViTConfig | Config, *, given: bool) -> np.ndarray | None:
    """Those to compare on; None where a trace may bring its own."""
    if images is not None:
        x = np.asarray(images)
        channels = config.channels if isinstance(config, Config) else config.in_chans
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"images must be b c h w with {channels} channels, got shape {x.shape}")
        if isinstance(config, Config):
            check_size(config, *x.shape[2:], drops_tiles=True)
        else:
            check_image_size(config, *x.shape[2:])
        return x
    if given:
        return None
    if isinstance(config, Config):
        return random_images((2, config.channels, 256, 256))
    size = nearest_image_size(config, 224)
    return random_images((2, config.in_chans, size, size))


def _same_weights(
    captured: Captured, params: Mapping[str, np.ndarray] | None, config: ScalableViTConfig | Config
) -> dict[str, np.ndarray]:
    """The weights that both are to have, checked before anything else."""
    own = captured.params
    if params is None and own is None:
        raise CaptureError(f"weights must be given for a {captured.kind}: they are not told by it")
    if own is not None:
        own = _checked(own, config)
    if params is None or own is None:
        return dict(own if params is None else params)  # type: ignore[arg-type]
    wrong = [name for name in params if relative_l2(own[name], params[name].astype(own[name].dtype)) > 0]
    if wrong:
        some = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if wrong[3:] else "")
        turned = own[wrong[0]].ndim == 2 and own[wrong[0]].T.shape == params[wrong[0]].shape
        hint = "; it is transposed" if turned and np.array_equal(own[wrong[0]].T, params[wrong[0]]) else ""
        raise CaptureError(f"weights differ: {some}{hint}; load the same weights into both, then compare")
    return dict(own)  # as the candidate has rounded them


def _compared(
    captured: Captured,
    config: ScalableViTConfig | Config,
    params: Mapping[str, np.ndarray],
    mode: Mode,
    tolerance: float | None,
    diagnosis: bool,
    progress: Callable[[str], None],
) -> Report:
    limit = NETWORK_TOLERANCE[captured.dtype] if tolerance is None else tolerance
    images = captured.images.astype(np.float64)
    taps = _Taps(captured, tap_shapes(config, images.shape))
    local = Local(config, params, images, set(captured.taps), taps.wide)
    order = [name for name in layers(config) if name in captured.taps]
    found: dict[str, dict[str, Comparison]] = {"propagated": {}, "isolated": {}}
    start = time.perf_counter()

    def held(kind: str, name: str, expected: np.ndarray) -> None:
        found[kind][name] = compare_arrays(taps(name, expected), expected, dtype=captured.dtype, measure="l2")

    if mode != "isolated":
        progress("both from end to end")

        def tap(name: str, expected: np.ndarray) -> np.ndarray:
            if name in captured.taps:
                held("propagated", name, expected)
            return expected

        if isinstance(config, Config):
            Local(config, params, images, set(), taps.wide).end_to_end(tap)
        else:
            run = stage_features if config.stage_norms and config.head == "none" else scalable_vit
            run(images, local.params, config, tap=tap)
    if mode != "propagated":
        progress("each layer by itself")
        for name in order:
            held("isolated", name, local.output(name))
    rows = tuple(
        Row(
            name,
            captured.modules[name],
            taps.layout(name),
            taps.shapes[name],
            found["propagated"].get(name),
            found["isolated"].get(name),
        )
        for name in order
    )
    seconds = {"candidate": captured.seconds, "comparison": time.perf_counter() - start}
    report = Report(captured.kind, config, mode, captured.dtype, limit, rows, seconds=seconds, notes=(*captured.notes, *taps.notes))
    if report.agrees or not diagnosis:
        return report
    progress("the likely mistake")
    return report.with_causes(*_causes(local, taps, report), *_first_arrays(local, taps, report))


class _Taps:
    """The candidate's taps as b h w c or b c; the layout of each is settled when it is first held against something."""

    def __init__(self, captured: Captured, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.captured, self.shapes = captured, dict(shapes)
        self.notes: list[str] = []
        self._layouts: dict[str, str] = {}

    def __call__(self, name: str, expected: np.ndarray | None = None) -> np.ndarray:
        x = np.asarray(self.captured.taps[name])
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
        if best in TURNED and not errors[best] < 0.1 * errors[fits[0]]:
            best = min((f for f in fits if f not in TURNED), key=lambda layout: errors[layout])
        if best in TURNED:
            self.notes.append(f"{name} is laid out as {best}: H and W are swapped")
        return best


def _causes(local: Local, taps: _Taps, report: Report) -> tuple[tuple[Cause, ...], tuple[Finding, ...]]:
    """Hypotheses with the layers that each explains, as few as suffice; and for other layers what comes nearest."""
    explained: dict[str, list[Finding]] = {}
    nearest: list[Finding] = []
    end = time.monotonic() + SEARCH_SECONDS
    known: dict[Hypothesis, None] = {}
    for row in report.diverging:
        actual = taps.wide(row.layer)
        if not np.isfinite(actual).all():
            continue
        findings = diagnose(
            local, row.layer, actual, dtype=report.dtype, tolerance=report.tolerance, known=known, search=time.monotonic() < end
        )
        if findings and findings[0].explains:
            explained[row.layer] = findings
            known |= {finding.hypothesis: None for finding in findings}
        else:
            nearest += findings
    return tuple(_fewest(explained)), tuple(nearest)


def _fewest(explained: Mapping[str, Iterable[Finding]]) -> list[Cause]:
    """The hypothesis that explains most layers, then the one that explains most of the rest, and so on."""
    left = {layer: list(findings) for layer, findings in explained.items()}
    causes = []
    while left:
        counts: dict[Hypothesis, int] = {}
        for findings in left.values():
            for finding in findings:
                counts[finding.hypothesis] = counts.get(finding.hypothesis, 0) + 1
        best = max(counts, key=lambda hypothesis: counts[hypothesis])
        mine = {layer: f for layer, findings in left.items() for f in findings if f.hypothesis == best}
        ties = tuple(h.words for h in counts if h != best and all(h in [f.hypothesis for f in left[layer]] for layer in mine))
        causes.append(Cause(best.words, tuple(mine), max(f.after for f in mine.values()), ties))
        left = {layer: findings for layer, findings in left.items() if layer not in mine}
    return causes


def _first_arrays(local: Local, taps: _Taps, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """The first diverging layer's output, and what the reference makes of the same input."""
    name = report.diverging[0].layer
    return taps.wide(name), local.output(name)

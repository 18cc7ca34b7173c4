"""A port held against the reference for drawn configurations, images and weights; the smallest case that differs is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scalablevit_ref.arguments import (
    FLOATS,
    check_choice,
    check_count,
    check_flag,
    check_function,
    check_instance,
    check_named,
    check_not_negative,
    check_text,
)
from scalablevit_ref.config import ScalableViTConfig, settled
from scalablevit_ref.errors import brief, did_you_mean
from scalablevit_ref.image_sizes import check_image_size, sides
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing.arrays import random_images, random_params

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from scalablevit_ref.compare.report import Report

SETTINGS = ("num_stages", *(setting.name for setting in fields(ScalableViTConfig)))
"""What can vary: the number of stages, and every setting of a configuration."""

VARY = ("num_stages", "embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios", "window_sizes", "in_chans")
"""What varies unless something else is asked for: what the official classifier is made with."""

MAX_EXAMPLES = 50
"""How many cases are drawn unless something else is asked for; those that shrinking tries come on top."""

TOLERANCE = 4096
"""What a drawn network may differ by unless something else is asked for, in eps of its dtype, ‖Δ‖ / ‖reference‖.

More than `NETWORK_TOLERANCE`: the norms of networks as narrow as these, four channels wide, magnify rounding.
"""


def assert_equivalent_everywhere(
    build: Callable[..., Any],
    *,
    vary: Collection[str] = VARY,
    base: ScalableViTConfig | str | None = None,
    configs: SearchStrategy[ScalableViTConfig] | None = None,
    image_sizes: Sequence[int | tuple[int, int]] | None = None,
    square: bool = False,
    batches: Sequence[int] = (1, 2, 3),
    weights: Literal["random", "own"] = "random",
    dtype: str | None = None,
    names: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
    max_examples: int | None = None,
    settings: Any = None,
) -> int:
    """Fail unless the port agrees with the reference for every configuration, image size and batch that Hypothesis draws.

    Each case is a port of its own, held against the reference by `compare`. The smallest case that differs is told, with the
    diagnosis. How many examples there are, and whether they are the same every time, is a matter of Hypothesis' settings; it is
    not of the machine's speed, for which no case fails. Needs `hypothesis` (pip install hypothesis).

    Parameters
    ----------
    build : function
        Of a `ScalableViTConfig`: gives a module, a function of b c h w images or whatever else `compare` takes as a candidate. For
        a port that is no module it takes the parameters, official names to float64 arrays, as its second argument.
    vary : collection of str
        The settings that are drawn, and "num_stages". Name those that your port has; the others are those of `base`.
    base : ScalableViTConfig or str, optional
        By default the official classifier, small, of three classes.
    configs : strategy, optional
        Draws the configurations instead, of which `vary` and `base` then say nothing.
    image_sizes : sequence of int or (height, width), optional
        In pixels; a configuration is tried with those that it takes. By default two to six windows of its last stage.
    square : bool
        Draw square images, for a port that takes no others.
    batches : sequence of int
        Numbers of images, the simplest first.
    weights : "random" or "own"
        "random" gives the port weights that are drawn, "own" leaves a module its own.
    dtype, names
        As those of `compare`.
    tolerance : float
        In eps of the port's dtype, as `compare` has it, but larger: networks of few channels magnify rounding.
    max_examples : int, optional
        How many cases are drawn; by default those of `settings`, and 50 without: seconds in PyTorch, minutes in JAX,
        which compiles each.
    settings : hypothesis.settings, optional
        By default those of the profile in force. There is no deadline, nor any health check, in any case.

    Returns
    -------
    int
        How many different cases agreed.

    Raises
    ------
    AssertionError
        With the smallest case that differs and its diagnosis; or in one line, with the case and the place in the port's own code,
        where the port cannot be built, run or compared.
    ValueError or TypeError
        For arguments that do not fit, or where no case can be drawn with them.
    ModuleNotFoundError
        Without Hypothesis.

    Examples
    --------
    >>> from scalablevit_ref import trace
    >>> def build(config, params):  # a port that is right, being the reference itself
    ...     return lambda images: trace(images, params, config)
    >>> one = {"base": "digits", "vary": [], "image_sizes": [112]}
    >>> assert_equivalent_everywhere(build, **one, max_examples=1)
    1
    """
    check_function("build", build)
    _check_options(vary, square, batches, weights, dtype, names, tolerance)
    if max_examples is not None:
        check_count("max_examples", max_examples)
    if not isinstance(base, str | None):
        check_instance("base", base, ScalableViTConfig, "a ScalableViTConfig or a variant's name")
    base = ScalableViTConfig(num_classes=3) if base is None else settled(base, {})
    sizes = None if image_sizes is None else _sizes(image_sizes)
    try:
        import hypothesis
    except ModuleNotFoundError as error:
        message = "assert_equivalent_everywhere needs hypothesis: pip install hypothesis"
        raise ModuleNotFoundError(message, name=error.name) from None

    if settings is not None:
        check_instance("settings", settings, hypothesis.settings, "hypothesis.settings")
    if configs is not None:
        check_instance("configs", configs, hypothesis.strategies.SearchStrategy, "a Hypothesis strategy")
    drawn = _cases(vary, base, configs, sizes, square, batches)
    options = {"dtype": dtype, "names": names, "tolerance": tolerance}
    held: set[Case] = set()
    found: dict[str, Any] = {}

    def holds(case: Case) -> None:
        held.add(case)
        try:
            report = _compared(build, case, weights, options, diagnosis=False)
        except (ValueError, TypeError) as error:
            found.update(case=case, refusal=" ".join(str(error).split()))
            raise _RefusedError from error
        if not report.agrees:
            found.update(case=case, refusal=None)
            raise _DiffersError

    try:
        _run(holds, drawn, settings, max_examples)
    except (_RefusedError, _DiffersError):
        pass
    except hypothesis.errors.Flaky:
        found["refusal"] = "the port gives something else each time: dropout, drop path or batch statistics are active"
    except hypothesis.errors.Unsatisfiable:
        raise ValueError(f"image_sizes must hold one that a drawn configuration takes, got {brief(image_sizes)}") from None
    if not found:
        return len(held)
    case = found["case"]
    if found["refusal"] is not None:
        raise AssertionError(f"{found['refusal']}; the smallest case of {len(held)}: {case}")
    report = _compared(build, case, weights, options, diagnosis=True)
    raise AssertionError(
        f"the smallest case that differs, of {len(held)} that were tried:\n    {case}\n{report}\n{case.again(weights)}"
    )


@dataclass(frozen=True)
class Case:
    """One drawn comparison; the weights and the images follow from `seed`."""

    config: ScalableViTConfig
    size: tuple[int, int]
    batch: int
    seed: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the images, b c h w."""
        return (self.batch, self.config.in_chans, *self.size)

    def __str__(self) -> str:
        """The configuration as it can be pasted, and the images."""
        given = {setting.name: getattr(self.config, setting.name) for setting in fields(self.config)}
        usual = {setting.name: setting.default for setting in fields(self.config)}
        own = ", ".join(f"{name}={value!r}" for name, value in given.items() if isinstance(value, tuple) or value != usual[name])
        return f"sv.ScalableViTConfig({own}) with images of shape {self.shape}, seed {self.seed}"

    def again(self, weights: str) -> str:
        """What compares this case alone, to be pasted behind the configuration."""
        params = '"own"' if weights == "own" else f"random_params(sv.parameter_shapes(config), {self.seed})"
        return f"again: compare(build(config), variant=config, weights={params}, images=random_images({self.shape}, {self.seed}))"


class _DiffersError(Exception):
    """Within the search: the port differs."""


class _RefusedError(Exception):
    """Within the search: the port cannot be built, run or compared."""


def _compared(build: Callable[..., Any], case: Case, weights: str, options: Mapping[str, Any], *, diagnosis: bool) -> Report:
    from scalablevit_ref.compare.capture.own_code import own_code
    from scalablevit_ref.compare.run import compare

    params: Mapping[str, np.ndarray] = random_params(parameter_shapes(case.config), case.seed)
    with own_code("building the candidate"):
        port = build(case.config, dict(params)) if _takes_params(build) else build(case.config)
    return compare(
        port,
        variant=case.config,
        weights="own" if weights == "own" else params,
        images=random_images(case.shape, case.seed),
        mode="both" if diagnosis else "propagated",
        diagnosis=diagnosis,
        **options,
    )


def _takes_params(build: Callable[..., Any]) -> bool:
    """Whether it must be given a second argument."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (ValueError, TypeError):  # of some that are written in C
        return False
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(needed) > 1


def _run(holds: Callable[[Case], None], cases: SearchStrategy[Case], settings: Any, max_examples: int | None) -> None:
    """Draw, and shrink what fails."""
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as Settings

    most = int(max_examples) if max_examples else (MAX_EXAMPLES if settings is None else settings.max_examples)
    chosen = Settings(
        settings,
        max_examples=most,
        database=None,
        print_blob=False,
        phases=[phase for phase in (settings or Settings()).phases if phase is not Phase.explain],  # the diagnosis explains
        report_multiple_bugs=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    given(cases)(chosen(holds))()


def _cases(
    vary: Collection[str],
    base: ScalableViTConfig,
    configs: SearchStrategy[ScalableViTConfig] | None,
    sizes: Sequence[tuple[int, int]] | None,
    square: bool,
    batches: Sequence[int],
) -> SearchStrategy[Case]:
    from hypothesis import reject
    from hypothesis import strategies as st

    from scalablevit_ref.testing import strategies

    drawn_configs = strategies.configs(vary=vary, base=base) if configs is None else configs

    @st.composite
    def cases(draw: st.DrawFn) -> Case:
        config = draw(drawn_configs)
        check_instance("configs", config, ScalableViTConfig, "a strategy of ScalableViTConfig")
        if sizes is None:
            size = draw(strategies.image_sizes(config, square=square))
        else:
            size = draw(st.sampled_from(fitting)) if (fitting := [s for s in sizes if _takes(config, s)]) else reject()
        return Case(config, size, int(draw(st.sampled_from(batches))), draw(strategies.SEEDS))

    return cases()


def _takes(config: ScalableViTConfig, size: tuple[int, int]) -> bool:
    try:
        check_image_size(config, *size)
    except ValueError:
        return False
    return True


def _sizes(image_sizes: Any) -> list[tuple[int, int]]:
    if not isinstance(image_sizes, list | tuple) or not image_sizes:
        raise TypeError(f"image_sizes must be a list of numbers or of (height, width), got {brief(image_sizes)}")
    return [sides(size) for size in image_sizes]


def _check_options(vary: Any, square: Any, batches: Any, weights: Any, dtype: Any, names: Any, tolerance: Any) -> None:
    """What `compare` would say of each case is said before any is drawn."""
    if not isinstance(vary, list | tuple | set | frozenset):
        raise TypeError(f"vary must be a list of settings' names, got {brief(vary)}")
    for name in vary:
        check_text("a name in vary", name)
        if name not in SETTINGS:
            raise ValueError(f"vary: there is no setting {name!r}{did_you_mean(name, SETTINGS)}; there are {', '.join(SETTINGS)}")
    check_flag("square", square)
    if not isinstance(batches, list | tuple | range) or not batches:
        raise TypeError(f"batches must be a list of numbers of images, got {brief(batches)}")
    for batch in batches:
        check_count("batches", batch)
    check_choice("weights", weights, ("random", "own"))
    if dtype is not None:
        check_choice("dtype", dtype, (*FLOATS, "own"))
    if names is not None:
        check_named("names", names, of="layers to the candidate's names")
        for layer in names.values():
            check_text("a name in names", layer)
    check_not_negative("tolerance", tolerance)

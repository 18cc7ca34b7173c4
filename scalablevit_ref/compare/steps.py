"""The reference's steps inside a layer, recorded from the specification's own function, and run on a candidate's own values.

A step is one operation that the function calls: `linear` with the parameters of `qkv`, `attention`, `conv2d` with those of
`lim_func`. Each op is heard in a copy of the function (`edits.changed`), so that no network needs a list of its steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol

import numpy as np
from einops import rearrange

from scalablevit_ref.edits import Changes, Function, Swap, changed
from scalablevit_ref.layers import IMAGES, Layer
from scalablevit_ref.ops import attention, conv2d, gelu, gelu_tanh, layer_norm, linear

OPS = (linear, conv2d, layer_norm, gelu, gelu_tanh, attention)
"""The operations that count as steps."""


@dataclass(frozen=True)
class Step:
    """One operation of a layer, as it was called.

    Attributes
    ----------
    name
        That of its parameters in the whole network, as "stages.0.0.attn.qkv"; of one without parameters the layer's and the
        operation's, as "stages.0.0.attn.attention".
    op
        "linear", "conv2d", "layer_norm", "gelu", "attention" …
    given
        Its input, as the specification makes it of what came before: maps b h w c. Of `attention` it is q.
    made
        What the specification's operation makes of the input: of the candidate's own, where that is known.
    inputs
        All arrays that it was called with and that are no parameters, by the names of its arguments: "x", or "q", "k" and "v".
    settings
        Its other arguments: stride, padding, groups, eps, scale.
    params
        Its parameters by the names of its arguments: "weight", "bias".
    function
        The operation with these settings and parameters, of another input.
    """

    name: str
    op: str
    given: np.ndarray
    made: np.ndarray
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, np.ndarray] = field(default_factory=dict)
    function: Callable[[np.ndarray], np.ndarray] = field(default=np.asarray, repr=False, compare=False)

    @property
    def has_parameters(self) -> bool:
        return bool(self.params)


class Values(Protocol):
    """What stands in for a step's own input and output, given the specification's."""

    def given(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        """The input that the operation is to be applied to instead; None for the expected one."""

    def made(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        """The output that the layer is to go on with instead; None for the expected one."""


class Unchanged:
    """The reference's own values."""

    def given(self, name: str, expected: np.ndarray) -> None:
        return None

    def made(self, name: str, expected: np.ndarray) -> None:
        return None


@dataclass(frozen=True)
class Run:
    """A layer that ran: its steps in their order, and its output."""

    steps: tuple[Step, ...]
    output: np.ndarray

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


def run_layer(
    layer: Layer, x: np.ndarray, params: Mapping[str, np.ndarray], values: Values | None = None, changes: Changes = ()
) -> Run:
    """The layer's function on `x`, with some of its steps' values replaced as it runs.

    So the input of each step is what the specification makes of the candidate's own values before it, and its output what the
    specification's operation makes of the candidate's own input.

    Parameters
    ----------
    layer
        One of `Network.layers()`.
    x
        What it is fed: b h w c, after pooling b c; the images, b c h w, for the first layer.
    params
        Those of the whole network, or of the layer, by their names in the whole network.
    values
        A candidate's own values; without it every value is the reference's.
    changes
        Of a known mistake, that are made in the function.
    """
    prefix = f"{layer.name}."
    own = {name.removeprefix(prefix): np.array(value) for name, value in params.items() if name.startswith(prefix)}
    if IMAGES in layer.sources:
        x = rearrange(x, "b c h w -> b h w c")
    recorder = _Recorder(layer.name, own, values or Unchanged())
    token = _RECORDER.set(recorder)
    try:
        output = np.asarray(changed(layer.function, (*changes, *HEARD))(x, own, **layer.settings))
    finally:
        _RECORDER.reset(token)
    return Run(tuple(recorder.steps), output)


class _Recorder:
    def __init__(self, layer: str, params: Mapping[str, np.ndarray], values: Values) -> None:
        self.layer, self.params, self.values = layer, params, values
        self.steps: list[Step] = []

    def called(self, op: str, function: Function, arguments: Mapping[str, Any]) -> np.ndarray:
        parameters = {name: value for name, value in arguments.items() if self._owner(value) is not None}
        inputs = {
            name: value
            for name, value in arguments.items()
            if isinstance(value, np.ndarray) and name not in parameters and name not in ("weight", "bias")
        }
        first, expected = next(iter(inputs.items()))
        name = self._named(op, parameters)
        own = self.values.given(name, expected)
        if own is not None:
            arguments = {**arguments, first: own}
        others = {key: value for key, value in arguments.items() if key != first}

        def applied(x: np.ndarray) -> np.ndarray:
            return np.asarray(function(x, **others))

        made = applied(arguments[first])
        settings = {key: value for key, value in others.items() if value is not None and not isinstance(value, np.ndarray)}
        self.steps.append(Step(name, op, expected, made, inputs, settings, parameters, applied))
        replaced = self.values.made(name, made)
        return made if replaced is None else replaced

    def _named(self, op: str, parameters: Mapping[str, Any]) -> str:
        for value in parameters.values():
            module = str(self._owner(value)).rpartition(".")[0]
            return f"{self.layer}.{module}" if module else self.layer
        taken = {step.name for step in self.steps}
        names = (f"{self.layer}.{op}{n}" for n in ("", *range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)

    def _owner(self, value: Any) -> str | None:
        """The parameter that this array is, or is a view of."""
        if not isinstance(value, np.ndarray):
            return None
        return next((name for name, x in self.params.items() if value is x or value.base is x), None)


_RECORDER: ContextVar[_Recorder] = ContextVar("recorder")


def _heard(function: Function) -> Function:
    """The same op, which tells the recorder of the run when it is called."""
    definition = inspect.unwrap(function)
    signature = inspect.signature(definition)

    @wraps(definition)
    def called(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _RECORDER.get().called(definition.__name__, function, bound.arguments)

    return called


HEARD = tuple(Swap(op, _heard, "heard") for op in OPS)


class _Replaced:
    """Fixed values for the outputs of steps, and one step whose output is another."""

    def __init__(self, made: Mapping[str, np.ndarray], other: str | None) -> None:
        self._made, self._other = made, other

    def given(self, name: str, expected: np.ndarray) -> None:
        return None

    def made(self, name: str, expected: np.ndarray) -> np.ndarray:
        made = self._made[name]
        return made + np.random.default_rng(0).standard_normal(made.shape) if name == self._other else made


OUTPUT = "output"
"""The layer's own output, among what steps feed."""

INPUT = "input"
"""The layer's own input, among what feeds a step."""


def feeds(layer: Layer, x: np.ndarray, params: Mapping[str, np.ndarray], changes: Changes = ()) -> dict[str, tuple[str, ...]]:
    """What each step is made of, without a step between them: other steps by name, and `INPUT`; also what `OUTPUT` is made of.

    Found by moving one value at a time while the outputs of all other steps stay as they are.
    """
    plain = run_layer(layer, x, params, None, changes)
    fixed = {step.name: step.made for step in plain.steps}
    found: dict[str, list[str]] = {name: [] for name in (*fixed, OUTPUT)}
    moved = x + np.random.default_rng(0).standard_normal(x.shape)
    for source in (INPUT, *fixed):
        run = run_layer(layer, moved if source == INPUT else x, params, _Replaced(fixed, source), changes)
        for step, before in zip(run.steps, plain.steps, strict=True):
            if any(not np.array_equal(step.inputs[name], value) for name, value in before.inputs.items()):
                found[step.name].append(source)
        if not np.array_equal(run.output, plain.output):
            found[OUTPUT].append(source)
    return {name: tuple(sources) for name, sources in found.items()}

"""The properties on JAX run under `jit`, one compilation for each drawn structure: eager JAX compiles every single operation of it.

XLA is told to compile without optimising. Measured for one drawn `iwsa` in float64, in seconds of processor time: 2.3 eager, 1.0
under `jit`, 0.1 under `jit` without optimisation. `sharded.py` has all of XLA's optimisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import jax
import jaxtyping
import pytest

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.dialects import flax_port, vit_pytorch

CALLS = ("ssa", "iwsa", "block", "mlp", "peg", "patch_embed", "scalable_vit", "stage_features", "trace")
OPS = ("linear", "layer_norm", "gelu", "gelu_tanh", "erf", "softmax", "attention", "conv2d", "pad")
DIALECT = ("scalable_vit", "trace")
UNOPTIMISED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit`, without XLA's optimisation on the CPU."""
    return jax.jit(
        function, compiler_options=known(tuple(UNOPTIMISED.items())) if jax.default_backend() == "cpu" else None, **options
    )


@cache
def known(options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Those options that this XLA has: it is asked to compile something with them, and names one that it does not know."""
    left = dict(options)
    while True:
        try:
            jax.jit(lambda x: x, compiler_options=left)(0)
        except jax.errors.JaxRuntimeError as error:
            unknown = [name for name in left if f"'{name}'" in str(error)]
            if not unknown:
                raise
            del left[unknown[0]]
        else:
            return left


def vmapped(function: Callable[..., Any]) -> Any:
    return jit(jax.vmap(function))


@contextmanager
def x64() -> Iterator[None]:
    """Float64, and float32 products that are not rounded to less: the definitions leave that to the default."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


@contextmanager
def jitted_specification() -> Iterator[None]:
    """The public functions, as the tests call them, under `jit` for JAX arrays and unchanged for all others; with x64 on.

    Shapes are not checked against signatures, which takes a third of a trace: the other libraries run the same source.
    """
    with x64(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for module, names in ((sv, CALLS), (ops, OPS), (vit_pytorch, DIALECT), (flax_port, DIALECT)):
            for name in names:
                patch.setattr(module, name, jitted(getattr(module, name)))
        yield


def jitted(function: Callable[..., Any]) -> Any:
    """The function under `jit`: arrays and mappings of arrays traced, all else static; `tap` sees what it would, at the end."""

    @wraps(function)
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
            return function(x, *args, **kwargs)
        tap = kwargs.pop("tap", None)
        named = {**dict(enumerate((x, *args))), **kwargs}
        traced = {key: value for key, value in named.items() if isinstance(value, jax.Array | Mapping)}
        static = tuple((key, value) for key, value in named.items() if key not in traced)
        y, taps, names = compiled(function, static, tap is not None)({str(key): value for key, value in traced.items()})
        for name in names["taps"]:
            tap(name, taps[name])
        return {name: y[name] for name in names["y"]} if isinstance(y, dict) else y

    if hasattr(function, "definition"):
        call.definition = jitted(function.definition)  # type: ignore[attr-defined]
    return call


@cache
def compiled(function: Callable[..., Any], static: tuple[tuple[Any, Any], ...], tapped: bool) -> Callable[..., Any]:
    """With the names of what it taps and gives in their own order: JAX sorts a mapping's keys."""
    names: dict[str, list[str]] = {}

    def run(traced: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        named = dict(static) | {int(key) if key.isdigit() else key: value for key, value in traced.items()}
        positional = [named.pop(i) for i in range(sum(isinstance(key, int) for key in named))]
        taps: dict[str, Any] = {}

        def keep(name: str, y: Any) -> Any:
            taps[name] = y
            return y

        y = function(*positional, **named, **({"tap": keep} if tapped else {}))
        names.update(taps=list(taps), y=list(y) if isinstance(y, dict) else [])
        return y, taps

    compiled_run = jit(run)

    def call(traced: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, list[str]]]:
        return (*compiled_run(traced), names)

    return call

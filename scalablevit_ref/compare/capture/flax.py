"""A Flax module: linen's through `intercept_methods`, nnx's through the `__call__` of its classes."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, traverse_util
from jax.extend.core import get_opaque_trace_state

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.compare.capture.alignment import Captured, Conditions, Module, aligned, nameable
from scalablevit_ref.compare.capture.names import by_mapping
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code, raised
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.networks import Network

ModulePath = tuple[Any, ...]
Ended = Callable[[ModulePath, Any], None]
"""Gets each submodule's path and output as it ends."""

IMAGE_LAYOUTS = {"b h w c": (0, 2, 3, 1), "b c h w": (0, 1, 2, 3)}
"""How the candidate may take its images, and the axes of b c h w in that order."""

EVALUATION = {"train": False, "training": False, "is_training": False, "deterministic": True}
"""Arguments by which modules learn that nothing is to be dropped."""

COMPILED_FAST: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
    "xla_allow_excess_precision": False,
}
"""For processors: what is run once need not run fast, and in 16 bits each result is rounded as if operations ran one by one."""


@dataclass(frozen=True)
class Functional:
    """A Flax module of either kind.

    Attributes
    ----------
    state, paths
        Its parameters by path, and the submodules that hold some.
    run
        A forward pass with such parameters, which leaves the module as it is.
    layouts
        Of its images, the likelier first.
    """

    kind: str
    state: Mapping[ModulePath, Any]
    paths: frozenset[ModulePath]
    run: Callable[[Mapping[ModulePath, Any], Any, Ended], Any]
    layouts: tuple[str, ...]


@dataclass(frozen=True)
class Ran:
    """What a first forward pass shows, in which nothing is computed.

    Attributes
    ----------
    sizes
        How many values each submodule gives, in the order in which they end.
    traceable
        Whether JAX can compile the whole pass. It cannot if the module looks at values.
    """

    layout: str
    images: Any
    sizes: Mapping[ModulePath, int]
    traceable: bool


class FlaxModule:
    """A Flax nnx module, or a linen module that is bound to its variables; a copy of it is run, in evaluation mode."""

    takes_weights = True
    brings_images = False

    def __init__(self, module: linen.Module | nnx.Module) -> None:
        self.module = module

    def config(self) -> ScalableViTConfig | None:
        return None

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        with _float64() if conditions.dtype == "float64" else nullcontext():
            return self._captured(conditions)

    def _captured(self, conditions: Conditions) -> Captured:
        network, dtype = conditions.network, conditions.dtype
        with own_code("copying the candidate"):
            m = linen_model(self.module, dtype) if isinstance(self.module, linen.Module) else nnx_model(self.module, dtype)
        if not m.state:
            raise CaptureError("the candidate holds no parameters: give a function of the images instead")
        state = {path: _cast(value, dtype) for path, value in m.state.items()}
        ran = _ran(m, state, conditions.fed)
        known = {_canonical(path): path for path in m.paths | set(ran.sizes)}
        own = {_canonical(path): path for path in state}
        names = None if conditions.names is None else _canonical_targets(conditions.names, known, network)
        sizes = {name: tuple(state[path].shape) for name, path in own.items()}
        found, pairs = aligned(known, sizes, lambda: _modules(ran, own, state), replace(conditions, names=names))
        if conditions.weights is not None:
            for name, theirs in pairs.items():
                value, path = state[own[theirs]], own[theirs]
                state[path] = jnp.asarray(_turned_back(conditions.weights[name], path, value.shape), value.dtype)
        taps, seconds = _taps(m, state, ran, {known[path]: name for name, path in found.items()})
        if "logits" not in taps:
            raise CaptureError("the candidate returns no array")
        dtypes = sorted({tap.dtype.name for tap in taps.values()})
        if dtypes != [dtype or dtypes[0]]:
            raise CaptureError(
                f"the candidate computes in {' and '.join(dtypes)}{f' where its parameters are {dtype}' if dtype else ''}; "
                "its own casts must go, or dtype= must be what it computes in"
            )
        hidden = [name for name in found if name not in taps and known[found[name]] in ran.sizes]
        notes = [f"images were given as {ran.layout}"]
        if hidden:
            notes.append(f"{len(hidden)} layers run inside jit, scan or remat and tell nothing: {', '.join(hidden[:3])}")
        shapes = network.parameter_shapes()
        return Captured(
            m.kind,
            taps,
            {name: _dotted(known[path]) for name, path in found.items()} | {"logits": "output"},
            conditions.fed,
            dtypes[0],
            {name: _turned(to_numpy(state[own[theirs]]), own[theirs], shapes[name]) for name, theirs in pairs.items()},
            seconds,
            tuple(notes),
            left_out=dict.fromkeys(hidden, "inside jit, scan or remat"),
        )


def _ran(m: Functional, state: Mapping[ModulePath, Any], images: np.ndarray) -> Ran:
    """Raises CaptureError if the model runs with no layout of the images."""
    dtype = jnp.result_type(*state.values())
    errors: dict[str, BaseException] = {}
    for layout in m.layouts:
        x = jnp.asarray(images.transpose(IMAGE_LAYOUTS[layout]), dtype)
        sizes: dict[ModulePath, int] = {}

        def ended(path: ModulePath, out: Any, sizes: dict[ModulePath, int] = sizes) -> None:
            value = _one(out)
            if value is not None:
                sizes.setdefault(path, value.size)

        def run(values: list[Any], x: Any, ended: Ended = ended) -> Any:
            return _one(m.run(dict(zip(state, values, strict=True)), x, ended))

        traceable = True
        try:
            with own_code(RUNNING):
                try:
                    jax.eval_shape(run, list(state.values()), x)
                except jax.errors.JAXTypeError:  # it looks at values, so it must be run
                    traceable = False
                    run(list(state.values()), x)
        except CaptureError as error:
            if error.__cause__ is None:  # not what the candidate raises
                raise
            errors[layout] = error.__cause__
            continue
        return Ran(layout, x, sizes, traceable)
    said = "; ".join(f"{layout}: {raised(error)}" for layout, error in errors.items())
    raise CaptureError(f"the candidate runs with no layout of the images: {said}") from next(iter(errors.values()))


def _modules(ran: Ran, own: Mapping[str, ModulePath], state: Mapping[ModulePath, Any]) -> list[Module]:
    """The submodules that ran. Their parameters are in the order of use: JAX sorts them by name."""
    order = {path: place for place, path in enumerate(ran.sizes)}
    keys = sorted(own, key=lambda key: order.get(own[key][:-1], len(order)))
    modules = []
    for path, size in ran.sizes.items():
        name = _canonical(path)
        shapes = {key.removeprefix(f"{name}."): state[own[key]].shape for key in keys if key.startswith(f"{name}.")}
        modules.append(Module(name, shapes, size))
    return modules


def _taps(
    m: Functional, state: Mapping[ModulePath, Any], ran: Ran, wanted: Mapping[ModulePath, str]
) -> tuple[dict[str, np.ndarray], float]:
    """The outputs of the wanted submodules and the logits, and the seconds that the forward pass took.

    The pass is compiled as a whole: run one by one, each operation would be compiled for each shape, for most of a minute.
    """
    trace_state: Any = get_opaque_trace_state  # untyped, as is the next
    wait: Any = jax.block_until_ready

    def forward(values: list[Any], x: Any) -> dict[str, Any]:
        taps, outermost = {}, trace_state()

        def ended(path: ModulePath, out: Any) -> None:
            value = _one(out)
            if path in wanted and value is not None and trace_state() == outermost:
                taps[wanted[path]] = value

        logits = _one(m.run(dict(zip(state, values, strict=True)), x, ended))
        return taps if logits is None else taps | {"logits": logits}

    run: Callable[..., dict[str, Any]] = forward
    if ran.traceable:
        jitted = jax.jit(forward)
        with own_code(RUNNING):
            lowered = jitted.lower(list(state.values()), ran.images)
        run = lowered.compile(compiler_options=COMPILED_FAST if jax.default_backend() == "cpu" else None)
    with own_code(RUNNING):
        start = time.perf_counter()
        taps = wait(run(list(state.values()), ran.images))
    seconds = time.perf_counter() - start
    return {name: to_numpy(value) for name, value in taps.items()}, seconds


def _one(out: Any) -> Any:
    """The array that a module returns, or the first of several."""
    if isinstance(out, tuple | list) and out:
        out = out[0]
    return out if isinstance(out, jax.Array) else None


def _cast(value: Any, dtype: str | None) -> Any:
    """On the host: JAX would compile a conversion for each shape."""
    return jnp.asarray(value) if dtype is None else jnp.asarray(to_numpy(jnp.asarray(value)).astype(jnp.dtype(dtype)))


def _float64() -> AbstractContextManager[Any]:
    return cast("AbstractContextManager[Any]", jax.enable_x64(True))


def _dotted(path: ModulePath) -> str:
    return ".".join(map(str, path))


def _canonical(path: ModulePath) -> str:
    """A path as PyTorch would have it: `blocks_0.head.layers.1.kernel` is `blocks.0.head.1.weight`."""
    name = re.sub(r"(^|\.)layers[._](?=\d)", r"\1", _dotted(path))
    name = re.sub(r"_(?=\d+(\.|$))", ".", name)
    return re.sub(r"(^|\.)(kernel|scale|embedding)$", r"\1weight", name)


def _canonical_targets(names: Mapping[str, str], known: Mapping[str, ModulePath], network: Network) -> dict[str, str]:
    """A user's mapping, which has the candidate's own paths, to the paths as PyTorch would have them."""
    canonical = {_dotted(path): name for name, path in known.items()}
    return {name: canonical[dotted] for name, dotted in by_mapping(names, canonical, nameable(network)).items()}


def _turned(value: np.ndarray, path: ModulePath, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter in the official orientation and of this shape: (out, in), (out, in / groups, kh, kw)."""
    if _as_official(value.shape, path, shape):
        return value.reshape(shape)
    return np.moveaxis(value.reshape(*shape[2:], shape[1], shape[0]), (-1, -2), (0, 1))


def _turned_back(value: np.ndarray, path: ModulePath, shape: tuple[int, ...]) -> np.ndarray:
    """An official parameter in the candidate's orientation and of this shape."""
    if _as_official(shape, path, value.shape):
        return value.reshape(shape)
    return np.moveaxis(value, (0, 1), (-1, -2)).reshape(shape)


def _as_official(own: tuple[int, ...], path: ModulePath, official: tuple[int, ...]) -> bool:
    """Flax's kernels are (in, out) and (kh, kw, in / groups, out); other parameters are as they are, if their shape is official."""
    flaxen = (*official[2:], *official[1::-1])
    return len(official) < 2 or (own == official and (path[-1] != "kernel" or own != flaxen))


# linen and nnx modules as one


def linen_model(module: linen.Module, dtype: str | None) -> Functional:
    if module.scope is None:
        raise CaptureError("the linen module is not bound to its variables: give module.bind(variables)")
    tree: Any = traverse_util  # untyped
    inner, variables = module.unbind()
    flat = tree.flatten_dict(linen.meta.unbox(variables))
    params = {path[1:]: value for path, value in flat.items() if path[0] == "params"}
    others = {path: value for path, value in flat.items() if path[0] != "params"}

    def run(state: Mapping[ModulePath, Any], x: Any, ended: Ended) -> Any:
        def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            _compute_in(context.module, dtype)
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and context.module.path:
                ended(context.module.path, out)
            return out

        own = tree.unflatten_dict({**others, **{("params", *path): value for path, value in state.items()}})
        with linen.intercept_methods(keep):
            return inner.apply(own, x, **_evaluation(inner))

    return Functional("linen module", params, frozenset(_owners(params)), run, ("b h w c", "b c h w"))


def nnx_model(module: nnx.Module, dtype: str | None) -> Functional:
    split: Any = nnx.split(module, nnx.Param, ...)
    graph, params, others = split
    flat = dict(nnx.to_flat_state(params))

    def run(state: Mapping[ModulePath, Any], x: Any, ended: Ended) -> Any:
        new = nnx.from_flat_state({path: flat[path].copy(value) for path, value in state.items()})
        copy = nnx.merge(graph, new, others)
        copy.eval()
        paths = {}
        for path, part in nnx.iter_modules(copy):
            _compute_in(part, dtype)
            if path:
                paths[id(part)] = path
        with _calls_reported({type(part) for _, part in nnx.iter_modules(copy)}, paths, ended):
            return copy(x, **_evaluation(copy))

    return Functional(
        "nnx module", {path: p[...] for path, p in flat.items()}, frozenset(_owners(flat)), run, ("b c h w", "b h w c")
    )


@contextmanager
def _calls_reported(classes: set[type], paths: Mapping[int, ModulePath], ended: Ended) -> Iterator[None]:
    """While open, each call of an instance in `paths`, by id, is reported to `ended` when it ends."""

    def reporting(call: Any) -> Any:
        @wraps(call)
        def reported(self: Any, *args: Any, **kwargs: Any) -> Any:
            out = call(self, *args, **kwargs)
            if id(self) in paths:
                ended(paths[id(self)], out)
            return out

        return reported

    defining = {c: vars(c)["__call__"] for kind in classes for c in kind.__mro__ if "__call__" in vars(c)}
    try:
        for c, call in defining.items():
            c.__call__ = reporting(call)  # type: ignore[method-assign]
        yield
    finally:
        for c, call in defining.items():
            c.__call__ = call  # type: ignore[method-assign]


def _compute_in(module: Any, dtype: str | None) -> None:
    """Let a copy's module that has a dtype compute in this one."""
    if dtype is not None and getattr(module, "dtype", None) is not None:
        object.__setattr__(module, "dtype", jnp.dtype(dtype))


def _evaluation(module: Any) -> dict[str, Any]:
    return {name: EVALUATION[name] for name in inspect.signature(type(module).__call__).parameters if name in EVALUATION}


def _owners(paths: Iterable[ModulePath]) -> set[ModulePath]:
    """The modules that hold these parameters, and those that hold them."""
    return {path[:end] for path in paths for end in range(1, len(path))}

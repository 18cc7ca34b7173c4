"""A Flax module: linen's through `intercept_methods`, nnx's through the `__call__` of its classes."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.compare.capture import names as naming
from scalablevit_ref.compare.capture.captured import Captured, CaptureError
from scalablevit_ref.compare.capture.flax_modules import Ended, FlaxModel, Path, linen_model, nnx_model
from scalablevit_ref.networks import Network

LAYOUTS = {"b h w c": (0, 2, 3, 1), "b c h w": (0, 1, 2, 3)}
"""How the candidate may take its images, and the axes of b c h w in that order."""


def capture_flax(
    model: Any,
    network: Network,
    images: np.ndarray,
    *,
    dtype: str | None,
    weights: Mapping[str, np.ndarray] | None,
    names: Mapping[str, str] | None,
) -> Captured:
    """One forward pass of a copy of the module, in evaluation mode.

    dtype: of the copy; None leaves the module's. weights: official parameters that the copy gets; None leaves the module's own.
    """
    with _float64() if dtype == "float64" else nullcontext():
        m = linen_model(model, dtype) if isinstance(model, linen.Module) else nnx_model(model, dtype)
        if not m.state:
            raise CaptureError("the candidate holds no parameters: give a function of the images instead")
        state = {path: _cast(value, dtype) for path, value in m.state.items()}
        layout, x, ran = _ran(m, state, images)
        known = {_canonical(path): path for path in m.paths | set(ran)}
        own = {_canonical(path): path for path in state}
        mapping = None if names is None else _canonical_targets(names, known, network)
        order = {path: place for place, path in enumerate(ran)}
        last = len(order)
        keys = sorted(own, key=lambda key: order.get(own[key][:-1], last))  # as they are used: JAX sorts them by name

        def modules() -> list[naming.Module]:
            return [
                naming.Module(
                    name, {key[len(name) + 1 :]: state[own[key]].shape for key in keys if key.startswith(f"{name}.")}, size
                )
                for name, size in ((_canonical(path), size) for path, size in ran.items())
            ]

        found, pairs = naming.aligned(known, own, modules, network, images.shape, mapping)
        shapes = network.parameter_shapes()
        for name, theirs in pairs.items():
            if weights is not None:
                value = state[own[theirs]]
                state[own[theirs]] = jnp.asarray(_turned_back(weights[name], own[theirs], value.shape), value.dtype)
        taps, seconds = _taps(m, state, x, {known[path]: name for name, path in found.items()})
        if "logits" not in taps:
            raise CaptureError("the candidate returns no array")
        dtypes = sorted({tap.dtype.name for tap in taps.values()})
        if dtypes != [dtype or dtypes[0]]:
            raise CaptureError(
                f"the candidate computes in {' and '.join(dtypes)}{f' where its parameters are {dtype}' if dtype else ''}; "
                "its own casts must go, or dtype= must be what it computes in"
            )
        hidden = [name for name in found if name not in taps and known[found[name]] in ran]
        notes = [f"images were given as {layout}"]
        if hidden:
            notes.append(f"{len(hidden)} layers run inside jit, scan or remat and tell nothing: {', '.join(hidden[:3])}")
        return Captured(
            m.kind,
            taps,
            {name: _told(known[path]) for name, path in found.items()} | {"logits": "output"},
            images,
            dtypes[0],
            {name: _turned(to_numpy(state[own[theirs]]), own[theirs], shapes[name]) for name, theirs in pairs.items()},
            seconds,
            tuple(notes),
        )


def _ran(m: FlaxModel, state: Mapping[Path, Any], images: np.ndarray) -> tuple[str, Any, dict[Path, int]]:
    """The layout that the model takes, the images in it, and the sizes of its submodules' outputs in the order of their ends."""
    dtype = jnp.result_type(*state.values())
    errors = {}
    for layout in m.layouts:
        x = jnp.asarray(images.transpose(LAYOUTS[layout]), dtype)
        ran: dict[Path, int] = {}

        def ended(path: Path, out: Any, ran: dict[Path, int] = ran) -> None:
            value = _one(out)
            if value is not None:
                ran.setdefault(path, value.size)

        def run(values: list[Any], x: Any, ended: Ended = ended) -> Any:
            return _one(m.run(dict(zip(state, values, strict=True)), x, ended))

        try:
            try:
                jax.eval_shape(run, list(state.values()), x)
            except jax.errors.JAXTypeError:  # it looks at values, so it must be run
                run(list(state.values()), x)
        except Exception as error:  # whatever the candidate raises
            errors[layout] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            continue
        return layout, x, ran
    raise CaptureError("the candidate runs with no layout of the images: " + "; ".join(f"{k}: {v}" for k, v in errors.items()))


def _taps(m: FlaxModel, state: Mapping[Path, Any], x: Any, wanted: Mapping[Path, str]) -> tuple[dict[str, np.ndarray], float]:
    """The outputs of the wanted submodules and the logits, and the seconds that the forward pass took."""
    taps: dict[str, Any] = {}

    def ended(path: Path, out: Any) -> None:
        value = _one(out)
        if path in wanted and value is not None and not isinstance(value, jax.core.Tracer):
            taps[wanted[path]] = value

    start = time.perf_counter()
    logits = _one(m.run(state, x, ended))
    if logits is not None:
        taps["logits"] = logits.block_until_ready()
    seconds = time.perf_counter() - start
    return {name: to_numpy(value) for name, value in taps.items()}, seconds


def _one(out: Any) -> Any:
    """The array that a module returns, or the first of several."""
    if isinstance(out, tuple | list) and out:
        out = out[0]
    return out if isinstance(out, jax.Array) else None


def _cast(value: Any, dtype: str | None) -> Any:
    value = jnp.asarray(value)
    return value if dtype is None else value.astype(dtype)


def _float64() -> AbstractContextManager[Any]:
    return cast("AbstractContextManager[Any]", jax.enable_x64(True))


def _told(path: Path) -> str:
    return ".".join(map(str, path))


def _canonical(path: Path) -> str:
    """A path as PyTorch would have it: `blocks_0.head.layers.1.kernel` is `blocks.0.head.1.weight`."""
    name = re.sub(r"(^|\.)layers[._](?=\d)", r"\1", _told(path))
    name = re.sub(r"_(?=\d+(\.|$))", ".", name)
    return re.sub(r"(^|\.)(kernel|scale|embedding)$", r"\1weight", name)


def _canonical_targets(names: Mapping[str, str], known: Mapping[str, Path], network: Network) -> dict[str, str]:
    """A user's mapping, which has the candidate's own paths, to the paths as PyTorch would have them."""
    canonical = {_told(path): name for name, path in known.items()}
    return {name: canonical[told] for name, told in naming.by_mapping(names, canonical, network).items()}


def _turned(value: np.ndarray, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter in the official orientation and of this shape: (out, in), (out, in / groups, kh, kw)."""
    if _as_official(value.shape, path, shape):
        return value.reshape(shape)
    return np.moveaxis(value.reshape(*shape[2:], shape[1], shape[0]), (-1, -2), (0, 1))


def _turned_back(value: np.ndarray, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An official parameter in the candidate's orientation and of this shape."""
    if _as_official(shape, path, value.shape):
        return value.reshape(shape)
    return np.moveaxis(value, (0, 1), (-1, -2)).reshape(shape)


def _as_official(own: tuple[int, ...], path: Path, official: tuple[int, ...]) -> bool:
    """Flax's kernels are (in, out) and (kh, kw, in / groups, out); other parameters are as they are, if their shape is official."""
    flaxen = (*official[2:], *official[1::-1])
    return len(official) < 2 or (own == official and (path[-1] != "kernel" or own != flaxen))

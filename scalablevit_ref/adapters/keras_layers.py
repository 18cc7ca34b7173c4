"""Layers of Keras 3 that compute by the specification's functions, on TensorFlow, JAX or PyTorch, whichever Keras runs on.

Their variables lie as Keras' own layers have them (`kernel`, `bias`, `gamma`, `beta`), at attributes of the official names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from typing import Any

import keras
import numpy as np
from einops import rearrange

from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.backends.dispatch import BACKENDS, dtype_name
from scalablevit_ref.blocks import mlp, patch_embed, peg
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checks import check_shapes
from scalablevit_ref.config import BlockKind, SSAScale, SSAValues
from scalablevit_ref.ops import layer_norm, linear
from scalablevit_ref.parameters import (
    Shapes,
    block_shapes,
    children,
    drawn,
    is_depthwise,
    iwsa_shapes,
    mlp_shapes,
    patch_embed_shapes,
    peg_shapes,
    ssa_shapes,
)

NAMES = {1: ("gamma", "beta"), 2: ("kernel", "bias"), 4: ("kernel", "bias")}
"""What Keras calls a weight of so many axes, and the bias beside it."""

LAYOUTS = {1: "c -> c", 2: "c_out c_in -> c_in c_out", 4: "c_out c_in kh kw -> kh kw c_in c_out"}
"""By the number of axes: how a weight lies officially, and in Keras."""

DEPTHWISE = "c 1 kh kw -> kh kw c 1"

registered = keras.saving.register_keras_serializable(package="scalablevit_ref")


class Weights(keras.layers.Layer):  # type: ignore[misc]
    """The kernel and bias of a linear layer or a convolution, or a norm's gamma and beta.

    Parameters
    ----------
    arrays : mapping
        Initial values, by the official names `weight` and `bias`, in the official layout.
    depthwise : bool
        Whether the weight is a depthwise kernel.
    """

    def __init__(self, arrays: Mapping[str, Any], *, depthwise: bool = False, **options: Any) -> None:
        super().__init__(**options)
        axes = arrays["weight"].ndim
        self._own = dict(zip(("weight", "bias"), NAMES[axes], strict=True))
        self._pattern = DEPTHWISE if depthwise else LAYOUTS[axes]
        for official, value in arrays.items():
            moved = rearrange(value, self._pattern) if official == "weight" else value
            setattr(self, self._own[official], self._held(self._own[official], moved))
        self._has = tuple(arrays)
        self.built = True

    def _held(self, name: str, value: np.ndarray) -> Any:
        def initial(shape: Any, dtype: Any = None) -> Any:
            return _native(value, self.variable_dtype)

        return self.add_weight(shape=value.shape, name=name, initializer=initial)

    def official(self, taken: Callable[[Any], Any] = lambda variable: variable.value) -> dict[str, Any]:
        """What `taken` gives of each variable, by the official names and in the official layout."""
        back = " -> ".join(reversed(self._pattern.split(" -> ")))
        found = {name: taken(getattr(self, self._own[name])) for name in self._has}
        return {name: rearrange(x, back) if name == "weight" else x for name, x in found.items()}

    def assign(self, arrays: Mapping[str, Any]) -> None:
        """Take values by the official names, in the official layout."""
        for name in self._has:
            x = rearrange(arrays[name], self._pattern) if name == "weight" else arrays[name]
            getattr(self, self._own[name]).assign(_native(x, self.variable_dtype))


def _native(x: Any, dtype: str) -> Any:
    """An array of the library that Keras runs on. Raises ValueError where that does not have the dtype."""
    library = keras.backend.backend()
    return to_backend(np.asarray(x), library if library in BACKENDS else "numpy", dtype)


class Holder(keras.layers.Layer):  # type: ignore[misc]
    """Layers at attributes, which may be numbers."""

    def __init__(self, layers: Mapping[str, keras.layers.Layer], **options: Any) -> None:
        super().__init__(**options)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._names = tuple(layers)
        self.built = True

    def __dir__(self) -> Iterable[str]:
        """With the numbers, which PyTorch's modules leave out: Keras saves what is here."""
        return sorted({*super().__dir__(), *vars(self).get("_names", ())})

    def __getitem__(self, name: int | str) -> Any:
        return getattr(self, str(name))

    def __len__(self) -> int:
        return len(self._names)


class Part(keras.layers.Layer):  # type: ignore[misc]
    """A layer with official parameters.

    Parameters
    ----------
    shapes : mapping
        Names and shapes of its parameters.
    settings : mapping
        The keyword arguments that make such a layer again.
    """

    def __init__(self, shapes: Shapes, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._shapes, self._settings = tuple(shapes.items()), tuple(settings.items())
        self.built = True

    def params(self) -> dict[str, Any]:
        """The weights as they are now, under the official names and in the official layout, as `sv`'s functions take them."""
        return self._official(lambda variable: variable.value)

    def to_params(self) -> dict[str, np.ndarray]:
        """The same as NumPy arrays, in the variables' own dtype: for `sv.save_checkpoint`."""
        found = self._official(lambda variable: to_numpy(variable.value))
        return {name: np.ascontiguousarray(x) for name, x in found.items()}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Take these weights, arrays of any library under the official names. Raises ValueError where they do not fit."""
        params = tensors_in(params)
        check_shapes(params, dict(self._shapes))
        found: dict[str, dict[str, Any]] = {}
        for name, x in to_numpy(params).items():
            path, _, leaf = name.rpartition(".")
            found.setdefault(path, {})[leaf] = x
        for path, arrays in found.items():
            _at(self, path).assign(arrays)

    def _official(self, taken: Callable[[Any], Any]) -> dict[str, Any]:
        paths = dict.fromkeys(name.rpartition(".")[0] for name, _ in self._shapes)
        found = {path: _at(self, path).official(taken) for path in paths}
        parts = ((name, *name.rpartition(".")[::2]) for name, _ in self._shapes)
        return {name: found[path][leaf] for name, path, leaf in parts}

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        return config | dict(self._settings)


def _at(layer: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), layer) if path else layer


def initial(shapes: Shapes, params: Mapping[str, Any] | None, seed: int, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """The values to begin with, given or drawn; those that are given say the dtype unless `options` do.

    Raises
    ------
    ValueError or TypeError
        For parameters that do not fit, or a seed that is none.
    """
    if params is None:
        return {name: drawn(name, shape, seed).astype("float32") for name, shape in shapes.items()}
    params = tensors_in(params)
    check_shapes(params, shapes)
    if options.get("dtype") is None and params:
        options["dtype"] = dtype_name(next(iter(params.values())))
    values = to_numpy(params)
    return {name: values[name] for name in shapes}


def _hold(layer: keras.layers.Layer, params: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Set layers that hold these parameters as attributes."""
    for name, inner in children(params).items():
        setattr(layer, name, _held(inner, f"{prefix}{name}", {"name": name, "dtype": layer.dtype_policy}))


def _held(params: Mapping[str, np.ndarray], path: str, options: dict[str, Any]) -> keras.layers.Layer:
    if "weight" in params:
        return Weights(params, depthwise=is_depthwise(f"{path}.weight", params["weight"].shape), **options)
    inner = {name: _held(some, f"{path}.{name}", options | {"name": name}) for name, some in children(params).items()}
    return Holder(inner, **options)


class Linear(Weights):
    """X Wᵀ + b over the last axis: `ops.linear`."""

    def call(self, x: Any) -> Any:
        return linear(x, **self.official())

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], self.kernel.shape[1])


class Norm(Weights):
    """LayerNorm over the last axis: `ops.layer_norm`."""

    def __init__(self, arrays: Mapping[str, Any], *, eps: float, **options: Any) -> None:
        super().__init__(arrays, **options)
        self.eps = eps

    def call(self, x: Any) -> Any:
        return layer_norm(x, **self.official(), eps=self.eps)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


class Operation(Part):
    """A layer that computes by one function of the specification; what it gives is of the shape that it takes."""

    PREFIX = ""
    """What the network has in front of the parameters' names."""

    def __init__(
        self,
        function: Callable[..., Any],
        shapes: Shapes,
        settings: Mapping[str, Any],
        *,
        params: Mapping[str, Any] | None,
        seed: int,
        options: dict[str, Any],
    ) -> None:
        values = initial(shapes, params, seed, options)
        super().__init__(shapes, settings, **options)
        self._function = function
        _hold(self, values, self.PREFIX)

    def call(self, x: Any) -> Any:
        return self._function(x, self.params())

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


@registered
class SSA(Operation):
    """Scalable self-attention of a map b h w c: `sv.ssa`.

    Parameters
    ----------
    dim : int
        Channels c of the map.
    num_heads, sr_ratio, c_ratio, values, ssa_scale
        As those of `sv.ssa`.
    qkv_bias : bool
        Whether q, k and v have biases.
    params : mapping, optional
        Initial values under the official local names, arrays of any library, copied; None draws them.
    seed : int
        Of the initial values that are drawn.
    **options
        Of a Keras layer: `name`, `dtype`, which may be a policy such as "mixed_bfloat16", `trainable`.

    Raises
    ------
    ValueError or TypeError
        For a setting or parameters that do not fit.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        sr_ratio: int,
        c_ratio: float,
        values: SSAValues = "unscaled",
        ssa_scale: SSAScale = "scaled",
        qkv_bias: bool = True,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        own: Any = {"num_heads": num_heads, "sr_ratio": sr_ratio, "c_ratio": c_ratio, "values": values}
        shapes = ssa_shapes(dim, **own, qkv_bias=qkv_bias)
        function = partial(ssa, **own, ssa_scale=ssa_scale)
        settings = {"dim": dim, **own, "ssa_scale": ssa_scale, "qkv_bias": qkv_bias}
        super().__init__(function, shapes, settings, params=params, seed=seed, options=options)


@registered
class IWSA(Operation):
    """Interactive window self-attention of a map b h w c: `sv.iwsa`.

    Parameters
    ----------
    dim : int
        Channels c of the map.
    num_heads, window_size, pad
        As those of `sv.iwsa`.
    qkv_bias, params, seed, **options
        As those of `SSA`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window_size: int,
        pad: bool = False,
        qkv_bias: bool = True,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        own: Any = {"num_heads": num_heads, "window_size": window_size, "pad": pad}
        shapes = iwsa_shapes(dim, qkv_bias=qkv_bias)
        settings = {"dim": dim, **own, "qkv_bias": qkv_bias}
        super().__init__(partial(iwsa, **own), shapes, settings, params=params, seed=seed, options=options)


@registered
class MLP(Operation):
    """fc2(GELU(fc1(x))) of a map b h w c, with `hidden` units: `sv.mlp`. `params`, `seed` and `options` are as those of `SSA`."""

    def __init__(self, dim: int, hidden: int, *, params: Mapping[str, Any] | None = None, seed: int = 0, **options: Any) -> None:
        settings = {"dim": dim, "hidden": hidden}
        super().__init__(mlp, mlp_shapes(dim, hidden), settings, params=params, seed=seed, options=options)


@registered
class PEG(Operation):
    """Position encoding generator of a map b h w c: `sv.peg`. `params`, `seed` and `options` are as those of `SSA`."""

    def __init__(self, dim: int, *, params: Mapping[str, Any] | None = None, seed: int = 0, **options: Any) -> None:
        super().__init__(peg, peg_shapes(dim), {"dim": dim}, params=params, seed=seed, options=options)


@registered
class PatchEmbed(Operation):
    """Overlapping patches of a map b h w c_in, as a map b h' w' c: `sv.patch_embed`.

    Parameters
    ----------
    c_in, dim : int
        Channels of the map that it takes and of that which it gives.
    patch_size, eps
        As those of `sv.patch_embed`.
    params, seed, **options
        As those of `SSA`.
    """

    PREFIX = "patch_embeds."

    def __init__(
        self,
        c_in: int,
        dim: int,
        *,
        patch_size: int,
        eps: float = 1e-6,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        own: Any = {"patch_size": patch_size, "eps": eps}
        shapes = patch_embed_shapes(c_in, dim, patch_size)
        settings = {"c_in": c_in, "dim": dim, **own}
        super().__init__(partial(patch_embed, **own), shapes, settings, params=params, seed=seed, options=options)

    def compute_output_shape(self, shape: Any) -> Any:
        settings, (b, *sizes, _) = dict(self._settings), shape
        return (b, *(size and -(-size // settings["patch_size"]) for size in sizes), settings["dim"])


@registered
class Block(Part):
    """x += attention(norm1(x)); x += mlp(norm2(x)) of a map b h w c: `sv.block`, as layers `norm1`, `attn`, `norm2`, `mlp`.

    Parameters
    ----------
    dim : int
        Channels c of the map.
    kind : "iwsa" or "ssa"
        "iwsa" needs window_size and takes pad; "ssa" needs sr_ratio and c_ratio and takes values and ssa_scale.
    hidden : int
        Units of the MLP.
    norm_eps : float
        Epsilon of norm1 and norm2.
    num_heads, window_size, pad, sr_ratio, c_ratio, values, ssa_scale, qkv_bias, params, seed, **options
        As those of `IWSA` and `SSA`.
    """

    def __init__(
        self,
        dim: int,
        *,
        kind: BlockKind,
        hidden: int,
        num_heads: int,
        window_size: int | None = None,
        pad: bool = False,
        sr_ratio: int | None = None,
        c_ratio: float | None = None,
        values: SSAValues = "unscaled",
        ssa_scale: SSAScale = "scaled",
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        reduction: Any = {"num_heads": num_heads, "sr_ratio": sr_ratio, "c_ratio": c_ratio, "values": values, "qkv_bias": qkv_bias}
        shapes = block_shapes(dim, kind=kind, hidden=hidden, **reduction)
        initials = children(initial(shapes, params, seed, options))
        windows: Any = {"window_size": window_size, "pad": pad}
        rest = {"kind": kind, "hidden": hidden, "ssa_scale": ssa_scale, "norm_eps": norm_eps}
        super().__init__(shapes, {"dim": dim, **reduction, **windows, **rest}, **options)
        within: Any = {"dtype": self.dtype_policy}
        own: Any = {"num_heads": num_heads, "qkv_bias": qkv_bias, "params": initials["attn"], "name": "attn", **within}
        self.norm1, self.norm2 = (Norm(initials[name], eps=norm_eps, name=name, **within) for name in ("norm1", "norm2"))
        self.attn = IWSA(dim, **windows, **own) if kind == "iwsa" else SSA(dim, ssa_scale=ssa_scale, **reduction | own)
        self.mlp = MLP(dim, hidden, params=initials["mlp"], name="mlp", **within)

    def call(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape

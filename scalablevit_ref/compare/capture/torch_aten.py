"""What each operation of aten is, in the words of `graph.Operation`: from its schema where that tells, else from a table.

The schema tells views, what is written in place, and what draws random numbers; the table names products, convolutions, norms,
sums and the few operations that copy numbers from place to place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from scalablevit_ref.compare.capture.graph import Kind

MOVES = frozenset(
    (
        "_to_copy",
        "clone",
        "lift",
        "lift_fresh",
        "_unsafe_view",
        "_reshape_copy",
        "cat",
        "stack",
        "roll",
        "flip",
        "rot90",
        "repeat",
        "repeat_interleave",
        "constant_pad_nd",
        "pad",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "index",
        "gather",
        "index_select",
        "take",
        "take_along_dim",
        "embedding",
        "im2col",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "native_channel_shuffle",
        "slice_scatter",
        "select_scatter",
        "diagonal_scatter",
        "as_strided_scatter",
        "index_put",
        "_index_put_impl",
        "scatter",
        "index_copy",
        "unsafe_split",
        "unsafe_split_with_sizes",
        "split_with_sizes_copy",
        "unbind_copy",
        "to_dense",
        "to_mkldnn",
        "wait_tensor",
        "rounded",  # both of torch_quantised
        "rounded_in_the_run",
    )
)
"""Operations that only move numbers and are no views: without namespace, overload and the mark of an operation in place."""

NO_MOVES = frozenset({"_conj", "_neg_view", "real", "imag", "chalf"})
"""Views that show other numbers than those that they are of."""

OVERWRITES = frozenset(
    (
        "copy_",
        "fill_",
        "zero_",
        "set_",
        "normal_",
        "uniform_",
        "bernoulli_",
        "random_",
        "exponential_",
        "geometric_",
        "cauchy_",
        "log_normal_",
        "eye_",
    )
)
"""Operations in place after which nothing is left of what was there, with the mark of an operation in place."""

CONVOLVED = {1: ("bcw", "oiw", "iow"), 2: ("bchw", "oihw", "iohw"), 3: ("bcdhw", "oidhw", "iodhw")}
"""By the number of an image's axes: the axes of a batch, of a convolution's weight, and of a transposed convolution's."""


_NO_CONTAINERS = frozenset(
    {bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
)
"""Types of what operations are often given, in which no tensor is looked for."""


@dataclass(frozen=True)
class Traits:
    """What an operation's schema tells of it.

    Attributes
    ----------
    full
        "aten.addmm.default".
    name
        "addmm", without namespace and overload; of one in place too.
    arguments
        Their names in order, each with what it is where it is not given.
    written
        The places of those that it writes into.
    overwritten
        The places of those of which it leaves nothing.
    shaped
        Whether it takes a tensor for its shape alone.
    views
        Whether it gives a view of an argument.
    random
        Whether it may draw random numbers.
    splits
        Whether it stands for several other operations, which inference mode does not show.
    """

    full: str
    name: str
    arguments: tuple[tuple[str, Any], ...]
    written: tuple[int, ...]
    overwritten: tuple[int, ...]
    shaped: bool
    views: bool
    random: bool
    splits: bool


@dataclass(frozen=True)
class Described:
    """An operation's kind, its inputs in the order that the kind wants (None for one left out), and its settings."""

    kind: Kind
    inputs: Sequence[torch.Tensor | None]
    settings: dict[str, Any]


@cache
def traits(func: Any) -> Traits:
    schema = getattr(func, "_schema", None)
    if schema is None:  # an operation of higher order
        return Traits(str(func), str(func), (), (), (), shaped=False, views=False, random=False, splits=False)
    plain = schema.name.rpartition("::")[2]
    written = tuple(i for i, x in enumerate(schema.arguments) if x.alias_info is not None and x.alias_info.is_write)
    given = tuple(i for i, x in enumerate(schema.arguments) if x.is_out)
    return Traits(
        str(func),
        plain if plain.endswith("__") else plain.removesuffix("_"),
        tuple((x.name, x.default_value if x.has_default_value() else None) for x in schema.arguments),
        written,
        given + (written[:1] if plain in OVERWRITES else ()),
        shaped=plain.endswith("_like") or plain.startswith("new_"),
        views=not written and any(x.alias_info is not None for x in schema.returns),
        random=torch.Tag.nondeterministic_seeded in func.tags,
        splits=isinstance(func, torch._ops.OpOverload)
        and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd),
    )


def tensors(x: Any) -> list[torch.Tensor]:
    """All that are in what an operation or a module is given or gives, in order."""
    found: list[torch.Tensor] = []
    _collect(x, found)
    return found


def _collect(x: Any, found: list[torch.Tensor]) -> None:
    if isinstance(x, torch.Tensor):
        found.append(x)
    elif isinstance(x, tuple | list):
        for part in x:
            _collect(part, found)
    elif isinstance(x, dict):
        for part in x.values():
            _collect(part, found)
    elif type(x) not in _NO_CONTAINERS:
        found += [leaf for leaf in torch.utils._pytree.tree_leaves(x) if isinstance(leaf, torch.Tensor)]


def read(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The arguments that what an operation gives depends on."""
    told = traits(func)
    if told.shaped:
        return []
    gone = {told.arguments[i][0] for i in told.overwritten}
    return tensors(
        (
            [x for i, x in enumerate(args) if i not in told.overwritten],
            {name: x for name, x in kwargs.items() if name not in gone},
        )
    )


def written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The arguments that an operation writes into."""
    told = traits(func)
    return tensors([args[i] if i < len(args) else kwargs.get(told.arguments[i][0]) for i in told.written])


def is_random(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call draws random numbers: dropout of probability 0, as attention has it, does not."""
    told = traits(func)
    if not told.random:
        return False
    given = _bound(told, args, kwargs)
    chances = [given[name] for name in ("p", "dropout_p", "dropout") if isinstance(given.get(name), int | float)]
    return given.get("training") is not False and (told.name.startswith("bernoulli") or not chances or any(chances))


def described(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Sequence[torch.Tensor]) -> Described:
    """What a call does whose results depend on these tensors."""
    told = traits(func)
    given = _bound(told, args, kwargs)
    settings = _plain(given)
    if told.random and is_random(func, args, kwargs):
        settings["random"] = True
    known = TABLE.get(told.name, _none)(given, settings)
    if known is not None:
        return known
    return Described("move" if _moves(func, told, given) else "other", inputs, settings)


def _bound(told: Traits, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: args[i] if i < len(args) else kwargs.get(name, default) for i, (name, default) in enumerate(told.arguments)}
    return given or dict(kwargs)


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are numbers, words, dtypes, and rows of numbers, by their names."""
    found: dict[str, Any] = {}
    for name, x in given.items():
        if isinstance(x, bool | int | float | str):
            found[name] = x
        elif isinstance(x, torch.dtype):
            found[name] = str(x).removeprefix("torch.")
        elif isinstance(x, list | tuple) and x and all(isinstance(one, int | float) for one in x):
            found[name] = tuple(x)
    return found


def _moves(func: Any, told: Traits, given: Mapping[str, Any]) -> bool:
    if told.name == "_to_copy":
        source, dtype = given["self"], given["dtype"]
        return dtype is None or dtype.is_floating_point >= source.dtype.is_floating_point
    if told.name == "view" and func._overloadname == "dtype":
        return False
    if told.name in ("index_put", "_index_put_impl") and given["accumulate"]:
        return False
    if told.name == "scatter" and "reduce" in func._overloadname:
        return False
    is_copied_view = func is not None and torch.Tag.view_copy in getattr(func, "tags", ())
    return told.name in MOVES or is_copied_view or (told.views and told.name not in NO_MOVES)


# The table: each takes an operation's arguments by name, and the plain ones among them; None where it is another operation


def _none(given: Mapping[str, Any], settings: dict[str, Any]) -> Described | None:
    return None


def _products(
    left: str, right: str, bias: str | None, axes: Callable[[Any, Any], tuple[Any, Any]]
) -> Callable[[Mapping[str, Any], dict[str, Any]], Described | None]:
    """A product of two arguments, and the sum with a third; `axes` gives those contracted and those of the batch."""

    def product(given: Mapping[str, Any], settings: dict[str, Any]) -> Described | None:
        a, b, shift = given[left], given[right], None if bias is None else given[bias]
        beta, alpha = settings.get("beta", 1), settings.get("alpha", 1)
        if beta not in (0, 1) or not isinstance(a, torch.Tensor) or settings.get("attr", "none") != "none":
            return None
        contracted, batch = axes(a, b)
        factor = {} if alpha == 1 else {"factor": alpha}
        inputs = [a, b] if bias is None or shift is None or beta == 0 else [a, b, shift]
        return Described("product", inputs, {"contracted": contracted, "batch": batch} | factor)

    return product


def _matrices(a: torch.Tensor, b: torch.Tensor) -> tuple[Any, Any]:
    return ((a.ndim - 1,), (max(b.ndim - 2, 0),)), ((), ())


def _rows(x: torch.Tensor, weight: torch.Tensor) -> tuple[Any, Any]:
    return ((x.ndim - 1,), (weight.ndim - 1,)), ((), ())


def _batches(a: torch.Tensor, b: torch.Tensor) -> tuple[Any, Any]:
    return ((2,), (1,)), ((0,), (0,))


def _outer(a: torch.Tensor, b: torch.Tensor) -> tuple[Any, Any]:
    return ((), ()), ((), ())


def _convolution(given: Mapping[str, Any], settings: dict[str, Any]) -> Described | None:
    x, weight, spatial = given.get("input", given.get("self")), given["weight"], len(given["stride"])
    if spatial not in CONVOLVED:
        return None
    batch, ordinary, transposed = CONVOLVED[spatial]
    each = {name: tuple(given[name]) * (spatial // len(given[name])) for name in ("stride", "padding", "dilation")}
    settings = {
        **each,
        "padding": tuple((p, p) for p in each["padding"]),
        "groups": given["groups"],
        "transposed": bool(given.get("transposed")),
        "x": batch,
        "weight": transposed if given.get("transposed") else ordinary,
    }
    if given.get("transposed"):
        settings["output_padding"] = tuple(given["output_padding"])
    return Described("convolution", [x, weight, given["bias"]], settings)


def _layer_norm(given: Mapping[str, Any], settings: dict[str, Any]) -> Described:
    x = given["input"]
    axes = tuple(range(x.ndim - len(given["normalized_shape"]), x.ndim))
    return Described("norm", [x, given["weight"], given["bias"]], {"eps": given["eps"], "axes": axes, "groups": None})


def _rms_norm(given: Mapping[str, Any], settings: dict[str, Any]) -> Described:
    x = given["input"]
    eps = torch.finfo(x.dtype).eps if given["eps"] is None else given["eps"]
    axes = tuple(range(x.ndim - len(given["normalized_shape"]), x.ndim))
    return Described("norm", [x, given["weight"], None], {"eps": eps, "axes": axes, "groups": None, "centred": False})


def _group_norm(given: Mapping[str, Any], settings: dict[str, Any]) -> Described:
    x = given["input"]
    told = {"eps": given["eps"], "axes": tuple(range(1, x.ndim)), "groups": given["group"]}
    return Described("norm", [x, given["weight"], given["bias"]], told)


def _batch_norm(given: Mapping[str, Any], settings: dict[str, Any]) -> Described:
    x = given["input"]
    told = {"eps": given["eps"], "axes": (0, *range(2, x.ndim)), "groups": None}
    inputs = [x, given["weight"], given["bias"]]
    if given.get("training", not given.get("running_mean", None) is not None):
        return Described("norm", inputs, told)
    return Described("norm", [*inputs, given["running_mean"], given["running_var"]], told | {"running": True})


def _of_two(kind: Kind, a: Any, b: Any, settings: dict[str, Any]) -> Described:
    """An operation on two tensors, or a tensor and a number, which may come first."""
    settings["scalars"] = [x for x in (a, b) if not isinstance(x, torch.Tensor)]
    if not isinstance(a, torch.Tensor):
        settings["turned"] = True
    return Described(kind, [x for x in (a, b) if isinstance(x, torch.Tensor)], settings)


def _sum(*, inverse: bool, turned: bool = False) -> Callable[[Mapping[str, Any], dict[str, Any]], Described | None]:
    """Of what torch calls self and other; `turned`, other comes first."""

    def added(given: Mapping[str, Any], settings: dict[str, Any]) -> Described | None:
        a, b, alpha = given["self"], given["other"], given.get("alpha", 1)
        told = {} if alpha == 1 else {"alpha": alpha}
        return _of_two("add", *((b, a) if turned else (a, b)), {"inverse": inverse, **told})

    return added


def _factor(*, inverse: bool) -> Callable[[Mapping[str, Any], dict[str, Any]], Described | None]:
    def multiplied(given: Mapping[str, Any], settings: dict[str, Any]) -> Described | None:
        if given.get("rounding_mode") is not None:
            return None
        return _of_two("multiply", given["self"], given["other"], {"inverse": inverse})

    return multiplied


def _overwritten_by(name: str) -> Callable[[Mapping[str, Any], dict[str, Any]], Described | None]:
    def moved(given: Mapping[str, Any], settings: dict[str, Any]) -> Described:
        return Described("move", [x for x in [given[name]] if isinstance(x, torch.Tensor)], settings)

    return moved


TABLE: dict[str, Callable[[Mapping[str, Any], dict[str, Any]], Described | None]] = {
    "mm": _products("self", "mat2", None, _matrices),
    "bmm": _products("self", "mat2", None, _batches),
    "mv": _products("self", "vec", None, _matrices),
    "dot": _products("self", "tensor", None, _matrices),
    "ger": _products("self", "vec2", None, _outer),
    "addmm": _products("mat1", "mat2", "self", _matrices),
    "baddbmm": _products("batch1", "batch2", "self", _batches),
    "addmv": _products("mat", "vec", "self", _matrices),
    "linear": _products("input", "weight", "bias", _rows),
    "mkldnn_linear": _products("self", "weight", "bias", _rows),
    "_linear_pointwise": _products("X", "W", "B", _rows),
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_overrideable": _convolution,
    "mkldnn_convolution": _convolution,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda given, settings: _batch_norm({**given, "training": False}, settings),
    "cudnn_batch_norm": lambda given, settings: _batch_norm({**given, "eps": given["epsilon"]}, settings),
    "miopen_batch_norm": lambda given, settings: _batch_norm({**given, "eps": given["epsilon"]}, settings),
    "add": _sum(inverse=False),
    "sub": _sum(inverse=True),
    "rsub": _sum(inverse=True, turned=True),
    "mul": _factor(inverse=False),
    "div": _factor(inverse=True),
    "copy": _overwritten_by("src"),
    "fill": _overwritten_by("value"),
}


ATEN = torch.ops.aten

_PRODUCTS = {ATEN.mm.default: 0, ATEN.addmm.default: 1, ATEN.bmm.default: 0, ATEN.baddbmm.default: 1}
"""Products of two matrices, or of many, and the place of the first of them among the arguments."""


def zeros_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Zeros that lie as what a costly operation would give; None for any other operation, and where it would refuse its inputs.

    These operations take four fifths of a pass. PyTorch's own way to find the shape of a product loads its compiler.
    """
    if func not in _PRODUCTS and func is not ATEN.convolution.default:
        return None
    if len({(x.dtype, x.device, x.layout) for x in args if isinstance(x, torch.Tensor)}) > 1:
        return None
    like = args[0]
    if func in _PRODUCTS:
        left, right = args[_PRODUCTS[func] :][:2]
        if left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-2]:
            return None
        shape = (*left.shape[:-1], right.shape[-1])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    try:
        out = func(*(_without_numbers(x) for x in args), **kwargs)
    except Exception:  # what is the matter is said by the operation itself
        return None
    return torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=like.device).zero_()


def _without_numbers(x: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")

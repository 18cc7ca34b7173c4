"""What a candidate gave, brought to the specification's names and axes: which module is which layer, and how a map is laid out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.arguments import float_dtype
from scalablevit_ref.compare.capture.names import by_mapping, merged
from scalablevit_ref.errors import CaptureError, option
from scalablevit_ref.networks import Network
from scalablevit_ref.testing.arrays import EPS, relative_l2


@dataclass(frozen=True)
class Conditions:
    """What a candidate is run with.

    Attributes
    ----------
    network
        What it is a port of.
    images
        b c h w; None where the candidate is a trace that brings its own.
    weights
        Official parameters. A module's copy gets them; what is no module is later held against them. None for the candidate's own.
    dtype
        Of a module's copy; None leaves the module's.
    names
        A user's mapping from layers to the candidate's names, in which "{k}" and "{i}" stand for every stage and block.
    load
        Whether a module gets the weights; else it keeps its own.
    """

    network: Network
    images: np.ndarray | None = None
    weights: Mapping[str, np.ndarray] | None = None
    dtype: str | None = None
    names: Mapping[str, str] | None = None
    load: bool = True

    @property
    def fed(self) -> np.ndarray:
        """The images, for a candidate that must be run on some."""
        if self.images is None:
            raise CaptureError("images must be given for this candidate")
        return self.images


@dataclass(frozen=True)
class Captured:
    """One forward pass of a candidate.

    Attributes
    ----------
    kind
        "torch module" and so on.
    taps
        Its outputs by the names of layers, laid out as it pleases. The mapping may read each from a file when it is asked for.
    modules
        What the candidate itself calls the modules that these are the outputs of.
    images
        What it was fed, b c h w.
    dtype
        What it computed in.
    params
        Its weights under the official names, where it tells them.
    lacks
        Why it has no output of a layer, in words that follow "were".
    left_out
        Layers of which it has none for another reason, and that reason.
    followed
        The means to ask a module for more of its values (`followed.Followed`); None for what is no module.
    unsteady
        In words, why a second run on the same images gave something else; empty if it did not.
    narrowest
        The narrowest dtype that the images pass through, where that is known.
    absent
        Layers that a module that is followed does not have, though its other layers are known; and what is the matter with each.
    """

    kind: str
    taps: Mapping[str, Any]
    modules: Mapping[str, str]
    images: np.ndarray
    dtype: str
    params: Mapping[str, np.ndarray] | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    lacks: str = "found in no module"
    left_out: Mapping[str, str] = field(default_factory=dict)
    followed: Any = None
    unsteady: tuple[str, ...] = ()
    narrowest: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)


# Names


@dataclass(frozen=True)
class Module:
    """A module of the candidate that ran: its path, its parameters' shapes by name in its own order, and the size of its output."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    size: int

    @property
    def signature(self) -> tuple[int, ...]:
        return tuple(sorted(prod(shape) for shape in self.shapes.values()))


def aligned(
    paths: Iterable[str], params: Mapping[str, tuple[int, ...]], ran: Callable[[], Sequence[Module]], conditions: Conditions
) -> tuple[dict[str, str], dict[str, str]]:
    """Layers to the candidate's modules, and official parameters to its own.

    Parameters
    ----------
    paths, params
        The names of the candidate's modules, and its parameters' shapes by name.
    ran
        Gives the modules in the order in which they ended; called where names do not tell.
    conditions
        Whose `names`, if there are any, come first.

    Raises
    ------
    CaptureError
        Where a parameter has no partner.
    """
    paths, network = set(paths), conditions.network
    shapes, found = network.parameter_shapes(), by_name(paths, network)
    first = next(iter(network.layers()))
    prefix = found.get(first, first).removesuffix(first)
    if conditions.names is None and all(prefix + name in params for name in shapes):
        for name, shape in shapes.items():
            if prod(params[prefix + name]) != prod(shape):
                raise CaptureError(
                    f"the candidate's {prefix + name} has shape {params[prefix + name]}, the reference's {shape}; ",
                    option("variant"),
                    " says which network it is",
                )
        return found, {name: prefix + name for name in shapes}
    modules = ran()
    if conditions.names is None:
        found = by_parameters(modules, network, conditions.fed.shape)
    else:
        found = merged(found, by_mapping(conditions.names, paths, nameable(network)))
    known = {module.path: module for module in modules}
    pairs = parameter_names({name: path for name, path in found.items() if path in known}, known, network)
    missing = [name for name in shapes if name not in pairs]
    if missing:
        raise CaptureError(
            f"no module of the candidate has the sizes of {missing[0]}{f' and {len(missing) - 1} others' if missing[1:] else ''}; "
            "names= maps canonical names to its modules, ",
            option("variant"),
            " says which network it is",
        )
    return found, pairs


def nameable(network: Network) -> dict[str, Any]:
    """The layers that a user may map: the network's, and those that a known mistake in its wiring adds, which ports have."""
    wrong = [mistake.wiring for mistake in network.mistakes if mistake.wiring is not None]
    return {name: layer for wiring in (*wrong, None) for name, layer in network.layers(wiring).items()}


def by_name(paths: Iterable[str], network: Network) -> dict[str, str]:
    """Layers to paths, where the paths are the official ones, perhaps all behind one prefix ("backbone.")."""
    paths, names = set(paths), [name for name in network.layers() if name != "logits"]
    prefixes = {path.removesuffix(names[0]) for path in paths if path.endswith(names[0])} | {""}
    found = [{name: prefix + name for name in names if prefix + name in paths} for prefix in sorted(prefixes)]
    return max(found, key=len)


def by_parameters(modules: Sequence[Module], network: Network, images: Sequence[int]) -> dict[str, str]:
    """Layers to modules that hold parameters of the same sizes and give as many values, in the order in which they ran.

    The longest sequence that is common to both; layers without a partner are left out.
    """
    shapes, sizes = network.parameter_shapes(), network.layer_shapes(images)
    wanted = []
    for name in network.layers():  # a block after its parts: in the order in which they end
        own = tuple(sorted(prod(shape) for key, shape in shapes.items() if key.startswith(f"{name}.")))
        if own:
            wanted.append((name, (own, prod(sizes[name]))))
    keys = {module.path: (module.signature, module.size) for module in modules}
    outer = [path for path in keys if not any(keys[path] == keys.get(around) for around in _around(path))]
    pairs = _common([key for _, key in wanted], [keys[path] for path in outer])
    return {wanted[i][0]: outer[j] for i, j in pairs}


def _around(path: str) -> Iterator[str]:
    """The modules that this one is part of: one that adds no parameters, as PEG does to its convolution, counts as the layer."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _common(a: Sequence[object], b: Sequence[object]) -> list[tuple[int, int]]:
    """The longest common subsequence, as pairs of positions."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in product(reversed(range(len(a))), reversed(range(len(b)))):
        best[i][j] = best[i + 1][j + 1] + 1 if a[i] == b[j] else max(best[i + 1][j], best[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def parameter_names(found: Mapping[str, str], modules: Mapping[str, Module], network: Network) -> dict[str, str]:
    """Official parameter names to the candidate's, for layers that were found: by the same local name, else by size and order.

    Raises CaptureError where a layer's parameters do not pair up.
    """
    pairs: dict[str, str] = {}
    shapes = network.parameter_shapes()
    for name, path in sorted(found.items(), key=lambda item: -item[0].count(".")):
        own = {key: shape for key, shape in shapes.items() if key.startswith(f"{name}.") and key not in pairs}
        theirs = dict(modules[path].shapes)
        taken = set(pairs.values())
        for key, shape in own.items():
            local = key.removeprefix(f"{name}.")
            same = [f"{path}.{t}" for t, size in theirs.items() if prod(size) == prod(shape) and f"{path}.{t}" not in taken]
            beside = pairs.get(f"{key.rpartition('.')[0]}.weight", ".").rpartition(".")[0]  # where its weight is, a bias is
            role = _same_role(local, same) or same
            fits = [t for t in same if t == f"{path}.{local}"] or [t for t in role if t.rpartition(".")[0] == beside] or role
            if not fits:
                raise CaptureError(
                    f"{path}, taken for {name}, has no parameter of {prod(shape)} values for {key}; names= maps by hand"
                )
            pairs[key] = fits[0]
            taken.add(fits[0])
    return pairs


def _same_role(local: str, names: Sequence[str]) -> list[str]:
    """Those that are a weight, or a bias, as `local` is."""
    bias = re.compile(r"(bias|\bb|beta|shift)$")
    return [name for name in names if bool(bias.search(name)) == bool(bias.search(local))]


# Axes

MAP_LAYOUTS = ("b h w c", "b (h w) c", "b c h w", "b c (h w)", "(b h w) c", "h w b c", "(h w) b c")
"""How a candidate may lay out a map; the first that fits is taken, unless values tell otherwise."""

TURNED_LAYOUTS = ("b w h c", "b (w h) c", "b c w h", "b c (w h)")
"""The same with rows for columns, which no right port has."""

NOISE = 0.1
"""An unlikely layout is taken if it leaves less than this share of the error that the likeliest leaves."""


def fitting(shape: Sequence[int], canonical: Sequence[int]) -> list[str]:
    """The layouts in which an array of `shape` can hold a map of shape `canonical`, b h w c, or a b c array; the likeliest first.

    Examples
    --------
    >>> fitting((2, 49, 64), (2, 7, 7, 64))
    ['b (h w) c', 'b (w h) c']
    """
    shape, canonical = tuple(shape), tuple(canonical)
    if len(canonical) == 2:
        singletons = tuple(size for size in shape[1:] if size > 1 or canonical[1] == 1)
        return ["b c"] if shape[:1] == canonical[:1] and prod(shape) == prod(canonical) and len(singletons) == 1 else []
    sizes = dict(zip("bhwc", canonical, strict=True))
    return [layout for layout in (*MAP_LAYOUTS, *TURNED_LAYOUTS) if _shape(layout, sizes) == shape]


def _shape(layout: str, sizes: dict[str, int]) -> tuple[int, ...]:
    groups = re.findall(r"\(([^)]*)\)|(\w)", layout)
    return tuple(prod(sizes[axis] for axis in (group or letter).split()) for group, letter in groups)


def canonical_map(x: np.ndarray, layout: str, canonical: Sequence[int]) -> np.ndarray:
    """The values of `x`, laid out so, as b h w c, or b c."""
    if layout == "b c":
        return x.reshape(tuple(canonical))
    b, h, w, _ = canonical
    return np.asarray(rearrange(x, f"{layout} -> b h w c", b=b, h=h, w=w))


def misfit(own: str, name: str, shape: Sequence[int], canonical: Sequence[int]) -> CaptureError:
    """An array that is no layout of the layer that it is taken for."""
    axes = "b h w c" if len(canonical) == 4 else "b c"
    return CaptureError(
        f"{own}, taken for {name}, gives shape {tuple(shape)}, which is no layout of {axes} = {tuple(canonical)}; "
        "names= maps layers by hand"
    )


class CanonicalTaps:
    """Taps, of a candidate or of a reference's trace, as b h w c or b c.

    The layout of each is settled when it is first held against something.
    """

    def __init__(
        self, taps: Mapping[str, Any], modules: Mapping[str, str], dtype: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """`modules` are the owner's names of them; `shapes` are those of the layers' outputs, by the layers' names."""
        self.taps, self.modules, self.dtype, self.shapes = taps, dict(modules), dtype, dict(shapes)
        self.notes: list[str] = []
        self._layouts: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.taps

    def put(self, name: str, value: Any, module: str) -> None:
        """Take this value for a layer's output, whose layout is then settled anew."""
        self.taps = {**self.taps, name: value}
        self.modules[name] = module
        self._layouts.pop(name, None)

    def __call__(self, name: str, expected: np.ndarray | None = None) -> np.ndarray:
        """The tap of this name. expected: what it should be, which settles a layout that its shape leaves open."""
        x = np.asarray(self.taps[name])
        if x.dtype.name != self.dtype:
            if x.dtype.name not in EPS:
                raise CaptureError(f"{self.modules[name]} gives {x.dtype.name}: expected {', '.join(EPS)}")
            x = x.astype(float_dtype("dtype", self.dtype))
        if name not in self._layouts:
            self._layouts[name] = self._settled(name, x, expected)
        return canonical_map(x, self._layouts[name], self.shapes[name])

    def wide(self, name: str) -> np.ndarray:
        """The tap in float64."""
        return self(name).astype(np.float64)

    def layout(self, name: str) -> str:
        return self._layouts[name]

    def _settled(self, name: str, x: np.ndarray, expected: np.ndarray | None) -> str:
        fits = fitting(x.shape, self.shapes[name])
        if not fits:
            raise misfit(self.modules[name], name, x.shape, self.shapes[name])
        if len(fits) == 1 or expected is None:
            return fits[0]
        errors = {layout: relative_l2(canonical_map(x, layout, self.shapes[name]), expected) for layout in fits}
        best = min(fits, key=lambda layout: np.nan_to_num(errors[layout], nan=np.inf))
        if not errors[best] < NOISE * errors[fits[0]]:
            best = fits[0]
        if best in TURNED_LAYOUTS:
            self.notes.append(f"{name} is laid out as {best}: H and W are swapped")
        return best

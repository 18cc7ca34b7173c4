"""What a candidate gave, brought to the specification's names and axes: which module is which layer, and how a map is laid out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.arguments import float_dtype
from scalablevit_ref.errors import CaptureError
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
    quantised
        How it computes with few bits (`onnx_quantised.Quantised`); None if it does not.
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
    quantised: Any = None


# Names


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

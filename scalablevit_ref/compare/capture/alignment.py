"""What a candidate gave, brought to the specification's names and axes: which module is which layer, and how a map is laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalablevit_ref.arguments import float_dtype
from scalablevit_ref.compare.canonical import Layout, layouts, settled
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.networks import Network
from scalablevit_ref.testing.arrays import EPS


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
    drawn
        Whether the weights are random ones, which no candidate has unless it gets them.
    once
        Whether one run is enough, as it is known that a second one gives the same.
    """

    network: Network
    images: np.ndarray | None = None
    weights: Mapping[str, np.ndarray] | None = None
    dtype: str | None = None
    names: Mapping[str, str] | None = None
    load: bool = True
    drawn: bool = False
    once: bool = False

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
    absent: Mapping[str, str] = field(default_factory=dict)
    quantised: Any = None


class Candidate:
    """What most candidates have in common: they are run on images, and a copy of them takes weights and a dtype; no settings."""

    brings_images = False

    @property
    def takes_weights(self) -> bool:
        return True

    def config(self) -> ScalableViTConfig | None:
        return None


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


def fitting(shape: Sequence[int], canonical: Sequence[int]) -> list[Layout]:
    """The layouts in which an array of `shape` can hold a map of shape `canonical`, b h w c, or a b c array; the likeliest first.

    It is cut into windows only where it can be no whole map; an axis of size 1 that stands for none of the map's is not taken.

    Examples
    --------
    >>> [layout.words for layout in fitting((49, 64), (1, 7, 7, 64))]
    ['(h w) c', '(w h) c']
    """
    return [layout for layout in layouts(shape, canonical, windows=_windows(shape, canonical)) if all(layout.tokens.axes)]


def _windows(shape: Sequence[int], canonical: Sequence[int]) -> tuple[int, ...]:
    if len(canonical) == 2 or layouts(shape, canonical):
        return ()
    return tuple(p for p in range(2, min(canonical[1:3])) if canonical[1] % p == 0 == canonical[2] % p)


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
        self._layouts: dict[str, Layout] = {}

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
        return self._layouts[name](x)

    def wide(self, name: str) -> np.ndarray:
        """The tap in float64; not to be changed."""
        return self(name).astype(np.float64, copy=False)

    @property
    def notes(self) -> list[str]:
        """What is worth saying of the layouts."""
        turned = (name for name in self.shapes if name in self._layouts and self._layouts[name].turned)
        return [f"{name} is laid out as {self._layouts[name].words}: H and W are swapped" for name in turned]

    def layout(self, name: str) -> str:
        return self._layouts[name].words

    def layout_of(self, name: str) -> Layout:
        """The layout in which a tap is read that was held against something."""
        return self._layouts[name]

    def lay(self, name: str, layout: Layout) -> None:
        """Read a tap in this layout."""
        self._layouts[name] = layout

    def lay_as_usual(self, name: str) -> bool:
        """Read a tap of which H and W were taken to be swapped as if they were not; whether there is such a layout."""
        usual = [layout for layout in fitting(np.shape(self.taps[name]), self.shapes[name]) if not layout.turned]
        if not self._layouts[name].turned or not usual:
            return False
        self.lay(name, usual[0])
        return True

    def _settled(self, name: str, x: np.ndarray, expected: np.ndarray | None) -> Layout:
        shape = self.shapes[name]
        found = fitting(x.shape, shape)
        if not found:
            raise misfit(self.modules[name], name, x.shape, shape)
        if found[1:] and expected is not None:
            told = settled(x.astype(np.float64), np.asarray(expected, np.float64), windows=_windows(x.shape, shape))
            found = [told.layout] if told is not None and told.layout in found else found
        return found[0]

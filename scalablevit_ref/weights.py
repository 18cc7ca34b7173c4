"""What a tool needs of weights, whichever network they are of.

One base, implemented once for the official network (`checkpoints.official`) and once for the dialects (`dialects.weights`). A tool
opens a file (`checkpoints.load.open_checkpoint`) and asks the `Weights` that it gets; whose they are shows in their names alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from scalablevit_ref.arguments import check_count, check_text
from scalablevit_ref.config import ScalableViTConfig, check_config
from scalablevit_ref.errors import Words
from scalablevit_ref.formats.lazy import Tensor, Tensors
from scalablevit_ref.formats.moves import Move

Heads: TypeAlias = int | Sequence[int] | None
Windows: TypeAlias = int | Sequence[int | None] | None
Cast: TypeAlias = Callable[[str, Tensor], Tensor]

GUESSED = "shapes"
"""`config_from` of settings that no one has stated: those of the one variant whose shapes fit."""

EMA_FROM = "ema_from"
"""Metadata: the key under which the weights lay, of an average over training, in the file that they were first read from."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What the caller states of weights; None is what is left to the file and to the shapes.

    Attributes
    ----------
    variant, config, layout
        Of the official network's.
    heads, window_size
        Settings of a port, which show in no shape, one number or one a stage; no window is the whole map.
    key
        Where in the file the weights lie, in parts joined by dots (`teacher.backbone`), or what that begins with.
    dtype
        What weights of several dtypes are made, as NumPy names it.
    """

    variant: str | None = None
    config: ScalableViTConfig | None = None
    layout: str | None = None
    heads: Heads = None
    window_size: Windows = None
    key: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("variant", "layout", "key", "dtype"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
            if getattr(self, name) == "" and name != "key":
                raise ValueError(f"{name} must not be empty; None leaves it to the file")
        if self.config is not None:
            check_config(self.config)
        for name in ("heads", "window_size"):
            value = getattr(self, name)
            for entry in value if isinstance(value, list | tuple) else (value,):
                if not (entry is None and (name == "window_size" or value is None)):
                    check_count(name, entry)


@dataclass(frozen=True)
class Stored:
    """This package's notes on weights; empty where there are none.

    Attributes
    ----------
    config
        The configuration as JSON, of the official network or of a port; None if it was unknown.
    config_from
        "shapes" where the configuration was a guess when the notes were written, and so still is one; None where it was stated.
    metadata
        Plain values that were kept beside the weights.
    layout, variant
        Of the weights, when they were written.
    config_json
        What a `config.json` beside the file says of the same weights (`hub.with_config_json`), None without one.
    """

    config: str | None = None
    config_from: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    layout: str | None = None
    variant: str | None = None
    config_json: Stored | None = None

    @property
    def guessed(self) -> bool:
        """Whether the configuration is a guess."""
        return self.config_from == GUESSED


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Arrays by their layout's own names, and what surrounded them.

    Attributes
    ----------
    kind
        Whose names these are.
    state
        NumPy arrays, or tensors still in their file.
    wrapper
        Where the mapping that holds them lies, None for a bare state dict.
    prefixes
        Cut off all names, outermost first, and out of some.
    ignored
        What was beside the network in that mapping.
    separable
        The option that leaves out what is beside the network's modules, and what that is.
    others
        Keys of the other networks in the file.
    unread
        Keys under which an average of the weights seems to lie, but none that could be read.
    average
        Where they lay, if they are an average over training.
    by_position
        Whether they lay there without names, in the order of the weights beside them.
    model_name
        Of `args.model`.
    stored
        What this package wrote beside the weights.
    beside
        Plain values.
    """

    kind: type[Weights]
    state: dict[str, Tensor]
    wrapper: str | None
    prefixes: list[str]
    ignored: list[str]
    separable: tuple[Words, list[str]]
    others: list[str]
    unread: list[str]
    average: str | None
    by_position: bool
    model_name: str | None
    stored: Stored
    beside: dict[str, Any]

    @property
    def layout(self) -> str:
        """By the names and shapes."""
        return self.kind.layout_of({name: tuple(x.shape) for name, x in self.state.items()})


@dataclass(frozen=True, eq=False)
class Weights(ABC):
    """Weights of one network, whose tensors may still lie in their file.

    Attributes
    ----------
    params
        Under the network's own names, in its own order.
    config
        The settings that they fit.
    metadata
        Plain values, as `Checkpoint` lists them.
    unknown
        Settings that nothing states, without which it cannot be run.
    """

    params: Tensors
    config: Any
    metadata: dict[str, Any]
    unknown: tuple[str, ...] = ()

    layouts: ClassVar[tuple[str, ...]]
    """Layouts that weights of this network can be converted into."""

    other_network: ClassVar[str | None] = None
    """What it differs in from the official network; None for that itself."""

    rounds: ClassVar[bool] = False
    """Whether the network computes the same in another layout only up to the rounding of float64."""

    hallmarks: ClassVar[frozenset[str]]
    """Parts of names by which the network is known wherever they occur, with `#` for a number at their end."""

    head: ClassVar[str]
    """The first part of the classifier's names."""

    last_norm: ClassVar[str] = ""
    """The norm before the classifier, for a network that exists without it."""

    @classmethod
    @abstractmethod
    def names(cls) -> Collection[str]:
        """Every name that a parameter can have in any layout, for each whole number in it one example."""

    @classmethod
    @abstractmethod
    def layout_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """The layout that a state dict of this network is in, by its names and shapes."""

    @classmethod
    def in_own_order(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a state dict of this network has its names in the order in which its authors' module has its parameters."""
        return False

    @classmethod
    def widths(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The channels of each norm, by its name, where it is of use to know them."""
        return {}

    @classmethod
    def whose(cls, layout: str) -> str:
        """Who publishes weights in that layout."""
        return layout

    @classmethod
    @abstractmethod
    def of(cls, found: StateDict, layout: str, stated: Stated) -> Self:
        """The weights that a state dict holds. layout: as `layout_of` tells it. Of the metadata only what the network itself tells.

        Raises CheckpointError with all that does not fit, and for what is stated of another network.
        """

    @property
    def layout(self) -> str:
        return str(self.metadata["layout"])

    @property
    def guessed(self) -> bool:
        """Whether nothing states the configuration, which is that of the one variant whose shapes fit."""
        return False

    @property
    def assumed(self) -> str | None:
        """Settings that show in no shape, and where they were taken from, if nothing states them."""
        return None

    @property
    def stated(self) -> Stated:
        """What must be stated to read these weights again from a file that stores no settings."""
        return Stated()

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What the configuration is, as lines with a heading."""

    @abstractmethod
    def comparable(self) -> Tensors:
        """Under the names by which weights of this network are compared, whatever their layout."""

    def table(self) -> Sequence[Move]:
        """How the names of the file's layout become those by which weights are compared; empty where they are the same."""
        return ()

    @abstractmethod
    def default_layout(self, suffix: str) -> str:
        """The layout for a file of that suffix."""

    @abstractmethod
    def changed(self, *, strip_head: bool = False, fold_scale: bool = False) -> Self:
        """Without the classifier; with the scale of SSA folded into q. Raises CheckpointError where there is no such thing."""

    @abstractmethod
    def in_layout(self, layout: str, *, one_way: bool, cast: Cast) -> dict[str, Tensor]:
        """As another layout's state dict, in its own order. cast: is given each tensor and its name in the error to be.

        Raises CheckpointError where what is computed would change, unless `one_way` asks for it.
        """

    def hub_config(self, layout: str, file: str) -> dict[str, Any] | None:
        """The `config.json` of the Hugging Face hub beside a file of that name, if the network has one."""
        return None

    @abstractmethod
    def outputs(self, images: np.ndarray) -> Any:
        """What the network computes in float64: logits, or the maps of a backbone. images: b c h w."""

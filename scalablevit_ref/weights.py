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

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.formats.lazy import Tensor, Tensors
from scalablevit_ref.formats.moves import Move

Heads: TypeAlias = int | Sequence[int] | None
Windows: TypeAlias = int | Sequence[int | None] | None
Cast: TypeAlias = Callable[[str, Tensor], Tensor]


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
        Where in the file the weights lie, with dots between its names: "teacher.backbone".
    dtype
        That all weights are read in, where the file holds them in several.
    """

    variant: str | None = None
    config: ScalableViTConfig | None = None
    layout: str | None = None
    heads: Heads = None
    window_size: Windows = None
    key: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class StateDict:
    """Arrays by their layout's own names, and what surrounded them.

    Attributes
    ----------
    wrapper
        Under which name they lay, None for a bare state dict.
    prefixes
        Cut off all names, outermost first.
    ignored
        What was beside the network.
    model_name
        Of `args.model`.
    stored
        What this package wrote beside the weights.
    beside
        Plain values.
    others
        Keys of the other networks in the file.
    unread
        Keys under which an average of the weights seems to lie, but none that could be read.
    """

    state: dict[str, Any]
    wrapper: str | None
    prefixes: list[str]
    ignored: list[str]
    model_name: str | None
    stored: dict[str, Any]
    beside: dict[str, Any]
    others: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


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

    @classmethod
    @abstractmethod
    def layout_of(cls, names: Collection[str]) -> str | None:
        """The layout that a state dict's names are of, None for another network's names."""

    @classmethod
    def whose(cls, layout: str) -> str:
        """Who publishes weights in that layout."""
        return layout

    @classmethod
    def holds_tree(cls, tree: Mapping[Any, Any]) -> bool:
        """Whether dicts of dicts are this network's parameters, as a framework with modules for names keeps them."""
        return False

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

    def hub_config(self, layout: str) -> dict[str, Any] | None:
        """The `config.json` of the Hugging Face hub, if the network has one."""
        return None

    @abstractmethod
    def outputs(self, images: np.ndarray) -> Any:
        """What the network computes in float64: logits, or the maps of a backbone. images: b c h w."""

"""Files of the two community ports' weights: opened, and brought into another port's layout, tensor by tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from scalablevit_ref.checkpoints.layouts import LAYOUTS
from scalablevit_ref.checkpoints.load import Opened, opened_from, told_of
from scalablevit_ref.checkpoints.ports import Arrays, Tensors, last_norm, to_flax, to_vit_pytorch, vit_pytorch_named
from scalablevit_ref.checkpoints.recognise import OTHER_NETWORK, Found, find_state, tell_port
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.config import Config, PerStage
from scalablevit_ref.errors import CheckpointError, naming
from scalablevit_ref.formats.lazy import is_lazy, values

PORT_LAYOUTS = ("vit_pytorch", "flax_port", "flax_port_patched")
"""vit_pytorch's state dict; the Flax port's tree as published; that of a port patched to compute what vit_pytorch does, which has
no norm after its last stage."""

UNSEEN = "heads and window_size show in no shape"

Windows: TypeAlias = int | Sequence[int | None] | None


@dataclass(frozen=True, eq=False)
class PortCheckpoint:
    """A port's weights. port: "vit_pytorch" or "flax_port", the module of `scalablevit_ref.dialects` that runs them.

    params: NumPy arrays under that port's names, as that module takes them. config: what they fit.
    """

    port: str
    params: Arrays
    config: Config


@dataclass(frozen=True, eq=False)
class OpenedPort:
    """A port's weights that still lie in their file, under its own names.

    layout: one of PORT_LAYOUTS. config: what they fit; where heads and windows are not told, as if there were one of each.
    metadata: as a `Checkpoint`'s.
    """

    layout: str
    params: Tensors
    config: Config
    told: bool
    metadata: dict[str, Any]

    def named(self) -> Tensors:
        """Under vit_pytorch's names and in its axes, whichever the port: equal weights are equal here."""
        return self.params if self.layout == "vit_pytorch" else vit_pytorch_named(self.params, self.config)

    def as_layout(self, layout: str, *, one_way: bool) -> Tensors:
        """In one of PORT_LAYOUTS. Raises CheckpointError where the function would change and that was not asked for."""
        if layout == self.layout:
            return self.params
        given = self.params
        state = given if self.layout == "vit_pytorch" else to_vit_pytorch(given, self.config, one_way=one_way)
        if layout == "vit_pytorch":
            return state
        return to_flax(state, self.config, patched=layout == "flax_port_patched", one_way=one_way)


def load_port(
    path: str | os.PathLike[str], *, heads: PerStage | None = None, window_size: Windows = None, use_ema: bool = True
) -> PortCheckpoint:
    """Read a port's weights from any file that `load_checkpoint` reads, wrappers and prefixes included, executing nothing.

    heads, window_size: the port's settings, which show in no shape, as the port takes them (no window is the whole map); without
        heads both are taken from what this package wrote into the file. use_ema: as in `load_checkpoint`.

    Raises CheckpointError, naming the file, for anything but weights of a port that fit; FileNotFoundError.
    """
    with open_any(path, heads=heads, window_size=window_size, use_ema=use_ema) as opened:
        if not isinstance(opened, OpenedPort):
            raise CheckpointError("these names are of neither port", found=", ".join(list(opened.params)[:4]))
        if not opened.told:
            raise CheckpointError(f"{UNSEEN}: give heads= and window_size=")
        params = {name: values(x) for name, x in opened.params.items()}
    return PortCheckpoint("vit_pytorch" if opened.layout == "vit_pytorch" else "flax_port", params, opened.config)


@contextmanager
def open_any(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    heads: PerStage | None = None,
    window_size: Windows = None,
    use_ema: bool = True,
) -> Iterator[Opened | OpenedPort]:
    """A checkpoint of the official network or of a port; no weights are read yet. Options of the other kind are refused."""
    from scalablevit_ref.formats.detect import open_file

    with naming(path), open_file(Path(path)) as (tree, notes, kind):
        found = find_state(tree, use_ema=use_ema, notes=notes)
        yield opened_any(found, kind, variant=variant, heads=heads, window_size=window_size)


def opened_any(
    found: Found, kind: str, *, variant: str | None, heads: PerStage | None, window_size: Windows
) -> Opened | OpenedPort:
    """What a file's state dict is of, its tensors as they come. kind: the file's format."""
    if tell_port(found.state) is None:
        if heads is not None or window_size is not None:
            raise CheckpointError("heads= and window_size= are told of a port's weights; the official network's have a variant")
        return opened_from(found, layout=None, variant=variant, config=None, format=kind)
    if variant is not None:
        raise CheckpointError(f"variant {variant!r} is of the official network; these weights are of {OTHER_NETWORK}")
    return port_from(found, kind, heads=heads, window_size=window_size)


def port_from(found: Found, kind: str, *, heads: PerStage | None, window_size: Windows) -> OpenedPort:
    """A state dict of a port's names. Raises CheckpointError unless it fits."""
    if heads is None and window_size is not None:
        raise CheckpointError("give heads= with window_size=")
    dtype = told_of(found)
    try:
        stored = _stored(found)
        if heads is None and stored is not None:
            heads, window_size = stored
        told: dict[str, Any] = {"heads": 1 if heads is None else heads, "window_size": window_size}
        if tell_port(found.state) == "vit_pytorch":
            layout, params = "vit_pytorch", dict(found.state)
            config = vit_pytorch.config_from_shapes(params, **told)
        else:
            params = flax_port.flatten(found.state)
            config = flax_port.config_from_shapes(params, **told)
            layout = "flax_port" if last_norm(config) in params else "flax_port_patched"
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    if stored is not None and stored != (config.heads, config.window_size):
        raise CheckpointError(
            "the file has other settings",
            key="heads, window_size",
            expected=f"{config.heads}, {config.window_size}",
            found=f"{stored[0]}, {stored[1]}",
        )
    tensors = {name: x if is_lazy(x) else np.asarray(x) for name, x in params.items()}
    return OpenedPort(layout, tensors, config, heads is not None, found.beside | {"layout": layout, "format": kind} | dtype)


def _stored(found: Found) -> tuple[Any, Any] | None:
    """Heads and windows that this package wrote beside the weights."""
    if "config" not in found.stored:
        return None
    try:
        settings = json.loads(found.stored["config"])
        return tuple(settings["heads"]), tuple(settings["window_size"])
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"not a port's settings ({error})", key="config") from error


def refuse_other_network(layout: str, opened: Opened | OpenedPort) -> None:
    """Raise CheckpointError where weights would have to become another network's."""
    if layout not in (PORT_LAYOUTS if isinstance(opened, OpenedPort) else LAYOUTS):
        raise CheckpointError(
            f"{opened.metadata['layout']} weights cannot go into layout {layout!r}: a port's is {OTHER_NETWORK}, and no weights "
            "make one compute what the other does"
        )

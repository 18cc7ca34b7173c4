"""Checkpoints read: two doors, one for files and one for state dicts in memory, and the public names over them.

What only reading needs is imported where it is used: the package's import would wait for it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalablevit_ref.arguments import FLOATS, check_flag, check_mapping, check_named, check_path, check_text
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.checkpoints.layouts import check_layout, from_canonical
from scalablevit_ref.checkpoints.official import OfficialWeights
from scalablevit_ref.checks import parameter_problems
from scalablevit_ref.config import ScalableViTConfig, check_config, near_matches
from scalablevit_ref.errors import CheckpointError, Spelling, in_file, option
from scalablevit_ref.formats.lazy import Tensors, check_finite, in_memory, numpy_dtype
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.weights import EMA_FROM, Heads, Stated, StateDict, Stored, Weights, Windows

if TYPE_CHECKING:
    from scalablevit_ref.dialects.config import Config  # a third of what importing this package would cost

NOTHING = Stated()
"""What the caller states of weights if nothing."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what they are.

    Attributes
    ----------
    params
        NumPy arrays under the official names, in the official order, dtype as in the file (bfloat16 as ml_dtypes').
    config
        The configuration that they fit.
    metadata
        Plain values. `layout`; `variant` (None unless `config` is exactly one); `config_from`, where the configuration comes from
        ("config", "metadata", "config.json", "variant", "args.model", or "shapes", also where the file notes that its configuration
        was such a guess); `wrapper`, where the mapping of the weights lay ("model", "ema.module", …, None for a bare state dict);
        `ema`, whether they are an average over training (`ema_from`: where they lay when they were first read); `prefixes` cut off
        the names, outermost first; `ignored`, what was beside the network and left out; `others`, keys of other networks in the
        file; `unread`, keys of averages that could not be read; `dtype`; for a file its `format`; and plain entries beside the
        weights, such as `epoch`.

    Examples
    --------
    >>> from scalablevit_ref import digits
    >>> found = load_checkpoint(digits.CHECKPOINT, dtype="float16")
    >>> len(found.params), found.config.num_classes
    (156, 10)
    >>> found.metadata["variant"], found.metadata["dtype"]
    ('digits', 'float16')
    """

    params: dict[str, np.ndarray]
    config: ScalableViTConfig
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        check_named("params", self.params)
        check_config(self.config)
        check_mapping("metadata", self.metadata)


@dataclass(frozen=True, eq=False)
class PortCheckpoint:
    """A port's weights.

    Attributes
    ----------
    port
        "vit_pytorch" or "flax_port", the module of `scalablevit_ref.dialects` that runs them.
    params
        NumPy arrays under that port's names, as that module takes them.
    config
        The settings that they fit.

    Examples
    --------
    >>> from scalablevit_ref import dialects
    >>> from scalablevit_ref.testing import random_images, random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> port = dialects.vit_pytorch
    >>> config = port.Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(port.parameter_shapes(config))
    >>> found = PortCheckpoint("vit_pytorch", params, config)
    >>> run = getattr(dialects, found.port).scalable_vit
    >>> run(random_images((1, 3, 64, 64)), found.params, found.config).shape
    (1, 10)
    """

    port: str
    params: dict[str, np.ndarray]
    config: Config


@contextmanager
def open_checkpoint(
    path: str | os.PathLike[str],
    stated: Stated = NOTHING,
    *,
    use_ema: bool = True,
    only: type[Weights] | None = None,
    format: str | None = None,
) -> Iterator[Weights]:
    """The weights in a file, of whichever network; each tensor is read when it is asked for, while the file is open.

    Parameters
    ----------
    path
        A file of any format that is read (`load_checkpoint`), or a folder that holds one; its content shows the format. Or where
        it lies on the Hugging Face Hub, `hf://org/name`.
    stated
        What the caller knows of the weights.
    use_ema
        Whether an EMA's weights are preferred where the file holds both.
    only
        Refuse weights of another network, by their names.
    format
        As in `open_file`.

    Raises
    ------
    CheckpointError
        Naming the file, for anything but weights that fit.
    FileNotFoundError
        If there is no such file.
    """
    check_path("path", path)
    with open_state(Path(path), stated, use_ema=use_ema, format=format) as (found, format_):
        yield weights_in(found, stated, only=only, format=format_)


@contextmanager
def open_state(
    path: Path, stated: Stated = NOTHING, *, use_ema: bool = True, format: str | None = None, name: str | None = None
) -> Iterator[tuple[StateDict, str]]:
    """The state dict in a file with what is noted of it, whether or not the weights fit; and the file's format.

    Errors call it `name`, or else by its path.

    Raises as `open_checkpoint` does.
    """
    from scalablevit_ref.checkpoints.download import as_given, local
    from scalablevit_ref.checkpoints.hub import with_config_json
    from scalablevit_ref.checkpoints.recognise import find_state
    from scalablevit_ref.checkpoints.tree import MOST_ARRAYS
    from scalablevit_ref.formats.damage import damage_is_an_error
    from scalablevit_ref.formats.detect import open_file

    check_flag("use_ema", use_ema)
    here = local(path)
    with in_file(name or as_given(path)), open_file(here, format) as (tree, notes, format_):
        with damage_is_an_error():
            found = find_state(tree, use_ema=use_ema, key=stated.key, notes=notes, most_arrays=MOST_ARRAYS)
        yield with_config_json(found, here), format_


def weights_in(
    found: StateDict, stated: Stated = NOTHING, *, only: type[Weights] | None = None, format: str | None = None
) -> Weights:
    """The weights that a state dict in memory holds, of whichever network. format: of the file that it came from.

    Raises CheckpointError unless they fit.
    """
    kind = found.kind
    layout = stated.layout or found.layout
    if only not in (None, kind):
        raise CheckpointError(
            f"these are {kind.whose(layout)}'s weights, of {kind.other_network}, into which they cannot be converted; "
            "scalablevit_ref.dialects runs them"
        )
    check_layout(layout, kind.layouts)
    weights = kind.of(found, layout, stated)
    is_ours = found.stored != Stored()  # what others call so is another thing
    beside = {name: value for name, value in found.beside.items() if name != EMA_FROM or is_ours}
    average = found.average or beside.get(EMA_FROM)
    around: dict[str, Any] = {"wrapper": found.wrapper, "ema": average is not None, "prefixes": found.prefixes}
    around |= {EMA_FROM: average} if average is not None else {}
    around |= {"by_position": True} if found.by_position else {}
    around |= {"ignored": found.ignored, "others": found.others, "unread": found.unread}
    around |= {"dtype": _dtypes(found.state)} | ({"format": format} if format else {})
    return replace(weights, metadata=beside | weights.metadata | around)


def from_state_dict(
    state: Mapping[Any, Any],
    *,
    layout: str | None = None,
    variant: str | None = None,
    config: ScalableViTConfig | None = None,
    key: str | None = None,
    dtype: str | None = None,
    use_ema: bool = True,
) -> Checkpoint:
    """A state dict of any array library as official parameters, copied to NumPy.

    Parameters
    ----------
    state
        Names to arrays; or what holds such a mapping somewhere: a whole training checkpoint, a Flax tree, a flattened one.
    layout
        One of `layout_table`'s; None tells it from names and shapes.
    variant, config
        What the weights are of; with neither it is told from `args.model` or from the shapes.
    key
        Where the weights lie, if there are several networks (`teacher.backbone`), or what that begins with; "." is the top.
    dtype
        "float16", "bfloat16", "float32" or "float64", of which all are made; None keeps theirs, which must be one.
    use_ema
        Prefer an average of the weights over training where there are both.

    Raises
    ------
    CheckpointError
        With all problems in one report.

    Examples
    --------
    >>> from scalablevit_ref import init_params, variant
    >>> from_state_dict(init_params(variant("digits"))).metadata["variant"]
    'digits'
    """
    from scalablevit_ref.checkpoints.recognise import find_state

    check_flag("use_ema", use_ema)
    stated = Stated(layout=layout, variant=variant, config=config, key=key, dtype=dtype)
    return read_weights(weights_in(find_state(state, key=key, use_ema=use_ema), stated, only=OfficialWeights), dtype)


def to_state_dict(params: Mapping[str, Any], config: ScalableViTConfig, *, layout: str = "official") -> dict[str, np.ndarray]:
    """Official parameters of any array library as a layout's state dict of NumPy arrays, in that layout's own order.

    Arrays already on the host are shared, not copied, as torch's `state_dict` does.

    Raises
    ------
    CheckpointError
        For parameters that do not fit the config, or a layout in which its network does not exist.

    Examples
    --------
    >>> from scalablevit_ref import init_params, variant
    >>> config = variant("digits")
    >>> found = to_state_dict(init_params(config), config, layout="channels_last")
    >>> found["head.kernel"].shape
    (64, 10)
    """
    from scalablevit_ref.checkpoints.in_memory import tensors_in

    check_config(config)
    check_text("layout", layout)
    params = tensors_in(params)
    problems = parameter_problems(params, parameter_shapes(config))
    if problems:
        raise CheckpointError("parameters do not fit: " + "; ".join(problems))
    one_dtype(params)
    return from_canonical(params, config, layout)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    layout: str | None = None,
    config: ScalableViTConfig | None = None,
    key: str | None = None,
    dtype: str | None = None,
    use_ema: bool = True,
    allow_nonfinite: bool = False,
) -> Checkpoint:
    """Read the official network's weights from a file, without its framework and without executing anything in it.

    The file's content shows its format: torch's `.pth`, `.pt`, `.bin` and `.ckpt` (zip or legacy), other pickles
    (PaddlePaddle's `.pdparams`), safetensors, NumPy's `.npz`, Flax's msgpack, HDF5 and `.keras` of Keras, ONNX, and the index of
    a checkpoint in shards.

    Parameters
    ----------
    path
        The file, or a folder that holds one checkpoint. Or a name on the Hugging Face Hub: `hf://org/name`, with `@revision` and
        `/file` if need be, which its own library (extra `hub`) fetches into its cache; where `HF_HUB_OFFLINE` is set, the cache
        alone is asked.
    variant, layout, config, key, dtype, use_ema
        As in `from_state_dict`; None tells them from the file.
    allow_nonfinite
        Let NaN and infinite weights pass.

    Raises
    ------
    CheckpointError
        Naming the file, for anything but a checkpoint whose weights fit.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> from scalablevit_ref import digits
    >>> found = load_checkpoint(digits.CHECKPOINT)
    >>> found.params["norm.weight"].shape, found.config.depths, found.metadata["layout"]
    ((64,), (2, 2, 2, 2), 'official')
    """
    check_flag("allow_nonfinite", allow_nonfinite)
    stated = Stated(variant=variant, layout=layout, config=config, key=key, dtype=dtype)
    with open_checkpoint(path, stated, use_ema=use_ema, only=OfficialWeights) as weights:
        checkpoint = read_weights(weights, dtype)
        if not allow_nonfinite:
            check_finite(checkpoint.params)
    return checkpoint


def load_port(
    path: str | os.PathLike[str],
    *,
    heads: Heads = None,
    window_size: Windows = None,
    key: str | None = None,
    dtype: str | None = None,
    use_ema: bool = True,
) -> PortCheckpoint:
    """Read a port's weights from any file that `load_checkpoint` reads, wrappers and prefixes included, executing nothing.

    Parameters
    ----------
    path
        The file.
    heads, window_size
        The port's settings, which show in no shape, as the port takes them (no window is the whole map); without heads both are
        taken from what this package wrote into the file.
    key, dtype, use_ema
        As in `load_checkpoint`.

    Raises
    ------
    CheckpointError
        Naming the file, for anything but weights of a port that fit.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from safetensors.numpy import save_file
    >>> from scalablevit_ref.dialects.vit_pytorch import Config, parameter_shapes
    >>> from scalablevit_ref.testing import random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "port.safetensors"
    ...     save_file(random_params(parameter_shapes(config)), path)
    ...     found = load_port(path, heads=2)
    >>> found.port, found.config == config
    ('vit_pytorch', True)
    """
    stated = Stated(heads=heads, window_size=window_size, key=key, dtype=dtype)
    with open_checkpoint(path, stated, use_ema=use_ema) as weights:
        if weights.other_network is None:
            raise CheckpointError("these names are of neither port", found=", ".join(list(weights.params)[:4]))
        if weights.unknown:
            told = (option("heads"), " and ", option("window_size"))
            raise CheckpointError(f"{' and '.join(weights.unknown)} show in no shape: give ", *told)
        params = _in_dtype(weights, dtype or one_dtype(weights.params))
    return PortCheckpoint("vit_pytorch" if weights.layout == "vit_pytorch" else "flax_port", params, weights.config)


def read_weights(weights: Weights, dtype: str | None = None) -> Checkpoint:
    """Weights read whole. dtype: that they are made; None keeps theirs. Raises CheckpointError where they are of several."""
    dtype = dtype or one_dtype(weights.params)
    return Checkpoint(_in_dtype(weights, dtype), weights.config, weights.metadata | {"dtype": dtype})


def _in_dtype(weights: Weights, dtype: str) -> dict[str, np.ndarray]:
    check_dtype(dtype)
    return {name: in_memory(x).astype(numpy_dtype(dtype), copy=False) for name, x in weights.params.items()}


def one_dtype(params: Tensors) -> str:
    """The dtype of all weights. Raises CheckpointError where there are several."""
    first = next(iter(params))
    of_first = dtype_name(params[first])
    for name, x in params.items():
        if (dtype := dtype_name(x)) != of_first:
            widest = widest_of({dtype_name(x) for x in params.values()})
            remedy = Spelling(f"dtype={widest!r}", f"--dtype {widest}")
            said = ("mixed dtypes; ", remedy, " makes them one and rounds nothing")
            raise CheckpointError(*said, key=name, expected=f"{of_first}, as {first} is", found=dtype)
    return of_first


def widest_of(dtypes: Collection[str]) -> str:
    """The narrowest dtype that holds all numbers of these."""
    return "float64" if "float64" in dtypes else "float32"


def check_dtype(dtype: str) -> None:
    """Raise CheckpointError unless weights can be made of it."""
    if dtype not in FLOATS:
        raise CheckpointError(f"unknown dtype {dtype!r}{near_matches(dtype, FLOATS)}; there are {', '.join(FLOATS)}")


def _dtypes(state: Mapping[str, Any]) -> str:
    """The dtypes of all arrays, the most frequent first."""
    return ", ".join(name for name, _ in Counter(dtype_name(x) for x in state.values()).most_common())

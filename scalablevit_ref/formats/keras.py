"""Keras' files: `.weights.h5`, `.keras` and the older `.h5`, as arrays named by layers and by Keras' names of variables.

Source: keras/src/saving/saving_lib.py and keras/src/legacy/saving/legacy_h5_format.py of Keras 3.15.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, BinaryIO, cast

import numpy as np

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.hdf5 import Group, read_hdf5, read_hdf5_files
from scalablevit_ref.formats.lazy import Blocks, LazyTensor, StoredTensor, numpy_dtype
from scalablevit_ref.formats.zip_archive import raw_extent

WEIGHTS = "model.weights.h5"
"""The record of a `.keras` archive that holds the weights."""

_MOST_INFLATION = 8
"""Largest ratio of a compressed archive's weights to the archive."""

_SMALL = 1 << 20
"""Size of the weights, in bytes, up to which that ratio is not looked at: HDF5 of small layers is mostly empty."""

_LONGEST_NOTE = 60_000
"""Longest text that HDF5 keeps beside the arrays, in bytes."""

_NAMES_TOGETHER = 4_000
"""Layers' names in one attribute: references of 16 bytes, which must fit into a message of 64 KiB. Keras cuts longer lists too."""

_LAYERS = ("layers", "_layer_checkpoint_dependencies")
"""Groups that hold a model's layers, which are numbered by their class there, and are no part of a name."""

_CLASSES = frozenset(
    {
        "dense",
        "einsum_dense",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv2d_transpose",
        "depthwise_conv1d",
        "depthwise_conv2d",
        "separable_conv2d",
        "embedding",
        "layer_normalization",
        "batch_normalization",
        "group_normalization",
        "unit_normalization",
        "rms_normalization",
        "multi_head_attention",
        "sequential",
        "functional",
        "model",
        "layer",
        "input_layer",
        "activation",
        "dropout",
        "reshape",
        "permute",
        "add",
        "concatenate",
        "zero_padding2d",
        "global_average_pooling2d",
        "average_pooling2d",
        "seed_generator",
    }
)
"""Names that Keras makes of its classes, for layers without a name of their own."""

_OLDER = {"depthwise_kernel": "kernel"}
"""Keras 2's names of variables that have others now."""

Array = StoredTensor | LazyTensor


def read_keras(file: BinaryIO, start: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of an HDF5 file in these bytes of `file`, still there, and the texts of its root.

    A layer's arrays are named by the layer and then `kernel`, `bias`, `gamma`, `beta`. The layer's name is the one that it was
    given, behind those of the layers that hold it; without one it is the attribute's. What an optimizer holds is under `optimizer`.
    A file of no model of Keras is given as it is, group by group.
    """
    return _read(read_hdf5(file, start, size))


def read_keras_shards(files: Iterable[tuple[BinaryIO, int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of a `.weights.json`'s files, given with their sizes; a layer's variables may lie in several."""
    whole = Group()
    for root in read_hdf5_files(files):
        _merge(whole, root, "")
    return _read(whole)


def _merge(whole: Group, shard: Group, path: str) -> None:
    """Put all that is in a group of a shard into that of the whole."""
    whole.texts.update(shard.texts)
    for name, part in shard.members.items():
        there = whole.members.get(name)
        if isinstance(there, Group) and isinstance(part, Group):
            _merge(there, part, f"{path}/{name}")
        elif there is not None:
            raise CheckpointError("two shards hold a tensor of this name", key=f"{path}/{name}")
        else:
            whole.members[name] = part


def _read(root: Group) -> tuple[dict[str, Any], dict[str, Any]]:
    notes = {name: text for name, text in root.texts.items() if isinstance(text, str)}
    inner = root.members.get("model_weights")
    model = inner if isinstance(inner, Group) else root
    optimizer = {
        name: _tree(group) for name, group in root.members.items() if name.startswith("optimizer") and isinstance(group, Group)
    }
    if _listed(model, "layer_names"):
        return _older(model) | optimizer, notes
    if any(name == "vars" for name, _ in _groups(root)):
        rest = Group(root.texts, {name: part for name, part in root.members.items() if name not in optimizer})
        return _unique(_saved(rest, _Place())) | optimizer, notes
    return _tree(root), notes


def read_keras_zip(file: BinaryIO, info: zipfile.ZipInfo, limit: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights of a `.keras` archive. limit: the archive's bytes, which a compressed one may not exceed by far."""
    extent = raw_extent(file, info)
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size:
        extent.crc = info.CRC or None
        deque(extent.blocks(0, extent.size), maxlen=0)  # all of it, for the checksum's sake
        return read_keras(file, cast("int", extent.start), extent.size)
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise CheckpointError("zip record compressed by an unusual method", key=WEIGHTS, expected="stored or deflated")
    if info.file_size > max(_SMALL, _MOST_INFLATION * limit):
        found = f"{info.compress_size} to {info.file_size} bytes"
        raise CheckpointError("zip record that inflates more than weights can", key=WEIGHTS, found=found)
    try:
        body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(extent.read(0, extent.size).data, info.file_size + 1)
    except zlib.error as error:
        raise CheckpointError(f"damaged zip record ({error})", key=WEIGHTS) from error
    if len(body) != info.file_size or zlib.crc32(body) != info.CRC:
        raise CheckpointError("damaged zip record: wrong size or checksum", key=WEIGHTS)
    return read_keras(io.BytesIO(body), 0, len(body))


def _tree(group: Group) -> dict[str, Any]:
    return {name: _tree(part) if isinstance(part, Group) else part for name, part in group.members.items()}


def _groups(group: Group) -> Iterator[tuple[str, Group]]:
    """All groups below one, with their own names."""
    for name, part in group.members.items():
        if isinstance(part, Group):
            yield name, part
            yield from _groups(part)


# Keras 3's `.weights.h5`


@dataclass(frozen=True)
class _Place:
    """Where a layer is: its name behind those of all that hold it, and behind those only that have a name with dots."""

    whole: str = ""
    own: str = ""
    named: bool = False


@dataclass(frozen=True)
class _Variable:
    place: _Place
    leaf: str
    array: Array


def _saved(group: Group, place: _Place, holder: str | None = None, component: str = "") -> Iterator[_Variable]:
    """The variables of a layer and of the layers in it.

    Parameters
    ----------
    group
        The layer's, or that of a list of layers, which has no variables of its own.
    place
        Of the layer that holds it.
    holder
        The attribute of the list that holds it, None for an attribute of its own.
    component
        The group's name: the attribute, or in a list the class with a number.
    """
    variables = group.members.get("vars")
    is_list = bool(component) and not isinstance(variables, Group)
    if isinstance(variables, Group):
        name = variables.texts.get("name")
        place = _inside(place, holder, component, name if isinstance(name, str) else "")
        yield from (_Variable(place, leaf, array) for leaf, array in _leaves(variables, component))
    for name, part in group.members.items():
        if isinstance(part, Group) and name != "vars":
            yield from _saved(part, place, component if is_list else None, name)
        elif not isinstance(part, Group):
            yield _Variable(place, f"{component}.{name}".removeprefix("."), part)


def _inside(place: _Place, holder: str | None, component: str, name: str) -> _Place:
    """The place of a layer in another one's. Only a name that somebody gave tells more than the attribute that holds the layer."""
    if "." in name:
        whole = name if name.startswith(f"{place.whole}.") else f"{place.whole}.{name}"
        own = f"{place.own}.{name}" if place.named and not name.startswith(f"{place.own}.") else name
        return _Place(whole.removeprefix("."), own, named=True)
    if not component:  # the model itself, whose name is in no name of its parts
        return place
    given = bool(name) and _class(name) not in (*_CLASSES, _class(component))
    if given and (holder is not None or _class(component) in _CLASSES):
        component = name
    elif holder is not None and holder not in _LAYERS:
        component = f"{holder}.{component}"
    return _Place(f"{place.whole}.{component}".removeprefix("."), f"{place.own}.{component}".removeprefix("."), place.named)


def _class(name: str) -> str:
    """A name that Keras made, without its number."""
    return re.sub(r"_\d+$", "", name)


def _leaves(variables: Group, component: str) -> list[tuple[str, Array]]:
    """A layer's variables by Keras' names, which the file has not: it numbers them."""
    numbered = {name: part for name, part in sorted(variables.members.items()) if not isinstance(part, Group)}
    arrays = list(numbered.values())
    ranks = [len(array.shape) for array in arrays]
    if ranks and ranks[0] > 1 and ranks[1:] in ([], [1]):
        names: Sequence[str] = ("kernel", "bias")
    elif ranks in ([1, 1], [1, 1, 1, 1]) or (ranks == [1] and _class(component).endswith("normalization")):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
    else:
        names = list(numbered)
    return list(zip(names, arrays, strict=False))


def _unique(variables: Iterable[_Variable]) -> dict[str, Array]:
    """Variables by name: the one with dots that was given, or with all that holds it where two have that."""
    variables = list(variables)
    for names in ([f"{v.place.own}.{v.leaf}" for v in variables], [f"{v.place.whole}.{v.leaf}" for v in variables]):
        found = {name.removeprefix("."): v.array for name, v in zip(names, variables, strict=True)}
        if len(found) == len(variables):
            return found
    twice = next(name for i, name in enumerate(names) if name in names[:i])
    raise CheckpointError("two variables of one name", key=twice)


# The older `.h5`


def _older(model: Group) -> dict[str, Any]:
    """The arrays that the layers list, by their names; the scopes around a layer's own name are left out."""
    found: dict[str, Any] = {}
    for layer in _listed(model, "layer_names"):
        group = model.members.get(layer)
        if not isinstance(group, Group):
            raise CheckpointError("a layer that is listed but not there", key=layer)
        for path in _listed(group, "weight_names"):
            array: Any = group
            for part in path.split("/"):
                array = array.members.get(part) if isinstance(array, Group) else None
            if array is None or isinstance(array, Group):
                raise CheckpointError("a variable that is listed but not there", key=f"{layer}/{path}")
            parts = re.sub(r":\d+$", "", path).split("/")
            parts = parts[parts.index(layer) :] if layer in parts else parts
            name = ".".join([*parts[:-1], _OLDER.get(parts[-1], parts[-1])])
            if name in found:
                raise CheckpointError("two variables of one name", key=name)
            found[name] = array
    return found


def _listed(group: Group, name: str) -> list[str]:
    """A list of texts, which is cut into `name0`, `name1` … where it is too long for one attribute."""
    names = [name] if name in group.texts else takewhile(group.texts.__contains__, (f"{name}{i}" for i in count()))
    texts = (group.texts[part] for part in names)
    return [text for part in texts for text in ([part] if isinstance(part, str) else part)]


def write_h5(file: BinaryIO, state: Mapping[str, Any], notes: Mapping[str, str], read: Blocks) -> None:
    """Arrays as the older `.h5`, which `model.load_weights(path, by_name=True)` gives to the layers of these names.

    All arrays are in memory at once. Equal weights and notes make equal files. Raises ModuleNotFoundError without h5py, and
    CheckpointError for bfloat16, which Keras writes there but does not read.
    """
    for name, x in state.items():
        if x.dtype == numpy_dtype("bfloat16"):
            raise CheckpointError("Keras reads no bfloat16 from a .h5: convert to float32, or write another format", key=name)
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("writing .h5 needs h5py: pip install 'scalablevit-ref[keras]'", name=error.name) from error

    layers: dict[str, dict[str, Any]] = {}
    for name in state:
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, {})[leaf] = name
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        for note, text in {**notes, "backend": "numpy", "keras_version": "3"}.items():
            if len(text.encode()) > _LONGEST_NOTE:
                raise CheckpointError(
                    "a longer text than an attribute of HDF5", expected=f"at most {_LONGEST_NOTE} bytes", key=note
                )
            root.attrs[note] = text
        named = list(layers)
        for i, start in enumerate(range(0, len(named), _NAMES_TOGETHER)):
            root.attrs[f"layer_names{i if len(named) > _NAMES_TOGETHER else ''}"] = named[start : start + _NAMES_TOGETHER]
        for layer, leaves in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{leaf}" for leaf in leaves]
            for leaf, name in leaves.items():
                x = state[name]
                value = np.concatenate([np.empty(0, x.dtype), *map(np.copy, read(name))]).reshape(x.shape)
                group.create_dataset(f"{layer}/{leaf}", data=value, track_times=False)
    file.write(buffer.getbuffer())

"""What a path leads to: the file that is read, a folder's one checkpoint; or what a folder is, and how it becomes a file."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scalablevit_ref.errors import CheckpointError, did_you_mean, printable
from scalablevit_ref.formats.remedies import FILE, OUT, shell
from scalablevit_ref.formats.sharded import is_index, keras_index, shard_of
from scalablevit_ref.formats.source import ENDINGS

_MOST_ENTRIES = 10_000
"""Most entries of a folder that are looked at, those of its folders counted."""

_DEEPEST = 4
"""Levels of folders that are looked through for checkpoints to name in an error."""

_NAMED = 8
"""Most names that an error lists."""

_KINDS = {stat.S_ISFIFO: "a FIFO", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISSOCK: "a socket"}

_TRAINING = re.compile(
    r"(optimizer|scheduler|scaler|sampler|dataloader|random_states?|rng_state|training_args|custom_checkpoint)(?![a-z])",
    re.IGNORECASE,
)
"""How the files of a training's state begin, which lie beside the weights and hold none."""


def weights_file(path: Path) -> Path:
    """The file that is read for this path: itself, or a folder's one checkpoint (the index, where that is in shards).

    Raises
    ------
    CheckpointError
        For a folder without a checkpoint or with several, and for what is no regular file.
    FileNotFoundError, PermissionError
        If there is no such file, or it may not be looked at.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _one_checkpoint(path)
        if stat.S_ISREG(mode):
            with path.open("rb"):
                return path
    except FileNotFoundError:
        raise FileNotFoundError(_missing(path)) from None
    except PermissionError:
        raise PermissionError(f"{printable(str(path))}: you have no permission to read it") from None
    except NotADirectoryError:
        raise FileNotFoundError(
            f"{printable(str(path))}: there is no such file: {printable(str(path.parent))} is no folder"
        ) from None
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # links in a circle, a name that is too long or holds a null character
        raise FileNotFoundError(f"{printable(str(path))}: no file can be opened ({_said(error)})") from None
    # opening a FIFO would wait for ever
    raise CheckpointError(
        next((kind for is_kind, kind in _KINDS.items() if is_kind(mode)), "no file"), expected="a checkpoint file"
    )


def _said(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+(.+)")

_DOWNLOADS = {
    "http": "`curl -LO {address}`",
    "https": "`curl -LO {address}`",
    "hf": "`hf download` of its repository and file",
    "s3": "`aws s3 cp {address} .`",
    "gs": "`gcloud storage cp {address} .`",
}


def _missing(path: Path) -> str:
    """Why there is no such file, and which one was meant, perhaps."""
    said = printable(str(path))
    if address := _ADDRESS.fullmatch(said):
        scheme, rest = address[1].lower(), address[2]
        how = _DOWNLOADS.get(scheme, "").format(address=shlex.quote(f"{scheme}://{rest}"))
        return (
            f"{scheme}://{rest} is an address, and no file here: download it first{how and f', as with {how}'}, and give the file"
        )
    if path.name and (command := _of_tensorflow(path)):
        return f"{said}: the prefix of a TensorFlow checkpoint, and no file; this makes a file of it: {command}"
    if path.is_symlink():
        return f"{said}: a link to {printable(str(path.readlink()))}, which is not there"
    if not path.parent.is_dir():
        return f"{said}: there is no such file, and no folder {printable(str(path.parent))}"
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(1000), strict=False)]
    except OSError:
        names = []
    return f"{said}: there is no such file{did_you_mean(path.name, names)}"


_TENSORFLOW_PART = re.compile(r"(.+)\.(?:data-\d{5}-of-\d{5}|index)")
"""The files of a TensorFlow checkpoint, by its prefix."""


def _of_tensorflow(prefix: Path) -> str:
    """The command for the TensorFlow checkpoint with this prefix; empty where there is none."""
    try:
        names = _names(prefix.parent)
    except (OSError, CheckpointError):
        return ""
    has_data = any(re.fullmatch(rf"{re.escape(prefix.name)}\.data-\d{{5}}-of-\d{{5}}", name) for name in names)
    return shell(_PREFIX, prefix, "weights.npz") if has_data and f"{prefix.name}.index" in names else ""


_PARTS: dict[re.Pattern[str], str] = {
    re.compile(r".*\.distcp"): "a part of a checkpoint of torch.distributed: give its folder",
    re.compile(r"(bf16_)?zero_pp_rank_\d+_.*\.pt"): "a part of a checkpoint of DeepSpeed ZeRO: give its folder",
    re.compile(r".*\.data-\d{5}-of-\d{5}"): "a part of a TensorFlow checkpoint, whose index is not there",
    re.compile(r"saved_model\.pb(txt)?"): "a part of a TensorFlow SavedModel: give its folder",
    re.compile(r"_METADATA|_CHECKPOINT_METADATA|_sharding|manifest\.ocdbt"): "a part of an orbax checkpoint: give its folder",
}
"""Files that hold a part of a checkpoint, by name."""


def check_no_part(path: Path) -> None:
    """Raise CheckpointError for a file that is one part of a checkpoint, by its name: a shard, or a rank's state."""
    if (part := _TENSORFLOW_PART.fullmatch(path.name)) and (command := _of_tensorflow(path.with_name(part[1]))):
        raise CheckpointError(f"the file is a part of a TensorFlow checkpoint; this makes a file of it: {command}")
    for pattern, what in _PARTS.items():
        if pattern.fullmatch(path.name):
            raise CheckpointError(f"the file is {what}")
    if (index := keras_index(path.name)) and path.with_name(index).is_file():
        raise CheckpointError("the file is one shard of a Keras model's weights", expected=f"its index, {index}, or the folder")
    if shard := shard_of(path.name):
        index, number, count = shard
        others = [name for name in _names(path.parent) if is_index(name)]
        index = index if index in others or not others else others[0]
        where = "or the folder" if others else "which is not in this folder"
        raise CheckpointError(
            f"the file is one shard ({number} of {count}) of a sharded checkpoint", expected=f"its index, {index}, {where}"
        )


def _names(folder: Path) -> list[str]:
    """Names of a folder's entries, in order, those of folders with a slash; few enough to be looked at."""
    names: list[str] = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count == _MOST_ENTRIES:
                raise CheckpointError(
                    "a folder of more entries than are looked at", expected=f"at most {_MOST_ENTRIES}; name the file"
                )
            names.append(entry.name + ("" if entry.is_file() else "/" if entry.is_dir() else " (no file)"))
    return sorted(names)


def checkpoints_among(names: list[str]) -> list[str]:
    """The checkpoints among a folder's files: indexes, and what is neither a shard nor a training's state."""
    indexes = [name for name in names if is_index(name)]
    whole = [
        name
        for name in names
        if name.lower().endswith(ENDINGS)
        and not (name.startswith(".") or _TRAINING.match(name) or shard_of(name) or keras_index(name) in indexes)
    ]
    return indexes + whole


def _one_checkpoint(folder: Path) -> Path:
    names = _names(folder)
    checkpoints = checkpoints_among(names)
    kind = _kind(names)
    if kind is not None and not (checkpoints and kind.beside):
        raise kind.error(folder, folder)
    if len(checkpoints) == 1:
        return folder / checkpoints[0]
    if checkpoints:
        raise CheckpointError("a folder of several checkpoints: name one of them", found=listed(checkpoints))
    if shards := [name for name in names if shard_of(name)]:
        raise CheckpointError("a folder of shards without their index", expected=shard_of(shards[0])[0], found=listed(shards))  # type: ignore[index]
    below = list(_below(folder))
    for sub, _, kind in below:
        if kind is not None:
            raise kind.error(folder, sub)
    if found := [str(sub.relative_to(folder) / name) for sub, checkpoints, _ in below for name in checkpoints]:
        raise CheckpointError("a folder whose checkpoints lie in folders below it: name one", found=listed(found))
    raise CheckpointError(
        "a folder that holds no checkpoint" if names else "an empty folder",
        expected="a checkpoint file",
        found=listed(names) or None,
    )


def listed(names: list[str]) -> str:
    """The first names, and how many there are."""
    return ", ".join(names[:_NAMED]) + (f", … ({len(names)} in all)" if len(names) > _NAMED else "")


def _below(folder: Path) -> Iterator[tuple[Path, list[str], _Kind | None]]:
    """The folders below that hold checkpoints, or are one, the nearest first; links are not followed."""
    level, left = [folder], _MOST_ENTRIES
    for _ in range(_DEEPEST):
        subs: list[Path] = []
        for parent in level:
            try:
                names = _names(parent)
            except (OSError, CheckpointError):
                continue
            left -= len(names)
            if left < 0:
                return
            checkpoints, kind = checkpoints_among(names), _kind(names)
            if parent != folder and (checkpoints or kind):
                yield parent, checkpoints, kind
            else:
                subs += [parent / name for name in names if name.endswith("/") and not (parent / name).is_symlink()]
        level = subs


@dataclass(frozen=True)
class _Kind:
    """A kind of folder that is no checkpoint of files.

    Attributes
    ----------
    what
        In words.
    remedy
        A command that makes a file of it.
    result
        The name of that file, like which a new one is made.
    beside
        Whether checkpoints in the folder are read all the same.
    """

    what: str
    tells: Callable[[list[str]], bool]
    remedy: str = ""
    result: str = ""
    beside: bool = False

    def error(self, folder: Path, where: Path) -> CheckpointError:
        """What is said of `folder` if this kind of folder is it, or lies `where` in it."""
        is_one = "is" if where == folder else f"holds, as {where.relative_to(folder)},"
        command = self.remedy and f"; this makes a file of it: {shell(self.remedy, where, self.result)}"
        return CheckpointError(f"the folder {is_one} {self.what}{command}")


def _has(*wanted: str) -> Callable[[list[str]], bool]:
    """Whether names of a folder match all of these patterns."""
    patterns = [re.compile(pattern) for pattern in wanted]
    return lambda names: all(any(pattern.fullmatch(name) for name in names) for pattern in patterns)


def _kind(names: list[str]) -> _Kind | None:
    return next((kind for kind in _FOLDERS if kind.tells(names)), None)


_DCP = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {FILE} {OUT}"

_ORBAX = (
    "python -c 'import os, sys, flax.serialization as s, jax, numpy, orbax.checkpoint as o; "
    "tree = jax.tree.map(numpy.asarray, o.PyTreeCheckpointer().restore(os.path.abspath(sys.argv[1]))); "
    f'open(sys.argv[2], "wb").write(s.msgpack_serialize(tree))\' {FILE} {OUT}'
)


def _tensorflow(prefix: str) -> str:
    """The command for a TensorFlow checkpoint. prefix: where it lies, in Python. In names two dots are one, and .S is a slash."""
    return (
        f"python -c 'import sys, glob, os, numpy, tensorflow as tf; r = tf.train.load_checkpoint({prefix}); "
        'name = lambda n: n.split("/.ATTR")[0].replace(".S", "/").replace("..", "."); '
        "numpy.savez(sys.argv[2], **{name(n): r.get_tensor(n) for n in r.get_variable_to_shape_map() if n[:2] != "
        f'"_C"}})\' {FILE} {OUT}'
    )


_PREFIX = _tensorflow("sys.argv[1]")

_NEWEST = _tensorflow('max(glob.glob(glob.escape(sys.argv[1]) + "/*.index"), key=os.path.getmtime)[:-6]')

_SAVED_MODEL = _tensorflow('sys.argv[1] + "/variables/variables"')

_FOLDERS = (
    _Kind("a checkpoint of torch.distributed (DCP)", _has(r"\.metadata", r".+\.distcp"), _DCP, "weights.pth"),
    _Kind("an orbax checkpoint", _has(r"_METADATA|manifest\.ocdbt"), _ORBAX, "weights.msgpack"),
    _Kind(
        "a part of a checkpoint of DeepSpeed ZeRO: give the folder above, which holds zero_to_fp32.py",
        _has(r"(bf16_)?zero_pp_rank_.+"),
    ),
    _Kind(
        "a checkpoint of DeepSpeed ZeRO, of which a program in it makes one that can be read",
        _has(r"zero_to_fp32\.py"),
        f"python {FILE}/zero_to_fp32.py {FILE} {OUT}",
        "weights",
        beside=True,
    ),
    _Kind("a TensorFlow SavedModel", _has(r"saved_model\.pb(txt)?"), _SAVED_MODEL, "weights.npz"),
    _Kind("a TensorFlow checkpoint", _has(r".+\.index", r".+\.data-\d{5}-of-\d{5}"), _NEWEST, "weights.npz"),
    _Kind(
        "a Core ML package, a program with its weights: take the weights from where it was exported",
        _has(r"Manifest\.json", "Data/"),
    ),
    _Kind("the Hugging Face cache of a repository: name a file in snapshots", _has("blobs/", "snapshots/")),
)
"""Kinds of folders, told by the names in them."""

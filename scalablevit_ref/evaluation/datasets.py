"""Labelled images as people keep them: folders, lists, tar shards, Parquet and npz; each image is read by itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scalablevit_ref.evaluation.labels import Listed, numbers_of, read_classes, read_labels
from scalablevit_ref.files.reading import open_regular

IMAGES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"))
"""Names of files that are images end so."""

LABELS_IN_TAR = (".cls", ".json", ".txt")
"""What WebDataset's shards hold beside an image: its class as a number or a name, or JSON with one."""

MOST_LABEL_BYTES = 1 << 20
"""Largest label in a shard, in bytes."""

IMAGE_ARRAYS = ("images", "x", "x_test", "data")
LABEL_ARRAYS = ("labels", "y", "y_test", "label")
"""What an npz calls its images and their labels; the first that is there counts."""


class Source(Protocol):
    """Where an image is; another process can be told so."""

    def read(self) -> bytes | Path | np.ndarray:
        """The image as it is kept: an encoded file's bytes, a file, or pixels."""


@dataclass(frozen=True)
class InFile:
    """A file of its own."""

    path: Path

    def read(self) -> Path:
        return self.path


@dataclass(frozen=True)
class InTar:
    """A member of a plain tar: `size` bytes from `offset` on."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with open_regular(self.shard, "a tar") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class InParquet:
    """A row of a row group."""

    shard: Path
    group: int
    row: int
    column: str

    def read(self) -> bytes:
        value = row_group(self.shard, self.group, self.column)[self.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            raise OSError(f"{self.shard.name}, row {self.row} of group {self.group}, holds no image")
        return bytes(content)


@dataclass(frozen=True)
class Pixels:
    """An image in memory."""

    array: np.ndarray

    def read(self) -> np.ndarray:
        return self.array


@lru_cache(maxsize=2)
def row_group(shard: Path, number: int, column: str) -> Any:
    """One column of a row group, kept until another is asked for: images are read one after the other."""
    from pyarrow import parquet

    with open_regular(shard, "a Parquet file") as raw, parquet.ParquetFile(raw) as file:
        return file.read_row_group(number, columns=[column])[column]


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes
    ----------
    layout
        What it was found to be, in words.
    names
        Of each image, as a message or a table calls it.
    labels
        The network's number of each image's class: int64, n.
    classes
        The names of the network's classes, as far as the data set tells them.
    source
        Where the image of a number is.

    Examples
    --------
    >>> from scalablevit_ref import digits
    >>> found = open_dataset(digits.TEST_IMAGES, Asked(classes=10))
    >>> found.layout, found.names[0], found.source(0).read().shape
    ('npz', '0', (8, 8))
    >>> len(found.fingerprint())
    16
    """

    layout: str
    names: Sequence[str]
    labels: np.ndarray
    classes: dict[int, str]
    source: Callable[[int], Source]

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """Of names and labels: another one is another data set."""
        digest = hashlib.sha256(self.labels.astype("<i8").tobytes())
        for name in self.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Asked:
    """What the user says of the labels.

    Attributes
    ----------
    classes
        How many classes the network has.
    labels
        A list of labels, for images that lie flat.
    names
        A list of the classes' names in the network's order.
    first_class
        What the list's numbers begin with.
    meta
        ILSVRC's `meta.mat`.

    Examples
    --------
    >>> Asked(classes=1000, labels=Path("ground_truth.txt"), first_class=1).first_class
    1
    """

    classes: int
    labels: Path | None = None
    names: Path | None = None
    first_class: int = 0
    meta: Path | None = None


def open_dataset(path: str | Path, asked: Asked) -> Dataset:
    """What lies at a path, whichever of the layouts it is.

    A folder of a folder for each class; a folder, or a tar, of images with a list of labels; WebDataset's shards (one tar, or a
    folder of them); Parquet as the Hub keeps it (one file, or a folder of them); an npz of `images` and `labels`.

    Raises
    ------
    ValueError
        Where it is none of these, is empty, or its labels do not fit, in one line with the remedy.
    OSError
        For what cannot be read.
    ModuleNotFoundError
        For Parquet without pyarrow.

    Examples
    --------
    >>> from scalablevit_ref import digits
    >>> found = open_dataset(digits.TEST_IMAGES, Asked(classes=10))
    >>> len(found), found.labels[:3]
    (370, array([5, 9, 2]))
    """
    path = Path(path)
    listed = None if asked.labels is None else read_labels(asked.labels, asked.first_class, asked.meta)
    if asked.meta is not None and asked.labels is None:
        raise ValueError("--meta explains the numbers of a ground-truth file; --labels FILE gives it")
    if path.is_dir():
        for suffix, opened in ((".tar", _tars), (".parquet", _parquet)):
            if shards := _shards(path, suffix):
                return opened(shards, path, asked, listed)
        return _folder(path, asked, listed)
    if not path.exists():
        raise FileNotFoundError(2, os.strerror(2), str(path))
    if path.suffix == ".tar":
        return _tars([path], path, asked, listed)
    if path.suffix == ".parquet":
        return _parquet([path], path, asked, listed)
    if path.suffix == ".npz":
        return _npz(path, asked, listed)
    if path.name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")):
        raise ValueError(f"{path}: compressed archives have no order to read in; unpack it, or make it a plain .tar")
    raise ValueError(f"{path}: expected a folder of images, .tar, .parquet or .npz")


def _shards(path: Path, suffix: str) -> list[Path]:
    """The shards in a folder, or one folder below, as the Hub's `data/`."""
    return sorted(path.glob(f"*{suffix}")) or sorted(path.glob(f"*/*{suffix}"))


def _images_below(path: Path) -> list[Path]:
    found = [Path(folder) / name for folder, _, names in os.walk(path, followlinks=True) for name in names]
    return sorted(file for file in found if file.suffix.lower() in IMAGES and not file.name.startswith("."))


def _folder(path: Path, asked: Asked, listed: Listed | None) -> Dataset:
    files = _images_below(path)
    if not files:
        raise ValueError(f"{path}: no images ({', '.join(sorted(IMAGES))}) and no .tar or .parquet in this folder")
    names = [file.relative_to(path).as_posix() for file in files]
    if listed is not None:
        return _made("a folder with a list of labels", names, listed.of(names), path, asked, lambda i: InFile(files[i]))
    flat = [name for name in names if "/" not in name]
    if flat:
        raise ValueError(
            f"{path}: {flat[0]} lies in no class's folder" + (f", nor do {len(flat) - 1} more images" * (len(flat) > 1)) + "; "
            "--labels FILE gives the labels of images that lie flat"
        )
    empty = [entry.name for entry in path.iterdir() if entry.is_dir() and not _begins(names, f"{entry.name}/")]
    labels = [name.partition("/")[0] for name in names]
    return _made("a folder for each class", names, labels, path, asked, lambda i: InFile(files[i]), more=empty)


def _begins(names: Sequence[str], first: str) -> bool:
    """Whether one of the names, which are sorted, begins so."""
    at = bisect_left(names, first)
    return at < len(names) and names[at].startswith(first)


def _made(
    layout: str,
    names: Sequence[str],
    labels: Sequence[str],
    path: Path,
    asked: Asked,
    source: Callable[[int], Source],
    *,
    more: Sequence[str] = (),
    own: Sequence[str] | None = None,
) -> Dataset:
    """With the classes' numbers. `more` are classes without images, `own` the names in the data set's own order."""
    order = own if asked.names is None else read_classes(asked.names)
    numbers = numbers_of([*labels, *more], asked.classes, order, str(path))
    array = np.array([numbers[label] for label in labels], np.int64)
    return Dataset(layout, names, array, {number: name for name, number in numbers.items()}, source)


def _tars(shards: Sequence[Path], path: Path, asked: Asked, listed: Listed | None) -> Dataset:
    """The places of images in plain tars, found by one pass over the headers; an image is then read from its place."""
    found: list[tuple[Path, str, int, int]] = []
    labels: dict[tuple[Path, str], str] = {}
    for shard in shards:
        try:
            with open_regular(shard, "a tar") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    stem, suffix = _key(member.name)
                    if not member.isfile():
                        continue
                    if suffix in IMAGES:
                        found.append((shard, member.name, member.offset_data, member.size))
                    elif suffix in LABELS_IN_TAR and listed is None and member.size <= MOST_LABEL_BYTES:
                        content = tar.extractfile(member)
                        label = _label_of(content.read() if content else b"", suffix)
                        if label is not None and (suffix != ".txt" or (shard, stem) not in labels):
                            labels[shard, stem] = label
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # what ends an archive; tarfile does without
                    raise tarfile.TarError("its end is missing")
        except tarfile.TarError as error:
            raise ValueError(f"{shard}: not a plain tar, or cut off ({error})") from None
    if not found:
        raise ValueError(f"{path}: no images in {'these' if len(shards) > 1 else 'this'} tar")
    names = [name if len(shards) == 1 else f"{shard.name}/{name}" for shard, name, _, _ in found]
    order = sorted(range(len(found)), key=lambda i: names[i])
    found, names = [found[i] for i in order], [names[i] for i in order]

    def source(i: int) -> InTar:
        shard, _, offset, size = found[i]
        return InTar(shard, offset, size)

    if listed is not None:
        return _made("tar with a list of labels", names, listed.of(names), path, asked, source)
    keys = [(shard, _key(name)[0]) for shard, name, _, _ in found]
    if all(key in labels for key in keys):
        return _made("tar shards", names, [labels[key] for key in keys], path, asked, source)
    missing = next(name for key, name in zip(keys, names, strict=True) if key not in labels)
    folders = [member.rpartition("/")[0].rpartition("/")[2] for _, member, _, _ in found]
    if not labels and all(folders):
        return _made("tar of a folder for each class", names, folders, path, asked, source)
    raise ValueError(f"{path}: {missing} has no label beside it ({', '.join(LABELS_IN_TAR)}); --labels FILE gives a list")


def _key(name: str) -> tuple[str, str]:
    """A member's key, what comes before the first dot of its name, and its last suffix."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}", f".{file.rpartition('.')[2]}".lower()


def _label_of(content: bytes, suffix: str) -> str | None:
    text = content.decode("utf-8", "replace").strip()
    if suffix != ".json":
        return text if (text and len(text.split()) == 1) or suffix == ".cls" else None
    try:
        document = json.loads(text)
    except ValueError:
        return None
    keys = ("label", "cls", "class", "target", "class_id")
    value = next((document[key] for key in keys if key in document), None) if isinstance(document, dict) else document
    return str(value) if isinstance(value, int | str) else None


def _parquet(shards: Sequence[Path], path: Path, asked: Asked, listed: Listed | None) -> Dataset:
    """The Hub's datasets: a column of images, {bytes, path}, and one of labels, whose names the schema tells."""
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Parquet is read by pyarrow: pip install 'scalablevit-ref[evaluate]'") from error
    places: list[tuple[Path, int, int]] = []
    labels: list[str] = []
    own: list[str] | None = None
    try:
        for shard in shards:
            with open_regular(shard, "a Parquet file") as raw, parquet.ParquetFile(raw) as file:
                image, label, own = _columns(file.schema_arrow, shard)
                for group in range(file.num_row_groups):
                    column = file.read_row_group(group, columns=[label])[label].to_pylist()
                    places += [(shard, group, row) for row in range(len(column))]
                    labels += [_named(value, own) for value in column]
    except ArrowException as error:
        raise ValueError(f"{shard}: no Parquet file that can be read ({str(error).splitlines()[0]})") from None
    if not places:
        raise ValueError(f"{path}: no rows")
    names = [f"{shard.name}[{group}][{row}]" for shard, group, row in places]

    def source(i: int) -> InParquet:
        return InParquet(*places[i], image)

    if listed is not None:
        return _made("Parquet with a list of labels", names, listed.of(names), path, asked, source)
    if own is not None and all(re.fullmatch(r"\d{1,9}", name) for name in own):
        own = None  # digits that call themselves by their numbers
    by_number = own if own is not None and len(own) == asked.classes else None
    return _made("Parquet", names, labels, path, asked, source, own=by_number)


def _named(value: Any, own: Sequence[str] | None) -> str:
    """A label by the name that the schema gives it."""
    return own[value] if own and isinstance(value, int) and 0 <= value < len(own) else str(value)


def _columns(schema: Any, shard: Path) -> tuple[str, str, list[str] | None]:
    """The columns of images and of labels, and the labels' names where the Hub's own note in the schema tells them."""
    import pyarrow as pa

    names: list[str] = schema.names
    kinds = {name: schema.field(name).type for name in names}
    images = [n for n in names if pa.types.is_struct(kinds[n]) and kinds[n].get_field_index("bytes") >= 0]
    images += [n for n in names if pa.types.is_binary(kinds[n]) or pa.types.is_large_binary(kinds[n])]
    labels = [n for n in ("label", "labels", "fine_label", "class", "cls", "target") if n in names]
    if not images or not labels:
        what = "labels (label, fine_label, class, target)" if images else "images"
        raise ValueError(f"{shard}: no column of {what} among {', '.join(names)}")
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        own = [str(name) for name in features[labels[0]]["names"]]
    except (KeyError, ValueError, TypeError):
        own = None
    return images[0], labels[0], own


def _npz(path: Path, asked: Asked, listed: Listed | None) -> Dataset:
    """`images`, uint8 "n h w" or "n h w 3", or floating "n c h w" that are taken as they are; and `labels`."""
    try:
        with open_regular(path, "an npz") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (*IMAGE_ARRAYS, *LABEL_ARRAYS) if name in archive.files}
            held = ", ".join(archive.files) or "nothing"
    except (ValueError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not an npz of arrays ({error})") from None
    images = next((arrays[name] for name in IMAGE_ARRAYS if name in arrays), None)
    if images is None or images.ndim not in (3, 4) or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise ValueError(f"{path}: expected an array `images`, uint8 n h w or n h w 3, or floating n c h w; found {held}")
    given = next((arrays[name] for name in LABEL_ARRAYS if name in arrays), None)
    names = [f"{i}" for i in range(len(images))]
    if listed is not None:
        labels = listed.of(names)
    elif given is not None and given.shape == (len(images),) and given.dtype.kind in "iu":
        labels = [str(int(label)) for label in given]
    else:
        raise ValueError(f"{path}: expected an array `labels`, one whole number for each of the {len(images)} images")
    return _made("npz", names, labels, path, asked, lambda i: Pixels(images[i]))

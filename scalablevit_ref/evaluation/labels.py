"""Which class an image is of: lists of labels, the order of the classes, and ImageNet's own files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from scalablevit_ref.files.reading import open_regular

IMAGENET = 1000
"""Classes of ImageNet-1k."""

MOST_BYTES = 256 << 20
"""Largest list of labels, in bytes."""

WNID = re.compile(r"n\d{8}")
"""A class of ImageNet by its number in WordNet."""


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """ImageNet's classes in the order in which networks are trained on them: sorted by their numbers in WordNet."""
    text = Path(__file__).with_name("imagenet_wnids.txt").read_text(encoding="ascii")
    return tuple(text.split())


def text_of(path: str | Path, what: str) -> str:
    """A small text file. Raises ValueError for what is no text."""
    with open_regular(path, what) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: {what} has more than {MOST_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: {what} is no text") from None


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Names of classes in the order of the network's outputs, one a line: the first word, or all of it where words are no WNIDs.

    `LOC_synset_mapping.txt` ("n01440764 tench, Tinca tinca") is such a file.
    """
    lines = [line.strip() for line in text_of(path, "a list of classes").splitlines() if line.strip()]
    names = [line.split()[0] if WNID.fullmatch(line.split()[0]) else line for line in lines]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: class {twice!r} is listed twice")
    return tuple(names)


def numbers_of(names: Iterable[str], classes: int, listed: Sequence[str] | None, where: str) -> dict[str, int]:
    """The network's number of each class that a data set names.

    Names that are listed have their place in the list; WNIDs have ImageNet's order, whether or not all are there; whole numbers
    are the class's own. Any other names are numbered as they sort, which needs all of them.

    Raises ValueError where that leaves a class without a number, or gives it one that the network has not.
    """
    found = sorted(set(names))
    if listed is not None:
        if len(listed) != classes:
            raise ValueError(f"the list has {len(listed)} classes, the network {classes}")
        return _placed(found, listed, "the list of classes", where)
    if found and all(WNID.fullmatch(name) for name in found) and classes == IMAGENET:
        return _placed(found, imagenet_wnids(), "ImageNet-1k", where)
    if found and all(re.fullmatch(r"\d{1,9}", name) for name in found):
        beyond = [name for name in found if int(name) >= classes]
        if beyond:
            remedy = _from_one(found, classes)
            raise ValueError(f"{where}: class {beyond[0]}, but the network's classes are 0 to {classes - 1}{remedy}")
        return {name: int(name) for name in found}
    if len(found) != classes:
        raise ValueError(
            f"{where} has {len(found)} classes, the network {classes}: which is which cannot be told; "
            "give the names in the order of the network's outputs, one a line, with --classes FILE"
        )
    return {name: i for i, name in enumerate(found)}


def _placed(found: Sequence[str], listed: Sequence[str], what: str, where: str) -> dict[str, int]:
    order = {name: i for i, name in enumerate(listed)}
    unknown = [name for name in found if name not in order]
    if unknown:
        more = f", nor are {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(f"{where}: {unknown[0]!r} is no class of {what}{more}")
    return {name: order[name] for name in found}


def _from_one(found: Sequence[str], classes: int) -> str:
    counts_from_one = min(map(int, found)) == 1 and max(map(int, found)) == classes
    return "; does the file count from 1? --first-class 1 says so" if counts_from_one else ""


class Listed:
    """Labels as a file lists them: by the image's name, or, where the file has nothing else, in the order of the sorted names.

    Attributes
    ----------
    by_name
        The class's name, or number as text, of each file name; empty if the file has labels alone.
    in_order
        The labels alone.
    """

    def __init__(self, by_name: Mapping[str, str], in_order: Sequence[str], path: str | Path) -> None:
        self.by_name, self.in_order, self.path = by_name, in_order, path

    def of(self, names: Sequence[str]) -> list[str]:
        """The label of each image. Raises ValueError where the list is of other images."""
        if self.in_order:
            if len(self.in_order) != len(names):
                raise ValueError(f"{self.path} has {len(self.in_order)} labels, but there are {len(names)} images")
            return list(self.in_order)
        found, missing = [], []
        for name in names:
            label = self._label(name)
            missing += [name] if label is None else []
            found.append(label or "")
        if missing:
            more = f", nor of {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(f"{self.path} has no label of {missing[0]}{more}")
        return found

    def _label(self, name: str) -> str | None:
        for key in (name, Path(name).name, Path(name).stem):
            if key in self.by_name:
                return self.by_name[key]
        return None


def read_labels(path: str | Path, first_class: int, meta: str | Path | None) -> Listed:
    """A list of labels.

    "name label" with spaces, a tabulator, a comma or a semicolon between them (a heading is passed over; of Kaggle's "ImageId,
    PredictionString" the first word of the prediction counts); or one label a line, in the order of the sorted names, as in
    ImageNet's `ILSVRC2012_validation_ground_truth.txt`, whose numbers are those of ILSVRC and need its `meta.mat`.

    Raises ValueError for what is no such list.
    """
    rows = _rows(text_of(path, "a list of labels"), path)
    widths = {len(row) for row in rows}
    if widths == {1}:
        labels = [row[0] for row in rows]
        if meta is not None:
            return Listed({}, _from_ilsvrc(labels, meta, path), path)
        if len(labels) == 50_000 and all(label.isdecimal() for label in labels) and _is_one_to(labels, IMAGENET):
            raise ValueError(
                f"{path}: its numbers, 1 to {IMAGENET}, are ILSVRC's own, which are not the order that networks are trained in; "
                "give the development kit's data/meta.mat with --meta, or use the validation images in folders by class"
            )
        return Listed({}, _counted(labels, first_class), path)
    by_name: dict[str, str] = {}
    for row in rows:
        name, label = row[0], row[1].split()[0] if row[1].strip() else ""
        if not label:
            raise ValueError(f"{path}: {name} has no label")
        if by_name.setdefault(name, label) != label:
            raise ValueError(f"{path}: {name} has two labels, {by_name[name]} and {label}")
    labels = _counted(list(by_name.values()), first_class)
    return Listed(dict(zip(by_name, labels, strict=True)), (), path)


def _rows(text: str, path: str | Path) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    delimiter = next((sign for sign in "\t,;" if all(sign in line for line in lines)), None)
    if delimiter is None:
        rows = [line.rsplit(None, 1) if len(line.split()) > 1 else [line.strip()] for line in lines]
    else:
        rows = [[cell.strip() for cell in row[:2]] for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)]
    if len(rows[0]) == 2 and not Path(rows[0][0]).suffix and not _is_label(rows[0][1]):
        rows = rows[1:]  # a heading
    if len({len(row) for row in rows}) != 1:
        odd = next(row for row in rows if len(row) != len(rows[0]))
        raise ValueError(f"{path}: some lines have a name and a label, others, as {' '.join(odd)!r}, have not")
    return rows


def _is_label(word: str) -> bool:
    first = word.split()[0] if word.split() else ""
    return first.isdecimal() or bool(WNID.fullmatch(first))


def _is_one_to(labels: Sequence[str], most: int) -> bool:
    numbers = {int(label) for label in labels}
    return min(numbers) == 1 and max(numbers) == most


def _counted(labels: list[str], first: int) -> list[str]:
    """Whole numbers, from 0 on, where the file counts from `first`."""
    if not first or not all(label.isdecimal() for label in labels):
        return labels
    return [str(int(label) - first) for label in labels]


def _from_ilsvrc(labels: Sequence[str], meta: str | Path, path: str | Path) -> list[str]:
    """WNIDs of ILSVRC's numbers, by the development kit's `meta.mat`. Raises ValueError for other files, ModuleNotFoundError."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("meta.mat is read by SciPy: pip install scipy") from error
    try:
        with open_regular(meta, "meta.mat") as file:
            synsets: Any = loadmat(file, squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except OSError:
        raise
    except Exception as error:  # SciPy's errors have no common type
        raise ValueError(f"{meta}: not the development kit's meta.mat ({error})") from None
    try:
        return [wnids[int(label)] for label in labels]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error} is none of the {len(wnids)} numbers in {meta}") from None

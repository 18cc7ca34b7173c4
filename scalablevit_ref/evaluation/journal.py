"""What a run has found so far, on the disk after each batch, so that another run goes on where one was killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from scalablevit_ref.files.reading import open_regular

KIND = "scalablevit-ref evaluate, journal"

MOST_BYTES = 4 << 30
"""Largest journal that is read, in bytes."""


@dataclass
class Found:
    """What is known of each image by its number.

    Attributes
    ----------
    top
        The classes of the largest logits, the largest first, of each network.
    damaged
        Why an image could not be read.
    """

    top: dict[int, list[list[int]]] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)

    def add(self, numbers: Iterable[int], top: Iterable[list[list[int]]], damaged: Mapping[int, str]) -> None:
        self.top.update(zip(numbers, top, strict=True))
        self.damaged.update(damaged)

    @property
    def done(self) -> set[int]:
        return self.top.keys() | self.damaged.keys()


class Journal:
    """One process's file: a heading that says of what run, then a line a batch. A last line that is cut off is dropped."""

    def __init__(self, path: Path, heading: Mapping[str, Any], rank: int) -> None:
        self.path = path if rank == 0 else path.with_name(f"{path.name}.{rank}")
        self._heading = {"kind": KIND, **heading}
        self._file: BinaryIO | None = None

    def earlier(self) -> Found:
        """What the files of all earlier runs hold. Raises ValueError for the journal of another run, or no journal."""
        found = Found()
        base = self.path
        for file in [base, *sorted(base.parent.glob(f"{base.name}.*"))]:
            if file == base or file.suffix[1:].isdecimal():
                self._read(file, found)
        return found

    def _read(self, path: Path, found: Found) -> None:
        if not path.exists():
            return
        with open_regular(path, "a journal") as file:
            lines = file.read(MOST_BYTES).split(b"\n")[:-1]  # what follows the last line break was not finished
        for number, line in enumerate(lines):
            try:
                document = json.loads(line)
                if number == 0:
                    self._check(document, path)
                    continue
                top = [[[int(c) for c in one] for one in networks] for networks in document["top"]]
                found.add(map(int, document["of"]), top, {int(i): str(why) for i, why in document["damaged"].items()})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, _OtherRunError):
                    raise
                if number == 0:
                    raise _OtherRunError(f"{path}: not a journal of evaluate") from None
                raise ValueError(f"{path}: line {number + 1} is none of a journal's ({error})") from None

    def _check(self, heading: Any, path: Path) -> None:
        if not isinstance(heading, dict) or heading.get("kind") != KIND:
            raise _OtherRunError(f"{path}: not a journal of evaluate")
        other = [key for key, value in self._heading.items() if heading.get(key) != value]
        if other:
            key = other[0]
            raise _OtherRunError(
                f"{path} is the journal of another run: its {key} was {heading.get(key)!r}, now it is {self._heading[key]!r}; "
                "another --resume FILE begins anew"
            )

    def open(self) -> None:
        """Begin to write, behind what is there."""
        kept = 0
        if self.path.exists():
            with open_regular(self.path, "a journal") as file:
                kept = file.read(MOST_BYTES).rfind(b"\n") + 1
        self._file = self.path.open("r+b" if self.path.exists() else "xb")
        self._file.truncate(kept)
        self._file.seek(kept)
        if not kept:
            self._line(self._heading)

    def add(self, numbers: list[int], top: list[list[list[int]]], damaged: Mapping[int, str]) -> None:
        """One batch; on the disk when this returns."""
        self._line({"of": numbers, "top": top, "damaged": {str(i): why for i, why in damaged.items()}})

    def _line(self, document: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def digest(path: Path) -> str:
    """Of a file's bytes; of a folder none is taken."""
    if not path.is_file():
        return ""
    found = hashlib.sha256()
    with open_regular(path, "weights") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:16]


class _OtherRunError(ValueError):
    """A journal that is not this run's."""

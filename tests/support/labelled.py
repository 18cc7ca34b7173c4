"""Labelled images in every layout that people keep them in: sixty of the digits, grey files of 8 × 8 pixels."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalablevit_ref import digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNT = 60


def labelled() -> tuple[np.ndarray, np.ndarray]:
    images, labels = digits.test_images()
    return images[:COUNT], labels[:COUNT]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def files() -> list[tuple[str, int, bytes]]:
    """Name, label and content of each image's file."""
    images, labels = labelled()
    return [(f"{i:04}.png", int(label), png(x)) for i, (x, label) in enumerate(zip(images, labels, strict=True))]


def folders(path: Path, names: Sequence[str] = tuple("0123456789")) -> Path:
    for name, label, content in files():
        (path / names[label]).mkdir(parents=True, exist_ok=True)
        (path / names[label] / name).write_bytes(content)
    return path


def flat(path: Path) -> Path:
    path.mkdir()
    for name, _, content in files():
        (path / name).write_bytes(content)
    return path


def shards(path: Path) -> Path:
    """WebDataset's: an image and its class under one key, spread over shards."""
    path.mkdir()
    for shard in range(3):
        tar(
            path / f"{shard:05}.tar",
            [(f"{n[:-4]}{end}", b) for n, k, c in files()[shard::3] for end, b in ((".png", c), (".cls", b"%d" % k))],
        )
    return path


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def hub(path: Path, *, names: Sequence[str] | None = NAMES) -> Path:
    """Two Parquet shards as the Hub's datasets are: {bytes, path} and numbers, whose names lie in the schema."""
    import pyarrow as pa
    from pyarrow import parquet

    (path / "data").mkdir(parents=True)
    rows = files()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": c, "path": n} for n, _, c in rows], kind),
        "label": [k for _, k, _ in rows],
    }
    table = pa.table(columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for i, part in enumerate((table.slice(0, 40), table.slice(40))):
        parquet.write_table(part, path / "data" / f"test-{i:05}-of-00002.parquet", row_group_size=16)
    return path


def npz(path: Path) -> Path:
    images, labels = labelled()
    np.savez(path, images=images, labels=labels)
    return path


def preprocessed(path: Path) -> Path:
    images, labels = labelled()
    np.savez_compressed(path, images=digits.preprocess(images), labels=labels)
    return path


def text(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


LAYOUTS: dict[str, Callable[[Path], list[str]]] = {
    "folders by number": lambda at: [str(folders(at / "data"))],
    "folders by name": lambda at: [str(folders(at / "data", NAMES)), "--classes", str(text(at / "names", NAMES))],
    "flat, names and numbers": lambda at: [
        str(flat(at / "data")),
        "--labels",
        str(text(at / "l", [f"{n} {k}" for n, k, _ in files()])),
    ],
    "flat, CSV with a heading": lambda at: [
        str(flat(at / "data")),
        "--labels",
        str(text(at / "l.csv", ["file,label", *(f"{n},{k}" for n, k, _ in files())])),
    ],
    "flat, labels in order": lambda at: [str(flat(at / "data")), "--labels", str(text(at / "l", [str(k) for _, k, _ in files()]))],
    "flat, labels from 1": lambda at: [
        str(flat(at / "data")),
        "--first-class",
        "1",
        "--labels",
        str(text(at / "l", [str(k + 1) for _, k, _ in files()])),
    ],
    "flat, stems in any order": lambda at: [
        str(flat(at / "data")),
        "--labels",
        str(text(at / "l.tsv", [f"{n[:-4]}\t{k}" for n, k, _ in reversed(files())])),
    ],
    "shards": lambda at: [str(shards(at / "data"))],
    "tar with JSON": lambda at: [
        str(tar(at / "a.tar", [m for n, k, c in files() for m in ((n, c), (n[:-4] + ".json", b'{"label": %d}' % k))]))
    ],
    "tar of folders": lambda at: [str(tar(at / "a.tar", [(f"val/{k}/{n}", c) for n, k, c in files()]))],
    "tar with a list": lambda at: [
        str(tar(at / "a.tar", [(n, c) for n, _, c in files()])),
        "--labels",
        str(text(at / "l", [f"{n} {k}" for n, k, _ in files()])),
    ],
    "Parquet": lambda at: [str(hub(at / "data"))],
    "Parquet without names": lambda at: [str(hub(at / "data", names=None))],
    "npz": lambda at: [str(npz(at / "digits.npz"))],
    "npz, preprocessed": lambda at: [str(preprocessed(at / "digits.npz"))],
}
"""Each layout: makes it in a folder and gives the arguments that name it."""

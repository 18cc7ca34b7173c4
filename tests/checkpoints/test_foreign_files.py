"""What a file is that is no checkpoint, and what a path is that is no file: said in one line, with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scalablevit_ref import init_params, to_backend
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from tests.support.checkpoints import DIGITS, assert_same
from tests.support.remedies import remedied


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name in names:
            out.writestr(name, b"x")
    return file.getvalue()


def tarred(*names: str, format_: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as out:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 700
            out.addfile(info, io.BytesIO(bytes(700)))
    return file.getvalue()


def gzipped(content: bytes, name: str) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=file) as out:
        out.write(content)
    return file.getvalue()


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "GGUF": (b"GGUF\x03" + bytes(40), "the file is GGUF, llama.cpp's format for language models: take the weights from where"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(40), "the file is a TFLite model"),
    "ExecuTorch": (b"\x1c\0\0\0ET12" + bytes(40), "the file is an ExecuTorch program"),
    "TorchScript for mobiles": (b"\x1c\0\0\0PTMF" + bytes(40), "the file is a TorchScript program for mobiles"),
    "TensorRT": (b"ftrt" + bytes(40), "the file is a TensorRT engine"),
    "OpenVINO": (b'<?xml version="1.0"?>\n<net name="m" version="11">', "the file is an OpenVINO model without its weights"),
    "TensorFlow": (b"\0\0\x06\x08\x01\x1a\x02\x08\x01\0\x1c\x11", "the file is a part of a TensorFlow checkpoint: give its folder"),
    "Keras' config.json": (b'{"module": "keras", "registered_name": null}', "the file is a config.json, settings and no weights"),
    "Core ML": (b"\x08\x04\x12\x10\x0a\x05", "the file is a Core ML model"),
    "MATLAB": (b"MATLAB 5.0 MAT-file, Platform", "the file is a MATLAB file: .*scipy.io.loadmat"),
    "Parquet": (b"PAR1" + bytes(9), "the file is a Parquet file"),
    "SQLite": (b"SQLite format 3\0", "the file is an SQLite database"),
    "PDF": (b"%PDF-1.7\n", "the file is a PDF document"),
    "PNG": (image("PNG"), "the file is a PNG image"),
    "JPEG": (image("JPEG"), "the file is a JPEG image"),
    "GIF": (image("GIF"), "the file is a GIF image"),
    "WebP": (image("WEBP"), "the file is a WebP image"),
    "program": (Path(sys.executable).read_bytes()[:4096], "the file is a compiled program or library"),
    "zip of one": (zipped("model.pth"), "the file is a zip archive around 'model.pth': unpack it first"),
    "zip of one and more": (zipped("m/", "m/README.md", "m/model.safetensors"), "archive around 'm/model.safetensors': unpack it"),
    "zip of a Mac": (zipped("x.pth", "__MACOSX/._x.pth"), "a zip archive around 'x.pth': unpack it first"),
    "zip of several": (zipped("a.pth", "b.pth"), "a zip archive of 2 files that may be .*, `unzip .*`; found a.pth"),
    "zip in zip": (zipped("a.zip"), "a zip archive, but neither torch.save's nor NumPy's; found a.zip"),
    "zip of Core ML": (zipped("m.mlpackage/Data/com.apple.CoreML/model.mlmodel"), "the file is a Core ML package"),
    "office": (zipped("[Content_Types].xml", "word/document.xml"), "the file is an office document"),
    "tar of one": (tarred("m/model.pth", "m/README"), "a tar archive around 'm/model.pth': .*, `tar .* m/model.pth`; found m/"),
    "tar of GNU": (tarred("x" * 200 + ".pth", "y.pth", format_=tarfile.GNU_FORMAT), "a tar archive .*'y.pth'"),
    "tar of old torch": (tarred("sys_info", "pickle", "tensors", "storages"), "a tar archive of torch's before 0.1.10: load it"),
    "tar of text": (tarred("README"), "the file is a tar archive"),
    "gzip": (gzipped(b"hello", "model.pth"), "the file is gzip-compressed around 'model.pth': unpack it first, `import gzip, "),
    "gzip of no name": (gzipped(b"hello", ""), "the file is gzip-compressed: unpack it first"),
    "tar.gz": (gzipped(tarred("m/model.pth"), "m.tar"), "a tar archive, gzip-compressed: .*`tar -xf .*`; found m/model.pth"),
    "tar.bz2": (bz2.compress(tarred("model.pth")), "the file is (a tar archive, )?bzip2-compressed"),
    "tar.xz": (lzma.compress(tarred("model.pth")), "the file is (a tar archive, )?xz-compressed"),
    "xz that needs memory": (b"\xfd7zXZ\0" + lzma.compress(b"x", preset=9)[6:], "the file is xz-compressed"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "the file is zstd-compressed: unpack it first, `zstd -d .*model.bin -o unpacked-model.bin`"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04", "the file is a 7z archive"),
    "RAR": (b"Rar!\x1a\x07\x01\0", "the file is a RAR archive"),
    "gzip that is cut off": (b"\x1f\x8b\x08\x08", "the file is gzip-compressed"),
    "array": (npy(np.zeros((2, 3), "f4")), r"the file is one array, not a mapping .*numpy.savez.*; found \(2, 3\) of float32"),
    "array of another order": (npy(np.zeros(2, ">f8")), r"the file is one array, .* found \(2,\) of float64"),
    "dict in an array": (npy(np.array({"a": 1}, object)), r"a pickle in a \.npy.*numpy.savez\(.*allow_pickle=True\)\.item\(\)"),
    "damaged npy": (b"\x93NUMPY\x01\0\x10\0", "damaged npy header"),
    "notebook": (b'{"cells": [], "nbformat": 4}', "the file is a Jupyter notebook"),
    "config.json": (b'{"architectures": ["A"], "model_type": "a"}', "the file is a config.json, settings and no weights"),
    "timm's config.json": (b'{"architecture": "a", "num_classes": 10}', "the file is a config.json, settings and no weights"),
    "TensorFlow.js": (b'{"modelTopology": {}, "weightsManifest": []}', "the file is a TensorFlow.js model"),
    "JSON error": (b'{"error":"Entry not found"}', "the file is a server's error message: download .*'Entry not found'"),
    "JSON message": (b'{"message": "Not Found", "status": "404"}', "the file is a server's error message: .*'Not Found'"),
    "JSON": (b'{"a": 1}', "the file is JSON that holds no weights; .*found the keys 'a'"),
    "JSON list": (b" [1, 2]", "the file is JSON that holds no weights; .*found"),
    "JSON with a mark": (b"\xef\xbb\xbf" + b'{"a": 1}', "the file is JSON that holds no weights"),
    "no JSON": (b"{hello}", "the file begins as JSON does, but is none"),
    "HTML": (b"\xef\xbb\xbf<!DOCTYPE html><html>", "the file is an HTML page"),
    "XML error": (b"<Error><Code>AccessDenied</Code></Error>", "the file is an XML document .a storage server's error message"),
    "YAML": (b"lr: 0.1\nmodel:\n  depths: [1, 2]\n", "the file is YAML, settings and no weights"),
    "YAML of sections": (b"---\na: 1\n", "the file is YAML, settings and no weights"),
    "Python": (b"import torch\nfrom x import y\n", "the file is a Python program, and no weights"),
    "Python model": (b"class Model(nn.Module):\n    pass\n", "the file is a Python program, and no weights"),
    "Python script": (b"#!/usr/bin/env python3\n", "the file is a Python program, and no weights"),
    "server's text": (b"Entry not found", "but a text .a server's error message, perhaps.; .*found 'Entry not found'"),
    "cut in a character": (b"a" + "é".encode() * 400, "not a checkpoint but a text"),
    "Latin-1": (b"caf\xe9", "not a checkpoint; expected torch.save's"),
    "binary": (b"\x01\x02\x03\x04" * 9, "not a checkpoint; expected torch.save's"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_checkpoints(tmp_path: Path, what: str) -> None:
    content, said = FILES[what]
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path}: .*{said}") as caught:
        load_checkpoint(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    return str(caught.value)


def saved(path: Path) -> bytes:
    save_checkpoint(path, init_params(DIGITS), DIGITS)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize("name", ["model.pth", "a folder/model.safetensors", "model.npz", "model.msgpack"])
@pytest.mark.parametrize("archive", ["a.zip", "it's a.tar", "-a.tar.gz", "`touch x`.tar", "two\nlines.zip"])
def test_what_is_unpacked_is_read(tmp_path: Path, name: str, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive's refusal names the file in it, and gives the command for it, whatever the archive is called."""
    monkeypatch.chdir(tmp_path)
    content = saved(tmp_path / Path(name).name)
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr(name, content)
    else:
        with tarfile.open(archive, "w:gz" if archive.endswith("gz") else "w") as out:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    text = refused(Path(archive))
    assert archive.endswith("gz") or f"archive around '{name}': unpack it first, `" in text
    made = remedied(text, tmp_path, number=-1)  # the first may be in the name
    assert made.relative_to(tmp_path) == Path(name)
    assert_same(load_checkpoint(made), init_params(DIGITS))


COMPRESSED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("name", ["model.pth.gz", "a folder/model.npz.bz2", "it's.xz", "model.pth", "-model`.gz"])
@pytest.mark.parametrize("ending", COMPRESSED)
def test_what_is_inflated_is_read(tmp_path: Path, name: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(COMPRESSED[ending](saved(tmp_path / "x.pth")))
    assert_same(load_checkpoint(remedied(refused(path), tmp_path, number=-1)), init_params(DIGITS))
    path.with_suffix("").touch()  # a name that is taken is not overwritten
    assert_same(load_checkpoint(remedied(refused(path), tmp_path, number=-1)), init_params(DIGITS))


def test_zlib(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(zlib.compress(saved(path)))
    text = refused(path)
    assert "the file is zlib-compressed: unpack it first, `import zlib" in text
    assert_same(load_checkpoint(remedied(text, tmp_path)), init_params(DIGITS))
    path.write_text("x^2 + y^2")
    assert "a text" in refused(path)


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3)])
def test_joblib(tmp_path: Path, compress: Any) -> None:
    joblib: Any = pytest.importorskip("joblib")
    path = tmp_path / "x.joblib"
    joblib.dump(init_params(DIGITS), path, compress=compress)
    text = refused(path)
    assert "a pickle of joblib's" in text
    assert_same(load_checkpoint(remedied(text, tmp_path)), init_params(DIGITS))


def test_one_array_after_another(tmp_path: Path) -> None:
    """What equinox' `tree_serialise_leaves` writes: no name is in it."""
    with (tmp_path / "x.eqx").open("wb") as out:
        for x in init_params(DIGITS).values():
            np.save(out, x)
    assert re.search("one array of NumPy after another, without their names.*first is .* of float32", refused(tmp_path / "x.eqx"))


def test_the_remedy_for_a_dict_in_a_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", init_params(DIGITS), allow_pickle=True)  # type: ignore[arg-type]
    assert_same(load_checkpoint(remedied(refused(tmp_path / "x.npy"), tmp_path)), init_params(DIGITS))


def test_the_remedy_for_a_dict_in_a_npz(tmp_path: Path) -> None:
    """A tree of several levels takes it twice; the second result has another name than the first."""
    path = tmp_path / "x.npz"
    np.savez(path, **{"it's": {"model": init_params(DIGITS)}})  # type: ignore[arg-type]
    once = remedied(refused(path), tmp_path)
    assert_same(load_checkpoint(remedied(refused(once), tmp_path)), init_params(DIGITS))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_files_that_broke_off(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    content = saved(path)
    for size in (len(content) // 2, 60_000):
        path.write_bytes(content[:size])
        assert "it broke off while it was downloaded, copied or written; get it again" in refused(path)
        assert "zip file" not in refused(path)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "https://host.example/a/model.pth",
            "https://host.example/a/model.pth is an address, and no file here: download it first, ",
        ),
        ("http://host.example/m.pth?a=1&b=2", r"download it first, as with `curl -LO 'http://host.example/m.pth\?a=1&b=2'`"),
        ("s3://bucket/model.pth", "s3://bucket/model.pth is an address, .* `aws s3 cp s3://bucket/model.pth .`"),
        ("gs://bucket/model.pth", "gs://bucket/model.pth is an address"),
        ("ftp://host.example/model.pth", "is an address, and no file here: download it first, and give the file"),
    ],
)
def test_addresses(address: str, said: str) -> None:
    for path in (address, Path(address)):  # of which the second has lost a slash
        with pytest.raises(FileNotFoundError, match=f"^{said}" if said.startswith(address) else said):
            load_checkpoint(path)


def link_to_nothing(folder: Path) -> Path:
    (folder / "link.pth").symlink_to("nowhere.pth")
    return folder / "link.pth"


def in_a_circle(folder: Path) -> Path:
    (folder / "a.pth").symlink_to("b.pth")
    (folder / "b.pth").symlink_to("a.pth")
    return folder / "a.pth"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "xyz.pth", "xyz.pth: there is no such file$"),
        (lambda folder: folder / "checkpoint_bset.pth", r"no such file \(did you mean 'checkpoint_best.pth'\?\)$"),
        (lambda folder: folder / "none" / "x.pth", "x.pth: there is no such file, and no folder .*none$"),
        (lambda folder: folder / "checkpoint_best.pth" / "x", "x: there is no such file: .*checkpoint_best.pth is no folder$"),
        (link_to_nothing, "link.pth: a link to nowhere.pth, which is not there$"),
        (in_a_circle, r"a.pth: no file can be opened \(Too many levels of symbolic links\)$"),
        (lambda folder: folder / ("x" * 400), r"no file can be opened \(File name too long\)$"),
        (lambda folder: folder / "a\x1b[2J.pth", r"a\\x1b\[2J.pth: there is no such file$"),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    (tmp_path / "checkpoint_best.pth").touch()
    with pytest.raises(FileNotFoundError, match=said) as caught:
        load_checkpoint(make(tmp_path))
    assert "Errno" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^path must be a name that a file can have, without a null character, got .*a\\x00b$"):
        load_checkpoint(tmp_path / "a\0b")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    torch.save(to_backend(init_params(DIGITS), "torch"), path)
    refused: Any = PermissionError(13, "Permission denied")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise refused

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"x\.pth: you have no permission to read it$") as caught:
        load_checkpoint(path)
    assert "Errno" not in str(caught.value)


def test_an_index_is_told_from_other_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: a shard that the index names is not there"):
        load_checkpoint(tmp_path / "x.json")

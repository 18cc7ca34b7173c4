"""What is around a checkpoint, or in its place, when it arrives: archives, error pages, halves."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from tests.programs.producers.made import Made, file, network, producer


def arrival(library: str, writes: str, form: str) -> Any:
    return producer(library, writes, form, distribution="torch", needs=("torch",))


def _bytes() -> bytes:
    out = io.BytesIO()
    torch.save(network().state_dict(), out)
    return out.getvalue()


@arrival("gzip", "`gzip.open(…, 'wb')` around torch.save", ".pth.gz")
def gzipped(folder: Path) -> Made:
    with gzip.open(folder / "x.pth.gz", "wb") as out:
        out.write(_bytes())
    return file(folder / "x.pth.gz")


@arrival("tar", "`tarfile.add` of one checkpoint", ".tar.gz")
def tarred(folder: Path) -> Made:
    with tarfile.open(folder / "x.tar.gz", "w:gz") as out:
        info = tarfile.TarInfo("weights/model.pth")
        info.size = len(data := _bytes())
        out.addfile(info, io.BytesIO(data))
    return file(folder / "x.tar.gz")


@arrival("zip", "a CI artefact: the `.pth` inside a `.zip`", ".zip")
def zipped(folder: Path) -> Made:
    with zipfile.ZipFile(folder / "artifact.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("model.pth", _bytes())
    return file(folder / "artifact.zip")


@arrival("zip", "`zip -r` of the unpacked `.pth`: deflated", ".pth, deflated")
def repacked(folder: Path) -> Made:
    with zipfile.ZipFile(io.BytesIO(_bytes())) as old, zipfile.ZipFile(folder / "x.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return file(folder / "x.pth")


@arrival("Git LFS", "the pointer of a clone without `git lfs`", "pointer")
def lfs_pointer(folder: Path) -> Made:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d7a" * 16 + "\nsize 818000\n"
    (folder / "model.safetensors").write_text(text)
    return file(folder / "model.safetensors", tell=("git lfs",))


@arrival("a web server", "its error page, saved as `.pth`", "HTML")
def error_page(folder: Path) -> Made:
    page = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
    (folder / "x.pth").write_text(page)
    return file(folder / "x.pth", tell=("HTML", "download"))


@arrival("a browser", "a download that broke off in the middle", ".pth")
def broken_off(folder: Path) -> Made:
    (folder / "x.pth").write_bytes(_bytes()[:300_000])
    return file(folder / "x.pth", tell=("truncated",))


@arrival("bzip2", "`bz2.open(…, 'wb')` around torch.save", ".pth.bz2")
def bzipped(folder: Path) -> Made:
    (folder / "x.pth.bz2").write_bytes(bz2.compress(_bytes()))
    return file(folder / "x.pth.bz2")


@arrival("xz", "`lzma.open(…, 'wb')` around torch.save", ".pth.xz")
def xz(folder: Path) -> Made:
    (folder / "x.pth.xz").write_bytes(lzma.compress(_bytes(), preset=0))
    return file(folder / "x.pth.xz")


@arrival("tar", "an uncompressed `.tar` of a folder with one checkpoint", ".tar")
def plain_tar(folder: Path) -> Made:
    with tarfile.open(folder / "x.tar", "w") as out:
        for name, data in (("run/log.txt", b"epoch 1\n"), ("run/model.pth", _bytes())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file(folder / "x.tar")


@arrival("TorchServe", "`torch-model-archiver`: a `.mar` around the `.pth`", ".mar")
def model_archive(folder: Path) -> Made:
    with zipfile.ZipFile(folder / "x.mar", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("MAR-INF/MANIFEST.json", '{"model": {"serializedFile": "model.pth"}}')
        out.writestr("model.pth", _bytes())
        out.writestr("handler.py", "")
    return file(folder / "x.mar")


@arrival("Hugging Face", "`Entry not found`, saved as the file", "text")
def entry_not_found(folder: Path) -> Made:
    (folder / "x.safetensors").write_text("Entry not found")
    return file(folder / "x.safetensors", tell=("text", "Entry not found"))


@arrival("Hugging Face", "its JSON error, saved as the file", "JSON")
def json_error(folder: Path) -> Made:
    (folder / "x.safetensors").write_text('{"error":"Invalid username or password."}')
    return file(folder / "x.safetensors", tell=("server", "download"))


@arrival("S3", "`AccessDenied`, saved as the file", "XML")
def access_denied(folder: Path) -> Made:
    text = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
    (folder / "x.pth").write_text(text)
    return file(folder / "x.pth", tell=("XML",))


@arrival("a browser", "an empty file", ".pth")
def empty_file(folder: Path) -> Made:
    (folder / "x.pth").write_bytes(b"")
    return file(folder / "x.pth", tell=("empty",))


@arrival("a browser", "a safetensors file that broke off", ".safetensors")
def broken_safetensors(folder: Path) -> Made:
    from safetensors.torch import save

    (folder / "x.safetensors").write_bytes(save(network().state_dict())[:300_000])
    return file(folder / "x.safetensors", tell=("bytes",))

"""What a file is that is no checkpoint: told by its first bytes, by the names in an archive, or by what JSON holds."""

from __future__ import annotations

import bz2
import io
import lzma
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.npz import npy_header
from scalablevit_ref.formats.remedies import FILE, OUT, TRUSTED, python, shell, shell_text
from scalablevit_ref.formats.source import ENDINGS, HEAD, Source

_FORMATS = "torch.save's zip or legacy format, safetensors, npz, Flax's msgpack, HDF5 or ONNX"

_EXPORTED = "take the weights from where it was exported"
_UNPACK = "unpack it first"

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", f"GGUF, llama.cpp's format for language models: {_EXPORTED}"),
    (4, b"TFL3", f"a TFLite model, a program with its weights: {_EXPORTED}"),
    (4, b"ET12", f"an ExecuTorch program with its weights: {_EXPORTED}"),
    (4, b"PTMF", f"a TorchScript program for mobiles: {_EXPORTED}"),
    (0, b"ptrt", f"a TensorRT engine, compiled for one kind of GPU: {_EXPORTED}"),
    (0, b"ftrt", f"a TensorRT engine, compiled for one kind of GPU: {_EXPORTED}"),
    (0, b"\0\0\x06\x08", "a part of a TensorFlow checkpoint: give its folder"),
    (0, b"ARROW1", "an Arrow file, a table: no checkpoint"),
    (0, b"PAR1", "a Parquet file, a table: no checkpoint"),
    (0, b"SQLite format 3", "an SQLite database: no checkpoint"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file: numpy.savez of what scipy.io.loadmat gives can be read"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"\x7fELF", "a compiled program or library"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK}"),
    (0, b"Rar!", f"a RAR archive: {_UNPACK}"),
)
"""Where in the file, which bytes, what it is."""

_TEXTS: tuple[tuple[str, str], ...] = (
    (r"version https://git-lfs", "a git-LFS pointer, not the file it points to: fetch that with `git lfs pull`"),
    (r"<!doctype html|<html", "an HTML page (a download page, as Google Drive shows for large files): download the file itself"),
    (r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<net\b", f"an OpenVINO model without its weights: {_EXPORTED}"),
    (r"<\?xml|<error>", "an XML document (a storage server's error message, perhaps): download the file itself"),
    (
        r"#!.*python|import [\w., ]+$|from [\w.]+ import .+$|(async )?def \w+\(|class \w+.*:\s*$",
        "a Python program, and no weights",
    ),
    (r"[{[]", "JSON, and no weights"),
    (r"---\s*$|[\w.-]+:( .*)?$(\s*^[\w\s.-]*:)", "YAML, settings and no weights"),
)
"""How a text begins, line by line and whatever its case; what it is."""


def _text(head: bytes) -> str | None:
    """The beginning of a text, whole characters of it; None for other bytes."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < HEAD:
            return None
        text = head[: error.start].decode("utf-8-sig")
    return text if all(c.isprintable() or c in "\r\n\t\f" for c in text) and text.strip() else None


def _of_text(text: str) -> CheckpointError:
    text = text.strip()
    for pattern, what in _TEXTS:
        if re.match(pattern, text, re.IGNORECASE | re.MULTILINE):
            return CheckpointError(f"the file is {what}")
    line = text.splitlines()[0]
    return CheckpointError(
        "not a checkpoint but a text (a server's error message, perhaps)", expected=_FORMATS, found=repr(line[:80])
    )


def foreign_json(document: Any) -> CheckpointError:
    """What is said of JSON that is no index of shards."""
    if not isinstance(document, dict):
        return CheckpointError("the file is JSON that holds no weights", expected="a checkpoint", found=brief(document))
    for keys, what in _DOCUMENTS:
        if keys & document.keys():
            return CheckpointError(f"the file is {what}", found=_some(document) if keys is not _ERROR else brief(document))
    return CheckpointError("the file is JSON that holds no weights", expected="a checkpoint", found=_some(document))


def _some(document: Mapping[Any, Any]) -> str:
    keys = [brief(key) for key, _ in zip(document, range(6), strict=False)]
    return f"the keys {', '.join(keys)}{', …' if len(document) > len(keys) else ''}"


_ERROR = {"error", "errors", "message", "detail"}

_DOCUMENTS = (
    ({"nbformat"}, "a Jupyter notebook, and no weights"),
    ({"modelTopology", "weightsManifest"}, f"a TensorFlow.js model: {_EXPORTED}"),
    (
        {"architecture", "architectures", "model_type", "_class_name", "registered_name", "pretrained_cfg"},
        "a config.json, settings and no weights: give the weights beside it",
    ),
    (_ERROR, "a server's error message: download the file itself"),
)
"""Keys of which one tells what a JSON document is."""


_FEW = 4
"""Names of an archive's files that are said."""


_PLAIN = r"[\w.][\w .@=+,-]*(/[\w.][\w .@=+,-]*)*"
"""A file in an archive that is named as it is to the program which unpacks it: no option, and no pattern."""


def foreign_zip(names: Iterable[str], path: Path) -> CheckpointError:
    """What is said of a zip archive that is no checkpoint itself. path: where it lies."""
    names = [name for name in names if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if names and ("[Content_Types].xml" in names or "mimetype" in names):
        return CheckpointError("the file is an office document", found=", ".join(names[:_FEW]))
    if any(name.endswith("com.apple.CoreML/model.mlmodel") for name in names):
        return CheckpointError(f"the file is a Core ML package, a program with its weights: {_EXPORTED}")
    return _archive("zip", names, f"unzip {FILE}", path) or CheckpointError(
        "a zip archive, but neither torch.save's nor NumPy's", found=", ".join(names[:_FEW]) or "an empty archive"
    )


def _archive(kind: str, names: list[str], command: str, path: Path) -> CheckpointError | None:
    """What is said of an archive around weights; None if it holds none. command: unpacks all of it, or the files that it names."""
    weights = [name for name in names if name.lower().endswith(ENDINGS)]
    if not weights:
        return None
    around = f"around {brief(weights[0])}" if len(weights) == 1 else f"of {len(weights)} files that may be checkpoints"
    member = weights if len(weights) == 1 and re.fullmatch(_PLAIN, weights[0]) else []
    unpack = f"{_UNPACK}, {shell(' '.join([command, *map(shell_text, member)]), path)}"
    return CheckpointError(f"the file is a {kind} archive {around}: {unpack}", found=", ".join(names[:_FEW]))


_TAR = 257
"""Where in a tar archive its magic lies."""

_MOST_MEMBERS = 50
"""Members of a tar archive whose names are read."""


def _of_tar(source: Source) -> CheckpointError:
    names = list(_members(source.file))
    if "storages" in names and "tensors" in names:
        return CheckpointError("the file is a tar archive of torch's before 0.1.10: load it with torch and save it again")
    return _archive("tar", names, f"tar -xf {FILE}", source.path) or CheckpointError(
        "the file is a tar archive (torch's before 0.1.10, perhaps): load it with torch and save it again",
        found=", ".join(names[:_FEW]),
    )


def _members(file: BinaryIO) -> Iterator[str]:
    """Names of the regular files of a tar archive, the first of them."""
    at = 0
    for _ in range(_MOST_MEMBERS):
        file.seek(at)
        block = file.read(512)
        if len(block) < 512 or block[_TAR : _TAR + 5] != b"ustar":
            return
        size = re.match(rb"[0-7]+", block[124:136].strip(b" \0"))
        if block[156:157] in (b"0", b"\0"):
            yield block[:100].rstrip(b"\0").decode("utf-8", "replace")
        at += 512 + -(-int(size[0], 8) // 512) * 512 if size else 512


_MOST_XZ = 16 << 20
"""Most memory that an xz archive's first bytes may need, in bytes."""

_DEFLATED = 1 << 20
"""First bytes of what is compressed that are read for that: bzip2 gives nothing before 900,000 are unpacked."""

_INFLATED = 4 * HEAD
"""First bytes of what is compressed that are inflated to tell what it is."""


def _of_compressed(
    kind: str, ending: str, program: str, otherwise: Command, inflate: Callable[[bytes], bytes] | None = None
) -> Callable[[Source], CheckpointError]:
    """Says what is compressed, as far as its first bytes tell.

    Parameters
    ----------
    kind
        The name of the compression.
    program
        Unpacks a file beside it, which it keeps.
    ending
        Of a file's name, that `program` takes off.
    otherwise
        Makes the command for a file of another name, or whose name without the ending is taken.
    inflate
        Gives what the first bytes are; None where Python cannot.
    """

    def describe(source: Source) -> CheckpointError:
        path = source.path
        try:
            source.file.seek(0)
            inside = inflate(source.file.read(_DEFLATED)) if inflate else b""
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
            inside = b""
        if is_joblib(inside):
            return joblib_file(path)
        if inside[_TAR : _TAR + 5] == b"ustar":
            names = ", ".join(_members(io.BytesIO(inside)))
            unpack = f"{_UNPACK}, {shell(f'tar -xf {FILE}', path)}"
            return CheckpointError(f"the file is a tar archive, {kind}-compressed: {unpack}", found=names or None)
        name = source.head[10:].split(b"\0")[0] if kind == "gzip" and source.head[3] & 0x0C == 0x08 else b""  # FNAME, no FEXTRA
        around = f" around {brief(name.decode('latin-1'))}" if name else ""
        known = path.suffix == ending and not os.path.lexists(path.with_suffix(""))
        unpack = shell(f"{program} {FILE}", path) if known else otherwise(path, f"unpacked-{path.name}")
        return CheckpointError(f"the file is {kind}-compressed{around}: {_UNPACK}, {unpack}")

    return describe


Command: TypeAlias = Callable[[Path, str], str]
"""Gives the command for a file, and for a result of a name like this one."""


def _by_module(module: str) -> Command:
    code = f"import {module}, pathlib; pathlib.Path({OUT}).write_bytes({module}.decompress(pathlib.Path({FILE}).read_bytes()))"
    return lambda path, result: python(code, path, result)


def _by_program(command: str) -> Command:
    return lambda path, result: shell(command, path, result)


_NPY = b"\x93NUMPY"

_JOBLIB = b"joblib.numpy_pickle"
"""The module whose class stands in joblib's pickles for each array, whose bytes follow amid the opcodes."""


def is_joblib(head: bytes) -> bool:
    """Whether a pickle that begins so is joblib's."""
    return head[:1] == b"\x80" and _JOBLIB in head


def joblib_file(path: Path) -> CheckpointError:
    """What is said of a file of joblib."""
    remedy = python(f"import joblib, numpy; numpy.savez({OUT}, **joblib.load({FILE}))", path, "weights.npz")
    return CheckpointError(f"the file is a pickle of joblib's, with the arrays between its opcodes: {remedy} {TRUSTED}")


def _starts_zlib(head: bytes) -> bool:
    """Whether these bytes are zlib's, as far as they can be inflated."""
    if len(head) < 3 or head[0] != 0x78 or int.from_bytes(head[:2]) % 31:
        return False
    try:
        return bool(_inflated(head))
    except zlib.error:
        return False


def _inflated(head: bytes) -> bytes:
    return zlib.decompressobj().decompress(head, _INFLATED)


def _of_zlib(source: Source) -> CheckpointError:
    if is_joblib(_inflated(source.head)):
        return joblib_file(source.path)
    unpack = _by_module("zlib")(source.path, f"unpacked-{source.path.name}")
    return CheckpointError(f"the file is zlib-compressed: {_UNPACK}, {unpack}")


def _of_npy(source: Source) -> CheckpointError:
    source.file.seek(0)
    shape, _, dtype = npy_header(source.file)
    if dtype.hasobject:
        return CheckpointError(
            "the file is a pickle in a .npy, as numpy.save makes of a dict: pickles are programs, and this one is not run; "
            + python(
                f"import numpy; numpy.savez({OUT}, **numpy.load({FILE}, allow_pickle=True).item())", source.path, "weights.npz"
            )
            + f" {TRUSTED}"
        )
    end = source.file.tell() + math.prod(shape) * dtype.itemsize
    if 0 <= end < source.size and source.file.seek(end) == end and source.file.read(6) == _NPY:
        return CheckpointError(
            "the file is one array of NumPy after another, without their names, as equinox' tree_serialise_leaves writes: "
            "save names too, as by numpy.savez",
            found=f"the first is {brief(shape)} of {dtype.name}",
        )
    return CheckpointError(
        "the file is one array, not a mapping of names to arrays: save them by numpy.savez",
        found=f"{brief(shape)} of {dtype.name}",
    )


def _of_pickle(source: Source) -> CheckpointError:
    return CheckpointError("the file is a pickle, but not torch.save's: pickles are programs, and this one is not run")


def _of_core_ml(source: Source) -> CheckpointError:
    """Field 1 is a version, field 2 a message that begins with one."""
    return CheckpointError(f"the file is a Core ML model, a program with its weights: {_EXPORTED}")


_OF_GZIP = _of_compressed(
    "gzip",
    ".gz",
    "gunzip -k",
    _by_module("gzip"),
    lambda head: zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _INFLATED),
)
_OF_BZIP2 = _of_compressed(
    "bzip2", ".bz2", "bunzip2 -k", _by_module("bz2"), lambda head: bz2.BZ2Decompressor().decompress(head, _INFLATED)
)
_OF_XZ = _of_compressed(
    "xz",
    ".xz",
    "unxz -k",
    _by_module("lzma"),
    lambda head: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_XZ).decompress(head, _INFLATED),
)
_OF_ZSTD = _of_compressed("zstd", ".zst", "zstd -dk", _by_program(f"zstd -d {FILE} -o {OUT}"))
_OF_LZ4 = _of_compressed("lz4", ".lz4", "lz4 -dk", _by_program(f"lz4 -d {FILE} {OUT}"))

_STRUCTURES: tuple[tuple[Callable[[bytes], bool], Callable[[Source], CheckpointError]], ...] = (
    (lambda head: head[_TAR : _TAR + 5] == b"ustar", _of_tar),
    (lambda head: head.startswith(b"\x1f\x8b") and len(head) > 3, _OF_GZIP),
    (lambda head: re.match(rb"BZh[1-9]1AY&SY", head) is not None, _OF_BZIP2),
    (lambda head: head.startswith(b"\xfd7zXZ\0"), _OF_XZ),
    (lambda head: head.startswith(b"\x28\xb5\x2f\xfd"), _OF_ZSTD),
    (lambda head: head.startswith(b"\x04\x22\x4d\x18"), _OF_LZ4),
    (_starts_zlib, _of_zlib),
    (lambda head: head.startswith(_NPY), _of_npy),
    (lambda head: head[:1] == b"\x80", _of_pickle),
    (lambda head: head[:1] == b"\x08" and head[2:3] == b"\x12" and head[4:5] == b"\x0a", _of_core_ml),
)
"""How a head tells files whose contents say more; what is said of them."""


def foreign(source: Source) -> CheckpointError:
    """What is said of a file that no reader takes."""
    head = source.head
    if not head:
        return CheckpointError("the file is empty", expected="a checkpoint")
    for at, magic, what in _MAGIC:
        if head.startswith(magic, at):
            return CheckpointError(f"the file is {what}")
    for starts, describe in _STRUCTURES:
        if starts(head):
            return describe(source)
    if (text := _text(head)) is not None:
        return _of_text(text)
    return CheckpointError("not a checkpoint", expected=_FORMATS, found=repr(head[:16]))

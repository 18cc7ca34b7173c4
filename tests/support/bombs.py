"""Files made to take time or memory: what they hold, and what is said of them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

from tests.support.bombs_pickle import KEY, PICKLE_BOMBS
from tests.support.flax_files import SOUND, ext, packed
from tests.support.hostile import FOUR, archive, entry, header, noted, npy, npz, program, tensor


def doubled(start: bytes, join: bytes, depth: int = 60) -> bytes:
    """A value that holds the last one twice, `depth` deep: 2^depth leaves in a few bytes."""
    return start + b"q\x00" + b"".join(b"0h%c(h%ch%c%bq%c" % (i, i, i, join, i + 1) for i in range(depth))


def deflated(records: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in records.items():
            out.writestr(name, content)
    return file.getvalue()


def changed_directory(offset: int, value: bytes) -> bytes:
    """An npz whose directory says something else of its record (method at 10, sizes at 20 and 24)."""
    data = bytearray(npz(a=npy((2,))))
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + len(value)] = value
    return bytes(data)


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        out.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


def colliding_numbers() -> bytes:
    """Whole numbers of one hash."""
    return b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(9, 50_000))


def in_pieces(axes: int) -> dict[str, Any]:
    """An array as Flax writes those of more than a gigabyte."""
    return {"__msgpack_chunked_array__": True, "shape": {str(i): 1 << 40 for i in range(axes)}, "chunks": {"0": SOUND}}


def in_each_other() -> bytes:
    """Extensions, each the content of the next."""
    inner = b"\x00"
    for _ in range(2000):
        inner = b"\xc9" + struct.pack(">Ib", len(inner), 1) + inner
    return b"\x81\xa1a" + inner


def equal_names() -> bytes:
    return b",".join(b'"%d":0' % i for i in range(300_000))


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = PICKLE_BOMBS | {
    "tuples as a key": (lambda: archive(program(doubled(b")", b"t") + b"}h\x3cNs")), KEY),
    "tuples beside": (lambda: archive(program(doubled(b"N", b"t"))), "no state dict; .* found tuple"),
    "deep tuples": (lambda: archive(program(b"}N" + b"\x85" * 400_000 + b"Ns")), KEY),
    "deep lists": (lambda: archive(program(b"]" * 200_000 + b"a" * 199_999)), "no state dict"),
    "opcodes": (lambda: archive(program(b"N0" * 600_000)), "more opcodes than a checkpoint's"),
    "long text": (lambda: archive(program(b"X" + struct.pack("<I", 33 << 20) + bytes(33 << 20))), "larger than a checkpoint's"),
    "marks": (lambda: archive(program(b"(" * 400_000)), "damaged pickle|no state dict"),
    "colliding numbers": (lambda: archive(program(b"}(" + colliding_numbers() + b"u")), KEY),
    "memo": (lambda: archive(program(b"N" + b"\x94" * 400_000)), "no state dict|opcode"),
    "expanded": (lambda: archive(program(tensor(0, (1 << 20, 1 << 20), (0, 0))), FOUR), "larger than the file"),
    "empty but wide": (lambda: archive(program(tensor(0, (1 << 62, 0), (1, 1))), FOUR), "larger than the file"),
    "records": (lambda: archive(program(b"N"), {f"archive/{i:064}": b"" for i in range(40_000)}), "directory larger"),
    "climbing name": (lambda: archive(program(b"N"), {"archive/../../x": b""}), "leads out of the archive"),
    "absolute name": (lambda: archive(program(b"N"), {"/etc/x": b""}), "leads out of the archive"),
    "encrypted": (lambda: changed_directory(8, b"\x01\x00"), "a.npy: encrypted zip record"),
    "bzip2": (lambda: changed_directory(10, b"\x0c\x00"), "unusual method"),
    "said to be deflated": (lambda: changed_directory(10, b"\x08\x00"), "damaged"),
    "deflate bomb": (lambda: deflated({"a.npy": npy((50 << 20,), "|u1", bytes(50 << 20))}), "inflates more than weights can"),
    "deflate bomb torch": (lambda: deflated({"archive/data.pkl": program(b"N" * 900_000)}), "more opcodes than a checkpoint's"),
    "npy of empty elements": (lambda: npz(a=npy((1 << 40,), "|V0", b"")), "no state dict|names of no known layout"),
    "npy of records": (lambda: npz(a=npy((2,), [("x", "<f4")])), "no state dict|names of no known layout"),  # type: ignore[arg-type]
    "npy config of numbers": (lambda: npz(__config__=npy((2,))), "names of no known layout"),
    "npy text out of range": (lambda: npz(__config__=npy((), "<U2", b"\xff" * 8)), "beyond Unicode"),
    "npy text beyond Unicode": (lambda: npz(__config__=npy((), "<U2", b"{\0\0\0\0\0\x11\0")), "characters beyond Unicode"),
    "npy header without end": (lambda: npz(a=b"\x93NUMPY\x01\x00\xff\xff{'descr':"), "damaged npy header"),
    "npy header of expressions": (lambda: npz(a=npy("__import__('os')")), "npy header"),
    "oversized header": (lambda: struct.pack("<Q", 5 << 20) + b"{" + b" " * (5 << 20), "header larger"),
    "header of a terabyte": (lambda: struct.pack("<Q", 1 << 39) + b"{}", "header larger"),
    "header of lists": (lambda: header(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"), "damaged safetensors entry"),
    "header of equal names": (lambda: header(b"{" + equal_names() + b',"5":0}'), "two entries of one name"),
    "header of digits": (lambda: header({"a": entry(shape=(10**4000,))}, bytes(8)), "bytes that do not fit"),
    "overlap": (lambda: header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "b: a gap or an overlap"),
    "gap": (lambda: header({"a": entry(), "b": entry(offsets=(9, 17))}, bytes(17)), "b: a gap or an overlap"),
    "bytes behind": (lambda: header({"a": entry()}, bytes(9)), "bytes after the last tensor"),
    "nested prefixes": (lambda: header({"module." * 70 + "a": entry()}, bytes(8)), "names of no known layout"),
    "escape sequences": (lambda: header({"\x1b[2J\nstages.": entry()}, bytes(8)), r"names of no known layout|\\x1b\[2J\\n"),
    "many axes": (lambda: header({"a": entry(shape=(1,) * 300_000, offsets=(0, 4))}, bytes(4)), "bytes that do not fit"),
    "axes of many digits": (lambda: header({"a": entry(shape=(10**4200,) * 900)}, bytes(8)), "bytes that do not fit"),
    "msgpack of many axes": (lambda: packed({"a": ext([1] * 100_000, "float32", bytes(4))}), "array and its bytes differ"),
    "msgpack in pieces of many axes": (lambda: packed({"a": in_pieces(60_000)}), "damaged array"),
    "msgpack in msgpack": (in_each_other, "levels at most"),
    "msgpack of long paths": (lambda: packed({"a" * 1_000_000: {str(i): None for i in range(50_000)}}), "a longer path"),
    "msgpack with notes of its own": (lambda: packed({"params": {}, "scalablevit_ref": {"beside": 5}}), "no state dict"),
    "npz of many records": (lambda: npz(**{str(i): b"" for i in range(10_001)}), "more records than a checkpoint's"),
    "npz of many deflated": (lambda: deflated({f"{i}.npy": npy((2,)) for i in range(3000)}), "names of no known layout"),
    "npz that inflates altogether": (lambda: deflated({f"{i}.npy": bytes(1 << 20) for i in range(40)}), "npz that inflates more"),
    "npy of many axes": (lambda: npz(a=npy((1,) * 200, data=bytes(4))), "npy header and record differ"),
    "npy of Python 2": (lambda: npz(a=npy((12,)).replace(b"(12,)", b"(2L,)")), "names of no known layout"),
    "long name": (lambda: header({"\x01" * 600_000: entry()}, bytes(8)), "a longer name than any parameter's"),
    "settings beyond floats": (lambda: configured({"mlp_ratios": [10**400] * 4}), "config: not a configuration"),
    "widths beyond floats": (lambda: configured(FAR), "a parameter larger than any"),
    "deep network": (lambda: configured({"depths": [10**9] * 4}), "more blocks than there are arrays"),
    "many stages": (lambda: configured({"depths": [1] * 60_000} | {name: [1] * 60_000 for name in STAGES}), "more blocks"),
    "wide network": (lambda: configured({"embed_dims": [1 << 40] * 4}), "a parameter larger than any"),
    "wider network": (lambda: configured({"embed_dims": [1 << 62] * 4}), "a parameter larger than any"),
    "tar": (tar, "a tar archive"),
    "bare pickle": (lambda: pickle.dumps({"a": 1}, 4), KEY),
}  # fmt: skip

FAR = {"embed_dims": [10**300] * 4, "num_heads": [1] * 4, "depths": [1] * 4, "mlp_ratios": [1e300] * 4}

STAGES = ("embed_dims", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios", "window_sizes")


def configured(config: Any) -> bytes:
    names = [f"stages.0.{i}.x" for i in range(40)]
    entries = {name: entry(offsets=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    return header(entries | noted(json.dumps({"config": config})), bytes(8 * len(names)))

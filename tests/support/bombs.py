"""Files made to take time or memory: what they hold, and what is said of them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.bombs_pickle import KEY, PICKLE_BOMBS
from tests.support.bombs_pickle import text as ptext
from tests.support.bombs_torch import TORCH_BOMBS, deflated
from tests.support.flax_files import SOUND, ext, msgpack, packed
from tests.support.hostile import FOUR, archive, entry, header, noted, npy, npz, program, tensor


def doubled(start: bytes, join: bytes, depth: int = 60) -> bytes:
    """A value that holds the last one twice, `depth` deep: 2^depth leaves in a few bytes."""
    return start + b"q\x00" + b"".join(b"0h%c(h%ch%c%bq%c" % (i, i, i, join, i + 1) for i in range(depth))


def changed_directory(offset: int, value: bytes) -> bytes:
    """An npz whose directory says something else of its record (method at 10, sizes at 20 and 24)."""
    data = bytearray(npz(a=npy((2,))))
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + len(value)] = value
    return bytes(data)


def tar(size: int = 0) -> bytes:
    """The header of a member of that size, and no more if it has one."""
    info = tarfile.TarInfo("storages")
    info.size = size
    return info.tobuf()


def text(length: int) -> bytes:
    """An array that is one text."""
    return npy((), f"<U{length}", bytes(4 * length))


def colliding_keys() -> bytes:
    """A map of whole numbers, eight of each hash: as many as 64 bits allow."""
    keys = [start + k * (2**61 - 1) for start in range(12_400) for k in range(8)]
    return b"\xdf" + struct.pack(">I", len(keys)) + b"".join(struct.pack(">BQB", 0xCF, key, 0xC0) for key in keys)


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


NO_SETTINGS = "config: not a configuration"

TUPLES = b"Nq\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))

DEEP = b"]" * 90_000 + b"a" * 89_999


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = PICKLE_BOMBS | TORCH_BOMBS | {
    "tuples as a key": (lambda: archive(program(doubled(b")", b"t") + b"}h\x3cNs")), KEY),
    "tuples beside": (lambda: archive(program(doubled(b"N", b"t"))), "no state dict; .* found a tuple"),
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
    "nested prefixes": (lambda: header({"module." * 70 + "a": entry()}, bytes(8)), "no state dict.* found keys 'module"),
    "escape sequences": (lambda: header({"\x1b[2J\nstages.": entry()}, bytes(8)), r"names of no known layout|\\x1b\[2J\\n"),
    "many axes": (lambda: header({"a": entry(shape=(1,) * 300_000, offsets=(0, 4))}, bytes(4)), "bytes that do not fit"),
    "axes of many digits": (lambda: header({"a": entry(shape=(10**4200,) * 900)}, bytes(8)), "bytes that do not fit"),
    "msgpack of many axes": (lambda: packed({"a": ext([1] * 100_000, "float32", bytes(4))}), "array and its bytes differ"),
    "msgpack in pieces of many axes": (lambda: packed({"a": in_pieces(60_000)}), "damaged array"),
    "msgpack in msgpack": (in_each_other, "levels at most"),
    "msgpack of long paths": (lambda: packed({"a" * 1_000_000: {str(i): None for i in range(50_000)}}), "no state dict.*keys 'aa"),
    "msgpack with notes of its own": (lambda: packed({"params": {}, "scalablevit_ref": {"beside": 5}}), "no state dict"),
    "npz of many records": (lambda: npz(**{str(i): b"" for i in range(10_001)}), "more records than a checkpoint's"),
    "npz of many deflated": (lambda: deflated({f"{i}.npy": npy((2,)) for i in range(3000)}), "names of no known layout"),
    "npz that inflates altogether": (lambda: deflated({f"{i}.npy": bytes(1 << 20) for i in range(40)}), "npz that inflates more"),
    "npy of many axes": (lambda: npz(a=npy((1,) * 200, data=bytes(4))), "npy header and record differ"),
    "npy of Python 2": (lambda: npz(a=npy((12,)).replace(b"(12,)", b"(2L,)")), "names of no known layout"),
    "long name": (lambda: header({"\x01" * 600_000: entry()}, bytes(8)), r"no state dict.* found keys '\\x01"),
    "settings beyond floats": (lambda: configured({"mlp_ratios": [10**400] * 4}), "config: not a configuration"),
    "widths beyond floats": (lambda: configured(FAR), "embed_dims must be at most .* a number of 997 bits"),
    "deep network": (lambda: configured({"depths": [10**9] * 4}), "at most 10000 blocks together"),
    "lists that hold each other as a configuration": (lambda: noted_in_pickle("config", shared_lists(40)), NO_SETTINGS),
    "tuples as a configuration": (lambda: noted_in_pickle("config", TUPLES), NO_SETTINGS),
    "tuples as a setting": (lambda: noted_in_pickle("config", under("depths", TUPLES)), NO_SETTINGS),
    "a deep configuration": (lambda: noted_in_pickle("config", DEEP), NO_SETTINGS),
    "tuples as metadata": (lambda: noted_in_pickle("metadata", under("a", TUPLES)), "damaged metadata"),
    "deep metadata": (lambda: noted_in_pickle("metadata", under("a", DEEP)), "damaged metadata"),
    "tuples as notes": (lambda: noted_with(TUPLES), "damaged"),
    "a deep text as a configuration": (lambda: configured("[" * 100_000), NO_SETTINGS),
    "a text of deep settings": (lambda: configured('{"a":' * 100_000), NO_SETTINGS),
    "settings of many digits": (lambda: configured({"depths": [10**4000] * 4}), NO_SETTINGS),
    "settings that are no numbers": (lambda: configured({"norm_eps": float("nan")}), "config: not a configuration"),
    "negative depths": (lambda: configured({"depths": [-1] * 4}), "config: not a configuration"),
    "as many stages as arrays": (lambda: as_many_stages(10_000), "one entry a stage, at most 64"),
    "networks and averages": (lambda: networks_and_averages(), "more networks"),
    "names of many parts": (lambda: nameless(f"{i}" + ".a" * 60 for i in range(22_000)), "more parts of names"),
    "names of many empty parts": (lambda: nameless("." * 60 + f"{i}" for i in range(30_000)), "more parts of names"),
    "names of many words": (lambda: nameless(f"{i}" + "_a" * 240 for i in range(7_500)), "names of no known layout"),
    "arrays": (lambda: nameless(f"stages.0.{i}.attn.qkv.weight" for i in range(40_000)), "more arrays than"),
    "npz of long headers": (lambda: npz(**{str(i): records() for i in range(3_000)}), "longer headers than"),
    "msgpack of wide texts": (lambda: packed({str(i): "a" * 50_000 + chr(0x1F600) for i in range(1_500)}), "of all texts"),
    "many stages": (lambda: configured({"depths": [1] * 60_000} | {name: [1] * 60_000 for name in STAGES}), "at most 64"),
    "wide network": (lambda: configured({"embed_dims": [1 << 40] * 4}), "a parameter larger than any"),
    "wider network": (lambda: configured({"embed_dims": [1 << 62] * 4}), "more than an axis can have"),
    "tar": (tar, "a tar archive"),
    "tar of a huge member": (lambda: tar(1 << 32), "a tar archive"),
    "tar without end": (lambda: tar() * 5000, "a tar archive"),
    "gzip bomb": (lambda: gzip.compress(bytes(80 << 20)), "gzip-compressed"),
    "bzip2 bomb": (lambda: bz2.compress(bytes(20 << 20)), "bzip2-compressed"),
    "xz bomb": (lambda: lzma.compress(bytes(80 << 20)), "xz-compressed"),
    "xz of much memory": (lambda: lzma.compress(bytes(1000), preset=9), "xz-compressed"),
    "zip in zip": (lambda: deflated({"a.zip": deflated({"b.zip": bytes(50 << 20)})}), "neither torch.save's nor NumPy's"),
    "zip of many names": (lambda: deflated({f"{i}.pth": b"" for i in range(9_999)}), "9999 files that may be checkpoints"),
    "npy of no known numbers": (lambda: npz(a=npy((2,), "|V4")), "no state dict|no known layout"),
    "npy of wide elements": (lambda: npz(a=npy((1,), f"|V{1 << 30}")), "npy header and record differ"),
    "npy of bfloat16 that is too large": (lambda: npz(a=npy((1 << 40,), "|V2")), "npy header and record differ"),
    "npz of many texts": (lambda: deflated({f"{i}.npy": text(1 << 18) for i in range(60)}), "npz that inflates more"),
    "npz of stored texts": (lambda: npz(**{str(i): text(1 << 20) for i in range(12)}), "no state dict|no known layout"),
    "npy of a pickle": (lambda: b"\x93NUMPY\x01\x00" + npy((), "|O", pickle.dumps(1))[8:], "a pickle in a .npy"),
    "npy of a deep header": (lambda: npy("(" * 200), "damaged npy header"),
    "JSON in depth": (lambda: b"[" * 4_000_000, "begins as JSON does, but is none"),
    "JSON of a long text": (lambda: b'{"' + b"\x7f" * 4_000_000 + b'": 1}', "JSON that holds no weights"),
    "JSON of digits": (lambda: b"[" + b"9" * 4_000_000 + b"]", "begins as JSON does, but is none"),
    "text of one line": (lambda: b"a: " + b"\t " * 2_000_000, "a text"),
    "msgpack of whole-number keys": (lambda: b"\x81\xa1a" + colliding_keys(), "no state dict"),
    "msgpack of many scalars": (lambda: packed({"a": [msgpack.ExtType(3, SOUND.data)] * 60_000}), "200000 values"),
    "bare pickle": (lambda: pickle.dumps({"a": 1}, 4), "no state dict"),
}  # fmt: skip

FAR = {"embed_dims": [10**300] * 4, "num_heads": [1] * 4, "depths": [1] * 4, "mlp_ratios": [1e300] * 4}

STAGES = ("embed_dims", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios", "window_sizes")


WEIGHT = ptext("stages.0.0.attn.qkv.weight") + tensor(0, (4,), (1,))


def shared_lists(depth: int) -> bytes:
    """A list that holds the last one twice."""
    return b"]q\x00" + b"".join(b"0](h%ch%ceq%c" % (i, i, i + 1) for i in range(depth))


def noted_in_pickle(name: str, value: bytes) -> bytes:
    """A torch file with a weight and, in this package's notes, a value by its opcodes."""
    return noted_with(under(name, value))


def noted_with(notes: bytes) -> bytes:
    return archive(program(b"}" + WEIGHT + b"s" + ptext("scalablevit_ref") + notes + b"s"), FOUR)


def under(name: str, value: bytes) -> bytes:
    """A dict of one entry."""
    return b"}" + ptext(name) + value + b"s"


def nameless(names: Iterable[str]) -> bytes:
    """Empty arrays of these names."""
    return header({name: entry(shape=(0,), offsets=(0, 0)) for name in names})


def networks_and_averages() -> bytes:
    """One parameter of each of many networks, and of an average of each."""
    return nameless(f"{i // 2:x}{'.ema' * (i % 2)}.stages.0.0.attn.qkv.weight" for i in range(28_000))


def records() -> bytes:
    """An array of no records, each of 600 numbers."""
    return npy((0,), [(f"{i}", "<f4") for i in range(600)], b"")  # type: ignore[arg-type]


def as_many_stages(count: int) -> bytes:
    entries = {f"stages.{k}.0.attn.qkv.weight": entry(shape=(0,), offsets=(0, 0)) for k in range(2 * count + 2)}
    settings = dict.fromkeys(("embed_dims", "depths", *STAGES[1:]), [1] * count)
    return header(entries | noted(json.dumps({"config": settings | {"head": "none", "num_classes": 0}})))


def configured(config: Any) -> bytes:
    names = [f"stages.0.{i}.attn.qkv.weight" for i in range(40)]
    entries = {name: entry(offsets=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    return header(entries | noted(json.dumps({"config": config})), bytes(8 * len(names)))

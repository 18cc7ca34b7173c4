"""Every hostile or broken file of the suite that a reader of checkpoints meets, with what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.support.bombs import BOMBS
from tests.support.bombs_graphs import GRAPH_BOMBS
from tests.support.bombs_pickle import text
from tests.support.flax_files import SOUND, ext, msgpack, packed
from tests.support.hostile import FOUR, archive, entry, header, noted, npy, npz, op, plain, program, storage, tensor

NO_WEIGHTS = "no state dict|names of no known layout|not an array"
"""What is said where all there is are Opaques and plain values."""

NO_CHECKPOINTS: list[tuple[bytes, str]] = [
    (b"", "the file is empty"),
    (b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning", "an HTML page"),
    (b"\n <HTML><body>", "an HTML page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git-LFS pointer.*git lfs pull"),
    (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.", "no state dict"),
    (b"\x1f\x8b\x08\x00", "gzip"),
    (b"hello", "not a checkpoint but a text .* found 'hello'"),
    (b"\x00" * 64, "not a checkpoint"),
    (b"PK\x03\x04", "truncated or damaged zip"),
    (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "ends inside its header"),
    (b'\x02\x00\x00\x00\x00\x00\x00\x00{"', "damaged safetensors header"),
]

UINT8 = op("numpy dtype") + b"(" + text("u1") + b"\x89\x88tR"


def tensor_of(arguments: bytes) -> bytes:
    """A tensor of a storage, an offset, a shape and strides."""
    return op("torch._utils _rebuild_tensor_v2") + b"(" + arguments + b"\x89NtR"


def ndarray(shape: bytes, data: bytes) -> bytes:
    """An array of bytes, as NumPy pickles it."""
    return (
        op("numpy.core.multiarray _reconstruct")
        + b"("
        + op("numpy ndarray")
        + b"NNtR(K\x01"
        + shape
        + UINT8
        + b"\x89"
        + data
        + b"tb"
    )


PICKLES: list[tuple[bytes, str]] = [
    (op("torch._utils _rebuild_tensor_v2") + b"}b", "found torch._utils._rebuild_tensor_v2"),
    (op("torch._utils _rebuild_tensor_v2") + b"N}" + plain("__call__") + b"Ns\x86b", "found torch._utils._rebuild_tensor_v2"),
    (op("torch FloatStorage") + plain({"dtype": "bool"}) + b"b", "no state dict.*found torch.FloatStorage"),
    (op("torch FloatStorage") + b")R", "asks for torch.FloatStorage, and nothing was executed"),
    (storage() + plain({"dtype": 1}) + b"b", "no state dict.*found a storage of tensors"),
    (tensor(0, (4,), (1,)) + plain({"shape": (1 << 40,)}) + b"b", "sets the state of a tensor"),
    (op("argparse Namespace") + plain({"model": 1}) + b"b", "no state dict.*found argparse.Namespace"),
    (op("argparse Namespace") + b")\x81" + plain({"__class__": 1}) + b"b", "no state dict"),
    (op("argparse Namespace") + b")\x81" + plain({1: 1}) + b"b", "no state dict"),
    (op("argparse Namespace") + b")\x81N}" + plain("__class__") + b"Ns\x86b", "no state dict"),
    (op("argparse Namespace") + plain((1,)) + b"\x81", "no state dict"),
    (op("collections OrderedDict") + plain(([1, 2],)) + b"R", "a dict made of something other than pairs"),
    (op("collections OrderedDict") + plain((1, 2)) + b"R", "damaged pickle"),
    (op("collections OrderedDict") + b")RNb", "no state dict"),
    (op("collections OrderedDict") + b")\x81", "no state dict"),
    (op("torch Size") + plain((["a"],)) + b"R", "Size of something other"),
    (op("torch device") + plain(([],)) + b"R", "odd arguments to torch.device"),
    (op("torch float32") + b")R", "damaged pickle"),
    (op("torch._utils _rebuild_parameter") + plain((1, 2, 3)) + b"R", "odd arguments to torch._utils._rebuild_parameter"),
    (
        op("torch._utils _rebuild_tensor_v2") + plain((1, 0, (4,), (1,), 0, None)) + b"R",
        "odd arguments to torch._utils._rebuild_tensor",
    ),
    (op("torch._utils _rebuild_tensor_v2") + b")R", "odd arguments to torch._utils._rebuild_tensor"),
    (tensor(0, (4,), (1,), more=plain({"neg": True})), "no state dict"),
    (tensor(0, [4], (1,)), "odd arguments"),
    (tensor(0, (5,), (1,)), "beyond its storage; expected at most 4 elements, found 5"),
    (tensor(1, (4,), (1,)), "beyond its storage"),
    (tensor(0, (2, 2), (3, 1)), "beyond its storage"),
    (tensor(-1, (1,), (1,)), "impossible tensor"),
    (tensor(3, (4,), (-1,)), "impossible tensor"),
    (tensor(0, (-4,), (1,)), "impossible tensor"),
    (tensor(0, (True,), (1,)), "impossible tensor"),
    (tensor(0, (4, 1), (1,)), "impossible tensor"),
    (tensor(0, (1,) * 65, (0,) * 65), "impossible tensor"),
    (tensor(0, (1 << 40,), (0,)), "larger than the file"),
    (tensor(0, (1 << 20, 1 << 20), (0, 0)), "larger than the file"),
    (tensor(0, (4,), (1,), of=storage(key="1")), r"archive/data/1: no zip record"),
    (tensor(0, (4,), (1,), of=storage(key="../data.pkl")), "no zip record"),
    (tensor(0, (4,), (1,), of=storage(elements=5)), "differ in size; expected 20, found 16"),
    (tensor(0, (4,), (1,), of=storage(elements=-4)), "odd storage"),
    (tensor(0, (4,), (1,), of=storage("UntypedStorage")), "differ in size; expected 4, found 16"),
    (plain(("storage", 1, "0", "cpu", 4)) + b"Q", "odd persistent id"),
    (plain("x") + b"Q", "odd persistent id"),
    (plain(("module", 1, "a", "b")) + b"Q", "odd persistent id"),
    (op("os system") + plain(("x",)) + b"RQ", "odd persistent id"),
    (op("os system") + b"Q", "odd persistent id"),
    (storage()[:-2].replace(b"torch\nFloatStorage", b"os\nsystem") + b"tQ", "odd persistent id.*found os.system"),
    (storage()[:-2].replace(b"torch\nFloatStorage", b"torch\nFloatTensor") + b"tQ", "odd persistent id.*found torch.FloatTensor"),
    (b"(" + plain("storage") + op("torch FloatStorage") + op("os system") + plain("cpu") + plain(4) + b"tQ", "odd storage"),
    (plain(("module", 1, "a", "b")) + b"Q", "odd persistent id"),
    (storage()[:-2] + op("os system") + b"tQ", "odd storage"),
    (tensor_of(storage() + op("os system") + b"K\x01\x85K\x01\x85"), "impossible tensor.*<os.system>"),
    (tensor_of(storage() + b"K\x00" + op("os system") + b"\x85K\x01\x85"), "impossible tensor"),
    (tensor_of(storage() + b"K\x00K\x01\x85" + op("os system") + b"\x85"), "impossible tensor"),
    (tensor(0, (4,), (1,)) + b"NNs", "sets an item of a tensor"),
    (tensor(0, (4,), (1,)) + b"Na", "appends to a tensor"),
    (tensor(0, (4,), (1,)) + b"(N\x90", "adds to a tensor"),
    (tensor(0, (4,), (1,)) + b")R", "calls a tensor"),
    (plain("os") + b")R", "calls text"),
    (op("os system") + b"NR", "calls os.system with None"),
    (b"K\x01Nb", "sets the state of a whole number"),
    (b"](NN\x90", "adds to a list"),
    (b"}(Nu", "sets an item of a dict"),
    (b"K\x01" + plain("x") + b"\x93", "a name that is no text"),
    (op("torch._utils _rebuild_tensor_v3") + b")R", "odd arguments to torch._utils._rebuild_tensor_v3"),
    (
        op("torch._tensor _rebuild_from_type_v2") + plain((1, 2, 3, 4)) + b"R",
        "odd arguments to torch._tensor._rebuild_from_type_v2",
    ),
    (ndarray(plain((2,)), b"C\x01x"), "NumPy array and its bytes differ; expected 2 bytes, found 1"),
    (ndarray(plain((1 << 62, 4)), b"C\x01x"), "NumPy array and its bytes differ"),
    (ndarray(plain((1 << 62, 0)), b"C\x00"), "NumPy arrays that are together larger"),
    (ndarray(plain((-1,)), b"C\x01x"), "the shape of a NumPy array"),
    (ndarray(op("os system") + b"\x85", b"C\x01x"), "the shape of a NumPy array"),
    (ndarray(plain((1,) * 65), b"C\x01x"), "the shape of a NumPy array"),
    (op("numpy.core.multiarray _reconstruct") + b")RNb", "the state of a NumPy array"),
    (op("numpy.core.multiarray scalar") + b"(" + UINT8 + b"C\x02xytR", "NumPy scalar and its bytes differ"),
    (b"(ios\nsystem\n", "asks for os.system, and nothing was executed"),
    (b"\x82\x01", "opcode 0x82; nothing was executed"),
    (b"I1\n", "no state dict"),
    (b"\x80\x09", "unknown protocol; expected at most 5, found 9"),
    (b"I" + b"1" * 5000 + b"\n", "a line without end"),
    (b"I" + b"1" * 4290 + b"x\n", "damaged pickle"),
    (b"Vabc", "a line without end|ends inside"),
    (b"Sabc\n", "text without quotes"),
    (b"S'\\x'\n", "damaged pickle"),
    (b"Pos\n", "opcode 0x50; nothing was executed"),
    (b"\x97", "opcode 0x97; nothing was executed"),
    (b"\x8b\xff\xff\xff\xff", "a negative length"),
    (b"\x8e" + b"\xff" * 8, "ends inside a pickle"),
    (b"\x96" + b"\x00" * 6 + b"\x01\x00", "ends inside a pickle"),
    (b"\x8d" + b"\xff" * 7 + b"\x7f", "ends inside a pickle"),
    (b"B" + b"\xff" * 4, "ends inside a pickle"),
    (op("a" * 301 + " b"), "a longer name than any"),
    (plain("a" * 4000) + b"q\x01h\x01\x93", "a longer name than any"),
    (b"Nr\xff\xff\xff\x7f", "no state dict"),
    (b"X\xff\xff\xff\x7fab", "damaged pickle|ends inside a pickle"),
    (b"h\x09", "damaged pickle"),
    (b"R", "damaged pickle"),
    (b"a", "damaged pickle"),
    (b"\xfa", "damaged pickle"),
    (b"", "damaged pickle"),
]

QKV = "stages.0.0.attn.qkv.weight"

SAFETENSORS: list[tuple[bytes, str]] = [
    (header({"a": entry()}, bytes(7)), "ends before its last tensor.* expected 77 bytes, found 76"),
    (header({"a": entry(offsets=(0, 4))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(offsets=(-8, 0))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(shape=(-2,), offsets=(8, 0))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(shape=(2.0,))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(shape=(1 << 40,), offsets=(0, 4 << 40))}, bytes(8)), "ends before its last tensor"),
    (header({"a": entry(dtype="F8_E4M3")}, bytes(8)), "a: bytes that do not fit .*of float8_e4m3fn"),
    (header({"a": entry(dtype=[])}, bytes(8)), "a: "),
    (header({"a": 1}), "a: damaged safetensors entry"),
    (header({"a": entry(offsets=3)}), "a: damaged safetensors entry"),
    (header(b'{"a": 1, "a": 2}'), "a: two entries of one name"),
    (header(b"{" * 100_000), "damaged safetensors header"),
    (header(b'{"a":' * 100_000), "damaged safetensors header"),
    (header({QKV: entry(), **noted("{")}, bytes(8)), "damaged scalablevit_ref"),
    (header({QKV: entry(), **noted('{"metadata": 1}')}, bytes(8)), "metadata: damaged metadata"),
    (header({QKV: entry(), **noted("[" * 100_000)}, bytes(8)), "damaged scalablevit_ref"),
    (header({QKV: entry(), **noted('{"version": 2}')}, bytes(8)), "a later version of this package"),
    (
        header({"norm.weight": entry(), QKV: entry(offsets=(8, 16)), **noted('{"config": "{}}"}')}, bytes(16)),
        "config: not a configuration",
    ),
    (header({QKV: entry(), **noted('{"config": {"depth": 3}}')}, bytes(8)), "config: not a configuration"),
    (header({}), "no state dict"),
]

NPZ: list[tuple[bytes, str]] = [
    (npz(a=npy((1 << 34,))), r"a\.npy: npy header and record differ; expected 8 bytes"),
    (npz(a=npy((3,))), "npy header and record differ"),
    (npz(a=npy((-2,))), "npy header"),
    (npz(a=npy((1,), "|O")), NO_WEIGHTS),
    (npz(a=b"\x93NUMPY\x09\x00"), "damaged npy header"),
    (npz(a=b"hello world"), "damaged npy header"),
    (npz(a=npy("(" * 200)), "damaged npy header"),
]

KERNEL = {"stages": {"0": {"0": {"attn": {"qkv": {"kernel": SOUND}}}}}}

MSGPACK: list[tuple[bytes, str]] = [
    (packed({"a": ext([2], "float32", bytes(7))}), "array and its bytes differ"),
    (packed({"a": ext([1 << 40], "float32", bytes(8))}), "array and its bytes differ"),
    (packed({"a": ext([1 << 62, 4], "float32", b"")}), "array and its bytes differ"),
    (packed({"a": ext([1 << 62, 0], "float32", b"")}), "larger than the file"),
    (packed({"a": ext([-2], "float32", bytes(8))}), "array and its bytes differ"),
    (packed({"a": ext([2.0], "float32", bytes(8))}), "array and its bytes differ"),
    (packed({"a": ext([2], "object", bytes(8))}), NO_WEIGHTS),
    (packed({"a": ext([2], "(,f4", bytes(8))}), NO_WEIGHTS),
    (packed({"a": ext([2], ["float32"], bytes(8))}), "damaged array"),
    (packed({"a": ext([2], "float32")}), "damaged array"),
    (packed({"a": msgpack.ExtType(1, b"")}), "ends inside its msgpack"),
    (packed({"a": msgpack.ExtType(2, b"\x92\x00\x00")}), NO_WEIGHTS),
    (packed({"a": {"__msgpack_chunked_array__": True}}), "damaged array"),
    (packed({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 5}, "chunks": {"0": SOUND}}}), "damaged array"),
    (packed({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"1": SOUND}}}), "damaged array"),
    (b"\x81\xa1a" * 40 + b"\xc0", "levels at most"),
    (b"\x81\xa1a" + b"\x91" * 50_000, "levels at most"),
    (b"\x82\xa1a\xc0\xa1a\xc0", "two entries of one name"),
    (packed({"stages.0.0.attn.qkv.kernel": SOUND} | KERNEL), "two arrays of one path"),
    (b"\x81\xa1a\xdd\xff\xff\xff\xff", "ends inside its msgpack"),
    (b"\x81\xa1a\xdf\xff\xff\xff\xff", "ends inside its msgpack"),
    (b"\x81\xa1a\xc6\xff\xff\xff\xff", "ends inside its msgpack"),
    (b"\x81\xa1a\xdd\xff\xff\xff\xff" + bytes(300_000), "200000 values"),
    (b"\x81\xa1a\xc1", "damaged msgpack; found byte 0xc1"),
    (b"\x81\xa1\xff\xc0", "damaged msgpack"),
    (b"\x82\xa1a\xc0\x01\xc0", NO_WEIGHTS),
    (packed({"a": SOUND}) + b"!", "bytes after the msgpack's end"),
    (packed({"a": SOUND})[:-1], "ends inside its msgpack"),
    (packed({"a": 1}), "no state dict"),
    (packed(KERNEL), "the shapes fit no variant"),
    (packed({"params": {"stages": 3}}), "no state dict"),
    (packed({"scalablevit_ref": {"config": 3}, "params": KERNEL}), "config: not a configuration"),
]


HOSTILE_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    **BOMBS,
    **GRAPH_BOMBS,
    **{f"pickle {i}": (partial(archive, program(body), FOUR), message) for i, (body, message) in enumerate(PICKLES)},
    **{
        f"{kind} {i}": (partial(bytes, content), message)
        for kind, few in (("safetensors", SAFETENSORS), ("npz", NPZ), ("msgpack", MSGPACK), ("no checkpoint", NO_CHECKPOINTS))
        for i, (content, message) in enumerate(few)
    },
}
"""Every case of a hostile or broken file in the suite that is one file's bytes: what makes them, and what is said of it."""

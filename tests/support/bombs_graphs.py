"""Hostile files of the formats that are graphs: HDF5 and ONNX, by hand, since their libraries would not write them."""

from __future__ import annotations

import struct
from collections.abc import Callable

Message = tuple[int, bytes]

_FLOAT = b"\x11\x20\x1f\x00" + struct.pack("<IHHBBBBI", 4, 0, 32, 23, 8, 0, 23, 127)

NETWORK = "a network's"

NO_PARAMETERS = "an ONNX file without the official parameters"


def hdf5(*objects: list[Message], tail: bytes = b"") -> bytes:
    """Superblock of version 2, then objects; the first is the root. `place` tells where they lie."""
    blocks = []
    for messages in objects:
        body = b"".join(struct.pack("<BHB", kind, len(content), 0) + content for kind, content in messages)
        blocks.append((b"OHDR\x02\x02" + struct.pack("<I", len(body)) + body).ljust(SIZE, b"\0"))
    start = b"\x89HDF\r\n\x1a\n\x02\x08\x08\x00" + struct.pack("<4Q", 0, 2**64 - 1, 2**40, 48) + bytes(4)
    return start + b"".join(blocks) + tail


SIZE = 512
"""Bytes of each object."""


def place(i: int) -> int:
    """The address of an object, and of what follows the last."""
    return 48 + SIZE * i


def link(name: str, address: int) -> Message:
    return 6, b"\x01\x00" + bytes([len(name)]) + name.encode() + struct.pack("<Q", address)


def array(shape: tuple[int, ...], address: int = 0, size: int | None = None, layout: bytes | None = None) -> list[Message]:
    """A data set of float32; its size as it should be unless it is told."""
    length = 4
    for n in shape:
        length *= n
    whole = struct.pack("<QQ", address, (length if size is None else size) % 2**64)
    space = b"\x02" + bytes([len(shape)]) + b"\x00\x01" + struct.pack(f"<{len(shape)}Q", *shape)
    return [(1, space), (3, _FLOAT), (8, b"\x03\x01" + whole if layout is None else layout)]


def chunks(shape: tuple[int, ...], sides: tuple[int, ...], tree: int) -> list[Message]:
    layout = b"\x03\x02" + bytes([len(sides) + 1]) + struct.pack(f"<Q{len(sides) + 1}I", tree, *sides, 4)
    return [*array(shape, layout=layout), (11, b"\x02\x01\x01\x00\x00\x00\x00\x00")]


def tree(kind: int, level: int, children: list[tuple[bytes, int]]) -> bytes:
    body = b"".join(key + struct.pack("<Q", child) for key, child in children)
    return struct.pack("<4sBBHQQ", b"TREE", kind, level, len(children), 2**64 - 1, 2**64 - 1) + body


def table(address: int) -> list[Message]:
    return [(17, struct.pack("<QQ", address, address))]


def attribute(content: bytes, kind: bytes = b"\x13\x00\x00\x00\x04\x00\x00\x00") -> Message:
    space = b"\x02\x00\x00\x00"
    return 12, b"\x03\x00" + struct.pack("<3H", 2, len(kind), len(space)) + b"\x00a\x00" + kind + space + content


VARIABLE = b"\x19\x01\x00\x00" + struct.pack("<I", 16) + b"\x13\x00\x00\x00\x01\x00\x00\x00"


def field(number: int, content: bytes | int) -> bytes:
    """A field of a protobuf message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def onnx(*graph: bytes) -> bytes:
    return field(1, 10) + field(7, b"".join(graph))


def initialiser(name: str, *fields: bytes) -> bytes:
    return field(5, b"".join(fields) + field(2, 1) + field(8, name.encode()))


def node(operation: str, inputs: tuple[str, ...], output: str, *more: bytes) -> bytes:
    texts = [field(1, text.encode()) for text in inputs] + [field(2, output.encode()), field(4, operation.encode())]
    return field(1, b"".join([*texts, *more]))


def beside(location: str) -> bytes:
    """A weight whose bytes are said to lie in a file of this name."""
    return onnx(initialiser("a.b", field(1, 4), field(13, field(1, b"location") + field(2, location.encode()))))


CHUNK = struct.pack("<II2Q", 8, 0, 0, 0)
FOUR = bytes(16)

GRAPH_BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "HDF5 of nothing": (lambda: hdf5([]), "no state dict|names of no known layout"),
    "HDF5 of its signature": (lambda: b"\x89HDF\r\n\x1a\n", "a damaged HDF5 file"),
    "HDF5 of a later version": (lambda: b"\x89HDF\r\n\x1a\n\x09" + bytes(99), "a damaged HDF5 file"),
    "HDF5 of short addresses": (lambda: b"\x89HDF\r\n\x1a\n\x02\x04\x04" + bytes(99), "in a form that Keras does not write"),
    "HDF5 root that is an array": (lambda: hdf5(array((2,), 0)), "a root that is no group"),
    "HDF5 group in itself": (lambda: hdf5([link("a", place(1))], [link("b", place(0))]), "a/b: an HDF5 group within itself"),
    "HDF5 of 2^40 paths": (lambda: hdf5(*([link("l", place(i + 1)), link("r", place(i + 1))] for i in range(40)), []), NETWORK),
    "HDF5 of many levels": (lambda: hdf5(*([link("a", place(i + 1))] for i in range(80)), []), "more levels than a network's"),
    "HDF5 of two equal links": (lambda: hdf5([link("a", place(1)), link("a", place(1))], []), "two HDF5 links of one name"),
    "HDF5 soft link": (lambda: hdf5([(6, b"\x01\x08\x01\x01a\x04\x00/etc")]), "a link of HDF5 that is not followed"),
    "HDF5 external link": (lambda: hdf5([(6, b"\x01\x08\x40\x01a\x04\x00/etc")]), "a link of HDF5 that is not followed"),
    "HDF5 group of an index without bytes": (lambda: hdf5([(2, b"\0")]), "a message of too few bytes"),
    "HDF5 link beyond the file": (lambda: hdf5([link("a", 2**63)]), "a damaged HDF5 file"),
    "HDF5 array of 2^60": (lambda: hdf5([link("a", place(1))], array((1 << 60,))), "a: bytes that do not fit"),
    "HDF5 array of 2^60 without bytes": (lambda: hdf5([link("a", place(1))], array((1 << 60,), 0, 16)), "a: bytes that do not fit"),
    "HDF5 array elsewhere": (lambda: hdf5([link("a", place(1))], [*array((2,)), (7, bytes(16))]), "lies in other files"),
    "HDF5 array of 65 axes": (lambda: hdf5([link("a", place(1))], array((1,) * 58 + (2**62,) * 2)), "bytes that do not fit"),
    "HDF5 virtual array": (lambda: hdf5([link("a", place(1))], array((2,), layout=b"\x04\x03" + bytes(16))), "in a form that"),
    "HDF5 array of no form": (lambda: hdf5([link("a", place(1))], array((2,), layout=b"\x03")), "too few bytes"),
    "HDF5 chunks of 2^60": (lambda: hdf5([link("a", place(1))], chunks((1 << 60,), (1,), 0)), "more parts than a network's"),
    "HDF5 chunk of 16 GB": (
        lambda: hdf5([link("a", place(1))], chunks((4,), (2**32 - 1,), place(2)), tail=tree(1, 0, [(CHUNK, 0)])),
        "inflates more than weights can",
    ),
    "HDF5 chunk that is not there": (
        lambda: hdf5([link("a", place(1))], chunks((4,), (4,), place(2)), tail=tree(1, 0, [])),
        "without all of its chunks",
    ),
    "HDF5 chunks in a circle": (
        lambda: hdf5([link("a", place(1))], chunks((4,), (4,), place(2)), tail=tree(1, 1, [(CHUNK, place(2))] * 99)),
        "a tree that is none",
    ),
    "HDF5 chunk that is not deflated": (
        lambda: hdf5([link("stages.0", place(1))], chunks((4,), (4,), place(2)), tail=tree(1, 0, [(CHUNK, 0)])),
        "names of no known layout|no state dict",
    ),
    "HDF5 table that is none": (lambda: hdf5(table(place(1)), tail=FOUR * 9), "a group without names"),
    "HDF5 heap of names beyond the file": (
        lambda: hdf5(table(place(1)), tail=b"HEAP" + bytes(4) + struct.pack("<3Q", 2**62, 0, 0)),
        "a damaged HDF5 file",
    ),
    "HDF5 continuation of itself": (
        lambda: hdf5([(16, struct.pack("<QQ", 58, 20))] * 3),
        "a continuation that is none|more structures|more parts",
    ),
    "HDF5 text beyond its heap": (
        lambda: hdf5([attribute(struct.pack("<IQI", 2**31, place(1), 1), VARIABLE)], tail=b"GCOL" + bytes(4) + FOUR),
        "a damaged HDF5 file",
    ),
    "HDF5 heap of 2^60 bytes": (
        lambda: hdf5([attribute(struct.pack("<IQI", 9, place(1), 1), VARIABLE)], tail=b"GCOL\0\0\0\0" + struct.pack("<Q", 2**60)),
        "a heap that is none",
    ),
    "ONNX without weights": (lambda: onnx(node("Identity", ("a",), "b")), NO_PARAMETERS),
    "ONNX cut off": (lambda: onnx(initialiser("a.b", field(1, 4), field(9, FOUR)))[:-9], "damaged"),
    "ONNX of 2^60 numbers": (lambda: onnx(initialiser("a.b", field(1, 1 << 60), field(9, FOUR))), "a.b: bytes that do not fit"),
    "ONNX of 10^5 axes": (lambda: onnx(initialiser("a.b", *[field(1, 1)] * 100_000, field(9, FOUR))), "more axes than"),
    "ONNX of many nodes": (lambda: onnx(b"\x0a\x00" * 600_000), "more fields and numbers than"),
    "ONNX of long texts": (
        lambda: onnx(*[node("MatMul", ("a" * 1_000_000, "b"), "c")] * 40),
        "more text than a network's ONNX file has",
    ),
    "ONNX external data": (
        lambda: onnx(initialiser("a.b", field(1, 4), field(13, field(1, b"location") + field(2, b"/etc/passwd")))),
        "a.b: external data; expected a file in the model's folder",
    ),
    "ONNX weights that none tells apart": (
        lambda: onnx(
            *(initialiser(name, field(1, 2), field(1, 2), field(9, FOUR)) for name in "ab"),
            *(node("MatMul", ("x", name), "y", field(3, b"/fc/MatMul")) for name in "ab"),
        ),
        "fc.weight: two constants that the graph does not tell apart",
    ),
    "ONNX node of a long name": (
        lambda: onnx(node("MatMul", ("x", "w"), "y", field(3, b"/a" * 400_000))),
        NO_PARAMETERS,
    ),
    "ONNX external data of a long name": (lambda: beside("a" * 5000), "a.b: external data; expected a file in the model's folder"),
    "ONNX external data of no name": (lambda: beside("\0"), "a.b: external data; expected a file in the model's folder"),
    "ONNX external data of a name for no file": (lambda: beside("a" * 400), "a.b: external data that cannot be opened"),
    "ONNX identities in a circle": (
        lambda: onnx(*(node("Identity", (a,), b) for a, b in ("ab", "ba", "aa"))),
        NO_PARAMETERS,
    ),
    "ONNX one constant at many places": (
        lambda: onnx(
            initialiser("w", field(1, 2), field(1, 2), field(9, FOUR)),
            *(node("MatMul", ("x", "w"), "y", field(3, f"/m{i}/MatMul".encode())) for i in range(20_000)),
        ),
        "names of no known layout|no state dict|larger than",
    ),
}  # fmt: skip

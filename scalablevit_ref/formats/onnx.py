"""The parameters in an ONNX file, without onnx: a reader that trusts nothing, for files from anywhere.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import LONGEST_NAME, MOST_AXES, Extent, StoredTensor, numpy_dtype, row_major
from scalablevit_ref.formats.source import SourceFile

MOST_BYTES = 1 << 31
"""Largest ONNX file that is read, in bytes. It is one protobuf message; weights in files beside it are not counted."""

MOST_FIELDS = 1 << 20
"""Most fields and numbers that are read of a file."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""Note of torch's newer exporter on a node: the modules' paths from the outermost to the innermost, then the node's own name."""

_LONGEST_TEXT = 1 << 20
"""Longest text that is read, in bytes."""

_MOST_TEXT = 32 << 20
"""Bytes of all texts that are read together."""

_LONGEST_NODE = 8 * LONGEST_NAME
"""Longest name of a node in which a module's path is looked for, in characters; it holds the path of each module around it."""

_MOST_FILES = 500
"""Most files beside an ONNX file that hold its weights, each as often as it is named otherwise; all are open at once."""

_DTYPES = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}

_OTHERS = {3: "segments", 5: "int32_data", 6: "strings", 7: "int64_data", 11: "uint64_data"}
"""Fields of a tensor that weights are not in."""

_HEAD = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2}
"""Fields of a model that come before its graph, and their kinds: version, texts and a number."""

_GRAPH_STARTS = b"\x0a\x12\x2a\x52\x5a\x62\x6a\x72\x7a\x82"
"""First bytes of a graph: the keys of its fields."""

_PARAMETERS = {
    "Conv": {1: "weight", 2: "bias"},
    "Gemm": {1: "weight", 2: "bias"},
    "LayerNormalization": {1: "weight", 2: "bias"},
    "MatMul": {1: "weight"},
    "Add": {0: "bias", 1: "bias"},
}
"""What a constant is that an operation takes as its n-th input."""

_READ = (*_PARAMETERS, "Identity", "Constant")
"""Operations that are looked at."""


def starts_onnx(head: bytes) -> bool:
    """Whether these first bytes are a model's: a small version, then texts, then a graph. protobuf has no magic number."""
    at = 0
    while at + 1 < len(head):
        number, kind = head[at] >> 3, head[at] & 7
        length, start = _small_varint(head, at + 1)
        if number == 7 and kind == 2:
            return at > 0 and (start >= len(head) or head[start] in _GRAPH_STARTS)
        if _HEAD.get(number) != kind or (at == 0) != (number == 1) or length < 0 or (number == 1 and not 1 <= length <= 99):
            return False
        at = start if kind == 0 else start + length
        if kind == 2 and not _is_text(head[start:at]):
            return False
    return at > 2


def _small_varint(head: bytes, at: int) -> tuple[int, int]:
    """A number of at most 5 bytes, −1 if there is none; and where it ends."""
    found = re.compile(rb"[\x80-\xff]{0,4}[\x00-\x7f]").match(head, at)
    value = sum((byte & 127) << 7 * i for i, byte in enumerate(found[0])) if found else -1
    return value, found.end() if found else at


def _is_text(part: bytes) -> bool:
    text = part.decode(errors="ignore")  # the head may cut a letter in two
    return len(text.encode()) > len(part) - 4 and all(letter.isprintable() or letter.isspace() for letter in text)


def read_onnx(path: Path, files: ExitStack) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The parameters by the names of their modules, still in the file, and the metadata.

    Initialisers have a parameter's name if there is a dot in it. torch's exporters fold the transposition of a Linear's weight into
    it, and name it anew (`onnx::MatMul_123`, `val_12`), and merge equal tensors: these get their names back from the bias that is
    added to the product, or from the path of the module that a node notes; and a weight that a product takes as it is stored is
    turned back to (out, in).

    Parameters
    ----------
    path
        Of the file. Weights may lie in other files of its folder.
    files
        Keeps these files open.

    Raises
    ------
    CheckpointError
        For damage, and for two weights that the graph does not tell apart.
    """
    return Reader(path, files).parameters()


def module_path(node: str, scopes: str | None) -> str:
    """The path of the module that made a node, by the newer exporter's note or by the older one's name of the node; else empty."""
    if scopes is not None:
        paths: list[str] = re.findall(r"'([^']*)'", scopes)[:-1]
        return paths[-1] if paths else ""
    if not node.startswith("/") or len(node) > _LONGEST_NODE:
        return ""
    path = part = ""
    for name in node.split("/")[1:-1]:  # the older exporter's: a child of a list or a Sequential repeats its parent's name
        path = path.removesuffix(part) + name if part and name.startswith(f"{part}.") else f"{path}.{name}".removeprefix(".")
        part = name
    return path


@dataclass(frozen=True)
class _Tensor:
    """A tensor of floating point as the file states it, believed by nobody yet."""

    kind: int
    shape: tuple[int, ...]
    data: list[tuple[int, int]]
    elsewhere: dict[str, str]
    other: str | None


@dataclass
class _Node:
    operation: str = ""
    module: str = ""
    inputs: list[str] = field(default_factory=list)
    output: str = ""
    transposed: bool = False
    constant: _Tensor | None = None


@dataclass(frozen=True)
class _Use:
    """A constant where a node takes it: what it is there, of which module; `beside` is the other constant of the same module."""

    constant: str
    leaf: str
    module: str
    turned: bool
    beside: str | None


class Reader:
    """A walk through the protobuf message, past all but metadata, initialisers and nodes; tensors' bytes stay in the file."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self.folder, self.files, self.left, self.text_left = path.parent, files, MOST_FIELDS, _MOST_TEXT
        self.locations: dict[str, SourceFile] = {}
        self.paths: dict[Path, SourceFile] = {}
        self.file = files.enter_context(SourceFile(path))
        if self.file.size > MOST_BYTES:
            raise CheckpointError("larger than an ONNX file", expected=f"at most {MOST_BYTES} bytes", found=self.file.size)

    def parameters(self) -> tuple[dict[str, StoredTensor], dict[str, str]]:
        """The tensors of floating point that are parameters, by name, and the metadata."""
        tensors: dict[str, _Tensor] = {}
        nodes: list[_Node] = []
        notes: dict[str, str] = {}
        for number, begin, size in self.fields(0, self.file.size):
            if number == 14:  # ModelProto.metadata_props
                notes.update([self.pair(begin, size)])
            elif number == 7:  # ModelProto.graph
                for inner, start, length in self.fields(begin, size):
                    if inner == 1:  # GraphProto.node
                        nodes += self.node(start, length)
                    elif inner == 5 and (found := self.tensor(start, length)):  # GraphProto.initializer
                        if found[0] in tensors:
                            raise CheckpointError("two initialisers of one name", key=found[0])
                        tensors[found[0]] = found[1]
        named = _named(tensors, nodes)
        if not named:
            raise CheckpointError("an ONNX file without the official parameters", expected="initialisers such as norm.weight")
        stored = {name: self.stored(name, tensor) for name, (tensor, _) in named.items()}
        limit = self.file.size + sum(file.size for file in self.paths.values())
        return {
            name: StoredTensor(stored[name], numpy_dtype(_DTYPES[tensor.kind]), 0, *_laid_out(tensor.shape, turned), limit)
            for name, (tensor, turned) in named.items()
        }, notes

    def node(self, begin: int, size: int) -> list[_Node]:
        """A node, if it is one of those that tell something."""
        fields = list(self.fields(begin, size))
        operation = next((self.text(start, length, _LONGEST_TEXT) for number, start, length in fields if number == 4), "")
        if operation not in _READ:
            return []
        node, name, scopes = _Node(operation), "", None
        for number, start, length in fields:
            if number == 1 and len(node.inputs) < 3:
                node.inputs.append(self.text(start, length, _LONGEST_TEXT))
            elif number == 2 and not node.output:
                node.output = self.text(start, length, _LONGEST_TEXT)
            elif number == 3:
                name = self.text(start, length, _LONGEST_TEXT)
            elif number == 5 and operation in ("Gemm", "Constant"):
                self.attribute(node, start, length)
            elif number == 9:  # NodeProto.metadata_props
                scopes = self.pair_of(SCOPES, start, length) or scopes
        node.module = module_path(name, scopes)
        return [node]

    def attribute(self, node: _Node, begin: int, size: int) -> None:
        """Whether a Gemm takes its weight as (out, in), and a Constant's value."""
        fields = {number: (start, length) for number, start, length in self.fields(begin, size)}
        name = self.text(*fields[1], _LONGEST_TEXT) if 1 in fields else ""
        if name == "transB" and fields.get(3, (0, 0))[1] < 0:
            node.transposed = fields[3][0] != 0
        elif name == "value" and 5 in fields and node.operation == "Constant":
            found = self.tensor(*fields[5])
            node.constant = found and found[1]

    def tensor(self, begin: int, size: int) -> tuple[str, _Tensor] | None:
        """Name and statements of a tensor; None for one that is not of floating point."""
        name, kind, other = "", 0, None
        shape: list[int] = []
        data: list[tuple[int, int]] = []
        elsewhere: dict[str, str] = {}
        for number, start, length in self.fields(begin, size):
            if number == 1:  # dims, one at a time or packed
                shape += [start] if length < 0 else self.numbers(start, length)
            elif number == 2:
                kind = start
            elif number == 8:
                name = self.text(start, length, LONGEST_NAME)
            elif number in (4, 9, 10):  # float_data, raw_data, double_data: little-endian numbers
                data.append((start, length))
            elif number == 13:
                elsewhere.update([self.pair(start, length)])
            else:
                other = _OTHERS.get(number, other)
        return (name, _Tensor(kind, tuple(shape), data, elsewhere, other)) if kind in _DTYPES else None

    def stored(self, name: str, tensor: _Tensor) -> Extent:
        """Where the bytes of a tensor lie, which must be there."""
        if len(tensor.shape) > MOST_AXES:
            raise CheckpointError(
                "more axes than an array can have", key=name, expected=f"at most {MOST_AXES}", found=len(tensor.shape)
            )
        file, file_size, data = self.file, self.file.size, tensor.data
        needed = math.prod(tensor.shape) * numpy_dtype(_DTYPES[tensor.kind]).itemsize
        if tensor.elsewhere and not data:
            file = self.beside(name, tensor.elsewhere.get("location", ""))
            file_size = file.size
            try:
                data = [(int(tensor.elsewhere.get("offset", "0")), int(tensor.elsewhere.get("length", str(needed))))]
            except ValueError as error:
                raise CheckpointError("damaged external data", key=name, found=brief(tensor.elsewhere)) from error
        if len(data) != 1 or tensor.other:
            found = tensor.other or f"{len(data)} runs"
            raise CheckpointError("values in another form than one run of bytes", key=name, found=found)
        start, length = data[0]
        if length != needed or start < 0 or start + length > file_size:
            found = f"{brief(length)} bytes at {brief(start)} of {file_size}"
            raise CheckpointError("bytes that do not fit shape, dtype or file", key=name, expected=brief(needed), found=found)
        return Extent(file, start, length, name=name)

    def beside(self, name: str, location: str) -> SourceFile:
        """A file of external data: in the model's folder, also once links are followed."""
        if location in self.locations:
            return self.locations[location]
        if len(self.locations) == _MOST_FILES:
            raise CheckpointError("external data in more files than a network's", key=name, expected=f"at most {_MOST_FILES}")
        elsewhere = CheckpointError("external data", key=name, expected="a file in the model's folder", found=brief(location))
        if not location or "\0" in location or len(location) > LONGEST_NAME:
            raise elsewhere
        try:
            folder = self.folder.resolve()
            path = (folder / location).resolve()
            if not path.is_relative_to(folder) or not path.exists() or path == folder:
                raise elsewhere
            if path not in self.paths:
                self.paths[path] = self.files.enter_context(SourceFile(path))
        except PermissionError:
            raise
        except (OSError, RuntimeError) as error:  # links in a circle, a name that is too long, more open files than there may be
            raise CheckpointError(f"external data that cannot be opened ({error})", key=name, found=brief(location)) from error
        return self.locations.setdefault(location, self.paths[path])

    def pair(self, begin: int, size: int) -> tuple[str, str]:
        texts = {number: self.text(start, length, _LONGEST_TEXT) for number, start, length in self.fields(begin, size)}
        return texts.get(1, ""), texts.get(2, "")

    def pair_of(self, wanted: str, begin: int, size: int) -> str | None:
        """The text under this key; None for a pair with another key, whose text may be long and stays unread."""
        places = {number: (start, length) for number, start, length in self.fields(begin, size)}
        if not {1, 2} <= set(places) or places[1][1] != len(wanted) or self.text(*places[1], _LONGEST_TEXT) != wanted:
            return None
        return self.text(*places[2], _LONGEST_TEXT)

    def text(self, begin: int, size: int, longest: int) -> str:
        if not 0 <= size <= longest:
            raise CheckpointError("not an ONNX file: a text of impossible length", expected=f"at most {longest} bytes", found=size)
        self.text_left -= size
        if self.text_left < 0:
            raise CheckpointError("more text than a network's ONNX file has", expected=f"at most {_MOST_TEXT} bytes")
        self.file.seek(begin)
        return self.file.read(size).decode(errors="replace")

    def numbers(self, begin: int, size: int) -> list[int]:
        found, at = [], begin
        while at < begin + size:
            value, at = self.varint(at, begin + size)
            found.append(value)
        return found

    def fields(self, begin: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Number, start and length of each field of a message; of a plain number its value, and −1."""
        at, end = begin, begin + size
        if size < 0:
            raise _damaged(begin)
        while at < end:
            key, at = self.varint(at, end)
            value, length = at, {1: 8, 5: 4}.get(key & 7, -1)
            if key & 7 == 0:
                value, at = self.varint(at, end)
            elif key & 7 == 2:
                length, value = self.varint(at, end)
            if key & 7 not in (0, 1, 2, 5) or key < 8 or (length >= 0 and length > end - value):
                raise _damaged(at)
            yield key >> 3, value, length
            at = value + length if length >= 0 else at

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, and where it ends."""
        self.left -= 1
        if self.left < 0:
            raise CheckpointError("more fields and numbers than a network's ONNX file has", expected=f"at most {MOST_FIELDS}")
        self.file.seek(at)
        value = 0
        for i, byte in enumerate(self.file.read(min(10, end - at))):
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value, at + i + 1
        raise _damaged(at)


def _damaged(at: int) -> CheckpointError:
    return CheckpointError("not an ONNX file, or a damaged one", found=f"no protobuf field at byte {at}")


def _laid_out(shape: tuple[int, ...], turned: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of a tensor in the file, or of its transpose."""
    return (shape[::-1], row_major(shape)[::-1]) if turned else (shape, row_major(shape))


# The names of constants


def _named(tensors: Mapping[str, _Tensor], nodes: list[_Node]) -> dict[str, tuple[_Tensor, bool]]:
    """Parameters by name, in the order of the initialisers, each with whether it is to be turned.

    Raises CheckpointError where one name is told of two constants, and where one constant is a weight and its transpose.
    """
    constants = dict(tensors)
    for node in nodes:
        if node.constant and node.output and constants.setdefault(node.output, node.constant) is not node.constant:
            raise CheckpointError("two constants of one name", key=node.output)
    same = {name: name for name in constants}
    for node in nodes:
        if node.operation == "Identity" and node.inputs and node.inputs[0] in same and node.output:
            same.setdefault(node.output, same[node.inputs[0]])
    uses: dict[str, list[_Use]] = {}
    for use in _uses(constants, same, nodes):
        uses.setdefault(use.constant, []).append(use)
    turned = {name for name, found in uses.items() if any(use.turned for use in found)}
    names: dict[str, list[str]] = {name: [] for name in constants}
    for alias, name in same.items():
        if _is_spoken(alias):
            names[name].append(alias)
    for name, found in uses.items():
        told = list(dict.fromkeys(_told(use, uses) for use in found))
        if not names[name] or name in told:  # else the nodes' notes name modules in another way than the initialisers do
            names[name] += [other for other in told if other and (other not in same or not names[name])]
    owners: dict[str, str] = {}
    for constant, mine in names.items():
        for name in mine:
            if owners.setdefault(name, constant) != constant:
                found_names = f"{brief(owners[name])} and {brief(constant)}"
                raise CheckpointError("two constants that the graph does not tell apart", key=name, found=found_names)
    for name in turned:
        if names[name] and not all(use.turned for use in uses[name] if use.leaf == "weight"):
            raise CheckpointError("a constant that is one module's weight and the transpose of another's", key=names[name][0])
    return {
        name: (constants[constant], constant in turned and name.endswith(".weight"))
        for constant, mine in names.items()
        for name in mine
    }


def _is_spoken(name: str) -> bool:
    """Whether an exporter took this name from a module."""
    return "." in name and "::" not in name and not name.startswith("/")


def _uses(constants: Mapping[str, _Tensor], same: Mapping[str, str], nodes: list[_Node]) -> Iterator[_Use]:
    """Where nodes take constants as parameters."""
    added: dict[str, list[_Node]] = {}
    for node in nodes:
        for value in node.inputs if node.operation == "Add" else ():
            added.setdefault(value, []).append(node)

    def held(node: _Node, places: Mapping[int, str]) -> dict[str, str]:
        """The node's constants by what they are."""
        inputs = {role: same.get(node.inputs[place]) for place, role in places.items() if place < len(node.inputs)}
        return {role: name for role, name in inputs.items() if name is not None}

    for node in nodes:
        if node.operation in ("Add", "Identity", "Constant"):
            continue
        own = held(node, _PARAMETERS[node.operation])
        linear = node.operation in ("MatMul", "Gemm")
        if linear and len(constants[own["weight"]].shape if "weight" in own else ()) != 2:
            continue
        following = added.get(node.output, [])
        if node.operation == "MatMul" and len(following) == 1:
            biases = [same[value] for value in following[0].inputs if value in same and len(constants[same[value]].shape) == 1]
            own |= {"bias": biases[0]} if biases else {}
        for leaf, name in own.items():
            turned = linear and leaf == "weight" and not node.transposed
            yield _Use(name, leaf, node.module, turned, own.get({"weight": "bias", "bias": "weight"}[leaf]))


def _told(use: _Use, uses: Mapping[str, list[_Use]]) -> str:
    """The name of a constant by the other parameter of its module, if that serves no other, or by the node's module; else empty."""
    other = {"weight": ".bias", "bias": ".weight"}[use.leaf]
    if use.beside and _is_spoken(use.beside) and use.beside.endswith(other) and len(uses[use.beside]) == 1:
        return f"{use.beside.removesuffix(other)}.{use.leaf}"
    return f"{use.module}.{use.leaf}" if use.module else ""

"""A pickle read by a machine of this package's own, which can build plain values and name the rest.

A pickle is a program. Python's `pickle` runs it with the world at its disposal; here its opcodes move plain values about (texts,
numbers, tuples, lists, dicts), and whatever it asks for by name is an `Opaque`. Of these, `rebuild` knows the few that stand for
tensors and arrays. No opcode imports, calls, hashes, compares or iterates an object that a file describes.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import Extent
from scalablevit_ref.formats.opaque import Opaque, described
from scalablevit_ref.formats.rebuild import Global, Placeholder, Rebuilder, Span

MOST_BYTES = 8 << 20
"""Largest part of a pickle that is held in memory, in bytes; what arrays are made of is not."""

_LONGEST_LINE = 4300
"""Longest number or name that is written as a line of text, in characters: Python's own limit for numbers."""

_LONGEST_NUMBER = 255
"""Longest whole number, in bytes."""

_LONG_PAYLOAD = 1 << 10
"""Size of an array's bytes, in bytes, from which they stay in the file."""

_CHUNK = 1 << 14
"""Bytes read at a time."""

_NEWEST = 5
"""Newest protocol."""


def load_pickle(file: BinaryIO, rebuilder: Rebuilder, start: int, end: int) -> tuple[Any, int]:
    """What the pickle says that lies between two positions of a file, and where it ends.

    Raises CheckpointError for one that is damaged, or larger than a checkpoint's.
    """
    machine = _Machine(file, rebuilder, start, end)
    try:
        return machine.run(), machine.position()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged pickle makes of the stack and of a decoder
        raise CheckpointError(f"damaged pickle ({type(error).__name__}: {error})") from error


class _Machine:
    """The stack, the memo and the bytes of a pickle that is being read."""

    def __init__(self, file: BinaryIO, rebuilder: Rebuilder, start: int, end: int) -> None:
        self._file, self._rebuilder, self._first, self._end = file, rebuilder, start, end
        self._data, self._at, self._base = b"", 0, start
        self._left_in_file = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._handlers: list[Callable[[], None]] = [self._unknown] * 256
        for code, name in OPCODES.items():
            self._handlers[code[0]] = getattr(self, f"_{name}")

    def position(self) -> int:
        """Where in the file the next opcode lies."""
        return self._base + self._at

    def run(self) -> Any:
        """Read opcodes until one says stop; give what is on top of the stack."""
        handlers, left = self._handlers, self._rebuilder.left.opcodes
        try:
            while left:
                left -= 1
                at = self._at
                try:
                    code = self._data[at]
                except IndexError:
                    self._need(1)
                    at, code = self._at, self._data[self._at]
                self._at = at + 1
                if code == _STOP:
                    return self._stack.pop()
                handlers[code]()
        finally:
            self._rebuilder.left.opcodes = left
        raise CheckpointError("the pickle has more opcodes than a checkpoint's")

    def _need(self, size: int) -> None:
        """Have this many bytes at hand."""
        start = self.position()
        if size > self._end - start:
            raise CheckpointError("the file ends inside a pickle")
        if start + size - self._first - self._left_in_file > MOST_BYTES:
            raise CheckpointError("the pickle is larger than a checkpoint's", expected=f"at most {MOST_BYTES} bytes beside arrays")
        self._file.seek(start)
        self._data, self._at, self._base = self._file.read(min(max(size, _CHUNK), self._end - start)), 0, start
        if len(self._data) < size:
            raise CheckpointError("the file ends inside a pickle")

    def _take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            self._need(size)
        start = self._at
        self._at = start + size
        return self._data[start : self._at]

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _line(self, longest: int = _LONGEST_LINE) -> bytes:
        start, size = self.position(), 0
        room = min(longest, self._end - start, MOST_BYTES + self._first + self._left_in_file - start)
        while (end := self._data.find(b"\n", self._at, self._at + longest)) < 0:
            if size >= room:
                raise CheckpointError("damaged pickle: a line without end")
            size = min(room, max(_CHUNK, 4 * size))  # lines are short: no more is read than is needed
            self._need(size)
        return self._take(end + 1 - self._at)[:-1]

    def _span(self, size: int, encoding: str | None) -> Span:
        """Bytes that stay in the file."""
        start = self.position()
        if size > self._end - start:
            raise CheckpointError("the file ends inside a pickle")
        self._data, self._at, self._base = b"", 0, start + size
        self._left_in_file += size
        return Span(Extent(self._file, start, size, name="a pickled array"), encoding)

    def _marked(self) -> list[Any]:
        """What lies above the topmost mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._stack = self._below.pop()

    def _pop_mark(self) -> None:
        self._marked()

    def _dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _proto(self) -> None:
        if (protocol := self._take(1)[0]) > _NEWEST:
            raise CheckpointError("a pickle of an unknown protocol", expected=f"at most {_NEWEST}", found=protocol)

    def _frame(self) -> None:
        self._take(8)

    def _remember(self, key: int) -> None:
        value = self._stack[-1]
        if type(value) is Placeholder:
            value.memo_keys.append(key)
        self._memo[key] = value

    def _memoize(self) -> None:
        self._remember(len(self._memo))

    def _binput(self) -> None:
        self._remember(self._take(1)[0])

    def _long_binput(self) -> None:
        self._remember(self._number(_U4))

    def _put(self) -> None:
        self._remember(int(self._line()))

    def _binget(self) -> None:
        self._stack.append(self._memo[self._take(1)[0]])

    def _long_binget(self) -> None:
        self._stack.append(self._memo[self._number(_U4)])

    def _get(self) -> None:
        self._stack.append(self._memo[int(self._line())])

    def _none(self) -> None:
        self._stack.append(None)

    def _true(self) -> None:
        self._stack.append(True)

    def _false(self) -> None:
        self._stack.append(False)

    def _binint(self) -> None:
        self._stack.append(self._number(_I4))

    def _binint1(self) -> None:
        self._stack.append(self._take(1)[0])

    def _binint2(self) -> None:
        self._stack.append(self._number(_U2))

    def _binfloat(self) -> None:
        self._stack.append(self._number(_F8))

    def _long1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def _long4(self) -> None:
        data = self._take(self._size(_I4))
        long = len(data) > _LONGEST_NUMBER
        self._stack.append(Opaque("a long number") if long else int.from_bytes(data, "little", signed=True))

    def _int(self) -> None:
        line = self._line()
        self._stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def _long(self) -> None:
        self._stack.append(int(self._line().removesuffix(b"L")))

    def _float(self) -> None:
        self._stack.append(float(self._line()))

    def _string(self) -> None:
        line = self._line(MOST_BYTES)
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
            raise CheckpointError("damaged pickle: text without quotes")
        self._stack.append(_text(codecs.escape_decode(line[1:-1])[0]))

    def _unicode(self) -> None:
        self._stack.append(str(self._line(MOST_BYTES), "raw-unicode-escape"))

    def _size(self, form: struct.Struct) -> int:
        size: int = self._number(form)
        if size < 0:
            raise CheckpointError("damaged pickle: a negative length")
        return size

    def _push_text(self, size: int) -> None:
        """Protocol 2 writes bytes as a text to be encoded; those of an array stay in the file."""
        if size >= _LONG_PAYLOAD and self._stack and type(self._stack[-1]) is Global and self._stack[-1].name == "_codecs.encode":
            self._stack.append(self._span(size, "latin-1"))
        else:
            self._stack.append(str(self._take(size), "utf-8", "surrogatepass"))

    def _push_bytes(self, size: int) -> None:
        self._stack.append(self._span(size, None) if size >= _LONG_PAYLOAD else self._take(size))

    def _short_binunicode(self) -> None:
        self._stack.append(str(self._take(self._take(1)[0]), "utf-8", "surrogatepass"))

    def _binunicode(self) -> None:
        self._push_text(self._number(_U4))

    def _binunicode8(self) -> None:
        self._push_text(self._number(_U8))

    def _short_binbytes(self) -> None:
        self._stack.append(self._take(self._take(1)[0]))

    def _binbytes(self) -> None:
        self._push_bytes(self._number(_U4))

    def _binbytes8(self) -> None:
        self._push_bytes(self._number(_U8))

    def _short_binstring(self) -> None:
        self._stack.append(_text(self._take(self._take(1)[0])))

    def _binstring(self) -> None:
        """Python 2's text, which is also its bytes."""
        size = self._size(_I4)
        rebuilds = size >= _LONG_PAYLOAD and any(type(x) is Placeholder for x in (self._below[-1][-1:] if self._below else ()))
        self._stack.append(self._span(size, None) if rebuilds else _text(self._take(size)))

    def _tuple(self) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def _tuple1(self) -> None:
        self._stack[-1] = (self._stack[-1],)

    def _tuple2(self) -> None:
        self._last(2)

    def _tuple3(self) -> None:
        self._last(3)

    def _last(self, count: int) -> None:
        if len(self._stack) < count:
            raise CheckpointError("damaged pickle: a mark where an object should be")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(items)

    def _empty_tuple(self) -> None:
        self._stack.append(())

    def _empty_list(self) -> None:
        self._stack.append([])

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _empty_set(self) -> None:
        self._stack.append(Opaque("a set"))

    def _list(self) -> None:
        items = self._marked()
        self._stack.append(items)

    def _dict(self) -> None:
        items = self._marked()
        self._stack.append({})
        self._set_items(items)

    def _frozenset(self) -> None:
        self._marked()
        self._stack.append(Opaque("a frozenset"))

    def _append(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target += items
        elif not isinstance(target, Opaque):
            raise CheckpointError(f"damaged pickle: it appends to {described(target)}")

    def _additems(self) -> None:
        self._marked()
        if not isinstance(self._stack[-1], Opaque):
            raise CheckpointError(f"damaged pickle: it adds to {described(self._stack[-1])}")

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _setitems(self) -> None:
        self._set_items(self._marked())

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        entries = target if type(target) is dict else target.entries if isinstance(target, Opaque) else None
        if entries is None or len(items) % 2:
            raise CheckpointError(f"damaged pickle: it sets an item of {described(target)}")
        may_be_key = self._rebuilder.may_be_key
        for i in range(0, len(items), 2):
            key = items[i]
            if type(key) is str or may_be_key(key):
                entries[key] = items[i + 1]

    def _global(self) -> None:
        module, name = str(self._line(), "utf-8"), str(self._line(), "utf-8")
        self._stack.append(self._rebuilder.named(module, name))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise CheckpointError("damaged pickle: a name that is no text")
        self._stack.append(self._rebuilder.named(module, name))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._rebuilder.call(function, arguments))

    def _newobj_ex(self) -> None:
        _, arguments, kind = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._stack.append(self._rebuilder.call(kind, arguments))

    def _inst(self) -> None:
        module, name = str(self._line(), "ascii"), str(self._line(), "ascii")
        arguments = tuple(self._marked())
        self._stack.append(self._rebuilder.call(self._rebuilder.named(module, name), arguments))

    def _obj(self) -> None:
        kind, *arguments = self._marked()
        self._stack.append(self._rebuilder.call(kind, tuple(arguments)))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        built = self._rebuilder.build(target, state)
        if built is not target:
            self._stack[-1] = built
            for key in target.memo_keys:
                if self._memo[key] is target:
                    self._memo[key] = built

    def _binpersid(self) -> None:
        self._stack.append(self._rebuilder.persistent(self._stack.pop()))

    def _unknown(self) -> None:
        code = self._data[self._at - 1]
        raise CheckpointError(f"damaged pickle, or one that needs more than its file: opcode 0x{code:02x}; nothing was executed")


def _text(data: bytes) -> str | bytes:
    """Python 2's texts are bytes: as text where they are UTF-8."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return data


_STOP = ord(".")
_U2, _I4, _U4, _U8, _F8 = (struct.Struct(form) for form in ("<H", "<i", "<I", "<Q", ">d"))

OPCODES = {
    b"\x80": "proto", b"\x95": "frame", b"(": "mark", b"0": "pop", b"1": "pop_mark", b"2": "dup",
    b"\x94": "memoize", b"q": "binput", b"r": "long_binput", b"p": "put", b"h": "binget", b"j": "long_binget", b"g": "get",
    b"N": "none", b"\x88": "true", b"\x89": "false",
    b"J": "binint", b"K": "binint1", b"M": "binint2", b"\x8a": "long1", b"\x8b": "long4", b"G": "binfloat",
    b"I": "int", b"L": "long", b"F": "float",
    b"\x8c": "short_binunicode", b"X": "binunicode", b"\x8d": "binunicode8", b"V": "unicode",
    b"U": "short_binstring", b"T": "binstring", b"S": "string",
    b"C": "short_binbytes", b"B": "binbytes", b"\x8e": "binbytes8", b"\x96": "binbytes8",
    b")": "empty_tuple", b"\x85": "tuple1", b"\x86": "tuple2", b"\x87": "tuple3", b"t": "tuple",
    b"]": "empty_list", b"l": "list", b"a": "append", b"e": "appends",
    b"}": "empty_dict", b"d": "dict", b"s": "setitem", b"u": "setitems",
    b"\x8f": "empty_set", b"\x90": "additems", b"\x91": "frozenset",
    b"c": "global", b"\x93": "stack_global", b"R": "reduce", b"\x81": "reduce", b"\x92": "newobj_ex", b"i": "inst", b"o": "obj",
    b"b": "build", b"Q": "binpersid",
}  # fmt: skip
"""Opcodes that are run: all but those that need more than the file (EXT1, EXT2, EXT4, PERSID, NEXT_BUFFER, READONLY_BUFFER)."""

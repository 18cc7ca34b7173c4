"""A pickle's opcodes, read before any of them is run: which there are, how many, and how large the tuples are that they build."""

from __future__ import annotations

import io
import pickletools
from typing import Any, BinaryIO, cast

from scalablevit_ref.checkpoints.errors import CheckpointError

_NEEDED = """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2
    LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
"""
_OPCODES = frozenset(_NEEDED.split())

MOST_OPCODES = 500_000
"""A checkpoint of `large` with its optimizer has some 60,000."""

MOST_BYTES = 32 << 20

_LARGEST_TUPLE = 10_000
"""Leaves of a tuple and of the tuples in it, each as often as it is reached. Hashing takes that many steps, and as much of the C
stack as they are deep: 40 tuples that each hold the last one twice would never be done."""

_LONG_LONGS = 1_000
"""Whole numbers of more than eight bytes, of which any number can have one hash."""


def next_pickle(file: BinaryIO) -> bytes:
    """The bytes of the pickle that starts here, its opcodes checked; the file is left at its end."""
    start = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    stack = _Stack()
    long_longs = 0
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("Any", _Bounded(file, size)))):
            if opcode.name not in _OPCODES:
                raise CheckpointError(f"the pickle uses opcode {opcode.name}, which no checkpoint needs; nothing was executed")
            if opcode.name == "LONG_BINPUT" and cast("int", argument) > count:  # the memo is an array that grows to this index
                raise CheckpointError("damaged pickle: memo index beyond its length", found=argument)
            long_longs += opcode.name == "LONG1" and cast("int", argument).bit_length() > 63
            if count >= MOST_OPCODES or long_longs > _LONG_LONGS or file.tell() - start > MOST_BYTES:
                raise CheckpointError(
                    "the pickle is larger than a checkpoint's", expected=f"{MOST_OPCODES} opcodes, {MOST_BYTES} bytes at most"
                )
            stack.run(opcode, argument)
    except CheckpointError:
        raise
    except Exception as error:  # pickletools raises ValueError and what its argument readers let through
        raise CheckpointError(f"damaged pickle ({error})") from error
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


class _Bounded:
    """A file that never tries to read past its end, whatever length a pickle claims."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, n: int) -> bytes:
        if n > self._size - self._file.tell():
            raise CheckpointError("the file ends inside a pickle")
        if n > MOST_BYTES:
            raise CheckpointError("the pickle is larger than a checkpoint's", expected=f"{MOST_BYTES} bytes at most", found=n)
        return self._file.read(n)

    def readline(self) -> bytes:
        return self._file.readline(1 << 16)


_MARK = -1


class _Stack:
    """The stack of a pickle's machine, each object by its number of leaves; everything but a tuple has one."""

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def run(self, opcode: Any, argument: Any) -> None:
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name == "POP":
            self._stack.pop()
        else:
            taken = self._take(opcode.stack_before)
            made = 1 + sum(taken) if "TUPLE" in name else 1
            if made > _LARGEST_TUPLE:
                raise CheckpointError("the pickle builds a tuple larger than a checkpoint's", expected=f"{_LARGEST_TUPLE} at most")
            self._stack += [made] * len(opcode.stack_after)

    def _take(self, before: list[Any]) -> list[int]:
        """What the opcode takes off the stack: a number of objects, or a number beneath a mark and all above it."""
        taken: list[int] = []
        if any(kind is pickletools.markobject for kind in before):
            while (top := self._stack.pop()) != _MARK:
                taken.append(top)
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            if (top := self._stack.pop()) == _MARK:
                raise CheckpointError("damaged pickle: a mark where an object should be")
            taken.append(top)
        return taken

"""A pickle's opcodes, read before any of them is run: which there are, how many, and what they make keys of dicts."""

from __future__ import annotations

import io
import pickletools
from typing import Any, BinaryIO, cast

from scalablevit_ref.errors import CheckpointError

_NEEDED = """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2
    LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
"""
_OPCODES = frozenset(_NEEDED.split())

MOST_OPCODES = 500_000
"""A checkpoint of `large` with its optimizer has some 60,000."""

MOST_BYTES = 8 << 20

_LONG_LONGS = 1_000
"""Whole numbers of more than eight bytes, of which any number can have one hash."""

_BUILDS = 1_000
"""Objects whose state is set, which copies it; an OrderedDict's `_metadata` and the Namespace are all that a checkpoint has."""


def next_pickle(file: BinaryIO) -> bytes:
    """The bytes of the pickle that starts here, its opcodes checked; the file is left at its end."""
    start = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    stack = _Stack()
    long_longs = builds = 0
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("Any", _Bounded(file, size)))):
            if opcode.name not in _OPCODES:
                raise CheckpointError(f"the pickle uses opcode {opcode.name}, which no checkpoint needs; nothing was executed")
            if opcode.name == "LONG_BINPUT" and cast("int", argument) > count:  # the memo is an array that grows to this index
                raise CheckpointError("damaged pickle: memo index beyond its length", found=argument)
            long_longs += opcode.name == "LONG1" and cast("int", argument).bit_length() > 63
            builds += opcode.name == "BUILD"
            if count >= MOST_OPCODES or long_longs > _LONG_LONGS or builds > _BUILDS or file.tell() - start > MOST_BYTES:
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


_NO_ATOMS = {"any", "tuple", "list", "dict"}
_ATOMS = {o.name for o in pickletools.opcodes if not o.stack_before and not _NO_ATOMS & {kind.name for kind in o.stack_after}}


class _Stack:
    """The stack of a pickle's machine, each object by whether it is a text, a number or a constant; None is a mark.

    Only these may be keys: any number of tuples, and of objects made of numbers, can have one hash, and one can take for ever to
    hash.
    """

    def __init__(self) -> None:
        self._stack: list[bool | None] = []
        self._memo: dict[int, bool | None] = {}

    def run(self, opcode: Any, argument: Any) -> None:
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._stack.append(None)
        elif name == "POP":
            self._stack.pop()
        else:
            taken = self._take(opcode.stack_before)
            if name in ("SETITEM", "SETITEMS") and not all(taken[1:-1:2]):
                raise CheckpointError("the pickle has a key that is neither text nor number, which no checkpoint needs")
            self._stack += [name in _ATOMS] * len(opcode.stack_after)

    def _take(self, before: list[Any]) -> list[bool]:
        """What the opcode takes off the stack, the top first: a number of objects, or a number beneath a mark and all above it."""
        taken: list[bool] = []
        if any(kind is pickletools.markobject for kind in before):
            while (top := self._stack.pop()) is not None:
                taken.append(top)
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            if (top := self._stack.pop()) is None:
                raise CheckpointError("damaged pickle: a mark where an object should be")
            taken.append(top)
        return taken

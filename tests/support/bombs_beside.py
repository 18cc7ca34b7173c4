"""Sound weights beside something made to harm: to run, to be hashed, compared or iterated, to take for ever or all memory.

Each file is read with the right weights, since nothing of what is beside them is ever looked into.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import asdict
from functools import cache

import numpy as np

from scalablevit_ref.parameters import parameter_shapes
from tests.support.bombs_pickle import colliding_tuples, dicts, number, text
from tests.support.checkpoints import TINY
from tests.support.hostile import archive, op, plain, program, storage, tensor

SYSTEM = op("os system")
TOUCH = plain(("touch hacked",))
SHAPES = parameter_shapes(TINY)
ELEMENTS = sum(map(math.prod, SHAPES.values()))


@cache
def values() -> np.ndarray:
    return np.arange(ELEMENTS, dtype="<f4")


@cache
def weights() -> bytes:
    """The opcodes of a state dict under `model`, all tensors in one storage, and of the configuration."""
    start, parts = 0, []
    for name, shape in SHAPES.items():
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts.append(text(name) + tensor(start, shape, strides, storage(elements=ELEMENTS)))
        start += math.prod(shape)
    stored = text("scalablevit_ref") + b"}" + text("config") + text(json.dumps(asdict(TINY))) + b"s"
    return text("model") + b"}(" + b"".join(parts) + b"u" + stored


def beside(*values_: bytes) -> Callable[[], bytes]:
    """A file with these beside its weights."""
    entries = b"".join(text(f"beside{i}") + value for i, value in enumerate(values_))
    return lambda: archive(program(b"}(", entries, weights(), b"u"), {"archive/data/0": values().tobytes()})


def stand_ins(depth: int = 28) -> bytes:
    """Stand-ins that hold each other twice as entries."""
    links = b"".join(b"h\xfe)R(%bh%c%bh%cuq%c0" % (text("a"), i, text("b"), i, i + 1) for i in range(depth))
    return op("a.b C") + b"q\xfe0}q\x000" + links + b"h%c" % depth


def deep(step: bytes, start: bytes = b"N", count: int = 100_000) -> bytes:
    """A value in a value in a value."""
    return op("a.b C") + b"q\xfe0" + start + step * count


def array_state(data: bytes, shape: bytes, dtype: bytes = b"h\x30") -> bytes:
    """A NumPy array out of a memoised constructor (0x31), its class (0x32) and dtype (0x30)."""
    return b"h\x31(h\x32)NtR(K\x01" + shape + dtype + b"\x89" + data + b"tb"


NUMPY = (
    op("numpy.core.multiarray _reconstruct") + b"q\x310" + op("numpy ndarray") + b"q\x320" + op("numpy dtype")
    + b"q\x33(" + text("u1") + b"\x89\x88tRq\x300"
)  # fmt: skip

HARMLESS_FILES: dict[str, Callable[[], bytes]] = {
    "nothing": beside(b"N"),
    "called": beside(SYSTEM + TOUCH + b"R", op("builtins eval") + plain(("1/0",)) + b"R", op("subprocess Popen") + TOUCH + b"\x81"),
    "called again": beside(SYSTEM + TOUCH + b"R" + TOUCH + b"R" + TOUCH + b"R"),
    "called by other opcodes": beside(
        b"(" + text("touch hacked") + b"ios\nsystem\n",
        b"(" + SYSTEM + text("touch hacked") + b"o",
        SYSTEM + TOUCH + b"}\x92",
        text("os") + text("system") + b"\x93" + TOUCH + b"R",
    ),
    "got from a module": beside(
        op("builtins getattr") + b"(" + op("builtins __import__") + plain(("os",)) + b"R" + text("system") + b"tR" + TOUCH + b"R"
    ),
    "got from a class": beside(op("builtins getattr") + b"(" + op("os environ") + text("copy") + b"tR)R"),
    "hashed in a set": beside(
        b"\x8f(" + SYSTEM + TOUCH + b"R" + b"]\x90", b"(" + SYSTEM + b"}\x91", op("builtins set") + b"](" + SYSTEM + b"}e\x85R"
    ),
    "hashed as a key": beside(b"}(" + SYSTEM + TOUCH + b"RN" + SYSTEM + b"N" + SYSTEM + TOUCH + b"\x86Nu"),
    "hashed in a stand-in": beside(op("a.b C") + b")\x81(" + SYSTEM + TOUCH + b"RN]Nu"),
    "iterated": beside(*(op(f"builtins {name}") + b"(" + SYSTEM + TOUCH + b"RtR" for name in ("list", "tuple", "bytes", "sum"))),
    "appended to": beside(SYSTEM + b"(NNe", SYSTEM + TOUCH + b"R(" + SYSTEM + b"e", SYSTEM + b"(N\x90"),
    "compared": beside(
        b"(" + SYSTEM + TOUCH + b"R" + SYSTEM + TOUCH + b"Rl", op("builtins sorted") + b"(](" + SYSTEM + SYSTEM + b"etR"
    ),
    "built with state": beside(
        SYSTEM + TOUCH + b"R" + plain({"__class__": 1, "__setstate__": 2, "__dict__": 3}) + b"b",
        op("a.b C") + b")\x81}" + text("__reduce__") + SYSTEM + b"sb",
        op("a.b C") + b")\x81N}" + text("__class__") + SYSTEM + b"s\x86b",
        SYSTEM + SYSTEM + b"b",
        op("collections OrderedDict") + b")R}" + text("__class__") + SYSTEM + b"sb",
        op("argparse Namespace") + b")R}" + text("__class__") + SYSTEM + b"sb",
        op("argparse Namespace") + b")R" + SYSTEM + b"b",
    ),
    "the class of an attack": beside(op("torch._tensor _rebuild_from_type_v2") + b"(" + SYSTEM + op("a.b C") + TOUCH + b"NtR"),
    "a tensor of a stand-in": beside(
        op("torch._utils _rebuild_tensor_v2") + b"(" + SYSTEM + TOUCH + b"RK\x00K\x01\x85K\x01\x85\x89NtR",
        op("torch._utils _rebuild_parameter") + b"(" + SYSTEM + TOUCH + b"R\x89NtR",
        op("torch._utils _rebuild_tensor_v3")
        + b"("
        + storage(elements=ELEMENTS)
        + b"K\x00K\x01\x85K\x01\x85\x89N"
        + SYSTEM
        + b"tR",
        op("torch._utils _rebuild_sparse_tensor") + b"(" + SYSTEM + TOUCH + b"RtR",
    ),
    "an array of stand-ins": beside(
        NUMPY + array_state(SYSTEM, b"K\x01\x85"),
        array_state(b"](" + SYSTEM + TOUCH + b"Re", b"K\x01\x85"),
        array_state(b"C\x01x", b"K\x01\x85", SYSTEM),
        op("numpy dtype") + SYSTEM + b"\x85R",
        op("numpy dtype") + text("O8") + b"\x85R",
        op("numpy.core.multiarray scalar") + b"(" + op("numpy dtype") + text("O8") + b"\x85R" + SYSTEM + b"tR",
        op("numpy.core.multiarray _reconstruct") + SYSTEM + b"\x85R",
    ),
    "a long name that is a control sequence": beside(op("\x1b[2J\x07 " + "x" * 200) + b")R"),
    "a list in itself": beside(b"]q\xf0(h\xf0h\xf0e"),
    "a dict in itself": beside(b"}q\xf0" + text("a") + b"h\xf0s"),
    "a stand-in in itself": beside(op("a.b C") + b")\x81q\xf0(" + text("a") + b"h\xf0uh\xf0b"),
    "a Namespace in itself": beside(op("argparse Namespace") + b")\x81q\xf0}" + text("a") + b"h\xf0sb"),
    "a module in itself": beside(
        op("a.b C") + b")\x81q\xf0}(" + text("_modules") + b"}" + text("a") + b"h\xf0s" + text("_parameters") + b"}ub"
    ),
    "a module built again and again": beside(
        op("a.b C") + b")\x81q\xf0" + plain({"_modules": {}, "_parameters": {}}) + b"q\xf1b" + b"h\xf1b" * 150_000
    ),
    "a long tuple as a key": beside(b"(" + b"\x88" * 200_000 + b"tq\xf00}(" + b"h\xf0N" * 60_000 + b"u"),
    "a tuple in itself": beside(b"]q\xf0h\xf0\x85a"),
    "tuples of tuples": beside(b")q\x000" + b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60)) + b"h\x3c"),
    "dicts of dicts": beside(dicts()),
    "stand-ins of stand-ins": beside(stand_ins()),
    "deep lists": beside(b"](" + b"]" * 200_000 + b"a" * 199_999 + b"e"),
    "deep tuples": beside(deep(b"\x85")),
    "deep stand-ins": beside(deep(b"q\xf10h\xfeh\xf1\x85R", count=80_000)),
    "deep entries": beside(op("a.b C") + b"q\xfe0}q\xf0" + (b"q\xf10h\xfe}" + text("a") + b"h\xf1s\x85R") * 40_000),
    "deep states": beside(deep(b"q\xf10h\xfe)\x81h\xf1b", count=70_000)),
    "many entries": beside(b"}(" + b"".join(number(i) + b"N" for i in range(200_000)) + b"u"),
    "many stand-ins": beside(op("a.b C") + b"q\xfe0](" + b"h\xfe)R" * 140_000 + b"e"),
    "many states": beside(
        op("a.b C")
        + b"q\xfe0}q\xfd("
        + b"".join(text(str(i)) + b"N" for i in range(20_000))
        + b"u0]("
        + b"h\xfe)Rh\xfdb" * 80_000
        + b"e"
    ),
    "many Namespaces": beside(op("argparse Namespace") + b"q\xfe0](" + b"h\xfe)R}b" * 80_000 + b"e"),
    "many names": beside(b"](" + b"".join(b"c%d\nx\n" % i for i in range(200_000)) + b"e"),
    "many arrays": beside(NUMPY + b"](" + array_state(b"C\x01x", b"K\x01\x85") * 15_000 + b"e"),
    "many fractions as keys": beside(b"}(" + b"".join(b"G" + struct.pack(">d", i / 2) + b"N" for i in range(150_000)) + b"u"),
    "tuples of one hash": beside(colliding_tuples()),
    "numbers of one hash": beside(
        b"}(" + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(9, 50_000)) + b"u"
    ),
    "copies of a text": beside(
        text("x" * (3 << 20))
        + b"q\x000"
        + text("latin1")
        + b"q\x010"
        + op("_codecs encode")
        + b"q\x020]("
        + b"h\x02h\x00h\x01\x86R" * 300
        + b"e"
    ),
    "a long number": beside(b"\x8b" + struct.pack("<i", 3 << 20) + b"\xff" * (3 << 20)),
    "a long text": beside(b"V" + b"\\u00fc" * 600_000 + b"\n", b"S'" + b"\\x41" * 500_000 + b"'\n"),
}
"""What makes each file."""

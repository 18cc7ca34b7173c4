"""Pickles of a few opcodes that would take for ever, or all memory: by hashing, by copying, by reaching one thing often."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import asdict

from scalablevit_ref import ScalableViTConfig
from scalablevit_ref.parameters import parameter_shapes
from tests.support.hostile import FOUR, archive, op, plain, program, storage, tensor

KEY = "no state dict"
"""Such keys are left out of their dicts."""


def text(value: str) -> bytes:
    """Without the BINPUT that `plain` has behind it."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def colliding_tuples(count: int = 30_000) -> bytes:
    """A dict whose keys are pairs of numbers, all of one hash: CPython's of a tuple is an xxHash without a secret."""
    modulus, prime_1, prime_2, prime_5 = 1 << 64, 11400714785074694791, 14029467366897019727, 2870177450012600261
    pairs: list[tuple[int, int]] = []
    first = 0
    while len(pairs) < count:
        first += 1
        lane = (prime_5 + first * prime_2) % modulus
        lane = (lane << 31 | lane >> 33) * prime_1 % modulus
        second = (12345 - lane) * pow(prime_2, -1, modulus) % modulus
        second -= modulus * (second >> 63)
        if abs(second) < (1 << 61) - 1:  # a number that is its own hash
            pairs.append((first, second))
    assert len(set(map(hash, pairs[:100]))) == 1
    return b"}(" + b"".join(number(a) + b"\x8a\x08" + b.to_bytes(8, "little", signed=True) + b"\x86N" for a, b in pairs) + b"u"


def copies(function: str, of: bytes, *, arguments: int = 1, more: bytes = b"", count: int = 300) -> bytes:
    """What a function makes of one value, over and over."""
    call = b"h\x01(" + b"h\x00" * arguments + b"tR" + more
    return of + b"q\x000" + op(function) + b"q\x010](" + call * count + b"e"


def ordered_dicts(depth: int = 28) -> bytes:
    """OrderedDicts, each of which holds the last one twice; the last one is on the stack."""
    empty = b"h\xff)R"
    links = b"".join(b"%b(K\x00h%cK\x01h%cuq%c0" % (empty, i, i, i + 1) for i in range(depth))
    return op("collections OrderedDict") + b"q\xff0" + empty + b"q\x000" + links + b"h%c" % depth


def dicts(depth: int = 28) -> bytes:
    """The same of plain dicts, under names."""
    links = b"".join(b"}(%bh%c%bh%cuq%c0" % (text("a"), i, text("b"), i, i + 1) for i in range(depth))
    return b"}q\x000" + links + b"h%c" % depth


def flax(tree: bytes) -> bytes:
    """A tree that looks like the Flax port's."""
    return b"}" + text("m") + b"}" + text("ScalableSelfAttention_0") + tree + b"ss"


def tensor_at(offset: bytes) -> bytes:
    return op("torch._utils _rebuild_tensor_v2") + b"(" + storage() + offset + b"K\x01\x85K\x01\x85\x89NtR"


WEIGHTS = text("model") + b"}" + text("stages.0.0.attn.qkv.weight") + tensor_at(b"K\x00") + b"s"


def beside(value: bytes, often: int) -> bytes:
    """A training checkpoint with one value beside its weights, under many names."""
    names = b"".join(text(f"k{i}") + b"h\xff" for i in range(often))
    return archive(program(value, b"q\xff0}(", WEIGHTS, names, b"u"), FOUR)


def stored(config: str) -> bytes:
    return text("scalablevit_ref") + b"}" + text("config") + text(config) + b"s"


def one_storage() -> bytes:
    """445 MB of sound weights in 9 MB: all tensors lie in the largest one's storage."""
    one = (1, 1, 1, 1)
    config = ScalableViTConfig((512,) * 4, (30, 1, 1, 1), one, sr_ratios=one, c_ratios=one, num_classes=2, head="linear")
    shapes = parameter_shapes(config)
    most = max(map(math.prod, shapes.values()))
    weights = b"".join(
        text(name) + tensor(0, shape, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))), storage(elements=most))
        for name, shape in shapes.items()
    )
    tree = program(b"}(", text("model"), b"}(", weights, b"u", stored(json.dumps(asdict(config))), b"u")
    return archive(tree, {"archive/data/0": bytes(4 * most)})


def pairs() -> bytes:
    return b"](" + b"".join(number(i) + b"N\x86" for i in range(60_000)) + b"e"


def entries() -> bytes:
    return b"}(" + b"".join(text(str(i)) + b"N" for i in range(60_000)) + b"u"


LIST = b"](" + b"K\x01" * 90_000 + b"e"
BUILT = b"h\x00b"
ARRAY = op("argparse Namespace") + b")R}(" + text("shape") + b"K\x05" + text("dtype") + text("float32") + b"ub"

PICKLE_BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "colliding tuples": (lambda: archive(program(colliding_tuples())), KEY),
    "sizes as keys": (lambda: archive(program(b"}" + op("torch Size") + plain(((1, 2),)) + b"RNs")), KEY),
    "tensors as keys": (lambda: archive(program(b"}" + tensor(0, (1,), (1,)) + b"Ns"), FOUR), KEY),
    "pairs of tuples": (lambda: archive(program(op("collections OrderedDict") + b"]K\x01\x85N\x86a\x85R")), KEY),
    "copies of pairs": (lambda: archive(program(copies("collections OrderedDict", pairs()))), "copies more entries"),
    "copies of a list": (lambda: archive(program(copies("torch Size", LIST))), "torch.Size of something"),
    "copies of a text": (lambda: archive(program(copies("torch device", text("x" * (7 << 20)), arguments=2))), "odd arguments"),
    "copies of a dict": (
        lambda: archive(program(copies("argparse Namespace", entries(), arguments=0, more=BUILT))),
        "copies more entries",
    ),
    "many Namespaces": (
        lambda: archive(program(copies("argparse Namespace", b"}", arguments=0, more=BUILT, count=2000))),
        "no state dict",
    ),
    "OrderedDicts for an offset": (
        lambda: archive(program(tensor_at(ordered_dicts())), FOUR),
        r"impossible tensor.*offset \{0: \{0",
    ),
    "a tree of one branch": (lambda: archive(program(flax(dicts()))), "no state dict"),
    "a deep tree": (
        lambda: archive(program(flax((b"}" + text("a")) * 5000 + b"N" + b"s" * 5000))),
        "no state dict",
    ),
    "a Namespace for an array": (lambda: archive(program(b"}" + text("stages.0.0") + ARRAY + b"s")), "no state dict"),
    "one list beside": (lambda: beside(LIST, 3000), "fit no variant"),
    "one text beside": (lambda: beside(text("x" * 900_000), 3000), "fit no variant"),
    "a configuration of lists": (
        lambda: archive(program(b"}(", WEIGHTS, stored("[" + "[]," * 2_000_000 + "[]]"), b"u"), FOUR),
        "a longer configuration than any",
    ),
    "one storage": (one_storage, "together larger than the file"),
}

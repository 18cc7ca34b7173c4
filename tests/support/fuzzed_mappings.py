"""Weights in memory beside, among and in the place of objects made to disturb: what is read is right, or refused in one line.

Whatever Python holds can be a value of a mapping that a user gives: tensors without numbers, arrays that claim other shapes than
they have, objects whose attributes raise, never end or are everything at once, mappings that lie about their entries.
"""

from __future__ import annotations

import argparse
import enum
import math
import sys
import types
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
import torch

import scalablevit_ref as sv
from scalablevit_ref.checkpoints import from_state_dict, load_checkpoint, save_checkpoint, to_state_dict
from tests.support.fuzzed import Choices, bits, found
from tests.support.fuzzed_configurations import any_configuration, dumped
from tests.support.noted_files import NETWORK, NOTES, SHAPES, arrays


class OwnError(Exception):
    """What code of the user's raises; one is as good as another."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnError)

    __hash__ = Exception.__hash__


class Raises:
    """Every attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise OwnError("line one\nline two")


class Everything:
    """Has every attribute, and each is another such object."""

    def __getattr__(self, name: str) -> Any:
        return Everything()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return Everything()


class Endless:
    """Asks itself for ever."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self, name + "x" if len(name) < 50 else name)


class Array:
    """Claims a shape and a dtype, and gives something else or nothing."""

    def __init__(self, given: Any, shape: Any = (2, 2), dtype: Any = "float32") -> None:
        self.given, self.shape, self.dtype = given, shape, dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.given() if callable(self.given) else self.given


class Capsule:
    def __dlpack__(self, **_: Any) -> Any:
        raise OwnError("no capsule")

    def __dlpack_device__(self) -> Any:
        return "here"


class Liar(Mapping[Any, Any]):
    """Has other entries than it counts, and gives none of them."""

    def __getitem__(self, key: Any) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(("a", 1, None))

    def __len__(self) -> int:
        return 1 << 40


class Failing(dict[Any, Any]):
    """A dict whose views raise."""

    def items(self) -> Any:
        raise OwnError("no items\nat all")

    def keys(self) -> Any:
        raise OwnError("no keys")


class Word(str):
    """A text whose every use raises but for its hash."""

    __slots__ = ()

    def __str__(self) -> str:
        raise OwnError("no text")

    def __repr__(self) -> str:
        raise OwnError("no text")

    def split(self, *_: Any) -> Any:  # type: ignore[override]
        raise OwnError("no parts")


class Wide(int):
    def __repr__(self) -> str:
        raise OwnError("no number")


class Color(enum.Enum):
    RED = 1


Point = namedtuple("Point", "x y")


def _raising() -> Any:
    raise OwnError("no numbers\nhere")


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def _shared(levels: int, kind: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = kind(value)
    return value


def _in_itself(value: Any) -> Any:
    value["a" if isinstance(value, dict) else slice(0, 0)] = value if isinstance(value, dict) else [value]
    return value


def _plain(shape: tuple[int, ...] = (2, 2)) -> torch.Tensor:
    return torch.full(shape, -1.0)


OBJECTS: tuple[Callable[[], Any], ...] = (
    Raises, Everything, Endless, Capsule, Liar, lambda: Failing(a=1), lambda: Word("x"), lambda: Wide(3), lambda: Color.RED,
    lambda: Point(1, np.full((2, 2), -1.0)), lambda: Array(_raising), lambda: Array(None), lambda: Array("text"),
    lambda: Array(np.full((2, 2), -1.0, "f4")), lambda: Array(np.full(3, -1.0), shape=(1 << 62, 4)), lambda: Array([[1, [2]]]),
    lambda: Array(np.zeros(0), shape=Everything()), lambda: Array(np.zeros(0), shape=("a",)),
    lambda: Array(_raising, dtype=Raises()), lambda: Array(np.zeros(2), shape=iter([2])),
    lambda: Array(np.zeros(2), shape=Endless()), lambda: Array(np.zeros(2), shape=-1),
    lambda: Array(np.zeros(2), shape=(10**4000,)),
    lambda: Array(np.zeros(2), dtype="\x1b[2J" * 1000), lambda: _plain().to("meta"), lambda: _plain().to_sparse(), lambda:
    _plain().to(torch.complex64), lambda: _plain().bool(), lambda: torch.quantize_per_tensor(_plain(), 0.1, 0, torch.qint8),
    lambda: _plain().to(torch.float8_e4m3fn), lambda: _plain((1,)).expand(1 << 40), lambda: torch.empty((1 << 20, 0, 1 << 20)),
    lambda: _plain(()), lambda: _plain().bfloat16(), lambda: torch.conj(_plain().to(torch.complex64)), lambda:
    _plain().requires_grad_(), lambda: torch.nn.Linear(2, 2), lambda: torch.nn.Linear(2, 2).state_dict(), lambda:
    torch.Size([2]), lambda: torch.float32, lambda: torch.device("cpu"), lambda: np.ma.masked_array(np.full((2, 2), -1.0),
    mask=[[0, 1], [0, 0]]), lambda: np.full(2, -1, ">f4"), lambda: np.array(None), lambda: np.broadcast_to(np.float32(-1), (1 <<
    40,)), lambda: np.broadcast_to(np.float32(-1), (1 << 20, 1 << 30)), lambda: np.zeros(2, [("a", "f4"), ("b", "O")]), lambda:
    np.array(["x"]), lambda: np.array([1], "M8[s]"), lambda: np.longdouble(1), lambda: np.full((2, 2), -1.0).view(np.matrix) if
    hasattr(np, "matrix") else None, lambda: np.zeros((1,) * 64), lambda: np.full(2, -1, ml_dtypes.bfloat16), lambda: np.full(2,
    -1, ml_dtypes.float8_e5m2), lambda: np.float32(-1), lambda: np.dtype("f4"), lambda: _nested(200), lambda: _nested(50_000),
    lambda: _shared(40, lambda x: [x, x]), lambda: _shared(40, lambda x: (x, x)), lambda: _shared(40, lambda x: {"a": x, "b":
    x}), lambda: _in_itself({}), lambda: _in_itself([]), lambda: [None] * 200_000, lambda: dict.fromkeys(range(50_000)), lambda:
    "x" * 3_000_000, lambda: b"x" * 3_000_000, lambda: 10**4000, lambda: math.nan, lambda: OrderedDict(a=1), lambda:
    Counter("abc"), lambda: defaultdict(list, a=[1]), lambda: ChainMap({"a": 1}, {"b": 2}), lambda: UserDict({"a": np.full(2,
    -1.0)}), lambda: types.MappingProxyType({"a": 1}), lambda: types.SimpleNamespace(a=1), lambda:
    argparse.Namespace(model="small", config=1), lambda: sys.modules["math"], lambda: (x for x in [1]), lambda: print, lambda:
    np.ndarray, lambda: dict, lambda: range(10**18), lambda: memoryview(b"xxxx"), lambda: bytearray(8), lambda: {1, 2}, lambda:
    PurePosixPath("/x"), lambda: slice(1), lambda: NotImplemented, lambda: object(), lambda: complex(1, 2), lambda: ..., lambda:
    json_like(), lambda: np.full((2, 2), -1.0, "f4")[::-1].T, lambda: memoryview(np.full((2, 2), -1.0, "f4")),
)  # fmt: skip
"""What each value is made by: anew for every input."""

KEYS: tuple[Any, ...] = (
    "a", "model", "head.weight", "stages.0.0.norm1.weight", "x" * 100_000, "a." * 50_000, "\ud800",
    "\x1b[2J\n", "", ".", "..", "module", "ema", "optimizer", NOTES, "config", "metadata", "args", "meta", "epoch", Word("y"),
    Wide(1), 10**4000, -1, True, None, 1.5, math.nan, b"model", (), ("stages", 0, 0), ("a",) * 40, Color.RED, torch.float32,
    frozenset({1}), PurePosixPath("a"), np.float32(1), object,
)  # fmt: skip


def json_like() -> Any:
    return {"version": 1, "config": [1], "metadata": {"a": [1, {"b": None}]}}


def made(choices: Choices) -> Any:
    return choices.one_of(OBJECTS)()


def read_mapping(folder: Path, data: bytes) -> Any:
    """One network, with some of its weights replaced and other entries beside them, somewhere in a tree."""
    choices = Choices(data)
    state: dict[Any, Any] = dict(arrays())
    if choices.number(3) == 2:
        state = {name: torch.from_numpy(x.copy()) for name, x in state.items()}
    replaced = set()
    if choices.number(4) == 3:
        name = choices.one_of(tuple(SHAPES))
        replaced.add(name)
        state[name] = made(choices)
    what = choices.number(4)
    if what == 3:
        return used(folder, state, choices)
    tree: Any = state
    for _ in range(choices.number(3)):
        key = choices.one_of(("model", "state_dict", "a", *KEYS))
        kind = choices.one_of((dict, OrderedDict, UserDict, types.MappingProxyType, list))
        tree = [tree] if kind is list else kind({key: tree})
    for _ in range(choices.number(4)):
        places = near_the_top(tree)
        if places:
            place = places[choices.number(256) % len(places)]
            place.setdefault(choices.one_of(KEYS), made(choices))
    if isinstance(tree, dict) and choices.number(4) == 3:
        as_text = bool(choices.number(2))
        config = any_configuration(choices, not as_text)
        tree[NOTES] = {"config": dumped(config) if as_text else config, "version": 1}
    options: dict[str, Any] = {"use_ema": bool(choices.number(2)), "key": choices.one_of((None, None, None, "model", ".", "a"))}
    options |= {"config": NETWORK} if choices.number(4) else {}
    first = own_or_found(lambda: from_state_dict(tree, **options))
    if isinstance(first, sv.Checkpoint):
        assert not replaced or _is_whole(first), f"{replaced} was replaced, and is read"
        right = {name: np.array_equal(x, arrays()[name]) for name, x in first.params.items()}
        assert all(value for name, value in right.items() if name not in replaced), "other weights"
        again = own_or_found(lambda: from_state_dict(tree, **options))
        assert own_or_found(lambda: bits(first)) == own_or_found(lambda: bits(again)), "another the second time"
    return first


def _is_whole(checkpoint: sv.Checkpoint) -> bool:
    return all(x.shape == SHAPES[name] and np.isfinite(x).all() for name, x in checkpoint.params.items())


def near_the_top(tree: Any) -> list[dict[Any, Any]]:
    """The dicts of a tree to which entries can be added: four levels of it, since below lies what is nested in depth."""
    level, places = [tree], []
    for _ in range(4):
        found_here = [one for one in level if type(one) in (dict, OrderedDict)]
        places += found_here
        level = [value for one in found_here for value in dict.values(one)]
    return places


def own_or_found(call: Callable[[], Any]) -> Any:
    """What a call gives, the line that it says, or the error of the user's own object."""
    try:
        return found(call)
    except OwnError as error:
        return error
    except TypeError as error:  # an argument that is none
        said = str(error)
    assert said.startswith(("params ", "metadata ", "state ")), f"a TypeError that names no argument: {said}"
    return said


def used(folder: Path, state: dict[Any, Any], choices: Choices) -> Any:
    """The same weights given to what writes; what is written is read again, with its metadata."""
    if choices.number(3) == 2:
        state[choices.one_of(KEYS)] = made(choices)
    own_or_found(lambda: to_state_dict(state, NETWORK, layout=choices.one_of(("official", "split", "keras", "mmdet"))))
    metadata: dict[Any, Any] = {}
    for _ in range(choices.number(4)):
        metadata[choices.one_of(KEYS)] = made(choices) if choices.number(2) else choices.one_of((1, "x", [1.5, None], {"a": True}))
    path = folder / f"written{choices.one_of(('.pth', '.safetensors', '.npz', '.msgpack'))}"
    path.unlink(missing_ok=True)
    refused = own_or_found(lambda: save_checkpoint(path, state, NETWORK, metadata=metadata))
    if refused is not None:
        assert not path.exists(), "written, and refused"
        return refused
    read = load_checkpoint(path)
    assert all(np.array_equal(x, np.asarray(state[name])) for name, x in read.params.items()), "other weights"
    lost = [name for name in metadata if name not in read.metadata]
    assert not lost, f"metadata that were written and are not read: {lost!r:.100}"
    return read

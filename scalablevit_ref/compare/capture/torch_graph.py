"""What a torch module does, operation by operation: a dispatch mode sees it below all of the module's own code."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.graph import ABSENT, Graph, ModuleRun, Operation
from scalablevit_ref.compare.capture.own_code import user_line
from scalablevit_ref.compare.capture.returned import named_outputs
from scalablevit_ref.compare.capture.torch_aten import Traits, described, read, tensors, traits, written, zeros_of

OTHERS = 1_000_000
"""The first number of the values that do not depend on the images.

They are counted apart: a table that is made in the first run and found in a cache in the second shifts no number of the data's.
"""


class EnoughError(BaseException):
    """All values that are asked for are kept: no Exception, which the candidate might catch."""


@dataclass(frozen=True)
class Failed:
    """The operation that raised: its name, the shapes and dtypes of its tensors, the parameters among them, and which are data."""

    name: str
    given: tuple[tuple[tuple[int, ...], str], ...]
    parameters: tuple[str, ...]
    data: tuple[bool, ...]


@dataclass(slots=True)
class _Known:
    """A tensor that was met: its number, the memory that it is a view of and where, and how many writes into that it has seen."""

    tensor: Any
    number: int
    memory: int | None
    address: int
    writes: int


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, every operation of torch is an `Operation`.

    A tensor is known by its identity. What is written into its memory through another one is seen when it is next used: an
    operation "alias" then gives it a new number, from its old value and from what was written.

    Parameters
    ----------
    own
        All tensors that the module holds, by name; those of floating point are its parameters.
    images
        What it is fed.
    until
        The code that calls the module: lines are looked for inside of it.
    keep
        The numbers of the values whose arrays are asked for; None records the operations instead.
    replaced
        What stands in for the values of these numbers. The run then ends, by an `EnoughError`, when the last of `keep` is made.
    dry
        Whether products and convolutions of data give zeros, which takes a fifth of the time: all that is recorded stays the same
        as long as the candidate does not look at its numbers.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not asked to: it would load the compiler, which takes seconds, and nothing is compiled while this runs."""
        return False

    def __init__(
        self,
        own: Mapping[str, torch.Tensor],
        images: torch.Tensor,
        until: CodeType,
        keep: Collection[int] | None = None,
        replaced: Mapping[int, torch.Tensor] | None = None,
        *,
        dry: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.replaced, self._ends = dict(replaced or {}), bool(replaced)  # those that are still to come
        self.until, self.keep, self.kept, self.dry = until, keep, dict[int, torch.Tensor](), dry
        self.operations: list[Operation] = []
        self.course: list[tuple[str, tuple[int, ...]]] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.dtypes: dict[int, str] = {}
        self.modules: list[ModuleRun] = []
        self.outputs: dict[str, int] = {}
        self.returned: dict[str, torch.Tensor] = {}
        self.failed: Failed | None = None
        self.autocast: tuple[str, str] | None = None  # its dtype, and the first line that runs under it
        self.from_outside: dict[tuple[int, ...], str] = {}
        self._inside: list[tuple[str, tuple[int, ...]]] = []
        self._constants: dict[int, torch.Tensor] = {}
        self._known: dict[int, _Known] = {}  # by the identity of a tensor
        self._memories: dict[
            int, tuple[StorageWeakRef, int]
        ] = {}  # a weak reference keeps the place of a storage from being used again
        self._addresses: dict[int, int] = {}
        self._in_memory: dict[int | None, int] = {}
        self._written: dict[int | None, list[tuple[int, tuple[int, int]]]] = {}
        self._made: set[int] = set()
        self._saved: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._data: set[int] = set()
        self._weights: set[int] = set()
        self._count = {True: 0, False: OTHERS}
        self.images = self._new(images, data=True, made=True)
        self._keep((self.images,), (images,))
        self.parameters: dict[int, str] = {}
        for name, x in own.items():
            value = self._new(x, data=False, made=True)
            self._keep((value,), (x,))
            if x.is_floating_point():
                self.parameters[value] = name
        self._weights.update(self.parameters)

    @property
    def path(self) -> str:
        """Of the innermost module that runs."""
        return self._inside[-1][0] if self._inside else ""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        told = traits(func)
        if told.splits:
            with self:
                return func.decompose(*args, **kwargs)
        given = tensors((args, kwargs))
        numbers = {id(x): self.number(x) for x in given}
        changed = written(func, args, kwargs) if told.written else []
        for x in changed:
            self._save(x)
        try:
            out = zeros_of(func, args, kwargs) if self.dry and not self._data.isdisjoint(numbers.values()) else None
            out = func(*args, **kwargs) if out is None else out
        except Exception:
            self._fail(told.full, given, [numbers[id(x)] for x in given])
            raise
        results = tensors(out)
        results += [x for x in changed if not any(x is y for y in results)]
        if results:
            inputs = read(func, args, kwargs) if told.overwritten or told.shaped else given
            before = [numbers[id(x)] for x in inputs]
            data = not self._data.isdisjoint(before)
            if self.replaced and data:
                out, results = self._replace(out, results, changed)
            outputs = tuple([self._new(x, data=data, made=True) for x in results])
            for x in changed:
                self._write(x)
            if data:
                self.course.append((told.full, outputs))
            elif not self._weights.isdisjoint(before):
                self._weights.update(outputs)
            self._keep(outputs, results)
            if self._ends and self.keep is not None and self.kept.keys() == set(self.keep):
                raise EnoughError
            if self.keep is None:
                line = user_line(self.until)
                self._look(told, inputs, before, line, data=data)
                what = described(func, args, kwargs, inputs)
                ordered = tuple([ABSENT if x is None else numbers[id(x)] for x in what.inputs])
                self.operations.append(Operation(what.kind, told.full, ordered, outputs, what.settings, self.path, line))
        return out

    def _replace(self, out: Any, results: list[torch.Tensor], changed: Sequence[torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
        """What an operation gives, with what stands in for some of it. Where it wrote in place, that is overwritten."""
        new: dict[int, torch.Tensor] = {}
        for value, x in enumerate(results, self._count[True]):
            if value in self.replaced and self.replaced[value].shape == x.shape:
                y = self.replaced.pop(value)
                new[id(x)] = x.copy_(y) if any(x is z for z in changed) else torch.empty_like(x).copy_(y)
        if new:
            out = tree_map(lambda x: new.get(id(x), x), out)
        return out, [new.get(id(x), x) for x in results]

    def _look(self, told: Traits, inputs: Sequence[torch.Tensor], numbers: Sequence[int], line: str, *, data: bool) -> None:
        """Take down constants, and what the notes are about."""
        if data:
            for x, value in zip(inputs, numbers, strict=True):
                if value in self._weights and value not in self._constants:
                    self._constants[value] = x.detach()
            self._note_autocast(inputs[0], line)
        elif told.name == "lift_fresh":
            self._note_outside(inputs[0], line)

    def number(self, x: torch.Tensor) -> int:
        """A tensor's number. What nothing has made is a constant of the candidate's own, or a view of what has been met."""
        known = self._known.get(id(x))
        if known is not None and known.tensor() is x and (known.address == _address(x) or known.memory == self._memory(x)):
            log = self._written.get(known.memory, [])
            if known.writes == len(log):
                return known.number
            first, last = _reach(x)
            later = [value for value, (start, end) in log[known.writes :] if start <= last and first <= end]
            known.writes = len(log)
            return self._alias(x, (known.number, *dict.fromkeys(later))) if later else known.number
        memory = self._memory(x)
        if memory not in self._in_memory:
            return self._new(x, data=False)
        return self._alias(x, (self._in_memory[memory], *dict.fromkeys(value for value, _ in self._written.get(memory, []))))

    def _alias(self, x: torch.Tensor, inputs: tuple[int, ...]) -> int:
        """A new number for a tensor whose memory was written through another one."""
        data = not self._data.isdisjoint(inputs)
        value = self._new(x, data=data)
        if data:
            self.course.append(("alias", (value,)))
        elif not self._weights.isdisjoint(inputs):
            self._weights.add(value)
        if self.keep is None:
            self.operations.append(Operation("move", "alias", inputs, (value,), {}, self.path, user_line(self.until)))
        self._keep((value,), (x,))
        return value

    def _new(self, x: torch.Tensor, *, data: bool, made: bool = False) -> int:
        value = self._count[data]
        self._count[data] += 1
        if data:
            self._data.add(value)
        self.shapes[value], self.dtypes[value] = tuple(x.shape), _dtype(x.dtype)
        memory = self._memory(x)
        if memory is not None and memory not in self._in_memory:
            self._in_memory[memory] = value
            if made:
                self._made.add(memory)
        writes = len(self._written.get(memory, []))
        self._known[id(x)] = _Known(weakref.ref(x), value, memory, _address(x), writes)
        return value

    def _memory(self, x: torch.Tensor) -> int | None:
        """What stands for the memory that a tensor is a view of, NumPy's view of it being the same; None where it has none."""
        try:
            storage = x.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return None
        place = storage._cdata
        if place not in self._memories:
            try:
                address = storage.data_ptr()
            except RuntimeError:
                address = 0
            older = self._addresses.get(address) if address else None
            same = place if older is None or self._memories[older][0].expired() else older  # type: ignore[no-untyped-call]
            self._memories[place] = (StorageWeakRef(storage), same)  # type: ignore[no-untyped-call]
            self._addresses[address] = same
        return self._memories[place][1]

    def _write(self, x: torch.Tensor) -> None:
        """What was written is what `x` is now; others that show it are told when they are used."""
        known = self._known[id(x)]
        if known.memory is not None:
            log = self._written.setdefault(known.memory, [])
            log.append((known.number, _reach(x)))
            known.writes = len(log)

    def _save(self, x: torch.Tensor) -> None:
        """Keep what is there before it is written: for the graph, and where it was there before the run to be put back after it."""
        memory = self._memory(x)
        for value, constant in self._constants.items():
            if memory is not None and self._memory(constant) == memory:
                self._constants[value] = constant.clone()
        if memory is not None and memory not in self._made and memory not in self._saved:
            storage = x.untyped_storage()
            self._saved[memory] = (storage, storage.clone())  # type: ignore[no-untyped-call]

    def _keep(self, values: Collection[int], given: Sequence[torch.Tensor]) -> None:
        if self.keep is not None:
            for value, x in zip(values, given, strict=True):
                if value in self.keep:
                    self.kept[value] = x.detach().clone()

    def _fail(self, name: str, given: Sequence[torch.Tensor], numbers: Sequence[int]) -> None:
        self.failed = Failed(
            name,
            tuple((tuple(x.shape), _dtype(x.dtype)) for x in given),
            tuple(self.parameters[value] for value in numbers if value in self.parameters),
            tuple(value in self._data for value in numbers),
        )

    def _note_autocast(self, x: torch.Tensor, line: str) -> None:
        """Operations that are cast do not show that they are; modules, and operations beside them, do."""
        kind = x.device.type
        if self.autocast is None and torch.is_autocast_enabled(kind):
            self.autocast = (_dtype(torch.get_autocast_dtype(kind)), line)

    def _note_outside(self, x: torch.Tensor, line: str) -> None:
        """Numbers of the data's own shape that no operation made went through another library."""
        if x.is_floating_point() and x.ndim > 1 and tuple(x.shape) in {self.shapes[value] for value in self._data}:
            self.from_outside.setdefault(tuple(x.shape), line)

    def ended(self, out: Any) -> None:
        """Take what the module returned."""
        self.returned = named_outputs(out, lambda x: isinstance(x, torch.Tensor))
        self.outputs = {name: self.number(x) for name, x in self.returned.items()}

    def restore(self) -> None:
        """Put back what was written into memory that was there before."""
        for storage, before in self._saved.values():
            storage.copy_(before)

    @property
    def follows(self) -> bool:
        """Whether what is returned comes from the images."""
        return not self._data.isdisjoint(self.outputs.values())

    def graph(self, notes: tuple[str, ...] = ()) -> Graph:
        return Graph(
            tuple(self.operations),
            self.shapes,
            self.dtypes,
            self.images,
            self.parameters,
            {value: own_array(x) for value, x in self._constants.items()},
            self.outputs,
            tuple(self.modules),
            notes,
        )

    def begun(self, path: str, given: Any) -> None:
        """A module begins."""
        found = tensors(given)
        self._inside.append((path, tuple([self.number(x) for x in found])))
        if found and self.autocast is None:
            self._note_autocast(found[0], user_line(self.until))

    def over(self, path: str, out: Any) -> None:
        """A module ended, and all inside that raised what was caught."""
        while self._inside:
            inner, given = self._inside.pop()
            if inner == path:
                self.modules.append(ModuleRun(path, given, tuple([self.number(x) for x in tensors(out)])))
                return


def own_array(x: torch.Tensor) -> np.ndarray:
    """A tensor that nothing else writes as an array, without a copy where there is none to be made."""
    if x.device.type == "cpu" and type(x) is torch.Tensor and x.dtype is not torch.bfloat16:
        return x.resolve_conj().resolve_neg().numpy()
    return array_of(x, "a value")


def _reach(x: torch.Tensor) -> tuple[int, int]:
    """The first and the last byte, counted from the start of its memory, that a tensor may show."""
    first = int(x.storage_offset())
    last = first + sum((n - 1) * int(step) for n, step in zip(x.shape, x.stride(), strict=True)) if x.numel() else first - 1
    return first * x.itemsize, (last + 1) * x.itemsize - 1


def _address(x: torch.Tensor) -> int:
    """Where its numbers begin; 0 where that is not told."""
    try:
        return x.data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def hooked(modules: Mapping[str, nn.Module], recorder: Recorder) -> Iterator[None]:
    """While open, the recorder knows in which module an operation runs, and what each module was given and returned.

    Scripted modules take no hooks: what they do is seen, but not that it is theirs.
    """
    handles = []
    for path, module in modules.items():
        if not path or isinstance(module, torch.jit.ScriptModule):
            continue

        def begun(module: Any, args: Any, kwargs: Any, path: str = path) -> None:
            recorder.begun(path, (args, kwargs))

        def ended(module: Any, args: Any, kwargs: Any, out: Any, path: str = path) -> None:
            recorder.over(path, out)

        handles.append(module.register_forward_pre_hook(begun, with_kwargs=True))
        handles.append(module.register_forward_hook(ended, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

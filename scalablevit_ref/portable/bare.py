"""Arrays of PyTorch and JAX without their libraries' native operations: the specification runs its definitions on them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any


class Bare:
    """An array of which only operators, slices and a namespace's functions are seen, as the array API standard has them.

    Whatever has `__array_namespace__` is computed with by the definitions alone (`backends.standard`).

    Parameters
    ----------
    held
        The array.
    functions
        The namespace's functions by their names: what the definitions and einops ask for.
    """

    def __init__(self, held: Any, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.held, self.functions = held, functions

    @property
    def shape(self) -> tuple[int, ...]:
        return Shape(self.held.shape)

    @property
    def dtype(self) -> Any:
        return self.held.dtype

    @property
    def device(self) -> None:
        """The same for all: a program that is traced lies nowhere yet."""
        return

    def __array_namespace__(self) -> Namespace:
        return Namespace(self.functions)

    def __getitem__(self, key: Any) -> Bare:
        return Bare(self.held[key], self.functions)

    def __abs__(self) -> Bare:
        return Bare(abs(self.held), self.functions)

    def _with(self, other: Any, function: Callable[[Any, Any], Any]) -> Bare:
        return Bare(function(self.held, other.held if isinstance(other, Bare) else other), self.functions)

    def __add__(self, other: Any) -> Bare:
        return self._with(other, operator.add)

    def __radd__(self, other: float) -> Bare:
        return self._with(other, lambda x, y: y + x)

    def __sub__(self, other: Any) -> Bare:
        return self._with(other, operator.sub)

    def __rsub__(self, other: float) -> Bare:
        return self._with(other, lambda x, y: y - x)

    def __mul__(self, other: Any) -> Bare:
        return self._with(other, operator.mul)

    def __rmul__(self, other: float) -> Bare:
        return self._with(other, lambda x, y: y * x)

    def __truediv__(self, other: Any) -> Bare:
        return self._with(other, operator.truediv)

    def __rtruediv__(self, other: float) -> Bare:
        return self._with(other, lambda x, y: y / x)

    def __pow__(self, other: float) -> Bare:
        return self._with(other, operator.pow)

    def __matmul__(self, other: Bare) -> Bare:
        return self._with(other, operator.matmul)


class Namespace:
    """A library's functions, of bare arrays."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.functions = functions

    def __getattr__(self, name: str) -> Callable[..., Bare]:
        function = self.functions[name]

        def called(x: Any, *arguments: Any, **settings: Any) -> Bare:
            held = [part.held for part in x] if isinstance(x, list) else getattr(x, "held", x)
            return Bare(function(held, *arguments, **settings), self.functions)

        return called


class Shape(tuple[int, ...]):
    """A shape some of whose sizes may be symbols, which have no hash: einops, which keeps what it finds for a shape, needs one."""

    __hash__ = object.__hash__

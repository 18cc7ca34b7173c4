"""Each operation's definition: a few lines of operators and einops, the same for every library.

The body of a function here *is* the specification. `@op` looks whether the library that owns the array has a native version
(`scalablevit_ref.backends`) and hands over to it; the definition itself stays at hand as `linear.definition` and so on.
Of a library the definitions need operators, slicing, `exp` and `zeros`, nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import product
from math import pi
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from scalablevit_ref._typing import Array, Float
from scalablevit_ref.backends import backend
from scalablevit_ref.backends.einops import pack, rearrange, reduce

P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)


@runtime_checkable
class Op(Protocol[P, Result]):
    """An operation as the rest of the package calls it: with its definition's own signature."""

    definition: Callable[Concatenate[Any, P], Any]

    def __call__(self, x: Any, /, *args: P.args, **kwargs: P.kwargs) -> Result: ...


def op(definition: Callable[Concatenate[Any, P], Result]) -> Op[P, Result]:
    """Run a backend's own version of this op where it has one, the definition where it has none."""
    name = definition.__name__

    @wraps(definition)
    def dispatched(x: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        return getattr(backend(x), name, definition)(x, *args, **kwargs)

    dispatched.definition = definition  # type: ignore[attr-defined]
    return cast("Op[P, Result]", dispatched)


@op
def linear(
    x: Float[Array, "*n c_in"], weight: Float[Array, "c_out c_in"], bias: Float[Array, c_out] | None = None
) -> Float[Array, "*n c_out"]:
    """X Wᵀ + b over the last axis (`torch.nn.Linear`).

    Examples
    --------
    >>> import numpy as np
    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5]))
    array([[11.5]])
    """
    y = x @ rearrange(weight, "c_out c_in -> c_in c_out")
    return y if bias is None else y + bias


@op
def layer_norm(x: Float[Array, "*n c"], weight: Float[Array, c], bias: Float[Array, c], *, eps: float) -> Float[Array, "*n c"]:
    """(x − mean) / √(variance + eps) · gain + shift over the last axis; the variance is the biased one (`torch.nn.LayerNorm`).

    Examples
    --------
    >>> import numpy as np
    >>> layer_norm(np.array([1.0, 3.0]), np.ones(2), np.zeros(2), eps=0.0)
    array([-1.,  1.])
    """
    x = x - reduce(x, "... c -> ... 1", "mean")
    variance = reduce(x * x, "... c -> ... 1", "mean")
    return x / (variance + eps) ** 0.5 * weight + bias


@op
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x·Φ(x) = x/2 · (1 + erf(x/√2)), the exact form, not the tanh one (`torch.nn.GELU`).

    Examples
    --------
    >>> import numpy as np
    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    magnitude = abs(x)  # erf is odd, so x·erf(x) = |x|·erf(|x|)
    return (x + magnitude * erf(magnitude * 0.5**0.5)) * 0.5


@op
def gelu_tanh(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), the approximate GELU (`jax.nn.gelu`, `torch.nn.GELU("tanh")`).

    Examples
    --------
    >>> import numpy as np
    >>> gelu_tanh(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1588,  0.    ,  0.8412])
    """
    magnitude = abs(x)  # tanh is odd, so x·tanh(y) = |x|·tanh(|y|)
    decay = backend(x).exp(magnitude * (1.0 + 0.044715 * magnitude * magnitude) * -((8.0 / pi) ** 0.5))
    return (x + magnitude * (1.0 - decay) / (1.0 + decay)) * 0.5


@op
def erf(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The error function of x ≥ 0, as 1 − t·exp(−x² + P(t)) with t = 2/(2 + x), to 2e-16.

    P is the Chebyshev series of log(erfc(x)/t) + x² over 0 < t ≤ 1, summed by Clenshaw's recurrence.

    Examples
    --------
    >>> import numpy as np
    >>> erf(np.array([0.0, 1.0, 2.0])).round(6)
    array([0.      , 0.842701, 0.995322])
    """
    t = 2.0 / (2.0 + x)
    y = 4.0 * t - 2.0
    d, previous = y * 0.0, y * 0.0
    for coefficient in reversed(ERFC_SERIES[1:]):
        d, previous = y * d - previous + coefficient, d
    return 1.0 - t * backend(x).exp(0.5 * y * d - previous + ERFC_SERIES[0] - x * x)


# fmt: off
ERFC_SERIES = (
    -0.6513268598908547171, 0.6419697923564902603, 0.019476473204185836312, -0.0095615147868086316419,
    -0.0009465953444820368663, 0.00036683949785276145187, 4.2523324806907771645e-5, -2.0278578112534243154e-5,
    -1.6242900046470255135e-6, 1.3036558355805232018e-6, 1.5626441722066143178e-8, -8.5238095914926542525e-8,
    6.5290544390988514964e-9, 5.0593434955514689418e-9, -9.9136415649303308674e-10, -2.2736512229318358557e-10,
    9.646791102015526802e-11, 2.3940380830391147447e-12, -6.8860275264975533984e-12, 8.9448792730907257167e-13,
    3.1309213993429580783e-13, -1.1270822361367252366e-13, 3.8109052551892320553e-16, 7.1060976136092369877e-15,
    -1.5230282014571043043e-15, -9.457494571291234002e-17, 1.2102371892242789925e-16, -2.8166630877471769733e-17,
)
# fmt: on


@op
def softmax(x: Float[Array, "*n m"]) -> Float[Array, "*n m"]:
    """exp(x) / Σ exp(x) over the last axis, shifted by the largest entry so that nothing overflows.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.log([1.0, 3.0]))
    array([0.25, 0.75])
    """
    x = backend(x).exp(x - reduce(x, "... m -> ... 1", "max"))
    return x / reduce(x, "... m -> ... 1", "sum")


@op
def attention(
    q: Float[Array, "*b n d"], k: Float[Array, "*b m d"], v: Float[Array, "*b m e"], *, scale: float
) -> Float[Array, "*b n e"]:
    """softmax(q kᵀ · scale) v, for each of the leading axes.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.ones((1, 5, 8)), np.ones((1, 3, 8)), np.ones((1, 3, 4))
    >>> attention(q, k, v, scale=8**-0.5).shape
    (1, 5, 4)
    """
    return softmax(q @ rearrange(k, "... m d -> ... d m") * scale) @ v


@op
def conv2d(
    x: Float[Array, "b h w c_in"],
    weight: Float[Array, "c_out c_in_per_group kh kw"],
    bias: Float[Array, c_out] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "b h2 w2 c_out"]:
    """Cross-correlation of a b h w c map (`torch.nn.Conv2d`, whose maps are b c h w): one product for each offset in the kernel.

    h' = ⌊(h + 2·padding − kh) / stride⌋ + 1; rows and columns at the end that fill no whole step are dropped.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.ones((1, 8, 8, 3)), np.ones((16, 3, 3, 3)), stride=2, padding=1).shape
    (1, 4, 4, 16)
    """
    kh, kw = weight.shape[2:]
    h = (x.shape[1] + 2 * padding - kh) // stride + 1
    w = (x.shape[2] + 2 * padding - kw) // stride + 1
    x = pad(x, top=padding, bottom=padding, left=padding, right=padding)
    kernel = rearrange(weight, "(g c_out) c_in kh kw -> kh kw g c_in c_out", g=groups)
    y = 0.0
    for i, j in product(range(kh), range(kw)):
        rows = slice(i, i + stride * (h - 1) + 1, stride)
        columns = slice(j, j + stride * (w - 1) + 1, stride)
        patch = rearrange(x[:, rows, columns, :], "b h w (g c_in) -> g (b h w) c_in", g=groups)
        y = y + patch @ kernel[i, j, ...]
    y = rearrange(y, "g (b h w) c_out -> b h w (g c_out)", h=h, w=w)
    return y if bias is None else y + bias


@op
def pad(x: Float[Array, "b h w c"], *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Float[Array, "b h2 w2 c"]:
    """Zeros around a b h w c map (`torch.nn.functional.pad`); with none to add it is the map itself, not a copy.

    Examples
    --------
    >>> import numpy as np
    >>> pad(np.ones((1, 5, 5, 2)), bottom=2, right=2).shape
    (1, 7, 7, 2)
    """
    if not (top or bottom or left or right):
        return x
    zeros = backend(x).zeros
    b, h, w, c = x.shape
    x, _ = pack([zeros(x, (b, h, left, c)), x, zeros(x, (b, h, right, c))], "b h * c")
    x, _ = pack([zeros(x, (b, top, left + w + right, c)), x, zeros(x, (b, bottom, left + w + right, c))], "b * w c")
    return x

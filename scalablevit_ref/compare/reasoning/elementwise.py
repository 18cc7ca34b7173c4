"""A function of each number for itself: named, fitted, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, SAMPLE, Case, sampled
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import named, three_digits
from scalablevit_ref.ops import erf, gelu, gelu_tanh

DRAWN = 200
"""Points of a function in the data of a finding."""

FEWEST = 16
"""Numbers that a function must explain."""

DISTINCT = 0.25
"""Share of the numbers that must be distinct for a function without a name to be told of them."""

SINGLE_VALUED = 0.05
"""Share of what is not linear in a function that neighbouring points may leave unexplained."""

Function = Callable[[np.ndarray], np.ndarray]
Family = Callable[[np.ndarray, float], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


def softplus(x: np.ndarray, beta: float = 1.0) -> np.ndarray:
    return np.asarray(np.logaddexp(0, beta * x) / beta)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.sign(x) * erf(abs(x) * 0.5**0.5)))


def _elu(x: np.ndarray, alpha: float, width: float = 1.0) -> np.ndarray:
    return np.asarray(np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / width)))


def _relu(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x, 0))


def _rounded(decimals: int, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(x, decimals))


FUNCTIONS: Mapping[str, Function] = {
    "GELU": lambda x: np.asarray(gelu(x)),
    "the tanh form of GELU": lambda x: np.asarray(gelu_tanh(x)),
    "the sigmoid form of GELU, x·σ(1.702 x)": lambda x: x * sigmoid(1.702 * x),
    "SiLU": lambda x: x * sigmoid(x),
    "ReLU": _relu,
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "Mish": lambda x: x * np.tanh(softplus(x)),
    "softplus": softplus,
    "softsign": lambda x: x / (1 + abs(x)),
    "log-sigmoid": lambda x: -softplus(-x),
    "tanhshrink": lambda x: x - np.tanh(x),
    "ELU": lambda x: _elu(x, 1.0),
    "SELU": lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543772),
    "tanh": np.tanh,
    "the sigmoid": sigmoid,
    "erf": lambda x: np.sign(x) * np.asarray(erf(abs(x))),
    "Φ, GELU without its factor x": normal_cdf,
    "the derivative of GELU": lambda x: normal_cdf(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    "the derivative of SiLU": lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    "the derivative of ReLU": lambda x: (x > 0).astype(float),
    "the magnitude": abs,
    "the square": np.square,
    "the square of ReLU": lambda x: _relu(x) ** 2,
    "the square root of the magnitude": lambda x: np.sqrt(abs(x)),
    "the sign": np.sign,
    "exp": lambda x: np.exp(np.minimum(x, 700)),
    "the sine": np.sin,
    "the cosine": np.cos,
    "rounding to whole numbers": np.round,
    **{f"rounding to {n} decimal{'s' * (n > 1)}": partial(_rounded, n) for n in (1, 2, 3, 4)},
}

FAMILIES: Mapping[str, tuple[Family, tuple[float, float]]] = {
    "x·σ({} x)": (lambda x, p: x * sigmoid(p * x), (0.2, 10)),
    "LeakyReLU with slope {}": (lambda x, p: np.where(x > 0, x, p * x), (1e-3, 0.9)),
    "ELU with α = {}": (_elu, (0.05, 5)),
    "CELU with α = {}": (lambda x, p: _elu(x, p, p), (0.05, 5)),
    "softplus with β = {}": (softplus, (0.2, 20)),
    "softplus with β = {}, shifted to 0 at 0": (lambda x, p: softplus(x, p) - np.log(2) / p, (0.2, 20)),
    "x·Φ({} x)": (lambda x, p: x * normal_cdf(p * x), (0.2, 10)),
    "Mish with β = {}": (lambda x, p: x * np.tanh(softplus(x, p)), (0.2, 10)),
    "tanh of {} x": (lambda x, p: np.tanh(p * x), (0.05, 10)),
    "the sigmoid of {} x": (lambda x, p: sigmoid(p * x), (0.05, 10)),
    "exp of {} x": (lambda x, p: np.exp(np.clip(p * x, -700, 700)), (0.05, 10)),
    "the power {} of the magnitude": (lambda x, p: abs(x) ** p, (0.25, 4)),
    "the power {} of the magnitude, with the sign": (lambda x, p: np.sign(x) * abs(x) ** p, (0.25, 4)),
    "soft shrinkage by {}": (lambda x, p: np.sign(x) * _relu(abs(x) - p), (0.01, 3)),
}


def named_function(case: Case) -> list[Difference]:
    """A function that has a name and no free number, of the reference's value or of a given one; also twice in a row."""
    found = []
    enough = case.actual.size >= FEWEST and len(np.unique(case.actual.ravel()[: 4 * FEWEST])) > 1
    for source, x in case.sources():
        name = function_of(case, x, case.actual) if enough else None
        if name is None:
            continue
        left = case.left(_composed(name)(x))
        data = {"function": name, "of": source, **_drawn(x.ravel(), case.actual.ravel())}
        found.append(Difference("elementwise", _words(case, name, source), left, data, True))
    return found[:2]


def function_of(case: Case, x: np.ndarray, y: np.ndarray) -> str | None:
    """The name of the function that makes y of x."""
    at = sampled(y.size, 512)
    few_x, few_y = x.ravel()[at], y.ravel()[at]
    bar = 8 * max(case.bar if y is case.actual else case.tolerance, 1e-13) * float(np.linalg.norm(few_y))
    size = float(np.linalg.norm(y)) or 1.0
    with np.errstate(all="ignore"):
        for name in (*FUNCTIONS, *(f"{name}{TWICE}" for name in FUNCTIONS)):
            function = _composed(name)
            if np.linalg.norm(function(few_x) - few_y) > bar:
                continue
            if np.linalg.norm(function(x) - y) <= (case.bar if y is case.actual else case.tolerance) * size:
                return name
    return None


TWICE = ", twice in a row"


def _composed(name: str) -> Function:
    if not name.endswith(TWICE):
        return FUNCTIONS[name]
    once = FUNCTIONS[name.removesuffix(TWICE)]
    return lambda x: once(once(x))


def _words(case: Case, name: str, source: str) -> str:
    if source == REFERENCE and name.startswith("rounding"):
        return f"the reference's value, with {name}"
    if source == REFERENCE:
        return f"{name} of the reference's value: {name.removesuffix(TWICE)} is applied once more than in the reference"
    own = function_of(case, case.given[source], case.expected)
    if own is not None and own != name:
        if name == own + TWICE:
            return f"{own} is applied twice to {source}"
        return f"it is {name} of {source}, where the reference has {own}"
    return f"it is {name} of {source}"


def fitted_function(case: Case) -> list[Difference]:
    """A function of a family with a free number, a clamp, or a named function with a factor."""
    half = case.actual.size // 2
    if half < 32:
        return []
    at = sampled(case.actual.size, SAMPLE)
    y = case.actual.ravel()[at]
    for source, whole in case.sources():
        x = whole.ravel()[at]
        for name, function, data in (*_bounds(whole, case.actual), *_families(x, y, case.bar), *_scaled(case, x, y)):
            if not np.linalg.norm(function(x) - y) <= 8 * max(case.bar, 1e-13) * float(np.linalg.norm(y)):
                continue
            left = case.explains(function(whole))
            if left is not None:
                of = "the reference's value" if source == REFERENCE else source
                own = None if source == REFERENCE else function_of(case, whole, case.expected)
                words = f"it is {name} of {of}" + (f", where the reference has {own}" if own else "")
                return [Difference("elementwise", words, left, {"function": name, "of": source, **data, **_drawn(x, y)}, True)]
    return []


def _bounds(x: np.ndarray, y: np.ndarray) -> list[tuple[str, Function, dict[str, float]]]:
    """Clamps and thresholds, whose numbers are read off the values themselves."""
    low, high = float(y.min()), float(y.max())
    if low >= high:
        return []
    bounds = f"[{three_digits(low)}, {three_digits(high)}]"
    found: list[tuple[str, Function, dict[str, float]]] = [
        (f"a clamp to {bounds}", lambda t: np.clip(t, low, high), {"low": low, "high": high}),
        (f"a clamp below {three_digits(low)}", lambda t: np.maximum(t, low), {"low": low}),
        (f"a clamp above {three_digits(high)}", lambda t: np.minimum(t, high), {"high": high}),
    ]
    zero = y == 0
    if np.any(zero) and np.any(x[zero]):
        size, top = float(abs(x[zero]).max()), float(x[zero].max())
        found.append((f"hard shrinkage by {three_digits(size)}", lambda t: np.where(abs(t) > size, t, 0), {"number": size}))
        found.append((f"ReLU above a threshold of {three_digits(top)}", lambda t: np.where(t > top, t, 0), {"number": top}))
    return found


def _families(x: np.ndarray, y: np.ndarray, bar: float) -> list[tuple[str, Function, dict[str, float]]]:
    """Every family with the number that fits best: the best of a grid, then Gauss and Newton."""
    found: list[tuple[str, Function, dict[str, float]]] = []
    coarse = slice(0, 256)
    with np.errstate(all="ignore"):
        for name, (family, (low, high)) in FAMILIES.items():
            grid = np.geomspace(low, high, 33)
            errors = [float(np.linalg.norm(family(x[coarse], p) - y[coarse])) for p in grid]
            p = float(grid[int(np.nanargmin(errors))])
            if min(errors) > 0.3 * float(np.linalg.norm(y[coarse])):
                continue
            for _ in range(12):
                step = 1e-6 * p
                slope = (family(x, p + step) - family(x, p - step)) / (2 * step)
                square = float(slope @ slope)
                p -= float(slope @ (family(x, p) - y)) / square if square else 0.0
                if not low / 4 < p < high * 4:
                    break
            else:
                found.append((name.format(named(p, within=max(1e-9, bar))), partial(_of_family, family, p), {"number": p}))
    return found


def _of_family(family: Family, p: float, x: np.ndarray) -> np.ndarray:
    return family(x, p)


def _times(function: Function, factor: float, x: np.ndarray) -> np.ndarray:
    return factor * function(x)


def _scaled(case: Case, x: np.ndarray, y: np.ndarray) -> list[tuple[str, Function, dict[str, float]]]:
    """Named functions times a factor."""
    found: list[tuple[str, Function, dict[str, float]]] = []
    with np.errstate(all="ignore"):
        for name, function in FUNCTIONS.items():
            z = function(x)
            square = float(z @ z)
            if not np.isfinite(square) or not square:
                continue
            factor = float(z @ y) / square
            if np.linalg.norm(factor * z - y) <= 8 * max(case.bar, 1e-13) * float(np.linalg.norm(y)):
                word = named(factor, within=max(16 * case.eps, 1e-9), channels=case.channels, num_heads=case.num_heads)
                found.append((f"{word} times {name}", partial(_times, function, factor), {"factor": factor}))
    return found


def some_function(case: Case) -> list[Difference]:
    """A function without a name: neighbours give neighbours. The outermost hundredths, where points are far apart, are left out."""
    at = sampled(case.actual.size, 8 * SAMPLE)
    y = case.actual.ravel()[at]
    if len(at) < 256:
        return []
    found = []
    for source, whole in case.sources():
        x = whole.ravel()[at]
        inner = np.argsort(x)[len(x) // 100 : -(len(x) // 100)]
        xs, ys = x[inner], y[inner]
        if min(len(np.unique(xs)), len(np.unique(ys))) < DISTINCT * len(xs):  # each of few numbers would be a function by itself
            continue
        guess = np.interp(xs[1:-1:2], xs[::2], ys[::2])
        miss = float(np.sqrt(np.mean((guess - ys[1:-1:2]) ** 2)))
        slope = float(np.cov(xs, ys)[0, 1] / np.var(xs, ddof=1))
        not_linear = float(np.std(ys - slope * xs))
        size = float(np.sqrt(np.mean(ys**2))) or 1.0
        if not_linear <= 1e-3 * size or miss > SINGLE_VALUED * not_linear:
            continue
        of = "the reference's value" if source == REFERENCE else source
        words = f"each number is a function of the number of {of} at the same place, one without a name here"
        found.append(Difference("elementwise", words, miss / size, {"of": source, **_drawn(x, y)}, miss / size <= case.bar))
    return sorted(found, key=lambda one: one.left)[:1]


def _drawn(x: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    """Points of the function's graph, in ascending order of x."""
    order = np.argsort(x)[np.unique(np.linspace(0, len(x) - 1, DRAWN).astype(int))]
    return {"x": x[order].tolist(), "y": y[order].tolist()}

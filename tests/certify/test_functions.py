"""What is proved of the definitions' own errors: the figures, that they bound what is computed, and that they would see a fault."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from flint import arb
from scalablevit_ref.backends import numpy as kernels
from scalablevit_ref.backends.balls import precision
from scalablevit_ref.backends.dispatch import registered

from scalablevit_ref import ops
from scalablevit_ref.certify import functions
from scalablevit_ref.certify.functions import (
    erf_method_error,
    erf_rounding_error,
    gelu32_method_error,
    gelu32_rounding_error,
    gelu_method_error,
    layer_norm_error,
    softmax_error,
    sum_error,
)
from scalablevit_ref.testing import EPS

pytestmark = pytest.mark.usefixtures("as_in_production")

X = np.concatenate([np.linspace(0, 9, 1801), np.geomspace(1e-300, 1e300, 601)])


def exact(function: str, x: np.ndarray) -> list[arb]:
    """Of Arb, in 200 bits."""
    with precision(200):
        if function == "erf":
            return [arb(value).erf() for value in x.tolist()]
        return [arb(value) / 2 * (1 + (arb(value) / arb(2).sqrt()).erf()) for value in x.tolist()]


def off(found: np.ndarray, true: list[arb]) -> np.ndarray:
    with precision(200):
        return np.array([float(abs(arb(float(a)) - b).upper()) for a, b in zip(found.ravel(), true, strict=True)])


def test_the_series_of_erf_is_right_to_2e_16() -> None:
    """The docstring's figure, for every x ≥ 0; what float64's roundings may add at most is five times that."""
    assert 3e-17 < erf_method_error() < 6e-17
    assert erf_method_error() < 2e-16
    assert erf_rounding_error() < 6 * EPS["float64"]


@pytest.mark.parametrize("erf", [ops.erf.definition, kernels.erf], ids=["definition", "NumPy's kernel"])
def test_erf_as_it_is_computed(erf: object) -> None:
    with np.errstate(over="ignore"):
        found = erf(X)  # type: ignore[operator]
    assert off(found, exact("erf", X)).max() <= erf_method_error() + erf_rounding_error()


def test_gelu_as_it_is_computed() -> None:
    """As a share of |x|; the last two roundings of the definition are by at most 2 eps of it."""
    x = np.concatenate([-X, X])
    x = x[np.abs(x) > 1e-290]
    with np.errstate(over="ignore"):
        share = off(kernels.gelu(x), exact("gelu", x)) / np.abs(x)
    assert gelu_method_error() < EPS["float64"] / 4
    assert share.max() <= gelu_method_error() + erf_rounding_error() / 2 + 2 * EPS["float64"]


def test_the_float32_kernel() -> None:
    """Its polynomial is right to half a float32 eps, as its comment says; computed, to four of |x| at most."""
    assert 0.4 < gelu32_method_error() / EPS["float32"] < 0.5
    assert gelu32_rounding_error() < 4 * EPS["float32"]
    x = X[(X > 1e-30) & (X < 1e30)].astype("float32")
    x = np.concatenate([-x, x])
    share = off(kernels.gelu(x), exact("gelu", x.astype("float64"))) / np.abs(x)
    assert 0 < share.max() <= gelu32_method_error() / 2 + gelu32_rounding_error()


def test_a_wrong_digit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any coefficient that counts; and a polynomial whose tail turns is refused."""
    for place in (0, 5, 20):
        series = list(ops.ERFC_SERIES)
        series[place] += 1e-13
        monkeypatch.setattr(ops, "ERFC_SERIES", tuple(series))
        assert erf_method_error() > 5e-14
    right = kernels._TANH_SERIES
    monkeypatch.setattr(kernels, "_TANH_SERIES", (*right[:4], right[4] * 1.1, *right[5:]))
    assert gelu32_method_error() > EPS["float32"]
    monkeypatch.setattr(kernels, "_TANH_SERIES", (-right[0], *right[1:]))
    with pytest.raises(ArithmeticError, match="P is not shown"):
        gelu32_method_error()


def test_nothing_is_left_behind() -> None:
    erf_method_error()
    assert functions.FormalBackend.NAME not in registered


def test_a_rounding_that_is_not_counted_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding in float32 where the proof counts float64's."""
    narrow = X[(X > 1e-30) & (X < 1e6)].astype("float32")
    worst = off(ops.erf.definition(narrow), exact("erf", narrow.astype("float64"))).max()
    assert worst > erf_method_error() + erf_rounding_error()
    monkeypatch.setitem(functions.UNITS, "float64", 2.0**-24)
    assert worst <= erf_method_error() + erf_rounding_error()


def sums(x: np.ndarray, w: np.ndarray) -> list[np.float32]:
    """Of products, in float32: from the left, in pairs, as BLAS has it and as PyTorch."""
    products = x * w
    left = np.float32(0)
    for term in products:
        left += term
    return [left, products.sum(), x @ w, (torch.from_numpy(x) @ torch.from_numpy(w)).numpy()]


@pytest.mark.parametrize("n", [27, 256, 2304, 4096])
def test_sums_in_any_order(n: int) -> None:
    """For the longest sums of `small`: its convolutions have 147 to 2,304 terms, its linear layers up to 4,096."""
    draws = np.random.default_rng(n)
    for x, w in ((draws.standard_normal(n), draws.standard_normal(n)), (1 + draws.random(n), 1 + draws.random(n))):
        x, w = x.astype("float32"), w.astype("float32")
        terms = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, w, strict=True)]
        true, sizes = sum(terms), sum(map(abs, terms))
        for found in sums(x, w):
            assert abs(Fraction(float(found)) - true) <= Fraction(sum_error(n, "float32")) * sizes
    assert sum_error(n, "float32") < 0.51 * n * EPS["float32"]


@pytest.mark.parametrize("n", [64, 512])
def test_a_layer_norm(n: int) -> None:
    """Of NumPy and PyTorch, with a mean of nothing and with one of many deviations."""
    draws = np.random.default_rng(n)
    for shift in (0.0, 3.0, 100.0):
        x = (draws.standard_normal((4, n)) + shift).astype("float32")
        wide = x.astype("float64")
        root = np.sqrt(wide.var(1, keepdims=True) + 1e-6)
        true = (wide - wide.mean(1, keepdims=True)) / root
        offset = float((np.abs(wide).mean(1, keepdims=True) / root).max()) * 1.0001
        allowed = layer_norm_error(n, "float32", offset=offset, size=float(np.abs(true).max()) * 1.0001)
        one, zero = np.ones(n, "float32"), np.zeros(n, "float32")
        shown = torch.nn.functional.layer_norm(torch.from_numpy(x), (n,), eps=1e-6).numpy()
        for found in (ops.layer_norm.definition(x, one, zero, eps=1e-6), kernels.layer_norm(x, one, zero, eps=1e-6), shown):
            assert np.abs(found - true).max() <= allowed + 1e-12


def test_a_softmax() -> None:
    draws = np.random.default_rng(0)
    for n in (49, 196):
        x = (4 * draws.standard_normal((20, n))).astype("float32")
        wide = np.exp(x.astype("float64") - x.max(1, keepdims=True))
        true = wide / wide.sum(1, keepdims=True)
        reach = float(np.ptp(x, axis=1).max())
        for found in (ops.softmax.definition(x), kernels.softmax(x), torch.from_numpy(x).softmax(1).numpy()):
            assert (np.abs(found - true) / true).max() <= softmax_error(n, "float32", reach=reach)

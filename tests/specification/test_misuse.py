"""Misuse of every public function ends in one line that names the culprit, or does what was meant.

Each argument of each function is replaced by every value of `tests.support.misuse`, some 30,000 calls.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy  # noqa: F401  (before the first call: it takes long)
import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import testing
from scalablevit_ref.testing import arrays, equivalence, traces
from tests.support.misuse import USES, Use, misuses
from tests.support.profiles import share

pytestmark = pytest.mark.usefixtures("as_in_production")

NOT_CALLED = {"CheckpointError", "dialects"}
"""Names of `__all__` that are no functions: the error takes any words; the dialects' functions have names of their own here."""


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some words are names of files, which a function may write."""
    monkeypatch.chdir(tmp_path)


def said_by(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def wrong(use: Use, name: str) -> list[str]:
    """What comes of each misuse of one argument, where it is not what may come of it."""
    found = []
    right = None
    for what, value, may, words in misuses(use, name):
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # an epsilon that float32 does not hold
                result = use(**{name: value})
        except (TypeError, ValueError) as error:
            if may == "equal":
                found.append(f"{what} must work: {said_by(error)}")
            elif may == "refused" and not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(error)) for word in words):
                found.append(f"{what} is refused without {' or '.join(words)}: {said_by(error)}")
        except AssertionError as error:
            if use.function.__module__ != arrays.__name__ and (use.function.__module__ not in DIFFER or may == "refused"):
                found.append(f"{what}: {said_by(error)}")
        except OSError as error:
            if may != "anything":
                found.append(f"{what}: {said_by(error)}")
        except Exception as error:
            found.append(f"{what} ends in {said_by(error)}")
        else:
            if may == "refused":
                found.append(f"{what} is accepted")
            elif may == "equal":
                right = use() if right is None else right
                if not same(result, right):
                    found.append(f"{what} gives another result")
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal; arrays, of any library, up to rounding."""
    if isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in b)
    if isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(b, "shape"):
        x, y = sv.to_numpy(a), sv.to_numpy(b)
        return x.dtype == y.dtype and x.shape == y.shape and np.allclose(x, y, rtol=1e-4, atol=1e-5)
    if is_dataclass(b):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(b) if f.name != "seconds")
    return bool(a == b) if isinstance(b, int | float | str) else type(a) is type(b)


DIFFER = {arrays.__name__, equivalence.__name__}
"""Whose functions raise an AssertionError where arrays or networks differ."""

CASES = [(label, name) for label, use in USES.items() for name in use.arguments()]


@pytest.mark.parametrize(("label", "name"), share(CASES, of=3), ids=lambda word: word)
def test_misuse_names_the_culprit(label: str, name: str) -> None:
    assert wrong(USES[label], name) == []


@pytest.mark.parametrize("label", USES)
def test_the_call_that_is_misused_is_right(label: str) -> None:
    """And says of each of its arguments what it takes."""
    use = USES[label]
    use()
    parameters = inspect.signature(use.function).parameters
    assert set(use.arguments()) | {name for name, kind in use.kinds.items() if not kind} >= set(parameters) - {
        "options",
        "overrides",
    }
    assert [name for name in use.arguments() if use.kind(name) == "?"] == []


def public(module: ModuleType) -> set[str]:
    """The functions that a module makes public: those in its `__all__`, or its own without an underscore."""
    listed = getattr(module, "__all__", None)
    functions = {name for name, x in vars(module).items() if inspect.isfunction(x) and name[0] != "_"}
    return {name for name in functions if (name in listed if listed else vars(module)[name].__module__ == module.__name__)}


def test_every_public_function_is_misused() -> None:
    """A function that is new, or a parameter of one, must be in the table."""
    called = {label.partition(" ")[0] for label in USES}
    assert set(sv.__all__) - called == NOT_CALLED
    assert {f"testing.{name}" for name in testing.__all__ if callable(getattr(testing, name))} <= called
    own = {
        name
        for name in public(arrays)
        if getattr(arrays, name).__module__ == arrays.__name__ and inspect.isfunction(getattr(arrays, name))
    }
    assert {f"testing.arrays.{name}" for name in own - set(testing.__all__) - {"ratio"}} <= called
    own = {name for name in public(traces) if getattr(traces, name).__module__ == traces.__name__} - {
        "trace_writes",
        "check_trace_file",
    }
    assert {f"testing.traces.{name}" for name in own} <= called
    for dialect in (sv.dialects.vit_pytorch, sv.dialects.flax_port):
        short = dialect.__name__.removeprefix("scalablevit_ref.")
        assert {f"{short}.{name}" for name in public(dialect) - {"table"}} <= called


SCALARS = {
    "num_heads": np.int64(2),
    "sr_ratio": np.int32(2),
    "c_ratio": np.float64(1.25),
    "norm_eps": np.float32(1e-6),
    "eps": np.float64(1e-6),
    "patch_size": np.uint8(2),
    "window_size": np.int16(2),
    "pad": np.False_,
}


@pytest.mark.parametrize("label", [label for label in USES if label.split()[0] in ("ssa", "iwsa", "block", "patch_embed")])
def test_numpy_scalars_are_numbers(label: str) -> None:
    """They widen nothing: the result has the dtype of the input."""
    use = USES[label]
    given = {name: value for name, value in SCALARS.items() if use.arguments().get(name) is not None}
    assert same(use(**given), use())


def test_a_configuration_of_numpy_scalars_is_one_of_numbers() -> None:
    """So that it can be written as JSON."""
    config = sv.variant(
        "digits", num_classes=np.int64(10), norm_eps=np.float32(0.5), qkv_bias=np.True_, depths=np.array([2, 2, 2, 2])
    )
    assert config == sv.variant("digits", norm_eps=0.5)
    values = [getattr(config, f.name) for f in fields(config)]
    assert {type(x) for value in values for x in (value if isinstance(value, tuple) else (value,))} <= {
        int,
        float,
        bool,
        str,
        type(None),
    }

"""Hypothesis' profiles: how many examples a property gets. `HYPOTHESIS_PROFILE` chooses one.

None has a deadline or looks at how long drawing takes: no test fails because the machine is slow or has other work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings

T = TypeVar("T")

COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    "report_multiple_bugs": False,  # a failing property raises the one AssertionError, not a group of several
}


def load() -> None:
    """Register all profiles and load the one asked for: dev (the default), quick and ci (the same examples every time), nightly."""
    settings.register_profile("mutation", max_examples=6, derandomize=True, database=None, phases=[Phase.generate], **COMMON)
    settings.register_profile("dev", max_examples=8, **COMMON)
    settings.register_profile("quick", max_examples=8, derandomize=True, database=None, print_blob=True, **COMMON)
    settings.register_profile("ci", max_examples=25, derandomize=True, database=None, print_blob=True, **COMMON)
    settings.register_profile("nightly", max_examples=500, print_blob=True, **COMMON)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def share(cases: Sequence[T], of: int) -> list[T]:
    """One of so many cases, evenly spread over all; `nightly` runs all."""
    return list(cases[:: 1 if is_nightly() else of])


def is_nightly() -> bool:
    """Whether the profile that was loaded is the one that leaves nothing out."""
    return settings.get_current_profile_name() == "nightly"

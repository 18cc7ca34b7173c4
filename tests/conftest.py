"""Shapes in signatures are checked at every call: jaxtyping's hook goes in before the specification is first imported."""

from collections.abc import Iterator

import jaxtyping
import pytest

import tests.typecheck  # noqa: F401  (the hook names it, but does not import it)

SPECIFICATION = ["scalablevit_ref.ops", "scalablevit_ref.attention", "scalablevit_ref.network"]

with jaxtyping.install_import_hook(SPECIFICATION, "tests.typecheck.check"):
    import scalablevit_ref  # noqa: F401


@pytest.fixture(params=["numpy", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each library that holds arrays."""
    return request.param


@pytest.fixture
def as_in_production() -> Iterator[None]:
    """Without the run-time shape checks, which users do not have: for tests of what the package itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

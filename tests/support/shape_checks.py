"""The package with the shapes in its signatures checked at every call: this module must be the first that imports it.

jaxtyping's hook changes a module while it is imported, and only then. So whoever needs the checks imports this module before any
other of `scalablevit_ref`: `tests/conftest.py` for all tests, and what is shared (`library.py`) for the programs that use it.
"""

from __future__ import annotations

import jaxtyping

import tests.support.typecheck  # noqa: F401  (the hook names it, but does not import it)

SPECIFICATION = [f"scalablevit_ref.{part}" for part in ("ops", "attention", "blocks", "network", "dialects")]

with jaxtyping.install_import_hook(SPECIFICATION, "tests.support.typecheck.check"):
    import scalablevit_ref  # noqa: F401

"""One module a library: the primitives that the definitions need, and native versions of ops where they pay.

Importable as `scalablevit_ref.backends` only. Nothing here imports a library that the caller has not already loaded.
"""

from scalablevit_ref.backends.dispatch import Backend, backend, in_groups, register
from scalablevit_ref.backends.transfer import to_backend, to_numpy

__all__ = ["Backend", "backend", "in_groups", "register", "to_backend", "to_numpy"]

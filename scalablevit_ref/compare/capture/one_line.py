"""What a library raises about a model, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scalablevit_ref.errors import CaptureError


@contextmanager
def one_line(called: str, what: str) -> Iterator[None]:
    """Whatever a runtime raises within becomes a CaptureError of one line."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(f"{called} {what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error

"""Standard output and error as the commands write to them: any encoding takes all characters, and a fault is seen at once."""

from __future__ import annotations

import codecs
import errno
import io
import select
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

ESCAPED = "scalablevit_ref.escaped"
"""Name of the codec error handler."""

COUNTERPARTS = {
    "…": "...", "’": "'", "–": "-", "−": "-", "⁻": "-", "·": "*", "×": "x", "•": "*", "′": "'", "‖": "||", "→": "->", "≤": "<=",
    "∞": "inf", "√": "sqrt", "°": "deg", "Φ": "Phi", "α": "alpha", "β": "beta", "Δ": "Delta", "Σ": "Sum", "σ": "sigma",
    "ᵀ": "^T", "ᵖ": "^p", "□": "[]", "✓": "yes", "✗": "no", "\ufffd": "?",
}  # fmt: skip
"""What our own signs are in ASCII, but for box drawings, powers and fractions, whose names and decompositions say it."""


class OutputError(BaseException):
    """Standard output cannot be written. It is no Exception: whoever wrote can do nothing about it.

    Attributes
    ----------
    closed
        Whether nobody reads any more, as behind `| head`.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.closed = isinstance(error, BrokenPipeError) or error.errno == errno.EPIPE


class _Guarded(io.RawIOBase):
    """A stream's bytes. After the first that cannot be written all are dropped, so that Python's own last flush says nothing."""

    def __init__(self, raw: Any, *, silent: bool) -> None:
        self._raw, self._silent, self._broken = raw, silent, False

    def write(self, data: Any) -> int:
        if self._broken:
            return memoryview(data).nbytes
        try:
            while (count := self._raw.write(data)) is None:  # somebody made it non-blocking, and it is full
                select.select([], [self._raw.fileno()], [])
        except OSError as error:
            self._broken = True
            if self._silent:
                return memoryview(data).nbytes
            raise OutputError(error) from None
        return int(count)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())


class _Columns(io.TextIOWrapper):
    """Where a sign of ours becomes a longer one, as many of the spaces that follow are left out: columns of tables stay.

    It stays open: a port that closes what it takes for its own leaves us a place to say how it did.
    """

    def close(self) -> None:
        self.flush()

    def write(self, text: str) -> int:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return super().write("".join(self._narrowed(text)))
        return super().write(text)

    def _narrowed(self, text: str) -> Iterator[str]:
        surplus, before = 0, ""
        for c in text:
            if c == before == " " and surplus:
                surplus -= 1
                continue
            before = c
            if c == "\n":
                surplus = 0
            elif not c.isascii() and c != c.encode(self.encoding, "ignore").decode(self.encoding) and "\\" not in in_ascii(c):
                surplus += len(in_ascii(c)) - 1
            yield c


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Within, `print` and its like write what an encoding lacks in ASCII, and raise OutputError where standard output fails.

    Standard error that fails is silent: there is nowhere left to say so.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _guarded(sys.stdout, silent=False), _guarded(sys.stderr, silent=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _guarded(stream: TextIO, *, silent: bool) -> TextIO:
    """The stream, or what a test or a notebook put in its place as it is."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is nothing between
    if not isinstance(raw, io.RawIOBase):
        return stream
    stream.flush()
    writer = io.BufferedWriter(_Guarded(raw, silent=silent))
    return _Columns(writer, stream.encoding, ESCAPED, line_buffering=silent or stream.isatty())


def in_ascii(text: str) -> str:
    """Our own signs as ASCII characters that look like them, everything else escaped.

    Examples
    --------
    >>> in_ascii("… 3 × 4 → é")
    '... 3 x 4 -> \\\\xe9'
    """
    return "".join(_in_ascii(c) for c in text)


def _in_ascii(c: str) -> str:
    if c.isascii():
        return c
    if c in COUNTERPARTS:
        return COUNTERPARTS[c]
    words = unicodedata.name(c, "").split()
    if words[:2] == ["BOX", "DRAWINGS"]:
        return {"HORIZONTAL": "-", "VERTICAL": "|"}.get(words[-1], "+")
    if unicodedata.category(c) == "No":
        return unicodedata.normalize("NFKC", c).replace("⁄", "/")
    return c.encode("ascii", "backslashreplace").decode()


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPED, _escape)

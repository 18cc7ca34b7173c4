"""Nothing is run: an audit hook that sees what no reader has to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Watch:
    """Programs, connections, code that was text, and files opened to be written, while it is on."""

    def __init__(self) -> None:
        self.on, self.events = False, list[str]()
        sys.addaudithook(self._see)

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on:
            bad = event.startswith(("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.", "socket.", "ctypes."))
            bad |= event == "exec" and args[0].co_filename.startswith("<") and not args[0].co_filename.startswith("<frozen")
            bad |= event == "open" and isinstance(args[1], str) and any(letter in args[1] for letter in "wax+")
            self.events += [event] * bad

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False
        assert not self.events, self.events

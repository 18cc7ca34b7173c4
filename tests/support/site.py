"""The documentation site: built once for all tests of a process, served, and what a browser's tab complains of in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

BUILT = "SCALABLEVIT_REF_SITE"
"""Names a folder where `python -m tests` has built the site; without it the tests do."""

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def build(folder: Path) -> None:
    """Strictly; `--quiet` would hide the very warnings that `--strict` counts."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of these files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    httpd.server_close()


def complaints(tab: Any, allowed: str) -> list[str]:
    """A list that fills with all that the tab complains of, and with every request to elsewhere."""
    heard: list[str] = []
    tab.on("console", lambda said: heard.append(f"console: {said.text}") if said.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: heard.append(f"error: {error}"))
    tab.on("requestfailed", lambda r: heard.append(f"failed: {r.url}") if r.failure != "net::ERR_ABORTED" else None)  # left before
    tab.on("request", lambda r: heard.append(f"elsewhere: {r.url}") if not r.url.startswith((allowed, "data:", "blob:")) else None)
    tab.on("response", lambda answer: heard.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    return heard

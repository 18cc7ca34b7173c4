"""`python -m tests`: everything CI asks for, in order: lint, types, the site, tests. Further arguments go to pytest."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec

from tests.lint import main as lint
from tests.lint import run

PEER = "vit-pytorch==1.26.11"
"""The community port that `test_peer` holds against the specification. Its dependency torchvision is not needed and not wanted."""


def main() -> None:
    """Run the steps one after the other."""
    if not find_spec("vit_pytorch"):
        run("peer", ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", PEER])
    lint()
    with tempfile.TemporaryDirectory() as site:
        run("site", ["mkdocs", "build", "--strict", "--site-dir", site])
        os.environ["SCALABLEVIT_REF_SITE"] = site  # `test_site` looks at it
        run("tests", ["pytest", "-n", "2", *sys.argv[1:]])


if __name__ == "__main__":
    main()

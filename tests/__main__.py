"""`python -m tests`: all that CI asks for: lint, types and the site, at the same time, then tests. Further arguments go to pytest.

Of `python -m tests.endurance`, which puts load and faults on the package for minutes, the tests run a small share only.

`python -m tests --quick`, before each commit: lint, types, and the tests that find most mistakes soonest.

`python -m tests --versions`, before a release: the lowest and the newest versions of what this package needs (`versions`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

from tests import versions
from tests.lint import STEPS, run, together
from tests.support import node

BESIDE = {
    "vit_pytorch": versions.PEER,
    "timm": "timm==1.0.31",
    "torchvision": "torchvision==0.28.0",
}
"""What is looked at beside this package, by module: a community port, and how others prepare images.
Their dependencies of the wrong build, torch's CUDA for one, are not wanted: each package is named."""

QUICK = (
    "tests/specification",
    "tests/properties",
    "tests/checkpoints",
    "tests/backends/test_numpy.py",
    "tests/backends/test_torch.py",
    "tests/comparison/test_mistakes.py",
    "tests/comparison/test_comparison.py",
    "tests/command_line/test_convert.py",
    "tests/documentation/test_documents_text.py",
    "scalablevit_ref",
)
"""What `--quick` runs, but for `SLOW` and `ELSEWHERE`."""

SLOW = (
    "tests/specification/test_package.py",
    "tests/specification/test_digits.py",
    "tests/checkpoints/test_without_torch.py",
    "tests/checkpoints/test_streaming.py",
    "tests/checkpoints/test_limits.py",
    "tests/properties/test_gradients.py",
)
"""Files of `QUICK` that take long for what they find."""

ELSEWHERE = "not jax and not cupy and not array_api_strict and not 224 and not readme and not memory and not no_time"
"""Cases of `QUICK`, by their names: one library with its own kernels and NumPy are enough, and so are small images."""

LEFT_OUT = (
    "left out by --quick: the site and its pages, the programs in the documentation, JAX, CuPy, array-api-strict, adapters, "
    "pictures, bench, the digits, the wheel, bounded memory, gradients, images of 224 pixels, 17 of 25 examples of each property"
)


PYTEST = ("pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""A file's tests run in one process, so that what they share is made once; `conftest.py` begins with the longest files."""


def main(arguments: Sequence[str]) -> None:
    """Run the steps: the tests only if all others pass."""
    if "--versions" in arguments:
        versions.main([argument for argument in arguments if argument != "--versions"])
        return
    quick = "--quick" in arguments
    options = [argument for argument in arguments if argument != "--quick"]
    node.install()
    missing = [package for module, package in BESIDE.items() if not find_spec(module)]
    if missing:
        run("peers", ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *missing])
    if quick:
        together(STEPS.values())
        os.environ.setdefault("HYPOTHESIS_PROFILE", "quick")
        slow = [f"--ignore={path}" for path in SLOW]
        run("tests", [*PYTEST, "-k", ELSEWHERE, *slow, *QUICK, *options])
        sys.stdout.write(f"{LEFT_OUT}\n")
        return
    with tempfile.TemporaryDirectory() as site:
        together([*STEPS.values(), partial(run, "site", ["mkdocs", "build", "--strict", "--site-dir", site], at_once=True)])
        os.environ["SCALABLEVIT_REF_SITE"] = site  # `test_site` looks at it
        run("tests", [*PYTEST, *options])


if __name__ == "__main__":
    main(sys.argv[1:])

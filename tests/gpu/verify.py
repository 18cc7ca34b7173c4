"""`small` in every dtype of one library on the GPU, held at every tap against NumPy in float64: `scalablevit-ref verify`'s rows."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from scalablevit_ref.cli.verify import RANDOM_IMAGES, _row
from scalablevit_ref.config import variant
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.agreement import ORACLE, Candidate, agreement
from tests.gpu.processes import QUICKLY, last_words, python

PARTS = (
    ("torch", ("float64", "float32", "bfloat16", "float16")),
    ("jax", ("float64", "float32")),
    ("jax", ("bfloat16", "float16")),
    ("cupy", ("float64", "float32", "float16")),
)
"""What each process runs. JAX compiles for half a minute for each dtype."""

SIZE = {"small": 224, "digits": 112}


def run(until: float, folder: Path, *, device: str = "cuda", name: str = "small") -> dict[str, Any]:
    """The rows of all libraries, each in a process of its own; a line for each process that did not end well."""
    with ThreadPoolExecutor(len(PARTS)) as pool:
        found = list(pool.map(partial(_part, until=until, folder=folder, device=device, name=name), PARTS))
    return {"rows": [row for rows, _ in found for row in rows], "failed": [line for _, failed in found for line in failed]}


def _part(
    part: tuple[str, tuple[str, ...]], *, until: float, folder: Path, device: str, name: str
) -> tuple[list[dict[str, Any]], list[str]]:
    library, dtypes = part
    log = folder / f"verify-{'-'.join((library, *dtypes))}.log"
    environment = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    with python(
        ["-m", "tests.gpu.verify", device, name, library, *dtypes], until, log, **environment, **QUICKLY[device]
    ) as process:
        said, _ = process.communicate()
    rows = [json.loads(line) for line in said.splitlines() if line.startswith('{"backend"')]
    if process.returncode:
        how = "killed: no time left" if process.returncode < 0 else last_words(log)
        return rows, [f"verify {library} {' '.join(dtypes[len(rows) :])}: {how}"]
    return rows, []


def main(device: str, name: str, library: str, *dtypes: str) -> None:
    """Print a row for each dtype, as it is done."""
    config = variant(name)
    images = random_images((RANDOM_IMAGES, config.in_chans, SIZE[name], SIZE[name]), dtype="float32")
    params = random_params(parameter_shapes(config), dtype="float32")
    for dtype in dtypes:
        results = agreement(images, params, config, [ORACLE, Candidate(library, dtype, device)])
        sys.stdout.write(f"{json.dumps(_row(results[1], results, None))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

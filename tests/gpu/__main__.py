"""`python -m tests.gpu`: all that needs an NVIDIA GPU: the benchmark, `verify`, and the properties. It ends within four minutes.

The document goes to `docs/benchmarks_gpu.json`, from which `python -m tests.programs.benchmarks` makes the page; or, with `--out`,
into that folder, with a log of each process. `--seconds`: how long all may take. `--only`: `bench`, `verify` or `properties`; may
be repeated. What there is no time for is said in the document to be missing. The exit code is 1 if anything failed or is missing.

Nothing of it needs the network. It needs PyTorch, and shows what of JAX and CuPy is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from tests.gpu.processes import ROOT

SECONDS = 235.0
"""How long all may take, if not given."""

BENCH = 0.6
"""The benchmark's share of that; the others run after it, beside each other."""

PARTS = ("bench", "verify", "properties")
FILE = "benchmarks_gpu.json"


def main() -> None:
    """Run the parts and write what they found."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    begun = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        logs = given.out or Path(temporary)
        logs.mkdir(parents=True, exist_ok=True)
        target = (given.out or ROOT / "docs") / FILE
        found = run(begun, given.seconds, given.only or PARTS, logs, target)
    wrong = problems(found)
    sys.stdout.write("".join(f"{line}\n" for line in [*wrong, f"{time.time() - begun:.0f} s; {target.name} is written"]))
    sys.exit(1 if wrong else 0)


def run(begun: float, seconds: float, parts: Any, logs: Path, target: Path) -> dict[str, Any]:
    """The document, which is written after each part."""
    found: dict[str, Any] = {}
    if "bench" in parts:
        from tests.gpu import bench

        share = BENCH if len(parts) > 1 else 0.95
        found |= bench.run(begun + share * seconds, logs)
        write(target, found)
    end = begun + seconds - 4
    both: dict[str, Callable[[], Any]] = {}
    if "verify" in parts:
        from tests.gpu import verify

        both["verify"] = partial(verify.run, end, logs)
    if "properties" in parts:
        from tests.gpu import properties

        both["properties"] = partial(properties.run, end, logs)
    found |= together(both)
    write(target, found)
    return found


def together(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each gives, run beside each other."""
    found: dict[str, Any] = {}

    def keep(name: str, call: Callable[[], Any]) -> None:
        found[name] = call()

    threads = [Thread(target=keep, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: found[name] for name in calls if name in found}


def write(target: Path, found: dict[str, Any]) -> None:
    target.write_text(f"{json.dumps(found, indent=1, ensure_ascii=False)}\n", encoding="utf-8")


def problems(found: dict[str, Any]) -> list[str]:
    """What failed or is missing, one line each."""
    failed = [row for row in found.get("forward", []) if "failed" in row]
    lines = [f"bench: {row['contender']} {row['dtype']} x {row['batch']}: {row['failed']}" for row in failed]
    for row in found.get("verify", {}).get("rows", []):
        if not row.get("agrees"):
            why = row.get("absent") or row.get("failed") or f"{row['worst_error_eps']:.3g} eps at {row['worst_tap']}"
            lines.append(f"verify: {row['backend']} {row['dtype']}: {why}")
    lines += found.get("verify", {}).get("failed", [])
    tests = found.get("properties", {"failed": [], "complete": True})
    lines += [f"failed: {one['test']}" for one in tests["failed"]]
    return lines + ([] if tests["complete"] else [f"properties: {tests['ended']}"])


if __name__ == "__main__":
    main()

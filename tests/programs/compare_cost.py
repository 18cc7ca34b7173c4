"""`python -m tests.programs.compare_cost [WORDS …] [--profile]`: what a comparison takes, beside the two passes that it is about.

Each case is a process of its own, on one core and in one thread. Time is the processor's, which other programs change least; a unit
is one pass of the candidate and one of the reference, on the same images in float64. Memory is the most that the process held at
once, less what it held before the candidate was built, when all libraries were loaded.

With WORDS only cases are run whose names hold one of them. `--profile` also prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOALS = {"right": "2.5 units", "unknown": "60 s"}
"""What the comparison of a right port, and one that finds an unknown mistake, may take for `small`."""

MEMORY = 2000
"""Most memory in MB that a comparison of `small` may hold."""

SIDES = {"small": 224, "digits": 112}
"""Pixels a side of the images that are given."""

PASSES = 3
"""How often each pass is measured; the shortest counts."""


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes
    ----------
    network
        The variant's name.
    port
        A port of the corpus, or "official", the adapter for torch.
    mistake
        A planted one of the corpus; empty for the right port.
    given
        Whether square images are given; else the comparison draws its own, and looks at others that are not square too.
    """

    network: str
    port: str
    mistake: str = ""
    given: bool = True

    @property
    def name(self) -> str:
        images = "" if self.given else ", images of its own"
        return f"{self.network}, {self.port}{f', {self.mistake}' if self.mistake else ', right'}{images}"


UNKNOWN = ("cosine attention as in Swin V2", "the values for LIM are merged from their heads without a transpose")
"""Mistakes of the corpus's port `torch_swin` that are in no catalogue."""

CASES = [
    *(
        Case(network, port, mistake, given)
        for network in ("digits", "small")
        for port, mistake, given in (
            ("official", "", True),
            ("official", "", False),
            ("torch_swin", "", True),
            ("torch_timm", "", True),
            *(("torch_swin", mistake, True) for mistake in UNKNOWN),
        )
    )
]


def main(arguments: Sequence[str]) -> int:
    """Run the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="Of the names of cases; not given: all.")
    parser.add_argument("--profile", action="store_true", help="Print the functions that take longest.")
    parser.add_argument("--json", action="store_true", help="Print one line of JSON for each case.")
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)), help="The core that is used.")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker is not None:
        os.sched_setaffinity(0, {asked.core})
        _say(json.dumps(measured(CASES[asked.worker], profile=asked.profile)))
        return 0
    _say(f"{'case':<100} {'seconds':>8} {'units':>6} {'MB':>6}  verdict")
    for i, case in enumerate(CASES):
        if asked.words and not any(word in case.name for word in asked.words):
            continue
        found = _in_a_process(i, asked.core, profile=asked.profile)
        _say(json.dumps({"case": case.name, **found}) if asked.json else _line(case, found))
    return 0


def _in_a_process(i: int, core: int, *, profile: bool) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.programs.compare_cost", "--worker", str(i), "--core", str(core)]
    done = subprocess.run(command + ["--profile"] * profile, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    *said, last = done.stdout.splitlines()
    _say("\n".join(said)) if said else None
    found: dict[str, Any] = json.loads(last)
    return found


def _line(case: Case, found: dict[str, Any]) -> str:
    return f"{case.name:<100} {found['seconds']:>8.2f} {found['units']:>6.2f} {found['megabytes']:>6.0f}  {found['verdict']}"


def measured(case: Case, *, profile: bool = False) -> dict[str, Any]:
    """What this comparison takes in this process."""
    import torch

    import scalablevit_ref as sv
    from scalablevit_ref.testing import compare
    from scalablevit_ref.testing.arrays import random_images, random_params

    torch.set_num_threads(1)
    config = sv.variant(case.network)
    with tempfile.TemporaryDirectory() as folder:
        compare(_built(Case("digits", case.port), sv.variant("digits"), Path(folder)), variant="digits")
        held = _held_now()
        model = _built(case, config, Path(folder))
        images = random_images((2, config.in_chans, SIDES[case.network], SIDES[case.network]))
        profiler = cProfile.Profile(time.process_time)
        start = time.process_time()
        if profile:
            profiler.enable()
        report = compare(model, variant=config, images=images if case.given else None)
        profiler.disable()
        seconds = time.process_time() - start
        most = _most_held()
    if profile:
        pstats.Stats(profiler).sort_stats("cumtime").print_stats(60)
    params = random_params(sv.parameter_shapes(config))
    wide, x = model.double().eval(), torch.from_numpy(images)
    with torch.no_grad():
        candidate = _shortest(lambda: wide(x))
    reference = _shortest(lambda: sv.scalable_vit(images, params, config))
    return {
        "seconds": round(seconds, 3),
        "candidate's pass": round(candidate, 3),
        "reference's pass": round(reference, 3),
        "units": round(seconds / (candidate + reference), 2),
        "megabytes": round((most - held) / 1e6),
        "verdict": "agrees" if report.agrees else f"differs from {report.first.layer if report.first else '?'} on",
        "explained": bool(report.causes),
    }


def _built(case: Case, config: Any, folder: Path) -> Any:
    if case.port == "official":
        from scalablevit_ref.adapters.torch import ScalableViT

        return ScalableViT(config)
    from tests.programs.corpus.planted import Planted, built, planted_in

    planted = next((one for one in planted_in(case.port)[0] if one.name == case.mistake), Planted("right", ()))
    assert planted.name == case.mistake or not case.mistake, f"{case.port} has no {case.mistake!r}"
    return built(case.port, planted, folder, config)


def _shortest(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(PASSES):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def _held_now() -> int:
    """Bytes of memory that the process holds; the most is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status("VmRSS")


def _most_held() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m tests.endurance`: load and faults, with a table of what was done; some minutes. It ends with 1 if anything went wrong.

`--only NAME`: these rows only; may be repeated. `--much 0.1`: a tenth of it. `--write`: put the rows into the table of
`docs/security.md`, unless something went wrong or less than all was done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from scalablevit_ref.backends.threads import cores

from tests.endurance import page
from tests.endurance.outcome import Outcome
from tests.endurance.rows import ROWS

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""For rows that fork: no library has threads of its own, which a fork would not have. Other rows have a thread a core."""


def in_a_process(name: str, much: float) -> Outcome:
    """One row, in a process of its own."""
    row = ROWS[name]
    threads = ONE_THREAD if row.forks else {"OMP_NUM_THREADS": str(len(cores()))}
    env = os.environ | threads | {"MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.endurance", "--row", name, "--much", str(much)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return Outcome(wrong=[f"{name}: ended with {done.returncode}"])
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run the rows one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance")
    parser.add_argument("--only", action="append", choices=list(ROWS))
    parser.add_argument("--much", type=float, default=1.0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        outcome = ROWS[given.row].run(given.much)
        sys.stdout.write(f"\n{json.dumps(vars(outcome))}\n")
        return
    outcomes, wrong = {}, []
    for name in given.only or ROWS:
        start = time.monotonic()
        outcomes[name] = in_a_process(name, given.much)
        wrong += outcomes[name].wrong
        said = [
            f"{name} ({time.monotonic() - start:.0f} s): {outcomes[name].done}",
            *(f"  WRONG {one}" for one in outcomes[name].wrong),
        ]
        sys.stdout.write("\n".join(said) + "\n")
        sys.stdout.flush()
    if given.write and not wrong and given.much >= 1:
        page.write(outcomes)
    elif given.write:
        sys.stdout.write("The page is not written.\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

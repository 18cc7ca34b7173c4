"""A pytest plugin: one line of JSON for each test as it ends, in the file that `SCALABLEVIT_REF_TEST_RECORD` names.

So a run that is stopped has said all that it has done.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

VARIABLE = "SCALABLEVIT_REF_TEST_RECORD"

LONGEST = 1500
"""Characters that are kept of what a failing test said, from its end."""


class Record:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended: dict[str, pytest.TestReport] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self.ended.get(report.nodeid)
        if before is None or report.failed or (report.when == "call" and not before.failed):
            self.ended[report.nodeid] = report
        if report.when == "teardown":
            self._write(self.ended.pop(report.nodeid), report)

    def _write(self, report: pytest.TestReport, last: pytest.TestReport) -> None:
        figures = [float(value) for name, value in last.user_properties if name == "worst_eps"]
        line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        line |= {"worst_eps": max(figures)} if figures else {}
        line |= {"said": report.longreprtext[-LONGEST:]} if report.failed else {}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")


def pytest_configure(config: pytest.Config) -> None:
    if VARIABLE in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Record(Path(os.environ[VARIABLE])))

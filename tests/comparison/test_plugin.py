"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
import torch
import scalablevit_ref as sv
from hypothesis import HealthCheck, given, settings
from scalablevit_ref.adapters.plain import ScalableViT


def port(broken):
    network = ScalableViT(sv.variant("digits"))
    if broken:
        network.stages[0][1].mlp.act = torch.nn.GELU("tanh")
    return network


def test_right(scalablevit_reference):
    report = scalablevit_reference.assert_equivalent(port(False), variant="digits")
    assert report.agrees


def test_broken(scalablevit_reference):
    scalablevit_reference.assert_equivalent(port(True), variant="digits", mode="isolated")


def test_strategies(scalablevit_reference):
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be slow
    @given(case=scalablevit_reference.strategies.iwsa_cases())
    def drawn(case):
        assert case.x.ndim == 4

    drawn()
"""

UNUSED = """
import sys


def test_nothing_is_loaded():
    assert "scalablevit_ref.compare.run" not in sys.modules
    assert "torch" not in sys.modules
"""


def pytest_in(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_port.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_port.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_failure_message_is_the_diagnosis(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, TESTS)
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "stages.0.1.mlp: matches to" in done.stdout
    assert "if GELU is the tanh approximation" in done.stdout
    assert "plugin.py" not in done.stdout  # no traceback of ours


def test_it_is_off_until_used(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, UNUSED)
    assert "1 passed" in done.stdout, done.stdout + done.stderr

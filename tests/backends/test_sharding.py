"""A batch over several devices: JAX's partitioner on eight of them, PyTorch's DTensor on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.sharded", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


def programs(library: str, folder: Path) -> list[subprocess.Popen[str]]:
    if library == "jax":
        eight = "--xla_force_host_platform_device_count=8"
        return [start("jax", JAX_PLATFORMS="cpu", XLA_FLAGS=eight, JAX_DISABLE_MOST_OPTIMIZATIONS="0")]
    return [start("torch", str(rank), str(folder / "store"), GLOO_SOCKET_IFNAME="lo") for rank in range(2)]


@pytest.mark.parametrize("library", [name for name in ("jax", "torch") if find_spec(name)])
def test_a_sharded_batch_has_the_same_logits(library: str, tmp_path: Path) -> None:
    for program in programs(library, tmp_path):
        _, errors = program.communicate(timeout=300)
        assert program.returncode == 0, errors

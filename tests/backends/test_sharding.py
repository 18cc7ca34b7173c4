"""A batch over several devices: JAX's partitioner on eight of them, PyTorch's DTensor and training on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.waiting import HANGS

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """One process of `tests.support.sharded`, and the file that it writes what it says into."""

    def __init__(self, output: Path, *arguments: str, **environment: str) -> None:
        self.output = output
        command = [sys.executable, "-m", "tests.support.sharded", *arguments]
        with output.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT, text=True
            )


def start(library: str, folder: Path) -> list[Program]:
    if library == "jax":
        eight = "--xla_force_host_platform_device_count=8"
        environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": eight, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
        return [Program(folder / "said", "jax", **environment)]
    store = str(folder / "store")
    return [Program(folder / f"said.{rank}", "torch", str(rank), store, GLOO_SOCKET_IFNAME="lo") for rank in range(2)]


def said(programs: list[Program]) -> list[str]:
    """What each has said when it ended. One that fails takes the others with it, which would wait for it."""
    processes, end = [program.process for program in programs], time.monotonic() + HANGS
    try:
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            assert time.monotonic() < end, "hangs"
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [program.output.read_text() for program in programs]


def assert_held(check: str, found: list[str]) -> None:
    """Every process has said so; else what it said instead."""
    others = [words for words in found if check not in words.splitlines()]
    assert not others, "\n".join(others)


@pytest.fixture(scope="module")
def on_torch(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Both checks need the same two processes."""
    return said(start("torch", tmp_path_factory.mktemp("torch")))


@pytest.mark.parametrize("library", [name for name in ("jax", "torch") if find_spec(name)])
def test_a_sharded_batch_has_the_same_logits(library: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = request.getfixturevalue("on_torch") if library == "torch" else said(start(library, tmp_path))
    assert_held("logits", found)


def test_two_processes_train_as_one(on_torch: list[str]) -> None:
    assert_held("training", on_torch)

"""`docs/examples/reference.mjs` on ONNX Runtime for Node.js: the reference from another language, on files of this package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import scalablevit_ref as sv
from scalablevit_ref import digits, portable
from tests.support.node import EXAMPLES, FOLDER, node
from tests.support.waiting import HANGS

Run = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The digits network in float64, and three images with everything that the specification computes of them."""
    folder = tmp_path_factory.mktemp("javascript")
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    network, expected = folder / "digits.onnx", folder / "expected.safetensors"
    portable.write(checkpoint.params, checkpoint.config, network)
    images = digits.preprocess(digits.test_images()[0][1:4], "float64")
    portable.write_expected(checkpoint.params, checkpoint.config, images, expected)
    return network, expected


@pytest.fixture
def run(tmp_path: Path, files: tuple[Path, Path]) -> Run:
    """The program on the network and other numbers, where Node.js finds its packages."""
    shutil.copyfile(EXAMPLES / "reference.mjs", tmp_path / "reference.mjs")
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")

    def call(expected: Path) -> subprocess.CompletedProcess[str]:
        command = ["node", "reference.mjs", str(files[0]), str(expected)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=HANGS)

    return call


@node
def test_every_intermediate_is_the_specification_s(run: Run, files: tuple[Path, Path]) -> None:
    done = run(files[1])
    assert (done.returncode, done.stderr) == (0, "")
    said, error = done.stdout.splitlines()
    labels = digits.test_images()[1][1:4]
    assert said == f"digits: {' '.join(map(str, labels))}"
    assert error.startswith("51 intermediates, relative error at most ")


@node
@pytest.mark.parametrize("value", [1e-10, np.nan])
def test_other_numbers_are_seen(run: Run, files: tuple[Path, Path], tmp_path: Path, value: float) -> None:
    """The program compares: it ends with 1 for one tap of which one number is another."""
    tensors = load_file(files[1])
    changed = tensors["stages.2.1"].copy()
    changed.flat[17] += value * np.linalg.norm(changed)
    save_file(tensors | {"stages.2.1": changed}, tmp_path / "changed.safetensors")
    done = run(tmp_path / "changed.safetensors")
    assert done.returncode == 1
    assert done.stdout.endswith("(stages.2.1)\n")

"""The modules that make files, each run in a process of its own, and the quiet in which they run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from tests.programs.producers import consumers, outcome
from tests.programs.producers.made import FAMILIES

FAMILY_NAMES = (
    "torch_saves",
    "torch_modules",
    "several_networks",
    "averages",
    "around_a_file",
    "trainers",
    "hugging_face",
    "jax_files",
    "onnx_files",
    "keras_files",
    "mlx_files",
    "paddle_files",
    "consumers",
)
QUIET = {
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "jax",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
}
"""Environment of the process that makes the files."""


def producers_of(family: str, only: str = "") -> Iterator[dict[str, str]]:
    """A record for each row of a family whose libraries are installed and whose name holds `only`."""
    if family == "consumers":
        yield from (consumers.run(row) for row in consumers.CONSUMERS if only in row.name and consumers.installed(row))
        return
    importlib.import_module(f"tests.programs.producers.{family}")
    for row in FAMILIES[family]:
        if only in row.name and outcome.installed(row):
            yield outcome.record(outcome.run(row, family))


def known() -> list[tuple[str, str]]:
    """Family and name of each row, in the table's order."""
    for family in FAMILY_NAMES[:-1]:
        importlib.import_module(f"tests.programs.producers.{family}")
    rows = [(family, row.name) for family in FAMILY_NAMES[:-1] for row in FAMILIES[family]]
    return [*rows, *(("consumers", row.name) for row in consumers.CONSUMERS)]

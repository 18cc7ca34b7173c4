"""Make the files, read them, record what came of it, write the tables; `--page` only the latter, `--family` one family's rows."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

FAMILY_NAMES = (
    "torch_saves",
    "torch_modules",
    "several_networks",
    "trainers",
    "hugging_face",
    "jax_files",
    "onnx_files",
    "keras_files",
    "mlx_files",
    "paddle_files",
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


def one_family(name: str, only: str) -> int:
    """The rows as JSON lines."""
    from tests.programs.producers import outcome

    importlib.import_module(f"tests.programs.producers.{name}")
    for row in outcome.FAMILIES[name]:
        if only in row.name and outcome.installed(row):
            print(json.dumps(outcome.record(outcome.run(row, name)), ensure_ascii=False), file=sys.__stdout__, flush=True)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--family")
    parser.add_argument("--only", default="")
    a = parser.parse_args()
    if a.family:
        sys.exit(one_family(a.family, a.only))

"""`python -m tests.programs.certified [--write] [NETWORK…]`: the proved errors of every library, as `docs/certified.md`.

Each library computes its layers in a process of its own; then the exact result is enclosed once for each network, and what they
computed is held against it. `docs/certified.json` keeps the figures; a network that is not measured keeps its own. `--write` writes
the page from them. Digits takes a minute, small some ten.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.certify import functions
from scalablevit_ref.certify.bounds import Bounds
from scalablevit_ref.certify.certificate import certify
from scalablevit_ref.certify.subjects import RUNTIMES, Subject, library, runtime
from scalablevit_ref.cli.proved import decimals
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import EPS, random_images, random_params
from scalablevit_ref.testing.agreement import Candidate
from tests.support.documents import ROOT
from tests.support.machine import machine
from tests.support.marked import with_marked

PAGE, FIGURES = ROOT / "docs" / "certified.md", ROOT / "docs" / "certified.json"

COMPILED, DEPLOYED = "torch compiled", "AOTInductor"
"""PyTorch's compilers: `torch.compile` with every layer an output, and what `compiled()` gives, which shows the logits alone."""

WHO: tuple[tuple[str, str], ...] = (
    *(("numpy", dtype) for dtype in ("float64", "float32", "float16")),
    *(("torch", dtype) for dtype in ("float64", "float32", "bfloat16", "float16")),
    (COMPILED, "float32"),
    (DEPLOYED, "float32"),
    *(("jax", dtype) for dtype in ("float64", "float32", "bfloat16", "float16")),
    *((name, dtype) for name in ("mlx", "tensorflow", "paddle") for dtype in ("float64", "float32")),
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
"""Libraries and programs, and the dtypes that they compute in."""

NAMES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX", "mlx": "MLX", "tensorflow": "TensorFlow", "paddle": "PaddlePaddle"} | {
    COMPILED: "PyTorch, `torch.compile`",
    DEPLOYED: "PyTorch, `compiled()`",
    **RUNTIMES,
}

BITS = {"digits": 212, "small": 640, "base": 700}
"""Precision of the balls, in bits, that is enough for each network."""

WHOSE = {
    "digits": "the embedded checkpoint and the first test image",
    "small": "random weights and a random image (seed 0), 224 pixels a side",
    "base": "random weights and a random image (seed 0), 224 pixels a side",
}

PACKAGES = ("python-flint", "numpy", "torch", "jax", "mlx", "tensorflow-cpu", "paddlepaddle", "onnxruntime", "openvino")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def subject_network(name: str) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """Settings, parameters and one image."""
    if name == "digits":
        checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
        return checkpoint.config, checkpoint.params, digits.preprocess(digits.test_images()[0][:1])
    config = sv.variant(name)
    return config, random_params(sv.parameter_shapes(config), 0, "float32"), random_images((1, 3, 224, 224), 0, "float32")


def compute(network: str, who: str, dtype: str, path: Path) -> None:
    """What one library computes of every layer, into an npz; numbers of 16 bits as float32, which holds them."""
    config, params, images = subject_network(network)
    if who == DEPLOYED:
        from scalablevit_ref.adapters.torch import ScalableViT

        compiled = ScalableViT(config, params=params).compiled()
        taps: Mapping[str, np.ndarray] = {"logits": sv.to_numpy(compiled(sv.to_backend(images, "torch")))}
    elif who == COMPILED:
        import torch

        whole = torch.compile(lambda x, p: sv.trace(x, p, config), fullgraph=True)
        with torch.no_grad():
            taps = sv.to_numpy(dict(whole(sv.to_backend(images, "torch"), sv.to_backend(params, "torch"))))
    else:
        subject = runtime(who, dtype) if who in RUNTIMES else library(Candidate(who, dtype))
        if subject.absent:
            sys.exit(subject.absent)
        taps = subject.run(network_of(config), images, params, dict.fromkeys(sv.trace(images, params, config), np.zeros(())))
    np.savez(path, **{name: x.astype("float32") if x.dtype.itemsize < 4 else x for name, x in taps.items()})


def in_a_process(network: str, who: str, dtype: str, path: Path) -> str | None:
    """`compute` in a process on one thread; why it failed, or None."""
    command = [sys.executable, "-m", "tests.programs.certified", "--compute", network, who, dtype, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")


def from_file(who: str, dtype: str, path: Path, why: str | None) -> Subject:
    """What was computed there."""

    def run(network: Any, images: np.ndarray, params: Any, near: Any) -> dict[str, np.ndarray]:
        with np.load(path) as held:
            return {name: held[name] for name in near if name in held}

    return Subject(f"{who} {dtype}", dtype, run, why)


def measured(network: str, chosen: Sequence[tuple[str, str]] = WHO) -> dict[str, Any]:
    """The figures of one network."""
    config, params, images = subject_network(network)
    with tempfile.TemporaryDirectory() as folder:
        subjects = []
        for i, (who, dtype) in enumerate(chosen):
            path = Path(folder) / f"{i}.npz"
            why = in_a_process(network, who, dtype, path)
            sys.stdout.write(f"{network}: {who} {dtype}: {why or 'computed'}\n")
            sys.stdout.flush()
            subjects.append(from_file(who, dtype, path, why))
        start = time.process_time()
        found = certify(images, params, config, subjects, bits=BITS[network], costly=True)
        seconds = time.process_time() - start
    rows = []
    for (who, dtype), row in zip(chosen, found.rows, strict=True):
        if not row.errors:
            rows.append({"who": who, "dtype": dtype, "absent": row.absent or row.failed})
            continue
        ends = {tap: [row.eps(tap).low, row.eps(tap).high] for tap in row.errors}
        largest = row.errors["logits"].maximum * (1 / EPS[dtype])
        rows.append({"who": who, "dtype": dtype, "worst": row.worst, "max": [largest.low, largest.high], "eps": ends})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    facts = {"bits": found.bits, "tries": [t.bits for t in found.tries], "width": found.width, "taps": len(found.taps)}
    return facts | {"seconds": seconds, "gigabytes": memory, "machine": machine(PACKAGES), "rows": rows}


def proved_functions() -> dict[str, float]:
    """What `certify.functions` proves, in eps of float64, and of float32 for the two of that kernel."""
    found: dict[str, Callable[[], float]] = {
        "erf's series": functions.erf_method_error,
        "erf's roundings": functions.erf_rounding_error,
        "GELU's series": functions.gelu_method_error,
        "float32 GELU's polynomial": functions.gelu32_method_error,
        "float32 GELU's roundings": functions.gelu32_rounding_error,
    }
    return {name: bound() / EPS["float32" if "float32" in name else "float64"] for name, bound in found.items()}


SAID = {
    "erf's series": "`ops.erf` in exact arithmetic, from erf, for every x ≥ 0",
    "erf's roundings": "`ops.erf` in float64, from itself in exact arithmetic; `exp` within one ulp",
    "GELU's series": "`ops.gelu` in exact arithmetic, √½ and all constants as float64, as a share of \\|x\\|",
    "float32 GELU's polynomial": "the NumPy kernel's tanh form in exact arithmetic, from erf(x/√2)",
    "float32 GELU's roundings": "the NumPy kernel in float32, from itself in exact arithmetic, likewise; `tanh` within one ulp",
}
"""What each figure of `proved_functions` bounds."""

SUMS = (27, 147, 576, 1024, 2048, 2304, 4096)
"""Numbers of terms of the sums in `small`: its convolutions have 9, 147, 576, 1,152 and 2,304, its linear layers up to 4,096."""

NORMS = (64, 80, 128, 256, 512, 4096)
"""Channels of LayerNorms in `small`, of those of SSA too."""


def networks_table(networks: Mapping[str, Any]) -> list[str]:
    """What was proved with what effort."""
    lines = ["| network | bits | layers | the truth is known to | seconds of one core | memory |", "|---|---|---|---|---|---|"]
    for name, found in networks.items():
        cells = [str(found["bits"]), str(found["taps"]), f"{found['width']:.0e}", f"{found['seconds']:.0f}"]
        lines.append(f"| {name}: {WHOSE[name]} | {' | '.join(cells)} | {found['gigabytes']:.1f} GB |")
    return lines


def errors_table(found: Mapping[str, Any]) -> list[str]:
    """A row for each library and dtype, those of a dtype together, the nearest logits first."""
    lines = ["| dtype | library | logits | largest logit | worst layer | there |", "|---|---|---|---|---|---|"]
    dtypes = list(EPS)
    rows = [row for row in found["rows"] if "eps" in row]
    for row in sorted(rows, key=lambda row: (dtypes.index(row["dtype"]), row["eps"]["logits"][1])):
        alone = len(row["eps"]) == 1
        worst = ["not shown", ""] if alone else [decimals(Bounds(*row["eps"][row["worst"]])), f"`{row['worst']}`"]
        cells = [row["dtype"], NAMES[row["who"]], decimals(Bounds(*row["eps"]["logits"])), decimals(Bounds(*row["max"])), *worst]
        lines.append(f"| {' | '.join(cells)} |")
    absent = [f"{NAMES[row['who']]} in {row['dtype']}" for row in found["rows"] if "eps" not in row]
    return lines + ([f"\nNot measured: {', '.join(absent)}."] if absent else [])


def functions_table(found: Mapping[str, float]) -> list[str]:
    """What is proved of the definitions."""
    lines = ["| what | proved to be at most |", "|---|---|"]
    for name, eps in found.items():
        lines.append(f"| {SAID[name]} | {eps:.2f} eps of {'float32' if 'float32' in name else 'float64'} |")
    return lines


def sums_table() -> list[str]:
    """The worst cases for the shapes of `small`, in float32."""
    lines = ["| n | a sum of n products, in any order | a LayerNorm of n channels |", "|---|---|---|"]
    for n in sorted({*SUMS, *NORMS}):
        total = f"{functions.sum_error(n, 'float32') / EPS['float32']:.1f}" if n in SUMS else ""
        norm = f"{functions.layer_norm_error(n, 'float32') / EPS['float32']:.1f}" if n in NORMS else ""
        lines.append(f"| {n} | {total} | {norm} |")
    weights = functions.softmax_error(49, "float32") / EPS["float32"]
    return [*lines, "", f"A weight of a softmax over 49 keys whose logits span 20: {weights:.1f} eps of it."]


def written(page: str, figures: Mapping[str, Any]) -> str:
    """The page with these figures."""
    networks = figures["networks"]
    page = with_marked(page, "networks", [*networks_table(networks), "", f"Measured on {networks['digits']['machine']}."])
    for name in ("digits", "small"):
        if name in networks:
            page = with_marked(page, f"errors of {name}", errors_table(networks[name]))
    page = with_marked(page, "functions", functions_table(figures["functions"]))
    return with_marked(page, "sums", sums_table())


def main(arguments: Sequence[str]) -> None:
    """Measure, keep the figures, and write the page if asked."""
    if arguments[:1] == ["--compute"]:
        compute(*arguments[1:4], Path(arguments[4]))
        return
    figures: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {"networks": {}}
    for name in [argument for argument in arguments if argument != "--write"]:
        chosen = [("numpy", "float64"), ("numpy", "float32"), ("torch", "float32")] if name == "base" else WHO
        figures["networks"][name] = measured(name, chosen)
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    figures["networks"] = {name: figures["networks"][name] for name in BITS if name in figures["networks"]}
    figures["functions"] = proved_functions()
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if "--write" in arguments:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

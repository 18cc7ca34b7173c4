"""What `python -m tests.gpu` does that needs no GPU: its processes and their budgets, its rows on the CPU, and its page."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.benchmark import contenders
from scalablevit_ref.benchmark.contenders import LIBRARIES, MODULE, ON_CPU, ORACLE_IMAGES, Work, inputs, oracle
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE
from scalablevit_ref.testing.agreement import unrounded_float32
from tests.gpu import __main__ as program
from tests.gpu import bench, page, processes, properties, verify, worker
from tests.gpu.record import VARIABLE
from tests.support import compiling, library

pytestmark = pytest.mark.usefixtures("as_in_production")

DIGITS = Work("digits", 2, 112)
PAIRS = (("torch", 0.3), ("jax", 0.2), ("cupy", 0.4))


def alive(process: int) -> bool:
    """A process that has ended but that nobody has waited for is not."""
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_process_and_what_it_started_end_in_time(tmp_path: Path) -> None:
    code = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"
    start = time.time()
    with processes.python(["-c", code], start + 1, tmp_path / "log") as process:
        child = int(processes.line_of(process))
        assert alive(child)
        assert process.wait() < 0
    assert time.time() - start < 30
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


def test_a_benchmark_of_processes(tmp_path: Path) -> None:
    """Each has the plain module to itself; its row comes once."""
    found = bench.run(
        time.time() + 120,
        tmp_path,
        what=[(DIGITS, ("torch", "cupy")), (DIGITS, ("numpy",)), (DIGITS, ("none",))],
        rounds=3,
        side=64,
    )
    assert [row["contender"] for row in found["forward"]] == [MODULE, "torch", "cupy", "numpy", "none"]
    module, ours, cupy, numpy, none = found["forward"]
    for row in (module, ours, numpy):
        assert row["error_eps"] <= NETWORK_TOLERANCE["float32"]
        assert row["first_run_seconds"] >= 0
        assert row["rounds"] == 3
    assert cupy["absent"]
    assert none["failed"] == "KeyError: 'none'"
    assert found["matmul_gflops"]["float32 cpu"] > 0


def test_without_time_a_benchmark_says_what_is_missing(tmp_path: Path) -> None:
    found = bench.run(time.time() - 1, tmp_path, what=[(DIGITS, ("torch",)), (DIGITS, ("numpy",))], side=64)
    assert [(row["contender"], row["failed"]) for row in found["forward"]] == [
        ("torch", "not begun: no time left"),
        ("numpy", "not begun: no time left"),
    ]


def test_a_contender_that_takes_too_long_has_failed() -> None:
    ready, absent, failed, _ = worker.enter([MODULE, "torch", "cupy"], DIGITS, time.time() + worker.SHORTEST / 2)
    assert list(ready) == [MODULE]
    assert (absent, failed) == ({}, dict.fromkeys(("torch", "cupy"), "not begun: no time left"))
    with pytest.raises(TimeoutError, match="not ready after 0 s"), worker.stopped(0.1):
        time.sleep(20)
    with worker.stopped(0.1):
        pass
    time.sleep(0.2)  # nothing is raised after the block


def test_what_the_benchmark_runs() -> None:
    """Every contender of a GPU on every work once; and what is compiled first is what the goals are about, and more."""
    names = [*bench.AT_ONCE, *(name for group in bench.COMPILED for name in group)]
    assert sorted(names) == sorted({name for name in LIBRARIES if not name.endswith(ON_CPU)} - {"numpy", "vit_pytorch"})
    assert set(page.CONTENDERS) == {MODULE, *names}
    pairs = [(work, name) for work, group in bench.asked() for name in group]
    assert len(pairs) == len(set(pairs)) == 12 * len(names) - 3  # JAX has no TF32
    assert len(set(bench.WORKS)) == 12
    assert {(dtype, batch) for dtype, batch, *_ in page.GOALS} <= set(bench.FIRST)
    assert all((work.dtype, work.batch) in bench.FIRST for work, _ in bench.asked()[: len(bench.FIRST) * len(bench.COMPILED)])


def test_the_oracle_is_of_the_first_images_of_every_batch() -> None:
    few, many = inputs(DIGITS)[0], inputs(Work("digits", 5, 112))[0]
    assert np.array_equal(few, many[: len(few)])
    found = oracle(Work("digits", 5, 112, "bfloat16"))
    assert (found.dtype, len(found)) == ("float64", ORACLE_IMAGES)
    assert np.array_equal(found, oracle(DIGITS))


def test_the_plain_module_s_row_is_that_of_its_fastest_process(tmp_path: Path) -> None:
    jobs = [
        bench.Job(DIGITS, (name,), tmp_path, rows=[row(MODULE, "float32", 2, s), row(name, "float32", 2, 0.1)]) for name, s in PAIRS
    ]
    assert [(one["contender"], one["seconds"]["median"]) for one in bench.merged(jobs)] == [
        (MODULE, 0.2),
        ("torch", 0.1),
        ("jax", 0.1),
        ("cupy", 0.1),
    ]


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_the_rows_of_verify(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verify.main("cpu", "digits", name, "float32")
    row = json.loads(capsys.readouterr().out)
    assert (row["backend"], row["dtype"], row["agrees"]) == (name, "float32", True)


def test_verify_says_which_process_did_not_end_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PARTS", (("none", ("float32",)),))
    found = verify.run(time.time() + 60, tmp_path, device="cpu", name="digits")
    assert [row["absent"] for row in found["rows"]] == ["not installed: pip install 'scalablevit-ref[none]'"]
    assert found["failed"] == []
    assert verify.run(time.time() - 1, tmp_path)["failed"] == ["verify none float32: killed: no time left"]
    monkeypatch.setattr(verify, "PARTS", (("torch", ("float12",)),))
    failed = verify.run(time.time() + 60, tmp_path, device="cpu", name="nonsense")["failed"]
    assert len(failed) == 1
    assert failed[0].startswith("verify torch float12: ")
    assert "nonsense" in failed[0]


def test_a_recorded_pass_keeps_what_its_kernels_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph holds addresses: weights that are let go are read all the same."""

    class Graph:
        def replay(self) -> None:
            assert weights() is not None

    class Forward:
        def __call__(self) -> None:
            return None

    forwards = [Forward()]
    weights = weakref.ref(forwards[0])
    monkeypatch.setattr(contenders, "_forward", lambda *given: forwards.pop())
    monkeypatch.setattr(contenders, "_recorded", lambda forward: (forward(), Graph()))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    run = contenders.prepare("torch.replay", DIGITS)
    gc.collect()
    assert run() is None
    del run
    gc.collect()
    assert weights() is None


def test_the_properties_run_on_the_device_that_is_asked_for(tmp_path: Path) -> None:
    """Marked `gpu`: on the CPU as if it were one. What is not done in time is not lost with the rest."""
    path = "tests/properties/test_ops.py::test_02_lim_is_exact_on_integers"
    found = properties.run(time.time() + 120, tmp_path, device="cpu", paths=[f"{path}[torch]", f"{path}[jax]"])
    assert found["complete"]
    assert {name: own["passed"] for name, own in found["libraries"].items()} == {"torch": 1, "jax": 1, "cupy": 0}
    assert all(own["failed"] == 0 for own in found["libraries"].values())
    cut = properties.run(time.time() - 1, tmp_path)
    assert (cut["complete"], cut["ended"]) == (False, "killed: no time left")


def test_each_test_is_recorded_as_it_ends(tmp_path: Path) -> None:
    file, record = tmp_path / "test_drawn.py", tmp_path / "record.jsonl"
    tests = ["a(record_property): record_property('worst_eps', 2.5)", "b(): assert 1 == 2", "c(): import os; os._exit(3)"]
    body = "".join(f"def test_{test}\n" for test in tests)
    file.write_text(body)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.gpu.record",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        str(file),
    ]
    subprocess.run(command, cwd=processes.ROOT, env=os.environ | {VARIABLE: str(record)}, capture_output=True, check=False)
    first, second = map(json.loads, record.read_text().splitlines())
    assert (first["outcome"], first["worst_eps"]) == ("passed", 2.5)
    assert second["outcome"] == "failed"
    assert "assert 1 == 2" in second["said"]


def test_failures_are_counted_by_library() -> None:
    tests = [
        {"test": "tests/properties/test_block.py::test_01_a[jax]", "outcome": "passed", "worst_eps": 3.0},
        {"test": "tests/properties/test_block.py::test_01_b[jax]", "outcome": "passed", "worst_eps": 5.0},
        {"test": "tests/properties/test_block.py::test_24_b[jax]", "outcome": "passed", "worst_eps": 500.0},
        {"test": "tests/properties/test_gradients.py::test_c[torch]", "outcome": "failed", "worst_eps": 99.0, "said": "E  no"},
        {"test": "tests/backends/test_cupy.py::test_d", "outcome": "skipped"},
    ]
    found = properties.summary(tests)
    jax, torch_, cupy = (found["libraries"][name] for name in ("jax", "torch", "cupy"))
    assert (jax["passed"], jax["worst_eps"], jax["worst_test"]) == (3, 5.0, tests[1]["test"])
    assert (torch_["failed"], torch_["worst_eps"]) == (1, None)
    assert cupy["skipped"] == 1
    assert found["failed"] == [{"test": tests[3]["test"], "said": "E  no"}]


def test_arrays_lie_where_the_tests_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "DEVICE", "cuda")
    assert [library.place(name) for name in ("torch", "jax", "numpy", "cupy")] == ["cuda", "gpu", None, None]
    assert library.marked("torch").marks[0].name == "gpu"
    assert library.marked("numpy") == "numpy"
    monkeypatch.setattr(library, "DEVICE", "meta")
    assert library.Library("torch")(np.zeros(3)).device.type == "meta"
    monkeypatch.setattr(library, "DEVICE", None)
    assert library.place("torch") is None
    assert library.marked("torch") == "torch"


def test_float32_is_not_rounded_where_it_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    switches: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    seen: list[bool] = []
    with unrounded_float32():
        seen += [switch.allow_tf32 for switch in switches]
    assert seen == [False, False]
    assert [switch.allow_tf32 for switch in switches] == before
    with pytest.raises(ValueError, match="x"), unrounded_float32():
        raise ValueError("x")
    assert [switch.allow_tf32 for switch in switches] == before
    traced: list[bool] = []
    from scalablevit_ref.testing import agreement

    def trace(*arguments: Any, **options: Any) -> Any:
        traced.append(torch.backends.cudnn.allow_tf32)
        return sv.trace(*arguments, **options)

    monkeypatch.setattr(agreement, "trace", trace)
    config = sv.variant("digits")
    weights = sv.init_params(config)
    agreement.agreement(np.zeros((1, 1, 112, 112), "float32"), weights, config, [agreement.Candidate("torch", "float32")])
    assert traced == [before[1], False]  # the oracle, PyTorch


def row(contender: str, dtype: str, batch: int, seconds: float) -> dict[str, Any]:
    spread = {"median": seconds, "low": seconds, "high": seconds}
    times = {"median": 0.1 / seconds, "low": 0.1 / seconds, "high": 0.1 / seconds}
    of = {"variant": "small", "size": 224, "device": "cuda", "contender": contender, "dtype": dtype, "batch": batch}
    return of | {"seconds": spread, "ratio": times, "share_of_matmul_peak": 0.25, "error_eps": 1.5, "peak_megabytes": 1234.5}


def document() -> dict[str, Any]:
    rows = [
        row(name, dtype, b, s) for dtype in ("float32", "bfloat16") for b in (8, 64) for name, s in ((MODULE, 0.1), ("torch", 0.08))
    ]
    rows += [row("cupy", "float32", 64, 0.1), row("torch.compile", "bfloat16", 64, 0.08)]
    rows += [{**row("jax", "bfloat16", 64, 1), "failed": "not compiled in time"}]
    agrees = {"worst_error_eps": 3.25, "worst_tap": "norm", "tolerance_eps": 32, "agrees": True}
    checked = [
        {"backend": "torch", "dtype": "float64"} | agrees,
        {"backend": "jax", "dtype": "float32"} | agrees | {"agrees": False},
    ]
    checked += [{"backend": "cupy", "dtype": "float16", "failed": "OutOfMemoryError"}]
    machine = {"date": "2026-01-01", "cpu": "A", "cores": 16, "system": "Linux", "python": "3.12", "versions": {"torch": "2.11"}}
    tests = properties.summary([{"test": "a.py::b[jax]", "outcome": "failed", "said": "E"}])
    return {
        "machine": machine | {"threads": 16},
        "gpu": "NVIDIA H100",
        "matmul_gflops": {"float32 cuda": 50_000.0, "bfloat16 cuda": 700_000.0},
        "forward": rows,
        "verify": {"rows": checked, "failed": ["verify jax: killed: no time left"]},
        "properties": tests | {"complete": False, "ended": "killed: no time left", "seconds": 90},
    }


def test_the_page_has_every_figure_and_every_failure() -> None:
    from tests.programs.benchmarks import project_page

    text = project_page(document(), "benchmarks_gpu")
    assert "2026-01-01; NVIDIA H100; A, 16 cores" in text
    assert "](pictures/benchmarks_gpu.svg#only-light)" in text
    assert "| ours on CuPy | ours on PyTorch, eager | float32 × 64 | 0.7 | 0.80 | reached |" in text
    assert "float32 × 64 | 0.7 | 0.80 | reached |" in text
    assert "bfloat16 × 64 | 1.5 | 1.25 | 17% short |" in text
    assert "### bfloat16\n\nA large matrix product: 700 TFLOP/s." in text
    assert "| ours on PyTorch, eager | 10.0 | 1.25 | 1.25 | 1.25 | 25% | 1.5 | 1,234 |" in text
    assert "- not compiled in time. `jax` (bfloat16 × 64)" in text
    assert "| torch float64 | agrees | 3.2 of 32 | `norm` |" in text
    assert "| jax float32 | **differs** |" in text
    assert "| cupy float16 | failed |  | OutOfMemoryError |" in text
    assert "- verify jax: killed: no time left" in text
    assert "| JAX | 0 | 1 |  |" in text
    assert "The run was stopped before it had ended (killed: no time left); what is counted had ended." in text
    assert "- failed: `a.py::b[jax]`" in text
    assert {one["batch"] for one in page.pictured(document())["forward"]} == {64}


def test_what_is_wrong_is_said_and_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found = document()
    assert program.problems(found) == [
        "bench: jax bfloat16 x 64: not compiled in time",
        "verify: jax float32: 3.25 eps at norm",
        "verify: cupy float16: OutOfMemoryError",
        "verify jax: killed: no time left",
        "failed: a.py::b[jax]",
        "properties: killed: no time left",
    ]
    parts: dict[str, Callable[..., Any]] = {
        "verify": lambda *given: found["verify"],
        "properties": lambda *given: found["properties"],
    }
    monkeypatch.setattr(verify, "run", parts["verify"])
    monkeypatch.setattr(properties, "run", parts["properties"])
    monkeypatch.setattr(bench, "run", lambda *given: {"forward": found["forward"]})
    monkeypatch.setattr(sys, "argv", ["tests.gpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        program.main()
    assert json.loads((tmp_path / program.FILE).read_text())["verify"] == found["verify"]
    assert "verify: jax float32: 3.25 eps at norm\n" in capsys.readouterr().out
    fine = {"rows": [], "failed": []}
    monkeypatch.setattr(verify, "run", lambda *given: fine)
    monkeypatch.setattr(sys, "argv", ["tests.gpu", "--out", str(tmp_path), "--only", "verify"])
    with pytest.raises(SystemExit, match="0"):
        program.main()
    assert list(json.loads((tmp_path / program.FILE).read_text())) == ["verify"]


def test_eps_of_what_is_held() -> None:
    assert EPS[Work("small", 1, 224, "tf32", "cuda").held] == EPS["float32"]


@pytest.mark.parametrize(("content", "known"), [(b"a\0xla_b\0c", True), (b"a\x05xla_b\x02c", False), (b"a\0xla_b_c\0", False)])
def test_an_option_of_xla_is_known_by_a_string_of_its_own(content: bytes, known: bool, tmp_path: Path) -> None:
    """XLA keeps the names of options that it has dropped, in descriptions, and ends the process of whoever sets one."""
    (tmp_path / "library.so").write_bytes(content)
    assert compiling.in_library("xla_b", tmp_path) is known

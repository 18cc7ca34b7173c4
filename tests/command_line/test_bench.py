"""`scalablevit-ref bench` on a small network: what it runs, what it says, and that its statistics are right."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scalablevit_ref.backends.threads import cores
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref.benchmark import contenders, deployed, measure, processes, results
from scalablevit_ref.benchmark.contenders import (
    LIBRARIES,
    MODULE,
    Contender,
    Work,
    build,
    built_file,
    entered,
    multiply_adds,
    prepare,
    why_absent,
)
from scalablevit_ref.benchmark.measure import growth, interleaved, machine, matmul_peak, ratio, threads
from scalablevit_ref.benchmark.results import _terminal_table
from scalablevit_ref.cli import app
from scalablevit_ref.cli.bench import _seconds, _works
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, relative_l2
from tests.programs.benchmarks import DOCS, project_page, project_picture
from tests.support.clock import Clock
from tests.support.library import draws

WORK = Work("digits", 2, 112)
ARGUMENTS = ["bench", "--variants", "digits", "--rounds", "3", "--threads", "1"]

pytestmark = pytest.mark.usefixtures("as_in_production", "quiet")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does nothing else: no figure of a test depends on what else runs on this one."""
    monkeypatch.setattr(measure, "load_now", lambda: 0.0)
    monkeypatch.setattr(measure, "others", lambda since, now: 0.0)
    monkeypatch.setattr(measure, "unserved", lambda wall, processor: 0.0)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*ARGUMENTS, *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "mlx", "tensorflow", "paddle", "export.ort", "export.openvino"])
def test_contenders_compute_what_the_module_does(name: str) -> None:
    told: list[str] = []
    ready, absent, failed = entered([MODULE, name, "cupy"], WORK, told.append)
    assert (absent, failed) == ({"cupy": "runs on GPUs"}, {})
    assert told == [f"digits x 2: {one}" for one in (MODULE, name, "cupy")]
    expected = ready[MODULE].logits
    assert expected.shape == (2, 10)
    assert relative_l2(ready[name].logits, expected) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]


@pytest.mark.skipif(not draws("tinygrad"), reason="tinygrad compiles with clang")
def test_tinygrad_computes_what_the_module_does_and_records_its_kernels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small network, whose kernels are compiled in seconds. When it has run once, it does not run through Python any more."""
    from tinygrad.helpers import Context

    passes: list[Any] = []

    small = sv.variant("digits", embed_dims=(8,), depths=(2,), num_heads=(2,), mlp_ratios=(2,), sr_ratios=(2,), c_ratios=(1.25,),
                       window_sizes=(2,))  # fmt: skip
    monkeypatch.setattr(contenders, "variant", lambda name: small)
    monkeypatch.setattr(contenders, "scalable_vit", lambda *given: passes.append(given) or sv.scalable_vit(*given))
    work = Work("one stage of digits", 2, 16)
    with Context(PARALLEL=0, NOOPT=1):
        ready, absent, failed = entered([MODULE, "tinygrad"], work, lambda step: None)
        assert (absent, failed) == ({}, {})
        assert len(passes) == 2
        again = sv.to_numpy(ready["tinygrad"].run())
    assert len(passes) == 2
    for logits in (ready["tinygrad"].logits, again):
        assert relative_l2(logits, ready[MODULE].logits) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]


def test_a_file_is_built_once_for_all_that_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO computes in 16 bits from the weights in 32, so that it shares the file with itself and with ONNX Runtime."""
    written: list[Path] = []
    monkeypatch.setattr(deployed, "write_export", lambda path, *given, **options: written.append(path) or path.touch())
    narrow = Work("digits", 2, 112, "bfloat16")
    seconds = [build(name, work, tmp_path) for name in ("export.ort", "export.openvino") for work in (WORK, narrow)]
    assert [path.name for path in written] == ["export-digits-2-112-float32.onnx", "export-digits-2-112-bfloat16.onnx"]
    assert seconds[0] == seconds[2] == seconds[3] != seconds[1]
    assert build("numpy", WORK, tmp_path) is None
    assert built_file("module.aoti", WORK, tmp_path) == tmp_path / "module-digits-2-112-float32.pt2"


def test_seconds_to_build_and_to_start_are_told(tmp_path: Path) -> None:
    ready, _, _ = entered([MODULE, "export.ort"], WORK, lambda step: None, tmp_path)
    assert ready[MODULE].build_seconds is None
    assert (ready["export.ort"].build_seconds or 0) > 0
    assert all(contender.start_seconds > 0 for contender in ready.values())
    assert list(tmp_path.iterdir()) == [tmp_path / "export-digits-2-112-float32.onnx"]


@pytest.mark.parametrize(
    ("name", "dtype", "device", "why"),
    [
        ("export.ort", "float64", "cpu", "the exporters write no float64"),
        ("export.openvino", "float32", "cuda", "is timed on the CPU"),
        ("torch.freezing", "float32", "cuda", "is timed on the CPU"),
        ("torch.aoti", "bfloat16", "cpu", None),
        ("paddle", "bfloat16", "cpu", "PaddlePaddle has no kernels for 16 bits on a CPU"),
        ("paddle", "float32", "cuda", "is timed on the CPU"),
        ("tinygrad", "float32", "cuda", "is timed on the CPU"),
        ("export.openvino", "bfloat16", "cpu", None),
        ("module.ort", "float32", "cpu", None),
    ],
)
def test_who_is_absent_and_why(name: str, dtype: str, device: str, why: str | None) -> None:
    assert why_absent(name, Work("digits", 1, 112, dtype, device)) == why


def test_onnx_runtime_is_asked_what_it_computes_in() -> None:
    assert deployed.why_not_in_onnx_runtime("float32") is None
    said = why_absent("export.ort", Work("digits", 1, 112, "bfloat16"))
    assert said is None or re.fullmatch(r"ONNX Runtime [\d.]+ has no products in bfloat16 on a CPU", said)


@pytest.mark.parametrize(
    ("name", "missing", "install"),
    [
        ("export.ort", "onnxruntime", "'scalablevit-ref[onnx]'"),
        ("export.openvino", "openvino", "'scalablevit-ref[openvino]'"),
        ("export.openvino", "onnx", "'scalablevit-ref[onnx]'"),
        ("module.openvino", "onnxscript", "onnxscript"),
        ("vit_pytorch", "vit_pytorch", "vit-pytorch --no-deps"),
    ],
)
def test_what_is_missing_is_named(name: str, missing: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "find_spec", lambda library: None if library == missing else object())
    assert why_absent(name, WORK) == f"not installed: pip install {install}"


def test_a_module_is_written_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `torch.onnx.export` and by AOTInductor, which get the plain module, in eval mode, with the work's images."""
    import torch

    given: list[Any] = []
    monkeypatch.setattr(torch.onnx, "export", lambda network, images, path, **options: given.append((network, images[0], options)))
    monkeypatch.setattr(torch.export, "export", lambda network, images, **options: given.append((network, images[0], {})))
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", lambda program, **options: given.append(options))
    build("module.ort", WORK, tmp_path)
    build("module.aoti", replace(WORK, dtype="bfloat16"), tmp_path)
    (onnx, images, options), (packaged, narrow, _), package = given
    assert type(onnx).__module__ == type(packaged).__module__ == "scalablevit_ref.adapters.plain"
    assert not onnx.training
    assert (str(images.dtype), str(narrow.dtype)) == ("torch.float32", "torch.bfloat16")
    assert {str(p.dtype) for p in packaged.parameters()} == {"torch.bfloat16"}
    assert not options["external_data"]
    assert package["inductor_configs"] == {"freezing": True}


def test_what_builds_files_is_quiet(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    with deployed.quiet():
        logging.getLogger("torch.onnx").warning("torchvision is not installed")
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
    assert not caplog.records
    assert not recwarn.list
    logging.getLogger("torch.onnx").warning("said")
    assert [record.message for record in caplog.records] == ["said"]


def test_sixteen_bits_are_measured_in_sixteen_bits() -> None:
    work = Work("digits", 1, 112, "bfloat16")
    for name in (MODULE, "torch"):
        assert str(prepare(name, work)().dtype) == "torch.bfloat16"
    assert why_absent("numpy", work)


def test_vit_pytorch_is_of_the_same_widths_and_depths() -> None:
    small = Work("small", 1, 224)
    assert why_absent("vit_pytorch", small) is None
    assert 5.8e9 < multiply_adds("vit_pytorch", small) < 6.1e9  # 5.97 G
    assert multiply_adds("numpy", small) == sv.cost(sv.variant("small"), 224).multiply_adds
    assert why_absent("vit_pytorch", WORK) == "its widths double from stage to stage"


def test_a_library_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "find_spec", lambda name: None if name == "jax" else object())
    assert why_absent("jax", WORK) == "not installed: pip install 'scalablevit-ref[jax]'"
    assert why_absent("cupy", WORK) == "runs on GPUs"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of `time` where times are taken: no figure depends on the machine."""
    made = Clock()
    monkeypatch.setattr(measure, "time", made)
    return made


def test_runs_are_interleaved(clock: Clock) -> None:
    ran: list[str] = []
    seconds = interleaved({name: (lambda name=name: ran.append(name)) for name in "abc"}, 20)  # type: ignore[misc]
    assert ran[:6] == ["a", "a", "b", "b", "c", "c"]  # warm
    rounds = [ran[i : i + 3] for i in range(6, len(ran), 3)]
    assert len(rounds) == 20
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 2
    assert all(len(times) == 20 for times in seconds.values())


def test_times_are_of_the_call_alone(clock: Clock) -> None:
    times = interleaved({"a": lambda: clock.sleep(0.002), "b": lambda: clock.sleep(3)}, 5)
    assert times == {"a": pytest.approx([0.002] * 5), "b": pytest.approx([3] * 5)}


def test_a_ratio_is_of_the_same_rounds() -> None:
    """A round in which everything is ten times as slow changes nothing."""
    slow = np.array([1, 10, 1, 10, 1, 1, 10], float)
    found = ratio(3 * slow, slow)
    assert (found.median, found.low, found.high) == (3, 3, 3)
    noisy = ratio(np.random.default_rng(0).normal(2, 0.2, 101), np.ones(101))
    assert noisy.low < noisy.median < noisy.high
    assert 1.85 < noisy.low < 2 < noisy.high < 2.15


def test_threads_are_the_same_for_all_and_given_back() -> None:
    import os

    import torch
    from threadpoolctl import threadpool_info

    before = torch.get_num_threads()
    with threads(1) as count:
        assert count == 1
        assert torch.get_num_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        assert len(os.sched_getaffinity(0)) == 1
    torch.set_num_threads(before)
    assert len(os.sched_getaffinity(0)) >= 1
    with pytest.raises(ValueError, match=r"threads must be at most \d+, the cores there are, got 4096"), threads(4096):
        pass


def test_the_matrix_product_s_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply-adds over the seconds of the fastest run of either library."""
    monkeypatch.setattr(measure, "interleaved", lambda calls, rounds: {name: [0.5, 0.25 + (name == "a")] for name in calls})
    assert matmul_peak("float32", side=256, repeats=3) == 256**3 / 0.25
    rates = {"numpy": 1.0, "torch": 2.0, "onednn": 4.0}
    monkeypatch.setattr(measure, "interleaved", lambda calls, rounds: {name: [1 / rates[name]] for name in calls})
    assert matmul_peak("float32", side=256) == 4 * 256**3  # whose products compiled networks have
    assert matmul_peak("bfloat16", side=256) == 2 * 256**3
    monkeypatch.undo()
    assert 0 < matmul_peak("float32", side=256, repeats=3) < np.inf


def test_works_that_differ_in_their_dtype_are_timed_together() -> None:
    works = _works(["digits"], "1,2", None, ["float32", "bfloat16"], "cpu")
    assert [[(work.batch, work.dtype) for work in group] for group in measure.groups(works)] == [
        [(1, "float32"), (1, "bfloat16")],
        [(2, "float32"), (2, "bfloat16")],
    ]


def contender(seconds: float, clock: Clock) -> Contender:
    return Contender(lambda: clock.sleep(seconds), 100, np.ones((2, 10)), start_seconds=7.0)


def test_a_ratio_to_float32_is_of_the_same_rounds_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "oracle", lambda work: np.full((2, 10), 1.5))
    entrants = [
        measure.Entrants(
            replace(WORK, dtype=dtype), [MODULE, "torch"], {MODULE: contender(a, clock), "torch": contender(b, clock)}, {}, {}
        )
        for dtype, a, b in (("float32", 8.0, 4.0), ("bfloat16", 2.0, 1.0))
    ]
    products = {("float32", "cpu"): 100.0, ("bfloat16", "cpu"): 400.0}
    rows, load = measure.together(entrants, products=products, rounds=3, count=1, step=lambda what: None)
    figures = [(row["dtype"], row["contender"], row["ratio"]["median"], row["ratio_to_float32"]["median"]) for row in rows]
    assert figures == [
        ("float32", MODULE, 1, 1),
        ("float32", "torch", 2, 2),
        ("bfloat16", MODULE, 1, 4),
        ("bfloat16", "torch", 2, 8),
    ]
    assert [row["share_of_matmul_peak"] for row in rows] == pytest.approx([0.125, 0.25, 0.125, 0.25])
    assert {row["start_seconds"] for row in rows} == {7.0}
    assert rows[0]["error_eps"] == pytest.approx(1 / 3 / EPS["float32"])
    assert rows[2]["error_eps"] == pytest.approx(1 / 3 / EPS["bfloat16"])
    assert (load["disturbed"], load["unserved"]) == ([], 0.0)


@pytest.mark.usefixtures("small_product")
def test_a_disturbed_run_has_times_and_no_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "others", lambda since, now: 0.4)
    page = tmp_path / "page.md"
    code, out, _ = run("--backends", "numpy", "--page", str(page), "--plot", str(tmp_path / "x.svg"))
    assert code == 0
    assert re.search(r"\n +numpy +[\d.]+ +[\d.]+–[\d.]+ +– +\d+% *\n", out)
    said = (
        "Disturbed, so that there are times and no ratios (digits × 1): other processes took 40% of the cores' time during the run."
    )
    assert said in " ".join(out.split())
    assert said in page.read_text()
    assert "no times: other processes were busy meanwhile" in (tmp_path / "x.svg").read_text()
    assert " × | float32 cpu |" not in page.read_text()
    found = json.loads(run("--backends", "numpy", "--json")[1])
    assert [(row["ratio"], row["ratio_at_equal_work"]) for row in found["forward"]] == [(None, None)] * 2
    assert found["load"]["disturbed"]
    assert found["load"]["works"][0]["during"] == 0.4


@pytest.mark.usefixtures("small_product")
def test_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the matrix product and before the rounds, out of one patience; and it is told when that was not enough."""
    waits: list[float] = []

    def wait(longest: float, step: Any) -> tuple[float, bool]:
        waits.append(longest)
        return 40.0, len(waits) < 2

    monkeypatch.setattr(measure, "wait_until_quiet", wait)
    code, out, log = run("--backends", "numpy", "--wait", "1m")
    assert (code, waits) == (0, [60, 20])
    assert "not quiet after 80 s of waiting: it begins all the same" in log
    assert "The machine was not quiet after 80 s of waiting." in " ".join(out.split())
    assert [_seconds(text) for text in ("90", "90s", "1.5m", "1h", "0")] == [90, 90, 90, 3600, 0]


def test_what_the_processor_multiplies_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nmodel name : A: B\nflags : fpu avx512f avx512_bf16x amx_bf16\n\nprocessor : 1\n")
    monkeypatch.setattr(measure, "CPUINFO", file)
    found = machine(1)
    assert found["cpu"] == "A: B"
    assert found["products"] == {"AVX-512": True, "AVX-512-BF16": False, "AMX-BF16": True}
    assert results.multiplies_with(found) == "the processor has AVX-512, AMX-BF16; it has no AVX-512-BF16"
    assert results.multiplies_with({}) == results.multiplies_with({"products": {"AVX-512": False}}) == ""


def test_what_is_compiled_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of the run, which there is only where somebody needs it."""
    import os

    monkeypatch.setenv(measure.COMPILER_CACHE, "theirs")
    with measure.files_of(["numpy", "torch.compile"]) as folder:
        assert folder is not None
        assert os.environ[measure.COMPILER_CACHE] == str(folder / "inductor")
    assert os.environ[measure.COMPILER_CACHE] == "theirs"
    assert not folder.exists()
    with measure.files_of(["numpy", "jax"]) as folder:
        assert folder is None
        assert os.environ[measure.COMPILER_CACHE] == "theirs"


def test_memory_is_that_of_the_activations() -> None:
    """Beyond weights and images, and it grows with the batch."""
    assert processes.can_measure_memory()
    one, four = (processes.peak_megabytes("numpy", Work("digits", batch, 112), 1) for batch in (1, 16))
    largest = max(np.prod(layer.output_shape) for layer in sv.cost(sv.variant("digits"), 112).layers) * 4e-6
    assert largest < one < 30
    assert one < four
    both = processes.memory("numpy", Work("digits", 1, 112), 1)
    assert 30 < both["process_megabytes"] < 2000
    assert both["process_megabytes"] > both["peak_megabytes"]
    with pytest.raises(RuntimeError, match="unknown variant"):
        processes.peak_megabytes("numpy", Work("nonsense", 1, 112), 1)


def test_growth_is_the_exponent_of_the_tokens() -> None:
    rows = growth("small", sizes=(224, 448), rounds=2)
    assert [row["kind"] for row in rows] == ["iwsa", "ssa"]
    assert rows[0]["counted"] == pytest.approx(1)
    assert 1 < rows[1]["counted"] < 2
    assert rows[1]["tokens"] == [3136, 12544]
    assert all(np.log(row["seconds"][1] / row["seconds"][0]) / np.log(4) == pytest.approx(row["exponent"]) for row in rows)
    assert [row["kind"] for row in growth("digits", sizes=(112, 224), rounds=1)] == [
        "iwsa",
        "ssa",
    ]  # whose last stages do not take images of 224


@pytest.fixture
def small_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix product whose rate is the peak, small: what is said of it is in question, not how large it is."""
    monkeypatch.setattr(measure, "matmul_peak", partial(matmul_peak, side=256))


@pytest.mark.usefixtures("small_product")
def test_json() -> None:
    code, out, _ = run("--json", "--backends", "numpy,torch,cupy", "--batch", "1,2")
    assert code == 0
    found = json.loads(out)
    assert found["machine"]["threads"] == 1
    assert {"numpy", "torch", "einops"} <= set(found["machine"]["versions"])
    assert [(row["contender"], row["batch"]) for row in found["forward"]] == [
        (name, batch) for batch in (1, 2) for name in (MODULE, "numpy", "torch", "cupy")
    ]
    for row in found["forward"]:
        assert row["size"] == 112  # the variant's own, as no other is given
        if row["contender"] == "cupy":
            assert row["absent"] == "runs on GPUs"
            continue
        assert row["difference"] <= NETWORK_TOLERANCE["float32"] * EPS["float32"]
        assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
        rate = row["multiply_adds"] / row["seconds"]["median"]
        assert row["share_of_matmul_peak"] == pytest.approx(2e-9 * rate / found["matmul_gflops"]["float32 cpu"])
        assert row["multiply_adds"] == row["batch"] * sv.cost(sv.variant("digits"), 112).multiply_adds
        assert row["contender"] != MODULE or row["ratio"] == {"median": 1, "low": 1, "high": 1}


@pytest.mark.usefixtures("small_product")
def test_table_picture_and_page(tmp_path: Path) -> None:
    from PIL import Image

    picture, text = tmp_path / "bench.png", tmp_path / "bench.md"
    code, out, _ = run("--backends", "numpy,cupy", "--plot", str(picture), "--page", str(text))
    assert code == 0
    assert re.search(r"digits x 1 +module +[\d.]+ +[\d.]+–[\d.]+ +1 ", out)
    assert re.search(r"\n +numpy +[\d.]+ +[\d.]+–[\d.]+ +[\d.]+ +[\d.]+–[\d.]+ +\d+% *\n", out)
    assert "not run: cupy (digits): runs on GPUs" in out
    table = out.partition(str(tmp_path))[0]
    assert max(map(len, table.splitlines())) <= 80
    said = [f"{picture}: its picture", f"{picture.with_name('bench-dark.png')}: the same for dark pages", f"{text}: the page"]
    assert out.splitlines()[-3:] == said
    with Image.open(picture) as image:
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20
    written = text.read_text()
    assert "| digits 112² × 1 | float32 cpu | numpy |" in written
    assert "](bench.png#only-light)\n" in written
    assert "](bench-dark.png#only-dark)\n" in written
    with Image.open(picture.with_name("bench-dark.png")) as dark:
        assert sum(dark.convert("RGB").getpixel((0, 0))) < 3 * 50
    assert re.search(
        r"!\[Images a second of each way, times as fast as the authors' module, and error\. digits, 1 image of 112² in float32: "
        r"(authors' module|NumPy) [\d.]+, [\d.]+ ×, [\d.]+ eps; (authors' module|NumPy) [\d.]+, [\d.]+ ×, [\d.]+ eps\.\]",
        written,
    )
    assert "- not run: cupy (digits): runs on GPUs" in written


def test_a_variant_is_timed_at_the_size_of_its_tables() -> None:
    works = _works(["digits", "small"], "1,2", None, ["float32"], "cpu")
    assert [(work.variant, work.batch, work.size) for work in works] == [
        ("digits", 1, 112),
        ("digits", 2, 112),
        ("small", 1, 224),
        ("small", 2, 224),
    ]


def test_nothing_of_a_full_table_is_cut_at_80_columns() -> None:
    """The longest names, and figures of a slow machine."""
    seconds = {"median": 1.2345, "low": 1.1234, "high": 1.5678}
    rows = [row(name, 10.56) | {"variant": "mmdet_small", "batch": 16, "peak_megabytes": 1234.0} for name in LIBRARIES]
    console = Console(width=80, file=io.StringIO())
    console.print(_terminal_table([found | {"seconds": seconds, "ratio_at_equal_work": 10.56} for found in rows]))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    words = [word for heading in results.HEADINGS for word in heading.split()]
    assert {word for word in [*words, *LIBRARIES, "10.56–10.56", "1234"] if word not in printed} == set()
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80


def row(contender: str, times_as_fast: float) -> dict[str, Any]:
    figures = {"median": times_as_fast, "low": times_as_fast, "high": times_as_fast}
    seconds = {key: 1 / value for key, value in figures.items()}
    of = {"variant": "small", "batch": 1, "size": 224, "dtype": "float32", "device": "cpu"}
    return {"contender": contender, "seconds": seconds, "ratio": figures, "share_of_matmul_peak": 0.5} | of


def test_the_page_says_which_goals_are_missed() -> None:
    rows = [row(MODULE, 1), row("numpy", 1.1), row("torch", 1.04)]
    conversion = {"variant": "large", "megabytes": 437, "copy_seconds": 1, "convert_seconds": 1.5, "ratio": 1.5}
    found = {
        "machine": machine(2),
        "gpu": None,
        "matmul_gflops": {"float32 cpu": 150.0},
        "forward": rows,
        "growth": [{"kind": "iwsa", "tokens": [1, 2], "exponent": 1.01, "counted": 1.0}],
        "import": {"total": 0.2, "beyond_numpy_and_einops": 0.05},
        "conversion": conversion | {"megabytes_of_memory": 26, "inspect_seconds": 0.1},
    }
    text = project_page(found, "benchmarks")
    assert "| conversion, times a copy | 2 | 1.5 | reached |" in text
    assert "| `import scalablevit_ref`, seconds | 0.25 | 0.2 | reached |" in text
    assert "goal" not in results.page(found)
    assert "| small × 1 | numpy | 0.90 | 1.10 | reached |" in text
    assert "| small × 1 | torch | 1.15 | 1.04 | 10% short |" in text
    assert "| IWSA | 1, 2 | 1.01 | 1.00 |" in text
    assert "CuPy was not run at all" in text
    assert text.startswith("# Benchmarks of small\n")
    assert "Do not trust" not in text
    rows[1]["share_of_matmul_peak"] = 1.11
    found["import"] = {"total": 0.3, "beyond_numpy_and_einops": 0.05}
    assert "| `import scalablevit_ref`, seconds | 0.25 | 0.3 | 20% over |" in project_page(found, "benchmarks")
    assert "Do not trust these times" in project_page(found, "benchmarks")


def test_import_time_is_measured_in_a_process_of_its_own() -> None:
    found = processes.import_time(1)
    assert 0 < found["beyond_numpy_and_einops"] < found["total"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "smal"], "unknown variant 'smal' (did you mean 'small'"),
        (["--backends", "nump"], "unknown --backends 'nump' (did you mean 'numpy'"),
        (["--dtype", "int8"], "unknown --dtype 'int8'"),
        (["--device", "tpu"], "unknown --device 'tpu'"),
        (["--dtype", "tf32"], "--dtype tf32, the rounding of float32's products, is of NVIDIA GPUs: add --device cuda"),
        (["--dtype", "float32,int8"], "unknown --dtype 'int8'"),
        (["--recommend", "--device", "cuda"], "--recommend is about the CPU: leave --device out"),
        (["--wait", "soon"], "--wait must be a time such as 90s or 10m, got 'soon'"),
        (["--wait", "-1s"], "--wait must be a time such as 90s or 10m, got '-1s'"),
        (["--batch", "0"], "--batch must be numbers of at least 1 between commas, got '0'"),
        (["--batch", "1,x"], "--batch must be numbers of at least 1 between commas, got '1,x'"),
        (["--image-size", "100"], "100"),
        (["--threads", "4096"], f"--threads must be at most {len(cores())}, the cores there are, got 4096"),
        (["--plot", "missing/picture.svg"], "--plot: there is no folder 'missing'"),
        (["--page", "missing/page.md"], "--page: there is no folder 'missing'"),
        (["--plot", "picture.bmp"], "--plot must end in .png, .svg or .pdf, got 'picture.bmp'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    code, out, error = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in DOCS.glob("benchmarks*.json")))
def test_the_committed_page_and_pictures_are_of_the_committed_run(name: str, tmp_path: Path) -> None:
    found = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
    for theme, file in (("light", f"{name}.svg"), ("dark", f"{name}-dark.svg")):
        results.plot(project_picture(found), tmp_path / file, theme=theme)
        assert (tmp_path / file).read_bytes() == (DOCS / "pictures" / file).read_bytes()
    assert project_page(found, name) == (DOCS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("package", "extra"), [("torch", "torch"), ("matplotlib", "plot")])
def test_what_is_not_installed_is_named_with_its_extra(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalablevit_ref.cli import bench as command

    monkeypatch.setattr(command, "find_spec", lambda name: None if name == package else object())
    code, out, error = run("--plot", "picture.png")
    assert (code, out) == (2, "")
    assert error == f"scalablevit-ref: bench needs {package}: pip install 'scalablevit-ref[{extra}]'\n"

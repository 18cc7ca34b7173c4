"""What `bench` makes of its figures for who wants one way to run the network: the picture, and `--recommend`."""

from __future__ import annotations

import ast
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref.benchmark import chart, measure, recommend, results
from scalablevit_ref.benchmark.contenders import LIBRARIES, MODULE
from scalablevit_ref.cli import app
from scalablevit_ref.drawing.render import picture
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2
from tests.programs.benchmarks import project_page

pytestmark = pytest.mark.usefixtures("as_in_production")

TIMES = {
    ("float32", 1): {MODULE: 0.2, "torch": 0.18, "torch.freezing": 0.16, "torch.aoti": 0.15, "export.ort": 0.12, "numpy": 0.25},
    ("bfloat16", 1): {MODULE: 0.1, "export.openvino": 0.05, "module.openvino": 0.04},
    ("float32", 8): {MODULE: 1.6, "export.openvino": 0.8, "vit_pytorch": 0.1},
    ("bfloat16", 8): {MODULE: 1.5, "export.openvino": 1.0},
}
"""Seconds of each contender of an invented run, by dtype and batch."""


def spread(median: float) -> dict[str, float]:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


def row(name: str, dtype: str, batch: int, seconds: float, *, disturbed: bool = False, error: float = 2.5) -> dict[str, Any]:
    work = {"variant": "small", "batch": batch, "size": 224, "dtype": dtype, "device": "cpu"}
    figures = {"seconds": spread(seconds), "share_of_matmul_peak": 0.5, "error_eps": error, "start_seconds": 1.4}
    ratios = {
        "ratio": spread(TIMES[dtype, batch][MODULE] / seconds),
        "ratio_to_float32": spread(TIMES["float32", batch][MODULE] / seconds),
        "ratio_at_equal_work": 1.5,
    }
    built = {"build_seconds": 61.0} if name.endswith((".ort", ".openvino", ".aoti")) else {}
    return {"contender": name} | work | figures | (dict.fromkeys(ratios) if disturbed else ratios) | built


def document(**changes: Any) -> dict[str, Any]:
    rows = [row(name, dtype, batch, s) for (dtype, batch), times in TIMES.items() for name, s in times.items()]
    works = [{"variant": "small", "batch": batch, "size": 224, "disturbed": []} for batch in (1, 8)]
    absent = {"contender": "jax", "variant": "small", "dtype": "float32", "device": "cpu", "absent": "not installed: pip install x"}
    machine = measure.machine(2) | {"cpu": "A processor"}
    found = {"machine": machine, "gpu": None, "matmul_gflops": {"float32 cpu": 150.0}, "forward": [*rows, absent]}
    return found | {"load": {"works": works, "disturbed": False}} | changes


def words(found: dict[str, Any]) -> list[str]:
    return [text.words for text in chart.ways(found, results.ran(found)).texts]


def test_every_way_is_of_contenders_that_there_are() -> None:
    names = [name for way in chart.WAYS.values() for name in way]
    assert set(names) - {MODULE} <= set(LIBRARIES)
    assert set(recommend.LINES) == set(names) - {MODULE, "torch.compile", "torch.freezing"}
    assert {*recommend.QUICK, *recommend.COMPILED} == set(recommend.LINES)


def test_the_picture_has_the_fastest_way_first() -> None:
    """With its speed, how many times as fast as the module in float32, and its error. Of compilers the fastest is shown."""
    told = words(document())
    one = told[told.index("small, 1 image of 224²") : told.index("small, 8 images of 224²")]
    assert one == [
        *("small, 1 image of 224²", "in float32, where 1 eps is 1.2e-07"),
        *("ONNX Runtime", "8.3", "1.67 ×", "2.5 eps"),
        *("PyTorch compiled", "6.7", "1.33 ×", "2.5 eps"),
        *("PyTorch eager", "5.6", "1.11 ×", "2.5 eps"),
        *("authors' module", "5.0", "1.00 ×", "2.5 eps"),
        *("NumPy", "4.0", "0.80 ×", "2.5 eps"),
        "in bfloat16, where 1 eps is 0.0078",
        *("OpenVINO", "20.0", "4.00 ×", "2.5 eps"),
        *("authors' module", "10.0", "2.00 ×", "2.5 eps"),
    ]
    assert "times: as fast as the authors' module, run eagerly in float32" in told
    diagram = chart.ways(document(), results.ran(document()))
    assert diagram.alt.startswith(
        "Images a second of each way, times as fast as the authors' module, and error. small, 1 image of 224² in float32: "
        "ONNX Runtime 8.3, 1.67 ×, 2.5 eps; PyTorch compiled 6.7, 1.33 ×, 2.5 eps;"
    )
    lengths = {bar.width for bar in diagram.bars}
    assert max(lengths) < chart.LONGEST  # the fastest quarter reaches it
    assert all(bar.right < chart.RATE - 40 for bar in diagram.bars)  # where the figures begin
    assert {bar.hue for bar in diagram.bars} == {"norm", "iwsa", "ssa"}


def test_the_picture_of_a_disturbed_run_has_no_ratios() -> None:
    rows = [row(MODULE, "float32", 1, 0.2, disturbed=True), row("numpy", "float32", 1, 0.25, disturbed=True, error=123456.0)]
    told = words(document(forward=rows))
    assert [told[i + 1 : i + 4] for i, word in enumerate(told) if word == "NumPy"] == [["4.0", "–", "123,456 eps"]]
    assert "no times: other processes were busy meanwhile" in told


def test_a_run_in_one_dtype_is_held_against_the_module_in_it() -> None:
    rows = [row(name, "bfloat16", 1, s) for name, s in TIMES["bfloat16", 1].items()]
    for one in rows:
        del one["ratio_to_float32"]
    told = words(document(forward=rows))
    assert "2.00 ×" in told
    assert "times: as fast as the authors' module, run eagerly in the same numbers" in told


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_is_drawn(theme: str) -> None:
    text = picture(results.chart(document()), ".svg", theme=theme).decode()
    assert "Which way, how fast, how exact" in text


def test_the_page_has_the_picture_first_and_folds_the_rest() -> None:
    text = results.page(document(), ["a.svg", "b.svg"])
    first, _, rest = text.partition("<details")
    assert first.count("](a.svg#only-light)") == first.count("](b.svg#only-dark)") == 1
    assert "| work |" not in first
    assert rest.count("</details>") == 2
    assert (
        "| small 224² × 1 | float32 cpu | export.ort | 120.0 | 108.0–132.0 | 1.67 | 1.50–1.83 | 50% |  | 2.5 | 61.0 | 1.4 |" in rest
    )
    assert "process MB |" not in rest  # which was not measured
    assert "- not run: jax (small): not installed: pip install x" in rest


def test_the_goals_of_what_is_recommended() -> None:
    text = project_page(document(), "benchmarks")
    assert "| small × 1 | recommended: export.ort in float32 | 1.45 | 1.67 | reached |" in text
    assert "| small × 1 | recommended: export.openvino in bfloat16 | 3.50 | 4.00 | reached |" in text
    assert "| small × 8 | recommended: export.openvino in float32 | 1.45 | 2.00 | reached |" in text
    assert "| small × 1 | export.ort | 1.40 | 1.67 | reached |" in text


def test_what_is_recommended() -> None:
    one, eight = recommend.recommendation(document(), results.ran(document()))
    assert (one["variant"], one["batch"], one["size"]) == ("small", 1, 224)
    assert (one["float32"]["contender"], one["bits16"]["contender"]) == ("export.ort", "export.openvino")
    assert one["float32"]["times_as_fast"] == pytest.approx(0.2 / 0.12)
    assert one["bits16"]["times_as_fast"] == pytest.approx(4)
    assert one["bits16"]["error_eps"] == 2.5
    assert eight["float32"]["contender"] == "export.openvino"
    assert eight["bits16"] is None  # slower than in float32


def test_what_is_not_exact_is_not_recommended() -> None:
    wrong = [row("export.ort", "float32", 1, 0.1, error=NETWORK_TOLERANCE["float32"] + 1), row("torch", "float32", 1, 0.3)]
    found = document(forward=wrong)
    assert recommend.recommendation(found, results.ran(found))[0]["float32"]["contender"] == "torch"
    found = document(forward=wrong[:1])
    item = recommend.recommendation(found, results.ran(found))
    assert item[0]["float32"] is None
    assert recommend.lines(item)[1:] == [
        f"  float32: nothing within {NETWORK_TOLERANCE['float32']} eps",
        "  16 bits: nothing is faster than float32",
    ]


def printed(found: dict[str, Any]) -> str:
    console = Console(width=80, file=io.StringIO())
    found["recommendation"] = recommend.recommendation(found, results.ran(found))
    results.print_recommendation(console, found)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_recommendation_in_words() -> None:
    base, built = "x the eager module, error 2.5 eps", "1 s to start, 61 s to build once"
    said = (
        "small x 1 at 224",
        f"  float32: export.ort in float32: 8.3 images a second, 1.67 {base}, {built}",
        "      from scalablevit_ref.adapters import onnx",
        "      onnx.export(params, config, 'small.onnx', image_size=224, batch=1)",
        "      network = onnx.session('small.onnx')",
        f"  16 bits: export.openvino in bfloat16: 20.0 images a second, 4.00 {base} (2 %), {built}",
        "      from scalablevit_ref.adapters import onnx, openvino",
        "      onnx.export(params, config, 'small.onnx', image_size=224, batch=1)",
        "      network = openvino.session('small.onnx', dtype='bfloat16')",
        "small x 8 at 224",
        f"  float32: export.openvino in float32: 10.0 images a second, 2.00 {base}, {built}",
        "      from scalablevit_ref.adapters import onnx, openvino",
        "      onnx.export(params, config, 'small.onnx', image_size=224, batch=8)",
        "      network = openvino.session('small.onnx')",
        "  16 bits: nothing is faster than float32",
        "not run: jax (small): not installed: pip install x",
    )
    lines = printed(document()).splitlines()
    assert lines[0] == "A processor, 2 threads"
    assert tuple(lines[-len(said) :]) == said  # without a line about torch.aoti, which was run


def test_what_compiles_in_each_process_is_told_so() -> None:
    found = document(forward=[row("torch.aoti", "float32", 1, 0.1)])
    (_, line, *code) = recommend.lines(recommend.recommendation(found, results.ran(found))[:1])[:-1]
    assert line.endswith("1 s to start, 61 s to compile in each process")
    assert code[-1] == "      network = ScalableViT(config, params=params).compiled()"


def test_a_disturbed_run_recommends_nothing() -> None:
    works = [{"variant": "small", "batch": batch, "size": 224, "disturbed": ["other work"] * (batch == 1)} for batch in (1, 8)]
    text = printed(document(load={"works": works, "disturbed": True}))
    assert "small x 1 at 224\n  no recommendation: other work. Add --wait 10m.\nsmall x 8 at 224\n  float32: " in text
    assert re.search(r"export.ort +120.0 +108.0–132.0", text)  # the times
    assert "120.0" not in printed(document())


@pytest.mark.parametrize("name", recommend.LINES)
def test_the_lines_are_python(name: str) -> None:
    """And they say the dtype where it is not float32."""
    asked = {"contender": name, "variant": "small", "size": 224, "batch": 8}
    wide, narrow = (recommend.code(asked | {"dtype": dtype}) for dtype in ("float32", "bfloat16"))
    ast.parse("\n".join([*wide, *narrow]))
    assert "bfloat16" not in "".join(wide)
    assert ("bfloat16" in "".join(narrow)) != (name == "numpy")  # which does not compute in it


@pytest.mark.parametrize("name", ["numpy", "jax", "torch", "torch.aoti", "export.ort", "export.openvino"])
def test_the_lines_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are printed, of weights, settings and images; and they give the logits."""
    import jax
    import torch

    monkeypatch.setattr("scalablevit_ref.adapters.torch_compiled.packaged", lambda network, images: network)  # it takes a minute
    monkeypatch.setattr(jax, "jit", lambda function, static_argnums: lambda x, p, c: function(sv.to_numpy(x), sv.to_numpy(p), c))
    monkeypatch.chdir(tmp_path)
    config = replace(sv.variant("digits"), depths=(1, 1, 1, 1))
    params = random_params(sv.parameter_shapes(config), dtype="float32")
    images = random_images((2, 1, 112, 112), dtype="float32")
    expected = sv.scalable_vit(images, params, config)
    given = sv.to_backend(images, {"numpy": "numpy", "jax": "jax"}.get(name, "torch"))
    names: dict[str, Any] = {"params": params, "config": config, "images": given}
    exec("\n".join(recommend.code({"contender": name, "variant": "digits", "size": 112, "batch": 2, "dtype": "float32"})), names)
    with torch.no_grad():
        found = names["network"](given) if "network" in names else names["logits"]
    assert relative_l2(sv.to_numpy(found), expected) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both batches and dtypes if nothing else is said; what compiles for minutes is named."""
    monkeypatch.setattr(measure, "load_now", lambda: 0.0)
    monkeypatch.setattr(measure, "others", lambda since, now: 0.0)
    monkeypatch.setattr(measure, "unserved", lambda wall, processor: 0.0)
    monkeypatch.setattr(measure, "matmul_peak", lambda *kind: 1e9)
    words = ["bench", "--recommend", "--variants", "digits", "--rounds", "3", "--threads", "1", "--backends", "torch,export.ort"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert re.search(
        r"digits x 1 at 112\n  float32: \S+ in float32: [\d.]+ images a second, [\d.]+ x the eager module, ", result.stdout
    )
    assert "digits x 8 at 112\n" in result.stdout
    assert result.stdout.endswith("not tried: torch.aoti, which compiles for minutes: add --full\n")
    found = json.loads(CliRunner().invoke(app, [*words, "--json", "--batch", "2", "--dtype", "float32"]).stdout)
    (item,) = found["recommendation"]
    assert item["batch"] == 2
    assert item["float32"]["contender"] in ("torch", "export.ort")
    assert item["float32"]["code"]
    assert item["bits16"] is None
    assert found["forward"]

"""`scalablevit-ref certify` and `verify --certify` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.certify import before
from scalablevit_ref.certify.compared import Prover
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing import compare, random_params
from scalablevit_ref.testing.traces import reference_trace, save_trace
from tests.support.small_network import small_network

CONFIG = small_network(head="linear", patch_size=2)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with weights and images of a small network, and a trace of it in float32."""
    params = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype("float32")
    sv.save_checkpoint(tmp_path / "own.safetensors", params, CONFIG)
    np.save(tmp_path / "images.npy", images)
    save_trace(tmp_path / "trace.npz", reference_trace(images, params, CONFIG), CONFIG)
    return tmp_path


@pytest.mark.usefixtures("as_in_production")
def test_the_certificate_of_the_digits(run: Any) -> None:
    """Part of CI: NumPy, PyTorch and the programs that run ONNX files are within what `verify` allows of the exact result, as a
    theorem.
    """
    code, out, err = run("certify", "--backend", "numpy,torch,onnx,openvino", "--bits", "212", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["images"], document["bits"]) == (1, 212)
    assert document["tries"] == []
    assert document["width"] < 2.0**-63
    rows = {row["name"]: row for row in document["results"] if "absent" not in row}
    libraries = {"numpy float64", "numpy float32", "torch float64", "torch float32", "torch bfloat16"}
    programs = {"ONNX Runtime float32", "OpenVINO float32"}
    sixteen = {"ONNX Runtime float16", "OpenVINO bfloat16", "OpenVINO float16"}
    assert libraries | programs <= set(rows) <= libraries | programs | sixteen
    for name, row in rows.items():
        assert len(row["taps"]) == 51
        most = 8 if "bfloat16" in name else 32
        for tap in row["taps"].values():
            low, high = tap["eps"]
            assert 0 <= low <= high <= most
            assert high - low < 1e-3
    assert rows["numpy float64"]["taps"]["logits"]["eps"][0] > 0
    assert all(pair["proved"] for pair in document["nearer"])


@pytest.mark.usefixtures("as_in_production", "few_digits")
def test_verify_certifies(run: Any) -> None:
    code, out, err = run("verify", "--certify", "--backend", "numpy", "--dtype", "float32", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["agree"] is True
    assert document["certificate"]["tries"][0]["bits"] == 106
    assert document["certificate"]["bits"] == 212
    assert [row["name"] for row in document["certificate"]["results"]] == ["numpy float64", "numpy float32"]


def test_a_table_a_trace_and_a_picture(run: Any, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    options = ("--weights", "own.safetensors", "--images", "images.npy", "--backend", "numpy", "--dtype", "float32")
    code, out, err = run("certify", "trace.npz", *options, "--plot", "errors.svg", "--all")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "own.safetensors, 1 image: proved errors in eps" in text
    assert "At logits, numpy float32 cannot be told from trace.npz." in text or "trace.npz cannot be told from" in text
    assert "errors.svg: the picture" in text
    assert "patch_embeds.0" in text
    assert "numpy float32 is at most" in (small / "errors.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(("bits", "tries"), [("54", 1), ("400", 0)])
def test_the_table_says_which_precisions_were_not_enough(
    run: Any, small: Path, monkeypatch: pytest.MonkeyPatch, bits: str, tries: int
) -> None:
    monkeypatch.chdir(small)
    options = ("--weights", "own.safetensors", "--images", "images.npy", "--backend", "numpy", "--dtype", "float64")
    code, out, err = run("certify", *options, "--bits", bits)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert text.count(f"with {bits} bits, balls at ") == text.count("are too wide: ") == text.count(": run again with") == tries
    assert text.count("Proved with") == 1


def test_the_trace_alone(run: Any, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    options = ("--weights", "own.safetensors", "--images", "images.npy", "--backend", "none", "--json")
    code, out, _ = run("certify", "trace.npz", *options)
    assert code == 0
    (row,) = json.loads(out)["results"]
    assert (row["name"], row["dtype"]) == ("trace.npz", "float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bits", "52"), "--bits must be 53 to 16384, got 52"),
        (("--backend", "nump"), "unknown --backend 'nump' (did you mean 'numpy'?)"),
        (("--dtype", "float8"), "unknown --dtype 'float8'"),
        (("--images", "missing.npy"), "missing.npy: there is no such file"),
        (("missing.npz",), "missing.npz: there is no such file"),
        (("--plot", "x.bmp"), ".bmp"),
        (("--images", "nan.npy"), "images hold NaN or infinity, of which nothing is proved"),
        (("--weights", "nan.npz", "--images", "images.npy"), "nan.npz: NaN or infinite weights (1 parameters): norm.bias"),
    ],
)
def test_refusals(run: Any, small: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(small)
    np.save("nan.npy", np.full((1, 1, 112, 112), np.nan, np.float32))
    params = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
    params["norm.bias"][0] = np.inf
    sv.save_checkpoint("nan.npz", params, CONFIG, allow_nonfinite=True)
    code, out, err = run("certify", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def compared(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside the small network's files, traces of two images: right ones, one with wrong logits, and one that shows x + f(x)."""
    monkeypatch.chdir(small)
    params = sv.load_checkpoint("own.safetensors").params
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype("float32")
    trace = reference_trace(images, params, CONFIG)
    save_trace("two.npz", trace, CONFIG)
    save_trace("wrong.npz", trace | {"logits": trace["logits"] * np.float32(1.5)}, CONFIG)
    save_trace("another.npz", trace | {"stages.0.0.mlp": trace["stages.0.0"]}, CONFIG)
    return small


@pytest.mark.usefixtures("compared")
def test_compare_proves_what_certify_does(run: Any) -> None:
    options = ("--weights", "own.safetensors", "--images", "images.npy", "--json")
    (there,) = json.loads(run("certify", "trace.npz", *options, "--backend", "none")[1])["results"]
    (here,) = json.loads(run("compare", "trace.npz", *options, "--certify")[1])["certificate"]["results"]
    assert len(here["taps"]) == len(there["taps"]) - ("mean" in there["taps"])
    for tap, error in here["taps"].items():
        for measure, (low, high) in error.items():
            least, most = there["taps"][tap][measure]
            assert max(low, least) <= min(high, most)


@pytest.mark.usefixtures("compared")
def test_compare_proves_the_layers_of_all_its_images(run: Any) -> None:
    """The error against the truth is that against float64, but for the oracle's own."""
    code, out, err = run("compare", "two.npz", "--weights", "own.safetensors", "--certify", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    found = document["certificate"]
    (row,) = found["results"]
    assert found["images"] == 2
    assert set(row["taps"]) == {layer["layer"] for layer in document["layers"]}
    for layer in document["layers"]:
        low, high = row["taps"][layer["layer"]]["eps"]
        assert low - 1e-3 <= layer["propagated"]["error_eps"] <= high + 1e-3
        assert high - low < 1e-3
    assert "certificate" not in json.loads(run("compare", "two.npz", "--weights", "own.safetensors", "--json")[1])


@pytest.mark.usefixtures("compared")
def test_compare_says_where_it_is_worst_and_where_first_wrong(run: Any) -> None:
    code, out, _ = run("compare", "wrong.npz", "--weights", "own.safetensors", "--certify")
    assert code == 1
    text = " ".join(out.split())
    half = 0.5 / 2.0**-23
    low, high = text.split("Farthest from the exact result at logits: ")[1].split(" eps of float32")[0].split(" – ")
    assert float(low) <= float(high)
    assert abs(float(low) / half - 1) < 1e-3
    assert f"At logits, the first that differs: {low} – {high} eps of float32 from the exact result." in text
    assert "Proved with 106 bits: the exact result is known to" in text


@pytest.mark.usefixtures("compared")
def test_another_value_is_no_error_of_the_layer(run: Any) -> None:
    code, out, _ = run("compare", "another.npz", "--weights", "own.safetensors", "--certify", "--json")
    assert code == 0
    document = json.loads(out)
    shown = {layer["layer"]: layer["another_value"] for layer in document["layers"]}
    assert shown["stages.0.0.mlp"]
    assert set(document["certificate"]["results"][0]["taps"]) == {layer for layer, other in shown.items() if not other}


def test_compare_proves_nothing_of_another_network() -> None:
    config = vit_pytorch.Config(num_classes=3, dim=8, depth=(1, 1), heads=2, reduction_factor=(2, 1))
    with pytest.raises(CaptureError, match="certify= is for the official network; nothing is proved of the layers of a community"):
        compare({"logits": np.zeros((1, 3))}, variant=config, images=np.zeros((1, 3, 16, 16)), certify=Prover())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("two.npz", "wrong.npz"), "--certify needs the weights of the two traces: --weights gives them"),
        (("port.py:other", "--weights", "own.safetensors", "--as-it-is"), "--certify proves nothing of other weights than the "),
        (("two.npz", "--weights", "nan.npz"), "nan.npz: NaN or infinite weights"),
    ],
)
@pytest.mark.usefixtures("compared")
def test_refusals_of_compare(run: Any, arguments: tuple[str, ...], message: str) -> None:
    Path("port.py").write_text(PORTS, encoding="utf-8")
    params = sv.load_checkpoint("own.safetensors").params
    params["norm.bias"][0] = np.inf
    sv.save_checkpoint("nan.npz", params, CONFIG, allow_nonfinite=True)
    code, out, err = run("compare", *arguments, "--certify")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


PORTS = """
import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT


def other():
    checkpoint = sv.load_checkpoint("own.safetensors")
    network = ScalableViT(checkpoint.config)
    network.load_state_dict(sv.to_backend(dict(checkpoint.params), "torch"))
    network.norm.weight.data[0] *= 2
    return network
"""


@pytest.mark.usefixtures("compared")
def test_compare_without_the_extra(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before, "find_spec", lambda name: None)
    code, out, err = run("compare", "two.npz", "--weights", "own.safetensors", "--certify")
    assert (code, out) == (2, "")
    assert err == "scalablevit-ref: --certify needs python-flint: pip install 'scalablevit-ref[certified]'\n"


def test_without_the_extra(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before, "find_spec", lambda name: None)
    code, out, err = run("certify")
    assert (code, out) == (2, "")
    assert err == "scalablevit-ref: certify needs python-flint: pip install 'scalablevit-ref[certified]'\n"

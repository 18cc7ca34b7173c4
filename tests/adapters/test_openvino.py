"""OpenVINO: its telemetry stays off while it is loaded, and a file runs in the numbers that it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import scalablevit_ref as sv
from scalablevit_ref.adapters.onnx import export
from scalablevit_ref.adapters.openvino import SHAPES, TELEMETRY, openvino_runtime, session
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8,),
    depths=(2,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(2,),
    c_ratios=(1.25,),
    window_sizes=(2,),
    patch_size=2,
    num_classes=5,
    in_chans=1,
)

pytestmark = pytest.mark.usefixtures("as_in_production")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of that name that nobody has loaded, beside a telemetry that it would import."""
    path = tmp_path / "openvino.py"
    path.write_text(f"try:\n    import {TELEMETRY}\n    sends = True\nexcept ImportError:\n    sends = False\n", encoding="utf-8")
    (tmp_path / f"{TELEMETRY}.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("openvino", TELEMETRY):
        monkeypatch.setitem(sys.modules, name, None)  # puts back what was there
        del sys.modules[name]
    return path


@pytest.mark.usefixtures("stand_in")
def test_it_sends_nothing_and_the_table_of_modules_is_as_it_was() -> None:
    found = openvino_runtime()
    assert not found.sends
    assert TELEMETRY not in sys.modules
    assert openvino_runtime() is found


@pytest.mark.usefixtures("stand_in")
def test_what_is_loaded_already_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("openvino")
    monkeypatch.setitem(sys.modules, "openvino", theirs)
    assert openvino_runtime() is theirs


def test_one_that_is_missing_or_broken_leaves_no_trace(stand_in: Path) -> None:
    stand_in.write_text("import there_is_no_such_module", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        openvino_runtime()
    assert not {TELEMETRY, "openvino"} & set(sys.modules)


@pytest.mark.parametrize(
    "loads",
    [
        "from scalablevit_ref.adapters.openvino import openvino_runtime; openvino_runtime().Core()",
        "import scalablevit_ref.compare.capture.openvino",
    ],
)
def test_the_real_one_starts_no_process(loads: str) -> None:
    """As it does where it is imported as it is, in a thread, a moment later."""
    code = (
        "import multiprocessing.process as p, threading; started = []; p.BaseProcess.start = lambda self: started.append(self)\n"
        f"{loads}\n"
        "[one.join(2) for one in threading.enumerate() if one is not threading.main_thread()]; print(len(started))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "small.onnx"
    export(random_params(sv.parameter_shapes(CONFIG), dtype="float32"), CONFIG, path, image_size=8)
    return path


def test_a_file_runs_in_the_numbers_that_are_asked_for(file: Path) -> None:
    pytest.importorskip("openvino")
    images = random_images((3, 1, 8, 8), dtype="float32")
    params = random_params(sv.parameter_shapes(CONFIG), dtype="float64")
    expected = sv.scalable_vit(images.astype("float64"), params, CONFIG)
    error = relative_l2(session(file, threads=1)(sv.to_backend(images, "torch")), expected)
    assert error <= NETWORK_TOLERANCE["float32"] * EPS["float32"]
    if "BF16" in openvino_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        rounded = relative_l2(session(file, dtype="bfloat16")(images), expected)
        assert 10 * error < rounded <= NETWORK_TOLERANCE["bfloat16"] * EPS["bfloat16"]
    with pytest.raises(ValueError, match="OpenVINO"):
        session(file)(images[..., :4])


def test_bad_arguments(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype must be"):
        session(file, dtype="float64")
    with pytest.raises(FileNotFoundError):
        session(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(sv.CheckpointError, match=r"broken\.onnx.*OpenVINO does not load it"):
        session(tmp_path / "broken.onnx")


def test_every_shape_that_the_file_takes(tmp_path: Path) -> None:
    """The first ones are compiled for, the others run on what is compiled for any."""
    params = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
    export(params, CONFIG, tmp_path / "any.onnx", image_size="dynamic")
    network = session(tmp_path / "any.onnx", threads=1)
    wide = {name: x.astype("float64") for name, x in params.items()}
    for shape in [(1, 1, 8, 8), (2, 1, 8, 8), (1, 1, 8, 12), (3, 1, 12, 8), (1, 1, 16, 16), (2, 1, 16, 8), (2, 1, 8, 8)]:
        images = random_images(shape, dtype="float32")
        error = relative_l2(network(images), sv.scalable_vit(images.astype("float64"), wide, CONFIG))
        assert error <= NETWORK_TOLERANCE["float32"] * EPS["float32"], shape
    assert SHAPES < 6


def test_a_file_of_so_many_images(file: Path, tmp_path: Path) -> None:
    """What the file has fixed stays fixed."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(file)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch.ClearField("dim_param")
    batch.dim_value = 3
    onnx.save(model, tmp_path / "three.onnx")
    network = session(tmp_path / "three.onnx", threads=1)
    assert network(random_images((3, 1, 8, 8), dtype="float32")).shape == (3, 5)
    with pytest.raises(ValueError, match="OpenVINO"):
        network(random_images((2, 1, 8, 8), dtype="float32"))

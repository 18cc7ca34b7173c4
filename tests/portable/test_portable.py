"""The definitions as files: readers that cannot import this package compute what the specification does, at every tap."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scalablevit_ref.backends.nodes import Graph

import scalablevit_ref as sv
from scalablevit_ref import digits, ops, portable
from scalablevit_ref.adapters.onnx_model import onnx_model
from scalablevit_ref.adapters.onnx_runtime import onnx_runtime
from scalablevit_ref.portable.recorded import Recorded
from scalablevit_ref.run_cost import CostError
from scalablevit_ref.testing import EPS, random_params, relative_l2, strategies
from scalablevit_ref.testing.arrays import NETWORK_TOLERANCE, assert_agrees, random_images
from tests.programs import portable as program
from tests.support.drawn_ops import OPS
from tests.support.marked import marked
from tests.support.waiting import HANGS

pytestmark = pytest.mark.usefixtures("as_in_production")

ENDINGS = tuple(portable.FORMATS)
SIZE = 12
CONFIG = sv.variant(
    "small",
    embed_dims=(8,),
    depths=(2,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(2,),
    c_ratios=(1.25,),
    window_sizes=(3,),
    num_classes=5,
    head="linear",
    patch_size=2,
)
"""Both attentions, PEG, the embedding and the head: what PyTorch exports in seconds."""

READERS = {
    ".onnx": """
        import onnx
        from onnx.reference import ReferenceEvaluator
        model = ReferenceEvaluator(onnx.load(path))
        found = dict(zip(model.output_names, model.run(None, {"images": images})))
    """,
    ".pt2": """
        import torch
        program = torch.export.load(path).module()
        found = {name: x.numpy() for name, x in program(torch.from_numpy(images)).items()}
    """,
    ".stablehlo": """
        import jax
        from jax import export
        jax.config.update("jax_enable_x64", True)
        program = export.deserialize(bytearray(open(path, "rb").read()))
        found = program.call(images, weights)
    """,
}
"""Programs that read a file; `weights` are the official ones, which only a StableHLO program is given."""


@pytest.fixture(scope="module")
def network() -> tuple[dict[str, np.ndarray], sv.ScalableViTConfig]:
    return random_params(sv.parameter_shapes(CONFIG)), CONFIG


Written = Callable[[str], tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def written(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The small network's file of a format, written once, with its record."""
    folder, done = tmp_path_factory.mktemp("portable"), {}

    def once(ending: str) -> tuple[Path, dict[str, Any]]:
        path = folder / f"small{ending}"
        if ending not in done:
            done[ending] = portable.write(*network, path, image_size=SIZE)
        return path, done[ending]

    return once


def outsider(path: Path, images: np.ndarray, weights: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """What a reader in another process gives, which cannot import this package."""
    np.savez(folder / "given.npz", images=images)
    np.savez(folder / "weights.npz", **weights)
    head = """
        import sys
        sys.modules["scalablevit_ref"] = None
        import numpy as np
        path, folder = sys.argv[1:]
        images = np.load(f"{folder}/given.npz")["images"]
        weights = dict(np.load(f"{folder}/weights.npz"))
    """
    tail = """
        np.savez(f"{folder}/found.npz", **{name: np.asarray(x) for name, x in found.items()})
    """
    code = "".join(map(textwrap.dedent, (head, READERS[path.suffix], tail)))
    done = subprocess.run([sys.executable, "-c", code, path, folder], capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as found:
        return dict(found)


def errors(taps: dict[str, np.ndarray], images: np.ndarray, params: Any, config: Any, dtype: str = "float64") -> dict[str, float]:
    """Of every tap, in eps."""
    oracle = sv.trace(images.astype("float64"), sv.to_backend(params, "numpy", "float64"), config)
    assert set(taps) == set(oracle)
    return {name: relative_l2(taps[name], x) / EPS[dtype] for name, x in oracle.items()}


@pytest.mark.parametrize("ending", ENDINGS)
def test_somebody_else_reads_it(ending: str, network: Any, written: Written, tmp_path: Path) -> None:
    """Five images where it was traced on another number of them; each tap is within the network's tolerance of float64."""
    params, config = network
    images = random_images((5, 3, SIZE, SIZE), seed=7)
    taps = outsider(written(ending)[0], images, params, tmp_path)
    assert {x.dtype for x in taps.values()} == {np.dtype("float64")}
    assert max(errors(taps, images, params, config).values()) <= NETWORK_TOLERANCE["float64"]


def test_the_digits_in_onnx_runtime_and_in_its_reference(tmp_path: Path) -> None:
    """The trained network, in float64 and in float32, by two readers: the right digits, and every tap."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    pixels, labels = (part[1:5] for part in digits.test_images())
    for dtype in portable.DTYPES:
        path = tmp_path / f"{dtype}.onnx"
        record = portable.write(checkpoint.params, checkpoint.config, path, dtype=dtype)
        images = digits.preprocess(pixels, dtype)
        session = onnx_runtime().InferenceSession(path)
        found = dict(zip(record["outputs"], session.run(list(record["outputs"]), {"images": images}), strict=True))
        assert (found["logits"].argmax(1) == labels).all()
        found = outsider(path, images, {}, tmp_path)
        worst = max(errors(found, images, checkpoint.params, checkpoint.config, dtype).values())
        assert worst <= NETWORK_TOLERANCE[dtype]
        assert (found["logits"].argmax(1) == labels).all()
        assert record["variant"] == "digits"


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_record(ending: str, network: Any, written: Written) -> None:
    """What it is of, what it takes and gives, what it was made with, and how it was checked."""
    params, config = network
    path, record = written(ending)
    assert json.loads(path.with_name(f"{path.name}.json").read_text()) == json.loads(json.dumps(record))
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record["package"], record["dtype"], record["variant"]) == ("scalablevit-ref", "float64", None)
    assert record["version"] == sv.__version__
    assert sv.ScalableViTConfig(**record["config"]) == config
    assert record["images"] == ["batch", 3, SIZE, SIZE]
    taps = sv.trace(random_images((1, 3, SIZE, SIZE)), params, config)
    assert record["outputs"] == {name: ["batch", *x.shape[1:]] for name, x in taps.items()}
    checked = record["checked"]
    assert 0 < checked["logits_eps"] <= checked["worst"]["eps"] <= checked["tolerance_eps"] == NETWORK_TOLERANCE["float64"]
    assert checked["worst"]["tap"] in taps


def test_the_notes_inside(written: Written) -> None:
    """ONNX's metadata and an extra file of a `.pt2` have the record's short form beside the configuration."""
    import onnx
    import torch

    (onnx_file, record), (pt2_file, other) = written(".onnx"), written(".pt2")
    texts = {p.key: p.value for p in onnx.load(onnx_file).metadata_props}
    extra = {"scalablevit_ref": ""}
    torch.export.load(pt2_file, extra_files=extra)
    for notes, whole in ((texts["scalablevit_ref"], record), (extra["scalablevit_ref"], other)):
        found = json.loads(notes)
        assert sv.ScalableViTConfig(**found["config"]) == CONFIG
        kept = found["metadata"]["definitions"]
        assert kept == {key: json.loads(json.dumps(whole[key])) for key in ("version", "dtype", "made_with", "checked")}


def test_the_official_names_and_bits(network: Any, written: Written) -> None:
    import jax
    import onnx
    import torch
    from jax import export

    params, config = network
    model = onnx.load(written(".onnx")[0])
    onnx.checker.check_model(model, full_check=True)
    initialisers = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    state = {name: x.numpy() for name, x in torch.export.load(written(".pt2")[0]).state_dict.items()}
    loaded = sv.load_checkpoint(written(".onnx")[0])
    assert loaded.config == config
    for found in (initialisers, state, loaded.params):
        assert {name: x.tobytes() for name, x in found.items()} == {name: x.tobytes() for name, x in params.items()}
    program = export.deserialize(bytearray(written(".stablehlo")[0].read_bytes()))
    with jax.enable_x64(True):
        (images, named), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    assert {name: x.shape for name, x in named.items()} == sv.parameter_shapes(config)
    assert str(images.shape[0]) == "batch"
    assert program.platforms == ("cpu", "cuda", "rocm", "tpu")


ONNX_STEPS = {
    *("Abs", "Add", "Concat", "Constant", "ConstantOfShape", "Div", "Exp", "Gather", "Identity", "MatMul", "Mul", "Pow"),
    *("ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Shape", "Slice", "Sub", "Transpose"),
}

NATIVE = r"convolution|conv2d|norm\b|layer_norm|gelu|softmax|\berf|tanh|attention|linear|\bpad\b"
"""What a library has of its own for an op of the specification."""


def test_the_definitions_alone(written: Written) -> None:
    """No convolution, no LayerNorm, no GELU, no softmax and no error function: exponentials, products, sums and slices."""
    import onnx
    import torch
    from jax import export

    operators = {node.op_type for node in onnx.load(written(".onnx")[0]).graph.node}
    assert operators <= ONNX_STEPS
    assert {"Exp", "MatMul", "ReduceMax", "Slice", "Concat"} <= operators
    program = torch.export.load(written(".pt2")[0])
    steps = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [step for step in steps if re.search(NATIVE, step)]
    assert {"aten.exp.default", "aten.matmul.default"} <= steps
    text = export.deserialize(bytearray(written(".stablehlo")[0].read_bytes())).mlir_module()
    named = set(re.findall(r"(?:stablehlo|chlo)\.\w+", text))
    assert not [step for step in named if re.search(NATIVE, step)]
    assert {"stablehlo.exponential", "stablehlo.dot_general", "stablehlo.slice"} <= named
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}  # of the free batch: there is an image
    assert set(re.findall(r"precision = \[([^\]]*)\]", text)) == {"HIGHEST, HIGHEST"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_folder_of_this_machine_is_in_it(ending: str, written: Written) -> None:
    data = written(ending)[0].read_bytes()
    for folder in (Path(__file__).parents[2], Path(sys.prefix), Path.home()):
        assert str(folder).encode() not in data or len(folder.parts) < 2


@settings(max_examples=15)
@given(cases=OPS)
def test_each_op_is_its_definition(cases: dict[str, strategies.Case]) -> None:
    """Recorded in float64, and run by ONNX Runtime."""
    for name, drawn in cases.items():
        case = drawn.but(content="normal")
        y = ran(lambda x, p, name=name, case=case: getattr(ops, name)(x, **p, **case.settings), case.x, case.params)
        assert_agrees(y, getattr(ops, name).definition(case.x, **case.params, **case.settings))


@settings(max_examples=8)
@given(case=strategies.network_cases())
def test_networks_that_are_drawn(case: strategies.Case) -> None:
    """With whatever windows, paddings, heads and ratios, on a free batch."""
    case = case.but(content="normal")
    y = ran(lambda x, p: sv.scalable_vit(x, p, case.config), case.x, case.params)
    assert relative_l2(y, sv.scalable_vit(case.x, case.params, case.config)) <= 32 * EPS["float64"]


def ran(function: Callable[..., Any], x: np.ndarray, params: dict[str, np.ndarray]) -> np.ndarray:
    """What ONNX Runtime computes of what a function records, of an array whose first axis is free."""
    graph = Graph("float64", opset=18)
    batch = graph.unknown("batch", "images", 0, x.shape[0])
    graph.shapes |= {"images": (batch, *x.shape[1:])} | {name: value.shape for name, value in params.items()}
    found = function(Recorded(graph, "images"), {name: Recorded(graph, name) for name in params})
    graph.name(found.name, "found")
    model = onnx_model(graph, {name: np.asarray(value, "float64") for name, value in params.items()}, ["found"])
    (y,) = onnx_runtime().InferenceSession(model.SerializeToString()).run(None, {"images": np.asarray(x, "float64")})
    assert y.shape == tuple(map(int, found.shape))
    return np.asarray(y)


def test_a_fixed_batch_and_sides_that_differ(network: Any, tmp_path: Path) -> None:
    params, config = network
    record = portable.write(params, config, tmp_path / "x.onnx", batch=2, image_size=(12, 18), dtype="float32")
    assert record["images"] == [2, 3, 12, 18]
    session = onnx_runtime().InferenceSession(tmp_path / "x.onnx")
    assert session.get_inputs()[0].shape == [2, 3, 12, 18]
    assert record["outputs"]["patch_embeds.0"] == [2, 6, 9, 8]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_computes_something_else_is_not_written(
    ending: str, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip of the fourth digit of one LayerNorm's epsilon, which the file's own definition has and the specification has not."""
    params, config = network
    form = __import__(f"scalablevit_ref.portable.{ending[1:]}", fromlist=["trace"])
    trace = form.trace
    monkeypatch.setattr(form, "trace", lambda x, p, c: trace(x, p, replace(c, norm_eps=1.001e-6)))
    with pytest.raises(RuntimeError, match=rf"^x\{ending}: \S+ is \S+ eps off the specification's; nothing is written$"):
        portable.write(params, config, tmp_path / f"x{ending}", image_size=SIZE, batch=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": "x.pth"}, ValueError, r"path must end with one of \.onnx, \.pt2, \.stablehlo, got 'x\.pth'"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of 'float64', 'float32', got 'float16'"),
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"image_size": 13}, ValueError, "13"),
        ({"params": {}}, ValueError, "parameters do not fit: missing"),
        ({"config": "small"}, TypeError, "config must be a ScalableViTConfig"),
        ({"force": 1}, TypeError, "force must be"),
        ({"image_size": 16380}, CostError, "costly=True runs it all the same"),
    ],
)
def test_refusals(changes: dict[str, Any], error: type[Exception], message: str, network: Any, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"params": network[0], "config": network[1], "path": "x.onnx", "image_size": SIZE} | changes
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(error, match=message):
        portable.write(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(network: Any, tmp_path: Path) -> None:
    """Neither the file nor its record."""
    (tmp_path / "x.onnx.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"x\.onnx\.json"):
        portable.write(*network, tmp_path / "x.onnx", image_size=SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx.json"]
    portable.write(*network, tmp_path / "x.onnx", image_size=SIZE, force=True)
    assert (tmp_path / "x.onnx.json").read_text() != "mine"


def test_an_extra_that_is_missing_is_named(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "scalablevit_ref.portable.stablehlo", raising=False)
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ModuleNotFoundError, match=r"portable needs jax: pip install 'scalablevit-ref\[jax\]'"):
        portable.write(*network, tmp_path / "x.stablehlo", image_size=SIZE)


def test_expected_numbers(network: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    params, config = network
    images = random_images((2, 3, SIZE, SIZE), dtype="float32")
    portable.write_expected(params, config, images, tmp_path / "expected.safetensors")
    found = load_file(tmp_path / "expected.safetensors")
    assert np.array_equal(found.pop("images"), images)
    taps = sv.trace(images.astype("float64"), params, config)
    assert {name: x.tobytes() for name, x in found.items()} == {name: np.ascontiguousarray(x).tobytes() for name, x in taps.items()}
    with pytest.raises(FileExistsError):
        portable.write_expected(params, config, images, tmp_path / "expected.safetensors")


def test_the_table_of_a_release() -> None:
    """`docs/portable.md` has a row for each file of the version, from a run of the program, and within the tolerance."""
    rows = [line.strip("|").split(" | ") for line in marked(program.PAGE.read_text(encoding="utf-8"), program.MARK)[2:]]
    cells = [dict(zip(program.HEAD, map(str.strip, row), strict=True)) for row in rows]
    name = f"digits-{version('scalablevit-ref')}"
    assert [row["file"] for row in cells] == [f"`{name}.{dtype}{ending}`" for dtype in portable.DTYPES for ending in ENDINGS]
    for row in cells:
        assert 0 < float(row["logits, eps"]) <= float(row["worst intermediate, eps"].split()[0]) <= NETWORK_TOLERANCE["float64"]


def test_a_row_of_it(written: Written) -> None:
    path, record = written(".onnx")
    worst = record["checked"]["worst"]
    assert program.row(path, record) == (
        f"| `small.onnx` | {path.stat().st_size / 1000:,.0f} | {worst['eps']:.1f} (`{worst['tap']}`) | "
        f"{record['checked']['logits_eps']:.1f} | {record['made_with']} | {record['checked']['with']} |"
    )

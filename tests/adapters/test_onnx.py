"""ONNX out: run in ONNX Runtime against the float64 oracle. ONNX in: the same parameters, and nothing that a bad file asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.adapters import onnx as adapter
from scalablevit_ref.adapters.onnx_runtime import onnx_runtime
from scalablevit_ref.checkpoints.infer import config_to_json
from scalablevit_ref.formats import onnx as reader
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8,),
    depths=(2,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(2,),
    c_ratios=(1.25,),
    window_sizes=(3,),
    patch_size=2,
    num_classes=5,
    in_chans=1,
    pad_windows=True,
)
SIZE = (12, 20)
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks are not for an exporter to trace


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Float32, any batch, every tap; from float64 parameters."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    adapter.export({name: x.astype("float64") for name, x in PARAMS.items()}, CONFIG, path, image_size=SIZE, taps=True)
    return path


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Float16, batches of two, one tap."""
    path = tmp_path_factory.mktemp("onnx") / "half.onnx"
    adapter.export(PARAMS, CONFIG, path, image_size=SIZE, float16=True, batch=2, taps=["stages.0.1.attn"])
    return path


def session(path: Path) -> Any:
    options = onnx_runtime().SessionOptions()
    options.intra_op_num_threads = 1
    return onnx_runtime().InferenceSession(path, options)


def oracle(images: np.ndarray, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return sv.trace(images.astype("float64"), {name: x.astype("float64") for name, x in params.items()}, CONFIG)


def test_initialisers_are_the_official_parameters(exported: Path, halves: Path) -> None:
    """Names, shapes, order and values; nothing folded, nothing transposed, nothing beside them."""
    for path, dtype in ((exported, "float32"), (halves, "float16")):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        found = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
        assert list(found) == list(PARAMS)
        assert all(np.array_equal(x, PARAMS[name].astype(dtype)) for name, x in found.items())
        assert {x.dtype.name for x in found.values()} == {dtype}


def test_inputs_and_outputs(exported: Path, halves: Path) -> None:
    free, fixed = session(exported), session(halves)
    assert [(x.name, x.shape, x.type) for x in free.get_inputs()] == [("images", ["batch", 1, *SIZE], "tensor(float)")]
    assert [(x.name, x.shape, x.type) for x in fixed.get_inputs()] == [("images", [2, 1, *SIZE], "tensor(float16)")]
    trace = oracle(np.zeros((1, 1, *SIZE)), PARAMS)
    names = [x.name for x in free.get_outputs()]
    assert names[0] == "logits"
    assert [*names[1:], "logits"] == list(trace)
    assert all(x.shape == ["batch", *trace[x.name].shape[1:]] for x in free.get_outputs())
    assert [x.name for x in fixed.get_outputs()] == ["logits", "stages.0.1.attn"]


@pytest.mark.parametrize("batch", [1, 3])
def test_float32_is_the_oracle_at_every_tap(exported: Path, batch: int) -> None:
    images = random_images((batch, 1, *SIZE), seed=batch, dtype="float32")
    runner = session(exported)
    names = [x.name for x in runner.get_outputs()]
    expected = oracle(images, PARAMS)
    for name, x in zip(names, runner.run(names, {"images": images}), strict=True):
        assert x.dtype == np.float32
        assert relative_l2(x, expected[name]) <= NETWORK_TOLERANCE["float32"] * EPS["float32"], name


def test_float16_is_the_oracle(halves: Path) -> None:
    images = random_images((2, 1, *SIZE), dtype="float16")
    expected = oracle(images, {name: x.astype("float16") for name, x in PARAMS.items()})
    for name, x in zip(("logits", "stages.0.1.attn"), session(halves).run(None, {"images": images}), strict=True):
        assert x.dtype == np.float16
        assert relative_l2(x, expected[name]) <= NETWORK_TOLERANCE["float16"] * EPS["float16"], name


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_the_digits_at_every_tap(opset: int, tmp_path: Path) -> None:
    """Trained weights; opset 18 has no GELU, 20 has one, 23 is the last."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    path, images = tmp_path / "digits.onnx", digits.preprocess(digits.test_images()[0][:2], "float32")
    adapter.export(checkpoint.params, checkpoint.config, path, image_size=digits.IMAGE_SIZE, opset=opset, taps=True)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    wide = {name: x.astype("float64") for name, x in checkpoint.params.items()}
    expected = sv.trace(images.astype("float64"), wide, checkpoint.config)
    found = adapter.session(path, threads=1).outputs(images)
    assert set(found) == set(expected)
    for name, x in found.items():
        assert relative_l2(x, expected[name]) <= NETWORK_TOLERANCE["float32"] * EPS["float32"], name


def test_any_size_that_the_network_takes(tmp_path: Path) -> None:
    """Padded windows: maps of whole windows or not, from the smallest on; batches of any size; every tap."""
    path = tmp_path / "free.onnx"
    adapter.export(PARAMS, CONFIG, path, image_size="dynamic", taps=True)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    network = adapter.session(path, threads=1)
    assert network.shape == ["batch", 1, "height", "width"]
    for shape in ((1, 1, 12, 20), (2, 1, 13, 31), (3, 1, 3, 5), (1, 1, 24, 12)):
        images = random_images(shape, dtype="float32")
        expected = oracle(images, PARAMS)
        for name, x in network.outputs(images).items():
            assert x.shape == expected[name].shape
            assert relative_l2(x, expected[name]) <= NETWORK_TOLERANCE["float32"] * EPS["float32"], (shape, name)
    with pytest.raises(ValueError, match="nearest sizes that work"):
        network(random_images((1, 1, 2, 12), dtype="float32"))


def test_sizes_of_whole_windows(tmp_path: Path) -> None:
    """Without padding a map of other sizes is refused, by the session before the run and by the graph in it."""
    config = replace(CONFIG, pad_windows=False)
    path = tmp_path / "free.onnx"
    adapter.export(PARAMS, config, path, image_size="dynamic")
    network = adapter.session(path, threads=1)
    wide = {name: x.astype("float64") for name, x in PARAMS.items()}
    for size in ((12, 18), (18, 6), (11, 17), (30, 12)):  # 11 and 17 are rounded up to maps of 6 and 9
        images = random_images((2, 1, *size), dtype="float32")
        expected = sv.scalable_vit(images.astype("float64"), wide, config)
        assert relative_l2(network(images), expected) <= NETWORK_TOLERANCE["float32"] * EPS["float32"], size
    images = random_images((1, 1, 12, 20), dtype="float32")
    with pytest.raises(ValueError, match="20 pixels give maps of 10 tokens a side, which must be divisible by window_sizes"):
        network(images)
    network.config = None
    for size in ((12, 20), (18, 8)):  # a map of 9 x 4 has as many tokens as four whole windows
        with pytest.raises(RuntimeError, match=r"free\.onnx: ONNX Runtime: .*Reshape") as caught:
            network(random_images((1, 1, *size), dtype="float32"))
        assert "\n" not in str(caught.value)


def test_bfloat16_is_float32_with_other_numbers(tmp_path: Path) -> None:
    """ONNX Runtime runs no bfloat16 on a CPU: the same graph of the rounded weights, which are rounded no further."""
    path, wide = tmp_path / "bfloat16.onnx", tmp_path / "float32.onnx"
    rounded = sv.to_backend(PARAMS, "numpy", "bfloat16")
    adapter.export(PARAMS, CONFIG, path, image_size=SIZE, dtype="bfloat16", opset=22)
    adapter.export(rounded, CONFIG, wide, image_size=SIZE, dtype="float32", opset=22)
    model, other = onnx.load(path), onnx.load(wide)
    onnx.checker.check_model(model, full_check=True)
    assert {x.data_type for x in model.graph.initializer} == {TensorProto.BFLOAT16}
    assert [x.type.tensor_type.elem_type for x in (*model.graph.input, *model.graph.output)] == [TensorProto.BFLOAT16] * 2
    for x, y in zip(model.graph.initializer, other.graph.initializer, strict=True):
        assert np.array_equal(np.frombuffer(x.raw_data, ml_dtypes.bfloat16).astype("float32"), numpy_helper.to_array(y).ravel())
    nodes = [[(n.op_type, list(n.input), list(n.output)) for n in each.graph.node] for each in (model, other)]
    assert nodes[0] == nodes[1]
    assert same(adapter.load_params(path), rounded)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == x.dtype and found[name].tobytes() == x.tobytes() for name, x in expected.items()
    )


def test_small_takes_less_than_three_seconds(tmp_path: Path) -> None:
    """Of the processor: torch's exporter takes 45. With every operator of ONNX's own, and shapes stated for all values."""
    config = sv.variant("small")
    params = sv.init_params(config)
    start = time.process_time()
    adapter.export(params, config, tmp_path / "small.onnx", image_size="dynamic")
    assert time.process_time() - start < 3
    model = onnx.load(tmp_path / "small.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    stated = {x.name for x in (*model.graph.value_info, *model.graph.output, *model.graph.initializer)}
    whole = {"Shape", "Constant", "Concat", "Mod", "Sub", "Div", "Mul", "Add"}
    assert all(name in stated for node in model.graph.node if node.op_type not in whole for name in node.output)


def test_the_old_way_to_say_float16(halves: Path, tmp_path: Path) -> None:
    adapter.export(PARAMS, CONFIG, tmp_path / "x.onnx", image_size=SIZE, dtype="float16", batch=2, taps=["stages.0.1.attn"])
    assert (tmp_path / "x.onnx").read_bytes() == halves.read_bytes()


def test_torch_is_not_needed(tmp_path: Path) -> None:
    code = """
import sys
sys.modules.update(torch=None, onnxscript=None, onnx_ir=None)
import scalablevit_ref as sv
from scalablevit_ref.adapters import onnx
config = sv.variant("digits")
onnx.export(sv.init_params(config), config, sys.argv[1], image_size=112)
print(onnx.session(sys.argv[1])(__import__("numpy").zeros((3, 1, 112, 112), "float32")).shape)
"""
    done = python(code, tmp_path / "x.onnx")
    assert (done.stdout, done.stderr) == ("(3, 10)\n", "")


def test_the_file_tells_nothing_of_the_machine(exported: Path) -> None:
    content = exported.read_bytes()
    assert b".py" not in content
    assert os.fsencode(ROOT) not in content


def test_equal_arguments_make_equal_files(halves: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    adapter.export(PARAMS, CONFIG, again, image_size=SIZE, float16=True, batch=2, taps=["stages.0.1.attn"])
    assert again.read_bytes() == halves.read_bytes()


def test_read_back(exported: Path, halves: Path) -> None:
    for path, dtype in ((exported, "float32"), (halves, "float16")):
        found = adapter.load(path)
        assert found.config == CONFIG
        assert found.metadata["config_from"] == "metadata"
        params = adapter.load_params(path)
        assert list(params) == list(PARAMS)
        assert all(np.array_equal(x, PARAMS[name].astype(dtype)) and x.dtype == dtype for name, x in params.items())
        assert sv.from_state_dict(params, config=CONFIG).config == CONFIG


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"taps": ["stages.0.1.atn"]}, "taps: the network has no 'stages.0.1.atn' .did you mean 'stages.0.1.attn'"),
        ({"opset": 17}, "opset must be 18 to 23, got 17"),
        ({"dtype": "bfloat16"}, "opset must be at least 22 for bfloat16, got 20"),
        ({"dtype": "float64"}, "dtype must be one of .*, got 'float64'"),
        ({"dtype": "float32", "float16": 1}, "float16 must be True or False"),
        ({"dtype": "float32", "float16": True}, "dtype must be 'float16' or None beside float16=True, got 'float32'"),
        ({"image_size": "any"}, "image_size must be a whole number"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": "any"}, "batch must be a whole number"),
        ({"image_size": 1}, "nearest sizes that work"),
        (
            {"params": {**PARAMS, "norm.weight": np.full(8, 7e4, "float32")}, "float16": True},
            "'norm.weight' has values that are not",
        ),
        ({"params": {"norm.weight": np.ones(8)}}, "missing"),
    ],
)
def test_export_refuses(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    given = {"params": PARAMS, "config": CONFIG, "path": tmp_path / "x.onnx", "image_size": SIZE, **options}
    with pytest.raises((ValueError, TypeError), match=problem):
        adapter.export(**given)
    assert not list(tmp_path.iterdir())


def test_existing_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is exported in vain."""
    monkeypatch.setattr(adapter, "onnx_model", None)
    (tmp_path / "x.onnx").write_bytes(b"kept")
    with pytest.raises(FileExistsError, match="force=True overwrites it"):
        adapter.export(PARAMS, CONFIG, tmp_path / "x.onnx", image_size=SIZE)
    assert (tmp_path / "x.onnx").read_bytes() == b"kept"


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_without_onnx_the_error_names_the_extra_and_reading_goes_on(tmp_path: Path) -> None:
    code = "import sys; sys.modules.update(onnx=None, torch=None); from scalablevit_ref.adapters import onnx; "
    done = python(code + "onnx.export({}, None, '')")
    assert done.stderr.splitlines()[-1].endswith("adapters.onnx needs onnx: pip install 'scalablevit-ref[onnx]'")
    written(tmp_path)
    assert python(code + "print(len(onnx.load_params(sys.argv[1])))", tmp_path / "model.onnx").stdout.strip() == str(len(PARAMS))


# A session


def test_a_session_is_the_file(exported: Path, halves: Path) -> None:
    """Optimised it gives what the file gives as it is; in the file's dtype, of arrays of any library."""
    images = random_images((3, 1, *SIZE), dtype="float32")
    network = adapter.session(exported)
    logits = network(images)
    assert relative_l2(logits, adapter.run(exported, images)) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]
    assert np.array_equal(network(sv.to_backend(images, "torch")), logits)
    outputs = network.outputs(images.astype("float64"))
    assert list(outputs) == network.names
    assert np.array_equal(outputs["logits"], logits)
    half = adapter.session(halves, threads=2, spinning=False, arena=False)
    assert half(images[:2]).dtype == np.float16
    assert list(half.outputs(images[:2])) == ["logits", "stages.0.1.attn"]


def test_the_settings_of_a_session(exported: Path) -> None:
    settings = adapter.session(exported, threads=3, spinning=False, arena=False).runtime.get_session_options()
    assert settings.intra_op_num_threads == 3
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert not settings.enable_cpu_mem_arena
    settings = adapter.session(exported).runtime.get_session_options()
    assert settings.intra_op_num_threads == len(os.sched_getaffinity(0))
    assert settings.graph_optimization_level == onnx_runtime().GraphOptimizationLevel.ORT_ENABLE_ALL
    assert settings.enable_cpu_mem_arena


@pytest.mark.parametrize(
    ("images", "error", "problem"),
    [
        (np.zeros((1, 1, 12, 12), "float32"), ValueError, r"images must have shape \(batch, 1, 12, 20\), got \(1, 1, 12, 12\)"),
        (np.zeros((1, 3, *SIZE), "float32"), ValueError, "images must have shape"),
        (np.zeros((1, *SIZE), "float32"), ValueError, "images must have shape"),
        (np.zeros((0, 1, *SIZE), "float32"), ValueError, "no axis empty"),
        (np.zeros((1, 1, *SIZE), "uint8"), TypeError, "images must be floating point"),
        ([[1.0]], TypeError, "expected an array"),
    ],
)
def test_a_session_refuses(images: Any, error: type[Exception], problem: str, exported: Path) -> None:
    with pytest.raises(error, match=problem):
        adapter.session(exported)(images)


def test_what_no_session_is_made_of(tmp_path: Path) -> None:
    """In one line that names the file; nothing is waited for."""
    (tmp_path / "x.onnx").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(sv.CheckpointError, match=r"x\.onnx: ONNX Runtime does not load it") as caught:
        adapter.session(tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)
    adapter.export(PARAMS, CONFIG, tmp_path / "x.onnx", image_size=SIZE, dtype="bfloat16", opset=22, force=True)
    with pytest.raises(sv.CheckpointError, match=r"does not load it .*NotImplemented"):
        adapter.session(tmp_path / "x.onnx")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("tokens", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["tokens"], ["logits"])], "graph", value[:1], value[1:])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "x.onnx")
    with pytest.raises(sv.CheckpointError, match=r"inputs of another model; expected images b c h w, found tokens"):
        adapter.session(tmp_path / "x.onnx")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="a FIFO; expected an ONNX model"):
        adapter.session(tmp_path / "fifo")
    with pytest.raises(FileNotFoundError):
        adapter.session(tmp_path / "none")
    for arguments, problem in (({"threads": 0}, "threads must be at least 1"), ({"spinning": 1}, "spinning must be True or False")):
        with pytest.raises((ValueError, TypeError), match=problem):
            adapter.session(tmp_path / "none", **arguments)


def test_a_session_without_onnx_runtime(tmp_path: Path) -> None:
    code = "import sys; sys.modules.update(onnxruntime=None); from scalablevit_ref.adapters import onnx; onnx.session('x')"
    assert python(code).stderr.splitlines()[-1].endswith("adapters.onnx needs onnxruntime: pip install 'scalablevit-ref[onnx]'")


# Files of other hands


def tensors(params: dict[str, np.ndarray] = PARAMS) -> list[Any]:
    return [numpy_helper.from_array(x, name) for name, x in params.items()]


def written(folder: Path, initialisers: list[Any] | None = None, note: bool = True, **options: Any) -> Path:
    """A model of onnx's own making, whose one node matters to nobody."""
    node = helper.make_node("Identity", ["images"], ["logits"], doc_string="node")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    graph = helper.make_graph([node], "graph", value[:1], value[1:], tensors() if initialisers is None else initialisers)
    model = helper.make_model(graph, ir_version=10)
    if note:
        helper.set_model_props(model, {adapter.CONFIG: config_to_json(CONFIG)})
    onnx.save(model, folder / "model.onnx", **options)
    return folder / "model.onnx"


OUTSIDE = {"save_as_external_data": True, "all_tensors_to_one_file": True, "location": "weights.bin", "size_threshold": 0}


def test_any_file_with_official_names(tmp_path: Path) -> None:
    """Beside constants; without a note of the configuration; with a prefix before all names; in bfloat16; with packed fields."""
    constants = [numpy_helper.from_array(np.ones(3, "float32"), "one"), numpy_helper.from_array(np.ones(3, "int64"), "a.b")]
    path = written(tmp_path, tensors() + constants, note=False)
    with pytest.raises(sv.CheckpointError, match=r"model.onnx: .*fit no variant"):
        adapter.load_params(path)
    assert adapter.load(path, config=CONFIG).config == CONFIG
    path = written(tmp_path, tensors({f"module.{name}": x for name, x in PARAMS.items()}))
    assert list(adapter.load_params(path)) == list(PARAMS)
    packed = [helper.make_tensor(name, TensorProto.FLOAT, x.shape, x.ravel()) for name, x in PARAMS.items()]
    assert packed[0].float_data
    read = adapter.load_params(written(tmp_path, packed))
    assert all(np.array_equal(read[name], x) for name, x in PARAMS.items())
    for name in ("bfloat16", "float64"):
        cast = sv.to_numpy(sv.to_backend(PARAMS, "torch", name))
        kind = {"bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE}[name]
        raw = [helper.make_tensor(n, kind, x.shape, x.tobytes(), raw=True) for n, x in cast.items()]
        read = adapter.load_params(written(tmp_path, raw))
        assert all(read[n].dtype == x.dtype and np.array_equal(read[n], x) for n, x in cast.items())


def test_a_variant_without_a_note(tmp_path: Path) -> None:
    params = sv.init_params(sv.variant("digits"))
    assert adapter.load(written(tmp_path, tensors(params), note=False)).metadata["variant"] == "digits"
    with pytest.raises(sv.CheckpointError, match="do not fit variant 'small'"):
        adapter.load_params(tmp_path / "model.onnx", variant="small")


def test_external_data(tmp_path: Path) -> None:
    """In the folder it is read; elsewhere, however it is spelled, it is not."""
    path = written(tmp_path, **OUTSIDE)
    assert path.stat().st_size < sum(x.nbytes for x in PARAMS.values())
    assert all(np.array_equal(x, PARAMS[name]) for name, x in adapter.load_params(path).items())

    secret = tmp_path / "secret.bin"
    (tmp_path / "weights.bin").rename(secret)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link").symlink_to(secret)
    (inner / "folder").symlink_to(tmp_path)
    for location in (str(secret), "../secret.bin", "link", "folder/secret.bin", "", ".", "nothing", "a\0b"):
        model = onnx.load(path, load_external_data=False)
        for x in model.graph.initializer:
            x.external_data[0].value = location
        (inner / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(sv.CheckpointError, match="external data; expected a file in the model's folder"):
            adapter.load_params(inner / "model.onnx")
    os.mkfifo(inner / "fifo")
    for x in model.graph.initializer:
        x.external_data[0].value = "fifo"
    (inner / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(sv.CheckpointError, match="no regular file"):
        adapter.load_params(inner / "model.onnx")


@pytest.mark.parametrize(("key", "value"), [("offset", "-4"), ("offset", "9" * 30), ("length", "1e3"), ("length", "4")])
def test_external_data_beyond_its_file(key: str, value: str, tmp_path: Path) -> None:
    path = written(tmp_path, **OUTSIDE)
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in model.graph.initializer[3].external_data if entry.key == key).value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(sv.CheckpointError, match=f"{model.graph.initializer[3].name}: (bytes that do not fit|damaged external)"):
        adapter.load_params(path)


def changed(change: Callable[[Any], None]) -> list[Any]:
    found = tensors()
    change(found[5])
    return found


NAME = list(PARAMS)[5]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x: x.dims.append(10**12), "bytes that do not fit"),
        (lambda x: x.dims.append(-1), "bytes that do not fit"),
        (lambda x: x.dims.extend([1] * 65), "more axes than an array can have"),
        (lambda x: x.float_data.append(1), "values in another form than one run of bytes; found 2 runs"),
        (lambda x: (x.ClearField("raw_data"), x.int32_data.append(1)), "another form than one run of bytes; found int32_data"),
        (lambda x: x.int32_data.append(1), "another form than one run of bytes; found int32_data"),
        (lambda x: x.ClearField("raw_data"), "found 0 runs"),
        (lambda x: setattr(x, "raw_data", x.raw_data[:-1]), "bytes that do not fit"),
        (lambda x: setattr(x, "name", "norm.weight"), "two initialisers of one name"),
        (lambda x: setattr(x, "name", "n" * 501), "text of impossible length"),
        (lambda x: setattr(x, "data_type", TensorProto.INT32), f"missing .1.: {NAME}"),
        (lambda x: setattr(x, "name", "other.weight"), f"missing .1.: {NAME}; unexpected .1.: other.weight"),
    ],
)
def test_hostile_tensors(change: Callable[[Any], None], problem: str, tmp_path: Path) -> None:
    path = written(tmp_path, changed(change))
    with pytest.raises(sv.CheckpointError, match=problem) as caught:
        adapter.load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "without the official parameters"),
        (b"\x89PNG\r\n\x1a\n" * 99, "not an ONNX file, or a damaged one"),
        (b"PK\x03\x04" + bytes(99), "not an ONNX file, or a damaged one"),
        (b"\x80\x02}q\x00." * 9, "not an ONNX file, or a damaged one"),
        (b"<!doctype html><html></html>", "not an ONNX file, or a damaged one"),
        (b"\x08\x0a\x3a\xff\xff\xff\xff\x0f", "not an ONNX file, or a damaged one"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "not an ONNX file, or a damaged one"),
        (b"\x3a\x07" + b"\x2a\x05\x0a\x7f" + bytes(3), "not an ONNX file, or a damaged one"),
        (b"\x3a\x02" + b"\x0a\x05" + b"\x08\x01" * 9, "not an ONNX file, or a damaged one"),
        (b"\x0b\x0c" * 9, "not an ONNX file, or a damaged one"),
        (b"\x08\x0a\x38\x01", "not an ONNX file, or a damaged one"),
    ],
)
def test_no_onnx(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(sv.CheckpointError, match=problem):
        adapter.load_params(tmp_path / "x.onnx")


def test_more_fields_than_a_network_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes without end, each of which a protobuf library would give a hundred bytes of memory, or a tensor's axes."""
    monkeypatch.setattr(reader, "MOST_FIELDS", 10_000)
    empty_nodes = b"\x3a\xc0\x9a\x0c" + b"\x0a\x00" * 100_000
    axes = b"\x3a\xc8\x9a\x0c\x2a\xc4\x9a\x0c\x0a\xc0\x9a\x0c" + b"\x01" * 200_000
    for content in (empty_nodes, axes):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(sv.CheckpointError, match=r"more fields and numbers than a network's .*; expected at most 10000"):
            adapter.load_params(tmp_path / "x.onnx")


def test_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, what in ((tmp_path, "a folder that holds no checkpoint"), (tmp_path / "fifo", "a FIFO")):
        with pytest.raises(sv.CheckpointError, match=what):
            adapter.load_params(path)
    with pytest.raises(FileNotFoundError):
        adapter.load_params(tmp_path / "none")
    path = written(tmp_path)
    monkeypatch.setattr(reader, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(sv.CheckpointError, match="larger than an ONNX file; expected at most"):
        adapter.load_params(path)


def test_damaged_files(tmp_path: Path) -> None:
    """Cut anywhere or with bytes changed anywhere: a CheckpointError or parameters of the right shapes, and nothing else."""
    content = written(tmp_path, tensors(random_params(sv.parameter_shapes(CONFIG), dtype="float16"))).read_bytes()
    path, refused, accepted = tmp_path / "damaged.onnx", 0, 0
    rng = np.random.default_rng(0)
    marks = [content.find(name.encode()) + shift for name in PARAMS for shift in (-12, -6, -3, -1, 0, 3)]
    for trial in range(300):
        damaged = bytearray(content)
        if trial % 3:
            damaged[int(rng.choice(marks))] = int(rng.integers(256))
        else:
            del damaged[int(rng.integers(len(content))) :]
        path.write_bytes(damaged)
        try:
            found = adapter.load_params(path)
        except sv.CheckpointError as error:
            refused += str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            accepted += {name: x.shape for name, x in found.items()} == sv.parameter_shapes(CONFIG)
    assert refused + accepted == 300
    assert refused > 150

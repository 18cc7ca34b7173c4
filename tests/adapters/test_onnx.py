"""ONNX out: run in ONNX Runtime against the float64 oracle. ONNX in: the same parameters, and nothing that a bad file asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import scalablevit_ref as sv
from scalablevit_ref.adapters import onnx as adapter
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


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
    monkeypatch.setattr(adapter, "_model", None)
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

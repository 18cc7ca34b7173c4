"""ONNX models of torch's two exporters, and such as tell less, held against the reference."""

from __future__ import annotations

import copy
import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from scalablevit_ref.compare.capture import CaptureError
from scalablevit_ref.compare.capture import onnx as capture_onnx
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.networks import network_of
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support.onnx_models import exported_to
from tests.support.small_network import small_network

CONFIG = small_network()
WEIGHTS = random_params(parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((3, 3, 16, 16), dtype="float32")
LAYERS = [name for name in network_of(CONFIG).layers() if name != "pool"]


def exported(folder: Path, *, dynamo: bool) -> Any:
    return onnx.load(exported_to(folder / "model.onnx", CONFIG, WEIGHTS, IMAGES, dynamo=dynamo))


@pytest.fixture(scope="module", params=["dynamo", "TorchScript"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return exported(tmp_path_factory.mktemp("onnx"), dynamo=request.param == "dynamo")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return exported(tmp_path_factory.mktemp("onnx"), dynamo=False)


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Report]:
    def run(model: Any, **settings: Any) -> Report:
        path = tmp_path / "port.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return compare(path, variant=CONFIG, **{"images": IMAGES, **settings})

    return run


def module_of(node: Any) -> str:
    notes = [note.value for note in node.metadata_props if note.key.endswith("name_scopes")]
    return (notes[0] if notes else node.name).replace("/", ".")


def test_an_exported_module_agrees_in_every_layer(model: Any, compared: Callable[..., Report]) -> None:
    """It tells the weights itself: those that were transposed and renamed, too."""
    for weights in (None, WEIGHTS):
        report = compared(model, weights=weights)
        assert report.agrees, report
        assert [row.layer for row in report.rows] == LAYERS
        assert all(row.module == row.layer for row in report.rows if row.layer not in ("head", "head.3", "logits"))
        assert (report.kind, report.dtype) == ("ONNX model", "float32")


def test_other_weights_are_said_first(model: Any, compared: Callable[..., Report]) -> None:
    name = "stages.1.0.mlp.fc1.weight"
    with pytest.raises(CaptureError, match=f"^weights differ: {name}: .*; load the same"):
        compared(model, weights={**WEIGHTS, name: WEIGHTS[name] + 0.01})


def test_slips_are_named_where_they_are_made(model: Any, compared: Callable[..., Report]) -> None:
    model = copy.deepcopy(model)
    for node in model.graph.node:
        if node.op_type == "Gelu" and "stages.1.0.mlp" in module_of(node):
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
        if node.op_type == "LayerNormalization" and "stages.0.1.norm2" in module_of(node):
            (epsilon,) = (a for a in node.attribute if a.name == "epsilon")
            epsilon.f = 1e-3
    report = compared(model)
    assert [row.layer for row in report.diverging] == ["stages.0.1.norm2", "stages.1.0.mlp"]
    assert {cause.words: cause.layers for cause in report.causes} == {
        "LayerNorm's epsilon is 1e-3": ("stages.0.1.norm2",),
        "GELU is the tanh approximation": ("stages.1.0.mlp",),
    }


OTHERS = {
    r"patch_embeds\.(\d)": r"stem\1",
    r"pos_block\.(\d)": r"position\1",
    r"stages\.(\d)\.(\d)": r"layer\1_\2",
    r"/attn": "/mixer",
    r"/norm1": "/pre",
    r"/norm2": "/mid",
    r"/mlp": "/ff",
    r"/norm/": "/last/",
    r"/head": "/classify",
    r"/fc([12])/(\w+)$": r"/\2_of_\1",  # both Linears' parameters are the module's own
}


def with_other_names(model: Any) -> Any:
    model = copy.deepcopy(model)
    for node in model.graph.node:
        for official, other in OTHERS.items():
            node.name = re.sub(official, other, node.name)
    return model


def without_names(model: Any, values: dict[str, str]) -> Any:
    """Nothing tells what made a node; `values` are renamed."""
    model = copy.deepcopy(model)
    for node in model.graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [values.get(name, name) for name in names]
    for output in model.graph.output:
        output.name = values.get(output.name, output.name)
    return model


def output_of(model: Any, name: str) -> str:
    """The last value that a node named so, or inside it, makes."""
    return [node.output[0] for node in model.graph.node if node.name.startswith(name)][-1]


def test_modules_of_other_names_are_told_from_their_parameters(plain: Any, compared: Callable[..., Report]) -> None:
    report = compared(with_other_names(plain))
    assert report.agrees, report
    assert {row.layer for row in report.rows} >= {*LAYERS} - {"head", "head.2"}
    assert {row.layer: row.module for row in report.rows}["stages.1.1.attn"] == "layer1_1.mixer"


def test_a_value_that_nobody_uses_is_no_output(plain: Any, compared: Callable[..., Report]) -> None:
    model = copy.deepcopy(plain)
    value = output_of(model, "/stages.0.0/mlp/fc2/")
    place = next(i for i, node in enumerate(model.graph.node) if value in node.input)
    model.graph.node.insert(place, onnx.helper.make_node("Neg", [value], ["unused"], name="/stages.0.0/mlp/Neg"))
    assert compared(model).agrees


def test_a_graph_without_names_tells_all_layers(plain: Any, compared: Callable[..., Report]) -> None:
    report = compared(without_names(plain, {}))
    assert report.agrees, report
    assert [row.layer for row in report.rows] == LAYERS
    assert all(row.module for row in report.rows)


def test_names_map_layers_to_values_and_modules(plain: Any, compared: Callable[..., Report]) -> None:
    """Other layers are told all the same."""
    values = {output_of(plain, f"/stages.{k}.0/mlp/fc2"): f"value {k}" for k in range(2)}
    report = compared(without_names(plain, values), weights=WEIGHTS, names={"stages.{k}.0.mlp": "value {k}"})
    assert report.agrees, report
    own = {row.layer: row.module for row in report.rows}
    assert (*own, own["stages.0.0.mlp"], own["stages.1.0.mlp"]) == (*LAYERS, "value 0", "value 1")
    report = compared(with_other_names(plain), weights=WEIGHTS, names={"stages.{k}.{i}.attn": "layer{k}_{i}.mixer"})
    assert report.agrees, report
    own = {row.layer: row.module for row in report.rows}
    assert {own[f"stages.{k}.{i}.attn"] for k in range(2) for i in range(2)} == {
        f"layer{k}_{i}.mixer" for k in range(2) for i in range(2)
    }
    with pytest.raises(CaptureError, match="'norm' is mapped to 'lost', which the candidate lacks"):
        compared(plain, names={"norm": "lost"})


def in_two_factors(model: Any) -> Any:
    """The weight of the last Linear of all MLPs is a product, which pairs with no parameter."""
    model = copy.deepcopy(model)
    held = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    for i, node in reversed([*enumerate(model.graph.node)]):
        if node.op_type == "MatMul" and "/fc2/" in node.name:
            weight, result = held[node.input[1]], node.output[0]
            model.graph.initializer.remove(next(x for x in model.graph.initializer if x.name == node.input[1]))
            c = weight.shape[1]
            for name, x in ((f"a{i}", np.pad(weight, ((0, 0), (0, 3)))), (f"b{i}", np.eye(c + 3, c, dtype=np.float32))):
                model.graph.initializer.append(onnx.numpy_helper.from_array(x, name))
            node.input[1], node.output[0] = f"a{i}", f"wide {i}"
            model.graph.node.insert(i + 1, onnx.helper.make_node("MatMul", [f"wide {i}", f"b{i}"], [result], name=f"{node.name}_1"))
    return model


def test_where_the_graph_tells_no_weights_names_do(plain: Any, compared: Callable[..., Report]) -> None:
    model = in_two_factors(plain)
    report = compared(model, weights=WEIGHTS)
    assert report.agrees, report
    assert [row.layer for row in report.rows] == LAYERS
    assert all(row.module in (row.layer, "output") for row in report.rows)
    assert any(note.startswith("layers are told by names and sizes alone: ") for note in report.notes)
    with pytest.raises(CaptureError, match="weights must be given"):
        compared(model)
    values = {output_of(plain, f"/patch_embeds.{k}/"): f"patch_embeds.{k}" for k in range(2)}
    values |= {output_of(plain, f"/stages.{k}.0/mlp/fc2"): f"stages.{k}.0.mlp" for k in range(2)}
    values[plain.graph.output[0].name] = "logits"
    report = compared(without_names(model, values), weights=WEIGHTS)
    assert report.agrees, report
    assert [row.layer for row in report.rows] == ["patch_embeds.0", "stages.0.0.mlp", "patch_embeds.1", "stages.1.0.mlp", "logits"]
    own = output_of(plain, "/stages.0.1/mlp/fc2")
    report = compared(without_names(model, {own: "mine"}), weights=WEIGHTS, names={"stages.0.1.mlp": "mine"})
    assert report.agrees, report
    assert [(row.layer, row.module) for row in report.rows] == [("stages.0.1.mlp", "mine"), ("logits", "output")]


def test_without_names_only_what_is_unambiguous_is_taken(plain: Any, compared: Callable[..., Report]) -> None:
    """Four thousand values an image are three times in the graph, in the head; maps are more often there than layers."""
    model = in_two_factors(plain)
    gelu = next(node for node in model.graph.node if node.name.startswith("/head/head.2"))
    place = [*model.graph.node].index(gelu)
    model.graph.node.insert(place, onnx.helper.make_node("Identity", [gelu.input[0]], ["seen again"]))  # counts once
    gelu.input[0] = "seen again"
    report = compared(without_names(model, {}), weights=WEIGHTS)
    assert report.agrees, report
    assert [row.layer for row in report.rows] == ["head.0", "head.1", "head.2", "head.3", "logits"]


def test_initialisers_of_the_official_names_are_the_weights(plain: Any, compared: Callable[..., Report]) -> None:
    model = without_names(plain, {})
    for name in WEIGHTS:
        if name not in {x.name for x in model.graph.initializer}:
            model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS[name], name))
    assert compared(model).agrees


def test_images_as_b_h_w_c(plain: Any, compared: Callable[..., Report]) -> None:
    model = copy.deepcopy(plain)
    inner = model.graph.input[0].name
    del model.graph.input[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 16, 16, 3]))
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["pixels"], [inner], perm=[0, 3, 1, 2]))
    report = compared(model)
    assert report.agrees, report
    assert report.notes == ("images were given as b h w c",)


def test_external_data_beside_the_model(plain: Any, compared: Callable[..., Report], tmp_path: Path) -> None:
    path = tmp_path / "port.onnx"
    onnx.save(copy.deepcopy(plain), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    data = path.read_bytes()
    assert compared(data).agrees
    inside = tmp_path / "folder"
    inside.mkdir()
    (inside / "port.onnx").write_bytes(data.replace(b"weights.bin", b"../eights.b"))
    (tmp_path / "eights.b").write_bytes((tmp_path / "weights.bin").read_bytes())
    with pytest.raises(CaptureError, match=r"^port.onnx cannot be read: \w+: .*\.\./eights.b") as error:
        compare(inside / "port.onnx", variant=CONFIG, images=IMAGES)
    assert "\n" not in str(error.value)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CaptureError, match=r"^port.onnx cannot be read: \w+: .*weights.bin"):
        compared(data)


def changed(model: Any, change: str) -> Any:
    model = copy.deepcopy(model)
    graph = model.graph
    if change == "two inputs":
        graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1]))
    elif change == "an input of whole numbers":
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    elif change == "no outputs":
        del graph.output[:]
    elif change == "an unknown operation":
        graph.node[-1].op_type = "Explode"
    elif change == "a value of its own making":
        graph.node[-1].input[0] = graph.node[-1].output[0]
    elif change == "a truncated file":
        return model.SerializeToString()[:-1000]
    elif change == "an initialiser without its data":
        next(x for x in graph.initializer if x.name == "norm.weight").raw_data = b""
    return model


REFUSED = {
    "two inputs": r"takes 2 inputs and gives 1 outputs: expected images alone, and logits$",
    "an input of whole numbers": r"takes '.*', which is no tensor of floating point$",
    "no outputs": r"takes 1 inputs and gives 0 outputs",
    "an unknown operation": r"cannot be run: .*Explode",
    "a value of its own making": r"cannot be run: ",
    "a truncated file": r"cannot be read: DecodeError: ",
    "an initialiser without its data": r"cannot be (read|run): ",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_cannot_be_run_is_one_line(plain: Any, compared: Callable[..., Report], change: str) -> None:
    with pytest.raises(CaptureError, match=f"^port.onnx {REFUSED[change]}") as error:
        compared(changed(plain, change))
    assert "\n" not in str(error.value)


def test_images_that_do_not_fit_are_told_what_does(plain: Any, compared: Callable[..., Report]) -> None:
    with pytest.raises(CaptureError, match=r"of shape \(3, 3, 16, 16\), got images of shape \(2, 3, 16, 16\); give it such ones"):
        compared(plain, images=IMAGES[:2])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "scalablevit_ref.compare.capture.onnx", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"^an ONNX model needs onnxruntime: pip install 'scalablevit-ref\[onnx\]'$"):
        importlib.import_module("scalablevit_ref.compare.capture.onnx")


def external(plain: Any, folder: Path, change: Callable[[Any, int], object]) -> Path:
    """A model whose weights lie beside it, each one's statement of where changed."""
    path = folder / "port.onnx"
    onnx.save(copy.deepcopy(plain), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for i, tensor in enumerate(x for x in model.graph.initializer if x.external_data):
        entries = {entry.key: entry for entry in tensor.external_data}
        change(entries, i)
    path.write_bytes(model.SerializeToString())
    return path


def set_value(key: str, value: Callable[[int], str]) -> Callable[[Any, int], None]:
    def change(entries: Any, i: int) -> None:
        entries[key].value = value(i)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_value("location", lambda i: "fifo"), "fifo: a FIFO; expected external data"),
        (set_value("location", lambda i: "folder"), "folder: a folder; expected external data"),
        (set_value("location", lambda i: ""), "a folder; expected external data"),
        (set_value("location", lambda i: "x" * 5000), "name too long"),
        (set_value("location", lambda i: f"{i}.bin"), "external data in more than 3 files"),
        (set_value("length", lambda i: str(10**30)), r"takes [\d,]+ bytes out of [\d,]+ of external data"),
        (set_value("length", lambda i: "9" * 5000), "cannot be read: ValueError"),
        (set_value("length", lambda i: "x"), "cannot be read: ValueError"),
        (set_value("location", lambda i: "/dev/zero"), "port.onnx cannot be read"),
    ],
)
def test_external_data_is_no_more_than_is_there(
    change: Any, words: str, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_onnx, "MOST_FILES", 3)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for i in range(100):
        (tmp_path / f"{i}.bin").write_bytes(bytes(10**5))
    with pytest.raises(CaptureError, match=words) as caught:
        compare(external(plain, tmp_path, change), variant=CONFIG, images=IMAGES)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_part_that_is_taken_again_and_again_is_refused(plain: Any, tmp_path: Path) -> None:
    """10,000 tensors of the same megabyte would take 10 GB."""

    def everything(entries: Any, i: int) -> None:
        entries["offset"].value, entries["length"].value = "0", str((tmp_path / "weights.bin").stat().st_size)

    with pytest.raises(CaptureError, match=r"port\.onnx takes [\d,]+ bytes out of [\d,]+ of external data"):
        compare(external(plain, tmp_path, everything), variant=CONFIG, images=IMAGES)

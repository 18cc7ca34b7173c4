"""ONNX files as checkpoints: of both of torch's exporters and this package's, told by content, their weights named by the graph."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import scalablevit_ref as sv
from scalablevit_ref.adapters import onnx as adapter
from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.formats.onnx import SCOPES, module_path, read_onnx, starts_onnx
from scalablevit_ref.testing import random_params
from tests.support.profiles import share

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8, 16),
    depths=(2, 2),
    num_heads=(2, 2),
    mlp_ratios=(2, 1),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(4, 2),
    patch_size=2,
    num_classes=5,
    in_chans=3,
)
"""With square Linears (`proj`; `fc1` of the second stage), whose transposition shows in no shape."""

SIZE = 16

State = dict[str, np.ndarray]


@contextmanager
def quietly() -> Iterator[None]:
    """torch warns of the older exporter, of tracing, and of its own code."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def module(params: State | None, dtype: str = "float32", config: sv.ScalableViTConfig = CONFIG) -> ScalableViT:
    """The authors' network with these parameters, or as torch begins it: all gains are 1 there, and all of their biases 0."""
    torch.manual_seed(0)
    network = ScalableViT(config).eval()
    if params is not None:
        network.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in params.items()})
    return network.to(getattr(torch, dtype))


def exported(network: torch.nn.Module, path: Path, **options: Any) -> State:
    """Write the network; gives its state dict."""
    like = next(network.parameters())
    with quietly():
        torch.onnx.export(network, (torch.zeros(2, CONFIG.in_chans, SIZE, SIZE, dtype=like.dtype),), path, **options)
    return {name: x.numpy() for name, x in network.state_dict().items()}


def same(found: Any, expected: State) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == x.dtype and found[name].tobytes() == x.tobytes() for name, x in expected.items()
    )


EXPORTERS = {
    "dynamo": {"dynamo": True, "verbose": False, "optimize": False},
    "dynamo, optimised": {"dynamo": True, "verbose": False, "optimize": True},
    "dynamo, one file": {"dynamo": True, "verbose": False, "external_data": False},
    "TorchScript": {"dynamo": False, "do_constant_folding": False},
    "TorchScript, folded": {"dynamo": False, "do_constant_folding": True},
    "TorchScript, opset 13": {"dynamo": False, "opset_version": 13},
}


IN_TURN = [(exporter, begun) for i, exporter in enumerate(EXPORTERS) for begun in ((True, False), (False, True))[i % 2]]
"""Each way to export with weights as torch begins them and with others, in turn: every second has every way."""


@pytest.mark.parametrize(("exporter", "begun"), share(IN_TURN, of=2))
def test_both_exporters_of_torch(exporter: str, begun: bool, tmp_path: Path) -> None:
    """Equal tensors are merged by both; all but the first of these lose their names, and folded weights do."""
    params = None if begun else random_params(sv.parameter_shapes(CONFIG), dtype="float32")
    expected = exported(module(params), tmp_path / "model.onnx", **EXPORTERS[exporter])
    found = sv.load_checkpoint(tmp_path / "model.onnx", config=CONFIG)
    assert same(found.params, expected)
    assert found.metadata["format"] == "onnx"
    assert found.metadata["layout"] == "official"


@pytest.mark.parametrize("exporter", ["dynamo, optimised", "TorchScript, folded"])
def test_halves_in_a_module_that_holds_the_network(exporter: str, tmp_path: Path) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module(None, "float16")

        def forward(self, images: torch.Tensor) -> Any:
            return self.model(images)

    expected = exported(Wrapped().eval(), tmp_path / "model.onnx", **EXPORTERS[exporter])
    found = sv.load_checkpoint(tmp_path / "model.onnx", config=CONFIG)
    assert same(found.params, {name.removeprefix("model."): x for name, x in expected.items()})
    assert found.metadata["prefixes"] == ["model."]


@pytest.mark.parametrize("exporter", ["dynamo, one file", "TorchScript, folded"])
def test_without_notes_of_modules(exporter: str, tmp_path: Path) -> None:
    """Tools that shrink a model drop them: then a folded weight is named by the bias that is added to its product."""
    expected = exported(
        module(random_params(sv.parameter_shapes(CONFIG), dtype="float32")), tmp_path / "m.onnx", **EXPORTERS[exporter]
    )
    model = onnx.load(tmp_path / "m.onnx")
    assert any(x.name.startswith(("val_", "onnx::")) and len(x.dims) == 2 for x in model.graph.initializer)
    for i, node in enumerate(model.graph.node):
        del node.metadata_props[:]
        node.name = f"node{i}"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert same(sv.load_checkpoint(tmp_path / "m.onnx", config=CONFIG).params, expected)


def test_what_the_graph_does_not_tell_is_refused_by_name(tmp_path: Path) -> None:
    """As it is begun, all LayerNorms' biases are one tensor; without the notes nothing tells whose they are."""
    exported(module(None), tmp_path / "m.onnx", **EXPORTERS["dynamo, one file"])
    model = onnx.load(tmp_path / "m.onnx")
    for node in model.graph.node:
        del node.metadata_props[:]
        node.name = ""
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(sv.CheckpointError, match=r"missing \(\d+\): .*norm1\.weight"):
        sv.load_checkpoint(tmp_path / "m.onnx", config=CONFIG)


# Graphs by hand


def linear(x: np.ndarray, name: str, node: str = "", scopes: str | None = None, operation: str = "MatMul", **options: Any) -> Any:
    """A product with a constant, and a bias of its own added to it."""
    product = helper.make_node(operation, ["images", name], ["product"], name=node, **options)
    if scopes is not None:
        entry = product.metadata_props.add()
        entry.key, entry.value = SCOPES, scopes
    return [product, helper.make_node("Add", ["product", "fc.bias"], ["logits"])], [numpy_helper.from_array(x, name)]


def written(folder: Path, nodes: list[Any], initialisers: list[Any]) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    model = helper.make_model(helper.make_graph(nodes, "graph", value[:1], value[1:], initialisers), ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def parameters(path: Path) -> State:
    with ExitStack() as files:
        return {name: x.read() for name, x in read_onnx(path, files)[0].items()}


WEIGHT = np.arange(9, dtype="float32").reshape(3, 3)
BIAS = numpy_helper.from_array(np.ones(3, "float32"), "fc.bias")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("onnx::MatMul_7", {}, WEIGHT.T),
        ("val_7", {}, WEIGHT.T),
        ("fc.weight", {}, WEIGHT.T),
        ("fc.weight", {"operation": "Gemm"}, WEIGHT.T),
        ("fc.weight", {"operation": "Gemm", "transB": 1}, WEIGHT),
        ("fc.weight", {"operation": "Gemm", "transB": 0}, WEIGHT.T),
    ],
)
def test_a_weight_is_as_a_linear_has_it(name: str, options: dict[str, Any], expected: np.ndarray, tmp_path: Path) -> None:
    """Square, so that no shape could tell."""
    nodes, held = linear(WEIGHT, name, **options)
    found = parameters(written(tmp_path, nodes, [*held, BIAS]))
    assert set(found) == {"fc.weight", "fc.bias"}
    assert np.array_equal(found["fc.weight"], expected)


def test_a_kernel_of_keras_stays_as_it_is_named(tmp_path: Path) -> None:
    nodes, held = linear(WEIGHT, "fc.kernel")
    assert np.array_equal(parameters(written(tmp_path, nodes, [*held, BIAS]))["fc.kernel"], WEIGHT)


def test_constants_of_nodes_and_constants_of_no_module(tmp_path: Path) -> None:
    """A Constant's value counts; tensors of other types, and numbers in another form where they are no weights, condemn nothing."""
    nodes, _ = linear(WEIGHT, "held")
    nodes.insert(0, helper.make_node("Constant", [], ["held"], value=numpy_helper.from_array(WEIGHT)))
    strange = TensorProto(name="strange", data_type=TensorProto.FLOAT16, dims=[2], int32_data=[1, 2])
    steps = numpy_helper.from_array(np.arange(3), "fc.steps")
    found = parameters(written(tmp_path, nodes, [strange, steps, BIAS]))
    assert set(found) == {"fc.weight", "fc.bias"}
    assert np.array_equal(found["fc.weight"], WEIGHT.T)


def test_two_weights_of_one_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["images", "a"], ["x"], name="/fc/MatMul"),
        helper.make_node("MatMul", ["x", "b"], ["logits"], name="/fc/MatMul_1"),
    ]
    held = [numpy_helper.from_array(WEIGHT, name) for name in "ab"]
    with pytest.raises(
        sv.CheckpointError, match=r"fc\.weight: two constants that the graph does not tell apart; found 'a' and 'b'"
    ):
        parameters(written(tmp_path, nodes, held))


def test_a_bias_that_serves_two_products_names_neither(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["images", "a"], ["x"]),
        helper.make_node("Add", ["x", "fc.bias"], ["y"]),
        helper.make_node("MatMul", ["y", "b"], ["z"]),
        helper.make_node("Add", ["fc.bias", "z"], ["logits"]),
    ]
    held = [numpy_helper.from_array(WEIGHT, name) for name in "ab"]
    assert set(parameters(written(tmp_path, nodes, [*held, BIAS]))) == {"fc.bias"}


@pytest.mark.parametrize(
    ("node", "scopes", "expected"),
    [
        ("/stages.0.1/attn/q/MatMul", None, "stages.0.1.attn.q"),
        ("/stages/stages.0/stages.0.1/MatMul", None, "stages.0.1"),
        ("/MatMul", None, ""),
        ("MatMul_3", None, ""),
        ("MatMul_3", "['', 'stages.0.1', 'stages.0.1.attn.q', 'linear']", "stages.0.1.attn.q"),
        ("/other/MatMul", "['', 'linear']", ""),
        ("/other/MatMul", "nonsense", ""),
    ],
)
def test_the_path_of_a_module(node: str, scopes: str | None, expected: str) -> None:
    assert module_path(node, scopes) == expected


# Told by content


def head(**changes: Any) -> bytes:
    model = helper.make_model(helper.make_graph([], "graph", [], [], [BIAS]), ir_version=10)
    for name, value in changes.items():
        setattr(model, name, value)
    return model.SerializeToString()[:512]


@pytest.mark.parametrize(
    "content",
    [
        head(),
        head(producer_name="pytorch", producer_version="2.13.0"),
        head(domain="ai.onnx", model_version=300, doc_string="é" * 600),
        head(doc_string="two\nlines"),
    ],
)
def test_a_model_is_told_by_its_first_bytes(content: bytes) -> None:
    assert starts_onnx(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"\x08\x07",
        b"\x08\x80\x01\x12\x02ab\x3a\x02\x12\x00",  # a version of 128
        b"\x08\x04\x12\x0a\x0a\x05image\x1a\x01x\x3a\x00",  # Core ML: field 2 is a message
        b"\x08\x01\x12\x00\x3a\x05\x08zzzz",  # a graph of no known field
        b"\x12\x02ab\x3a\x02\x12\x00",  # no version
        b"\x08\x07\x08\x07\x3a\x02\x12\x00",  # two versions
        b"\x08\x07\x48\x01",  # no field of a model
        b"\x0a\x07\x12\x02ab",
        b"\x08\x00\x00\x00\x00\x00\x00\x00{}",
        bytes(range(8, 200)),
    ],
)
def test_others_are_not(content: bytes) -> None:
    assert not starts_onnx(content)


def test_the_name_does_not_tell(tmp_path: Path) -> None:
    params = sv.init_params(sv.variant("digits"))
    held = [numpy_helper.from_array(x, name) for name, x in params.items()]
    path = written(tmp_path, [], held).rename(tmp_path / "weights.pth")
    assert same(sv.load_checkpoint(path).params, params)
    sv.save_checkpoint(tmp_path / "x.npz", params, sv.variant("digits"))
    renamed = (tmp_path / "x.npz").rename(tmp_path / "x.onnx")
    assert sv.load_checkpoint(renamed).metadata["format"] == "npz"


# Written


def test_a_guess_stays_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model(graph: Any, weights: Any, outputs: Any) -> Any:
        held = [numpy_helper.from_array(x, name) for name, x in weights.items()]
        return onnx.load(written(tmp_path, [], held))

    monkeypatch.setattr(adapter, "onnx_model", model)
    params = sv.init_params(sv.variant("digits"))
    for metadata, told in (({"config_from": "shapes", "variant": "digits", "epoch": 3}, "shapes"), ({"epoch": 3}, "metadata")):
        adapter.export(params, sv.variant("digits"), tmp_path / "x.onnx", image_size=112, batch=1, metadata=metadata, force=True)
        found = sv.load_checkpoint(tmp_path / "x.onnx")
        assert (found.metadata["config_from"], found.metadata["epoch"]) == (told, 3)
        notes = {entry.key: entry.value for entry in onnx.load(tmp_path / "x.onnx").metadata_props}
        assert json.loads(notes["scalablevit_ref"])["layout"] == "official"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"layout": "mlx"}, "an ONNX file holds the official layout"),
        ({"config_json": True}, "an ONNX file holds the official layout, and no config.json"),
        ({"dtype": "bfloat16"}, "expected float32 or float16 for ONNX, found bfloat16"),
        ({"num_classes": 7}, "number of classes; expected 7, found 10"),
        ({"sha256": "there.txt"}, r"there\.txt exists; force=True overwrites it"),
        ({"sha256": "nowhere/sums"}, "there is no folder"),
    ],
)
def test_conversions_that_are_refused(
    arguments: dict[str, Any], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is exported or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapter, "onnx_model", None)
    sv.save_checkpoint("a.safetensors", sv.init_params(sv.variant("digits")), sv.variant("digits"))
    Path("there.txt").write_text("kept")
    with pytest.raises((sv.CheckpointError, FileExistsError, FileNotFoundError), match=problem):
        adapter.convert_file("a.safetensors", "x.onnx", adapter.ConvertOptions(**arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "there.txt"]


def test_overflow_names_the_source(tmp_path: Path) -> None:
    params = sv.init_params(sv.variant("digits"))
    params["norm.bias"][0] = 7e4
    sv.save_checkpoint(tmp_path / "a.safetensors", params, sv.variant("digits"))
    with pytest.raises(sv.CheckpointError, match=r"norm\.bias: values too large for float16") as caught:
        adapter.convert_file(tmp_path / "a.safetensors", tmp_path / "x.onnx", adapter.ConvertOptions(dtype="float16"))
    assert caught.value.file == str(tmp_path / "a.safetensors")

"""What stands in a pickle beside plain tensors: objects of any class, arrays of NumPy and JAX, unusual tensors, whole modules."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import decimal
import enum
import functools
import io
import json
import os
import pathlib
import pickle
import re
import struct
import types
import uuid
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalablevit_ref import init_params, to_backend, to_numpy
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory, is_lazy
from scalablevit_ref.formats.opaque import Namespace, Opaque
from scalablevit_ref.formats.rebuild import Rebuilder
from scalablevit_ref.formats.unpickle import load_pickle
from tests.support.bit_patterns import assert_same_bits
from tests.support.checkpoints import DIGITS
from tests.support.remedies import remedied

WEIGHTS = to_backend(init_params(DIGITS), "torch")
SAVED: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": functools.partial(torch.save, _use_new_zipfile_serialization=False),
    "zip, protocol 4": functools.partial(torch.save, pickle_protocol=4),
}


class Colour(enum.Enum):
    RED = 1


class Whole(enum.IntEnum):
    ONE = 1


class Attributes(dict):  # type: ignore[type-arg]
    """As `addict.Dict`, `EasyDict` and yacs' CfgNode are made."""


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = torch.zeros(2)


class Outer:
    class Inner:
        pass


class Arguments:
    """As transformers' TrainingArguments: anything in it."""

    def __init__(self) -> None:
        self.nested = {Colour.RED: [Slots(), self], "f": os.path.join}


class Keywords:
    def __new__(cls, *, a: int) -> Keywords:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"a": 1}


with warnings.catch_warnings(action="ignore"):  # of torch, that such tensors may change
    BESIDE: dict[str, tuple[Any, str]] = {
        "Counter": (collections.Counter({10: 1, 20: 1}), ""),
        "defaultdict": (collections.defaultdict(list, a=[1]), ""),
        "defaultdict of a lambda's module": (collections.defaultdict(collections.OrderedDict, {"a": 1}), ""),
        "deque": (collections.deque([1, 2], 3), "collections.deque"),
        "set": ({1, "a"}, "a set"),
        "frozenset": (frozenset({1}), "a frozenset"),
        "slice": (slice(1, 2), "builtins.slice"),
        "range": (range(3), "builtins.x?range"),
        "complex": (1j, "builtins.complex"),
        "ellipsis": (..., "builtins.Ellipsis"),
        "datetime": (dt.datetime(2024, 1, 2), "datetime.datetime"),
        "timedelta": (dt.timedelta(2), "datetime.timedelta"),
        "path": (pathlib.Path("a/b"), r"pathlib\.(\w+\.)?PosixPath"),
        "enum": (Colour.RED, r".*Colour"),
        "int enum": (Whole.ONE, r".*Whole"),
        "uuid": (uuid.UUID(int=1), "uuid.UUID"),
        "Decimal": (decimal.Decimal("1.5"), "decimal.Decimal"),
        "partial": (functools.partial(int, base=2), "functools.partial"),
        "function": (os.path.join, "posixpath.join"),
        "class": (Slots, r".*Slots"),
        "inner class": (Outer.Inner(), r".*Outer\.Inner"),
        "slots": (Slots(), r".*Slots"),
        "keyword arguments": (Keywords(a=1), r".*(Keywords|partial)"),
        "arguments": (Arguments(), r".*Arguments"),
        "exception": (ValueError("x"), "(builtins|exceptions).ValueError"),
        "NumPy dtype": (np.dtype("<f4"), "numpy.dtype"),
        "NumPy type": (np.float32, "numpy.float32"),
        "NumPy generator": (np.random.default_rng(0), "numpy.random.*"),
        "NumPy random state": (np.random.RandomState(0), "numpy.random.*"),
        "NumPy text": (np.str_("x"), "a NumPy scalar"),
        "NumPy objects": (np.array([{}, None], object), "a NumPy array of something other than numbers"),
        "NumPy texts": (np.array(["a", "b"]), "a NumPy array of something other than numbers"),
        "NumPy records": (np.zeros(2, [("a", "f4"), ("b", "i4")]), "a NumPy array of something other than numbers"),
        "NumPy dates": (np.zeros(2, "M8[s]"), "a NumPy array of something other than numbers"),
        "masked array": (np.ma.masked_array([1.0, 2.0], [0, 1]), "numpy.ma.*"),
        "NumPy complex": (np.complex64(1), "a NumPy scalar"),
        "layout": (torch.sparse_coo, ""),
        "qscheme": (torch.per_tensor_affine, "torch.per_tensor_affine"),
        "storage": (torch.zeros(3).untyped_storage(), "a storage of tensors"),
        "sparse": (torch.eye(2).to_sparse(), "a sparse tensor"),
        "sparse rows": (torch.eye(2).to_sparse_csr(), "a sparse tensor"),
        "quantised": (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a quantised tensor"),
        "quantised by channel": (
            torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2, dtype=torch.long), 0, torch.quint8),
            "a quantised tensor",
        ),
        "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]), "a nested tensor"),
        "meta": (torch.zeros(2, device="meta"), "a tensor without values.*"),
        "lazy": (torch.nn.LazyLinear(3).weight, "a parameter that is not initialised yet"),
        "odd keys": ({Colour.RED: 1, None: 2, (1, "a"): 3, b"x": 4, 1.5: 5, True: 6, frozenset(): 7, (1, (2,)): 8}, ""),
        "scheduler": (torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.zeros(1)], 1.0), [2, 3]).state_dict(), ""),
        "whole scheduler": (
            torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], 1.0), 2),
            "torch.optim.lr_scheduler.StepLR",
        ),
        "criterion": (torch.nn.CrossEntropyLoss(), r"a whole module \(torch.nn.modules.loss.CrossEntropyLoss\)"),
        "long number": (-(1 << 90_000), "a long number"),
        "many texts": (["x" * 5000] * 3, ""),
        "bytes": (b"x" * 5000, "bytes"),
        "bytearray": (bytearray(b"x" * 5000), "bytes"),
        "buffer": (memoryview(b"")[:0].tobytes(), ""),
    }
"""Values beside weights, and how they are named (empty: they are plain)."""


def read(path: Path) -> Any:
    with open_file(path) as (tree, _, _):
        return tree


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("what", BESIDE)
def test_an_object_beside_the_weights(tmp_path: Path, what: str, how: str) -> None:
    value, named = BESIDE[what]
    path = tmp_path / "x.pth"
    SAVED[how]({"model": WEIGHTS, "epoch": 3, "beside": value, "list": [value, {"a": (value,)}]}, path)
    found = load_checkpoint(path)
    assert_same_bits(found.params, to_numpy(WEIGHTS))
    assert found.metadata["epoch"] == 3
    tree = read(path)
    assert isinstance(tree["beside"], Opaque) == bool(named), tree["beside"]
    assert not named or re.fullmatch(named, tree["beside"].name), tree["beside"].name


def test_plain_values_beside(tmp_path: Path) -> None:
    """What is plain in another class keeps its value."""
    values = {
        "counter": collections.Counter({10: 1}),
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "default": collections.defaultdict(list, {"a": [1]}),
        "float64": np.float64(81.2),
        "float16": np.float16(0.5),
        "int64": np.int64(-3),
        "bool": np.bool_(True),
        "bfloat16": ml_dtypes.bfloat16(2.5),
        "big": np.array(1.5, ">f8")[()],
        "size": torch.Size([2, 3]),
        "long": 1 << 100,
        "keys": {(1, "a"): 3, b"x": 4, None: 5, 7: 8},
        "arguments": argparse.Namespace(model="m", other=Colour.RED, path=Path("a")),
        "simple": types.SimpleNamespace(a=1),
    }
    torch.save({"model": WEIGHTS, **values}, tmp_path / "x.pth")
    tree = read(tmp_path / "x.pth")
    for name in set(values) - {"arguments", "simple"}:
        assert tree[name] == values[name], name
        assert type(tree[name]) in (dict, float, int, bool, tuple), name
    assert vars(tree["arguments"])["model"] == "m"
    assert isinstance(vars(tree["arguments"])["other"], Opaque)
    assert (type(tree["simple"]), vars(tree["simple"])) == (Namespace, {"a": 1})


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_dict_of_another_class_has_its_entries(tmp_path: Path, protocol: int) -> None:
    """Whatever the protocol; a class inside a function would not pickle."""
    data = pickle.dumps(Attributes(a=1, b=Attributes(c=[2])), protocol)
    found, end = load_pickle(io.BytesIO(data), Rebuilder(nothing, len(data)), 0, len(data))
    assert end == len(data)
    assert found.name.endswith(".Attributes")
    assert list(found.entries) == ["a", "b"]
    assert found.entries["b"].entries == {"c": [2]}


def nothing(key: str, elements: int, itemsize: int | None) -> Any:
    raise AssertionError("no storage")


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 2000), 1 << 2000)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-9, 9), inner) | st.lists(inner).map(tuple),
)


@given(value=PLAIN, protocol=st.integers(0, 5), texts=st.integers(0, 3))
def test_plain_values_of_every_protocol(value: Any, protocol: int, texts: int) -> None:
    """What Python's own machine reads."""
    value = [value, "x\n'\\ü" * 400 * texts, value]
    data = pickle.dumps(value, protocol) + b"behind"
    found, end = load_pickle(io.BytesIO(data), Rebuilder(nothing, len(data)), 0, len(data))
    assert found == value
    assert repr(found) == repr(value)
    assert data[end:] == b"behind"
    assert found[0] is found[2] or not isinstance(value[0], list | dict)


def test_what_python_2_wrote() -> None:
    """Texts that are bytes, and long numbers."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
    array += b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'"
    data = b"(lp0\nI1\naL2L\naS'a'\na" + array + b"\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntba."
    assert pickle.loads(data, encoding="latin1")[3].tolist() == [1, 2]
    found, _ = load_pickle(io.BytesIO(data), Rebuilder(nothing, len(data)), 0, len(data))
    assert found[:3] == [1, 2, "a"]
    assert found[3].tolist() == [1, 2]


ARRAYS = {
    "float32": np.arange(6, dtype="f4").reshape(2, 3),
    "large": np.arange(5000, dtype="f4").reshape(50, 100),
    "large bytes": np.full((40, 50), 255, "u1"),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "large Fortran": np.asfortranarray(np.arange(5000.0).reshape(50, 100)),
    "big-endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "large big-endian": np.asfortranarray(np.arange(5000, dtype=">f2").reshape(50, 100)),
    "bfloat16": np.arange(4).astype(ml_dtypes.bfloat16),
    "large bfloat16": np.arange(4000).astype(ml_dtypes.bfloat16).reshape(2, -1),
    "float8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
    "bool": np.array([True, False]),
    "int64": np.arange(-2, 3),
    "complex": np.array([1j, 2]),
    "scalar": np.array(1.5),
    "empty": np.zeros((0, 3), "f4"),
    "strided": np.arange(60000.0)[::7],
    "shared": np.arange(3.0),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("how", ["torch", "plain"])
def test_arrays_of_numpy(tmp_path: Path, protocol: int, how: str) -> None:
    """Bit for bit, in native byte order; large ones lie in the file until they are read."""
    path, content = tmp_path / "x.pth", {**ARRAYS, "again": ARRAYS["shared"]}
    if how == "torch":
        if protocol < 2:
            pytest.skip("torch.save has no such protocol")
        torch.save(content, path, pickle_protocol=protocol)
    else:
        data = pickle.dumps(content, protocol)
        if protocol < 2:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", data)
            data = file.getvalue()
        path.write_bytes(data)
    with open_file(path) as (tree, _, format_):
        assert format_ == ("pickle" if how == "plain" and protocol >= 2 else "torch zip")
        large = [name for name in content if name.startswith("large")]
        assert {is_lazy(tree[name]) for name in large} == {protocol >= 2}
        found = {name: in_memory(x) for name, x in tree.items()}
    assert_same_bits(found, {name: np.asarray(x, x.dtype.newbyteorder("="), order="C") for name, x in content.items()})


def test_a_state_dict_of_numpy_arrays(tmp_path: Path) -> None:
    """As NumPy, JAX, torch and PaddlePaddle pickle it; all with the same bits."""
    params = init_params(DIGITS)
    for name, value in {
        "plain": params,
        "wrapped": {"model": params, "best": np.float64(1)},
        "jax": jax.tree.map(jax.numpy.asarray, params),
        "torch": to_backend(params, "torch"),
        "parameters": {name: torch.nn.Parameter(x) for name, x in to_backend(params, "torch").items()},
        "paddle": {name: Paddle(name, x) for name, x in params.items()},
    }.items():
        for protocol in (2, 3, 4, 5):
            if name in ("torch", "parameters") and protocol == 2:
                continue  # the storages' bytes are a text then
            path = tmp_path / f"{name}.pdparams"
            path.write_bytes(pickle.dumps(value, protocol))
            found = load_checkpoint(path)
            assert found.metadata["format"] == "pickle"
            assert_same_bits(found.params, params)


class Paddle:
    """A tensor as `paddle.save` reduces it."""

    def __init__(self, name: str, x: np.ndarray) -> None:
        self.pair = (name, x)

    def __reduce__(self) -> Any:
        return tuple, (self.pair,)


class Subclass(torch.Tensor):
    pass


BASE = torch.arange(24.0).reshape(4, 6)
TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "attribute": lambda: with_attribute(torch.nn.Parameter(BASE.clone())),
    "attribute of a tensor": lambda: with_attribute(BASE.clone()),
    "subclass": lambda: BASE.as_subclass(Subclass),
    "subclass with an attribute": lambda: with_attribute(BASE.as_subclass(Subclass)),
    "buffer": lambda: torch.nn.Buffer(BASE),
    "negative view": lambda: torch._neg_view(BASE),
    "negative view of a view": lambda: torch._neg_view(BASE[1:3, ::2].t()),
    "imaginary part": lambda: torch.complex(BASE, BASE + 1).conj().imag,
    "complex": lambda: torch.complex(BASE, BASE),
    "conjugate": lambda: torch.complex(BASE, BASE).conj(),
    "uint16": lambda: BASE.to(torch.uint16),
    "uint32": lambda: BASE.to(torch.uint32)[1:, ::2],
    "uint64": lambda: BASE.to(torch.uint64),
    "float8_e4m3fn": lambda: BASE.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda: BASE.to(torch.float8_e5m2),
    "hooks": lambda: with_hook(BASE.clone()),
    "channels last": lambda: torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


def with_attribute(x: Any) -> Any:
    x.no_weight_decay = Colour.RED
    return x


def with_hook(x: Any) -> Any:
    x.requires_grad_()
    return torch.nn.Parameter(x)


@pytest.mark.parametrize("how", SAVED)
def test_unusual_tensors(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.pth"
    tensors = {name: make() for name, make in TENSORS.items()}
    SAVED[how](tensors, path)
    with open_file(path) as (tree, _, _):
        found = {name: in_memory(x) for name, x in tree.items()}
    for name, x in tensors.items():
        kind = getattr(ml_dtypes, name, None)
        plain = x.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().contiguous()
        theirs = plain.view(torch.uint8).numpy().view(kind) if kind else plain.numpy()
        assert (found[name].dtype, found[name].shape) == (theirs.dtype, theirs.shape), name
        assert found[name].tobytes() == theirs.tobytes(), name


def device_tensor(array: np.ndarray, dtype: torch.dtype) -> Any:
    return Reduced(torch._utils._rebuild_device_tensor_from_numpy, array, dtype, "xla:0", False)


class Reduced:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts[0], self.parts[1:]


def test_tensors_of_other_devices(tmp_path: Path) -> None:
    """As TPUs (which NumPy knows no bfloat16 of) and other devices are pickled by torch."""
    path, array = tmp_path / "x.pth", np.arange(3.0, dtype="f4")
    rebuild_from_cpu = getattr(torch._utils, "_rebuild_device_tensor_from_cpu_tensor", None)
    value = {"xla": device_tensor(array, torch.float32), "bf16": device_tensor(array, torch.bfloat16)}
    value["large"] = device_tensor(np.arange(9000, dtype="f4"), torch.bfloat16)
    value["v1"] = Reduced(torch._utils._rebuild_tensor, torch.arange(4.0)._typed_storage(), 1, (3,), (1,))
    if rebuild_from_cpu is not None:
        value["mps"] = Reduced(rebuild_from_cpu, torch.arange(3.0), torch.float32, "mps:0", False)
    torch.save(value, path)
    with open_file(path) as (tree, _, _):
        found = {name: in_memory(x) for name, x in tree.items()}
    assert found["xla"].tolist() == [0, 1, 2]
    assert found["bf16"].dtype == ml_dtypes.bfloat16
    assert found["large"].tobytes() == np.arange(9000).astype(ml_dtypes.bfloat16).tobytes()
    assert found["v1"].tolist() == [1, 2, 3]
    assert rebuild_from_cpu is None or found["mps"].tolist() == [0, 1, 2]


def test_tensors_of_a_mesh(tmp_path: Path) -> None:
    """A DTensor is read where its local tensor is all of it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        half = {"shape": torch.Size([8, 6]), "stride": (6, 1)}
        value = {
            "replicated": DTensor.from_local(BASE, mesh, [Replicate()]),
            "parameter": torch.nn.Parameter(DTensor.from_local(BASE, mesh, [Replicate()])),
            "all of the shards": DTensor.from_local(BASE, mesh, [Shard(0)]),
            "half": DTensor.from_local(BASE, mesh, [Shard(0)], **half),
            "summand": DTensor.from_local(BASE, mesh, [Partial()]),
        }
        torch.save(value, tmp_path / "x.pth")
    finally:
        dist.destroy_process_group()
    with open_file(tmp_path / "x.pth") as (tree, _, _):
        whole = ("replicated", "parameter", "all of the shards")
        assert all(np.array_equal(in_memory(tree[name]), BASE.numpy()) for name in whole)
        assert [tree[name].name for name in ("half", "summand")] == ["a shard of a tensor (DTensor)"] * 2


def test_a_whole_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4))
    path = tmp_path / "x.pth"
    for how in SAVED.values():
        how(module, path)
        with pytest.raises(
            CheckpointError, match=r"x\.pth: .*a whole module \(torch\.nn\.modules\.container\.Sequential\): "
        ) as caught:
            load_checkpoint(path)
        assert_same_bits(made_by(str(caught.value), tmp_path), to_numpy(module.state_dict()))
        how({"epoch": 3, "model": module, "deep": {"it's\nFILE": [module]}, "object": BadNews(module)}, path)
        tree = read(path)
        for found in (tree["model"], tree["deep"]["it's\nFILE"][0]):
            assert_same_bits(made_by(found.remedy, tmp_path), to_numpy(module.state_dict()))
        assert not tree["object"].remedy


class BadNews:
    """An object with a module in it."""

    def __init__(self, module: Any) -> None:
        self.module = module


def test_of_two_modules_the_average_is_named_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YOLO's checkpoints: the remedy takes what the reader takes of state dicts, and names the other too."""
    monkeypatch.chdir(tmp_path)
    for i, keys in enumerate((("model", "ema"), ("ema_model", "net"))):
        modules = {key: torch.nn.Linear(3, 4) for key in keys}
        torch.save({"epoch": 3, **modules, "optimizer": {}}, f"{i}.pt")
        with pytest.raises(
            CheckpointError, match=r"under ema.*, an average over training: `.*; or .* under (model|net): `"
        ) as caught:
            load_checkpoint(f"{i}.pt")
        average, other = sorted(keys, key=lambda key: "ema" not in key)
        for number, key in enumerate((average, other)):
            assert_same_bits(made_by(str(caught.value), tmp_path, number=number), to_numpy(modules[key].state_dict()))


def test_torch_files_within_a_file(tmp_path: Path) -> None:
    for how in SAVED.values():
        content = io.BytesIO()
        how(WEIGHTS, content)
        how({"epoch": 3, "weights": content.getvalue(), "text": b"PK"}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="a torch file as bytes within the file under weights: `") as caught:
            load_checkpoint(tmp_path / "x.pth")
        assert_same_bits(made_by(str(caught.value), tmp_path), to_numpy(WEIGHTS))


def made_by(said: str, folder: Path, *, number: int = 0) -> dict[str, Any]:
    """The weights in the file that a command of an error makes."""
    made = remedied(said, folder, number=number)
    found = opened(made)
    made.unlink()
    return found


def opened(path: Path) -> dict[str, Any]:
    with open_file(path) as (tree, _, _):
        return {name: in_memory(x) for name, x in tree.items()}


@pytest.mark.filterwarnings("ignore")
def test_programs_are_refused_with_the_way_out(tmp_path: Path) -> None:
    module, path = torch.nn.Sequential(torch.nn.Linear(3, 4)).eval(), tmp_path / "x.pt"
    example = torch.zeros(1, 3)
    torch.jit.save(torch.jit.trace(module, example), path)
    with pytest.raises(CheckpointError, match=r"a TorchScript archive \(torch\.jit\.save\)") as caught:
        load_checkpoint(path)
    assert_same_bits(made_by(str(caught.value), tmp_path), to_numpy(module.state_dict()))
    torch.export.save(torch.export.export(module, (example,)), path := tmp_path / "x.pt2")
    with pytest.raises(CheckpointError, match=r"a program of torch\.export \(\.pt2\)") as caught:
        load_checkpoint(path)
    assert_same_bits(made_by(str(caught.value), tmp_path), to_numpy(module.state_dict()))
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern("**")
        exporter.save_pickle("a.model", "model.pkl", module)
    with pytest.raises(CheckpointError, match=r"a package of torch\.package.*PackageImporter") as caught:
        load_checkpoint(path)
    assert_same_bits(made_by(str(caught.value), tmp_path), to_numpy(module.state_dict()))
    path.write_bytes(b"\x20\x00\x00\x00ET12" + bytes(100))
    with pytest.raises(CheckpointError, match="an ExecuTorch program"):
        load_checkpoint(path)


def test_what_begins_like_a_pickle_and_is_none(tmp_path: Path) -> None:
    """A safetensors file whose header is 640 bytes long."""
    header = json.dumps({"norm.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(640)
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", 640) + header + bytes(4))
    assert path.read_bytes().startswith(b"\x80\x02")
    with open_file(path) as (tree, _, format_):
        assert (list(tree), format_) == (["norm.weight"], "safetensors")


def repacked(path: Path, method: int) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def test_a_compressed_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    flat = torch.arange(60.0)
    torch.save({"model": WEIGHTS, "views": [flat[:20], flat[20:], flat.reshape(6, 10).t()]}, path)
    repacked(path, zipfile.ZIP_DEFLATED)
    assert_same_bits(load_checkpoint(path).params, to_numpy(WEIGHTS))
    with open_file(path) as (tree, _, _):
        views = [in_memory(x) for x in tree["views"]]
    assert views[1].tolist() == flat[20:].tolist()
    assert views[2].tolist() == flat.reshape(6, 10).t().tolist()
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.compress_size)
    content[largest.header_offset + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{largest.filename}: .*damaged"):
        load_checkpoint(path)


def test_a_large_pickle_stays_in_its_file(tmp_path: Path) -> None:
    """12 MB of arrays in torch's pickle, which is a text there, and in a plain one; the checksum is looked at."""
    path, state = tmp_path / "x.pth", {f"w{i}": np.random.default_rng(i).standard_normal(500_000).astype("f4") for i in range(6)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("x/data.pkl").file_size > 12 << 20
    assert_same_bits(opened(path), state)
    content = bytearray(path.read_bytes())
    content[6 << 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="wrong checksum"):
        opened(path)
    path.write_bytes(pickle.dumps(state))
    assert_same_bits(opened(path), state)

"""What fuzzing makes of bytes (files, folders, trees, pickles with sound weights), and what must hold of whatever is read."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint, load_port
from scalablevit_ref.checkpoints.hub import hub_config
from scalablevit_ref.checkpoints.inspect import inspect_file
from scalablevit_ref.formats.damage import UNFORESEEN
from scalablevit_ref.formats.opaque import Opaque
from tests.support.bombs_beside import SHAPES, values, weights
from tests.support.checkpoints import TINY
from tests.support.hostile import archive, program

LONGEST = 1 << 18
"""Longest record or input, in bytes."""

FAR = 5000
"""Numbers between the weights of one network and those of the next."""


class Choices:
    """Decisions that bytes make; after their end everything is 0."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, count: int) -> int:
        """One of the first whole numbers."""
        self.at += 1
        return self.data[self.at - 1] % count if self.at <= len(self.data) else 0

    def one_of(self, options: Any) -> Any:
        return options[self.number(len(options))]

    def rest(self) -> bytes:
        found, self.at = self.data[self.at :], len(self.data)
        return found


def found(reader: Callable[[], Any], *, missing: bool = False) -> Any:
    """What a reader gives, or the one printable line that it says. missing: whether files may be."""
    errors: tuple[type[Exception], ...] = (CheckpointError, FileNotFoundError, PermissionError) if missing else (CheckpointError,)
    try:
        return reader()
    except errors as error:
        said = str(error)
    assert said.isprintable(), "an error of more than one line"
    assert not any(words in said for words in (UNFORESEEN, NO_MEMORY)), said
    return said


NO_MEMORY = "takes more memory than there is"
"""What is said of a file that a limit on memory ended, and no limit of the reader's."""


def bits(checkpoint: Any) -> Any:
    """All that is to be the same when a file is read twice."""
    if isinstance(checkpoint, str):
        return checkpoint
    arrays = {name: (x.dtype.str, x.shape, x.tobytes()) for name, x in checkpoint.params.items()}
    return arrays, checkpoint.config, getattr(checkpoint, "metadata", None) and repr(checkpoint.metadata)


def read_file(path: Path, *, missing: bool = False, whole: bool = True) -> Any:
    """What `load_checkpoint` gives, which is the same twice. whole: a port's weights and `inspect` are asked for as well.

    The configuration is given, since it takes longer to find it by shapes than to read the file.
    """

    def load() -> Any:
        return load_checkpoint(path, config=TINY, allow_nonfinite=True)

    first = found(load, missing=missing)
    assert bits(first) == bits(found(load, missing=missing)), "another the second time"
    others: list[Callable[[], Any]] = [lambda: load_checkpoint(path), lambda: inspect_file(path), lambda: load_port(path)]
    for reader in others * whole:
        found(reader, missing=missing)
    return first


# Files


def packed(data: bytes) -> bytes:
    """A bare pickle as torch's archive holds it, a bare array as NumPy's, and what is an archive with sound checksums.

    A pickle that ends with "!" is a plain one, and an archive that does is left as it is.
    """
    if data[-1:] == b"!":
        return data[:-1] if data[:1] == b"\x80" else data
    if data[:1] == b"\x80" and b"l\xfc\x9cF\xf9 j\xa8P" not in data[:20]:
        records = {"archive/data.pkl": data} | {f"archive/data/{i}": bytes(4) for i in range(4)}
    elif data.startswith(b"\x93NUMPY"):
        records = {"norm.weight.npy": data}
    elif data.startswith(b"PK"):
        return repaired(data)
    else:
        return data
    return zipped(records)


def zipped(records: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w", compression) as archive_:  # of two equal names
        for name, content in records.items():
            archive_.writestr(name, content)
    return out.getvalue()


def repaired(data: bytes) -> bytes:
    """Checksums are no obstacle to whoever makes a file: a zip archive gets those of its records, each compressed as it was."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive_:
            archive_.testzip()
            contents, kinds = {}, {zipfile.ZIP_STORED}
            for info in archive_.infolist():
                with archive_.open(info) as member:
                    member._expected_crc = None  # type: ignore[attr-defined]
                    contents[info.filename] = member.read(LONGEST)
                kinds.add(info.compress_type)
            comment = archive_.comment
    except Exception:  # not a zip archive that zipfile can read
        return data
    out = io.BytesIO(zipped(contents, zipfile.ZIP_DEFLATED if zipfile.ZIP_DEFLATED in kinds else zipfile.ZIP_STORED))
    with zipfile.ZipFile(out, "a") as archive_:
        archive_.comment = comment
    return out.getvalue()


# Sound weights in a pickle, among opcodes that are not


def sound(params: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the weights of `pickled`."""
    return np.array_equal(np.concatenate([params[name].reshape(-1) for name in SHAPES]), values())


def pickled(data: bytes) -> bytes:
    """Sound weights under `model`, with any opcodes before and after them, in an archive of torch."""
    choices = Choices(data)
    before, after = choices.number(2), choices.number(2)
    rest = choices.rest()
    middle = len(rest) // 2 if before and after else len(rest) * before
    parts = (b"X\x01\x00\x00\x00a" + part + b"s" if part else b"" for part in (rest[:middle], rest[middle:]))
    first, last = parts
    return archive(program(b"}" + first + b"(" + weights() + b"u" + last), {"archive/data/0": values().tobytes()})


def read_pickled(path: Path, data: bytes) -> None:
    path.write_bytes(pickled(data))
    checkpoint = read_file(path, whole=len(data) % 4 == 3)
    assert isinstance(checkpoint, str) or sound(checkpoint.params), "other weights"


# Folders


@cache
def of_network(number: int) -> dict[str, np.ndarray]:
    """Weights of a tiny network, in whole numbers that no other network has."""
    start = FAR * number
    found: dict[str, np.ndarray] = {}
    for name, shape in sv.parameter_shapes(TINY).items():
        size = int(np.prod(shape))
        found[name] = np.arange(start, start + size, dtype="float32").reshape(shape)
        start += size
    assert start - FAR * number < FAR
    return found


@cache
def parts_of_folder() -> dict[str, bytes]:
    from safetensors.numpy import save

    names = list(of_network(1))
    halves = [{name: of_network(1)[name] for name in part} for part in (names[:40], names[40:])]
    weight_map = {name: f"model-0000{i + 1}-of-00002.safetensors" for i, half in enumerate(halves) for name in half}
    return {
        "model-00001-of-00002.safetensors": save(halves[0], {"format": "pt"}),
        "model-00002-of-00002.safetensors": save(halves[1], {"format": "pt"}),
        "model.safetensors": save(of_network(1), {"format": "pt"}),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
        "config.json": json.dumps(hub_config(TINY)).encode(),
    }


def damaged(content: bytes, choices: Choices) -> bytes:
    """A text with parts of it replaced."""
    for _ in range(choices.number(5)):
        at = int((choices.number(256) * 256 + choices.number(256)) / 65536 * (len(content) + 1))
        cut = choices.one_of((0, 0, 1, 1, 2, 4, 60))
        put = bytes(choices.number(256) for _ in range(choices.number(7)))
        word = choices.one_of(JSON_WORDS) if not put else b""
        content = content[:at] + put + word + content[at + cut :]
    return content


JSON_WORDS = (
    b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"1e400", b"-1", b"NaN", b'"weight_map":{',
    b'"scalablevit_ref":', b'"file":"model.safetensors"', b'"..', b"model-00001-of-00002.safetensors", b"\\u0000",
    b"\\ud800", b"0" * 5000, b"[" * 2000,
)  # fmt: skip


def read_folder(folder: Path, data: bytes) -> None:
    """Sound weights, in one file or in two, with an index and a config.json that are damaged."""
    choices = Choices(data)
    sharded, described = choices.number(2), choices.number(3)
    parts = dict(parts_of_folder())
    kept = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names = [*(kept if sharded else ["model.safetensors"]), *(["config.json"] if described else [])]
    for name in ("model.safetensors.index.json", "config.json"):
        parts[name] = damaged(parts[name], choices)
    for path in folder.iterdir():
        path.unlink()
    for name in names:
        (folder / name).write_bytes(parts[name])
    checkpoint = read_file(folder if choices.number(2) else folder / names[0], missing=True, whole=len(data) % 4 == 3)
    assert isinstance(checkpoint, str) or same(checkpoint.params, of_network(1)), "other weights"


def same(params: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    return params.keys() == expected.keys() and all(np.array_equal(params[name], x) for name, x in expected.items())


# Trees in memory


WORDS = (
    "model", "state_dict", "module", "ema", "model_ema", "params_ema", "ema_state_dict", "shadow_params", "teacher", "student",
    "backbone", "encoder", "net", "optimizer", "opt_state", "mu", "head", "head.0", "head.3", "fc", "classifier", "aux", "value",
    "raw_value", "_orig_mod", "_checkpoint_wrapped_module", "params", "0", "1", "weight", "bias", "kernel", "scale", "gamma",
    "stages", "stages.0", "stages.0.0", "blocks", "patch_embeds.0", "norm", "norm1", "norm.weight", "attn", "attn.qkv.weight",
    "scalablevit_ref", "config", "metadata", "args", "epoch", "decay", "n_averaged", "step", "", "..", "a/b", "x" * 200, "é\n",
)  # fmt: skip


def any_key(choices: Choices) -> Any:
    word = choices.one_of(WORDS)
    kind = choices.number(10)
    if kind == 9:
        return choices.one_of((None, 1.5, -1, True, 1 << 40, b"model", (), ("stages", 0), ("a", ("b",)), (word, 1)))
    return (word, choices.number(3)) if kind == 8 else choices.number(4) if kind == 7 else word


def any_value(choices: Choices, made: list[Any], depth: int = 0) -> Any:
    """Junk: numbers below 0, so that none of it is a weight; also what was made before, once more."""
    kind = choices.number(16)
    if kind < 5:
        shape = tuple(choices.number(4) for _ in range(choices.number(5)))
        dtype = choices.one_of(
            ("float32", "float32", "float16", "float64", "int64", "uint8", "bool", ">f4", "complex64", "U3", "O")
        )
        return np.full(shape, -1 if dtype not in ("uint8", "bool", "U3") else 1).astype(dtype)
    if kind < 8 and depth < 4:
        found: Any = {}
        made.append(found)
        for _ in range(choices.number(4)):
            found[any_key(choices)] = any_value(choices, made, depth + 1)
        return found
    if kind < 10 and depth < 4:
        some = [any_value(choices, made, depth + 1) for _ in range(choices.number(4))]
        made.append(some)
        return tuple(some) if kind == 8 else some
    if kind == 10:
        return Opaque("a thing", {any_key(choices): any_value(choices, made, depth + 1)} if depth < 4 else None)
    if kind < 13 and made:
        return choices.one_of(made)
    return choices.one_of(
        (None, 0, 1.5, "text", b"bytes", True, {1}, range(3), np.float32(-1), json.dumps(asdict(TINY)), -(10**30))
    )


def laid(state: Mapping[str, Any], choices: Choices) -> Any:
    """A state dict with its names as they are, as a tree, as tuples, or with other separators."""
    how = choices.number(5)
    if how == 1:
        return {tuple(name.split(".")): x for name, x in state.items()}
    if how == 2:
        return {name.replace(".", "/"): x for name, x in state.items()}
    if how == 0:
        return dict(state)
    tree: dict[Any, Any] = {}
    for name, x in state.items():
        *path, leaf = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(int(part) if how == 4 and part.isdecimal() else part, {})
        branch[leaf] = x
    return tree


def containers(tree: Any, seen: set[int]) -> Iterator[dict[Any, Any]]:
    if isinstance(tree, dict) and id(tree) not in seen:
        seen.add(id(tree))
        yield tree
        for value in list(tree.values()):
            yield from containers(value, seen)


LAYOUTS = ("official", "split", "channels_last", "keras", "mlx", "paddle")


@cache
def in_layout(number: int, layout: str) -> dict[str, np.ndarray]:
    return sv.to_state_dict(of_network(number), TINY, layout=layout)


def any_tree(choices: Choices) -> tuple[Any, list[int]]:
    """One to three networks somewhere in a tree, and junk that replaces none of their arrays; and the numbers of the networks."""
    made: list[Any] = []
    top: Any = {}
    networks = list(range(1, 2 + choices.one_of((0, 0, 1, 2))))
    for number in networks:
        state = dict(in_layout(number, choices.one_of(LAYOUTS)))
        if wrapper := choices.one_of(("", "", "module.", "_orig_mod.", "net.", "a.b.module.")):
            state = {wrapper + name: x for name, x in state.items()}
        if choices.number(4) == 3:  # inside of the names
            part = choices.one_of(("_orig_mod", "_checkpoint_wrapped_module", "module"))
            state = {name.replace(".attn.", f".{part}.attn."): x for name, x in state.items()}
        apart = choices.number(6) == 5 and number == 1
        head = {name: state.pop(name) for name in list(state) if apart and name.removeprefix(wrapper).startswith("head.")}
        tree = laid(state, choices)
        for _ in range(choices.number(4)):
            tree = {any_key(choices): tree}
        if len(networks) > 1 or choices.number(2):
            tree = {any_key(choices): tree}
        if tree.keys() & top.keys():
            continue
        top |= tree
        key = choices.one_of(("head", "model.head", "fc", "teacher.head", "cls_head.fc"))
        top |= {f"{key}.{name.removeprefix(wrapper).removeprefix('head.')}": x for name, x in head.items()}
    for _ in range(choices.number(7)):
        places = list(containers(top, set()))
        places[choices.number(256) % len(places)].setdefault(any_key(choices), any_value(choices, made))
        if choices.number(8) == 7:
            made.append(places[choices.number(256) % len(places)])  # a loop, or a part twice
    return top, networks


def check_tree(data: bytes) -> Any:
    """Whatever is read of such a tree is one of its networks, whole, and no number of it is junk or another network's."""
    choices = Choices(data)
    tree, networks = any_tree(choices)
    use_ema = bool(choices.number(2))
    key = choices.one_of((None,) * 6 + ("model", "."))
    first = found(lambda: from_state_dict(tree, use_ema=use_ema, key=key, config=TINY))
    assert bits(first) == bits(found(lambda: from_state_dict(tree, use_ema=use_ema, key=key, config=TINY))), (
        "another the second time"
    )
    if isinstance(first, str):
        return first
    sources = {int(x.reshape(-1)[0].real) // FAR for x in first.params.values()}
    assert sources <= set(networks), f"no weights: {sources}"
    assert len(sources) == 1, f"weights of several networks: {sources}"
    expected = of_network(next(network for network in networks if network in sources))
    lost = [name for name in expected if name not in first.params]
    assert all(np.array_equal(first.params[name], expected[name]) for name in first.params), "other weights"
    left_out = " ".join((*first.metadata["ignored"], *first.metadata["others"]))
    assert not lost or left_out or key is not None, f"lost without a word: {lost}"
    return first


# Sound files of every format, to begin with


def seeds(folder: Path) -> dict[str, bytes]:
    """A sound file of each format and layout, and small ones that fuzzing changes to more effect; by name."""
    import torch

    params = {name: (x / 4096).astype("float16") for name, x in of_network(1).items()}
    found: dict[str, bytes] = {}

    def kept(name: str) -> None:
        found[name] = (folder / name).read_bytes()

    for suffix in (".pth", ".safetensors", ".npz", ".msgpack", ".h5", ".pdparams"):
        fixed = {".h5": ("keras",), ".pdparams": ("paddle",)}.get(suffix, ("official", "split", "channels_last", "mlx"))
        for layout in fixed:
            sv.save_checkpoint(folder / f"{layout}{suffix}", params, TINY, layout=layout, force=True)
            kept(f"{layout}{suffix}")
    few = {"norm.weight": params["norm.weight"], "stages.0.0.attn.qkv.bias": params["norm.bias"]}
    np.savez_compressed(folder / "few.npz", allow_pickle=False, **few)
    np.savez(folder / "big_endian.npz", allow_pickle=False, **{name: x.astype(">f4") for name, x in few.items()})
    np.savez(folder / "void.npz", allow_pickle=False, **{name: x.view("V2") for name, x in few.items()})
    for name in ("few.npz", "big_endian.npz", "void.npz"):
        kept(name)
    for kind in (True, False):
        torch.save(sv.to_backend(few, "torch"), folder / f"few{kind:d}.pth", _use_new_zipfile_serialization=kind)
        kept(f"few{kind:d}.pth")
    torch.save(sv.to_backend(params, "torch"), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    kept("legacy.pth")
    for name in ("few1.pth", "official.pth"):
        with zipfile.ZipFile(folder / name) as archive_:
            contents = {inner: archive_.read(inner) for inner in archive_.namelist()}
        found[f"{name}.pkl"] = next(content for inner, content in contents.items() if inner.endswith("data.pkl"))
        found[f"deflated.{name}"] = zipped(contents, zipfile.ZIP_DEFLATED)
    for protocol in (2, 4, 5):
        tree = {"model": few, "tensor": sv.to_backend(few, "torch"), "n": {1, 2}}
        found[f"plain{protocol}.pkl"] = pickle.dumps(tree, protocol) + b"!"
    np.save(folder / "one.npy", params["norm.weight"])
    kept("one.npy")
    return found | _safetensors_of_all_dtypes(few) | _msgpacks(few) | _keras(params) | _onnx(params)


def _safetensors_of_all_dtypes(few: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    from scalablevit_ref.formats.lazy import numpy_dtype
    from scalablevit_ref.formats.safetensors import _DTYPES, _PACKED
    from tests.support.hostile import entry, header

    at, entries = 8, {name: entry("F16", x.shape, (4 * i, 4 * i + 4)) for i, (name, x) in enumerate(few.items())}
    for kind in (*_DTYPES, *_PACKED, "Q9"):
        size = 8 * numpy_dtype(_DTYPES[kind]).itemsize if kind in _DTYPES else _PACKED.get(kind, 8)
        entries[f"x.{kind}"] = entry(kind, (8,), (at, at + size))
        at += size
    return {"dtypes.safetensors": header(entries, bytes(at))}


def _msgpacks(few: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    from tests.support.flax_files import msgpack, nested, packed

    boxed = {name: {"value": x} for name, x in few.items()}
    others = {"a": msgpack.ExtType(2, msgpack.packb((1.0, 2.0))), "b": msgpack.ExtType(3, msgpack.packb(((), "float32", b"1234")))}
    pieces = {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": np.zeros(2, "f4")}}
    return {
        "boxed.msgpack": packed(
            {"params": nested(boxed), "step": 3, **others, "c": msgpack.ExtType(7, b"x"), "d": b"y", "e": None}
        ),
        "numbers.msgpack": packed({0: {1: {"kernel": np.zeros(2, "f4")}}, "pieces": pieces}),
    }


def _keras(params: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    import h5py

    state = sv.to_state_dict(params, TINY, layout="keras")
    layers: dict[str, list[np.ndarray]] = {}
    for name, x in state.items():
        layers.setdefault(name.rpartition(".")[0], []).append(x)

    def h5(layers: Mapping[str, list[np.ndarray]], **options: Any) -> bytes:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as root:
            for i, (name, arrays) in enumerate(layers.items()):
                variables = root.create_group(f"layers/layer_{i}/vars")
                variables.attrs["name"] = name
                for k, x in enumerate(arrays):
                    variables.create_dataset(str(k), data=x, **options if x.size > 1 else {})
        return buffer.getvalue()

    some = dict(list(layers.items())[:3])
    whole = h5(layers)
    return {
        "few.weights.h5": h5(some),
        "chunks.weights.h5": h5(some, compression="gzip", shuffle=True, fletcher32=True, chunks=True),
        "whole.weights.h5": whole,
        "stored.keras": zipped({"metadata.json": b"{}", "model.weights.h5": h5(some)}),
        "deflated.keras": zipped({"metadata.json": b"{}", "model.weights.h5": whole}, zipfile.ZIP_DEFLATED),
    }


def _onnx(params: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["x", "val_0"], ["y"], name="/stages.0/stages.0.0/attn/qkv/MatMul"),
        helper.make_node("Add", ["y", "stages.0.0.attn.qkv.bias"], ["z"]),
        helper.make_node("Identity", ["norm.weight"], ["norm.bias"]),
        helper.make_node("LayerNormalization", ["z", "norm.weight", "norm.bias"], ["u"]),
        helper.make_node("Gemm", ["u", "head.weight", "c"], ["v"], transB=1),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(2, "f4"))),
    ]
    tensors = {"val_0": np.ones((2, 6), "f4"), "stages.0.0.attn.qkv.bias": np.ones(6, "f4"), "head.weight": np.ones((2, 2), "f4")}
    tensors["norm.weight"] = np.ones(2, "f4")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "v")]

    def model(nodes: list[Any], arrays: Mapping[str, np.ndarray]) -> bytes:
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(x, n) for n, x in arrays.items()])
        made = helper.make_model(graph, producer_name="fuzz")
        helper.set_model_props(made, {"scalablevit_ref.config": json.dumps(asdict(TINY))})
        return made.SerializeToString()

    return {"few.onnx": model(nodes, tensors), "whole.onnx": model([], params)}

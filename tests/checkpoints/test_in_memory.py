"""State dicts in memory whose values have no numbers, other ones, or are arrays of other libraries: the value, or a refusal."""

from __future__ import annotations

import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from flax import linen, nnx
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.masked import masked_tensor
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.testing._internal.distributed.fake_pg import FakeStore

import scalablevit_ref as sv
from scalablevit_ref.adapters.torch import ScalableViT
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, save_checkpoint, to_state_dict
from scalablevit_ref.checkpoints.in_memory import dtype_of, is_array, shape_of, tensor_of
from tests.support.checkpoints import DIGITS

KEY = "head.weight"
W = sv.init_params(DIGITS)[KEY]
BF16 = np.asarray(jnp.asarray(W, jnp.bfloat16))


def tensor() -> torch.Tensor:
    return torch.from_numpy(W.copy())


def quietly(make: Callable[[], Any]) -> Any:
    """Of libraries that warn of what is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(W.shape)


def freed(bytes_left: int) -> torch.Tensor:
    x = tensor().clone()
    x.untyped_storage().resize_(bytes_left)
    return x


def deleted() -> jax.Array:
    x = jnp.asarray(W) + 0
    x.delete()
    return x


class Raises(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("not\nallowed")


class Given:
    """An array of a library that no one knows, which claims one thing and gives another."""

    def __init__(self, given: Any, dtype: Any = W.dtype, shape: Any = W.shape) -> None:
        self.given, self.dtype, self.shape = given, dtype, shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.given


class Closed:
    dtype = W.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        raise OSError("the store is closed")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return W


class Exported:
    """An array that is known by DLPack alone."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __dlpack__(self, **settings: Any) -> Any:
        return self.x.__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


class Viewed(Given):
    """Of a library that gives NumPy no bfloat16, but views its bits as whole numbers."""

    __module__ = "a_library"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("bfloat16 is not a valid buffer format")

    def view(self, dtype: Any) -> Given:
        assert dtype == "its uint16"
        return Given(self.given, dtype)


NO_NUMBERS: dict[str, tuple[Callable[[], Any], str]] = {
    "meta": (lambda: tensor().to("meta"), "a meta tensor, which has no numbers; load the weights"),
    "fake": (fake, "a fake tensor, which has no numbers; .*FakeTensorMode"),
    "uninitialised": (torch.nn.UninitializedParameter, "not initialised; run the model on one input first"),
    "uninitialised buffer": (torch.nn.UninitializedBuffer, "not initialised; run the model"),
    "COO": (lambda: tensor().to_sparse(), r"a sparse tensor; \.to_dense\(\)"),
    "CSR": (lambda: quietly(lambda: tensor().to_sparse_csr()), r"a sparse tensor; \.to_dense\(\)"),
    "oneDNN": (lambda: tensor().to_mkldnn(), r"a layout of its own; \.to_dense\(\)"),
    "quantised": (
        lambda: quietly(lambda: torch.quantize_per_tensor(tensor(), 0.1, 0, torch.qint8)),
        r"quantised tensor; \.dequantize\(\)",
    ),
    "float8": (lambda: tensor().to(torch.float8_e4m3fn), r"few bits, whose scale is kept apart.*found float8_e4m3fn"),
    "complex": (lambda: tensor().to(torch.complex64), r"complex, and weights are real; \.real .*found complex64"),
    "conjugate": (lambda: tensor().to(torch.complex64).conj(), "complex, and weights are real"),
    "int8": (lambda: tensor().to(torch.int8), "dequantise it if it is a quantised weight; expected float16.*found int8"),
    "int32": (lambda: W.astype("int32"), "not floating point; expected float16, .*found int32"),
    "bool": (lambda: W > 0, "not floating point.*found bool"),
    "nested": (lambda: quietly(lambda: torch.nested.nested_tensor([tensor()] * 2)), r"nested tensor.*\.unbind\(\)"),
    "jagged": (lambda: torch.nested.nested_tensor([tensor(), tensor()[:2]], layout=torch.jagged), "nested tensor"),
    "masked tensor": (lambda: quietly(lambda: masked_tensor(tensor(), tensor() > 0)), r"masked tensor; \.to_tensor"),
    "functional": (lambda: torch._to_functional_tensor(tensor()), r"inside of torch\.func or torch\.compile"),
    "zeros": (lambda: torch._efficientzerotensor(W.shape), r"no memory; \.clone\(\)"),
    "freed": (lambda: freed(0), "memory has been freed.*summon_full_params"),
    "half freed": (lambda: freed(W.nbytes - 1), "memory has been freed"),
    "a subclass that raises": (lambda: tensor().as_subclass(Raises), r"cannot be read \(not allowed\); found tests\..*Raises"),
    "masked": (lambda: np.ma.masked_array(W, W > 0), r"some of whose numbers are masked; \.filled"),
    "objects": (lambda: W.astype(object), "an array of Python objects; numpy.asarray.*found object"),
    "text": (lambda: W.astype(str), "not floating point.*found str"),
    "deleted": (deleted, "a deleted array, which was donated"),
    "random keys": (lambda: jax.random.split(jax.random.key(0)), r"not floating point.*found key<"),
    "shape alone": (
        lambda: jax.ShapeDtypeStruct(W.shape, jnp.float32),
        r"but no numbers\); found jax\.ShapeDtypeStruct",
    ),
    "a box of meta": (lambda: nnx.Param(tensor().to("meta")), "a meta tensor"),
    "another shape": (lambda: Given(W[:1]), r"do not have the shape that it claims; expected \(10, 64\), found \(1, 64\)"),
    "another dtype": (lambda: Given(W.astype("f8")), "do not have the dtype that it claims; expected float32, found float64"),
    "no array": (lambda: Given([1.0]), "cannot be read .*__array__"),
    "no shape": (Closed, r"cannot be read \(the store is closed\); found .*Closed"),
    "a script's options": (lambda: types.SimpleNamespace(shape=(1,), dtype="float32"), "cannot be read"),
    "a list": (W.tolist, r"not an array; numpy\.asarray\(x, dtype='float32'\) makes one of it; found list"),
    "a number": (lambda: 3.0, "not an array; found float"),
    "a text": (lambda: "weights.bin", "not an array; found str"),
    "a module": (lambda: torch.nn.Linear(2, 2), "not an array; found torch.nn.modules.linear.Linear"),
}

NUMBERS: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "requires grad": (lambda: torch.nn.Parameter(tensor()), W),
    "negative": (lambda: torch._neg_view(tensor()), -W),
    "imaginary part of a conjugate": (lambda: (tensor() * 1j).conj().imag, -W),
    "bfloat16": (lambda: tensor().bfloat16(), BF16),
    "subclass": (lambda: tensor().as_subclass(type("Named", (torch.Tensor,), {})), W),
    "strided": (lambda: tensor().T.contiguous().T, W),
    "big-endian": (lambda: W.astype(">f4"), W),
    "masked nowhere": (lambda: np.ma.masked_array(W, np.zeros(W.shape, bool)), W),
    "matrix": (lambda: quietly(lambda: np.matrix(W)), W),
    "JAX": (lambda: jnp.asarray(W), W),
    "JAX bfloat16": (lambda: jnp.asarray(W, jnp.bfloat16), BF16),
    "array API": (lambda: array_api_strict.asarray(W), W),
    "nnx variable": (lambda: nnx.Param(jnp.asarray(W)), W),
    "partitioned": (lambda: linen.Partitioned(jnp.asarray(W), names=("out", "in")), W),
    "__array__": (lambda: Given(W), W),
    "bits of bfloat16": (lambda: Given(BF16.view("uint16"), dtype="paddle.bfloat16"), BF16),
    "bits viewed": (lambda: Viewed(BF16.view("uint16"), dtype="a_library.bfloat16"), BF16),
    "DLPack": (lambda: Exported(tensor()), W),
}


def with_key(value: Any) -> dict[str, Any]:
    return sv.init_params(DIGITS) | {KEY: value}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_refused(name: str) -> None:
    make, message = NO_NUMBERS[name]
    value = make()
    assert isinstance(is_array(value), bool)
    with pytest.raises(CheckpointError, match=rf"^{KEY}: .*{message}"):
        tensor_of(KEY, value)
    with pytest.raises(CheckpointError, match=KEY):  # what is no array may be missing at its place
        from_state_dict(with_key(value))


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("a_library")
    library.uint16 = "its uint16"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_library", library)
    make, expected = NUMBERS[name]
    value = make()
    assert is_array(value)
    found = tensor_of(KEY, value)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    assert type(found) is np.ndarray


def test_every_door_names_the_parameter(tmp_path: Path) -> None:
    state = with_key(tensor().to("meta"))
    doors: tuple[Callable[[], object], ...] = (
        lambda: from_state_dict({"model": state}),
        lambda: to_state_dict(state, DIGITS),
        lambda: save_checkpoint(tmp_path / "x.npz", state, DIGITS),
        lambda: ScalableViT(DIGITS, params=state),
    )
    for door in doors:
        with pytest.raises(CheckpointError, match=rf"{KEY}: a meta tensor"):
            door()
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="params must be a mapping of names to arrays, got list"):
        to_state_dict([1], DIGITS)  # type: ignore[arg-type]


def test_a_whole_model_of_negative_views_and_parameters() -> None:
    params = sv.init_params(DIGITS)
    state = {name: torch.nn.Parameter(torch._neg_view(torch.from_numpy(x.copy()))) for name, x in params.items()}
    found = from_state_dict(state).params
    assert all(found[name].tobytes() == (-x).tobytes() for name, x in params.items())


def test_memory_is_shared() -> None:
    x, n = tensor(), W.copy()
    assert tensor_of(KEY, n) is n
    shared = tensor_of(KEY, x)
    x.zero_()
    assert not np.asarray(shared).any()


def test_tensors_inside_of_transformations() -> None:
    seen: list[str] = []

    def look(x: Any) -> Any:
        for read in (lambda: tensor_of(KEY, x), lambda: from_state_dict(with_key(x))):
            with pytest.raises(CheckpointError) as error:
                read()
            seen.append(str(error.value))
        return x.sum()

    torch.func.grad(look)(tensor())
    torch.func.vmap(look)(tensor()[None])
    assert all(words.startswith(f"{KEY}: a tensor inside of torch.func") for words in seen)
    jax.jit(look)(W)
    jax.grad(look)(jnp.asarray(W))
    assert all(words.startswith(f"{KEY}: a tracer, which has no numbers; call this outside of jax.jit") for words in seen[4:])
    assert len(seen) == 8
    with FakeTensorMode():
        look_at = with_key(tensor_of(KEY, W))
        with pytest.raises(CheckpointError, match=rf"^{KEY}: "):
            from_state_dict(look_at | {KEY: torch.empty(W.shape)})


@contextmanager
def processes(backend: str, count: int, **where: Any) -> Iterator[Any]:
    """A mesh of devices; there is one process, whatever the others are said to be."""
    distributed.init_process_group(backend, rank=0, world_size=count, **where)
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        distributed.destroy_process_group()


def test_tensors_over_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with processes("gloo", 1, init_method=f"file://{tmp_path / 'store'}") as mesh:
        for placement in (Shard(0), Replicate(), Partial()):
            whole = DTensor.from_local(tensor(), mesh, [placement], run_check=False)
            assert np.asarray(tensor_of(KEY, whole)).tobytes() == W.tobytes()
    with processes("fake", 2, store=FakeStore()) as mesh:
        whole = DTensor.from_local(torch.nn.Parameter(tensor()), mesh, [Replicate()], run_check=False)
        assert np.asarray(tensor_of(KEY, whole)).tobytes() == W.tobytes()
        for placement in (Shard(0), Partial()):
            part = DTensor.from_local(tensor(), mesh, [placement], run_check=False)
            with pytest.raises(
                CheckpointError, match=rf"^{KEY}: a DTensor of which this process holds a part; call \.full_tensor\(\)"
            ):
                from_state_dict(with_key(part))


def test_tensors_in_open_files(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": W}, tmp_path / "x.safetensors")
    for framework in ("numpy", "pt"):
        with safetensors.safe_open(tmp_path / "x.safetensors", framework) as file:
            assert np.asarray(tensor_of(KEY, file.get_slice("a"))).tobytes() == W.tobytes()
    memory = np.memmap(tmp_path / "x", np.float32, "w+", shape=W.shape)
    memory[:] = W
    assert np.asarray(tensor_of(KEY, memory)).tobytes() == W.tobytes()


def test_data_sets_of_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored, empty = file.create_dataset("a", data=W), file.create_dataset("e", data=h5py.Empty("f4"))
        assert np.asarray(tensor_of(KEY, stored)).tobytes() == W.tobytes()
        assert not is_array(file)
        with pytest.raises(CheckpointError, match=rf"^{KEY}: an array that cannot be read"):
            tensor_of(KEY, empty)
    with pytest.raises(CheckpointError, match=rf"^{KEY}: an array that cannot be read.*read it while its file is open"):
        from_state_dict(with_key(stored))


SHARDED = f"""
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import scalablevit_ref as sv
from scalablevit_ref.checkpoints import from_state_dict
params = sv.init_params(sv.variant("digits"))
over_four = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec(None, "x"))
x = jax.device_put(params["{KEY}"], over_four)
assert len(x.addressable_shards) == 4 and x.addressable_shards[0].data.shape == (10, 16)
found = from_state_dict(params | {{"{KEY}": x}}).params["{KEY}"]
assert found.tobytes() == params["{KEY}"].tobytes()
"""


def test_an_array_over_four_devices() -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: parametrizations.weight_norm(m), r"head\.parametrizations\..*: a parametrisation.*remove_parametrizations"),
        (lambda m: quietly(lambda: weight_norm(m)), r"head\.weight_g: a weight norm.*remove_weight_norm"),
        (lambda m: prune.random_unstructured(m, "weight", 0.5), r"head\.weight_orig: a pruned .*prune\.remove"),
    ],
    ids=["parametrised", "weight norm", "pruned"],
)
def test_weights_that_a_module_computes(change: Callable[[Any], Any], message: str) -> None:
    head = torch.nn.Linear(64, 10)
    change(head)
    state = {name: x for name, x in sv.init_params(DIGITS).items() if not name.startswith("head.")}
    with pytest.raises(CheckpointError, match=f"^{message}"):
        from_state_dict(state | {f"head.{name}": x for name, x in head.state_dict().items()})


def test_is_array_never_raises_nor_waits() -> None:
    loop = types.SimpleNamespace()
    loop.value = loop
    for other in (
        loop,
        np.ndarray,
        {},
        [],
        "x",
        b"x",
        3,
        None,
        {1},
        np.dtype("f4"),
        torch.float32,
        torch.nn.Linear(1, 1),
        object(),
    ):
        assert is_array(other) is False
    for array in (W, np.float32(1), tensor(), torch.nn.UninitializedParameter(), Closed(), deleted()):
        assert is_array(array) is True


def test_what_arrays_claim_is_asked_for_without_harm(tmp_path: Path) -> None:
    for name, (make, expected) in NUMBERS.items():
        assert shape_of(make()) == (expected.shape if name != "DLPack" else ())
    assert dtype_of(tensor().bfloat16()) == dtype_of(Given(BF16, "paddle.bfloat16")) == "bfloat16"
    boxed = linen.Partitioned(tensor().half(), names=("out", "in"))
    assert (shape_of(boxed), dtype_of(boxed), dtype_of(W.astype(">f4"))) == (W.shape, "float16", "float32")
    for lost in (torch.nn.UninitializedParameter(), Closed(), tensor().as_subclass(Raises), {}, None, "x"):
        assert shape_of(lost) == ()
    assert dtype_of(Exported(tensor())) == dtype_of(3) == ""
    safetensors.numpy.save_file({"a": W}, tmp_path / "x.safetensors")
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert shape_of(file.get_slice("a")) == W.shape

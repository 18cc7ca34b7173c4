"""The backend of `docs/examples`, forty lines by which a library from outside runs the specification; what `register` refuses."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import einops._backends
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scalablevit_ref.backends import backend, dispatch, register, standard

import scalablevit_ref as sv
from scalablevit_ref import digits, ops
from scalablevit_ref.testing import strategies
from scalablevit_ref.testing.arrays import assert_agrees, assert_traces_agree

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
FILE = EXAMPLES / "counted_backend.py"


@pytest.fixture(scope="module")
def counted() -> Iterator[ModuleType]:
    """The example's backend, registered; `counted_backend.Array` is the array type."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        if "counted" not in sys.modules:  # einops keeps an adapter, and its array type, by the module's name
            einops._backends._loaded_backends.pop("counted", None)
        import counted_backend
    patch.setitem(dispatch.registered, counted_backend.NAME, None)
    register(counted_backend.Array, counted_backend)
    yield counted_backend
    patch.undo()


@pytest.fixture(scope="module")
def network() -> tuple[np.ndarray, dict[str, np.ndarray], Any]:
    """Eight digits, the trained weights in float64, their configuration."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    images = digits.preprocess(digits.test_images()[0][:8], "float64")
    return images, sv.to_backend(checkpoint.params, "numpy", "float64"), checkpoint.config


def test_the_table_of_native_ops() -> None:
    """`docs/backends.md` says of each op and backend whether it is native; read from the sources, since CuPy may be absent."""
    page = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    heading, _, *rows = re.search(r"^\| op \|.*?\n\n", page, re.MULTILINE | re.DOTALL)[0].strip().splitlines()  # type: ignore[index]
    libraries = [cell.strip().replace("array API", "standard") for cell in heading.split("|")[2:-1]]
    said = {cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]] for cells in (row.split("|") for row in rows)}
    sources = {name: (ROOT / "backends" / f"{name}.py").read_text(encoding="utf-8") for name in libraries}
    found = {
        op: ["native" if re.search(rf"^(def {op}\(|{op} = )", sources[name], re.MULTILINE) else "definition" for name in libraries]
        for op in (name for name, value in vars(ops).items() if isinstance(value, ops.Op))
    }
    groups = ["native" if "def in_groups(" in sources[name] else "–" for name in libraries]
    assert said == found | {"a batch in groups": groups}


def test_forty_lines() -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 132


def test_the_digits(counted: ModuleType, network: Any) -> None:
    """Every intermediate is NumPy's, in float64, and of the library's own type."""
    images, params, config = network
    taps = sv.trace(sv.to_backend(images, "counted"), sv.to_backend(params, "counted"), config)
    assert {type(x) for x in taps.values()} == {counted.Array}
    assert_traces_agree(taps, sv.trace(images, params, config), tolerance=64)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_in_is_dtype_out(counted: ModuleType, network: Any, dtype: str) -> None:
    images, params, config = network
    taps = sv.trace(sv.to_backend(images[:1], "counted", dtype), sv.to_backend(params, "counted", dtype), config)
    assert {x.dtype.name for x in taps.values()} == {dtype}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_native_op_is_its_definition(counted: ModuleType, dtype: str) -> None:
    x = sv.to_backend(np.concatenate([np.linspace(-9, 9, 2001), [0.0, -40.0, 40.0]]), "counted", dtype)
    assert_agrees(ops.gelu(x), ops.gelu.definition(x))
    wide = np.asarray(sv.to_numpy(x), np.float64)
    assert_agrees(ops.gelu(x), 0.5 * wide * (1 + np.vectorize(math.erf)(wide * 0.5**0.5)), dtype=dtype)


def test_the_native_op_is_called(counted: ModuleType, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three passes stand for a hundred; without it the definition gives the same logits."""
    images, params, config = (sv.to_backend(x, "counted") if x is not network[2] else x for x in network)

    def run() -> tuple[np.ndarray, int]:
        before = counted.Array.passes
        return sv.to_numpy(sv.scalable_vit(images, params, config)), counted.Array.passes - before

    (native, few), _ = run(), monkeypatch.delattr(counted, "gelu")
    defined, many = run()
    assert_agrees(native, defined)
    assert many - few > 90 * sum(config.depths)
    monkeypatch.setattr(counted, "gelu", lambda x: x, raising=False)
    with pytest.raises(AssertionError, match="worst at"):
        assert_agrees(run()[0], defined)


@settings(max_examples=10)
@given(case=strategies.block_cases())
def test_blocks_that_are_drawn(counted: ModuleType, case: strategies.Case) -> None:
    """The public strategies hold whatever library to NumPy: `docs/backends.md` names this as the second test."""
    y = sv.block(sv.to_backend(case.x, "counted"), sv.to_backend(case.params, "counted"), **case.settings)
    assert_agrees(y, sv.block(case.x, case.params, **case.settings))


@pytest.mark.usefixtures("as_in_production")
def test_mixtures_are_refused(counted: ModuleType, network: Any) -> None:
    images, params, config = network
    for library, other in (("counted", "numpy"), ("numpy", "counted")):
        with pytest.raises(TypeError, match=rf"images is a {library} array but parameter '.*' is a {other} array"):
            sv.scalable_vit(sv.to_backend(images, library), sv.to_backend(params, other), config)


def test_a_backend_must_be_whole(counted: ModuleType) -> None:
    names = {name: getattr(counted, name) for name in dispatch.NEEDED}
    assert set(names) == {*dispatch.Backend.__annotations__, *(name for name in vars(dispatch.Backend) if name[0] != "_")}
    for name in names:
        partial = SimpleNamespace(**{other: value for other, value in names.items() if other != name}, __name__="mine")
        with pytest.raises(TypeError, match=rf"^a backend must have {name}; mine has not$"):
            register(counted.Array, partial)
    assert dispatch.registered["counted"] == (counted.Array, counted)


def test_a_backend_with_a_pad_of_its_own_needs_no_zeros(counted: ModuleType, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the first release: `pad` takes the four widths, all of them, by position or by name."""
    images, params, config = network

    def pad(x: Any, top: int, bottom: int, left: int, right: int) -> Any:
        calls.append((top, bottom, left, right))
        return counted.Array(np.pad(x.held, ((0, 0), (top, bottom), (left, right), (0, 0))))

    calls: list[tuple[int, ...]] = []
    module = SimpleNamespace(**{name: value for name, value in vars(counted).items() if name != "zeros"} | {"pad": pad})
    monkeypatch.setitem(dispatch.registered, counted.NAME, None)  # put back at the end
    register(counted.Array, module)
    logits = sv.scalable_vit(sv.to_backend(images, "counted"), sv.to_backend(params, "counted"), config)
    assert_agrees(logits, sv.scalable_vit(images, params, config))
    assert {(0, 0, 0, 0), (1, 1, 1, 1), (3, 3, 3, 3)} <= set(calls)


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "cupy"])
def test_names_that_are_taken(counted: ModuleType, name: str) -> None:
    with pytest.raises(ValueError, match=rf"module\.NAME must be none of numpy, .*, got '{name}'$"):
        register(counted.Array, SimpleNamespace(**{**vars(counted), "NAME": name}))
    assert name not in dispatch.registered


def test_the_four_libraries_keep_their_arrays(counted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of subclasses too, whatever is registered for them; an array-API library's go to what is registered for it."""
    import array_api_strict

    class Mine(np.ndarray):
        """A subclass."""

    strict = array_api_strict.ones(3)
    monkeypatch.delitem(dispatch.registered, "array_api_strict")
    assert backend(strict) is standard
    for i, array_type in enumerate((Mine, torch.Tensor, type(strict))):
        module = SimpleNamespace(**{**vars(counted), "NAME": f"mine {i}"})
        monkeypatch.setitem(dispatch.registered, module.NAME, (array_type, module))
    assert [backend(x).NAME for x in (np.ones(3).view(Mine), torch.ones(3), strict)] == ["numpy", "torch", "mine 2"]


@pytest.mark.usefixtures("as_in_production", "everything_loaded")
def test_traced_code_does_not_meet_it(counted: ModuleType) -> None:
    """With a backend registered and known to einops, torch still compiles one graph, and JAX one program."""
    import jax

    softmax, x = ops.softmax.definition, np.linspace(-1, 1, 12).reshape(3, 4)  # asks for the backend, and einops for its own
    expected = softmax(sv.to_backend(x, "counted"))
    assert_agrees(torch.compile(softmax, fullgraph=True, backend="eager")(sv.to_backend(x, "torch")), expected)
    with jax.enable_x64(True):
        assert_agrees(jax.jit(softmax)(sv.to_backend(x, "jax")), expected)


def test_an_array_api_library_needs_no_backend() -> None:
    """Whatever its name: the definitions run on a library that neither einops nor this package has heard of."""
    code = """
        import array_api_strict, numpy as np
        from scalablevit_ref import ops
        x = array_api_strict.asarray(np.linspace(-1, 1, 24).reshape(1, 2, 3, 4))
        softmax, pad = ops.softmax(x), ops.pad(x, top=1, right=2)
        assert pad.shape == (1, 3, 5, 4)
        print(float(np.abs(np.from_dlpack(softmax) - ops.softmax(np.from_dlpack(x))).max()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-15


def test_of_several_types_that_fit_the_last_one_registered_counts(counted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(counted.Array):  # type: ignore[name-defined]
        pass

    special = SimpleNamespace(**vars(counted) | {"NAME": "special"})
    monkeypatch.setitem(dispatch.registered, "special", None)  # taken away again
    monkeypatch.delitem(dispatch.registered, "array_api_strict")
    register(Special, special)
    assert backend(Special(np.zeros(1))) is special
    assert backend(counted.Array(np.zeros(1))) is counted
    with pytest.raises(TypeError, match="tinygrad, counted, special or an array-API library, got list"):
        backend([])


def test_a_type_must_be_one(counted: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"array_type must be a type, got 'tf\.Tensor'"):
        register("tf.Tensor", counted)  # type: ignore[arg-type]

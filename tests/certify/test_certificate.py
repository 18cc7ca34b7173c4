"""What is proved of a small network: by libraries, by files, of planted errors; and what happens where bits are too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.certify.bounds import Bounds
from scalablevit_ref.certify.certificate import Certificate, Row, certify, steps
from scalablevit_ref.certify.chart import certificate_picture
from scalablevit_ref.certify.subjects import Subject, given, library, runtime
from scalablevit_ref.certify.truth import PrecisionError, truth
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import EPS, random_images, random_params
from scalablevit_ref.testing.agreement import Candidate, agreement
from scalablevit_ref.testing.traces import reference_trace, save_trace
from tests.support.small_network import small_network

pytestmark = pytest.mark.usefixtures("as_in_production")

CONFIG = small_network(head="linear", patch_size=2)
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((1, 3, 8, 8), dtype="float32")
NETWORK = network_of(CONFIG)
ORACLE = library(Candidate("numpy", "float64"))
TAPS = tuple(sv.trace(IMAGES, PARAMS, CONFIG))


def proved(*subjects: Subject, images: np.ndarray = IMAGES, **options: Any) -> Certificate:
    return certify(images, PARAMS, CONFIG, subjects, bits=options.pop("bits", 212), **options)


def rounded(dtype: str, planted: dict[str, float]) -> Subject:
    """The truth rounded to this dtype, with so many eps of the array's largest number added to it at some taps."""

    def run(network: Any, images: np.ndarray, params: Any, near: Any) -> dict[str, np.ndarray]:
        found = {tap: x.astype(dtype) for tap, x in near.items()}
        for tap, count in planted.items():
            place = np.unravel_index(np.argmax(np.abs(found[tap])), found[tap].shape)
            found[tap][place] *= 1 + count * EPS[dtype]
        return found

    return Subject("rounded", dtype, run)


def test_two_ulps_in_one_layer_are_seen_as_such() -> None:
    """What is only rounded is half an eps off at most; an error that is planted is found where it is, with its size."""
    (row,) = proved(rounded("float64", {"stages.0.1.mlp": 2.0})).rows
    for tap, error in row.errors.items():
        largest = error.maximum * (1 / EPS["float64"])
        assert largest.high - largest.low < 1e-3
        if tap == "stages.0.1.mlp":
            assert 1.5 < largest.low < largest.high < 2.5
        else:
            assert largest.high <= 0.5
            assert row.eps(tap).high <= 0.5


def test_libraries_beside_the_float64_oracle() -> None:
    """The error against the truth is that against the oracle, but for the oracle's own."""
    candidates = [Candidate("numpy", "float64"), Candidate("numpy", "float32"), Candidate("torch", "float32")]
    found = proved(*map(library, candidates))
    beside = agreement(IMAGES, PARAMS, CONFIG, candidates)
    oracle = found.rows[0]
    for row, result in zip(found.rows[1:], beside[1:], strict=True):
        assert tuple(row.errors) == TAPS
        for tap, error in result.errors.items():
            slack = oracle.errors[tap].l2.high / EPS["float32"] * 1.001
            assert row.eps(tap).low - slack <= error <= row.eps(tap).high + slack
            assert 0 <= row.eps(tap).high - row.eps(tap).low < 1e-3
    assert 0 < oracle.eps(oracle.worst).high < 32
    assert [pair.proved for pair in found.order("logits")] == [True, True]
    assert next(iter(found.order("logits"))).nearer == "numpy float64"


def test_several_images_count_together() -> None:
    images = random_images((2, 3, 8, 8), dtype="float32")
    candidate = Candidate("torch", "float32")
    calls: list[tuple[str, int]] = []
    (row,) = proved(library(candidate), images=images, progress=lambda words, done: calls.append((words, done))).rows
    alone = [proved(library(candidate), images=images[i : i + 1]).rows[0] for i in range(2)]
    for tap in TAPS:
        ends = [getattr(one.errors[tap].l2, end) for one in alone for end in ("low", "high")]
        assert min(ends) <= row.errors[tap].l2.high
        assert row.errors[tap].l2.low <= max(ends)
    assert [done for _, done in calls] == sorted(done for _, done in calls)
    assert calls[-1] == ("torch float32", steps(NETWORK, [library(candidate)], images.shape) - 1)


def test_files_and_runtimes(tmp_path: Path) -> None:
    """A trace of NumPy in float32 is NumPy in float32; a file in float16 has its own eps."""
    trace = reference_trace(IMAGES, PARAMS, CONFIG)
    save_trace(tmp_path / "own.npz", {name: x for name, x in trace.items() if "mlp" in name or name == "images"}, CONFIG)
    found = proved(library(Candidate("numpy", "float32")), given(tmp_path / "own.npz", "own.npz"), runtime("onnx", "float32"))
    own, file, onnx = found.rows
    assert set(file.errors) == {tap for tap in TAPS if "mlp" in tap}
    assert all(file.errors[tap] == own.errors[tap] for tap in file.errors)
    assert file.dtype == "float32"
    assert tuple(onnx.errors) == TAPS
    assert onnx.eps(onnx.worst).high < 32
    assert "own.npz" not in {pair.nearer for pair in found.order("logits")}


def test_one_that_fails_is_a_row() -> None:
    def fails(*args: Any) -> Any:
        raise RuntimeError("no such kernel")

    absent = Subject("absent", "float32", fails, "no CUDA device")
    broken, other = Subject("broken", "float32", fails), rounded("float32", {})
    found = proved(absent, broken, other)
    assert [row.failed for row in found.rows] == [None, "RuntimeError: no such kernel", None]
    assert [bool(row.errors) for row in found.rows] == [False, False, True]
    document = found.to_json()
    assert document["results"][0]["absent"] == "no CUDA device"
    assert list(document["results"][2]["taps"]) == list(TAPS)


def test_not_a_number_is_no_error_of_some_size() -> None:
    broken = Subject("nan", "float32", lambda n, i, p, near: {tap: x.astype("float32") * np.nan for tap, x in near.items()})
    found = proved(broken, rounded("float32", {}))
    assert np.isnan(found.rows[0].eps("logits").high)
    assert not list(found.order("logits"))
    assert "rounded" in certificate_picture(found, "a network").alt


def test_too_few_bits_are_doubled_and_it_is_said() -> None:
    """And no bound comes of them; where the most are not enough, the layer is named."""
    found = truth(NETWORK, IMAGES, PARAMS, bits=53, width=2.0**-63)
    assert [tried.bits for tried in found.tries] == sorted({tried.bits for tried in found.tries})
    assert found.tries[0].bits == 53
    assert found.bits > 53
    assert found.tries[0].tap == "patch_embeds.0"
    assert max(found.widths.values()) <= 2.0**-63
    with pytest.raises(PrecisionError, match=r"with 60 bits, balls at patch_embeds.0 are too wide: .* of the numbers"):
        truth(NETWORK, IMAGES, PARAMS, bits=60, width=2.0**-63, most_bits=119)


def test_a_zero_that_is_divided_by_is_said_with_its_layer() -> None:
    """Channels that are all alike have no deviation; without an epsilon a LayerNorm divides by it, whatever the bits."""
    config = small_network(head="linear", patch_size=2, norm_eps=1e-300, embed_dims=(8, 12))
    flat = random_params(sv.parameter_shapes(config), dtype="float32")
    for name in ("patch_embeds.1.proj.weight", "patch_embeds.1.proj.bias"):
        flat[name][:] = flat[name][:1]
    with pytest.raises(PrecisionError, match=r"with 300 bits, balls contain zero where they are divided by in patch_embeds.1"):
        truth(network_of(config), IMAGES, flat, bits=300, width=2.0**-63, most_bits=300)


def test_what_is_not_finite_is_refused() -> None:
    for images, params, said in (
        (IMAGES * np.nan, PARAMS, "images hold NaN or infinity"),
        (IMAGES, PARAMS | {"norm.bias": PARAMS["norm.bias"] * np.inf}, "parameter 'norm.bias' holds NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=said):
            certify(images, params, CONFIG, [])


def test_bounds_in_words() -> None:
    from scalablevit_ref.cli.proved import decimals

    assert decimals(Bounds(0.99999999, 1.0000001)) == "0.999 – 1.001"
    assert decimals(Bounds(12345.61, 12345.69)) == "12345 – 12346"
    assert decimals(Bounds(1.234567e60, 1.234568e60)) == "1.2345e+60 – 1.2346e+60"
    assert decimals(Bounds(0.5, 99999999)) == "0 – 1.0000e+8"
    assert decimals(Bounds(np.nan, np.nan)) == "NaN"
    assert decimals(Bounds(12.0, np.inf)) == "over 12.0"


@pytest.mark.parametrize(
    "config",
    [
        vit_pytorch.Config(num_classes=3, dim=8, depth=(1, 1), heads=2, reduction_factor=(2, 1)),
        flax_port.Config(num_classes=3, dim=8, depth=(1, 1), heads=2, reduction_factor=(2, 1)),
    ],
    ids=["erf", "tanh"],
)
def test_a_dialect(config: Any) -> None:
    """The ports too, of which one has the GELU by tanh; float64 is some eps from the truth."""
    params = random_params(network_of(config).parameter_shapes(), dtype="float32")
    (row,) = certify(random_images((1, 3, 16, 16), dtype="float32"), params, config, [ORACLE], bits=160).rows
    assert 0 < row.eps(row.worst).low < row.eps(row.worst).high < 32


def test_the_worst_tap() -> None:
    (row,) = proved(rounded("float32", {"norm": 50.0})).rows
    assert isinstance(row, Row)
    assert row.worst == "norm"

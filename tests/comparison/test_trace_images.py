"""Images from .npy files and traces: read right in every form that NumPy writes, and held against the file before any are read."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.testing import traces
from scalablevit_ref.testing.traces import save_trace, trace_images

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 4, 5))


def npy(x: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, x, version=version)
    return file.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", ">f4", ">f2", ">i4", "u1", "?"])
def test_every_form_is_read_as_numpy_reads_it(version: tuple[int, int], order: Any, dtype: str, tmp_path: Path) -> None:
    images = np.array(IMAGES * 10, dtype=dtype, order=order)
    (tmp_path / "x.npy").write_bytes(npy(images, version))
    found = trace_images(tmp_path / "x.npy")
    assert np.array_equal(found, images)
    assert found.dtype == images.dtype.newbyteorder("=")
    assert found.flags.c_contiguous
    assert found.flags.writeable


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode()


def stating(shape: str, descr: str = "'<f8'", order: str = "False") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"", "damaged npy header"),
        (npy(IMAGES)[:-1], "the array is larger than the file; expected at most 959 bytes"),
        (npy(IMAGES)[:40], "damaged npy header"),
        (stating("(1, 3, 1000000, 1000000)"), "the array is larger than the file|of this machine"),
        (stating(f"(1, 3, 4, {10**400})"), "damaged npy header|the array is larger|of this machine"),
        (stating(f"(1, {2**62}, {2**62}, 4)"), "the array is larger than the file|of this machine"),
        (stating("(0, 3, 4, 5)"), "no axis empty"),
        (stating(f"(0, {2**62}, {2**62}, 5)"), "no axis empty"),
        (stating("(1, 3, -4, 5)"), "no axis empty"),
        (stating("(1, 3, True, 5)"), "no images|damaged npy header"),
        (stating("(3, 4, 5)"), r"images: no images; expected numbers, b c h w, no axis empty, found \(3, 4, 5\)"),
        (stating("()"), "no axis empty"),
        (stating("'(1, 3, 4, 5)'"), "damaged npy header"),
        (stating("(1, 3, 4, 5)", "'|O'"), "no images"),
        (npy(np.array([[[["a"]]]])), "no images"),
        (npy(np.zeros((1, 1, 1, 1), [("a", "f8"), ("b", "f4")])), "no images"),
        (npy(np.zeros((1, 1, 1, 1), [("ä→", "f8")]), (3, 0)), "no images|damaged npy header"),
        (npy(np.zeros((1, 1, 1, 1), complex)), "no images"),
        (npy(np.zeros((1, 1, 1, 1), "M8[s]")), "no images"),
        (npy(np.zeros((1, 1, 1, 1), "V0")), "no images"),
        (stating("(1, 3, 4, 5)", "__import__('os').system('true')"), "damaged npy header"),
        (stating("(" * 5000 + ")" * 5000), "damaged npy header"),
        (header("{" + " " * 20_000, b"\x02\x00"), "damaged npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "damaged npy header"),
        (b"\x93NUMPY\x09\x00" + npy(IMAGES)[8:], "damaged npy header"),
        (np.arange(1000, dtype="u1").tobytes(), "damaged npy header"),
    ],
)
def test_what_holds_no_images_is_refused_before_memory_is_taken(held: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(held)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=words) as caught:
        trace_images(tmp_path / "x.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{tmp_path / 'x.npy'}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert peak < 20e6


def test_a_sparse_file_of_more_than_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = stating("(50, 3, 6000, 6000)")
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 50 * 3 * 6000**2 * 8)
    monkeypatch.setattr(traces, "machine_memory", lambda: 32 * 10**9)
    with pytest.raises(CheckpointError, match=r"images of 43200000000 bytes; expected at most the 32000000000 of this machine"):
        trace_images(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_images_of_a_trace(suffix: str, tmp_path: Path) -> None:
    save_trace(tmp_path / f"t{suffix}", {"images": IMAGES})
    assert np.array_equal(trace_images(tmp_path / f"t{suffix}"), IMAGES)
    save_trace(tmp_path / f"u{suffix}", {"images": IMAGES[0]})
    with pytest.raises(CheckpointError, match="images: no images; expected numbers, b c h w"):
        trace_images(tmp_path / f"u{suffix}")

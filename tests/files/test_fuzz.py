"""Drawn configurations, traces, names files, images and mappings. `tests/programs/fuzz.py` is the same for longer, by coverage."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("msgpack")
pytest.importorskip("onnx")

from tests.support.fuzzed_configurations import read_configuration
from tests.support.fuzzed_images import image_seeds, read_image
from tests.support.fuzzed_mappings import read_mapping
from tests.support.fuzzed_traces import npy_seeds, read_names_file, read_npy, read_trace

bytes_ = st.binary(min_size=1, max_size=60)


def folder_of(factory: Any, name: str) -> Path:
    folder: Path = factory.getbasetemp() / name
    folder.mkdir(exist_ok=True)
    return folder


@given(data=bytes_)
def test_drawn_configurations(tmp_path_factory: Any, data: bytes) -> None:
    read_configuration(folder_of(tmp_path_factory, "configurations"), data)


@given(data=bytes_)
def test_drawn_traces(tmp_path_factory: Any, data: bytes) -> None:
    read_trace(folder_of(tmp_path_factory, "traces"), data)


@given(data=bytes_)
def test_drawn_names_files(tmp_path_factory: Any, data: bytes) -> None:
    read_names_file(folder_of(tmp_path_factory, "names"), data)


@given(data=bytes_)
def test_drawn_mappings(tmp_path_factory: Any, data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of tensors that are quantised
        read_mapping(folder_of(tmp_path_factory, "mappings"), data)


@cache
def seeds() -> dict[str, bytes]:
    return image_seeds() | npy_seeds()


@given(name=st.sampled_from(sorted(seeds())), at=st.floats(0, 0.999), put=st.binary(max_size=6), cut=st.integers(0, 6))
def test_damaged_images(tmp_path_factory: Any, name: str, at: float, put: bytes, cut: int) -> None:
    content = bytearray(seeds()[name])
    start = int(at * len(content))
    content[start : start + cut] = put
    path = folder_of(tmp_path_factory, "images") / ("x.npy" if name.endswith(".npy") else "x")
    (read_npy if path.suffix == ".npy" else read_image)(path, bytes(content))

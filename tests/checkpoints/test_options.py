"""Options of a conversion, progress in bytes, and errors that name options: as Python spells them, and as the command line does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalablevit_ref import CheckpointError, init_params, load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.convert import ConvertOptions, convert_file
from scalablevit_ref.checkpoints.inspect import differences, inspect_file, manifest
from scalablevit_ref.checkpoints.load import NOTHING, open_checkpoint
from scalablevit_ref.checkpoints.search import kinds
from scalablevit_ref.errors import AlreadyExistsError, OptionError, option
from scalablevit_ref.formats.lazy import byte_count
from tests.support.checkpoints import DIGITS, SUFFIXES, listing


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "x.npz", init_params(DIGITS), DIGITS)
    return tmp_path / "x.npz"


def test_options_by_name_are_those_of_the_record(source: Path) -> None:
    options = ConvertOptions(layout="split", dtype="float16", strip_head=True)
    for name, given, keywords in (
        ("a.npz", options, {}),
        ("b.npz", None, {"layout": "split", "dtype": "float16", "strip_head": True}),
        ("c.npz", replace(options, dtype="float64"), {"dtype": "float16"}),
    ):
        done = convert_file(source, source.with_name(name), given, **keywords)
        assert (done.layout, done.dtype, done.dropped) == ("split", "float16", ["head.weight", "head.bias"])
    assert len({source.with_name(name).read_bytes() for name in ("a.npz", "b.npz", "c.npz")}) == 1


def test_an_unknown_option_is_refused_by_name(source: Path) -> None:
    names = ", ".join(field.name for field in fields(ConvertOptions))
    with pytest.raises(TypeError, match=rf"^unknown option 'layuot' \(did you mean 'layout'\?\); there are {names}$"):
        convert_file(source, source.with_name("y.npz"), layuot="split")
    assert listing(source.parent) == ["x.npz"]


class Watch:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def saw(self, total: int) -> bool:
        """Whether it was told more and more, up to all of it."""
        done = [step for step, _ in self.steps]
        return {total} == {step for _, step in self.steps} and done == sorted(done) and done[-1] == total and len(done) > 100


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_progress_is_told_bytes_done_of_all(source: Path, suffix: str) -> None:
    params = init_params(DIGITS)
    total = byte_count(params.values())
    runs: list[tuple[int, Callable[[Watch], Any]]] = [
        (total, lambda watch: save_checkpoint(source.with_name(f"a{suffix}"), params, DIGITS, progress=watch)),
        (total // 2, lambda watch: convert_file(source, source.with_name(f"b{suffix}"), progress=watch, dtype="float16")),
        (total, lambda watch: inspect_file(source, sha256=True, progress=watch)),
        (total, lambda watch: manifest(params, watch)),
        (total, lambda watch: differences(params, params, watch)),
    ]
    for expected, run in runs:
        watch = Watch()
        run(watch)
        assert watch.saw(expected)


def test_a_progress_of_one_argument_is_told_the_bytes_of_each_tensor(tmp_path: Path) -> None:
    params, sizes = init_params(DIGITS), list[int]()
    save_checkpoint(tmp_path / "x.npz", params, DIGITS, progress=lambda size: sizes.append(size))
    assert sizes == [x.nbytes for x in params.values()]


def test_an_option_in_an_error_has_two_spellings(source: Path) -> None:
    there = source.with_name("there.npz")
    there.touch()
    with pytest.raises(FileExistsError) as caught:
        convert_file(source, there)
    assert isinstance(caught.value, AlreadyExistsError)
    for exists in (caught.value, copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert str(exists) == f"{there} exists; force=True overwrites it"
        assert exists.in_flags() == f"{there} exists; --force overwrites it"
    params = init_params(DIGITS)
    params["norm.bias"][0] = np.nan
    with pytest.raises(CheckpointError) as nan:
        save_checkpoint(source.with_name("force=True.npz"), params, DIGITS)
    problem = "force=True.npz: NaN or infinite weights (1 parameters): norm.bias; "
    for error in (nan.value, copy.copy(nan.value), pickle.loads(pickle.dumps(nan.value))):
        assert str(error).endswith(f"{problem}allow_nonfinite=True lets them pass")
        assert error.in_flags().endswith(f"{problem}--allow-nonfinite lets them pass")


def test_words_in_an_error_are_no_options() -> None:
    """What a file says is repeated as it is, whatever it looks like."""
    error = CheckpointError("see ", option("use_ema", False), " and force=True", key="variant= or config=", found="one_way=True")
    assert error.problem == "see use_ema=False and force=True"
    assert error.in_flags() == "variant= or config=: see --no-use-ema and force=True; found one_way=True"
    assert OptionError("heads= ", option("window_size")).in_flags() == "heads= --window-size"


def test_a_port_s_options_are_spelled_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"layers.0.0.layers.0.0.to_q.weight": np.zeros((1, 1, 1, 1))})
    with pytest.raises(CheckpointError) as caught, open_checkpoint(tmp_path / "x.npz", replace(NOTHING, window_size=3)):
        pass
    assert str(caught.value) == f"{tmp_path / 'x.npz'}: give heads= with window_size="
    assert caught.value.in_flags() == f"{tmp_path / 'x.npz'}: give --heads with --window-size"


def test_no_layout_is_of_two_networks(source: Path) -> None:
    layouts = [layout for kind in kinds() for layout in kind.layouts]
    assert len(layouts) == len(set(layouts)) > 4
    assert [kind.other_network is None for kind in kinds()] == [True, False]
    assert load_checkpoint(source).metadata["layout"] in layouts

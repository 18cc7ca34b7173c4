"""The strategies' own quality: what they draw reaches everything they promise, and failures shrink to something small."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis.strategies import SearchStrategy

import scalablevit_ref as sv
from scalablevit_ref.edits import changed
from scalablevit_ref.image_sizes import map_sizes
from scalablevit_ref.testing import relative_l2, strategies
from scalablevit_ref.testing.strategies import Case
from tests.support.mistakes import MISTAKES

STRATEGIES: dict[str, SearchStrategy[Case]] = {
    "iwsa": strategies.iwsa_cases(pad=None),
    "ssa": strategies.ssa_cases(),
    "block": strategies.block_cases(),
    "network": strategies.network_cases(),
}
MAPS = ["iwsa", "ssa", "block"]
BOTH = {False, True}
DEGENERATE = 1e-4
"""A token of less variance is far more eps than numbers: at 1e-6 its normed variance is 1 % off."""


def sample(strategy: SearchStrategy[Case], count: int = 60) -> list[Case]:
    """The same cases every time."""
    cases = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(case=strategy)
    def draw(case: Case) -> None:
        cases.append(case)

    draw()
    return cases


@cache
def drawn(name: str) -> list[Case]:
    return sample(STRATEGIES[name], 300)


def values(name: str, of: Callable[[Case], Any]) -> set[Any]:
    return {of(case) for case in drawn(name)}


def windows(case: Case) -> tuple[int, ...]:
    """Windows, or whole tiles, down and across."""
    p = case.settings.get("window_size")
    return tuple(-(-size // p) if p else size // case.settings["sr_ratio"] for size in case.shape[1:3])


def has_bias(case: Case) -> bool:
    return any(name.endswith(("q.bias", "qkv.bias")) for name in case.shapes)


def run(case: Case) -> np.ndarray:
    """The call that the case is of."""
    if case.config is not None:
        return sv.to_numpy(sv.scalable_vit(case.x, case.params, case.config))
    op = sv.block if "kind" in case.settings else sv.iwsa if "window_size" in case.settings else sv.ssa
    return sv.to_numpy(op(case.x, case.params, **case.settings))


def test_every_value_of_every_setting_of_iwsa() -> None:
    assert values("iwsa", lambda case: case.settings["window_size"]) == set(strategies.WINDOW_SIZES)
    assert values("iwsa", lambda case: case.settings.get("pad", False)) == BOTH
    assert {case.settings.get("pad", False) for case in sample(strategies.iwsa_cases())} == {False}
    assert {case.settings.get("pad", False) for case in sample(strategies.iwsa_cases(pad=True))} == {True}
    left = values("iwsa", lambda case: tuple(size % case.settings["window_size"] > 0 for size in case.shape[1:3]))
    assert left == {(False, False), (False, True), (True, True)}


def test_every_value_of_every_setting_of_ssa() -> None:
    assert values("ssa", lambda case: case.settings["sr_ratio"]) == set(strategies.SR_RATIOS)
    assert values("ssa", lambda case: case.settings["c_ratio"]) == set(strategies.C_RATIOS)
    branches = values("ssa", lambda case: (case.settings["sr_ratio"] > 1, case.settings["values"], case.settings["scale"]))
    assert len(branches) == 2**3
    left = values("ssa", lambda case: tuple(size % case.settings["sr_ratio"] > 0 for size in case.shape[1:3]))
    assert left == {(False, False), (False, True), (True, False), (True, True)}
    for case in sample(strategies.ssa_cases(whole_tiles=True)):
        assert case.shape[1] % case.settings["sr_ratio"] == case.shape[2] % case.settings["sr_ratio"] == 0


@pytest.mark.parametrize("name", MAPS)
def test_heads_widths_batches_biases_grids_and_contents(name: str) -> None:
    assert values(name, lambda case: (case.settings["num_heads"], case.shape[-1] // case.settings["num_heads"])) == {
        (heads, width) for heads in strategies.HEADS for width in strategies.HEAD_DIMS
    }
    assert values(name, lambda case: case.shape[0]) == {1, 2, 3}
    assert values(name, has_bias) == BOTH
    assert values(name, lambda case: case.content) == {"normal", "one_hot", "integers"}
    assert values(name, lambda case: case.shape[1] > case.shape[2]) == BOTH
    assert values(name, windows) >= {(2, 3), (3, 2)}  # an exchange of windows shows only where there are two each way


def test_every_branch_of_a_block() -> None:
    assert len(values("block", lambda case: (case.settings["kind"], case.settings["norm_eps"]))) == 2 * 2
    iwsas = [case for case in drawn("block") if case.settings["kind"] == "iwsa"]
    assert {(case.settings.get("pad", False), has_bias(case)) for case in iwsas} == {(pad, bias) for pad in BOTH for bias in BOTH}
    ssas = [case for case in drawn("block") if case.settings["kind"] == "ssa"]
    assert len({(case.settings["sr_ratio"], case.settings["values"]) for case in ssas}) == 3 * 2
    assert values("block", lambda case: case.shapes["mlp.fc1.bias"]) == {(6,), (16,)}


PER_STAGE = {
    "num_heads": strategies.HEADS,
    "embed_dims": {4 * heads * times for heads in strategies.HEADS for times in (1, 2)},
    "depths": (1, 2, 3),
    "mlp_ratios": (1, 2, 2.5),
    "sr_ratios": (1, 2),
    "c_ratios": strategies.C_RATIOS,
    "window_sizes": (2, 3, 4, 6),
}
OF_THE_NETWORK = {
    "num_stages": (1, 2, 4),
    "in_chans": (1, 2, 3),
    "patch_size": (1, 2, 4),
    "qkv_bias": BOTH,
    "norm_eps": (1e-6, 1e-2),
    "embed_norm_eps": (None, 1e-5),
    "ssa_scale": ("scaled", "head_dim"),
}


def test_every_value_of_every_setting_of_a_network() -> None:
    for setting, expected in PER_STAGE.items():
        assert {value for case in drawn("network") for value in getattr(case.config, setting)} == set(expected), setting
    for setting, expected in OF_THE_NETWORK.items():
        assert values("network", lambda case, setting=setting: getattr(case.config, setting)) == set(expected), setting


def test_every_branch_of_a_network() -> None:
    ends = values("network", lambda case: (case.config.head, case.config.num_classes > 0, case.config.stage_norms))
    assert len(ends) == 3 * 2 * 2
    deep = [case.config for case in drawn("network") if min(case.config.depths) > 1]
    assert {(s, config.ssa_values) for config in deep for s in config.sr_ratios} == {
        (s, version) for s in (1, 2) for version in ("unscaled", "scaled")
    }
    padded = [case for case in drawn("network") if case.config.pad_windows]
    left = {size % window > 0 for case in padded for window, size in zip(case.config.window_sizes, maps(case, 3), strict=True)}
    assert left == BOTH
    assert any(len(set(case.config.window_sizes)) > 1 for case in drawn("network"))
    assert {case.config.head for case in sample(strategies.network_cases(strategies.configs(heads=("linear",))))} == {"linear"}
    assert values("network", lambda case: case.shape[0]) == {1, 2}


def maps(case: Case, axis: int) -> list[int]:
    assert case.config is not None
    return map_sizes(case.config, case.shape[axis])


def test_no_map_is_square() -> None:
    for name in MAPS:
        assert all(case.shape[1] != case.shape[2] for case in drawn(name)), name
    for case in drawn("network"):
        assert all(h != w for h, w in zip(maps(case, 2), maps(case, 3), strict=True)), case


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_case_runs(name: str) -> None:
    """The settings, the shapes and the parameters fit together, and so they do after a round trip through `but`."""
    for case in drawn(name)[:: 2 if name in MAPS else 6]:
        y = run(case.but())
        assert np.isfinite(y).all(), case
        assert np.ptp(y) > 0 or case.config, case


@pytest.mark.parametrize("name", STRATEGIES)
def test_cases_follow_from_their_fields(name: str) -> None:
    for case in drawn(name)[:20]:
        again = Case(case.shape, case.settings, case.shapes, case.seed, case.content, case.config)
        assert again == case
        assert again.x is not case.x
        np.testing.assert_array_equal(again.x, case.x)
        for key, value in case.params.items():
            np.testing.assert_array_equal(again.params[key], value)
        other = case.but(seed=case.seed + 1)
        assert case.content == "one_hot" or not np.array_equal(other.x, case.x)
        assert all(not np.array_equal(other.params[key], value) for key, value in case.params.items())
        assert len(repr(case)) < 1000  # what a failure prints


def test_no_token_is_degenerate() -> None:
    """Of all tokens of normal maps, not one whose variance LayerNorm's epsilon would swamp."""
    variances = np.concatenate([case.x.var(axis=-1).ravel() for name in MAPS for case in drawn(name) if case.content == "normal"])
    assert variances.size > 20_000
    assert (variances < DEGENERATE).mean() == 0
    assert variances.mean() > 0.5


def test_contents() -> None:
    shape = (3, 5, 7, 8)
    for seed in range(20):
        one_hot, integers, normal = (strategies.contents(shape, seed, content) for content in ("one_hot", "integers", "normal"))
        assert (np.count_nonzero(one_hot), one_hot.sum()) == (1, 1)
        assert np.array_equal(integers, np.rint(integers))
        assert (integers.min(), integers.max()) == (-8, 8)
        assert normal.std() == pytest.approx(1, abs=0.15)
        assert {x.dtype.name for x in (one_hot, integers, normal)} == {"float64"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_most_cases_are_normal_and_few_are_drawn_twice(name: str) -> None:
    counts = Counter(case.content for case in drawn(name))
    assert counts["normal"] >= 0.4 * len(drawn(name))
    assert min(counts.values()) >= 0.05 * len(drawn(name))
    assert len({repr((case, case.shapes)) for case in drawn(name)}) >= 0.75 * len(drawn(name))


def test_failures_shrink() -> None:
    """Whole interleaved heads need two heads to show; nothing else about the case need be large."""
    wrong = {name: changed(getattr(sv, name), MISTAKES["interleaved heads, whole"].changes) for name in ("iwsa", "ssa")}

    def fails(case: Case) -> bool:
        op = "iwsa" if "window_size" in case.settings else "ssa"
        return relative_l2(wrong[op](case.x, case.params, **case.settings), run(case)) > 1e-9

    case = smallest(strategies.iwsa_cases(pad=None), fails)
    assert case.settings == {"num_heads": 2, "window_size": 2}
    assert (case.shape, case.seed, case.content) == ((1, 2, 4, 8), 0, "one_hot")
    case = smallest(strategies.ssa_cases(), fails)
    assert (case.settings["num_heads"], case.settings["sr_ratio"], case.settings["c_ratio"]) == (2, 1, 0.25)
    assert (case.shape, case.seed, case.content) == ((1, 1, 2, 8), 0, "one_hot")


def smallest(strategy: SearchStrategy[Case], fails: Callable[[Case], bool]) -> Case:
    quick = settings(max_examples=300, database=None, deadline=None, derandomize=True)
    return find(strategy, fails, settings=quick, random=Random(0))


FIRST_DRAWS = """
import sys
from hypothesis import HealthCheck, given, settings
from hypothesis.internal.conjecture import providers
from hypothesis.strategies import tuples

providers.is_local_module_file = lambda path: "scalablevit_ref" in path  # as of a package that is installed editable
import scalablevit_ref.compare.run
from scalablevit_ref.testing import strategies

read, source_of = [], getattr(providers, "constants_from_module", None)
providers.constants_from_module = lambda module: read.append(module.__name__) or source_of(module)
before = set(sys.modules)
names = "iwsa_cases", "ssa_cases", "block_cases", "network_cases"

@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tuples(*(getattr(strategies, name)() for name in names)))
def drawn(cases):
    assert all(case.params and case.x.size for case in cases)

drawn()
new = {name for name in set(sys.modules) - before if name.partition(".")[0] != "hypothesis"}
print(sorted(new), read)
"""


def test_a_user_s_first_draws_load_nothing(tmp_path: Path) -> None:
    """A user's health checks count what a draw loads as slow drawing. What is loaded is looked at here, not how long it takes."""
    done = subprocess.run([sys.executable, "-c", FIRST_DRAWS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[] []\n", "")

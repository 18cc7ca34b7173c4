"""The catalogue of mistakes: each applies, changes what it says, and is told from the others; two at once are found together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from scalablevit_ref import edits
from scalablevit_ref.compare.mistakes import search
from scalablevit_ref.compare.mistakes.catalogue import CATALOGUE, mistakes_of
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.mistakes.search import diagnose, likely
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.dialects.mistakes import MISTAKES as PORT_MISTAKES
from scalablevit_ref.edits import Edit, Mistake, changed, reach
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import compare, random_images, random_params, relative_l2
from tests.programs.foreign import CONFIG, IMAGES, faulty
from tests.support.mistakes import MISTAKES

BACKBONE = replace(CONFIG, head="none", num_classes=0, stage_norms=True, pad_windows=True, embed_norm_eps=1e-5)
PORT = vit_pytorch.Config(
    num_classes=5,
    dim=16,
    depth=(2, 1),
    heads=2,
    reduction_factor=(2, 1),
    window_size=(7, None),
    ssa_dim_key=(8, 16),
    ssa_dim_value=(8, 16),
    iwsa_dim_key=(8, 16),
    iwsa_dim_value=(8, 16),
)
"""Its widths are the channels, so that q, k, v and x can take each other's place."""

NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "classifier": (CONFIG, IMAGES.shape),
    "v1": (replace(CONFIG, head="linear", ssa_values="scaled"), IMAGES.shape),
    "backbone": (BACKBONE, (1, 3, 50, 66)),
    "port": (PORT, (1, 3, 56, 56)),
}


@cache
def at_hand(name: str) -> Local:
    """The network as its own candidate, all layers tapped."""
    config, shape = NETWORKS[name]
    network = network_of(config)
    shapes = network.parameter_shapes()
    if name == "port":
        shapes = shapes | {f"layers.1.0.norm.{leaf}": (1, 32, 1, 1) for leaf in "gb"}
    params, images, taps = random_params(shapes), random_images(shape), {}
    Local(network, params, images, set(), taps.__getitem__).end_to_end(taps.__setitem__)
    return Local(network, params, images, set(taps), taps.__getitem__)


def differs(local: Local, layer: str, mistake: Mistake) -> bool:
    try:
        with np.errstate(all="ignore"):
            other = local.output(layer, mistake)
    except KeyError:
        return False
    expected = local.output(layer)
    return other.shape != expected.shape or not relative_l2(other, expected) < 1e-9


def in_each_function(mistake: Mistake) -> dict[Any, Mistake]:
    """The mistake in one function alone, for each that it changes; or in none, for one of the wiring."""
    functions = {change.function: tuple(x for x in mistake.changes if x.function is change.function) for change in mistake.changes}
    return {function: replace(mistake, changes=changes) for function, changes in functions.items()} or {None: mistake}


@pytest.mark.parametrize("mistake", [*CATALOGUE, *PORT_MISTAKES], ids=lambda mistake: mistake.name)
def test_every_edit_applies_to_the_source_as_it_is(mistake: Mistake) -> None:
    for change in mistake.changes:
        assert changed(change.function, (change,)) is not change.function


def test_every_mistake_changes_something_in_each_function_that_it_edits() -> None:
    """One that gives what the reference gives would never be told from it."""
    dead = {(mistake.name, function) for mistake in (*CATALOGUE, *PORT_MISTAKES) for function in in_each_function(mistake)}
    for name in NETWORKS:
        local = at_hand(name)
        for mistake in mistakes_of(local.network):
            for function, alone in in_each_function(mistake).items():
                layers = [x.name for x in local.table().values() if function is None or function in reach(x.function)]
                if (mistake.name, function) in dead and any(differs(local, layer, alone) for layer in layers):
                    dead.remove((mistake.name, function))
    assert not dead


def test_names_and_words_are_unique_and_the_ports_are_those_of_the_catalogue() -> None:
    assert len({mistake.name for mistake in CATALOGUE}) == len({mistake.words for mistake in CATALOGUE}) == len(CATALOGUE)
    assert all(mistake.words for mistake in CATALOGUE)
    shared = {mistake.name for mistake in PORT_MISTAKES if not mistake.words}
    assert shared <= set(MISTAKES)
    assert not {mistake.name for mistake in PORT_MISTAKES if mistake.words} & set(MISTAKES)


def test_a_network_has_the_mistakes_of_its_own_wiring_only() -> None:
    official, port = (mistakes_of(at_hand(name).network) for name in ("classifier", "port"))
    assert {m.name for m in official if m.wiring} == {m.name for m in CATALOGUE if m.wiring}
    assert {m.name for m in port if m.wiring} == {m.name for m in PORT_MISTAKES if m.wiring}
    assert {m.words for m in port if m.changes} < {m.words for m in official if m.changes}
    assert len(official) == len(CATALOGUE)


def test_only_what_concerns_a_layer_is_tried_on_it() -> None:
    local = at_hand("classifier")

    def tried(layer: str) -> set[str]:
        layers = local.inside(layer).values()
        return {m.name for m in likely(local.network, layers, {}) if m.wiring is None}

    assert tried("pool") == {"max pool", "sum pool"}
    assert tried("stages.0.0") == set()
    assert tried("head.2") == {"tanh GELU", "sigmoid GELU", "SiLU", "ReLU", "no activation"}
    assert tried("stages.0.0.mlp") == tried("head.2") | {"bfloat16 factors", "TF32 factors"}
    assert {"scale by c", "no LIM"} <= tried("stages.0.0.attn")
    assert "scale by the width of the keys" not in tried("stages.0.0.attn")  # there it is the scale by c
    assert {"scale by c", "scale by the width of the keys", "no norm"} <= tried("stages.0.1.attn")


def test_two_mistakes_in_one_layer_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAIRS_SECONDS", np.inf)  # however slow the machine is
    local = at_hand("classifier")
    both = MISTAKES["no LIM"] & MISTAKES["no scale"]
    found = diagnose(local, "stages.0.0.attn", local.output("stages.0.0.attn", both), dtype="float64", tolerance=32)
    assert found[0].explains
    assert {"LIM is missing", "logits are not scaled"} <= set(found[0].mistake.words.split(", and "))


@pytest.mark.parametrize(
    ("network", "layer", "name", "how"),
    [
        ("classifier", "stages.0.0.attn", "stages.0.0.attn.proj.weight", lambda x: x.T),
        ("port", "layers.0.0.layers.0.4", "layers.0.0.layers.0.4.local_interactive_module.weight", lambda x: x.swapaxes(0, 1)),
        ("classifier", "norm", "norm.bias", np.zeros_like),
    ],
)
def test_a_mistaken_parameter_is_named(network: str, layer: str, name: str, how: Callable[[np.ndarray], np.ndarray]) -> None:
    local = at_hand(network)
    wrong = Local(local.network, local.params | {name: how(local.params[name])}, local.images, local.names, local.tap)
    found = diagnose(local, layer, wrong.output(layer), dtype="float64", tolerance=32)
    assert f"{name} is {'left out' if name.endswith('bias') else 'transposed'}" in [finding.mistake.words for finding in found]


def test_without_the_source_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a frozen application; wirings, parameters and arithmetic are looked for as ever."""

    def missing(function: Any) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(edits, "_source", missing)
    report = compare(faulty("no LIM"), variant=CONFIG, images=IMAGES)
    assert report.first is not None
    assert report.first.layer == "stages.0.0.attn"
    assert all(cause.kind for cause in report.causes)  # reasoning needs no source
    assert "the package's source cannot be read here" in str(report)
    report = compare(faulty("PEG after block 2"), variant=CONFIG, images=IMAGES)
    assert report.causes[0].words == "PEG comes after the second block"
    assert not any(isinstance(change, Edit) for mistake in mistakes_of(network_of(CONFIG)) for change in mistake.changes)

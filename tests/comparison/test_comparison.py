"""A port against the reference: the right layer, the right cause, and honest words where nothing can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref.benchmark.contenders import vit_pytorch_module
from scalablevit_ref.compare.capture import CaptureError
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.layers import PortWiring
from scalablevit_ref.edits import Mistake
from scalablevit_ref.layers import IMAGES, POOL
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import compare, random_images, random_params, relative_l2
from scalablevit_ref.testing.traces import reference_trace, save_trace, trace_images
from tests.programs.foreign import CONFIG, faulty, found
from tests.programs.foreign import IMAGES as FOREIGN_IMAGES
from tests.support.mistakes import PLANTED, mistake_of
from tests.support.profiles import share

NETWORKS = {
    "mlp head": CONFIG,
    "linear head, v1": replace(CONFIG, head="linear", ssa_values="scaled", ssa_scale="head_dim"),
    "features": replace(CONFIG, num_classes=0),
    "backbone": replace(CONFIG, head="none", num_classes=0, stage_norms=True, pad_windows=True, embed_norm_eps=1e-5),
}

NAMED_AND_RENAMED = [(fault, renamed) for i, fault in enumerate(PLANTED) for renamed in ((False, True), (True, False))[i % 2]]
"""Each planted fault in a network of the official names and in one of other names, in turn: every second has every fault."""


@pytest.mark.parametrize("network", NETWORKS)
def test_the_table_of_layers_is_the_network(network: str) -> None:
    """Each layer on the trace's own inputs, and all one after the other, are what the specification computes."""
    config = NETWORKS[network]
    params = random_params(sv.parameter_shapes(config))
    images = random_images((2, 3, 58, 100) if config.pad_windows else (2, 3, 56, 112))
    trace = reference_trace(images, params, config)
    del trace[IMAGES]
    local = Local(network_of(config), params, images, set(trace), trace.__getitem__)
    assert [name for name in network_of(config).layers() if name != POOL and name in trace] == [
        name for name in network_of(config).layers() if name in trace
    ]
    assert set(trace) <= set(network_of(config).layers()) <= set(trace) | {POOL, "logits"}
    for name, expected in trace.items():
        assert relative_l2(local.output(name), expected) < 1e-14, name
        assert network_of(config).layer_shapes(images.shape)[name] == expected.shape
    seen: dict[str, np.ndarray] = {}
    Local(network_of(config), params, images, set(), trace.__getitem__).end_to_end(seen.__setitem__)
    assert all(relative_l2(seen[name], expected) < 1e-14 for name, expected in trace.items())


def test_the_ports_table_as_it_runs_is_the_port() -> None:
    config = vit_pytorch.Config(num_classes=5, dim=8, depth=(2, 1), heads=2, reduction_factor=(2, 1), window_size=(7, None))
    params = random_params(vit_pytorch.parameter_shapes(config))
    images = random_images((2, 3, 56, 56))
    trace = {
        name: rearrange(x, "b c h w -> b h w c") if x.ndim == 4 else x
        for name, x in vit_pytorch.trace(images, params, config).items()
    }
    local = Local(network_of(config), params, images, set(trace), trace.__getitem__)
    as_it_runs = Mistake("as it runs", wiring=PortWiring(second_feed_forward="before IWSA"))
    for name, expected in trace.items():
        assert relative_l2(local.output(name, as_it_runs), expected) < 1e-14, name
        assert network_of(config).layer_shapes(images.shape)[name] == expected.shape


@pytest.mark.parametrize(("fault", "renamed"), share(NAMED_AND_RENAMED, of=2))
def test_a_planted_fault_is_named(fault: str, renamed: bool) -> None:
    report = found(fault, renamed=renamed)
    first = report.first
    assert first is not None
    assert first.layer == PLANTED[fault].layer
    assert [cause.words for cause in report.causes if first.layer in cause.layers] == [mistake_of(fault).words]
    assert not report.agrees


def test_a_right_port_agrees() -> None:
    report = compare(faulty(None), variant=CONFIG, images=FOREIGN_IMAGES)
    assert report.agrees
    assert report.first is None
    assert report.needed < 16
    assert len(report.rows) == len(sv.trace(FOREIGN_IMAGES, random_params(sv.parameter_shapes(CONFIG)), CONFIG))
    assert "agrees with the reference" in str(report)


def test_float32_is_held_to_its_own_eps() -> None:
    report = compare(faulty(None), variant=CONFIG, images=FOREIGN_IMAGES, dtype="own")
    assert report.dtype == "float32"
    assert report.agrees
    assert report.needed > 0.3


class Renamed(torch.nn.Module):
    """The plain network under other names, maps b c h w between its parts."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stems = network.patch_embeds
        self.positions = network.pos_block
        self.body = torch.nn.ModuleList(torch.nn.ModuleDict({f"layer{i}": b for i, b in enumerate(s)}) for s in network.stages)
        self.final, self.classifier = network.norm, network.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for k, blocks in enumerate(self.body):
            x = self.stems[k](x)
            b, h, w, c = x.shape
            x = x.reshape(b, h * w, c)
            for i in range(len(blocks)):
                x = blocks[f"layer{i}"](x, h, w)
                if i == 0:
                    x = self.positions[k](x, h, w)
            x = x.transpose(1, 2).reshape(b, c, h, w)
        return self.classifier(self.final(x.flatten(2).transpose(1, 2)).mean(1))


def test_other_names_are_aligned_by_their_parameters() -> None:
    report = compare(Renamed(faulty("PEG without identity")), variant=CONFIG, images=FOREIGN_IMAGES)
    assert report.first is not None
    assert (report.first.layer, report.first.module) == ("pos_block.0", "positions.0")
    assert report.causes[0].words == mistake_of("PEG without identity").words
    assert compare(Renamed(faulty(None)), variant=CONFIG, images=FOREIGN_IMAGES).agrees


def test_other_names_are_mapped_by_hand() -> None:
    names = {
        "patch_embeds.{k}": "stems.{k}",
        "pos_block.{k}": "positions.{k}",
        "norm": "final",
        **{f"stages.{{k}}.{{i}}{part}": f"body.{{k}}.layer{{i}}{part}" for part in ("", ".norm1", ".attn", ".norm2", ".mlp")},
        **{f"head.{i}": f"classifier.{i}" for i in (0, 1, 3)},
    }
    report = compare(Renamed(faulty("no LIM")), variant=CONFIG, images=FOREIGN_IMAGES, names=names)
    assert report.first is not None
    assert (report.first.layer, report.first.module) == ("stages.0.0.attn", "body.0.layer0.attn")
    with pytest.raises(CaptureError, match=r"'stages\.0\.0\.attn' is mapped to 'nowhere', which the candidate lacks"):
        compare(Renamed(faulty(None)), variant=CONFIG, images=FOREIGN_IMAGES, names={"stages.0.0.attn": "nowhere"})
    with pytest.raises(CaptureError, match=r"there is no layer 'stages\.9\.0'"):
        compare(Renamed(faulty(None)), variant=CONFIG, images=FOREIGN_IMAGES, names={"stages.9.0": "final"})


def test_the_candidate_is_left_as_it_was() -> None:
    network = faulty("no LIM").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    compare(network, variant=CONFIG, images=FOREIGN_IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert next(network.parameters()).dtype == torch.float32


def test_two_mistakes_are_both_named() -> None:
    network = faulty("interleaved heads, whole")
    network.stages[1][2].mlp.act = torch.nn.GELU("tanh")
    report = compare(network, variant=CONFIG, images=FOREIGN_IMAGES)
    assert {cause.words for cause in report.causes} == {mistake_of("interleaved heads, whole").words, mistake_of("tanh GELU").words}


def test_a_function_that_gives_logits_only() -> None:
    """All layers lie between the images and the one tap; the cause is found all the same."""
    params = random_params(sv.parameter_shapes(CONFIG))
    network = faulty("post-norm").double()
    network.load_state_dict(sv.to_backend(params, "torch"))

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    report = compare(logits, variant=CONFIG, weights=params, images=FOREIGN_IMAGES)
    assert [row.layer for row in report.rows] == ["logits"]
    assert report.causes[0].words == mistake_of("post-norm").words


def test_isolated_and_propagated_errors_are_told_apart() -> None:
    given: dict[str, Any] = {"variant": CONFIG, "images": FOREIGN_IMAGES, "diagnosis": False}
    report = compare(faulty("SSA scale by d"), **given)
    later = next(row for row in report.rows if row.layer == "stages.1.0.attn")
    assert later.propagated is not None
    assert later.isolated is not None
    assert later.propagated.error > 1e10
    assert later.isolated.error < 32
    only = compare(faulty("SSA scale by d"), **given, mode="propagated")
    assert all(row.isolated is None for row in only.rows)
    assert only.first is not None
    assert only.first.layer == "stages.0.1.attn"
    only = compare(faulty("SSA scale by d"), **given, mode="isolated")
    assert all(row.propagated is None for row in only.rows)


def test_a_nan_is_a_difference() -> None:
    network = faulty(None)
    network.stages[1][0].mlp.act = torch.nn.Threshold(0.5, float("nan"))
    report = compare(network, variant=CONFIG, images=FOREIGN_IMAGES)
    assert report.first is not None
    assert report.first.layer == "stages.1.0.mlp"
    assert "the first to hold a NaN" in str(report)
    assert len(report.diverging) == 1  # those behind it were fed NaNs


def test_swapped_height_and_width_are_said() -> None:
    params = random_params(sv.parameter_shapes(CONFIG))
    images = random_images((1, 3, 56, 56))
    trace = {name: x.swapaxes(1, 2) if x.ndim == 4 else x for name, x in sv.trace(images, params, CONFIG).items()}
    report = compare(trace, variant=CONFIG, weights=params, images=images)
    assert "patch_embeds.0 is laid out as b w h c: H and W are swapped" in report.notes


class TestFromPackages:
    """The two community ports, which compute something else without saying so."""

    def test_vit_pytorch_runs_its_feed_forward_before_iwsa(self) -> None:
        options: dict[str, Any] = {"num_classes": 5, "dim": 8, "depth": (2, 1), "heads": 2, "reduction_factor": (2, 1)}
        options["window_size"] = (7, None)
        network = vit_pytorch_module().ScalableViT(**options)
        report = compare(network, variant=vit_pytorch.Config(**options), images=random_images((2, 3, 56, 56)))
        assert [cause.words for cause in report.causes] == ["the second feed-forward runs before IWSA"]
        assert len(report.causes[0].layers) == len(report.diverging) == 6

    def test_the_flax_port_pads_and_activates_otherwise(self) -> None:
        """Its trace is our specification's of it: the package lies in no index that is at hand."""
        config = flax_port.Config(num_classes=5, dim=8, depth=(2, 1), heads=2, reduction_factor=(2, 1), window_size=(7, None))
        params = random_params(flax_port.parameter_shapes(config))
        images = random_images((1, 3, 56, 56))
        trace = flax_port.trace(rearrange(images, "b c h w -> b h w c"), params, config)
        report = compare(trace, variant=config, weights=params, images=images, names=flax_port.trace_names(config))
        said = " ".join(cause.words for cause in report.causes)
        for words in ("padding is SAME", "GELU is the tanh approximation", "the last stage ends in a norm too"):
            assert words in said
        assert report.first is not None
        assert report.first.layer == "to_patches"


class TestFiles:
    def test_a_trace_is_held_against_another(self, tmp_path: Path) -> None:
        params = random_params(sv.parameter_shapes(CONFIG))
        trace = reference_trace(FOREIGN_IMAGES, params, CONFIG)
        save_trace(tmp_path / "ours.safetensors", trace, CONFIG)
        narrow = {name: x.astype(np.float32) for name, x in trace.items()}
        save_trace(tmp_path / "theirs.npz", narrow)
        report = compare(tmp_path / "theirs.npz", reference=tmp_path / "ours.safetensors")
        assert report.agrees
        assert report.mode == "propagated"
        narrow["stages.1.0"] = narrow["stages.1.0"] * np.float32(1.001)
        save_trace(tmp_path / "theirs.npz", narrow, force=True)
        report = compare(tmp_path / "theirs.npz", reference=tmp_path / "ours.safetensors")
        assert report.first is not None
        assert report.first.layer == "stages.1.0"
        assert np.array_equal(trace_images(tmp_path / "ours.safetensors"), FOREIGN_IMAGES)

    def test_never_more_than_two_tensors_of_a_side(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import weakref

        from scalablevit_ref.compare.capture import traces

        params = random_params(sv.parameter_shapes(CONFIG))
        trace = reference_trace(FOREIGN_IMAGES, params, CONFIG)
        save_trace(tmp_path / "ours.safetensors", trace, CONFIG)
        save_trace(tmp_path / "theirs.safetensors", trace, CONFIG)
        alive: list[Any] = []
        most = 0
        read = traces.in_memory

        def watched(x: Any) -> np.ndarray:
            nonlocal most
            value = read(x)
            alive[:] = [ref for ref in alive if ref() is not None]
            alive.append(weakref.ref(value))
            most = max(most, len(alive))
            return value

        monkeypatch.setattr(traces, "in_memory", watched)
        report = compare(tmp_path / "theirs.safetensors", reference=tmp_path / "ours.safetensors")
        assert report.agrees
        assert len(report.rows) > 30
        assert most <= 4  # the images of each side, and the two that are being compared

    def test_patterns_name_a_files_own_layers(self, tmp_path: Path) -> None:
        params = random_params(sv.parameter_shapes(CONFIG))
        trace = reference_trace(FOREIGN_IMAGES, params, CONFIG)
        own = {name.replace("stages.", "layer").replace(".attn", "/attention"): x for name, x in trace.items() if ".attn" in name}
        save_trace(tmp_path / "theirs.npz", {IMAGES: FOREIGN_IMAGES, **own})
        names = {"stages.{k}.{i}.attn": "layer{k}.{i}/attention"}
        for candidate in (tmp_path / "theirs.npz", {IMAGES: FOREIGN_IMAGES, **own}):
            report = compare(candidate, variant=CONFIG, weights=params, names=names)
            assert report.agrees
            assert len(report.rows) == sum(CONFIG.depths)

    def test_weights_give_a_trace_isolated_errors(self, tmp_path: Path) -> None:
        params = random_params(sv.parameter_shapes(CONFIG))
        trace = reference_trace(FOREIGN_IMAGES, params, CONFIG)
        save_trace(tmp_path / "theirs.npz", trace)
        report = compare(tmp_path / "theirs.npz", variant=CONFIG, weights=params)
        assert report.agrees
        assert all(row.isolated is not None for row in report.rows)


def _params() -> dict[str, np.ndarray]:
    return random_params(sv.parameter_shapes(CONFIG))


def _trace() -> dict[str, Any]:
    return dict(reference_trace(FOREIGN_IMAGES, _params(), CONFIG))


BAD: dict[str, tuple[Any, str]] = {
    "unknown network": (lambda: compare(faulty(None)), r"which network\? variant= names it"),
    "no weights": (lambda: compare(_trace(), variant=CONFIG), "weights must be given for a trace"),
    "other weights": (
        lambda: compare(_trace(), variant=CONFIG, weights={**_params(), "norm.bias": np.zeros(3)}),
        r"norm\.bias expected \(24,\) got \(3,\)",
    ),
    "other images": (
        lambda: compare(_trace(), variant=CONFIG, weights=_params(), images=FOREIGN_IMAGES + 1),
        "input differs: the trace was fed other images, off by up to 1",
    ),
    "reversed channels": (
        lambda: compare({**_trace(), IMAGES: FOREIGN_IMAGES[:, ::-1]}, variant=CONFIG, weights=_params(), images=FOREIGN_IMAGES),
        "its channels are reversed",
    ),
    "no images": (
        lambda: compare({k: v for k, v in _trace().items() if k != IMAGES}, variant=CONFIG, weights=_params()),
        "holds no 'images'",
    ),
    "no layer": (lambda: compare({"x": np.ones(3)}, variant=CONFIG, weights=_params()), "the trace has no layer's name"),
    "no layout": (
        lambda: compare({**_trace(), "stages.0.0": np.ones((2, 5, 7, 16))}, variant=CONFIG, weights=_params()),
        r"taken for stages.0.0, gives shape \(2, 5, 7, 16\), which is no layout",
    ),
    "several dtypes": (
        lambda: compare({**_trace(), "norm": _trace()["norm"].astype("float32")}, variant=CONFIG, weights=_params()),
        "holds layers in several dtypes: float32, float64",
    ),
    "nothing like a port": (lambda: compare(3, variant=CONFIG, weights=_params()), "the candidate is a int: expected"),
    "no module of the sizes": (
        lambda: compare(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), variant=CONFIG, images=FOREIGN_IMAGES),
        r"no parameter of 2,352 values for patch_embeds\.0\.proj\.weight .*; the candidate's 0\.weight has .*3, 3\); .* variant=",
    ),
    "unknown mode": (lambda: compare(faulty(None), variant=CONFIG, mode="fast"), "mode must be one of both"),  # type: ignore[arg-type]
    "random weights for a trace": (lambda: compare(_trace(), variant=CONFIG, weights="random"), "weights=random is for modules"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compared_is_said_in_one_line(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_transposed_weights_are_said() -> None:
    params = random_params(sv.parameter_shapes(CONFIG))
    network = faulty(None).double()
    network.load_state_dict(sv.to_backend(params, "torch"))
    with torch.no_grad():
        weight = network.stages[0][0].attn.proj.weight
        weight.copy_(weight.T.clone())
    report = compare(network, variant=CONFIG, weights="own", images=FOREIGN_IMAGES)
    assert report.agrees  # its own weights are what it computes with

    def run(images: np.ndarray) -> Mapping[str, np.ndarray]:
        taps = {}
        handle = network.stages[0][0].attn.register_forward_hook(lambda m, x, out: taps.setdefault("stages.0.0.attn", out))
        with torch.no_grad():
            network(torch.from_numpy(images))
        handle.remove()
        return {name: value.numpy() for name, value in taps.items()}

    report = compare(run, variant=CONFIG, weights=params, images=FOREIGN_IMAGES)
    assert report.causes[0].words == "stages.0.0.attn.proj.weight is transposed"

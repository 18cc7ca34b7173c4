"""Nothing is compared by accident: names that match nothing are refused, and what was left out is counted in the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.compare.capture.names import by_mapping, lookalikes, merged
from scalablevit_ref.compare.html.page import html as page
from scalablevit_ref.compare.report import Report
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import compare
from scalablevit_ref.testing.arrays import random_images, random_params
from scalablevit_ref.testing.traces import reference_trace

CONFIG = sv.ScalableViTConfig(
    embed_dims=(16, 24),
    depths=(2, 1),
    num_heads=(2, 3),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(7, 7),
    num_classes=5,
    head="linear",
)
LAYERS = network_of(CONFIG).layers()
PARAMS = random_params(sv.parameter_shapes(CONFIG))
FED = random_images((2, 3, 56, 56))
TRACE: Mapping[str, np.ndarray] = MappingProxyType(reference_trace(FED, PARAMS, CONFIG))
OWN = {IMAGES: FED, "logits": TRACE["logits"], "attention": TRACE["stages.0.0.attn"], "a.0.1": TRACE["stages.0.1.attn"]}


def held(candidate: Any, **options: Any) -> Report:
    return compare(candidate, variant=CONFIG, **({"weights": PARAMS, "diagnosis": False} | options))


def in_a_file(arrays: Mapping[str, Any], folder: Path) -> Path:
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


WRONG_NAMES = {
    "a layer that there is not": (
        {"stages.0.0.atn": "attention"},
        r"^names: there is no layer 'stages\.0\.0\.atn' \(did you mean 'stages\.0\.0\.attn'",
    ),
    "another case": ({"Norm": "attention"}, r"^names: there is no layer 'Norm' \(did you mean 'norm'\?\)"),
    "a name that is not there": (
        {"stages.0.0.attn": "atention"},
        r"^names: 'stages\.0\.0\.attn' is mapped to 'atention', which .* lacks \(did you mean 'attention'",
    ),
    "a pattern that fits no layer": (
        {"stages.{k}.{j}.attn": "attention"},
        r"^names: no layer is of the form 'stages\.\{k\}\.\{j\}\.attn' \(did you mean 'stages\.\{k\}\.\{i\}\.attn'",
    ),
    "a pattern of which nothing is there": (
        {"stages.{k}.{i}.attn": "b.{k}.{i}"},
        r"^names: 'stages\.\{k\}\.\{i\}\.attn' is mapped to 'b\.\{k\}\.\{i\}', for stages\.0\.0\.attn to 'b\.0\.0', which .* lacks",
    ),
    "a number that the layer does not have": ({"norm": "a.{k}"}, r"^names: 'norm' is one layer, and 'a\.\{k\}' has a number"),
    "a number that the pattern does not have": (
        {"patch_embeds.{k}": "a.{k}.{i}"},
        r"^names: 'patch_embeds\.\{k\}' is mapped to 'a\.\{k\}\.\{i\}', whose \{i\} it does not have",
    ),
    "two layers of one array": (
        {"stages.0.0.attn": "attention", "stages.0.1.attn": "attention"},
        r"^names: 'stages\.0\.0\.attn' and 'stages\.0\.1\.attn' would both be 'attention'",
    ),
    "a pattern to one array": (
        {"stages.0.{i}.attn": "attention"},
        r"^names: 'stages\.0\.0\.attn' and 'stages\.0\.1\.attn' would both be 'attention'",
    ),
    "a layer's name for another": (
        {"stages.0.0.attn": "norm"},
        r"^names: 'norm' and 'stages\.0\.0\.attn' would both be 'norm'",
    ),
    "a layer twice": (
        {"stages.{k}.1.attn": "a.{k}.1", "stages.0.{i}.attn": "attention"},
        r"^names: 'stages\.0\.1\.attn' is mapped twice, by 'stages\.\{k\}\.1\.attn' and by 'stages\.0\.\{i\}\.attn'",
    ),
    "no mapping": ([("norm", "a")], r"^names must be a mapping of layers to the candidate's names, got list"),
    "no texts": ({"norm": 3}, r"^a name in names must be a string, got 3"),
}


class Renamed(torch.nn.Module):
    """A port one of whose attentions has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        inner = ScalableViT(CONFIG)
        inner.load_state_dict(sv.to_backend(dict(PARAMS), "torch", dtype="float32"))
        blocks: Any = inner.stages
        self.attention = blocks[0][0].attn
        for name, module in inner.named_children():
            setattr(self, name, module)
        self.run = (inner,)

    def forward(self, images: torch.Tensor) -> Any:
        return self.run[0](images)


@pytest.mark.parametrize("kind", ["mapping", "file", "function"])
@pytest.mark.parametrize("case", WRONG_NAMES)
def test_names_that_match_nothing_are_refused(case: str, kind: str, tmp_path: Path) -> None:
    names, words = WRONG_NAMES[case]
    arrays = OWN if case != "a layer's name for another" else {**OWN, "norm": TRACE["norm"]}
    made: dict[str, Callable[[], Any]] = {
        "mapping": lambda: arrays,
        "file": lambda: in_a_file(arrays, tmp_path),
        "function": lambda: lambda images: arrays,
    }
    images = {"images": FED} if kind == "function" else {}
    with pytest.raises((CaptureError, TypeError), match=words) as error:
        held(made[kind](), names=names, **images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "case", sorted(WRONG_NAMES.keys() - {"a pattern to one array", "a layer twice", "two layers of one array"})
)
def test_names_that_match_nothing_are_refused_of_a_module(case: str) -> None:
    names, words = WRONG_NAMES[case]
    with pytest.raises((CaptureError, TypeError), match=words):
        held(Renamed(), names=names, images=FED, weights=None)


def test_names_are_taken_of_every_kind(tmp_path: Path) -> None:
    names = {"stages.0.0.attn": "attention", "stages.{k}.{i}.attn": "a.{k}.{i}"}
    for candidate, options in ((OWN, {}), (in_a_file(OWN, tmp_path), {}), (lambda images: OWN, {"images": FED})):
        report = held(candidate, names=names, **options)  # type: ignore[arg-type]
        assert {row.layer: row.module for row in report.rows} == {
            "stages.0.0.attn": "attention",
            "stages.0.1.attn": "a.0.1",
            "logits": "logits",
        }
        assert report.agrees
        wrong = {**OWN, "attention": 1.5 * OWN["attention"]}
        assert not held(wrong if candidate is OWN else lambda images, wrong=wrong: wrong, names=names, images=FED).agrees


def test_the_images_of_a_trace_may_have_another_name() -> None:
    arrays = {"fed": FED, "logits": TRACE["logits"]}
    assert held(arrays, names={"images": "fed"}).agrees
    with pytest.raises(CaptureError, match="there is no layer 'images'"):
        held(Renamed(), names={"images": "attention"}, images=FED, weights=None)


def test_a_layer_s_own_entry_comes_before_a_pattern() -> None:
    mapping = {"stages.{k}.{i}.attn": "a{k}{i}", "stages.0.1.attn": "b"}
    found = by_mapping(mapping, {"a00", "a10", "b"}, LAYERS)
    assert found == {"stages.0.0.attn": "a00", "stages.1.0.attn": "a10", "stages.0.1.attn": "b"}
    assert merged({"norm": "norm", "head": "x"}, {"logits": "x"})["logits"] == "x"


def test_what_looks_like_a_layer_and_is_none_is_told() -> None:
    arrays = {**TRACE, "stages.0.0.atn": TRACE["stages.0.0.attn"], "stages.0.7.attn": np.ones(3), "more": np.ones(2)}
    del arrays["stages.0.0.attn"]
    report = held(arrays)
    assert report.agrees
    assert report.notes == (
        "'stages.0.0.atn' names no layer (did you mean 'stages.0.0.attn'?)",
        "'stages.0.7.attn' names no layer of this network",
    )
    assert str(report).split("\n")[1:] == list(report.notes)
    for name in ("Stages.0.0.Attn", "stages/0/0/attn", "stages.0.0.attm", "stages.0.0.attention"):
        told = lookalikes([name], ["stages.0.0.attn"], LAYERS)
        assert bool(told) == (name != "stages.0.0.attention")
    assert lookalikes(["stages.0.0.q", "attn", "stages.0.0.attn.q", 3, "x" * 10_000], ["stages.0.0"], LAYERS) == []  # type: ignore[list-item]
    several = held({IMAGES: FED, "logits": TRACE["logits"], **{f"stages.7.{i}": np.ones(1) for i in range(9)}})
    assert several.notes[-1] == "and 6 more such names"
    assert len(several.notes) == 4


def test_what_was_left_out_is_counted_in_the_verdict() -> None:
    report = held({name: TRACE[name] for name in (IMAGES, "logits", "norm")})
    count = len(LAYERS) - 1  # but for the mean over tokens, which no module gives
    verdict = str(report).split("\n")[0]
    assert verdict.startswith(f"agrees with the reference in 2 of {count} layers, to ")
    assert verdict.endswith(f"; {count - 2} were not in the trace")
    document = report.to_json()
    assert (document["layers_compared"], document["layers_in_all"]) == (2, count)
    assert [(some["why"], len(some["layers"])) for some in document["left_out"]] == [("not in the trace", count - 2)]
    assert f"Agrees with the reference in 2 of {count} layers" in page(report)
    wrong = held({IMAGES: FED, "logits": 2 * TRACE["logits"], "norm": TRACE["norm"]})
    assert f"compared: 2 of {count} layers; {count - 2} were not in the trace" in str(wrong).split("\n")
    assert f"Compared: 2 of {count} layers; {count - 2} were not in the trace." in page(wrong)
    whole = held(dict(TRACE))
    assert whole.left_out == ()
    assert str(whole).startswith(f"agrees with the reference in {count} layers, to ")
    assert " were " not in str(whole)


def test_what_the_reference_lacks_is_counted_apart() -> None:
    some = {name: TRACE[name] for name in (IMAGES, "logits", "norm")}
    report = compare({**some, "patch_embeds.0": TRACE["patch_embeds.0"]}, reference=some, variant=CONFIG)
    assert [(left.why, len(left.layers)) for left in report.left_out] == [
        ("not in the reference", 1),
        ("not in the trace", len(LAYERS) - 4),
    ]
    assert "; the isolated error was not measured" in str(report)


def test_the_error_that_was_not_measured_is_said() -> None:
    assert str(held(dict(TRACE), mode="propagated")).endswith("; the isolated error was not measured")
    assert str(held(dict(TRACE), mode="isolated")).endswith("; the propagated error was not measured")
    assert "measured" not in str(held(dict(TRACE)))
    broken = {**TRACE, "stages.0.0": np.full_like(TRACE["stages.0.0"], np.nan)}
    assert "the isolated error tells nothing in " in str(held(broken))


def test_a_reference_s_layout_is_told_too() -> None:
    turned = {name: rearrange(x, "b h w c -> b c h w") if x.ndim == 4 and name != IMAGES else x for name, x in TRACE.items()}
    assert compare(dict(TRACE), reference=turned, variant=CONFIG).agrees
    with pytest.raises(CaptureError, match=r"norm, taken for norm, gives shape \(3,\)"):
        compare(dict(TRACE), reference={**TRACE, "norm": np.ones(3)}, variant=CONFIG)


def test_a_candidate_that_works_in_place_changes_nothing_of_ours() -> None:
    def spoiling(images: np.ndarray) -> np.ndarray:
        images *= 0
        return TRACE["logits"]

    fed = FED.copy()
    assert held(spoiling, images=fed).agrees
    assert np.array_equal(fed, FED)

    class Spoiling(Renamed):
        def forward(self, images: torch.Tensor) -> Any:
            out = super().forward(images)
            images.zero_()
            return out

    assert held(Spoiling(), images=fed, weights=None).agrees
    assert np.array_equal(fed, FED)


# Arrays that are none


def of_dtype(dtype: Any) -> Callable[[np.ndarray], Any]:
    return lambda x: x.astype(dtype)


STRANGE: dict[str, Callable[[np.ndarray], Any]] = {
    **{f"of {dtype}": of_dtype(dtype) for dtype in ("int64", "bool", "uint8", "complex64", "longdouble", "U4", "S4", "object")},
    "dates": lambda x: x.astype("int64").astype("M8[s]"),
    "durations": lambda x: x.astype("int64").astype("m8[s]"),
    "structured": lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "i2")]),
    "empty": lambda x: x[:0],
    "0-d": lambda x: x.reshape(-1)[0].reshape(()),
    "of rank 1": lambda x: x.reshape(-1),
    "of rank 5": lambda x: x.reshape(*[1] * (5 - x.ndim), *x.shape),
}
IN_MEMORY: dict[str, Callable[[np.ndarray], Any]] = {
    "a list": lambda x: x.tolist(),
    "None": lambda x: None,
    "a text": lambda x: "logits",
    "a number": lambda x: 3.0,
    "a mapping": lambda x: {"a": x},
    "masked": lambda x: np.ma.masked_less(x, 0),
    "on meta": lambda x: torch.empty(x.shape, device="meta"),
    "sparse": lambda x: torch.from_numpy(x.copy()).to_sparse(),
    "a class": lambda x: np.ndarray,
}


@pytest.mark.parametrize("name", ["logits", "images", "stages.0.0.attn"])
@pytest.mark.parametrize("strange", [*STRANGE, *IN_MEMORY])
def test_an_array_that_is_none_is_named(strange: str, name: str) -> None:
    change = (STRANGE | IN_MEMORY)[strange]
    for options in ({"weights": PARAMS}, {"reference": dict(TRACE), "weights": None}):
        with pytest.raises(CaptureError, match=name) as error:
            held({**TRACE, name: change(TRACE[name])}, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(CaptureError, match=name):
        compare(dict(TRACE), reference={**TRACE, name: change(TRACE[name])}, variant=CONFIG)


@pytest.mark.parametrize("strange", sorted(STRANGE.keys() - {"of object"}))
def test_an_array_that_is_none_is_named_in_a_file(strange: str, tmp_path: Path) -> None:
    for name in ("logits", "images"):
        with pytest.raises(ValueError, match=name) as error:
            held(in_a_file({**TRACE, name: STRANGE[strange](TRACE[name])}, tmp_path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(value: float) -> None:
    for options in ({"candidate": {**TRACE, IMAGES: np.full_like(FED, value)}}, {"candidate": Renamed(), "images": FED * value}):
        with pytest.raises(CaptureError, match=r"images'? hold a NaN or an infinity"):
            held(**options)


def test_layers_of_nan_alone_differ() -> None:
    report = held({name: x if name == IMAGES else np.full_like(x, np.nan) for name, x in TRACE.items()})
    assert not report.agrees
    assert "patch_embeds.0 is the first to hold a NaN" in str(report)


@pytest.mark.parametrize(
    "images", [[[1.0]], None.__class__, FED.astype("uint8"), FED[:, :2], FED[:0], FED[0], FED.astype(object), "x"]
)
def test_images_that_are_none_are_refused(images: Any) -> None:
    with pytest.raises(CaptureError, match=r"^images "):
        held(Renamed(), images=images)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_order_of_bytes_does_not_matter(order: str) -> None:
    arrays = {name: x.astype(f"{order}f8") for name, x in TRACE.items()}
    assert held(arrays).agrees
    assert held(Renamed(), images=arrays[IMAGES], weights=None).agrees


def test_weights_that_are_none_are_named() -> None:
    with pytest.raises(CaptureError, match=r"weights: 'norm\.bias' is a list, and not an array"):
        held(dict(TRACE), weights={**PARAMS, "norm.bias": [1.0]})
    with pytest.raises(TypeError, match="weights must be a mapping"):
        held(dict(TRACE), weights=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int8"}, "dtype must be one of .*float64"),
        ({"dtype": "no_grad"}, "dtype must be one of .*float64"),
        ({"tolerance": float("nan")}, "tolerance must be at least 0"),
        ({"tolerance": -1}, "tolerance must be at least 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        held(dict(TRACE), **options)


def test_keys_that_are_no_texts_are_left_alone() -> None:
    assert held({**TRACE, 3: np.ones(2), None: np.ones(1)}).agrees
    with pytest.raises(CaptureError, match=r"the trace has no layer's name \(it has 3\)"):
        held({3: np.ones(2)})


def test_a_module_that_looks_at_its_numbers() -> None:
    """Its graph is recorded without the numbers first, which show another one."""
    seen: list[bool] = []

    class Looking(ScalableViT):
        def forward(self, images: Any) -> Any:
            found = super().forward(images)
            seen.append(bool(found.any()))
            return found if seen[-1] else found.exp()

    report = compare(Looking(CONFIG), variant=CONFIG)
    assert report.agrees, report
    assert seen.index(True) == 1


def test_a_right_module_runs_no_more_than_it_must() -> None:
    """To be recorded, for its values, and to repeat itself; on other images it is known to repeat itself."""
    runs: list[tuple[int, ...]] = []

    class Counting(ScalableViT):
        def forward(self, images: Any) -> Any:
            runs.append(tuple(images.shape[2:]))
            return super().forward(images)

    size = network_of(CONFIG).usual_image_size()
    assert compare(Counting(CONFIG), variant=CONFIG).agrees
    assert runs[:3] == [(size, size)] * 3
    assert len(runs) == 5
    assert runs[3] == runs[4] != runs[0]


def test_a_module_of_other_sizes_is_told_before_it_is_loaded() -> None:
    other = ScalableViT(sv.variant("digits", num_classes=7))
    for weights in ("random", "own"):
        with pytest.raises(
            CaptureError,
            match=r"^no parameter of 640 .* head\.weight \(10, 64\); the candidate's head\.weight has \(7, 64\)\. variant=",
        ):
            compare(other, variant="digits", weights=weights)


def test_a_module_on_the_meta_device_is_refused() -> None:
    with pytest.raises(CaptureError, match="is on the meta device"):
        held(Renamed().to("meta"), images=FED, weights="own")


NEW = "the module came with none of the file's weights; they were put into a copy of it for this comparison"


@pytest.mark.parametrize("seed", range(20))
def test_a_new_module_s_own_weights_do_not_count(seed: int) -> None:
    """Of so few values that some are near the file's by chance."""
    tiny = replace(CONFIG, embed_dims=(4, 4), num_heads=(1, 1), c_ratios=(1, 1), num_classes=3)
    torch.manual_seed(seed)
    weights = random_params(sv.parameter_shapes(tiny), seed)
    new = ScalableViT(tiny)
    report = compare(new, variant=tiny, weights=weights, diagnosis=False)
    assert report.agrees, report
    assert report.own_weights == (NEW,)
    loaded: Any = sv.to_backend(weights, "torch", dtype="float32")
    del loaded["stages.0.0.attn.qkv.weight"]
    new.load_state_dict(loaded, strict=False)
    assert not compare(new, variant=tiny, weights=weights, diagnosis=False).agrees

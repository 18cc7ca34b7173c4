"""Ports held against the reference for drawn configurations: right ones pass, what is wrong for some is found and shrunk."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref.adapters import plain
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.testing import assert_equivalent_everywhere, compare, equivalence, random_images, random_params, strategies
from scalablevit_ref.testing.equivalence import Case
from tests.support.profiles import is_nightly, share

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks would only cost time

SAME = settings(derandomize=True, max_examples=50)
LINEAR = sv.variant("small_0", num_classes=3)


def example(name: str) -> ModuleType:
    """One of the documentation's ports."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_right_port_in_torch() -> None:
    assert assert_equivalent_everywhere(plain.ScalableViT, settings=SAME, max_examples=20 if is_nightly() else 10) >= 6
    assert assert_equivalent_everywhere(example("torch_port").Port, base=LINEAR, settings=SAME, max_examples=6) >= 4


def test_every_setting_can_vary() -> None:
    assert assert_equivalent_everywhere(plain.ScalableViT, vary=equivalence.SETTINGS, settings=SAME, max_examples=15) >= 10


def flax_build(*, exact: bool) -> Callable[[sv.ScalableViTConfig], Any]:
    port = example("flax_port")
    return lambda config: port.bound(port.Port(config, exact), 2 * [config.strides[-1] * config.window_sizes[-1]])


FLAX: dict[str, Any] = {"base": LINEAR, "configs": strategies.configs(stages=(1, 2), base=LINEAR, vary=equivalence.VARY)}


def test_a_right_port_in_flax() -> None:
    assert assert_equivalent_everywhere(flax_build(exact=True), **FLAX, settings=SAME, max_examples=3) >= 2


def test_a_wrong_port_in_flax() -> None:
    with pytest.raises(AssertionError, match="GELU is the tanh approximation") as raised:
        assert_equivalent_everywhere(flax_build(exact=False), **FLAX, settings=SAME, max_examples=2)
    assert "depths=(1,), num_heads=(1,)" in str(raised.value)


def test_a_port_that_is_a_function_of_the_parameters() -> None:
    def build(config: sv.ScalableViTConfig, params: dict[str, Any]) -> Callable[[Any], Any]:
        return lambda images: sv.trace(images, params | {"norm.bias": params["norm.bias"] * (1 + (config.in_chans == 2))}, config)

    assert_equivalent_everywhere(build, settings=SAME, vary=("depths", "c_ratios"), base="digits", max_examples=3)
    with pytest.raises(AssertionError, match=r"in_chans=2\b") as raised:
        assert_equivalent_everywhere(build, settings=SAME)
    assert "the first is norm" in str(raised.value)


def attentions(port: plain.ScalableViT, kind: type) -> list[tuple[int, Any]]:
    return [(k, block.attn) for k, stage in enumerate(port.stages) for block in stage if isinstance(block.attn, kind)]  # type: ignore[arg-type]


def no_r_c_without_a_reduction(config: sv.ScalableViTConfig) -> plain.ScalableViT:
    port = plain.ScalableViT(config)
    for k, attn in attentions(port, plain.SSA):
        if attn.s == 1:
            attn.scale = (config.embed_dims[k] / config.num_heads[k]) ** -0.5
    return port


def height_and_width_exchanged(config: sv.ScalableViTConfig) -> plain.ScalableViT:
    port = plain.ScalableViT(config)
    for _, attn in attentions(port, plain.IWSA):
        attn.register_forward_pre_hook(lambda module, inputs: (inputs[0], inputs[2], inputs[1]))
    return port


def second_window_block_left_out(config: sv.ScalableViTConfig) -> plain.ScalableViT:
    port = plain.ScalableViT(config)
    for stage in port.stages:
        for block in stage[2:]:  # type: ignore[index]
            block.attn.register_forward_hook(lambda module, inputs, output: output * 0)
    return port


def images_mixed(config: sv.ScalableViTConfig) -> plain.ScalableViT:
    port = plain.ScalableViT(config)
    port.pos_block[0].register_forward_hook(lambda module, inputs, output: output.roll(1, 0))
    return port


def heads_interleaved(config: sv.ScalableViTConfig) -> plain.ScalableViT:
    port = plain.ScalableViT(config)
    for k, attn in attentions(port, plain.SSA):
        heads = config.num_heads[k]
        attn.proj.register_forward_pre_hook(
            lambda module, inputs, heads=heads: inputs[0].unflatten(-1, (heads, -1)).transpose(-1, -2).flatten(-2)
        )
    return port


MISTAKES: dict[Callable[..., Any], tuple[Callable[[Case], bool], str]] = {
    no_r_c_without_a_reduction: (
        lambda case: case.config.sr_ratios == (1,) and case.config.c_ratios[0] != 1 and case.config.depths == (2,),
        "stages.0.1.attn: matches to",
    ),
    height_and_width_exchanged: (lambda case: case.config.depths == (1,) and case.size[0] != case.size[1], "stages.0.0.attn"),
    second_window_block_left_out: (lambda case: case.config.depths == (3,), "stages.0.2.attn"),
    images_mixed: (lambda case: case.batch == 2 and case.config.depths == (1,), "pos_block.0"),
    heads_interleaved: (lambda case: case.config.num_heads == (2,) and case.config.depths == (2,), "stages.0.1.attn"),
}


@pytest.mark.parametrize("build", share(list(MISTAKES), of=2), ids=lambda build: build.__name__)
def test_what_is_wrong_for_some_is_found_and_shrunk(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """To one stage, and nothing in it that the mistake does not need; the message is that case's diagnosis, and can be pasted."""
    cases: list[Case] = []
    compared = equivalence._compared
    monkeypatch.setattr(
        equivalence, "_compared", lambda build, case, *a, **more: cases.append(case) or compared(build, case, *a, **more)
    )
    with pytest.raises(AssertionError) as raised:
        assert_equivalent_everywhere(build, settings=SAME)
    smallest, words = MISTAKES[build]
    message, case = str(raised.value).splitlines(), cases[-1]
    assert smallest(case), case
    assert case.seed == 0
    assert case.config.mlp_ratios == (1,)
    assert case.config.in_chans == 1
    assert build is images_mixed or case.batch == 1
    assert build is heads_interleaved or case.config.embed_dims == (4,)
    pasted = message[1].partition(" with images")[0].strip()
    assert eval(pasted, {"sv": sv}) == case.config
    assert f"with images of shape {case.shape}, seed 0" in message[1]
    assert any(line.startswith(words) or f"the first is {words}" in line for line in message)
    again = message[-1].removeprefix("again: ")
    names = {"sv": sv, "build": build, "config": case.config, "compare": compare}
    assert not eval(again, names | {"random_params": random_params, "random_images": random_images}).agrees


def test_a_port_that_raises() -> None:
    def build(config: sv.ScalableViTConfig) -> Any:
        if 3 in config.num_heads:
            raise RuntimeError("three heads\nare too many")
        return plain.ScalableViT(config)

    with pytest.raises(AssertionError) as raised:
        assert_equivalent_everywhere(build, settings=SAME)
    assert len(str(raised.value).splitlines()) == 1
    words = (
        "building the candidate raised RuntimeError: three heads are too many (",
        "test_everywhere.py, line ",
        "in build); the smallest",
    )
    assert all(part in str(raised.value) for part in (*words, "depths=(1,), num_heads=(3,)"))


def test_a_port_that_cannot_be_run() -> None:
    def build(config: sv.ScalableViTConfig) -> Any:
        port = plain.ScalableViT(config)
        port.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, :2] if config.in_chans > 2 else inputs[0],))
        return port

    with pytest.raises(
        AssertionError, match=r"^running the candidate raised RuntimeError: .*shape \(1, 3, 8, 16\), seed 0$"
    ) as raised:
        assert_equivalent_everywhere(build, settings=SAME)
    assert len(str(raised.value).splitlines()) == 1


def test_a_port_that_gives_something_else_each_time() -> None:
    calls = []

    def build(config: sv.ScalableViTConfig) -> Any:
        port = plain.ScalableViT(config)
        calls.append(port)
        if len(calls) == 3:
            port.register_forward_hook(lambda module, inputs, output: output * 2)
        return port

    with pytest.raises(AssertionError, match="something else each time"):
        assert_equivalent_everywhere(build, settings=SAME)


def test_sizes_batches_and_weights() -> None:
    seen: list[tuple[int, ...]] = []

    def build(config: sv.ScalableViTConfig) -> Any:
        port = plain.ScalableViT(config)
        port.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
        return port

    base = sv.variant("digits", window_sizes=(2, 2, 2, 1))
    options: dict[str, Any] = {"vary": (), "base": base, "settings": SAME, "max_examples": 6}
    assert_equivalent_everywhere(build, image_sizes=[32, (32, 64), 100], batches=(2,), **options)
    assert set(seen) == {(2, 1, 32, 32), (2, 1, 32, 64)}
    seen.clear()
    assert_equivalent_everywhere(build, square=True, weights="own", **options)
    assert {len(set(shape[2:])) for shape in seen} == {1}
    assert {shape[0] for shape in seen} == {1, 2, 3}
    with pytest.raises(ValueError, match=r"image_sizes must hold one that a drawn configuration takes, got \[100\]"):
        assert_equivalent_everywhere(build, image_sizes=[100], **options)


@pytest.mark.parametrize("name", ["drawn", "padded"])
def test_drawn_sizes_fit(name: str) -> None:
    """And are not square."""
    vary = {"drawn": equivalence.VARY, "padded": (*equivalence.VARY, "patch_size")}[name]
    base = sv.variant("small", pad_windows=name == "padded")
    sizes = strategies.configs(vary=vary, base=base).flatmap(
        lambda config: st.tuples(st.just(config), strategies.image_sizes(config))
    )

    @settings(SAME, max_examples=200, database=None, deadline=None)
    @given(sizes)
    def fit(drawn: tuple[sv.ScalableViTConfig, tuple[int, int]]) -> None:
        config, (h, w) = drawn
        check_image_size(config, h, w)
        assert h != w

    fit()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"vary": ("depth",)}, r"vary: there is no setting 'depth' \(did you mean 'depths'\?\)"),
        ({"vary": "depths"}, "vary must be a list of settings' names"),
        ({"base": "smal"}, "did you mean 'small'"),
        ({"configs": [LINEAR]}, "configs must be a Hypothesis strategy"),
        ({"configs": st.just("small")}, "configs must be a strategy of ScalableViTConfig, got 'small'"),
        ({"settings": 3}, "settings must be hypothesis.settings, got 3"),
        ({"batches": [0]}, "batches must be"),
    ],
)
def test_refusals(options: dict[str, Any], problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        assert_equivalent_everywhere(plain.ScalableViT, **options)


def test_without_hypothesis_the_error_is_one_line() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from scalablevit_ref.testing import assert_equivalent_everywhere; assert_equivalent_everywhere(print)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: assert_equivalent_everywhere needs hypothesis: pip install hypothesis"
    )


FIXTURE = """
import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT


def build(config):
    port = ScalableViT(config)
    if config.num_heads[0] > 1:
        port.stages[0][0].mlp.act.approximate = "tanh"
    return port


def test_right(scalablevit_reference):
    scalablevit_reference.assert_equivalent_everywhere(ScalableViT, max_examples=3)


def test_wrong(scalablevit_reference):
    scalablevit_reference.assert_equivalent_everywhere(build)
"""


def test_the_fixture_fails_with_the_diagnosis(tmp_path: Path) -> None:
    (tmp_path / "test_port.py").write_text(FIXTURE, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_port.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "if GELU is the tanh approximation" in done.stdout
    assert "num_heads=(2,)" in done.stdout
    assert "plugin.py" not in done.stdout
    assert "equivalence.py" not in done.stdout

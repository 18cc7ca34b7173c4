"""`scalablevit-ref summary`: what it prints, at the widths and in the encodings it meets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import scalablevit_ref as sv
from scalablevit_ref.cli.options import parse_size
from scalablevit_ref.cli.summary import summary
from scalablevit_ref.config import VARIANTS
from scalablevit_ref.cost import cost
from scalablevit_ref.image_sizes import usual_image_size
from tests.support.checkpoints import zeros
from tests.support.dialects import unbiased

APP = typer.Typer()
APP.command()(summary)


def run(*arguments: str, width: int = 80) -> Result:
    return CliRunner().invoke(APP, arguments, env={"COLUMNS": str(width), "TERM": "dumb"})


def lines(*arguments: str, width: int = 80) -> list[str]:
    result = run(*arguments, width=width)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def line(printed: list[str], start: str) -> list[str]:
    """The columns of the one line that starts so."""
    (found,) = [row for row in printed if row.strip().startswith(start)]
    return found.split()


def test_one_line_for_each_kind_of_block_of_a_stage() -> None:
    printed = lines("small")
    total = cost(sv.variant("small"), 224)
    blocks = [layer for layer in total.layers if layer.name.startswith("stages.2.") and int(layer.name.split(".")[2]) % 2]
    assert line(printed, "stages.2.{1,3..19}") == [
        "stages.2.{1,3..19}",
        *("SSA", "x", "10", "14x14x256"),
        f"{sum(layer.parameters for layer in blocks):,}",
        f"{sum(layer.multiply_adds for layer in blocks) / 1e6:,.1f}",
        f"{sum(layer.attention_multiply_adds for layer in blocks) / 1e6:.2f}",
        f"{sum(layer.activations for layer in blocks) / 1e6:.2f}",
    ]
    assert line(printed, "total ") == ["total", "32,000,472", "4,265.3", "172.10", "22.11"]
    names = [row.split()[0] for row in printed if row.startswith(("patch", "stages", "pos", "norm", "head"))]
    assert names[:4] == ["patch_embeds.0", "stages.0.0", "pos_block.0", "stages.0.1"]
    assert names[-4:] == ["norm", "head.0", "head.1", "head.3"]
    assert len(names) == 4 * 4 + 4


def test_every_layer() -> None:
    printed = lines("mmdet_small", "--layers")
    names = [layer.name for layer in cost(sv.variant("mmdet_small"), 224).layers]
    assert [row.split()[0] for row in printed if row.split() and row.split()[0] in names] == names


@pytest.mark.parametrize(
    ("variant", "parameters", "multiply_adds"),
    [
        ("small", "32.00 M 32.4 M fits SSA v1: 32.38 M", "4.113 G 4.2 G fits SSA v1: 4.16 G"),
        ("base", "81.88 M 81.9 M agrees", "8.590 G 8.6 G agrees"),
        ("large", "109.29 M 104.9 M unexplained (SSA v1: 109.13 M)", "14.721 G 14.7 G agrees"),
        ("small_0", "26.31 M", "4.107 G"),
    ],
)
def test_totals_beside_the_authors_table(variant: str, parameters: str, multiply_adds: str) -> None:
    printed = lines(variant)
    assert line(printed, "parameters  ") == ["parameters", *parameters.split()]
    assert line(printed, "and with biases, norms") == ["and", "with", "biases,", "norms", *multiply_adds.split()]
    assert any("leave the attention products out" in row for row in printed) == (variant != "small_0")
    assert any("may hold either version" in row for row in printed) == (variant == "small")


def test_the_authors_multiply_adds_are_for_224_pixels_only() -> None:
    printed = lines("base", "--image-size", "224x448")
    assert "one image of 224 x 448 pixels" in printed[0]
    assert line(printed, "patch_embeds.0")[1] == "56x112x96"
    assert line(printed, "parameters  ")[-1] == "agrees"
    assert line(printed, "and with biases, norms")[-2:] == ["17.173", "G"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(variant: str, width: int) -> None:
    printed = lines(variant, width=width)
    assert max(map(len, printed)) <= width
    assert not any("…" in row for row in printed)
    assert any("██" in row for row in printed) == (width == 120)


def test_output_that_takes_ascii_only() -> None:
    result = CliRunner(charset="ascii").invoke(APP, ["large"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert result.stdout.isascii()


@pytest.mark.parametrize("variant", VARIANTS)
def test_json_is_one_document(variant: str) -> None:
    found = json.loads(run(variant, "--json").stdout)
    total = cost(sv.variant(variant), tuple(found["image_size"]))
    assert found["image_size"] == ([112, 112] if variant == "digits" else [224, 224])
    assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in total.layers]
    for key in ("parameters", "multiply_adds", "attention_multiply_adds", "module_multiply_adds", "activations"):
        assert found[key] == getattr(total, key)
    assert sv.ScalableViTConfig(**found["config"]) == sv.variant(variant)
    assert (found["published"] is None) == (variant not in ("small", "base", "large"))


def test_json_has_the_authors_figures() -> None:
    assert json.loads(run("large", "--json").stdout)["published"] == {
        "image_size": [224, 224],
        "parameters_millions": 104.9,
        "module_multiply_adds_billions": 14.7,
        "top1_percent": 84.4,
        "remarks": {"parameters": "unexplained (SSA v1: 109.13 M)", "multiply_adds": "agrees"},
    }


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("224x448", (224, 448))])
def test_image_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "224x224x3", "-224", "224.0", "224 x 224", "２２４"])
def test_what_is_no_image_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"--image-size must be a number of pixels or HEIGHTxWIDTH.*got "):
        parse_size(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smal",), "unknown variant 'smal' (did you mean 'small'"),
        (("small", "--image-size", "225"), "the nearest sizes that work are 224 and 445"),
        (("small", "--image-size", "0"), "image_size must be at least 1"),
        (("small", "--image-size", "big"), "--image-size must be a number of pixels"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration in place of a variant's; the figures of the authors only where it is that variant."""
    monkeypatch.chdir(tmp_path)
    digits, small = sv.variant("digits"), sv.variant("small", num_classes=10, head="linear")
    sv.save_checkpoint("digits.safetensors", sv.init_params(digits), digits, layout="split")
    printed = lines("digits.safetensors")
    assert printed[0] == "digits.safetensors: ScalableViT digits, one image of 112 x 112 pixels"
    assert printed[1:] == lines("digits")[1:]
    document = json.loads(run("digits.safetensors", "--json").stdout)
    assert document.pop("file") == "digits.safetensors"
    assert document == json.loads(run("digits", "--json").stdout)
    np.savez("small.npz", **zeros(small))
    refused = run("small.npz")
    assert (refused.exit_code, "give --variant (small, small_0)" in refused.stderr) == (2, True)
    printed = lines("small.npz", "--variant", "small")
    assert printed[0] == "small.npz: no published variant, one image of 224 x 224 pixels"
    assert line(printed, "total ")[1] == f"{cost(small, 224).parameters:,}"
    assert "authors" not in " ".join(printed)
    document = json.loads(run("small.npz", "--variant", "small", "--json", "--image-size", "448x224").stdout)
    assert (document["variant"], document["published"], document["image_size"]) == (None, None, [448, 224])
    assert document["config"]["num_classes"] == 10


def test_a_network_that_takes_no_images_of_the_published_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = sv.variant("digits", window_sizes=(5, 5, 5, 5), pad_windows=False)
    sv.save_checkpoint("odd.npz", sv.init_params(odd), odd)
    assert (
        lines("odd.npz")[0]
        == f"odd.npz: no published variant, one image of {usual_image_size(odd)} x {usual_image_size(odd)} pixels"
    )


def test_what_is_neither_a_variant_nor_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("port.npz", **{name: np.float32(x) for name, x in unbiased().items()})
    for arguments, said in (
        (("smal",), "unknown variant 'smal' (did you mean 'small' or 'small_0'?)"),
        (("scalable_vit_huge",), "unknown variant 'scalable_vit_huge'"),
        (("small.pth",), "small.pth: there is no such file"),
        (("small", "--key", "model"), "--variant and --key are for a file"),
        (("port.npz",), "port.npz: these are vit_pytorch's weights, of another network"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout, said in result.stderr) == (2, "", True), result.stderr

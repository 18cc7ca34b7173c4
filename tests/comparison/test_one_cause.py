"""One mistake is one cause, with all the layers that go wrong by it, and the layer in which it is made is named first."""

from __future__ import annotations

from pathlib import Path

import pytest

import scalablevit_ref as sv
from scalablevit_ref.testing import compare, random_images
from tests.programs.corpus.planted import built, planted_in

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks would only cost time

DIGITS = sv.variant("digits", window_sizes=(4, 4, 2, 1))
IMAGES = random_images((2, 1, 64, 96))

ONE = {
    # blocks that are connected otherwise throughout: the logits from the images on tell, whatever a layer is taken for
    ("torch_functional", "norms come after the sums"): ("stages.0.0.norm1", "norms come after the residual additions", 43),
    ("torch_functional", "odd blocks are the windows'"): ("stages.0.0.norm1", "SSA comes before IWSA", 27),
    ("torch_timm", "stages: scalable blocks first"): ("stages.0.0.norm1", "SSA comes before IWSA", 32),
    # numbers that are put in other places by neither of two layers, or by the one behind
    ("torch_swin", "tokens become a map without a transpose between the stages"): ("patch_embeds.1", "viewed as (b c h w)", 3),
    ("flax_nnx", "SSA's output map transposed"): ("stages.0.1.attn", "H and W are swapped", 3),
    # parameters of other sizes, of which some have the size of another step
    ("flax_nnx", "the MLP's ratio of the first stage"): ("stages.1.0.mlp", "64 channels lie between fc1 and fc2, not 96", 4),
    # one line of the port's own code, in norms of several kinds
    ("jax_pure", "statistics_over_axis_one"): ("patch_embeds.0", "over the rows of each column and channel", 12),
    ("jax_pure", "variance_not_centred"): ("patch_embeds.0", "the variance is the mean square", 12),
    ("torch_research", "the norm's gain scales its shift too"): ("patch_embeds.0", "the shift is added before the gain", 12),
    ("jax_pure", "images_normalised_again"): ("patch_embeds.0", "the images are normalised otherwise, or once more", 1),
}


def planted(port: str, name: str):
    return next(one for one in planted_in(port)[0] if one.name == name)


@pytest.mark.parametrize(("port", "name"), [pytest.param(*key, id=f"{key[0]}: {key[1]}") for key in ONE])
def test_one_mistake_is_one_cause(port: str, name: str, tmp_path: Path) -> None:
    first, words, layers = ONE[port, name]
    report = compare(built(port, planted(port, name), tmp_path, DIGITS), variant=DIGITS, images=IMAGES)
    assert report.first is not None
    assert report.first.layer == first
    (cause,) = report.causes
    assert words in str(cause)
    assert len(cause.layers) == layers


def test_kernels_in_another_order_of_axes(tmp_path: Path) -> None:
    """With one channel in, two orders are the same; with more they are not."""
    report = compare(
        built(
            "torch_functional", planted("torch_functional", "the patches' kernels are viewed and not transposed"), tmp_path, DIGITS
        ),
        variant=DIGITS,
        images=IMAGES,
    )
    words = [cause.words for cause in report.causes]
    assert len(words) == 2
    assert "(kh kw i o)" in words[0]
    assert "(i kh kw o)" in words[1]


def test_what_takes_another_value_is_told_with_all_that_takes_it(tmp_path: Path) -> None:
    name = "the position encoding convolves the stage's input, not the first layer's output"
    report = compare(built("torch_hf", planted("torch_hf", name), tmp_path, DIGITS), variant=DIGITS, images=IMAGES)
    encoding, stream = report.causes
    assert "proj.0 takes what patch_embeds.0 gives, not what stages.0.0 gives" in encoding.words
    assert stream.layers[:3] == ("stages.0.1.norm1", "stages.0.1.norm2", "stages.0.1")
    assert {layer.rpartition(".")[2] for layer in stream.also} == {"norm1", "norm2", "1"}


def test_a_norm_that_acts_is_not_a_bias_that_does_not(tmp_path: Path) -> None:
    name = "the keys' bias stands where the values' belongs, where their lengths are equal"
    report = compare(built("torch_research", planted("torch_research", name), tmp_path, DIGITS), variant=DIGITS, images=IMAGES)
    assert {row.layer for row in report.diverging} == {"stages.2.1.attn", "stages.3.1.attn"}


def test_a_dtype_that_is_asked_for_and_not_kept(tmp_path: Path) -> None:
    name = "statistics_in_float32"
    candidate = built("jax_pure", planted("jax_pure", name), tmp_path, DIGITS)
    report = compare(candidate, variant=DIGITS, images=IMAGES)
    assert report.agrees
    assert report.dtype == "float32"
    assert "part of it computes in float32 whatever it is given: it is compared in float32" in str(report)
    assert not compare(candidate, variant=DIGITS, images=IMAGES, dtype="float64").agrees

"""What a candidate computes is written out from its own graph, where no difference explains it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scalablevit_ref.compare.reasoning.affine import UNNAMED_VECTOR
from scalablevit_ref.compare.reasoning.difference import OPERATIONS, Difference
from scalablevit_ref.compare.written_out import Known, _regrouped, axes_of
from scalablevit_ref.testing import compare
from tests.support import channels_first as port
from tests.support.inside_runs import CONFIG, wrong

WINDOWS = "z = self.paste(weights.softmax(-1) @ self.cut(v), h, w)"

MISTAKES: dict[str, tuple[tuple[Any, ...], str, str]] = {
    "softmax over the windows": (
        (port.WindowMixer, WINDOWS, "z = self.paste(weights.softmax(0) @ self.cut(v), h, w)"),
        "stages.0.0.attn",
        "((softmax over the batch and the windows of q · k × 0.354) · v) + LIM's output; in the reference (softmax over the keys",
    ),
    "every head has the mean of all": (
        (port.WindowMixer, WINDOWS, "z = self.paste(weights.softmax(-1).mean(1, keepdim=True) @ self.cut(v), h, w)"),
        "stages.0.0.attn",
        "((mean over the heads of the softmax, repeated,) · v) + LIM's output",
    ),
    "values without their mean": (
        (port.WindowMixer, WINDOWS, "u = self.cut(v); z = self.paste(weights.softmax(-1) @ (u - u.mean(-2, keepdim=True)), h, w)"),
        "stages.0.0.attn",
        "(the softmax · (v − (mean over the tokens of v))) + LIM's output",
    ),
    "the first image's weights serve all": (
        (port.FewKeysMixer, "z = (weights @ self.split(v)).mT", "z = (weights[:1] @ self.split(v)).mT"),
        "stages.0.1.attn",
        "(a part of the softmax (the first of the batch), repeated,) · v",
    ),
    "logits without their mean": (
        (port.Port, "return self.head(x)", "y = self.head(x); return y - y.mean(0)"),
        "logits",
        "what head gives − (mean over the batch of what head gives)",
    ),
    "the last key is hidden, and no scale": (
        (port.WindowMixer, WINDOWS,
         ("m = torch.zeros(weights.shape[-1], dtype=weights.dtype); m[-1] = -1e9; "
          "z = self.paste((weights.sin() + m).softmax(-1) @ self.cut(v), h, w)")),
        "stages.0.0.attn",
        "((softmax over the keys of (sin of q · k × 0.354 + a mask of 1 of 49 places)) · v) + LIM's output",
    ),
    "probabilities are transposed, of other logits": (
        (port.WindowMixer, WINDOWS, "z = self.paste(weights.sin().softmax(-1).mT @ self.cut(v), h, w)"),
        "stages.0.0.attn",
        ("((softmax over the keys of sin of q · k × 0.354) · v) + LIM's output; in the reference (softmax over the keys of q · k × "
         "0.354) · v + LIM's output; the probabilities are transposed"),
    ),
    "a fifth of the next image": (
        (port.Port, "return self.head(x)", "y = self.head(x); return 0.8 * y + 0.2 * y.flip(0).sin()"),
        "logits",
        "what head gives × 0.8 + (sin of what head gives in another order of the batch) × 0.2",
    ),
    "the median of the tokens": (
        (port.Port, "x.mean((2, 3))", "x.flatten(2).median(2)[0]"),
        "head",
        "median over the rows and the columns of what norm gives",
    ),
}  # fmt: skip


def written(found: Any) -> Difference:
    return next(one for one in found.differences if one.kind == OPERATIONS)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_ran_is_told(name: str) -> None:
    (kind, old, new), layer, expected = MISTAKES[name]
    found = wrong(kind, old, new).inside()
    assert found.layer == layer
    one = written(found)
    assert one.words.removeprefix("written out, it is ").startswith(expected), one.words
    assert one.exact
    assert all(UNNAMED_VECTOR in other.words for other in found.differences if other.exact and other is not one)
    assert one.left == 0


def test_a_softmax_by_hand_is_one() -> None:
    by_hand = "e = (weights - weights.amax(0, keepdim=True)).exp(); z = self.paste(e / e.sum(0, keepdim=True) @ self.cut(v), h, w)"
    found = wrong(port.WindowMixer, WINDOWS, by_hand).inside()
    assert "it is ((softmax over the batch and the windows of q · k × 0.354) · v) + LIM's output;" in written(found).words


def test_values_that_meet_others_are_no_whole_explanation() -> None:
    """q and k hold the right numbers, and lie so that other tokens meet: a formula without the places tells no cause."""
    scores = "self.cut(q).flip(0) @ self.cut(k).mT * (q.shape[1] // self.heads) ** -0.5"
    moved = f"z = self.paste(({scores}).softmax(-1) @ self.cut(v), h, w)"
    found = wrong(port.WindowMixer, WINDOWS, moved).inside()
    for one in found.differences:
        if one.kind == OPERATIONS:
            assert not one.exact
            assert one.words.startswith("other tokens meet than in the reference"), one.words


def test_long_formulas_get_parts_with_names() -> None:
    turned = (
        "u, r = self.cut(q), self.cut(k); n = u.shape[-1] // 2; "
        "u = u * 0.5 + torch.cat((-u[..., n:], u[..., :n]), -1) * 0.25; "
        "r = r * 0.5 + torch.cat((-r[..., n:], r[..., :n]), -1) * 0.125; "
        "z = self.paste((u @ r.mT / 3).softmax(-1) @ self.cut(v), h, w)"
    )
    one = written(wrong(port.WindowMixer, WINDOWS, turned).inside())
    assert one.exact
    assert ", where y = " in one.words
    assert "of a part of q" in one.words
    assert "of the channels of a head" in one.words


def test_axes_are_named_by_what_moves_along_them() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    known = Known("x", x, ("the images", "the rows", "the columns", "the channels"))
    turned = x.transpose(3, 0, 2, 1).reshape(5, 2, 12)
    found = axes_of(turned, known, 2.0**-52)
    assert found == (("the channels", "the images", "the rows and the columns"), 1.0, ())
    flipped = axes_of(turned[:, ::-1], known, 2.0**-52)
    assert flipped == (("the channels", "the images", "the rows and the columns"), 1.0, ("the images",))
    assert axes_of(turned + 1e-6, known, 2.0**-52) is None
    scaled = axes_of(2.5 * turned, Known("x", x, known.axes, scaled=True), 2.0**-52)
    assert scaled is not None
    assert scaled[1] == pytest.approx(2.5)


def test_axes_of_a_view() -> None:
    assert _regrouped(("a", "b", "c"), (2, 3, 4), (6, 4)) == ("a and b", "c")
    assert _regrouped(("a", "c"), (6, 4), (2, 3, 1, 4)) == ("a", "a", "", "c")
    assert _regrouped(("a", "b"), (4, 3), (6, 2)) == ("a and b", "a and b")


def test_what_is_rounded_is_told() -> None:
    half = "z = self.paste((weights.softmax(0).bfloat16().double() @ self.cut(v)), h, w)"
    one = written(wrong(port.WindowMixer, WINDOWS, half).inside())
    assert "rounded to bfloat16)" in one.words


def test_it_is_a_cause_in_the_report() -> None:
    """And its row does not measure what is no fit."""
    (kind, old, new), _, expected = MISTAKES["values without their mean"]
    model = port.Port(CONFIG)
    port.mistaken(model, kind, old, new)
    report = compare(model, variant=CONFIG)
    first = next(cause for cause in report.causes if "stages.0.0.attn" in cause.layers)
    assert expected in first.words
    assert "this explains it" not in "".join(first.rows())

"""One token changed, and what moves: the geometry, runs with values replaced, and mistakes that only this explains."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import scalablevit_ref as sv
from scalablevit_ref.adapters import plain
from scalablevit_ref.compare import inside, reaching
from scalablevit_ref.compare.capture.followed import Followed
from scalablevit_ref.compare.capture.graph import Graph
from scalablevit_ref.compare.capture.jax_functions import function_runner
from scalablevit_ref.compare.capture.onnx import OnnxFile, OnnxRunner
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.compare.html.page import html
from scalablevit_ref.compare.reasoning.difference import OPERATIONS, Difference
from scalablevit_ref.compare.reasoning.reach import Law, Moved, as_seen, disputed, groups, laws_of, matrix, moved_said, places
from scalablevit_ref.compare.reasoning.windows import Measured
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support import channels_first as port
from tests.support.onnx_models import exporting
from tests.support.reports import Page

CONFIG = sv.ScalableViTConfig(
    embed_dims=(16,), depths=(1,), num_heads=(2,), mlp_ratios=(2,), sr_ratios=(2,), c_ratios=(1.25,), window_sizes=(7,),
    num_classes=4, head="linear",
)  # fmt: skip
TWO = replace(CONFIG, depths=(2,))
IMAGES = random_images((2, 3, 56, 112), dtype="float64")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(reaching, "REACH_SECONDS", 600.0)


@pytest.fixture
def few_hypotheses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing explains these mistakes, be it tried for seconds or for a minute."""
    monkeypatch.setattr(inside, "MANY", 200)


# Geometry

SIZE = (14, 28)
h, w = SIZE
TOKEN = np.arange(h * w)
ROW, COLUMN = np.divmod(TOKEN, w)
A, B, R, S, C, D = (x[:, None] if i % 2 == 0 else x[None] for i, x in enumerate((TOKEN, TOKEN, ROW, ROW, COLUMN, COLUMN)))


def same(tile: int, other: int, down: int = 0, right: int = 0) -> np.ndarray:
    return ((R - down) // tile == (S - down) // tile) & ((C - right) // other == (D - right) // other)


RELATIONS: dict[str, tuple[np.ndarray, str, str]] = {
    "windows": (same(7, 7), "its window of 7 × 7", ""),
    "rolled": (
        ((R - 3) % h // 7 == (S - 3) % h // 7) & ((C - 5) % w // 14 == (D - 5) % w // 14),
        "its window of 7 × 14, shifted by 3 rows and 5 columns", "",
    ),
    "not rolled": (same(7, 7, 3, 3), "its window of 7 × 7, shifted by 3 and cut at the border, not rolled round it", ""),
    "does not divide": (same(4, 5), "its window of 4 × 5", ""),
    "rows": (np.broadcast_to(R == S, (h * w, h * w)), "its own row", ""),
    "columns": (np.broadcast_to(C == D, (h * w, h * w)), "its own column", ""),
    "map": (A >= 0 * B, "the whole map", ""),
    "nothing": (A < 0 * B, "nothing", ""),
    "own": (A == B, "its own token alone", ""),
    "around": ((abs(R - S) <= 2) & (abs(C - D) <= 1), "the 5 × 3 tokens around it", ""),
    "round the border": ((((R - S + 2) % h) <= 4) & (((C - D + 2) % w) <= 4), "the 5 × 5 tokens around it, round the border", ""),
    "inside": (
        (np.clip(S - 2, 0, h - 5) <= R) & (np.clip(S - 2, 0, h - 5) + 5 > R)
        & (np.clip(D - 2, 0, w - 5) <= C) & (np.clip(D - 2, 0, w - 5) + 5 > C),
        "the 5 × 5 tokens around it, kept inside the map (neighbourhood attention)", "",
    ),
    "dilated": (
        (abs(R - S) <= 4) & ((R - S) % 2 == 0) & (abs(C - D) <= 1), "the 9 × 3 tokens around it, of these every 2nd row", "",
    ),
    "one-sided": (
        (S - R >= 0) & (S - R <= 2) & (C == D),
        "of the rows the 3 around it (+0 to +2), of the columns its own alone",
        "of the rows the 3 around it (-2 to +0), of the columns its own alone",
    ),
    "grid": ((R % 2 == S % 2) & (C % 4 == D % 4), "every 2nd row and every 4th column from its own (a dilated grid)", ""),
    "causal": (B >= A, "the later tokens (a causal mask)", "the earlier tokens (a causal mask)"),
    "causal in windows": (
        same(7, 7) & (B >= A), "the later tokens of its window of 7 × 7 (a causal mask)",
        "the earlier tokens of its window of 7 × 7 (a causal mask)",
    ),
    "strictly causal": (
        same(7, 7) & (B > A), "the later tokens without its own of its window of 7 × 7 (a causal mask)",
        "the earlier tokens without its own of its window of 7 × 7 (a causal mask)",
    ),
    "not itself": (same(7, 7) & (A != B), "all but its own token of its window of 7 × 7", ""),
    "runs": (A // 49 == B // 49, "its run of 49 tokens one after the other, row by row", ""),
    "runs of columns": (
        (C * h + R) // 49 == (D * h + S) // 49, "its run of 49 tokens one after the other, column by column", "",
    ),
    "cross": ((R == S) | (C == D), "its row and its column (axial attention)", ""),
    "halo": (
        (S // 7 * 7 - 2 <= R) & (S // 7 * 7 + 9 > R) & (D // 7 * 7 - 2 <= C) & (D // 7 * 7 + 9 > C),
        "windows of 7 × 7 with 2 rows and columns around each", "",
    ),
    "put elsewhere": (
        ((R + 3) % h == S) & ((C - 2) % w == D), "the token +3 rows and -2 columns away",
        "the token -3 rows and +2 columns away",
    ),
}  # fmt: skip


def told(relation: np.ndarray) -> Law | None:
    """The law of what moves where a few tokens are changed, and those that tell laws apart."""

    def moved(at: tuple[int, int]) -> Moved:
        return Moved(0, *at, relation[at[0] * w + at[1]].reshape(1, h, w))

    moves = [moved(at) for at in places(SIZE, 12)]
    while len(laws := laws_of(moves, SIZE, 4)) > 1:
        apart = next(filter(None, (disputed(laws[0], other, SIZE, SIZE) for other in laws[1:])), None)
        if apart is None:
            break
        moves.append(moved(apart))
    assert len(moves) < 20
    return laws[0] if laws else None


@pytest.mark.parametrize("name", RELATIONS)
def test_what_a_token_reaches_is_told_by_a_few_of_them(name: str) -> None:
    relation, words, seen = RELATIONS[name]
    law = told(relation)
    assert law is not None
    assert law.words == words
    assert as_seen(law) == (seen or words)
    assert np.array_equal(matrix(law, SIZE, SIZE), relation)


def test_no_law_is_told_where_there_is_none() -> None:
    group = (TOKEN * 5 + 3) % (h * w) // 49
    relation = group[:, None] == group
    assert told(relation) is None
    moves = [Moved(0, *divmod(int(t), w), relation[t].reshape(1, h, w)) for t in np.unique(group, return_index=True)[1]]
    found = groups(moves, SIZE)
    assert found is not None
    assert np.array_equal(found, relation)
    assert groups(moves[1:], SIZE) is None  # a group that was not seen
    torn = [*moves[:-1], replace(moves[-1], moved=np.ones((1, h, w), bool))]
    assert groups(torn, SIZE) is None  # no groups


def test_a_few_keys_reach_many_queries() -> None:
    """Of 7 × 14 keys, each of 2 × 2 tokens, a query sees the 3 × 3 around its own."""
    keys = (7, 14)
    i, j = np.divmod(np.arange(98), 14)
    relation = (abs(i[:, None] - ROW // 2) <= 1) & (abs(j[:, None] - COLUMN // 2) <= 1)
    moves = [Moved(0, *at, relation[at[0] * 14 + at[1]].reshape(1, h, w)) for at in places(keys, 12)]
    (law,) = laws_of(moves, keys)
    assert law.words == "the 3 × 3 tokens around it"
    assert np.array_equal(matrix(law, keys, SIZE), relation)


def test_what_moved_in_words() -> None:
    x = np.zeros((14, 28), bool)
    assert moved_said(x) == "nothing moves"
    assert moved_said(~x) == "every token moves"
    x[3] = True
    assert moved_said(x) == "row 3 moves"
    x[4] = True
    assert moved_said(x) == "rows 3–4 move"
    x[5, 0] = True
    assert moved_said(x) == "the 57 tokens from row 3, column 0 to row 5, column 0 move"
    x[9, 9] = True
    assert moved_said(x) == "58 tokens of rows 3–9 and columns 0–27 move"


# Values replaced in a run


class Small(nn.Module):
    """A value that is made, seen in another shape, written in place, and used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.permute(0, 2, 3, 1))
        turned = y.transpose(1, 2)
        z = turned * 2
        z += 1
        return self.second(z).sum((1, 2)) + self.second(y).mean((1, 2))


def jax_small(first: Any, second: Any, x: Any) -> Any:
    y = jnp.moveaxis(x, 1, -1) @ first
    return (jnp.swapaxes(y, 1, 2) * 2 + 1).sum((1, 2)) @ second


SMALL = random_images((2, 3, 4, 6), dtype="float64")


def made_by(graph: Graph, name: str) -> int:
    return next(operation.outputs[0] for operation in graph.operations if name in operation.name)


@pytest.mark.parametrize("name", ["aten.mm.", "transpose", "aten.mul.", "add_."])
def test_a_value_of_torch_is_replaced(name: str) -> None:
    model = Small().double()
    runner = TorchRunner(model, "float64")
    graph = runner.record(SMALL, {})
    value, logits = made_by(graph, name), graph.outputs["logits"]
    plain = runner.values(SMALL, {}, [value, logits])[0]
    same = runner.values(SMALL, {}, [logits], {value: plain[value]})[0]
    assert np.allclose(same[logits], plain[logits], rtol=1e-14)
    other = runner.values(SMALL, {}, [value, logits], {value: plain[value] + 0.25})[0]
    assert np.array_equal(other[value], plain[value] + 0.25)
    change = {"aten.mm.": 0.25 * (2 * 24 + 1), "transpose": 0.25 * 2 * 24, "aten.mul.": 0.25 * 24, "add_.": 0.25 * 24}[name]
    expected = change * model.second.weight.detach().numpy().sum(1)
    assert np.allclose(other[logits] - plain[logits], expected, rtol=1e-12)
    assert np.array_equal(runner.values(SMALL, {}, [logits])[0][logits], plain[logits])


def test_what_no_operation_gives_is_not_replaced() -> None:
    runner = TorchRunner(Small().double(), "float64")
    graph = runner.record(SMALL, {})
    value = made_by(graph, "aten.mm.")
    for wrong in ({value: np.zeros((1, 1))}, {99_999: np.zeros((2, 4))}):
        with pytest.raises(CaptureError, match="not what an operation of this shape gives"):
            runner.values(SMALL, {}, [graph.outputs["logits"]], wrong)
    assert runner.unrepeated(SMALL, {}) == ""


def test_a_value_of_jax_is_replaced() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    runner = function_runner(lambda x: jax_small(first, second, x), SMALL, "float64")
    assert runner is not None
    graph = runner.record(SMALL, {})
    value, logits = made_by(graph, "dot_general"), graph.outputs["logits"]
    plain = runner.values(SMALL, {}, [value, logits])[0]
    other = runner.values(SMALL, {}, [logits], {value: plain[value] + 0.25})[0]
    assert np.allclose(other[logits] - plain[logits], 0.25 * 2 * 24 * second.sum(0), rtol=1e-12)
    assert np.array_equal(runner.values(SMALL, {}, [logits])[0][logits], plain[logits])


def test_a_value_of_onnx_is_replaced(tmp_path: Path) -> None:
    model = Small()
    path, images = tmp_path / "small.onnx", SMALL.astype("float32")
    exporting(model, path, images[:1])  # which takes one image at a time
    runner = OnnxRunner(OnnxFile(path), images)
    graph = runner.record(images, {})
    logits = graph.outputs["logits"]
    value = next(x for x, shape in graph.shapes.items() if shape == (2, 4, 6, 4) and x not in graph.parameters)
    plain = runner.values(images, {}, [value, logits])[0]
    other = runner.values(images, {}, [logits], {value: plain[value] + np.float32(0.25)})[0]
    assert np.linalg.norm(other[logits] - plain[logits]) > 1
    again = runner.values(images, {}, [logits], {value: plain[value]})[0]
    assert np.allclose(again[logits], plain[logits], rtol=1e-5)


# Mistakes


class Masked(port.WindowMixer):
    """Attention over all tokens of which a query sees some: `seen` of the rows and columns of queries and keys."""

    seen: Callable[..., Tensor]

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = (t.reshape(b, self.heads, -1, h * w).transpose(-1, -2) for t in self.inner(x).chunk(3, 1))
        row, column = (t.reshape(-1) for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        seen = self.seen(row[:, None], row, column[:, None], column, h, w)
        weights = (q @ k.transpose(-1, -2) * self.scale(c)).masked_fill(~seen, -torch.inf).softmax(-1)
        return self.outer((weights @ v).transpose(-1, -2).reshape(x.shape) + self.local(v.transpose(-1, -2).reshape(x.shape)))

    def scale(self, c: int) -> float:
        return (c // self.heads) ** -0.5


class Sharper(Masked):
    def scale(self, c: int) -> float:
        return (c // self.heads) ** -0.4


class Rolled(port.WindowMixer):
    """Windows of 7 × 14 that are shifted, and put back shifted on."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.inner(x).chunk(3, 1)
        cut = [t.roll((-3, -5), (2, 3)).reshape(b, self.heads, -1, h // 7, 7, w // 14, 14) for t in (q, k, v)]
        q, k, z = (t.permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5) for t in cut)
        z = (q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5).softmax(-1) @ z
        z = z.unflatten(4, (7, 14)).permute(0, 3, 6, 1, 4, 2, 5).reshape(b, c, h, w)
        return self.outer(z + self.local(v))


class OfAllImages(port.WindowMixer):
    """The images lie side by side before the map is cut into windows."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.inner(x).chunk(3, 1)
        side = [t.permute(1, 2, 3, 0).reshape(1, c, h, w * b) for t in (q, k, v)]
        q, k, z = (self.cut(t) for t in side)
        z = self.paste((q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5).softmax(-1) @ z, h, w * b)
        return self.outer(z.reshape(c, h, w, b).permute(3, 0, 1, 2) + self.local(v))


class OneWayDilated(port.WindowMixer):
    def forward(self, x: Tensor) -> Tensor:
        local = self.local
        v = self.inner(x).chunk(3, 1)[2]
        lim = F.conv2d(v, local.weight, local.bias, padding=(2, 1), dilation=(2, 1), groups=len(local.weight))
        return port.WindowMixer.forward(self, x) + self.outer(lim - local(v)) - self.outer(lim * 0)


class Pooled(port.WindowMixer):
    """LIM takes the largest of each token's neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        q, k, v = self.inner(x).chunk(3, 1)
        weights = self.cut(q) @ self.cut(k).transpose(-1, -2) * (q.shape[1] // self.heads) ** -0.5
        z = self.paste(weights.softmax(-1) @ self.cut(v), h, w)
        return self.outer(z + self.local(F.max_pool2d(v, 5, 1, 2) - v.tanh()))


class Deaf(port.WindowMixer):
    """Queries and keys have no influence."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        v = self.inner(x).chunk(3, 1)[2]
        q, k, _ = self.inner(x).chunk(3, 1)
        weights = (self.cut(q) @ self.cut(k).transpose(-1, -2)).softmax(-1) * 0 + 0.03
        return self.outer(self.paste(weights @ self.cut(v).abs().sqrt(), h, w) + self.local(v))


class WholeMapNorm(port.ChannelNorm):
    """Mean and deviation are those of the whole map, and something is added to the deviation."""

    def forward(self, x: Tensor) -> Tensor:
        away = x - x.mean((1, 2, 3), keepdim=True)
        x = away / (away.abs().mean((1, 2, 3), keepdim=True) + 0.1)
        return x * self.gamma[:, None, None] + self.beta[:, None, None]


class FewNear(port.FewKeysMixer):
    """A query sees the keys around its own place alone."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] // self.s, x.shape[3] // self.s
        y = F.gelu(self.norm(self.widen(self.squeeze(x))))
        row, column = (t.reshape(-1) for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        i, j = (t.reshape(-1) // self.s for t in torch.meshgrid(*map(torch.arange, x.shape[2:]), indexing="ij"))
        seen = ((i[:, None] - row).abs() <= 1) & ((j[:, None] - column).abs() <= 2)
        logits = self.split(self.query(x)) @ self.split(self.key(y)).transpose(-1, -2) * self.scale
        z = logits.masked_fill(~seen, -torch.inf).softmax(-1) @ self.split(self.value(y))
        return self.outer(z.transpose(-1, -2).reshape(x.shape))


def made(kind: type[nn.Module], config: Any = CONFIG, seen: Callable[..., Any] | None = None) -> nn.Module:
    """The port with all modules of the parent class being of this kind."""
    model = port.Port(config)
    for module in model.modules():
        if type(module) is kind.__mro__[1] or type(module) is kind.__mro__[2]:
            module.__class__ = kind
            if seen is not None:
                module.seen = seen  # type: ignore[assignment]
    return model


def report_of(model: Any, config: Any = CONFIG, **settings: Any) -> Report:
    return compare(model, variant=config, images=IMAGES, **settings)


def differences(report: Report) -> tuple[Difference, ...]:
    return report.insides[0].differences


NEAR = "the 5 × 5 tokens around it, kept inside the map (neighbourhood attention)"
ASSERTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "not rolled back": (
        lambda: made(Rolled),
        ("each query sees its window of 7 × 14, shifted by 3 rows and 5 columns, not its window of 7 × 7, and its output is put "
        "at the token -3 rows and -5 columns away"),
    ),
    "neighbourhood": (
        lambda: made(Masked, seen=lambda i, j, k, m, h, w: near(i, j, h) & near(k, m, w)),
        f"each query sees {NEAR}, not its window of 7 × 7",
    ),
    "cross": (
        lambda: made(Masked, seen=lambda i, j, k, m, h, w: (i == j) | (k == m)),
        "each query sees its row and its column (axial attention), not its window of 7 × 7",
    ),
    "padded at the top": (
        lambda: made(Masked, seen=lambda i, j, k, m, h, w: ((i + 2) // 8 == (j + 2) // 8) & ((k + 5) // 8 == (m + 5) // 8)),
        ("each query sees its window of 8 × 8, shifted by 6 rows and 3 columns and cut at the border, not rolled round it, "
        "not its window of 7 × 7"),
    ),
    "runs": (
        lambda: made(Masked, seen=lambda i, j, k, m, h, w: (i * w + k) // 35 == (j * w + m) // 35),
        "each query sees its run of 35 tokens one after the other, row by row, not its window of 7 × 7",
    ),
    "shuffled": (
        lambda: made(Masked, seen=lambda i, j, k, m, h, w: shuffled(i * w + k, h * w) == shuffled(j * w + m, h * w)),
        "each query sees its group of 49 tokens, which is no window of the map (one is of tokens ",
    ),
    "another scale too": (
        lambda: made(Sharper, seen=lambda i, j, k, m, h, w: (i % 2 == j % 2) & (k // 4 == m // 4)),
        ("each query sees of the rows every 2nd, of the columns its tile of 4, not its window of 7 × 7 and logits are scaled "
        "by 0.435; in the reference by 0.354"),
    ),
}  # fmt: skip


def near(query: Tensor, key: Tensor, n: int) -> Tensor:
    first = (query - 2).clamp(0, n - 5)
    return (key >= first) & (key < first + 5)


def shuffled(token: Tensor, n: int) -> Tensor:
    return (token * 5 + 3) % n // 49


@pytest.mark.parametrize("name", ASSERTED)
def test_who_sees_whom_is_measured_and_explains_the_attention(name: str) -> None:
    build, words = ASSERTED[name]
    report = report_of(build())
    (cause,) = report.causes
    assert cause.layers == ("stages.0.0.attn",)
    assert cause.words.startswith(words), cause.words
    assert cause.error < 64
    json.dumps(report.to_json())


@pytest.mark.usefixtures("few_hypotheses")
def test_without_a_run_of_the_changed_candidate_none_of_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "sights", lambda scene, step: Measured())
    report = report_of(ASSERTED["cross"][0]())
    assert all(cause.kind == OPERATIONS for cause in report.causes)
    assert differences(report)[0].kind == "reach"  # the fact is told all the same
    assert "its row and its column" in differences(report)[0].words


FACTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "images mixed": (
        lambda: made(OfAllImages),
        "one key changed at row 7, column 12: in the candidate rows 7–13 and columns 11–13 move, and tokens of other images too",
    ),
    "pooled": (
        lambda: made(Pooled),
        ("one value changed at row 7, column 12: in the candidate rows 5–9 and columns 10–14 move, in the reference it alone "
        "moves: it reaches the 5 × 5 tokens around it, not its own token alone"),
    ),
    "deaf": (
        lambda: made(Deaf),
        ("one key changed at row 7, column 12: in the candidate nothing moves, in the reference rows 7–13 and columns 7–13 move: "
        "it has no influence"),
    ),
    "norm": (
        lambda: made(WholeMapNorm),
        ("one token of what enters norm changed at row 7, column 12: in the candidate every token moves, in the reference it alone "
        "moves: it reaches the whole map, not its own token alone"),
    ),
}  # fmt: skip


@pytest.mark.usefixtures("few_hypotheses")
@pytest.mark.parametrize("name", FACTS)
def test_what_moves_is_told_where_nothing_explains_it(name: str) -> None:
    build, words = FACTS[name]
    report = report_of(build())
    assert all(cause.kind == OPERATIONS for cause in report.causes)
    first = next(one for one in differences(report) if one.kind != OPERATIONS)
    assert (first.kind, first.exact) == ("reach", False)
    assert first.words.startswith(words), first.words
    assert first.data["images mixed"] == (name == "images mixed")
    assert words in json.dumps(report.to_json(), ensure_ascii=False)
    assert bool(report.causes) != (words in str(report))  # a cause is told without the facts beside it


def test_a_query_that_sees_few_of_the_keys() -> None:
    report = report_of(made(FewNear, TWO), TWO)
    (cause,) = report.causes
    assert cause.layers == ("stages.0.1.attn",)
    assert cause.words == "each query sees the 3 × 5 tokens around it, not the whole map"


@pytest.mark.usefixtures("few_hypotheses")
def test_what_is_right_is_told_too() -> None:
    """Windows are right, and so is every head; what is done with the weights is not."""

    class Odd(port.WindowMixer):
        def forward(self, x: Tensor) -> Tensor:
            h, w = x.shape[2:]
            q, k, v = self.inner(x).chunk(3, 1)
            weights = (self.cut(q) @ self.cut(k).transpose(-1, -2) * (q.shape[1] // self.heads) ** -0.5).softmax(-1)
            z = (weights + weights.sin() * weights.flip(-1)) @ self.cut(v)
            return self.outer(self.paste(z, h, w) + self.local(v))

    found = differences(report_of(made(Odd)))
    assert not any(one.exact and one.kind != OPERATIONS for one in found)
    (said,) = (one.words for one in found if one.kind == "reach")
    assert said == "what moves where one key is changed is right: each query sees its window of 7 × 7"


@pytest.mark.usefixtures("few_hypotheses")
def test_channels_are_changed_where_tokens_reach_as_far_as_they_should() -> None:
    class Across(port.WindowMixer):
        """The heads' outputs are mixed."""

        def forward(self, x: Tensor) -> Tensor:
            h, w = x.shape[2:]
            q, k, v = self.inner(x).chunk(3, 1)
            weights = (self.cut(q) @ self.cut(k).transpose(-1, -2) * (q.shape[1] // self.heads) ** -0.5).softmax(-1)
            weights = weights * weights.flip(1)
            return self.outer(self.paste(weights @ self.cut(v), h, w) + self.local(v))

    (said,) = (one.words for one in differences(report_of(made(Across))) if one.kind == "reach")
    assert said == (
        "one channel of a key changed (channel 8): in the candidate channels 0–15 move, in the reference channels 8–15 move"
    )


SEEN = "each query sees of the rows its tile of 7, of the columns every 4th, not its window of 7 × 7"


def test_a_mistake_in_flax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are tiles of 7 rows, and of every fourth column."""
    source = (Path(__file__).parents[2] / "docs" / "examples" / "flax_port.py").read_text(encoding="utf-8")
    mistaken = types.ModuleType("mistaken_port")
    monkeypatch.setitem(sys.modules, mistaken.__name__, mistaken)
    assert source.count("(j q) c") == 2
    exec(compile(source.replace("(j q) c", "(q j) c"), "mistake.py", "exec"), vars(mistaken))
    model = mistaken.bound(mistaken.Port(CONFIG, exact=True), (56, 112))
    (cause,) = report_of(model).causes
    assert cause.words == SEEN
    assert cause.line.startswith("mistake.py, line ")


class GridOfColumns(plain.IWSA):
    """Windows are tiles of 7 rows, and of every fourth column."""

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        b, n, c = x.shape
        p, d = self.p, c // self.heads
        qkv = self.qkv(x.view(b, h, w, c))
        lim = self.lim_func(qkv[..., 2 * c :].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        windows = qkv.view(b, h // p, p, p, w // p, 3, self.heads, d).permute(5, 0, 1, 4, 6, 2, 3, 7)
        q, k, v = windows.reshape(3, b, h // p, w // p, self.heads, p * p, d)
        z = ((q @ k.transpose(-1, -2)) * d**-0.5).softmax(-1) @ v
        z = z.view(b, h // p, w // p, self.heads, p, p, d).permute(0, 1, 4, 5, 2, 3, 6).reshape(b, h, w, c)
        return self.proj((z + lim).reshape(b, n, c))


def test_a_mistake_in_onnx(tmp_path: Path) -> None:
    model = plain.ScalableViT(CONFIG)
    model.load_state_dict(
        {name: torch.from_numpy(x) for name, x in random_params(parameter_shapes(CONFIG), dtype="float32").items()}
    )
    for module in model.modules():
        if type(module) is plain.IWSA:
            module.__class__ = GridOfColumns
    path, images = tmp_path / "port.onnx", IMAGES.astype("float32")
    exporting(model, path, images)
    report = compare(path, variant=CONFIG, images=images)
    (cause,) = report.causes
    assert cause.words == SEEN


# What it costs


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    before = Followed.probe

    def counted(self: Followed, replaced: Mapping[int, np.ndarray], values: Any) -> Any:
        found.append(len(replaced))
        return before(self, replaced, values)

    monkeypatch.setattr(Followed, "probe", counted)
    return found


def test_a_right_port_is_not_run_with_changes(probes: list[int]) -> None:
    assert report_of(port.Port(CONFIG)).agrees
    assert probes == []


@pytest.mark.parametrize("line", ["softmax(-1)", "lim = self.local(v)"])
def test_a_mistake_that_is_explained_costs_no_run_with_changes(probes: list[int], line: str) -> None:
    model = port.Port(CONFIG)
    port.mistaken(model, port.WindowMixer, line, {"softmax(-1)": "softmax(-2)"}.get(line, "lim = self.local(q)"))
    assert report_of(model).causes
    assert probes == []


def test_a_mistake_that_nothing_explains_costs_few_runs(probes: list[int]) -> None:
    report_of(ASSERTED["cross"][0]())
    assert 0 < len(probes) <= 30


@pytest.mark.usefixtures("few_hypotheses")
def test_a_candidate_that_cannot_be_run_so_is_told_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Followed, replaced: Any, values: Any) -> Any:
        raise CaptureError("it cannot")

    monkeypatch.setattr(Followed, "probe", refused)
    found = differences(report_of(made(Deaf)))
    assert found
    assert not any(one.kind == "reach" for one in found)


# The page


def test_the_page_shows_what_moves_in_both() -> None:
    report = report_of(ASSERTED["not rolled back"][0]())
    parsed = Page(html(report))
    assert "What moves in the candidate one key is changed, at row 7, column 12" in parsed.text
    maps = [picture for picture in parsed.pictures() if picture.shape[:2] == SIZE]
    dark, bright = (0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25)
    mine, right = maps[:2]
    for shown, rows, columns in ((mine, range(7), range(14)), (right, range(7, 14), range(7, 14))):
        lit = {(int(i), int(j)) for i, j in np.argwhere((shown[..., :3] != dark).any(-1))}
        assert lit == {(i, j) for i in rows for j in columns}
        assert (tuple(shown[7, 12][:3]) == bright) == (shown is right)

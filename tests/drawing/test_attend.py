"""`attend`: the weights are those of the specification, lie where the picture puts them, and the page's figures are measured."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from PIL import Image
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref import digits, ops
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.cli import app
from scalablevit_ref.drawing import attention_maps, style
from scalablevit_ref.drawing.attention_maps import AttentionPicture
from scalablevit_ref.drawing.attention_weights import LayerAttention, layer_attention
from scalablevit_ref.drawing.render import drawn, house_style
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.strategies import Case, block_cases, iwsa_cases, ssa_cases
from tests.programs.attention_ink import IWSAInk, SSAInk, attentions, iwsa_ink, ssa_ink
from tests.support.library import Agree, Library

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks would only cost time

PAGE = Path(__file__).parents[2] / "docs" / "attention.md"
CONFIG = sv.ScalableViTConfig(
    embed_dims=(8, 16),
    depths=(2, 2),
    num_heads=(2, 4),
    mlp_ratios=(2, 2),
    sr_ratios=(4, 1),
    c_ratios=(1.25, 1.25),
    window_sizes=(3, 3),
    num_classes=5,
    head="linear",
    patch_size=2,
)
PARAMS = random_params(sv.parameter_shapes(CONFIG))
IMAGES = random_images((2, 3, 12, 24))
"""Maps of 6 x 12 and 3 x 6 tokens; two rows of the first fill no tile of s = 4."""


@given(case=st.one_of(iwsa_cases(pad=None), ssa_cases()))
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_attend_is_called_in_the_place_of_attention(case: Case, library: str, agree: Agree) -> None:
    """Bit for bit: one call, with arrays of which `ops.attention` makes the same; and what it gives is what is used."""
    xp = Library(library)
    calls: list[tuple[Any, ...]] = []

    def keep(q: Any, k: Any, v: Any, *, scale: float) -> Any:
        z = ops.attention(q, k, v, scale=scale)
        calls.append((q, k, v, scale, z))
        return z

    run = iwsa if "window_size" in case.settings else ssa
    x, params = xp(case.x), xp(case.params)
    agree.exactly(run(x, params, **case.settings, attend=keep), run(x, params, **case.settings))
    ((q, k, v, scale, z),) = calls
    agree.exactly(ops.attention(q, k, v, scale=scale), z)
    agree(ops.attention.definition(q, k, v, scale=scale), z)
    assert q.shape[-3] == k.shape[-3] == v.shape[-3] == case.settings["num_heads"]
    changed = run(x, params, **case.settings, attend=lambda q, k, v, *, scale: keep(q, k, v, scale=scale) + 1.0)
    projected = case.params["proj.weight"].sum(axis=1)
    agree(changed, sv.to_numpy(run(x, params, **case.settings)) + projected)


@given(case=st.one_of(iwsa_cases(pad=None), ssa_cases()))
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_without_attend_the_backend_s_own_attention_is_called_once_and_no_softmax(case: Case, library: str) -> None:
    """The path that is fast: no library's arrays go through the definition, which has a softmax."""
    x, params = (Library(library)(value, "float32") for value in (case.x, case.params))
    native, calls = import_module(f"scalablevit_ref.backends.{library}"), []

    def counted(q: Any, k: Any, v: Any, *, scale: float) -> Any:
        calls.append((q.shape, k.shape, v.shape))
        return attend(q, k, v, scale=scale)

    attend = native.attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "attention", counted)
        patch.setattr(native, "softmax", refused("softmax"), raising=False)
        (iwsa if "window_size" in case.settings else ssa)(x, params, **case.settings)
    assert len(calls) == 1


def refused(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{name} is called")

    return call


@given(case=st.one_of(iwsa_cases(pad=None), ssa_cases()))
def test_torch_s_fused_attention_is_called_once_where_the_widths_are_equal(case: Case) -> None:
    """On a CPU SSA with values of another width does without, as `backends.torch.attention` says."""
    x, params = (Library("torch")(value, "float32") for value in (case.x, case.params))
    calls: list[Any] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return fused(*args, **kwargs)

    fused, run = F.scaled_dot_product_attention, iwsa if "window_size" in case.settings else ssa
    wide = "window_size" in case.settings or params["q.weight"].shape[0] == params["proj.weight"].shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", counted)
        if wide:
            patch.setattr(torch, "softmax", refused("softmax"))
        run(x, params, **case.settings)
    assert len(calls) == (1 if wide else 0)


@given(case=block_cases())
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_functions_that_take_the_place_of_a_block_s_own(case: Case, library: str, agree: Agree) -> None:
    """`attend` reaches the attention and `activation` the MLP, through `block`; the tap sees what became of it."""
    xp = Library(library)
    x, params, seen = xp(case.x), xp(case.params), {}

    def keep(name: str, y: Any) -> Any:
        seen[name] = y
        return y

    whole = sv.block(x, params, **case.settings, attend=ops.attention, activation=ops.gelu)
    agree.exactly(whole, sv.block(x, params, **case.settings))
    sv.block(x, params, **case.settings, attend=lambda q, k, v, *, scale: 0.0 * ops.attention(q, k, v, scale=scale), tap=keep)
    if case.settings["kind"] == "ssa":
        agree(seen["attn"], np.broadcast_to(case.params["attn.proj.bias"], case.shape))
    sv.block(x, params, **case.settings, activation=lambda y: 0.0 * y, tap=keep)
    agree(seen["mlp"], np.broadcast_to(case.params["mlp.fc2.bias"], case.shape))
    p = {name.removeprefix("mlp."): value for name, value in params.items() if name.startswith("mlp.")}
    agree(
        sv.mlp(x, p, activation=ops.gelu_tanh),
        ops.linear(ops.gelu_tanh(ops.linear(x, p["fc1.weight"], p["fc1.bias"])), p["fc2.weight"], p["fc2.bias"]),
    )


def norm1(layer: str) -> np.ndarray:
    return np.asarray(sv.trace(IMAGES, PARAMS, CONFIG)[f"{layer}.norm1"])


def own(layer: str) -> dict[str, np.ndarray]:
    """The attention's parameters under local names."""
    prefix = f"{layer}.attn."
    return {name.removeprefix(prefix): x for name, x in PARAMS.items() if name.startswith(prefix)}


def shares(q: np.ndarray, keys: np.ndarray, scale: float) -> np.ndarray:
    """Softmax over "n c" keys, with the dot products one by one."""
    scores = np.exp([scale * float(q @ key) for key in keys])
    return np.asarray(scores / scores.sum())


TOKENS = [(0, 0), (1, 5), (2, 2)]


@pytest.mark.parametrize("query", TOKENS)
def test_ssa_weights_are_those_of_the_reduced_keys_row_by_row(query: tuple[int, int]) -> None:
    for layer, heads in (("stages.0.1", 2), ("stages.1.1", 4)):
        found, x, p = layer_attention(IMAGES, PARAMS, CONFIG, layer), norm1(layer), own(layer)
        c = x.shape[-1]
        if layer == "stages.1.1":
            keys = (x @ p["kv.weight"].T + p["kv.bias"])[..., :c]
        else:
            tiles = [x[:, :4, 4 * j : 4 * j + 4] for j in range(3)]
            y = np.stack([np.einsum("bhwc,cohw->bc", t, p["reduction.0.weight"]) + p["reduction.0.bias"] for t in tiles], 1)[
                :, None
            ]
            y = y @ p["reduction.1.weight"][:, :, 0, 0].T + p["reduction.1.bias"]
            y = ops.gelu(ops.layer_norm(y, p["norm_act.0.weight"], p["norm_act.0.bias"], eps=1e-5))
            keys = y @ p["k.weight"].T + p["k.bias"]
        asks = x[1, query[0], query[1]] @ p["q.weight"].T + p["q.bias"]
        for head, (q, k) in enumerate(zip(np.split(asks, heads), np.split(keys[1], heads, axis=-1), strict=True)):
            expected = shares(q, k.reshape(-1, k.shape[-1]), (c / heads * 1.25) ** -0.5)
            np.testing.assert_allclose(found.weights[1, head, query[0], query[1]].ravel(), expected, rtol=1e-10)
        np.testing.assert_allclose(found.received, found.weights.mean((2, 3)), rtol=1e-12)


@pytest.mark.parametrize("query", TOKENS)
def test_iwsa_weights_are_those_of_the_query_s_own_window(query: tuple[int, int]) -> None:
    for layer, heads in (("stages.0.0", 2), ("stages.1.0", 4)):
        found, x, p = layer_attention(IMAGES, PARAMS, CONFIG, layer), norm1(layer), own(layer)
        c, (row, column) = x.shape[-1], (query[0] // 3 * 3, query[1] // 3 * 3)
        assert found.first_key(*query) == (row, column)
        q, k, v = np.split(x[1] @ p["qkv.weight"].T + p["qkv.bias"], 3, axis=-1)
        window = (slice(row, row + 3), slice(column, column + 3))
        z = []
        for head in range(heads):
            d = slice(head * c // heads, (head + 1) * c // heads)
            expected = shares(q[*query, d], k[*window, d].reshape(9, -1), (c / heads) ** -0.5)
            np.testing.assert_allclose(found.weights[1, head, query[0], query[1]].ravel(), expected, rtol=1e-10)
            z.append(expected @ v[*window, d].reshape(9, -1))
        around = np.pad(v, ((1, 1), (1, 1), (0, 0)))[query[0] : query[0] + 3, query[1] : query[1] + 3]  # across windows
        lim = np.einsum("hwc,cohw->c", around, p["lim_func.weight"]) + p["lim_func.bias"]
        assert found.lim is not None
        assert found.values is not None
        np.testing.assert_allclose(found.lim[1][query], np.linalg.norm(lim), rtol=1e-10)
        np.testing.assert_allclose(found.values[1][query], np.linalg.norm(np.concatenate(z)), rtol=1e-10)


@pytest.mark.parametrize("name", ["small_0", "large", "mmdet_small"])
def test_every_kind_of_layer_of_every_variant_works(name: str) -> None:
    """With fewer channels. 200 pixels do not fill the windows of the detection backbone, which pads them."""
    heads = sv.variant(name).num_heads
    narrow = {"embed_dims": tuple(4 * n for n in heads), "depths": (2, 2, 2, 2), "mlp_ratios": (1, 1, 1, 1)}
    config = sv.variant(name, **narrow, head="linear", num_classes=3)
    params, side = sv.init_params(config), 200 if config.pad_windows else 224
    for layer in ("stages.0.0", "stages.2.1", "stages.3.1"):
        found = layer_attention(random_images((1, 3, side, side), dtype="float32"), params, config, layer)
        assert found.weights.shape[:2] == (1, heads[int(layer[7])])
        assert found.tokens == (side // found.stride,) * 2 or side == 200
        np.testing.assert_allclose(found.weights.sum((-1, -2)), 1, rtol=1e-5)


def made_up(kind: Any = "ssa", heads: int = 3, key: tuple[int, int] = (1, 2)) -> LayerAttention:
    """Maps of 8 x 12 tokens of 4 pixels, all of whose weight lies on one key, of 4 x 6 of SSA or in a window of 4 x 4."""
    weights = np.zeros((1, heads, 8, 12, 4, 6 if kind == "ssa" else 4))
    weights[..., key[0], key[1]] = 1
    lim = {} if kind == "ssa" else {"lim": np.full((1, 8, 12), 3.0), "values": np.ones((1, 8, 12))}
    return LayerAttention("stages.1.1", kind, 2 if kind == "ssa" else 4, 4, weights, np.zeros((1, 2)), **lim)


GREY = np.full((32, 48), attention_maps.HALF)


def where(panel: attention_maps.Panel, grey: float = attention_maps.HALF) -> tuple[slice, slice]:
    """Rows and columns of the pixels in the scale's last colour."""
    last = attention_maps.over(np.full((1, 1), grey), np.ones((1, 1)), 1.0)[0, 0]
    rows, columns = np.nonzero((abs(panel.pixels - last) < 1e-6).all(-1))
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_keys_lie_over_the_pixels_that_they_stand_for() -> None:
    picture = AttentionPicture(made_up(), GREY, (5, 3), (0, 1, 2))
    image, query, received = picture.panels()
    assert where(query) == where(received) == (slice(8, 16), slice(16, 24))  # a key is 2 x 2 tokens of 4 pixels
    assert image.frames == query.frames == ((12, 20, 4),)
    assert [where(panel) for panel in picture.panels_by_head()] == [where(query)] * 3
    assert (image.pixels == attention_maps.HALF).all()
    assert query.largest == 1
    assert query.mark == pytest.approx(1 / 24)


def test_a_window_s_keys_lie_in_the_query_s_window() -> None:
    picture = AttentionPicture(made_up("iwsa"), GREY, (5, 11), (1,))
    image, window, lim = picture.panels()
    assert where(window) == (slice(16 + 4, 16 + 8), slice(32 + 8, 32 + 12))
    assert window.seen == (32, 48, 16, 32)
    assert window.frames == ((44, 20, 4),)
    assert image.frames == lim.frames == ((44, 20, 4), (32, 16, 16))
    assert image.windows == 16
    assert np.array_equal(lim.pixels, attention_maps.over(GREY, np.full(GREY.shape, 0.75), 1.0))
    assert (lim.mark, lim.largest) == (0.5, 1.0)
    assert picture.panels_by_head() == []


def test_keys_that_a_map_does_not_fill_are_left_out_and_padding_is_shown() -> None:
    """SSA drops what fills no tile; of a padded window the part beyond the image is a flat grey."""
    picture = AttentionPicture(made_up(key=(3, 5)), np.ones((36, 52)), (0, 0), (0,))
    assert where(picture.panels()[1], grey=1.0) == (slice(24, 32), slice(40, 48))
    assert (picture.panels()[1].pixels[32:] == 1).all()
    found = replace(
        made_up("iwsa"), weights=made_up("iwsa").weights[:, :, :7, :11], lim=np.ones((1, 7, 11)), values=np.ones((1, 7, 11))
    )
    image, window, _ = AttentionPicture(found, np.zeros((28, 44)), (6, 10), (0,)).panels()
    assert image.pixels.shape == (32, 48, 3)
    assert (image.pixels[28:] == attention_maps.HALF).all()
    assert (image.pixels[:28, :44] == 0).all()
    assert window.seen == (32, 48, 16, 32)


@pytest.mark.parametrize("heads", [1, 4, 32])
@pytest.mark.parametrize("kind", ["ssa", "iwsa"])
def test_nothing_in_the_picture_overlaps_or_leaves_it(kind: Any, heads: int) -> None:
    said = ("a_file_with_quite…te_a_name.png: class 999, probability 0.99", "weights of a_file_with_quite…te_a_name.pth")
    picture = AttentionPicture(made_up(kind, heads), GREY, (7, 11), tuple(range(heads)), said=said)
    diagram = picture.diagram()
    with house_style():
        figure = drawn(diagram, style.THEMES["light"])
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    width, height = figure.get_size_inches() * 96
    boxes += [Bbox.from_extents(p.x, height - p.bottom, p.right, height - p.y) for p in diagram.pictures]  # type: ignore[no-untyped-call]
    assert len(diagram.pictures) == 3 + 2 + (heads + 1 if heads > 1 else 0)
    for a, b in combinations(boxes, 2):
        assert not (a.x0 < b.x1 - 1 and b.x0 < a.x1 - 1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1), (a, b)
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    ends = [point for line in diagram.lines for point in line.points]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in ends)


def attend(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["attend", *map(str, arguments)])


def test_a_digit_is_read_and_drawn_alike_each_time(tmp_path: Path) -> None:
    one, two, dark = tmp_path / "one.svg", tmp_path / "two.svg", tmp_path / "dark.png"
    for path in (one, two):
        done = attend("digit:75", "--layer", "stages.2.1.attn", "-o", path)
        assert done.exit_code == 0, done.output
    assert "the query at row 4, column 3 gives most to: head 0 32% to row 3, column 4" in done.stdout
    assert one.read_bytes() == two.read_bytes()
    assert done.stdout.removeprefix(f"{two}: ").strip() in one.read_text(encoding="utf-8")
    done = attend("digit:75", "--layer", "stages.1.0", "--heads", "1", "--query", "2,3", "--theme", "dark", "-o", dark)
    assert done.exit_code == 0, done.output
    with Image.open(dark) as image:
        assert "the query at row 2, column 3 gives most to: head 1" in str(image.info["Description"])
        assert image.convert("RGB").getpixel((2, 2)) == tuple(bytes.fromhex(style.THEMES["dark"].page[1:]))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[AttentionPicture]:
    """Those that were to be saved."""
    kept: list[AttentionPicture] = []
    monkeypatch.setattr(AttentionPicture, "save", lambda self, path, theme, force: kept.append(self))
    return kept


def test_what_the_picture_says_of_image_and_weights(pictures: list[AttentionPicture], tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    sv.save_checkpoint(weights, checkpoint.params, checkpoint.config)
    y, x = np.mgrid[:90, :120]
    Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(tmp_path / "photo.png")
    config = sv.variant("digits", in_chans=3, window_sizes=(7, 7, 7, 7))
    sv.save_checkpoint(tmp_path / "rgb.safetensors", sv.init_params(config), config)
    layer = ("--layer", "stages.1.1", "-o", "x.svg")
    for arguments in (
        ("digit:75", *layer),
        ("digit:75", *layer, "--weights", weights, "--query", "mean", "--heads", "mean"),
        ("digit:75", *layer, "--variant", "digits"),
        (tmp_path / "photo.png", *layer, "--weights", tmp_path / "rgb.safetensors", "--image-size", "448"),
    ):
        done = attend(*arguments)
        assert done.exit_code == 0, done.output
    plain, stored, untrained, photo = pictures
    assert plain.said == ("digit:75, a 4: read as 4, probability 0.94", "the embedded digits checkpoint")
    assert stored.said == ("digit:75, a 4: read as 4, probability 0.94", "weights of w.safetensors")
    assert (stored.query, stored.each) == (None, False)
    np.testing.assert_array_equal(stored.found.weights, plain.found.weights)
    assert untrained.said == ("digit:75, a 4", "digits, untrained (seed 0): the maps tell nothing")
    assert re.fullmatch(r"photo\.png: class \d, probability 0\.\d\d", photo.said[0])
    assert photo.found.tokens == (56, 56)
    assert photo.query == (28, 28)
    middle = (0.299 * 60 + 0.587 * 45) / 255
    assert photo.image[224, 224] == pytest.approx(middle, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digit:370"], "IMAGE must be digit:N with N from 0 to 369, or a file, got 'digit:370'"),
        (["digit:x"], "got 'digit:x'"),
        (["photo.png"], "which network? --weights reads it, --variant takes untrained weights"),
        (["photo.png", "--variant", "digits"], "photo.png has 3 channels, the network takes 1"),
        (["digit:1", "--variant", "small"], "digit:1 has 1 channel, the network takes 3"),
        (["photo.png", "--variant", "small", "--image-size", "225"], "images of 225 x 225: 225 pixels give maps of 57, 29, 15, 8"),
        (["absent.png", "--variant", "small"], "absent.png"),
        (["digit:1", "--layer", "stages.4.0"], "unknown layer 'stages.4.0'"),
        (["digit:1", "--query", "7,0"], "query must be a token of stages.2.1's map, from 0,0 to 6,6, got 7,0"),
        (["digit:1", "--query", "3"], "--query must be ROW,COLUMN or mean, got '3'"),
        (["digit:1", "--query", "mean", "--layer", "stages.0.0"], "(IWSA) have no mean"),
        (["digit:1", "--image-size", "224"], "--image-size is for image files; a digit has 112 pixels a side"),
        (["digit:1", "--heads", "3"], "head must be one of stages.2.1's, from 0 to 2, got 3"),
        (["digit:1", "--heads", "some"], "--heads must be all, mean or a head's number, got 'some'"),
        (["digit:1", "-o", "x.gif"], "must end in .svg, .png or .pdf, got 'x.gif'"),
        (["digit:1", "-o", "no/such/folder.png"], "no/such/folder.png"),
        (["digit:1", "--theme", "blue"], "unknown theme 'blue'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save("photo.png")
    given = [] if "--layer" in arguments else ["--layer", "stages.2.1"]
    done = attend(*arguments, *given, *([] if "-o" in arguments else ["-o", "x.png"]))
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("x.png").exists()


@pytest.mark.parametrize("layer", ["stages.0.0", "stages.2.1"])
def test_the_page_s_figures_are_measured(layer: str) -> None:
    """Of the layers that its text is about; `python -m tests.programs.attention_ink` gives the others."""
    found = attentions(layer)
    rows = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {layer} ")]
    assert len(rows) == found.heads
    for row, told in zip(ssa_ink(found) if found.kind == "ssa" else iwsa_ink(found), rows, strict=True):
        if isinstance(row, SSAInk):
            measured = [row.to_ink, row.inked, row.to_others_ink, row.more, row.spread]
        else:
            assert isinstance(row, IWSAInk)
            measured = [row.ink_to_ink, row.blank_to_ink, row.inked, row.lim, row.spread]
            assert row.lim_at_borders == pytest.approx(row.lim, abs=0.01)
        np.testing.assert_allclose([float(cell) for cell in told[2:]], measured, atol=0.0051)

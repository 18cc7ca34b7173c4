"""Properties of interactive window self-attention. The numbers are those of the table in `docs/proof.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given

import scalablevit_ref as sv
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing.arrays import MAX_TOLERANCE
from scalablevit_ref.testing.strategies import Case, iwsa_cases
from tests.support.library import Agree, Library


def run(xp: Library, case: Case, params: Mapping[str, np.ndarray] | None = None, *, x: np.ndarray | None = None) -> np.ndarray:
    """`iwsa` on this library, with some parameters or `x` replaced, as a NumPy array."""
    return sv.to_numpy(sv.iwsa(xp(case.x if x is None else x), xp(case.params | dict(params or {})), **case.settings))


def no_lim(case: Case) -> dict[str, np.ndarray]:
    """Windows that do not interact."""
    return {name: np.zeros(shape) for name, shape in case.shapes.items() if name.startswith("lim_func.")}


def scaled(case: Case, factors: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of `qkv` times a factor each."""
    return {name: (value.T * factors).T for name, value in case.params.items() if name.startswith("qkv.")}


def random(case: Case) -> np.random.Generator:
    """For what a property draws besides the case."""
    return np.random.default_rng([case.seed, 1])


def lengths(case: Case) -> tuple[float, float, float]:
    """Of a head's longest query, key and value, each times √scale: no logit exceeds the product of the first two."""
    c, heads = case.shape[-1], case.settings["num_heads"]
    qkv = case.x @ case.params["qkv.weight"].T + case.params.get("qkv.bias", np.zeros(3 * c))
    q, k, v = np.linalg.norm(qkv.reshape(-1, 3, heads, c // heads), axis=-1).max((0, 2)) * (c / heads) ** -0.25
    return q, k, v


def tolerance(case: Case) -> float:
    """T, or as many eps as the largest logit where that is more: a logit's rounding is the relative error of a softmax's weights.

    For sides that round their logits differently. T with normal data, up to 6 T with whole numbers up to 8.
    """
    q, k, _ = lengths(case)
    return max(MAX_TOLERANCE, q * k)


def windows(case: Case) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each window, row by row."""
    p, (_, h, w, _) = case.settings["window_size"], case.shape
    return ((slice(i, i + p), slice(j, j + p)) for i in range(0, h, p) for j in range(0, w, p))


def multi_head_attention(x: np.ndarray, case: Case) -> np.ndarray:
    """Torch's own multi-head attention on each window of a map of whole windows, alone."""
    out = np.empty(x.shape)
    p = {name: torch.from_numpy(value) for name, value in case.params.items()}
    for rows, columns in windows(case):
        tokens = torch.from_numpy(x[:, rows, columns]).flatten(1, 2).transpose(0, 1)  # n b c
        z, _ = F.multi_head_attention_forward(
            *(tokens, tokens, tokens, x.shape[-1], case.settings["num_heads"]),
            *(p["qkv.weight"], p.get("qkv.bias"), None, None, False, 0.0, p["proj.weight"], p["proj.bias"]),
        )
        out[:, rows, columns] = z.transpose(0, 1).reshape(out[:, rows, columns].shape)
    return out


def interaction(x: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
    """W_proj · dwconv(V), by torch: what LIM adds to the output."""
    p = {name: torch.from_numpy(value) for name, value in params.items()}
    c = x.shape[-1]
    v = F.linear(torch.from_numpy(x), p["qkv.weight"], p.get("qkv.bias"))[..., 2 * c :]
    y = F.conv2d(v.permute(0, 3, 1, 2), p["lim_func.weight"], p["lim_func.bias"], padding=1, groups=c)
    return F.linear(y.permute(0, 2, 3, 1), p["proj.weight"]).numpy()


@given(case=iwsa_cases(pad=None))
def test_05_a_row_of_a_batch_is_that_image_alone(case: Case, xp: Library, agree: Agree) -> None:
    whole = run(xp, case)
    for i in range(case.shape[0]):
        agree(run(xp, case, x=case.x[i : i + 1]), whole[i : i + 1], tolerance=tolerance(case))
    order = random(case).permutation(case.shape[0])
    agree(run(xp, case, x=case.x[order]), whole[order], tolerance=tolerance(case))


@given(case=iwsa_cases())
def test_07_a_flipped_map_and_kernel_flip_the_output(case: Case, xp: Library, agree: Agree) -> None:
    kernel = {"lim_func.weight": case.params["lim_func.weight"][..., ::-1]}
    agree(run(xp, case, kernel, x=case.x[:, :, ::-1]), run(xp, case)[:, :, ::-1])


@given(case=iwsa_cases())
def test_08_without_lim_it_is_multi_head_attention_in_each_window(case: Case, xp: Library, agree: Agree) -> None:
    agree(run(xp, case, no_lim(case)), multi_head_attention(case.x, case), tolerance=tolerance(case))


@given(case=iwsa_cases())
def test_09_without_lim_permuting_windows_permutes_the_output(case: Case, xp: Library, agree: Agree) -> None:
    y, p = run(xp, case, no_lim(case)), case.settings["window_size"]
    for shift in ((p, 0), (0, -p)):
        agree(run(xp, case, no_lim(case), x=np.roll(case.x, shift, (1, 2))), np.roll(y, shift, (1, 2)))
    cut = list(windows(case))
    x, expected = np.empty(case.shape), np.empty(case.shape)
    for to, source in enumerate(random(case).permutation(len(cut))):
        x[:, *cut[to]], expected[:, *cut[to]] = case.x[:, *cut[source]], y[:, *cut[source]]
    agree(run(xp, case, no_lim(case), x=x), expected)


@given(case=iwsa_cases())
def test_10_without_lim_permuting_tokens_inside_windows_permutes_the_output(case: Case, xp: Library, agree: Agree) -> None:
    rng = random(case)
    x, expected = case.x.copy(), run(xp, case, no_lim(case))
    for rows, columns in windows(case):
        order = rng.permutation(case.settings["window_size"] ** 2)  # each window its own
        for tokens in (x, expected):
            window = tokens[:, rows, columns]
            window[...] = window.reshape(len(x), len(order), -1)[:, order].reshape(window.shape)
    agree(run(xp, case, no_lim(case), x=x), expected)


@given(case=iwsa_cases())
def test_11_lim_adds_the_projected_depthwise_convolution_of_the_values(case: Case, xp: Library, agree: Agree) -> None:
    """Compared as sums: where LIM adds little, the difference of two outputs would hold their rounding and not its own."""
    alone = run(xp, case, no_lim(case))
    agree(run(xp, case), alone + interaction(case.x, case.params))
    delta = no_lim(case)
    delta["lim_func.weight"][:, 0, 1, 1] = 1
    c = case.shape[-1]
    v = case.x @ case.params["qkv.weight"][2 * c :].T + case.params.get("qkv.bias", np.zeros(3 * c))[2 * c :]
    agree(run(xp, case, delta), alone + v @ case.params["proj.weight"].T)


@given(case=iwsa_cases(pad=None))
def test_12_a_window_reaches_itself_and_one_pixel_around(case: Case, xp: Library, agree: Agree) -> None:
    case = case.but(content="normal")
    rng, cut, p = random(case), list(windows(case)), case.settings["window_size"]
    rows, columns = cut[rng.integers(len(cut))]
    image, x = rng.integers(case.shape[0]), case.x.copy()
    x[image, rows, columns] += rng.standard_normal(x[image, rows, columns].shape)
    changed = (run(xp, case, x=x) != run(xp, case)).any(-1)
    expected = np.zeros(case.shape[:3])
    expected[image, max(rows.start - 1, 0) : rows.start + p + 1, max(columns.start - 1, 0) : columns.start + p + 1] = 1
    agree.exactly(changed.astype(float), expected)


@given(case=iwsa_cases(pad=None))
def test_13_a_nan_reaches_its_window_and_its_neighbours(case: Case, xp: Library, agree: Agree) -> None:
    rng, p, x = random(case), case.settings["window_size"], case.x.copy()
    image, i, j, channel = (int(rng.integers(size)) for size in case.shape)
    x[image, i, j, channel] = np.nan
    expected = np.zeros(case.shape)
    expected[image, i // p * p : i // p * p + p, j // p * p : j // p * p + p] = 1
    expected[image, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = 1
    agree.exactly(np.isnan(run(xp, case, x=x)).astype(float), expected)


@given(case=iwsa_cases(pad=None))
def test_14_a_key_bias_changes_nothing(case: Case, xp: Library, agree: Agree) -> None:
    """It adds q·b to every logit of a query, which softmax takes off again, but for rounding in proportion to b."""
    c, rng = case.shape[-1], random(case)
    b = rng.choice([1, 100]) * rng.standard_normal(c)
    bias = case.params.get("qkv.bias", np.zeros(3 * c)) + np.concatenate([np.zeros(c), b, np.zeros(c)])
    agree(run(xp, case, {"qkv.bias": bias}), run(xp, case), tolerance=MAX_TOLERANCE * (1 + np.linalg.norm(b)))


@given(case=iwsa_cases(pad=None))
def test_14_a_key_bias_has_no_gradient(case: Case, agree: Agree) -> None:
    """What each logit of a query adds, scale·q·dS, cancels over the keys; it is as large as |q|·|v|·scale times v's gradient."""
    c = case.shape[-1]
    case = case.but(shapes=iwsa_shapes(c))
    params, (q, _, v) = sv.to_backend(case.params, "torch"), lengths(case)
    bias = params["qkv.bias"].requires_grad_()
    y = sv.iwsa(sv.to_backend(case.x, "torch"), params, **case.settings)
    (y * torch.from_numpy(random(case).standard_normal(case.shape))).sum().backward()
    expected = bias.grad.clone()
    expected[c : 2 * c] = 0
    agree(bias.grad, expected, tolerance=MAX_TOLERANCE * max(1, q * v))


@given(case=iwsa_cases())
def test_16_without_lim_zero_queries_give_the_projected_window_mean(case: Case, xp: Library, agree: Agree) -> None:
    c = case.shape[-1]
    v = case.x @ case.params["qkv.weight"][2 * c :].T + case.params.get("qkv.bias", np.zeros(3 * c))[2 * c :]
    for rows, columns in windows(case):
        v[:, rows, columns] = v[:, rows, columns].mean((1, 2), keepdims=True)
    zero_queries = scaled(case, np.repeat([0.0, 1.0, 1.0], c))
    agree(run(xp, case, no_lim(case) | zero_queries), v @ case.params["proj.weight"].T + case.params["proj.bias"])


@given(case=iwsa_cases(heads=(2, 4), pad=None))
def test_17_permuting_heads_changes_nothing(case: Case, xp: Library, agree: Agree) -> None:
    c, heads = case.shape[-1], case.settings["num_heads"]
    channels = np.arange(c).reshape(heads, -1)[random(case).permutation(heads)].reshape(-1)
    qkv = np.concatenate([channels, c + channels, 2 * c + channels])
    order = {"qkv.": qkv, "lim_func.": channels}
    permuted = {name: value[order[part]] for part in order for name, value in case.params.items() if name.startswith(part)}
    agree(run(xp, case, permuted | {"proj.weight": case.params["proj.weight"][:, channels]}), run(xp, case))


@given(case=iwsa_cases(pad=None))
def test_18_scales_move_between_queries_and_keys_and_from_values_to_proj(case: Case, xp: Library, agree: Agree) -> None:
    """LIM is depthwise: its kernel commutes with a scale per channel, its bias takes part in it."""
    c, rng = case.shape[-1], random(case)
    a, b = rng.choice([-1, 1], (2, c)) * np.exp(rng.uniform(-1, 1, (2, c)))
    changes = scaled(case, np.concatenate([a, 1 / a, b]))
    changes |= {"lim_func.bias": case.params["lim_func.bias"] * b, "proj.weight": case.params["proj.weight"] / b}
    agree(run(xp, case, changes), run(xp, case), tolerance=tolerance(case))


@given(case=iwsa_cases(pad=True))
def test_padding_puts_zeros_at_the_right_and_bottom(case: Case, xp: Library, agree: Agree) -> None:
    """Padded tokens carry qkv's bias, are not masked and reach LIM: torch does the same to an explicitly padded map."""
    case = case.but(shapes=iwsa_shapes(case.shape[-1], qkv_bias=True))
    p, (_, h, w, _) = case.settings["window_size"], case.shape
    x = np.pad(case.x, ((0, 0), (0, -h % p), (0, -w % p), (0, 0)))
    whole = case.but(shape=x.shape, settings=case.settings | {"pad": False})
    expected = multi_head_attention(x, whole) + interaction(x, case.params)
    for reference in (run(xp, whole, x=x), expected):
        agree(run(xp, case), reference[:, :h, :w], tolerance=tolerance(case))

"""Properties of one block and of its two attentions against the oracle. The numbers are those of the table in `docs/proof.md`."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given

import scalablevit_ref as sv
from scalablevit_ref.parameters import peg_shapes
from scalablevit_ref.testing.strategies import Case, block_cases, iwsa_cases, ssa_cases
from tests.support.drawn_ops import layer_norm_amplification
from tests.support.library import Agree, Library
from tests.support.oracle import part


def run(xp: Library, case: Case, x: np.ndarray | None = None, **options: Any) -> np.ndarray:
    """`block` on this library, as a NumPy array."""
    return sv.to_numpy(sv.block(xp(case.x if x is None else x), xp(case.params), **case.settings, **options))


@given(case=iwsa_cases(pad=None))
def test_01_iwsa_is_the_oracles(case: Case, xp: Library, agree: Agree) -> None:
    y = sv.to_numpy(sv.iwsa(xp(case.x), xp(case.params), **case.settings))
    part(case, "IWSA", "iwsa").check(agree, {"logits": y})


@given(case=ssa_cases())
def test_01_ssa_is_the_oracles(case: Case, xp: Library, agree: Agree) -> None:
    y = sv.to_numpy(sv.ssa(xp(case.x), xp(case.params), **case.settings))
    part(case, "SSA", "ssa").check(agree, {"logits": y})


@given(case=block_cases())
def test_01_block_is_the_oracles_at_every_tap(case: Case, xp: Library, agree: Agree) -> None:
    found: dict[str, np.ndarray] = {}

    def keep(name: str, y: Any) -> Any:
        found[name] = sv.to_numpy(y)
        return y

    found["logits"] = run(xp, case, tap=keep)
    assert list(found) == ["norm1", "attn", "norm2", "mlp", "logits"]
    part(case, "Block", case.settings["kind"]).check(agree, found)


@given(case=block_cases())
def test_24_a_constant_added_to_a_token_is_added_to_the_output(case: Case, xp: Library, agree: Agree) -> None:
    """One number a token, the same in all of its channels: both norms take it off before anything is computed of it (pre-norm).

    Adding it rounds x to eps·|x + a|, which a norm makes relative to √(variance + eps): the amplification of the norms' own inputs
    bounds the error. They are the oracle's, so that no fault in the norm under test can widen what is allowed.
    """
    a = np.random.default_rng(case.seed).standard_normal((*case.shape[:-1], 1))
    reference = part(case, "Block", case.settings["kind"])
    middle = case.x + reference.taps["attn"].reshape(case.shape)
    eps = case.settings["norm_eps"]
    norms = [layer_norm_amplification(x + a, eps) for x in (case.x, middle)]
    amplified = max(1.0, reference.amplification["max"]["logits"], *norms)
    expected = run(xp, case) + a
    agree(run(xp, case, case.x + a), expected, tolerance=64 * amplified)


@given(case=block_cases())
def test_25_zero_proj_and_fc2_leave_the_identity(case: Case, xp: Library, agree: Agree) -> None:
    case.params.update({name: 0 * x for name, x in case.params.items() if name.startswith(("attn.proj.", "mlp.fc2."))})
    agree.exactly(run(xp, case), case.x)
    zeros = {name: np.zeros(shape) for name, shape in peg_shapes(case.shape[-1]).items()}
    agree.exactly(sv.peg(xp(case.x), xp(zeros)), case.x)


@given(case=block_cases())
def test_26_a_norms_gain_and_shift_fold_into_the_next_layer(case: Case, xp: Library, agree: Agree) -> None:
    """W (g·n + b) = (W diag g) n + W b, for qkv, q, kv and fc1; for SSA's tiles with the kernel's sum.

    Where windows are padded the zeros come after the norm and so do not carry its shift: there it is zero.
    """
    p = case.params
    if case.settings.get("pad"):
        p["norm1.bias"] *= 0
    expected = run(xp, case)
    part_of = part(case, "Block", case.settings["kind"])
    first = {"iwsa": ["qkv"], "ssa": ["q", "kv" if case.settings.get("sr_ratio") == 1 else "reduction.0"]}[case.settings["kind"]]
    for norm, layers in (("norm1", [f"attn.{name}" for name in first]), ("norm2", ["mlp.fc1"])):
        gain, shift = p[f"{norm}.weight"].copy(), p[f"{norm}.bias"].copy()
        for layer in layers:
            weight = p[f"{layer}.weight"]
            moved = weight.sum((1, 2, 3)) * shift if weight.ndim == 4 else weight @ shift
            p[f"{layer}.bias"] = p.get(f"{layer}.bias", 0) + moved
            p[f"{layer}.weight"] = weight * (gain[:, None, None, None] if weight.ndim == 4 else gain)
        p[f"{norm}.weight"], p[f"{norm}.bias"] = np.ones_like(gain), np.zeros_like(shift)
    if case.settings["kind"] == "ssa":  # biases come for all of q, k and v or for none
        for layer in ("k", "v", "kv"):
            if f"attn.{layer}.weight" in p:
                p.setdefault(f"attn.{layer}.bias", np.zeros(len(p[f"attn.{layer}.weight"])))
    part_of.check(agree, {"logits": run(xp, case)}, {"logits": expected})

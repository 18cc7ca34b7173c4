"""Derivatives, and what the transforms of PyTorch and JAX make of the network. The numbers are those of `docs/proof.md`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.testing import EPS
from scalablevit_ref.testing.strategies import Case, block_cases, configs, iwsa_cases, network_cases, ssa_cases
from tests.support.drawn_ops import OPS
from tests.support.library import Agree, Library, draws, marked, place, prepared
from tests.support.oracle import Reference, oracle, part
from tests.support.profiles import is_nightly

NETWORKS = network_cases(configs(heads=("linear", "none"), stages=(1,)))
STEP = 1e-6


def on(*names: str) -> Any:
    """On each of these libraries that is installed."""
    return pytest.mark.parametrize("library", [marked(name) for name in names if draws(name)])


DIFFERENTIABLE = on("torch", "jax", "mlx", "tensorflow", "paddle", "tinygrad")
VECTORISED = on("torch", "jax", "mlx")
NIGHTLY = is_nightly()
pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks are not for a compiler to trace


def gradients(
    function: Any, inputs: dict[str, torch.Tensor], seed: int, device: str | None = None
) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """Of a random weighting of what `function` gives: by autograd, with that weighting."""
    inputs = {name: x.detach().clone().to(device).requires_grad_() for name, x in inputs.items()}
    y = function(inputs)
    probe = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(y.shape))).to(device)
    found = torch.autograd.grad((y * probe).sum(), list(inputs.values()), allow_unused=True)
    assert all(x is not None for x in found), [name for name, x in zip(inputs, found, strict=True) if x is None]
    return {name: sv.to_numpy(x) for name, x in zip(inputs, found, strict=True)}, probe


def library_gradients(library: str, function: Any, inputs: dict[str, torch.Tensor], seed: int) -> dict[str, np.ndarray]:
    """The same on that library."""
    if library == "jax":
        return jax_gradients(function, inputs, seed)
    if library == "mlx":
        from tests.support.on_mlx import gradients as mlx_gradients

        return mlx_gradients(function, inputs, seed)
    if library in ("paddle", "tinygrad"):
        with prepared(library):
            return backward_gradients(library, function, inputs, seed)
    if library == "tensorflow":
        return tensorflow_gradients(function, inputs, seed)
    with prepared(library):
        return gradients(function, inputs, seed, place(library))[0]


def backward_gradients(library: str, function: Any, inputs: dict[str, torch.Tensor], seed: int) -> dict[str, np.ndarray]:
    """The same by the `backward` of a library whose tensors keep their own gradients."""
    arrays = sv.to_backend(inputs, library)
    for x in arrays.values():
        if library == "paddle":
            x.stop_gradient = False
        else:
            x.is_param_()
    y = function(arrays)
    (y * sv.to_backend(np.random.default_rng(seed).standard_normal(tuple(y.shape)), library)).sum().backward()
    return {name: sv.to_numpy(x.grad) for name, x in arrays.items()}


def jax_gradients(function: Any, inputs: dict[str, torch.Tensor], seed: int) -> dict[str, np.ndarray]:
    """The same by `jax.grad`, under `jit`."""
    import jax

    from tests.support.jitted import jit, x64

    def weighted(arrays: dict[str, Any]) -> Any:
        y = function(arrays)
        return (y * np.random.default_rng(seed).standard_normal(y.shape)).sum()

    with x64():
        arrays = sv.to_backend(inputs, "jax", device=place("jax"))
        return {name: sv.to_numpy(x) for name, x in jit(jax.grad(weighted))(arrays).items()}


def tensorflow_gradients(function: Any, inputs: dict[str, torch.Tensor], seed: int) -> dict[str, np.ndarray]:
    """The same by TensorFlow's `GradientTape`, of variables."""
    import tensorflow as tf

    variables = {name: tf.Variable(x) for name, x in sv.to_backend(inputs, "tensorflow").items()}
    with tf.GradientTape() as tape:
        y = function(variables)
        weighted = tf.reduce_sum(y * np.random.default_rng(seed).standard_normal(tuple(y.shape)))
    found: dict[str, np.ndarray] = sv.to_numpy(tape.gradient(weighted, variables))
    return found


def check_derivatives(function: Any, case: Case) -> None:
    """Along the gradient and a random direction at once, in `x` and in all parameters: central differences,
    to 1e-7 of ‖gradient‖ · ‖direction‖, which is at most 2.

    What such a difference rounds, eps · Σ|y · probe| / h, is allowed for beside it. Its own error is h²/6 times the third
    derivative: 1e-12 of that.
    """
    inputs = {name: torch.tensor(x) for name, x in {"x": case.x, **case.params}.items()}
    found, probe = gradients(function, inputs, case.seed)
    rng = np.random.default_rng(case.seed + 1)
    for names in (["x"], list(case.params)):
        size = np.sqrt(sum(float((found[name] ** 2).sum()) for name in names))
        random = {name: rng.standard_normal(found[name].shape) for name in names}
        length = np.sqrt(sum(float((x**2).sum()) for x in random.values()))
        direction = {name: random[name] / length + found[name] / (size or 1) for name in names}
        ahead, behind = (
            function(inputs | {name: inputs[name] + sign * STEP * torch.from_numpy(x) for name, x in direction.items()}) * probe
            for sign in (1, -1)
        )
        slope = float((ahead - behind).sum()) / (2 * STEP)
        rounding = 64 * EPS["float64"] * float((ahead.abs() + behind.abs()).sum()) / (2 * STEP)
        error = abs(slope - sum(float((found[name] * x).sum()) for name, x in direction.items()))
        assert error <= 2e-7 * size + rounding, f"{names}: {error:.3g} of {size:.3g}; allowed 2e-7 of it and {rounding:.3g}"


@given(cases=OPS)
def test_28_each_op_has_the_gradient_of_its_central_difference(cases: dict[str, Case]) -> None:
    for name, case in cases.items():
        smooth = case.but(content="normal")
        for function in (getattr(ops, name), getattr(ops, name).definition):
            check_derivatives(lambda t, f=function, c=smooth: f(t["x"], *(t[key] for key in c.shapes), **c.settings), smooth)


@DIFFERENTIABLE
@given(case=st.one_of(iwsa_cases(pad=None), ssa_cases(c_ratios=(1, 1.25)), block_cases()))
def test_28_attentions_and_blocks_have_the_oracles_gradients(case: Case, library: str, agree: Agree) -> None:
    function = sv.block if "kind" in case.settings else sv.iwsa if "window_size" in case.settings else sv.ssa
    kind = case.settings.get("kind", "iwsa" if "window_size" in case.settings else "ssa")
    reference = part(case, {sv.block: "Block", sv.iwsa: "IWSA", sv.ssa: "SSA"}[function], kind)
    inputs = {name: torch.tensor(x) for name, x in {"x": case.x, **case.params}.items()}

    def tokens_of(t: Any) -> Any:
        return rearrange(function(t["x"], without_x(t), **case.settings), "b h w c -> b (h w) c")

    found = library_gradients(library, tokens_of, inputs, case.seed)
    more = reference.inputs[1:]
    tokens = inputs | {"x": reference.inputs[0]}
    expected, _ = gradients(lambda t: torch.func.functional_call(reference.model, without_x(t), (t["x"], *more)), tokens, case.seed)
    compare_gradients(agree, found, expected, reference)


@DIFFERENTIABLE
@given(case=NETWORKS)
def test_28_the_network_has_the_oracles_gradients(case: Case, library: str, agree: Agree) -> None:
    """For the images and for every parameter."""
    reference = Reference(oracle(case.params, case.config), case.x)
    inputs = {name: torch.tensor(x) for name, x in {"x": case.x, **case.params}.items()}

    def logits(t: Any) -> Any:
        return sv.scalable_vit(t["x"], without_x(t), case.config)

    found = library_gradients(library, logits, inputs, case.seed)
    expected, _ = gradients(lambda t: torch.func.functional_call(reference.model, without_x(t), (t["x"],)), inputs, case.seed)
    compare_gradients(agree, found, expected, reference)


def without_x(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in tensors.items() if name != "x"}


def compare_gradients(agree: Agree, found: Any, expected: Any, reference: Reference) -> None:
    """All of them at once, in l2, so that those that are zero but for rounding (a key's bias) weigh what they are.

    A LayerNorm that amplifies errors of its input does so to gradients twice, as 1/σ and in its derivative.
    """
    amplified = max(1.0, *reference.amplification["l2"].values())
    a, b = (np.concatenate([gradient[name].reshape(-1) for name in found]) for gradient in (found, expected))
    agree(a, b, measure="l2", tolerance=64 * amplified**2)


@given(case=NETWORKS)
def test_28_the_network_has_the_gradient_of_its_central_difference(case: Case) -> None:
    """One direction for the images and one for the parameters; images of normal pixels, where the network bends the least."""
    case = case.but(content="normal")
    check_derivatives(lambda t: sv.scalable_vit(t["x"], without_x(t), case.config), case)


@VECTORISED
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for its CPU attention kernel
@given(case=NETWORKS)
def test_29_vmap_changes_nothing(case: Case, library: str, agree: Agree) -> None:
    reference = Reference(oracle(case.params, case.config), case.x)
    with prepared(library):
        xp = Library(library)
        images, params = xp(case.x), xp(case.params)
        expected = sv.to_numpy(sv.scalable_vit(images, params, case.config))
        if library == "jax":
            from tests.support.jitted import vmapped as vmap
        elif library == "mlx":
            from mlx.core import vmap
        else:
            from torch.func import vmap
        found = vmap(lambda image: sv.scalable_vit(image[None], params, case.config)[0])(images)
    reference.check(agree, {"logits": sv.to_numpy(found)}, {"logits": expected})


TINY = sv.ScalableViTConfig(
    embed_dims=(8, 8),
    depths=(2, 2),
    num_heads=(2, 2),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(3, 2),
    patch_size=2,
    num_classes=5,
    in_chans=1,
    head="linear",
    pad_windows=True,
)


class Module(torch.nn.Module):
    """The function with its parameters, as `torch.export` wants it."""

    def __init__(self, params: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.params = torch.nn.ParameterDict({name.replace(".", "/"): x for name, x in params.items()})

    def forward(self, images: torch.Tensor) -> Any:
        return sv.scalable_vit(images, {name.replace("/", "."): x for name, x in self.params.items()}, TINY)


def tiny(batch: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    case = Case((batch, 1, 12, 20), {}, sv.parameter_shapes(TINY), seed)
    images, params = sv.to_backend(case.x, "torch"), sv.to_backend(case.params, "torch")
    return images, params, sv.scalable_vit(images, params, TINY)


@pytest.mark.parametrize("compiler", ["eager", *(["inductor"] if NIGHTLY else [])])
@pytest.mark.usefixtures("everything_loaded")
def test_29_compile_traces_one_graph_that_changes_nothing(compiler: str, agree: Agree) -> None:
    """`fullgraph=True` fails at the first break. "eager" runs the graph as traced; real code takes minutes: nightly."""
    images, params, expected = tiny(2)
    compiled = torch.compile(lambda x, p: sv.scalable_vit(x, p, TINY), fullgraph=True, backend=compiler)
    agree(compiled(images, params), expected, tolerance=64 if compiler == "inductor" else 0)


@pytest.mark.usefixtures("everything_loaded")
def test_29_export_with_a_dynamic_batch_changes_nothing(agree: Agree) -> None:
    images, params, _ = tiny(2)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Module(params), (images,), dynamic_shapes=({0: batch},))
    five, _, _ = tiny(5, seed=1)
    agree(program.module()(five), sv.scalable_vit(five, params, TINY))

"""The independent oracle, `scalablevit_ref.adapters.plain`: every module's output, and how far each may be off."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalablevit_ref.adapters import plain
from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.testing.strategies import Case


def oracle(params: Any, config: ScalableViTConfig, part: Any = ScalableViT, dtype: torch.dtype = torch.float64) -> Any:
    """The network, or `part(config)` of it, with these NumPy parameters, every one of which it must have."""
    with torch.device("meta"):
        model = part(config)
    state = {name: torch.tensor(x, dtype=dtype) for name, x in params.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False)


def taps(model: nn.Module, *inputs: Any) -> dict[str, Tensor]:
    """Every module's output under its name in the order computed, maps as b n c tokens, and last the model's own, `logits`."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda module, args, y, name=name: outputs.__setitem__(name, y))
        for name, module in model.named_modules()
        if name
    ]
    outputs["logits"] = model(*inputs)
    for hook in hooks:
        hook.remove()
    return outputs


def amplification(model: nn.Module, *inputs: Any, draws: int = 3) -> dict[str, dict[str, float]]:
    """How far each output moves, in eps, when what goes into and comes out of every leaf module is off by about one eps.

    {"max": {name: …}, "l2": {name: …}}, for the measures of `compare`; the largest of some draws of noise. It is the network's own
    condition: a LayerNorm turns an error ε in a token into ε·|x| / √(variance + eps), which is much where all of a token's
    channels happen to be nearly equal, and a network may draw such a token. No implementation can do better by much.
    """
    size = 2.0**-26  # in the linear range, and far above float64's own eps
    exact, worst = taps(model, *inputs), {"max": dict[str, float](), "l2": dict[str, float]()}
    noise = torch.Generator().manual_seed(0)

    def shaken(x: Tensor) -> Tensor:
        return x * (1 + size * torch.randn(x.shape, generator=noise, dtype=x.dtype))

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_pre_hook(lambda module, args: (shaken(args[0]),)) for module in leaves]
    hooks += [module.register_forward_hook(lambda module, args, y: shaken(y)) for module in leaves]
    for _ in range(draws):
        for name, y in taps(model, *inputs).items():
            for measure, order in (("max", torch.inf), ("l2", 2)):
                norms = [float(torch.linalg.vector_norm(t, order)) for t in (y - exact[name], exact[name])]
                worst[measure][name] = max(worst[measure].get(name, 0.0), norms[0] / norms[1] / size if norms[1] else 0.0)
    for hook in hooks:
        hook.remove()
    return worst


class Reference:
    """The oracle on its inputs: what each tap should be, and by how much an implementation may miss it."""

    def __init__(self, model: nn.Module, x: Any, *more: Any) -> None:
        self.model, self.inputs = model, (torch.tensor(x, dtype=torch.float64), *more)

    @cached_property
    def taps(self) -> dict[str, np.ndarray]:
        return {name: y.numpy() for name, y in taps(self.model, *self.inputs).items()}

    @cached_property
    def amplification(self) -> dict[str, dict[str, float]]:
        return amplification(self.model, *self.inputs)

    @cached_property
    def drift(self) -> float:
        """How far two sums over all tokens may be apart, in eps, where all tokens but a few are equal; 0 for other images.

        A sum of n equal numbers, one after the other, rounds partial sums of k/n of it, each by at most half an eps and all the
        same way: n/4 eps in all, and neither side is exact.
        """
        one_colour = self.inputs[0].unique().numel() <= 2
        return max((y.shape[1] / 2 for y in self.taps.values() if y.ndim == 3), default=0.0) if one_colour else 0.0

    def check(self, agree: Any, actual: Any, expected: Any = None, *, tolerance: float = 64, measure: Any = "max") -> None:
        """Every tap of `actual` against `expected`, the oracle's unless given, tokens in either shape.

        The tolerance is the one given, except at a tap that one rounding of each module moves by more than 4 eps: there it is
        that many eps times tolerance / 4. The worst seen in 100 drawn networks is 3.8 eps for each eps of movement. In an image of
        one colour it is at least `drift`.
        """
        expected = self.taps if expected is None else expected
        tolerance = max(tolerance, self.drift)
        for name, y in actual.items():
            found, options = y.reshape(expected[name].shape), {"dtype": y.dtype.name, "measure": measure, "what": name}
            try:
                agree(found, expected[name], tolerance=tolerance, **options)
            except AssertionError:
                moved = self.amplification[measure][name]
                if moved <= 4:
                    raise
                agree(found, expected[name], tolerance=tolerance * moved / 4, **options)


def part(case: Case, name: str, kind: str) -> Reference:
    """The oracle's own module for a drawn call: the stage of a network that has these settings."""
    b, h, w, c = case.shape
    given = case.settings
    hidden = case.shapes.get("mlp.fc1.bias", (c,))[0]
    config = ScalableViTConfig(
        embed_dims=(c,),
        depths=(2,),
        num_heads=(given["num_heads"],),
        mlp_ratios=(hidden / c,),
        sr_ratios=(given.get("sr_ratio", 1),),
        c_ratios=(given.get("c_ratio", 1),),
        window_sizes=(given.get("window_size", 1),),
        qkv_bias=any(key.endswith(("q.bias", "qkv.bias")) for key in case.shapes),
        norm_eps=given.get("norm_eps", 1e-6),
        ssa_values=given.get("values", "unscaled"),
        ssa_scale=given.get("scale", "scaled"),
        pad_windows=given.get("pad", False),
    )
    odd = (1,) if kind == "ssa" else (0,)
    module = oracle(case.params, config, lambda config: getattr(plain, name)(config, 0, *(odd if name == "Block" else ())))
    return Reference(module, case.x.reshape(b, h * w, c), h, w)

"""PyTorch: its own kernels for every op that has one. Maps are b h w c, which is channels_last to its convolutions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from scalablevit_ref.errors import brief

NAME = "torch"

exp = torch.exp
erf = torch.erf
gelu = F.gelu
gelu_tanh = partial(F.gelu, approximate="tanh")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """In float32 on a CPU by oneDNN, where nobody looks: PyTorch takes MKL, which is half as fast on an AMD processor."""
    here = _is_plain(x) and _is_plain(weight) and x.is_cpu and x.dtype is torch.float32 is weight.dtype
    if ONEDNN and here and not _is_watched(x, weight, bias):
        bias = bias if bias is None else bias.contiguous()  # as which it would be read
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)


ONEDNN: bool = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this build of PyTorch has oneDNN's linear layer."""


def _is_plain(x: torch.Tensor) -> bool:
    """Not a subclass's, nor what stands in for a tensor while a program is traced."""
    return type(x) in (torch.Tensor, torch.nn.Parameter)


def _is_watched(*tensors: torch.Tensor | None) -> bool:
    """Whether a gradient, a transformation, a compiler, a tracer, a mode or autocast must see the operation by its usual name."""
    return (
        (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors))
        or torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def zeros(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return x.new_zeros(shape)


def pad(x: torch.Tensor, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> torch.Tensor:
    """Without a copy where there is nothing to add, which torch would make."""
    return F.pad(x, (0, 0, left, right, top, bottom)) if top or bottom or left or right else x


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, eps: float) -> torch.Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
    """The fused CPU kernel takes four axes only, and values of the queries' width only; elsewhere it falls back to a slower path.

    That path looks for rows that a mask has emptied: SSA, whose values are wider, does without (3 to 9 % of the network).
    In bfloat16 the kernel itself takes longer than two products and a softmax (15 % of the network); in float16 the products do.
    """
    if q.is_cpu and q.dtype is not torch.float16 and (q.dtype is torch.bfloat16 or q.shape[-1] != v.shape[-1]):
        return torch.softmax((q * scale) @ k.transpose(-2, -1), dim=-1) @ v
    batch = q.shape[:-2]
    q, k, v = (x.reshape(-1, batch[-1], *x.shape[-2:]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).reshape(*batch, *q.shape[-2:-1], v.shape[-1])


def conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> torch.Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=stride, padding=padding, groups=groups)
    return y.permute(0, 2, 3, 1)


def device(x: torch.Tensor) -> Any:
    return x.device


def usable(x: torch.Tensor) -> bool:
    """Not so: sparse, nested, quantised and MKL-DNN's tensors."""
    return x.layout is torch.strided and not x.is_nested and not x.is_quantized


def check_device(device: Any) -> None:
    """Raise ValueError or TypeError for what is no device of torch's, or one that is not here."""
    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"device must be one that torch has, got {brief(device)} ({str(error).splitlines()[0]})") from None


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> torch.Tensor:
    if device is not None:
        check_device(device)
    if x.dtype.name == "bfloat16":  # NumPy's bfloat16 is ml_dtypes', which torch does not know: hand over the bits
        tensor = torch.from_numpy(x.view(np.uint16).copy()).view(torch.bfloat16)
    else:
        try:
            tensor = torch.from_numpy(np.array(x, order="C"))
        except TypeError:
            raise TypeError(f"params_or_array holds {x.dtype}, which torch does not have") from None
    return tensor.to(device=device, dtype=None if dtype is None else getattr(torch, dtype))


def to_numpy(x: torch.Tensor) -> np.ndarray:
    x = x.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if x.dtype == torch.bfloat16:
        import ml_dtypes

        return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()

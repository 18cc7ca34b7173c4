"""Why a torch module raised, where the shapes and dtypes tell: words behind what its exception says."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from scalablevit_ref.compare.capture.torch_graph import Failed
from scalablevit_ref.errors import Spelling, Words, option

AS_IT_IS = Spelling("dtype='own'", "--dtype own")
IN_FLOAT32 = Spelling("dtype='float32'", "--dtype float32")

Reason = tuple[Words, ...]


def likely_reason(message: str, path: str, module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    """Where in the module it was, and what is likely wrong; empty where neither is known.

    Parameters
    ----------
    message
        What the exception says.
    path, module
        The innermost module that ran.
    failed
        The operation that raised, if it was one of torch's.
    fed
        The shape of the images.
    """
    where = (f"in {path} ({type(module).__name__})",) if path and module is not None else ()
    for pattern, words in MESSAGES:
        if found := re.search(pattern, message, re.DOTALL):
            why = words(found, module, failed, fed)
            if why:
                return (*where, *((": ", *why) if where else why))
    return where


def _product(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    got, takes = int(found[2]), int(found[3])
    if isinstance(module, nn.Linear):
        takes = module.in_features
    return (f"it takes {takes} features and got {got}",)


def _channels(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    shape, takes, got = _numbers(found[1]), int(found[2]), int(found[3])
    images = len(fed) == 4 and tuple(shape) == fed
    if images:
        return (f"it takes images of {_channels_of(takes)}, and the reference takes {_channels_of(got)}",)
    last = f"; {takes} is the size of the last axis, where b h w c has its channels" if shape and shape[-1] == takes else ""
    return (f"it takes {_channels_of(takes)} and got {got}{last}",)


def _normalised(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    takes, got = _numbers(found[1]), _numbers(found[2])
    if not takes or not got:
        return ()
    second = got[1:2] == takes[-1:] and len(got) == 4
    last = "; axis 1 has that size: it normalises the last axis, and the map is b c h w" if second else ""
    return (f"it normalises {takes[-1]} channels and got {got[-1]}{last}",)


def _sizes(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    if failed is None or len(failed.given) < 2:
        return ()
    shapes = [" ".join(map(str, shape)) for shape, _ in failed.given]
    fixed = [shape for shape, data in zip(shapes, failed.data, strict=True) if not data]
    if fixed and any(failed.data):
        what = failed.parameters[0] if failed.parameters else "a tensor that does not come from the images"
        moving = next(shape for shape, data in zip(shapes, failed.data, strict=True) if data)
        return (
            f"{what} is {fixed[0]} and meets {moving}: it may be for images of another size than {fed[-2]} × {fed[-1]}; ",
            option("images"),
            " gives others",
        )
    return (f"{shapes[0]} meets {shapes[1]}",)


def _view(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    if failed is None or not failed.given:
        return ()
    shape = " ".join(map(str, failed.given[0][0]))
    size = f"{fed[-2]} × {fed[-1]}" if len(fed) == 4 else str(fed)
    return (
        f"an array {shape} is seen as {found[1]}: it may be for images of another size than {size}, or a batch other than {fed[0]}",
    )


def _dtypes(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    kinds = " and ".join(dict.fromkeys(dtype for _, dtype in failed.given)) if failed is not None else "two dtypes"
    return (f"{kinds} meet, so it casts on its way, or makes a tensor of one dtype; ", AS_IT_IS, " compares it as it is")


def _missing(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    return ("it is called with the images alone: give a function, as lambda x: model(x, …), or bind the rest",)


def _lacking(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    return ("this operation is not there in the dtype: ", IN_FLOAT32, " is there for every one")


def _devices(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    return ("a tensor that is no parameter or buffer stayed on another device than the module",)


def _no_memory(found: re.Match[str], module: nn.Module | None, failed: Failed | None, fed: tuple[int, ...]) -> Reason:
    return ("fewer or smaller images, ", option("images"), " or ", IN_FLOAT32, " take less memory")


MESSAGES: tuple[tuple[str, Callable[[re.Match[str], nn.Module | None, Failed | None, tuple[int, ...]], Reason]], ...] = (
    (r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)", _product),
    (r"expected input\[([\d, ]+)\] to have (\d+) channels, but got (\d+) channels", _channels),
    (r"normalized_shape=\[([\d, ]+)\], expected input with shape .*? but got input of size\s*\[([\d, ]+)\]", _normalised),
    (r"The size of tensor a \(\d+\) must match the size of tensor b", _sizes),
    (r"[Ss]hape '(\[[-\d, ]+\])' is invalid for input of size", _view),
    (r"expected scalar type|should be the same|same dtype|[Mm]ixed dtype|dtypes? .*mismatch", _dtypes),
    (r"not implemented for '\w+'", _lacking),
    (r"missing \d+ required (?:positional|keyword-only) arguments?", _missing),
    (r"same device|different devices", _devices),
    (r"out of memory|can't allocate memory|not enough memory", _no_memory),
)
"""Patterns of what torch says, and what each makes of it."""


def _numbers(text: str) -> list[int]:
    return [int(one) for one in re.findall(r"\d+", text)]


def _channels_of(n: int) -> str:
    return f"{n} channel{'s' * (n != 1)}"

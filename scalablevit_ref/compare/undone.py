"""A step undone: what it must have been given, where its output tells."""

from __future__ import annotations

from math import prod

import numpy as np

from scalablevit_ref.compare.steps import Step

WELL = 1e6
"""Largest condition of a Linear that is undone."""

REACHED = 1e-6
"""Share of an output that may be no output of the Linear, whatever it is given."""


def undone(step: Step, made: np.ndarray) -> tuple[np.ndarray, float] | None:
    """What a Linear, or a 1 × 1 convolution, must have been given, and by how much rounding grows on the way back.

    None where the output does not tell, because it has fewer channels, or is none that the step can give.
    """
    weight, bias = step.params.get("weight"), step.params.get("bias")
    if step.op not in ("linear", "conv2d") or weight is None:
        return None
    out, inner, *kernel = weight.shape
    if prod(kernel) != 1 or inner != step.given.shape[-1] or out < inner or not np.isfinite(made).all():
        return None
    matrix = weight.reshape(out, inner)
    condition = float(np.linalg.cond(matrix))
    if not condition < WELL:
        return None
    y = (made if bias is None else made - bias).reshape(-1, out)
    z = np.linalg.lstsq(matrix, y.T, rcond=None)[0].T
    if np.linalg.norm(z @ matrix.T - y) > REACHED * np.linalg.norm(y):
        return None
    return z.reshape(step.given.shape), condition

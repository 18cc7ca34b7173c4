"""Whether a torch module is quantised in a way that can be taken apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Packages whose modules hold weights of a few bits."""


def has_few_bits(module: Any) -> bool:
    """Whether weights or values of a module are of few bits."""
    if not isinstance(module, nn.Module):
        return False
    if any(type(inner).__module__.startswith(QUANTISED) for inner in module.modules()):
        return True
    if any(is_packed(x) for x in module.parameters()):
        return True
    graphs = [inner.graph for inner in module.modules() if isinstance(inner, torch.fx.GraphModule)]
    return any(kind_of(node) is not None for graph in graphs for node in graph.nodes)


def is_packed(x: torch.Tensor) -> bool:
    """Whether it is a tensor of a few bits that can be asked for what it stands for."""
    return type(x).__module__.startswith("torchao.") and hasattr(x, "dequantize")


def kind_of(node: Any) -> str | None:
    """What a node of a graph has to do with quantisation; None for nothing."""
    name = str(node.target)
    if node.op == "call_function":
        if name.startswith(("quantized_decomposed.", "quantized.", "torch.ops.quantized", "aten.quantize")):
            return name
        if getattr(node.target, "__name__", "") == "quantize_per_tensor":
            return "quantize_per_tensor"
    return "dequantize" if node.op == "call_method" and node.target == "dequantize" else None

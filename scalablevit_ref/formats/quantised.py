"""Tensors of whole numbers that stand for a parameter: told by what lies beside them, so that an error says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalablevit_ref.formats.opaque import Opaque

_MOST_MAPPINGS = 1000
"""Most mappings of a file that are looked at."""

_LEVELS = 3
"""Levels of mappings that are looked at."""

_BESIDE = {
    "._packed_params._packed_params": (".weight", "torch's packed parameters"),
    ".scales": (".weight", "MLX"),
    ".qweight": (".weight", "GPTQ or AWQ"),
    ".SCB": (".weight", "bitsandbytes"),
    ".weight.absmax": (".weight", "bitsandbytes"),
    ".weight._data": (".weight", "quanto"),
    "_quantized": ("", "ONNX Runtime"),
    ".weight_scale": (".weight", "ONNX Runtime or compressed-tensors"),
}
"""How names beside a quantised parameter end: what the parameter's ends with in their place, and who makes such."""


def name_quantised(tree: Any) -> None:
    """Put an Opaque at the place of each parameter that a library quantised, in the mappings of a file's tree."""
    level, left = [tree], _MOST_MAPPINGS
    for _ in range(_LEVELS):
        mappings = [mapping for mapping in level if type(mapping) is dict][:left]
        left -= len(mappings)
        level = [value for mapping in mappings for value in mapping.values() if type(value) is dict]
        for mapping in mappings:
            mapping.update(_quantised(mapping))


def _quantised(state: Mapping[Any, Any]) -> dict[str, Opaque]:
    found: dict[str, Opaque] = {}
    for name in state:
        for ending, (parameter_ending, library) in _BESIDE.items():
            if type(name) is str and name.endswith(ending):
                parameter = name.removesuffix(ending) + parameter_ending
                whole_numbers = getattr(getattr(state.get(parameter), "dtype", None), "kind", "") in ("u", "i")
                if whole_numbers or (parameter not in state and library != "MLX"):
                    found[parameter] = Opaque(f"a quantised tensor ({library}): give the file from before it was quantised")
    return found

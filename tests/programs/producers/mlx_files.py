"""MLX: modules with the official names, saved by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.programs.producers.jax_files import tree
from tests.programs.producers.made import Made, arrays, file, producer, weights

MLX: dict[str, Any] = {"library": "MLX", "distribution": "mlx", "needs": ("mlx.core",)}


@producer(**MLX, writes="`module.save_weights('x.npz')` of `mlx.nn` layers (kernels o h w i)", form=".npz")
def mlx_npz(folder: Path) -> Made:
    mlx_module().save_weights(str(folder / "x.npz"))
    return file(folder / "x.npz")


@producer(**MLX, writes="`module.save_weights('x.safetensors')`", form=".safetensors")
def mlx_safetensors(folder: Path) -> Made:
    mlx_module().save_weights(str(folder / "x.safetensors"))
    return file(folder / "x.safetensors")


@producer(**MLX, writes="`mx.save_safetensors` of bfloat16, behind `model.`", form=".safetensors")
def mlx_bfloat16(folder: Path) -> Made:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    flat = {f"model.{k}": x.astype(mx.bfloat16) for k, x in dict(tree_flatten(mlx_module().parameters())).items()}
    mx.save_safetensors(str(folder / "x.safetensors"), flat)
    return file(folder / "x.safetensors", {k: x.bfloat16() for k, x in weights().items()})


@producer(**MLX, writes="`mx.save_gguf`", form=".gguf")
def mlx_gguf(folder: Path) -> Made:
    import mlx.core as mx

    mx.save_gguf(str(folder / "x.gguf"), {k: mx.array(x) for k, x in arrays(weights()).items()})
    return file(folder / "x.gguf", tell=("GGUF",))


@producer(**MLX, writes="`nn.quantize(module)`, save_weights", form=".safetensors")
def mlx_quantised(folder: Path) -> Made:
    import mlx.nn as nn

    module = mlx_module()
    nn.quantize(module, 32, 4, class_predicate=lambda _, part: isinstance(part, nn.Linear) and part.weight.shape[1] % 32 == 0)
    module.save_weights(str(folder / "x.safetensors"))
    return file(folder / "x.safetensors", tell=("quanti",))


def mlx_module() -> Any:
    import mlx.core as mx
    import mlx.nn as nn

    class Part(nn.Module):
        pass

    def held(node: Mapping[str, Any], name: str) -> Any:
        if "weight" in node:
            weight = node["weight"]
            if weight.ndim == 1:
                layer: Any = nn.LayerNorm(weight.shape[0])
            elif weight.ndim == 2:
                layer = nn.Linear(weight.shape[1], weight.shape[0])
            else:
                groups = weight.shape[0] // weight.shape[1] if ".proj.0" in name or ".lim" in name or "reduction.0" in name else 1
                layer = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], weight.shape[2], groups=groups)
                weight = weight.transpose(0, 2, 3, 1)
            assert layer.weight.shape == weight.shape, (name, layer.weight.shape, weight.shape)
            layer.weight, layer.bias = mx.array(np.ascontiguousarray(weight)), mx.array(node["bias"])
            return layer
        inner = {key: held(value, f"{name}.{key}") for key, value in node.items()}
        if all(key.isdecimal() for key in inner):
            return [inner.get(str(i), Part()) for i in range(1 + max(map(int, inner)))]
        part = Part()
        for key, value in inner.items():
            setattr(part, key, value)
        return part

    return held(tree(arrays(weights())), "")

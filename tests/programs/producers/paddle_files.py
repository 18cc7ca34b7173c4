"""PaddlePaddle: layers with the official names, saved by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.programs.producers.jax_files import tree
from tests.programs.producers.made import Made, arrays, file, producer, weights

PADDLE: dict[str, Any] = {"library": "PaddlePaddle", "distribution": "paddlepaddle", "needs": ("paddle",)}


@producer(**PADDLE, writes="`paddle.save(layer.state_dict())` of `paddle.nn` layers (Linear in, out)", form=".pdparams")
def paddle_params(folder: Path) -> Made:
    import paddle

    paddle.save(paddle_module().state_dict(), str(folder / "x.pdparams"))
    return file(folder / "x.pdparams")


@producer(**PADDLE, writes="`paddle.save({'model': …, 'opt': optimizer.state_dict(), 'epoch': 3})`", form=".pdparams")
def paddle_training(folder: Path) -> Made:
    import paddle

    module = paddle_module()
    optimizer = paddle.optimizer.AdamW(parameters=module.parameters())
    paddle.save({"model": module.state_dict(), "opt": optimizer.state_dict(), "epoch": 3}, str(folder / "x.pdparams"))
    return file(folder / "x.pdparams")


@producer(**PADDLE, writes="`paddle.save(…, protocol=2)`, bfloat16", form=".pdparams")
def paddle_protocol_2(folder: Path) -> Made:
    import paddle

    paddle.save(paddle_module().state_dict(), str(folder / "x.pdparams"), protocol=2)
    return file(folder / "x.pdparams")


def paddle_module() -> Any:
    import paddle

    def held(node: Mapping[str, Any], name: str) -> Any:
        if "weight" in node:
            weight = node["weight"]
            if weight.ndim == 1:
                layer: Any = paddle.nn.LayerNorm(weight.shape[0])
            elif weight.ndim == 2:
                layer, weight = paddle.nn.Linear(weight.shape[1], weight.shape[0]), weight.T
            else:
                groups = weight.shape[0] // weight.shape[1] if ".proj.0" in name or ".lim" in name or "reduction.0" in name else 1
                layer = paddle.nn.Conv2D(weight.shape[1] * groups, weight.shape[0], weight.shape[2], groups=groups)
            layer.weight.set_value(np.ascontiguousarray(weight))
            layer.bias.set_value(node["bias"])
            return layer
        inner = {key: held(value, f"{name}.{key}") for key, value in node.items()}
        if all(key.isdecimal() for key in inner):
            return paddle.nn.LayerList([inner.get(str(i), paddle.nn.Identity()) for i in range(1 + max(map(int, inner)))])
        part = paddle.nn.Layer()
        for key, value in inner.items():
            setattr(part, key, value)
        return part

    return held(tree(arrays(weights())), "")

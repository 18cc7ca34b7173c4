"""The same weights in one library's file after another, each written and read by the library itself; back with the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import digits

NEEDED = ("keras", "mlx.core", "paddle", "flax")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Paddle's own, where it loads a state dict
def test_official_keras_mlx_paddle_flax_official(tmp_path: Path) -> None:
    """Each step reads the file of the step before, and none knows the weights otherwise."""
    for needed in NEEDED:
        pytest.importorskip(needed)
    import keras
    import paddle
    from flax import nnx

    from scalablevit_ref.adapters.flax import ScalableViT as OnFlax
    from scalablevit_ref.adapters.keras import ScalableViT as OnKeras
    from scalablevit_ref.adapters.mlx import ScalableViT as OnMlx
    from scalablevit_ref.adapters.paddle import ScalableViT as OnPaddle

    original = sv.load_checkpoint(digits.CHECKPOINT)
    config = original.config

    OnKeras.from_params(original.params, config).save(tmp_path / "one.keras")
    keras.saving.load_model(tmp_path / "one.keras").save_weights(tmp_path / "one.weights.h5")
    params = sv.load_checkpoint(tmp_path / "one.weights.h5", config=config).params

    OnMlx.from_params(params, config).save_weights(str(tmp_path / "two.safetensors"))
    on_mlx = OnMlx(config, seed=7)
    on_mlx.load_weights(str(tmp_path / "two.safetensors"))

    paddle.save(OnPaddle.from_params(on_mlx.to_params(), config).state_dict(), str(tmp_path / "three.pdparams"))
    on_paddle = OnPaddle(config, seed=7)
    on_paddle.set_state_dict(paddle.load(str(tmp_path / "three.pdparams")))

    state = nnx.state(OnFlax.from_params(on_paddle.to_params(), config))
    on_flax = OnFlax(config, seed=7)
    nnx.update(on_flax, state)
    sv.save_checkpoint(tmp_path / "four.pth", on_flax.to_params(), config)

    back = sv.load_checkpoint(tmp_path / "four.pth")
    assert back.config == config
    assert list(back.params) == list(original.params)
    for name, x in original.params.items():
        assert back.params[name].dtype == x.dtype
        np.testing.assert_array_equal(back.params[name], x, err_msg=name)

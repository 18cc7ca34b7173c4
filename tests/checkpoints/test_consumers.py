"""What is written is opened by the libraries that it is for; those that are not installed are passed over."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.flax
import safetensors.torch
import torch

from scalablevit_ref import ScalableViTConfig, init_params, to_state_dict, variant
from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.checkpoints import load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.hub import hub_config
from scalablevit_ref.checkpoints.save import FRAMEWORKS
from scalablevit_ref.digits import MEAN, STD
from scalablevit_ref.formats.safetensors import read_safetensors
from tests.support import torchvision_operators
from tests.support.checkpoints import DIGITS, TINY_MMDET, numbered

PARAMS = init_params(DIGITS, seed=3)
LAYOUTS = ("official", "split", "channels_last")


def assert_holds(state: Mapping[str, Any], expected: Mapping[str, Any] = PARAMS) -> None:
    """These names, in any order, and these bits, whatever library has the arrays."""
    assert set(state) == set(expected)
    assert all(np.asarray(state[name]).tobytes() == np.asarray(x).tobytes() for name, x in expected.items())


def header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return read_safetensors(file, path.stat().st_size)[1]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder of the Hugging Face hub."""
    save_checkpoint(tmp_path / "model.safetensors", PARAMS, DIGITS, config_json=True)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def torchvision() -> None:
    torchvision_operators.define()


@pytest.fixture(scope="module")
def timm() -> Any:
    """timm, in which our networks are registered."""
    if not find_spec("timm"):
        pytest.skip("needs timm")
    module = importlib.import_module("timm")
    importlib.import_module("scalablevit_ref.adapters.timm")
    return module


@pytest.mark.parametrize("layout", LAYOUTS)
def test_safetensors_of_torch_and_flax(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, PARAMS, DIGITS, layout=layout)
    expected = to_state_dict(PARAMS, DIGITS, layout=layout)
    assert header(path)["format"] == ("flax" if layout == "channels_last" else "pt")
    assert_holds(safetensors.torch.load_file(path), expected)
    assert_holds(safetensors.flax.load_file(path), expected)


def test_every_layout_names_its_framework(tmp_path: Path) -> None:
    """By words that accelerate and transformers know."""
    save_checkpoint(tmp_path / "mmdet.safetensors", numbered(TINY_MMDET), TINY_MMDET, layout="mmdet")
    assert header(tmp_path / "mmdet.safetensors")["format"] == "pt"
    assert set(FRAMEWORKS.values()) <= {"pt", "tf", "flax", "mlx"}


def test_safetensors_into_a_module(hub: Path) -> None:
    model = ScalableViT(DIGITS)
    assert safetensors.torch.load_model(model, hub / "model.safetensors") == (set(), [])
    assert_holds(model.state_dict())


@pytest.mark.parametrize(("layout", "wrapper"), [("official", "model"), ("split", "model"), ("mmdet", "state_dict")])
def test_plain_torch_load(tmp_path: Path, layout: str, wrapper: str) -> None:
    """With its defaults, which read no classes, and with the file mapped."""
    config = TINY_MMDET if layout == "mmdet" else DIGITS
    params = init_params(config)
    save_checkpoint(tmp_path / "x.pth", params, config, layout=layout, metadata={"epoch": 3, "history": [{"lr": 0.1}]})
    for options in ({}, {"mmap": True}, {"weights_only": True, "map_location": "cpu"}):
        found = torch.load(tmp_path / "x.pth", **options)
        assert_holds(found[wrapper], to_state_dict(params, config, layout=layout))
        assert found["epoch"] == 3
        assert all(isinstance(text, str) for text in found["scalablevit_ref"].values())


def test_flax_from_bytes(tmp_path: Path) -> None:
    """Into the variables of a module, and into the parameters of a TrainState, strictly."""
    from flax import serialization
    from flax.training.train_state import TrainState
    from flax.traverse_util import flatten_dict, unflatten_dict

    path, expected = tmp_path / "x.msgpack", to_state_dict(PARAMS, DIGITS, layout="channels_last")
    save_checkpoint(path, PARAMS, DIGITS, layout="channels_last", metadata={"epoch": 3})
    zeros = unflatten_dict({tuple(name.split(".")): np.zeros_like(x) for name, x in expected.items()})
    variables = serialization.from_bytes({"params": zeros}, path.read_bytes())
    assert list(variables) == ["params"]
    assert_holds(flatten_dict(variables["params"], sep="."), expected)
    import optax

    state = TrainState.create(apply_fn=None, params=zeros, tx=optax.sgd(0.1))
    whole = serialization.to_state_dict(state) | {"params": serialization.msgpack_restore(path.read_bytes())["params"]}
    assert_holds(flatten_dict(serialization.from_state_dict(state, whole).params, sep="."), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numpy_alone(tmp_path: Path, layout: str) -> None:
    """No entry is anything but a parameter; notes that are too long for the archive's comment are one more, a text."""
    path = tmp_path / "x.npz"
    for metadata, others in (({"epoch": 3}, set()), ({"log": "€" * 20_000}, {"scalablevit_ref"})):
        save_checkpoint(path, PARAMS, DIGITS, layout=layout, metadata=metadata, force=True)
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
        assert {name for name in found if found[name].dtype.kind == "U"} == others
        assert_holds({name: x for name, x in found.items() if name not in others}, to_state_dict(PARAMS, DIGITS, layout=layout))
        told = load_checkpoint(path)
        assert (told.config, told.metadata["config_from"]) == (DIGITS, "metadata")
        assert {name: told.metadata[name] for name in metadata} == metadata


def test_mlx(tmp_path: Path) -> None:
    mlx = pytest.importorskip("mlx.core")
    for path in (tmp_path / "x.npz", tmp_path / "x.safetensors"):
        save_checkpoint(path, PARAMS, DIGITS)
        assert_holds(mlx.load(str(path)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_preprocessing_has_an_entry_for_each_channel(channels: int) -> None:
    """Never None, which timm's transform cannot take."""
    for config in (variant("digits", in_chans=channels), variant("small", in_chans=channels)):
        found = hub_config(config)["pretrained_cfg"]
        assert (len(found["mean"]), len(found["std"]), found["input_size"][0]) == (channels, channels, channels)
        assert all(value > 0 for value in found["std"])
    digits = hub_config(DIGITS)["pretrained_cfg"]
    assert (digits["mean"], digits["std"]) == ([MEAN], [STD])


def test_accelerate(hub: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    from accelerate.utils.modeling import load_checkpoint_in_model, load_state_dict

    (hub / "flax").mkdir()
    save_checkpoint(hub / "flax" / "x.pth", PARAMS, DIGITS)
    save_checkpoint(hub / "flax" / "x.safetensors", PARAMS, DIGITS, layout="channels_last")
    assert_holds(load_state_dict(str(hub / "model.safetensors")))
    assert_holds(load_state_dict(str(hub / "flax" / "x.pth"))["model"])
    with pytest.raises(ValueError, match="saved with flax, we need"):  # whose kernels would be torch's turned round
        load_state_dict(str(hub / "flax" / "x.safetensors"))
    for place in (hub, hub / "model.safetensors"):
        model = ScalableViT(DIGITS)
        load_checkpoint_in_model(model, str(place), strict=True)
        assert_holds(model.state_dict())
    with accelerate.init_empty_weights():
        model = ScalableViT(DIGITS)
    model = accelerate.load_checkpoint_and_dispatch(model, str(hub), device_map={"": "cpu"}, strict=True)
    assert_holds(model.state_dict())


def test_fabric(tmp_path: Path) -> None:
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    save_checkpoint(tmp_path / "x.pth", PARAMS, DIGITS)
    assert_holds(fabric.load(tmp_path / "x.pth")["model"])
    model = ScalableViT(DIGITS)
    assert list(fabric.load(tmp_path / "x.pth", {"model": model})) == ["scalablevit_ref"]
    assert_holds(model.state_dict())


def test_mmengine(tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("mmengine.runner.checkpoint")
    params = init_params(TINY_MMDET)
    save_checkpoint(tmp_path / "x.pth", params, TINY_MMDET, layout="mmdet")
    found = checkpoint.CheckpointLoader.load_checkpoint(str(tmp_path / "x.pth"), map_location="cpu")
    assert_holds(found["state_dict"], to_state_dict(params, TINY_MMDET, layout="mmdet"))


def test_transformers(hub: Path) -> None:
    """A model around the plain network, from the folder; saved again by transformers, our settings are still in it."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_utils import load_state_dict

    class Config(transformers.PretrainedConfig):  # type: ignore[misc]
        def __init__(self, scalablevit_ref: Any = None, **others: Any) -> None:
            super().__init__(**others)
            self.scalablevit_ref = scalablevit_ref

    class Model(transformers.PreTrainedModel):  # type: ignore[misc]
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for name, part in ScalableViT(ScalableViTConfig(**config.scalablevit_ref)).named_children():
                self.add_module(name, part)
            self.post_init()

        def _init_weights(self, module: Any) -> None: ...

    assert_holds(load_state_dict(str(hub / "model.safetensors")))
    model, said = Model.from_pretrained(str(hub), output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_holds(model.state_dict())
    model.save_pretrained(hub / "again")
    found = load_checkpoint(hub / "again" / "model.safetensors")
    assert_holds(found.params)
    assert (found.config, found.metadata["config_from"]) == (DIGITS, "config.json")


def test_hub_mixin(hub: Path) -> None:
    """Its constructor is given the entries of config.json that it has parameters for, of which one is the configuration."""
    mixin = pytest.importorskip("huggingface_hub").PyTorchModelHubMixin

    class BySettings(ScalableViT, mixin):  # type: ignore[misc]
        def __init__(self, scalablevit_ref: dict[str, Any]) -> None:
            super().__init__(ScalableViTConfig(**scalablevit_ref))

    class ByClasses(ScalableViT, mixin):  # type: ignore[misc]
        def __init__(self, num_classes: int = 3) -> None:
            super().__init__(variant("digits", num_classes=num_classes))

    class AsItIs(ScalableViT, mixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(DIGITS)

    for model in (BySettings, ByClasses, AsItIs):
        assert_holds(model.from_pretrained(str(hub), strict=True).state_dict())
    BySettings.from_pretrained(str(hub)).save_pretrained(hub / "again")
    assert json.loads((hub / "again" / "config.json").read_text()) == {"scalablevit_ref": json.loads(json.dumps(asdict(DIGITS)))}
    found = load_checkpoint(hub / "again" / "model.safetensors")
    assert (found.config, found.metadata["config_from"]) == (DIGITS, "config.json")


def test_timm_files(hub: Path, timm: Any) -> None:
    save_checkpoint(hub / "x.pth", PARAMS, DIGITS)
    for file in ("model.safetensors", "x.pth"):
        model = timm.create_model(
            "scalablevit_digits", pretrained=True, in_chans=1, pretrained_cfg_overlay={"file": str(hub / file), "num_classes": 10}
        )
        assert_holds(model.state_dict())
        model = timm.create_model("scalablevit_digits", in_chans=1, num_classes=10)
        timm.models.load_checkpoint(model, str(hub / file), strict=True)
        assert_holds(model.state_dict())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_timm_folder(tmp_path: Path, timm: Any, channels: int) -> None:
    """The network, its weights and its transform, from the folder alone; and with another head."""
    from PIL import Image

    config = variant("digits", in_chans=channels)
    params = init_params(config, seed=3)
    save_checkpoint(tmp_path / "model.safetensors", params, config, config_json=True)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=channels)
    assert_holds(model.state_dict(), params)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    image = transform(Image.new({1: "L", 3: "RGB", 4: "CMYK"}[channels], (200, 150)))
    assert image.shape == (channels, 112, 112)
    assert bool(image.isfinite().all())
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=channels, num_classes=3).state_dict()
    kept = {name: x for name, x in params.items() if not name.startswith("head")}
    assert other["head.weight"].shape == (3, 64)
    assert_holds({name: other[name] for name in kept}, kept)
    # saved again by timm, whose config.json has none of our settings
    timm.models.save_for_hf(model, tmp_path / "again", safe_serialization=True)
    assert_holds(load_checkpoint(tmp_path / "again" / "model.safetensors", variant="digits").params, params)


def test_converted_for_the_hub(tmp_path: Path, timm: Any) -> None:
    """As `convert` writes it: from a bare state dict into a folder that timm opens."""
    torch.save({name: torch.from_numpy(x) for name, x in PARAMS.items()}, tmp_path / "bare.pth")
    (tmp_path / "hub").mkdir()
    convert_file(tmp_path / "bare.pth", tmp_path / "hub" / "model.safetensors", config_json=None)
    assert_holds(timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True, in_chans=1).state_dict())

"""What this package writes, opened by those for whom it is written, each by its own loading call."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scalablevit_ref as sv
from scalablevit_ref.adapters import onnx_runtime as runtime
from tests.programs.producers.jax_files import params as flax_params
from tests.programs.producers.made import CONFIG, Weights, arrays, network, of, weights
from tests.programs.producers.outcome import NOT_OPENED, differs, quiet, there
from tests.programs.producers.trainers import without_torchvision

OPENED = "opened"


@dataclass(frozen=True)
class Consumer:
    """A library's loading call on a format that we write; `load` gives the weights that arrived, under official names."""

    library: str
    distribution: str
    reads: str
    form: str
    load: Callable[[Path], Weights]
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.load.__name__


CONSUMERS: list[Consumer] = []


def consumer(library: str, reads: str, form: str, *, distribution: str = "", needs: tuple[str, ...] = ()) -> Any:
    """Register a function from a folder to the weights that arrived there."""

    def register(load: Callable[[Path], Weights]) -> Callable[[Path], Weights]:
        name = distribution or library
        CONSUMERS.append(Consumer(library, name, reads, form, load, needs or (name,)))
        return load

    return register


def written(folder: Path, name: str, **options: Any) -> Path:
    """A file of the weights, written by this package."""
    sv.save_checkpoint(folder / name, arrays(weights()), CONFIG, **options)
    return folder / name


def published(folder: Path) -> Path:
    """A folder with `model.safetensors` and `config.json`, as the command line writes it."""
    source = written(folder, "source.pth")
    (folder / "m").mkdir()
    command("convert", source, folder / "m" / "model.safetensors")
    return folder / "m"


def command(*words: Any) -> None:
    """A command of ours, in a process of its own; RuntimeError with what it said where it fails."""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "scalablevit_ref", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def into(model: Any, state: Mapping[str, Any]) -> Weights:
    """What a module with other weights holds after `load_state_dict`, strictly."""
    model.load_state_dict(dict(state), strict=True)
    return of(model)


def fresh() -> Any:
    return network(7)


@consumer("PyTorch", "`torch.load(…, weights_only=True)`", ".pth", distribution="torch")
def torch_load(folder: Path) -> Weights:
    held = torch.load(written(folder, "x.pth"), weights_only=True)
    return into(fresh(), held.get("model", held.get("state_dict", held)))


@consumer("PyTorch", "the same, `mmap=True`", ".pth", distribution="torch")
def torch_load_mapped(folder: Path) -> Weights:
    held = torch.load(written(folder, "x.pth"), weights_only=True, mmap=True)
    return into(fresh(), held.get("model", held))


@consumer("safetensors", "`safetensors.torch.load_model(model, path)`", ".safetensors")
def safetensors_load_model(folder: Path) -> Weights:
    import safetensors.torch

    model = fresh()
    safetensors.torch.load_model(model, str(written(folder, "x.safetensors")))
    return of(model)


@consumer("safetensors", "`safetensors.flax.load_file(path)`", ".safetensors, channels_last", needs=("safetensors", "flax"))
def safetensors_flax(folder: Path) -> Weights:
    import safetensors.flax

    held = safetensors.flax.load_file(str(written(folder, "x.safetensors", layout="channels_last")))
    return sv.from_state_dict({k: np.asarray(x) for k, x in held.items()}).params


@consumer("accelerate", "`load_checkpoint_in_model(model, path)`", ".safetensors")
def accelerate_file(folder: Path) -> Weights:
    from accelerate.utils import load_checkpoint_in_model

    model = fresh()
    load_checkpoint_in_model(model, str(written(folder, "x.safetensors")), strict=True)
    return of(model)


@consumer("accelerate", "`load_checkpoint_and_dispatch(model, folder)`", "folder")
def accelerate_folder(folder: Path) -> Weights:
    from accelerate import load_checkpoint_and_dispatch

    return of(load_checkpoint_and_dispatch(fresh(), str(published(folder)), strict=True))


@consumer("transformers", "`PreTrainedModel.from_pretrained(folder)`", "folder")
def from_pretrained(folder: Path) -> Weights:
    without_torchvision()
    from transformers import PretrainedConfig, PreTrainedModel

    class Config(PretrainedConfig):
        model_type = "scalablevit"

    class Task(PreTrainedModel):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for name, part in fresh().named_children():
                setattr(self, name, part)
            self.post_init()

        def _init_weights(self, module: Any) -> None:
            pass

    return of(Task.from_pretrained(str(published(folder))))


@consumer("timm", "`timm.models.load_checkpoint(model, path)`", ".safetensors")
def timm_safetensors(folder: Path) -> Weights:
    without_torchvision()
    from timm.models import load_checkpoint

    model = fresh()
    load_checkpoint(model, str(written(folder, "x.safetensors")), strict=True)
    return of(model)


@consumer("timm", "the same", ".pth")
def timm_pth(folder: Path) -> Weights:
    without_torchvision()
    from timm.models import load_checkpoint

    model = fresh()
    load_checkpoint(model, str(written(folder, "x.pth")), strict=True)
    return of(model)


@consumer("timm", "`create_model('local-dir:…')`, and its transform of a grey image", "folder")
def timm_local_dir(folder: Path) -> Weights:
    without_torchvision()
    import json

    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_data_config
    from timm.models import register_model

    at = published(folder)
    architecture = json.loads((at / "config.json").read_text())["architecture"]

    def build(pretrained: bool = False, **_: Any) -> Any:
        return fresh()

    build.__name__, build.__module__ = architecture, __name__
    globals()[architecture] = build
    register_model(build)
    model = timm.create_model(f"local-dir:{at}", pretrained=False)
    cfg = timm.models.load_model_config_from_path(at)[0] if hasattr(timm.models, "load_model_config_from_path") else None
    cfg = cfg or json.loads((at / "config.json").read_text())["pretrained_cfg"]
    transform = create_transform(**resolve_data_config(pretrained_cfg=cfg))
    image = transform(Image.fromarray(np.arange(112 * 112, dtype=np.uint8).reshape(112, 112)))
    if image.shape != (1, 112, 112):
        raise RuntimeError(f"the transform gives {tuple(image.shape)}")
    timm.models.load_checkpoint(model, str(at / "model.safetensors"), strict=True)
    return of(model)


@consumer(
    "huggingface_hub",
    "`PyTorchModelHubMixin.from_pretrained(folder)`",
    "folder",
    distribution="huggingface-hub",
    needs=("huggingface_hub",),
)
def hub_mixin(folder: Path) -> Weights:
    from huggingface_hub import PyTorchModelHubMixin

    from scalablevit_ref.adapters.plain import ScalableViT

    class Task(ScalableViT, PyTorchModelHubMixin):
        def __init__(self) -> None:
            super().__init__(CONFIG)

    return of(Task.from_pretrained(str(published(folder)), strict=True))


@consumer(
    "huggingface_hub", "`load_torch_model(model, folder)`", "folder", distribution="huggingface-hub", needs=("huggingface_hub",)
)
def hub_load(folder: Path) -> Weights:
    from huggingface_hub import load_torch_model

    model = fresh()
    load_torch_model(model, str(published(folder)), strict=True)
    return of(model)


@consumer("Lightning", "`Fabric.load(path, {'model': model})`", ".pth", distribution="lightning")
def fabric(folder: Path) -> Weights:
    without_torchvision()
    from lightning.fabric import Fabric

    model = fresh()
    Fabric(accelerator="cpu", devices=1).load(str(written(folder, "x.pth")), {"model": model}, strict=False)
    return of(model)


@consumer("fvcore", "`Checkpointer(model).load(path)`", ".pth", needs=("fvcore", "iopath"))
def fvcore_load(folder: Path) -> Weights:
    from fvcore.common.checkpoint import Checkpointer

    model = fresh()
    Checkpointer(model).load(str(written(folder, "x.pth")))
    return of(model)


@consumer("Flax", "`serialization.from_bytes(variables, data)`", ".msgpack, channels_last", distribution="flax")
def flax_from_bytes(folder: Path) -> Weights:
    from flax import serialization
    from flax.traverse_util import flatten_dict

    found = serialization.from_bytes({"params": flax_params(7)}, written(folder, "x.msgpack", layout="channels_last").read_bytes())
    return sv.from_state_dict({k: np.asarray(x) for k, x in flatten_dict(found["params"], sep=".").items()}).params


@consumer("Flax", "`serialization.msgpack_restore(data)['params']`", ".msgpack, channels_last", distribution="flax")
def flax_restore(folder: Path) -> Weights:
    from flax import serialization
    from flax.traverse_util import flatten_dict

    found = serialization.msgpack_restore(written(folder, "x.msgpack", layout="channels_last").read_bytes())
    return sv.from_state_dict({k: np.asarray(x) for k, x in flatten_dict(found["params"], sep=".").items()}).params


@consumer("NumPy", "`np.load(path)`, no pickle", ".npz", distribution="numpy")
def numpy_load(folder: Path) -> Weights:
    with np.load(written(folder, "x.npz"), allow_pickle=False) as held:
        return {name: held[name] for name in held if name in weights()}


@consumer("JAX", "`jnp.load(path)`", ".npz", distribution="jax")
def jax_load(folder: Path) -> Weights:
    import jax.numpy as jnp

    with jnp.load(written(folder, "x.npz")) as held:
        return {name: np.asarray(jnp.asarray(held[name])) for name in weights()}


@consumer("MLX", "`module.load_weights(path)`, strictly", ".safetensors, mlx", distribution="mlx", needs=("mlx.core",))
def mlx_load(folder: Path) -> Weights:
    return _mlx(folder, "x.safetensors")


@consumer("MLX", "the same", ".npz, mlx", distribution="mlx", needs=("mlx.core",))
def mlx_load_npz(folder: Path) -> Weights:
    return _mlx(folder, "x.npz")


def _mlx(folder: Path, name: str) -> Weights:
    from mlx.utils import tree_flatten

    from tests.programs.producers.mlx_files import mlx_module

    module = mlx_module()
    module.apply(lambda x: x * 0)
    module.load_weights(str(written(folder, name, layout="mlx")))
    found = {k: np.array(x) for k, x in tree_flatten(module.parameters())}
    return {k: x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for k, x in found.items()}


@consumer(
    "Keras",
    "`model.load_weights(path, by_name=True)`, layers with official names",
    ".h5, keras",
    distribution="keras",
    needs=("keras", "h5py"),
)
def keras_load(folder: Path) -> Weights:
    from tests.programs.producers.keras_files import keras_functional

    model = keras_functional()
    for layer in model.layers:
        layer.set_weights([0 * x for x in layer.get_weights()])
    model.load_weights(str(written(folder, "x.h5", layout="keras")), by_name=True)
    found = {}
    for layer in model.layers:
        for variable, x in zip(layer.weights, layer.get_weights(), strict=True):
            leaf = "bias" if variable.name in ("bias", "beta") else "weight"
            if x.ndim == 4:
                x = x.transpose(2, 3, 0, 1) if "Depthwise" in type(layer).__name__ else x.transpose(3, 2, 0, 1)
            found[f"{layer.name}.{leaf}"] = x.T if x.ndim == 2 else x
    return found


@consumer(
    "PaddlePaddle", "`layer.set_state_dict(paddle.load(path))`", ".pdparams, paddle", distribution="paddlepaddle", needs=("paddle",)
)
def paddle_load(folder: Path) -> Weights:
    import paddle

    from tests.programs.producers.paddle_files import paddle_module

    module = paddle_module()
    for p in module.parameters():
        p.set_value(p * 0)
    missing, unexpected = module.set_state_dict(paddle.load(str(written(folder, "x.pdparams", layout="paddle"))))
    if missing or set(unexpected) - {"scalablevit_ref"}:  # our notes, which Paddle tells of and leaves out
        raise RuntimeError(f"missing {missing[:3]}, unexpected {unexpected[:3]}")
    return {k: x.numpy().T if x.ndim == 2 else x.numpy() for k, x in module.state_dict().items()}


@consumer(
    "ONNX Runtime",
    "`InferenceSession(path).run`: the logits of the plain module",
    ".onnx",
    distribution="onnxruntime",
    needs=("onnx", "onnxruntime"),
)
def onnx_runtime(folder: Path) -> Weights:
    command("convert", written(folder, "x.pth"), folder / "x.onnx")
    images = torch.randn(1, 1, 112, 112)
    (logits,) = runtime.onnx_runtime().InferenceSession(str(folder / "x.onnx")).run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = network().eval()(images).numpy()
    if abs(logits - expected).max() > 1e-4 * abs(expected).max():
        raise RuntimeError(f"the logits differ by {abs(logits - expected).max():.1e}")
    return sv.load_checkpoint(folder / "x.onnx").params


def run(row: Consumer) -> dict[str, str]:
    """The record of one row: whether the weights arrived bit for bit."""
    try:
        found = version(row.distribution)
    except PackageNotFoundError:
        found = "–"
    plain = {"name": row.name, "library": row.library, "version": found, "reads": row.reads, "form": row.form}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet():
        try:
            difference = differs(row.load(Path(folder)), weights())
        except Exception as error:
            return {**plain, "result": NOT_OPENED, "said": f"{type(error).__name__}: {error}".replace(folder, ".")}
    return {**plain, "result": NOT_OPENED if difference else OPENED, **({"said": difference} if difference else {})}


def installed(row: Consumer) -> bool:
    return all(there(name) for name in row.needs)

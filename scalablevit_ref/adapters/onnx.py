"""ScalableViT as an ONNX file whose initialisers are the official parameters; and those read back.

Writing takes torch, onnx and onnxscript; reading takes NumPy.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.adapters import extra
from scalablevit_ref.backends import to_backend
from scalablevit_ref.checkpoints import Checkpoint, CheckpointError, from_state_dict
from scalablevit_ref.checkpoints.infer import config_to_json
from scalablevit_ref.checks import check_count, check_shapes
from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.errors import in_file
from scalablevit_ref.formats.atomic import write_atomically
from scalablevit_ref.formats.onnx import read_onnx
from scalablevit_ref.network import trace
from scalablevit_ref.parameters import parameter_shapes

OPSETS = range(18, 24)
"""Versions of ONNX's operators that `export` writes."""

CONFIG = "scalablevit_ref.config"
"""The file's metadata that holds the configuration, as JSON."""


def export(
    params: Mapping[str, Any],
    config: ScalableViTConfig,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] = 224,
    float16: bool = False,
    opset: int = 20,
    batch: int | str = "dynamic",
    taps: Sequence[str] | bool = (),
    force: bool = False,
) -> None:
    """Write the network as ONNX: input `images` b c h w, output `logits` b classes, initialisers under the official names.

    The configuration is kept in the metadata. Equal arguments make equal files. torch's exporter takes some 45 s for `small`, half
    with a fixed batch.

    Parameters
    ----------
    params
        Under the official names, of any library and dtype.
    config
        What they are of.
    path
        Of the file.
    image_size
        Height and width in pixels, or one number for both; they are fixed in the file.
    float16
        Whether parameters, images and logits are float16; else they are float32.
    opset
        The version of ONNX's operators, 18 to 23; 20 is the first with a GELU of its own.
    batch
        "dynamic", or a fixed size.
    taps
        Intermediates, by their names in `sv.trace`, to be outputs after `logits`; True for all. Maps are b h w c.
    force
        Overwrite an existing file.

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit.
    FileExistsError
        Without `force`.
    ModuleNotFoundError
        Names the extra.
    """
    with extra("onnx"):
        import onnx  # noqa: F401  (it and onnxscript are what torch's exporter is written in)
        import onnxscript  # noqa: F401
        import torch

    if opset not in OPSETS:
        raise ValueError(f"opset must be {OPSETS.start} to {OPSETS.stop - 1}, got {opset!r}")
    if batch != "dynamic":
        check_count("batch", batch)
    check_shapes(params, parameter_shapes(config))
    dtype = "float16" if float16 else "float32"
    weights = to_backend(params, "torch", dtype)
    if too_large := [name for name, x in weights.items() if not torch.isfinite(x).all()]:
        raise ValueError(f"parameter {too_large[0]!r} has values that are not finite in {dtype}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = torch.zeros(2 if batch == "dynamic" else int(batch), config.in_chans, *size, dtype=getattr(torch, dtype))
    outputs = _outputs(images, config, taps)

    def write(file: BinaryIO) -> None:
        model = _model(images, weights, config, outputs, opset=opset, dynamic=batch == "dynamic")
        file.write(model.SerializeToString())

    write_atomically({Path(path): write}, force=force)


def _model(
    images: Any, weights: Mapping[str, Any], config: ScalableViTConfig, outputs: list[str], *, opset: int, dynamic: bool
) -> Any:
    """The `onnx.ModelProto`."""
    import onnx
    import torch

    from scalablevit_ref.adapters.torch import ScalableViT

    class Tapped(ScalableViT):
        def forward(self, images: Any) -> tuple[Any, ...]:
            found = trace(images, dict(self.named_parameters()), self.config)
            return tuple(found[name].clone() for name in outputs)  # an output of its own, also where two names are one value

    with _quiet():
        program = torch.onnx.export(
            Tapped(config, params=weights).eval(),
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None,
            opset_version=opset,
            optimize=False,  # it would fold the transposition of a weight into it
            verbose=False,
        )
    assert program is not None
    model: Any = program.model_proto
    _clean(model, list(parameter_shapes(config)))
    onnx.helper.set_model_props(model, {CONFIG: config_to_json(config)})
    return model


def _outputs(images: Any, config: ScalableViTConfig, taps: Sequence[str] | bool) -> list[str]:
    """`logits` and the taps. The trace is asked for its names on torch's meta device, where nothing is computed."""
    like = images.to("meta")
    params = {name: like.new_empty(shape) for name, shape in parameter_shapes(config).items()}
    names = [name for name in trace(like, params, config) if name != "logits"]
    wanted = names if taps is True else [name for name in taps or () if name != "logits"]
    for name in wanted:
        if name not in names:
            raise ValueError(f"taps: the network has no {name!r}{near_matches(name, names)}")
    return ["logits", *dict.fromkeys(wanted)]


def _clean(model: Any, names: list[str]) -> None:
    """Initialisers in the official order; no notes of the machine on which the file was written, which each node has."""
    held = {x.name: x for x in model.graph.initializer}
    if set(held) != set(names):
        raise RuntimeError(f"torch.onnx has renamed parameters: {sorted(set(held) ^ set(names))[:4]}")
    ordered = [held[name] for name in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(ordered)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's word on operations of torchvision that it cannot export, nor the warning that its own code earns it."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        log.setLevel(level)


def load_params(
    path: str | os.PathLike[str], *, variant: str | None = None, config: ScalableViTConfig | None = None
) -> dict[str, np.ndarray]:
    """The official parameters that an ONNX file holds as initialisers, in its dtype: `load(path).params`."""
    return load(path, variant=variant, config=config).params


def load(path: str | os.PathLike[str], *, variant: str | None = None, config: ScalableViTConfig | None = None) -> Checkpoint:
    """Parameters and configuration of an ONNX file of `export`, or of any other whose parameters have the official names.

    Those of torch's exporters have them, also where a weight's transposition is folded or equal tensors are merged
    (`formats.onnx.read_onnx`). Other constants are left out. Weights may lie in other files of the same folder; no link is followed
    out of it. `sv.load_checkpoint` reads the same files, told by their content.

    Parameters
    ----------
    path
        Of the file.
    variant, config
        As in `sv.from_state_dict`; the files of `export` hold their configuration.

    Raises
    ------
    CheckpointError
        Naming the file, for anything else.
    FileNotFoundError
        If there is none.
    """
    with in_file(path), ExitStack() as files:
        state, notes = read_onnx(Path(path), files)
        if not state:
            raise CheckpointError("an ONNX file without the official parameters", expected="initialisers such as norm.weight")
        stored = {"scalablevit_ref": {"config": notes[CONFIG]}} if CONFIG in notes else {}
        return from_state_dict({"model": state, **stored}, variant=variant, config=config)

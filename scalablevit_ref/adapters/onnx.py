"""ScalableViT as an ONNX file whose initialisers are the official parameters; those read back; and the file run by ONNX Runtime.

The graph is what the specification writes down when it runs on arrays that do (`backends.graph`). Writing takes onnx, running takes
onnxruntime, reading takes NumPy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.adapters import extra
from scalablevit_ref.adapters.onnx_model import onnx_model
from scalablevit_ref.adapters.onnx_runtime import CPU, MOST_THREADS, SILENT, TYPES, Session, onnx_runtime
from scalablevit_ref.arguments import check_choice, check_count, check_flag, check_mapping, check_path, check_text, is_whole
from scalablevit_ref.backends import to_backend
from scalablevit_ref.backends.nodes import Graph
from scalablevit_ref.backends.views import array
from scalablevit_ref.checkpoints import Checkpoint, CheckpointError
from scalablevit_ref.checkpoints.convert import Converted, ConvertOptions, check_options, conversion, inputs, manifest_text
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checkpoints.infer import exact_variant
from scalablevit_ref.checkpoints.load import open_checkpoint, read_weights
from scalablevit_ref.checkpoints.notes import NOTES, noted
from scalablevit_ref.checkpoints.official import OfficialWeights
from scalablevit_ref.checkpoints.save import all_kept
from scalablevit_ref.checks import check_map, check_shapes
from scalablevit_ref.config import ScalableViTConfig, check_config, near_matches
from scalablevit_ref.errors import brief, in_file
from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.files.writing import check_outputs, write_atomically
from scalablevit_ref.formats.lazy import check_finite, in_memory
from scalablevit_ref.image_sizes import check_image_size, sides, usual_image_size
from scalablevit_ref.network import trace
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.weights import GUESSED, Stated

OPSETS = range(18, 24)
"""Versions of ONNX's operators that `export` writes."""

DTYPES = ("float32", "float16", "bfloat16")
"""Types of numbers that `export` writes."""

BFLOAT16_FROM = 22
"""First version of ONNX's operators whose convolution takes bfloat16."""

AXES = {0: "batch", 2: "height", 3: "width"}
"""Names of the axes of images that may be free in a file."""

EXAMPLES = 1_000_003
"""Size of the batch while a graph with a free one is written, in images: a prime number that is no other size of a network."""

CONFIG = f"{NOTES}.config"
"""Metadata that held the configuration, as JSON, in files of earlier versions; `NOTES` is the key now."""


def export(
    params: Mapping[str, Any],
    config: ScalableViTConfig,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | str = 224,
    dtype: str | None = None,
    float16: bool = False,
    opset: int = 20,
    batch: int | str = "dynamic",
    taps: Sequence[str] | bool = (),
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write the network as ONNX: input `images` b c h w, output `logits` b classes, initialisers under the official names.

    The operators are ONNX's own, the parameters in their official layout: where a product takes a weight turned, a `Transpose` is
    before it, which runtimes carry out when they load the file. The configuration is kept in the metadata, as this package's other
    files keep it. Equal arguments make equal files.

    Parameters
    ----------
    params
        Under the official names, of any library and dtype.
    config
        What they are of.
    path
        Of the file.
    image_size
        Height and width in pixels, or one number for both, which are then fixed in the file; or "dynamic", which takes every size
        that the network takes. The runtime ends with an error at another size.
    dtype
        Of parameters, images and logits: "float32", "float16", or "bfloat16", which takes opset 22.
    float16
        The old way to say `dtype="float16"`, for one more release.
    opset
        The version of ONNX's operators, 18 to 23; 20 is the first with a GELU of its own.
    batch
        "dynamic", or a fixed size.
    taps
        Intermediates, by their names in `sv.trace`, to be outputs after `logits`; True for all. Maps are b h w c.
    metadata
        Plain values to keep beside the weights, as in `sv.save_checkpoint`: a `Checkpoint`'s.
    force
        Overwrite an existing file.

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit.
    CheckpointError
        For metadata that cannot be kept.
    FileExistsError
        Without `force`.
    ModuleNotFoundError
        Names the extra.
    """
    check_path("path", path)
    check_flag("force", force)
    check_flag("float16", float16)
    if metadata is not None:
        check_mapping("metadata", metadata)
    settings: dict[str, Any] = {"image_size": image_size, "opset": opset, "batch": batch, "taps": taps}
    if float16 and dtype not in (None, "float16"):
        raise ValueError(f"dtype must be 'float16' or None beside float16=True, got {brief(dtype)}")
    settings["dtype"] = "float16" if float16 else "float32" if dtype is None else dtype
    write_atomically({Path(path): _export_into(params, config, metadata=metadata or {}, **settings)}, force=force)


def _export_into(
    params: Mapping[str, Any],
    config: ScalableViTConfig,
    *,
    image_size: int | tuple[int, int] | str,
    dtype: str = "float32",
    opset: int = 20,
    batch: int | str = "dynamic",
    taps: Sequence[str] | bool = (),
    metadata: Mapping[str, Any],
) -> Callable[[BinaryIO], object]:
    """What writes the file of `export`. The arguments are checked, and the graph is made, before."""
    with extra("onnx"):
        import onnx

    if not is_whole(opset) or opset not in OPSETS:
        raise ValueError(f"opset must be {OPSETS.start} to {OPSETS.stop - 1}, got {brief(opset)}")
    if not _is_free(batch):
        check_count("batch", batch)
    check_config(config)
    check_choice("dtype", dtype, DTYPES)
    if dtype == "bfloat16" and opset < BFLOAT16_FROM:
        raise ValueError(f"opset must be at least {BFLOAT16_FROM} for bfloat16, got {opset}")
    if not isinstance(taps, bool):
        if isinstance(taps, str) or not isinstance(taps, Collection):
            raise TypeError(f"taps must be names, or True for all, got {brief(taps)}")
        for tap in taps:
            check_text("taps", tap)
    if not _is_free(image_size):
        check_image_size(config, *sides(image_size))
    params = tensors_in(params)
    check_shapes(params, parameter_shapes(config))
    with np.errstate(over="ignore"):  # said below
        weights = to_backend(params, "numpy", dtype)
    if too_large := [name for name, x in weights.items() if not np.isfinite(x).all()]:
        raise ValueError(f"parameter {too_large[0]!r} has values that are not finite in {dtype}")
    graph, outputs = _graph(config, dtype, opset=opset, batch=batch, image_size=image_size, taps=taps)
    name = exact_variant(config)
    guessed = metadata.get("config_from") == GUESSED and metadata.get("variant") == name
    notes = noted(asdict(config), layout="official", variant=name, guessed=guessed, metadata=all_kept(metadata))

    def write(file: BinaryIO) -> None:
        model = onnx_model(graph, weights, outputs)
        onnx.helper.set_model_props(model, {NOTES: json.dumps(notes)})
        file.write(model.SerializeToString())

    return write


def _is_free(size: Any) -> bool:
    return isinstance(size, str) and size == "dynamic"


def _graph(
    config: ScalableViTConfig,
    dtype: str,
    *,
    opset: int,
    batch: int | str,
    image_size: int | tuple[int, int] | str,
    taps: Sequence[str] | bool,
) -> tuple[Graph, list[str]]:
    """What the network writes down, and the names of the outputs: `logits`, then the taps."""
    graph = Graph(dtype, opset=opset)
    h, w = sides(usual_image_size(config) if _is_free(image_size) else image_size)
    size: list[int] = [EXAMPLES if _is_free(batch) else int(batch), config.in_chans, h, w]
    for axis, stated in ((0, batch), (2, image_size), (3, image_size)):
        if _is_free(stated):
            size[axis] = graph.unknown(AXES[axis], "images", axis, size[axis])
    params = {name: array(graph, name, shape) for name, shape in parameter_shapes(config).items()}
    for name in params:
        graph.module(name)
    found = trace(array(graph, "images", size), params, config)
    names = [name for name in found if name != "logits"]
    wanted = names if taps is True else [name for name in taps or () if name != "logits"]
    for name in wanted:
        if name not in names:
            raise ValueError(f"taps: the network has no {name!r}{near_matches(name, names)}")
    outputs = ["logits", *dict.fromkeys(wanted)]
    for name in outputs:
        graph.name(found[name].plain().name, name)
    return graph, outputs


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
        Naming the file, for anything else, and for parameters of several dtypes.
    FileNotFoundError
        If there is none.
    """
    check_path("path", path)
    with open_checkpoint(path, Stated(variant=variant, config=config), only=OfficialWeights, format="onnx") as weights:
        return read_weights(weights)


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: ConvertOptions | None = None,
    *,
    image_size: int | tuple[int, int] | str | None = None,
) -> Converted:
    """A checkpoint as an ONNX file of the official network: `sv.convert_file` into the official layout, then `export`.

    Parameters
    ----------
    source, target
        The file to read, and the one to write.
    options
        What is to be done. The dtype is float32 or float16; None is float16 of weights that are, else float32.
    image_size
        Height and width in pixels, or one number for both, or "dynamic"; None is the usual one of the network.

    Raises
    ------
    CheckpointError, FileExistsError, FileNotFoundError, ValueError
        Before anything is written.
    ModuleNotFoundError
        Names the extra.
    """
    with extra("onnx"):
        import onnx  # noqa: F401

    check_path("source", source)
    check_path("target", target)
    options, target = check_options(options), Path(target)
    if options.layout not in (None, "official") or options.config_json:
        problem = "an ONNX file holds the official layout, and no config.json beside it"
        raise CheckpointError(problem, file=target, expected="official", found=options.layout or "config.json")
    if options.dtype not in (None, "float32", "float16"):
        raise CheckpointError("dtype", file=target, expected="float32 or float16 for ONNX", found=options.dtype)
    check_outputs((target, options.sha256), inputs=inputs(Path(source), target), force=options.force)
    with open_checkpoint(source, options.stated, use_ema=options.use_ema) as weights:
        dtype = options.dtype or ("float16" if weights.metadata["dtype"] == "float16" else "float32")
        made = conversion(weights, replace(options, dtype=dtype), "official")
        with in_file(source):
            params = {name: in_memory(x) for name, x in made.state.items()}
            if not options.allow_nonfinite:
                check_finite(params)
        done, config = made.done(), made.changed.config
        guess = {"config_from": GUESSED, "variant": exact_variant(config)} if weights.guessed else {}
    size = image_size if image_size is not None else usual_image_size(config)
    writes = {target: _export_into(params, config, image_size=size, dtype=dtype, metadata=made.metadata | guess)}
    if options.sha256:
        writes[Path(options.sha256)] = lambda file: file.write(manifest_text(params))
    write_atomically(writes, force=options.force)
    return done


def session(path: str | os.PathLike[str], *, threads: int | None = None, spinning: bool = True, arena: bool = True) -> Session:
    """A file of `export`, or of any other exporter, loaded by ONNX Runtime for its CPU with all its optimisations.

    Parameters
    ----------
    path
        Of the file.
    threads
        How many a product is shared among; None is as many as cores that the process may use.
    spinning
        Whether threads that wait for work keep their cores busy. Without it, threads of several processes do not get in each
        other's way, and an image takes longer on a machine that does nothing else.
    arena
        Whether memory is kept from one call to the next.

    Raises
    ------
    CheckpointError
        Naming the file, for one that ONNX Runtime does not load.
    OSError
        For what is no regular file, FileNotFoundError if there is none.
    ModuleNotFoundError
        Names the extra.

    Examples
    --------
    >>> network = session("small.onnx", threads=4)  # doctest: +SKIP
    >>> network(images).argmax(1)  # doctest: +SKIP
    """
    check_path("path", path)
    check_flag("spinning", spinning)
    check_flag("arena", arena)
    if threads is not None:
        check_count("threads", threads, most=MOST_THREADS)
    with extra("onnx"):
        onnx_runtime()
    return Session(path, threads=threads, spinning=spinning, arena=arena)


def run(path: str | os.PathLike[str], images: np.ndarray) -> np.ndarray:
    """What a file of `export` gives in ONNX Runtime, without its optimisations: the first output, of images in the file's dtype.

    Raises ModuleNotFoundError that names the extra, and OSError for what is no regular file.
    """
    with extra("onnx"):
        onnxruntime = onnx_runtime()

    check_path("path", path)
    check_map("images", images, "b c h w")
    open_regular(path, "an ONNX model").close()  # which ONNX Runtime would wait for
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = SILENT
    model = onnxruntime.InferenceSession(os.fspath(path), settings, providers=CPU)
    dtype = TYPES.get(model.get_inputs()[0].type, "float32")
    found: np.ndarray = model.run(None, {model.get_inputs()[0].name: images.astype(dtype)})[0]
    return found

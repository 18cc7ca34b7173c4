"""`scalablevit-ref convert`: one checkpoint file made into another, tensor by tensor."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from scalablevit_ref.adapters import onnx
from scalablevit_ref.arguments import FLOATS
from scalablevit_ref.checkpoints.convert import Converted, ConvertOptions, convert_file
from scalablevit_ref.checkpoints.download import as_given
from scalablevit_ref.checkpoints.hub import CONFIG_JSON, HUB_FILE
from scalablevit_ref.checkpoints.layouts import LAYOUTS
from scalablevit_ref.checkpoints.load import open_checkpoint
from scalablevit_ref.checkpoints.save import WRITERS
from scalablevit_ref.checkpoints.transformers_folder import PREPROCESSOR_JSON, TRANSFORMERS
from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import (
    CostlyOption,
    EmaOption,
    ForceOption,
    HeadsOption,
    JsonOption,
    KeyOption,
    VariantOption,
    WindowsOption,
    ema_said,
    parse_size,
    per_stage,
    say_written,
    summarised,
)
from scalablevit_ref.cli.progress import bytes_bar
from scalablevit_ref.cli.terminal import say
from scalablevit_ref.dialects.weights import PORT_LAYOUTS
from scalablevit_ref.errors import CheckpointError, option
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import check_run
from scalablevit_ref.testing import random_images
from scalablevit_ref.testing.arrays import EPS, NETWORK_TOLERANCE, relative_l2
from scalablevit_ref.weights import Weights


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The checkpoint to read, of any layout.", show_default=False)],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="DST", help=f"To be written: {', '.join(WRITERS)} or .onnx; a folder for transformers.", show_default=False
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="LAYOUT",
            help=f"{', '.join(LAYOUTS)}; official unless DST is .msgpack (channels_last), .h5 (keras) or .pdparams (paddle). "
            f"{TRANSFORMERS}: a folder for it. Of a port's weights: {', '.join(PORT_LAYOUTS)}.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"{', '.join(FLOATS)}; the file's own if not given.", show_default=False)
    ] = None,
    variant: VariantOption = None,
    heads: HeadsOption = None,
    window_size: WindowsOption = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW|dynamic", help="Of an .onnx: pixels, height before width, or any; the usual size if not given."
        ),
    ] = None,
    strip_head: Annotated[bool, typer.Option("--strip-head", help="Leave the classifier out.")] = False,
    fold_scale: Annotated[
        bool, typer.Option("--fold-scale", help="One-way: fold r_c of SSA's scale into q, for code without it.")
    ] = False,
    one_way: Annotated[
        bool, typer.Option("--one-way", help="Leave out what the other port lacks, and so change what is computed.")
    ] = False,
    num_classes: Annotated[
        int | None,
        typer.Option("--num-classes", "--num-classes-check", help="Refuse another number of classes.", show_default=False),
    ] = None,
    key: KeyOption = None,
    use_ema: EmaOption = True,
    config_json: Annotated[
        bool | None,
        typer.Option(help=f"Write config.json beside DST; on for the official network's {HUB_FILE}.", show_default=False),
    ] = None,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Let NaN and infinite weights pass.")] = False,
    force: ForceOption = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Run both files' networks in float64 (an .onnx in ONNX Runtime too, if that is installed) and print the error.",
        ),
    ] = False,
    costly: CostlyOption = False,
    sha256: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the SHA-256 of every tensor of DST.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a checkpoint, losslessly unless --dtype is narrower. Nothing in SRC is executed; DST appears whole or not at all.

    Exit code 0 if done, 1 if --verify finds an error that the dtype does not explain, 2 for bad usage or a bad file.
    """
    with bad_input_is_one_line():
        options = ConvertOptions(
            layout=to,
            dtype=dtype,
            variant=variant,
            heads=per_stage("--heads", heads),
            window_size=per_stage("--window-size", window_size),
            strip_head=strip_head,
            fold_scale=fold_scale,
            one_way=one_way,
            num_classes=num_classes,
            key=key,
            use_ema=use_ema,
            force=force,
            allow_nonfinite=allow_nonfinite,
            config_json=config_json,
            sha256=sha256,
        )
        to_onnx, free = target.suffix == ".onnx", image_size == "dynamic"
        size = parse_size(image_size) if image_size and not free else None
        if image_size and not to_onnx:
            raise ValueError(f"--image-size is for a target that is an .onnx file, got {target.name!r}")
        if verify:
            with open_checkpoint(source, options.stated, use_ema=use_ema) as weights:
                _images(weights, size, costly=costly)
        if to_onnx:
            done = onnx.convert_file(source, target, options, image_size="dynamic" if free else size)
        else:
            with bytes_bar("converting") as progress:
                done = convert_file(source, target, options, progress=progress)
        found = _verified(done, source, target, options) if verify else None
        if found and to_onnx and find_spec("onnxruntime"):
            found |= _ran(done, target, found, size)
    if as_json:
        print_json(_document(done, source, target, found))
    else:
        _print(done, source, target, found, sha256)
    raise typer.Exit(0 if found is None or found["agrees"] else 1)


def _images(weights: Weights, stated: tuple[int, int] | None = None, *, costly: bool) -> np.ndarray:
    """An image that the network takes. Raises CheckpointError or ValueError where it cannot be run, or takes too much unasked.

    `stated` is the height and width that an ONNX file is to be run at too.
    """
    if weights.unknown:
        raise CheckpointError("--verify runs the network, whose heads and windows show in no shape: give ", option("heads"))
    network = network_of(weights.config)
    try:
        size = network.usual_image_size()
    except ValueError as error:
        raise ValueError(f"--verify: {error}") from error
    check_run(network, (1, network.in_chans, size, size), given=False, costly=costly)
    if stated is not None:
        check_run(network, (1, network.in_chans, *stated), costly=costly)
    return random_images((1, network.in_chans, size, size))


def _verified(done: Converted, source: Path, target: Path, options: ConvertOptions) -> dict[str, Any]:
    """Both networks on one image in float64: their relative error, the image's size, and whether they agree.

    They must agree exactly; to 64 eps of float64 where the network rounds, of a dtype that is narrower, or in which a scale was
    folded.
    """
    with open_checkpoint(source, options.stated, use_ema=options.use_ema) as weights:
        given = weights.changed(strip_head=bool(done.dropped))
        images = _images(given, costly=True)  # it has been asked before
        expected = _row(given.outputs(images))
    with open_checkpoint(target, given.stated) as written:
        error = relative_l2(_row(written.outputs(images)), expected)
    narrower = EPS[done.dtype] > EPS[done.metadata["dtype"]]
    rounded = done.dtype if narrower or done.folded else "float64" if given.rounds else None
    agrees = error <= 64 * EPS[rounded] if rounded else error == 0
    return {"error": error, "size": images.shape[-1], "narrower": narrower, "agrees": bool(agrees)}


def _ran(done: Converted, target: Path, found: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """The relative error of the ONNX file in ONNX Runtime to its weights' network in float64, and whether all agrees."""
    height, width = size or (found["size"], found["size"])
    with open_checkpoint(target) as written:
        images = random_images((1, network_of(written.config).in_chans, height, width)).astype(done.dtype)
        expected = _row(written.outputs(images.astype(np.float64)))
    error = relative_l2(_row(onnx.run(target, images)), expected)
    agrees = error <= NETWORK_TOLERANCE[done.dtype] * EPS[done.dtype]
    return {"onnx_runtime": error, "agrees": bool(found["agrees"] and agrees)}


def _row(outputs: Any) -> np.ndarray:
    """Logits, or all maps of a backbone, in one row."""
    return np.concatenate([np.ravel(x) for x in outputs]) if isinstance(outputs, tuple) else np.ravel(outputs)


def _document(done: Converted, source: Path, target: Path, found: dict[str, Any] | None) -> dict[str, Any]:
    size = _file(target).stat().st_size
    document = {"source": as_given(source), "target": str(target), "bytes": size, "layout": done.layout}
    document |= {"dtype": done.dtype, "parameters": done.parameters, "head_stripped": done.dropped, "scale_folded": done.folded}
    document |= {"underflowed": done.underflowed, "overflowed": done.overflowed, "config_json": done.config_json}
    document |= {"config_json_replaced": done.config_json_replaced}
    return document | {"metadata": done.metadata, "verify": found}


def _file(target: Path) -> Path:
    """The weights' file, in a folder for transformers."""
    return target / HUB_FILE if target.is_dir() else target


def _print(done: Converted, source: Path, target: Path, found: dict[str, Any] | None, sha256: Path | None) -> None:
    metadata = done.metadata
    said = f"{done.parameters:,} parameters, {metadata['layout']} {metadata['dtype']} to {done.layout} {done.dtype}"
    if "config_from" in metadata:
        said += f", {metadata['variant'] or 'no published variant'}, told by {metadata['config_from']}"
    say(f"{as_given(source)} -> {target}")
    say(said)
    beside = _file(target).with_name(CONFIG_JSON) if done.config_json == "written" else None
    preprocessor = target / PREPROCESSOR_JSON if target.is_dir() else None
    say_written({beside: "its configuration", preprocessor: "how images are prepared for it", sha256: "the SHA-256 of its tensors"})
    if metadata["ema"]:
        say(f"these are the EMA's weights{ema_said(metadata)}")
    if done.folded:
        say("r_c is folded into q: run it with ssa_scale='head_dim'")
    for count, became in ((done.underflowed, "underflow to 0"), (done.overflowed, "overflow to infinity")):
        if count:
            say(f"{count:,} values {became} in {done.dtype}")
    if done.config_json == "stale":
        say(f"the {CONFIG_JSON} beside it is left as it was, and does not describe these weights")
    if done.config_json_replaced:
        say(f"replaced in the {CONFIG_JSON} beside it: {', '.join(done.config_json_replaced)}; its other entries are kept")
    for what, names in (("left out", metadata["ignored"]), ("head stripped", done.dropped)):
        if names:
            say(f"{what}: {summarised(names)}")
    if found:
        said = f"verify: relative error {found['error']:.2g} in float64 at {found['size']} x {found['size']}"
        said += f"; {done.dtype} is narrower than {metadata['dtype']}" if found["narrower"] else ""
        said += f"; {found['onnx_runtime']:.2g} of {done.dtype} in ONNX Runtime" if "onnx_runtime" in found else ""
        say(f"{said} ", ("agrees", "green bold") if found["agrees"] else ("DIFFERS", "red bold"))

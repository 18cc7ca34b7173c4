"""`scalablevit-ref trace`: what a port should compute, written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from scalablevit_ref.checkpoints.in_one_dtype import load_in_one_dtype
from scalablevit_ref.checkpoints.load import to_state_dict
from scalablevit_ref.checkpoints.save import check_target, state_writes
from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_known
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, JsonOption, KeyOption, say_written
from scalablevit_ref.config import variant
from scalablevit_ref.errors import in_file
from scalablevit_ref.files.writing import check_outputs, write_atomically
from scalablevit_ref.image_sizes import check_image_size, usual_image_size
from scalablevit_ref.networks import network_of
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.run_cost import check_run
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.traces import check_trace_file, reference_trace, trace_images, trace_writes

DTYPES = ("float32", "float64")


def trace(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Where to: .npz or .safetensors.", show_default=False)],
    variant_name: Annotated[str | None, typer.Option("--variant", help="Trace this variant, with random weights.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Trace the network of a checkpoint.", metavar="FILE")] = None,
    key: KeyOption = None,
    save_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the weights that were used, for the port to load.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use these: .npy, b c h w, or another trace. Not given: two random ones.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="In which to compute: float32 or float64.")] = "float64",
    seed: Annotated[int, typer.Option(help="Of random weights and images.", min=0)] = 0,
    costly: CostlyOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write what the reference computes, layer by layer, for a port in any language to be held against.

    The file holds `images` and each layer's output under the official module's name, maps as b h w c. Write the port's own outputs
    under the same names into another file, and `scalablevit-ref compare` says where the two part.
    """
    with bad_input_is_one_line():
        check_known("--dtype", [dtype], DTYPES)
        if weights is None and variant_name is None:
            raise ValueError("which network? --variant names it, --weights reads it")
        check_trace_file(output)
        if save_weights:
            with in_file(save_weights):
                check_target(save_weights, "official")
        check_outputs((output, save_weights), inputs=(weights, images), force=force)
        if weights is None:
            config = variant(str(variant_name))
            params = random_params(parameter_shapes(config), seed, dtype)
        else:
            checkpoint = load_in_one_dtype(weights, variant=variant_name, key=key)
            config, params = checkpoint.config, {name: x.astype(dtype) for name, x in checkpoint.params.items()}
        if images is None:
            shape = (2, config.in_chans, *[usual_image_size(config)] * 2)
            check_run(network_of(config), shape, dtype=dtype, keeping=True, given=False, costly=costly)
            x, costly = random_images(shape, seed), True
        else:
            x = trace_images(images)
        x = np.asarray(x, dtype)
        check_image_size(config, *x.shape[2:])
        found = reference_trace(x, params, config, costly=costly)
        writes = trace_writes(output, found, config)
        if save_weights:
            with in_file(save_weights):
                state = to_state_dict(params, config)
                writes |= state_writes(save_weights, state, config, layout="official", allow_nonfinite=False)
        write_atomically(writes, force=force)
    if as_json:
        files = {"file": str(output), "weights": str(save_weights) if save_weights else None}
        print_json(files | {"dtype": dtype, "shapes": {layer: list(tap.shape) for layer, tap in found.items()}})
        return
    say_written({output: f"images {tuple(x.shape)} and {len(found) - 1} layers in {dtype}", save_weights: "the weights"})

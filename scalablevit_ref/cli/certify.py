"""`scalablevit-ref certify`: how far each backend is from the exact result, proved by ball arithmetic."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalablevit_ref.certify.before import check_balls, check_certified
from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.compare import named_candidate
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, KeyOption, say_written, separate
from scalablevit_ref.cli.proved import print_certificate, proved
from scalablevit_ref.cli.terminal import Terminal
from scalablevit_ref.cli.verify import images_and_labels, network_asked_for
from scalablevit_ref.drawing.style import check_picture
from scalablevit_ref.files.writing import check_outputs, write_contents
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing.agreement import CANDIDATES, WHEN_NAMED
from scalablevit_ref.testing.traces import trace_images

if TYPE_CHECKING:
    from scalablevit_ref.certify.subjects import Subject

FEW_IMAGES = 1
"""Images of those that come with the network which are certified where none are given."""


def certify(
    candidates: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CANDIDATE]…",
            help="What `compare` takes: a trace (.npz, .safetensors), a model (.onnx, .xml), package.module:name or file.py:name.",
            show_default=False,
        ),
    ] = None,
    variant_name: Annotated[str | None, typer.Option("--variant", help="This variant, with random weights.")] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="A checkpoint, of any layout and format.")] = None,
    key: KeyOption = None,
    image: Annotated[list[Path] | None, typer.Option(help="This image file (official preprocessing); may be repeated.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="FILE", help="Images b c h w: .npy, or a trace that holds some.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Only these, between commas: backends, onnx, openvino. none: candidates only.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Only these dtypes, between commas.")] = None,
    bits: Annotated[int, typer.Option(help="Precision of the balls at first; it is doubled where it is not enough.")] = 106,
    seed: Annotated[int, typer.Option(help="Seed of random weights and images.", min=0)] = 0,
    costly: CostlyOption = False,
    all_layers: Annotated[bool, typer.Option("--all", help="List every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the errors by layer: .png, .svg or .pdf.")] = None,
    theme: Annotated[str, typer.Option(metavar="light|dark", help="The picture is for a light or a dark page.")] = "light",
    force: ForceOption = False,
) -> None:
    """Prove how far each backend is from the exact result, layer by layer.

    The network runs in ball arithmetic (Arb): each number is a midpoint and a radius that is never too small, so that the exact
    real result of these weights and this image lies inside. What a backend computes is then at least so far, and at most so far,
    from the truth: both bounds are proved, their own rounding included.

    Without arguments: the embedded digits checkpoint and one of its test images. Needs the extra `certified`.
    """
    with bad_input_is_one_line():
        check_certified("certify")
        from scalablevit_ref.certify.truth import check_bits

        check_bits("--bits", bits)
        if plot:
            check_picture(plot, theme)
            check_folder("--plot", plot)
            check_outputs((plot,), force=force)
        subjects = _subjects(candidates or [], backend, dtype)
        params, config, what = network_asked_for(variant_name, weights, key, seed)
        network = network_of(config)

        def check(shape: tuple[int, ...], *, given: bool = True) -> None:
            check_balls(network, (1, *shape[1:]), bits=bits, given=given, costly=costly)

        if images is not None:
            pixels = trace_images(images)
            check(pixels.shape)
        else:
            pixels, _ = images_and_labels(config, image, seed, check, embedded=not (variant_name or weights))
            pixels = pixels if image else pixels[:FEW_IMAGES]
        found = proved(pixels, params, config, subjects, bits=bits)
        if plot:
            from scalablevit_ref.certify.chart import certificate_picture
            from scalablevit_ref.drawing.render import picture

            write_contents({plot: picture(certificate_picture(found, what), plot.suffix, theme=theme)}, force=force)
    if as_json:
        print_json({"network": what} | found.to_json())
    else:
        print_certificate(Terminal(), found, what, every=all_layers)
        say_written({plot: "the picture"})


def _subjects(candidates: list[str], backends: list[str] | None, dtypes: list[str] | None) -> list[Subject]:
    """Those asked for: not named, all of `verify` that are there; then the user's own."""
    from scalablevit_ref.certify.subjects import RUNTIMES, RUNTIMES_IN, given, library, runtime

    words, kinds = separate(backends), separate(dtypes)
    libraries = [*CANDIDATES, *(WHEN_NAMED if words else ())]
    check_known("--backend", words, [*sorted({c.library for c in libraries}), *RUNTIMES, "none"])
    check_known("--dtype", kinds, sorted({c.dtype for c in CANDIDATES} | {dtype for _, dtype in RUNTIMES_IN}))
    named = [(c.library, c.dtype, partial(library, c)) for c in libraries]
    named += [(name, dtype, partial(runtime, name, dtype)) for name, dtype in RUNTIMES_IN if name in words]
    chosen = [made() for name, dtype, made in named if (not words or name in words) and (not kinds or dtype in kinds)]
    found = [subject for subject in chosen if words or subject.absent is None]
    return found + [given(named_candidate(text), text) for text in candidates]

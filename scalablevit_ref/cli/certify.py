"""`scalablevit-ref certify`: how far each backend is from the exact result, proved by ball arithmetic."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.compare import named_candidate
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, KeyOption, say_written, separate
from scalablevit_ref.cli.progress import steps_bar
from scalablevit_ref.cli.terminal import Terminal, styled
from scalablevit_ref.cli.verify import images_and_labels, network_asked_for
from scalablevit_ref.drawing.style import check_picture
from scalablevit_ref.files.writing import check_outputs, write_contents
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import check_run
from scalablevit_ref.testing.agreement import CANDIDATES, WHEN_NAMED
from scalablevit_ref.testing.traces import trace_images

if TYPE_CHECKING:
    from scalablevit_ref.certify.bounds import Bounds
    from scalablevit_ref.certify.certificate import Certificate
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
        if find_spec("flint") is None:
            raise ModuleNotFoundError("certify needs python-flint: pip install 'scalablevit-ref[certified]'", name="flint")
        from scalablevit_ref.certify.certificate import certify as certified
        from scalablevit_ref.certify.certificate import steps
        from scalablevit_ref.certify.truth import PrecisionError, check_bits

        check_bits("--bits", bits)
        if plot:
            check_picture(plot, theme)
            check_folder("--plot", plot)
            check_outputs((plot,), force=force)
        subjects = _subjects(candidates or [], backend, dtype)
        params, config, what = network_asked_for(variant_name, weights, key, seed)
        network = network_of(config)

        def check(shape: tuple[int, ...], *, given: bool = True) -> None:
            check_run(network, (1, *shape[1:]), keeping=True, given=given, costly=costly)

        if images is not None:
            pixels = trace_images(images)
            check(pixels.shape)
        else:
            pixels, _ = images_and_labels(config, image, seed, check, embedded=not (variant_name or weights))
            pixels = pixels if image else pixels[:FEW_IMAGES]
        if not np.isfinite(pixels).all():
            raise ValueError("images hold NaN or infinity, of which nothing is proved")
        if wrong := [name for name, x in params.items() if not np.isfinite(x).all()]:
            raise ValueError(f"parameter {wrong[0]!r} holds NaN or infinity, of which nothing is proved")
        with steps_bar(steps(network, subjects, len(pixels))) as step:
            try:
                found = certified(pixels, params, config, subjects, bits=bits, progress=step, costly=True)
            except PrecisionError as error:
                raise ValueError(f"{error}: no bound is proved") from None
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
    named = [(c.library, c.dtype, library(c)) for c in libraries]
    named += [(name, dtype, runtime(name, dtype)) for name, dtype in RUNTIMES_IN if name in words]
    chosen = [subject for name, dtype, subject in named if (not words or name in words) and (not kinds or dtype in kinds)]
    found = [subject for subject in chosen if words or subject.absent is None]
    return found + [given(named_candidate(text), text) for text in candidates]


def decimals(bounds: Bounds) -> str:
    """Both bounds, rounded outward to three decimals, of large numbers to one.

    Examples
    --------
    >>> from scalablevit_ref.certify.bounds import Bounds
    >>> decimals(Bounds(3.41234, 3.41235)), decimals(Bounds(0.0, 0.0)), decimals(Bounds(4300.01, 4300.02))
    ('3.412 – 3.413', '0', '4300.0 – 4300.1')
    """
    if not np.isfinite(bounds.high):
        return "NaN" if np.isnan(bounds.high) else f"over {bounds.low:.1f}"
    if bounds.high == 0:
        return "0"
    step = Decimal("0.001") if bounds.high < 100 else Decimal("0.1")
    low = Decimal(bounds.low).quantize(step, ROUND_FLOOR)
    high = Decimal(bounds.high).quantize(step, ROUND_CEILING)
    return f"{low} – {high}"


def print_certificate(console: Console, found: Certificate, what: str, *, every: bool = False) -> None:
    """The table, precisions that were not enough, and the order in which the subjects are nearest to the truth."""
    from scalablevit_ref.certify.truth import said

    last = found.taps[-1]
    title = f"{what}, {found.images} image{'s' * (found.images > 1)}: proved errors in eps"
    table = Table(title=styled(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("backend", no_wrap=True)
    table.add_column(last, justify="right", no_wrap=True)
    table.add_column("worst", justify="right", no_wrap=True)
    table.add_column("at", no_wrap=True)
    for row in found.rows:
        if row.absent is not None or row.failed is not None:
            table.add_row(row.name, "absent" if row.absent else "FAILED", "", "", style="dim" if row.absent else "red")
        elif row.errors:
            cells = [decimals(row.eps(last)) if last in row.errors else "", decimals(row.eps(row.worst)), row.worst]
            table.add_row(row.name, *cells)
        else:
            table.add_row(row.name, "no layers", "", "")
    console.print(table)
    for row in found.rows if every else ():
        layers = Table(title=styled(row.name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        layers.add_column("layer", no_wrap=True)
        for heading in ("eps", "relative", "largest"):
            layers.add_column(heading, justify="right", no_wrap=True)
        for tap, error in row.errors.items():
            layers.add_row(tap, decimals(row.eps(tap)), f"{error.l2.high:.3g}", f"{error.maximum.high:.3g}")
        console.print(layers)
    for row in found.rows:
        if why := row.absent or row.failed:
            console.print(styled(f"{row.name}: {why}"), soft_wrap=True)
    for tried in found.tries:
        console.print(styled(f"{said(tried)}; doubled."), soft_wrap=True)
    for pair in found.order(last):
        verdict = "is nearer to the truth than" if pair.proved else "cannot be told from"
        console.print(styled(f"At {last}, {pair.nearer} {verdict} {pair.farther}."), soft_wrap=True)
    console.print(
        styled(
            ("Proved", "green bold"), f" with {found.bits} bits: the exact result is known to {found.width:.1e} at every one of "
        )
        + styled(f"{len(found.taps)} layers, in {found.seconds:.0f} s.")
    )

"""`scalablevit-ref verify`: one network on every backend present, held against NumPy in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalablevit_ref import digits
from scalablevit_ref.certify.before import check_balls, check_certified
from scalablevit_ref.checkpoints.download import as_given
from scalablevit_ref.checkpoints.in_one_dtype import load_in_one_dtype
from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_known
from scalablevit_ref.cli.json_output import finite
from scalablevit_ref.cli.options import CostlyOption, KeyOption, separate
from scalablevit_ref.cli.progress import spinner
from scalablevit_ref.cli.proved import print_certificate, proved
from scalablevit_ref.cli.terminal import Terminal, put, styled
from scalablevit_ref.config import ScalableViTConfig, variant
from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.image_sizes import check_image_size, usual_image_size
from scalablevit_ref.images import load_image
from scalablevit_ref.networks import network_of
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.agreement import CANDIDATES, ORACLE, WHEN_NAMED, Candidate, Result, agreement, check_agreement, steps

if TYPE_CHECKING:
    from scalablevit_ref.certify.certificate import Certificate

RANDOM_IMAGES = 2
"""Images that are drawn for a network that none are given for."""

BATCH = 40
"""Images that each backend takes at a time."""

FIRST_BITS = 106
"""Precision with which the exact result is first enclosed, in bits."""


def verify(
    variant_name: Annotated[
        str | None, typer.Option("--variant", help="Verify this variant with random weights; with --weights: what the file holds.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="A checkpoint, of any layout and format.")] = None,
    key: KeyOption = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Classify this image file (official preprocessing); may be repeated.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Only these backends, between commas, as the table names them.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Only these dtypes, between commas: float64, float32, bfloat16.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights and images.", min=0)] = 0,
    costly: CostlyOption = False,
    certify: Annotated[bool, typer.Option("--certify", help="Prove the errors of the first image, as `certify` does.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Show that every backend computes the same network.

    Without arguments: load the embedded digits checkpoint, classify its test images on every backend and dtype installed, and
    compare every intermediate with NumPy in float64. A backend that is not there, or does not start, is told and left out;
    tinygrad, which takes minutes, runs where `--backend` names it.

    Exit code 0 if all that ran agree, 1 if one does not or fails while it runs, 2 for bad usage.
    """
    with bad_input_is_one_line():
        if certify:
            check_certified("--certify")
        candidates = _select(backend, dtype)
        for path in image or ():  # before weights are drawn or read
            with suppress(FileNotFoundError):  # said later
                open_regular(path, "an image").close()
        params, config, what = network_asked_for(variant_name, weights, key, seed)
        check = partial(check_agreement, config=config, candidates=candidates, batch=BATCH, costly=costly)
        images, labels = images_and_labels(config, image, seed, check, embedded=not (variant_name or weights))
        if certify:
            from scalablevit_ref.certify.truth import check_finite

            check_finite(images[:1], params)
            check_balls(network_of(config), (1, *images.shape[1:]), bits=FIRST_BITS, given=bool(image), costly=costly)
    with spinner(total=steps(candidates, len(images), BATCH)) as step:
        results = agreement(images, params, config, candidates, batch=BATCH, progress=step, costly=True)
    found = _certified(images[:1], params, config, candidates) if certify else None
    agree = all(result.agrees for result in results if result.absent is None)
    if as_json:
        document: dict[str, Any] = {"network": what, "images": len(images), "agree": agree}
        rows = [_row(result, results, labels) for result in results]
        document |= {"results": rows} | _predictions(image, results)
        put(json.dumps(document | ({"certificate": finite(found.to_json())} if found else {}), indent=2))
    else:
        print_results(Terminal(), results, labels, what, image)
        if found:
            print_certificate(Terminal(), found, what)
    raise typer.Exit(0 if agree else 1)


def _certified(
    image: np.ndarray, params: dict[str, np.ndarray], config: ScalableViTConfig, candidates: list[Candidate]
) -> Certificate:
    from scalablevit_ref.certify.subjects import library

    subjects = [subject for subject in map(library, candidates) if subject.absent is None]
    with bad_input_is_one_line():
        return proved(image, params, config, subjects, bits=FIRST_BITS)


def _select(backends: list[str] | None, dtypes: list[str] | None) -> list[Candidate]:
    """The candidates asked for; the oracle always runs."""
    backends, dtypes = separate(backends), separate(dtypes)
    check_known("--backend", backends, sorted({c.library for c in (*CANDIDATES, *WHEN_NAMED)}))
    check_known("--dtype", dtypes, sorted({c.dtype for c in CANDIDATES}))
    candidates = (*CANDIDATES, *(WHEN_NAMED if backends else ()))
    return [c for c in candidates if c == ORACLE or ((not backends or c.library in backends) and (not dtypes or c.dtype in dtypes))]


def network_asked_for(
    variant_name: str | None, weights: Path | None, key: str | None, seed: int
) -> tuple[dict[str, np.ndarray], ScalableViTConfig, str]:
    """Parameters, settings, and what they are, in words: of a file, of a variant with random weights, or the embedded digits'."""
    if weights is None and variant_name is not None:
        config = variant(variant_name)
        return random_params(parameter_shapes(config), seed, "float32"), config, f"{variant_name} with random weights (seed {seed})"
    checkpoint = load_in_one_dtype(weights or digits.CHECKPOINT, variant=variant_name, key=key)
    what = as_given(weights) if weights else "the embedded digits checkpoint"
    return checkpoint.params, checkpoint.config, what


def images_and_labels(
    config: ScalableViTConfig, files: list[Path] | None, seed: int, check: Callable[..., None], *, embedded: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The images, and their labels where they are known. `check` is asked about their shape before they are made."""
    if files:
        if config.in_chans != 3:
            raise ValueError(f"--image gives images of 3 channels, the network takes {config.in_chans}; add --variant or --weights")
        check_image_size(config, 224, 224)
        check((len(files), 3, 224, 224))
        return np.stack([load_image(path) for path in files]), None
    if embedded:
        images, labels = digits.test_images()
        return digits.preprocess(images), labels
    shape = (RANDOM_IMAGES, config.in_chans, *[usual_image_size(config)] * 2)
    check(shape, given=False)
    return random_images(shape, seed, "float32"), None


def _row(result: Result, results: list[Result], labels: np.ndarray | None) -> dict[str, Any]:
    candidate = result.candidate
    row: dict[str, Any] = {"backend": candidate.library, "dtype": candidate.dtype, "device": candidate.device}
    if result.absent is not None:
        return row | {"absent": result.absent}
    if result.failed is not None:
        return row | {"failed": result.failed}
    tap, error = result.worst
    row |= {"accuracy": None if labels is None else float(np.mean(result.classes == labels))}
    row |= {"same_class_as_oracle": float(np.mean(result.classes == results[0].classes))}
    row |= {"worst_error_eps": error, "worst_tap": tap, "tolerance_eps": result.tolerance, "agrees": result.agrees}
    return row | {"images_per_second": result.images / result.seconds}


def _predictions(files: list[Path] | None, results: list[Result]) -> dict[str, Any]:
    if not files:
        return {}
    logits = np.concatenate(results[0].logits)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = zip(files, probabilities, strict=True)
    return {"predictions": [{"image": str(f), "class": int(p.argmax()), "probability": float(p.max())} for f, p in rows]}


def _short(eps: float) -> str:
    return f"{eps:.1f}" if eps < 1000 else f"{eps:.0e}"


def print_results(
    console: Console, results: list[Result], labels: np.ndarray | None, what: str, files: list[Path] | None = None
) -> None:
    """The table, the classes of image files, and the verdict."""
    images = results[0].images
    title = styled(f"{what}, {images} image{'s' * (images > 1)}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in ("backend", "verdict", "error", "at", "same" if labels is None else "correct", "images/s"):
        table.add_column(heading, justify="left" if heading in ("backend", "verdict", "at") else "right", no_wrap=True)
    for result in results:
        row = _row(result, results, labels)
        backend = f"{row['backend']} {row['dtype']}" + ("" if row["device"] == "cpu" else f" {row['device']}")
        if result.absent is not None:
            table.add_row(backend, "absent", "", result.absent.split(":")[0], style="dim")
            continue
        if result.failed is not None:
            table.add_row(backend, styled(("FAILED", "red bold")), "", result.failed.split(":")[0])
            continue
        share = row["same_class_as_oracle"] if labels is None else row["accuracy"]
        if result.candidate == ORACLE:
            cells: list[str | Text] = ["oracle", "", ""]
        else:
            verdict = ("agrees", "green") if result.agrees else ("DIFFERS", "red bold")
            cells = [styled(verdict), f"{_short(row['worst_error_eps'])}/{row['tolerance_eps']} eps", row["worst_tap"]]
        table.add_row(backend, *cells, f"{share:.1%}", f"{row['images_per_second']:.1f}")
    console.print(table)
    for prediction in _predictions(files, results).get("predictions", []):
        said = f"{prediction['image']}: class {prediction['class']} ({prediction['probability']:.1%})"
        console.print(styled(said), soft_wrap=True)
    for reason, names in _reasons(results).items():
        console.print(styled(f"{', '.join(names)}: {reason}"), soft_wrap=True)
    ran = [result for result in results if result.absent is None and result.candidate != ORACLE]
    wrong = [str(result.candidate) for result in ran if result.failed is None and not result.agrees]
    if wrong:
        console.print(styled((f"{', '.join(wrong)}: beyond the tolerance against NumPy in float64.", "red bold")))
    elif not ran:
        console.print(styled(("Nothing was compared: NumPy in float64 ran alone.", "yellow bold")))
    elif all(result.agrees for result in ran):
        where = f"at every one of {len(results[0].errors)} taps."
        console.print(styled((f"All {len(ran)} agree", "green bold"), f" with NumPy in float64 {where}"))


def _reasons(results: list[Result]) -> dict[str, list[str]]:
    """Why backends that are installed did not start or failed, and which these are."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.failed is not None:
            found.setdefault(f"failed: {result.failed}", []).append(str(result.candidate))
        elif result.absent is not None and result.absent.startswith("does not start"):
            found.setdefault(result.absent, []).append(str(result.candidate))
    return found

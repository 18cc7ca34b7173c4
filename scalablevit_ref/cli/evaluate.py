"""`scalablevit-ref evaluate`: how many images a network gets right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from scalablevit_ref.backends.threads import cores
from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, JsonOption, KeyOption, VariantOption, parse_side, say_written
from scalablevit_ref.cli.progress import rate_bar
from scalablevit_ref.cli.terminal import Terminal, say, styled
from scalablevit_ref.evaluation import (
    Asked,
    Counted,
    Dataset,
    Model,
    Outcome,
    Processes,
    Run,
    against,
    open_dataset,
    open_model,
    preprocessing,
)
from scalablevit_ref.evaluation import evaluate as run
from scalablevit_ref.evaluation import processes as all_processes
from scalablevit_ref.files.writing import check_outputs, write_contents
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import check_run

FEW = 10
"""Images that could not be read and are named one by one; --json names all."""


def evaluate(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A folder, .tar, .parquet or .npz of labelled images.", show_default=False)
    ],
    weights: Annotated[
        Path, typer.Option(metavar="FILE", help="A checkpoint of any layout and format, or an .onnx.", show_default=False)
    ],
    other: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", help="Run this one too, and say where they differ.", show_default=False),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="torch, jax, numpy, onnx or openvino; not given: torch, onnx for an .onnx.", show_default=False
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="In which to compute: float32, bfloat16, float16 or float64.")
    ] = "float32",
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Of torch: cpu, cuda, cuda:1.", show_default=False)] = None,
    variant: VariantOption = None,
    key: KeyOption = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A list of labels, for images that lie flat.", show_default=False)
    ] = None,
    first_class: Annotated[int, typer.Option(metavar="N", help="What the numbers in that list begin with.", min=0, max=1)] = 0,
    meta: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ILSVRC's meta.mat, where the list is its ground truth.", show_default=False)
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The classes' names in the network's order.", show_default=False)
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|NxN", help="Pixels a side; not given: the network's.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Images at a time.", min=1)] = 32,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Of the network; not given: all cores.", min=1, show_default=False)
    ] = None,
    decoders: Annotated[
        int, typer.Option(metavar="N", help="Processes that decode images ahead; 0: none of their own.", min=0, max=256)
    ] = 2,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A journal to keep, and to go on from where it ends.", show_default=False)
    ] = None,
    by_class: Annotated[
        Path | None, typer.Option("--by-class", metavar="FILE", help="Write a CSV, a line a class.", show_default=False)
    ] = None,
    confusions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a CSV: which class was taken for which.", show_default=False)
    ] = None,
    costly: CostlyOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Count how many labelled images a network gets right, and say how sure that is.

    DATA is a folder of a folder for each class; a folder or a .tar of images, with --labels; WebDataset's .tar shards; the Hub's
    .parquet; or an .npz of `images` and `labels`. Images are prepared as the official evaluation does: shorter side to 256,
    bicubic, centre crop of 224.

    `torchrun --nproc-per-node 2 -m scalablevit_ref evaluate …` shares the images among processes.

    Exit code 0 if all images were read, 1 if some could not be, 2 for bad input.
    """
    with ExitStack() as files:
        with bad_input_is_one_line():
            together = files.enter_context(all_processes())
            check_outputs((by_class, confusions), inputs=(data, weights, other, labels, meta, classes), force=force)
            share = threads or max(1, len(cores()) // together.count)
            how = Run(backend, dtype, _place(device, together), share, variant, key)
            models = [open_model(weights, how, batch, files)]
            if other is not None:
                models.append(open_model(other, _beside(how, other), batch, files))
                _check_alike(*models)
            prepared = preprocessing(models[0].channels, _size(models, parse_side(image_size, "the official preprocessing")))
            _check_cost(models, prepared.size, batch, costly=costly)
            dataset = open_dataset(data, Asked(models[0].classes, labels, classes, first_class, meta))
            with _progress(together) as progress:
                outcome = run(
                    models,
                    dataset,
                    prepared,
                    batch=batch,
                    decoders=decoders,
                    processes=together,
                    journal=resume,
                    settings={"dtype": dtype, "image size": prepared.size, "backends": [model.backend for model in models]},
                    progress=progress,
                )
            if not outcome.counted[0].labels.size:
                name, why = next(iter(outcome.damaged.items()))
                raise ValueError(f"{data}: no image could be read; the first, {name}: {why}")
        if not together.rank:
            _tell(outcome, dataset, data, by_class, confusions, force=force, as_json=as_json)
    raise typer.Exit(1 if outcome.damaged else 0)


def _place(device: str | None, together: Processes) -> str | None:
    """Each process of a machine has a GPU of its own."""
    return f"cuda:{together.local_rank}" if device == "cuda" and together.count > 1 else device


def _beside(how: Run, path: Path) -> Run:
    """How the second network is run: as the first, but that an ONNX file has engines of its own and its own dtype."""
    how = replace(how, variant=None, key=None)
    return replace(how, backend=None, dtype="float32", device=None) if path.suffix == ".onnx" and not how.is_engine() else how


def _check_alike(first: Model, second: Model) -> None:
    for what, one, other in (("channels", first.channels, second.channels), ("classes", first.classes, second.classes)):
        if one != other:
            raise ValueError(f"{first.name} has {one} {what}, {second.name} {other}")


def _size(models: Sequence[Model], asked: int | None) -> int | None:
    """Pixels a side: as asked, or as a file has them fixed."""
    for model in models:
        if model.size and asked not in (None, model.size):
            raise ValueError(f"{model.name} takes images of {model.size} x {model.size} pixels, not of {asked} x {asked}")
        asked = asked or model.size
    return asked


def _check_cost(models: Sequence[Model], size: int, batch: int, *, costly: bool) -> None:
    for config in (model.config for model in models if model.config is not None):
        check_image_size(config, size, size)
        check_run(network_of(config), (batch, config.in_chans, size, size), dtype="float32", costly=costly)


@contextmanager
def _progress(together: Processes) -> Iterator[Callable[[int, int], None]]:
    """One bar, of the first process."""
    if together.rank:
        yield lambda done, of: None
        return
    with rate_bar("images") as progress:
        yield progress


def _tell(
    outcome: Outcome, dataset: Dataset, data: Path, by_class: Path | None, confusions: Path | None, *, force: bool, as_json: bool
) -> None:
    """Write the tables, and print what was found."""
    first, names = outcome.counted[0], dataset.classes
    tables = {by_class: first.by_class(names), confusions: first.confusions(names)}
    write_contents({path: text.encode() for path, text in tables.items() if path is not None}, force=force)
    if as_json:
        print_json(_document(outcome, dataset, str(data)))
        return
    _print(outcome, dataset, data)
    say_written({by_class: "a line a class", confusions: "mistakes, the most frequent first"})


def _document(outcome: Outcome, dataset: Dataset, data: str) -> dict[str, Any]:
    first, *others = outcome.counted
    document: dict[str, Any] = {"data": data, "layout": dataset.layout, "images": len(dataset), "read": len(first.labels)}
    document |= {"damaged": outcome.damaged, "images_per_second": outcome.images / outcome.seconds if outcome.images else None}
    document |= first.document()
    if others:
        document["against"] = against(first, others[0]) | others[0].document()
    return document


def _print(outcome: Outcome, dataset: Dataset, data: Path) -> None:
    console, first = Terminal(), outcome.counted[0]
    title = styled(f"{data} ({dataset.layout}), {len(first.labels):,} images")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "correct", "percent", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for counted in outcome.counted:
        document, several = counted.document(), len(outcome.counted) > 1
        if several:
            table.add_row(counted.name)
        for key, words in (("top1", "top-1"), ("top5", "top-5")):
            row = document[key]
            table.add_row(words, f"{row['correct']:,}", f"{row['percent']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}")
    console.print(table)
    for counted in outcome.counted:
        for line in _said(counted):
            say(line)
    if len(outcome.counted) > 1:
        for line in _flips(against(first, outcome.counted[1]), len(first.labels)):
            say(line)
    if outcome.images:
        say(f"{outcome.images / outcome.seconds:.1f} images a second")
    for name, why in list(outcome.damaged.items())[:FEW]:
        say((f"{name}: not read: {why}", "red"))
    if outcome.damaged:
        more = len(outcome.damaged) - FEW
        told = f" ({more} more than are named)" if more > 0 else ""
        say((f"{len(outcome.damaged)} of {len(dataset)} images could not be read{told}; they are not counted.", "red bold"))


def _said(counted: Counted) -> list[str]:
    """What is known of the network beside its counts."""
    lines, document = [], counted.document()
    if document["images_with_nan"]:
        lines.append(f"{document['images_with_nan']} images gave NaN, which counts as wrong.")
    if (other := document["top1_in_another_order_percent"]) is not None:
        lines.append(
            f"If the classes were numbered as the network answers, top-1 would be {other:.2f} %: their order is wrong. "
            "--classes FILE gives their names in the network's order."
        )
    published = document.get("published")
    if published is not None:
        where = "inside" if published["inside"] else "outside"
        figure = f"top-1 {published['top1_percent']} % on ImageNet-1k's validation images"
        version = "v1 (scaled values)" if document["ssa_values"] == "scaled" else "v3 (unscaled values)"
        lines.append(f"Published for {published['variant']}: {figure}, {where} the interval. The file holds SSA {version}.")
    return lines


def _flips(found: dict[str, Any], images: int) -> list[str]:
    same, p = found["same_class"], found["mcnemar_p"]
    share = f"{same['percent']:.2f} % ({same['low']:.2f} to {same['high']:.2f})"
    verdict = "more than chance explains" if p < 0.05 else "no more than chance explains"
    flips = f"{found['right_to_wrong']} right answers become wrong, {found['wrong_to_right']} wrong ones right"
    change = f"top-1 changes by {found['top1_change_percent']:+.2f} %, {verdict} (McNemar, p = {p:.2g})"
    return [f"The two give the same class for {same['images']:,} of {images:,} images, {share}.", f"{flips}: {change}."]

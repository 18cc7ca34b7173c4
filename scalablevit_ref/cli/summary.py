"""`scalablevit-ref summary`: the layers of a variant or a file, their shapes and costs, and totals beside the authors' table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich import box
from rich.bar import Bar
from rich.table import Table

from scalablevit_ref.checkpoints.load import open_checkpoint
from scalablevit_ref.checkpoints.official import OfficialWeights
from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.options import KeyOption, parse_size
from scalablevit_ref.cli.terminal import Terminal, put, say, stacked, styled
from scalablevit_ref.config import VARIANTS, ScalableViTConfig, plain_name, variant
from scalablevit_ref.cost import NOTE_ON_COUNTING, PUBLISHED, PUBLISHED_SIZE, Cost, LayerCost, LayerKind, cost, stage_of
from scalablevit_ref.image_sizes import nearest_image_size, usual_image_size
from scalablevit_ref.parameters import block_kind
from scalablevit_ref.weights import Stated

DEFAULT_SIZES = {"digits": (112, 112)}
WIDE = 110  # columns from which the table has room for a bar
COLORS = {"iwsa": "cyan", "ssa": "magenta"}
NOTE_ON_S = (
    'SSA v1 scales the channels of the values too (ssa_values="scaled"), as the authors\' detection backbone does; '
    "a published checkpoint of S may hold either version."
)


def summary(
    name: Annotated[
        str,
        typer.Argument(
            metavar="VARIANT|FILE", help=f"One of {', '.join(VARIANTS)}; or a checkpoint, of any layout.", show_default=False
        ),
    ],
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Pixels, height before width; 224 (digits: 112) if not given.", show_default=False),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer, not one line per stage and kind of block.")] = False,
    variant: Annotated[
        str | None, typer.Option(help="What a file's weights are of, where it does not say it.", show_default=False)
    ] = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document with every layer, and nothing else.")] = False,
) -> None:
    """Show the layers, shapes, parameters, multiply-adds and activations of a variant, beside the authors' figures, or of a file.

    Nothing is run: all is told from the configuration, for one image.
    """
    with bad_input_is_one_line():
        published, config, file = _network(name, variant, key)
        size = size_of(published, image_size) if published else _size_for(config, image_size)
        total = cost(config, size)
    if as_json:
        put(json.dumps(_document(published, config, size, total, file), indent=2))
        return
    console = Terminal()
    what = f"ScalableViT {published}" if published else "no published variant"
    say(f"{file}: " if file else "", (what, "bold"), f", one image of {size[0]} x {size[1]} pixels")
    put("")
    console.print(_layer_table((_each_layer if layers else _each_kind_of_block)(total.layers), total, console))
    put("")
    console.print(_totals_table(published, config, size, total))
    if published in PUBLISHED:
        put("")
        console.print(NOTE_ON_COUNTING + (f" {NOTE_ON_S}" if published == "small" else ""), style="dim")


def _network(name: str, stated: str | None, key: str | None) -> tuple[str | None, ScalableViTConfig, str | None]:
    """The variant that it is exactly, the configuration, and the file that it is from, for a variant's name or a file's.

    Raises ValueError for what is neither, CheckpointError for a file whose weights are not of the official network.
    """
    if plain_name(name) in VARIANTS and not Path(name).exists():
        name = plain_name(name)
    if name in VARIANTS or not (Path(name).exists() or Path(name).suffix or Path(name).parent.name):
        if stated is not None or key is not None:
            raise ValueError("--variant and --key are for a file")
        return name, variant(name), None
    with open_checkpoint(name, Stated(variant=stated, key=key), only=OfficialWeights) as weights:
        return weights.metadata["variant"], weights.config, name


def size_of(name: str, given: str | None) -> tuple[int, int]:
    """The images' size as it was given, or the one that a variant's pictures and tables are for. Raises ValueError."""
    return DEFAULT_SIZES.get(name, PUBLISHED_SIZE) if given is None else parse_size(given)


def _size_for(config: ScalableViTConfig, given: str | None) -> tuple[int, int]:
    """Of a network that is no variant: as given, or the published size where the network takes it."""
    if given is not None:
        return parse_size(given)
    near = nearest_image_size(config, PUBLISHED_SIZE[0])
    return PUBLISHED_SIZE if near == PUBLISHED_SIZE[0] else (usual_image_size(config),) * 2


def remarks(name: str | None, config: ScalableViTConfig) -> dict[str, str]:
    """Whether the counts at 224 x 224 round to the authors' figures and, where not, whether those of SSA v1 do."""
    if name is None or name not in PUBLISHED:
        return {}
    counts, counts_v1 = (cost(c, PUBLISHED_SIZE) for c in (config, replace(config, ssa_values="scaled")))

    def remark(figure: float, count: float, count_v1: float, unit: str) -> str:
        if round(count, 1) == figure:
            return "agrees"
        if round(count_v1, 1) == figure:
            return f"fits SSA v1: {count_v1:.2f} {unit}"
        return f"unexplained (SSA v1: {count_v1:.2f} {unit})"

    def figures(total: Cost) -> tuple[float, float]:
        return total.parameters / 1e6, total.module_multiply_adds / 1e9

    cases = zip(PUBLISHED[name], figures(counts), figures(counts_v1), "MG", strict=False)
    return dict(zip(("parameters", "multiply_adds"), (remark(*case) for case in cases), strict=True))


class _Row(NamedTuple):
    """A line of the table: one layer, or all blocks of one kind in a stage."""

    name: str
    kind: LayerKind
    blocks: int
    cost: Cost


def _each_layer(layers: Iterable[LayerCost]) -> list[_Row]:
    return [_Row(layer.name, layer.kind, 1, Cost((layer,))) for layer in layers]


def _each_kind_of_block(layers: Iterable[LayerCost]) -> list[_Row]:
    """A stage's IWSA blocks in one row and its SSA blocks in another, each where the first of them stands."""
    groups: dict[tuple[str, LayerKind], dict[str, list[LayerCost]]] = {}
    for layer in layers:
        block = re.match(r"(stages\.\d+)\.(\d+)\.", layer.name)
        name, i, kind = (block[1], block[2], block_kind(int(block[2]))) if block else (layer.name, "", layer.kind)
        groups.setdefault((name, kind), {}).setdefault(i, []).append(layer)
    rows = []
    for (name, kind), blocks in groups.items():
        i = list(blocks)
        numbers = ",".join(i if len(i) < 4 else [i[0], f"{i[1]}..{i[-1]}"])
        numbers = f"{{{numbers}}}" if len(i) > 1 else numbers
        rows.append(_Row(f"{name}.{numbers}".rstrip("."), kind, len(blocks), Cost(tuple(chain(*blocks.values())))))
    return rows


def _layer_table(rows: Sequence[_Row], total: Cost, console: Terminal) -> Table:
    bars = console.width >= WIDE and not console.options.ascii_only
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_footer=True, footer_style="bold", padding=(0, int(bars), 0, 0))
    for heading, footer in (("layer", "total"), ("block", ""), ("output", "")):
        table.add_column(heading, footer, no_wrap=True)
    headings = ("parameters", "multiply-\nadds (M)", "in attn\n(M)", "activa-\ntions (M)")
    for heading, footer in zip(headings, _figures(total), strict=True):
        table.add_column(stacked(*heading.split("\n")), footer, justify="right", no_wrap=True)
    if bars:
        table.add_column("multiply-adds", width=20)
    largest = max(row.cost.multiply_adds for row in rows)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        color = COLORS.get(row.kind, "default")
        kind = row.kind.upper() + (f" x {row.blocks}" if row.blocks > 1 else "") if row.kind in COLORS else ""
        shape = "x".join(map(str, row.cost.layers[-1].output_shape))
        bar = [Bar(largest, 0, row.cost.multiply_adds, color=color)] if bars else []
        last = after is None or stage_of(after.name) != stage_of(row.name)
        table.add_row(row.name, styled((kind, color)), shape, *_figures(row.cost), *bar, end_section=last)
    return table


def _figures(total: Cost) -> list[str]:
    millions = (total.multiply_adds, total.attention_multiply_adds, total.activations)
    return [f"{total.parameters:,}", *(_millions(count) for count in millions)]


def _millions(count: int) -> str:
    """Two decimals up to 1000, one above; nothing for none."""
    if 0 < count < 5_000:
        return "<0.01"
    return f"{count / 1e6:,.{1 if count >= 1e9 else 2}f}" if count else ""


def _totals_table(name: str | None, config: ScalableViTConfig, size: tuple[int, int], total: Cost) -> Table:
    published, remark = None if name is None else PUBLISHED.get(name), remarks(name, config)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    table.add_column("totals", no_wrap=True)
    table.add_column("counted", justify="right", no_wrap=True)
    lines = {
        "parameters": f"{total.parameters / 1e6:.2f} M",
        "multiply-adds": f"{total.multiply_adds / 1e9:.3f} G",
        "  without attention": f"{(total.multiply_adds - total.attention_multiply_adds) / 1e9:.3f} G",
        "  and with biases, norms": f"{total.module_multiply_adds / 1e9:.3f} G",
        "activations": f"{total.activations / 1e6:.2f} M",
    }
    theirs = {}
    if published:
        table.add_column("authors", justify="right", no_wrap=True)
        table.add_column("")
        lines["ImageNet-1k top-1"] = ""
        theirs = {
            "parameters": (f"{published.parameters} M", remark["parameters"]),
            "ImageNet-1k top-1": (f"{published.top1} %", ""),
        }
        if size == PUBLISHED_SIZE:
            theirs["  and with biases, norms"] = (f"{published.multiply_adds} G", remark["multiply_adds"])
    for what, counted in lines.items():
        figure, comment = theirs.get(what, ("", ""))
        cells = (figure, styled((comment, "green" if comment == "agrees" else "yellow")))
        table.add_row(what, counted, *cells[: len(table.columns) - 2])
    return table


def _document(name: str | None, config: ScalableViTConfig, size: tuple[int, int], total: Cost, file: str | None) -> dict[str, Any]:
    document: dict[str, Any] = {"variant": name, "config": asdict(config), "image_size": size}
    document |= {} if file is None else {"file": file}
    sums = (
        "parameters",
        "multiply_adds",
        "attention_multiply_adds",
        "module_multiply_adds",
        "activations",
        "attention_activations",
    )
    document |= {what: getattr(total, what) for what in sums}
    document["published"] = None
    if name is not None and name in PUBLISHED:
        parameters, multiply_adds, top1 = PUBLISHED[name]
        document["published"] = {
            "image_size": PUBLISHED_SIZE,
            "parameters_millions": parameters,
            "module_multiply_adds_billions": multiply_adds,
            "top1_percent": top1,
            "remarks": remarks(name, config),
        }
    return document | {"layers": [asdict(layer) for layer in total.layers]}

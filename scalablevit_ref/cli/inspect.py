"""`scalablevit-ref inspect`: what a checkpoint file is, told without running or loading it."""

from __future__ import annotations

import math
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from scalablevit_ref.checkpoints.download import as_given
from scalablevit_ref.checkpoints.inspect import Inspection, StoredAs, inspect_file
from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import (
    EmaOption,
    HeadsOption,
    JsonOption,
    KeyOption,
    VariantOption,
    WindowsOption,
    ema_said,
    per_stage,
    summarised,
)
from scalablevit_ref.cli.progress import bytes_bar
from scalablevit_ref.cli.terminal import Terminal, put, say, stacked, styled
from scalablevit_ref.errors import option
from scalablevit_ref.weights import Stated


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint, of any layout and format.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor: name, shape, dtype, size.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="PATTERN",
            help="List those whose name fits, such as `stages.0.*attn*`; may be repeated.",
            show_default=False,
        ),
    ] = None,
    sha256: Annotated[bool, typer.Option("--sha256", help="List the SHA-256 of every tensor, by official name.")] = False,
    variant: VariantOption = None,
    heads: HeadsOption = None,
    window_size: WindowsOption = None,
    key: KeyOption = None,
    use_ema: EmaOption = True,
    as_json: JsonOption = False,
) -> None:
    """Say what a checkpoint is: layout, variant, dtype, parameters, where they lie in the file, and what it does not say.

    Nothing in the file is executed. Exit code 0 if its network is known, 1 if it holds weights but not which network they belong
    to, 2 for bad usage or a file that is no checkpoint.
    """
    with bad_input_is_one_line(), bytes_bar("hashing") as progress:
        windows = per_stage("--window-size", window_size)
        stated = Stated(variant=variant, heads=per_stage("--heads", heads), window_size=windows, key=key)
        found = inspect_file(file, stated, use_ema=use_ema, sha256=sha256, progress=progress)
        shown = _fitting(found.tensors, only) if tensors or only else None
    if as_json:
        print_json(_document(file, found, shown))
    else:
        _print(file, found, shown)
    raise typer.Exit(0 if found.weights and not found.weights.unknown else 1)


def _fitting(tensors: dict[str, StoredAs], patterns: list[str] | None) -> dict[str, StoredAs]:
    """Those of which a name, the file's or an official one, fits a pattern. Raises ValueError for a pattern that fits none."""
    if not patterns:
        return tensors
    fitting: set[str] = set()
    for pattern in patterns:
        fits = {name for name, x in tensors.items() if any(fnmatchcase(n, pattern) for n in (name, *x.official))}
        if not fits:
            some = ", ".join(list(tensors)[:4])
            raise ValueError(f"--filter {pattern!r} fits no tensor; there are {some}, …")
        fitting |= fits
    return {name: x for name, x in tensors.items() if name in fitting}


def _document(file: Path, found: Inspection, shown: dict[str, StoredAs] | None) -> dict[str, Any]:
    weights = found.weights
    metadata = weights.metadata if weights else {}
    document: dict[str, Any] = {
        "file": as_given(file),
        "bytes": found.bytes,
        "format": found.format,
        "layout": found.layout,
    }
    document |= {"variant": metadata.get("variant"), "config_from": metadata.get("config_from")}
    document |= {
        "config": asdict(weights.config) if weights and not weights.unknown else None,
        "problem": found.problem.in_flags() if found.problem else None,
        "open": _left_open(found),
    }
    dtypes = list(found.dtypes)
    document |= {"dtype": dtypes[0] if len(dtypes) == 1 else dtypes, "parameters": found.parameters}
    document |= {"wrapper": found.wrapper, "prefixes": found.prefixes, "ignored": found.ignored}
    document |= {"others": found.others, "unread": found.unread, "metadata": metadata}
    if shown is None:
        document["tensors"] = {name: {"shape": x.shape} for name, x in found.tensors.items()}
    else:
        document["tensors"] = {name: asdict(x) for name, x in shown.items()}
        document["shown"] = dict(zip(("tensors", "parameters", "bytes"), _totals(shown), strict=True))
    return document | ({"sha256": found.sha256} if found.sha256 is not None else {})


def _left_open(found: Inspection) -> str | None:
    """What no shape shows and the file does not store."""
    if found.weights and found.weights.unknown:
        names = found.weights.unknown
        flags = " and ".join(option(name).flag for name in names)
        return f"{' and '.join(names)} show in no shape and are not told: give {flags}"
    return found.weights.assumed if found.weights else None


def _dtypes(found: Inspection) -> str:
    if len(found.dtypes) == 1:
        return next(iter(found.dtypes))
    return ", ".join(f"{dtype} in {count}" for dtype, count in found.dtypes.items()) + "; convert --dtype makes them one"


def _print(file: Path, found: Inspection, shown: dict[str, StoredAs] | None) -> None:
    console = Terminal()
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    weights = found.weights
    lines: dict[str, str | None] = {
        "file": as_given(file),
        "format": f"{found.format}, {found.bytes / 1e6:,.1f} MB",
        "layout": found.layout or "unknown",
        "network": found.other_network,
    }
    if weights:
        lines |= weights.facts() | {"EMA": f"yes{ema_said(weights.metadata)}" if weights.metadata["ema"] else None}
    lines |= {
        "parameters": f"{found.parameters:,} in {len(found.tensors)} tensors, {_dtypes(found)}",
        "wrapper": found.wrapper,
        "prefixes": " ".join(found.prefixes),
        "left out": summarised(found.ignored, own={name.partition(".")[0] for name in found.tensors}),
        "others": f"{', '.join(found.others)}; --key takes another network" if found.others else None,
        "not read": f"{', '.join(found.unread)}: an average of the weights, perhaps" if found.unread else None,
        "open" if weights and weights.unknown else "assumed": _left_open(found),
    }
    for name, value in lines.items():
        if value:
            table.add_row(name, value)
    if found.problem:
        table.add_row("problem", styled((found.problem.in_flags(), "yellow")))
    console.print(table)
    if shown is not None:
        put("")
        console.print(_tensor_table(shown, len(found.tensors)))
    for name, digest in (found.sha256 or {}).items():
        say(f"{digest}  {name}")


def _totals(tensors: dict[str, StoredAs]) -> tuple[int, int, int]:
    """How many they are, their parameters and their bytes."""
    return len(tensors), sum(math.prod(x.shape) for x in tensors.values()), sum(x.bytes for x in tensors.values())


def _tensor_table(shown: dict[str, StoredAs], of: int) -> Table:
    """One row a tensor; below its name in the file the official one, where that is another."""
    count, parameters, size = _totals(shown)
    total = f"{count} tensors" if count == of else f"{count} of {of} tensors"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_footer=True, footer_style="bold", padding=(0, 1, 0, 0))
    table.add_column("tensor", total, overflow="fold")
    table.add_column("shape", f"{parameters:,} parameters", no_wrap=True, justify="right")
    table.add_column("dtype", no_wrap=True)
    table.add_column("size", _size(size), no_wrap=True, justify="right")
    for name, x in shown.items():
        cell = styled(name)
        if x.official not in ((), (name,)):
            cell = stacked(cell, styled((f"  {'part of' if x.is_part else '='} {', '.join(x.official)}", "dim")))
        table.add_row(cell, " x ".join(map(str, x.shape)) or "scalar", x.dtype, _size(x.bytes))
    return table


def _size(count: int) -> str:
    """Bytes, to three digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.{3 - len(str(int(count / size)))}f} {unit}"
    return f"{count} B"

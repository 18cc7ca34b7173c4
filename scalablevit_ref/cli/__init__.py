"""The command line: `scalablevit-ref COMMAND`. One file a command."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.main import get_command

from scalablevit_ref.cli.attend import attend
from scalablevit_ref.cli.bench import bench
from scalablevit_ref.cli.certify import certify
from scalablevit_ref.cli.compare import compare
from scalablevit_ref.cli.convert import convert
from scalablevit_ref.cli.diff import diff
from scalablevit_ref.cli.draw import draw
from scalablevit_ref.cli.endings import exit_code, leave
from scalablevit_ref.cli.evaluate import evaluate
from scalablevit_ref.cli.help import CHECK, HELP, PICTURES, WEIGHTS, Command, Group, version
from scalablevit_ref.cli.inspect import inspect
from scalablevit_ref.cli.streams import guarded_streams
from scalablevit_ref.cli.summary import summary
from scalablevit_ref.cli.trace import trace
from scalablevit_ref.cli.verify import verify

app = typer.Typer(
    name="scalablevit-ref",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings=HELP,
    pretty_exceptions_enable=False,
)


@app.callback()
def program(
    asked: Annotated[bool, typer.Option("--version", help="Print the version and end.", callback=version, is_eager=True)] = False,
) -> None:
    """The executable reference specification of ScalableViT."""


for group, command, example in (
    (CHECK, verify, "scalablevit-ref verify --weights small.pth --image cat.jpg"),
    (CHECK, compare, "scalablevit-ref compare port.py:Network --variant small --html report.html"),
    (CHECK, certify, "scalablevit-ref certify --weights small.pth --image cat.jpg --backend numpy,torch,onnx"),
    (CHECK, trace, "scalablevit-ref trace small.npz --variant small --save-weights weights.safetensors"),
    (CHECK, evaluate, "scalablevit-ref evaluate val/ --weights small.pth --resume small.journal"),
    (CHECK, bench, "scalablevit-ref bench --recommend"),
    (WEIGHTS, inspect, "scalablevit-ref inspect checkpoint.pth"),
    (WEIGHTS, convert, "scalablevit-ref convert checkpoint.pth small.safetensors --verify"),
    (WEIGHTS, diff, "scalablevit-ref diff checkpoint.pth small.safetensors"),
    (WEIGHTS, summary, "scalablevit-ref summary small --image-size 384"),
    (PICTURES, draw, "scalablevit-ref draw small -o small.svg"),
    (PICTURES, attend, "scalablevit-ref attend digit:7 --layer stages.0.1 -o seven.svg"),
):
    app.command(cls=Command, rich_help_panel=group, epilog=f"Example: `{example}`")(command)


def main() -> None:
    """What `scalablevit-ref` and `python -m scalablevit_ref` run. It ends the process; docs/commands.md lists the exit codes."""
    with guarded_streams():
        leave(exit_code(lambda: get_command(app).main(prog_name="scalablevit-ref", standalone_mode=False)))

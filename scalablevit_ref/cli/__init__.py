"""The command line: `scalablevit-ref COMMAND`. One file a command."""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from scalablevit_ref.cli.endings import exit_code, leave
from scalablevit_ref.cli.help import CHECK, HELP, PICTURES, WEIGHTS, Command, Group, version
from scalablevit_ref.cli.streams import guarded_streams

COMMANDS = {
    "verify": (CHECK, "scalablevit-ref verify --weights small.pth --image cat.jpg"),
    "compare": (CHECK, "scalablevit-ref compare port.py:Network --variant small --html report.html"),
    "certify": (CHECK, "scalablevit-ref certify --weights small.pth --image cat.jpg --backend numpy,torch,onnx"),
    "trace": (CHECK, "scalablevit-ref trace small.npz --variant small --save-weights weights.safetensors"),
    "evaluate": (CHECK, "scalablevit-ref evaluate val/ --weights small.pth --resume small.journal"),
    "bench": (CHECK, "scalablevit-ref bench --recommend"),
    "inspect": (WEIGHTS, "scalablevit-ref inspect checkpoint.pth"),
    "convert": (WEIGHTS, "scalablevit-ref convert checkpoint.pth small.safetensors --verify"),
    "diff": (WEIGHTS, "scalablevit-ref diff checkpoint.pth small.safetensors"),
    "summary": (WEIGHTS, "scalablevit-ref summary small --image-size 384"),
    "draw": (PICTURES, "scalablevit-ref draw small -o small.svg"),
    "attend": (PICTURES, "scalablevit-ref attend digit:7 --layer stages.0.1 -o seven.svg"),
}
"""By name of each command its group in the help, and an example."""


def program(
    asked: Annotated[bool, typer.Option("--version", help="Print the version and end.", callback=version, is_eager=True)] = False,
) -> None:
    """The executable reference specification of ScalableViT."""


def app_with(names: Collection[str]) -> typer.Typer:
    """The program with these of its commands. What only the others need is not loaded, which is most of the time of a start."""
    app = typer.Typer(
        name="scalablevit-ref",
        cls=Group,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        context_settings=HELP,
        pretty_exceptions_enable=False,
    )
    app.callback()(program)
    for name, (group, example) in COMMANDS.items():
        if name in names:
            command = getattr(import_module(f"scalablevit_ref.cli.{name}"), name)
            app.command(cls=Command, rich_help_panel=group, epilog=f"Example: `{example}`")(command)
    return app


def __getattr__(name: str) -> Any:
    """`app` is the program with all of its commands, made when it is first asked for."""
    if name == "app":
        globals()["app"] = app_with(COMMANDS)
        return globals()["app"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """What `scalablevit-ref` and `python -m scalablevit_ref` run. It ends the process; docs/commands.md lists the exit codes."""
    asked = [word for word in sys.argv[1:2] if word in COMMANDS]
    app = app_with(asked or COMMANDS)
    with guarded_streams():
        leave(exit_code(lambda: get_command(app).main(prog_name="scalablevit-ref", standalone_mode=False)))

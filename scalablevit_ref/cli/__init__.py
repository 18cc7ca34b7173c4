"""The command line: `scalablevit-ref COMMAND`. One file a command."""

from __future__ import annotations

import typer
from typer.main import get_command

from scalablevit_ref.cli.attend import attend
from scalablevit_ref.cli.bench import bench
from scalablevit_ref.cli.compare import compare
from scalablevit_ref.cli.convert import convert
from scalablevit_ref.cli.diff import diff
from scalablevit_ref.cli.draw import draw
from scalablevit_ref.cli.endings import exit_code, leave
from scalablevit_ref.cli.evaluate import evaluate
from scalablevit_ref.cli.inspect import inspect
from scalablevit_ref.cli.streams import guarded_streams
from scalablevit_ref.cli.summary import summary
from scalablevit_ref.cli.trace import trace
from scalablevit_ref.cli.verify import verify

app = typer.Typer(
    name="scalablevit-ref",
    help="The executable reference specification of ScalableViT.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(verify)
app.command()(summary)
app.command()(inspect)
app.command()(convert)
app.command()(diff)
app.command()(compare)
app.command()(evaluate)
app.command()(trace)
app.command()(bench)
app.command()(draw)
app.command()(attend)


def main() -> None:
    """What `scalablevit-ref` and `python -m scalablevit_ref` run. It ends the process; docs/commands.md lists the exit codes."""
    with guarded_streams():
        leave(exit_code(lambda: get_command(app).main(prog_name="scalablevit-ref", standalone_mode=False)))

"""The command line: `scalablevit-ref COMMAND`. One file a command."""

from __future__ import annotations

import typer

from scalablevit_ref.cli.attend import attend
from scalablevit_ref.cli.bench import bench
from scalablevit_ref.cli.compare import compare
from scalablevit_ref.cli.convert import convert
from scalablevit_ref.cli.diff import diff
from scalablevit_ref.cli.draw import draw
from scalablevit_ref.cli.inspect import inspect
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
app.command()(trace)
app.command()(bench)
app.command()(draw)
app.command()(attend)

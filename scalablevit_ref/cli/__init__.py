"""The command line: `scalablevit-ref COMMAND`. One file a command; errors are one line and exit code 2."""

from __future__ import annotations

import sys

import typer

from scalablevit_ref.cli.summary import summary
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


def main() -> None:
    """Run the command line; a refusal of bad input is one line on standard error and exit code 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"scalablevit-ref: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None

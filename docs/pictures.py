"""Draw the pictures of the README and of the site: `python docs/pictures.py`. They come from configs and from real runs."""

from __future__ import annotations

import io
from contextlib import chdir
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.cli.attend import attend
from scalablevit_ref.cli.compare import compare
from scalablevit_ref.cli.verify import print_results
from scalablevit_ref.drawing import draw
from scalablevit_ref.drawing.style import dark_twin
from scalablevit_ref.testing.agreement import CANDIDATES, agreement

HERE = Path(__file__).parent


FROM_CONFIG: dict[str, dict[str, Any]] = {
    "idea": {"idea": True},
    "architecture": {},
    "ssa": {"layer": "stages.0.1.attn"},
    "ssa_s1": {"layer": "stages.3.1.attn"},
    "iwsa": {"layer": "stages.0.0.attn"},
    "block": {"layer": "stages.0.0"},
    "patch_embed": {"layer": "patch_embeds.0"},
    "peg": {"layer": "pos_block.0"},
    "mlp": {"layer": "stages.0.0.mlp"},
    "cost": {"cost": True},
}
"""The pictures of `small`, as `scalablevit_ref.drawing.draw` is asked for them."""


def twins(path: Path) -> dict[str, Path]:
    """A picture's files by their themes."""
    return {"light": path, "dark": dark_twin(path)}


def from_config(folder: Path) -> None:
    """Each picture of `small` for light pages, and beside it, under `NAME-dark.svg`, for dark ones."""
    folder.mkdir(exist_ok=True)
    for name, options in FROM_CONFIG.items():
        for theme, path in twins(folder / f"{name}.svg").items():
            draw(
                sv.variant("small"), path, name="small", theme=theme, force=True, **options
            )


def verify(path: Path) -> None:
    """Run `verify` on the embedded example and keep what it prints as an SVG."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    images, labels = digits.test_images()
    results = agreement(
        digits.preprocess(images), checkpoint.params, checkpoint.config, CANDIDATES
    )
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    print_results(console, results, labels, "the embedded digits checkpoint")
    svg = console.export_svg(title="scalablevit-ref verify")
    fonts = (
        svg.index("@font-face"),
        svg.index("    .terminal"),
    )  # rich links to fonts on a server; the system's own will do
    start = min(fonts[0], fonts[1])
    end = svg.index("-matrix {") - len(svg[start : svg.index("-matrix {")].splitlines()[-1])
    path.write_text(svg[:start] + svg[end:], encoding="utf-8")


def attention(folder: Path) -> None:
    """The maps of attention.md, as its commands draw them, for light pages and for dark ones."""
    for name, layer in (("attention-ssa", "stages.2.1"), ("attention-iwsa", "stages.0.0")):
        for theme, path in twins(folder / f"{name}.svg").items():
            attend("digit:75", layer, path, theme=theme, force=True)


def errors(folder: Path) -> None:
    """What `compare --plot` draws of the port of checking.md."""
    for theme, path in twins(folder / "errors.svg").items():
        compared("torch_port.py:DigitsPort", plot=path, theme=theme)


def report(path: Path) -> None:
    """The page of report.md."""
    compared("torch_port.py:twice_wrong", html=path)


def compared(port: str, **options: Any) -> None:
    """Run `compare` on a port of `docs/examples` that differs."""
    with chdir(HERE / "examples"):
        try:
            compare(port, variant_name="digits", force=True, **options)
        except typer.Exit as done:
            if done.exit_code != 1:
                raise


if __name__ == "__main__":
    from_config(HERE / "pictures")
    attention(HERE / "pictures")
    errors(HERE / "pictures")
    report(HERE / "examples" / "report.html")
    verify(HERE / "verify.svg")

"""Draw the pictures of the README from real runs: `python docs/pictures.py`."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.cli.verify import print_results
from scalablevit_ref.testing.agreement import CANDIDATES, agreement

HERE = Path(__file__).parent


def main() -> None:
    """Run `verify` on the embedded example and keep what it prints as an SVG."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    images, labels = digits.test_images()
    results = agreement(digits.preprocess(images), checkpoint.params, checkpoint.config, CANDIDATES)
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    print_results(console, results, labels, "the embedded digits checkpoint")
    svg = console.export_svg(title="scalablevit-ref verify")
    fonts = svg.index("@font-face"), svg.index("    .terminal")  # rich links to fonts on a server; the system's own will do
    start = min(fonts[0], fonts[1])
    end = svg.index("-matrix {") - len(svg[start : svg.index("-matrix {")].splitlines()[-1])
    (HERE / "verify.svg").write_text(svg[:start] + svg[end:], encoding="utf-8")


if __name__ == "__main__":
    main()

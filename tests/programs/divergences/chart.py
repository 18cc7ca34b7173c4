"""The chart at the head of `docs/implementations.md`: how far each difference moves the logits of `small`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scalablevit_ref.drawing.diagram import MARGIN, Bar, Diagram, Hue, Line, Text
from scalablevit_ref.drawing.facts import plain
from scalablevit_ref.drawing.render import save, text_width
from scalablevit_ref.drawing.style import SMALL, THEMES, dark_twin
from tests.programs.divergences.changes import CHANGES, FLAX_PORT, VIT_PYTORCH
from tests.programs.divergences.page import number

PICTURE = Path(__file__).resolve().parents[3] / "docs" / "pictures" / "divergences.svg"
LEFT, RIGHT = 296, 496
"""Where the bars begin and where those of 1 end, in pixels."""

DECADES = 7
"""From 1e-7 to 1."""

LINE, BAR = 17, 10
"""Pixels from line to line of a label, and of a bar."""

WHO: tuple[tuple[str, Hue, float], ...] = (
    ("both ports", "iwsa", 0),
    ("vit_pytorch", "conv", 112),
    ("the Flax port", "ssa", 226),
    ("others", "norm", 356),
)
"""Whose a difference is, its hue, and where the legend has it, in pixels from the margin."""


def chart(figures: dict[str, Any]) -> Diagram:
    """A bar for each change that moves the logits of `small`, the largest first."""
    measured = {name: figures["changes"][name]["small"] for name in CHANGES if figures["changes"].get(name, {}).get("small")}
    found = sorted(measured.items(), key=lambda item: -item[1])
    diagram = Diagram("How far each difference moves the logits")
    y = diagram.heading("‖Δ‖ / ‖logits‖ of small with random weights, logarithmic. Whose it is:")
    for words, hue, at in WHO:
        diagram.bars.append(Bar(MARGIN + at, y - 2, BAR, BAR, hue=hue, pale=True))
        diagram.note(MARGIN + at + 16, y + 8, words)
    top = y + 38
    y = top + 14
    for name, error in found:
        lines = wrapped(CHANGES[name].words)
        middle = y + LINE * (len(lines) - 1) / 2
        for i, words in enumerate(lines):
            diagram.texts.append(Text(LEFT - 10, y + LINE * i + 5, words, "right", SMALL))
        diagram.bars.append(Bar(LEFT, middle - BAR / 2, along(error) - LEFT, BAR, hue=hue_of(name), pale=True))
        diagram.texts.append(Text(diagram.width - MARGIN, middle + 5, number(error), "right", SMALL))
        y += LINE * len(lines) + 6
    for power in range(1 - DECADES, 1, 2):
        x = along(10.0**power)
        diagram.lines.append(Line(((x, top), (x, y - 8)), "rule"))
        diagram.texts.append(Text(x, top - 4, f"$10^{{{power}}}$" if power else "1", size=SMALL, color="soft"))
    diagram.height = y
    told = "; ".join(f"{label(CHANGES[name].words)} {number(error)}" for name, error in found)
    diagram.alt = f"{diagram.title} of small, relative: {told}."
    return diagram


def hue_of(name: str) -> Hue:
    """Of what the change belongs to."""
    port, flax = name in VIT_PYTORCH, name in FLAX_PORT
    return "iwsa" if port and flax else "conv" if port else "ssa" if flax else "norm"


def along(error: float) -> float:
    """Where a bar of that error ends."""
    return LEFT + (RIGHT - LEFT) * (1 + math.log10(max(error, 10.0**-DECADES)) / DECADES)


def label(words: str) -> str:
    """Without Markdown and mathematics."""
    return plain(words).replace("`", "")


def wrapped(words: str) -> list[str]:
    """In lines that fit left of the bars."""
    lines = [""]
    for word in label(words).split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, SMALL) <= LEFT - 10 - MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw(figures: dict[str, Any]) -> None:
    """Write the picture for light pages and for dark ones."""
    for theme, path in zip(THEMES, (PICTURE, dark_twin(PICTURE)), strict=True):
        save(chart(figures), path, theme=theme, force=True)

"""The figures as a picture: images a second, one bar for each contender, a group for each work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalablevit_ref.benchmark.contenders import MODULE
from scalablevit_ref.drawing.style import PX, SMALL, TEXT, WIDTH, Theme, check_picture, figure, save, themed

ROW, GAP, TOP, BOTTOM = 24, 34, 66, 48
"""Heights in pixels: of a bar, of the title above a group, of the heading and of the axis."""
LEFT = 118
"""Pixels for the contenders' names."""


def plot(found: dict[str, Any], path: Path, *, theme: str = "light") -> None:
    """Write a picture of a benchmark's document: .svg, .png or .pdf, as the name ends.

    theme: "light" or "dark". Raises ModuleNotFoundError without matplotlib, ValueError for another theme or ending.
    """
    check_picture(path, theme)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in found["forward"]:
        if "absent" not in row:
            groups.setdefault(_work(row), []).append(row)
    bars = sum(map(len, groups.values()))
    inside = ROW * bars + GAP * len(groups)
    height = TOP + inside + BOTTOM
    with themed(theme) as colors:
        drawn = figure(height=height)
        place = (LEFT / WIDTH, BOTTOM / height, 1 - (LEFT + 16) / WIDTH, inside / height)
        axes = drawn.add_axes(place)
        machine = found["machine"]
        words = f"{found['gpu'] or machine['cpu']}, {machine['threads']} threads"
        drawn.text(16 / WIDTH, 1 - 16 / height, "Images a second", fontsize=TEXT * PX, fontweight="bold", va="top")
        drawn.text(16 / WIDTH, 1 - 42 / height, words, fontsize=SMALL * PX, color=colors.soft, va="top")
        y = 0.0
        for work, rows in groups.items():
            axes.text(0, y + 0.6 * GAP, work, fontsize=SMALL * PX, fontweight="bold", va="center")
            y += GAP
            for row in rows:
                _bar(axes, y + ROW / 2, row, colors)
                y += ROW
        axes.set_ylim(y, 0)
        axes.set_xlim(0, 1.3 * max(row["batch"] / row["seconds"]["low"] for rows in groups.values() for row in rows))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("images a second; the line spans the quartiles", color=colors.soft, fontsize=SMALL * PX)
        save(drawn, path, title="Images a second", alt=alt(found))


def alt(found: dict[str, Any]) -> str:
    """What the picture shows, in words."""
    ran = [row for row in found["forward"] if "absent" not in row]
    works = dict.fromkeys(map(_work, ran))
    said = [
        f"{work}: " + ", ".join(f"{_name(row)} {row['batch'] / row['seconds']['median']:.1f}" for row in ran if _work(row) == work)
        for work in works
    ]
    return f"Images a second of each contender. {'; '.join(said)}."


def _bar(axes: Any, y: float, row: dict[str, Any], colors: Theme) -> None:
    rate, low, high = (row["batch"] / row["seconds"][key] for key in ("median", "high", "low"))
    other = row["contender"] in (MODULE, "vit_pytorch")  # what is measured against, and another network
    edge, fill = colors.norm if other else colors.iwsa
    axes.barh(y, rate, 0.74 * ROW, color=fill, edgecolor=edge)
    axes.plot([low, high], [y, y], color=edge, lw=1.5)
    axes.text(0, y, f"{_name(row)}  ", fontsize=SMALL * PX, ha="right", va="center")
    times = "" if other else f"  ({row['ratio']['median']:.2f} ×)"
    axes.text(max(rate, high), y, f"  {rate:.1f}{times}", fontsize=SMALL * PX, va="center")


def _name(row: dict[str, Any]) -> str:
    return "torch.nn" if row["contender"] == MODULE else str(row["contender"])


def _work(row: dict[str, Any]) -> str:
    images = f"{row['batch']} image{'s' if row['batch'] > 1 else ''}"
    return f"{row['variant']}, {images} of {row['size']}², {row['dtype']} on {row['device']}"

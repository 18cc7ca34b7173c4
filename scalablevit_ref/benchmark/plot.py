"""The figures as a picture: images a second, a group of bars for each work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLORS = {"module": "#9aa0a6", "vit_pytorch": "#d5d8dc", "numpy": "#4878cf", "torch": "#d65f5f", "torch.compile": "#8c2d2d"} | {
    "jax": "#6acc65",
    "cupy": "#b47cc7",
}


def plot(found: dict[str, Any], path: Path) -> None:
    """Write a PNG, SVG or PDF, as the name ends. Raises ModuleNotFoundError without matplotlib, ValueError for another ending."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = [row for row in found["forward"] if "absent" not in row]
    works = list(dict.fromkeys(_work(row) for row in rows))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    figure, axes = plt.subplots(figsize=(max(6.0, 2.2 * len(works)), 4.2), layout="constrained")
    width = 0.84 / len(names)
    for i, name in enumerate(names):
        mine = [row for row in rows if row["contender"] == name]
        places = [works.index(_work(row)) + (i - (len(names) - 1) / 2) * width for row in mine]
        rates, low, high = ([row["batch"] / row["seconds"][key] for row in mine] for key in ("median", "high", "low"))
        bounds = [[a - b for a, b in zip(rates, low, strict=True)], [b - a for a, b in zip(rates, high, strict=True)]]
        label = "plain torch.nn module" if name == "module" else name
        axes.bar(places, rates, 0.92 * width, yerr=bounds, label=label, color=COLORS[name], error_kw={"lw": 0.8, "ecolor": "#444"})
    axes.set_xticks(range(len(works)), works)
    axes.set_ylabel("images a second")
    axes.set_title(f"{found['gpu'] or found['machine']['cpu']}, {found['machine']['threads']} threads", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=144)
    plt.close(figure)


def _work(row: dict[str, Any]) -> str:
    return f"{row['variant']} {row['size']}²\nbatch {row['batch']}, {row['dtype']}" + ("" if row["device"] == "cpu" else " cuda")

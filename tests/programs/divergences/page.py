"""The figures in `docs/implementations.md`: what stands between `<!-- measured: … -->` and `<!-- end -->`.

`<!-- measured: eps no_shift -->` names changes, each of which has a row. One word alone stands for something else: `chart` for the
chart, `summary` for a sentence about all, `together` for what each port consists of, `ports` for the places of the two ports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.programs.divergences.changes import CHANGES, FLAX_PORT, OTHER_PORT_CHANGES, PORT_CHANGES, VIT_PYTORCH
from tests.programs.divergences.chart import chart
from tests.programs.divergences.labels import label, link, number

PAGE = Path(__file__).resolve().parents[3] / "docs" / "implementations.md"
MEASURED = re.compile(r"(?P<start><!-- measured: (?P<what>[^\n]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
WORDS = {name: label(change) for name, change in CHANGES.items()} | {
    "vit_pytorch": "all that makes it vit_pytorch",
    "flax_port": "all that makes it the Flax port",
}


def written(page: str, figures: dict[str, Any]) -> str:
    """The page with these figures. KeyError for a change that is not among them."""
    return MEASURED.sub(lambda found: f"{found['start']}\n{_shown(found['what'], figures)}\n\n{found['end']}", page)


def named(page: str) -> list[str]:
    """The changes whose figures the page shows."""
    return [name for found in MEASURED.finditer(page) if found["what"] not in PARTS for name in found["what"].split()]


def _shown(what: str, figures: dict[str, Any]) -> str:
    return PARTS[what](figures) if what in PARTS else _changed(what.split(), figures["changes"])


def _summary(figures: dict[str, Any]) -> str:
    """Those that no prediction shows, and those that change most of them."""
    found = figures["changes"]
    seen = [name for name in CHANGES if found[name].get("digits")]
    silent = [CHANGES[name].of for name in seen if not found[name]["changed"]]
    most = sorted(seen, key=lambda name: -found[name]["changed"])[:3]
    told = f"{len(seen)} changes move the logits of the digits. {len(silent)} of them change no prediction,"
    lines = [f"{told} so that no test of accuracy finds them: changes of {_listed(silent)}.", ""]
    lines += ["Most predictions change with these:", "", *(f"- {WORDS[name]}: {found[name]['changed']} of 370" for name in most)]
    return "\n".join(lines)


def _together(_: dict[str, Any]) -> str:
    """What the official network needs to become each of the ports."""
    both = {CHANGES[name].of: None for name in VIT_PYTORCH}
    more = [CHANGES[name].of for name in FLAX_PORT if CHANGES[name].of not in both]
    return f"The official network becomes vit_pytorch's with {_listed(both)}. With {_listed(more)} too, it becomes the Flax port's."


def _listed(names: Iterable[str]) -> str:
    *some, last = map(link, dict.fromkeys(names))
    return f"{', '.join(some)} and {last}"


def _ports(figures: dict[str, Any]) -> str:
    found = figures["ports"]
    rows = [
        (label(change), number(found[f"{name}, alone"]), number(found[f"{name}, patched"])) for name, change in PORT_CHANGES.items()
    ]
    rows += [("all four: the Flax port as published", number(found["as published"]), "0")]
    rows += [(label(change), number(found[name]), "–") for name, change in OTHER_PORT_CHANGES.items()]
    return _lines(("place", "alone in vit_pytorch", "the Flax port with this one patched"), rows)


def _changed(names: Iterable[str], figures: dict[str, Any]) -> str:
    rows = []
    for name in names:
        found = figures[name]
        counts = [str(found.get(key, "–")) for key in ("changed", "right")]
        rows.append((WORDS[name], number(found.get("digits")), *counts, number(found["small"])))
    return _lines(("put into the official network", "‖Δ‖ digits", "predictions changed", "right of 370", "‖Δ‖ small"), rows)


def _lines(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    cells = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "chart": lambda figures: "\n".join(chart(figures)),
    "summary": _summary,
    "together": _together,
    "ports": _ports,
}


def write(figures: dict[str, Any]) -> None:
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")

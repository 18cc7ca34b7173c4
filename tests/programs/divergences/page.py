"""The tables of figures in `docs/implementations.md`: what stands between `<!-- measured: … -->` and `<!-- end -->`.

`<!-- measured: 1 ssa_first order | 7 eps -->` names a divergence's number on the page and the changes that measure it;
`<!-- measured: ports -->` stands for the places of the two ports, `summary` for a sentence about all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.programs.divergences.changes import CHANGES, OTHER_PORT_CHANGES, PORT_CHANGES, TOGETHER

PAGE = Path(__file__).resolve().parents[3] / "docs" / "implementations.md"
MEASURED = re.compile(r"(?P<start><!-- measured: (?P<what>[^\n]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
WORDS = {name: change.words for name, change in CHANGES.items()} | {
    "vit_pytorch": "all that makes it vit_pytorch",
    "flax_port": "all that makes it the Flax port",
}


def written(page: str, figures: dict[str, Any]) -> str:
    """The page with these figures. KeyError for a change that is not among them."""
    pairs = _pairs(page)
    return MEASURED.sub(lambda found: f"{found['start']}\n{_shown(found['what'], figures, pairs)}\n\n{found['end']}", page)


def named(page: str) -> list[str]:
    """The changes whose figures the page shows."""
    return [name for _, name in _pairs(page)]


def _pairs(page: str) -> list[tuple[str, str]]:
    """A divergence's number on the page, and a change that measures it."""
    listed = [found["what"] for found in MEASURED.finditer(page) if found["what"] not in ("ports", "summary")]
    return [pair for what in listed for pair in _changes(what)]


def number(error: float | None) -> str:
    """A relative error as it is shown: two digits, with a minus at which no line is broken."""
    if error is None:
        return "–"
    if error == 0:
        return "0"
    mantissa, exponent = f"{error:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−") if error < 1e-3 else f"{error:#.2g}"


def _changes(what: str) -> Iterable[tuple[str, str]]:
    """Number and name."""
    for part in what.split("|"):
        at, *names = part.split()
        yield from ((at, name) for name in names)


def _shown(what: str, figures: dict[str, Any], pairs: list[tuple[str, str]]) -> str:
    if what == "summary":
        return _summary(figures["changes"], [pair for pair in pairs if pair[0].isdigit()])
    return _ports(figures["ports"]) if what == "ports" else _changed(what, figures["changes"])


def _summary(found: dict[str, Any], pairs: list[tuple[str, str]]) -> str:
    """Those that no prediction shows, and those that change most of them."""
    seen = [(at, name) for at, name in pairs if found[name].get("digits")]
    silent = [at for at, name in seen if not found[name]["changed"]]
    most = sorted(seen, key=lambda pair: -found[pair[1]]["changed"])[:3]
    loud = "; ".join(f"{WORDS[name]} ({at}) {found[name]['changed']}" for at, name in most)
    return (
        f"Of {len(seen)} changes that move the logits of the digits, {len(silent)} change no prediction "
        f"(in {', '.join(dict.fromkeys(silent))}): no test of accuracy finds them. Most predictions change with these: {loud}."
    )


def _ports(found: dict[str, float]) -> str:
    rows = [
        (change.words, number(found[f"{name}, alone"]), number(found[f"{name}, patched"])) for name, change in PORT_CHANGES.items()
    ]
    rows += [("all four: the Flax port as published", number(found["as published"]), "0")]
    rows += [(change.words, number(found[name]), "–") for name, change in OTHER_PORT_CHANGES.items()]
    return _lines(("place", "alone in vit_pytorch", "the Flax port with this one patched"), rows)


def _changed(what: str, figures: dict[str, Any]) -> str:
    rows = []
    for at, name in _changes(what):
        found = figures[name]
        counts = [str(found.get(key, "–")) for key in ("changed", "right")]
        label = WORDS[name] if name in TOGETHER else f"{at}: {WORDS[name]}"
        rows.append((label, number(found.get("digits")), *counts, number(found["small"])))
    return _lines(("put into the official network", "‖Δ‖ digits", "predictions changed", "right of 370", "‖Δ‖ small"), rows)


def _lines(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    cells = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def write(figures: dict[str, Any]) -> None:
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")

"""The chart at the head of `docs/implementations.md`, as HTML: how far each difference moves the logits of `small`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from scalablevit_ref.drawing.facts import plain
from tests.programs.divergences.changes import CHANGES, FLAX_PORT, VIT_PYTORCH
from tests.programs.divergences.labels import anchor, number

TITLE = "How far each difference moves the logits of <code>small</code>: ‖Δ‖ / ‖logits‖, on a logarithmic scale"
DECADES = 7
"""From 1e-7 to 1."""

WHO = {"both": "both ports", "vit": "vit_pytorch", "flax": "Flax port", "none": ""}
"""Which port always has a difference, by the class of its bar."""


def chart(figures: dict[str, Any]) -> Iterator[str]:
    """A bar for each change that moves the logits of `small`, the largest first."""
    measured = {name: figures["changes"][name]["small"] for name in CHANGES}
    yield '<div class="scrolled" role="region" tabindex="0" aria-label="How far each difference moves the logits">'
    yield '<table class="bars">'
    yield f"<caption>{TITLE}</caption>"
    axis = '<span class="axis"><span>10<sup>−7</sup></span><span>1</span></span>'
    columns = ("difference <small>and the port that always has it</small>", axis, "‖Δ‖")
    yield "<thead><tr>" + "".join(f'<th scope="col">{words}</th>' for words in columns) + "</tr></thead>"
    yield "<tbody>"
    for name, error in sorted(measured.items(), key=lambda item: -item[1]):
        if error:
            change, who = CHANGES[name], whose(name)
            words = re.sub("`(.+?)`", r"<code>\1</code>", escape(plain(change.words), quote=False))
            bar = f'<td class="{who}"><i style="width: {100 * along(error):.1f}%"></i></td>'
            port = f" <small>{WHO[who]}</small>" if WHO[who] else ""
            head = f'<th scope="row"><a href="#{anchor(change.of)}">{change.of}</a>: {words}{port}</th>'
            yield f"<tr>{head}{bar}<td>{number(error)}</td></tr>"
    yield "</tbody>"
    yield "</table>"
    yield "</div>"


def whose(name: str) -> str:
    """The class of a change's bar."""
    port, flax = name in VIT_PYTORCH, name in FLAX_PORT
    return "both" if port and flax else "vit" if port else "flax" if flax else "none"


def along(error: float) -> float:
    """Where a bar of that error ends: 1 for an error of 1."""
    return 1 + math.log10(max(error, 10.0**-DECADES)) / DECADES

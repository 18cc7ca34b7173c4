"""A wrong layer from the inside: its steps as a table, where it goes wrong first, and its kind of difference as a picture."""

from __future__ import annotations

from scalablevit_ref.compare.html.differences import overview, pictures
from scalablevit_ref.compare.html.text import code, number, said, sentence
from scalablevit_ref.compare.inside import Inside, StepRow
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.report import MOST_FACTS
from scalablevit_ref.testing.arrays import EPS, Comparison

VERDICTS = {
    "right": ("right", "✓ right"),
    "its input is wrong": ("wrong", "✗ its input is wrong"),
    "it is wrong": ("wrong", "✗ it is wrong"),
    "not followed": ("unknown", "not followed"),
}
"""By what is said of a step: the class of its row, and the words."""


def inside_section(seen: Inside, dtype: str, tolerance: float, index: int) -> str:
    """One layer that was looked into; `index` is its number among these."""
    name = f"inside-{index}"
    line = f" The first wrong value is computed in {code(seen.line)}." if seen.line else ""
    notes = "".join(f"<li>{sentence(note)}</li>" for note in seen.notes)
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">Inside {code(seen.layer)}</h2>'
        f"<p>Where it goes wrong: {said(seen.place)}.{line}</p>"
        f"{_lines(seen)}{_steps(seen, dtype, tolerance, name)}{_differences(seen, name)}"
        + (f'<ul class="said">{notes}</ul>' if notes else "")
        + "</section>\n"
    )


def _lines(seen: Inside) -> str:
    """All lines between the last right values and the first wrong one, where there are several."""
    if len(seen.lines) < 2:
        return ""
    listed = "".join(f"<li>{code(line)}</li>" for line in seen.lines)
    summary = f"The {len(seen.lines)} lines between the last right values and the first wrong one"
    return f"<details><summary>{summary}</summary><ul>{listed}</ul></details>"


def _steps(seen: Inside, dtype: str, tolerance: float, name: str) -> str:
    if not seen.rows:
        return ""
    head = "".join(
        f'<th scope="col"{mark}>{words}</th>'
        for words, mark in (("step", ""), ("verdict", ""), ("what enters", ' class="n"'), ("what comes out", ' class="n"'))
    )
    body = "".join(_step(row, seen.layer, dtype, tolerance) for row in seen.rows)
    return (
        f'<p id="{name}-steps">The steps of the layer, in the reference’s order. Each error is against what the reference makes of '
        "the candidate’s own values before it.</p>"
        f'<div class="box" tabindex="0" role="region" aria-labelledby="{name}-steps"><table class="steps">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _step(row: StepRow, layer: str, dtype: str, tolerance: float) -> str:
    kind, words = VERDICTS[row.words]
    step = row.step.removeprefix(f"{layer}.")
    cells = "".join(_error(c, dtype, tolerance) for c in (row.given, row.made))
    return f'<tr class="{kind}"><th scope="row">{code(step)}</th><td class="v">{words}</td>{cells}</tr>'


def _error(comparison: Comparison | None, dtype: str, tolerance: float) -> str:
    if comparison is None:
        return '<td class="n">–</td>'
    over = "" if comparison.error <= tolerance else " over"
    relative = number(comparison.error * EPS[dtype], 2)
    return f'<td class="n{over}">{number(comparison.error, 3)} eps <small>relative {relative}</small></td>'


def _differences(seen: Inside, name: str) -> str:
    """What explains the difference, else the facts; each with its picture, and a general one where none has any."""
    exact = [one for one in seen.differences if one.exact]
    told: list[Difference] = (exact or list(seen.differences))[:MOST_FACTS]
    drawn = ["".join(pictures(one, seen.sample, f"{name}-{i}")) for i, one in enumerate(told)]
    if not any(drawn) and seen.sample is not None:
        drawn.append(overview(seen.sample, f"{name}-all"))
    heading = "The difference" if exact else "What is known of the difference"
    listed = "".join(f"<li>{said(one.words)}</li>" for one in told)
    words = f'<p>{heading}:</p><ul class="said">{listed}</ul>' if told else ""
    return f'{words}<div class="halves">{"".join(drawn)}</div>' if any(drawn) else words

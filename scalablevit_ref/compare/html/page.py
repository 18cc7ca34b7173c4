"""A comparison's report as one HTML file: no scripts, nothing fetched, light and dark, for screens of any width."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from scalablevit_ref.compare.error_chart import SERIES, error_chart, shown
from scalablevit_ref.compare.html.inside import inside_section
from scalablevit_ref.compare.html.pictures import heat_map, histograms, inline_svg
from scalablevit_ref.compare.html.text import code, number, said, sentence
from scalablevit_ref.compare.inside import Inside
from scalablevit_ref.compare.mistakes.search import eps_said
from scalablevit_ref.compare.reasoning.difference import OPERATIONS
from scalablevit_ref.compare.report import MOST_FACTS, Cause, Report, Row
from scalablevit_ref.drawing.html import document
from scalablevit_ref.testing.arrays import EPS

MOST_FINDINGS = 6
"""Changes that help without explaining the error: how many of them are told."""

WIDE, NARROW = 960, 350
"""Width in pixels of the chart of errors; a phone shows the narrow one."""

LETTERS = 12
"""Size in pixels of the letters in the chart."""

STYLE_SHEET = Path(__file__).with_name("page.css")

MEASURED = {
    "propagated": "both networks run from end to end on the same images, so that a layer inherits the errors of those before it",
    "isolated": "the reference's layer gets what the candidate's layers before it gave, so that what differs is its own doing",
}


def html(report: Report, *, title: str = "A port of ScalableViT against the reference") -> str:
    """The whole file as text, to be written as UTF-8."""
    insides = [inside_section(seen, report.dtype, report.tolerance, i) for i, seen in enumerate(report.insides)]
    sections = [
        _verdict(report),
        _diagnosis(report),
        *insides,
        _errors(report),
        _tensor(report),
        _layers(report),
        _measured(report),
    ]
    return document(said(title), STYLE_SHEET.read_text(encoding="utf-8"), "".join(sections))


def _left_out(report: Report) -> str:
    """The layers that were not compared, by name, where there are some."""
    return "".join(
        f"<details><summary>{sentence(str(some))[:-1]}</summary>{', '.join(map(code, some.layers))}</details>"
        for some in report.left_out
    )


def _at(row: Row) -> str:
    """The layer, and the candidate's name for it where that is another."""
    return code(row.layer) if row.module in (row.layer, "output") else f"{code(row.layer)} (the candidate's {code(row.module)})"


def _relative(error: float, dtype: str) -> str:
    return f"{error * EPS[dtype]:.2g}"


def _verdict(report: Report) -> str:
    count, wrong, first = len(report.rows), report.diverging, report.first
    layers = f"{count} layer{'s' * (count != 1)}"
    facts: list[tuple[str, str]] = []
    if report.unsteady:
        headline, mark, kind = "Gives something else each time", "✗", "fail"
        words = "For the same images it does not give the same numbers each time, so that nothing can be compared. "
        words += " ".join(map(sentence, report.unsteady))
    elif first is None:
        worst = max(report.rows, key=lambda row: max(c.error for c in (row.propagated, row.isolated) if c))
        headline, mark, kind = "Agrees with the reference", "✓", "pass"
        words = f"{'All' if count > 1 else 'The'} {layers} compared {'are' if count > 1 else 'is'} within what rounding explains."
        if report.left_out:
            headline = f"Agrees with the reference in {count} of {report.layers_in_all} layers"
        if report.own_weights_wrong:
            headline, mark, kind = "Differs by its own weights", "✗", "fail"
            words = f"With the file’s weights it agrees, with those that it came with it does not. {words}"
        facts = [("Worst layer", code(worst.layer)), ("Its error", eps_said(report.needed))]
    else:
        headline, mark, kind = "Differs from the reference", "✗", "fail"
        if count == 1:
            words = f"{_at(first)}, the one layer compared, is beyond what rounding explains."
        elif not any(row.isolated for row in wrong):
            words = (
                f"{len(wrong)} of {layers} {'are' if wrong[1:] else 'is'} beyond what rounding explains; the first is {_at(first)}."
            )
        elif first.own.error <= report.tolerance:
            inherited = f"The propagated error is too large in {len(wrong)} of {layers}, the isolated one in none"
            words = f"{inherited}; the first is {_at(first)}."
        elif wrong[1:]:
            words = f"The isolated error is too large in {len(wrong)} of {layers}; the first is {_at(first)}."
        else:
            words = f"The isolated error is too large in 1 of {layers}: {_at(first)}."
        own = first.own if not first.own.error <= report.tolerance else (first.propagated or first.own)
        if math.isfinite(own.error):
            error = f"{eps_said(own.error)} <small>relative {_relative(own.error, report.dtype)}</small>"
        else:
            words += " It is the first to hold a NaN or an infinity."
            error = number(own.error)
        facts = [("First to differ", code(first.layer)), ("Its error", error)]
        facts.append(("Worst element", f"{own.index} <small>{number(own.actual)} instead of {number(own.expected)}</small>"))
    facts.append(("Allowed", f"{report.tolerance:g} eps <small>relative {_relative(report.tolerance, report.dtype)}</small>"))
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    words += "".join(f" {sentence(some)}" for some in (report.coverage, report.unmeasured) if some)
    return (
        f'<section class="verdict {kind}" aria-labelledby="verdict">'
        f'<h2 id="verdict"><span aria-hidden="true">{mark}</span> {headline}</h2>'
        f"<p>{words}</p><dl>{listed}</dl></section>\n"
    )


def _diagnosis(report: Report) -> str:
    items = [_cause(cause, report.dtype) for cause in report.told]
    items += [_reasoned(seen) for seen in report.insides if not seen.exact]
    if report.causes or report.nearest:
        items += [said(finding) for finding in report.nearest[:MOST_FINDINGS]]
        if report.nearest[MOST_FINDINGS:]:
            items.append(f"and {len(report.nearest) - MOST_FINDINGS} more changes that help, but do not explain it")
    elif not report.layers_agree and not report.reasoned and not report.unsteady:
        items.append("No diagnosis was made." if report.actual is None else "None of the known mistakes explains it.")
    if not report.layers_agree and not report.unsteady and (right := report.forms_right()):
        items.append(f"Right in every layer: {', '.join(map(code, right))}.")
    items += [said(words) for words in (*report.hidden(), *report.elsewhere(), *report.own_weights, *report.notes)]
    if report.next_step():
        items.append(f"<strong>Next:</strong> {said(report.next_step().removeprefix('next: '))}.")
    if not items:
        return ""
    listed = "".join(f"<li>{item}</li>" for item in items)
    heading = "Notes" if report.layers_agree or report.unsteady else "The likely mistake" if report.causes else "What may be wrong"
    return f'<section aria-labelledby="diagnosis"><h2 id="diagnosis">{heading}</h2><ul class="said">{listed}</ul></section>\n'


def _cause(cause: Cause, dtype: str) -> str:
    more = cause.layers[1:]
    where = f"{code(cause.layers[0])}{f' and {len(more)} more layer' + 's' * bool(more[1:]) if more else ''}"
    if cause.kind:
        ties = "".join(f"; or, as well: {said(words)}" for words in cause.ties)
        words = f"{where}: {said(cause.place)}: <strong>{said(cause.words)}</strong>{ties}."
        if cause.kind != OPERATIONS:
            words += f" This explains it to {eps_said(cause.error)}, relative {_relative(cause.error, dtype)}."
        words += f" It is computed in {code(cause.line)}." if cause.line else ""
        words += f" {said(cause.unseen)}." if cause.also else ""
    else:
        ties = "".join(f"; or if {said(words)}" for words in cause.ties)
        words = (
            f"{where} {'match' if more else 'matches'} to {eps_said(cause.error)} if <strong>{said(cause.words)}</strong>{ties}."
        )
    if more:
        words += f"<details><summary>All {len(cause.layers)} layers</summary>{', '.join(map(code, cause.layers))}</details>"
    return words


def _reasoned(seen: Inside) -> str:
    """Where a layer goes wrong that nothing explains, with what is known of the difference."""
    line = f" The first wrong value is computed in {code(seen.line)}." if seen.line else ""
    facts = "".join(f"<li>{said(difference.words)}</li>" for difference in seen.differences[:MOST_FACTS])
    return f"{code(seen.layer)}: {said(seen.place)}.{line}" + (f"<ul>{facts}</ul>" if facts else "")


def _errors(report: Report) -> str:
    legend = "".join(f'<span><i class="{kind}"></i>{kind}: {SERIES[kind]}</span>' for kind in shown(report))
    charts = "".join(
        f'<div class="{name}">{inline_svg(error_chart(report, width=width, letters=LETTERS), name=name)}</div>'
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    )
    return (
        '<section aria-labelledby="errors"><h2 id="errors">Error by layer</h2>'
        f'<p>‖candidate − reference‖ / ‖reference‖ in eps of {report.dtype}, log scale.</p><p class="legend">{legend}</p>'
        f"{charts}</section>\n"
    )


def _tensor(report: Report) -> str:
    if report.actual is None or report.expected is None or report.first is None:
        return ""
    row = report.first
    axes = "b h w c" if report.actual.ndim == 4 else "b c"
    return (
        f'<section aria-labelledby="tensor"><h2 id="tensor">Where {code(row.layer)} differs</h2>'
        f"<p>|candidate − reference| of the first layer to differ, {axes} = {report.actual.shape}, "
        "against what the reference's layer makes of the same input.</p>"
        f'<div class="halves"><div>{heat_map(report.actual, report.expected)}</div>'
        "<div><figure><figcaption>Values <span>all images</span></figcaption>"
        '<p class="legend"><span><i class="reference"></i>reference</span><span><i class="candidate"></i>candidate</span></p>'
        f"{histograms(report.actual, report.expected)}</figure>{_moments(report.actual, report.expected)}</div></div></section>\n"
    )


def _moments(actual: np.ndarray, expected: np.ndarray) -> str:
    """A table of what a histogram does not show."""
    rows = []
    finite = [x[np.isfinite(x)] for x in (actual, expected)]
    for name, moment in (("least", np.min), ("largest", np.max), ("mean", np.mean), ("std", np.std)):
        with np.errstate(all="ignore"):
            rows.append((name, [f"{moment(x):.6g}" if x.size else "–" for x in finite]))
    rows.append(("NaN or ∞", [f"{x.size - some.size:,}" for x, some in zip((actual, expected), finite, strict=True)]))
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>' for name, values in rows
    )
    head = '<tr><th scope="col">of all images</th><th scope="col">candidate</th><th scope="col">reference</th></tr>'
    return f'<div class="box"><table class="moments"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _layers(report: Report) -> str:
    wrong = {row.layer for row in report.diverging}
    head = "".join(
        f'<th scope="col"{" class=n" * (name in SERIES)}>{name}</th>'
        for name in ("layer", "verdict", "propagated", "isolated", "candidate’s module", "layout", "shape", "worst element")
    )
    only = (
        '<input type="checkbox" id="only"><label for="only">only layers that differ</label>'
        if wrong and len(report.rows) > 12
        else ""
    )
    body = "\n".join(_layer(row, report, row.layer in wrong) for row in report.rows)
    return (
        '<section aria-labelledby="layers"><h2 id="layers">All layers</h2>'
        f"<p>Errors in eps of {report.dtype}; {report.tolerance:g} are allowed.</p>{_left_out(report)}{only}"
        '<div class="box" tabindex="0" role="region" aria-labelledby="layers"><table class="layers">'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div></section>\n"
    )


def _layer(row: Row, report: Report, wrong: bool) -> str:
    inherited = row.propagated is not None and not row.propagated.error <= report.tolerance
    kind, verdict = ("wrong", "✗ differs") if wrong else ("inherited", "inherited") if inherited else ("right", "✓ agrees")
    if row.another_value:
        kind, verdict = "inherited", "another value"
    over = ["" if c is None or c.error <= report.tolerance else " over" for c in (row.propagated, row.isolated)]
    numbers = ["–" if c is None else number(c.error, 3) for c in (row.propagated, row.isolated)]
    errors = "".join(f'<td class="n{mark}">{error}</td>' for mark, error in zip(over, numbers, strict=True))
    worst = "–" if row.own.error == 0 else str(row.own.index)
    if wrong:
        worst += f" <small>{number(row.own.actual)} instead of {number(row.own.expected)}</small>"
    return (
        f'<tr class="{kind}"><th scope="row">{code(row.layer)}</th><td class="v">{verdict}</td>{errors}'
        f"<td>{code(row.module)}</td><td>{said(row.layout)}</td><td>{row.shape}</td><td>{worst}</td></tr>"
    )


def _measured(report: Report) -> str:
    facts = [("Candidate", said(report.kind)), ("Images", str(report.rows[0].shape[0])), ("Mode", said(report.mode))]
    facts += [(kind.capitalize(), MEASURED[kind]) for kind in shown(report)]
    facts += [
        ("Reference", "in float64"),
        ("dtype", f"{report.dtype}, eps = 2<sup>{round(math.log2(EPS[report.dtype])):d}</sup>".replace("-", "−")),
        ("Allowed", f"‖Δ‖ / ‖reference‖ ≤ {report.tolerance:g} eps, for each layer"),
        ("Would pass", f"with {eps_said(report.needed)}" if math.isfinite(report.needed) else "with no tolerance"),
    ]
    facts += [(f"Time, {name}", f"{seconds:.2g} s") for name, seconds in report.seconds.items()]
    listed = "".join(f"<div><dt>{said(name)}</dt><dd>{value}</dd></div>" for name, value in facts)
    settings = "".join(f"<div><dt>{code(name)}</dt><dd>{said(value)}</dd></div>" for name, value in asdict(report.config).items())
    return (
        f'<section aria-labelledby="measured"><h2 id="measured">How it was measured</h2><dl class="facts">{listed}</dl>'
        f'<details><summary>The network’s settings</summary><dl class="facts">{settings}</dl></details></section>\n'
    )

"""What is wrong where a candidate differs: the known mistakes first, then, inside the first layer of each kind, reasoning.

A mistake counts only if it explains the layer that it is said of. One in the wiring must hold for every layer that it touches: it
may leave none of them wrong, and break none that is right.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

import numpy as np

from scalablevit_ref.compare.capture.alignment import CanonicalTaps
from typing import Any as Followed
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.mistakes.search import Finding, diagnose
from scalablevit_ref.compare.report import Report, Row, fewest_causes
from scalablevit_ref.edits import Mistake
from scalablevit_ref.testing.arrays import EPS, relative_l2

SEARCH_SECONDS = 60
"""Time in seconds, of a whole comparison, in which every mistake is tried; layers after it are only held against those found."""


def diagnosed(report: Report, local: Local, taps: CanonicalTaps, module: Followed | None) -> Report:
    """The report with the mistakes that explain the layers that differ, and for other layers what comes nearest."""
    explained: dict[str, list[Finding]] = {}
    nearest: list[Finding] = []
    end = time.monotonic() + SEARCH_SECONDS
    known: dict[Mistake, None] = {}
    for row in report.diverging:
        actual = taps.wide(row.layer)
        if not np.isfinite(actual).all():
            continue
        findings = diagnose(
            local, row.layer, actual, dtype=report.dtype, tolerance=report.tolerance, known=known, search=time.monotonic() < end
        )
        if findings and findings[0].explains:
            explained[row.layer] = findings
            known |= {finding.mistake: None for finding in findings}
        else:
            nearest += findings
    first = report.diverging[0].layer
    explained, partly = Holding(report, local, taps, known).everywhere(explained)
    return replace(
        report,
        causes=fewest_causes(explained),
        nearest=tuple(nearest),
        notes=(*report.notes, *partly),
        actual=taps.wide(first),
        expected=local.output(first),
    )


class Holding:
    """Whether a mistake in the wiring holds for every layer that it touches."""

    def __init__(self, report: Report, local: Local, taps: CanonicalTaps, known: Iterable[Mistake]) -> None:
        """`known` are mistakes that may be there at once."""
        self.report, self.local, self.taps, self.known = report, local, taps, tuple(known)
        self._counts: dict[Mistake, tuple[int, int]] = {}

    def everywhere(self, explained: Mapping[str, list[Finding]]) -> tuple[dict[str, list[Finding]], tuple[str, ...]]:
        """The findings that hold, by layer; and in words those that explain some layers only, where nothing else explains these."""
        kept, partly = dict[str, list[Finding]](), dict[str, None]()
        for layer, findings in explained.items():
            whole = [finding for finding in findings if self._holds(finding.mistake)]
            if whole:
                kept[layer] = whole
                continue
            matched, touched = self._counted(findings[0].mistake)
            partly[
                f"{layer} would match if {findings[0].mistake.words}, which explains {matched} of the {touched} layers "
                f"that it touches; {touched - matched} are not explained"
            ] = None
        return kept, tuple(partly)

    def _holds(self, mistake: Mistake) -> bool:
        if mistake.wiring is None:
            return True
        matched, touched = self._counted(mistake)
        return matched == touched

    def _counted(self, mistake: Mistake) -> tuple[int, int]:
        """How many layers the wiring explains of those that it connects otherwise."""
        if mistake not in self._counts:
            right, other = self.local.table(), self.local.table(mistake.wiring)
            rows = [row for row in self.report.rows if not row.another_value and right.get(row.layer) != other.get(row.layer)]
            self._counts[mistake] = sum(self._matches(row, mistake) for row in rows), len(rows)
        return self._counts[mistake]

    def _matches(self, row: Row, mistake: Mistake) -> bool:
        """With the mistake alone, or with another one that is known beside it."""
        both = (mistake & other for other in self.known if other != mistake and not mistake.excludes(other))
        return any(self._error(row, some) <= self.report.tolerance for some in chain([mistake], both))

    def _error(self, row: Row, mistake: Mistake) -> float:
        actual = self.taps.wide(row.layer)
        try:
            with np.errstate(all="ignore"):
                changed = self.local.output(row.layer, mistake)
        except (KeyError, ValueError):  # the wiring has no such layer, or its sources do not fit each other
            return float("inf")
        return relative_l2(actual, changed) / EPS[self.report.dtype] if changed.shape == actual.shape else float("inf")

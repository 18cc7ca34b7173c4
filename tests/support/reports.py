"""Reports that are made up, and their page read back."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref.compare.inside import Inside, StepRow
from scalablevit_ref.compare.mistakes.search import Finding
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.report import Cause, LeftOut, Report, Row
from scalablevit_ref.compare.sample import sampled
from scalablevit_ref.edits import Mistake
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing.arrays import Comparison

DIGITS = sv.variant("digits")
NAN = float("nan")
VOID = {"meta", "link", "input", "img", "br"}


def comparison(error: float) -> Comparison:
    return Comparison(error, "float64", (0, 1), NAN if math.isnan(error) else 1.5, 1.25)


def made(
    config: Any = DIGITS, errors: Callable[[int], tuple[float | None, float | None]] = lambda i: (2.0, 1.0), **more: Any
) -> Report:
    """A report of all layers; `errors` gives the propagated and the isolated error of the i-th."""
    size = 112 if config is DIGITS else 224
    shapes = network_of(config).layer_shapes((2, config.in_chans, size, size))
    rows = []
    for i, name in enumerate(network_of(config).layers()):
        propagated, isolated = (None if error is None else comparison(error) for error in errors(i))
        rows.append(Row(name, f"net.{name}", "b h w c", shapes[name], propagated, isolated))
    return Report("torch module", config, "both", "float64", 32, tuple(rows), **more)


def differing(config: Any = DIGITS, at: int = 9, **more: Any) -> Report:
    """The layer numbered `at` goes wrong, and those after it inherit that."""
    report = made(config, lambda i: (1e12 if i >= at else 2.0, 1e12 if i == at else 0.0 if i % 5 == 0 else 0.8))
    expected = np.random.default_rng(0).standard_normal(report.rows[at].shape)
    actual = expected + 1e-4 * np.sin(np.arange(expected.size)).reshape(expected.shape)
    causes = (Cause("GELU is the tanh approximation", (report.rows[at].layer,), 0.5, ("GELU is a sigmoid",)),)
    return replace(report, **({"causes": causes, "actual": actual, "expected": expected} | more))


DRAWN: dict[str, tuple[str, dict[str, Any]]] = {
    "places": ("places", {"pattern": "rolled", "images": [0, 1], "rows": [13, *range(13)], "columns": [*range(14)]}),
    "relayout": (
        "places",
        {"written": "b h w heads d", "read": "b h w d heads", "sizes": {"b": 2, "h": 14, "w": 14, "heads": 2, "d": 16}},
    ),
    "shift": ("places", {"axis": "rows", "by": 2, "filling": "zeros"}),
    "affine": ("affine", {"factor": 1.3, "shift": -0.11}),
    "constant": ("affine", {"factor": 0.0, "shift": 2.0}),
    "channels": ("channels", {"axis": "channel", "factors": [1.0, 0.5, 2.0, NAN], "shifts": [0.0] * 4}),
    "function": ("elementwise", {"function": "Mish", "of": "what fc1 gives", "x": [-1.0, 0.0, 2.0], "y": [-0.3, 0.0, 1.9]}),
    "mixture": ("mixture", {"sum": {"x before the block": 0.5}, "reference": {"x before the block": 1.0, "the MLP's output": 1.0}}),
    "border": ("border", {"sides": ["top"], "depth": 1, "tokens": 14}),
    "some heads": ("some heads", {"axis": "head", "which": [1]}),
    "linear map": ("linear map", {"of": "the input", "matrix": [[2.0, 0.0], [0.0, -1.0]], "shift": [0.0, 0.0]}),
    "norm": ("norm", {"epsilon": 1e-5}),
}
"""Kinds of difference with the data of one, by what is drawn of them."""


def looked_into(drawn: str = "affine", *, exact: bool = True, broken: bool = False) -> Report:
    """A report whose first wrong layer was looked into."""
    kind, data = DRAWN[drawn]
    report = differing(causes=())
    layer = report.first.layer if report.first else ""
    rng = np.random.default_rng(1)
    expected = rng.standard_normal((2, 14, 14, 32))
    actual = 1.3 * expected - 0.11
    if broken:
        actual[0, 3, 4, 5], actual[1, 2] = NAN, math.inf
    right, wrong = comparison(0.5), comparison(NAN if broken else 1e12)
    rows = (
        StepRow(f"{layer}.qkv", right, right, "right"),
        StepRow(f"{layer}.attention", None, None, "it is wrong"),
        StepRow(f"{layer}.lim_func", None, None, "not followed"),
        StepRow(f"{layer}.proj", wrong, right, "its input is wrong"),
    )
    difference = Difference(kind, "the reference's value times 1.3", 1e-16 if exact else 0.2, data, exact)
    seen = Inside(
        layer,
        rows,
        "qkv is right; what enters proj is not",
        "port.py, line 62, in forward",
        (difference,),
        ("port.py, line 61, in forward", "port.py, line 62, in forward"),
        f"{layer}.proj",
        ("the right value is computed",),
        sampled(actual, expected),
    )
    cause = Cause(difference.words, (layer,), 0.5, ("the sign is reversed",), seen.place, seen.line, kind, ("stages.1.0.attn",))
    return replace(report, causes=(cause,) * exact, insides=(seen,))


class Page(HTMLParser):
    """Checks that every element is closed in order; collects elements, the tables' cells and the text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def pictures(self) -> list[np.ndarray]:
        """The data URIs' pixels."""
        found = [attrs["src"] or "" for tag, attrs in self.elements if tag == "img"]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(src.removeprefix("data:image/png;base64,"))))) for src in found]


KEYS = {("Row", "layer"), ("Report", "dtype"), ("Comparison", "dtype"), ("StepRow", "words"), ("Difference", "kind")}
"""Fields that are keys of this package's own tables and never hold a user's words."""


def full_of(text: str, *, agrees: bool = False) -> Report:
    """A report in which every field that holds words holds these."""
    finding = Finding(text, Mistake(text, text), 1e12, 1e5, False)
    report = dataclasses.replace(
        differing(),
        notes=(text, text),
        left_out=(LeftOut(text, (text, text)),),
        causes=(Cause(text, (text, text), 1.0, (text,)),),
        nearest=(finding,),
        insides=looked_into().insides,
        own_weights=(text,),
        seconds={text: 0.5},
        tolerance=1e20 if agrees else 32.0,
    )
    return worded(report, text)


def worded(value: Any, text: str) -> Any:
    """The same dataclass with these words in place of all others, those of the network's settings kept."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return tuple(worded(x, text) for x in value) if isinstance(value, tuple) else value
    new = {}
    for field in dataclasses.fields(value):
        old, place = getattr(value, field.name), (type(value).__name__, field.name)
        if field.name == "config" or place in KEYS or type(value) is Mistake:
            continue
        new[field.name] = text if isinstance(old, str) else worded(old, text)
    return dataclasses.replace(value, **new)

"""The page of the corpus, made from its document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

INTRODUCTION = """# What the comparator says of ports that it has never seen

Ports of the network in several styles, and the mistakes in them, were written by people who did not know how the comparator works,
after it was designed. `python -m tests.programs.corpus --write` compares every one of them with the reference and writes this page
from what was said: nothing in it is entered by hand. What a first run showed was then mended in the comparator, so that the first
runs of the four ports that were written last tell most of what to expect of the next one:

| port, at its first run | mistakes | right layer | cause in the author's words | cause or step | false causes | right ports agree |
|---|---|---|---|---|---|---|
| `torch_swin` | 40 | 40 | 34 | – | 6 | 8 of 8 |
| `torch_hf` | 69 | 66, 3 refused | 54 | 63 | 5 | 16 of 16 |
| `torch_research` | 64 | 41, 3 refused | 36 | 44 | 54 | 1 of 16 |
| `jax_pure` | 126 | 124 | 114 | 122 | 13 | 33 of 33 |

`torch_research` writes its weights into einsum with the map on the left, which was read as a transposed weight: one fault of the
comparator, in the three last columns and in the layers of the mistakes behind it. One mistake of `jax_pure`, statistics in
float32, was called right, as it is in float32, in which it was compared. What was false were mostly true statements of what ran.

A *layer* counts if the first layer that is named as wrong is one that its author accepts. A *cause* counts if what is said fits the
words that its author accepts, or words that stand in `tests/programs/corpus/read.py`: where a text does not fit the author's, it
was read beside the mistake, and if it is right an expression for it was added there; the table counts these apart. A cause is
*false* if it is asserted and fits neither. *Right ports* are the ports themselves, written in other ways that compute the same.
"""

COUNTS = {
    "mistakes": "mistakes",
    "layer": "right layer named",
    "cause": "cause told",
    "causes read": "of these, a cause that fits words that were added after it was read",
    "cause or step": "cause, or the step inside the right layer and its kind of difference",
    "false causes": "ports with a false cause",
    "refused": "wrong ports refused, in words",
    "wrong ports called right": "wrong ports called right",
    "right ports": "right ports",
    "right ports not called right": "right ports not called right",
}


def page(document: Mapping[str, Any]) -> str:
    """Markdown."""
    return "\n".join(_parts(document)) + "\n"


def _parts(document: Mapping[str, Any]) -> Iterator[str]:
    rows: list[dict[str, Any]] = document["rows"]
    yield INTRODUCTION
    ports = list(dict.fromkeys(row["port"] for row in rows))
    yield _table(
        ["", "all", *(f"`{port}`" for port in ports)],
        [
            [words, str(document["summary"][key]), *(str(document["by_port"][port][key]) for port in ports)]
            for key, words in COUNTS.items()
        ],
    )
    yield f"\nThe median of the time that one comparison takes is {document['summary']['median seconds']:.1f} s.\n"
    for port in ports:
        mine = [row for row in rows if row["port"] == port]
        yield f"## {port}\n"
        yield _table(
            ["mistake", "first wrong layer", "right", "what is said of it", "right"],
            [
                [
                    row["name"],
                    f"`{row['first']}`" if row.get("first") else "–",
                    _mark(row.get("layer")),
                    _short(row),
                    _mark(row.get("cause")),
                ]
                for row in mine
                if row.get("planted", True)
            ],
        )
        right = [row for row in mine if not row.get("planted", True)]
        yield f"\nRight ports: {', '.join(_right(row) for row in right)}.\n"


def _right(row: Mapping[str, Any]) -> str:
    name = row["name"].removeprefix("right: ")
    return name if row["verdict"] == "agrees" else f"**{name} ({row['verdict']})**"


def _mark(right: object) -> str:
    return "yes" if right else "**no**"


def _short(row: Mapping[str, Any]) -> str:
    """What is said of the first layer, without its numbers."""
    lines = row.get("said", "").split("\n")
    told = lines[2:5] if row["verdict"] == "differs" else lines[:1]
    return " ".join(line.strip() for line in told).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")[:300]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))

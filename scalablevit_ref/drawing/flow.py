"""A data flow: steps, and edges between them that bear shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

from scalablevit_ref.drawing.diagram import Hue, plain


@dataclass(frozen=True, eq=False)
class Step:
    """What happens in one place: a name in bold, what it does, and a box in its hue; without a hue there is no box.

    row, first, last: where it stands; it spans the columns from the first to the last.
    wide: as wide as its columns, so that it meets the edges of all of them.
    total: a sum, drawn as a plus in a circle.
    grid: rows and columns of the windows or tiles into which it cuts the map, shown as a small map at its left.
    """

    row: int
    first: int
    last: int
    name: str
    does: tuple[str, ...] = ()
    hue: Hue | None = None
    wide: bool = False
    total: bool = False
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Edge:
    """From one step to another, with the tensor's shape in figures at its right and in symbols at its left.

    at: the column in whose middle it runs, where both ends are wider than that.
    skip: past the steps between them, at their left; it forks off from the source's other edge.
    """

    source: Step
    target: Step
    figures: str = ""
    symbols: str = ""
    at: int | None = None
    skip: bool = False


@dataclass
class Flow:
    """Steps and edges, in the order in which a reader follows them."""

    columns: int = 1
    steps: list[Step] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def step(
        self,
        row: int,
        name: str = "",
        *does: str,
        span: tuple[int, int] = (0, 0),
        hue: Hue | None = None,
        wide: bool = False,
        total: bool = False,
        grid: tuple[int, int] | None = None,
    ) -> Step:
        """Add a step; `span` are its first and its last column."""
        self.steps.append(Step(row, *span, name, does, hue, wide, total, grid))
        return self.steps[-1]

    def edge(
        self, source: Step, target: Step, figures: str = "", symbols: str = "", *, at: int | None = None, skip: bool = False
    ) -> None:
        self.edges.append(Edge(source, target, figures, symbols, at, skip))

    def told(self) -> str:
        """The flow in sentences, for the alternative text."""
        sentences = []
        for step in self.steps:
            out = [edge for edge in self.edges if edge.source is step]
            if out:
                shapes = [edge.figures for edge in out if edge.figures]
                names = [_said(edge.target) for edge in out]
                sentences.append(f"{_said(step, full=True)} gives {' and '.join(shapes)} to {' and '.join(names)}.")
        return " ".join(sentences)


def _said(step: Step, *, full: bool = False) -> str:
    """A step's name without mathematics, and in full what it does."""
    if step.total:
        return "the sum"
    name, *rest = (plain(words).rstrip(",") for words in filter(None, (step.name, *step.does)))
    return f"{name} ({', '.join(rest)})" if full and rest else name

"""The house's docstrings as Markdown: `name: what it is` becomes an entry of a list, an example at the prompt a block of code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension, Object

FIELD = re.compile(r"^((?:[a-z_][a-z0-9_.]*)(?:, [a-z_][a-z0-9_.]*)*): (.*)$")


class HouseDocstrings(Extension):
    """Before any object is shown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite its docstring."""
        if obj.docstring:
            obj.docstring = Docstring(markdown(obj.docstring.value), parent=obj)


def markdown(text: str) -> str:
    """A docstring of this house as Markdown.

    >>> print(markdown("Sum.\\n\\nx: b h w c.\\n    Any dtype."))
    Sum.
    <BLANKLINE>
    - `x`: b h w c.
        Any dtype.
    <BLANKLINE>
    """
    lines: list[str] = []
    kind = ""
    for line in text.splitlines():
        field = FIELD.match(line)
        now = "prompt" if line.startswith(">>>") or (kind == "prompt" and line.strip()) else "field" if field else ""
        if kind == "field" and (not line.strip() or line.startswith("    ")):
            now = "field" if line.strip() else ""
        if now != kind:
            lines += ["```"] if kind == "prompt" else []
            lines += [""] if lines and lines[-1] else []
            lines += ["```pycon"] if now == "prompt" else []
        lines.append(_entry(field) if field and now == "field" else line)
        kind = now
    return "\n".join([*lines, *(["```"] if kind == "prompt" else [""])])


def _entry(field: re.Match[str]) -> str:
    return f"- {', '.join(f'`{name}`' for name in field[1].split(', '))}: {field[2]}"

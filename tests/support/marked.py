"""Parts of a page that a program writes: what stands between `<!-- MARK -->` and `<!-- end -->`."""

from __future__ import annotations

from collections.abc import Iterable


def with_marked(page: str, mark: str, lines: Iterable[str]) -> str:
    """The page with these lines there. Raises ValueError for a page without the mark."""
    before, start, rest = page.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not start or not end:
        raise ValueError(f"the page has no part <!-- {mark} --> … <!-- end -->")
    return "".join([before, start, *(f"{line}\n" for line in lines), end, after])


def marked(page: str, mark: str) -> list[str]:
    """The lines that are there."""
    _, start, rest = page.partition(f"<!-- {mark} -->\n")
    inner, end, _ = rest.partition("<!-- end -->")
    if not start or not end:
        raise ValueError(f"the page has no part <!-- {mark} --> … <!-- end -->")
    return inner.splitlines()

"""The frame of the pages that are one HTML file: nothing is fetched, light and dark, for screens of any width."""

from __future__ import annotations

from scalablevit_ref.drawing.remade import MARK
from scalablevit_ref.drawing.style import THEMES


def document(title: str, style_sheet: str, body: str, *, scripts: bool = False) -> str:
    """A whole page as text, to be written as UTF-8.

    Parameters
    ----------
    title
        As HTML; it is the first heading too.
    style_sheet
        CSS that takes its colours from `Theme.css`.
    body
        HTML below the heading, with line breaks.
    scripts
        Whether those inside of the body may run.
    """
    light, dark = (f":root {{ {THEMES[theme].css()} }}" for theme in ("light", "dark"))
    style = f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{style_sheet}"
    sources = ["default-src 'none'", "style-src 'unsafe-inline'", *["script-src 'unsafe-inline'"] * scripts, "img-src data:"]
    policy = "; ".join(sources)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="{MARK}">\n'
        f'<link rel="icon" href="data:,">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n'
        f"<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )

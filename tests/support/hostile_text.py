"""Text that files and ports may hold and that no writer may take for anything but text: one alphabet for all of them."""

from __future__ import annotations

from hypothesis import strategies as st

CONTROLS = [chr(n) for n in (*range(0x20), *range(0x7F, 0xA0))]
"""C0, DEL and C1."""

TURNING = [*map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))]
"""What turns the direction of writing."""

BREAKS = ["\u2028", "\u2029", "\u0085", "\ufeff", "\u200b", "\U000e0041"]

HALVES = ["\ud800", "\udfff", "\udcff", "\udc80"]
"""Halves of surrogate pairs; the last two are what Python makes of bytes of a file's name that are not UTF-8."""

NO_CHARACTERS = ["\ufffe", "\uffff", "\ufdd0", "\U0001fffe", "\U0010ffff"]

SYNTAX = [
    *("[red]", "[/]", "[link=file:///]x[/link]", "[bold", "\\[", "\\"),  # rich
    *("<script>window.pwned = 1</script>", "</script>", "</title></svg></style>", "<img src=x onerror=window.pwned=1>"),
    *("&", "&lt;", "&#0;", "]]>", "<![CDATA[", "--", "-->", "<!--", "<?xml?>", '"', "'", "`", "><"),  # HTML, SVG, XML
    *("$x$", "$", r"\$", r"$\frac{$", "^{", "_"),  # matplotlib's mathematics
    *("\x1b[2J", "\x1b]0;pwned\x07", "\x9b31m", "\r\n", "%s", "{k}"),  # terminals, formats
]

PIECES = [*CONTROLS, *TURNING, *BREAKS, *HALVES, *NO_CHARACTERS, *SYNTAX, "a", "é", "文", "😀", " ", "\u0301"]

hostile_text = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join)
"""A few of them after each other."""

EVERYTHING = "".join(PIECES)
"""All of them, for what is too slow to be drawn often."""

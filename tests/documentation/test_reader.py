"""The reader of the documentation finds what is not as it is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import Page
from tests.support.reader import Reader, matches

FINE = """
# A page

```python title="port.py"
import sys
sys.exit(1)
```

=== "a tab"

    ```python
    x = 2
    ```

```{.python}
print(x)
print(3)
```

```text
2
3
```

```sh
python port.py  # exit code 1
! scalablevit-ref summary smal
scalablevit-ref summary digits --json > facts.json
echo a \\
  b > said.txt
# a comment
cat said.txt | tr a-z A-Z
```

```text
scalablevit-ref: unknown … 'smal'…
A B
```

```json title="names.json"
{"a": "b"}
```

```toml title="pyproject.toml"
[build-system]
…
build-backend = "setuptools.build_meta"
```
"""


def written(text: str, folder: Path) -> Page:
    (folder / "page.md").write_text(text, encoding="utf-8")
    return Page(str(folder / "page.md"))


def test_a_page_that_is_true(tmp_path: Path, as_reader: Callable[[Page], Reader]) -> None:
    as_reader(written(FINE, tmp_path)).follow()
    assert Path("facts.json").stat().st_size > 1000
    assert Path("names.json").read_text() == '{"a": "b"}\n'


@pytest.mark.parametrize(
    ("true", "false", "message"),
    [
        ("print(3)", "print(4)", r"page.md:15 printed\n2\n4\n--- instead of\n2\n3"),
        ("x = 2", "x = y", "name 'y' is not defined"),
        ("x = 2", "import warnings; warnings.warn('old')", "old"),
        ("sys.exit(1)", "sys.exit(2)", "page.md:25: python port.py  # exit code 1: exit code 2"),
        ("  # exit code 1", "", "port.py: exit code 1"),
        ("! scalablevit-ref", "scalablevit-ref", "summary smal: exit code 2"),
        ("summary smal", "summary small", "summary small: exit code 0"),
        ("! scalablevit-ref summary smal", "! sh -c 'exit 2'", "not refused with one line"),
        ("--json >", "--jsn >", "No such option"),
        ("'smal'…", "'sma'…", "printed\n"),
        ("# a comment", "cd ..", "the next command would not know of it"),
        ('{"a": "b"}', "{a: b}", "Expecting property name"),
        ('"setuptools.build_meta"', '"hatchling"', "pyproject.toml is not so"),
        ("…\nbuild", "build", "pyproject.toml is not so"),
        ("```json", "```jsonc", "nothing prints or checks this block of 'jsonc'"),
        ("```json title", "```text title", "nothing prints or checks this block of 'text'"),
        ("```sh", "Words.\n\n```text\n2\n```\n\n```sh", "nothing prints or checks this block of 'text'"),
        ('build_meta"\n```', 'build_meta"', "page.md:44: the block does not end"),
        ('```toml title="pyproject.toml"', '```py title="x"', "nothing prints or checks this block of 'py'"),
        ('[build-system]\n…\nbuild-backend = "setuptools.build_meta"', "--8<-- file: absent.py", "absent.py is not there"),
    ],
)
def test_a_page_that_is_not(true: str, false: str, message: str, tmp_path: Path, as_reader: Any) -> None:
    assert true in FINE
    with pytest.raises((AssertionError, NameError, UserWarning, ValueError), match=message):
        as_reader(written(FINE.replace(true, false, 1), tmp_path)).follow()


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a  \nb\n\n", "a\nb", True),
        ("  a", "a", False),
        ("a 1.5 b", "a … b", True),
        ("a 1\n2 b", "a … b", False),
        ("a\nb\nc\nd", "a\n…\nd", True),
        ("a\nd", "a\n…\nd", False),
        ("a\nb", "a", False),
        ("a\nb", "b", False),
        ("a.c", "abc", False),
        ("abc", "a.c", False),
        ("a\n\nb", "a\n…\nb", True),
    ],
)
def test_what_dots_stand_for(printed: str, shown: str, same: bool) -> None:
    assert matches(printed, shown) is same

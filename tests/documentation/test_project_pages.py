"""The pages about the project say what the code and the project's files say: limits, tolerances, the citation, the hooks."""

from __future__ import annotations

import pickletools
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import scalablevit_ref as sv
from scalablevit_ref import images
from scalablevit_ref.config import VARIANTS
from scalablevit_ref.cost import PUBLISHED
from scalablevit_ref.formats import unpickle
from scalablevit_ref.formats.zip_archive import _SMALL_RECORD, _SMALL_TOGETHER
from scalablevit_ref.testing.arrays import MAX_TOLERANCE, NETWORK_TOLERANCE
from tests.programs.official import BACKBONE, MARK
from tests.support.bombs_beside import HARMLESS_FILES
from tests.support.bombs_in_memory import MEMORY_BOMBS
from tests.support.conformance import NETWORKS
from tests.support.guarded import MEGABYTES
from tests.support.hostile_files import HOSTILE_FILES
from tests.support.hostile_folders import HOSTILE_FOLDERS
from tests.support.hostile_inputs import HOSTILE, count
from tests.support.marked import marked
from tests.support.recipe import TOLERANCE

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
LIMITS = re.findall(r"^\| .* \| ([\d,]+) \| `([\w.]+)\.(\w+)` \|$", PAGE, re.MULTILINE)


def said(pattern: str, page: str = PAGE) -> list[int]:
    """The whole numbers that a page gives in this sentence."""
    found = re.search(pattern, page)
    assert found, pattern
    return [int(number.replace(",", "")) for number in found.groups()]


@pytest.mark.parametrize(("number", "module", "name"), LIMITS, ids=lambda value: value)
def test_a_limit(number: str, module: str, name: str) -> None:
    assert f"{getattr(import_module(f'scalablevit_ref.{module}'), name):,}" == number


def test_the_table_has_every_limit_that_is_named_so() -> None:
    """The constants of the readers that are called most or longest, but for what concerns writing, or one line of a parser."""
    readers = (
        "zip_archive",
        "msgpack",
        "npz",
        "safetensors",
        "lazy",
        "unpickle",
        "rebuild",
        "sharded",
        "folders",
        "foreign",
        "onnx",
        "hdf5",
        "keras",
    )
    modules = [
        *(f"formats.{reader}" for reader in readers),
        *(f"checkpoints.{part}" for part in ("recognise", "tree", "notes", "hub")),
    ]
    found = {
        (module, name)
        for module in modules
        for name in re.findall(r"^(_?(?:MOST|LONGEST)(?:_\w+)?) = ", source_of(module), re.MULTILINE)
    }
    left_out = {
        "MOST_ARRAY",
        "_LONGEST_COMMENT",
        "_LONGEST_HEADER",
        "_LONGEST_NAMED",
        "_LONGEST_NOTE",
        "_LONGEST_TEXT",
        "_LONGEST_WORD",
        "_LONGEST_DTYPE",
    }
    assert {name for _, name in found} >= left_out
    assert {(module, name) for module, name in found if name not in left_out} <= {(module, name) for _, module, name in LIMITS}
    assert (_SMALL_RECORD, _SMALL_TOGETHER) == (1 << 20, 32 << 20)


def test_other_numbers() -> None:
    assert said(r"(\d+) of the (\d+) that exist are known here") == [len(unpickle.OPCODES) + len("."), len(pickletools.opcodes)]
    assert said(r"(\d+) broken and hostile files") == [len(HOSTILE_FILES)]
    assert said(r"(\d+) broken and hostile weight files", (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")) == [
        len(HOSTILE_FILES)
    ]
    assert said(r"(\d+) files with sound weights and something hostile beside them") == [len(HARMLESS_FILES)]
    assert said(r"So are (\d+) folders and indexes of shards") == [len(HOSTILE_FOLDERS)]
    assert said(r"(\d+) hostile inputs altogether") == [count()]
    sizes = {kind: len(makes) for kind, (_, makes) in HOSTILE.items()} | {"mappings in memory": len(MEMORY_BOMBS)}
    told = {
        kind: number
        for number, kind in re.findall(r"\| (\d+) \| ([^|]+) \|", PAGE.partition("## How it is tested")[2].partition("\n- ")[0])
    }
    assert {kind: int(number) for kind, number in told.items()} == sizes | {"files with sound weights": len(HARMLESS_FILES)}
    assert said(r"with (\d+) MB of address space") == [MEGABYTES]
    assert said(r"whose decoding would hold more than (\d+) MB") == [images.MOST_DECODED // 10**6]


def source_of(module: str) -> str:
    return (ROOT / "scalablevit_ref" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_is_that_of_the_cff_file() -> None:
    cff = read_yaml("CITATION.cff")
    bib = (ROOT / "docs" / "citation.bib").read_text(encoding="utf-8")
    paper, software = (
        {key: re.sub(r"[{}]", "", value) for key, value in re.findall(r"^  (\w+)\s+= \{(.*)\},?$", entry, re.MULTILINE)}
        for entry in bib.split("\n\n")
    )
    (reference,) = cff["references"]
    people = [f"{person['family-names']}, {person['given-names']}" for person in reference["authors"]]
    assert (paper["title"], paper["doi"], int(paper["year"])) == (reference["title"], reference["doi"], reference["year"])
    assert paper["author"].split(" and ") == people
    assert paper["booktitle"].replace("--", "–") == reference["collection-title"]
    assert paper["note"] == reference["identifiers"][0]["value"]
    assert (software["title"], software["author"]) == (cff["title"], cff["authors"][0]["name"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert software["version"] == cff["version"] == sv.__version__
    assert software["license"] == cff["license"] == project["license"]


def test_the_hooks_are_local() -> None:
    """They run what is installed, and fetch nothing."""
    repositories = read_yaml(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(hook["entry"].startswith("python -m ") for hook in hooks)
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    assert f"has {['no', 'one', 'two', 'three', 'four', 'five'][len(hooks)]} hooks" in page


def test_the_tolerances_of_the_rules() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    found = re.search(r"(\d+) eps for an op, (\d+) eps for the network, (1e-\d+) against the authors' figures", page)
    assert found
    assert [float(number) for number in found.groups()] == [MAX_TOLERANCE, NETWORK_TOLERANCE["float64"], TOLERANCE]


def test_the_changelog_has_the_version() -> None:
    """What `pyproject.toml` says is the newest heading, or is still to come and said so."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert f"version {sv.__version__}" in text if len(headings) == 1 else headings[1].startswith(f"{sv.__version__} - ")
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_what_is_held_to_the_authors_code() -> None:
    """Every case has its row, and every error is below what is claimed."""
    page = (ROOT / "docs" / "official.md").read_text(encoding="utf-8")
    rows = [line for line in marked(page, MARK) if line.startswith("| ")][2:]
    assert len(rows) == len(NETWORKS) + len(BACKBONE)
    errors = [float(found.replace("−", "-")) for row in rows for found in re.findall(r"\d\.\de−\d+", row)]
    assert len(errors) >= 3 * len(rows)
    assert max(errors) <= TOLERANCE
    assert f"a relative error of {TOLERANCE:g}." in page


def test_the_table_of_the_variants() -> None:
    """On the first page: what the configurations say, and what is counted."""
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): row[1:] for row in rows if len(row) == 8}
    assert set(told) == set(VARIANTS) - {"digits"}
    for name, cells in told.items():
        config, counted = sv.variant(name), sv.cost(sv.variant(name), (224, 224))
        settings = (config.embed_dims, config.depths, config.num_heads, config.c_ratios)
        published = str(PUBLISHED[name].top1) if name in PUBLISHED else ""
        assert cells == [
            *(", ".join(f"{value:g}" for value in values) for values in settings),
            f"{counted.parameters:,}",
            f"{counted.multiply_adds / 1e9:.3f} G",
            published,
        ]

"""The one direction of imports, read from every module's source and from the tests', and what keeps the specification readable."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "scalablevit_ref"

LEVELS: tuple[frozenset[str], ...] = tuple(
    frozenset(level.split())
    for level in (
        "_moved _start _typing _version edits errors",
        "arguments",
        "config files",
        "backends image_sizes parameters",
        "ops checks formats",
        "operation_checks",
        "attention cost images",
        "blocks",
        "network",
        "layers",
        "networks",
        "run_cost",
        "weights",
        "dialects",
        "checkpoints",
        "__init__",
        "digits",
        "adapters testing",
        "drawing evaluation portable",
        "compare",
        "benchmark",
        "certify",
        "cli",
        "__main__",
    )
)
"""The parts of the package from the bottom to the top; a part imports from the levels below its own."""

EXAMPLES = re.compile(r'\n *\n *Examples\n *-{8}\n(?:(?! *""").*\n)*')
"""A docstring's examples, which are the last of its sections."""

UPWARD = {
    ("backends/numpy.py", "ops"),
    ("backends/jax.py", "ops"),
    ("backends/cupy.py", "ops"),
    ("backends/mlx.py", "ops"),
    ("backends/tensorflow.py", "ops"),
    ("backends/paddle.py", "ops"),
    ("backends/tinygrad.py", "ops"),
    ("backends/flint.py", "ops"),
    ("testing/__init__.py", "compare"),
    ("testing/equivalence.py", "compare"),
}
"""Backends use definitions: they are loaded when an array first asks for them. `testing` is the public door to the comparator."""

SPECIFICATION = (
    *("config", "image_sizes", "parameters", "ops", "checks", "operation_checks"),
    *("attention", "blocks", "network", "cost"),
)

FRAMEWORKS = {
    "torch": (
        "backends/torch.py",
        "adapters/torch",
        "adapters/plain.py",
        "adapters/timm.py",
        "adapters/transformers",
        "compare/capture/torch",
        "digits/train.py",
        "portable/pt2.py",
    ),
    "jax": ("backends/jax.py", "adapters/flax", "compare/capture/flax", "compare/capture/jax", "portable/stablehlo.py"),
    "cupy": ("backends/cupy.py",),
    "mlx": ("backends/mlx.py", "adapters/mlx", "compare/capture/mlx"),
    "tensorflow": ("backends/tensorflow.py", "compare/capture/tensorflow"),
    "timm": ("adapters/timm.py",),
    "transformers": ("adapters/transformers",),
    "keras": ("adapters/keras", "compare/capture/keras"),
    "paddle": ("backends/paddle.py", "adapters/paddle.py", "compare/capture/paddle"),
    "tinygrad": ("backends/tinygrad.py", "compare/capture/tinygrad"),
    "flint": ("backends/flint.py", "backends/balls.py", "certify/"),
}
"""Where a framework may be imported with the module; everywhere else inside a function only."""


def sources() -> dict[str, ast.Module]:
    """Every module of the package by its path in it."""
    files = {path.relative_to(ROOT / PACKAGE).as_posix(): path for path in (ROOT / PACKAGE).rglob("*.py")}
    files |= {f"backends/{path.name}": path for path in (ROOT / "backends").glob("*.py")}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in sorted(files.items())}


SOURCES = sources()


def part_of(module: str) -> str:
    """The part of the package that `scalablevit_ref.ops` or `scalablevit_ref.cli.verify` names; a public name is of `__init__`."""
    part = module.split(".")[1] if "." in module else "__init__"
    return part if any(part in level for level in LEVELS) else "__init__"


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement or a call of `import_module` names, those of the package with what is taken from its root."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, f"line {node.lineno}: a relative import"  # noqa: PT018
        return [f"{PACKAGE}.{alias.name}" for alias in node.names] if node.module == PACKAGE else [node.module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "import_module":
        text = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        return [str(text.value)] if isinstance(text, ast.Constant) else []
    return []


def imports(tree: ast.AST, *, inside_functions: bool = True) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        yield from imported(node)
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, inside_functions=inside_functions)


def upward(name: str, tree: ast.AST) -> list[str]:
    """What a module imports from its own part's level or from above it, other than from its own part."""
    own = name.partition("/")[0].removesuffix(".py")
    level = {part: i for i, parts in enumerate(LEVELS) for part in parts}
    parts = {part_of(module) for module in imports(tree) if module.partition(".")[0] == PACKAGE}
    return sorted(part for part in parts - {own} if level[part] >= level[own] and (name, part) not in UPWARD)


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_down(name: str) -> None:
    assert upward(name, SOURCES[name]) == []


def test_every_part_has_its_level() -> None:
    parts = {name.partition("/")[0].removesuffix(".py") for name in SOURCES}
    assert parts == frozenset().union(*LEVELS)
    assert sum(map(len, LEVELS)) == len(parts)


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("ops.py", "from scalablevit_ref.blocks import peg", ["blocks"]),
        ("ops.py", "def f():\n    import scalablevit_ref.cli.verify", ["cli"]),
        ("network.py", "from scalablevit_ref import checkpoints, ops", ["checkpoints"]),
        ("network.py", "from scalablevit_ref import variant", ["__init__"]),
        ("checkpoints/npz.py", "import scalablevit_ref", ["__init__"]),
        ("testing/arrays.py", "from scalablevit_ref.adapters.onnx import load", ["adapters"]),
        ("backends/dispatch.py", "from scalablevit_ref import ops", ["ops"]),
        ("backends/numpy.py", "from scalablevit_ref import attention, ops", ["attention"]),
        ("config.py", "from importlib import import_module\nimport_module('scalablevit_ref.ops')", ["ops"]),
        ("backends/transfer.py", "import_module(f'scalablevit_ref.cli.{name}')", ["cli"]),
        ("cli/verify.py", "from scalablevit_ref import sv, ops, testing\nimport numpy", []),
    ],
)
def test_an_import_that_goes_up_is_seen(name: str, line: str, found: list[str]) -> None:
    assert upward(name, ast.parse(line)) == found


TESTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))}
SHARED = ("tests.support.", "tests.programs.", "tests.endurance.", "tests.gpu.")
IN_TEXT = re.compile(r"(?:from|import) +tests(?:\.\w+)*\.(?:test_\w+|conftest)")


def unshared(name: str, source: str) -> set[str]:
    """Imports by a module of the tests of what is not shared. Shared is `support`; for others than `support` the programs too."""
    found: set[str] = set(IN_TEXT.findall(source))  # also in programs that it runs as text
    shared = SHARED[:1] if name.startswith("tests/support/") else SHARED
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            taken = [f"{start}{alias.name}." for alias in node.names]
            found |= {ast.unparse(node) for module in taken if module.startswith("tests.") and not module.startswith(shared)}
    return found


@pytest.mark.parametrize("name", [name for name in TESTS if name.count("/") > 1 and not name.endswith("test_architecture.py")])
def test_what_tests_share_is_in_support(name: str) -> None:
    """No test module imports another, and what they share imports no test module and no program."""
    assert unshared(name, TESTS[name]) == set()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("checkpoints/test_pth.py", "from tests.checkpoints.test_files import bits"),
        ("checkpoints/test_pth.py", "from tests.checkpoints import test_files"),
        ("checkpoints/test_pth.py", "def f():\n    import tests.checkpoints.test_files"),
        ("properties/test_ssa.py", "from tests.conftest import Agree"),
        ("backends/test_numpy.py", "code = 'from tests.backends.test_numpy import f; f()'"),
        ("support/bombs.py", "from tests.programs.faults import FAULTS"),
        ("programs/proof/measure.py", "from tests.specification import test_ops"),
    ],
)
def test_an_import_of_what_is_not_shared_is_seen(name: str, line: str) -> None:
    assert unshared(f"tests/{name}", line)


DOOR = "adapters/onnx_runtime.py"


def names_onnx_runtime(tree: ast.AST) -> bool:
    return any(module.partition(".")[0] == "onnxruntime" for module in imports(tree))


def test_one_door_to_onnx_runtime() -> None:
    """Its telemetry is off only where the door has loaded it: a test that needs a part of it goes through the door first."""
    assert [name for name, tree in SOURCES.items() if names_onnx_runtime(tree)] == [DOOR]
    for name, source in TESTS.items():
        if names_onnx_runtime(tree := ast.parse(source)):
            for node in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and names_onnx_runtime(node)):
                assert ast.unparse(node.body[0]) == "onnx_runtime()", f"{name}: {node.name}"
            assert not any(names_onnx_runtime(node) for node in tree.body if not isinstance(node, ast.FunctionDef)), name


@pytest.mark.parametrize("part", SPECIFICATION)
def test_the_specification_needs_numpy_and_einops_and_no_file(part: str) -> None:
    tree = SOURCES[f"{part}.py"]
    libraries = {module.partition(".")[0] for module in imports(tree)} - {PACKAGE}
    assert libraries - set(sys.stdlib_module_names) <= {"numpy", "einops"}
    assert not libraries & {"os", "pathlib", "io", "json", "pickle", "subprocess", "threading"}
    assert not any(isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "print") for node in ast.walk(tree))


def test_a_format_knows_no_network() -> None:
    """Only its own folder, the arrays' libraries and the errors."""
    modules = {module for name, tree in SOURCES.items() if name.startswith("formats/") for module in imports(tree)}
    parts = {part_of(module) for module in modules if module.partition(".")[0] == PACKAGE}
    assert parts == {"formats", "files", "backends", "errors"}


def asks_which_network(tree: ast.AST) -> list[int]:
    """The lines that ask whether something is the configuration or the weights of one network."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance")
    return [
        node.lineno for node in calls if re.search(r"\b(\w*Config|\w+Weights|VitPytorch|Official)\b", ast.unparse(node.args[1]))
    ]


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith(("checkpoints/", "cli/", "dialects/", "formats/"))])
def test_nothing_asks_which_network_it_has(name: str) -> None:
    """It asks the network (`networks.py`) or the weights (`weights.py`) instead; then a new dialect touches its own folder."""
    assert asks_which_network(SOURCES[name]) == []


def test_a_question_for_the_network_is_seen() -> None:
    code = "isinstance(x, ScalableViTConfig)\nisinstance(opened, str | PortWeights)\nisinstance(x, Mapping)"
    assert asks_which_network(ast.parse(code)) == [1, 2]


@pytest.mark.parametrize("library", FRAMEWORKS)
def test_a_framework_is_imported_where_it_is_meant(library: str) -> None:
    found = [
        name for name, tree in SOURCES.items() if library in {m.partition(".")[0] for m in imports(tree, inside_functions=False)}
    ]
    assert found
    assert [name for name in found if not name.startswith(FRAMEWORKS[library])] == []


def test_the_page_has_the_same_order() -> None:
    """The first table of `docs/architecture.md`, from the top to the bottom, is `LEVELS` from the last to the first."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| part |")[2].partition("\n\n")[0].splitlines()[2:]
    named = [re.findall(r"`(?:scalablevit_ref/)?(\w+)[/.]?[\w.]*`", row.split("|")[1]) for row in table]
    level = {part: i for i, parts in enumerate(LEVELS) for part in parts}
    order = [level[part] for row in named for part in row]
    assert order == sorted(order, reverse=True)
    assert {part for row in named for part in row} == frozenset().union(*LEVELS) - {
        "_moved",
        "_start",
        "_typing",
        "_version",
        "__main__",
    }


def test_files_that_are_read_in_one_go() -> None:
    """The limits that `docs/architecture.md` states."""
    own = [name for name in SOURCES if "/" not in name or name.startswith("backends/")]
    texts = {name: (ROOT / (PACKAGE if "/" not in name else "") / name).read_text(encoding="utf-8") for name in own}
    lines = {name: len(EXAMPLES.sub("", text).splitlines()) for name, text in texts.items()}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    pattern = r"short enough to be read in one go: (.*) below (\d+) lines each, (.*), below (\d+), a backend below (\d+)"
    below = re.search(pattern, page)
    assert below
    limits = {
        f"{part}.py": int(most) for parts, most in (below.group(1, 2), below.group(3, 4)) for part in re.findall(r"`(\w+)`", parts)
    }
    limits |= {name: int(below[5]) for name in lines if name.startswith("backends/")}
    assert set(limits) >= {f"{part}.py" for part in SPECIFICATION}
    assert {name: lines[name] for name, most in limits.items() if lines[name] >= most} == {}

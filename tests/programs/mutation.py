"""`python -m tests.programs.mutation [MODULE…]`: mutmut's mutants of the specification, each run against the suite.

mutmut makes the mutants; they are run here, because a fresh Python that imports PyTorch for each of two thousand would take a day.
A mutant is first given to the conformance cases by direct call, then to the other tests, until one fails. What survives must be in
`tests/programs/equivalent.json` with the reason why no test can see it. The score and the survivors go to the file of `--out`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("ops", "attention", "blocks", "network", "parameters", "config")
ALWAYS = ("tests/specification/test_bad_input.py", "tests/specification/test_network.py", "tests/specification/test_ops.py")
TESTS = {
    "ops": ("tests/properties/test_ops.py", "tests/properties/test_ssa.py"),
    "attention": (
        "tests/properties/test_ssa.py",
        "tests/properties/test_iwsa.py",
        "tests/properties/test_inputs.py",
        "tests/backends/test_backend_example.py",
    ),
    "blocks": ("tests/properties/test_block.py", "tests/properties/test_inputs.py", "tests/drawing/test_attend.py"),
    "network": ("tests/properties/test_block.py", "tests/properties/test_inputs.py", "tests/properties/test_network.py"),
    "parameters": (
        "tests/specification/test_parameters.py",
        "tests/properties/test_network.py::test_01_the_parameters_are_the_oracles",
        "tests/specification/test_cost.py",
        "tests/checkpoints/test_recognise.py",
        "tests/properties/test_block.py",
    ),
    "config": (
        "tests/specification/test_digits.py::test_packaged_weights_are_small_and_fit_the_variant",
        "tests/specification/test_digits.py::test_packaged_weights_read_the_test_images",
        "tests/specification/test_cost.py",
        "tests/checkpoints/test_recognise.py",
        "tests/command_line/test_summary.py",
    ),
}
"""What a mutant of each module meets after the conformance cases and `ALWAYS`."""

NOTHING: dict[str, Any] = {"mutants": 0, "killed": 0, "equivalent": {}, "survivors": [], "killers": {}}

SECONDS = 900
"""A mutant that runs longer is killed: it hangs."""


class Mutant(NamedTuple):
    """One change of one module."""

    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.module}: {self.before} → {self.after}"


def mutants(module: str, every: int = 1) -> Iterator[Mutant]:
    """mutmut's mutants of one module, but for the letter case of strings, the wording of messages, and types."""
    import libcst as cst
    from mutmut.mutation.file_mutation import create_mutations, deep_replace

    path = ROOT / "scalablevit_ref" / f"{module}.py"
    code = path.read_text(encoding="utf-8")
    tree, mutations, _, _ = create_mutations(str(path), code.replace("\n@op\n", "\n"))  # mutmut passes decorated functions over
    decorated = re.findall(r"@op\ndef (\w+)", code)
    plain = _decorate(tree.code, decorated).splitlines()
    for mutation in mutations[::every]:
        old, new = mutation.original_node, mutation.mutated_node
        if isinstance(old, cst.SimpleString) and isinstance(new, cst.SimpleString) and "XX" not in new.value:
            continue
        changed = deep_replace(tree, old, new)
        assert isinstance(changed, cst.Module)
        source = _decorate(changed.code, decorated)
        lines = source.splitlines()
        at = next((i for i, (a, b) in enumerate(zip(plain, lines, strict=False)) if a != b), None)
        if at is None or _in_a_message(plain, at) or _for_types_only(plain[at], lines[at]):
            continue
        yield Mutant(module, at + 1, plain[at].strip(), lines[at].strip(), source)


def _decorate(code: str, names: list[str]) -> str:
    for name in names:
        code = code.replace(f"\ndef {name}(", f"\n@op\ndef {name}(")
    return code


def _for_types_only(before: str, after: str) -> bool:
    """Whether the change is one that only a type checker sees: an alias, a variable of types, or the type that `cast` names."""
    without = re.compile(r'cast\((?:"[^"]*"|None), ')
    alias = re.match(r"\w+ = (Literal\[|dict\[|Callable\[|ParamSpec\(|TypeVar\()", before)
    return alias is not None or without.sub("cast(", before) == without.sub("cast(", after)


def _in_a_message(lines: list[str], at: int) -> bool:
    """Whether the line belongs to a `raise` statement: what a message says is checked by its fragments, not by every letter."""
    for line in reversed(lines[max(0, at - 4) : at + 1]):
        if line.lstrip().startswith("raise "):
            return True
        if line.rstrip().endswith((":", ")")) and line is not lines[at]:
            return False
    return False


def run(mutant: Mutant, folder: Path) -> str | None:
    """The name of what kills the mutant, or None if it survives. Forks: the parent has the heavy libraries loaded."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(mutant, folder, send))
    process.start()
    send.close()
    killer: str | None = "time limit"
    if receive.poll(SECONDS):
        try:
            killer = receive.recv()
        except EOFError:
            killer = "crash"
    else:
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return killer


def _child(mutant: Mutant, folder: Path, send: Any) -> None:
    (folder / "scalablevit_ref" / f"{mutant.module}.py").write_text(mutant.source, encoding="utf-8")
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    send.send(_conformance(mutant.module) or _suite(mutant.module))


def _conformance(module: str) -> str | None:
    try:
        import tests.support.array_api  # noqa: F401  (registers it)
        from tests.support import conformance, op_calls

        for case in conformance.OPS:
            conformance.check_operation(case, "array_api_strict" if module == "ops" else "numpy")  # ops: the definitions
        for name in op_calls.CALLS if module == "ops" else ():
            op_calls.check_op(name, "definition", "float64", "numpy")
        for variant in ("small", "small_0", "base", "large"):
            conformance.check_manifest(variant)
        conformance.check_network(conformance.recorded("network.custom"), "numpy")
    except BaseException as error:  # a mutant may fail in any way whatever
        return f"conformance ({type(error).__name__})"
    for name in [name for name in sys.modules if name.partition(".")[0] in {"scalablevit_ref", "tests"}]:
        del sys.modules[name]  # pytest imports them anew, with the checks of shapes
    return None


def _suite(module: str) -> str | None:
    import pytest

    class First:
        failed: str | None = None

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                self.failed = self.failed or report.nodeid

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                self.failed = self.failed or f"import of {report.nodeid}"

    first = First()
    libraries = ["-k", "not jax and not cupy"]  # which take longest and find what the others find
    options = ["-x", "-q", *libraries, "--assert=plain", "-p", "no:cacheprovider", "-p", "no:doctest", "-o", "addopts="]
    code = pytest.main([*options, *ALWAYS, *TESTS[module]], plugins=[first])
    return (first.failed or f"pytest exit {code}") if code else None


def main() -> None:
    """Run all mutants of the modules named, two at a time."""
    arguments = argparse.ArgumentParser(prog="python -m tests.programs.mutation", description=__doc__)
    arguments.add_argument("modules", nargs="*", default=MODULES)
    arguments.add_argument("--out", type=Path, default=Path("mutation.json"))
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--again", action="store_true", help="run the survivors that --out lists, and set its figures right")
    arguments.add_argument("--every", type=int, default=1, metavar="N", help="run each N-th mutant only")
    options = arguments.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "mutation"}

    import beartype  # noqa: F401  (loaded once, before forking)
    import einops  # noqa: F401
    import hypothesis  # noqa: F401
    import jaxtyping  # noqa: F401
    import safetensors  # noqa: F401
    import torch

    torch.set_num_threads(1)
    reasons = json.loads((ROOT / "tests" / "programs" / "equivalent.json").read_text(encoding="utf-8"))
    folders = [_copy() for _ in range(options.jobs)]
    sound = (ROOT / "scalablevit_ref" / "ops.py").read_text(encoding="utf-8")
    if killer := run(Mutant("ops", 0, "", "", sound), folders[0]):
        sys.exit(f"the tree as it is fails {killer}: nothing can be told from its mutants")
    everything = [mutant for module in options.modules for mutant in mutants(module, options.every)]
    before = json.loads(options.out.read_text(encoding="utf-8")) if options.again else NOTHING
    if options.again:
        listed = {re.sub(r"^(\w+):\d+: ", r"\1: ", survivor) for survivor in before["survivors"]}  # lines may have moved
        everything = [mutant for mutant in everything if mutant.key in listed]
    results: list[tuple[Mutant, str | None]] = []
    start = time.monotonic()

    def work(job: int) -> None:
        for mutant in everything[job :: options.jobs]:
            killer = run(mutant, folders[job])
            shutil.copy(ROOT / "scalablevit_ref" / f"{mutant.module}.py", folders[job] / "scalablevit_ref")
            results.append((mutant, killer))
            if killer is None or len(results) % 10 == 0:
                said = f"SURVIVED {mutant.module}:{mutant.line} {mutant.before}  →  {mutant.after}" if killer is None else ""
                sys.stdout.write(f"{len(results)}/{len(everything)} {time.monotonic() - start:.0f} s {said}\n")
                sys.stdout.flush()

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, range(options.jobs)))
    for folder in folders:
        shutil.rmtree(folder)
    survivors = [mutant for mutant, killer in results if killer is None]
    equivalent = [mutant for mutant in survivors if mutant.key in reasons]
    count = before["mutants"] - len(before["survivors"]) + len(results)  # without survivors whose code is gone
    killed = before["killed"] + len(results) - len(survivors)
    killers = Counter(before["killers"]) + Counter(killer for _, killer in results if killer)
    document = {
        "mutants": count,
        "killed": killed,
        "equivalent": before["equivalent"] | {mutant.key: reasons[mutant.key] for mutant in equivalent},
        "survivors": [f"{m.module}:{m.line}: {m.before} → {m.after}" for m in survivors if m.key not in reasons],
        "killers": dict(sorted(killers.items())),
    }
    options.out.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    sys.stdout.write(f"{killed} of {count} killed ({killed / count:.1%}), {len(equivalent)} equivalent\n")
    sys.exit(len(survivors) > len(equivalent))


def _copy() -> Path:
    """The tree as it is installed, to be changed freely."""
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    shutil.copytree(ROOT / "scalablevit_ref", folder / "scalablevit_ref")
    shutil.copytree(ROOT / "backends", folder / "scalablevit_ref" / "backends")
    shutil.copytree(ROOT / "tests", folder / "tests")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


if __name__ == "__main__":
    main()

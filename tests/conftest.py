"""Fixtures of all tests.

`tests.support.shape_checks` must be the first here to import the package: it has the shapes in signatures checked at every call.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from hypothesis import settings
from scalablevit_ref.backends.start import beside_tensorflow

import tests.support.shape_checks  # noqa: F401  (before anything else imports the package)
from tests.support import compiling, profiles, torchvision_operators
from tests.support.library import CUDA, LIBRARIES, Agree, Library, compiles_kernels, left_to_nightly, prepared

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name of the Hub is never looked for there by mistake
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of the processor when it is imported

collect_ignore = ["programs/fuzz.py"]  # a program of its own, on atheris
if not find_spec("jax"):
    collect_ignore += ["support/jitted.py", "backends/test_jax.py"]
if not find_spec("mlx"):
    collect_ignore += ["support/on_mlx.py", "backends/test_mlx.py"]
if not find_spec("paddle"):
    collect_ignore += [
        "support/static.py",
        "adapters/test_paddle.py",
        "backends/test_paddle.py",
        "comparison/test_capture_paddle.py",
    ]
if not (find_spec("tinygrad") and compiles_kernels()):
    collect_ignore += ["backends/test_tinygrad.py", "comparison/test_capture_tinygrad.py"]
if not find_spec("flint"):
    collect_ignore += ["certify", "support/rationals.py", "backends/test_flint.py", "command_line/test_certify.py"]
if not find_spec("keras") or not find_spec(os.environ["KERAS_BACKEND"]):
    collect_ignore += ["adapters/test_keras.py"]
if not find_spec("tensorflow"):
    collect_ignore += ["support/graphed.py", "backends/test_tensorflow.py"]
if not (find_spec("keras") and find_spec("tensorflow") and find_spec(os.environ["KERAS_BACKEND"])):
    collect_ignore += ["comparison/test_capture_keras.py"]

if not (find_spec("timm") and find_spec("torchvision")):
    collect_ignore += ["adapters/test_timm.py"]

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO's converter forks a process that calls a host
if find_spec("paddle"):
    with beside_tensorflow():  # before TensorFlow
        import paddle  # noqa: F401
torchvision_operators.define()  # before anything imports timm or transformers
compiling.compile_quickly()  # before anything imports JAX or tinygrad
profiles.load()

EXAMPLES = {"jax": 0.125, "mlx": 0.125, "tensorflow": 0.125, "paddle": 0.125, "tinygrad": 0.025, "array_api_strict": 0.35} | (
    {} if CUDA else {"cupy": 0.25}
)
"""The share of the profile's examples that a property gets, two at least, where each takes long: JAX and tinygrad compile each,
and array-api-strict, which looks for what is outside of the standard and not at numbers, checks every call."""


@pytest.fixture(params=LIBRARIES)
def xp(request: pytest.FixtureRequest) -> Iterator[Library]:
    """Each library that is installed; array-api-strict, where the definitions alone run, with its optional features off."""
    with prepared(request.param):
        yield Library(request.param)


def library_of(item: pytest.Item) -> str | None:
    """What a property runs on, where it says so."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    library: str | None = params.get("xp", params.get("library"))
    return library


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fewer examples where `EXAMPLES` says so."""
    test: Any = getattr(item, "obj", None)
    library = library_of(item)
    if library == "tinygrad":
        import_module(library)  # which raises the limit of recursion: Hypothesis warns where a property does that while it runs
    profile = getattr(test, "_hypothesis_internal_use_settings", None)
    if profile is None or library not in EXAMPLES:
        return (yield)
    test._hypothesis_internal_use_settings = settings(profile, max_examples=max(2, round(profile.max_examples * EXAMPLES[library])))
    try:
        return (yield)
    finally:
        test._hypothesis_internal_use_settings = profile


@pytest.fixture
def agree(request: pytest.FixtureRequest) -> Iterator[Agree]:
    """Compare with `agree(actual, reference)`: 64 eps unless told otherwise."""
    recorder = Agree()
    yield recorder
    request.node.user_properties.append(("worst_eps", recorder.worst))


@pytest.fixture(params=["numpy", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each library with native ops."""
    name: str = request.param
    return name


@pytest.fixture
def everything_loaded() -> None:
    """For tests that let Dynamo trace, which reads `sys.modules`: to look at a module that loads lazily loads it, and more.

    CuPy leaves such modules behind. In a process where nobody has looked at them, Dynamo fails at a dictionary that grows.
    """
    for module in list(sys.modules.values()):
        getattr(module, "__file__", None)


@pytest.fixture
def as_in_production() -> Iterator[None]:
    """Without the run-time shape checks, which users do not have: for tests of what the package itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="session")
def searches_end_by_themselves() -> Iterator[None]:
    """The comparator gives up looking for causes after some seconds: what it finds here must not depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalablevit_ref.compare.diagnosis.SEARCH_SECONDS", float("inf"))
        patch.setattr("scalablevit_ref.compare.mistakes.search.PAIRS_SECONDS", float("inf"))
        yield


LONGEST = (
    "documentation/test_documents.py",
    "properties/test_network.py",
    "specification/test_conformance.py",
    "documentation/test_site.py",
    "properties/test_gradients.py",
    "comparison/test_capture_flax.py",
    "backends/test_sharding.py",
    "properties/test_checkpoints.py",
    "specification/test_dialects.py",
    "drawing/test_draw.py",
    "properties/test_iwsa.py",
    "comparison/test_comparison.py",
    "specification/test_package.py",
    "adapters/test_onnx.py",
    "checkpoints/test_onnx_files.py",
)
"""The files that take longest, which begin where several processes share the tests: no process waits for another's last file."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    later = [item for item in items if left_to_nightly(library_of(item), getattr(item, "originalname", ""))]
    if later:
        items[:] = [item for item in items if item not in later]
        config.hook.pytest_deselected(items=later)
    if hasattr(config, "workerinput"):
        order = {Path(__file__).with_name(folder) / name: i for i, (folder, name) in enumerate(file.split("/") for file in LONGEST)}
        items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """No search for garbage looks through what the libraries hold for good: with all of them loaded each takes a second."""
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--worst-errors", default=None, metavar="FILE", help="Write each test's worst allowed error in eps, as JSON.")


class WorstErrors:
    """Collects what `agree` recorded, from all workers."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[tuple[str, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            figures = [float(value) for name, value in report.user_properties if name == "worst_eps"]
            self.rows.append((report.nodeid, max(figures, default=0.0)))

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.rows), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--worst-errors")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(WorstErrors(path))

"""Fuzz the readers with atheris, by hand: `python -m tests.programs.fuzz TARGET SECONDS [CORPUS]`.

Needs `pip install atheris`.

Whatever the bytes, what reads them gives what they hold or an error of one printable line, in at most five seconds of processor
time and 200 MB of memory, and nothing is run. The targets:

- pickles, arrays, msgpack, graphs, onnx: files of these formats, loaded, inspected and loaded as a port's file, the same twice;
- beside, folders, trees: sound weights among other opcodes, in damaged folders, among junk in memory, which are read as they are;
- configurations: sound weights with a drawn configuration, in every format (`tests/support/fuzzed_configurations.py`);
- images: every format that is decoded (`tests/support/fuzzed_images.py`), and `npy`: images as an array of NumPy;
- traces, names: traces that are drawn and damaged, and names files for sound ones, compared (`tests/support/fuzzed_traces.py`);
- mappings: sound weights in memory among objects made to disturb, loaded and saved (`tests/support/fuzzed_mappings.py`).

What fails is kept in the folder CORPUS, one input a kind of failure, and the run goes on.
"""

from __future__ import annotations

import atexit
import hashlib
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from random import Random

import atheris

GUIDES = {
    "configurations": ("config", "checkpoints.notes", "checkpoints.infer", "checkpoints.hub"),
    "images": ("images",),
    "npy": ("testing.traces", "formats.npz"),
    "traces": ("testing", "compare", "formats"),
    "names": ("compare", "cli.compare"),
    "mappings": ("checkpoints", "checks", "errors"),
}
"""Modules of the package that guide a target: all of them where none is named. One that guides takes several times as long."""

PACKAGE = Path(__file__).resolve().parents[2] / "scalablevit_ref"
ALL = [".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") for path in PACKAGE.rglob("*.py")]
guides = GUIDES.get(sys.argv[1], ("",))
others = [
    f"scalablevit_ref.{name}" for name in ALL if not any(name == one or name.startswith(f"{one}." * bool(one)) for one in guides)
]

with atheris.instrument_imports(include=["scalablevit_ref", "zipfile", "json", "PIL"], exclude=others):
    from tests.support import fuzzed, fuzzed_configurations, fuzzed_images, fuzzed_mappings, fuzzed_traces
    from tests.support.watch import Watch

    for part in ("formats", "checkpoints", "testing", "compare"):  # also what is imported only where it is needed
        package = import_module(f"scalablevit_ref.{part}")
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith((".plugin", ".strategies")):
                import_module(module.name)
    import PIL.Image

    PIL.Image.init()

from tests.support.waiting import slowness  # noqa: E402  (what is measured with guides nothing)

FORMATS = {
    "pickles": (".pth", ".pkl", ".pdparams"),
    "arrays": (".safetensors", ".npz", ".npy", ".msgpack"),
    "msgpack": (".msgpack",),
    "graphs": (".onnx", ".h5", ".keras"),
    "onnx": (".onnx",),
}

MOST_SECONDS, MOST_MEGABYTES, MOST_DATA = 5, 200, 1 << 30
"""For one input: of processor time, scaled by the load, and of memory. For all of them: bytes of memory beyond the libraries."""

_AGAIN = 0.5
"""Seconds of processor time after which one that takes too long is asked again, should it not have heard."""


class TooMuchError(BaseException):
    """An input that takes more time or memory than it may. No reader catches it."""


def main() -> None:
    """Run for as long as the second argument says."""
    target, seconds = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        corpus = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(temporary) / "corpus"
        corpus.mkdir(exist_ok=True, parents=True)
        read, seeds = reader_of(target, Path(temporary))
        for name, content in seeds.items():
            (corpus / name).write_bytes(content)
        run = Run(read, corpus)
        for content in seeds.values():  # loads what is loaded when it is needed, before anything is watched or measured
            run(content)
        run.begin()
        atexit.register(lambda: sys.stdout.write(f"{target}: {run.summary()}\n"))
        options = [f"-max_total_time={seconds}", f"-max_len={fuzzed.LONGEST}", "-timeout=600", "-rss_limit_mb=2048"]
        options += ["-print_final_stats=1", f"-artifact_prefix={corpus}/"]  # where it puts what ends the process
        atheris.Setup([sys.argv[0], *options, str(corpus)], run)
        atheris.Fuzz()


def reader_of(target: str, temporary: Path) -> tuple[Callable[[bytes], object], dict[str, bytes]]:
    """What reads an input of a target, and inputs to begin with."""
    folder = temporary / "folder"
    folder.mkdir()
    path = temporary / "input"
    if target in FORMATS:
        watch = Watch()

        def read_bytes(data: bytes) -> None:
            path.write_bytes(fuzzed.packed(data))
            with watch():
                fuzzed.read_file(path, whole=len(data) % 4 == 3)

        return read_bytes, {name: x for name, x in fuzzed.seeds(folder).items() if name.endswith(FORMATS[target])}
    if target == "images":
        return lambda data: fuzzed_images.read_image(path, data), fuzzed_images.image_seeds()
    if target == "npy":
        return lambda data: fuzzed_traces.read_npy(temporary / "images.npy", data), fuzzed_traces.npy_seeds()
    readers: dict[str, Callable[[bytes], object]] = {
        "beside": lambda data: fuzzed.read_pickled(path, data),
        "folders": lambda data: fuzzed.read_folder(folder, data),
        "trees": fuzzed.check_tree,
        "configurations": lambda data: fuzzed_configurations.read_configuration(folder, data),
        "traces": lambda data: fuzzed_traces.read_trace(folder, data),
        "names": lambda data: fuzzed_traces.read_names_file(folder, data),
        "mappings": lambda data: fuzzed_mappings.read_mapping(folder, data),
    }
    return readers[target], {f"{i}": Random(i).randbytes(5 + i) for i in range(200)}


class Run:
    """Reads one input after the other; measures each, and keeps those that fail."""

    def __init__(self, read: Callable[[bytes], object], corpus: Path) -> None:
        self.read, self.corpus = read, corpus
        self.failures: dict[str, int] = {}
        self.slowest, self.largest, self.inputs, self.begun, self.start = 0.0, 0, 0, time.time(), 0.0
        signal.signal(signal.SIGVTALRM, self._ask)

    def begin(self) -> None:
        """Measure from here on, and allow no more memory than `MOST_DATA` beyond what is used."""
        self.slowest, self.largest, self.inputs, self.begun = 0.0, 0, 0, time.time()
        data = next(int(line.split()[1]) << 10 for line in _status() if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (data + MOST_DATA, resource.RLIM_INFINITY))

    def __call__(self, data: bytes) -> None:
        self.inputs += 1
        Path("/proc/self/clear_refs").write_text("5")  # the most memory that is held is measured from here
        before, self.start = _megabytes("VmRSS:"), time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS, _AGAIN)
        try:
            self.read(data)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if (grown := _megabytes("VmHWM:") - before) > MOST_MEGABYTES:
                raise TooMuchError(f"{grown} MB")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self._keep(data, error)
        self.slowest = max(self.slowest, time.process_time() - self.start)
        self.largest = max(self.largest, _megabytes("VmHWM:") - before)

    def summary(self) -> str:
        seen = f"{self.inputs} inputs in {time.time() - self.begun:.0f} s, slowest {self.slowest:.2f} s"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        failed = "".join(f"\n  {count} times {kind}" for kind, count in self.failures.items())
        return f"{seen}, at most {self.largest} MB for one and {peak} MB for all; {len(self.failures)} kinds of failure{failed}"

    def _ask(self, *_: object) -> None:
        if (took := time.process_time() - self.start) > MOST_SECONDS * slowness():
            raise TooMuchError(f"{took:.1f} s")

    def _keep(self, data: bytes, error: BaseException) -> None:
        """The shortest input of each kind, which is where it happened."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "scalablevit_ref" in frame.filename] or frames
        kind = f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].lineno}"
        if isinstance(error, AssertionError):
            kind = f"AssertionError: {str(error)[:60]!r} in {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        kind = re.sub(r"\d{2,}|0x[0-9a-f]+", "N", kind)
        self.failures[kind] = self.failures.get(kind, 0) + 1
        kept = self.corpus.with_name(f"{self.corpus.name}.found")
        kept.mkdir(exist_ok=True)
        path = kept / hashlib.sha256(kind.encode()).hexdigest()[:12]
        if not path.exists() or path.stat().st_size > len(data):
            path.write_bytes(data)
            said = "".join(traceback.format_exception(error))[-6000:]
            path.with_suffix(".txt").write_text(f"{kind}\n{said}", encoding="utf-8", errors="replace")


def _status() -> list[str]:
    return Path("/proc/self/status").read_text().splitlines()


def _megabytes(field: str) -> int:
    return next(int(line.split()[1]) >> 10 for line in _status() if line.startswith(field))


if __name__ == "__main__":
    main()

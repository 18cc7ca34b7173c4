"""Fuzz the readers with atheris, by hand: `python -m tests.programs.fuzz_checkpoints TARGET SECONDS [CORPUS]`.

Needs `pip install atheris`.

Whatever the bytes, loading, inspecting and loading them as a port's file gives what they hold or a CheckpointError of one line, in
at most five seconds and a bounded amount of memory, the same twice, and nothing is run. Targets are the formats by their readers
(pickles, arrays, graphs); sound weights among other opcodes (beside), in folders (folders) and in trees in memory (trees): what is
read of these has the right bits.
"""

from __future__ import annotations

import atexit
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["scalablevit_ref", "zipfile", "json"]):
    from tests.support import fuzzed

FORMATS = {
    "pickles": (".pth", ".pkl", ".pdparams"),
    "arrays": (".safetensors", ".npz", ".npy", ".msgpack"),
    "graphs": (".onnx", ".h5", ".keras"),
}


def main() -> None:
    """Run for as long as the second argument says."""
    target, seconds = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        corpus = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(temporary) / "corpus"
        corpus.mkdir(exist_ok=True, parents=True)
        folder = Path(temporary) / "folder"
        folder.mkdir()
        path = Path(temporary) / "input"
        found = fuzzed.seeds(folder)
        for name, content in found.items():
            if name.endswith(FORMATS.get(target, ())):
                (corpus / name).write_bytes(content)
            path.write_bytes(fuzzed.packed(content))
            fuzzed.read_file(path)  # loads what is loaded when it is needed
        if target not in FORMATS:
            for i in range(200):
                (corpus / f"{i}").write_bytes(Random(i).randbytes(5 + i))

        def read_bytes(data: bytes) -> None:
            path.write_bytes(fuzzed.packed(data))
            with watch():
                fuzzed.read_file(path, whole=len(data) % 4 == 3)

        targets: dict[str, Callable[[bytes], object]] = {
            **dict.fromkeys(FORMATS, read_bytes),
            "beside": lambda data: fuzzed.read_pickled(path, data),
            "folders": lambda data: fuzzed.read_folder(folder, data),
            "trees": fuzzed.check_tree,
        }
        watch, read, slowest, begun = fuzzed.Watch(), targets[target], 0.0, time.time()

        def run(data: bytes) -> None:
            nonlocal slowest
            start = time.process_time()
            read(data)
            slowest = max(slowest, time.process_time() - start)

        def report() -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            sys.stdout.write(f"{target}: {time.time() - begun:.0f} s, slowest {slowest:.2f} s, {peak} MB at most\n")

        atexit.register(report)
        options = [f"-max_total_time={seconds}", f"-max_len={fuzzed.LONGEST}", "-timeout=60", "-rss_limit_mb=1024"]
        options += ["-print_final_stats=1", f"-artifact_prefix={corpus}/"]  # where it puts what it finds
        atheris.Setup([sys.argv[0], *options, str(corpus)], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

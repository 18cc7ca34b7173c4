"""Files made to take time or memory, or to be something else: refused within five seconds and 200 MB."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalablevit_ref import ScalableViTConfig, init_params, to_backend
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint
from scalablevit_ref.checkpoints.errors import brief
from scalablevit_ref.checkpoints.files import open_file
from scalablevit_ref.checkpoints.recognise import is_plain
from scalablevit_ref.checkpoints.stored import values
from scalablevit_ref.checkpoints.writing import Contents, write_file
from tests.test_checkpoints_files import NO_CHECKPOINTS, SUFFIXES
from tests.test_checkpoints_hostile import FOUR, PICKLES, Calls, archive, program, tensor
from tests.test_checkpoints_hostile_arrays import NPZ, SAFETENSORS, entry, header, npy, npz
from tests.test_checkpoints_msgpack import MSGPACK
from tests.test_checkpoints_recognise import TINY_MMDET

TINY = ScalableViTConfig((2, 2, 2, 2), (2, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), num_classes=2, head="linear", in_chans=1)


def doubled(start: bytes, join: bytes, depth: int = 60) -> bytes:
    """A value that holds the last one twice, `depth` deep: 2^depth leaves in a few bytes."""
    return start + b"q\x00" + b"".join(b"0h%c(h%ch%c%bq%c" % (i, i, i, join, i + 1) for i in range(depth))


def deflated(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(name, content)
    return file.getvalue()


def changed_directory(offset: int, value: bytes) -> bytes:
    """An npz whose directory says something else of its record (method at 10, sizes at 20 and 24)."""
    data = bytearray(npz(a=npy((2,))))
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + len(value)] = value
    return bytes(data)


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        out.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


COLLIDING = b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(9, 50_000))
"""Whole numbers of one hash."""

EQUAL = b",".join(b'"%d":0' % i for i in range(300_000))

BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "tuples as a key": (lambda: archive(program(b"}" + doubled(b")", b"t") + b"Ns")), "builds a tuple larger"),
    "tuples beside": (lambda: archive(program(doubled(b"N", b"t"))), "builds a tuple larger"),
    "deep tuples": (lambda: archive(program(b"}N" + b"\x85" * 500_000 + b"Ns")), "builds a tuple larger"),
    "deep lists": (lambda: archive(program(b"]" * 200_000 + b"a" * 199_999)), "no state dict"),
    "opcodes": (lambda: archive(program(b"N0" * 600_000)), "larger than a checkpoint's"),
    "long text": (lambda: archive(program(b"X" + struct.pack("<I", 33 << 20) + bytes(33 << 20))), "larger than a checkpoint's"),
    "marks": (lambda: archive(program(b"(" * 400_000)), "damaged pickle|no state dict"),
    "colliding numbers": (lambda: archive(program(b"}(" + COLLIDING + b"u")), "larger than a checkpoint's"),
    "memo": (lambda: archive(program(b"N" + b"\x94" * 400_000)), "no state dict|opcode"),
    "expanded": (lambda: archive(program(tensor(0, (1 << 20, 1 << 20), (0, 0))), FOUR), "larger than the file"),
    "empty but wide": (lambda: archive(program(tensor(0, (1 << 62, 0), (1, 1))), FOUR), "larger than the file"),
    "records": (lambda: archive(program(b"N"), {f"archive/{i:064}": b"" for i in range(40_000)}), "directory larger"),
    "climbing name": (lambda: archive(program(b"N"), {"archive/../../x": b""}), "leads out of the archive"),
    "absolute name": (lambda: archive(program(b"N"), {"/etc/x": b""}), "leads out of the archive"),
    "encrypted": (lambda: changed_directory(8, b"\x01\x00"), "a.npy: encrypted zip record"),
    "bzip2": (lambda: changed_directory(10, b"\x0c\x00"), "unusual method"),
    "said to be deflated": (lambda: changed_directory(10, b"\x08\x00"), "damaged"),
    "deflate bomb": (lambda: deflated("a.npy", npy((50 << 20,), "|u1", bytes(50 << 20))), "inflates more than weights can"),
    "deflate bomb torch": (lambda: deflated("archive/data.pkl", program(b"N" * 900_000)), "compressed zip record"),
    "npy of empty elements": (lambda: npz(a=npy((1 << 40,), "|V0", b"")), "something other than numbers"),
    "npy of records": (lambda: npz(a=npy((2,), [("x", "<f4")])), "something other than numbers"),  # type: ignore[arg-type]
    "npy config of numbers": (lambda: npz(__config__=npy((2,))), "not a text"),
    "npy text out of range": (lambda: npz(__config__=npy((), "<U2", b"\xff" * 8)), "beyond Unicode"),
    "npy text beyond Unicode": (lambda: npz(__config__=npy((), "<U2", b"{\0\0\0\0\0\x11\0")), "characters beyond Unicode"),
    "npy header without end": (lambda: npz(a=b"\x93NUMPY\x01\x00\xff\xff{'descr':"), "damaged npy header"),
    "npy header of expressions": (lambda: npz(a=npy("__import__('os')")), "npy header"),
    "oversized header": (lambda: struct.pack("<Q", 5 << 20) + b"{" + b" " * (5 << 20), "header larger"),
    "header of a terabyte": (lambda: struct.pack("<Q", 1 << 39) + b"{}", "header larger"),
    "header of lists": (lambda: header(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"), "damaged safetensors entry"),
    "header of equal names": (lambda: header(b"{" + EQUAL + b',"5":0}'), "two entries of one name"),
    "header of digits": (lambda: header({"a": entry(shape=(10**4000,))}, bytes(8)), "bytes that do not fit"),
    "overlap": (lambda: header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "b: a gap or an overlap"),
    "gap": (lambda: header({"a": entry(), "b": entry(offsets=(9, 17))}, bytes(17)), "b: a gap or an overlap"),
    "bytes behind": (lambda: header({"a": entry()}, bytes(9)), "bytes after the last tensor"),
    "nested prefixes": (lambda: header({"module." * 100_000 + "a": entry()}, bytes(8)), "names of no known layout"),
    "escape sequences": (lambda: header({"\x1b[2J\nstages.": entry()}, bytes(8)), r"names of no known layout|\\x1b\[2J\\n"),
    "deep network": (lambda: configured({"depths": [10**9] * 4}), "more blocks than there are arrays"),
    "many stages": (lambda: configured({"depths": [1] * 60_000} | {name: [1] * 60_000 for name in STAGES}), "more blocks"),
    "wide network": (lambda: configured({"embed_dims": [1 << 40] * 4}), "a parameter larger than any"),
    "wider network": (lambda: configured({"embed_dims": [1 << 62] * 4}), "a parameter larger than any"),
    "tar": (tar, "a tar archive"),
    "bare pickle": (lambda: pickle.dumps({"a": 1}, 4), "pickles are programs"),
}  # fmt: skip

STAGES = ("embed_dims", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios", "window_sizes")


def configured(config: Any) -> bytes:
    names = [f"stages.0.{i}.x" for i in range(40)]
    entries = {name: entry(offsets=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    return header(entries | {"__metadata__": {"config": json.dumps(config)}}, bytes(8 * len(names)))


def test_errors_of_hostile_names_are_one_printable_line(tmp_path: Path) -> None:
    content = header({"stages.\x1b[2J\r\n" + "x" * 100_000: entry(dtype="\x07")}, bytes(8))
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_values_that_are_looked_at_for_no_longer_than_needed() -> None:
    value: Any = 1
    for _ in range(80):
        value = [value, value]
    assert not is_plain(value)
    assert len(brief((value, 10**5000))) < 1000
    assert is_plain([[1, (2.0, None)], {"a": {"b": "c"}}])
    assert not is_plain({"a": {1: 2}})
    assert not is_plain([[[[[[[1]]]]]]])
    assert "lr" not in from_state_dict({"model": init_params(TINY), "lr": value}, config=TINY).metadata


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a FIFO"), (Path("/dev/zero"), "a device"), (tmp_path, "a directory")):
        with pytest.raises(CheckpointError, match=f"{what}; expected a checkpoint file"):
            load_checkpoint(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".legacy"])
def test_truncated_at_every_byte(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    state = {"a.kernel": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}
    if suffix == ".legacy":
        torch.save(to_backend(state, "torch"), path, _use_new_zipfile_serialization=False)
    else:
        contents = Contents(state, TINY, "official", {"epoch": 3}, lambda name: [state[name].reshape(-1)])
        write_file(path, contents, force=False)

    def read(file: Path) -> Any:
        with open_file(file) as (tree, _, _):
            return {name: values(x) for name, x in tree.get("model", tree).items()}

    assert {name: x.tolist() for name, x in read(path).items()} == {name: x.tolist() for name, x in state.items()}
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(CheckpointError):
            read(path)


@pytest.mark.parametrize("names", [["module.norm.bias", "norm.bias"], ["backbone.norm.bias", "backbone.backbone.norm.bias"]])
def test_prefixes_that_collide(names: list[str]) -> None:
    """A prefix is cut off all names or none: two of them never become one."""
    with pytest.raises(CheckpointError, match=r"norm\.bias|more blocks than"):
        from_state_dict({"stages.0.0.x": np.zeros(1)} | {name: np.zeros(1, "float32") for name in names}, config=TINY_MMDET)


GUARDED = """
    import json, pathlib, resource, sys, time
    import ml_dtypes, numpy, scalablevit_ref.checkpoints.files
    from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint

    def guard(event, args):
        "Programs, connections, libraries, code that was text, and files but those read: none of it is a reader's business."
        bad = event.startswith(("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.", "socket.", "ctypes."))
        bad |= event == "exec" and args[0].co_filename.startswith("<") and not args[0].co_filename.startswith("<frozen")
        bad |= event == "open" and isinstance(args[1], str) and any(letter in args[1] for letter in "wax+")
        if bad and guarding:
            outcome["events"].append(event)

    paths, results = json.loads(sys.stdin.read()), []
    guarding, outcome = False, {}
    sys.addaudithook(guard)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
    for path in paths:
        outcome, start = {"events": [], "said": None}, time.process_time()
        try:
            guarding = True
            load_checkpoint(path)
        except CheckpointError as error:
            outcome |= {"said": str(error), "file": error.file}
        except BaseException as error:
            outcome["said"] = f"{type(error).__name__}: {error}"
        guarding = False
        results.append(outcome | {"seconds": time.process_time() - start})
    print(json.dumps(results))
"""
"""200 MB of address space beyond the libraries, which is less than 200 MB of memory."""


def hostile() -> dict[str, tuple[bytes, str]]:
    """Every case of a hostile or broken file in the suite that is one file's bytes, and what is said of it."""
    cases = {name: (make(), message) for name, (make, message) in BOMBS.items()}
    cases |= {f"pickle {i}": (archive(program(body), FOUR), message) for i, (body, message) in enumerate(PICKLES)}
    for kind, few in (("safetensors", SAFETENSORS), ("npz", NPZ), ("msgpack", MSGPACK), ("no checkpoint", NO_CHECKPOINTS)):
        cases |= {f"{kind} {i}": case for i, case in enumerate(few)}
    return cases


def test_hostile_files_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Each is refused for its own fault in 200 MB and 5 s; no code of it is run, no connection made, no file written."""
    cases = hostile()
    assert len(cases) >= 60
    paths = {name: tmp_path / f"{i}" for i, name in enumerate(cases)}
    for name, path in paths.items():
        path.write_bytes(cases[name][0])
    command = [sys.executable, "-c", textwrap.dedent(GUARDED)]
    given = json.dumps(list(map(str, paths.values())))
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    for (name, (_, message)), path, found in zip(cases.items(), paths.values(), json.loads(done.stdout), strict=True):
        assert found["said"] is not None, f"{name}: was read"
        assert re.search(message, found["said"].removeprefix(str(path))), (name, found)
        assert (found.get("file"), found["events"], "MemoryError" in found["said"]) == (str(path), [], False), (name, found)
        assert found["seconds"] < 5, (name, found)


def test_the_guard_sees_code_that_runs(tmp_path: Path) -> None:
    """What the test above relies on: the same watch over a reader that executes pickles."""
    (tmp_path / "x").write_bytes(pickle.dumps(Calls(eval, "__import__('os').system('true')")))
    program_text = textwrap.dedent(GUARDED).replace("load_checkpoint(path)", "__import__('pickle').load(open(path, 'rb'))")
    done = subprocess.run(
        [sys.executable, "-c", program_text], input=json.dumps([str(tmp_path / "x")]), capture_output=True, text=True, check=True
    )
    assert {"exec", "os.system"} <= set(json.loads(done.stdout)[0]["events"])

"""Files made to harm: refused with a CheckpointError, and nothing of them run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scalablevit_ref import init_params, to_backend
from scalablevit_ref.checkpoints import load_checkpoint
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.pth import LEGACY_MAGIC
from tests.support.bit_patterns import assert_same_bits
from tests.support.checkpoints import DIGITS
from tests.support.hostile import FOUR, Calls, archive, op, plain, program, refuse, storage, tensor
from tests.support.hostile_files import PICKLES


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, "system"), (builtins.eval, "eval"), (builtins.getattr, "getattr"), (torch.load, "load"), (pickle.loads, "loads")],
)
def test_calls_are_refused_and_not_made(
    tmp_path: Path, function: Callable[..., Any], named: str, protocol: int, legacy: bool
) -> None:
    touched = tmp_path / "touched"
    call = Calls(function, f"__import__('pathlib').Path({str(touched)!r}).touch()" if function is eval else f"touch {touched}")
    for value in (call, {"model": call}, {"model": OrderedDict(a=[call]), "args": 1}, Calls(OrderedDict, [("a", call)])):
        torch.save(value, tmp_path / "hostile.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
        refuse(tmp_path, (tmp_path / "hostile.pth").read_bytes(), rf"asks for [\w.]+\.{named}, .*nothing was executed")
    params = init_params(DIGITS)
    beside = {
        "model": to_backend(params, "torch"),
        "a": call,
        "b": [call, {"c": (call,)}],
        "optimizer": Calls(OrderedDict, [("a", call)]),
    }
    torch.save(beside, tmp_path / "beside.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert_same_bits(load_checkpoint(tmp_path / "beside.pth").params, params)
    (tmp_path / "beside.pkl").write_bytes(pickle.dumps({"model": params, "a": call}, protocol))
    assert_same_bits(load_checkpoint(tmp_path / "beside.pkl").params, params)
    assert not touched.exists()


def test_a_call_in_place_of_a_weight(tmp_path: Path) -> None:
    params = to_backend(init_params(DIGITS), "torch")
    torch.save({"model": params | {"norm.weight": Calls(os.getenv, "HOME")}}, tmp_path / "hostile.pth")
    refuse(tmp_path, (tmp_path / "hostile.pth").read_bytes(), "norm.weight: not an array")


def test_the_calls_would_have_been_made(tmp_path: Path) -> None:
    """The same file, loaded the usual way, runs its command."""
    torch.save(Calls(os.system, f"touch {tmp_path / 'touched'}"), tmp_path / "hostile.pth")
    torch.load(tmp_path / "hostile.pth", weights_only=False)
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(("body", "message"), PICKLES, ids=lambda value: value if isinstance(value, str) else "")
def test_pickles_that_misuse_what_is_allowed(tmp_path: Path, body: bytes, message: str) -> None:
    refuse(tmp_path, archive(program(body), FOUR), message)


def test_the_hand_made_pickle_is_sound(tmp_path: Path) -> None:
    """The programs above are refused for their faults, not for the way they are put together."""
    path = tmp_path / "sound.pth"
    path.write_bytes(archive(program(tensor(0, (2, 2), (1, 2))), FOUR))
    with open_file(path) as (found, _, _):
        assert found.read().tolist() == [[0, 2], [1, 3]]
    path.write_bytes(archive(program(op("argparse Namespace") + b")\x81" + plain({"model": "small"}) + b"b")))
    with open_file(path) as (found, _, _):
        assert vars(found) == {"model": "small"}
        assert type(found).__module__.startswith("scalablevit_ref.")
    path.write_bytes(archive(program(op("argparse Namespace") + b")\x81" + plain({"model": 1, "__class__": 2}) + b"b")))
    with open_file(path) as (found, _, _):
        assert vars(found) == {"model": 1}


def test_stand_ins_are_not_poisoned(tmp_path: Path) -> None:
    """What a hostile file tried does not show in the next file."""
    for body in (op("torch FloatStorage") + plain({"dtype": "bool"}) + b"b", op("argparse Namespace") + plain({"model": 1}) + b"b"):
        refuse(tmp_path, archive(program(body), FOUR), "no state dict")
    test_the_hand_made_pickle_is_sound(tmp_path)


def test_zip_archives(tmp_path: Path) -> None:
    sound = program(tensor(0, (4,), (1,)))
    named = {"archive/x": sound, "archive/data/0": FOUR["archive/data/0"]}
    twice = archive(sound, named).replace(b"archive/x", b"archive/y")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("archive/data.pkl", sound)
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("archive/data.pkl", program(b"N"))
    refuse(tmp_path, file.getvalue(), "archive/data.pkl: two zip records of one name")
    refuse(tmp_path, archive(sound, FOUR, zipfile.ZIP_BZIP2), "archive/data.pkl: zip record compressed by an unusual method")
    central = archive(sound, FOUR).index(b"PK\x01\x02")  # the directory's entry of archive/data.pkl
    method, size = (10, struct.pack("<H", zipfile.ZIP_DEFLATED)), (20, struct.pack("<I", 7))
    for (at, value), message in ((method, "damaged zip record"), (size, "a stored record of two sizes")):
        changed = bytearray(archive(sound, FOUR))
        changed[central + at : central + at + len(value)] = value
        refuse(tmp_path, bytes(changed), f"archive/data.pkl: .*{message}")
    refuse(tmp_path, archive(sound, {**FOUR, "archive/byteorder": b"big"}), "byte order; expected little, found big")
    refuse(tmp_path, archive(sound, {**FOUR, "other/data.pkl": sound}), "neither torch.save's nor NumPy's")
    refuse(tmp_path, twice.replace(b"archive/y", b"archive/z", 1), "no state dict")  # an unread record's name is nobody's business
    renamed = archive(sound, FOUR).replace(b"archive/data.pkl", b"archive/DATA.pkl", 1)
    refuse(tmp_path, renamed, "record and directory name it differently")
    shifted = bytearray(archive(sound, FOUR))
    shifted[-6:-2] = struct.pack("<I", len(shifted))  # where the directory is said to lie
    refuse(tmp_path, bytes(shifted), "a record before the file's start")
    damaged = archive(sound, FOUR).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")
    refuse(tmp_path, damaged, "archive/data.pkl: damaged: wrong checksum")


def legacy(tree: bytes, keys: Any, storages: bytes, system: Any = None, protocol: int = 1001) -> bytes:
    header = {"protocol_version": 1001, "little_endian": True} if system is None else system
    parts = (plain(protocol), plain(header), tree, plain(keys))
    return b"\x80\x02" + LEGACY_MAGIC + b"".join(map(program, parts)) + storages


def test_legacy_files(tmp_path: Path) -> None:
    tree = b"}" + plain("norm.weight") + tensor(0, (4,), (1,), of=storage()[:-2] + b"NtQ") + b"s"
    content = struct.pack("<q", 4) + FOUR["archive/data/0"]
    path = tmp_path / "sound.pth"
    path.write_bytes(legacy(tree, ["0"], content))
    with open_file(path) as (found, _, _):
        assert found["norm.weight"].read().tolist() == [0, 1, 2, 3]
    refuse(tmp_path, legacy(tree, ["0"], content[:-1]), "0: the file ends inside a storage")
    refuse(tmp_path, legacy(tree, ["0"], b""), "ends inside a storage")
    refuse(tmp_path, legacy(tree, ["0"], struct.pack("<q", 5) + content), "another size than its tensors say; expected 4, found 5")
    refuse(tmp_path, legacy(tree, [], content), "storages listed are not those used")
    refuse(tmp_path, legacy(tree, ["0", "0"], content * 2), "storages listed are not those used")
    refuse(tmp_path, legacy(tree, 7, content), "storages listed are not those used")
    refuse(tmp_path, legacy(tree, ["0"], content, protocol=1002), "unknown protocol; expected 1001, found 1002")
    refuse(tmp_path, legacy(tree, ["0"], content, system={"little_endian": False}), "another byte order")
    refuse(tmp_path, b"\x80\x02" + LEGACY_MAGIC + program(storage()) + program(b"}"), "a storage in the header")
    refuse(tmp_path, b"\x80\x02" + LEGACY_MAGIC, "ends inside a pickle")

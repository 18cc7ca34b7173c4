"""Fuzz the reader with atheris, by hand: `python tests/programs/fuzz_checkpoints.py SECONDS [CORPUS]` (pip install atheris).

Whatever the bytes, loading, inspecting and loading them as a port's file gives what they hold or a CheckpointError, in at most five
seconds and a bounded amount of memory.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scalablevit_ref", "zipfile", "pickletools", "json"]):
    import numpy as np

    import scalablevit_ref as sv
    from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, load_port
    from scalablevit_ref.checkpoints.inspect import inspect_file
    from scalablevit_ref.formats.pth import LEGACY_MAGIC

TINY = sv.ScalableViTConfig((2, 2, 2, 2), (2, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), num_classes=2, head="linear", in_chans=1)
LONGEST = 1 << 16


def seeds(folder: Path) -> None:
    """A sound file of each format and layout, and small ones that fuzzing changes to more effect."""
    params = sv.init_params(TINY, dtype="float16")
    for suffix in (".pth", ".safetensors", ".npz", ".msgpack"):
        for layout in ("official", "split", "channels_last"):
            sv.save_checkpoint(folder / f"{layout}{suffix}", params, TINY, layout=layout, force=True)
    few = {"norm.weight": params["norm.weight"], "stages.0.x.bias": params["norm.bias"]}
    np.savez_compressed(folder / "few.npz", allow_pickle=False, **few)
    torch = sys.modules["torch"]
    for kind in (True, False):
        torch.save(sv.to_backend(few, "torch"), folder / f"few{kind:d}.pth", _use_new_zipfile_serialization=kind)
    torch.save(sv.to_backend(params, "torch"), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("few1.pth", "official.pth"):
        with zipfile.ZipFile(folder / name) as archive:
            (folder / f"{name}.pkl").write_bytes(next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl")))
    np.save(folder / "one.npy", params["norm.weight"])


def packed(data: bytes) -> bytes:
    """A bare pickle as torch's archive holds it, a bare array as NumPy's, and what is an archive with sound checksums."""
    if data[:1] == b"\x80" and LEGACY_MAGIC not in data[:20]:
        records = {"archive/data.pkl": data} | {f"archive/data/{i}": bytes(4) for i in range(4)}
    elif data.startswith(b"\x93NUMPY"):
        records = {"norm.weight.npy": data}
    elif data.startswith(b"PK") and data[-1:] != b"!":
        return repaired(data)
    else:
        return data
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return out.getvalue()


def repaired(data: bytes) -> bytes:
    """Checksums are no obstacle to whoever makes a file: a zip archive gets those of its records."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.testzip()
            contents = {}
            for info in archive.infolist():
                with archive.open(info) as member:
                    member._expected_crc = None  # type: ignore[attr-defined]
                    contents[info.filename] = member.read(LONGEST)
    except Exception:  # not a zip archive that zipfile can read
        return data
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return out.getvalue()


def main() -> None:
    """Run for as long as the first argument says."""
    seconds = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary) / "corpus"
        folder.mkdir(exist_ok=True)
        seeds(folder)
        path = Path(temporary) / "input"

        def read(data: bytes) -> None:
            path.write_bytes(packed(data))
            for reader in (lambda file: load_checkpoint(file, allow_nonfinite=True), inspect_file, load_port):
                try:
                    reader(path)
                except CheckpointError as error:
                    if not str(error).isprintable():
                        raise AssertionError("an error of more than one line") from error

        options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1"]
        options += [f"-artifact_prefix={folder}/"]  # where it puts what it finds
        atheris.Setup([sys.argv[0], *options, str(folder)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

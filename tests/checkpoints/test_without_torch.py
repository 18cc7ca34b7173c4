"""The whole read path where torch, safetensors, msgpack, JAX and Flax cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

import scalablevit_ref as sv
from scalablevit_ref.checkpoints.convert import convert_file
from tests.support.checkpoints import DIGITS, SUFFIXES, TINY_MMDET, training_checkpoint
from tests.support.dialects import unbiased
from tests.support.flax_files import nested, packed

PROGRAM = """
    import json, sys, warnings

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("torch", "safetensors", "msgpack", "jax", "flax", "vit_pytorch"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())
    warnings.simplefilter("error")
    import contextlib, io
    import scalablevit_ref as sv
    from scalablevit_ref import cli
    from scalablevit_ref.checkpoints.inspect import manifest
    from scalablevit_ref.checkpoints import load_port

    def run(*arguments):
        out = io.StringIO()
        sys.argv = ["scalablevit-ref", *arguments]
        with contextlib.redirect_stdout(out):
            try:
                cli.app(prog_name="scalablevit-ref")
            except SystemExit as end:
                return end.code, out.getvalue()

    def check(good, what):
        if not good:
            raise AssertionError(what)

    files, folder = json.loads(sys.argv[1]), sys.argv[2]
    for group, paths in files.items():
        sums = set()
        for path in paths:
            if group == "port":
                params = load_port(path, heads=[1, 2], window_size=[3, None]).params
                sums.add((len(params), sorted(params)[0]))  # names of two ports
            else:
                config = sv.ScalableViTConfig(**json.loads(sys.argv[3])) if group == "mmdet" else None
                sums.add(json.dumps(manifest(sv.load_checkpoint(path, config=config).params)))
        check(len(sums) == (2 if group == "port" else 1), (group, len(sums)))
    chosen = [path for group in ("official", "port") for path in files[group]][:: int(sys.argv[4])]
    for i, path in enumerate(chosen):
        told = ["--heads", "1,2", "--window-size", "3,none"] if path in files["port"] else []
        check(run("inspect", path, "--sha256", *told)[0] == 0, path)
        target = folder + "/x" + (".npz", ".safetensors", ".msgpack")[i % 3]
        done = run("convert", path, target, "--force", *told, *(["--verify"] if i % 5 == 0 else []))
        check(done[0] == 0, (path, done))
        done = run("diff", path, target)
        check(done[0] == 0 and "The same" in done[1], (path, done))
    check(run("convert", chosen[0], folder + "/x.pth")[0] == 2, "a .pth")
    check(not {"torch", "safetensors"} & set(sys.modules), "imports")
    print(len(chosen))
"""


def make_files(folder: Path) -> dict[str, list[str]]:
    """A file of each format, layout, wrapper and dtype; all in a group hold the same weights."""
    files: dict[str, list[str]] = {"official": [], "mmdet": [], "float16": [], "bfloat16": [], "v1": [], "port": []}
    params, backbone = sv.init_params(DIGITS), sv.init_params(TINY_MMDET)

    def add(group: str, name: str) -> Path:
        files[group].append(str(folder / name))
        return folder / name

    for suffix in SUFFIXES:
        for layout in ("official", "split", "channels_last"):
            sv.save_checkpoint(add("official", f"{layout}{suffix}"), params, DIGITS, layout=layout)
        sv.save_checkpoint(add("mmdet", f"backbone-mmdet{suffix}"), backbone, TINY_MMDET, layout="mmdet")
    training, bare = training_checkpoint(params), sv.to_backend(params, "torch")
    training["model"] = bare  # as it was before the optimizer's step
    detector = {f"backbone.{name}": x for name, x in sv.to_state_dict(backbone, TINY_MMDET, layout="mmdet").items()}
    detector |= {"neck.bias": np.zeros(2, "float32")}
    v1 = sv.variant("digits", ssa_values="scaled")
    for name, tree, group in (
        ("training", training, "official"),
        ("bare", bare, "official"),
        ("prefixed", {f"module._orig_mod.{name}": x for name, x in bare.items()}, "official"),
        ("ema", {"model": None, "model_ema": {f"module.{name}": x for name, x in bare.items()}}, "official"),
        ("detector", {"meta": {"epoch": 12}, "state_dict": sv.to_backend(detector, "torch")}, "mmdet"),
        ("v1", sv.to_backend(sv.init_params(v1), "torch"), "v1"),
        ("float16", sv.to_backend(params, "torch", "float16"), "float16"),
        ("bfloat16", sv.to_backend(params, "torch", "bfloat16"), "bfloat16"),
        ("port", sv.to_backend(unbiased(), "torch"), "port"),
    ):
        torch.save(tree, add(group, f"{name}.pth"))
        torch.save(tree, add(group, f"{name}.legacy.pth"), _use_new_zipfile_serialization=False)
    for dtype in ("float16", "bfloat16"):
        for suffix in (".safetensors", ".msgpack"):
            convert_file(folder / f"{dtype}.pth", add(dtype, f"{dtype}{suffix}"))
    add("official", "flax.msgpack").write_bytes(
        packed({"params": nested(sv.to_state_dict(params, DIGITS, layout="channels_last"))})
    )
    np.savez(add("official", "theirs.npz"), **params)
    np.savez_compressed(add("official", "deflated.npz"), **params)
    safetensors.numpy.save_file(params, add("official", "theirs.safetensors"))
    for suffix in (".msgpack", ".npz", ".safetensors"):
        for layout in ("vit_pytorch", "flax_port_patched"):
            convert_file(folder / "port.pth", add("port", f"{layout}{suffix}"), layout=layout)
    return files


def test_every_format_layout_and_command(tmp_path: Path) -> None:
    """All are loaded and hold what their group does; some are inspected, converted with --verify and compared."""
    files = make_files(tmp_path)
    assert sum(map(len, files.values())) == 48
    arguments = [json.dumps(files), str(tmp_path), json.dumps(vars(TINY_MMDET)), "5"]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments], capture_output=True, text=True, check=False)
    assert done.stderr == "scalablevit-ref: backend 'torch' needs torch: pip install 'scalablevit-ref[torch]'\n"
    assert (done.returncode, done.stdout) == (0, "7\n")

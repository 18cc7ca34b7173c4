"""The ports' weights on the command line: what they are, into each other, and never into the official network's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref import CheckpointError
from scalablevit_ref.benchmark.contenders import vit_pytorch_module
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.load import load_port, open_checkpoint
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.weights import PORT_LAYOUTS
from scalablevit_ref.formats.lazy import is_lazy
from scalablevit_ref.testing import relative_l2
from tests.support.bit_patterns import assert_same_bits, distinct_bits
from tests.support.checkpoints import listing
from tests.support.dialects import CONFIG, images, parameters, unbiased
from tests.support.flax_files import msgpack, packed, unpack
from tests.support.recipe import TOLERANCE

SETTINGS = ("--heads", "1,2", "--window-size", "3,none")
OTHER = (
    "another network than the official one (its layers run SSA, MLP, MLP, IWSA; its reduction is dense, without LayerNorm and "
    "GELU; its LIM is dense; its head is another)"
)
REASON = f"a port's is {OTHER}, and no weights make one compute what the other does"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of vit_pytorch without norm biases, a published and a patched tree of the Flax port, and an official file."""
    folder = tmp_path_factory.mktemp("ports")
    torch.save(sv.to_backend(unbiased(), "torch"), folder / "port.pt")
    for name, patched in (("published", False), ("patched", True)):
        tree = flax_port.nested(parameters(flax_port.parameter_shapes(CONFIG, patched=patched), seed=3))
        (folder / f"{name}.msgpack").write_bytes(packed(tree))
    sv.save_checkpoint(folder / "official.npz", sv.init_params(sv.variant("digits")), sv.variant("digits"))
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of its own for each test, with those files in it."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "layout"),
    [("port.pt", "vit_pytorch"), ("published.msgpack", "flax_port"), ("patched.msgpack", "flax_port_patched")],
)
def test_inspect(run: Any, folder: Path, file: str, layout: str) -> None:
    code, out, _ = run("inspect", file)
    said = " ".join(out.split())
    assert code == 1  # heads and windows are not told
    assert f"layout {layout} network {OTHER}" in said
    assert "stages 1 / 2 layers from 8 channels head linear, 5 classes" in said
    assert "open heads and window_size show in no shape and are not told: give --heads and --window-size" in said
    code, out, _ = run("inspect", file, *SETTINGS)
    assert (code, "not told" in out) == (0, False)
    assert "heads 1 / 2 windows 3 / whole map" in " ".join(out.split())
    code, out, _ = run("inspect", file, "--json")
    document = json.loads(out)
    assert (code, document["layout"], document["config"], document["dtype"]) == (1, layout, None, "float64")
    assert document["open"].startswith("heads and window_size")
    document = json.loads(run("inspect", file, *SETTINGS, "--json")[1])
    assert (document["config"]["heads"], document["config"]["window_size"], document["open"]) == ([1, 2], [3, None], None)


@pytest.mark.parametrize("suffix", [".msgpack", ".safetensors", ".npz", ".pth"])
def test_from_vit_pytorch_to_flax_and_back(run: Any, folder: Path, suffix: str) -> None:
    target = f"x{suffix}"
    code, out, err = run("convert", "port.pt", target, "--to", "flax_port_patched", *SETTINGS, "--verify", "--sha256", "sums")
    assert (code, err) == (0, "")
    assert "vit_pytorch float64 to flax_port_patched float64" in out
    assert "agrees" in out
    expected = parameters(flax_port.parameter_shapes(CONFIG, patched=True), seed=3)
    if suffix == ".msgpack":  # a tree that Flax takes as it is
        theirs = msgpack.unpackb(Path(target).read_bytes(), ext_hook=unpack, raw=False)["params"]
        assert {"Conv_0", "Dense_0", "Transformer_1"} <= set(theirs)
        assert {name: x.shape for name, x in flax_port.flatten(theirs).items()} == {n: x.shape for n, x in expected.items()}
    told = () if suffix != ".pth" else SETTINGS  # a bare state dict holds no settings
    code, out, _ = run("convert", target, "back.pt", "--to", "vit_pytorch", *told, "--verify")
    assert (code, "agrees" in out) == (0, True)
    state = torch.load("back.pt", weights_only=True)
    assert_same_bits({name: x.numpy() for name, x in state.items()}, unbiased())
    for a, b in (("port.pt", target), (target, "back.pt")):
        assert run("diff", a, b)[:2] == (0, f"The same: configuration and all {len(state)} tensors.\n")
    sums = [run("inspect", file, "--sha256", "--json")[1] for file in ("port.pt", target)]
    assert json.loads(sums[0])["sha256"] == json.loads(sums[1])["sha256"]
    assert dict(reversed(line.split("  ")) for line in Path("sums").read_text().splitlines()) == json.loads(sums[0])["sha256"]


def test_settings_are_kept_beside_the_weights(run: Any, folder: Path) -> None:
    for suffix in (".safetensors", ".npz", ".msgpack"):
        convert_file("port.pt", f"x{suffix}", layout="flax_port_patched", heads=(1, 2), window_size=(3, None))
        assert load_port(f"x{suffix}").config == CONFIG
        assert load_port(f"x{suffix}", heads=(1, 2), window_size=(3, None)).config == CONFIG
        code, out, _ = run("inspect", f"x{suffix}", "--heads", "1")
        assert (code, "the file has other settings" in " ".join(out.split())) == (1, True)
        assert run("inspect", f"x{suffix}")[0] == 0
        with pytest.raises(CheckpointError, match=r"x.*heads, window_size: the file has other settings; expected \(1, 1\)"):
            load_port(f"x{suffix}", heads=1)
        convert_file(f"x{suffix}", f"y{suffix}", layout="vit_pytorch")
        assert load_port(f"y{suffix}").config == CONFIG
    with pytest.raises(CheckpointError, match=r"port\.pt: heads and window_size show in no shape: give heads= and window_size="):
        load_port("port.pt")
    convert_file("port.pt", "untold.npz")
    with pytest.raises(CheckpointError, match="heads and window_size show in no shape"):
        load_port("untold.npz")


def test_other_dtypes_and_formats(run: Any, folder: Path) -> None:
    code, out, _ = run("convert", "port.pt", "x.msgpack", "--dtype", "bfloat16", *SETTINGS, "--verify", "--json")
    document = json.loads(out)
    assert (code, document["layout"], document["dtype"], document["verify"]["agrees"]) == (0, "flax_port_patched", "bfloat16", True)
    assert 0 < document["verify"]["error"] < 0.02
    assert run("convert", "port.pt", "x.npz", "--num-classes", "5")[0] == 0
    assert load_port("x.npz", heads=CONFIG.heads, window_size=CONFIG.window_size).config == CONFIG
    code, out, _ = run("diff", "x.npz", "x.msgpack")
    assert (code, "A is float64, B is bfloat16" in out) == (1, True)


def test_what_changes_the_function_must_be_asked_for(run: Any, folder: Path) -> None:
    biased = unbiased() | {"layers.0.0.norm.b": np.full((1, 8, 1, 1), 0.5)}
    torch.save(sv.to_backend(biased, "torch"), "biased.pt")
    for source, to, reason in (
        ("biased.pt", "flax_port_patched", "biased.pt: layers.0.0.norm.b: the Flax port's norms have no bias"),
        ("port.pt", "flax_port", "port.pt: the published Flax port has a norm after its last stage"),
        ("published.msgpack", "vit_pytorch", "Transformer_1.LayerNorm_0.scale: the published Flax port has a norm"),
        ("published.msgpack", "flax_port_patched", "the published Flax port has a norm after its last stage"),
        ("patched.msgpack", "flax_port", "the published Flax port has a norm after its last stage"),
    ):
        before = listing(folder)
        code, out, err = run("convert", source, "x.safetensors", "--to", to, *SETTINGS, "--force")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert reason in err
        assert "--one-way" in err
        assert listing(folder) == before
        code, out, _ = run("convert", source, "x.safetensors", "--to", to, *SETTINGS, "--one-way", "--verify", "--force")
        assert (code, "DIFFERS" in out) == (1, True)
    document = json.loads(run("diff", "port.pt", "published.msgpack", "--json")[1])
    assert [row["name"] for row in document["differences"] if row["what"] == "only in B"] == ["layers.1.0.norm.g"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *[(("convert", "port.pt", "x.npz", "--to", layout), f"vit_pytorch weights cannot go into layout '{layout}': {REASON}")
          for layout in ("official", "mmdet", "split", "channels_last")],
        *[(("convert", "official.npz", "x.npz", "--to", layout), f"official weights cannot go into layout '{layout}': {REASON}")
          for layout in PORT_LAYOUTS],
        (("convert", "published.msgpack", "x.npz", "--to", "official"), "flax_port weights cannot go into layout 'official'"),
        (("diff", "official.npz", "port.pt"), "nothing to compare: one file's weights are a port's"),
        (("convert", "port.pt", "x.npz", "--to", "flax"), "unknown layout 'flax'"),
        (("convert", "port.pt", "x.npz", "--heads", "two"), "--heads must be a number, or one a stage between commas, got 'two'"),
        (("convert", "port.pt", "x.npz", "--heads", "1,none"), "--heads must be a number"),
        (("convert", "port.pt", "x.npz", "--heads", "1,2,3"), "heads must have one entry for each of the 2 stages"),
        (("convert", "port.pt", "x.npz", "--heads", "3"), "do not divide by heads = 3"),
        (("convert", "port.pt", "x.npz", "--heads", "0"), "heads must be"),
        (("convert", "port.pt", "x.npz", "--window-size", "3"), "give --heads with --window-size"),
        (("convert", "port.pt", "x.npz", "--verify"), "--verify runs the network, whose heads and windows show in no shape"),
        (("convert", "port.pt", "x.npz", "--heads", "1,2", "--window-size", "1999", "--verify"),
         "--verify: no image of 32 to 2048 pixels fits window_size (1999, 1999)"),
        (("convert", "port.pt", "x.npz", "--variant", "small"), "variant 'small' is of the official network"),
        (("convert", "port.pt", "x.npz", "--strip-head"), "nothing to strip or to fold"),
        (("convert", "port.pt", "x.npz", "--fold-scale"), "nothing to strip or to fold"),
        (("convert", "port.pt", "x.npz", "--num-classes-check", "7"), "number of classes; expected 7, found 5"),
        (("convert", "port.pt", "x.npz", "--config-json"), "x.npz: config.json is for the official network's weights"),
        (("convert", "official.npz", "x.npz", "--one-way"), "every layout of the official network is lossless"),
        (("convert", "official.npz", "x.npz", "--heads", "2"), "--heads and --window-size are told of a port's weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_refusals(run: Any, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    before = listing(folder)
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert listing(folder) == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".msgpack", ".safetensors", ".npz", ".pt"])
def test_files_change_no_bit(tmp_path: Path, suffix: str, dtype: str) -> None:
    if (suffix, dtype) == (".npz", "bfloat16"):
        return
    tree, source = distinct_bits(flax_port.parameter_shapes(CONFIG, patched=True), dtype), tmp_path / "source.msgpack"
    source.write_bytes(packed(flax_port.nested(tree)))
    for file, layout in ((f"a{suffix}", "vit_pytorch"), (f"b{suffix}", "flax_port_patched")):
        convert_file(source, tmp_path / file, layout=layout, allow_nonfinite=True)
        source = tmp_path / file
    found = load_port(source, heads=CONFIG.heads, window_size=CONFIG.window_size)
    assert_same_bits({name: found.params[name] for name in tree}, tree)
    assert len(found.params) == len(tree)
    with open_checkpoint(source) as opened:
        assert all(is_lazy(x) for x in opened.params.values())


def test_the_peer_computes_the_same_with_weights_from_flax(folder: Path) -> None:
    """A patched tree of the Flax port, through a file, into PyPI's vit_pytorch itself, strictly."""
    convert_file("patched.msgpack", "x.pt", layout="vit_pytorch")
    network = vit_pytorch_module().ScalableViT(**{name: value for name, value in vars(CONFIG).items() if value is not None})
    network.double().eval().load_state_dict(torch.load("x.pt", weights_only=True), strict=True)
    x = images((2, 3, 48, 48))
    tree = parameters(flax_port.parameter_shapes(CONFIG, patched=True), seed=3)
    ours = flax_port.scalable_vit(rearrange(x, "b c h w -> b h w c"), tree, CONFIG, patched=True)
    with torch.no_grad():
        assert relative_l2(network(torch.from_numpy(x)).numpy(), ours) <= TOLERANCE
    found = load_port("x.pt", heads=CONFIG.heads, window_size=CONFIG.window_size)
    assert relative_l2(vit_pytorch.scalable_vit(x, found.params, found.config), ours) <= TOLERANCE


def test_the_hub_s_name_is_no_reason_to_refuse_a_port(run: Any, files: Path, tmp_path: Path) -> None:
    """Its config.json is the official network's, and is written for that alone; asked for, it is refused."""
    target = tmp_path / "model.safetensors"
    assert run("convert", str(files / "port.pt"), str(target))[0] == 0
    assert listing(tmp_path) == ["model.safetensors"]
    code, _, err = run("convert", str(files / "port.pt"), str(target), "--force", "--config-json")
    assert (code, "config.json is for the official network's weights" in err) == (2, True)

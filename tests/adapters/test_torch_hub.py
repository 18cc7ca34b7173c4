"""The Hub's habits of the torch module: folders without a connection, names through `huggingface_hub` against a Hub of our own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.adapters.torch import ScalableViT
from scalablevit_ref.adapters.torch_hub import card
from scalablevit_ref.checkpoints import CheckpointError
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.inspect import inspect_file
from tests.support.checkpoints import DIGITS
from tests.support.hub_server import COMMIT, TOKEN, Hub, serving

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = sv.load_checkpoint(digits.CHECKPOINT)


def same(state: Any, params: Any) -> bool:
    return list(state) == list(params) and all(
        np.array_equal(sv.to_numpy(state[name]), sv.to_numpy(params[name])) for name in params
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would connect, or asks for an address, fails; and the Hub's library is not told that it is offline."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, forbidden)
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("no_network")
def test_a_folder_takes_no_connection(tmp_path: Path) -> None:
    """What is saved is read by every reader here; what `convert` writes is read by `from_pretrained`: the same bits."""
    network = ScalableViT.from_pretrained(digits.CHECKPOINT)
    assert not network.training
    assert network.save_pretrained(tmp_path / "a" / "saved") is None
    assert sorted(path.name for path in (tmp_path / "a" / "saved").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = ScalableViT.from_pretrained(str(tmp_path / "a" / "saved"), drop_path_rate=0.1)
    assert same(again.state_dict(), CHECKPOINT.params)
    assert again.config == CHECKPOINT.config
    assert again.stages[3][1].drop_path.rate == pytest.approx(0.1)
    found = sv.load_checkpoint(tmp_path / "a" / "saved")
    assert (found.config, found.metadata["variant"], found.metadata["epoch"]) == (CHECKPOINT.config, "digits", 25)
    assert inspect_file(tmp_path / "a" / "saved").problem is None
    for layout, target in ((None, "model.safetensors"), ("transformers", "folder")):
        (tmp_path / str(layout)).mkdir()
        convert_file(digits.CHECKPOINT, tmp_path / str(layout) / target, layout=layout)
        place = tmp_path / str(layout) / ("" if layout is None else target)
        assert same(ScalableViT.from_pretrained(place).state_dict(), CHECKPOINT.params)


def test_the_folder_is_overwritten_but_what_others_wrote(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "config.json").write_text(json.dumps({"mine": 3}))
    for seed in (1, 2):
        ScalableViT("digits", seed=seed).save_pretrained(tmp_path)
        assert same(sv.load_checkpoint(tmp_path).params, sv.init_params(DIGITS, seed=seed))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert json.loads((tmp_path / "config.json").read_text())["mine"] == 3


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    states = {name: sv.to_backend(sv.init_params(DIGITS, seed=seed), "torch") for seed, name in enumerate(("model", "model_ema"))}
    torch.save(states, tmp_path / "x.pth")
    ScalableViT.from_pretrained(tmp_path / "x.pth", variant="digits").save_pretrained(tmp_path / "out", license="cc-by-4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["pipeline_tag"], front["library_name"]) == (
        "cc-by-4.0",
        "image-classification",
        "scalablevit_ref",
    )
    for said in (
        "| channels | 16/32/48/64 |",
        "| parameters | 204,102 |",
        "| licence | cc-by-4.0 |",
        "| made from | `x.pth` (torch zip, layout official, an average over training), by `scalablevit_ref`",
        "arxiv.org/abs/2203.10790",
    ):
        assert said in text
    small = card(sv.variant("small"), {})
    assert "| multiply-adds | 4.27 G for an image of 224 x 224 pixels |" in small
    assert "| licence | unknown; the authors' repository has none |" in small
    assert "| made from | no checkpoint: its values were drawn, or trained since |" in small
    assert 'pipeline_tag: "image-feature-extraction"' in card(sv.variant("mmdet_small"), {})


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("./someone/model", {}, r"\./someone/model: no such folder or file here, and no name of a repository; expected org/name"),
        ("/someone/model", {}, "no such folder or file here"),
        ("model", {}, "no such folder or file here"),
        ("hf://model", {}, "no address of the Hub; expected hf://org/name, hf://org/name@revision or hf://org/name/file"),
        (str(ROOT), {"revision": "main"}, "revision= is for a name on the Hub; this is a folder or file here"),
        ("someone/model", {"local_files_only": True, "cache_dir": "nowhere"}, "hf://someone/model: not in the cache, and the Hub"),
    ],
)
def test_names_that_are_none(name: str, settings: dict[str, Any], message: str) -> None:
    """Are refused in one line, without a connection."""
    with pytest.raises(CheckpointError, match=message) as raised:
        ScalableViT.from_pretrained(name, **settings)
    assert "\n" not in str(raised.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Folders work, names of the Hub say which extra is missing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    network = ScalableViT("digits")
    network.save_pretrained(tmp_path)
    assert same(ScalableViT.from_pretrained(tmp_path).state_dict(), network.state_dict())
    message = r"^hf://someone/model is read by huggingface_hub: pip install 'scalablevit-ref\[hub\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        ScalableViT.from_pretrained("someone/model")
    with pytest.raises(ModuleNotFoundError, match=r"push_to_hub needs huggingface_hub: pip install 'scalablevit-ref\[hub\]'"):
        network.push_to_hub("someone/model")


PROGRAM = """
import os
import sys
import numpy as np
import scalablevit_ref as sv
from scalablevit_ref.adapters.torch import ScalableViT
from scalablevit_ref.checkpoints import CheckpointError
from scalablevit_ref.digits import CHECKPOINT

expected = sv.load_checkpoint(CHECKPOINT).params
assert "huggingface_hub" not in sys.modules


def same(params):
    return list(params) == list(expected) and all(np.array_equal(sv.to_numpy(params[n]), x) for n, x in expected.items())


def refused(call):
    try:
        call()
    except CheckpointError as error:
        assert "\\n" not in str(error)
        return str(error)


assert same(sv.load_checkpoint("hf://someone/digits").params)
assert same(sv.load_checkpoint("hf://someone/digits@main/model.safetensors").params)
sharded = sv.load_checkpoint("hf://someone/sharded")
assert same(sharded.params)
assert sharded.metadata["config_from"] == "config.json"
assert same(sv.load_checkpoint("hf://someone/several/digits.pth").params)
for tagged in (sv.load_checkpoint("hf://someone/several@v1"), sv.load_checkpoint("hf://someone/several@v1/tagged.pth")):
    assert same(tagged.params)
assert same(ScalableViT.from_pretrained("someone/several", revision="v1").state_dict())
network = ScalableViT.from_pretrained("someone/digits", revision="main")
assert same(network.state_dict())
print(refused(lambda: sv.load_checkpoint("hf://someone/several")))
print(refused(lambda: sv.load_checkpoint("hf://someone/nothing")))
print(refused(lambda: sv.load_checkpoint("hf://someone/digits@v2")))
print(refused(lambda: sv.load_checkpoint("hf://someone/several/digits.pht")))
print(refused(lambda: sv.load_checkpoint("hf://someone/empty")))
print(refused(lambda: network.push_to_hub("someone/mine", token="hf_of_nobody")))
print(network.push_to_hub("someone/mine", license="mit", commit_message="The digits", token=sys.argv[1]))
assert same(ScalableViT.from_pretrained("someone/mine").state_dict())
"""


def test_against_a_hub_of_our_own(tmp_path: Path) -> None:
    """By the real library over HTTP: fetched, refused in one line, uploaded; then offline from the cache, in every command."""
    pytest.importorskip("huggingface_hub")
    ScalableViT.from_checkpoint(digits.CHECKPOINT).save_pretrained(tmp_path / "digits")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "digits").iterdir()}
    pickled = digits.CHECKPOINT.read_bytes()
    hub = Hub(
        {"someone/digits": {**saved, "training.pt": b"0", "far/model.safetensors": b"0"}, "someone/empty": {"README.md": b""}}
    )
    hub.repositories["someone/several"] = {"digits.pth": pickled, "another.pth": pickled}
    hub.repositories["someone/several@v1"] = {"tagged.pth": pickled}
    hub.repositories["someone/sharded"] = shards(saved["model.safetensors"], tmp_path) | {"config.json": saved["config.json"]}
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with serving(hub):
        online = {**os.environ, **home, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, TOKEN], env=online, text=True, capture_output=True, check=False, cwd=ROOT
        )
    assert done.returncode == 0, done.stderr
    several = "a repository of several checkpoints: name one, hf://someone/several/digits.pth for one"
    log_in = "log in (`hf auth login`, or a token in HF_TOKEN)"
    assert done.stdout.splitlines() == [
        f"hf://someone/several: {several}; found digits.pth, another.pth",
        f"hf://someone/nothing: there is no such repository, or it is private: then {log_in}",
        "hf://someone/digits@v2: there is no such revision",
        "hf://someone/several/digits.pht: no such file in the repository (did you mean 'digits.pth'?)",
        "hf://someone/empty: a repository that holds no checkpoint; found README.md",
        f"hf://someone/mine: the Hub does not permit it: {log_in}",
        f"{hub.address}/someone/mine/commit/{COMMIT}",
    ]
    assert not any("training.pt" in asked or "far" in asked for asked in hub.asked)
    uploaded = hub.repositories["someone/mine"]
    assert sorted(uploaded) == ["README.md", "config.json", "model.safetensors"]
    assert uploaded["model.safetensors"] == saved["model.safetensors"]
    assert yaml.safe_load(uploaded["README.md"].decode().split("---")[1])["license"] == "mit"
    assert [commit["summary"] for commit in hub.commits] == ["The digits"]
    offline(tmp_path, {**os.environ, **home, "HF_HUB_OFFLINE": "1"})


COMMANDS = """
import json
import sys
from scalablevit_ref.cli import main

for sys.argv[1:] in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as end:
        print("exit code", end.code)
"""


def shards(content: bytes, folder: Path) -> dict[str, bytes]:
    """The same weights in two files with an index."""
    import safetensors.torch

    state = safetensors.torch.load(content)
    index, files, names = {}, {}, list(state)
    for number, part in ((1, names[:70]), (2, names[70:])):
        file = f"model-0000{number}-of-00002.safetensors"
        files[file] = safetensors.torch.save({name: state[name] for name in part}, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    document = {"metadata": {"total_size": sum(x.nbytes for x in state.values())}, "weight_map": index}
    return files | {"model.safetensors.index.json": json.dumps(document).encode()}


def offline(folder: Path, environment: dict[str, str]) -> None:
    """What was fetched is read from the cache by the commands, which say its name; what was not is refused in one line."""
    (folder / "images").mkdir()
    np.savez(folder / "images.npz", images=digits.test_images()[0][:4], labels=digits.test_images()[1][:4])
    name = "hf://someone/digits"
    commands = {
        f"inspect {name}": "file         hf://someone/digits ",
        f"convert {name} x.npz --verify": "hf://someone/digits -> x.npz",
        f"diff {name} x.npz": "The same: configuration and all 156 tensors.",
        f"evaluate images.npz --weights {name} --backend numpy --decoders 0": "top-1",
        f"verify --weights {name} --backend numpy --dtype float32": "hf://someone/digits, 2 images",
    }
    lines = [command.split() for command in [*commands, "inspect hf://someone/other"]]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(lines)],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        cwd=folder,
    )
    assert done.stdout.split().count("exit") == len(commands) + 1, done.stderr
    assert done.stdout.count("exit code 0") == len(commands), done.stdout + done.stderr
    for said in commands.values():
        assert said in done.stdout
    assert "scalablevit-ref: hf://someone/other: not in the cache, and HF_HUB_OFFLINE is set\n" in done.stderr

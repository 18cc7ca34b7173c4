"""`scalablevit-ref evaluate` as a user runs it, on some of the digits in every layout."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.adapters import onnx
from scalablevit_ref.evaluation import decoding, results
from tests.support.labelled import COUNT, LAYOUTS, NAMES, files, folders, labelled, npz, text
from tests.support.waiting import HANGS

WEIGHTS = ("--weights", str(digits.CHECKPOINT))
HERE = ("--decoders", "0", "--threads", "1")
"""No process of its own for images, and one thread: the tests share the cores."""


@pytest.fixture(scope="module")
def expected() -> dict[str, int]:
    """What NumPy counts, without any of this."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    images, labels = labelled()
    logits = sv.scalable_vit(digits.preprocess(images), checkpoint.params, checkpoint.config)
    order = np.argsort(-logits, axis=1)
    return {"top1": int((order[:, 0] == labels).sum()), "top5": int((order[:, :5] == labels[:, None]).any(axis=1).sum())}


def counts(document: dict[str, Any]) -> dict[str, int]:
    return {key: document[key]["correct"] for key in ("top1", "top5")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(run: Any, tmp_path: Path, expected: dict[str, int], layout: str) -> None:
    code, out, err = run("evaluate", *LAYOUTS[layout](tmp_path), *WEIGHTS, *HERE, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["images"], document["read"], document["damaged"]) == (COUNT, COUNT, {})
    assert counts(document) == expected


@pytest.mark.parametrize(
    "options",
    [
        ("--backend", "numpy", "--dtype", "float64"),
        ("--backend", "torch", "--dtype", "bfloat16", "--batch", "7"),
        ("--backend", "jax", "--batch", "25"),
        ("--backend", "onnx", "--batch", "60"),
        ("--backend", "openvino", "--batch", "16"),
    ],
    ids=" ".join,
)
def test_every_backend(run: Any, tmp_path: Path, expected: dict[str, int], options: Sequence[str]) -> None:
    if options[1] == "jax":
        pytest.importorskip("jax")
    code, out, err = run("evaluate", str(npz(tmp_path / "digits.npz")), *WEIGHTS, *HERE, *options, "--json")
    assert (code, err) == (0, "")
    assert counts(json.loads(out)) == expected


def test_an_onnx_file_with_a_batch_of_its_own(run: Any, tmp_path: Path, expected: dict[str, int]) -> None:
    """60 images in sevens: the last batch is filled up, and what fills it is not counted."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    onnx.export(checkpoint.params, checkpoint.config, tmp_path / "seven.onnx", image_size=112, batch=7)
    data = str(npz(tmp_path / "digits.npz"))
    code, out, _ = run("evaluate", data, "--weights", str(tmp_path / "seven.onnx"), *HERE, "--batch", "25", "--json")
    assert code == 0
    assert counts(json.loads(out)) == expected


def test_decoders_of_their_own_give_the_same(run: Any, tmp_path: Path, expected: dict[str, int]) -> None:
    code, out, err = run("evaluate", str(folders(tmp_path / "data")), *WEIGHTS, "--decoders", "2", "--batch", "13", "--json")
    assert (code, err) == (0, "")
    assert counts(json.loads(out)) == expected


def test_damaged_images_are_named_and_not_counted(run: Any, tmp_path: Path) -> None:
    data = folders(tmp_path / "data")
    broken = sorted(data.rglob("*.png"))[:2]
    broken[0].write_bytes(broken[0].read_bytes()[:40])
    broken[1].write_bytes(b"hello")
    names = [path.relative_to(data).as_posix() for path in broken]
    code, out, err = run("evaluate", str(data), *WEIGHTS, *HERE, "--json")
    document = json.loads(out)
    assert (code, err) == (1, "")
    assert (document["images"], document["read"], sorted(document["damaged"])) == (COUNT, COUNT - 2, names)
    code, out, _ = run("evaluate", str(data), *WEIGHTS, *HERE)
    assert code == 1
    assert "2 of 60 images could not be read; they are not counted." in out
    assert f"{names[1]}: not read: {broken[1]} is not an image in one of the formats" in out
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    code, out, err = run("evaluate", str(data), *WEIGHTS, *HERE)
    assert (code, out) == (2, "")
    assert "no image could be read; the first, 0/" in err


def test_classes_in_another_order_are_told(run: Any, tmp_path: Path) -> None:
    """Names that are sorted, where the network has them otherwise: a quarter is right, and the network is not to blame."""
    code, out, _ = run("evaluate", str(folders(tmp_path / "data", NAMES)), *WEIGHTS, *HERE)
    assert code == 0
    assert "their order is wrong. --classes FILE" in out


def test_tables(run: Any, tmp_path: Path, expected: dict[str, int]) -> None:
    """Every number in the CSVs adds up to the counts."""
    data, one, two = str(npz(tmp_path / "digits.npz")), tmp_path / "classes.csv", tmp_path / "confusions.csv"
    spoilt = {name: x * (0.2 if name == "head.3.weight" else 1) for name, x in sv.load_checkpoint(digits.CHECKPOINT).params.items()}
    sv.save_checkpoint(tmp_path / "spoilt.pth", spoilt, sv.variant("digits"))
    arguments = (data, "--weights", str(tmp_path / "spoilt.pth"), *HERE, "--by-class", str(one), "--confusions", str(two))
    code, out, err = run("evaluate", *arguments)
    assert (code, err) == (0, "")
    assert f"{one}: a line a class" in out
    rows = list(csv.DictReader(one.read_text(encoding="utf-8").splitlines()))
    mistakes = list(csv.DictReader(two.read_text(encoding="utf-8").splitlines()))
    top1 = sum(int(row["top1"]) for row in rows)
    assert sum(int(row["images"]) for row in rows) == COUNT
    assert sum(int(row["images"]) for row in mistakes) == COUNT - top1
    assert all(row["class"] != row["taken_for"] for row in mistakes)
    before = one.read_bytes()
    code, _, err = run("evaluate", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "--force" in err
    assert one.read_bytes() == before
    assert run("evaluate", *arguments, "--force")[0] == 0


def test_against_another(run: Any, tmp_path: Path) -> None:
    """What is lost by weights in 16 bits, and by random ones; the flips and the counts agree."""
    data, checkpoint = str(npz(tmp_path / "digits.npz")), sv.load_checkpoint(digits.CHECKPOINT)
    onnx.export(checkpoint.params, checkpoint.config, tmp_path / "half.onnx", image_size=112, float16=True)
    sv.save_checkpoint(tmp_path / "random.pth", sv.init_params(checkpoint.config), checkpoint.config)
    for other, same in (("half.onnx", True), ("random.pth", False)):
        code, out, err = run("evaluate", data, *WEIGHTS, *HERE, "--against", str(tmp_path / other), "--json")
        assert (code, err) == (0, "")
        document = json.loads(out)
        found = document["against"]
        assert found["wrong_to_right"] - found["right_to_wrong"] == found["top1"]["correct"] - document["top1"]["correct"]
        assert (found["same_class"]["images"] == COUNT) is same
        assert (found["mcnemar_p"] > 0.5) is same
    code, out, _ = run("evaluate", data, *WEIGHTS, *HERE, "--against", str(tmp_path / "random.pth"))
    assert "right answers become wrong" in out
    assert "more than chance explains (McNemar, p = " in out
    sv.save_checkpoint(tmp_path / "rgb.pth", sv.init_params(sv.variant("digits", in_chans=3)), sv.variant("digits", in_chans=3))
    code, _, err = run("evaluate", data, *WEIGHTS, *HERE, "--against", str(tmp_path / "rgb.pth"))
    assert (code, err.count("\n")) == (2, 1)
    assert "has 1 channels" in err


def test_a_journal_is_gone_on_with(run: Any, tmp_path: Path, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends midway: nothing is computed twice, the last line may be cut off, and the counts are those of one run."""
    data, journal = str(folders(tmp_path / "data")), tmp_path / "journal"
    arguments = ("evaluate", data, *WEIGHTS, *HERE, "--batch", "10", "--resume", str(journal), "--json")
    decode, calls = decoding.decode, []

    def interrupted(sources: Any, preprocessing: Any) -> Any:
        calls.append(len(sources))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return decode(sources, preprocessing)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", interrupted)
        assert run(*arguments)[0] == 130
    assert len(journal.read_text(encoding="ascii").splitlines()) == 1 + 3
    with journal.open("a", encoding="ascii") as file:
        file.write('{"of":[30,31')
    calls.clear()
    monkeypatch.setattr(decoding, "decode", lambda sources, p: calls.append(len(sources)) or decode(sources, p))
    code, out, _ = run(*arguments)
    assert (code, sum(calls)) == (0, 30)
    assert counts(json.loads(out)) == expected
    code, out, _ = run(*arguments)
    assert (code, sum(calls), json.loads(out)["images_per_second"]) == (0, 30, None)
    assert counts(json.loads(out)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--dtype", "bfloat16"), "its dtype was 'float32', now it is 'bfloat16'"),
        (("--backend", "numpy"), "its backends was ['torch'], now it is ['numpy']"),
        (("--weights", "random.pth"), "its networks was"),
        (("--against", "random.pth"), "its networks was"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_journal_of_another_run(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    sv.save_checkpoint("random.pth", sv.init_params(sv.variant("digits")), sv.variant("digits"))
    npz(Path("digits.npz"))
    assert run("evaluate", "digits.npz", *WEIGHTS, *HERE, "--resume", "journal")[0] == 0
    before = Path("journal").read_bytes()
    code, _, err = run("evaluate", "digits.npz", *WEIGHTS, *HERE, "--resume", "journal", *change)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert Path("journal").read_bytes() == before
    code, _, err = run("evaluate", "digits.npz", *WEIGHTS, *HERE, "--resume", "random.pth")
    assert (code, err.count("\n")) == (2, 1)


def evaluate_in(arguments: Sequence[str], *launcher: str) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, "-m", "scalablevit_ref", "evaluate", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_images(tmp_path: Path, expected: dict[str, int], count: int) -> None:
    """58 images, which neither number divides: every one is counted once, also those that could not be read."""
    data = folders(tmp_path / "data")
    sorted(data.rglob("*.png"))[0].write_bytes(b"")
    sorted(data.rglob("*.png"))[1].unlink()
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", str(count))
    arguments = (str(data), *WEIGHTS, *HERE, "--batch", "8", "--resume", str(tmp_path / "journal"), "--json")
    process = evaluate_in(arguments, *launcher)
    out, err = process.communicate()
    assert process.returncode == 1, err  # one image is damaged
    document = json.loads(out)
    assert (document["images"], document["read"], len(document["damaged"])) == (COUNT - 1, COUNT - 2, 1)
    lines = [json.loads(line) for path in tmp_path.glob("journal*") for line in path.read_text(encoding="ascii").splitlines()]
    seen = [i for line in lines for i in [*line.get("of", []), *map(int, line.get("damaged", {}))]]
    assert sorted(seen) == list(range(COUNT - 1))
    alone = evaluate_in(arguments)  # all is known: one process counts what several have found
    assert counts(json.loads(alone.communicate()[0])) == counts(document)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_run_that_is_killed_goes_on(tmp_path: Path, expected: dict[str, int]) -> None:
    """With decoders of its own, which do not outlive it."""
    journal = tmp_path / "journal"
    arguments = (str(folders(tmp_path / "data")), *WEIGHTS, "--batch", "1", "--decoders", "1", "--resume", str(journal), "--json")
    process = evaluate_in(arguments)
    end = time.monotonic() + HANGS
    while not journal.exists() or journal.read_bytes().count(b"\n") <= 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # which ends when nobody holds the pipes any more: no decoder is left
    done = journal.read_bytes().count(b"\n") - 1
    assert 3 <= done < COUNT
    out, err = evaluate_in(arguments).communicate()
    assert err == ""
    assert counts(json.loads(out)) == expected
    seen = [i for line in journal.read_text(encoding="ascii").splitlines()[1:] for i in json.loads(line)["of"]]
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "tensorflow2"), "unknown backend 'tensorflow2'"),
        (("--backend", "numpi"), "unknown backend 'numpi' (did you mean 'numpy'?)"),
        (("--dtype", "fp16"), "unknown dtype 'fp16'"),
        (("--device", "cuda", "--backend", "numpy"), "--device is PyTorch's"),
        (("--device", "cuda:7"), "device must be one that torch has"),
        (("--image-size", "224"), "no preprocessing is known for images of 1 channels of 224 pixels a side"),
        (("--meta", "meta.mat"), "--labels FILE gives it"),
        (("--labels", "nowhere.txt"), "nowhere.txt: there is no such file"),
        (("--by-class", "nowhere/x.csv"), "nowhere"),
        (("--resume", "nowhere/journal"), "nowhere"),
        (("--resume", "."), ".: a folder; expected a journal"),
        (("--resume", "digits.npz"), "not a journal of evaluate"),
        (("--against", "nowhere.pth"), "nowhere.pth: there is no such file"),
    ],
)
def test_bad_input_is_one_line(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments == ("--device", "cuda:7") and torch.cuda.device_count() > 7:
        pytest.skip("there are so many")
    npz(Path("digits.npz"))
    code, out, err = run("evaluate", "digits.npz", *WEIGHTS, *HERE, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_weights_without_a_classifier(run: Any, tmp_path: Path) -> None:
    config = sv.variant("digits", num_classes=0)
    sv.save_checkpoint(tmp_path / "features.pth", sv.init_params(config), config)
    code, _, err = run("evaluate", str(npz(tmp_path / "digits.npz")), "--weights", str(tmp_path / "features.pth"), *HERE)
    assert (code, err.count("\n")) == (2, 1)


def test_the_published_figure_is_beside_its_variant() -> None:
    """In the interval or not; SSA v1 and v3 of `small` are told apart."""
    labels = np.arange(1000)
    for hits, inside in ((831, True), (700, False)):
        top = np.stack([np.where(labels < hits, labels, labels + 1) for _ in range(5)], axis=1)
        for values in ("unscaled", "scaled"):
            document = results.Counted("x", sv.variant("small", ssa_values=values), labels, top).document()
            assert document["published"] == {"variant": "small", "top1_percent": 83.1, "inside": inside}
            assert document["ssa_values"] == values
    assert results.Counted("x", sv.variant("digits"), labels, top).document()["published"] is None


def test_nan_is_no_class() -> None:
    counted = results.Counted("x", None, np.zeros(2, np.int64), np.array([[-1] * 5, [0, 1, 2, 3, 4]]))
    document = counted.document()
    assert (document["images_with_nan"], document["top1"]["correct"], document["top5"]["correct"]) == (1, 1, 1)


def test_a_list_as_long_as_another_data_sets(run: Any, tmp_path: Path) -> None:
    """The labels of other images, as many as there are: no error can tell, but the answers do."""
    shifted = [str((int(label) + 1) % 10) for _, label, _ in files()]
    data = str(npz(tmp_path / "digits.npz"))
    code, out, _ = run("evaluate", data, *WEIGHTS, *HERE, "--labels", str(text(tmp_path / "labels", shifted)))
    assert code == 0
    assert "their order is wrong" in out

"""Labelled images in every layout: which images there are, of which class, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from scalablevit_ref.evaluation import Asked, open_dataset
from scalablevit_ref.evaluation.labels import imagenet_wnids, numbers_of, read_labels
from tests.support.labelled import COUNT, NAMES, files, flat, folders, hub, labelled, shards, tar, text

TEN = Asked(10)


def test_the_classes_of_imagenet_are_sorted() -> None:
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    assert (wnids[0], wnids[999]) == ("n01440764", "n15075141")  # tench, and toilet paper


def test_each_image_is_read_as_it_is(tmp_path: Path) -> None:
    expected = {name: content for name, _, content in files()}
    for data in (flat(tmp_path / "flat"), shards(tmp_path / "shards")):
        asked = Asked(10, labels=text(tmp_path / "labels", [f"{n} {label}" for n, label, _ in files()]))
        found = open_dataset(data, asked)
        assert len(found) == COUNT
        for i in np.random.default_rng(0).permutation(COUNT):
            image = found.source(int(i)).read()
            assert (image.read_bytes() if isinstance(image, Path) else image) == expected[Path(found.names[i]).name]
        order = [int(Path(name).stem) for name in found.names]
        np.testing.assert_array_equal(found.labels, labelled()[1][order])


def test_a_class_without_images_shifts_nothing(tmp_path: Path) -> None:
    """Neither numbers nor ImageNet's names are counted off: an absent folder, and an empty one, are no other class's."""
    data = folders(tmp_path / "numbers")
    shutil.rmtree(data / "3")
    labels = labelled()[1]
    np.testing.assert_array_equal(np.sort(open_dataset(data, TEN).labels), np.sort(labels[labels != 3]))
    wnids = imagenet_wnids()[10:20]
    data = folders(tmp_path / "wnids", wnids)
    shutil.rmtree(data / wnids[3])
    np.testing.assert_array_equal(np.unique(open_dataset(data, Asked(1000)).labels), [10, 11, 12, *range(14, 20)])


def test_names_are_numbered_as_they_sort_only_if_all_are_there(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", NAMES)
    found = open_dataset(data, TEN)
    assert [found.classes[i] for i in range(10)] == sorted(NAMES)
    shutil.rmtree(data / "three")
    with pytest.raises(ValueError, match=r"has 9 classes, the network 10: which is which cannot be told; .*--classes FILE"):
        open_dataset(data, TEN)
    (data / "three").mkdir()
    assert open_dataset(data, TEN).classes[sorted(NAMES).index("three")] == "three"


def test_the_hubs_own_order_of_names_counts(tmp_path: Path) -> None:
    found = open_dataset(hub(tmp_path / "data"), TEN)
    np.testing.assert_array_equal(found.labels, labelled()[1])
    assert [found.classes[i] for i in sorted(found.classes)] == [name for i, name in enumerate(NAMES) if i in found.labels]


@pytest.mark.parametrize("words", ["n01440764 65 1 2 3", "n01440764"])
def test_kaggles_list(tmp_path: Path, words: str) -> None:
    """Of a prediction string the first word is the class."""
    rows = ["ImageId,PredictionString", f"ILSVRC2012_val_00000001,{words}", "ILSVRC2012_val_00000002,n15075141 1 2 3 4"]
    listed = read_labels(text(tmp_path / "LOC_val_solution.csv", rows), 0, None)
    labels = listed.of(["ILSVRC2012_val_00000001.JPEG", "x/ILSVRC2012_val_00000002.JPEG"])
    assert numbers_of(labels, 1000, None, "x") == {"n01440764": 0, "n15075141": 999}


def test_the_ground_truth_of_ilsvrc_needs_its_own_order(tmp_path: Path) -> None:
    """Its numbers are not the order that networks are trained in; the development kit tells whose they are."""
    random = np.random.default_rng(0)
    numbers = random.permutation(1000) + 1  # of the sorted classes
    dtype = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    synsets = np.array([*((int(n), w, 0) for n, w in zip(numbers, imagenet_wnids(), strict=True)), (1001, "n00001740", 8)], dtype)
    savemat(tmp_path / "meta.mat", {"synsets": synsets})
    classes = np.concatenate([np.arange(1000), random.integers(0, 1000, 49_000)])
    truth = text(tmp_path / "ILSVRC2012_validation_ground_truth.txt", [str(numbers[c]) for c in classes])
    with pytest.raises(ValueError, match=r"ILSVRC's own, which are not the order .* data/meta.mat with --meta"):
        read_labels(truth, 0, None)
    listed = read_labels(truth, 0, tmp_path / "meta.mat")
    labels = listed.of([f"ILSVRC2012_val_{i:08}.JPEG" for i in range(50_000)])
    placed = numbers_of(labels, 1000, None, "x")
    np.testing.assert_array_equal([placed[label] for label in labels], classes)
    with pytest.raises(ValueError, match=r"not the development kit's meta.mat"):
        read_labels(truth, 0, text(tmp_path / "no.mat", ["hello"]))


FLAT = [f"{n} {label}" for n, label, _ in files()]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (FLAT[:-1], r"has no label of 0059.png$"),
        (FLAT[:-3], r"has no label of 0057.png, nor of 2 more"),
        ([*FLAT, "0000.png 9" if FLAT[0].split()[1] != "9" else "0000.png 8"], r"0000.png has two labels"),
        ([line.split()[1] for line in FLAT[1:]], r"has 59 labels, but there are 60 images"),
        ([*(line.split()[1] for line in FLAT[1:]), "10"], r"class 10, but the network's classes are 0 to 9$"),
        ([str(i % 10 + 1) for i in range(60)], r"class 10, .* does the file count from 1\? --first-class 1 says so"),
        ([*FLAT[:30], "0031.png"], r"some lines have a name and a label, others, as '0031.png', have not"),
        ([], r"is empty"),
    ],
)
def test_another_list_of_labels(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "labels"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        open_dataset(flat(tmp_path / "data"), Asked(10, labels=path))


def test_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "a.parquet").write_bytes(b"no Parquet")
    (tmp_path / "a.npz").write_bytes(b"no npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    tar(tmp_path / "none.tar", [("readme.txt", b"hello")])
    tar(tmp_path / "bare.tar", [(n, c) for n, _, c in files()])
    (tmp_path / "x.tar.gz").write_bytes(b"")
    for name, message in {
        "empty": r"no images .* in this folder",
        "a.tar": r"not a plain tar, or cut off",
        "a.parquet": r"no Parquet file that can be read",
        "a.npz": r"not an npz of arrays",
        "other.npz": r"expected an array `images`.* found weights",
        "none.tar": r"no images in this tar",
        "bare.tar": r"0000.png has no label beside it .*; --labels FILE gives a list",
        "x.tar.gz": r"unpack it, or make it a plain .tar",
        "flat": r"0000.png lies in no class's folder, nor do 59 more images; --labels FILE",
    }.items():
        if name == "flat":
            flat(tmp_path / name)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name)) + r".*" + message):
            open_dataset(tmp_path / name, TEN)
    with pytest.raises(FileNotFoundError):
        open_dataset(tmp_path / "nothing", TEN)


def test_a_shard_that_is_cut_off(tmp_path: Path) -> None:
    """Wherever it is, between two members too: said, and nothing is evaluated without the lost images."""
    data = shards(tmp_path / "data")
    whole = (data / "00001.tar").read_bytes()
    for length in (len(whole) // 2 // 2048 * 2048, len(whole) // 2 + 100, 512 * 9 + 5, 1024):
        (data / "00001.tar").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"00001.tar: not a plain tar, or cut off"):
            open_dataset(data, TEN)

"""The embedded example: its images, its weights, and the script that made them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.checkpoints import load_checkpoint
from scalablevit_ref.digits import train

Dataset = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return train.load_digits()


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """What `train.main` sets for the whole process is put back."""
    threads, fill = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def test_splits_are_stratified_disjoint_and_complete(dataset: Dataset) -> None:
    _, labels = dataset
    parts = train.split(labels)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    assert [len(part) for part in parts] == [1177, 250, 370]
    for part, per_class in zip(parts[1:], (25, 37), strict=True):
        assert np.bincount(labels[part]).tolist() == [per_class] * 10


def test_splits_are_the_same_every_time(dataset: Dataset) -> None:
    _, labels = dataset
    np.random.default_rng().random()
    for first, second in zip(train.split(labels), train.split(labels.copy()), strict=True):
        assert np.array_equal(first, second)


def test_packaged_test_images_are_the_test_split(dataset: Dataset) -> None:
    images, labels = digits.test_images()
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert images.shape == (370, 8, 8)
    assert set(labels.tolist()) == set(range(10))
    everything, truth = dataset
    test = train.split(truth)[2]
    assert np.array_equal(images, everything[test])
    assert np.array_equal(labels, truth[test])


def test_no_test_image_equals_one_that_was_trained_or_selected_on(dataset: Dataset) -> None:
    everything, labels = dataset
    seen, held_out, _ = train.split(labels)
    known = {everything[i].tobytes() for i in np.concatenate([seen, held_out])}
    assert not [i for i, image in enumerate(digits.test_images()[0]) if image.tobytes() in known]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_preprocess_shape_and_dtype(dtype: str) -> None:
    x = digits.preprocess(digits.test_images()[0][:3], dtype)
    assert x.shape == (3, 1, 112, 112)
    assert x.dtype == np.dtype(dtype)


def test_preprocess_exact_values() -> None:
    """One inked pixel becomes a tent 28 pixels wide around its centre, between output pixels 14 · 3 + 6 and 14 · 3 + 7."""
    image = np.zeros((1, 8, 8), np.uint8)
    image[0, 3, 5] = 16
    rows, columns = (np.maximum(0, 1 - abs((np.arange(112) + 0.5) / 14 - (centre + 0.5))) for centre in (3, 5))
    expected = (np.outer(rows, columns) - digits.MEAN) / digits.STD
    x = digits.preprocess(image, "float64")[0, 0]
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-14)
    assert x[48, 76] == x[49, 77] == (27**2 / 28**2 - digits.MEAN) / digits.STD
    assert x[0, 0] == -digits.MEAN / digits.STD


def test_preprocess_keeps_a_uniform_image_uniform_inside() -> None:
    inside = digits.preprocess(np.full((1, 8, 8), 8, np.uint8), "float64")[0, 0, 7:-7, 7:-7]
    assert np.unique(inside).tolist() == [(0.5 - digits.MEAN) / digits.STD]


def test_training_images_are_normalised(dataset: Dataset) -> None:
    images, labels = dataset
    x = digits.preprocess(images[train.split(labels)[0]])
    assert abs(x.mean()) < 2e-3
    assert abs(x.std() - 1) < 2e-3


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 8, 8)), TypeError, "images must be a NumPy array of uint8, got float64"),
        ([[0]], TypeError, "images must be a NumPy array of uint8, got list"),
        (np.zeros((8, 8), np.uint8), ValueError, r"images must have shape \(n, 8, 8\), got \(8, 8\)"),
        (np.full((1, 8, 8), 17, np.uint8), ValueError, "images must hold values of 0 … 16, got 17"),
    ],
)
def test_preprocess_refuses(images: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        digits.preprocess(images)


def test_packaged_weights_are_small_and_fit_the_variant() -> None:
    assert digits.CHECKPOINT.stat().st_size <= 1_000_000
    checkpoint = load_checkpoint(digits.CHECKPOINT)
    assert checkpoint.config == sv.variant("digits")
    assert {x.dtype.name for x in checkpoint.params.values()} == {"float32"}


def test_packaged_weights_read_the_test_images() -> None:
    checkpoint = load_checkpoint(digits.CHECKPOINT)
    images, labels = digits.test_images()
    batches = np.split(digits.preprocess(images), range(37, 370, 37))
    logits = np.concatenate([sv.scalable_vit(batch, checkpoint.params, checkpoint.config) for batch in batches])
    assert (logits.argmax(1) == labels).mean() >= 0.985


def test_augment_of_no_strength_is_preprocess(dataset: Dataset) -> None:
    images = dataset[0][:16]
    augmented = train.augment(torch.from_numpy(images), torch.Generator(), strength=0.0)
    np.testing.assert_allclose(augmented.numpy(), digits.preprocess(images), rtol=0, atol=1e-5)


def test_augment_depends_on_its_generator_alone(dataset: Dataset) -> None:
    images = torch.from_numpy(dataset[0][:8])
    first, again, other = (train.augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (8, 1, 112, 112)


def test_one_training_step_lowers_the_loss(dataset: Dataset) -> None:
    config = sv.variant("digits")
    images, labels = torch.from_numpy(digits.preprocess(dataset[0][:32])), torch.from_numpy(dataset[1][:32])
    params = {name: p.requires_grad_() for name, p in sv.to_backend(sv.init_params(config), "torch").items()}
    optimizer = train.optimizer_of(params)
    before = train.loss_of(params, images, labels, config)
    before.backward()
    assert all(p.grad is not None for p in params.values())
    optimizer.step()
    assert train.loss_of(params, images, labels, config) < before - 0.05


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [train.learning_rate(step, 100) for step in range(100)]
    peak = rates.index(max(rates))
    assert rates[peak] == train.LEARNING_RATE
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.02 * train.LEARNING_RATE


@pytest.mark.usefixtures("torch_settings")
def test_training_twice_writes_the_same_weights(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = np.random.default_rng(0).permutation(1797)
    monkeypatch.setattr(train, "split", lambda labels: tuple(np.split(order[:90], [60, 75])))
    states = []
    for name in ("a.pth", "b.pth"):
        train.main(["--out", str(tmp_path / name), "--epochs", "1", "--threads", "1"])
        states.append(load_checkpoint(tmp_path / name).params)
    assert all(np.array_equal(states[0][name], states[1][name]) for name in sv.parameter_shapes(sv.variant("digits")))
    start = sv.init_params(sv.variant("digits"))
    assert all(not np.array_equal(states[0][name], start[name]) for name in start)
    assert capsys.readouterr().out.count("epoch 1 chosen; test accuracy") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--out", "weights.bin"], "--out must name a .pth file, got weights.bin"),
        (["--out", "nowhere/digits.pth"], "--out nowhere/digits.pth: there is no folder nowhere"),
        (["--out", str(digits.CHECKPOINT)], "exists; --force overwrites it"),
    ],
)
def test_bad_arguments_exit_with_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_package_itself_needs_numpy_alone() -> None:
    code = (
        "import sys, scalablevit_ref.digits as d; d.test_images(); print(*{'torch', 'sklearn', 'rich', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

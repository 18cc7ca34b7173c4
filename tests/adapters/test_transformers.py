"""transformers' own library on our models: its Auto classes, files, Trainer, pipelines, and heads on our backbone."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.checkpoints import CheckpointError
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.images import load_image
from scalablevit_ref.testing import random_images, random_params

pytest.importorskip("transformers")

import transformers

from scalablevit_ref.adapters.transformers import (
    ScalableViTBackbone,
    ScalableViTConfig,
    ScalableViTForImageClassification,
    ScalableViTImageProcessor,
    ScalableViTModel,
)

pytestmark = pytest.mark.usefixtures("as_in_production")  # what transformers traces and wraps is not checked at run time

SMALL: dict[str, Any] = {
    "embed_dims": (8, 16, 16, 24),
    "depths": (2, 1, 2, 2),
    "num_heads": (2, 2, 2, 2),
    "mlp_ratios": (2, 2, 2, 2),
    "sr_ratios": (4, 2, 2, 1),
    "c_ratios": (1.25, 1.25, 1.25, 1),
    "window_sizes": (2, 2, 2, 2),
    "num_classes": 5,
}
CONFIG = sv.ScalableViTConfig(**SMALL)
BACKBONE = replace(sv.variant("mmdet_small"), **SMALL | {"num_classes": 0, "c_ratios": (1.25, 1.25, 1.25, 1)})
IMAGES = torch.from_numpy(random_images((2, 3, 64, 64), dtype="float32"))


def folder_of(path: Path, config: sv.ScalableViTConfig = CONFIG, dtype: str = "float32") -> dict[str, np.ndarray]:
    """What `convert --to transformers` writes into `path`, of these weights."""
    params = random_params(sv.parameter_shapes(config), dtype=dtype)
    source = path.with_suffix(".safetensors")
    sv.save_checkpoint(source, params, config)
    convert_file(source, path, layout="transformers")
    return params


def same(state: Any, params: dict[str, Any]) -> bool:
    """The same names in the same order, and the same bits."""
    found = {name: sv.to_numpy(x) for name, x in state.items()}
    return list(found) == list(params) and all(found[name].tobytes() == sv.to_numpy(x).tobytes() for name, x in params.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_official_weights_both_ways(tmp_path: Path, dtype: str) -> None:
    """From `convert` to transformers' Auto classes, saved again by transformers, and read by `load_checkpoint`: the same bits."""
    params = folder_of(tmp_path / "one", dtype=dtype)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "one")
    assert type(model) is ScalableViTForImageClassification
    assert not model.training
    assert model.config.specification == CONFIG
    assert same(model.state_dict(), params)
    model.save_pretrained(tmp_path / "two")
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "two")
    assert same(again.state_dict(), params)
    back = sv.load_checkpoint(tmp_path / "two")
    assert (back.config, back.metadata["config_from"]) == (CONFIG, "config.json")
    assert same(back.params, params)


def test_what_transformers_wrote_says_the_same_to_both(tmp_path: Path) -> None:
    """The configuration's JSON is that of `convert`, but for what transformers adds; and the header's notes are not needed."""
    folder_of(tmp_path / "one")
    ours = json.loads((tmp_path / "one" / "config.json").read_text())
    config = ScalableViTConfig.from_pretrained(tmp_path / "one")
    config.save_pretrained(tmp_path / "two")
    theirs = json.loads((tmp_path / "two" / "config.json").read_text())
    assert {name: theirs[name] for name in ours if name != "label2id"} == {n: x for n, x in ours.items() if n != "label2id"}
    made = ScalableViTConfig.from_specification(CONFIG)
    assert made.to_dict() == config.to_dict() | {"dtype": None, "architectures": None, "_name_or_path": ""}
    assert made.specification == CONFIG


def test_the_defaults_are_the_specification_s() -> None:
    config = ScalableViTConfig()
    assert config.specification == sv.variant("small")
    assert {field.name for field in fields(sv.ScalableViTConfig)} <= set(config.to_dict())
    for name in ("small_0", "base", "large", "mmdet_small", "digits"):
        assert ScalableViTConfig.from_specification(name).specification == sv.variant(name)
        again = ScalableViTConfig.from_dict(json.loads(ScalableViTConfig.from_specification(name).to_json_string()))
        assert again.specification == sv.variant(name)


def test_transformers_own_words_for_settings() -> None:
    config = ScalableViTConfig(
        num_channels=1, hidden_sizes=[8, 16], depths=[2, 2], num_attention_heads=[2, 2], **PAIR, num_labels=2
    )
    assert (config.in_chans, config.embed_dims, config.num_classes) == (1, (8, 16), 2)
    assert ScalableViTConfig.from_dict(json.loads(config.to_json_string())).specification == config.specification  # two labels
    assert config.hidden_sizes == (8, 16)


PAIR: dict[str, Any] = {"mlp_ratios": [2, 2], "sr_ratios": [2, 1], "c_ratios": [1.25, 1], "window_sizes": [2, 2]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": (2, 2)}, "per-stage settings must all have the same length"),
        ({"hidden_sizes": (63, 128, 256, 512)}, "must be divisible by"),
        ({"head": "two"}, "head must be one of 'mlp', 'linear', 'none', got 'two'"),
        ({"drop_path_rate": 1.5}, "drop_path_rate must be at least 0 and below 1, got 1.5"),
        ({"out_features": ["stage9"]}, "out_features must be a subset"),
    ],
)
def test_settings_of_no_network(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        ScalableViTConfig(**settings)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("folders") / "model"
    folder_of(path)
    return path


def test_the_models_compute_the_specification(folder: Path) -> None:
    """Logits, the last map and its mean, and the stages' maps: bit for bit what the functions give on torch's tensors."""
    model = ScalableViTForImageClassification.from_pretrained(folder)
    params = dict(model.named_parameters())
    found = model(IMAGES, output_hidden_states=True)
    assert torch.equal(found.logits, sv.scalable_vit(IMAGES, params, CONFIG))
    features = [x.permute(0, 3, 1, 2) for x in sv.stage_features(IMAGES, params, CONFIG)]
    assert all(map(torch.equal, found.hidden_states, features))
    base = transformers.AutoModel.from_pretrained(folder)
    assert type(base) is ScalableViTModel
    assert same(base.state_dict(), {name: x for name, x in params.items() if not name.startswith("head")})
    trace = sv.trace(IMAGES, params, CONFIG)
    given = base(IMAGES)
    assert torch.equal(given.last_hidden_state, trace["norm"].permute(0, 3, 1, 2))
    assert torch.equal(given.pooler_output, trace["norm"].mean((1, 2)))
    assert given.hidden_states is None
    as_tuple = base(IMAGES, return_dict=False)
    assert torch.equal(as_tuple[0], given.last_hidden_state)
    with pytest.raises(
        ValueError, match=r"output_attentions: the weights of the attention are never whole in memory; scalablevit_ref"
    ):
        base(IMAGES, output_attentions=True)


def test_the_backbone_gives_the_stages_that_are_asked_for(folder: Path, tmp_path: Path) -> None:
    backbone = ScalableViTBackbone.from_pretrained(folder, out_features=["stage2", "stage4"])
    assert type(transformers.AutoBackbone.from_config(backbone.config)) is ScalableViTBackbone
    assert (backbone.out_features, backbone.out_indices) == (["stage2", "stage4"], [1, 3])
    assert backbone.channels == [16, 24]
    params = sv.load_checkpoint(folder).params
    maps = sv.stage_features(IMAGES.numpy(), params, CONFIG)
    found = backbone(IMAGES)
    assert found.hidden_states is None
    for y, k in zip(found.feature_maps, (1, 3), strict=True):
        assert np.allclose(y.detach().numpy(), maps[k].transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    assert same(backbone.state_dict(), {n: x for n, x in params.items() if not n.startswith(("norm", "head"))})
    backbone.save_pretrained(tmp_path / "again")
    assert same(ScalableViTBackbone.from_pretrained(tmp_path / "again").state_dict(), backbone.state_dict())
    assert ScalableViTBackbone.from_pretrained(folder, out_indices=[0]).out_features == ["stage1"]


def test_the_detection_backbone(tmp_path: Path) -> None:
    """Norms of the stages, maps of any size: as the authors' backbone, whose weights go into the folder in official names."""
    params = folder_of(tmp_path / "one", BACKBONE)
    backbone = ScalableViTBackbone.from_pretrained(tmp_path / "one", out_indices=[0, 1, 2, 3])
    assert same(backbone.state_dict(), params)
    images = IMAGES[..., :50, :]
    maps = sv.stage_features(images, dict(backbone.named_parameters()), BACKBONE)
    assert all(torch.equal(y, x.permute(0, 3, 1, 2)) for y, x in zip(backbone(images).feature_maps, maps, strict=True))
    assert sv.load_checkpoint(tmp_path / "one").config == BACKBONE


def test_a_classifier_becomes_a_backbone_with_norms(folder: Path) -> None:
    """Its weights, new norms after the stages alone; images of any size."""
    settings = {"stage_norms": True, "pad_windows": True, "out_indices": [0, 1, 2, 3]}
    backbone, said = ScalableViTBackbone.from_pretrained(folder, **settings, output_loading_info=True)
    assert set(said["missing_keys"]) == {f"norm_list.{k}.{part}" for k in range(4) for part in ("weight", "bias")}
    assert not said["unexpected_keys"]
    params = sv.load_checkpoint(folder).params
    assert same({n: x for n, x in backbone.state_dict().items() if n in params}, order(params, backbone))
    assert [x.shape[2:] for x in backbone(IMAGES[..., :37, :50]).feature_maps] == [(10, 13), (5, 7), (3, 4), (2, 2)]


def order(params: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """Those of a model's parameters that these are, in its order."""
    return {name: params[name] for name in model.state_dict() if name in params}


def test_initial_values_are_the_official_ones() -> None:
    """Drawn by torch's generator: other seeds, other values; deviations as `init_params` has them."""
    torch.manual_seed(1)
    state = ScalableViTForImageClassification(ScalableViTConfig.from_specification(CONFIG)).state_dict()
    torch.manual_seed(2)
    other = ScalableViTForImageClassification(ScalableViTConfig.from_specification(CONFIG)).state_dict()
    expected = sv.init_params(CONFIG)
    assert list(state) == list(expected)
    for name, x in expected.items():
        if x.ndim == 1:
            assert np.array_equal(state[name].numpy(), x), name
        else:
            assert not torch.equal(state[name], other[name]), name
            assert state[name].std().item() == pytest.approx(x.std(), rel=4 / np.sqrt(x.size)), name


def write_images(folder: Path) -> dict[str, Image.Image]:
    """Images of several sizes and modes, as files and as Pillow's."""
    random, found = np.random.default_rng(0), {}
    for name, mode, size in (
        ("wide.png", "RGB", (300, 241)),
        ("tall.png", "RGB", (150, 233)),
        ("grey.png", "L", (90, 60)),
        ("palette.png", "P", (260, 256)),
        ("alpha.png", "RGBA", (65, 33)),
        ("bits.png", "1", (64, 80)),
    ):
        coarse = random.integers(0, 256, (size[1] // 16 + 2, size[0] // 16 + 2, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize(size).convert(mode).save(folder / name)
        with Image.open(folder / name) as image:
            image.load()
        found[name] = image
    return found


@pytest.mark.parametrize("size", [224, 112])
def test_pixels_are_those_of_load_image(tmp_path: Path, size: int) -> None:
    """Bit for bit, whatever size and mode an image has; of arrays and tensors as of Pillow's."""
    shorter = {"shortest_edge": int(size * 256 / 224)}
    processor = ScalableViTImageProcessor(size=shorter, crop_size={"height": size, "width": size})
    for name, image in write_images(tmp_path).items():
        expected = load_image(tmp_path / name, size)
        (found,) = processor(image, return_tensors="np").pixel_values
        np.testing.assert_array_equal(found, expected, strict=True, err_msg=name)
        if image.mode == "RGB":
            array = np.asarray(image)
            for given in (array, torch.from_numpy(array.transpose(2, 0, 1).copy())):
                (found,) = processor(given, return_tensors="np").pixel_values
                np.testing.assert_array_equal(found, expected, strict=True, err_msg=name)


def test_the_processor_does_what_its_settings_say(tmp_path: Path) -> None:
    image = write_images(tmp_path)["wide.png"]
    processor = ScalableViTImageProcessor(do_center_crop=False, do_normalize=False, size={"height": 30, "width": 40})
    (found,) = processor(image, return_tensors="np").pixel_values
    expected = np.asarray(image.resize((40, 30), Image.Resampling.BICUBIC), np.float32).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(found, expected)
    processor.save_pretrained(tmp_path / "kept")
    again = ScalableViTImageProcessor.from_pretrained(tmp_path / "kept")
    np.testing.assert_array_equal(again(image, return_tensors="np").pixel_values[0], expected)
    (bare,) = processor(image, do_resize=False, do_rescale=False, return_tensors="np").pixel_values
    np.testing.assert_array_equal(bare, np.asarray(image).transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"images must be Pillow's, or arrays of uint8 with values of 0 to 255, got float64"):
        processor(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"scheme must be one of 'official', 'digits', got 'mine'"):
        ScalableViTImageProcessor(scheme="mine")(image)


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("folders") / "digits"
    convert_file(digits.CHECKPOINT, path, layout="transformers")
    return path


def test_the_folder_that_is_written_prepares_images_as_its_network_needs_them(
    of_digits: Path, folder: Path, tmp_path: Path
) -> None:
    """By AutoImageProcessor: the digits' own way, and the official one of the size that the network takes."""
    images = digits.test_images()[0][:5]
    processor = transformers.AutoImageProcessor.from_pretrained(of_digits)
    for given in (
        list(images[..., None]),
        [Image.fromarray(x) for x in images],
        [Image.fromarray(x).convert("RGB") for x in images],
    ):
        np.testing.assert_array_equal(processor(given, return_tensors="np").pixel_values, digits.preprocess(images), strict=True)
    official = transformers.AutoImageProcessor.from_pretrained(folder)
    image = write_images(tmp_path)["wide.png"]
    (found,) = official(image, return_tensors="np").pixel_values
    np.testing.assert_array_equal(found, load_image(tmp_path / "wide.png", 253))  # 224 is no size of whole windows of that network
    ScalableViTForImageClassification.from_pretrained(folder)(torch.from_numpy(found)[None])


def test_the_pipeline_reads_digits(of_digits: Path) -> None:
    images, labels = (x[:12] for x in digits.test_images())
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    expected = sv.scalable_vit(digits.preprocess(images), checkpoint.params, checkpoint.config).argmax(1)
    pipeline = transformers.pipeline("image-classification", model=str(of_digits), device="cpu")
    found = pipeline([Image.fromarray(x) for x in images], top_k=1)
    assert [int(answers[0]["label"]) for answers in found] == expected.tolist()
    assert (expected == labels).mean() > 0.9


class Digits(torch.utils.data.Dataset[Any]):
    """The first test images with their labels, as Trainer takes them."""

    def __init__(self, count: int) -> None:
        images, labels = digits.test_images()
        self.images, self.labels = torch.from_numpy(digits.preprocess(images[:count])), labels[:count]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixel_values": self.images[i], "labels": int(self.labels[i])}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_fine_tunes_digits(of_digits: Path, tmp_path: Path, checkpointing: bool) -> None:
    """With a new head of ten classes, a few steps; the loss falls, and what it saved is read by both."""
    torch.manual_seed(0)
    model = ScalableViTForImageClassification.from_pretrained(of_digits)
    torch.nn.init.zeros_(model.head.weight)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        activation_checkpointing=checkpointing,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Digits(16))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(np.log(10), abs=1e-3)
    assert losses[-1] < 0.7 * losses[0]
    trainer.save_model(str(tmp_path / "tuned"))
    tuned = sv.load_checkpoint(tmp_path / "tuned")
    assert same(ScalableViTForImageClassification.from_pretrained(tmp_path / "tuned").state_dict(), tuned.params)
    before = sv.load_checkpoint(digits.CHECKPOINT).params
    assert all(not np.array_equal(x, before[name]) for name, x in tuned.params.items() if name.endswith("weight"))


HEADS: dict[str, Any] = {
    "upernet": lambda backbone: transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            backbone_config=backbone,
            hidden_size=8,
            auxiliary_in_channels=16,
            auxiliary_channels=8,
            num_labels=3,
            pool_scales=[1, 2],
        )
    ),
    "mask2former": lambda backbone: transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(
            backbone_config=backbone,
            num_labels=3,
            num_queries=4,
            train_num_points=16,
            **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward"), 32),
            num_attention_heads=2,
            encoder_layers=1,
            decoder_layers=2,
        )
    ),
    "detr": lambda backbone: transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            backbone_config=backbone,
            num_labels=3,
            num_queries=4,
            d_model=16,
            **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
            **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
            **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16),
        )
    ),
}

MASK = torch.zeros(2, 64, 64, dtype=torch.int64).index_fill(1, torch.arange(20, 40), 2)
BOXES = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}] * 2
TARGETS: dict[str, dict[str, Any]] = {
    "upernet": {"labels": MASK},
    "mask2former": {
        "mask_labels": [torch.stack([m == 0, m == 2]).float() for m in MASK],
        "class_labels": [torch.tensor([0, 2])] * 2,
    },
    "detr": {"labels": BOXES},
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_heads_take_it_as_backbone(name: str, folder: Path, tmp_path: Path) -> None:
    """A forward pass and a training step that reaches every weight of the backbone; saved and loaded, the same bits."""
    torch.manual_seed(0)
    config = ScalableViTConfig.from_specification(BACKBONE, out_indices=[0, 1, 2, 3] if name != "detr" else [3])
    model = HEADS[name](config)
    backbone = next(part for part in model.modules() if isinstance(part, ScalableViTBackbone))
    before = {key: x.clone() for key, x in backbone.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = model.train()(IMAGES, **TARGETS[name]).loss
    loss.backward()
    unreached = [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unreached
    optimiser.step()
    assert any(not torch.equal(x, before[key]) for key, x in backbone.state_dict().items())
    with torch.no_grad():
        assert model(IMAGES, **TARGETS[name]).loss < loss
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    state, loaded = model.state_dict(), again.state_dict()
    assert list(state) == list(loaded)
    assert all(torch.equal(x, loaded[key]) for key, x in state.items())
    with torch.no_grad():
        one, two = model(IMAGES), again(IMAGES)
    assert all(torch.allclose(x, two[key], rtol=1e-4, atol=1e-6) for key, x in one.items() if isinstance(x, torch.Tensor))
    found = sv.load_checkpoint(tmp_path)
    assert found.config == BACKBONE
    assert same(backbone.state_dict(), found.params)


def test_what_is_not_written_for_transformers(tmp_path: Path) -> None:
    """Refused in one line, and nothing is left behind."""
    sv.save_checkpoint(tmp_path / "x.npz", sv.init_params(CONFIG), CONFIG)
    with pytest.raises(CheckpointError, match=r"out\.pth: transformers opens folders; expected the name of a folder"):
        convert_file(tmp_path / "x.npz", tmp_path / "out.pth", layout="transformers")
    with pytest.raises(CheckpointError, match=r"x\.npz: transformers opens folders"):
        convert_file(tmp_path / "x.npz", tmp_path / "x.npz", layout="transformers", force=True)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        convert_file(tmp_path / "x.npz", tmp_path / "no" / "folder", layout="transformers")
    with pytest.raises(CheckpointError, match="number of classes"):
        convert_file(tmp_path / "x.npz", tmp_path / "out", layout="transformers", num_classes=7)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    convert_file(tmp_path / "x.npz", tmp_path / "out", layout="transformers")
    with pytest.raises(FileExistsError, match=r"model\.safetensors exists"):
        convert_file(tmp_path / "x.npz", tmp_path / "out", layout="transformers")
    convert_file(tmp_path / "x.npz", tmp_path / "out", layout="transformers", force=True)
    assert convert_file(tmp_path / "x.npz", tmp_path / "out" / "model.safetensors", force=True).config_json is None
    other = replace(CONFIG, num_classes=7)
    sv.save_checkpoint(tmp_path / "y.npz", sv.init_params(other), other)
    assert convert_file(tmp_path / "y.npz", tmp_path / "out" / "model.safetensors", force=True).config_json == "stale"
    message = r"config\.json: this folder is transformers': layout='transformers' writes into it, or remove the file"
    with pytest.raises(CheckpointError, match=message):
        convert_file(tmp_path / "x.npz", tmp_path / "out" / "model.safetensors", config_json=True, force=True)


def test_a_folder_of_timm_s_becomes_transformers(tmp_path: Path) -> None:
    """timm's entries go, by which transformers would take it for timm's; others stay; a guess stays one."""
    (tmp_path / "out").mkdir()
    torch.save(sv.to_backend(sv.init_params(sv.variant("digits")), "torch"), tmp_path / "bare.pth")
    convert_file(tmp_path / "bare.pth", tmp_path / "out" / "model.safetensors", config_json=True)
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mine": 3}))
    done = convert_file(tmp_path / "bare.pth", tmp_path / "out", layout="transformers", force=True)
    assert {"architecture", "pretrained_cfg", "scalablevit_ref"} <= set(done.config_json_replaced)
    found = json.loads(path.read_text())
    assert (found["mine"], "pretrained_cfg" in found) == (3, False)
    transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "again")
    assert sv.load_checkpoint(tmp_path / "again").metadata["config_from"] == "shapes"

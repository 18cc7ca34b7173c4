"""accelerate, transformers, the hub's mixin, peft and torchao."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.programs.producers.made import Made, Reading, file, network, of, producer, train, weights
from tests.programs.producers.trainers import without_torchvision

ACCELERATE: dict[str, Any] = {"library": "accelerate"}
TRANSFORMERS: dict[str, Any] = {"library": "transformers"}
HUB: dict[str, Any] = {"library": "huggingface_hub", "distribution": "huggingface-hub", "needs": ("huggingface_hub",)}
PEFT: dict[str, Any] = {"library": "peft"}
TORCHAO: dict[str, Any] = {"library": "torchao"}


@producer(**ACCELERATE, writes="`accelerator.save_model(model, folder)`", form=".safetensors")
def save_model(folder: Path) -> Made:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.save_model(accelerator.prepare(network()), str(folder / "m"))
    return file(folder / "m" / "model.safetensors")


@producer(**ACCELERATE, writes='the same, `max_shard_size="300KB"`: the folder', form="sharded safetensors")
def save_model_sharded(folder: Path) -> Made:
    from accelerate import Accelerator

    Accelerator(cpu=True).save_model(network(), str(folder / "m"), max_shard_size="300KB")
    assert (folder / "m" / "model.safetensors.index.json").exists()
    return file(folder / "m")


@producer(**ACCELERATE, writes="the same: the index", form=".safetensors.index.json")
def save_model_index(folder: Path) -> Made:
    return file(save_model_sharded(folder).path / "model.safetensors.index.json")


@producer(**ACCELERATE, writes="the same: one shard of several", form=".safetensors")
def save_model_one_shard(folder: Path) -> Made:
    shard = min(save_model_sharded(folder).path.glob("*.safetensors"))
    return file(shard, tell=("index.json",))


@producer(**ACCELERATE, writes="the same, a shard is missing", form="sharded safetensors")
def save_model_lost_shard(folder: Path) -> Made:
    at = save_model_sharded(folder).path
    lost = max(at.glob("*.safetensors"))
    lost.unlink()
    return file(at, tell=(lost.name,))


@producer(**ACCELERATE, writes="`save_model(…, safe_serialization=False)`, sharded", form="sharded .bin")
def save_model_bin(folder: Path) -> Made:
    from accelerate import Accelerator

    Accelerator(cpu=True).save_model(network(), str(folder / "m"), safe_serialization=False, max_shard_size="300KB")
    return file(folder / "m")


@producer(**ACCELERATE, writes="`accelerator.save_state(folder)`: model, optimiser, scheduler, random states", form="folder")
def save_state(folder: Path) -> Made:
    from accelerate import Accelerator

    model = network()
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    train(model, optimizer)
    accelerator.save_state(str(folder / "state"))
    return file(folder / "state", of(accelerator.unwrap_model(model)))


def pretrained() -> Any:
    """A `PreTrainedModel` around the network, as for the Trainer."""
    without_torchvision()
    from transformers import PretrainedConfig, PreTrainedModel

    class Config(PretrainedConfig):
        model_type = "scalablevit_task"

    class Task(PreTrainedModel):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.vit = network()
            self.post_init()

        def _init_weights(self, module: Any) -> None:
            pass

        def forward(self, images: Any, labels: Any = None) -> Any:
            logits = self.vit(images)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    return Task(Config(num_labels=10))


@producer(**TRANSFORMERS, writes="`PreTrainedModel.save_pretrained` of a wrapper (`vit.`): the folder", form="folder")
def save_pretrained(folder: Path) -> Made:
    model = pretrained()
    model.save_pretrained(str(folder / "m"))
    return file(folder / "m", of(model.vit))


@producer(**TRANSFORMERS, writes="the same: `model.safetensors`, with the foreign config.json beside it", form=".safetensors")
def save_pretrained_file(folder: Path) -> Made:
    model = pretrained()
    model.save_pretrained(str(folder / "m"))
    return file(folder / "m" / "model.safetensors", of(model.vit))


@producer(**TRANSFORMERS, writes='the same, `max_shard_size="300KB"`', form="sharded safetensors")
def save_pretrained_sharded(folder: Path) -> Made:
    model = pretrained()
    model.save_pretrained(str(folder / "m"), max_shard_size="300KB")
    assert (folder / "m" / "model.safetensors.index.json").exists()
    return file(folder / "m", of(model.vit))


@producer(**TRANSFORMERS, writes="`Trainer`: `checkpoint-2` with training_args.bin, optimizer.pt, scheduler.pt", form="folder")
def hf_trainer(folder: Path) -> Made:
    model = pretrained()
    from transformers import Trainer, TrainingArguments

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, i: int) -> Any:
            return {"images": torch.randn(1, 112, 112), "labels": i}

    settings = TrainingArguments(
        output_dir=str(folder / "out"), max_steps=2, save_steps=2, per_device_train_batch_size=1, report_to=[], use_cpu=True
    )
    Trainer(model=model, args=settings, train_dataset=Images()).train()
    return file(folder / "out" / "checkpoint-2", of(model.vit))


@producer(**TRANSFORMERS, writes="the same: `training_args.bin` alone", form=".bin")
def training_args(folder: Path) -> Made:
    return file(hf_trainer(folder).path / "training_args.bin", tell=("TrainingArguments",))


@producer(**HUB, writes="`PyTorchModelHubMixin.save_pretrained`", form="folder")
def hub_mixin(folder: Path) -> Made:
    from huggingface_hub import PyTorchModelHubMixin

    class Task(nn.Module, PyTorchModelHubMixin):
        def __init__(self, num_classes: int = 10) -> None:
            super().__init__()
            self.encoder = network()

    model = Task(num_classes=10)
    model.save_pretrained(folder / "m")
    return file(folder / "m", of(model.encoder))


@producer(**HUB, writes='`save_torch_state_dict(…, max_shard_size="300KB")`', form="sharded safetensors")
def hub_sharded(folder: Path) -> Made:
    from huggingface_hub import save_torch_state_dict

    (folder / "m").mkdir()
    save_torch_state_dict(network().state_dict(), folder / "m", max_shard_size="300KB")
    return file(folder / "m")


@producer(**HUB, writes="`save_torch_state_dict(…, safe_serialization=False)`, sharded: the index", form=".bin.index.json")
def hub_bin_index(folder: Path) -> Made:
    from huggingface_hub import save_torch_state_dict

    (folder / "m").mkdir()
    save_torch_state_dict(network().state_dict(), folder / "m", max_shard_size="300KB", safe_serialization=False)
    (index,) = (folder / "m").glob("*.index.json")
    return file(index)


def lora() -> Any:
    without_torchvision()
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(network(), LoraConfig(r=2, target_modules=["qkv", "fc1"], init_lora_weights=False))
    model.get_input_embeddings = lambda: None
    return model


@producer(**PEFT, writes="`model.merge_and_unload()`, torch.save", form=".pth")
def lora_merged(folder: Path) -> Made:
    merged = lora().merge_and_unload()
    torch.save(merged.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", of(merged))


@producer(**PEFT, writes="the whole state dict of a LoRA model (`base_layer`, `lora_A`)", form=".pth")
def lora_whole(folder: Path) -> Made:
    model = lora()
    torch.save(model.state_dict(), folder / "x.pth")
    return file(folder / "x.pth", tell=("lora", "merge_and_unload"))


@producer(**PEFT, writes="`save_pretrained`: the adapter alone", form=".safetensors")
def lora_adapter(folder: Path) -> Made:
    lora().save_pretrained(str(folder / "m"), save_embedding_layers=False)
    return file(folder / "m" / "adapter_model.safetensors", tell=("lora",))


def torchao_quantised() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = network().eval()
    quantize_(model, Int8WeightOnlyConfig())
    return model


@producer(**TORCHAO, writes="`quantize_(model, Int8WeightOnlyConfig())`, torch.save", form=".pth")
def torchao_int8(folder: Path) -> Made:
    torch.save(torchao_quantised().state_dict(), folder / "x.pth")
    return file(folder / "x.pth", tell=("attn.qkv.weight", "Int8Tensor"))


@producer(
    "Hugging Face",
    writes="a folder with `config.json` and `README.md` only",
    form="folder",
    distribution="huggingface-hub",
    needs=("huggingface_hub",),
)
def empty_repository(folder: Path) -> Made:
    (folder / "m").mkdir()
    (folder / "m" / "config.json").write_text(json.dumps({"architectures": ["ViT"]}))
    (folder / "m" / "README.md").write_text("# model\n")
    return file(folder / "m", tell=("config.json",))


@producer(
    "Hugging Face",
    writes="a folder with `pytorch_model.bin` and `model.safetensors`",
    form="folder",
    distribution="safetensors",
    needs=("safetensors",),
)
def two_formats(folder: Path) -> Made:
    import safetensors.torch

    (folder / "m").mkdir()
    torch.save(network().state_dict(), folder / "m" / "pytorch_model.bin")
    safetensors.torch.save_file(network().state_dict(), folder / "m" / "model.safetensors", metadata={"format": "pt"})
    return Made(folder / "m", (Reading(weights(), may_refuse=True),))

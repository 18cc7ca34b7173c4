"""Folders as the Hugging Face Hub has them: what `adapters.torch.ScalableViT` saves, uploads and loads by its three methods."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_path, check_text
from scalablevit_ref.checkpoints import CheckpointError, save_checkpoint
from scalablevit_ref.checkpoints.download import Address, address_of, fetched, is_on_hub, one_line
from scalablevit_ref.checkpoints.hub import HUB_FILE
from scalablevit_ref.checkpoints.infer import exact_variant, near_variant
from scalablevit_ref.checkpoints.preparation import preparation
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.cost import cost
from scalablevit_ref.files.writing import write_contents

if TYPE_CHECKING:
    from scalablevit_ref.adapters.torch import ScalableViT

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@.+)?", re.ASCII)
"""What may be a repository's name; one that begins with a dot or a slash is meant to be here."""

CARD = "README.md"
"""The name of a model card."""

PAPER = "2203.10790"
"""The paper's number on arXiv."""


def pretrained(name: str | os.PathLike[str], revision: str | None, where: Mapping[str, Any]) -> Path:
    """The file or folder of that name: here, or in the Hub's cache. Raises CheckpointError for what is no name of either."""
    check_path("name", name)
    if not is_on_hub(name):
        if Path(name).exists():
            if revision is not None:
                raise CheckpointError("revision= is for a name on the Hub; this is a folder or file here", file=name)
            return Path(name)
        if not _REPOSITORY.fullmatch(os.fspath(name)):
            raise CheckpointError("no such folder or file here, and no name of a repository", file=name, expected="org/name")
    address = address_of(name if is_on_hub(name) else f"hf://{os.fspath(name)}")
    return fetched(replace(address, revision=revision or address.revision), **where)


def save_folder(network: ScalableViT, folder: Path, license: str | None) -> None:
    """Write a network's weights, configuration and card into a folder."""
    if license is not None:
        check_text("license", license)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError("a file; the Hub's are folders", file=folder, expected="the name of a folder")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {name: value for name, value in network.origin.items() if name != "file"}
    save_checkpoint(folder / HUB_FILE, network.state_dict(), network.config, metadata=metadata, config_json=True, force=True)
    if not os.path.lexists(folder / CARD):
        write_contents({folder / CARD: card(network.config, network.origin, license).encode()}, force=False)


def push_folder(network: ScalableViT, repository: str, license: str | None, options: Mapping[str, Any]) -> str:
    """Upload what `save_folder` writes, in one commit. Gives its address."""
    with extra("hub", "push_to_hub"):
        from huggingface_hub import ModelHubMixin

    class OnHub(ModelHubMixin):  # type: ignore[misc]
        """What the library asks of a model that it uploads."""

        def save_pretrained(self, save_directory: Path, **others: Any) -> None:
            save_folder(network, Path(save_directory), license)

    check_text("repo_id", repository)
    with one_line(Address(repository)):
        return str(OnHub().push_to_hub(repository, **options))


def card(config: ScalableViTConfig, origin: Mapping[str, Any], license: str | None = None) -> str:
    """A model card of what is known, in Markdown.

    Parameters
    ----------
    config
        Of the network.
    origin
        The metadata of the checkpoint that it was made from (`Checkpoint.metadata`), and its `file`; empty if it was from none.
    license
        Of the weights, as the Hub spells it; None is unknown.
    """
    name, size = exact_variant(config), preparation(config)[0]
    total = cost(config, (size, size))
    task = "image-classification" if config.num_classes else "image-feature-extraction"
    head = f"{config.head}, {config.num_classes:,} classes" if config.num_classes else "none"
    said = {
        "variant": name or near_variant(config),
        "channels": "/".join(map(str, config.embed_dims)),
        "blocks": "/".join(map(str, config.depths)),
        "classifier": head,
        "parameters": f"{total.parameters:,}",
        "multiply-adds": f"{total.multiply_adds / 1e9:,.2f} G for an image of {size} x {size} pixels",
        "paper": f"[Yang et al., ECCV 2022](https://arxiv.org/abs/{PAPER})",
        "licence": license or "unknown; the authors' repository has none",
        "made from": _origin(origin),
    }
    rows = "\n".join(f"| {what} | {value} |" for what, value in said.items())
    front = {"library_name": "scalablevit_ref", "license": license or "unknown", "pipeline_tag": task}
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    tags = json.dumps(["scalablevit", f"arxiv:{PAPER}"])
    return _CARD.format(front="\n".join([*lines, f"tags: {tags}"]), name=name or "custom", rows=rows)


def _origin(origin: Mapping[str, Any]) -> str:
    if not origin:
        return "no checkpoint: its values were drawn, or trained since"
    ema = ", an average over training" if origin.get("ema") else ""
    return f"`{origin['file']}` ({origin['format']}, layout {origin['layout']}{ema}), by `scalablevit_ref`, with the official names"


_CARD = """---
{front}
---

# ScalableViT, {name}

| | |
|---|---|
{rows}

The weights have the names of the authors' code.

```python
from scalablevit_ref.adapters.torch import ScalableViT

network = ScalableViT.from_pretrained("FOLDER_OR_NAME")
```
"""

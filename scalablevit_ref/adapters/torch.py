"""ScalableViT as a `torch.nn.Module` whose state dict is the official one, and which computes by the specification's functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from einops import rearrange, reduce

from scalablevit_ref.adapters import extra
from scalablevit_ref.adapters.torch_hub import pretrained, push_folder, save_folder
from scalablevit_ref.arguments import check_count, check_flag, check_rate, check_seed
from scalablevit_ref.backends import to_backend
from scalablevit_ref.checkpoints import load_checkpoint
from scalablevit_ref.checkpoints.download import as_given
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checks import check_map, check_shapes
from scalablevit_ref.config import ScalableViTConfig, settled
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.parameters import children, init_params, parameter_shapes

with extra("torch"):
    import torch
    from torch import Tensor, nn

    from scalablevit_ref.adapters.torch_compiled import Compiled
    from scalablevit_ref.adapters.torch_layers import Block, Tensors, embedding, leaf, position, run_head


class ScalableViT(nn.Module):
    """Images b c h w to logits b classes: in eval mode `sv.scalable_vit`, bit for bit.

    Names, shapes and order of the state dict are `sv.parameter_shapes(config)`, those of the official checkpoints. The modules at
    `patch_embeds.k`, `pos_block.k`, `stages.k.i`, `stages.k.i.{norm1,attn,norm2,mlp}`, `norm_list.k`, `norm` and `head.*` take and
    give what `sv.trace` names so, maps as b h w c. Below them lie an `nn.Linear`, `nn.Conv2d` or `nn.LayerNorm` for each of the
    specification's operations that has parameters, and they are what runs: hooks there are called, and parametrisations, pruning,
    quantised modules and others that take the place of one have effect.

    On the meta device (`with torch.device("meta")`) nothing is drawn; `load_state_dict(state, assign=True)` gives it values.

    Parameters
    ----------
    config : ScalableViTConfig or str
        A configuration, or a variant's name; `overrides` change its settings.
    params : mapping, optional
        Initial values under the official names, arrays of any library, copied; None draws `sv.init_params(config, seed)`.
    seed : int
        Of the initial values that are drawn.
    drop_rate : float
        In training mode, as the official code has it: dropout of the patch embeddings, of each attention's and MLP's output and of
        the MLP's hidden units.
    attn_drop_rate : float
        In training mode: dropout of the attention weights.
    drop_path_rate : float
        In training mode: stochastic depth, by sample, rising linearly from 0 in the first block to this rate in the last. The
        official recipe has 0.2 to 0.5, and 0 for the other two rates.
    features_only : bool
        `forward` gives the tuple of all stages' maps, b c h w, as the official detection backbone does (without `stage_norms` in
        the config, unnormed). `norm` and `head` keep their parameters, unused, so that the same weights load.

    Raises
    ------
    ValueError or TypeError
        For a setting, a rate or parameters that do not fit.
    """

    norm: nn.Module
    block: type[Block] = Block

    def __init__(
        self,
        config: ScalableViTConfig | str = "small",
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        features_only: bool = False,
        **overrides: Any,
    ) -> None:
        super().__init__()
        config = settled(config, overrides)
        for name, rate in (("drop_rate", drop_rate), ("attn_drop_rate", attn_drop_rate), ("drop_path_rate", drop_path_rate)):
            check_rate(name, rate)
        check_flag("features_only", features_only)
        check_seed("seed", seed)
        shapes = parameter_shapes(config)
        if params is None:
            drawn = _drawn(config, seed)
        else:
            params = tensors_in(params)
            check_shapes(params, shapes)
            drawn = {name: to_backend(params[name], "torch") for name in shapes}
        self.config, self.features_only = config, features_only
        self.origin: dict[str, Any] = {}

        part = children(drawn)
        embeds, pegs, stages, norms = (children(part.get(n, {})) for n in ("patch_embeds", "pos_block", "stages", "norm_list"))
        eps, ks = config.norm_eps, [str(k) for k in range(config.num_stages)]
        strides = [config.patch_size, *[2] * (config.num_stages - 1)]
        embed_eps = config.embed_norm_eps or eps
        self.patch_embeds = nn.ModuleList(embedding(embeds[k], patch_size=strides[int(k)], eps=embed_eps) for k in ks)
        self.pos_block = nn.ModuleList(position(pegs[k]) for k in ks)
        self.pos_drops = nn.ModuleList(nn.Dropout(drop_rate) for _ in ks)
        self.norm_list = nn.ModuleList(leaf(p, eps=eps) for p in norms.values())
        drops = {"drop": drop_rate, "attn_drop": attn_drop_rate}
        self.stages = nn.ModuleList(
            nn.ModuleList(self.block(children(p), config, int(k), int(i), **drops) for i, p in children(stages[k]).items())
            for k in ks
        )
        if not config.stage_norms:
            self.norm = leaf(part["norm"], eps=eps)
        self.head = _head(config, part.get("head", {}))
        self.reset_drop_path(drop_path_rate)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        variant: str | None = None,
        layout: str | None = None,
        use_ema: bool = True,
        **options: Any,
    ) -> ScalableViT:
        """The network that a checkpoint file holds, in its dtype; `sv.load_checkpoint` reads all settings from the file.

        `options` are drop rates and `features_only`.
        """
        checkpoint = load_checkpoint(path, variant=variant, layout=layout, use_ema=use_ema)
        network = cls(checkpoint.config, params=checkpoint.params, **options)
        network.origin = checkpoint.metadata | {"file": Path(as_given(path)).name}
        return network

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **options: Any,
    ) -> ScalableViT:
        """The network in a folder, or of a name on the Hugging Face Hub, in eval mode.

        A folder or a file that is there is read as it is, and no connection is made: what `save_pretrained`, `convert` or
        transformers wrote. Any other name is the Hub's, whose own library (extra `hub`) fetches it into its cache.

        Parameters
        ----------
        name : str or path
            A folder, a file, or "org/name", which may end in "@revision".
        revision : str, optional
            A branch, a tag or a commit.
        token, cache_dir, force_download, local_files_only
            As `huggingface_hub` takes them.
        options
            Of `from_checkpoint`: drop rates, `features_only`, `variant`, `layout`, `use_ema`.

        Raises
        ------
        CheckpointError
            In one line, for what is no checkpoint, not there, or not to be had.
        ModuleNotFoundError
            For a name on the Hub, without its library: names the extra.

        Examples
        --------
        >>> network = ScalableViT.from_pretrained("someone/scalablevit-small")  # doctest: +SKIP
        """
        where = {"token": token, "cache_dir": cache_dir, "force_download": force_download, "local_files_only": local_files_only}
        return cls.from_checkpoint(pretrained(name, revision, where), **options).eval()

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        license: str | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write `model.safetensors` with the official names, `config.json` and, unless one is there, a model card `README.md`.

        As is usual there, weights and configuration that are in the folder are overwritten. Other entries of its `config.json` are
        kept. `sv.load_checkpoint(folder)`, `scalablevit-ref inspect folder` and timm read it.

        Parameters
        ----------
        folder : str or path
            Made if it is not there.
        license : str, optional
            Of the weights, as the Hub spells it ("mit"). None says that it is unknown: the authors' repository has none.
        push_to_hub : bool
            Upload it too.
        repo_id : str, optional
            As what it is uploaded; None is the folder's name.
        options
            Of `push_to_hub`.

        Returns
        -------
        str or None
            The address of the commit, where it was uploaded.
        """
        save_folder(self, Path(folder), license)
        if push_to_hub:
            return self.push_to_hub(repo_id or Path(folder).name, license=license, **options)
        return None

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Any) -> str:
        """Upload what `save_pretrained` writes, by `huggingface_hub.ModelHubMixin.push_to_hub`. Gives the address of the commit.

        Parameters
        ----------
        repo_id : str
            "org/name"; made if it is not there.
        license : str, optional
            As in `save_pretrained`.
        options
            `commit_message`, `private`, `token`, `branch`, `create_pr`, `allow_patterns`, `ignore_patterns`, `delete_patterns`.

        Raises
        ------
        CheckpointError
            In one line, where the Hub does not take it.
        ModuleNotFoundError
            Names the extra.
        """
        return push_folder(self, repo_id, license, options)

    def compiled(self) -> Compiled:
        """A copy for inference that AOTInductor compiles: called with images, it gives what this gives in eval mode.

        One graph for the images' shape as it is, without gradients, with the weights packed as constants. The first call with a new
        shape compiles: for `small` one to three minutes on two cores, and it takes a C++ compiler. The results differ from the
        eager ones by the order of sums. `scalablevit-ref bench --recommend` says what is fastest on a machine.

        Returns
        -------
        Compiled
            An `nn.Module` with the same state dict, always in eval mode. Weights and hooks are those of now: what is loaded into it
            later is compiled anew, and what becomes of this network does not reach it.

        Examples
        --------
        >>> network = ScalableViT.from_checkpoint("small.pth").compiled()  # doctest: +SKIP
        >>> network(images).argmax(1)  # doctest: +SKIP
        """
        return Compiled(self)

    @property
    def specification(self) -> ScalableViTConfig:
        """`config`, by the name that it has in every adapter for PyTorch."""
        return self.config

    @property
    def num_features(self) -> int:
        """Width of `forward_features`' result."""
        return self.config.num_features

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    def forward(self, images: Tensor) -> Any:
        """Logits b classes; with `features_only` the stages' maps, b c h w, strides 4, 8, 16, 32."""
        if self.features_only:
            return tuple(rearrange(x, "b h w c -> b c h w") for x in self._maps(images))
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """What the head sees, b c: the mean of the normed tokens, as the official `forward_features` (timm's give a map)."""
        return reduce(self._normed(self._maps(images)[-1]), "b h w c -> b c", "mean")

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits b classes of features b c."""
        logits: Tensor = run_head(features, self.head)
        return logits

    def _maps(self, images: Tensor, stages: int | None = None) -> list[Tensor]:
        """The map that each of the first stages ends with, b h w c; of all for None."""
        config = self.specification
        maps: list[Tensor] = []
        if isinstance(images, torch.fx.Proxy):  # it has no size to check, and einops does not know it
            x = images.permute(0, 2, 3, 1)
        else:
            check_map("images", images, "b c h w", channels=config.in_chans)
            weight = next(self.parameters())
            if not isinstance(images, Tensor):
                raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
            if images.device != weight.device:
                raise ValueError(f"images are on device {images.device} but the module is on {weight.device}")
            check_image_size(config, *images.shape[2:])
            x = rearrange(images, "b c h w -> b h w c")
        blocks: Any
        for k, blocks in enumerate(list(self.stages)[:stages]):
            x = self.pos_drops[k](self.patch_embeds[k](x))
            for i, block in enumerate(blocks):
                x = block(x)
                if i == 0:
                    x = self.pos_block[k](x)
            if config.stage_norms:
                x = self.norm_list[k](x)
            maps.append(x)
        return maps

    def _normed(self, x: Tensor) -> Tensor:
        """The last stage's map as the head sees its mean."""
        y: Tensor = x if self.specification.stage_norms else self.norm(x)
        return y

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new head: as in the official code one Linear, whatever was there before; none for 0 classes. `config` follows."""
        check_count("num_classes", num_classes, least=0)
        self.config = replace(self.config, head="linear", num_classes=num_classes)
        self.head = self._new_classifier(self.num_features, num_classes)

    def _new_classifier(self, width: int, num_classes: int) -> nn.Module:
        """A Linear with initial values as the official code draws them; none for 0 classes."""
        if not num_classes:
            return nn.Identity()
        like = next(self.parameters())
        weight = nn.init.trunc_normal_(torch.empty(num_classes, width, dtype=like.dtype, device=like.device), std=0.02)
        return leaf({"weight": weight, "bias": weight.new_zeros(num_classes)}).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute what is inside of each block again for the gradients, and do not keep it: less memory, more time."""
        check_flag("enable", enable)
        for module in self.modules():
            if isinstance(module, Block):
                module.checkpointed = enable

    def reset_drop_path(self, drop_path_rate: float) -> None:
        """Stochastic depth rising linearly from 0 to this rate over all blocks."""
        check_rate("drop_path_rate", drop_path_rate)
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        for block, rate in zip(blocks, torch.linspace(0, drop_path_rate, len(blocks), device="cpu").tolist(), strict=True):
            block.drop_path.rate = rate

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script asks for first. It reads source, and knows neither einops nor functions that are settings."""
        raise TypeError("torch.jit.script cannot read this module: torch.jit.trace, torch.export and torch.compile can")

    def no_weight_decay(self) -> set[str]:
        """The official answer: PEG's parameters. Gains and biases, of one axis, timm's optimiser leaves out itself."""
        return {name for name, _ in self.named_parameters() if name.startswith("pos_block.")}


def _drawn(config: ScalableViTConfig, seed: int) -> Tensors:
    """Initial values on torch's default device, which a `with torch.device(…)` says; on the meta device there are none."""
    device = torch.empty(0).device
    if device.type == "meta":
        return {name: torch.empty(shape) for name, shape in parameter_shapes(config).items()}
    return {name: value.to(device) for name, value in to_backend(init_params(config, seed), "torch").items()}


def _head(config: ScalableViTConfig, params: Tensors) -> nn.Module:
    """The classifier; it has no last Linear where there are no classes."""
    if config.head == "mlp":
        p = children(params)
        first, norm = leaf(p["0"]), leaf(p["1"], eps=config.norm_eps)
        return nn.Sequential(first, norm, nn.GELU(), leaf(p["3"]) if config.num_classes else nn.Identity())
    return leaf(params) if config.head == "linear" and config.num_classes else nn.Identity()

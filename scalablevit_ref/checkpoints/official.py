"""The official network's weights in a file, in any of its layouts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from scalablevit_ref.checkpoints.infer import UNSEEN, exact_variant, implied_config, near_variant, resolve_config
from scalablevit_ref.checkpoints.layouts import (
    LAYOUTS,
    from_canonical,
    layout_names,
    layout_of,
    layout_table,
    to_canonical,
    with_table_shapes,
)
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, option
from scalablevit_ref.formats.lazy import LazyTensor, Tensor, Tensors, in_memory, tensors_of
from scalablevit_ref.formats.moves import Move
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.weights import GUESSED, Cast, Stated, StateDict, Weights

CONFIG_FROM = {
    "config": "as given",
    "metadata": "stored in the file",
    "config.json": "stated in config.json beside the file",
    "variant": "as given",
    "args.model": "named by args.model in the file",
    "shapes": "the one whose shapes fit",
}
"""In words, what `Checkpoint.metadata["config_from"]` says."""


@dataclass(frozen=True, eq=False)
class OfficialWeights(Weights):
    """Under the official names."""

    config: ScalableViTConfig
    layouts: ClassVar = LAYOUTS

    hallmarks: ClassVar = frozenset({"attn"})
    head: ClassVar = "head"
    last_norm: ClassVar = "norm"

    @classmethod
    def names(cls) -> Collection[str]:
        return layout_names()

    @classmethod
    def layout_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> str:
        return layout_of(shapes)

    @classmethod
    def in_own_order(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        config = implied_config(shapes)
        return config is not None and list(parameter_shapes(config)) == list(shapes)

    @classmethod
    def widths(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        norms = {name.rpartition(".")[0]: shape for name, shape in shapes.items() if len(shape) == 1}
        return {name: shape[0] for name, shape in norms.items() if name.rpartition(".")[2].startswith("norm")}

    @classmethod
    def of(cls, found: StateDict, layout: str, stated: Stated) -> Self:
        if stated.heads is not None or stated.window_size is not None:
            settings = (option("heads"), " and ", option("window_size"))
            raise CheckpointError(*settings, " are told of a port's weights; the official network's have a variant")
        found = replace(found, state=with_table_shapes(found.state, layout))
        config, config_from = resolve_config(found, layout, config=stated.config, variant_name=stated.variant)
        params = to_canonical(tensors_of(found.state), config, layout)
        return cls(params, config, {"layout": layout, "variant": exact_variant(config), "config_from": config_from})

    @property
    def guessed(self) -> bool:
        return bool(self.metadata["config_from"] == GUESSED)

    @property
    def assumed(self) -> str | None:
        return f"{UNSEEN} and are not told; taken from the variant" if self.guessed else None

    def facts(self) -> dict[str, str]:
        config, variant = self.config, self.metadata["variant"] or near_variant(self.config)
        return {
            "variant": f"{variant} ({CONFIG_FROM[self.metadata['config_from']]})",
            "head": f"{config.head}, {config.num_classes} classes" if config.num_classes else config.head,
            "SSA": {"unscaled": "v3 (values keep c channels)", "scaled": "v1 (values have c' channels)"}[config.ssa_values],
        }

    def comparable(self) -> Tensors:
        return self.params

    def table(self) -> Sequence[Move]:
        return layout_table(self.config, self.layout)

    def default_layout(self, suffix: str) -> str:
        """That of the framework whose format it is; Flax users' kernels have their channels last."""
        return {".msgpack": "channels_last", ".h5": "keras", ".pdparams": "paddle"}.get(suffix, "official")

    def changed(self, *, strip_head: bool = False, fold_scale: bool = False) -> Self:
        """`fold_scale`: each SSA's r_c^-½ goes into its q, which is then float64 and not yet rounded; r_c = 1 changes nothing."""
        config, params = self.config, dict(self.params)
        if strip_head:
            config = replace(config, head="none", num_classes=0)
            params = {name: params[name] for name in parameter_shapes(config)}
        if fold_scale:
            if config.ssa_scale == "head_dim":
                expected, found = "ssa_scale='scaled'", "ssa_scale='head_dim'"
                raise CheckpointError("the scale of SSA is d^-½ already", expected=expected, found=found)
            config = replace(config, ssa_scale="head_dim")
            for k, (depth, ratio) in enumerate(zip(config.depths, config.c_ratios, strict=True)):
                queries = (f"stages.{k}.{i}.attn.q.{leaf}" for i in range(1, depth, 2) for leaf in ("weight", "bias"))
                params |= {name: _folded(params[name], ratio) for name in queries if name in params and ratio != 1}
        return replace(self, params=params, config=config)

    def in_layout(self, layout: str, *, one_way: bool, cast: Cast) -> dict[str, Tensor]:
        if one_way:
            raise CheckpointError(
                option("one_way", True), " is for a port's weights; every layout of the official network is lossless"
            )
        return from_canonical({name: cast(name, x) for name, x in self.params.items()}, self.config, layout)

    def hub_config(self, layout: str, file: str) -> dict[str, Any]:
        from scalablevit_ref.checkpoints.hub import hub_config

        return hub_config(self.config, layout, file=file, guessed=self.guessed)

    def outputs(self, images: np.ndarray) -> Any:
        from scalablevit_ref.networks import Official

        params = {name: in_memory(x).astype(np.float64) for name, x in self.params.items()}
        return Official(self.config).forward(images, params)


def _folded(x: Tensor, ratio: float) -> LazyTensor:
    """r_c^-½ times a tensor, in float64."""
    return LazyTensor(tuple(x.shape), np.dtype(np.float64), lambda: in_memory(x).astype(np.float64) * ratio**-0.5)

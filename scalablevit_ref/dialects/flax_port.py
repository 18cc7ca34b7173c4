"""conceptofmind/Scalable-ViT-flax: what it computes, from its own parameter tree.

vit_pytorch's network (`scalablevit_ref.dialects.port`) with these differences: the tanh GELU; SAME padding of strided
convolutions, which shifts the stem's and the downsamplings' grids and pads SSA's last tiles; norms without a shift; a norm after
the last stage too. Patched in four places (exact GELU; the stem's padding; the downsamplings'; no last norm) it computes what
vit_pytorch does with norms that do not shift; where SSA's tiles do not fill a map its padding is a fifth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalablevit_ref._typing import Array, Float, Params
from scalablevit_ref.arguments import check_flag, check_function, check_mapping, check_named
from scalablevit_ref.backends.einops import rearrange
from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checks import check_map, check_parameters, check_shapes
from scalablevit_ref.dialects.config import MOST_STAGES, Config, PerStage, check_config, check_depth, check_size, shapes
from scalablevit_ref.dialects.config import config_from_shapes as _config_from_shapes
from scalablevit_ref.dialects.port import Dialect, forward, traced
from scalablevit_ref.ops import gelu_tanh
from scalablevit_ref.parameters import Shapes

__all__ = ["Config", "config_from_shapes", "flatten", "nested", "parameter_shapes", "scalable_vit", "table", "trace"]

AS_PUBLISHED = Dialect(gelu=gelu_tanh, same_padding=True, norm_biases=False, last_norm=True)
PATCHED = Dialect(norm_biases=False)


@dataclass(frozen=True)
class Row:
    """One parameter: vit_pytorch's name of it, this port's, and the einops pattern that takes the former's axes to the latter's."""

    vit_pytorch: str
    flax: str
    pattern: str

    @property
    def inverse(self) -> str:
        return " -> ".join(reversed(self.pattern.split(" -> ")))


def table(depth: Sequence[int], *, patched: bool = False) -> tuple[Row, ...]:
    """Every parameter of the port, for that many layers a stage.

    The last stage's norm, which vit_pytorch lacks, has the name it would have there; patched, it is gone.

    Examples
    --------
    >>> table((1, 1))[27]
    Row(vit_pytorch='layers.0.0.layers.0.0.norm.g', flax='params.Transformer_0.PreNorm_0.LayerNorm_0.scale', pattern='1 c 1 1 -> c')
    """
    rows = []
    for module, port in _names(depth)[1].items():
        if module.endswith((".norm", ".net.0")):
            if not (patched and module == f"layers.{len(depth) - 1}.0.norm"):
                rows.append(Row(f"{module}.g", f"params.{port}.scale", "1 c 1 1 -> c"))
        elif module == "mlp_head.1":
            rows.append(Row(f"{module}.weight", f"params.{port}.scale", "c -> c"))
        else:
            kernel = "o i -> i o" if module == "mlp_head.2" else "o i kh kw -> kh kw i o"
            rows.append(Row(f"{module}.weight", f"params.{port}.kernel", kernel))
            if not module.endswith((".to_q", ".to_k", ".to_v")):
                rows.append(Row(f"{module}.bias", f"params.{port}.bias", "o -> o"))
    return tuple(rows)


_INNER = (  # the convolutions in each entry of a layer, in the order this port makes them
    ("to_q", "to_k", "to_v", "to_out.0"),
    ("net.1", "net.4"),
    ("proj",),
    ("net.1", "net.4"),
    ("local_interactive_module", "to_q", "to_k", "to_v", "to_out.0"),
)
_NORMS = ("0.norm", "1.net.0", "3.net.0", "4.norm")


def _names(depth: Sequence[int]) -> tuple[dict[str, str], dict[str, str]]:
    """vit_pytorch's paths to this port's: of what a trace sees, and of the modules that hold parameters."""
    seen = {"to_patches": "Conv_0", "mlp_head.0": "mean", "mlp_head.1": "LayerNorm_0", "mlp_head.2": "Dense_0", "logits": "logits"}
    holders = {name: seen[name] for name in ("to_patches", "mlp_head.1", "mlp_head.2")}
    for k, layers in enumerate(depth):
        stage, port = f"layers.{k}", f"Transformer_{k}"
        for j in range(layers):
            layer = f"{stage}.0.layers.{j}"
            kinds = (
                f"ScalableSelfAttention_{j}",
                f"MLP_{2 * j}",
                "PEG_0",
                f"MLP_{2 * j + 1}",
                f"InteractiveWindowedSelfAttention_{j}",
            )
            for i, (kind, inner) in enumerate(zip(kinds, _INNER, strict=True)):
                if kind != "PEG_0" or j == 0:
                    seen[f"{layer}.{i}"] = f"{port}.{kind}"
                    holders |= {f"{layer}.{i}.{name}": f"{port}.{kind}.Conv_{n}" for n, name in enumerate(inner)}
            holders |= {f"{layer}.{name}": f"{port}.PreNorm_{4 * j + n}.LayerNorm_0" for n, name in enumerate(_NORMS)}
        seen |= {f"{stage}.0.norm": f"{port}.LayerNorm_0", f"{stage}.0": port}
        holders[f"{stage}.0.norm"] = f"{port}.LayerNorm_0"
        if k < len(depth) - 1:
            seen[f"{stage}.1"] = f"Downsample_{k}"
            holders[f"{stage}.1.conv"] = f"Downsample_{k}.Conv_0"
    return seen, holders


def parameter_shapes(config: Config, *, patched: bool = False) -> Shapes:
    """Name and shape of every parameter, names joined by dots, sorted as JAX sorts a tree.

    Examples
    --------
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> parameter_shapes(config)["params.Transformer_0.PEG_0.Conv_0.kernel"]
    (3, 3, 1, 16)
    """
    check_config(config)
    check_flag("patched", patched)
    dialect = PATCHED if patched else AS_PUBLISHED
    theirs = shapes(config, norm_biases=dialect.norm_biases, last_norm=dialect.last_norm)
    ours = {}
    for row in table(config.depth, patched=patched):
        axes = dict(zip(row.pattern.split(" -> ")[0].split(), theirs[row.vit_pytorch], strict=True))
        ours[row.flax] = tuple(axes[axis] for axis in row.pattern.split(" -> ")[1].split())
    return dict(sorted(ours.items(), key=lambda item: item[0].split(".")))


def scalable_vit(
    images: Float[Array, "b h w c"], params: Params, config: Config, *, patched: bool = False, tap: Tap = untapped
) -> Float[Array, "b classes"]:
    """Class logits of **b h w c** images, as the port takes them. Each stage's map, ⌈size / stride⌉ tokens a side, must divide by
    its window.

    Parameters
    ----------
    images
        The batch, b h w c, as Flax has it.
    params
        The port's tree, nested or flat (names joined by dots or slashes), with or without its root `params`.
    config
        The settings that the parameters fit.
    patched
        Whether the port is mended to compute what vit_pytorch does; the norm after the last stage must then not be among the
        parameters. Dropout is left out.
    tap
        Sees each intermediate under vit_pytorch's name; what it returns is used.

    Raises
    ------
    ValueError, TypeError
        Before any work is done, for images or parameters that do not fit.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_images, random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(parameter_shapes(config))
    >>> scalable_vit(random_images((1, 64, 64, 3)), params, config).shape
    (1, 10)
    """
    check_config(config)
    check_flag("patched", patched)
    check_function("tap", tap)
    check_map("images", images, "b h w c", channels=config.channels)
    check_size(config, *images.shape[1:3], drops_tiles=patched)
    params = flatten(params)
    check_parameters(params, parameter_shapes(config, patched=patched), images, name="images")
    theirs = as_vit_pytorch(params, config)
    return forward(images, theirs, config, PATCHED if patched else AS_PUBLISHED, tap)


def as_vit_pytorch(params: Params, config: Config) -> dict[str, Any]:
    """The port's parameters, nested or flat, under vit_pytorch's names and with its axes."""
    params = flatten(params)
    rows = [row for row in table(config.depth) if row.flax in params]
    return {row.vit_pytorch: rearrange(params[row.flax], row.inverse) for row in rows}


def trace_names(config: Config) -> dict[str, str]:
    """vit_pytorch's names of what a trace sees to this port's."""
    return _names(config.depth)[0]


def trace(images: Float[Array, "b h w c"], params: Params, config: Config, *, patched: bool = False) -> dict[str, Any]:
    """What the port's modules return, maps b h w c, under their names: `Conv_0`, `Transformer_k.ScalableSelfAttention_j`,
    `Transformer_k.MLP_n`, `Transformer_k.PEG_0`, `Transformer_k.InteractiveWindowedSelfAttention_j`, `Transformer_k.LayerNorm_0`,
    `Transformer_k`, `Downsample_k`, `LayerNorm_0`, `Dense_0`; `mean`, which is no module's; and `logits`.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_images, random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(parameter_shapes(config))
    >>> list(trace(random_images((1, 64, 64, 3)), params, config))[:2]
    ['Conv_0', 'Transformer_0.ScalableSelfAttention_0']
    """
    seen = traced(lambda tap: scalable_vit(images, params, config, patched=patched, tap=tap))
    names = trace_names(config)
    return {names[name]: x for name, x in seen.items()}


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """The port's tree as a flat dict, names joined by dots, under the root `params`.

    Raises TypeError for no mapping, ValueError for two arrays of one path.

    Examples
    --------
    >>> flatten({"Dense_0": {"bias": 0.5}})
    {'params.Dense_0.bias': 0.5}
    """
    check_mapping("params", params, of="names to arrays")
    flat: dict[str, Any] = {}
    for path, x in _leaves(params):
        name = ".".join(path).replace("/", ".")
        if name in flat:
            raise ValueError(f"two arrays of one path, {name}")
        flat[name] = x
    return flat if any(name.startswith("params.") for name in flat) else {f"params.{name}": x for name, x in flat.items()}


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            for path, x in _leaves(value):
                yield (str(name), *path), x
        else:
            yield (str(name),), value


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: dicts of dicts, as Flax takes and `flax.serialization` writes them.

    Examples
    --------
    >>> nested({"params.Dense_0.bias": 0.5})
    {'params': {'Dense_0': {'bias': 0.5}}}
    """
    check_named("params", params)
    tree: dict[str, Any] = {}
    for name, value in params.items():
        *path, leaf = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = value
    return tree


def config_from_shapes(params: Mapping[str, Any], *, heads: PerStage, window_size: Any) -> Config:
    """The settings of a tree, patched or not. Heads and windows show in no shape: give one number, or one a stage.

    Raises ValueError or TypeError where they do not fit, or the tree is not that port's.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(parameter_shapes(config))
    >>> config_from_shapes(params, heads=2, window_size=None) == config
    True
    """
    flat = flatten(params)
    found = {name: tuple(getattr(value, "shape", ())) for name, value in flat.items()}
    depth: list[int] = []
    while len(depth) <= MOST_STAGES and f"params.Transformer_{len(depth)}.ScalableSelfAttention_0.Conv_0.kernel" in found:
        ssa = f"params.Transformer_{len(depth)}.ScalableSelfAttention_"
        depth.append(sum(name.startswith(ssa) and name.endswith(".Conv_0.kernel") for name in found))
    check_depth(depth, found)
    theirs = {}
    for row in table(depth):
        axes = row.pattern.split(" -> ")[1].split()
        if len(found.get(row.flax, ())) == len(axes):
            sizes = dict(zip(axes, found[row.flax], strict=True))
            theirs[row.vit_pytorch] = tuple(sizes.get(axis, 1) for axis in row.pattern.split(" -> ")[0].split())
    config = _config_from_shapes(theirs, heads=heads, window_size=window_size)
    check_shapes(flat, parameter_shapes(config, patched=f"params.Transformer_{len(depth) - 1}.LayerNorm_0.scale" not in flat))
    return config

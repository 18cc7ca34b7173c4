"""What a network costs, computed from its config alone: parameters, multiply-adds and activations of every layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from scalablevit_ref.config import BlockKind, ScalableViTConfig, check_config
from scalablevit_ref.image_sizes import check_image_size, map_sizes, sides
from scalablevit_ref.parameters import Shapes, block_kind, children, modules, parameter_shapes, scoped

LayerKind = Literal["patch_embed", "norm", "iwsa", "ssa", "mlp", "peg", "linear"]
"""What a layer of `Cost` is."""


@dataclass(frozen=True)
class LayerCost:
    """One layer on one image. A layer has parameters: the mean, the sums and the GELUs between layers are not listed.

    Parameters
    ----------
    name : str
        The official module's, as in `trace`.
    kind : str
        "patch_embed", "norm", "iwsa", "ssa", "mlp", "peg" or "linear".
    output_shape : tuple of int
        (h, w, c) in tokens and channels; (c,) from the mean over the tokens on.
    parameters : int
        Elements of its weights and biases.
    multiply_adds : int
        One for each weight of a linear layer or a convolution at each token it computes (offsets in a convolution's padding
        included), and those of attention. Biases, norms, GELU, softmax and sums are free. Where `pad_windows` pads a map, `qkv`,
        the windows and `lim_func` compute the padded tokens too.
    attention_multiply_adds : int
        The part of `multiply_adds` in the two products q kᵀ and A v.
    activations : int
        Elements put out by each linear layer, convolution and LayerNorm inside it, and of the attention matrix A over all heads.
        For attention these are q, k, v, A, SSA's reduced maps, LIM's and the output; for an MLP the hidden layer, before GELU,
        and the output.
    attention_activations : int
        The part of `activations` in A.

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> layer = cost(variant("small"), 224).layers[0]
    >>> layer.name, layer.output_shape, layer.multiply_adds
    ('patch_embeds.0', (56, 56, 64), 29503488)
    """

    name: str
    kind: LayerKind
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    attention_multiply_adds: int
    activations: int
    attention_activations: int


@dataclass(frozen=True)
class Cost:
    """Every layer in the order it runs (`trace`'s), and their totals for one image; units as in `LayerCost`.

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> total = cost(variant("small"), 224)
    >>> total.parameters, total.multiply_adds, total.module_multiply_adds
    (32000472, 4265295104, 4112766904)
    """

    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        """Elements of all weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """With the attention products."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def attention_multiply_adds(self) -> int:
        """Those of the attention products alone."""
        return sum(layer.attention_multiply_adds for layer in self.layers)

    @property
    def activations(self) -> int:
        """With the attention matrices."""
        return sum(layer.activations for layer in self.layers)

    @property
    def attention_activations(self) -> int:
        """Elements of the attention matrices alone."""
        return sum(layer.attention_activations for layer in self.layers)

    @property
    def module_multiply_adds(self) -> int:
        """As counters that look at modules have it: no attention products, but one more for each element a module puts out.

        This (biases and norms counted as one each) is the count that meets all of the authors' figures: 8.59 and 14.72 G for
        B and L, and 4.16 G for S with `ssa_values="scaled"`.
        """
        return self.multiply_adds - self.attention_multiply_adds + self.activations - self.attention_activations


PUBLISHED_SIZE = (224, 224)
"""Size of the images that the authors' figures are for: (height, width), in pixels."""


class Published(NamedTuple):
    """The authors' figures: millions of parameters, 10⁹ multiply-adds at 224 x 224, ImageNet-1k top-1 in percent."""

    parameters: float
    multiply_adds: float
    top1: float


PUBLISHED = {
    "small": Published(32.4, 4.2, 83.1),
    "base": Published(81.9, 8.6, 84.1),
    "large": Published(104.9, 14.7, 84.4),
}
"""Their figures by variant: the results table of their repository, github.com/Yangr116/ScalableViT, and of arXiv 2203.10790."""

NOTE_ON_COUNTING = (
    "The authors' multiply-adds leave the attention products out. They fit a count with one more for each element that a module "
    "puts out (biases and norms)."
)


def stage_of(name: str) -> str:
    """The number of the stage that a layer of this name is part of, vit_pytorch's too; "head" for what comes after the last.

    Examples
    --------
    >>> stage_of("stages.2.0.attn"), stage_of("norm")
    ('2', 'head')
    """
    stage = re.match(r"(?:patch_embeds|stages|pos_block|norm_list|layers)\.(\d+)", name)
    return stage[1] if stage else "head"


def cost(config: ScalableViTConfig, image_size: int | tuple[int, int]) -> Cost:
    """Parameters, multiply-adds and activations of each layer on one image, without running the network.

    Parameters
    ----------
    config : ScalableViTConfig
        The network.
    image_size : int or pair of int
        (height, width) or one number for both, in pixels.

    Raises
    ------
    ValueError
        For a size that the network does not take.
    TypeError
        For what is no size.

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> total = cost(variant("base"), 224)
    >>> total.multiply_adds, total.multiply_adds - total.attention_multiply_adds
    (8800993408, 8564043520)
    """
    check_config(config)
    h, w = sides(image_size)
    check_image_size(config, h, w)
    return Cost(tuple(_layers(config, h, w)))


def _layers(config: ScalableViTConfig, h: int, w: int) -> Iterator[LayerCost]:
    p = children(parameter_shapes(config))
    embeds, pegs, stages, norms = (children(p.get(part, {})) for part in ("patch_embeds", "pos_block", "stages", "norm_list"))
    for k, (rows, columns) in enumerate(zip(map_sizes(config, h), map_sizes(config, w), strict=True)):
        shape = (rows, columns, config.embed_dims[k])
        yield _layer(f"patch_embeds.{k}", "patch_embed", shape, embeds[str(k)])
        for i, block in enumerate(children(stages[str(k)]).values()):
            name, part = f"stages.{k}.{i}", children(block)
            yield _layer(f"{name}.norm1", "norm", shape, part["norm1"])
            yield _attention(f"{name}.attn", block_kind(i), shape, part["attn"], config, k)
            yield _layer(f"{name}.norm2", "norm", shape, part["norm2"])
            yield _layer(f"{name}.mlp", "mlp", shape, part["mlp"])
            if i == 0:
                yield _layer(f"pos_block.{k}", "peg", shape, pegs[str(k)])
        if config.stage_norms:
            yield _layer(f"norm_list.{k}", "norm", shape, norms[str(k)])
    if not config.stage_norms:
        yield _layer("norm", "norm", shape, p["norm"])
    for name, leaves in modules(scoped("head", p.get("head", {}))).items():
        width, *inputs = leaves["weight"]
        yield _layer(name, "linear" if inputs else "norm", (width,), leaves)


def _attention(
    name: str, kind: BlockKind, shape: tuple[int, int, int], params: Shapes, config: ScalableViTConfig, k: int
) -> LayerCost:
    """SSA: every token attends to one token for each whole s × s tile. IWSA: every token of a window to all of the window."""
    h, w, c = shape
    if kind == "iwsa":
        window = config.window_sizes[k]
        queries, keys = prod(side + -side % window for side in (h, w)), window**2
        tokens = {"qkv": queries, "lim_func": queries, "proj": h * w}
        widths = c + c
    else:
        queries, keys = h * w, (h // config.sr_ratios[k]) * (w // config.sr_ratios[k])
        tokens = {module: queries if module in ("q", "proj") else keys for module in modules(params)}
        widths = params["q.weight"][0] + params["proj.weight"][1]  # of q and k, and of v
    return _layer(name, kind, shape, params, tokens, products=queries * keys * widths, matrix=config.num_heads[k] * queries * keys)


def _layer(
    name: str,
    kind: LayerKind,
    output_shape: tuple[int, ...],
    params: Shapes,
    tokens: Mapping[str, int] | None = None,
    *,
    products: int = 0,
    matrix: int = 0,
) -> LayerCost:
    """Each module inside a layer has a weight whose first axis is the module's output channels; more axes mean products.

    `tokens` are how many each module puts out, as many as the layer where they are not given; `products` are attention's
    multiply-adds, `matrix` the elements of its matrix.
    """
    weights = {module: leaves["weight"] for module, leaves in modules(params).items()}
    count = tokens or dict.fromkeys(weights, prod(output_shape[:-1]))
    return LayerCost(
        name,
        kind,
        output_shape,
        parameters=sum(map(prod, params.values())),
        multiply_adds=products + sum(prod(shape) * count[module] for module, shape in weights.items() if len(shape) > 1),
        attention_multiply_adds=products,
        activations=matrix + sum(shape[0] * count[module] for module, shape in weights.items()),
        attention_activations=matrix,
    )

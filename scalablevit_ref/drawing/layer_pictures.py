"""Pictures of one layer from a config: what it does in order, with the shape on every arrow."""

from __future__ import annotations

from scalablevit_ref.attention import SSA_NORM_EPS
from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.cost import Cost, cost
from scalablevit_ref.drawing.diagram import Diagram
from scalablevit_ref.drawing.facts import Stage, amount, figures, several
from scalablevit_ref.drawing.flow import Rows, Step, placed, told
from scalablevit_ref.errors import printable
from scalablevit_ref.parameters import Shapes, block_kind, parameter_shapes

HWC = r"$h \times w \times c$"
"""Symbols of a map's shape."""


def layer_diagram(config: ScalableViTConfig, layer: str, image_size: tuple[int, int], *, name: str) -> Diagram:
    """What one layer does to one image's map: its modules in order, and the shapes between them. Arguments as of `draw`.

    A layer is `patch_embeds.K`, `pos_block.K`, `stages.K.I`, `stages.K.I.attn` or `stages.K.I.mlp`. Raises ValueError for one that
    the network does not have, and for a size that it does not take.
    """
    total = cost(config, image_size)
    _check_layer(config, layer)
    mine = Cost(tuple(found for found in total.layers if f"{found.name}.".startswith(f"{layer}.")))
    title, symbols, rows = _flow(DrawnLayer(config, layer, image_size))
    where = printable(f"{layer} of ScalableViT {name}, for an image of {figures(*image_size)} pixels")
    counted = f"{mine.parameters:,} parameters, {amount(mine.multiply_adds)} multiply-adds"
    diagram = placed(rows, title, where.replace("$", r"\$"), counted, *symbols)
    diagram.alt = f"{title}: {where}, with {counted}. {told(rows)}"
    return diagram


def _check_layer(config: ScalableViTConfig, layer: str) -> None:
    """Raise ValueError, with near matches and the choices, for a layer that is not there or is not drawn."""
    known = []
    for k, depth in enumerate(config.depths):
        known += [f"patch_embeds.{k}", f"pos_block.{k}"]
        known += [f"stages.{k}.{i}{part}" for i in range(depth) for part in ("", ".attn", ".mlp")]
    if layer not in known:
        last = ", ".join(str(depth - 1) for depth in config.depths)
        raise ValueError(
            f"unknown layer {layer!r}{near_matches(layer, known)}; there are patch_embeds.K, pos_block.K, stages.K.I, "
            f"stages.K.I.attn and stages.K.I.mlp for the stages K = 0 to {config.num_stages - 1}, whose last blocks I are {last}"
        )


class DrawnLayer(Stage):
    """The layer `name` of a network, in its stage; a block is number i."""

    def __init__(self, config: ScalableViTConfig, name: str, image_size: tuple[int, int]) -> None:
        numbers = [int(word) for word in name.split(".") if word.isdigit()]
        super().__init__(config, numbers[0], image_size)
        prefix = f"{name}."
        self.shapes: Shapes = {n.removeprefix(prefix): s for n, s in parameter_shapes(config).items() if n.startswith(prefix)}
        self.name, self.i, self.map = name, numbers[-1], (self.shape, HWC)
        self.before = Stage(config, self.k - 1, image_size).shape if self.k else figures(*image_size, config.in_chans)

    def linear(self, module: str) -> str:
        wide_out, wide_in = self.shapes[f"{module}.weight"]
        return f"Linear {wide_in} → {wide_out}"

    def split(self, channels: int) -> str:
        """How so many channels split over the heads."""
        return f"{several(self.heads, 'head')} of {channels // self.heads} channels"


def _flow(layer: DrawnLayer) -> tuple[str, list[str], Rows]:
    """A layer's title, lines that say what its symbols stand for, and its steps in rows."""
    part, *_, last = layer.name.split(".")
    if part == "patch_embeds":
        return (
            "Patch embedding",
            [rf"$h' = \lceil h/{layer.stride} \rceil,\ w' = \lceil w/{layer.stride} \rceil$"],
            _patch_embed(layer),
        )
    if part == "pos_block":
        return "PEG: position encoding generator", [], _peg(layer)
    if last == "mlp":
        return "MLP", [rf"$m = {layer.config.mlp_ratios[layer.k]:g}$ times as many channels inside"], _mlp(layer)
    kind = block_kind(layer.i)
    if last != "attn":
        return f"{kind.upper()} block", [], _block(layer)
    heads = rf"$H = {layer.heads},\ d = c/H = {layer.c // layer.heads}$"
    if kind == "iwsa":
        return "IWSA: interactive window self-attention", _iwsa_symbols(layer, heads), _iwsa(layer)
    return "SSA: scalable self-attention", _ssa_symbols(layer, heads), _ssa(layer)


def _layer_norm(eps: float) -> str:
    return f"LayerNorm, eps {eps:g}".replace("e-0", "e-")


def _softmax(scale: float) -> str:
    return rf"$\mathrm{{softmax}}(q\,k^{{\!\top}} \cdot {scale:g}^{{-1/2}})$"


def _patch_embed(layer: DrawnLayer) -> Rows:
    c, c_in, kernel, _ = layer.shapes["proj.weight"]
    does = (f"convolution {kernel} × {kernel}, {c_in} → {c},", f"stride {layer.stride}, padding {layer.stride - 1}")
    norm = _layer_norm(layer.config.embed_norm_eps or layer.config.norm_eps)
    out = layer.shape, r"$h' \times w' \times c$"
    x = Step("x" if layer.k else "image", gives=(layer.before, r"$h \times w \times c_\mathrm{in}$"))
    return [[x], [Step("proj", does, "conv", out)], [Step("norm", (norm,), "norm", out)], [Step("output")]]


def _peg(layer: DrawnLayer) -> Rows:
    x = Step("x", gives=layer.map)
    conv = Step("proj.0", ("depthwise 3 × 3, padding 1",), "conv", layer.map)
    return [[x], [conv], [Step(gives=layer.map, total=True, adds=x)], [Step("output")]]


def _mlp(layer: DrawnLayer) -> Rows:
    hidden = figures(layer.h, layer.w, layer.shapes["fc1.weight"][0]), r"$h \times w \times m c$"
    fc1 = Step("fc1", (layer.linear("fc1"),), "linear", hidden)
    gelu = Step("", ("GELU, exact (erf)",), "norm", hidden)
    fc2 = Step("fc2", (layer.linear("fc2"),), "linear", layer.map)
    return [[Step("x", gives=layer.map)], [fc1], [gelu], [fc2], [Step("output")]]


def _block(layer: DrawnLayer) -> Rows:
    """`network.block`: two branches, each with a norm before it, added to what they branch from."""
    kind, (hidden, c) = block_kind(layer.i), layer.shapes["mlp.fc1.weight"]
    (rows, columns), (down, across), p = layer.windows, layer.keys, layer.p
    attention = (
        f"IWSA: {rows * columns} windows of {p} × {p}"
        if kind == "iwsa"
        else f"SSA: {layer.h * layer.w} queries, {down * across} keys"
    )
    x = Step("x", gives=layer.map)
    norm1, norm2 = (Step(name, (_layer_norm(layer.config.norm_eps),), "norm", layer.map) for name in ("norm1", "norm2"))
    attn = Step("attn", (f"{attention}, {layer.heads} heads",), kind, layer.map)
    middle = Step(gives=layer.map, total=True, adds=x)
    mlp = Step("mlp", (f"Linear {c} → {hidden}, GELU, Linear {hidden} → {c}",), "linear", layer.map)
    total = Step(gives=layer.map, total=True, adds=middle)
    return [[step] for step in (x, norm1, attn, middle, norm2, mlp, total, Step("output"))]


def _ssa_symbols(layer: DrawnLayer, heads: str) -> list[str]:
    down, across, _ = _reduced(layer)
    fewer = rf",\ n' = {down} {across} = {layer.keys[0] * layer.keys[1]}" if down != "h/s" else ""
    narrow = rf",\ c′ = \lfloor r_c\,c \rfloor = {layer.shapes['q.weight'][0]}" if layer.s > 1 else ""
    return [rf"$n = h w = {layer.h * layer.w},\ s = {layer.s}{fewer},\ r_c = {layer.r_c:g}{narrow}$", heads]


def _reduced(layer: DrawnLayer) -> tuple[str, str, tuple[str, ...]]:
    """Symbols of the rows and columns of SSA's keys, and words on the rows and columns of the map that fill no tile."""
    dropped = [f"{side % layer.s} {what}" for side, what in ((layer.h, "rows"), (layer.w, "columns")) if side % layer.s]
    if not dropped:
        return "h/s", "w/s", ()
    return r"\lfloor h/s \rfloor", r"\lfloor w/s \rfloor", (f"the last {' and '.join(dropped)} dropped",)


def _ssa(layer: DrawnLayer) -> Rows:
    """`attention.ssa`: q in the first column, k in the second and v in the third."""
    s, n, keys = layer.s, layer.h * layer.w, layer.keys[0] * layer.keys[1]
    scaled, values = layer.shapes["q.weight"][0], layer.shapes["proj.weight"][1]
    down, across, dropped = _reduced(layer)
    few = "n" if s == 1 else "n'" if dropped else "n/s^2"
    wide = "c′" if s > 1 else "c"
    wide_v = wide if layer.config.ssa_values == "scaled" else "c"

    reduction = []
    if s > 1:
        tiles = figures(*layer.keys, layer.c), rf"${down} \times {across} \times c$"
        mixed = figures(*layer.keys, scaled), rf"${down} \times {across} \times c′$"
        reduction = [
            Step("reduction.0", (f"depthwise {s} × {s}, stride {s}", *dropped), "conv", tiles, (1, 2), grid=layer.keys),
            Step("reduction.1", (f"convolution 1 × 1, {layer.c} → {scaled}",), "conv", mixed, (1, 2)),
            Step("norm_act", (f"{_layer_norm(SSA_NORM_EPS)}, GELU",), "norm", mixed, (1, 2)),
        ]
    k, v = (figures(keys, scaled), rf"$K′\!:\ {few} \times {wide}$"), (figures(keys, values), rf"$V′\!:\ {few} \times {wide_v}$")
    projections = [Step("q", (layer.linear("q"),), "linear", (figures(n, scaled), rf"$Q′\!:\ n \times {wide}$"))]
    if "kv.weight" in layer.shapes:
        does = (f"{layer.linear('kv')}: halves k and v",)
        projections.append(Step("kv", does, "linear", {1: k, 2: v}, (1, 2), wide=True))
    else:
        projections.append(Step("k", (layer.linear("k"),), "linear", k, (1, 1)))
        projections.append(Step("v", (layer.linear("v"),), "linear", v, (2, 2)))
    scale = layer.c / layer.heads * (layer.r_c if layer.config.ssa_scale == "scaled" else 1)
    matrix = figures(layer.heads, n, keys), rf"$A\!:\ H \times n \times {few}$"
    z = figures(n, values), rf"$Z\!:\ n \times {wide_v}$"
    return [
        [Step("x", gives={1 if s > 1 else 0: layer.map}, span=(0, 2))],
        *([step] for step in reduction),
        projections,
        [Step("", (_softmax(scale), layer.split(scaled)), "ssa", matrix, (0, 1), wide=True)],
        [Step("", (r"$A\,v$", layer.split(values)), "ssa", z, (0, 2), wide=True)],
        [Step("proj", (layer.linear("proj"),), "linear", layer.map, (0, 2))],
        [Step("output", span=(0, 2))],
    ]


def _iwsa_symbols(layer: DrawnLayer, heads: str) -> list[str]:
    p, (rows, columns) = layer.p, layer.windows
    padded = rf"$\hat h = p\,\lceil h/p \rceil = {rows * p},\ \hat w = p\,\lceil w/p \rceil = {columns * p}$"
    return [rf"$p = {p},$  {heads}", *[padded] * layer.padded]


def _iwsa(layer: DrawnLayer) -> Rows:
    """`attention.iwsa`: the windows in the first column and LIM in the second."""
    p, c, (rows, columns), both = layer.p, layer.c, layer.windows, (0, 1)
    windows, full = rows * columns, figures(rows * p, columns * p, c)
    count = r"\hat h \hat w/p^2" if layer.padded else "hw/p^2"
    cut = figures(3, windows, p * p, c), rf"$3 \times {count} \times p^2 \times c$"
    attended = figures(windows, p * p, c), rf"${count} \times p^2 \times c$"
    attend = (_softmax(c / layer.heads) + r"$\,v$", "in each window,", layer.split(c))
    words = (f"cut into {several(windows, 'window')}", f"of {p} × {p} tokens")
    thirds = {0: (f"3 × {full}", "$q, k, v$"), 1: (full, "$V$")}
    lim = Step("lim_func", ("LIM: depthwise 3 × 3,", "padding 1"), "conv", (full, "$F(V)$"), (1, 1))
    inside: Rows = [
        [Step("qkv", (f"{layer.linear('qkv')}: thirds q, k and v",), "linear", thirds, both, wide=True)],
        [Step("", words, "norm", cut, grid=layer.windows)],
        [Step("", attend, "iwsa", attended), lim],
        [Step("", ("put the windows back",), "norm", (full, "$Z$"))],
        [Step(gives=(full, "$Z + F(V)$"), span=both, total=True)],
    ]
    if layer.padded:
        zeros = f"zeros at the right and bottom, to whole windows of {p} × {p}"
        pad = Step("", (zeros,), "norm", (full, r"$\hat h \times \hat w \times c$"), both)
        inside = [[pad], *inside, [Step("", ("cut the zeros' rows and columns off",), "norm", layer.map, both)]]
    proj = Step("proj", (layer.linear("proj"),), "linear", layer.map, both)
    return [[Step("x", gives=layer.map, span=both)], *inside, [proj], [Step("output", span=both)]]

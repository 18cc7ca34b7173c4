"""The data flow of one layer, with the shape on every arrow, from a config."""

from __future__ import annotations

from itertools import pairwise

from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.cost import Cost, cost
from scalablevit_ref.drawing.attention_flows import iwsa_flow, iwsa_symbols, ssa_flow, ssa_symbols
from scalablevit_ref.drawing.counts import amount, figures
from scalablevit_ref.drawing.diagram import Diagram
from scalablevit_ref.drawing.flow import Flow
from scalablevit_ref.drawing.layout import placed
from scalablevit_ref.drawing.place import HWC, Place, layer_norm
from scalablevit_ref.parameters import block_kind


def layer_diagram(config: ScalableViTConfig, layer: str, image_size: tuple[int, int], *, name: str) -> Diagram:
    """What one layer does to one image's map: its modules in order, and the shapes between them.

    layer: `patch_embeds.K`, `pos_block.K`, `stages.K.I`, `stages.K.I.attn` or `stages.K.I.mlp`.
    image_size: pixels, (height, width). name: what the picture calls the network.

    Raises ValueError for a layer that the network does not have and a size that it does not take.
    """
    total = cost(config, image_size)
    check_layer(config, layer)
    mine = Cost(tuple(found for found in total.layers if f"{found.name}.".startswith(f"{layer}.")))
    title, symbols, flow = _flow(Place.of(config, layer, image_size))
    where = f"{layer} of ScalableViT {name}, for an image of {figures(*image_size)} pixels"
    counted = f"{mine.parameters:,} parameters, {amount(mine.multiply_adds)} multiply-adds"
    diagram = placed(flow, title, where, counted, *symbols)
    diagram.alt = f"{title}: {where}, with {counted}. {flow.told()}"
    return diagram


def check_layer(config: ScalableViTConfig, layer: str) -> None:
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


def _flow(place: Place) -> tuple[str, list[str], Flow]:
    """A layer's title, lines that say what its symbols stand for, and its flow."""
    part, *_, last = place.name.split(".")
    kind = block_kind(place.i)
    if part == "patch_embeds":
        stride = _stride(place)
        return "Patch embedding", [rf"$h' = \lceil h/{stride} \rceil,\ w' = \lceil w/{stride} \rceil$"], _patch_embed(place)
    if part == "pos_block":
        return "PEG: position encoding generator", [], _peg(place)
    if last == "mlp":
        return "MLP", [rf"$m = {place.config.mlp_ratios[place.k]:g}$ times as many channels inside"], _mlp(place)
    if last != "attn":
        return f"{kind.upper()} block", [], _block(place)
    if kind == "iwsa":
        return "IWSA: interactive window self-attention", iwsa_symbols(place), iwsa_flow(place)
    return "SSA: scalable self-attention", ssa_symbols(place), ssa_flow(place)


def _block(place: Place) -> Flow:
    """`block`: two branches, each with a norm before it, added to what they branch from."""
    kind, (hidden, c) = block_kind(place.i), place.shapes["mlp.fc1.weight"]
    p, s = place.config.window_sizes[place.k], place.config.sr_ratios[place.k]
    if kind == "iwsa":
        attn = f"IWSA: {-(-place.h // p) * -(-place.w // p)} windows of {p} × {p}, {place.heads} heads"
    else:
        attn = f"SSA: {place.h * place.w} queries, {(place.h // s) * (place.w // s)} keys, {place.heads} heads"
    flow = Flow()
    x = flow.step(0, "x")
    norm1 = flow.step(1, "norm1", layer_norm(place.config.norm_eps), hue="norm")
    attended = flow.step(2, "attn", attn, hue=kind)
    middle = flow.step(3, total=True)
    norm2 = flow.step(4, "norm2", layer_norm(place.config.norm_eps), hue="norm")
    mlp = flow.step(5, "mlp", f"Linear {c} → {hidden}, GELU, Linear {hidden} → {c}", hue="linear")
    total = flow.step(6, total=True)
    chain = [x, norm1, attended, middle, norm2, mlp, total, flow.step(7, "output")]
    for source, target in pairwise(chain):
        flow.edge(source, target, place.map, HWC)
    flow.edge(x, middle, skip=True)
    flow.edge(middle, total, skip=True)
    return flow


def _peg(place: Place) -> Flow:
    flow = Flow()
    x = flow.step(0, "x")
    conv = flow.step(1, "proj.0", "depthwise 3 × 3, padding 1", hue="conv")
    total = flow.step(2, total=True)
    for source, target in pairwise([x, conv, total, flow.step(3, "output")]):
        flow.edge(source, target, place.map, HWC)
    flow.edge(x, total, skip=True)
    return flow


def _mlp(place: Place) -> Flow:
    hidden = figures(place.h, place.w, place.shapes["fc1.weight"][0]), r"$h \times w \times m c$"
    flow = Flow()
    x = flow.step(0, "x")
    fc1 = flow.step(1, "fc1", place.linear("fc1"), hue="linear")
    gelu = flow.step(2, "", "GELU, exact (erf)", hue="norm")
    fc2 = flow.step(3, "fc2", place.linear("fc2"), hue="linear")
    flow.edge(x, fc1, place.map, HWC)
    flow.edge(fc1, gelu, *hidden)
    flow.edge(gelu, fc2, *hidden)
    flow.edge(fc2, flow.step(4, "output"), place.map, HWC)
    return flow


def _stride(place: Place) -> int:
    return 2 if place.k else place.config.patch_size


def _patch_embed(place: Place) -> Flow:
    config, (c, c_in, kernel, _) = place.config, place.shapes["proj.weight"]
    stride = _stride(place)
    does = (f"convolution {kernel} × {kernel}, {c_in} → {c},", f"stride {stride}, padding {stride - 1}")
    out = r"$h' \times w' \times c$"
    flow = Flow()
    x = flow.step(0, "x" if place.k else "image")
    conv = flow.step(1, "proj", *does, hue="conv")
    norm = flow.step(2, "norm", layer_norm(config.embed_norm_eps or config.norm_eps), hue="norm")
    flow.edge(x, conv, figures(*place.before), r"$h \times w \times c_\mathrm{in}$")
    flow.edge(conv, norm, place.map, out)
    flow.edge(norm, flow.step(3, "output"), place.map, out)
    return flow

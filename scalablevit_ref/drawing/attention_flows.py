"""What happens inside the two attentions, `attention.ssa` and `attention.iwsa`."""

from __future__ import annotations

from scalablevit_ref.attention import SSA_NORM_EPS
from scalablevit_ref.drawing.counts import figures
from scalablevit_ref.drawing.flow import Flow, Step
from scalablevit_ref.drawing.place import HWC, Place, layer_norm

DOWN = (r"\lfloor h/s \rfloor", r"\lfloor w/s \rfloor")


def ssa_symbols(place: Place) -> list[str]:
    """Lines that say what the symbols stand for."""
    s, r_c, h, w = place.config.sr_ratios[place.k], place.config.c_ratios[place.k], place.h, place.w
    fewer = rf",\ n' = {DOWN[0]} {DOWN[1]} = {(h // s) * (w // s)}" if h % s or w % s else ""
    scaled = rf",\ c' = \lfloor r_c\,c \rfloor = {place.shapes['q.weight'][0]}" if s > 1 else ""
    return [rf"$n = h w = {h * w},\ s = {s}{fewer},\ r_c = {r_c:g}{scaled}$", _heads(place)]


def ssa_flow(place: Place) -> Flow:
    """q in the first column, k in the second and v in the third."""
    config, h, w = place.config, place.h, place.w
    s = config.sr_ratios[place.k]
    scaled, values = place.shapes["q.weight"][0], place.shapes["proj.weight"][1]
    n, keys = h * w, (h // s) * (w // s)
    few = "n" if s == 1 else "n'" if h % s or w % s else "n/s^2"
    wide = "c'" if s > 1 else "c"
    wide_v = wide if config.ssa_values == "scaled" else "c"

    flow = Flow(columns=3)
    x = flow.step(0, "x", span=(0, 2))
    reduced = _reduced(flow, x, place) if s > 1 else x
    row = reduced.row + 1
    q = flow.step(row, "q", place.linear("q"), hue="linear")
    flow.edge(x, q, *(() if s > 1 else (place.map, HWC)))
    if "kv.weight" in place.shapes:
        k = v = flow.step(row, "kv", f"{place.linear('kv')}: halves k and v", span=(1, 2), hue="linear", wide=True)
    else:
        k = flow.step(row, "k", place.linear("k"), span=(1, 1), hue="linear")
        v = flow.step(row, "v", place.linear("v"), span=(2, 2), hue="linear")
        flow.edge(reduced, v)
    down = DOWN if few == "n'" else ("h/s", "w/s")
    flow.edge(reduced, k, *((figures(h // s, w // s, scaled), rf"${down[0]} \times {down[1]} \times c'$") if s > 1 else ()))

    head_dim = place.c / place.heads
    scale = head_dim * config.c_ratios[place.k] if config.ssa_scale == "scaled" else head_dim
    softmax = flow.step(row + 1, "", _softmax(scale), place.heads_of(scaled), span=(0, 1), hue="ssa", wide=True)
    product = flow.step(row + 2, "", r"$A\,v$", place.heads_of(values), span=(0, 2), hue="ssa", wide=True)
    proj = flow.step(row + 3, "proj", place.linear("proj"), span=(0, 2), hue="linear")
    flow.edge(q, softmax, figures(n, scaled), rf"$Q'\!:\ n \times {wide}$")
    flow.edge(k, softmax, figures(keys, scaled), rf"$K'\!:\ {few} \times {wide}$", at=1)
    flow.edge(v, product, figures(keys, values), rf"$V'\!:\ {few} \times {wide_v}$", at=2)
    flow.edge(softmax, product, figures(place.heads, n, keys), rf"$A\!:\ H \times n \times {few}$")
    flow.edge(product, proj, figures(n, values), rf"$Z\!:\ n \times {wide_v}$")
    flow.edge(proj, flow.step(row + 4, "output", span=(0, 2)), place.map, HWC)
    return flow


def _reduced(flow: Flow, x: Step, place: Place) -> Step:
    """The steps from s × s tiles to single tokens of c' channels; returns the last of them."""
    s, h, w = place.config.sr_ratios[place.k], place.h, place.w
    dropped = [f"{side % s} {what}" for side, what in ((h, "rows"), (w, "columns")) if side % s]
    down = DOWN if dropped else ("h/s", "w/s")
    does = [f"depthwise {s} × {s}, stride {s}", *[f"the last {' and '.join(dropped)} dropped"] * bool(dropped)]
    scaled, c = place.shapes["reduction.1.weight"][:2]
    depthwise = flow.step(1, "reduction.0", *does, span=(1, 2), hue="conv", grid=(h // s, w // s))
    mix = flow.step(2, "reduction.1", f"convolution 1 × 1, {c} → {scaled}", span=(1, 2), hue="conv")
    norm = flow.step(3, "norm_act", f"{layer_norm(SSA_NORM_EPS)}, GELU", span=(1, 2), hue="norm")
    flow.edge(x, depthwise, place.map, HWC)
    flow.edge(depthwise, mix, figures(h // s, w // s, c), rf"${down[0]} \times {down[1]} \times c$")
    flow.edge(mix, norm, figures(h // s, w // s, scaled), rf"${down[0]} \times {down[1]} \times c'$")
    return norm


def iwsa_symbols(place: Place) -> list[str]:
    """Lines that say what the symbols stand for."""
    p, h, w = place.config.window_sizes[place.k], place.h, place.w
    lines = [rf"$p = {p},$  {_heads(place)}"]
    if h % p or w % p:
        lines.append(rf"$\hat h = p\,\lceil h/p \rceil = {h + -h % p},\ \hat w = p\,\lceil w/p \rceil = {w + -w % p}$")
    return lines


def iwsa_flow(place: Place) -> Flow:
    """The windows in the first column and LIM in the second."""
    p, h, w, c = place.config.window_sizes[place.k], place.h, place.w, place.c
    rows, columns = -(-h // p), -(-w // p)
    padded = (rows * p, columns * p) != (h, w)
    full = figures(rows * p, columns * p, c)
    whole = r"$\hat h \times \hat w \times c$" if padded else HWC
    count = r"\hat h \hat w/p^2" if padded else "hw/p^2"

    flow = Flow(columns=2)
    before = flow.step(0, "x", span=(0, 1))
    if padded:
        x, words = before, f"zeros at the right and bottom, to whole windows of {p} × {p}"
        before = flow.step(1, "", words, span=(0, 1), hue="norm")
        flow.edge(x, before, place.map, HWC)
    row = before.row + 1
    qkv = flow.step(row, "qkv", f"{place.linear('qkv')}: thirds q, k and v", span=(0, 1), hue="linear", wide=True)
    windows = f"{rows * columns} window{'s' * (rows * columns > 1)}"
    cut = flow.step(row + 1, "", f"cut into {windows}", f"of {p} × {p} tokens", hue="norm", grid=(rows, columns))
    attended = (_softmax(c / place.heads) + r"$\,v$", "in each window,", place.heads_of(c))
    attend = flow.step(row + 2, "", *attended, hue="iwsa")
    lim = flow.step(row + 2, "lim_func", "LIM: depthwise 3 × 3,", "padding 1", span=(1, 1), hue="conv")
    merge = flow.step(row + 3, "", "put the windows back", hue="norm")
    total = after = flow.step(row + 4, span=(0, 1), total=True)
    flow.edge(before, qkv, full, whole)
    flow.edge(qkv, cut, f"3 × {full}", "$q, k, v$")
    flow.edge(qkv, lim, full, "$V$")
    flow.edge(cut, attend, figures(3, rows * columns, p * p, c), rf"$3 \times {count} \times p^2 \times c$")
    flow.edge(attend, merge, figures(rows * columns, p * p, c), rf"${count} \times p^2 \times c$")
    flow.edge(merge, total, full, "$Z$")
    flow.edge(lim, total, full, "$F(V)$")
    if padded:
        after = flow.step(row + 5, "", "cut the zeros' rows and columns off", span=(0, 1), hue="norm")
        flow.edge(total, after, full, "$Z + F(V)$")
    proj = flow.step(after.row + 1, "proj", place.linear("proj"), span=(0, 1), hue="linear")
    flow.edge(after, proj, place.map, HWC if padded else "$Z + F(V)$")
    flow.edge(proj, flow.step(proj.row + 1, "output", span=(0, 1)), place.map, HWC)
    return flow


def _heads(place: Place) -> str:
    return rf"$H = {place.heads},\ d = c/H = {place.c // place.heads}$"


def _softmax(scale: float) -> str:
    return rf"$\mathrm{{softmax}}(q\,k^{{\!\top}} \cdot {scale:g}^{{-1/2}})$"

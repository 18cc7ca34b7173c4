"""The planted faults: mistakes of the comparator's catalogue, each with what must see it in the specification and in a port.

From this one table are made: the faults that the properties must see (`tests.programs.faults`), and the foreign networks of
which the comparator must name the layer and the mistake (`tests.programs.foreign`, `docs/diagnosis.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.blocks import residual_block
from scalablevit_ref.compare.mistakes.catalogue import CATALOGUE
from scalablevit_ref.edits import Edit, Mistake, Swap, changed
from scalablevit_ref.network import stage_maps

Function = Callable[..., Any]

MISTAKES = {mistake.name: mistake for mistake in CATALOGUE}


@dataclass(frozen=True)
class Planted:
    """A mistake of the catalogue, by the fault's own name or by `mistake`.

    properties: each must fail where it is planted: "iwsa:08" is `test_08_…` of `tests/properties/test_iwsa.py`.
    layer: where a foreign network with it must first be found to differ.
    foreign: edits of the source of the plain `torch.nn` network, each where its text stands.
    within: functions of the specification with the mistakes that are planted in them alone, and not in what else calls the same.
    edits: of the specification, for a mistake of the wiring.
    """

    properties: tuple[str, ...]
    layer: str
    foreign: tuple[tuple[str, str], ...]
    mistake: str = ""
    within: tuple[tuple[Function, str], ...] = ()
    edits: tuple[Edit, ...] = ()


Z = "z = z.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, rows, columns, c) + lim"
LIM = "lim = self.lim_func(qkv[..., 2 * c :].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)"
WINDOWS = "windows = qkv.view(b, rows // p, p, columns // p, p, 3, self.heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)"
UNFLAT = "z = attend(q, k, v, d**-0.5).view(b, rows // p, columns // p, self.heads, p, p, d)"
SSA_HEADS = "(t.reshape(b, t.shape[1], self.heads, -1).transpose(1, 2) for t in (self.q(x), k, v))"
SSA_OUT = "attend(q, k, v, self.scale).transpose(1, 2).reshape(b, n, -1)"
INTERLEAVED = "qkv.view(b, rows // p, p, columns // p, p, 3, d, self.heads).permute(5, 0, 1, 3, 7, 2, 4, 6)"
BLOCK = "x = x + self.attn(self.norm1(x), h, w)\n        return x + self.mlp(self.norm2(x))"
BEFORE_SSA = "class SSA(nn.Module):"
NORM = (
    "class Norm(nn.LayerNorm):\n    def forward(self, x):\n        y = x - x.mean(-1, keepdim=True)\n"
    "        v = (y * y).{mean}\n        return y / {root} * self.weight + self.bias\n\n\n"
)


def norm(mean: str, root: str) -> tuple[tuple[str, str], ...]:
    """Every LayerNorm replaced by one of its own."""
    own = (BEFORE_SSA, NORM.format(mean=mean, root=root) + BEFORE_SSA)
    return (own, ("nn.LayerNorm(dim", "Norm(dim"), ("nn.LayerNorm(width", "Norm(width"), ("nn.LayerNorm(4096", "Norm(4096"))


def conv(weight: str) -> tuple[tuple[str, str], ...]:
    """Every convolution replaced by one of another kernel."""
    own = (
        "class Conv(nn.Conv2d):\n    def forward(self, x):\n        return F.conv2d("
        f"x, {weight}, self.bias, self.stride, self.padding, 1, self.groups)\n\n\n{BEFORE_SSA}"
    )
    return ((BEFORE_SSA, own), ("nn.Conv2d(dim", "Conv(dim"), ("nn.Conv2d(channels", "Conv(channels"))


def added(source: str) -> tuple[str, str]:
    """A class put in front of the others."""
    return (BEFORE_SSA, f"{source}\n\n\n{BEFORE_SSA}")


in_block = partial(Edit, residual_block)
NORM_1, NORM_2 = ('layer_norm(x, **p["norm1"], eps=norm_eps)', 'layer_norm(x, **p["norm2"], eps=norm_eps)')
ATTN, MLP = 'tap("attn", attn(y, p["attn"]))', 'tap("mlp", mlp(y, p["mlp"], activation=activation))'
EMBED, ATTN0, ATTN1, MLP0 = "patch_embeds.0", "stages.0.0.attn", "stages.0.1.attn", "stages.0.0.mlp"

# fmt: off
PLANTED = {
    "tanh GELU": Planted(("ops:01_gelu",), MLP0, (("nn.GELU()", 'nn.GELU("tanh")'),)),
    "sigmoid GELU": Planted(("ops:01_gelu",), MLP0, (
        added("class Quick(nn.Module):\n    def forward(self, x):\n        return x * (1.702 * x).sigmoid()"),
        ("nn.GELU()", "Quick()"))),
    "eps 1e-5 everywhere": Planted(("ops:23",), EMBED, (("eps=config.norm_eps", "eps=1e-5"), ("eps=eps", "eps=1e-5")), "eps 1e-5"),
    "SSA eps 1e-6": Planted(("ssa:20",), ATTN1, (("eps=1e-5", "eps=1e-6"),), "eps 1e-6", within=((ssa, "eps 1e-6"),)),
    "unbiased variance": Planted(("ops:23",), EMBED, norm("sum(-1, keepdim=True) / (x.shape[-1] - 1)", "(v + self.eps) ** 0.5")),
    "eps outside the root": Planted(("ops:23",), EMBED, norm("mean(-1, keepdim=True)", "(v**0.5 + self.eps)")),
    "flipped kernel": Planted(("ops:02_linear",), EMBED, conv("self.weight.flip(2, 3)")),
    "interleaved heads, whole": Planted(("iwsa:08", "ssa:19"), ATTN0, (
        (WINDOWS, f"windows = {INTERLEAVED}"), (Z, "z = z.permute(0, 1, 4, 2, 5, 6, 3).reshape(b, rows, columns, c) + lim"),
        (SSA_HEADS, "(t.reshape(b, t.shape[1], -1, self.heads).permute(0, 3, 1, 2) for t in (self.q(x), k, v))"),
        (SSA_OUT, "attend(q, k, v, self.scale).permute(0, 2, 3, 1).reshape(b, n, -1)"))),
    "interleaved heads, half": Planted(("iwsa:17", "ssa:17"), ATTN0, (
        (WINDOWS, f"{WINDOWS}\n        turned = {INTERLEAVED}\n        windows = torch.stack([turned[0], turned[1], windows[2]])"),
        (SSA_HEADS, f"{SSA_HEADS}\n        q = self.q(x).reshape(b, n, -1, self.heads).permute(0, 3, 1, 2)"))),
    "q/k/v order": Planted(("iwsa:14", "ssa:14"), ATTN0, (("q, k, v = windows.reshape", "k, q, v = windows.reshape"),),
                           "q, k, v as k, q, v", within=((iwsa, "q, k, v as k, q, v"), (ssa, "q, k, v as q, v, k"))),
    "window grid instead of tiles": Planted(("iwsa:12",), ATTN0, (
        (WINDOWS, "windows = qkv.view(b, p, rows // p, p, columns // p, 3, self.heads, d).permute(5, 0, 2, 4, 6, 1, 3, 7)"),
        (Z, "z = z.permute(0, 4, 1, 5, 2, 3, 6).reshape(b, rows, columns, c) + lim"))),
    "merged windows swapped": Planted(("iwsa:12",), ATTN0, (
        (UNFLAT, "z = attend(q, k, v, d**-0.5).view(b, columns // p, rows // p, self.heads, p, p, d).transpose(1, 2)"),)),
    "transposed inside a window": Planted(("iwsa:10",), ATTN0, ((UNFLAT, f"{UNFLAT}.transpose(4, 5)"),)),
    "LIM on x": Planted(("iwsa:11",), ATTN0, ((LIM, LIM.replace("qkv[..., 2 * c :]", "x")),)),
    "LIM per window": Planted(("iwsa:12",), ATTN0, (
        (LIM, ("t = qkv[..., 2 * c :].view(b, rows // p, p, columns // p, p, c).permute(0, 1, 3, 5, 2, 4).reshape(-1, c, p, p)\n"
              "        t = self.lim_func(t).view(b, rows // p, columns // p, c, p, p).permute(0, 1, 4, 2, 5, 3)\n"
              "        lim = t.reshape(b, rows, columns, c)")),)),
    "LIM as residual": Planted(("iwsa:08",), ATTN0, ((Z, f"{Z} + qkv[..., 2 * c :]"),)),
    "LIM after proj": Planted(("iwsa:11",), ATTN0, (
        (Z, Z.removesuffix(" + lim")),
        ("self.proj(z[:, :h, :w].reshape(b, n, c))",
         "self.proj(z[:, :h, :w].reshape(b, n, c)) + lim[:, :h, :w].reshape(b, n, c)"))),
    "no LIM": Planted(("iwsa:11",), ATTN0, ((Z, Z.removesuffix(" + lim")),)),
    "scale by c": Planted(("iwsa:08", "ssa:19"), ATTN0, (
        ("attend(q, k, v, d**-0.5)", "attend(q, k, v, c**-0.5)"), ("dim / self.heads * (ratio", "dim * (ratio"))),
    "SSA act before norm": Planted(("ssa:20",), ATTN1, (
        ("nn.Sequential(nn.LayerNorm(width, eps=1e-5), nn.GELU())", "Turned(width)"),
        added("class Turned(nn.Sequential):\n    def __init__(self, width):\n        super().__init__("
              "nn.LayerNorm(width, eps=1e-5), nn.GELU())\n\n    def forward(self, x):\n        return self[0](self[1](x))"))),
    "SSA without act": Planted(("ssa:20",), ATTN1, (("eps=1e-5), nn.GELU())", "eps=1e-5))"),), "no activation",
                               within=((ssa, "no activation"),)),
    "SSA scale by d": Planted(("ssa:20",), ATTN1, (('(ratio if config.ssa_scale == "scaled" else 1)', "1"),)),
    "no scale": Planted(("iwsa:08", "ssa:19"), ATTN0, ((".mul(scale)", ""),)),
    "PEG without identity": Planted(("block:25",), "pos_block.0", (("(self.proj(image) + image)", "self.proj(image)"),)),
    "PEG after block 2": Planted(("network:01_every",), "pos_block.0", (("if i == 0:", "if i == 1:"),),
                                 edits=(Edit(stage_maps, "if i == 0:", "if i == 1:"),)),
    "post-norm": Planted(("block:24",), "stages.0.0.norm1", (
        (BLOCK, "x = self.norm1(x + self.attn(x, h, w))\n        return self.norm2(x + self.mlp(x))"),), edits=(
        in_block(f'y = tap("norm1", {NORM_1})', "y = x"),
        in_block(f"x = x + {ATTN}", f'x = x + {ATTN}\n    x = tap("norm1", {NORM_1})'),
        in_block(f'y = tap("norm2", {NORM_2})', "y = x"),
        in_block(f"return x + {MLP}", f'x = x + {MLP}\n    return tap("norm2", {NORM_2})'))),
}
# fmt: on


def mistake_of(fault: str) -> Mistake:
    """What the comparator calls it."""
    return MISTAKES[PLANTED[fault].mistake or fault]


def _faulty(fault: str) -> dict[Function, Function]:
    """Functions of the specification, and what takes the place of each; an op is its definition, on every library."""
    planted = PLANTED[fault]
    if planted.within:
        return {function: changed(function, MISTAKES[mistake].changes) for function, mistake in planted.within}
    changes = planted.edits or mistake_of(fault).changes
    return {change.function: _alone(change, changes) for change in changes}


def _alone(change: Edit | Swap, changes: tuple[Edit | Swap, ...]) -> Function:
    if isinstance(change, Swap):
        return change.make(vars(change.function)["definition"])
    return changed(change.function, changes)


FAULTY = {fault: _faulty(fault) for fault in PLANTED}
"""Made while nothing is planted yet."""

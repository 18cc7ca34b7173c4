"""The 26 planted faults once more, in a foreign module: each an edit of the plain `torch.nn` network's source.

`python -m tests.programs.foreign` compares each with the reference and writes, as `docs/diagnosis.md`, which layer and cause
were named.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import scalablevit_ref as sv
from scalablevit_ref.adapters import plain
from scalablevit_ref.compare.report import Report
from scalablevit_ref.testing import compare, random_images
from tests.programs.faults import FAULTS

CONFIG = sv.ScalableViTConfig(
    embed_dims=(16, 24),
    depths=(3, 3),
    num_heads=(2, 3),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1.0),
    window_sizes=(7, 7),
    num_classes=10,
)
IMAGES = random_images((2, 3, 56, 112))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnosis.md"


@dataclass(frozen=True)
class Foreign:
    """Edits of the source, where the fault shows first, and what the diagnosis must say of it."""

    edits: tuple[tuple[str, str], ...]
    layer: str
    words: str


Z = "z = z.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, rows, columns, c) + lim"
LIM = "lim = self.lim_func(qkv[..., 2 * c :].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)"
WINDOWS = "windows = qkv.view(b, rows // p, p, columns // p, p, 3, self.heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)"
UNFLAT = "z = attend(q, k, v, d**-0.5).view(b, rows // p, columns // p, self.heads, p, p, d)"
SSA_HEADS = "(t.reshape(b, t.shape[1], self.heads, -1).transpose(1, 2) for t in (self.q(x), k, v))"
SSA_OUT = "attend(q, k, v, self.scale).transpose(1, 2).reshape(b, n, -1)"
INTERLEAVED = "qkv.view(b, rows // p, p, columns // p, p, 3, d, self.heads).permute(5, 0, 1, 3, 7, 2, 4, 6)"
NORM = "nn.LayerNorm(dim, eps=config.norm_eps)"
BLOCK = "x = x + self.attn(self.norm1(x), h, w)\n        return x + self.mlp(self.norm2(x))"
NORM_CLASS = (
    "class Norm(nn.LayerNorm):\n    def forward(self, x):\n        y = x - x.mean(-1, keepdim=True)\n"
    "        v = (y * y).{mean}\n        return y / {root} * self.weight + self.bias\n\n\nclass SSA(nn.Module):"
)


def norm(mean: str, root: str) -> tuple[tuple[str, str], ...]:
    """Every LayerNorm replaced by one of its own."""
    return (("class SSA(nn.Module):", NORM_CLASS.format(mean=mean, root=root)), ("nn.LayerNorm(dim", "Norm(dim"),
            ("nn.LayerNorm(width", "Norm(width"), ("nn.LayerNorm(4096", "Norm(4096"))  # fmt: skip


def conv(args: str) -> tuple[tuple[str, str], ...]:
    return (("class SSA(nn.Module):", ("class Conv(nn.Conv2d):\n    def forward(self, x):\n        return F.conv2d("
             f"x, {args}, self.bias, self.stride, self.padding, 1, self.groups)\n\n\nclass SSA(nn.Module):")),
            ("nn.Conv2d(dim", "Conv(dim"), ("nn.Conv2d(channels", "Conv(channels"))  # fmt: skip


EMBED, ATTN0, ATTN1, MLP0 = "patch_embeds.0", "stages.0.0.attn", "stages.0.1.attn", "stages.0.0.mlp"
FOREIGN = {
    "tanh GELU": Foreign((("nn.GELU()", 'nn.GELU("tanh")'),), MLP0, "GELU is the tanh approximation"),
    "sigmoid GELU": Foreign(
        (("class SSA(nn.Module):", ("class Quick(nn.Module):\n    def forward(self, x):\n        return x * (1.702 * x).sigmoid()"
          "\n\n\nclass SSA(nn.Module):")), ("nn.GELU()", "Quick()")), MLP0, "GELU is the sigmoid approximation, x·σ(1.702 x)"),
    "eps 1e-5 everywhere": Foreign((("eps=config.norm_eps", "eps=1e-5"), ("eps=eps", "eps=1e-5")), EMBED,
                                   "LayerNorm's epsilon is 1e-5"),
    "SSA eps 1e-6": Foreign((("eps=1e-5", "eps=1e-6"),), ATTN1, "LayerNorm's epsilon is 1e-6"),
    "unbiased variance": Foreign(norm("sum(-1, keepdim=True) / (x.shape[-1] - 1)", "(v + self.eps) ** 0.5"), EMBED,
                                 "the variance is the unbiased one, over c − 1"),
    "eps outside the root": Foreign(norm("mean(-1, keepdim=True)", "(v**0.5 + self.eps)"), EMBED,
                                    "epsilon is added outside the root"),
    "flipped kernel": Foreign(conv("self.weight.flip(2, 3)"), EMBED,
                              "kernels are flipped (convolution instead of cross-correlation)"),
    "interleaved heads, whole": Foreign(
        ((WINDOWS, f"windows = {INTERLEAVED}"), (Z, "z = z.permute(0, 1, 4, 2, 5, 6, 3).reshape(b, rows, columns, c) + lim"),
         (SSA_HEADS, "(t.reshape(b, t.shape[1], -1, self.heads).permute(0, 3, 1, 2) for t in (self.q(x), k, v))"),
         (SSA_OUT, "attend(q, k, v, self.scale).permute(0, 2, 3, 1).reshape(b, n, -1)")), ATTN0,
        "heads are interleaved: channels are split as (d heads), not (heads d)"),
    "interleaved heads, half": Foreign(
        ((WINDOWS, f"{WINDOWS}\n        turned = {INTERLEAVED}\n        windows = torch.stack([turned[0], turned[1], windows[2]])"),
         (SSA_HEADS, f"{SSA_HEADS}\n        q = self.q(x).reshape(b, n, -1, self.heads).permute(0, 3, 1, 2)")), ATTN0,
        "heads of q and k are interleaved, those of v are not"),
    "q/k/v order": Foreign((("q, k, v = windows.reshape", "k, q, v = windows.reshape"),), ATTN0,
                           "q, k and v are taken in the order k, q, v"),
    "window grid instead of tiles": Foreign(
        ((WINDOWS, "windows = qkv.view(b, p, rows // p, p, columns // p, 3, self.heads, d).permute(5, 0, 2, 4, 6, 1, 3, 7)"),
         (Z, "z = z.permute(0, 4, 1, 5, 2, 3, 6).reshape(b, rows, columns, c) + lim")), ATTN0,
        "windows are a dilated grid instead of tiles: (ph gh) in place of (gh ph)"),
    "merged windows swapped": Foreign(
        ((UNFLAT, "z = attend(q, k, v, d**-0.5).view(b, columns // p, rows // p, self.heads, p, p, d).transpose(1, 2)"),), ATTN0,
        "windows are cut out row by row and merged column by column"),
    "transposed inside a window": Foreign(((UNFLAT, f"{UNFLAT}.transpose(4, 5)"),), ATTN0,
                                          "H and W are swapped inside each window when it is merged"),
    "LIM on x": Foreign(((LIM, LIM.replace("qkv[..., 2 * c :]", "x")),), ATTN0, "LIM convolves the input instead of the values"),
    "LIM per window": Foreign(
        ((LIM, ("t = qkv[..., 2 * c :].view(b, rows // p, p, columns // p, p, c).permute(0, 1, 3, 5, 2, 4).reshape(-1, c, p, p)\n"
               "        t = self.lim_func(t).view(b, rows // p, columns // p, c, p, p).permute(0, 1, 4, 2, 5, 3)\n"
               "        lim = t.reshape(b, rows, columns, c)")),), ATTN0,
        "LIM runs window by window, so that windows do not interact"),
    "LIM as residual": Foreign(((Z, f"{Z} + qkv[..., 2 * c :]"),), ATTN0, "LIM is a residual: V + F(V) is added instead of F(V)"),
    "LIM after proj": Foreign(((Z, Z.removesuffix(" + lim")), ("self.proj(z[:, :h, :w].reshape(b, n, c))",
                               "self.proj(z[:, :h, :w].reshape(b, n, c)) + lim[:, :h, :w].reshape(b, n, c)")), ATTN0,
                              "LIM is added after proj"),
    "no LIM": Foreign(((Z, Z.removesuffix(" + lim")),), ATTN0, "LIM is missing"),
    "scale by c": Foreign((("attend(q, k, v, d**-0.5)", "attend(q, k, v, c**-0.5)"), ("dim / self.heads * (ratio", "dim * (ratio")),
                          ATTN0, "logits are scaled by c^-½, the width of all heads together"),
    "SSA act before norm": Foreign((("nn.Sequential(nn.LayerNorm(width, eps=1e-5), nn.GELU())", "Turned(width)"),
        ("class SSA(nn.Module):", ("class Turned(nn.Sequential):\n    def __init__(self, width):\n"
         "        super().__init__(nn.LayerNorm(width, eps=1e-5), nn.GELU())\n\n    def forward(self, x):\n"
         "        return self[0](self[1](x))\n\n\nclass SSA(nn.Module):"))), ATTN1, "the activation comes before the norm"),
    "SSA without act": Foreign((("eps=1e-5), nn.GELU())", "eps=1e-5))"),), ATTN1, "there is no activation"),
    "SSA scale by d": Foreign((('(ratio if config.ssa_scale == "scaled" else 1)', "1"),), ATTN1,
                              "logits are scaled by d^-½, d the width of a head of the input (without r_c)"),
    "no scale": Foreign(((".mul(scale)", ""),), ATTN0, "logits are not scaled"),
    "PEG without identity": Foreign((("(self.proj(image) + image)", "self.proj(image)"),), "pos_block.0",
                                    "PEG has no identity: the convolution replaces its input"),
    "PEG after block 2": Foreign((("if i == 0:", "if i == 1:"),), "pos_block.0", "PEG comes after the second block"),
    "post-norm": Foreign(((BLOCK, "x = self.norm1(x + self.attn(x, h, w))\n        return self.norm2(x + self.mlp(x))"),),
                         "stages.0.0.norm1", "norms come after the residual additions (post-norm)"),
}  # fmt: skip


def faulty(name: str | None) -> Any:
    """The network with this fault, or with none. AssertionError for an edit that is stale."""
    source = Path(plain.__file__).read_text(encoding="utf-8")
    for old, new in FOREIGN[name].edits if name else ():
        assert old in source, f"{name}: {old!r} is not in the module"
        source = source.replace(old, new)
    module = ModuleType(f"faulty_{name}")
    sys.modules[module.__name__] = module
    exec(compile(source, str(plain.__file__), "exec", dont_inherit=True), vars(module))
    return module.ScalableViT(CONFIG)


def found(name: str) -> Report:
    return compare(faulty(name), variant=CONFIG, images=IMAGES)


def page() -> str:
    """The table: each fault, whether its layer and its cause were named, and what was said."""
    rows, layers, causes = [], 0, 0
    for name, expected in FOREIGN.items():
        report = found(name)
        first = report.first.layer if report.first else "–"
        said = [cause for cause in report.causes if first in cause.layers]
        cause = said[0].words if said else "–"
        layers += first == expected.layer
        causes += cause == expected.words
        reach = f"{len(said[0].layers)} of {len(report.diverging)}" if said else "–"
        marks = ["yes" if first == expected.layer else "**no**", "yes" if cause == expected.words else "**no**"]
        rows.append(f"| {name} | `{first}` | {marks[0]} | {cause} | {marks[1]} | {reach} |")
    titles = ("planted fault", "first divergent layer", "right", "it matches if …", "right", "layers explained")
    head = f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|\n"
    return (
        "# What the comparison says of 26 planted faults\n\n"
        "Each of the faults of `tests/programs/faults.py` was put into a foreign network, the plain `torch.nn` one, as an\n"
        "edit of its source (`tests/programs/foreign.py`), and `scalablevit_ref.testing.compare` was asked. This page is\n"
        "written by `python -m tests.programs.foreign`. *Layers explained*: of the layers that are wrong by themselves, those\n"
        "that the named cause reproduces; what is left has another cause, named in the report where one is known.\n\n"
        f"The right layer was named {layers} times of {len(FOREIGN)}, the right cause {causes} times.\n\n"
        + head
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    assert list(FOREIGN) == list(FAULTS)
    PAGE.write_text(page(), encoding="utf-8")

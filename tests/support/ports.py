"""Ports of the official network in many styles, right ones and wrong ones, whose every parameter's meaning is known.

One functional network reads its parameters by the reference's names; where they lie, under which names, in which order and axes and
how q, k and v are put together is drawn from a style. So the truth is known for any style, and so it is for any mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.parameters import parameter_shapes

CONFIG = ScalableViTConfig(
    embed_dims=(16, 24, 32),
    depths=(2, 2, 6),
    num_heads=(2, 3, 4),
    mlp_ratios=(2, 3, 4),
    sr_ratios=(4, 2, 1),
    c_ratios=(1.25, 1.0, 1.25),
    window_sizes=(2, 2, 2),
    num_classes=10,
    in_chans=3,
)
"""Small, and as ambiguous as can be: in the middle stage all of SSA's weights are squares of one size."""

IMAGES = (2, 3, 32, 64)

WORDS = {
    r"^patch_embeds\.(\d)\.proj": r"stems.\1.conv",
    r"^patch_embeds\.(\d)\.norm": r"stems.\1.norm",
    r"^pos_block\.(\d)\.proj\.0": r"pegs.\1.conv",
    r"^stages\.": "levels.",
    r"\.norm(\d)": r".pre\1",
    r"attn\.qkv": "mixer.in_proj",
    r"attn\.lim_func": "mixer.local",
    r"attn\.proj": "mixer.out_proj",
    r"attn\.reduction\.0": "mixer.squeeze",
    r"attn\.reduction\.1": "mixer.expand",
    r"attn\.norm_act\.0": "mixer.squeeze_norm",
    r"attn\.(q|k|v|kv|qk)\.": r"mixer.to_\1.",
    r"mlp\.fc1": "mlp.up",
    r"mlp\.fc2": "mlp.down",
    r"^norm\.": "last_norm.",
    r"^head\.0": "fc_a",
    r"^head\.1": "fc_norm",
    r"^head\.3": "fc_b",
}


def in_words(name: str) -> str:
    for pattern, word in WORDS.items():
        name = re.sub(pattern, word, name)
    return name


def flat(name: str) -> str:
    """One dictionary: stage2_block5_qkv_w."""
    name = re.sub(r"^stages\.(\d+)\.(\d+)\.", r"stage\1_block\2_", name)
    name = name.replace("attn.", "").replace("mlp.", "").replace("reduction.", "sr").replace("norm_act.0", "sr_norm")
    return name.replace(".weight", "_w").replace(".bias", "_b").replace(".", "_")


def in_one_row(name: str) -> str:
    """All blocks in one list, numbered through."""
    found = re.match(r"stages\.(\d+)\.(\d+)\.(.*)", name)
    return name if not found else f"blocks.{sum(CONFIG.depths[: int(found[1])]) + int(found[2])}.{found[3]}"


def by_letters(name: str) -> str:
    """A class for each stage, its blocks named by letters."""
    name = in_words(name)
    return re.sub(r"^levels\.(\d+)\.(\d+)", lambda m: f"stage_{'xyz'[int(m[1])]}.block_{'abcdefgh'[int(m[2])]}", name)


def by_roles(name: str) -> str:
    """A list for each role: stage2.qkv.1.weight."""
    found = re.match(r"stages\.(\d+)\.(\d+)\.(.*)\.(weight|bias)", name)
    return name if not found else f"s{found[1]}.{found[3].replace('.', '_')}.{found[2]}.{found[4]}"


ROLES = ("norm1", "attn", "norm2", "mlp")
PARTS = ("proj", "qkv", "q", "k", "v", "kv", "qk", "lim_func", "norm_act.0", "reduction.0", "reduction.1", "fc2", "fc1")


def by_numbers(name: str) -> str:
    """Nothing but numbers, as of Sequentials in Sequentials."""
    found = re.match(r"stages\.(\d+)\.(\d+)\.(\w+)\.(.*?)\.?(weight|bias)$", name)
    if not found:
        parts = {"patch_embeds": 0, "pos_block": 1, "norm": 3, "head": 4}
        name = re.sub(r"^[a-z_]+", lambda m: f"net.{parts[m[0]]}", name)
        return name.replace(".proj.0.", ".").replace(".proj.", ".0.").replace(".norm.", ".1.")
    inner = f".{PARTS.index(found[4])}" if found[4] else ""
    return f"net.2.{found[1]}.{found[2]}.{ROLES.index(found[3])}{inner}.{found[5]}"


def nameless(name: str) -> str:
    """Says nothing: each parameter has a number that is drawn."""
    return f"p{int.from_bytes(name.encode(), 'big') % 1_000_003}"


@dataclass(frozen=True)
class Style:
    """How a port is written.

    names
        From the reference's names (those of split weights are like attn.k.weight) to the port's.
    joined
        How q, k and v are put together in IWSA, and in SSA: runs of letters.
    turned
        Whether matrices lie as (in, out).
    maps
        Whether Linears are 1 × 1 convolutions of b c h w maps.
    shuffled
        Whether parameters are declared in random order.
    leaves
        What a weight and a bias, and a norm's, are called.
    """

    names: Callable[[str], str] = lambda name: name
    iwsa: str = "qkv"
    ssa: str = "q k v"
    plain: str = "q kv"
    turned: bool = False
    maps: bool = False
    shuffled: bool = False
    leaves: Mapping[str, str] | None = None
    prefix: str = ""


@dataclass(frozen=True)
class Place:
    """Where a run of an official parameter's rows lies."""

    own: str
    official_rows: tuple[int, int] | None
    own_rows: tuple[int, int] | None
    turned: bool


class Port(nn.Module):
    """The network of a config in a style, with mistakes."""

    def __init__(self, style: Style = Style(), mistake: str = "", config: ScalableViTConfig = CONFIG, seed: int = 0) -> None:
        super().__init__()
        self.config, self.style, self.mistake = config, style, mistake
        self.shapes = parameter_shapes(config)
        self.truth: dict[str, list[Place]] = {name: [] for name in self.shapes}
        self.where: dict[str, str] = {}
        arrays = self._stored()
        order = list(arrays)
        if style.shuffled:
            np.random.default_rng(seed).shuffle(order)
        for name in order:
            _put(self, self.where[name], nn.Parameter(arrays[name]))

    def _stored(self) -> dict[str, Tensor]:
        arrays: dict[str, Tensor] = {}
        norms = {name for name, shape in self.shapes.items() if name.endswith("weight") and len(shape) == 1}
        for name, shape in self.shapes.items():
            if self.mistake == "without PEG" and name.startswith("pos_block"):
                continue
            for stored, official_rows, own_rows, wide in self._cut(name, shape):
                is_norm = name.rpartition(".")[0] + ".weight" in norms
                matrix = len(shape) == 2
                turned = self.style.turned and matrix
                tail = shape[1:]
                if stored not in arrays:
                    whole = (wide, *tail)
                    stored_shape = (
                        (whole[1], whole[0])
                        if turned
                        else (*whole, 1, 1)
                        if self.style.maps and matrix and "head" not in name
                        else whole
                    )
                    if self.style.turned and len(shape) == 4:
                        stored_shape = (shape[2], shape[3], shape[1], shape[0])
                    arrays[stored] = torch.randn(stored_shape)
                    self.where[stored] = self._named(stored, is_norm)
                kernel = self.style.turned and len(shape) == 4
                self.truth[name].append(Place(self.where[stored], official_rows, own_rows, turned or kernel))
        return arrays

    def _named(self, stored: str, is_norm: bool) -> str:
        path, _, leaf = self.style.names(stored).rpartition(".")
        leaves = self.style.leaves or {}
        if leaf in ("weight", "bias"):
            leaf = leaves.get(f"norm {leaf}" if is_norm else leaf, leaf)
        return self.style.prefix + (f"{path}.{leaf}" if path else leaf)

    def _cut(self, name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, int] | None, tuple[int, int] | None, int]]:
        """Where an official parameter is stored: names, official rows, own rows, and rows in all of what is stored."""
        found = re.match(r"(stages\.(\d+)\.(\d+)\.attn\.)(qkv|q|k|v|kv)\.(weight|bias)", name)
        if not found:
            return [(name, None, None, shape[0])]
        prefix, letters, leaf = found[1], found[4], found[5]
        runs = self._runs(int(found[2]), int(found[3]))
        wide = {letter: self._wide(prefix, letter) for run in runs for letter in run}
        result = []
        for run in runs:
            inside = [letter for letter in run if letter in letters]
            if not inside:
                continue
            at = sum(wide[letter] for letter in letters[: letters.index(inside[0])])
            own = sum(wide[letter] for letter in run[: run.index(inside[0])])
            size, total = sum(wide[letter] for letter in inside), sum(wide[letter] for letter in run)
            official = None if size == shape[0] else (at, at + size)
            result.append((f"{prefix}{run}.{leaf}", official, None if size == total else (own, own + size), total))
        return result

    def _runs(self, k: int, i: int) -> list[str]:
        return (self.style.iwsa if i % 2 == 0 else self.style.plain if self.config.sr_ratios[k] == 1 else self.style.ssa).split()

    def _wide(self, prefix: str, letter: str) -> int:
        for letters in ("qkv", "kv", letter):
            shape = self.shapes.get(f"{prefix}{letters}.weight")
            if shape is not None and letter in letters:
                return shape[0] // len(letters)
        raise KeyError(prefix + letter)

    def load(self, official: Mapping[str, np.ndarray]) -> None:
        """Official weights, by the truth."""
        state = dict(self.named_parameters())
        for name, places in self.truth.items():
            for place in places:
                value = torch.from_numpy(official[name])
                value = value if place.official_rows is None else value[slice(*place.official_rows)]
                target = state[place.own].data
                if place.turned:
                    value = value.permute(*range(2, value.ndim), 1, 0)
                    target = target if place.own_rows is None else target[..., slice(*place.own_rows)]
                else:
                    target = target if place.own_rows is None else target[slice(*place.own_rows)]
                target.copy_(value.reshape(target.shape))

    # The network, maps b h w c

    def get(self, name: str) -> Tensor:
        value: nn.Module | Tensor = self
        for part in self.where[name].split("."):
            value = getattr(value, part)
        assert isinstance(value, Tensor)
        return value

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        if self.style.maps and weight.ndim == 4:
            return F.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)
        return x @ weight + bias if self.style.turned else F.linear(x, weight, bias)

    def convolved(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        weight = weight.permute(3, 2, 0, 1) if self.style.turned else weight
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups).permute(0, 2, 3, 1)

    def normed(self, x: Tensor, name: str, eps: float = 1e-6) -> Tensor:
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        if self.style.maps:
            mean = x.mean(-1, keepdim=True)
            return (x - mean) / ((x - mean).pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def project(self, x: Tensor, prefix: str, runs: list[str]) -> dict[str, Tensor]:
        found = {}
        for run in runs:
            widths = [self._wide(prefix, letter) for letter in run]
            found |= dict(zip(run, self.linear(x, prefix + run).split(widths, -1), strict=True))
        return found

    def iwsa(self, x: Tensor, prefix: str, k: int) -> Tensor:
        b, h, w, c = x.shape
        p, heads = self.config.window_sizes[k], self.config.num_heads[k]
        t = self.project(x, prefix, self._runs(k, 0))
        if self.mistake == "k and v interchanged":
            t["k"], t["v"] = t["v"], t["k"]

        def cut(t: Tensor) -> Tensor:
            t = t.reshape(b, h // p, p, w // p, p, heads, c // heads).permute(0, 1, 3, 5, 2, 4, 6)
            return t.reshape(-1, p * p, c // heads)

        z = ((cut(t["q"]) @ cut(t["k"]).transpose(-2, -1)) * (c // heads) ** -0.5).softmax(-1) @ cut(t["v"])
        z = z.reshape(b, h // p, w // p, heads, p, p, c // heads).permute(0, 1, 4, 2, 5, 3, 6).reshape(b, h, w, c)
        if self.mistake != "no LIM":
            lim_of = {"LIM of the input": x, "LIM of z": z}.get(self.mistake, t["v"])
            z = z + self.convolved(lim_of, f"{prefix}lim_func", 1, 1, c)
        return z if self.mistake == "no proj" else self.linear(z, f"{prefix}proj")

    def ssa(self, x: Tensor, prefix: str, k: int) -> Tensor:
        b, h, w, c = x.shape
        heads, s = self.config.num_heads[k], self.config.sr_ratios[k]
        runs = self._runs(k, 1)
        if s == 1:
            t = self.project(x, prefix, runs)
        else:
            y = self.convolved(self.convolved(x, f"{prefix}reduction.0", s, 0, c), f"{prefix}reduction.1")
            y = F.gelu(self.normed(y, f"{prefix}norm_act.0", 1e-5))
            t = self.project(y, prefix, [run for run in runs if run != "q"]) | self.project(x, prefix, ["q"])
        if self.mistake == "k and v interchanged" and t["k"].shape == t["v"].shape:
            t["k"], t["v"] = t["v"], t["k"]

        def split(t: Tensor) -> Tensor:
            return t.reshape(b, -1, heads, t.shape[-1] // heads).transpose(1, 2)

        q, key, v = (split(t[letter]) for letter in "qkv")
        scale = (c / heads * self.config.c_ratios[k]) ** -0.5
        z = ((q @ key.transpose(-2, -1)) * scale).softmax(-1) @ v
        return self.linear(z.transpose(1, 2).reshape(b, h, w, c), f"{prefix}proj")

    def block(self, x: Tensor, k: int, i: int) -> Tensor:
        name, wrong = f"stages.{k}.{i}", self.mistake
        one, two = f"{name}.norm1", f"{name}.norm2"

        def attn(x: Tensor) -> Tensor:
            return (self.iwsa if i % 2 == 0 else self.ssa)(x, f"{name}.attn.", k)

        def mlp(x: Tensor) -> Tensor:
            return self.linear(F.gelu(self.linear(x, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

        if wrong == "post-norm":
            x = self.normed(x + attn(x), one)
            return self.normed(x + mlp(x), two)
        if wrong == "MLP first":
            x = x + mlp(self.normed(x, two))
            return x + attn(self.normed(x, one))
        if wrong == "norm1 twice":
            x = x + attn(self.normed(x, one))
            return x + mlp(self.normed(x, one))
        if wrong == "norm2 twice":
            self.normed(x, one)
            x = x + attn(self.normed(x, two))
            return x + mlp(self.normed(x, two))
        if wrong == "norms interchanged":
            x = x + attn(self.normed(x, two))
            return x + mlp(self.normed(x, one))
        if wrong == "beside":
            return x + attn(self.normed(x, one)) + mlp(self.normed(x, two))
        x = x + attn(self.normed(x, one))
        return x + mlp(self.normed(x, two))

    def peg(self, x: Tensor, k: int) -> Tensor:
        return x + self.convolved(x, f"pos_block.{k}.proj.0", 1, 1, x.shape[-1])

    def forward(self, images: Tensor) -> Tensor:
        x, wrong = images.permute(0, 2, 3, 1), self.mistake
        for k, depth in enumerate(self.config.depths):
            x = self.normed(self.convolved(x, f"patch_embeds.{k}.proj", 2 if k else 4, 1 if k else 3), f"patch_embeds.{k}.norm")
            order = list(range(depth))
            if wrong == "SSA first":
                order = [i ^ 1 for i in order]
            if wrong == "blocks in another order" and depth > 4:
                order[0], order[4] = order[4], order[0]
            if wrong == "a block twice" and depth > 4:
                order[2] = 0
            if wrong == "PEG before":
                x = self.peg(x, k)
            for turn, i in enumerate(order):
                x = self.block(x, k, i)
                if wrong == "PEG dropped" and turn == 0:
                    self.peg(x, k)
                elif turn == {"PEG after 2": 1, "PEG last": depth - 1, "PEG before": -1, "PEG missing": -1, "without PEG": -1}.get(
                    wrong, 0
                ):
                    x = self.peg(x, k) if wrong != "PEG of another stage" or k == 0 else self.peg(x, k - 1)
        x = self.normed(x.mean((1, 2)), "norm") if wrong == "mean before norm" else self.normed(x, "norm").mean((1, 2))
        x = F.gelu(self.normed(self.linear(x, "head.0"), "head.1"))
        return self.linear(x, "head.3")


def _put(root: nn.Module, path: str, parameter: nn.Parameter) -> None:
    *parts, leaf = path.split(".")
    for part in parts:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    root.register_parameter(leaf, parameter)


GREEK = {"norm weight": "gamma", "norm bias": "beta"}
FLAX = {"weight": "kernel", "norm weight": "scale"}
SHORT = {"weight": "w", "bias": "b", "norm weight": "g", "norm bias": "shift"}

STYLES: dict[str, Style] = {
    "the reference's names": Style(),
    "behind a prefix": Style(prefix="backbone.model."),
    "words": Style(in_words, leaves=GREEK),
    "words, shuffled": Style(in_words, leaves=GREEK, shuffled=True),
    "words, maps": Style(in_words, maps=True, leaves=GREEK),
    "words, kernels": Style(in_words, turned=True, leaves=FLAX),
    "apart": Style(in_words, iwsa="q k v", plain="q k v", shuffled=True),
    "fused": Style(in_words, iwsa="qkv", ssa="q kv", plain="qkv", leaves=SHORT),
    "q kv": Style(in_words, iwsa="q kv", ssa="q kv", plain="q kv", shuffled=True),
    "qk v": Style(in_words, iwsa="qk v", plain="qk v"),
    "one dictionary": Style(flat),
    "one dictionary, shuffled, apart": Style(flat, iwsa="q k v", shuffled=True),
    "one row": Style(in_one_row, leaves=GREEK),
    "letters": Style(by_letters, leaves=SHORT),
    "letters, shuffled": Style(by_letters, leaves=SHORT, shuffled=True),
    "lists of roles": Style(by_roles, leaves=GREEK),
    "numbers": Style(by_numbers),
    "numbers, shuffled, kernels": Style(by_numbers, shuffled=True, turned=True),
    "nameless": Style(nameless),
    "nameless, shuffled": Style(nameless, shuffled=True),
    "nameless, shuffled, apart": Style(nameless, shuffled=True, iwsa="q k v", plain="q k v"),
    "nameless, shuffled, fused, kernels": Style(nameless, shuffled=True, turned=True, ssa="q kv", plain="qkv"),
    "nameless, maps": Style(nameless, shuffled=True, maps=True),
}

MISTAKES = (
    "post-norm",
    "MLP first",
    "norm1 twice",
    "norm2 twice",
    "norms interchanged",
    "beside",
    "k and v interchanged",
    "no LIM",
    "LIM of the input",
    "LIM of z",
    "no proj",
    "PEG dropped",
    "PEG after 2",
    "PEG last",
    "PEG before",
    "PEG missing",
    "without PEG",
    "mean before norm",
    "SSA first",
    "blocks in another order",
    "a block twice",
)

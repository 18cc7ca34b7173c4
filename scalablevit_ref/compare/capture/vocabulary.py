"""What people call things: which part of the network a parameter's name says that it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

LEAVES = re.compile(
    r"(?:^|[._/])(weights?|kernel|w|gamma|gain|scale|g|bias(?:es)?|b|beta|shift|offset|var|value|embedding|data)(?:[._/]value)?$"
)
"""The end of a name that says weight or bias."""

BIASES = re.compile(r"(?:^|[._/])(bias(?:es)?|b|beta|shift|offset)(?:[._/]value)?$|(?:bias|beta|shift|offset)$")

_NORM = r"(?:layer_?norm|norm|ln|pre|rms)"

WORDS: tuple[tuple[str, str], ...] = (
    ("qkv", r"(?:to_|w_?|attn_)?qkv(?:_proj)?|in_proj|c_attn"),
    ("kv", r"(?:to_|w_?)?kv(?:_proj)?"),
    ("norm_act", rf"(?:sr|squeeze|red|reduction|reduce|kv|down|pool)_?{_NORM}|{_NORM}_?(?:sr|act|squeeze|red|reduction|reduce|kv)"),
    ("norm1", rf"n_?1|{_NORM}_?(?:1|one|first|att|attn|attention|mixer|mix|a)|(?:att|attn|attention|mixer|first)_?{_NORM}"),
    ("norm2", rf"n_?2|{_NORM}_?(?:2|two|second|mlp|ffn?|feed_?forward|b)|(?:mlp|ffn?|feed_?forward|second)_?{_NORM}"),
    ("last", rf"(?:last|final|out|end|post|top)_?{_NORM}|{_NORM}_?(?:f|last|final|out|end|head)"),
    ("fc1", r"(?:fc|lin|linear|dense|w|layer|mlp|proj)_?(?:1|in|up|a)|up(?:_proj)?|c_fc|wi|hidden|grow|widen|inner"),
    ("fc2", r"(?:fc|lin|linear|dense|w|layer|mlp)_?(?:2|out|down|b)|down(?:_proj)?|wo_mlp|shrink|narrow|outer"),
    ("proj", r"to_out|out_proj|o_proj|c_proj|attn_out|attn_proj|proj_out|proj|projection|output|out|merge|wo|o"),
    ("q", r"(?:to_|w_?|lin_?|f_?|proj_)?(?:q|query|queries)(?:_proj|_lin|_w)?"),
    ("k", r"(?:to_|w_?|lin_?|f_?|proj_)?(?:k|key|keys)(?:_proj|_lin|_w)?"),
    ("v", r"(?:to_|w_?|lin_?|f_?|proj_)?(?:v|val|value|values)(?:_proj|_lin|_w)?"),
    ("lim", r"lim(?:_func)?|lepe(?:_func|_conv)?|local\w*|lpe|interact\w*"),
    ("peg", r"pegs?|pos\w*|cpes?|cpvt|pe"),
    ("reduce0", r"sr|squeeze|shrink_conv|(?:reduction|reduce|red)_?(?:0|dw|depth\w*|a)|dw(?:_?conv)?|depth_?wise|spatial\w*"),
    ("reduce1", r"expand|pw(?:_?conv)?|point_?wise|(?:reduction|reduce|red)_?(?:1|pw|point\w*|b)|channel\w*"),
    ("stem", r"patch\w*|embed\w*|stems?|down_?samples?|downs?|tokeni[sz]er"),
    ("head", r"heads?|classifier|cls|fc|logits"),
)
"""Words by what they mean. Each is a whole component of a name, or stands between underscores."""

ROLES: Mapping[str, frozenset[str]] = {
    role: frozenset(words.split())
    for role, words in {
        "iwsa.qkv": "qkv q k v",
        "iwsa.proj": "proj",
        "iwsa.lim_func": "lim",
        "ssa.q": "q",
        "ssa.kv": "kv k v",
        "ssa.k": "k",
        "ssa.v": "v",
        "ssa.proj": "proj",
        "ssa.reduction.0": "reduce0",
        "ssa.reduction.1": "reduce1",
        "ssa.norm_act.0": "norm_act",
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
        "pos_block.proj.0": "peg",
        "patch_embeds.proj": "stem",
        "patch_embeds.norm": "stem",
        "norm": "last",
    }.items()
}
"""Which words a step's role goes by."""


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((word, re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])")) for word, pattern in WORDS)


@cache
def meanings(name: str) -> tuple[str, ...]:
    """What a name's words mean, the last ones first.

    Examples
    --------
    >>> meanings("levels.2.13.mixer.in_proj.weight"), meanings("blocks.3.ln_attn.scale")
    (('qkv',), ('norm1',))
    """
    text = spelled(stem_of(name))
    found: list[tuple[int, str]] = []
    for word, pattern in _patterns():
        found += [(match.start(), word) for match in pattern.finditer(text)]
        text = pattern.sub(lambda match: "#" * len(match[0]), text)
    return tuple(word for _, word in sorted(found, reverse=True))


def spelled(name: str) -> str:
    """A name in lower case, its humps as underscores: "MixerNorm" is "mixer_norm"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


@cache
def stem_of(name: str) -> str:
    """A name without the end that says weight or bias.

    Examples
    --------
    >>> stem_of("levels.0.0.pre1.gamma"), stem_of("p.norm1_w"), stem_of("blocks.0.qkv")
    ('levels.0.0.pre1', 'p.norm1', 'blocks.0.qkv')
    """
    return LEAVES.sub("", name) or name


def is_bias(name: str) -> bool:
    """Whether a name says that it is a bias."""
    return bool(BIASES.search(name))


@cache
def tokens(name: str) -> tuple[str | int, ...]:
    """A name in words and numbers.

    Examples
    --------
    >>> tokens("stage2_block13.qkv")
    ('stage', 2, 'block', 13, 'qkv')
    """
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"\d+|[A-Za-z]+", name))


def numbers(name: str) -> tuple[int, ...]:
    """The numbers in a name."""
    return tuple(part for part in tokens(name) if isinstance(part, int))


def form(name: str) -> tuple[str, ...]:
    """A name's words with a sign for each number."""
    return tuple("#" if isinstance(part, int) else part for part in tokens(name))


def agreement(name: str, role: str, rivals: Iterable[str]) -> int:
    """1 where a name says that it is this, −1 where it says that it is a rival, 0 where it says nothing."""
    said = meanings(name)
    own = ROLES.get(role, frozenset())
    others = frozenset().union(*(ROLES.get(rival, frozenset()) for rival in rivals)) - own
    for word in said:
        if word in own:
            return 1
        if word in others:
            return -1
    return 0

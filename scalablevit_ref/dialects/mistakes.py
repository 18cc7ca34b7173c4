"""The mistakes of the comparator's catalogue in the ports' own functions, and mistakes of their own wiring."""

from __future__ import annotations

from functools import partial
from itertools import permutations

from scalablevit_ref.dialects.layers import PortWiring
from scalablevit_ref.dialects.port import iwsa, peg, ssa
from scalablevit_ref.edits import Edit, Mistake, reordered

in_iwsa, in_ssa, in_peg = (partial(Edit, function) for function in (iwsa, ssa, peg))

SCALE = "q.shape[-1] ** -0.5"
SPLIT, MERGED = "(heads d) ->", '(heads d)"'
LIM = 'conv2d(value_map, **p["local_interactive_module"], padding=1)'
ADDED = f"z + {LIM}"
WINDOW_BY_WINDOW = (
    'z + rearrange(conv2d(rearrange(value_map, "b (gh ph) (gw pw) c -> (b gh gw) ph pw c", ph=cut["ph"], pw=cut["pw"]), '
    '**p["local_interactive_module"], padding=1), "(b gh gw) ph pw c -> b (gh ph) (gw pw) c", '
    'gh=x.shape[1] // cut["ph"], gw=x.shape[2] // cut["pw"])'
)


def in_both(name: str, old: str, new: str, times: int = 1) -> Mistake:
    return Mistake(name, changes=(in_ssa(old, new, times), in_iwsa(old, new, times)))


def for_values(values: str, others: str) -> tuple[Edit, ...]:
    """Other patterns of channels for v, and for q and k, when they are split into heads."""
    return tuple(
        edit(f"{start}(heads d) ->", f"f{start}({{'{values}' if t is {v} else '{others}'}}) ->")
        for edit, start, v in ((in_ssa, '"b h w ', "v"), (in_iwsa, '"b (gh ph) (gw pw) ', "value_map"))
    )


def taken(order: tuple[str, ...]) -> Mistake:
    in_iwsa_too = reordered(iwsa, 'cut = {"ph"', order, ("q", "k", "value_map"))
    return Mistake(f"q, k, v as {', '.join(order)}", changes=(reordered(ssa, "q, k, v = (rearrange", order), in_iwsa_too))


def lim(name: str, *edits: Edit) -> Mistake:
    return Mistake(name, changes=edits)


def lim_of(what: str) -> Edit:
    return in_iwsa(ADDED, ADDED.replace("value_map", what))


MISTAKES = (
    in_both("interleaved heads, whole", "(heads d)", "(d heads)", 2),
    Mistake("interleaved heads, half", changes=for_values("heads d", "d heads")),
    Mistake("interleaved heads of v", changes=for_values("d heads", "heads d")),
    in_both("interleaved heads when split", SPLIT, "(d heads) ->"),
    in_both("interleaved heads when merged", MERGED, '(d heads)"'),
    *(taken(order) for order in permutations("qkv") if order != ("q", "k", "v")),
    in_both("scale by the width of the keys", SCALE, "(heads * q.shape[-1]) ** -0.5"),
    in_both("scale by c", SCALE, "x.shape[-1] ** -0.5"),
    in_both("no scale", SCALE, "1.0"),
    in_both("scaled twice", SCALE, "1 / q.shape[-1]"),
    lim("no LIM", in_iwsa(ADDED, "z")),
    lim("LIM on x", lim_of("x")),
    lim("LIM on q", lim_of('conv2d(x, **p["to_q"])')),
    lim("LIM on k", lim_of('conv2d(x, **p["to_k"])')),
    lim("LIM on z", lim_of("z")),
    lim("LIM per window", in_iwsa(ADDED, WINDOW_BY_WINDOW)),
    lim("LIM as residual", in_iwsa(ADDED, f"value_map + {ADDED}")),
    lim("LIM after proj", in_iwsa(f'{ADDED}, **p["to_out.0"])', f'z, **p["to_out.0"]) + {LIM}')),
    lim("LIM before the attention", in_iwsa(ADDED, "z"), in_iwsa("in (q, k, value_map))", f"in (q, k, {LIM}))")),
    Mistake("PEG without identity", changes=(in_peg("groups=x.shape[-1]) + x", "groups=x.shape[-1])"),)),
    Mistake(
        "second feed-forward before IWSA",
        "the second feed-forward runs before IWSA",
        wiring=PortWiring(second_feed_forward="before IWSA"),
    ),
    Mistake("norm after the last stage", "the last stage ends in a norm too", wiring=PortWiring(last_norm="there")),
)

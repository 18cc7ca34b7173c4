"""Which configuration a state dict's weights are of: stated, stored beside them, or found by their shapes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from scalablevit_ref.checkpoints.layouts import layout_shapes, official_shapes
from scalablevit_ref.checks import parameter_problems
from scalablevit_ref.config import VARIANTS, ScalableViTConfig, variant
from scalablevit_ref.errors import CheckpointError, Spelling, option
from scalablevit_ref.weights import GUESSED, StateDict, Stored

OFFICIAL_MODEL = "scalable_vit_"
"""Before a variant's name, the name of its model in the authors' training script (`args.model`)."""

UNSEEN = "num_heads, window_sizes, norm_eps, ssa_scale and, where s = 1, c_ratios show in no shape"
"""What a file's shapes leave open, to be stated by a variant or a config."""


def resolve_config(
    found: StateDict, layout: str, *, config: ScalableViTConfig | None = None, variant_name: str | None = None
) -> tuple[ScalableViTConfig, str]:
    """The configuration of a state dict and where it comes from, the first of these that applies; its shapes are checked.

    "config": `config` as it is. "metadata": stored beside the weights. "config.json": stated in that file, which this package
    wrote. "variant": `variant_name`. "args.model": the model that the training script names. "shapes": the one variant whose
    shapes fit, now or when the file was written. What "metadata", "config.json" and "variant" state must be the same. A variant's
    num_classes, head, in_chans, qkv_bias and SSA version are adapted to the shapes, and so are those of a `config.json`.

    Raises CheckpointError with every missing, unexpected and misshapen parameter in one report, or the settings that are disputed.
    """
    option_, names = found.separable
    try:
        return _resolved(found, layout, config, variant_name)
    except CheckpointError as error:
        if not any(name in error.problem for name in names):
            raise
        some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        said = {"key": error.key, "expected": error.expected, "found": error.found}
        raise CheckpointError(*error.words, "; ", option_, f" leaves out {some}", **said) from None


def _resolved(
    found: StateDict, layout: str, config: ScalableViTConfig | None, variant_name: str | None
) -> tuple[ScalableViTConfig, str]:
    if config is not None and variant_name is not None:
        raise CheckpointError("give ", option("variant"), " or config=, not both")
    if config is not None:
        return _fitting(found.state, config, layout, "config"), "config"
    stored, beside = found.stored, found.stored.config_json
    own = None if stored.config is None else config_from_json(stored.config)
    noted = None if beside is None else config_beside(beside, found.state, layout)
    wanted = None if variant_name is None else adapted(named_variant(variant_name), found.state, layout)
    statements = [
        ("metadata", "the stored configuration", None if stored.guessed else own),
        ("config.json", "that of config.json beside it", None if beside is None or beside.guessed else noted),
        ("variant", f"variant {variant_name!r}", wanted),
    ]
    stated = [(source, words, said) for source, words, said in statements if said is not None]
    if stated:
        source, words, said = stated[0]
        for another, others, other in stated[1:]:
            if other != said:
                file = "config.json" in (source, another)
                remedy = Spelling(": correct or remove that file, or give config=", ": correct or remove that file") if file else ""
                raise CheckpointError(f"{words} is not {others}", remedy, **differing(other, said))
        return _fitting(found.state, said, layout, words), source
    if own is not None:
        return _fitting(found.state, own, layout, "the stored configuration"), GUESSED
    name = (found.model_name or "").removeprefix(OFFICIAL_MODEL)
    if name in VARIANTS:
        return _fitting(found.state, adapted(variant(name), found.state, layout), layout, f"args.model = {name!r}"), "args.model"
    return noted or _by_shapes(found.state, layout), GUESSED


def config_beside(stored: Stored, state: Mapping[str, Any], layout: str) -> ScalableViTConfig | None:
    """The settings that a `config.json` notes, with the head that the weights have; None where they are of other weights."""
    try:
        return _fitting(state, adapted(config_from_json(stored.config), state, layout), layout, "config.json")
    except (TypeError, ValueError):
        return None


def differing(wanted: ScalableViTConfig, found: ScalableViTConfig) -> dict[str, str]:
    """The settings in which two configurations differ, as an error's `expected` and `found`."""
    names = [name for name, value in asdict(wanted).items() if value != getattr(found, name)]
    return {
        side: ", ".join(f"{name}={getattr(config, name)!r}" for name in names)
        for side, config in (("expected", wanted), ("found", found))
    }


def named_variant(name: str) -> ScalableViTConfig:
    """`config.variant`, whose refusal of an unknown name is a CheckpointError here."""
    try:
        return variant(name)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


_LISTED = 1000
"""Blocks and stages up to which all parameters that are missing are listed."""

_LEAST_OF_A_BLOCK = 12
"""Fewest parameters of a block: two norms and the MLP with biases, the weights of q, k, v and a projection with its bias."""


def _fitting(state: Mapping[str, Any], config: ScalableViTConfig, layout: str, source: str) -> ScalableViTConfig:
    blocks = config.num_stages + sum(config.depths)
    if max(blocks, _LEAST_OF_A_BLOCK * (blocks - _LISTED)) > len(state):  # a file may claim a depth that takes for ever to list
        raise CheckpointError(
            f"weights do not fit {source}: it has more blocks than there are arrays", found=f"{len(state)} arrays"
        )
    problems = parameter_problems(state, layout_shapes(config, layout))
    if problems:
        raise CheckpointError(f"weights do not fit {source}: " + "; ".join(problems))
    return config


def _by_shapes(state: Mapping[str, Any], layout: str) -> ScalableViTConfig:
    """The one variant that fits once it has the file's head; of several the one that fits as it is, or comes with an mlp head.

    Nobody puts that head on by fine-tuning. A linear one for other classes, or none, says nothing: `small` and `small_0` then have
    equal shapes, but not an equal scale.
    """
    configs = {name: adapted(variant(name), state, layout) for name in VARIANTS}
    wrong: dict[str, list[str]] = {}
    for name, config in configs.items():
        if layout != "mmdet" or (config.stage_norms and config.head == "none"):
            wrong[name] = _wrong_names(state, layout_shapes(config, layout))
    fitting = [name for name, names in wrong.items() if not names]
    if len(fitting) > 1:
        published = [name for name in fitting if configs[name] == variant(name)]
        with_mlp_head = [name for name in fitting if configs[name].head == variant(name).head == "mlp"]
        fitting = published or with_mlp_head or fitting
    if len(fitting) == 1:
        return configs[fitting[0]]
    names = f" ({', '.join(fitting or VARIANTS)})"
    choices = (f"{UNSEEN}: give ", option("variant"), names, Spelling(" or config=", ""))
    if fitting:
        differ = [name for name in asdict(configs[fitting[0]]) if len({getattr(configs[one], name) for one in fitting}) > 1]
        problem = f"the shapes fit {' and '.join(fitting)} alike, which differ in {', '.join(differ)}; "
        raise CheckpointError(problem, *choices)
    if not wrong:
        raise CheckpointError("the detection backbone has no head; ", *choices, found=f"a {configs[VARIANTS[0]].head} head")
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    like, closest, fewest = f"nearest is {nearest!r}", configs[nearest], wrong[nearest]
    implied = implied_config(official_shapes(state, layout))
    if implied is not None and len(of_implied := _wrong_names(state, layout_shapes(implied, layout))) <= len(fewest):
        like, closest, fewest = "nor any other network", implied, of_implied
    if not fewest:
        told = ", ".join(f"{name}={getattr(closest, name)}" for name in _IMPLIED)
        raise CheckpointError(f"the shapes fit no variant, but a network of {told}; {UNSEEN}: give config=")
    problems = "; ".join(parameter_problems(state, layout_shapes(closest, layout)))
    raise CheckpointError(f"the shapes fit no variant, {like}: {problems}")


_IMPLIED = ("embed_dims", "depths", "mlp_ratios", "sr_ratios", "c_ratios")
"""Settings that show in shapes."""


def implied_config(shapes: Mapping[str, tuple[int, ...]]) -> ScalableViTConfig | None:
    """The network that most of these official names and shapes are of, with one head and windows of one token; None if of none.

    The names and shapes of that network may still not be these: it is what they are held against.
    """
    parts = [name.split(".") for name in shapes if name.startswith("stages.") and name.endswith(".norm1.weight")]
    blocks = {(int(k), int(i)) for _, k, i, *_ in parts if k.isdecimal() and i.isdecimal() and max(len(k), len(i)) < 5}
    stages = {k for k, _ in blocks}
    if not stages or stages != set(range(len(stages))) or max(i for _, i in blocks) >= len(shapes):
        return None
    dims, depths, per_stage = [], [], []
    for k in sorted(stages):
        mine = {i for stage, i in blocks if stage == k}
        (dim,) = shapes[f"stages.{k}.{min(mine)}.norm1.weight"][:1] or (0,)
        layers = (shapes.get(f"stages.{k}.{i}.mlp.fc1.weight", ()) for i in sorted(mine))
        ((hidden, _),) = Counter(shape[0] for shape in layers if len(shape) == 2).most_common(1) or [(dim, 0)]
        tile, width = 1, dim
        for i in sorted(mine):
            kernel, mixed = (shapes.get(f"stages.{k}.{i}.attn.reduction.{j}.weight", ()) for j in (0, 1))
            if len(kernel) == len(mixed) == 4:
                tile, width = kernel[2], mixed[0]
                break
        dims.append(dim)
        depths.append(max(mine) + 1)
        per_stage.append((hidden / max(dim, 1), tile, width / max(dim, 1)))
    ratios: dict[str, Any] = dict(zip(("mlp_ratios", "sr_ratios", "c_ratios"), zip(*per_stage, strict=True), strict=True))
    ones = (1,) * len(dims)
    stem = shapes.get("patch_embeds.0.proj.weight", ())
    patch = (stem[2] + 1) // 2 if len(stem) == 4 else 4
    norms = any(name.startswith("norm_list.") for name in shapes)
    try:
        config = ScalableViTConfig(
            embed_dims=tuple(dims),
            depths=tuple(depths),
            num_heads=ones,
            window_sizes=ones,
            stage_norms=norms,
            patch_size=patch,
            **ratios,
        )
        return _adapted(config, shapes)
    except (TypeError, ValueError, OverflowError):
        return None


def _wrong_names(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    surplus = [name for name in state if name not in shapes]
    return surplus + [name for name, shape in shapes.items() if name not in state or tuple(state[name].shape) != shape]


def adapted(config: ScalableViTConfig, state: Mapping[str, Any], layout: str) -> ScalableViTConfig:
    """The config with what fine-tuning changes taken from the shapes: num_classes, head, in_chans, qkv_bias and SSA's version."""
    return _adapted(config, official_shapes(state, layout))


def _adapted(config: ScalableViTConfig, shapes: Mapping[str, tuple[int, ...]]) -> ScalableViTConfig:
    head, num_classes = _head(shapes)
    stem = shapes.get("patch_embeds.0.proj.weight", ())
    in_chans = stem[1] if len(stem) == 4 and stem[1] > 0 else config.in_chans
    weights = [name for name in shapes if name.endswith((".attn.qkv.weight", ".attn.q.weight"))]
    qkv_bias = any(f"{name.removesuffix('weight')}bias" in shapes for name in weights) if weights else config.qkv_bias
    votes = {
        _ssa_values(shapes, name.removesuffix("reduction.0.weight")) for name in shapes if name.endswith(".reduction.0.weight")
    }
    values: Any = next((vote for vote in ("scaled", "unscaled") if vote in votes), config.ssa_values)
    return replace(config, head=head, num_classes=num_classes, in_chans=in_chans, qkv_bias=qkv_bias, ssa_values=values)


def _ssa_values(shapes: Mapping[str, tuple[int, ...]], attention: str) -> str | None:
    """The version of one SSA, or None: split q, k and v look the same in both where c' = c, and then compute the same."""
    if f"{attention}kv.weight" in shapes:
        return "scaled"
    k, v = (shapes.get(f"{attention}{part}.weight", ()) for part in "kv")
    if any(name.endswith(".attn.qkv.weight") for name in shapes) and k:
        return "unscaled"
    c = shapes[f"{attention}reduction.0.weight"][:1]
    return None if not k or k[:1] == c else "scaled" if v[:1] == k[:1] else "unscaled"


def _head(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, int]:
    """The kind of head and its number of classes."""
    mlp = any(name.startswith(("head.0.", "head.1.", "head.3.")) for name in shapes)
    kind, last = ("mlp", "head.3") if mlp else ("linear", "head")
    found = [shapes[name] for name in (f"{last}.weight", f"{last}.bias") if name in shapes]
    if not mlp and not found:
        return "none", 0
    return kind, found[0][0] if found and found[0] else 0


def exact_variant(config: object) -> str | None:
    """The variant that this config is, setting for setting; of another network's it is none."""
    return next((name for name in VARIANTS if variant(name) == config), None)


def near_variant(config: ScalableViTConfig) -> str:
    """A config that is no variant, in words: the one from which it differs in no more than fine-tuning changes, and in what."""
    for name in VARIANTS:
        like = replace(variant(name), **{field: getattr(config, field) for field in _FINE_TUNED})
        if like == config:
            other = [field for field in _FINE_TUNED if getattr(variant(name), field) != getattr(config, field)]
            return f"{name} but for {', '.join(other)}"
    return "none of the published"


_FINE_TUNED = ("head", "num_classes", "in_chans", "qkv_bias", "ssa_values")
"""Settings that are taken from the shapes whatever the variant."""


def config_to_json(config: Any) -> str:
    """Every setting of a configuration, which is a dataclass."""
    return json.dumps(asdict(config))


def config_from_json(text: Any) -> ScalableViTConfig:
    """The inverse of `config_to_json`; what is missing keeps its default. Raises CheckpointError."""
    try:
        return ScalableViTConfig(**json.loads(text))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"not a configuration ({error})", key="config", expected="ScalableViTConfig as JSON") from error

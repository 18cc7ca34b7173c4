"""`python -m tests.programs.official`: what is held to the authors' code, and by how much, as a part of `docs/official.md`.

Logits and intermediates are held to the figures in `tests/data/conformance`, which the published code computed. Gradients of whole
networks are held to the plain module's, `scalablevit_ref.adapters.plain`, which is itself held to those figures here; only the
network of odd widths has recorded gradients. It takes a minute and 5 GB.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref.adapters import plain
from scalablevit_ref.testing import relative_l2
from tests.support import recipe
from tests.support.conformance import NETWORKS, OPS, recorded, run_op
from tests.support.documents import ROOT
from tests.support.marked import with_marked

PAGE = ROOT / "docs" / "official.md"
LIBRARIES = ("numpy", "torch")
BACKBONE = ("features.mmdet.224", "features.mmdet.200x264")

MARK = "official: python -m tests.programs.official"
HEAD = ("network", "images", "logits", "intermediates: the worst", "gradients: the worst", "gradients by", "plain module: outputs")


def error(name: str, x: np.ndarray, expected: dict[str, Any], seed: int) -> float:
    """The largest of the three that `recipe.assert_fingerprint` bounds."""
    return max(recipe.errors(name, x, expected, seed).values())


def worst_gradient(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest relative error of any, and whose; of those that are rounding alone, their size beside the largest."""
    largest = max(float(np.linalg.norm(x)) for x in reference.values())
    errors = {
        name: relative_l2(found[name], x) if np.linalg.norm(x) >= 1e-13 * largest else float(np.linalg.norm(found[name])) / largest
        for name, x in reference.items()
    }
    name = max(errors, key=errors.__getitem__)
    return errors[name], name


def gradients(function: Any, params: Mapping[str, Any], images: Any, probes: list[Any]) -> dict[str, np.ndarray]:
    """Of the sum of what the function of images gives, weighted by the probes, for the images and every parameter."""
    tracked = {"images": images, **params}
    for tensor in tracked.values():
        tensor.requires_grad_()
        tensor.grad = None
    given = function(images)
    sum((y * probe).sum() for y, probe in zip(given, probes, strict=True)).backward()
    return {name: tensor.grad.numpy() for name, tensor in tracked.items()}


def both(config: sv.ScalableViTConfig, params: Mapping[str, np.ndarray], images: np.ndarray, seed: int) -> tuple[Any, Any, Any]:
    """What the plain module gives, and the gradients of the specification and of the plain module."""
    as_maps = config.head == "none"
    module = plain.ScalableViT(config).double()
    module.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in params.items()})

    def by_module(x: Any) -> list[Any]:
        return list(module.features(x)) if as_maps else [module(x)]

    weights = {name: torch.from_numpy(x.copy()) for name, x in params.items()}

    def by_specification(x: Any) -> list[Any]:
        if as_maps:
            return [rearrange(y, "b h w c -> b c h w") for y in sv.stage_features(x, weights, config)]
        return [sv.scalable_vit(x, weights, config)]

    with torch.no_grad():
        given = by_module(torch.from_numpy(images))
    probes = [
        torch.from_numpy(recipe.uniform(f"probe:{i}" if as_maps else "probe:logits", y.shape, seed)) for i, y in enumerate(given)
    ]
    ours = gradients(by_specification, weights, torch.from_numpy(images.copy()), probes)
    theirs = gradients(by_module, dict(module.named_parameters()), torch.from_numpy(images.copy()), probes)
    return [y.numpy() for y in given], ours, theirs


def figure(error: float) -> str:
    """With a minus sign, at which no line breaks."""
    return f"{error:.1e}".replace("-", "−")


def size(case: Mapping[str, Any]) -> str:
    """Of the images, and how many there are where it is not one; no line breaks there."""
    count, _, h, w = case["images"]
    return f"{f'{count} of ' if count > 1 else ''}{h} × {w}".replace(" ", "\N{NO-BREAK SPACE}")


def network_row(name: str) -> list[str]:
    """A classifier: its file's logits and intermediates on both libraries, its gradients on PyTorch."""
    case, config, params, images = recorded(name)
    seed, expected, taps = case["seed"], np.array(case["logits"]), case.get("taps", {})
    logits, worst = [], (0.0, "")
    for library in LIBRARIES:
        found = sv.trace(sv.to_backend(images, library), sv.to_backend(params, library), config)
        logits.append(relative_l2(sv.to_numpy(found["logits"]), expected))
        worst = max([worst, *((error(tap, sv.to_numpy(found[tap]), figures, seed), tap) for tap, figures in taps.items())])
        del found
    given, ours, theirs = both(config, params, images, seed)
    if "grads" in case:
        largest = max(figures["norm"] for figures in case["grads"].values())
        held = {name: figures for name, figures in case["grads"].items() if figures["norm"] >= 1e-13 * largest}
        gradient = max((error(f"grad:{name}", ours[name], figures, seed), name) for name, figures in held.items())
        by = "the authors"
    else:
        gradient, by = worst_gradient(ours, theirs), "the plain module"
    return [
        f"`{NETWORKS[name]}`" if NETWORKS[name] else "odd widths",
        size(case),
        figure(max(logits)),
        f"{figure(worst[0])} at `{worst[1]}`, of {len(taps)}" if taps else "not recorded",
        f"{figure(gradient[0])} at `{gradient[1]}`, of {len(ours)}",
        by,
        figure(relative_l2(given[0], expected)),
    ]


def backbone_row(name: str) -> list[str]:
    """The detection backbone: its four maps on both libraries, its gradients on PyTorch."""
    case, config = recipe.load(name), sv.variant("mmdet_small")
    state = recipe.parameters(recipe.load("manifest.mmdet.small"), case["seed"])
    params, images = sv.from_state_dict(state, variant="mmdet_small").params, recipe.image(case["images"], case["seed"])

    def held(maps: Any) -> tuple[float, str]:
        figures = enumerate(zip(maps, case["features"], strict=True))
        return max((error(f"features.{k}", x, expected, case["seed"]), f"stage {k}") for k, (x, expected) in figures)

    worst = (0.0, "")
    for library in LIBRARIES:
        maps = sv.stage_features(sv.to_backend(images, library), sv.to_backend(params, library), config)
        worst = max(worst, held([rearrange(sv.to_numpy(x), "b h w c -> b c h w") for x in maps]))
    given, ours, theirs = both(config, params, images, case["seed"])
    gradient = worst_gradient(ours, theirs)
    return [
        "`mmdet_small`",
        size(case),
        "none",
        f"{figure(worst[0])} at the map of {worst[1]}, of 4",
        f"{figure(gradient[0])} at `{gradient[1]}`, of {len(ours)}",
        "the plain module",
        figure(held(given)[0]),
    ]


def rows() -> Iterator[list[str]]:
    for name in NETWORKS:
        yield network_row(name)
        gc.collect()
    for name in BACKBONE:
        yield backbone_row(name)
        gc.collect()


def worst_operation() -> float:
    """The largest relative error of an output of the single functions, on both libraries."""
    worst = 0.0
    for case in OPS:
        seed, (h, w) = case["seed"], case["hw"]
        x = recipe.uniform("x", case["x"], seed) * np.sqrt(3.0)
        x = rearrange(x, "b c h w -> b h w c" if case["op"] == "patch_embed" else "b (h w) c -> b h w c", h=h, w=w)
        params, expected = recipe.parameters(case["parameters"], seed), np.reshape(case["y"]["values"], case["y"]["shape"])
        for library in LIBRARIES:
            y = sv.to_numpy(run_op(case, sv.to_backend(x, library), sv.to_backend(params, library)))
            worst = max(worst, relative_l2(y.reshape(expected.shape), expected))
    return worst


def lines() -> Iterator[str]:
    """The part of the page that is measured."""
    for cells in [HEAD, ("---", "---", "--:", "---", "---", "---", "--:"), *rows()]:
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"The single functions' outputs, in {len(OPS)} cases: at most {figure(worst_operation())}."


def main() -> None:
    """Measure, and write the part of the page."""
    PAGE.write_text(with_marked(PAGE.read_text(encoding="utf-8"), MARK, lines()), encoding="utf-8")


if __name__ == "__main__":
    main()

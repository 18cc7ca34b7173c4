"""The planted faults in a foreign module: each an edit of the plain `torch.nn` network's source.

`python -m tests.programs.foreign` compares each with the reference and writes, as `docs/diagnosis.md`, which layer and cause
were named.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import scalablevit_ref as sv
from scalablevit_ref.adapters import plain
from scalablevit_ref.compare.report import Report
from scalablevit_ref.testing import compare, random_images
from tests.support.mistakes import PLANTED, mistake_of

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


OTHER_NAMES = {
    "patch_embeds": "stems",
    "pos_block": "positions",
    "stages": "levels",
    "norm1": "before_mixer",
    "norm2": "before_ffn",
    "attn": "mixer",
    "mlp": "ffn",
    "qkv": "projected",
    "proj": "out",
    "lim_func": "local",
    "reduction": "squeeze",
    "norm_act": "squeezed",
    "fc1": "up",
    "fc2": "down",
}
"""Names of modules in the plain network's source, and what they are called in one that is renamed."""


def faulty(name: str | None, *, renamed: bool = False) -> Any:
    """The network with this fault, or with none, perhaps with other names. AssertionError for an edit that is stale."""
    source = Path(plain.__file__).read_text(encoding="utf-8")
    for old, new in PLANTED[name].foreign if name else ():
        assert old in source, f"{name}: {old!r} is not in the module"
        source = source.replace(old, new)
    for own, other in OTHER_NAMES.items() if renamed else ():
        source = re.sub(rf"(?<![\"\w]){own}(?![\"\w])", other, source)
    module = ModuleType(f"faulty_{name}")
    sys.modules[module.__name__] = module
    exec(compile(source, str(plain.__file__), "exec", dont_inherit=True), vars(module))
    return module.ScalableViT(CONFIG)


def found(name: str, *, renamed: bool = False) -> Report:
    return compare(faulty(name, renamed=renamed), variant=CONFIG, images=IMAGES)


def page() -> str:
    """The table: each fault, whether its layer and its cause were named, and what was said."""
    rows, layers, causes = [], 0, 0
    for name, planted in PLANTED.items():
        report = found(name)
        first = report.first.layer if report.first else "–"
        said = [cause for cause in report.causes if first in cause.layers]
        cause = said[0].words if said else "–"
        layers += first == planted.layer
        causes += cause == mistake_of(name).words
        reach = f"{len(said[0].layers)} of {len(report.diverging)}" if said else "–"
        marks = ["yes" if first == planted.layer else "**no**", "yes" if cause == mistake_of(name).words else "**no**"]
        rows.append(f"| {name} | `{first}` | {marks[0]} | {cause} | {marks[1]} | {reach} |")
    titles = ("planted fault", "first divergent layer", "right", "it matches if …", "right", "layers explained")
    head = f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|\n"
    return (
        "# What the comparison says of 26 planted faults\n\n"
        "Each of the planted faults (`tests/support/mistakes.py`) was put into a foreign network, the plain `torch.nn` one, as an\n"
        "edit of its source, and `scalablevit_ref.testing.compare` was asked. This page is written by\n"
        "`python -m tests.programs.foreign`. *Layers explained*: of the layers whose isolated error is too large, those that\n"
        "the named cause reproduces; what is left has another cause, named in the report where one is known.\n\n"
        f"The right layer was named {layers} times of {len(PLANTED)}, the right cause {causes} times.\n\n"
        + head
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

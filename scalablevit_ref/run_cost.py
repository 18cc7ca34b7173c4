"""What a run of a network costs, told from its settings before it runs; and the bound above which a run is not begun unasked.

Windows, heads and paddings show in no shape: they can turn weights of a megabyte into terabytes of attention.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.arguments import check_flag
from scalablevit_ref.backends.sizes import Ledger, Sizes
from scalablevit_ref.cost import PUBLISHED_SIZE
from scalablevit_ref.errors import OptionError, brief, option
from scalablevit_ref.networks import Network

FREE_WORK = 20_000_000_000
"""Multiply-adds an image that any run may take: some 2 seconds of NumPy, five times what `small` takes at 224 pixels a side."""

WORK_PER_WEIGHT_AND_PIXEL = 1
"""Multiply-adds an image for each of the network's weights and each pixel, above that. A stem of stride 4 meets a sixteenth of the
pixels: a published variant takes 1/300 at 224 pixels a side, and the embedded digits network, small as it is, 1/4 at 1,024."""

FREE_MEMORY = 2 << 30
"""Bytes that any run may hold at once."""

WEIGHTS_AND_PIXELS_PER_BYTE = 16
"""Weights times pixels of all images, above that, for each byte at once: variants have 5,000, the digits network at least 32."""

OVERHEAD = 1 << 20
"""Bytes that Python and NumPy hold beside the arrays of a run."""

EXPONENTIAL = 64
"""Multiply-adds that take as long as one exponential of attention and what belongs to it: in NumPy 6 ns beside 0.09 ns."""


class CostError(OptionError, ValueError):
    """A run that would take more work or memory than its weights and images account for."""


@dataclass(frozen=True)
class RunCost:
    """What one run costs.

    Attributes
    ----------
    memory
        Most bytes of arrays at once, parameters and images apart.
    kept
        Bytes of all layers' outputs together.
    multiply_adds
        Of all images. An exponential of attention counts as `EXPONENTIAL`.
    dearest
        The layer that takes most of them.
    """

    memory: int
    kept: int
    multiply_adds: int
    dearest: str


def run_cost(
    network: Network, images: Sequence[int], *, dtype: Any = "float64", keeping: bool = False, whole: bool = False
) -> RunCost:
    """What a forward pass costs, found by running the network on arrays without numbers.

    Parameters
    ----------
    network
        What is run.
    images
        The shape of the images, b c h w.
    dtype
        Of the images and parameters.
    keeping
        Whether every layer's output is kept, as in a trace.
    whole
        Whether attention holds its whole matrix, as JAX and PyTorch may; NumPy does not.

    Raises
    ------
    ValueError
        For images that the network does not take.
    """
    ledger = Ledger(dtype, whole=whole)
    params = {name: Sizes(shape, ledger) for name, shape in network.parameter_shapes().items()}
    x = Sizes(images, ledger)
    before, outputs, kept = ledger.alive, 0, []
    work: dict[str, int] = {}

    def tap(name: str, y: Sizes) -> Sizes:
        nonlocal outputs
        outputs += y.nbytes
        work[name] = ledger.multiply_adds + EXPONENTIAL * ledger.exponentials - sum(work.values())
        if keeping:
            kept.append(y)
        return y

    network.forward(x, params, tap)
    return RunCost(ledger.peak - before + OVERHEAD, outputs, sum(work.values()), max(work, key=lambda name: work[name]))


def check_run(
    network: Network,
    images: Sequence[int],
    *,
    keeping: bool = False,
    whole: bool = False,
    dtype: Any = "float64",
    number: int | None = None,
    beside: int = 0,
    given: bool = True,
    costly: bool = False,
) -> None:
    """Refuse a run that costs more than the network's weights and its images account for, or than the machine has memory.

    The bound on work is the larger of `FREE_WORK` and `WORK_PER_WEIGHT_AND_PIXEL` for each weight and each pixel of an image. The
    bound on memory is the larger of `FREE_MEMORY` and a byte for each `WEIGHTS_AND_PIXELS_PER_BYTE` of all images, but no more than
    `machine_memory`.

    Parameters
    ----------
    network, images, dtype, keeping, whole
        As `run_cost` takes them.
    number
        Bytes that a number of the run takes, where they are not those of the dtype.
    beside
        Bytes that are held beside what the run itself does.
    given
        Whether the images are the user's. Those whose size was chosen to fit the network's settings account for no more than the
        published size does.
    costly
        Whether it is asked for all the same.

    Raises
    ------
    CostError
        In one line: what it would take, the layer that takes most of it, and its settings.
    ValueError
        For images that the network does not take.
    """
    check_flag("costly", costly)
    if costly:
        return
    cost = run_cost(network, images, dtype=dtype, keeping=keeping, whole=whole)
    batch, _, h, w = images
    weights = sum(map(prod, network.parameter_shapes().values()))
    pixels = h * w if given else min(h * w, prod(PUBLISHED_SIZE))
    size = np.dtype(dtype).itemsize
    work, memory = cost.multiply_adds // batch, cost.memory * (number or size) // size + beside + weights * size
    most_work = max(FREE_WORK, WORK_PER_WEIGHT_AND_PIXEL * weights * pixels)
    accounted = max(FREE_MEMORY, weights * pixels * batch // WEIGHTS_AND_PIXELS_PER_BYTE)
    machine = machine_memory()
    most_memory = accounted if machine is None else min(accounted, machine)
    if work <= most_work and memory <= most_memory:
        return
    settings = ", ".join(f"{name} {brief(value)}" for name, value in network.layers()[cost.dearest].settings.items())
    where = f"{cost.dearest} ({settings})" if settings else cost.dearest
    whose = "weights and images on this machine" if most_memory < accounted else "weights and images"
    raise CostError(
        f"{batch} image{'s' * (batch > 1)} of {h} x {w} would take {_rounded(work)} multiply-adds each and {_in_bytes(memory)} of "
        f"memory at once, most of it in {where}; expected at most {_rounded(most_work)} and {_in_bytes(most_memory)}, "
        f"for such {whose}; ",
        option("costly", True),
        " runs it all the same",
    )


def _rounded(n: int) -> str:
    """With its power of ten, of any size."""
    return f"{n:.1e}" if n.bit_length() < 1000 else f"10^{n.bit_length() * 30103 // 100000}"


def _in_bytes(n: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9)):
        if n >= size:
            return f"{n / size:.1f} {unit}" if n < 10**6 * size else f"{_rounded(n)} bytes"
    return f"{n / 10**6:.0f} MB"


def machine_memory() -> int | None:
    """Bytes that this process can have: the machine's, its control group's or what its own limit leaves; None if unknown."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _CGROUP:
        with suppress(OSError, ValueError):
            found.append(int(path.read_bytes()))
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            used = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
            found.append(max(1, limit - used))
    return min((n for n in found if n > 0), default=None)


_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says what the process's control group may have, in its second and its first version; inside of a container."""

"""`python -m tests.programs.libraries [--write] [LIBRARY…]`: every library that has a backend, on the digits network, as a table.

Each is measured in a process of its own, on one core: its errors against NumPy in float64, its gradient against autograd of plain
`torch.nn`, how often its compiler traces the network, and its speed beside plain `torch.nn`, taken in turn. `--write` puts the
table into `docs/backends.md`; a library that is not measured keeps its row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.compiling import KERNELS
from tests.support.documents import ROOT
from tests.support.machine import machine
from tests.support.marked import marked, with_marked

PAGE = ROOT / "docs" / "backends.md"
MARK = "libraries: python -m tests.programs.libraries --write"
HEAD = ("library", "float64", "float32", "gradient", "compiled", "images a second", "lines")
BATCH = 8
SECONDS = 6.0
"""How long a library and plain `torch.nn` are timed, in seconds; at least three times each."""

ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "PARALLEL": "0",  # tinygrad compiles its kernels in this process
    "CACHEDB": str(KERNELS),
}

Function = Callable[[Any, Any], Any]
"""Of images and parameters."""

Traced = Callable[[], None]
"""Called each time that a compiler goes through a function."""


@dataclass(frozen=True)
class Way:
    """How a library compiles a function and takes a gradient.

    compiled: of a function of images and parameters, of parameters, and of what each trace is to call: a function of images.
    gradient: of a number, a function of parameters, at these.
    eager: whether it is also used without its compiler.
    together: computes arrays that are not computed yet.
    plainly: a context for what is not timed, in which nothing is made fast.
    """

    compiled: Callable[[Function, Any, Traced], Callable[[Any], Any]] | None = None
    gradient: Callable[[Callable[[Any], Any], Any], Mapping[str, Any]] | None = None
    eager: bool = True
    together: Callable[[Sequence[Any]], object] = lambda arrays: None
    plainly: Callable[[], AbstractContextManager[Any]] = nullcontext


def counted(function: Function, traced: Traced) -> Function:
    """For compilers that run Python's code when they trace it, and not again."""

    def run(images: Any, params: Any) -> Any:
        traced()
        return function(images, params)

    return run


def torch() -> Way:
    import torch
    from torch._dynamo.backends.debugging import aot_eager

    def compiled(function: Function, params: Any, traced: Traced) -> Callable[[Any], Any]:
        def counting(graph: Any, inputs: Any) -> Any:
            traced()
            return aot_eager(graph, inputs)

        whole = torch.compile(function, fullgraph=True, backend=counting)
        return lambda images: whole(images, params)

    def gradient(loss: Callable[[Any], Any], params: Any) -> Mapping[str, Any]:
        leaves = {name: x.detach().requires_grad_() for name, x in params.items()}
        return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))

    return Way(compiled, gradient)


def jax() -> Way:
    import jax

    def compiled(function: Function, params: Any, traced: Traced) -> Callable[[Any], Any]:
        whole = jax.jit(counted(function, traced))
        return lambda images: whole(images, params)

    return Way(compiled, lambda loss, params: jax.jit(jax.grad(loss))(params), eager=False)


def mlx() -> Way:
    import mlx.core as mx

    def compiled(function: Function, params: Any, traced: Traced) -> Callable[[Any], Any]:
        whole = mx.compile(counted(function, traced))
        return lambda images: whole(images, params)

    return Way(compiled, lambda loss, params: mx.grad(loss)(params), together=lambda arrays: mx.eval(*arrays))


def tensorflow() -> Way:
    import tensorflow as tf

    def compiled(function: Function, params: Any, traced: Traced) -> Callable[[Any], Any]:
        whole = tf.function(counted(function, traced), autograph=False)
        return lambda images: whole(images, params)

    def gradient(loss: Callable[[Any], Any], params: Any) -> Mapping[str, Any]:
        with tf.GradientTape() as tape:
            tape.watch(params)
            found = loss(params)
        return dict(tape.gradient(found, params))

    return Way(compiled, gradient)


def paddle() -> Way:
    from scalablevit_ref.backends import paddle as backend

    library = backend.paddle

    def compiled(function: Function, params: Any, traced: Traced) -> Callable[[Any], Any]:
        opaque = library.jit.not_to_static(counted(function, traced))

        def program(images: Any) -> Any:  # whose source Paddle reads
            return opaque(images, params)

        return library.jit.to_static(program, full_graph=True)

    def gradient(loss: Callable[[Any], Any], params: Any) -> Mapping[str, Any]:
        leaves = {name: x.detach().clone() for name, x in params.items()}
        for x in leaves.values():
            x.stop_gradient = False
        return dict(zip(leaves, library.grad(loss(leaves), list(leaves.values())), strict=True))

    return Way(compiled, gradient)


def tinygrad() -> Way:
    from tinygrad import Tensor, TinyJit
    from tinygrad.helpers import Context

    def compiled(function: Function, params: Any, traced: Traced) -> Callable[[Any], Any]:
        run = counted(function, traced)
        return TinyJit(lambda images: run(images, params).realize())

    def gradient(loss: Callable[[Any], Any], params: Any) -> Mapping[str, Any]:
        found = dict(zip(params, loss(params).gradient(*params.values()), strict=True))
        Tensor.realize(*found.values())
        return found

    return Way(compiled, gradient, together=lambda arrays: Tensor.realize(*arrays), plainly=lambda: Context(NOOPT=1))


WAYS: Mapping[str, Callable[[], Way]] = {
    "numpy": Way,
    "torch": torch,
    "jax": jax,
    "cupy": Way,
    "mlx": mlx,
    "tensorflow": tensorflow,
    "paddle": paddle,
    "tinygrad": tinygrad,
}
"""What is known of each library beside its backend."""

PACKAGES = ("numpy", "torch", "jax", "cupy-cuda13x", "mlx", "tensorflow-cpu", "tensorflow", "paddlepaddle", "tinygrad")


def measured(library: str) -> dict[str, Any]:
    """Of one library, in this process."""
    import numpy as np
    from einops import reduce

    import scalablevit_ref as sv
    from scalablevit_ref import digits
    from scalablevit_ref.testing import EPS
    from scalablevit_ref.testing.agreement import Candidate, why_absent

    why = why_absent(Candidate(library, "float32", "cuda" if library == "cupy" else "cpu"))
    if why is not None:
        return {"absent": why}
    way = WAYS[library]()
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    config, params = checkpoint.config, sv.to_backend(checkpoint.params, "numpy", "float64")
    images = digits.preprocess(digits.test_images()[0][:BATCH], "float64")
    oracle = sv.trace(images, params, config)
    found: dict[str, Any] = {}

    for dtype in ("float64", "float32"):
        with _wide(library, dtype), way.plainly():
            x, p = (sv.to_backend(value, library, dtype) for value in (images, params))
            taps = _traced(way, x, p, config)
            errors = {name: _relative(sv.to_numpy(y), oracle[name]) / EPS[dtype] for name, y in taps.items()}
            worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
            found[dtype] = {"tap": worst, "eps": errors[worst]}

    probe = np.random.default_rng(0).standard_normal((2, config.num_classes))
    with _wide(library, "float64"), way.plainly():
        if way.gradient is not None:
            x, p, weights = (sv.to_backend(value, library, "float64") for value in (images[:2], params, probe))

            def loss(params: Any) -> Any:
                return reduce(sv.scalable_vit(x, params, config) * weights, "b classes -> ", "sum")

            gradient, reference = sv.to_numpy(dict(way.gradient(loss, p))), _plain_gradient(images[:2], params, config, probe)
            flat = [np.concatenate([np.ravel(part[name]) for name in params]) for part in (gradient, reference)]
            found["gradient"] = _relative(*flat) / EPS["float64"]

    x, p = (sv.to_backend(value, library, "float32") for value in (images, params))
    network = partial(sv.scalable_vit, config=config)
    call, found["timed"] = partial(network, params=p), "eager"
    if way.compiled is not None:
        traces: list[None] = []
        compiled = way.compiled(network, p, lambda: traces.append(None))
        logits = [sv.to_numpy(compiled(x)) for _ in range(4)]
        error = max(_relative(y, oracle["logits"]) for y in logits) / EPS["float32"]
        found["compiled"] = {"eps": error, "traces": len(traces)}
        if library != "torch":  # what is traced for `aot_eager` runs as eagerly as before
            call, found["timed"] = compiled, "compiled"
    found["rate"] = _beside_plain(lambda: sv.to_numpy(call(x)), images, params, config)
    found["lines"] = len((ROOT / "backends" / f"{library}.py").read_text(encoding="utf-8").splitlines())
    return found


def _traced(way: Way, images: Any, params: Any, config: Any) -> dict[str, Any]:
    """Every tap, by the library's compiler where it is not used without."""
    import scalablevit_ref as sv

    if way.eager or way.compiled is None:
        taps = sv.trace(images, params, config)
    else:
        taps = way.compiled(partial(sv.trace, config=config), params, lambda: None)(images)
    way.together(list(taps.values()))
    return taps


def _wide(library: str, dtype: str) -> AbstractContextManager[Any]:
    """JAX has float64 only where it is switched on."""
    if (library, dtype) != ("jax", "float64"):
        return nullcontext()
    import jax

    enabled: AbstractContextManager[Any] = jax.enable_x64(True)
    return enabled


def _relative(actual: Any, reference: Any) -> float:
    from scalablevit_ref.testing import relative_l2

    return relative_l2(actual, reference)


def _plain(params: Mapping[str, Any], config: Any, dtype: str) -> Any:
    import torch

    import scalablevit_ref as sv
    from scalablevit_ref.adapters import plain

    network = plain.ScalableViT(config).to(getattr(torch, dtype)).eval()
    network.load_state_dict(sv.to_backend(params, "torch", dtype))
    return network


def _plain_gradient(images: Any, params: Mapping[str, Any], config: Any, probe: Any) -> dict[str, Any]:
    """By autograd of plain `torch.nn`, in float64."""
    import torch

    network = _plain(params, config, "float64")
    (network(torch.from_numpy(images)) * torch.from_numpy(probe)).sum().backward()
    return {name: x.grad.numpy() for name, x in network.named_parameters()}


def _beside_plain(run: Callable[[], object], images: Any, params: Mapping[str, Any], config: Any) -> dict[str, float]:
    """Images a second of this and of plain `torch.nn`, each the best of as many turns as there is time for."""
    import torch

    network, pixels = _plain(params, config, "float32"), torch.from_numpy(images.astype("float32"))

    def plain() -> object:
        with torch.inference_mode():
            return network(pixels)

    best = {"own": float("inf"), "plain": float("inf")}
    for call in (run, plain):
        call()
    end, turns = time.perf_counter() + SECONDS, 0
    while turns < 3 or time.perf_counter() < end:
        turns += 1
        for name, call in (("own", run), ("plain", plain)):
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: len(images) / seconds for name, seconds in best.items()}


def row(library: str, found: Mapping[str, Any]) -> str:
    """A line of the table."""
    from scalablevit_ref.backends.dispatch import SPELLED

    if "absent" in found:
        return f"| {SPELLED[library]} | {' | '.join(['not measured'] * (len(HEAD) - 1))} |"
    compiled = found.get("compiled")
    traces = compiled and f"{compiled['eps']:.1f}, {compiled['traces']} trace{'s' * (compiled['traces'] != 1)}"
    rate = found["rate"]
    cells = [
        *(f"{found[dtype]['eps']:.1f} (`{found[dtype]['tap']}`)" if found[dtype]["eps"] else "the same" for dtype in HEAD[1:3]),
        f"{found['gradient']:.1f}" if "gradient" in found else "none",
        traces or "none",
        f"{rate['own']:.0f} {found['timed']}, {rate['own'] / rate['plain']:.2f} ×",
        str(found["lines"]),
    ]
    return f"| {SPELLED[library]} | {' | '.join(cells)} |"


def rows(page: str) -> dict[str, str]:
    """The lines of the table that the page has, by the library's own name."""
    lines = [line for line in marked(page, MARK) if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


def libraries() -> list[str]:
    """Those that have a backend, by its file."""
    from scalablevit_ref.backends.dispatch import BACKENDS

    return [name for name in BACKENDS if (ROOT / "backends" / f"{name}.py").exists()]


def in_a_process(library: str) -> dict[str, Any]:
    """What `measured` gives in a process on one core, or why it ended otherwise."""
    environment = os.environ | ONE_THREAD
    command = [sys.executable, "-m", "tests.programs.libraries", "--measure", library]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{library}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write if asked."""
    if arguments[:1] == ["--measure"]:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        sys.stdout.write(f"{json.dumps(measured(arguments[1]))}\n")
        return
    from scalablevit_ref.backends.dispatch import SPELLED

    chosen = [name for name in arguments if name != "--write"] or libraries()
    page = PAGE.read_text(encoding="utf-8")
    known = rows(page)
    for library in chosen:
        found = in_a_process(library)
        sys.stdout.write(f"{library}: {json.dumps(found)}\n")
        sys.stdout.flush()
        if "absent" not in found or SPELLED[library] not in known:
            known[SPELLED[library]] = row(library, found)
    table = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    table += [known.get(SPELLED[name], row(name, {"absent": ""})) for name in libraries()]
    lines = [f"Measured on {machine(PACKAGES)}.", "", *table]
    sys.stdout.write("\n".join([*lines, ""]))
    if "--write" in arguments:
        PAGE.write_text(with_marked(page, MARK, lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

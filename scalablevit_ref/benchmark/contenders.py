"""Who is timed: the plain module, the specification on each backend, with the same random weights, and PyPI's vit_pytorch."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_backend, to_numpy
from scalablevit_ref.backends.dispatch import BACKENDS
from scalablevit_ref.backends.start import FAULTS, said, why_not_started
from scalablevit_ref.benchmark import deployed
from scalablevit_ref.config import ScalableViTConfig, variant
from scalablevit_ref.cost import cost
from scalablevit_ref.network import scalable_vit
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_params

MODULE = "module"
"""The plain `torch.nn` module, run eagerly: what every ratio is against."""

LIBRARIES = {
    "numpy": "numpy",
    "torch": "torch",
    "torch.replay": "torch",
    "torch.compile": "torch",
    "torch.freezing": "torch",
    "torch.aoti": "torch",
    "torch.graphs": "torch",
    "module.replay": "torch",
    "module.compile": "torch",
    "module.freezing": "torch",
    "module.aoti": "torch",
    "module.graphs": "torch",
    "jax": "jax",
    "cupy": "cupy",
    "mlx": "mlx",
    "tensorflow": "tensorflow",
    "paddle": "paddle",
    "tinygrad": "tinygrad",
    "export.ort": "onnxruntime",
    "module.ort": "onnxruntime",
    "export.openvino": "openvino",
    "module.openvino": "openvino",
    "vit_pytorch": "vit_pytorch",
}
"""Contender to the library it needs.

`jax` runs under `jax.jit`, `mlx` under `mx.compile`, `tensorflow` under `tf.function`, `paddle` under `to_static`, `tinygrad` under
`TinyJit`. `module` is the plain module, `torch` the specification on PyTorch: eager; `.compile` under PyTorch's compiler;
`.freezing` likewise, with the weights as constants; `.aoti` compiled ahead, by AOTInductor into a package, as
`adapters.torch.ScalableViT.compiled` does; `.replay` the eager kernels, recorded in a CUDA graph; `.graphs` the compiled ones,
likewise. `export` is the ONNX file of `adapters.onnx.export`, and before a runtime's
name `module` is that which `torch.onnx.export` makes of the plain module: `.ort` in ONNX Runtime, `.openvino` in OpenVINO.
"""

RECORDED = (".replay", ".graphs")
"""How contenders end whose kernels are recorded once in a CUDA graph: the processor launches one thing, not hundreds."""

ONNX = (".ort", ".openvino")
"""How contenders end that run an ONNX file."""

LEAVES_FILES = (".compile", ".freezing", ".graphs", ".aoti", *ONNX)
"""How contenders end for which files are written, by the compiler or ahead."""

ON_CPU = (".freezing", ".aoti", "mlx", "tensorflow", "paddle", "tinygrad", *ONNX)
"""How contenders end that are timed on the CPU only."""

PACKAGES = {
    "vit_pytorch": "vit-pytorch --no-deps",
    "onnxruntime": "'scalablevit-ref[onnx]'",
    "onnx": "'scalablevit-ref[onnx]'",
    "onnxscript": "onnxscript",
}
"""What is to be installed for a library; 'scalablevit-ref[LIBRARY]' if it is not named."""

ORACLE_IMAGES = 2
"""How many of a work's images NumPy computes in float64, for the error of the others."""


@dataclass(frozen=True)
class Work:
    """One forward pass."""

    variant: str
    batch: int
    size: int  # pixels a side
    dtype: str = "float32"  # or "tf32": float32 arrays, whose products an NVIDIA GPU rounds to ten bits
    device: str = "cpu"  # or "cuda" for an NVIDIA GPU

    @property
    def config(self) -> ScalableViTConfig:
        return variant(self.variant)

    @property
    def held(self) -> str:
        """The dtype of the arrays."""
        return "float32" if self.dtype == "tf32" else self.dtype


Call = Callable[[], Any]
"""Runs a contender's forward pass once, waits for it and returns the logits on its own device."""


@dataclass(frozen=True)
class Contender:
    """A contender that has run once, so that all is compiled."""

    run: Call
    multiply_adds: int  # of one forward pass, those of the attention products with them
    logits: np.ndarray  # what it computes, in float64
    build_seconds: float | None = None  # for files that are made once, if it has some
    start_seconds: float = 0.0  # to the first logits, from weights or such files: what is compiled meanwhile, and the first pass


class ModuleFailedError(RuntimeError):
    """The plain module failed, beside which all others are timed."""


def entered(
    names: Iterable[str], work: Work, step: Callable[[str], None], folder: Path | None = None
) -> tuple[dict[str, Contender], dict[str, str], dict[str, str]]:
    """The contenders that did this work here once, why others cannot, and what others raised. `step` is told what is being done.

    Files that are built lie in `folder`; not given, in one that is removed. Raises ModuleFailedError where it is the plain module
    that failed.
    """
    ready, absent, failed = {}, {}, {}
    for name in names:
        step(f"{work.variant} x {work.batch}: {name}")
        why = why_absent(name, work)
        if why:
            absent[name] = why
            continue
        try:
            inputs(work)  # drawn before the clock runs
            built = build(name, work, folder)
            begin = time.perf_counter()
            run = prepare(name, work, folder)
            logits = to_numpy(run()).astype(np.float64)
            seconds = time.perf_counter() - begin
            ready[name] = Contender(run, work.batch * multiply_adds(name, work), logits, built, seconds)
        except FAULTS as error:
            failed[name] = failure(name, work, error)
    return ready, absent, failed


def failure(name: str, work: Work, error: BaseException) -> str:
    """What a contender raised, in one line. Raises ModuleFailedError if it is the plain module."""
    if name == MODULE:
        raise ModuleFailedError(f"the plain module fails on {work.variant} x {work.batch}: {said(error)}") from error
    return said(error)


def why_absent(name: str, work: Work) -> str | None:
    """Why this contender cannot do this work here, or None."""
    library = "torch" if name == MODULE else LIBRARIES[name]
    for needed in (library, "torch", *_also_needed(name)):
        if find_spec(needed) is None:
            package = PACKAGES.get(needed, f"'scalablevit-ref[{library if needed == 'torch' else needed}]'")
            return f"not installed: pip install {package}"
    if library in BACKENDS and (why := why_not_started(library)) is not None:
        return why
    if name == "numpy" and (work.device != "cpu" or work.dtype == "bfloat16"):
        return "NumPy multiplies on the CPU, in float32 and float64"
    if name == "cupy" and work.device == "cpu":
        return "runs on GPUs"
    if name.endswith(RECORDED) and work.device == "cpu":
        return "CUDA graphs are of GPUs"
    if name.endswith(ON_CPU) and work.device != "cpu":
        return "is timed on the CPU"
    if name.endswith(ONNX) and work.dtype not in deployed.DTYPES:
        return f"the exporters write no {work.dtype}"
    if name.endswith(".ort"):
        return deployed.why_not_in_onnx_runtime(work.dtype)
    if name == "paddle" and work.dtype in ("bfloat16", "float16"):
        return "PaddlePaddle has no kernels for 16 bits on a CPU"
    if name == "cupy" and work.dtype == "bfloat16":
        return "CuPy has no bfloat16"
    if name in ("jax", "cupy") and work.dtype == "tf32":
        return "multiplies float32 in float32 here"
    widths = work.config.embed_dims
    if name == "vit_pytorch" and any(width != widths[0] * 2**k for k, width in enumerate(widths)):
        return "its widths double from stage to stage"
    return None


def _also_needed(name: str) -> tuple[str, ...]:
    """Libraries that write the file which a contender runs."""
    return () if not name.endswith(ONNX) else ("onnx", "onnxscript") if name.startswith(MODULE) else ("onnx",)


def multiply_adds(name: str, work: Work) -> int:
    """Multiply-adds of one image, those of the attention products with them."""
    if name != "vit_pytorch":
        return cost(work.config, work.size).multiply_adds
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        community_port(work.config).eval()(torch.empty(1, work.config.in_chans, work.size, work.size))
    return int(counter.get_total_flops()) // 2


def inputs(work: Work) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The images and weights that all contenders get, in float32. The first images of a larger batch are those of a smaller one."""
    return _drawn(work.variant, work.batch, work.size)


@lru_cache(maxsize=2)  # a work's and its oracle's
def _drawn(name: str, batch: int, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    config = variant(name)
    images = np.random.default_rng(0).standard_normal((batch, config.in_chans, size, size), "float32")
    return images, random_params(parameter_shapes(config), dtype="float32")


def forget_inputs() -> None:
    """Let go of the images and weights that were drawn last: whoever runs has its own."""
    _drawn.cache_clear()


def oracle(work: Work) -> np.ndarray:
    """NumPy's logits of the first `ORACLE_IMAGES` images, in float64: b classes."""
    return _oracle(work.variant, min(work.batch, ORACLE_IMAGES), work.size)


@cache
def _oracle(name: str, batch: int, size: int) -> np.ndarray:
    x, p = (to_backend(arrays, "numpy", "float64") for arrays in _drawn(name, batch, size))
    return np.asarray(scalable_vit(x, p, variant(name)))


@cache
def temporary_folder() -> Path:
    """A folder that is removed when this process ends."""
    path = Path(tempfile.mkdtemp(prefix="scalablevit-bench-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def built_file(name: str, work: Work, folder: Path | None) -> Path | None:
    """Where a contender's file lies that is made ahead, or None if it has none. Runtimes share the files.

    Without a folder it is in one that is made now, and removed when this process ends.
    """
    who, _, how = name.partition(".")
    ending = {"aoti": "pt2", "ort": "onnx", "openvino": "onnx"}.get(how)
    if ending is None:
        return None
    return (folder or temporary_folder()) / f"{who}-{work.variant}-{work.batch}-{work.size}-{_dtype_of_file(name, work)}.{ending}"


def _dtype_of_file(name: str, work: Work) -> str:
    return "float32" if name.endswith(".openvino") else work.dtype  # OpenVINO turns the weights itself


def build(name: str, work: Work, folder: Path | None) -> float | None:
    """Write a contender's file unless it is there; the seconds that this took, when it was, or None if it has none."""
    path = built_file(name, work, folder)
    return None if path is None else _built(path, name.partition(".")[0], replace(work, dtype=_dtype_of_file(name, work)))


@cache
def _built(path: Path, who: str, work: Work) -> float:
    begin = time.perf_counter()
    if not path.exists():
        images, params = inputs(work)
        if who == "export":
            deployed.write_export(path, params, work.config, batch=work.batch, size=work.size, dtype=work.dtype)
        else:
            write = deployed.write_package if path.suffix == ".pt2" else deployed.write_torch_export
            write(path, _network(who, work, params), to_backend(images, "torch", work.dtype))
    return time.perf_counter() - begin


def prepare(name: str, work: Work, folder: Path | None = None) -> Call:
    """A contender, ready to run: weights and images on the device, nothing compiled yet. Its file lies in `folder`, or is built."""
    config = work.config
    images, params = inputs(work)
    path = built_file(name, work, folder)
    if path is not None:
        build(name, work, folder)
        if name.endswith(".ort"):
            return deployed.on_onnx_runtime(path, images)
        if name.endswith(".openvino"):
            return deployed.on_openvino(path, images, work.dtype)
    if name == MODULE or LIBRARIES[name] in ("torch", "vit_pytorch"):
        return _torch(name, work, images, params, path)
    device = {"cpu": None, "cuda": "gpu" if name == "jax" else "cuda"}[work.device]
    x, p = (to_backend(arrays, LIBRARIES[name], work.held, device) for arrays in (images, params))
    if name == "jax":
        import jax

        compiled = jax.jit(scalable_vit, static_argnums=2)
        return lambda: compiled(x, p, config).block_until_ready()
    if name == "mlx":
        import mlx.core

        forward = mlx.core.compile(lambda x, p: scalable_vit(x, p, config))

        def logits() -> Any:
            y = forward(x, p)
            mlx.core.eval(y)
            return y

        return logits
    if name == "tensorflow":
        import tensorflow as tf

        graph = tf.function(lambda: scalable_vit(x, p, config), autograph=False)
        return lambda: graph()
    if name == "paddle":
        return _static(x, p, config)
    if name == "tinygrad":
        return _captured(x, p, config)
    if name == "cupy":
        import cupy

        def run() -> Any:
            y = scalable_vit(x, p, config)
            cupy.cuda.get_current_stream().synchronize()
            return y

        return run
    return lambda: scalable_vit(x, p, config)


def _static(x: Any, p: Any, config: ScalableViTConfig) -> Call:
    """PaddlePaddle's compiled mode: one program, traced once. Paddle reads the source of `program`, not of what it calls."""
    import paddle

    opaque = paddle.jit.not_to_static(lambda images: scalable_vit(images, p, config))

    def program(images: Any) -> Any:
        return opaque(images)

    compiled = paddle.jit.to_static(program, full_graph=True)

    def run() -> Any:
        with paddle.no_grad():
            return compiled(x)

    return run


def _captured(x: Any, p: Any, config: ScalableViTConfig) -> Call:
    """tinygrad's compiled mode, which records the kernels of its second pass: the first call makes three."""
    from tinygrad import Device, TinyJit

    captured, before = TinyJit(lambda images: scalable_vit(images, p, config).realize()), [x, x]

    def run() -> Any:
        while before:
            captured(before.pop())
        y = captured(x)
        Device[y.device].synchronize()
        return y

    return run


def _torch(name: str, work: Work, images: np.ndarray, params: dict[str, np.ndarray], package: Path | None = None) -> Call:
    import torch

    allow_tf32(work.dtype)
    who, _, how = name.partition(".")
    if package is not None:
        forward = deployed.packaged(package, to_backend(images, "torch", work.held))
    elif how == "freezing":
        return _frozen(who, work, images, params)
    else:
        forward = _compiled(who, work) if how in ("compile", "graphs") else _forward(who, work, images, params)

    def run() -> Any:
        with torch.inference_mode():
            y = forward()
            if work.device != "cpu":
                torch.cuda.synchronize()
            return y

    if not name.endswith(RECORDED):
        return run
    with torch.inference_mode():
        y, graph = _recorded(forward)

    def replay(kept: Call = forward) -> Any:
        """Runs nothing of `kept`, whose weights and images the graph reads where they lie."""
        graph.replay()
        torch.cuda.synchronize()
        return y

    return replay


def _forward(who: str, work: Work, images: np.ndarray, params: dict[str, np.ndarray], **compiler: Any) -> Call:
    """A contender's forward pass, which nobody waits for; compiled, if there are options of the compiler."""
    import torch

    x = to_backend(images, "torch", work.held, work.device)
    rest: tuple[Any, ...] = ()
    function: Callable[..., Any] = scalable_vit
    if who == "torch":
        rest = (to_backend(params, "torch", work.held, work.device), work.config)
    else:
        function = _network(who, work, params).to(device=work.device)
    if compiler:
        function = torch.compile(_alone(function), **compiler)
    return lambda: function(x, *rest)


def _network(who: str, work: Work, params: dict[str, np.ndarray]) -> Any:
    """The module of a contender: the plain one, ours, or the community's. In eval mode, in the work's dtype."""
    import torch

    if who == MODULE:
        network = plain_module(work.config, params)
    elif who == "torch":
        from scalablevit_ref.adapters.torch import ScalableViT

        network = ScalableViT(work.config, params=params)
    else:
        network = community_port(work.config)
    return network.to(getattr(torch, work.held)).eval()


def _frozen(who: str, work: Work, images: np.ndarray, params: dict[str, np.ndarray]) -> Call:
    """Under `torch.compile` without gradients, with the weights as constants ("freezing")."""
    import torch
    from torch._inductor import config

    network = torch.compile(_alone(_network(who, work, params).requires_grad_(False)), fullgraph=True, dynamic=False)
    x = to_backend(images, "torch", work.held)
    with torch.no_grad(), config.patch(freezing=True):
        network(x)

    def run() -> Any:
        with torch.no_grad():
            return network(x)

    return run


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls this one, to be compiled beside others of the same code.

    PyTorch keeps what it has compiled with the code of a function: eight times at most, and it takes what it finds there for a
    module whose weights are others where they are constants. This function has code of its own.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    call.__code__ = call.__code__.replace()
    return call


@lru_cache(maxsize=1)
def _compiled(who: str, work: Work) -> Call:
    """Under PyTorch's compiler, in one graph for these sizes. The one made last is kept, for whoever records its kernels."""
    return _forward(who, work, *inputs(work), fullgraph=True, dynamic=False)


def _recorded(forward: Call) -> tuple[Any, Any]:
    """A CUDA graph of the kernels of a forward pass, and where it leaves the logits."""
    import torch

    beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):  # what is made once, such as cuBLAS' workspace, is not to be recorded
            forward()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = forward()
    return y, graph


def allow_tf32(dtype: str) -> None:
    """Whether PyTorch may round the factors of float32's products and convolutions: only where "tf32" is asked for."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"


def plain_module(config: ScalableViTConfig, params: dict[str, np.ndarray]) -> Any:
    """The network in plain `torch.nn` with these parameters."""
    import torch

    from scalablevit_ref.adapters.plain import ScalableViT

    with torch.device("meta"):
        network = ScalableViT(config)
    network.load_state_dict(to_backend(params, "torch"), strict=True, assign=True)
    return network


def community_port(config: ScalableViTConfig) -> Any:
    """vit_pytorch's ScalableViT of the same widths and depths, with its own random weights."""
    head_dim = config.embed_dims[0] // config.num_heads[0]
    return vit_pytorch_module().ScalableViT(
        num_classes=config.num_classes,
        dim=config.embed_dims[0],
        depth=tuple(depth // 2 for depth in config.depths),  # a layer of it is an SSA and an IWSA block
        heads=config.num_heads,
        reduction_factor=config.sr_ratios,
        window_size=config.window_sizes,
        **{f"{kind}_dim_{what}": head_dim for kind in ("ssa", "iwsa") for what in ("key", "value")},
    )


def vit_pytorch_module() -> Any:
    """The one file of PyPI's vit_pytorch that is needed, loaded by its path: the package wants torchvision."""
    package = find_spec("vit_pytorch")
    assert package is not None, "needs vit-pytorch, installed with --no-deps"
    file = Path(next(iter(package.submodule_search_locations or ()))) / "scalable_vit.py"
    spec = spec_from_file_location("vit_pytorch_scalable_vit", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

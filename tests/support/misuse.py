"""Misuse of the public functions: a valid call of each, and what is put in the place of one of its arguments.

`USES` has a call for every public function, `KINDS` says what each parameter takes. `misuses(use, name)` lists what a careless
caller might give for it, with what may come of it: the result of the right call, some result, or nothing but a refusal.
"""

from __future__ import annotations

import math
import numbers
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch

import scalablevit_ref as sv
from scalablevit_ref import backends, digits, testing
from scalablevit_ref.adapters import onnx as onnx_adapter
from scalablevit_ref.adapters import plain as plain_adapter
from scalablevit_ref.adapters import torch as torch_adapter
from scalablevit_ref.checkpoints import load_port
from scalablevit_ref.checkpoints.convert import ConvertOptions, convert_file
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.images import load_image
from scalablevit_ref.ops import attention, gelu
from scalablevit_ref.parameters import block_shapes, iwsa_shapes, mlp_shapes, patch_embed_shapes, peg_shapes, ssa_shapes
from scalablevit_ref.testing import agreement, arrays, random_images, random_params, traces

WORDS = {"params": ("parameters", "parameter", "a"), "values": ("ssa_values",), "scale": ("ssa_scale",)}
"""Other words that name the argument of this name."""

May = Literal["equal", "anything", "refused"]
"""What may come of a call: the right call's own result; any result, or a refusal in any words; a refusal that names the culprit."""

FOLDER = Path(tempfile.mkdtemp(prefix="misuse_"))

SETTINGS = {"num_heads": 2, "sr_ratio": 2, "c_ratio": 1.25}


@cache
def network() -> tuple[sv.ScalableViTConfig, dict[str, np.ndarray], np.ndarray]:
    """A small network with every kind of layer, its parameters and two images."""
    config = sv.ScalableViTConfig(
        embed_dims=(8, 8),
        depths=(2, 2),
        num_heads=(2, 2),
        mlp_ratios=(2, 2),
        sr_ratios=(2, 1),
        c_ratios=(1.25, 1),
        window_sizes=(2, 2),
        num_classes=3,
        in_chans=1,
        head="linear",
    )
    return config, random_params(sv.parameter_shapes(config), dtype="float32"), random_images((2, 1, 16, 16), dtype="float32")


@cache
def port() -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """The same of vit_pytorch's network."""
    small = {"heads": 1, "reduction_factor": 2, "window_size": 2, "ssa_dim_key": 4, "ssa_dim_value": 4}
    config = vit_pytorch.Config(num_classes=3, dim=4, depth=(1, 1), channels=1, iwsa_dim_key=4, iwsa_dim_value=4, **small)
    params = random_params(vit_pytorch.parameter_shapes(config), dtype="float32")
    return config, params, random_images((1, 1, 16, 16), dtype="float32")


X = random_images((1, 4, 6, 8), dtype="float32")


@cache
def part(name: str) -> dict[str, np.ndarray]:
    """Parameters of one operation on `X`."""
    shapes = {
        "ssa": ssa_shapes(8, **SETTINGS),  # type: ignore[arg-type]
        "iwsa": iwsa_shapes(8),
        "mlp": mlp_shapes(8, 16),
        "peg": peg_shapes(8),
        "patch_embed": patch_embed_shapes(8, 12, 2),
        "iwsa block": block_shapes(8, kind="iwsa", hidden=16, num_heads=2),
        "ssa block": block_shapes(8, kind="ssa", hidden=16, **SETTINGS),  # type: ignore[arg-type]
    }
    return random_params(shapes[name], dtype="float32")


@cache
def files() -> dict[str, Path]:
    """A file of each kind that a function reads."""
    config, params, images = network()
    checkpoint, trace = FOLDER / "weights.safetensors", FOLDER / "trace.npz"
    sv.save_checkpoint(checkpoint, params, config, force=True)
    traces.save_trace(trace, traces.reference_trace(images, params, config), config, force=True)
    theirs, picture = FOLDER / "port.safetensors", FOLDER / "image.png"
    from safetensors.numpy import save_file

    save_file(port()[1], theirs)
    from PIL import Image

    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(picture)
    import onnx

    tensors = [onnx.numpy_helper.from_array(x, name) for name, x in params.items()]
    graph = onnx.helper.make_graph([], "weights", [], [], initializer=tensors)
    onnx.save(onnx.helper.make_model(graph), FOLDER / "weights.onnx")
    return {"checkpoint": checkpoint, "trace": trace, "port": theirs, "image": picture, "onnx": FOLDER / "weights.onnx"}


@dataclass(frozen=True)
class Use:
    """A valid call.

    Attributes
    ----------
    arguments
        By the names of the function's parameters; made anew for each call.
    kinds
        What a parameter takes, where `KINDS` says otherwise of its name; "" where nothing is asked of it.
    says
        Other words than a parameter's name by which its refusal may name it.
    """

    function: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    kinds: Mapping[str, str] = field(default_factory=dict)
    says: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def kind(self, name: str) -> str:
        return self.kinds.get(name, KINDS.get(name, "?"))

    def __call__(self, **changed: Any) -> Any:
        return self.function(**self.arguments() | changed)


KINDS = (
    dict.fromkeys(("x", "images"), "array")
    | dict.fromkeys(("params",), "params")
    | {"config": "config"}
    | dict.fromkeys(("num_heads", "patch_size", "num_classes"), "count")
    | dict.fromkeys(("window_size", "sr_ratio"), "count or None")
    | {"c_ratio": "positive or None", "eps": "positive", "norm_eps": "positive"}
    | dict.fromkeys(("pad", "force", "use_ema", "allow_nonfinite", "config_json", "features_only", "patched", "diagnosis"), "flag")
    | dict.fromkeys(("tap", "attend", "activation"), "function")
    | {"progress": "function or None"}
    | {"kind": "one of iwsa ssa", "values": "one of unscaled scaled", "ssa_scale": "one of scaled head_dim"}
    | {"scale": "one of scaled head_dim or None", "measure": "one of max l2"}
    | {"seed": "seed", "dtype": "dtype or None", "path": "path", "key": "text or None", "layout": "layout or None"}
    | {"variant": "variant or None", "metadata": "mapping or None", "image_size": "size", "shape": "shape", "what": "text"}
    | {"tolerance": "tolerance", "batch": "count", "size": "count", "heads": "per stage or None"}
    | dict.fromkeys(("drop_rate", "attn_drop_rate", "drop_path_rate"), "rate")
)
"""What a parameter of this name takes."""


def _network(**more: Any) -> Callable[[], dict[str, Any]]:
    config, params, images = network()
    return lambda: {"images": images, "params": dict(params), "config": config} | more


def _part(name: str, **settings: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"x": X, "params": dict(part(name))} | settings


def _moved(arguments: Callable[[], dict[str, Any]], library: str) -> Callable[[], dict[str, Any]]:
    """The same call with another library's arrays."""

    def moved() -> dict[str, Any]:
        given = arguments()
        return {n: sv.to_backend(v, library) if n in ("x", "images", "params") else v for n, v in given.items()}

    return moved


def identity(name: str, x: Any) -> Any:
    return x


def uses() -> dict[str, Use]:
    """Every public function; one on torch's or JAX's arrays has the library's name behind its own."""
    config, params, images = network()
    theirs, port_params, port_images = port()
    flax_params = random_params(flax_port.parameter_shapes(theirs), dtype="float32")
    flax_images = np.ascontiguousarray(port_images.transpose(0, 2, 3, 1))
    ops = {"scale": None, "ssa_scale": "scaled", "values": "unscaled", "attend": attention}
    iwsa = {"num_heads": 2, "window_size": 2, "pad": False, "attend": ops["attend"]}
    both = {"norm_eps": 1e-6, "activation": gelu, "tap": identity}
    rest = {"sr_ratio": None, "c_ratio": None, "values": "unscaled", "ssa_scale": "scaled", "scale": None}
    stated = {"variant": None, "layout": None, "key": None, "dtype": None, "use_ema": True}
    per_stage = [f.name for f in fields(sv.ScalableViTConfig) if isinstance(getattr(config, f.name), tuple)]
    whole = ("embed_dims", "depths", "num_heads", "sr_ratios", "window_sizes")
    settings = {name: "per stage" if name in whole else "per stage real" for name in per_stage}
    settings |= {"num_classes": "count or 0", "in_chans": "count", "patch_size": "count", "norm_eps": "positive"}
    settings |= dict.fromkeys(("qkv_bias", "pad_windows", "stage_norms"), "flag") | {"embed_norm_eps": "positive or None"}
    settings |= {"head": "one of mlp linear none", "ssa_values": "one of unscaled scaled", "ssa_scale": "one of scaled head_dim"}
    port_kinds = {f.name: "per stage" for f in fields(vit_pytorch.Config)}
    port_kinds |= dict.fromkeys(("num_classes", "dim", "ff_expansion_factor", "channels"), "count")
    port_kinds |= {"window_size": "windows", "dropout": "rate", "depth": "per stage"}
    y = np.asarray(random_images((2, 3)))
    table: dict[str, Use] = {
        "ScalableViTConfig": Use(
            sv.ScalableViTConfig, lambda: {f.name: getattr(config, f.name) for f in fields(config)}, kinds=settings
        ),
        "Checkpoint": Use(
            sv.Checkpoint,
            lambda: {"params": params, "config": config, "metadata": {}},
            {"params": "mapping", "metadata": "mapping"},
        ),
        "variant": Use(sv.variant, lambda: {"name": "small"}, {"name": "variant", "overrides": ""}, {"name": ("variant",)}),
        "parameter_shapes": Use(sv.parameter_shapes, lambda: {"config": config}),
        "init_params": Use(sv.init_params, lambda: {"config": config, "seed": 0, "dtype": "float32"}, {"dtype": "dtype"}),
        "cost": Use(sv.cost, lambda: {"config": config, "image_size": 16}),
        "to_backend": Use(
            sv.to_backend,
            lambda: {"params_or_array": X, "name": "numpy", "dtype": "float32", "device": None},
            {"params_or_array": "numbers", "name": "one of numpy torch jax cupy", "device": "device"},
            {"name": ("backend",)},
        ),
        "to_backend torch": Use(
            sv.to_backend,
            lambda: {"params_or_array": X, "name": "torch", "dtype": "float32", "device": "cpu"},
            {"params_or_array": "numbers", "name": "one of numpy torch jax cupy", "device": "device"},
            {"name": ("backend",)},
        ),
        "to_backend jax": Use(
            sv.to_backend,
            lambda: {"params_or_array": X, "name": "jax", "dtype": "float32", "device": "cpu"},
            {"params_or_array": "numbers", "name": "one of numpy torch jax cupy", "device": "device"},
            {"name": ("backend",)},
        ),
        "to_numpy": Use(sv.to_numpy, lambda: {"params_or_array": X}, {"params_or_array": "numbers"}),
        "to_numpy mapping": Use(sv.to_numpy, lambda: {"params_or_array": dict(params)}, {"params_or_array": "params of numbers"}),
        "to_numpy torch": Use(sv.to_numpy, lambda: {"params_or_array": torch.from_numpy(X)}, {"params_or_array": "numbers"}),
        "to_numpy jax": Use(sv.to_numpy, lambda: {"params_or_array": sv.to_backend(X, "jax")}, {"params_or_array": "numbers"}),
        "backend": Use(backends.backend, lambda: {"x": X, "name": "x"}, {"x": "of a library", "name": ""}),
        "in_groups": Use(
            backends.in_groups, lambda: {"function": lambda x: x, "images": X}, {"function": "function", "images": "of a library"}
        ),
        "register": Use(
            backends.register,
            lambda: {"array_type": type("Array", (), {}), "module": _Module},
            {"array_type": "type", "module": "module"},
            {"module": ("backend",)},
        ),
        "ssa": Use(sv.ssa, _part("ssa", **SETTINGS, **ops), {"c_ratio": "positive", "sr_ratio": "count"}),
        "iwsa": Use(sv.iwsa, _part("iwsa", **iwsa), {"window_size": "count"}),
        "mlp": Use(sv.mlp, _part("mlp", activation=gelu)),
        "peg": Use(sv.peg, _part("peg")),
        "patch_embed": Use(sv.patch_embed, _part("patch_embed", patch_size=2, eps=1e-6)),
        "block": Use(
            sv.block,
            _part("ssa block", kind="ssa", window_size=None, pad=False, **SETTINGS, **ops, **both),
            {"c_ratio": "positive", "sr_ratio": "count"},
        ),
        "block iwsa": Use(sv.block, _part("iwsa block", kind="iwsa", **iwsa, **both, **rest), {"window_size": "count"}),
        "scalable_vit": Use(sv.scalable_vit, _network(tap=identity)),
        "stage_features": Use(sv.stage_features, _network(tap=identity)),
        "trace": Use(sv.trace, _network()),
        "load_checkpoint": Use(
            sv.load_checkpoint,
            lambda: {"path": files()["checkpoint"], **stated, "config": None, "allow_nonfinite": False},
            {"config": "config or None"},
        ),
        "from_state_dict": Use(
            sv.from_state_dict,
            lambda: {"state": dict(params), **stated, "config": config},
            {"state": "state", "config": "config or None"},
        ),
        "to_state_dict": Use(
            sv.to_state_dict,
            lambda: {"params": dict(params), "config": config, "layout": "official"},
            {"layout": "layout", "params": "weights"},
        ),
        "save_checkpoint": Use(
            sv.save_checkpoint,
            lambda: {
                "path": FOLDER / "written.npz",
                "params": dict(params),
                "config": config,
                "layout": "official",
                "metadata": None,
                "force": True,
                "allow_nonfinite": False,
                "config_json": False,
                "progress": None,
            },
            {"layout": "layout", "params": "weights"},
        ),
        "checkpoints.load_port": Use(
            load_port,
            lambda: {"path": files()["port"], "heads": 1, "window_size": 2, "key": None, "dtype": None, "use_ema": True},
            {"window_size": "windows"},
        ),
        "checkpoints.convert.convert_file": Use(
            convert_file,
            lambda: {
                "source": files()["checkpoint"],
                "target": FOLDER / "converted.npz",
                "options": ConvertOptions(force=True),
                "progress": None,
            },
            {"source": "path", "target": "path", "options": "options or None", "keywords": ""},
        ),
        "checkpoints.convert.ConvertOptions": Use(
            _converted,
            lambda: {f.name: f.default for f in fields(ConvertOptions)} | {"force": True},
            {
                "strip_head": "flag",
                "fold_scale": "flag",
                "one_way": "flag",
                "num_classes": "count or None",
                "config_json": "flag or None",
                "sha256": "path or None",
                "window_size": "windows",
            },
        ),
        "testing.random_params": Use(
            testing.random_params,
            lambda: {"shapes": {"a.weight": (2, 3)}, "seed": 0, "dtype": "float64"},
            {"shapes": "shapes", "dtype": "dtype"},
        ),
        "testing.random_images": Use(
            testing.random_images, lambda: {"shape": (1, 2), "seed": 0, "dtype": "float64"}, {"dtype": "dtype"}
        ),
        "testing.relative_l2": Use(
            testing.relative_l2, lambda: {"actual": y, "reference": y}, dict.fromkeys(("actual", "reference"), "real")
        ),
        "testing.max_error": Use(
            testing.max_error, lambda: {"actual": y, "reference": y}, dict.fromkeys(("actual", "reference"), "real")
        ),
        "testing.compare": Use(
            testing.compare,
            lambda: {
                "candidate": traces.reference_trace(images, params, config),
                "reference": None,
                "variant": config,
                "weights": params,
                "images": images,
                "mode": "both",
                "dtype": None,
                "names": None,
                "tolerance": None,
                "diagnosis": False,
                "progress": len,
                "costly": False,
                "as_it_is": False,
                "certify": None,
            },
            {
                "candidate": "",
                "reference": "",
                "variant": "config, variant or None",
                "weights": "",
                "images": "",
                "mode": "one of both propagated isolated",
                "names": "mapping or None",
                "tolerance": "tolerance or None",
                "progress": "function",
                "dtype": "dtype or None or own",
                "costly": "flag",
                "as_it_is": "flag",
                "certify": "prover or None",
            },
        ),
        "testing.assert_equivalent_everywhere": Use(
            testing.assert_equivalent_everywhere,
            lambda: {
                "build": plain_adapter.ScalableViT,
                "vary": ("qkv_bias",),
                "base": config,
                "configs": None,
                "image_sizes": [16],
                "square": False,
                "batches": [1],
                "weights": "random",
                "dtype": None,
                "names": None,
                "tolerance": 4096,
                "max_examples": 1,
                "settings": None,
            },
            {
                "build": "function",
                "vary": "texts",
                "base": "config, variant or None",
                "configs": "strategy or None",
                "image_sizes": "counts or None",
                "square": "flag",
                "batches": "counts",
                "weights": "one of random own",
                "dtype": "dtype or None or own",
                "names": "mapping or None",
                "max_examples": "count or None",
                "settings": "settings or None",
            },
            {"base": ("variant",), "image_sizes": ("image_size",)},
        ),
        "testing.arrays.compare_arrays": Use(
            arrays.compare_arrays,
            lambda: {"actual": y, "reference": y, "dtype": None, "measure": "max"},
            dict.fromkeys(("actual", "reference"), "real"),
        ),
        "testing.arrays.assert_agrees": Use(
            arrays.assert_agrees,
            lambda: {"actual": y, "reference": y, "tolerance": 64, "dtype": None, "measure": "max", "what": ""},
            dict.fromkeys(("actual", "reference"), "real"),
        ),
        "testing.arrays.first_difference": Use(
            arrays.first_difference,
            lambda: {"actual": {"a": y}, "reference": {"a": y}, "tolerance": 64, "dtype": None, "measure": "max"},
            dict.fromkeys(("actual", "reference"), "mapping of real"),
        ),
        "testing.arrays.assert_traces_agree": Use(
            arrays.assert_traces_agree,
            lambda: {"actual": {"a": y}, "reference": {"a": y}, "tolerance": 64, "dtype": None, "measure": "max"},
            dict.fromkeys(("actual", "reference"), "mapping of real"),
        ),
        "testing.traces.reference_trace": Use(traces.reference_trace, _network(costly=False), {"costly": "flag"}),
        "testing.traces.save_trace": Use(
            traces.save_trace,
            lambda: {"path": FOLDER / "saved.npz", "trace": {"a": X}, "config": config, "force": True},
            {"trace": "mapping", "config": "config or None"},
        ),
        "testing.traces.trace_config": Use(traces.trace_config, lambda: {"path": files()["trace"]}),
        "testing.traces.trace_images": Use(traces.trace_images, lambda: {"path": files()["trace"]}),
        "testing.agreement.agreement": Use(
            agreement.agreement,
            lambda: {
                "images": images,
                "params": params,
                "config": config,
                "candidates": agreement.CANDIDATES[:2],
                "batch": 2,
                "progress": len,
                "costly": False,
            },
            {"candidates": "candidates", "progress": "function", "costly": "flag"},
        ),
        "testing.agreement.steps": Use(
            agreement.steps,
            lambda: {"candidates": agreement.CANDIDATES[:2], "images": 3, "batch": 2},
            {"candidates": "candidates", "images": "count or 0"},
        ),
        "digits.test_images": Use(digits.test_images, dict),
        "digits.preprocess": Use(
            digits.preprocess,
            lambda: {"images": digits.test_images()[0][:2], "dtype": "float32"},
            {"images": "uint8", "dtype": "dtype"},
        ),
        "images.load_image": Use(load_image, lambda: {"path": files()["image"], "size": 32}),
        "adapters.torch.ScalableViT": Use(
            torch_adapter.ScalableViT,
            lambda: {
                "config": config,
                "params": dict(params),
                "seed": 0,
                "drop_rate": 0.0,
                "attn_drop_rate": 0.0,
                "drop_path_rate": 0.0,
                "features_only": False,
            },
            {"config": "config or variant", "overrides": "", "params": "weights or None"},
            {"config": ("variant",)},
        ),
        "adapters.torch.ScalableViT.from_checkpoint": Use(
            torch_adapter.ScalableViT.from_checkpoint,
            lambda: {"path": files()["checkpoint"], "variant": None, "layout": None, "use_ema": True},
            {"options": ""},
        ),
        "adapters.torch.ScalableViT.reset_classifier": Use(
            lambda num_classes: torch_adapter.ScalableViT(config, params=params).reset_classifier(num_classes),
            lambda: {"num_classes": 5},
            {"num_classes": "count or 0"},
        ),
        "adapters.torch.ScalableViT.reset_drop_path": Use(
            lambda drop_path_rate: torch_adapter.ScalableViT(config, params=params).reset_drop_path(drop_path_rate),
            lambda: {"drop_path_rate": 0.1},
        ),
        "adapters.torch.ScalableViT.forward": Use(
            lambda images: torch_adapter.ScalableViT(config, params=params).eval()(images),
            lambda: {"images": torch.from_numpy(images)},
        ),
        "adapters.onnx.load": Use(
            onnx_adapter.load, lambda: {"path": files()["onnx"], "variant": None, "config": config}, {"config": "config or None"}
        ),
        "adapters.onnx.load_params": Use(
            onnx_adapter.load_params,
            lambda: {"path": files()["onnx"], "variant": None, "config": config},
            {"config": "config or None"},
        ),
        "dialects.vit_pytorch.Config": Use(
            vit_pytorch.Config, lambda: {f.name: getattr(theirs, f.name) for f in fields(theirs)}, port_kinds
        ),
        "dialects.vit_pytorch.parameter_shapes": Use(vit_pytorch.parameter_shapes, lambda: {"config": theirs}),
        "dialects.vit_pytorch.scalable_vit": Use(
            vit_pytorch.scalable_vit,
            lambda: {"images": port_images, "params": dict(port_params), "config": theirs, "tap": identity},
        ),
        "dialects.vit_pytorch.trace": Use(
            vit_pytorch.trace, lambda: {"images": port_images, "params": dict(port_params), "config": theirs}
        ),
        "dialects.vit_pytorch.config_from_shapes": Use(
            vit_pytorch.config_from_shapes,
            lambda: {"state": dict(port_params), "heads": 1, "window_size": 2},
            {"state": "mapping", "heads": "per stage", "window_size": "windows"},
        ),
        "dialects.flax_port.parameter_shapes": Use(flax_port.parameter_shapes, lambda: {"config": theirs, "patched": False}),
        "dialects.flax_port.scalable_vit": Use(
            flax_port.scalable_vit,
            lambda: {"images": flax_images, "params": dict(flax_params), "config": theirs, "patched": False, "tap": identity},
        ),
        "dialects.flax_port.trace": Use(
            flax_port.trace, lambda: {"images": flax_images, "params": dict(flax_params), "config": theirs, "patched": False}
        ),
        "dialects.flax_port.config_from_shapes": Use(
            flax_port.config_from_shapes,
            lambda: {"params": dict(flax_params), "heads": 1, "window_size": 2},
            {"params": "mapping", "heads": "per stage", "window_size": "windows"},
        ),
        "dialects.flax_port.flatten": Use(flax_port.flatten, lambda: {"params": dict(flax_params)}, {"params": "mapping"}),
        "dialects.flax_port.nested": Use(flax_port.nested, lambda: {"params": dict(flax_params)}, {"params": "mapping"}),
    }
    on = {"torch": ("ssa", "iwsa", "mlp", "peg", "patch_embed", "block", "scalable_vit"), "jax": ("ssa", "peg", "patch_embed")}
    for library, names in on.items():
        for name in names:
            use = table[name]
            table[f"{name} {library}"] = Use(use.function, _moved(use.arguments, library), use.kinds, use.says)
    return table


class _Module:
    NAME = "misused"

    @staticmethod
    def exp(x: Any) -> Any:
        return x

    zeros = device = from_numpy = to_numpy = exp


def _converted(**options: Any) -> Any:
    return convert_file(files()["checkpoint"], FOLDER / "converted.npz", ConvertOptions(**options))


# Plain values that no array, mapping or configuration is, and their like.


class Unprintable:
    """Whose `repr` fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Own(np.ndarray):
    """A subclass of an array that changes nothing."""


class Dict(dict):  # type: ignore[type-arg]
    """A subclass of dict."""


def plain() -> dict[str, Any]:
    """What is no argument of most functions, by what it is called here."""
    return {
        "None": None,
        "True": True,
        "False": False,
        "0": 0,
        "-1": -1,
        "3": 3,
        "2.5": 2.5,
        "2.0": 2.0,
        "-2.0": -2.0,
        "10**400": 10**400,
        "-10**400": -(10**400),
        "10**5000": 10**5000,
        "2**63": 2**63,
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "1e308": 1e308,
        "5e-324": 5e-324,
        "complex": 1 + 2j,
        "decimal": Decimal("1.5"),
        "decimal nan": Decimal("sNaN"),
        "fraction": Fraction(5, 4),
        "empty text": "",
        "text": "nonsense",
        "digit": "2",
        "null character": "a\0b",
        "surrogate": "\ud800",
        "bytes": b"x",
        "bytearray": bytearray(b"x"),
        "list": [],
        "list of 1": [1],
        "list of lists": [[1.0]],
        "tuple": (),
        "tuple of None": (None, None),
        "dict": {},
        "dict of 1": {"a": 1},
        "set": {1},
        "object": object(),
        "unprintable": Unprintable(),
        "type": int,
        "module": math,
        "generator": (i for i in range(2)),
        "range": range(2),
        "path": Path("nonsense"),
        "exception": ValueError("x"),
        "numpy int": np.int64(2),
        "numpy float": np.float64(1.25),
        "numpy nan": np.float32("nan"),
        "numpy bool": np.True_,
        "numpy text": np.str_("nonsense"),
        "0-d whole": np.array(2),
        "0-d float": np.array(1.25),
        "1-d": np.array([1.0, 2.0]),
        "empty array": np.zeros(0),
        "object array": np.array([None, 1], dtype=object),
        "torch scalar": torch.tensor(2),
        "torch tensor": torch.ones(2),
        "dtype": np.dtype("float32"),
        "torch dtype": torch.float32,
        "scalar type": np.float32,
        "device": torch.device("cpu"),
        "class with a shape": type("Shaped", (), {"shape": (1, 2, 3, 4), "dtype": "float32"})(),
        "exploding": Exploding(),
    }


class Exploding:
    """Whose every attribute fails."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


def is_empty(value: Any) -> bool:
    return isinstance(value, list | tuple | set | dict) and not value


def whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def acceptable(kind: str, value: Any) -> bool:
    """Whether a plain value is one that a parameter of this kind may take."""
    kind, _, other = kind.partition(" or ")
    if other and any(value is None if word == "None" else acceptable(word, value) for word in other.split(" or ")):
        return True
    if kind.startswith("one of "):
        return isinstance(value, str) and value in kind.split()
    match kind:
        case "":
            return True
        case "count":
            return whole(value) and 1 <= value < 2**63
        case "0":
            return whole(value) and value == 0
        case "seed":
            return whole(value) and value >= 0
        case "positive":
            return real(value) and 0 < value <= sys.float_info.max
        case "counts":
            return isinstance(value, list | tuple | range) and len(value) > 0 and all(acceptable("count", one) for one in value)
        case "texts":
            return isinstance(value, list | tuple) and not value
        case "rate":
            return real(value) and 0 <= value < 1
        case "tolerance":
            return real(value) and value >= 0
        case "flag":
            return isinstance(value, bool | np.bool_)
        case "function":
            return callable(value)
        case "text":
            return isinstance(value, str)
        case "path":
            return isinstance(value, str | Path)
        case "dtype":
            return value is np.float32 or isinstance(value, np.dtype)
        case "mapping" | "shapes" | "state":
            return isinstance(value, Mapping) and not (kind == "shapes" and value)
        case "params of numbers":
            return acceptable("numbers", value)
        case "numbers":
            return (isinstance(value, np.ndarray | torch.Tensor) and str(value.dtype) != "object") or (
                isinstance(value, dict) and not value
            )
        case "of a library":
            return isinstance(value, np.ndarray | np.generic | torch.Tensor)
        case "real":
            return isinstance(value, np.ndarray | np.generic | torch.Tensor)
        case "type":
            return isinstance(value, type)
        case "device":
            return value is None or isinstance(value, torch.device)
        case "size":
            return whole(value) and 1 <= value < 2**63
        case "shape":
            return isinstance(value, list | tuple | range) and all(map(whole, value))
        case "per stage":
            return whole(value) and 1 <= value < 2**63
        case "windows":
            return value is None or (isinstance(value, tuple) and value == (None, None)) or acceptable("per stage", value)
        case "per stage real":
            return isinstance(value, np.ndarray)
        case "candidates":
            return (
                isinstance(value, list | tuple | set | dict | np.ndarray)
                and not (isinstance(value, np.ndarray) and value.ndim == 0)
                and not len(value)
            )
    return False


def misuses(use: Use, name: str) -> Iterator[tuple[str, Any, May, tuple[str, ...]]]:
    """What is given for the parameter in place of the right value, what may come of it, and the words that name the culprit."""
    kind, right = use.kind(name), use.arguments()[name]
    if not kind:
        return
    words = (name, *use.says.get(name, ()), *WORDS.get(name, ()))
    for label, value in plain().items():
        if ("function" in kind and callable(value)) or (kind == "state" and isinstance(value, Exploding)):
            continue  # what it raises is its own affair
        yield label, value, "anything" if acceptable(kind, value) else "refused", words
    if is_array(right):
        for label, make, may in of_array(right, kind):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = make(right)
            except Exception:
                continue
            yield label, value, may, words
    if kind.startswith(("per stage", "windows")) and right is not None:
        yield from of_stages(right if isinstance(right, tuple) else (right, right), kind, words)
    if isinstance(right, Mapping) and right and all(map(is_array, right.values())):
        yield from of_mapping(right, kind, words)


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def of_stages(right: tuple[Any, ...], kind: str, words: tuple[str, ...]) -> Iterator[tuple[str, Any, May, tuple[str, ...]]]:
    """One stage's entry is another value."""
    of_one = "positive" if "real" in kind else "count or None" if kind == "windows" else "count"
    for label, value in plain().items():
        yield f"one is {label}", (value, *right[1:]), "anything" if acceptable(of_one, value) else "refused", words
    yield "too many", right * 100, "refused", (*words, "same length")
    yield "without end", forever(right[0]), "refused", words
    yield "a list", list(right), "equal", words
    yield "an array", np.array(right), "anything", words
    yield "numpy scalars", tuple(np.asarray(right)), "equal", words


def forever(value: Any) -> Iterator[Any]:
    while True:
        yield value


def of_array(right: Any, kind: str) -> Iterator[tuple[str, Callable[[Any], Any], May]]:
    """Strange arrays like the right one."""
    numbers_do: May = "refused" if kind in ("array", "uint8", "params", "weights", "state") else "anything"
    no_numbers: May = "anything" if kind == "of a library" else "refused"
    library = type(right).__module__.partition(".")[0]
    made: dict[str, tuple[Callable[[Any], Any], May]]
    if library == "numpy":
        made = {
            "read-only": (_read_only, "equal"),
            "strided": (lambda x: np.repeat(x, 2, axis=-1)[..., ::2], "equal"),
            "Fortran order": (np.asfortranarray, "equal"),
            "subclass": (lambda x: x.view(Own), "equal"),
            "masked": (lambda x: np.ma.masked_array(x, mask=x == x), no_numbers),
            "big-endian": (lambda x: x.astype(x.dtype.newbyteorder(">")), numbers_do if x_wide(right) else "equal"),
            "matrix": (np.matrix, "anything" if kind in ("numbers", "of a library", "real") else "refused"),
            "objects": (lambda x: x.astype(object), no_numbers),
            "complex": (lambda x: x.astype(np.complex64), "refused" if kind == "real" else numbers_do),
            "whole": (lambda x: x.astype(np.int32), numbers_do),
            "bool": (lambda x: x.astype(bool), numbers_do),
            "texts": (lambda x: x.astype("U4"), no_numbers),
            "structured": (lambda x: np.zeros(x.shape, [("a", "f4")]), no_numbers),
            "times": (lambda x: x.astype("m8[s]"), no_numbers),
            "long double": (lambda x: x.astype(np.longdouble), numbers_do),
            "nested list": (lambda x: x.tolist(), "refused"),
            "0-d": (lambda x: x.reshape(-1)[0].reshape(()), numbers_do),
            "no axis": (lambda x: x[..., :0], numbers_do),
            "one axis more": (lambda x: x[None], numbers_do),
            "torch's": (lambda x: torch.from_numpy(np.array(x)), numbers_do),
        }
    elif library == "torch":
        made = {
            "with a gradient": (lambda x: x.clone().requires_grad_(True), "equal"),
            "parameter": (torch.nn.Parameter, "equal"),
            "strided": (lambda x: x.repeat_interleave(2, -1)[..., ::2], "equal"),
            "negated view": (lambda x: torch._neg_view(-x), "equal"),
            "meta": (lambda x: x.to("meta"), no_numbers),
            "sparse": (lambda x: x.to_sparse(), no_numbers),
            "rows": (lambda x: x.reshape(-1, x.shape[-1]).to_sparse_csr(), no_numbers),
            "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), no_numbers),
            "nested": (lambda x: torch.nested.nested_tensor(list(x)), no_numbers),
            "ragged": (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), no_numbers),
            "mkldnn": (lambda x: x.to_mkldnn(), no_numbers),
            "complex": (lambda x: x.to(torch.complex64), numbers_do),
            "whole": (lambda x: x.to(torch.int32), numbers_do),
            "bool": (lambda x: x.to(torch.bool), numbers_do),
            "float8": (lambda x: x.to(torch.float8_e4m3fn), numbers_do),
            "nested list": (lambda x: x.tolist(), "refused"),
            "0-d": (lambda x: x.reshape(-1)[0], numbers_do),
            "no axis": (lambda x: x[..., :0], numbers_do),
            "numpy's": (lambda x: x.detach().numpy(), numbers_do),
        }
    else:
        import jax
        import jax.numpy as jnp
        from jax.experimental import sparse

        made = {
            "committed": (lambda x: jax.device_put(x, jax.devices()[0]), "equal"),
            "deleted": (_deleted, no_numbers),
            "key": (lambda x: jax.random.key(0), no_numbers),
            "sparse": (sparse.BCOO.fromdense, no_numbers),
            "complex": (lambda x: x.astype(jnp.complex64), numbers_do),
            "whole": (lambda x: x.astype(jnp.int32), numbers_do),
            "0-d": (lambda x: x.reshape(-1)[0], numbers_do),
            "no axis": (lambda x: x[..., :0], numbers_do),
            "numpy's": (np.asarray, numbers_do),
            "shape alone": (lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), "refused"),
        }
    yield from ((label, make, may) for label, (make, may) in made.items())


def x_wide(x: np.ndarray) -> bool:
    return x.dtype.itemsize > 1


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def _deleted(x: Any) -> Any:
    y = x + 0
    y.delete()
    return y


def of_mapping(right: Mapping[str, Any], kind: str, words: tuple[str, ...]) -> Iterator[tuple[str, Any, May, tuple[str, ...]]]:
    """Strange mappings like the right one: other types, other names, one strange value."""
    numbers_do = "numbers" in kind
    yield "list of values", list(right.values()), "refused", words
    yield "items", tuple(right.items()), "refused", words
    yield "items, drawn", iter(right.items()), "refused", words
    yield "subclass of dict", Dict(right), "equal", words
    yield "ordered", OrderedDict(right), "equal", words
    yield "proxy", MappingProxyType(dict(right)), "equal", words
    first, last = next(iter(right)), list(right)[-1]
    less = {name: x for name, x in right.items() if name != last}
    any_name: May = "anything" if numbers_do or kind in ("state", "mapping", "mapping of real") else "refused"
    for key in (3, None, b"x", ("a", "b"), 2.5):
        yield f"a name {key!r}", dict(right) | {key: right[first]}, any_name, (*words, repr(key))
        yield f"last is {key!r}", less | {key: right[last]}, any_name, (*words, repr(key), last)
    if kind in ("mapping",):
        return
    if not numbers_do and "real" not in kind:
        yield "one less", less, "refused", (last,)
        if kind != "state":
            yield "one more", dict(right) | {"more.weight": right[last]}, "refused", ("more.weight",)
    for name in dict.fromkeys((first, last)):
        for label, value in plain().items():
            may: May = "anything" if numbers_do and acceptable("numbers", value) and not isinstance(value, dict) else "refused"
            yield f"{name} is {label}", dict(right) | {name: value}, may, (name,)
        one = (
            "weights"
            if kind in ("state",) or kind.startswith("weights")
            else "numbers"
            if numbers_do
            else "real"
            if "real" in kind
            else "params"
        )
        for label, make, may in of_array(right[name], one):
            if one == "weights" and label == "big-endian":
                may = "equal"
            if one == "weights" and label in ("torch's", "numpy's"):
                may = "anything"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = make(right[name])
            except Exception:
                continue
            yield f"{name} is {label}", dict(right) | {name: value}, may, (name,)


USES = uses()
"""A valid call of every public function, by its name in the package."""

"""What the playground page loads: ONNX Runtime for browsers, from npm, and the digits network, which this package exports.

A browser refuses to fetch files beside a page that is opened from the disk, so that all of it is scripts: WebAssembly, its module
and the network are strings in them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.drawing.attention_page import layer_facts, look
from scalablevit_ref.drawing.attention_weights import (
    LayerAttention,
    attention_layers,
    layer_attention,
)

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = Path(__file__).with_name("playground")
"""Where the lock file is, and what of the page is no Markdown."""

CACHE = ROOT / ".node_cache"
"""Where the runtime is kept from build to build, in a folder for each version of the lock file and of this one."""

RUNTIME = ("ort.wasm.min.js", "runtime.js")
"""What is kept: the package's script, and one with its WebAssembly."""

SCRIPTS = ("attention_map.js", *RUNTIME, "network.js", "playground.js")
"""In the order in which the page runs them."""


class MissingError(Exception):
    """What the machine lacks for a playground, as the end of a sentence."""


def files() -> dict[str, bytes]:
    """The files that are made, by name: all of `SCRIPTS` but the page's own.

    Raises
    ------
    MissingError
        Without onnx, and without the runtime where npm is not installed or fetches nothing.
    """
    if not find_spec("onnx"):
        raise MissingError("onnx, which pip installs with scalablevit-ref[onnx]")
    runtime = _runtime()
    drawing = ROOT / "scalablevit_ref" / "drawing"
    made = {name: (runtime / name).read_bytes() for name in RUNTIME}
    return made | {
        "attention_map.js": (drawing / "attention_map.js").read_bytes(),
        "network.js": _network(),
    }


def _runtime() -> Path:
    """The folder of `RUNTIME`, which appears whole or not at all."""
    key = hashlib.sha256(
        (PACKAGES / "package-lock.json").read_bytes() + Path(__file__).read_bytes()
    ).hexdigest()[:16]
    folder = CACHE / f"playground-{key}"
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise MissingError("npm, which fetches ONNX Runtime for browsers")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(PACKAGES / name, Path(work, name))
        options = (
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--fetch-retries=1",
            "--loglevel=error",
        )
        done = subprocess.run(
            [npm, "ci", *options], cwd=work, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MissingError(
                "ONNX Runtime for browsers: npm is installed, but did not fetch it"
            )
        package = Path(work, "node_modules", "onnxruntime-web", "dist")
        made = Path(work, "made")
        made.mkdir()
        script, _, _ = (
            (package / RUNTIME[0])
            .read_text(encoding="utf-8")
            .partition("//# sourceMappingURL=")
        )
        (made / RUNTIME[0]).write_text(script, encoding="utf-8")
        module = (package / "ort-wasm-simd-threaded.mjs").read_text(encoding="utf-8")
        wasm = (package / "ort-wasm-simd-threaded.wasm").read_bytes()
        (made / RUNTIME[1]).write_bytes(
            _script("onnxRuntime", {"module": module, "wasm": _packed(wasm)})
        )
        if not folder.exists():  # another build may have been quicker
            made.rename(folder)
    return folder


def _network() -> bytes:
    """The network with its attention, the first test image of each digit, and what the page must know of both."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    images, labels = digits.test_images()
    shown = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    x = digits.preprocess(images[:1])
    attentions = [
        layer_attention(x, checkpoint.params, checkpoint.config, one)
        for one in attention_layers(checkpoint.config)
    ]
    return _script(
        "digitsNetwork",
        {
            "model": _packed(model(checkpoint, attentions)),
            "size": digits.IMAGE_SIZE,
            "levels": digits.LEVELS,
            "mean": digits.MEAN,
            "std": digits.STD,
            "look": look(x[0, 0]),
            "layers": [layer_facts(found) for found in attentions],
            "digits": [
                {
                    "number": n,
                    "digit": int(labels[n]),
                    "image": images[n].flatten().tolist(),
                }
                for n in shown
            ],
        },
    )


def model(checkpoint: sv.Checkpoint, attentions: list[LayerAttention]) -> bytes:
    """An ONNX file for one image, with the logits and the weights of each block's attention, `stages.k.i` "heads h w kh kw".

    The weights are what the graph's Softmax nodes give: there is one in each block, in the order of the blocks. Those of IWSA lie
    window by window, so that their axes are put in order.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from scalablevit_ref.adapters.onnx import export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.onnx")
        export(
            checkpoint.params,
            checkpoint.config,
            path,
            image_size=digits.IMAGE_SIZE,
            batch=1,
        )
        made = onnx.load(path)
    graph = made.graph

    def reshaped(value: str, shape: tuple[int, ...], name: str) -> None:
        graph.initializer.append(
            numpy_helper.from_array(np.array(shape, np.int64), f"{name}.shape")
        )
        graph.node.append(helper.make_node("Reshape", [value, f"{name}.shape"], [name]))

    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    for node, found in zip(softmaxes, attentions, strict=True):
        shape, weights, name = found.weights.shape[1:], node.output[0], found.layer
        if found.kind == "iwsa":
            (h, w), p = found.tokens, found.span
            reshaped(weights, (h // p, w // p, found.heads, p, p, p, p), f"{name}.windows")
            weights = f"{name}.rows"
            graph.node.append(
                helper.make_node(
                    "Transpose", [f"{name}.windows"], [weights], perm=(2, 0, 3, 1, 4, 5, 6)
                )
            )
        reshaped(weights, shape, name)
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def _packed(content: bytes) -> str:
    return b64encode(gzip.compress(content, mtime=0)).decode()


def _script(name: str, value: dict[str, Any]) -> bytes:
    """A script that gives this name to a value."""
    return f"const {name} = {json.dumps(value, separators=(',', ':'))};\n".encode()

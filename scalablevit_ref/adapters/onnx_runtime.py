"""The one door to ONNX Runtime, whose telemetry would write to the user's cache and call a host."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
"""The variable that ONNX Runtime reads once, when it is loaded. Its own `disable_telemetry_events` comes too late for that."""


def onnx_runtime() -> Any:
    """The module `onnxruntime`, loaded with its telemetry off.

    The environment is afterwards as it was. A value that the user has given to `ORT_DISABLE_TELEMETRY` stands, and so does an ONNX
    Runtime that something else has loaded before: its telemetry is as that left it.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    if sys.modules.get("onnxruntime") or TELEMETRY_OFF in os.environ:
        return import_module("onnxruntime")
    os.environ[TELEMETRY_OFF] = "1"
    try:
        found = import_module("onnxruntime")
    finally:
        os.environ.pop(TELEMETRY_OFF, None)
    found.disable_telemetry_events()  # that of Windows, which has no variable
    return found

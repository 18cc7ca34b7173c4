"""What a candidate computes, layer by layer, under the canonical names: from a module, a model file, a trace or a function."""

from scalablevit_ref.compare.capture.captured import Captured, CaptureError
from scalablevit_ref.compare.capture.dispatch import capture

__all__ = ["CaptureError", "Captured", "capture"]

"""What ONNX Runtime takes ranges of values from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnxruntime.quantization import CalibrationDataReader


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """The images that the ranges of values are taken from."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = iter([{name: images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)

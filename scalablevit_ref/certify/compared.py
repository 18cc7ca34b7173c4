"""The proved errors of a candidate that `compare` has run: of its layers, on the comparison's weights and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from scalablevit_ref.certify.before import check_balls, check_certified
from scalablevit_ref.compare.capture.alignment import CanonicalTaps
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import Proves
from scalablevit_ref.errors import CaptureError, option
from scalablevit_ref.networks import Network

CERTIFY = option("certify")


@dataclass(frozen=True)
class Prover(Proves):
    """What `compare` takes as `certify`: the errors of the layers that were compared are then proved, from below and from above.

    Attributes
    ----------
    bits
        Precision that the balls have at first; where they grow too wide it is doubled.

    Examples
    --------
    >>> from scalablevit_ref import ScalableViTConfig, init_params, trace
    >>> from scalablevit_ref.testing import compare, random_images
    >>> config = ScalableViTConfig((8,), (2,), (2,), (2,), (2,), (1,), (2,), head="none")
    >>> params = init_params(config, dtype="float64")
    >>> images = random_images((1, 3, 8, 16))
    >>> port = trace(images, params, config)
    >>> options = {"variant": config, "weights": params, "images": images}
    >>> report = compare(port, **options, certify=Prover())
    >>> report.certificate.rows[0].eps("logits").high < 32
    True
    """

    bits: int = 106

    def check(
        self, network: Network, images: np.ndarray | None, weights: Mapping[str, np.ndarray] | None, *, given: bool, costly: bool
    ) -> None:
        """Raise, before anything runs, where nothing would be proved.

        Parameters
        ----------
        network
            Of the comparison.
        images, weights
            As far as they are known before it.
        given, costly
            As `run_cost.check_run` takes them.

        Raises
        ------
        ModuleNotFoundError
            Without python-flint.
        CaptureError
            For another network than the official one.
        ValueError
            For no precision, images and weights that are not finite; and CostError for balls that take too much memory.
        """
        check_certified(CERTIFY.flag)
        from scalablevit_ref.certify.truth import check_bits, check_finite

        check_bits("bits", self.bits)
        if not network.runs_as_named:
            raise CaptureError(CERTIFY, " is for the official network; nothing is proved of the layers of a community port")
        check_finite(np.zeros(()) if images is None else images, weights or {})
        if images is not None:
            check_balls(network, (1, *images.shape[1:]), bits=self.bits, given=given, costly=costly)

    def __call__(
        self,
        report: Report,
        local: Local | None,
        taps: CanonicalTaps,
        *,
        as_it_is: bool,
        costly: bool,
        progress: Callable[[str], None],
    ) -> Any:
        """The `Certificate` of every layer that was compared, from the images on.

        Parameters
        ----------
        report
            What was found of these layers.
        local
            The reference's layers, with its weights and the images; None where no weights are known.
        taps
            The candidate's layers. They have been held against something, which has settled their layouts.
        as_it_is
            Whether a module has kept its own weights.
        costly
            As `certify` takes it.
        progress
            Called with each step, in words.

        Raises
        ------
        CaptureError
            Where no weights are known, where the candidate's own are not those of the reference, and for one that gives something
            else each time.
        PrecisionError
            Where no precision is enough.
        """
        from scalablevit_ref.certify.certificate import certify, steps
        from scalablevit_ref.certify.subjects import Subject

        if local is None:
            raise CaptureError(CERTIFY, " needs the weights of the two traces: ", option("weights"), " gives them")
        if report.own_weights_wrong and (as_it_is or report.noise is not None):
            raise CaptureError(CERTIFY, f" proves nothing of other weights than the reference's: {report.own_weights[0]}")
        if report.unsteady:
            raise CaptureError(CERTIFY, f" proves nothing of what is something else each time: {report.unsteady[0]}")
        layers = [row.layer for row in report.rows if not row.absent and not row.another_value]
        images = count()

        def run(network: Network, x: np.ndarray, params: Any, near: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            image = next(images)
            return {layer: taps(layer)[image : image + 1] for layer in layers if layer in near}

        subject = Subject("the candidate", report.dtype, run)
        total = steps(local.network, [subject], local.images.shape)
        found = certify(
            local.images,
            local.params,
            report.config,
            [subject],
            bits=self.bits,
            progress=lambda step, done: progress(f"proving {step}, {done + 1} of {total}"),
            costly=costly,
        )
        (row,) = found.rows
        if row.failed is not None:
            raise CaptureError(CERTIFY, f": {row.failed}")
        if not row.errors:
            raise CaptureError(CERTIFY, ": no layer was compared of which the exact result is known")
        return found

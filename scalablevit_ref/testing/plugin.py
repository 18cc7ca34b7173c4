"""The pytest plugin `scalablevit_ref`: off until a test asks for its fixture, `scalablevit_reference`."""

from __future__ import annotations

from typing import Any

import pytest


class Reference:
    """What the fixture gives; importing this package waits until it is used.

    Examples
    --------
    >>> def test_my_port(scalablevit_reference):  # in your test suite
    ...     scalablevit_reference.assert_equivalent(MyScalableViT(), variant="small")
    """

    def compare(self, candidate: Any, **options: Any) -> Any:
        """`scalablevit_ref.testing.compare`.

        Examples
        --------
        >>> from scalablevit_ref import digits, load_checkpoint, trace
        >>> from scalablevit_ref.testing import random_images
        >>> found = load_checkpoint(digits.CHECKPOINT)
        >>> images = random_images((1, 1, 112, 112), dtype="float32")
        >>> port = trace(images, found.params, found.config)
        >>> Reference().compare(port, weights=found, images=images).agrees
        True
        """
        from scalablevit_ref.testing import compare

        return compare(candidate, **options)

    def assert_equivalent(self, candidate: Any, **options: Any) -> Any:
        """Fail with the diagnosis unless the candidate agrees with the reference in every layer; the report if it does.

        Parameters
        ----------
        candidate, **options
            Of `scalablevit_ref.testing.compare`: variant, weights, mode, images, dtype, names, tolerance and others.

        Examples
        --------
        >>> from scalablevit_ref import digits, load_checkpoint, trace
        >>> from scalablevit_ref.testing import random_images
        >>> found = load_checkpoint(digits.CHECKPOINT)
        >>> images = random_images((1, 1, 112, 112), dtype="float32")
        >>> port = trace(images, found.params, found.config)
        >>> report = Reference().assert_equivalent(port, weights=found, images=images)
        >>> report.verdict[:38]
        'agrees with the reference in 51 layers'
        """
        __tracebackhide__ = True
        report = self.compare(candidate, **options)
        if not report.agrees:
            pytest.fail(str(report), pytrace=False)
        return report

    def assert_equivalent_everywhere(self, build: Any, **options: Any) -> int:
        """Fail with the smallest drawn case in which the port that `build` gives differs, and its diagnosis.

        Parameters
        ----------
        build, **options
            Of `scalablevit_ref.testing.assert_equivalent_everywhere`: vary, base, configs, image_sizes and others.

        Examples
        --------
        >>> from scalablevit_ref import trace
        >>> def build(config, params):  # a port that is right, being the reference itself
        ...     return lambda images: trace(images, params, config)
        >>> one = {"base": "digits", "vary": [], "image_sizes": [112]}
        >>> Reference().assert_equivalent_everywhere(build, **one, max_examples=1)
        1
        """
        __tracebackhide__ = True
        from scalablevit_ref.testing import assert_equivalent_everywhere

        try:
            return assert_equivalent_everywhere(build, **options)
        except AssertionError as error:
            message = str(error)
        return pytest.fail(message, pytrace=False)

    @property
    def strategies(self) -> Any:
        """`scalablevit_ref.testing.strategies`: Hypothesis strategies for operations, networks, parameters and images."""
        from scalablevit_ref.testing import strategies

        return strategies


@pytest.fixture(scope="session")
def scalablevit_reference() -> Reference:
    """ScalableViT's executable specification: `scalablevit_reference.assert_equivalent(MyScalableViT(), variant="small")`."""
    return Reference()

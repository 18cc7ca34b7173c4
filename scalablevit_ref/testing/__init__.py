"""How agreement is measured: units of the dtype's eps, the tolerances of the proof, parameters behind which no fault hides."""

from scalablevit_ref.testing.comparison import compare
from scalablevit_ref.testing.random import random_images, random_params
from scalablevit_ref.testing.tolerances import EPS, MAX_TOLERANCE, NETWORK_TOLERANCE, max_error, relative_l2

__all__ = ["EPS", "MAX_TOLERANCE", "NETWORK_TOLERANCE", "compare", "max_error", "random_images", "random_params", "relative_l2"]

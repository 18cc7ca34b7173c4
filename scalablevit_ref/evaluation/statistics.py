"""What counts say: an interval for a share, and whether two networks differ on the same images."""

from __future__ import annotations

from math import comb, exp, lgamma, log, sqrt

Z = 1.959963984540054
"""Of the normal distribution: 95 % lie within so many deviations."""

EXACT = 1000
"""Most flips whose binomial distribution is summed in whole numbers."""


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found as `hits` of `of` (Wilson, 1927); 0 to 1 where nothing was counted.

    Examples
    --------
    >>> [round(bound, 4) for bound in wilson(83, 100)]
    [0.7445, 0.8911]
    """
    if not of:
        return 0.0, 1.0
    share = hits / of
    centre = (share + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z * sqrt(share * (1 - share) / of + Z * Z / (4 * of * of)) / (1 + Z * Z / of)
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test: how probable flips as uneven as these are, or more so, if either way were as likely as the other.

    Examples
    --------
    >>> mcnemar(3, 3), mcnemar(0, 10)
    (1.0, 0.001953125)
    """
    flips, fewer = gained + lost, min(gained, lost)
    if flips <= EXACT:
        return min(1.0, float(2 * sum(comb(flips, i) for i in range(fewer + 1)) / 2**flips))
    logs = (lgamma(flips + 1) - lgamma(i + 1) - lgamma(flips - i + 1) - flips * log(2) for i in range(fewer + 1))
    return min(1.0, 2 * sum(map(exp, logs)))

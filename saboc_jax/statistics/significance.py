"""Tests whether two search methods differ, using the seeds they share.

Both methods run with the same seeds, which determine weights, images and the search's own
randomness, so results are paired: the statistic is the mean difference over seeds, with
Student's t interval and the two-sided p-value of the paired t-test. With five seeds an interval
is wide, and it holds for these scoring networks and images only.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float


class Difference(NamedTuple):
    """A paired difference.

    Attributes:
        mean: mean of a - b over pairs.
        low: lower end of its interval.
        high: upper end.
        p_value: two-sided, of the hypothesis that the true mean is 0; NaN for one pair.
        wins: number of pairs with a > b; an equal pair counts a half.
        pairs: number of pairs.
    """

    mean: float
    low: float
    high: float
    p_value: float
    wins: float
    pairs: int


def paired_difference(
    a: Float[Any, " pairs"], b: Float[Any, " pairs"], level: float = 0.95
) -> Difference:
    """Returns the difference a - b of paired results.

    Args:
        a: [pairs] results of one method.
        b: [pairs] results of the other, with the same seeds in the same order.
        level: confidence level of the interval, between 0 and 1.

    Raises:
        ValueError: if the shapes differ or there is no pair.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"a and b have shapes {first.shape}, {second.shape}; allowed: both [n]")
    if not 0 < level < 1:
        raise ValueError(f"level={level}; allowed: between 0 and 1")
    difference = first - second
    mean, pairs = float(difference.mean()), len(difference)
    wins = float((difference > 0).sum() + (difference == 0).sum() / 2)
    if pairs == 1:
        return Difference(mean, float("nan"), float("nan"), float("nan"), wins, pairs)
    error = float(difference.std(ddof=1) / np.sqrt(pairs))
    if error == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, wins, pairs)
    reach = error * float(scipy.stats.t.ppf((1 + level) / 2, pairs - 1))
    p_value = 2 * float(scipy.stats.t.sf(abs(mean) / error, pairs - 1))
    return Difference(mean, mean - reach, mean + reach, p_value, wins, pairs)

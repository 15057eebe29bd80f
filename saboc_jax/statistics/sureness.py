"""Is A better than B? How sure an order is, from draws of weights and images that all share.

In every draw all candidates see the same images, so their ranks in it are paired: the order of two
candidates is judged by the differences of their ranks, draw by draw, with Student's t. It covers
the noise of draws alone, not what the witnesses all get wrong.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy  # loads `scipy.stats` at its first use, which takes longer than JAX
from jaxtyping import Float, Int

from saboc_jax.statistics import ranking as rankings
from saboc_jax.types import Ranking

SURE = 0.95  # the least probability with which two candidates count as told apart
FIFTH = 5


def ranks_by_draw(
    values: Float[np.ndarray, "n draws k"], higher_is_better: Sequence[bool], ranking: Ranking
) -> Float[np.ndarray, "n draws"]:
    """Returns the aggregated rank of every candidate in every draw; lower is better."""
    draws = values.swapaxes(0, 1)
    return np.stack([np.asarray(ranking(each, higher_is_better)) for each in draws], 1)


def probability_better(
    first: Float[np.ndarray, " draws"], second: Float[np.ndarray, " draws"]
) -> float:
    """Returns the probability that the first candidate's rank is really the lower one.

    Args:
        first: ranks of one candidate, a rank for each draw.
        second: ranks of the other, in the same draws.

    Returns:
        NaN for a single draw; a half for two that are equal in every draw.
    """
    gap = np.asarray(second, float) - np.asarray(first, float)
    if len(gap) < 2:
        return math.nan
    mean, error = gap.mean(), gap.std(ddof=1) / math.sqrt(len(gap))
    if error == 0:
        return float(np.sign(mean) + 1) / 2
    return float(scipy.stats.t.cdf(mean / error, len(gap) - 1))


def holds(
    ranks: Float[np.ndarray, "n draws"], order: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Returns, for each place of an order, how probably it is better than the next; last: NaN."""
    pairs = itertools.pairwise(order)
    return np.array([*(probability_better(ranks[a], ranks[b]) for a, b in pairs), math.nan])


def groups(
    ranks: Float[np.ndarray, "n draws"], order: Int[np.ndarray, " n"], sure: float = SURE
) -> Int[np.ndarray, " n"]:
    """Returns the group of each place of an order, from 1.

    A group is its first candidate and those after it that are not told apart from it with the
    probability `sure`. With a single draw nothing is told apart.
    """
    found, first = [1], order[0]
    for candidate in order[1:]:
        apart = probability_better(ranks[first], ranks[candidate]) >= sure
        first = candidate if apart else first
        found.append(found[-1] + apart)
    return np.array(found, int)


def loved_by(
    means: Float[np.ndarray, "n k"], higher_is_better: Sequence[bool], candidate: int
) -> tuple[int, int]:
    """Returns (metrics that put a candidate in the best fifth, metrics that tell candidates apart).

    Args:
        means: [n, k] metrics, means over draws.
        higher_is_better: the direction of each.
        candidate: its row.
    """
    ranks = rankings.per_metric_ranks(means, higher_is_better)
    telling = np.ptp(ranks, axis=0) > 0
    best = math.ceil(len(ranks) / FIFTH)
    # By the best of the places that candidates of equal value share.
    places = rankings.per_metric_ranks(means, higher_is_better, ties="min")
    return int((places[candidate] <= best)[telling].sum()), int(telling.sum())


def warning(
    means: Float[np.ndarray, "n k"], higher_is_better: Sequence[bool], winner: int, name: str
) -> str:
    """Returns a warning if only a minority of metrics loves the winner; "": there is none."""
    loved, telling = loved_by(means, higher_is_better, winner)
    if telling < 3 or 2 * loved >= telling:
        return ""
    return (
        f"{name} is first, but only {loved} of {telling} metrics put it in the best fifth: look at "
        "the next ones, too"
    )


def of_order(
    values: Float[np.ndarray, "n draws k"],
    higher_is_better: Sequence[bool],
    ranking: Ranking,
    order: Int[np.ndarray, " n"],
    best: str,
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"], str]:
    """Returns `holds`, `groups` and `warning` of an order; `best` is the name of its first."""
    ranks = ranks_by_draw(values, higher_is_better, ranking)
    odd = warning(values.mean(1), higher_is_better, int(order[0]), best)
    return holds(ranks, order), groups(ranks, order), odd

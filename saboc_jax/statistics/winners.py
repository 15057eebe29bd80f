"""What a ranking is worth to a search: how good is the best of m, and does more search help?

Tau says how a score orders all candidates; a search acts on the first of them alone. Its **winner's
curve** is the expected true accuracy of the candidate that a score puts first among m random ones.
A score can have a high tau and a curve that falls: the more candidates, the surer one of those that
it overrates is among them.

The expectation is exact, over all subsets of m of the n candidates. With the candidates in order,
those before place k all miss a subset with the probability C(n - k, m) / C(n, m), so the candidate
at place k (from 0) wins with

    S(k) - S(k + 1),    S(k) = C(n - k, m) / C(n, m).

Candidates of equal rank share what their places have. Intervals are bootstraps over candidates, as
those of tau: how far the curve would move with another sample of candidates, not how far one
search lies from the mean of searches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float

from saboc_jax.statistics import ranking

SMALLEST = 8  # of the default sizes of a search
NDCG_PLACES = 1000  # at most so many places count
TENTH = 0.1


class Winner(NamedTuple):
    """A point of the winner's curve.

    Attributes:
        m: candidates of a search.
        expected: mean true accuracy of the candidate that the score puts first among m.
        low: lower end of its 95 % interval over candidates.
        high: upper end.
    """

    m: int
    expected: float
    low: float
    high: float


def default_sizes(n: int) -> tuple[int, ...]:
    """Returns 8, 16, 32, ... below n, and n."""
    doubled = [SMALLEST << power for power in range(n.bit_length()) if SMALLEST << power < n]
    return (*doubled, n)


def survival(n: int, sizes: Sequence[int]) -> Float[np.ndarray, "sizes places"]:
    """Returns S [sizes, n + 1]: the probability that the first k of n miss a subset of m.

    Raises:
        ValueError: if a size is not between 1 and n.
    """
    m = np.asarray(sizes)[:, None]
    if len(m) and (m.min() < 1 or m.max() > n):
        raise ValueError(f"best of {list(sizes)} among {n} candidates; allowed: 1 to {n}")
    left = n - np.arange(n + 1)
    log = scipy.special.gammaln
    enough = left >= m
    terms = log(left + 1) - log(np.where(enough, left - m, 0) + 1) + log(n - m + 1) - log(n + 1)
    return np.where(enough, np.exp(np.minimum(terms, 0.0)), 0.0)


def _expected(
    ranks: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    survives: Float[np.ndarray, "sizes places"],
) -> Float[np.ndarray, " sizes"]:
    """Returns the expected truth of the winner of every size."""
    order = np.argsort(ranks, kind="stable")
    places, known = ranks[order], truth[order]
    first = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    ends = np.append(first[1:], len(places))
    means = np.add.reduceat(known, first) / (ends - first)
    return (survives[:, first] - survives[:, ends]) @ means


def winners(
    ranks: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    sizes: Sequence[int] | None = None,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> list[Winner]:
    """Returns the winner's curve of an order.

    Args:
        ranks: [n] ranks or scores, lower is better.
        truth: [n] true accuracies, finite.
        sizes: how many candidates a search has; None: `default_sizes`.
        resamples: bootstrap resamples of the candidates.
        seed: seed of the bootstrap.

    Raises:
        ValueError: if a size is not between 1 and n.
    """
    ranks, truth = np.asarray(ranks, float), np.asarray(truth, float)
    n = len(ranks)
    sizes = default_sizes(n) if sizes is None else tuple(sizes)
    survives = survival(n, sizes)
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    moved = np.stack([_expected(ranks[rows], truth[rows], survives) for rows in draws])
    low, high = np.quantile(moved, (0.025, 0.975), axis=0)
    expected = _expected(ranks, truth, survives)
    rows = zip(sizes, expected.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Winner(*row) for row in rows]


def best_by_chance(truth: Float[np.ndarray, " n"], m: int) -> float:
    """Returns the mean true accuracy of the truly best of m random candidates.

    It is what training all m would find; m above n counts as n.
    """
    truth = np.asarray(truth, float)
    return float(_expected(-truth, truth, survival(len(truth), [min(m, len(truth))]))[0])


def ndcg(
    ranks: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"], places: int = NDCG_PLACES
) -> float:
    """Returns the normalised discounted cumulative gain of the first places of an order.

    The gain is 2^accuracy with accuracies in percent, so a candidate that is one point worse is
    worth half; place j counts 1 / log2(1 + j). 1 is the order of the truth.

    Args:
        ranks: [n] ranks, lower is better; candidates of equal rank share their mean gain.
        truth: [n] true accuracies in percent.
        places: how many places count, at most n.
    """
    ranks, truth = np.asarray(ranks, float), np.asarray(truth, float)
    gains = np.exp2(truth - truth.max())
    discounts = 1 / np.log2(2 + np.arange(len(truth)))
    discounts[places:] = 0
    _, group = np.unique(ranks, return_inverse=True)
    shared = np.bincount(group, gains)[group] / np.bincount(group)[group]
    found = (shared[np.argsort(ranks, kind="stable")] * discounts).sum()
    return float(found / (np.sort(gains)[::-1] * discounts).sum())


def tau_of_best(
    ranks: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"], share: float = TENTH
) -> float:
    """Returns Kendall's tau among the truly best candidates, positive where the order is right.

    Args:
        ranks: [n] ranks, lower is better.
        truth: [n] true accuracies.
        share: which share of the candidates, at least three of them (NaN if there are fewer).
    """
    ranks, truth = np.asarray(ranks, float), np.asarray(truth, float)
    count = max(3, int(share * len(truth) + 1e-9))
    if count > len(truth):
        return float("nan")
    best = np.argsort(-truth, kind="stable")[:count]
    return ranking.kendall(-ranks[best], truth[best])


def ceiling(
    trainings: Float[np.ndarray, "n trainings"],
) -> tuple[Float[np.ndarray, "n pairs"], Float[np.ndarray, "n pairs"]]:
    """Returns (each training's accuracies, the mean of the other trainings).

    What one training says of others is the ceiling of every score.

    Raises:
        ValueError: if there are fewer than two trainings.
    """
    trainings = np.asarray(trainings, float)
    if trainings.ndim != 2 or trainings.shape[1] < 2:
        raise ValueError(f"trainings of shape {trainings.shape}; allowed: [n, 2 or more]")
    others = (trainings.sum(1, keepdims=True) - trainings) / (trainings.shape[1] - 1)
    return trainings, others


def simulated_trainings(
    truth: Float[np.ndarray, " n"],
    spread: Float[np.ndarray, " n"],
    trainings: int = 3,
    seed: int = 0,
) -> Float[np.ndarray, "n trainings"]:
    """Returns normal draws around mean accuracies, for tables that give a spread but no seeds.

    Args:
        truth: [n] mean accuracies.
        spread: [n] standard deviations over trainings.
        trainings: how many are drawn.
        seed: seed of the draws.
    """
    noise = np.random.default_rng(seed).standard_normal((len(truth), trainings))
    return np.asarray(truth)[:, None] + np.asarray(spread)[:, None] * noise

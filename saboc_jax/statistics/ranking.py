"""Combines several metrics into one order, and measures how well an order agrees with the truth.

SABoC-NAS adds ranks (Borda count, Eq. 12): every metric ranks all candidates, 1 is the best,
and the candidate with the smallest sum of ranks wins. Only order counts, so metrics need no
common scale and no weights. A sum of ranks belongs to the set it was computed from: adding
or removing candidates can reverse two others, so never compare sums across sets.

A metric that is not finite (a dead network, a failed solve, an overflow) counts as the worst
value, whatever its sign: such entries share the last rank and are never dropped. When several
metrics become one rank, a candidate with NaN in one metric counts as non-finite in all of them and
comes last. An infinity affects only its own metric, because some definitions give infinity to a
network that works (AZ-NAS's trainability of an identity, TE-NAS's condition number of a singular
kernel).

`per_metric_ranks`, the aggregations and `order` take NumPy or JAX arrays and work under
`jax.jit`, where searchers need them. Fronts and statistics run on the host.

References:
    SABoC-NAS, Eq. 12. AZ-NAS (Lee and Ham, CVPR 2024), non-linear rank aggregation.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # loads `scipy.stats` at its first use: importing it takes longer than JAX
from jaxtyping import Bool, Float, Int

from saboc_jax.keys import check_seed
from saboc_jax.types import PRNGKey, Ranking

Ties = Literal["average", "ordinal", "min", "dense"]
Statistic = Callable[[np.ndarray, np.ndarray], float]


def _backend(array: Any) -> ModuleType:
    return jnp if isinstance(array, jax.Array) else np


def _costs(scores: Any, higher_is_better: Sequence[bool]) -> Any:
    """Turns scores into costs: lower is better for every metric, non-finite becomes +inf."""
    xp = _backend(scores)
    scores = xp.asarray(scores, dtype=xp.result_type(scores, np.float32))
    if scores.ndim != 2 or scores.shape[1] != len(higher_is_better):
        raise ValueError(
            f"scores have shape {scores.shape}; allowed: [n, {len(higher_is_better)}] for "
            f"the {len(higher_is_better)} directions {tuple(higher_is_better)}"
        )
    signs = np.where(np.asarray(higher_is_better, dtype=bool), -1, 1)
    return xp.where(xp.isfinite(scores), scores * signs.astype(scores.dtype), np.inf)


def _voided(scores: Any) -> Any:
    """Sets all metrics of a candidate to NaN if one of them is NaN."""
    xp = _backend(scores)
    scores = xp.asarray(scores)
    return xp.where(xp.isnan(scores).any(axis=-1, keepdims=True), xp.nan, scores)


def _rank_column(costs: Any, ties: Ties) -> Any:
    """Ranks [n] costs without NaN from 1, lowest first."""
    xp = _backend(costs)
    n = costs.shape[0]
    ascending = xp.sort(costs)
    below = xp.searchsorted(ascending, costs, side="left")
    if ties == "min":
        return below + 1
    if ties == "average":
        not_above = xp.searchsorted(ascending, costs, side="right")
        return (below + not_above + 1) / 2
    if ties == "dense":
        is_new = xp.concatenate([xp.ones(min(n, 1), bool), ascending[1:] != ascending[:-1]])
        return xp.cumsum(is_new)[below]
    # `lexsort` is stable and exists in both libraries; sorting a permutation inverts it.
    places = xp.lexsort((xp.lexsort((costs,)),)) + 1
    return xp.where(xp.isfinite(costs), places, n)


def per_metric_ranks(
    scores: Float[Any, "n k"], higher_is_better: Sequence[bool], *, ties: Ties = "average"
) -> Float[Any, "n k"]:
    """Ranks the candidates by each metric; 1 is the best.

    Args:
        scores: [n, k] metric values, one row per candidate, non-finite allowed.
        higher_is_better: the direction of each metric.
        ties: the rank of equal values: "average" of their places (as `scipy.stats.rankdata`),
            "min" (the best of their places), "dense" (as "min", but without gaps after them) or
            "ordinal" (one place each, in order of index).

    Returns:
        [n, k] ranks. Non-finite entries of a metric share one rank behind all others; with
        "ordinal" they all get n.

    Raises:
        ValueError: if shapes do not fit or `ties` is unknown.
    """
    if ties not in get_args(Ties):
        raise ValueError(f"ties={ties!r}; allowed: {get_args(Ties)}")
    costs = _costs(scores, higher_is_better)
    xp = _backend(costs)
    if not len(higher_is_better):
        return costs
    columns = [_rank_column(costs[:, j], ties) for j in range(costs.shape[1])]
    return xp.stack(columns, axis=1).astype(costs.dtype)


def borda(
    scores: Float[Any, "n k"], higher_is_better: Sequence[bool], *, ties: Ties = "average"
) -> Float[Any, " n"]:
    """Sums each candidate's ranks over all metrics; lower is better (SABoC-NAS Eq. 12).

    Args:
        scores: [n, k] metric values; a candidate with a NaN comes last in all metrics.
        higher_is_better: the direction of each metric.
        ties: see `per_metric_ranks`. "ordinal" gives the permutations of the paper's text;
            "average" does not depend on the order of the candidates (decision D14).

    Returns:
        [n] sums, between k (first everywhere) and n k.
    """
    return per_metric_ranks(_voided(scores), higher_is_better, ties=ties).sum(axis=1)


def log_rank(scores: Float[Any, "n k"], higher_is_better: Sequence[bool]) -> Float[Any, " n"]:
    """AZ-NAS's aggregation: -sum of log(r / n), where r counts ranks from the worst, r=1.

    A last place costs log n, a first place nothing: one bad metric weighs more than it does
    in a sum of ranks. AZ-NAS maximises the negative of this. A candidate with NaN is last by all
    metrics.
    """
    ranks = per_metric_ranks(_voided(scores), higher_is_better)
    n = ranks.shape[0]
    return -_backend(ranks).log((n + 1 - ranks) / n).sum(axis=1)


def mean_z_score(scores: Float[Any, "n k"], higher_is_better: Sequence[bool]) -> Float[Any, " n"]:
    """Averages the standardised values over the metrics; lower is better.

    Unlike the Borda count it depends on the scale of the values. Mean and standard deviation use
    the finite entries only. A non-finite entry is placed one standard deviation behind the worst
    finite one; a candidate with NaN is placed there in all metrics.
    """
    costs = _costs(_voided(scores), higher_is_better)
    xp = _backend(costs)
    finite = xp.isfinite(costs)
    count = xp.maximum(finite.sum(axis=0), 1)
    mean = xp.where(finite, costs, 0).sum(axis=0) / count
    centred = xp.where(finite, costs - mean, 0)
    deviation = xp.sqrt((centred**2).sum(axis=0) / count)
    z = centred / xp.where(deviation > 0, deviation, 1)
    last = xp.where(finite, z, -np.inf).max(axis=0, initial=-np.inf)
    return xp.where(finite, z, xp.where(xp.isfinite(last), last, 0) + 1).mean(axis=1)


def standard_error(values: Float[np.ndarray, "repeats k"]) -> Float[np.ndarray, " k"]:
    """Returns the standard error of the mean over repeats, per metric; NaN for one repeat."""
    repeats = len(values)
    if repeats == 1:
        return np.full(values.shape[1], np.nan)
    return values.std(0, ddof=1) / np.sqrt(repeats)


def first_metric(scores: Float[Any, "n k"], higher_is_better: Sequence[bool]) -> Float[Any, " n"]:
    """Ranks by the first metric alone; NaN in another metric has no effect."""
    return per_metric_ranks(scores[:, :1], higher_is_better[:1])[:, 0]


def worst_rank(scores: Float[Any, "n k"], higher_is_better: Sequence[bool]) -> Float[Any, " n"]:
    """Returns each candidate's worst rank over the metrics (minimax)."""
    return per_metric_ranks(_voided(scores), higher_is_better).max(axis=1)


LEAST_SAY = 0.01  # of a witness that all others contradict, so that no candidate is dropped


def agreement(scores: Float[Any, "n k"], higher_is_better: Sequence[bool]) -> Float[Any, " n"]:
    """Adds logarithms of ranks as `log_rank`, each metric with the say that agreement earns it.

    A metric's weight is the square of Spearman's correlation of its ranks with the medians of all
    metrics' ranks, at least `LEAST_SAY`: no accuracies are needed, and what one metric loves and
    all others contradict hardly counts. A metric that is equal for all has no say.

    A candidate with NaN in one metric is last by all, as in the other aggregations.
    """
    ranks = per_metric_ranks(_voided(scores), higher_is_better)
    xp = _backend(ranks)
    return _weighted(ranks, _rank_column(xp.median(ranks, axis=1), "average"))


def _weighted(ranks: Any, middle: Any) -> Any:
    """Adds logarithms of ranks [n, k] by the squares of their correlations with ranks [n]."""
    xp, n = _backend(ranks), ranks.shape[0]
    mean = (n + 1) / 2  # of ranks, ties averaged
    centred, middle = ranks - mean, middle - mean
    spread = xp.sqrt((centred**2).sum(0) * (middle**2).sum())
    together = (centred * middle[:, None]).sum(0) / xp.where(spread > 0, spread, 1)
    weights = xp.maximum(xp.maximum(together, 0) ** 2, LEAST_SAY)
    return -(xp.log((n + 1 - ranks) / n) * weights).sum(axis=1) / weights.sum()


ANCHOR = 4  # metrics at the beginning that `anchored` takes as one
STEPS = 1 << 16  # of a logarithm of their ranks, so that the sum of four is exact in float32


def anchored(scores: Float[Any, "n k"], higher_is_better: Sequence[bool]) -> Float[Any, " n"]:
    """Adds logarithms of ranks to those of an anchor, by the say that agreement with it earns.

    The first `ANCHOR` metrics are measures of one thing, the anchor: their ranks are added by
    `log_rank` and ranked again. A further metric's weight is the square of Spearman's correlation
    of its ranks with the anchor's, at least `LEAST_SAY`; the anchor's is 1. No accuracies are
    needed. A metric that is equal for all has no say. Up to `ANCHOR` metrics it orders as
    `log_rank`.

    A candidate with NaN in one metric is last by all, as in the other aggregations.
    """
    scores = _voided(scores)
    xp, n = _backend(scores), scores.shape[0]
    first = per_metric_ranks(scores[:, :ANCHOR], higher_is_better[:ANCHOR])
    # Whole steps, whose sums are exact: rounding must not decide between candidates that tie.
    steps = xp.round(xp.log((n + 1 - first) / n) * STEPS)
    anchor = per_metric_ranks(steps.sum(axis=1, keepdims=True), (True,))
    rest = per_metric_ranks(scores[:, ANCHOR:], higher_is_better[ANCHOR:])
    ranks = xp.concatenate([anchor, rest.reshape(n, -1)], axis=1)
    return _weighted(ranks, ranks[:, 0])


AGGREGATIONS: Mapping[str, Ranking] = MappingProxyType(
    {
        "borda": borda,
        "log_rank": log_rank,
        "agreement": agreement,
        "anchored": anchored,
        "sum": mean_z_score,
        "first": first_metric,
        "worst": worst_rank,
    }
)


def order(ranks: Float[Any, " n"], *tie_breakers: Float[Any, " n"]) -> Int[Any, " n"]:
    """Returns indices from best to worst; the tie breakers, then the index, decide ties.

    Args:
        ranks: [n] ranks or sums of ranks, lower is better.
        *tie_breakers: further [n] ranks, applied in this order.
    """
    return _backend(ranks).lexsort((*tie_breakers[::-1], ranks))


def best_first(
    scores: Float[Any, "n k"],
    higher_is_better: Sequence[bool],
    *,
    ranking: Ranking = borda,
    break_ties_by: Sequence[int] | None = None,
) -> Int[Any, " n"]:
    """Returns the indices of the candidates from best to worst, deterministically.

    Args:
        scores: [n, k] metric values, non-finite allowed.
        higher_is_better: the direction of each metric.
        ranking: combines the metrics into one rank, see `AGGREGATIONS`.
        break_ties_by: metrics that decide between equal ranks, in this order. None: the second
            metric, then the first, which for (S_t, S_e, S_g) is decision D14. The index decides
            last.
    """
    if break_ties_by is None:
        break_ties_by = (1, 0) if len(higher_is_better) > 1 else ()
    ranks = per_metric_ranks(scores, higher_is_better)
    breakers = [ranks[:, metric] for metric in break_ties_by]
    return order(ranking(scores, higher_is_better), *breakers)


def pareto_front(
    objectives: Float[np.ndarray, "n k"], higher_is_better: Sequence[bool]
) -> Bool[np.ndarray, " n"]:
    """Marks the candidates that no other candidate dominates.

    A candidate dominates another if it is no worse in every objective and better in one.
    Equal candidates are all on the front; a candidate with a non-finite objective never is.
    Takes O(front size * n k) time.

    Args:
        objectives: [n, k] values.
        higher_is_better: the direction of each objective.
    """
    costs = _costs(np.asarray(objectives), higher_is_better)
    front = np.zeros(len(costs), dtype=bool)
    # In lexicographic order only earlier candidates can dominate a candidate.
    remaining = np.lexsort(costs.T[::-1])
    remaining = remaining[np.isfinite(costs[remaining]).all(axis=1)]
    while remaining.size:
        first, others = costs[remaining[0]], costs[remaining]
        front[remaining[0]] = True
        dominated = (others >= first).all(axis=1) & (others > first).any(axis=1)
        dominated[0] = True
        remaining = remaining[~dominated]
    return front


def _comparable(
    x: Float[Any, " n"], y: Float[Any, " n"], higher_is_better: tuple[bool, bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as ranks that ascend with the value; non-finite entries go to the worse end."""
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y have shapes {x.shape} and {y.shape}; allowed: both [n]")
    ranks = [
        per_metric_ranks(values[:, None], (higher,))[:, 0] * (-1 if higher else 1)
        for values, higher in zip((x, y), higher_is_better, strict=True)
    ]
    return ranks[0], ranks[1]


def _is_constant(ranks: Sequence[np.ndarray]) -> bool:
    """Returns whether one of the columns does not order anything."""
    return any(len(column) < 2 or np.ptp(column) == 0 for column in ranks)


def kendall(
    x: Float[Any, " n"],
    y: Float[Any, " n"],
    higher_is_better: tuple[bool, bool] = (True, True),
) -> float:
    """Returns Kendall's tau_b of two columns of values, in O(n log n).

    The sign refers to the raw values: a metric where lower is better and which predicts
    accuracy well has a tau near -1.

    Args:
        x: [n] values.
        y: [n] values.
        higher_is_better: the direction of each; non-finite entries go to the worse end.

    Returns:
        tau_b; NaN if a column is constant, as a single value is.
    """
    ranks = _comparable(x, y, higher_is_better)
    if _is_constant(ranks):
        return float("nan")
    # The variance of the p-value, which is not used, divides by n - 2.
    method = "asymptotic" if len(ranks[0]) > 2 else "exact"
    return float(scipy.stats.kendalltau(*ranks, method=method).statistic)


def spearman(
    x: Float[Any, " n"],
    y: Float[Any, " n"],
    higher_is_better: tuple[bool, bool] = (True, True),
) -> float:
    """Returns Spearman's rho of two columns of values; sign and arguments as in `kendall`."""
    ranks = _comparable(x, y, higher_is_better)
    if _is_constant(ranks):
        return float("nan")
    return float(scipy.stats.spearmanr(*ranks).statistic)


def kendall_matrix(
    scores: Float[Any, "n k"], higher_is_better: Sequence[bool]
) -> Float[np.ndarray, "k k"]:
    """Returns tau_b of every pair of metrics; 1 on the diagonal (NaN for a constant metric)."""
    scores = np.asarray(scores)
    k = len(higher_is_better)
    matrix = np.empty((k, k))
    for i in range(k):
        for j in range(i + 1):
            tau = kendall(scores[:, i], scores[:, j], (higher_is_better[i], higher_is_better[j]))
            matrix[i, j] = matrix[j, i] = tau
    return matrix


class Interval(NamedTuple):
    """An estimate and its bootstrap interval.

    Attributes:
        estimate: the statistic of the whole sample.
        low: lower end of the interval.
        high: upper end.
        level: the nominal coverage.
    """

    estimate: float
    low: float
    high: float
    level: float


def bootstrap_interval(
    statistic: Statistic,
    x: Float[Any, " n"],
    y: Float[Any, " n"],
    seed: int | PRNGKey,
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Computes a percentile bootstrap interval of a statistic by resampling architectures.

    It tells how far the statistic would move with another sample of architectures. It does
    not cover the noise of weights and batches, nor architectures unlike the sampled ones.

    Args:
        statistic: e.g. `kendall`.
        x: [n] values, e.g. scores.
        y: [n] values, e.g. accuracies.
        seed: an int, or a JAX key (consumed).
        resamples: number of resamples.
        level: nominal coverage, between 0 and 1.

    Raises:
        ValueError: if `level`, `resamples` or the seed is out of range.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"level={level}, resamples={resamples}; allowed: 0 < level < 1, resamples >= 1"
        )
    x, y = np.asarray(x), np.asarray(y)
    entropy = (
        np.asarray(jax.random.key_data(seed)) if isinstance(seed, jax.Array) else check_seed(seed)
    )
    draws = np.random.default_rng(entropy).integers(len(x), size=(resamples, len(x)))
    values = np.array([statistic(x[rows], y[rows]) for rows in draws])
    # Drop resamples with an undefined statistic (all values equal).
    values = values[~np.isnan(values)]
    tail = (1 - level) / 2
    low, high = np.quantile(values, (tail, 1 - tail)) if values.size else (np.nan, np.nan)
    return Interval(float(statistic(x, y)), float(low), float(high), level)


def regret_at_k(ranks: Float[Any, " n"], accuracy: Float[Any, " n"], k: int) -> float:
    """Returns the best accuracy minus the best accuracy among the k best-ranked candidates.

    Args:
        ranks: [n] ranks, lower is better; the index decides ties.
        accuracy: [n] true accuracies, finite.
        k: number of candidates one can afford to train.

    Raises:
        ValueError: if k is not between 1 and n.
    """
    ranks, accuracy = np.asarray(ranks), np.asarray(accuracy)
    if not 1 <= k <= len(ranks):
        raise ValueError(f"k={k}; allowed: 1 to {len(ranks)}")
    return float(accuracy.max() - accuracy[order(ranks)[:k]].max())

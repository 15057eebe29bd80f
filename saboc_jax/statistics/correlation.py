"""How well training-free scores order architectures by their true accuracy.

Correlations are computed on the raw values and keep their sign: a metric where lower is better
and which predicts accuracy well has a Kendall tau near -1. Non-finite scores count as the worst.
Each repeat of a score has its own weights and images. Intervals describe the variation over
architectures, standard deviations the variation over repeats.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saboc_jax.statistics import ranking, winners
from saboc_jax.types import Scorer

CorrelationRow = dict[str, Any]
TOP_K = (0.05,)  # the regret is computed for the best 5% of the architectures


class Candidate(NamedTuple):
    """Something that orders architectures.

    Attributes:
        values: [n, repeats].
        higher_is_better: the direction of the values.
        bad: number of architectures for which one of the combined metrics is not finite. None:
            count the architectures whose `values` are not finite.
    """

    values: Float[np.ndarray, "n repeats"]
    higher_is_better: bool
    bad: int | None = None


def statistics(
    name: str,
    values: Float[np.ndarray, "n repeats"],
    truth: Float[np.ndarray, " n"],
    higher_is_better: bool,
    bad: int | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    top_k: Sequence[float] = TOP_K,
) -> CorrelationRow:
    """Returns one row: tau and rho of the mean over repeats, their intervals, and the regret.

    The row also has the mean and the standard deviation of tau and rho over single repeats, and
    what a search would see of the order: nDCG, and tau among the truly best tenth (positive where
    the order is right), see `saboc_jax.statistics.winners`.

    Args:
        name: the name of the row.
        values: [n, repeats] of one metric.
        truth: [n] true accuracies.
        higher_is_better: the metric's direction.
        bad: see `Candidate`.
        resamples: bootstrap resamples of the architectures.
        seed: seed of the bootstrap.
        top_k: shares of the architectures that one can afford to train, for the regret.

    Raises:
        ValueError: if a share is not above 0 and at most 1.
    """
    directions = (higher_is_better, True)
    mean = values.mean(1)
    ranks = ranking.per_metric_ranks(mean[:, None], (higher_is_better,))[:, 0]
    row: CorrelationRow = {"score": name, "better": "higher" if higher_is_better else "lower"}
    for statistic, prefix in ((ranking.kendall, ""), (ranking.spearman, "rho ")):
        compare = partial(statistic, higher_is_better=directions)
        interval = ranking.bootstrap_interval(compare, mean, truth, seed, resamples=resamples)
        repeats = [compare(column, truth) for column in values.T]
        row |= {
            prefix.strip() or "tau": interval.estimate,
            f"{prefix}low": interval.low,
            f"{prefix}high": interval.high,
            f"{prefix or 'tau '}of one repeat": float(np.mean(repeats)),
            f"{prefix}sd": float(np.std(repeats, ddof=1)) if len(repeats) > 1 else float("nan"),
        }
    row["bad"] = int((~np.isfinite(mean)).sum()) if bad is None else bad
    for share in top_k:
        k = number_of(share, len(truth))
        row[f"regret@{100 * share:g}%"] = ranking.regret_at_k(ranks, truth, k)
    row["ndcg"] = winners.ndcg(ranks, truth)
    row["tau of best 10%"] = winners.tau_of_best(ranks, truth)
    return row


def winners_curve(
    each: Candidate,
    truth: Float[np.ndarray, " n"],
    sizes: Sequence[int] | None = None,
    **options: Any,
) -> list[winners.Winner]:
    """Returns the winner's curve of a candidate, see `winners.winners`."""
    mean = each.values.mean(1)[:, None]
    ranks = ranking.per_metric_ranks(mean, (each.higher_is_better,))[:, 0]
    return winners.winners(ranks, truth, sizes, **options)


CEILING = "another training"


def ceiling_rows(
    trainings: Float[np.ndarray, "n trainings"], **options: Any
) -> tuple[CorrelationRow, list[winners.Winner]]:
    """Returns the row and the winner's curve of what one training says of the others.

    Both are means over trainings; no score can be expected to do better.

    Args:
        trainings: [n, trainings] accuracies of every candidate, two trainings or more.
        **options: of `statistics`.

    Raises:
        ValueError: if there are fewer than two trainings.
    """
    pairs = [
        (Candidate(one[:, None], True), others)
        for one, others in zip(*(side.T for side in winners.ceiling(trainings)), strict=True)
    ]
    rows = [of_candidate(CEILING, each, others, **options) for each, others in pairs]
    numbers = [name for name, value in rows[0].items() if isinstance(value, float)]
    row = rows[0] | {name: float(np.mean([row[name] for row in rows])) for name in numbers}
    curves = [winners_curve(each, others) for each, others in pairs]
    points = [np.mean(same, 0).tolist() for same in zip(*curves, strict=True)]
    return row, [winners.Winner(int(m), *point) for m, *point in points]


def of_candidate(
    name: str, each: Candidate, truth: Float[np.ndarray, " n"], **options: Any
) -> CorrelationRow:
    """Returns `statistics` of a candidate."""
    return statistics(name, each.values, truth, each.higher_is_better, each.bad, **options)


def tau_within(
    each: Candidate,
    groups: Sequence[tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]],
) -> float:
    """Returns the unweighted mean over groups of Kendall's tau_b within each.

    Accuracies of different training recipes do not compare; within one they do.

    Args:
        each: what orders architectures, by its mean over repeats; ranks are those among all.
        groups: the architectures of each group, and their accuracies in it.
    """
    mean, directions = each.values.mean(1), (each.higher_is_better, True)
    return float(
        np.mean([ranking.kendall(mean[rows], truth, directions) for rows, truth in groups])
    )


def number_of(share: float, total: int) -> int:
    """Returns the number of architectures in a share, rounded down, at least one.

    Raises:
        ValueError: if the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"top_k={share}; allowed: above 0 and at most 1")
    return max(1, int(share * total + 1e-9))


def aggregated(
    scores: Float[np.ndarray, "n repeats k"], higher_is_better: Sequence[bool], how: str = "borda"
) -> Float[np.ndarray, "n repeats"]:
    """Combines the metrics into one rank, lower is better; ranks every repeat separately."""
    combine = ranking.AGGREGATIONS[how]
    return np.stack(
        [np.asarray(combine(each, higher_is_better)) for each in scores.swapaxes(0, 1)], 1
    )


def columns(scorer: Scorer) -> dict[str, tuple[Scorer, slice]]:
    """Maps the name of each part of a scorer to the part and the columns of its metrics."""
    found, start = {}, 0
    for part in scorer.parts or (scorer,):
        found[part.name] = part, slice(start, start + len(part.metrics))
        start += len(part.metrics)
    return found


def candidates(
    scorer: Scorer,
    scores: Float[np.ndarray, "n repeats k"],
    aggregations: Sequence[str] = ("borda",),
) -> dict[str, Candidate]:
    """Returns all candidates: metrics, aggregations, and Borda counts of NTK-score pairs.

    A scorer that brings an aggregation of its own has that one, under its own name.
    """
    found = {
        name: Candidate(scores[..., i], scorer.higher_is_better[i])
        for i, name in enumerate(scorer.metrics)
    }
    for name, (part, where) in columns(scorer).items():
        own = scores[..., where]
        if part.ranking:
            found[name] = _combined(own, part.higher_is_better, part.ranking)
            continue
        if len(part.metrics) == 1:
            continue
        if name.partition(":")[0] == "ntk_score":  # and its variants
            for pair in itertools.combinations(range(len(part.metrics)), 2):
                label = f"{name} borda {'&'.join(part.metrics[i] for i in pair)}"
                directions = [part.higher_is_better[i] for i in pair]
                found[label] = _combined(own[..., list(pair)], directions, "borda")
        for how in aggregations:
            found[f"{name} {how}"] = _combined(own, part.higher_is_better, how)
    for name, where in entries(scorer).items():
        for how in aggregations:
            own, up = scores[..., where], scorer.higher_is_better[where]
            found[f"{name} {how}"] = _combined(own, up, how)
    return found


def entries(scorer: Scorer) -> dict[str, slice]:
    """Maps the name of every entry of several scorers that vote together to its columns."""
    found, start = {}, 0
    for size in scorer.entries:
        where = slice(start, start := start + size)
        names = [name for name, (_, own) in columns(scorer).items() if where.start <= own.start]
        inside = [name for name in names if columns(scorer)[name][1].stop <= where.stop]
        if len(inside) > 1:
            found["+".join(inside)] = where
    return found


def _combined(
    scores: Float[np.ndarray, "n repeats k"], higher_is_better: Sequence[bool], how: str
) -> Candidate:
    bad = int((~np.isfinite(scores.mean(1))).any(1).sum())
    return Candidate(aggregated(scores, higher_is_better, how), False, bad)


def table(
    scorer: Scorer,
    scores: Float[np.ndarray, "n repeats k"],
    truth: Float[np.ndarray, " n"],
    *,
    aggregations: Sequence[str] = ("borda",),
    resamples: int = 1000,
    top_k: Sequence[float] = TOP_K,
) -> list[CorrelationRow]:
    """Returns a row for every metric and every aggregation, see `statistics`."""
    return [
        of_candidate(name, each, truth, resamples=resamples, top_k=top_k)
        for name, each in candidates(scorer, scores, aggregations).items()
    ]


def tau_matrix(
    found: Mapping[str, Candidate],
) -> tuple[list[str], Float[np.ndarray, "k k"]]:
    """Returns the names and Kendall tau of all pairs, oriented so that higher is better."""
    values = np.stack([each.values.mean(1) for each in found.values()], 1)
    directions = [each.higher_is_better for each in found.values()]
    signs = np.where(directions, 1.0, -1.0)
    return list(found), ranking.kendall_matrix(values, directions) * np.outer(signs, signs)


def differences(
    ours: Float[np.ndarray, " n"], exact: Float[np.ndarray, " n"], higher_is_better: bool
) -> CorrelationRow:
    """Compares values with exact ones: relative differences, and Kendall tau of the two orders.

    Args:
        ours: [n] values.
        exact: [n] reference values in float64.
        higher_is_better: the direction of both.
    """
    both = np.isfinite(ours) & np.isfinite(exact)
    gap = np.abs(ours - exact)[both] / np.maximum(np.abs(exact[both]), np.finfo(float).tiny)
    gap = gap if gap.size else np.array([np.nan])
    return {
        "median difference": float(np.median(gap)),
        "largest": float(np.max(gap)),
        "tau with float64": ranking.kendall(ours, exact, (higher_is_better,) * 2),
        "bad": int((~np.isfinite(ours)).sum()),
    }

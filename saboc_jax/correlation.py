"""How well training-free scores order architectures by their true accuracy.

Correlations are signed, of the raw values: a metric where lower is better and which predicts
accuracy well has a Kendall tau near -1. Non-finite scores count as the worst. Each repeat of a
score has its own weights and images; the interval is over architectures, the spread over repeats.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from saboc_jax import ranking
from saboc_jax.types import Scorer

Row = dict[str, Any]
TOP = 20  # regret is that of the best twentieth


def statistics(
    name: str,
    values: Float[np.ndarray, "n repeats"],
    truth: Float[np.ndarray, " n"],
    higher_is_better: bool,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Row:
    """One row: tau of the mean over repeats with its interval, of one repeat, rho, regret.

    Args:
        name: what the row is called.
        values: [n, repeats] of one metric.
        truth: [n] true accuracies.
        higher_is_better: the metric's direction.
        resamples: bootstrap resamples of the architectures.
        seed: of the bootstrap.
    """
    directions = (higher_is_better, True)
    mean = values.mean(1)

    def tau(x: np.ndarray, y: np.ndarray) -> float:
        return ranking.kendall(x, y, directions)

    interval = ranking.bootstrap_interval(tau, mean, truth, seed, resamples=resamples)
    repeats = [tau(values[:, repeat], truth) for repeat in range(values.shape[1])]
    ranks = ranking.per_metric_ranks(mean[:, None], (higher_is_better,))[:, 0]
    return {
        "score": name,
        "better": "higher" if higher_is_better else "lower",
        "tau": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "tau of one repeat": float(np.mean(repeats)),
        "sd": float(np.std(repeats, ddof=1)) if len(repeats) > 1 else float("nan"),
        "rho": ranking.spearman(mean, truth, directions),
        "bad": int((~np.isfinite(mean)).sum()),
        "regret@5%": ranking.regret_at_k(ranks, truth, max(1, len(truth) // TOP)),
    }


def aggregated(
    scores: Float[np.ndarray, "n repeats k"], higher_is_better: Sequence[bool], how: str = "borda"
) -> Float[np.ndarray, "n repeats"]:
    """Metrics as one rank, lower is better; every repeat is ranked by itself."""
    combine = ranking.AGGREGATIONS[how]
    return np.stack(
        [np.asarray(combine(each, higher_is_better)) for each in scores.swapaxes(0, 1)], 1
    )


def columns(scorer: Scorer) -> dict[str, tuple[Scorer, slice]]:
    """Where the metrics of every part of a scorer stand, by the part's name."""
    found, start = {}, 0
    for part in scorer.parts or (scorer,):
        found[part.name] = part, slice(start, start + len(part.metrics))
        start += len(part.metrics)
    return found


def candidates(
    scorer: Scorer,
    scores: Float[np.ndarray, "n repeats k"],
    aggregations: Sequence[str] = ("borda",),
) -> dict[str, tuple[Float[np.ndarray, "n repeats"], bool]]:
    """Everything that orders architectures: metrics, aggregations, and Borda of NTK-score pairs.

    Returns:
        {name: (values [n, repeats], is higher better?)}.
    """
    found: dict[str, tuple[np.ndarray, bool]] = {
        name: (scores[..., i], scorer.higher_is_better[i]) for i, name in enumerate(scorer.metrics)
    }
    for name, (part, where) in columns(scorer).items():
        own = scores[..., where]
        if len(part.metrics) == 1:
            continue
        if name == "ntk_score":
            for pair in itertools.combinations(range(len(part.metrics)), 2):
                label = f"{name} borda {'&'.join(part.metrics[i] for i in pair)}"
                directions = [part.higher_is_better[i] for i in pair]
                found[label] = aggregated(own[..., list(pair)], directions), False
        for how in aggregations:
            found[f"{name} {how}"] = aggregated(own, part.higher_is_better, how), False
    return found


def table(
    scorer: Scorer,
    scores: Float[np.ndarray, "n repeats k"],
    truth: Float[np.ndarray, " n"],
    *,
    aggregations: Sequence[str] = ("borda",),
    resamples: int = 1000,
) -> list[Row]:
    """A row for every metric and every aggregation, see `statistics`."""
    return [
        statistics(name, values, truth, higher, resamples=resamples)
        for name, (values, higher) in candidates(scorer, scores, aggregations).items()
    ]


def tau_matrix(
    found: Mapping[str, tuple[Float[np.ndarray, "n repeats"], bool]],
) -> tuple[list[str], Float[np.ndarray, "k k"]]:
    """Kendall tau between all scores, each oriented so that higher is better."""
    values = np.stack([v.mean(1) for v, _ in found.values()], 1)
    directions = [higher for _, higher in found.values()]
    signs = np.where(directions, 1.0, -1.0)
    return list(found), ranking.kendall_matrix(values, directions) * np.outer(signs, signs)

"""Results of `saboc_jax.api.functions`: plain records that print."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from saboc_jax.searching.result import SearchResult
from saboc_jax.statistics.ranking import standard_error
from saboc_jax.types import Architecture, Cost, SearchSpace


@dataclass(frozen=True)
class Score:
    """The scores of one architecture.

    Attributes:
        name: the architecture, in the space's own text.
        metrics: names of the columns of `values`.
        higher_is_better: the direction of each metric.
        values: [repeats, metrics]; NaN in every metric of a repeat that is bad.
        flag: "disconnected" or "non_finite" if a repeat is bad; None: all are good.
        cost: parameters, multiply-accumulates, depth.
        diagnostics: diagnostics of the first repeat, e.g. the eigenvalues of the kernel.
    """

    name: str
    metrics: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    values: Float[np.ndarray, "repeats k"]
    flag: str | None
    cost: Cost
    diagnostics: Mapping[str, Any]

    def mean(self) -> dict[str, float]:
        """Returns the mean of each metric over repeats."""
        return dict(zip(self.metrics, self.values.mean(0).tolist(), strict=True))

    def standard_error(self) -> dict[str, float]:
        """Returns the standard error of each mean; NaN for one repeat.

        Differences within it are noise.
        """
        return dict(zip(self.metrics, standard_error(self.values).tolist(), strict=True))

    def __str__(self) -> str:
        errors = self.standard_error()
        lines = [
            f"{metric} {value:.4g} ± {errors[metric]:.2g} ({'higher' if up else 'lower'} is better)"
            for (metric, value), up in zip(self.mean().items(), self.higher_is_better, strict=True)
        ]
        return "\n".join(lines + ([f"bad: {self.flag}"] if self.flag else []))


@dataclass(frozen=True)
class Ranked:
    """Several architectures in order.

    Attributes:
        scores: scores of each architecture, in the order given.
        ranking: how their metrics became one rank.
        ranks: [n] the aggregated ranks, lower is better. They belong to this set: a sum of ranks
            says nothing about an architecture outside it.
        order: [n] indices, the best first; ties fall as
            `saboc_jax.statistics.ranking.best_first` says.
    """

    scores: tuple[Score, ...]
    ranking: str
    ranks: Float[np.ndarray, " n"]
    order: Int[np.ndarray, " n"]

    @property
    def names(self) -> list[str]:
        """The names, the best first."""
        return [self.scores[i].name for i in self.order]

    def __str__(self) -> str:
        head = (self.ranking, "candidate", "parameters", *self.scores[0].metrics, "")
        rows = [head]
        for i in self.order:
            score = self.scores[i]
            values = (f"{value:.4g}" for value in score.mean().values())
            bad = f"bad: {score.flag}" if score.flag else ""
            rows.append((f"{self.ranks[i]:g}", score.name, str(score.cost.params), *values, bad))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        space: the space that was searched.
        arch: [decisions] the architecture.
        score: its scores.
        search: history, rejected candidates, and the limit that stopped it, if one did.
    """

    space: SearchSpace
    arch: Architecture
    score: Score
    search: SearchResult

    def module(self) -> nn.Module:
        """The plain Flax module of the architecture, to train."""
        return self.space.specialise(self.arch)

    def __str__(self) -> str:
        return f"{self.score.name}, {self.score.cost.params} parameters\n{self.score}"

"""The result and the history of a search."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from saboc_jax.statistics.ranking import standard_error
from saboc_jax.types import Architecture

Step = tuple[np.ndarray, np.ndarray]
"""Masks [b, d, o] and scores [b, repeats, k] of one step; rejected candidates are NaN."""


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        arch: the architecture found.
        scores: [repeats, k] its metrics.
        diagnostics: diagnostics of its first repeat.
        history: every finished step.
        rejected: number of candidates over budget.
        stopped: the limit that stopped the search early, or "stop" for the evaluator's own signal;
            None: the search ran to its end.
    """

    arch: Architecture
    scores: Float[np.ndarray, "repeats k"]
    diagnostics: dict[str, Any]
    history: list[Step]
    rejected: int = 0
    stopped: str | None = None

    def mean(self) -> Float[np.ndarray, " k"]:
        """Returns the mean of each metric over repeats."""
        return self.scores.mean(0)

    def standard_error(self) -> Float[np.ndarray, " k"]:
        """Returns the standard error of the mean; NaN for one repeat."""
        return standard_error(self.scores)


def evaluations(history: list[Step]) -> int:
    """Returns the number of candidates in a history, including rejected ones."""
    return sum(len(masks) for masks, _ in history)

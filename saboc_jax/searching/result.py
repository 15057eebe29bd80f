"""What a search gives: its result and its history."""

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
    """What a search found.

    Attributes:
        arch: the architecture.
        scores: [repeats, k] its metrics.
        diagnostics: of its first repeat.
        history: of every step that was finished.
        rejected: candidates over budget.
        stopped: what ended the search before its own end: a limit, or "stop", the evaluator's own
            signal; None: nothing did.
    """

    arch: Architecture
    scores: Float[np.ndarray, "repeats k"]
    diagnostics: dict[str, Any]
    history: list[Step]
    rejected: int = 0
    stopped: str | None = None

    def mean(self) -> Float[np.ndarray, " k"]:
        """Mean of each metric over repeats."""
        return self.scores.mean(0)

    def standard_error(self) -> Float[np.ndarray, " k"]:
        """Standard error of that mean; NaN for one repeat."""
        return standard_error(self.scores)


def evaluations(history: list[Step]) -> int:
    """How many candidates a history holds, rejected ones included."""
    return sum(len(masks) for masks, _ in history)

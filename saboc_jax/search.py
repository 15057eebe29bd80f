"""Runs a searcher over a space with a scorer, and says what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from saboc_jax.evaluate import Evaluator
from saboc_jax.spaces.base import architecture_to_mask
from saboc_jax.types import Architecture, PRNGKey, Searcher


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        arch: the architecture.
        scores: [repeats, k] its metrics.
        diagnostics: of its first repeat.
        history: [(masks [b, d, o], scores [b, repeats, k])] of every step.
    """

    arch: Architecture
    scores: Float[np.ndarray, "repeats k"]
    diagnostics: dict[str, Any]
    history: list[tuple[np.ndarray, np.ndarray]]

    def mean(self) -> Float[np.ndarray, " k"]:
        """Mean of each metric over repeats."""
        return self.scores.mean(0)

    def standard_error(self) -> Float[np.ndarray, " k"]:
        """Standard error of that mean; NaN for one repeat."""
        repeats = len(self.scores)
        if repeats == 1:
            return np.full(self.scores.shape[1], np.nan)
        return self.scores.std(0, ddof=1) / np.sqrt(repeats)


def run_search(
    searcher: Searcher,
    evaluator: Evaluator,
    key: PRNGKey,
    on_step: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Asks, evaluates and tells until the searcher is done.

    Deterministic in the key and the scores, so a run whose scores are in a store is resumed
    by running it again.

    Args:
        searcher: any searcher over the evaluator's space.
        evaluator: scores the candidates.
        key: seeds the searcher; consumed.
        on_step: called as `on_step(step, candidates)` before a step is evaluated.
    """
    state = searcher.init(jax.random.fold_in(key, 0))
    history: list[tuple[np.ndarray, np.ndarray]] = []
    while not searcher.done(state):
        asked, state = searcher.ask(jax.random.fold_in(key, len(history) + 1), state)
        masks = np.asarray(asked, bool)
        if on_step:
            on_step(len(history), len(masks))
        scores = evaluator.evaluate(masks)
        state = searcher.tell(state, asked, scores)
        history.append((masks, scores))
    arch = np.asarray(searcher.best(state))
    mask = architecture_to_mask(arch, max(evaluator.space.choices))
    repeats = [evaluator.score(mask, repeat) for repeat in range(len(evaluator.keys))]
    return SearchResult(arch, np.stack([s for s, _ in repeats]), repeats[0][1], history)

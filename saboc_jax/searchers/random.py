"""Random search: draws uniform, independent architectures and returns the best of them."""

from collections.abc import Sequence
from functools import partial

from saboc_jax.searchers.history import best_in_history, history_searcher
from saboc_jax.spaces.masks import sample_architectures
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import Ranking, Searcher


def random(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    max_evaluations: int = 1000,
    batch: int = 64,
    ranking: Ranking = ranks.borda,
) -> Searcher:
    """Random search, the baseline for other methods at the same number of evaluations.

    Architectures may repeat, and a repeat counts as an evaluation.

    Args:
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        max_evaluations: architectures to score.
        batch: architectures per `ask`; does not change what the search can find.
        ranking: combines the metrics into one rank; the best of all scored ones is returned.
    """
    return history_searcher(
        "random",
        choices,
        higher_is_better,
        max_evaluations,
        init=lambda key: (),
        plan=lambda state: ("draw", batch),
        proposals={"draw": lambda key, state, n: sample_architectures(key, choices, n)},
        best=partial(best_in_history, higher_is_better=higher_is_better, ranking=ranking),
    )

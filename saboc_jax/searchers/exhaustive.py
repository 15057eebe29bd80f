"""Exhaustive search: every architecture of a space, in order from a random one."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from saboc_jax.searchers.history import SearchState, best_in_history, history_searcher
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import PRNGKey, Ranking, Searcher

_LARGEST = 2**31 - 1


def architecture_at(index: Int[Array, " n"], choices: Sequence[int]) -> Int[Array, "n decisions"]:
    """Returns the architectures at given indices; the last decision changes fastest."""
    # strides[d]: how many architectures in a row have the same option of decision d.
    strides = np.cumprod((1, *choices[:0:-1]))[::-1]
    return (index[:, None] // jnp.asarray(strides)) % jnp.asarray(choices)


def exhaustive(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    max_evaluations: int | None = None,
    batch: int = 256,
    ranking: Ranking = ranks.borda,
) -> Searcher:
    """Scores all architectures once: NAS-Bench-201 has 15,625.

    It begins at a random one, because the first ones are alike: where a limit ends the search
    early, cells of nothing but the first option would be all that it has seen.

    Args:
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        max_evaluations: stop after so many; None: score all.
        batch: architectures per `ask`.
        ranking: combines the metrics into one rank; the best of all scored ones is returned.

    Raises:
        ValueError: if the space has 2**31 architectures or more.
    """
    size = math.prod(choices)
    if size > _LARGEST:
        raise ValueError(f"the space has {size} architectures; allowed: at most {_LARGEST}")

    def propose(key: PRNGKey, state: SearchState, n: int) -> Int[Array, "n decisions"]:
        place = state.history.evaluations + jnp.arange(n)
        left = size - state.inner  # places from the first to the end of the space
        # Their sum may be beyond int32.
        index = jnp.where(place < left, state.inner + place, place - left)
        return architecture_at(index, choices)

    return history_searcher(
        "exhaustive",
        choices,
        higher_is_better,
        size if max_evaluations is None else min(max_evaluations, size),
        init=lambda key: jax.random.randint(key, (), 0, size),
        plan=lambda state: ("next", batch),
        proposals={"next": propose},
        best=partial(best_in_history, higher_is_better=higher_is_better, ranking=ranking),
    )

"""Searches that trade the scores for a cost: the costs told to the searcher, the Pareto front."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saboc_jax.searching.measured import CostTable, check_cost, costs_of
from saboc_jax.searching.result import Step
from saboc_jax.searching.trajectory import Costs
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import Ranking, Scorer, SearchSpace


class Front(NamedTuple):
    """All distinct architectures of a search with a finite score, and the Pareto front.

    Attributes:
        archs: [n, decisions].
        scores: [n, k] means over repeats.
        costs: [n].
        ranks: [n] ranks by the scores, among these architectures; lower is better.
        on_front: [n] True if no other architecture is both cheaper and better.
    """

    archs: Int[np.ndarray, "n decisions"]
    scores: Float[np.ndarray, "n k"]
    costs: Float[np.ndarray, " n"]
    ranks: Float[np.ndarray, " n"]
    on_front: Bool[np.ndarray, " n"]

    def in_order(self) -> Int[np.ndarray, " m"]:
        """Returns the rows of the architectures on the front, the cheapest first."""
        rows = np.flatnonzero(self.on_front)
        return rows[np.argsort(self.costs[rows])]


def costs_told(
    space: SearchSpace, quantity: str | None, table: CostTable | None = None
) -> Costs | None:
    """Returns the costs that a searcher is told after the scores; None: there are none.

    Args:
        space: the space that is searched.
        quantity: the cost, a field of `Cost` or a column of the table; None: none.
        table: of measured costs.

    Raises:
        ValueError: if there is no such cost.
    """
    if quantity is None:
        return None
    check_cost(quantity, table)
    return lambda masks: costs_of(space, quantity, masks.argmax(-1), table)[:, None]


def pareto(
    space: SearchSpace,
    scorer: Scorer,
    history: list[Step],
    quantity: str,
    ranking: Ranking = ranks.borda,
    table: CostTable | None = None,
) -> Front:
    """Returns the Pareto front between the rank by the scores and a cost.

    Args:
        space: the space that was searched.
        scorer: the scorer of the history's scores.
        history: history from `run_search`, over architectures.
        quantity: the cost, a field of `Cost` or a column of the table.
        ranking: how the metrics become one rank.
        table: of measured costs; architectures that it does not know are left out.
    """
    masks = np.concatenate([masks for masks, _ in history])
    scores = np.concatenate([scores for _, scores in history]).mean(1)
    archs, rows = np.unique(masks.argmax(-1), axis=0, return_index=True)
    finite = np.isfinite(scores[rows]).any(1)
    archs, scores = archs[finite], scores[rows][finite]
    costs = costs_of(space, quantity, archs, table)
    known = ~np.isnan(costs)
    archs, scores, costs = archs[known], scores[known], costs[known]
    votes = scorer.votes
    rank = np.asarray(ranking(scores[:, :votes], scorer.higher_is_better[:votes]))
    on_front = ranks.pareto_front(np.stack([rank, costs], 1), (False, False))
    return Front(archs, scores, costs, rank, on_front)

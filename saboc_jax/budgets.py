"""Budgets: which architectures are too expensive to be scored at all.

An architecture is within a budget if none of its costs is above its limit. A supernet is
within it if its cheapest member is, so pruning may not remove the last affordable option:

    cheapest(mask)_d = the active option of decision d that costs least by itself,

by parameters, then multiply-accumulates, then depth, with every other decision at its first
option. Where an option that is cheaper by one cost is not dearer by another, as in
NAS-Bench-201, this member is the cheapest by every cost at once. In a space where that fails,
a supernet can be rejected though a member fits, and an architecture that is too expensive is
still never returned, for single architectures are judged by their own costs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from saboc_jax.types import Cost, SearchSpace

Allows = Callable[[Bool[np.ndarray, "decisions options"]], bool]
"""Is a mask within the budget?"""


class Budget(NamedTuple):
    """Upper limits on the costs of an architecture; None: no limit.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates for one image.
        depth: convolutions and dense layers on the longest path.
    """

    params: int | None = None
    macs: int | None = None
    depth: int | None = None

    def exceeded_by(self, cost: Cost) -> list[str]:
        """What is too expensive, in words; empty: nothing."""
        return [
            f"{name} {value} > {limit}"
            for name, value, limit in zip(cost._fields, cost, self, strict=True)
            if limit is not None and value > limit
        ]


def option_order(space: SearchSpace) -> Int[np.ndarray, "decisions options"]:
    """Place of every option among those of its decision, the cheapest 0."""
    order = np.full((len(space.choices), max(space.choices)), max(space.choices))
    for decision, number in enumerate(space.choices):
        costs = []
        for option in range(number):
            arch = np.zeros(len(space.choices), np.int32)
            arch[decision] = option
            costs.append((tuple(space.cost(arch)), option))
        for place, (_, option) in enumerate(sorted(costs)):
            order[decision, option] = place
    return order


def budget_check(space: SearchSpace, budget: Budget) -> Allows:
    """Tells of a mask whether it is within the budget.

    Raises:
        ValueError: if the cheapest architecture of the space is not.
    """
    order = option_order(space)

    def cheapest(mask: Any) -> Int[np.ndarray, " decisions"]:
        return np.where(mask, order, order.max() + 1).argmin(1).astype(np.int32)

    everything = np.arange(max(space.choices)) < np.asarray(space.choices)[:, None]
    if exceeded := budget.exceeded_by(space.cost(cheapest(everything))):
        raise ValueError(
            f"the cheapest architecture of {space.name} exceeds the budget: "
            f"{', '.join(exceeded)}; allowed: larger limits"
        )
    return lambda mask: not budget.exceeded_by(space.cost(cheapest(np.asarray(mask, bool))))

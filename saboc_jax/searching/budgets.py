"""Budgets: which architectures are too expensive to score.

An architecture is within a budget if none of its costs is above its limit. A supernet is
within it if its cheapest member is, so pruning may not remove the last affordable option:

    cheapest(mask)_d = the active option of decision d that costs least by itself,

by parameters, then multiply-accumulates, then depth, with every other decision at its first
option. If options that are cheaper by one cost are never dearer by another, as in NAS-Bench-201,
this member is the cheapest by every cost at once. If decisions depend on each other, as
operations and inputs do in DARTS, the space itself names its cheapest members, one for each
limited cost; a supernet is within the budget if any of them is. So a supernet may be rejected
although a member fits. An architecture that is too expensive is still never returned, because
single architectures are judged by their own costs.

Latency is measured, not computed: for an architecture, and for the cheapest member of a supernet,
which need not be the fastest. It is measured only if the other limits are met.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from saboc_jax.types import Architecture, Cost, SearchSpace

Allows = Callable[[Bool[np.ndarray, "decisions options"]], bool]
"""Returns whether a mask is within the budget."""


class Budget(NamedTuple):
    """Upper limits on the costs of an architecture; None: no limit.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates for one image.
        depth: convolutions and dense layers on the longest path.
        latency_ms: measured milliseconds, see `saboc_jax.scorers.latency`.
    """

    params: int | None = None
    macs: int | None = None
    depth: int | None = None
    latency_ms: float | None = None

    def exceeded_by(self, cost: Cost, latency_ms: float | None = None) -> list[str]:
        """Returns the exceeded limits, in words; empty: none."""
        values = (*cost, float("nan") if latency_ms is None else latency_ms)
        return [
            f"{name} {value:.12g} > {limit}"
            for name, value, limit in zip(self._fields, values, self, strict=True)
            if limit is not None and value > limit
        ]


def option_order(space: SearchSpace) -> Int[np.ndarray, "decisions options"]:
    """Returns the place of every option by cost within its decision; the cheapest is 0."""
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


def budget_check(
    space: SearchSpace, budget: Budget, latency: Callable[[Architecture], float] | None = None
) -> Allows:
    """Returns a function that says whether a mask is within the budget.

    Args:
        space: the search space; its costs are limited.
        budget: the limits.
        latency: milliseconds of an architecture; needed if latency is limited.

    Raises:
        ValueError: if the cheapest architecture of the space is not within the budget, or
            latency is limited and `latency` is None.
    """
    if budget.latency_ms is not None and latency is None:
        raise ValueError(f"latency_ms={budget.latency_ms} without `latency`; allowed: with it")
    members = _cheapest_members(space, budget)
    everything = np.arange(max(space.choices)) < np.asarray(space.choices)[:, None]

    def over(arch: Architecture) -> list[str]:
        cost = space.cost(arch)
        known = budget.exceeded_by(cost)
        if known or latency is None or budget.latency_ms is None:
            return known
        return budget.exceeded_by(cost, latency(arch))

    def exceeded(mask: Any) -> list[list[str]]:
        """Returns the exceeded limits of each of the cheapest members."""
        return [over(arch) for arch in members(np.asarray(mask, bool))]

    if all(excesses := exceeded(everything)):
        raise ValueError(
            f"the cheapest architecture of {space.name} exceeds the budget: "
            f"{', '.join(excesses[0])}; allowed: larger limits"
        )
    return lambda mask: not all(exceeded(mask))


def _cheapest_members(
    space: SearchSpace, budget: Budget
) -> Callable[[Bool[np.ndarray, "decisions options"]], list[Architecture]]:
    """Returns a function from a mask to the members that decide whether it is in the budget."""
    of_space = space.costs.cheapest
    if of_space is not None:
        limited = [name for name in Cost._fields if getattr(budget, name) is not None]
        return lambda mask: [of_space(mask, name) for name in limited or ["macs"]]
    order = option_order(space)
    return lambda mask: [np.where(mask, order, order.max() + 1).argmin(1).astype(np.int32)]

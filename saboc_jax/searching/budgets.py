"""Budgets: which architectures are too expensive to score.

An architecture is within a budget if none of its costs is above its limit. A supernet is
within it if a member is, so pruning may not remove the last affordable option. In a space of few
architectures every member is asked. In a larger one those are asked that are cheapest by one of the
limited costs (all costs, if latency is limited):

    cheapest(mask)_d = the active option of decision d that costs least by itself,

with every other decision at its first option; ties fall by parameters, multiply-accumulates, depth.
If options that are cheaper by one cost are never dearer by another, as in NAS-Bench-201, this
member is the cheapest by every cost at once. If decisions depend on each other, as operations and
inputs do in DARTS, the space itself names its cheapest members. So a supernet of a large space may
be rejected although a member fits. An architecture that is too expensive is still never returned,
because single architectures are judged by their own costs.

Latency is measured, not computed: of the members that are asked, if the other limits are met. In
a large space they need not be the fastest.

Costs of a table (`saboc_jax.searching.measured`) are known of some architectures; a supernet is
within their limits if it holds one of these that is within all limits at once.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from saboc_jax.searching.measured import (
    CostTable,
    check_cost,
    check_limit,
    is_formula,
    measured_check,
    measured_excess,
)
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
        costs: limits by name, of costs of a table and of the costs above.
    """

    params: int | None = None
    macs: int | None = None
    depth: int | None = None
    latency_ms: float | None = None
    costs: Mapping[str, float] | None = None

    def merged(self) -> "Budget":
        """Returns the budget with limits on the space's own costs in their fields.

        Raises:
            ValueError: if a limit is no number, or stands twice.
        """
        given = {name: check_limit(name, limit) for name, limit in (self.costs or {}).items()}
        own: dict[str, Any] = {name: limit for name, limit in given.items() if is_formula(name)}
        twice = sorted(name for name in own if getattr(self, name) is not None)
        if twice:
            raise ValueError(f"limits on {', '.join(twice)} stand twice; allowed: once")
        for name in self._fields[:-1]:
            if getattr(self, name) is not None:
                check_limit(name, getattr(self, name))
        others = {name: limit for name, limit in given.items() if name not in own}
        return self._replace(costs=others or None, **own)

    def exceeded_by(self, cost: Cost, latency_ms: float | None = None) -> list[str]:
        """Returns the exceeded limits, in words; empty: none."""
        values = (*cost, float("nan") if latency_ms is None else latency_ms)
        return [
            f"{name} {value:.12g} > {limit}"
            for name, value, limit in zip(self._fields[:-1], values, self[:-1], strict=True)
            if limit is not None and value > limit
        ]


SHOWN = 8  # architectures whose excess a message names
FEW = 64  # architectures of a space that are all asked for their costs


def option_order(
    space: SearchSpace, quantity: str = "params"
) -> Int[np.ndarray, "decisions options"]:
    """Returns the place of every option by a cost within its decision; the cheapest is 0."""
    order = np.full((len(space.choices), max(space.choices)), max(space.choices))
    for decision, number in enumerate(space.choices):
        costs = []
        for option in range(number):
            arch = np.zeros(len(space.choices), np.int32)
            arch[decision] = option
            cost = space.cost(arch)
            costs.append((getattr(cost, quantity), tuple(cost), option))
        for place, (*_, option) in enumerate(sorted(costs)):
            order[decision, option] = place
    return order


def excess_of(
    space: SearchSpace,
    budget: Budget,
    latency: Callable[[Architecture], float] | None = None,
    table: CostTable | None = None,
) -> Callable[[Architecture], list[str]]:
    """Returns a function from an architecture to the limits that it exceeds, in words.

    Args:
        space: the search space; its costs are limited.
        budget: the limits.
        latency: milliseconds of an architecture; needed if latency is limited, and measured of
            what the other limits allow.
        table: of the costs that the space does not compute; needed if they are limited.

    Raises:
        ValueError: if latency is limited and `latency` is None, or a limit is no number or of no
            known cost.
    """
    budget = budget.merged()
    for name in budget.costs or {}:
        check_cost(name, table)
    if budget.latency_ms is not None and latency is None:
        raise ValueError(f"latency_ms={budget.latency_ms} without `latency`; allowed: with it")

    def over(arch: Architecture) -> list[str]:
        cost = space.cost(arch)
        known = budget.exceeded_by(cost) + measured_excess(budget.costs or {}, arch, table)
        if known or latency is None or budget.latency_ms is None:
            return known
        return budget.exceeded_by(cost, latency(arch))

    return over


def budget_check(
    space: SearchSpace,
    budget: Budget,
    latency: Callable[[Architecture], float] | None = None,
    table: CostTable | None = None,
) -> Allows:
    """Returns a function that says whether a mask is within the budget.

    Args:
        space: the search space; its costs are limited.
        budget: the limits.
        latency: see `excess_of`.
        table: see `excess_of`.

    Raises:
        ValueError: if no architecture that is asked is within the budget; see also `excess_of`.
    """
    budget = budget.merged()
    if budget.costs:
        alone = budget._replace(costs=None, latency_ms=None)
        known = measured_check(space, budget.costs, excess_of(space, alone), table)
        if budget.latency_ms is None:
            return known
        others = budget_check(space, budget._replace(costs=None), latency)
        return lambda mask: known(mask) and others(mask)
    over = excess_of(space, budget, latency)
    members = _asked_members(space, budget)
    everything = np.arange(max(space.choices)) < np.asarray(space.choices)[:, None]
    excesses: list[list[str]] = []
    for arch in members(everything):
        excesses.append(over(arch))
        if not excesses[-1]:
            return lambda mask: any(not over(arch) for arch in members(np.asarray(mask, bool)))
    few = len(excesses) > 1 and _are_few(space)
    who = f"every architecture of {space.name}" if few else f"the cheapest of {space.name}"
    raise ValueError(
        f"{who} exceeds the budget: {'; '.join(', '.join(each) for each in excesses[:SHOWN])}"
        f"{'; ...' if len(excesses) > SHOWN else ''}; allowed: larger limits"
    )


def _are_few(space: SearchSpace) -> bool:
    return math.prod(space.choices) <= FEW


def _asked_members(
    space: SearchSpace, budget: Budget
) -> Callable[[Bool[np.ndarray, "decisions options"]], list[Architecture]]:
    """Returns a function from a mask to the members that decide whether it is in the budget."""
    if _are_few(space):
        return lambda mask: [
            np.array(options, np.int32)
            for options in itertools.product(*(np.flatnonzero(row) for row in mask))
        ]
    limited = [name for name in Cost._fields if getattr(budget, name) is not None]
    of_space = space.costs.cheapest
    if of_space is not None:
        return lambda mask: [of_space(mask, name) for name in limited or ["macs"]]
    asked = list(Cost._fields) if budget.latency_ms is not None else limited
    orders = [option_order(space, name) for name in asked]

    def cheapest(mask: Bool[np.ndarray, "decisions options"]) -> list[Architecture]:
        found = [np.where(mask, each, each.max() + 1).argmin(1) for each in orders]
        return list(np.unique(np.stack(found), axis=0).astype(np.int32))

    return cheapest

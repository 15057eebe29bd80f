"""A population of fixed capacity, as arrays, and the rules that remove members."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import PRNGKey, Ranking

Removal = Literal["distinct", "set"]
_NEVER = np.iinfo(np.int32).max


class Population(NamedTuple):
    """Members in slots; a free slot has NaN scores and a meaningless architecture.

    Attributes:
        architectures: [slots, decisions].
        scores: [slots, k].
        born: [slots] number of members that entered before; the smallest marks the oldest.
        alive: [slots] which slots hold members.
        entered: [] number of members that have entered so far.
    """

    architectures: Int[Array, "slots decisions"]
    scores: Float[Array, "slots k"]
    born: Int[Array, " slots"]
    alive: Bool[Array, " slots"]
    entered: Int[Array, ""]


def empty(slots: int, decisions: int, metrics: int) -> Population:
    """Returns a population without members."""
    return Population(
        jnp.zeros((slots, decisions), jnp.int32),
        jnp.full((slots, metrics), jnp.nan, float),
        jnp.zeros(slots, jnp.int32),
        jnp.zeros(slots, bool),
        jnp.zeros((), jnp.int32),
    )


def members(population: Population) -> tuple[Int[np.ndarray, "n d"], Float[np.ndarray, "n k"]]:
    """Returns architectures and scores of the members, oldest first, on the host."""
    slots = np.flatnonzero(population.alive)
    slots = slots[np.argsort(np.asarray(population.born)[slots])]
    return np.asarray(population.architectures)[slots], np.asarray(population.scores)[slots]


def contains(population: Population, architecture: Int[Array, " decisions"]) -> Bool[Array, ""]:
    """Returns whether the architecture is a member."""
    return ((population.architectures == architecture).all(axis=1) & population.alive).any()


def add(
    population: Population, architecture: Int[Array, " decisions"], scores: Float[Array, " k"]
) -> Population:
    """Adds a member in a free slot, or replaces the oldest member if no slot is free."""
    slot = jnp.argmin(jnp.where(population.alive, population.born, -1))
    return Population(
        population.architectures.at[slot].set(architecture.astype(jnp.int32)),
        population.scores.at[slot].set(scores.astype(population.scores.dtype)),
        population.born.at[slot].set(population.entered),
        population.alive.at[slot].set(True),
        population.entered + 1,
    )


def _worst(
    population: Population, costs: Float[Array, " slots"], eligible: Bool[Array, " slots"]
) -> Bool[Array, " slots"]:
    """Marks the eligible member with the largest cost, the oldest of several; else no slot."""
    costs = jnp.where(eligible, costs, -jnp.inf)
    tied = eligible & (costs == costs.max())
    slot = jnp.argmin(jnp.where(tied, population.born, _NEVER))
    return eligible & (jnp.arange(len(costs)) == slot)


def remove_worst(
    population: Population,
    higher_is_better: Sequence[bool],
    *,
    removal: Removal,
    protected: Bool[Array, " slots"] | None = None,
) -> Population:
    """Removes the worst member by each metric (decision D17).

    Args:
        population: must have more members than metrics.
        higher_is_better: the direction of each metric; a non-finite value is the worst.
        removal: "distinct": remove the worst by the first metric, then the worst remaining by the
            second, and so on: as many members as metrics. "set": remove the worst by each metric
            among all members; a member that is worst by several metrics is removed once.
        protected: [slots] members that stay; the next worst is removed instead.
    """
    costs = population.scores * np.where(np.asarray(higher_is_better, dtype=bool), -1, 1)
    costs = jnp.where(jnp.isfinite(costs), costs, jnp.inf)
    stays = jnp.zeros_like(population.alive) if protected is None else protected
    leaving = jnp.zeros_like(population.alive)
    for metric in range(len(higher_is_better)):
        eligible = population.alive & ~stays
        if removal == "distinct":
            eligible &= ~leaving
        leaving |= _worst(population, costs[:, metric], eligible)
    return population._replace(
        alive=population.alive & ~leaving,
        scores=jnp.where(leaving[:, None], jnp.nan, population.scores),
    )


def best_slot(
    population: Population, higher_is_better: Sequence[bool], ranking: Ranking
) -> Bool[Array, " slots"]:
    """Returns a mask of the best member of a full population."""
    slots = jnp.arange(len(population.alive))
    return slots == ranks.best_first(population.scores, higher_is_better, ranking=ranking)[0]


def random_member(key: PRNGKey, population: Population) -> Int[Array, " decisions"]:
    """Draws a member uniformly. `key`: consumed."""
    slot = jax.random.categorical(key, jnp.where(population.alive, 0.0, -jnp.inf))
    return population.architectures[slot]


def tournament(
    key: PRNGKey,
    population: Population,
    size: int,
    higher_is_better: Sequence[bool],
    ranking: Ranking,
) -> Int[Array, " decisions"]:
    """Draws `size` members without replacement and returns the best. `key`: consumed."""
    noise = jax.random.gumbel(key, population.alive.shape)
    _, slots = jax.lax.top_k(jnp.where(population.alive, noise, -jnp.inf), size)
    order: Any = ranks.best_first(population.scores[slots], higher_is_better, ranking=ranking)
    return population.architectures[slots[order[0]]]

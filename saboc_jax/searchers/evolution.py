"""Evolution: mutate a member, score the child, remove members.

`evolution` is the loop of Zen-NAS with SABoC-NAS's removal: a parent is drawn uniformly, and
whenever the population exceeds its size, the worst member by each metric is removed, three
members for the three metrics of the NTK-score. `aging_evolution` is regularised evolution: the
parent is the best of a tournament, and the oldest member is removed.

Both return the best member, by rank, of the last population.

A child without any finite metric (dead, or rejected by a budget) counts as an evaluation and
does not become a member.

References:
    Zen-NAS (Lin et al., ICCV 2021); SABoC-NAS, Section 5.4.3 and decision D17.
    Regularised evolution (Real et al., AAAI 2019) as run by TEG-NAS.

Deviation: Zen-NAS and TEG-NAS may hold an architecture several times; with `unique`, here the
default for `evolution`, a child equal to a member does not enter.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.searchers import base
from saboc_jax.searchers import population as populations
from saboc_jax.searchers.history import SearchState, best_of, history_searcher
from saboc_jax.searchers.population import Population, Removal
from saboc_jax.spaces.masks import sample_architectures
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import Architecture, PRNGKey, Ranking, Searcher

Mutate = Callable[[PRNGKey, Int[Array, " decisions"]], Int[Array, " decisions"]]
Choose = Callable[[PRNGKey, Population], Int[Array, " decisions"]]
Vary = Callable[[PRNGKey, Int[Array, " decisions"], Population], Int[Array, " decisions"]]
# While the population is this small, Zen-NAS mutates its start only, and once only.
_SMALL = 10


def _searcher(
    name: str,
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    max_evaluations: int,
    population_size: int,
    slots: int,
    batch: int,
    unique: bool,
    start: Architecture | Sequence[int] | None,
    ranking: Ranking,
    make_room: Callable[[Population], Population],
    choose: Choose,
    vary: Vary,
) -> Searcher:
    """Evolves a population that starts from random architectures or from one start.

    `choose` returns a parent and `vary` a child of it; `make_room` runs after each new member.
    """

    def learn(
        state: SearchState, architectures: Int[Array, "1 d"], scores: Float[Array, "1 k"]
    ) -> Population:
        population, architecture = state.inner, architectures[0]
        enters = jnp.isfinite(scores).any()
        if unique:
            enters &= ~populations.contains(population, architecture)
        grown = make_room(populations.add(population, architecture, scores[0]))
        return jax.tree.map(partial(jnp.where, enters), grown, population)

    def first(key: PRNGKey, state: SearchState, n: int) -> Int[Array, "n decisions"]:
        if start is None:
            return sample_architectures(key, choices, n)
        return jnp.broadcast_to(jnp.asarray(start), (n, len(choices)))

    def children(key: PRNGKey, state: SearchState, n: int) -> Int[Array, "n decisions"]:
        key_first, key_choose, key_vary = jax.random.split(key, 3)
        population = state.inner
        parents = jax.vmap(choose, (0, None))(jax.random.split(key_choose, n), population)
        # An empty population has no parent: use a start.
        parents = jnp.where(population.alive.any(), parents, first(key_first, state, n))
        return jax.vmap(vary, (0, 0, None))(jax.random.split(key_vary, n), parents, population)

    def plan(state: SearchState) -> tuple[str, int]:
        missing = (population_size if start is None else 1) - int(state.history.evaluations)
        return ("first", missing) if missing > 0 else ("children", batch)

    def best(state: SearchState) -> Architecture:
        return best_of(*populations.members(state.inner), higher_is_better, ranking)

    return history_searcher(
        name,
        choices,
        higher_is_better,
        max_evaluations,
        init=lambda key: populations.empty(slots, len(choices), len(higher_is_better)),
        plan=plan,
        proposals={"first": first, "children": children},
        learn=learn,
        learn_in_turn=True,
        best=best,
    )


def _check(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    population_size: int,
    smallest: int,
    start: Architecture | Sequence[int] | None,
) -> None:
    base.check_choices(choices, higher_is_better)
    if population_size < smallest:
        raise ValueError(f"population_size={population_size}; allowed: >= {smallest}")
    if start is not None and (
        np.shape(start) != (len(choices),)
        or not all(0 <= option < n for option, n in zip(start, choices, strict=True))
    ):
        raise ValueError(f"start={start}; allowed: an option for each of {tuple(choices)}")


def evolution(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    max_evaluations: int = 1256,
    batch: int = 1,
    population_size: int = 256,
    removal: Removal = "distinct",
    protect_best: bool = True,
    unique: bool = True,
    mutations: int = 1,
    start: Architecture | Sequence[int] | None = None,
    mutate: Mutate | None = None,
    mutate_start: Mutate | None = None,
    ranking: Ranking = ranks.borda,
) -> Searcher:
    """Zen-NAS's loop with removal by each metric of SABoC-NAS.

    Defaults are those for NAS-Bench-201: 256 random architectures and 1000 children. For
    ResNets: `max_evaluations=24_000, **space.hints.evolution()`.

    Args:
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        max_evaluations: architectures to score, first population included.
        batch: children per `ask`; their parents are drawn from the same population.
        population_size: P. Members are removed when there are P + 1.
        removal: see `population.remove_worst`.
        protect_best: never remove the best by rank of the P + 1. False: as the paper's text says.
        unique: a child equal to a member does not enter.
        mutations: number of mutations per child (one while there are at most 10 members and
            `start` is given, as in Zen-NAS).
        start: the first architecture, instead of P random ones.
        mutate: `mutate(key, architecture)` returns a child; works under `jax.jit` and `jax.vmap`.
            None: a uniformly drawn decision changes to another uniformly drawn option.
        mutate_start: replaces `mutate` while there are at most 10 members and `start` is given.
        ranking: combines the metrics into one rank. Must work on JAX arrays under `jax.jit`.

    Raises:
        ValueError: if an argument is out of range.
    """
    directions = tuple(higher_is_better)
    _check(choices, directions, population_size, len(directions) + 1, start)
    if removal not in get_args(Removal) or mutations < 1:
        raise ValueError(
            f"removal={removal!r}, mutations={mutations}; allowed: {get_args(Removal)}, >= 1"
        )
    change = mutate or partial(base.mutate, choices=choices)

    def remove(population: Population) -> Population:
        kept = populations.best_slot(population, directions, ranking) if protect_best else None
        return populations.remove_worst(population, directions, removal=removal, protected=kept)

    def make_room(population: Population) -> Population:
        return jax.lax.cond(population.alive.all(), remove, lambda p: p, population)

    def is_small(population: Population) -> Bool[Array, ""]:
        return (start is not None) & (population.alive.sum() <= _SMALL)

    def choose(key: PRNGKey, population: Population) -> Int[Array, " decisions"]:
        parent = populations.random_member(key, population)
        return (
            parent if start is None else jnp.where(is_small(population), jnp.asarray(start), parent)
        )

    def vary(
        key: PRNGKey, parent: Int[Array, " decisions"], population: Population
    ) -> Int[Array, " decisions"]:
        once, *more = jax.random.split(key, mutations)
        child = change(once, parent)
        early = mutate_start(once, parent) if mutate_start else child
        for another in more:
            child = change(another, child)
        return jnp.where(is_small(population), early, child)

    return _searcher(
        "evolution",
        choices,
        directions,
        max_evaluations=max_evaluations,
        population_size=population_size,
        slots=population_size + 1,
        batch=batch,
        unique=unique,
        start=start,
        ranking=ranking,
        make_room=make_room,
        choose=choose,
        vary=vary,
    )


def aging_evolution(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    max_evaluations: int = 1256,
    batch: int = 1,
    population_size: int = 256,
    tournament: int = 64,
    unique: bool = False,
    decision_weights: Sequence[float] | None = None,
    start: Architecture | Sequence[int] | None = None,
    mutate: Mutate | None = None,
    ranking: Ranking = ranks.borda,
) -> Searcher:
    """Regularised evolution with any metrics, as TEG-NAS runs it.

    Args:
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        max_evaluations: architectures to score, first population included.
        batch: children per `ask`; their parents are drawn from the same population.
        population_size: largest number of members; beyond it the oldest is removed.
        tournament: number of members drawn without replacement; the best one is the parent.
        unique: a child equal to a member does not enter.
        decision_weights: see `base.mutate`. TEG-NAS draws the node, then its input: for
            NAS-Bench-201 (6, 3, 3, 2, 2, 2).
        start: the first architecture, instead of random ones.
        mutate: as in `evolution`; `decision_weights` is then ignored.
        ranking: combines the metrics into one rank, in a tournament and at the end. Must work on
            JAX arrays under `jax.jit`.

    Raises:
        ValueError: if an argument is out of range.
    """
    directions = tuple(higher_is_better)
    _check(choices, directions, population_size, 1, start)
    if not 1 <= tournament <= population_size:
        raise ValueError(f"tournament={tournament}; allowed: 1 to {population_size}")
    change = mutate or partial(base.mutate, choices=choices, decision_weights=decision_weights)

    def choose(key: PRNGKey, population: Population) -> Int[Array, " decisions"]:
        return populations.tournament(key, population, tournament, directions, ranking)

    def vary(
        key: PRNGKey, parent: Int[Array, " decisions"], population: Population
    ) -> Int[Array, " decisions"]:
        return change(key, parent)

    return _searcher(
        "aging_evolution",
        choices,
        directions,
        max_evaluations=max_evaluations,
        population_size=population_size,
        slots=population_size,
        batch=batch,
        unique=unique,
        start=start,
        ranking=ranking,
        make_room=lambda population: population,  # A new member replaces the oldest.
        choose=choose,
        vary=vary,
    )

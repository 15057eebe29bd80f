"""Local search: move to the best neighbour until none is better, then restart.

Neighbours differ in one decision. An architecture and all its neighbours are ranked together,
and the best becomes the next centre. If the centre itself is the best, or the best was a
centre before (ranks of different neighbourhoods can contradict each other and lead in a circle),
the search restarts at a random architecture.

References:
    White, Nolen and Savani, "Exploring the loss landscape in neural architecture search",
    UAI 2021, where the metric is the accuracy.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.searchers import base
from saboc_jax.searchers.history import SearchState, best_in_history, history_searcher
from saboc_jax.spaces.masks import sample_architectures
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import PRNGKey, Ranking, Searcher


class Climb(NamedTuple):
    """The state of a local search.

    Attributes:
        centre: [decisions] the architecture whose neighbours are scored next.
        scores: [k] its metrics.
        started: [] whether there is a centre; otherwise a random start is next.
        was_centre: [max_evaluations] which entries of the history were centres.
    """

    centre: Int[Array, " decisions"]
    scores: Float[Array, " k"]
    started: Bool[Array, ""]
    was_centre: Bool[Array, " max_evaluations"]


def _restart(
    state: SearchState, architectures: Int[Array, "1 d"], scores: Float[Array, "1 k"]
) -> Climb:
    was_centre = state.inner.was_centre.at[state.history.evaluations - 1].set(True)
    # A start without a finite metric cannot be compared with its neighbours: draw another.
    return Climb(architectures[0], scores[0], jnp.isfinite(scores).any(), was_centre)


def _move(
    state: SearchState,
    architectures: Int[Array, "m d"],
    scores: Float[Array, "m k"],
    higher_is_better: tuple[bool, ...],
    ranking: Ranking,
) -> Climb:
    climb, history = state.inner, state.history
    # The centre comes first, so that it wins a full tie.
    everyone = jnp.concatenate([climb.scores[None], scores.astype(climb.scores.dtype)])
    winner = ranks.best_first(everyone, higher_is_better, ranking=ranking)[0]
    neighbour = jnp.maximum(winner - 1, 0)
    target = architectures[neighbour]
    same = (history.architectures == target).all(axis=1)
    moves = (winner > 0) & ~(same & climb.was_centre).any()
    row = history.evaluations - len(architectures) + neighbour
    return Climb(
        jnp.where(moves, target, climb.centre).astype(climb.centre.dtype),
        jnp.where(moves, everyone[winner], climb.scores),
        moves,
        climb.was_centre.at[row].set(climb.was_centre[row] | moves),
    )


def local(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    max_evaluations: int = 1000,
    ranking: Ranking = ranks.borda,
) -> Searcher:
    """Best-neighbour local search with random restarts.

    `ask` returns one random architecture or a whole neighbourhood (24 in NAS-Bench-201).

    Args:
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        max_evaluations: architectures to score; the last neighbourhood is cut short.
        ranking: combines the metrics into one rank, within a neighbourhood and, at the end, over
            all architectures scored. Must work on JAX arrays under `jax.jit`.
    """
    directions = tuple(higher_is_better)
    number_of_neighbours = sum(choices) - len(choices)

    def init(key: PRNGKey) -> Climb:
        return Climb(
            jnp.zeros(len(choices), jnp.int32),
            jnp.full(len(directions), jnp.nan, float),
            jnp.zeros((), bool),
            jnp.zeros(max_evaluations, bool),
        )

    def start(key: PRNGKey, state: SearchState, n: int) -> Int[Array, "n decisions"]:
        return sample_architectures(key, choices, n)

    def around(key: PRNGKey, state: SearchState, n: int) -> Int[Array, "n decisions"]:
        return base.neighbours(state.inner.centre, choices)

    def plan(state: SearchState) -> tuple[str, int]:
        climbs = number_of_neighbours > 0 and bool(state.inner.started)
        return ("around", number_of_neighbours) if climbs else ("start", 1)

    def learn(
        state: SearchState, architectures: Int[Array, "b d"], scores: Float[Array, "b k"]
    ) -> Climb:
        move = partial(_move, higher_is_better=directions, ranking=ranking)
        if len(architectures) > 1:  # A start is a single architecture.
            return move(state, architectures, scores)
        return jax.lax.cond(state.inner.started, move, _restart, state, architectures, scores)

    return history_searcher(
        "local",
        choices,
        higher_is_better,
        max_evaluations,
        init=init,
        plan=plan,
        proposals={"start": start, "around": around},
        learn=learn,
        best=partial(best_in_history, higher_is_better=directions, ranking=ranking),
    )

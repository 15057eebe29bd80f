"""Searches that score single architectures and remember them all.

`history_searcher` builds a `Searcher` from the two functions that differ between such searches
(what to propose, what to learn from a score): it keeps the history, counts evaluations, ends
after exactly `max_evaluations` of them, and compiles both functions.

A candidate that breaks a budget is not scored. `tell` receives a row of NaN for it: it counts as
an evaluation and is never chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.searchers import base
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import Architecture, PRNGKey, Ranking, Searcher


class History(NamedTuple):
    """Everything that was scored, in order; rows from `evaluations` on are empty.

    Attributes:
        architectures: [max_evaluations, decisions].
        scores: [max_evaluations, k] means over repeats, in JAX's default float; values beyond
            its range become infinite and count as the worst.
        evaluations: [] number of evaluations.
    """

    architectures: Int[Array, "max_evaluations decisions"]
    scores: Float[Array, "max_evaluations k"]
    evaluations: Int[Array, ""]


class SearchState(NamedTuple):
    """The state of a search with a history.

    Attributes:
        history: what was scored.
        inner: the method's own state, a pytree of arrays.
    """

    history: History
    inner: Any


Propose = Callable[[PRNGKey, SearchState, int], Int[Array, "n decisions"]]
Learn = Callable[[SearchState, Int[Array, "b decisions"], Float[Array, "b k"]], Any]


def empty_history(max_evaluations: int, decisions: int, metrics: int) -> History:
    """Returns a history without evaluations."""
    return History(
        jnp.zeros((max_evaluations, decisions), jnp.int32),
        jnp.full((max_evaluations, metrics), jnp.nan, float),
        jnp.zeros((), jnp.int32),
    )


def record(
    history: History, architectures: Int[Array, "b decisions"], scores: Float[Array, "b k"]
) -> History:
    """Returns the history with b more evaluations; there must be room for them."""
    start = (history.evaluations, jnp.zeros_like(history.evaluations))
    return History(
        jax.lax.dynamic_update_slice(history.architectures, architectures.astype(jnp.int32), start),
        jax.lax.dynamic_update_slice(history.scores, scores.astype(history.scores.dtype), start),
        history.evaluations + architectures.shape[0],
    )


def best_of(
    architectures: Int[Any, "n decisions"],
    scores: Float[Any, "n k"],
    higher_is_better: Sequence[bool],
    ranking: Ranking,
) -> Architecture:
    """Returns the best of a set of architectures; repeated ones count once.

    Deviation: TEG-NAS ranks all visits, so an architecture visited often counts often.
    SABoC-NAS ranks a set.

    Raises:
        ValueError: if no architecture has a finite metric.
    """
    architectures, scores = np.asarray(architectures), np.asarray(scores)
    scored = np.isfinite(scores).any(axis=1)
    if not scored.any():
        raise ValueError(
            f"none of {len(scored)} architectures has a finite score; allowed: one at least"
        )
    architectures, scores = architectures[scored], scores[scored]
    _, first_visits = np.unique(architectures, axis=0, return_index=True)
    rows = np.sort(first_visits)
    return architectures[rows[ranks.best_first(scores[rows], higher_is_better, ranking=ranking)[0]]]


def best_in_history(
    state: SearchState, higher_is_better: Sequence[bool], ranking: Ranking
) -> Architecture:
    """Returns the best of all architectures scored so far."""
    # On the host first: to slice a device's array by each count would compile a program for each.
    architectures, scores, count = map(np.asarray, state.history)
    return best_of(architectures[:count], scores[:count], higher_is_better, ranking)


def history_searcher(
    name: str,
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    max_evaluations: int,
    *,
    init: Callable[[PRNGKey], Any],
    plan: Callable[[SearchState], tuple[str, int]],
    proposals: Mapping[str, Propose],
    best: Callable[[SearchState], Architecture],
    learn: Learn | None = None,
    learn_in_turn: bool = False,
) -> Searcher:
    """Builds a searcher from the functions that differ between such searches.

    Args:
        name: its name.
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        max_evaluations: the search ends after exactly so many evaluations.
        init: `init(key)` returns `inner` of the first state.
        plan: `plan(state)` runs on the host and returns the next step: a name in `proposals`, and
            the number of architectures to propose; those beyond `max_evaluations` are cut off.
        proposals: `propose(key, state, n)` returns [n, decisions]; compiled for each n.
        best: `best(state)` returns the architecture found.
        learn: `learn(state, architectures, scores)` returns the new `inner`; the state's history
            already holds the evaluations. Compiled for each number of rows. None: learn nothing.
        learn_in_turn: call `learn` row by row, so that one program serves any number of rows.

    Raises:
        ValueError: if an argument is out of range.
    """
    base.check_choices(choices, higher_is_better)
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations={max_evaluations}; allowed: >= 1")
    decisions, options, metrics = len(choices), max(choices), len(higher_is_better)

    def with_masks(propose: Propose) -> Callable[..., Bool[Array, "n d o"]]:
        def propose_masks(key: PRNGKey, state: SearchState, n: int) -> Bool[Array, "n d o"]:
            return base.one_hot_masks(propose(key, state, n), options)

        return jax.jit(propose_masks, static_argnums=2)

    @jax.jit
    def learn_scores(
        state: SearchState, masks: Bool[Array, "b d o"], scores: Float[Array, "b repeats k"]
    ) -> SearchState:
        architectures = base.architectures_of(masks).astype(jnp.int32)
        means = base.mean_over_repeats(scores)
        state = SearchState(record(state.history, architectures, means), state.inner)
        return state._replace(inner=learn(state, architectures, means)) if learn else state

    compiled = {kind: with_masks(propose) for kind, propose in proposals.items()}

    def remaining(state: SearchState) -> int:
        return max_evaluations - int(state.history.evaluations)

    def start(key: PRNGKey) -> SearchState:
        return SearchState(empty_history(max_evaluations, decisions, metrics), init(key))

    def ask(key: PRNGKey, state: SearchState) -> tuple[Bool[Array, "n d o"], SearchState]:
        left = remaining(state)
        if left < 1:
            raise ValueError(f"all {max_evaluations} evaluations are done; allowed: `best`")
        kind, n = plan(state)
        masks = compiled[kind](key, state, n)
        return masks if n <= left else masks[:left], state

    def tell(
        state: SearchState, masks: Bool[Any, "b d o"], scores: Float[Any, "b repeats k"]
    ) -> SearchState:
        base.check_scores(scores, len(masks), metrics)
        if len(masks) > remaining(state):
            raise ValueError(f"{len(masks)} rows; allowed: {remaining(state)} evaluations remain")
        masks = np.asarray(masks)
        with np.errstate(over="ignore"):
            scores = np.asarray(scores).astype(jax.dtypes.canonicalize_dtype(float))
        rows = 1 if learn_in_turn else len(masks)
        for row in range(0, len(masks), rows):
            state = learn_scores(state, masks[row : row + rows], scores[row : row + rows])
        return state

    def done(state: SearchState) -> bool:
        return remaining(state) <= 0

    return Searcher(name, start, ask, tell, done, best, planned=lambda: max_evaluations)

"""Helpers shared by search methods: masks, architectures and rules for scores.

A searcher sees only the number of options of each decision and the direction of each metric,
no space and no scorer. Decisions may have different numbers of options; masks are as wide as
the largest, and options beyond a decision's own number are never active.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.types import PRNGKey


def check_choices(choices: Sequence[int], higher_is_better: Sequence[bool]) -> None:
    """Raises ValueError unless there are decisions with options, and metrics."""
    if not choices or min(choices) < 1:
        raise ValueError(f"choices={tuple(choices)}; allowed: at least one, each >= 1")
    if not higher_is_better:
        raise ValueError("higher_is_better=(); allowed: one direction for each metric")


def check_scores(scores: Any, rows: int, metrics: int) -> None:
    """Raises ValueError unless scores are [rows, repeats, metrics] with at least one repeat."""
    shape = np.shape(scores)
    if len(shape) != 3 or shape[0] != rows or shape[1] < 1 or shape[2] != metrics:
        raise ValueError(f"scores have shape {shape}; allowed: ({rows}, repeats, {metrics})")


def available_options(choices: Sequence[int]) -> Bool[np.ndarray, "decisions options"]:
    """Returns a mask of the options that exist: the first `choices[d]` of decision d."""
    return np.arange(max(choices)) < np.asarray(choices)[:, None]


def options_named(
    names: Sequence[str], option_names: Sequence[Sequence[str]]
) -> Bool[np.ndarray, "decisions options"]:
    """Returns a mask of the options with one of the names, in every decision.

    Raises:
        ValueError: if no option has one of the names.
    """
    known = sorted({name for decision in option_names for name in decision})
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"options {unknown} do not exist; allowed: {known}")
    width = max(len(decision) for decision in option_names)
    mask = np.zeros((len(option_names), width), dtype=bool)
    for row, decision in zip(mask, option_names, strict=True):
        row[: len(decision)] = [name in names for name in decision]
    return mask


def one_hot_masks(
    architectures: Int[Any, "*batch decisions"], options: int
) -> Bool[Array, "*batch decisions options"]:
    """Returns one-hot masks of architectures; `options` is the largest number of options."""
    return jnp.asarray(architectures)[..., None] == jnp.arange(options)


def architectures_of(
    masks: Bool[Any, "*batch decisions options"],
) -> Int[Any, "*batch decisions"]:
    """Returns the first active option of each decision: the inverse of `one_hot_masks`."""
    return (jnp if isinstance(masks, jax.Array) else np).argmax(masks, axis=-1)


def mutate(
    key: PRNGKey,
    architecture: Int[Array, " decisions"],
    choices: Sequence[int],
    decision_weights: Sequence[float] | None = None,
) -> Int[Array, " decisions"]:
    """Changes one decision to another of its options, chosen uniformly.

    Args:
        key: consumed.
        architecture: [decisions].
        choices: number of options of each decision.
        decision_weights: relative probabilities of the decisions; None: equal. A decision
            with one option is never chosen.
    """
    key_decision, key_option = jax.random.split(key)
    weights = np.ones(len(choices)) if decision_weights is None else np.array(decision_weights)
    log_weights = jnp.log(jnp.asarray(np.where(np.array(choices) > 1, weights, 0)))
    decision = jax.random.categorical(key_decision, log_weights)
    options = jnp.asarray(choices, architecture.dtype)[decision]
    shift = jax.random.randint(key_option, (), 1, jnp.maximum(options, 2), architecture.dtype)
    return architecture.at[decision].set((architecture[decision] + shift) % options)


def neighbours(
    architecture: Int[Array, " decisions"], choices: Sequence[int]
) -> Int[Array, "m decisions"]:
    """Returns all architectures that differ in one decision, ordered by decision, then shift."""
    moves = [(d, shift) for d, n in enumerate(choices) for shift in range(1, n)]
    decisions, shifts = np.array(moves, dtype=int).reshape(-1, 2).T
    moved = (architecture[decisions] + shifts) % np.asarray(choices)[decisions]
    moved = moved.astype(architecture.dtype)
    return jnp.tile(architecture, (len(moves), 1)).at[np.arange(len(moves)), decisions].set(moved)


def mean_over_repeats(scores: Float[Any, "b repeats k"]) -> Float[Array, "b k"]:
    """Averages each candidate's metrics over repeats (decision D12).

    One non-finite repeat makes the mean non-finite, so the candidate counts as the worst.
    """
    return jnp.asarray(scores).mean(axis=1)

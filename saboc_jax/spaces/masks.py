"""Conversion between architectures, masks and gates, and random architectures."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.keys import key_numbered
from saboc_jax.types import Architecture, Decisions, Gates, PRNGKey

DRAWN = 4096  # largest batch of architectures drawn at a time by `sample_distinct`


def architecture_to_mask(
    arch: Int[Any, "... decisions"], num_options: int
) -> Bool[np.ndarray, "... decisions options"]:
    """Returns the one-hot mask of an architecture (or of a stack of them)."""
    return np.asarray(arch)[..., None] == np.arange(num_options)


def mask_to_gates(mask: Bool[Any, "*b decisions options"]) -> Float[Array, "*b decisions options"]:
    """Returns the weight of each option: active options of a decision share 1 equally.

    A decision without an active option has all-zero gates.
    """
    mask = jnp.asarray(mask, jnp.float32)
    return mask / jnp.maximum(mask.sum(-1, keepdims=True), 1.0)


def as_gates(mask_or_arch: Any, choices: Sequence[int]) -> Gates:
    """Returns the gates of a mask [decisions, options] or of an architecture [decisions].

    Raises:
        ValueError: if the shape fits neither or an option does not exist.
    """
    value = np.asarray(mask_or_arch)
    shape = (len(choices), max(choices))
    if value.shape == shape[:1]:
        return mask_to_gates(architecture_to_mask(check_architecture(value, choices), shape[1]))
    if value.shape != shape:
        raise ValueError(
            f"got an array of shape {value.shape}; allowed: an architecture of shape "
            f"{shape[:1]} or a mask of shape {shape}"
        )
    return mask_to_gates(value > 0)


def check_architecture(arch: Any, choices: Sequence[int]) -> Architecture:
    """Returns the architecture as an integer array.

    Raises:
        ValueError: if it has another length or an option that does not exist.
    """
    value = np.asarray(arch)
    if value.shape != (len(choices),) or not np.issubdtype(value.dtype, np.integer):
        raise ValueError(
            f"an architecture is {len(choices)} ints, got shape {value.shape} of {value.dtype}"
        )
    for decision, (choice, number) in enumerate(zip(value, choices, strict=True)):
        if not 0 <= choice < number:
            raise ValueError(
                f"decision {decision} chooses option {choice}; allowed: 0 to {number - 1}"
            )
    return value


def sample_architectures(
    key: PRNGKey, choices: Sequence[int], number: int
) -> Int[Array, "number decisions"]:
    """Draws architectures uniformly with replacement. `key` is consumed."""
    return jax.random.randint(
        key, (number, len(choices)), 0, jnp.asarray(choices, jnp.int32), jnp.int32
    )


def sample_connected(
    key: PRNGKey, decisions: Decisions, number: int, distinct: bool = False
) -> Int[np.ndarray, "n decisions"]:
    """Draws uniform architectures with a path from input to output.

    Args:
        key: consumed.
        decisions: decisions of the space.
        number: how many. Draws 4 * number + 16 and returns the first `number` connected ones;
            fewer if not enough are connected.
        distinct: return each architecture at most once.
    """
    drawn = np.asarray(sample_architectures(key, decisions.choices, 4 * number + 16))
    masks = architecture_to_mask(drawn, max(decisions.choices))
    connected = drawn[[decisions.is_connected(mask) for mask in masks]]
    if distinct:
        _, first = np.unique(connected, axis=0, return_index=True)
        connected = connected[np.sort(first)]
    return connected[:number]


def sample_distinct(
    key: PRNGKey, choices: Sequence[int], number: int
) -> Int[np.ndarray, "number decisions"]:
    """Draws architectures uniformly without replacement, in the order of drawing.

    Args:
        key: consumed.
        choices: number of options of each decision.
        number: how many.

    Raises:
        ValueError: if the space has fewer than `number` architectures.
    """
    total = math.prod(choices)
    if number > total:
        raise ValueError(f"{number} distinct architectures; allowed: at most {total}, for all")
    size = min(total // 4 + 64, DRAWN)
    drawn: dict[tuple[int, ...], None] = {}
    for step in itertools.count():
        batch = sample_architectures(key_numbered(key, step), choices, size)
        drawn |= dict.fromkeys(map(tuple, batch.tolist()))
        if len(drawn) >= number:
            break
    return np.array(list(drawn)[:number])

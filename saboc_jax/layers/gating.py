"""Operations that run only if their gate is positive: the parts of a gated supernet."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from saboc_jax.layers.ops import Features, Within
from saboc_jax.types import Variables

COLLECTIONS = ("batch_stats", "observed")  # that a forward pass can record


def gated(
    run: Callable[[Features], tuple[Features, Variables]], gate: Array, x: Features
) -> tuple[Features, Variables]:
    """Returns `gate * run(x)` if the gate is positive, else zeros without running `run`."""
    shapes = jax.eval_shape(run, x)

    def zeros(x: Features) -> Any:
        return jax.tree.map(jnp.zeros_like, shapes)

    def weighted(x: Features) -> Any:
        y, state = run(x)
        return y * gate.astype(y.dtype), state

    return lax.cond(gate > 0, weighted, zeros, x)


def apply_within(
    module: Within, collections: Variables, mutable: Sequence[str], x: Features
) -> tuple[Features, Variables]:
    """Applies a module with its own part of collections; returns output and recorded state."""
    label = module.label
    variables = {
        kind: {label: tree[label]} for kind, tree in collections.items() if tree.get(label)
    }
    return module.apply(variables, x, mutable=list(mutable))


def merge(*states: Variables) -> Variables:
    """Merges collections of recorded values with distinct names."""
    merged: dict[str, dict[str, Any]] = {}
    for state in states:
        for collection, tree in state.items():
            merged.setdefault(collection, {}).update(tree)
    return merged

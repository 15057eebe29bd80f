"""Draws weights anew that a network starts at zero.

Many published networks start a head, or the scale of a block's last norm, at zero. Nothing before
it has a gradient then, and a score at initialisation is that of the head alone.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from saboc_jax.layers.roles import EMBEDDING, KERNEL, WEIGHTS
from saboc_jax.layers.tree import path_names
from saboc_jax.ntk.reading import read_statically
from saboc_jax.spaces.modules.models import Model
from saboc_jax.types import PRNGKey, Variables


def without_zeros(model: Model, example: Any) -> Model:
    """Returns the model with weights that are all zero drawn anew.

    Kernels and embeddings are drawn from N(0, 1 / fan-in), the fan-in being all axes but the
    last; scales become one. Biases stay.

    Args:
        model: with any initialiser. Weights of its own are kept, for they may be trained.
        example: the shapes of a batch of one example.
    """
    if model.has_weights:
        return model
    shapes = jax.eval_shape(model.draw, jax.random.key(0))
    read = read_statically(model.network._replace(variables=shapes), example)
    weights = read.with_roles(WEIGHTS)
    drawn = read.with_roles(frozenset((KERNEL, EMBEDDING)))

    def draw(key: PRNGKey) -> Variables:
        variables = dict(model.draw(key))
        leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])
        keys = jax.random.split(jax.random.fold_in(key, len(leaves)), len(leaves))
        changed = [
            _replaced(leaf, path_names(path), own, weights, drawn)
            for own, (path, leaf) in zip(keys, leaves, strict=True)
        ]
        return {**variables, "params": jax.tree_util.tree_unflatten(structure, changed)}

    return model._replace(draw=draw, name=f"{model.name} (zeros drawn anew)")


def _replaced(leaf: Array, path: Any, key: PRNGKey, weights: Any, drawn: Any) -> Array:
    if path not in weights:
        return leaf
    fan_in = math.prod(leaf.shape[:-1]) or 1
    new = jax.random.normal(key, leaf.shape, leaf.dtype) / math.sqrt(fan_in)
    fresh = new if path in drawn else jnp.ones_like(leaf)
    return jnp.where(jnp.all(leaf == 0), fresh, leaf)

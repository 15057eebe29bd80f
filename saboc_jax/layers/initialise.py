"""Draws weights: named initialisers, and one draw that is cut into all kernels of a network."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.layers.tree import path_names
from saboc_jax.types import PRNGKey


class Initialiser(NamedTuple):
    """The distribution of kernels: a standardised distribution times a scale for the shape.

    Attributes:
        distribution: "normal" (variance 1) or "uniform" (on [-1, 1]).
        scale: gives the factor for a kernel of shape [*spatial, in, out].
    """

    distribution: str
    scale: Callable[[tuple[int, ...]], float]


def fan_in(shape: tuple[int, ...]) -> int:
    """Returns the number of inputs that one output of a kernel [*spatial, in, out] sums."""
    return math.prod(shape[:-1])


def fan_out(shape: tuple[int, ...]) -> int:
    """Returns the number of outputs that one input of a kernel [*spatial, in, out] feeds."""
    return math.prod(shape[:-2]) * shape[-1]


INITIALISERS: Mapping[str, Initialiser] = {
    # N(0, 2 / fan_in): decision D11 for the paper's "Kaiming normal".
    "kaiming_normal_fan_in": Initialiser("normal", lambda s: math.sqrt(2 / fan_in(s))),
    "kaiming_normal_fan_out": Initialiser("normal", lambda s: math.sqrt(2 / fan_out(s))),
    # PyTorch's default for convolutions and dense layers, which TE-NAS actually used.
    "torch_default": Initialiser("uniform", lambda s: 1 / math.sqrt(fan_in(s))),
    "standard_normal": Initialiser("normal", lambda s: 1.0),
}


def find_initialiser(name: str) -> Initialiser:
    """Returns a kernel initialiser by name.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in INITIALISERS:
        raise ValueError(f"initialiser {name!r} is unknown; allowed: {sorted(INITIALISERS)}")
    return INITIALISERS[name]


def draw_parameters(
    key: PRNGKey,
    shapes: Any,
    initialiser: Initialiser,
    layers_per_leaf: Callable[[tuple[str, ...]], int],
) -> Any:
    """Draws every kernel of a parameter tree; scales are one, biases zero.

    All kernels come from one draw, cut in the order of their paths: one random operation
    compiles in a fraction of the time of one operation per kernel.

    Args:
        key: consumed.
        shapes: a tree of arrays or `jax.ShapeDtypeStruct`s.
        initialiser: the distribution of a kernel.
        layers_per_leaf: how many leading axes of a leaf count layers.
    """
    pool = draw_pool(key, initialiser.distribution, pool_size(shapes))
    return cut_parameters(pool, shapes, initialiser, layers_per_leaf)


def pool_size(shapes: Any) -> int:
    """Returns the number of entries of all kernels of a parameter tree."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return sum(leaf.size for path, leaf in leaves if path_names(path)[-1] == "kernel")


def draw_pool(key: PRNGKey, name: str, size: int) -> Float[Array, " size"]:
    """Draws numbers of a standardised distribution (`Initialiser.distribution`); consumes `key`."""
    if name == "normal":
        return jax.random.normal(key, (size,), jnp.float32)
    return jax.random.uniform(key, (size,), jnp.float32, -1.0, 1.0)


def cut_parameters(
    pool: Any,
    shapes: Any,
    initialiser: Initialiser,
    layers_per_leaf: Callable[[tuple[str, ...]], int],
) -> Any:
    """Cuts the kernels of a parameter tree from drawn numbers, as in `draw_parameters`.

    Args:
        pool: `pool_size(shapes)` numbers or more; a NumPy array is cut on the host.
        shapes: a tree of arrays or `jax.ShapeDtypeStruct`s.
        initialiser: gives each kernel its scale.
        layers_per_leaf: how many leading axes of a leaf count layers.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    full: Any = np.full if isinstance(pool, np.ndarray) else jnp.full
    drawn, start = [], 0
    for path, leaf in leaves:
        names = path_names(path)
        if names[-1] != "kernel":
            drawn.append(full(leaf.shape, 1.0 if names[-1] == "scale" else 0.0, leaf.dtype))
            continue
        scale = initialiser.scale(leaf.shape[layers_per_leaf(names) :])
        kernel = pool[start : start + leaf.size].reshape(leaf.shape) * scale
        drawn.append(kernel.astype(leaf.dtype))
        start += leaf.size
    return jax.tree_util.tree_unflatten(structure, drawn)

"""How weights are drawn: named initialisers, and one draw cut into all kernels of a network."""

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
    """How kernels are drawn: a standardised distribution times a scale for the layer's shape.

    Attributes:
        distribution: "normal" (variance 1) or "uniform" (on [-1, 1]).
        scale: the factor for a kernel of a shape [*spatial, in, out].
    """

    distribution: str
    scale: Callable[[tuple[int, ...]], float]


def fan_in(shape: tuple[int, ...]) -> int:
    """Inputs that one output of a kernel [*spatial, in, out] sums."""
    return math.prod(shape[:-1])


def fan_out(shape: tuple[int, ...]) -> int:
    """Outputs that one input of a kernel [*spatial, in, out] feeds."""
    return math.prod(shape[:-2]) * shape[-1]


INITIALISERS: Mapping[str, Initialiser] = {
    # N(0, 2 / fan_in): decision D11 for the paper's "Kaiming normal".
    "kaiming_normal_fan_in": Initialiser("normal", lambda s: math.sqrt(2 / fan_in(s))),
    "kaiming_normal_fan_out": Initialiser("normal", lambda s: math.sqrt(2 / fan_out(s))),
    # What PyTorch gives a fresh convolution or dense layer, and TE-NAS in truth ran with.
    "torch_default": Initialiser("uniform", lambda s: 1 / math.sqrt(fan_in(s))),
    "standard_normal": Initialiser("normal", lambda s: 1.0),
}


def find_initialiser(name: str) -> Initialiser:
    """A kernel initialiser by name.

    Raises:
        ValueError: if there is none of that name.
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
    compiles in a fraction of the time that one for each kernel takes.

    Args:
        key: consumed.
        shapes: a tree of arrays or `jax.ShapeDtypeStruct`s.
        initialiser: how a kernel is drawn.
        layers_per_leaf: how many leading axes of a leaf count layers.
    """
    pool = draw_pool(key, initialiser.distribution, pool_size(shapes))
    return cut_parameters(pool, shapes, initialiser, layers_per_leaf)


def pool_size(shapes: Any) -> int:
    """Numbers in all kernels of a parameter tree."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return sum(leaf.size for path, leaf in leaves if path_names(path)[-1] == "kernel")


def draw_pool(key: PRNGKey, name: str, size: int) -> Float[Array, " size"]:
    """Numbers of a standardised distribution (`Initialiser.distribution`). `key` is consumed."""
    if name == "normal":
        return jax.random.normal(key, (size,), jnp.float32)
    return jax.random.uniform(key, (size,), jnp.float32, -1.0, 1.0)


def cut_parameters(
    pool: Any,
    shapes: Any,
    initialiser: Initialiser,
    layers_per_leaf: Callable[[tuple[str, ...]], int],
) -> Any:
    """A parameter tree whose kernels are cut from drawn numbers, as `draw_parameters`.

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

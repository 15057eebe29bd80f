"""A gated supernet as `OneProgram`: one compiled program for every architecture."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from saboc_jax.layers.initialise import Initialiser, draw_parameters
from saboc_jax.types import Gates, Images, OneProgram, PRNGKey, Variables


def gated_networks(
    module: nn.Module,
    choices: Sequence[int],
    initialiser: Initialiser,
    *,
    image_shape: tuple[int, int, int],
    layers_per_leaf: Callable[[tuple[str, ...]], int],
    **fields: Any,
) -> OneProgram:
    """Returns the networks of a gated supernet, `module(images, gates)`.

    Args:
        module: the supernet; its parameters in the searched cells have paths that begin with
            "cells_".
        choices: number of options of each decision.
        initialiser: draws its parameters.
        image_shape: (height, width, channels) of one image.
        layers_per_leaf: see `OneProgram`.
        **fields: the other fields of `OneProgram`.
    """
    return OneProgram(
        init=partial(_init, module, choices, image_shape, initialiser, layers_per_leaf),
        apply=partial(_apply, module),
        in_cells=lambda path: path[0].startswith("cells_"),
        layers_per_leaf=layers_per_leaf,
        image_shape=image_shape,
        **fields,
    )


def check_positive(**sizes: int) -> None:
    """Raises ValueError, which names the size, if a size is less than 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value}; allowed: 1 or more")


def check_images(image_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless this is the shape of an image."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"image_shape={image_shape}; allowed: (height, width, channels), each 1 or more"
        )


def check_halved(image_shape: tuple[int, ...], times: int) -> None:
    """Raises ValueError unless both sides of the images can be halved `times` times."""
    multiple = 2**times
    if len(image_shape) != 3 or any(side < 4 or side % multiple for side in image_shape[:2]):
        raise ValueError(
            f"image_shape={image_shape}; allowed: (height, width, channels) with sides of 4 or "
            f"more that are multiples of {multiple}: the network halves them {times} times"
        )


def _init(
    module: nn.Module,
    choices: Sequence[int],
    image_shape: tuple[int, int, int],
    initialiser: Initialiser,
    layers_per_leaf: Callable[[tuple[str, ...]], int],
    key: PRNGKey,
) -> Variables:
    """Draws the variables of the supernet. `key` is consumed."""
    images, gates = jnp.zeros((1, *image_shape)), jnp.zeros((len(choices), max(choices)))
    shapes = jax.eval_shape(module.init, key, images, gates)["params"]
    return {"params": draw_parameters(key, shapes, initialiser, layers_per_leaf)}


def _apply(
    module: nn.Module,
    variables: Variables,
    gates: Gates,
    images: Images,
    mutable: Sequence[str] = (),
) -> tuple[Array, Variables]:
    """Returns the outputs of the supernet, and the collections named in `mutable`."""
    return module.apply(variables, images, gates, mutable=list(mutable))

"""What every search space shares: masks, gates, sampling, reinitialisation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.layers.initialise import Initialiser, draw_parameters
from saboc_jax.types import Architecture, Gates, Images, PRNGKey, Variables


def architecture_to_mask(
    arch: Int[Any, "... decisions"], num_options: int
) -> Bool[np.ndarray, "... decisions options"]:
    """The one-hot mask of an architecture (or of a stack of them)."""
    return np.asarray(arch)[..., None] == np.arange(num_options)


def mask_to_gates(mask: Bool[Any, "*b decisions options"]) -> Float[Array, "*b decisions options"]:
    """The weight of each option: active options of a decision share 1 equally.

    A decision without an active option has all-zero gates.
    """
    mask = jnp.asarray(mask, jnp.float32)
    return mask / jnp.maximum(mask.sum(-1, keepdims=True), 1.0)


def as_gates(mask_or_arch: Any, choices: Sequence[int]) -> Gates:
    """Gates of a mask [decisions, options] or of an architecture [decisions].

    Raises:
        ValueError: if the shape fits neither or a choice does not exist.
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
    """The architecture as ints.

    Raises:
        ValueError: if it has another length or a choice that does not exist.
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
) -> Int[np.ndarray, "number decisions"]:
    """Architectures drawn uniformly with replacement. `key` is consumed."""
    return np.asarray(
        jax.random.randint(key, (number, len(choices)), 0, jnp.asarray(choices), jnp.int32)
    )


def init_supernet(
    module: nn.Module,
    choices: Sequence[int],
    image_shape: tuple[int, int, int],
    initialiser: Initialiser,
    layers_per_leaf: Callable[[tuple[str, ...]], int],
    key: PRNGKey,
) -> Variables:
    """The variables of a gated network `module(images, gates)`. `key` is consumed."""
    images, gates = jnp.zeros((1, *image_shape)), jnp.zeros((len(choices), max(choices)))
    shapes = jax.eval_shape(module.init, key, images, gates)["params"]
    return {"params": draw_parameters(key, shapes, initialiser, layers_per_leaf)}


def apply_supernet(
    module: nn.Module,
    variables: Variables,
    gates: Gates,
    images: Images,
    mutable: Sequence[str] = (),
) -> tuple[Array, Variables]:
    """Outputs of a gated network, and the collections named in `mutable`."""
    return module.apply(variables, images, gates, mutable=list(mutable))


def sample_connected(
    key: PRNGKey,
    choices: Sequence[int],
    is_connected: Callable[[Bool[np.ndarray, "decisions options"]], bool],
    number: int,
) -> Int[np.ndarray, "n decisions"]:
    """Uniform architectures with a path from input to output: the first of a larger draw.

    Args:
        key: consumed.
        choices: options of every decision.
        is_connected: of the space.
        number: how many; fewer come where three of four drawn are not connected.
    """
    drawn = sample_architectures(key, choices, 4 * number + 16)
    masks = architecture_to_mask(drawn, max(choices))
    return drawn[[is_connected(mask) for mask in masks]][:number]

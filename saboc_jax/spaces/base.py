"""What every search space shares: masks, gates, sampling, reinitialisation."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.spaces.ops import INITIALISERS, Initialiser
from saboc_jax.types import Architecture, Gates, Images, PRNGKey, Variables

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """A function of one argument that keeps its latest values.

    Unlike what `functools.lru_cache` gives, it can be sent to another process; it is empty there.

    Args:
        function: of a hashable argument.
        size: values that are kept.
    """

    def __init__(self, function: Callable[[Any], Value], size: int) -> None:
        self._function, self._size = function, size
        self._cached = lru_cache(size)(function)

    def __call__(self, argument: Hashable) -> Value:
        return self._cached(argument)

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, (self._function, self._size)


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


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a pytree path."""
    return tuple(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def flatten(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Array]:
    """A nested mapping as {path: leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_names(path): leaf for path, leaf in leaves}

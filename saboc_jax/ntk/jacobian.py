"""The NTK from the Jacobian: the gradient of every output of every image, then their products.

If the engine is chosen by name, each output of each image takes a backward pass through the whole
batch. So it is right even if images interact, and the tests use it as their oracle.

If `auto` chooses it with frozen batch norm, each gradient is that of a batch of one image, for all
images at once under `jax.vmap`, as in neural-tangents. A module that mixes images in another way
than by batch norm then sees batches of one image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.ntk.batches import in_chunks
from saboc_jax.ntk.functions import Function, by_outputs, network_function
from saboc_jax.ntk.network import Network, Predicate
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import PRECISION

Jacobian = list[Float[Array, "n k ..."]]


def jacobian_kernels(
    network: Network,
    columns: Array,
    rows: Sequence[Array],
    predicate: Predicate,
    options: NTKOptions,
) -> list[Array]:
    """Computes kernels with the engine `jacobian`; arguments as in `empirical.empirical_ntks`."""
    function, leaves = network_function(network, columns, predicate, options, fast=True)
    independent = options.is_frozen and options.engine == "auto"
    differentiate = image_by_image if independent else output_by_output

    def jacobian(images: Array, weights: Array | None) -> Jacobian:
        def weighted(leaves: list[Array], images: Array) -> Array:
            outputs = function(leaves, images)
            if weights is None:
                return outputs
            return jnp.matmul(outputs, weights.T, precision=PRECISION)

        return differentiate(weighted, leaves, images, options.chunk)

    def block(weights: Array | None) -> list[Array]:
        right = jacobian(columns, weights)
        lefts = [right, *(jacobian(r, weights) for r in rows)]
        return [_contract(left, right, options.outputs) for left in lefts]

    def pairs(weights: Array) -> Callable[[Array], list[Array]]:
        lefts = [jacobian(batch, weights) for batch in (columns, *rows)]

        def with_right(others: Array) -> list[Array]:
            right = jacobian(columns, others)
            return [_contract(left, right, "full") for left in lefts]

        return with_right

    return by_outputs(network, columns, options, lambda: block(None), block, pairs)


def image_by_image(
    function: Function, leaves: list[Array], images: Array, chunk: int | None
) -> Jacobian:
    """Computes the Jacobian if images do not interact, `chunk` images at a time."""

    def of_image(image: Array) -> list[Float[Array, "k ..."]]:
        return jax.jacrev(lambda leaves: function(leaves, image[None])[0])(leaves)

    jax.eval_shape(function, leaves, images)  # its error shows the whole batch's shape
    jacobian: Jacobian = in_chunks(jax.vmap(of_image), images, chunk)
    return jacobian


def output_by_output(
    function: Function, leaves: list[Array], images: Array, chunk: int | None
) -> Jacobian:
    """Computes the Jacobian of a function of a batch, `chunk` backward passes at a time."""
    y, pull = jax.vjp(lambda leaves: function(leaves, images), leaves)
    cotangents = jnp.eye(y.size, dtype=y.dtype).reshape(-1, *y.shape)
    rows = lax.map(lambda g: pull(g)[0], cotangents, batch_size=chunk or _passes_at_once(y.size))
    return [row.reshape(*y.shape, *row.shape[1:]) for row in rows]


def _passes_at_once(passes: int) -> int:
    """Returns how many passes to run at once: a divisor, because a remainder is compiled too.

    On a busy CPU four at once took half the time of one at a time; all at once took no less.
    """
    most = 4 if jax.default_backend() == "cpu" else 64
    return max(number for number in range(1, most + 1) if passes % number == 0)


def _contract(left: list[Array], right: list[Array], outputs: str) -> Array:
    """Sums the inner products of Jacobians leaf by leaf."""
    equation = "nkp,mlp->nmkl" if outputs == "full" else "nkp,mkp->nm"
    total: Any = 0.0
    for a, b in zip(left, right, strict=True):
        a, b = a.reshape(*a.shape[:2], -1), b.reshape(*b.shape[:2], -1)
        total = total + jnp.einsum(equation, a, lax.optimization_barrier(b), precision=PRECISION)
    return total / left[0].shape[1] if outputs == "trace" else total

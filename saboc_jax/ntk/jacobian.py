"""The NTK from the Jacobian: the gradient of every output of every image, then their products.

Each output of each image takes a backward pass through the whole batch. So it is right even if
images interact, and the tests use it as their oracle.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk.functions import Function, by_outputs, network_function
from saboc_jax.ntk.network import Network
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import PRECISION

Jacobian = list[Float[Array, "n k ..."]]


def jacobian_kernels(
    network: Network,
    columns: Any,
    rows: Sequence[Any],
    predicate: Predicate,
    options: NTKOptions,
) -> list[Array]:
    """Computes kernels with the engine `jacobian`; arguments as in `empirical.empirical_ntks`."""
    function, leaves = network_function(network, columns, predicate, options)

    def jacobian(images: Any, weights: Array | None) -> Jacobian:
        def weighted(leaves: list[Array], images: Any) -> Array:
            outputs = function(leaves, images)
            if weights is None:
                return outputs
            return jnp.matmul(outputs, weights.T, precision=PRECISION)

        return output_by_output(weighted, leaves, images, options.chunk)

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


def output_by_output(
    function: Function, leaves: list[Array], images: Any, chunk: int | None
) -> Jacobian:
    """Computes the Jacobian of a function of a batch, `chunk` backward passes at a time."""
    y, pull = jax.vjp(lambda leaves: function(leaves, images), leaves)
    cotangents = jnp.eye(y.size, dtype=y.dtype).reshape(-1, *y.shape)
    rows = lax.map(lambda g: pull(g)[0], cotangents, batch_size=chunk or passes_at_once(y.size))
    return [row.reshape(*y.shape, *row.shape[1:]) for row in rows]


def passes_at_once(passes: int) -> int:
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

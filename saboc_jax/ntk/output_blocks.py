"""Kernels of every output, a few outputs at a time.

K_ij^ab = <df_a(x_i)/dw, df_b(x_j)/dw> of all pairs of k outputs needs, at once, n k gradients
of P parameters. Outputs enter linearly: with weights W [b, k] the network W f has the kernel of a
block of outputs. So `full` goes over pairs of blocks and `trace` over blocks, one after another,
and no more than n b gradients live at a time. The price for `full` is that the gradients of a
block are computed again for every block that it is paired with.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.rules import batch_norm_rule
from saboc_jax.ntk.network import Network, Predicate, check_outputs
from saboc_jax.ntk.one_backward import Columns, tap_rule

ROWS = 256  # gradients at once where nothing else is asked for: images times outputs
Weights = Float[Array, "b k"]
Pairs = Callable[[Weights], Callable[[Weights], list[Array]]]


def output_shape(network: Network, images: Float[Array, "n ..."]) -> jax.ShapeDtypeStruct:
    """Shape and type of the outputs, without running the network.

    Raises:
        ValueError: unless the outputs are [n, k].
    """

    def run(images: Array) -> Array:
        with nn.intercept_methods(batch_norm_rule("batch")):  # else Flax asks for statistics
            return network.apply(network.variables, images)[0]

    shape: Any = jax.eval_shape(run, images)
    checked: Any = check_outputs(shape)
    return checked  # type: ignore[no-any-return]


def outputs_at_once(asked: int | None, images: int, width: int) -> int:
    """How many of `width` outputs to take at once, so that the blocks are alike."""
    most = max(1, ROWS // images) if asked is None else asked
    blocks = -(-width // most)
    return -(-width // blocks)


def block_weights(width: int, size: int) -> Float[Array, "blocks b k"]:
    """Weights that select `size` outputs each; what is over in the last block selects none."""
    blocks = -(-width // size)
    return jnp.eye(blocks * size, width).reshape(blocks, size, width)


def trace(kernels: Callable[[Weights], list[Array]], width: int, size: int) -> list[Array]:
    """The mean over outputs of each output's kernel.

    Args:
        kernels: the [n, m] kernels of weights [b, k], as means over b.
        width: k.
        size: b.
    """
    weights = block_weights(width, size)
    parts = lax.map(kernels, weights)
    return [part.sum(0) * (size / width) for part in parts]


def full(pairs: Pairs, width: int, size: int) -> list[Float[Array, "n m k k"]]:
    """The kernels of every pair of outputs.

    Args:
        pairs: `pairs(left)(right)` gives the [n, m, b, b] kernels of two blocks of outputs.
        width: k.
        size: b.
    """
    weights = block_weights(width, size)
    grids = lax.map(lambda left: lax.map(pairs(left), weights), weights)
    return [_assemble(grid)[:, :, :width, :width] for grid in grids]


def _assemble(grid: Float[Array, "a b n m s s"]) -> Float[Array, "n m k k"]:
    count, _, n, m, size, _ = grid.shape
    return grid.transpose(2, 3, 0, 4, 1, 5).reshape(n, m, count * size, count * size)


def one_backward_full(
    network: Network,
    images: Float[Array, "n ..."],
    columns: int,
    predicate: Predicate,
    size: int,
    axis: str | None = None,
) -> Float[Array, "n m k k"]:
    """`one_backward` of every pair of outputs: a backward pass for each pair of blocks.

    The columns stand in the batch twice, once for either block.

    Args:
        network: at fixed weights; batch norm is frozen at the statistics of the columns.
        images: the columns first.
        columns: m, or this device's share of them.
        predicate: which parameters count.
        size: outputs of a block.
        axis: of a mesh over whose devices images are shared out; None: all are here.
    """
    shape, number = output_shape(network, images), images.shape[0]
    all_columns = Columns(columns, axis).number
    batch = jnp.repeat(jnp.concatenate([images[:columns], images]), size, axis=0)
    dtype = jnp.result_type(shape.dtype, *jax.tree.leaves(network.variables["params"]))

    def run(tap: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, predicate, axis=axis)):
            return network.apply(network.variables, batch)[0]

    y, pull = jax.vjp(run, jnp.zeros((len(batch), all_columns * size), dtype))

    def pairs(left: Weights) -> Callable[[Weights], list[Array]]:
        def with_right(right: Weights) -> list[Array]:
            cotangent = jnp.concatenate(
                [jnp.tile(right, (columns, 1)), jnp.tile(left, (number, 1))]
            )
            kernel = pull(cotangent.astype(y.dtype))[0][columns * size :]
            return [kernel.reshape(number, size, all_columns, size).transpose(0, 2, 1, 3)]

        return with_right

    return full(pairs, shape.shape[-1], size)[0]

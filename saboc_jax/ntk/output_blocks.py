"""Kernels of every output, a few outputs at a time.

Computing K_ij^ab = <df_a(x_i)/dw, df_b(x_j)/dw> for all pairs of k outputs at once needs n k
gradients of P parameters. The kernel is linear in the outputs: for weights W [b, k] the network W f
has the kernel of a block of outputs. So `full` loops over pairs of blocks and `trace` over blocks,
and at most n b gradients exist at a time. The price of `full` is that the gradients of a block are
recomputed for every block that it is paired with.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.ntk.batches import number_of
from saboc_jax.ntk.network import Network, check_outputs

ROWS = 256  # default number of gradients at once: images times outputs
Weights = Float[Array, "b k"]
Pairs = Callable[[Weights], Callable[[Weights], list[Array]]]


def output_shape(network: Network, inputs: Any) -> jax.ShapeDtypeStruct:
    """Returns shape and type of the outputs, without running the network.

    Raises:
        ValueError: unless the outputs are [n, k].
    """

    def run(inputs: Any) -> Array:
        return network.outputs(network.variables, inputs, "batch")

    shape: Any = jax.eval_shape(run, inputs)
    checked: Any = check_outputs(shape)
    return checked  # type: ignore[no-any-return]


def block_size(network: Network, inputs: Any, asked: int | None) -> tuple[int, int]:
    """Returns (outputs of a block, all outputs) for blocks of equal size.

    Args:
        network: the network.
        inputs: each example has a gradient for every output.
        asked: the maximal block size; None: as many outputs as give `ROWS` gradients.
    """
    width = output_shape(network, inputs).shape[-1]
    most = max(1, ROWS // number_of(inputs)) if asked is None else asked
    blocks = -(-width // most)
    return -(-width // blocks), width


def block_weights(width: int, size: int) -> Float[Array, "blocks b k"]:
    """Returns weights that select `size` outputs each; surplus rows of the last block are zero."""
    blocks = -(-width // size)
    return jnp.eye(blocks * size, width).reshape(blocks, size, width)


def trace(kernels: Callable[[Weights], list[Array]], width: int, size: int) -> list[Array]:
    """Computes the mean over outputs of each output's kernel.

    Args:
        kernels: gives the [n, m] kernels of weights [b, k], as means over b.
        width: k.
        size: b.
    """
    weights = block_weights(width, size)
    parts = lax.map(kernels, weights)
    return [part.sum(0) * (size / width) for part in parts]


def full(pairs: Pairs, width: int, size: int) -> list[Float[Array, "n m k k"]]:
    """Computes the kernels of every pair of outputs.

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

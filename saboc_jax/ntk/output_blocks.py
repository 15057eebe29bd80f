"""Kernels of every output, a few outputs at a time.

Computing K_ij^ab = <df_a(x_i)/dw, df_b(x_j)/dw> for all pairs of k outputs at once needs n k
gradients of P parameters. The kernel is linear in the outputs: for weights W [b, k] the network W f
has the kernel of a block of outputs. So `full` loops over pairs of blocks and `trace` over blocks,
and at most n b gradients exist at a time. The price of `full` is that the gradients of a block are
recomputed for every block that it is paired with.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

ROWS = 256  # default number of gradients at once: images times outputs
Weights = Float[Array, "b k"]
Pairs = Callable[[Weights], Callable[[Weights], list[Array]]]


def block_size(width: int, number: int, asked: int | None) -> int:
    """Returns how many outputs a block has, for blocks of equal size.

    Args:
        width: the number of all outputs.
        number: the number of examples; each has a gradient for every output.
        asked: the maximal block size; None: as many outputs as give `ROWS` gradients.
    """
    most = max(1, ROWS // number) if asked is None else asked
    blocks = -(-width // most)
    return -(-width // blocks)


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

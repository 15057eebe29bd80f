"""Kernels of several batches at once, and computation in chunks of a batch."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def split_batches(
    kernel: Float[Array, "total ..."], batches: Sequence[Array]
) -> list[Float[Array, "n ..."]]:
    """Splits the rows of a kernel of concatenated batches into one kernel for each batch."""
    *ends, _ = accumulate(len(batch) for batch in batches)
    return jnp.split(kernel, ends)


def symmetric(kernels: Sequence[Array]) -> list[Array]:
    """Returns the kernels; the first (columns with themselves) is made exactly symmetric."""
    square = kernels[0]
    transposed = square.transpose(1, 0, 3, 2) if square.ndim == 4 else square.T
    return [(square + transposed) / 2, *kernels[1:]]


def in_chunks(run: Callable[[Array], Any], batch: Array, chunk: int | None) -> Any:
    """Applies `run` to a batch, one chunk of images after another.

    Args:
        run: gives a tree of arrays with a leading axis of images.
        batch: the images.
        chunk: the number of images in a chunk; None: all at once.
    """
    if chunk is None or chunk >= batch.shape[0]:
        return run(batch)
    whole = batch.shape[0] // chunk * chunk
    parts = batch[:whole].reshape(-1, chunk, *batch.shape[1:])
    done = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), lax.map(run, parts))
    if whole == batch.shape[0]:
        return done
    return jax.tree.map(lambda *ends: jnp.concatenate(ends), done, run(batch[whole:]))

"""Batches of inputs, trees of arrays with a leading axis of examples: joined, split, in chunks."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def number_of(inputs: Any) -> int:
    """Returns the number of examples of a batch.

    Raises:
        ValueError: if there is no array, or the arrays' leading axes differ.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    if len(sizes) != 1 or sizes == {()}:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
        raise ValueError(
            f"inputs of shapes {shapes}; allowed: arrays with one leading axis of examples"
        )
    return int(next(iter(sizes))[0])


def concatenated(batches: Sequence[Any]) -> Any:
    """Joins batches of one structure."""
    if len(batches) == 1:
        return batches[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *batches)


def repeated(inputs: Any, times: int) -> Any:
    """Repeats every example."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), inputs)


def leading(inputs: Any, number: int | None) -> Any:
    """Returns the first examples; None: all."""
    return jax.tree.map(lambda leaf: leaf[:number], inputs)


def one_more(inputs: Any) -> Any:
    """Returns the shapes of a batch with one example more: it tells the axis of examples."""
    number = number_of(inputs) + 1
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape[1:]), leaf.dtype), inputs
    )


def split_batches(
    kernel: Float[Array, "total ..."], batches: Sequence[Any]
) -> list[Float[Array, "n ..."]]:
    """Splits the rows of a kernel of concatenated batches into one kernel for each batch."""
    *ends, _ = accumulate(number_of(batch) for batch in batches)
    return jnp.split(kernel, ends)


def symmetric(kernels: Sequence[Array]) -> list[Array]:
    """Returns the kernels; the first (columns with themselves) is made exactly symmetric."""
    square = kernels[0]
    transposed = square.transpose(1, 0, 3, 2) if square.ndim == 4 else square.T
    return [(square + transposed) / 2, *kernels[1:]]


def in_chunks(run: Callable[[Any], Any], batch: Any, chunk: int | None) -> Any:
    """Applies `run` to a batch, one chunk of examples after another.

    Args:
        run: gives a tree of arrays with a leading axis of examples.
        batch: the inputs.
        chunk: the number of examples in a chunk; None: all at once.
    """
    number = number_of(batch)
    if chunk is None or chunk >= number:
        return run(batch)
    whole = number // chunk * chunk
    parts = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, chunk, *leaf.shape[1:]), batch)
    done = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), lax.map(run, parts))
    if whole == number:
        return done
    rest = jax.tree.map(lambda leaf: leaf[whole:], batch)
    return jax.tree.map(lambda *ends: jnp.concatenate(ends), done, run(rest))

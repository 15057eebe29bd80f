"""The inputs of an operator, read by index: arrays, or anything that is sliced like one."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Index = int | slice | Sequence[int] | np.ndarray


class Chunk(NamedTuple):
    """Some consecutive examples.

    Attributes:
        start: the first.
        stop: the one after the last.
        inputs: the examples; the last chunk repeats its first to be as long as the others.
    """

    start: int
    stop: int
    inputs: Any


class Examples:
    """A tree of arrays with a leading axis of examples, of which a chunk is in memory at a time.

    Attributes:
        inputs: the tree. Its leaves have `shape` and `dtype` and are read by slices, so that
            memory-mapped and Zarr arrays stay where they are.
        number: of examples.
    """

    def __init__(self, inputs: Any) -> None:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inputs)]
        sizes = {shape[:1] for shape in shapes}
        if len(sizes) != 1 or sizes & {(), (0,)}:
            raise ValueError(
                f"inputs of shapes {shapes}; allowed: arrays with one leading axis of examples, "
                "at least one"
            )
        self.inputs = inputs
        self.number = int(next(iter(sizes))[0])

    def part(self, start: int, stop: int) -> Any:
        """Returns consecutive examples."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[start:stop]), self.inputs)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yields all examples, in chunks of one size."""
        for start in range(0, self.number, size):
            stop = min(start + size, self.number)
            yield Chunk(start, stop, padded(self.part(start, stop), size))

    def pick(self, index: Index) -> Any:
        """Returns the examples of an index, which keep their axis.

        Raises:
            ValueError: if the index is outside, or picks none.
        """
        places = places_of(index, self.number)
        ends = np.flatnonzero(np.diff(places) != 1) + 1
        runs = [
            self.part(int(run[0]), int(run[-1]) + 1)  # neighbours are read together
            for run in np.split(places, ends)
        ]
        return runs[0] if len(runs) == 1 else jax.tree.map(_joined, *runs)


def _joined(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts)


def places_of(index: Index, number: int) -> np.ndarray:
    """Returns the examples of an index, from 0.

    Args:
        index: a number, a slice, or a sequence of numbers or of booleans.
        number: of examples.

    Raises:
        ValueError: if the index is outside, or picks none.
    """
    try:
        places = np.atleast_1d(np.arange(number)[index])  # type: ignore[index]
    except (IndexError, TypeError):
        places = np.zeros(0, int)
    if places.ndim != 1 or not len(places):
        raise ValueError(
            f"index {index!r} of {number} examples; allowed: a number, a slice or a list of "
            f"numbers from 0 to {number - 1} that picks at least one"
        )
    return places


def padded(inputs: Any, size: int) -> Any:
    """Returns a batch with its first example repeated at the end until it has this many."""

    def longer(leaf: Any) -> Any:
        missing = size - len(leaf)
        return jnp.concatenate([leaf, jnp.repeat(leaf[:1], missing, 0)]) if missing else leaf

    return jax.tree.map(longer, inputs)

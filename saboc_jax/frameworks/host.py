"""Arrays that a program fetches from the host when it runs, rather than holds as constants."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

WORDS = 2  # of 32 bits, in the seed of a draw


class Fetched:
    """A function from a seed to arrays that runs on the host, inside a compiled program, too.

    Args:
        function: from a whole number of 64 bits to NumPy arrays.
        example: arrays of the same shapes and types.
        identity: what tells it from others, in place of its code; None: the example's content.
    """

    def __init__(
        self,
        function: Callable[[int], Sequence[np.ndarray]],
        example: Sequence[np.ndarray],
        identity: str | None = None,
    ) -> None:
        self.function = function
        self.shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in example]
        self.identity = identity or content_of(example)

    def __repr__(self) -> str:
        """Names what it fetches: digests of programs hold this text."""
        return f"Fetched({self.identity})"

    def __call__(self, key: Any) -> list[Any]:
        """Returns the arrays of a key, which is consumed."""
        words = jax.random.bits(key, (WORDS,), np.uint32)
        found: list[Any] = jax.pure_callback(
            _OnHost(self), self.shapes, words, vmap_method="sequential"
        )
        return found


class _OnHost:
    """The callback of `Fetched`."""

    def __init__(self, fetched: Fetched) -> None:
        self.fetched = fetched

    def __repr__(self) -> str:
        return repr(self.fetched)

    def __call__(self, words: Any) -> list[np.ndarray]:
        high, low = (int(word) for word in np.asarray(words))
        arrays = self.fetched.function((high << 32) + low)
        return [
            np.asarray(array, shape.dtype)
            for array, shape in zip(arrays, self.fetched.shapes, strict=True)
        ]


def content_of(arrays: Sequence[np.ndarray]) -> str:
    """Returns a digest of the types, shapes and numbers of arrays."""
    hasher = hashlib.sha256()
    for array in arrays:
        hasher.update(f"{array.dtype}{array.shape}".encode())
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()[:16]

"""Paths of parameter trees, and a cached function that can be pickled."""

from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar

import jax
from jaxtyping import Array

Value = TypeVar("Value")
Path = tuple[str, ...]
Predicate = Callable[[Path], bool]


class Remembered(Generic[Value]):
    """A function of one argument that caches its latest values.

    Unlike a `functools.lru_cache`, it can be pickled; the copy's cache is empty.

    Args:
        function: takes a hashable argument.
        size: the number of cached values.
    """

    def __init__(self, function: Callable[[Any], Value], size: int) -> None:
        self._function, self._size = function, size
        self._cached = lru_cache(size)(function)

    def __call__(self, argument: Hashable) -> Value:
        return self._cached(argument)

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, (self._function, self._size)


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns the names along a pytree path."""
    return tuple(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def flatten(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Array]:
    """Flattens a nested mapping to {path: leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_names(path): leaf for path, leaf in leaves}

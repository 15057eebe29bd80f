"""Trees of parameters: the names along a path, and values that are remembered."""

from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar

import jax
from jaxtyping import Array

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """A function of one argument that keeps its latest values.

    Unlike what `functools.lru_cache` gives, it can be sent to another process; it is empty there.

    Args:
        function: of a hashable argument.
        size: values that are kept.
    """

    def __init__(self, function: Callable[[Any], Value], size: int) -> None:
        self._function, self._size = function, size
        self._cached = lru_cache(size)(function)

    def __call__(self, argument: Hashable) -> Value:
        return self._cached(argument)

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, (self._function, self._size)


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a pytree path."""
    return tuple(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def flatten(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Array]:
    """A nested mapping as {path: leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_names(path): leaf for path, leaf in leaves}

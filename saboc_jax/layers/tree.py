"""Paths of parameter trees, trees of names, and a cached function that can be pickled."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache, reduce
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


def nested(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """Turns {path: leaf} into a nested mapping."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


class Named:
    """A list of arrays as a tree of names, and back.

    Attributes:
        paths: the path of each array.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        folders = {path[:depth] for path in paths for depth in range(1, len(path))}
        if len(set(paths)) < len(paths) or folders & set(paths):  # names that clash are numbered
            paths = [(str(number), "/".join(path)) for number, path in enumerate(paths)]
        self.paths = tuple(paths)

    def tree(self, leaves: Sequence[Any]) -> dict[str, Any]:
        """Returns arrays, in the order of the paths, as nested dictionaries."""
        return nested(dict(zip(self.paths, leaves, strict=True)))

    def leaves(self, tree: Mapping[str, Any]) -> list[Any]:
        """Returns the arrays of nested dictionaries in the order of the paths."""
        return [reduce(lambda node, name: node[name], path, tree) for path in self.paths]

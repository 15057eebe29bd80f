"""A network as a chain of modules that are compiled one by one and shared by shape.

Where every architecture has other shapes, a program for each of them is compiled for longer than
it runs. A chain's links are small, and architectures of one space repeat them: a compiled link
is found again by its module (a frozen dataclass, equal by its fields) and the shapes of its
arguments, whichever network it stands in.
"""

import functools
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from saboc_jax.types import PRNGKey, Variables


class Link(NamedTuple):
    """One module of a chain.

    Attributes:
        name: its parameters' first name in the whole network.
        module: run in train mode.
        draw: `draw(key, shapes)` gives parameters.
        runs: what is compiled: the module, or the same with more channels and parameters padded by
            zeros, so that networks of other widths share its programs. The channels that are added
            must stay zero, forward and backward.
    """

    name: str
    module: nn.Module
    draw: Callable[..., Any]
    runs: nn.Module

    def init(self, key: PRNGKey, x: Any) -> Variables:
        """Parameters for inputs like x (an array or its shape); `key` is consumed."""
        return self.draw(key, parameter_shapes(self.module, x.shape[1:], x.dtype))

    def padded(self, params: Variables, x: Any) -> Variables:
        """Parameters of the module as those of `runs` for inputs like x, with zeros."""
        shapes = parameter_shapes(self.runs, x.shape[1:], x.dtype)
        return jax.tree.map(lambda p, like: _pad(p, like.shape), params, shapes)

    def output(self, params: Variables, x: Any) -> Any:
        """The shape of what it gives."""
        return jax.eval_shape(lambda p, x: self.module.apply({"params": p}, x), params, x)


@functools.lru_cache(maxsize=4096)
def parameter_shapes(module: nn.Module, shape: tuple[int, ...], dtype: Any) -> Any:
    """The parameters' shapes for inputs of a shape without the axis of examples."""
    one = jax.ShapeDtypeStruct((1, *shape), dtype)
    shapes: Any = jax.eval_shape(module.init, jax.random.key(0), one)
    return shapes["params"]


def _pad(array: Any, shape: tuple[int, ...]) -> Any:
    """Zeros behind every axis; on the host, where no shape wants a program of its own."""
    ends = [(0, size - own) for own, size in zip(array.shape, shape, strict=True)]
    if not any(end for _, end in ends):
        return array
    return jnp.pad(array, ends) if isinstance(array, jax.core.Tracer) else np.pad(array, ends)


class Chain(NamedTuple):
    """Modules applied one after another, from images to outputs [n, classes]."""

    links: tuple[Link, ...]

    @staticmethod
    def key(key: PRNGKey, place: int) -> PRNGKey:
        """The key of the link at a place."""
        return jax.random.fold_in(key, place)


@dataclass
class Pieces:
    """Compiled functions by what they are and the shapes they take.

    Attributes:
        max_pieces: how many are kept, the latest used.
        compilations: functions compiled.
        compile_seconds: time of it.
    """

    max_pieces: int = 1024
    compilations: int = 0
    compile_seconds: float = 0.0
    _compiled: dict[Hashable, Callable[..., Any]] = field(default_factory=dict)

    def run(self, name: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function with arrays.

        Args:
            name: functions of equal names do the same.
            function: traced once for each name and shapes of the arguments.
            *args: trees of arrays.
        """
        leaves, structure = jax.tree.flatten(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return function(*args)
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        signature = (name, structure, shapes)
        if signature not in self._compiled:
            start = time.perf_counter()
            self._compiled[signature] = jax.jit(function).lower(*args).compile()
            self.compile_seconds += time.perf_counter() - start
            self.compilations += 1
            if len(self._compiled) > self.max_pieces:
                del self._compiled[next(iter(self._compiled))]
        self._compiled[signature] = self._compiled.pop(signature)  # the newest is the last
        return self._compiled[signature](*args)

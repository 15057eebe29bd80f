"""A network as a chain of modules that are compiled one by one and shared by shape.

If every architecture has different shapes, compiling a program for each takes longer than running
it. A chain's links are single layers, and the architectures of a space repeat them: a compiled
link is looked up by its module (a frozen dataclass, equal by its fields) and the shapes of its
arguments, so networks share it.
"""

import functools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from saboc_jax.keys import key_numbered
from saboc_jax.layers.initialise import Initialiser, cut_parameters, draw_pool, pool_size
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.types import PRNGKey


class Link(NamedTuple):
    """One module of a chain.

    Attributes:
        module: the layer, run in train mode.
        runs: the compiled module: `module` itself, or a copy with more channels and parameters
            padded with zeros, so that networks of other widths share its programs. The added
            channels must stay zero, forward and backward.
        takes: the sources of its inputs: 0 for the images, 1 for the first link, and so on.
        paths: (first name in the link's parameters, its path in the whole network), for each name.
    """

    module: nn.Module
    runs: nn.Module
    takes: tuple[int, ...]
    paths: tuple[tuple[str, tuple[str, ...]], ...]

    def path(self, within: tuple[str, ...]) -> tuple[str, ...]:
        """Maps a parameter's path within the link to its path in the whole network."""
        return (*dict(self.paths)[within[0]], *within[1:])

    def padded(self, params: Any, xs: tuple[Any, ...]) -> Any:
        """Pads the module's parameters with zeros to the shapes of `runs` for inputs like xs."""
        shapes, _ = shapes_of(self.runs, *_without_examples(xs))
        return jax.tree.map(lambda p, like: _pad(p, like.shape), params, shapes)


class Chain(NamedTuple):
    """Modules applied one after another, from images to outputs [n, classes].

    Attributes:
        links: each takes outputs of earlier ones.
        initialiser: how kernels are drawn.
    """

    links: tuple[Link, ...]
    initialiser: Initialiser

    def draw(
        self,
        key: PRNGKey,
        image_shape: tuple[int, ...],
        dtype: Any,
        pieces: ProgramCache | None = None,
    ) -> Iterator[Any]:
        """Yields the parameters of each link, drawn from the key and the link's position.

        Kernels are cut from a pool whose size is rounded up to a power of two, so that few sizes
        of draws are compiled.

        Args:
            key: consumed.
            image_shape: of one image.
            dtype: of the images.
            pieces: the cache of compiled draws; None: the draw is part of another program.
        """
        outputs = [jax.ShapeDtypeStruct(tuple(image_shape), dtype)]
        for place, link in enumerate(self.links):
            shapes, output = shapes_of(link.module, *(outputs[i] for i in link.takes))
            outputs.append(output)
            size, name = _power_of_two(pool_size(shapes)), self.initialiser.distribution
            pool: Any = np.zeros(0, np.float32)
            if size:
                link_key = key_numbered(key, place)
                draw = partial(draw_pool, name=name, size=size)
                pool = (
                    pieces.run(("draw", name, size), draw, link_key) if pieces else draw(link_key)
                )
            if not isinstance(pool, jax.core.Tracer):
                pool = np.asarray(pool)  # cut on the host, which compiles nothing
            yield cut_parameters(pool, shapes, self.initialiser, lambda path: 0)

    def init(self, key: PRNGKey, image_shape: tuple[int, ...]) -> dict[str, Any]:
        """Draws the parameters of the whole network. `key` is consumed."""
        whole: dict[str, Any] = {}
        for link, params in zip(self.links, self.draw(key, image_shape, jnp.float32), strict=True):
            for name, (*outer, last) in link.paths:
                place = functools.reduce(lambda tree, step: tree.setdefault(step, {}), outer, whole)
                place[last] = params[name]
        return whole


@functools.lru_cache(maxsize=4096)
def shapes_of(module: nn.Module, *inputs: jax.ShapeDtypeStruct) -> tuple[Any, Any]:
    """Returns the shapes of a module's parameters and of its output for one example."""
    batch = [jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for x in inputs]
    output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *batch)
    shape = jax.ShapeDtypeStruct(output.shape[1:], output.dtype)
    return variables.get("params", {}), shape


def _without_examples(xs: tuple[Any, ...]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in xs]


def _power_of_two(size: int) -> int:
    """Returns the smallest power of two that is at least `size`; 0 for 0."""
    return 1 << (size - 1).bit_length() if size else 0


def _pad(array: Any, shape: tuple[int, ...]) -> Any:
    """Pads every axis at its end with zeros; on the host, which compiles nothing."""
    ends = [(0, size - length) for length, size in zip(array.shape, shape, strict=True)]
    if not any(end for _, end in ends):
        return array
    return jnp.pad(array, ends) if isinstance(array, jax.core.Tracer) else np.pad(array, ends)

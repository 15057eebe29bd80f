"""A network as a chain of modules that are compiled one by one and shared by shape.

Where every architecture has other shapes, a program for each of them is compiled for longer than
it runs. A chain's links are single layers, and architectures of one space repeat them: a compiled
link is found again by its module (a frozen dataclass, equal by its fields) and the shapes of its
arguments, whichever network it stands in.
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
        module: run in train mode.
        runs: what is compiled: the module, or the same with more channels and parameters padded by
            zeros, so that networks of other widths share its programs. The channels that are added
            must stay zero, forward and backward.
        takes: where its inputs come from: 0 for the images, 1 for the first link, and so on.
        paths: (first name of parameters, where that stands in the whole network) of all.
    """

    module: nn.Module
    runs: nn.Module
    takes: tuple[int, ...]
    paths: tuple[tuple[str, tuple[str, ...]], ...]

    def path(self, within: tuple[str, ...]) -> tuple[str, ...]:
        """The path in the whole network of a parameter whose path within the link is given."""
        return (*dict(self.paths)[within[0]], *within[1:])

    def padded(self, params: Any, xs: tuple[Any, ...]) -> Any:
        """Parameters of the module as those of `runs` for inputs like xs, with zeros."""
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
        """The parameters of each link in turn: numbers of the key and the link's place.

        Kernels are cut from more numbers than they need, a power of two, so that few sizes of
        draws are compiled.

        Args:
            key: consumed.
            image_shape: of one image.
            dtype: of the images.
            pieces: where compiled draws are kept; None: the draw is part of another program.
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
                pool = np.asarray(pool)  # cut on the host, where no shape wants a program
            yield cut_parameters(pool, shapes, self.initialiser, lambda path: 0)

    def init(self, key: PRNGKey, image_shape: tuple[int, ...]) -> dict[str, Any]:
        """The parameters of the whole network. `key` is consumed."""
        whole: dict[str, Any] = {}
        for link, params in zip(self.links, self.draw(key, image_shape, jnp.float32), strict=True):
            for name, (*outer, last) in link.paths:
                place = functools.reduce(lambda tree, step: tree.setdefault(step, {}), outer, whole)
                place[last] = params[name]
        return whole


@functools.lru_cache(maxsize=4096)
def shapes_of(module: nn.Module, *inputs: jax.ShapeDtypeStruct) -> tuple[Any, Any]:
    """The shapes of a module's parameters, and of its output for one example of those inputs."""
    batch = [jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for x in inputs]
    output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *batch)
    shape = jax.ShapeDtypeStruct(output.shape[1:], output.dtype)
    return variables.get("params", {}), shape


def _without_examples(xs: tuple[Any, ...]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in xs]


def _power_of_two(size: int) -> int:
    """The smallest that is no less; 0 for 0."""
    return 1 << (size - 1).bit_length() if size else 0


def _pad(array: Any, shape: tuple[int, ...]) -> Any:
    """Zeros behind every axis; on the host, where no shape wants a program of its own."""
    ends = [(0, size - length) for length, size in zip(array.shape, shape, strict=True)]
    if not any(end for _, end in ends):
        return array
    return jnp.pad(array, ends) if isinstance(array, jax.core.Tracer) else np.pad(array, ends)

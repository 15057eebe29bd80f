"""Networks of a space whose architectures are plain modules: a program for each.

A space's `make(arch)` gives the Flax module of an architecture, `module(images, train)`. Its
parameters in the searched cells have paths that begin with "cells_". Architectures with equal
modules share a program.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from saboc_jax.layers import linen
from saboc_jax.layers.chain import Chain, Link, shapes_of
from saboc_jax.layers.initialise import Initialiser, draw_parameters
from saboc_jax.layers.tree import Remembered
from saboc_jax.spaces.masks import check_architecture
from saboc_jax.types import (
    Architecture,
    Gates,
    Images,
    OneProgram,
    PRNGKey,
    ProgramEach,
    Variables,
)

CACHED = 1024  # number of cached programs


class Part(NamedTuple):
    """A part of a network that is a sequence of parts.

    Attributes:
        name: of its parameters in the whole network.
        module: unattached, in train mode.
        runs: the same with more channels, whose added parameters are zero and whose added channels
            stay zero, so that parts of other widths share its program; None: the module.
    """

    name: str
    module: nn.Module
    runs: nn.Module | None = None


def plain_networks(
    make: Callable[[Architecture], nn.Module],
    choices: Sequence[int],
    initialiser: Initialiser,
    *,
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    specialise: Callable[[Architecture], nn.Module] | None = None,
    chain: Callable[[Any, Initialiser], Chain | None] | None = None,
) -> ProgramEach:
    """Returns the networks of a space of plain modules.

    Args:
        make: gives the module of an architecture; equal modules are one network. Together with the
            text of an architecture, the values that it holds must determine the network.
        choices: number of options of each decision.
        initialiser: draws the parameters.
        name: the space's, for messages.
        image_shape: (height, width, channels) of one image.
        num_classes: width of the outputs.
        specialise: gives the module to train, with an error if the benchmark has no such network;
            None: `make`.
        chain: gives the links of a module, which are then compiled one by one; None, here or
            given by it: the module is one program.
    """
    facts: dict[str, Any] = {
        "image_shape": image_shape,
        "num_classes": num_classes,
        "specialise": specialise or make,
    }

    def program(module: nn.Module) -> OneProgram:
        links = chain(module, initialiser) if chain else None
        whole = partial(_init, module, image_shape, initialiser)
        return OneProgram(
            init=partial(_init_links, links, image_shape) if links else whole,
            apply=partial(_apply, module),
            train=partial(linen.train, module, {}),
            in_cells=in_cells,
            chain=links,
            **facts,
        )

    programs = Remembered(program, CACHED)
    return ProgramEach(
        program=lambda mask: programs(make(only_architecture(mask, choices, name))),
        recipe=(make, initialiser),
        **facts,
    )


def in_cells(path: tuple[str, ...]) -> bool:
    """Returns whether a parameter path lies in the searched cells."""
    return path[0].startswith("cells_")


def only_architecture(mask: Any, choices: Sequence[int], name: str) -> Architecture:
    """Returns the architecture of a one-hot mask (or the given architecture).

    Raises:
        ValueError: if a decision has no option or several: the space `name` has no supernet.
    """
    active = np.asarray(mask)
    if active.ndim == 1:
        return check_architecture(active, choices)
    if active.shape != (len(choices), max(choices)) or (active.sum(1) != 1).any():
        raise ValueError(
            f"a mask of shape {active.shape} with {sorted(set(active.sum(-1).tolist()))} options "
            f"a decision; allowed: one option each, for space {name!r} has no supernet"
        )
    return active.argmax(1)


def cheapest_listed(mask: Any, quantity: str) -> Architecture:
    """Returns the first option of each decision, for `Costs.cheapest`.

    A mask has one architecture in a space without supernets, so any of its members will do.
    """
    return np.asarray(mask, bool).argmax(1).astype(np.int32)


def in_sequence(
    parts: Sequence[Part], image_shape: tuple[int, ...], initialiser: Initialiser
) -> Chain:
    """Returns the chain of parts that are applied one after another."""
    links, x = [], jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32)
    for place, (name, module, runs) in enumerate(parts):
        shapes, x = shapes_of(module, x)
        paths = tuple((own, (name, own)) for own in shapes)
        links.append(Link(module, runs or module, (place,), paths))
    return Chain(tuple(links), initialiser)


def _init(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    initialiser: Initialiser,
    key: PRNGKey,
) -> Variables:
    """Draws the variables of a network. `key` is consumed."""
    images = jnp.zeros((1, *image_shape))
    shapes = jax.eval_shape(module.init, key, images)["params"]
    return {"params": draw_parameters(key, shapes, initialiser, lambda path: 0)}


def _init_links(links: Chain, image_shape: tuple[int, int, int], key: PRNGKey) -> Variables:
    """Draws the variables of a chain. `key` is consumed."""
    return {"params": links.init(key, image_shape)}


def _apply(
    module: nn.Module,
    variables: Variables,
    gates: Gates | None,
    images: Images,
    mutable: Sequence[str] = (),
) -> tuple[Array, Variables]:
    outputs: tuple[Array, Variables] = linen.evaluate(module, {}, variables, images, mutable)
    return outputs

"""The NAS-Bench-101 space (Ying et al., 2019) with a scoring network of a given size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.spaces.gated import check_images, check_positive
from saboc_jax.spaces.nas_bench_101 import cells, costs, texts
from saboc_jax.spaces.nas_bench_101.costs import NetworkSize
from saboc_jax.spaces.nas_bench_101.network import GraphNet, chain
from saboc_jax.spaces.plain import cheapest_listed, plain_networks
from saboc_jax.types import Costs, PRNGKey, SearchHints, SearchSpace

TRIES = 32  # changes that a mutation draws; it takes the first that gives a cell


def nas_bench_101(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes the NAS-Bench-101 space with a scoring network of a given size.

    A cell without a path from input to output, or with
    more edges than the benchmark has, is flagged as disconnected and ranked last; a random
    architecture is a cell in seven of ten draws. Mutations give cells only.

    Args:
        channels: of the stem and the first stack (the benchmark trained with 128).
        num_cells: cells per stack (the benchmark trained with 3).
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, of any size.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, or the initialiser is unknown.
    """
    check_positive(channels=channels, num_cells=num_cells, num_classes=num_classes)
    check_images(image_shape)
    size = NetworkSize(channels, num_cells, num_classes, image_shape)
    return SearchSpace(
        name="nas_bench_101",
        decisions=texts.DECISIONS,
        networks=plain_networks(
            lambda arch: GraphNet(cells.to_graph(arch), size),
            cells.CHOICES,
            find_initialiser(init),
            name="nas_bench_101",
            image_shape=image_shape,
            num_classes=num_classes,
            specialise=lambda arch: GraphNet(cells.trained_graph(arch), size),
            chain=chain,
        ),
        costs=Costs(
            of=lambda arch: costs.cost(cells.to_graph(arch), size),
            cheapest=cheapest_listed,
            trained=lambda arch: costs.cost(cells.trained_graph(arch)),
        ),
        hints=SearchHints(evolution=_evolution),
    )


def _evolution() -> dict[str, Any]:
    """Returns the options of evolution: mutations that give cells."""
    return {"mutate": mutate}


def mutate(key: PRNGKey, arch: Int[Array, " 26"]) -> Int[Array, " 26"]:
    """Adds or removes an edge, or changes an operation, so that a cell comes out.

    Draws `TRIES` changes of one decision and takes the first that gives a cell; if none does, the
    last. Works under jit and vmap.

    Args:
        key: consumed.
        arch: [26].
    """
    decision_key, shift_key = jax.random.split(key)
    decisions = jax.random.randint(decision_key, (TRIES,), 0, len(cells.CHOICES))
    choices = jnp.asarray(cells.CHOICES, arch.dtype)[decisions]
    shifts = 1 + jax.random.randint(shift_key, (TRIES,), 0, choices - 1, arch.dtype)
    place = jnp.arange(TRIES)
    changed = jnp.tile(arch, (TRIES, 1)).at[place, decisions].add(shifts)
    changed = changed.at[place, decisions].set(changed[place, decisions] % choices)
    are_cells = jax.vmap(_is_cell)(changed)
    return changed[jnp.where(are_cells.any(), are_cells.argmax(), TRIES - 1)]


def _is_cell(arch: Int[Array, " 26"]) -> Bool[Array, ""]:
    """Returns whether an architecture is a cell of the benchmark; works under jit and vmap."""
    ends = tuple(np.transpose(cells.EDGES))
    number = cells.VERTICES
    adjacency = jnp.zeros((number, number), bool).at[ends].set(arch[: len(cells.EDGES)] > 0)
    ahead = jnp.arange(number) == 0
    behind = jnp.arange(number) == number - 1
    for _ in range(number - 1):  # the longest path has as many edges
        ahead |= (ahead[:, None] & adjacency).any(0)
        behind |= (adjacency & behind).any(1)
    kept = ahead & behind
    edges = (adjacency & kept[:, None] & kept).sum()
    return (edges > 0) & (edges <= cells.MAX_EDGES)

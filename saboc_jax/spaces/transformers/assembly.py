"""A space of vision transformers from what its family decides."""

from collections.abc import Callable
from typing import Any

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.spaces.plain import cheapest_listed, plain_networks
from saboc_jax.spaces.transformers.layers import TransformerNet, as_chain
from saboc_jax.types import Architecture, Cost, Costs, Decisions, SearchSpace


def transformer_space(
    name: str,
    decisions: Decisions,
    size: Any,
    init: str,
    network: Callable[[Architecture, Any], TransformerNet],
    cost: Callable[[Architecture, Any], Cost],
    trained: Callable[[Architecture], Cost],
) -> SearchSpace:
    """Returns the space of a family of transformers.

    Args:
        name: of the space.
        decisions: of the family.
        size: the family's size of its networks, with `num_classes` and `image_shape`.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.
        network: gives the network of an architecture in a size.
        cost: gives its cost.
        trained: see `Costs`.

    Raises:
        ValueError: if the initialiser is unknown.
    """
    networks: Any = plain_networks(
        lambda arch: network(arch, size),
        decisions.choices,
        find_initialiser(init),
        name=name,
        image_shape=size.image_shape,
        num_classes=size.num_classes,
        chain=as_chain,
    )
    costs = Costs(of=lambda arch: cost(arch, size), cheapest=cheapest_listed, trained=trained)
    return SearchSpace(name, decisions, networks, costs)

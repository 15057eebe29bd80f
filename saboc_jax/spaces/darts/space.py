"""The DARTS space (Liu, Simonyan and Yang 2019) with a small network to score in.

The scoring network has two stages of N cells with C and 2C channels; the second starts with
the reduction cell. With C = 1 and N = 1 (one normal and one reduction cell) it has the size of
TE-NAS's NTK network, including its batch norm and ReLU after the last cell. The network that DARTS
trains does not have those. Both have a third stage, which adds no other kind of cell.

An edge is used if any active pair of its node contains it: with all pairs active a node sums over
all its inputs, like TE-NAS's supernet; with one pair it sums over two inputs, like a genotype.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.layers.initialise import Initialiser, find_initialiser
from saboc_jax.spaces.darts import cells, codec, texts
from saboc_jax.spaces.darts import costs as darts_costs
from saboc_jax.spaces.darts.cells import Genotype
from saboc_jax.spaces.darts.cheapest import cheapest
from saboc_jax.spaces.darts.costs import TRAINED, NetworkSize
from saboc_jax.spaces.darts.network import DartsNet
from saboc_jax.spaces.darts.structure import structure
from saboc_jax.spaces.darts.supernet import Encoding, GatedDartsNet, edge_groups
from saboc_jax.spaces.gated import check_halved, check_positive, gated_networks
from saboc_jax.spaces.masks import as_gates
from saboc_jax.spaces.notations import reading
from saboc_jax.types import (
    Architecture,
    Costs,
    Decisions,
    Gates,
    OneProgram,
    SearchHints,
    SearchSpace,
    Variables,
)

THIN_SHAPE = (3, 3, 1)  # input shape of the thin network


def edge_gates(gates: Gates, reduction: bool) -> Float[Array, "14 8"]:
    """Returns the weight of every operation on every edge of one kind of cell.

    Args:
        gates: [36, 10] of all decisions.
        reduction: True: the reduction cell; False: the normal cell.
    """
    start = reduction * cells.NUM_EDGES
    operations = gates[start : start + cells.NUM_EDGES, : len(cells.OPERATIONS)]
    start = cells.FIRST_PAIR + reduction * cells.STEPS
    pairs = gates[start : start + cells.STEPS] > 0
    kept = (pairs[..., None] & _edges_of_pairs()).any((0, 1))
    return operations * kept[:, None]


def _edges_of_pairs() -> np.ndarray:
    """Returns [4, 10, 14]: the edges that each pair of inputs of each node keeps."""
    found = np.zeros((cells.STEPS, max(map(len, cells.PAIRS)), cells.NUM_EDGES), bool)
    for node, pairs in enumerate(cells.PAIRS):
        for option, pair in enumerate(pairs):
            found[node, option, [cells.edge_number(source, 2 + node) for source in pair]] = True
    return found


ENCODING = Encoding(
    name="darts",
    choices=cells.CHOICES,
    option_names=cells.OPTION_NAMES,
    copies=1,
    edge_gates=edge_gates,
    to_genotype=cells.to_genotype,
    from_genotype=cells.from_genotype,
    canonical=codec.canonical,
    is_connected=cells.is_connected,
    cheapest=cheapest,
)


def darts(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes the DARTS space with a scoring network of a given size.

    Args:
        channels: C, channels of the first stage and of the stem.
        num_cells: N, cells of each of the two stages.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, an image side is odd, or the initialiser is
            unknown.
    """
    size = scoring_size(channels, num_cells, num_classes, image_shape)
    space = encoded(ENCODING, size, image_shape, find_initialiser(init))
    return space._replace(hints=SearchHints(removals=cells.removals))


def scoring_size(
    channels: int, num_cells: int, num_classes: int, image_shape: tuple[int, int, int]
) -> NetworkSize:
    """Returns the size of the scoring network; arguments and errors as in `darts`."""
    check_positive(channels=channels, num_cells=num_cells, num_classes=num_classes)
    check_halved(image_shape, times=1)
    return NetworkSize(
        channels=channels,
        layers=2 * num_cells,
        stem_multiplier=1,
        num_classes=num_classes,
        image_shape=image_shape,
        reduction_cells=(num_cells,),
        last_activation=True,
    )


def encoded(
    encoding: Encoding,
    size: NetworkSize,
    image_shape: tuple[int, int, int],
    initialiser: Initialiser,
) -> SearchSpace:
    """Makes the space of an encoding, with networks of the given size."""
    thin = size._replace(channels=1, layers=2, reduction_cells=(1,), thin=True)
    own = texts.own(encoding)
    notations = texts.notations(encoding)
    return SearchSpace(
        name=encoding.name,
        decisions=Decisions(
            choices=encoding.choices,
            option_names=encoding.option_names,
            to_string=lambda arch: codec.write_genotype(encoding.to_genotype(arch)),
            from_string=reading(encoding.name, own, texts.EXAMPLE, notations),
            notations=notations,
            gates=partial(as_gates, choices=encoding.choices),
            canonical=encoding.canonical,
            is_connected=encoding.is_connected,
        ),
        networks=replace(
            networks(encoding, size, image_shape, initialiser),
            thin_cell=networks(encoding, thin, THIN_SHAPE, initialiser),
        ),
        costs=costs(encoding, size),
    )


def networks(
    encoding: Encoding,
    size: NetworkSize,
    image_shape: tuple[int, int, int],
    initialiser: Initialiser,
) -> OneProgram:
    """Returns networks of the given size with the cells of an encoding."""
    return gated_networks(
        GatedDartsNet(size, encoding),
        encoding.choices,
        initialiser,
        image_shape=image_shape,
        layers_per_leaf=layers_per_leaf,
        num_classes=size.num_classes,
        specialise=lambda arch: DartsNet(encoding.to_genotype(arch), size),
        extract=partial(_extract, encoding, size),
    )


def costs(encoding: Encoding, size: NetworkSize) -> Costs:
    """Returns the costs of an encoding's architectures in a network of the given size.

    Their structure is that of the network that DARTS trains on images of that size.
    """
    trained = TRAINED._replace(num_classes=size.num_classes, image_shape=size.image_shape)
    return Costs(
        of=lambda arch: darts_costs.cost(encoding.to_genotype(arch), size),
        cheapest=lambda mask, quantity: encoding.cheapest(mask, quantity, size),
        trained=lambda arch: darts_costs.cost(encoding.to_genotype(arch), darts_costs.PUBLISHED),
        structure=lambda arch: structure(encoding.to_genotype(arch), trained),
    )


def layers_per_leaf(path: tuple[str, ...]) -> int:
    """Returns how many leading axes of a supernet parameter index layers: edges of a group."""
    return int(path[0].startswith("cells_") and "_input_" not in path[0])


def _extract(
    encoding: Encoding, size: NetworkSize, variables: Variables, arch: Architecture
) -> Variables:
    """Extracts the variables of `specialise(arch)` from those of the supernet."""
    genotype = encoding.to_genotype(arch)
    return {
        collection: _extract_collection(encoding.copies, size, tree, genotype)
        for collection, tree in variables.items()
    }


def _extract_collection(
    copies: int, size: NetworkSize, tree: Any, genotype: Genotype
) -> dict[str, Any]:
    out = {key: value for key, value in tree.items() if not key.startswith("cells_")}
    for layer in range(size.layers):
        inputs = {f"input_{i}": tree.get(f"cells_{layer}_input_{i}") for i in (0, 1)}
        cell = {name: value for name, value in inputs.items() if value}
        reduction = size.reduces(layer)
        groups = edge_groups(layer, reduction, copies)
        for number, (operation, source) in enumerate(genotype.cells()[reduction]):
            edge = cells.edge_number(source, 2 + number // 2) * copies + number % copies
            group = next(group for group in groups if edge in group.edges)
            stack = tree.get(f"{group.name}_{operation}")
            if stack:
                place = group.edges.index(edge)
                cell[f"edge_{number}"] = jax.tree.map(lambda leaf, p=place: leaf[p], stack)
        if cell:
            out[f"cells_{layer}"] = cell
    return out

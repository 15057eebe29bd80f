"""A space of all DARTS genotypes, including nodes that read one input twice.

In space `darts` the two inputs of a node differ, as in the search of Liu, Simonyan and Yang
(2019). Tables also contain genotypes with nodes that read one input twice, even with the same
operation (with separate weights): most of the 1,000 that SWAP trained do. Here an architecture
consists of the two lists of a genotype: the operation of each of the eight edges of the normal
cell, then of the reduction cell; then, in the same order, the node that each edge reads. One
program serves all genotypes, because its cells have every edge twice. So a key draws other
weights here than in space `darts`.
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.spaces.darts import cells, codec
from saboc_jax.spaces.darts.cells import Edge, Genotype
from saboc_jax.spaces.darts.cheapest import added, edge_costs
from saboc_jax.spaces.darts.costs import NetworkSize
from saboc_jax.spaces.darts.space import encoded, scoring_size
from saboc_jax.spaces.darts.supernet import Encoding, edges_of_cell
from saboc_jax.spaces.masks import check_architecture
from saboc_jax.types import Architecture, Cost, Gates, SearchSpace

COPIES = 2  # parallel edges from any node to a later one
SLOTS = COPIES * cells.STEPS  # edges of a genotype's cell
FIRST_SOURCE = len(cells.CELLS) * SLOTS  # the first decision about inputs
SOURCES = tuple(2 + slot // COPIES for slot in range(SLOTS))  # input options of each edge
CHOICES = (len(cells.OPERATIONS),) * FIRST_SOURCE + len(cells.CELLS) * SOURCES
OPTION_NAMES = (cells.OPERATIONS,) * FIRST_SOURCE + len(cells.CELLS) * tuple(
    tuple(map(str, range(number))) for number in SOURCES
)


def to_genotype(arch: Architecture) -> Genotype:
    """Returns the genotype of an architecture [32]; ValueError if it is malformed."""
    values = check_architecture(arch, CHOICES)
    options, sources = values[:FIRST_SOURCE], values[FIRST_SOURCE:]
    edges: list[Edge] = [
        (cells.OPERATIONS[int(option)], int(source))
        for option, source in zip(options, sources, strict=True)
    ]
    return cells.make_genotype(tuple(edges[:SLOTS]), tuple(edges[SLOTS:]))


def from_genotype(genotype: Genotype) -> Architecture:
    """Returns the architecture of a genotype; every genotype has exactly one."""
    edges = [edge for cell in genotype.cells() for edge in cell]
    options = [cells.OPERATIONS.index(operation) for operation, _ in edges]
    return np.array([*options, *(source for _, source in edges)], np.int32)


def canonical(arch: Architecture) -> str:
    """Returns a text that ignores the order of a node's two edges and the input of `none`."""
    genotype = to_genotype(arch)
    found = []
    for edges in genotype.cells():
        read = [(name, 0 if name == "none" else source) for name, source in edges]
        pairs = (sorted(read[first : first + COPIES]) for first in range(0, SLOTS, COPIES))
        found.append(tuple(edge for pair in pairs for edge in pair))
    return codec.write_genotype(cells.make_genotype(*found))


def edge_gates(gates: Gates, reduction: bool) -> Float[Array, "28 8"]:
    """Returns the weight of every operation on every edge of one kind of cell.

    Copy k of the edge from s to a node stands for the node's k-th edge reading s. Its weights are
    the gates of the k-th edge's operations times the gate of s among its inputs.

    Args:
        gates: [32, 8] of all decisions.
        reduction: True: the reduction cell; False: the normal cell.
    """
    slots, sources = _ends()
    operations = gates[reduction * SLOTS + slots, : len(cells.OPERATIONS)]
    weights = gates[FIRST_SOURCE + reduction * SLOTS + slots, sources]
    return operations * weights[:, None]


def _ends() -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each edge of a cell, the genotype edge it can stand for and its source node."""
    ends = np.array(edges_of_cell(COPIES))
    copies = np.arange(len(ends)) % COPIES
    return (ends[:, 1] - 2) * COPIES + copies, ends[:, 0]


def is_connected(mask: Any) -> bool:
    """Returns whether both cells connect an input to the output by operations other than `none`.

    Args:
        mask: [32, 8] booleans or gates; non-zero entries are active.

    Raises:
        ValueError: if the mask has another shape.
    """
    active = cells.active_options(mask, CHOICES)
    slots, sources = _ends()
    edges = np.array(edges_of_cell(COPIES))
    used = (
        active[first + slots, 1:].any(1) & active[FIRST_SOURCE + first + slots, sources]
        for first in range(0, FIRST_SOURCE, SLOTS)
    )
    return all(cells.reaches_a_node(edges[some]) for some in used)


def cheapest(mask: Any, quantity: str, size: NetworkSize) -> Architecture:
    """Returns a cheapest architecture of a supernet; chooses operation and input of each edge.

    Exact for parameters and multiply-accumulates, which are sums over edges. Depth is a longest
    path: each edge takes the options that make its own path shortest, assuming cell inputs of
    equal depth, so the result is only nearly the least deep.

    Args:
        mask: [32, 8] with at least one active option per decision.
        quantity: a field of `Cost`.
        size: the network for which costs are counted.
    """
    active = np.asarray(mask, bool)
    arch = active.argmax(1).astype(np.int32)
    costs = edge_costs(size)[Cost._fields.index(quantity)]
    for cell in range(len(cells.CELLS)):
        reached = [1, 1]  # depths of paths to the nodes; 0: no path
        for node in range(cells.STEPS):
            totals = []
            for slot in range(cell * SLOTS + COPIES * node, cell * SLOTS + COPIES * (node + 1)):
                values = np.full((2 + node, len(cells.OPERATIONS)), np.inf)
                for source in np.flatnonzero(active[FIRST_SOURCE + slot]):
                    own = costs[cell, cells.edge_number(int(source), 2 + node)]
                    own = added(own, quantity, reached[source])
                    values[source] = np.where(active[slot], own, np.inf)
                source, option = np.unravel_index(values.argmin(), values.shape)
                arch[slot], arch[FIRST_SOURCE + slot] = option, source
                totals.append(int(values.min()))
            reached.append(max(totals))
    return arch


ENCODING = Encoding(
    name="darts_genotypes",
    choices=CHOICES,
    option_names=OPTION_NAMES,
    copies=COPIES,
    edge_gates=edge_gates,
    to_genotype=to_genotype,
    from_genotype=from_genotype,
    canonical=canonical,
    is_connected=is_connected,
    cheapest=cheapest,
)


def darts_genotypes(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes the space of all genotypes; arguments, network and errors as `darts.space.darts`.

    A supernet averages over the active operations and inputs of an edge.
    """
    size = scoring_size(channels, num_cells, num_classes, image_shape)
    return encoded(ENCODING, size, image_shape, find_initialiser(init))

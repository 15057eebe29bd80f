"""Every DARTS genotype as an architecture, nodes that read one input twice included.

In `spaces.darts` the two inputs of a node differ, as in the search of Liu, Simonyan and Yang
(2019). Tables also hold genotypes whose nodes read one input twice, even with one operation, each
with weights of its own: most of the 1,000 that SWAP trained do. Here an architecture is a
genotype's two lists themselves: for each of the eight edges of the normal cell, then of the
reduction cell, its operation; then, in the same order, the node it reads. One program serves them
all, for its cells have every edge twice. So a key draws other weights here than in `spaces.darts`.
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

COPIES = 2  # edges from any node to a later one
SLOTS = COPIES * cells.STEPS  # edges of a genotype's cell
FIRST_SOURCE = len(cells.CELLS) * SLOTS  # the first decision about inputs
SOURCES = tuple(2 + slot // COPIES for slot in range(SLOTS))  # nodes that each may read
CHOICES = (len(cells.OPERATIONS),) * FIRST_SOURCE + len(cells.CELLS) * SOURCES
OPTION_NAMES = (cells.OPERATIONS,) * FIRST_SOURCE + len(cells.CELLS) * tuple(
    tuple(map(str, range(number))) for number in SOURCES
)


def to_genotype(arch: Architecture) -> Genotype:
    """The genotype of an architecture [32]; ValueError if it is none."""
    values = check_architecture(arch, CHOICES)
    options, sources = values[:FIRST_SOURCE], values[FIRST_SOURCE:]
    edges: list[Edge] = [
        (cells.OPERATIONS[int(option)], int(source))
        for option, source in zip(options, sources, strict=True)
    ]
    return cells.make_genotype(tuple(edges[:SLOTS]), tuple(edges[SLOTS:]))


def from_genotype(genotype: Genotype) -> Architecture:
    """The architecture of a genotype: there is one of each."""
    edges = [edge for cell in genotype.cells() for edge in cell]
    options = [cells.OPERATIONS.index(operation) for operation, _ in edges]
    return np.array([*options, *(source for _, source in edges)], np.int32)


def canonical(arch: Architecture) -> str:
    """A text that networks share whose nodes have the same two edges; `none` reads no input."""
    genotype = to_genotype(arch)
    found = []
    for edges in genotype.cells():
        read = [(name, 0 if name == "none" else source) for name, source in edges]
        pairs = (sorted(read[first : first + COPIES]) for first in range(0, SLOTS, COPIES))
        found.append(tuple(edge for pair in pairs for edge in pair))
    return codec.write_genotype(cells.make_genotype(*found))


def edge_gates(gates: Gates, reduction: bool) -> Float[Array, "28 8"]:
    """The weight of every operation on every edge of one kind of cell.

    Copy k of the edge from s to a node is what the node's k-th edge would be if it read s: its
    operations, by the weight of s among its inputs.

    Args:
        gates: [32, 8] of all decisions.
        reduction: of the reduction cell, else of the normal one.
    """
    slots, sources = _ends()
    operations = gates[reduction * SLOTS + slots, : len(cells.OPERATIONS)]
    weights = gates[FIRST_SOURCE + reduction * SLOTS + slots, sources]
    return operations * weights[:, None]


def _ends() -> tuple[np.ndarray, np.ndarray]:
    """Of each edge of a cell: which of a genotype's edges it may be, and what it reads."""
    ends = np.array(edges_of_cell(COPIES))
    copies = np.arange(len(ends)) % COPIES
    return (ends[:, 1] - 2) * COPIES + copies, ends[:, 0]


def is_connected(mask: Any) -> bool:
    """Do active operations other than `none` join an input and the output of both cells?

    Args:
        mask: [32, 8] booleans, or gates, of which the non-zero ones are active.

    Raises:
        ValueError: if the shape is another.
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
    """An architecture of a supernet that costs least: each edge by what it does and reads.

    Exact for parameters and multiply-accumulates, which are sums over edges. Depth is a longest
    path; each edge takes what makes its own path shortest, for inputs of equal depth a member that
    is nearly the least deep.

    Args:
        mask: [32, 8] with an active option of each decision.
        quantity: a field of `Cost`.
        size: the network whose cost counts.
    """
    active = np.asarray(mask, bool)
    arch = active.argmax(1).astype(np.int32)
    costs = edge_costs(size)[Cost._fields.index(quantity)]
    for cell in range(len(cells.CELLS)):
        reached = [1, 1]  # depths of paths to the nodes; 0: none
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
    """The space of all genotypes; arguments, network and errors as `spaces.darts.darts`.

    A supernet averages what an edge may do and what it may read.
    """
    size = scoring_size(channels, num_cells, num_classes, image_shape)
    return encoded(ENCODING, size, image_shape, find_initialiser(init))

"""DARTS cells as data: edges, decisions, and the inputs that a node keeps.

A cell (Liu, Simonyan and Yang 2019, "DARTS") has two inputs, nodes 0 and 1, and four
intermediate nodes, 2 to 5. Node i may read every node before it: 14 edges, each with one of
eight operations. A genotype keeps two inputs of every node, for the normal and for the reduction
cell of a network. The output of a cell concatenates the intermediate nodes.

An architecture has 36 decisions: the operation of the 14 edges of the normal cell, those of
the reduction cell, then for each node of the normal and of the reduction cell the pair of
distinct inputs that it keeps (1, 3, 6 and 10 options). Operations and inputs are separate
decisions, so that a search can decide the operations first, as TE-NAS does.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from saboc_jax.spaces.masks import check_architecture
from saboc_jax.types import Architecture, Removals

OPERATIONS = (
    "none",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "avg_pool_3x3",
    "max_pool_3x3",
)
CELLS = ("normal", "reduce")
STEPS = 4  # intermediate nodes
EDGES = tuple((source, 2 + node) for node in range(STEPS) for source in range(2 + node))
NUM_EDGES = len(EDGES)
PAIRS = tuple(tuple(itertools.combinations(range(2 + node), 2)) for node in range(STEPS))
"""The pairs of inputs of each intermediate node, in the order of their options."""

FIRST_PAIR = 2 * NUM_EDGES  # the first decision about inputs
CHOICES = (len(OPERATIONS),) * FIRST_PAIR + 2 * tuple(len(pairs) for pairs in PAIRS)
OPTION_NAMES = (OPERATIONS,) * FIRST_PAIR + 2 * tuple(
    tuple(f"{a}+{b}" for a, b in pairs) for pairs in PAIRS
)

Edge = tuple[str, int]
"""(operation, input)."""


class Genotype(NamedTuple):
    """Two cells as lists of (operation, input), two entries per intermediate node.

    More general than an architecture: both edges of a node may have the same input.

    Attributes:
        normal: eight edges of the normal cell.
        normal_concat: the nodes concatenated in its output.
        reduce: eight edges of the reduction cell.
        reduce_concat: the nodes concatenated in its output.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]

    def cells(self) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
        """Returns the edges of the normal and of the reduction cell."""
        return self.normal, self.reduce


def edge_number(source: int, target: int) -> int:
    """Returns the index of an edge in `EDGES`."""
    return EDGES.index((source, target))


def make_genotype(normal: tuple[Edge, ...], reduce: tuple[Edge, ...]) -> Genotype:
    """Makes a checked genotype; the cell outputs concatenate all intermediate nodes.

    Raises:
        ValueError: if a cell does not have eight edges, an operation is unknown, or an input
            does not come before its node.
    """
    joined = tuple(range(2, 2 + STEPS))
    return Genotype(_checked("normal", normal), joined, _checked("reduce", reduce), joined)


def to_genotype(arch: Architecture) -> Genotype:
    """Returns the genotype of an architecture: only the edges that its nodes keep.

    Args:
        arch: [36] options.

    Raises:
        ValueError: if `arch` is not an architecture.
    """
    values = check_architecture(arch, CHOICES)
    found = []
    for cell in range(len(CELLS)):
        edges: list[Edge] = []
        for node in range(STEPS):
            for source in PAIRS[node][int(values[FIRST_PAIR + cell * STEPS + node])]:
                option = values[cell * NUM_EDGES + edge_number(source, 2 + node)]
                edges.append((OPERATIONS[int(option)], source))
        found.append(tuple(edges))
    return make_genotype(*found)


def from_genotype(genotype: Genotype) -> Architecture:
    """Returns the architecture of a genotype; edges that no node keeps become `none`.

    Raises:
        ValueError: if both edges of a node have the same input and neither is `none`, because an
            architecture has one operation per edge.
    """
    arch = np.zeros(len(CHOICES), np.int32)
    for cell, edges in enumerate(genotype.cells()):
        for node in range(STEPS):
            pair = edges[2 * node : 2 * node + 2]
            sources = {source for _, source in pair}
            if len(sources) == 1 and "none" not in {operation for operation, _ in pair}:
                raise ValueError(
                    f"{CELLS[cell]} node {2 + node} reads inputs {pair[0][1], pair[1][1]}; "
                    "allowed: two different ones, or `none` on one of them (the space "
                    "darts_genotypes takes any two)"
                )
            found = next(n for n, two in enumerate(PAIRS[node]) if sources <= set(two))
            arch[FIRST_PAIR + cell * STEPS + node] = found
            for operation, source in pair:
                if operation != "none":
                    edge = cell * NUM_EDGES + edge_number(source, 2 + node)
                    arch[edge] = OPERATIONS.index(operation)
    return arch


def is_connected(mask: Any) -> bool:
    """Returns whether both cells connect an input to the output by operations other than `none`.

    Args:
        mask: [36, 10] booleans or gates; non-zero entries are active.

    Raises:
        ValueError: if the mask has another shape.
    """
    active = active_options(mask, CHOICES)
    some = active[:FIRST_PAIR, 1 : len(OPERATIONS)].any(1).reshape(len(CELLS), NUM_EDGES)
    used = some & kept_edges(active)
    return all(reaches_a_node(np.array(EDGES)[edges]) for edges in used)


def active_options(mask: Any, choices: tuple[int, ...]) -> np.ndarray:
    """Returns a mask or gates as booleans; ValueError if the shape does not fit the choices."""
    active = np.asarray(mask) != 0
    allowed = (len(choices), max(choices))
    if active.shape != allowed:
        raise ValueError(f"mask has shape {active.shape}; allowed: {allowed}")
    return active


def reaches_a_node(edges: np.ndarray) -> bool:
    """Returns whether an input reaches any node; edges [k, 2] are in order of their targets."""
    reached = {0, 1}
    for source, target in edges:
        if source in reached:
            reached.add(target)
    return len(reached) > 2


def kept_edges(active: Any) -> np.ndarray:
    """Returns [2, 14]: the edges of each cell in an active pair of inputs of a [36, 10] mask."""
    kept = np.zeros((len(CELLS), NUM_EDGES), bool)
    for cell in range(len(CELLS)):
        for node, pairs in enumerate(PAIRS):
            for option, pair in enumerate(pairs):
                if active[FIRST_PAIR + cell * STEPS + node][option]:
                    kept[cell, [edge_number(source, 2 + node) for source in pair]] = True
    return kept


def _checked(cell: str, edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    if len(edges) != 2 * STEPS:
        raise ValueError(f"the {cell} cell has {len(edges)} edges; allowed: {2 * STEPS}")
    for number, (operation, source) in enumerate(edges):
        node = 2 + number // 2
        if operation not in OPERATIONS:
            allowed = ", ".join(OPERATIONS)
            raise ValueError(f"{cell}: operation {operation!r} is unknown; allowed: {allowed}")
        if not 0 <= source < node:
            raise ValueError(f"{cell}: node {node} reads {source}; allowed: 0 to {node - 1}")
    return edges


def removals() -> Removals:
    """Returns the removal bundles for pruning, in the order of TE-NAS's search in this space.

    First operations are removed one by one until each edge has one. Then inputs of nodes are
    removed, each with all pairs that contain it.
    """
    bundles = np.repeat(np.eye(max(CHOICES), dtype=bool)[None], len(CHOICES), axis=0)
    bundles[FIRST_PAIR:] = False
    for cell in range(len(CELLS)):
        for node, pairs in enumerate(PAIRS):
            for option, pair in enumerate(pairs):
                bundles[FIRST_PAIR + cell * STEPS + node, list(pair), option] = True
    return Removals((np.arange(len(CHOICES)) >= FIRST_PAIR).astype(int), bundles)

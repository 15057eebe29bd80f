"""Finds the cheapest architecture in a DARTS supernet, for budgets.

Parameters and multiply-accumulates are sums over the kept edges, so each node takes the cheapest
pair of inputs with the cheapest operations on it; this is exact. Depth is a longest path: each
node takes the pair that makes its own path shortest, assuming cell inputs of equal depth, so the
result is only nearly the least deep.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int

from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.costs import NetworkSize, area, halved, operation_cost
from saboc_jax.types import Architecture, Cost


@lru_cache(16)
def edge_costs(size: NetworkSize) -> Int[np.ndarray, "3 2 14 8"]:
    """Returns the cost of each operation on each edge of each kind of cell, per field of `Cost`.

    Depth is that of one operation; parameters and multiply-accumulates are summed over all cells
    of the kind.

    Args:
        size: the network.
    """
    found = np.zeros((3, len(cells.CELLS), cells.NUM_EDGES, len(cells.OPERATIONS)), int)
    sides, channels = list(size.image_shape[:2]), size.channels
    for layer in range(size.layers):
        kind = int(size.reduces(layer))
        channels *= 1 + kind
        sides = halved(sides) if kind else sides
        for edge, (source, _) in enumerate(cells.EDGES):
            for option, name in enumerate(cells.OPERATIONS):
                strided = bool(kind) and source < 2
                params, macs, depth = operation_cost(
                    name, channels, area(sides), strided, size.affine
                )
                found[:2, kind, edge, option] += params, macs
                found[2, kind, edge, option] = depth
    return found


def added(costs: Int[np.ndarray, " 8"], quantity: str, reached: int) -> Int[np.ndarray, " 8"]:
    """Returns what each operation on an edge adds to its node: its cost, or the depth of its path.

    Args:
        costs: [8] costs of the operations.
        quantity: a field of `Cost`.
        reached: the depth of the path to the input of the edge; 0: there is no path.
    """
    if quantity != "depth":
        return costs
    paths = np.where(reached, costs + reached, 0)
    paths[0] = 0  # `none` ends every path
    return paths


def cheapest(mask: Any, quantity: str, size: NetworkSize) -> Architecture:
    """Returns a cheapest architecture of a supernet.

    Args:
        mask: [36, 10] with at least one active option per decision.
        quantity: a field of `Cost`.
        size: the network for which costs are counted.
    """
    active = np.asarray(mask, bool)
    arch = active.argmax(1).astype(np.int32)
    costs = edge_costs(size)[Cost._fields.index(quantity)]
    for cell in range(len(cells.CELLS)):
        reached = [1, 1]  # depths of paths to the nodes; 0: no path
        for node, pairs in enumerate(cells.PAIRS):
            best = []
            for option in np.flatnonzero(active[cells.FIRST_PAIR + cell * cells.STEPS + node]):
                chosen = {}
                for source in pairs[option]:
                    edge = cells.edge_number(source, 2 + node)
                    values = added(costs[cell, edge], quantity, reached[source])
                    decision = cell * cells.NUM_EDGES + edge
                    values = np.where(active[decision, : len(values)], values, np.inf)
                    chosen[decision] = (values.min(), int(values.argmin()))
                amounts = [value for value, _ in chosen.values()]
                total = max(amounts) if quantity == "depth" else sum(amounts)
                best.append((total, int(option), chosen))
            total, pair, chosen = min(best, key=lambda found: found[:2])
            arch[cells.FIRST_PAIR + cell * cells.STEPS + node] = pair
            for decision, (_, operation) in chosen.items():
                arch[decision] = operation
            reached.append(int(total))
    return arch

"""The gated DARTS network: one program for every genotype and every supernet.

A cell's edges are run by `lax.scan` over parameters stacked [edges, ...], and `lax.cond` runs
only operations whose gate is positive. Edges that keep the shape of their input are one scan.
A reduction cell needs two: edges from its inputs halve the image, those between its nodes do
not. The second may follow the first, for no edge leads from a node to an input.

An edge counts if any active pair of its node holds it: with all pairs active a node sums over
all its inputs, as TE-NAS's supernet does; with one it sums over two, as a genotype does.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.spaces import darts_cells as cells
from saboc_jax.spaces import edges
from saboc_jax.spaces.darts_costs import NetworkSize
from saboc_jax.spaces.darts_network import FactorisedReduction, Operation
from saboc_jax.spaces.gating import COLLECTIONS, apply_within
from saboc_jax.spaces.ops import (
    BatchNorm,
    Block,
    Conv,
    ConvNorm,
    Features,
    Relu,
    ReluConvNorm,
    Within,
)
from saboc_jax.types import Gates, Images, Variables

NUM_NODES = 2 + cells.STEPS
CONVOLUTIONS = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
_FROM_INPUTS = tuple(edge for edge, (source, _) in enumerate(cells.EDGES) if source < 2)
_FROM_NODES = tuple(edge for edge in range(cells.NUM_EDGES) if edge not in _FROM_INPUTS)


class EdgeGroup(NamedTuple):
    """Edges of a cell with the same shapes.

    Attributes:
        name: first part of the names of their parameters.
        edges: their places in `darts_cells.EDGES`.
        stride: of their operations.
    """

    name: str
    edges: tuple[int, ...]
    stride: int

    @property
    def parametric(self) -> tuple[str, ...]:
        """Operations with parameters; an identity of stride 2 is a convolution."""
        return CONVOLUTIONS + ("skip_connect",) * (self.stride == 2)


def edge_groups(layer: int, reduction: bool) -> tuple[EdgeGroup, ...]:
    """The groups of one cell, in the order they run in."""
    if not reduction:
        return (EdgeGroup(f"cells_{layer}_edges", tuple(range(cells.NUM_EDGES)), 1),)
    return (
        EdgeGroup(f"cells_{layer}_strided", _FROM_INPUTS, 2),
        EdgeGroup(f"cells_{layer}_inner", _FROM_NODES, 1),
    )


def edge_gates(gates: Gates, reduction: bool) -> Float[Array, "14 8"]:
    """The weight of every operation on every edge of one kind of cell.

    Args:
        gates: [36, 10] of all decisions.
        reduction: of the reduction cell, else of the normal one.
    """
    start = reduction * cells.NUM_EDGES
    operations = gates[start : start + cells.NUM_EDGES, : len(cells.OPERATIONS)]
    start = cells.FIRST_PAIR + reduction * cells.STEPS
    pairs = gates[start : start + cells.STEPS] > 0
    kept = (pairs[..., None] & _edges_of_pairs()).any((0, 1))
    return operations * kept[:, None]


def _edges_of_pairs() -> np.ndarray:
    """[4, 10, 14] which edges each pair of inputs of each node keeps."""
    found = np.zeros((cells.STEPS, max(map(len, cells.PAIRS)), cells.NUM_EDGES), bool)
    for node, pairs in enumerate(cells.PAIRS):
        for option, pair in enumerate(pairs):
            found[node, option, [cells.edge_number(source, 2 + node) for source in pair]] = True
    return found


class GatedDartsNet(nn.Module):
    """`DartsNet` of every genotype and of every supernet; the cells are data.

    Attributes:
        size: the network around the cells, without auxiliary head.
    """

    size: NetworkSize

    @nn.compact
    def __call__(self, images: Images, gates: Gates) -> Float[Array, "n ..."]:
        size, channels, after_reduction = self.size, self.size.channels, False
        x = images
        if not size.thin:
            stem = Conv(size.stem_multiplier * channels, 3, name="stem_conv")
            x = Block(name="stem_output")(ConvNorm(stem, BatchNorm(name="stem_norm"))(x))
        older = x
        for layer in range(size.layers):
            reduction = size.reduces(layer)
            channels *= 1 + reduction
            inputs = self._inputs(layer, channels, after_reduction, older, x)
            y = self._cell(layer, channels, inputs, edge_gates(gates, reduction))
            older, x = x, Block(name=f"cells_{layer}_output")(y)
            after_reduction = reduction
        if size.last_activation:
            x = Relu(name="last_relu")(BatchNorm(name="last_norm")(x))
        x = Block(name="features")(x)
        if size.thin:
            return x
        return nn.Dense(size.num_classes, name="classifier")(x.mean((1, 2)))

    def _inputs(
        self, layer: int, features: int, after_reduction: bool, older: Features, newer: Features
    ) -> Float[Array, "2 n height width c"]:
        """The two inputs of a cell, brought to its channels and to one shape."""
        if after_reduction:
            first: nn.Module = FactorisedReduction(features, name=f"cells_{layer}_input_0")
        else:
            first = ReluConvNorm(features, 1, name=f"cells_{layer}_input_0")
        second = ReluConvNorm(features, 1, name=f"cells_{layer}_input_1")
        return jnp.stack([first(older), second(newer)])

    def _cell(
        self,
        layer: int,
        features: int,
        inputs: Float[Array, "2 n height width c"],
        gates: Float[Array, "14 8"],
    ) -> Features:
        reduction = self.size.reduces(layer)
        if reduction:
            # Nodes 0 and 1 stay empty: the inputs are of another shape.
            _, n, height, width, c = inputs.shape
            nodes = jnp.zeros((NUM_NODES, n, -(-height // 2), -(-width // 2), c), inputs.dtype)
        else:
            nodes = jnp.zeros((NUM_NODES, *inputs.shape[1:]), inputs.dtype).at[:2].set(inputs)
        for group in edge_groups(layer, reduction):
            nodes = self._edges(group, features, nodes, inputs, gates)
        return jnp.concatenate(tuple(nodes[2:]), -1)

    def _edges(
        self,
        group: EdgeGroup,
        features: int,
        nodes: Float[Array, "6 n height width c"],
        inputs: Float[Array, "2 n _ _ c"],
        gates: Float[Array, "14 8"],
    ) -> Float[Array, "6 n height width c"]:
        """The nodes with the outputs of a group's edges added to their targets."""
        params = {
            f"{group.name}_{name}": self.param(
                f"{group.name}_{name}", _init_stack, group, name, features
            )
            for name in group.parametric
        }
        if self.is_initializing():
            return nodes
        mutable = tuple(c for c in COLLECTIONS if self.is_mutable_collection(c))
        stored: Any = {
            label: self.get_variable("batch_stats", label, default={}) for label in params
        }
        operations = [
            edges.Operation(option, partial(_run_option, group, features, name))
            for option, name in enumerate(cells.OPERATIONS)
            if name != "none"
        ]
        numbers = np.asarray(group.edges)
        nodes, states = edges.add_edges(
            operations,
            np.asarray(cells.EDGES)[numbers].tolist(),
            nodes,
            inputs if group.stride == 2 else None,
            gates[numbers],
            {"params": params, "batch_stats": stored},
            mutable,
        )
        for collection in mutable:
            for key, value in states.get(collection, {}).items():
                self.put_variable(collection, key, value)
        return nodes


def _init_stack(key: Array, group: EdgeGroup, name: str, features: int) -> Any:
    """Parameters [edges, ...] of one operation on a group's edges, all alike."""
    sample = jnp.zeros((1, 4, 4, features))
    params = Operation(name, features, group.stride).init(key, sample)["params"]
    number = len(group.edges)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), params)


def _run_option(
    group: EdgeGroup,
    features: int,
    name: str,
    collections: Variables,
    mutable: Sequence[str],
    x: Features,
) -> tuple[Features, Variables]:
    """One operation at an edge's collections."""
    module = Within(f"{group.name}_{name}", partial(Operation, name, features, group.stride))
    return apply_within(module, collections, mutable, x)

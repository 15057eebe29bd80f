"""The gated DARTS network: one program for every genotype and every supernet.

A cell's edges are run by `lax.scan` over parameters stacked [edges, ...], and `lax.cond` runs
only operations whose gate is positive. Edges that keep the shape of their input are one scan.
A reduction cell needs two: edges from its inputs halve the image, those between its nodes do
not. The second may follow the first, for no edge leads from a node to an input.

What is on an edge is up to an `Encoding`: that of `spaces.darts` has pairs of different inputs,
that of `spaces.darts_genotypes` any two.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers import edges
from saboc_jax.layers.gating import COLLECTIONS, apply_within
from saboc_jax.layers.ops import (
    BatchNorm,
    Block,
    Conv,
    ConvNorm,
    Features,
    Relu,
    ReluConvNorm,
    Within,
)
from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.costs import NetworkSize
from saboc_jax.spaces.darts.network import FactorisedReduction, Operation
from saboc_jax.types import Architecture, Gates, Images, Variables

NUM_NODES = 2 + cells.STEPS
CONVOLUTIONS = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")


class Encoding(NamedTuple):
    """What the decisions of an architecture are, and what they say of the edges of a cell.

    Attributes:
        name: of the space.
        choices: number of options of each decision.
        option_names: their names.
        copies: edges from any node to a later one, each with weights of its own; the edges of a
            cell are those of `darts_cells.EDGES`, each that many times in a row.
        edge_gates: `edge_gates(gates, reduction)`, the weight [edges, 8] of every operation on
            every edge of the reduction cell, or of the normal one.
        to_genotype: the genotype of an architecture; its edge i is copy `i % copies`.
        from_genotype: the architecture of a genotype; ValueError where there is none.
        canonical: a text that architectures of one network share.
        is_connected: does a mask join inputs and output of both cells?
        cheapest: `cheapest(mask, quantity, size)`, a member of a supernet that costs least in the
            network of that size.
    """

    name: str
    choices: tuple[int, ...]
    option_names: tuple[tuple[str, ...], ...]
    copies: int
    edge_gates: Callable[[Gates, bool], Float[Array, "edges 8"]]
    to_genotype: Callable[[Architecture], cells.Genotype]
    from_genotype: Callable[[cells.Genotype], Architecture]
    canonical: Callable[[Architecture], str]
    is_connected: Callable[[Any], bool]
    cheapest: Callable[[Any, str, NetworkSize], Architecture]


class EdgeGroup(NamedTuple):
    """Edges of a cell with the same shapes.

    Attributes:
        name: first part of the names of their parameters.
        edges: their places among the edges of the cell.
        stride: of their operations.
    """

    name: str
    edges: tuple[int, ...]
    stride: int

    @property
    def parametric(self) -> tuple[str, ...]:
        """Operations with parameters; an identity of stride 2 is a convolution."""
        return CONVOLUTIONS + ("skip_connect",) * (self.stride == 2)


def edges_of_cell(copies: int = 1) -> tuple[tuple[int, int], ...]:
    """(source, target) of every edge of a cell: `darts_cells.EDGES`, each so many times."""
    return tuple(edge for edge in cells.EDGES for _ in range(copies))


def edge_groups(layer: int, reduction: bool, copies: int = 1) -> tuple[EdgeGroup, ...]:
    """The groups of one cell, in the order they run in."""
    sources = [source for source, _ in edges_of_cell(copies)]
    if not reduction:
        return (EdgeGroup(f"cells_{layer}_edges", tuple(range(len(sources))), 1),)
    from_inputs = tuple(edge for edge, source in enumerate(sources) if source < 2)
    from_nodes = tuple(edge for edge, source in enumerate(sources) if source >= 2)
    return (
        EdgeGroup(f"cells_{layer}_strided", from_inputs, 2),
        EdgeGroup(f"cells_{layer}_inner", from_nodes, 1),
    )


class GatedDartsNet(nn.Module):
    """`DartsNet` of every genotype and of every supernet; the cells are data.

    Attributes:
        size: the network around the cells, without auxiliary head.
        encoding: what the gates of the decisions say of the edges.
    """

    size: NetworkSize
    encoding: Encoding

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
            y = self._cell(layer, channels, inputs, self.encoding.edge_gates(gates, reduction))
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
        gates: Float[Array, "edges 8"],
    ) -> Features:
        reduction = self.size.reduces(layer)
        if reduction:
            # Nodes 0 and 1 stay empty: the inputs are of another shape.
            _, n, height, width, c = inputs.shape
            nodes = jnp.zeros((NUM_NODES, n, -(-height // 2), -(-width // 2), c), inputs.dtype)
        else:
            nodes = jnp.zeros((NUM_NODES, *inputs.shape[1:]), inputs.dtype).at[:2].set(inputs)
        for group in edge_groups(layer, reduction, self.encoding.copies):
            nodes = self._edges(group, features, nodes, inputs, gates)
        return jnp.concatenate(tuple(nodes[2:]), -1)

    def _edges(
        self,
        group: EdgeGroup,
        features: int,
        nodes: Float[Array, "6 n height width c"],
        inputs: Float[Array, "2 n _ _ c"],
        gates: Float[Array, "edges 8"],
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
            np.asarray(edges_of_cell(self.encoding.copies))[numbers].tolist(),
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

"""The gated DARTS network: one program for every genotype and every supernet.

`lax.scan` runs the edges of a cell over parameters stacked [edges, ...], and `lax.cond` runs
only operations with a positive gate. Edges that keep the shape of their input form one scan.
A reduction cell needs two scans: edges from its inputs halve the image, edges between its nodes
do not. The second scan can follow the first because no edge leads from a node to an input.

An `Encoding` defines the operations on each edge: space `darts` has pairs of different inputs,
space `darts_genotypes` any two inputs.
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
    """The decisions of an architecture, and the edges of a cell that they define.

    Attributes:
        name: name of the space.
        choices: number of options of each decision.
        option_names: names of the options.
        copies: number of parallel edges from any node to a later one, each with its own weights;
            a cell has the edges of `cells.EDGES`, each repeated this many times in a row.
        edge_gates: `edge_gates(gates, reduction)` returns the weight [edges, 8] of every operation
            on every edge of the reduction or the normal cell.
        to_genotype: returns the genotype of an architecture; its edge i is copy `i % copies`.
        from_genotype: returns the architecture of a genotype; ValueError if there is none.
        canonical: returns a text shared by architectures with the same network.
        is_connected: tells whether a mask connects an input to the output in both cells.
        cheapest: `cheapest(mask, quantity, size)` returns a cheapest architecture of a supernet in
            a network of that size.
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
        name: prefix of the names of their parameters.
        edges: their indices among the edges of the cell.
        stride: stride of their operations.
    """

    name: str
    edges: tuple[int, ...]
    stride: int

    @property
    def parametric(self) -> tuple[str, ...]:
        """Operations with parameters; `skip_connect` with stride 2 is a convolution."""
        return CONVOLUTIONS + ("skip_connect",) * (self.stride == 2)


def edges_of_cell(copies: int = 1) -> tuple[tuple[int, int], ...]:
    """Returns (source, target) of every edge: `cells.EDGES`, each repeated `copies` times."""
    return tuple(edge for edge in cells.EDGES for _ in range(copies))


def edge_groups(layer: int, reduction: bool, copies: int = 1) -> tuple[EdgeGroup, ...]:
    """Returns the edge groups of one cell in the order of execution."""
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
    """`DartsNet` of every genotype and of every supernet; the gates select the cells.

    Attributes:
        size: the network around the cells, without auxiliary head.
        encoding: maps the gates of the decisions to gates of the edges.
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
        """Maps the two inputs of a cell to its number of channels and to one shape."""
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
            # Nodes 0 and 1 stay empty because the inputs have another shape.
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
        """Adds the outputs of a group's edges to their target nodes."""
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
    """Returns parameters [edges, ...] of one operation on a group's edges, all equal."""
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
    """Runs one operation with the collections of an edge."""
    module = Within(f"{group.name}_{name}", partial(Operation, name, features, group.stride))
    return apply_within(module, collections, mutable, x)

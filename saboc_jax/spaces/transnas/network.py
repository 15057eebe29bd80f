"""The networks of TransNAS-Bench-101 (Duan et al., 2021), plain modules to train or inspect.

Stem: 3x3 convolution of stride 2 to C / 2 channels, batch norm, ReLU, 3x3 convolution of stride 2
to C channels, batch norm. Then modules of two cells or residual blocks, global average pooling and
a dense layer, the head of the benchmark's two classifications; its other tasks have other heads.

One program serves every cell: the gated network has all operations of each edge and runs those
whose gates are positive. Backbones differ in shape: their kernels are compiled by block, and for
other scores each has a program of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.ops import BatchNorm, Block, Conv, ConvNorm, Features, ReluConvNorm
from saboc_jax.spaces.darts.network import FactorisedReduction
from saboc_jax.spaces.gated import edge_parameters, gated_edges
from saboc_jax.spaces.nas_bench_201.cells import EDGES, NUM_NODES
from saboc_jax.spaces.plain import Part
from saboc_jax.spaces.transnas.costs import TRAINED, NetworkSize, Step, stem_channels, steps
from saboc_jax.spaces.transnas.micro import KERNELS, OPERATIONS, SKELETON
from saboc_jax.types import Architecture, Gates, Images, Variables


class Stem(nn.Module):
    """Two convolutions of stride 2 with batch norm, ReLU between."""

    size: NetworkSize
    train: bool = True

    @nn.compact
    def __call__(self, images: Images) -> Features:
        conv = Conv(stem_channels(self.size), 3, 2, name="conv")
        x = ConvNorm(conv, BatchNorm(self.train, name="norm"))(images)
        x = ReluConvNorm(self.size.channels, 3, 2, self.train, name="second")(x)
        return Block(name="output")(x)


class Head(nn.Module):
    """Global average pooling and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "n classes"]:
        x = Block(name="features")(x)
        return nn.Dense(self.num_classes, name="classifier")(x.mean((1, 2)))


class Skip(nn.Module):
    """A skip that keeps channels and size."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return x


def _edge(operation: str, step: Step, train: bool = True) -> Callable[..., nn.Module]:
    """Returns what makes the module of an operation other than `none`."""
    if operation in KERNELS:
        return partial(ReluConvNorm, step.outputs, KERNELS[operation], step.stride, train)
    return Skip if step.stride == 1 else partial(FactorisedReduction, step.outputs, train)


class Cell(nn.Module):
    """One cell.

    Attributes:
        operations: the name of the operation on each of the six edges.
        step: channels and stride.
        train: True: batch norm uses batch statistics; False: running statistics.
    """

    operations: tuple[str, ...]
    step: Step
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        nodes = [x]
        strided = x[:, :: self.step.stride, :: self.step.stride]
        for target in range(1, NUM_NODES):
            y = jnp.zeros((*strided.shape[:-1], self.step.outputs), x.dtype)
            for number, (source, end) in enumerate(EDGES):
                if end == target and self.operations[number] != "none":
                    y = y + self._edge(number, source, nodes[source])
            nodes.append(y)
        return nodes[-1]

    def _edge(self, number: int, source: int, x: Features) -> Features:
        outputs = self.step.outputs
        step = Step(outputs, outputs, 1) if source else self.step
        make = _edge(self.operations[number], step, self.train)
        return make(name=f"edge_{number}")(x)


class ResidualBlock(nn.Module):
    """Two ReLU-conv-norm and a shortcut: a 1x1 convolution and batch norm where shapes differ."""

    step: Step
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        inputs, outputs, stride = self.step
        y = ReluConvNorm(outputs, 3, stride, self.train, name="conv_a")(x)
        y = ReluConvNorm(outputs, 3, 1, self.train, name="conv_b")(y)
        if stride == 1 and inputs == outputs:
            return x + y
        conv = Conv(outputs, 1, stride, name="shortcut")
        return y + ConvNorm(conv, BatchNorm(self.train, name="shortcut_norm"))(x)


class TransNet(nn.Module):
    """The network of one cell in the benchmark's backbone, or of one backbone.

    Attributes:
        modules: the types of the modules.
        operations: the cell; None: residual blocks.
        size: channels, blocks, classes and images.
    """

    modules: tuple[int, ...]
    operations: tuple[str, ...] | None = None
    size: NetworkSize = TRAINED

    def parts(self, train: bool = True) -> list[Part]:
        """Returns the parts in order."""
        found = [Part("stem", Stem(self.size, train, parent=None))]
        for number, module in enumerate(steps(self.modules, self.size)):
            for place, step in enumerate(module):
                block = (
                    ResidualBlock(step, train, parent=None)
                    if self.operations is None
                    else Cell(self.operations, step, train, parent=None)
                )
                found.append(Part(f"cells_{number}_{place}", block))
        return [*found, Part("head", Head(self.size.num_classes, parent=None))]

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        x = images
        for name, module, _ in self.parts(train):
            x = module.clone(parent=self, name=name)(x)
            x = Block(name=f"{name}_output")(x) if name.startswith("cells_") else x
        return x


class GatedTransNet(nn.Module):
    """The network of every cell and of every supernet; the gates select the cell.

    Attributes:
        modules: the types of the modules.
        size: channels, blocks, classes and images.
    """

    modules: tuple[int, ...]
    size: NetworkSize = TRAINED

    @nn.compact
    def __call__(self, images: Images, gates: Gates) -> Float[Array, "n classes"]:
        x = Stem(self.size, name="stem")(images)
        for number, module in enumerate(steps(self.modules, self.size)):
            for place, step in enumerate(module):
                name = f"cells_{number}_{place}"
                x = Block(name=f"{name}_output")(self._cell(name, step, x, gates))
        return Head(self.size.num_classes, name="head")(x)

    def _cell(self, name: str, step: Step, x: Features, gates: Gates) -> Features:
        shape = x[:, :: step.stride, :: step.stride].shape[:-1]
        nodes = jnp.zeros((NUM_NODES, *shape, step.outputs), x.dtype)
        inputs = None if step.stride == 1 else x[None]
        nodes = nodes.at[0].set(x) if inputs is None else nodes
        for group in edge_groups(name, step):
            ends = [EDGES[edge] for edge in group.edges]
            gate = gates[np.asarray(group.edges)]
            given = inputs if group.step.stride > 1 else None
            options = {
                option: _edge(operation, group.step)
                for option, operation in enumerate(OPERATIONS)
                if operation != "none"
            }
            nodes = gated_edges(self, group.name, options, ends, nodes, given, gate)
        return nodes[-1]


class EdgeGroup(NamedTuple):
    """Edges of a cell with the same shapes.

    Attributes:
        name: prefix of the names of their parameters.
        edges: their indices in `EDGES`.
        step: channels and stride of their operations.
    """

    name: str
    edges: tuple[int, ...]
    step: Step


def edge_groups(name: str, step: Step) -> tuple[EdgeGroup, ...]:
    """Returns the groups of edges of the cell `name`, in the order of execution."""
    every = tuple(range(len(EDGES)))
    if step.stride == 1:
        return (EdgeGroup(f"{name}_edges", every, step),)
    inner = Step(step.outputs, step.outputs, 1)
    return (
        EdgeGroup(f"{name}_strided", tuple(e for e in every if EDGES[e][0] == 0), step),
        EdgeGroup(f"{name}_inner", tuple(e for e in every if EDGES[e][0]), inner),
    )


def extract(size: NetworkSize, variables: Variables, arch: Architecture) -> Variables:
    """Extracts the variables of a cell's plain network from those of the gated one."""
    return {name: _extract_collection(size, tree, arch) for name, tree in variables.items()}


def _extract_collection(size: NetworkSize, tree: Any, arch: Architecture) -> dict[str, Any]:
    found = {name: value for name, value in tree.items() if not name.startswith("cells_")}
    for number, module in enumerate(steps(SKELETON, size)):
        for place, step in enumerate(module):
            name = f"cells_{number}_{place}"
            cell = {
                f"edge_{edge}": edge_parameters(tree, group.name, int(arch[edge]), index)
                for group in edge_groups(name, step)
                for index, edge in enumerate(group.edges)
            }
            cell = {edge: value for edge, value in cell.items() if value}
            found |= {name: cell} if cell else {}
    return found

"""The networks of TransNAS-Bench-101 (Duan et al., 2021), plain modules to train or inspect.

Stem: 3x3 convolution of stride 2 to C / 2 channels, batch norm, ReLU, 3x3 convolution of stride 2
to C channels, batch norm. Then modules of two cells or residual blocks, global average pooling and
a dense layer, the head of the benchmark's two classifications; its other tasks have other heads.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.ops import BatchNorm, Block, Conv, ConvNorm, Features, ReluConvNorm
from saboc_jax.spaces.darts.network import FactorisedReduction
from saboc_jax.spaces.nas_bench_201.cells import EDGES, NUM_NODES
from saboc_jax.spaces.transnas.costs import TRAINED, NetworkSize, Step, stem_channels, steps
from saboc_jax.spaces.transnas.micro import KERNELS
from saboc_jax.types import Images


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
        name, operation = f"edge_{number}", self.operations[number]
        stride = 1 if source else self.step.stride
        features = self.step.outputs
        if operation in KERNELS:
            return ReluConvNorm(features, KERNELS[operation], stride, self.train, name=name)(x)
        if stride == 1:
            return x
        return FactorisedReduction(features, self.train, name=name)(x)


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

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        stem = Conv(stem_channels(self.size), 3, 2, name="stem_conv")
        x = ConvNorm(stem, BatchNorm(train, name="stem_norm"))(images)
        x = ReluConvNorm(self.size.channels, 3, 2, train, name="stem")(x)
        x = Block(name="stem_output")(x)
        for number, module in enumerate(steps(self.modules, self.size)):
            for place, step in enumerate(module):
                name = f"cells_{number}_{place}"
                if self.operations is None:
                    x = ResidualBlock(step, train, name=name)(x)
                else:
                    x = Cell(self.operations, step, train, name=name)(x)
                x = Block(name=f"{name}_output")(x)
        x = Block(name="features")(x)
        return nn.Dense(self.size.num_classes, name="classifier")(x.mean((1, 2)))

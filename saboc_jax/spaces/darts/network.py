"""The plain Flax network of one DARTS genotype, with auxiliary head and drop-path for training.

Deviation from the published search code: no batch norm follows a pool, as in the network that
is trained after the search.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.ops import (
    BatchNorm,
    Block,
    Conv,
    ConvNorm,
    Features,
    Relu,
    ReluConvNorm,
    average_pool,
    max_pool,
)
from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.cells import Edge, Genotype
from saboc_jax.spaces.darts.costs import TRAINED, NetworkSize
from saboc_jax.types import Images


class FactorisedReduction(nn.Module):
    """ReLU, two concatenated 1x1 convolutions of stride 2 on grids one pixel apart, batch norm.

    If a side is odd, the shifted grid ends on a padding pixel.
    """

    features: int
    train: bool = True
    affine: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        x = Relu(name="relu")(x)
        first = self.features // 2
        shifted = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))[:, 1:, 1:]
        parts = [Conv(first, 1, 2, name="conv_a")(x)] if first else []
        parts.append(Conv(self.features - first, 1, 2, name="conv_b")(shifted))
        return BatchNorm(self.train, self.affine, name="norm")(jnp.concatenate(parts, -1))


class DepthwiseConv(nn.Module):
    """ReLU, depthwise k x k, pointwise, batch norm: `dil_conv`, or half of `sep_conv`."""

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    train: bool = True
    affine: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        x = Relu(name="relu")(x)
        groups = x.shape[-1]
        x = Conv(groups, self.kernel_size, self.stride, self.dilation, groups, name="depthwise")(x)
        pointwise = Conv(self.features, 1, name="pointwise")
        return ConvNorm(pointwise, BatchNorm(self.train, self.affine, name="norm"))(x)


class Operation(nn.Module):
    """One of the eight operations by name."""

    operation: str
    features: int
    stride: int = 1
    train: bool = True
    affine: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        flags: Any = {"train": self.train, "affine": self.affine}
        if self.operation.startswith("sep_conv"):
            size = int(self.operation[-1])
            x = DepthwiseConv(self.features, size, self.stride, **flags, name="conv_a")(x)
            return DepthwiseConv(self.features, size, **flags, name="conv_b")(x)
        if self.operation.startswith("dil_conv"):
            size = int(self.operation[-1])
            return DepthwiseConv(self.features, size, self.stride, 2, **flags, name="conv")(x)
        if self.operation == "avg_pool_3x3":
            return average_pool(x, 3, self.stride)
        if self.operation == "max_pool_3x3":
            return max_pool(x, 3, self.stride)
        if self.operation == "none":
            return jnp.zeros_like(x[:, :: self.stride, :: self.stride])
        if self.stride == 1:
            return x
        return FactorisedReduction(self.features, **flags, name="reduce")(x)


class Cell(nn.Module):
    """One cell: maps two inputs to `features` channels and concatenates four nodes.

    Attributes:
        edges: (operation, input), two for each node.
        features: channels of a node.
        reduction: stride 2 on edges from the inputs.
        after_reduction: the older input is twice as large as the newer.
        train: True: batch norm uses batch statistics; False: running statistics.
        affine: batch norms inside operations have scale and bias.
    """

    edges: tuple[Edge, ...]
    features: int
    reduction: bool
    after_reduction: bool
    train: bool = True
    affine: bool = True

    @nn.compact
    def __call__(self, older: Features, newer: Features, drop_path: Any = None) -> Features:
        """Returns the concatenated nodes.

        Args:
            older: [n, h, w, c] output of the cell before the last; twice as large after a
                reduction.
            newer: [n, h, w, c] output of the last cell.
            drop_path: probability, in training, that an operation other than the identity is
                dropped for an example; None: drop nothing.
        """
        if self.after_reduction:
            older = FactorisedReduction(self.features, self.train, name="input_0")(older)
        else:
            older = ReluConvNorm(self.features, 1, 1, self.train, name="input_0")(older)
        nodes = [older, ReluConvNorm(self.features, 1, 1, self.train, name="input_1")(newer)]
        for node in range(cells.STEPS):
            pair = range(2 * node, 2 * node + 2)
            first, second = (self._edge(number, nodes, drop_path) for number in pair)
            nodes.append(first + second)
        return jnp.concatenate(nodes[2:], -1)

    def _edge(self, number: int, nodes: list[Features], drop_path: Any) -> Features:
        operation, source = self.edges[number]
        stride = 2 if self.reduction and source < 2 else 1
        y = Operation(
            operation, self.features, stride, self.train, self.affine, name=f"edge_{number}"
        )(nodes[source])
        identity = operation == "skip_connect" and stride == 1
        if not self.train or drop_path is None or identity or self.is_initializing():
            return y
        keep = 1.0 - drop_path
        kept = jax.random.bernoulli(self.make_rng("drop_path"), keep, (len(y), 1, 1, 1))
        return y * kept / keep


class AuxiliaryHead(nn.Module):
    """The classifier after two thirds of the network, for features of 8 x 8 pixels."""

    num_classes: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "n classes"]:
        if x.shape[1:3] != (8, 8):
            raise ValueError(f"the auxiliary head sees {x.shape[1:3]} pixels; allowed: (8, 8)")
        x = nn.avg_pool(Relu(name="relu")(x), (5, 5), (3, 3))
        x = BatchNorm(self.train, name="norm_a")(Conv(128, 1, name="conv_a")(x))
        x = Relu(name="relu_a")(x)
        x = nn.Conv(768, (2, 2), padding="VALID", use_bias=False, name="conv_b")(x)
        x = Relu(name="relu_b")(BatchNorm(self.train, name="norm_b")(x))
        return nn.Dense(self.num_classes, name="classifier")(x.reshape(len(x), -1))


class DartsNet(nn.Module):
    """The network of one genotype.

    Attributes:
        genotype: its cells.
        size: the network around them.
    """

    genotype: Genotype
    size: NetworkSize = TRAINED

    @nn.compact
    def __call__(self, images: Images, train: bool = False, drop_path: Any = None) -> Any:
        """Returns outputs [n, classes]; with the auxiliary head in training also its outputs.

        A thin network returns feature maps [n, height, width, 4 C].

        Args:
            images: [n, height, width, channels].
            train: use batch statistics, return the auxiliary head's outputs, and drop paths.
            drop_path: probability that an operation is dropped for an example, which needs the
                PRNG "drop_path"; None: drop nothing.
        """
        size, channels, after_reduction = self.size, self.size.channels, False
        x = images
        if not size.thin:
            stem = Conv(size.stem_multiplier * channels, 3, name="stem_conv")
            x = ConvNorm(stem, BatchNorm(train, name="stem_norm"))(x)
            x = Block(name="stem_output")(x)
        older, auxiliary = x, None
        for layer in range(size.layers):
            reduction = size.reduces(layer)
            channels *= 1 + reduction
            cell = Cell(
                self.genotype.cells()[reduction],
                channels,
                reduction,
                after_reduction,
                train,
                size.affine,
                name=f"cells_{layer}",
            )
            older, x = x, Block(name=f"cells_{layer}_output")(cell(older, x, drop_path))
            after_reduction = reduction
            if (
                size.auxiliary
                and layer == 2 * size.layers // 3
                and (train or self.is_initializing())
            ):
                auxiliary = AuxiliaryHead(size.num_classes, train, name="auxiliary")(x)
        if size.last_activation:
            x = Relu(name="last_relu")(BatchNorm(train, name="last_norm")(x))
        x = Block(name="features")(x)
        if size.thin:
            return x
        outputs = nn.Dense(size.num_classes, name="classifier")(x.mean((1, 2)))
        return (outputs, auxiliary) if size.auxiliary and train else outputs

"""The NAS-Bench-Macro space (Su et al., 2021): its network and its scoring network.

Network: stem (3x3 convolution), eight layers in three stages of 2C, 4C and 8C channels, a 1x1
convolution to 40C channels, global average pooling, a dense layer. Each layer is an identity (a 1x1
convolution where it is strided), or an inverted residual block, which adds its input if it is not
strided. Every convolution has a batch norm; a ReLU follows it but after a layer's last one.

One program serves every architecture and supernet: the gated network has all three blocks of each
layer and runs those whose gates are positive.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.layers.ops import BatchNorm, Block, Conv, ConvNorm, Features, Relu
from saboc_jax.spaces.gated import (
    check_images,
    check_positive,
    edge_parameters,
    gated_edges,
    gated_networks,
)
from saboc_jax.spaces.nas_bench_macro import encoding, texts
from saboc_jax.spaces.nas_bench_macro.encoding import BOTTLENECKS, HEAD, TRAINED, NetworkSize
from saboc_jax.types import Architecture, Costs, Gates, Images, SearchSpace, Variables


class Layer(nn.Module):
    """One layer of the network.

    Attributes:
        operation: its name.
        features: output channels.
        stride: of the depthwise convolution, or of the identity's 1x1 convolution.
        train: True: batch norm uses batch statistics; False: running statistics.
    """

    operation: str
    features: int
    stride: int = 1
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        if self.operation == "identity":
            return x if self.stride == 1 else self._norm("downsample", self.features, 1, 2)(x)
        block, groups = BOTTLENECKS[self.operation], x.shape[-1]
        hidden = block.expansion * groups
        y = Relu(name="relu_a")(self._norm("expand", hidden, 1)(x))
        y = self._norm("depthwise", hidden, block.kernel, self.stride, hidden)(y)
        y = self._norm("project", self.features, 1)(Relu(name="relu_b")(y))
        return y + x if self.stride == 1 else y

    def _norm(
        self, name: str, features: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> Callable[[Features], Features]:
        conv = Conv(features, kernel, stride, groups=groups, name=f"{name}_conv")
        return ConvNorm(conv, BatchNorm(self.train, name=f"{name}_norm"))


class Stem(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    features: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Images) -> Features:
        conv = Conv(self.features, 3, name="conv")
        return Relu(name="relu")(ConvNorm(conv, BatchNorm(self.train, name="norm"))(x))


class Head(nn.Module):
    """1x1 convolution, batch norm, ReLU, global average pooling, dense layer."""

    features: int
    num_classes: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "n classes"]:
        conv = Conv(self.features, 1, name="conv")
        x = Relu(name="relu")(ConvNorm(conv, BatchNorm(self.train, name="norm"))(x))
        x = Block(name="features")(x)
        return nn.Dense(self.num_classes, name="classifier")(x.mean((1, 2)))


class LayerNet(nn.Module):
    """The network of one architecture: a plain module, to train or inspect.

    Attributes:
        operations: the name of the operation of each layer.
        size: channels, classes and images.
    """

    operations: tuple[str, ...]
    size: NetworkSize = TRAINED

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        channels = self.size.channels
        x = Stem(channels, train, name="stem")(images)
        x = Block(name="stem_output")(x)
        layers = zip(self.operations, encoding.layers(channels), strict=True)
        for number, (operation, (_, features, stride)) in enumerate(layers):
            x = Layer(operation, features, stride, train, name=f"cells_{number}")(x)
            x = Block(name=f"cells_{number}_output")(x)
        return Head(HEAD * channels, self.size.num_classes, train, name="head")(x)


class GatedLayerNet(nn.Module):
    """The network of every architecture and of every supernet; the gates select the layers.

    Attributes:
        size: channels, classes and images.
    """

    size: NetworkSize = TRAINED

    @nn.compact
    def __call__(self, images: Images, gates: Gates) -> Float[Array, "n classes"]:
        channels = self.size.channels
        x = Stem(channels, name="stem")(images)
        x = Block(name="stem_output")(x)
        for number, (_, features, stride) in enumerate(encoding.layers(channels)):
            options = {
                option: partial(Layer, operation, features, stride)
                for option, operation in enumerate(encoding.OPERATIONS)
            }
            shape = (1, *x[:, ::stride, ::stride].shape[:-1], features)
            gate, zeros = gates[number : number + 1], jnp.zeros(shape, x.dtype)
            label = f"cells_{number}"
            x = gated_edges(self, label, options, ((0, 0),), zeros, x[None], gate)[0]
            x = Block(name=f"{label}_output")(x)
        return Head(HEAD * channels, self.size.num_classes, name="head")(x)


def _extract(variables: Variables, arch: Architecture) -> Variables:
    """Extracts the variables of a plain network from those of the gated one."""
    return {name: _extract_collection(tree, arch) for name, tree in variables.items()}


def _extract_collection(tree: Any, arch: Architecture) -> dict[str, Any]:
    layers = {
        f"cells_{number}": edge_parameters(tree, f"cells_{number}", int(option), 0)
        for number, option in enumerate(arch)
    }
    others = {name: value for name, value in tree.items() if not name.startswith("cells_")}
    return others | {name: value for name, value in layers.items() if value}


def nas_bench_macro(
    channels: int = 8,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes the NAS-Bench-Macro space with a scoring network of a given size.

    Args:
        channels: of the stem (the benchmark trained with 32); all others are multiples.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, of any size.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, or the initialiser is unknown.
    """
    check_positive(channels=channels, num_classes=num_classes)
    check_images(image_shape)
    size = NetworkSize(channels, num_classes, image_shape)
    return SearchSpace(
        name="nas_bench_macro",
        decisions=texts.DECISIONS,
        networks=gated_networks(
            GatedLayerNet(size),
            encoding.CHOICES,
            find_initialiser(init),
            image_shape=image_shape,
            layers_per_leaf=lambda path: int(path[0].startswith("cells_")),
            num_classes=num_classes,
            specialise=lambda arch: LayerNet(encoding.operations(arch), size),
            extract=_extract,
        ),
        costs=Costs(of=lambda arch: encoding.cost(arch, size), trained=encoding.cost),
    )

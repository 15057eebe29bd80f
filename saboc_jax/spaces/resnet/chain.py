"""A ResNet as a chain of layers, so that its kernels are compiled layer by layer.

We compile one program per layer, not per residual unit: there are few different layer shapes,
and a mutation of a unit's bottleneck, kernel or number of layers changes only a layer or two.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from saboc_jax.layers.chain import Chain, Link
from saboc_jax.layers.initialise import Initialiser
from saboc_jax.layers.ops import BatchNorm, Conv, ConvNorm, Features, Relu
from saboc_jax.spaces.resnet import encoding

EPSILON = 1e-3  # epsilon of every batch norm in Zen-NAS


class Layer(nn.Module):
    """A convolution and its batch norm, with or without a ReLU."""

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = False
    relu: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        conv = Conv(
            self.features, self.kernel_size, self.stride, use_bias=self.use_bias, name="conv"
        )
        x = ConvNorm(conv, BatchNorm(True, epsilon=EPSILON, name="norm"))(x)
        return Relu(name="relu")(x) if self.relu else x


class Join(nn.Module):
    """The end of a residual unit: adds shortcut and layers and applies a ReLU."""

    @nn.compact
    def __call__(self, x: Features, y: Features) -> Features:
        return Relu(name="relu")(x + y)


class Head(nn.Module):
    """Global average pooling and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Features) -> Any:
        return nn.Dense(self.num_classes, name="classifier")(x.mean((1, 2)))


def chain(
    structure: encoding.Structure,
    num_classes: int,
    initialiser: Initialiser,
    shortcut: bool = True,
    pad_widths: bool = True,
) -> Chain:
    """Returns the links of `ResNet(structure, num_classes, shortcut)` with its parameter paths.

    Args:
        structure: the network.
        num_classes: width of the outputs.
        initialiser: draws the kernels.
        shortcut: False: no residual links.
        pad_widths: pad channels to powers of two. Padded channels have zero weights:
            convolutions give zero there, batch norm (with biases drawn as zero) and ReLU keep the
            zeros, and no gradient comes back from the layer above.
    """
    found: list[Link] = []

    def add(module: nn.Module, takes: tuple[int, ...], **paths: tuple[str, ...]) -> int:
        runs = _widened(module) if pad_widths and isinstance(module, Layer) else module
        found.append(Link(module, runs, takes, tuple(paths.items())))
        return len(found)

    x = add(Layer(structure.stem, 3), (0,), conv=("stem", "conv"), norm=("stem", "norm"))
    for number, block in enumerate(encoding.units(structure)):
        for index, unit in enumerate(block):
            x = _unit(add, f"block_{number}_{index}", unit, shortcut, x)
    x = add(Layer(structure.tail, 1), (x,), conv=("tail", "conv"), norm=("tail", "norm"))
    add(Head(num_classes), (x,), classifier=("head", "classifier"))
    return Chain(tuple(found), initialiser)


def _unit(add: Callable[..., int], name: str, unit: encoding.Unit, shortcut: bool, x: int) -> int:
    """Adds the links of a residual unit with input x; returns the index of its output."""
    y, last = x, len(unit.kernels) - 1
    strided = next(index for index, kernel in enumerate(unit.kernels) if kernel > 1)
    for index, (kernel, width) in enumerate(zip(unit.kernels, unit.channels[1:], strict=True)):
        stride, relu = unit.stride if index == strided else 1, index < last or not shortcut
        paths = {"conv": (name, f"conv_{index}"), "norm": (name, f"norm_{index}")}
        y = add(Layer(width, kernel, stride, relu=relu), (y,), **paths)
    if shortcut and unit.project:
        projection = Layer(unit.channels[-1], 1, unit.stride, use_bias=True, relu=False)
        paths = {"conv": (name, "projection"), "norm": (name, "projection_norm")}
        x = add(projection, (x,), **paths)
    return add(Join(), (x, y)) if shortcut else y


def _widened(layer: Layer) -> Layer:
    """Rounds the channels of a layer up to a power of two, so that several widths share it."""
    width = max(2 * encoding.STEP, 1 << (layer.features - 1).bit_length())
    return layer.clone(features=width)

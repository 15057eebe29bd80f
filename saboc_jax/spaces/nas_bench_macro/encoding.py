"""NAS-Bench-Macro networks as data: text and costs.

An architecture (Su et al., 2021) chooses one of three blocks for each of eight layers; its text is
the eight numbers of `OPERATIONS`, as in "02120012". The first, third and sixth layer halve the
image and double the channels. `cost` gives the benchmark's own `params` and `flops` exactly:
its FLOPs are multiply-accumulates of convolutions and dense layers.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from saboc_jax.spaces import counting
from saboc_jax.spaces.counting import Count, Size
from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.types import Architecture, Cost, Decisions


class Bottleneck(NamedTuple):
    """An inverted residual block: 1x1 convolution, depthwise k x k, 1x1 convolution."""

    kernel: int
    expansion: int


OPERATIONS = ("identity", "mbconv3x3_e3", "mbconv5x5_e6")
BOTTLENECKS = {"mbconv3x3_e3": Bottleneck(3, 3), "mbconv5x5_e6": Bottleneck(5, 6)}
LAYERS = 8
STRIDED = (0, 2, 5)  # layers of stride 2, which double the channels
HEAD = 40  # channels of the last convolution, in channels of the stem
CHOICES = (len(OPERATIONS),) * LAYERS


class NetworkSize(NamedTuple):
    """The network of an architecture; defaults as the benchmark trained.

    Attributes:
        channels: of the stem.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
    """

    channels: int = 32
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)


TRAINED = NetworkSize()


def operations(arch: Architecture) -> tuple[str, ...]:
    """Returns the name of the operation of each layer."""
    return tuple(OPERATIONS[option] for option in check_architecture(arch, CHOICES))


def layers(channels: int) -> Iterator[tuple[int, int, int]]:
    """Yields (inputs, outputs, stride) of each layer."""
    for layer in range(LAYERS):
        stride = 2 if layer in STRIDED else 1
        yield channels, channels * stride, stride
        channels *= stride


def to_string(arch: Architecture) -> str:
    """Writes the numbers of the operations, as in "02120012"."""
    return "".join(map(str, check_architecture(arch, CHOICES)))


def from_string(text: str) -> Architecture:
    """Reads what `to_string` writes; ValueError if the text is malformed."""
    if len(text) != LAYERS or not set(text) <= set("012"):
        raise ValueError(
            f"architecture {text!r}; allowed: eight numbers from 0 to 2, as in 02120012"
        )
    return np.array(list(map(int, text)), np.int32)


def cost(arch: Architecture, size: NetworkSize = TRAINED) -> Cost:
    """Counts parameters, multiply-accumulates and depth."""
    height, width, colours = size.image_shape
    area, channels = (height, width), size.channels
    parts = [counting.conv_norm(colours, channels, 3, area)]
    for name, (inputs, outputs, stride) in zip(operations(arch), layers(channels), strict=True):
        parts.append(_layer(name, inputs, outputs, stride, area))
        area, channels = (counting.halved(area) if stride == 2 else area), outputs
    head = HEAD * size.channels
    parts += [counting.conv_norm(channels, head, 1, area), counting.dense(head, size.num_classes)]
    return counting.in_series(*parts).cost


def _layer(name: str, inputs: int, outputs: int, stride: int, area: Size) -> Count:
    """Counts one layer, whose input has that size."""
    after = counting.halved(area) if stride == 2 else area
    if name == "identity":
        return Count() if stride == 1 else counting.conv_norm(inputs, outputs, 1, after)
    block = BOTTLENECKS[name]
    hidden = block.expansion * inputs
    return counting.in_series(
        counting.conv_norm(inputs, hidden, 1, area),
        counting.conv_norm(hidden, hidden, block.kernel, after, groups=hidden),
        counting.conv_norm(hidden, outputs, 1, after),
    )


def drawing(arch: Architecture) -> list[tuple[str, str, str]]:
    """Returns the layers as edges (source, target, operation) between feature maps."""
    nodes = ["stem", *map(str, range(1, LAYERS + 1))]
    return list(zip(nodes[:-1], nodes[1:], operations(arch), strict=True))


DECISIONS = Decisions(
    choices=CHOICES,
    option_names=(OPERATIONS,) * LAYERS,
    to_string=to_string,
    from_string=from_string,
    gates=partial(as_gates, choices=CHOICES),
    canonical=to_string,
    is_connected=lambda mask: True,
)

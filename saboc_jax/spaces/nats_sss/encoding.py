"""Settings of NATS-Bench's size space as data: text and costs.

An architecture (Dong et al., 2021) chooses the channels of five layers, of eight widths each; its
text is "16:8:64:32:32". The layers are those of NAS-Bench-201's network with one cell a stage:
cell, residual block, cell, residual block, cell. All cells are `CELL`; the stem is as wide as the
first. A cell that changes the channels does so on the edges from its input, where its skip is a
1x1 convolution with batch norm.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from saboc_jax.spaces import counting
from saboc_jax.spaces.counting import Count, Size
from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.spaces.nas_bench_201 import cells
from saboc_jax.types import Architecture, Cost, Decisions

CELL = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
OPERATIONS = tuple(cells.OPERATIONS[option] for option in cells.from_string(CELL))
WIDTHS = tuple(range(8, 65, 8))
LAYERS = 5
REDUCTIONS = (1, 3)  # layers that are residual blocks of stride 2
CHOICES = (len(WIDTHS),) * LAYERS


class NetworkSize(NamedTuple):
    """The network of a setting; defaults as the benchmark trained.

    Attributes:
        channels: of the widest choice; the others are eighths of it, rounded up.
        cells: cells of a stage; all but the first keep the channels.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, with sides that are multiples of 4.
    """

    channels: int = WIDTHS[-1]
    cells: int = 1
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)


TRAINED = NetworkSize()


def widths(arch: Architecture, channels: int = WIDTHS[-1]) -> tuple[int, ...]:
    """Returns the channels of each layer, for a network whose widest choice has `channels`."""
    options = check_architecture(arch, CHOICES)
    return tuple(-(-(int(option) + 1) * channels // len(WIDTHS)) for option in options)


def to_string(arch: Architecture) -> str:
    """Writes the channels of the trained network, as in "16:8:64:32:32"."""
    return ":".join(map(str, widths(arch)))


def from_string(text: str) -> Architecture:
    """Reads what `to_string` writes.

    Raises:
        ValueError: if the text is malformed, or a number is none of the widths.
    """
    parts = text.strip().split(":")
    known = {str(width): option for option, width in enumerate(WIDTHS)}
    if len(parts) != LAYERS or not set(parts) <= set(known):
        raise ValueError(
            f"setting {text!r}; allowed: five numbers of {', '.join(known)}, as in 16:8:64:32:32"
        )
    return np.array([known[part] for part in parts], np.int32)


def cost(arch: Architecture, size: NetworkSize = TRAINED) -> Cost:
    """Counts parameters, multiply-accumulates and depth."""
    return _count(arch, size).cost


def _count(arch: Architecture, size: NetworkSize) -> Count:
    height, width, colours = size.image_shape
    area, own = (height, width), widths(arch, size.channels)
    parts, inputs = [counting.conv_norm(colours, own[0], 3, area)], own[0]
    for layer, outputs in enumerate(own):
        if layer in REDUCTIONS:
            area = counting.halved(area)
            parts.append(_reduction(inputs, outputs, area))
        else:
            parts.append(_cell(inputs, outputs, area))
            parts += [_cell(outputs, outputs, area)] * (size.cells - 1)
        inputs = outputs
    norm = Count(2 * inputs)  # the last batch norm
    return counting.in_series(*parts, norm, counting.dense(inputs, size.num_classes))


def _reduction(inputs: int, outputs: int, area: Size) -> Count:
    """Counts a residual block with outputs of that size."""
    convs = [counting.conv_norm(channels, outputs, 3, area) for channels in (inputs, outputs)]
    shortcut = counting.conv_norm(inputs, outputs, 1, area)
    shortcut = shortcut._replace(params=shortcut.params - 2 * outputs)  # it has no batch norm
    return counting.beside(counting.in_series(*convs), shortcut)


def _cell(inputs: int, outputs: int, area: Size) -> Count:
    """Counts a cell."""
    parts, depths = [], [0] * cells.NUM_NODES
    for name, (source, target) in zip(OPERATIONS, cells.EDGES, strict=True):
        channels = outputs if source else inputs
        if name == "nor_conv_3x3":
            part = counting.conv_norm(channels, outputs, 3, area)
        else:
            part = (
                Count() if channels == outputs else counting.conv_norm(channels, outputs, 1, area)
            )
        parts.append(part)
        depths[target] = max(depths[target], depths[source] + part.depth)
    return counting.beside(*parts)._replace(depth=depths[-1])


def drawing(arch: Architecture) -> list[tuple[str, str, str]]:
    """Returns the layers as edges (source, target, name) between feature maps."""
    nodes = ["stem", *map(str, range(1, LAYERS + 1))]
    names = [
        f"{'reduction' if layer in REDUCTIONS else 'cell'} {width}"
        for layer, width in enumerate(widths(arch))
    ]
    return list(zip(nodes[:-1], nodes[1:], names, strict=True))


DECISIONS = Decisions(
    choices=CHOICES,
    option_names=(tuple(map(str, WIDTHS)),) * LAYERS,
    to_string=to_string,
    from_string=from_string,
    gates=partial(as_gates, choices=CHOICES),
    canonical=to_string,
    is_connected=lambda mask: True,
)

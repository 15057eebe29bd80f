"""The space of AutoFormer (Chen et al., 2021), as Auto-Prox (Wei et al., 2024) trained it.

A network is a plain vision transformer: patches of 16 x 16 pixels by a convolution, a class token,
learned positions, 12 to 14 layers of one width, layer norm, the mean of the patches' tokens, a
dense layer. An architecture chooses the width, the number of layers, and heads and MLP ratio of
each of 14 layers; those of layers beyond the depth do not count. Texts are JSON as in published
tables. Deviation: AutoFormer's own network has relative positions and heads of 64 features whatever
the width; the accuracies in Auto-Prox's tables belong to the network here.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from saboc_jax.spaces import counting
from saboc_jax.spaces.gated import check_images, check_positive
from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.spaces.notations import numbers_notation, reading
from saboc_jax.spaces.transformers import texts
from saboc_jax.spaces.transformers.assembly import transformer_space
from saboc_jax.spaces.transformers.layers import (
    SMALLEST_GRID,
    Grid,
    Head,
    Layer,
    Part,
    Stem,
    Transformer,
    TransformerNet,
    count_dense,
    count_layers,
)
from saboc_jax.types import Architecture, Cost, Decisions, SearchSpace

UNIT = 12  # features: both numbers of heads divide it
WIDTHS = (192, 216, 240)
DEPTHS = (12, 13, 14)
HEADS = (3, 4)
RATIOS = (3.5, 4.0)
MOST = DEPTHS[-1]
PATCH = 16
CHOICES = (len(WIDTHS), len(DEPTHS)) + (len(HEADS),) * MOST + (len(RATIOS),) * MOST
OPTION_NAMES = (
    tuple(map(str, WIDTHS)),
    tuple(map(str, DEPTHS)),
    *(tuple(map(str, HEADS)),) * MOST,
    *(tuple(map(str, RATIOS)),) * MOST,
)
EXAMPLE = (
    '{"hidden_dim":192,"mlp_ratio":[3.5,4.0,3.5,3.5,3.5,4.0,4.0,4.0,3.5,4.0,3.5,4.0],"depth":12,'
    '"num_heads":[3,3,3,3,4,3,3,3,3,3,4,3]}'
)


class NetworkSize(NamedTuple):
    """The network of an architecture; defaults as Auto-Prox trained.

    Attributes:
        channels: a twelfth of the largest width; the others are in proportion, in twelves.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
        least_layers: layers of the shallowest network.
    """

    channels: int = WIDTHS[-1] // UNIT
    num_classes: int = 100
    image_shape: tuple[int, int, int] = (224, 224, 3)
    least_layers: int = DEPTHS[0]

    @property
    def patch(self) -> int:
        """The side of a patch: 16, halved until there are 4 x 4 patches, if there can be."""
        patch = PATCH
        while patch > 1 and min(self.image_shape[:2]) // patch < SMALLEST_GRID:
            patch //= 2
        return patch

    @property
    def grid(self) -> Grid:
        """The number of patches in a column and in a row."""
        height, width, _ = self.image_shape
        return height // self.patch, width // self.patch

    def width(self, features: int) -> int:
        """The width that stands for one of `WIDTHS`."""
        return UNIT * max(1, round(features * self.channels / WIDTHS[-1]))


TRAINED = NetworkSize()


def layers(arch: Architecture, size: NetworkSize = TRAINED) -> Transformer:
    """Returns the layers of an architecture [30]; ValueError if it is malformed."""
    options = list(map(int, check_architecture(arch, CHOICES)))
    features = size.width(WIDTHS[options[0]])
    depth = DEPTHS[options[1]] - DEPTHS[0] + size.least_layers
    heads, ratios = options[2 : 2 + depth], options[2 + MOST : 2 + MOST + depth]
    return Transformer(
        features,
        tuple(HEADS[option] for option in heads),
        tuple(int(features * RATIOS[option]) for option in ratios),
    )


def to_string(arch: Architecture) -> str:
    """Writes an architecture as JSON, as in published tables."""
    options = list(map(int, check_architecture(arch, CHOICES)))
    depth = DEPTHS[options[1]]
    return texts.write(
        hidden_dim=WIDTHS[options[0]],
        mlp_ratio=[RATIOS[option] for option in options[2 + MOST : 2 + MOST + depth]],
        depth=depth,
        num_heads=[HEADS[option] for option in options[2 : 2 + depth]],
    )


def from_string(text: str) -> Architecture:
    """Reads what `to_string` writes, in any order, or the same as a dict of Python.

    Raises:
        ValueError: if the text is malformed, or a value is no choice.
    """
    found = texts.read(text, ("hidden_dim", "mlp_ratio", "depth", "num_heads"))
    width = texts.option("hidden_dim", found["hidden_dim"], WIDTHS)
    depth = texts.option("depth", found["depth"], DEPTHS)
    heads = texts.options("num_heads", found["num_heads"], HEADS, DEPTHS[depth])
    ratios = texts.options("mlp_ratio", found["mlp_ratio"], RATIOS, DEPTHS[depth])
    unused = [0] * (MOST - DEPTHS[depth])
    return np.array([width, depth, *heads, *unused, *ratios, *unused], np.int32)


def cost(arch: Architecture, size: NetworkSize = TRAINED) -> Cost:
    """Counts parameters, multiply-accumulates and depth, with attention's two products."""
    blocks, patches = layers(arch, size), size.grid[0] * size.grid[1]
    features, tokens = blocks.features, patches + 1
    embedding = count_dense(size.patch**2 * size.image_shape[2], features, patches)
    return counting.in_series(
        embedding,
        counting.Count((1 + tokens) * features),  # class token, positions
        *count_layers(blocks, tokens),
        counting.Count(2 * features),
        counting.dense(features, size.num_classes),
    ).cost


def network(arch: Architecture, size: NetworkSize = TRAINED) -> TransformerNet:
    """Returns the network of an architecture."""
    blocks, grid = layers(arch, size), size.grid
    parts: list[Part] = [
        ("stem", Stem(blocks.features, size.patch, size.patch, True, parent=None), grid)
    ]
    pairs = zip(blocks.heads, blocks.hidden, strict=True)
    for number, (heads, hidden) in enumerate(pairs):
        parts.append((f"cells_{number}", Layer(heads, hidden, parent=None), grid))
    head = Head(size.num_classes, grid, parent=None)
    return TransformerNet((*parts, ("head", head, None)))


NOTATIONS = (numbers_notation(CHOICES),)
DECISIONS = Decisions(
    choices=CHOICES,
    option_names=OPTION_NAMES,
    to_string=to_string,
    from_string=reading("autoformer", from_string, EXAMPLE, NOTATIONS),
    gates=partial(as_gates, choices=CHOICES),
    canonical=to_string,
    is_connected=lambda mask: True,
    notations=NOTATIONS,
)


def drawing(arch: Architecture) -> list[tuple[str, str, str]]:
    """Returns the layers as edges (source, target, heads and hidden width) between tokens."""
    found = layers(arch)
    return texts.chain(
        f"{heads} heads, MLP {hidden}"
        for heads, hidden in zip(found.heads, found.hidden, strict=True)
    )


def autoformer(
    channels: int = 8,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
    least_layers: int = DEPTHS[0],
) -> SearchSpace:
    """Makes AutoFormer's space of vision transformers with a scoring network of a given size.

    Each architecture has a program of its own; equal networks share one.

    Args:
        channels: a twelfth of the largest width (Auto-Prox trained with 20: 240 features). Below 10
            the three widths are 6 : 7 : 8 and not 8 : 9 : 10, or fall together.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, of any size.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.
        least_layers: layers of the shallowest scoring network, 1 to 12. With fewer than 12 the last
            choices of heads and MLP ratios do not show in a score.

    Raises:
        ValueError: if a size is not allowed, or the initialiser is unknown.
    """
    check_positive(channels=channels, num_classes=num_classes)
    check_images(image_shape)
    if not 1 <= least_layers <= DEPTHS[0]:
        raise ValueError(f"least_layers={least_layers}; allowed: 1 to {DEPTHS[0]}")
    size = NetworkSize(channels, num_classes, image_shape, least_layers)
    return transformer_space("autoformer", DECISIONS, size, init, network, cost, cost)

"""The two spaces of TransNAS-Bench-101 (Duan et al., 2021): cells and backbones."""

from collections.abc import Callable
from typing import Any

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.spaces.gated import check_images, check_positive
from saboc_jax.spaces.plain import cheapest_listed, plain_networks
from saboc_jax.spaces.transnas import costs, macro, micro, texts
from saboc_jax.spaces.transnas.costs import NetworkSize
from saboc_jax.spaces.transnas.network import TransNet
from saboc_jax.types import Architecture, Costs, Decisions, SearchSpace

SKELETON = tuple(map(int, micro.SKELETON))


def transnas_micro(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes TransNAS-Bench-101's space of cells with a scoring network of a given size.

    Each architecture has a program of its own.

    Args:
        channels: of the stem (the benchmark trained with 64).
        num_cells: cells of each module (the benchmark trained with 2).
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, of any size (the benchmark trained
            with 256 x 256 pixels; the network halves the image five times).
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, or the initialiser is unknown.
    """
    size = _size(channels, num_cells, num_classes, image_shape)
    return _space(
        "transnas_micro",
        texts.MICRO,
        lambda arch: TransNet(SKELETON, micro.operations(arch), size),
        size,
        init,
        Costs(
            of=lambda arch: costs.micro_cost(arch, size),
            cheapest=cheapest_listed,
            trained=costs.micro_cost,
        ),
    )


def transnas_macro(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes TransNAS-Bench-101's space of backbones with a scoring network of a given size.

    Each architecture has a program of its own. A backbone that the benchmark has not trained (it
    doubles the channels or halves the image too rarely or too often) is flagged as disconnected and
    ranked last.

    Args:
        channels: of the stem (the benchmark trained with 64).
        num_cells: residual blocks of each module (the benchmark trained with 2).
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, of any size (the benchmark trained
            with 256 x 256 pixels; the network halves the image three to six times).
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, or the initialiser is unknown.
    """
    size = _size(channels, num_cells, num_classes, image_shape)
    return _space(
        "transnas_macro",
        texts.MACRO,
        lambda arch: TransNet(macro.modules(arch), None, size),
        size,
        init,
        Costs(
            of=lambda arch: costs.macro_cost(arch, size),
            cheapest=cheapest_listed,
            trained=_trained_backbone,
        ),
        specialise=lambda arch: TransNet(macro.trained_modules(arch), None, size),
    )


def _trained_backbone(arch: Architecture) -> Any:
    """Returns the cost of a backbone that the benchmark trained."""
    macro.trained_modules(arch)
    return costs.macro_cost(arch)


def _size(
    channels: int, num_cells: int, num_classes: int, image_shape: tuple[int, int, int]
) -> NetworkSize:
    """Returns the size of a scoring network; ValueError if it is not allowed."""
    check_positive(channels=channels, num_cells=num_cells, num_classes=num_classes)
    check_images(image_shape)
    return NetworkSize(channels, num_cells, num_classes, image_shape)


def _space(
    name: str,
    decisions: Decisions,
    make: Callable[[Architecture], TransNet],
    size: NetworkSize,
    init: str,
    its_costs: Costs,
    **networks: Any,
) -> SearchSpace:
    return SearchSpace(
        name=name,
        decisions=decisions,
        networks=plain_networks(
            make,
            decisions.choices,
            find_initialiser(init),
            name=name,
            image_shape=size.image_shape,
            num_classes=size.num_classes,
            **networks,
        ),
        costs=its_costs,
    )

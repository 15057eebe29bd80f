"""The two spaces of TransNAS-Bench-101 (Duan et al., 2021): cells and backbones."""

from functools import partial

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.spaces.gated import check_images, check_positive, gated_networks
from saboc_jax.spaces.plain import cheapest_listed, in_sequence, plain_networks
from saboc_jax.spaces.transnas import costs, macro, micro, texts
from saboc_jax.spaces.transnas.costs import NetworkSize
from saboc_jax.spaces.transnas.network import GatedTransNet, TransNet, extract
from saboc_jax.types import Architecture, Cost, Costs, SearchSpace


def transnas_micro(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes TransNAS-Bench-101's space of cells with a scoring network of a given size.

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
    return SearchSpace(
        name="transnas_micro",
        decisions=texts.MICRO,
        networks=gated_networks(
            GatedTransNet(micro.SKELETON, size),
            micro.CHOICES,
            find_initialiser(init),
            image_shape=image_shape,
            layers_per_leaf=lambda path: int(path[0].startswith("cells_")),
            num_classes=num_classes,
            specialise=lambda arch: TransNet(micro.SKELETON, micro.operations(arch), size),
            extract=partial(extract, size),
        ),
        costs=Costs(of=lambda arch: costs.micro_cost(arch, size), trained=costs.micro_cost),
    )


def transnas_macro(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes TransNAS-Bench-101's space of backbones with a scoring network of a given size.

    A backbone that the benchmark has not trained (it
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
    return SearchSpace(
        name="transnas_macro",
        decisions=texts.MACRO,
        networks=plain_networks(
            lambda arch: TransNet(macro.modules(arch), None, size),
            macro.CHOICES,
            find_initialiser(init),
            name="transnas_macro",
            image_shape=image_shape,
            num_classes=num_classes,
            specialise=lambda arch: TransNet(macro.trained_modules(arch), None, size),
            chain=lambda net, drawn: in_sequence(net.parts(), image_shape, drawn),
        ),
        costs=Costs(
            of=lambda arch: costs.macro_cost(arch, size),
            cheapest=cheapest_listed,
            trained=_trained_backbone,
        ),
    )


def _trained_backbone(arch: Architecture) -> Cost:
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

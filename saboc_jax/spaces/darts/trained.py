"""The networks that DARTS trains, of either space of its cells."""

from dataclasses import replace

from saboc_jax.spaces.darts import genotypes as darts_genotypes
from saboc_jax.spaces.darts import space as darts
from saboc_jax.spaces.darts.cells import Genotype
from saboc_jax.spaces.darts.costs import NetworkSize
from saboc_jax.spaces.darts.network import DartsNet
from saboc_jax.spaces.darts.supernet import Encoding
from saboc_jax.types import Architecture, SearchSpace

ENCODINGS = {each.name: each for each in (darts.ENCODING, darts_genotypes.ENCODING)}


def encoding_of(space: SearchSpace) -> Encoding:
    """How a space of DARTS encodes genotypes; ValueError if the space is another."""
    if space.name not in ENCODINGS:
        raise ValueError(f"the space is {space.name}; allowed: {', '.join(ENCODINGS)}")
    return ENCODINGS[space.name]


def genotype_of(space: SearchSpace, arch: Architecture) -> Genotype:
    """The genotype of an architecture.

    Raises:
        ValueError: if it is no architecture, or the space has no genotypes.
    """
    return encoding_of(space).to_genotype(arch)


def trained(
    space: SearchSpace, channels: int = 36, layers: int = 20, auxiliary: bool = False
) -> SearchSpace:
    """The space with the plain networks that DARTS trains, and their costs.

    Only `specialise` and the costs are those of that network; costs leave out the auxiliary head,
    which is not there after training.

    Args:
        space: of `darts` or `darts_genotypes`.
        channels: C of the first cells.
        layers: cells; those at one and two thirds are reduction cells.
        auxiliary: with the auxiliary head, which takes images of 32 x 32 pixels.

    Raises:
        ValueError: if the space is another.
    """
    encoding = encoding_of(space)
    size = NetworkSize(
        channels, layers, num_classes=space.num_classes, image_size=space.image_shape[0]
    )
    own = size._replace(auxiliary=auxiliary)
    return space._replace(
        costs=darts.costs(encoding, size),
        networks=replace(
            space.one_program, specialise=lambda arch: DartsNet(encoding.to_genotype(arch), own)
        ),
    )

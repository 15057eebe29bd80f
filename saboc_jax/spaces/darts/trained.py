"""The networks that DARTS trains, for the spaces `darts` and `darts_genotypes`."""

from dataclasses import replace

from saboc_jax.spaces.darts import genotypes as darts_genotypes
from saboc_jax.spaces.darts import space as darts
from saboc_jax.spaces.darts.cells import Genotype
from saboc_jax.spaces.darts.costs import NetworkSize
from saboc_jax.spaces.darts.network import DartsNet
from saboc_jax.spaces.darts.structure import structure
from saboc_jax.spaces.darts.supernet import Encoding
from saboc_jax.types import Architecture, SearchSpace

ENCODINGS = {each.name: each for each in (darts.ENCODING, darts_genotypes.ENCODING)}


def encoding_of(space: SearchSpace) -> Encoding:
    """Returns the encoding of a DARTS space; raises ValueError for another space."""
    if space.name not in ENCODINGS:
        raise ValueError(f"the space is {space.name}; allowed: {', '.join(ENCODINGS)}")
    return ENCODINGS[space.name]


def genotype_of(space: SearchSpace, arch: Architecture) -> Genotype:
    """Returns the genotype of an architecture.

    Raises:
        ValueError: if `arch` is not an architecture, or the space has no genotypes.
    """
    return encoding_of(space).to_genotype(arch)


def trained(
    space: SearchSpace, channels: int = 36, layers: int = 20, auxiliary: bool = False
) -> SearchSpace:
    """Returns the space with the plain networks that DARTS trains, and their costs.

    Only `specialise` and the costs change; costs exclude the auxiliary head, which is removed
    after training.

    Args:
        space: a `darts` or `darts_genotypes` space.
        channels: C of the first cells.
        layers: number of cells; the cells at one and two thirds are reduction cells.
        auxiliary: with the auxiliary head, which needs images of 32 x 32 pixels.

    Raises:
        ValueError: if `space` is another space.
    """
    encoding = encoding_of(space)
    size = NetworkSize(
        channels, layers, num_classes=space.num_classes, image_shape=space.image_shape
    )
    own = size._replace(auxiliary=auxiliary)
    return space._replace(
        costs=darts.costs(encoding, size)._replace(
            structure=lambda arch: structure(encoding.to_genotype(arch), size)
        ),
        networks=replace(
            space.one_program, specialise=lambda arch: DartsNet(encoding.to_genotype(arch), own)
        ),
    )

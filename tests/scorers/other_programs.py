"""The same networks as another program, to compare a space's own with."""

from dataclasses import replace

import jax


def with_networks(space, **fields):
    """The space with other networks in these fields."""
    return space._replace(networks=replace(space.networks, **fields))


def in_double(space):
    """The space whose weights are float64 numbers of float32 draws; its chain stays."""
    return space._replace(networks=_double(space.one_program))


def _double(program):
    def init(key):
        return jax.tree.map(lambda leaf: leaf.astype(float), program.init(key))

    return replace(program, init=init, thin_cell=program.thin_cell and _double(program.thin_cell))


def plain(space, arch):
    """A space with the one network, which is the plain module with the supernet's weights."""
    return space._replace(networks=_plain(space.one_program, arch))


def _plain(program, arch):
    module = program.specialise(arch)

    def apply(variables, gates, images, mutable=()):
        y = module.apply(variables, images, train=True, mutable=list(mutable) or False)
        return y if mutable else (y, {})

    return replace(
        program,
        init=lambda key: program.extract(program.init(key), arch),
        apply=apply,
        layers_per_leaf=lambda path: 0,
        thin_cell=program.thin_cell and _plain(program.thin_cell, arch),
    )

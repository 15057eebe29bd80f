"""The same networks as another program, to compare a space's own with."""

import jax


def in_double(space):
    """The space whose weights are float64 numbers of float32 draws; its chain stays."""

    def init(key):
        return jax.tree.map(lambda leaf: leaf.astype(float), space.init(key))

    thin = space.thin_cell and (lambda: in_double(space.thin_cell()))
    return space._replace(init=init, thin_cell=thin)


def plain(space, arch):
    """A space with the one network, which is the plain module with the supernet's weights."""
    module = space.specialise(arch)

    def apply(variables, gates, images, mutable=()):
        y = module.apply(variables, images, train=True, mutable=list(mutable) or False)
        return y if mutable else (y, {})

    return space._replace(
        init=lambda key: space.extract(space.init(key), arch),
        apply=apply,
        layers_per_leaf=lambda path: 0,
        thin_cell=space.thin_cell and (lambda: plain(space.thin_cell(), arch)),
    )

"""Costs are those of the network that is scored, for images of any shape (mmsegmentation #1062)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.layers.program_cost import count_work
from saboc_jax.spaces import make_space

CELL = [3, 3, 2, 1, 4, 3]


@pytest.mark.parametrize("shape", [(8, 16, 1), (12, 8, 13)])
@pytest.mark.parametrize("name", ["nas_bench_201", "darts", "resnet"])
def test_costs_are_those_of_the_network_for_grey_oblong_and_many_channel_images(name, shape):
    shape = (shape[0], shape[0], shape[2]) if name == "resnet" else shape  # it takes no others
    small = {"slots": 1, "max_width": 16} if name == "resnet" else {"channels": 2}
    space = make_space(name, image_shape=shape, num_classes=3, **small)
    other = np.minimum(2, np.array(space.choices) - 1)
    arch = np.array(CELL) if name == "nas_bench_201" else other
    net, image = space.specialise(arch), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    run = lambda v, x: net.apply(v, x, mutable=["batch_stats"])[0]  # noqa: E731
    work, said = count_work(run, variables, image), space.cost(arch)
    assert said.params == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert said.macs == work.macs


def test_the_cheapest_of_a_supernet_has_the_costs_of_its_own_images():
    wide, square = (
        make_space("darts", channels=2, image_shape=shape) for shape in ((8, 32, 1), (16, 16, 1))
    )
    mask = np.arange(max(wide.choices)) < np.asarray(wide.choices)[:, None]
    costs = [space.cost(space.costs.cheapest(mask, "macs")).macs for space in (wide, square)]
    assert costs[0] == costs[1]  # as many pixels

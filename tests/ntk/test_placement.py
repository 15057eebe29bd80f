"""The one entry that places a kernel's work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.layers.programs import ProgramCache
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.placement import LinkedNetwork, place_ntks
from saboc_jax.spaces import make_space

SHAPE = (6, 6, 3)
TEXT = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,8,1)SuperConvK1BNRELU(16,16,1,1)"


def images(seed, number):
    return jax.random.normal(jax.random.key(seed), (number, *SHAPE))


def linked():
    space = make_space("resnet", slots=1, max_width=16, num_classes=3, image_shape=SHAPE)
    own = space.program(space.from_string(TEXT)).one_program
    return LinkedNetwork(own.chain, ProgramCache(), jax.random.key(0), own.in_cells)


def network():
    module = nn.Sequential([nn.Conv(2, (3, 3)), nn.relu, lambda y: y.mean((1, 2)), nn.Dense(2)])
    return from_module(module, module.init(jax.random.key(1), images(0, 1)))


def test_a_network_on_one_device_is_one_call_of_the_engines():
    batches = images(0, 4), (images(1, 2),)
    for options in (NTKOptions(), NTKOptions(batch_norm="batch"), NTKOptions(outputs="trace")):
        ours = place_ntks(network(), *batches, options)
        for mine, other in zip(ours, empirical_ntks(network(), *batches, options), strict=True):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        (NTKOptions("jacobian"), 1),
        (NTKOptions(batch_norm="batch"), 1),
        (NTKOptions(outputs="trace"), 1),
        (NTKOptions(chunk=2), 1),
        (NTKOptions(), 2),
    ],
)
def test_what_cannot_run_link_by_link_is_refused(options, devices):
    with pytest.raises(ValueError, match="link by link; allowed: one device, batch_norm='frozen'"):
        place_ntks(linked(), images(0, 4), (), options, devices)


def test_cells_of_a_chain_without_cells_are_refused():
    chain = linked()._replace(in_cells=None)
    with pytest.raises(ValueError, match="does not say where its cells are"):
        place_ntks(chain, images(0, 4), (), NTKOptions(params="cells"))


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ValueError, match="999 devices; allowed"):
        place_ntks(network(), jnp.ones((999, *SHAPE)), (), NTKOptions(), 999)

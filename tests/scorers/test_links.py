"""Statistics of gradients link by link: as those of the whole network's program."""

import jax
import numpy as np
import pytest

from saboc_jax.layers.programs import ProgramCache
from saboc_jax.scorers.loss_gradients import ForeignFisher, LossGradients
from saboc_jax.scorers.synflow import SynapticFlows, log_score
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Batch

SHAPE = (8, 8, 3)
GRAPH = (  # a vertex that is cut, a pool, a projection to the output
    "(0,1,0,0,0,0,1,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,"
    "0,0,0,0,0,4,2,2,2,2,1)"
)
SPACES = {
    "nas_bench_101": ({"channels": 3, "num_cells": 1}, GRAPH),
    "resnet": (
        {},
        "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,8,1)SuperConvK1BNRELU(16,8,1,1)",
    ),
    "nats_sss": ({}, "16:24:16:24:16"),  # padded channels
}


@pytest.mark.parametrize("name", SPACES)
def test_statistics_link_by_link_are_those_of_the_whole_network(name):
    options, text = SPACES[name]
    space = make_space(name, num_classes=3, image_shape=SHAPE, **options)
    mask = architecture_to_mask(space.from_string(text), max(space.choices))
    own = space._replace(networks=space.networks.program(mask))
    images = jax.random.normal(jax.random.key(0), (6, *SHAPE))
    batch, key = Batch(images, np.arange(6) % 3), jax.random.key(1)
    linked = LossGradients(own, ProgramCache())
    assert linked.runs_apart and not LossGradients(own).runs_apart
    found = linked(key, mask, batch)
    whole = jax.jit(lambda key: LossGradients(own)(key, mask, batch))(key)
    for name, value in found._asdict().items():
        # Layers come in the order of the links here, and of names there.
        one, other = (np.sort(np.ravel(each)) for each in (value, getattr(whole, name)))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7 * other.max(), err_msg=name)
    flows = SynapticFlows(own, ProgramCache())
    assert flows.runs_apart
    one, ends = (log_score(*each(key, mask, batch)) for each in (flows, SynapticFlows(own)))
    np.testing.assert_allclose(one[0], ends[0], rtol=1e-4)
    assert not one[1]
    assert (found.saliency > 0).all() and len(found.saliency) > 3
    assert np.isnan(ForeignFisher(own, ProgramCache())(key, mask, batch)).all()

"""The trained DARTS network: its parameters are those of the formulas; drop-path; its head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.spaces import darts_cells as cells
from saboc_jax.spaces import darts_costs as costs
from saboc_jax.spaces.base import sample_architectures
from saboc_jax.spaces.darts_network import DartsNet


def genotype(seed):
    return cells.to_genotype(sample_architectures(jax.random.key(seed), cells.CHOICES, 8)[0])


@pytest.mark.parametrize(
    "size",
    [
        costs.NetworkSize(4, 5),
        costs.NetworkSize(1, 2, 1),
        costs.NetworkSize(4, 3, auxiliary=True),
        costs.NetworkSize(6, 4, affine=False, num_classes=7),
    ],
)
def test_parameters_are_those_of_the_formulas(size):
    seed = size.channels * size.layers
    module = DartsNet(genotype(seed), size)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert counted == costs.cost(genotype(seed), size).params


def test_drop_path_changes_training_only():
    size = costs.NetworkSize(2, 2, 1)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    edges = (("sep_conv_3x3", 0), ("skip_connect", 1)) * 4
    plain, dropping = (DartsNet(cells.make_genotype(edges, edges), size, p) for p in (0.0, 0.5))
    variables = plain.init(jax.random.key(0), x)
    np.testing.assert_array_equal(plain.apply(variables, x), dropping.apply(variables, x))
    rngs = {"drop_path": jax.random.key(2)}
    outputs = dropping.apply(variables, x, train=True, rngs=rngs)
    assert np.isfinite(outputs).all()
    assert not np.allclose(outputs, plain.apply(variables, x, train=True))

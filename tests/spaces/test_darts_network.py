"""The trained DARTS network: its parameters are those of the formulas; drop-path; its head."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.support import training
from saboc_jax.spaces.darts import cells, costs
from saboc_jax.spaces.darts.network import DartsNet
from saboc_jax.spaces.masks import sample_architectures
from saboc_jax.training.recipes import RECIPES


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features_keep_the_dtype_of_images_and_weights(x64, dtype):
    module = DartsNet(genotype(3), costs.NetworkSize(2, 3))
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), dtype)

    def run(x):
        variables = module.init(jax.random.key(0), x)
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
        return module.apply(variables, x)

    assert jax.eval_shape(run, images).dtype == dtype


def test_drop_path_changes_training_only():
    size = costs.NetworkSize(2, 2, 1)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    edges = (("sep_conv_3x3", 0), ("skip_connect", 1)) * 4
    net = DartsNet(cells.make_genotype(edges, edges), size)
    variables = net.init(jax.random.key(0), x)
    np.testing.assert_array_equal(net.apply(variables, x), net.apply(variables, x, drop_path=0.5))
    rngs = {"drop_path": jax.random.key(2)}
    dropped, kept, rest = (
        net.apply(variables, x, train=True, drop_path=p, mutable=["batch_stats"], rngs=rngs)[0]
        for p in (0.5, 0.0, None)
    )
    assert np.isfinite(dropped).all() and not np.allclose(dropped, rest)
    np.testing.assert_allclose(kept, rest, rtol=1e-5)


def test_the_recipe_trains_the_network_of_darts():
    """With drop-path as a traced number and both losses, at a small size."""
    dataset = SimpleNamespace(num_classes=10, image_shape=(32, 32, 3))
    arch = sample_architectures(jax.random.key(1), cells.CHOICES, 1)[0]
    recipe = RECIPES["darts"]
    space = training.space(dataset, recipe, "darts")
    assert space.specialise(arch).size == costs.TRAINED._replace(auxiliary=True)
    assert space.cost(arch) == costs.cost(cells.to_genotype(arch))
    module = training.space(dataset, replace(recipe, channels=4, cells=3), "darts").specialise(arch)

    def run(x, key, drop_path):
        variables = module.init(key, x)
        rngs = {"drop_path": key}
        return module.apply(variables, x, True, drop_path, rngs=rngs, mutable=["batch_stats"])[0]

    shapes = jax.eval_shape(run, jnp.zeros((2, 32, 32, 3)), jax.random.key(0), jnp.zeros(()))
    assert [shape.shape for shape in shapes] == [(2, 10), (2, 10)]
    digits = SimpleNamespace(num_classes=10, image_shape=(8, 8, 1))
    assert not training.space(digits, recipe, "darts").specialise(arch).size.auxiliary

"""Keras networks as candidates, against Keras itself in float64."""

import os
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("keras", reason="keras is not installed: the extra `keras`")

import saboc_jax as sj
from saboc_jax import from_keras
from saboc_jax.ntk.network import with_batch_statistics

import keras  # isort: skip

ALL = sj.NTKOptions(params="all")


def made(dropped=0.5):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(dropped),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


def images(n=4):
    return jax.random.normal(jax.random.key(1), (n, 6, 6, 3))


def parts(model):
    return (
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
    )


def test_batch_norm_is_frozen_at_the_statistics_of_the_batch():
    model = made(0.0)
    expected, _ = model.stateless_call(*parts(model), images(), training=True)
    network = with_batch_statistics(from_keras(model), images())
    outputs, _ = network.apply(network.variables, images())
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)


def test_tracing_leaves_the_model_as_it_was():
    model = made()
    before = [np.array(v.value) for v in model.variables]
    network = from_keras(model)
    network.train(network.variables, images())
    norm = model.layers[1]
    assert norm.momentum == 0.99 and "call" not in vars(norm)
    assert all((a == np.array(v.value)).all() for a, v in zip(before, model.variables, strict=True))


def rows_of(model, frozen, x):
    """Per-example gradients of the sum of outputs over the trained variables."""
    trained = parts(model)[0]

    def flat(x):
        run = lambda p: model.stateless_call(p, frozen, x[None], training=False)[0].sum()  # noqa: E731
        return jnp.concatenate([leaf.ravel() for leaf in jax.grad(run)(trained)])

    return jax.vmap(flat)(x)


def test_kernel_is_that_of_the_jacobian_with_frozen_batch_norm():
    model = made()
    network = with_batch_statistics(from_keras(model), images())
    stats = _flat(network.variables["batch_stats"])
    frozen = [
        stats.get(tuple(variable.path.split("/")), variable.value)
        for variable in model.non_trainable_variables
    ]
    rows = rows_of(model, frozen, images())
    kernel = sj.empirical_ntk(from_keras(model), images(), options=ALL)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-4)


def test_kernel_is_that_of_the_jacobian_in_float64(x64):
    """Of layers that keep float64: on JAX, Keras takes float32 for norms and means."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3), dtype="float64"),
            layers.Conv2D(4, 3, activation="relu", dtype="float64"),
            layers.Flatten(dtype="float64"),
            layers.Dense(5, dtype="float64"),
        ]
    )
    x = images().astype(jnp.float64)
    rows = rows_of(model, [], x)
    kernel = sj.empirical_ntk(from_keras(model), x, options=ALL)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-9)


def _flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(part.key for part in path): leaf for path, leaf in leaves}


def test_a_factory_draws_anew_and_leaves_global_seeds_alone():
    before = random.getstate()
    fresh = from_keras(made)
    assert random.getstate() == before
    first, again, other = (jax.jit(fresh.init)(jax.random.key(seed)) for seed in (1, 1, 2))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), first, again)))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first["params"], other["params"])
    assert sorted(jax.tree.leaves(same)) == [False, False, True, True, True]  # gamma, beta, bias
    limit = np.sqrt(6 / (4 + 5))  # Glorot's
    kernel = np.concatenate([np.abs(leaf).ravel() for leaf in jax.tree.leaves(first["params"])])
    assert kernel.max() <= 1.0 and limit < 1.0
    assert not fresh.keeps_weights and from_keras(made()).keeps_weights


def test_weights_that_are_frozen_are_buffers():
    model = made()
    model.layers[0].trainable = False
    network = from_keras(model)
    assert len(jax.tree.leaves(network.variables["params"])) == 4
    assert any("conv" in "/".join(path) for path in _flat(network.variables["buffers"]))


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"allowed: a built keras\.Model"):
        from_keras(3)
    with pytest.raises(ValueError, match="is not built"):
        from_keras(keras.layers.Dense(3))
    with pytest.raises(ValueError, match=r"allowed: a built keras\.Model"):
        from_keras(keras.Model)

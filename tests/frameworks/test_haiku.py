"""Haiku networks as candidates, against Haiku itself in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

hk = pytest.importorskip("haiku", reason="haiku is not installed: the extra `haiku`")

import saboc_jax as sj  # noqa: E402
from saboc_jax.ntk.network import with_batch_statistics  # noqa: E402

ALL = sj.NTKOptions(params="all")


def net(images, is_training):
    x = hk.Conv2D(4, 3, with_bias=False)(images)
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training))
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(5)(x.mean((1, 2)))


def without_dropout(images, is_training):
    x = hk.Conv2D(4, 3, with_bias=False)(images)
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training))
    return hk.Linear(5)(x.mean((1, 2)))


def images(n=4):
    return jax.random.normal(jax.random.key(1), (n, 6, 6, 3))


def test_batch_norm_is_frozen_at_the_statistics_of_the_batch(x64):
    plain = hk.transform_with_state(without_dropout)
    params, state = plain.init(jax.random.key(0), images(), is_training=True)
    expected, _ = plain.apply(params, state, None, images(), is_training=True)
    network = sj.from_haiku(hk.transform_with_state(net), params, state)
    network = with_batch_statistics(network, images())
    outputs, _ = network.apply(network.variables, images())
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)


def test_kernel_is_that_of_the_jacobian(x64):
    pair = hk.transform_with_state(net)
    params, state = pair.init(jax.random.key(0), images(), is_training=True)
    network = with_batch_statistics(sj.from_haiku(pair, params, state), images())
    frozen = network.variables["batch_stats"]

    def flat(x):
        run = lambda p: pair.apply(p, frozen, None, x[None], is_training=False)[0].sum()  # noqa: E731
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(run)(params))])

    rows = jax.vmap(flat)(images())
    kernel = sj.empirical_ntk(sj.from_haiku(pair, params, state), images(), options=ALL)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-9)


def test_a_pair_without_weights_draws_them_and_one_with_weights_keeps_them():
    pair = hk.transform_with_state(net)
    fresh = sj.from_haiku(pair)
    first, again, other = (fresh.draw(jax.random.key(seed), images()) for seed in (1, 1, 2))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), first, again)))
    assert (first["params"]["linear"]["w"] != other["params"]["linear"]["w"]).any()
    kept = sj.from_haiku(pair, first["params"], first["batch_stats"])
    assert kept.keeps_weights and not fresh.keeps_weights
    with pytest.raises(ValueError, match="allowed: key="):
        sj.empirical_ntk(fresh, images())
    with pytest.raises(ValueError, match="keeps its weights"):
        sj.empirical_ntk(kept, images(), key=jax.random.key(0))
    with pytest.raises(ValueError, match="params without state"):
        sj.from_haiku(pair, first["params"])


def test_a_pair_without_state_and_without_rng():
    pair = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 2])(x)))
    inputs = jax.random.normal(jax.random.key(0), (4, 3))
    assert sj.check_ntk(sj.from_haiku(pair), inputs, key=jax.random.key(1)).passed


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match=r"allowed: what haiku\.transform"):
        sj.from_haiku(net)

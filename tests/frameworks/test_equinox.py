"""Equinox networks as candidates, against Equinox itself in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

eqx = pytest.importorskip("equinox", reason="equinox is not installed: the extra `equinox`")

import saboc_jax as sj  # noqa: E402
from saboc_jax.ntk.network import with_batch_statistics  # noqa: E402

ALL = sj.NTKOptions(params="all")


class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key, mode="batch", dropped=0.5):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(3, 4, 3, key=first)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode=mode, momentum=0.9)
        self.drop = eqx.nn.Dropout(dropped)
        self.head = eqx.nn.Linear(4, 5, key=second)

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.conv(x), state)
        x = self.drop(jax.nn.relu(x), key=key)
        return self.head(x.mean((1, 2))), state


def made(key, **options):
    return eqx.nn.make_with_state(Net)(key, **options)


def images(n=4):
    return jax.random.normal(jax.random.key(1), (n, 6, 6, 3))


def in_training(module, state, x):
    """What Equinox gives for a batch in training mode."""
    state = jax.tree.map(lambda leaf: leaf, state)
    over = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return over(jnp.moveaxis(x, -1, 1), state)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_batch_norm_is_frozen_at_the_statistics_of_the_batch(mode, x64):
    module, state = made(jax.random.key(0), mode=mode, dropped=0.0)
    expected, _ = in_training(module, state, images())
    network = with_batch_statistics(sj.from_equinox((module, state)), images())
    outputs, _ = network.apply(network.variables, images())
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_running_statistics_are_those_of_equinox(mode, x64):
    module, state = made(jax.random.key(0), mode=mode, dropped=0.0)
    for _ in range(3):
        _, state = in_training(module, state, images())
    network = sj.from_equinox((module, state))
    expected, _ = in_training(eqx.nn.inference_mode(module), state, images())
    outputs, _ = network.apply(network.variables, images())
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)


def test_kernel_is_that_of_the_jacobian(x64):
    module, state = made(jax.random.key(0), mode="ema")
    _, frozen = in_training(made(jax.random.key(0), mode="ema", dropped=0.0)[0], state, images())
    own, rest = eqx.partition(eqx.nn.inference_mode(module), eqx.is_inexact_array)

    def f(own, x):
        state = jax.tree.map(lambda leaf: leaf, frozen)
        return eqx.combine(own, rest)(jnp.moveaxis(x, -1, 0), state)[0].sum()

    def flat(x):
        leaves = jax.tree.leaves(jax.grad(f)(own, x))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    rows = jax.vmap(flat)(images())
    kernel = sj.empirical_ntk(sj.from_equinox((module, state)), images(), options=ALL)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-9)


def test_a_function_draws_and_a_module_keeps_its_weights():
    fresh, kept = sj.from_equinox(made), sj.from_equinox(made(jax.random.key(3)))
    first, again, other = (fresh.init(jax.random.key(seed)) for seed in (1, 1, 2))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first, again)
    assert all(jax.tree.leaves(same))
    assert (first["params"]["conv"]["weight"] != other["params"]["conv"]["weight"]).any()
    assert kept.keeps_weights and not fresh.keeps_weights


def test_shared_weights_count_once(x64):
    class Tied(eqx.Module):
        shared: eqx.nn.Shared

        def __init__(self, key):
            first = eqx.nn.Linear(3, 3, use_bias=False, key=key)
            pair = (first, eqx.nn.Linear(3, 3, use_bias=False, key=key))
            self.shared = eqx.nn.Shared(pair, lambda p: p[1].weight, lambda p: p[0].weight)

        def __call__(self, x):
            first, second = self.shared()
            return second(jnp.tanh(first(x)))

    network = sj.from_equinox(Tied(jax.random.key(0)))
    assert len(jax.tree.leaves(network.variables["params"])) == 1
    assert sj.check_ntk(network, jax.random.normal(jax.random.key(1), (4, 3))).passed


@pytest.mark.parametrize("given", [3, lambda key: 3, Net])
def test_what_is_no_network_is_refused(given):
    with pytest.raises(ValueError, match=r"allowed: an equinox\.Module"):
        sj.from_equinox(given)

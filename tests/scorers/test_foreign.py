"""Scorers that look inside find the same in a program as marks and Linen's layers tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.layers.ops import Block
from saboc_jax.ntk.network import from_function, from_module
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import az_nas, foreign
from saboc_jax.scorers.fisher import fisher_value
from saboc_jax.scorers.loss_gradients import layer_statistics
from saboc_jax.scorers.zen import feature_change

N, CLASSES = 4, 3


def unmarked(name):
    return lambda x: x


class Residual(nn.Module):
    """A stem and two residual blocks, the second on half the image; marked or not."""

    is_marked: bool = False
    norm: type = nn.BatchNorm

    @nn.compact
    def __call__(self, images, train=False):
        mark = (lambda name: Block(name=name)) if self.is_marked else unmarked
        norm = lambda: self.norm(use_running_average=not train)  # noqa: E731
        x = mark("stem")(nn.Conv(4, (3, 3))(images))
        x = mark("one")(x + norm()(nn.Conv(4, (3, 3))(nn.relu(x))))
        y = nn.Conv(6, (3, 3), 2, use_bias=False)(nn.relu(norm()(x)))
        x = mark("two")(nn.Conv(6, (1, 1), 2)(x) + nn.Conv(6, (3, 3))(nn.gelu(y)))
        x = mark("features")(nn.relu(norm()(x)))
        return nn.Dense(CLASSES)(nn.tanh(nn.Dense(5)(x.mean((1, 2)))))


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    with enable_x64():
        yield


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (N, 8, 8, 3))


@pytest.fixture(scope="module")
def networks(images):
    """The same network with marks and without."""
    variables = Residual().init(jax.random.key(0), images)
    return from_module(Residual(True), variables), from_module(Residual(), variables)


def test_features_are_the_last_map_before_pooling(networks, images):
    others = images + 0.01 * jax.random.normal(jax.random.key(2), images.shape)
    marked, read = (feature_change(network, images, others) for network in networks)
    np.testing.assert_allclose(read[0], marked[0], rtol=1e-12)
    np.testing.assert_array_equal(read[1], marked[1])
    assert read[1].shape == (3, 3)


def test_blocks_are_residual_additions(networks, images):
    key = jax.random.key(3)
    signs = az_nas.draw_signs(networks[0], images, key)
    marked = az_nas.block_statistics(networks[0], images, signs)
    read = az_nas.foreign_statistics(networks[1], images, key)
    assert len(read.covariances) == 3 and len(read.maps) == 2
    for ours, theirs in zip(read[:2], marked[:2], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(read.identical, marked.identical)
    assert az_nas.complexity(read) == az_nas.complexity(marked)


def test_fisher_of_a_program_is_that_of_linens_layers(networks, images):
    labels = jnp.arange(N) % CLASSES
    by_rule = layer_statistics(networks[1], images, labels).fisher
    read = [fisher_value(networks[1], images, labels, w) for w in ("per_weight", "per_channel")]
    np.testing.assert_allclose(jnp.stack(read), by_rule, rtol=1e-10)


def test_fisher_of_a_function_by_hand():
    keys = jax.random.split(jax.random.key(4), 4)
    a, b = jax.random.normal(keys[0], (3, 5)), jax.random.normal(keys[1], (5, CLASSES))
    x, bias = jax.random.normal(keys[2], (N, 7, 3)), jax.random.normal(keys[3], (5,))
    labels = jnp.arange(N) % CLASSES

    def after(hidden, added):
        logits = jnp.tanh(hidden).mean(1) @ b + added
        return -jax.nn.log_softmax(logits)[jnp.arange(N), labels].mean(), logits

    network = from_function(
        lambda p, x: jnp.tanh(x @ p["a"] + p["bias"]).mean(1) @ p["b"],
        {"a": a, "bias": bias, "b": b},
    )
    hidden, added = x @ a + bias, jnp.zeros((N, CLASSES))
    g, (_, logits) = jax.grad(lambda *z: after(*z)[0], (0, 1))(hidden, added), after(hidden, added)
    first = 0.5 * jnp.square((hidden * g[0]).sum(1)).mean(0).sum()
    last = 0.5 * jnp.square(logits * g[1]).mean(0).sum()
    np.testing.assert_allclose(
        fisher_value(network, x, labels, "per_weight"), 3 * first + 5 * last, rtol=1e-12
    )
    np.testing.assert_allclose(
        fisher_value(network, x, labels, "per_channel"), first + last, rtol=1e-12
    )


def test_what_is_not_there_is_named(images):
    flat = from_function(lambda w, x: x.reshape(len(x), -1) @ w, jnp.ones((192, CLASSES)))
    with pytest.raises(ValueError, match="no feature map"):
        feature_change(flat, images, images)
    with pytest.raises(ValueError, match="0 block outputs"):
        az_nas.foreign_statistics(flat, images, jax.random.key(0))
    with pytest.raises(ValueError, match="cannot stand for inputs of type int32"):
        foreign.check_drawable(jnp.ones((2, 3), jnp.int32), "zen")
    looped = from_function(
        lambda w, x: jax.lax.scan(lambda y, w: (y @ w, None), x, w)[0], jnp.ones((2, 3, 3))
    )
    with pytest.raises(ValueError, match=r"no layer of .* outside of its loops"):
        fisher_value(looped, jnp.ones((2, 3)), jnp.arange(2))

"""Kernel regression against NumPy's solver, its identities, and a Jacobian-vector product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.ntk import regression, spectrum
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import from_module
from saboc_jax.ntk.options import NTKOptions

pytestmark = pytest.mark.usefixtures("x64")
N, M, K = 6, 4, 3


def case(seed=0):
    """A kernel [N, N], rows [M, N] and targets [N, K]."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(N, 30)), rng.normal(size=(M, 30))
    return a @ a.T, b @ a.T, rng.normal(size=(N, K))


def outputs(seed):
    return np.random.default_rng(seed).normal(size=(2, M, K))


def softmax(f):
    e = np.exp(f)
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("jitter", [0, 1e-6, 0.3])
def test_predictions_are_those_of_the_regularised_solve(jitter):
    own, rows, targets = case()
    ridge = own + jitter * np.trace(own) / N * np.eye(N)
    expected = rows @ np.linalg.solve(ridge, targets)
    ours = regression.predict(rows, spectrum.decompose(jnp.asarray(own)), targets, jitter)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_default_jitter_is_relative_to_the_kernel():
    own, rows, targets = case(1)
    one = regression.predict(rows, spectrum.decompose(jnp.asarray(own)), targets)
    two = regression.predict(1e6 * rows, spectrum.decompose(jnp.asarray(1e6 * own)), targets)
    np.testing.assert_allclose(one, two, rtol=1e-9)
    exact = regression.predict(rows, spectrum.decompose(jnp.asarray(own)), targets, 0)
    assert 0 < np.abs(one - exact).max() < 1e-4 * np.abs(exact).max()


def test_training_images_are_interpolated():
    own, _, targets = case(2)
    f = regression.predict(own, spectrum.decompose(jnp.asarray(own)), targets, jitter=0)
    np.testing.assert_allclose(f, targets, atol=1e-10)
    assert regression.generalisation(f, targets) < 1e-20


def test_a_singular_kernel_stays_finite_with_jitter():
    a = np.random.default_rng(3).normal(size=(N, 2))
    decomposed = spectrum.decompose(jnp.asarray(a @ a.T))
    f = regression.predict(a @ a.T, decomposed, case(3)[2])
    projector = a @ np.linalg.pinv(a)  # in the limit, targets projected on the range
    np.testing.assert_allclose(f, projector @ case(3)[2], atol=1e-4)


def test_predictions_are_jacobian_vector_products():
    """f(X)_k = J_X (J_train' a_k): no kernel of X is formed on the other side."""
    module = nn.Sequential([nn.Dense(16), jnp.tanh, nn.Dense(K)])
    train = jax.random.normal(jax.random.key(0), (N, 5), jnp.float64)
    test = jax.random.normal(jax.random.key(1), (M, 5), jnp.float64)
    params = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64), module.init(jax.random.key(2), train)["params"]
    )
    network = from_module(module, {"params": params})
    own, rows = empirical_ntks(network, train, (test,), NTKOptions(params="all"))
    targets = jax.random.normal(jax.random.key(3), (N, K), jnp.float64)
    decomposed = spectrum.decompose(own)
    ours = regression.predict(rows, decomposed, targets, jitter=0)
    dual = np.linalg.solve(own, targets)

    def summed(images):
        return lambda params: module.apply({"params": params}, images).sum(-1)

    pull = jax.vjp(summed(train), params)[1]
    expected = [jax.jvp(summed(test), (params,), pull(jnp.asarray(a)))[1] for a in dual.T]
    np.testing.assert_allclose(ours, np.stack(expected, 1), rtol=1e-7, atol=1e-9)


def test_labels():
    labels = jnp.array([0, 2, 2, 1])
    hot = np.eye(K)[np.asarray(labels)]
    np.testing.assert_allclose(regression.encode_labels(labels, K, "onehot"), hot)
    np.testing.assert_allclose(regression.encode_labels(labels, K), hot - hot.mean(0), atol=1e-7)
    np.testing.assert_allclose(regression.encode_labels(labels[:1], K), 0)  # nothing to tell apart
    with pytest.raises(ValueError, match="label_encoding='soft'"):
        regression.encode_labels(labels, K, "soft")


def test_expressivities_are_minus_what_they_are_named_after():
    f, g = outputs(0)
    p, q = softmax(f), softmax(g)
    expected = {
        "softmax": (p * np.log(q)).sum(1).mean(),
        "torch_raw": (g * np.log(p)).sum(1).mean(),
        "torch_raw_swapped": (f * np.log(q)).sum(1).mean(),
        "kl": -(p * np.log(p / q)).sum(1).mean(),
        "l2": -((f - g) ** 2).sum(1).mean(),
        "relative": -np.linalg.norm(f - g) / np.linalg.norm(f),
    }
    assert set(expected) == set(regression.EXPRESSIVITIES)
    for kind, value in expected.items():
        np.testing.assert_allclose(regression.expressivity(f, g, kind), value, rtol=1e-10)
        assert value < 0 or kind.startswith("torch_raw")


def test_without_noise_what_is_left_is_the_entropy():
    f, _ = outputs(1)
    p = softmax(f)
    np.testing.assert_allclose(regression.expressivity(f, f), (p * np.log(p)).sum(1).mean())
    for kind in ("kl", "l2", "relative"):
        np.testing.assert_allclose(regression.expressivity(f, f, kind), 0, atol=1e-14)


def test_the_raw_cross_entropy_of_centred_outputs_is_minus_the_inner_product():
    f, g = (v - v.mean(1, keepdims=True) for v in outputs(2))
    for kind in ("torch_raw", "torch_raw_swapped"):
        np.testing.assert_allclose(
            regression.expressivity(f, g, kind), (f * g).sum(1).mean(), rtol=1e-10
        )


def test_generalisation_norms():
    f, y = outputs(3)
    np.testing.assert_allclose(regression.generalisation(f, y), ((f - y) ** 2).sum(1).mean())
    np.testing.assert_allclose(regression.generalisation(f, y, "fro"), np.linalg.norm(f - y))
    with pytest.raises(ValueError, match="norm='max'"):
        regression.generalisation(f, y, "max")

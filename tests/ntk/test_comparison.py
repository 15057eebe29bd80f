"""Alignments and drifts against their formulas, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import saboc_jax as sj
from saboc_jax.ntk.comparison import centred_kernel
from saboc_jax.ntk.options import NTKOptions

N = 9


def kernels(seed=0):
    features = np.random.default_rng(seed).standard_normal((2, N, 20)) + 1
    return features @ features.transpose(0, 2, 1)


def test_centring_takes_the_mean_of_the_features_away():
    features = np.random.default_rng(1).standard_normal((N, 4)) + 3
    rest = features - features.mean(0)
    np.testing.assert_allclose(centred_kernel(features @ features.T), rest @ rest.T, atol=1e-12)


def test_alignment_is_its_formula():
    a, b = kernels()
    h = np.eye(N) - 1 / N
    left, right = h @ a @ h, h @ b @ h
    wanted = np.trace(left @ right) / np.sqrt(np.trace(left @ left) * np.trace(right @ right))
    assert sj.kernel_alignment(a, b) == pytest.approx(wanted)
    plain = np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))
    assert sj.kernel_alignment(a, b, centre=False) == pytest.approx(plain)
    assert sj.kernel_alignment(a, 7 * a) == pytest.approx(1)
    assert np.isnan(sj.kernel_alignment(a, np.zeros((N, N))))


def test_label_alignment_is_that_with_the_kernel_of_labels():
    kernel = kernels()[0]
    labels = np.arange(N) % 3
    targets = np.eye(3)[labels]
    same = (labels[:, None] == labels[None]).astype(float)
    assert sj.label_alignment(kernel, targets) == pytest.approx(sj.kernel_alignment(kernel, same))
    signs = np.where(labels > 0, 1.0, -1.0)
    wanted = signs @ kernel @ signs / (N * np.linalg.norm(kernel))
    assert sj.label_alignment(kernel, signs, centre=False) == pytest.approx(wanted)
    assert sj.label_alignment(targets @ targets.T, targets) == pytest.approx(1)


def test_drift_of_a_kernel_and_of_weights():
    a, b = kernels()
    drift = sj.kernel_drift(a, b)
    assert drift.distance == pytest.approx(1 - sj.kernel_alignment(a, b, centre=False))
    assert drift.relative_change == pytest.approx(np.sqrt(((a - b) ** 2).sum() / (a**2).sum()))
    assert drift.alignment == pytest.approx(sj.kernel_alignment(a, b))
    x = jax.random.normal(jax.random.key(0), (N, 4))
    before, after = (jax.random.normal(jax.random.key(seed), (4, 3)) for seed in (1, 2))
    tanh = lambda w, x: jnp.tanh(x @ w)  # noqa: E731
    network = sj.from_function(tanh, before)
    found = sj.ntk_drift(network, {"params": after}, x)
    own, other = (sj.empirical_ntk(sj.from_function(tanh, w), x) for w in (before, after))
    assert found == pytest.approx(sj.kernel_drift(own, other), rel=1e-4)
    still = sj.ntk_drift(network, network.variables, x)
    assert still == pytest.approx((0, 0, 1), abs=1e-6)


def test_bad_arguments_are_one_sentence():
    a, _ = kernels()
    network = sj.from_function(lambda w, x: x @ w, jnp.ones((4, 3)))
    for call, said in (
        (lambda: sj.kernel_alignment(a, a[:3, :3]), r"\(9, 9\) and \(3, 3\); allowed"),
        (lambda: sj.kernel_alignment(a[0], a), r"shape \(9,\); allowed: \[n, n\]"),
        (lambda: sj.label_alignment(a, np.ones((3, 2))), r"shape \(3, 2\); allowed: \[9\]"),
        (lambda: sj.ntk_drift(network, {}, a, NTKOptions(outputs="full")), "outputs='full'"),
    ):
        with pytest.raises(ValueError, match=said):
            call()

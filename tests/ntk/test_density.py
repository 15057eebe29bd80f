"""Spectral densities against all eigenvalues of the dense kernel."""

import jax
import numpy as np
import pytest
from scipy.integrate import trapezoid
from two_layers import layers, weights

import saboc_jax as sj
from saboc_jax.ntk.density import lanczos, tridiagonal

N, K = 90, 3
pytestmark = pytest.mark.usefixtures("x64")


def operator(products="passes", width=40, n=N):
    keys = jax.random.split(jax.random.key(0), 3)
    params = weights(keys, 6, width, K)
    x = jax.random.normal(keys[2], (n, 6), float)
    return sj.ntk_operator(sj.from_function(layers, params), x, chunk=32, products=products)


def eigenvalues(operator):
    return np.linalg.eigvalsh(np.asarray(operator.dense()))[::-1]


def test_lanczos_gives_the_kernel_in_an_orthonormal_basis():
    found = operator()
    start = np.random.default_rng(0).standard_normal((N, 2))
    basis, diagonal, beside = lanczos(found, start / np.linalg.norm(start, axis=0), N)
    kernel, inside = np.asarray(found.dense()), tridiagonal(diagonal, beside)
    for column in range(2):
        q = basis[:, :, column].T
        np.testing.assert_allclose(q.T @ q, np.eye(N), atol=1e-8)
        np.testing.assert_allclose(q.T @ kernel @ q, inside[column], atol=1e-8 * kernel.max())


def test_traces_of_functions_are_within_their_errors():
    found = operator()
    values = eigenvalues(found)
    density = sj.spectral_density(found, jax.random.key(3), probes=20, steps=40)
    assert not density.is_exact and density.nodes.shape == (20, 40)
    np.testing.assert_allclose(density.weights.sum(1), 1)
    for function in (lambda v: v, np.square, lambda v: np.log(v + 1.0)):
        estimate = density.trace_of(function)
        assert 0 < estimate.error < 0.2 * function(values).sum()
        assert abs(estimate.value - function(values).sum()) < 4 * estimate.error


@pytest.mark.parametrize("kind", ["entropy", "participation"])
def test_effective_ranks(kind):
    p = eigenvalues(operator()) / eigenvalues(operator()).sum()
    wanted = {"entropy": np.exp(-(p * np.log(p)).sum()), "participation": 1 / (p**2).sum()}[kind]
    exact = sj.spectral_density(operator("dense"), jax.random.key(0)).effective_rank(kind)
    assert exact.value == pytest.approx(wanted) and exact.error == 0
    found = sj.spectral_density(operator(), jax.random.key(0), probes=20).effective_rank(kind)
    assert abs(found.value - wanted) < 4 * found.error < wanted


def test_a_recursion_that_ends_early_loses_nothing():
    found = operator(width=1)  # rank at most 9 of 90
    density = sj.spectral_density(found, jax.random.key(1), probes=40, steps=30)
    values = eigenvalues(found)
    estimate = density.trace_of(np.square)
    assert abs(estimate.value - (values**2).sum()) < 4 * estimate.error
    assert np.isfinite(density.nodes).all()


def test_the_density_integrates_to_one_and_is_where_the_eigenvalues_are():
    found = operator()
    density = sj.spectral_density(found, jax.random.key(1), steps=30)
    values = eigenvalues(found)
    width = values[0] / 50
    points = np.linspace(-5 * width, values[0] + 5 * width, 2000)
    heights = density.at(points, width)
    assert trapezoid(heights, points) == pytest.approx(1, abs=1e-6)
    below = trapezoid(np.where(points < values[9], heights, 0), points)
    assert below == pytest.approx((N - 10) / N, abs=0.1)


def test_one_probe_has_no_error_and_bad_arguments_are_one_sentence():
    found, key = operator(), jax.random.key(0)
    one = sj.spectral_density(found, key, probes=1, steps=5)
    assert np.isnan(one.trace_of(np.square).error)
    for call, said in (
        (lambda: sj.spectral_density(found, key, probes=0), "probes=0; allowed"),
        (lambda: sj.spectral_density(found, key, steps=1.5), "steps=1.5; allowed"),
        (lambda: one.effective_rank("trace"), "kind='trace'; allowed"),
        (lambda: one.at([1.0], 0.0), "width=0.0; allowed"),
    ):
        with pytest.raises(ValueError, match=said):
            call()

"""Eigenvalues and solutions by products alone are those of the dense kernel in float64."""

import jax
import numpy as np
import pytest
from two_layers import layers, weights

import saboc_jax as sj
from saboc_jax.ntk import solves
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.solves import NotConverged

N, K = 90, 3


@pytest.fixture
def network(x64):
    keys = jax.random.split(jax.random.key(0), 2)
    params = weights(keys, 6, 40, K)
    return sj.from_function(layers, params)


@pytest.fixture
def x(x64):
    return jax.random.normal(jax.random.key(1), (N, 6), float)


@pytest.mark.parametrize("outputs", ["sum", "full"])
@pytest.mark.parametrize("products", ["dense", "passes"])
def test_spectrum_and_solution_are_those_of_the_dense_kernel(network, x, outputs, products):
    options = NTKOptions(outputs=outputs)
    operator = sj.ntk_operator(network, x, options, chunk=32, products=products)
    kernel = np.asarray(operator.dense())
    values, vectors = operator.top_eigenpairs(5)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(kernel)[::-1][:5], rtol=1e-10)
    np.testing.assert_allclose(kernel @ vectors, vectors * values, atol=1e-8 * values[0])
    np.testing.assert_allclose(operator.top_eigenvalues(2), values[:2], rtol=1e-10)
    ridge = 1e-3 * values[0]
    right = np.random.default_rng(0).standard_normal((len(kernel), 2))
    found = operator.solve(right, ridge, tolerance=1e-10)
    wanted = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), right)
    np.testing.assert_allclose(found.values, wanted, rtol=1e-6, atol=1e-8 * np.abs(wanted).max())
    assert found.residuals.shape == (2,) and found.residuals.max() < 1e-8
    assert (found.iterations == 0) == (products == "dense")
    one = operator.solve(right[:, 0], ridge, tolerance=1e-10)
    np.testing.assert_allclose(one.values, wanted[:, 0], rtol=1e-6, atol=1e-8)


def test_the_preconditioner_saves_iterations(network, x):
    operator = sj.ntk_operator(network, x, chunk=32, products="passes")
    right, ridge = np.ones(N), 1e-4 * float(operator.trace()) / N
    few, many = (solves.solve(operator, right, ridge, 1e-8, 1000, rank) for rank in (60, 1))
    assert few.iterations < many.iterations / 2


def test_what_did_not_converge_is_told_and_bad_arguments_are_one_sentence(network, x):
    operator = sj.ntk_operator(network, x, chunk=32, products="passes")
    with pytest.warns(NotConverged, match="relative residual"):
        found = operator.solve(np.arange(N) % 7.0, 1e-9, max_iterations=1)
    assert found.iterations == 1
    for call, said in (
        (lambda: operator.top_eigenvalues(0), "0 eigenvalues of 90 rows"),
        (lambda: operator.solve(np.ones(3)), r"shape \(3,\); allowed"),
        (lambda: operator.solve(np.full(N, np.nan)), "finite"),
        (lambda: operator.solve(np.ones(N), -1.0), "ridge=-1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            call()

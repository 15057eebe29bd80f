"""Scores of an operator are those of the dense kernels in float64."""

import jax
import numpy as np
import pytest
from two_layers import layers, weights

import saboc_jax as sj
from saboc_jax.ntk import regression, spectrum
from saboc_jax.ntk.options import NTKOptions

N, M, K = 80, 7, 3
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def case(x64):
    keys = jax.random.split(jax.random.key(0), 5)
    params = weights(keys, 6, 40, K)
    train, test = (jax.random.normal(k, (n, 6), float) for k, n in zip(keys[2:], (N, M)))  # noqa: B905
    targets = jax.random.normal(keys[4], (N + M, 4), float)
    noisy = test + 0.1 * jax.random.normal(keys[3], test.shape, float)
    return sj.from_function(layers, params), train, test, noisy, targets[:N], targets[N:]


@pytest.mark.parametrize("products", ["dense", "passes"])
@pytest.mark.parametrize("outputs", ["sum", "trace"])
def test_scores_are_those_of_dense_kernels(case, products, outputs):
    network, train, test, noisy, targets, wanted = case
    options = NTKOptions(outputs=outputs)
    own, rows, others = sj.empirical_ntks(network, train, (test, noisy), options)
    dense = spectrum.decompose(own)
    f, g = (regression.predict(each, dense, targets, 1e-3) for each in (rows, others))
    operator = sj.ntk_operator(network, train, options, chunk=32, products=products)
    found = sj.operator_scores(operator, targets, test, wanted, noisy, jitter=1e-3, tolerance=1e-11)
    expected = spectrum.trainability(dense.values)
    np.testing.assert_allclose(found.trainability.eigenvalues, dense.values[:9], rtol=1e-9)
    np.testing.assert_allclose(found.trainability.value, expected, rtol=1e-10)
    assert abs(found.trainability.value - expected) <= found.trainability.error + 1e-13
    assert found.trainability.error < 1e-8
    np.testing.assert_allclose(found.expressivity, regression.expressivity(f, g), rtol=1e-8)
    np.testing.assert_allclose(
        found.generalisation, regression.generalisation(f, wanted), rtol=1e-8
    )
    assert found.residual < 1e-10
    fitted = sj.ntk_regression(operator, targets, jitter=1e-3, tolerance=1e-11)
    np.testing.assert_allclose(fitted.predict(test), f, rtol=1e-7, atol=1e-9)


def test_the_full_kernel_couples_outputs(case):
    network, train, test, _, targets, _ = case
    options = NTKOptions(outputs="full")
    own, rows = sj.empirical_ntks(network, train, (test,), options)
    matrix = own.transpose(0, 2, 1, 3).reshape(N * K, N * K)
    ridge = 1e-2 * np.trace(matrix) / (N * K)
    dual = np.linalg.solve(matrix + ridge * np.eye(N * K), np.asarray(targets[:, :K]).reshape(-1))
    wanted = np.einsum("imab,mb->ia", rows, dual.reshape(N, K))
    operator = sj.ntk_operator(network, train, options, products="passes")
    fitted = sj.ntk_regression(operator, targets[:, :K], jitter=1e-2, tolerance=1e-11)
    np.testing.assert_allclose(fitted.predict(test), wanted, rtol=1e-7, atol=1e-9)


def test_where_dense_trainability_is_no_number_this_is_none(case):
    network, train = case[:2]
    operator = sj.ntk_operator(network, train[:2], products="passes")
    assert np.isnan(spectrum.trainability(spectrum.decompose(operator.dense()).values))
    assert np.isnan(sj.operator_trainability(operator).value)


def test_bad_arguments_are_one_sentence(case):
    network, train, _, _, targets, _ = case
    operator = sj.ntk_operator(network, train, products="passes")
    full = sj.ntk_operator(network, train, NTKOptions(outputs="full"), products="passes")
    for call, said in (
        (lambda: sj.ntk_regression(operator, targets[:3]), r"shape \(3, 4\); allowed: \[80, cl"),
        (lambda: sj.ntk_regression(operator, targets[:, 0]), r"shape \(80,\); allowed"),
        (lambda: sj.ntk_regression(full, targets), r"shape \(80, 4\); allowed"),
        (lambda: sj.ntk_regression(operator, targets, jitter=-1.0), "jitter=-1.0; allowed"),
        (lambda: sj.operator_trainability(operator, "most"), "top='most'; allowed"),
    ):
        with pytest.raises(ValueError, match=said):
            call()

"""What is read from eigenvalues, against hand calculations and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saboc_jax.ntk import spectrum
from saboc_jax.precision import enable_x64

KERNEL = jnp.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 5.0]])  # eigenvalues 5, 3, 1


def random_kernel(seed, n, rank):
    a = np.random.default_rng(seed).normal(size=(n, rank))
    return jnp.asarray(a @ a.T)


def test_decomposition_by_hand():
    values, vectors = spectrum.decompose(KERNEL)
    np.testing.assert_allclose(values, [5, 3, 1], rtol=1e-6)
    np.testing.assert_allclose(np.abs(vectors[:, 0]), [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(np.abs(vectors[:, 1]), [0.5**0.5, 0.5**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(vectors @ jnp.diag(values) @ vectors.T, KERNEL, atol=1e-5)


def test_trainability_by_hand():
    values = spectrum.decompose(KERNEL).values
    np.testing.assert_allclose(spectrum.trainability(values), 8 / 9, rtol=1e-6)  # ceil(1.7) = 2
    np.testing.assert_allclose(spectrum.trainability(values, "floor"), 5 / 9, rtol=1e-6)
    assert np.isnan(spectrum.trainability(values, 3))  # 1 for every network
    np.testing.assert_allclose(spectrum.trainability(values, 0.3), 5 / 9, rtol=1e-6)
    np.testing.assert_allclose(spectrum.trainability(jnp.array([3.0, 1.0, -1.0]), 1), 3 / 4)


@given(n=st.integers(3, 25), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=25, deadline=None)
def test_bounds_rank_and_scale(n, seed, data):
    top = int(np.ceil(np.sqrt(n)))
    with enable_x64():
        whole = spectrum.decompose(random_kernel(seed, n, n)).values
        share = float(spectrum.trainability(whole))
        assert top / n - 1e-12 <= share <= 1
        scale = data.draw(st.sampled_from([1e-6, 0.1, 7.0, 1e8]))
        scaled = spectrum.decompose(scale * random_kernel(seed, n, n)).values
        np.testing.assert_allclose(spectrum.trainability(scaled), share, rtol=1e-10)
        rank = data.draw(st.integers(1, top))
        low = spectrum.decompose(random_kernel(seed, n, rank)).values
        np.testing.assert_allclose(spectrum.trainability(low), 1, rtol=1e-12)
        flat = spectrum.decompose(scale * jnp.eye(n)).values
        np.testing.assert_allclose(spectrum.trainability(flat), top / n, rtol=1e-12)
        np.testing.assert_allclose(spectrum.condition_number(flat), 1, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_kernel_that_is_not_finite_gives_nan_also_when_compiled(bad):
    kernel = KERNEL.at[0, 0].set(bad)
    for run in (spectrum.decompose, jax.jit(spectrum.decompose)):
        values, vectors = run(kernel)
        assert np.isnan(values).all() and np.isnan(vectors).all()
        assert np.isnan(spectrum.trainability(values))
        assert np.isnan(spectrum.condition_number(values))


def test_a_zero_kernel_has_no_trainability_and_an_infinite_condition_number():
    values = spectrum.decompose(jnp.zeros((4, 4))).values
    assert np.isnan(spectrum.trainability(values))
    assert np.isposinf(spectrum.condition_number(values))


def test_condition_number_guard_is_n_times_the_precision():
    np.testing.assert_allclose(
        spectrum.condition_number(spectrum.decompose(KERNEL).values), 5, rtol=1e-6
    )
    values = jnp.array([1.0, 0.5, 0.25])
    np.testing.assert_allclose(spectrum.condition_number(values, 0.08), 4)  # 3 * 0.08 < 0.25
    assert np.isposinf(spectrum.condition_number(values, 0.09))  # 3 * 0.09 > 0.25
    np.testing.assert_allclose(spectrum.condition_number(values.at[2].set(1e-9), 0), 1e9, rtol=1e-6)
    assert np.isposinf(spectrum.condition_number(values.at[2].set(0), 0))


@pytest.mark.parametrize("n", [1, 2, 4, 5, 16, 17, 64])
def test_number_of_top_values(n):
    lower, upper = spectrum.number_of_top(n, "floor"), spectrum.number_of_top(n, "ceil")
    assert lower**2 <= n < (lower + 1) ** 2
    assert (upper - 1) ** 2 < n <= upper**2
    assert spectrum.number_of_top(n, n) == n
    assert spectrum.number_of_top(n, 1e-9) == 1


@pytest.mark.parametrize("top", [0, -1, 17, 1.5, 0.0, "sqrt"])
def test_a_bad_number_is_named(top):
    with pytest.raises(ValueError, match=f"top={top!r}"):
        spectrum.number_of_top(16, top)

"""The NTK-score's equations by hand, and what must not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saboc_jax import data
from saboc_jax.ntk import regression, spectrum
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.combine import combine, observe, score
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201


@given(st.integers(3, 40), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_trainability_lies_between_its_bounds(n, seed):
    values = np.sort(np.random.default_rng(seed).exponential(size=n))[::-1]
    top = int(np.ceil(np.sqrt(n)))
    share = float(spectrum.trainability(jnp.asarray(values)))
    assert top / n - 1e-6 <= share <= 1 + 1e-6
    np.testing.assert_allclose(share, values[:top].sum() / values.sum(), rtol=1e-5)


def test_trainability_of_two_images_is_no_value():
    assert np.isnan(spectrum.trainability(jnp.array([2.0, 1.0])))  # its share is 1 for any kernel


def test_trainability_of_flat_low_rank_and_zero_kernels():
    flat = spectrum.decompose(jnp.eye(16) * 3.0).values
    np.testing.assert_allclose(spectrum.trainability(flat), 4 / 16, rtol=1e-6)
    low = jnp.zeros(16).at[:4].set(jnp.array([5.0, 3.0, 2.0, 1.0]))
    np.testing.assert_allclose(spectrum.trainability(low), 1.0)
    assert np.isnan(spectrum.trainability(jnp.zeros(16)))
    assert spectrum.number_of_top(32, "ceil") == 6
    assert spectrum.number_of_top(32, "floor") == 5
    assert spectrum.number_of_top(32, 0.25) == 8
    with pytest.raises(ValueError, match="top='most'"):
        spectrum.number_of_top(32, "most")


def test_condition_number_is_guarded_against_round_off():
    values = jnp.array([10.0, 1.0, 0.5])
    np.testing.assert_allclose(spectrum.condition_number(values), 20.0)
    assert np.isinf(spectrum.condition_number(values.at[2].set(-1e-9)))
    assert np.isnan(spectrum.condition_number(values.at[0].set(jnp.nan)))


def regression_case(seed=0, n=6, k=3):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 40)), rng.normal(size=(n, 40))
    labels = jnp.asarray(rng.integers(0, k, n))
    return jnp.asarray(a @ a.T), jnp.asarray(b @ a.T), labels


def test_predictions_equal_a_direct_solve():
    with enable_x64():
        own, rows, labels = regression_case()
        targets = regression.encode_labels(labels, 3).astype(jnp.float64)
        np.testing.assert_allclose(targets.sum(0), 0, atol=1e-7)
        ours = regression.predict(rows, spectrum.decompose(own), targets, jitter=0)
        np.testing.assert_allclose(ours, rows @ np.linalg.solve(own, targets), rtol=1e-9)
        jitter = 1e-3
        ridge = own + jitter * jnp.trace(own) / len(own) * jnp.eye(len(own))
        ours = regression.predict(rows, spectrum.decompose(own), targets, jitter)
        np.testing.assert_allclose(ours, rows @ np.linalg.solve(ridge, targets), rtol=1e-9)
        interpolated = regression.predict(own, spectrum.decompose(own), targets, jitter=0)
        np.testing.assert_allclose(interpolated, targets, atol=1e-9)
        assert regression.generalisation(interpolated, targets) < 1e-15


def test_expressivity_by_hand():
    f, g = np.random.default_rng(0).normal(size=(2, 5, 3))
    p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (f, g))
    np.testing.assert_allclose(
        regression.expressivity(f, g), (p * np.log(q)).sum(1).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        regression.expressivity(f, f), (p * np.log(p)).sum(1).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(regression.expressivity(f, f, "kl"), 0, atol=1e-6)
    centred = f - f.mean(1, keepdims=True), g - g.mean(1, keepdims=True)
    np.testing.assert_allclose(  # decision D8: with centred outputs, the mean inner product
        regression.expressivity(*centred, "torch_raw"),
        (centred[0] * centred[1]).sum(1).mean(), rtol=1e-4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="softmax"):
        regression.expressivity(f, g, "entropy")


def test_generalisation_by_hand():
    f, y = np.random.default_rng(1).normal(size=(2, 5, 3))
    np.testing.assert_allclose(
        regression.generalisation(f, y), np.square(f - y).sum() / 5, rtol=1e-5
    )
    np.testing.assert_allclose(
        regression.generalisation(f, y, "fro"), np.linalg.norm(f - y), rtol=1e-5
    )


@pytest.fixture(scope="module")
def case():
    space = nas_bench_201(2, 1, 10, (8, 8, 3))
    scorer = make_scorer("ntk_score", space)
    digits = data.load("digits")
    batch = data.draw(digits, jax.random.key(0), 6, needs=scorer.needs)
    shrink = lambda x: x[:, ::4, ::4] if x is not None and x.ndim == 4 else x  # noqa: E731
    batch = batch._replace(
        **{
            name: shrink(getattr(batch, name))
            for name in ("images", "test_images", "perturbed_images")
        }
    )
    gates = space.gates(
        space.from_string(
            "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
        )
    )
    run = jax.jit(lambda key, gates, batch: score(scorer, key, gates, batch))
    return space, scorer, batch, gates, run


def test_same_key_same_bits_and_jit_equals_eager(case):
    _, scorer, batch, gates, run = case
    key = jax.random.key(4)
    one, two = run(key, gates, batch)[0], run(key, gates, batch)[0]
    np.testing.assert_array_equal(one, two)
    assert np.isfinite(one).all()
    assert (one != run(jax.random.key(5), gates, batch)[0]).any()
    np.testing.assert_allclose(one, score(scorer, key, gates, batch)[0], rtol=2e-3)


def test_order_of_images_does_not_matter(case):
    _, _, batch, gates, run = case
    key = jax.random.key(4)
    order = np.random.default_rng(0).permutation(6)
    shuffled = batch._replace(
        images=batch.images[order], labels=batch.labels[order],
        test_images=batch.test_images[order], test_labels=batch.test_labels[order],
        perturbed_images=batch.perturbed_images[order],
    )  # fmt: skip
    ours, theirs = run(key, gates, shuffled)[0], run(key, gates, batch)[0]
    np.testing.assert_allclose(ours, theirs, rtol=5e-3)


def test_a_disconnected_cell_is_bad_in_every_metric(case):
    space, _, batch, _, run = case
    assert np.isnan(run(jax.random.key(0), space.gates(np.zeros(6, int)), batch)[0]).all()


def test_scale_of_the_kernel_does_not_matter(case):
    _, scorer, batch, gates, _ = case
    with enable_x64():
        observed = observe(scorer, jax.random.key(0), gates, batch)
        double = jax.tree.map(lambda k: k.astype(jnp.float64), observed)
        scaled = jax.tree.map(lambda k: 7.0 * k, double)
        ours, theirs = (scorer.finish(o, gates, batch)[0] for o in (double, scaled))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_equal_observables_are_computed_once(case):
    _, scorer, batch, gates, _ = case
    calls = []

    class Counting:
        def __call__(self, key, gates, batch):
            calls.append(1)
            return observable(key, gates, batch)

    (observable,) = scorer.observables.values()
    counting = scorer._replace(observables={"kernels": Counting()})
    both = combine([counting, counting._replace(name="again")])
    scores = score(both, jax.random.key(0), gates, batch)[0]
    assert len(calls) == 1
    np.testing.assert_array_equal(scores[:3], scores[3:])
    assert both.metrics[3] == "again.S_t"


def test_options_that_do_not_exist_are_named():
    space = nas_bench_201(2, 1, 10)
    with pytest.raises(ValueError, match="expressivity='loud'"):
        make_scorer("ntk_score", space, expressivity="loud")
    with pytest.raises(ValueError, match="unexpected keyword"):
        make_scorer("ntk_score", space, colour="red")
    with pytest.raises(ValueError, match="ntk_score"):
        make_scorer("best", space)

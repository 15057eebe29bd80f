"""One assembly of scorer, draws, store and limits for the API and the binaries."""

import jax
import numpy as np
import pytest

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import Purpose, repeat_keys, root_key
from saboc_jax.scorers.variants import make_scorers
from saboc_jax.searching.assembly import ScoringSettings, find_allowed, latency_of

SEED = 5
KEY = root_key(SEED)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def space():
    return sj.make_space("nas_bench_201", channels=2, num_cells=1, image_shape=(32, 32, 3))


def test_repeats_have_their_own_named_keys_and_batches(digits):
    settings = ScoringSettings(repeats=2, batch_size=4)
    draws = settings.draws(digits, KEY, {"images"}, SEED)
    assert draws.names == ("5/0", "5/1")
    for key, expected in zip(draws.keys, repeat_keys(KEY, Purpose.SCORING, 2), strict=True):
        assert (jax.random.key_data(key) == jax.random.key_data(expected)).all()
    for batch, key in zip(draws.batches, repeat_keys(KEY, Purpose.IMAGES, 2), strict=True):
        np.testing.assert_array_equal(batch.images, data.draw(digits, key, 4).images)
    assert not np.array_equal(draws.batches[0].images, draws.batches[1].images)


def test_a_batch_is_the_same_in_every_repeat_but_for_its_noise(digits):
    given = data.draw(digits, KEY, 4, needs={"test_images", "test_labels"})
    draws = ScoringSettings(repeats=2).draws(given, KEY, {"perturbed_images"})
    one, other = draws.batches
    assert draws.names == ("0", "1")
    np.testing.assert_array_equal(one.images, other.images)
    assert not np.array_equal(one.perturbed_images, other.perturbed_images)


def test_options_reach_the_scorers_that_have_them(space):
    settings = ScoringSettings(
        scorer_options={"batch_norm": "batch"}, latency_options={"batch_size": 3}
    )
    scorer = settings.scorer(["ntk_score", "params", "latency"], space)
    ntk, params, latency = scorer.parts
    assert ntk.options["batch_norm"] == "batch"
    assert "batch_norm" not in params.options
    assert latency.options["batch_size"] == 3
    written = settings.scorer("ntk_score:batch_norm=frozen", space)
    assert written.options["batch_norm"] == "frozen"


def test_scorers_are_names_records_or_factories(space):
    given = sj.make_scorer("depth", space)
    made = make_scorers(["params", given, lambda of: sj.make_scorer("macs", of)], space)
    assert made.metrics == ("params", "depth", "macs")
    with pytest.raises(ValueError, match="names, scorers, or factories"):
        make_scorers([3], space)
    with pytest.raises(ValueError, match="one or more of activations"):
        make_scorers([], space)


def test_rows_in_the_store_are_named_by_data_seed_and_space(digits, space, tmp_path):
    settings = ScoringSettings(repeats=1, batch_size=4)
    scorer = settings.scorer("grad_norm", space)
    mask = np.eye(5, dtype=bool)[[3] * 6]
    with Store(tmp_path / "s.sqlite") as store:
        names = {"seed": SEED, "space_id": "mine", "store": store}
        first = settings.evaluator(space, scorer, digits, KEY, **names)
        (value,) = first.evaluate(mask[None]).ravel()
        again = settings.evaluator(space, scorer, digits, KEY, **names)
        assert again.evaluate(mask[None]).ravel() == [value]
        assert again.counts.served == 1 and again.counts.scored == 0
        other = settings.evaluator(space, scorer, digits, root_key(6), **(names | {"seed": 6}))
        assert other.evaluate(mask[None]).ravel() != [value]


def test_limits_make_a_stopwatch_only_for_latency(digits, space):
    settings = ScoringSettings(repeats=3, batch_size=4)

    def stopwatch():
        return settings.stopwatch(space, digits, KEY, seed=SEED)

    assert find_allowed(space, None, stopwatch) == (None, None)
    assert find_allowed(space, sj.Budget(), stopwatch) == (None, None)
    allows, made = find_allowed(space, sj.Budget(params=10**9), stopwatch)
    assert made is None and allows(np.ones((6, 5), bool))
    allows, made = find_allowed(space, sj.Budget(latency_ms=1e6), stopwatch)
    assert made.counts.disconnected == 1  # the cheapest architecture, once
    latency = latency_of(made)
    assert np.isnan(latency(np.zeros(6, int))) and latency(np.ones(6, int)) > 0


@pytest.mark.parametrize("name", ["repeats", "batch_size"])
def test_a_setting_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0; allowed: a whole number, 1 or more"):
        ScoringSettings(**{name: 0})


def test_keys_and_images_are_checked(digits, space):
    settings = ScoringSettings()
    with pytest.raises(ValueError, match=r"shape \(2,\); allowed"):
        settings.draws(digits, jax.random.split(KEY), {"images"})
    other = sj.make_space("nas_bench_201", image_shape=(16, 16, 3))
    with pytest.raises(ValueError, match=r"allowed: \(16, 16, 3\)"):
        settings.evaluator(other, settings.scorer("params", other), digits, KEY)

"""Measured latency: what is timed, what is kept, and that it stays out of compiled programs."""

import time
from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.scorers import latency as module
from saboc_jax.scorers.combine import combine, score
from saboc_jax.scorers.latency import inference, latency, timed
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.types import Batch

KEY = jax.random.key(0)
SHAPE = (8, 8, 3)
BATCH = Batch(np.zeros((1, *SHAPE), np.float32), np.zeros(1, int))


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, images, scale, train=True):
        x = nn.Conv(self.width, (3, 3))(images * scale)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(10)(nn.Dropout(0.5, deterministic=not train)(x).mean((1, 2)))


@pytest.fixture(scope="module")
def space():
    call = {"scale": 2.0, "train": False}
    return module_space([Net(2), Net(3)], image_shape=SHAPE, call=call)


def make(space, scorer, repeats=1, store=None):
    return Evaluator(Runner(space, scorer, Draws([KEY] * repeats, [BATCH] * repeats)), store)


def masks(*archs):
    return architecture_to_mask(np.array(archs), 2)


def test_warm_runs_are_timed_and_nothing_else():
    pauses = iter([0.05, 0.05, 0.002, 0.004, 0.002])
    seconds = timed(lambda: time.sleep(next(pauses)), runs=3, warmup=2)
    assert next(pauses, None) is None
    assert ((seconds >= [0.002, 0.004, 0.002]) & (seconds < 0.05)).all()


def test_the_score_is_the_median_of_the_runs_in_milliseconds(space, monkeypatch):
    asked = []

    def clock(run, runs, warmup):
        asked.append((np.asarray(run()).shape, runs, warmup))
        return np.array([1.0, 2.0, 40.0, 3.0, 4.0]) / 1000

    monkeypatch.setattr(module, "timed", clock)
    evaluator = make(space, latency(space, batch_size=3, runs=5, warmup=4), repeats=2)
    scores, notes = evaluator.score(masks([0])[0], 0)
    evaluator.score(masks([0])[0], 1)
    assert asked == [((3, 10), 5, 4)] * 2
    np.testing.assert_allclose(scores, [3.0])
    np.testing.assert_allclose(notes["quartiles_ms"], [2, 3, 4])
    assert evaluator.counts.compilations == 1  # two repeats share it
    assert evaluator.counts.compile_seconds > 0


def test_more_work_takes_longer(space):
    small, large = (latency(space, 1, 8, runs=9), latency(space, 64, 32, runs=9))
    scorers = combine([small, sj.make_scorer("params", space)]), large
    (fast, params), (slow,) = (make(space, s).evaluate(masks([1]))[0, 0] for s in scorers)
    assert 0 < 2 * fast < slow
    assert params == space.cost(np.array([1])).params


def test_what_is_stored_is_served_to_the_same_device_only(space, tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        scorer = latency(space, runs=3)
        first = make(space, scorer, store=store).evaluate(masks([0], [1]))
        again = make(space, scorer, store=store)
        np.testing.assert_array_equal(again.evaluate(masks([0], [1])), first)
        assert (again.counts.served, again.counts.compilations) == (2, 0)
        other = scorer._replace(options=dict(scorer.options) | {"device": "gpu: another"})
        elsewhere = make(space, other, store=store)
        elsewhere.evaluate(masks([0]))
        assert (elsewhere.counts.served, elsewhere.counts.scored) == (0, 1)


def test_it_runs_in_inference_mode_with_the_arguments_of_the_space(space):
    assert inference(space, np.array([1])) == (Net(3), {"scale": 2.0, "train": False})
    cells = sj.make_space("nas_bench_201", channels=2, num_cells=1)
    assert inference(cells, np.zeros(6, int))[1] == {"train": False}


def test_supernets_have_no_latency_and_traces_no_clock(space):
    assert np.isnan(make(space, latency(space)).evaluate(np.ones((1, 1, 2), bool))).all()
    cells = sj.make_space("nas_bench_201", channels=2, num_cells=1)
    with pytest.raises(ValueError, match=r"outside of jax\.jit"):
        jax.jit(partial(score, latency(cells)))(KEY, cells.gates(np.zeros(6, int)), BATCH)
    with pytest.raises(ValueError, match=r"runs=0; allowed: 1 or more"):
        latency(space, runs=0)


def test_a_search_keeps_to_a_latency(space):
    search = lambda limit: sj.search(  # noqa: E731
        space, BATCH, KEY, "params", searcher="exhaustive", repeats=1,
        budget=sj.Budget(latency_ms=limit),
    )  # fmt: skip
    assert search(1e4).arch.tolist() == [1]
    with pytest.raises(ValueError, match=r"exceeds the budget: latency_ms [\d.e-]+ > 1e-06"):
        search(1e-6)

"""The loop over architectures: one program, one policy for the bad, resumable to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax import data
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws, mask_text
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.combine import combine
from saboc_jax.searchers import SEARCHERS
from saboc_jax.searching.run import run_search
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask

BEST = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    "+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
)
CUT = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|none~0|none~1|none~2|"


@pytest.fixture(scope="module")
def parts():
    dataset = data.load("digits")
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    scorer = make_scorer("ntk_score", space)
    keys = [jax.random.key(10 + r) for r in range(2)]
    batches = [data.draw(dataset, key, 6, needs=scorer.needs) for key in keys]
    return space, scorer, keys, batches


def make(parts, store=None):
    space, scorer, keys, batches = parts
    return Evaluator(Runner(space, scorer, Draws(keys, batches)), store)


def masks_of(space, *texts):
    return np.stack([architecture_to_mask(space.from_string(t), 5) for t in texts])


def test_one_program_and_the_policy_for_bad_architectures(parts):
    evaluator = make(parts)
    masks = np.concatenate([masks_of(parts[0], BEST, CUT), np.ones((1, 6, 5), bool)])
    scores = evaluator.evaluate(masks)
    assert scores.shape == (3, 2, 3)
    assert np.isfinite(scores[[0, 2]]).all()
    assert np.isnan(scores[1]).all()
    counts = evaluator.counts
    assert (counts.scored, counts.disconnected, counts.compilations) == (4, 2, 1)
    assert counts.compile_seconds > 0


def test_repeats_differ_and_repeat_to_the_bit(parts):
    masks = masks_of(parts[0], BEST)
    one, two = make(parts).evaluate(masks), make(parts).evaluate(masks)
    np.testing.assert_array_equal(one, two)
    assert (one[0, 0] != one[0, 1]).all()


def test_the_store_serves_what_is_finished(parts, tmp_path):
    masks = masks_of(parts[0], BEST, CUT)
    with Store(tmp_path / "s.sqlite") as store:
        first = make(parts, store).evaluate(masks)
    with Store(tmp_path / "s.sqlite") as store:
        again = make(parts, store)
        np.testing.assert_array_equal(again.evaluate(masks), first)
        assert (again.counts.served, again.counts.scored, again.counts.compilations) == (4, 0, 0)
        assert (again.counts.disconnected, again.counts.non_finite) == (2, 0)


def test_a_resumed_run_counts_the_bad_as_the_first(parts, tmp_path):
    space, _, keys, batches = parts
    depth, params = (make_scorer(name, space) for name in ("depth", "params"))

    def failing(observed, gates, batch):
        values, notes = params.finish(observed, gates, batch)
        return jnp.where(gates[0, 1] > 0, jnp.nan, values), notes

    both = combine([depth, params._replace(finish=failing)])
    masks = architecture_to_mask(np.array([[1] * 6, [3] * 6, [0] * 6, [1] * 6]), 5)
    seen = []
    with Store(tmp_path / "s.sqlite") as store:
        Evaluator(Runner(space, both.parts[1], Draws(keys, batches)), store).evaluate(masks[:2])
        for _ in range(3):  # the first finds one part of two architectures
            evaluator = Evaluator(Runner(space, both, Draws(keys, batches)), store)
            evaluator.evaluate(masks)
            seen.append((evaluator.counts.disconnected, evaluator.counts.non_finite))
            assert evaluator.counts.served in (2, 8)
    assert seen == [(2, 2)] * 3  # of two repeats each; the twin in the same run is counted once


def test_scorers_scored_together_share_their_rows_with_each_alone(parts, tmp_path):
    space, scorer, keys, batches = parts
    masks = masks_of(space, BEST, CUT)
    both = combine([scorer, make_scorer("te_nas", space), make_scorer("depth", space)])
    keys, batches = (
        keys[:1],
        [data.draw(data.load("digits"), keys[0], 6, needs=both.needs | scorer.needs)],
    )
    with Store(tmp_path / "s.sqlite") as store:
        first = Evaluator(Runner(space, scorer, Draws(keys, batches)), store)
        alone = first.evaluate(masks)
        together = Evaluator(Runner(space, both, Draws(keys, batches)), store)
        scores = together.evaluate(masks)
        assert scores.shape == (2, 1, len(both.metrics))
        np.testing.assert_array_equal(scores[:, 0, :3], alone[:, 0])
        assert sorted(row.request.scorer for row in store.select()) == sorted(
            2 * ["ntk_score", "te_nas", "depth"]
        )
        again = Evaluator(Runner(space, both, Draws(keys, batches)), store)
        np.testing.assert_array_equal(again.evaluate(masks), scores)
        assert (again.counts.served, again.counts.compilations) == (2, 0)
        _, notes = again.score(masks[0], 0)
        assert list(notes["te_nas.scored_with"]) == ["te_nas", "depth"]


def test_a_name_is_combined_once(parts):
    with pytest.raises(ValueError, match="each name once"):
        combine([parts[1], parts[1]])


def test_an_interrupted_search_resumes_to_the_same_bits(parts, tmp_path):
    space, scorer, *_ = parts
    searcher = SEARCHERS["pruning"](
        space.choices,
        scorer.higher_is_better,
        initially_pruned=("none", "avg_pool_3x3", "nor_conv_1x1"),
        option_names=space.option_names,
    )
    whole = run_search(searcher, make(parts), jax.random.key(3))
    assert [len(masks) for masks, _ in whole.history] == [13]

    class InterruptedRunError(Exception):
        pass

    def interrupt():
        if evaluator.counts.scored == 9:
            raise InterruptedRunError

    with Store(tmp_path / "s.sqlite") as store:
        evaluator = make(parts, store)
        evaluator.on_score = interrupt
        with pytest.raises(InterruptedRunError):
            run_search(searcher, evaluator, jax.random.key(3))
    with Store(tmp_path / "s.sqlite") as store:
        evaluator = make(parts, store)
        resumed = run_search(searcher, evaluator, jax.random.key(3))
    assert evaluator.counts.served >= 9
    np.testing.assert_array_equal(resumed.arch, whole.arch)
    np.testing.assert_array_equal(resumed.scores, whole.scores)
    for (_, ours), (_, theirs) in zip(resumed.history, whole.history, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_result_has_mean_and_standard_error(parts):
    space, scorer, *_ = parts
    searcher = SEARCHERS["pruning"](
        space.choices,
        scorer.higher_is_better,
        option_names=space.option_names,
        initially_pruned=("none", "avg_pool_3x3", "nor_conv_1x1"),
    )
    found = run_search(searcher, make(parts), jax.random.key(0))
    np.testing.assert_allclose(found.mean(), found.scores.sum(0) / 2)
    spread = np.abs(found.scores[0] - found.scores[1]) / np.sqrt(2)
    np.testing.assert_allclose(found.standard_error(), spread / np.sqrt(2))


def test_mask_text_tells_architectures_from_supernets(parts):
    space = parts[0]
    mask = masks_of(space, BEST)[0]
    assert mask_text(mask, space) == BEST
    mask[0, 1] = True
    assert mask_text(mask, space).startswith("supernet:01010/")


def test_a_batch_without_what_the_scorer_needs_is_refused(parts):
    space, scorer, keys, batches = parts
    poor = [batches[0]._replace(test_images=None)] * 2
    with pytest.raises(ValueError, match="test_images"):
        Runner(space, scorer, Draws(keys, poor))
    with pytest.raises(ValueError, match="2 keys and 1 batches"):
        Draws(keys, batches[:1])
    with pytest.raises(ValueError, match="'ab' of 2 repeats"):
        Draws(keys, batches, "ab")

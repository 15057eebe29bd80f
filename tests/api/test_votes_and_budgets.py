"""Who votes, who is over budget, and what results are written as."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.evaluation.store import Store
from saboc_jax.scorers.variants import make_scorers, what_ranks
from saboc_jax.searching.budgets import budget_check
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.statistics import correlation

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
DIGITS = data.from_arrays(IMAGES, np.arange(40) % 2)
SMALL = {"repeats": 2, "batch_size": 4, "progress": False}


class Net(nn.Module):
    width: int
    depth: int = 1

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1)[:, : 64 // self.depth]
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(2)(x)


NETS = {"a": Net(2), "b": Net(3), "deep": Net(2, 3)}
SPACE = sj.make_space("nas_bench_201", channels=2, num_cells=1, image_shape=(8, 8, 1))


# --- who votes ----------------------------------------------------------------------------------


def test_the_first_scorer_votes_and_the_others_stand_beside() -> None:
    alone = sj.rank(NETS, DIGITS, KEY, "grad_norm", **SMALL)
    beside = sj.rank(NETS, DIGITS, KEY, ["grad_norm", "params"], **SMALL)
    assert beside.names == alone.names and np.array_equal(beside.ranks, alone.ranks)
    assert beside.scores[0].metrics == ("grad_norm", "params")
    assert beside.voted == "Ranked by grad_norm; params beside, without a vote"
    assert beside.voted in str(beside)


def test_several_vote_as_one_entry() -> None:
    text = sj.rank(NETS, DIGITS, KEY, ["grad_norm+params", "macs"], **SMALL)
    both = lambda space: sj.combine(  # noqa: E731
        [sj.make_scorer(name, space) for name in ("grad_norm", "params")]
    )
    object_ = sj.rank(NETS, DIGITS, KEY, [both, "macs"], **SMALL)
    assert np.array_equal(text.ranks, object_.ranks)
    means = np.stack([score.values.mean(0) for score in text.scores])[:, :2]
    assert np.array_equal(text.ranks, sj.borda(means, text.scores[0].higher_is_better[:2]))
    assert text.voted == "Ranked by grad_norm, params (borda); macs beside, without a vote"


def test_a_search_is_told_what_votes_and_keeps_all() -> None:
    options = {"searcher": "random", "max_evaluations": 6, **SMALL}
    alone = sj.search(SPACE, DIGITS, KEY, "depth", **options)
    beside = sj.search(SPACE, DIGITS, KEY, ["depth", "params"], **options)
    assert alone.arch.tolist() == beside.arch.tolist()
    assert beside.score.metrics == ("depth", "params")
    assert beside.search.history[0][1].shape[-1] == 2
    assert "params beside" in str(beside)


def test_correlations_have_a_row_for_an_entry_of_several() -> None:
    scorer = make_scorers(["params+macs", "depth"], SPACE)
    assert scorer.votes == 2 and list(correlation.entries(scorer)) == ["params+macs"]
    found = correlation.candidates(scorer, np.random.default_rng(0).normal(size=(5, 1, 3)))
    assert list(found) == ["params", "macs", "depth", "params+macs borda"]
    assert not correlation.entries(make_scorers(["params", "macs"], SPACE))
    assert list(correlation.entries(make_scorers("params+macs", SPACE))) == ["params+macs"]
    assert what_ranks(make_scorers("params", SPACE), "borda") == "Ranked by params"


# --- budgets ------------------------------------------------------------------------------------


def test_few_architectures_are_all_asked_for_the_limited_cost() -> None:
    space = module_space(list(NETS.values()), image_shape=(8, 8, 1))
    milliseconds = {0: 3.0, 1: 0.1, 2: 0.2}
    latency = lambda arch: milliseconds[int(arch[0])]  # noqa: E731
    assert space.cost(np.array([0])).params < space.cost(np.array([1])).params
    allows = budget_check(space, sj.Budget(latency_ms=0.5), latency)
    single = [allows(architecture_to_mask(np.array([option]), 3)) for option in range(3)]
    assert single == [False, True, True]
    assert allows(np.ones((1, 3), bool))
    with pytest.raises(
        ValueError, match=r"every architecture of .* exceeds the budget: latency_ms"
    ):
        budget_check(space, sj.Budget(latency_ms=0.05), latency)


def test_of_many_the_cheapest_by_the_limited_cost_is_asked() -> None:
    least = min(SPACE.cost(np.array([option] * 6)).depth for option in range(5))
    assert budget_check(SPACE, sj.Budget(depth=least))(np.ones((6, 5), bool))


def test_rank_says_who_is_over_budget_and_why() -> None:
    most = sj.rank(NETS, DIGITS, KEY, "params", **SMALL)
    best = most.scores[most.order[0]].cost.params
    ranked = sj.rank(NETS, DIGITS, KEY, "params", budget=sj.Budget(params=best - 1), **SMALL)
    assert ranked.names == [*most.names[1:], most.names[0]]
    assert ranked.over[most.order[0]] == (f"params {best} > {best - 1}",)
    assert f"params {best} > {best - 1}" in str(ranked).splitlines()[-2]
    assert "over budget" not in str(most)


# --- results ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranked() -> sj.Ranked:
    return sj.rank(NETS, DIGITS, KEY, ["ntk_score", "params"], **SMALL)


def same(a, b) -> bool:
    return json.dumps(a.to_dict()) == json.dumps(b.to_dict())  # NaN equals NaN there


def test_results_are_written_and_read_again(ranked: sj.Ranked, tmp_path) -> None:
    path = tmp_path / "ranked.json"
    ranked.save(path)
    again = sj.Ranked.load(path)
    assert str(again) == str(ranked) and same(again, ranked)
    score = ranked.scores[0]
    score.save(path)
    assert str(sj.Score.load(path)) == str(score)
    with pytest.raises(ValueError, match="holds score; allowed: ranked, written by save"):
        sj.Ranked.load(path)
    found = sj.search(NETS, DIGITS, KEY, "params", searcher="exhaustive", **SMALL)
    found.save(path)
    again_found = sj.Found.load(path, found.space)
    assert same(again_found, found)
    with pytest.raises(ValueError, match="is of space 'module'; allowed: 'nas_bench_201'"):
        sj.Found.load(path, SPACE)
    rows = sj.correlate(NETS, [1.0, 2.0, 3.0], DIGITS, KEY, "params", resamples=20, **SMALL)
    rows.save(path)
    assert same(type(rows).load(path), rows) and "winners" not in rows.to_csv()


def test_tables_render(ranked: sj.Ranked) -> None:
    archs = [[3, 3, 3, 3, 3, 3], [1, 1, 1, 1, 1, 1]]
    cells = sj.rank(archs, DIGITS, KEY, "params", space=SPACE, **SMALL).to_markdown()
    bars = [line.replace("\\|", "").count("|") for line in cells.splitlines()]
    assert set(bars) == {7} and "\\|nor_conv_3x3~0" in cells
    assert ranked.to_csv().splitlines()[0].startswith("borda,candidate,parameters")
    page = ranked._repr_html_()
    assert page.count("<tr>") == 4 and "params beside" in page
    assert repr(ranked).startswith("Ranked(3 candidates, best ")
    assert len(repr(ranked.scores[0])) < 200


def test_what_is_not_known_is_a_dash_and_whole_numbers_are_whole() -> None:
    score = sj.score(Net(2), DIGITS, KEY, "params", repeats=1, batch_size=4, progress=False)
    assert str(score) == "params 136 ± – (higher is better)"
    assert "nan" not in str(score) + score.to_markdown() + score.to_csv() + score._repr_html_()


def test_results_draw(ranked: sj.Ranked) -> None:
    assert len(ranked.plot().axes) == len(ranked.scores[0].metrics)
    found = sj.search(SPACE, DIGITS, KEY, "params", searcher="random", max_evaluations=3, **SMALL)
    assert found.plot().axes and found.score.plot().axes
    rows = sj.correlate(NETS, [1.0, 2.0, 3.0], DIGITS, KEY, "params", resamples=20, **SMALL)
    assert rows.plot().axes


def test_a_store_serves_what_was_scored(tmp_path) -> None:
    path = tmp_path / "scores.sqlite"
    first = sj.rank(NETS, DIGITS, KEY, "grad_norm", store=path, **SMALL)
    with Store(path) as store:
        assert len(store.select()) == 6
        again = sj.rank(NETS, DIGITS, KEY, "grad_norm", store=store, **SMALL)
        assert len(store.select()) == 6
    np.testing.assert_array_equal(again.scores[0].values, first.scores[0].values)

"""What the search binary keeps of a search, and how it follows one."""

import json

import jax
import numpy as np
import pytest

import saboc_jax as sj
from experiments.support import search_report
from saboc_jax import data
from saboc_jax.evaluation.jobs import ScoreRow
from saboc_jax.reports.cell_figure import draw_cell
from saboc_jax.searching.result import SearchResult
from saboc_jax.searching.trajectory import Trajectory
from saboc_jax.spaces.darts.cells import to_genotype
from saboc_jax.spaces.masks import architecture_to_mask, sample_connected
from saboc_jax.spaces.resnet.encoding import START
from saboc_jax.statistics import ranking

KEY = jax.random.key(0)


def test_both_cells_of_darts_are_drawn(tmp_path):
    space = sj.make_space("darts", channels=1, num_cells=1)
    arch = np.array(
        [np.random.default_rng(0).integers(1, n) if n > 1 else 0 for n in space.choices]
    )
    edges = search_report.cell_edges(space, arch)
    assert list(edges) == ["cell-normal.png", "cell-reduce.png"]
    genotype = to_genotype(arch)
    for cell, drawn in zip(genotype.cells(), edges.values(), strict=True):
        named = {"c[k-2]": 0, "c[k-1]": 1, "0": 2, "1": 3, "2": 4, "3": 5}
        kept = [(op, named[source]) for source, _, op in drawn if op]
        assert kept == list(cell)
        assert [target for _, target, op in drawn if op] == [n for n in "0123" for _ in range(2)]
        assert [edge for edge in drawn if not edge[2]] == [(n, "out", "") for n in "0123"]
    search_report.draw(tmp_path, space, arch)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in edges)


@pytest.mark.parametrize("name", sorted(search_report.DRAWINGS))
def test_an_architecture_of_every_space_is_drawn(name):
    space = sj.make_space(name)
    arch = sample_connected(jax.random.key(0), space.decisions, 1)[0]
    (edges,) = search_report.cell_edges(space, arch).values()
    assert edges and draw_cell(edges, space.to_string(arch)).axes


def test_a_graph_without_a_path_has_no_drawing():
    assert search_report.cell_edges(sj.make_space("nas_bench_101"), np.zeros(26, int)) == {}


def test_a_resnet_is_a_list_of_blocks_and_has_no_cell(tmp_path):
    space = sj.make_space("resnet", slots=5, max_width=128)
    rows = search_report.blocks(space, space.from_string(START))
    assert [row["block"] for row in rows] == ["stem", *["K3K3"] * 4, "tail"]
    assert [row["channels"] for row in rows] == [8, 16, 32, 64, 64, 128]
    assert [row.get("stride") for row in rows] == [None, 1, 2, 2, 2, None]
    search_report.draw(tmp_path, space, space.from_string(START))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def evaluator():
    """An evaluator of the parameters of tiny cells."""
    space = sj.make_space("nas_bench_201", channels=2, num_cells=1)
    batch = data.draw(data.load("digits"), KEY, 4)
    return sj.Evaluator(
        sj.Runner(space, sj.make_scorer("params", space), sj.Draws([KEY] * 2, [batch] * 2))
    )


def test_what_was_scored_is_kept_once_and_in_order(evaluator):
    space = evaluator.space
    archs = np.array([[3] * 6, [1] * 6, [3] * 6, [0] * 6])
    masks = [architecture_to_mask(archs, 5), np.ones((1, 6, 5), bool)]
    scores = [np.ones((4, 2, 1)) * np.array([5, 6, 5, np.nan])[:, None, None], np.zeros((1, 2, 1))]
    found = SearchResult(archs[0], scores[0][0], {}, list(zip(masks, scores, strict=True)))
    columns = search_report.candidates(space, sj.make_scorer("random", space), found)
    kept = [space.to_string(arch) for arch in archs[:2]]
    assert columns["architecture"] == [*kept, "supernet:" + "/".join(["11111"] * 6)]
    assert columns["params"][:2] == [space.cost(arch).params for arch in archs[:2]]
    assert np.isnan(columns["macs"][2]) and columns["params"][0] > columns["params"][1]
    assert columns["params"][:2] != columns["macs"][:2]
    assert json.loads(json.dumps(columns))["params"][:2] == columns["params"][:2]


class Rows:
    """An evaluator whose every mask has a spectrum."""

    def __init__(self, evaluator):
        self.space, self.repeats = evaluator.space, evaluator.repeats

    def score(self, mask, repeat):
        return ScoreRow(np.zeros(1), {"eigenvalues": np.array([float(mask[0].argmax()), repeat])})


def test_spectra_are_those_of_every_repeat_and_of_others_of_the_run(evaluator):
    archs = np.array([[i % 5, i // 5, 1, 1, 1, 1] for i in range(20)])
    scores = np.ones((20, 2, 1))
    scores[7] = np.nan
    history = [(architecture_to_mask(archs, 5), scores)]
    found = SearchResult(archs[3], scores[3], {}, history)
    spectra = search_report.spectra(Rows(evaluator), found, others=4)
    assert spectra["found"] == [[3.0, 0.0], [3.0, 1.0]]
    texts = [evaluator.space.to_string(arch) for arch in archs]
    assert len(spectra["others"]) == 4
    assert set(spectra["others"]) <= set(texts) - {texts[3], texts[7]}
    assert search_report.spectra(evaluator, found) == {}  # parameters have none


def test_evolution_is_followed_by_what_it_would_return_itself(evaluator):
    """Its population forgets: with the best of all seen in its place the test would fail."""
    space = evaluator.space
    upside_down = lambda scores, directions: -np.asarray(ranking.borda(scores, directions))  # noqa: E731
    searcher = sj.SEARCHERS["evolution"](
        space.choices, (True,), max_evaluations=40, population_size=4, protect_best=False
    )
    trajectory = Trajectory(None, (True,))
    at_each = []

    def on_told(history, best):
        at_each.append(tuple(int(option) for option in best()))
        trajectory.update(history, best())

    result = sj.run_search(searcher, evaluator, KEY, on_told=on_told)
    assert trajectory.returned[-1] == tuple(result.arch.tolist()) == at_each[-1]
    assert set(at_each) <= set(trajectory.returned)
    # The same history told as if the order were another one: the searcher's word counts.
    other = Trajectory(None, (True,), ranking=upside_down)
    other.update(result.history, np.asarray(result.arch))
    assert other.returned[-1] == at_each[-1] and other.points[-1].position > 1


def test_where_a_search_cannot_say_yet_it_says_so(evaluator):
    searcher = sj.SEARCHERS["pruning"](evaluator.space.choices, (True,))
    said = []
    sj.run_search(searcher, evaluator, KEY, on_told=lambda history, best: said.append(best()))
    assert said[:-1] == [None] * (len(said) - 1)
    assert said[-1] is not None

"""Scorers with options as text, what they declare they cost, and what a store can tell apart."""

import inspect
import itertools

import jax
import numpy as np
import pytest

from saboc_jax import data
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.scorers import SCORERS, make_scorer, te_nas
from saboc_jax.scorers.combine import combine
from saboc_jax.scorers.observables import params_option
from saboc_jax.scorers.variants import make_variant, options_of, read_options, split_variant
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Batch, Passes


@pytest.fixture(scope="module")
def space():
    return make_space("nas_bench_201", channels=2, num_cells=1, image_shape=(8, 8, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("knas", {}),
        ("knas:variant=mgm", {"variant": "mgm"}),
        ("ntk_score:jitter=1e-4:norm=fro", {"norm": "fro", "jitter": 1e-4}),
        ("ntk_score:top=3", {"top": 3}),
        ("ntk_score:top=0.5:chunk=none", {"chunk": None, "top": 0.5}),
        ("ntk_score:top=floor:chunk=16", {"chunk": 16, "top": "floor"}),
        ("swap:images=none:init=None", {"init": None, "images": None}),
        ("lga:params=cells", {"params": "cells"}),
        ("latency:runs=5", {"runs": 5}),
    ],
)
def test_values_are_typed_by_the_signature_and_in_its_order(text, expected):
    found = read_options(*split_variant(text))
    assert list(found.items()) == list(expected.items())
    assert [type(value) for value in found.values()] == [type(v) for v in expected.values()]


def test_an_option_without_annotation_has_the_type_of_its_default(monkeypatch):
    def factory(space, on=True, size=2, name="x", **rest):
        return on, size, name

    monkeypatch.setattr("saboc_jax.scorers.variants.load_factory", lambda *_: factory)
    assert read_options("any", {"on": "false", "size": "3", "name": "3"}) == {
        "on": False,
        "size": 3,
        "name": "3",
    }
    with pytest.raises(ValueError, match="on='maybe'; allowed: true or false"):
        read_options("any", {"on": "maybe"})
    assert list(options_of("any")) == ["on", "size", "name"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("knass", "scorer 'knass' is unknown; allowed: activations, az_nas, consensus,"),
        ("knas:varient=mgm", "no option 'varient'; allowed: variant, engine, batch_norm, params"),
        ("random:a=1", "no option 'a'; allowed: none, it has no options"),
        ("knas:variant=best", r"variant='best'; allowed: \('ntk_fro', 'ntk_mean', 'mgm'\)"),
        ("knas:chunk=few", "chunk='few'; allowed: a whole number or none"),
        ("ntk_score:jitter=nan", "jitter='nan'; allowed: a number"),
        ("knas:variant", "scorer 'knas:variant'; allowed: SCORER, or SCORER:OPTION=VALUE"),
        (":a=1", "allowed: SCORER, or"),
        ("knas:chunk=1:chunk=2", "each option once"),
    ],
)
def test_what_does_not_exist_is_one_error_that_names_what_is_allowed(text, said, space):
    with pytest.raises(ValueError, match=said):
        make_variant(text, space)


def test_variants_go_before_shared_options_and_have_names_of_their_own(space):
    made = make_variant("lga:batch_norm=frozen", space, batch_norm="batch")
    assert (made.name, *made.metrics) == ("lga:batch_norm=frozen",) * 2
    assert made.options["batch_norm"] == "frozen"
    assert make_variant("ntk_score:jitter=0.0010:norm=fro", space).name == (
        "ntk_score:norm=fro:jitter=0.001"
    )
    assert make_variant("ntk_score:norm=fro", space).metrics == ("S_t", "S_e", "S_g")
    assert make_variant("lga", space).name == "lga"


def test_two_variants_of_a_scorer_are_compared_in_one_run(space, tmp_path):
    names = ["synflow", "synflow:variant=plain"]
    both = combine([make_variant(name, space) for name in names])
    assert both.metrics == tuple(names)
    masks = architecture_to_mask(np.array([[3, 3, 3, 1, 2, 3], [1, 3, 2, 1, 2, 1]]), 5)
    batch = Batch(np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, int))
    with Store(tmp_path / "s.sqlite") as store:
        evaluator = Evaluator(Runner(space, both, Draws([jax.random.key(0)], [batch])), store)
        log, plain = evaluator.evaluate(masks)[:, 0].T
        np.testing.assert_allclose(np.exp(log), plain)
        assert {row.request.scorer for row in store.select()} == set(names)
        (row, _) = store.select(scorer=names[1])
        assert "blocks" in row.diagnostics
        again = Evaluator(Runner(space, both, Draws([jax.random.key(0)], [batch])), store)
        np.testing.assert_array_equal(again.evaluate(masks)[:, 0].T, [log, plain])
        assert (again.counts.served, again.counts.scored) == (2, 0)


PASSES = {
    "ntk_score": "3 + 3", "trainability": "1 + 1", "zen": "2 + 0", "naswot": "1 + 0",
    "swap": "1 + 0", "az_nas": "1 + 1", "te_nas": "4 + 1", "teg_nas": "6 + 3", "ete_nas": "2 + 0",
    "knas": "1 + 1", "lga": "1 + 1", "fisher": "1 + 1", "snip": "1 + 1", "synflow": "4 + 4",
    "grasp": "1 + 3", "grad_norm": "1 + 1", "zico": "2 + 2", "jacob_cov": "1 + 1",
    "params": "0 + 0", "macs": "0 + 0", "depth": "0 + 0", "paths": "0 + 0", "consensus": "3 + 3",
    "activations": "0 + 0", "logme": "1 + 0", "random": "0 + 0", "latency": "33 + 0",
}  # fmt: skip


def test_every_scorer_declares_its_passes(space):
    assert {name: str(make_scorer(name, space).passes) for name in SCORERS} == PASSES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ntk_score:batch_norm=batch", "3 + 3n"),
        ("ntk_score:engine=jacobian", "3 + 3n"),
        ("ntk_score:engine=jacobian:batch_norm=batch", "3 + 3n"),
        ("trainability:batch_norm=batch", "1 + n"),
        ("lga:batch_norm=batch", "1 + n"),
        ("knas:batch_norm=batch", "1 + n"),
        ("knas:variant=mgm:batch_norm=batch", "1 + 1"),
        ("te_nas:batch_norm=batch:batch_size=500", "7 + n"),
        ("teg_nas:batch_norm=batch", "6 + 3n"),
        ("teg_nas:error_params=weights", "5 + 2"),
        ("latency:runs=5:warmup=2", "7 + 0"),
    ],
)
def test_passes_depend_on_options(text, expected, space):
    assert str(make_variant(text, space).passes) == expected


def test_passes_of_several_add_up(space):
    several = combine([make_variant(f"lga:batch_norm={way}", space) for way in ("batch", "frozen")])
    assert several.passes == Passes(2, 1, 1) and str(several.passes) == "2 + 1 + n"


def test_passes_of_regions_are_those_of_the_crops_that_are_drawn():
    assert inspect.signature(data.draw).parameters["num_crops"].default == te_nas.CROPS


def in_stem(path):
    return path[0] == "stem"


def test_options_tell_apart_what_gives_other_values(space):
    guards = [make_scorer("te_nas", space, precision=p).options for p in (None, 0.0, 1e-3)]
    assert all(one != other for one, other in itertools.combinations(guards, 2))
    assert params_option("cells") == "cells"
    assert params_option(in_stem) == f"{__name__}:in_stem"
    one, two = (make_scorer("lga", space, params=lambda path: True) for _ in range(2))
    assert one.options != two.options


def test_a_store_refuses_a_predicate_without_a_name(space, tmp_path):
    scorer = make_scorer("lga", space, params=lambda path: True)
    batch = Batch(np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, int))
    draws = Draws([jax.random.key(0)], [batch])
    with Store(tmp_path / "s.sqlite") as store:
        for chosen in (scorer, combine([scorer, make_scorer("params", space)])):
            with pytest.raises(
                ValueError, match=r"lga.*params=.*function that is defined at the top"
            ):
                Evaluator(Runner(space, chosen, draws), store)
            with pytest.raises(ValueError, match="cannot be kept in a store"):
                Evaluator(Runner(space, chosen, draws)).keep_in(store)
        named = make_scorer("lga", space, params=in_stem)
        Evaluator(Runner(space, named, draws), store)

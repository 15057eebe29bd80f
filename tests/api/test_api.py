"""The five functions: their examples, that they agree with what they stand on, and mistakes."""

import doctest
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.api import functions as api
from saboc_jax.keys import Purpose, repeat_keys
from saboc_jax.layers.nnx import from_nnx
from saboc_jax.scorers.combine import score
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.training.recipes import RECIPES

KEY = jax.random.key(0)
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


class Net(nn.Module):
    width: int = 2
    classes: int = 10

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=4)(images))
        return nn.Dense(self.classes)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def space():
    return sj.make_space("nas_bench_201", channels=2, num_cells=1)


def examples():
    found = doctest.DocTestFinder(recurse=False)
    five = (sj.score, sj.rank, sj.search, sj.correlate, sj.train)
    for function in (*five, module_space, from_nnx):
        yield from found.find(function, function.__name__, globs={})


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_the_example_in_the_docstring_runs(example):
    assert example.examples, f"{example.name} has no example"
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert results.failed == 0 and results.attempted >= 4


def test_score_is_that_of_the_pure_function(digits, space):
    batch = data.draw(digits, KEY, 8)
    found = sj.score(CELL, batch, KEY, space=space, repeats=2)
    pure = jax.jit(partial(score, sj.make_scorer("ntk_score", space)))
    for repeat, key in enumerate(repeat_keys(KEY, Purpose.SCORING, 2)):
        gates = space.gates(space.from_string(CELL))
        expected, _ = pure(key, gates, batch)
        # It finishes in float32, the evaluator in float64.
        np.testing.assert_allclose(found.values[repeat], expected, rtol=1e-3)
    assert found.mean()["S_t"] == pytest.approx(found.values[:, 0].mean())
    two = found.values[:, 0]
    assert found.standard_error()["S_t"] == pytest.approx(abs(two[0] - two[1]) / 2)
    assert "S_t" in str(found) and "lower is better" in str(found)


def test_search_finds_what_the_binary_finds(digits, tmp_path):
    flags = ["--dataset=digits", "--channels=2", "--batch_size=6", "--repeats=2", "--seed=3"]
    flags += ["--searcher=random", "--scorer=naswot", "--max_evaluations=4"]
    command = [sys.executable, "-m", "experiments.search", *flags, f"--workdir={tmp_path}/w"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    own = sj.make_space("nas_bench_201", channels=2, num_cells=1, num_classes=10)
    found = sj.search(
        own,
        digits,
        jax.random.key(3),
        "naswot",
        searcher="random",
        max_evaluations=4,
        repeats=2,
        batch_size=6,
    )
    expected = json.loads((tmp_path / "w" / "result.json").read_text())
    assert found.score.name == expected["text"]
    assert found.score.values[:, 0].tolist() == expected["scores"]["naswot"]["repeats"]
    assert found.score.values[0, 0] != found.score.values[1, 0]
    assert isinstance(found.module(), nn.Module)
    alone = sj.score(
        expected["text"], digits, jax.random.key(3), "naswot", space=own, repeats=2, batch_size=6
    )
    np.testing.assert_array_equal(alone.values, found.score.values)


def test_a_search_keeps_to_its_budget(digits, space):
    limit = 2000
    found = sj.search(
        space, digits, KEY, "params", repeats=1, batch_size=4, budget=sj.Budget(params=limit)
    )
    assert found.score.cost.params <= limit
    free = sj.search(space, digits, KEY, "params", repeats=1, batch_size=4)
    assert free.score.cost.params > limit


def test_modules_are_ranked_by_name_and_bad_ones_last(digits):
    class Broken(Net):
        def __call__(self, images):
            return super().__call__(images) * np.nan

    nets = {"broken": Broken(), "wide": Net(8), "narrow": Net(2)}
    found = sj.rank(nets, digits, KEY, ["grad_norm"], repeats=1, batch_size=4)
    assert found.names[-1] == "broken"
    assert found.scores[0].flag == "non_finite"
    assert str(found).splitlines()[0].split()[:3] == ["borda", "candidate", "parameters"]
    bad = [line.endswith("non_finite") for line in str(found).splitlines()[1:]]
    assert bad == [False, False, True, False]
    params = sj.rank(nets, digits, KEY, ["params"], repeats=1, batch_size=4)
    assert params.names[0] == "wide"


def test_training_goes_on_from_its_folder(digits, tmp_path):
    whole, lines = sj.train(Net(), digits, "tiny", max_examples=64)
    seen = []
    kept, again = sj.train(
        Net(), digits, "tiny", max_examples=64, folder=tmp_path / "run", on_epoch=seen.append
    )
    assert [line["epoch"] for line in seen] == [1, 2]
    assert [line["test_loss"] for line in again] == [line["test_loss"] for line in lines]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole, kept))
    sj.train(Net(), digits, "tiny", max_examples=64, folder=tmp_path / "run", on_epoch=seen.append)
    assert len(seen) == 2


def test_a_folder_of_another_training_is_refused(digits, tmp_path):
    def train(module=None, recipe="tiny", **more):
        given = {"folder": tmp_path, "max_examples": 64, **more}
        return sj.train(module or Net(), digits, recipe, **given)

    train()
    for more, message in {
        "seed": ({"seed": 7}, "seed: 0 there, 7 now"),
        "candidate": ({"module": Act("tanh")}, "candidate: 'Net#.*' there, 'Act#.*' now"),
        "recipe": ({"recipe": replace(RECIPES["tiny"], learning_rate=0.2)}, "0.1 there, 0.2 now"),
        "images": ({"max_examples": 65}, "train images: '64#"),
    }.values():
        with pytest.raises(ValueError, match=message):
            train(**more)
    (tmp_path / "training.json").unlink()
    with pytest.raises(ValueError, match=r"training\.json is missing"):
        train()


class Act(nn.Module):
    act: str

    @nn.compact
    def __call__(self, images, train: bool = False):
        h = getattr(nn, self.act)(nn.Dense(8)(images.reshape(len(images), -1)))
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not train)(h))


def test_training_drops_units_under_the_key_that_it_has(digits):
    """Case: a module that `score` takes, with dropout, could not be trained."""
    recipe = replace(RECIPES["tiny"], epochs=1)
    _, dropped = sj.train(Act("relu"), digits, recipe, max_examples=128)
    _, whole = sj.train(Act("relu"), digits, recipe, max_examples=128, train_call={})
    assert dropped[0]["train_loss"] != whole[0]["train_loss"]
    assert np.isfinite(dropped[0]["test_loss"])


MISTAKES = {
    "no space": (lambda d, s: sj.score(CELL, d, KEY), "for an architecture: a SearchSpace"),
    "a class": (lambda d, s: sj.score(Net, d, KEY), "the class Net; allowed: an instance"),
    "no module": (lambda d, s: sj.rank([print], d, KEY), "a builtin_function.*from_nnx"),
    "a space with a module": (lambda d, s: sj.score(Net(), d, KEY, space=s), "with a module"),
    "unknown space": (lambda d, s: sj.score(CELL, d, KEY, space="nasbench"), "'nasbench'"),
    "a name on a batch": (
        lambda d, s: sj.score(CELL, data.draw(d, KEY, 4), KEY, space="nas_bench_201"),
        "make_space('nas_bench_201', num_classes=...",
    ),
    "an array": (lambda d, s: sj.score(Net(), np.zeros((4, 32, 32, 3)), KEY), "images=ndarray"),
    "an int for a key": (lambda d, s: sj.score(Net(), d, 0), r"allowed: a typed key"),
    "an old key": (lambda d, s: sj.score(Net(), d, jax.random.PRNGKey(0)), "a typed key"),
    "no repeats": (lambda d, s: sj.score(Net(), d, KEY, repeats=0), "repeats=0"),
    "no scorers": (lambda d, s: sj.score(Net(), d, KEY, []), "one or more"),
    "no scorer at all": (lambda d, s: sj.score(Net(), d, KEY, [3]), "names, scorers, or fact"),
    "unknown scorer": (lambda d, s: sj.score(Net(), d, KEY, "ntk"), "scorer 'ntk' is unknown"),
    "no such option": (lambda d, s: sj.score([9] * 6, d, KEY, space=s), "allowed: 0 to 4"),
    "a batch that lacks": (
        lambda d, s: sj.score(Net(), data.draw(d, KEY, 4, needs=()), KEY),
        "perturbed_images.*got None",
    ),
    "other images": (
        lambda d, s: sj.score(
            CELL, d, KEY, space=sj.make_space("nas_bench_201", image_shape=(16, 16, 3))
        ),
        r"allowed: \(16, 16, 3\)",
    ),
    "one module to rank": (lambda d, s: sj.rank(Net(), d, KEY), "a list of one or more"),
    "nothing to rank": (lambda d, s: sj.rank([], d, KEY), "a list of one or more"),
    "unknown ranking": (lambda d, s: sj.rank([Net()], d, KEY, ranking="x"), "allowed: borda"),
    "other classes": (lambda d, s: sj.rank([Net(), Net(2, 3)], d, KEY), "one number for all"),
    "unknown searcher": (lambda d, s: sj.search(s, d, KEY, searcher="x"), "allowed: pruning"),
    "unknown option": (
        lambda d, s: sj.search(s, d, KEY, "params", searcher="random", batch_size=4, steps=1),
        "searcher 'random'.*steps",
    ),
    "accuracies": (lambda d, s: sj.correlate([Net()], [1, 2], d, KEY), "1 finite numbers"),
    "aggregation": (
        lambda d, s: sj.correlate([Net()], [1], d, KEY, aggregations=["x"]),
        "aggregations",
    ),
    "unknown ranking of a search": (
        lambda d, s: sj.search(s, d, KEY, "params", batch_size=4, ranking="x"),
        "ranking='x'; allowed: borda",
    ),
    "a seed below 0": (lambda d, s: sj.train(Net(), d, "tiny", seed=-1), "seed=-1; allowed"),
    "a seed that JAX cuts": (lambda d, s: sj.train(Net(), d, seed=2**32), "from 0 to 4294967295"),
    "no examples": (lambda d, s: sj.train(Net(), d, max_examples=0), "0 examples to train on"),
    "no recipe": (lambda d, s: sj.train(Net(), d, None), "recipe=None; allowed: nas_bench_201"),
    "unknown recipe": (lambda d, s: sj.train(Net(), d, "fast"), "recipe='fast'"),
    "train on a batch": (lambda d, s: sj.train(Net(), data.draw(d, KEY, 4)), "dataset=Batch"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_value_error(name, digits, space):
    call, said = MISTAKES[name]
    with pytest.raises(ValueError, match=said.replace("(", r"\(") if "\\" not in said else said):
        call(digits, space)


def test_functions_stay_functions_whatever_is_imported_after():
    code = (
        "import time; start = time.perf_counter(); import saboc_jax as sj\n"
        "import saboc_jax.training.train, saboc_jax.searching.run, sys\n"
        "from saboc_jax.training.train import make_trainer\n"
        "from saboc_jax.searching.run import run_search\n"
        "assert callable(sj.train) and callable(sj.search), sj.train\n"
        "assert sj.train is sj.api.functions.train and sj.search is sj.api.functions.search\n"
        "slow = {'scipy.stats', 'matplotlib', 'orbax.checkpoint', 'neural_tangents', 'sklearn'}\n"
        "slow |= {'flax.nnx'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_everything_exported_is_documented():
    for name in sj.__all__:
        assert hasattr(sj, name), name
        assert isinstance(getattr(sj, name), Mapping) or getattr(sj, name).__doc__, name
    assert api.__doc__
    assert sj.from_nnx is from_nnx
    with pytest.raises(AttributeError, match="'saboc_jax' has no attribute 'from_numpy'"):
        _ = sj.from_numpy

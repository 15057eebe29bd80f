"""Networks of several frameworks beside each other in the functions of the package."""

import doctest
import os

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.api.inputs import MixedWeightsWarning
from saboc_jax.scorers import SCORERS
from saboc_jax.types import Batch

os.environ.setdefault("KERAS_BACKEND", "jax")
FRAMEWORKS = ("linen", "equinox", "haiku", "keras", "torch")
SCORERS_OF_ANY = ("ntk_score", "params", "synflow", "grad_norm", "naswot", "zen", "fisher")


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3))(images)).mean((1, 2)))


def fresh(framework):
    """A small network of a framework at fresh weights; skips where it is not installed."""
    if framework == "linen":
        return Linen()
    package = pytest.importorskip(framework, reason=f"{framework} is not installed: its extra")
    if framework == "equinox":
        return sj.from_equinox(lambda key: _equinox(package, key))
    if framework == "haiku":

        def net(images):
            x = jax.nn.relu(package.Conv2D(4, 3)(images))
            return package.Linear(3)(x.mean((1, 2)))

        return sj.from_haiku(package.transform(net))
    if framework == "torch":
        pytest.importorskip("torchax", reason="torchax is not installed: the extra `torch`")
        return sj.from_torch(lambda: _torch(package.nn))
    layers = package.layers
    return sj.from_keras(
        lambda: package.Sequential(
            [
                package.Input((6, 6, 3)),
                layers.Conv2D(4, 3, padding="same", activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3),
            ]
        )
    )


def _torch(layers):
    return layers.Sequential(
        layers.Conv2d(3, 4, 3, padding=1),
        layers.ReLU(),
        layers.AdaptiveAvgPool2d(1),
        layers.Flatten(),
        layers.Linear(4, 3),
    )


def _equinox(package, key):
    layers, (first, second) = package.nn, jax.random.split(key)
    return layers.Sequential(
        [
            layers.Conv2d(3, 4, 3, padding=1, key=first),
            layers.Lambda(jax.nn.relu),
            layers.Lambda(lambda x: x.mean((1, 2))),
            layers.Linear(4, 3, key=second),
        ]
    )


def batch():
    keys = jax.random.split(jax.random.key(5), 2)
    train, test = (jax.random.normal(key, (6, 6, 6, 3)) for key in keys)
    labels = jax.numpy.arange(6) % 3
    return Batch(train, labels, test, labels)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_scorers_run_on_a_network_of_any_framework(framework):
    ranked = sj.rank(
        {"net": fresh(framework)}, batch(), jax.random.key(0), SCORERS_OF_ANY, repeats=2
    )
    (found,) = ranked.scores
    assert found.flag is None and np.isfinite(found.values).all()
    assert found.cost.params == 3 * 3 * 3 * 4 + 4 + 4 * 3 + 3
    assert found.cost.depth == 2
    assert found.cost.macs == 3 * 3 * 3 * 4 * 36 + 4 * 3
    assert "kernel_fallback" not in dict(found.warnings)
    trainability = found.values[:, found.metrics.index("ntk_score.S_t")]
    assert trainability[0] != trainability[1]  # fresh weights


@pytest.mark.parametrize("framework", FRAMEWORKS[1:])
def test_a_list_of_several_frameworks_is_ranked_searched_and_correlated(framework):
    nets = {"linen": Linen(), framework: fresh(framework)}
    key, scorer = jax.random.key(0), "synflow"
    ranked = sj.rank(nets, batch(), key, scorer, repeats=1)
    assert set(ranked.names) == set(nets)
    found = sj.search(nets, batch(), key, scorer, searcher="random", max_evaluations=2, repeats=1)
    assert found.score.metrics == ranked.scores[0].metrics
    (row, *_) = sj.correlate(nets, [1.0, 2.0], batch(), key, scorer, repeats=1)
    assert row["score"] == "synflow"


def test_given_and_fresh_weights_are_not_compared_in_silence():
    bound = Linen().bind(Linen().init(jax.random.key(0), batch().images))
    with pytest.warns(MixedWeightsWarning, match="1 of 2 candidates are scored at their own"):
        sj.rank([Linen(), bound], batch(), jax.random.key(0), "params", repeats=1)


def test_a_network_that_was_not_adapted_is_refused_with_the_function_to_call():
    equinox = pytest.importorskip("equinox", reason="equinox is not installed: its extra")
    with pytest.raises(ValueError, match=r"allowed: what saboc_jax\.from_equinox makes of it"):
        sj.score(equinox.nn.Identity(), batch(), jax.random.key(0))


@pytest.mark.parametrize("framework", FRAMEWORKS[1:])
def test_the_example_in_the_docstring_runs(framework):
    pytest.importorskip(framework, reason=f"{framework} is not installed: its extra")
    function = getattr(sj, f"from_{framework}")
    (example,) = doctest.DocTestFinder(recurse=False).find(function, framework, globs={})
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert results.failed == 0 and results.attempted >= 3


def test_every_scorer_of_any_network_is_known():
    assert set(SCORERS_OF_ANY) <= set(SCORERS)

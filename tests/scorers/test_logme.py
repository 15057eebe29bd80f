"""LogME against the density that it maximises, and which features it reads."""

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.scorers import logme

RNG = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


class Net(nn.Module):
    @nn.compact
    def __call__(self, images, train=True):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(images))
        return nn.Dense(3)(nn.relu(x).mean((1, 2)))


def best_density(features, y):
    """The largest log density over both precisions, by a search."""
    identity, product = np.eye(len(y)), features @ features.T

    def negative(logs):
        covariance = identity * np.exp(-logs[1]) + product * np.exp(-logs[0])
        return -scipy.stats.multivariate_normal.logpdf(y, np.zeros(len(y)), covariance)

    starts = [(a, b) for a in (-3, 0, 3) for b in (0, 3)]
    return -min(
        scipy.optimize.minimize(negative, start, method="Nelder-Mead", tol=1e-10).fun
        for start in starts
    )


@pytest.mark.parametrize("width", [3, 20])  # fewer and more features than examples
def test_the_evidence_is_the_largest_density(x64, width):
    features = RNG.normal(size=(8, width))
    targets = np.eye(3)[LABELS]
    found = logme.evidence(features @ features.T, targets)
    expected = [best_density(features, column) / 8 for column in targets.T]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_classes_that_are_not_there_do_not_count_and_no_features_are_no_value(x64):
    features = RNG.normal(size=(8, 3))
    gram = features @ features.T
    three, nine = (logme.logme_value(gram, LABELS, classes) for classes in (3, 9))
    assert three == nine
    assert np.isnan(logme.logme_value(0 * gram, LABELS, 3))
    told = gram + 10 * (LABELS[:, None] == LABELS)
    assert logme.logme_value(told, LABELS, 3) > three


@pytest.mark.parametrize("mode", ["running", "frozen"])
def test_features_are_those_before_pooling_at_the_statistics_that_are_asked_for(x64, mode):
    module, images = Net(), RNG.normal(size=(8, 6, 6, 3))
    variables = module.init(jax.random.key(0), images)
    statistics = {"mean": RNG.normal(size=4), "var": RNG.uniform(1, 2, size=4)}
    variables = {**variables, "batch_stats": {"BatchNorm_0": statistics}}
    conv = variables["params"]["Conv_0"]
    x = np.array(nn.Conv(4, (3, 3)).apply({"params": conv}, images))
    if mode == "frozen":
        statistics = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    pooled = np.maximum(x, 0).mean((1, 2))
    expected = logme.logme_value(pooled @ pooled.T, LABELS, 3)
    batch = sj.Batch(images, LABELS)
    score = sj.score(
        sj.from_module(module, variables), batch, jax.random.key(0), f"logme:batch_norm={mode}"
    )
    np.testing.assert_allclose(next(iter(score.mean().values())), float(expected), rtol=1e-4)

"""Floating-point targets: taken with the square loss that is asked for, and else refused."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.scorers.batches import check_batch
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.types import Batch

KEY = jax.random.key(0)
N = 12
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(3, N, 5)).astype(np.float32)
MEASURED = np.sin(TABLE.sum(-1))  # [3, N]
BATCH = Batch(
    images=TABLE[0],
    labels=MEASURED[0],
    test_images=TABLE[1],
    test_labels=MEASURED[1],
    perturbed_images=TABLE[1] + 0.1,
    more_images=TABLE,
    more_labels=MEASURED,
)
PICTURES = RNG.normal(size=(3, N, 4, 4, 2)).astype(np.float32)
SEEN = BATCH._replace(
    images=PICTURES[0],
    test_images=PICTURES[1],
    perturbed_images=PICTURES[1] + 0.1,
    more_images=PICTURES,
)
SCORERS = (
    *("ntk_score", "consensus", "lga", "knas", "zico", "snip", "grad_norm", "grasp"),
    *("fisher", "logme", "jacob_cov", "synflow"),
)


class Net(nn.Module):
    width: int = 16
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(nn.tanh(nn.Dense(self.width)(x)))


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Conv(16, (3, 3))(x)).mean((1, 2)))


def scored(scorers, batch=BATCH, loss="square", net=None, **options):
    return sj.score(net or Net(), batch, KEY, scorers, repeats=1, loss=loss, **options)


@pytest.fixture(scope="module")
def values():
    """The scores of targets, and of targets that are all the same."""
    same = SEEN._replace(labels=np.ones(N, "f"))
    both = [scored(SCORERS, batch, net=Convolutional()) for batch in (SEEN, same)]
    return [dict(zip(each.metrics, each.values[0], strict=True)) for each in both]


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_of_labels_takes_targets(name, values):
    found, same = (
        [value for metric, value in each.items() if metric.partition(".")[0] == name]
        for each in values
    )
    assert found and np.isfinite(found).all()
    reads = "labels" in sj.make_scorer(name, _space()).needs
    assert np.isnan(same).all() == reads  # what does not differ tells nothing


def _space():
    shapes = jax.ShapeDtypeStruct((5,), np.float32)
    return module_space([Net()], inputs=shapes, loss="square")


def test_values_against_direct_computations():
    assert _space().networks.loss == "square"
    params = Net().init(jax.random.key(1), TABLE[0])["params"]
    given = scored(["grad_norm", "ntk_score", "lga"], net=Net().bind({"params": params})).mean()

    def loss(params):
        f = Net().apply({"params": params}, TABLE[0])
        return (0.5 * (f[:, 0] - MEASURED[0]) ** 2).mean()

    gradient = jax.grad(loss)(params)
    norms = sum(np.linalg.norm(gradient[layer]["kernel"]) for layer in ("Dense_0", "Dense_1"))
    np.testing.assert_allclose(given["grad_norm"], norms, rtol=1e-5)

    def jacobian(inputs):
        rows = jax.jacrev(lambda p: Net().apply({"params": p}, inputs)[:, 0])(params)
        return np.concatenate([np.reshape(rows[name]["kernel"], (N, -1)) for name in rows], 1)

    train, test, near = (jacobian(each) for each in (TABLE[0], TABLE[1], TABLE[1] + 0.1))
    kernel = (train @ train.T).astype(float)
    y, z = (each - each.mean() for each in MEASURED[:2])
    alpha = np.linalg.solve(kernel + 1e-6 * np.trace(kernel) / N * np.eye(N), y)
    f, g = test @ train.T @ alpha, near @ train.T @ alpha
    np.testing.assert_allclose(given["ntk_score.S_g"], np.mean((f - z) ** 2), rtol=1e-2)
    np.testing.assert_allclose(given["ntk_score.S_e"], -np.mean((f - g) ** 2), rtol=1e-2)
    wanted = np.corrcoef(kernel.ravel(), np.outer(y, y).ravel())[0, 1]
    np.testing.assert_allclose(given["lga"], wanted, rtol=1e-4)


def test_several_outputs_are_ranked_and_searched():
    many = BATCH._replace(
        labels=np.stack([MEASURED[0], -MEASURED[0]], 1),
        test_labels=np.stack([MEASURED[1], -MEASURED[1]], 1),
        more_images=None,
        more_labels=None,
    )
    nets = {f"width {width}": Net(width, 2) for width in (2, 16)}
    ranked = sj.rank(nets, many, KEY, "consensus", repeats=1, loss="square")
    assert sorted(ranked.names) == sorted(nets)
    with pytest.raises(ValueError, match=r"\(12, 2\).*\[12, 1\], targets of the square loss"):
        scored(["snip"], many)


@pytest.mark.parametrize(
    ("fields", "loss", "message"),
    [
        ({}, "cross_entropy", "labels .*float32; allowed: 1 axis of whole numbers.*loss='square'"),
        ({}, "hinge", r"loss='hinge'; allowed: \('cross_entropy', 'square'\)"),
        ({"labels": np.arange(N)}, "square", "labels .*int64; allowed: floating-point numbers"),
        ({"labels": MEASURED[0][:5]}, "square", r"labels .*\[12, outputs\]"),
        ({"test_labels": MEASURED[0] * np.nan}, "square", "test_labels .*finite"),
    ],
)
def test_what_is_no_target_is_one_sentence(fields, loss, message):
    with pytest.raises(ValueError, match=message) as caught:
        scored(["snip", "ntk_score"], BATCH._replace(**fields), loss)
    assert "\n" not in str(caught.value)


def test_targets_get_an_axis_of_outputs_where_there_is_one():
    made = check_batch(BATCH, 1, "square")
    assert made.labels.shape == (N, 1) and made.more_labels.shape == (3, N, 1)
    assert check_batch(made, None, None) == made
    with pytest.raises(ValueError, match="more_labels"):
        check_batch(BATCH._replace(labels=None, test_labels=None), 2, "square")

"""The NTK-score end to end: against NumPy on the specialised network, and in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from other_programs import in_double

from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.combine import combine, labels_only, observe, score
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.spaces.masks import architecture_to_mask, mask_to_gates
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201
from saboc_jax.types import Batch

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
N, CLASSES = 5, 3


def make_batch(dtype):
    """Random images; the test images are rows of their own."""
    draw = lambda seed: jax.random.normal(jax.random.key(seed), (N, 8, 8, 3), jnp.float32)  # noqa: E731
    labels = jnp.array([0, 1, 2, 1, 0], jnp.int32)
    test = draw(1)
    images = (draw(0), test, test + 0.05 * draw(2))
    images, test, perturbed = (image.astype(dtype) for image in images)
    return Batch(images, labels, test, labels[::-1], perturbed)


@pytest.fixture(scope="module")
def case():
    """A scorer with batch statistics, whose kernels NumPy can redo, and its program."""
    space = nas_bench_201(2, 1, CLASSES, (8, 8, 3))
    scorer = make_scorer("ntk_score", space)
    run = jax.jit(lambda key, gates, batch: score(scorer, key, gates, batch))
    return space, scorer, run


def by_numpy(space, arch, batch, key, counts):
    """S_t, S_e, S_g from gradients of the specialised network with batch statistics.

    `counts(path)` tells which parameters there are gradients of.
    """
    variables = jax.tree.map(lambda p: p.astype(jnp.float64), draw_weights(space, key))
    module, own = space.specialise(arch), space.extract(variables, arch)["params"]

    @jax.jit
    def jacobian(images):
        def summed(params):
            return module.apply({"params": params}, images, train=True).sum(-1)

        rows = jax.tree_util.tree_leaves_with_path(jax.jacrev(summed)(own))
        weights = [leaf for path, leaf in rows if counts([name.key for name in path])]
        assert 0 < len(weights) < len(rows)
        return jnp.concatenate([leaf.reshape(N, -1) for leaf in weights], 1)

    train, test, perturbed = (
        np.asarray(jacobian(x)) for x in (batch.images, batch.test_images, batch.perturbed_images)
    )
    values = np.linalg.eigvalsh(train @ train.T)[::-1]
    hot = lambda labels: np.eye(CLASSES)[labels] - np.eye(CLASSES)[labels].mean(0)  # noqa: E731
    ridge = train @ train.T + 1e-6 * values.mean() * np.eye(N)
    dual = np.linalg.solve(ridge, hot(np.asarray(batch.labels)))
    f, g = test @ train.T @ dual, perturbed @ train.T @ dual
    p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (f, g))
    error = ((f - hot(np.asarray(batch.test_labels))) ** 2).sum(1).mean()
    return [values[:3].sum() / values.sum(), (p * np.log(q)).sum(1).mean(), error]  # ceil(2.2) = 3


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, lambda path: path[-1] != "bias" and path[0].startswith("cells_")),
        ({"params": "weights"}, lambda path: path[-1] != "bias"),
    ],
)
def test_against_numpy_on_the_specialised_network(options, counts):
    with enable_x64():
        space = nas_bench_201(2, 1, CLASSES, (8, 8, 3))
        scorer = make_scorer("ntk_score", space, batch_norm="batch", engine="jacobian", **options)
        arch, batch, key = space.from_string(CELL), make_batch(jnp.float64), jax.random.key(3)
        (observable,) = scorer.observables.values()
        # The weights are drawn in float32; the network itself runs in float64.
        wide = in_double(space)
        kernels = Kernels(wide, observable.options, observable.rows)
        exact = scorer._replace(observables={"kernels": kernels})
        ours = jax.jit(lambda g, b: score(exact, key, g, b)[0])(space.gates(arch), batch)
        np.testing.assert_allclose(ours, by_numpy(space, arch, batch, key, counts), rtol=1e-6)


def test_single_precision_is_close_to_double(case):
    space, _, run = case
    gates, key = space.gates(space.from_string(CELL)), jax.random.key(3)
    single = run(key, gates, make_batch(jnp.float32))[0]
    assert single.dtype == jnp.float32
    with enable_x64():
        exact = in_double(space)
        double = make_scorer("ntk_score", exact)
        theirs = jax.jit(lambda g, b: score(double, key, g, b)[0])(gates, make_batch(jnp.float64))
        assert theirs.dtype == jnp.float64
    np.testing.assert_allclose(single, theirs, rtol=1e-2)


def test_a_mask_with_one_operation_an_edge_is_the_architecture(case):
    space, _, run = case
    arch, batch, key = space.from_string(CELL), make_batch(jnp.float32), jax.random.key(3)
    mask = mask_to_gates(architecture_to_mask(arch, 5))
    one, two = run(key, space.gates(arch), batch), run(key, mask, batch)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1]["eigenvalues"], two[1]["eigenvalues"])
    supernet = architecture_to_mask(arch, 5) | (np.arange(5) == 3)
    assert (run(key, mask_to_gates(supernet), batch)[0] != one[0]).all()


def test_without_noise_the_expressivity_is_minus_the_entropy(case):
    space, scorer, run = case
    batch, key = make_batch(jnp.float32), jax.random.key(3)
    gates = space.gates(space.from_string(CELL))
    still = batch._replace(perturbed_images=batch.test_images)
    observed = jax.jit(lambda g, b: observe(scorer, key, g, b))(gates, still)
    np.testing.assert_allclose(
        observed["kernels"]["perturbed_images"], observed["kernels"]["test_images"], rtol=1e-5
    )
    scores, notes = scorer.finish(observed, gates, labels_only(still))
    assert -np.log(CLASSES) - 1e-6 <= scores[1] <= 0
    np.testing.assert_allclose(notes["relative_change"], 0, atol=1e-3)
    kl = make_scorer("ntk_score", space, expressivity="kl")
    np.testing.assert_allclose(kl.finish(observed, gates, labels_only(still))[0][1], 0, atol=1e-5)
    noisy = run(key, gates, batch)[0]
    assert noisy[1] != scores[1]
    np.testing.assert_allclose(noisy[::2], scores[::2], rtol=5e-3)


def test_one_kernel_serves_scorers_that_read_less_of_it(case, monkeypatch):
    space, scorer, _ = case
    calls = []
    compute = Kernels.__call__
    monkeypatch.setattr(
        Kernels, "__call__", lambda self, *args: calls.append(self.rows) or compute(self, *args)
    )
    narrow = scorer._replace(
        name="narrow",
        metrics=("first",),
        higher_is_better=(False,),
        observables={"kernels": Kernels(space, NTKOptions(params="cells"))},
        finish=lambda observed, gates, batch: (observed["kernels"]["images"][0, :1], {}),
    )
    both = combine([narrow, scorer])
    gates, batch = space.gates(space.from_string(CELL)), make_batch(jnp.float32)
    scores = jax.eval_shape(lambda g, b: score(both, jax.random.key(3), g, b)[0], gates, batch)
    assert calls == [("test_images", "perturbed_images")]
    other = scorer._replace(
        observables={"kernels": Kernels(space, NTKOptions(params="all"), ("test_images",))}
    )
    calls.clear()
    wanted = combine([narrow, other])
    jax.eval_shape(lambda g, b: observe(wanted, jax.random.key(3), g, b), gates, batch)
    assert len(calls) == 2  # other parameters: another kernel
    assert scores.shape == (4,) and both.metrics[0] == "narrow.first"

"""TE-NAS, TEG-NAS, ETE-NAS, KNAS and LGA against independent computations."""

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from other_programs import with_networks

from saboc_jax.layers.ops import Relu
from saboc_jax.layers.rules import batch_norm_rule
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import bind, from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import combine as combining
from saboc_jax.scorers import ete_nas, knas, lga, make_scorer, observables, te_nas, teg_nas
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201
from saboc_jax.types import Batch

CELL = "|none~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
DISCONNECTED = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"
CLASSES = 4
ALL = ("zen", "naswot", "swap", "az_nas", "te_nas", "teg_nas", "ete_nas", "knas", "lga")


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def kernels(seed, n=6, m=4):
    """A kernel [n, n] of random features, and its rows [m, n]."""
    features = np.random.default_rng(seed).normal(size=(n + m, 20))
    return features[:n] @ features[:n].T, features[n:] @ features[:n].T


@pytest.fixture(scope="module")
def small():
    """A cell with dead branches in float64."""
    with enable_x64():
        space = nas_bench_201(3, 1, CLASSES, (8, 8, 3))
        arch = space.from_string(CELL)
        variables = double(space.init(jax.random.key(3)))
        rng = np.random.default_rng(1)
        images = jnp.asarray(rng.normal(size=(5, 8, 8, 3)))
        labels = jnp.array([0, 1, 3, 3, 1])
        module, own = space.specialise(arch), space.extract(variables, arch)
        return SimpleNamespace(
            space=space,
            arch=arch,
            variables=variables,
            images=images,
            labels=labels,
            own=own,
            module=module,
            gated=bind(space, variables, space.gates(arch)),
            special=from_module(module, own),
            crops=rng.normal(size=(60, 3, 3, 1)),
        )


# --- kappa and linear regions -------------------------------------------------------------------


def test_kappa_of_the_released_code():
    directory = os.environ.get("SABOC_GOLDEN_DIR")
    if not directory:
        pytest.skip("SABOC_GOLDEN_DIR is not set: no golden values to compare with")
    with np.load(Path(directory) / "nas_bench_201_c4n1.npz") as golden, enable_x64():
        nets = json.loads(str(golden["meta"]))["nets"]
        scorer = make_scorer("te_nas", nas_bench_201(4, 1, 10))
        for net, expected in nets.items():
            observed = {
                "kernels": {"images": jnp.asarray(golden[f"{net}/ntk_train"])},
                "regions": jnp.array(7.0),
            }
            scores, _ = scorer.finish(observed, None, None)
            np.testing.assert_allclose(scores, [expected["te_nas_kappa"], 7.0], rtol=1e-9)


@pytest.mark.parametrize("batch_size", [60, 20])
def test_regions_are_distinct_relu_patterns(small, batch_size):
    thin = te_nas.thin_space(small.space)
    with enable_x64():
        variables = double(thin.init(jax.random.key(8)))
        crops = jnp.asarray(small.crops).at[30:].set(small.crops[:30])
        module, own = thin.specialise(small.arch), thin.extract(variables, small.arch)
        codes = []
        for batch in crops.reshape(-1, batch_size, 3, 3, 1):
            seen = module.apply(
                own,
                batch,
                True,
                mutable=["intermediates", "batch_stats"],
                capture_intermediates=lambda module, method: isinstance(module, Relu),
            )[1]["intermediates"]
            relus = [np.asarray(r).reshape(batch_size, -1) > 0 for r in jax.tree.leaves(seen)]
            assert len(relus) == 4  # three convolutions and the last
            codes.append(np.concatenate(relus, 1))
        expected = len(np.unique(np.concatenate(codes), axis=0))
        assert 1 < expected <= 60
        gated = bind(thin, variables, thin.gates(small.arch))
        for network in (gated, from_module(module, own)):
            assert int(te_nas.linear_regions(network, crops, batch_size)) == expected


def test_crops_must_fill_their_batches(small):
    network = bind(te_nas.thin_space(small.space), {}, None)
    with pytest.raises(ValueError, match="60 crops in batches of 50"):
        te_nas.linear_regions(network, small.crops, 50)


def test_a_space_without_thin_cell_is_named(small):
    for name in ("te_nas", "teg_nas"):
        with pytest.raises(ValueError, match="has no thin cell"):
            make_scorer(name, with_networks(small.space, thin_cell=None))


# --- regression ---------------------------------------------------------------------------------


def test_regression_error_is_the_plain_inverse():
    kernel, rows = kernels(0)
    with enable_x64():
        labels, test_labels = jnp.array([0, 1, 2, 0, 1, 3]), jnp.array([0, 0, 2, 3])
        targets = np.eye(4)[labels] - np.eye(4)[labels].mean(0)
        test_targets = np.eye(4)[test_labels] - np.eye(4)[test_labels].mean(0)
        observed = {
            "kernels": {"images": jnp.asarray(kernel)},
            "regions": jnp.array(9.0),
            "cell_kernels": {"images": jnp.asarray(kernel), "test_images": jnp.asarray(rows)},
        }
        batch = Batch(None, labels, None, test_labels)
        scorer = make_scorer("teg_nas", nas_bench_201(4, 1, 4))
        scores, _ = scorer.finish(observed, None, batch)
    prediction = rows @ np.linalg.inv(kernel) @ targets
    error = np.square(prediction - test_targets).sum(1).mean()
    np.testing.assert_allclose(scores, [np.linalg.cond(kernel), 9.0, error], rtol=1e-6)


def test_regression_error_of_a_dead_network_is_nan():
    zeros, targets = jnp.zeros((6, 6)), jnp.ones((6, 2))
    assert np.isnan(teg_nas.regression_error(zeros, zeros, targets, targets))
    assert np.isnan(teg_nas.regression_error(zeros, zeros, targets, targets, jitter=1e-6))


# --- NNGP ---------------------------------------------------------------------------------------


def test_correlation_norm_is_numpys():
    outputs = np.random.default_rng(0).normal(size=(12, 5))
    expected = np.linalg.norm(np.corrcoef(outputs))
    with enable_x64():
        value = ete_nas.correlation_norm(jnp.asarray(outputs))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        alike = ete_nas.correlation_norm(jnp.tile(jnp.asarray(outputs[:1]), (12, 1)))
        np.testing.assert_allclose(alike, 12)
        assert np.sqrt(12) <= value <= 12


def test_best_ridge_error_solves_the_ridge():
    rng = np.random.default_rng(3)
    a, b, y, z = (rng.normal(size=s) for s in ((7, 4), (5, 4), (7, 2), (5, 2)))
    kernel, rows = a @ a.T / 4, b @ a.T / 4
    errors = [
        np.square(rows @ np.linalg.solve(kernel + e * np.trace(kernel) / 7 * np.eye(7), y) - z)
        .sum(1)
        .mean()
        for e in np.logspace(-7, 2, 20)
    ]
    with enable_x64():
        value = ete_nas.best_ridge_error(*map(jnp.asarray, (a, b, y, z)))
    np.testing.assert_allclose(value, min(errors), rtol=1e-6)


def test_pooled_features_feed_the_classifier(small):
    with enable_x64():
        dense = small.own["params"]["head"]["classifier"]
        pooled = ete_nas.pooled_features(small.special, small.images)
        with nn.intercept_methods(batch_norm_rule("batch")):
            outputs = small.module.apply(small.own, small.images)
        np.testing.assert_allclose(pooled @ dense["kernel"] + dense["bias"], outputs, rtol=1e-9)
        gated = ete_nas.pooled_features(small.gated, small.images)
        np.testing.assert_allclose(gated, pooled, rtol=1e-9)


# --- KNAS, LGA ----------------------------------------------------------------------------------


def test_mean_gram_is_the_mean_of_the_gram_matrix(small):
    with enable_x64():

        def losses(params):
            with nn.intercept_methods(batch_norm_rule("batch")):
                logits = small.module.apply({"params": params}, small.images)
            return -jax.nn.log_softmax(logits)[jnp.arange(5), small.labels]

        row = jax.jit(jax.grad(lambda params, i: losses(params)[i]))
        rows = [jax.tree.leaves(row(small.own["params"], i)) for i in range(5)]
        flat = np.array([np.concatenate([leaf.ravel() for leaf in row]) for row in rows])
        expected = (flat @ flat.T).mean()
        for network in (small.special, small.gated):
            value = jax.jit(partial(knas.mean_gram, network))(small.images, small.labels)
            np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.parametrize("variant", ["ntk_fro", "ntk_mean"])
def test_knas_of_a_kernel(small, variant):
    kernel, _ = kernels(2)
    scorer = make_scorer("knas", small.space, variant=variant)
    scores, _ = scorer.finish({"quantity": {"images": jnp.asarray(kernel)}}, None, None)
    expected = np.sqrt((kernel**2).sum()) if variant == "ntk_fro" else kernel.mean()
    np.testing.assert_allclose(scores, [expected], rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_a_correlation(seed):
    kernel, _ = kernels(seed)
    labels = np.random.default_rng(seed).permutation([0, 0, 1, 2, 2, 2])
    same = np.where(labels[:, None] == labels, 1.0, -1.0)
    with enable_x64():
        value = float(lga.alignment(jnp.asarray(kernel), jnp.asarray(labels)))
        scaled = float(lga.alignment(1e30 * jnp.asarray(kernel), jnp.asarray(labels)))
    np.testing.assert_allclose(value, np.corrcoef(kernel.ravel(), same.ravel())[0, 1], rtol=1e-9)
    np.testing.assert_allclose(scaled, value, rtol=1e-9)
    assert -1 <= value <= 1


def test_alignment_reaches_its_bounds():
    labels = jnp.array([0, 0, 1, 2])
    same = jnp.where(labels[:, None] == labels, 1.0, -1.0)
    np.testing.assert_allclose(lga.alignment(3 * same + 2, labels), 1, rtol=1e-6)
    np.testing.assert_allclose(lga.alignment(-same, labels), -1, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("knas", {"variant": "mean"}, "'mean'"),
        ("ete_nas", {"variant": "frob"}, "'frob'"),
        ("teg_nas", {"jitter": -1.0}, "jitter=-1.0"),
        ("te_nas", {"engine": "fast"}, "'fast'"),
        ("lga", {"batch_norm": "eval"}, "'eval'"),
    ],
)
def test_wrong_options_are_named(small, name, options, message):
    with pytest.raises(ValueError, match=message):
        make_scorer(name, small.space, **options)


# --- all of them together -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(4)
    shape, labels = (8, 16, 16, 3), jnp.arange(8) % CLASSES
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return Batch(
        draw(*shape),
        labels,
        draw(*shape),
        labels,
        None,
        draw(1, *shape),
        labels[None],
        draw(40, 3, 3, 1),
    )


@pytest.fixture(scope="module")
def together():
    """One program with all scorers: (space, names, run)."""
    space = nas_bench_201(4, 1, CLASSES, (16, 16, 3))
    scorer = combining.combine([make_scorer(name, space) for name in ALL])
    return space, scorer, jax.jit(partial(combining.score, scorer))


def test_all_are_finite_in_float32(together, batch):
    space, scorer, run = together
    gates = space.gates(space.from_string(CELL))
    scores, _ = run(jax.random.key(7), gates, batch)
    values = dict(zip(scorer.metrics, np.asarray(scores), strict=True))
    assert scores.dtype == jnp.float32 and np.isfinite(scores).all(), values
    assert len(values) == 1 + 1 + 1 + 4 + 2 + 3 + 1 + 1 + 1
    assert values["te_nas.kappa"] == values["teg_nas.kappa"] >= 1
    assert 1 <= values["te_nas.regions"] <= 40
    assert values["swap"] <= 2**8
    assert -1 <= values["lga"] <= 1
    assert values["az_nas.complexity"] == space.cost(space.from_string(CELL)).macs


def test_the_program_gives_the_kernels_of_another_engine(together, batch):
    space, scorer, run = together
    gates, key = space.gates(space.from_string(CELL)), jax.random.key(7)
    values = dict(zip(scorer.metrics, run(key, gates, batch)[0], strict=True))
    network = bind(space, observables.draw_weights(space, key), gates)
    own = jax.jit(lambda x: empirical_ntks(network, x, (), NTKOptions("jacobian"))[0])(batch.images)
    np.testing.assert_allclose(values["te_nas.kappa"], np.linalg.cond(own), rtol=1e-2)
    np.testing.assert_allclose(values["knas"], np.linalg.norm(own), rtol=1e-4)
    np.testing.assert_allclose(values["lga"], lga.alignment(own, batch.labels), rtol=1e-3)


def test_a_disconnected_cell_is_never_good(together, batch):
    space, scorer, run = together
    gates = space.gates(space.from_string(DISCONNECTED))
    scores, _ = run(jax.random.key(7), gates, batch)
    values = dict(zip(scorer.metrics, np.asarray(scores), strict=True))
    for name in (
        "te_nas.kappa",
        "teg_nas.mse",
        "lga",
        "ete_nas.nngp_frob",
        "zen",
        "az_nas.expressivity",
        "az_nas.progressivity",
    ):
        assert not np.isfinite(values[name]), name
    assert values["knas"] == 0
    connected = run(jax.random.key(7), space.gates(space.from_string(CELL)), batch)[0]
    connected = dict(zip(scorer.metrics, np.asarray(connected), strict=True))
    # These also look at operations that lead nowhere, as the released codes do.
    for name in ("naswot", "az_nas.trainability", "te_nas.regions"):
        assert values[name] < connected[name], name


def test_a_wider_kernel_serves_a_narrower_one(small, batch, monkeypatch):
    seen = []

    def look(self, key, gates, batch):
        seen.append(self)
        return {name: len(seen) for name in ("images", *self.rows)}

    monkeypatch.setattr(Kernels, "__call__", look)
    options = NTKOptions()
    narrow = Kernels(small.space, options)
    wide = Kernels(small.space, options, ("test_images", "perturbed_images"))
    other = Kernels(small.space, options._replace(params="cells"))
    scorer = SimpleNamespace(observables={"a": narrow, "b": wide, "c": other, "d": narrow})
    observed = combining.observe(scorer, jax.random.key(0), None, batch)
    assert seen == [wide, other]
    assert observed["a"] is observed["b"] is observed["d"]
    assert observed["c"] == {"images": 2}
